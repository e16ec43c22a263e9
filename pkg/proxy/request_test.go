package proxy_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/proxy"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/secret"
)

func TestAReadIsRecordedWithItsOutcome(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana := g.person("viewer")
	got := g.do(ana, "GET", "/apps/web?", withHeader("User-Agent", "convox.go/dev"))
	if got.Status != http.StatusOK {
		t.Fatalf("status %d: %s", got.Status, got.Body)
	}
	events := g.events()
	if len(events) != 1 {
		t.Fatalf("the log holds %d events, want one:\n%s", len(events), g.story())
	}
	e := events[0]
	size := int64(len(got.Body))
	want := audit.Event{
		Kind: audit.KindAction, Phase: audit.PhaseFinished, Decision: audit.DecisionAllow,
		ActorKind: audit.ActorUser, ActorID: ana.UserID, ActorLabel: ana.Email,
		Action: "app.get", App: "web", Status: 200, Address: netip.MustParseAddr("127.0.0.1"),
		Detail: audit.Detail{
			Method: "GET", Path: "/apps/web", Permission: "convox:app:read", Rule: "role:viewer app:*",
			UserAgent: "convox.go/dev", Client: "cli", Auth: "basic",
			Token: ana.TokenID, TokenName: "cli 1", BytesOut: &size,
		},
	}
	e.Detail.Duration = 0
	got2 := audit.Event{
		Kind: e.Kind, Phase: e.Phase, Decision: e.Decision, ActorKind: e.ActorKind, ActorID: e.ActorID, ActorLabel: e.ActorLabel,
		Action: e.Action, App: e.App, Resource: e.Resource, Status: e.Status, Address: e.Address, Detail: e.Detail,
	}
	if diff := cmp.Diff(want, got2, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.AllowUnexported(audit.Event{})); diff != "" {
		t.Errorf("the event differs (-want +got):\n%s", diff)
	}
	if id := got.Header.Get("Gateway-Request-Id"); id != e.RequestID.String() {
		t.Errorf("the answer names request %q, the event %s", id, e.RequestID)
	}
}

func TestAWriteReachesTheRackOnlyAfterItsRecord(t *testing.T) {
	rack := newRack(t)
	var g *gateway
	var mu sync.Mutex
	var before string
	g = newGateway(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			mu.Lock()
			before = g.story()
			mu.Unlock()
		}
		rack.ServeHTTP(w, r)
	}))
	got := g.do(g.person("ops"), "POST", "/apps/web/services/web/restart?")
	if got.Status != http.StatusOK {
		t.Fatalf("status %d: %s", got.Status, got.Body)
	}
	mu.Lock()
	defer mu.Unlock()
	if before != "allow started service.restart 0\n" {
		t.Errorf("when the rack was asked the log said:\n%s", before)
	}
	if after := g.story(); after != "allow started service.restart 0\nallow finished service.restart 200\n" {
		t.Errorf("afterwards the log said:\n%s", after)
	}
}

func TestARefusalIsRecordedAndTheRackIsNotAsked(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	got := g.do(g.person("viewer"), "DELETE", "/apps/web?")
	if got.Status != http.StatusForbidden || !strings.Contains(got.Error(), "app:delete") {
		t.Errorf("status %d: %s", got.Status, got.Body)
	}
	if n := asked(rack); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
	events := g.events()
	if len(events) != 1 || events[0].Phase != audit.PhaseRefused || events[0].Decision != audit.DecisionDeny ||
		events[0].Detail.Code != access.CodeNoPermission || events[0].Action != "app.delete" || events[0].App != "web" {
		t.Errorf("the log says:\n%s%+v", g.story(), events)
	}
}

