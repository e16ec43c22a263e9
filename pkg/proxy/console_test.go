package proxy_test

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/proxy"
)

// session begins a browser session of somebody.
func (g *gateway) session(c caller) credential.Token {
	g.t.Helper()
	token, err := credential.New(credential.Session)
	if err != nil {
		g.t.Fatal(err)
	}
	hash := token.Hash()
	g.change(`insert into rgw.sessions (hash, user_id, expires_at) values ($1, $2, now() + interval '12 hours')`, hash[:], c.UserID)
	return token
}

// adminFrom has admin ask from these networks, behind these balancers.
func adminFrom(admin, balancers string) gatewayOption {
	return func(c *proxy.Config) {
		c.AdminNetworks = []netip.Prefix{netip.MustParsePrefix(admin)}
		if balancers != "" {
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(balancers)}
		}
	}
}

// ask sends GET /apps with headers, NAME: VALUE each.
func (g *gateway) ask(headers ...string) (int, string) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), "GET", g.URL.String()+"/api/v1/rack-proxy/apps", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// anApp is a rack of one app, which notes what it was sent.
func anApp(seen *http.Header) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apps" {
			*seen = r.Header.Clone()
		}
		_, _ = io.WriteString(w, `[{"name":"web"}]`)
	})
}

func (g *gateway) last() audit.Event {
	g.t.Helper()
	events := g.events()
	if len(events) == 0 {
		g.t.Fatal("nothing was recorded")
	}
	return events[len(events)-1]
}

func TestAdminShowsTheRackAsThePersonWhoLooks(t *testing.T) {
	var seen http.Header
	g := newGateway(t, anApp(&seen), adminFrom("127.0.0.0/8", ""))
	ana := g.person("viewer")
	session := g.session(ana)
	status, body := g.ask("Authorization: Bearer "+session.Reveal(), "Rgw-Client-Address: 198.51.100.7")
	if status != http.StatusOK || !strings.Contains(body, "web") {
		t.Fatalf("%d %s", status, body)
	}
	e := g.last()
	if e.ActorLabel != ana.Email || e.ActorKind != audit.ActorUser || e.Address.String() != "198.51.100.7" || e.Detail.Auth != "session" || e.Detail.Client != "console" {
		t.Errorf("recorded is %+v", e)
	}
	if seen["Rgw-Client-Address"] != nil || strings.Contains(seen.Get("Authorization"), session.Reveal()) {
		t.Errorf("the rack was sent %v", seen)
	}

	if status, _ := g.ask("Authorization: Bearer "+session.Reveal(), "Rgw-Client-Address: 198.51.100.7", "Rgw-Client-Address: 203.0.113.9"); status != http.StatusBadRequest {
		t.Errorf("with two addresses: %d", status)
	}
	if status, _ := g.ask("Authorization: Bearer "+session.Reveal(), "Rgw-Client-Address: somewhere"); status != http.StatusBadRequest {
		t.Errorf("with an address that is none: %d", status)
	}

	g.change(`update rgw.sessions set revoked_at = now()`)
	for limit := time.Now().Add(30 * time.Second); status != http.StatusUnauthorized && time.Now().Before(limit); {
		status, body = g.ask("Authorization: Bearer " + session.Reveal())
	}
	if !strings.Contains(body, "sign in again") || strings.Contains(body, "convox login") {
		t.Errorf("whose session was ended is told %s", body)
	}
}

// A pipeline's networks are compared with where it is, also when it asks by way of admin.
func TestTheAddressThatAdminGivesCountsForATokensNetworks(t *testing.T) {
	var seen http.Header
	g := newGateway(t, anApp(&seen), adminFrom("127.0.0.0/8", ""))
	ci := g.pipeline("viewer")
	g.change(`update rgw.tokens set source_cidrs = '{198.51.100.0/24}' where id = $1`, ci.TokenID)
	if status, body := g.ask("Authorization: Bearer "+ci.Token, "Rgw-Client-Address: 198.51.100.7"); status != http.StatusOK || g.last().Detail.Client != "api" {
		t.Errorf("from its network: %d %s", status, body)
	}
	if status, body := g.ask("Authorization: Bearer "+ci.Token, "Rgw-Client-Address: 203.0.113.9"); status != http.StatusForbidden {
		t.Errorf("from another: %d %s", status, body)
	}
}

