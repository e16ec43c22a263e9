package mfa_test

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/postgres"
)

func TestTheFirstFactorIsAddedWithoutOneAndBringsBackupCodes(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	if f := ana.factor(""); f.Enrolled || !f.Enforced {
		t.Errorf("before: %+v", f)
	}
	codes := ana.addTOTP()
	if len(codes) != 10 || len(codes[0]) != 19 {
		t.Errorf("backup codes: %q", codes)
	}
	if f := ana.factor(""); !f.Enrolled || f.Fresh {
		t.Errorf("the command line after it: %+v", f)
	}
	entry, err := w.cache.Resolve(t.Context(), ana.browser)
	if err != nil {
		t.Fatal(err)
	}
	if f := entry.Factor(access.DefaultSettings(), ""); !f.Enrolled || !f.Verified || !f.Fresh {
		t.Errorf("the browser after it: %+v", f)
	}
	var clear int
	if err := w.db.GetContext(t.Context(), &clear, `select count(*) from rgw.factors f where position(decode($1, 'escape') in f.sealed) > 0`, ana.totp); err != nil || clear != 0 {
		t.Errorf("the secret is there to read (%d, %v)", clear, err)
	}
	o, err := w.service.List(t.Context(), "ana@example.com")
	if err != nil || len(o.Factors) != 1 || o.BackupCodes != 10 || !o.Required {
		t.Errorf("%+v %v", o, err)
	}
}

