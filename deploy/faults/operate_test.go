package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
	schema "rackgateway/sql"
)

// What whoever runs a gateway does to it while people use it: restarts, new keys, a restore.

// deployment is two proxies and two admins, each pair behind a balancer, as in production.
type deployment struct {
	env             *testenv.Env
	rack, console   *balancer
	consoleURL      string
	changed, looked atomic.Int64
	mu              sync.Mutex
	troubles        []string
	people          map[string]bool // addresses that were answered as added
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	return deployOn(t, &suite)
}

// deployOn is deploy with the programs of a suite of its own.
func deployOn(t *testing.T, suite *testenv.Suite) *deployment {
	t.Helper()
	env := startOn(t, suite, testenv.Options{Proxies: 2, Config: map[string]string{"DRAIN_TIMEOUT": "8s", "ADMIN_CIDRS": "127.0.0.0/8,::1/128"}})
	d := &deployment{env: env, people: make(map[string]bool)}
	d.rack = newBalancer(t, env, &env.Proxies[0].Server, &env.Proxies[1].Server)
	d.console = newBalancer(t, env)
	_, port, _ := strings.Cut(d.console.address(), ":")
	d.consoleURL = "https://localhost:" + port
	for range 2 {
		admin := env.AddAdminWith(map[string]string{"ADMIN_URL": d.consoleURL, "PROXY_URL": "http://" + d.rack.address(), "DRAIN_TIMEOUT": "8s"})
		admin.WaitReady(t.Context())
		d.console.add(&admin.Server)
	}
	env.Provider.AllowRedirect(d.consoleURL + "/login/callback")
	d.ready(t)
	return d
}

// ready waits until both balancers see all of theirs.
func (d *deployment) ready(t *testing.T) {
	t.Helper()
	for _, b := range []*balancer{d.rack, d.console} {
		for _, one := range b.servers() {
			eventually(t, "the balancer saw "+one.server.Name, one.ready.Load)
		}
	}
}

// wrong notes a request that failed.
func (d *deployment) wrong(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.troubles = append(d.troubles, fmt.Sprintf(format, args...))
}

// use has people use the console, by sessions and by tokens, until the context ends.
func (d *deployment) use(ctx context.Context, t *testing.T, people *sync.WaitGroup) {
	t.Helper()
	for i := range 3 {
		client := &http.Client{Transport: d.env.Client().Transport.(*http.Transport).Clone()}
		people.Go(func() {
			defer client.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				paths := []string{"/api/v1/me", "/api/v1/users", "/api/v1/rack/apps"}
				d.token(t.Context(), client, http.MethodGet, paths[n%len(paths)], "", "")
				d.looked.Add(1)
				address := fmt.Sprintf("new-%d-%d@example.com", i, n)
				if d.token(t.Context(), client, http.MethodPost, "/api/v1/users", "key-of-"+address, fmt.Sprintf(`{"email":%q}`, address)) {
					d.changed.Add(1)
					d.mu.Lock()
					d.people[address] = true
					d.mu.Unlock()
				}
			}
		})
	}
	browser, err := testenv.NewBrowser(d.consoleURL, d.env.CA())
	must(t, err)
	eventually(t, "somebody could sign in", func() bool { _, err := browser.SignIn(t.Context(), "admin", "/console/"); return err == nil })
	people.Go(func() {
		defer browser.Close()
		for n := 0; ctx.Err() == nil; n++ {
			if got, err := browser.Do(t.Context(), http.MethodGet, "/api/v1/me", "", ""); err != nil || got.Status != http.StatusOK {
				d.wrong("a session: GET /me: %d %v %s", got.Status, err, got.Body)
			}
			body := fmt.Sprintf(`{"email":"session-%d@example.com"}`, n)
			// A page of the console would ask again when it got no answer; with the key, nothing is done twice.
			if got, err := browser.Do(t.Context(), http.MethodPost, "/api/v1/users", testenv.JSONType, body); err == nil && got.Status != http.StatusCreated {
				d.wrong("a session: POST /users: %d %s", got.Status, got.Body)
			}
		}
	})
}

