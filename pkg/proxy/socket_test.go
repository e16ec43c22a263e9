package proxy_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/rack"
)

// frames reads a rack's side of a session: its text, its exit code (-1 when none came), and whether it
// ended with EOF.
func frames(t *testing.T, r *bufio.Reader) (text string, exit int, eof bool) {
	t.Helper()
	exit = -1
	for {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return text, exit, eof
		}
		length := uint64(head[1] & 0x7f)
		switch length {
		case 126:
			var n [2]byte
			_, _ = io.ReadFull(r, n[:])
			length = uint64(binary.BigEndian.Uint16(n[:]))
		case 127:
			var n [8]byte
			_, _ = io.ReadFull(r, n[:])
			length = binary.BigEndian.Uint64(n[:])
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(r, payload); err != nil {
			t.Fatalf("a frame of %d bytes broke off: %v (head %x, so far %q)", length, err, head, text)
		}
		switch head[0] & 0x0f {
		case 2:
			return text, exit, true
		case 0, 1:
			if code, ok := strings.CutPrefix(string(payload), rack.ExitMarker); ok {
				_, _ = fmt.Sscan(code, &exit)
				continue
			}
			text += string(payload)
		}
	}
}

// masked is one text frame as a client sends it.
func masked(opcode byte, payload string) string {
	return string([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
}

func TestBytesRightBehindTheUpgradeAreNotLost(t *testing.T) {
	g := newGateway(t, newRack(t))
	admin := g.person("admin")
	pid := processOf(t, g, admin)
	early := masked(1, "EARLY-") + masked(1, "LATE\n") + masked(2, "")
	w, resp := g.dial(admin, "/apps/web/processes/"+pid+"/exec?", early, "Command", "cat", "Tty", "false")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	text, exit, eof := frames(t, w.in)
	if text != "EARLY-LATE\n" || exit != 0 || !eof {
		t.Errorf("got %q, exit %d, EOF %v", text, exit, eof)
	}
	_ = w.Close()
	await(t, func() bool { return strings.Contains(g.story(), "allow finished process.exec 101\n") }, g.story)
	for _, e := range g.events() {
		if e.Phase == audit.PhaseFinished && e.Action == "process.exec" {
			if e.Detail.ExitCode == nil || *e.Detail.ExitCode != 0 || e.Detail.Params.Get("Command") != "cat" || *e.Detail.BytesIn != int64(len(early)) {
				t.Errorf("recorded as %+v", e.Detail)
			}
		}
	}
}

// processOf is the id of a running process of the app web.
func processOf(t *testing.T, g *gateway, c caller) string {
	t.Helper()
	got := g.do(c, "GET", "/apps/web/processes?")
	_, rest, _ := strings.Cut(got.Body, `"id": "`)
	pid, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("no process: %s", got.Body)
	}
	return pid
}

func TestARefusedSessionSaysWhyAndExitsWithOne(t *testing.T) {
	g := newGateway(t, newRack(t))
	viewer := g.person("viewer")
	w, resp := g.dial(viewer, "/apps/web/processes/web/exec?", "", "Command", "env")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	text, exit, eof := frames(t, w.in)
	if !strings.HasPrefix(text, "ERROR: this needs process:exec") || exit != 1 || !eof {
		t.Errorf("got %q, exit %d, EOF %v", text, exit, eof)
	}
	if story := g.story(); story != "deny refused process.exec 403\n" {
		t.Errorf("the log says:\n%s", story)
	}
}

func TestARefusedLogSaysWhyWithoutAMarker(t *testing.T) {
	g := newGateway(t, newRack(t))
	bob := g.person("viewer@worker")
	w, resp := g.dial(bob, "/apps/web/logs?", "")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	if text, exit, eof := frames(t, w.in); !strings.HasPrefix(text, "ERROR: ") || exit != -1 || !eof {
		t.Errorf("got %q, exit %d, EOF %v", text, exit, eof)
	}
}

func TestARawTunnelGoesOnlyToHostsOfResourcesInScope(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	g.role("tunneler", "convox:network:proxy")
	ana, bob := g.person("tunneler"), g.person("tunneler@worker")
	host, port := resourceHost(t, g)
	w, resp := g.dial(ana, "/proxy/"+host+"/"+port+"?", "")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	_ = w.Close()
	for name, c := range map[string]struct {
		who    caller
		target string
	}{
		"a host that nobody knows":      {ana, "/proxy/10.1.2.3/5432?"},
		"another port of a known host":  {ana, "/proxy/" + host + "/22?"},
		"a resource of an app of other": {bob, "/proxy/" + host + "/" + port + "?"},
	} {
		if _, resp := g.dial(c.who, c.target, ""); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: status %s", name, resp.Status)
		}
	}
}

func resourceHost(t *testing.T, g *gateway) (host, port string) {
	t.Helper()
	got := g.do(g.person("viewer"), "GET", "/apps/demo/resources/database?")
	_, rest, _ := strings.Cut(got.Body, "@")
	at, _, ok := strings.Cut(rest, "/")
	host, port, found := strings.Cut(at, ":")
	if !ok || !found {
		t.Fatalf("no host: %s", got.Body)
	}
	return host, port
}

