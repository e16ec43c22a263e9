package credential

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/access"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// patience bounds every wait of these tests; nothing is expected to take that long.
const patience = 30 * time.Second

// people makes people, roles and tokens, with the rights of the schema's owner.
type people struct {
	t  testing.TB
	db *sqlx.DB
}

func (p people) exec(query string, args ...any) {
	p.t.Helper()
	if _, err := p.db.ExecContext(context.Background(), query, args...); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
}

func (p people) id(query string, args ...any) string {
	p.t.Helper()
	var id string
	if err := p.db.GetContext(context.Background(), &id, query, args...); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	return id
}

// user adds a person with roles, each as ROLE or ROLE@PATTERN.
func (p people) user(email string, roles ...string) string {
	p.t.Helper()
	id := p.id(`insert into rgw.users (email, created_by) values ($1, 'test') returning id`, email)
	for _, role := range roles {
		p.bind("user_id", id, role)
	}
	return id
}

func (p people) bind(column, id, role string) {
	p.t.Helper()
	name, pattern, scoped := strings.Cut(role, "@")
	if !scoped {
		pattern = "*"
	}
	p.exec(`insert into rgw.bindings (`+column+`, role, app_pattern, created_by) values ($1, $2, $3, 'test')`, id, name, pattern)
}

// made is a token that was made.
type made struct {
	Token
	ID string
}

// token makes a token; for an API token, creator is whose rights bound it, "" for nobody's.
func (p people) token(kind Kind, owner, creator string, roles ...string) made {
	p.t.Helper()
	id := p.id(`insert into rgw.tokens (kind, name, owner_id, creator_id, expires_at, created_by)
		values ($1, 'a token', $2, nullif($3, '')::uuid, now() + interval '90 days', 'test') returning id`, string(kind), owner, creator)
	for _, role := range roles {
		p.bind("token_id", id, role)
	}
	return made{Token: p.secretOf(id, kind), ID: id}
}

// secretOf gives a token one more secret.
func (p people) secretOf(id string, kind Kind) Token {
	p.t.Helper()
	token, err := New(kind)
	if err != nil {
		p.t.Fatal(err)
	}
	hash := token.Hash()
	p.exec(`insert into rgw.token_secrets (hash, token_id, prefix, last_four) values ($1, $2, $3, $4)`,
		hash[:], id, token.Prefix(), token.LastFour())
	return token
}

// handFeed is a feed whose proof of life and announcements a test makes itself: no real one loses
// announcements, or grows old, when it is told to.
type handFeed struct {
	age    atomic.Int64
	handle func(string)
	reset  func()
}

func (f *handFeed) Subscribe(_ string, handle func(string)) { f.handle = handle }
func (f *handFeed) OnReset(reset func())                    { f.reset = reset }
func (f *handFeed) ProofAge() time.Duration                 { return time.Duration(f.age.Load()) }

// clock is a clock that a test moves.
type clock struct {
	mu      sync.Mutex
	forward time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.forward)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.forward += d
	c.mu.Unlock()
}

// deaf is a cache that hears only what the test tells it.
func deaf(t testing.TB, db *sqlx.DB, opts Options) (*Cache, *handFeed) {
	feed := &handFeed{}
	return NewCache(db, feed, opts), feed
}

