package racktest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/wire"
)

// get is a request by a fresh net/http client.
func get(t *testing.T, server *racktest.Server, path string) (*http.Response, []byte, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	req, err := http.NewRequest(http.MethodGet, server.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("convox", password)
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

func TestFaults(t *testing.T) {
	ten := int64(10)
	three := int64(3)
	for _, c := range []struct {
		name  string
		fault racktest.Fault
		check func(res *http.Response, body []byte, err error, took time.Duration) error
	}{
		{"status", racktest.Fault{Status: 503, Body: "busy", Header: map[string]string{"Retry-After": "1"}}, func(res *http.Response, body []byte, err error, _ time.Duration) error {
			if err != nil || res.StatusCode != 503 || string(body) != "busy" || res.Header.Get("Retry-After") != "1" {
				return fmt.Errorf("%v %q %w", res, body, err)
			}
			return nil
		}},
		{"delay", racktest.Fault{Delay: 50 * time.Millisecond}, func(res *http.Response, _ []byte, err error, took time.Duration) error {
			if err != nil || res.StatusCode != 200 || took < 50*time.Millisecond {
				return fmt.Errorf("%v after %s: %w", res, took, err)
			}
			return nil
		}},
		{"stall", racktest.Fault{Stall: 50 * time.Millisecond, StallAfter: 20}, func(res *http.Response, body []byte, err error, took time.Duration) error {
			if err != nil || !json.Valid(body) || took < 50*time.Millisecond {
				return fmt.Errorf("%q after %s: %w", body, took, err)
			}
			return nil
		}},
		{"cut", racktest.Fault{Cut: true, CutAfter: 20}, func(_ *http.Response, body []byte, err error, _ time.Duration) error {
			if !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 20 {
				return fmt.Errorf("%d bytes and %w", len(body), err)
			}
			return nil
		}},
		{"stall and cut", racktest.Fault{Stall: time.Millisecond, StallAfter: 5, Cut: true, CutAfter: 20}, func(_ *http.Response, body []byte, err error, _ time.Duration) error {
			if !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 20 {
				return fmt.Errorf("%d bytes and %w", len(body), err)
			}
			return nil
		}},
		{"drop", racktest.Fault{Drop: true}, func(_ *http.Response, _ []byte, err error, _ time.Duration) error {
			if !errors.Is(err, io.EOF) {
				return fmt.Errorf("ended with %w", err)
			}
			return nil
		}},
		{"reset", racktest.Fault{Drop: true, Reset: true}, func(_ *http.Response, _ []byte, err error, _ time.Duration) error {
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
				return fmt.Errorf("ended with %w", err)
			}
			return nil
		}},
		{"garbage", racktest.Fault{Garbage: 100}, func(res *http.Response, body []byte, err error, _ time.Duration) error {
			if err != nil || res.StatusCode != 200 || len(body) != 100 || json.Valid(body) {
				return fmt.Errorf("%v %q %w", res, body, err)
			}
			return nil
		}},
		{"raw", racktest.Fault{Raw: "SSH-2.0-OpenSSH_9.0\r\n"}, func(_ *http.Response, _ []byte, err error, _ time.Duration) error {
			if err == nil || !strings.Contains(err.Error(), "malformed HTTP") {
				return fmt.Errorf("ended with %w", err)
			}
			return nil
		}},
		{"a length that is too long", racktest.Fault{Body: "abcde", ContentLength: &ten}, func(_ *http.Response, body []byte, err error, _ time.Duration) error {
			if !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != "abcde" {
				return fmt.Errorf("%q and %w", body, err)
			}
			return nil
		}},
		{"a length that is too short", racktest.Fault{Body: "abcde", ContentLength: &three}, func(_ *http.Response, body []byte, err error, _ time.Duration) error {
			if err != nil || string(body) != "abc" {
				return fmt.Errorf("%q and %w", body, err)
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rack, server := start(t, racktest.Options{})
			c.fault.Path = "/apps"
			armed := rack.Inject(c.fault)
			began := time.Now()
			res, body, err := get(t, server, "/apps")
			if err := c.check(res, body, err, time.Since(began)); err != nil {
				t.Error(err)
			}
			if armed.Hits() != 1 {
				t.Errorf("the fault met %d requests", armed.Hits())
			}
			if _, _, err := get(t, server, "/system"); err != nil {
				t.Errorf("another path fails, too: %v", err)
			}
			armed.Clear()
			if res, body, err := get(t, server, "/apps"); err != nil || res.StatusCode != 200 || !json.Valid(body) {
				t.Errorf("it fails after the fault is cleared: %v", err)
			}
		})
	}
}

func TestAFaultMatchesByMethodPathAndCount(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	rack.Inject(racktest.Fault{Method: "GET", Path: "/apps/*/releases*", Skip: 1, Times: 2, Status: 500})
	rack.Inject(racktest.Fault{Method: "SOCKET", Status: 403})
	var got []int
	for range 4 {
		got = append(got, ask(t, server, "GET", "/apps/demo/releases", "", nil).StatusCode)
	}
	if fmt.Sprint(got) != "[200 500 500 200]" {
		t.Errorf("skip 1, times 2 gives %v", got)
	}
	if c, res := dial(t, server, webExec, command("true")); c != nil || res.StatusCode != 403 {
		t.Errorf("a socket is not refused: %v", res)
	}
	if got := ask(t, server, "GET", "/apps/demo", "", nil).StatusCode; got != 200 {
		t.Errorf("a request that no fault is about gets %d", got)
	}
}

func TestHangingRequestsWaitForTheirRelease(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	armed := rack.Inject(racktest.Fault{Hang: true})
	got := make(chan int, 1)
	go func() { got <- ask(t, server, "GET", "/apps", "", nil).StatusCode }()
	if err := armed.AwaitHit(within(t), 1); err != nil {
		t.Fatal(err)
	}
	select {
	case status := <-got:
		t.Fatalf("answered %d while it should hang", status)
	default:
	}
	armed.Release()
	if status := <-got; status != 200 {
		t.Errorf("after its release: %d", status)
	}
}

func TestALostAnswerMeansThatTheRackHasDoneIt(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	armed := rack.Inject(racktest.Fault{Method: "POST", Path: "/registries", Lose: true})
	conn, err := net.Dial("tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	body := "server=lost.example&username=u&password=p"
	fmt.Fprintf(conn, "POST /registries? HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Y29udm94OnJhY2stcGFzc3dvcmQ=\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if answer, err := io.ReadAll(conn); err != nil || len(answer) != 0 {
		t.Errorf("answered %q, %v; want nothing", answer, err)
	}
	armed.Clear()
	contains(t, ask(t, server, "GET", "/registries", "", nil).body, "lost.example")
	for _, e := range rack.Requests() {
		if e.Method == "POST" && e.Status != 0 {
			t.Errorf("journalled as %d, want 0 for a dropped connection", e.Status)
		}
	}
}

func TestASocketCanBeCutInMidStream(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	rack.Inject(racktest.Fault{Method: "SOCKET", Cut: true, CutAfter: 5000})
	conn, res := dial(t, server, webExec, command("random 100000 1 1000"))
	if conn == nil {
		t.Fatal(res.Status)
	}
	total := 0
	for {
		f, err := conn.ReadFrame(1 << 20)
		if err != nil {
			break
		}
		total += len(f.Payload) + 4
	}
	if total > 5000 || total < 4000 {
		t.Errorf("%d bytes came before the cut, want nearly 5000", total)
	}
}

func TestTheRackCanRefuseConnectionsAndComeBack(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	live, _ := dial(t, server, webExec, command("cat"))
	if err := server.Refuse(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", server.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connecting gives %v", err)
	}
	if err := live.WriteFrame(true, wire.OpText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if f := frame(t, live); string(f.Payload) != "x" {
		t.Errorf("a socket that was open says %q", f.Payload)
	}
	if err := server.Accept(); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, server, "GET", "/apps", "", nil); got.StatusCode != 200 {
		t.Errorf("after it came back: %d", got.StatusCode)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := live.ReadFrame(1 << 10); err == nil {
		t.Error("a socket outlives a restart")
	}
	if err := rack.AwaitSockets(within(t), 0); err != nil {
		t.Error(err)
	}
}

func TestTheJournalShowsRequestsAsTheyCame(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	body := "server=a&username=b&password=c"
	ask(t, server, "POST", "/registries?x=%2F&y", body, http.Header{"X-Thing": {"1", "2"}})
	e, err := rack.AwaitRequest(within(t), func(r racktest.Request) bool { return r.Done })
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	if e.ID != 1 || e.Method != "POST" || e.Path != "/registries" || e.Query != "x=%2F&y" || e.Host != server.Addr() ||
		fmt.Sprint(e.Header["X-Thing"]) != "[1 2]" || e.Route != "POST /registries" || e.Status != 200 ||
		e.BodyBytes != int64(len(body)) || e.BodySHA256 != hex.EncodeToString(sum[:]) || e.AnswerBytes == 0 {
		t.Errorf("journalled as %+v", e)
	}
	if rack.RequestCount() != 1 || rack.RouteCounts()["POST /registries"] != 1 {
		t.Errorf("counted %d, %v", rack.RequestCount(), rack.RouteCounts())
	}
}

func TestTheJournalIsBoundedAndTheCountIsNot(t *testing.T) {
	rack, server := start(t, racktest.Options{Journal: 10})
	for range 25 {
		ask(t, server, "GET", "/check", "", nil)
	}
	if n := len(rack.Requests()); n > 10 || n < 5 {
		t.Errorf("%d requests are kept of a bound of 10", n)
	}
	if last := rack.Requests()[len(rack.Requests())-1]; last.ID != 25 || rack.RequestCount() != 25 {
		t.Errorf("the last is number %d, counted %d", last.ID, rack.RequestCount())
	}
	quiet, server := start(t, racktest.Options{Journal: -1})
	ask(t, server, "GET", "/check", "", nil)
	if len(quiet.Requests()) != 0 || quiet.RequestCount() != 1 {
		t.Errorf("a journal that is off keeps %d, counts %d", len(quiet.Requests()), quiet.RequestCount())
	}
}

func TestTheControlEndpointDoesWhatTheMethodsDo(t *testing.T) {
	rack, server := start(t, racktest.Options{Control: true})
	control := httptest.NewServer(rack.ControlHandler())
	t.Cleanup(control.Close)
	do := func(method, path, body string, status int, out any) {
		t.Helper()
		req, err := http.NewRequest(method, control.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := control.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != status {
			t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, data, err)
		}
		if out != nil {
			if err := json.Unmarshal(data, out); err != nil {
				t.Fatalf("%s %s: %v: %s", method, path, err, data)
			}
		}
	}
	var fault racktest.ControlFault
	do("POST", "/faults", `{"path":"/apps","status":418,"delay":"1ms"}`, 201, &fault)
	if got := ask(t, server, "GET", "/apps", "", nil).StatusCode; got != 418 {
		t.Errorf("the fault gives %d", got)
	}
	var list []racktest.ControlFault
	do("GET", "/faults", "", 200, &list)
	if len(list) != 1 || list[0].Hits != 1 || list[0].ID != fault.ID {
		t.Errorf("the list of faults is %+v", list)
	}
	do("POST", fmt.Sprintf("/faults/%d/release", fault.ID), "", 204, nil)
	do("DELETE", fmt.Sprintf("/faults/%d", fault.ID), "", 204, nil)
	do("DELETE", fmt.Sprintf("/faults/%d", fault.ID), "", 404, nil)
	do("POST", "/faults", `{"nonsense":1}`, 400, nil)
	do("POST", "/faults", `{"delay":"soon"}`, 400, nil)
	if got := ask(t, server, "GET", "/apps", "", nil).StatusCode; got != 200 {
		t.Errorf("after the fault is gone: %d", got)
	}

	var requests []racktest.Request
	do("GET", "/requests?after=1", "", 200, &requests)
	if len(requests) != 1 || requests[0].ID != 2 {
		t.Errorf("the journal after 1 is %+v", requests)
	}
	do("DELETE", "/requests", "", 204, nil)
	do("GET", "/requests", "", 200, &requests)
	if len(requests) != 0 {
		t.Errorf("a forgotten journal has %d requests", len(requests))
	}
	var state racktest.ControlState
	do("GET", "/state", "", 200, &state)
	if state.Requests != 2 || state.OpenSockets != 0 {
		t.Errorf("the state is %+v", state)
	}
	do("POST", "/objects?app=demo&key=big&size=100000&seed=5", "", 204, nil)
	do("POST", "/objects?app=nope&key=big&size=1&seed=5", "", 404, nil)
	do("POST", "/objects?app=demo&key=big&size=x&seed=5", "", 400, nil)
	_, got, err := get(t, server, "/apps/demo/objects/big")
	want, _ := io.ReadAll(racktest.RandomBytes(100000, 5))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the object has %d bytes, %v", len(got), err)
	}
	do("POST", "/refuse", "", 204, nil)
	if _, err := net.Dial("tcp", server.Addr()); err == nil {
		t.Error("connections are not refused")
	}
	do("POST", "/accept", "", 204, nil)
	if got := ask(t, server, "GET", "/apps", "", nil).StatusCode; got != 200 {
		t.Errorf("after it accepts again: %d", got)
	}
}

func TestTheControlEndpointIsOffUnlessAskedFor(t *testing.T) {
	rack, _ := start(t, racktest.Options{})
	defer func() {
		if recover() == nil {
			t.Error("it can be had without Options.Control")
		}
	}()
	rack.ControlHandler()
}

func TestServingOverTLSShowsACertificateThatCanBeTrusted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan *racktest.Server, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- racktest.ListenAndServe(ctx, racktest.Options{Password: password}, racktest.ServeOptions{TLS: true, Names: []string{"rack.test"}, Ready: func(s *racktest.Server) { ready <- s }})
	}()
	server := <-ready
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(server.CertificatePEM()) {
		t.Fatal("the certificate is not PEM")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	res, err := client.Get(server.RackURL() + "/apps")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.ProtoMajor != 1 {
		t.Errorf("%s over %s", res.Status, res.Proto)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := client.Get(server.URL()); err == nil {
		t.Error("it serves on after its context has ended")
	}
}

func TestStaticServersAnswerAlike(t *testing.T) {
	static := racktest.NewStaticServer()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := static.Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	defer served.Wait()
	defer cancel()
	handler := httptest.NewServer(racktest.StaticApps())
	defer handler.Close()

	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	exchange := func(req *http.Request) (int, string) {
		t.Helper()
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(r, req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	get, _ := http.NewRequest("GET", "http://x/apps?", nil)
	known, _ := http.NewRequest("POST", "http://x/apps", strings.NewReader("name=x"))
	chunked, _ := http.NewRequest("PUT", "http://x/apps", io.MultiReader(strings.NewReader(strings.Repeat("x", 100000))))
	res, err := http.Get(handler.URL + "/apps")
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		req  *http.Request
		body string
	}{{get, string(want)}, {known, "ok\n"}, {get, string(want)}, {chunked, "ok\n"}, {get, string(want)}} {
		if status, body := exchange(c.req); status != 200 || body != c.body {
			t.Errorf("%s: %d %.60q", c.req.Method, status, body)
		}
	}
	if len(want) < 2000 || len(want) > 2600 || !json.Valid(want) {
		t.Errorf("the list has %d bytes", len(want))
	}
	if static.Requests() != 5 {
		t.Errorf("counted %d", static.Requests())
	}
}
