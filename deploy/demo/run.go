package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv/idp"
	"rackgateway/pkg/testenv/s3server"
)

// The ports that the demo takes when they are free.
const (
	gatewayPort  = 8443
	consolePort  = 8444
	signInPort   = 8445
	rackPort     = 8543
	postgresPort = 8532
	metricsPort  = 8490
	adminMetrics = 8491
	s3Port       = 8546
)

// The bucket that the demo's ledger is copied to, and what its keys begin with.
const (
	auditBucket = "demo-audit"
	auditChain  = "demo"
)

const database = "rackgateway"

// demo is one run. Its methods are called from one goroutine.
type demo struct {
	place
	out   io.Writer
	level level
	state *state
	http  *http.Client

	postgres *cluster.Cluster
	rack     *child // nil when a real rack is used
	proxy    *child
	signIn   *idp.Server
	service  *child // admin serve
	s3       *s3server.Server
	auditKey string // public key of the ledger

	admin        admin
	gateway      address
	console      address
	files        certificate // of both
	organization string      // first half of the rack's name
	alias        string      // second half
	rackHost     string
	rackCA       string
	rackPin      string   // "" when the rack is not known by its key
	serves       []string // the environment of admin serve, without what every program gets
}

// address is where a process is reached.
type address struct {
	port    int
	domain  string // localhost:PORT
	url     string // https://localhost:PORT
	metrics string // HOST:PORT
}

// runForeground runs the demo until ctx ends, or until a part of it ends by itself, which is an error.
func runForeground(ctx context.Context, here place, out io.Writer) error {
	for _, folder := range []string{here.folder, here.file("logs"), here.file("tls")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	// PostgreSQL's user passes through. What is secret in it is closed by itself.
	if err := os.Chmod(here.folder, 0o755); err != nil { //nolint:gosec // as the line above says
		return err
	}
	lock, holder, err := lockFolder(here.file("lock"))
	if errors.Is(err, errRunning) {
		return fmt.Errorf("the demo is running already (process %d): see %s; `make demo-down` stops it", holder, here.file("demo.env"))
	}
	if err != nil {
		return err
	}
	defer lock.Close() // gives the folder back

	d := &demo{place: here, out: out}
	if d.level, err = chosenLevel(); err != nil {
		return err
	}
	var progress *os.File
	if os.Getenv(progressVariable) != "" {
		progress = os.NewFile(3, "progress")
		d.out = io.MultiWriter(out, progress)
	}
	err = d.start(ctx)
	if err == nil {
		d.explain()
		if progress != nil {
			fmt.Fprintln(progress, ready)
			progress.Close()
			d.out = out
		}
		err = d.watch(ctx)
	}
	interrupted := ctx.Err() != nil
	if err != nil && !interrupted {
		fmt.Fprintln(d.out, "demo:", err)
	}
	stopping := d.stop()
	if progress != nil {
		progress.Close() // whoever still reads learns here that the demo has not started
	}
	switch {
	case interrupted:
		return stopping
	case err != nil:
		return errors.Join(errors.New("stopped, because of the error above"), stopping)
	default:
		return stopping
	}
}

// start brings everything up, in order.
func (d *demo) start(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"PostgreSQL", d.startPostgres},
		{"migrations", d.migrate},
		{"people and roles", func(ctx context.Context) error { return seed(ctx, d.admin) }},
		{"rack", d.startRack},
		{"addresses", d.settle},
		{"proxy", d.startProxy},
		{"sign-in", d.startSignIn},
		{"S3", d.startS3},
		{"admin", d.startAdmin},
		{"ledger", d.awaitKey},
		{"tokens", d.makeTokens},
		{"second factors", d.makeFactors},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(d.out, "  %-18s ready after %.1f s\n", step.name, time.Since(began).Seconds())
	}
	return d.writeEnv()
}

