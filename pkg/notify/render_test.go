package notify_test

import (
	"flag"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/notify"
)

var update = flag.Bool("update", false, "write the golden files anew")

// told is an event of a fixed moment.
func told(action, resource string, params ...string) *audit.Event {
	e := audit.NewEvent(time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC))
	e.ID, e.RequestID = uuid.MustParse("0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f"), uuid.MustParse("0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e60")
	e.ActorKind, e.ActorLabel, e.Action, e.Resource = audit.ActorUser, "ana@acme.com", action, resource
	e.Address, e.Detail.UserAgent = netip.MustParseAddr("198.51.100.7"), "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
	for i := 0; i+1 < len(params); i += 2 {
		e.Detail.Params.Add(params[i], params[i+1])
	}
	return e
}

const hostile = "<script>alert(1)</script> \"><img src=x onerror=alert(2)> \r\nBcc: eve@evil.example\r\n \u202egnp.exe {{.}} %s %d \x1b[31m\x00 " +
	"https://evil.example/very/long/path/without/any/break/at/all/that/would/make/a/page/scroll/sideways/on/a/phone"

// examples are the notices that golden files hold.
func examples() map[string]notify.Content {
	of := func(topic string, e *audit.Event) notify.Content { return notify.ContentOf(topic, 41, e) }
	alert := told("ledger.alert", "mac-wrong")
	alert.ActorLabel, alert.Detail.Code, alert.Detail.Error = "ledger", "mac-wrong", "event 0190b4a0 is not as its writer made it: somebody changed it in the database before it got its place"
	deleted := told("app.delete", "")
	deleted.App, deleted.Status = "web", 200
	signIn := told("session.begin", "ana@acme.com", "network", "198.51.0.0/16", "device", "Firefox on Linux")
	nasty := told("user.lock", hostile, "reason", hostile)
	nasty.ActorLabel, nasty.Detail.UserAgent, nasty.App, nasty.Detail.TokenName = hostile, hostile, hostile, hostile
	added := of("people.added", told("user.add", "dan@acme.com", "roles", "viewer"))
	digest := notify.Content{Topic: "digest", Leaf: -1, Digest: &notify.Digest{
		Total: 42, Since: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC),
		Topics: []notify.DigestTopic{{Topic: "people.added", Many: 41, Some: []notify.Content{added, added}}, {Topic: "app.deleted", Many: 1, Some: []notify.Content{of("app.deleted", deleted)}}},
	}}
	return map[string]notify.Content{
		"welcome":        of("account.welcome", told("user.add", "dan@acme.com", "roles", "deployer@web viewer", "name", "Dan")),
		"locked":         of("account.locked", told("user.lock", "dan@acme.com", "reason", "lost a laptop")),
		"sign-in":        of("account.sign-in", signIn),
		"token-made":     of("token.made", told("token.create", "github-actions", "owner", "dan@acme.com", "kind", "api", "expires", "2027-02-21T15:04:05Z", "roles", "cicd@web")),
		"token-expiring": of("token.expiring", told("token.expires_soon", "github-actions", "owner", "dan@acme.com", "expires", "2026-11-28T15:04:05Z")),
		"factor-removed": of("account.factor", told("factor.remove", "dan@acme.com", "kind", "passkey", "name", "YubiKey 5C")),
		"made-admin":     of("people.admin", told("user.set_roles", "dan@acme.com", "old", "viewer", "new", "admin", "given", "admin", "taken", "viewer")),
		"alert":          of("audit.alert", alert),
		"app-deleted":    of("app.deleted", deleted),
		"digest":         digest,
		"hostile":        of("account.locked", nasty),
	}
}

var gateway = &url.URL{Scheme: "https", Host: "gateway.example.com"}

