package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rackgateway/pkg/upstream"
)

func TestNewRefusesWhatIsNoOrigin(t *testing.T) {
	for _, origin := range []string{"ftp://rack", "http://", "rack:80", "http://rack/path", "http://rack?q", "http://u:p@rack", "http://ra ck"} {
		u, err := url.Parse(origin)
		if err != nil {
			u = &url.URL{Scheme: "http", Host: strings.TrimPrefix(origin, "http://")}
		}
		if _, err := upstream.New(upstream.Config{Origin: u}); err == nil {
			t.Errorf("%s was taken", origin)
		}
	}
	if _, err := upstream.New(upstream.Config{}); err == nil {
		t.Error("no origin was taken")
	}
}

func TestRequestsForAnotherOriginAreRefused(t *testing.T) {
	lean := newLean(t, upstream.Config{Origin: &url.URL{Scheme: "http", Host: "rack.example"}, DialContext: noDial})
	for target, ours := range map[string]bool{
		"http://rack.example/": true, "http://rack.example:80/": true, "http://RACK.example/": true,
		"https://rack.example/": false, "http://rack.example:81/": false, "http://other.example/": false, "http:///": false,
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		req := &http.Request{Method: "GET", URL: u, Header: http.Header{}}
		_, err = lean.RoundTrip(req.WithContext(t.Context()))
		var e *upstream.Error
		if !errors.As(err, &e) || (e.Stage == upstream.StageConnect) != ours || e.Sent {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

func noDial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("dialling is not for this test")
}

func TestAnUnreachableUpstreamWasNotAsked(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering(okAnswer))
	_ = w.ln.Close()
	lean := newLean(t, upstream.Config{Origin: w.origin})
	body := &endless{closed: make(chan struct{})}
	req := newRequest(t, "POST", w.origin, "/", body)
	_, err := lean.RoundTrip(req)
	var e *upstream.Error
	if !errors.As(err, &e) || e.Sent || e.Stage != upstream.StageConnect || e.Timeout() {
		t.Errorf("got %v", err)
	}
	within(t, "closing the request's body", func() { <-body.closed })
	if s := lean.Stats(); s.DialErrors != 1 || s.Dials != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestAWholeAnswerFreesTheConnectionBeforeItIsRead(t *testing.T) {
	leavesNoGoroutine(t)
	for name, answer := range map[string]string{
		"length":  okAnswer,
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := serveWire(t, answering(answer))
			lean := newLean(t, upstream.Config{Origin: w.origin})
			var open []*http.Response
			for range 5 {
				resp, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, resp)
			}
			if s := lean.Stats(); s.Dials != 1 || s.Idle != 1 || s.Reuses != 4 || s.InFlight != 0 {
				t.Errorf("got %+v", s)
			}
			for _, resp := range open {
				if body, err := io.ReadAll(resp.Body); string(body) != "ok" || err != nil {
					t.Errorf("got %q, %v", body, err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}

func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	leavesNoGoroutine(t)
	closed := make(chan struct{})
	w := serveWire(t, func(_ int, c *wireConn) {
		answering(okAnswer)(1, c)
		close(closed)
	})
	lean := newLean(t, upstream.Config{Origin: w.origin, IdleTimeout: time.Millisecond})
	get(t, lean, w.origin)
	within(t, "the idle connection", func() { <-closed })
	eventually(t, func() bool { return lean.Stats().Idle == 0 }, func() string { return "it is still counted" })
}

func TestAnExpiredConnectionIsNotUsedThoughNobodySweptIt(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering(okAnswer))
	lean := newLean(t, upstream.Config{Origin: w.origin, IdleTimeout: 1})
	for n := 1; n <= 3; n++ {
		if get(t, lean, w.origin); w.accepted() != n {
			t.Fatalf("request %d was on connection %d", n, w.accepted())
		}
	}
}

func TestNoMoreThanMaxIdleAreKept(t *testing.T) {
	leavesNoGoroutine(t)
	var arrived sync.WaitGroup
	arrived.Add(5)
	w := serveWire(t, func(_ int, c *wireConn) {
		if c.head() != "" {
			arrived.Done()
			arrived.Wait() // so that five connections are needed
			c.say(okAnswer)
		}
		c.waitClosed()
	})
	lean := newLean(t, upstream.Config{Origin: w.origin, MaxIdle: 2})
	var clients sync.WaitGroup
	for range 5 {
		clients.Go(func() { get(t, lean, w.origin) })
	}
	clients.Wait()
	if s := lean.Stats(); s.Idle != 2 || s.Dials != 5 {
		t.Errorf("got %+v", s)
	}
	lean.CloseIdleConnections()
	if s := lean.Stats(); s.Idle != 0 {
		t.Errorf("got %+v after closing", s)
	}
}

func TestDialsAreBoundedAndWaitersTakeWhatComesFree(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering(okAnswer))
	var dialling, most atomic.Int64
	release := make(chan struct{})
	lean := newLean(t, upstream.Config{Origin: w.origin, MaxDials: 2, DialTimeout: patience,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			n := dialling.Add(1)
			defer dialling.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-release
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}})
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() { get(t, lean, w.origin) })
	}
	eventually(t, func() bool { return dialling.Load() == 2 && lean.Stats().InFlight == 20 }, func() string { return "the clients do not come" })
	// One that gives up while it waits loses nobody's turn.
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		resp, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil).WithContext(ctx))
		if err == nil {
			resp.Body.Close()
		}
		gone <- err
	}()
	eventually(t, func() bool { return lean.Stats().InFlight == 21 }, func() string { return "the last does not come" })
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	within(t, "the clients", clients.Wait)
	if most.Load() > 2 {
		t.Errorf("%d connections were opened at a time", most.Load())
	}
}

