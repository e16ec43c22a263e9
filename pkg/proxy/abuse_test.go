package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/proxy"
)

func TestADownloadIsRecordedWithTheStatusThatWasGiven(t *testing.T) {
	g := newGateway(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "there is no such build", http.StatusNotFound)
	}))
	admin := g.person("admin")
	if got := g.do(admin, "GET", "/apps/web/builds/B1.tgz"); got.Status != http.StatusNotFound {
		t.Fatalf("status %d", got.Status)
	}
	await(t, func() bool { return len(g.events()) == 2 }, g.story)
	if e := g.events()[1]; e.Phase != audit.PhaseFinished || e.Status != http.StatusNotFound {
		t.Errorf("the log says:\n%s", g.story())
	}
}

// TestFormsThatNeverComeDoNotHoldUpOthers has somebody without any right announce more bytes of forms than all
// may hold at once, and send none.
func TestFormsThatNeverComeDoNotHoldUpOthers(t *testing.T) {
	g := newGateway(t, newRack(t))
	viewer, admin := g.person("viewer"), g.person("admin")
	for range 4 {
		conn := g.send("POST /apps/web/releases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + viewer.Token +
			"\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10000000\r\n\r\n")
		defer func() { _ = conn.Close() }()
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusForbidden {
			t.Fatalf("who lacks the right was answered %v, %v before the form came", resp, err)
		}
	}
	if got := g.do(admin, "PUT", "/apps/web/configs/big", withForm("value", "eA==")); got.Status != http.StatusOK {
		t.Errorf("status %d: %s", got.Status, got.Body)
	}
}

// TestOnePersonsFormsLeaveRoomForOthers has somebody who may send forms begin with more of them than there is room for,
// and end none.
func TestOnePersonsFormsLeaveRoomForOthers(t *testing.T) {
	g := newGateway(t, newRack(t))
	viewer, admin := g.person("viewer"), g.person("admin")
	head := "GET /certificates HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + viewer.Token +
		"\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n"
	refused := make(chan string, 4)
	for range cap(refused) {
		conn := g.send(head)
		defer func() { _ = conn.Close() }()
		go func() {
			var text strings.Builder
			_, _ = io.Copy(&text, conn) // until the connection is closed, by either side
			refused <- text.String()
		}()
	}
	for range cap(refused) - 1 { // one of them may go on
		if got := <-refused; !strings.HasPrefix(got, "HTTP/1.1 429 ") || !strings.Contains(got, "too-many-forms") {
			t.Fatalf("the viewer may hold more than their share: answered %q", got)
		}
	}
	if got := g.do(admin, "PUT", "/apps/web/configs/big", withForm("value", strings.Repeat("eHh4", 250_000))); got.Status != http.StatusOK {
		t.Errorf("status %d: %s", got.Status, got.Body)
	}
}

// TestABodyThatNeverComesEndsTheConnection is mostly about who has not said who they are: they must not be able to hold
// connections for as long as they like.
func TestABodyThatNeverComesEndsTheConnection(t *testing.T) {
	g := newGateway(t, newRack(t), func(c *proxy.Config) { c.AdminURL = &url.URL{Scheme: "https", Host: "console.example.com"} })
	token := "Authorization: Bearer " + g.person("viewer").Token + "\r\n"
	for name, c := range map[string]struct{ line, headers, status string }{
		"without a credential": {"POST /apps", "", "401"},
		"health":               {"GET /api/v1/health", "", "200"},
		"a lost browser":       {"GET /console/", "", "302"},
		"a reason":             {"POST /session/why/other-rack", "", "403"},
		"the gateway's own":    {"GET /auth", token, "200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := g.send(c.line + " HTTP/1.1\r\nHost: x\r\n" + c.headers + "Content-Length: 100\r\n\r\n")
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
			got, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 "+c.status+" ") {
				t.Errorf("answered %.80q, and then: %v", got, err)
			}
		})
	}
}

// TestADownloadEndsWithTheAccessThatAllowedIt has the rack send without end.
func TestADownloadEndsWithTheAccessThatAllowedIt(t *testing.T) {
	g := newGateway(t, endless(nil))
	deployer := g.person("deployer")
	resp := g.openDownload(deployer)
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	g.change(`update rgw.users set locked_at = now() where id = $1`, deployer.UserID)
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the download went on for %d bytes after the lock, and ended with %v", n, err)
	}
	await(t, func() bool { return strings.HasSuffix(g.story(), "allow cut build.export 200\n") }, g.story)
	if e := g.last(); !strings.HasPrefix(e.Detail.Error, "your access was changed") {
		t.Errorf("the log says %q", e.Detail.Error)
	}
}

// TestADownloadThatNobodyReadsEndsWithItsAccess is the same for a client that takes nothing.
func TestADownloadThatNobodyReadsEndsWithItsAccess(t *testing.T) {
	left := make(chan struct{})
	g := newGateway(t, endless(func() { close(left) }))
	deployer := g.person("deployer")
	resp := g.openDownload(deployer)
	defer func() { _ = resp.Body.Close() }()
	g.change(`update rgw.users set locked_at = now() where id = $1`, deployer.UserID)
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the rack still sends")
	}
	await(t, func() bool { return strings.HasSuffix(g.story(), "allow cut build.export 200\n") }, g.story)
}