func (d *demo) startPostgres(ctx context.Context) error {
	var err error
	if d.state, err = loadState(d.folder); err != nil {
		return err
	}
	folder, err := d.postgresFolder()
	if err != nil {
		return err
	}
	if inside := d.file("postgres"); folder != inside {
		if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
			return err
		}
		if _, err := os.Lstat(inside); errors.Is(err, os.ErrNotExist) {
			if err := os.Symlink(folder, inside); err != nil {
				return err
			}
		}
		fmt.Fprintf(d.out, "  PostgreSQL cannot work under this path; its data is in %s\n", folder)
	}
	port, err := freePort(ctx, "127.0.0.1", postgresPort)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if d.postgres, err = cluster.Start(starting, cluster.Options{Dir: folder, Port: port}); err != nil {
		return err
	}
	if err := d.postgres.Setup(starting); err != nil {
		return err
	}
	if err := d.postgres.CreateDatabase(starting, database, ""); err != nil {
		return err
	}
	d.admin = admin{program: filepath.Join(d.bin, "admin"), environ: append(base(),
		"DATABASE_URL="+d.postgres.URL(cluster.Admin, database),
		"AUDIT_MAC_KEY="+d.state.MACKey,
		"APP_SECRET_KEY="+d.state.AppKey,
	)}
	d.admin.environ = append(d.admin.environ, d.level.settings...)
	return nil
}

func (d *demo) migrate(ctx context.Context) error {
	owner := admin{program: d.admin.program, environ: append(d.admin.environ[:len(d.admin.environ):len(d.admin.environ)],
		"ADMIN_DATABASE_URL="+d.postgres.URL(cluster.Owner, database))}
	_, err := owner.run(ctx, "migrate")
	return err
}

// startRack starts the in-memory rack, unless the environment names a real one.
func (d *demo) startRack(ctx context.Context) error {
	if host := os.Getenv("RACK_HOST"); host != "" {
		if os.Getenv("RACK_TOKEN") == "" {
			return errors.New("RACK_HOST is set and RACK_TOKEN is not: set both to use a real rack, or neither")
		}
		d.rackHost = host
		return nil
	}
	files, err := makeCertificate(d.file("tls"), "rack", time.Now())
	if err != nil {
		return fmt.Errorf("making the rack's certificate: %w", err)
	}
	port, err := freePort(ctx, "127.0.0.1", rackPort)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var host string
	d.rack, host, err = startChild(starting, d.file("logs"), "rack", filepath.Join(d.bin, "rack"),
		append([]string{"-listen", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), "-tls-cert", files.chain, "-tls-key", files.key, "-name", "local"}, d.level.rack...),
		append(base(), "PASSWORD="+d.state.RackPassword), true)
	if err != nil {
		return err
	}
	d.rackHost, d.rackCA = host, files.authority
	if d.level.pinned {
		d.rackPin, err = files.pin()
	}
	return err
}

// settle chooses where the two processes are reached, because each needs to know of the other, and makes the
// certificate that both serve with.
func (d *demo) settle(ctx context.Context) error {
	var err error
	if d.files, err = makeCertificate(d.file("tls"), "gateway", time.Now()); err != nil {
		return fmt.Errorf("making the gateway's certificate: %w", err)
	}
	roots, err := d.files.roots()
	if err != nil {
		return err
	}
	d.http = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	d.organization, d.alias = either(os.Getenv("RACK_ORGANIZATION"), "demo"), either(os.Getenv("RACK_ALIAS"), "local")
	if d.gateway, err = newAddress(ctx, gatewayPort, metricsPort); err != nil {
		return err
	}
	d.console, err = newAddress(ctx, consolePort, adminMetrics)
	return err
}

func newAddress(ctx context.Context, port, metricsPort int) (address, error) {
	port, err := freePort(ctx, "127.0.0.1", port)
	if err != nil {
		return address{}, err
	}
	metrics, err := freePort(ctx, "127.0.0.1", metricsPort)
	if err != nil {
		return address{}, err
	}
	domain := net.JoinHostPort("localhost", strconv.Itoa(port))
	return address{port: port, domain: domain, url: "https://" + domain, metrics: net.JoinHostPort("127.0.0.1", strconv.Itoa(metrics))}, nil
}

// rackName is ORGANIZATION/ALIAS.
func (d *demo) rackName() string { return d.organization + "/" + d.alias }

// serving is what both processes are given, to serve at an address.
func (d *demo) serving(at address) []string {
	return append(slices.Concat(base(), d.level.settings),
		"PORT="+strconv.Itoa(at.port),
		"LISTEN_LOCAL=true",
		"DOMAIN="+at.domain,
		"ADMIN_URL="+d.console.url,
		"TLS_CERT_FILE="+d.files.chain,
		"TLS_KEY_FILE="+d.files.key,
		"METRICS_ADDR="+at.metrics,
		"LOG_FORMAT=text",
		"LOG_LEVEL="+either(os.Getenv("LOG_LEVEL"), "info"),
		"DRAIN_TIMEOUT=3s",
		"AUDIT_MAC_KEY="+d.state.MACKey,
		"RACK_ORGANIZATION="+d.organization,
		"RACK_ALIAS="+d.alias,
	)
}

