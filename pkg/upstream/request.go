// What is sent: the checks that a request passes first, and its bytes.

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
)

const (
	headSize    = 4 << 10  // of a buffer in which a request is built
	maxHeadKept = 64 << 10 // longer ones are not used again
	tinyBody    = 16 << 10 // bodies up to this length go out together with the header
)

// prepare checks the request and builds the bytes to send. It takes over the request's
// body: a tiny one is read here, before any connection is held, so that a slow client
// costs the upstream nothing.
func (t *Transport) prepare(req *http.Request) (*exchange, error) {
	ctx := req.Context()
	x := &exchange{t: t, ctx: ctx, req: req, trace: httptrace.ContextClientTrace(ctx)}
	head := t.heads.Get().(*[]byte)
	x.head = head
	b, length, err := x.appendHead((*head)[:0])
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		x.freeHead()
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	switch {
	case length == 0:
		if req.Body != nil {
			_ = req.Body.Close()
		}
	case 0 < length && length <= tinyBody:
		if b, err = appendBody(ctx, b, req.Body, int(length)); err != nil {
			x.freeHead()
			return nil, err
		}
	default:
		x.upload = &upload{x: x, body: req.Body, length: length, done: make(chan struct{})}
	}
	*head = b
	return x, nil
}

// freeHead returns the buffer in which the request was built.
func (x *exchange) freeHead() {
	if cap(*x.head) <= maxHeadKept {
		x.t.heads.Put(x.head)
	}
	x.head = nil
}

// appendHead appends the request line and header. It returns the length of the body to
// come, -1 when that is unknown.
func (x *exchange) appendHead(b []byte) (_ []byte, length int64, err error) {
	req, t := x.req, x.t
	if req.URL == nil || req.Header == nil {
		return b, 0, errors.New("it has no URL or no header")
	}
	if req.URL.Scheme != t.scheme || !t.serves(req.URL.Host) {
		return b, 0, errors.New("it is for another origin")
	}
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	if !isToken(method) || method == http.MethodConnect {
		return b, 0, errors.New("its method cannot be sent")
	}
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	if !validHost(host) {
		return b, 0, errors.New("its host has characters that cannot be sent")
	}
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		if req.ContentLength > 0 {
			return b, 0, errors.New("it has a length and no body")
		}
	case req.ContentLength > 0:
		length = req.ContentLength
	default:
		length = -1
	}

	b = append(b, method...)
	b = append(b, ' ')
	if b, err = appendTarget(b, req.URL, method); err != nil {
		return b, 0, err
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	switch {
	case length > 0:
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, length, 10)
	case length < 0:
		b = append(b, "\r\nTransfer-Encoding: chunked"...)
		if b, err = appendTrailerNames(b, req.Trailer); err != nil {
			return b, 0, err
		}
	case method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch:
		// RFC 9110 section 8.6: these anticipate content, so say that there is none.
		b = append(b, "\r\nContent-Length: 0"...)
	}
	b = append(b, "\r\n"...)

	x.close = req.Close
	for name, values := range req.Header {
		switch kind(name) {
		case fieldOwn:
			continue
		case fieldUserAgent:
			// An empty one means that none is wanted.
			if len(values) == 0 || values[0] == "" {
				continue
			}
		case fieldConnection:
			x.close = x.close || hasToken(values, "close")
		case fieldUpgrade:
			x.switches = x.switches || len(values) > 0
		case fieldOther:
		}
		if !isToken(name) {
			return b, 0, errors.New("a header field has a name that cannot be sent")
		}
		for _, value := range values {
			if b, err = appendField(b, name, value); err != nil {
				return b, 0, err
			}
		}
	}
	if req.Close && !hasToken(req.Header["Connection"], "close") {
		b = append(b, "Connection: close\r\n"...)
	}
	x.isHead = method == http.MethodHead
	x.repeatable = length == 0 && !x.switches &&
		(method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions)
	return append(b, "\r\n"...), length, nil
}

// serves reports whether host, as a URL has it, is the origin's.
func (t *Transport) serves(host string) bool {
	if host == t.host {
		return true
	}
	u := url.URL{Scheme: t.scheme, Host: host}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[t.scheme]
	}
	return strings.EqualFold(net.JoinHostPort(u.Hostname(), port), t.address)
}