func TestCredentialsThatAreRefused(t *testing.T) {
	g := newGateway(t, newRack(t))
	good := g.person("viewer")
	for name, c := range map[string]struct {
		options []requestOption
		status  int
		code    string
	}{
		"none at all":            {nil, 401, "no-credential"},
		"noise":                  {[]requestOption{withHeader("Authorization", basic("convox", "noise"))}, 401, "malformed-credential"},
		"a token with a typo":    {[]requestOption{withHeader("Authorization", basic("convox", good.Token[:len(good.Token)-1]+"x"))}, 401, "malformed-credential"},
		"as the user name":       {[]requestOption{withHeader("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(good.Token)))}, 401, "malformed-credential"},
		"another scheme":         {[]requestOption{withHeader("Authorization", "Digest "+good.Token)}, 401, "malformed-credential"},
		"not base64":             {[]requestOption{withHeader("Authorization", "Basic %%%")}, 401, "malformed-credential"},
		"two headers":            {[]requestOption{withHeader("Authorization", basic("convox", good.Token), basic("convox", good.Token))}, 400, "two-credentials"},
		"another user name":      {[]requestOption{withHeader("Authorization", basic("production", good.Token))}, 404, "other-rack"},
		"another rack":           {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Rack", "acme/production")}, 404, "other-rack"},
		"two racks":              {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Rack", "acme/staging", "acme/production")}, 404, "other-rack"},
		"sent by another site":   {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Sec-Fetch-Site", "cross-site")}, 403, "cross-site"},
		"of another site's page": {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Origin", "https://other.example")}, 403, "cross-site"},
		"of a page of no origin": {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Origin", "null")}, 403, "cross-site"},
		"of two origins":         {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Origin", "https://gw.example.com", "https://other.example")}, 403, "cross-site"},
		"of our own origin":      {[]requestOption{withHeader("Authorization", basic("convox", good.Token)), withHeader("Origin", "https://GW.example.com:8443")}, 200, ""},
		"in a cookie":            {[]requestOption{withHeader("Cookie", "__Host-session="+good.Token)}, 401, "no-credential"},
		"as basic":               {[]requestOption{withHeader("Authorization", basic("convox", good.Token))}, 200, ""},
		"as basic without user":  {[]requestOption{withHeader("Authorization", basic("", good.Token))}, 200, ""},
		"as basic by the alias":  {[]requestOption{withHeader("Authorization", basic("staging", good.Token))}, 200, ""},
		"as bearer":              {[]requestOption{withHeader("Authorization", "bearer "+good.Token)}, 200, ""},
		"for this rack by name":  {[]requestOption{withHeader("Authorization", "Bearer "+good.Token), withHeader("Rack", "acme/staging")}, 200, ""},
		"sent by the same site":  {[]requestOption{withHeader("Authorization", "Bearer "+good.Token), withHeader("Sec-Fetch-Site", "same-origin")}, 200, ""},
		"with a cookie besides":  {[]requestOption{withHeader("Authorization", "Bearer "+good.Token), withHeader("Cookie", "a=b")}, 200, ""},
		"with the rack's name %": {[]requestOption{withHeader("Authorization", basic("100%s", good.Token))}, 404, "other-rack"},
	} {
		t.Run(name, func(t *testing.T) {
			got := g.do(caller{}, "GET", "/apps?", c.options...)
			if got.Status != c.status || !strings.Contains(got.Body, `"code": "`+c.code+`"`) != (c.code == "") {
				t.Errorf("status %d, want %d %s: %s", got.Status, c.status, c.code, got.Body)
			}
			if c.code != "" && strings.Contains(got.Error(), "%") {
				t.Errorf("the message holds a percent sign: %s", got.Error())
			}
		})
	}
}

func TestTokensThatHaveEndedAreToldSoInAWayTheCLIShows(t *testing.T) {
	g := newGateway(t, newRack(t))
	for name, end := range map[string]func(c caller){
		"expired": func(c caller) {
			g.change(`update rgw.tokens set expires_at = now() - interval '1 second' where id = $1`, c.TokenID)
		},
		"revoked": func(c caller) { g.change(`update rgw.tokens set revoked_at = now() where id = $1`, c.TokenID) },
		"locked":  func(c caller) { g.change(`update rgw.users set locked_at = now() where id = $1`, c.UserID) },
		"removed": func(c caller) { g.change(`update rgw.users set removed_at = now() where id = $1`, c.UserID) },
		"unknown": func(c caller) { g.change(`delete from rgw.token_secrets where token_id = $1`, c.TokenID) },
	} {
		t.Run(name, func(t *testing.T) {
			c := g.person("viewer")
			end(c)
			got := g.do(c, "GET", "/auth?")
			if got.Status != http.StatusUnauthorized || !strings.Contains(got.Error(), "cli token is expired") {
				t.Errorf("status %d: %s", got.Status, got.Body)
			}
			events := g.events()
			last := events[len(events)-1]
			if last.Phase != audit.PhaseRefused || (name != "unknown" && last.ActorLabel != c.Email) {
				t.Errorf("recorded as %s of %q", last.Phase, last.ActorLabel)
			}
		})
	}
}

func TestPathsThatTwoReadersCouldReadInTwoWaysAreRefused(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	admin := g.person("admin")
	for _, path := range []string{
		"/apps/web%2Freleases", "/apps/web%2freleases", "/apps/web%3Fx", "/apps/web%23x", "/apps/web%00", "/apps/%2e%2e/system",
		"/apps//web", "/apps/web/", "/apps/./web", "/apps/../system", "/apps/%ff", "/apps/web%0a",
		"/apps/web%5c..", "/apps/web/processes/p%2F..%2F..", "/apps/web%252Freleases", "/apps/we%25b",
	} {
		if got := g.do(admin, "GET", path); got.Status != http.StatusBadRequest || !strings.Contains(got.Body, `"ambiguous-path"`) {
			t.Errorf("GET %s: status %d: %s", path, got.Status, got.Body)
		} else if strings.Contains(got.Error(), "%") {
			t.Errorf("GET %s: the message holds a percent sign: %s", path, got.Error())
		}
	}
	for _, path := range []string{"/apps/web%", "/apps/web%zz", "///apps", "////apps"} {
		got := g.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + admin.Token + "\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("GET %s: %s", path, got)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/nothing", 404}, {"PATCH", "/apps/web", 405}, {"GET", "/apps/web/processes/p/exec", 404},
		{"TRACE", "/apps", 405}, {"CONNECT", "/apps", 405}, {"get", "/apps", 405},
	} {
		if got := g.do(admin, c.method, c.path); got.Status != c.status {
			t.Errorf("%s %s: status %d, want %d: %s", c.method, c.path, got.Status, c.status, got.Body)
		}
	}
	if n := asked(rack); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
}

func TestPrefixAndDoubledSlashAreTakenAsTheCLISendsThem(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	admin := g.person("admin")
	for _, path := range []string{"/apps?", "//apps?", "/api/v1/rack-proxy/apps?", "/api/v1/rack-proxy//apps?"} {
		got := g.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + admin.Token + "\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("GET %s: %s", path, got)
		}
	}
	for _, seen := range rack.Requests() {
		if seen.Path != "/apps" && seen.Header.Get("User-Agent") != "rack-gateway" {
			t.Errorf("the rack saw %s", seen.Path)
		}
	}
}

// echo answers with the request as the rack saw it.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Set-Cookie", "rack=1")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "script-src *")
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Request-Id", "0123456789ab")
	_, _ = fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
	_ = r.Header.Write(w)
	body, _ := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "\n%s", body)
}

func TestNothingThatAClientAddsReachesTheRack(t *testing.T) {
	g := newGateway(t, http.HandlerFunc(echo))
	ana := g.person("admin")
	got := g.do(ana, "POST", "/apps/web/services/web/processes?",
		withHeader("Convox-Actor", "somebody else"), withHeader("X-Convox-Actor", "x"), withHeader("Convox-Tid", "x"), withHeader("X-Convox-Tid", "x"),
		withHeader("Cookie", "session=x"), withHeader("Session", "x"), withHeader("Rack", "acme/staging"),
		withHeader("X-Forwarded-For", "1.2.3.4"), withHeader("X-Forwarded-Host", "evil"), withHeader("Forwarded", "for=1.2.3.4"), withHeader("X-Real-Ip", "1.2.3.4"),
		withHeader("Connection", "Authorization, Convox-Actor"), withHeader("Keep-Alive", "x"), withHeader("Te", "trailers"), withHeader("Proxy-Authorization", "x"),
		withHeader("X-Http-Method-Override", "DELETE"), withHeader("Name", "x"), withHeader("Url", "x"), withHeader("Origin", "http://gw.example.com"),
		withHeader("Command", "ls -l"), withHeader("User-Agent", "convox.go/dev"), withHeader("Version", "dev"), withHeader("Accept", "*/*"), withHeader("Accept-Encoding", "gzip"))
	// This rack names no process, which the gateway must know.
	if got.Status != http.StatusBadGateway {
		t.Fatalf("status %d: %s", got.Status, got.Body)
	}
	got = g.do(ana, "PUT", "/apps/web/services/web?", withForm("count", "2"),
		withHeader("Convox-Actor", "somebody else"), withHeader("Cookie", "session=x"), withHeader("X-Forwarded-For", "1.2.3.4"),
		withHeader("Connection", "Authorization, Convox-Actor"), withHeader("Memory", "1"), withHeader("Origin", "http://gw.example.com"),
		withHeader("User-Agent", "convox.go/dev"), withHeader("Accept-Encoding", "gzip"))
	want := "PUT /apps/web/services/web?\nAccept-Encoding: gzip\nAuthorization: " + basic("convox", rackPassword) +
		"\nContent-Length: 7\nContent-Type: application/x-www-form-urlencoded\nConvox-Actor: " + ana.Email + "\nUser-Agent: convox.go/dev\n\ncount=2"
	if diff := cmp.Diff(want, strings.ReplaceAll(got.Body, "\r\n", "\n")); diff != "" {
		t.Errorf("the rack saw another request (-want +got):\n%s", diff)
	}
	if got.Header.Get("Set-Cookie") != "" {
		t.Error("the rack's cookie was passed on")
	}
	if got.Header.Get("Request-Id") != "0123456789ab" {
		t.Error("the rack's request id was not passed on")
	}
	for name, want := range map[string]string{"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff"} {
		if values := got.Header.Values(name); len(values) != 1 || values[0] != want {
			t.Errorf("%s is %q", name, values)
		}
	}
}

func TestOptionsThatSayAThingTwiceOrElsewhereAreRefused(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	admin := g.person("admin")
	for name, c := range map[string]struct {
		method, path string
		options      []requestOption
	}{
		"form and query":          {"POST", "/apps?name=a", []requestOption{withForm("name", "b")}},
		"query in place of form":  {"POST", "/apps/web/builds?external=true", []requestOption{withForm("url", "x")}},
		"twice in the form":       {"POST", "/apps", []requestOption{withForm("name", "a", "name", "b")}},
		"multipart":               {"POST", "/apps", []requestOption{withBody("multipart/form-data; boundary=x", "--x\r\n")}},
		"json":                    {"POST", "/apps", []requestOption{withBody("application/json", `{"name":"a"}`)}},
		"a semicolon":             {"POST", "/apps", []requestOption{withBody("application/x-www-form-urlencoded", "name=a;b=c")}},
		"a compressed form":       {"POST", "/apps", []requestOption{withForm("name", "a"), withHeader("Content-Encoding", "gzip")}},
		"another app's object":    {"POST", "/apps/web/builds", []requestOption{withForm("url", "object://worker/tmp/x.tgz")}},
		"a body where none is":    {"POST", "/apps/web/cancel", []requestOption{withBody("text/plain", "x")}},
		"a query that is garbage": {"GET", "/apps/web/releases?limit=%zz", nil},
		"two limits":              {"GET", "/apps/web/releases?limit=1&limit=2", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := g.do(admin, c.method, c.path, c.options...); got.Status != http.StatusBadRequest {
				t.Errorf("status %d: %s", got.Status, got.Body)
			}
		})
	}
	if n := asked(rack); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
}

func TestWhatWouldHandOutTheRacksPasswordIsRefusedForEverybody(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	admin := g.person("admin")
	for _, c := range []struct{ method, path string }{
		{"POST", "/system/jwt/token"}, {"GET", "/v2/web/tags/list"}, {"PUT", "/v2/x/y/z"}, {"GET", "/kubernetes/api/v1/secrets"}, {"POST", "/kubernetes/"},
		{"GET", "/custom/http/proxy/x"}, {"POST", "/events"}, {"GET", "/apps/system/processes"},
	} {
		if got := g.do(admin, c.method, c.path); got.Status != http.StatusForbidden || !strings.Contains(got.Error(), "for everybody") {
			t.Errorf("%s %s: status %d: %s", c.method, c.path, got.Status, got.Body)
		}
	}
	if got := g.do(admin, "POST", "/apps/web/builds", withForm("external", "true", "url", "x")); got.Status != http.StatusForbidden {
		t.Errorf("an external build: status %d: %s", got.Status, got.Body)
	}
	if n := asked(rack); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
}

func TestAScopedPersonSeesTheirAppsAlone(t *testing.T) {
	g := newGateway(t, newRack(t))
	bob := g.person("deployer@w*")
	got := g.do(bob, "GET", "/apps?")
	if !strings.Contains(got.Body, `"web"`) || !strings.Contains(got.Body, `"worker"`) || strings.Contains(got.Body, `"demo"`) {
		t.Errorf("the list is %s", got.Body)
	}
	for path, status := range map[string]int{"/apps/web?": 200, "/apps/demo?": 403, "/system?": 200, "/instances?": 403, "/registries?": 403} {
		if got := g.do(bob, "GET", path); got.Status != status {
			t.Errorf("GET %s: status %d, want %d: %s", path, got.Status, status, got.Body)
		}
	}
}

func TestSecretsAreMaskedForThoseWhoMayNotSeeThem(t *testing.T) {
	g := newGateway(t, newRack(t))
	viewer, admin, ops := g.person("viewer"), g.person("admin"), g.person("ops")
	for _, path := range []string{"/apps/demo/resources?", "/apps/demo/resources/database?", "/registries?"} {
		clear, masked := g.do(admin, "GET", path), g.do(viewer, "GET", path)
		if clear.Status != 200 || masked.Status != 200 || clear.Body == masked.Body || !strings.Contains(masked.Body, "***") {
			t.Errorf("GET %s: the viewer (%d) got %s\nthe admin (%d) got %s", path, masked.Status, masked.Body, clear.Status, clear.Body)
		}
	}
	if got := g.do(ops, "GET", "/apps/demo/releases?limit=1"); got.Status != http.StatusForbidden || !strings.Contains(got.Error(), "secret:read") {
		t.Errorf("an operator's releases: status %d: %s", got.Status, got.Body)
	}
}

func TestAnAnswerThatCannotBeMaskedIsNotPassedOn(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"garbage": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `[{"url": "postgres://u:s3cret@h/d"`) },
		"compressed": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "[]")
		},
		"html": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>s3cret</html>") },
		"cut": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `[{"url": "s3cret"}]`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			got := g.do(g.person("viewer"), "GET", "/apps/web/resources?")
			if got.Status != http.StatusBadGateway || strings.Contains(got.Body, "s3cret") {
				t.Errorf("status %d: %s", got.Status, got.Body)
			}
		})
	}
}

