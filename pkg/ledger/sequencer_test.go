package ledger_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

func TestEveryStatementIsGoodSQL(t *testing.T) {
	w := newWorld(t)
	for name, statement := range ledger.Statements {
		if strings.HasPrefix(statement, "set ") {
			continue
		}
		stmt, err := w.admin.PrepareContext(t.Context(), statement)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = stmt.Close()
	}
}

func TestEventsGetDensePlacesAndAProofEach(t *testing.T) {
	w := newWorld(t)
	w.sequence()
	w.write(700)
	w.insert(20)
	size := w.settled()
	report := w.sound()
	if report.Size != size || report.Events != size || report.Origin != origin {
		t.Errorf("%+v", report)
	}
	if alerts := w.alerted(""); len(alerts) > 0 {
		t.Errorf("alerts about honest events: %+v", alerts[0])
	}
	keys := w.keys()
	tree := treeOf(t, w, keys)
	for index := int64(0); index < size; index += 37 {
		p, err := ledger.Prove(t.Context(), w.admin, keys, index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Check(keys); err != nil {
			t.Errorf("leaf %d: %v", index, err)
		}
		forged := *p
		forged.Event = strings.Replace(p.Event, `"status":200`, `"status":500`, 1)
		if forged.Event == p.Event {
			continue // the writer's own
		}
		if _, err := forged.Check(keys); err == nil {
			t.Errorf("leaf %d: an edited event passes", index)
		}
		forged = *p
		forged.Index++
		if _, err := forged.Check(keys); err == nil && forged.Index < size {
			t.Errorf("leaf %d: it passes for the next", index)
		}
	}
	// Consistency, with package tlog alone.
	for _, from := range []int64{1, 255, 256, 257, 600} {
		r := tlog.TileHashReader(tree, tiles{ledger.DatabaseTiles(t.Context(), w.admin)})
		proof, err := tlog.ProveTree(tree.N, from, r)
		if err != nil {
			t.Fatal(err)
		}
		old, err := tlog.TreeHash(from, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, from, old); err != nil {
			t.Errorf("from %d: %v", from, err)
		}
	}
}

// tiles shows a TileSource to package tlog.
type tiles struct{ ledger.TileSource }

func (tiles) Height() int { return 8 }

func (s tiles) ReadTiles(list []tlog.Tile) (out [][]byte, err error) {
	for _, tile := range list {
		data, err := s.Tile(tile.L, tile.N, tile.W)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func treeOf(t testing.TB, w *world, keys ledger.Keyring) tlog.Tree {
	t.Helper()
	c, _, err := ledger.Head(t.Context(), w.admin, keys)
	if err != nil || c == nil {
		t.Fatalf("head: %v", err)
	}
	return c.Tree
}

func TestALargeTransactionIsTakenPieceByPiece(t *testing.T) {
	w := newWorld(t)
	tx := w.admin.MustBegin()
	var events []*audit.Event
	for i := range 100 {
		events = append(events, event(i))
	}
	if err := audit.InsertTx(t.Context(), tx, w.key, events...); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	w.insert(30)
	w.sequence(func(c *ledger.SequencerConfig) { c.MaxBatch = 16 })
	w.settled()
	w.sound()
	if alerts := w.alerted(""); len(alerts) > 0 {
		t.Errorf("alerts about honest events: %+v", alerts[0])
	}
}

// A transaction that is older and still open may yet insert events: none of a newer one may go before them.
func TestNothingGetsAPlaceWhileAnOlderTransactionMayStillInsert(t *testing.T) {
	w := newWorld(t)
	open := w.super.MustBegin()
	open.MustExec(`select pg_current_xact_id()`)
	w.insert(3)
	s, _ := w.sequence()
	eventually(t, "the sequencer leads", func() bool { return s.State().Leading })
	time.Sleep(300 * time.Millisecond) // for a mistake to show; nothing is waited for
	var places, waiting int
	if err := w.super.QueryRow(`select (select count(*) from rgw.ledger_leaves l join rgw.audit_events e using (occurred_at, event_id) where e.action = 'app.list'), 3`).Scan(&places, &waiting); err != nil {
		t.Fatal(err)
	}
	if places != 0 {
		t.Errorf("%d events got a place while an older transaction was open", places)
	}
	if err := open.Rollback(); err != nil {
		t.Fatal(err)
	}
	w.settled()
	w.sound()
}

func TestOnlyOneOfTwoSequences(t *testing.T) {
	w := newWorld(t)
	a, stopA := w.sequence()
	b, stopB := w.sequence()
	w.write(300)
	w.settled()
	if a.State().Leading == b.State().Leading {
		t.Errorf("leading: %v and %v", a.State().Leading, b.State().Leading)
	}
	stop, other := stopA, b
	if b.State().Leading {
		stop, other = stopB, a
	}
	stop()
	w.write(300)
	w.settled()
	if !other.State().Leading {
		t.Error("the other did not take over")
	}
	w.sound()
}

var errInjected = errors.New("injected")

// steps are those that a batch goes through, in their order.
var steps = []string{"begin", "begin a batch", "read", "writers", "leaves", "hashes", "sign", "checkpoint", "commit", "committed", "notify"}

// Each step fails, hangs, or succeeds without an answer, in turn, around the edge of a tile; after each, the whole
// ledger verifies, and nothing is lost or doubled.
func TestTheFailureTableOfTheSequencer(t *testing.T) {
	for _, way := range []string{"fails", "hangs", "session ends"} {
		for _, step := range steps {
			t.Run(way+" at "+step, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.insert(250) // with the key's own event: six before the tile's edge
				var hit atomic.Bool
				var armed atomic.Bool
				config := w.config()
				config.MaxWait = 2 * time.Second
				s := ledger.NewSequencer(config)
				s.OnStep(func(ctx context.Context, name string) error {
					if name != step || step != "begin" && !armed.Load() || !hit.CompareAndSwap(false, true) {
						return nil
					}
					switch way {
					case "hangs":
						<-ctx.Done()
						return ctx.Err()
					case "session ends":
						_, err := w.super.Exec(`select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objid = (7220417051::bigint & 4294967295)::oid and granted and database = (select oid from pg_database where datname = current_database())`)
						return err
					}
					return errInjected
				})
				run(t, s.Run)
				if step != "begin" {
					w.settled()
				}
				armed.Store(true)
				w.insert(20)
				s.Wake()
				eventually(t, "the step was reached", hit.Load)
				w.settled()
				w.insert(5)
				w.settled()
				w.sound()
				if alerts := w.alerted(""); len(alerts) > 0 {
					t.Errorf("alerts about honest events: %s", alerts[0].Message)
				}
			})
		}
	}
}

func TestFailuresAtRandom(t *testing.T) {
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	config := w.config()
	config.MaxBatch = 40
	s := ledger.NewSequencer(config)
	failures := 0
	s.OnStep(func(context.Context, string) error {
		if failures < 60 && random.IntN(25) == 0 {
			failures++
			return errInjected
		}
		return nil
	})
	run(t, s.Run)
	w.write(900)
	w.settled()
	w.sound()
	if alerts := w.alerted(""); len(alerts) > 0 {
		t.Errorf("alerts about honest events: %s", alerts[0].Message)
	}
	if failures == 0 {
		t.Error("nothing failed")
	}
}

func TestAlertsAreRecordedAndGetAPlaceThemselves(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world)
		code string
	}{
		"an event that was edited before it got a place": {func(w *world) {
			w.insert(1)
			w.super.MustExec(`update rgw.audit_events set actor_label = 'eve@acme.com' where action = 'app.list'`)
		}, ledger.AlertMAC},
		"an event that somebody added": {func(w *world) {
			w.super.MustExec(`insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, detail)
				values (now(), gen_random_uuid(), 1, gen_random_uuid(), 'action', 'finished', 'allow', 'user', 'x', 'x', 'x', '', '', 200, '{}')`)
		}, ledger.AlertNoMAC},
		"a change around the gateway": {func(w *world) {
			w.super.MustExec(`insert into rgw.users (email, created_by) values ('eve@acme.com', 'eve')`)
		}, ledger.AlertOutside},
		"another MAC key": {func(w *world) {
			other, err := audit.NewKey([]byte(strings.Repeat("another key ", 5)))
			if err != nil {
				w.t.Fatal(err)
			}
			if err := audit.Change(w.t.Context(), w.admin, other, event(1), func(*sqlx.Tx) error { return nil }); err != nil {
				w.t.Fatal(err)
			}
		}, ledger.AlertMACKey},
		"a clock that is ahead": {func(w *world) {
			e := event(1)
			e.OccurredAt = time.Now().Add(time.Hour)
			if err := audit.Change(w.t.Context(), w.admin, w.key, e, func(*sqlx.Tx) error { return nil }); err != nil {
				w.t.Fatal(err)
			}
		}, ledger.AlertClock},
		"a clock that is behind": {func(w *world) {
			e := event(1)
			e.OccurredAt = time.Now().Add(-48 * time.Hour)
			if err := audit.Change(w.t.Context(), w.admin, w.key, e, func(*sqlx.Tx) error { return nil }); err != nil {
				w.t.Fatal(err)
			}
		}, ledger.AlertClock},
		"a number that comes twice": {func(w *world) {
			w.insert(1)
			w.super.MustExec(`insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
				select occurred_at, gen_random_uuid(), epoch, request_id, '0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f', n, mac_key, mac, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, '{}'
				from rgw.audit_events, unnest(array[1, 1]) n where action = 'app.list'`)
		}, ledger.AlertRepeated},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.do(w)
			w.sequence()
			eventually(t, "the alert "+c.code+" is raised", func() bool { return len(w.alerted(c.code)) > 0 })
			w.settled()
			var recorded, placed int
			if err := w.super.QueryRow(`select count(*), count(l.leaf_index) from rgw.audit_events e left join rgw.ledger_leaves l using (occurred_at, event_id)
				where e.action = 'ledger.alert' and e.resource = $1 and e.mac is not null`, c.code).Scan(&recorded, &placed); err != nil {
				t.Fatal(err)
			}
			if recorded != 1 || placed != 1 {
				t.Errorf("%d recorded, %d of them with a place, want one", recorded, placed)
			}
		})
	}
}