// token sends a request with a token, and reports whether it succeeded.
func (d *deployment) token(ctx context.Context, client *http.Client, method, path, key, body string) bool {
	req, err := http.NewRequestWithContext(ctx, method, d.consoleURL+path, strings.NewReader(body))
	if err != nil {
		d.wrong("%v", err)
		return false
	}
	req.Header.Set("Authorization", "Bearer "+d.env.Token("admin"))
	if body != "" {
		req.Header.Set("Content-Type", testenv.JSONType)
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := client.Do(req)
	if err != nil {
		d.wrong("%s %s: %v", method, path, err)
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode > 299 {
		d.wrong("%s %s: %d", method, path, resp.StatusCode)
		return false
	}
	return true
}

// goesOn waits until more was seen and changed at the console.
func (d *deployment) goesOn(t *testing.T) {
	t.Helper()
	looked, changed := d.looked.Load(), d.changed.Load()
	eventually(t, "people went on at the console", func() bool { return d.looked.Load() > looked+5 && d.changed.Load() > changed+5 })
}

// roll restarts each process in turn, each when the one before is there again.
func (d *deployment) roll(t *testing.T, servers []*backend, config map[string]string) {
	t.Helper()
	for _, one := range servers {
		one.server.Configure(config)
		one.server.Restart()
		eventually(t, "the balancer saw "+one.server.Name+" again", one.ready.Load)
		d.goesOn(t)
	}
}

// end says what failed, and holds the record to what was answered.
func (d *deployment) end(t *testing.T, what string) {
	t.Helper()
	for i, trouble := range d.troubles {
		if i < 5 {
			t.Errorf("%s: %s", what, trouble)
		}
	}
	missing := 0
	for address := range d.people {
		if count(t, d.env, `select count(*) from rgw.audit_events where action = 'user.add' and resource = $1 and phase = 'finished'`, address) != 1 {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%s: %d of %d people who were added have not one event of it", what, missing, len(d.people))
	}
	t.Logf("%s: at the console %d looks and %d changes, %d failed; connections refused %d and %d", what, d.looked.Load(), d.changed.Load(), len(d.troubles), d.rack.refused.Load(), d.console.refused.Load())
}

func TestARollingRestartOfEverythingFailsNoRequest(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	books := newBooks(d.env)
	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{d.rack.address}, tokens: []string{d.env.Token("admin")}, fresh: true})
	ctx, home := context.WithCancel(t.Context())
	defer home()
	var people sync.WaitGroup
	d.use(ctx, t, &people)
	d.goesOn(t)
	d.roll(t, d.rack.servers(), nil)
	d.roll(t, d.console.servers(), nil)
	l.goesOn(t, 50)
	l.liftUnharmed(t, "a rolling restart of everything")
	home()
	people.Wait()
	d.end(t, "a rolling restart of everything")
	books.close(t, allowance{})
}

func newKey(t *testing.T) string {
	t.Helper()
	var b [32]byte
	_, err := rand.Read(b[:])
	must(t, err)
	return hex.EncodeToString(b[:])
}

// AUDIT_MAC_KEY is changed as docs/operations.md says: every admin learns the new one before anybody uses it.
func TestTheAuditKeyIsChangedWithoutAFailedRequest(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	books := newBooks(d.env)
	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{d.rack.address}, tokens: []string{d.env.Token("admin")}, fresh: true})
	ctx, home := context.WithCancel(t.Context())
	defer home()
	var people sync.WaitGroup
	d.use(ctx, t, &people)
	before, next := d.env.MACKey(), newKey(t)
	d.roll(t, d.console.servers(), map[string]string{"AUDIT_MAC_KEY": before, "AUDIT_MAC_KEY_PREVIOUS": next})
	d.roll(t, d.console.servers(), map[string]string{"AUDIT_MAC_KEY": next, "AUDIT_MAC_KEY_PREVIOUS": before})
	d.roll(t, d.rack.servers(), map[string]string{"AUDIT_MAC_KEY": next})
	l.goesOn(t, 50)
	l.liftUnharmed(t, "a change of AUDIT_MAC_KEY")
	home()
	people.Wait()
	d.end(t, "a change of AUDIT_MAC_KEY")
	for _, p := range d.env.Proxies {
		p.Stop()
	}
	keys := map[string]audit.Key{}
	for _, text := range []string{before, next} {
		key, err := audit.NewKey([]byte(text))
		must(t, err)
		keys[key.ID()] = key
	}
	with := map[string]int{}
	for filter := (audit.Filter{Limit: 1000}); ; {
		page, after, err := audit.List(t.Context(), d.env.DB, filter)
		must(t, err)
		for _, e := range page {
			if key, known := keys[e.MACKeyID]; !known || !key.Verify(e) {
				t.Errorf("event %s (%s) is authenticated by neither key", e.ID, e.Action)
			}
			with[e.MACKeyID]++
		}
		if after == "" {
			break
		}
		filter.Before = after
	}
	if len(with) != 2 {
		t.Errorf("events by key: %v", with)
	}
	var alerts []string
	must(t, d.env.DB.SelectContext(t.Context(), &alerts, `select detail::text from rgw.audit_events where action = 'ledger.alert'`))
	for _, alert := range alerts {
		t.Errorf("the ledger raised an alert: %s", alert)
	}
}

