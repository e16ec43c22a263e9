package telemetry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"rackgateway/pkg/secret"
)

// Errors sends what is logged as an error to Sentry. Its methods may be called from any goroutine.
type Errors struct {
	endpoint string
	header   http.Header
	client   *http.Client
	service  string
	version  string
	queue    chan report
	lost     dropped
	log      *slog.Logger
}

// ParseDSN takes a DSN of Sentry's apart: SCHEME://KEY@HOST/PROJECT.
func ParseDSN(dsn secret.Text) (endpoint, key string, err error) {
	u, err := url.Parse(dsn.Reveal())
	if err != nil || u.User == nil || u.User.Username() == "" || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", "", errors.New("it is not SCHEME://KEY@HOST/PROJECT") // without the text, which is a secret
	}
	project := u.Path[strings.LastIndex(u.Path, "/")+1:]
	if project == "" {
		return "", "", errors.New("it names no project")
	}
	u.Path = strings.TrimSuffix(u.Path, project) + "api/" + project + "/envelope/"
	key = u.User.Username()
	u.User, u.RawQuery = nil, ""
	return u.String(), key, nil
}

// NewErrors makes one. Run sends.
func NewErrors(dsn secret.Text, service, version string, log *slog.Logger) (*Errors, error) {
	endpoint, key, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	return &Errors{
		endpoint: endpoint, client: &http.Client{}, service: service, version: version, queue: make(chan report, 64), log: log,
		header: http.Header{
			"Content-Type":  {"application/x-sentry-envelope"},
			"X-Sentry-Auth": {"Sentry sentry_version=7, sentry_client=rackgateway/" + version + ", sentry_key=" + key},
		},
	}, nil
}

// Run sends until ctx ends, and then what is left.
func (e *Errors) Run(ctx context.Context) error {
	gather(ctx, e.queue, 1, e.send, &e.lost, e.log)
	return ctx.Err()
}

// report is one error of the log, as Sentry's event payload has it.
type report struct {
	ID        string            `json:"event_id"`
	Timestamp string            `json:"timestamp"`
	Level     string            `json:"level"`
	Platform  string            `json:"platform"`
	Logger    string            `json:"logger"`
	Release   string            `json:"release"`
	Message   map[string]string `json:"message"`
	Extra     map[string]string `json:"extra,omitempty"`
}

func (e *Errors) send(ctx context.Context, reports []report) error {
	var body bytes.Buffer
	for _, r := range reports {
		payload, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(&body, "{\"event_id\":%q}\n{\"type\":\"event\",\"length\":%d}\n%s\n", r.ID, len(payload), payload)
	}
	return post(ctx, e.client, e.endpoint, e.header, body.Bytes())
}

// Handler passes the log on to next, and its errors to Sentry.
func (e *Errors) Handler(next slog.Handler) slog.Handler { return &handler{Handler: next, errors: e} }

type handler struct {
	slog.Handler
	errors *Errors
	attrs  []slog.Attr
}

// Handle passes one record on.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		one := report{
			ID: hex.EncodeToString(id[:]), Timestamp: r.Time.UTC().Format(time.RFC3339Nano), Level: "error", Platform: "go", Logger: h.errors.service,
			Release: h.errors.version, Message: map[string]string{"formatted": r.Message}, Extra: map[string]string{},
		}
		add := func(a slog.Attr) bool {
			one.Extra[a.Key] = a.Value.Resolve().String() // secrets are of types that do not tell
			return true
		}
		for _, a := range h.attrs {
			add(a)
		}
		r.Attrs(add)
		select {
		case h.errors.queue <- one:
		default:
			h.errors.lost.n.Add(1)
		}
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs remembers what belongs to each record.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.errors, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup leaves groups to the log.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.errors, h.attrs}
}
