package faults

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/testenv"
)

// balancer spreads connections over the proxies that say they are ready, as the TCP balancers in front of real ones
// do: it asks for readiness from time to time, and does not try again elsewhere.
type balancer struct {
	context  context.Context // of everything that it does
	listener net.Listener
	backends []*backend
	client   *http.Client
	next     atomic.Int64
	refused  atomic.Int64 // connections that no backend took
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	over  bool
}

type backend struct {
	server *testenv.Server
	dial   string
	ready  atomic.Bool
}

// checkEvery is how often a backend's readiness is asked for. It must be well below what a proxy goes on taking
// connections for after it said that it is not ready any more.
const checkEvery = 50 * time.Millisecond

func newBalancer(t *testing.T, env *testenv.Env, servers ...*testenv.Server) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	transport := env.Client().Transport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	b := &balancer{listener: listener, conns: make(map[net.Conn]struct{}), client: &http.Client{Timeout: 10 * time.Second, Transport: transport}}
	ctx, cancel := context.WithCancel(t.Context())
	b.context = ctx
	b.add(servers...)
	b.running.Go(b.accept)
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		b.mu.Lock()
		b.over = true
		for conn := range b.conns {
			_ = conn.Close()
		}
		b.mu.Unlock()
		b.running.Wait()
	})
	return b
}

func (b *balancer) address() string { return b.listener.Addr().String() }

// add has the balancer spread connections over more servers.
func (b *balancer) add(servers ...*testenv.Server) {
	for _, server := range servers {
		one := &backend{server: server, dial: net.JoinHostPort("localhost", strconv.Itoa(server.Port))}
		b.mu.Lock()
		b.backends = append(b.backends, one)
		b.mu.Unlock()
		b.running.Go(func() { b.watch(b.context, one) })
	}
}

// servers are those that the balancer spreads over now.
func (b *balancer) servers() []*backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.backends
}

// watch follows the readiness of a backend.
func (b *balancer) watch(ctx context.Context, one *backend) {
	every := time.NewTicker(checkEvery)
	defer every.Stop()
	for {
		one.ready.Store(b.asks(ctx, one))
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *balancer) asks(ctx context.Context, one *backend) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, one.server.URL+"/api/v1/health/ready", nil)
	if err != nil {
		return false
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (b *balancer) accept() {
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.running.Go(func() { b.carry(conn) })
	}
}

// keep remembers a connection for the end; it reports false when that has come.
func (b *balancer) keep(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.conns[conn] = struct{}{}
	}
	return !b.over
}

func (b *balancer) drop(conn net.Conn) {
	b.mu.Lock()
	delete(b.conns, conn)
	b.mu.Unlock()
	_ = conn.Close()
}

// carry connects a client to a backend that is ready.
func (b *balancer) carry(client net.Conn) {
	defer b.drop(client)
	first := int(b.next.Add(1))
	backends := b.servers()
	for i := range backends {
		one := backends[(first+i)%len(backends)]
		if !one.ready.Load() {
			continue
		}
		far, err := net.DialTimeout("tcp", one.dial, 10*time.Second)
		if err != nil {
			break
		}
		defer b.drop(far)
		if !b.keep(client) || !b.keep(far) {
			return
		}
		var both sync.WaitGroup
		both.Go(func() { pass(far, client) })
		both.Go(func() { pass(client, far) })
		both.Wait()
		return
	}
	b.refused.Add(1)
}

// pass carries one direction, and passes its end on.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}
