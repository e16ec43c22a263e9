package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/descope/virtualwebauthn"
	"github.com/google/uuid"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/testenv"
)

// A holder is a person at a browser, with a passkey, who answers what command lines ask for.
type holder struct {
	s       *side
	browser *testenv.Browser
	party   virtualwebauthn.RelyingParty
	auth    virtualwebauthn.Authenticator
	key     virtualwebauthn.Credential
}

// newHolder signs somebody in by their authenticator app, and adds a passkey.
func newHolder(s *side, who string) *holder {
	s.t.Helper()
	admin := s.env.Admins[0]
	h := &holder{s: s, browser: admin.SignIn(who)}
	if err := h.browser.Verify(s.t.Context(), s.env.TOTP(who, 0)); err != nil {
		s.t.Fatal(err)
	}
	me := h.api(http.MethodGet, "/api/v1/me", "")
	user, err := uuid.Parse(me["user_id"].(string))
	if err != nil {
		s.t.Fatal(err)
	}
	h.party = virtualwebauthn.RelyingParty{Name: "Rack Gateway", ID: "localhost", Origin: admin.URL}
	h.auth = virtualwebauthn.NewAuthenticatorWithOptions(virtualwebauthn.AuthenticatorOptions{UserHandle: user[:]})
	// The library leaves out leading zeros of a point, which one key in 128 has; no authenticator does.
	const wholeKey = 77 // bytes of a COSE key with both coordinates in full
	for h.key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2); len(h.key.Key.AttestationData()) != wholeKey; {
		h.key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	}
	begun := h.api(http.MethodPost, "/api/v1/me/factors/enrolments", `{"kind":"passkey","name":"laptop"}`)
	options, err := virtualwebauthn.ParseAttestationOptions(text(s.t, begun["public_key"]))
	if err != nil {
		s.t.Fatal(err)
	}
	h.api(http.MethodPost, "/api/v1/me/factors/enrolments/"+begun["id"].(string),
		`{"credential":`+virtualwebauthn.CreateAttestationResponse(h.party, h.auth, h.key, *options)+`}`)
	return h
}

