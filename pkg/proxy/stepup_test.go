package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/proxy"
)

// asksForFactors has everybody need a second factor, and gives those callers one.
func (g *gateway) asksForFactors(holders ...caller) {
	g.t.Helper()
	for _, c := range holders {
		g.change(`insert into rgw.factors (user_id, kind, name, yubikey, created_by) values ($1, 'yubikey-otp', 'key', 'cccccccccccc', 'a test')`, c.UserID)
	}
	g.change(`insert into rgw.settings (key, value, updated_by) values ('mfa_required', 'true', 'a test')`)
	await(g.t, func() bool { return g.do(holders[0], "POST", "/instances/keyroll").Status == http.StatusForbidden }, g.story)
}

// approve gives the newest factor that a caller is asked for in a mode, as the page does.
func (g *gateway) approve(c caller, mode string) (step string) {
	g.t.Helper()
	await(g.t, func() bool {
		return g.owner.Get(&step, `select id from rgw.step_ups where credential_id = $1 and mode = $2 and outcome is null order by opened_at desc limit 1`, c.TokenID, mode) == nil
	}, g.story)
	g.change(`update rgw.step_ups set outcome = 'approved', decided_at = now(), factor = 'yubikey-otp',
		exchanged_at = case when mode = 'page' then now() end where id = $1`, step)
	return step
}

func TestADeviceWithoutABrowserMayWaitLongerForApprovalThanForTheRecord(t *testing.T) {
	const patience = 3 * time.Second
	g := newGateway(t, newRack(t), func(c *proxy.Config) { c.MaxWait = patience })
	ana := g.person("admin")
	g.change(`update rgw.tokens set headless = true where id = $1`, ana.TokenID)
	g.asksForFactors(ana)

	asked := g.do(ana, "DELETE", "/registries/registry.example.com", withHeader("Session", ""))
	_, rest, _ := strings.Cut(asked.Header.Get("Www-Authenticate"), `path="`)
	path, _, ok := strings.Cut(rest, `"`)
	if asked.Status != http.StatusUnauthorized || !ok {
		t.Fatalf("%d %s %v", asked.Status, asked.Body, asked.Header)
	}
	answered := make(chan answer, 1)
	go func() { answered <- g.do(ana, "POST", path, withHeader("Session", "")) }()
	over, cancel := context.WithTimeout(t.Context(), patience+patience/2)
	defer cancel()
	select {
	case early := <-answered:
		t.Fatalf("answered before anybody approved: %d %s", early.Status, early.Body)
	case <-over.Done():
	}
	g.approve(ana, "held")
	if got := <-answered; got.Status != http.StatusOK || !strings.Contains(got.Body, "rgs_") {
		t.Errorf("the approval was lost: %d %s\n%s", got.Status, got.Body, g.story())
	}
}

