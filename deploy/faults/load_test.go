package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shape is one kind of request. KEY in its path stands for the request's key.
type shape struct {
	name   string
	method string
	path   string
	form   string // body of a form
	stream string // body that is streamed, chunked
	write  bool   // its record comes first: it changes something, or may, or goes on for long
	late   bool   // its outcome is recorded after the answer
}

// everything is the mix of requests that a load sends: reads and writes of each way that a record takes.
var everything = []*shape{
	{name: "read", method: "GET", path: "/apps/demo/configs/KEY"},
	{name: "head", method: "HEAD", path: "/apps/demo/objects/KEY"},
	{name: "poll", method: "GET", path: "/apps/KEY"},
	{name: "download", method: "GET", path: "/apps/demo/objects/KEY", write: true, late: true},
	{name: "form", method: "PUT", path: "/apps/demo/configs/KEY", form: "value=dmFsdWU%3D", write: true},
	{name: "upload", method: "POST", path: "/apps/demo/objects/KEY", stream: strings.Repeat("content of an object ", 100), write: true},
	{name: "delete", method: "DELETE", path: "/apps/demo/objects/KEY", write: true},
}

var (
	aRead  = everything[0]
	aWrite = everything[4]
)

// execs is what sessions are entered as.
var execs = &shape{name: "exec", method: "GET", write: true}

// caller is one client: it sends one request after the other over a connection of its own, and never one twice.
type caller struct {
	address func() string // host:port to connect to, asked for each connection
	token   string
	once    bool // a new connection for each request, as each command of the CLI has

	conn  net.Conn
	reads *bufio.Reader
}

// answerTime is how long a client waits for an answer.
const answerTime = 90 * time.Second

// ask sends a request and returns what came of it.
func (c *caller) ask(ctx context.Context, s *shape, key string) *entry {
	e := &entry{key: key, shape: s}
	if e.err = c.exchange(ctx, e); e.err != nil || c.once {
		c.hangUp()
	}
	return e
}

func (c *caller) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *caller) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	conn, err := (&net.Dialer{Timeout: answerTime}).DialContext(ctx, "tcp", c.address())
	if err != nil {
		return err
	}
	c.conn, c.reads = conn, bufio.NewReader(conn)
	return nil
}

// request makes the HTTP request of a shape.
func (c *caller) request(ctx context.Context, s *shape, key string) (*http.Request, error) {
	var body io.Reader
	switch {
	case s.form != "":
		body = strings.NewReader(s.form)
	case s.stream != "":
		body = struct{ io.Reader }{strings.NewReader(s.stream)} // of unknown length
	}
	req, err := http.NewRequestWithContext(ctx, s.method, "http://localhost"+strings.ReplaceAll(s.path, "KEY", key)+"?", body)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("convox", c.token)
	req.Header.Set("User-Agent", "convox.go/dev")
	if s.form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req, nil
}

func (c *caller) exchange(ctx context.Context, e *entry) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	req, err := c.request(ctx, e.shape, e.key)
	if err != nil {
		return err
	}
	if err := c.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if err := req.Write(c.conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.reads, req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	e.status, e.id = resp.StatusCode, resp.Header.Get("Gateway-Request-Id")
	if e.id == "" {
		e.code = "a refusal" // HEAD has no body that could tell
		var refusal struct{ Error, Code, RequestID string }
		if err := json.Unmarshal([]byte(strings.ReplaceAll(string(text), "request_id", "requestid")), &refusal); err == nil {
			e.code, e.says, e.id = refusal.Code, refusal.Error, refusal.RequestID
		} else if e.status == http.StatusServiceUnavailable {
			e.code = unrecorded
		}
	}
	if resp.Close {
		c.hangUp()
	}
	return nil
}

// load is many clients that ask for everything at once.
type load struct {
	books  *books
	stop   chan struct{}
	ended  sync.WaitGroup
	number int

	served  atomic.Int64 // answers of the rack
	slowest atomic.Int64 // of them, nanoseconds
	mu      sync.Mutex
	others  []*entry // everything but answers of the rack
}

// loads counts them, so that no two give a key twice.
var loads atomic.Int64

// loadOptions say what a load is like.
type loadOptions struct {
	callers   int
	addresses []func() string // callers take them in turn, and the next one when a connection failed
	tokens    []string        // callers take them in turn
	shapes    []*shape        // everything when nil
	every     time.Duration   // pause between a caller's requests
	fresh     bool            // each second caller makes a new connection for each request
}

// put starts a load that runs until it is lifted.
func (b *books) put(t *testing.T, opts loadOptions) *load {
	t.Helper()
	if opts.shapes == nil {
		opts.shapes = everything
	}
	if opts.every == 0 {
		opts.every = 15 * time.Millisecond
	}
	l := &load{books: b, stop: make(chan struct{}), number: int(loads.Add(1))}
	for i := range opts.callers {
		l.ended.Go(func() { l.run(t.Context(), i, opts) })
	}
	return l
}

func (l *load) run(ctx context.Context, number int, opts loadOptions) {
	at := number
	c := &caller{
		address: func() string { return opts.addresses[at%len(opts.addresses)]() },
		token:   opts.tokens[number%len(opts.tokens)],
		once:    opts.fresh && number%2 == 0,
	}
	defer c.hangUp()
	every := time.NewTicker(opts.every)
	defer every.Stop()
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		case <-ctx.Done():
			return
		case <-every.C:
		}
		began := time.Now()
		e := c.ask(ctx, opts.shapes[(number+i)%len(opts.shapes)], fmt.Sprintf("k%d-%d-%d", l.number, number, i))
		if e.err != nil && ctx.Err() == nil {
			at++
		}
		l.books.note(e)
		if e.fromRack() {
			l.served.Add(1)
			for took := int64(time.Since(began)); ; {
				was := l.slowest.Load()
				if took <= was || l.slowest.CompareAndSwap(was, took) {
					break
				}
			}
			continue
		}
		l.mu.Lock()
		l.others = append(l.others, e)
		l.mu.Unlock()
	}
}

// goesOn waits until n more requests have been answered by the rack.
func (l *load) goesOn(t *testing.T, n int64) {
	t.Helper()
	from := l.served.Load()
	eventually(t, "the rack answered more requests", func() bool { return l.served.Load() >= from+n })
}

// lift ends the load: requests under way are answered first. It returns what was not answered by the rack.
func (l *load) lift() []*entry {
	close(l.stop)
	l.ended.Wait()
	return l.others
}

// liftUnharmed is lift for a fault that clients must not have noticed.
func (l *load) liftUnharmed(t *testing.T, fault string) {
	t.Helper()
	others := l.lift()
	for i, e := range others {
		if i == 5 {
			break
		}
		t.Errorf("%s: %s %s failed: %s", fault, e.key, e.shape.name, e.told())
	}
	t.Logf("%s: %d requests served, %d failed, the slowest took %s", fault, l.served.Load(), len(others), time.Duration(l.slowest.Load()).Round(time.Millisecond))
}

// told is what came of a request, for a person.
func (e *entry) told() string {
	if e.err != nil {
		return e.err.Error()
	}
	return fmt.Sprintf("%d %s: %s", e.status, e.code, e.says)
}

var errNoAnswer = errors.New("no answer came")
