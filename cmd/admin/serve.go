package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/console"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/daemon"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/doctor"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/peer"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/signin"
)

type serveCmd struct{}

func (serveCmd) Help() string {
	return `Serves the web console at /console/, sign-in at /login/ and the API at /api/v1/ (see /api/v1/docs) until SIGTERM.

When ADMIN_DATABASE_URL is set it first brings the schema up to date, unless MIGRATE=off; that connection is closed before anybody is served. The people of ADMIN_USERS, DEPLOYER_USERS, OPERATIONS_USERS and VIEWER_USERS are made once, at the first start.`
}

func (c *serveCmd) Run(ctx context.Context, p *process) error {
	cfg, report, err := config.LoadAdminServe(p.environ)
	if err != nil {
		return err
	}
	log := daemon.NewLogger(p.stderr, cfg.Log)
	for _, warning := range report.Warnings {
		log.Warn(warning)
	}
	return p.serve(ctx, cfg, report.Warnings, log)
}

// serveName is the name of the service's connections, as the database shows them.
const serveName = "rackgateway admin"

// serve wires admin together and runs it until ctx is done; then it drains. Slips are what looks wrong with the
// configuration.
func (p *process) serve(ctx context.Context, cfg *config.Admin, slips []string, log *slog.Logger) error {
	telling, log, err := daemon.NewTelemetry(cfg.Telemetry, "rack-gateway-admin", version, log)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	var scrapes daemon.Scrapes
	if err := migrateFirst(ctx, cfg, log); err != nil {
		return err
	}
	db, err := postgres.Open(postgres.Config{
		URL: postgres.URL(cfg.Database.URL.Reveal()), Name: serveName,
		MaxOpen: cfg.Database.MaxOpenConns, MaxIdle: cfg.Database.MaxIdleConns,
		MaxLifetime: cfg.Database.ConnMaxLifetime, MaxIdleTime: cfg.Database.ConnMaxIdleTime,
	})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	feed := postgres.NewFeed(db, []string{credential.Channel, audit.Channel, ledger.Channel}, postgres.FeedOptions{Logger: log})
	if err := daemon.WaitForDatabase(ctx, db, cfg.Server.DevMode, log); err != nil {
		return err
	}

	key, err := audit.NewKey([]byte(cfg.Audit.MACKey.Reveal()))
	if err != nil {
		return err
	}
	keys, err := seal.NewKeys(cfg.Secrets.AppKey, cfg.Secrets.AppKeyPrevious)
	if err != nil {
		return err
	}
	metrics := newMetrics(registry)
	events := audit.NewWriter(db, audit.WriterOptions{Key: key, MaxWait: cfg.Audit.MaxWait, Logger: log, Observer: metrics.auditObserver()})
	credentials := credential.NewCache(db, feed, credential.Options{
		MaxStaleness: cfg.Access.MaxStaleness, SocketGrace: cfg.Access.SocketGrace, MaxWait: cfg.Audit.MaxWait, Logger: log,
		SettingDefaults: cfg.Settings.Defaults, NoteSessions: true,
	})
	book, err := newBook(ctx, cfg, db, key, keys, log, metrics)
	if err != nil {
		return err
	}
	feed.Subscribe(audit.Channel, func(string) { book.sequencer.Wake() })
	feed.Subscribe(ledger.Channel, func(string) { book.follower.Wake() })
	feed.OnReset(book.follower.Wake)
	writer := directory.NewWriter(db, key, directory.WriterOptions{Defaults: cfg.Settings.Defaults, Now: p.now, MaxWait: cfg.Audit.MaxWait})
	reader := directory.NewReader(db, directory.ReaderOptions{Defaults: cfg.Settings.Defaults, Now: p.now})
	if err := addFirstUsers(ctx, writer, cfg.SignIn, log); err != nil {
		return err
	}

	address := func(r *http.Request) netip.Addr { return peer.Address(r, cfg.Server.TrustedProxyCIDRs) }
	sessions := signin.NewSessions(writer, reader, keys)
	people, err := signin.New(signin.Config{
		Issuer: cfg.SignIn.Issuer, ClientID: cfg.SignIn.ClientID, ClientSecret: cfg.SignIn.ClientSecret, Domain: cfg.SignIn.AllowedDomain,
		HostedDomain: cfg.SignIn.Issuer == config.GoogleIssuer, BaseURL: cfg.Server.AdminURL,
		Directory: writer, Sessions: sessions, Resolve: credentials, Keys: keys, Address: address, Device: mfa.DeviceHash, MaxWait: cfg.Audit.MaxWait, Log: log, Now: p.now,
	})
	if err != nil {
		return err
	}
	factors, err := newFactors(cfg, writer, reader, &keys, log, p.now)
	if err != nil {
		return err
	}
	toProxy, err := transportTrusting(cfg.Upstream.ProxyCAFile)
	if err != nil {
		return fmt.Errorf("PROXY_CA_FILE: %w", err)
	}
	notices := newNotices(cfg, db, key, keys, book, feed, address, log, p.now)
	metrics.watchNotices(notices)
	checklist := &doctor.Doctor{
		Config: cfg, Slips: slips, DB: db, Setting: settingOf(reader), ToProxy: toProxy, Now: p.now,
		ScrapedAt: func() (bool, time.Time) { return cfg.Server.MetricsAddr != "", scrapes.Last() },
	}
	api, err := adminapi.New(adminapi.Config{
		DB: db, Reader: reader, Writer: writer, Credentials: credentials, Audit: events, Sessions: sessions, Factors: factors, Answers: answersBox(keys), Notices: notices, Ledger: book.shown,
		RackName: cfg.Rack.Organization + "/" + cfg.Rack.Alias, GatewayHost: cfg.Server.Domain, Origin: cfg.Server.AdminURL, ClientAddress: address,
		Rack: adminapi.NewRack(cfg.Upstream.ProxyURL, toProxy, log), Log: log, Now: p.now, Doctor: checklist.Examine,
		Ready: map[string]adminapi.CheckFunc{
			"audit": func(context.Context) (bool, string) {
				if events.State().OK {
					return true, ""
				}
				return false, "events cannot be recorded: is PostgreSQL reachable and its disk not full?"
			},
		},
		// Signing in is reported, and does not count: whoever is signed in, and every token, is served without.
		Notes: map[string]adminapi.CheckFunc{
			"sign-in": func(context.Context) (bool, string) {
				if err := people.Ready(); err != nil {
					// Why is in the log, with addresses that are not for everybody: this is told to whoever asks.
					return false, "the identity provider cannot be reached, so that nobody new can sign in: see admin's log for why"
				}
				return true, ""
			},
			"ledger": book.check,
		},
	})
	if err != nil {
		return err
	}
	pages, err := console.New(cfg.Server.AdminURL.Scheme == "https")
	if err != nil {
		return err
	}
	if !pages.Built() {
		log.Warn("this program was built without the web console: /console/ says how to build it")
	}
	metrics.watch(events, credentials)
	metrics.watchLedger(book)
	page := &mfa.Page{Service: factors, Sessions: sessions, Cache: credentials, Address: address, MaxWait: cfg.Audit.MaxWait, Log: log, Now: p.now}

	// What runs beside requests stops in the opposite order of its start: records last.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	start := func(name string, f func(context.Context) error) {
		running.Go(func() {
			if err := f(background); err != nil && background.Err() == nil {
				log.Error("a part of admin has stopped", "part", name, "error", err)
			}
		})
	}
	stopRecording := daemon.StartRecording(ctx, events, cfg.Audit.MaxWait, log)
	start("telemetry", telling.Run)
	start("feed", feed.Run)
	start("credentials", credentials.Run)
	start("sign-in", people.Run)
	start("api", api.Run)
	book.start(start)
	start("second factors", factors.Run)
	start("notices", notices.Run)
	start("partitions", func(ctx context.Context) error { return daemon.KeepPartitions(ctx, db, log) })
	defer func() {
		stopBackground()
		running.Wait()
		stopRecording()
		toProxy.CloseIdleConnections()
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

	server := &http.Server{
		Handler:           telling.Middleware(metrics.count(hurry(bodyPatience, mount(api, people, pages, page, notices.Hooks(cfg.Notices.PostmarkWebhook))))),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          daemon.StdLog(log),
	}
	listener, err := daemon.Listen(ctx, cfg.Server, log, "h2", "http/1.1")
	if err != nil {
		return err
	}
	log.Info("admin is ready", "address", listener.Addr().String(), "tls", cfg.Server.TLSCertFile != "", "url", cfg.Server.AdminURL.String(),
		"issuer", cfg.SignIn.Issuer, "redirect", people.RedirectURL(), "proxy", cfg.Upstream.ProxyURL.String(), "version", version)

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	drain(context.WithoutCancel(ctx), server, api, cfg.Server.DrainTimeout, log)
	<-served
	return nil
}

