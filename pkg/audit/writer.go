package audit

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
)

// ErrQueueFull says that events wait for the database to more bytes than may wait.
var ErrQueueFull = errors.New("the audit queue is full")

// ErrClosed says that the writer ended before the event was durable.
var ErrClosed = errors.New("the audit writer is closed")

// WriterOptions says how a writer behaves. Key must be given; the zero value of the others is their default.
type WriterOptions struct {
	Key           Key
	MaxWait       time.Duration // for one attempt, after which its connection is given up; default 10 seconds
	MaxQueueBytes int           // of events that wait; default 16 MiB
	MaxBatch      int           // events in one transaction; default 512
	Heartbeat     time.Duration // default 10 seconds
	NotifyEvery   time.Duration // between notifications at least; default 10 ms
	Logger        *slog.Logger
	Now           func() time.Time
	Observer      Observer
}

// Observer is told what the writer does, for metrics. Each function may be nil. They are called from the
// writer's goroutine and must be quick.
type Observer struct {
	Committed func(events, bytes int, took time.Duration) // a batch became durable
	Retried   func(err error)                             // an attempt failed and will be repeated
	Hardened  func(code string)                           // an event was recorded with less than it said; code is the SQLSTATE
}

// Writer makes events durable. Events queue; one goroutine takes all that wait, up to MaxBatch, and
// inserts them in one transaction: the more arrive at once, the less each costs. A batch starts as soon as
// the one before it is durable. What could not be inserted is tried again until it is: the key of an
// event is fixed before the first attempt, so that an attempt whose outcome nobody learnt of is not
// doubled by the next.
type Writer struct {
	id   uuid.UUID
	db   *sqlx.DB
	opts WriterOptions

	mu       sync.Mutex
	queue    []*entry
	bytes    int   // of the events in queue and in the batch at hand
	refused  int64 // events that found the queue full since the last heartbeat
	closing  bool  // no more events are taken
	closed   bool  // Run has ended
	wake     chan struct{}
	stopping chan struct{} // closed by Close
	done     chan struct{} // closed when Run has ended

	oldest     atomic.Int64 // when the oldest event of the batch at hand was queued, UnixNano; 0 when none
	connected  atomic.Bool
	written    atomic.Int64
	lastCommit atomic.Int64 // UnixNano
	failure    atomic.Pointer[failure]

	entries sync.Pool // of *entry
	tickets sync.Pool // of *Ticket

	// What follows belongs to the goroutine of Run.
	seq       int64
	unbeaten  int64 // events since the last heartbeat
	mac       hash.Hash
	conn      *postgres.Conn
	insert    *postgres.Stmt
	again     *postgres.Stmt // for a batch that was tried before
	columns   columns
	canonical []byte
	space     []*entry // what batch is made in
	batch     []*entry // numbered and not durable yet

	// To the goroutine of runNotifier.
	notify chan struct{} // there are new events
	ended  chan struct{} // closed when there will be no more
}

type failure struct {
	err   error
	since time.Time
}

// entry is an event in the queue.
type entry struct {
	event    Event
	detail   []byte // of the event, as it is stored
	facts    []byte // canonical bytes up to the writer's part
	mac      [32]byte
	size     int
	queued   int64 // UnixNano
	ticket   *Ticket
	hardened int
}

// Ticket is the promise that an event will be durable.
type Ticket struct {
	done chan struct{} // gets one value when the event is durable, or will not be
	err  error         // set before that
	over bool          // the value was taken; the waiter's own
}

// Wait waits until the event is durable and returns nil, or until the context ends; the event stays
// queued then. One goroutine at a time may wait.
func (t *Ticket) Wait(ctx context.Context) error {
	if t.over {
		return t.err
	}
	select {
	case <-t.done:
		t.over = true
		return t.err
	case <-ctx.Done():
	}
	select {
	case <-t.done: // both happened: the record counts
		t.over = true
		return t.err
	default:
		return ctx.Err()
	}
}

