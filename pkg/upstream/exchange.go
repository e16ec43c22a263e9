// An exchange: one request, the connection that carries it, and the body of its answer.

package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"
)

const (
	// maxInformational bounds the 1xx answers before the final one.
	maxInformational = 1000
	// uploadGrace is how long the end of a request body is waited for when the answer
	// has been read to its end. Usually both happen at once.
	uploadGrace = 50 * time.Millisecond
	// refusalGrace is how long an answer is waited for when sending has failed: a
	// server that refuses a request may answer, close, and so break our sending.
	refusalGrace = 5 * time.Second
)

var (
	errNoAnswer   = errors.New("the upstream closed the connection without an answer")
	errClosedSoon = errors.New("the upstream closed a new connection before the request")
)

// exchange is one call of RoundTrip, and afterwards the body of its answer.
//
// It owns a connection from attach to end. The goroutine that calls RoundTrip, and
// then Read, is the only one that reads from it. abort may be called by any.
type exchange struct {
	t          *Transport
	ctx        context.Context
	req        *http.Request
	trace      *httptrace.ClientTrace
	stop       func() bool // ends the watch on ctx; nil when ctx cannot end
	head       *[]byte     // request line, header and a tiny body; nil once the answer is there
	upload     *upload     // nil unless the body is sent by a goroutine
	isHead     bool        // the method is HEAD
	repeatable bool        // may be sent a second time
	switches   bool        // asks for an upgrade
	close      bool        // asks for the connection to be closed

	sent    bool  // something may have been sent, on any connection
	kept    bool  // the last connection had been kept
	gotByte bool  // some of an answer has come
	sendErr error // sending failed, and yet there may be an answer
	resp    http.Response

	mu       sync.Mutex // guards what follows
	c        *conn      // changed by the owner only, who need not lock to read it
	aborted  bool
	answered bool // the header of the final answer is there
	ended    bool

	reading  sync.Mutex // held in Read and Close; guards what follows
	framing  framing
	reusable bool
	bodyErr  error   // what Read returns from now on
	left     int64   // bytes to come: of the body, or of the chunk
	chunkEnd bool    // a chunk has been read and its CRLF has not
	lastRead bool    // the last chunk has been read and the trailers have not
	excess   int64   // bytes of chunk framing beyond what is reasonable
	held     []byte  // body bytes that have been taken from the connection
	heldIn   *[]byte // the pooled buffer they are in
}

// run sends the request on a connection and reads the header of the answer.
func (x *exchange) run(fresh bool) (*http.Response, error) {
	for {
		x.kept = false
		c, err := x.t.acquire(x.ctx, fresh)
		if err != nil {
			return nil, x.fail(StageConnect, err)
		}
		c.take(&x.t.buffers)
		x.kept = c.used
		if !x.attach(c) {
			c.drop()
			c.give(&x.t.buffers)
			return nil, x.fail(StageConnect, context.Cause(x.ctx))
		}
		if x.trace != nil && x.trace.GotConn != nil {
			x.trace.GotConn(httptrace.GotConnInfo{Conn: c.nc, Reused: c.used, WasIdle: c.used})
		}
		switch err := x.send(c); {
		case errors.Is(err, errStale) && x.kept:
			x.detach()
			c.drop()
			c.give(&x.t.buffers)
			x.t.stale.Add(1)
			continue
		case errors.Is(err, errStale):
			return nil, x.fail(StageSend, errClosedSoon)
		case errors.Is(err, errClosed):
			return nil, x.fail(StageSend, err)
		case err != nil:
			// The answer, if there is one, says more than the error.
			x.sendErr = err
			_ = c.raw.SetReadDeadline(time.Now().Add(refusalGrace))
		}
		if x.kept {
			x.t.reuses.Add(1)
		}
		resp, err := x.answer(c)
		if err == nil {
			return resp, nil
		}
		if x.sendErr != nil && !x.gotByte {
			return nil, x.fail(StageSend, x.sendErr)
		}
		return nil, x.fail(StageAnswer, err)
	}
}

// mayRepeat reports whether the request may be sent a second time.
func (x *exchange) mayRepeat(err error) bool {
	x.mu.Lock()
	aborted := x.aborted
	x.mu.Unlock()
	return x.repeatable && x.kept && !x.gotByte && !aborted && x.ctx.Err() == nil && !isTimeout(err)
}

