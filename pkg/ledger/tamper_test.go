package ledger_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/secret"
)

const ofLeaf = `event_id = (select event_id from rgw.ledger_leaves where leaf_index = `

// With a superuser's powers over the database, and none over the keys: verification names what was done, and the first
// event concerned.
func TestWhatASuperuserDoesIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		do   string
		kind string
		leaf int64
		macs bool // tells by the MAC too
	}{
		"nothing":          {`select 1`, "", 0, true},
		"edit":             {`update rgw.audit_events set actor_label = 'eve@acme.com' where ` + ofLeaf + `41)`, ledger.KindEdited, 41, false},
		"edit the detail":  {`update rgw.audit_events set detail = '{"path":"/other"}' where ` + ofLeaf + `41)`, ledger.KindEdited, 41, false},
		"swap two columns": {`update rgw.audit_events set app = resource, resource = app where ` + ofLeaf + `57)`, ledger.KindEdited, 57, false},
		"move the time":    {`with e as (update rgw.audit_events set occurred_at = occurred_at + interval '1 second' where ` + ofLeaf + `30) returning event_id, occurred_at) update rgw.ledger_leaves l set occurred_at = e.occurred_at from e where l.event_id = e.event_id`, ledger.KindEdited, 30, false},
		"delete an event":  {`delete from rgw.audit_events where ` + ofLeaf + `99)`, ledger.KindDeleted, 99, false},
		"delete a leaf":    {`delete from rgw.ledger_leaves where leaf_index = 99`, ledger.KindDeleted, 99, false},
		"delete both":      {`delete from rgw.audit_events where ` + ofLeaf + `99); delete from rgw.ledger_leaves where leaf_index = 99`, ledger.KindDeleted, 99, false},
		"delete both and close the gap": {`delete from rgw.audit_events where ` + ofLeaf + `99); delete from rgw.ledger_leaves where leaf_index = 99;
			update rgw.ledger_leaves set leaf_index = leaf_index + 1000000 where leaf_index > 99; update rgw.ledger_leaves set leaf_index = leaf_index - 1000001 where leaf_index > 99`, ledger.KindForked, -2, false},
		"insert an event": {`insert into rgw.audit_events select (e).* from (select e from rgw.audit_events e where ` + ofLeaf + `5)) x(e) on conflict do nothing;
			insert into rgw.audit_events (occurred_at, event_id, epoch, xid, request_id, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, detail)
			values (now() - interval '1 hour', gen_random_uuid(), 1, '5', gen_random_uuid(), 'action', 'finished', 'allow', 'user', 'x', 'x', 'x', '', '', 200, '{}')`, ledger.KindAdded, -1, false},
		"append a leaf by hand": {`with e as (insert into rgw.audit_events (occurred_at, event_id, epoch, xid, request_id, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, detail)
			values (now(), gen_random_uuid(), 1, '5', gen_random_uuid(), 'action', 'finished', 'allow', 'user', 'x', 'x', 'x', '', '', 200, '{}') returning occurred_at, event_id)
			insert into rgw.ledger_leaves select (select max(leaf_index) + 1 from rgw.ledger_leaves), occurred_at, event_id, sha256('x') from e`, ledger.KindAdded, -2, false},
		"exchange two events": {`with a as (select * from rgw.ledger_leaves where leaf_index = 20), b as (select * from rgw.ledger_leaves where leaf_index = 70)
			update rgw.ledger_leaves l set event_id = case l.leaf_index when 20 then (select event_id from b) else gen_random_uuid() end, occurred_at = case l.leaf_index when 20 then (select occurred_at from b) else l.occurred_at end from a, b where false;
			create temp table k as select leaf_index, occurred_at, event_id from rgw.ledger_leaves where leaf_index in (20, 70);
			update rgw.ledger_leaves set event_id = gen_random_uuid() where leaf_index in (20, 70);
			update rgw.ledger_leaves l set occurred_at = k.occurred_at, event_id = k.event_id from k where l.leaf_index = 90 - k.leaf_index; drop table k`, ledger.KindReordered, 20, false},
		"reorder leaves whole": {`create temp table k as select * from rgw.ledger_leaves where leaf_index in (20, 21);
			delete from rgw.ledger_leaves where leaf_index in (20, 21);
			insert into rgw.ledger_leaves select 41 - leaf_index, occurred_at, event_id, hash from k; drop table k`, ledger.KindReordered, 21, true},
		"edit an event and its hash": {`update rgw.audit_events set status = 500 where ` + ofLeaf + `41); update rgw.ledger_leaves set hash = sha256('x') where leaf_index = 41`, ledger.KindEdited, 41, true},
		"change a leaf's hash":       {`update rgw.ledger_leaves set hash = sha256('x') where leaf_index = 41`, ledger.KindTree, 41, false},
		"change a tile's hash":       {`update rgw.ledger_hashes set hash = sha256('x') where level = 1 and hash_index = 0`, ledger.KindTree, 0, false},
		"delete a tile's hash":       {`delete from rgw.ledger_hashes`, ledger.KindTree, 0, false},
		"truncate the events":        {`truncate rgw.audit_events`, ledger.KindDeleted, 0, false},
		"truncate the leaves":        {`truncate rgw.ledger_leaves`, ledger.KindDeleted, 0, false},
		"truncate the checkpoints":   {`truncate rgw.ledger_checkpoints`, ledger.KindAdded, -2, false},
		"delete a checkpoint":        {`delete from rgw.ledger_checkpoints where size = (select min(size) from rgw.ledger_checkpoints where previous_size > 0)`, ledger.KindCheckpoint, -2, false},
		"edit a checkpoint":          {`update rgw.ledger_checkpoints set note = regexp_replace(note, '^([^\n]+\n)([0-9]+)', '\12') where size = (select min(size) from rgw.ledger_checkpoints)`, ledger.KindSignature, 0, false},
		"garble a checkpoint":        {`update rgw.ledger_checkpoints set note = 'x' where size = (select min(size) from rgw.ledger_checkpoints)`, ledger.KindCheckpoint, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			_, stop := w.sequence(func(c *ledger.SequencerConfig) { c.MaxBatch = 16 })
			w.write(200)
			w.settled()
			w.insert(80)
			w.write(40)
			w.settled()
			stop()
			keys := w.keys()
			w.super.MustExec(`set session_replication_role = replica; ` + c.do)
			report := w.verify(func(o *ledger.VerifyOptions) {
				o.Keys = keys
				if c.macs {
					o.MACKeys = []audit.Key{w.key}
				}
			})
			if c.kind == "" {
				if !report.Sound() {
					t.Error(report)
				}
				return
			}
			if c.leaf == -2 { // wherever it is told to be
				if !slices.ContainsFunc(report.Findings, func(f ledger.Finding) bool { return f.Kind == c.kind }) {
					t.Errorf("no finding of kind %s:\n%s", c.kind, report)
				}
				return
			}
			wantFinding(t, report, c.kind, c.leaf)
		})
	}
}

