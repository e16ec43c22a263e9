package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"rackgateway/pkg/rack"
)

// stream is a rack's side of a session: an output in two fragments, an exit marker, and EOF.
func stream() []byte {
	var b []byte
	b = appendFrame(b, opText, false, bytes.Repeat([]byte{0xff, 0x00, 'x'}, 9000))
	b = appendFrame(b, opContinuation, true, nil)
	b = appendFrame(b, opText, true, []byte("short\xfe"))
	b = appendFrame(b, 0x9, true, []byte("ping"))
	b = appendFrame(b, opText, true, bytes.Repeat([]byte("y"), 300))
	b = appendFrame(b, opText, true, []byte(rack.ExitMarker+"7\n"))
	return appendFrame(b, opBinary, true, nil)
}

func TestFollowerReadsAlongWhateverTheSizeOfThePieces(t *testing.T) {
	whole := stream()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		f := newFrameFollower()
		for rest := whole; len(rest) > 0; {
			n := min(1+random.IntN(400), len(rest))
			f.Follow(rest[:n])
			rest = rest[n:]
		}
		if !f.BetweenFrames() || f.inMessage || !f.sawEOF || f.exitCode != 7 {
			t.Fatalf("after the stream: between frames %v, in message %v, EOF %v, exit code %d",
				f.BetweenFrames(), f.inMessage, f.sawEOF, f.exitCode)
		}
	}
}

func TestFollowerKnowsWhereFramesAndMessagesEnd(t *testing.T) {
	f := newFrameFollower()
	head := appendFrame(nil, opText, false, []byte("abc"))
	f.Follow(head[:2])
	if f.BetweenFrames() {
		t.Error("between frames in the middle of one")
	}
	f.Follow(head[2:])
	if !f.BetweenFrames() || !f.inMessage {
		t.Error("a first fragment should end between frames, within a message")
	}
	f.Follow(appendFrame(nil, 0xA, true, []byte("pong"))) // control frames may stand between fragments
	if !f.inMessage {
		t.Error("a control frame ended the message")
	}
	f.Follow(appendFrame(nil, opContinuation, true, []byte("d")))
	if f.inMessage || f.sawEOF {
		t.Error("the message should have ended, and it was not EOF")
	}
}

func TestFollowerTakesAnExitCodeOnlyFromAMarkerOfItsOwn(t *testing.T) {
	for text, want := range map[string]int{
		rack.ExitMarker + "0\n":       0,
		rack.ExitMarker + "137\n":     137,
		"x" + rack.ExitMarker + "3\n": -1,
		rack.ExitMarker + "-1\n":      -1,
		rack.ExitMarker + "3\nmore":   -1,
		rack.ExitMarker:               -1,
		rack.ExitMarker + "\n":        -1,
		rack.ExitMarker + "99999\n":   -1,
	} {
		f := newFrameFollower()
		f.Follow(appendFrame(nil, opText, true, []byte(text)))
		if f.exitCode != want {
			t.Errorf("exit code of %q is %d, want %d", text, f.exitCode, want)
		}
	}
}

func TestFinishFrameStopsBetweenMessages(t *testing.T) {
	whole := append(appendFrame(nil, opText, false, []byte("first fragment")), appendFrame(nil, opText, true, []byte("next"))...)
	f := newFrameFollower()
	f.Follow(whole[:5])
	var out bytes.Buffer
	out.Write(whole[:5])
	src := iotest.OneByteReader(bytes.NewReader(whole[5:]))
	if err := f.finishFrame(&out, src, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	want := append(appendFrame(nil, opText, false, []byte("first fragment")), appendFrame(nil, opContinuation, true, nil)...)
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("sent %q, want %q", out.Bytes(), want)
	}
}

func TestFinishFrameGivesUpWhenTheRackStopsInMidFrame(t *testing.T) {
	f := newFrameFollower()
	f.Follow([]byte{0x81, 10, 'a'})
	if err := f.finishFrame(io.Discard, bytes.NewReader(nil), make([]byte, 8)); err == nil {
		t.Error("no error, though the frame never ended")
	}
}

// FuzzFollower holds that whatever a rack sends, following it in one piece or byte by byte comes to the same.
func FuzzFollower(f *testing.F) {
	f.Add(stream())
	f.Add([]byte{0x83, 0x00})
	f.Add([]byte{0x81, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, p []byte) {
		whole, single := newFrameFollower(), newFrameFollower()
		whole.Follow(p)
		for i := range p {
			single.Follow(p[i : i+1])
		}
		if whole != single {
			t.Fatalf("in one piece %+v, byte by byte %+v", whole, single)
		}
	})
}
