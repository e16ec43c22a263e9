package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"rackgateway/pkg/config"
	"rackgateway/pkg/telemetry"
)

// Telemetry is what of a process is told to a collector and to Sentry. Without either configured it does nothing, and costs
// nothing.
type Telemetry struct {
	traces *telemetry.Traces
	errors *telemetry.Errors
}

// NewTelemetry returns it, and the log that it hears errors by.
func NewTelemetry(cfg config.Telemetry, service, version string, log *slog.Logger) (*Telemetry, *slog.Logger, error) {
	t := new(Telemetry)
	if cfg.TracesURL != nil {
		t.traces = telemetry.NewTraces(telemetry.TraceOptions{
			Endpoint: cfg.TracesURL, Header: cfg.Headers(), Service: service, Version: version, Ratio: cfg.TracesRatio, Log: log,
		})
	}
	if !cfg.SentryDSN.IsZero() {
		var err error
		if t.errors, err = telemetry.NewErrors(cfg.SentryDSN, service, version, log); err != nil {
			return nil, nil, fmt.Errorf("SENTRY_DSN: %w", err)
		}
		log = slog.New(t.errors.Handler(log.Handler()))
	}
	return t, log, nil
}

// Run sends until ctx ends, and then what is left.
func (t *Telemetry) Run(ctx context.Context) error {
	var sending sync.WaitGroup
	if t.traces != nil {
		sending.Go(func() { _ = t.traces.Run(ctx) })
	}
	if t.errors != nil {
		sending.Go(func() { _ = t.errors.Run(ctx) })
	}
	sending.Wait()
	return nil
}

// Middleware has requests traced, when they are to be.
func (t *Telemetry) Middleware(next http.Handler) http.Handler {
	if t.traces == nil {
		return next
	}
	return t.traces.Middleware(next)
}
