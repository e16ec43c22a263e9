package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// An answerer is a request that the gateway answers by itself, as the console that the stock CLI takes it
// for. None of them reaches the rack.
type answerer func(x *exchange) (status int, body any, refused *refusal)

type ownRoute struct {
	op     string
	answer answerer
}

// Operations of the gateway's own, as pkg/access knows them.
const (
	opAuth     = "Auth"
	opRacks    = "Racks"
	opRackGet  = "RackGet"
	opMachines = "Machines"

	opSessionChallenge = "SessionChallenge"
	opSessionExchange  = "SessionExchange"
)

// ownAnswer finds the gateway's own answer to a request.
func (p *Proxy) ownAnswer(method, escapedPath string, socket bool) (ownRoute, bool) {
	if socket {
		return ownRoute{}, false
	}
	if strings.HasPrefix(escapedPath, sessionPath) && strings.Count(escapedPath, "/") == 2 {
		switch method {
		case http.MethodGet:
			return ownRoute{opSessionChallenge, answerChallenge}, true
		case http.MethodPost:
			return ownRoute{opSessionExchange, answerExchange}, true
		}
	}
	if method != http.MethodGet {
		return ownRoute{}, false
	}
	switch {
	case escapedPath == "/auth":
		return ownRoute{opAuth, answerAuth}, true
	case escapedPath == "/racks":
		return ownRoute{opRacks, answerRacks}, true
	case escapedPath == "/machines":
		return ownRoute{opMachines, answerMachines}, true
	case strings.HasPrefix(escapedPath, "/racks/") && strings.Count(escapedPath, "/") == 3:
		return ownRoute{opRackGet, answerRack}, true
	}
	return ownRoute{}, false
}

// answerAuth is what `convox login` asks; it keeps the id.
func answerAuth(x *exchange) (int, any, *refusal) {
	return http.StatusOK, struct {
		ID string `json:"id"`
	}{x.principal.UserID}, nil
}

// consoleRack is a rack as a console lists it. It has neither parameters nor state: so the CLI takes the
// parameters from the rack itself, and sends changes of them there.
type consoleRack struct {
	Name         string              `json:"name"`
	Organization consoleOrganization `json:"organization"`
	Provider     string              `json:"provider"`
	Status       string              `json:"status"`
}

type consoleOrganization struct {
	Name string `json:"name"`
}

func (p *Proxy) consoleRack() consoleRack {
	provider, _ := p.provider.Load().(string)
	return consoleRack{Name: p.Alias, Organization: consoleOrganization{p.Organization}, Provider: provider, Status: "running"}
}

// learnProvider asks the rack what it runs on, for the list of racks. A rack that does not say stays unknown.
func (p *Proxy) learnProvider(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, factTimeout)
	defer cancel()
	var system struct {
		Provider string `json:"provider"`
	}
	if err := p.ask(ctx, "/system", &system); err == nil {
		p.provider.Store(system.Provider)
	}
}

func answerRacks(x *exchange) (int, any, *refusal) {
	return http.StatusOK, []consoleRack{x.p.consoleRack()}, nil
}

func answerRack(x *exchange) (int, any, *refusal) {
	if strings.TrimPrefix(x.path, "/racks/") != x.p.rackName() {
		return 0, nil, x.otherRack()
	}
	return http.StatusOK, x.p.consoleRack(), nil
}

// answerMachines is asked before every socket; the CLI ignores the answer.
func answerMachines(*exchange) (int, any, *refusal) {
	return http.StatusOK, []struct{}{}, nil
}

// answerItself sends an answer of the gateway's own, recorded like any other read.
func (x *exchange) answerItself() *refusal {
	status, answer, refused := x.own(x)
	if refused != nil {
		return refused
	}
	kind := "application/json"
	var body []byte
	if text, plain := answer.(plainText); plain {
		kind, body = "text/plain; charset=utf-8", []byte(text)
	} else {
		var err error
		if body, err = json.MarshalIndent(answer, "", "  "); err != nil {
			return refuse(http.StatusInternalServerError, "internal", "the gateway could not write its answer: tell an administrator").because(err)
		}
		body = append(body, '\n')
	}
	n := int64(len(body))
	if err := x.finish(status, "", &n); err != nil {
		return unavailable("could not record this request in time", err)
	}
	if x.r.ContentLength != 0 { // what is left of a body that nobody wants is read before the answer goes out, and not for ever
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(lingerTime))
	}
	h := x.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("Gateway-Request-Id", x.id.String())
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // a client that hung up is not told
	return nil
}

// The CLI swallows every failure of `GET /racks`, the first request of each command in console mode, and
// says "no such console rack" instead. It does show why a session could not be opened. So a failure there
// is answered with a session challenge that needs nobody, and the reason is given to the request that the
// CLI makes next.

const reasonPath = "/session/why/"

// hintAtRacks turns the answer to a refused `GET /racks` into such a challenge, for a CLI in console mode.
func (x *exchange) hintAtRacks(r *refusal) {
	if x.path != "/racks" || r.Code == "outcome-unknown" {
		return
	}
	if _, console := x.r.Header["Session"]; !console {
		return
	}
	if r.Status == http.StatusUnauthorized {
		return // its message holds the words that make the CLI show it
	}
	if _, known := reasons[r.Code]; !known {
		return
	}
	x.w.Header().Set("Www-Authenticate", `Session path="`+reasonPath+r.Code+`" token="false"`)
	r.Status = http.StatusUnauthorized
}

// reasons are the refusals of `GET /racks` that are told this way.
var reasons = map[string]string{
	"record-unavailable":  "the gateway cannot reach its database, so it serves nothing that it could not record: try again in a few seconds, and tell an administrator if it goes on",
	"too-many-at-once":    "you have too many requests under way: wait for some to end",
	"too-many-failures":   "too many requests with wrong credentials came from your address: wait a minute, and check the token",
	"source-address":      "this token may not be used from your address: use it from one of its networks, or have an administrator change them",
	"other-rack":          "the token or the host belongs to another rack: run convox racks, then convox switch",
	"access-changed":      "your access was changed while this request waited: run the command again",
	"too-many-challenges": "five second factors that this token was asked for are unanswered: answer one of them, or wait a minute and run the command again",
	"factor-spent":        "the second factor that you gave for this has been used or is too old: wait a minute and run the command again",
	"internal":            "the gateway made a mistake of its own: tell an administrator",
}

// isReason answers the request that asks why. It gives away nothing but the sentences above.
func (p *Proxy) isReason(w http.ResponseWriter, r *http.Request) bool {
	code, ok := strings.CutPrefix(trimPrefix(r.URL.EscapedPath()), reasonPath)
	if !ok || r.Method != http.MethodPost {
		return false
	}
	reason, ok := reasons[code]
	if !ok {
		return false
	}
	refuse(http.StatusForbidden, code, "%s", reason).write(w, "")
	return true
}
