package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres"
)

// SequencerConfig says what a sequencer works with. Fields without a remark must be given.
type SequencerConfig struct {
	DB      *sqlx.DB // as the role of admin
	Keys    KeySource
	MACKey  audit.Key   // the present one, which alerts are recorded with too
	MACKeys []audit.Key // those before

	// Anchored returns the newest checkpoint in the bucket, nil when the bucket has none. A sequencer that begins compares
	// with it before it signs anything. Nil when there is no bucket.
	Anchored func(ctx context.Context) (*Checkpoint, error)

	Interval time.Duration // between batches at least, when they are small; default 50 ms
	Poll     time.Duration // how often it looks without having been woken; default 250 ms
	MaxBatch int           // events in a batch; default 4096
	MaxWait  time.Duration // for one batch; default 20 s
	Log      *slog.Logger
	Now      func() time.Time

	// Alerted is told of each alert that was recorded; it may be nil.
	Alerted func(*Alert)
}

// Sequencer gives events their places. Any number may run: the one that holds the lock works, the others wait for it.
// It must be made by NewSequencer.
type Sequencer struct {
	SequencerConfig

	wake chan struct{}

	// What others ask for.
	leading  atomic.Bool
	lag      atomic.Int64 // nanoseconds: age of the oldest event without a leaf
	size     atomic.Int64
	events   atomic.Int64
	batches  atomic.Int64
	mu       sync.Mutex
	trouble  string // why nothing is signed, in a sentence
	notified map[string]bool

	// step is called before each step that can fail, with its name; tests make it fail there.
	step func(ctx context.Context, name string) error

	// What follows belongs to the goroutine of Run.
	signed *Checkpoint // newest that this process has seen committed; survives the loss of the lock
}

// NewSequencer returns a sequencer, which works once Run runs.
func NewSequencer(config SequencerConfig) *Sequencer {
	config.Interval = cmp.Or(config.Interval, 50*time.Millisecond)
	config.Poll = cmp.Or(config.Poll, 250*time.Millisecond)
	config.MaxBatch = cmp.Or(config.MaxBatch, 4096)
	config.MaxWait = cmp.Or(config.MaxWait, 20*time.Second)
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Sequencer{SequencerConfig: config, wake: make(chan struct{}, 1), notified: make(map[string]bool), step: func(context.Context, string) error { return nil }}
}

// Wake tells the sequencer that there are new events.
func (s *Sequencer) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// State is how the sequencing of this process does.
type State struct {
	Leading bool          // it holds the lock
	Size    int64         // leaves, as it last knew
	Lag     time.Duration // how old the oldest event without a leaf was
	Events  int64         // sequenced by this process
	Batches int64
	Trouble string // why it signs nothing, in a sentence; empty when it does
}

// State tells how sequencing does, for readiness and metrics.
func (s *Sequencer) State() State {
	s.mu.Lock()
	trouble := s.trouble
	s.mu.Unlock()
	return State{
		Leading: s.leading.Load(), Size: s.size.Load(), Lag: time.Duration(s.lag.Load()),
		Events: s.events.Load(), Batches: s.batches.Load(), Trouble: trouble,
	}
}

func (s *Sequencer) setTrouble(text string) {
	s.mu.Lock()
	s.trouble = text
	s.mu.Unlock()
}

// stopError is a reason to sign nothing more until a person has looked.
type stopError struct {
	code, message string
}

func (e *stopError) Error() string { return e.message }

// errKeyReplaced ends a term in which another process made a new signing key: the next one begins with it.
var errKeyReplaced = errors.New("the signing key was replaced")

// The pause before the lock is asked for again.
const (
	lockPause  = time.Second
	stopPause  = 5 * time.Second
	errorPause = 500 * time.Millisecond
)

// Run sequences until ctx ends, whenever it holds the lock.
func (s *Sequencer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		pause := lockPause
		err := s.term(ctx)
		s.leading.Store(false)
		var stop *stopError
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errKeyReplaced):
			s.Log.InfoContext(ctx, "the signing key was replaced; the next checkpoint is signed with both")
			pause = 0
		case errors.As(err, &stop):
			s.setTrouble(stop.message)
			s.Log.ErrorContext(ctx, "the ledger signs nothing", "code", stop.code, "reason", stop.message)
			s.alertOnce(ctx, &Alert{Code: stop.code, Message: stop.message, Leaf: -1, Count: 1})
			pause = stopPause
		case err != nil:
			s.Log.WarnContext(ctx, "sequencing was interrupted; it goes on", "error", err)
			pause = errorPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// alertOnce records an alert outside any batch, once in the life of the process for each sentence.
