// Websocket framing (RFC 6455, section 5), as the rack's library does it, byte for byte: text frames that carry
// any bytes, an empty binary frame for the end of a stream, large messages in two frames, no extensions.

package wire

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// ExitMarker precedes the exit code of a remote command: a text frame of its own holds the marker, the code
// in decimal, and a newline.
const ExitMarker = "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:"

// Opcodes (RFC 6455, section 5.2).
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xa
)

// The rack's library writes through a buffer of 10 KiB. A message over twice the buffer (with room for the
// largest header) goes out whole as one unfinished frame with an empty final one behind it; a message over
// the buffer is cut into buffers.
const (
	rackBuffer       = 10 * 1024
	rackLargeMessage = 2 * (rackBuffer + 14)
)

// ErrFrameTooLong means that a frame was longer than the reader was ready to hold.
var ErrFrameTooLong = errors.New("frame is too long")

// Frame is one frame with its payload unmasked.
type Frame struct {
	Fin     bool
	Rsv     byte // the three reserved bits; 0 unless an extension was negotiated
	Op      byte
	Masked  bool
	Payload []byte
}

// AcceptKey answers a Sec-WebSocket-Key (RFC 6455, section 4.2.2).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// NewKey makes a Sec-WebSocket-Key: 16 random bytes in base64.
func NewKey() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// Conn reads and writes frames. One goroutine may read while any number write: each frame is written whole.
type Conn struct {
	net.Conn
	r      *bufio.Reader
	client bool

	mu      sync.Mutex
	scratch []byte
}

// NewConn frames conn. Bytes that were read ahead while upgrading come from r. A client masks what it writes.
func NewConn(conn net.Conn, r *bufio.Reader, client bool) *Conn {
	if r == nil {
		r = bufio.NewReaderSize(conn, 4096)
	}
	return &Conn{Conn: conn, r: r, client: client}
}

// Reader is where raw bytes are read from, for callers that bypass the framing.
func (c *Conn) Reader() *bufio.Reader { return c.r }

// ReadFrame reads one frame of at most limit payload bytes.
func (c *Conn) ReadFrame(limit int64) (Frame, error) {
	var head [14]byte
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return Frame{}, err
	}
	f := Frame{Fin: head[0]&0x80 != 0, Rsv: head[0] & 0x70, Op: head[0] & 0x0f, Masked: head[1]&0x80 != 0}
	size := int64(head[1] & 0x7f)
	switch size {
	case 126:
		if _, err := io.ReadFull(c.r, head[:2]); err != nil {
			return f, unexpected(err)
		}
		size = int64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		if _, err := io.ReadFull(c.r, head[:8]); err != nil {
			return f, unexpected(err)
		}
		long := binary.BigEndian.Uint64(head[:8])
		if long > 1<<62 {
			return f, ErrFrameTooLong
		}
		size = int64(long)
	}
	if size > limit {
		return f, fmt.Errorf("%w: %d bytes", ErrFrameTooLong, size)
	}
	var mask [4]byte
	if f.Masked {
		if _, err := io.ReadFull(c.r, mask[:]); err != nil {
			return f, unexpected(err)
		}
	}
	f.Payload = make([]byte, size)
	if _, err := io.ReadFull(c.r, f.Payload); err != nil {
		return f, unexpected(err)
	}
	if f.Masked {
		xor(f.Payload, mask)
	}
	return f, nil
}

// WriteFrame writes one frame in one write to the connection.
func (c *Conn) WriteFrame(fin bool, op byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writeFrame(fin, op, payload)
}

// WriteText writes a message the way the rack's library does, fragments included.
func (c *Conn) WriteText(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) > rackLargeMessage {
		if err := c.writeFrame(false, OpText, p); err != nil {
			return err
		}
		return c.writeFrame(true, OpContinuation, nil)
	}
	op := byte(OpText)
	for len(p) > rackBuffer {
		if err := c.writeFrame(false, op, p[:rackBuffer]); err != nil {
			return err
		}
		op, p = OpContinuation, p[rackBuffer:]
	}
	return c.writeFrame(true, op, p)
}

// WriteEOF writes the empty binary frame that ends a stream.
func (c *Conn) WriteEOF() error { return c.WriteFrame(true, OpBinary, nil) }

func (c *Conn) writeFrame(fin bool, op byte, payload []byte) error {
	b := c.scratch[:0]
	first := op
	if fin {
		first |= 0x80
	}
	b = append(b, first)
	var maskBit byte
	if c.client {
		maskBit = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, maskBit|byte(n))
	case n < 1<<16:
		b = append(b, maskBit|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, maskBit|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if c.client {
		var mask [4]byte
		rand.Read(mask[:])
		b = append(b, mask[:]...)
		start := len(b)
		b = append(b, payload...)
		xor(b[start:], mask)
	} else {
		b = append(b, payload...)
	}
	// A scratch buffer that a single huge message has blown up is not kept for the session's life.
	if cap(b) <= 4*rackBuffer {
		c.scratch = b[:0]
	}
	_, err := c.Conn.Write(b)
	return err
}

func xor(p []byte, mask [4]byte) {
	for i := range p {
		p[i] ^= mask[i&3]
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
