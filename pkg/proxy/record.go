package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"rackgateway/pkg/audit"
)

// startsFirst reports whether the record must be durable before the rack is asked: anything that may
// change something, and reads that go on for long.
func (x *exchange) startsFirst() bool {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return x.socket || x.match.Route.LongRead
	}
	return true
}

// begin makes the started event durable, for a request that must not reach the rack without it.
func (x *exchange) begin() *refusal {
	if !x.startsFirst() {
		return nil
	}
	e := x.newEvent(audit.PhaseStarted)
	if err := x.record(e); err != nil {
		// What is queued will be in the record, and so must be that nothing followed from it.
		x.begun = !errors.Is(err, audit.ErrQueueFull) && !errors.Is(err, audit.ErrClosed)
		return unavailable("could not record this request in time", err)
	}
	x.recorded = true
	return nil
}

// newEvent makes the next event of this request out of the one before. The writer takes a copy.
func (x *exchange) newEvent(phase audit.Phase) *audit.Event {
	e := &x.event
	e.OccurredAt = x.p.Now()
	e.ID = audit.NewID(e.OccurredAt)
	e.Phase = phase
	return e
}

// record makes an event durable, within the patience of the request.
func (x *exchange) record(e *audit.Event) error {
	return x.p.Audit.Record(x.patience, e)
}

// finish makes the outcome durable. bytesOut is nil when it is not known.
func (x *exchange) finish(status int, trouble string, bytesOut *int64) error {
	if err := x.record(x.outcome(audit.PhaseFinished, status, trouble, bytesOut)); err != nil {
		return err // the client is told something else, which is what counts
	}
	x.tally()
	return nil
}

// outcome is the event that ends the exchange.
func (x *exchange) outcome(phase audit.Phase, status int, trouble string, bytesOut *int64) *audit.Event {
	e := x.newEvent(phase)
	e.Status = int32(status) // #nosec G115 -- three digits
	e.Detail.Error = trouble
	e.Detail.BytesOut = bytesOut
	if x.upload != nil {
		n := x.upload.n.Load()
		e.Detail.BytesIn = &n
	}
	e.Detail.Duration = e.OccurredAt.Sub(x.started).Microseconds()
	x.done = true
	x.status, x.took = status, e.OccurredAt.Sub(x.started)
	return e
}

// tally counts the exchange, once, by what its client was told: whether that could be recorded or not.
func (x *exchange) tally() {
	if x.tallied {
		return
	}
	x.tallied = true
	x.p.Metrics.observe(x, x.status, x.took)
}

// refuse records a refusal and sends it. When it cannot be recorded the client is told that instead.
func (x *exchange) refuse(r *refusal) {
	x.event.Detail.Code = r.Code
	x.event.Detail.Rule = orElse(x.event.Detail.Rule, r.Code)
	if r.Cause != nil {
		level := slog.LevelInfo
		if x.principal == nil && r.Status < 500 {
			level = slog.LevelDebug // whoever has no credential must not fill the log
		}
		x.p.Log.Log(context.WithoutCancel(x.r.Context()), level, "request refused", "request", x.id, "code", r.Code, "status", r.Status, "cause", r.Cause)
	}
	phase := audit.PhaseRefused
	if x.recorded || x.asked {
		// It was allowed; this is how it ended all the same.
		phase = audit.PhaseFinished
	}
	if phase == audit.PhaseRefused {
		x.event.Decision = r.Decision
	}
	switch {
	case x.done: // the outcome is recorded; only the answer is left
	case !x.tellsRefusal(r):
		x.took = x.p.Now().Sub(x.started)
	default:
		if err := x.record(x.outcome(phase, r.Status, r.Message, nil)); err != nil && r.Code != "record-unavailable" {
			x.p.Log.Warn("refusal could not be recorded in time", "request", x.id, "code", r.Code, "error", err)
			if x.recorded {
				r = unknownOutcome(err)
			} else {
				r = unavailable("could not record this request in time", err)
			}
		}
	}
	x.status = r.Status
	x.tally()
	if x.socket && x.refuseSocket(r) {
		return
	}
	x.hintAtRacks(r)
	x.fullDuplex()
	if x.bodyLeft() {
		x.w.Header()["Connection"] = closing
	}
	r.write(x.w, x.id.String())
	x.linger()
}

// tellsRefusal reports whether a refusal is recorded by itself or only counted.
func (x *exchange) tellsRefusal(r *refusal) bool {
	if x.begun || x.recorded || x.asked || r.asked || x.client != nil {
		return true
	}
	if x.principal == nil {
		if r.Code == "record-unavailable" {
			return false // the database that would take it is the one that is missing
		}
		return x.p.flood.failed(x.address, x.started)
	}
	counted, ok := x.here.recordsRefusal(x.refusalsPerMinute(), x.started)
	if !ok {
		x.here.as(actor{x.event.ActorKind, x.event.ActorID, x.event.ActorLabel})
	}
	if counted > 0 {
		x.event.Detail.Count = int64(counted)
	}
	return ok
}

func (x *exchange) refusalsPerMinute() int {
	if n := x.settings.RefusalsPerMinute; n > 0 {
		return n
	}
	return x.p.Credentials.Settings().RefusalsPerMinute
}

// unknownOutcome is the answer to a write whose outcome could not be recorded.
func unknownOutcome(err error) *refusal {
	return refuse(http.StatusInternalServerError, "outcome-unknown",
		"the rack may have done this; its outcome could not be recorded; check before you repeat it").because(err)
}

// tellCounts records what was only counted: failed authentications, and refusals of principals beyond their limit.
func (p *Proxy) tellCounts() {
	p.tellFlood()
	p.crowd.takeCounts(func(who actor, count int) {
		e := audit.NewEvent(p.Now())
		e.Phase, e.Decision = audit.PhaseRefused, audit.DecisionDeny
		e.ActorKind, e.ActorID, e.ActorLabel = who.kind, who.id, who.label
		e.Action, e.Status = "gateway.refusals", http.StatusForbidden
		e.Detail.Count = int64(count)
		if _, err := p.Audit.Enqueue(e); err != nil {
			p.Log.Warn("a count of refusals could not be recorded", "actor", who.label, "count", count, "error", err)
		}
	})
}

// tellFlood records what was only counted of failed authentications.
func (p *Proxy) tellFlood() {
	total, byAddress := p.flood.take(p.Now())
	if total == 0 {
		return
	}
	e := audit.NewEvent(p.Now())
	e.Kind, e.Phase, e.Decision = audit.KindSystem, audit.PhaseRefused, audit.DecisionDeny
	e.Action, e.Status = "credential.refused", http.StatusUnauthorized
	e.Detail.Count = int64(total)
	for address, count := range byAddress {
		e.Detail.Params.Add(addressText(address), strconv.Itoa(count))
	}
	if _, err := p.Audit.Enqueue(e); err != nil {
		p.Log.Warn("a count of refusals could not be recorded", "count", total, "error", err)
	}
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

func stack() string { return string(debug.Stack()) }

// since is a duration in the unit of the record.
func since(from, to time.Time) int64 { return to.Sub(from).Microseconds() }
