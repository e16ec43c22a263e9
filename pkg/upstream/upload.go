// Sending a request body while the answer may already be on its way.

package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	uploadSize = 32 << 10 // of the buffer through which a body is sent
	// chunkRoom is kept free before each chunk for its size and CRLF.
	chunkRoom = 8
)

// errHalted is the result of an upload that an answer, or its end, made pointless.
var errHalted = errors.New("the rest of the request was not wanted")

// upload sends a request's body on a goroutine of its own, which closes the body. It
// ends when the body does, when sending fails, or, after it has been halted, as soon as
// a Read of the body returns: a Read cannot be interrupted from here.
type upload struct {
	x       *exchange
	body    io.ReadCloser
	length  int64 // -1: chunked
	started bool
	halted  atomic.Bool
	done    chan struct{}
	err     error // valid when done is closed
}

// start starts the goroutine, which Transport.Close waits for.
func (u *upload) start(c *conn) error {
	p := &u.x.t.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	u.started = true
	u.x.t.uploads.Add(1)
	go u.run(c)
	return nil
}

func (u *upload) run(c *conn) {
	defer u.x.t.uploads.Done()
	buffer := u.x.t.bodies.Get().(*[]byte)
	var fromBody bool
	var err error
	if u.length < 0 {
		fromBody, err = u.sendChunks(c, *buffer)
	} else {
		fromBody, err = u.sendLength(c, *buffer)
	}
	u.x.t.bodies.Put(buffer)
	_ = u.body.Close()
	if err != nil && u.halted.Load() {
		err = errHalted
	}
	u.err = err
	close(u.done)
	if t := u.x.trace; t != nil && t.WroteRequest != nil {
		t.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	switch {
	case err == nil || errors.Is(err, errHalted):
	case fromBody:
		// The server must not take what it has for the whole request.
		u.x.abort()
	default:
		u.x.limitWait(c)
	}
}

// limitWait bounds how long an answer is waited for after sending failed.
func (x *exchange) limitWait(c *conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.c == c && !x.answered {
		_ = c.raw.SetReadDeadline(time.Now().Add(refusalGrace))
	}
}

// sendLength sends exactly length bytes.
func (u *upload) sendLength(c *conn, buf []byte) (fromBody bool, err error) {
	for left := u.length; left > 0; {
		if int64(len(buf)) > left {
			buf = buf[:left]
		}
		n, readErr := u.body.Read(buf)
		if u.halted.Load() {
			return false, errHalted
		}
		if n > 0 {
			left -= int64(n)
			if _, err := c.nc.Write(buf[:n]); err != nil {
				return false, err
			}
		}
		if readErr == io.EOF && left > 0 {
			return true, fmt.Errorf("the request's body ended after %d of %d bytes: %w", u.length-left, u.length, io.ErrUnexpectedEOF)
		}
		if readErr != nil && readErr != io.EOF {
			return true, fmt.Errorf("reading the request's body: %w", readErr)
		}
	}
	return true, atEnd(u.body)
}

// sendChunks sends a body of unknown length, each Read as one chunk in one write.
func (u *upload) sendChunks(c *conn, buf []byte) (fromBody bool, err error) {
	data := buf[chunkRoom : len(buf)-2]
	for {
		n, readErr := u.body.Read(data)
		if u.halted.Load() {
			return false, errHalted
		}
		if n > 0 {
			var size [chunkRoom]byte
			line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
			begin := chunkRoom - len(line)
			copy(buf[begin:], line)
			copy(data[n:n+2:len(data)+2], "\r\n")
			if _, err := c.nc.Write(buf[begin : chunkRoom+n+2]); err != nil {
				return false, err
			}
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			return true, fmt.Errorf("reading the request's body: %w", readErr)
		}
	}
	// The trailers have their values by now.
	end := []byte("0\r\n")
	for name, values := range u.x.req.Trailer {
		if !isToken(name) || isFraming(name) {
			return true, errors.New("a trailer of the request has a name that cannot be sent")
		}
		for _, value := range values {
			if end, err = appendField(end, name, value); err != nil {
				return true, err
			}
		}
	}
	_, err = c.nc.Write(append(end, "\r\n"...))
	return false, err
}

// finished reports whether the goroutine has ended.
func (u *upload) finished() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// failure returns why sending failed, if it did.
func (u *upload) failure() error {
	if u.finished() && !errors.Is(u.err, errHalted) {
		return u.err
	}
	return nil
}

// completed reports whether the whole body was sent, waiting for that at most so long.
func (u *upload) completed(grace time.Duration) bool {
	if !u.finished() {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-u.done:
		case <-timer.C:
			return false
		}
	}
	return u.err == nil
}

// halt stops sending: a blocked write ends, and no other follows.
func (u *upload) halt(c *conn) {
	u.halted.Store(true)
	_ = c.raw.SetWriteDeadline(time.Unix(1, 0))
}

// release is called when the exchange has ended. Its connection is closed or the body
// has been sent, so only the body is left to be ended.
func (u *upload) release() {
	u.halted.Store(true)
	if !u.started {
		_ = u.body.Close()
	}
}
