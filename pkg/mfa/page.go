package mfa

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the page, its style and its script
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

// The page at /login/u2f is where a person answers what a command line asks for. The stock CLI opens it and waits
// for the browser to come to its callback, on the same machine; other commands print its address. It is rendered
// here and works without the console. Of scripts it has one, for passkeys.

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

//go:embed page.js
var pageScript string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// source names a text in a content security policy.
func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

var pagePolicy = "default-src 'none'; style-src " + source(pageStyle) + "; script-src " + source(pageScript) +
	"; img-src data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// Sessions knows the browser's side of sessions: pkg/signin does.
type Sessions interface {
	FromRequest(r *http.Request) (credential.Token, bool)
	CSRF(session credential.Token) string
	CheckCSRF(r *http.Request, session credential.Token) bool
}

// Page serves /login/u2f.
type Page struct {
	Service  *Service
	Sessions Sessions
	Cache    *credential.Cache
	// Address is the address that a request came from.
	Address func(*http.Request) netip.Addr
	MaxWait time.Duration // of one request; 10 s when zero
	Log     *slog.Logger
	Now     func() time.Time // time.Now when nil
}

// PagePath is where the page is.
const PagePath = "/login/u2f"

// Mount is the table of contents.
func (p *Page) Mount(r *mux.Router) {
	if p.MaxWait == 0 {
		p.MaxWait = 10 * time.Second
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	r.Path(PagePath).Methods(http.MethodGet, http.MethodHead).HandlerFunc(p.serve("getStepUp", p.show))
	post := func(path, op string, step func(*visit) *trouble) {
		r.Path(PagePath + path).Methods(http.MethodPost).HandlerFunc(p.serve(op, step))
	}
	post("/open", "openStepUp", p.open)
	post("/assertion", "beginAssertion", p.assertion)
	post("/approve", "approveStepUp", p.approve)
	post("/refuse", "refuseStepUp", p.refuse)
	post("/enrol", "beginEnrolment", p.enrol)
	post("/added", "finishEnrolment", p.added)
}

// visit is one request, and what is known of whoever makes it.
type visit struct {
	w       http.ResponseWriter
	r       *http.Request
	ctx     context.Context
	id      uuid.UUID
	token   credential.Token
	entry   *credential.Entry
	user    uuid.UUID
	session uuid.UUID
	first   bool // they may add a factor because they have none
	by      directory.Actor
	data    pageData
}

// trouble is why something was not done, for the person.
type trouble struct {
	status  int
	code    string
	message string
	cause   error
}

func say(status int, code, message string) *trouble {
	return &trouble{status: status, code: code, message: message}
}

// troubleOf says what an error means for the person.
func troubleOf(err error) *trouble {
	var answer *directory.Error
	var gone *credential.RefusedError
	switch {
	case errors.As(err, &answer):
		status := http.StatusForbidden
		switch answer.Kind {
		case directory.Invalid:
			status = http.StatusBadRequest
		case directory.NotFound:
			status = http.StatusNotFound
		case directory.Conflict:
			status = http.StatusConflict
		case directory.Refused:
		}
		return say(status, answer.Code, answer.Message)
	case errors.As(err, &gone):
		return say(http.StatusForbidden, gone.Code, gone.Message)
	case errors.Is(err, credential.ErrStepUpTooMany):
		return say(http.StatusTooManyRequests, "too-many-challenges", "five second factors that you were asked for are unanswered: give one of them, or wait a minute")
	}
	t := say(http.StatusServiceUnavailable, "unavailable", "the gateway cannot reach its database: try again in a few seconds, and tell an administrator if it goes on")
	t.cause = err
	return t
}

// formLimit bounds what the page's forms send, in bytes.
const formLimit = 64 << 10

// serve is the way of every request to the page: who asks, made by our own page, and allowed by access.Decide.
func (p *Page) serve(op string, step func(*visit) *trouble) http.HandlerFunc {
	rule, ok := access.RuleFor(op)
	if !ok {
		panic("no rule for " + op)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, value := range map[string]string{
			"Content-Security-Policy": pagePolicy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control": "no-store", "Permissions-Policy": "publickey-credentials-get=(self), publickey-credentials-create=(self), camera=(), geolocation=(), microphone=()",
		} {
			h.Set(name, value)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), p.MaxWait)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, formLimit)
		v := &visit{w: w, r: r, ctx: ctx, id: audit.NewID(p.Now())}
		if bad := p.enter(v, rule); bad != nil {
			p.fail(v, bad)
			return
		}
		if v.entry == nil {
			return // on the way to sign in
		}
		if bad := step(v); bad != nil {
			p.fail(v, bad)
		}
	}
}