// From anybody but admin a session is refused and an address is not believed, whichever way they come.
func TestOnlyAdminBringsSessionsAndAddresses(t *testing.T) {
	for what, test := range map[string]struct {
		option  gatewayOption
		headers []string
		as      string // the address that is recorded
		good    bool
	}{
		"no networks of admin":                      {func(*proxy.Config) {}, nil, "127.0.0.1", false},
		"other networks":                            {adminFrom("10.0.3.0/24", ""), nil, "127.0.0.1", false},
		"by a balancer that is not known":           {adminFrom("127.0.0.0/8", ""), []string{"X-Forwarded-For: 127.0.0.1"}, "127.0.0.1", false},
		"by one that says Forwarded":                {adminFrom("127.0.0.0/8", ""), []string{"Forwarded: for=127.0.0.1"}, "127.0.0.1", false},
		"a client by a balancer":                    {adminFrom("10.0.3.0/24", "127.0.0.0/8"), []string{"X-Forwarded-For: 10.0.3.7, 203.0.113.9"}, "203.0.113.9", false},
		"a client by a balancer in admin's network": {adminFrom("127.0.0.0/8", "127.0.0.0/8"), []string{"X-Forwarded-For: 203.0.113.9"}, "203.0.113.9", false},
		"admin by a balancer":                       {adminFrom("10.0.3.0/24", "127.0.0.0/8"), []string{"X-Forwarded-For: 10.0.3.7"}, "198.51.100.7", true},
		"admin in a balancer's network, directly":   {adminFrom("127.0.0.0/8", "127.0.0.0/8"), nil, "198.51.100.7", true},
	} {
		var seen http.Header
		g := newGateway(t, anApp(&seen), test.option)
		ana := g.person("viewer")
		headers := append(test.headers, "Rgw-Client-Address: 198.51.100.7")
		status, body := g.ask(append(headers, "Authorization: Bearer "+g.session(ana).Reveal())...)
		if test.good != (status == http.StatusOK) || !test.good && (status != http.StatusUnauthorized || !strings.Contains(body, "session-elsewhere")) {
			t.Errorf("%s: a session gets %d %s", what, status, body)
		}
		if e := g.last(); e.Address.String() != test.as {
			t.Errorf("%s: recorded is the address %s, want %s", what, e.Address, test.as)
		}
		if status, body := g.ask(append(headers, "Authorization: Bearer "+ana.Token)...); status != http.StatusOK || g.last().Address.String() != test.as {
			t.Errorf("%s: a token gets %d %s, recorded with the address %s, want %s", what, status, body, g.last().Address, test.as)
		}
		if seen["Rgw-Client-Address"] != nil {
			t.Errorf("%s: the rack was sent the address", what)
		}
	}
}

// A cookie is nothing to the proxy, and a session is no password.
func TestASessionCountsAsABearerAlone(t *testing.T) {
	var seen http.Header
	g := newGateway(t, anApp(&seen), adminFrom("127.0.0.0/8", ""))
	session := g.session(g.person("admin"))
	if status, body := g.ask("Authorization: " + basic("convox", session.Reveal())); status != http.StatusUnauthorized || !strings.Contains(body, "session-elsewhere") {
		t.Errorf("as a password: %d %s", status, body)
	}
	if status, body := g.ask("Cookie: __Host-rgw-session=" + session.Reveal()); status != http.StatusUnauthorized || !strings.Contains(body, "no-credential") {
		t.Errorf("as a cookie: %d %s", status, body)
	}
}

// Somebody who left, and so does not sign in any more, is out after reauth_days, and told what to do in words that the
// stock CLI shows.
func TestACLITokenWaitsForItsOwnerToSignIn(t *testing.T) {
	var seen http.Header
	g := newGateway(t, anApp(&seen))
	ana := g.person("viewer")
	g.change(`update rgw.tokens set created_at = now() - interval '8 days' where id = $1`, ana.TokenID)
	status, body := g.ask("Authorization: Bearer " + ana.Token)
	if status != http.StatusUnauthorized || !strings.Contains(body, "cli token is expired: sign in at https://gw.example.com and run again") || !strings.Contains(body, "sign-in-due") {
		t.Errorf("%d %s", status, body)
	}
	if e := g.last(); e.ActorLabel != ana.Email || e.Detail.Code != "sign-in-due" {
		t.Errorf("recorded is %+v", e)
	}
	g.change(`update rgw.users set signed_in_at = now() where id = $1`, ana.UserID)
	if status, body := g.ask("Authorization: Bearer " + ana.Token); status != http.StatusOK {
		t.Errorf("after signing in: %d %s", status, body)
	}
}
