package testenv

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv/idp"
)

// The rack's name, as the gateway tells it.
const (
	Organization = "acme"
	Alias        = "staging"
	RackName     = Organization + "/" + Alias
)

// Env is one environment. Its methods may be called from any goroutine; they fail the test when they cannot do
// what they say.
type Env struct {
	Proxies    []*Proxy
	Admins     []*AdminServer
	Provider   *idp.Server      // that admin sends people to; nil while there is no admin
	Rack       *racktest.Rack   // in this process; nil with Options.Upstream
	RackServer *racktest.Server // where it listens
	Postgres   *cluster.Cluster // the suite's, or its own with Options.OwnPostgres
	Database   string           // its name
	DB         *sqlx.DB         // as the owner of everything, for looking and for setting up

	t        TB
	suite    *Suite
	opts     Options
	dir      string // temporary
	rackFile string // the rack's authority, PEM
	client   *http.Client

	adminPort int // of the first admin; 0 when none was asked for at the start

	mu     sync.Mutex
	tokens map[string]string // by name
}

// Start makes an environment that ends with the test. It returns when every proxy is ready.
func (s *Suite) Start(t TB, opts Options) *Env {
	t.Helper()
	if what := missing(); what != "" {
		t.Fatalf("%s", what)
	}
	e := &Env{t: t, suite: s, opts: opts, tokens: make(map[string]string)}
	server, database, tokens, err := s.prepare(t.Context(), opts)
	if err != nil {
		t.Fatalf("preparing an environment: %v", err)
	}
	t.Cleanup(e.end) // everything below is ended by it, as far as it was made
	e.Postgres, e.Database = server, database
	for name, token := range tokens {
		e.tokens[name] = token
	}
	if e.dir, err = os.MkdirTemp(s.dir, "env-"); err != nil {
		t.Fatalf("%v", err)
	}
	if e.DB, err = postgres.Open(postgres.Config{URL: postgres.URL(server.URL(cluster.Owner, database)), Name: "testenv", MaxOpen: 8}); err != nil {
		t.Fatalf("%v", err)
	}
	e.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: s.ca.roots, MinVersion: tls.VersionTLS12},
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}}
	if opts.Upstream == "" {
		e.startRack()
	}
	if opts.Admins > 0 {
		e.adminPort = e.freePort() // the proxies are told of it before it runs
	}
	if opts.FreshFactors {
		e.grantAlways()
		for _, who := range People() {
			if !who.API {
				e.StepUp(who.Name)
			}
		}
	}
	for range max(opts.Proxies, 0) + btoi(opts.Proxies == 0) {
		e.AddProxy()
	}
	for _, p := range e.Proxies {
		p.WaitReady(t.Context())
	}
	for range opts.Admins {
		e.AddAdmin()
	}
	for _, a := range e.Admins {
		a.WaitReady(t.Context())
	}
	return e
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// startRack runs the in-memory rack in this process.
func (e *Env) startRack() {
	e.t.Helper()
	if e.opts.Rack.Password == "" {
		e.opts.Rack.Password = rand.Text()
	}
	e.Rack = racktest.New(e.opts.Rack)
	var err error
	if e.RackServer, err = e.Rack.Start(racktest.ServeOptions{TLS: !e.opts.PlainRack}); err != nil {
		e.t.Fatalf("starting the rack: %v", err)
	}
	if pem := e.RackServer.CertificatePEM(); pem != nil {
		e.rackFile = filepath.Join(e.dir, "rack.pem")
		if err := os.WriteFile(e.rackFile, pem, 0o600); err != nil {
			e.t.Fatalf("%v", err)
		}
	}
}

// end stops everything, admins and proxies first. When the test failed it shows what they logged.
func (e *Env) end() {
	var servers []*Server
	for _, a := range e.Admins {
		servers = append(servers, &a.Server)
	}
	for _, p := range e.Proxies {
		servers = append(servers, &p.Server)
	}
	for _, s := range servers {
		if err := s.process.stop(stopPatience); err != nil {
			e.t.Errorf("%v", err)
		}
	}
	if e.t.Failed() {
		for _, s := range servers {
			e.t.Logf("the end of what %s logged:\n%s", s.Name, s.process.tail(60))
		}
	}
	if e.Provider != nil {
		_ = e.Provider.Close() // it keeps nothing
	}
	if e.client != nil {
		e.client.CloseIdleConnections()
	}
	if e.Rack != nil {
		e.Rack.Close()
	}
	if e.DB != nil {
		_ = e.DB.Close() // a server that was killed has closed it already
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), time.Minute)
	defer cancel()
	var err error
	if e.opts.OwnPostgres {
		err = e.Postgres.Close()
	} else {
		err = e.Postgres.DropDatabase(ctx, e.Database)
	}
	if err != nil {
		e.t.Errorf("ending the database: %v", err)
	}
}