func TestWaitingForATurnToDialIsBounded(t *testing.T) {
	leavesNoGoroutine(t)
	blocked := make(chan struct{})
	lean := newLean(t, upstream.Config{Origin: &url.URL{Scheme: "http", Host: "rack.example"}, MaxDials: 1, DialTimeout: time.Millisecond,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-blocked // deaf to ctx
			return nil, ctx.Err()
		}})
	var first sync.WaitGroup
	first.Go(func() {
		_, err := lean.RoundTrip(newRequest(t, "GET", &url.URL{Scheme: "http", Host: "rack.example"}, "/", nil))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	eventually(t, func() bool { return lean.Stats().InFlight == 1 }, func() string { return "the first does not come" })
	within(t, "the second", func() {
		_, err := lean.RoundTrip(newRequest(t, "GET", &url.URL{Scheme: "http", Host: "rack.example"}, "/", nil))
		var e *upstream.Error
		if !errors.As(err, &e) || !e.Timeout() || e.Sent {
			t.Errorf("got %v", err)
		}
		close(blocked)
	})
	first.Wait()
}

func TestUnaskedBytesTakeAConnectionOutOfUse(t *testing.T) {
	leavesNoGoroutine(t)
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	long := strings.Repeat("x", 100001)
	for name, c := range map[string]struct {
		answer, body string
		together     bool
	}{
		"with the answer":    {okAnswer, "ok", true},
		"later":              {okAnswer, "ok", false},
		"with a long answer": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a1\r\n" + long + "\r\n0\r\n\r\n", long, true},
	} {
		t.Run(name, func(t *testing.T) {
			said := make(chan struct{}, 10)
			w := serveWire(t, func(_ int, conn *wireConn) {
				for conn.head() != "" {
					if c.together {
						conn.say(c.answer + poison)
					} else {
						conn.say(c.answer)
						conn.say(poison)
					}
					said <- struct{}{}
				}
			})
			lean := newLean(t, upstream.Config{Origin: w.origin})
			for n := range 3 {
				if _, body := get(t, lean, w.origin); body != c.body {
					t.Fatalf("request %d was answered %.50q", n+1, body)
				}
				<-said
			}
			if w.accepted() != 3 {
				t.Errorf("three requests took %d connections", w.accepted())
			}
		})
	}
}

func TestBytesBeforeTheFirstRequestAreNoAnswer(t *testing.T) {
	leavesNoGoroutine(t)
	said := make(chan struct{})
	w := serveWire(t, func(_ int, c *wireConn) {
		c.say(okAnswer)
		close(said)
		c.waitClosed()
	})
	lean := newLean(t, upstream.Config{Origin: w.origin, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		<-said
		return c, err
	}})
	_, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
	var e *upstream.Error
	if !errors.As(err, &e) || e.Sent {
		t.Errorf("got %v", err)
	}
}