func TestAChangeOfAccessEndsOpenSessions(t *testing.T) {
	for name, change := range map[string]func(*gateway, caller){
		"the token is revoked": func(g *gateway, c caller) {
			g.change(`update rgw.tokens set revoked_at = now() where id = $1`, c.TokenID)
		},
		"the person is locked": func(g *gateway, c caller) {
			g.change(`update rgw.users set locked_at = now() where id = $1`, c.UserID)
		},
		"a role is taken": func(g *gateway, c caller) {
			g.change(`update rgw.bindings set role = 'viewer' where user_id = $1`, c.UserID)
		},
		"around the gateway": func(g *gateway, c caller) {
			g.owner.MustExec(`delete from rgw.bindings where user_id = $1`, c.UserID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, newRack(t))
			ops := g.person("ops")
			pid := processOf(t, g, ops)
			w, resp := g.dial(ops, "/apps/web/processes/"+pid+"/exec?", masked(1, "hello\n"), "Command", "cat", "Tty", "false")
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %s", resp.Status)
			}
			hello := make([]byte, 2+len("hello\n"))
			if _, err := io.ReadFull(w.in, hello); err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			change(g, ops)
			text, exit, eof := frames(t, w.in)
			t.Logf("ended after %s", time.Since(before))
			if !strings.HasPrefix(text, "\r\nERROR: your access was changed") || exit != 1 || !eof {
				t.Errorf("got %q, exit %d, EOF %v", text, exit, eof)
			}
			_ = w.Close()
			await(t, func() bool { return strings.Contains(g.story(), "allow finished process.exec 101\n") }, g.story)
		})
	}
}

func TestARestartEndsSessionsWithAMessage(t *testing.T) {
	g := newGateway(t, newRack(t))
	ops := g.person("ops")
	pid := processOf(t, g, ops)
	w, _ := g.dial(ops, "/apps/web/processes/"+pid+"/exec?", masked(1, "x"), "Command", "cat", "Tty", "false")
	if _, err := io.ReadFull(w.in, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended <- g.handler.EndSockets(ctx)
	}()
	if text, exit, eof := frames(t, w.in); !strings.Contains(text, "being restarted") || exit != 1 || !eof {
		t.Errorf("got %q, exit %d, EOF %v", text, exit, eof)
	}
	_ = w.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestASocketOfAnotherSitesPageIsRefused is about browsers that know a token by an address that somebody opened in one,
// https://convox:TOKEN@HOST: they send it with the sockets of any page, and some say nothing but the page's origin.
func TestASocketOfAnotherSitesPageIsRefused(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	ops := g.person("ops")
	pid := processOf(t, g, ops)
	before := asked(rack)
	conn := g.send("GET /apps/web/processes/" + pid + "/exec?command=env HTTP/1.1\r\nHost: " + g.URL.Host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://other.example\r\n" +
		"Authorization: " + basic("convox", ops.Token) + "\r\n\r\n")
	defer func() { _ = conn.Close() }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %s", resp.Status)
	}
	if asked(rack) != before {
		t.Error("the rack was asked")
	}
}

func TestAnUpgradeInAnyOtherSpellingIsRefused(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	admin := g.person("admin")
	for _, upgrade := range []string{"WebSocket", "websocket, h2c", "h2c", ""} {
		got := g.do(admin, "GET", "/apps/web/logs", withHeader("Upgrade", upgrade), withHeader("Connection", "Upgrade"))
		if got.Status != http.StatusBadRequest {
			t.Errorf("Upgrade %q: status %d: %s", upgrade, got.Status, got.Body)
		}
	}
	if got := g.do(admin, "POST", "/apps/web/logs", withHeader("Upgrade", "websocket"), withHeader("Connection", "Upgrade")); got.Status != http.StatusBadRequest {
		t.Errorf("by POST: status %d: %s", got.Status, got.Body)
	}
	if n := asked(r); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
}

func TestAProcessOfABuildIsForThoseWhoMaySeeTheRacksPassword(t *testing.T) {
	g := newGateway(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apps/web/processes/build-1" {
			_, _ = io.WriteString(w, `{"id": "build-1", "app": "web", "name": "build"}`)
			return
		}
		http.Error(w, "no such process", http.StatusNotFound)
	}))
	deployer := g.person("deployer")
	w, resp := g.dial(deployer, "/apps/web/processes/build-1/exec?", "", "Command", "env")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	if text, exit, _ := frames(t, w.in); !strings.Contains(text, "process:build") || exit != 1 {
		t.Errorf("got %q, exit %d", text, exit)
	}
	if got := g.do(deployer, "GET", "/apps/web/processes/build-1/files?file=/etc/passwd"); got.Status != http.StatusForbidden {
		t.Errorf("files: status %d: %s", got.Status, got.Body)
	}
	w, _ = g.dial(deployer, "/apps/web/processes/nothing/exec?", "", "Command", "env")
	if text, exit, _ := frames(t, w.in); !strings.Contains(text, "no such process") || exit != 1 {
		t.Errorf("an unknown process: got %q, exit %d", text, exit)
	}
}

func TestAPipelineEndsOnlyWhatItStarted(t *testing.T) {
	g := newGateway(t, newRack(t))
	ci, other := g.pipeline("cicd"), g.pipeline("cicd")
	got := g.do(ci, "POST", "/apps/web/services/web/processes?", withHeader("Command", "sleep 3600"))
	_, rest, _ := strings.Cut(got.Body, `"id": "`)
	pid, _, _ := strings.Cut(rest, `"`)
	if got.Status != 200 || pid == "" {
		t.Fatalf("status %d: %s", got.Status, got.Body)
	}
	if got := g.do(other, "DELETE", "/apps/web/processes/"+pid+"?"); got.Status != http.StatusForbidden || !strings.Contains(got.Error(), "started itself") {
		t.Errorf("another pipeline: status %d: %s", got.Status, got.Body)
	}
	if got := g.do(ci, "DELETE", "/apps/web/processes/"+pid+"?"); got.Status != 200 {
		t.Errorf("the one that started it: status %d: %s", got.Status, got.Body)
	}
}