func TestAFactorGivenCountsForTheSessionThatWasGivenForIt(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addPasskey()
	step := ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABC of web")
	done, err := ana.approve(step.ID, ana.assertion(step.ID))
	if err != nil || len(done.Code) != 32 {
		t.Fatalf("%v %d", err, len(done.Code))
	}
	exchange := func(code []byte, session string) string {
		t.Helper()
		state, err := w.cache.ExchangeStepUp(t.Context(), step.ID, ana.tokenID.String(), code, session)
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	if ana.factor("").Fresh || ana.factor("one").Fresh {
		t.Error("it counts before it was taken into use")
	}
	if got := exchange([]byte(strings.Repeat("x", 32)), "one"); got != "wrong-code" {
		t.Errorf("another code: %s", got)
	}
	other := w.person("ben", "admin")
	if state, err := w.cache.ExchangeStepUp(t.Context(), step.ID, other.tokenID.String(), done.Code, "one"); err != nil || state != "unknown" {
		t.Errorf("another token: %s %v", state, err)
	}
	if got := exchange(done.Code, "one"); got != "approved" {
		t.Errorf("the code: %s", got)
	}
	if got := exchange(done.Code, "two"); got != "used" {
		t.Errorf("the code once more: %s", got)
	}
	if !ana.factor("one").Fresh || ana.factor("two").Fresh || ana.factor("").Fresh {
		t.Error("it counts for other sessions than its own, or not for that")
	}
	w.sleep(10*time.Minute + time.Second)
	if ana.factor("one").Fresh {
		t.Error("it counts beyond the window")
	}
	if got := w.events(w.requestOf(step.ID)); !slices.Equal(got, []string{"step-up.approve finished"}) {
		t.Errorf("recorded under the request: %v", got)
	}
}

func TestWhatAnAssertionMustNotBe(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	ana.addPasskey()
	ben.addPasskey()
	ana.key.Counter, ben.key.Counter = 10, 10
	always := func() uuid.UUID {
		w.sleep(time.Minute)
		if _, err := w.db.ExecContext(t.Context(), `select set_config('rgw.request_id', 'test', false)`); err != nil {
			t.Fatal(err)
		}
		if _, err := w.db.ExecContext(t.Context(), `delete from rgw.step_ups where outcome is null`); err != nil {
			t.Fatal(err)
		}
		return ana.asked(credential.StepUpConsole, access.LevelAlways, uuid.NewString()).ID
	}
	for name, try := range map[string]func() error{
		"of another origin": func() error {
			step := always()
			_, err := ana.approve(step, ana.assertion(step, func(s *somebody) { s.party.Origin = "https://evil.example.com" }))
			return err
		},
		"of another relying party": func() error {
			step := always()
			_, err := ana.approve(step, ana.assertion(step, func(s *somebody) { s.party.ID = "evil.example.com" }))
			return err
		},
		"of somebody else's key": func() error {
			step := always()
			_, err := ana.approve(step, ana.assertion(step, func(s *somebody) { s.key = ben.key }))
			return err
		},
		"by another key of the same id": func() error {
			step := always()
			_, err := ana.approve(step, ana.assertion(step, func(s *somebody) { s.key.Key = ben.key.Key }))
			return err
		},
		"without having verified the person": func() error {
			step := always()
			_, err := ana.approve(step, ana.assertion(step, func(s *somebody) { s.auth.Options.UserNotVerified = true }))
			return err
		},
		"without anybody there": func() error {
			step := always()
			_, err := ana.approve(step, ana.assertion(step, func(s *somebody) { s.auth.Options.UserNotPresent = true }))
			return err
		},
		"of another operation": func() error {
			proof := ana.assertion(always())
			_, err := ana.approve(always(), proof)
			return err
		},
		"of another person": func() error {
			theirs := ben.asked(credential.StepUpConsole, access.LevelAlways, uuid.NewString())
			proof := ben.assertion(theirs.ID)
			_, err := ana.approve(always(), proof)
			return err
		},
		"of another browser session": func() error {
			step := always()
			proof := ana.assertion(step)
			ana.signIn([32]byte{})
			_, err := ana.approve(step, proof)
			return err
		},
		"whose challenge was spent": func() error {
			step := always()
			proof := ana.assertion(step, func(s *somebody) { s.party.Origin = "https://evil.example.com" })
			_, _ = ana.approve(step, proof)
			_, err := ana.approve(step, proof)
			return err
		},
		"that is nothing": func() error {
			step := always()
			proof := ana.assertion(step)
			proof.Response = json.RawMessage(`{"id":"AA"}`)
			_, err := ana.approve(step, proof)
			return err
		},
	} {
		ana.signIn([32]byte{}) // a session of its own, so that failures do not lock
		if code := directory.CodeOf(try()); code != "wrong-assertion" && code != "ceremony-over" {
			t.Errorf("an assertion %s: %q", name, code)
		}
	}

	ana.signIn([32]byte{})
	step := always()
	proof := ana.assertion(step)
	if _, err := ana.approve(step, proof); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	_, err := ana.approve(step, proof)
	wants(t, err, "step-up-decided")
	step = always()
	_, err = ana.approve(step, proof)
	wants(t, err, "ceremony-over") // replayed
	step = always()
	_, err = ana.approve(step, ana.assertion(step, func(s *somebody) { s.key.Counter = 9 }))
	wants(t, err, "factor-cloned")
	var refusals int
	if err := w.db.GetContext(t.Context(), &refusals, `select count(*) from rgw.audit_events where action = 'step-up.approve' and phase = 'refused'`); err != nil || refusals < 13 {
		t.Errorf("%d refusals were recorded (%v)", refusals, err)
	}
}

func TestACodeOfAnAppCountsOnceAndNearItsTime(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addTOTP() // uses the present step
	try := func(code string) error {
		t.Helper()
		ana.signIn([32]byte{})
		step := ana.asked(credential.StepUpHeld, access.LevelStepUp, uuid.NewString())
		_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: code})
		if err != nil {
			if _, err := w.service.Refuse(t.Context(), ana.by, step.ID); err != nil {
				t.Error(err)
			}
		}
		return err
	}
	wants(t, try(ana.code(0)), "wrong-code") // the enrolment used it
	wants(t, try(ana.code(2)), "wrong-code")
	w.sleep(5 * time.Minute)
	wants(t, try(ana.code(-2)), "wrong-code")
	wants(t, try("000"), "wrong-code")
	wants(t, try(""), "wrong-code")
	if err := try(ana.code(-1)); err != nil {
		t.Errorf("the step before: %v", err)
	}
	wants(t, try(ana.code(-1)), "wrong-code")
	now := ana.code(0)
	if err := try(now[:3] + " " + now[3:]); err != nil {
		t.Errorf("the present step, with a blank: %v", err)
	}
	if err := try(ana.code(1)); err != nil {
		t.Errorf("the next step: %v", err)
	}
	wants(t, try(now), "wrong-code") // an earlier step than the last
	w.sleep(30 * time.Second)
	wants(t, try(ana.code(0)), "wrong-code") // used a step ahead
}