// APP_SECRET_KEY is changed as docs/operations.md says: every admin learns the new one, then every admin uses it, then
// what the old one sealed is sealed anew, and the old one goes.
func TestTheAppKeyIsChangedWithoutAFailedRequest(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	ctx, home := context.WithCancel(t.Context())
	defer home()
	var people sync.WaitGroup
	d.use(ctx, t, &people)
	before, next := d.env.AppKey(), newKey(t)
	d.roll(t, d.console.servers(), map[string]string{"APP_SECRET_KEY": before, "APP_SECRET_KEY_PREVIOUS": next})
	d.roll(t, d.console.servers(), map[string]string{"APP_SECRET_KEY": next, "APP_SECRET_KEY_PREVIOUS": before})
	rekey := exec.CommandContext(t.Context(), filepath.Join(d.env.Bin(), "admin"), "rekey")
	rekey.Env = []string{
		"DATABASE_URL=" + d.env.Postgres.URL(cluster.Admin, d.env.Database), "AUDIT_MAC_KEY=" + d.env.MACKey(), "DOMAIN=localhost",
		"APP_SECRET_KEY=" + next, "APP_SECRET_KEY_PREVIOUS=" + before,
	}
	if output, err := rekey.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	// What pages hold from before, such as the token in the page that changes are sent with, is read anew by then.
	home()
	people.Wait()
	d.roll2(t, map[string]string{"APP_SECRET_KEY_PREVIOUS": ""})
	for _, admin := range d.env.Admins {
		if got := admin.Do("admin", http.MethodGet, "/api/v1/health/ready", nil); got.Status != http.StatusOK {
			t.Errorf("%s is not ready without the key before: %s", admin.Name, got.Body)
		}
	}
	d.end(t, "a change of APP_SECRET_KEY")
}

// roll2 is roll when nobody is there.
func (d *deployment) roll2(t *testing.T, config map[string]string) {
	t.Helper()
	for _, one := range d.console.servers() {
		one.server.Configure(config)
		one.server.Restart()
	}
}

