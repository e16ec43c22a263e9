package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// memory is a connection to a buffer.
type memory struct{ bytes.Buffer }

func (*memory) Close() error                     { return nil }
func (*memory) LocalAddr() net.Addr              { return nil }
func (*memory) RemoteAddr() net.Addr             { return nil }
func (*memory) SetDeadline(time.Time) error      { return nil }
func (*memory) SetReadDeadline(time.Time) error  { return nil }
func (*memory) SetWriteDeadline(time.Time) error { return nil }

func TestFramesOfEveryLengthComeBack(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 200000} {
			m := &memory{}
			payload := bytes.Repeat([]byte{0xff, 0x00, 0x80, 'a', 0xc3}, n/5+1)[:n]
			if err := NewConn(m, nil, client).WriteFrame(n%2 == 0, OpText, payload); err != nil {
				t.Fatal(err)
			}
			if client && n > 10 && bytes.Contains(m.Bytes(), payload) {
				t.Errorf("%d bytes of a client are not masked", n)
			}
			c := NewConn(m, nil, false)
			f, err := c.ReadFrame(int64(n))
			if err != nil || f.Op != OpText || f.Fin != (n%2 == 0) || f.Masked != client || !bytes.Equal(f.Payload, payload) {
				t.Errorf("%d bytes come back as %d, %v", n, len(f.Payload), err)
			}
			if _, err := c.ReadFrame(1); !errors.Is(err, io.EOF) {
				t.Errorf("after the frame: %v", err)
			}
		}
	}
}

func TestABrokenFrameIsToldFromTheEnd(t *testing.T) {
	m := &memory{}
	if err := NewConn(m, nil, true).WriteFrame(true, OpText, bytes.Repeat([]byte("x"), 300)); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(m.Bytes())
	for n := 1; n < len(whole); n++ {
		c := NewConn(nil, bufio.NewReader(bytes.NewReader(whole[:n])), false)
		if _, err := c.ReadFrame(1000); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	if _, err := NewConn(nil, bufio.NewReader(bytes.NewReader(whole)), false).ReadFrame(299); !errors.Is(err, ErrFrameTooLong) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestAcceptKey(t *testing.T) {
	// RFC 6455, section 1.3.
	if got := AcceptKey("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("got %s", got)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0x81, 0x01, 'x'})
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x01, 0xfe, 0x00, 0x7e, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := NewConn(nil, bufio.NewReader(bytes.NewReader(data)), false)
		for {
			fr, err := c.ReadFrame(1 << 16)
			if err != nil {
				return
			}
			if len(fr.Payload) > len(data) {
				t.Errorf("%d bytes out of %d", len(fr.Payload), len(data))
			}
		}
	})
}