func TestABackupCodeCountsOnce(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	codes := ana.addTOTP()
	ben.addTOTP()
	give := func(s *somebody, code string) error {
		step := s.asked(credential.StepUpHeld, access.LevelStepUp, uuid.NewString())
		_, err := s.approve(step.ID, mfa.Proof{Kind: mfa.BackupCode, Code: code})
		if err != nil {
			_, _ = w.service.Refuse(t.Context(), s.by, step.ID)
		}
		return err
	}
	wants(t, give(ben, codes[0]), "wrong-code") // somebody else's
	if err := give(ana, strings.ToUpper(strings.ReplaceAll(codes[0], "-", " "))); err != nil {
		t.Errorf("as somebody may type it: %v", err)
	}
	wants(t, give(ana, codes[0]), "wrong-code")
	again, err := w.service.MakeBackupCodes(t.Context(), ana.by)
	if err != nil || len(again) != 10 {
		t.Fatal(err)
	}
	wants(t, give(ana, codes[1]), "wrong-code") // replaced
	if err := give(ana, again[9]); err != nil {
		t.Error(err)
	}
}

func TestFiveFailuresLockTheSessionAndNothingElse(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	ana.addTOTP()
	w.sleep(time.Minute)
	step := ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABC of web")
	for range 5 {
		_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: "000000"})
		wants(t, err, "wrong-code")
	}
	right := mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}
	_, err := ana.approve(step.ID, right)
	wants(t, err, "factor-locked")
	if got := w.events(w.requestOf(step.ID)); !slices.Contains(got, "factor.lock finished") || !slices.Contains(got, "step-up.approve refused wrong-code") {
		t.Errorf("recorded: %v", got)
	}
	if o, err := w.service.List(t.Context(), ana.email); err != nil || o.LockedUntil == nil {
		t.Errorf("an administrator does not see it: %+v %v", o, err)
	}
	locked := ana.session
	ana.signIn([32]byte{}) // the account is not locked
	if _, err := ana.approve(step.ID, right); err != nil {
		t.Errorf("in another session: %v", err)
	}
	ana.session = locked
	step = ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABD of web")
	if _, err := w.service.Unlock(t.Context(), ben.by, ana.email); err != nil {
		t.Fatal(err)
	}
	_, err = w.service.Unlock(t.Context(), ben.by, ana.email)
	wants(t, err, "not-locked")
	w.sleep(30 * time.Second)
	if _, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}); err != nil {
		t.Errorf("unlocked: %v", err)
	}
}

func TestTheOnlyAdministratorWaitsInPlaceOfBeingLocked(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	w.person("vic", "viewer")
	ana.addTOTP()
	w.sleep(time.Minute)
	step := ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABC of web")
	for range 5 {
		_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: "000000"})
		wants(t, err, "wrong-code")
	}
	_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)})
	wants(t, err, "factor-locked")
	w.sleep(31 * time.Second)
	if _, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}); err != nil {
		t.Errorf("half a minute later: %v", err)
	}
}

func TestTheLastFactorStaysAndAnEarlierOneEndsWhatItGave(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addTOTP()
	o, err := w.service.List(t.Context(), ana.email)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, w.service.Remove(t.Context(), ana.by, ana.session, o.Factors[0].ID), "last-factor")
	ana.addPasskey()
	step := ana.asked(credential.StepUpPage, access.LevelStepUp, "promote RABC of web")
	if _, err := w.service.Approve(t.Context(), ana.by, ana.session, step.ID, mfa.Approval{Proof: ana.assertion(step.ID), Words: "Amber  FALCON"}); err != nil {
		t.Fatal(err)
	}
	if !ana.factor("").Fresh {
		t.Fatal("what was approved on the page does not count for the token")
	}
	if err := w.service.Remove(t.Context(), ana.by, ana.session, o.Factors[0].ID); err != nil {
		t.Fatal(err)
	}
	if ana.factor("").Fresh {
		t.Error("it counts on")
	}
	wants(t, w.service.Remove(t.Context(), ana.by, ana.session, uuid.New()), "no-such-factor")
	wants(t, w.service.Rename(t.Context(), w.person("ben").by, o.Factors[0].ID, "mine"), "no-such-factor")
}