// listening is a cache with a real feed, both running until the test ends.
func listening(t testing.TB, db *sqlx.DB, opts Options) *Cache {
	t.Helper()
	feed := postgres.NewFeed(db, []string{Channel}, postgres.FeedOptions{Now: opts.Now})
	c := NewCache(db, feed, opts)
	run(t, func(ctx context.Context) { _ = feed.Run(ctx) })
	run(t, func(ctx context.Context) { _ = c.Run(ctx) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := feed.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs f until the test ends, and waits for it.
func run(t testing.TB, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// settle waits until the cache has heard all that was announced so far.
func (p people) settle(c *Cache) {
	p.t.Helper()
	marker := subject{kind: roleSubject, name: "marker-" + rand.Text()}
	p.exec(`select pg_notify($1, $2)`, Channel, "role:"+marker.name)
	wait(p.t, "the announcement", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Contains(c.recent[:], marker)
	})
}

func resolve(t testing.TB, c *Cache, token Token) *Entry {
	t.Helper()
	e, err := c.Resolve(t.Context(), token)
	if err != nil {
		t.Fatalf("resolve: %v", err)
	}
	return e
}

// refused resolves a token that has to be refused for the cause.
func refused(t testing.TB, c *Cache, token Token, cause error) *RefusedError {
	t.Helper()
	_, err := c.Resolve(t.Context(), token)
	var r *RefusedError
	if !errors.As(err, &r) || !errors.Is(err, cause) {
		t.Fatalf("refused as %v, not as %v", err, cause)
	}
	return r
}

// wait waits until the condition holds.
func wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// attach attaches a socket, and returns where the reason of its end arrives.
func attach(t testing.TB, e *Entry) (ended chan string, detach func()) {
	t.Helper()
	ended = make(chan string, 2)
	detach, ok := e.Attach(func(reason string) { ended <- reason })
	if !ok {
		t.Fatal("the socket was not attached")
	}
	return ended, detach
}

func endOf(t testing.TB, ended chan string) string {
	t.Helper()
	select {
	case reason := <-ended:
		return reason
	case <-time.After(patience):
		t.Fatal("the socket was not ended")
		return ""
	}
}

func stays(t testing.TB, ended chan string) {
	t.Helper()
	select {
	case reason := <-ended:
		t.Fatalf("the socket was ended: %s", reason)
	default:
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// rights lists grants as ROLE@PATTERN:number of permissions.
func rights(grants []access.Grant) string {
	var list []string
	for i := range grants {
		n := 0
		for range grants[i].Permissions.All() {
			n++
		}
		list = append(list, fmt.Sprintf("%s@%s:%d", grants[i].Role, grants[i].App, n))
	}
	return strings.Join(list, " ")
}

func size(t testing.TB, role string) int {
	for _, r := range access.BuiltinRoles() {
		if r.Name == role {
			n := 0
			for range r.Permissions.All() {
				n++
			}
			return n
		}
	}
	t.Fatalf("no role %s", role)
	return 0
}

func TestATokenStandsForWhomItShould(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	p.exec(`insert into rgw.roles (name, permissions, created_by) values ('auditor', '{convox:app:list,convox:nothing:real,convox:log:read}', 'test')`)
	ana := p.user("ana@acme.com", "deployer@web-*", "viewer", "auditor")
	boss := p.user("boss@acme.com", "admin", "cicd")
	locked := p.user("locked@acme.com", "admin")
	p.exec(`update rgw.users set locked_at = now() where id = $1`, locked)
	c, _ := deaf(t, database.Proxy(t), Options{})

	viewer, deployer, admin, cicd := size(t, "viewer"), size(t, "deployer"), size(t, "admin"), size(t, "cicd")
	byName := p.token(API, ana, ana)
	p.exec(`update rgw.tokens set permissions = '{convox:app:list,convox:app:read}', source_cidrs = '{10.0.0.0/8,fd00::/8}', headless = true where id = $1`, byName.ID)
	nothing := p.token(API, ana, ana, "admin")
	p.exec(`update rgw.tokens set permissions = '{}' where id = $1`, nothing.ID)

	for _, test := range []struct {
		what    string
		token   made
		kind    access.PrincipalKind
		grants  string
		ceiling string
	}{
		{"a person's has the person's", p.token(CLI, ana, ""), access.KindUser,
			fmt.Sprintf("auditor@*:2 deployer@web-*:%d viewer@*:%d", deployer, viewer), "none"},
		{"a person never has a role for tokens", p.token(CLI, boss, ""), access.KindUser, fmt.Sprintf("admin@*:%d", admin), "none"},
		{"a pipeline's has its own, within its creator's", p.token(API, ana, boss, "cicd@web"), access.KindAPIToken,
			fmt.Sprintf("cicd@web:%d", cicd), fmt.Sprintf("admin@*:%d", admin)},
		{"a pipeline's made on the command line is bound by nobody", p.token(API, ana, "", "admin"), access.KindAPIToken,
			fmt.Sprintf("admin@*:%d", admin), "none"},
		{"a pipeline's creator who is locked has nothing to pass on", p.token(API, ana, locked, "admin"), access.KindAPIToken,
			fmt.Sprintf("admin@*:%d", admin), ""},
		{"a pipeline's may name permissions", byName, access.KindAPIToken, "@*:2",
			fmt.Sprintf("auditor@*:2 deployer@web-*:%d viewer@*:%d", deployer, viewer)},
		{"a pipeline's may name none", nothing, access.KindAPIToken, "@*:0",
			fmt.Sprintf("auditor@*:2 deployer@web-*:%d viewer@*:%d", deployer, viewer)},
	} {
		e := resolve(t, c, test.token.Token)
		ceiling := "none"
		if e.Principal.Ceiling != nil {
			ceiling = rights(e.Principal.Ceiling)
		}
		if got := e.Principal; got.Kind != test.kind || rights(got.Grants) != test.grants || ceiling != test.ceiling || got.TokenID != test.token.ID {
			t.Errorf("%s: kind %d, grants %s, ceiling %s", test.what, got.Kind, rights(got.Grants), ceiling)
		}
	}
	got := resolve(t, c, byName.Token).Principal
	if got.UserID != ana || got.UserLabel != "ana@acme.com" || got.TokenName != "a token" || got.TokenKind != "api" || !got.Headless ||
		fmt.Sprint(got.SourceCIDRs) != "[10.0.0.0/8 fd00::/8]" || time.Until(got.ExpiresAt) < 89*24*time.Hour {
		t.Errorf("the principal is %+v", got)
	}
	for _, grant := range resolve(t, c, p.token(API, ana, boss, "cicd").Token).Principal.Grants {
		if !grant.OwnProcessesOnly {
			t.Error("a pipeline's role lost its limit to its own processes")
		}
	}
}

func TestATokenThatIsNoGoodIsRefusedWithItsReason(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	hand := &clock{}
	c, _ := deaf(t, database.Proxy(t), Options{Now: hand.now})
	unknown, err := New(API)
	if err != nil {
		t.Fatal(err)
	}
	if r := refused(t, c, unknown, ErrUnknown); r.Principal != nil || r.Code != "token-unknown" {
		t.Errorf("an unknown token is refused as %+v", r)
	}

	number := 0
	token := func(change string) made {
		number++
		owner := p.user(fmt.Sprintf("p%d%%s@acme.com", number), "admin")
		token := p.token(CLI, owner, "")
		p.exec(`update rgw.tokens set name = 'my 100% laptop' where id = $1`, token.ID)
		if change != "" {
			p.exec(change, token.ID)
		}
		return token
	}
	old := token("")
	renewed := p.secretOf(old.ID, CLI)
	oldHash := old.Hash()
	p.exec(`update rgw.token_secrets set valid_until = now() + interval '1 hour' where hash = $1`, oldHash[:])
	used := token(`update rgw.tokens set idle_limit = interval '30 days' where id = $1`)
	idle := token(`update rgw.tokens set idle_limit = interval '30 days' where id = $1`)
	live, away := token(""), token("")
	for _, good := range []Token{old.Token, renewed, used.Token, idle.Token, live.Token, away.Token} {
		resolve(t, c, good)
	}

	cases := []struct {
		what  string
		token made
		cause error
		code  string
	}{
		{"revoked", token(`update rgw.tokens set revoked_at = now() where id = $1`), ErrRevoked, "token-revoked"},
		{"locked", token(`update rgw.users set locked_at = now() where id = (select owner_id from rgw.tokens where id = $1)`), ErrLocked, "owner-locked"},
		{"removed", token(`update rgw.users set removed_at = now() where id = (select owner_id from rgw.tokens where id = $1)`), ErrOwnerGone, "owner-removed"},
		{"expired", token(`update rgw.tokens set expires_at = now() where id = $1`), ErrExpired, "token-expired"},
		{"replaced", old, ErrReplaced, "token-replaced"},
		{"idle", idle, ErrIdle, "token-idle"},
		{"of somebody who did not sign in for long", away, ErrSignIn, "sign-in-due"},
	}
	hand.advance(31 * 24 * time.Hour)
	p.exec(`update rgw.users set signed_in_at = now() + interval '31 days' where id <> (select owner_id from rgw.tokens where id = $1)`, away.ID)
	p.exec(`select rgw.token_used($1, null)`, used.ID)
	p.exec(`update rgw.token_uses set used_at = used_at + interval '31 days'`) // another proxy saw it
	for _, test := range cases {
		for range 2 { // read, and from memory
			r := refused(t, c, test.token.Token, test.cause)
			if r.Code != test.code || r.Principal == nil || r.Principal.TokenID != test.token.ID || r.Principal.Grants != nil || r.Message == "" {
				t.Errorf("%s: refused as %+v", test.what, r)
			}
			if strings.Contains(r.Message, "%") || strings.Contains(r.Message, "!(") {
				t.Errorf("%s: the message %q would be taken for a format", test.what, r.Message)
			}
		}
	}
	for _, good := range []Token{renewed, used.Token, live.Token} {
		resolve(t, c, good)
	}
	hand.advance(60 * 24 * time.Hour)
	refused(t, c, live.Token, ErrExpired)
}

func TestAKnownTokenNeedsNoDatabase(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	db := database.Proxy(t)
	c, _ := deaf(t, db, Options{})
	if c.Cached(token.Token) {
		t.Error("a token is known before it was used")
	}
	first := resolve(t, c, token.Token)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if resolve(t, c, token.Token) != first {
			t.Fatal("another entry came from memory")
		}
	}
	if stats := c.Stats(); stats.Loads != 1 || stats.Hits != 100 || stats.Entries != 1 || !c.Cached(token.Token) || !first.Current() {
		t.Errorf("stats are %+v", stats)
	}
}

func TestManyWhoWantTheSameTokenAskOnce(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	c, _ := deaf(t, database.Proxy(t), Options{})
	if err := c.currentSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range maxQueries { // nobody gets to ask before all wait
		c.queries <- struct{}{}
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := c.Resolve(t.Context(), token.Token); err != nil {
				t.Error(err)
			}
		})
	}
	wait(t, "all waiting", func() bool { return waiting(&c.lookups) == 50 })
	<-c.queries
	all.Wait()
	if loads := c.Stats().Loads; loads != 1 {
		t.Errorf("%d queries for one token", loads)
	}
}

// waiting counts who waits for an attempt.
func waiting[K comparable, V any](g *flights[K, V]) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, f := range g.running {
		n += f.waiters
	}
	return n
}

// Each change concerns the socket of "subject" and not that of "bystander".
var changes = []struct{ what, sql string }{
	{"lock", `update rgw.users set locked_at = now() where id = $1`},
	{"removal", `update rgw.users set removed_at = now() where id = $1`},
	{"rename", `update rgw.users set email = 'other' || email where id = $1`},
	{"new binding", `insert into rgw.bindings (user_id, role, created_by) values ($1, 'ops', 'test')`},
	{"narrower binding", `update rgw.bindings set app_pattern = 'web' where user_id = $1`},
	{"binding given to somebody else", `update rgw.bindings set user_id = (select id from rgw.users where email = 'spare@acme.com') where user_id = $1`},
	{"binding taken", `delete from rgw.bindings where user_id = $1`},
	{"revocation", `update rgw.tokens set revoked_at = now() where owner_id = $1`},
	{"earlier expiry", `update rgw.tokens set expires_at = now() + interval '1 minute' where owner_id = $1`},
	{"networks", `update rgw.tokens set source_cidrs = '{10.0.0.0/8}' where owner_id = $1`},
	{"rotation", `update rgw.token_secrets set valid_until = now() + interval '1 hour' where token_id = (select id from rgw.tokens where owner_id = $1)`},
	{"loss of the secret", `delete from rgw.token_secrets where token_id = (select id from rgw.tokens where owner_id = $1)`},
	{"role", `update rgw.roles set permissions = '{convox:app:list}' where name = (select role from rgw.bindings where user_id = $1)`},
}

func TestEveryChangeEndsWhatItConcerns(t *testing.T) {
	database := postgrestest.New(t)
	owner := database.Owner(t)
	people{t, owner}.user("spare@acme.com")
	bystander := people{t, owner}.token(CLI, people{t, owner}.user("bob@acme.com", "viewer"), "")
	c := listening(t, database.Proxy(t), Options{})
	for i, change := range changes {
		t.Run(change.what, func(t *testing.T) {
			p := people{t, owner}
			role := fmt.Sprintf("custom-%d", i)
			p.exec(`insert into rgw.roles (name, permissions, created_by) values ($1, '{convox:app:list,convox:app:read}', 'test')`, role)
			subject := p.user(fmt.Sprintf("ana%d@acme.com", i), role)
			token := p.token(CLI, subject, "")
			p.settle(c)

			e, other := resolve(t, c, token.Token), resolve(t, c, bystander.Token)
			ended, detach := attach(t, e)
			defer detach()
			otherEnded, otherDetach := attach(t, other)
			defer otherDetach()
			p.exec(change.sql, subject)

			if reason := endOf(t, ended); !strings.Contains(reason, "access was changed") || strings.Contains(reason, "%") {
				t.Errorf("the reason is %q", reason)
			}
			if e.Current() {
				t.Error("the entry passes for current")
			}
			if _, ok := e.Attach(func(string) {}); ok {
				t.Error("a socket was attached to an entry that is void")
			}
			stays(t, otherEnded)
			if !other.Current() || resolve(t, c, bystander.Token) != other {
				t.Error("somebody whom it does not concern lost the entry")
			}
			if len(ended) != 0 {
				t.Error("the socket was ended twice")
			}
			if again, err := c.Resolve(t.Context(), token.Token); err == nil && again.fingerprint == e.fingerprint {
				t.Error("the token has the same rights as before")
			}
			if _, ok := e.Attach(func(string) {}); ok {
				t.Error("a socket was attached to the old rights beside the new ones")
			}
		})
	}
}

func TestAChangeOfTheCreatorShrinksTheToken(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	boss := p.user("boss@acme.com", "admin")
	token := p.token(API, p.user("ana@acme.com", "viewer"), boss, "deployer")
	c := listening(t, database.Proxy(t), Options{})
	p.settle(c)
	e := resolve(t, c, token.Token)
	if !access.AllApps(e.Principal, access.PermAppUpdate) {
		t.Fatal("the token lacks what its role gives")
	}
	ended, detach := attach(t, e)
	defer detach()
	p.exec(`update rgw.bindings set role = 'viewer' where user_id = $1`, boss)
	endOf(t, ended)
	now := resolve(t, c, token.Token).Principal
	if access.AllApps(now, access.PermAppUpdate) || !access.AllApps(now, access.PermAppList) {
		t.Errorf("with a viewer for its creator it has %s within %s", rights(now.Grants), rights(now.Ceiling))
	}
}

func TestASocketThatDetachedIsNotEnded(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	token := p.token(CLI, ana, "")
	c, feed := deaf(t, database.Proxy(t), Options{})
	e := resolve(t, c, token.Token)
	gone, detach := attach(t, e)
	open, detachOpen := attach(t, e)
	defer detachOpen()
	detach()
	detach()
	if sockets := c.Stats().Sockets; sockets != 1 {
		t.Errorf("%d sockets are attached, not 1", sockets)
	}
	feed.handle("user:" + ana)
	endOf(t, open)
	stays(t, gone)
	detach() // after the end, as handlers do on their way out
	if stats := c.Stats(); stats.Sockets != 0 || stats.Entries != 0 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestASettingIsHeard(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	feed := postgres.NewFeed(database.Proxy(t), []string{Channel}, postgres.FeedOptions{})
	c := NewCache(database.Proxy(t), feed, Options{})
	heard := make(chan access.Settings, 10)
	c.OnSettings(func(s access.Settings) { heard <- s })
	run(t, func(ctx context.Context) { _ = feed.Run(ctx) })
	run(t, func(ctx context.Context) { _ = c.Run(ctx) })
	e := resolve(t, c, token.Token)
	if first := <-heard; first != access.DefaultSettings() || c.Settings() != first {
		t.Fatalf("the first settings are %+v", first)
	}
	p.exec(`insert into rgw.settings (key, value, updated_by) values ('allow_destructive', 'true', 'test'), ('no_such_thing', '1', 'test'), ('session_idle_minutes', '"soon"', 'test')`)
	p.exec(`insert into rgw.settings (key, app, value, updated_by) values ('in_flight_per_principal', 'web', '3', 'test')`)
	want := access.DefaultSettings()
	want.AllowDestructive = true
	for s := range heard {
		if s == want {
			break
		}
	}
	if c.Settings() != want {
		t.Errorf("the settings are %+v", c.Settings())
	}
	p.exec(`delete from rgw.settings`)
	for s := range heard {
		if s == access.DefaultSettings() {
			break
		}
	}
	wait(t, "the entry's confirmation", func() bool { return e.Confirm(t.Context()) == nil })
}

// An announcement that arrives while a query is under way may be about what the query has read already.
func TestALoadThatRacesWithAnAnnouncementIsNotKept(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	token := p.token(CLI, ana, "")
	hash := token.Hash()
	for what, during := range map[string]struct {
		happens func(c *Cache, f *handFeed)
		keep    bool
	}{
		"nothing":                    {func(*Cache, *handFeed) {}, true},
		"a change of the person":     {func(_ *Cache, f *handFeed) { f.handle("user:" + ana) }, false},
		"a change of the token":      {func(_ *Cache, f *handFeed) { f.handle("token:" + token.ID) }, false},
		"a change of the role":       {func(_ *Cache, f *handFeed) { f.handle("role:viewer") }, false},
		"a reset":                    {func(_ *Cache, f *handFeed) { f.reset() }, false},
		"a change of all":            {func(_ *Cache, f *handFeed) { f.handle("all") }, false},
		"something from the future":  {func(_ *Cache, f *handFeed) { f.handle("gadget:7") }, false},
		"an unreadable announcement": {func(_ *Cache, f *handFeed) { f.handle("user:nobody") }, false},
		"a change of somebody else":  {func(_ *Cache, f *handFeed) { f.handle("user:00000000-0000-0000-0000-000000000001") }, true},
		"a change of another role":   {func(_ *Cache, f *handFeed) { f.handle("role:ops") }, true},
		"a change of a setting":      {func(_ *Cache, f *handFeed) { f.handle("setting:join_as_viewer") }, true},
		"more changes than are known": {func(_ *Cache, f *handFeed) {
			for range recentSize + 1 {
				f.handle("role:ops")
			}
		}, false},
	} {
		c, feed := deaf(t, database.Proxy(t), Options{})
		began := c.moment()
		r, err := c.find(t.Context(), hash, CLI)
		if err != nil {
			t.Fatal(err)
		}
		e, err := c.entry(hash, CLI, r, began.at)
		if err != nil {
			t.Fatal(err)
		}
		during.happens(c, feed)
		if kept := c.keep(e, began); (kept != nil) != during.keep || c.Cached(token.Token) != during.keep {
			t.Errorf("%s: kept is %t", what, kept != nil)
		}
	}
}

func TestAResetReadsEverythingAgainAndKeepsSocketsOfTheSameRights(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana, bob := p.user("ana@acme.com", "viewer"), p.user("bob@acme.com", "viewer")
	same, changed, vanished := p.token(CLI, ana, ""), p.token(CLI, bob, ""), p.token(CLI, ana, "")
	c, feed := deaf(t, database.Proxy(t), Options{})
	run(t, func(ctx context.Context) { _ = c.Run(ctx) })
	e, f, g := resolve(t, c, same.Token), resolve(t, c, changed.Token), resolve(t, c, vanished.Token)
	keeps, detach := attach(t, e)
	defer detach()
	ends, detachEnds := attach(t, f)
	defer detachEnds()
	endsToo, detachEndsToo := attach(t, g)
	defer detachEndsToo()

	// The announcements of these are lost.
	p.exec(`update rgw.bindings set role = 'ops' where user_id = $1`, bob)
	p.exec(`delete from rgw.tokens where id = $1`, vanished.ID)
	p.exec(`insert into rgw.settings (key, value, updated_by) values ('allow_destructive', 'true', 'test')`)
	feed.reset()
	wait(t, "the settings", func() bool { return c.Settings().AllowDestructive })
	endOf(t, ends)
	endOf(t, endsToo)
	wait(t, "the check of the other socket", e.Current)
	stays(t, keeps)
	loads := c.Stats().Loads
	if resolve(t, c, same.Token) != e || c.Stats().Loads != loads {
		t.Error("an entry that was read again is not served from memory")
	}
	if f.Current() || g.Current() || errors.Is(f.Confirm(t.Context()), nil) {
		t.Error("an entry of other rights passes for current")
	}
	refused(t, c, vanished.Token, ErrUnknown)
	feed.handle("user:" + ana)
	endOf(t, keeps)
}

func TestConfirmTellsAChangeFromALossOfMemory(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	token := p.token(CLI, ana, "")
	c, feed := deaf(t, database.Proxy(t), Options{})
	e := resolve(t, c, token.Token)
	feed.reset()
	if e.Current() {
		t.Error("an entry from before the reset passes for current")
	}
	if err := e.Confirm(t.Context()); err != nil || !e.Current() {
		t.Errorf("the same rights are not confirmed: %v", err)
	}
	feed.handle("user:" + ana) // of something that is not part of any right
	if e.Current() {
		t.Error("an entry passes for current after an announcement")
	}
	if err := e.Confirm(t.Context()); err != nil {
		t.Errorf("the same rights are not confirmed: %v", err)
	}
	if _, ok := e.Attach(func(string) {}); !ok {
		t.Error("a socket cannot be attached with rights that were confirmed")
	}
	p.exec(`insert into rgw.bindings (user_id, role, created_by) values ($1, 'ops', 'test')`, ana)
	feed.handle("user:" + ana)
	var r *RefusedError
	if err := e.Confirm(t.Context()); !errors.As(err, &r) || r.Code != "access-changed" || r.Principal != e.Principal {
		t.Errorf("other rights are confirmed with %v", err)
	}
	p.exec(`update rgw.tokens set revoked_at = now()`)
	feed.handle("token:" + token.ID)
	if err := e.Confirm(t.Context()); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked token is confirmed with %v", err)
	}
}

func TestWithoutProofEverythingIsReadAgain(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	token := p.token(CLI, ana, "")
	hand := &clock{}
	db := database.Proxy(t)
	c, feed := deaf(t, db, Options{Now: hand.now, MaxStaleness: 10 * time.Second})
	resolve(t, c, token.Token)
	feed.age.Store(int64(10 * time.Second))
	resolve(t, c, token.Token)
	if loads := c.Stats().Loads; loads != 1 {
		t.Fatalf("%d queries while proof is young enough", loads)
	}
	feed.age.Store(math.MaxInt64)
	e := resolve(t, c, token.Token)
	resolve(t, c, token.Token)
	if loads := c.Stats().Loads; loads != 3 {
		t.Errorf("%d queries, not one for each request", loads)
	}
	if !e.Current() {
		t.Error("what was read a moment ago is not current")
	}
	hand.advance(11 * time.Second)
	if e.Current() {
		t.Error("what was read long ago is current without proof")
	}
	p.exec(`insert into rgw.settings (key, value, updated_by) values ('allow_destructive', 'true', 'test')`)
	p.exec(`update rgw.tokens set revoked_at = now()`)
	refused(t, c, token.Token, ErrRevoked)
	if !c.Settings().AllowDestructive {
		t.Error("settings were not read again")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), token.Token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without proof or database a token is answered with %v", err)
	}
}

