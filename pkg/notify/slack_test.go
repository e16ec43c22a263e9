package notify_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

// connect installs the app as an administrator does.
func (w *world) connect(s *notify.Service) {
	w.t.Helper()
	address, err := s.BeginSlack(w.by)
	check(w.t, err)
	u, err := url.Parse(address)
	check(w.t, err)
	_, err = s.FinishSlack(w.t.Context(), w.by, "good-code", u.Query().Get("state"))
	check(w.t, err)
}

func TestSlackIsConnectedByWhoBeganIt(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	address, err := s.BeginSlack(w.by)
	check(t, err)
	u, err := url.Parse(address)
	check(t, err)
	state := u.Query().Get("state")
	if u.Host != "slack.com" || u.Query().Get("redirect_uri") != "https://gateway.example.com/console/integrations/slack" {
		t.Errorf("it begins at %s", address)
	}
	other := w.by
	other.ID = "somebody else"
	for name, try := range map[string]func() error{
		"another person": func() error { _, err := s.FinishSlack(t.Context(), other, "good-code", state); return err },
		"a changed state": func() error {
			_, err := s.FinishSlack(t.Context(), w.by, "good-code", "x"+state)
			return err
		},
		"no state": func() error { _, err := s.FinishSlack(t.Context(), w.by, "good-code", ""); return err },
	} {
		if err := try(); directory.CodeOf(err) != "bad-state" {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := s.FinishSlack(t.Context(), w.by, "good-code", state)
	check(t, err)
	if !got.Connected || got.TeamName != "Acme" {
		t.Errorf("it is %+v", got)
	}
	if _, err := s.FinishSlack(t.Context(), w.by, "good-code", state); directory.CodeOf(err) != "bad-state" {
		t.Errorf("a state was taken twice: %v", err)
	}
	if n := w.count(`select count(*) from rgw.integrations where position($1 in sealed) > 0 or detail::text like '%' || $2 || '%'`, []byte(notifytest.SlackToken), notifytest.SlackToken); n != 0 {
		t.Error("the token is in the database in the clear")
	}

	channels, err := s.Channels(t.Context())
	check(t, err)
	if len(channels) != 2 || channels[0].Name != "general" {
		t.Errorf("the channels are %+v", channels)
	}
	check(t, s.RemoveSlack(t.Context(), w.by))
	if !w.slack.Revoked() || w.count(`select count(*) from rgw.integrations`) != 0 {
		t.Error("the token lives on")
	}
}

func TestAChannelIsToldOfWhatItsRuleSaysInThreads(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices()
	w.connect(s)
	if _, err := s.AddRule(t.Context(), w.by, "ops", "", []string{"*"}); directory.CodeOf(err) != "bad-channel" {
		t.Errorf("a channel by name: %v", err)
	}
	w.told() // the refusal before there is a channel to tell of it
	_, err := s.AddRule(t.Context(), w.by, "C0OPS123", "#ops", []string{"app:*", "refused"})
	check(t, err)
	ana := w.addUser("ana@acme.com", adminRole())
	request := audit.NewEvent(time.Now()).RequestID
	for i := range 5 {
		e := event(ana, "app.update")
		e.RequestID, e.App, e.Status = request, fmt.Sprintf("web%d", i), 200
		w.record(e)
	}
	read := event(ana, "app.list")
	w.record(read)
	e := event(ana, "app.delete")
	e.App, e.Phase, e.Decision, e.Status = "<!channel> & *bold* <https://evil.example|here>", audit.PhaseRefused, audit.DecisionDeny, 403
	w.record(e)
	eventually(t, "six messages", func() bool { return len(w.slack.Taken()) == 6 })
	w.quiet()
	got := w.slack.Taken()
	for i, m := range got[:5] {
		if m.Channel != "C0OPS123" || !strings.Contains(m.Text, fmt.Sprintf("web%d", i)) {
			t.Errorf("message %d is %q in %s: the order is lost", i, m.Text, m.Channel)
		}
		if i > 0 && m.Thread != got[0].TS {
			t.Errorf("message %d is not in the thread of its request", i)
		}
	}
	hostile := got[5]
	if hostile.Thread != "" || strings.Contains(hostile.Text, "<!channel>") || strings.Contains(hostile.Blocks, "<!channel>") || strings.Contains(hostile.Blocks, "<https://evil") {
		t.Errorf("a hostile name goes through: %s %s", hostile.Text, hostile.Blocks)
	}
}

func TestANewApplicationKeyKeepsSlackConnected(t *testing.T) {
	w := newWorld(t)
	w.connect(w.service())
	old := secret.NewText(strings.Repeat("application key of tests ", 4))
	fresh := secret.NewText(strings.Repeat("the next application key ", 4))
	both, err := seal.NewKeys(fresh, old)
	check(t, err)
	rekey := func(keys seal.Keys) (done, lost int) {
		tx, err := w.admin.BeginTxx(t.Context(), nil)
		check(t, err)
		done, lost, err = notify.Rekey(t.Context(), tx, keys.Box(notify.SealPurpose))
		check(t, err)
		check(t, tx.Commit())
		return done, lost
	}
	if done, lost := rekey(both); done != 1 || lost != 0 {
		t.Errorf("%d sealed anew, %d lost", done, lost)
	}
	if done, lost := rekey(both); done != 0 || lost != 0 {
		t.Errorf("the second time %d sealed anew, %d lost", done, lost)
	}
	w.keys, err = seal.NewKeys(fresh, secret.Text{})
	check(t, err)
	channels, err := w.service().Channels(t.Context())
	check(t, err)
	if len(channels) != 2 {
		t.Errorf("with the new key alone the channels are %+v", channels)
	}
	unknown, err := seal.NewKeys(old, secret.Text{})
	check(t, err)
	if done, lost := rekey(unknown); done != 0 || lost != 1 {
		t.Errorf("with a key that does not open it %d sealed anew, %d lost", done, lost)
	}
}

func TestAPersonIsFoundInSlackByTheirAddress(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices()
	w.connect(s)
	for _, email := range []string{"ana@acme.com", "dan@acme.com"} {
		w.addUser(email)
	}
	w.quiet()
	yes := true
	for _, email := range []string{"ana@acme.com", "dan@acme.com"} {
		_, err := s.Choose(t.Context(), w.by, email, []notify.Wish{{Topic: "account.locked", Slack: &yes}})
		check(t, err)
		_, err = w.writer.Lock(t.Context(), w.by, email, "test")
		check(t, err)
	}
	w.quiet()
	got := w.slack.Taken()
	if len(got) != 1 || got[0].Channel != "U0ANA" {
		t.Errorf("the messages are %+v", got)
	}
	list, err := s.List(t.Context(), notify.Filter{Medium: "slack", State: "dead"})
	check(t, err)
	if len(list) != 1 || !strings.Contains(list[0].Trouble, "nobody in the Slack workspace") {
		t.Errorf("who is not in Slack: %+v", list)
	}
}

// Slack is asked once who somebody is, and again when who was there is gone.
func TestAPersonIsLookedUpOnceInSlack(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices()
	w.connect(s)
	w.addUser("ana@acme.com")
	var mu sync.Mutex
	id, looked, gone := "U0ANA", 0, map[string]bool{}
	w.slack.Answer(func(rw http.ResponseWriter, method string, form url.Values) bool {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case method == "users.lookupByEmail":
			looked++
			fmt.Fprintf(rw, `{"ok":true,"user":{"id":%q,"deleted":%t}}`, id, gone[id])
			return true
		case method == "chat.postMessage" && gone[form.Get("channel")]:
			notifytest.SlackError(rw, "user_disabled")
			return true
		}
		return false
	})
	send := func() {
		t.Helper()
		_, err := s.Test(t.Context(), w.by, "slack", "@ana@acme.com")
		check(t, err)
		w.quiet()
	}
	for range 3 {
		send()
	}
	mu.Lock()
	if looked != 1 {
		t.Errorf("Slack was asked %d times who somebody is", looked)
	}
	gone[id], id = true, "U0ANA2"
	mu.Unlock()
	send()
	if got := w.slack.Taken(); len(got) != 4 || got[3].Channel != "U0ANA2" {
		t.Errorf("the messages are %+v", got)
	}
	mu.Lock()
	gone[id] = true
	mu.Unlock()
	send()
	list, err := s.List(t.Context(), notify.Filter{State: "dead"})
	check(t, err)
	if len(list) != 1 || !strings.Contains(list[0].Trouble, "deactivated") {
		t.Errorf("who is not there any more: %+v", list)
	}
}

// Slack's answers, and what becomes of a message by each.
func TestWhatSlackAnswersDecidesWhatIsNext(t *testing.T) {
	once := func(f func(w http.ResponseWriter)) func(w http.ResponseWriter, method string, form url.Values) bool {
		done := false
		return func(w http.ResponseWriter, method string, _ url.Values) bool {
			if method != "chat.postMessage" || done {
				return false
			}
			done = true
			f(w)
			return true
		}
	}
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		state  string
	}{
		{"rate limit", func(w http.ResponseWriter) { w.Header().Set("Retry-After", "1"); w.WriteHeader(429) }, "sent"},
		{"trouble", func(w http.ResponseWriter) { w.WriteHeader(503) }, "sent"},
		{"internal_error", func(w http.ResponseWriter) { fmt.Fprint(w, `{"ok":false,"error":"internal_error"}`) }, "sent"},
		{"cut", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "sent"},
		{"channel_not_found", func(w http.ResponseWriter) { fmt.Fprint(w, `{"ok":false,"error":"channel_not_found"}`) }, "dead"},
		{"is_archived", func(w http.ResponseWriter) { fmt.Fprint(w, `{"ok":false,"error":"is_archived"}`) }, "dead"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Answer(once(c.answer))
			s, _ := w.notices()
			w.connect(s)
			_, err := s.Test(t.Context(), w.by, "slack", "C0OPS123")
			check(t, err)
			eventually(t, "it is "+c.state, func() bool { return w.count(`select count(*) from rgw.notices where state = $1`, c.state) == 1 })
			if got := len(w.slack.Taken()); (c.state == "sent") != (got == 1) {
				t.Errorf("%d messages were taken", got)
			}
		})
	}
}

