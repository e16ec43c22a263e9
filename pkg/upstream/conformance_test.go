package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"rackgateway/pkg/upstream"
)

func TestAnswersAreReadToTheirEndAndTheConnectionIsKept(t *testing.T) {
	for _, c := range []struct {
		name, method, answer, body string
		length                     int64
		trailer                    http.Header
	}{
		{"length", "GET", okAnswer, "ok", 2, nil},
		{"no body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 0, nil},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "ok", 2, nil},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", "ab0123456789", -1, nil},
		{"chunked empty", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", -1, nil},
		{"chunk that looks like an end", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n", -1, nil},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTrailer: X-Sum, x-late\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\nx-late: 2\r\nX-More: 3\r\n\r\n",
			"ab", -1, http.Header{"X-Sum": {"1"}, "X-Late": {"2"}, "X-More": {"3"}}},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", "", 2000, nil},
		{"HEAD of chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", -1, nil},
		{"HEAD without length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", "", -1, nil},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", 0, nil},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "", 0, nil},
		{"HTTP/1.0 keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "ok", 2, nil},
		{"500 to a GET", "GET", "HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", "no", 2, nil},
		{"larger than any buffer", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000), strings.Repeat("x", 100000), 100000, nil},
		{"large chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + strings.Repeat("x", 100000) + "\r\n5\r\nhello\r\n0\r\n\r\n", strings.Repeat("x", 100000) + "hello", -1, nil},
		{"a long header", "GET", "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("y", 50000) + "\r\nContent-Length: 2\r\n\r\nok", "ok", 2, nil},
	} {
		for _, slow := range []bool{false, true} {
			name := c.name
			if slow {
				name += " in small pieces"
				if len(c.answer) > 1000 {
					continue
				}
			}
			t.Run(name, func(t *testing.T) {
				conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
					w := serveWire(t, func(_ int, conn *wireConn) {
						for conn.head() != "" {
							if !slow {
								conn.say(c.answer)
								continue
							}
							for i := range c.answer {
								conn.say(c.answer[i : i+1])
							}
						}
					})
					s := at(w.origin)
					for range 3 {
						resp, body := do(t, s, newRequest(t, c.method, w.origin, "/", nil))
						if body != c.body || resp.ContentLength != c.length {
							t.Fatalf("got %d bytes of length %d, want %d of %d", len(body), resp.ContentLength, len(c.body), c.length)
						}
						if fmt.Sprint(resp.Trailer) != fmt.Sprint(c.trailer) {
							t.Fatalf("got trailers %v, want %v", resp.Trailer, c.trailer)
						}
						idle(t, s, 1)
					}
					if w.accepted() != 1 {
						t.Errorf("three requests took %d connections", w.accepted())
					}
				})
			})
		}
	}
}

func TestStatusAndHeaderAreAsSent(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		w := serveWire(t, answering("HTTP/1.1 418 I'm a teapot\r\ncontent-TYPE:  text/plain \r\nX-Many: 1\r\nX-Many: 2\r\nX-Empty:\r\nX-Tab: a\tb\r\nX-Latin: \xe9\r\nContent-Length: 2\r\n\r\nok"))
		s := at(w.origin)
		resp, _ := get(t, s, w.origin)
		want := http.Header{"Content-Type": {"text/plain"}, "X-Many": {"1", "2"}, "X-Empty": {""}, "X-Tab": {"a\tb"}, "X-Latin": {"\xe9"}, "Content-Length": {"2"}}
		if resp.StatusCode != 418 || resp.Status != "418 I'm a teapot" || resp.Proto != "HTTP/1.1" || fmt.Sprint(resp.Header) != fmt.Sprint(want) {
			t.Errorf("got %q %v, want %v", resp.Status, resp.Header, want)
		}
		if resp.Close || resp.Uncompressed || resp.Request == nil {
			t.Errorf("got Close %v, Uncompressed %v, Request %v", resp.Close, resp.Uncompressed, resp.Request)
		}
	})
}