func TestSocketsEndWhenNobodyCanCheckThem(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	for what, happens := range map[string]func(f *handFeed){
		"no proof": func(f *handFeed) { f.age.Store(int64(20 * time.Second)) },
		"a reset":  func(f *handFeed) { f.reset() },
	} {
		hand := &clock{}
		db := database.Proxy(t)
		c, feed := deaf(t, db, Options{Now: hand.now, MaxStaleness: 10 * time.Second, SocketGrace: time.Minute})
		hand.advance(time.Hour)
		ended, detach := attach(t, resolve(t, c, token.Token))
		defer detach()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		happens(feed)
		sweep := func() {
			var background sync.WaitGroup
			c.sweep(t.Context(), &background)
			background.Wait()
		}
		sweep()
		for range 2 {
			hand.advance(19 * time.Second)
			if feed.age.Load() > 0 {
				feed.age.Add(int64(19 * time.Second))
			}
			sweep()
		}
		stays(t, ended)
		hand.advance(23 * time.Second)
		if feed.age.Load() > 0 {
			feed.age.Add(int64(23 * time.Second))
		}
		sweep()
		if reason := endOf(t, ended); reason != endUnsure {
			t.Errorf("%s: ended with %q", what, reason)
		}
	}
}

// The grace is counted anew each time, not from the first trouble that a session has seen.
func TestTroubleThatPassedIsForgotten(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	hand := &clock{}
	db := database.Proxy(t)
	c, feed := deaf(t, db, Options{Now: hand.now, SocketGrace: time.Minute})
	e := resolve(t, c, token.Token)
	ended, detach := attach(t, e)
	defer detach()
	sweep := func() {
		var background sync.WaitGroup
		c.sweep(t.Context(), &background)
		background.Wait()
	}
	feed.reset()
	sweep()
	if !e.Current() {
		t.Fatal("the session was not checked")
	}
	hand.advance(time.Hour)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	feed.reset()
	sweep()
	stays(t, ended)
	hand.advance(61 * time.Second)
	sweep()
	endOf(t, ended)
}

