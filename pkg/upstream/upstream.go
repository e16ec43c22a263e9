// Package upstream is an http.RoundTripper for one origin: the rack.
//
// It speaks HTTP/1.1 over plain TCP or TLS with a pool of kept-alive
// connections, and does a round trip on the caller's goroutine: one write, one
// read, no hand-over between goroutines. That is what makes it cheaper than
// http.Transport, which runs two goroutines for every connection. A goroutine
// is started only to send a request body that is longer than a few kilobytes or
// of unknown length, so that an answer which comes early can be read meanwhile.
//
// It is stricter than http.Transport where a gateway must be: an answer that two
// readers could read in two ways is an error (RFC 9112 sections 2.2, 5.2, 6.3 and
// 11), and nothing that a caller passes can add a line to the request.
// It adds no header of its own but Host, Content-Length, Transfer-Encoding,
// Trailer and, for Request.Close, Connection; it never asks for compression and
// never decompresses.
//
// # Retries
//
// A request is sent a second time only when all of this holds: its method is
// GET, HEAD or OPTIONS; it has no body; it does not ask for an upgrade (a socket
// may run a command); it went out on a connection that had served an earlier
// request; and that connection broke before the first byte of an answer. The
// second try is on a fresh connection, and there is no third. Everything else is
// sent at most once.
//
// # Stale connections
//
// A server may close a kept-alive connection at any time. Immediately before a
// kept connection is used again its socket is read without blocking: an end of
// file, an error, or bytes that nobody asked for take it out of the pool, and
// another connection is used. Connections are also kept for less time than any
// rack or ingress keeps them (Config.IdleTimeout).
//
// One window remains: the server closes the connection after that check, so that
// its FIN and our request cross. The request is then answered by a reset. A read
// is repeated as above; for a write RoundTrip returns an *Error with Sent set.
// The caller must answer 502 and treat the outcome as unknown: the server most
// likely never read the request, but that cannot be told from here.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Config says which origin to speak to and how. Zero values of all fields but
// Origin mean the defaults named beside them.
type Config struct {
	// Origin is the scheme, host and optional port of the server, such as
	// https://rack.example.com. It has no path, query, fragment or user.
	Origin *url.URL

	// TLS is used when the scheme is https; see TLSConfig. It is cloned. An empty
	// ServerName becomes the origin's host; the protocol offered is always
	// HTTP/1.1 alone.
	TLS *tls.Config

	// DialContext opens the TCP connection. By default a net.Dialer does, with
	// TCP keep-alive probes. A connection that is not a syscall.Conn cannot be
	// checked for staleness and is therefore never used a second time.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	DialTimeout         time.Duration // for one TCP connection, and for waiting for a turn to dial; 10 s
	TLSHandshakeTimeout time.Duration // 10 s
	KeepAlive           time.Duration // between TCP keep-alive probes; 15 s
	IdleTimeout         time.Duration // how long a connection is kept unused; 50 s, below an ingress's 75 s and a rack's 120 s
	MaxIdle             int           // connections kept unused; 256
	MaxDials            int           // connections being opened at a time; 64
	MaxHeaderBytes      int           // of one answer's header, or of its trailers; 1 MiB
}

// Transport is an http.RoundTripper for one origin. Its methods may be used by
// several goroutines at a time.
type Transport struct {
	scheme         string
	host           string // as it stands in Config.Origin
	address        string // host:port to dial
	tls            *tls.Config
	dialContext    func(ctx context.Context, network, address string) (net.Conn, error)
	dialTimeout    time.Duration
	tlsTimeout     time.Duration
	maxHeaderBytes int

	pool    pool
	uploads sync.WaitGroup // goroutines that send request bodies
	buffers sync.Pool      // *[]byte of bufferSize, for reading
	heads   sync.Pool      // *[]byte, for building requests
	bodies  sync.Pool      // *[]byte of uploadSize, for sending bodies

	dials      atomic.Int64
	dialErrors atomic.Int64
	reuses     atomic.Int64
	stale      atomic.Int64
	retries    atomic.Int64
	inFlight   atomic.Int64
}

// Stats are counts since New, but for Idle and InFlight, which are of the moment.
type Stats struct {
	Dials      int64 // connections opened
	DialErrors int64 // connections that could not be opened, TLS included
	Reuses     int64 // requests sent on a kept connection
	Stale      int64 // kept connections found closed or dirty when they were wanted
	Retries    int64 // requests sent a second time
	Idle       int64 // connections kept, unused
	InFlight   int64 // requests whose answer has not been read to its end or closed
}

