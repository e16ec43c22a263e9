package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A tunnel is one open socket: it carries bytes between a client and the rack, unchanged, until either TCP
// side ends or the gateway ends it.
//
// Nobody in this protocol closes: the rack leaves the connection open behind its EOF frame, and the CLI
// exits. So the end of one side is the end of both. When the gateway itself ends a session, or the rack's
// side is lost, the CLI would take the silence for success; it is told by frames of its own instead, put
// in where one frame has ended and the next has not begun.
type tunnel struct {
	client net.Conn
	early  []byte // what the client sent right behind its request
	rack   upgraded
	speaks speech

	in, out  atomic.Int64 // bytes from the client, to the client
	ending   atomic.Pointer[string]
	woken    chan struct{} // closed by the first end, while the socket waits; may be nil
	wired    atomic.Bool   // client and rack are set
	follower frameFollower
	cause    string // why it ended, for the record; set by run
	exitCode int    // -1 when the session had none
}

// upgraded is the rack's side of a socket after its 101.
type upgraded interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// speech is what may be written into a socket by the gateway.
type speech int

const (
	speaksNothing  speech = iota // raw TCP: a byte of ours would be taken for the other side's
	speaksText                   // a log: a message; an exit marker would be printed
	speaksExitCode               // a session with an exit code: a message and a marker
)

const (
	smallBuffer = 4 << 10  // of an idle direction
	largeBuffer = 32 << 10 // of a busy one
	frameGrace  = 250 * time.Millisecond
	lingerGrace = 2 * time.Second // for a client to take the last words and hang up
)

// errTakerGone says that it was the side written to that failed.
var errTakerGone = errors.New("the receiving side is gone")

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// end makes the tunnel end with a message. It returns at once; only the first call counts.
func (t *tunnel) end(message string) {
	if !t.ending.CompareAndSwap(nil, &message) {
		return
	}
	if t.woken != nil {
		close(t.woken)
	}
	if t.wired.Load() {
		t.interrupt()
	}
}

// wire gives the tunnel its two sides. One that was ended meanwhile ends as soon as it runs.
func (t *tunnel) wire(client net.Conn, early []byte, rack upgraded) {
	t.client, t.early, t.rack = client, early, rack
	t.wired.Store(true)
	if t.ending.Load() != nil {
		t.interrupt()
	}
}

// interrupt wakes whoever reads from the rack, and bounds a write to a client that does not read. A connection
// that is closed by now is awake already.
func (t *tunnel) interrupt() {
	_ = t.client.SetWriteDeadline(time.Now().Add(lingerGrace))
	_ = t.rack.SetReadDeadline(time.Unix(1, 0))
}

// run carries bytes until the session is over, and closes both sides.
func (t *tunnel) run() {
	t.exitCode = -1
	upstream := make(chan error, 1)
	go func() {
		err := t.carryIn()
		// The client has gone (or the rack takes no more): that is the end of both.
		_ = t.rack.SetReadDeadline(time.Unix(1, 0))
		upstream <- err
	}()

	err := t.carryOut()
	if t.speaks == speaksExitCode { // what looks like a marker in a log is what an app wrote
		t.exitCode = t.follower.exitCode
	}
	t.lastWords(err)
	_ = t.rack.Close() // also ends carryIn's writing

	// A client that has not read its last words yet loses them when its unread input makes the kernel
	// reset the connection: let it hang up first, for a while.
	if half, ok := t.client.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = t.client.SetReadDeadline(time.Now().Add(lingerGrace))
	<-upstream
	_, _ = io.Copy(io.Discard, t.client)
	_ = t.client.Close()
}

// carryIn carries what the client sends.
func (t *tunnel) carryIn() error {
	if len(t.early) > 0 {
		t.in.Add(int64(len(t.early)))
		_, err := t.rack.Write(t.early)
		t.early = nil
		if err != nil {
			return err
		}
	}
	return carry(t.rack, t.client, &t.in, nil)
}

// carryOut carries what the rack sends, reading along.
func (t *tunnel) carryOut() error {
	t.follower = newFrameFollower()
	return carry(t.client, t.rack, &t.out, &t.follower)
}

func carry(dst io.Writer, src io.Reader, count *atomic.Int64, follower *frameFollower) error {
	small := make([]byte, smallBuffer)
	var large *[]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	buf := small
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if follower != nil {
				follower.Follow(buf[:n])
			}
			count.Add(int64(n))
			if _, err := dst.Write(buf[:n]); err != nil {
				return fmt.Errorf("%w: %w", errTakerGone, err)
			}
		}
		if err != nil {
			return err
		}
		switch {
		case n == len(buf) && large == nil:
			large = largeBuffers.Get().(*[]byte)
			buf = *large
		case n < smallBuffer && large != nil:
			largeBuffers.Put(large)
			large, buf = nil, small
		}
	}
}

// lastWords tells the client why the session is over, when nobody else has.
func (t *tunnel) lastWords(err error) {
	var message string
	switch ending := t.ending.Load(); {
	case t.follower.sawEOF:
		return // the rack had said that it was done, and the client knows
	case ending != nil:
		message, t.cause = *ending, *ending
	case errors.Is(err, errTakerGone), errors.Is(err, os.ErrDeadlineExceeded):
		t.cause = "the client hung up"
		return
	default:
		message = "the rack closed the connection before the session was over: run the command again, and look at the app's logs if it goes on"
		t.cause = "the rack closed the connection"
	}
	if t.speaks == speaksNothing {
		return
	}
	now := time.Now()
	_ = t.client.SetWriteDeadline(now.Add(lingerGrace))
	_ = t.rack.SetReadDeadline(now.Add(frameGrace))
	if !t.follower.BetweenFrames() || t.follower.inMessage {
		counted := countingWriter{t.client, &t.out}
		if err := t.follower.finishFrame(counted, t.rack, make([]byte, smallBuffer)); err != nil {
			return // in mid-frame nothing can be said
		}
	}
	code := -1
	if t.speaks == speaksExitCode {
		code = 1
		t.exitCode = 1
	}
	words := appendEnding(nil, "\r\nERROR: "+printable(message)+"\r\n", code)
	n, _ := t.client.Write(words) // a client that is gone hears nothing
	t.out.Add(int64(n))
}

type countingWriter struct {
	io.Writer
	n *atomic.Int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n.Add(int64(n))
	return n, err
}
