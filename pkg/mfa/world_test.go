package mfa_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/pquerna/otp/totp"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// world is a database of the test's own with people in it, and what knows their factors.
type world struct {
	t        testing.TB
	database *postgrestest.Database
	db       *sqlx.DB // as the schema's owner, to look behind the scenes
	key      audit.Key
	keys     seal.Keys
	writer   *directory.Writer
	reader   *directory.Reader
	cache    *credential.Cache
	service  *mfa.Service

	mu    sync.Mutex
	ahead time.Duration // of the system's clock
}

var origin = &url.URL{Scheme: "https", Host: "gateway.example.com"}

// console is the command line: an actor whose own rights bound nothing.
var console = directory.Actor{Kind: audit.ActorSystem, ID: "command-line", Label: "command line (ops@host)"}

func newWorld(t testing.TB, change ...func(*mfa.Config)) *world {
	t.Helper()
	w := &world{t: t, database: postgrestest.New(t)}
	w.db = w.database.Owner(t)
	var err error
	if w.key, err = audit.NewKey([]byte(strings.Repeat("k", 32))); err != nil {
		t.Fatal(err)
	}
	if w.keys, err = seal.NewKeys(secret.NewText(strings.Repeat("s", 32)), secret.Text{}); err != nil {
		t.Fatal(err)
	}
	w.writer, w.reader, w.service, w.cache = w.another(change...)
	return w
}

// another is what one more process of admin would have.
func (w *world) another(change ...func(*mfa.Config)) (*directory.Writer, *directory.Reader, *mfa.Service, *credential.Cache) {
	w.t.Helper()
	pool := w.database.Admin(w.t)
	feed := postgres.NewFeed(pool, []string{credential.Channel}, postgres.FeedOptions{})
	cache := credential.NewCache(pool, feed, credential.Options{Now: w.now, NoteSessions: true})
	writer := directory.NewWriter(pool, w.key, directory.WriterOptions{Now: w.now, MaxWait: time.Minute})
	reader := directory.NewReader(pool, directory.ReaderOptions{Now: w.now})
	config := mfa.Config{Writer: writer, Reader: reader, Keys: &w.keys, Origin: origin, Issuer: "acme/staging", Now: w.now}
	for _, fn := range change {
		fn(&config)
	}
	service, err := mfa.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = feed.Run(ctx) })
	running.Go(func() { _ = cache.Run(ctx) })
	w.t.Cleanup(func() { stop(); running.Wait() })
	return writer, reader, service, cache
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

func (w *world) sleep(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

// somebody is a person with a CLI token, signed in by a browser.
type somebody struct {
	w       *world
	id      uuid.UUID
	email   string
	token   credential.Token
	tokenID uuid.UUID
	browser credential.Token
	session uuid.UUID
	by      directory.Actor

	totp  string // secret of the app
	party virtualwebauthn.RelyingParty
	auth  virtualwebauthn.Authenticator
	key   virtualwebauthn.Credential
}

func (w *world) person(name string, roles ...string) *somebody {
	w.t.Helper()
	var bindings []directory.Binding
	for _, text := range roles {
		b, err := directory.ParseBinding(text)
		if err != nil {
			w.t.Fatal(err)
		}
		bindings = append(bindings, b)
	}
	users, err := w.writer.AddUsers(w.t.Context(), console, []directory.NewUser{{Email: name + "@example.com", Bindings: bindings}})
	if err != nil {
		w.t.Fatal(err)
	}
	token, secret, err := w.writer.CreateToken(w.t.Context(), console, directory.NewToken{Kind: credential.CLI, Name: name + "'s laptop", Owner: users[0].Email})
	if err != nil {
		w.t.Fatal(err)
	}
	s := &somebody{w: w, id: users[0].ID, email: users[0].Email, token: secret, tokenID: token.ID}
	s.party = virtualwebauthn.RelyingParty{Name: "Rack Gateway", ID: origin.Host, Origin: origin.String()}
	s.auth = virtualwebauthn.NewAuthenticatorWithOptions(virtualwebauthn.AuthenticatorOptions{UserHandle: s.id[:]})
	// The library leaves out leading zeros of a point, which one key in 128 has; no authenticator does.
	const wholeKey = 77 // bytes of a COSE key with both coordinates in full
	for s.key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2); len(s.key.Key.AttestationData()) != wholeKey; {
		s.key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	}
	s.signIn([sha256.Size]byte{})
	return s
}

// signIn begins another browser session.
func (s *somebody) signIn(device [sha256.Size]byte) {
	s.w.t.Helper()
	token, err := credential.New(credential.Session)
	if err != nil {
		s.w.t.Fatal(err)
	}
	session, err := s.w.writer.BeginSession(s.w.t.Context(), console, directory.NewSession{Email: s.email, Hash: token.Hash(), UserAgent: "browser", Device: device})
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.browser, s.session = token, session.ID
	s.by = directory.Actor{Kind: audit.ActorUser, ID: s.id.String(), Label: s.email, User: s.id, Address: netip.MustParseAddr("192.0.2.7"), UserAgent: "browser"}
}

// addTOTP enrols an authenticator app, and returns the backup codes that came with it.
func (s *somebody) addTOTP() []string {
	s.w.t.Helper()
	e, err := s.w.service.BeginEnrolment(s.w.t.Context(), s.by, s.session, mfa.TOTP, "phone")
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.totp = e.Secret.Reveal()
	_, codes, err := s.w.service.FinishEnrolment(s.w.t.Context(), s.by, s.session, e.ID, mfa.Proof{Code: s.code(0)})
	if err != nil {
		s.w.t.Fatal(err)
	}
	return codes
}

