// What the tests of this package share: a running rack, plain requests, and sockets down to the frame.

package racktest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/wire"
)

const password = "rack-password"

// patience bounds every wait; nothing waits that long unless it fails.
const patience = 20 * time.Second

func start(t *testing.T, opts racktest.Options) (*racktest.Rack, *racktest.Server) {
	t.Helper()
	if opts.Password == "" {
		opts.Password = password
	}
	rack, server, err := racktest.Serve(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rack.Close)
	return rack, server
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// answer is an answer with its body read.
type answer struct {
	*http.Response
	body string
}

// ask sends a request whose target is not touched on the way: it is written as given.
func ask(t *testing.T, server *racktest.Server, method, target, body string, header http.Header) answer {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if header == nil {
		header = http.Header{}
	}
	req, err := http.NewRequest(method, server.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	if _, own := header["Authorization"]; !own {
		req.SetBasicAuth("convox", password)
	}
	if req.Header.Get("Content-Type") == "" && body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", method, target, server.Addr(), len(body))
	if err := req.Header.Write(&head); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, head.String()+"\r\n"+body); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer{res, string(data)}
}

// dial upgrades and returns the socket, or the answer that refused it.
func dial(t *testing.T, server *racktest.Server, path string, header http.Header) (*wire.Conn, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return handshake(t, conn, server, path, header, nil)
}

// handshake writes the upgrade request with bytes right behind it.
func handshake(t *testing.T, conn net.Conn, server *racktest.Server, path string, header http.Header, early []byte) (*wire.Conn, *http.Response) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, server.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("convox", password)
	req.Header["Upgrade"] = []string{"websocket"}
	req.Header["Connection"] = []string{"Upgrade"}
	req.Header["Sec-WebSocket-Key"] = []string{wire.NewKey()}
	req.Header["Sec-WebSocket-Version"] = []string{"13"}
	for k, v := range header {
		if v == nil {
			delete(req.Header, k)
			continue
		}
		req.Header[k] = v
	}
	var b strings.Builder
	if err := req.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append([]byte(b.String()), early...)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, res
	}
	return wire.NewConn(conn, r, true), res
}

func frame(t *testing.T, c *wire.Conn) wire.Frame {
	t.Helper()
	f, err := c.ReadFrame(1 << 24)
	if err != nil {
		t.Fatalf("reading a frame: %v", err)
	}
	return f
}

// untilEOF reads messages up to the empty binary frame.
func untilEOF(t *testing.T, c *wire.Conn) []string {
	t.Helper()
	var messages []string
	whole := true
	for {
		f := frame(t, c)
		switch f.Op {
		case wire.OpBinary:
			if len(f.Payload) != 0 || !f.Fin {
				t.Errorf("the end of the stream is %d bytes, fin %v; want an empty whole frame", len(f.Payload), f.Fin)
			}
			return messages
		case wire.OpText:
			messages = append(messages, string(f.Payload))
		case wire.OpContinuation:
			if whole {
				t.Error("a continuation continues nothing")
			}
			messages[len(messages)-1] += string(f.Payload)
		}
		whole = f.Fin
	}
}

func contains(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q does not contain %q", text, part)
	}
}
