package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
)

// Second factors, inside the stock CLI. A request that lacks one is answered so that the CLI, which takes the gateway
// for its console, opens a page, waits for it, and sends the request again with the session it was given. Where it
// has no such hook, the answer says where the page is. Sockets, whose refusals the CLI does not show, are accepted and
// wait. What is given is checked in admin alone; here it is a row that is looked up, and a look into memory after that.

// sessionPath is where the CLI gets and answers its challenge.
const sessionPath = "/session/"

// stepSession is the step-up session that the request carries, "" for none.
func (x *exchange) stepSession() string {
	if given := x.r.Header["Session"]; len(given) == 1 && len(given[0]) <= 128 {
		return given[0]
	}
	return ""
}

// inConsoleMode reports whether the CLI takes the gateway for its console: then it always sends the header.
func (x *exchange) inConsoleMode() bool {
	_, told := x.r.Header["Session"]
	return told && !x.session
}

// lacksFactor reports whether the request is allowed but for its second factor.
func (x *exchange) lacksFactor() bool {
	return x.decision.Effect == access.Challenge || x.decision.Code == access.CodeFactorImpossible
}

// challenge asks for the factor that a request lacks, and returns how the request is answered meanwhile. It returns nil
// when the factor is there after all: it was given a moment ago, or the grant for this very operation was spent on
// the request.
func (x *exchange) challenge() *refusal {
	again, err := x.entry.Again(x.patience)
	if err != nil {
		return x.unresolved(err)
	}
	x.entry = again
	factor := again.Factor(x.settings, x.stepSession())
	refused := x.judge(factor)
	if !x.lacksFactor() {
		return refused
	}
	binding := x.binding()
	if x.decision.Level == access.LevelAlways && factor.Enrolled && factor.Verified {
		spent, err := x.spend(binding)
		if err != nil {
			return unavailable("could not look for your second factor in time", err)
		}
		if spent {
			factor.AlwaysGranted = true
			return x.judge(factor)
		}
	}
	return x.ask(binding, refused)
}

// spend takes the grant for this very operation, if there is one, and notes it: the record leads from the deed to its
// approval by it.
func (x *exchange) spend(binding [sha256.Size]byte) (bool, error) {
	id, spent, err := x.p.Credentials.SpendStepUp(x.patience, x.principal.TokenID, x.stepSession(), binding)
	if spent {
		x.event.Detail.Params.Add("step_up", id.String())
	}
	return spent, err
}

// ask opens a challenge, and answers with it.
func (x *exchange) ask(binding [sha256.Size]byte, refused *refusal) *refusal {
	mode := x.stepUpMode()
	request := credential.StepUpRequest{
		TokenID: x.principal.TokenID, Request: x.id, Mode: mode, Level: max(x.decision.Level, access.LevelStepUp),
		Binding: binding, Operation: x.operation(), Address: x.address, Session: x.stepSession(),
	}
	if mode == credential.StepUpPage || mode == credential.StepUpSocket {
		request.Words = credential.NewWords(rand.Reader)
	}
	asked, err := x.p.Credentials.OpenStepUp(x.patience, request)
	var bad *credential.RefusedError
	switch {
	case errors.Is(err, credential.ErrStepUpLooped):
		return refuse(http.StatusForbidden, "factor-spent",
			"the second factor that you gave for this has been used or is too old: wait a minute and run the command again, and you are asked for another one")
	case errors.Is(err, credential.ErrStepUpTooMany):
		many := refuse(http.StatusTooManyRequests, "too-many-challenges",
			"five second factors that this token was asked for are unanswered: answer one of them, or wait a minute and run the command again")
		many.retryAfter = 60
		return many
	case errors.As(err, &bad):
		return x.unresolved(err)
	case err != nil:
		return unavailable("could not ask for your second factor in time", err)
	}
	x.event.Detail.Params.Add("step_up", asked.ID.String())
	x.event.Detail.Params.Add("step_up_mode", string(mode))
	page := x.p.consoleAddress() + "/login/u2f?token=" + asked.ID.String()
	why := refused.Message
	refused = refuse(http.StatusForbidden, x.decision.Code, "%s", why)
	refused.Decision, refused.stepUp, refused.page, refused.asked = audit.DecisionChallenge, asked.ID, page, asked.Opened
	switch mode {
	case credential.StepUpCallback, credential.StepUpHeld:
		refused.Status = http.StatusUnauthorized
		refused.session = sessionPath + asked.ID.String()
		refused.held = mode == credential.StepUpHeld
	case credential.StepUpPage:
		refused.Message = why + ": open " + page + " , type the words \"" + asked.Words + "\" there, then run the command again"
	case credential.StepUpSocket:
		x.waiting = &asked
		refused.Message = "Waiting for approval: " + page + "\r\nThe page asks for these words: " + asked.Words + "\r\n"
	case credential.StepUpSilent:
		x.waiting = &asked
	case credential.StepUpConsole:
	}
	return refused
}

