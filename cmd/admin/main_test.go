package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
	"rackgateway/pkg/testenv/s3server"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts")

// clockVariable sets the clock of the program in a script, and with it who is said to run it.
const clockVariable = "ADMIN_TEST_CLOCK"

// tests runs the tests, then stops the database that they started.
type tests struct{ m *testing.M }

func (t tests) Run() int { return postgrestest.Run(t.m) }

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"admin": func() {
		os.Exit(testProcess(os.Getenv, os.Environ(), os.Stdout, os.Stderr).run(context.Background(), os.Args[1:]))
	}})
}

// testProcess is the program with the clock of a script.
func testProcess(getenv func(string) string, environ []string, stdout, stderr io.Writer) *process {
	p := &process{environ: environ, stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, now: time.Now, operator: operator()}
	if text := getenv(clockVariable); text != "" {
		clock, err := time.Parse(time.RFC3339, text)
		if err != nil {
			panic(err)
		}
		clock = clock.Add(tick(getenv("WORK")))
		p.now, p.operator = func() time.Time { return clock }, "command line (ops@host)"
	}
	return p
}

// tick is a millisecond more in each run of a script, so that what was done later is listed as later.
func tick(dir string) time.Duration {
	file, err := os.OpenFile(filepath.Join(dir, ".ticks"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	_, write := file.WriteString(".")
	info, err := file.Stat()
	if err := errors.Join(write, err, file.Close()); err != nil {
		panic(err)
	}
	return time.Duration(info.Size()) * time.Millisecond
}

// Each script has a migrated database of its own, and these commands:
//
//	run admin ARG...        runs the program, within the test, which must exit with 0
//	exec admin ARG...       runs it as a process of its own
//	code N admin ARG...     runs it, and it must exit with N
//	mask FILE TO            copies output with ids and secrets made the same each time
//	sql STATEMENT           runs SQL as the schema's owner
//	clock TIME              sets the program's clock
//	slack                   connects a workspace, as an administrator does in the console
//	take NAME FILE REGEXP   sets an environment variable to what the expression's first group matches
//	sequence                gives every event its place in the ledger, as admin does while it serves
//	bucket                  makes a bucket with Object Lock in a real S3 server, and points the environment at it
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts: ", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			db := postgrestest.New(t)
			empty := db.Name + "_empty"
			if err := db.Cluster.CreateDatabase(t.Context(), empty, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Cluster.DropDatabase(context.Background(), empty); err != nil {
					t.Error(err)
				}
			})
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				UpdateScripts:       *update,
				RequireUniqueNames:  true,
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("DATABASE_URL", string(db.AdminURL()))
					env.Setenv("OWNER_URL", string(db.OwnerURL()))
					env.Setenv("EMPTY_URL", db.Cluster.URL(cluster.Owner, empty))
					env.Setenv("AS_PROXY_URL", string(db.ProxyURL()))
					env.Setenv("AUDIT_MAC_KEY", "d3b07384d113edec49eaa6238ad5ff00c86a1e0f2f5f1b6c0a6b4f5e9d8c7b6a")
					env.Setenv(clockVariable, "2026-11-23T15:00:00Z")
					return nil
				},
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
					"run": func(ts *testscript.TestScript, neg bool, args []string) {
						code(ts, neg, append([]string{"0"}, args...))
					},
					"code":     code,
					"mask":     mask,
					"clock":    func(ts *testscript.TestScript, _ bool, args []string) { ts.Setenv(clockVariable, args[0]) },
					"take":     take,
					"sequence": func(ts *testscript.TestScript, _ bool, _ []string) { sequence(ts, db) },
					"bucket":   func(ts *testscript.TestScript, _ bool, _ []string) { bucket(ts) },
					"slack":    func(ts *testscript.TestScript, _ bool, _ []string) { connectSlack(ts, db) },
					"sql": func(ts *testscript.TestScript, _ bool, args []string) {
						owner, err := postgres.Open(postgres.Config{URL: db.OwnerURL()})
						ts.Check(err)
						_, err = owner.ExecContext(context.Background(), strings.Join(args, " "))
						ts.Check(errors.Join(err, owner.Close()))
					},
				},
			})
		})
	}
}