// enter finds out who asks, and whether they may.
func (p *Page) enter(v *visit, rule access.Rule) *trouble {
	reads := v.r.Method != http.MethodPost
	if err := v.r.ParseForm(); err != nil {
		return say(http.StatusBadRequest, "bad-form", "what the page sent could not be read: open it from the terminal again")
	}
	token, has := p.Sessions.FromRequest(v.r)
	if has {
		entry, err := p.Cache.Resolve(v.ctx, token)
		var over *credential.RefusedError
		switch {
		case errors.As(err, &over):
			has = false
		case err != nil:
			return troubleOf(err)
		default:
			v.token, v.entry = token, entry
		}
	}
	if !has {
		if !reads {
			return say(http.StatusUnauthorized, "session-over", "your session in this browser has ended: open the page from the terminal again, and sign in")
		}
		back := PagePath
		if v.r.URL.RawQuery != "" {
			back += "?" + v.r.URL.RawQuery
		}
		http.Redirect(v.w, v.r, "/login/?return="+url.QueryEscape(back), http.StatusSeeOther)
		return nil
	}
	principal := v.entry.Principal
	var errs [2]error
	v.user, errs[0] = uuid.Parse(principal.UserID)
	v.session, errs[1] = uuid.Parse(principal.TokenID)
	if err := errors.Join(errs[0], errs[1]); err != nil {
		return troubleOf(err)
	}
	v.by = directory.Actor{
		Kind: audit.ActorUser, ID: principal.UserID, Label: principal.Label(), Address: p.Address(v.r), User: v.user, Request: v.id,
		Client: "console", UserAgent: v.r.UserAgent(), Detail: audit.Detail{Auth: "session", Token: principal.TokenID, TokenName: principal.TokenName},
	}
	v.data = pageData{Email: principal.UserLabel, CSRF: p.Sessions.CSRF(token), Request: v.id.String(), Style: template.CSS(pageStyle), Script: template.JS(pageScript)} //nolint:gosec // files of this package
	if !reads && (!sameOrigin(v.r) || !p.Sessions.CheckCSRF(v.r, token)) {
		return p.recorded(v, rule.Action, refused("cross-site", "another web site may have made your browser send this: open the page from the terminal again"))
	}
	again, err := v.entry.Again(v.ctx) // what was given in another window counts
	if err != nil {
		return troubleOf(err)
	}
	v.entry = again
	settings := p.Cache.Settings()
	decision := access.Decide(v.entry.Principal, access.Request{Rule: rule, Source: v.by.Address}, access.Facts{}, settings, v.entry.Factor(settings, ""))
	if decision.Effect != access.Allow {
		return p.recorded(v, rule.Action, refused(decision.Code, "%s", decision.Message))
	}
	v.first = decision.MFA == access.MFAFirst
	p.Cache.Used(principal.TokenID, v.by.Address)
	return nil
}

// sameOrigin reports whether the gateway's own page made the browser ask.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Host != "" && strings.EqualFold(origin.Host, r.Host)
}

// callbackForm is where the CLI waits for the browser: on this very machine.
var callbackForm = regexp.MustCompile(`^http://(localhost|127\.0\.0\.1):([1-9][0-9]{0,4})/?$`)

// Callback returns where the browser goes with what the CLI waits for. Anything but a port of the machine that the
// browser runs on is refused: it would hand the approval to somebody else.
func Callback(text string, data []byte) (string, bool) {
	if !callbackForm.MatchString(text) {
		return "", false
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", false
	}
	u.Path, u.RawQuery = "/", url.Values{"data": {base64.StdEncoding.EncodeToString(data)}}.Encode()
	return u.String(), true
}

// refusedData is what the CLI is brought when the person refused: it has to ask to learn the same.
var refusedData = []byte("refused")