func TestAResetTakesEverythingAway(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	codes := ben.addTOTP()
	pending := ben.asked(credential.StepUpHeld, access.LevelStepUp, "one")
	w.sleep(30 * time.Second)
	step := ben.asked(credential.StepUpPage, access.LevelStepUp, "two")
	done, err := w.service.Approve(t.Context(), ben.by, ben.session, step.ID, mfa.Approval{Proof: mfa.Proof{Kind: mfa.TOTP, Code: ben.code(0)}, Words: "amber falcon", Trust: true})
	if err != nil || done.Device == "" {
		t.Fatal(err)
	}
	o, err := w.service.Reset(t.Context(), ana.by, ben.email)
	if err != nil || o.Enrolled() || o.BackupCodes != 0 {
		t.Fatalf("%+v %v", o, err)
	}
	if f := ben.factor(""); f.Enrolled || f.Fresh {
		t.Errorf("the command line: %+v", f)
	}
	if state, err := w.cache.ExchangeStepUp(t.Context(), pending.ID, ben.tokenID.String(), nil, "s"); err != nil || state != "refused" {
		t.Errorf("what waited: %s %v", state, err)
	}
	_, err = ben.approve(ben.asked(credential.StepUpHeld, access.LevelStepUp, "three").ID, mfa.Proof{Kind: mfa.BackupCode, Code: codes[0]})
	wants(t, err, "no-factor")
	if devices, err := w.service.TrustedDevices(t.Context(), ben.id); err != nil || len(devices) != 0 {
		t.Errorf("trusted: %v %v", devices, err)
	}
}

func TestTheTwoWordsTieTerminalAndPage(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addTOTP()
	w.sleep(30 * time.Second)
	step := ana.asked(credential.StepUpPage, access.LevelStepUp, "promote RABC of web")
	code := mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}
	for _, words := range []string{"", "amber", "falcon amber"} {
		_, err := w.service.Approve(t.Context(), ana.by, ana.session, step.ID, mfa.Approval{Proof: code, Words: words})
		wants(t, err, "wrong-words")
	}
	if _, err := w.service.Approve(t.Context(), ana.by, ana.session, step.ID, mfa.Approval{Proof: code, Words: "amber falcon"}); err != nil {
		t.Error(err)
	}
}

func TestATrustedBrowserSignsInWithoutAFactorAndNothingElse(t *testing.T) {
	w := newWorld(t)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	ana.addTOTP()
	w.sleep(30 * time.Second)
	step := ana.asked(credential.StepUpHeld, access.LevelStepUp, "one")
	done, err := w.service.Approve(t.Context(), ana.by, ana.session, step.ID, mfa.Approval{Proof: mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)}, Trust: true, KnownAddress: true})
	if err != nil {
		t.Fatal(err)
	}
	hash := mfa.HashDevice(done.Device)
	state := func(s *somebody) access.Factor {
		t.Helper()
		entry, err := w.cache.Resolve(t.Context(), s.browser)
		if err != nil {
			t.Fatal(err)
		}
		return entry.Factor(access.DefaultSettings(), "")
	}
	ana.signIn(hash)
	if f := state(ana); !f.Verified || f.Fresh {
		t.Errorf("the trusted browser: %+v", f)
	}
	ben.signIn(hash)
	if f := state(ben); f.Verified {
		t.Errorf("somebody else in it: %+v", f)
	}
	devices, err := w.service.TrustedDevices(t.Context(), ana.id)
	if err != nil || len(devices) != 1 {
		t.Fatal(devices, err)
	}
	wants(t, w.service.Distrust(t.Context(), ben.by, devices[0].ID), "no-such-trusted-device")
	w.sleep(31 * 24 * time.Hour)
	ana.signIn(hash)
	if f := state(ana); f.Verified {
		t.Errorf("a month later: %+v", f)
	}
}

