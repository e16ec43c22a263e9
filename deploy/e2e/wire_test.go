package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/convoxclient"
	"rackgateway/pkg/racktest/wire"
	"rackgateway/pkg/testenv"
)

const (
	megabyte = 1 << 20

	// streamed is how much the proxy's memory may grow by a transfer of any size: buffers, and what the garbage
	// collector leaves for later.
	streamed = 24 * megabyte
)

// wireSide is a gateway side for what goes over the wire, with no command line.
func wireSide(t *testing.T) *side {
	t.Helper()
	return newSide(t, kind{"own", installOwn}, gateway, sideOptions{})
}

// peak is the most memory that the proxy ever had in use.
func (s *side) peak() int64 {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.env.Proxies[0].PID()))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return kilobytes << 10
}

// upload sends bytes to a path and returns their hash.
func (s *side) upload(method, path string, size int64, chunked bool) (sum string) {
	s.t.Helper()
	h := sha256.New()
	body := io.TeeReader(racktest.RandomBytes(size, 11), h)
	announced := size
	if chunked {
		announced = -1
	}
	if err := s.client().Upload(s.ctx, method, path, nil, body, announced, nil); err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// arrivedAs is the journal's last request of a path, when it is done.
func (s *side) arrivedAs(path string) racktest.Request {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	r, err := s.rack.AwaitRequest(ctx, func(r racktest.Request) bool { return r.Done && r.Path == path })
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func TestUploadsAreStreamed(t *testing.T) {
	t.Parallel()
	s := wireSide(t)
	s.upload(http.MethodPost, "/apps/demo/objects/tmp/small.tgz", megabyte, false)
	before := s.peak()
	for _, up := range []struct {
		method, path string
		size         int64
		chunked      bool
	}{
		{http.MethodPost, "/apps/demo/objects/tmp/large.tgz", 200 * megabyte, false},
		{http.MethodPut, "/apps/demo/resources/database/data", 50 * megabyte, true},
	} {
		sum := s.upload(up.method, up.path, up.size, up.chunked)
		got := s.arrivedAs(up.path)
		if got.BodyBytes != up.size || got.BodySHA256 != sum {
			t.Errorf("%s: %d bytes with the sum %s arrived, of %d with %s", up.path, got.BodyBytes, got.BodySHA256, up.size, sum)
		}
	}
	if grown := s.peak() - before; grown > streamed {
		t.Errorf("the uploads made the proxy grow by %d MB", grown/megabyte)
	}
	finished := s.env.WaitEvents(1, testenv.Filter{Action: "object.store-temporary", Phase: "finished", App: "demo"})
	if got := finished[len(finished)-1].Text("bytes_in"); got != strconv.Itoa(200*megabyte) && got != "2.097152e+08" {
		t.Errorf("recorded are %s bytes", got)
	}
	account(t, s.env)
}

func TestDownloadsAreStreamed(t *testing.T) {
	t.Parallel()
	s := wireSide(t)
	const size = 50 * megabyte
	if err := s.rack.PutObject("demo", "large.bin", racktest.RandomBytes(size, 12)); err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	if _, err := io.Copy(want, racktest.RandomBytes(size, 12)); err != nil {
		t.Fatal(err)
	}
	if err := s.client().Get(s.ctx, "/apps", nil, nil); err != nil {
		t.Fatal(err)
	}
	before := s.peak()
	got := sha256.New()
	if err := s.client().Download(s.ctx, "/apps/demo/objects/large.bin", nil, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("other bytes came than were sent")
	}
	if grown := s.peak() - before; grown > streamed {
		t.Errorf("the download made the proxy grow by %d MB", grown/megabyte)
	}

	s.rack.Inject(racktest.Fault{Path: "/apps/demo/objects/large.bin", Times: 1, Cut: true, CutAfter: 10 * megabyte})
	if err := s.client().Download(s.ctx, "/apps/demo/objects/large.bin", nil, io.Discard); err == nil {
		t.Error("a download that the rack cut off came as a whole one")
	}
	s.env.WaitEvents(1, testenv.Filter{Action: "object.fetch", Phase: "cut"})
	s.env.WaitEvents(1, testenv.Filter{Action: "object.fetch", Phase: "finished"})
}

func TestAnUploadThatIsRefusedEarlyIsToldWhy(t *testing.T) {
	t.Parallel()
	s := wireSide(t)
	for range 3 {
		client, err := convoxclient.New(s.env.RackURL("viewer"))
		if err != nil {
			t.Fatal(err)
		}
		err = client.Upload(s.ctx, http.MethodPost, "/apps/demo/objects/tmp/large.tgz", nil, racktest.RandomBytes(200*megabyte, 1), 200*megabyte, nil)
		client.Close()
		var refused *convoxclient.Error
		if !errors.As(err, &refused) || refused.Status != http.StatusForbidden || !strings.Contains(refused.Text, "object:create") {
			t.Errorf("the upload ended with %v", err)
		}
	}
	if n := s.rack.RouteCounts()["POST /apps/{app}/objects/{key:.*}"]; n != 0 {
		t.Errorf("the rack saw %d uploads", n)
	}
}

func TestSessionsCarryBytesUnchangedBothWays(t *testing.T) {
	t.Parallel()
	s := wireSide(t)
	sent, err := io.ReadAll(racktest.RandomBytes(megabyte, 13))
	if err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	path := "/apps/demo/processes/" + s.pid("web") + "/exec"
	code, err := s.client().Interact(s.ctx, path, map[string]string{"Command": "cat", "Tty": "false"}, bytes.NewReader(sent), &back)
	if err != nil || code != 0 {
		t.Fatalf("exit %d, %v", code, err)
	}
	if !bytes.Equal(back.Bytes(), sent) {
		t.Errorf("%d bytes came back of %d, or others", back.Len(), len(sent))
	}

	// A raw port carries them as well, with nothing of ours in between.
	resource, err := url.Parse(s.rack.ResourceURL("demo", "cache"))
	if err != nil {
		t.Fatal(err)
	}
	var lines, want bytes.Buffer
	for i := range 1000 {
		word := hex.EncodeToString(sent[i*500 : i*500+500])
		fmt.Fprintf(&lines, "ECHO %s\r\n", word)
		fmt.Fprintf(&want, "$%d\r\n%s\r\n", len(word), word)
	}
	lines.WriteString("QUIT\r\n")
	want.WriteString("+OK\r\n")
	socket, err := s.client().Socket(s.ctx, "/proxy/"+resource.Hostname()+"/"+resource.Port(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	sending := make(chan error, 1)
	go func() { sending <- socket.Send(&lines) }()
	back.Reset()
	if err := socket.Copy(&back); err != nil {
		t.Fatal(err)
	}
	if err := <-sending; err != nil {
		t.Log("the rest of the input: ", err) // the rack closes when it has said its last
	}
	if !bytes.Equal(back.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes came back of %d, or others", back.Len(), want.Len())
	}
	account(t, s.env)
}

// TestFramesArriveAsTheRackMadeThem compares every frame of a session, direct and through the gateway.
func TestFramesArriveAsTheRackMadeThem(t *testing.T) {
	t.Parallel()
	frames := func(m mode) (out []string) {
		s := newSide(t, kind{"own", installOwn}, m, sideOptions{})
		socket, err := s.client().Socket(s.ctx, "/apps/demo/processes/"+s.pid("web")+"/exec", map[string]string{"Command": "random 400000 3 30000", "Tty": "false"})
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		for {
			f, err := socket.ReadFrame(megabyte)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("fin %v op %d, %d bytes, %x", f.Fin, f.Op, len(f.Payload), sha256.Sum256(f.Payload)))
			if f.Op == wire.OpBinary {
				return out
			}
		}
	}
	want, got := frames(direct), frames(gateway)
	if len(want) < 10 {
		t.Fatalf("the session had %d frames only", len(want))
	}
	if d := difference(strings.Join(want, "\n"), strings.Join(got, "\n")); d != "" {
		t.Error(d)
	}
}

// TestWhatFollowsAnUpgradeAtOnceIsKept sends frames behind the request, before the answer is there.
func TestWhatFollowsAnUpgradeAtOnceIsKept(t *testing.T) {
	t.Parallel()
	s := wireSide(t)
	conn, err := tls.Dial("tcp", s.host(), &tls.Config{RootCAs: s.env.CA()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var first bytes.Buffer
	fmt.Fprintf(&first, "GET /apps/demo/processes/web/exec HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\nCommand: cat\r\nTty: false\r\n"+
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		s.host(), base64.StdEncoding.EncodeToString([]byte("convox:"+s.env.Token("admin"))), wire.NewKey())
	early := wire.NewConn(&oneWay{Conn: conn, to: &first}, bufio.NewReader(strings.NewReader("")), true)
	if err := errors.Join(early.WriteText([]byte("early bird\n")), early.WriteText([]byte("second\n")), early.WriteEOF()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(first.Bytes()); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	socket := wire.NewConn(conn, reader, true)
	var said strings.Builder
	for {
		f, err := socket.ReadFrame(megabyte)
		if err != nil {
			t.Fatalf("after %q: %v", said.String(), err)
		}
		if f.Op == wire.OpBinary {
			break
		}
		said.Write(f.Payload)
	}
	if want := "early bird\nsecond\n" + wire.ExitMarker + "0\n"; said.String() != want {
		t.Errorf("the session said %q, want %q", said.String(), want)
	}
}

// oneWay takes what is written to a connection somewhere else.
type oneWay struct {
	net.Conn
	to io.Writer
}

func (c *oneWay) Write(p []byte) (int, error) { return c.to.Write(p) }

func TestHangingUpEndsTheRequestAtTheRack(t *testing.T) {
	t.Parallel()
	s := wireSide(t)
	s.rack.Inject(racktest.Fault{Path: "/apps/demo/services", Hang: true})
	ctx, hangUp := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.client().Get(ctx, "/apps/demo/services", nil, nil) }()
	if _, err := s.rack.AwaitRequest(s.ctx, func(r racktest.Request) bool { return r.Path == "/apps/demo/services" }); err != nil {
		t.Fatal(err)
	}
	hangUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
	s.arrivedAs("/apps/demo/services")
	told := s.env.WaitEvents(1, testenv.Filter{Action: "service.list", Phase: "finished"})
	if got := told[0].Text("code"); got != "client-hung-up" {
		t.Errorf("recorded is %q", got)
	}
	account(t, s.env)
}

func TestClosingATerminalEndsTheSessionAtTheRack(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		s := newSide(t, k, gateway, sideOptions{})
		for _, args := range [][]string{{"exec", "web", "sh -c 'echo ready; sleep 1000'"}, {"logs"}} {
			session := s.start(args...)
			want := "ready"
			if args[0] == "logs" {
				want = "listening"
			}
			session.await(want)
			session.kill()
			ctx, cancel := context.WithTimeout(s.ctx, patience)
			if err := s.rack.AwaitSockets(ctx, 0); err != nil {
				t.Errorf("%s, %s: the rack's socket is still open: %v", k.name, args[0], err)
			}
			cancel()
		}
		account(t, s.env)
	}
}