// signed is a request as Slack makes it.
func signed(path, body, key string, at time.Time) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://gateway.example.com"+notify.HooksPath+path, strings.NewReader(body))
	stamp := fmt.Sprint(at.Unix())
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
	r.Header.Set("X-Slack-Request-Timestamp", stamp)
	r.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	return r
}

func TestOnlyWhatSlackSignedIsRead(t *testing.T) {
	w := newWorld(t)
	hooks := w.service().Hooks(secret.Text{})
	const challenge = `{"type":"url_verification","challenge":"abc"}`
	unsigned := httptest.NewRequest(http.MethodPost, "https://gateway.example.com"+notify.HooksPath+"/slack/events", strings.NewReader(challenge))
	for name, c := range map[string]struct {
		r      *http.Request
		status int
	}{
		"signed":          {signed("/slack/events", challenge, notifytest.SlackSigningSecret, time.Now()), 200},
		"another secret":  {signed("/slack/events", challenge, "another", time.Now()), 401},
		"ten minutes ago": {signed("/slack/events", challenge, notifytest.SlackSigningSecret, time.Now().Add(-10*time.Minute)), 401},
		"not signed":      {unsigned, 401},
		"too large":       {signed("/slack/events", strings.Repeat("x", 300<<10), notifytest.SlackSigningSecret, time.Now()), 413},
		"no postmark":     {httptest.NewRequest(http.MethodPost, "https://gateway.example.com"+notify.HooksPath+"/postmark", nil), 404},
	} {
		got := httptest.NewRecorder()
		hooks.ServeHTTP(got, c.r)
		if got.Code != c.status {
			t.Errorf("%s: %d %s", name, got.Code, got.Body)
		}
	}
}

