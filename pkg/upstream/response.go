// What comes back: the status line, header fields, and how the body ends.

package upstream

import (
	"net/http"
	"strings"
)

// framing is how the end of a body is found (RFC 9112 section 6.3).
type framing int

const (
	framedEmpty   framing = iota // there is no body
	framedLength                 // Content-Length
	framedChunked                // Transfer-Encoding: chunked
	framedClose                  // the end of the connection
)

// parseHead parses the lines of a header, of which there are lines, each ended by CRLF,
// without the empty one. It fills in Proto, Status and Header.
func parseHead(s string, lines int, resp *http.Response) error {
	status, rest, _ := strings.Cut(s, "\r\n")
	// HTTP/1.x NNN [reason]
	if len(status) < len("HTTP/1.1 200") || status[:7] != "HTTP/1." || status[8] != ' ' {
		return malformed("it does not begin with an HTTP/1 status line")
	}
	switch status[7] {
	case '0':
		resp.Proto, resp.ProtoMajor, resp.ProtoMinor = "HTTP/1.0", 1, 0
	case '1':
		resp.Proto, resp.ProtoMajor, resp.ProtoMinor = "HTTP/1.1", 1, 1
	default:
		return malformed("its version is neither HTTP/1.0 nor HTTP/1.1")
	}
	code := 0
	for _, c := range []byte(status[9:12]) {
		if c < '0' || c > '9' {
			return malformed("its status is not a number")
		}
		code = 10*code + int(c-'0')
	}
	if code < 100 || len(status) > 12 && status[12] != ' ' {
		return malformed("its status is not a number from 100 to 999")
	}
	if !isValue(status) {
		return malformed("its status line has control characters")
	}
	resp.StatusCode = code
	resp.Status = status[9:]
	resp.Header = make(http.Header, lines-1)
	return parseFields(rest, lines-1, resp.Header)
}

// parseFields parses header or trailer lines into h. A folded line (RFC 9112 section
// 5.2) is refused with the names that are not tokens, as it begins with a space.
func parseFields(s string, lines int, h http.Header) error {
	values := make([]string, lines)
	for s != "" {
		end := strings.IndexByte(s, '\n')
		line := s[:end-1]
		s = s[end+1:]
		colon := strings.IndexByte(line, ':')
		if colon < 0 || !isToken(line[:colon]) {
			return malformed("a header line has no proper name")
		}
		value := trimSpace(line[colon+1:])
		if !isValue(value) {
			return malformed("a header value has control characters")
		}
		name := canonical(line[:colon])
		if before, ok := h[name]; ok {
			h[name] = append(before, value)
			continue
		}
		// One array holds the single values, each with no room to be appended to.
		values[0] = value
		h[name] = values[:1:1]
		values = values[1:]
	}
	return nil
}

// frame decides how the body of a final answer ends, and sets ContentLength,
// TransferEncoding, Close and Trailer. Whatever could be read in two ways is refused:
// Content-Length with Transfer-Encoding, either of them twice, any coding but
// chunked, and Transfer-Encoding in HTTP/1.0. closes says that the connection cannot be
// used again.
func frame(resp *http.Response, isHead bool) (f framing, closes bool, err error) {
	h := resp.Header
	lengths, codings := h["Content-Length"], h["Transfer-Encoding"]
	resp.ContentLength = -1
	if len(lengths) > 1 {
		return 0, true, malformed("it has more than one Content-Length")
	}
	if len(lengths) == 1 {
		if resp.ContentLength, err = parseLength(lengths[0]); err != nil {
			return 0, true, err
		}
	}
	chunked := len(codings) > 0
	if chunked {
		switch {
		case len(codings) > 1 || !strings.EqualFold(codings[0], "chunked"):
			return 0, true, malformed("it has a Transfer-Encoding other than chunked")
		case len(lengths) > 0:
			return 0, true, malformed("it has both Content-Length and Transfer-Encoding")
		case resp.ProtoMinor == 0:
			return 0, true, malformed("it has a Transfer-Encoding in HTTP/1.0")
		}
		delete(h, "Transfer-Encoding")
		resp.TransferEncoding = []string{"chunked"}
	}

	connection := h["Connection"]
	if hasToken(connection, "close") {
		closes = true
		if resp.ProtoMinor > 0 {
			delete(h, "Connection")
		}
	} else if resp.ProtoMinor == 0 {
		closes = !hasToken(connection, "keep-alive")
	}

	if chunked {
		if resp.Trailer, err = announced(h["Trailer"]); err != nil {
			return 0, true, err
		}
		delete(h, "Trailer")
	}
	switch {
	case isHead || resp.StatusCode == http.StatusNotModified:
		// They tell of a body that is not sent.
		f = framedEmpty
		if !isHead {
			resp.ContentLength = 0
		}
	case resp.StatusCode == http.StatusNoContent:
		// It must not have a body; if it says that it has, don't trust what follows.
		closes = closes || chunked || resp.ContentLength > 0
		f, resp.ContentLength = framedEmpty, 0
	case chunked:
		f = framedChunked
	case resp.ContentLength == 0:
		f = framedEmpty
	case resp.ContentLength > 0:
		f = framedLength
	default:
		f, closes = framedClose, true
	}
	resp.Close = closes
	return f, closes, nil
}

// parseLength parses a Content-Length: digits only, below 10^18.
func parseLength(s string) (int64, error) {
	if s == "" || len(s) > 18 {
		return 0, malformed("its Content-Length is not a length")
	}
	var n int64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, malformed("its Content-Length is not a length")
		}
		n = 10*n + int64(c-'0')
	}
	return n, nil
}

// announced returns the trailers that a Trailer field announces, without values.
func announced(lists []string) (http.Header, error) {
	if lists == nil {
		return nil, nil
	}
	trailer := make(http.Header)
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			name := trimSpace(item)
			if name == "" {
				continue
			}
			if !isToken(name) || isFraming(name) {
				return nil, malformed("it announces a trailer that cannot be one")
			}
			trailer[canonical(name)] = nil
		}
	}
	return trailer, nil
}