// clock is one that tests set.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func TestMissingNumbersAreAnAlertAfterAMinute(t *testing.T) {
	w := newWorld(t)
	c := new(clock)
	w.sequence(func(config *ledger.SequencerConfig) { config.Now = c.now })
	writer := audit.NewWriter(w.admin, audit.WriterOptions{Key: w.key, Heartbeat: time.Hour})
	stop := run(t, writer.Run)
	if err := writer.Record(t.Context(), event(1)); err != nil {
		t.Fatal(err)
	}
	hold := w.super.MustBegin()
	hold.MustExec(`select pg_current_xact_id()`)
	for i := range 3 {
		if err := writer.Record(t.Context(), event(2+i)); err != nil {
			t.Fatal(err)
		}
	}
	w.super.MustExec(`delete from rgw.audit_events where writer_id = $1 and writer_seq = 3`, writer.ID())
	if err := hold.Rollback(); err != nil {
		t.Fatal(err)
	}
	w.settled()
	if n := len(w.alerted(ledger.AlertGap)); n != 0 {
		t.Errorf("%d alerts before a minute has passed", n)
	}
	c.advance(2 * time.Minute)
	eventually(t, "the gap is told", func() bool { return len(w.alerted(ledger.AlertGap)) > 0 })
	if message := w.alerted(ledger.AlertGap)[0].Message; !strings.Contains(message, writer.ID().String()+", 3 to 3") {
		t.Error(message)
	}
	// Its last event is neither a heartbeat nor the last one.
	eventually(t, "the silence is told", func() bool { return len(w.alerted(ledger.AlertSilent)) > 0 })
	stop()
}

