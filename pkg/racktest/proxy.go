// Connections into the cluster: raw ones over /proxy sockets, and plain HTTP for the console.

package racktest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// proxy carries raw bytes to a host of the cluster. When either side ends, the rack closes the socket's
// connection: /proxy is the one socket that it closes, and it sends no empty binary frame first. This rack
// lets the host's answer run out before; a real one may cut it short.
func (r *Rack) proxy(c *call) error {
	if err := c.needWrite("proxy"); err != nil {
		return err
	}
	host := strings.TrimSpace(c.variable("host"))
	if !safeHost(host) {
		return badRequest("invalid proxy host")
	}
	port, err := strconv.Atoi(c.variable("port"))
	if err != nil || port < 1 || port > 65535 {
		return badRequest("invalid proxy port")
	}
	conn, err := r.dial(c.ws.ctx, host, port)
	if err != nil {
		return err
	}
	c.ws.listen(c.ws.ctx)
	toHost := make(chan struct{})
	go func() {
		defer close(toHost)
		io.Copy(conn, writerless{c.ws}) //nolint:errcheck // any end is an end
		if w, ok := conn.(interface{ CloseWrite() error }); ok {
			w.CloseWrite() //nolint:errcheck // the host is gone, then
		}
	}()
	io.Copy(writerOnly{c.ws}, conn) //nolint:errcheck // any end is an end
	conn.Close()
	c.ws.Conn.Close()
	<-toHost
	return net.ErrClosed
}

// writerless hides everything but Read.
type writerless struct{ io.Reader }

// safeHost refuses addresses of the rack's own machine and its metadata service.
func safeHost(host string) bool {
	clean, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), "%")
	if clean == "" {
		return false
	}
	if ip := net.ParseIP(clean); ip != nil {
		private6 := ip.To4() == nil && ip[0]&0xfe == 0xfc
		return !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast() && !ip.IsUnspecified() && !private6
	}
	lower := strings.TrimRight(strings.ToLower(clean), ".")
	if strings.HasPrefix(lower, "0x") || strings.Trim(clean, "0123456789.") == "" {
		return false
	}
	return lower != "localhost" && lower != "metadata.google.internal"
}

