package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/testenv"
)

// A relay carries connections to one address, and can be taken away and put back: a server that is gone.
type relay struct {
	t       *testing.T
	address string
	to      string // set before the first connection
	work    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while it is closed
	open     map[net.Conn]struct{}
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	r := &relay{t: t, address: "127.0.0.1:0", open: make(map[net.Conn]struct{})}
	r.start()
	t.Cleanup(r.stop)
	return r
}

// start listens, on the same address as before.
func (r *relay) start() {
	r.t.Helper()
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.address, r.listener = l.Addr().String(), l
	r.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.carry(conn) })
		}
	})
}

// leadTo says where connections lead.
func (r *relay) leadTo(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = address
}

// stop refuses connections from now on, and cuts those that are open.
func (r *relay) stop() {
	r.mu.Lock()
	if r.listener != nil {
		r.listener.Close()
	}
	r.listener = nil
	for conn := range r.open {
		conn.Close()
	}
	r.mu.Unlock()
	r.work.Wait()
}

func (r *relay) carry(conn net.Conn) {
	defer conn.Close()
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	if to == "" {
		return // somebody else's, who remembers the port from another time
	}
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	r.mu.Lock()
	if r.listener == nil {
		r.mu.Unlock()
		return
	}
	r.open[conn], r.open[far] = struct{}{}, struct{}{}
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(far, conn); far.Close() })
	both.Go(func() { io.Copy(conn, far); conn.Close() })
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
	delete(r.open, far)
}

// A front is what stands before several proxies: it gives each new connection to one that says it is ready, in turn,
// and carries bytes.
type front struct {
	address  string
	listener net.Listener
	work     sync.WaitGroup
	stop     context.CancelFunc
	client   *http.Client
	proxies  []*testenv.Proxy

	mu    sync.Mutex
	next  int
	ready []bool
}

func newFront(t *testing.T, proxies []*testenv.Proxy) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &front{
		address: l.Addr().String(), listener: l, stop: cancel, proxies: proxies, ready: make([]bool, len(proxies)),
		client: &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}},
	}
	for i := range f.ready {
		f.ready[i] = true
	}
	f.work.Go(func() { f.watch(ctx) })
	f.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.work.Go(func() { f.carry(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		f.work.Wait()
	})
	return f
}

// watch asks each proxy often whether it is ready, as balancers do.
func (f *front) watch(ctx context.Context) {
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		for i, p := range f.proxies {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/api/v1/health/ready", nil)
			if err != nil {
				continue
			}
			resp, err := f.client.Do(req)
			ok := err == nil && resp.StatusCode == http.StatusOK
			if err == nil {
				resp.Body.Close()
			}
			f.mu.Lock()
			f.ready[i] = ok
			f.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// pick is the address of the next proxy that is ready, or of any when none is.
func (f *front) pick() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range f.proxies {
		f.next = (f.next + 1) % len(f.proxies)
		if f.ready[f.next] {
			break
		}
	}
	u, err := url.Parse(f.proxies[f.next].URL)
	if err != nil {
		return ""
	}
	return u.Host
}

func (f *front) carry(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	far, err := new(net.Dialer).DialContext(ctx, "tcp", f.pick())
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { conn.Close(); far.Close() })()
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(far, conn)
		far.(*net.TCPConn).CloseWrite()
	})
	both.Go(func() {
		io.Copy(conn, far)
		conn.(*net.TCPConn).CloseWrite()
	})
	both.Wait()
}