func TestWithoutProofSocketsAreCheckedAtTheDatabase(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	hand := &clock{}
	c, feed := deaf(t, database.Proxy(t), Options{Now: hand.now, MaxStaleness: 10 * time.Second, SocketGrace: time.Minute})
	ended, detach := attach(t, resolve(t, c, token.Token))
	defer detach()
	hand.advance(15 * time.Second)
	feed.age.Store(int64(15 * time.Second))
	sweep := func() {
		var background sync.WaitGroup
		c.sweep(t.Context(), &background)
		background.Wait()
	}
	sweep()
	stays(t, ended)
	p.exec(`update rgw.tokens set revoked_at = now()`)
	sweep() // read a moment ago: too soon
	stays(t, ended)
	hand.advance(11 * time.Second)
	feed.age.Add(int64(11 * time.Second))
	sweep()
	if reason := endOf(t, ended); reason != endChanged {
		t.Errorf("ended with %q", reason)
	}
}

func TestSocketsEndWithTheirToken(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	first, second := p.token(CLI, ana, ""), p.token(CLI, ana, "")
	hash := second.Hash()
	p.exec(`update rgw.token_secrets set valid_until = now() + interval '1 hour' where hash = $1`, hash[:])
	hand := &clock{}
	c, _ := deaf(t, database.Proxy(t), Options{Now: hand.now})
	run(t, func(ctx context.Context) { _ = c.Run(ctx) })
	later, detach := attach(t, resolve(t, c, first.Token))
	defer detach()
	e := resolve(t, c, second.Token)
	sooner, detachSooner := attach(t, e)
	defer detachSooner()
	hand.advance(time.Hour)
	if reason := endOf(t, sooner); reason != endExpired {
		t.Errorf("ended with %q", reason)
	}
	if e.Current() {
		t.Error("an entry passes for current after its end")
	}
	stays(t, later)
	hand.advance(90 * 24 * time.Hour)
	endOf(t, later)
}