func text(t *testing.T, value any) string {
	t.Helper()
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// api asks the API as the person's console does.
func (h *holder) api(method, path, body string) map[string]any {
	h.s.t.Helper()
	kind := ""
	if body != "" {
		kind = testenv.JSONType
	}
	answer, err := h.browser.Do(h.s.t.Context(), method, path, kind, body)
	if err != nil {
		h.s.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal([]byte(answer.Body), &out); err != nil || answer.Status > 299 {
		h.s.t.Fatalf("%s %s: %d %s (%v)", method, path, answer.Status, answer.Body, err)
	}
	return out
}

// assertion is what the browser posts for a passkey, when the page at the link asks for one.
func (h *holder) assertion(link string) (url.Values, error) {
	id, err := stepUpOf(link)
	if err != nil {
		return nil, err
	}
	begun := h.api(http.MethodPost, "/api/v1/me/step-ups/"+id+"/assertion", "")
	options, err := virtualwebauthn.ParseAssertionOptions(text(h.s.t, begun["public_key"]))
	if err != nil {
		return nil, err
	}
	return url.Values{
		"assertion":  {begun["id"].(string)},
		"credential": {virtualwebauthn.CreateAssertionResponse(h.party, h.auth, h.key, *options)},
	}, nil
}

var leaves = regexp.MustCompile(`http-equiv="refresh" content="0;url=([^"]+)"`)

// approve gives the passkey on the page, with the words that the terminal showed if there were any, and goes where the
// page leads.
func (h *holder) approve(link, words string) error {
	form, err := h.assertion(link)
	if err != nil {
		return err
	}
	form.Set("words", words)
	answer, err := h.browser.Approve(h.s.t.Context(), link, form)
	if err == nil && answer.Status != http.StatusOK {
		err = fmt.Errorf("the page: %d %s", answer.Status, answer.Body)
	}
	if err != nil {
		return err
	}
	return h.leave(answer)
}

func (h *holder) refuse(link, _ string) error {
	answer, err := h.browser.Refuse(h.s.t.Context(), link)
	if err != nil {
		return err
	}
	return h.leave(answer)
}

// leave goes to the command line's own address, as the page has the browser do.
func (h *holder) leave(answer testenv.Answer) error {
	to := leaves.FindStringSubmatch(answer.Body)
	if to == nil {
		return nil
	}
	request, err := http.NewRequestWithContext(h.s.t.Context(), http.MethodGet, html.UnescapeString(to[1]), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if errors.Is(err, io.EOF) {
		return nil // it has what it waited for, and was gone before it had answered; what became of it, it says itself
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err == nil && !strings.Contains(string(said), "you may now close the window") {
		err = fmt.Errorf("the command line answers the browser with %d %s", response.StatusCode, said)
	}
	return err
}

func stepUpOf(link string) (string, error) {
	u, err := url.Parse(link)
	if err != nil {
		return "", err
	}
	token := u.Query().Get("token")
	if _, err := uuid.Parse(token); err == nil {
		return token, nil
	}
	return fromBase64(token)
}

var (
	pageLink = regexp.MustCompile(`https://localhost:[0-9]+/login/u2f\?[^ \r\n]+`)
	twoWords = regexp.MustCompile(`(?:type the words "|asks for these words: )([a-z]+ [a-z]+)`)
)

// linkWatch is what a command prints, with somebody who waits for a link in it.
type linkWatch struct {
	mu    sync.Mutex
	all   bytes.Buffer
	links chan [2]string
	seen  bool
	words bool // they are shown too
}

func (w *linkWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(p)
	link, words := pageLink.FindString(w.all.String()), twoWords.FindStringSubmatch(w.all.String())
	ends := bytes.HasSuffix(bytes.TrimRight(w.all.Bytes(), "\r\n "), []byte(link))
	if w.seen || link == "" || w.words && words == nil || !w.words && !ends {
		return len(p), nil
	}
	w.seen = true
	shown := ""
	if words != nil {
		shown = words[1]
	}
	w.links <- [2]string{link, shown}
	return len(p), nil
}

func (w *linkWatch) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

// answered runs a command whose link somebody follows, and notes what was seen. In a socket's words there are two more.
func (s *side) answered(words bool, follow func(link, words string) error, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	out, errs := &linkWatch{links: make(chan [2]string, 1), words: words}, new(bytes.Buffer)
	done := make(chan struct{})
	followed := make(chan error, 1)
	go func() {
		select {
		case at := <-out.links:
			followed <- follow(at[0], at[1])
		case <-done:
			followed <- errors.New("no link was shown")
		}
	}()
	code := s.cli.command(ctx, strings.NewReader(""), out, errs, args...)
	close(done)
	if err := <-followed; err != nil {
		s.t.Errorf("convox %s: %v", strings.Join(args, " "), err)
	}
	got := result{out.String(), errs.String(), code}
	s.note(step{what: "convox " + strings.Join(args, " "), stdout: shown(got.Stdout), stderr: shown(got.Stderr), end: fmt.Sprintf("exit %d", code)})
	return got
}

// shown is a text with what differs from run to run made alike.
func shown(s string) string {
	s = pageLink.ReplaceAllString(s, "LINK")
	return twoWords.ReplaceAllStringFunc(s, func(m string) string { return twoWords.ReplaceAllString(m, "WORDS") })
}

// TestACommandAsksForAPasskey is step-up authentication in the middle of an unmodified command.
func TestACommandAsksForAPasskey(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t, k, environ, sideOptions{factors: true, allowDestructive: true})
			h := newHolder(s, "admin")
			fresh := func() *side { // a CLI that has no session yet, and a token that nothing was approved for
				if _, err := s.env.DB.ExecContext(t.Context(), `update rgw.step_ups set ended_at = now() where exchanged_at is not null`); err != nil {
					t.Fatal(err)
				}
				return s.as("admin")
			}
			c := fresh()
			c.answered(false, h.approve, "releases", "promote", s.release())
			c = fresh()
			c.answered(false, h.approve, "env", "set", "A=1")
			c.run("env", "set", "B=2") // within the window
			c = fresh()
			c.write("big.bin", strings.Repeat("not compressible "+uuid.NewString(), 60_000))
			c.answered(false, h.approve, "build")
			c = fresh()
			c.answered(false, h.approve, "cp", "Dockerfile", s.pid("web")+":/tmp/Dockerfile")
			c = fresh()
			c.answered(true, h.approve, "exec", "web", "echo hello")
			c.run("exec", "web", "echo again")
			c = fresh()
			c.answered(false, h.approve, "run", "web", "echo hello")
			c = fresh()
			c.answered(false, h.refuse, "restart")
			c.answered(true, h.refuse, "exec", "web", "echo hello")
			c = fresh()
			c.answered(true, func(link, _ string) error { return s.expire(link) }, "exec", "web", "echo hello")
			c = fresh()
			c.answered(false, h.approve, "apps", "delete", "demo")
			golden(t, "factors", s.text(), k.name == "own")

			for action, want := range map[string]int{"step-up.refuse": 2, "step-up.expire": 1} {
				s.awaitEvents(action, want)
			}
			var apart int
			if err := s.env.DB.GetContext(t.Context(), &apart, `
select count(*) from rgw.audit_events a where a.action like 'step-up.%' and a.action not in ('step-up.ask', 'step-up.exchange', 'step-up.open', 'step-up.assert')
  and a.detail ->> 'mode' is null and (a.detail -> 'params' ->> 'mode') not in ('console', 'sign-in')
  and not exists (select from rgw.audit_events o where o.request_id = a.request_id and o.decision = 'challenge')`); err != nil || apart != 0 {
				t.Errorf("%d decisions are not joined to what was asked (%v)", apart, err)
			}
		})
	}
}