// appendTarget appends the request target in origin form (RFC 9112 section 3.2.1), or *
// for OPTIONS: exactly the escaped path that the caller set.
func appendTarget(b []byte, u *url.URL, method string) ([]byte, error) {
	path := u.Opaque
	if path == "" {
		path = u.EscapedPath()
	}
	if path == "" {
		path = "/"
	}
	if path[0] != '/' && (path != "*" || method != http.MethodOptions) {
		return b, errors.New("its path does not begin with a slash")
	}
	if !validTarget(path) || !validTarget(u.RawQuery) {
		return b, errors.New("its path or query has characters that cannot be sent")
	}
	b = append(b, path...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	return b, nil
}

// validTarget refuses what could end the request line early or be read as a fragment.
// Bytes from 0x80 on are passed as they are, as net/http does.
func validTarget(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '#' {
			return false
		}
	}
	return true
}

// validHost accepts what may stand in a Host field: RFC 3986 host and port characters.
func validHost(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~:[]!$&'()*+,;=", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// appendField appends one header line. Space around the value is not sent.
func appendField(b []byte, name, value string) ([]byte, error) {
	b = append(b, name...)
	b = append(b, ": "...)
	value = trimSpace(value)
	if !isValue(value) {
		return b, errors.New("a header field has a value that cannot be sent")
	}
	b = append(b, value...)
	return append(b, "\r\n"...), nil
}

// appendTrailerNames announces the trailers of a chunked body.
func appendTrailerNames(b []byte, trailer http.Header) ([]byte, error) {
	sep := "\r\nTrailer: "
	for name := range trailer {
		if !isToken(name) || isFraming(name) {
			return b, errors.New("a trailer has a name that cannot be sent")
		}
		b = append(b, sep...)
		b = append(b, name...)
		sep = ", "
	}
	return b, nil
}

// appendBody reads a body of a known, small length, and closes it. When ctx ends, the
// body is closed so that a blocked Read ends, if it is of a kind that then does.
func appendBody(ctx context.Context, b []byte, body io.ReadCloser, length int) (_ []byte, err error) {
	interrupt := context.AfterFunc(ctx, func() { _ = body.Close() })
	defer func() {
		if interrupt() {
			_ = body.Close()
		} else if err != nil {
			err = context.Cause(ctx)
		}
	}()
	at := len(b)
	b = append(b, make([]byte, length)...)
	if n, err := io.ReadFull(body, b[at:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return b, fmt.Errorf("its body ended after %d of %d bytes: %w", n, length, io.ErrUnexpectedEOF)
	} else if err != nil {
		return b, fmt.Errorf("reading its body: %w", err)
	}
	return b, atEnd(body)
}

// atEnd checks that a body has no more than the length that was announced.
func atEnd(body io.Reader) error {
	var one [1]byte
	for range 100 {
		n, err := body.Read(one[:])
		switch {
		case n > 0:
			return errors.New("its body is longer than was announced")
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("reading its body: %w", err)
		}
	}
	return io.ErrNoProgress
}

// fieldKind sorts header fields by what this package does with them.
type fieldKind int

const (
	fieldOther      fieldKind = iota
	fieldOwn                  // written by this package from other parts of the request, or not at all
	fieldUserAgent            //
	fieldConnection           //
	fieldUpgrade              //
)

// kind does not depend on the case of the name, so that a field in an unusual spelling
// cannot be a second Content-Length.
func kind(name string) fieldKind {
	switch len(name) {
	case 4:
		if strings.EqualFold(name, "Host") {
			return fieldOwn
		}
	case 6:
		if strings.EqualFold(name, "Expect") {
			return fieldOwn
		}
	case 7:
		if strings.EqualFold(name, "Trailer") {
			return fieldOwn
		}
		if strings.EqualFold(name, "Upgrade") {
			return fieldUpgrade
		}
	case 10:
		if strings.EqualFold(name, "User-Agent") {
			return fieldUserAgent
		}
		if strings.EqualFold(name, "Connection") {
			return fieldConnection
		}
	case 14:
		if strings.EqualFold(name, "Content-Length") {
			return fieldOwn
		}
	case 17:
		if strings.EqualFold(name, "Transfer-Encoding") {
			return fieldOwn
		}
	}
	return fieldOther
}

// isFraming reports whether the field decides where a message ends. Such a field is
// never a trailer (RFC 9110 section 6.5.1).
func isFraming(name string) bool {
	return strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding") ||
		strings.EqualFold(name, "Trailer")
}
