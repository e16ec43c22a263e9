// Package signin lets people in: OpenID Connect's authorization code flow with an issuer that vouches for them, and
// the browser sessions that follow.
//
// The way of a sign-in reads top to bottom in [Handler.callback]:
//
//	POST /login/start     state, nonce and PKCE verifier go into a sealed cookie; the browser goes to the issuer
//	GET  /login/callback  cookie → state → first time → code for token → token → person → session
//
// What is believed: the issuer alone, for who somebody is, and only what it signed for this very sign-in of this very
// browser. Everything else about a person is the gateway's own: somebody whom nobody added is refused, however well
// vouched for, unless a setting lets them in.
//
// A refusal is a page with a sentence and a stable code, and an event. Nothing here knows what a person may do.
package signin

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

// Config is what a Handler is made of. All fields are needed unless they say otherwise.
type Config struct {
	Issuer       string // exactly as it names itself
	ClientID     string
	ClientSecret secret.Text
	Domain       string // of the people who may sign in, lower case
	// HostedDomain says that people are known by the claim hd, as Google's are, rather than by their addresses. Then
	// the claim has to be there.
	HostedDomain bool
	BaseURL      *url.URL // scheme and host by which browsers reach this process

	Directory *directory.Writer
	Sessions  *Sessions
	Resolve   Resolver
	Keys      seal.Keys
	// Address is the address that a request came from.
	Address func(*http.Request) netip.Addr
	// Device is by what the browser may be known as one that somebody trusts; nil when none is.
	Device func(*http.Request) [sha256.Size]byte

	MaxWait time.Duration // how long the issuer and the database may each take; 10 s when zero
	Client  *http.Client  // to the issuer; one with time limits when nil
	Log     *slog.Logger
	Now     func() time.Time // time.Now when nil
}

// Resolver tells whom a session stands for. *credential.Cache is one.
type Resolver interface {
	Resolve(ctx context.Context, token credential.Token) (*credential.Entry, error)
}

// Handler serves signing in and out.
type Handler struct {
	Config

	flows  *seal.Box
	issuer atomic.Pointer[issuer] // nil until it was reached

	mu      sync.Mutex
	trouble error            // why the issuer was not reached the last time
	minute  int64            // of the count below; since 1970
	told    int              // refusals in this minute
	untold  map[string]int64 // by code: those beyond the limit, that are recorded as a count
}