// clusterHost is a name inside the cluster.
var clusterHost = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+\.(local|svc\.cluster\.local)$`)

// dial connects to a stand-in for a resource, or to an echo for any other name in the cluster.
func (r *Rack) dial(ctx context.Context, host string, port int) (net.Conn, error) {
	var serve func(net.Conn)
	r.mu.Lock()
	for _, a := range r.apps {
		for _, res := range a.resources {
			if res.host == host && res.port == port {
				serve = standIn(res.kind)
			}
		}
	}
	r.mu.Unlock()
	switch {
	case serve != nil:
	case r.opts.Dial != nil:
		return r.opts.Dial(ctx, host, port)
	case clusterHost.MatchString(host):
		serve = echo
	default:
		return nil, fmt.Errorf("dial tcp: lookup %s: no such host", host)
	}
	near, far := pipe()
	r.mu.Lock()
	r.spawn(func(ctx context.Context) {
		defer far.Close()                                      //nolint:errcheck // it is done with
		defer context.AfterFunc(ctx, func() { far.Close() })() //nolint:errcheck // never fails
		serve(far)
	})
	r.mu.Unlock()
	return near, nil
}

func standIn(kind string) func(net.Conn) {
	switch kind {
	case "postgres", "postgis":
		return standInPostgres
	case "redis":
		return standInRedis
	}
	return echo
}

func echo(c net.Conn) { io.Copy(writerOnly{c}, writerless{c}) } //nolint:errcheck // any end is an end

// standInPostgres declines TLS, lets anybody in, and answers every simple query with the one value 1.
func standInPostgres(c net.Conn) {
	const (
		sslRequest    = 80877103
		gssRequest    = 80877104
		cancelRequest = 80877102
	)
	r := bufio.NewReader(c)
	message := func(kind byte, body []byte) []byte {
		out := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
		return append(out, body...)
	}
	read := func(typed bool) (byte, []byte, error) {
		var kind byte
		var err error
		if typed {
			if kind, err = r.ReadByte(); err != nil {
				return 0, nil, err
			}
		}
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return 0, nil, err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n < 4 || n > 1<<20 {
			return 0, nil, errors.New("message length is out of range")
		}
		body := make([]byte, n-4)
		_, err = io.ReadFull(r, body)
		return kind, body, err
	}
	for {
		_, body, err := read(false)
		if err != nil || len(body) < 4 {
			return
		}
		code := binary.BigEndian.Uint32(body)
		if code == cancelRequest {
			return
		}
		if code != sslRequest && code != gssRequest {
			break
		}
		if _, err := c.Write([]byte{'N'}); err != nil {
			return
		}
	}
	ready := message('Z', []byte{'I'})
	hello := append(message('R', []byte{0, 0, 0, 0}), message('S', []byte("server_version\x0015.0\x00"))...)
	if _, err := c.Write(append(hello, ready...)); err != nil {
		return
	}
	for {
		kind, _, err := read(true)
		if err != nil || kind == 'X' {
			return
		}
		if kind != 'Q' {
			continue
		}
		column := append([]byte{0, 1}, "?column?\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x17\x00\x04\xff\xff\xff\xff\x00\x00"...)
		answer := message('T', column)
		answer = append(answer, message('D', []byte{0, 1, 0, 0, 0, 1, '1'})...)
		answer = append(answer, message('C', []byte("SELECT 1\x00"))...)
		if _, err := c.Write(append(answer, ready...)); err != nil {
			return
		}
	}
}

// standInRedis answers inline commands: PING, ECHO, QUIT, and OK to anything else.
func standInRedis(c net.Conn) {
	in := bufio.NewScanner(c)
	for in.Scan() {
		name, rest, _ := strings.Cut(strings.TrimSpace(in.Text()), " ")
		answer := "+OK\r\n"
		switch strings.ToUpper(name) {
		case "":
			continue
		case "PING":
			answer = "+PONG\r\n"
		case "ECHO":
			answer = fmt.Sprintf("$%d\r\n%s\r\n", len(rest), rest)
		}
		if _, err := io.WriteString(c, answer); err != nil || strings.EqualFold(name, "QUIT") {
			return
		}
	}
}

// halfPipe is one end of an in-memory connection that can be closed one way, which net.Pipe cannot.
type halfPipe struct {
	r *io.PipeReader
	w *io.PipeWriter
}

func pipe() (near, far *halfPipe) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &halfPipe{r1, w2}, &halfPipe{r2, w1}
}

func (p *halfPipe) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *halfPipe) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *halfPipe) CloseWrite() error           { return p.w.Close() }

func (p *halfPipe) Close() error {
	p.r.Close() //nolint:errcheck // never fails
	return p.w.Close()
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

func (p *halfPipe) LocalAddr() net.Addr              { return pipeAddr{} }
func (p *halfPipe) RemoteAddr() net.Addr             { return pipeAddr{} }
func (p *halfPipe) SetDeadline(time.Time) error      { return nil }
func (p *halfPipe) SetReadDeadline(time.Time) error  { return nil }
func (p *halfPipe) SetWriteDeadline(time.Time) error { return nil }

// proxyHTTP passes a request on to the host of the header X-Host. There is nothing behind it here, so it is
// answered with a description of what would have arrived.
func (r *Rack) proxyHTTP(c *call) error {
	if err := c.needWrite("proxy"); err != nil {
		return err
	}
	host := strings.ToLower(strings.TrimSpace(c.r.Header.Get("X-Host")))
	if !clusterHost.MatchString(host) {
		return badRequest("invalid proxy host")
	}
	port, err := strconv.Atoi(c.r.Header.Get("X-Port"))
	if err != nil || port < 1 || port > 65535 {
		return badRequest("invalid proxy port")
	}
	n, err := io.Copy(io.Discard, c.r.Body)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(c.w).Encode(map[string]any{
		"host": host, "port": port, "method": c.r.Method, "path": "/" + c.variable("path"), "query": c.r.URL.RawQuery, "bodyBytes": n,
	})
}