// endless is a rack with a build that has no end; left, if there is one, is called when nobody takes it any more.
func endless(left func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apps/web/builds/B1.tgz" {
			return // the gateway's own questions
		}
		if left != nil {
			defer left()
		}
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
}

// openDownload begins a download.
func (g *gateway) openDownload(c caller) *http.Response {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	g.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", g.URL.String()+"/apps/web/builds/B1.tgz", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := directClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp
}

// TestWhatIsLeftOfAnUploadIsNoRequest sends the rest of an upload long after it was answered.
func TestWhatIsLeftOfAnUploadIsNoRequest(t *testing.T) {
	g := newGateway(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the disk is full", http.StatusInsufficientStorage)
	}))
	admin := g.person("admin")
	conn := g.send("PUT /apps/web/resources/db/data HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin.Token + "\r\nContent-Length: 1000000\r\n\r\nfirst")
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	answers := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	// Otherwise what comes then would be read as a request of its own.
	if _, err := answers.ReadByte(); err != io.EOF {
		t.Errorf("the connection was left open behind half a body: %v", err)
	}
}

func TestAnOptionCannotBeNamedAsHopByHop(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	admin := g.person("admin")
	got := g.do(admin, "POST", "/apps/web/services/web/processes", withHeader("Command", "true"), withHeader("Connection", "Command"))
	for _, seen := range r.Requests() {
		if strings.HasSuffix(seen.Path, "/services/web/processes") && seen.Header.Get("Command") == "" {
			t.Errorf("status %d: a command was recorded, and another one ran", got.Status)
		}
	}
	if got.Status != http.StatusBadRequest {
		t.Errorf("status %d: %s", got.Status, got.Body)
	}
}

func TestRefusalsBeyondTheLimitAreCountedThoughNoOtherFollows(t *testing.T) {
	g := newGateway(t, newRack(t))
	g.change(`insert into rgw.settings (key, value, updated_by) values ('refusals_per_minute', '1', 'a test')`)
	viewer := g.person("viewer")
	for range 5 {
		g.do(viewer, "DELETE", "/apps/web")
	}
	g.handler.TellCounts()
	counted := func() (n int64) {
		for _, e := range g.events() {
			if e.ActorID == viewer.UserID && e.Phase == audit.PhaseRefused {
				n += max(e.Detail.Count, 0)
			}
		}
		return n
	}
	await(t, func() bool { return counted() == 4 }, func() string { return fmt.Sprintf("%d are counted of 4:\n%s", counted(), g.story()) })
}

// send opens a connection and writes to it.
func (g *gateway) send(text string) net.Conn {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.URL.Host)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		g.t.Fatal(err)
	}
	return conn
}

// TestRequestsThatAreCutOffByARestartRecordTheirOutcome stops a server under a write, as a drain does in the end.
func TestRequestsThatAreCutOffByARestartRecordTheirOutcome(t *testing.T) {
	arrived := make(chan struct{})
	g := newGateway(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost { // the gateway asks things of its own
			close(arrived)
			<-r.Context().Done()
		}
	}))
	admin := g.person("admin")
	server := g.handler.NewServer(nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "POST /apps/web/services/web/restart HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+admin.Token+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-arrived
	_ = server.Close()
	<-served
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.handler.WaitRequests(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := g.story(), "allow started service.restart 0\nallow finished service.restart 499\n"; got != want {
		t.Errorf("the log says:\n%s", got)
	}
}

func TestASocketThatOpensDuringARestartIsEndedToo(t *testing.T) {
	g := newGateway(t, newRack(t))
	ops := g.person("ops")
	pid := processOf(t, g, ops)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.handler.EndSockets(ctx); err != nil {
		t.Fatal(err)
	}
	w, _ := g.dial(ops, "/apps/web/processes/"+pid+"/exec?", "", "Command", "cat", "Tty", "false")
	if text, exit, eof := frames(t, w.in); !strings.Contains(text, "being restarted") || exit != 1 || !eof {
		t.Errorf("got %q, exit %d, EOF %v", text, exit, eof)
	}
}

func TestAManifestIsNotRecorded(t *testing.T) {
	g := newGateway(t, newRack(t))
	admin := g.person("admin")
	g.do(admin, "PUT", "/apps/web/builds/BABC", withForm("manifest", "environment:\n  - DATABASE_PASSWORD=hunter2\n"))
	for _, e := range g.events() {
		if e.Action == "build.update" && strings.Contains(e.Detail.Params.Get("manifest"), "hunter2") {
			t.Errorf("the record holds it: %q", e.Detail.Params.Get("manifest"))
		}
	}
	if len(g.events()) != 2 {
		t.Errorf("the log says:\n%s", g.story())
	}
}
