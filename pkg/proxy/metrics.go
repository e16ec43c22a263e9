package proxy

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/upstream"
)

// Metrics are what the proxy counts of its requests.
type Metrics struct {
	InFlight     prometheus.Gauge
	OpenSockets  prometheus.Gauge
	RackRefusals prometheus.Counter // of the gateway's password

	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewMetrics registers the proxy's metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		InFlight:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "rgw_requests_in_flight", Help: "Requests being served, open sockets included."}),
		OpenSockets:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "rgw_open_sockets", Help: "Sockets open to the rack."}),
		RackRefusals: prometheus.NewCounter(prometheus.CounterOpts{Name: "rgw_rack_password_refused_total", Help: "Times the rack refused the gateway's password."}),
		requests:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rgw_requests_total", Help: "Requests, by action, outcome and class of status."}, []string{"action", "outcome", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "rgw_request_seconds", Help: "Time from a request's arrival to its outcome, sockets apart.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600}}, []string{"outcome"}),
	}
	registry.MustRegister(m.InFlight, m.OpenSockets, m.RackRefusals, m.requests, m.seconds)
	return m
}

// observe counts one outcome. The action is one of a fixed list, whatever a client sends.
func (m *Metrics) observe(x *exchange, status int, took time.Duration) {
	outcome := "allowed"
	switch {
	case x.principal == nil:
		outcome = "unauthenticated"
	case x.decision.Effect != access.Allow || x.event.Detail.Code != "":
		outcome = "refused"
	}
	m.requests.WithLabelValues(x.event.Action, outcome, strconv.Itoa(status/100)+"xx").Inc()
	if !x.socket {
		m.seconds.WithLabelValues(outcome).Observe(took.Seconds())
	}
}

// RegisterState registers metrics that are read from what the proxy stands on, when they are asked for.
func RegisterState(registry prometheus.Registerer, writer *audit.Writer, credentials *credential.Cache, transport *upstream.Transport) {
	gauge := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge("rgw_audit_queue_events", "Events that wait to be written.", func() float64 { return float64(writer.State().Queued) })
	gauge("rgw_audit_queue_bytes", "Bytes that they take, with those being written.", func() float64 { return float64(writer.State().Bytes) })
	gauge("rgw_audit_oldest_wait_seconds", "How long the oldest of them has waited.", func() float64 { return writer.State().OldestWait.Seconds() })
	gauge("rgw_audit_failing_seconds", "How long events could not be written; 0 when they can.", func() float64 { return writer.State().FailingFor.Seconds() })
	counter("rgw_audit_events_total", "Events made durable.", func() float64 { return float64(writer.State().Written) })

	gauge("rgw_access_proof_age_seconds", "How old the last proof is that changes of access are heard.", func() float64 { return credentials.ProofAge().Seconds() })
	gauge("rgw_access_cached_tokens", "Tokens in memory.", func() float64 { return float64(credentials.Stats().Entries) })
	counter("rgw_access_cache_hits_total", "Look-ups of tokens answered from memory.", func() float64 { return float64(credentials.Stats().Hits) })
	counter("rgw_access_loads_total", "Look-ups of tokens that asked the database.", func() float64 { return float64(credentials.Stats().Loads) })

	gauge("rgw_rack_connections_idle", "Connections to the rack that are kept, unused.", func() float64 { return float64(transport.Stats().Idle) })
	gauge("rgw_rack_requests_in_flight", "Requests at the rack.", func() float64 { return float64(transport.Stats().InFlight) })
	counter("rgw_rack_dials_total", "Connections opened to the rack.", func() float64 { return float64(transport.Stats().Dials) })
	counter("rgw_rack_dial_errors_total", "Connections to the rack that could not be opened.", func() float64 { return float64(transport.Stats().DialErrors) })
	counter("rgw_rack_stale_total", "Kept connections found closed when they were wanted.", func() float64 { return float64(transport.Stats().Stale) })
}

// AuditObserver counts what the writer of records does.
func AuditObserver(registry prometheus.Registerer) audit.Observer {
	commits := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "rgw_audit_commit_seconds", Help: "Time to make a batch of events durable.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 10}})
	retries := prometheus.NewCounter(prometheus.CounterOpts{Name: "rgw_audit_retries_total", Help: "Attempts to write events that failed and were repeated."})
	hardened := prometheus.NewCounter(prometheus.CounterOpts{Name: "rgw_audit_hardened_total", Help: "Events recorded with less than they said, because the database refused the whole."})
	registry.MustRegister(commits, retries, hardened)
	return audit.Observer{
		Committed: func(_, _ int, took time.Duration) { commits.Observe(took.Seconds()) },
		Retried:   func(error) { retries.Inc() },
		Hardened:  func(string) { hardened.Inc() },
	}
}
