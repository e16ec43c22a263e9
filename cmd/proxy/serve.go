package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/proxy"
	"rackgateway/pkg/upstream"
)

func newLogger(w io.Writer, cfg config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// serve wires the proxy together and runs it until ctx is done; then it drains.
func serve(ctx context.Context, cfg *config.Proxy, log *slog.Logger) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	db, err := postgres.Open(postgres.Config{
		URL: postgres.URL(cfg.Database.URL.Reveal()), Name: "rackgateway proxy",
		MaxOpen: cfg.Database.MaxOpenConns, MaxIdle: cfg.Database.MaxIdleConns,
		MaxLifetime: cfg.Database.ConnMaxLifetime, MaxIdleTime: cfg.Database.ConnMaxIdleTime,
	})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()

	feed := postgres.NewFeed(db, []string{"rgw_access"}, postgres.FeedOptions{Logger: log})
	if err := waitForDatabase(ctx, db, cfg.Server.DevMode, log); err != nil {
		return err
	}

	// What runs beside requests stops in the opposite order of its start: records last.
	key, err := audit.NewKey([]byte(cfg.Audit.MACKey.Reveal()))
	if err != nil {
		return err
	}
	writer := audit.NewWriter(db, audit.WriterOptions{Key: key, MaxWait: cfg.Audit.MaxWait, Logger: log, Observer: proxy.AuditObserver(registry)})
	credentials := credential.NewCache(db, feed, credential.Options{
		MaxStaleness: cfg.Access.MaxStaleness, SocketGrace: cfg.Access.SocketGrace, MaxWait: cfg.Audit.MaxWait, Logger: log,
		SettingDefaults: cfg.Settings.Default,
	})
	transport, err := newTransport(cfg.Rack)
	if err != nil {
		return err
	}
	handler, err := proxy.New(proxy.Config{
		RackURL: cfg.Rack.Host, RackUsername: cfg.Rack.Username, RackToken: cfg.Rack.Token, RackTokenNext: cfg.Rack.TokenNext,
		Transport: transport, Organization: cfg.Rack.Organization, Alias: cfg.Rack.Alias,
		Credentials: credentials, Audit: writer, MaxWait: cfg.Audit.MaxWait,
		TrustedProxies: cfg.Server.TrustedProxyCIDRs, AdminNetworks: cfg.Console.AdminCIDRs, Domain: cfg.Server.Domain, AdminURL: cfg.Server.AdminURL,
		Log: log, Metrics: proxy.NewMetrics(registry), Now: time.Now,
	})
	if err != nil {
		return err
	}
	proxy.RegisterState(registry, writer, credentials, transport)

	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	start := func(name string, f func(context.Context) error) {
		running.Go(func() {
			if err := f(background); err != nil && background.Err() == nil {
				log.Error("a part of the proxy has stopped", "part", name, "error", err)
			}
		})
	}
	writing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	writerDone := make(chan error, 1)
	go func() { writerDone <- writer.Run(writing) }()
	start("feed", feed.Run)
	start("credentials", credentials.Run)
	start("proxy", func(ctx context.Context) error { handler.Run(ctx); return nil })
	start("partitions", func(ctx context.Context) error { return keepPartitions(ctx, db, log) })
	defer func() {
		stopBackground()
		running.Wait()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Audit.MaxWait)
		defer cancel()
		if err := writer.Close(closing); err != nil {
			log.Error("not every record could be written before the end", "error", err)
			giveUp() // or the process would wait for its database for ever
		}
		<-writerDone
		if err := transport.Close(closing); err != nil {
			log.Warn("connections to the rack did not end in time", "error", err)
		}
	}()

	// Behind a pooler that swallows announcements, a change of access would go unheard.
	probe, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := feed.Probe(probe); err != nil {
		return err
	}

	if cfg.Server.MetricsAddr != "" {
		stop, err := serveMetrics(background, cfg.Server.MetricsAddr, registry, log)
		if err != nil {
			return err
		}
		defer stop()
	}

	server := handler.NewServer(stdLog(log))
	listener, err := listen(ctx, cfg.Server)
	if err != nil {
		return err
	}
	log.Info("the proxy is ready", "address", listener.Addr().String(), "tls", cfg.Server.TLSCertFile != "",
		"rack", cfg.Rack.Host.Redacted(), "name", cfg.Rack.Organization+"/"+cfg.Rack.Alias, "version", version)

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	drain(context.WithoutCancel(ctx), server, handler, cfg.Server.DrainTimeout, log)
	<-served
	return nil
}

