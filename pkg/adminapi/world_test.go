package adminapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/access"
	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
	"rackgateway/pkg/signin"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// world is the API over a database of the test's own, with the rights of admin's role and no more.
type world struct {
	t        testing.TB
	api      *adminapi.API
	server   *httptest.Server
	db       *sqlx.DB // as the schema's owner, to look behind the scenes
	writer   *directory.Writer
	reader   *directory.Reader
	cache    *credential.Cache
	heard    chan string // what was announced on barrier
	sessions *signin.Sessions
	factors  *mfa.Service

	sequencer     *ledger.Sequencer // runs for those tests that start it
	follower      *ledger.Follower
	verifications int

	mu     sync.Mutex
	now    time.Duration // ahead of the system's clock
	tokens map[string]credential.Token
	ids    map[string]uuid.UUID // of tokens, by name
	people map[string]directory.User
}

// console is the command line: an actor whose own rights bound nothing.
var console = directory.Actor{Kind: audit.ActorSystem, ID: "command-line", Label: "command line (ops@host)"}

func newWorld(t testing.TB, change ...func(*adminapi.Config)) *world {
	t.Helper()
	database := postgrestest.New(t)
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(secret.NewText(strings.Repeat("s", 32)), secret.Text{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, db: database.Owner(t), heard: make(chan string, 1),
		tokens: make(map[string]credential.Token), ids: make(map[string]uuid.UUID), people: make(map[string]directory.User),
	}
	pool := database.Admin(t)
	feed := postgres.NewFeed(pool, []string{credential.Channel, barrier}, postgres.FeedOptions{})
	feed.Subscribe(barrier, func(mark string) { w.heard <- mark })
	w.cache = credential.NewCache(pool, feed, credential.Options{Now: w.clock, NoteSessions: true, SettingDefaults: withoutFactors()})
	events := audit.NewWriter(pool, audit.WriterOptions{Key: key})
	w.writer = directory.NewWriter(pool, key, directory.WriterOptions{Now: w.clock})
	w.reader = directory.NewReader(pool, directory.ReaderOptions{Now: w.clock})
	w.sessions = signin.NewSessions(w.writer, w.reader, keys)
	w.follower = ledger.NewFollower(pool, nil)
	w.sequencer = ledger.NewSequencer(ledger.SequencerConfig{
		DB: pool, MACKey: key, Keys: ledger.KeySource{Origin: "gateway.example.com/acme/staging", Box: keys.Box(ledger.SealPurpose)},
	})
	if w.factors, err = mfa.New(mfa.Config{
		Writer: w.writer, Reader: w.reader, Keys: &keys, Origin: &url.URL{Scheme: "https", Host: "gateway.example.com"}, Now: w.clock,
	}); err != nil {
		t.Fatal(err)
	}
	config := adminapi.Config{
		DB: pool, Reader: w.reader, Writer: w.writer, Credentials: w.cache, Audit: events,
		Sessions: w.sessions, Factors: w.factors, Answers: keys.Box("idempotency answer"), RackName: "acme/staging",
		Origin: &url.URL{Scheme: "https", Host: "gateway.example.com"}, ClientAddress: remote, Now: w.clock,
		Notices: notify.New(notify.Config{DB: pool, Key: key, Keys: keys, Follower: w.follower, Console: &url.URL{Scheme: "https", Host: "gateway.example.com"}, Now: w.clock}),
		Ledger:  &ledger.Book{DB: pool, Key: key, Follower: w.follower, State: w.sequencer.State, StartVerification: func() { w.verifications++ }},
	}
	for _, fn := range change {
		fn(&config)
	}
	if w.api, err = adminapi.New(config); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{feed.Run, w.cache.Run, w.api.Run} {
		running.Go(func() { _ = run(ctx) })
	}
	written := make(chan error, 1)
	go func() { written <- events.Run(context.Background()) }()
	w.server = httptest.NewServer(w.api)
	t.Cleanup(func() {
		w.server.Close()
		stop()
		running.Wait()
		if err := errors.Join(events.Close(context.Background()), <-written); err != nil {
			t.Errorf("the audit writer: %v", err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; { // a busy machine may take longer than the probe is patient
		err := feed.Probe(t.Context())
		if err == nil {
			return w
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// barrier is a channel of the test's own.
const barrier = "rgw_test_barrier"

// hear waits until every change made so far has been heard of: announcements arrive in the order of their commits.
func (w *world) hear() {
	w.t.Helper()
	mark := uuid.NewString()
	w.exec(`select pg_notify($1, $2)`, barrier, mark)
	for {
		select {
		case heard := <-w.heard:
			if heard == mark {
				return
			}
		case <-time.After(time.Minute):
			w.t.Fatal("announcements do not arrive")
		}
	}
}

// withoutFactors is what the environment sets: most tests are not about second factors.
func withoutFactors() []access.SettingValue {
	return []access.SettingValue{{Key: "mfa_required", Value: json.RawMessage("false")}}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.now)
}

func remote(r *http.Request) netip.Addr {
	return netip.MustParseAddrPort(r.RemoteAddr).Addr()
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func bindings(t testing.TB, texts ...string) []directory.Binding {
	t.Helper()
	var list []directory.Binding
	for _, text := range texts {
		list = append(list, must[directory.Binding](t)(directory.ParseBinding(text)))
	}
	return list
}

// person adds a person with roles, who has a CLI token by the same name.
func (w *world) person(name string, roles ...string) directory.User {
	w.t.Helper()
	users := must[[]directory.User](w.t)(w.writer.AddUsers(w.t.Context(), console, []directory.NewUser{{Email: name + "@example.com", Bindings: bindings(w.t, roles...)}}))
	w.people[name] = users[0]
	w.keep(name, directory.NewToken{Kind: credential.CLI, Name: name + "'s laptop", Owner: users[0].Email})
	return users[0]
}

// session signs a person in; the session is known as "NAME's session".
func (w *world) session(name string) {
	w.t.Helper()
	token := must[credential.Token](w.t)(credential.New(credential.Session))
	s := must[directory.Session](w.t)(w.writer.BeginSession(w.t.Context(), console, directory.NewSession{Email: name + "@example.com", Hash: token.Hash(), UserAgent: "browser"}))
	w.tokens[name+"'s session"], w.ids[name+"'s session"] = token, s.ID
}

// apiToken makes an API token that a person of that name has created, or the command line when the name is "".
func (w *world) apiToken(name, creator, owner string, roles ...string) {
	w.t.Helper()
	by := console
	if creator != "" {
		u := w.people[creator]
		by = directory.Actor{Kind: audit.ActorUser, ID: u.ID.String(), Label: u.Email, User: u.ID}
	}
	w.keepBy(by, name, directory.NewToken{Kind: credential.API, Name: name, Owner: owner + "@example.com", Bindings: bindings(w.t, roles...)})
}

func (w *world) keep(name string, want directory.NewToken) {
	w.t.Helper()
	w.keepBy(console, name, want)
}

func (w *world) keepBy(by directory.Actor, name string, want directory.NewToken) {
	w.t.Helper()
	token, secret, err := w.writer.CreateToken(w.t.Context(), by, want)
	if err != nil {
		w.t.Fatal(err)
	}
	w.tokens[name], w.ids[name] = secret, token.ID
}

// learn notes a token's text under a name.
func (w *world) learn(name, text string) {
	w.t.Helper()
	w.tokens[name] = must[credential.Token](w.t)(credential.Parse(text))
}

// exec runs SQL as the schema's owner.
func (w *world) exec(statement string, args ...any) {
	w.t.Helper()
	if _, err := w.db.ExecContext(w.t.Context(), statement, args...); err != nil {
		w.t.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) problem(t testing.TB) adminapi.Problem {
	t.Helper()
	var p adminapi.Problem
	if kind := a.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Fatalf("status %d with %s: %s", a.status, kind, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if p.Status != a.status || p.Code == "" || p.Detail == "" || p.RequestId == "" || p.RequestId != a.header.Get("Gateway-Request-Id") && a.header.Get("Idempotent-Replayed") == "" {
		t.Errorf("not a whole problem: %d %s", a.status, a.body)
	}
	return p
}

// request makes a request as somebody, or as nobody when who is empty.
func (w *world) request(who, method, path string, body any) *http.Request {
	w.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+"/api/v1"+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	w.authenticate(r, who)
	return r
}

func (w *world) authenticate(r *http.Request, who string) {
	w.t.Helper()
	if who == "" {
		return
	}
	token, ok := w.tokens[who]
	if !ok {
		w.t.Fatalf("nobody here is called %q", who)
	}
	if token.Kind() != credential.Session {
		r.Header.Set("Authorization", "Bearer "+token.Reveal())
		return
	}
	r.AddCookie(&http.Cookie{Name: signin.SessionCookie, Value: token.Reveal()})
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if r.Method != http.MethodGet {
		r.Header.Set("X-CSRF-Token", w.csrf(who))
	}
}

// csrf is the token that GET /me gives a session that is good.
func (w *world) csrf(who string) string { return w.sessions.CSRF(w.tokens[who]) }

func (w *world) send(r *http.Request) answer {
	w.t.Helper()
	resp, err := w.server.Client().Transport.RoundTrip(r)
	if err != nil {
		w.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		w.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func (w *world) do(who, method, path string, body any) answer {
	w.t.Helper()
	return w.send(w.request(who, method, path, body))
}

// want does it and holds the answer to a status and, of a problem, to a code.
func (w *world) want(status int, code, who, method, path string, body any) answer {
	w.t.Helper()
	got := w.do(who, method, path, body)
	if got.status != status || code != "" && got.problem(w.t).Code != code {
		w.t.Fatalf("%s %s as %q: %d %s, want %d %s", method, path, who, got.status, got.body, status, code)
	}
	return got
}

func read[T any](t testing.TB, a answer) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(a.body), &value); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return value
}

// event is one row of the record.
type event struct {
	Phase    string `db:"phase"`
	Decision string `db:"decision"`
	Actor    string `db:"actor_label"`
	Action   string `db:"action"`
	Resource string `db:"resource"`
	Request  string `db:"request_id"`
	Signed   bool   `db:"signed"`
	Detail   string `db:"detail"`
}

func (e event) String() string { return e.Phase + " " + e.Action + " " + e.Resource }

// events returns the record, oldest first, without heartbeats of writers.
func (w *world) events() []event {
	w.t.Helper()
	var list []event
	err := w.db.SelectContext(w.t.Context(), &list, `select phase, decision, actor_label, action, resource, request_id, mac is not null as signed, detail::text
		from rgw.audit_events where kind <> 'system' order by occurred_at, event_id`)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// since returns what fn leaves in the record.
func (w *world) since(fn func()) []event {
	w.t.Helper()
	before := len(w.events())
	fn()
	return w.events()[before:]
}

// state is everything that requests can change, but for the record and for uses.
func (w *world) state() string {
	w.t.Helper()
	var text string
	err := w.db.GetContext(w.t.Context(), &text, `select concat(
		(select json_agg(t order by id) from rgw.users t), (select json_agg(t order by name) from rgw.roles t),
		(select json_agg(t order by id) from rgw.tokens t), (select json_agg(t order by hash) from rgw.token_secrets t),
		(select json_agg(t order by id) from rgw.bindings t), (select json_agg(t order by key, app) from rgw.settings t),
		(select json_agg(t order by id) from rgw.sessions t))`)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}
