// Reading a socket without blocking, and the whole of a small round trip in one visit
// to the network poller.

//go:build unix

package upstream

import (
	"errors"
	"io"
	"syscall"
)

// canCheck says that kept connections can be checked for staleness here.
const canCheck = true

// readNow reads what has arrived on the socket. It returns errPause when that is
// nothing, and io.EOF at the end.
func readNow(rc syscall.RawConn, b []byte) (n int, err error) {
	visit := rc.Read(func(fd uintptr) bool {
		n, err = readSocket(fd, b)
		return true
	})
	if visit != nil {
		return 0, visit
	}
	return n, err
}

func readSocket(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), b)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return 0, errPause
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// stepStage is what doStep does next.
type stepStage int

const (
	stepCheck stepStage = iota // is the kept connection still good
	stepWrite
	stepRead
	stepStale   // ended: it was not
	stepWritten // ended: the write failed or was partial, see written and err
	stepDone    // ended: n bytes were read, or err
)

// exchange checks a kept connection, writes the request, waits for the first bytes of
// the answer and reads them into the buffer, all in one call of rc.Read: the poller
// is then told to wait before the first read, so that the read which would find
// nothing is not made, and the socket's lock is taken once. It is for connections
// without TLS and needs rc.
//
// This loses no wake-up: rc.Read resets the poller's readiness before it calls
// doStep, and doStep finds the socket empty or new before it writes. So what
// arrives later sets the readiness that rc.Read waits for.
//
// It returns errStale with nothing written, or how much was written and an error of
// the write. An error of the read is left in readErr.
func (c *conn) exchange(out []byte) (written int, err error) {
	c.room()
	c.stage, c.out, c.written, c.n, c.err = stepCheck, out, 0, 0, nil
	err = c.rc.Read(c.step)
	c.out = nil
	if err != nil && c.stage == stepRead {
		// The request is out; the connection was closed while waiting for the answer.
		c.readErr = err
		return c.written, nil
	}
	if err != nil {
		return c.written, err
	}
	switch c.stage {
	case stepStale:
		return 0, errStale
	case stepWritten:
		if c.err != nil {
			return c.written, c.err
		}
		n, err := c.nc.Write(out[c.written:])
		return c.written + n, err
	default:
		c.w += c.n
		c.readErr = c.err
		return c.written, nil
	}
}

func (c *conn) doStep(fd uintptr) bool {
	switch c.stage {
	case stepCheck:
		// A new connection is checked too: bytes that came before the request would
		// be taken for its answer.
		if _, err := readSocket(fd, c.probe[:]); !errors.Is(err, errPause) {
			c.stage = stepStale
			return true
		}
		c.stage = stepWrite
		fallthrough
	case stepWrite:
		for {
			n, err := syscall.Write(int(fd), c.out)
			if err == syscall.EINTR {
				continue
			}
			if n > 0 {
				c.written = n
			}
			if err != nil && err != syscall.EAGAIN {
				c.err = err
			}
			break
		}
		if c.written < len(c.out) {
			c.stage = stepWritten
			return true
		}
		c.stage = stepRead
		return false
	default:
		c.n, c.err = readSocket(fd, c.buf[c.w:])
		if errors.Is(c.err, errPause) {
			c.err = nil
			return false
		}
		c.stage = stepDone
		return true
	}
}