func TestARequestIsRepeatedOnceAtMost(t *testing.T) {
	leavesNoGoroutine(t)
	var count atomic.Int64
	w := serveWire(t, func(n int, c *wireConn) {
		for c.head() != "" {
			if count.Add(1) > 1 {
				return
			}
			c.say(okAnswer)
		}
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	get(t, lean, w.origin)
	_, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
	var e *upstream.Error
	if !errors.As(err, &e) || !e.Sent || count.Load() != 3 || lean.Stats().Retries != 1 {
		t.Errorf("got %v after %d tries, %+v", err, count.Load()-1, lean.Stats())
	}
	// On a new connection it is not repeated at all.
	count.Store(1)
	_, err = lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
	if err == nil || count.Load() != 2 {
		t.Errorf("got %v after %d tries", err, count.Load()-1)
	}
}

func TestARequestIsNotRepeatedOnceAnAnswerBegan(t *testing.T) {
	leavesNoGoroutine(t)
	var count atomic.Int64
	w := serveWire(t, func(_ int, c *wireConn) {
		for c.head() != "" {
			if count.Add(1) == 2 {
				c.say("H")
				return
			}
			c.say(okAnswer)
		}
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	get(t, lean, w.origin)
	_, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
	if !errors.Is(err, io.ErrUnexpectedEOF) || count.Load() != 2 {
		t.Errorf("got %v after %d tries", err, count.Load()-1)
	}
}

func TestARefusalIsReadThoughTheServerClosedAtOnce(t *testing.T) {
	// The server answers, closes, and resets us while the body is being sent.
	leavesNoGoroutine(t)
	w := serveWire(t, func(_ int, c *wireConn) {
		c.head()
		c.say("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge")
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	for range 20 {
		body := &endless{closed: make(chan struct{})}
		req := newRequest(t, "POST", w.origin, "/", body)
		req.ContentLength = 1 << 40
		within(t, "the refused upload", func() {
			resp, got := do(t, lean, req)
			if resp.StatusCode != 413 || got != "large" {
				t.Errorf("got %d %q", resp.StatusCode, got)
			}
			<-body.closed
		})
	}
}

func TestABodyThatFailsIsNeverTakenForAWholeOne(t *testing.T) {
	leavesNoGoroutine(t)
	broken := errors.New("the client hung up")
	for _, c := range []struct {
		name   string
		length int64
		body   func() io.Reader
		want   error
	}{
		{"chunked", -1, func() io.Reader { return io.MultiReader(strings.NewReader("some"), failing(broken)) }, broken},
		{"long", 1 << 20, func() io.Reader { return io.MultiReader(strings.NewReader("some"), failing(broken)) }, broken},
		{"long and short of it", 1 << 20, func() io.Reader { return strings.NewReader("some") }, io.ErrUnexpectedEOF},
		{"tiny", 10, func() io.Reader { return io.MultiReader(strings.NewReader("some"), failing(broken)) }, broken},
		{"tiny and short of it", 10, func() io.Reader { return strings.NewReader("some") }, io.ErrUnexpectedEOF},
		{"tiny and beyond", 3, func() io.Reader { return strings.NewReader("some") }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			w := serveWire(t, func(_ int, conn *wireConn) {
				conn.head()
				rest, _ := io.ReadAll(conn.in)
				got <- string(rest)
			})
			lean := newLean(t, upstream.Config{Origin: w.origin})
			req := newRequest(t, "POST", w.origin, "/", c.body())
			req.ContentLength = c.length
			within(t, "the request", func() {
				_, err := lean.RoundTrip(req)
				var e *upstream.Error
				if !errors.As(err, &e) || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if tiny := c.length > 0 && c.length < 100; e.Sent == tiny {
					t.Errorf("%v has Sent %v", err, e.Sent)
				}
				if !e.Sent {
					if w.accepted() != 0 {
						t.Error("a connection was opened for it")
					}
					return
				}
				if sent := <-got; strings.Contains(sent, "0\r\n\r\n") || len(sent) > 100 {
					t.Errorf("the server got %q", sent)
				}
			})
		})
	}
}

func failing(err error) io.Reader {
	return readerFunc(func([]byte) (int, error) { return 0, err })
}

func TestATinyBodyHoldsNoConnectionWhileItIsAwaited(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering(okAnswer))
	lean := newLean(t, upstream.Config{Origin: w.origin})
	ctx, cancel := context.WithCancel(t.Context())
	in, out := io.Pipe()
	req := newRequest(t, "POST", w.origin, "/", in).WithContext(ctx)
	req.ContentLength = 5
	result := make(chan error, 1)
	go func() {
		resp, err := lean.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		result <- err
	}()
	if _, err := io.WriteString(out, "hel"); err != nil {
		t.Fatal(err)
	}
	cancel()
	within(t, "the cancelled request", func() {
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	if w.accepted() != 0 {
		t.Error("a connection was opened")
	}
}

func TestCancellationReturnsThoughTheBodyCannotBeInterrupted(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, func(_ int, c *wireConn) { c.head(); c.waitClosed() })
	lean := newLean(t, upstream.Config{Origin: w.origin})
	ctx, cancel := context.WithCancel(t.Context())
	reading, release := make(chan struct{}), make(chan struct{})
	req := newRequest(t, "POST", w.origin, "/", readerFunc(func([]byte) (int, error) {
		close(reading)
		<-release
		return 0, io.EOF
	})).WithContext(ctx)
	go func() { <-reading; cancel() }()
	within(t, "the cancelled request", func() {
		_, err := lean.RoundTrip(req)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	ended, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := lean.Close(ended); err == nil {
		t.Error("Close did not wait for the goroutine that reads the body")
	}
	close(release)
}

func TestExpectIsNotSent(t *testing.T) {
	leavesNoGoroutine(t)
	got := make(chan string, 1)
	w := serveWire(t, func(_ int, c *wireConn) { got <- c.head(); c.say(okAnswer) })
	lean := newLean(t, upstream.Config{Origin: w.origin})
	req := newRequest(t, "POST", w.origin, "/", strings.NewReader("x"))
	req.Header.Set("Expect", "100-continue")
	req.Header["content-length"] = []string{"9"}
	req.Header["TRANSFER-ENCODING"] = []string{"chunked"}
	do(t, lean, req)
	if head := <-got; head != "POST / HTTP/1.1\r\nHost: "+w.origin.Host+"\r\nContent-Length: 1\r\n\r\n" {
		t.Errorf("the server saw %q", head)
	}
}

func TestAnUpgradeTakesANewConnection(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, func(_ int, c *wireConn) {
		for head := c.head(); head != ""; head = c.head() {
			if strings.Contains(head, "Upgrade") {
				c.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\nearly")
				c.waitClosed()
				return
			}
			c.say(okAnswer)
		}
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	get(t, lean, w.origin)
	req := newRequest(t, "GET", w.origin, "/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	resp, err := lean.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	switched, ok := resp.Body.(*upstream.Switched)
	if !ok {
		t.Fatalf("the body of a 101 is a %T", resp.Body)
	}
	early := make([]byte, len("early"))
	if _, err := io.ReadFull(switched, early); err != nil || string(early) != "early" {
		t.Fatalf("read %q, %v", early, err)
	}
	if s := lean.Stats(); s.Dials != 2 || s.Idle != 1 || s.InFlight != 0 {
		t.Errorf("got %+v", s)
	}
	_ = switched.Close()
	get(t, lean, w.origin)
}

func TestARefusedUpgradeIsAnAnswerLikeAnyOther(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
	lean := newLean(t, upstream.Config{Origin: w.origin})
	req := newRequest(t, "GET", w.origin, "/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	if resp, body := do(t, lean, req); resp.StatusCode != 403 || body != "no" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
}

func TestInformationalAnswersAreBounded(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, func(_ int, c *wireConn) {
		c.head()
		for {
			if _, err := io.WriteString(c.Conn, "HTTP/1.1 102 Processing\r\n\r\n"); err != nil {
				return
			}
		}
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	within(t, "the request", func() {
		if _, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil)); err == nil {
			t.Error("it was taken")
		}
	})
}

func TestTheNumberOfHeaderFieldsIsBounded(t *testing.T) {
	leavesNoGoroutine(t)
	for fields, taken := range map[int]bool{990: true, 1010: false} {
		w := serveWire(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"+strings.Repeat("a:\r\n", fields)+"\r\nok"))
		lean := newLean(t, upstream.Config{Origin: w.origin})
		resp, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
		if (err == nil) != taken {
			t.Errorf("%d fields: got %v", fields, err)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
	}
}

func TestConnectIsRefused(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering(okAnswer))
	lean := newLean(t, upstream.Config{Origin: w.origin})
	if _, err := lean.RoundTrip(newRequest(t, "CONNECT", w.origin, "/", nil)); err == nil || w.accepted() != 0 {
		t.Errorf("got %v on %d connections", err, w.accepted())
	}
}

// watched is a context that counts who waits for its end.
type watched struct {
	context.Context
	watchers atomic.Int64
}

// Value hides the context inside, which context.AfterFunc would else watch itself.
func (w *watched) Value(any) any { return nil }

func (w *watched) AfterFunc(f func()) func() bool {
	w.watchers.Add(1)
	stop := context.AfterFunc(w.Context, f)
	return func() bool {
		stopped := stop()
		if stopped {
			w.watchers.Add(-1)
		}
		return stopped
	}
}

func TestNoRequestWatchesItsContextForLongerThanItLasts(t *testing.T) {
	leavesNoGoroutine(t)
	for name, answer := range map[string]string{
		"short":       okAnswer,
		"long":        "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"empty":       "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"malformed":   "HTTP/1.1 nonsense\r\n\r\n",
		"a new world": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := serveWire(t, answering(answer))
			lean := newLean(t, upstream.Config{Origin: w.origin})
			req := newRequest(t, "GET", w.origin, "/", nil)
			req.Header = http.Header{"Connection": {"upgrade"}, "Upgrade": {"x"}}
			ctx := &watched{Context: req.Context()}
			resp, err := lean.RoundTrip(req.WithContext(ctx))
			switch {
			case err == nil && resp.StatusCode == http.StatusSwitchingProtocols:
				defer resp.Body.Close()
			case err == nil:
				_, _ = io.Copy(io.Discard, resp.Body) // and no Close, which is late at best
			}
			if n := ctx.watchers.Load(); n != 0 {
				t.Errorf("%d watchers are left", n)
			}
		})
	}
}

// cutConn is a connection on which only the first Write works.
type cutConn struct {
	net.Conn
	writes atomic.Int64
	err    error
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.writes.Add(1) > 1 {
		return 0, c.err
	}
	return c.Conn.Write(p)
}

func TestAnAnswerIsNotAwaitedForeverOnceSendingFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cut := errors.New("cut")
		origin := &url.URL{Scheme: "http", Host: "rack.example"}
		near, far := net.Pipe()
		lean, err := upstream.New(upstream.Config{Origin: origin, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return &cutConn{Conn: near, err: cut}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, far) }()
		req, err := http.NewRequestWithContext(t.Context(), "POST", origin.String(), &endless{closed: make(chan struct{})})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = lean.RoundTrip(req)
		var e *upstream.Error
		if !errors.As(err, &e) || !errors.Is(err, cut) || !e.Sent || e.Timeout() {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("the answer was awaited for %v", waited)
		}
		if err := lean.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTraceHooks(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, answering(okAnswer))
	lean := newLean(t, upstream.Config{Origin: w.origin})
	var mu sync.Mutex
	var seen []string
	note := func(s string) { mu.Lock(); defer mu.Unlock(); seen = append(seen, s) }
	for range 2 {
		req := newRequest(t, "GET", w.origin, "/", nil)
		do(t, lean, req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			GotConn:              func(i httptrace.GotConnInfo) { note(fmt.Sprint("conn ", i.Reused)) },
			WroteRequest:         func(i httptrace.WroteRequestInfo) { note(fmt.Sprint("wrote ", i.Err)) },
			GotFirstResponseByte: func() { note("byte") },
		})))
	}
	if want := "[conn false wrote <nil> byte conn true wrote <nil> byte]"; fmt.Sprint(seen) != want {
		t.Errorf("got %v, want %v", seen, want)
	}
}

func TestCloseRefusesNewRequestsAndLetsOldOnesEnd(t *testing.T) {
	leavesNoGoroutine(t)
	release := make(chan struct{})
	w := serveWire(t, func(_ int, c *wireConn) {
		c.head()
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
		<-release
		c.say("llo")
		c.waitClosed()
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	resp, err := lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := lean.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = lean.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
	var e *upstream.Error
	if !errors.As(err, &e) || e.Sent {
		t.Errorf("got %v", err)
	}
	close(release)
	if body, err := io.ReadAll(resp.Body); string(body) != "hello" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
	_ = resp.Body.Close()
	if s := lean.Stats(); s.Idle != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestErrorsNameNothingThatWasSent(t *testing.T) {
	leavesNoGoroutine(t)
	w := serveWire(t, func(_ int, c *wireConn) {
		c.head()
		c.say("HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\nsecret\r\n\r\n")
	})
	lean := newLean(t, upstream.Config{Origin: w.origin})
	for _, req := range []*http.Request{
		newRequest(t, "GET", w.origin, "/secret", nil),
		{Method: "GET", URL: w.origin, Header: http.Header{"Authorization": {"secret\n"}}},
		{Method: "GET", URL: &url.URL{Scheme: "http", Host: w.origin.Host, Opaque: "/secret\n"}, Header: http.Header{}},
	} {
		_, err := lean.RoundTrip(req)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	}
}

func TestReverseProxyOverTheTransport(t *testing.T) {
	leavesNoGoroutine(t)
	rack := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refuse":
			http.Error(w, "no", http.StatusForbidden)
		case "/hints":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "hinted")
			w.Header().Set("X-Sum", "7")
		case "/cut":
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, r.Method, " ", r.RequestURI, " ", n)
		}
	}))
	defer rack.Close()
	origin, err := url.Parse(rack.URL)
	if err != nil {
		t.Fatal(err)
	}
	lean := newLean(t, upstream.Config{Origin: origin})
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport:  lean,
		BufferPool: &bufferPool{},
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(origin) },
	})
	defer proxy.Close()
	front, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Transport{DisableCompression: true}
	defer client.CloseIdleConnections()

	if _, body := get(t, client, front); body != "GET / 0" {
		t.Errorf("got %q", body)
	}
	upload := newRequest(t, "POST", front, "/objects/tmp/x?", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 5<<20))})
	upload.ContentLength = 5 << 20
	if _, body := do(t, client, upload); body != fmt.Sprint("POST /objects/tmp/x? ", 5<<20) {
		t.Errorf("got %q", body)
	}
	refused := newRequest(t, "POST", front, "/refuse", &endless{closed: make(chan struct{})})
	refused.ContentLength = 200 << 20
	if resp, err := client.RoundTrip(refused); err == nil {
		// The client's own transport may lose the answer when its sending is cut; if it
		// has one, it is the refusal.
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("got %d", resp.StatusCode)
		}
		_ = resp.Body.Close()
	}
	hints := ""
	req := newRequest(t, "GET", front, "/hints", nil)
	resp, body := do(t, client, req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error { hints = fmt.Sprint(code, h["Link"]); return nil },
	})))
	if hints != "103 [</x>]" || body != "hinted" || resp.Trailer.Get("X-Sum") != "7" {
		t.Errorf("got %q after %q, trailers %v", body, hints, resp.Trailer)
	}
	cut, err := client.RoundTrip(newRequest(t, "GET", front, "/cut", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(cut.Body); err == nil {
		t.Error("a cut answer looks whole")
	}
	_ = cut.Body.Close()
}
