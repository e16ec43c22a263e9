package notify_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
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
	refused := told("app.delete", "", "reason", "")
	refused.App, refused.Phase, refused.Decision, refused.Status = "web", audit.PhaseRefused, audit.DecisionDeny, 403
	refused.Detail.Error, refused.Detail.TokenName, refused.Detail.Count = "you lack the right convox:app:delete: ask an administrator for it", "laptop", 10
	many := func(topic string) notify.Content {
		c := of(topic, refused)
		c.Count = 100
		return c
	}
	late := told("ledger.alert", "anchor-late")
	late.ActorLabel, late.Detail.Code, late.Detail.Error = "ledger", "anchor-late", "the newest checkpoint is 20 minutes old and not in the bucket: access denied"
	wrong := told("ledger.alert", "verification-failed")
	wrong.ActorLabel, wrong.Detail.Code, wrong.Detail.Error = "ledger", "verification-failed", "leaf 41 is not what the signed tree says"
	trouble := told("gateway.trouble", "database", "seconds", "95")
	trouble.ActorLabel, trouble.Detail.Error = "notices", "For 1m35s until 15:04:05 UTC: admin did not hear its database. It works again."
	updated := told("rack.update", "")
	updated.Status = 200
	return map[string]notify.Content{
		"welcome":         of("account.welcome", told("user.add", "dan@acme.com", "roles", "deployer@web viewer", "name", "Dan")),
		"roles":           of("account.roles", told("user.set_roles", "dan@acme.com", "old", "viewer", "new", "deployer@web", "given", "deployer@web", "taken", "viewer")),
		"locked":          of("account.locked", told("user.lock", "dan@acme.com", "reason", "lost a laptop")),
		"unlocked":        of("account.unlocked", told("user.unlock", "dan@acme.com", "locked_reason", "lost a laptop")),
		"factor-added":    of("account.factor", told("factor.add", "dan@acme.com", "kind", "totp", "name", "Phone")),
		"factor-removed":  of("account.factor", told("factor.remove", "dan@acme.com", "kind", "passkey", "name", "YubiKey 5C")),
		"factor-reset":    of("account.factor", told("factor.reset", "dan@acme.com", "reason", "lost the phone")),
		"factor-lock":     of("account.factor-lock", told("factor.lock", "dan@acme.com", "until", "2026-11-23T15:19:05Z", "failures", "5")),
		"sign-in":         of("account.sign-in", signIn),
		"refusals":        many("account.refusals"),
		"token-made":      of("token.made", told("token.create", "github-actions", "owner", "dan@acme.com", "kind", "api", "expires", "2027-02-21T15:04:05Z", "roles", "cicd@web")),
		"token-rotated":   of("token.made", told("token.rotate", "github-actions", "owner", "dan@acme.com", "expires", "2027-02-21T15:04:05Z", "old_until", "2026-11-24T15:04:05Z")),
		"token-expiring":  of("token.expiring", told("token.expires_soon", "github-actions", "owner", "dan@acme.com", "expires", "2026-11-28T15:04:05Z")),
		"token-expired":   of("token.expired", told("token.expired", "github-actions", "owner", "dan@acme.com", "expires", "2026-11-23T15:00:00Z")),
		"people-added":    added,
		"people-locked":   of("people.locked", told("user.lock", "dan@acme.com", "reason", "lost a laptop")),
		"people-factors":  of("people.factors", told("factor.reset", "dan@acme.com", "reason", "lost the phone")),
		"people-refusals": many("people.refusals"),
		"made-admin":      of("people.admin", told("user.set_roles", "dan@acme.com", "old", "viewer", "new", "admin", "given", "admin", "taken", "viewer")),
		"destructive":     of("gateway.destructive", told("setting.set", "allow_destructive", "old", "false", "new", "true")),
		"parameters":      of("rack.parameters", updated),
		"app-deleted":     of("app.deleted", deleted),
		"alert":           of("audit.alert", alert),
		"anchor":          of("audit.anchor-late", late),
		"verification":    of("audit.verification", wrong),
		"trouble":         of("gateway.trouble", trouble),
		"test":            {Topic: "test", Leaf: -1, Actor: "ana@acme.com", At: time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)},
		"digest":          digest,
		"hostile":         of("account.locked", nasty),
		"hostile-digest":  digestOf(of("people.locked", nasty)),
	}
}