func TestAnswersThatEndTheConnection(t *testing.T) {
	for _, c := range []struct{ name, answer, body string }{
		{"until close", "HTTP/1.1 200 OK\r\n\r\nto the end", "to the end"},
		{"until close, nothing", "HTTP/1.1 200 OK\r\n\r\n", ""},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nold", "old"},
		{"HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", "old"},
		{"Connection: close", "HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 2\r\n\r\nok", "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWire(t, func(_ int, conn *wireConn) {
					if conn.head() != "" {
						conn.say(c.answer)
					}
				})
				s := at(w.origin)
				for n := 1; n <= 2; n++ {
					resp, body := get(t, s, w.origin)
					if body != c.body || !resp.Close || w.accepted() != n {
						t.Errorf("got %q, Close %v, on connection %d, want %q on connection %d", body, resp.Close, w.accepted(), c.body, n)
					}
				}
			})
		})
	}
}

func TestInformationalAnswersAreShownAndSkipped(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		w := serveWire(t, answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+okAnswer))
		s := at(w.origin)
		var seen []string
		req := newRequest(t, "GET", w.origin, "/", nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				seen = append(seen, strconv.Itoa(code)+fmt.Sprint(h["Link"]))
				return nil
			},
		}))
		resp, body := do(t, s, req)
		if body != "ok" || resp.StatusCode != 200 || fmt.Sprint(seen) != "[100[] 103[</a> </b>] 102[]]" {
			t.Errorf("got %d %q after %v", resp.StatusCode, body, seen)
		}
		// And without anybody to show them to.
		if _, body := get(t, s, w.origin); body != "ok" {
			t.Errorf("got %q", body)
		}
	})
}

func TestRequestsArriveAsTheCallerMadeThem(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	type seen struct {
		body              string
		length            int64
		coding            []string
		trailer           http.Header
		contentLengthZero bool
	}
	for _, c := range []struct {
		name, method string
		body         func() io.Reader
		length       int64
		want         seen
	}{
		{"GET", "GET", nil, 0, seen{}},
		{"DELETE", "DELETE", nil, 0, seen{}},
		{"POST without a body says so", "POST", nil, 0, seen{contentLengthZero: true}},
		{"a small form", "POST", func() io.Reader { return strings.NewReader("a=1&b=2") }, 7, seen{body: "a=1&b=2", length: 7}},
		{"a large upload", "PUT", func() io.Reader { return strings.NewReader(large) }, int64(len(large)), seen{body: large, length: int64(len(large))}},
		{"a small body of unknown length", "POST", func() io.Reader { return io.MultiReader(strings.NewReader("ab"), strings.NewReader("c")) }, -1,
			seen{body: "abc", length: -1, coding: []string{"chunked"}}},
		{"a large body of unknown length", "POST", func() io.Reader { return io.MultiReader(strings.NewReader(large), strings.NewReader("tail")) }, -1,
			seen{body: large + "tail", length: -1, coding: []string{"chunked"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				got := make(chan seen, 1)
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					got <- seen{string(body), r.ContentLength, r.TransferEncoding, r.Trailer, r.Header.Get("Content-Length") == "0"}
				}))
				defer server.Close()
				origin, err := url.Parse(server.URL)
				if err != nil {
					t.Fatal(err)
				}
				s := at(origin)
				for range 2 {
					var body io.Reader
					if c.body != nil {
						body = c.body()
					}
					req := newRequest(t, c.method, origin, "/", body)
					req.ContentLength = c.length
					do(t, s, req)
					if g := <-got; fmt.Sprint(g) != fmt.Sprint(c.want) {
						t.Fatalf("the server saw %.200v, want %.200v", g, c.want)
					}
					idle(t, s, 1)
				}
			})
		})
	}
}

func TestRequestTrailersFollowAChunkedBody(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		got := make(chan http.Header, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			got <- r.Trailer
		}))
		defer server.Close()
		origin, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		s := at(origin)
		trailer := http.Header{"X-Sum": nil}
		req := newRequest(t, "POST", origin, "/", readerFunc(func([]byte) (int, error) {
			trailer.Set("X-Sum", "42")
			return 0, io.EOF
		}))
		req.Trailer = trailer
		do(t, s, req)
		if h := <-got; h.Get("X-Sum") != "42" {
			t.Errorf("the server saw trailers %v", h)
		}
	})
}