func TestTheGatewayIsItsOwnConsole(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	ana := g.person("viewer")
	if got := g.do(ana, "GET", "/auth?"); got.Status != 200 || !strings.Contains(got.Body, ana.UserID) {
		t.Errorf("/auth: %d %s", got.Status, got.Body)
	}
	await(t, func() bool {
		return rack.RouteCounts()["SystemGet"] > 0 || strings.Contains(g.do(ana, "GET", "/racks?").Body, "aws")
	},
		func() string { return "the rack was not asked what it runs on" })
	want := "{\n  \"name\": \"staging\",\n  \"organization\": {\n    \"name\": \"acme\"\n  },\n  \"provider\": \"aws\",\n  \"status\": \"running\"\n}\n"
	if got := g.do(ana, "GET", "/racks/acme/staging?"); got.Body != want {
		t.Errorf("/racks/acme/staging: %d %s", got.Status, got.Body)
	}
	if got := g.do(ana, "GET", "/racks/acme/production?"); got.Status != 404 || !strings.Contains(got.Error(), "acme/staging") {
		t.Errorf("another rack: %d %s", got.Status, got.Body)
	}
	if got := g.do(ana, "GET", "/racks?"); got.Status != 200 || !strings.Contains(got.Body, `"staging"`) {
		t.Errorf("/racks: %d %s", got.Status, got.Body)
	}
	if got := g.do(ana, "GET", "/machines?"); got.Status != 200 || got.Body != "[]\n" {
		t.Errorf("/machines: %d %s", got.Status, got.Body)
	}
	if n := asked(rack); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
	events := g.events()
	if last := events[len(events)-1]; last.Kind != audit.KindPreflight || last.Action != "gateway.machines" {
		t.Errorf("the preflight was recorded as %s %s", last.Kind, last.Action)
	}
}

