// The line discipline of a terminal: echo, line editing, ^C and ^D, and carriage returns on the way out.

package racktest

import (
	"errors"
	"io"
	"sync"
	"unicode/utf8"
)

// errInterrupted is what a pending Read returns after ^C.
var errInterrupted = errors.New("interrupted")

// terminal sits between a socket and a command.
type terminal struct {
	out io.Writer

	mu        sync.Mutex
	changed   *sync.Cond
	line      []byte   // being edited
	queue     [][]byte // complete lines; an empty one is ^D
	err       error    // why the input ended
	interrupt func()   // what ^C does
	broken    bool     // ^C was pressed and no Read has told yet
	reading   bool
}

func newTerminal(in io.Reader, out io.Writer) *terminal {
	t := &terminal{out: out}
	t.changed = sync.NewCond(&t.mu)
	// It ends with its input: the socket's Read ends with the handler.
	go t.pump(in)
	return t
}

func (t *terminal) pump(in io.Reader) {
	buf := make([]byte, 1024)
	for {
		n, err := in.Read(buf)
		for _, b := range buf[:n] {
			t.key(b)
		}
		if err != nil {
			t.mu.Lock()
			if len(t.line) > 0 {
				t.queue = append(t.queue, t.line)
				t.line = nil
			}
			t.err = err
			t.changed.Broadcast()
			t.mu.Unlock()
			return
		}
	}
}

// key takes one byte of input in, and echoes.
func (t *terminal) key(b byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.changed.Broadcast()
	switch b {
	case '\r', '\n':
		t.queue = append(t.queue, append(t.line, '\n'))
		t.line = nil
		t.echo("\r\n")
	case 0x7f, '\b':
		if len(t.line) > 0 {
			_, size := utf8.DecodeLastRune(t.line)
			t.line = t.line[:len(t.line)-size]
			t.echo("\b \b")
		}
	case 0x03:
		t.line = nil
		t.echo("^C\r\n")
		t.broken = t.reading
		if t.interrupt != nil {
			t.interrupt()
		}
	case 0x04:
		t.queue = append(t.queue, t.line)
		t.line = nil
	default:
		t.line = append(t.line, b)
		t.echo(string([]byte{b}))
	}
}

func (t *terminal) echo(s string) { io.WriteString(t.out, s) } //nolint:errcheck // the peer is gone, then

// onInterrupt says what ^C does from now on.
func (t *terminal) onInterrupt(fn func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.interrupt = fn
}

// Read returns at most one line.
func (t *terminal) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reading = true
	defer func() { t.reading = false }()
	for len(t.queue) == 0 && t.err == nil && !t.broken {
		t.changed.Wait()
	}
	switch {
	case t.broken:
		t.broken = false
		return 0, errInterrupted
	case len(t.queue) == 0:
		return 0, t.err
	case len(t.queue[0]) == 0:
		t.queue = t.queue[1:]
		return 0, io.EOF
	}
	n := copy(p, t.queue[0])
	if t.queue[0] = t.queue[0][n:]; len(t.queue[0]) == 0 {
		t.queue = t.queue[1:]
	}
	return n, nil
}

// Write puts a carriage return before each newline.
func (t *terminal) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+16)
	for _, b := range p {
		if b == '\n' {
			out = append(out, '\r')
		}
		out = append(out, b)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.out.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
