// Package daemon is what the gateway's two processes do alike to run: they log, wait for their database, listen,
// serve metrics apart from clients, keep partitions ahead, and answer their own health check.
package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rackgateway/pkg/config"
	"rackgateway/pkg/postgres"
)

// NewLogger logs as the configuration says.
func NewLogger(w io.Writer, cfg config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// StdLog takes what net/http has to say, which is about clients that do not speak HTTP.
func StdLog(logger *slog.Logger) *log.Logger {
	return slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
}

// Patience is how long a process waits for its database when it starts.
const Patience = 60 * time.Second

// WaitForDatabase waits until the database is there, and refuses one that may lose what it said was durable.
func WaitForDatabase(ctx context.Context, db *sqlx.DB, development bool, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			break
		}
		if !postgres.IsUnavailable(err) || ctx.Err() != nil {
			return fmt.Errorf("the database cannot be reached: check DATABASE_URL: %w", err)
		}
		log.Info("waiting for the database", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	if err := postgres.CheckDurability(ctx, db); err != nil {
		if !development {
			return err
		}
		log.Warn("allowed, because DEV_MODE is set", "trouble", err)
	}
	return nil
}

// KeepPartitions makes the coming months' partitions of the record, at start and daily, until ctx ends. Several
// processes may do so at once: they take turns.
func KeepPartitions(ctx context.Context, db *sqlx.DB, log *slog.Logger) error {
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		if err := postgres.EnsurePartitions(ctx, db); err != nil && ctx.Err() == nil {
			log.Warn("partitions of audit events could not be made ahead; it is tried again tomorrow", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-daily.C:
		}
	}
}

// Listen listens on the configured port, with TLS when there is a certificate, for the given protocols of ALPN. The
// certificate is read again when its files change.
func Listen(ctx context.Context, cfg config.Server, log *slog.Logger, protocols ...string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.ListenAddress())
	if err != nil {
		return nil, fmt.Errorf("PORT: %w", err)
	}
	if cfg.TLSCertFile == "" {
		return listener, nil
	}
	certificate, err := NewCertificate(cfg.TLSCertFile, cfg.TLSKeyFile, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TLS_CERT_FILE, TLS_KEY_FILE: %w", err), listener.Close())
	}
	return tls.NewListener(listener, &tls.Config{
		GetCertificate: certificate.Get, MinVersion: tls.VersionTLS12, NextProtos: protocols,
	}), nil
}

// Scrapes remembers when metrics were last asked for. The zero value has never been; its methods may be called from any
// goroutine.
type Scrapes struct{ last atomic.Int64 } // Unix seconds

// Last is when metrics were last asked for, to the second; the zero time when never.
func (s *Scrapes) Last() time.Time {
	if at := s.last.Load(); at != 0 {
		return time.Unix(at, 0)
	}
	return time.Time{}
}

// ScrapedPath is where it is told when metrics were last asked for, beside the metrics themselves: null, or a time.
const ScrapedPath = "/scraped"

func (s *Scrapes) tell(w http.ResponseWriter, _ *http.Request) {
	answer := "null\n"
	if at := s.Last(); !at.IsZero() {
		answer = at.UTC().Format(`"` + time.RFC3339 + `"` + "\n")
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, answer) // a client that hung up is not told
}

// note counts a request as somebody's asking for metrics.
func (s *Scrapes) note(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.last.Store(time.Now().Unix())
		next.ServeHTTP(w, r)
	})
}

// ServeMetrics serves metrics and profiles, on an address apart from clients, until stop is called. Scrapes is told of
// each time that metrics are asked for.
func ServeMetrics(ctx context.Context, address string, registry *prometheus.Registry, scrapes *Scrapes, log *slog.Logger) (stop func(), err error) {
	mux := http.NewServeMux()
	mux.Handle("/metrics", scrapes.note(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	mux.HandleFunc(ScrapedPath, scrapes.tell)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: StdLog(log)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are no longer served", "error", err)
		}
	}()
	return func() { _ = server.Close(); <-done }, nil
}

// AskHealth asks the process on this machine that listens on the port whether it is ready.
func AskHealth(ctx context.Context, port int, overTLS bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	scheme := "http"
	if overTLS {
		scheme = "https"
	}
	url := scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/api/v1/health/ready"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		Proxy: nil,
		// The certificate is for the public name, and this is our own process, over loopback.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, // #nosec G402
	}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not reachable: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("not ready: %s", body)
	}
	return nil
}
