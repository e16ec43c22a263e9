package racktest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/wire"
)

const webExec = "/apps/demo/processes/web/exec"

func command(c string) http.Header { return http.Header{"Command": {c}, "Tty": {"false"}} }

func TestSocketsUpgradeBeforeTheyAuthenticate(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	reader := http.Request{Header: http.Header{}}
	reader.SetBasicAuth("jwt", rack.Mint("x", "r", patience))
	wrong := http.Request{Header: http.Header{}}
	wrong.SetBasicAuth("convox", "wrong")
	for _, c := range []struct {
		name, path string
		header     http.Header
		want       []string
	}{
		{"wrong password", "/apps/demo/logs", wrong.Header, []string{"ERROR: invalid authentication\n"}},
		{"unknown app", "/apps/nope/logs", nil, []string{"ERROR: app not found: nope\n"}},
		{"a reader's exec", webExec, reader.Header, []string{"ERROR: process exec requires write access\n"}},
		{"a reader's console", "/apps/demo/resources/database/console", reader.Header, []string{"ERROR: resource console requires write access\n"}},
		{"a reader's proxy", "/proxy/echo.demo.local/7", reader.Header, []string{"ERROR: proxy requires write access\n"}},
		{"an unknown process: exit code 0 before the error", "/apps/demo/processes/nope/exec", command("true"), []string{wire.ExitMarker + "0\n", "ERROR: pods \"nope\" not found\n"}},
		{"a shell without a key", "/instances/ip-10-1-0-11.ec2.internal/shell", nil, []string{"ERROR: private key is not provided\n"}},
		{"a forbidden host", "/proxy/127.0.0.1/80", nil, []string{"ERROR: invalid proxy host\n"}},
		{"an unknown host", "/proxy/nowhere.example/80", nil, []string{"ERROR: dial tcp: lookup nowhere.example: no such host\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, res := dial(t, server, c.path, c.header)
			if conn == nil {
				t.Fatalf("not upgraded: %s", res.Status)
			}
			if got := untilEOF(t, conn); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTheUpgradeAnswersWithThreeHeadersOnly(t *testing.T) {
	_, server := start(t, racktest.Options{})
	_, res := dial(t, server, webExec, command("true"))
	var names []string
	for k := range res.Header {
		names = append(names, k)
	}
	slices.Sort(names)
	if want := []string{"Connection", "Sec-Websocket-Accept", "Upgrade"}; !slices.Equal(names, want) {
		t.Errorf("headers are %v, want %v", names, want)
	}
}

func TestAHandshakeThatIsNoneIsRefusedInTheLibrarysWords(t *testing.T) {
	_, server := start(t, racktest.Options{})
	for _, c := range []struct {
		name   string
		header http.Header
		status int
		body   string
	}{
		{"another origin", http.Header{"Origin": {"https://elsewhere.example"}}, 403, "Forbidden\nERROR: websocket: request origin not allowed by Upgrader.CheckOrigin\n"},
		{"no connection header", http.Header{"Connection": nil}, 400, "Bad Request\nERROR: websocket: the client is not using the websocket protocol: 'upgrade' token not found in 'Connection' header\n"},
		{"another version", http.Header{"Sec-WebSocket-Version": {"8"}}, 400, "Bad Request\nERROR: websocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header\n"},
		{"a short key", http.Header{"Sec-WebSocket-Key": {"YWJj"}}, 400, "Bad Request\nERROR: websocket: not a websocket handshake: 'Sec-WebSocket-Key' header must be Base64 encoded value of 16-byte in length\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, res := dial(t, server, webExec, c.header)
			if conn != nil {
				t.Fatal("upgraded")
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status || string(body) != c.body {
				t.Errorf("%d %q, want %d %q", res.StatusCode, body, c.status, c.body)
			}
		})
	}
	if conn, res := dial(t, server, webExec, http.Header{"Origin": {strings.ToUpper(server.URL())}, "Command": {"true"}}); conn == nil {
		t.Errorf("the same origin in capitals is refused: %s", res.Status)
	}
}

func TestExecCarriesBytesBothWaysAndAnExitCodeInItsOwnFrame(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	conn, _ := dial(t, server, webExec, command("sh -c 'cat; exit 7'"))
	sent := []byte("not UTF-8: \xff\xfe\x00\x80")
	if err := conn.WriteFrame(true, wire.OpText, sent); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, conn); f.Op != wire.OpText || !f.Fin || f.Masked || !bytes.Equal(f.Payload, sent) {
		t.Errorf("echoed as %+v", f)
	}
	if err := conn.WriteEOF(); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, conn); f.Op != wire.OpText || string(f.Payload) != wire.ExitMarker+"7\n" {
		t.Errorf("the exit code came as %q", f.Payload)
	}
	if f := frame(t, conn); f.Op != wire.OpBinary || len(f.Payload) != 0 {
		t.Errorf("the stream ended with %+v", f)
	}

	// Nobody closes: the connection is there until this side drops it.
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.ReadFrame(1); !timedOut(err) {
		t.Errorf("after its end the socket has %v", err)
	}
	if n := rack.OpenSockets(); n != 1 {
		t.Errorf("%d sockets are open, want this one", n)
	}
	conn.Close()
	if err := rack.AwaitSockets(within(t), 0); err != nil {
		t.Errorf("the rack has not noticed that the socket is gone: %v", err)
	}
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestTheExecCommandIsTakenFromTheQueryFirst(t *testing.T) {
	_, server := start(t, racktest.Options{})
	conn, _ := dial(t, server, webExec+"?command=echo+query", command("echo header"))
	if got := untilEOF(t, conn); got[0] != "query\n" {
		t.Errorf("ran %q", got)
	}
}

func TestBytesRightBehindTheUpgradeAreNotLost(t *testing.T) {
	_, server := start(t, racktest.Options{})
	raw, err := net.Dial("tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(patience))
	var early bytes.Buffer
	c := wire.NewConn(bufferConn{&early}, nil, true)
	if err := errors.Join(c.WriteFrame(true, wire.OpText, []byte("early")), c.WriteEOF()); err != nil {
		t.Fatal(err)
	}
	conn, _ := handshake(t, raw, server, webExec, command("cat"), early.Bytes())
	if got := untilEOF(t, conn); got[0] != "early" {
		t.Errorf("got %q", got)
	}
}

// bufferConn is a connection that only takes.
type bufferConn struct{ b *bytes.Buffer }

func (c bufferConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (c bufferConn) Write(p []byte) (int, error)      { return c.b.Write(p) }
func (c bufferConn) Close() error                     { return nil }
func (c bufferConn) LocalAddr() net.Addr              { return nil }
func (c bufferConn) RemoteAddr() net.Addr             { return nil }
func (c bufferConn) SetDeadline(time.Time) error      { return nil }
func (c bufferConn) SetReadDeadline(time.Time) error  { return nil }
func (c bufferConn) SetWriteDeadline(time.Time) error { return nil }

func TestLargeMessagesAreFragmentedAsTheLibraryDoes(t *testing.T) {
	_, server := start(t, racktest.Options{})
	type piece struct {
		op   byte
		fin  bool
		size int
	}
	for _, c := range []struct {
		command string
		want    []piece
	}{
		{"random 10240 1 10240", []piece{{wire.OpText, true, 10240}}},
		{"random 10241 1 10241", []piece{{wire.OpText, false, 10240}, {wire.OpContinuation, true, 1}}},
		{"random 20508 1 20508", []piece{{wire.OpText, false, 10240}, {wire.OpContinuation, false, 10240}, {wire.OpContinuation, true, 28}}},
		{"random 25002 1 25002", []piece{{wire.OpText, false, 25002}, {wire.OpContinuation, true, 0}}},
	} {
		t.Run(c.command, func(t *testing.T) {
			conn, _ := dial(t, server, webExec, command(c.command))
			var got []piece
			for range c.want {
				f := frame(t, conn)
				got = append(got, piece{f.Op, f.Fin, len(f.Payload)})
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("frames %v, want %v", got, c.want)
			}
		})
	}
}

func TestOnlySocketsThatReadAnswerPings(t *testing.T) {
	_, server := start(t, racktest.Options{})
	ping := func(c *wire.Conn) error { return c.WriteFrame(true, wire.OpPing, []byte("p")) }

	exec, _ := dial(t, server, webExec, command("cat"))
	if err := ping(exec); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, exec); f.Op != wire.OpPong || string(f.Payload) != "p" {
		t.Errorf("exec answers a ping with %+v", f)
	}

	logs, _ := dial(t, server, "/apps/demo/logs", http.Header{"Since": {"100h"}})
	frame(t, logs) // the log is being followed
	if err := ping(logs); err != nil {
		t.Fatal(err)
	}
	logs.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if f, err := logs.ReadFrame(1 << 10); !timedOut(err) {
		t.Errorf("a log socket answers a ping with %+v, %v", f, err)
	}

	// After the peer's end of stream the rack reads no more, and answers no more.
	still, _ := dial(t, server, webExec, command("sh -c 'cat; sleep 60'"))
	if err := errors.Join(still.WriteEOF(), ping(still)); err != nil {
		t.Fatal(err)
	}
	still.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if f, err := still.ReadFrame(1 << 10); !timedOut(err) {
		t.Errorf("a socket whose stream has ended answers a ping with %+v, %v", f, err)
	}
}

func TestACloseFrameIsAnswered(t *testing.T) {
	_, server := start(t, racktest.Options{})
	conn, _ := dial(t, server, webExec, command("cat"))
	if err := conn.WriteFrame(true, wire.OpClose, []byte{0x03, 0xe8}); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, conn); f.Op != wire.OpClose || !bytes.Equal(f.Payload, []byte{0x03, 0xe8}) {
		t.Errorf("answered with %+v", f)
	}
	if f := frame(t, conn); string(f.Payload) != wire.ExitMarker+"0\n" {
		t.Errorf("the command ended with %q", f.Payload)
	}
}

func TestProtocolErrorsAreAnsweredWith1002(t *testing.T) {
	_, server := start(t, racktest.Options{})
	for name, bytes := range map[string][]byte{
		"unmasked":                 {0x81, 0x01, 'x'},
		"reserved bit":             {0xc1, 0x81, 0, 0, 0, 0, 'x'},
		"fragmented ping":          {0x09, 0x80, 0, 0, 0, 0},
		"continuation of nothing":  {0x80, 0x81, 0, 0, 0, 0, 'x'},
		"text inside of a message": {0x01, 0x81, 0, 0, 0, 0, 'x', 0x81, 0x81, 0, 0, 0, 0, 'y'},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := dial(t, server, webExec, command("cat"))
			if _, err := conn.Conn.Write(bytes); err != nil {
				t.Fatal(err)
			}
			for {
				f := frame(t, conn)
				if f.Op == wire.OpText && len(f.Payload) == 1 {
					continue // the first fragment, echoed
				}
				if f.Op != wire.OpClose || f.Payload[0] != 0x03 || f.Payload[1] != 0xea {
					t.Errorf("answered with %+v", f)
				}
				return
			}
		})
	}
}

func TestLogSocketsFollowUntilTheyAreToldNotTo(t *testing.T) {
	rack, server := start(t, racktest.Options{LogEvery: time.Millisecond})
	follow, _ := dial(t, server, "/apps/demo/logs", nil)
	for range 3 {
		if f := frame(t, follow); !strings.HasSuffix(string(f.Payload), "\n") || !strings.Contains(string(f.Payload), " service/web/web-") {
			t.Fatalf("a line is %q", f.Payload)
		}
	}
	for name, c := range map[string]struct {
		path   string
		header http.Header
		check  func([]string) bool
	}{
		"tail":    {"/apps/demo/logs", http.Header{"Follow": {"false"}, "Tail": {"2"}}, func(l []string) bool { return len(l) == 2 }},
		"filter":  {"/apps/demo/logs", http.Header{"Follow": {"false"}, "Filter": {"listening"}, "Since": {"100h"}}, func(l []string) bool { return len(l) == 1 }},
		"service": {"/apps/demo/services/none/logs", http.Header{"Follow": {"false"}}, func(l []string) bool { return len(l) == 0 }},
		"plain":   {"/apps/demo/services/web/logs", http.Header{"Follow": {"false"}, "Prefix": {"false"}}, func(l []string) bool { return len(l) > 0 && !strings.Contains(l[0], "service/") }},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := dial(t, server, c.path, c.header)
			if got := untilEOF(t, conn); !c.check(got) {
				t.Errorf("got %q", got)
			}
		})
	}
	if err := rack.AwaitSockets(within(t), 1); err != nil {
		t.Fatal(err)
	}
	follow.Close()
	if err := rack.AwaitSockets(within(t), 0); err != nil {
		t.Errorf("the rack has not noticed that the reader of a log is gone: %v", err)
	}
}