// Whoever replaces the key and signs everything anew makes a database that agrees with itself, and with no key that was
// kept elsewhere.
func TestAReplacedKeyIsKnownByThePublicKey(t *testing.T) {
	w := newWorld(t)
	_, stop := w.sequence()
	w.insert(30)
	w.settled()
	stop()
	keys := w.keys()
	w.super.MustExec(`truncate rgw.ledger_keys, rgw.ledger_checkpoints, rgw.ledger_leaves, rgw.ledger_hashes`)
	w.sequence()
	w.settled()
	if report := w.verify(); !report.Sound() {
		t.Errorf("it should agree with itself:\n%s", report)
	}
	report := w.verify(func(o *ledger.VerifyOptions) { o.Keys = keys })
	wantFinding(t, report, ledger.KindKey, 0)
}

// What the database alone cannot show, the bucket does.
func TestARollbackAndAForkAreKnownByTheBucket(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	_, stop := w.sequence(func(c *ledger.SequencerConfig) { c.MaxBatch = 16 })
	w.write(300)
	w.settled()
	w.anchor(b).Attempt(t.Context(), true)
	stop()
	w.super.MustExec(`delete from rgw.audit_events where event_id in (select event_id from rgw.ledger_leaves where leaf_index >= 120)`)
	rest := `delete from rgw.ledger_checkpoints where size > (select max(size) from rgw.ledger_checkpoints where size <= 120);
		delete from rgw.ledger_leaves where leaf_index >= (select coalesce(max(size), 0) from rgw.ledger_checkpoints);
		delete from rgw.ledger_hashes where true`
	w.super.MustExec(rest)
	size := w.size()
	report := w.verifySource(b, true)
	wantFinding(t, report, ledger.KindRolledBack, size)

	// A second sequencer, which does not know the bucket, forks it.
	w.super.MustExec(`delete from rgw.audit_events e where not exists (select from rgw.ledger_leaves l where l.event_id = e.event_id)`)
	w.sequence()
	w.write(400)
	w.settled()
	report = w.verifySource(b, true)
	wantFinding(t, report, ledger.KindForked, size)
}

