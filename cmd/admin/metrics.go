package main

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/notify"
)

// metrics are the figures that admin tells of itself.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	events   prometheus.Counter
	commits  prometheus.Histogram
	retries  prometheus.Counter
	alerts   *prometheus.CounterVec
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		registry: registry,
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rgw_admin_request_seconds", Help: "How long requests took, by where they went and how they ended.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10},
		}, []string{"part", "method", "status"}),
		events:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rgw_admin_audit_events_total", Help: "Events that became durable, besides those of changes."}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "rgw_admin_audit_commit_seconds", Help: "How long a batch of events took.", Buckets: []float64{.001, .005, .02, .1, .5, 2, 10}}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "rgw_admin_audit_retries_total", Help: "Attempts to record events that failed and were repeated."}),
	}
	m.alerts = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rgw_admin_ledger_alerts_total", Help: "Alerts that the ledger raised, by what it noticed."}, []string{"code"})
	registry.MustRegister(m.requests, m.events, m.commits, m.retries, m.alerts)
	return m
}

func (m *metrics) auditObserver() audit.Observer {
	return audit.Observer{
		Committed: func(events, _ int, took time.Duration) {
			m.events.Add(float64(events))
			m.commits.Observe(took.Seconds())
		},
		Retried: func(error) { m.retries.Inc() },
	}
}

// watch has figures read when they are asked for.
func (m *metrics) watch(events *audit.Writer, credentials *credential.Cache) {
	gauge := func(name, help string, read func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
	}
	gauge("rgw_admin_audit_ok", "1 while events can be recorded.", func() float64 {
		if events.State().OK {
			return 1
		}
		return 0
	})
	gauge("rgw_admin_access_proof_age_seconds", "How long ago all changes of access were known to have been heard.", func() float64 { return credentials.ProofAge().Seconds() })
	gauge("rgw_admin_credentials", "Credentials in memory.", func() float64 { return float64(credentials.Stats().Entries) })
}

// watchLedger has the ledger's figures read when they are asked for.
func (m *metrics) watchLedger(book *book) {
	gauge := func(name, help string, read func(ledger.State) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return read(book.sequencer.State()) }))
	}
	counter := func(name, help string, read func(ledger.State) float64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return read(book.sequencer.State()) }))
	}
	gauge("rgw_admin_ledger_leading", "1 while this process gives events their places.", func(s ledger.State) float64 {
		if s.Leading {
			return 1
		}
		return 0
	})
	gauge("rgw_admin_ledger_size", "Leaves of the ledger, as this process last knew.", func(s ledger.State) float64 { return float64(s.Size) })
	gauge("rgw_admin_ledger_lag_seconds", "Age of the oldest event without a place, at the last look, every 15 seconds.", func(s ledger.State) float64 { return s.Lag.Seconds() })
	counter("rgw_admin_ledger_events_total", "Events that this process gave a place.", func(s ledger.State) float64 { return float64(s.Events) })
	counter("rgw_admin_ledger_batches_total", "Batches that it took.", func(s ledger.State) float64 { return float64(s.Batches) })
}

// watchNotices has the figures of notices read when they are asked for.
func (m *metrics) watchNotices(service *notify.Service) {
	for i, stats := range service.Stats() {
		labels := prometheus.Labels{"medium": stats.Medium}
		m.registry.MustRegister(
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "rgw_admin_notices_sent_total", Help: "Notices that a receiver took.", ConstLabels: labels},
				func() float64 { return float64(service.Stats()[i].Sent) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "rgw_admin_notices_failed_total", Help: "Attempts that failed.", ConstLabels: labels},
				func() float64 { return float64(service.Stats()[i].Failed) }))
	}
}

// count notes each request.
func (m *metrics) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		noted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(noted, r)
		method := r.Method
		switch method {
		case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
		default:
			method = "other"
		}
		m.requests.WithLabelValues(part(r.URL.Path), method, strconv.Itoa(noted.status)).Observe(time.Since(began).Seconds())
	})
}

// part says where a request went, in one of a few words.
func part(path string) string {
	for _, p := range []struct{ prefix, name string }{
		{"/api/v1/rack/", "rack"}, {"/api/v1/health", "health"}, {"/api/v1/", "api"}, {"/login", "sign-in"}, {"/logout", "sign-in"},
	} {
		if strings.HasPrefix(path, p.prefix) {
			return p.name
		}
	}
	return "other"
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status. Those of 100 to 199 are not the answer, but for 101.
func (w *statusWriter) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through, for sockets and streams.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