func TestASessionEndsWithItsProcess(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	pid, err := rack.AwaitProcess(within(t), "demo", "web")
	if err != nil {
		t.Fatal(err)
	}
	conn, _ := dial(t, server, "/apps/demo/processes/"+pid+"/exec", command("sh -c 'echo up; cat'"))
	if f := frame(t, conn); string(f.Payload) != "up\n" {
		t.Fatalf("got %q", f.Payload)
	}
	if got := ask(t, server, "DELETE", "/apps/demo/processes/"+pid, "", nil); got.body != "ok\n" {
		t.Fatal(got.body)
	}
	if got := untilEOF(t, conn); !slices.Equal(got, []string{wire.ExitMarker + "137\n"}) {
		t.Errorf("the session ended with %q", got)
	}
}

func TestATerminalEchoesEditsAndInterrupts(t *testing.T) {
	_, server := start(t, racktest.Options{})
	conn, _ := dial(t, server, webExec, http.Header{"Command": {"sh"}})
	read := func(want string) {
		t.Helper()
		got := ""
		for !strings.HasSuffix(got, want) {
			f, err := conn.ReadFrame(1 << 10)
			if err != nil {
				t.Fatalf("the terminal shows %q and then %v; want %q", got, err, want)
			}
			got += string(f.Payload)
		}
	}
	send := func(s string) {
		t.Helper()
		if err := conn.WriteFrame(true, wire.OpText, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	read("/app # ")
	send("echo hellp\x7fo\r")
	read("hellp\b \bo\r\nhello\r\n/app # ")
	send("echo up; sleep 60\r")
	read("echo up; sleep 60\r\nup\r\n") // now there is something to interrupt
	send("\x03")
	read("^C\r\n/app # ")
	send("exit 3\r")
	read("exit 3\r\n" + wire.ExitMarker + "3\n")
}

func TestProxySocketsCarryRawBytesAndAreClosedByTheRack(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	conn, _ := dial(t, server, "/proxy/echo.demo.local/7", nil)
	payload := bytes.Repeat([]byte{0, 0xff, '\n', 0x80}, 4096)
	if err := errors.Join(conn.WriteFrame(true, wire.OpText, payload), conn.WriteEOF()); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		f, err := conn.ReadFrame(1 << 20)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the connection ended with %v", err)
			}
			break
		}
		if f.Op != wire.OpText && f.Op != wire.OpContinuation {
			t.Errorf("a frame of kind %d: the rack sends no end of stream here", f.Op)
		}
		got = append(got, f.Payload...)
	}
	if !bytes.Equal(got, payload) {
		t.Errorf("%d bytes came back, changed; sent %d", len(got), len(payload))
	}
	if rack.OpenSockets() > 1 {
		t.Errorf("%d sockets are open", rack.OpenSockets())
	}
}

func TestResourcesAnswerOverTheProxy(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	host := func(name string) string {
		u := rack.ResourceURL("demo", name)
		h := u[strings.LastIndex(u, "@")+1:]
		h, _, _ = strings.Cut(h, "/")
		return strings.Replace(h, ":", "/", 1)
	}
	redis, _ := dial(t, server, "/proxy/"+host("cache"), nil)
	if err := redis.WriteFrame(true, wire.OpText, []byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, redis); string(f.Payload) != "+PONG\r\n" {
		t.Errorf("redis says %q", f.Payload)
	}
	postgres, _ := dial(t, server, "/proxy/"+host("database"), nil)
	if err := postgres.WriteFrame(true, wire.OpText, []byte{0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f}); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, postgres); string(f.Payload) != "N" {
		t.Errorf("postgres answers the question for TLS with %q", f.Payload)
	}
}

func TestCloseEndsEverySocket(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	conn, _ := dial(t, server, webExec, command("cat"))
	if err := conn.WriteFrame(true, wire.OpText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	frame(t, conn)
	rack.Close()
	for {
		if _, err := conn.ReadFrame(1 << 10); err != nil {
			return
		}
	}
}
