package telemetry

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Traces sends a span for each request that it is shown. Its methods may be called from any goroutine.
type Traces struct {
	endpoint string
	header   http.Header
	client   *http.Client
	resource []attribute
	ratio    float64
	queue    chan span
	lost     dropped
	log      *slog.Logger
}

// TraceOptions say where spans go.
type TraceOptions struct {
	Endpoint *url.URL    // of the collector, without /v1/traces
	Header   http.Header // sent along, such as a key of the collector's
	Service  string      // name of the process, such as rack-gateway-proxy
	Version  string
	Ratio    float64 // of traces that begin here, from 0 to 1; those that others began are theirs to sample
	Log      *slog.Logger
}

// NewTraces makes one. Run sends.
func NewTraces(o TraceOptions) *Traces {
	header := http.Header{"Content-Type": {"application/json"}}
	for name, values := range o.Header {
		header[name] = values
	}
	return &Traces{
		endpoint: o.Endpoint.JoinPath("/v1/traces").String(), header: header, client: &http.Client{}, ratio: o.Ratio, queue: make(chan span, queueLength), log: o.Log,
		resource: []attribute{text("service.name", o.Service), text("service.version", o.Version)},
	}
}

// Run sends until ctx ends, and then what is left.
func (t *Traces) Run(ctx context.Context) error {
	gather(ctx, t.queue, batchLength, t.send, &t.lost, t.log)
	return ctx.Err()
}

// Dropped is how many spans could not be sent.
func (t *Traces) Dropped() int64 { return t.lost.n.Load() }

// span is one request, as opentelemetry-proto's JSON writes it.
type span struct {
	TraceID    string      `json:"traceId"`
	SpanID     string      `json:"spanId"`
	ParentID   string      `json:"parentSpanId,omitempty"`
	Name       string      `json:"name"`
	Kind       int         `json:"kind"` // 2: server
	Start      string      `json:"startTimeUnixNano"`
	End        string      `json:"endTimeUnixNano"`
	Attributes []attribute `json:"attributes"`
	Status     struct {
		Code int `json:"code,omitempty"` // 2: error
	} `json:"status"`
}

type attribute struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func text(key, value string) attribute {
	return attribute{key, map[string]string{"stringValue": value}}
}

func whole(key string, value int) attribute {
	return attribute{key, map[string]string{"intValue": strconv.Itoa(value)}}
}

func (t *Traces) send(ctx context.Context, spans []span) error {
	body, err := json.Marshal(map[string]any{"resourceSpans": []any{map[string]any{
		"resource":   map[string]any{"attributes": t.resource},
		"scopeSpans": []any{map[string]any{"scope": map[string]string{"name": "rackgateway"}, "spans": spans}},
	}}})
	if err != nil {
		return err
	}
	return post(ctx, t.client, t.endpoint, t.header, body)
}

// Middleware has each request traced.
func (t *Traces) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trace, parent, sampled, given := parseParent(r.Header["Traceparent"])
		if !given {
			var id [16]byte
			_, _ = rand.Read(id[:]) // never fails
			trace = hex.EncodeToString(id[:])
			sampled = float64(binary.BigEndian.Uint64(id[8:]))/(1<<64) < t.ratio
		}
		if !sampled {
			next.ServeHTTP(w, r)
			return
		}
		began := time.Now()
		noted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { t.end(trace, parent, r, began, noted.status) }() // a panic of a handler's too
		next.ServeHTTP(noted, r)
	})
}

// end queues the span of a request that is over.
func (t *Traces) end(trace, parent string, r *http.Request, began time.Time, status int) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions:
	default:
		method = "_OTHER" // as the semantic conventions have it
	}
	s := span{
		TraceID: trace, SpanID: hex.EncodeToString(id[:]), ParentID: parent, Name: method + " " + part(r.URL.Path), Kind: 2,
		Start: strconv.FormatInt(began.UnixNano(), 10), End: strconv.FormatInt(time.Now().UnixNano(), 10),
		Attributes: []attribute{text("http.request.method", method), whole("http.response.status_code", status), text("rackgateway.part", part(r.URL.Path))},
	}
	if status >= http.StatusInternalServerError {
		s.Status.Code = 2
	}
	select {
	case t.queue <- s:
	default:
		t.lost.n.Add(1)
	}
}

// part is the first part of a path, where it is one of ours. What stands further right are names and ids.
func part(path string) string {
	path = strings.TrimPrefix(path, "/api/v1/rack-proxy")
	path = strings.TrimPrefix(path, "/api/v1")
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "apps", "system", "racks", "machines", "auth", "session", "resources", "registries", "certificates", "instances", "events",
		"me", "users", "roles", "permissions", "tokens", "sessions", "settings", "audit", "health", "doctor", "rack", "login", "console", "docs":
		return "/" + first
	}
	return "/"
}

// parseParent reads the header traceparent (W3C Trace Context, section 3.2).
func parseParent(lines []string) (trace, parent string, sampled, ok bool) {
	if len(lines) != 1 {
		return "", "", false, false
	}
	parts := strings.Split(lines[0], "-")
	if len(parts) != 4 || parts[0] != "00" || len(parts[1]) != 32 || len(parts[2]) != 16 || len(parts[3]) != 2 {
		return "", "", false, false
	}
	for _, p := range parts {
		if _, err := hex.DecodeString(p); err != nil || p != strings.ToLower(p) {
			return "", "", false, false
		}
	}
	if strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return "", "", false, false
	}
	flags, _ := hex.DecodeString(parts[3])
	return parts[1], parts[2], flags[0]&1 == 1, true
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
