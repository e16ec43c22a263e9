package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
	schema "rackgateway/sql"
)

// firstReleased is the number of the first step of the schema that the programs of the time before it can be met with: all
// of what people need was there by then, second factors included.
const firstReleased = 9

// The programs of before a migration, built from the source of that time, meet the schema of after it: migrated under load by
// the programs of today, which then take their places one by one, and give them back. No request fails, each has its
// record, and the ledger verifies.
func TestTheReleaseBeforeServesWithTheSchemaOfThisOne(t *testing.T) {
	t.Parallel()
	entries, err := schema.Migrations.ReadDir("migrations")
	must(t, err)
	for _, entry := range entries[len(entries)-pick(1, len(entries)-firstReleased+1):] { // the newest, or each
		t.Run(entry.Name(), func(t *testing.T) {
			t.Parallel()
			meet(t, buildBefore(t, entry.Name()))
		})
	}
}

// buildBefore builds the two programs as they were before a migration was added, and returns their folder. Where the source
// comes without its history, today's stand in, which meet no other schema than their own: that is said.
func buildBefore(t *testing.T, migration string) string {
	t.Helper()
	git := func(args ...string) ([]byte, error) {
		command := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*", "-C", "../.."}, args...)...)
		return command.Output()
	}
	bin, source := t.TempDir(), "../.."
	commit, err := git("log", "--diff-filter=A", "--format=%H", "--", "sql/migrations/"+migration)
	added := strings.TrimSpace(string(commit))
	if err == nil && added != "" {
		if archive, failed := git("archive", "--format=tar", added+"^"); failed == nil {
			source = t.TempDir()
			unpack := exec.CommandContext(t.Context(), "tar", "-x", "-C", source)
			unpack.Stdin = bytes.NewReader(archive)
			if output, err := unpack.CombinedOutput(); err != nil {
				t.Fatalf("unpacking the source of before: %v\n%s", err, output)
			}
		}
	}
	if source == "../.." {
		t.Logf("the history does not go back to before %s (git fetch --unshallow brings it): today's programs stand in", migration)
	} else if _, err := os.Stat(filepath.Join(source, "sql", "migrations", migration)); err == nil {
		t.Fatalf("the source of before has %s already", migration)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+string(filepath.Separator), "./cmd/proxy", "./cmd/admin")
	build.Dir = source
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs of before: %v\n%s", err, output)
	}
	return bin
}

// meet has the programs of a folder meet today's schema, and today's programs.
func meet(t *testing.T, bin string) {
	old := testenv.Suite{Bin: bin}
	t.Cleanup(func() { must(t, old.Close()) })
	today := start(t, testenv.Options{Proxies: -1}).Bin()
	d := deployOn(t, &old)
	books := newBooks(d.env)
	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{d.rack.address}, tokens: []string{d.env.Token("admin")}, fresh: true})
	ctx, home := context.WithCancel(t.Context())
	defer home()
	var people sync.WaitGroup
	d.use(ctx, t, &people)
	d.goesOn(t)
	l.goesOn(t, 50)

	db := openAs(t, d.env, cluster.Owner, d.env.Database)
	steps := func() (missing int) {
		all, err := postgres.MigrationStatus(t.Context(), db)
		must(t, err)
		for _, step := range all {
			if step.AppliedAt == nil {
				missing++
			}
		}
		return missing
	}
	missing := steps()
	for range 2 { // and once more, when there is nothing left
		migrate := exec.CommandContext(t.Context(), filepath.Join(today, "admin"), "migrate")
		migrate.Env = []string{"ADMIN_DATABASE_URL=" + d.env.Postgres.URL(cluster.Owner, d.env.Database), "DOMAIN=localhost"}
		if output, err := migrate.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		l.goesOn(t, 100)
		d.goesOn(t)
	}
	if steps() != 0 {
		t.Error("after the migration the schema lacks steps")
	}

	// Each program is replaced in its place, and each process started again with what is there.
	before := t.TempDir()
	for _, program := range []string{"proxy", "admin"} {
		must(t, os.Rename(filepath.Join(bin, program), filepath.Join(before, program)))
		must(t, os.Link(filepath.Join(today, program), filepath.Join(bin, program)))
	}
	d.roll(t, d.console.servers(), nil)
	l.goesOn(t, 50)
	d.roll(t, d.rack.servers(), nil)
	l.goesOn(t, 50)
	for _, program := range []string{"proxy", "admin"} { // and back: the schema stays
		must(t, os.Rename(filepath.Join(before, program), filepath.Join(bin, program)))
	}
	d.roll(t, d.rack.servers()[:1], nil)
	d.roll(t, d.console.servers()[:1], nil)
	l.goesOn(t, 50)

	what := fmt.Sprintf("an upgrade over %d steps and half of it back", missing)
	l.liftUnharmed(t, what)
	home()
	people.Wait()
	d.end(t, what)
	for _, p := range d.env.Proxies {
		p.Stop()
	}
	eventually(t, "every event had its place", func() bool {
		return count(t, d.env, countUnplaced) == 0
	})
	mac, err := audit.NewKey([]byte(d.env.MACKey()))
	must(t, err)
	report, err := ledger.VerifyDatabase(t.Context(), d.env.DB, ledger.VerifyOptions{MACKeys: []audit.Key{mac}, Now: time.Now})
	must(t, err)
	if !report.Sound() || report.Size < 100 {
		t.Errorf("the ledger does not verify: %+v", report)
	}
	books.close(t, allowance{})
}

// countUnplaced counts the events that have no place in the ledger yet.
const countUnplaced = `
select count(*) from rgw.audit_events e where action not like '%heartbeat%' and not exists
  (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)`

// openAs opens a database of the environment's server.
func openAs(t *testing.T, env *testenv.Env, login, name string) *sqlx.DB {
	t.Helper()
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(login, name)), Name: "faults"})
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}
