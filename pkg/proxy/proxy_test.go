package proxy_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/proxy"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/secret"
	"rackgateway/pkg/upstream"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

const rackPassword = "the-rack-password-that-nobody-may-see"

// A gateway is a proxy of its own over a database of its own, in front of a rack.
type gateway struct {
	t       testing.TB
	URL     *url.URL
	handler *proxy.Proxy
	owner   *sqlx.DB
	db      *sqlx.DB
	log     *syncBuffer
	people  int
}

type gatewayOption func(*proxy.Config)

// newGateway starts a gateway in front of a handler that plays the rack.
func newGateway(t testing.TB, rack http.Handler, options ...gatewayOption) *gateway {
	t.Helper()
	return newGatewayOn(t, postgrestest.New(t), rack, options...)
}

func newGatewayOn(t testing.TB, database *postgrestest.Database, rack http.Handler, options ...gatewayOption) *gateway {
	t.Helper()
	far := httptest.NewServer(rack)
	t.Cleanup(far.Close)
	origin, err := url.Parse(far.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := upstream.New(upstream.Config{Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, owner: database.Owner(t), db: database.Proxy(t), log: &syncBuffer{}}
	logger := slog.New(slog.NewTextHandler(g.log, nil))
	feed := postgres.NewFeed(g.db, []string{credential.Channel}, postgres.FeedOptions{Logger: logger})
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	writer := audit.NewWriter(g.db, audit.WriterOptions{Key: key, Logger: logger})
	credentials := credential.NewCache(g.db, feed, credential.Options{Logger: logger, SettingDefaults: []access.SettingValue{
		{Key: "mfa_required", Value: json.RawMessage("false")}, // most tests are not about second factors
	}})
	config := proxy.Config{
		RackURL: origin, RackUsername: "convox", RackToken: secret.NewText(rackPassword), Transport: transport,
		Organization: "acme", Alias: "staging",
		Credentials: credentials, Audit: writer, MaxWait: 10 * time.Second, Domain: "gw.example.com",
		Log: logger, Metrics: proxy.NewMetrics(prometheus.NewRegistry()), Now: time.Now,
	}
	for _, option := range options {
		option(&config)
	}
	if g.handler, err = proxy.New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = feed.Run(ctx) })
	running.Go(func() { _ = credentials.Run(ctx) })
	running.Go(func() { g.handler.Run(ctx) })
	written := make(chan struct{})
	go func() { _ = writer.Run(context.Background()); close(written) }()

	near := httptest.NewUnstartedServer(g.handler)
	near.Config = g.handler.NewServer(slog.NewLogLogger(slog.NewTextHandler(g.log, nil), slog.LevelDebug))
	near.Start()
	if g.URL, err = url.Parse(near.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.handler.StopBeingReady()
		_ = g.handler.EndSockets(context.Background())
		near.CloseClientConnections()
		near.Close()
		cancel()
		running.Wait()
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = writer.Close(closing)
		<-written
		transport.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", g.log)
		}
	})
	return g
}

type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A caller is a person or a pipeline with a token.
type caller struct {
	UserID, TokenID, Email string
	Token                  string
}

// person adds somebody with roles (role or role@pattern) and a CLI token.
func (g *gateway) person(roles ...string) caller {
	g.t.Helper()
	return g.newCaller("cli", roles)
}

// pipeline adds an API token with roles, owned by an admin.
func (g *gateway) pipeline(roles ...string) caller {
	g.t.Helper()
	return g.newCaller("api", roles)
}