func TestALostDatabaseIsRebuiltFromTheBucket(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	_, stop := w.sequence()
	w.write(600)
	w.settled()
	a := w.anchor(b)
	a.Attempt(t.Context(), true)
	if trouble := w.trouble(); trouble != "" {
		t.Fatal(trouble)
	}
	keys := w.keys()
	stop()
	report := w.verifySource(b, false)

	// Another database, and nothing but the bucket, the public key and the environment's keys.
	fresh := worldOf(t, postgrestest.New(t))
	recover := func() (*ledger.Recovered, error) {
		e := audit.NewEvent(time.Now())
		e.ActorKind, e.ActorLabel = audit.ActorSystem, "command line"
		return ledger.Recover(t.Context(), ledger.RecoverConfig{
			DB: fresh.pg.Owner(t), Source: b, Keys: keys, Key: w.key, Signing: fresh.source, By: e,
		})
	}
	done, err := recover()
	if err != nil {
		t.Fatal(err)
	}
	if done.Size != report.Size || done.Events != report.Size || done.NewKey == "" || done.Lost != 0 {
		t.Errorf("%+v", done)
	}
	s, _ := fresh.sequence(func(c *ledger.SequencerConfig) {
		c.Anchored = func(ctx context.Context) (*ledger.Checkpoint, error) { return ledger.NewestCheckpoint(ctx, b, keys) }
	})
	fresh.write(100)
	fresh.settled()
	if trouble := s.State().Trouble; trouble != "" {
		t.Fatal(trouble)
	}
	got := fresh.verify(func(o *ledger.VerifyOptions) {
		o.Keys, o.MACKeys = append(slices.Clone(keys), done.NewKey), []audit.Key{w.key}
	})
	if !got.Sound() || got.Size < report.Size+100 {
		t.Errorf("%s", got)
	}
	fresh.anchor(b).Attempt(t.Context(), true)
	if trouble := fresh.trouble(); trouble != "" {
		t.Error(trouble)
	}
	if got := fresh.verifySource(b, true); !got.Sound() {
		t.Errorf("%s", got)
	}
	if alerts := fresh.alerted(""); len(alerts) > 0 {
		t.Error(alerts[0].Message)
	}
}

