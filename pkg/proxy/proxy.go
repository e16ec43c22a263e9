// Package proxy is the data path of Rack Gateway: it authenticates the bearer of a token, decides, records
// durably, and carries the request to the rack.
//
// The way of a request reads top to bottom in [Proxy.serve]:
//
//	identify → match → read form → gather facts → decide → begin → answer | forward | tunnel
//
// The promise it keeps, and what its tests count: a write reaches the rack only after its record is
// durable; a read's answer leaves only after its record is durable; a refusal is recorded with its reason;
// without a record there is no service. Everything that waits for PostgreSQL or for the rack on behalf of a
// decision is bounded; what the rack takes for its own work is not.
//
// It knows nothing of sign-in, mail, web pages or the ledger. It is the only package that is given the
// rack's password.
package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/rack"
	"rackgateway/pkg/secret"
)

// Config is what a Proxy is made of. All fields are needed unless they say otherwise.
type Config struct {
	RackURL       *url.URL          // where the rack's API is: scheme and host; a path is put before every path
	RackUsername  string            // user name for the rack, "convox"
	RackToken     secret.Text       // the rack's password
	RackTokenNext secret.Text       // used once the rack refuses RackToken; may be empty
	Transport     http.RoundTripper // to the rack; answers to an upgrade carry a connection with deadlines

	Organization string // this rack's name is Organization/Alias
	Alias        string

	Credentials *credential.Cache
	Audit       *audit.Writer
	MaxWait     time.Duration // how long one request may wait for lookups and records in all

	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	AdminNetworks  []netip.Prefix // from where browser sessions are taken, and a person's address; nil for nowhere
	Domain         string         // the gateway's public host name, for messages
	AdminURL       *url.URL       // where browsers are sent; nil when there is none

	// What admin's checklist asks about this process and cannot see from outside. All may be left out.
	Version         string
	RackVerified    string                                           // how the rack's certificate is verified: "authority", "pin", "authority and pin"; empty when it is not
	RackCertificate func(context.Context) (*x509.Certificate, error) // which it shows now
	ScrapedAt       func() (served bool, last time.Time)             // when metrics were last asked for; zero when never
	Fingerprint     func(secret.Text) string                         // tells two passwords of the rack apart, and nothing about them

	Log     *slog.Logger
	Metrics *Metrics
	Now     func() time.Time
}

// Proxy is an http.Handler. It holds no state but what it keeps about the requests under way.
type Proxy struct {
	Config

	routes   *rack.Table
	rules    map[rack.Op]access.Rule
	password password
	forms    *semaphore.Weighted
	flood    *floodgate
	crowd    crowd
	facts    factCache

	draining atomic.Bool
	tunnels  tunnels
	census   census
	buffers  bufferPool
	masking  maskingPool

	rackHealth rackHealth
	deployed   deployed
	provider   atomic.Value // string: what the rack runs on, as it said last
}

// New checks that every route of the rack has a rule, and returns a Proxy.
func New(config Config) (*Proxy, error) {
	table, err := rack.NewTable()
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		Config: config,
		routes: table,
		rules:  make(map[rack.Op]access.Rule),
		forms:  semaphore.NewWeighted(formBudget),
		flood:  newFloodgate(),
		census: census{empty: make(chan struct{}, 1)},
	}
	for _, route := range rack.Routes() {
		rule, ok := access.RuleFor(string(route.Op))
		if !ok {
			return nil, fmt.Errorf("route %s %s has no rule", route.Method, route.Pattern)
		}
		p.rules[route.Op] = rule
	}
	p.password.init(config)
	return p, nil
}

// Run does what the proxy does beside requests: it records counted floods, forgets principals that have left,
// and keeps in mind what the rack runs on. It returns when ctx is done.
func (p *Proxy) Run(ctx context.Context) {
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	seldom := time.NewTicker(5 * time.Minute)
	defer seldom.Stop()
	p.recordStart(ctx, p.password.current.Load())
	p.learnProvider(ctx)
	p.rackHealth.ask(ctx, p)
	for {
		select {
		case <-seldom.C:
			p.learnProvider(ctx)
		case <-ctx.Done():
			p.tellCounts()
			return
		case <-every.C:
			p.tellCounts()
			p.rackHealth.ask(ctx, p)
			p.crowd.forget(p.Now().Add(-5 * time.Minute))
		}
	}
}