func TestADeedLeadsToItsApproval(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana := g.person("admin")
	g.asksForFactors(ana)
	step := g.approve(ana, "page")
	if got := g.do(ana, "POST", "/instances/keyroll"); got.Status != http.StatusOK {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	var traced []audit.Phase
	for _, e := range g.events() {
		if e.Action == "gateway.changed_outside" {
			t.Errorf("the gateway takes its own change for somebody else's: %+v", e.Detail.Params)
		}
		for _, p := range e.Detail.Params {
			if p.Name == "step_up" && p.Value == step && e.Decision == audit.DecisionAllow {
				traced = append(traced, e.Phase)
			}
		}
	}
	if len(traced) != 2 || traced[0] != audit.PhaseStarted || traced[1] != audit.PhaseFinished {
		t.Errorf("the grant is named by %v:\n%s", traced, g.story())
	}
}

func TestAChallengeThatStoodAlreadyCountsAmongTheRefusalsThatAreRecorded(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana := g.person("admin")
	g.change(`insert into rgw.settings (key, value, updated_by) values ('refusals_per_minute', '2', 'a test')`)
	g.asksForFactors(ana)
	for range 10 {
		if got := g.do(ana, "POST", "/instances/keyroll"); got.Status != http.StatusForbidden {
			t.Fatalf("%d %s", got.Status, got.Body)
		}
	}
	recorded := 0
	for _, e := range g.events() {
		if e.Decision == audit.DecisionChallenge && e.Detail.Count == 0 {
			recorded++
		}
	}
	if recorded != 3 { // the one that opened it, and two more
		t.Errorf("%d were recorded one by one:\n%s", recorded, g.story())
	}
}

func TestASocketThatWaitedIsJudgedByWhatIsSoAfterwards(t *testing.T) {
	var service atomic.Value
	service.Store("web")
	var entered, ahead atomic.Int64
	rack := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/exec"):
			entered.Add(1)
		case strings.HasSuffix(r.URL.Path, "/processes/p1"):
			_ = json.NewEncoder(w).Encode(map[string]any{"id": "p1", "app": "web", "name": service.Load()})
			return
		}
		http.Error(w, fmt.Sprintf(`{"error":"no %s here"}`, r.URL.Path), http.StatusNotFound)
	})
	g := newGateway(t, rack, func(c *proxy.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	admin, ops := g.person("admin"), g.person("ops")
	g.asksForFactors(admin, ops)
	w, resp := g.dial(ops, "/apps/web/processes/p1/exec", "", "Command", "env")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	service.Store("build")
	ahead.Store(int64(time.Minute)) // beyond the life of what was known
	g.approve(ops, "socket")
	text, exit, _ := frames(t, w.in)
	if exit != 1 || !strings.Contains(text, "ERROR: this needs") || entered.Load() != 0 {
		t.Errorf("exit %d, %q, the rack was asked %d times\n%s", exit, text, entered.Load(), g.story())
	}
}

// decide has somebody, or the clock, end the newest challenge of a caller in a mode.
func (g *gateway) decide(c caller, mode, outcome string) {
	g.t.Helper()
	var step string
	await(g.t, func() bool {
		return g.owner.Get(&step, `select id from rgw.step_ups where credential_id = $1 and mode = $2 and outcome is null order by opened_at desc limit 1`, c.TokenID, mode) == nil
	}, g.story)
	if outcome == "expired" {
		g.change(`update rgw.step_ups set expires_at = now() where id = $1`, step)
		return
	}
	g.change(`update rgw.step_ups set outcome = $2, decided_at = now() where id = $1`, step, outcome)
}

func TestARawTunnelWaitsInSilence(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	ana := g.person("admin")
	cache, err := url.Parse(r.ResourceURL("demo", "cache"))
	if err != nil {
		t.Fatal(err)
	}
	g.asksForFactors(ana)
	tunnels := func() (n int) {
		for _, request := range r.Requests() {
			if strings.HasPrefix(request.Path, "/proxy/") {
				n++
			}
		}
		return n
	}
	open := func() *wire {
		t.Helper()
		w, resp := g.dial(ana, "/proxy/"+cache.Hostname()+"/"+cache.Port()+"?", masked(1, "ECHO one\r\n")+masked(1, "QUIT\r\n"))
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status %s", resp.Status)
		}
		return w
	}
	for _, outcome := range []string{"refused", "expired"} {
		w := open()
		g.decide(ana, "silent", outcome)
		if said, err := io.ReadAll(w.in); err != nil || len(said) > 0 || tunnels() != 0 {
			t.Errorf("%s: the client was sent %q (%v), the rack was asked %d times", outcome, said, err, tunnels())
		}
	}
	w := open()
	g.approve(ana, "silent")
	if text, _, _ := frames(t, w.in); text != "$3\r\none\r\n+OK\r\n" || tunnels() != 1 {
		t.Errorf("once approved: %q, the rack was asked %d times\n%s", text, tunnels(), g.story())
	}
	_ = w.Close()
	for _, line := range []string{"challenge refused network.proxy 101\n", "deny refused network.proxy 403\n", "allow started network.proxy 0\n", "allow finished network.proxy 101\n"} {
		await(t, func() bool { return strings.Contains(g.story(), line) }, g.story)
	}
}

func TestAnImportIsNeverChallengedInItsMiddle(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	ana := g.person("admin")
	g.asksForFactors(ana)
	for _, c := range []struct{ method, path string }{
		{"POST", "/apps/web/builds/import"}, {"PUT", "/apps/demo/resources/database/data"},
	} {
		send := func() answer {
			return g.do(ana, c.method, c.path, withHeader("Session", ""), withBody("application/octet-stream", strings.Repeat("data", 1<<10)))
		}
		before := asked(r)
		got := send()
		if got.Status != http.StatusForbidden || got.Header.Get("Www-Authenticate") != "" || asked(r) != before {
			t.Fatalf("%s: %d %v, the rack was asked %d times", c.path, got.Status, got.Header, asked(r)-before)
		}
		for _, what := range []string{"what it uploads cannot be sent twice", "/login/u2f?token=", "type the words", "then run the command again"} {
			if !strings.Contains(got.Error(), what) {
				t.Errorf("%s: it does not say %q: %s", c.path, what, got.Error())
			}
		}
		g.approve(ana, "page")
		if got := send(); asked(r) != before+1 {
			t.Errorf("%s once approved: %d %s", c.path, got.Status, got.Body)
		}
	}
}

