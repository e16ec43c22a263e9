// The pool: kept connections, newest used first, and turns to open new ones.

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// errClosed is returned by requests made after Close.
var errClosed = errors.New("the transport has been closed")

// pool holds unused connections and counts those being opened.
type pool struct {
	maxIdle     int
	maxDials    int
	idleTimeout time.Duration

	idleCount atomic.Int64 // len(idle), to be read without the lock

	mu      sync.Mutex
	idle    []*conn // oldest first, so that the newest is taken and the oldest expire
	waiting []*waiter
	dialing int
	closed  bool
	sweeper *time.Timer // nil until the first connection is kept
	armed   bool        // whether the sweeper will run
}

// waiter is a request that found MaxDials connections being opened. It is granted a
// kept connection, or a turn to dial, which is a nil connection.
type waiter struct {
	granted chan *conn
	fresh   bool // takes only a turn to dial
}

// acquire returns a connection: a kept one unless fresh, else a new one.
func (t *Transport) acquire(ctx context.Context, fresh bool) (*conn, error) {
	p := &t.pool
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed
	}
	if n := len(p.idle); n > 0 && !fresh {
		c := p.idle[n-1]
		if time.Since(c.idleSince) < p.idleTimeout {
			p.idle[n-1] = nil
			p.idle = p.idle[:n-1]
			p.idleCount.Store(int64(n - 1))
			p.mu.Unlock()
			return c, nil
		}
		// The newest is too old, so all are.
		expired := p.takeAll()
		p.mu.Unlock()
		closeAll(expired)
		p.mu.Lock()
	}
	if p.dialing < p.maxDials {
		p.dialing++
		p.mu.Unlock()
		return t.dial(ctx)
	}
	w := &waiter{granted: make(chan *conn, 1), fresh: fresh}
	p.waiting = append(p.waiting, w)
	p.mu.Unlock()

	patience := time.NewTimer(t.dialTimeout)
	defer patience.Stop()
	var err error
	select {
	case c := <-w.granted:
		if c != nil {
			return c, nil
		}
		return t.dial(ctx)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-patience.C:
		err = fmt.Errorf("%d connections are being opened and none is ready: %w", p.maxDials, context.DeadlineExceeded)
	}
	p.mu.Lock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		p.mu.Unlock()
		return nil, err
	}
	p.mu.Unlock()
	// Granted meanwhile: pass it on.
	if c := <-w.granted; c != nil {
		t.keep(c)
	} else {
		p.passTurn()
	}
	return nil, err
}

// passTurn gives the turn to dial that the caller held to who waits longest.
func (p *pool) passTurn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.dialing--
		return
	}
	w := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	w.granted <- nil
}

// dial opens a connection. The caller holds a turn, which is passed on.
func (t *Transport) dial(ctx context.Context) (*conn, error) {
	defer t.pool.passTurn()
	c, err := t.open(ctx)
	if err != nil {
		t.dialErrors.Add(1)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	t.dials.Add(1)
	return c, nil
}

func (t *Transport) open(ctx context.Context) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, t.dialTimeout)
	defer cancel()
	raw, err := t.dialContext(dialCtx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: raw, nc: raw}
	if sc, ok := raw.(syscall.Conn); ok && canCheck {
		if c.rc, err = sc.SyscallConn(); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("reaching the socket: %w", err)
		}
	}
	c.step = c.doStep
	if t.tls == nil {
		return c, nil
	}
	tlsCtx, cancelTLS := context.WithTimeout(ctx, t.tlsTimeout)
	defer cancelTLS()
	c.pipe = &pipe{Conn: raw, rc: c.rc}
	c.secure = tls.Client(c.pipe, t.tls)
	if err := c.secure.HandshakeContext(tlsCtx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	c.nc = c.secure
	state := c.secure.ConnectionState()
	c.state = &state
	return c, nil
}

// keep puts an unused connection back, or closes it when it is not wanted.
func (t *Transport) keep(c *conn) {
	p := &t.pool
	c.idleSince = time.Now()
	p.mu.Lock()
	if p.closed || len(p.idle) >= p.maxIdle || c.rc == nil {
		p.mu.Unlock()
		c.close()
		return
	}
	if len(p.waiting) > 0 {
		if i := slices.IndexFunc(p.waiting, func(w *waiter) bool { return !w.fresh }); i >= 0 {
			w := p.waiting[i]
			p.waiting = slices.Delete(p.waiting, i, i+1)
			w.granted <- c
			p.mu.Unlock()
			return
		}
	}
	p.idle = append(p.idle, c)
	p.idleCount.Store(int64(len(p.idle)))
	if !p.armed {
		p.armed = true
		if p.sweeper == nil {
			p.sweeper = time.AfterFunc(p.idleTimeout, p.sweep)
		} else {
			p.sweeper.Reset(p.idleTimeout)
		}
	}
	p.mu.Unlock()
}

// sweep closes what has been kept for too long and arms the timer for the next.
func (p *pool) sweep() {
	p.mu.Lock()
	now := time.Now()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].idleSince) >= p.idleTimeout {
		n++
	}
	expired := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	p.idleCount.Store(int64(len(p.idle)))
	if len(p.idle) > 0 {
		p.sweeper.Reset(p.idle[0].idleSince.Add(p.idleTimeout).Sub(now))
	} else {
		p.armed = false
	}
	p.mu.Unlock()
	closeAll(expired)
}

// drain empties the pool, and for good when it is closed with it.
func (p *pool) drain(closed bool) []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || closed
	if p.sweeper != nil && p.sweeper.Stop() {
		p.armed = false
	}
	return p.takeAll()
}

// takeAll empties the pool. The lock is held.
func (p *pool) takeAll() []*conn {
	all := p.idle
	p.idle = nil
	p.idleCount.Store(0)
	return all
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		c.close()
	}
}

// isTimeout reports whether err is of a deadline that passed.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