func TestTheCacheIsBounded(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	hand := &clock{}
	c, feed := deaf(t, database.Proxy(t), Options{Now: hand.now, MaxEntries: 20})
	kept := p.token(CLI, ana, "")
	held := resolve(t, c, kept.Token)
	ended, detach := attach(t, held)
	defer detach()
	busy := p.token(CLI, ana, "")
	var tokens []Token
	for range 100 {
		token := p.token(CLI, ana, "").Token
		tokens = append(tokens, token)
		hand.advance(time.Second)
		resolve(t, c, token)
		resolve(t, c, busy.Token)
		if entries := c.Stats().Entries; entries > 20 {
			t.Fatalf("%d entries", entries)
		}
	}
	if !c.Cached(kept.Token) {
		t.Error("a token with an open socket was forgotten")
	}
	if loads := c.Stats().Loads; loads != 102 {
		t.Errorf("%d queries for 102 tokens: the one in use was forgotten", loads)
	}
	n := 0
	for i := range c.shards {
		n += len(c.shards[i].entries)
	}
	links := len(c.index.entries(subject{kind: roleSubject, name: "viewer"}))
	if n != c.Stats().Entries || links != n {
		t.Errorf("%d entries, %d counted, %d indexed", n, c.Stats().Entries, links)
	}
	feed.handle("role:viewer")
	endOf(t, ended)
	if stats := c.Stats(); stats.Entries != 0 || len(c.index) != 0 {
		t.Errorf("after a change that concerns all there are %d entries and %d lists", stats.Entries, len(c.index))
	}
	for _, token := range tokens {
		resolve(t, c, token)
	}
}

