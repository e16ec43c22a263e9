package main

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
)

// metrics are the figures that admin tells of itself.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	events   prometheus.Counter
	commits  prometheus.Histogram
	retries  prometheus.Counter
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
	registry.MustRegister(m.requests, m.events, m.commits, m.retries)
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
