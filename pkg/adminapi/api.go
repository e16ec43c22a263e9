package adminapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/doctor"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/seal"
)

// Config is what the API works with. Fields without a remark must be given.
type Config struct {
	DB          *sqlx.DB // as the role of admin
	Reader      *directory.Reader
	Writer      *directory.Writer
	Credentials *credential.Cache
	Audit       Recorder
	Sessions    Sessions
	Factors     *mfa.Service
	// Answers seals what is kept of answers under idempotency keys.
	Answers *seal.Box

	// RackName is ORGANIZATION/ALIAS.
	RackName string
	// GatewayHost is where command lines reach the gateway, such as gateway.example.com; it is told to people, and may be
	// empty.
	GatewayHost string
	// Origin is the scheme and host by which browsers reach the API, such as https://gateway.example.com.
	Origin *url.URL
	// ClientAddress finds where a request comes from.
	ClientAddress func(*http.Request) netip.Addr
	// Notices tell people; they are kept here and sent beside the API.
	Notices *notify.Service
	// Rack passes requests below /api/v1/rack on to the proxy; nil when there is none to pass them to.
	Rack http.Handler
	// Ledger is what the record is kept in.
	Ledger *ledger.Book
	// Ready are the checks of readiness beside the API's own, and Notes those that are told and do not count; both may
	// be empty.
	Ready map[string]CheckFunc
	Notes map[string]CheckFunc

	// Doctor goes through the production checklist; nil when there is none.
	Doctor func(context.Context) []doctor.Line

	MaxWait time.Duration    // how long one request may take; 30 s when zero
	Log     *slog.Logger     // nil discards
	Now     func() time.Time // nil for the system's clock
}

// Recorder makes events durable. *audit.Writer is one.
type Recorder interface {
	Record(ctx context.Context, e *audit.Event) error
}

// API is the JSON API, as an http.Handler. Its methods are safe for concurrent use.
type API struct {
	Config

	document   *document
	router     *mux.Router // everything
	operations *mux.Router // of the document
	flood      *floodgate
	docs       []byte // the page
	ready      readiness
	checklist  checklist
	figures    figureCache
	live       *liveHub
	draining   atomic.Bool
	stopping   chan struct{} // closed when the process is being stopped
	tails      tails
}

// New makes the API. An error is a defect of the document.
func New(config Config) (*API, error) {
	config.MaxWait = cmp.Or(config.MaxWait, 30*time.Second)
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	document, err := readDocument(documentYAML)
	if err != nil {
		return nil, err
	}
	a := &API{Config: config, document: document, flood: newFloodgate(), stopping: make(chan struct{}), live: newLiveHub()}
	if a.docs, err = renderDocs(document); err != nil {
		return nil, err
	}
	return a, a.mount()
}

// mount is the table of contents: the operations of the document, and what goes on to the proxy. A route that the
// document does not list is an error.
func (a *API) mount() error {
	router := mux.NewRouter().UseEncodedPath().SkipClean(true)
	router.NotFoundHandler = http.HandlerFunc(a.noRoute)
	router.MethodNotAllowedHandler = http.HandlerFunc(a.noMethod)
	router.Use(a.operation)
	HandlerWithOptions(NewStrictHandlerWithOptions(operations{a}, nil, StrictHTTPServerOptions{
		RequestErrorHandlerFunc:  a.unreadable,
		ResponseErrorHandlerFunc: a.failed,
	}), GorillaServerOptions{BaseURL: BasePath, BaseRouter: router, ErrorHandlerFunc: a.unreadable})
	a.operations = router

	// What is passed on has its rule like everything else, and is decided about once more, by the proxy.
	a.router = mux.NewRouter().UseEncodedPath().SkipClean(true)
	a.router.PathPrefix(rackPrefix + "/").HandlerFunc(a.passOn)
	a.router.PathPrefix("/").Handler(router)

	return router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := route.GetMethods()
		if err != nil {
			return err
		}
		for _, method := range methods {
			if a.document.byRoute[method+" "+strings.TrimPrefix(path, BasePath)] == nil {
				return fmt.Errorf("%s %s is not in the document", method, path)
			}
		}
		return nil
	})
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := a.newExchange(w, r)
	defer x.leave()
	a.secure(w.Header())
	a.router.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// secure sets what keeps browsers from making of an answer anything but what it is. HSTS is told where browsers
// come by https.
func (a *API) secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Cache-Control", "no-store")
	if a.Origin.Scheme == "https" {
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	}
}

// Run does what has to be done beside requests, until ctx ends: it forgets idempotency keys after their day, and
// records how many failed credentials were not recorded one by one.
func (a *API) Run(ctx context.Context) error {
	minutely := time.NewTicker(time.Minute)
	defer minutely.Stop()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { a.watchRecord(ctx) })
	for {
		if err := a.forgetKeys(ctx); err != nil && ctx.Err() == nil {
			a.Log.WarnContext(ctx, "idempotency keys of the past could not be deleted; it is tried again", "error", err)
		}
		select {
		case <-minutely.C:
			a.recordFlood(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			a.recordFlood(last)
			cancel()
			return ctx.Err()
		}
	}
}

// StopBeingReady has readiness say that this process is being stopped, and ends streams, whose readers come back to
// another.
func (a *API) StopBeingReady() {
	if a.draining.CompareAndSwap(false, true) {
		close(a.stopping)
		a.live.end()
	}
}

func (a *API) noRoute(_ http.ResponseWriter, r *http.Request) {
	a.exchangeOf(r).answer(&problem{Status: http.StatusNotFound, Code: "no-such-path",
		Detail: "there is nothing at this path: see " + BasePath + "/docs for what there is"})
}

func (a *API) noMethod(_ http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPost, http.MethodPut} {
		other := r.Clone(r.Context())
		other.Method = method
		var match mux.RouteMatch
		if a.operations.Match(other, &match) && match.MatchErr == nil {
			allowed = append(allowed, method)
		}
	}
	a.exchangeOf(r).answer(&problem{Status: http.StatusMethodNotAllowed, Code: "no-such-method", allow: strings.Join(allowed, ", "),
		Detail: "this path does not know that method: it takes " + strings.Join(allowed, ", ")})
}

// unreadable answers what the generated server could not read, though it is as the document says: a number that Go's
// reader takes for another type, say.
func (a *API) unreadable(_ http.ResponseWriter, r *http.Request, err error) {
	a.exchangeOf(r).answer(malformed("bad-request", "the request could not be read: see %s/docs for what it takes", BasePath).because(err))
}

// failed answers what an operation would not or could not do.
func (a *API) failed(_ http.ResponseWriter, r *http.Request, err error) {
	a.exchangeOf(r).answer(problemOf(err))
}

// operations has one method for each operation of the document.
type operations struct{ *API }

// stack is where a panic came from.
func stack() string { return string(debug.Stack()) }

// figures lists counts by address, the largest first, for a record.
func figures(counts map[netip.Addr]int) string {
	addresses := slices.SortedFunc(maps.Keys(counts), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), a.Compare(b))
	})
	var texts []string
	for _, address := range addresses {
		texts = append(texts, fmt.Sprintf("%s %d", address, counts[address]))
	}
	return strings.Join(texts, ", ")
}

var errNoExchange = errors.New("a request without an exchange")
