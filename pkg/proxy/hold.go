package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
)

// A socket that lacks its second factor is accepted all the same, because the CLI shows nothing of a refusal, and waits:
// the person sees where to approve, and the rack hears of it when that is done.

// heldInput is how many bytes a client may send while its socket waits. They reach the rack afterwards; beyond, the
// client is left waiting to send.
const heldInput = 64 << 10

// holds reports whether the socket can be accepted before the rack has been asked.
func (x *exchange) holds() bool { return x.waiting != nil && webSocketKey(x.r) != "" }

// hold accepts the socket, says where to approve, and waits. It returns nil when the factor was given: the request then
// goes its way, over the connection that it keeps.
func (x *exchange) hold(asked *refusal) *refusal {
	// The record says that it was asked for, before the client hears of it.
	x.event.Detail.Code = asked.Code
	e := x.newEvent(audit.PhaseRefused)
	e.Decision, e.Status = asked.Decision, http.StatusSwitchingProtocols
	if err := x.record(e); err != nil {
		return unavailable("could not record this request in time", err)
	}
	x.event.Detail.Code, x.event.Status = "", 0

	t := &tunnel{speaks: x.speech(), exitCode: -1, woken: make(chan struct{})}
	x.p.tunnels.add(t)
	x.tunnel = t
	detach, current := x.entry.Attach(t.end)
	defer detach()
	if !current {
		return refuse(http.StatusUnauthorized, "access-changed", "your access was changed while this request waited: run the command again")
	}
	conn, early, err := hijack(x.w)
	if err != nil {
		return refuse(http.StatusInternalServerError, "internal", "the gateway could not take over the connection: try again").because(err)
	}
	x.client = conn
	x.p.Metrics.OpenSockets.Inc()
	defer x.p.Metrics.OpenSockets.Dec()
	words := acceptance(webSocketAccept(webSocketKey(x.r)), "")
	if t.speaks != speaksNothing {
		words = appendFrame(words, opText, true, []byte(asked.Message))
	}
	_ = conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	_, err = conn.Write(words)
	_ = conn.SetWriteDeadline(time.Time{})
	if err != nil {
		return refuse(http.StatusForbidden, "client-gone", "the client hung up while its socket waited for approval").because(err)
	}
	x.cancel() // the wait has its own end

	waiting, done := context.WithCancel(context.Background())
	defer done()
	go func() { // ends with the wait
		select {
		case <-t.woken:
			done()
		case <-waiting.Done():
		}
	}()
	input := readAside(conn, early, done)
	state, err := x.await(waiting, x.waiting.ID, nil, x.stepSession(), true)
	var gone bool
	x.early, gone = input.stop()
	x.renewPatience()
	switch ending := t.ending.Load(); {
	case gone:
		return refuse(http.StatusForbidden, "client-gone", "the client hung up while its socket waited for approval")
	case ending != nil:
		return refuse(http.StatusUnauthorized, "access-changed", "%s", *ending)
	case err != nil:
		return unavailable("could not look for your second factor in time", err)
	case state != "approved":
		return notApproved(state)
	}
	return x.approvedSocket()
}

// approvedSocket decides once more, now that the factor was given: by what is in the database, and for an operation
// that asks each time by its grant.
func (x *exchange) approvedSocket() *refusal {
	again, err := x.entry.Again(x.patience)
	if err != nil {
		return x.unresolved(err)
	}
	x.entry, x.settings = again, x.p.Credentials.Settings()
	// A process may be another one by now, and a host somebody else's: up to five minutes have gone by.
	x.known = access.Facts{}
	if refused := x.gatherFacts(); refused != nil {
		return refused
	}
	factor := again.Factor(x.settings, x.stepSession())
	if x.decision.Level == access.LevelAlways {
		if factor.AlwaysGranted, err = x.spend(x.binding()); err != nil {
			return unavailable("could not look for your second factor in time", err)
		}
	}
	refused := x.judge(factor)
	if x.lacksFactor() {
		return refuse(http.StatusForbidden, "factor-spent", "the second factor that you gave for this has been used or is too old: run the command again")
	}
	return refused
}

// aside is what a client sends while its socket waits.
type aside struct {
	conn net.Conn
	done chan struct{} // closed when nobody reads any more
	got  []byte
	gone bool
}

// readAside reads what a client sends, so that it can be passed on later, and so that its hanging up is noticed: then
// gone is called.
func readAside(conn net.Conn, early []byte, gone func()) *aside {
	a := &aside{conn: conn, done: make(chan struct{}), got: early}
	go func() {
		defer close(a.done)
		buf := make([]byte, smallBuffer)
		for len(a.got) < heldInput {
			n, err := conn.Read(buf[:min(len(buf), heldInput-len(a.got))])
			a.got = append(a.got, buf[:n]...)
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					a.gone = true
					gone()
				}
				return
			}
		}
	}()
	return a
}

// stop ends the reading, and returns what came, and whether the client is gone.
func (a *aside) stop() ([]byte, bool) {
	_ = a.conn.SetReadDeadline(time.Unix(1, 0))
	<-a.done
	_ = a.conn.SetReadDeadline(time.Time{})
	return a.got, a.gone
}

// endHeld tells the client of a socket that waited why it is over. It reports false when no socket of the request
// waits.
func (x *exchange) endHeld(r *refusal) bool {
	if x.client == nil {
		return false
	}
	defer func() { _ = x.client.Close() }()
	speaks := x.speech()
	if speaks == speaksNothing {
		return true
	}
	code := -1
	if speaks == speaksExitCode {
		code = 1
	}
	message := r.Message
	if r.Status >= 500 {
		message += " (request " + x.id.String() + ")"
	}
	_ = x.client.SetDeadline(time.Now().Add(lingerGrace))
	if _, err := x.client.Write(appendEnding(nil, "ERROR: "+printable(message)+"\n", code)); err == nil {
		if half, ok := x.client.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, x.client) // until the client hangs up, or the deadline
	}
	return true
}
