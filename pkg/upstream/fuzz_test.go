package upstream

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"testing"
	"time"
)

// FuzzAnswer feeds bytes to this package's reader and to http.ReadResponse. What this
// package takes as an answer, net/http must take too, and as the same one: status,
// header, body, trailers, and whether the connection may be used again. The other way round
// this package may refuse more.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTrailer: X-Sum, x-late\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\nX-Sum: 1\r\nx-late: 2\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close, x\r\n\r\nto the end",
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
	} {
		for _, method := range []bool{false, true} {
			f.Add([]byte(seed), uint8(0), method)
			f.Add([]byte(seed), uint8(1), method)
		}
	}
	t, err := New(Config{Origin: &url.URL{Scheme: "http", Host: "rack.example"}, MaxHeaderBytes: 1 << 16})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(tt *testing.T, data []byte, piece uint8, head bool) {
		req := &http.Request{Method: "GET"}
		if head {
			req.Method = "HEAD"
		}
		got, body, bodyErr, err := readOurs(t, req, data, int(piece))
		if err != nil {
			return
		}
		in := bytes.NewReader(data)
		want, wantBody, wantErr, err := readTheirs(req, in)
		if err != nil {
			tt.Fatalf("taken as %q %v, but net/http says: %v", got.Status, got.Header, err)
		}
		if !bytes.HasPrefix(wantBody, body) {
			tt.Fatalf("got the body %q, net/http %q", body, wantBody)
		}
		if bodyErr == nil && (wantErr != nil || len(body) != len(wantBody)) {
			tt.Fatalf("got the whole body %q, net/http %q and %v", body, wantBody, wantErr)
		}
		if got.StatusCode != want.StatusCode || got.Status != want.Status || got.Proto != want.Proto || got.ContentLength != want.ContentLength ||
			!slices.Equal(got.TransferEncoding, want.TransferEncoding) {
			tt.Fatalf("got %+v, net/http %+v", got, want)
		}
		if want.Close && !got.Close {
			tt.Fatal("the connection would be kept, and net/http closes it")
		}
		if got.Header.Get("Pragma") == "no-cache" && got.Header["Cache-Control"] == nil {
			want.Header.Del("Cache-Control") // net/http adds it when it reads
		}
		if !reflect.DeepEqual(got.Header, want.Header) {
			tt.Fatalf("got header %v, net/http %v", got.Header, want.Header)
		}
		if bodyErr == nil && len(got.Trailer)+len(want.Trailer) > 0 && !reflect.DeepEqual(got.Trailer, want.Trailer) {
			tt.Fatalf("got trailers %v, net/http %v", got.Trailer, want.Trailer)
		}
	})
}

// readOurs reads an answer with this package.
func readOurs(t *Transport, req *http.Request, data []byte, piece int) (_ *http.Response, body []byte, bodyErr, err error) {
	raw := &byteConn{data: data, piece: piece}
	c := &conn{raw: raw, nc: raw}
	c.take(&t.buffers)
	x := &exchange{t: t, ctx: context.Background(), req: req, isHead: req.Method == http.MethodHead}
	x.attach(c)
	resp, err := x.answer(c)
	if err != nil {
		_ = x.fail(StageAnswer, err)
		return nil, nil, nil, err
	}
	body, bodyErr = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp, body, bodyErr, nil
}

// readTheirs reads an answer with net/http, as http.Transport does.
func readTheirs(req *http.Request, in io.Reader) (_ *http.Response, body []byte, bodyErr, err error) {
	br := bufio.NewReader(in)
	for {
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			return nil, nil, nil, err
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 {
			continue
		}
		body, bodyErr = io.ReadAll(resp.Body)
		return resp, body, bodyErr, nil
	}
}

// byteConn is a connection from which bytes can be read, in pieces.
type byteConn struct {
	net.Conn
	data  []byte
	piece int // the longest Read; 0 is any
}

func (b *byteConn) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, io.EOF
	}
	if b.piece > 0 && len(p) > b.piece {
		p = p[:b.piece]
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

func (b *byteConn) Close() error                     { return nil }
func (b *byteConn) SetReadDeadline(time.Time) error  { return nil }
func (b *byteConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzField checks that no name and value that are accepted can make more than one line,
// and that the server's reader gets what was meant.
func FuzzField(f *testing.F) {
	f.Add("X-A", "b")
	f.Add("X-A", " b\tc ")
	f.Add("X A", "b")
	f.Add("X-A", "b\r\nX-B: c")
	f.Add("Content-length", "5")
	t, err := New(Config{Origin: &url.URL{Scheme: "http", Host: "rack.example"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(tt *testing.T, name, value string) {
		req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: "rack.example", Opaque: "/"}, Header: http.Header{name: {value}}}
		x, err := t.prepare(req)
		if err != nil {
			return
		}
		defer x.freeHead()
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(*x.head)))
		if err != nil {
			tt.Fatalf("%q: %v", *x.head, err)
		}
		want := http.Header{}
		switch kind(name) {
		case fieldOwn:
		case fieldUserAgent:
			if value != "" {
				want.Set(name, trimSpace(value))
			}
		case fieldConnection, fieldUpgrade, fieldOther:
			want.Set(name, trimSpace(value))
		}
		if http.CanonicalHeaderKey(name) == "Pragma" && value == "no-cache" {
			want.Set("Cache-Control", "no-cache") // net/http adds it when it reads
		}
		if !reflect.DeepEqual(got.Header, want) || got.Host != "rack.example" || got.ContentLength != 0 {
			tt.Fatalf("got %v from %q, want %v", got.Header, *x.head, want)
		}
	})
}

// FuzzTarget checks that the target which is sent is the caller's, and one word.
func FuzzTarget(f *testing.F) {
	f.Add("/apps", "a=1")
	f.Add("/%2F", "")
	f.Add("/ HTTP/1.1\r\nX: y", "")
	f.Add("//x", "a b")
	t, err := New(Config{Origin: &url.URL{Scheme: "http", Host: "rack.example"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(tt *testing.T, path, query string) {
		req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: "rack.example", Opaque: path, RawQuery: query}, Header: http.Header{}}
		x, err := t.prepare(req)
		if err != nil {
			return
		}
		defer x.freeHead()
		want := "GET " + path
		if path == "" {
			want += "/"
		}
		if query != "" {
			want += "?" + query
		}
		want += " HTTP/1.1\r\nHost: rack.example\r\n\r\n"
		if string(*x.head) != want || bytes.Count(*x.head, []byte(" ")) != 3 || bytes.Count(*x.head, []byte("\n")) != 3 {
			tt.Fatalf("got %q, want %q", *x.head, want)
		}
	})
}