// bodyPatience is how long the body of a request may take to come. What is passed on to the rack says so itself.
const bodyPatience = time.Minute

// hurry bounds how long bodies are waited for, whoever sends them and whether anybody wants them: net/http reads what is
// left of one before it answers, for as long as the client likes.
func hurry(patience time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience)) // what net/http gives always can
		}
		next.ServeHTTP(w, r)
	})
}

// mount is the table of contents of the service.
func mount(api *adminapi.API, people *signin.Handler, pages *console.Console, page *mfa.Page, hooks http.Handler) http.Handler {
	router := mux.NewRouter().UseEncodedPath().SkipClean(true)
	router.PathPrefix(notify.HooksPath + "/").Handler(hooks)
	router.PathPrefix(adminapi.BasePath + "/").Handler(api)
	people.Mount(router)
	page.Mount(router)
	router.PathPrefix(console.BasePath).Handler(pages)
	for _, path := range []string{"/", "/console"} {
		router.Path(path).Methods(http.MethodGet).Handler(http.RedirectHandler(console.BasePath, http.StatusSeeOther))
	}
	router.NotFoundHandler = api // which says so
	router.MethodNotAllowedHandler = api
	return router
}

// migrateFirst brings the schema up to date, as its owner, whose connection does not outlive it.
func migrateFirst(ctx context.Context, cfg *config.Admin, log *slog.Logger) (err error) {
	if !cfg.Database.Migrate || !cfg.Database.OwnerGiven {
		return nil
	}
	owner, err := postgres.Open(postgres.Config{URL: postgres.URL(cfg.Database.OwnerURL.Reveal()), Name: serveName + " migrations", MaxOpen: 4})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, owner.Close()) }()
	if err := daemon.WaitForDatabase(ctx, owner, cfg.Server.DevMode, log); err != nil {
		return err
	}
	return postgres.Migrate(ctx, owner, log)
}

