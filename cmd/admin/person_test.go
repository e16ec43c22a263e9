package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"rackgateway/pkg/testenv"
)

// The whole way, with everything real: a provider, admin, a proxy and a rack.
func TestAPersonSignsInAndWorksWithTheRack(t *testing.T) {
	env := testenv.Start(t, testenv.Options{TLS: true, Admins: 1})
	admin := env.Admins[0]
	browser := admin.SignIn("deployer")
	do := func(method, path, contentType, body string) testenv.Answer {
		t.Helper()
		answer, err := browser.Do(t.Context(), method, path, contentType, body)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}

	if got := do("GET", "/api/v1/rack/apps", "", ""); got.Status != http.StatusOK || !strings.HasPrefix(strings.TrimSpace(got.Body), "[") || got.Header.Get("Set-Cookie") != "" {
		t.Errorf("the rack's apps: %d %s", got.Status, got.Body)
	}
	if got := do("DELETE", "/api/v1/rack/apps/web", "", ""); got.Status != http.StatusForbidden {
		t.Errorf("what the person may not do: %d %s", got.Status, got.Body)
	}
	var seen struct {
		Address string `db:"address"`
		Actor   string `db:"actor_label"`
	}
	err := env.DB.GetContext(t.Context(), &seen, `select host(address) as address, actor_label from rgw.audit_events where action = 'app.list' order by occurred_at desc limit 1`)
	if err != nil || seen.Actor != "dan@example.com" || seen.Address != "127.0.0.1" {
		t.Errorf("the proxy recorded %+v (%v)", seen, err)
	}

	made := do("POST", "/api/v1/me/devices", testenv.JSONType, `{"name":"workstation"}`)
	var issued struct {
		Secret string `json:"secret"`
	}
	if made.Status != http.StatusCreated || json.Unmarshal([]byte(made.Body), &issued) != nil {
		t.Fatalf("a device: %d %s", made.Status, made.Body)
	}
	env.KnowToken("workstation", issued.Secret)
	if got := env.Do("workstation", "GET", "/apps", nil); got.Status != http.StatusOK {
		t.Errorf("the device's first command: %d %s", got.Status, got.Body)
	}

	if got := do("POST", "/login/logout", testenv.FormType, "csrf="+url.QueryEscape(browser.CSRF)); got.Status != http.StatusSeeOther {
		t.Errorf("signing out: %d %s", got.Status, got.Body)
	}
	if got := do("GET", "/api/v1/rack/apps", "", ""); got.Status != http.StatusUnauthorized {
		t.Errorf("after signing out: %d %s", got.Status, got.Body)
	}
	if code := admin.Stop(); code != 0 {
		t.Errorf("it stopped with %d", code)
	}
}

func TestABrowserThatAsksTheProxyIsSentToTheConsole(t *testing.T) {
	env := testenv.Start(t, testenv.Options{Admins: 1})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env.Proxies[0].URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,application/xhtml+xml")
	resp, err := env.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if to := resp.Header.Get("Location"); !strings.HasPrefix(to, env.Admins[0].URL+"/") {
		t.Errorf("%d %q", resp.StatusCode, to)
	}
}