// code is what the app shows, so many steps from now.
func (s *somebody) code(steps int) string {
	code, err := totp.GenerateCode(s.totp, s.w.now().Add(time.Duration(steps)*30*time.Second))
	if err != nil {
		s.w.t.Fatal(err)
	}
	return code
}

// addPasskey enrols a passkey.
func (s *somebody) addPasskey() {
	s.w.t.Helper()
	e, err := s.w.service.BeginEnrolment(s.w.t.Context(), s.by, s.session, mfa.Passkey, "laptop")
	if err != nil {
		s.w.t.Fatal(err)
	}
	options, err := virtualwebauthn.ParseAttestationOptions(string(e.PublicKey))
	if err != nil {
		s.w.t.Fatal(err)
	}
	answer := virtualwebauthn.CreateAttestationResponse(s.party, s.auth, s.key, *options)
	if _, _, err := s.w.service.FinishEnrolment(s.w.t.Context(), s.by, s.session, e.ID, mfa.Proof{Response: json.RawMessage(answer)}); err != nil {
		s.w.t.Fatal(err)
	}
}

// asked opens a challenge for the person's token.
func (s *somebody) asked(mode credential.StepUpMode, level access.Level, what string) credential.StepUp {
	s.w.t.Helper()
	operation, err := json.Marshal(credential.Operation{Action: "release.promote", Sentence: what})
	if err != nil {
		s.w.t.Fatal(err)
	}
	r := credential.StepUpRequest{
		TokenID: s.tokenID.String(), Request: uuid.New(), Mode: mode, Level: level, Binding: sha256.Sum256([]byte(what)),
		Operation: operation, Address: netip.MustParseAddr("198.51.100.3"),
	}
	if mode == credential.StepUpPage || mode == credential.StepUpSocket {
		r.Words = "amber falcon"
	}
	step, err := s.w.cache.OpenStepUp(s.w.t.Context(), r)
	if err != nil {
		s.w.t.Fatal(err)
	}
	// The database's clock is the system's.
	s.w.mu.Lock()
	ahead := s.w.ahead
	s.w.mu.Unlock()
	if _, err := s.w.db.ExecContext(s.w.t.Context(), `
with own as (select set_config('rgw.request_id', 'test', true))
update rgw.step_ups set opened_at = opened_at + $2 * interval '1 second', expires_at = expires_at + $2 * interval '1 second' from own where id = $1`,
		step.ID, ahead.Seconds()); err != nil {
		s.w.t.Fatal(err)
	}
	return step
}

// assertion begins one, and returns what the authenticator answers.
func (s *somebody) assertion(step uuid.UUID, change ...func(*somebody)) mfa.Proof {
	s.w.t.Helper()
	id, publicKey, err := s.w.service.BeginAssertion(s.w.t.Context(), s.by, s.session, step)
	if err != nil {
		s.w.t.Fatal(err)
	}
	other := *s
	for _, fn := range change {
		fn(&other)
	}
	options, err := virtualwebauthn.ParseAssertionOptions(string(publicKey))
	if err != nil {
		s.w.t.Fatal(err)
	}
	return mfa.Proof{Kind: mfa.Passkey, Ceremony: id, Response: json.RawMessage(virtualwebauthn.CreateAssertionResponse(other.party, other.auth, other.key, *options))}
}

func (s *somebody) approve(step uuid.UUID, proof mfa.Proof) (mfa.Approved, error) {
	return s.w.service.Approve(s.w.t.Context(), s.by, s.session, step, mfa.Approval{Proof: proof, Callback: true, KnownAddress: true})
}

// wants holds an error to its code.
func wants(t testing.TB, err error, code string) {
	t.Helper()
	if got := directory.CodeOf(err); got != code {
		t.Helper()
		t.Errorf("answered with %q (%v), want %q", got, err, code)
	}
}

// events are the actions recorded under a request, oldest first.
func (w *world) events(request uuid.UUID) []string {
	w.t.Helper()
	var got []string
	if err := w.db.SelectContext(w.t.Context(), &got, `
select action || ' ' || phase || ' ' || (detail ->> 'code') from rgw.audit_events where request_id = $1 and detail ->> 'code' is not null
union all select action || ' ' || phase from rgw.audit_events where request_id = $1 and detail ->> 'code' is null order by 1`, request); err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) requestOf(step uuid.UUID) uuid.UUID {
	w.t.Helper()
	var id uuid.UUID
	if err := w.db.GetContext(w.t.Context(), &id, `select request_id from rgw.step_ups where id = $1`, step); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// fresh reports whether the person's command line counts as having a factor, with a session.
func (s *somebody) factor(session string) access.Factor {
	s.w.t.Helper()
	entry, err := s.w.cache.Resolve(s.w.t.Context(), s.token)
	if err != nil {
		s.w.t.Fatal(err)
	}
	if entry, err = entry.Again(s.w.t.Context()); err != nil {
		s.w.t.Fatal(err)
	}
	return entry.Factor(access.DefaultSettings(), session)
}

func bindingOf(what string) [sha256.Size]byte { return sha256.Sum256([]byte(what)) }
