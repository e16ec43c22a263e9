package compose_test

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
)

// TestTheDatabaseIsReadyForEachProcess runs what compose runs when the database is made, then the migrations as the
// owner, and looks at what each login may do.
func TestTheDatabaseIsReadyForEachProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server, err := cluster.Start(ctx, cluster.Options{NoFSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	superuser := connect(t, server.URL(cluster.Superuser, "postgres"))
	if _, err := superuser.ExecContext(ctx, "create database rackgateway"); err != nil {
		t.Fatal(err)
	}
	// Passwords with everything in them that a shell or a database could stumble over.
	passwords := map[string]string{
		"OWNER_DB_PASSWORD": `o'wner" $HOME \ ; drop`, "ADMIN_DB_PASSWORD": `a"dmin'`, "PROXY_DB_PASSWORD": `pr0xy:'x`,
	}
	host, port, password := address(t, server)
	init := exec.CommandContext(ctx, "bash", filepath.Join(root, "deploy/compose/postgres-init.sh"))
	init.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGPASSWORD="+password)
	for name, value := range passwords {
		init.Env = append(init.Env, name+"="+value)
	}
	if output, err := init.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}

	login := func(name, variable string) *sqlx.DB {
		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		return connect(t, "host="+host+" port="+port+" dbname=rackgateway sslmode=disable user="+name+" password='"+quote.Replace(passwords[variable])+"'")
	}
	owner := login("rgw_owner", "OWNER_DB_PASSWORD")
	for range 2 { // every start of compose runs it again
		if err := postgres.Migrate(ctx, owner, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		who, variable, statement string
		allowed                  bool
	}{
		{"rgw_proxy_login", "PROXY_DB_PASSWORD", "select count(*) from rgw.tokens", true},
		{"rgw_proxy_login", "PROXY_DB_PASSWORD", "delete from rgw.audit_events", false},
		{"rgw_proxy_login", "PROXY_DB_PASSWORD", "update rgw.users set name = ''", false},
		{"rgw_proxy_login", "PROXY_DB_PASSWORD", "create table rgw.mine ()", false},
		{"rgw_proxy_login", "PROXY_DB_PASSWORD", "create table public.mine ()", false},
		{"rgw_admin_login", "ADMIN_DB_PASSWORD", "select count(*) from rgw.audit_events", true},
		{"rgw_admin_login", "ADMIN_DB_PASSWORD", "update rgw.users set name = ''", true},
		{"rgw_admin_login", "ADMIN_DB_PASSWORD", "delete from rgw.audit_events", false},
		{"rgw_admin_login", "ADMIN_DB_PASSWORD", "create table public.mine ()", false},
		{"rgw_owner", "OWNER_DB_PASSWORD", "create role another", false},
		{"rgw_owner", "OWNER_DB_PASSWORD", "create database another", false},
	} {
		_, err := login(want.who, want.variable).ExecContext(ctx, want.statement)
		if (err == nil) != want.allowed || err != nil && postgres.SQLState(err) != "42501" {
			t.Errorf("%s: %s: %v, want allowed %t", want.who, want.statement, err, want.allowed)
		}
	}
}

// address is where the server listens, and its superuser's password, as psql takes them.
func address(t *testing.T, server *cluster.Cluster) (host, port, password string) {
	t.Helper()
	parsed, err := url.Parse(server.URL(cluster.Superuser, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	password, _ = parsed.User.Password()
	return parsed.Hostname(), parsed.Port(), password
}

func connect(t *testing.T, address string) *sqlx.DB {
	t.Helper()
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(address)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
