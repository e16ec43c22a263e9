package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
