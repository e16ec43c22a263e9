package mfa_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/mfa"
)

func TestAfterAResetAnEarlierSessionAddsNoFactor(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	ben.addTOTP()
	begun, err := w.service.BeginEnrolment(t.Context(), ben.by, ben.session, mfa.TOTP, "another")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.cache.Resolve(t.Context(), ben.browser); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Reset(t.Context(), ana.by, ben.email); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.service.FinishEnrolment(t.Context(), ben.by, ben.session, begun.ID, mfa.Proof{Code: "000000"})
	wants(t, err, "no-such-enrolment")
	var over *credential.RefusedError
	entry, err := w.cache.Resolve(t.Context(), ben.browser)
	if err == nil {
		_, err = entry.Again(t.Context())
	}
	if !errors.As(err, &over) {
		t.Errorf("the session goes on: %v", err)
	}
	if _, err := w.cache.Resolve(t.Context(), ana.browser); err != nil {
		t.Errorf("somebody else's session: %v", err)
	}
	var events []string
	if err := w.db.SelectContext(t.Context(), &events, `select action from rgw.audit_events where resource = $1 and request_id =
		(select request_id from rgw.audit_events where action = 'factor.reset') order by 1`, ben.email); err != nil || !slices.Equal(events, []string{"factor.reset", "session.revoke"}) {
		t.Errorf("recorded: %v %v", events, err)
	}
}

func TestSigningInAgainDoesNotBringMoreGuesses(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	ana.addTOTP()
	verified := ana.session // a factor was given in it
	w.sleep(time.Minute)
	step := ana.asked(credential.StepUpHeld, access.LevelStepUp, "one")
	wrong := mfa.Proof{Kind: mfa.TOTP, Code: "000000"}
	for range 5 {
		ana.signIn([32]byte{})
		for range 4 {
			_, _ = ana.approve(step.ID, wrong)
		}
	}
	ana.signIn([32]byte{})
	_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)})
	wants(t, err, "factor-locked")
	if got := w.events(w.requestOf(step.ID)); !slices.Contains(got, "factor.pause finished") {
		t.Errorf("recorded: %v", got)
	}
	var failures int
	if err := w.db.GetContext(t.Context(), &failures, `select count(*) from rgw.factor_failures`); err != nil || failures != 20 {
		t.Errorf("%d guesses were taken (%v)", failures, err)
	}

	fresh := ana.session
	ana.session = verified // where the person gave one, they are not shut out
	if _, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}); err != nil {
		t.Errorf("where a factor was given before: %v", err)
	}
	ana.session = fresh
	w.sleep(16 * time.Minute) // the pause is over; one guess more, and there is another
	step = ana.asked(credential.StepUpHeld, access.LevelStepUp, "two")
	_, err = ana.approve(step.ID, wrong)
	wants(t, err, "wrong-code")
	_, err = ana.approve(step.ID, wrong)
	wants(t, err, "factor-locked")
	if _, err := w.service.Unlock(t.Context(), ben.by, ana.email); err != nil {
		t.Fatal(err)
	}
	_, err = ana.approve(step.ID, wrong)
	wants(t, err, "wrong-code")
	if _, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}); err != nil {
		t.Errorf("unlocked: %v", err)
	}
}

func TestTheFirstFactorIsTheFirst(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	begun, err := w.service.BeginEnrolment(t.Context(), ana.by, ana.session, mfa.TOTP, "theirs")
	if err != nil {
		t.Fatal(err)
	}
	ana.addTOTP()
	ana.totp = begun.Secret.Reveal()
	proof := mfa.Proof{Code: ana.code(0), First: true} // decided while there was none
	_, _, err = w.service.FinishEnrolment(t.Context(), ana.by, ana.session, begun.ID, proof)
	wants(t, err, "not-first")
	proof.First = false
	if _, _, err = w.service.FinishEnrolment(t.Context(), ana.by, ana.session, begun.ID, proof); err != nil {
		t.Error(err)
	}
}

func TestWhatWaitsAtACommandLineIsApprovedOnItsOwnPageAlone(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addPasskey()
	step := ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABC of web")
	proof := ana.assertion(step.ID)
	_, err := w.service.Approve(t.Context(), ana.by, ana.session, step.ID, mfa.Approval{Proof: proof})
	wants(t, err, "bad-callback")
	if got := w.events(w.requestOf(step.ID)); len(got) != 0 {
		t.Errorf("recorded under the request: %v", got)
	}
	if _, err := ana.approve(step.ID, proof); err != nil { // the challenge was not spent
		t.Error(err)
	}
}