// New returns a Handler. It reaches for the issuer once Run runs.
func New(config Config) (*Handler, error) {
	switch {
	case config.Domain == "":
		return nil, errors.New("signing in needs a domain: without one, anybody whom the issuer knows could come in")
	case config.BaseURL == nil || config.BaseURL.Host == "":
		return nil, errors.New("signing in needs the address that people come back to")
	}
	if config.MaxWait == 0 {
		config.MaxWait = 10 * time.Second
	}
	if config.Client == nil {
		config.Client = &http.Client{Timeout: config.MaxWait}
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Handler{Config: config, flows: config.Keys.Box("sign-in under way"), trouble: errNotYet, untold: make(map[string]int64)}, nil
}

// Paths that people and the issuer come to. At an ingress that the gateway shares with the console, /login/ and what
// is below it goes to this process.
const (
	loginPath    = "/login/"
	startPath    = "/login/start"
	callbackPath = "/login/callback"
	logoutPath   = "/login/logout"
	consolePath  = "/console/"
)

// Mount is the table of contents.
func (h *Handler) Mount(r *mux.Router) {
	r.Path(loginPath).Methods(http.MethodGet, http.MethodHead).HandlerFunc(h.login)
	r.Path(startPath).Methods(http.MethodPost).HandlerFunc(h.answer(h.start))
	r.Path(callbackPath).Methods(http.MethodGet).HandlerFunc(h.answer(h.callback))
	r.Path(logoutPath).Methods(http.MethodPost).HandlerFunc(h.answer(h.logout))

	// Where the console has an address of its own, these are tried too.
	r.Path("/login").Methods(http.MethodGet).Handler(http.RedirectHandler(loginPath, http.StatusSeeOther))
	r.Path("/logout").Methods(http.MethodPost).HandlerFunc(h.answer(h.logout))
}

// RedirectURL is what has to be registered at the issuer.
func (h *Handler) RedirectURL() string { return h.BaseURL.JoinPath(callbackPath).String() }

// errNotYet is why nobody can sign in before the issuer was asked for the first time.
var errNotYet = errors.New("the identity provider has not been asked yet")

// Ready says whether people can sign in: nil once the issuer was reached, or else why not. Nothing but signing in
// waits for it.
func (h *Handler) Ready() error {
	if h.issuer.Load() != nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trouble
}

// Waits between attempts to reach the issuer double from the first to the last.
const (
	firstPause = time.Second
	lastPause  = time.Minute
	// Once reached, it is asked again so often, because issuers move their endpoints now and then. Keys are fetched
	// when a token is signed with a new one.
	refreshEvery = time.Hour
)

// Run reaches for the issuer, again and again until it is there, and keeps what it says fresh. It returns when ctx
// is done.
func (h *Handler) Run(ctx context.Context) error {
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() { h.tellCounts(ctx) })
	pause := firstPause
	for {
		err := h.discover(ctx)
		wait := refreshEvery
		if err != nil {
			wait = pause
			pause = min(2*pause, lastPause)
			if ctx.Err() == nil {
				h.Log.WarnContext(ctx, "the identity provider cannot be reached: nobody new can sign in", "issuer", h.Issuer, "error", err, "again_in", wait)
			}
		} else {
			pause = firstPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// visit is one request and who makes it, as far as is known.
type visit struct {
	id uuid.UUID // joins the events of this request
	by directory.Actor
}

func (h *Handler) visit(r *http.Request) *visit {
	id := audit.NewID(h.Now())
	return &visit{id: id, by: directory.Actor{
		Kind: audit.ActorNobody, Address: h.Address(r), Request: id, Client: "console", UserAgent: r.UserAgent(),
	}}
}

// formLimit bounds the forms of these pages, in bytes: they have a field or two.
const formLimit = 16 << 10

// answer makes a handler of a step that may be refused.
func (h *Handler) answer(step func(http.ResponseWriter, *http.Request, *visit) *refusal) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := h.visit(r)
		harden(w.Header(), "")
		r.Body = http.MaxBytesReader(w, r.Body, formLimit)
		if refused := step(w, r, v); refused != nil {
			h.refuse(w, r, v, refused)
		}
	}
}

// start sends the browser to the issuer.
func (h *Handler) start(w http.ResponseWriter, r *http.Request, _ *visit) *refusal {
	if !h.sameOrigin(r) {
		return refuse(http.StatusForbidden, "cross-site", "another web site made your browser ask for this: sign in from the gateway's own page").unrecorded()
	}
	issuer := h.issuer.Load()
	if issuer == nil {
		return h.noIssuer().unrecorded()
	}
	f := newFlow(returnPath(r.PostFormValue("return")), h.Now())
	if err := h.setFlow(w, f); err != nil {
		return broken(err)
	}
	http.Redirect(w, r, issuer.authorizeURL(f), http.StatusSeeOther) //nolint:gosec // the address is the issuer's; only random texts are added
	return nil
}

// callback ends a sign-in.
func (h *Handler) callback(w http.ResponseWriter, r *http.Request, v *visit) *refusal {
	query := r.URL.Query()
	f, refused := h.flow(r) // this browser began it, within ten minutes
	h.clearFlow(w)
	if refused != nil {
		return refused
	}
	if refused := f.matches(query); refused != nil { // and it is this sign-in that comes back
		return refused
	}
	if refused := h.spend(r.Context(), f); refused != nil { // for the first time
		return refused
	}
	issuer := h.issuer.Load()
	if issuer == nil {
		return h.noIssuer()
	}
	if refused := issuer.answered(query); refused != nil { // with a code, from this issuer
		return refused
	}
	token, refused := h.exchange(r.Context(), issuer, query.Get("code"), f) // for a token, signed and for us
	if refused != nil {
		return refused
	}
	who, refused := h.identify(token, f) // about somebody of our domain
	if refused != nil {
		return refused
	}
	if refused := h.begin(w, r, v, who); refused != nil { // whom somebody has added
		return refused
	}
	http.Redirect(w, r, f.Return, http.StatusSeeOther)
	return nil
}

// spend makes sure that a sign-in comes back once: a callback address that was overheard is worth nothing afterwards.
func (h *Handler) spend(ctx context.Context, f *flow) *refusal {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.MaxWait)
	defer cancel()
	first, err := h.Directory.SpendState(ctx, f.hash(), f.ends().Add(skew))
	switch {
	case err != nil:
		return unavailable(err)
	case !first:
		return refuse(http.StatusBadRequest, "replayed", "this sign-in was used already: begin again")
	}
	return nil
}

