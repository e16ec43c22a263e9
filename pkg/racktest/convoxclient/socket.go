// Sockets as the CLI uses them.

package convoxclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

const (
	pingInterval = 5 * time.Second
	// stdinChunk is how much the CLI reads from its input, and from a socket, at once.
	stdinChunk = 1024
	// handshakeTimeout is the CLI's.
	handshakeTimeout = 45 * time.Second
	maxFrame         = 64 << 20
)

// Socket is an open websocket.
type Socket struct {
	*wire.Conn
	stop context.CancelFunc
	done chan struct{} // the pinger has ended
	rest []byte        // of the frame that is being handed out
}

// Socket asks the question that the CLI asks before every socket, ignores the answer, and opens the socket. The
// options are request headers; there is no query.
func (c *Client) Socket(ctx context.Context, path string, options map[string]string) (*Socket, error) {
	preflight := "/racks"
	if strings.HasPrefix(path, "/app") {
		preflight = "/machines"
	}
	c.Get(ctx, preflight, nil, nil) //nolint:errcheck // so that a console can ask for a session; the answer does not matter
	return c.dial(ctx, path, options)
}

func (c *Client) dial(ctx context.Context, path string, options map[string]string) (*Socket, error) {
	target := *c.Endpoint
	target.User = nil
	target.Path += path

	dialing, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	host := target.Host
	if target.Port() == "" {
		port := "443"
		if target.Scheme == "http" {
			port = "80"
		}
		host = net.JoinHostPort(target.Hostname(), port)
	}
	var d net.Dialer
	conn, err := d.DialContext(dialing, "tcp", host)
	if err != nil {
		return nil, err
	}
	if target.Scheme != "http" {
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: target.Hostname()})
		if err := secure.HandshakeContext(dialing); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		conn = secure
	}
	unblock := context.AfterFunc(dialing, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // best effort

	h := c.headers()
	h.Set("Origin", strings.ToLower(c.Endpoint.Scheme+"://"+c.Endpoint.Host))
	for k, v := range options {
		h.Set(k, v)
	}
	key := wire.NewKey()
	h["Upgrade"] = []string{"websocket"}
	h["Connection"] = []string{"Upgrade"}
	h["Sec-WebSocket-Key"] = []string{key}
	h["Sec-WebSocket-Version"] = []string{"13"}
	req := (&http.Request{Method: http.MethodGet, URL: &target, Host: target.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(dialing)
	reader := bufio.NewReaderSize(conn, 4096)
	if err := req.Write(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	res, err := http.ReadResponse(reader, req) //nolint:bodyclose // the body of a 101 is the socket; others are dropped with the connection
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if res.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket") ||
		!strings.EqualFold(res.Header.Get("Connection"), "upgrade") || res.Header.Get("Sec-Websocket-Accept") != wire.AcceptKey(key) {
		conn.Close()
		return nil, errBadHandshake
	}
	if !unblock() {
		return nil, errors.Join(dialing.Err(), conn.Close())
	}

	life, stop := context.WithCancel(ctx)
	s := &Socket{Conn: wire.NewConn(conn, reader, true), stop: stop, done: make(chan struct{})}
	every := c.PingEvery
	if every == 0 {
		every = pingInterval
	}
	go s.ping(life, every)
	return s, nil
}

// ping pings until the socket is closed; a context that ends closes it.
func (s *Socket) ping(ctx context.Context, every time.Duration) {
	defer close(s.done)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			s.Conn.Close()
			return
		case <-t.C:
			s.WriteFrame(true, wire.OpPing, nil) //nolint:errcheck // reading notices
		}
	}
}

// Close drops the connection without a close frame, as the end of a CLI process does.
func (s *Socket) Close() error {
	s.stop()
	<-s.done
	return nil
}

// Send writes in to the socket in chunks, and ends the stream when in does.
func (s *Socket) Send(in io.Reader) error {
	buf := make([]byte, stdinChunk)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if err := s.WriteFrame(true, wire.OpText, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return s.WriteEOF()
		}
	}
}

// Chunk returns the next piece of the stream: never more than 1,024 bytes, and never of two messages. A lost
// connection and a close frame are an ordinary end to the CLI; the error tells them apart for tests.
func (s *Socket) Chunk() ([]byte, error) {
	for len(s.rest) == 0 {
		f, err := s.ReadFrame(maxFrame)
		if err != nil {
			return nil, err
		}
		switch f.Op {
		case wire.OpText, wire.OpContinuation:
			s.rest = f.Payload
		case wire.OpBinary:
			return nil, io.EOF
		case wire.OpPing:
			if err := s.WriteFrame(true, wire.OpPong, f.Payload); err != nil {
				return nil, err
			}
		case wire.OpPong:
		case wire.OpClose:
			code := 1005
			if len(f.Payload) >= 2 {
				code = int(f.Payload[0])<<8 | int(f.Payload[1])
			}
			return nil, &CloseError{Code: code}
		default:
			return nil, fmt.Errorf("websocket: bad opcode %d", f.Op)
		}
	}
	p := s.rest[:min(stdinChunk, len(s.rest))]
	s.rest = s.rest[len(p):]
	return p, nil
}

// CloseError is a close frame from the other side.
type CloseError struct{ Code int }

func (e *CloseError) Error() string { return fmt.Sprintf("websocket: close %d", e.Code) }

// Copy writes the stream to w until it ends, in whatever way.
func (s *Socket) Copy(w io.Writer) error {
	for {
		p, err := s.Chunk()
		if err != nil {
			return nil //nolint:nilerr // any end is an end to the CLI
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
}

// CopyExit is Copy that takes the exit code out of the stream. The marker counts only where it and the code are in one
// chunk with nothing behind it. The code is 0 when none came.
func (s *Socket) CopyExit(w io.Writer) (int, error) {
	code := 0
	for {
		p, err := s.Chunk()
		if err != nil {
			return code, nil //nolint:nilerr // any end is an end to the CLI
		}
		before, after, found := strings.Cut(string(p), wire.ExitMarker)
		if _, err := io.WriteString(w, before); err != nil {
			return 0, err
		}
		if found {
			if code, err = strconv.Atoi(strings.TrimSpace(after)); err != nil {
				return 0, errors.New("unable to read exit code")
			}
		}
	}
}

// Logs streams a log socket to w. The CLI sends nothing on it.
func (c *Client) Logs(ctx context.Context, path string, options map[string]string, w io.Writer) error {
	s, err := c.Socket(ctx, path, options)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // never fails
	return s.Copy(w)
}

// Interact runs a socket with input and output, and returns the exit code that it carried.
func (c *Client) Interact(ctx context.Context, path string, options map[string]string, in io.Reader, out io.Writer) (int, error) {
	s, err := c.Socket(ctx, path, options)
	if err != nil {
		return 0, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.Send(in) //nolint:errcheck // the other direction tells how it ends
	}()
	code, err := s.CopyExit(out)
	s.Close() //nolint:errcheck // never fails
	// Input that never ends must not keep a finished session: a CLI process would be gone.
	if c, ok := in.(io.Closer); ok {
		c.Close()
		<-sent
	}
	return code, err
}
