package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"rackgateway/pkg/deployment"
	"rackgateway/pkg/peer"
)

// Health has two faces: alive says that the process answers; ready says whether it can keep its promise,
// and is what decides about traffic. A proxy that cannot record is not ready, whatever else works.

const (
	alivePath = "/api/v1/health"
	readyPath = "/api/v1/health/ready"
)

// isHealth answers health checks, without a credential and without a record.
func (p *Proxy) isHealth(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodPost {
		return p.isReason(w, r)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	switch r.URL.EscapedPath() {
	case alivePath, rackProxyPrefix + "/health":
		writeHealth(w, http.StatusOK, map[string]check{"process": {OK: true}})
	case readyPath, rackProxyPrefix + "/health/ready":
		status, checks := p.Ready()
		writeHealth(w, status, checks)
	case deployment.Path:
		if !p.askedByAdmin(r, peer.Address(r, p.TrustedProxies)) {
			return false // to everybody else there is no such path
		}
		p.tellDeployment(w, r)
	default:
		return false
	}
	return true
}

type check struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // a sentence when not ok, or a figure
}

// Ready reports what stands between this proxy and keeping its promise: 200, or 503.
//
// The rack is reported, and does not count: with the rack away the gateway's own answers, and the message
// that says so, are better than none.
func (p *Proxy) Ready() (int, map[string]check) {
	checks := map[string]check{}
	status := http.StatusOK
	must := func(name string, ok bool, trouble, figure string) {
		detail := figure
		if !ok {
			detail, status = trouble, http.StatusServiceUnavailable
		}
		checks[name] = check{OK: ok, Detail: detail}
	}
	must("draining", !p.draining.Load(), "this process is being stopped", "")

	record := p.Audit.State()
	must("audit", record.OK, "events cannot be recorded: is PostgreSQL reachable and its disk not full?", "")

	age := p.Credentials.ProofAge()
	must("listener", age <= p.Credentials.MaxStaleness(), "changes of access are not heard in time: is PostgreSQL reachable without a pooler in between?", "last proof "+age.Round(time.Millisecond).String()+" ago")

	checks["rack"] = p.rackHealth.check()
	return status, checks
}

// A rackHealth is what the rack said when it was last asked, every few seconds: a health check must not wait for
// a rack that hangs.
type rackHealth struct{ last atomic.Pointer[check] }

func (h *rackHealth) check() check {
	if last := h.last.Load(); last != nil {
		return *last
	}
	return check{Detail: "the rack has not been asked yet"}
}

// ask asks the rack, for two seconds at most.
func (h *rackHealth) ask(ctx context.Context, p *Proxy) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	now := check{OK: true}
	if err := p.password.takes(ctx, p, p.password.current.Load()); err != nil {
		now = check{OK: false, Detail: "the rack cannot be reached, or refuses the gateway's password"}
	}
	h.last.Store(&now)
}

func writeHealth(w http.ResponseWriter, status int, checks map[string]check) {
	body, err := json.MarshalIndent(struct {
		Status string           `json:"status"`
		Checks map[string]check `json:"checks"`
	}{http.StatusText(status), checks}, "", "  ")
	if err != nil { // booleans and strings always encode
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
