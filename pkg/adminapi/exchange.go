package adminapi

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

// An exchange is one request on its way, and what has been found out about it so far.
type exchange struct {
	a       *API
	w       *answerWriter
	r       *http.Request
	id      uuid.UUID // joins the events of this request
	started time.Time
	address netip.Addr

	op        *operation
	token     credential.Token
	session   bool // the credential came as a cookie
	entry     *credential.Entry
	principal *access.Principal
	decision  access.Decision
	grant     uuid.UUID   // of the second factor for this very operation that the request spent; zero for none
	event     audit.Event // what the events of this request have in common
}

type exchangeKey struct{}

// exchangeOf finds the exchange that ServeHTTP put into the request.
func (a *API) exchangeOf(r *http.Request) *exchange { return exchangeIn(r.Context()) }

func exchangeIn(ctx context.Context) *exchange {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		panic(errNoExchange) // only ServeHTTP calls what asks for it
	}
	return x
}

func (a *API) newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	now := a.Now()
	x := &exchange{a: a, w: &answerWriter{ResponseWriter: w}, r: r, id: audit.NewID(now), started: now, address: a.ClientAddress(r)}
	x.event = audit.Event{
		RequestID: x.id, Kind: audit.KindAction, Decision: audit.DecisionDeny, ActorKind: audit.ActorNobody,
		Action: "credential.refused", Address: x.address,
		Detail: audit.Detail{Method: r.Method, Path: r.URL.EscapedPath(), UserAgent: r.UserAgent(), Client: "api"},
	}
	w.Header().Set("Gateway-Request-Id", x.id.String())
	return x
}

// leave turns a panic into an answer.
func (x *exchange) leave() {
	trouble := recover()
	switch {
	case trouble == nil:
	case trouble == http.ErrAbortHandler: //nolint:errorlint // net/http compares what it recovers in the same way
		panic(trouble)
	default:
		x.a.Log.Error("a request made the gateway panic", "request", x.id, "panic", trouble, "stack", stack())
		x.answer(unknownOutcome(nil))
	}
}

// operation is the way of every request that has a route: who asks, may they, is it put as the document says, and
// was it done already. The operation itself comes last.
func (a *API) operation(next http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		x := a.exchangeOf(r)
		path, err := mux.CurrentRoute(r).GetPathTemplate()
		if err != nil {
			x.answer(internal(err))
			return
		}
		x.op = a.document.byRoute[r.Method+" "+strings.TrimPrefix(path, BasePath)]
		if x.op == nil {
			x.answer(internal(errors.New("a route that is not in the document")))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), a.MaxWait)
		defer cancel()
		if !x.op.streams() {
			r = r.WithContext(ctx)
		}
		x.r = r
		// A body that trickles in is not waited for any longer than all else. What cannot have a deadline is a recorder
		// in a test.
		control := http.NewResponseController(x.w)
		_ = control.SetReadDeadline(time.Now().Add(a.MaxWait))
		if !x.op.Public {
			if refused := x.authorise(ctx, x.op.Rule); refused != nil {
				x.answer(refused)
				return
			}
		}
		body, bad := x.conform()
		if bad != nil {
			x.answer(bad)
			return
		}
		if x.op.streams() { // for as long as the client does not hang up, which is read
			_ = control.SetReadDeadline(time.Time{})
		}
		if !x.op.changes() {
			next.ServeHTTP(x.w, r)
			return
		}
		x.once(ctx, body, func() { next.ServeHTTP(x.w, r) })
	})
}

// answer sends a problem, and records it first when it is a refusal.
func (x *exchange) answer(p *problem) {
	if x.w.wrote {
		return // too late to say anything else
	}
	if p.Status >= http.StatusInternalServerError || p.Cause != nil {
		level := x.a.Log.Info
		if p.Status == http.StatusInternalServerError {
			level = x.a.Log.Error
		}
		level("request not served", "request", x.id, "code", p.Code, "status", p.Status, "cause", p.Cause)
	}
	if p.decision != "" {
		if err := x.recordRefusal(p); err != nil {
			x.a.Log.Warn("a refusal could not be recorded in time", "request", x.id, "code", p.Code, "error", err)
			p = unavailable(err)
		}
	}
	p.write(x.w, x.id.String())
}

// recordRefusal makes the refusal durable before it is told. A flood of them from somebody nobody knows, or by one
// principal, is counted in place of being recorded one by one.
func (x *exchange) recordRefusal(p *problem) error {
	source := network(x.address)
	perMinute := failuresRecorded
	if x.principal != nil {
		source, perMinute = principalKey(x.principal), x.a.Credentials.Settings().RefusalsPerMinute
	}
	counted, itself := x.a.flood.records(source, perMinute, x.started)
	if !itself {
		if x.principal == nil {
			x.a.flood.count(x.address)
		}
		return nil
	}
	e := x.event
	e.OccurredAt = x.a.Now()
	e.Phase, e.Decision, e.Status = audit.PhaseRefused, p.decision, int32(p.Status) // #nosec G115 -- three digits
	e.Detail.Code, e.Detail.Error, e.Detail.Count = p.Code, p.Detail, int64(counted)
	e.Detail.Duration = e.OccurredAt.Sub(x.started).Microseconds()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), x.a.MaxWait)
	defer cancel()
	return x.a.Audit.Record(ctx, &e)
}

// record makes durable that the operation was done, for reads that are recorded.
func (x *exchange) record(ctx context.Context, resource string, params ...string) error {
	e := x.event
	e.OccurredAt = x.a.Now()
	e.Phase, e.Decision, e.Status, e.Resource = audit.PhaseFinished, audit.DecisionAllow, http.StatusOK, resource
	for i := 0; i+1 < len(params); i += 2 {
		if params[i+1] != "" {
			e.Detail.Params.Add(params[i], params[i+1])
		}
	}
	return x.a.Audit.Record(ctx, &e)
}

// actor is the principal, as the directory's events name who made a change.
func (x *exchange) actor() directory.Actor {
	p := x.principal
	actor := directory.Actor{
		Kind: x.event.ActorKind, ID: x.event.ActorID, Label: x.event.ActorLabel, Address: x.address,
		Request: x.id, Client: x.event.Detail.Client, UserAgent: x.r.UserAgent(), Detail: x.event.Detail, Grant: x.grant,
	}
	if p.Kind == access.KindAPIToken {
		actor.Token = mustID(p.TokenID)
	} else {
		actor.User = mustID(p.UserID)
	}
	return actor
}

// mustID reads an id that came out of the database as a UUID.
func mustID(text string) uuid.UUID { return uuid.MustParse(text) }

// principalKey names a principal where requests of one are counted or remembered: a person over all devices, a
// pipeline by itself.
func principalKey(p *access.Principal) string {
	if p.Kind == access.KindAPIToken {
		return "token:" + p.TokenID
	}
	return "user:" + p.UserID
}

// answerWriter notes whether an answer was begun.
type answerWriter struct {
	http.ResponseWriter
	wrote  bool
	status int
	keep   bool   // what follows is kept, and sent later
	kept   []byte // body
}

// WriteHeader begins the answer.
func (w *answerWriter) WriteHeader(status int) {
	if w.wrote {
		return
	}
	w.wrote, w.status = true, status
	if !w.keep {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write goes on with the answer.
func (w *answerWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.keep {
		w.kept = append(w.kept, b...)
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