// readerFunc is a body of a kind that nobody can look into.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestTheTargetIsTheCallersToTheByte(t *testing.T) {
	for _, c := range []struct {
		name, want string
		url        url.URL
		leanOnly   bool
	}{
		{name: "plain", want: "/apps", url: url.URL{Path: "/apps"}},
		{name: "empty", want: "/", url: url.URL{}},
		{name: "question mark without a query", want: "/apps?", url: url.URL{Path: "/apps", ForceQuery: true}},
		{name: "query", want: "/apps?a=1;b=%zz", url: url.URL{Path: "/apps", RawQuery: "a=1;b=%zz"}},
		{name: "raw path", want: "/a%2Fb/c%20d", url: url.URL{Path: "/a/b/c d", RawPath: "/a%2Fb/c%20d"}},
		{name: "opaque", want: "/%61pps/~x!", url: url.URL{Opaque: "/%61pps/~x!"}},
		{name: "doubled slash", want: "//apps", url: url.URL{Path: "//apps"}},
		{name: "opaque doubled slash", want: "//apps", url: url.URL{Opaque: "//apps"}, leanOnly: true},
		{name: "everything", want: "*", url: url.URL{Opaque: "*"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				got := make(chan string, 1)
				w := serveWire(t, func(_ int, conn *wireConn) {
					for head := conn.head(); head != ""; head = conn.head() {
						got <- head
						conn.say(okAnswer)
					}
				})
				s := at(w.origin)
				if c.leanOnly && s.lean == nil {
					return
				}
				req := newRequest(t, "OPTIONS", w.origin, "/", nil)
				u := c.url
				u.Scheme, u.Host = w.origin.Scheme, w.origin.Host
				req.URL = &u
				do(t, s, req)
				if head := <-got; !strings.HasPrefix(head, "OPTIONS "+c.want+" HTTP/1.1\r\n") {
					t.Errorf("the server saw %q, want target %q", head, c.want)
				}
			})
		})
	}
}

func TestNothingACallerPassesCanAddALine(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"value with CRLF":       func(r *http.Request) { r.Header["X-A"] = []string{"a\r\nX-B: b"} },
		"value with LF":         func(r *http.Request) { r.Header["X-A"] = []string{"a\nX-B: b"} },
		"value with NUL":        func(r *http.Request) { r.Header["X-A"] = []string{"a\x00"} },
		"value with DEL":        func(r *http.Request) { r.Header["X-A"] = []string{"a\x7f"} },
		"name with space":       func(r *http.Request) { r.Header["X A"] = []string{"a"} },
		"name with colon":       func(r *http.Request) { r.Header["X:A"] = []string{"a"} },
		"name with CRLF":        func(r *http.Request) { r.Header["X\r\nA"] = []string{"a"} },
		"empty name":            func(r *http.Request) { r.Header[""] = []string{"a"} },
		"method with space":     func(r *http.Request) { r.Method = "GET /x" },
		"method with CRLF":      func(r *http.Request) { r.Method = "GET\r\n" },
		"path with CRLF":        func(r *http.Request) { r.URL.Opaque = "/x\r\nX-B: b" },
		"path with NUL":         func(r *http.Request) { r.URL.Opaque = "/x\x00" },
		"query with CRLF":       func(r *http.Request) { r.URL.RawQuery = "a\r\nX-B: b" },
		"trailer name":          func(r *http.Request) { chunkedBody(r); r.Trailer = http.Header{"X\r\nA": nil} },
		"Content-Length behind": func(r *http.Request) { chunkedBody(r); r.Trailer = http.Header{"Content-Length": nil} },
	} {
		t.Run(name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWire(t, answering(okAnswer))
				s := at(w.origin)
				req := newRequest(t, "GET", w.origin, "/", nil)
				spoil(req)
				resp, err := s.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
					t.Fatal("it was sent")
				}
				if s.lean != nil && w.accepted() != 0 {
					t.Error("a connection was opened for it")
				}
				var e *upstream.Error
				if s.lean != nil && (!errors.As(err, &e) || e.Sent || e.Stage != upstream.StageRequest) {
					t.Errorf("got %v, want an error before sending", err)
				}
			})
		})
	}
}

func chunkedBody(r *http.Request) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), -1
}

func TestFramingHeadersOfTheCallerAreNotSent(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		got := make(chan string, 1)
		w := serveWire(t, func(_ int, conn *wireConn) {
			for head := conn.head(); head != ""; head = conn.head() {
				got <- head
				conn.say(okAnswer)
			}
		})
		s := at(w.origin)
		req := newRequest(t, "GET", w.origin, "/", nil)
		req.Header = http.Header{
			"Host": {"evil"}, "Content-Length": {"5"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"},
			"User-Agent": {""}, "X-Kept": {" 1 ", "2"}, "X-Nil": nil,
		}
		req.Host = "rack.example"
		do(t, s, req)
		head := <-got
		if want := "GET / HTTP/1.1\r\nHost: rack.example\r\nX-Kept: 1\r\nX-Kept: 2\r\n\r\n"; head != want {
			t.Errorf("the server saw %q, want %q", head, want)
		}
	})
}