// What had been signed, and was not in the bucket yet with its events, is lost with the database. The recovery says how much
// and up to which checkpoint, the log does, and verification does; none of them takes it for a fork, and anything else
// of the kind still is one.
func TestSignedLeavesThatAreLostAreTold(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	_, stop := w.sequence()
	w.write(300)
	w.settled()
	later := new(clock)
	a := ledger.NewAnchor(ledger.AnchorConfig{DB: w.admin, Storage: b, Chain: "bucket/" + origin, Key: w.key, Interval: time.Hour, Retention: 24 * time.Hour, Now: later.now})
	a.Attempt(t.Context(), true)
	w.write(200)
	w.settled()
	later.advance(2 * time.Minute)
	a.Attempt(t.Context(), false) // the checkpoint alone
	if trouble := w.trouble(); trouble != "" {
		t.Fatal(trouble)
	}
	stop()
	keys := w.keys()
	lost, err := ledger.NewestCheckpoint(t.Context(), b, keys)
	if err != nil {
		t.Fatal(err)
	}

	fresh := worldOf(t, postgrestest.New(t))
	e := audit.NewEvent(time.Now())
	e.ActorKind, e.ActorLabel = audit.ActorSystem, "command line"
	done, err := ledger.Recover(t.Context(), ledger.RecoverConfig{DB: fresh.pg.Owner(t), Source: b, Keys: keys, Key: w.key, Signing: fresh.source, By: e})
	if err != nil {
		t.Fatal(err)
	}
	if done.Lost < 200 || done.Lost != lost.N-done.Size || done.LostFrom() != done.Size || done.LostTo() != lost.N-1 {
		t.Errorf("%+v of %d", done, lost.N)
	}
	// The database verifies before anything new is signed, and the bucket against it.
	all := append(slices.Clone(keys), done.NewKey)
	verify := func(source ledger.Source, db *sqlx.DB) *ledger.Report {
		report, err := ledger.VerifySource(t.Context(), source, ledger.SourceOptions{VerifyOptions: ledger.VerifyOptions{Keys: all}, DB: db})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	if report := verify(b, fresh.admin); !report.Sound() || !strings.Contains(report.String(), "were lost with the database") {
		t.Errorf("%s", report)
	}
	s, stop := fresh.sequence(func(c *ledger.SequencerConfig) {
		c.Anchored = func(ctx context.Context) (*ledger.Checkpoint, error) { return ledger.NewestCheckpoint(ctx, b, all) }
	})
	for range 2 { // beyond the size of what was lost, and with another start
		fresh.write(150)
		fresh.settled()
		if trouble := s.State().Trouble; trouble != "" {
			t.Fatal(trouble)
		}
		fresh.anchor(b).Attempt(t.Context(), true)
		if trouble := fresh.trouble(); trouble != "" {
			t.Fatal(trouble)
		}
		for _, db := range []*sqlx.DB{fresh.admin, nil} {
			if report := verify(b, db); !report.Sound() {
				t.Errorf("%s", report)
			}
		}
		stop()
		s, stop = fresh.sequence(func(c *ledger.SequencerConfig) {
			c.Anchored = func(ctx context.Context) (*ledger.Checkpoint, error) { return ledger.NewestCheckpoint(ctx, b, all) }
		})
	}
	if report := verify(b, nil); !strings.Contains(report.String(), "lost with the database") {
		t.Errorf("without the database it does not tell what was lost:\n%s", report)
	}
	if report := fresh.verify(func(o *ledger.VerifyOptions) { o.Keys = all }); !report.Sound() {
		t.Errorf("%s", report)
	}
	var told int
	if err := fresh.super.Get(&told, `select count(*) from rgw.audit_events e join rgw.ledger_leaves l using (occurred_at, event_id)
		where action = 'ledger.restored' and detail -> 'params' ->> 'lost_to' = $1 and detail -> 'params' ->> 'lost_root' = $2`, strconv.FormatInt(lost.N, 10), lost.Hash.String()); err != nil || told != 1 {
		t.Errorf("%d events tell of it, %v", told, err)
	}
}

// A database that was replaced by an older one is signed no more, and goes on once what it lacks was put back.
func TestARolledBackDatabaseIsBroughtForward(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	_, stop := w.sequence(func(c *ledger.SequencerConfig) { c.MaxBatch = 16 })
	w.write(300)
	w.settled()
	w.anchor(b).Attempt(t.Context(), true)
	stop()
	keys := w.keys()
	tx := w.super.MustBegin()
	tx.MustExec(`create temp table cut on commit drop as select max(size) as size from rgw.ledger_checkpoints where size <= 150;
		delete from rgw.audit_events where event_id in (select event_id from rgw.ledger_leaves where leaf_index >= (select size from cut)) or not event_id in (select event_id from rgw.ledger_leaves);
		delete from rgw.ledger_leaves where leaf_index >= (select size from cut);
		delete from rgw.ledger_hashes;
		delete from rgw.ledger_checkpoints where size > (select size from cut);
		delete from rgw.ledger_anchors`)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	e := audit.NewEvent(time.Now())
	e.ActorKind, e.ActorLabel = audit.ActorSystem, "command line"
	done, err := ledger.Recover(t.Context(), ledger.RecoverConfig{DB: w.pg.Owner(t), Source: b, Keys: keys, Key: w.key, Signing: w.source, By: e})
	if err != nil {
		t.Fatal(err)
	}
	if done.From > 150 || done.NewKey != "" || done.Size <= done.From {
		t.Errorf("%+v", done)
	}
	w.sequence(func(c *ledger.SequencerConfig) {
		c.Anchored = func(ctx context.Context) (*ledger.Checkpoint, error) { return ledger.NewestCheckpoint(ctx, b, keys) }
	})
	w.insert(10)
	w.settled()
	w.sound()
	if report := w.verifySource(b, true); !report.Sound() {
		t.Errorf("%s", report)
	}
}

func TestPushesAreSignedInOrderAndRepeatedUntilTaken(t *testing.T) {
	w := newWorld(t)
	w.sequence()
	key := secret.NewText(strings.Repeat("push secret ", 4))
	var mu sync.Mutex
	var seen []int64
	calls := 0
	siem := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !ledger.VerifyPush(key, r.Header.Get("Gateway-Signature"), body) || ledger.VerifyPush(key, r.Header.Get("Gateway-Signature"), append(body, ' ')) {
			t.Errorf("a push that is not signed: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		calls++
		for line := range strings.Lines(string(body)) {
			text, _, _ := strings.Cut(strings.TrimPrefix(line, `{"leaf_index":`), ",")
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Error(err)
			}
			seen = append(seen, n)
		}
		switch calls % 3 {
		case 1:
			rw.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			http.Redirect(rw, r, "/elsewhere", http.StatusTemporaryRedirect)
		}
	}))
	defer siem.Close()
	f := ledger.NewFollower(w.admin, nil)
	run(t, f.Run)
	p := ledger.NewPusher(ledger.PushConfig{DB: w.admin, Follower: f, URL: siem.URL, Secret: key, Client: siem.Client(), Key: w.key, Shortest: time.Millisecond})
	stop := run(t, p.Run)
	w.write(300)
	size := w.settled()
	f.Wake()
	pushed := func(to int64) func() bool {
		return func() bool {
			c, err := ledger.CursorOf(t.Context(), w.admin, ledger.PushCursor)
			if err != nil {
				t.Fatal(err)
			}
			f.Wake()
			return c != nil && c.Next >= to
		}
	}
	eventually(t, "all were pushed", pushed(size))
	stop() // another process takes over where it was
	w.write(50)
	size = w.settled()
	run(t, ledger.NewPusher(ledger.PushConfig{DB: w.admin, Follower: f, URL: siem.URL, Secret: key, Client: siem.Client(), Key: w.key, Shortest: time.Millisecond}).Run)
	eventually(t, "all were pushed", pushed(size))
	mu.Lock()
	defer mu.Unlock()
	next := int64(0)
	for _, n := range seen { // a repetition goes back, and never ahead
		if n > next {
			t.Fatalf("leaf %d came before %d", n, next)
		}
		next = max(next, n+1)
	}
	if next != size {
		t.Errorf("pushed to %d of %d", next, size)
	}
}