func TestAnEventBelowTheHorizonIsFoundAndTold(t *testing.T) {
	w := newWorld(t)
	c := new(clock)
	_, stop := w.sequence(func(config *ledger.SequencerConfig) { config.Now = c.now })
	w.insert(5)
	w.settled()
	stop()
	w.super.MustExec(`insert into rgw.audit_events (occurred_at, event_id, epoch, xid, request_id, writer_id, writer_seq, mac_key, mac, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
		select occurred_at, gen_random_uuid(), epoch, '3'::xid8, request_id, gen_random_uuid(), 1, mac_key, mac, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, detail
		from rgw.audit_events where action = 'app.list' limit 1`)
	c.advance(2 * time.Minute)
	w.sequence(func(config *ledger.SequencerConfig) { config.Now = c.now })
	eventually(t, "it is told", func() bool { return len(w.alerted(ledger.AlertLate)) > 0 })
	w.settled()
	w.sound()
}

// A database that is restored from a dump begins its transaction ids anew, below those of the events that it holds.
func TestARestoredClusterBeginsANewLife(t *testing.T) {
	w := newWorld(t)
	_, stop := w.sequence()
	w.insert(5)
	w.settled()
	stop()
	w.super.MustExec(`update rgw.ledger_clusters set system_identifier = system_identifier + 1`)
	c := new(clock)
	s, _ := w.sequence(func(config *ledger.SequencerConfig) { config.Now = c.now })
	w.insert(5)
	eventually(t, "the sequencer leads", func() bool { return s.State().Leading })
	c.advance(2 * time.Minute) // events that were under way when the new life began carry the old one
	w.settled()
	w.sound()
	var epoch, events int
	if err := w.super.QueryRow(`select (select epoch from rgw.cluster_epoch), count(*) from rgw.audit_events where action = 'ledger.new_epoch'`).Scan(&epoch, &events); err != nil {
		t.Fatal(err)
	}
	if epoch != 2 || events != 1 {
		t.Errorf("epoch %d, %d events about it", epoch, events)
	}
}

