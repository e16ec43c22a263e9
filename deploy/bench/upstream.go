//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/sha1" // #nosec G505 -- the WebSocket handshake's (RFC 6455, section 4.2.2)
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// The upstream stands for the rack, as cheaply as can be: answers are made beforehand, nothing is kept, heads of
// requests are hardly read. It runs as a process of its own. What it answers has the shape of a rack's answers.

// appList is the answer to GET /apps: 2 KB, as a rack writes it.
func appList() []byte {
	var b bytes.Buffer
	b.WriteString("[\n")
	for i := range 7 {
		if i > 0 {
			b.WriteString(",\n")
		}
		fmt.Fprintf(&b, `  {
    "generation": "3",
    "locked": false,
    "name": "app-%02d",
    "release": "RABCDEFGH%02d",
    "router": "router.0a1b2c3d4e5f.convox.cloud",
    "status": "running",
    "parameters": {
      "BuildCpu": "500",
      "BuildMem": "1024",
      "SharedSecret": "b16b00b5"
    }
  }`, i, i)
	}
	b.WriteString("\n]\n")
	return b.Bytes()
}

const processAnswer = `{
  "id": "web-5d9c7b8f6d-abcde",
  "app": "demo",
  "command": "",
  "cpu": 0,
  "host": "",
  "image": "",
  "instance": "10.0.0.1",
  "memory": 0,
  "name": "web",
  "ports": [],
  "release": "RABCDEFGHI",
  "service": "web",
  "started": "2026-01-01T00:00:00Z",
  "status": "running"
}
`

// answerOf makes a whole answer of a body.
func answerOf(contentType, body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nRequest-Id: 0123456789ab\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"+
		"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body)
}

type upstreamAnswers struct {
	apps, process, object, ok []byte
	chunk                     []byte // one chunk of a download
}

// serveUpstream answers until the listener is closed.
func serveUpstream(l net.Listener) error {
	answers := &upstreamAnswers{
		apps:    answerOf("application/json", string(appList())),
		process: answerOf("application/json", processAnswer),
		object:  answerOf("application/json", "{\n  \"Url\": \"object://demo/key\"\n}\n"),
		ok:      answerOf("text/plain", "ok\n"),
	}
	body := bytes.Repeat([]byte("rack gateway "), downloadChunk/13+1)[:downloadChunk]
	answers.chunk = fmt.Appendf(nil, "%x\r\n%s\r\n", downloadChunk, body)
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		serving.Go(func() {
			defer func() { _ = conn.Close() }()
			_ = answers.serve(conn) // whoever is measured sees a connection that ends
		})
	}
}

// downloadChunk is how much a rack sends in one chunk of a download (io.Copy's buffer).
const downloadChunk = 32 << 10

// upstreamRequest is what the upstream reads of a request.
type upstreamRequest struct {
	method, path string
	length       int64
	chunked      bool
	socketKey    string
}

func (a *upstreamAnswers) serve(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 4<<10)
	for {
		req, err := readRequest(r)
		if err != nil {
			return err
		}
		if req.socketKey != "" {
			return hold(conn, r, req.socketKey)
		}
		switch {
		case req.chunked:
			if _, err = io.Copy(io.Discard, newChunkReader(r)); err == nil {
				_, err = r.ReadSlice('\n') // the empty line that ends the body
			}
		case req.length > 0:
			err = discard(conn, r, req.length)
		}
		if err != nil {
			return err
		}
		path, _, _ := strings.Cut(req.path, "?")
		switch {
		case path == "/apps":
			_, err = conn.Write(a.apps)
		case req.method == http.MethodGet && strings.HasPrefix(path, downloadPath):
			err = a.download(conn, path[len(downloadPath):])
		case strings.Contains(path, "/objects/"):
			_, err = conn.Write(a.object)
		case strings.Contains(path, "/processes/"):
			_, err = conn.Write(a.process)
		default:
			_, err = conn.Write(a.ok)
		}
		if err != nil {
			return err
		}
	}
}

func readRequest(r *bufio.Reader) (upstreamRequest, error) {
	var req upstreamRequest
	line, err := r.ReadSlice('\n')
	if err != nil {
		return req, err
	}
	method, rest, _ := bytes.Cut(line, []byte(" "))
	path, _, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return req, fmt.Errorf("a request line without a path: %q", line)
	}
	req.method, req.path = string(method), string(path)
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return req, err
		}
		if len(line) <= 2 {
			return req, nil
		}
		switch {
		case isField(line, "content-length:"):
			if req.length, err = strconv.ParseInt(fieldValue(line), 10, 64); err != nil {
				return req, err
			}
		case isField(line, "transfer-encoding:"):
			req.chunked = true
		case isField(line, "sec-websocket-key:"):
			req.socketKey = fieldValue(line)
		}
	}
}

func isField(line []byte, name string) bool {
	return len(line) > len(name) && line[0]|0x20 == name[0] && strings.EqualFold(string(line[:len(name)]), name)
}

func fieldValue(line []byte) string {
	_, value, _ := bytes.Cut(line, []byte(":"))
	return string(bytes.TrimSpace(value))
}

// discard takes so many bytes of a body, past the buffer when it is empty.
func discard(conn net.Conn, r *bufio.Reader, n int64) error {
	buffered := int(min(int64(r.Buffered()), n))
	if _, err := r.Discard(buffered); err != nil {
		return err
	}
	n -= int64(buffered)
	if n == 0 {
		return nil
	}
	buf := make([]byte, 256<<10)
	for n > 0 {
		got, err := conn.Read(buf[:min(n, int64(len(buf)))])
		n -= int64(got)
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// downloadPath is the object whose name is its size in bytes, a multiple of downloadChunk.
const downloadPath = "/apps/demo/objects/size/"

// download sends an answer of unknown length, in chunks, as a rack does.
func (a *upstreamAnswers) download(conn net.Conn, size string) error {
	left, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		return err
	}
	for ; left > 0; left -= downloadChunk {
		if _, err := conn.Write(a.chunk); err != nil {
			return err
		}
	}
	_, err = io.WriteString(conn, "0\r\n\r\n")
	return err
}

// hold is a session in which nothing happens: what comes is thrown away, until the other side ends.
func hold(conn net.Conn, r *bufio.Reader, key string) error {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // #nosec G401 -- the handshake's
	_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}
