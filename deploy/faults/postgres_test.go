package faults

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	_ "github.com/lib/pq"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// databaseFaults is two proxies that wait for the database for as long as any fault here lasts, and one that gives
// up after a second.
type databaseFaults struct {
	t         *testing.T
	env       *testenv.Env
	books     *books
	random    *rand.Rand
	impatient *testenv.Proxy
	known     []person // whom the proxies know
	unknown   []person // whom they have not met
	sessions  []*session
	pid       string
}

// What PostgreSQL goes through, in one environment after the other: what takes less than AUDIT_MAX_WAIT nobody
// notices, and what takes longer is refused with its reason, without anything being changed on the rack.
func TestTheDatabaseComesAndGoes(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{
		Proxies: 2, OwnPostgres: true, PostgresSettings: []string{"max_connections=40", "superuser_reserved_connections=3"},
		Config: map[string]string{"AUDIT_MAX_WAIT": "60s", "ACCESS_SOCKET_GRACE": "5m", "DB_MAX_OPEN_CONNS": "8", "DB_MAX_IDLE_CONNS": "4"},
	})
	f := &databaseFaults{t: t, env: env, books: newBooks(env), random: chance(t)}
	f.impatient = env.AddProxyWith(map[string]string{"AUDIT_MAX_WAIT": "1s", "ACCESS_MAX_STALENESS": "1s", "DB_MAX_OPEN_CONNS": "4", "DB_MAX_IDLE_CONNS": "4"})
	f.impatient.WaitReady(t.Context())
	staff := newPeople(t, env)
	rounds := pick(1, 15)
	f.known, f.unknown = staff.many(t, 4, "admin"), staff.many(t, 5*8*rounds, "admin")
	var err error
	if f.pid, err = env.Rack.AwaitProcess(t.Context(), "demo", "web"); err != nil {
		t.Fatal(err)
	}
	heard(t, env)
	for i, who := range f.known {
		s, err := f.books.openSession(t.Context(), env.Proxies[i%2].URL, who.token, f.pid, fmt.Sprintf("k%d-%d-0", loads.Add(1), i))
		if err != nil {
			t.Fatal(err)
		}
		f.sessions = append(f.sessions, s)
	}

	for range rounds {
		f.unnoticed("restarted", func() {
			f.must(env.Postgres.Stop())
			f.meet()
			f.must(env.Postgres.Start(t.Context()))
		})
		f.unnoticed("killed (SIGKILL of the postmaster and its sessions)", func() {
			f.must(env.Postgres.Kill())
			f.meet()
			f.must(env.Postgres.Start(t.Context()))
		})
		f.unnoticed("hung (SIGSTOP) for a moment", func() {
			f.must(env.Postgres.Pause())
			f.meet()
			moment(t.Context(), f.random, 200*time.Millisecond, 2*time.Second)
			f.must(env.Postgres.Resume())
		})
		f.unnoticed("out of connections", f.exhaust)
		f.unnoticed("deaf: each LISTEN connection cut, the others left", f.cutListeners)
		f.noticed("gone", func() { f.must(env.Postgres.Stop()) }, func() { f.must(env.Postgres.Start(t.Context())) })
		f.noticed("hung (SIGSTOP)", func() { f.must(env.Postgres.Pause()) }, func() { f.must(env.Postgres.Resume()) })
	}
	for _, s := range f.sessions {
		s.finish(t)
	}
	f.books.close(t, allowance{})
}

func (f *databaseFaults) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// unnoticed runs a fault that takes less than the patient proxies wait, under load.
func (f *databaseFaults) unnoticed(fault string, run func()) {
	f.t.Helper()
	l := f.books.put(f.t, loadOptions{
		callers: 12, addresses: []func() string{at(f.env.Proxies[0]), at(f.env.Proxies[1])}, tokens: tokensOf(f.known),
	})
	l.goesOn(f.t, 50)
	moment(f.t.Context(), f.random, 0, 100*time.Millisecond)
	run()
	l.goesOn(f.t, 50)
	l.liftUnharmed(f.t, "PostgreSQL "+fault)
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	for _, s := range f.sessions {
		if err := s.echo(ctx, fmt.Sprintf("after %d", loads.Add(1))); err != nil {
			f.t.Fatalf("PostgreSQL %s, and a session did not stay open: %v", fault, err)
		}
	}
}

// meet sends requests of people whom no proxy knows yet, in the background: they are answered too.
func (f *databaseFaults) meet() {
	number := loads.Add(1)
	strangers := f.unknown[:8]
	f.unknown = f.unknown[8:]
	f.books.met(f.t, func(i int) *entry {
		c := &caller{address: at(f.env.Proxies[i%2]), token: strangers[i].token, once: true}
		return c.ask(f.t.Context(), everything[i%len(everything)], fmt.Sprintf("k%d-%d-0", number, i))
	}, len(strangers))
}