func TestARolledBackDatabaseIsSignedNoMore(t *testing.T) {
	w := newWorld(t)
	s, stop := w.sequence()
	w.insert(5)
	w.settled()
	keys := w.keys()
	anchored, _, err := ledger.Head(t.Context(), w.admin, keys)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody rolls it back under the sequencer that runs: its session ends, and it remembers.
	w.super.MustExec(`delete from rgw.ledger_leaves where leaf_index >= 3`)
	w.super.MustExec(`delete from rgw.ledger_checkpoints where size > 3`)
	w.super.MustExec(`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'gateway_admin' or pid in (select pid from pg_locks where locktype = 'advisory')`)
	eventually(t, "it says why it signs nothing", func() bool { return s.State().Trouble != "" })
	if trouble := s.State().Trouble; !strings.Contains(trouble, "replaced by an older one") && !strings.Contains(trouble, "not the one that was signed") {
		t.Error(trouble)
	}
	stop()
	// One that starts anew knows it by the bucket.
	s, _ = w.sequence(func(c *ledger.SequencerConfig) {
		c.Anchored = func(context.Context) (*ledger.Checkpoint, error) { return anchored, nil }
	})
	eventually(t, "it says why it signs nothing", func() bool { return s.State().Trouble != "" })
	if trouble := s.State().Trouble; !strings.Contains(trouble, "admin audit") {
		t.Error(trouble)
	}
	before := w.size()
	w.insert(2)
	time.Sleep(100 * time.Millisecond) // for a mistake to show; nothing is waited for
	if after := w.size(); after != before {
		t.Errorf("it went on signing: from %d to %d", before, after)
	}
}

func (w *world) size() int64 {
	w.t.Helper()
	size, err := ledger.Size(w.t.Context(), w.super)
	if err != nil {
		w.t.Fatal(err)
	}
	return size
}

func TestTheBucketMustBeReadableBeforeAnythingIsSigned(t *testing.T) {
	w := newWorld(t)
	var down atomic.Bool
	down.Store(true)
	s, _ := w.sequence(func(c *ledger.SequencerConfig) {
		c.Anchored = func(context.Context) (*ledger.Checkpoint, error) {
			if down.Load() {
				return nil, errors.New("connection refused")
			}
			return nil, nil
		}
	})
	eventually(t, "it says why it signs nothing", func() bool { return strings.Contains(s.State().Trouble, "connection refused") })
	down.Store(false)
	w.settled()
	w.sound()
}

