package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"strconv"

	"rackgateway/pkg/rack"
)

// WebSocket opcodes, RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
)

// A frameFollower reads along with a stream of WebSocket frames without touching it, so that the tunnel
// knows at each byte whether it stands between two frames and between two messages, whether the rack has
// said that it is done (a binary frame means EOF in the rack's protocol), and with which exit code.
//
// It takes bytes in pieces of any size. It never fails: a stream that is not WebSocket is passed on as it
// is, and is merely never found to be between frames.
type frameFollower struct {
	header    [14]byte // of the frame being read: at most 2 + 8 + 4 bytes
	have      int      // bytes of header so far
	remaining uint64   // payload bytes still to come
	inPayload bool

	inMessage bool // a data frame without FIN has passed, its last continuation has not
	sawEOF    bool
	broken    bool // a reserved opcode or an impossible length: no longer WebSocket

	capture  [48]byte // start of the payload of a text frame, where an exit marker would stand
	captured int
	capText  bool
	exitCode int // -1 when none was seen
}

func newFrameFollower() frameFollower { return frameFollower{exitCode: -1} }

// Follow takes the next bytes of the stream.
func (f *frameFollower) Follow(p []byte) {
	for len(p) > 0 && !f.broken {
		if !f.inPayload {
			p = f.followHeader(p)
			continue
		}
		n := uint64(len(p))
		if n > f.remaining {
			n = f.remaining
		}
		if f.capText && f.captured < len(f.capture) {
			f.captured += copy(f.capture[f.captured:], p[:n])
		}
		f.remaining -= n
		p = p[n:]
		if f.remaining == 0 {
			f.endFrame()
		}
	}
}

func (f *frameFollower) followHeader(p []byte) []byte {
	for len(p) > 0 {
		f.header[f.have] = p[0]
		f.have++
		p = p[1:]
		if f.have < 2 {
			continue
		}
		need := 2
		switch f.header[1] & 0x7f {
		case 126:
			need += 2
		case 127:
			need += 8
		}
		masked := f.header[1]&0x80 != 0
		if masked {
			need += 4
		}
		if f.have < need {
			continue
		}
		switch length := f.header[1] & 0x7f; length {
		case 126:
			f.remaining = uint64(binary.BigEndian.Uint16(f.header[2:4]))
		case 127:
			f.remaining = binary.BigEndian.Uint64(f.header[2:10])
		default:
			f.remaining = uint64(length)
		}
		opcode, fin := f.header[0]&0x0f, f.header[0]&0x80 != 0
		if f.remaining>>63 != 0 || (opcode > opBinary && opcode < 0x8) || opcode > 0xA {
			f.broken = true
			return nil
		}
		f.captured, f.capText = 0, false
		switch opcode {
		case opText:
			f.inMessage = !fin
			f.capText = !masked && fin && f.remaining <= uint64(len(f.capture))
		case opBinary:
			f.inMessage = !fin
			f.sawEOF = true
		case opContinuation:
			f.inMessage = !fin
		}
		f.have, f.inPayload = 0, true
		if f.remaining == 0 {
			f.endFrame()
		}
		return p
	}
	return p
}

func (f *frameFollower) endFrame() {
	f.inPayload = false
	if f.capText {
		if code, ok := exitMarker(f.capture[:f.captured]); ok {
			f.exitCode = code
		}
	}
	f.capText = false
}

// BetweenFrames reports whether the next byte would be the first of a frame.
func (f *frameFollower) BetweenFrames() bool { return !f.broken && !f.inPayload && f.have == 0 }

// exitMarker reads the rack's exit marker, which stands in a text frame of its own.
func exitMarker(p []byte) (int, bool) {
	if len(p) <= len(rack.ExitMarker) || string(p[:len(rack.ExitMarker)]) != rack.ExitMarker {
		return 0, false
	}
	rest := p[len(rack.ExitMarker):]
	if rest[len(rest)-1] == '\n' {
		rest = rest[:len(rest)-1]
	}
	code, err := strconv.Atoi(string(rest))
	if err != nil || code < 0 || code > 255 {
		return 0, false
	}
	return code, true
}

// appendFrame appends one unmasked frame, as a server sends them.
func appendFrame(dst []byte, opcode byte, fin bool, payload []byte) []byte {
	first := opcode
	if fin {
		first |= 0x80
	}
	dst = append(dst, first)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = append(dst, 126, byte(n>>8), byte(n)) //nolint:gosec // 16 bits, as the case says
	default:
		dst = append(dst, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// appendEnding appends the frames that end a session in the way that the stock CLI shows to the person:
// the message, then (for a session that has an exit code) the marker in a frame of its own, then EOF.
func appendEnding(dst []byte, message string, exitCode int) []byte {
	dst = appendFrame(dst, opText, true, []byte(message))
	if exitCode >= 0 {
		dst = appendFrame(dst, opText, true, []byte(rack.ExitMarker+strconv.Itoa(exitCode)+"\n"))
	}
	return appendFrame(dst, opBinary, true, nil)
}

var errMidFrame = errors.New("the rack stopped in the middle of a frame")

// finishFrame makes the stream stand between two frames and two messages: it copies what is left of the
// frame under way, then closes the message under way with an empty continuation.
func (f *frameFollower) finishFrame(dst io.Writer, src io.Reader, buf []byte) error {
	for !f.BetweenFrames() {
		if f.broken {
			return errMidFrame
		}
		want := uint64(1)
		if f.inPayload {
			want = min(f.remaining, uint64(len(buf)))
		}
		n, err := src.Read(buf[:want])
		if n > 0 {
			f.Follow(buf[:n])
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil && !f.BetweenFrames() {
			return errMidFrame
		}
	}
	if f.inMessage {
		f.inMessage = false
		_, err := dst.Write(appendFrame(nil, opContinuation, true, nil))
		return err
	}
	return nil
}