// addFirstUsers makes the people that the configuration names, once in the life of the gateway.
func addFirstUsers(ctx context.Context, writer *directory.Writer, cfg config.SignIn, log *slog.Logger) error {
	people := directory.FirstUsers(map[string][]string{
		"admin": cfg.AdminUsers, "deployer": cfg.DeployerUsers, "ops": cfg.OpsUsers, "viewer": cfg.ViewerUsers,
	})
	by := directory.Actor{Kind: audit.ActorSystem, ID: "configuration", Label: "configuration"}
	added, err := writer.AddFirstUsers(ctx, by, people)
	if err != nil {
		return fmt.Errorf("make the first users: %w", err)
	}
	var addresses []string
	for _, user := range added {
		addresses = append(addresses, user.Email)
	}
	if len(added) > 0 {
		log.Info("the first users were made", "users", strings.Join(addresses, " "))
	}
	return nil
}

// answersBox seals answers under idempotency keys. Its name must never change.
func answersBox(keys seal.Keys) *seal.Box { return keys.Box("idempotency answer") }

// transportTrusting is a pool of connections to one server, such as the proxy, whose certificate an authority of the
// file vouches for; without a file, one that the machine trusts.
func transportTrusting(caFile string) (*http.Transport, error) {
	transport := &http.Transport{
		Proxy: nil, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		DisableCompression: true, // what the proxy says goes on as it is
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("there is no certificate in %s", caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return transport, nil
}

// noticeTime is how long admin goes on taking connections after it said that it is not ready any more; with a short
// timeout, a quarter of that. Whoever spreads connections over several learns of it by asking.
const noticeTime = 5 * time.Second

// drain stops taking requests, and lets those under way finish.
func drain(ctx context.Context, server *http.Server, api *adminapi.API, timeout time.Duration, log *slog.Logger) {
	log.Info("admin was asked to stop: it finishes what runs", "timeout", timeout)
	api.StopBeingReady()
	patient, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	unnoticed := time.NewTimer(min(noticeTime, timeout/4))
	<-unnoticed.C
	if err := server.Shutdown(patient); err != nil {
		log.Warn("requests were cut off, because they did not finish in time", "timeout", timeout)
		_ = server.Close()
	}
}

type healthCmd struct{ output }

func (healthCmd) Help() string {
	return `For container health checks: the exit code is 0 when admin on this machine is ready, and 1 when it is not.`
}

func (c *healthCmd) Run(ctx context.Context, p *process) error {
	cfg, _, _ := config.LoadAdmin(p.environ) // mistakes are for the process that runs to report
	if err := daemon.AskHealth(ctx, cfg.Server.Port, cfg.Server.TLSCertFile != ""); err != nil {
		return errors.New(err.Error()) // not to be taken for a failure to reach the database
	}
	if c.JSON {
		return writeJSON(p.stdout, map[string]bool{"ready": true})
	}
	return nil
}

type rekeyCmd struct{ output }

func (rekeyCmd) Help() string {
	return `After APP_SECRET_KEY was replaced, with the one before as APP_SECRET_KEY_PREVIOUS. When it has run, and every admin has been restarted with both, APP_SECRET_KEY_PREVIOUS can go. It may run while admin serves, and again.`
}

func (c *rekeyCmd) Run(ctx context.Context, p *process) error {
	cfg, _, err := config.LoadAdminServe(p.environ)
	var mistakes *config.MistakesError
	if errors.As(err, &mistakes) { // of all that serving needs, this needs the keys
		left := slices.DeleteFunc(slices.Clone(mistakes.Mistakes), func(m config.Mistake) bool { return !strings.HasPrefix(m.Name, "APP_SECRET_KEY") })
		if err = nil; len(left) > 0 {
			err = &config.MistakesError{Program: mistakes.Program, Mistakes: left}
		}
	}
	if err != nil {
		return err
	}
	if cfg.Secrets.AppKeyPrevious.IsZero() {
		return usageError("APP_SECRET_KEY_PREVIOUS is not set: there is no key to bring anything over from")
	}
	keys, err := seal.NewKeys(cfg.Secrets.AppKey, cfg.Secrets.AppKeyPrevious)
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		done, lost, err := adminapi.Rekey(ctx, db, key, by, answersBox(keys))
		if err != nil {
			return err
		}
		factors, lostFactors, err := mfa.Rekey(ctx, directory.NewWriter(db, key, directory.WriterOptions{Now: p.now}), by, keys)
		if err != nil {
			return err
		}
		done, lost = done+factors, lost+lostFactors
		for _, sealed := range []struct {
			what, purpose string
			rekey         func(context.Context, *sqlx.Tx, *seal.Box) (done, lost int, err error)
		}{
			{"ledger_keys", ledger.SealPurpose, ledger.Rekey},
			{"integrations", notify.SealPurpose, notify.Rekey},
		} {
			e := by.Event(p.now(), "gateway.rekey", sealed.what)
			e.Decision = audit.DecisionAllow
			err = audit.Change(ctx, db, key, e, func(tx *sqlx.Tx) error {
				n, gone, err := sealed.rekey(ctx, tx, keys.Box(sealed.purpose))
				done, lost = done+n, lost+gone
				return err
			})
			if err != nil {
				return err
			}
		}
		if lost > 0 {
			fmt.Fprintf(p.stderr, "admin: warning: %d could be opened with neither key, and will be of no use any more\n", lost)
		}
		return c.say(p, map[string]int{"sealed": done, "lost": lost}, "Sealed anew: %d.\n", done)
	})
}