// connectSlack starts a workspace and connects it.
func connectSlack(ts *testscript.TestScript, db *postgrestest.Database) {
	workspace := notifytest.NewSlack()
	ts.Defer(workspace.Close)
	ts.Setenv("SLACK_CLIENT_ID", notifytest.SlackClientID)
	ts.Setenv("SLACK_CLIENT_SECRET", notifytest.SlackClientSecret)
	ts.Setenv("SLACK_SIGNING_SECRET", notifytest.SlackSigningSecret)
	ts.Setenv("SLACK_API_BASE", workspace.Address().String())
	admin, err := postgres.Open(postgres.Config{URL: db.AdminURL()})
	ts.Check(err)
	defer func() { ts.Check(admin.Close()) }()
	key, err := audit.NewKey([]byte(ts.Getenv("AUDIT_MAC_KEY")))
	ts.Check(err)
	keys, err := seal.NewKeys(secret.NewText(ts.Getenv("APP_SECRET_KEY")), secret.Text{})
	ts.Check(err)
	clock, err := time.Parse(time.RFC3339, ts.Getenv(clockVariable))
	ts.Check(err)
	service := notify.New(notify.Config{
		DB: admin, Key: key, Keys: keys, Console: &url.URL{Scheme: "https", Host: "gateway.example.com"}, Now: func() time.Time { return clock },
		Slack: notify.SlackConfig{
			ClientID: notifytest.SlackClientID, ClientSecret: secret.NewText(notifytest.SlackClientSecret), SigningSecret: secret.NewText(notifytest.SlackSigningSecret),
			BaseURL: workspace.Address(), AuthorizeURL: &url.URL{},
		},
	})
	by := directory.Actor{Kind: audit.ActorUser, ID: "ana", Label: "ana@example.com", Client: "console"}
	begun, err := service.BeginSlack(by)
	ts.Check(err)
	u, err := url.Parse(begun)
	ts.Check(err)
	_, err = service.FinishSlack(context.Background(), by, notifytest.SlackCode, u.Query().Get("state"))
	ts.Check(err)
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || args[1] != "admin" {
		ts.Fatalf("usage: code N admin ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	runAdmin(ts, want, args[2:])
}

func runAdmin(ts *testscript.TestScript, want int, args []string) {
	var environ []string
	for _, name := range []string{"DATABASE_URL", "ADMIN_DATABASE_URL", "AUDIT_MAC_KEY", "LOG_FORMAT", "RACK_TOKN", "APP_SECRET_KEY", "APP_SECRET_KEY_PREVIOUS",
		"POSTMARK_API_TOKEN", "POSTMARK_FROM", "SLACK_CLIENT_ID", "SLACK_CLIENT_SECRET", "SLACK_SIGNING_SECRET", "SLACK_API_BASE", "AUDIT_SIGNING_KEY", "DOMAIN"} {
		if value := ts.Getenv(name); value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	if got := testProcess(ts.Getenv, environ, ts.Stdout(), ts.Stderr()).run(context.Background(), args); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

var (
	ids     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	secrets = regexp.MustCompile(`(rgw_(?:cli|api)_)[0-9A-Za-z]{57}\b`)
	shown   = regexp.MustCompile(`(rgw_(?:cli|api)_)[0-9A-Za-z]{8}(?:…[0-9A-Za-z]{4}|\b)`)
	lasts   = regexp.MustCompile(`(last_four": "|ends in )[0-9A-Za-z]{4}`)
	macKeys = regexp.MustCompile(`("mac_key":")[0-9a-f]{8}`)
)

func mask(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	text = ids.ReplaceAllString(text, "01234567-89ab-cdef-0123-456789abcdef")
	text = secrets.ReplaceAllString(text, "${1}WHOLE-TOKEN")
	text = shown.ReplaceAllStringFunc(text, func(s string) string {
		if strings.Contains(s, "…") {
			return s[:8] + "IDIDIDID…LAST"
		}
		return s[:8] + "IDIDIDID"
	})
	text = lasts.ReplaceAllString(text, "${1}LAST")
	text = macKeys.ReplaceAllString(text, "${1}0a1b2c3d")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

func take(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) != 2 {
		ts.Fatalf("nothing in %s matches %s", args[1], args[2])
	}
	ts.Setenv(args[0], found[1])
}

// sequence runs a sequencer until every event has its place.
func sequence(ts *testscript.TestScript, db *postgrestest.Database) {
	clock, err := time.Parse(time.RFC3339, ts.Getenv(clockVariable))
	ts.Check(err)
	key, err := audit.NewKey([]byte(ts.Getenv("AUDIT_MAC_KEY")))
	ts.Check(err)
	keys, err := seal.NewKeys(secret.NewText(ts.Getenv("APP_SECRET_KEY")), secret.Text{})
	ts.Check(err)
	pool, err := postgres.Open(postgres.Config{URL: db.AdminURL()})
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	done := make(chan struct{})
	s := ledger.NewSequencer(ledger.SequencerConfig{
		DB: pool, Keys: ledger.KeySource{Origin: ts.Getenv("DOMAIN") + "/acme/staging", Box: keys.Box(ledger.SealPurpose)}, MACKey: key,
		Now: func() time.Time { return clock }, Poll: 5 * time.Millisecond,
	})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	waiting := 1
	for ctx.Err() == nil && waiting > 0 {
		ts.Check(pool.GetContext(ctx, &waiting, `select count(*) + (select count(*) = 0 from rgw.ledger_checkpoints)::int from rgw.audit_events e
			where not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)`))
	}
	err = ctx.Err()
	cancel()
	<-done
	ts.Check(errors.Join(err, pool.Close()))
	if trouble := s.State().Trouble; trouble != "" {
		ts.Fatalf("nothing is signed: %s", trouble)
	}
}

// bucket starts a server of the script's own.
func bucket(ts *testscript.TestScript) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "rgw-s3-")
	ts.Check(err)
	program, err := s3server.Build(ctx)
	ts.Check(err)
	server, err := s3server.Start(ctx, program, dir, 0, "", "")
	ts.Check(err)
	ts.Defer(func() { _ = errors.Join(server.Close(), os.RemoveAll(dir)) })
	ts.Check(server.EnsureBucket(ctx, "audit"))
	for name, value := range server.Environ() {
		ts.Setenv(name, value)
	}
	for name, value := range map[string]string{"AUDIT_ANCHOR_BUCKET": "audit", "AUDIT_ANCHOR_PATH_STYLE": "true", "RACK_ORGANIZATION": "acme", "RACK_ALIAS": "staging"} {
		ts.Setenv(name, value)
	}
}

// The operator is who the machine says runs the program, and run puts all together as main does.
func TestTheOperatorIsNamed(t *testing.T) {
	if who := operator(); !regexp.MustCompile(`^command line \(.+@.+\)$`).MatchString(who) {
		t.Errorf("the operator is %q", who)
	}
	var out, log strings.Builder
	if code := run(t.Context(), []string{"version"}, nil, strings.NewReader(""), &out, &log); code != exitDone || !strings.HasPrefix(out.String(), "admin ") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), log.String())
	}
}