// ServeHTTP serves one request. Nothing a client sends makes it panic or hang; a panic of ours is recorded,
// answered with 500 and logged.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	harden(w.Header())
	if p.draining.Load() {
		w.Header()["Connection"] = closing // the next request goes elsewhere
	}
	if p.answersAnybody(w, r) {
		return
	}
	p.census.enter()
	defer p.census.leave()
	x := p.newExchange(w, r)
	defer x.leave()
	if refused := p.serve(x); refused != nil {
		x.refuse(refused)
	}
}

// answersAnybody answers what needs no credential. A body is not waited for then: net/http reads one before it answers,
// for as long as the client likes.
func (p *Proxy) answersAnybody(w http.ResponseWriter, r *http.Request) bool {
	if r.ContentLength == 0 {
		return p.isHealth(w, r) || p.isBrowser(w, r)
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(lingerTime)) // HTTP/1 always can
	if p.isHealth(w, r) || p.isBrowser(w, r) {
		return true
	}
	_ = control.SetReadDeadline(time.Time{})
	return false
}

// serve is the way of a request. It returns why the request is not served, or nil when it was answered.
func (p *Proxy) serve(x *exchange) *refusal {
	if err := x.identify(); err != nil { // who: credential.Resolve
		return err
	}
	if err := x.matchRoute(); err != nil { // what: rack.Match
		return err
	}
	if err := x.readFields(); err != nil { // what exactly: query, headers, form
		return err
	}
	if err := x.gatherFacts(); err != nil { // what the decision needs to know of the rack
		return err
	}
	if err := x.decide(); err != nil { // may they: access.Decide
		if !x.holds() {
			return err
		}
		if err := x.hold(err); err != nil { // a socket waits for its second factor
			return err
		}
	}
	if x.own != nil {
		return x.answerItself()
	}
	if err := x.begin(); err != nil { // the record that comes before the deed
		return err
	}
	if x.socket {
		return x.carrySocket()
	}
	if err := x.confirm(); err != nil { // still: nothing was changed while we waited
		return err
	}
	x.asked, x.askedAt = true, time.Now()
	return x.forward()
}

// harden makes every answer harmless in a browser: the gateway shares its origin with the console, and the
// rack's answers are not ours.
func harden(h http.Header) {
	h["Content-Security-Policy"] = hardCSP
	h["X-Content-Type-Options"] = hardNosniff
}

var (
	hardCSP     = []string{"sandbox; default-src 'none'"}
	hardNosniff = []string{"nosniff"}
)

// rackProxyPrefix is where the proxy is reached on a domain that it shares with admin.
const rackProxyPrefix = "/api/v1/rack-proxy"

// trimPrefix takes off the prefix and the doubled slash that the CLI makes of a URL that ends in one.
func trimPrefix(escaped string) string {
	if rest, ok := strings.CutPrefix(escaped, rackProxyPrefix); ok && (rest == "" || rest[0] == '/') {
		escaped = rest
	}
	if strings.HasPrefix(escaped, "//") {
		escaped = escaped[1:]
	}
	return escaped
}

// isBrowser sends a browser that lost its way to the console.
func (p *Proxy) isBrowser(w http.ResponseWriter, r *http.Request) bool {
	if p.AdminURL == nil || r.Header.Get("Authorization") != "" || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		return false
	}
	path := r.URL.EscapedPath()
	ours := path == "/" || strings.HasPrefix(path, "/console/") || strings.HasPrefix(path, "/login/") ||
		(strings.HasPrefix(path, "/api/") && !strings.HasPrefix(path, rackProxyPrefix))
	if !ours || p.AdminURL.Host == r.Host || p.AdminURL.Host == p.Domain {
		return false // where both share an address, it is the ingress that tells them apart
	}
	to := *p.AdminURL
	to.Path, to.RawQuery = r.URL.Path, r.URL.RawQuery
	http.Redirect(w, r, to.String(), http.StatusFound)
	return true
}