// begin begins the session, and ends the one that the browser had before.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, v *visit, who *identity) *refusal {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.MaxWait)
	defer cancel()
	before, had := h.Sessions.FromRequest(r)
	session := directory.NewSession{Email: who.Email, Name: who.Name, Subject: who.Subject, UserAgent: r.UserAgent()}
	if h.Device != nil {
		session.Device = h.Device(r)
	}
	err := h.Sessions.Issue(ctx, w, v.by, session)
	var answer *directory.Error
	switch {
	case errors.As(err, &answer) && answer.Kind == directory.Refused: // and recorded already
		return refuse(http.StatusForbidden, answer.Code, "%s", answer.Message).unrecorded()
	case errors.As(err, &answer):
		return refuse(http.StatusForbidden, answer.Code, "%s", answer.Message).about(who.Email)
	case err != nil:
		return unavailable(err)
	}
	if had {
		h.end(ctx, v.by, before, "replaced by a new sign-in")
	}
	return nil
}

// end ends a session that the browser presented. One that is good no longer needs no end, and one that cannot be looked
// up ends by itself: this is tidiness, on which nothing depends.
func (h *Handler) end(ctx context.Context, by directory.Actor, token credential.Token, reason string) {
	entry, err := h.Resolve.Resolve(ctx, token)
	if err != nil {
		return
	}
	by, id, err := actorOf(by, entry)
	if err == nil {
		_, err = h.Directory.RevokeSession(ctx, by, id, by.User, reason)
	}
	if err != nil {
		h.Log.WarnContext(ctx, "a session could not be ended", "session", entry.Principal.TokenID, "error", err)
	}
}

// actorOf is the person whose session it is, with the session's id.
func actorOf(by directory.Actor, entry *credential.Entry) (directory.Actor, uuid.UUID, error) {
	p := entry.Principal
	user, errUser := uuid.Parse(p.UserID)
	id, errID := uuid.Parse(p.TokenID)
	by.Kind, by.ID, by.Label, by.User = audit.ActorUser, p.UserID, p.Label(), user
	return by, id, errors.Join(errUser, errID)
}

// logout ends the session, and the browser forgets it.
func (h *Handler) logout(w http.ResponseWriter, r *http.Request, v *visit) *refusal {
	token, has := h.Sessions.FromRequest(r)
	if has && (!h.sameOrigin(r) || !h.Sessions.CheckCSRF(r, token)) {
		return refuse(http.StatusForbidden, "cross-site", "another web site may have made your browser ask for this: sign out from the console itself").unrecorded()
	}
	if has {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.MaxWait)
		defer cancel()
		entry, err := h.Resolve.Resolve(ctx, token)
		var over *credential.RefusedError
		switch {
		case errors.As(err, &over): // there is nothing to end any more
		case err != nil:
			return unavailable(err)
		default:
			by, id, err := actorOf(v.by, entry)
			if err == nil {
				_, err = h.Directory.EndSession(ctx, by, id)
			}
			var answer *directory.Error
			if err != nil && !errors.As(err, &answer) { // an answer means that it was over already
				return unavailable(err)
			}
		}
	}
	h.Sessions.Clear(w)
	http.Redirect(w, r, loginPath+"?signed-out", http.StatusSeeOther)
	return nil
}

// sameOrigin reports whether the gateway's own page made the browser ask. A browser that tells neither way is too old
// to be trusted with it.
func (h *Handler) sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	return r.Header.Get("Origin") == h.BaseURL.Scheme+"://"+h.BaseURL.Host
}