// stepUpMode says how the answer to a challenge can come back.
func (x *exchange) stepUpMode() credential.StepUpMode {
	switch {
	case x.socket && x.speech() == speaksNothing:
		return credential.StepUpSilent
	case x.socket:
		return credential.StepUpSocket
	case x.session:
		return credential.StepUpConsole
	case x.rule.NoChallenge || !x.inConsoleMode():
		return credential.StepUpPage
	case x.principal.Headless:
		return credential.StepUpHeld
	}
	return credential.StepUpCallback
}

// binding is the operation in all its parts: a grant for one is of no use for another. A rack takes the ids of
// releases and builds in either case, and so they count in one.
func (x *exchange) binding() [sha256.Size]byte {
	hash := sha256.New()
	write := func(parts ...string) {
		for _, part := range parts {
			var length [8]byte
			binary.BigEndian.PutUint64(length[:], uint64(len(part)))
			_, _ = hash.Write(length[:])
			_, _ = io.WriteString(hash, part)
		}
	}
	write(x.principal.TokenID, x.rule.Op, x.r.Method, x.boundPath())
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil { // what cannot be read is bound as it came
		write(x.r.URL.RawQuery)
	} else {
		write(query.Encode())
	}
	if route := x.match.Route; route != nil {
		for _, name := range slices.Sorted(slices.Values(route.Headers)) {
			if values, given := x.r.Header[name]; given {
				write(name)
				write(values...)
			}
		}
	}
	if x.hasForm {
		sum := sha256.Sum256(x.form)
		write("form", string(sum[:]))
	}
	return [sha256.Size]byte(hash.Sum(nil))
}

// boundPath is the path with the ids of releases and builds as the rack reads them.
func (x *exchange) boundPath() string {
	if x.match.Route == nil {
		return x.path
	}
	segments := slices.Clone(x.match.Segments)
	for i := 1; i < len(segments); i++ {
		if i == 3 && segments[0] == "apps" && (segments[2] == "releases" || segments[2] == "builds") {
			segments[i] = strings.ToUpper(segments[i])
		}
	}
	return "/" + strings.Join(segments, "/")
}

// operation is what is asked for, in words and in what it is bound to, for the page.
func (x *exchange) operation() json.RawMessage {
	o := credential.Operation{
		Action: x.rule.Action, Sentence: x.sentence(), App: x.app, Resource: printableText(x.event.Resource),
		Method: x.r.Method, Path: x.event.Detail.Path, Client: printableText(shorten(x.r.UserAgent(), 200)),
	}
	for _, p := range x.event.Detail.Params {
		o.Details = append(o.Details, [2]string{shorten(printableText(p.Name), 60), shorten(printableText(p.Value), 400)})
	}
	if x.hasForm && len(x.form) > 0 {
		sum := sha256.Sum256(x.form)
		o.Body = hex.EncodeToString(sum[:])
		o.Details = append(o.Details, [2]string{"Form (SHA-256)", o.Body})
	}
	o.Streamed = x.match.Route != nil && x.streams()
	text, err := json.Marshal(o)
	if err != nil { // texts always encode
		panic(err)
	}
	return text
}

