// A rack's websockets. The rack upgrades first and authenticates afterwards, writes its errors into the stream,
// ends it with an empty binary frame, and leaves the TCP connection open. It reads, and so answers pings, only
// where a handler reads.

package racktest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"rackgateway/pkg/racktest/wire"
)

// maxFrame bounds a frame from a client. A real rack has no bound; clients send at most 1,024 bytes.
const maxFrame = 64 << 20

// Close codes (RFC 6455, section 7.4.1).
const (
	closeNormal    = 1000
	closeGoingAway = 1001
	closeProtocol  = 1002
	closeNoStatus  = 1005
)

// socket is one upgraded connection.
type socket struct {
	*wire.Conn
	rack   *Rack
	ctx    context.Context // ends when the peer is gone or the rack closes
	cancel context.CancelFunc

	reading bool            // somebody reads from the connection, see listen and ignore
	gone    chan struct{}   // closed when nobody reads from the connection any more
	handled chan struct{}   // closed when the handler is done
	until   context.Context // how long Read waits
	in      chan []byte     // payloads of text frames, for Read
	inErr   error           // why in was closed; set before
	rest    []byte          // what Read has not handed out yet
}

// socket serves a SOCKET route.
func (r *Rack) socket(route Route, fn handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		named(w, route)
		s, ok := r.upgrade(w, req)
		if !ok {
			return
		}
		defer s.close()

		c := &call{rack: r, w: w, r: req, ws: s}
		err := c.run(fn, true)
		var op *net.OpError
		if err != nil && !errors.As(err, &op) {
			s.WriteFrame(true, wire.OpText, fmt.Appendf(nil, "ERROR: %s\n", err)) //nolint:errcheck // the peer is gone, then
		}
		s.WriteEOF() //nolint:errcheck // the peer is gone, then
		close(s.handled)

		// Nobody closes: the connection stays until the peer, or a proxy, drops it.
		s.ignore()
		<-s.gone
	})
}

// upgrade answers the handshake, or refuses it in the words of the rack's library.
func (r *Rack) upgrade(w http.ResponseWriter, req *http.Request) (*socket, bool) {
	refuse := func(code int, reason string) (*socket, bool) {
		w.Header().Set("Sec-Websocket-Version", "13")
		http.Error(w, http.StatusText(code), code)
		fmt.Fprintf(w, "ERROR: websocket: %s\n", reason)
		return nil, false
	}
	const notProtocol = "the client is not using the websocket protocol: "
	key := req.Header.Get("Sec-Websocket-Key")
	raw, keyErr := base64.StdEncoding.DecodeString(key)
	switch {
	case !containsToken(req.Header["Connection"], "upgrade"):
		return refuse(http.StatusBadRequest, notProtocol+"'upgrade' token not found in 'Connection' header")
	case !containsToken(req.Header["Sec-Websocket-Version"], "13"):
		return refuse(http.StatusBadRequest, "unsupported version: 13 not found in 'Sec-Websocket-Version' header")
	case !sameOrigin(req):
		return refuse(http.StatusForbidden, "request origin not allowed by Upgrader.CheckOrigin")
	case keyErr != nil || len(raw) != 16:
		return refuse(http.StatusBadRequest, "not a websocket handshake: 'Sec-WebSocket-Key' header must be Base64 encoded value of 16-byte in length")
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return refuse(http.StatusInternalServerError, "hijack: "+err.Error())
	}
	// The only headers of the 101 are these three.
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+wire.AcceptKey(key)+"\r\n\r\n")
	if err != nil {
		conn.Close()
		return nil, false
	}
	s := &socket{
		Conn:    wire.NewConn(conn, buffered.Reader, false),
		rack:    r,
		gone:    make(chan struct{}),
		handled: make(chan struct{}),
		in:      make(chan []byte),
	}
	s.ctx, s.cancel = context.WithCancel(r.ctx)
	r.keepConn(s.Conn, true)
	if r.ctx.Err() != nil {
		// Close may have swept the connections just before this one was entered.
		conn.Close()
	}
	return s, true
}

