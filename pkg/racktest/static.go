// A rack for benchmarks: it answers at next to no cost, so that what is measured is the proxy before it.

package racktest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"rackgateway/pkg/racktest/wire"
)

// staticSize is about how long the answer of a static rack's GET /apps is.
const staticSize = 2048

// StaticApps is a handler that answers every GET with one app list of 2 KB and everything else with "ok",
// after having read the body. Nothing is authenticated or kept.
func StaticApps() http.Handler {
	body := staticBody()
	length := strconv.Itoa(len(body))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			io.Copy(io.Discard, r.Body) //nolint:errcheck // the client is gone, then
			io.WriteString(w, "ok\n")   //nolint:errcheck // the same
			return
		}
		h := w.Header()
		h["Content-Type"] = []string{"application/json"}
		h["Content-Length"] = []string{length}
		w.Write(body) //nolint:errcheck // the client is gone, then
	})
}

// staticBody is an app list of about staticSize bytes as a rack writes it.
func staticBody() []byte {
	var apps []wire.App
	for i := 0; ; i++ {
		apps = append(apps, wire.App{
			Generation: "3", Name: fmt.Sprintf("app-%02d", i), Release: fmt.Sprintf("RABCDEFGH%02d", i), Router: "nginx", Status: "running",
			Parameters: map[string]string{"BuildCpu": "500", "BuildMem": "1024"},
		})
		data, _ := json.MarshalIndent(apps, "", "  ") //nolint:errchkjson // plain strings
		if len(data) >= staticSize-1 {
			return append(data, '\n')
		}
	}
}

// StaticServer answers like StaticApps straight from the connection, at a small part of net/http's cost. It
// understands what a Go client sends: HTTP/1.1, keep-alive, lengths and chunks.
type StaticServer struct {
	requests atomic.Int64
	get      []byte
	other    []byte
}

// NewStaticServer makes one; run it with Serve.
func NewStaticServer() *StaticServer {
	answer := func(kind string, body []byte) []byte {
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nRequest-Id: 0123456789ab\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\r\n", kind, len(body))
		return append([]byte(head), body...)
	}
	return &StaticServer{get: answer("application/json", staticBody()), other: answer("text/plain; charset=utf-8", []byte("ok\n"))}
}

// Requests counts what has been answered.
func (s *StaticServer) Requests() int64 { return s.requests.Load() }

// Serve answers on ln until ctx ends, and closes it.
func (s *StaticServer) Serve(ctx context.Context, ln net.Listener) error {
	var mu sync.Mutex
	conns := map[net.Conn]struct{}{}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range conns {
			c.Close()
		}
	})
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		mu.Lock()
		conns[c] = struct{}{}
		ended := ctx.Err() != nil
		mu.Unlock()
		if ended {
			c.Close()
		}
		wg.Go(func() {
			s.serve(c)
			c.Close()
			mu.Lock()
			delete(conns, c)
			mu.Unlock()
		})
	}
}

func (s *StaticServer) serve(c net.Conn) {
	r := bufio.NewReaderSize(c, 8192)
	for {
		answer, err := s.read(r)
		if err != nil {
			return
		}
		s.requests.Add(1)
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// read takes one request in, and returns the answer.
func (s *StaticServer) read(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	answer := s.other
	if bytes.HasPrefix(line, []byte("GET ")) {
		answer = s.get
	}
	var length int64
	chunked := false
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		// Only two headers matter; both begin with a letter that few others begin with.
		switch line[0] | 0x20 {
		case 'c':
			if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
				if length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
					return nil, err
				}
			}
		case 't':
			if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				chunked = bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked"))
			}
		}
	}
	if !chunked {
		_, err := r.Discard(int(length))
		return answer, err
	}
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return nil, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 63)
		if err != nil || size < 0 {
			return nil, errors.New("malformed chunk")
		}
		if _, err := r.Discard(int(size) + 2); err != nil {
			return nil, err
		}
		if size == 0 {
			return answer, nil
		}
	}
}
