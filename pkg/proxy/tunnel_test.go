package proxy

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/rack"
)

// ends are the two ends of a TCP connection over loopback.
func ends(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	dialled := make(chan net.Conn, 1)
	go func() {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialled <- conn
	}()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, far = accepted.(*net.TCPConn), (<-dialled).(*net.TCPConn)
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	deadline := time.Now().Add(20 * time.Second)
	_ = far.SetDeadline(deadline)
	return near, far
}

// session is a tunnel under way, seen from its two ends.
type session struct {
	*tunnel
	client, rackEnd *net.TCPConn
	over            chan struct{}
}

func startSession(t *testing.T, speaks speech, early string) *session {
	t.Helper()
	clientSide, client := ends(t)
	rackSide, rackEnd := ends(t)
	s := &session{
		tunnel: &tunnel{speaks: speaks},
		client: client, rackEnd: rackEnd, over: make(chan struct{}),
	}
	s.wire(clientSide, []byte(early), rackSide)
	go func() { s.run(); close(s.over) }()
	return s
}

func (s *session) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.over:
	case <-time.After(20 * time.Second):
		t.Fatal("the tunnel did not end")
	}
}

// rest reads what the client gets until the connection ends.
func (s *session) rest(t *testing.T) string {
	t.Helper()
	p, err := io.ReadAll(s.client)
	if err != nil {
		t.Fatalf("reading as the client: %v", err)
	}
	return string(p)
}

func send(t *testing.T, to io.Writer, p []byte) {
	t.Helper()
	if _, err := to.Write(p); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, from io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); err != nil {
		t.Fatalf("want %q: %v", want, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

const lastWordsOf = "\x81" // text frames of the gateway begin so

func TestTunnelCarriesEveryByteBothWaysAndWhatCameEarly(t *testing.T) {
	s := startSession(t, speaksExitCode, "early ")
	in := bytes.Repeat([]byte{0, 255, 'a'}, 100_000)
	go func() { _, _ = s.client.Write(in) }()
	expect(t, s.rackEnd, append([]byte("early "), in...))
	out := appendFrame(nil, opText, true, bytes.Repeat([]byte{1, 254}, 200_000))
	go func() { _, _ = s.rackEnd.Write(out) }()
	expect(t, s.client, out)
	_ = s.client.Close()
	s.wait(t)
	if s.in.Load() != int64(len(in))+6 || s.out.Load() != int64(len(out)) {
		t.Errorf("counted %d in and %d out, want %d and %d", s.in.Load(), s.out.Load(), len(in)+6, len(out))
	}
	if s.cause != "the client hung up" {
		t.Errorf("cause is %q", s.cause)
	}
}

func TestTunnelEndsBothSidesWhenTheClientHangsUp(t *testing.T) {
	s := startSession(t, speaksText, "")
	_ = s.client.Close()
	s.wait(t)
	if p, err := io.ReadAll(s.rackEnd); err != nil || len(p) > 0 {
		t.Errorf("the rack read %q, %v; want its end closed", p, err)
	}
}

func TestTunnelAddsNothingWhenTheRackHadSaidItWasDone(t *testing.T) {
	s := startSession(t, speaksExitCode, "")
	words := stream()
	send(t, s.rackEnd, words)
	_ = s.rackEnd.Close()
	if got := s.rest(t); got != string(words) {
		t.Errorf("the client got %d bytes, the rack sent %d", len(got), len(words))
	}
	_ = s.client.Close()
	s.wait(t)
	if s.exitCode != 7 || s.cause != "" {
		t.Errorf("exit code %d, cause %q; want 7 and none", s.exitCode, s.cause)
	}
}

func TestTunnelTellsAnExecThatTheRackWasLost(t *testing.T) {
	s := startSession(t, speaksExitCode, "")
	output := appendFrame(nil, opText, true, []byte("output\n"))
	send(t, s.rackEnd, output)
	_ = s.rackEnd.Close()
	got := s.rest(t)
	_ = s.client.Close()
	s.wait(t)
	marker := string(appendFrame(appendFrame(nil, opText, true, []byte(rack.ExitMarker+"1\n")), opBinary, true, nil))
	if !strings.HasPrefix(got, string(output)+lastWordsOf) || !strings.HasSuffix(got, marker) || !strings.Contains(got, "ERROR: the rack closed the connection") {
		t.Errorf("the client got %q", got)
	}
	if s.exitCode != 1 {
		t.Errorf("exit code %d, want 1", s.exitCode)
	}
}

func TestTunnelEndedByTheGatewaySpeaksAtAFrameBoundary(t *testing.T) {
	s := startSession(t, speaksExitCode, "")
	frame := appendFrame(nil, opText, true, []byte("a line that is under way\n"))
	send(t, s.rackEnd, frame[:9])
	expect(t, s.client, frame[:9])
	s.end("your access was changed")
	s.end("a second reason that comes too late")
	send(t, s.rackEnd, frame[9:])
	want := string(frame[9:]) + string(appendEnding(nil, "\r\nERROR: your access was changed\r\n", 1))
	if got := s.rest(t); got != want {
		t.Errorf("the client got %q, want %q", got, want)
	}
	_ = s.client.Close()
	s.wait(t)
	if s.cause != "your access was changed" {
		t.Errorf("cause is %q", s.cause)
	}
}

func TestTunnelEndsALogWithoutAMarker(t *testing.T) {
	s := startSession(t, speaksText, "")
	s.end("100% restarted")
	want := string(appendEnding(nil, "\r\nERROR: 100_ restarted\r\n", -1))
	if got := s.rest(t); got != want {
		t.Errorf("the client got %q, want %q", got, want)
	}
	_ = s.client.Close()
	s.wait(t)
}

func TestTunnelWritesNothingOfItsOwnIntoRawTCP(t *testing.T) {
	s := startSession(t, speaksNothing, "")
	s.end("your access was changed")
	if got := s.rest(t); got != "" {
		t.Errorf("the client got %q", got)
	}
	_ = s.client.Close()
	s.wait(t)
}

func TestTunnelEndsThoughNobodyReads(t *testing.T) {
	s := startSession(t, speaksExitCode, "")
	_ = s.rackEnd.SetWriteDeadline(time.Time{})
	go func() { // until the tunnel closes it
		for {
			if _, err := s.rackEnd.Write(appendFrame(nil, opText, true, bytes.Repeat([]byte("x"), 60_000))); err != nil {
				return
			}
		}
	}()
	// The client never reads: the tunnel's write to it blocks once the kernel's buffers are full.
	for last := int64(-1); last != s.out.Load(); {
		last = s.out.Load()
		time.Sleep(50 * time.Millisecond) // what is waited for is that nothing happens any more
	}
	s.end("your access was changed")
	s.wait(t)
}

func TestRefusedSessionEndsForAClientThatKeepsSending(t *testing.T) {
	s := startSession(t, speaksExitCode, "")
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for {
			if _, err := s.client.Write([]byte("ping")); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, s.rackEnd) }()
	s.end("over")
	want := appendEnding(nil, "\r\nERROR: over\r\n", 1)
	expect(t, s.client, want)
	s.wait(t)
	<-stop
}