func TestARotatedKeySignsOnceTogetherWithTheOneBefore(t *testing.T) {
	w := newWorld(t)
	w.sequence()
	w.insert(3)
	w.settled()
	before := w.keys()
	// Another process makes it: the one that sequences takes it up by itself.
	e := event(0)
	e.Action = ledger.ActionKey
	made, err := ledger.Rotate(t.Context(), w.admin, w.source, w.key, e)
	if err != nil {
		t.Fatal(err)
	}
	w.settled()
	eventually(t, "the new key signs alone", func() bool {
		w.insert(1)
		c, _, err := ledger.Head(t.Context(), w.admin, ledger.Keyring{made})
		return err == nil && len(c.Signers) == 1 && !strings.Contains(c.Note, signatureOf(before[0]))
	})
	w.settled()
	keys := w.keys()
	if len(keys) != 2 || keys[0] != before[0] {
		t.Fatal(keys)
	}
	w.sound()
	var both, second int
	rows, err := w.super.Query(`select note from rgw.ledger_checkpoints`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		c, err := ledger.ParseCheckpoint(text, keys)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case len(c.Signers) == 2:
			both++
		case c.Signers[0] == keys[1]:
			second++
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if both != 1 || second == 0 {
		t.Errorf("%d checkpoints are signed by both, %d by the new key alone", both, second)
	}
}

// signatureOf is how a signature by a key begins in a note: its hash in base64, but for the character that it shares.
func signatureOf(public string) string {
	parts := strings.Split(public, "+")
	hash, err := hex.DecodeString(parts[1])
	if err != nil {
		return err.Error()
	}
	return base64.StdEncoding.EncodeToString(hash)[:5]
}

func TestAGivenKeyIsUsed(t *testing.T) {
	w := newWorld(t)
	private, public := newLogKey(t, origin)
	source := w.source
	source.Given = private
	_, stop := w.sequence(func(c *ledger.SequencerConfig) { c.Keys = source })
	w.insert(3)
	w.settled()
	stop()
	if keys := w.keys(); len(keys) != 1 || keys[0] != public {
		t.Fatal(keys)
	}
	var sealed int
	if err := w.super.Get(&sealed, `select count(sealed) from rgw.ledger_keys`); err != nil || sealed != 0 {
		t.Errorf("%d sealed keys, %v", sealed, err)
	}
	// Another one, without the one before, signs nothing.
	next, nextPublic := newLogKey(t, origin)
	source = ledger.KeySource{Origin: origin, Given: next, Box: source.Box}
	s, stop := w.sequence(func(c *ledger.SequencerConfig) { c.Keys = source })
	eventually(t, "it says what it lacks", func() bool { return strings.Contains(s.State().Trouble, "AUDIT_SIGNING_KEY_PREVIOUS") })
	stop()
	source.Previous = private
	_, stop = w.sequence(func(c *ledger.SequencerConfig) { c.Keys = source })
	w.settled()
	stop()
	report := w.verify(func(o *ledger.VerifyOptions) { o.Keys = ledger.Keyring{public, nextPublic} })
	if !report.Sound() {
		t.Error(report)
	}
}

// However a session's last transaction ends, and whoever ends it first, its lock is let go, and it serves nobody else.
func TestADiscardedSessionKeepsNoLock(t *testing.T) {
	w := newWorld(t)
	for i := range 300 {
		conn, err := w.admin.Connx(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if err := conn.GetContext(t.Context(), &pid, `select pg_backend_pid() from pg_advisory_lock(7220417099)`); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := conn.BeginTxx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 3 {
		case 0: // package sql rolls back by itself
			go cancel()
		case 1:
			w.super.MustExec(`select pg_terminate_backend($1)`, pid)
			_, _ = tx.ExecContext(ctx, `select 1`)
			go cancel()
		case 2:
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
		}
		ledger.Discard(conn)
		cancel()
		eventually(t, "the session is gone", func() bool {
			var held int
			if err := w.super.Get(&held, `select count(*) from pg_locks where locktype = 'advisory' and objid = (7220417099::bigint & 4294967295)::oid`); err != nil {
				t.Fatal(err)
			}
			return held == 0
		})
	}
	eventually(t, "nothing is in use", func() bool { return w.admin.Stats().InUse == 0 })
}