// digestOf is a digest as long as they come, of one notice again and again.
func digestOf(c notify.Content) notify.Content {
	d := &notify.Digest{Total: 9999, Since: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)}
	for i, topic := range notify.Topics() {
		part := notify.DigestTopic{Topic: topic.Name, Many: 400}
		for range 8 {
			if of := c; i < 12 {
				of.Topic = topic.Name
				part.Some = append(part.Some, of)
			}
		}
		d.Topics = append(d.Topics, part)
	}
	return notify.Content{Topic: "digest", Leaf: -1, Digest: d}
}

var gateway = &url.URL{Scheme: "https", Host: "gateway.example.com"}

// Each topic that there is, is seen by somebody before it is mailed.
func TestEveryTopicHasAnExample(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range examples() {
		seen[c.Topic] = true
	}
	for _, topic := range notify.Topics() {
		if !seen[topic.Name] {
			t.Errorf("no golden file shows how %s reads", topic.Name)
		}
	}
}

func TestMailsReadAsAgreed(t *testing.T) {
	for name, c := range examples() {
		subject, text, html, err := notify.RenderMail(&c, gateway, "acme/staging")
		check(t, err)
		golden(t, name+".txt", "Subject: "+subject+"\n\n"+text)
		golden(t, name+".html", html)
		for i, line := range strings.Split(text, "\n") {
			if len([]rune(line)) > 78 && !strings.HasPrefix(line, "https://gateway.example.com/") && !strings.HasPrefix(line, "Subject: ") {
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
	harmless(t, &c)
	digest := examples()["hostile-digest"]
	harmless(t, &digest)
}

var opening = regexp.MustCompile(`<[a-zA-Z!/][a-zA-Z0-9]*`)

// harmless holds every form of a notice to what no name in it may do.
func harmless(t *testing.T, c *notify.Content) {
	t.Helper()
	subject, text, page, err := notify.RenderMail(c, gateway, "acme/staging")
	check(t, err)
	blocks, plain := notify.SlackMessage(notify.New(notify.Config{Console: gateway}), c)
	list, err := json.Marshal(blocks)
	check(t, err)
	if why := notifytest.WrongMessage(url.Values{"channel": {"C0OPS123"}, "text": {plain}, "blocks": {string(list)}}); why != "" {
		t.Errorf("Slack would not take it: %s %s", why, list)
	}
	for _, bad := range []string{"\r", "\x00", "\x1b", "\u202e", "\u2028"} {
		for where, s := range map[string]string{"subject": subject, "text": text, "html": page, "slack": plain + string(list)} {
			if strings.Contains(s, bad) {
				t.Errorf("%q is in the %s", bad, where)
			}
		}
	}
	if strings.Contains(subject, "\n") || utf8.RuneCountInString(subject) > 120 || !utf8.ValidString(subject+text+page) {
		t.Errorf("the subject: %q", subject)
	}
	for where, s := range map[string]string{"subject": subject, "text": text, "html": page} {
		if other := strings.ReplaceAll(s, "https://gateway.example.com/", ""); strings.Contains(other, "://") {
			t.Errorf("somebody else's address is a link in the %s: %s", where, other)
		}
	}
	// Whatever is not a tag of the template's came from a name.
	for _, tag := range opening.FindAllString(page, -1) {
		if !slices.Contains([]string{
			"<!doctype", "<html", "</html", "<head", "</head", "<meta", "<title", "</title", "<style", "</style", "<body", "</body", "<div", "</div", "<h1", "</h1", "<h2", "</h2",
			"<p", "</p", "<table", "</table", "<tr", "</tr", "<td", "</td", "<a", "</a", "<br",
		}, tag) {
			t.Errorf("%s is in the HTML", tag)
		}
	}
	for _, address := range links.FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(address[1], "https://gateway.example.com/") {
			t.Errorf("the HTML leads to %s", address[1])
		}
	}
	var decoded []any
	check(t, json.Unmarshal(list, &decoded))
	for _, s := range append(stringsIn(decoded), plain) {
		if strings.Contains(strings.ReplaceAll(s, "https://gateway.example.com/", ""), "://") {
			t.Errorf("somebody else's address is a link in Slack: %s", s)
		}
		for _, link := range slackLinks.FindAllString(s, -1) {
			if !strings.HasPrefix(link, "<https://gateway.example.com/") {
				t.Errorf("in Slack it leads to, or calls, %s", link)
			}
		}
	}
}

var (
	links      = regexp.MustCompile(`href="([^"]*)"`)
	slackLinks = regexp.MustCompile(`<[^>]*`)
)

// stringsIn are the texts anywhere in JSON.
func stringsIn(value any) (list []string) {
	switch v := value.(type) {
	case string:
		return []string{v}
	case []any:
		for _, x := range v {
			list = append(list, stringsIn(x)...)
		}
	case map[string]any:
		for _, x := range v {
			list = append(list, stringsIn(x)...)
		}
	}
	return list
}

func FuzzMail(f *testing.F) {
	actions := []string{"user.lock", "user.add", "user.set_roles", "token.create", "session.begin", "app.delete", "ledger.alert", "setting.set", "factor.remove"}
	topics := append(notify.Topics(), notify.Topic{Name: "channel app.delete"})
	f.Add(hostile, hostile, uint8(0), uint8(2), false)
	f.Add("\xff\xfe", "a\u202eb", uint8(1), uint8(23), true)
	f.Add("https://gateway.example.com.evil.example/x https://gateway.example.com/ok", "HTTPS://gateway.example.com@evil.example://", uint8(4), uint8(6), true)
	f.Add("<!channel>", "<@U0ANA> & <https://evil.example|click> *x* ```y", uint8(2), uint8(20), true)
	f.Add(strings.Repeat("&", 600), strings.Repeat("<", 600), uint8(3), uint8(24), true)
	f.Fuzz(func(t *testing.T, name, other string, action, topic uint8, digest bool) {
		e := told(actions[int(action)%len(actions)], name, "reason", other, "name", name, "roles", other, "owner", name, "device", other, "old", name, "new", other, "kind", name)
		e.ActorLabel, e.App, e.Detail.UserAgent, e.Detail.TokenName, e.Detail.Code, e.Detail.Error = other, name, other, name, other, name
		c := notify.ContentOf(topics[int(topic)%len(topics)].Name, 1, e)
		if digest {
			c = digestOf(c)
		}
		harmless(t, &c)
	})
}

// What an event holds beyond what notices may show goes nowhere: neither parameters that are not listed, nor paths.
func TestASecretGoesIntoNoNotice(t *testing.T) {
	const canary = "canary-4f1e9c"
	w := newWorld(t)
	// The first of each is refused with an answer that repeats what it was sent.
	w.postmark.Answer(func(rw http.ResponseWriter, r *http.Request, n int, _ *notifytest.Mail) bool {
		if n > 1 {
			return false
		}
		rw.WriteHeader(http.StatusServiceUnavailable)
		_, err := fmt.Fprintf(rw, `{"ErrorCode":1,"Message":"no: %s"}`, r.Header.Get("X-Postmark-Server-Token"))
		return err == nil
	})
	var refused atomic.Bool
	w.slack.Answer(func(rw http.ResponseWriter, method string, form url.Values) bool {
		if method != "chat.postMessage" || !refused.CompareAndSwap(false, true) {
			return false
		}
		rw.WriteHeader(http.StatusServiceUnavailable)
		_, err := fmt.Fprintf(rw, `no: %s`, form.Get("token"))
		return err == nil
	})
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
	if len(w.slack.Taken()) < 4 {
		t.Fatalf("%d messages: the rule does not work", len(w.slack.Taken()))
	}
	for _, m := range w.postmark.Taken() {
		if strings.Contains(m.TextBody+m.HTMLBody+m.Subject, canary) {
			t.Errorf("a mail tells it:\n%s", m.TextBody)
		}
	}
	for _, m := range w.slack.Taken() {
		if strings.Contains(m.Text+m.Blocks, canary) {
			t.Errorf("a message tells it: %s", m.Blocks)
		}
	}
	media, err := s.Media(t.Context())
	check(t, err)
	if !strings.Contains(media[0].Trouble, "no: [token]") || !refused.Load() {
		t.Errorf("nobody repeated what they were sent: %+v", media)
	}
	for _, hidden := range []string{canary, notifytest.PostmarkToken, notifytest.SlackToken, notifytest.SlackClientSecret, notifytest.SlackSigningSecret} {
		if strings.Contains(w.log.String(), hidden) {
			t.Errorf("the log tells %s", hidden)
		}
		for _, table := range []string{"notices", "notice_media", "notice_rules", "notice_choices", "notice_addresses", "notice_places", "notice_refusals", "notice_marks", "integrations"} {
			if n := w.count(`select count(*) from rgw.`+table+` x where x::text like '%' || $1 || '%'`, hidden); n != 0 {
				t.Errorf("%s holds %s", table, hidden)
			}
		}
		if n := w.count(`select count(*) from rgw.audit_events x where x::text like '%' || $1 || '%'`, hidden); n != 0 && hidden != canary { // which is in what this test recorded
			t.Errorf("an event tells %s", hidden)
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