func (g *gateway) newCaller(kind string, roles []string) caller {
	g.t.Helper()
	g.people++
	token, err := credential.New(credential.Kind(kind))
	if err != nil {
		g.t.Fatal(err)
	}
	c := caller{Email: fmt.Sprintf("person%d@acme.com", g.people), Token: token.Reveal()}
	err = postgres.InTx(context.Background(), g.owner, func(tx *sqlx.Tx) error {
		tx.MustExec(`select set_config('rgw.request_id', 'a test', true)`)
		if err := tx.Get(&c.UserID, `insert into rgw.users (email, created_by) values ($1, 'a test') returning id`, c.Email); err != nil {
			return err
		}
		if err := tx.Get(&c.TokenID, `insert into rgw.tokens (kind, name, owner_id, creator_id, expires_at, created_by)
			values ($1, $2, $3, $4, now() + interval '1 day', 'a test') returning id`,
			kind, fmt.Sprintf("%s %d", kind, g.people), c.UserID, nullUnless(kind == "api", c.UserID)); err != nil {
			return err
		}
		hash := token.Hash()
		tx.MustExec(`insert into rgw.token_secrets (hash, token_id, prefix, last_four) values ($1, $2, $3, $4)`,
			hash[:], c.TokenID, token.Prefix(), token.LastFour())
		for _, role := range roles {
			name, pattern, found := strings.Cut(role, "@")
			if !found {
				pattern = "*"
			}
			subject, id := "user_id", c.UserID
			if kind == "api" {
				subject, id = "token_id", c.TokenID
				tx.MustExec(`insert into rgw.bindings (user_id, role, created_by) values ($1, 'admin', 'a test') on conflict do nothing`, c.UserID)
			}
			tx.MustExec(`insert into rgw.bindings (`+subject+`, role, app_pattern, created_by) values ($1, $2, $3, 'a test')`, id, name, pattern)
		}
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func nullUnless(ok bool, s string) any {
	if ok {
		return s
	}
	return nil
}

// change does something to the database as its owner, as the gateway's own tools would.
func (g *gateway) change(query string, args ...any) {
	g.t.Helper()
	err := postgres.InTx(context.Background(), g.owner, func(tx *sqlx.Tx) error {
		tx.MustExec(`select set_config('rgw.request_id', 'a test', true)`)
		_, err := tx.Exec(query, args...)
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) role(name string, permissions ...string) {
	g.t.Helper()
	g.change(`insert into rgw.roles (name, permissions, created_by) values ($1, string_to_array($2, ','), 'a test')`, name, strings.Join(permissions, ","))
}

// events are the events of the log so far, oldest first, without the writer's own.
func (g *gateway) events() []audit.Event {
	g.t.Helper()
	events, _, err := audit.List(context.Background(), g.owner, audit.Filter{Limit: 500})
	if err != nil {
		g.t.Fatal(err)
	}
	var out []audit.Event
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Kind != audit.KindSystem {
			out = append(out, *events[i])
		}
	}
	return out
}

// story is the log in brief: "allow started app.create", one line an event.
func (g *gateway) story() string {
	g.t.Helper()
	var b strings.Builder
	for _, e := range g.events() {
		fmt.Fprintf(&b, "%s %s %s %d\n", e.Decision, e.Phase, e.Action, e.Status)
	}
	return b.String()
}

// An answer is what a client got.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// Error is the message that the CLI would show.
func (a answer) Error() string {
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(a.Body), &body) != nil || body.Error == "" {
		return a.Body
	}
	return body.Error
}

type requestOption func(*http.Request)

func withHeader(name string, values ...string) requestOption {
	return func(r *http.Request) { r.Header[name] = values }
}

func withBody(contentType, body string) requestOption {
	return func(r *http.Request) {
		r.Header.Set("Content-Type", contentType)
		r.Body = io.NopCloser(strings.NewReader(body))
		r.ContentLength = int64(len(body))
	}
}

func withForm(fields ...string) requestOption {
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Add(fields[i], fields[i+1])
	}
	return withBody("application/x-www-form-urlencoded", values.Encode())
}

// do sends a request whose target stands on the wire as it is given.
func (g *gateway) do(c caller, method, target string, options ...requestOption) answer {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.URL.String(), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	path, query, hasQuery := strings.Cut(target, "?")
	req.URL.Opaque = path
	req.URL.RawQuery, req.URL.ForceQuery = query, hasQuery
	if c.Token != "" {
		req.Header.Set("Authorization", basic("convox", c.Token))
	}
	for _, option := range options {
		option(req)
	}
	resp, err := directClient.Do(req)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatalf("%s %s: reading the answer: %v", method, target, err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

var directClient = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// raw sends bytes as they are and returns everything that comes back until the connection ends.
func (g *gateway) raw(text string) string {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.URL.Host)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		g.t.Fatal(err)
	}
	body, err := io.ReadAll(conn)
	if err != nil && len(body) == 0 {
		g.t.Fatalf("reading the answer: %v", err)
	}
	return string(body)
}

// A wire is one end of a socket, after its handshake.
type wire struct {
	net.Conn
	in *bufio.Reader
}

// dial opens a socket and sends more right behind the request, in the same write.
func (g *gateway) dial(c caller, target, more string, headers ...string) (*wire, *http.Response) {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.URL.Host)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	head := "GET " + target + " HTTP/1.1\r\nHost: " + g.URL.Host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://" + g.URL.Host + "\r\n" +
		"Authorization: " + basic("convox", c.Token) + "\r\n"
	for i := 0; i < len(headers); i += 2 {
		head += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"+more); err != nil {
		g.t.Fatal(err)
	}
	w := &wire{conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		g.t.Fatalf("reading the handshake: %v", err)
	}
	return w, resp
}

func newRack(t testing.TB) *racktest.Rack {
	t.Helper()
	rack := racktest.New(racktest.Options{Password: rackPassword, Apps: []string{"web", "worker"}, StartTime: -1, PromoteTime: -1, BuildTime: -1})
	t.Cleanup(rack.Close)
	return rack
}

// strangersToken is well formed, and nobody's.
func strangersToken(t *testing.T) string {
	t.Helper()
	token, err := credential.New(credential.CLI)
	if err != nil {
		t.Fatal(err)
	}
	return token.Reveal()
}

// asked is how often the rack was asked for somebody, the gateway's own questions apart.
func asked(r *racktest.Rack) (n int) {
	for _, request := range r.Requests() {
		if request.Header.Get("User-Agent") != "rack-gateway" {
			n++
		}
	}
	return n
}