// pageData is what the page shows.
type pageData struct {
	Title   string
	Message string
	Bad     string // what went wrong
	Code    string // its code
	Request string
	Email   string
	CSRF    string
	Style   template.CSS
	Script  template.JS

	Step     *StepUp
	Expires  string // how long is left, in words
	Callback string // as it was given
	Passkeys bool   // the person has one
	Codes    string // what can be typed, for its label
	Trust    bool   // the browser can be trusted
	Verify   bool   // this sign-in has not been finished

	Enrol     bool // to begin to add a factor
	Kinds     []Kind
	Enrolment *Enrolment
	QR        template.URL
	Secret    string
	PublicKey string

	BackupCodes []string
	Next        string      // where to go on
	Leave       string      // where the browser goes by itself
	Factors     []Factor    // of the person, when nothing is asked for
	Waiting     []*StepUp   // what is asked for
	Details     [][2]string // of the operation
}

// show is the page itself.
func (p *Page) show(v *visit) *trouble {
	query := v.r.URL.Query()
	v.data.Callback = query.Get("callback_url")
	if v.data.Callback != "" {
		if _, ok := Callback(v.data.Callback, nil); !ok {
			return p.recorded(v, "step-up.page", refused("bad-callback", "this link would send your approval somewhere else than to the command line on this machine, so it is refused: somebody may be trying to deceive you; do not open it again, and tell an administrator"))
		}
	}
	overview, err := p.Service.List(v.ctx, v.user.String())
	if err != nil {
		return troubleOf(err)
	}
	settings := p.Cache.Settings()
	factor := v.entry.Factor(settings, "")
	v.data.Next = v.r.URL.RequestURI()
	if !overview.Enrolled() {
		v.data.Title, v.data.Enrol, v.data.Kinds = "Add a second factor", true, overview.Kinds
		v.data.Message = "Whatever changes something on the rack takes a second factor, and you have none yet. Add one now; it takes a minute."
		return p.render(v, http.StatusOK)
	}
	if text := query.Get("token"); text != "" {
		id, ok := stepUpID(text)
		if !ok {
			return say(http.StatusBadRequest, "bad-link", "this link was not copied whole: open it from the terminal again")
		}
		return p.showStep(v, id, overview, factor)
	}
	v.data.Title, v.data.Factors, v.data.Verify = "Your second factors", overview.Factors, settings.MFARequired && !factor.Verified
	if v.data.Waiting, err = p.Service.Pending(v.ctx, v.user); err != nil {
		return troubleOf(err)
	}
	if v.data.Verify {
		v.data.Title, v.data.Message = "Finish signing in", "One more step: give your second factor."
	}
	if factor.Fresh && factor.Verified {
		v.data.Enrol, v.data.Kinds = true, overview.Kinds
	}
	return p.render(v, http.StatusOK)
}

// stepUpID reads which step-up a link is of: as the CLI writes it (RFC 4648 section 4), or plain.
func stepUpID(text string) (uuid.UUID, bool) {
	if id, err := uuid.Parse(text); err == nil && len(text) == 36 {
		return id, true
	}
	raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, " ", "+"))
	if err != nil || len(raw) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.ParseBytes(raw)
	return id, err == nil
}

func (p *Page) showStep(v *visit, id uuid.UUID, overview Overview, factor access.Factor) *trouble {
	step, err := p.Service.StepUp(v.ctx, v.user, id)
	if err != nil {
		return troubleOf(err)
	}
	if !step.Pending(p.Now()) {
		state := step.Outcome
		if state == "" {
			state = "expired"
		}
		switch state {
		case "approved":
			v.data.Title, v.data.Message = "Approved already", "This was approved. You may close this window."
		case "refused":
			v.data.Title, v.data.Message = "Refused", "This was refused, and nothing was done. You may close this window."
		default:
			v.data.Title, v.data.Message = "Too late", "Nobody answered within five minutes, so nothing was done. Run the command again."
		}
		return p.render(v, http.StatusOK)
	}
	if bad := p.checkCallback(v, step); bad != nil {
		return bad
	}
	v.fill(step, overview, factor, p.Now())
	return p.render(v, http.StatusOK)
}

// checkCallback makes sure that the page can bring an approval to the command line that waits for one. Without, the
// person would give a factor for nothing, and not where they were asked.
func (p *Page) checkCallback(v *visit, step *StepUp) *trouble {
	if step.Mode != credential.StepUpCallback {
		return nil
	}
	if _, ok := Callback(v.data.Callback, nil); ok {
		return nil
	}
	return p.recorded(v, "step-up.page", refused("bad-callback", "this page was not opened by the command line that waits: open its link from the terminal again"))
}