// Months go when they are older, in the bucket, and not on hold; what remains, and what went, stays verifiable.
func TestRetentionDropsWhatMayGoAndProofsKeepWorking(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	old := time.Now().AddDate(0, -5, 0)
	w.pg.Owner(t).MustExec(`do $$ declare m date := date_trunc('month', now() - interval '5 months'); begin
		execute format('create table rgw.audit_events_%s partition of rgw.audit_events for values from (%L) to (%L)', to_char(m, 'YYYYMM'), m, m + interval '1 month'); end $$`)
	c := new(clock)
	c.ahead.Store(int64(time.Until(old)))
	_, stop := w.sequence(func(config *ledger.SequencerConfig) { config.Now = c.now })
	for i := range 20 {
		e := event(i)
		e.OccurredAt = old
		tx := w.admin.MustBegin()
		if err := audit.InsertTx(t.Context(), tx, w.key, e); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	w.settled()
	stop()
	w.sequence()
	w.insert(10)
	w.settled()
	a := w.anchor(b)
	keeper := ledger.NewKeeper(ledger.KeeperConfig{DB: w.admin, Key: w.key, Anchor: a, Retention: 60 * 24 * time.Hour, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	gone := func() bool {
		months, err := ledger.DroppedMonths(t.Context(), w.admin)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(months, old.Format("2006-01"))
	}
	if keeper.Drop(t.Context()); gone() {
		t.Fatal("dropped before it was in the bucket")
	}
	a.Attempt(t.Context(), true)
	hold, err := ledger.PlaceHold(t.Context(), w.admin, w.key, event(0), old.AddDate(0, 0, -40), old, "case 17")
	if err != nil {
		t.Fatal(err)
	}
	if keeper.Drop(t.Context()); gone() {
		t.Fatal("dropped while on hold")
	}
	if err := ledger.LiftHold(t.Context(), w.admin, w.key, event(0), hold.ID); err != nil {
		t.Fatal(err)
	}
	if keeper.Drop(t.Context()); !gone() {
		t.Fatal("not dropped")
	}
	// The twenty, and that the key was made, by the clock of then.
	size := w.settledBut(21)
	if report := w.sound(); report.Dropped != 21 {
		t.Errorf("%s", report)
	}
	if report := w.verifySource(b, true); !report.Sound() {
		t.Errorf("%s", report)
	}
	p, err := ledger.Prove(t.Context(), w.admin, w.keys(), size-1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Check(w.keys()); err != nil {
		t.Error(err)
	}
	if n := len(w.alerted(ledger.AlertStored)); n > 0 {
		t.Error(w.alerted(ledger.AlertStored)[0].Message)
	}
}

// settledBut is settled where so many events were dropped.
func (w *world) settledBut(dropped int64) (leaves int64) {
	w.t.Helper()
	eventually(w.t, "every event has a place", func() bool {
		var events int64
		if err := w.super.QueryRow(`select (select count(*) from rgw.audit_events), (select count(*) from rgw.ledger_leaves)`).Scan(&events, &leaves); err != nil {
			w.t.Fatal(err)
		}
		return events+dropped == leaves
	})
	return leaves
}