// Removed at Slack, the connection is over, once, however often Slack says so; what it says late is not about a new one.
func TestSlackSaysThatTheAppWasRemoved(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	w.connect(s)
	hooks := s.Hooks(secret.Text{})
	tell := func(team, what string, at time.Time) int {
		body := fmt.Sprintf(`{"type":"event_callback","team_id":%q,"event_time":%d,"event":{"type":%q}}`, team, at.Unix(), what)
		got := httptest.NewRecorder()
		hooks.ServeHTTP(got, signed("/slack/events", body, notifytest.SlackSigningSecret, time.Now()))
		return got.Code
	}
	connected := func() int { return w.count(`select count(*) from rgw.integrations`) }
	for name, code := range map[string]int{
		"of another workspace":       tell("T0ELSE", "app_uninstalled", time.Now().Add(time.Second)),
		"something else":             tell("T0TEAM", "message", time.Now().Add(time.Second)),
		"before it was connected":    tell("T0TEAM", "app_uninstalled", time.Now().Add(-time.Minute)),
		"tokens before that revoked": tell("T0TEAM", "tokens_revoked", time.Now().Add(-time.Minute)),
	} {
		if code != 200 {
			t.Errorf("%s: %d", name, code)
		}
	}
	if connected() != 1 {
		t.Fatal("it was disconnected by what is not about it")
	}
	for range 2 {
		if code := tell("T0TEAM", "app_uninstalled", time.Now().Add(time.Second)); code != 200 {
			t.Errorf("removed: %d", code)
		}
	}
	if connected() != 0 {
		t.Error("the token of an app that was removed is kept")
	}
	if n := w.count(`select count(*) from rgw.audit_events where action = 'integration.disconnect' and phase = 'finished'`); n != 1 {
		t.Errorf("%d events tell of it", n)
	}
}

