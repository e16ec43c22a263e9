// Reading a chunked body (RFC 9112 section 7.1).

package upstream

import (
	"bytes"
	"io"
	"net/http"
)

const (
	// Each chunk may come with this many bytes of framing, and as many again as twice
	// its data, before they count as excess; extensions are read and dropped.
	chunkAllowance = 16
	maxExcess      = 16 << 10
)

// readChunked reads decoded bytes, and the trailers at the end. It returns io.EOF with
// the last bytes when the end has arrived with them. When it has something to return it
// waits for the rest of the same chunk, as net/http does, but not for another.
func (x *exchange) readChunked(c *conn, p []byte) (n int, err error) {
	for {
		if x.left > 0 {
			if len(p) == 0 {
				return n, nil
			}
			part := p
			if int64(len(part)) > x.left {
				part = part[:x.left]
			}
			m, err := c.read(part)
			n += m
			p = p[m:]
			x.left -= int64(m)
			if err != nil {
				return n, unexpected(err)
			}
			x.chunkEnd = x.left == 0
			continue
		}
		if !x.lastRead {
			if n > 0 && !x.sizeBuffered(c) {
				return n, nil
			}
			if x.left, err = x.chunkSize(c); err != nil {
				return n, unexpected(err)
			}
			x.lastRead = x.left == 0
			continue
		}
		if n > 0 && !trailersBuffered(c) {
			return n, nil
		}
		if err := x.trailers(c); err != nil {
			return n, unexpected(err)
		}
		return n, io.EOF
	}
}

// sizeBuffered reports whether the next chunk's size can be read without waiting.
func (x *exchange) sizeBuffered(c *conn) bool {
	buf := c.buf[c.r:c.w]
	if x.chunkEnd {
		buf = buf[min(2, len(buf)):]
	}
	return bytes.IndexByte(buf, '\n') >= 0
}

// trailersBuffered reports whether the trailers can be read without waiting.
func trailersBuffered(c *conn) bool {
	buf := c.buf[c.r:c.w]
	return bytes.HasPrefix(buf, []byte("\r\n")) || bytes.Contains(buf, []byte("\r\n\r\n"))
}

// chunkSize reads the end of the chunk before and the line that opens the next. When
// not all of it can be read now, it is read again from the start.
func (x *exchange) chunkSize(c *conn) (int64, error) {
	if x.chunkEnd {
		line, err := c.line()
		if err != nil {
			return 0, err
		}
		if len(line) > 0 {
			return 0, malformed("a chunk is longer than its size")
		}
		x.chunkEnd = false
	}
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	size, err := parseChunkSize(line)
	if err != nil {
		return 0, err
	}
	x.excess = max(0, x.excess+int64(len(line))+4-chunkAllowance-2*size)
	if x.excess > maxExcess {
		return 0, malformed("its chunks are mostly framing")
	}
	return size, nil
}

// parseChunkSize parses a chunk line without its CRLF: hexadecimal digits, then perhaps
// space and extensions, which are dropped.
func parseChunkSize(line []byte) (size int64, err error) {
	digits := 0
	for _, b := range line {
		switch {
		case '0' <= b && b <= '9':
			b -= '0'
		case 'a' <= b && b <= 'f':
			b -= 'a' - 10
		case 'A' <= b && b <= 'F':
			b -= 'A' - 10
		default:
			b = 0xff
		}
		if b == 0xff {
			break
		}
		size = size<<4 | int64(b)
		if digits++; digits > 15 {
			return 0, malformed("a chunk's size is too large")
		}
	}
	if digits == 0 {
		return 0, malformed("a chunk has no size")
	}
	rest := trimSpace(string(line[digits:]))
	if rest != "" && rest[0] != ';' || !isValue(rest) {
		return 0, malformed("a chunk's size is not a number")
	}
	return size, nil
}

// trailers reads the fields after the last chunk into Response.Trailer.
func (x *exchange) trailers(c *conn) error {
	block, lines, err := c.block(x.t.maxHeaderBytes, true)
	if err != nil || lines == 0 {
		return err
	}
	fields := make(http.Header, lines)
	if err := parseFields(string(block), lines, fields); err != nil {
		return err
	}
	for name, values := range fields {
		if isFraming(name) {
			return malformed("it has a trailer that cannot be one")
		}
		if x.resp.Trailer == nil {
			x.resp.Trailer = make(http.Header, lines)
		}
		x.resp.Trailer[name] = values
	}
	return nil
}
