// Faults on demand: what a rack, or the network before it, may do to a proxy.

package racktest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault says which requests go wrong, and how. The zero value of a field means that it does not apply; without
// any action a fault only counts. Actions are taken in the order of the fields.
type Fault struct {
	// Method is an HTTP method or SOCKET; empty is any. Path is compared with the escaped path as received;
	// * stands for any run of characters, slashes included; empty is any.
	Method, Path string
	// Skip lets that many matching requests pass first; Times ends the fault after that many hits (0: never).
	Skip, Times int

	// Delay waits before anything is answered. Hang waits until Armed.Release, or until the client or the
	// rack goes away. What follows happens afterwards.
	Delay time.Duration
	Hang  bool

	// Drop closes the connection without an answer; with Reset by a TCP reset.
	Drop, Reset bool
	// Lose lets the rack do what it was asked, and then drops the connection instead of answering.
	Lose bool
	// Raw is written to the connection in place of an HTTP answer, and the connection is closed.
	Raw string
	// Status (200 when only Body is set), Header and Body replace the answer; the rack does nothing.
	Status int
	Header map[string]string
	Body   string
	// Garbage answers 200 with that many random bytes, said to be JSON.
	Garbage int
	// ContentLength, when not nil, is announced instead of the true length of Body.
	ContentLength *int64

	// Stall waits once when StallAfter bytes of the real answer have gone out; Cut ends the connection after
	// CutAfter bytes. Sockets count the bytes of their frames.
	Stall      time.Duration
	StallAfter int64
	Cut        bool
	CutAfter   int64
}

// Armed is an injected fault.
type Armed struct{ armed *armed }

// ID names the fault at the control endpoint.
func (a Armed) ID() int { return a.armed.id }

// Hits counts the requests that the fault has met, skipped ones not included.
func (a Armed) Hits() int {
	a.armed.owner.mu.Lock()
	defer a.armed.owner.mu.Unlock()
	return a.armed.hits
}

// Release lets every request go on that hangs in the fault, and ends hanging for later ones.
func (a Armed) Release() { a.armed.release() }

// Clear takes the fault away and releases what hangs in it.
func (a Armed) Clear() { a.armed.owner.clear(a.armed.id) }

// AwaitHit waits until the fault has met n requests.
func (a Armed) AwaitHit(ctx context.Context, n int) error {
	f := a.armed.owner
	for {
		f.mu.Lock()
		changed, hits := f.changed, a.armed.hits
		f.mu.Unlock()
		if hits >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Inject arms a fault. Of several that match a request, the oldest acts.
func (r *Rack) Inject(f Fault) Armed { return Armed{r.faults.add(f)} }

// ClearFaults takes all faults away.
func (r *Rack) ClearFaults() { r.faults.clear(0) }

// faults are the armed ones.
type faults struct {
	ctx context.Context // the rack's life

	mu      sync.Mutex
	next    int
	list    []*armed
	changed chan struct{} // closed and replaced at every hit
}

type armed struct {
	Fault
	id    int
	owner *faults
	seen  int // guarded by owner.mu, as is hits
	hits  int
	freed chan struct{}
	once  sync.Once
}

func newFaults(ctx context.Context) *faults {
	return &faults{ctx: ctx, changed: make(chan struct{})}
}

func (f *faults) add(fault Fault) *armed {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	a := &armed{Fault: fault, id: f.next, owner: f, freed: make(chan struct{})}
	f.list = append(f.list, a)
	return a
}

// clear removes the fault with that id, or all for 0, and says whether there was one.
func (f *faults) clear(id int) bool {
	f.mu.Lock()
	var gone []*armed
	f.list = slices.DeleteFunc(f.list, func(a *armed) bool {
		if id != 0 && a.id != id {
			return false
		}
		gone = append(gone, a)
		return true
	})
	f.mu.Unlock()
	for _, a := range gone {
		a.release()
	}
	return len(gone) > 0
}

func (f *faults) find(id int) *armed {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.list {
		if a.id == id {
			return a
		}
	}
	return nil
}

// match counts a request and returns the fault that it meets, or nil.
func (f *faults) match(req *http.Request) *armed {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) == 0 {
		return nil
	}
	path, _, _ := strings.Cut(req.RequestURI, "?")
	for _, a := range f.list {
		if a.Times > 0 && a.hits >= a.Times {
			continue
		}
		switch {
		case a.Method == "":
		case a.Method == "SOCKET":
			if !isSocket(req) {
				continue
			}
		case a.Method != req.Method:
			continue
		}
		if a.Path != "" && !glob(a.Path, path) {
			continue
		}
		a.seen++
		if a.seen <= a.Skip {
			continue
		}
		a.hits++
		close(f.changed)
		f.changed = make(chan struct{})
		return a
	}
	return nil
}

func (a *armed) release() { a.once.Do(func() { close(a.freed) }) }

// play takes the actions that come before or instead of the handler, and says whether the request is done with.
func (a *armed) play(w *recorder, req *http.Request) bool {
	if a.Delay > 0 && !pause(req.Context(), a.Delay) {
		return true
	}
	if a.Hang {
		select {
		case <-a.freed:
		case <-req.Context().Done():
			return true
		case <-a.owner.ctx.Done():
			return true
		}
	}
	switch {
	case a.Drop:
		a.drop(w)
		return true
	case a.Lose:
		w.lost = true
		return false
	case a.Raw != "":
		a.raw(w, a.Raw)
		return true
	case a.ContentLength != nil:
		status := a.Status
		if status == 0 {
			status = http.StatusOK
		}
		w.status = status
		a.raw(w, fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), *a.ContentLength, a.Body))
		return true
	case a.Garbage > 0:
		w.Header().Set("Content-Type", "application/json")
		io.CopyN(w, rand.Reader, int64(a.Garbage)) //nolint:errcheck // the client is gone, then
		return true
	case a.Status != 0 || a.Body != "":
		for k, v := range a.Header {
			w.Header().Set(k, v)
		}
		if a.Status != 0 {
			w.WriteHeader(a.Status)
		}
		io.WriteString(w, a.Body) //nolint:errcheck // the client is gone, then
		return true
	}
	return false
}

// drop closes the connection under the server.
func (a *armed) drop(w *recorder) {
	w.dropped = true
	conn, _, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if a.Reset {
		reset(conn)
	}
	conn.Close()
}

func (a *armed) raw(w *recorder, answer string) {
	conn, _, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	n, _ := io.WriteString(conn, answer)
	w.bytes.Add(int64(n))
	conn.Close()
}

// spoil says how many of the next n bytes may go out before something must happen; that something says
// whether the answer ends there.
func (w *recorder) spoil(n int64) (keep int64, then func() (end bool)) {
	a, done := w.fault, w.bytes.Load()
	if a.Stall > 0 && !w.stalled && done+n > a.StallAfter {
		return max(0, a.StallAfter-done), func() bool {
			w.stalled = true
			return !pause(a.owner.ctx, a.Stall)
		}
	}
	if a.Cut && done+n > a.CutAfter {
		return max(0, a.CutAfter-done), func() bool { return true }
	}
	return n, nil
}

// reset makes the coming Close send a TCP reset, where there is TCP below.
func reset(conn net.Conn) {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			c.SetLinger(0) //nolint:errcheck // best effort
			return
		case interface{ NetConn() net.Conn }: // *tls.Conn
			conn = c.NetConn()
		default:
			return
		}
	}
}

// glob matches s against a pattern in which * stands for any run of characters.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}