// NewWriter returns a writer to the database of the pool. It uses two connections of its own beside the
// pool. It takes events from now on and writes them once Run runs.
func NewWriter(db *sqlx.DB, opts WriterOptions) *Writer {
	if opts.MaxWait <= 0 {
		opts.MaxWait = 10 * time.Second
	}
	if opts.MaxQueueBytes <= 0 {
		opts.MaxQueueBytes = 16 << 20
	}
	if opts.MaxBatch <= 0 {
		opts.MaxBatch = 512
	}
	if opts.Heartbeat <= 0 {
		opts.Heartbeat = 10 * time.Second
	}
	if opts.NotifyEvery <= 0 {
		opts.NotifyEvery = 10 * time.Millisecond
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	w := &Writer{
		id: NewID(opts.Now()), db: db, opts: opts,
		wake: make(chan struct{}, 1), stopping: make(chan struct{}), done: make(chan struct{}),
		notify: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	w.entries.New = func() any { return new(entry) }
	w.tickets.New = func() any { return &Ticket{done: make(chan struct{}, 1)} }
	return w
}

// ID is the writer's id, new with every life of the process.
func (w *Writer) ID() uuid.UUID { return w.id }

// Record makes an event durable. It returns nil when it is, and the context's error when that ended first;
// the event stays queued then, and its outcome is unknown.
func (w *Writer) Record(ctx context.Context, e *Event) error {
	t, err := w.Enqueue(e)
	if err != nil {
		return err
	}
	err = t.Wait(ctx)
	if t.over {
		t.err, t.over = nil, false
		w.tickets.Put(t)
	}
	return err
}

// Enqueue queues an event as it is now; what becomes of it later does not matter. It returns ErrQueueFull, at once, when too much
// waits, and ErrClosed when the writer does not take events any more.
func (w *Writer) Enqueue(e *Event) (*Ticket, error) {
	e.identify()
	n, _ := w.entries.Get().(*entry)
	n.event = *e
	n.event.WriterID = w.id
	n.detail = n.event.prepare(n.detail)
	n.facts = n.event.appendFacts(n.facts[:0])
	n.event.Detail = Detail{} // encoded
	n.size = len(n.facts) + entryOverhead
	n.hardened = 0
	t, _ := w.tickets.Get().(*Ticket)
	n.ticket = t
	n.queued = w.opts.Now().UnixNano()

	w.mu.Lock()
	var err error
	switch {
	case w.closing || w.closed:
		err = ErrClosed
	case w.bytes+n.size > w.opts.MaxQueueBytes:
		err = ErrQueueFull
		w.refused++
	default:
		w.queue = append(w.queue, n)
		w.bytes += n.size
	}
	w.mu.Unlock()
	if err != nil {
		w.release(n)
		w.tickets.Put(t)
		return nil, err
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return t, nil
}

// entryOverhead is what an event in the queue takes besides its canonical bytes, roughly: the detail once
// more, and the structure.
const entryOverhead = 1024

func (w *Writer) release(n *entry) {
	n.event = Event{}
	n.ticket = nil
	if cap(n.facts)+cap(n.detail) <= 2*MaxCanonical {
		w.entries.Put(n)
	}
}

// State is how the writer is doing.
type State struct {
	OK         bool // connected, and nothing has waited for long
	Queued     int  // events that wait
	Bytes      int  // that they take, with those being written
	OldestWait time.Duration
	Written    int64 // events in this life
	LastCommit time.Time
	Err        error // of the last attempt, nil when it succeeded
	FailingFor time.Duration
}

// State tells how the writer is doing, for readiness and metrics.
func (w *Writer) State() State {
	now := w.opts.Now()
	w.mu.Lock()
	s := State{Queued: len(w.queue), Bytes: w.bytes}
	oldest := int64(0)
	if len(w.queue) > 0 {
		oldest = w.queue[0].queued
	}
	closed := w.closed
	w.mu.Unlock()
	if at := w.oldest.Load(); at != 0 {
		oldest = at
	}
	if oldest != 0 {
		s.OldestWait = max(now.Sub(time.Unix(0, oldest)), 0)
	}
	if at := w.lastCommit.Load(); at != 0 {
		s.LastCommit = time.Unix(0, at)
	}
	s.Written = w.written.Load()
	if f := w.failure.Load(); f != nil {
		s.Err, s.FailingFor = f.err, max(now.Sub(f.since), 0)
	}
	s.OK = w.connected.Load() && !closed && s.Err == nil && s.OldestWait < w.opts.MaxWait/4
	return s
}

// Close has the writer take no more events, make durable those that wait, and record that it ends. It
// returns when Run has ended. When the context ends first, what is not durable by then is given up: its
// tickets get ErrClosed.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closing {
		w.closing = true
		close(w.stopping)
	}
	w.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the audit writer: %w", ctx.Err())
	}
}