func (d *demo) startProxy(ctx context.Context) error {
	environ := append(d.serving(d.gateway),
		"DATABASE_URL="+d.postgres.URL(cluster.Proxy, database),
		"RACK_HOST="+d.rackHost,
		"ADMIN_CIDRS=127.0.0.1",
	)
	environ = append(environ, d.level.proxy...)
	if d.rack != nil {
		environ = append(environ, "RACK_TOKEN="+d.state.RackPassword, "RACK_CA_FILE="+d.rackCA)
		if d.rackPin != "" {
			environ = append(environ, "RACK_TLS_PIN="+d.rackPin)
		}
	} else {
		for _, name := range []string{"RACK_TOKEN", "RACK_USERNAME", "RACK_CA_FILE", "RACK_TLS_PIN"} {
			if value := os.Getenv(name); value != "" {
				environ = append(environ, name+"="+value)
			}
		}
		if strings.HasPrefix(d.rackHost, "http://") {
			environ = append(environ, "DEV_MODE=true") // without it, no rack is asked without TLS
		}
	}
	var err error
	if d.proxy, _, err = startChild(ctx, d.file("logs"), "proxy", filepath.Join(d.bin, "proxy"), nil, environ, false); err != nil {
		return err
	}
	return d.await(ctx, d.proxy, d.gateway.url+"/api/v1/rack-proxy/health/ready")
}

// The name by which the identity provider knows admin.
const clientID = "rack-gateway-demo"

// startSignIn starts the OpenID provider, which is a part of this process.
func (d *demo) startSignIn(ctx context.Context) error {
	port, err := freePort(ctx, "127.0.0.1", signInPort)
	if err != nil {
		return err
	}
	options := idp.Options{ClientID: clientID, ClientSecret: d.state.ClientSecret, RedirectURIs: []string{d.console.url + "/login/callback"}}
	for _, person := range people {
		if person.email != "" {
			options.People = append(options.People, idp.Person{Subject: person.key, Email: person.email, Name: person.name, What: person.what})
		}
	}
	d.signIn, err = idp.Listen(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), options)
	return err
}

// startS3 starts an S3 server with Object Lock, and makes the bucket that the ledger is copied to.
func (d *demo) startS3(ctx context.Context) error {
	port, err := freePort(ctx, "127.0.0.1", s3Port)
	if err != nil {
		return err
	}
	if d.s3, err = s3server.Start(ctx, filepath.Join(d.bin, "versitygw"), d.file("s3"), port, "demo", d.state.S3Secret); err != nil {
		return err
	}
	if err := d.s3.EnsureBucket(ctx, auditBucket); err != nil {
		return err
	}
	return d.s3.LockByDefault(ctx, auditBucket, 1)
}

// ofLedger is what admin and its commands find the bucket by.
func (d *demo) ofLedger() []string {
	environ := []string{
		"AUDIT_ANCHOR_BUCKET=" + auditBucket, "AUDIT_ANCHOR_CHAIN_ID=" + auditChain, "AUDIT_ANCHOR_PATH_STYLE=true",
		"AUDIT_ANCHOR_INTERVAL_MINUTES=1", "AUDIT_ANCHOR_RETENTION_DAYS=7",
	}
	for name, value := range d.s3.Environ() {
		environ = append(environ, name+"="+value)
	}
	slices.Sort(environ)
	return append(environ, d.level.admin...) // of two, the last counts
}

// awaitKey waits until the ledger has its key, which admin makes when it first serves.
func (d *demo) awaitKey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		output, err := d.admin.run(ctx, "audit", "key", "--json")
		var keys []string
		if err == nil {
			err = json.Unmarshal([]byte(output), &keys)
		}
		if err == nil && len(keys) > 0 {
			d.auditKey = keys[len(keys)-1]
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(errors.New("admin has not made the ledger's key; see its log"), err)
		}
	}
}

