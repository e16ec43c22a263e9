package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/uuid"

	"rackgateway/pkg/ledger"
	"rackgateway/pkg/testenv/s3server"
)

// theServer is the one S3 server of this test binary: each test has a bucket of its own.
var theServer = sync.OnceValues(func() (*s3server.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	binary, err := s3server.Build(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rgw-s3-")
	if err != nil {
		return nil, err
	}
	return s3server.Start(ctx, binary, dir, 0, "", "")
})

// usedServer tells whether the server was started.
var usedServer atomic.Bool

// bucket is a real bucket with Object Lock.
type bucket struct {
	*ledger.Bucket

	client *s3.Client
	name   string
}

func newBucket(t testing.TB) *bucket {
	t.Helper()
	usedServer.Store(true)
	server, err := theServer()
	if err != nil {
		t.Fatal(err)
	}
	name := "audit-" + uuid.NewString()
	if err := server.EnsureBucket(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	client := server.Client()
	return &bucket{ledger.NewBucket(client, ledger.BucketConfig{Bucket: name, Chain: origin, Mode: "COMPLIANCE"}), client, name}
}

// anchor copies the world's ledger to storage.
func (w *world) anchor(storage ledger.Storage) *ledger.Anchor {
	return ledger.NewAnchor(ledger.AnchorConfig{
		DB: w.admin, Storage: storage, Chain: "bucket/" + origin, Key: w.key, Interval: time.Hour, Retention: 24 * time.Hour,
		Alerted: func(alert *ledger.Alert) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.alerts = append(w.alerts, alert)
		},
	})
}

// trouble is why the last copy failed; empty when it did not.
func (w *world) trouble() string {
	w.t.Helper()
	cursor, err := ledger.CursorOf(w.t.Context(), w.admin, ledger.AnchorCursor)
	if err != nil {
		w.t.Fatal(err)
	}
	if cursor == nil {
		return "nothing was tried"
	}
	return cursor.Trouble
}

func (w *world) verifySource(source ledger.Source, withDatabase bool) *ledger.Report {
	w.t.Helper()
	opts := ledger.SourceOptions{VerifyOptions: ledger.VerifyOptions{Keys: w.keys()}}
	if withDatabase {
		opts.DB = w.admin
	}
	report, err := ledger.VerifySource(w.t.Context(), source, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

func TestTheBucketHoldsALogThatVerifiesByItself(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	w.sequence()
	a := w.anchor(b)
	for _, n := range []int{300, 20, 500} {
		w.write(n)
		w.settled()
		a.Attempt(t.Context(), true)
		if trouble := w.trouble(); trouble != "" {
			t.Fatal(trouble)
		}
		w.settled()
		for _, db := range []bool{false, true} {
			if report := w.verifySource(b, db); !report.Sound() || report.Events == 0 {
				t.Fatalf("%s", report)
			}
		}
	}
	// A second copy finds everything there, and changes nothing.
	before := w.objects(b)
	fresh := w.anchor(b)
	w.super.MustExec(`delete from rgw.ledger_anchors`)
	fresh.Attempt(t.Context(), true)
	if trouble := w.trouble(); trouble != "" {
		t.Fatal(trouble)
	}
	if after := w.objects(b); after < before {
		t.Errorf("from %d objects to %d", before, after)
	}
	if report := w.verifySource(b, true); !report.Sound() {
		t.Fatalf("%s", report)
	}
	newest, err := a.Newest(t.Context())
	if err != nil || newest == nil || newest.N < 800 {
		t.Errorf("the newest is %v, %v", newest, err)
	}
	if n, err := a.Lengthen(t.Context()); err != nil || n == 0 {
		t.Errorf("%d objects are kept for longer, %v", n, err)
	}
	if alerts := w.alerted(""); len(alerts) > 0 {
		t.Error(alerts[0].Message)
	}
}

func (w *world) objects(s ledger.Source) (n int) {
	w.t.Helper()
	if err := s.List(w.t.Context(), "", func(ledger.Object) error { n++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestTheServerRefusesWhatObjectLockRefuses(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	w.sequence()
	w.write(10)
	w.settled()
	w.anchor(b).Attempt(t.Context(), true)
	key := aws.String(origin + "/tile/entries/000.p/" + partial(t, b))
	head, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if head.ObjectLockMode != types.ObjectLockModeCompliance || time.Until(*head.ObjectLockRetainUntilDate) < 23*time.Hour {
		t.Errorf("%v until %v", head.ObjectLockMode, head.ObjectLockRetainUntilDate)
	}
	if _, err := b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: key, VersionId: head.VersionId}); err == nil {
		t.Error("a version was deleted")
	}
	if _, err := b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: key, VersionId: head.VersionId, BypassGovernanceRetention: aws.Bool(true)}); err == nil {
		t.Error("a version was deleted, around its retention")
	}
	earlier := time.Now().Add(time.Hour)
	if _, err := b.client.PutObjectRetention(t.Context(), &s3.PutObjectRetentionInput{Bucket: &b.name, Key: key, VersionId: head.VersionId,
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeCompliance, RetainUntilDate: &earlier}}); err == nil {
		t.Error("the retention was shortened")
	}
	if err := b.Put(t.Context(), strings.TrimPrefix(*key, origin+"/"), []byte("x"), time.Now().Add(time.Hour), true); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("it was overwritten: %v", err)
	}
}

