package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Feed receives the notifications of some channels over one connection, and proves that it does: every
// two seconds it sends itself a notification over another connection, and notes when the one that came
// back was sent. Since a server delivers notifications in the order of their commits, all that was
// committed before that moment has been handled. This also finds out about a pooler in between that
// swallows LISTEN, and about a connection that is dead without anybody having said so.
//
// A notification says that something changed, nothing more. Between the end of one connection and the
// start of the next they are lost, so whoever keeps a copy of the database's state must drop it in OnReset.
type Feed struct {
	db       *sqlx.DB
	channels []string
	every    time.Duration
	silence  time.Duration
	logger   *slog.Logger
	now      func() time.Time
	alive    string // channel of the proofs, of this feed alone

	// Set before Run, only read afterwards.
	handlers map[string][]func(payload string)
	resets   []func()

	proof     atomic.Pointer[time.Time] // when the newest notification of ours that came back was sent
	connected atomic.Bool
	lastError atomic.Pointer[error]
	sent      sync.Map // nonce → time.Time; a few at most
}

// FeedOptions says how a feed behaves. The zero value is the default.
type FeedOptions struct {
	Every   time.Duration // between proofs of life; default 2 seconds
	Silence time.Duration // without a proof, after which the connection is made anew; default 3 times Every, at least 5 seconds
	Logger  *slog.Logger
	Now     func() time.Time
}

// NewFeed returns a feed of these channels. The pool's database is the one listened to; proofs are sent
// over the pool.
func NewFeed(db *sqlx.DB, channels []string, opts FeedOptions) *Feed {
	f := &Feed{
		db: db, channels: channels, every: opts.Every, silence: opts.Silence, logger: opts.Logger, now: opts.Now,
		alive:    "rgw_alive_" + rand.Text(),
		handlers: make(map[string][]func(string)),
	}
	if f.every <= 0 {
		f.every = 2 * time.Second
	}
	if f.silence <= 0 {
		f.silence = max(3*f.every, 5*time.Second)
	}
	if f.logger == nil {
		f.logger = slog.New(slog.DiscardHandler)
	}
	if f.now == nil {
		f.now = time.Now
	}
	return f
}

// Subscribe has the function called with the payload of each notification on the channel. All functions
// are called from one goroutine, in the order of the notifications, so they must be quick. It must be
// called before Run.
func (f *Feed) Subscribe(channel string, handle func(payload string)) {
	f.handlers[channel] = append(f.handlers[channel], handle)
}

// OnReset has the function called whenever notifications may have been lost: after each connection was
// made, the first included, when it already listens. It must be called before Run.
func (f *Feed) OnReset(reset func()) { f.resets = append(f.resets, reset) }

// ProofAge returns how long ago it is that all notifications were known to have been handled. Without
// any proof it is the longest duration there is.
func (f *Feed) ProofAge() time.Duration {
	at := f.proof.Load()
	if at == nil {
		return math.MaxInt64
	}
	return max(f.now().Sub(*at), 0)
}

// Connected tells whether there is a connection that listens, as far as is known.
func (f *Feed) Connected() bool { return f.connected.Load() }

// Probe waits until the running feed has its first proof of life. When the connection is there and its
// proof does not come within a few seconds, the error says what that means. Until the database can be
// reached at all it goes on waiting, as long as the context allows.
func (f *Feed) Probe(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var since time.Time
	for {
		if f.proof.Load() != nil {
			return nil
		}
		if !f.connected.Load() {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > 4*time.Second {
			return errors.New("the database accepts LISTEN and delivers no notification: is there a connection pooler " +
				"in transaction mode in between, or a read-only replica? Connect to the primary server directly, " +
				"or use the pooler's session mode")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if last := f.lastError.Load(); last != nil {
				return fmt.Errorf("listen for changes: %w", *last)
			}
			return fmt.Errorf("listen for changes: %w", ctx.Err())
		}
	}
}

// Run listens until the context ends, connecting anew whenever the connection breaks or its proof of life
// fails to come.
func (f *Feed) Run(ctx context.Context) error {
	const shortest, longest = 50 * time.Millisecond, 2 * time.Second
	backoff := shortest
	for ctx.Err() == nil {
		before := f.proof.Load()
		err := f.listen(ctx)
		f.connected.Store(false)
		if ctx.Err() != nil {
			break
		}
		f.lastError.Store(&err)
		if f.proof.Load() != before {
			backoff = shortest
		}
		f.logger.WarnContext(ctx, "listening for changes was interrupted", "error", err, "again_in", backoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, longest)
	}
	return ctx.Err()
}

// listen is the life of one connection. It always returns an error.
func (f *Feed) listen(ctx context.Context) error {
	pool, ok := f.db.Driver().(*connector)
	if !ok {
		return errors.New("the pool was not opened by this package")
	}
	dsn, err := pool.dsn()
	if err != nil {
		return err
	}
	notices := make(chan *pq.Notification, 256)
	l, err := pq.NewListenerConn(dsn, notices)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// The connection's own goroutine may be waiting to hand over a notification: it ends only when
	// somebody takes them.
	defer func() {
		_ = l.Close()
		for range notices {
		}
	}()

	// LISTEN waits for the server without bound of its own.
	listening := time.AfterFunc(f.silence, func() { _ = l.Close() })
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for _, channel := range append([]string{f.alive}, f.channels...) {
		if _, err := l.Listen(channel); err != nil {
			listening.Stop()
			return fmt.Errorf("listen on %s: %w", channel, err)
		}
	}
	if !listening.Stop() {
		return errors.New("the server did not answer LISTEN in time")
	}

	life, end := context.WithCancel(ctx)
	var prover sync.WaitGroup
	defer prover.Wait()
	defer end()
	f.connected.Store(true)
	for _, reset := range f.resets {
		reset()
	}
	prover.Go(func() { f.prove(life) })

	silent := time.NewTimer(f.silence)
	defer silent.Stop()
	for {
		select {
		case n, ok := <-notices:
			if !ok {
				return fmt.Errorf("connection: %w", l.Err())
			}
			if n.Channel == f.alive {
				if at, ok := f.sent.LoadAndDelete(n.Extra); ok {
					at := at.(time.Time)
					f.proof.Store(&at)
					silent.Reset(f.silence)
				}
				continue
			}
			for _, handle := range f.handlers[n.Channel] {
				handle(n.Extra)
			}
		case <-silent.C:
			return fmt.Errorf("no proof of life for %s", f.silence)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const notifyAlive = `select pg_notify($1, $2)`

// prove sends proofs until the context ends.
func (f *Feed) prove(ctx context.Context) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		nonce := rand.Text()
		f.sent.Store(nonce, f.now())
		send, cancel := context.WithTimeout(ctx, f.silence)
		_, err := f.db.ExecContext(send, notifyAlive, f.alive, nonce)
		cancel()
		if err != nil {
			f.sent.Delete(nonce)
			if ctx.Err() == nil {
				f.lastError.Store(&err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.sent.Clear()
			return
		}
	}
}