// TestACommandWithoutAHookSaysWhereToGiveAPasskey is RACK_URL, and what else cannot be challenged in its middle.
func TestACommandWithoutAHookSaysWhereToGiveAPasskey(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t, k, gateway, sideOptions{factors: true, allowDestructive: true})
			h := newHolder(s, "admin")
			// refused runs a command, and again once the passkey was given where the error says.
			refused := func(args ...string) {
				t.Helper()
				got := s.quietly("", args...)
				s.note(step{what: "convox " + strings.Join(args, " "), stdout: shown(got.Stdout), stderr: shown(got.Stderr), end: fmt.Sprintf("exit %d", got.Code)})
				link, words := pageLink.FindString(got.Stderr), twoWords.FindStringSubmatch(got.Stderr)
				if link == "" || words == nil {
					t.Fatalf("it does not say where: %q", got.Stderr)
				}
				if err := h.approve(link, words[1]); err != nil {
					t.Fatal(err)
				}
				s.run(args...)
			}
			refused("env", "set", "A=1")
			s.run("env", "set", "B=2") // within the window
			refused("apps", "delete", "demo")
			golden(t, "factors-without-a-hook", s.text(), k.name == "own")
		})
	}
}

// TestTwoCommandsAtOnceAndADeviceWithoutABrowser share a token, and wait for a browser elsewhere.
func TestTwoCommandsAtOnceAndADeviceWithoutABrowser(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t, k, environ, sideOptions{factors: true})
			h := newHolder(s, "admin")
			one, two := s.as("admin"), s.as("admin")
			one.script, two.script = new(script), new(script) // they are not in any order
			var both sync.WaitGroup
			var mine sync.Mutex // the person has one pair of hands
			follow := func(link, words string) error {
				mine.Lock()
				defer mine.Unlock()
				return h.approve(link, words)
			}
			for i, c := range []*side{one, two} {
				both.Go(func() { c.answered(false, follow, "env", "set", fmt.Sprintf("N%d=1", i)) })
			}
			both.Wait()
			s.script.steps = append(one.script.steps, two.script.steps...)

			s.env.AddToken("server", "--user", "ana@example.com", "--name", "build server", "--headless")
			server := s.as("server")
			for _, decide := range []func(id string) error{
				func(id string) error { return h.approve("https://localhost/login/u2f?token="+id, "") },
				func(id string) error { return h.refuse("https://localhost/login/u2f?token="+id, "") },
				func(id string) error { return s.expire("https://localhost/login/u2f?token=" + id) },
			} {
				server.held(h, decide, "releases", "promote", s.release())
				server = server.as("server") // without the session
				if _, err := s.env.DB.ExecContext(t.Context(), `update rgw.step_ups set ended_at = now() where exchanged_at is not null`); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "factors-elsewhere", releases.ReplaceAllString(s.text(), "RELEASE"), k.name == "own")
		})
	}
}