// attach makes the exchange the owner of the connection, unless it was aborted.
func (x *exchange) attach(c *conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.aborted {
		return false
	}
	x.c = c
	x.sendErr = nil
	return true
}

// detach ends the ownership. It reports whether the connection is still good.
func (x *exchange) detach() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.c = nil
	return !x.aborted
}

// abort closes the connection, if one is owned, and so ends whatever waits for it. It
// is called when the context ends, when the request's body fails, and by Close.
func (x *exchange) abort() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.aborted = true
	if x.c != nil {
		x.c.drop()
	}
}

// fail gives up the connection and returns the error to show.
func (x *exchange) fail(stage Stage, err error) *Error {
	err = x.cause(err)
	if c := x.c; c != nil {
		x.detach()
		c.drop()
		c.give(&x.t.buffers)
	}
	return &Error{Stage: stage, Sent: x.sent, Err: err}
}

// cause returns what made err happen: the end of the context, or a request body that
// could not be read or sent; or else err itself.
func (x *exchange) cause(err error) error {
	if x.ctx.Err() != nil {
		return context.Cause(x.ctx)
	}
	if x.upload != nil {
		if sendErr := x.upload.failure(); sendErr != nil {
			return sendErr
		}
	}
	return err
}

// end gives the connection up, once: to the pool when it may be reused.
func (x *exchange) end(reuse bool) {
	if x.stop != nil {
		x.stop()
	}
	x.mu.Lock()
	c := x.c
	x.c = nil
	reuse = reuse && !x.aborted
	first := !x.ended
	x.ended = true
	x.mu.Unlock()
	if first {
		x.t.inFlight.Add(-1)
		if x.upload != nil {
			x.upload.release()
		}
	}
	if c == nil {
		return
	}
	reuse = reuse && c.buffered() == 0 && c.readErr == nil
	c.give(&x.t.buffers)
	if !reuse {
		c.drop()
		return
	}
	c.used = true
	x.t.keep(c)
}

