package adminapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
)

// authorise is the one place where it is decided whether a request may go on: who asks, by the credential and
// nothing else, and whether they may, by access.Decide. What the operation is about is not looked at before, but for the
// app in its path: as it was written, because conform takes only names that can be written in one way.
func (x *exchange) authorise(ctx context.Context, rule access.Rule) *problem {
	if refused := x.identify(ctx); refused != nil {
		return refused
	}
	x.event.Action = rule.Action
	x.event.Detail.Op = rule.Op
	if refused := x.decide(rule); refused == nil || x.decision.Effect != access.Challenge {
		return refused
	}
	// What is missing may have been given a moment ago.
	again, err := x.entry.Again(ctx)
	if err != nil {
		return x.unresolved(err)
	}
	x.entry = again
	refused := x.decide(rule)
	if refused == nil || x.decision.Effect != access.Challenge {
		return refused
	}
	return x.stepUp(ctx, refused)
}

// decide asks the one decision point, and notes its answer for the record.
func (x *exchange) decide(rule access.Rule) *problem {
	settings := x.a.Credentials.Settings()
	factor := x.entry.Factor(settings, "")
	factor.AlwaysGranted = x.grant != uuid.Nil
	request := access.Request{Rule: rule, Source: x.address}
	if rule.AppFrom == access.AppVar {
		request.App = mux.Vars(x.r)[appVariable]
		x.event.App = request.App
	}
	if rule.OfSetting {
		request.Setting = mux.Vars(x.r)[settingVariable]
	}
	x.decision = access.Decide(x.principal, request, access.Facts{}, settings, factor)
	d := &x.decision
	x.event.Detail.Permission, x.event.Detail.Rule = string(d.Permission), d.Rule
	x.event.Detail.MFA, x.event.Detail.MFALevel = d.MFA, d.Level.String()
	switch d.Effect {
	case access.Allow:
		x.event.Decision = audit.DecisionAllow
		return nil
	case access.Challenge:
		p := refuse(http.StatusForbidden, d.Code, "%s", d.Message)
		p.decision = audit.DecisionChallenge
		return p
	case access.Wait:
		p := refuse(http.StatusForbidden, d.Code, "%s", d.Message)
		p.decision = audit.DecisionWait
		return p
	case access.Deny:
	}
	return refuse(http.StatusForbidden, d.Code, "%s", d.Message)
}

// identify finds out who is asking.
func (x *exchange) identify(ctx context.Context) *problem {
	if refused := x.present(); refused != nil {
		return refused
	}
	cached := x.a.Credentials.Cached(x.token)
	if !cached && !x.a.flood.open(x.address, x.token.Hash(), x.started) {
		p := refuse(http.StatusTooManyRequests, "too-many-failures",
			"too many requests with wrong credentials come from your address: wait a few seconds, and check the token")
		p.retryAfter = 5
		return p
	}
	entry, err := x.a.Credentials.Resolve(ctx, x.token)
	if err != nil {
		return x.unresolved(err)
	}
	if !cached {
		x.a.flood.remember(x.token.Hash())
	}
	x.entry = entry
	x.know(entry.Principal)
	x.a.Credentials.Used(entry.Principal.TokenID, x.address)
	if x.session {
		return x.sameSite()
	}
	return nil
}

