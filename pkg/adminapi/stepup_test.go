package adminapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"rackgateway/pkg/access"
	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/mfa"
)

// app gives somebody an authenticator app, and returns what it shows. Each call is half a minute later than the last one,
// because a code counts once.
func (w *world) app(name string) (code func() string) {
	w.t.Helper()
	e, err := w.factors.AddTOTP(w.t.Context(), console, name+"@example.com", "phone")
	if err != nil {
		w.t.Fatal(err)
	}
	return func() string {
		w.mu.Lock()
		w.now += 30 * time.Second
		w.mu.Unlock()
		return must[string](w.t)(totp.GenerateCode(e.Secret.Reveal(), w.clock()))
	}
}

// asksForFactors turns the setting on, which most tests have off.
func (w *world) asksForFactors() {
	w.t.Helper()
	w.exec(`insert into rgw.settings (key, value, updated_by) values ('mfa_required', 'true', 'a test')`)
	w.hear()
}

// asked is what the answer to a challenge names.
func asked(t *testing.T, a answer) adminapi.StepUpAsked {
	t.Helper()
	p := a.problem(t)
	if p.StepUp == nil {
		t.Fatalf("it names no step-up: %s", a.body)
	}
	return *p.StepUp
}

func TestTheConsoleGivesAFactorAndSendsItsRequestAgain(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.session("ana")
	w.person("ben", "admin")
	w.session("ben")
	code := w.app("ana")
	w.app("ben")
	w.asksForFactors()
	const who = "ana's session"
	approve := func(step adminapi.StepUpAsked, proof map[string]any) answer {
		t.Helper()
		return w.do(who, "POST", "/me/step-ups/"+step.Id.String()+"/approve", proof)
	}

	// Signed in, and nothing more: not even a list.
	step := asked(t, w.want(http.StatusForbidden, access.CodeSignInFactor, who, "GET", "/users", nil))
	if got := approve(step, map[string]any{"kind": "totp", "code": "000000"}); got.status != http.StatusForbidden || got.problem(t).Code != "wrong-code" {
		t.Errorf("a wrong code: %d %s", got.status, got.body)
	}
	w.want(http.StatusNotFound, "no-such-step-up", "ben's session", "POST", "/me/step-ups/"+step.Id.String()+"/approve", map[string]any{"kind": "totp", "code": code()})
	if got := approve(step, map[string]any{"kind": "totp", "code": code()}); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	w.want(http.StatusOK, "", who, "GET", "/users", nil)

	// It is fresh now, and changes go through; what asks each time asks all the same, for this very operation.
	w.want(http.StatusOK, "", who, "PUT", "/settings/allow_destructive", `{"value":true}`)
	step = asked(t, w.want(http.StatusForbidden, access.CodeFactorNeeded, who, "PUT", "/settings/step_up_minutes", `{"value":20}`))
	shown := read[adminapi.StepUp](t, w.want(http.StatusOK, "", who, "GET", "/me/step-ups/"+step.Id.String(), nil))
	if shown.Level != adminapi.StepUpLevelAlways || shown.Operation != "change a setting" || shown.State != adminapi.StepUpStatePending || shown.PageOnly || shown.WordsNeeded {
		t.Errorf("shown is %+v", shown)
	}
	if got := approve(step, map[string]any{"kind": "totp", "code": code()}); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got := approve(step, map[string]any{"kind": "totp", "code": code()}); got.status != http.StatusConflict || got.problem(t).Code != "step-up-decided" {
		t.Errorf("approved twice: %d %s", got.status, got.body)
	}
	other := w.want(http.StatusForbidden, access.CodeFactorNeeded, who, "PUT", "/settings/step_up_minutes", `{"value":30}`)
	if asked(t, other).Id == step.Id {
		t.Error("another value is taken for the same operation")
	}
	events := w.since(func() {
		w.want(http.StatusOK, "", who, "PUT", "/settings/step_up_minutes", `{"value":20}`)
	})
	if !slices.ContainsFunc(events, func(e event) bool {
		return e.Action == "setting.set" && strings.Contains(e.Detail, step.Id.String())
	}) {
		t.Errorf("the deed does not lead to its approval: %v", events)
	}
	again := asked(t, w.want(http.StatusForbidden, access.CodeFactorNeeded, who, "PUT", "/settings/step_up_minutes", `{"value":20}`))
	if again.Id == step.Id {
		t.Error("the grant was not spent")
	}
	if got := w.do(who, "POST", "/me/step-ups/"+again.Id.String()+"/refuse", nil); got.status != http.StatusOK {
		t.Errorf("refusing: %d %s", got.status, got.body)
	}
	w.want(http.StatusForbidden, access.CodeFactorNeeded, who, "PUT", "/settings/step_up_minutes", `{"value":20}`)
}