func TestAFailedListOfRacksTellsTheReasonInConsoleMode(t *testing.T) {
	g := newGateway(t, newRack(t))
	c := g.pipeline("viewer")
	g.change(`update rgw.tokens set source_cidrs = '{10.0.0.0/8}' where id = $1`, c.TokenID)
	got := g.do(c, "GET", "/racks?", withHeader("Session", ""))
	challenge := got.Header.Get("Www-Authenticate")
	if got.Status != 401 || challenge != `Session path="/session/why/source-address" token="false"` {
		t.Fatalf("status %d, challenge %q: %s", got.Status, challenge, got.Body)
	}
	got = g.do(c, "POST", "/session/why/source-address?")
	if got.Status != http.StatusForbidden || !strings.Contains(got.Error(), "may not be used from your address") {
		t.Errorf("status %d: %s", got.Status, got.Body)
	}
	if got := g.do(c, "GET", "/racks?"); got.Status != http.StatusForbidden {
		t.Errorf("without console mode: status %d: %s", got.Status, got.Body)
	}
}

func TestTheRacksFailuresAreToldAndRecorded(t *testing.T) {
	rack := newRack(t)
	g := newGateway(t, rack)
	ops := g.person("ops")
	for name, c := range map[string]struct {
		fault        racktest.Fault
		method, path string
		status       int
		story        string
	}{
		"refuses":               {racktest.Fault{Status: 403, Body: "no\n"}, "GET", "/apps/web?", 403, "allow finished app.get 403\n"},
		"drops a read":          {racktest.Fault{Drop: true}, "GET", "/apps/web?", 502, "allow finished app.get 502\n"},
		"drops a write":         {racktest.Fault{Drop: true}, "POST", "/apps/web/services/web/restart?", 502, "allow started service.restart 0\nallow finished service.restart 502\n"},
		"does it and is silent": {racktest.Fault{Lose: true}, "POST", "/apps/web/services/web/restart?", 502, "allow started service.restart 0\nallow finished service.restart 502\n"},
		"has another password":  {racktest.Fault{Status: 401, Body: "invalid authentication"}, "GET", "/apps/web?", 502, "allow finished app.get 502\n"},
		"speaks no http":        {racktest.Fault{Raw: "SSH-2.0-OpenSSH\r\n"}, "GET", "/apps/web?", 502, "allow finished app.get 502\n"},
		"answers two lengths":   {racktest.Fault{Raw: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"}, "GET", "/apps/web?", 502, "allow finished app.get 502\n"},
	} {
		t.Run(name, func(t *testing.T) {
			rack.ClearFaults()
			rack.Inject(c.fault)
			old := len(g.story())
			calls := asked(rack)
			got := g.do(ops, c.method, c.path)
			if got.Status != c.status {
				t.Errorf("status %d, want %d: %s", got.Status, c.status, got.Body)
			}
			if story := g.story()[old:]; story != c.story {
				t.Errorf("the log says:\n%swant:\n%s", story, c.story)
			}
			if c.method == "POST" && asked(rack) != calls+1 {
				t.Errorf("the write was sent %d times", asked(rack)-calls)
			}
			if c.status == 502 && !strings.Contains(got.Error(), "rack") {
				t.Errorf("the message is %q", got.Error())
			}
		})
	}
}

func TestAnAnswerThatBreaksOffLeavesACutEvent(t *testing.T) {
	g := newGateway(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "200000")
		_, _ = w.Write(make([]byte, 100000))
		panic(http.ErrAbortHandler)
	}))
	admin := g.person("admin")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", g.URL.String()+"/apps/web/releases", nil)
	req.Header.Set("Authorization", "Bearer "+admin.Token)
	resp, err := directClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the client was not told that the answer broke off")
	}
	await(t, func() bool {
		return g.story() == "allow finished release.list 200\nallow cut release.list 200\n"
	}, g.story)
}