func (d *demo) startAdmin(ctx context.Context) error {
	environ := append(d.serving(d.console),
		"DOMAIN="+d.gateway.domain, // what the console tells people to log in at; ADMIN_URL is its own address
		"DATABASE_URL="+d.postgres.URL(cluster.Admin, database),
		"APP_SECRET_KEY="+d.state.AppKey,
		"PROXY_URL="+d.gateway.url,
		"PROXY_CA_FILE="+d.files.authority,
		"GOOGLE_OAUTH_BASE_URL="+d.signIn.URL,
		"GOOGLE_CLIENT_ID="+clientID,
		"GOOGLE_CLIENT_SECRET="+d.state.ClientSecret,
		"GOOGLE_ALLOWED_DOMAIN="+domain,
		"SSL_CERT_FILE="+d.files.authority, // for the checklist, which looks at the console as people do
	)
	environ = append(environ, d.ofLedger()...)
	d.serves = environ[len(base()):]
	var err error
	if d.service, _, err = startChild(ctx, d.file("logs"), "admin", filepath.Join(d.bin, "admin"), []string{"serve"}, environ, false); err != nil {
		return err
	}
	if err := d.await(ctx, d.service, d.console.url+"/api/v1/health/ready"); err != nil {
		return err
	}
	return d.await(ctx, d.service, d.console.url+"/login/") // which is there once the provider was asked
}

// await waits until an address of a process answers with 200, at most half a minute.
func (d *demo) await(ctx context.Context, process *child, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("it is not ready after 30 seconds; its log is %s", process.log))
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		status, err := d.get(ctx, url, "")
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-again.C:
		case <-process.done:
			return process.ended()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// get asks for an address, with a token if there is one, and returns the status of the answer.
func (d *demo) get(ctx context.Context, url, token string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if token != "" {
		request.SetBasicAuth("convox", token)
	}
	response, err := d.http.Do(request)
	if err != nil {
		return 0, err
	}
	response.Body.Close()
	return response.StatusCode, nil
}

// makeTokens gives a token to everybody who has none that works. A person who may have none, because somebody locked
// or removed them, goes without.
func (d *demo) makeTokens(ctx context.Context) error {
	for _, person := range people {
		if token := d.state.Tokens[person.key]; token != "" {
			status, err := d.get(ctx, d.gateway.url+"/auth", token)
			if err != nil {
				return err
			}
			if status == http.StatusOK {
				continue
			}
			delete(d.state.Tokens, person.key)
		}
		token, err := newToken(ctx, d.admin, person)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			fmt.Fprintf(d.out, "  %s has no token now: %v\n", person.label(), err)
			continue
		}
		d.state.Tokens[person.key] = token
		if err := d.state.save(); err != nil {
			return err
		}
	}
	return d.state.save()
}