// Run writes until Close has everything written, and returns nil then. When the context ends first, it
// gives up what is not durable.
func (w *Writer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var notifier sync.WaitGroup
	notifier.Go(func() { w.runNotifier(ctx) })
	w.mac = w.opts.Key.mac()
	beat := time.NewTicker(w.opts.Heartbeat)
	err := w.loop(ctx, beat.C)
	beat.Stop()
	close(w.ended)
	if err != nil {
		cancel()
	}
	notifier.Wait()
	cancel()
	if w.conn != nil {
		_ = w.conn.Close()
	}
	w.connected.Store(false)

	w.mu.Lock()
	w.closed = true
	left := append(append([]*entry(nil), w.batch...), w.queue...)
	w.queue, w.bytes = nil, 0
	w.mu.Unlock()
	for _, n := range left {
		w.complete(n, ErrClosed)
	}
	close(w.done)
	return err
}

func (w *Writer) loop(ctx context.Context, beat <-chan time.Time) error {
	w.tryConnect(ctx) // to know at once whether the database can be written to
	for {
		select {
		case <-beat: // also while there is always something to write
			if err := w.heartbeat(ctx); err != nil {
				return err
			}
		default:
		}
		w.gather()
		if w.take() {
			if err := w.commit(ctx, w.batch, false); err != nil {
				return err
			}
			continue
		}
		if w.drained() {
			return w.end(ctx)
		}
		select {
		case <-w.wake:
		case <-w.stopping:
		case <-beat:
			if err := w.heartbeat(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heartbeat records that the writer lives, when it has written since it last said so: a silence after
// other events is then one that somebody made.
func (w *Writer) heartbeat(ctx context.Context) error {
	if w.unbeaten == 0 {
		if w.conn == nil {
			w.tryConnect(ctx)
		}
		return nil
	}
	if err := w.own(ctx, "audit.heartbeat", false); err != nil {
		return err
	}
	w.unbeaten = 0
	return nil
}

// end records that the writer ends, when there is anything that it could be missed from.
func (w *Writer) end(ctx context.Context) error {
	if w.seq == 0 {
		return nil
	}
	return w.own(ctx, "audit.close", true)
}

// own records an event of the writer's own.
func (w *Writer) own(ctx context.Context, action string, closes bool) error {
	e := NewEvent(w.opts.Now())
	e.Kind, e.ActorKind, e.ActorLabel, e.Action = KindSystem, ActorSystem, "gateway", action
	e.Detail.Closes = closes
	w.mu.Lock()
	e.Detail.Count = w.refused // requests that nobody could record
	w.refused = 0
	w.mu.Unlock()
	e.identify()
	n := &entry{event: *e, queued: e.OccurredAt.UnixNano(), ticket: &Ticket{done: make(chan struct{}, 1)}}
	n.event.WriterID = w.id
	n.detail = n.event.prepare(nil)
	n.facts = n.event.appendFacts(nil)
	w.number(n)
	w.batch = append(w.space[:0], n)
	return w.commit(ctx, w.batch, false)
}

// drained tells whether no event waits and none will come.
func (w *Writer) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing && len(w.queue) == 0
}

// gather lets those go first who are about to queue an event, as long as more come: one commit then serves them
// all. Nobody is waited for: when no goroutine is ready to run, this takes no time.
func (w *Writer) gather() {
	waiting := w.waiting()
	for range mostGathering {
		if waiting == 0 || waiting >= w.opts.MaxBatch {
			return
		}
		runtime.Gosched()
		more := w.waiting()
		if more == waiting {
			return
		}
		waiting = more
	}
}

// waiting is how many events wait to be taken.
func (w *Writer) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

// mostGathering is how often gather gives way at most.
const mostGathering = 8

// take makes the next batch of what waits, and tells whether there is one.
func (w *Writer) take() bool {
	w.mu.Lock()
	n := min(len(w.queue), w.opts.MaxBatch)
	if n > 0 {
		w.space = append(w.space[:0], w.queue[:n]...)
		w.batch = w.space
		rest := copy(w.queue, w.queue[n:])
		clear(w.queue[rest:])
		w.queue = w.queue[:rest]
		w.oldest.Store(w.batch[0].queued)
	}
	w.mu.Unlock()
	if n == 0 {
		return false
	}
	for _, e := range w.batch {
		w.number(e)
	}
	return true
}

// number gives an event its place and its MAC.
func (w *Writer) number(n *entry) {
	w.seq++
	n.event.WriterSeq = w.seq
	w.sign(n)
}

func (w *Writer) sign(n *entry) {
	w.canonical = n.event.appendWriter(append(w.canonical[:0], n.facts...))
	w.mac.Reset()
	_, _ = w.mac.Write(w.canonical)
	w.mac.Sum(n.mac[:0])
}

// checkViolation is the SQLSTATE of a row that breaks a constraint, that of its partition included.
const checkViolation = "23514"

// commit makes a batch durable, whatever that takes, unless the context ends. When it was tried before, it may be
// durable already.
func (w *Writer) commit(ctx context.Context, batch []*entry, tried bool) error {
	const shortest, longest = 10 * time.Millisecond, 500 * time.Millisecond
	backoff := time.Duration(0) // a connection that broke while it was idle costs nothing
	doubted := false
	for {
		start := time.Now()
		err := w.attempt(ctx, batch, tried)
		tried = true
		if err == nil {
			w.committed(batch, time.Since(start))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if postgres.IsData(err) {
			if len(batch) > 1 { // find the one that is at fault
				half := len(batch) / 2
				if err := w.commit(ctx, batch[:half], true); err != nil {
					return err
				}
				return w.commit(ctx, batch[half:], true)
			}
			if !doubted && postgres.SQLState(err) == checkViolation {
				// A row on its way into the net while its month's partition is made is in neither: it is no fault of the event's.
				doubted = true
				continue
			}
			if w.harden(batch[0], err) {
				continue
			}
		}
		w.failed(err)
		if backoff > 0 {
			timer := time.NewTimer(backoff)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		backoff = min(max(2*backoff, shortest), longest)
	}
}

// attempt tries once to insert a batch. After an error of the connection's the next attempt makes a new one.
func (w *Writer) attempt(ctx context.Context, batch []*entry, tried bool) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	insert := w.insert
	if tried {
		insert = w.again
	}
	w.conn.SetDeadline(time.Now().Add(w.opts.MaxWait))
	conn := w.conn
	stop := context.AfterFunc(ctx, conn.Interrupt)
	err := insert.Exec(context.Background(), w.columns.of(w.opts.Key.id, batch))
	stop()
	if err != nil && !postgres.IsData(err) {
		w.disconnect()
	}
	return err
}

func (w *Writer) disconnect() {
	if w.conn != nil {
		_ = w.conn.Close() // what it has to say was said by the attempt
		w.conn, w.insert, w.again = nil, nil, nil
		w.connected.Store(false)
	}
}

// connect sees to it that there is a connection with the statement prepared.
func (w *Writer) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.opts.MaxWait)
	defer cancel()
	conn, err := postgres.Connect(ctx, w.db)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	insert, err := conn.Prepare(ctx, insertBatch)
	var again *postgres.Stmt
	if err == nil {
		again, err = conn.Prepare(ctx, insertAgain)
	}
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("prepare: %w", err)
	}
	w.conn, w.insert, w.again = conn, insert, again
	w.connected.Store(true)
	return nil
}

// tryConnect connects while there is nothing to write, so that State tells the truth.
func (w *Writer) tryConnect(ctx context.Context) {
	if err := w.connect(ctx); err != nil {
		w.failed(err)
		return
	}
	w.recovered()
}

func (w *Writer) recovered() {
	if f := w.failure.Swap(nil); f != nil {
		w.opts.Logger.Info("audit events can be written again", "after", w.opts.Now().Sub(f.since))
	}
}

func (w *Writer) failed(err error) {
	f := &failure{err: err, since: w.opts.Now()}
	if before := w.failure.Load(); before != nil {
		f.since = before.since
	} else {
		w.opts.Logger.Warn("audit events cannot be written for now, and wait", "error", err)
	}
	w.failure.Store(f)
	if w.opts.Observer.Retried != nil {
		w.opts.Observer.Retried(err)
	}
}

// committed notes that the first events of the batch at hand, or all of it, are durable.
func (w *Writer) committed(batch []*entry, took time.Duration) {
	w.batch = w.batch[len(batch):]
	bytes := 0
	for _, n := range batch {
		bytes += n.size
	}
	w.mu.Lock()
	w.bytes -= bytes
	w.mu.Unlock()
	w.written.Add(int64(len(batch)))
	w.unbeaten += int64(len(batch))
	w.lastCommit.Store(w.opts.Now().UnixNano())
	w.oldest.Store(0)
	w.recovered()
	for _, n := range batch {
		w.complete(n, nil)
	}
	w.announceLater()
	if w.opts.Observer.Committed != nil {
		w.opts.Observer.Committed(len(batch), bytes, took)
	}
}

// complete wakes whoever waits for the event.
func (w *Writer) complete(n *entry, err error) {
	t := n.ticket
	w.release(n)
	t.err = err
	t.done <- struct{}{}
}

// harden makes an event that the database refused one that it takes, in two steps: first without its
// detail and with plain text only, then with nothing that a client could have said. The event keeps its
// number. It returns false when there is nothing left to take away.
func (w *Writer) harden(n *entry, cause error) bool {
	if n.hardened == 2 {
		return false
	}
	n.hardened++
	code := postgres.SQLState(cause)
	e := &n.event
	e.Detail = Detail{Code: "unrecordable", Error: "the database refused what the event said: SQLSTATE " + code, Truncated: []string{"detail"}}
	for _, text := range []*string{&e.ActorID, &e.ActorLabel, &e.Action, &e.App, &e.Resource} {
		if n.hardened == 1 {
			*text = plainASCII(*text, 64)
		} else {
			*text = ""
		}
	}
	if n.hardened == 2 {
		e.Address, e.Status, e.OccurredAt = netip.Addr{}, 0, w.opts.Now()
		e.Detail.Truncated = []string{"action", "actor_id", "actor_label", "address", "app", "detail", "occurred_at", "resource", "status"}
	}
	n.detail = e.prepare(n.detail)
	n.facts = e.appendFacts(n.facts[:0])
	w.sign(n)
	w.opts.Logger.Error("the database refused an audit event as it was, and it is recorded with less",
		"error", cause, "event", e.ID, "request", e.RequestID, "step", n.hardened)
	if w.opts.Observer.Hardened != nil {
		w.opts.Observer.Hardened(code)
	}
	return true
}

// notifyAudit says that there are new events, and nothing else.
const notifyAudit = `notify rgw_audit`

// runNotifier announces new events over a connection of its own, at most once in NotifyEvery, until there
// will be no more or the context ends. In the transaction of the events a notification would have all
// commits of the cluster wait for each other. One that is lost does no harm: who listens asks from time to
// time anyway.
func (w *Writer) runNotifier(ctx context.Context) {
	var conn *postgres.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-w.ended:
		case <-ctx.Done():
			return
		}
		select {
		case <-w.notify:
		case <-w.ended:
			select {
			case <-w.notify:
				_ = w.announce(ctx, &conn, time.Second)
			default:
			}
			return
		case <-ctx.Done():
			return
		}
		wait := w.opts.NotifyEvery
		if err := w.announce(ctx, &conn, w.opts.MaxWait); err != nil {
			wait = max(wait, 100*time.Millisecond)
			w.announceLater()
		}
		pause.Reset(wait)
	}
}

func (w *Writer) announceLater() {
	select {
	case w.notify <- struct{}{}:
	default:
	}
}

func (w *Writer) announce(ctx context.Context, conn **postgres.Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if *conn == nil {
		c, err := postgres.Connect(ctx, w.db)
		if err != nil {
			return err
		}
		*conn = c
	}
	if err := (*conn).Exec(ctx, notifyAudit); err != nil {
		_ = (*conn).Close()
		*conn = nil
		return err
	}
	return nil
}

// plainASCII returns the first bytes of a text with all but printable ASCII replaced.
func plainASCII(s string, limit int) string {
	b := []byte(s[:min(len(s), limit)])
	for i := range b {
		if b[i] < ' ' || b[i] > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