func TestWhoCannotShowWordsIsApprovedFromANewAddressOnlyByWhoKnowsIt(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addPasskey()
	for _, mode := range []credential.StepUpMode{credential.StepUpHeld, credential.StepUpSilent} {
		step := ana.asked(mode, access.LevelStepUp, "promote RABC of web")
		shown, err := w.service.StepUp(t.Context(), ana.id, step.ID)
		if err != nil || shown.AddressNeeded() != (mode == credential.StepUpHeld) {
			t.Errorf("%s: %+v %v", mode, shown, err)
		}
		approval := mfa.Approval{Proof: ana.assertion(step.ID)}
		_, err = w.service.Approve(t.Context(), ana.by, ana.session, step.ID, approval)
		if mode == credential.StepUpSilent { // by now the address is known
			wants(t, err, "")
			continue
		}
		wants(t, err, "new-address")
		approval.KnownAddress = true
		_, err = w.service.Approve(t.Context(), ana.by, ana.session, step.ID, approval)
		wants(t, err, "")
	}
	var failures int
	if err := w.db.GetContext(t.Context(), &failures, `select count(*) from rgw.factor_failures`); err != nil || failures != 0 {
		t.Errorf("%d wrong factors were counted (%v)", failures, err)
	}
	words := ana.asked(credential.StepUpPage, access.LevelStepUp, "promote RABC of api")
	if shown, err := w.service.StepUp(t.Context(), ana.id, words.ID); err != nil || shown.AddressNeeded() {
		t.Errorf("where words are shown: %+v %v", shown, err)
	}
}

// oneSession has every browser be the same person's.
type oneSession struct{ of *somebody }

func (o oneSession) FromRequest(*http.Request) (credential.Token, bool) { return o.of.browser, true }
func (oneSession) CSRF(credential.Token) string                         { return "csrf" }
func (oneSession) CheckCSRF(r *http.Request, _ credential.Token) bool {
	return r.PostFormValue("csrf") == "csrf"
}

func TestThePageApprovesForACommandLineOnlyWhereItCanBringTheApproval(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addTOTP()
	w.sleep(time.Minute)
	page := &mfa.Page{Service: w.service, Sessions: oneSession{ana}, Cache: w.cache, Now: w.now, MaxWait: time.Minute,
		Address: func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.7") }}
	router := mux.NewRouter()
	page.Mount(router)
	step := ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABC of web")
	send := func(method, path string, form url.Values) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(form.Encode()))
		if method == http.MethodPost {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}
		answer := httptest.NewRecorder()
		router.ServeHTTP(answer, r)
		return answer
	}
	refusals := func(code string) (n int) {
		t.Helper()
		if err := w.db.GetContext(t.Context(), &n, `select count(*) from rgw.audit_events where phase = 'refused' and detail ->> 'code' = $1 and actor_label = $2`, code, ana.email); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, callback := range []string{"", "https://evil.example.com/", "http://localhost.evil.example.com:9/"} {
		if got := send("GET", mfa.PagePath+"?token="+step.ID.String()+"&callback_url="+url.QueryEscape(callback), nil); got.Code != http.StatusForbidden {
			t.Errorf("the page with callback %q: %d", callback, got.Code)
		}
		form := url.Values{"csrf": {"csrf"}, "id": {step.ID.String()}, "code": {ana.code(0)}, "callback_url": {callback}}
		if got := send("POST", mfa.PagePath+"/approve", form); got.Code != http.StatusForbidden {
			t.Errorf("approving with callback %q: %d", callback, got.Code)
		}
		if n := refusals("bad-callback"); n != 2*(i+1) {
			t.Errorf("%d refusals of callbacks are recorded after %q", n, callback)
		}
	}
	good := url.Values{"csrf": {"another"}, "id": {step.ID.String()}, "code": {ana.code(0)}, "callback_url": {"http://localhost:8123"}}
	if got := send("POST", mfa.PagePath+"/approve", good); got.Code != http.StatusForbidden || refusals("cross-site") != 1 {
		t.Errorf("another site's form: %d, %d recorded", got.Code, refusals("cross-site"))
	}
	good.Set("csrf", "csrf")
	if got := send("POST", mfa.PagePath+"/approve", good); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "localhost:8123") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	ana.signIn([32]byte{}) // a session without a factor, which may not add one
	if got := send("POST", mfa.PagePath+"/enrol", url.Values{"csrf": {"csrf"}, "kind": {"totp"}, "name": {"x"}}); got.Code != http.StatusForbidden || refusals(access.CodeSignInFactor) != 1 {
		t.Errorf("adding a factor without one: %d, %d recorded", got.Code, refusals(access.CodeSignInFactor))
	}
}