// AddProxy starts one more proxy; it may not be ready yet.
func (e *Env) AddProxy() *Proxy {
	e.t.Helper()
	return e.AddProxyWith(nil)
}

// AddProxyWith is AddProxy with more configuration, NAME to value, as Options.Config.
func (e *Env) AddProxyWith(config map[string]string) *Proxy {
	e.t.Helper()
	port, metrics := e.freePort(), e.freePort()
	name := "proxy-" + strconv.Itoa(len(e.Proxies)+1)
	settings := map[string]string{
		"DOMAIN":            "localhost:" + strconv.Itoa(port),
		"PORT":              strconv.Itoa(port),
		"METRICS_ADDR":      net.JoinHostPort("127.0.0.1", strconv.Itoa(metrics)),
		"DATABASE_URL":      e.Postgres.URL(cluster.Proxy, e.Database),
		"AUDIT_MAC_KEY":     e.suite.mac,
		"RACK_HOST":         e.opts.Upstream,
		"RACK_TOKEN":        e.RackPassword(),
		"RACK_ORGANIZATION": Organization,
		"RACK_ALIAS":        Alias,
		"RACK_CA_FILE":      e.rackFile,
		"DRAIN_TIMEOUT":     "2s",
		"LOG_FORMAT":        "text",
		// What is not about second factors is not asked for any.
		"RGW_SETTING_MFA_REQUIRED": strconv.FormatBool(e.opts.Factors || e.opts.FreshFactors),
	}
	if e.RackServer != nil {
		settings["RACK_HOST"] = e.RackServer.URL()
	}
	if e.adminPort != 0 {
		settings["ADMIN_URL"] = "https://localhost:" + strconv.Itoa(e.adminPort)
		settings["ADMIN_CIDRS"] = "127.0.0.1,::1"
	}
	scheme := "http"
	if e.opts.TLS {
		scheme = "https"
		settings["TLS_CERT_FILE"], settings["TLS_KEY_FILE"] = e.suite.ca.chainFile, e.suite.ca.keyFile
	}
	p := &Proxy{e.server(name, scheme, port, metrics, "proxy", nil, settings, e.opts.Config, config)}
	e.Proxies = append(e.Proxies, p)
	p.Start()
	return p
}