func TestARequestThatWasEvictedIsConfirmed(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	c, _ := deaf(t, database.Proxy(t), Options{MaxEntries: 1})
	first := p.token(CLI, ana, "")
	e := resolve(t, c, first.Token)
	resolve(t, c, p.token(CLI, ana, "").Token)
	if e.Current() {
		t.Fatal("the entry was not evicted")
	}
	if err := e.Confirm(t.Context()); err != nil {
		t.Error(err)
	}
}

// The cost of a miss may not grow with the number of people and tokens: no table of them may be scanned.
func TestALookUpScansNothing(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	p.exec(`insert into rgw.users (email, created_by) select 'p' || n || '@acme.com', 'test' from generate_series(1, 3000) n`)
	p.exec(`insert into rgw.tokens (kind, name, owner_id, creator_id, expires_at, created_by)
		select case when n % 2 = 0 then 'api' else 'cli' end, 'n', u.id, case when n % 2 = 0 then u.id end, now() + interval '1 day', 'test'
		from rgw.users u cross join generate_series(1, 4) n`)
	p.exec(`insert into rgw.token_secrets (hash, token_id, prefix, last_four) select sha256(id::text::bytea), id, 'x', 'y' from rgw.tokens`)
	p.exec(`insert into rgw.token_uses (token_id, used_at) select id, now() from rgw.tokens`)
	p.exec(`insert into rgw.bindings (user_id, role, created_by) select id, r, 'test' from rgw.users cross join unnest(array['viewer', 'ops']) r`)
	p.exec(`insert into rgw.bindings (token_id, role, created_by) select id, 'cicd', 'test' from rgw.tokens where kind = 'api'`)
	p.exec(`analyze rgw.users, rgw.tokens, rgw.token_secrets, rgw.token_uses, rgw.bindings, rgw.roles`)
	var plan string
	for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
		conn, err := p.db.Connx(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{
			"set plan_cache_mode = " + mode, "prepare find (bytea) as " + selectToken,
		} {
			if _, err := conn.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.GetContext(t.Context(), &plan, `explain (format json) execute find ('\x00')`); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.ExecContext(t.Context(), "deallocate find"); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		for _, node := range nodes(t, plan) {
			if node.Type == "Seq Scan" && node.Relation != "roles" { // there are five
				t.Errorf("with %s, %s is scanned", mode, node.Relation)
			}
		}
	}
}

type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Plans    []planNode `json:"Plans"`
}

