// One connection to the upstream: its read buffer, lines and header blocks.

package upstream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	bufferSize = 8 << 10 // of a read buffer: a header and a small answer in one read
	lineSize   = 4 << 10 // the longest chunk line accepted, below bufferSize
	maxFields  = 1000    // header fields in one answer
)

var (
	// errStale says that a kept connection was found closed or dirty before
	// anything was sent on it.
	errStale = errors.New("the kept connection was closed by the upstream")
	// errPause says that a pipe was read without blocking and had nothing.
	errPause = &pauseError{}
	// errShort says that reading was limited to what is buffered, and that is not enough.
	errShort = errors.New("not all of the answer has arrived")
)

// malformed is an answer that does not follow RFC 9112, or follows it in a way that
// another reader could take differently. It quotes nothing of the answer.
type malformed string

// Error returns the text.
func (m malformed) Error() string { return "malformed answer: " + string(m) }

// conn is one connection. It is used by one goroutine at a time, but that raw may be
// closed and have its deadlines set by others, and nc may be written to by the
// goroutine that sends a body while another reads.
type conn struct {
	raw    net.Conn             // the TCP connection
	nc     net.Conn             // raw, or secure
	rc     syscall.RawConn      // raw's socket; nil when it cannot be had, and then the connection is not kept
	pipe   *pipe                // between secure and raw; nil without TLS
	secure *tls.Conn            // nil without TLS
	state  *tls.ConnectionState // nil without TLS

	buffer  *[]byte // from Transport.buffers, nil while kept
	buf     []byte  // *buffer, or a longer one for a long header
	r, w    int     // buf[r:w] is unread
	readErr error   // came with the last bytes read
	limited bool    // fill returns errShort

	used      bool // has served a request before this one
	idleSince time.Time

	// For doStep, which is called by rc.Read through step, made once.
	step    func(fd uintptr) bool
	stage   stepStage
	out     []byte
	written int
	n       int
	err     error
	probe   [1]byte
}

// buffered is the number of bytes read and not yet taken.
func (c *conn) buffered() int { return c.w - c.r }

// close closes an unused connection; with TLS it tells the peer.
func (c *conn) close() { _ = c.nc.Close() }

// drop closes a connection in whatever state it is, without waiting for anything.
func (c *conn) drop() { _ = c.raw.Close() }

// take gives the connection a read buffer.
func (c *conn) take(buffers *sync.Pool) {
	if c.buffer == nil {
		c.buffer = buffers.Get().(*[]byte)
		c.buf = *c.buffer
		c.r, c.w = 0, 0
	}
}

// give returns the read buffer.
func (c *conn) give(buffers *sync.Pool) {
	if c.buffer != nil {
		buffers.Put(c.buffer)
		c.buffer, c.buf = nil, nil
		c.r, c.w = 0, 0
	}
}

