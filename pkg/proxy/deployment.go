package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/deployment"
)

// The production checklist (package doctor) is admin's, and some of what it asks only a proxy can see: it alone reaches
// the rack and holds its password. What is told here is told to admin's networks alone, and gives nothing away that
// opens anything.

// gatesParameter is the rack's parameter that holds its feature gates, by commas, and envGate the one by which RACK_URL
// is left out of the environment of apps.
const (
	gatesParameter = "api_feature_gates"
	envGate        = "system-env-disable=true"
)

// deployed is the last answer, which serves for a while: it asks the rack.
type deployed struct {
	mu   sync.Mutex // held while the rack is asked, which is bounded; only admin's checklist waits for it
	at   time.Time
	last deployment.Proxy
}

// deployedFor is how long an answer is given again.
const deployedFor = 5 * time.Second

// tellDeployment answers admin's question.
func (p *Proxy) tellDeployment(w http.ResponseWriter, r *http.Request) {
	body, err := json.MarshalIndent(p.deployment(r.Context()), "", "  ")
	if err != nil { // times, booleans and strings always encode
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // a client that hung up is not told
}

// deployment is how this proxy is set up, and how it finds the rack.
func (p *Proxy) deployment(ctx context.Context) deployment.Proxy {
	p.deployed.mu.Lock()
	defer p.deployed.mu.Unlock()
	now := p.Now()
	if now.Sub(p.deployed.at) >= deployedFor {
		p.deployed.last, p.deployed.at = p.examineRack(ctx), now
	}
	d := p.deployed.last
	d.Version, d.Time = p.Version, now.UTC()
	if p.ScrapedAt != nil {
		var last time.Time
		if d.Metrics.Served, last = p.ScrapedAt(); !last.IsZero() {
			last = last.UTC()
			d.Metrics.ScrapedAt = &last
		}
	}
	return d
}

// examineRack asks the rack for what the checklist wants to know of it.
func (p *Proxy) examineRack(ctx context.Context) (d deployment.Proxy) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), factTimeout)
	defer cancel()
	d.Rack.URL, d.Rack.Verified = p.RackURL.Scheme+"://"+p.RackURL.Host, p.RackVerified
	switch err := p.password.takes(ctx, p, p.password.current.Load()); {
	case err == nil:
		d.Rack.Reachable = true
	case errors.Is(err, errRackPassword):
		d.Rack.Trouble = "it refuses the gateway's password"
	default:
		d.Rack.Trouble = "it cannot be reached, or its certificate is not the one expected; the proxy's log says which"
		p.Log.WarnContext(ctx, "the rack could not be examined", "error", err)
	}
	var system struct {
		Parameters map[string]string `json:"parameters"`
	}
	if d.Rack.Reachable && p.ask(ctx, "/system", &system) == nil && system.Parameters != nil {
		d.Rack.Parameters = true
		for gate := range strings.SplitSeq(system.Parameters[gatesParameter], ",") {
			d.Rack.EnvDisabled = d.Rack.EnvDisabled || strings.TrimSpace(gate) == envGate
		}
	}
	if p.RackCertificate != nil && d.Rack.Reachable {
		if certificate, err := p.RackCertificate(ctx); err == nil {
			ends := certificate.NotAfter.UTC()
			d.Rack.CertificateEnds = &ends
		}
	}
	return d
}

// recordStart records that the proxy runs, and by a fingerprint with which password of the rack. Nothing waits for it.
func (p *Proxy) recordStart(ctx context.Context, with *shown) {
	e := audit.NewEvent(p.Now())
	e.Kind, e.Phase, e.ActorKind, e.ActorLabel = audit.KindSystem, audit.PhaseFinished, audit.ActorSystem, "proxy"
	e.Action, e.Resource = deployment.StartedAction, p.rackName()
	e.Detail.Params.Add("version", p.Version)
	if p.Fingerprint != nil {
		e.Detail.Params.Add(deployment.PasswordParameter, p.Fingerprint(with.text))
	}
	if _, err := p.Audit.Enqueue(e); err != nil {
		p.Log.WarnContext(ctx, "the start could not be recorded", "error", err)
	}
}