// releases are ids, which depend on the order in which two commands came.
var releases = regexp.MustCompile(`\bR[A-Z]{10}\b`)

// held runs a command that waits without a word, until somebody decides about it in a browser elsewhere.
func (s *side) held(h *holder, decide func(id string) error, args ...string) {
	s.t.Helper()
	waits := s.start(args...)
	for id := ""; id == ""; {
		for _, item := range h.api(http.MethodGet, "/api/v1/me/step-ups", "")["items"].([]any) {
			one := item.(map[string]any)
			id, _ = one["id"].(string)
			if one["device"] != "build server" || !strings.HasPrefix(one["operation"].(string), "promote release R") || one["page_only"] != false {
				s.t.Errorf("the person is asked %v", one)
			}
		}
		select {
		case <-waits.ended:
			s.t.Fatalf("it did not wait: exit %d\n%s%s", waits.code, waits.out, waits.errs)
		default:
		}
		if id == "" {
			continue
		}
		if err := decide(id); err != nil {
			s.t.Fatal(err)
		}
	}
	waits.wait()
}

// TestAnExpiredTokenIsNotAskedForAFactor is what its owner sees, who would give one in vain.
func TestAnExpiredTokenIsNotAskedForAFactor(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t, k, console, sideOptions{factors: true})
			s.env.AddToken("late", "--user", "ana@example.com", "--name", "ana's other laptop")
			late := s.as("late")
			s.sql(`update rgw.tokens set created_at = now() - interval '2 days', expires_at = now() - interval '1 day' where name = 'ana''s other laptop'`)
			s.refuses("late")
			late.run("racks")
			late.run("env", "set", "A=1")
			late.run("exec", "web", "echo hello")
			golden(t, "factors-token-expired", s.text(), k.name == "own")
			s.awaitEvents("step-up.ask", 0)
		})
	}
}

// TestACommandGivesUpWhenNobodyComesToItsPage waits as long as the stock CLI does.
func TestACommandGivesUpWhenNobodyComesToItsPage(t *testing.T) {
	if !full || freshFactors {
		return // it takes five minutes, and is the same then
	}
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t, k, environ, sideOptions{factors: true})
			ctx, cancel := context.WithTimeout(s.ctx, credential.StepUpLife+patience)
			defer cancel()
			var out, errs bytes.Buffer
			code := s.cli.command(ctx, strings.NewReader(""), &out, &errs, "restart")
			s.note(step{what: "convox restart", stdout: shown(out.String()), stderr: shown(errs.String()), end: fmt.Sprintf("exit %d", code)})
			golden(t, "factors-timeout", s.text(), k.name == "own")
			s.awaitEvents("step-up.expire", 1)
		})
	}
}

// expire lets the time of a challenge run out.
func (s *side) expire(link string) error {
	id, err := stepUpOf(link)
	if err == nil {
		_, err = s.env.DB.ExecContext(s.t.Context(), `update rgw.step_ups set expires_at = now() where id = $1`, id)
	}
	return err
}

// awaitEvents waits until so many events of an action are recorded.
func (s *side) awaitEvents(action string, want int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for n := -1; n != want; {
		if err := s.env.DB.GetContext(ctx, &n, `select count(*) from rgw.audit_events where action = $1`, action); err != nil {
			s.t.Fatalf("%s: %d events, want %d (%v)", action, n, want, err)
		}
	}
}

func fromBase64(text string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	return string(raw), err
}