// room makes space at the end of the buffer by moving what is unread to the front.
func (c *conn) room() {
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.r > 0 && c.w == len(c.buf) {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
}

// fill reads more into the buffer, which must not be full of unread bytes.
func (c *conn) fill() error {
	if c.readErr != nil {
		return c.readErr
	}
	if c.limited {
		return errShort
	}
	c.room()
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		c.readErr = err
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	c.readErr = err
	return err
}

// read reads body bytes: those buffered first, else straight from the connection.
func (c *conn) read(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	if c.readErr != nil {
		return 0, c.readErr
	}
	if len(p) < bufferSize/2 || c.limited {
		if err := c.fill(); err != nil {
			return 0, err
		}
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	n, err := c.nc.Read(p)
	c.readErr = err
	if n > 0 {
		err = nil
	}
	return n, err
}

// line returns the next line without its CRLF. It is valid until the next read.
func (c *conn) line() ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(c.buf[c.r+scanned:c.w], '\n'); i >= 0 {
			line := c.buf[c.r : c.r+scanned+i]
			c.r += scanned + i + 1
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return nil, malformed("a line ends without a carriage return")
			}
			return line[:len(line)-1], nil
		}
		scanned = c.w - c.r
		if scanned > lineSize {
			return nil, malformed("a chunk line is too long")
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// block reads lines up to and including an empty one, at most limit bytes. It returns
// them without that empty line, and how many there are. Trailers may be the empty line
// alone; a header begins with a status line. The result is valid until the next read.
func (c *conn) block(limit int, trailers bool) (block []byte, lines int, err error) {
	start, scan := 0, 0 // of the current line, and of what is not yet searched, from c.r
	for {
		i := bytes.IndexByte(c.buf[c.r+scan:c.w], '\n')
		if i < 0 {
			scan = c.w - c.r
			if scan > limit {
				return nil, 0, malformed(fmt.Sprintf("the header is longer than %d bytes", limit))
			}
			if err := c.grow(limit); err != nil {
				return nil, 0, err
			}
			if err := c.fill(); err != nil {
				return nil, 0, err
			}
			continue
		}
		end := scan + i // of the line feed
		if end == start || c.buf[c.r+end-1] != '\r' {
			return nil, 0, malformed("a line ends without a carriage return")
		}
		if end+1 > limit {
			return nil, 0, malformed(fmt.Sprintf("the header is longer than %d bytes", limit))
		}
		if end == start+1 {
			if lines == 0 && !trailers {
				return nil, 0, malformed("it begins with an empty line")
			}
			block = c.buf[c.r : c.r+start]
			c.r += end + 1
			return block, lines, nil
		}
		if lines++; lines > maxFields {
			return nil, 0, malformed(fmt.Sprintf("it has more than %d header fields", maxFields))
		}
		start, scan = end+1, end+1
	}
}

// grow replaces a buffer that is full of unread bytes by one twice as long.
func (c *conn) grow(limit int) error {
	if c.r > 0 || c.w < len(c.buf) {
		return nil
	}
	if len(c.buf) > limit {
		return malformed(fmt.Sprintf("the header is longer than %d bytes", limit))
	}
	longer := make([]byte, 2*len(c.buf))
	copy(longer, c.buf)
	c.buf = longer
	return nil
}

// stale reports whether a kept connection has been closed by the peer, or has bytes
// that nobody asked for. It does not block. The connection must not be used when it
// does: a byte may have been taken from it.
func (c *conn) stale() bool {
	if c.rc == nil || c.readErr != nil {
		return true
	}
	if c.secure == nil {
		n, err := readNow(c.rc, c.probe[:])
		return n != 0 || !errors.Is(err, errPause)
	}
	// Through TLS, so that what it may have buffered is seen too.
	c.pipe.now, c.pipe.got = true, 0
	n, err := c.secure.Read(c.probe[:])
	c.pipe.now = false
	return n != 0 || !errors.Is(err, errPause) || c.pipe.got != 0
}

// pipe is a TCP connection that can be told not to block in Read.
type pipe struct {
	net.Conn
	rc  syscall.RawConn
	now bool // Read returns errPause instead of waiting
	got int  // bytes read since now was set
}

// Read reads from the connection.
func (p *pipe) Read(b []byte) (int, error) {
	if !p.now {
		return p.Conn.Read(b)
	}
	n, err := readNow(p.rc, b)
	p.got += n
	return n, err
}

// CloseWrite ends the sending side.
func (p *pipe) CloseWrite() error { return closeWrite(p.Conn) }

// NetConn returns the TCP connection.
func (p *pipe) NetConn() net.Conn { return p.Conn }

// pauseError is a net.Error that crypto/tls takes as passing, so that the connection
// can be read again afterwards.
type pauseError struct{}

// Error returns the text.
func (*pauseError) Error() string { return "nothing to read now" }

// Timeout is true: crypto/tls does not take a timeout in Read as final.
func (*pauseError) Timeout() bool { return true }

// Temporary is what crypto/tls asks for.
func (*pauseError) Temporary() bool { return true }