func TestAnEarlyRefusalIsReturnedAndTheUploadStops(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked=%v", chunked), func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWire(t, func(_ int, conn *wireConn) {
					conn.head()
					// It reads some, answers, and reads no more.
					_, _ = io.ReadFull(conn.in, make([]byte, 100000))
					conn.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied")
					conn.stall()
				})
				s := at(w.origin)
				body := &endless{closed: make(chan struct{})}
				req := newRequest(t, "POST", w.origin, "/", body)
				req.ContentLength = 200 << 20
				if chunked {
					req.ContentLength = -1
				}
				within(t, "the refused upload", func() {
					resp, got := do(t, s, req)
					if resp.StatusCode != 403 || got != "denied" {
						t.Errorf("got %d %q", resp.StatusCode, got)
					}
					<-body.closed
				})
				if n := body.sent.Load(); n > 64<<20 {
					t.Errorf("%d bytes were taken from the body", n)
				}
			})
		})
	}
}

// endless is a request body without end.
type endless struct {
	sent   atomic.Int64
	once   sync.Once
	closed chan struct{}
}

func (e *endless) Read(p []byte) (int, error) {
	select {
	case <-e.closed:
		return 0, errors.New("read after close")
	default:
		e.sent.Add(int64(len(p)))
		return len(p), nil
	}
}

func (e *endless) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

func TestAnAnswerCanStreamWhileTheRequestDoes(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		w := serveWire(t, func(_ int, conn *wireConn) {
			conn.head()
			conn.say("HTTP/1.1 200 OK\r\n\r\n")
			buf := make([]byte, 3+4+2) // "4", CRLF, four bytes, CRLF
			for range 3 {
				if _, err := io.ReadFull(conn.in, buf); err != nil {
					t.Error(err)
					return
				}
				conn.say(string(buf[3:7]))
			}
		})
		s := at(w.origin)
		in, out := io.Pipe()
		req := newRequest(t, "POST", w.origin, "/", in)
		within(t, "the echo", func() {
			resp, err := s.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			for i := range 3 {
				want := fmt.Sprintf("ech%d", i)
				if _, err := io.WriteString(out, want); err != nil {
					t.Error(err)
				}
				got := make([]byte, 4)
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
		_ = out.Close()
	})
}

func TestWhatHasArrivedIsNotHeldBack(t *testing.T) {
	for name, c := range map[string]struct{ head, before, after, end string }{
		"length":  {"Content-Length: 15", "", "", ""},
		"chunked": {"Transfer-Encoding: chunked", "5\r\n", "\r\n", "0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				next := make(chan struct{}, 1)
				w := serveWire(t, func(_ int, conn *wireConn) {
					conn.head()
					conn.say("HTTP/1.1 200 OK\r\n" + c.head + "\r\n\r\n")
					for i := range 3 {
						<-next
						conn.say(fmt.Sprint(c.before, "line", i, c.after))
					}
					<-next
					conn.say(c.end)
					conn.waitClosed()
				})
				s := at(w.origin)
				within(t, "the stream", func() {
					resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					buf := make([]byte, 32<<10)
					for i := range 3 {
						next <- struct{}{}
						if n, err := resp.Body.Read(buf); string(buf[:n]) != fmt.Sprint("line", i) || err != nil && err != io.EOF {
							t.Errorf("got %q, %v", buf[:n], err)
						}
					}
					next <- struct{}{}
					if n, err := resp.Body.Read(buf); n != 0 || err != io.EOF {
						t.Errorf("got %d, %v at the end", n, err)
					}
				})
			})
		})
	}
}

func TestClosingAHalfReadBodyClosesTheConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"length":      "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 100000),
		"chunked":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"until close": "HTTP/1.1 200 OK\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				closed := make(chan struct{}, 2)
				w := serveWire(t, func(_ int, conn *wireConn) {
					conn.head()
					conn.say(answer)
					conn.waitClosed()
					closed <- struct{}{}
				})
				s := at(w.origin)
				for n := 1; n <= 2; n++ {
					resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(resp.Body, make([]byte, 3)); err != nil {
						t.Fatal(err)
					}
					_ = resp.Body.Close()
					within(t, "closing", func() { <-closed })
					if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil {
						t.Errorf("reading after Close gave %d, %v", n, err)
					}
					if w.accepted() != n {
						t.Errorf("request %d was on connection %d", n, w.accepted())
					}
				}
			})
		})
	}
}

func TestCloseEndsAReadThatWaits(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		w := serveWire(t, func(_ int, conn *wireConn) {
			conn.head()
			conn.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			conn.waitClosed()
		})
		s := at(w.origin)
		resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() {
			_, err := resp.Body.Read(make([]byte, 1))
			result <- err
		}()
		within(t, "Close and Read", func() {
			_ = resp.Body.Close()
			if err := <-result; err == nil {
				t.Error("the read succeeded")
			}
		})
	})
}

func TestCancellation(t *testing.T) {
	cause := errors.New("revoked")
	never := func(_ int, conn *wireConn) { conn.head(); conn.waitClosed() }
	for _, c := range []struct {
		name   string
		script func(int, *wireConn)
		dial   bool // the dial blocks
		before bool
		body   func() io.Reader
		inBody bool
		sent   bool
	}{
		{name: "before dialling", script: never, before: true},
		{name: "in dialling", script: never, dial: true},
		{name: "in writing", script: func(_ int, c *wireConn) { c.stall() }, body: func() io.Reader { return &endless{closed: make(chan struct{})} }, sent: true},
		{name: "waiting for the header", script: never, sent: true},
		{name: "waiting for the header of a form", script: never, body: func() io.Reader { return strings.NewReader("a=b") }, sent: true},
		{name: "amid the header", script: func(_ int, c *wireConn) { c.head(); c.say("HTTP/1.1 200 OK\r\nX-"); c.waitClosed() }, sent: true},
		{name: "in the body", script: func(_ int, c *wireConn) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegin")
			c.waitClosed()
		}, inBody: true, sent: true},
		{name: "in a chunk", script: func(_ int, c *wireConn) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nbegin")
			c.waitClosed()
		}, inBody: true, sent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dialling := make(chan struct{}, 1)
			var cfg settings
			if c.dial {
				cfg.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
					select {
					case dialling <- struct{}{}:
					default:
					}
					<-ctx.Done()
					return nil, context.Cause(ctx)
				}
			}
			conform(t, cfg, func(t *testing.T, at func(*url.URL) subject) {
				reached := make(chan struct{}, 1)
				w := serveWire(t, func(n int, conn *wireConn) {
					reached <- struct{}{}
					c.script(n, conn)
				})
				s := at(w.origin)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				method, body := "GET", io.Reader(nil)
				if c.body != nil {
					method, body = "POST", c.body()
				}
				req := newRequest(t, method, w.origin, "/", body).WithContext(ctx)
				switch {
				case c.before:
					cancel(cause)
				case c.dial:
					go func() { <-dialling; cancel(cause) }()
				case !c.inBody:
					go func() { <-reached; cancel(cause) }()
				}
				within(t, "the cancelled request", func() {
					resp, err := s.RoundTrip(req)
					if c.inBody {
						if err != nil {
							t.Error(err)
							return
						}
						defer resp.Body.Close()
						if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
							t.Error(err)
						}
						time := make(chan struct{})
						go func() { defer close(time); cancel(cause) }()
						_, err = resp.Body.Read(make([]byte, 1))
						<-time
						if !errors.Is(err, cause) {
							t.Errorf("got %v, want the cause", err)
						}
						return
					}
					if err == nil {
						resp.Body.Close()
						t.Error("it succeeded")
						return
					}
					if !errors.Is(err, cause) && (s.lean != nil || !errors.Is(err, context.Canceled)) {
						t.Errorf("got %v, want the cause", err)
					}
					var e *upstream.Error
					if s.lean != nil && errors.As(err, &e) && e.Sent && !c.sent {
						t.Errorf("got %v, said to have been sent", err)
					}
				})
				if s.lean != nil && s.lean.Stats().Idle != 0 {
					t.Error("the connection was kept")
				}
			})
		})
	}
}