// noticeTime is how long the proxy goes on taking connections after it said that it is not ready any more; with a
// short timeout, a quarter of that.
const noticeTime = 5 * time.Second

// drain stops taking requests, lets those under way finish, and ends sockets with a message after a while.
func drain(ctx context.Context, server *http.Server, handler *proxy.Proxy, timeout time.Duration, log *slog.Logger) {
	log.Info("the proxy was asked to stop: it finishes what runs", "timeout", timeout)
	handler.StopBeingReady()
	patient, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Whoever spreads connections over the proxies learns of it by asking. Until then they still come here, and a
	// closed door would be requests that fail.
	unnoticed := time.NewTimer(min(noticeTime, timeout/4))
	<-unnoticed.C

	var finishing sync.WaitGroup
	finishing.Go(func() {
		if err := server.Shutdown(patient); err != nil {
			log.Warn("requests were cut off, because they did not finish in time", "timeout", timeout)
			_ = server.Close() // their records say that they were cut
		}
	})
	finishing.Go(func() {
		handler.WaitSockets(patient)
		ending, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := handler.EndSockets(ending); err != nil {
			log.Warn("sockets did not end in time", "error", err)
		}
	})
	finishing.Wait()
	// Sockets that were opening meanwhile, and requests that were cut off, have their records to make.
	recording, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := errors.Join(handler.EndSockets(recording), handler.WaitRequests(recording)); err != nil {
		log.Warn("not every request could record its outcome in time", "error", err)
	}
}

// startPatience is how long the proxy waits for its database when it starts.
const startPatience = 60 * time.Second

// waitForDatabase waits until the database is there, and refuses one that cannot keep the promise: one
// that may lose what it said was durable, or behind a pooler that swallows announcements.
func waitForDatabase(ctx context.Context, db *sqlx.DB, development bool, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
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

// keepPartitions makes the coming months' partitions, at start and daily.
func keepPartitions(ctx context.Context, db *sqlx.DB, log *slog.Logger) error {
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

// newTransport is the one shared connection pool to the rack.
func newTransport(cfg config.Rack) (*upstream.Transport, error) {
	config := upstream.Config{Origin: cfg.Host}
	if cfg.Host.Scheme == "https" {
		var ca []byte
		if cfg.CAFile != "" {
			var err error
			if ca, err = os.ReadFile(cfg.CAFile); err != nil {
				return nil, fmt.Errorf("RACK_CA_FILE: %w", err)
			}
		}
		pins := make([][sha256.Size]byte, len(cfg.TLSPins))
		for i, pin := range cfg.TLSPins {
			pins[i] = pin
		}
		tlsConfig, err := upstream.TLSConfig(ca, pins, cfg.Host.Hostname())
		if err != nil {
			return nil, err
		}
		config.TLS = tlsConfig
	}
	return upstream.New(config)
}

func listen(ctx context.Context, cfg config.Server) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(cfg.Port))
	if err != nil {
		return nil, fmt.Errorf("PORT: %w", err)
	}
	if cfg.TLSCertFile == "" {
		return listener, nil
	}
	certificate, err := tls.LoadX509KeyPair(cfg.TLSCertFile, cfg.TLSKeyFile)
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("TLS_CERT_FILE, TLS_KEY_FILE: %w", err)
	}
	return tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}), nil
}

// serveMetrics serves metrics and profiles, on an address apart from clients.
func serveMetrics(ctx context.Context, address string, registry *prometheus.Registry, log *slog.Logger) (stop func(), err error) {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: stdLog(log)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are no longer served", "error", err)
		}
	}()
	return func() { _ = server.Close(); <-done }, nil
}

// stdLog takes what net/http has to say, which is about clients that do not speak HTTP.
func stdLog(logger *slog.Logger) *log.Logger {
	return slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
}