// await waits until something is so.
func await(t testing.TB, is func() bool, otherwise func() string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise())
		}
	}
}

func TestLimitsArePerPrincipal(t *testing.T) {
	release := make(chan struct{})
	released := sync.OnceFunc(func() { close(release) })
	arrived := make(chan struct{}, 10)
	database := postgrestest.New(t)
	database.Owner(t).MustExec(`insert into rgw.settings (key, value, updated_by) values ('in_flight_per_principal', '2', 'a test')`)
	g := newGatewayOn(t, database, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") == "rack-gateway" {
			http.NotFound(w, r)
			return
		}
		arrived <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "[]")
	}))
	t.Cleanup(released) // before the rack is closed, which waits for what it is doing
	ana, bob := g.person("admin"), g.person("admin")
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() { g.do(ana, "GET", "/apps?") })
	}
	<-arrived
	<-arrived
	got := g.do(ana, "GET", "/instances?")
	if got.Status != http.StatusTooManyRequests || !strings.Contains(got.Error(), "2 requests under way") {
		t.Errorf("a third request: status %d: %s", got.Status, got.Body)
	}
	waiting.Go(func() {
		if got := g.do(bob, "GET", "/apps?"); got.Status != 200 {
			t.Errorf("somebody else's: status %d: %s", got.Status, got.Body)
		}
	})
	<-arrived
	released()
	waiting.Wait()
	if got := g.do(ana, "GET", "/apps?"); got.Status != 200 {
		t.Errorf("afterwards: status %d: %s", got.Status, got.Body)
	}
}