// shorten cuts a text for show, between two runes.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// printableText is printable for a page, where a percent sign does no harm. What cannot be seen, or turns the order in
// which the rest is read, does: the person approves what they read.
func printableText(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsGraphic(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

// answerChallenge is what the CLI fetches first: it hands it to the page, which finds the step-up by it.
func answerChallenge(x *exchange) (int, any, *refusal) {
	id, refused := x.challengeID()
	if refused != nil {
		return 0, nil, refused
	}
	x.w.Header().Set("Challenge", id.String())
	return http.StatusOK, plainText(id.String()), nil
}

// plainText is an answer that is no JSON.
type plainText string

func (x *exchange) challengeID() (uuid.UUID, *refusal) {
	text := strings.TrimPrefix(x.path, sessionPath)
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.Nil, refuse(http.StatusNotFound, "unknown-challenge", "this gateway has asked for no such second factor: run the command again")
	}
	return id, nil
}

// largestCode bounds what the CLI brings from the page, in bytes.
const largestCode = 1 << 10

// answerExchange gives the CLI its session for what the page gave it. A device without a browser brings nothing, and
// waits here until somebody approves.
func answerExchange(x *exchange) (int, any, *refusal) {
	id, refused := x.challengeID()
	if refused != nil {
		return 0, nil, refused
	}
	code, err := io.ReadAll(io.LimitReader(x.r.Body, largestCode+1))
	if err != nil || len(code) > largestCode {
		return 0, nil, refuse(http.StatusBadRequest, "bad-code", "what the browser brought could not be read: run the command again")
	}
	session := newStepSession()
	state, err := x.await(x.r.Context(), id, code, session, len(code) == 0)
	x.renewPatience() // what the person took for it is not the record's fault
	if err != nil {
		return 0, nil, unavailable("could not look for your second factor in time", err)
	}
	x.event.Detail.Params.Add("step_up", id.String())
	x.event.Detail.Params.Add("step_up_state", state)
	if state != "approved" {
		return 0, nil, notApproved(state)
	}
	return http.StatusOK, struct {
		ID string `json:"id"`
	}{session}, nil
}

// newStepSession is 256 bits that nobody can guess, in letters that a header carries.
func newStepSession() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return "rgs_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// notApproved says what became of a challenge that was not approved.
func notApproved(state string) *refusal {
	switch state {
	case "refused":
		return refuse(http.StatusForbidden, "factor-refused", "it was refused in the browser, so nothing was done")
	case "expired", "pending":
		return refuse(http.StatusForbidden, "factor-timeout", "nobody approved it within five minutes, so nothing was done: run the command again")
	}
	return refuse(http.StatusForbidden, "factor-unknown", "this approval is of another command, or was used already: run the command again")
}

// pollStepUps is how often a challenge is looked at that no announcement is heard of.
const pollStepUps = 5 * time.Second

// await takes the approval of a challenge into use, and, when it is to wait, waits until somebody has decided, nobody
// has in time, or ctx ends.
func (x *exchange) await(ctx context.Context, id uuid.UUID, code []byte, session string, wait bool) (state string, err error) {
	changed, stop := x.p.Credentials.WatchFactor(x.principal.TokenID)
	defer stop()
	over := time.NewTimer(credential.StepUpLife + time.Second)
	defer over.Stop()
	again := time.NewTicker(pollStepUps)
	defer again.Stop()
	for {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.p.MaxWait)
		state, err = x.p.Credentials.ExchangeStepUp(asking, id, x.principal.TokenID, code, session)
		cancel()
		if !wait || err == nil && state != "pending" {
			return state, err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-over.C:
			return "expired", nil
		case <-ctx.Done():
			return "pending", nil
		}
	}
}
