package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/peer"
	"rackgateway/pkg/rack"
)

// An exchange is one request on its way, and what has been found out about it so far.
type exchange struct {
	p  *Proxy
	w  http.ResponseWriter
	r  *http.Request
	id uuid.UUID // joins the events of this request

	started time.Time
	address netip.Addr // of the client
	path    string     // escaped, without the gateway's own prefix
	socket  bool

	patience context.Context // ends when this request has waited for lookups and records long enough
	cancel   context.CancelFunc

	// identify
	fromAdmin bool // admin asks, for a person
	session   bool // by that person's browser session
	entry     *credential.Entry
	principal *access.Principal
	settings  access.Settings
	here      *presence
	counted   bool // in here.requests or here.sockets

	// matchRoute
	match   rack.Match
	own     answerer // set when the gateway answers by itself
	rule    access.Rule
	app     string // in the path, "" when none
	service string // likewise

	// readFields
	form    []byte // the body of a form route, read once and forwarded as it came
	formed  int64  // bytes of the form budget held
	hasForm bool
	variant access.Variant
	upload  *countedBody // a body that is streamed

	// gatherFacts, decide
	known    access.Facts
	decision access.Decision

	// challenge, hold
	waiting *credential.StepUp // the socket waits for it
	tunnel  *tunnel            // registered; its end may be asked for
	client  net.Conn           // of a socket that was accepted before the rack was asked; nil otherwise
	early   []byte             // what it sent meanwhile

	event    audit.Event // what the events of this request have in common
	begun    bool        // a started event is queued, and was not durable in time
	recorded bool        // a started event is durable
	asked    bool        // the rack is being asked, so that what follows is an outcome, not a refusal
	askedAt  time.Time   // since when, by the system's clock
	done     bool        // its last event was queued

	status  int           // that the client is told
	took    time.Duration // from its arrival to its outcome
	tallied bool          // it was counted
}

// newExchange begins an exchange. Its patience is detached from the client: hanging up does not cancel a
// lookup or a record.
func (p *Proxy) newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	now := p.Now()
	x := &exchange{p: p, w: w, r: r, started: now, id: audit.NewID(now)}
	x.patience, x.cancel = context.WithTimeout(context.WithoutCancel(r.Context()), p.MaxWait)
	x.address = peer.Address(r, p.TrustedProxies)
	x.path = trimPrefix(r.URL.EscapedPath())
	x.socket = rack.IsSocket(r)
	x.event = audit.Event{
		RequestID: x.id,
		Kind:      audit.KindAction,
		Decision:  audit.DecisionDeny,
		ActorKind: audit.ActorNobody,
		Action:    "credential.refused", // until the credential has been found good
		Address:   x.address,
		Detail: audit.Detail{
			Method:    r.Method,
			Path:      x.path,
			UserAgent: r.UserAgent(),
			Client:    "cli",
		},
	}
	p.Metrics.InFlight.Inc()
	return x
}

// renewPatience gives the record of an outcome its own time: what the rack took for its work is not the
// record's fault.
func (x *exchange) renewPatience() {
	x.cancel()
	x.patience, x.cancel = context.WithTimeout(context.WithoutCancel(x.r.Context()), x.p.MaxWait)
}

// resumePatience gives a request its time back that the rack took for its work since it was asked, or since the
// last call: neither look-ups nor records are at fault. A short while is not worth a new timer.
func (x *exchange) resumePatience() {
	if x.recorded {
		x.renewPatience()
		return
	}
	deadline, _ := x.patience.Deadline()
	took := time.Since(x.askedAt)
	if took < x.p.MaxWait/8 {
		return
	}
	x.askedAt = time.Now()
	x.cancel()
	x.patience, x.cancel = context.WithDeadline(context.WithoutCancel(x.r.Context()), deadline.Add(took))
}

// leave ends the exchange: it gives back what it held, and turns a panic into an answer and a record.
func (x *exchange) leave() {
	trouble := recover()
	if trouble != nil && trouble != http.ErrAbortHandler { //nolint:errorlint // net/http compares what it recovers in the same way
		x.p.Log.Error("a request made the gateway panic", "request", x.id, "panic", trouble, "stack", stack())
		x.refuse(refuse(http.StatusInternalServerError, "internal",
			"the gateway made a mistake of its own: check what the request was to do before you repeat it, and tell an administrator"))
		trouble = nil
	}
	x.cancel()
	x.tally() // a download, whose outcome comes after its answer
	if x.tunnel != nil {
		x.p.tunnels.remove(x.tunnel)
	}
	if x.counted {
		if x.socket {
			x.here.sockets.Add(-1)
		} else {
			x.here.requests.Add(-1)
		}
	}
	if x.formed > 0 {
		x.p.forms.Release(x.formed)
		x.here.forms.Add(-x.formed)
	}
	x.p.Metrics.InFlight.Dec()
	if trouble != nil {
		panic(trouble) // net/http cuts the connection, which is how a client learns that an answer broke off
	}
}

