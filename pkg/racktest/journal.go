// Every request as the rack saw it, and an answer writer that counts what went back.

package racktest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Request is one journalled request. It is entered when it arrives; the fields after Started are final once
// Done is true: a socket is done when its connection is closed.
type Request struct {
	ID     int64       `json:"id"` // from 1, without gaps
	Time   time.Time   `json:"time"`
	Method string      `json:"method"`
	Path   string      `json:"path"` // as received, still escaped
	Query  string      `json:"query"`
	Host   string      `json:"host"`
	Header http.Header `json:"header"`

	Done        bool          `json:"done"`
	Route       string        `json:"route"`  // as in Routes; empty when none matched
	Status      int           `json:"status"` // 101 for an upgraded socket, 0 when the connection was dropped
	BodyBytes   int64         `json:"bodyBytes"`
	BodySHA256  string        `json:"bodySHA256"` // of what was read of the body
	AnswerBytes int64         `json:"answerBytes"`
	Duration    time.Duration `json:"duration"` // nanoseconds
}

// journal is a bounded list of requests with counters that never forget.
type journal struct {
	limit int
	total atomic.Int64

	mu      sync.Mutex
	entries []*Request // the newest limit ones, oldest first
	counts  map[string]int64
	changed chan struct{} // closed and replaced at every change
}

func newJournal(limit int) *journal {
	return &journal{limit: limit, counts: map[string]int64{}, changed: make(chan struct{})}
}

// begin enters a request. The body it returns hashes what is read through it; both are nil when nothing is kept.
func (j *journal) begin(req *http.Request, now time.Time) (*Request, *hashedBody) {
	id := j.total.Add(1)
	if j.limit < 0 {
		return nil, nil
	}
	path, query, _ := strings.Cut(req.RequestURI, "?")
	if req.RequestURI == "" { // made by hand, not received
		path, query = req.URL.EscapedPath(), req.URL.RawQuery
	}
	e := &Request{
		ID: id, Time: now, Method: req.Method, Path: path, Query: query, Host: req.Host, Header: req.Header.Clone(),
	}
	body := &hashedBody{ReadCloser: req.Body, sum: sha256.New()}
	if req.Body == nil {
		body.ReadCloser = http.NoBody
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.entries) >= j.limit {
		// Dropping in bulk keeps the cost per request constant.
		j.entries = append(j.entries[:0:0], j.entries[len(j.entries)-j.limit/2:]...)
	}
	j.entries = append(j.entries, e)
	j.announce()
	return e, body
}

func (j *journal) end(e *Request, body *hashedBody, rec *recorder) {
	if e == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Done = true
	e.Route = rec.route
	e.Status = rec.status
	if rec.dropped {
		e.Status = 0
	}
	e.AnswerBytes = rec.bytes.Load()
	e.BodyBytes, e.BodySHA256 = body.result()
	e.Duration = time.Since(rec.started)
	if rec.route != "" {
		j.counts[rec.route]++
	}
	j.announce()
}

func (j *journal) announce() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Requests returns the journal, oldest first.
func (r *Rack) Requests() []Request {
	j := r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]Request, len(j.entries))
	for i, e := range j.entries {
		out[i] = *e
	}
	return out
}

// RequestCount is how many requests have reached the rack; it counts what the journal has forgotten, too.
func (r *Rack) RequestCount() int64 { return r.journal.total.Load() }

// RouteCounts is how many requests each route has finished.
func (r *Rack) RouteCounts() map[string]int64 {
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	return maps.Clone(r.journal.counts)
}

// ClearJournal forgets the requests, but neither the counters nor the numbering.
func (r *Rack) ClearJournal() {
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	r.journal.entries = nil
	r.journal.announce()
}

// AwaitRequest waits for a request that match accepts, kept ones included, and returns the oldest such.
func (r *Rack) AwaitRequest(ctx context.Context, match func(Request) bool) (Request, error) {
	j := r.journal
	for {
		j.mu.Lock()
		changed := j.changed
		for _, e := range j.entries {
			if match(*e) {
				found := *e
				j.mu.Unlock()
				return found, nil
			}
		}
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Request{}, ctx.Err()
		}
	}
}

// hashedBody hashes a request body as it is read. The server may still read while a handler ends, hence the lock.
type hashedBody struct {
	io.ReadCloser
	mu  sync.Mutex
	sum hash.Hash
	n   int64
}

func (b *hashedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.sum.Write(p[:n])
	b.n += int64(n)
	b.mu.Unlock()
	return n, err
}

func (b *hashedBody) result() (int64, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n, hex.EncodeToString(b.sum.Sum(nil))
}

// recorder is the answer writer of every request: it remembers what went out and lets a fault spoil it.
type recorder struct {
	http.ResponseWriter
	started time.Time
	route   string
	status  int
	bytes   atomic.Int64 // sockets count from their own goroutines
	dropped bool
	lost    bool // the handler runs, but nothing it writes leaves
	fault   *armed
	stalled bool // the fault's stall is behind us
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(code int) {
	w.status = code
	if !w.lost {
		w.ResponseWriter.WriteHeader(code)
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.lost {
		w.bytes.Add(int64(len(p)))
		return len(p), nil
	}
	if w.fault != nil {
		return w.spoiledWrite(p)
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes.Add(int64(n))
	return n, err
}

// spoiledWrite stalls or cuts where the fault says.
func (w *recorder) spoiledWrite(p []byte) (int, error) {
	keep, stop := w.spoil(int64(len(p)))
	n, err := w.ResponseWriter.Write(p[:keep])
	w.bytes.Add(int64(n))
	if err != nil || stop == nil {
		return n, err
	}
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	if stop() {
		w.dropped = true
		panic(http.ErrAbortHandler)
	}
	m, err := w.Write(p[keep:])
	return n + m, err
}

func (w *recorder) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok && !w.lost {
		f.Flush()
	}
}

// Hijack hands out the connection; what is written to it is counted and spoiled like a body.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be hijacked")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.status = http.StatusSwitchingProtocols
	return &recordedConn{Conn: conn, w: w}, rw, nil
}

type recordedConn struct {
	net.Conn
	w        *recorder
	upgraded bool // the handshake has been written; it is no part of the stream
}

func (c *recordedConn) Write(p []byte) (int, error) {
	if !c.upgraded {
		c.upgraded = true
		return c.Conn.Write(p)
	}
	if c.w.fault == nil {
		n, err := c.Conn.Write(p)
		c.w.bytes.Add(int64(n))
		return n, err
	}
	keep, stop := c.w.spoil(int64(len(p)))
	n, err := c.Conn.Write(p[:keep])
	c.w.bytes.Add(int64(n))
	if err != nil || stop == nil {
		return n, err
	}
	if stop() {
		c.Conn.Close()
		return n, net.ErrClosed
	}
	m, err := c.Write(p[keep:])
	return n + m, err
}