func nodes(t *testing.T, plan string) []planNode {
	t.Helper()
	var top []struct{ Plan planNode }
	if err := json.Unmarshal([]byte(plan), &top); err != nil {
		t.Fatal(err)
	}
	var list []planNode
	var walk func(n planNode)
	walk = func(n planNode) {
		list = append(list, n)
		for _, m := range n.Plans {
			walk(m)
		}
	}
	walk(top[0].Plan)
	if len(list) < 5 {
		t.Fatalf("the plan has %d nodes only: %s", len(list), plan)
	}
	return list
}

func TestUsesAreWrittenOnceAMinute(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "viewer")
	first, second := p.token(CLI, ana, ""), p.token(CLI, ana, "")
	hand := &clock{}
	c, _ := deaf(t, database.Proxy(t), Options{Now: hand.now})
	use := func() {
		for range 10 {
			c.Used(first.ID, addr("198.51.100.7"))
			c.Used(second.ID, addr("::ffff:198.51.100.8"))
			c.Used("00000000-0000-0000-0000-000000000001", addr("198.51.100.9")) // somebody deleted it
			c.Used("nonsense", addr("198.51.100.9"))
		}
	}
	use()
	if !c.uses.begin() {
		t.Fatal("there is nothing to write")
	}
	if c.uses.begin() {
		t.Error("two would write at once")
	}
	c.writeUses(t.Context())
	use()
	if c.uses.begin() {
		t.Error("there is something to write again within the minute")
	}
	var got []string
	if err := p.db.SelectContext(t.Context(), &got, `select host(used_address) from rgw.token_uses where token_id = any($1) and used_at = date_trunc('minute', used_at) order by 1`,
		pq.Array([]string{first.ID, second.ID})); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[198.51.100.7 198.51.100.8]" {
		t.Errorf("written were %v", got)
	}
	hand.advance(time.Minute)
	use()
	if !c.uses.begin() {
		t.Error("there is nothing to write a minute later")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	c.writeUses(ended)
	if !c.uses.begin() {
		t.Error("what could not be written was lost")
	}
}