// A backup that was made while people worked is restored into a new server; the ledger verifies, and goes on.
func TestABackupIsRestoredAndTheLedgerVerifies(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: 1, Admins: 1, OwnPostgres: true})
	books := newBooks(env)
	l := books.put(t, loadOptions{callers: 4, addresses: []func() string{at(env.Proxies[0])}, tokens: []string{env.Token("admin")}})
	l.goesOn(t, 100)
	placed := func() int {
		return count(t, env, `select count(*) from rgw.ledger_leaves`)
	}
	eventually(t, "the ledger had grown", func() bool { return placed() > 100 })

	bin, err := cluster.Binaries()
	must(t, err)
	dump := filepath.Join(t.TempDir(), "backup")
	run := func(program string, args ...string) {
		t.Helper()
		if output, err := exec.CommandContext(t.Context(), filepath.Join(bin, program), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, output)
		}
	}
	run("pg_dump", "--format=custom", "--file="+dump, env.Postgres.URL(cluster.Superuser, env.Database)) // under load
	l.goesOn(t, 50)
	l.lift()
	env.Proxies[0].Stop()
	env.Admins[0].Stop()

	// As docs/operations.md says: a new server, the logins, the backup, the migrations, the processes.
	server, err := cluster.Start(t.Context(), cluster.Options{})
	must(t, err)
	defer server.Close()
	must(t, server.Setup(t.Context()))
	must(t, server.CreateDatabase(t.Context(), "restored", ""))
	run("pg_restore", "--dbname="+server.URL(cluster.Superuser, "restored"), "--exit-on-error", dump)
	for _, one := range []*testenv.Server{&env.Admins[0].Server, &env.Proxies[0].Server} {
		login := cluster.Proxy
		if one == &env.Admins[0].Server {
			login = cluster.Admin
			migrate := exec.CommandContext(t.Context(), filepath.Join(env.Bin(), "admin"), "migrate")
			migrate.Env = []string{"ADMIN_DATABASE_URL=" + server.URL(cluster.Owner, "restored"), "DOMAIN=localhost"}
			if output, err := migrate.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, output)
			}
		}
		one.Configure(map[string]string{"DATABASE_URL": server.URL(login, "restored")})
		one.Start()
		one.WaitReady(t.Context())
	}
	if got := env.Do("viewer", http.MethodGet, "/apps", nil); got.Status != http.StatusOK {
		t.Errorf("after the restore: %d %s", got.Status, got.Body)
	}
	restored, err := postgres.Open(postgres.Config{URL: postgres.URL(server.URL(cluster.Owner, "restored")), Name: "faults"})
	must(t, err)
	defer restored.Close()
	key, err := audit.NewKey([]byte(env.MACKey()))
	must(t, err)
	eventually(t, "every event of the restored record had its place", func() bool {
		var waiting int
		must(t, restored.Get(&waiting, `select count(*) from rgw.audit_events e where not exists
			(select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id) and action not like '%heartbeat%'`))
		return waiting == 0
	})
	report, err := ledger.VerifyDatabase(t.Context(), restored, ledger.VerifyOptions{MACKeys: []audit.Key{key}, Now: time.Now})
	must(t, err)
	if !report.Sound() || report.Size < 100 {
		text, _ := json.Marshal(report)
		t.Errorf("the restored ledger does not verify: %s", text)
	}
	t.Logf("restored and verified: %d leaves, root %s", report.Size, report.Root)
}