func TestADeadlineOfTheContextIsATimeout(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		w := serveWire(t, func(_ int, conn *wireConn) { conn.head(); conn.waitClosed() })
		s := at(w.origin)
		ctx, cancel := context.WithTimeout(t.Context(), 1)
		defer cancel()
		resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil).WithContext(ctx))
		if err == nil {
			resp.Body.Close()
			t.Fatal("it succeeded")
		}
		var timeout net.Error
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && !timeout.Timeout() {
			t.Errorf("got %v, want a timeout", err)
		}
		var e *upstream.Error
		if s.lean != nil && (!errors.As(err, &e) || !e.Timeout()) {
			t.Errorf("%v does not say that it is a timeout", err)
		}
	})
}

func TestSwitchingProtocolsHandsOverTheConnection(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		w := serveWire(t, func(_ int, conn *wireConn) {
			head := conn.head()
			if !strings.Contains(head, "\r\nUpgrade: websocket\r\n") || !strings.Contains(head, "\r\nConnection: Upgrade\r\n") {
				t.Errorf("the server saw %q", head)
			}
			conn.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly-")
			_, _ = io.Copy(conn.Conn, conn.in)
			conn.say("-bye")
		})
		s := at(w.origin)
		ctx, cancel := context.WithCancel(t.Context())
		req := newRequest(t, "GET", w.origin, "/", nil).WithContext(ctx)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		resp, err := s.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		cancel() // the caller's connection now
		rwc, ok := resp.Body.(io.ReadWriteCloser)
		if !ok || resp.StatusCode != 101 {
			t.Fatalf("got %d with a %T", resp.StatusCode, resp.Body)
		}
		defer rwc.Close()
		within(t, "the tunnel", func() {
			if _, err := io.WriteString(rwc, "late"); err != nil {
				t.Error(err)
			}
			if err := rwc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(rwc); err != nil || string(got) != "early-late-bye" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	})
}

func TestStaleConnections(t *testing.T) {
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		for _, method := range []string{"GET", "POST"} {
			t.Run(method+" after the server closed", func(t *testing.T) {
				var count atomic.Int64
				closed := make(chan struct{})
				w := serveWire(t, func(n int, conn *wireConn) {
					if conn.head() != "" {
						if n > 1 {
							count.Add(1)
						}
						conn.say(okAnswer)
					}
					if n > 1 {
						conn.waitClosed()
						return
					}
					// As a server at the end of its keep-alive time does.
					_ = conn.Close()
					close(closed)
				})
				s := at(w.origin)
				get(t, s, w.origin)
				within(t, "the server's close", func() { <-closed })
				var body io.Reader
				if method == "POST" {
					body = strings.NewReader("")
				}
				req := newRequest(t, method, w.origin, "/", body)
				if s.lean == nil && method == "POST" {
					req.Header.Set("Idempotency-Key", "x") // net/http may else fail here
				}
				if _, got := do(t, s, req); got != "ok" || count.Load() != 1 {
					t.Errorf("got %q, and the server counted %d", got, count.Load())
				}
			})
		}
		for _, c := range []struct {
			method string
			upgr   bool
			served int64 // requests the server saw after the first
		}{{"GET", false, 2}, {"HEAD", false, 2}, {"POST", false, 1}, {"DELETE", false, 1}, {"GET", true, 1}} {
			t.Run(fmt.Sprintf("%s cut before the answer, upgrade=%v", c.method, c.upgr), func(t *testing.T) {
				// The second request is read and its connection closed: nobody can tell
				// whether it was carried out.
				var count atomic.Int64
				w := serveWire(t, func(n int, conn *wireConn) {
					for conn.head() != "" {
						if count.Add(1) == 2 {
							return
						}
						conn.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				s := at(w.origin)
				get(t, s, w.origin)
				idle(t, s, 1)
				req := newRequest(t, c.method, w.origin, "/", nil)
				if c.upgr {
					if s.lean == nil {
						return // net/http repeats these
					}
					req.Header.Set("Connection", "Upgrade")
					req.Header.Set("Upgrade", "websocket")
				}
				resp, err := s.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				if s.lean == nil && c.method == "GET" {
					return // its own rules decide whether it repeats
				}
				if (err == nil) != (c.served == 2) {
					t.Errorf("got error %v", err)
				}
				if s.lean != nil && count.Load()-1 != c.served {
					t.Errorf("the server saw the request %d times, want %d", count.Load()-1, c.served)
				}
				var e *upstream.Error
				if err != nil && s.lean != nil && (!errors.As(err, &e) || !e.Sent) {
					t.Errorf("%v does not say that it was sent", err)
				}
			})
		}
	})
}

func TestAnswersThatCouldBeReadInTwoWaysAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		leanOnly     bool
	}{
		{"nothing", "", false},
		{"garbage", "\x16\x03\x01\x00\x00 hello\r\n\r\n", false},
		{"not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", false},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", false},
		{"HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n", false},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", false},
		{"status with sign", "HTTP/1.1 +20 OK\r\n\r\n", true},
		{"status below 100", "HTTP/1.1 042 OK\r\nContent-Length: 0\r\n\r\n", true},
		{"two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", true},
		{"empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n", false},
		{"cut header", "HTTP/1.1 200 OK\r\nContent-Le", false},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", true},
		{"bare LF in one line", "HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\n\r\n", true},
		{"bare CR", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n", false},
		{"NUL", "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", false},
		{"folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", true},
		{"folded first line", "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n", false},
		{"no colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", false},
		{"space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", true},
		{"empty name", "HTTP/1.1 200 OK\r\n: a\r\n\r\n", false},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", false},
		{"the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", true},
		{"a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", false},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false},
		{"a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", false},
		{"an endless length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", false},
		{"an empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", false},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
		{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false},
		{"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", false},
		{"identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", false},
		{"chunked with something", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", false},
		{"chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
		{"trailer that frames", "HTTP/1.1 200 OK\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false},
		{"101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", true},
		{"a body behind 100", "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok" + okAnswer, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWire(t, func(_ int, conn *wireConn) {
					conn.head()
					conn.say(c.answer)
				})
				s := at(w.origin)
				if c.leanOnly && s.lean == nil {
					return
				}
				resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
				if err == nil {
					resp.Body.Close()
					t.Fatalf("it was taken as %s %v", resp.Status, resp.Header)
				}
				var e *upstream.Error
				if s.lean != nil && (!errors.As(err, &e) || !e.Sent || e.Stage != upstream.StageAnswer) {
					t.Errorf("got %v, want an error while reading the answer", err)
				}
			})
		})
	}
}