func TestADeviceWithoutABrowserIsToldOfARefusalAndOfTheEndOfItsTime(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana := g.person("admin")
	g.change(`update rgw.tokens set headless = true where id = $1`, ana.TokenID)
	g.asksForFactors(ana)
	for outcome, want := range map[string]string{
		"refused": "it was refused in the browser, so nothing was done",
		"expired": "nobody approved it within five minutes, so nothing was done: run the command again",
	} {
		asked := g.do(ana, "DELETE", "/registries/registry.example.com", withHeader("Session", ""))
		if got := asked.Header.Get("Www-Authenticate"); asked.Status != http.StatusUnauthorized || !strings.HasSuffix(got, `token="false"`) {
			t.Fatalf("%d %s %s", asked.Status, asked.Body, got)
		}
		_, rest, _ := strings.Cut(asked.Header.Get("Www-Authenticate"), `path="`)
		path, _, _ := strings.Cut(rest, `"`)
		answered := make(chan answer, 1)
		go func() { answered <- g.do(ana, "POST", path, withHeader("Session", "")) }()
		g.decide(ana, "held", outcome)
		if got := <-answered; got.Status != http.StatusForbidden || got.Error() != want {
			t.Errorf("%s: %d %s", outcome, got.Status, got.Body)
		}
	}
}

func TestWhatWaitsForACallbackIsToldOfTheEndOfItsTime(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana := g.person("admin")
	g.asksForFactors(ana)
	for outcome, want := range map[string]string{
		"refused": "it was refused in the browser, so nothing was done",
		"expired": "nobody approved it within five minutes, so nothing was done: run the command again",
	} {
		asked := g.do(ana, "DELETE", "/registries/registry.example.com", withHeader("Session", ""))
		_, rest, _ := strings.Cut(asked.Header.Get("Www-Authenticate"), `path="`)
		path, _, ok := strings.Cut(rest, `"`)
		if asked.Status != http.StatusUnauthorized || !ok || !strings.HasSuffix(asked.Header.Get("Www-Authenticate"), `token="true"`) {
			t.Fatalf("%d %s %v", asked.Status, asked.Body, asked.Header)
		}
		if got := g.do(ana, "POST", path, withHeader("Session", ""), withBody("application/octet-stream", "something")); got.Status != http.StatusForbidden {
			t.Errorf("before anybody decided: %d %s", got.Status, got.Body)
		}
		g.decide(ana, "callback", outcome)
		if got := g.do(ana, "POST", path, withHeader("Session", ""), withBody("application/octet-stream", "something")); got.Status != http.StatusForbidden || got.Error() != want {
			t.Errorf("%s: %d %s", outcome, got.Status, got.Body)
		}
	}
}

func TestAnExpiredTokenIsToldSoAndNotChallenged(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana, ben := g.person("admin"), g.person("admin")
	g.asksForFactors(ana)
	g.change(`update rgw.tokens set expires_at = now() - interval '1 second' where id = $1`, ben.TokenID)
	for _, path := range []string{"/racks", "/auth", "/apps"} {
		got := g.do(ben, "GET", path, withHeader("Session", ""))
		if got.Status != http.StatusUnauthorized || !strings.Contains(got.Body, "cli token is expired") || strings.Contains(got.Header.Get("Www-Authenticate"), "Session") {
			t.Errorf("%s: %d %s %v", path, got.Status, got.Body, got.Header)
		}
	}
}

// challenged is the path at which a challenge is answered.
func challenged(t *testing.T, a answer) string {
	t.Helper()
	_, rest, _ := strings.Cut(a.Header.Get("Www-Authenticate"), `path="`)
	path, _, ok := strings.Cut(rest, `"`)
	if a.Status != http.StatusUnauthorized || !ok {
		t.Fatalf("no challenge: %d %s %v", a.Status, a.Body, a.Header)
	}
	return path
}