// From the first schema that a proxy can live with, each further step is applied while it serves, as the release before
// meets the schema of the next: no request fails, and each has its record.
func TestEachMigrationComesUnderLoad(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: -1})
	const name = "stepwise"
	must(t, env.Postgres.CreateDatabase(t.Context(), name, ""))
	t.Cleanup(func() { must(t, env.Postgres.DropDatabase(context.Background(), name)) })
	owner, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Owner, name)), Name: "faults"})
	must(t, err)
	t.Cleanup(func() { must(t, owner.Close()) })
	step := func() string {
		applied, err := postgres.MigrateStep(t.Context(), owner)
		must(t, err)
		giveRights(t, owner)
		return applied
	}
	for range firstServable {
		step()
	}
	must(t, postgres.EnsurePartitions(t.Context(), owner))

	key, err := audit.NewKey([]byte(env.MACKey()))
	must(t, err)
	token, err := credential.New(credential.CLI)
	must(t, err)
	must(t, postgres.InTx(t.Context(), owner, func(tx *sqlx.Tx) error {
		tx.MustExec(`select set_config('rgw.request_id', 'a test', true)`)
		var user, id string
		must(t, tx.Get(&user, `insert into rgw.users (email, created_by) values ('ana@example.com', 'test') returning id`))
		tx.MustExec(`insert into rgw.bindings (user_id, role, created_by) values ($1, 'admin', 'test')`, user)
		must(t, tx.Get(&id, `insert into rgw.tokens (kind, name, owner_id, expires_at, created_by) values ('cli', 'laptop', $1, now() + interval '1 day', 'test') returning id`, user))
		hash := token.Hash()
		tx.MustExec(`insert into rgw.token_secrets (hash, token_id, prefix, last_four) values ($1, $2, $3, $4)`, hash[:], id, token.Prefix(), token.LastFour())
		return nil
	}))
	proxy := env.AddProxyWith(map[string]string{"DATABASE_URL": env.Postgres.URL(cluster.Proxy, name)})
	proxy.WaitReady(t.Context())
	books := newBooks(env)
	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{at(proxy)}, tokens: []string{token.Reveal()}, fresh: true})
	l.goesOn(t, 50)
	steps := 0
	for applied := step(); applied != ""; applied = step() {
		t.Logf("%s came under load", applied)
		steps++
		l.goesOn(t, 50)
	}
	must(t, postgres.Migrate(t.Context(), owner, slog.New(slog.DiscardHandler))) // and again, whole
	l.goesOn(t, 50)
	l.liftUnharmed(t, fmt.Sprintf("%d migrations", steps))
	if steps < 1 {
		t.Errorf("only %d steps came under load", steps)
	}
	proxy.Stop()
	var events, bad int
	for filter := (audit.Filter{Limit: 1000}); ; {
		page, after, err := audit.List(t.Context(), owner, filter)
		must(t, err)
		for _, e := range page {
			events++
			if !key.Verify(e) {
				bad++
			}
		}
		if after == "" {
			break
		}
		filter.Before = after
	}
	if bad > 0 || int64(events) < l.served.Load() {
		t.Errorf("%d events for %d answers, %d of them not as they were made", events, l.served.Load(), bad)
	}
}

// firstServable is how many steps the schema has that today's proxy needs, of which second factors are the last. What
// comes after it, the proxy has to live with before it knows of it.
const firstServable = 8

// giveRights gives each role its rights over what is there yet, as the release of that time did.
func giveRights(t *testing.T, owner *sqlx.DB) {
	t.Helper()
	_, statements, found := strings.Cut(schema.Roles, "end $$;")
	if !found {
		t.Fatal("sql/roles.sql does not begin by making the roles")
	}
	for statement := range strings.SplitSeq(statements, ";\n") {
		_, err := owner.ExecContext(t.Context(), statement)
		if state := postgres.SQLState(err); state == "42P01" || state == "42883" || state == "42703" { // of a step to come
			// What can be given of it, thing by thing.
			giveEach(t, owner, statement)
		} else if err != nil && strings.TrimSpace(statement) != "" {
			t.Fatalf("%v\n%s", err, statement)
		}
	}
}

var grantForm = regexp.MustCompile(`(?s)grant\s+(.*?)\s+on\s+(function\s+)?(.*?)\s+to\s+(\w+)`)

// giveEach runs a grant over several things for those that are there.
func giveEach(t *testing.T, owner *sqlx.DB, statement string) {
	t.Helper()
	match := grantForm.FindStringSubmatch(statement)
	if match == nil {
		t.Fatalf("a statement that is no grant names what is not there:\n%s", statement)
	}
	for _, name := range regexp.MustCompile(`rgw\.\w+(?:\([^)]*\))?`).FindAllString(match[3], -1) {
		_, err := owner.ExecContext(t.Context(), "grant "+match[1]+" on "+match[2]+name+" to "+match[4])
		if state := postgres.SQLState(err); err != nil && state != "42P01" && state != "42883" && state != "42703" {
			t.Fatal(err)
		}
	}
}
