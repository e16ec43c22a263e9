// Package postgrestest gives tests a real database. Each test binary has one private server, started when
// the first test asks for it; each test has a database of its own, migrated, as a copy of a template.
//
// A test binary that uses it has
//
//	func TestMain(m *testing.M) { postgrestest.Main(m) }
//
// Without PostgreSQL's binaries on the machine such tests fail, and say what to install; none is skipped.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
)

// template is the migrated database that each test's is a copy of.
const template = "rgw_template"

// server is what the tests of one binary share.
type server struct {
	once    sync.Once
	cluster *cluster.Cluster
	err     error

	mu    sync.Mutex
	count int
}

// shared is the one server of this test binary: a server for each test would take seconds each.
var shared server

// Main runs the tests, stops the server that they started, and exits.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for a binary that has more to do before it exits with the code.
func Run(m interface{ Run() int }) int {
	code := m.Run()
	if shared.cluster != nil {
		if err := shared.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the tests' PostgreSQL:", err)
			code = max(code, 1)
		}
	}
	return code
}

// Database is a migrated database of one test.
type Database struct {
	Cluster *cluster.Cluster
	Name    string
}

// New returns a fresh, migrated database, which is removed when the test ends. The server is shared by
// the tests of the binary: no test may stop it. It does not sync to disk.
func New(t testing.TB) *Database {
	t.Helper()
	shared.once.Do(func() {
		shared.cluster, shared.err = start(cluster.Options{NoFSync: true})
	})
	check(t, shared.err)
	shared.mu.Lock()
	shared.count++
	db := &Database{Cluster: shared.cluster, Name: fmt.Sprintf("rgw_test_%d", shared.count)}
	// One at a time: a template that is being copied can be copied by nobody else.
	err := db.Cluster.CreateDatabase(context.Background(), db.Name, template)
	shared.mu.Unlock()
	if err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Cluster.DropDatabase(context.Background(), db.Name); err != nil {
			t.Errorf("remove the test's database: %v", err)
		}
	})
	return db
}

// NewCluster returns a migrated database on a server of the test's own, which the test may stop, kill,
// pause and start again. It syncs to disk unless the options say otherwise.
func NewCluster(t testing.TB, opts cluster.Options) *Database {
	t.Helper()
	c, err := start(opts)
	check(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop the test's PostgreSQL: %v", err)
		}
	})
	return &Database{Cluster: c, Name: template}
}

// check fails the test when there is no server. The error says what to install.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(opts cluster.Options) (_ *cluster.Cluster, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := c.Setup(ctx); err != nil {
		return nil, err
	}
	if err := c.CreateDatabase(ctx, template, ""); err != nil {
		return nil, err
	}
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(c.URL(cluster.Owner, template)), Name: "migrate"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // a template in use cannot be copied
	if err := postgres.Migrate(ctx, db, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	return c, nil
}

// OwnerURL is the address of the database for the owner of its schema.
func (d *Database) OwnerURL() postgres.URL { return d.url(cluster.Owner) }

// ProxyURL is the address of the database for a login with the rights of the proxy.
func (d *Database) ProxyURL() postgres.URL { return d.url(cluster.Proxy) }

// AdminURL is the address of the database for a login with the rights of admin.
func (d *Database) AdminURL() postgres.URL { return d.url(cluster.Admin) }

// SuperuserURL is the address of the database for the server's superuser.
func (d *Database) SuperuserURL() postgres.URL { return d.url(cluster.Superuser) }

func (d *Database) url(login string) postgres.URL {
	return postgres.URL(d.Cluster.URL(login, d.Name))
}

// Owner returns a pool of connections of the schema's owner. It is closed when the test ends.
func (d *Database) Owner(t testing.TB) *sqlx.DB { return Open(t, d.OwnerURL()) }

// Proxy returns a pool of connections with the rights of the proxy. It is closed when the test ends.
func (d *Database) Proxy(t testing.TB) *sqlx.DB { return Open(t, d.ProxyURL()) }

// Admin returns a pool of connections with the rights of admin. It is closed when the test ends.
func (d *Database) Admin(t testing.TB) *sqlx.DB { return Open(t, d.AdminURL()) }

// Open opens a pool that is closed when the test ends.
func Open(t testing.TB, url postgres.URL) *sqlx.DB {
	t.Helper()
	db, err := postgres.Open(postgres.Config{URL: url, Name: strings.ReplaceAll(t.Name(), "/", " ")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the pool: %v", err)
		}
	})
	return db
}