// fill puts an operation on the page.
func (v *visit) fill(step *StepUp, overview Overview, factor access.Factor, now time.Time) {
	v.data.Title, v.data.Step = "Is this you?", step
	if step.Operation.Action == "session.verify" {
		v.data.Title = "Finish signing in"
	}
	v.data.Expires = inWords(step.ExpiresAt.Sub(now))
	v.data.Details = step.Operation.Details
	v.data.Trust = !factor.Verified
	var app, yubikey bool
	for _, f := range overview.Factors {
		v.data.Passkeys = v.data.Passkeys || f.Kind.WebAuthn()
		app = app || f.Kind == TOTP
		yubikey = yubikey || f.Kind == YubiKeyOTP
	}
	switch {
	case app && yubikey:
		v.data.Codes = "Code of your authenticator app or YubiKey, or a backup code"
	case app:
		v.data.Codes = "Code of your authenticator app, or a backup code"
	case yubikey:
		v.data.Codes = "Code of your YubiKey, or a backup code"
	default:
		v.data.Codes = "One of your backup codes"
	}
}

// inWords says how long something lasts.
func inWords(left time.Duration) string {
	if left >= 90*time.Second {
		return strconv.Itoa(int(left.Round(time.Minute)/time.Minute)) + " minutes"
	}
	return strconv.Itoa(max(1, int(left/time.Second))) + " seconds"
}

// open asks for a factor for this browser session.
func (p *Page) open(v *visit) *trouble {
	settings := p.Cache.Settings()
	action, sentence := "step-up.open", "give a second factor for this browser"
	if !v.entry.Factor(settings, "").Verified {
		action, sentence = "session.verify", "finish signing in"
	}
	operation, err := json.Marshal(credential.Operation{Action: action, Sentence: sentence})
	if err != nil {
		return troubleOf(err)
	}
	asked, err := p.Cache.OpenStepUp(v.ctx, credential.StepUpRequest{
		TokenID: v.session.String(), Request: v.id, Mode: credential.StepUpConsole, Level: access.LevelStepUp,
		Binding: sha256.Sum256([]byte("session " + v.session.String())), Operation: operation, Address: v.by.Address,
	})
	if err != nil {
		return troubleOf(err)
	}
	http.Redirect(v.w, v.r, PagePath+"?token="+asked.ID.String(), http.StatusSeeOther)
	return nil
}

// assertion makes the challenge that the script hands to the browser.
func (p *Page) assertion(v *visit) *trouble {
	id, err := uuid.Parse(v.r.PostFormValue("id"))
	if err != nil {
		return p.json(v, say(http.StatusBadRequest, "bad-link", "this link was not copied whole: open it from the terminal again"), nil)
	}
	ceremony, publicKey, err := p.Service.BeginAssertion(v.ctx, v.by, v.session, id)
	if err != nil {
		return p.json(v, troubleOf(err), nil)
	}
	return p.json(v, nil, map[string]any{"id": ceremony, "public_key": publicKey})
}

// json answers the script.
func (p *Page) json(v *visit, bad *trouble, answer any) *trouble {
	status := http.StatusOK
	if bad != nil {
		status, answer = bad.status, map[string]string{"error": bad.message, "code": bad.code}
		if bad.cause != nil {
			p.Log.ErrorContext(v.ctx, "a page could not be served", "request", v.id, "error", bad.cause)
		}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return troubleOf(err)
	}
	v.w.Header().Set("Content-Type", "application/json")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(text) // a browser that hung up is not told
	return nil
}

var (
	sixDigits = regexp.MustCompile(`^[0-9]{3} ?[0-9]{3}$`)
	yubiCode  = regexp.MustCompile(`^[cbdefghijklnrtuvCBDEFGHIJKLNRTUV]{44}$`)
)

// kindOfCode tells by its form what somebody typed.
func kindOfCode(code string) Kind {
	switch code = strings.TrimSpace(code); {
	case sixDigits.MatchString(code):
		return TOTP
	case yubiCode.MatchString(code):
		return YubiKeyOTP
	}
	return BackupCode
}