// Killed at any moment, the program leaves a change with its event, or neither.
func TestAProgramThatIsKilledLeavesBothOrNeither(t *testing.T) {
	db := postgrestest.New(t)
	owner := db.Owner(t)
	admin, err := exec.LookPath("admin")
	if err != nil {
		t.Fatal(err)
	}
	key := rand.Text() + rand.Text()
	add := func(i int) *exec.Cmd {
		cmd := exec.Command(admin, "user", "add", fmt.Sprintf("user%d@example.com", i), "--role", "viewer")
		cmd.Env = []string{"DATABASE_URL=" + string(db.AdminURL()), "AUDIT_MAC_KEY=" + key}
		return cmd
	}
	began := time.Now()
	if out, err := add(0).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	whole := time.Since(began)
	const rounds = 60
	killed := 0
	for i := 1; i <= rounds; i++ {
		cmd := add(i)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From the start to a little beyond the end of a whole run.
		timer := time.AfterFunc(whole*time.Duration(i)*5/(4*rounds), func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err != nil {
			killed++
		}
		timer.Stop()
	}
	var users, events, together int
	for query, n := range map[string]*int{
		`select count(*) from rgw.users`: &users,
		`select count(*) from rgw.audit_events where action = 'user.add' and phase = 'finished'`: &events,
		`select count(*) from rgw.users u join rgw.audit_events e on e.resource = u.email and e.mac is not null
		  join rgw.bindings b on b.user_id = u.id`: &together,
	} {
		if err := owner.GetContext(t.Context(), n, query); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d were killed; %d users, %d events", killed, rounds, users, events)
	if users != events || users != together {
		t.Errorf("%d users with a role, %d events, %d of them together", users, events, together)
	}
	if killed == 0 {
		t.Error("none was killed in time: the test showed nothing")
	}
}
