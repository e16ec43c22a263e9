package upstream_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/upstream"
)

// patience bounds every wait of these tests. It is long because it is never reached
// when the behaviour is right.
const patience = 20 * time.Second

// subject is one of the two transports held to the same contract.
type subject struct {
	http.RoundTripper
	lean *upstream.Transport // nil for net/http's
}

// settings are what tests vary in both.
type settings struct {
	tls  *tls.Config
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// conform runs a test of the contract over http.Transport and over Transport.
func conform(t *testing.T, cfg settings, test func(t *testing.T, at func(origin *url.URL) subject)) {
	t.Helper()
	t.Run("net-http", func(t *testing.T) {
		test(t, func(origin *url.URL) subject {
			rt := &http.Transport{
				TLSClientConfig: cfg.tls, DialContext: cfg.dial, DisableCompression: true,
				MaxIdleConnsPerHost: 256, MaxResponseHeaderBytes: 1 << 20, TLSHandshakeTimeout: patience,
			}
			t.Cleanup(rt.CloseIdleConnections)
			return subject{RoundTripper: rt}
		})
	})
	t.Run("upstream", func(t *testing.T) {
		leavesNoGoroutine(t)
		test(t, func(origin *url.URL) subject {
			lean := newLean(t, upstream.Config{Origin: origin, TLS: cfg.tls, DialContext: cfg.dial})
			return subject{RoundTripper: lean, lean: lean}
		})
	})
}

func newLean(t *testing.T, cfg upstream.Config) *upstream.Transport {
	t.Helper()
	lean, err := upstream.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := lean.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := lean.Stats().InFlight; n != 0 {
			t.Errorf("%d requests are still counted as in flight", n)
		}
	})
	return lean
}

// leavesNoGoroutine fails the test when a goroutine of this package outlives it. Call it
// before anything else, so that it looks last.
func leavesNoGoroutine(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var stacks string
		eventually(t, func() bool {
			buf := make([]byte, 1<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			return !strings.Contains(stacks, "rackgateway/pkg/upstream.(")
		}, func() string { return "goroutines are left behind:\n" + stacks })
	})
}

// eventually waits until the condition holds.
func eventually(t *testing.T, holds func() bool, complaint func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal(complaint())
		}
		runtime.Gosched()
	}
}

// wire is a server of raw bytes: script is run for each connection, which is numbered
// from 1, and the connection closed when it returns.
type wire struct {
	origin *url.URL
	ln     net.Listener
	ended  sync.WaitGroup
	over   chan struct{} // closed when the test is

	mu    sync.Mutex
	conns []net.Conn
}

func serveWire(t *testing.T, script func(n int, c *wireConn)) *wire {
	t.Helper()
	return serveWireTLS(t, nil, script)
}

func serveWireTLS(t *testing.T, cfg *tls.Config, script func(n int, c *wireConn)) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{origin: &url.URL{Scheme: "http", Host: ln.Addr().String()}, ln: ln, over: make(chan struct{})}
	if cfg != nil {
		ln = tls.NewListener(ln, cfg)
		w.origin.Scheme = "https"
	}
	w.ended.Go(func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.conns = append(w.conns, c)
			w.mu.Unlock()
			w.ended.Go(func() {
				defer c.Close()
				script(n, &wireConn{Conn: c, in: bufio.NewReader(c), over: w.over})
			})
		}
	})
	t.Cleanup(func() {
		close(w.over)
		_ = ln.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.ended.Wait()
	})
	return w
}

// accepted is how many connections came.
func (w *wire) accepted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// wireConn is one connection of a wire server.
type wireConn struct {
	net.Conn
	in   *bufio.Reader
	over <-chan struct{}
}

// stall keeps the connection open and reads nothing until the test is over.
func (c *wireConn) stall() { <-c.over }

// head reads a request up to its empty line and returns it, or "" at the end.
func (c *wireConn) head() string {
	var b strings.Builder
	for {
		line, err := c.in.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return ""
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

func (c *wireConn) say(s string) { _, _ = io.WriteString(c.Conn, s) }

// waitClosed returns when the peer has closed the connection.
func (c *wireConn) waitClosed() { _, _ = io.Copy(io.Discard, c.in) }

// answering is a script that answers every request on every connection with s.
func answering(s string) func(int, *wireConn) {
	return func(_ int, c *wireConn) {
		for c.head() != "" {
			c.say(s)
		}
	}
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func newRequest(t *testing.T, method string, origin *url.URL, path string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, origin.String()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// get makes a request and reads the answer to its end.
func get(t *testing.T, rt http.RoundTripper, origin *url.URL) (*http.Response, string) {
	t.Helper()
	return do(t, rt, newRequest(t, http.MethodGet, origin, "/", nil))
}

func do(t *testing.T, rt http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s: %v", req.Method, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: reading the body: %v", req.Method, err)
	}
	return resp, string(body)
}

// idle waits until the lean transport has n unused connections, so that the next
// request takes one. net/http keeps its own before it returns the last byte.
func idle(t *testing.T, s subject, n int64) {
	t.Helper()
	if s.lean == nil {
		return
	}
	eventually(t, func() bool { return s.lean.Stats().Idle == n }, func() string { return "connections are not kept" })
}

// within runs f and fails if it does not return in time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s does not return\n%s", what, buf[:runtime.Stack(buf, true)])
	}
}
