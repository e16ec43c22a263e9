package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"rackgateway/pkg/secret"
	"rackgateway/pkg/telemetry"
)

// collector keeps what is sent to it.
type collector struct {
	mu     sync.Mutex
	paths  []string
	header http.Header
	bodies []string
	status int
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths, c.header, c.bodies = append(c.paths, r.URL.Path), r.Header, append(c.bodies, string(body))
	if c.status != 0 {
		w.WriteHeader(c.status)
	}
}

// running runs something until stop is called, which waits until it has ended.
func running(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = run(ctx); close(ended) }()
	return func() { cancel(); <-ended }
}

type sent struct {
	ResourceSpans []struct {
		ScopeSpans []struct {
			Spans []struct {
				TraceID, SpanID, ParentSpanID, Name string
				Status                              struct{ Code int }
			}
		}
	}
}

func TestRequestsAreTracedWithoutWhatClientsSent(t *testing.T) {
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	traces := telemetry.NewTraces(telemetry.TraceOptions{Endpoint: at, Header: http.Header{"Api-Key": {"k"}}, Service: "proxy", Version: "v1", Ratio: 1, Log: slog.New(slog.DiscardHandler)})
	stop := running(traces.Run)
	handler := traces.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "broken") {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	const marked = "marked-secret"
	for _, request := range []struct{ path, parent string }{
		{"/apps/" + marked + "/processes", ""},
		{"/session/" + marked, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{"/apps/web/broken", ""},
		{"/system", "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00"}, // its caller chose not to
		{"/system", marked},
	} {
		r := httptest.NewRequest(http.MethodGet, request.path+"?token="+marked, nil)
		r.Header.Set("Authorization", "Bearer "+marked)
		if request.parent != "" {
			r.Header.Set("Traceparent", request.parent)
		}
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	stop()
	if len(c.bodies) != 1 || c.paths[0] != "/v1/traces" || c.header.Get("Api-Key") != "k" || strings.Contains(c.bodies[0], marked) {
		t.Fatalf("%v %v", c.paths, c.bodies)
	}
	var s sent
	if err := json.Unmarshal([]byte(c.bodies[0]), &s); err != nil {
		t.Fatal(err)
	}
	spans := s.ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 4 || spans[0].Name != "GET /apps" || spans[1].TraceID != "0af7651916cd43dd8448eb211c80319c" || spans[1].ParentSpanID != "b7ad6b7169203331" || spans[2].Status.Code != 2 || spans[0].Status.Code != 0 {
		t.Errorf("%+v", spans)
	}
}

func TestACollectorThatIsAwayHoldsNobodyUp(t *testing.T) {
	c := &collector{status: http.StatusServiceUnavailable}
	server := httptest.NewServer(c)
	defer server.Close()
	at, _ := url.Parse(server.URL)
	traces := telemetry.NewTraces(telemetry.TraceOptions{Endpoint: at, Service: "proxy", Ratio: 1, Log: slog.New(slog.DiscardHandler)})
	handler := traces.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 5000 { // nobody sends yet: what does not fit is dropped
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/apps", nil))
	}
	running(traces.Run)()
	if traces.Dropped() != 5000 {
		t.Errorf("%d were dropped", traces.Dropped())
	}
}

func TestErrorsOfTheLogReachSentryAndSecretsDoNot(t *testing.T) {
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	dsn := secret.NewText(strings.Replace(server.URL, "://", "://public-key@", 1) + "/42")
	reports, err := telemetry.NewErrors(dsn, "rack-gateway-admin", "v1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop := running(reports.Run)
	var local strings.Builder
	log := slog.New(reports.Handler(slog.NewTextHandler(&local, nil))).With("part", "feed")
	log.Info("nothing")
	log.Error("something broke", "error", errors.New("cause"), "password", secret.NewText("marked-secret"))
	stop()
	if len(c.bodies) != 1 || c.paths[0] != "/api/42/envelope/" || !strings.Contains(c.header.Get("X-Sentry-Auth"), "sentry_key=public-key") {
		t.Fatalf("%v %v %v", c.paths, c.header, c.bodies)
	}
	body := c.bodies[0]
	for _, part := range []string{`"formatted":"something broke"`, `"error":"cause"`, `"part":"feed"`, `"release":"v1"`} {
		if !strings.Contains(body, part) {
			t.Errorf("it lacks %s: %s", part, body)
		}
	}
	if strings.Contains(body, "marked-secret") || strings.Contains(body, "nothing") {
		t.Errorf("it says too much: %s", body)
	}
	if !strings.Contains(local.String(), "something broke") || !strings.Contains(local.String(), "nothing") {
		t.Errorf("the log itself says %s", local.String())
	}
}

func TestADSNThatIsNoneIsRefusedWithoutBeingShown(t *testing.T) {
	for _, text := range []string{"", "marked", "https://sentry.example.com/1", "https://key@sentry.example.com", "ftp://key@sentry.example.com/1"} {
		if _, _, err := telemetry.ParseDSN(secret.NewText(text)); err == nil || strings.Contains(err.Error(), "key@") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