func TestACommandLineIsToldThePageAndTheWordsAndEachTimeForWhatLasts(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	w.session("ana")
	code := w.app("ana")
	w.asksForFactors()
	step := asked(t, w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana", "PUT", "/settings/allow_destructive", `{"value":true}`))
	if step.Words == nil || !strings.Contains(step.Page, "/login/u2f?token="+step.Id.String()) {
		t.Fatalf("asked is %+v", step)
	}
	path := "/me/step-ups/" + step.Id.String() + "/approve"
	w.want(http.StatusForbidden, "wrong-words", "ana's session", "POST", path, map[string]any{"kind": "totp", "code": code(), "words": "some others"})
	w.want(http.StatusOK, "", "ana's session", "POST", path, map[string]any{"kind": "totp", "code": code(), "words": *step.Words})
	w.want(http.StatusOK, "", "ana", "PUT", "/settings/allow_destructive", `{"value":true}`)
	w.want(http.StatusOK, "", "ana", "PUT", "/settings/allow_destructive", `{"value":false}`) // within the window

	// A token outlasts the window; an approval of something else is not enough for it.
	const token = `{"name":"robot","bindings":[{"role":"viewer","app":"*"}]}`
	step = asked(t, w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana", "POST", "/tokens", token))
	w.want(http.StatusOK, "", "ana's session", "POST", "/me/step-ups/"+step.Id.String()+"/approve", map[string]any{"kind": "totp", "code": code(), "words": *step.Words})
	w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana", "POST", "/tokens", strings.Replace(token, "viewer", "admin", 1))
	made := read[adminapi.IssuedToken](t, w.want(http.StatusCreated, "", "ana", "POST", "/tokens", token))
	w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana", "POST", "/tokens", strings.Replace(token, "robot", "robot two", 1))
	w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana", "POST", "/tokens/"+made.Token.Id.String()+"/rotate", `{"keep_old_hours":1}`)
	w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana", "PUT", "/users/"+ana.ID.String()+"/bindings", `{"bindings":[]}`)
	// In the browser one within the window is enough.
	step = asked(t, w.want(http.StatusForbidden, access.CodeFactorNeeded, "ana's session", "POST", "/tokens", token))
	w.want(http.StatusOK, "", "ana's session", "POST", "/me/step-ups/"+step.Id.String()+"/approve", map[string]any{"kind": "totp", "code": code()})
	w.want(http.StatusCreated, "", "ana's session", "POST", "/tokens", strings.Replace(token, "robot", "robot three", 1))
	w.want(http.StatusCreated, "", "ana's session", "POST", "/tokens", strings.Replace(token, "robot", "robot four", 1))
}

func TestTheConsoleDoesNotApproveWhatWaitsBesideAnotherBrowser(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.session("ana")
	code := w.app("ana")
	w.asksForFactors()
	entry, err := w.cache.Resolve(t.Context(), w.tokens["ana"])
	if err != nil {
		t.Fatal(err)
	}
	step, err := w.cache.OpenStepUp(t.Context(), credential.StepUpRequest{
		TokenID: entry.Principal.TokenID, Request: w.ids["ana"], Mode: credential.StepUpCallback, Level: access.LevelStepUp,
		Operation: []byte(`{"action":"release.promote","sentence":"promote release RABC of web"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/me/step-ups/" + step.ID.String()
	if shown := read[adminapi.StepUp](t, w.want(http.StatusOK, "", "ana's session", "GET", path, nil)); !shown.PageOnly {
		t.Errorf("shown is %+v", shown)
	}
	w.want(http.StatusForbidden, "bad-callback", "ana's session", "POST", path+"/approve", map[string]any{"kind": string(mfa.TOTP), "code": code()})
	got := read[adminapi.StepUpDecided](t, w.want(http.StatusOK, "", "ana's session", "POST", path+"/refuse", nil))
	if got.StepUp.State != adminapi.StepUpStateRefused {
		t.Errorf("refused is %+v", got)
	}
}