func TestWhatNobodyAnswersExpiresWithAnEvent(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addTOTP()
	step := ana.asked(credential.StepUpCallback, access.LevelStepUp, "promote RABC of web")
	if err := w.service.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.events(w.requestOf(step.ID)); len(got) != 0 {
		t.Errorf("too early: %v", got)
	}
	w.sleep(6 * time.Minute)
	_, _, again, _ := w.another()
	for _, service := range []*mfa.Service{w.service, again} {
		if err := service.Expire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.events(w.requestOf(step.ID)); !slices.Equal(got, []string{"step-up.expire finished"}) {
		t.Errorf("recorded: %v", got)
	}
	_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.TOTP, Code: ana.code(0)})
	wants(t, err, "step-up-expired")
	w.sleep(72 * time.Hour)
	if err := w.service.Forget(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = w.service.StepUp(t.Context(), ana.id, step.ID)
	wants(t, err, "no-such-step-up")
}

func TestTooManyUnansweredChallengesAreRefused(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	request := func(what string) error {
		_, err := w.cache.OpenStepUp(t.Context(), credential.StepUpRequest{
			TokenID: ana.tokenID.String(), Request: uuid.New(), Mode: credential.StepUpCallback, Level: access.LevelStepUp,
			Operation: json.RawMessage(`{}`), Binding: [32]byte{byte(len(what))},
		})
		return err
	}
	var ok, many atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			switch err := request("x"); {
			case err == nil:
				ok.Add(1)
			default:
				many.Add(1)
			}
		})
	}
	all.Wait()
	if ok.Load() != 5 || many.Load() != 15 {
		t.Errorf("%d were opened, %d refused", ok.Load(), many.Load())
	}
}

// attempts is how many try for what one may have.
const attempts = 1000

func TestOneOfAThousandSpendsAnAlwaysGrant(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addPasskey()
	step := ana.asked(credential.StepUpPage, access.LevelAlways, "delete the app web")
	if _, err := w.service.Approve(t.Context(), ana.by, ana.session, step.ID, mfa.Approval{Proof: ana.assertion(step.ID), Words: "amber falcon"}); err != nil {
		t.Fatal(err)
	}
	var caches []*credential.Cache
	for range 3 { // with the rights of three proxies
		pool := w.database.Proxy(t)
		pool.SetMaxOpenConns(8)
		feed := postgres.NewFeed(pool, []string{credential.Channel}, postgres.FeedOptions{})
		caches = append(caches, credential.NewCache(pool, feed, credential.Options{}))
	}
	won := race(t, func(i int) bool {
		_, spent, err := caches[i%3].SpendStepUp(t.Context(), ana.tokenID.String(), "", bindingOf("delete the app web"))
		if err != nil {
			t.Error(err)
		}
		return spent
	})
	if won != 1 {
		t.Errorf("%d of %d spent it", won, attempts)
	}
	if _, spent, err := caches[0].SpendStepUp(t.Context(), ana.tokenID.String(), "", bindingOf("delete the app api")); err != nil || spent {
		t.Errorf("another operation spends it: %t %v", spent, err)
	}
	if !ana.factor("").Fresh {
		t.Error("what is left of it does not count as step-up")
	}
}

func TestOneOfAThousandUsesATOTPStep(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	ana.addTOTP()
	w.sleep(30 * time.Second)
	services := []*mfa.Service{w.service}
	for range 2 {
		_, _, service, _ := w.another()
		services = append(services, service)
	}
	steps := make([]uuid.UUID, 3)
	for i := range steps {
		steps[i] = ana.asked(credential.StepUpHeld, access.LevelStepUp, uuid.NewString()).ID
	}
	code := ana.code(0)
	won := race(t, func(i int) bool {
		_, err := services[i%3].Approve(t.Context(), ana.by, uuid.New(), steps[i%3], mfa.Approval{Proof: mfa.Proof{Kind: mfa.TOTP, Code: code}, KnownAddress: true})
		switch directory.CodeOf(err) {
		case "", "wrong-code", "step-up-decided":
		default:
			t.Errorf("answered with %v", err)
		}
		return err == nil
	})
	if won != 1 {
		t.Errorf("%d of %d used it", won, attempts)
	}
}

// race has many try at once, and returns how many won.
func race(t *testing.T, try func(i int) bool) int64 {
	t.Helper()
	var won atomic.Int64
	var all sync.WaitGroup
	start := make(chan struct{})
	next := make(chan int)
	for range 32 {
		all.Go(func() {
			<-start
			for i := range next {
				if try(i) {
					won.Add(1)
				}
			}
		})
	}
	close(start)
	for i := range attempts {
		next <- i
	}
	close(next)
	all.Wait()
	return won.Load()
}