func TestAFloodOfFailuresLeavesCountsAndNobodyElseOut(t *testing.T) {
	g := newGateway(t, newRack(t))
	good := g.person("viewer")
	if got := g.do(good, "GET", "/apps?"); got.Status != 200 {
		t.Fatalf("status %d", got.Status)
	}
	for range 150 {
		// A token that looks right: its checksum is, and nobody knows it.
		if got := g.do(caller{Token: strangersToken(t)}, "GET", "/apps?"); got.Status != 401 && got.Status != http.StatusTooManyRequests {
			t.Fatalf("status %d: %s", got.Status, got.Body)
		}
	}
	if n := len(g.events()); n > 50 {
		t.Errorf("the flood left %d events, one each", n)
	}
	g.change(`update rgw.users set name = 'Changed' where id = $1`, good.UserID) // drops what was in memory
	if got := g.do(good, "GET", "/apps?"); got.Status != 200 {
		t.Errorf("a good token was refused with the flood: status %d: %s", got.Status, got.Body)
	}
}

func TestTheRacksNextPasswordTakesOver(t *testing.T) {
	var mu sync.Mutex
	password := rackPassword
	rack := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if _, got, _ := r.BasicAuth(); got != password {
			w.Header().Set("Www-Authenticate", `Basic realm="convox"`)
			http.Error(w, "invalid authentication", http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	g := newGateway(t, rack, func(c *proxy.Config) { c.RackTokenNext = secret.NewText("the-next-password") })
	ops := g.person("ops")
	restart := func() answer { return g.do(ops, "POST", "/apps/web/services/web/restart?") }
	if got := restart(); got.Status != 200 {
		t.Fatalf("before: %d %s", got.Status, got.Body)
	}
	mu.Lock()
	password = "the-next-password"
	mu.Unlock()
	for range 3 { // the first too, which finds out that the rack's password was changed
		if got := restart(); got.Status != 200 {
			t.Fatalf("after the change: %d %s", got.Status, got.Body)
		}
	}
}

func TestHealthSaysWhatIsTheMatter(t *testing.T) {
	g := newGateway(t, newRack(t))
	await(t, func() bool { return g.do(caller{}, "GET", "/api/v1/health/ready").Status == 200 },
		func() string { return g.do(caller{}, "GET", "/api/v1/health/ready").Body })
	if got := g.do(caller{}, "GET", "/api/v1/health"); got.Status != 200 {
		t.Errorf("alive: %d %s", got.Status, got.Body)
	}
	g.handler.StopBeingReady()
	if got := g.do(caller{}, "GET", "/api/v1/health/ready"); got.Status != 503 || !strings.Contains(got.Body, "being stopped") {
		t.Errorf("while stopping: %d %s", got.Status, got.Body)
	}
}