// New returns a transport for the configured origin. It opens no connection.
func New(cfg Config) (*Transport, error) {
	u := cfg.Origin
	if u == nil {
		return nil, errors.New("upstream: no origin given")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("upstream: the origin's scheme is %q, and must be http or https", u.Scheme)
	}
	if u.Hostname() == "" || !validHost(u.Host) {
		return nil, errors.New("upstream: the origin has no usable host")
	}
	if u.User != nil || u.Opaque != "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("upstream: the origin must be scheme, host and port only")
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	t := &Transport{
		scheme:         u.Scheme,
		host:           u.Host,
		address:        net.JoinHostPort(u.Hostname(), port),
		dialContext:    cfg.DialContext,
		dialTimeout:    orDefault(cfg.DialTimeout, 10*time.Second),
		tlsTimeout:     orDefault(cfg.TLSHandshakeTimeout, 10*time.Second),
		maxHeaderBytes: orDefault(cfg.MaxHeaderBytes, 1<<20),
	}
	t.pool.maxIdle = orDefault(cfg.MaxIdle, 256)
	t.pool.maxDials = orDefault(cfg.MaxDials, 64)
	t.pool.idleTimeout = orDefault(cfg.IdleTimeout, 50*time.Second)
	if t.dialContext == nil {
		t.dialContext = (&net.Dialer{KeepAlive: orDefault(cfg.KeepAlive, 15*time.Second)}).DialContext
	}
	if u.Scheme == "https" {
		t.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			t.tls = cfg.TLS.Clone()
		}
		if t.tls.ServerName == "" {
			t.tls.ServerName = u.Hostname()
		}
		t.tls.NextProtos = []string{"http/1.1"}
	}
	t.buffers.New = newBytes(bufferSize)
	t.heads.New = newBytes(headSize)
	t.bodies.New = newBytes(uploadSize)
	return t, nil
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

func newBytes(size int) func() any {
	return func() any {
		b := make([]byte, size)
		return &b
	}
}

// Stats returns the counters. They are read one after another, not at one instant.
func (t *Transport) Stats() Stats {
	return Stats{
		Dials:      t.dials.Load(),
		DialErrors: t.dialErrors.Load(),
		Reuses:     t.reuses.Load(),
		Stale:      t.stale.Load(),
		Retries:    t.retries.Load(),
		Idle:       t.pool.idleCount.Load(),
		InFlight:   t.inFlight.Load(),
	}
}

// CloseIdleConnections closes the connections that are kept unused.
func (t *Transport) CloseIdleConnections() {
	closeAll(t.pool.drain(false))
}

// Close ends the transport: connections that are kept are closed, new requests are
// refused, and connections in use are closed when their answer has been read. It
// then waits until the goroutines that send request bodies have ended, or ctx has.
// Such a goroutine ends when its request's body returns from Read, so the caller
// ends the requests first.
func (t *Transport) Close(ctx context.Context) error {
	closeAll(t.pool.drain(true))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.uploads.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for request bodies: %w", context.Cause(ctx))
	}
}

// Stage is the part of a round trip in which an error arose.
type Stage string

// The stages, in order.
const (
	StageRequest Stage = "preparing the request"
	StageConnect Stage = "connecting"
	StageSend    Stage = "sending the request"
	StageAnswer  Stage = "reading the answer"
)

// Error is why RoundTrip got no answer. Its text names no header value, no path
// and nothing else that the client or the server sent.
type Error struct {
	Stage Stage
	// Sent reports that some of the request may have reached the server. When it
	// is false the server has surely not seen the request; when it is true, the
	// outcome of a write is unknown.
	Sent bool
	// Err is the cause. For a request whose context ended it is context.Cause.
	Err error
}

// Error returns the stage and the cause.
func (e *Error) Error() string { return "upstream: " + string(e.Stage) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether time ran out, which calls for a 504 instead of a 502.
func (e *Error) Timeout() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// RoundTrip sends the request and returns the answer once its header has been read.
// It follows http.RoundTripper; errors are of type *Error.
//
// The request's URL must name the configured origin. The path is sent as
// URL.EscapedPath gives it, or URL.Opaque as it is when that is set. An Expect
// header is not sent: the body follows at once. A body of unknown length
// (ContentLength 0 or less) is sent chunked.
//
// There is no time limit for the answer but the request context's; when that
// context ends, a blocked read or write ends at once, and so does reading
// Response.Body. An answer with a status of 300 or more stops a body that is still
// being sent.
//
// The Body of an answer 101 is a *Switched. Its connection no longer depends on
// the request's context.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x, err := t.prepare(req)
	if err != nil {
		return nil, &Error{Stage: StageRequest, Err: err}
	}
	t.inFlight.Add(1)
	if x.ctx.Done() != nil {
		x.stop = context.AfterFunc(x.ctx, x.abort)
	}
	resp, err := x.run(x.switches)
	if err != nil && x.mayRepeat(err) {
		t.retries.Add(1)
		resp, err = x.run(true)
	}
	x.freeHead()
	if err != nil {
		x.end(false)
		return nil, err
	}
	return resp, nil
}