// present reads the credential: a bearer token, or the cookie of a session. Both at once are refused, because a page
// of somebody else's could add the one that the browser sends by itself.
func (x *exchange) present() *problem {
	r := x.r
	lines := r.Header["Authorization"]
	cookie, hasCookie := x.a.Sessions.FromRequest(r)
	hasCookie = hasCookie && cookie.Kind() == credential.Session
	switch {
	case len(lines) > 1, len(lines) == 1 && hasCookie:
		return refuse(http.StatusBadRequest, "two-credentials", "two credentials were sent: send a token, or the cookie of a session, not both")
	case hasCookie:
		x.token, x.session = cookie, true
		x.event.Detail.Auth, x.event.Detail.Client = "session", "console"
		return nil
	case len(lines) == 0:
		x.event.Detail.Auth = "none"
		return refuse(http.StatusUnauthorized, "no-credential",
			"this needs somebody who is signed in, or a token: sign in at the console, or send Authorization: Bearer with a token")
	}
	scheme, text, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		x.event.Detail.Auth = "none"
		return refuse(http.StatusUnauthorized, "malformed-credential", "only Bearer credentials are understood: send Authorization: Bearer with a token")
	}
	x.event.Detail.Auth = "bearer"
	token, err := credential.Parse(strings.TrimSpace(text))
	// A session is a cookie's matter: taken out of the browser and sent like this, it would escape what protects cookies.
	if err != nil || token.Kind() != credential.CLI && token.Kind() != credential.API {
		return refuse(http.StatusUnauthorized, "malformed-credential", "what was sent is not a token of this gateway, or was not copied whole").because(err)
	}
	x.token = token
	return nil
}

// know notes who is asking in what will be recorded.
func (x *exchange) know(p *access.Principal) {
	x.principal = p
	x.event.ActorLabel = p.Label()
	if p.Kind == access.KindAPIToken {
		x.event.ActorKind, x.event.ActorID = audit.ActorAPIToken, p.TokenID
		x.event.Detail.Owner = p.UserLabel
	} else {
		x.event.ActorKind, x.event.ActorID = audit.ActorUser, p.UserID
	}
	x.event.Detail.Token, x.event.Detail.TokenName = p.TokenID, p.TokenName
}

// unresolved tells a credential that is refused from a database that cannot be asked.
func (x *exchange) unresolved(err error) *problem {
	var bad *credential.RefusedError
	if !errors.As(err, &bad) {
		return unavailable(err)
	}
	if bad.Principal != nil {
		x.know(bad.Principal)
	} else {
		x.a.flood.failed(x.address, x.started)
	}
	return refuse(http.StatusUnauthorized, bad.Code, "%s", bad.Message)
}

// sameSite holds requests that a browser authenticated by itself, with the session's cookie, to having been made by the
// gateway's own pages: by what the browser says of their origin, and, where they may change something, by a token
// that only those pages can read.
func (x *exchange) sameSite() *problem {
	cross := func() *problem {
		return refuse(http.StatusForbidden, "cross-site", "the gateway does not serve requests that another web site made a browser send")
	}
	h := x.r.Header
	if site, told := h["Sec-Fetch-Site"]; told && (len(site) != 1 || site[0] != "same-origin") {
		// "none" is an address that somebody typed or followed from outside the web, which changes nothing.
		if len(site) != 1 || site[0] != "none" || !safeMethod(x.r.Method) || x.upgrades() {
			return cross()
		}
	}
	if origin, told := h["Origin"]; told && (len(origin) != 1 || !x.a.isOrigin(origin[0])) {
		return cross()
	}
	switch {
	case x.upgrades():
		// Pages cannot add headers to a WebSocket, but every browser says where one comes from.
		if len(h["Origin"]) == 0 {
			return cross()
		}
	case !safeMethod(x.r.Method):
		// In the header alone: a form's field would have to be read out of the body, which is not ours to read.
		if len(h["X-Csrf-Token"]) != 1 || !x.a.Sessions.CheckCSRF(x.r, x.token) {
			return refuse(http.StatusForbidden, "csrf", "the header X-CSRF-Token is missing or not of this session: take csrf_token from GET %s/me", BasePath)
		}
	}
	return nil
}

func (x *exchange) upgrades() bool {
	return x.r.Method == http.MethodGet && len(x.r.Header["Upgrade"]) > 0
}

func safeMethod(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// isOrigin reports whether an Origin header names the gateway itself.
func (a *API) isOrigin(text string) bool {
	origin, err := url.Parse(text)
	return err == nil && origin.Scheme == a.Origin.Scheme && strings.EqualFold(origin.Host, a.Origin.Host)
}
