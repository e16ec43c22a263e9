//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// The yardstick: httputil.ReverseProxy as well tuned as it can be, and nothing else. It asks nobody who they are,
// decides nothing, records nothing.

func newBare(upstream *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.Out.SetBasicAuth("convox", "password-of-the-upstream")
		},
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			MaxIdleConns:        0, // no limit
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     50 * time.Second,
			DisableCompression:  true,
			WriteBufferSize:     16 << 10,
			ReadBufferSize:      16 << 10,
		},
		BufferPool: new(buffers),
		ErrorLog:   log.New(io.Discard, "", 0),
	}
}

// serveBare serves until the listener is closed.
func serveBare(l net.Listener, upstream *url.URL) error {
	server := &http.Server{Handler: newBare(upstream), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }

// readAnswer reads an answer to its end, and returns the length of its body and its status.
func readAnswer(conn net.Conn) (n int64, status int, err error) {
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 64<<10), nil)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the answer: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	buf := make([]byte, 256<<10)
	for {
		got, err := resp.Body.Read(buf)
		n += int64(got)
		if errors.Is(err, io.EOF) {
			return n, resp.StatusCode, nil
		}
		if err != nil {
			return n, resp.StatusCode, fmt.Errorf("reading the answer: %w", err)
		}
	}
}

// newChunkReader reads a chunked body to its end.
func newChunkReader(r *bufio.Reader) io.Reader { return httputil.NewChunkedReader(r) }