// met sends n requests at once in the background; when the test ends, each must have been answered by the rack.
func (b *books) met(t *testing.T, ask func(i int) *entry, n int) {
	done := make(chan *entry, n)
	for i := range n {
		go func() { done <- ask(i) }()
	}
	b.pending = append(b.pending, func() {
		for range n {
			e := <-done
			b.note(e)
			if !e.fromRack() {
				t.Errorf("%s %s, of somebody unknown during the fault, failed: %s", e.key, e.shape.name, e.told())
			}
		}
	})
}

// superuser opens a connection pool beside the gateway's logins, on the reserved places.
func (f *databaseFaults) superuser() *sql.DB {
	f.t.Helper()
	db, err := sql.Open("postgres", f.env.Postgres.URL(cluster.Superuser, f.env.Database))
	f.must(err)
	db.SetMaxOpenConns(1)
	return db
}

const (
	// endBackends ends the connections of the proxies, and of whoever looks at the database for the tests.
	endBackends = `select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1`
	// endListeners ends the connections that listen for changes of access.
	endListeners = `select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1 and query ilike 'listen%'`
)

// exhaust takes every connection that the server has, ends the proxies' own, and takes those too; after a while it
// gives all of them back.
func (f *databaseFaults) exhaust() {
	f.t.Helper()
	super := f.superuser()
	defer func() { _ = super.Close() }()
	f.must(super.PingContext(f.t.Context()))

	hog, err := sql.Open("postgres", f.env.Postgres.URL(cluster.Admin, f.env.Database))
	f.must(err)
	defer func() { _ = hog.Close() }()
	ctx, stop := context.WithCancel(f.t.Context())
	defer stop()
	taken := make(chan *sql.Conn, 100)
	var takers sync.WaitGroup
	for range 8 {
		takers.Go(func() {
			for ctx.Err() == nil {
				if conn, err := hog.Conn(ctx); err == nil {
					taken <- conn
				}
			}
		})
	}
	ended := 0
	eventually(f.t, "the proxies had no connection left", func() bool {
		var n int
		f.must(super.QueryRowContext(f.t.Context(), endBackends, cluster.Proxy).Scan(&n))
		ended += n
		return n == 0 && ended > 0
	})
	f.meet()
	moment(f.t.Context(), f.random, 500*time.Millisecond, 2*time.Second)
	f.t.Logf("connections of proxies ended: %d, connections taken: %d", ended, len(taken))
	stop()
	takers.Wait()
	close(taken)
	for conn := range taken {
		_ = conn.Close()
	}
}

// cutListeners ends each connection that listens, a few times.
func (f *databaseFaults) cutListeners() {
	f.t.Helper()
	super := f.superuser()
	defer func() { _ = super.Close() }()
	for range pick(3, 10) {
		var ended int
		eventually(f.t, "the proxies listened", func() bool {
			f.must(super.QueryRowContext(f.t.Context(), endListeners, cluster.Proxy).Scan(&ended))
			return ended > 0
		})
		moment(f.t.Context(), f.random, 0, 200*time.Millisecond)
	}
	f.meet()
}

// noticed runs a fault that lasts until the impatient proxy has refused reads and writes, and longer: both are
// refused with the reason and without anything changed at the rack, readiness says so, and all of it is over by
// itself when the fault is.
func (f *databaseFaults) noticed(fault string, begin, end func()) {
	f.t.Helper()
	l := f.books.put(f.t, loadOptions{callers: 8, addresses: []func() string{at(f.impatient)}, tokens: tokensOf(f.known)})
	l.goesOn(f.t, 30)
	begin()
	eventually(f.t, "requests were refused", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.others) >= 16
	})
	if status := f.readiness(); status != http.StatusServiceUnavailable {
		f.t.Errorf("PostgreSQL %s, and the proxy's readiness is %d", fault, status)
	}
	end()
	l.goesOn(f.t, 50)
	f.impatient.WaitReady(f.t.Context())
	others := l.lift()
	for _, e := range others {
		if e.err != nil || e.status != http.StatusServiceUnavailable || e.code != unrecorded {
			// A write whose outcome could not be recorded in time says so, and only a write.
			if e.code == "outcome-unknown" && e.status == http.StatusInternalServerError && e.shape.write {
				continue
			}
			f.t.Errorf("PostgreSQL %s: %s %s came to %s", fault, e.key, e.shape.name, e.told())
		}
	}
	f.t.Logf("PostgreSQL %s for longer than the wait: %d requests served, %d refused; it recovered by itself", fault, l.served.Load(), len(others))
}

func (f *databaseFaults) readiness() int {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.impatient.URL+"/api/v1/health/ready", nil)
	f.must(err)
	resp, err := f.env.Client().Do(req)
	f.must(err)
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode
}
