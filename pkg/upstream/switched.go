// Answers 101: from there on the connection belongs to the caller.

package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Switched is the body of an answer 101 Switching Protocols: both directions of the
// connection. Read, Write and Close may be called by different goroutines.
type Switched struct {
	conn  net.Conn
	early []byte // came with the answer
}

// switchProtocols hands the connection over.
func (x *exchange) switchProtocols(c *conn) (*http.Response, error) {
	h := x.resp.Header
	switch {
	case !x.switches || x.upload != nil:
		return nil, malformed("it switches protocols, which was not asked for")
	case len(h["Upgrade"]) == 0 || !hasToken(h["Connection"], "upgrade"):
		return nil, malformed("it switches protocols and does not say to which")
	case x.sendErr != nil:
		return nil, x.sendErr
	}
	if x.stop != nil && !x.stop() || !x.detach() {
		return nil, context.Cause(x.ctx)
	}
	s := &Switched{conn: c.nc}
	if c.buffered() > 0 {
		s.early = append(s.early, c.buf[c.r:c.w]...)
	}
	c.give(&x.t.buffers)
	x.end(false)
	x.bodyErr = io.EOF
	x.resp.Body = s
	return &x.resp, nil
}

// Read reads what the server sends, beginning with what came right behind its answer.
func (s *Switched) Read(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		if s.early = s.early[n:]; len(s.early) == 0 {
			s.early = nil
		}
		return n, nil
	}
	return s.conn.Read(p)
}

// Write sends to the server.
func (s *Switched) Write(p []byte) (int, error) { return s.conn.Write(p) }

// SetReadDeadline bounds Read, also one under way. A Read that met its deadline may be repeated
// with a later one.
func (s *Switched) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// Close closes the connection.
func (s *Switched) Close() error { return s.conn.Close() }

// CloseWrite ends sending, and lets the server go on.
func (s *Switched) CloseWrite() error { return closeWrite(s.conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New("the connection cannot be closed for writing alone")
}