// makeFactors gives an authenticator app to every person who was never given one. Somebody who has removed it since, or
// was locked, stays without.
func (d *demo) makeFactors(ctx context.Context) error {
	for _, person := range people {
		if person.email == "" {
			continue
		}
		if err := d.makeFactor(ctx, person, person.key, "The demo's authenticator app"); err != nil {
			return err
		}
		if slices.Contains(person.roles, "admin") { // who must not be locked out when one is lost
			if err := d.makeFactor(ctx, person, person.key+"_SPARE", "The demo's spare authenticator app"); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeFactor gives somebody an authenticator app, unless the state has one under that key.
func (d *demo) makeFactor(ctx context.Context, person person, key, name string) error {
	if d.state.TOTP[key] != "" {
		return nil
	}
	output, err := d.admin.run(ctx, "factor", "add", person.email, "--name", name, "--json")
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fmt.Fprintf(d.out, "  %s lacks a second factor now: %v\n", person.label(), err)
		return nil
	}
	var added struct {
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal([]byte(output), &added); err != nil {
		return fmt.Errorf("admin factor add: %w", err)
	}
	d.state.TOTP[key] = added.Secret
	return d.state.save()
}

// rackURL is what the CLI takes as RACK_URL, or "" for somebody without a token.
func (d *demo) rackURL(person person) string {
	token := d.state.Tokens[person.key]
	if token == "" {
		return ""
	}
	address, err := url.Parse(d.gateway.url)
	if err != nil {
		return ""
	}
	address.User = url.UserPassword("convox", token)
	return address.String()
}

// writeEnv writes demo.env: where everything is, for scripts and shells.
func (d *demo) writeEnv() error {
	var text strings.Builder
	fmt.Fprintln(&text, "# Where the demo is. For a shell: set -a; . .demo/demo.env; set +a")
	set := func(name, value string) { setLine(&text, name, value) }
	set("GATEWAY_URL", d.gateway.url)
	set("GATEWAY_CA", d.files.authority) // of the console too
	set("METRICS_URL", "http://"+d.gateway.metrics+"/metrics")
	set("CONSOLE_URL", d.console.url)
	set("CONSOLE_METRICS_URL", "http://"+d.console.metrics+"/metrics")
	set("OIDC_URL", d.signIn.URL)
	set("DATABASE_URL", d.postgres.URL(cluster.Owner, database))
	set("AUDIT_MAC_KEY", d.state.MACKey)
	set("APP_SECRET_KEY", d.state.AppKey)
	set("S3_ENDPOINT", d.s3.Endpoint)
	set("AUDIT_BUCKET", auditBucket)
	set("AUDIT_PUBLIC_KEY", d.auditKey)
	for _, pair := range slices.Concat(d.level.settings, d.ofLedger()) { // so that admin's commands go by the same, and find the bucket
		name, value, _ := strings.Cut(pair, "=")
		set(name, value)
	}
	set("RACK_NAME", d.rackName())
	for _, person := range people {
		if person.administers {
			set("ADMIN_API_TOKEN", d.state.Tokens[person.key])
		} else {
			set("RACK_URL_"+person.key, d.rackURL(person))
		}
		if secret := d.state.TOTP[person.key]; secret != "" {
			set("TOTP_"+person.key, secret)
		}
	}
	if err := replaceFile(d.file("demo.env"), []byte(text.String())); err != nil {
		return err
	}
	var serves strings.Builder
	fmt.Fprintln(&serves, "# The environment of admin serve, for commands that need it: (set -a; . .demo/admin.env; bin/admin doctor)")
	for _, pair := range d.serves {
		name, value, _ := strings.Cut(pair, "=")
		setLine(&serves, name, value)
	}
	return replaceFile(d.file("admin.env"), []byte(serves.String()))
}

// setLine writes an assignment as a shell reads it.
func setLine(to *strings.Builder, name, value string) {
	fmt.Fprintf(to, "%s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
}

// watch returns nil when ctx ends, and an error when a part of the demo ends by itself.
func (d *demo) watch(ctx context.Context) error {
	var rackDone <-chan struct{}
	if d.rack != nil {
		rackDone = d.rack.done
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.proxy.done:
		return d.proxy.ended()
	case <-d.service.done:
		return d.service.ended()
	case <-rackDone:
		return d.rack.ended()
	case <-d.s3.Done():
		return fmt.Errorf("the S3 server ended by itself; see %s", d.file("s3", "log"))
	case <-d.postgres.Done():
		log := filepath.Join(d.postgres.Dir(), "log")
		return fmt.Errorf("PostgreSQL ended by itself; the end of %s is:\n%s", log, tail(log, 12))
	}
}

// stop ends what runs, each before what it needs.
func (d *demo) stop() error {
	if d.proxy == nil && d.rack == nil && d.postgres == nil {
		return nil
	}
	fmt.Fprintln(d.out, "Stopping…")
	if d.service != nil {
		d.service.stop(20 * time.Second)
	}
	if d.signIn != nil {
		_ = d.signIn.Close() // it keeps nothing
	}
	if d.s3 != nil {
		_ = d.s3.Close() // what it took is on the disk
	}
	if d.proxy != nil {
		d.proxy.stop(20 * time.Second)
	}
	if d.rack != nil {
		d.rack.stop(5 * time.Second)
	}
	if d.postgres != nil {
		if err := d.postgres.Close(); err != nil {
			return fmt.Errorf("stopping PostgreSQL: %w", err)
		}
	}
	fmt.Fprintf(d.out, "Stopped. The data is kept in %s.\n", d.folder)
	return nil
}

// base is the part of this process's environment that every program gets. Nothing else passes, so that what the demo
// does depends on no setting of the shell that it was started from.
func base() []string {
	var environ []string
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LC_ALL"} {
		if value, ok := os.LookupEnv(name); ok {
			environ = append(environ, name+"="+value)
		}
	}
	return environ
}

func either(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

// freePort returns the port wanted when nobody listens on it, and else one that is free now.
func freePort(ctx context.Context, host string, wanted int) (int, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(wanted)))
	if err != nil {
		if listener, err = config.Listen(ctx, "tcp", net.JoinHostPort(host, "0")); err != nil {
			return 0, err
		}
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
