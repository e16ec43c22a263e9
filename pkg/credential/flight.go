package credential

import (
	"context"
	"errors"
	"sync"
	"time"

	"rackgateway/pkg/postgres"
)

// flights lets callers that want the same thing at the same time wait for one attempt to get it. The
// attempt lives as long as anybody waits for it, whoever began it; golang.org/x/sync/singleflight would end
// it with its first caller's context, or never.
type flights[K comparable, V any] struct {
	mu      sync.Mutex
	closed  bool
	running map[K]*flight[V]
	owner   sync.WaitGroup
}

type flight[V any] struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int // guarded by flights.mu
	value   V   // set before done is closed
	err     error
}

// do returns what fn returns for the key, from an attempt under way or a new one. It returns early, with
// the context's error, when ctx ends.
func (g *flights[K, V]) do(ctx context.Context, key K, fn func(ctx context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		var none V
		return none, errClosed
	}
	f := g.running[key]
	if f == nil {
		if g.running == nil {
			g.running = make(map[K]*flight[V])
		}
		flightCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight[V]{done: make(chan struct{}), cancel: cancel}
		g.running[key] = f
		g.owner.Go(func() {
			f.value, f.err = fn(flightCtx)
			g.forget(key, f)
			cancel()
			close(f.done)
		})
	}
	f.waiters++
	g.mu.Unlock()

	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	if f.waiters--; f.waiters == 0 { // nobody wants it any more; who comes next begins anew
		f.cancel()
		if g.running[key] == f {
			delete(g.running, key)
		}
	}
	g.mu.Unlock()
	var none V
	return none, context.Cause(ctx)
}

func (g *flights[K, V]) forget(key K, f *flight[V]) {
	g.mu.Lock()
	if g.running[key] == f {
		delete(g.running, key)
	}
	g.mu.Unlock()
}

// close ends all attempts, waits for them, and lets no new one begin.
func (g *flights[K, V]) close() {
	g.mu.Lock()
	g.closed = true
	for _, f := range g.running {
		f.cancel()
	}
	g.mu.Unlock()
	g.owner.Wait()
}

var errClosed = errors.New("the cache is closed")

const (
	// maxQueries bounds how many queries of the cache run at once, so that refilling it after a drop
	// leaves the database to others too.
	maxQueries = 8
	// attemptTimeout bounds one query. A connection that hangs is given up, and a new one is tried.
	attemptTimeout = 3 * time.Second
	// Waits between attempts while the database is unavailable double from the first to the last.
	firstPause = 10 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// ask runs a query, and again while the database is unavailable, until it works, fails for another reason,
// or ctx ends. At most maxQueries run at once.
func (c *Cache) ask(ctx context.Context, query func(ctx context.Context) error) error {
	pause := firstPause
	for {
		err := c.attempt(ctx, query)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !postgres.IsUnavailable(err) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

func (c *Cache) attempt(ctx context.Context, query func(ctx context.Context) error) error {
	select {
	case c.queries <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.queries }()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return query(ctx)
}
