package adminapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/signin"
)

// Requests that a browser authenticates by itself: what protects them.

func TestASessionChangesNothingWithoutTheTokenOfItsOwnPages(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	w.person("other", "admin")
	w.session("other")
	me := read[adminapi.Me](t, w.want(http.StatusOK, "", "admin's session", "GET", "/me", nil))
	if me.CsrfToken == nil || *me.CsrfToken == "" || me.Kind != adminapi.MeKindSession {
		t.Fatalf("GET /me: %+v", me)
	}
	if me := read[adminapi.Me](t, w.want(http.StatusOK, "", "admin", "GET", "/me", nil)); me.CsrfToken != nil {
		t.Error("a token that no browser sends by itself has a CSRF token")
	}
	before := w.state()
	for name, csrf := range map[string]string{"none": "", "one made up": strings.Repeat("0", 64), "somebody else's": w.csrf("other's session")} {
		r := w.request("admin's session", "PUT", "/settings/allow_destructive", `{"value":true}`)
		r.Header.Set("X-CSRF-Token", csrf)
		events := w.since(func() {
			if got := w.send(r); got.status != http.StatusForbidden || got.problem(t).Code != "csrf" {
				t.Errorf("with %s: %d %s", name, got.status, got.body)
			}
		})
		if len(events) != 1 || events[0].Decision != "deny" || events[0].Actor != "admin@example.com" {
			t.Errorf("with %s it left %v", name, events)
		}
	}
	if w.state() != before {
		t.Error("something changed")
	}
	r := w.request("admin's session", "PUT", "/settings/allow_destructive", `{"value":true}`)
	r.Header.Set("X-CSRF-Token", *me.CsrfToken)
	if got := w.send(r); got.status != http.StatusOK {
		t.Errorf("with its own: %d %s", got.status, got.body)
	}
}

func TestASessionIsNotServedToOtherSites(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	cases := []struct {
		name   string
		method string
		header map[string]string
		ok     bool
	}{
		{"our own page", "GET", map[string]string{"Sec-Fetch-Site": "same-origin"}, true},
		{"a browser of before", "GET", map[string]string{"Sec-Fetch-Site": ""}, true},
		{"an address that was typed", "GET", map[string]string{"Sec-Fetch-Site": "none"}, true},
		{"a write out of nowhere", "PUT", map[string]string{"Sec-Fetch-Site": "none"}, false},
		{"another site", "GET", map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
		{"a sister site", "PUT", map[string]string{"Sec-Fetch-Site": "same-site"}, false},
		{"another origin", "PUT", map[string]string{"Sec-Fetch-Site": "", "Origin": "https://evil.example.com"}, false},
		{"no origin", "PUT", map[string]string{"Sec-Fetch-Site": "", "Origin": "null"}, false},
		{"our name without TLS", "PUT", map[string]string{"Sec-Fetch-Site": "", "Origin": "http://gateway.example.com"}, false},
		{"our own origin", "PUT", map[string]string{"Sec-Fetch-Site": "", "Origin": "https://gateway.example.com"}, true},
		{"a socket of another site", "GET", map[string]string{"Sec-Fetch-Site": "", "Origin": "https://evil.example.com", "Connection": "Upgrade", "Upgrade": "websocket"}, false},
		{"a socket of no site", "GET", map[string]string{"Sec-Fetch-Site": "", "Connection": "Upgrade", "Upgrade": "websocket"}, false},
	}
	for _, c := range cases {
		path, body := "/me", any(nil)
		if c.method == "PUT" {
			path, body = "/settings/allow_destructive", `{"value":"x"}`
		}
		r := w.request("admin's session", c.method, path, body)
		for name, value := range c.header {
			r.Header.Del(name)
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		got := w.send(r)
		if served := got.status == http.StatusOK || got.status == http.StatusBadRequest; served != c.ok || !c.ok && got.problem(t).Code != "cross-site" {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
	}
}

func TestASessionIsACookieAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	r := w.request("", "GET", "/me", nil)
	r.Header.Set("Authorization", "Bearer "+w.tokens["admin's session"].Reveal())
	if got := w.send(r); got.problem(t).Code != "malformed-credential" {
		t.Errorf("as a bearer token: %s", got.body)
	}
	r = w.request("admin's session", "GET", "/me", nil)
	r.Header.Set("Authorization", "Bearer "+w.tokens["admin"].Reveal())
	if got := w.send(r); got.problem(t).Code != "two-credentials" {
		t.Errorf("beside a bearer token: %s", got.body)
	}
	r = w.request("", "GET", "/me", nil)
	r.AddCookie(&http.Cookie{Name: signin.SessionCookie, Value: w.tokens["admin"].Reveal()})
	if got := w.send(r); got.status != http.StatusUnauthorized {
		t.Errorf("a CLI token as a cookie: %d %s", got.status, got.body)
	}
	for _, header := range []string{"Basic Y29udm94OnRva2Vu", "Bearer", "Bearer x", "bearer  ", "Negotiate x"} {
		r := w.request("", "GET", "/me", nil)
		r.Header.Set("Authorization", header)
		if got := w.send(r); got.status != http.StatusUnauthorized || got.header.Get("WWW-Authenticate") == "" || got.problem(t).Code != "malformed-credential" {
			t.Errorf("%q: %d %s", header, got.status, got.body)
		}
	}
}

func TestAnswersAreForNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	for _, path := range []string{"/me", "/users", "/nosuch", "/health", "/openapi.json", "/docs"} {
		h := w.do("admin", "GET", path, nil).header
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"Cross-Origin-Resource-Policy": "same-origin", "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, h.Get(name))
			}
		}
		policy := strings.Split(h.Get("Content-Security-Policy"), "; ")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !slices.Contains(policy, want) {
				t.Errorf("%s: the policy %q lacks %s", path, policy, want)
			}
		}
		for name := range h {
			if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" {
				t.Errorf("%s: %s is sent", path, name)
			}
		}
	}
}

func TestAFactorThatWasGivenShowsThoughNobodyHasHeardOfItYet(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	w.exec(`insert into rgw.settings (key, value, updated_by) values ('mfa_required', 'true', 'test')`)
	w.hear()
	verified := func() bool {
		t.Helper()
		me := read[adminapi.Me](t, w.want(http.StatusOK, "", "admin's session", "GET", "/me", nil))
		if me.Factor == nil || !me.Factor.Required {
			t.Fatalf("GET /me: %+v", me)
		}
		return me.Factor.Verified
	}
	if verified() {
		t.Fatal("a factor was given before it was asked for")
	}
	// As at another process, whose announcement is on its way.
	w.exec(`alter table rgw.sessions disable trigger user`)
	w.exec(`update rgw.sessions set verified_at = now()`)
	w.exec(`alter table rgw.sessions enable trigger user`)
	if !verified() {
		t.Error("the page goes on asking for a factor that was given")
	}
}