func TestProcessesRememberTheirStarter(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	ana := p.user("ana@acme.com", "ops")
	token := p.token(CLI, ana, "")
	db := database.Proxy(t)
	c, _ := deaf(t, db, Options{})
	if _, _, found, err := c.StartedBy(t.Context(), "web", "p1"); found || err != nil {
		t.Errorf("a process that nobody started: %t, %v", found, err)
	}
	if err := c.NoteStarted(t.Context(), "web", "p1", resolve(t, c, token.Token).Principal); err != nil {
		t.Fatal(err)
	}
	tokenID, ownerID, found, err := c.StartedBy(t.Context(), "web", "p1")
	if tokenID != token.ID || ownerID != ana || !found || err != nil {
		t.Errorf("started by %s of %s, %t, %v", tokenID, ownerID, found, err)
	}
	if _, _, found, _ := c.StartedBy(t.Context(), "other", "p1"); found {
		t.Error("a process of another app is taken for it")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := c.StartedBy(t.Context(), "web", "p1"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without database: %v", err)
	}
}

func TestAfterRunNothingIsLeft(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	token := p.token(CLI, p.user("ana@acme.com", "viewer"), "")
	c, feed := deaf(t, database.Proxy(t), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	ended, detach := attach(t, resolve(t, c, token.Token))
	defer detach()
	c.Used(token.ID, addr("198.51.100.7"))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	if reason := endOf(t, ended); reason != endClosing {
		t.Errorf("ended with %q", reason)
	}
	if n := p.id(`select count(*) from rgw.token_uses`); n != "1" {
		t.Error("the last use was not written")
	}
	feed.reset()
	if _, err := c.Resolve(t.Context(), token.Token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a closed cache answers %v", err)
	}
}

// Whatever happens in whatever order, in the end the cache says what the database says.
func TestInTheEndTheCacheAgreesWithTheDatabase(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	var users []string
	var tokens []made
	for i := range 8 {
		user := p.user(fmt.Sprintf("p%d@acme.com", i), "viewer")
		users = append(users, user)
		tokens = append(tokens, p.token(CLI, user, ""), p.token(API, users[0], user, "deployer"))
	}
	c := listening(t, database.Proxy(t), Options{MaxEntries: 12})
	changing := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			for n := i; ; n++ {
				select {
				case <-changing:
					return
				default:
				}
				e, err := c.Resolve(context.Background(), tokens[n%len(tokens)].Token)
				var r *RefusedError
				if err != nil && !errors.As(err, &r) {
					t.Error(err)
					return
				}
				if e != nil && n%3 == 0 {
					detach, _ := e.Attach(func(string) {})
					e.Current()
					detach()
				}
			}
		})
	}
	for i := range 300 {
		user, token := users[i%len(users)], tokens[(i*7)%len(tokens)].ID
		switch i % 6 {
		case 0:
			p.exec(`insert into rgw.bindings (user_id, role, created_by) values ($1, 'ops', 'test') on conflict do nothing`, user)
		case 1:
			p.exec(`delete from rgw.bindings where user_id = $1 and role = 'ops'`, users[(i*5)%len(users)])
		case 2:
			p.exec(`update rgw.users set locked_at = case when locked_at is null then now() end where id = $1`, user)
		case 3:
			p.exec(`update rgw.tokens set revoked_at = case when revoked_at is null then now() end where id = $1`, token)
		case 4:
			p.exec(`update rgw.tokens set expires_at = expires_at + interval '1 day' where id = $1`, token)
		case 5:
			if i%60 == 5 {
				c.reset()
			}
		}
	}
	close(changing)
	readers.Wait()
	p.exec(`insert into rgw.settings (key, value, updated_by) values ('session_idle_minutes', '77', 'test')`)
	wait(t, "the last announcement", func() bool { return c.Settings().SessionIdle == 77*time.Minute })

	fresh, _ := deaf(t, database.Proxy(t), Options{})
	for _, token := range tokens {
		var says [2]string
		for i, cache := range []*Cache{c, fresh} {
			e, err := cache.Resolve(t.Context(), token.Token)
			says[i] = fmt.Sprint(err)
			if err == nil {
				says[i] = fmt.Sprintf("%x", e.fingerprint)
			}
		}
		if says[0] != says[1] {
			t.Errorf("the cache says %s, the database %s", says[0], says[1])
		}
	}
}

func TestTheIndexFindsWhatItWasGiven(t *testing.T) {
	x := make(index)
	ids := make([]*Entry, 6)
	roles := []string{"a", "b", "c"}
	for i := range ids {
		ids[i] = &Entry{hash: sha256.Sum256([]byte{byte(i)})}
		for j := range roles {
			if (i+1)&(1<<j) != 0 {
				ids[i].subjects = append(ids[i].subjects, subject{kind: roleSubject, name: roles[j]})
			}
		}
		x.add(ids[i])
	}
	left := slices.Clone(ids)
	for _, n := range []int{3, 0, 5, 1, 4, 2} {
		for j, role := range roles {
			want := 0
			for i, e := range left {
				if e != nil && (i+1)&(1<<j) != 0 {
					want++
				}
			}
			if got := len(x.entries(subject{kind: roleSubject, name: role})); got != want {
				t.Errorf("before the removal of %d, %d entries have role %s, not %d", n, got, role, want)
			}
		}
		x.remove(ids[n])
		left[n] = nil
	}
	if len(x) != 0 {
		t.Errorf("%d lists are left", len(x))
	}
}