func TestWhatCarriesTheSessionThatWasMadeForItIsNotChallengedAgain(t *testing.T) {
	g := newGateway(t, newRack(t))
	ana := g.person("admin")
	g.asksForFactors(ana)
	keyroll := func(session string) answer {
		return g.do(ana, "POST", "/instances/keyroll", withHeader("Session", session))
	}
	path := challenged(t, keyroll(""))
	g.change(`update rgw.step_ups set outcome = 'approved', decided_at = now(), factor = 'yubikey-otp', code_hash = sha256('code') where mode = 'callback'`)
	if got := g.do(ana, "POST", path, withHeader("Session", ""), withBody("application/octet-stream", "another")); got.Status != http.StatusForbidden {
		t.Errorf("another code: %d %s", got.Status, got.Body)
	}
	given := g.do(ana, "POST", path, withHeader("Session", ""), withBody("application/octet-stream", "code"))
	var session struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(given.Body), &session); err != nil || given.Status != http.StatusOK || session.ID == "" {
		t.Fatalf("%d %s", given.Status, given.Body)
	}
	if got := keyroll(session.ID); got.Status != http.StatusOK {
		t.Fatalf("with the session: %d %s", got.Status, got.Body)
	}
	for range 3 { // the grant was spent
		got := keyroll(session.ID)
		if got.Status != http.StatusForbidden || got.Header.Get("Www-Authenticate") != "" || !strings.Contains(got.Body, "factor-spent") {
			t.Errorf("once more: %d %s %v", got.Status, got.Body, got.Header)
		}
	}
	// It counts as a step-up on, and is challenged for what asks each time and is something else.
	if got := g.do(ana, "DELETE", "/registries/registry.example.com", withHeader("Session", session.ID)); got.Status == http.StatusUnauthorized || got.Status == http.StatusForbidden && strings.Contains(got.Body, "factor") {
		t.Errorf("what takes a fresh one: %d %s", got.Status, got.Body)
	}
	challenged(t, g.do(ana, "PUT", "/system", withHeader("Session", session.ID), withForm("count", "3")))
	// The same command run again later is asked anew.
	g.change(`update rgw.step_ups set exchanged_at = now() - interval '2 minutes' where exchanged_at is not null`)
	challenged(t, keyroll(session.ID))
}

// Whatever is sent to /session, nobody is given a session for it who was not approved, and the answer is a sentence.
func FuzzSession(f *testing.F) {
	rack := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	g := newGateway(f, rack)
	ana := g.person("admin")
	const refused = "6f1c2f0e-8a50-4cc3-98c4-dc0c0c07398f"
	g.change(`insert into rgw.step_ups (id, credential_id, user_id, request_id, mode, level, binding, operation, expires_at, outcome, decided_at)
		values ($1, $2, $3, gen_random_uuid(), 'callback', 'step-up', sha256('x'), '{}', now(), 'refused', now())`, refused, ana.TokenID, ana.UserID)
	for _, id := range []string{refused, strings.ToUpper(refused), "{" + refused + "}", strings.ReplaceAll(refused, "-", ""), "why/internal", "why/%s", "", "..", "a/b", "\x00", strings.Repeat("6", 36), refused + "/"} {
		f.Add(id, []byte("refused"), "", true)
		f.Add(id, []byte{}, "rgs_x", false)
	}
	f.Add(refused, []byte(strings.Repeat("x", 2000)), strings.Repeat("s", 300), true)
	f.Fuzz(func(t *testing.T, id string, body []byte, session string, post bool) {
		if strings.ContainsAny(session, "\r\n\x00") {
			return // no header
		}
		method := http.MethodGet
		if post {
			method = http.MethodPost
		}
		r := httptest.NewRequestWithContext(t.Context(), method, "/", bytes.NewReader(body))
		r.URL = &url.URL{Path: "/session/" + id}
		r.RequestURI = r.URL.EscapedPath()
		r.Header.Set("Authorization", basic("convox", ana.Token))
		r.Header["Session"] = []string{session}
		answer := httptest.NewRecorder()
		g.handler.ServeHTTP(answer, r)
		if answer.Code >= http.StatusInternalServerError || answer.Code == http.StatusTeapot || answer.Code == http.StatusUnauthorized {
			t.Fatalf("%s %q: %d %s", method, id, answer.Code, answer.Body)
		}
		if answer.Code == http.StatusOK {
			if post || !strings.EqualFold(answer.Body.String(), id) || answer.Header().Get("Challenge") != answer.Body.String() {
				t.Fatalf("%s %q: %d %s", method, id, answer.Code, answer.Body)
			}
			return
		}
		var said struct {
			Error string `json:"error"`
			Code  string `json:"code"`
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &said); err != nil || said.Error == "" || said.Code == "" || strings.Contains(said.Error, "%") {
			t.Fatalf("%s %q: %d %s", method, id, answer.Code, answer.Body)
		}
	})
}