// approve gives the factor.
func (p *Page) approve(v *visit) *trouble {
	form := v.r.PostForm
	id, err := uuid.Parse(form.Get("id"))
	if err != nil {
		return say(http.StatusBadRequest, "bad-link", "this link was not copied whole: open it from the terminal again")
	}
	v.data.Callback = form.Get("callback_url")
	approval := Approval{Words: form.Get("words"), Trust: form.Get("trust") == "on", KnownAddress: form.Get("address") == "on"}
	if text := form.Get("credential"); text != "" {
		approval.Kind, approval.Response = Passkey, json.RawMessage(text)
		if approval.Ceremony, err = uuid.Parse(form.Get("assertion")); err != nil {
			return say(http.StatusBadRequest, "bad-assertion", "the browser did not answer as it should: try again")
		}
	} else {
		approval.Code = strings.TrimSpace(form.Get("code"))
		approval.Kind = kindOfCode(approval.Code)
	}
	step, err := p.Service.StepUp(v.ctx, v.user, id)
	if err != nil {
		return troubleOf(err)
	}
	if bad := p.checkCallback(v, step); bad != nil {
		return bad
	}
	approval.Callback = true
	done, err := p.Service.Approve(v.ctx, v.by, v.session, id, approval)
	if err != nil {
		return p.again(v, id, troubleOf(err))
	}
	if done.Device != "" {
		http.SetCookie(v.w, DeviceCookie(done.Device))
	}
	v.data.Title, v.data.Message = "Approved", "Back to your terminal: the command goes on. You may close this window."
	switch done.StepUp.Mode {
	case credential.StepUpCallback:
		leave, ok := Callback(v.data.Callback, done.Code)
		if !ok {
			return say(http.StatusBadRequest, "bad-callback", "this page was not opened by the command line that waits: open its link from the terminal again")
		}
		v.data.Leave = leave
	case credential.StepUpPage:
		v.data.Message = "Run the command again: it goes through now. You may close this window."
	case credential.StepUpConsole:
		if done.StepUp.CredentialID == v.session {
			v.data.Title, v.data.Message, v.data.Next = "Thank you", "Your second factor counts in this browser now.", "/console/"
			if done.StepUp.Operation.Action != "session.verify" {
				v.data.Next = PagePath
			}
		}
	case credential.StepUpHeld, credential.StepUpSocket, credential.StepUpSilent:
	}
	return p.render(v, http.StatusOK)
}

// again shows the operation once more, with what went wrong.
func (p *Page) again(v *visit, id uuid.UUID, bad *trouble) *trouble {
	switch bad.code {
	case "wrong-code", "wrong-words", "wrong-assertion", "factor-locked", "ceremony-over", "factor-cloned", "bad-kind", "new-address", "yubico-unavailable":
	default:
		return bad
	}
	overview, err := p.Service.List(v.ctx, v.user.String())
	if err != nil {
		return troubleOf(err)
	}
	step, err := p.Service.StepUp(v.ctx, v.user, id)
	if err != nil || !step.Pending(p.Now()) {
		return bad
	}
	v.fill(step, overview, v.entry.Factor(p.Cache.Settings(), ""), p.Now())
	v.data.Bad, v.data.Code = bad.message, bad.code
	return p.render(v, bad.status)
}

// refuse says that it was not the person, or should not be.
func (p *Page) refuse(v *visit) *trouble {
	id, err := uuid.Parse(v.r.PostFormValue("id"))
	if err != nil {
		return say(http.StatusBadRequest, "bad-link", "this link was not copied whole: open it from the terminal again")
	}
	step, err := p.Service.Refuse(v.ctx, v.by, id)
	if err != nil {
		return troubleOf(err)
	}
	v.data.Title = "Refused"
	v.data.Message = "Nothing was done. If it was not you who ran this, somebody has your token: revoke it in the console, and tell an administrator."
	if step.Mode == credential.StepUpCallback {
		if leave, ok := Callback(v.r.PostFormValue("callback_url"), refusedData); ok {
			v.data.Leave = leave
		}
	}
	return p.render(v, http.StatusOK)
}

// enrol begins to add a factor.
func (p *Page) enrol(v *visit) *trouble {
	form := v.r.PostForm
	v.data.Next = ownPath(form.Get("next"))
	kind, name := Kind(form.Get("kind")), strings.TrimSpace(form.Get("name"))
	if name == "" {
		name = strings.ToUpper(kind.Words()[:1]) + kind.Words()[1:]
	}
	e, err := p.Service.BeginEnrolment(v.ctx, v.by, v.session, kind, name)
	if err != nil {
		return troubleOf(err)
	}
	v.showEnrolment(&e)
	return p.render(v, http.StatusOK)
}

