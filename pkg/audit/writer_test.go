package audit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func testKey(t testing.TB) audit.Key {
	t.Helper()
	key, err := audit.NewKey([]byte("a key that only the tests have, of 32 bytes and more"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// run runs a writer until it is closed, or the test ends.
func run(t testing.TB, db *sqlx.DB, opts audit.WriterOptions) *audit.Writer {
	t.Helper()
	opts.Key = testKey(t)
	w := audit.NewWriter(db, opts)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return w
}

func closeWriter(t testing.TB, w *audit.Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// event returns a simple event of an action.
func event(action string) *audit.Event {
	e := audit.NewEvent(time.Now())
	e.Action = action
	return e
}

// all returns every event of a writer, in its order, and fails the test unless they are numbered without
// gaps and each has a good MAC.
func all(t testing.TB, db *sqlx.DB, writer uuid.UUID) []*audit.Event {
	t.Helper()
	var events []*audit.Event
	f := audit.Filter{Limit: 1000}
	for {
		page, next, err := audit.List(context.Background(), db, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if e.WriterID == writer {
				events = append(events, e)
			}
		}
		if next == "" {
			break
		}
		f.Before = next
	}
	slices.SortFunc(events, func(a, b *audit.Event) int { return int(a.WriterSeq - b.WriterSeq) })
	for i, e := range events {
		if e.WriterSeq != int64(i+1) {
			t.Fatalf("event %d of the writer has number %d", i+1, e.WriterSeq)
		}
		if !testKey(t).Verify(e) {
			t.Errorf("event %d has a MAC that does not fit", e.WriterSeq)
		}
	}
	return events
}

func actions(events []*audit.Event) (s []string) {
	for _, e := range events {
		s = append(s, e.Action)
	}
	return s
}

// bare returns a copy that has nothing but the exported fields.
func bare(e *audit.Event) *audit.Event {
	var out audit.Event
	from, to := reflect.ValueOf(e).Elem(), reflect.ValueOf(&out).Elem()
	for i := range from.NumField() {
		if from.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return &out
}

func TestWhatIsStoredIsWhatWasRecorded(t *testing.T) {
	db := postgrestest.New(t)
	var hardened atomic.Int64
	w := run(t, db.Proxy(t), audit.WriterOptions{MaxBatch: 64, Observer: audit.Observer{Hardened: func(string) { hardened.Add(1) }}})
	admin, key := db.Admin(t), testKey(t)
	r := rand.New(rand.NewPCG(3, 4))
	var recorded []*audit.Event
	var tickets []*audit.Ticket
	for i := range 800 {
		e := hostile(r)
		recorded = append(recorded, e)
		if i%4 == 0 { // both ways into the table
			err := postgres.InTx(t.Context(), admin, func(tx *sqlx.Tx) error { return audit.InsertTx(t.Context(), tx, key, e) })
			if err != nil {
				t.Fatal(err)
			}
			e.Detail.Closes = true // as the last of its transaction
			continue
		}
		ticket, err := w.Enqueue(e)
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	for _, ticket := range tickets {
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range recorded {
		at := min(max(e.OccurredAt.UTC().Year(), 1), 9999)
		if at != e.OccurredAt.UTC().Year() {
			continue // its time was out of bounds, and with it the key that it would be found by
		}
		stored, err := audit.Load(t.Context(), admin, e.OccurredAt, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		e.WriterID, e.WriterSeq = stored.WriterID, stored.WriterSeq
		want := string(e.AppendCanonical(nil))
		if got := string(stored.AppendCanonical(nil)); got != want {
			t.Fatalf("stored otherwise: %s", cmp.Diff(want, got))
		}
		if got := string(bare(stored).AppendCanonical(nil)); got != want {
			t.Fatalf("read otherwise: %s", cmp.Diff(want, got))
		}
		if !key.Verify(stored) {
			t.Fatal("its MAC does not fit")
		}
		if stored.XID == 0 || stored.Epoch != 1 {
			t.Fatalf("transaction %d, epoch %d", stored.XID, stored.Epoch)
		}
	}
	if n := hardened.Load(); n != 0 {
		t.Errorf("the database refused %d events as they were", n)
	}
}

func FuzzStore(f *testing.F) {
	db := postgrestest.New(f)
	w := run(f, db.Proxy(f), audit.WriterOptions{Observer: audit.Observer{Hardened: func(code string) { panic("refused with " + code) }}})
	admin := db.Admin(f)
	f.Add("ana@acme.com", "web", `ls "x"`, int32(200), int64(0))
	f.Add("\x00", "\xff\xfe", "\x01\u2028", int32(-1), int64(-1))
	f.Fuzz(func(t *testing.T, label, app, value string, status int32, count int64) {
		e := audit.NewEvent(time.Now())
		e.ActorLabel, e.App, e.Resource, e.Status = label, app, value, status
		e.Detail = audit.Detail{Path: value, Count: count, Error: label, Params: audit.Params{{Name: app, Value: value}, {Name: label, Value: app}}}
		if err := w.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		stored, err := audit.Load(t.Context(), admin, e.OccurredAt, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		e.WriterID, e.WriterSeq = stored.WriterID, stored.WriterSeq
		if want, got := string(e.AppendCanonical(nil)), string(stored.AppendCanonical(nil)); got != want {
			t.Errorf("stored otherwise: %s", cmp.Diff(want, got))
		}
	})
}

// Whoever owns the database can edit a row, and cannot make its MAC.
func TestAnEditShowsWhateverItEdits(t *testing.T) {
	db := postgrestest.New(t)
	owner, admin := db.Owner(t), db.Admin(t)
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	for _, edit := range []string{
		`occurred_at = occurred_at + interval '1 microsecond'`, `event_id = gen_random_uuid()`, `request_id = gen_random_uuid()`,
		`writer_id = gen_random_uuid()`, `writer_seq = writer_seq + 100`, `mac = sha256('x')`, `mac_key = 'ffffffff'`,
		`kind = 'poll'`, `phase = 'refused'`, `decision = 'deny'`, `actor_kind = 'api_token'`, `actor_id = 'other'`,
		`actor_label = 'bob@acme.com'`, `action = 'process.list '`, `app = 'Web'`, `resource = ''`, `status = 403`,
		`address = '10.20.30.41'`, `address = null`, `detail = '{}'`, `detail = (detail::text || ' ')::json`,
		`detail = replace(detail::text, 'laptop', 'desktop')::json`,
	} {
		e := typicalEvent()
		if err := w.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		stored, err := audit.Load(t.Context(), admin, e.OccurredAt, e.ID)
		if err != nil || !testKey(t).Verify(stored) {
			t.Fatalf("before the edit: %v", err)
		}
		if n, err := owner.MustExec(`update rgw.audit_events set `+edit+` where event_id = $1`, e.ID).RowsAffected(); err != nil || n != 1 {
			t.Fatalf("%s: %d rows, %v", edit, n, err)
		}
		events, _, err := audit.List(t.Context(), admin, audit.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if len(events) != 1 {
			t.Fatalf("%d events", len(events))
		}
		if testKey(t).Verify(events[0]) {
			t.Errorf("set %s does not show", edit)
		}
		owner.MustExec(`delete from rgw.audit_events`)
	}
}

func TestManyAtOnceAreNumberedWithoutGaps(t *testing.T) {
	db := postgrestest.New(t)
	var batches atomic.Int64
	w := run(t, db.Proxy(t), audit.WriterOptions{MaxBatch: 32, Observer: audit.Observer{Committed: func(int, int, time.Duration) { batches.Add(1) }}})
	const people, each = 64, 25
	var group sync.WaitGroup
	for range people {
		group.Go(func() {
			for range each {
				e := typicalEvent()
				if err := w.Record(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	closeWriter(t, w)
	events := all(t, db.Admin(t), w.ID())
	if len(events) != people*each+1 {
		t.Errorf("%d events, want %d and the closing one", len(events), people*each)
	}
	last := events[len(events)-1]
	if last.Action != "audit.close" || !last.Detail.Closes || last.Kind != audit.KindSystem {
		t.Errorf("the last event is %s", last.AppendCanonical(nil))
	}
	if n := batches.Load(); n > people*each/2 {
		t.Errorf("%d batches for %d events: they are not grouped", n, people*each)
	}
	if err := w.Record(t.Context(), typicalEvent()); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("after it was closed: %v", err)
	}
	if s := w.State(); s.OK || s.Queued != 0 || s.Bytes != 0 || s.Written != people*each+1 {
		t.Errorf("its state is %+v", s)
	}
}

func TestAWriterThatNeverWroteLeavesNothing(t *testing.T) {
	db := postgrestest.New(t)
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	closeWriter(t, w)
	if events := all(t, db.Admin(t), w.ID()); len(events) != 0 {
		t.Errorf("it left %q", actions(events))
	}
}

// The usual way to make the second event of a request is to copy the first.
func TestACopyOfARecordedEventIsAnotherEvent(t *testing.T) {
	db := postgrestest.New(t)
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	started := typicalEvent()
	started.Phase = audit.PhaseStarted
	before := *started
	before.Phase = audit.PhaseCut
	if err := w.Record(t.Context(), started); err != nil {
		t.Fatal(err)
	}
	after := *started
	after.Phase = audit.PhaseFinished
	for _, e := range []*audit.Event{&before, &after, started} {
		if err := w.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	events := all(t, db.Admin(t), w.ID())
	if len(events) != 4 {
		t.Errorf("%d of 4 events are there", len(events))
	}
	for _, e := range events {
		if e.RequestID != started.RequestID {
			t.Error("they are not of one request any more")
		}
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	const bound = 64 << 10
	w := run(t, db.Proxy(t), audit.WriterOptions{MaxQueueBytes: bound})
	if err := w.Record(t.Context(), typicalEvent()); err != nil {
		t.Fatal(err)
	}
	if s := w.State(); !s.OK || s.Bytes != 0 {
		t.Errorf("before: %+v", s)
	}
	if err := db.Cluster.Pause(); err != nil {
		t.Fatal(err)
	}
	var tickets []*audit.Ticket
	var err error
	for range 1000 {
		var ticket *audit.Ticket
		if ticket, err = w.Enqueue(typicalEvent()); err != nil {
			break
		}
		tickets = append(tickets, ticket)
	}
	if !errors.Is(err, audit.ErrQueueFull) || len(tickets) < 10 {
		t.Fatalf("after %d events: %v", len(tickets), err)
	}
	if s := w.State(); s.Bytes > bound || s.Queued == 0 {
		t.Errorf("full: %+v", s)
	}
	if err := db.Cluster.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, ticket := range tickets {
		if err := ticket.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := w.Record(t.Context(), typicalEvent()); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	closeWriter(t, w)
	events := all(t, db.Admin(t), w.ID())
	if len(events) != len(tickets)+3 {
		t.Errorf("%d events, want %d", len(events), len(tickets)+3)
	}
	if last := events[len(events)-1]; last.Detail.Count != 1 {
		t.Errorf("that one event was not recorded is not said: %s", last.AppendCanonical(nil))
	}
}

// A server that hangs holds nobody longer than the context allows, and what was queued is not lost, also
// when the connection is given up meanwhile.
func TestAHangingServer(t *testing.T) {
	for _, maxWait := range []time.Duration{time.Minute, 300 * time.Millisecond} {
		t.Run("attempts of "+maxWait.String(), func(t *testing.T) {
			db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
			var retries atomic.Int64
			w := run(t, db.Proxy(t), audit.WriterOptions{MaxWait: maxWait, Observer: audit.Observer{Retried: func(error) { retries.Add(1) }}})
			if err := w.Record(t.Context(), event("before")); err != nil {
				t.Fatal(err)
			}
			if err := db.Cluster.Pause(); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					defer cancel()
					if err := w.Record(ctx, event("meanwhile")); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v", err)
					}
				})
			}
			group.Wait()
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("they were held for %s", took)
			}
			if maxWait < time.Second {
				eventually(t, "an attempt is given up", func() bool { return retries.Load() > 0 })
				if s := w.State(); s.OK || s.Err == nil {
					t.Errorf("its state is %+v", s)
				}
			}
			if err := db.Cluster.Resume(); err != nil {
				t.Fatal(err)
			}
			if err := w.Record(t.Context(), event("after")); err != nil {
				t.Fatal(err)
			}
			if s := w.State(); !s.OK {
				t.Errorf("its state is %+v", s)
			}
			events := all(t, db.Admin(t), w.ID())
			if got := len(events); got != 22 || events[0].Action != "before" || events[21].Action != "after" {
				t.Errorf("recorded %q", actions(events))
			}
		})
	}
}

// Killed at random moments, commits in the middle included, the server loses nothing that was said to be
// durable, and nothing is there twice.
func TestAServerThatIsKilledAgainAndAgain(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{})
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	var acknowledged sync.Map
	var count atomic.Int64
	stop := make(chan struct{})
	var people sync.WaitGroup
	for range 16 {
		people.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e := typicalEvent()
				if err := w.Record(t.Context(), e); err != nil {
					t.Error(err)
					return
				}
				acknowledged.Store(e.ID, true)
				count.Add(1)
			}
		})
	}
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 8 {
		enough := count.Load() + r.Int64N(400)
		eventually(t, "events are acknowledged", func() bool { return count.Load() > enough })
		end := db.Cluster.Kill
		if round%4 == 3 {
			end = db.Cluster.Stop
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := db.Cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	people.Wait()
	closeWriter(t, w)
	events := all(t, db.Admin(t), w.ID())
	found := make(map[uuid.UUID]bool)
	for _, e := range events {
		if found[e.ID] {
			t.Errorf("event %s is there twice", e.ID)
		}
		found[e.ID] = true
	}
	acknowledged.Range(func(id, _ any) bool {
		if !found[id.(uuid.UUID)] {
			t.Errorf("event %s was acknowledged, and is lost", id)
		}
		return true
	})
	t.Logf("%d events acknowledged, %d recorded, 8 times killed or stopped", count.Load(), len(events))
}

// A commit whose answer is lost on the way was made, and the next attempt must not make it again.
func TestACommitWhoseAnswerIsLost(t *testing.T) {
	db := postgrestest.New(t)
	lossy := newLossy(t, fmt.Sprintf("127.0.0.1:%d", db.Cluster.Port()))
	through, err := url.Parse(string(db.ProxyURL()))
	if err != nil {
		t.Fatal(err)
	}
	through.Host = lossy.address
	var retries atomic.Int64
	w := run(t, postgrestest.Open(t, postgres.URL(through.String())), audit.WriterOptions{
		NotifyEvery: time.Hour, // only the first is announced, so that no other answer is in the way
		Observer:    audit.Observer{Retried: func(error) { retries.Add(1) }},
	})
	if err := w.Record(t.Context(), event("first")); err != nil {
		t.Fatal(err)
	}
	super := postgrestest.Open(t, db.SuperuserURL())
	eventually(t, "the first was announced", func() bool {
		var n int
		if err := super.Get(&n, `select count(*) from pg_stat_activity where datname = current_database() and query = 'notify rgw_audit'`); err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	for i := range 10 {
		lossy.lose.Store(true)
		if err := w.Record(t.Context(), event(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if n := retries.Load(); n != int64(i+1) || lossy.lose.Load() {
			t.Fatalf("after %d lost answers, %d attempts failed", i+1, n)
		}
	}
	if got := actions(all(t, db.Admin(t), w.ID())); !slices.Equal(got, []string{"first", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}) {
		t.Errorf("recorded %q", got)
	}
}

// lossy passes connections on to a server. When told to lose, it passes the next question on, drops the
// answer to it, and both connections with it.
type lossy struct {
	address string
	lose    atomic.Bool
}

func newLossy(t *testing.T, server string) *lossy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{address: listener.Addr().String()}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				return
			}
			var doomed atomic.Bool
			go func() {
				defer up.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					if l.lose.CompareAndSwap(true, false) {
						doomed.Store(true)
					}
					if _, err := up.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
			go func() {
				defer client.Close()
				defer up.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := up.Read(buf)
					if err != nil || doomed.Load() {
						return
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l
}

// Sessions are ended one by one, too: by an administrator, by a failover.
func TestAConnectionThatIsCut(t *testing.T) {
	db := postgrestest.New(t)
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	super := postgrestest.Open(t, db.SuperuserURL())
	for i := range 20 {
		if i%3 == 0 {
			super.MustExec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
		}
		if err := w.Record(t.Context(), event(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if events := all(t, db.Admin(t), w.ID()); len(events) != 20 {
		t.Errorf("recorded %q", actions(events))
	}
}

// An event that the database refuses for what it says is recorded with less, and its neighbours as they are.
func TestABadEventHoldsUpNobody(t *testing.T) {
	db := postgrestest.New(t)
	db.Owner(t).MustExec(`
alter table rgw.audit_events add constraint no_poison_app check (app <> 'poison');
alter table rgw.audit_events add constraint no_poison_detail check (detail::text not like '%poison%')`)
	var mu sync.Mutex
	codes := make(map[string]int)
	w := audit.NewWriter(db.Proxy(t), audit.WriterOptions{Key: testKey(t), MaxBatch: 100, Observer: audit.Observer{Hardened: func(code string) {
		mu.Lock()
		defer mu.Unlock()
		codes[code]++
	}}})
	var tickets []*audit.Ticket
	const n = 250
	for i := range n { // queued before it runs, so that the batches are full
		e := typicalEvent()
		e.App = fmt.Sprint("app", i)
		switch i {
		case 7, 8, 99, 180:
			e.App = "poison"
		case 100, 249:
			e.Detail.Path = "/apps/poison"
		}
		ticket, err := w.Enqueue(e)
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	done := make(chan error)
	go func() { done <- w.Run(context.Background()) }()
	for _, ticket := range tickets {
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	closeWriter(t, w)
	if err := <-done; err != nil {
		t.Error(err)
	}
	events := all(t, db.Admin(t), w.ID())
	if len(events) != n+1 {
		t.Fatalf("%d events, want %d", len(events), n+1)
	}
	for i, e := range events[:n] {
		hardened := e.Detail.Code == "unrecordable"
		switch i {
		case 7, 8, 99, 180:
			if !hardened || e.App != "" || e.Action != "" || !slices.Contains(e.Detail.Truncated, "app") || !strings.Contains(e.Detail.Error, "23514") {
				t.Errorf("event %d is %s", i, e.AppendCanonical(nil))
			}
		case 100, 249:
			if !hardened || e.App != fmt.Sprint("app", i) || e.ActorLabel != "ana@acme.com" || !slices.Contains(e.Detail.Truncated, "detail") {
				t.Errorf("event %d is %s", i, e.AppendCanonical(nil))
			}
		default:
			if hardened || e.App != fmt.Sprint("app", i) || e.Detail.UserAgent == "" {
				t.Errorf("event %d, which was good, is %s", i, e.AppendCanonical(nil))
			}
		}
	}
	if codes["23514"] != 10 || len(codes) != 1 {
		t.Errorf("told of %v", codes)
	}
}

// What no writing can mend waits, and says so.
func TestAMissingRightIsWaitedFor(t *testing.T) {
	db := postgrestest.New(t)
	owner := db.Owner(t)
	owner.MustExec(`revoke insert on rgw.audit_events from rgw_proxy`)
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	ticket, err := w.Enqueue(event("x"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says why it cannot", func() bool {
		s := w.State()
		return !s.OK && postgres.SQLState(s.Err) == "42501"
	})
	owner.MustExec(`grant insert on rgw.audit_events to rgw_proxy`)
	if err := ticket.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHeartbeats(t *testing.T) {
	db := postgrestest.New(t)
	w := run(t, db.Proxy(t), audit.WriterOptions{Heartbeat: 50 * time.Millisecond})
	admin := db.Admin(t)
	beats := func() (n int) {
		for _, e := range all(t, admin, w.ID()) {
			if e.Action == "audit.heartbeat" {
				n++
			}
		}
		return n
	}
	if err := w.Record(t.Context(), event("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says that it lives", func() bool { return beats() == 1 })
	<-time.After(300 * time.Millisecond) // that it says no more without reason takes time to see
	if n := beats(); n != 1 {
		t.Errorf("%d heartbeats though nothing was written", n)
	}
	// And it does under a load that never ends.
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := w.Record(t.Context(), event("x")); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	eventually(t, "it says so under load", func() bool { return beats() >= 4 })
	close(stop)
	load.Wait()
}

func TestNewEventsAreAnnouncedAfterTheyAreThere(t *testing.T) {
	db := postgrestest.New(t)
	const every = 100 * time.Millisecond
	notices := make(chan *pq.Notification, 1000)
	l, err := pq.NewListenerConn(string(db.AdminURL()), notices)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := l.Listen("rgw_audit"); err != nil {
		t.Fatal(err)
	}
	w := run(t, db.Proxy(t), audit.WriterOptions{NotifyEvery: every})
	admin := db.Admin(t)
	begin := time.Now()
	for range 60 {
		if err := w.Record(t.Context(), event("x")); err != nil {
			t.Fatal(err)
		}
	}
	closeWriter(t, w) // announces the last ones at once
	took := time.Since(begin)
	if _, err := l.ExecSimpleQuery(`notify rgw_audit, 'end'`); err != nil {
		t.Fatal(err)
	}
	heard := 0
	for n := range notices {
		if n.Extra == "end" {
			break
		}
		heard++
		if n.Extra != "" {
			t.Errorf("it says %q, and should say nothing", n.Extra)
		}
		if heard == 1 {
			if events, _, err := audit.List(t.Context(), admin, audit.Filter{}); err != nil || len(events) == 0 {
				t.Errorf("announced, and not there: %v", err)
			}
		}
	}
	if most := int(took/every) + 2; heard < 1 || heard > most {
		t.Errorf("%d announcements in %s, want 1 to %d", heard, took, most)
	}
}

func TestClosingWhileTheServerIsAway(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	w := audit.NewWriter(db.Proxy(t), audit.WriterOptions{Key: testKey(t)})
	ctx, giveUp := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	if err := w.Record(t.Context(), event("before")); err != nil {
		t.Fatal(err)
	}
	if err := db.Cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	ticket, err := w.Enqueue(event("lost"))
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.Close(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closing: %v", err)
	}
	if _, err := w.Enqueue(event("too late")); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("it takes events: %v", err)
	}
	giveUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if err := ticket.Wait(t.Context()); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("whoever waits is told %v", err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestInsertTx(t *testing.T) {
	db := postgrestest.New(t)
	admin, key := db.Admin(t), testKey(t)
	refused := errors.New("refused")
	err := audit.Change(t.Context(), admin, key, event("user.add"), func(tx *sqlx.Tx) error {
		tx.MustExec(`insert into rgw.users (email, created_by) values ('eve@acme.com', 'test')`)
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	e := event("user.add")
	if err := audit.Change(t.Context(), admin, key, e, func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`insert into rgw.users (email, created_by) values ('ana@acme.com', 'test')`)
		e.Resource = "ana@acme.com"
		return err
	}); err != nil {
		t.Fatal(err)
	}
	one, two, three := event("one"), event("two"), event("three")
	two.OccurredAt = one.OccurredAt.Add(time.Microsecond) // a list orders by it, and all of this can happen within one
	three.OccurredAt = two.OccurredAt.Add(time.Microsecond)
	if err := postgres.InTx(t.Context(), admin, func(tx *sqlx.Tx) error {
		return audit.InsertTx(t.Context(), tx, key, one, two, three)
	}); err != nil {
		t.Fatal(err)
	}
	events, _, err := audit.List(t.Context(), admin, audit.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(actions(events), " "); got != "three two one user.add" {
		t.Fatalf("recorded %s", got)
	}
	if e := events[3]; e.Resource != "ana@acme.com" || !e.Detail.Closes || e.WriterSeq != 1 || !key.Verify(e) {
		t.Errorf("recorded %s", e.AppendCanonical(nil))
	}
	for i, e := range all(t, admin, events[0].WriterID) {
		if e.Detail.Closes != (i == 2) {
			t.Errorf("event %d closes its writer: %v", i+1, e.Detail.Closes)
		}
	}
	if err := postgres.InTx(t.Context(), admin, func(tx *sqlx.Tx) error {
		return audit.InsertTx(t.Context(), tx, audit.Key{}, event("x"))
	}); err == nil {
		t.Error("events are recorded without a key")
	}
}

// A change made by SQL leaves an event that can be read like any other, and that no key made.
func TestAChangeAroundTheGatewayIsReadable(t *testing.T) {
	db := postgrestest.New(t)
	db.Owner(t).MustExec(`insert into rgw.settings (key, value, updated_by) values ('x', '1', 'me')`)
	events, _, err := audit.List(t.Context(), db.Admin(t), audit.Filter{Actions: []string{"gateway.changed_outside"}})
	if err != nil || len(events) != 1 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	e := events[0]
	if e.ActorKind != audit.ActorDatabase || e.ActorLabel != cluster.Owner || e.Resource != "setting:x" || e.Detail.Params.Get("table") != "settings" ||
		e.WriterID != (uuid.UUID{}) || e.MAC != nil || testKey(t).Verify(e) {
		t.Errorf("recorded %s", e.AppendCanonical(nil))
	}
	checkCanonical(t, e.AppendCanonical(nil))
	if got, want := string(bare(e).AppendCanonical(nil)), string(e.AppendCanonical(nil)); got != want {
		t.Errorf("what the database spelled is not canonical: %s", cmp.Diff(want, got))
	}
}

func TestList(t *testing.T) {
	db := postgrestest.New(t)
	w := run(t, db.Proxy(t), audit.WriterOptions{})
	now := time.Now().Truncate(time.Hour)
	var request uuid.UUID
	for i := range 30 {
		e := typicalEvent()
		e.OccurredAt = now.Add(time.Duration(i/2) * time.Second) // two of each moment
		e.Resource = fmt.Sprint(i)
		if i%3 == 0 {
			e.ActorID, e.ActorLabel, e.App, e.Action = "b0b", "bob@acme.com", "api", "process.exec"
			e.Decision, e.Phase, e.Status = audit.DecisionDeny, audit.PhaseRefused, 403
		}
		if i == 4 {
			e.Kind = audit.KindPoll
			request = e.RequestID
		}
		if err := w.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	admin := db.Admin(t)
	list := func(f audit.Filter) ([]*audit.Event, audit.Cursor) {
		t.Helper()
		events, next, err := audit.List(t.Context(), admin, f)
		if err != nil {
			t.Fatal(err)
		}
		return events, next
	}
	for _, c := range []struct {
		name string
		f    audit.Filter
		want int
	}{
		{"everything", audit.Filter{}, 30},
		{"actor by label", audit.Filter{Actor: "bob@acme.com"}, 10},
		{"actor by id", audit.Filter{Actor: "b0b"}, 10},
		{"app", audit.Filter{App: "web"}, 20},
		{"action", audit.Filter{Actions: []string{"process.exec"}}, 10},
		{"decision", audit.Filter{Decision: audit.DecisionDeny}, 10},
		{"phase", audit.Filter{Phase: audit.PhaseFinished}, 20},
		{"kind", audit.Filter{Kind: audit.KindPoll}, 1},
		{"status from", audit.Filter{MinStatus: 400}, 10},
		{"status to", audit.Filter{MaxStatus: 299}, 20},
		{"since", audit.Filter{Since: now.Add(10 * time.Second)}, 10},
		{"until", audit.Filter{Until: now.Add(10 * time.Second)}, 20},
		{"between", audit.Filter{Since: now.Add(time.Second), Until: now.Add(2 * time.Second)}, 2},
		{"request", audit.Filter{RequestID: request}, 1},
		{"several", audit.Filter{Actor: "bob@acme.com", App: "web"}, 0},
		{"no injection", audit.Filter{Actor: "' or true --"}, 0},
	} {
		if events, next := list(c.f); len(events) != c.want || next != "" {
			t.Errorf("%s: %d events and cursor %q, want %d", c.name, len(events), next, c.want)
		}
	}
	// Page by page, newest first, each once, though new ones arrive.
	var pages []*audit.Event
	f := audit.Filter{Limit: 7}
	for {
		events, next := list(f)
		pages = append(pages, events...)
		if next == "" {
			break
		}
		f.Before = next
		if err := w.Record(t.Context(), typicalEvent()); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	for i, e := range pages {
		if seen[e.Resource] {
			t.Errorf("event %s twice", e.Resource)
		}
		seen[e.Resource] = true
		if i > 0 && e.OccurredAt.After(pages[i-1].OccurredAt) {
			t.Error("not newest first")
		}
	}
	if len(pages) != 30 {
		t.Errorf("%d events over all pages", len(pages))
	}
	if _, _, err := audit.List(t.Context(), admin, audit.Filter{Before: "nonsense"}); err == nil {
		t.Error("a cursor of nonsense is taken")
	}
	// The other enumerations' values make an error, not a panic or everything.
	if _, _, err := audit.List(t.Context(), admin, audit.Filter{Kind: "nonsense"}); err == nil {
		t.Error("a kind of nonsense is taken")
	}
}

func TestEveryStatementFitsTheSchema(t *testing.T) {
	db := postgrestest.New(t)
	for name, statement := range audit.Statements {
		pool := db.Admin(t)
		if name == "insertBatch" || name == "insertAgain" || name == "notifyAudit" {
			pool = db.Proxy(t)
		}
		s, err := pool.PrepareContext(t.Context(), statement)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for !so() {
		if time.Now().After(end) {
			t.Fatalf("in vain: until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