// server is one of the product's processes, not yet started, with an environment of these settings; later ones count.
func (e *Env) server(name, scheme string, port, metrics int, program string, args []string, settings ...map[string]string) Server {
	merged := make(map[string]string)
	for _, more := range settings {
		maps.Copy(merged, more)
	}
	environ := []string{"PATH=" + os.Getenv("PATH"), "GOTRACEBACK=all"}
	for name, value := range merged {
		if value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	command := slices.Concat(e.opts.Under, []string{filepath.Join(e.suite.bin, program)}, args)
	return Server{
		Name: name, Port: port,
		URL:     scheme + "://" + net.JoinHostPort("localhost", strconv.Itoa(port)),
		Metrics: "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(metrics)),
		env:     e,
		process: &process{
			name: name, path: command[0], args: command[1:], environ: environ, logPath: filepath.Join(e.dir, name+".log"),
		},
	}
}

// freePort finds a port that nobody listens on, and that no other environment of this program was given. It is none
// of those that the kernel gives to outgoing connections, so that none of those takes it before the proxy does.
func (e *Env) freePort() int {
	e.t.Helper()
	port, err := e.suite.nextPort()
	if err != nil {
		e.t.Fatalf("%v", err)
	}
	return port
}

// RackPassword is the rack's own password, which only the proxies have.
func (e *Env) RackPassword() string {
	if e.opts.Rack.Password == "" {
		return "password-of-the-upstream"
	}
	return e.opts.Rack.Password
}

// CA is the authority that signed the proxies' certificate, and CAFile the PEM file that holds it.
func (e *Env) CA() *x509.CertPool { return e.suite.ca.roots }

// CAFile is the PEM file of the authority.
func (e *Env) CAFile() string { return e.suite.ca.rootFile }

// MACKey is the AUDIT_MAC_KEY of all proxies and of admin.
func (e *Env) MACKey() string { return e.suite.mac }

// AppKey is the APP_SECRET_KEY of every admin.
func (e *Env) AppKey() string { return e.suite.app }

// Bin is the folder of the binaries.
func (e *Env) Bin() string { return e.suite.bin }

// Token returns the token of somebody of People, or of AddUser or AddToken.
func (e *Env) Token(who string) string {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	token, ok := e.tokens[who]
	if !ok {
		e.t.Fatalf("nobody here is called %q", who)
	}
	return token
}

// RackURL is what somebody's CLI takes as RACK_URL: the first proxy, with their token.
func (e *Env) RackURL(who string) string {
	e.t.Helper()
	return e.Proxies[0].RackURL(who)
}

// AddUser adds a person with roles (ROLE or ROLE@APP) and one CLI token, known by name from then on.
func (e *Env) AddUser(name string, roles ...string) (token string) {
	e.t.Helper()
	email := name + "@example.com"
	add := []string{"user", "add", email}
	for _, role := range roles {
		add = append(add, "--role", role)
	}
	e.Admin(add...)
	if e.opts.FreshFactors {
		e.Admin("factor", "add", email)
	}
	return e.AddToken(name, "--user", email, "--name", name+"'s laptop")
}

// AddToken makes a token by `admin token create` and the arguments given, known by name from then on.
func (e *Env) AddToken(name string, args ...string) (token string) {
	e.t.Helper()
	token = strings.TrimSpace(e.Admin(append([]string{"token", "create"}, args...)...))
	e.KnowToken(name, token)
	if e.opts.FreshFactors && !slices.Contains(args, "--api") {
		e.StepUp(name)
	}
	return token
}

// KnowToken makes a token known by a name, for one that was not made by AddToken.
func (e *Env) KnowToken(name, token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens[name] = token
}

// Admin runs the admin program on this environment's database and returns what it printed.
func (e *Env) Admin(args ...string) (stdout string) {
	e.t.Helper()
	stdout, stderr, err := e.TryAdmin(args...)
	if err != nil {
		e.t.Fatalf("admin %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// TryAdmin is Admin for what may be refused: the error is an *exec.ExitError then.
func (e *Env) TryAdmin(args ...string) (stdout, stderr string, err error) {
	return e.suite.admin(e.t.Context(), e.Postgres, e.Database, args...)
}

// Answer is the answer to a request, read whole.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Do sends a request to the first proxy as somebody, or as nobody when who is empty.
func (e *Env) Do(who, method, path string, body io.Reader) Answer {
	e.t.Helper()
	return e.Proxies[0].Do(who, method, path, body)
}

// Client is an HTTP client that trusts the proxies' certificate.
func (e *Env) Client() *http.Client { return e.client }

// Proxy is one proxy process.
type Proxy struct{ Server }

// RackURL is what somebody's CLI takes as RACK_URL: this proxy, with their token.
func (p *Proxy) RackURL(who string) string {
	p.env.t.Helper()
	u, err := url.Parse(p.URL)
	if err != nil {
		p.env.t.Fatalf("%v", err)
	}
	u.User = url.UserPassword("convox", p.env.Token(who))
	return u.String()
}

// Do sends a request to this proxy as somebody, or as nobody when who is empty. Redirects are not followed. A body
// is sent as a form, as the CLI does; use Client for anything else.
func (p *Proxy) Do(who, method, path string, body io.Reader) Answer {
	p.env.t.Helper()
	req, err := http.NewRequestWithContext(p.env.t.Context(), method, p.URL+path, body)
	if err != nil {
		p.env.t.Fatalf("%v", err)
	}
	if who != "" {
		req.SetBasicAuth("convox", p.env.Token(who))
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := p.env.client.Transport.RoundTrip(req)
	if err != nil {
		p.env.t.Fatalf("%s %s: %v", method, path, err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		p.env.t.Fatalf("%s %s: reading the answer: %v", method, path, err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(text)}
}