// partial is the width of the one partial bundle.
func partial(t testing.TB, b *bucket) (width string) {
	t.Helper()
	if err := b.List(t.Context(), "tile/entries/", func(o ledger.Object) error { _, width, _ = strings.Cut(o.Key, ".p/"); return nil }); err != nil {
		t.Fatal(err)
	}
	return width
}

// An admin that ends in the middle of the very first copy leaves a checkpoint and no newest one. That is no alarm as long
// as the database has never seen a copy whole, and one for everybody else.
func TestAFirstCopyThatWasCutIsNoAlarm(t *testing.T) {
	w, b, cut := newWorld(t), newBucket(t), newBucket(t)
	w.sequence()
	w.write(20)
	w.settled()
	w.anchor(b).Attempt(t.Context(), true)
	if trouble := w.trouble(); trouble != "" {
		t.Fatal(trouble)
	}
	moved := 0
	if err := b.List(t.Context(), "checkpoints/", func(o ledger.Object) error {
		text, err := b.Get(t.Context(), o.Key, o.Version)
		if err != nil {
			return err
		}
		moved++
		_, err = cut.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &cut.name, Key: aws.String(origin + "/" + o.Key), Body: bytes.NewReader(text)})
		return err
	}); err != nil || moved == 0 {
		t.Fatal(moved, err)
	}
	for _, db := range []bool{false, true} {
		if report := w.verifySource(cut, db); report.Sound() {
			t.Errorf("a copy that was whole is there no more, which is not found (with the database: %t)", db)
		}
	}
	w.super.MustExec(`delete from rgw.ledger_anchors`)
	if report := w.verifySource(cut, true); !report.Sound() {
		t.Errorf("a first copy that was cut raises an alarm: %s", report)
	}
	if report := w.verifySource(cut, false); report.Sound() {
		t.Error("by storage alone, a log without its newest checkpoint is taken for sound")
	}
}

func TestWhatIsDoneToTheBucketIsNamed(t *testing.T) {
	w := newWorld(t)
	w.sequence()
	w.write(600)
	w.settled()
	put := func(b *bucket, key string, data []byte) {
		if _, err := b.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String(origin + "/" + key), Body: bytes.NewReader(data)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		do   func(b *bucket)
		kind string
		leaf int64
	}{
		"events overwritten":        {func(b *bucket) { put(b, "tile/entries/001", []byte("x")) }, ledger.KindObject, 256},
		"a tile overwritten":        {func(b *bucket) { put(b, "tile/0/000", bytes.Repeat([]byte("x"), 8192)) }, ledger.KindObject, 0},
		"a forged checkpoint":       {func(b *bucket) { put(b, "checkpoint", []byte(forgedCheckpoint(t))) }, ledger.KindKey, -1},
		"nonsense for a checkpoint": {func(b *bucket) { put(b, "checkpoint", []byte("x")) }, ledger.KindCheckpoint, -1},
		"a delete marker": {func(b *bucket) {
			if _, err := b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: aws.String(origin + "/tile/0/001")}); err != nil {
				t.Fatal(err)
			}
		}, ledger.KindObject, 256},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t)
			a := ledger.NewAnchor(ledger.AnchorConfig{DB: w.admin, Storage: b, Chain: "b/" + uuid.NewString(), Key: w.key, Interval: time.Hour, Retention: 24 * time.Hour})
			a.Attempt(t.Context(), true)
			if trouble := w.trouble(); trouble != "" {
				t.Fatal(trouble)
			}
			c.do(b)
			report := w.verifySource(b, false)
			wantFinding(t, report, c.kind, c.leaf)
		})
	}
}

func wantFinding(t *testing.T, report *ledger.Report, kind string, leaf int64) {
	t.Helper()
	for _, f := range report.Findings {
		if f.Kind == kind {
			if f.Leaf != leaf {
				t.Errorf("%s at leaf %d, want %d: %s", kind, f.Leaf, leaf, f.Message)
			}
			return
		}
	}
	t.Errorf("no finding of kind %s:\n%s", kind, report)
}

func forgedCheckpoint(t testing.TB) string {
	t.Helper()
	w := newWorld(t)
	w.sequence()
	w.insert(3)
	w.settled()
	c, _, err := ledger.Head(t.Context(), w.admin, w.keys())
	if err != nil {
		t.Fatal(err)
	}
	return c.Note
}

