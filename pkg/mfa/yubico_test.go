package mfa_test

import (
	"crypto/hmac"
	"crypto/sha1" // #nosec G505 -- as the protocol has it
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/secret"
)

// yubicoKey signs questions and answers, and clientID is who shares it.
const (
	yubicoKey = "key of the client"
	clientID  = "4711"
)

// validation is a validation server as Yubico's protocol describes it (version 2), which can be made to lie.
type validation struct {
	mu   sync.Mutex
	seen map[string]bool // one-time passwords count once
	lie  func(answer map[string]string)
	raw  string // in place of an answer
}

func sign(params map[string]string) string {
	pairs := make([]string, 0, len(params))
	for _, name := range slices.Sorted(maps.Keys(params)) {
		pairs = append(pairs, name+"="+params[name])
	}
	mac := hmac.New(sha1.New, []byte(yubicoKey))
	mac.Write([]byte(strings.Join(pairs, "&")))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (v *validation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	asked := make(map[string]string)
	for name, values := range r.URL.Query() {
		asked[name] = values[0]
	}
	signature := asked["h"]
	delete(asked, "h")
	answer := map[string]string{"otp": asked["otp"], "nonce": asked["nonce"], "t": "2026-01-02T03:04:05Z0123", "status": "OK", "sl": "100"}
	switch {
	case v.raw != "":
		_, _ = fmt.Fprint(w, v.raw)
		return
	case asked["id"] != clientID:
		answer["status"] = "NO_SUCH_CLIENT"
	case signature != sign(asked):
		answer["status"] = "BAD_SIGNATURE"
	case len(asked["nonce"]) < 16:
		answer["status"] = "MISSING_PARAMETER"
	case v.seen[asked["otp"]]:
		answer["status"] = "REPLAYED_OTP"
	}
	v.seen[asked["otp"]] = true
	answer["h"] = sign(answer)
	if v.lie != nil {
		v.lie(answer)
	}
	for name, value := range answer {
		_, _ = fmt.Fprintf(w, "%s=%s\r\n", name, value)
	}
}

func (v *validation) lies(lie func(map[string]string)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lie = lie
}

// touch is the nth one-time password of a key: twelve letters that name it, and 32 that are encrypted.
func touch(key string, n int) string {
	const letters = "cbdefghijklnrtuv"
	tail := ""
	for range 32 {
		tail += string(letters[n%16])
		n /= 16
	}
	return key + tail
}

const (
	anasKey  = "cccccccbcdef"
	bensKey  = "cccccccfedcb"
	anasNext = "cccccccbcdeg"
)

func newYubico(t *testing.T) (*validation, func(*mfa.Config)) {
	t.Helper()
	v := &validation{seen: make(map[string]bool)}
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL + "/wsapi/2.0/verify")
	if err != nil {
		t.Fatal(err)
	}
	return v, func(c *mfa.Config) {
		c.Yubico = &mfa.Yubico{URL: address, ClientID: clientID, Key: secret.NewBytes([]byte(yubicoKey))}
	}
}

func (s *somebody) addYubiKey(otp string) error {
	e, err := s.w.service.BeginEnrolment(s.w.t.Context(), s.by, s.session, mfa.YubiKeyOTP, "key")
	if err != nil {
		return err
	}
	_, _, err = s.w.service.FinishEnrolment(s.w.t.Context(), s.by, s.session, e.ID, mfa.Proof{Code: otp})
	return err
}