// identify finds out who is asking, from the credential and nothing else.
func (x *exchange) identify() *refusal {
	r := x.r
	if refused := x.lookBehindAdmin(); refused != nil {
		return refused
	}
	if !x.p.sameSite(r) {
		return refuse(http.StatusForbidden, "cross-site", "the gateway does not serve requests that another web site made a browser send")
	}
	token, how, refused := presented(r, x.p.Alias)
	x.event.Detail.Auth = how
	if refused == nil {
		refused = x.takeSession(token, how)
	}
	if refused != nil {
		return refused
	}
	if name := r.Header["Rack"]; len(name) > 0 && (len(name) > 1 || name[0] != x.p.rackName()) {
		return x.otherRack()
	}
	cached := x.p.Credentials.Cached(token)
	if !cached && !x.p.flood.open(x.address, token.Hash(), x.started) {
		refused := refuse(http.StatusTooManyRequests, "too-many-failures",
			"too many requests with wrong credentials come from your address: wait a few seconds, and check the token")
		refused.retryAfter = 5
		return refused
	}
	entry, err := x.p.Credentials.Resolve(x.patience, token)
	if err != nil {
		return x.unresolved(err)
	}
	if !cached {
		x.p.flood.remember(token.Hash())
	}
	x.entry = entry
	x.know(entry.Principal)
	x.settings = x.p.Credentials.Settings()

	if refused := x.count(); refused != nil {
		return refused
	}
	x.p.Credentials.Used(x.principal.TokenID, x.address)
	x.event.Action = "request.unknown" // until its route is known
	return nil
}

// sameSite reports whether a request is anything but what another web site made a browser send: by what the browser says
// of it and, since not every browser says it of sockets, by its origin. That of the stock CLI's sockets is the host that
// it was given.
func (p *Proxy) sameSite(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" && site != "same-origin" {
		return false
	}
	lines, told := r.Header["Origin"]
	if !told {
		return true
	}
	origin, err := url.Parse(lines[0])
	if err != nil || len(lines) > 1 || origin.Hostname() == "" {
		return false
	}
	// Names without ports: what stands in front of the proxy may take another one.
	for _, host := range []string{r.Host, p.Domain} {
		if strings.EqualFold(origin.Hostname(), (&url.URL{Host: host}).Hostname()) {
			return true
		}
	}
	return false
}

// know notes who is asking in what will be recorded.
func (x *exchange) know(p *access.Principal) {
	x.principal = p
	x.here = x.p.crowd.enter(presenceKey(p), x.started)
	x.event.ActorLabel = p.Label()
	switch p.Kind {
	case access.KindAPIToken:
		x.event.ActorKind, x.event.ActorID = audit.ActorAPIToken, p.TokenID
		x.event.Detail.Owner = p.UserLabel
	default:
		x.event.ActorKind, x.event.ActorID = audit.ActorUser, p.UserID
	}
	x.event.Detail.Token, x.event.Detail.TokenName = p.TokenID, p.TokenName
}

// presenceKey says whom limits count: a person over all devices, a pipeline by itself.
func presenceKey(p *access.Principal) string {
	if p.Kind == access.KindAPIToken {
		return "token:" + p.TokenID
	}
	return "user:" + p.UserID
}

// unresolved tells a credential that is refused from a database that cannot be asked.
func (x *exchange) unresolved(err error) *refusal {
	var bad *credential.RefusedError
	if !errors.As(err, &bad) {
		return unavailable("could not look up your token in time", err)
	}
	if bad.Principal != nil {
		x.know(bad.Principal)
	}
	if x.session {
		return x.noSession(bad)
	}
	switch bad.Code {
	case "sign-in-due":
		return refuse(http.StatusUnauthorized, bad.Code, "%s: sign in at %s and run again (%s)", cliShows, x.p.consoleAddress(), bad.Message)
	case "access-changed":
		return refuse(http.StatusUnauthorized, bad.Code, "%s", bad.Message)
	case "owner-locked", "owner-removed":
		return refuse(http.StatusUnauthorized, bad.Code, "%s: %s", cliShows, bad.Message)
	}
	return refuse(http.StatusUnauthorized, bad.Code, "%s: run convox login %s with a new token (%s)", cliShows, x.p.Domain, bad.Message)
}

// count takes one of the places that a principal has.
func (x *exchange) count() *refusal {
	places, limit, what := &x.here.requests, x.settings.InFlightPerPrincipal, "requests under way"
	if x.socket {
		places, limit, what = &x.here.sockets, x.settings.SocketsPerPrincipal, "open sockets"
	}
	if places.Add(1) > int64(limit) {
		places.Add(-1)
		refused := refuse(http.StatusTooManyRequests, "too-many-at-once",
			"you have %d %s, which is the limit: wait for some to end, or have an administrator raise it", limit, what)
		refused.retryAfter = 1
		return refused
	}
	x.counted = true
	return nil
}