// send writes the request's header, and its body or the beginning of it. It returns
// errStale when the connection turned out unusable before anything was written.
func (x *exchange) send(c *conn) error {
	head := *x.head
	var n int
	var err error
	if c.secure == nil && c.rc != nil && x.upload == nil {
		n, err = c.exchange(head)
	} else if c.used && c.stale() {
		err = errStale
	} else {
		n, err = c.nc.Write(head)
	}
	if errors.Is(err, errStale) {
		return err
	}
	// With TLS a record may have gone out though Write counts nothing.
	x.sent = x.sent || n > 0 || c.secure != nil
	if x.upload != nil && err == nil {
		err = x.upload.start(c)
	}
	if x.trace != nil && x.trace.WroteRequest != nil && x.upload == nil {
		x.trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	return err
}

// answer reads the header of the final answer, and as much of the body as is there.
func (x *exchange) answer(c *conn) (*http.Response, error) {
	if c.buffered() == 0 {
		if err := c.fill(); errors.Is(err, io.EOF) {
			return nil, errNoAnswer
		} else if err != nil {
			return nil, err
		}
	}
	x.gotByte = true
	if x.trace != nil && x.trace.GotFirstResponseByte != nil {
		x.trace.GotFirstResponseByte()
	}
	resp := &x.resp
	for informational := 0; ; informational++ {
		block, lines, err := c.block(x.t.maxHeaderBytes, false)
		if err != nil {
			return nil, unexpected(err)
		}
		if err := parseHead(string(block), lines, resp); err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
		if informational == maxInformational {
			return nil, malformed("it does not get past informational answers")
		}
		if x.trace != nil && x.trace.Got1xxResponse != nil {
			if err := x.trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
		}
	}
	resp.Request = x.req
	resp.TLS = c.state
	if x.sendErr != nil {
		_ = c.raw.SetReadDeadline(time.Time{})
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return x.switchProtocols(c)
	}
	f, closes, err := frame(resp, x.isHead)
	if err != nil {
		return nil, err
	}
	x.framing = f
	x.reusable = !closes && !x.close && x.sendErr == nil
	if x.upload != nil {
		x.finalAnswer(c)
	}
	x.begin(c)
	return resp, nil
}

// finalAnswer tells the goroutine that sends the body of an answer that came.
func (x *exchange) finalAnswer(c *conn) {
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	// Its failure may have limited the time for reading; the answer is here now.
	_ = c.raw.SetReadDeadline(time.Time{})
	if x.resp.StatusCode >= 300 && !x.upload.finished() {
		x.upload.halt(c)
		x.reusable = false
	}
}

// begin sets up the body. A body that has arrived already is taken out of the
// connection, which goes back to the pool at once: it serves the next request while
// this answer waits for its record or its reader.
func (x *exchange) begin(c *conn) {
	resp := &x.resp
	resp.Body = x
	switch x.framing {
	case framedEmpty:
		resp.Body = http.NoBody
		x.bodyErr = io.EOF
		x.end(x.reusable && x.uploaded())
	case framedLength:
		x.left = resp.ContentLength
		if x.left <= int64(c.buffered()) && x.upload == nil {
			x.held = c.buf[c.r : c.r+int(x.left)]
			surplus := c.buffered() > len(x.held)
			x.heldIn, c.buffer, c.buf, c.r, c.w = c.buffer, nil, nil, 0, 0
			x.left = 0
			x.end(x.reusable && !surplus)
		}
	case framedChunked:
		if x.upload == nil && bytes.HasSuffix(c.buf[c.r:c.w], []byte("\r\n0\r\n\r\n")) {
			x.takeChunks(c)
		}
	case framedClose:
	}
}

// takeChunks decodes chunks that seem to be all there, so that the connection can go
// back to the pool. When they are not, Read goes on where this ended.
func (x *exchange) takeChunks(c *conn) {
	if len(c.buf) > bufferSize {
		return
	}
	x.heldIn = x.t.buffers.Get().(*[]byte)
	room := *x.heldIn // decoded bytes are fewer than those that were read
	c.limited = true
	n := 0
	var err error
	for err == nil {
		var m int
		m, err = x.readChunked(c, room[n:])
		n += m
	}
	c.limited = false
	x.held = room[:n]
	switch {
	case errors.Is(err, errShort):
	case errors.Is(err, io.EOF):
		x.framing = framedEmpty
		x.end(x.reusable)
	default:
		// Read returns the error after the bytes before it.
		x.bodyErr = err
		x.end(false)
	}
}

// uploaded reports whether the request's body has been sent to its end, for which it
// waits a little.
func (x *exchange) uploaded() bool {
	return x.upload == nil || x.upload.completed(uploadGrace)
}

// Read reads from the body of the answer.
func (x *exchange) Read(p []byte) (int, error) {
	x.reading.Lock()
	defer x.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(x.held) > 0 {
		n := copy(p, x.held)
		x.held = x.held[n:]
		if len(x.held) > 0 {
			return n, nil
		}
		x.release()
		if x.c != nil || x.bodyErr != nil {
			return n, nil
		}
		x.bodyErr = io.EOF
		return n, io.EOF
	}
	if x.bodyErr != nil {
		return 0, x.bodyErr
	}
	n, err := x.readBody(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		x.end(x.reusable && x.uploaded())
	} else {
		err = x.cause(err)
		x.end(false)
	}
	x.bodyErr = err
	return n, err
}

// readBody reads from the connection. It returns io.EOF with the last bytes where it can.
func (x *exchange) readBody(p []byte) (int, error) {
	c := x.c
	if c == nil {
		return 0, io.EOF
	}
	switch x.framing {
	case framedLength:
		if int64(len(p)) > x.left {
			p = p[:x.left]
		}
		n, err := c.read(p)
		x.left -= int64(n)
		if x.left == 0 {
			return n, io.EOF
		}
		return n, unexpected(err)
	case framedChunked:
		n, err := x.readChunked(c, p)
		return n, err
	case framedClose:
		return c.read(p)
	default:
		return 0, io.EOF
	}
}

// release returns the buffer of the bytes that were held.
func (x *exchange) release() {
	x.held = nil
	if x.heldIn != nil {
		x.t.buffers.Put(x.heldIn)
		x.heldIn = nil
	}
}

// Close ends reading. What has not been read is not waited for: the connection is
// closed instead. It may be called while Read is waiting, which then ends.
func (x *exchange) Close() error {
	if !x.reading.TryLock() {
		x.abort()
		x.reading.Lock()
	}
	defer x.reading.Unlock()
	x.release()
	if x.bodyErr == nil {
		x.bodyErr = http.ErrBodyReadAfterClose
	}
	x.end(false)
	return nil
}

// unexpected turns an end of file where there should be more into what says so.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