func TestAYubiKeyCountsWhenItsServerVouchesForThisVeryPassword(t *testing.T) {
	server, with := newYubico(t)
	w := newWorld(t, with)
	ana, ben := w.person("ana", "admin"), w.person("ben", "admin")
	wants(t, ana.addYubiKey("cccccc"), "wrong-code")
	wants(t, ana.addYubiKey(touch(anasKey, 0)), "")
	wants(t, ben.addYubiKey(touch(bensKey, 0)), "")

	step := ana.asked(credential.StepUpHeld, access.LevelAlways, "delete the app web")
	n := 10
	give := func(otp string) error {
		ana.signIn([32]byte{}) // so that failures do not lock
		_, err := ana.approve(step.ID, mfa.Proof{Kind: mfa.YubiKeyOTP, Code: otp})
		return err
	}
	next := func() string { n++; return touch(anasKey, n) }
	wants(t, give(touch(anasKey, 0)), "wrong-code") // the enrolment used it
	wants(t, give(touch(bensKey, 9)), "wrong-code") // somebody else's
	wants(t, give(touch(anasNext, 9)), "wrong-code")
	wants(t, give(next()[1:]), "wrong-code")
	wants(t, give(strings.Repeat("a", 44)), "wrong-code") // no letters of a YubiKey
	for name, lie := range map[string]func(map[string]string){
		"is not signed":                func(a map[string]string) { delete(a, "h") },
		"is signed by somebody else":   func(a map[string]string) { a["h"] = base64.StdEncoding.EncodeToString(make([]byte, sha1.Size)) },
		"was changed on its way":       func(a map[string]string) { a["sl"] = "50" },
		"is to another question":       func(a map[string]string) { delete(a, "h"); a["nonce"] = strings.Repeat("0", 32); a["h"] = sign(a) },
		"is about another password":    func(a map[string]string) { delete(a, "h"); a["otp"] = touch(anasKey, 5000); a["h"] = sign(a) },
		"says that it was used before": func(a map[string]string) { delete(a, "h"); a["status"] = "REPLAYED_REQUEST"; a["h"] = sign(a) },
		"says it in another case":      func(a map[string]string) { delete(a, "h"); a["status"] = "ok"; a["h"] = sign(a) },
	} {
		server.lies(lie)
		if code := directory.CodeOf(give(next())); code != "yubico-unavailable" {
			t.Errorf("an answer that %s: %q", name, code)
		}
	}
	server.lies(func(a map[string]string) { delete(a, "h"); a["status"] = "BAD_OTP"; a["h"] = sign(a) })
	wants(t, give(next()), "wrong-code")
	server.lies(nil)
	for _, raw := range []string{"nothing of the kind", "status=OK\r\nstatus=OK\r\n", strings.Repeat("x=y\r\n", 1<<14)} {
		server.mu.Lock()
		server.raw = raw
		server.mu.Unlock()
		wants(t, give(next()), "yubico-unavailable")
	}
	var failures int
	if err := w.db.GetContext(t.Context(), &failures, `select count(*) from rgw.factor_failures where user_id = $1`, ana.id); err != nil || failures != 7 {
		t.Errorf("%d wrong passwords were counted (%v)", failures, err)
	}
	server.mu.Lock()
	server.raw = ""
	server.mu.Unlock()
	good := next()
	wants(t, give(strings.ToUpper(good)), "") // as with the shift key held
	if !ana.factor("").Enrolled {
		t.Error("it is not enrolled")
	}
	step = ana.asked(credential.StepUpHeld, access.LevelStepUp, "another")
	wants(t, give(good), "wrong-code")
	var kept, refusals int
	if err := w.db.GetContext(t.Context(), &kept, `select count(*) from rgw.factors where yubikey in ($1, $2) and sealed is null`, anasKey, bensKey); err != nil || kept != 2 {
		t.Errorf("%d keys are kept by their names (%v)", kept, err)
	}
	if err := w.db.GetContext(t.Context(), &refusals, `select count(*) from rgw.audit_events where action = 'step-up.approve' and phase = 'refused' and detail::text like '%cccccccb%'`); err != nil || refusals != 0 {
		t.Errorf("%d events hold a password (%v)", refusals, err)
	}
}

func TestAYubiKeyIsOfNoUseWithoutItsServer(t *testing.T) {
	w := newWorld(t)
	ana := w.person("ana", "admin")
	wants(t, ana.addYubiKey(touch(anasKey, 0)), "no-yubico")
	ana.addTOTP()
	o, err := w.service.List(t.Context(), ana.email)
	if err != nil || slices.Contains(o.Kinds, mfa.YubiKeyOTP) {
		t.Errorf("it is offered: %v %v", o.Kinds, err)
	}
	step := ana.asked(credential.StepUpHeld, access.LevelStepUp, uuid.NewString())
	_, err = ana.approve(step.ID, mfa.Proof{Kind: mfa.YubiKeyOTP, Code: touch(anasKey, 1)})
	wants(t, err, "wrong-code")

	nowhere, err := url.Parse("http://127.0.0.1:1/wsapi/2.0/verify")
	if err != nil {
		t.Fatal(err)
	}
	gone := newWorld(t, func(c *mfa.Config) {
		c.Yubico = &mfa.Yubico{URL: nowhere, ClientID: clientID, Key: secret.NewBytes([]byte(yubicoKey))}
	})
	wants(t, gone.person("ana", "admin").addYubiKey(touch(anasKey, 0)), "yubico-unavailable")
}