func TestBodiesThatBreakOffAreErrors(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name, answer, before string
		leanOnly             bool
	}{
		{"cut length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", "he", false},
		{"cut chunk", chunked + "5\r\nhe", "he", false},
		{"cut after a chunk", chunked + "5\r\nhello", "hello", false},
		{"cut before the last chunk", chunked + "5\r\nhello\r\n", "hello", false},
		{"cut in the last chunk", chunked + "5\r\nhello\r\n0\r\n", "hello", false},
		{"cut in trailers", chunked + "5\r\nhello\r\n0\r\nX: 1\r\n", "hello", false},
		{"chunk longer than its size", chunked + "2\r\nhello\r\n0\r\n\r\n", "he", false},
		{"no chunk size", chunked + "\r\nhello\r\n0\r\n\r\n", "", false},
		{"chunk size with a sign", chunked + "+2\r\nhe\r\n0\r\n\r\n", "", false},
		{"chunk size with 0x", chunked + "0x2\r\nhe\r\n0\r\n\r\n", "", false},
		{"chunk size that overflows", chunked + "10000000000000002\r\nhe\r\n0\r\n\r\n", "", false},
		{"chunk line with bare LF", chunked + "2\nhe\r\n0\r\n\r\n", "", false},
		{"chunk extension with bare LF", chunked + "2;\nhe\r\n0\r\n\r\n", "", false},
		{"chunk data ended by LF", chunked + "2\r\nhe\n0\r\n\r\n", "he", false},
		{"chunk line without end", chunked + strings.Repeat("1", 100000), "", false},
		{"extensions without end", chunked + strings.Repeat("1;"+strings.Repeat("e", 3000)+"\r\nx\r\n", 20) + "0\r\n\r\n", "xxxxx", false},
		{"framing in a trailer", chunked + "2\r\nhe\r\n0\r\nContent-Length: 4\r\n\r\n", "he", true},
		{"folded trailer", chunked + "2\r\nhe\r\n0\r\nX: 4\r\n 5\r\n\r\n", "he", true},
		{"trailer bomb", chunked + "2\r\nhe\r\n0\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 1100) + "\r\n", "he", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWire(t, func(_ int, conn *wireConn) {
					conn.head()
					conn.say(c.answer)
				})
				s := at(w.origin)
				if c.leanOnly && s.lean == nil {
					return
				}
				resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err == nil || !strings.HasPrefix(string(got), c.before) {
					t.Errorf("got %.50q and error %v, want %q and an error", got, err, c.before)
				}
				if s.lean != nil && strings.HasPrefix(c.name, "cut") && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
				}
				if _, again := resp.Body.Read(make([]byte, 1)); again == nil {
					t.Error("reading goes on after the error")
				}
			})
		})
	}
}

func TestHeaderBombsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name     string
		leanOnly bool
		bomb     func(say func(string) error) error
	}{
		{"one endless line", false, func(say func(string) error) error { return say("X: " + strings.Repeat("y", 4000)) }},
		{"lines without end", false, func(say func(string) error) error { return say("X: " + strings.Repeat("y", 400) + "\r\n") }},
		{"many small lines", true, func(say func(string) error) error { return say("a:\r\n") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWire(t, func(_ int, conn *wireConn) {
					conn.head()
					conn.say("HTTP/1.1 200 OK\r\n")
					say := func(s string) error { _, err := io.WriteString(conn.Conn, s); return err }
					for c.bomb(say) == nil {
					}
				})
				s := at(w.origin)
				if c.leanOnly && s.lean == nil {
					return
				}
				within(t, "the request", func() {
					if resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil)); err == nil {
						resp.Body.Close()
						t.Error("it was taken")
					}
				})
			})
		})
	}
}

func TestAnswersNeverGetMixedUp(t *testing.T) {
	// Many clients, some of whom hang up at any moment, over plain and early, long and
	// short, whole and abandoned: each answer must be to its own request.
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			id := r.Header.Get("Id")
			n, _ := strconv.Atoi(id)
			w.Header().Set("Id", id)
			if n%3 == 0 {
				_, _ = io.WriteString(w, id)
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = io.WriteString(w, strings.Repeat(id+" ", n%5000))
			_, _ = w.Write(body)
		}))
		defer server.Close()
		origin, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		s := at(origin)
		var clients sync.WaitGroup
		for client := range 16 {
			clients.Go(func() {
				for i := range 150 {
					n := client*1000 + i
					id := strconv.Itoa(n)
					ctx, cancel := context.WithCancel(t.Context())
					var body io.Reader
					sent := ""
					switch n % 4 {
					case 1:
						sent = "small " + id
						body = strings.NewReader(sent)
					case 2:
						sent = strings.Repeat(id, 10000)
						body = struct{ io.Reader }{strings.NewReader(sent)}
					}
					req, err := http.NewRequestWithContext(ctx, "POST", origin.String(), body)
					if err != nil {
						t.Error(err)
					}
					if body == nil {
						req.Method = "GET"
					}
					req.Header.Set("Id", id)
					if n%7 == 0 {
						go cancel()
					}
					resp, err := s.RoundTrip(req)
					if err != nil {
						if n%7 != 0 {
							t.Errorf("%s: %v", id, err)
						}
						cancel()
						continue
					}
					if got := resp.Header.Get("Id"); got != id {
						t.Errorf("request %s got the answer to %s", id, got)
					}
					if n%11 == 0 {
						_ = resp.Body.Close()
						cancel()
						continue
					}
					want := strings.Repeat(id+" ", n%5000) + sent
					if n%3 == 0 {
						want = id + want
					}
					got, err := io.ReadAll(resp.Body)
					if err == nil && string(got) != want {
						t.Errorf("request %s got a body of %d bytes, want %d", id, len(got), len(want))
					}
					if err != nil && n%7 != 0 {
						t.Errorf("%s: %v", id, err)
					}
					_ = resp.Body.Close()
					cancel()
				}
			})
		}
		clients.Wait()
	})
}

func TestALargeDownloadIsWhole(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	conform(t, settings{}, func(t *testing.T, at func(*url.URL) subject) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", strconv.Itoa(len(want)))
			}
			_, _ = w.Write(want)
		}))
		defer server.Close()
		origin, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		s := at(origin)
		for _, path := range []string{"/length", "/chunked"} {
			if _, got := do(t, s, newRequest(t, "GET", origin, path, nil)); got != string(want) {
				t.Errorf("%s: got %d other bytes", path, len(got))
			}
		}
	})
}