func (v *visit) showEnrolment(e *Enrolment) {
	v.data.Title, v.data.Enrolment = "Add a "+e.Kind.Words(), e
	if e.Kind == TOTP {
		v.data.Title, v.data.QR, v.data.Secret = "Add an authenticator app", template.URL(e.QRDataURL()), e.Secret.Reveal() //nolint:gosec // an image that was just drawn
	}
	v.data.PublicKey = string(e.PublicKey)
}

// added ends it.
func (p *Page) added(v *visit) *trouble {
	form := v.r.PostForm
	v.data.Next = ownPath(form.Get("next"))
	id, err := uuid.Parse(form.Get("id"))
	if err != nil {
		return say(http.StatusBadRequest, "bad-link", "this was not sent by our own page: begin again")
	}
	f, codes, err := p.Service.FinishEnrolment(v.ctx, v.by, v.session, id, Proof{Code: strings.TrimSpace(form.Get("code")), Response: json.RawMessage(form.Get("credential")), First: v.first})
	if err != nil {
		bad := troubleOf(err)
		if bad.code == "wrong-code" && form.Get("kind") == string(TOTP) {
			v.data.Title, v.data.Bad, v.data.Code = "Add an authenticator app", bad.message, bad.code
			v.data.Enrolment = &Enrolment{ID: id, Kind: TOTP}
			return p.render(v, bad.status)
		}
		return bad
	}
	v.data.Title, v.data.Message = "Added", "Your "+f.Kind.Words()+" “"+f.Name+"” is ready."
	v.data.BackupCodes = codes
	return p.render(v, http.StatusOK)
}

// ownPath keeps a way on within the page.
func ownPath(next string) string {
	if next == PagePath || strings.HasPrefix(next, PagePath+"?") {
		return next
	}
	return PagePath
}

// recorded is a refusal that leaves an event.
func (p *Page) recorded(v *visit, action string, answer *directory.Error) *trouble {
	err := p.Service.Writer.Change(v.ctx, v.by, directory.Attempt{Action: action, Resource: v.by.Label}, func(*directory.Tx) error { return answer })
	return troubleOf(err)
}

// fail shows why something was not done.
func (p *Page) fail(v *visit, bad *trouble) {
	if bad.cause != nil {
		p.Log.ErrorContext(v.ctx, "a page could not be served", "request", v.id, "error", bad.cause)
	}
	if bad.status == http.StatusServiceUnavailable {
		v.w.Header().Set("Retry-After", "5")
	}
	data := pageData{
		Title: "That did not work", Bad: bad.message, Code: bad.code, Request: v.id.String(), Email: v.data.Email,
		Style: template.CSS(pageStyle), Script: template.JS(pageScript), //nolint:gosec // files of this package
	}
	v.data = data
	if bad := p.render(v, bad.status); bad != nil {
		http.Error(v.w, bad.message, bad.status)
	}
}

func (p *Page) render(v *visit, status int) *trouble {
	v.data.Message, v.data.Bad = upper(v.data.Message), upper(v.data.Bad)
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, v.data); err != nil {
		t := say(http.StatusInternalServerError, "internal", "the gateway made a mistake of its own: try again, and tell an administrator if it goes on")
		t.cause = err
		return t
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(text.Bytes()) // a browser that hung up is not told
	return nil
}

// upper begins a sentence with a capital letter.
func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// deviceCookie has the prefix that makes browsers take it from this host alone, over TLS alone (RFC 6265bis).
const deviceCookie = "__Host-rgw-device"

// DeviceCookie is what a trusted browser is recognised by.
func DeviceCookie(text string) *http.Cookie {
	return &http.Cookie{
		Name: deviceCookie, Value: text, Path: "/", MaxAge: int(trustLife / time.Second), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

// DeviceHash is what the secret of a browser that may be trusted is kept as; zero when the browser has none.
func DeviceHash(r *http.Request) [sha256.Size]byte {
	cookies := r.CookiesNamed(deviceCookie)
	if len(cookies) != 1 || len(cookies[0].Value) > 64 {
		return [sha256.Size]byte{}
	}
	return HashDevice(cookies[0].Value)
}

// HashDevice is what the secret of a trusted browser is kept as.
func HashDevice(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