// sameOrigin is the library's check: the Origin's host is the request's, or there is no Origin.
func sameOrigin(req *http.Request) bool {
	origin := req.Header["Origin"]
	if len(origin) == 0 {
		return true
	}
	u, err := url.Parse(origin[0])
	return err == nil && strings.EqualFold(u.Host, req.Host)
}

// Write sends p as one message.
func (s *socket) Write(p []byte) (int, error) {
	if err := s.WriteText(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read returns what the peer sent in text frames, io.EOF after its empty binary frame. Call listen first.
func (s *socket) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		select {
		case b, ok := <-s.in:
			if !ok {
				return 0, s.inErr
			}
			s.rest = b
		case <-s.until.Done():
			return 0, s.until.Err()
		case <-s.handled:
			return 0, io.EOF
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// listen starts reading frames: pings are answered from now until the peer ends its stream, even when the
// handler is done before. Read waits until ctx ends.
func (s *socket) listen(ctx context.Context) {
	s.reading = true
	s.until = ctx
	go func() {
		defer close(s.gone)
		defer s.cancel()
		s.inErr = s.pump()
		close(s.in)
		s.discard()
	}()
}

// ignore reads and drops whatever comes, and answers nothing, so that a peer that went away is noticed.
// A real rack does not read log sockets at all and notices when it next writes; on the wire it is the same.
func (s *socket) ignore() {
	if s.reading {
		return
	}
	s.reading = true
	go func() {
		defer close(s.gone)
		defer s.cancel()
		s.discard()
	}()
}

func (s *socket) discard() { io.Copy(io.Discard, s.Reader()) } //nolint:errcheck // any end will do

// pump hands text payloads to Read until the stream ends, and says how it ended.
func (s *socket) pump() error {
	var inMessage bool
	for {
		f, err := s.ReadFrame(maxFrame)
		if err != nil {
			return err
		}
		control := f.Op >= wire.OpClose
		switch {
		case f.Rsv != 0, !f.Masked, control && (!f.Fin || len(f.Payload) > 125),
			f.Op == wire.OpContinuation && !inMessage, !control && f.Op != wire.OpContinuation && inMessage:
			s.writeClose(closeProtocol)
			return errors.New("websocket: protocol error")
		}
		switch f.Op {
		case wire.OpText, wire.OpContinuation:
			inMessage = !f.Fin
			if len(f.Payload) == 0 {
				continue
			}
			select {
			case s.in <- f.Payload:
			case <-s.handled: // nobody wants it any more
			case <-s.ctx.Done():
				return s.ctx.Err()
			}
		case wire.OpBinary:
			return io.EOF // any binary frame, empty or not
		case wire.OpPing:
			if err := s.WriteFrame(true, wire.OpPong, f.Payload); err != nil {
				return err
			}
		case wire.OpPong:
		case wire.OpClose:
			code := closeNoStatus
			if len(f.Payload) >= 2 {
				code = int(f.Payload[0])<<8 | int(f.Payload[1])
			}
			s.writeClose(code)
			if code == closeNormal || code == closeGoingAway {
				return io.EOF
			}
			return fmt.Errorf("websocket: close %d", code)
		default:
			s.writeClose(closeProtocol)
			return errors.New("websocket: protocol error")
		}
	}
}

func (s *socket) writeClose(code int) {
	var payload []byte
	if code != closeNoStatus {
		payload = []byte{byte(code >> 8), byte(code)}
	}
	s.WriteFrame(true, wire.OpClose, payload) //nolint:errcheck // the peer is gone, then
}

// exit writes the exit code in a frame of its own.
func (s *socket) exit(code int) error {
	return s.WriteText(fmt.Appendf(nil, "%s%d\n", wire.ExitMarker, code))
}

func (s *socket) close() {
	s.cancel()
	s.Conn.Close()
	s.rack.keepConn(s.Conn, false)
}