func TestMailsReadAsAgreed(t *testing.T) {
	for name, c := range examples() {
		subject, text, html, err := notify.RenderMail(&c, gateway, "acme/staging")
		check(t, err)
		golden(t, name+".txt", "Subject: "+subject+"\n\n"+text)
		golden(t, name+".html", html)
		for i, line := range strings.Split(text, "\n") {
			if len([]rune(line)) > 100 && !strings.Contains(line, "https://") {
				t.Errorf("%s: line %d has %d characters", name, i+1, len([]rune(line)))
			}
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "mail", name)
	if *update {
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is another (go test ./pkg/notify -update): %s", name, diff)
	}
}

func TestNoNameBecomesMarkupOrAHeader(t *testing.T) {
	c := examples()["hostile"]
	subject, text, html, err := notify.RenderMail(&c, gateway, "acme/staging")
	check(t, err)
	blocks, plain := notify.SlackMessage(notify.New(notify.Config{Console: gateway}), &c)
	_ = blocks
	for _, bad := range []string{"\r", "\x00", "\x1b", "\u202e"} {
		for where, s := range map[string]string{"subject": subject, "text": text, "html": html, "slack": plain} {
			if strings.Contains(s, bad) {
				t.Errorf("%q is in the %s", bad, where)
			}
		}
	}
	if strings.Contains(subject, "\n") {
		t.Errorf("the subject has lines: %q", subject)
	}
	for _, bad := range []string{"<script", "<img", "onerror=alert(2)>"} {
		if strings.Contains(html, bad) {
			t.Errorf("%q is in the HTML", bad)
		}
	}
	if strings.Contains(plain, "<script") {
		t.Errorf("Slack shows %q", plain)
	}
}

func FuzzMail(f *testing.F) {
	f.Add(hostile)
	f.Add("\xff\xfe")
	f.Fuzz(func(t *testing.T, name string) {
		e := told("user.lock", name, "reason", name)
		e.ActorLabel = name
		c := notify.ContentOf("account.locked", 1, e)
		subject, text, html, err := notify.RenderMail(&c, gateway, name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(notify.Short(name), "\r\n\x00") || strings.ContainsAny(c.Resource, "\r\n\x00") || text == "" {
			t.Errorf("%q", subject)
		}
		if strings.Contains(html, "<script") {
			t.Errorf("%q", html)
		}
	})
}

// What an event holds beyond what notices may show goes nowhere: neither parameters that are not listed, nor paths.
func TestASecretGoesIntoNoNotice(t *testing.T) {
	const canary = "canary-4f1e9c"
	w := newWorld(t)
	s, _ := w.notices()
	w.connect(s)
	_, err := s.AddRule(t.Context(), w.by, "C0OPS123", "ops", []string{"*", "refused", "alert"})
	check(t, err)
	ana := w.addUser("ana@acme.com", adminRole())
	for _, action := range []string{"app.delete", "rack.update", "release.create", "setting.set", "token.create"} {
		e := event(ana, action)
		e.Resource, e.Status = "allow_destructive", 200
		e.Detail.Path, e.Detail.Params = "/apps/"+canary, audit.Params{{Name: "env", Value: canary}, {Name: "password", Value: canary}, {Name: "subject", Value: canary}, {Name: "prefix", Value: canary}}
		w.record(e)
	}
	w.quiet()
	if len(w.slack.taken()) < 4 {
		t.Fatalf("%d messages: the rule does not work", len(w.slack.taken()))
	}
	for _, m := range w.postmark.taken() {
		if strings.Contains(m.TextBody+m.HTMLBody+m.Subject, canary) {
			t.Errorf("a mail tells it:\n%s", m.TextBody)
		}
	}
	for _, m := range w.slack.taken() {
		if strings.Contains(m.Text+m.Blocks, canary) {
			t.Errorf("a message tells it: %s", m.Blocks)
		}
	}
	for _, hidden := range []string{canary, postmarkToken, slackToken, slackClientSecret, slackSigningSecret} {
		if strings.Contains(w.log.String(), hidden) {
			t.Errorf("the log tells %s", hidden)
		}
		if n := w.count(`select count(*) from rgw.notices where content::text like '%' || $1 || '%' or trouble like '%' || $1 || '%'`, hidden); n != 0 {
			t.Errorf("the outbox holds %s", hidden)
		}
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	now := time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "30": 30 * time.Second, "-5": 0, "99999": time.Hour, "soon": 0, "Mon, 23 Nov 2026 15:05:05 GMT": time.Minute, "Mon, 23 Nov 2026 15:00:05 GMT": 0,
	} {
		if got := notify.RetryAfter(map[string][]string{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestDevicesAndNetworksAreTold(t *testing.T) {
	for agent, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0":                                                                  "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 Edg/130.0.0.0":           "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15":                   "Safari on macOS",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1": "Safari on iPhone",
		"curl/8.0": "curl", "": "", "convox/3.24": "convox",
	} {
		if got := notify.DeviceOf(agent); got != want {
			t.Errorf("%q is %q, want %q", agent, got, want)
		}
	}
	for address, want := range map[string]string{"198.51.100.7": "198.51.0.0/16", "::ffff:198.51.100.7": "198.51.0.0/16", "2001:db8:1:2::3": "2001:db8::/32"} {
		if got := notify.NetworkOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}