// decide asks the one decision point. A request that lacks its second factor is asked for it.
func (x *exchange) decide() *refusal {
	refused := x.judge(x.entry.Factor(x.settings, x.stepSession()))
	if x.lacksFactor() {
		return x.challenge()
	}
	return refused
}

// judge is decide with a second factor as it stands. It notes the answer for the record.
func (x *exchange) judge(factor access.Factor) *refusal {
	x.decision = access.Decide(x.principal, x.wanted(), x.known, x.settings, factor)
	x.event.Detail.Permission = string(x.decision.Permission)
	x.event.Detail.Rule = x.decision.Rule
	if x.decision.Level != access.LevelNone { // most need no factor, and the record says so by saying nothing
		x.event.Detail.MFA, x.event.Detail.MFALevel = x.decision.MFA, x.decision.Level.String()
	}
	if x.decision.Effect == access.Allow {
		x.event.Decision = audit.DecisionAllow
		return nil
	}
	x.event.Decision = audit.DecisionDeny
	return refuse(http.StatusForbidden, x.decision.Code, "%s", x.decision.Message)
}

// wanted is the request as the decision sees it.
func (x *exchange) wanted() access.Request {
	return access.Request{Rule: x.rule, App: x.app, Service: x.service, Variant: x.variant, Source: x.address}
}

// confirm makes sure, right before the rack is asked, that the rights which were decided by still hold.
func (x *exchange) confirm() *refusal {
	if err := x.entry.Confirm(x.patience); err != nil {
		return x.unresolved(err)
	}
	if x.decision.MFA == access.MFAFresh && !x.entry.Factor(x.settings, x.stepSession()).Fresh {
		return refuse(http.StatusForbidden, "factor-ended", "the second factor that you gave stopped counting while this request waited: run the command again")
	}
	return nil
}

// tunnels are the open sockets of this process.
type tunnels struct {
	mu   sync.Mutex
	open map[*tunnel]struct{}
	last string // what those that open from now on are ended with at once; empty while they may open
	wg   sync.WaitGroup
}

func (s *tunnels) add(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[*tunnel]struct{})
	}
	s.open[t] = struct{}{}
	s.wg.Add(1)
	if s.last != "" {
		t.end(s.last)
	}
}

func (s *tunnels) remove(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, t)
	s.wg.Done()
}

func (s *tunnels) endAll(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = message
	for t := range s.open {
		t.end(message)
	}
}

// errDrainTimeout is why a drain gave up.
var errDrainTimeout = errors.New("requests or sockets still under way after the drain")

// StopBeingReady makes readiness fail, and has each answer end its connection, so that no new traffic is sent here.
func (p *Proxy) StopBeingReady() { p.draining.Store(true) }

// A census counts the requests under way, sockets included, with their records.
type census struct {
	n     atomic.Int64
	empty chan struct{} // gets a value when nobody is left
}

func (c *census) enter() { c.n.Add(1) }

func (c *census) leave() {
	if c.n.Add(-1) == 0 {
		select {
		case c.empty <- struct{}{}:
		default:
		}
	}
}

// WaitRequests waits until every request has ended and made its records, at most until ctx is done. Requests whose
// connections were cut are among them: their outcome is yet to be recorded.
func (p *Proxy) WaitRequests(ctx context.Context) error {
	for p.census.n.Load() > 0 {
		select {
		case <-p.census.empty:
		case <-ctx.Done():
			return errDrainTimeout
		}
	}
	return nil
}

// EndSockets ends every open socket, and every one that opens later, with a message and waits for their records, at most until ctx is done.
func (p *Proxy) EndSockets(ctx context.Context) error {
	p.tunnels.endAll("the gateway is being restarted: run the command again")
	done := make(chan struct{})
	go func() { p.tunnels.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errDrainTimeout
	}
}

// WaitSockets waits until every socket has ended by itself, at most until ctx is done.
func (p *Proxy) WaitSockets(ctx context.Context) {
	done := make(chan struct{})
	go func() { p.tunnels.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