func TestAButtonIsFollowedWhenTheGatewayMadeIt(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	w.connect(s)
	var pressed []notify.Press
	s.OnPress("approve", func(_ context.Context, p notify.Press) (string, error) {
		pressed = append(pressed, p)
		return "approved", nil
	})
	hooks := s.Hooks(secret.Text{})
	press := func(name, value, team string) string {
		payload, err := json.Marshal(map[string]any{
			"type": "block_actions", "team": map[string]string{"id": team}, "user": map[string]string{"id": "U0ANA"}, "channel": map[string]string{"id": "C0OPS123"},
			"message": map[string]string{"ts": "1.2"}, "actions": []map[string]string{{"type": "button", "action_id": name, "block_id": "b", "value": value}},
		})
		check(t, err)
		got := httptest.NewRecorder()
		hooks.ServeHTTP(got, signed("/slack/interactions", url.Values{"payload": {string(payload)}}.Encode(), notifytest.SlackSigningSecret, time.Now()))
		if got.Code != 200 {
			t.Fatalf("%d %s", got.Code, got.Body)
		}
		return got.Body.String()
	}
	good := s.SignButton("approve", "deploy 7", time.Now().Add(time.Hour))
	if got := press("approve", good, "T0TEAM"); !strings.Contains(got, "approved") {
		t.Errorf("it answers %s", got)
	}
	if len(pressed) != 1 || pressed[0].Subject != "deploy 7" || pressed[0].Email != "ana@acme.com" {
		t.Errorf("what was pressed: %+v", pressed)
	}
	press("reject", good, "T0TEAM")  // made for another
	press("approve", good, "T0ELSE") // another workspace
	press("approve", s.SignButton("approve", "deploy 7", time.Now().Add(-time.Second)), "T0TEAM")
	press("approve", good+"x", "T0TEAM")
	if len(pressed) != 1 {
		t.Errorf("%d presses were followed", len(pressed))
	}
	if n := w.count(`select count(*) from rgw.audit_events where action = 'slack.press' and phase = 'refused'`); n != 3 {
		t.Errorf("%d refusals were recorded", n)
	}
}