// A copy in a folder can be changed at will: there are no versions to tell by.
func TestWhatIsDoneToACopyIsNamed(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	w.sequence()
	w.write(600)
	w.settled()
	w.anchor(b).Attempt(t.Context(), true)
	edit := func(key string, f func([]byte) []byte) func(dir string) {
		return func(dir string) {
			name := filepath.Join(dir, filepath.FromSlash(key))
			data, err := os.ReadFile(name) // #nosec G304 -- the test's own
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, f(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		do   func(dir string)
		kind string
		leaf int64
	}{
		"nothing": {func(string) {}, "", 0},
		"an event edited": {edit("tile/entries/001", func(data []byte) []byte {
			return bytes.Replace(data, []byte("ana@acme.com"), []byte("eve@acme.com"), 1)
		}), ledger.KindEdited, 256},
		"an event and its hash edited": {func(dir string) {
			edit("tile/entries/001", func(data []byte) []byte {
				return bytes.Replace(data, []byte("ana@acme.com"), []byte("eve@acme.com"), 1)
			})(dir)
			edit("tile/0/001", func(data []byte) []byte { data[0] ^= 1; return data })(dir)
		}, ledger.KindEdited, 256},
		"a tile edited":         {edit("tile/0/000", func(data []byte) []byte { data[32*7] ^= 1; return data }), ledger.KindEdited, 7},
		"a higher tile edited":  {edit("tile/1/000.p/2", func(data []byte) []byte { data[0] ^= 1; return data }), ledger.KindTree, 0},
		"a tile cut":            {edit("tile/0/000", func(data []byte) []byte { return data[:100] }), ledger.KindTree, 0},
		"a bundle cut":          {edit("tile/entries/000", func(data []byte) []byte { return data[:1000] }), ledger.KindEdited, 0},
		"the checkpoint edited": {edit("checkpoint", func(data []byte) []byte { return bytes.Replace(data, []byte("\n6"), []byte("\n7"), 1) }), ledger.KindSignature, -1},
		"a tile deleted": {func(dir string) {
			if err := os.Remove(filepath.Join(dir, "tile/0/001")); err != nil {
				t.Fatal(err)
			}
		}, ledger.KindObject, 256},
		"events deleted": {func(dir string) {
			if err := os.Remove(filepath.Join(dir, "tile/entries/001")); err != nil {
				t.Fatal(err)
			}
		}, ledger.KindObject, 256},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ledger.Directory(t.TempDir())
			if _, err := ledger.Copy(t.Context(), b, dir); err != nil {
				t.Fatal(err)
			}
			c.do(string(dir))
			report := w.verifySource(dir, false)
			if c.kind == "" {
				if !report.Sound() {
					t.Errorf("%s", report)
				}
				return
			}
			wantFinding(t, report, c.kind, c.leaf)
		})
	}
}

// unreliable is storage that fails as a test wants it.
type unreliable struct {
	ledger.Storage

	puts atomic.Int64
	fail func(n int64, key string) (before, after error) // before: nothing is stored; after: it is, and nobody is told
}

func (u *unreliable) Put(ctx context.Context, key string, data []byte, until time.Time, once bool) error {
	before, after := u.fail(u.puts.Add(1), key)
	if before != nil {
		return before
	}
	if err := u.Storage.Put(ctx, key, data, until, once); err != nil {
		return err
	}
	return after
}

// Each put fails, or succeeds without an answer, in turn: the next copy goes on, and nothing is there twice.
func TestTheFailureTableOfTheAnchor(t *testing.T) {
	for _, way := range []string{"fails", "is not answered", "stores nothing"} {
		t.Run(way, func(t *testing.T) {
			w, b := newWorld(t), newBucket(t)
			w.sequence()
			w.write(300)
			w.settled()
			failAt := int64(1)
			u := &unreliable{Storage: b}
			u.fail = func(n int64, _ string) (before, after error) {
				if n != failAt {
					return nil, nil
				}
				if way == "is not answered" {
					return nil, errInjected
				}
				return errInjected, nil
			}
			var storage ledger.Storage = u
			if way == "stores nothing" {
				storage = &liar{unreliable: u}
			}
			a := w.anchor(storage)
			for ; failAt < 12; failAt++ {
				u.puts.Store(0)
				a.Attempt(t.Context(), true)
				if w.trouble() == "" {
					break // it had fewer puts than that
				}
			}
			if failAt == 1 {
				t.Error("nothing failed")
			}
			if report := w.verifySource(b, true); !report.Sound() {
				t.Fatalf("%s", report)
			}
		})
	}
}

// liar answers that it has stored what it has not.
type liar struct{ *unreliable }

func (l *liar) Put(ctx context.Context, key string, data []byte, until time.Time, once bool) error {
	if err := l.unreliable.Put(ctx, key, data, until, once); !errors.Is(err, errInjected) {
		return err
	}
	return nil
}

func TestWhatWasEditedInTheDatabaseIsNotCopied(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	w.sequence()
	w.write(300)
	w.settled()
	w.super.MustExec(`update rgw.audit_events set actor_label = 'eve@acme.com' where event_id = (select event_id from rgw.ledger_leaves where leaf_index = 17)`)
	w.anchor(b).Attempt(t.Context(), true)
	if trouble := w.trouble(); !strings.Contains(trouble, "leaf 17") {
		t.Error(trouble)
	}
	if len(w.alerted(ledger.AlertStored)) != 1 {
		t.Error("there is no alert about it")
	}
}
