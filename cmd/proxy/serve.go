package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/daemon"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/proxy"
	"rackgateway/pkg/secret"
	"rackgateway/pkg/upstream"
)

// serve wires the proxy together and runs it until ctx is done; then it drains.
func serve(ctx context.Context, cfg *config.Proxy, log *slog.Logger) error {
	telling, log, err := daemon.NewTelemetry(cfg.Telemetry, "rack-gateway-proxy", version, log)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	var scrapes daemon.Scrapes
	db, err := postgres.Open(postgres.Config{
		URL: postgres.URL(cfg.Database.URL.Reveal()), Name: "rackgateway proxy",
		MaxOpen: cfg.Database.MaxOpenConns, MaxIdle: cfg.Database.MaxIdleConns,
		MaxLifetime: cfg.Database.ConnMaxLifetime, MaxIdleTime: cfg.Database.ConnMaxIdleTime,
	})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()

	feed := postgres.NewFeed(db, []string{credential.Channel}, postgres.FeedOptions{Logger: log})
	if err := daemon.WaitForDatabase(ctx, db, cfg.Server.DevMode, log); err != nil {
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
		SettingDefaults: cfg.Settings.Defaults,
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
		Version: version, RackVerified: rackVerified(cfg.Rack), RackCertificate: rackCertificate(cfg.Rack),
		ScrapedAt:   func() (bool, time.Time) { return cfg.Server.MetricsAddr != "", scrapes.Last() },
		Fingerprint: func(password secret.Text) string { return key.Fingerprint("rack password", password) },
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
	stopRecording := daemon.StartRecording(ctx, writer, cfg.Audit.MaxWait, log)
	start("telemetry", telling.Run)
	start("feed", feed.Run)
	start("credentials", credentials.Run)
	start("proxy", func(ctx context.Context) error { handler.Run(ctx); return nil })
	start("partitions", func(ctx context.Context) error { return daemon.KeepPartitions(ctx, db, log) })
	defer func() {
		stopBackground()
		running.Wait()
		stopRecording()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Audit.MaxWait)
		defer cancel()
		if err := transport.Close(closing); err != nil {
			log.Warn("connections to the rack did not end in time", "error", err)
		}
	}()

	// Behind a pooler that swallows announcements, a change of access would go unheard.
	probe, cancel := context.WithTimeout(ctx, daemon.Patience)
	defer cancel()
	if err := feed.Probe(probe); err != nil {
		return err
	}

	if cfg.Server.MetricsAddr != "" {
		stop, err := daemon.ServeMetrics(background, cfg.Server.MetricsAddr, registry, &scrapes, log)
		if err != nil {
			return err
		}
		defer stop()
	}

	server := handler.NewServer(daemon.StdLog(log))
	server.Handler = telling.Middleware(server.Handler)
	listener, err := daemon.Listen(ctx, cfg.Server, log, "http/1.1")
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

// newTransport is the one shared connection pool to the rack.
func newTransport(cfg config.Rack) (*upstream.Transport, error) {
	to := upstream.Config{Origin: cfg.Host}
	if cfg.Host.Scheme == "https" {
		var err error
		if to.TLS, err = rackTLS(cfg); err != nil {
			return nil, err
		}
	}
	return upstream.New(to)
}

// rackTLS is how the rack's certificate is verified.
func rackTLS(cfg config.Rack) (*tls.Config, error) {
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
	return upstream.TLSConfig(ca, pins, cfg.Host.Hostname())
}

// rackVerified says in a few words what rackTLS does.
func rackVerified(cfg config.Rack) string {
	switch {
	case cfg.Host.Scheme != "https":
		return ""
	case len(cfg.TLSPins) == 0:
		return "authority"
	case cfg.CAFile == "":
		return "pin"
	}
	return "authority and pin"
}

// rackCertificate looks at the certificate that the rack shows, by a connection of its own. It is nil for a rack
// without TLS.
func rackCertificate(cfg config.Rack) func(context.Context) (*x509.Certificate, error) {
	if cfg.Host.Scheme != "https" {
		return nil
	}
	address := cfg.Host.Host
	if cfg.Host.Port() == "" {
		address = net.JoinHostPort(cfg.Host.Hostname(), "443")
	}
	return func(ctx context.Context) (*x509.Certificate, error) {
		verify, err := rackTLS(cfg)
		if err != nil {
			return nil, err
		}
		conn, err := (&tls.Dialer{Config: verify}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("connecting to the rack: %w", err)
		}
		defer func() { _ = conn.Close() }()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
	}
}