func (s *Sequencer) alertOnce(ctx context.Context, alert *Alert) {
	s.mu.Lock()
	known := s.notified[alert.Message]
	s.mu.Unlock()
	if known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.MaxWait)
	defer cancel()
	if err := audit.Change(ctx, s.DB, s.MACKey, alert.event(s.Now()), func(*sqlx.Tx) error { return nil }); err != nil {
		s.Log.WarnContext(ctx, "an alert could not be recorded; it is tried again", "code", alert.Code, "error", err)
		return
	}
	s.mu.Lock()
	s.notified[alert.Message] = true
	s.mu.Unlock()
	if s.Alerted != nil {
		s.Alerted(alert)
	}
}

const (
	// So that a session whose process has vanished lets go of the lock.
	setSession = `
set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3;
set client_connection_check_interval = '5s'; set idle_in_transaction_session_timeout = '60s'; set statement_timeout = '60s'`
	tryLock = `select pg_try_advisory_lock(7220417051)`
)

// term is one time of holding the lock. It returns nil when somebody else has it.
func (s *Sequencer) term(ctx context.Context) error {
	conn, err := s.DB.Connx(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// The session ends with the term, and the lock with the session: nothing of it goes back to the pool.
	defer discard(conn)
	opening, cancel := context.WithTimeout(ctx, s.MaxWait)
	defer cancel()
	if _, err := conn.ExecContext(opening, setSession); err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	var mine bool
	if err := conn.GetContext(opening, &mine, tryLock); err != nil || !mine {
		return err
	}
	t, err := s.begin(opening, conn)
	if err != nil {
		return err
	}
	cancel()
	s.leading.Store(true)
	s.setTrouble("")
	s.Log.InfoContext(ctx, "this process sequences the ledger", "size", t.edge.size)
	return t.lead(ctx)
}

// term is what the holder of the lock knows.
type term struct {
	*Sequencer

	conn    *sqlx.Conn
	scanner audit.RawScanner
	origin  string
	newest  string        // public half of the newest key
	signers []note.Signer // of the next checkpoint; the newest last
	edge    edge
	cursor  cursor
	writers *writers
	actors  map[[2]string]bool
	began   time.Time // by Now: since when it has been keeping up
	swept   time.Time // up to when events without a leaf were looked for
	horizon time.Time // when the transaction horizon was first seen held; zero while it moves

	rows []audit.Event // of the batch at hand
}

// cursor is a place in the order of transactions.
type cursor struct {
	epoch int32
	xid   uint64
	whole bool // the transaction itself is done with
}

const selectCluster = `
select (select system_identifier from pg_control_system()) as identifier,
  pg_snapshot_xmin(pg_current_snapshot())::text as horizon, (select epoch from rgw.cluster_epoch) as epoch,
  coalesce((select system_identifier from rgw.ledger_clusters c where c.epoch = (select epoch from rgw.cluster_epoch)), 0) as known`

const raiseEpoch = `select rgw.raise_cluster_epoch($1, $2, $3)`

// begin reads where the term goes on from, and refuses when that is not what was signed.
func (s *Sequencer) begin(ctx context.Context, conn *sqlx.Conn) (*term, error) {
	if err := s.step(ctx, "begin"); err != nil {
		return nil, err
	}
	t := &term{Sequencer: s, conn: conn, edge: edge{roots: make([]tlog.Hash, 0, 64)}, actors: make(map[[2]string]bool)}
	rows, _, err := s.Keys.ensureKeys(ctx, s.DB, false, func(tx *sqlx.Tx, public string, first bool) error {
		e := systemEvent(s.Now(), ActionKey)
		e.Detail.Params.Add("public_key", public)
		if first {
			e.Detail.Params.Add("first", "true")
		}
		return recordIn(ctx, tx, s.MACKey, e)
	})
	if err != nil {
		return nil, err
	}
	newest := rows[len(rows)-1]
	t.origin, t.newest = nameOf(newest.PublicKey), newest.PublicKey
	var ring Keyring
	for _, row := range rows {
		ring = append(ring, row.PublicKey)
	}
	signer, err := s.Keys.signerOf(newest)
	if err != nil {
		return nil, &stopError{AlertKey, err.Error()}
	}
	t.signers = []note.Signer{signer}

	h, err := readHead(ctx, conn)
	if err != nil {
		return nil, err
	}
	if h != nil {
		c, err := ParseCheckpoint(h.Note, ring)
		if err != nil || c.N != h.Size {
			return nil, &stopError{AlertKey, fmt.Sprintf("the newest checkpoint in the database (size %d) is not one that this gateway signed: "+
				"%v; compare with the bucket: admin audit verify --bucket", h.Size, cmp.Or(err, errCheckpointForm))}
		}
		if t.edge, err = readEdge(c.Tree, hashReader(c.Tree, dbTiles{ctx, conn})); err != nil {
			if postgres.IsUnavailable(err) || ctx.Err() != nil {
				return nil, err
			}
			return nil, &stopError{AlertStored, "the stored tree is not the one that was signed: " + err.Error() + "; find out where with admin audit verify"}
		}
		t.edge.roots = append(make([]tlog.Hash, 0, 64), t.edge.roots...)
		if err := t.remembers(ctx, c); err != nil {
			return nil, err
		}
		t.cursor = cursor{epoch: h.CursorEpoch, xid: h.CursorXID, whole: h.CursorWhole}
		// The key was replaced: the one before signs once more.
		if last := c.Signers[len(c.Signers)-1]; !contains(c.Signers, newest.PublicKey) {
			for _, row := range rows {
				if row.PublicKey != last {
					continue
				}
				before, err := s.Keys.signerOf(row)
				if err != nil {
					// Lost with a database that was rebuilt since, which the log tells.
					var restored bool
					if e := conn.GetContext(ctx, &restored, selectRestoredAt, h.Size); e != nil || !restored {
						return nil, errors.Join(e, &stopError{AlertKey, err.Error()})
					}
					break
				}
				t.signers = []note.Signer{before, signer}
			}
		}
	} else if s.signed != nil {
		return nil, &stopError{AlertRolledBack, fmt.Sprintf("the database has no checkpoint, and this process signed one of size %d: "+
			"it was replaced by an older one; see admin audit recover", s.signed.N)}
	}
	if err := t.compareWithAnchor(ctx); err != nil {
		return nil, err
	}
	if err := t.settleEpoch(ctx); err != nil {
		return nil, err
	}
	if t.writers, err = loadWriters(ctx, conn); err != nil {
		return nil, err
	}
	t.began = s.Now()
	s.size.Store(t.edge.size)
	return t, nil
}

func contains(list []string, one string) bool {
	for _, item := range list {
		if item == one {
			return true
		}
	}
	return false
}

// remembers holds the database against what this process itself saw committed.
func (t *term) remembers(ctx context.Context, c *Checkpoint) error {
	was := t.signed
	switch {
	case was == nil:
	case c.N < was.N:
		return &stopError{AlertRolledBack, fmt.Sprintf("the database is at size %d of the ledger, and this process signed %d: "+
			"it was replaced by an older one; see admin audit recover", c.N, was.N)}
	default:
		return t.extends(ctx, was, c, "this process signed")
	}
	return nil
}

// extends checks that the tree of the database extends one that was signed before.
func (t *term) extends(ctx context.Context, was, is *Checkpoint, who string) error {
	if was.N == 0 || was.Tree == is.Tree {
		return nil
	}
	got, err := tlog.TreeHash(was.N, hashReader(is.Tree, dbTiles{ctx, t.conn}))
	if err != nil {
		if postgres.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
		return &stopError{AlertStored, "the stored tree is not the one that was signed: " + err.Error()}
	}
	if got != was.Hash {
		return &stopError{AlertForked, fmt.Sprintf("the ledger in the database is another than the one that %s: at size %d its root is %v, and was %v; "+
			"find the first event that differs with admin audit verify --bucket", who, was.N, got, was.Hash)}
	}
	return nil
}

const selectRestoredAt = `select exists (select from rgw.ledger_restores where size = $1)`

const selectRestore = `select exists (select from rgw.ledger_restores where lost_note = $1 and size <= $2)`

// compareWithAnchor holds the database against the newest anchored checkpoint.
func (t *term) compareWithAnchor(ctx context.Context) error {
	if t.Anchored == nil || t.signed != nil { // what this process itself signed is newer
		return nil
	}
	anchored, err := t.Anchored(ctx)
	if err != nil {
		return &stopError{AlertAnchor, "the newest anchored checkpoint could not be read, and nothing is signed before it was compared with: " + err.Error()}
	}
	if anchored == nil || anchored.N == 0 {
		return nil
	}
	if anchored.Origin != t.origin {
		return &stopError{AlertForked, fmt.Sprintf("the bucket holds the log %s, and this is %s: give it a prefix of its own with AUDIT_ANCHOR_CHAIN_ID",
			strconv.Quote(anchored.Origin), strconv.Quote(t.origin))}
	}
	var restored bool
	if err := t.conn.GetContext(ctx, &restored, selectRestore, anchored.Note, t.edge.size); err != nil {
		return fmt.Errorf("read what was restored: %w", err)
	}
	if restored { // known to be ahead, and told in the log
		return nil
	}
	if anchored.N > t.edge.size {
		return &stopError{AlertRolledBack, fmt.Sprintf("the bucket holds a checkpoint of size %d, and the database is at %d: it was replaced by an older one, "+
			"or lost what it had committed; bring the leaves back with admin audit recover", anchored.N, t.edge.size)}
	}
	return t.extends(ctx, anchored, &Checkpoint{Tree: tlog.Tree{N: t.edge.size, Hash: t.edge.root()}}, "was anchored")
}

// settleEpoch finds out whether this is the cluster that the cursor was made in.
func (t *term) settleEpoch(ctx context.Context) error {
	var c struct {
		Identifier int64  `db:"identifier"`
		Horizon    uint64 `db:"horizon"`
		Epoch      int32  `db:"epoch"`
		Known      int64  `db:"known"`
	}
	if err := t.conn.GetContext(ctx, &c, selectCluster); err != nil {
		return fmt.Errorf("read which cluster this is: %w", err)
	}
	because := ""
	switch {
	case c.Known == 0:
	case c.Known != c.Identifier:
		because = fmt.Sprintf("the system identifier of the cluster is %d, and was %d", c.Identifier, c.Known)
	case t.cursor.epoch == c.Epoch && c.Horizon < t.cursor.xid:
		because = fmt.Sprintf("transaction ids went back from %d to %d", t.cursor.xid, c.Horizon)
	}
	epoch := c.Epoch
	if because != "" || c.Known == 0 {
		from := c.Epoch
		if c.Known == 0 {
			from, because = c.Epoch-1, cmp.Or(because, "the first that was seen") // matches no row: the life stays as it is
		}
		if err := t.conn.GetContext(ctx, &epoch, raiseEpoch, from, c.Identifier, because); err != nil {
			return fmt.Errorf("begin a new life of the cluster: %w", err)
		}
	}
	if epoch != c.Epoch {
		e := systemEvent(t.Now(), ActionEpoch)
		e.Detail.Error = because
		e.Detail.Params.Add("epoch", strconv.Itoa(int(epoch)))
		if err := audit.Change(ctx, t.DB, t.MACKey, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return fmt.Errorf("record that the cluster began a new life: %w", err)
		}
		t.Log.WarnContext(ctx, "the database cluster began a new life", "epoch", epoch, "because", because)
	}
	if t.cursor.epoch != epoch {
		t.cursor = cursor{epoch: epoch} // what the lives before left behind is below every horizon: searchAll finds it
	}
	return nil
}

// lead sequences until something goes wrong.
func (t *term) lead(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var searching sync.WaitGroup
	defer searching.Wait()
	defer cancel()
	found := make(chan [2]time.Time)
	var searched time.Time

	poll := time.NewTicker(t.Poll)
	defer poll.Stop()
	var last time.Time
	for {
		if wait := t.Interval - time.Since(last); wait > 0 && !last.IsZero() {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		last = time.Now()
		more, err := t.round(ctx)
		if err != nil {
			return err
		}
		if took := time.Since(last); took > slowRound {
			t.began = t.Now() // writers may have been held up as well
		}
		if more {
			last = time.Time{}
			continue
		}
		if now := t.Now(); now.Sub(searched) > 24*time.Hour { // first when the cursor has caught up
			searched = now
			from := t.cursor
			searching.Go(func() { t.searchAll(ctx, from, now, found) })
		}
		select {
		case <-t.wake:
		case <-poll.C:
		case window := <-found:
			if err := t.sweep(ctx, window[0], window[1], false); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// slowRound is how long a round may take before silence that it may have caused is not held against writers.
const slowRound = 2 * time.Second

// round is one batch of events, and whatever is due beside it.
func (t *term) round(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.MaxWait)
	defer cancel()
	full, err := t.batch(ctx, false)
	if errors.Is(err, errHasLeaf) {
		full, err = t.batch(ctx, true)
	}
	if err != nil || full {
		return full, err
	}
	now := t.Now()
	until := now.Add(-lateAge)
	if t.swept.IsZero() {
		t.swept = until.Add(-lateAge)
	}
	if until.Sub(t.swept) < sweepEvery {
		return false, nil
	}
	held, err := t.lookAtHorizon(ctx, now)
	if err != nil {
		return false, err
	}
	from := t.swept
	if held {
		from = t.horizon.Add(-heldRange)
	}
	if err := t.sweep(ctx, from, until, held); err != nil {
		return false, err
	}
	t.swept = until
	return false, nil
}

const (
	// lateAge is how old an event without a leaf is when it is looked for beside the cursor.
	lateAge    = time.Minute
	sweepEvery = 15 * time.Second
	// heldRange is how far before a transaction began to hold the horizon events that wait behind it are looked for.
	heldRange = 10 * time.Minute
)

// errHasLeaf says that an event of the batch has its leaf already: it was swept up before the horizon passed it.
var errHasLeaf = errors.New("an event has its leaf already")

var (
	selectBatch = `
select ` + audit.Columns("e") + `
from rgw.audit_events e
where e.epoch = $1 and e.xid > $2::text::xid8 and e.xid < pg_snapshot_xmin(pg_current_snapshot())
order by e.xid, e.writer_id nulls first, e.writer_seq nulls first, e.event_id
limit $3`

	// For what may partly have leaves.
	selectBatchCarefully = `
select ` + audit.Columns("e") + `
from rgw.audit_events e
where e.epoch = $1 and e.xid >= $2::text::xid8 and e.xid < pg_snapshot_xmin(pg_current_snapshot())
  and not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)
order by e.xid, e.writer_id nulls first, e.writer_seq nulls first, e.event_id
limit $3`

	// Whatever should have a leaf by now, wherever it stands.
	selectLate = `
select ` + audit.Columns("e") + `
from rgw.audit_events e
where e.occurred_at >= $1 and e.occurred_at < $2 and (e.epoch <> $4 or e.xid < $5::text::xid8 or $6)
  and not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)
order by e.epoch, e.xid, e.writer_id nulls first, e.writer_seq nulls first, e.event_id
limit $3`

	insertLeaves = `
insert into rgw.ledger_leaves (leaf_index, occurred_at, event_id, hash)
select $1::bigint + n - 1, at, id, hash from unnest($2::timestamptz[], $3::uuid[], $4::bytea[]) with ordinality as l(at, id, hash, n)`

	insertHashes = `
insert into rgw.ledger_hashes (level, hash_index, hash) select * from unnest($1::smallint[], $2::bigint[], $3::bytea[])`

	insertCheckpoint = `
insert into rgw.ledger_checkpoints (size, previous_size, note, signed_at, cursor_epoch, cursor_xid, cursor_whole)
values ($1, $2, $3, $4, $5, $6::text::xid8, $7)`

	insertActors = `
insert into rgw.ledger_actors (actor_label, actor_id) select * from unnest($1::text[], $2::text[]) on conflict do nothing`

	notifyLedger = `select pg_notify('` + Channel + `', $1)`
)

// sweep appends events of a time that the cursor has passed without giving them a leaf: those of an earlier life of
// the cluster, those that somebody inserted below the horizon, and, with held, those that wait behind a transaction
// that has been holding the horizon for long.
func (t *term) sweep(ctx context.Context, from, until time.Time, held bool) error {
	ctx, cancel := context.WithTimeout(ctx, t.MaxWait)
	defer cancel()
	for {
		full, err := t.batchOf(ctx, true, t.MaxBatch, func(tx *sqlx.Tx) (*sqlx.Rows, error) {
			return tx.QueryxContext(ctx, selectLate, from, until, t.MaxBatch, t.cursor.epoch, t.cursor.bound(), held)
		}, true)
		if err != nil || !full {
			return err
		}
	}
}

// bound is the first transaction that may have events without leaves, as the database reads it.
func (c cursor) bound() string {
	if c.whole {
		return strconv.FormatUint(c.xid+1, 10)
	}
	return strconv.FormatUint(c.xid, 10)
}

const (
	selectLateRange = `
select min(e.occurred_at) as first, max(e.occurred_at) as last
from rgw.audit_events e
where e.occurred_at >= $1 and e.occurred_at < $2 and (e.epoch <> $3 or e.xid < $4::text::xid8)
  and not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)`

	selectNextTime = `select min(occurred_at) from rgw.audit_events where occurred_at >= $1 and occurred_at < $2`
)

// searchAll looks through the whole record, day by day, for events that the cursor passed without giving them a leaf,
// and hands over when they happened. It only reads, on a connection of its own, so that sequencing goes on.
func (t *term) searchAll(ctx context.Context, from cursor, until time.Time, found chan<- [2]time.Time) {
	until = until.Add(-lateAge)
	var at time.Time // the beginning
	for {
		var next sql.NullTime
		if err := t.DB.GetContext(ctx, &next, selectNextTime, at, until); err != nil {
			t.searchFailed(ctx, err)
			return
		}
		if !next.Valid {
			return
		}
		at = next.Time
		end := at.Add(24 * time.Hour)
		if end.After(until) {
			end = until
		}
		var window struct {
			First sql.NullTime `db:"first"`
			Last  sql.NullTime `db:"last"`
		}
		if err := t.DB.GetContext(ctx, &window, selectLateRange, at, end, from.epoch, from.bound()); err != nil {
			t.searchFailed(ctx, err)
			return
		}
		if window.First.Valid {
			select {
			case found <- [2]time.Time{window.First.Time, window.Last.Time.Add(time.Microsecond)}:
			case <-ctx.Done():
				return
			}
		}
		at = end
	}
}

func (t *term) searchFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		t.Log.WarnContext(ctx, "the record could not be searched for events without a place; it is tried again tomorrow", "error", err)
	}
}

const selectLag = `
select coalesce(extract(epoch from now() - min(e.occurred_at)), 0)::float8
from rgw.audit_events e
where e.epoch = $1 and e.xid >= pg_snapshot_xmin(pg_current_snapshot())
  and not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)`

// horizonPatience is how long the transaction horizon may be held before it is an alert.
const horizonPatience = 5 * time.Minute

// lookAtHorizon finds out how far the transaction horizon lags behind the newest events. Held says that it has done so
// for more than a minute.
func (t *term) lookAtHorizon(ctx context.Context, now time.Time) (held bool, err error) {
	var seconds float64
	if err := t.conn.GetContext(ctx, &seconds, selectLag, t.cursor.epoch); err != nil {
		return false, fmt.Errorf("how far the horizon lags: %w", err)
	}
	t.lag.Store(int64(max(seconds, 0) * float64(time.Second)))
	switch {
	case seconds < lateAge.Seconds():
		if seconds < 5 { // events under way, and nothing else
			t.horizon = time.Time{}
		}
	case t.horizon.IsZero():
		t.horizon = now
	}
	if t.horizon.IsZero() {
		return false, nil
	}
	if now.Sub(t.horizon) > horizonPatience {
		t.alertOnce(ctx, &Alert{Code: AlertTransaction, Leaf: -1, Count: 1, Message: fmt.Sprintf("a transaction has been open in the database since before %s, "+
			"so that events get their place in the ledger a minute late: find it in pg_stat_activity and end it", t.horizon.UTC().Format(time.RFC3339))})
	}
	return now.Sub(t.horizon) > lateAge, nil
}

// batch gives the next events their leaves. Full says that there may be more at once.
func (t *term) batch(ctx context.Context, careful bool) (full bool, err error) {
	careful = careful || !t.cursor.whole
	limit := t.MaxBatch
	if !t.cursor.whole {
		limit *= largePieces
	}
	return t.batchOf(ctx, careful, limit, func(tx *sqlx.Tx) (*sqlx.Rows, error) {
		query := selectBatch
		if careful {
			query = selectBatchCarefully
		}
		return tx.QueryxContext(ctx, query, t.cursor.epoch, strconv.FormatUint(t.cursor.xid, 10), limit)
	}, false)
}

// largePieces is how many times larger the pieces of a transaction are that does not fit into a batch: for each of them the
// database goes through the whole transaction, and leaves out what has its leaf.
const largePieces = 4

// batchOf is one batch, which is one transaction: leaves, hashes, checkpoint, alerts, and what is known of writers.
func (t *term) batchOf(ctx context.Context, careful bool, limit int, query func(*sqlx.Tx) (*sqlx.Rows, error), late bool) (full bool, err error) {
	t.writers.begin()
	if err := t.step(ctx, "begin a batch"); err != nil {
		return false, err
	}
	tx, err := t.conn.BeginTxx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("begin a batch: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := t.step(ctx, "read"); err != nil {
		return false, err
	}
	rows, err := query(tx)
	if err != nil {
		return false, fmt.Errorf("read events: %w", err)
	}
	if err := t.take(rows); err != nil {
		return false, err
	}
	next := t.cursor
	if full = len(t.rows) == limit; !late && len(t.rows) > 0 {
		next = t.advance(full)
	}

	b := &batchMade{edge: t.edge.clone()}
	now := t.Now()
	for i := range t.rows {
		t.place(&t.rows[i], now, late, b)
	}
	if !full {
		t.writers.overdue(now, t.began, &b.found)
	}
	if len(t.rows) == 0 && len(b.found.list) == 0 {
		return false, nil
	}
	checkpoint, err := t.save(ctx, tx, b, next, now)
	if err != nil {
		if postgres.SQLState(err) == "23505" && !careful { // unique_violation
			return false, errHasLeaf
		}
		return false, err
	}
	if err := t.step(ctx, "commit"); err != nil {
		return false, err
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("commit a batch: %w", err) // which may have been done: the next term will see
	}
	if err := t.step(ctx, "committed"); err != nil {
		return false, err
	}
	t.writers.accept()
	for _, alert := range b.found.list {
		t.Log.ErrorContext(ctx, "the ledger noticed something", "code", alert.Code, "what", alert.Message, "count", alert.Count, "event", alert.Event)
		if t.Alerted != nil {
			t.Alerted(alert)
		}
	}
	if checkpoint == nil {
		return full, nil
	}
	t.edge, t.cursor, t.signed = b.edge, next, checkpoint
	if len(t.signers) > 1 {
		t.signers = t.signers[1:]
	}
	for _, pair := range b.actors {
		if len(t.actors) < mostActors {
			t.actors[pair] = true
		}
	}
	t.size.Store(t.edge.size)
	t.events.Add(int64(len(t.rows)))
	t.batches.Add(1)
	if err := t.step(ctx, "notify"); err != nil {
		return false, err
	}
	if _, err := t.conn.ExecContext(ctx, notifyLedger, strconv.FormatInt(t.edge.size, 10)); err != nil {
		return false, fmt.Errorf("announce the checkpoint: %w", err)
	}
	if b.newKey {
		return false, errKeyReplaced
	}
	return full, nil
}

// mostActors bounds what is remembered of names that are known to be noted.
const mostActors = 100_000

// take reads the rows of a batch.
func (t *term) take(rows *sqlx.Rows) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	t.rows = t.rows[:0]
	for rows.Next() {
		t.rows = append(t.rows, audit.Event{})
		if err := t.scanner.Scan(rows, &t.rows[len(t.rows)-1]); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

// advance leaves what may be the beginning of a transaction only to the next batch, and returns the cursor behind
// the rest. One that is larger than a batch is taken piece by piece.
func (t *term) advance(full bool) cursor {
	last := t.rows[len(t.rows)-1].XID
	if !full {
		return cursor{epoch: t.cursor.epoch, xid: last, whole: true}
	}
	if t.rows[0].XID == last {
		return cursor{epoch: t.cursor.epoch, xid: last}
	}
	n := len(t.rows)
	for t.rows[n-1].XID == last {
		n--
	}
	t.rows = t.rows[:n]
	return cursor{epoch: t.cursor.epoch, xid: t.rows[n-1].XID, whole: true}
}

// batchMade is what a batch consists of.
type batchMade struct {
	edge   edge
	leaves []tlog.Hash
	tiles  []tileHash
	actors [][2]string
	seen   map[[2]string]bool
	found  alerts
	newKey bool // an event tells of a signing key that is not the one in use

	canonical []byte
}

// How far an event's time may be from that of its sequencing: the future is a wrong clock; the past can be an outage.
const (
	clockAhead  = 5 * time.Minute
	clockBehind = 24 * time.Hour
)

// place gives an event its leaf, and checks it as it goes.
func (t *term) place(e *audit.Event, now time.Time, late bool, b *batchMade) {
	leaf := b.edge.size
	b.canonical = e.AppendCanonical(b.canonical[:0])
	hash := tlog.RecordHash(b.canonical)
	b.leaves = append(b.leaves, hash)
	b.tiles = b.edge.add(hash, b.tiles)
	t.authenticate(e, leaf, b)
	if e.Action == ActionKey && e.Unpack() == nil {
		made := e.Detail.Params.Get("public_key")
		b.newKey = b.newKey || made != "" && made != t.newest
	}
	t.writers.see(e, now, leaf, &b.found)
	switch ahead := e.OccurredAt.Sub(now); {
	case ahead > clockAhead:
		b.found.note(AlertClock, e, leaf, "event %s is of %s, which is yet to come: the clock of its writer is wrong", e.ID, e.OccurredAt.Format(time.RFC3339))
	case ahead < -clockBehind && !late:
		b.found.note(AlertClock, e, leaf, "event %s is of %s, more than a day before it was recorded: the clock of its writer is wrong, or somebody added it by hand",
			e.ID, e.OccurredAt.Format(time.RFC3339))
	}
	if late {
		b.found.note(AlertLate, e, leaf, "event %s had no place in the ledger a minute after it happened: the database was restored, a transaction was open for long, "+
			"or somebody added it by hand", e.ID)
	}
	pair := [2]string{e.ActorLabel, e.ActorID}
	if pair[0] != "" && !t.actors[pair] && !b.seen[pair] {
		if b.seen == nil {
			b.seen = make(map[[2]string]bool)
		}
		b.seen[pair] = true
		b.actors = append(b.actors, pair)
	}
}

// authenticate checks who made the event.
func (t *term) authenticate(e *audit.Event, leaf int64, b *batchMade) {
	if e.WriterID == (uuid.UUID{}) {
		if e.ActorKind == audit.ActorDatabase {
			b.found.note(AlertOutside, e, leaf, "%s changed %s of the gateway's access tables by SQL, around the gateway (event %s)", e.ActorLabel, e.Resource, e.ID)
			return
		}
		b.found.note(AlertNoMAC, e, leaf, "event %s carries no MAC: no process of the gateway made it; somebody added it to the database by hand", e.ID)
		return
	}
	for _, key := range append([]audit.Key{t.MACKey}, t.MACKeys...) {
		if key.ID() != e.MACKeyID {
			continue
		}
		if !key.VerifyCanonical(e, b.canonical) {
			b.found.note(AlertMAC, e, leaf, "event %s is not as its writer made it: somebody changed it in the database before it got its place", e.ID)
		}
		return
	}
	b.found.note(AlertMACKey, e, leaf, "event %s was made with a MAC key (%s) that admin does not have: is AUDIT_MAC_KEY the same for proxy and admin? "+
		"After a change, give the one before as AUDIT_MAC_KEY_PREVIOUS", e.ID, e.MACKeyID)
}

// save writes a batch. The checkpoint is nil when there is nothing but alerts.
func (t *term) save(ctx context.Context, tx *sqlx.Tx, b *batchMade, next cursor, now time.Time) (*Checkpoint, error) {
	for _, alert := range b.found.sorted() {
		if err := audit.InsertTx(ctx, tx, t.MACKey, alert.event(now)); err != nil {
			return nil, fmt.Errorf("record an alert: %w", err)
		}
	}
	if err := t.step(ctx, "writers"); err != nil {
		return nil, err
	}
	if err := t.writers.save(ctx, tx); err != nil {
		return nil, err
	}
	if len(t.rows) == 0 {
		return nil, nil
	}
	if err := t.step(ctx, "leaves"); err != nil {
		return nil, err
	}
	if err := t.saveLeaves(ctx, tx, b); err != nil {
		return nil, err
	}
	if len(b.actors) > 0 {
		var labels, ids []string
		for _, pair := range b.actors {
			labels, ids = append(labels, pair[0]), append(ids, pair[1])
		}
		if _, err := tx.ExecContext(ctx, insertActors, pq.Array(labels), pq.Array(ids)); err != nil {
			return nil, fmt.Errorf("note names of actors: %w", err)
		}
	}
	if err := t.step(ctx, "sign"); err != nil {
		return nil, err
	}
	c, err := signCheckpoint(t.origin, tlog.Tree{N: b.edge.size, Hash: b.edge.root()}, t.signers...)
	if err != nil {
		return nil, err
	}
	if err := t.step(ctx, "checkpoint"); err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, insertCheckpoint, c.N, t.edge.size, c.Note, now, next.epoch, strconv.FormatUint(next.xid, 10), next.whole)
	if err != nil {
		return nil, fmt.Errorf("write the checkpoint of size %d after %d: %w", c.N, t.edge.size, err)
	}
	return c, nil
}

func (t *term) saveLeaves(ctx context.Context, tx *sqlx.Tx, b *batchMade) error {
	at, ids, hashes := newArray(30*len(t.rows)), newArray(40*len(t.rows)), newArray(72*len(t.rows))
	for i := range t.rows {
		at.add(func(dst []byte) []byte {
			return t.rows[i].OccurredAt.AppendFormat(append(dst, '"'), `2006-01-02 15:04:05.999999Z07:00"`)
		})
		ids.add(func(dst []byte) []byte { return append(dst, t.rows[i].ID.String()...) })
		hashes.add(func(dst []byte) []byte { return appendBytea(dst, b.leaves[i][:]) })
	}
	if _, err := tx.ExecContext(ctx, insertLeaves, t.edge.size, at.String(), ids.String(), hashes.String()); err != nil {
		return fmt.Errorf("write leaves from %d: %w", t.edge.size, err)
	}
	if len(b.tiles) == 0 {
		return nil
	}
	var levels, indexes []int64
	var tiles pq.ByteaArray
	for i := range b.tiles {
		levels, indexes, tiles = append(levels, int64(b.tiles[i].level)), append(indexes, b.tiles[i].index), append(tiles, b.tiles[i].hash[:])
	}
	if err := t.step(ctx, "hashes"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, insertHashes, pq.Array(levels), pq.Array(indexes), tiles); err != nil {
		return fmt.Errorf("write hashes of tiles: %w", err)
	}
	return nil
}

// array is a PostgreSQL array in text form, made without one allocation an element.
type array struct{ buf []byte }

func newArray(room int) *array { return &array{append(make([]byte, 0, room+2), '{')} }

func (a *array) add(element func([]byte) []byte) {
	if len(a.buf) > 1 {
		a.buf = append(a.buf, ',')
	}
	a.buf = element(a.buf)
}

// String ends the array.
func (a *array) String() string { return string(append(a.buf, '}')) }

func appendBytea(dst, value []byte) []byte {
	dst = append(dst, `"\\x`...)
	dst = hex.AppendEncode(dst, value)
	return append(dst, '"')
}
