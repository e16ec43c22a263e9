package proxy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/proxy"
)

// counted is how many requests were counted, by outcome and class of status.
func counted(t *testing.T, registry *prometheus.Registry) map[string]int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, family := range families {
		if family.GetName() != "rgw_requests_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := make(map[string]string)
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			counts[labels["outcome"]+" "+labels["status"]] += int(metric.GetCounter().GetValue())
		}
	}
	return counts
}

func TestEachAnswerIsCountedOnceByWhatTheClientWasTold(t *testing.T) {
	registry := prometheus.NewRegistry()
	g := newGateway(t, newRack(t), func(c *proxy.Config) { c.Metrics = proxy.NewMetrics(registry) })
	admin, viewer := g.person("admin"), g.person("viewer")
	type tried struct {
		who            caller
		method, target string
		status         int
		counts         string
	}
	try := func(requests ...tried) {
		t.Helper()
		for _, r := range requests {
			before := counted(t, registry)
			if got := g.do(r.who, r.method, r.target); got.Status != r.status {
				t.Fatalf("%s %s: %d %s", r.method, r.target, got.Status, got.Body)
			}
			after := counted(t, registry)
			for what, n := range after {
				want := before[what]
				if what == r.counts {
					want++
				}
				if n != want {
					t.Errorf("after %s %s with %d, %q counts %d and not %d", r.method, r.target, r.status, what, n, want)
				}
			}
			if after[r.counts] == 0 {
				t.Errorf("%s %s with %d was not counted as %q: %v", r.method, r.target, r.status, r.counts, after)
			}
		}
	}
	try(
		tried{admin, http.MethodGet, "/apps", http.StatusOK, "allowed 2xx"},
		tried{admin, http.MethodGet, "/racks", http.StatusOK, "allowed 2xx"},
		tried{admin, http.MethodPost, "/apps/demo/services/web/restart", http.StatusOK, "allowed 2xx"},
		tried{viewer, http.MethodPost, "/apps/demo/services/web/restart", http.StatusForbidden, "refused 4xx"},
		tried{caller{}, http.MethodGet, "/apps", http.StatusUnauthorized, "unauthenticated 4xx"},
	)

	// From here on nothing can be recorded: the writer takes events, and writes none.
	registry = prometheus.NewRegistry()
	g = newGateway(t, newRack(t), func(c *proxy.Config) {
		c.Metrics, c.MaxWait = proxy.NewMetrics(registry), 500*time.Millisecond
		c.Audit = audit.NewWriter(nil, audit.WriterOptions{MaxWait: c.MaxWait})
	})
	admin, viewer = g.person("admin"), g.person("viewer")
	try(
		tried{admin, http.MethodGet, "/apps", http.StatusServiceUnavailable, "refused 5xx"},  // the rack was asked, and its answer cannot go out
		tried{admin, http.MethodGet, "/racks", http.StatusServiceUnavailable, "refused 5xx"}, // the gateway's own
		tried{admin, http.MethodPost, "/apps/demo/services/web/restart", http.StatusServiceUnavailable, "refused 5xx"},
		tried{viewer, http.MethodPost, "/apps/demo/services/web/restart", http.StatusServiceUnavailable, "refused 5xx"}, // the refusal itself
	)
	if log := g.log.String(); strings.Contains(log, "panic") {
		t.Error(log)
	}
}