// presented reads the credential from the request: the password of Basic, or Bearer.
func presented(r *http.Request, alias string) (credential.Token, string, *refusal) {
	var none credential.Token
	lines := r.Header["Authorization"]
	if len(lines) == 0 {
		return none, "none", refuse(http.StatusUnauthorized, "no-credential",
			"no token was sent: run convox login, or set RACK_URL to https://convox:TOKEN@ and the gateway's host")
	}
	if len(lines) > 1 {
		return none, "none", refuse(http.StatusBadRequest, "two-credentials", "two Authorization headers were sent: send one")
	}
	scheme, rest, _ := strings.Cut(lines[0], " ")
	var how, text string
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		how, text = "bearer", strings.TrimSpace(rest)
	case strings.EqualFold(scheme, "Basic"):
		how = "basic"
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
		if err != nil {
			return none, how, malformed("the Authorization header is not valid Basic")
		}
		user, password, ok := strings.Cut(string(plain), ":")
		if !ok {
			// https://TOKEN@host sends the token as a user name without a password.
			return none, how, malformed("the token was sent as the user name; write https://convox:TOKEN@ and the host")
		}
		if user != "" && user != "convox" && user != alias {
			return none, how, refuse(http.StatusNotFound, "other-rack", "the user name in the URL names another rack: use convox, or %s", printable(alias))
		}
		text = password
	default:
		return none, "none", malformed("only Basic and Bearer credentials are understood")
	}
	token, err := credential.Parse(text)
	if err != nil {
		return none, how, malformed("what was sent is not a token of this gateway, or was not copied whole").because(err)
	}
	return token, how, nil
}

func malformed(what string) *refusal {
	return refuse(http.StatusUnauthorized, "malformed-credential", "%s or not valid: %s", cliShows, what)
}

// cliShows is the one text of a failed `GET /racks` or login that the CLI does not hide.
const cliShows = "cli token is expired"

// rackName is the one name this gateway answers to.
func (p *Proxy) rackName() string { return p.Organization + "/" + p.Alias }

func (x *exchange) otherRack() *refusal {
	return refuse(http.StatusNotFound, "other-rack", "this gateway serves %s: run convox switch %s", x.p.rackName(), x.p.rackName())
}

// matchRoute finds the route, in the gateway's own answers first and then in the rack's table. From here
// on match.Path is the one path there is: it is what is authorised, recorded and forwarded.
func (x *exchange) matchRoute() *refusal {
	if up := x.r.Header["Upgrade"]; len(up) > 0 && !x.socket {
		return refuse(http.StatusBadRequest, "bad-upgrade", "only GET with the header Upgrade: websocket can change protocols here")
	}
	if own, ok := x.p.ownAnswer(x.r.Method, x.path, x.socket); ok {
		x.own = own.answer
		x.rule, _ = access.RuleFor(own.op)
		x.describe("")
		return nil
	}
	match, err := x.p.routes.Match(x.r.Method, x.socket, x.path)
	if err != nil {
		var ambiguous *rack.PathError
		var method *rack.MethodError
		switch {
		case errors.As(err, &ambiguous):
			return refuse(http.StatusBadRequest, "ambiguous-path", "this path could be read in two ways, so it is refused: %s", ambiguous.Reason)
		case errors.As(err, &method):
			return refuse(http.StatusMethodNotAllowed, "unknown-method", "the gateway knows this path, but not with %s", printable(x.r.Method))
		default:
			return refuse(http.StatusNotFound, "unknown-route", "the gateway has no rule for %s %s, so it refuses it", printable(x.r.Method), printable(x.path))
		}
	}
	if app := match.Var("app"); app != "" && !plainApp(app) {
		return refuse(http.StatusBadRequest, "bad-app-name", "the name of an app consists of a-z, 0-9 and -, and this one does not: check it")
	}
	x.match = match
	x.event.Detail.Path = match.Path
	x.rule = x.p.rules[match.Route.Op]
	x.app, x.service = match.Var("app"), match.Var("service")
	x.describe(resourceOf(&match))
	return nil
}

// plainApp reports whether a name is of the form that racks give to apps, and bindings to patterns.
func plainApp(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// describe notes what is being asked for.
func (x *exchange) describe(resource string) {
	x.event.Action = x.rule.Action
	x.event.App = x.app
	x.event.Resource = resource
	switch {
	case x.rule.Kind == access.EventPreflight:
		x.event.Kind = audit.KindPreflight
	case x.rule.Kind == access.EventPoll && x.here.repeats(x.path, x.started):
		x.event.Kind = audit.KindPoll
	}
}