func TestBouncesAndComplaintsAreKept(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(c *notify.Config) {
		c.ClientAddress = func(*http.Request) netip.Addr { return netip.MustParseAddr("203.0.113.9") }
	})
	w.addUser("dan@acme.com")
	const password = "webhook-password-of-tests"
	hooks := s.Hooks(secret.NewText(password))
	send := func(password, body string) int {
		r := httptest.NewRequest(http.MethodPost, "https://gateway.example.com"+notify.HooksPath+"/postmark", strings.NewReader(body))
		r.SetBasicAuth("postmark", password)
		got := httptest.NewRecorder()
		hooks.ServeHTTP(got, r)
		return got.Code
	}
	const bounce = `{"RecordType":"Bounce","Type":"HardBounce","TypeCode":1,"Email":"Dan@acme.com","Description":"The server was unable to deliver your message.","Inactive":true}`
	if got := send("wrong", bounce); got != 401 {
		t.Errorf("a wrong password: %d", got)
	}
	for range 2 { // Postmark sends again what was not answered in time
		if got := send(password, bounce); got != 200 {
			t.Errorf("a bounce: %d", got)
		}
	}
	got, err := s.Address(t.Context(), "dan@acme.com")
	check(t, err)
	if got.State != "bounced" || !strings.Contains(got.Reason, "unable to deliver") {
		t.Errorf("it is %+v", got)
	}
	if n := w.count(`select count(*) from rgw.audit_events where action = 'mail.bounced'`); n != 1 {
		t.Errorf("%d events of one bounce", n)
	}
	send(password, `{"RecordType":"SpamComplaint","Email":"dan@acme.com"}`)
	if got, _ := s.Address(t.Context(), "dan@acme.com"); got.State != "complained" {
		t.Errorf("it is %+v", got)
	}
	send(password, `{"RecordType":"SubscriptionChange","Recipient":"dan@acme.com","SuppressSending":false}`)
	if got, _ := s.Address(t.Context(), "dan@acme.com"); got.State != "" {
		t.Errorf("it is %+v", got)
	}
	if got := send(password, `{"RecordType":"Bounce","Type":"SoftBounce","Email":"dan@acme.com"}`); got != 200 || w.count(`select count(*) from rgw.notice_addresses`) != 0 {
		t.Error("a soft bounce counts as a hard one")
	}
	if got := send(password, `{"`); got != 400 {
		t.Errorf("what is no JSON: %d", got)
	}

	// What is not about anybody here is not kept, and what the database could not hold is not sent again and again.
	for _, address := range []string{"stranger@elsewhere.example", `dan@acme.com\u0000`, `\u202edan@acme.com`, strings.Repeat("a", 300), ""} {
		if got := send(password, strings.ReplaceAll(bounce, "Dan@acme.com", address)); got != 200 || w.count(`select count(*) from rgw.notice_addresses`) != 0 {
			t.Errorf("a bounce of %q: %d", address, got)
		}
	}
	if got := send(password, `{"RecordType":"Bounce","Type":"HardBounce","Email":"dan@acme.com","Description":"a\u0000b\r\nc\ud800"}`); got != 200 {
		t.Errorf("a description with control characters: %d", got)
	}
	if got, _ := s.Address(t.Context(), "dan@acme.com"); got.Reason != "ab  c" {
		t.Errorf("the reason is %q", got.Reason)
	}

	// Guesses are recorded once, and then counted.
	for range 5 {
		send("guess", bounce)
	}
	if n := w.count(`select count(*) from rgw.audit_events where action = 'hook.refused' and phase = 'refused' and host(address) = '203.0.113.9'`); n != 1 {
		t.Errorf("six wrong passwords left %d events", n)
	}
}
