package faults

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

const (
	// aRecordingBackend finds the server processes that insert events, for a database.
	aRecordingBackend = `select pid from pg_stat_activity where datname = $1 and query ilike '%insert into rgw.audit_events%' and pid <> pg_backend_pid()`
	// aListeningBackend finds those that announcements of changes go out by.
	aListeningBackend = `select pid from pg_stat_activity where datname = $1 and query ilike 'listen%' and pid <> pg_backend_pid()`
)

// backends finds server processes of an environment's database.
func backends(t *testing.T, env *testenv.Env, query string) (pids []int) {
	t.Helper()
	db, err := sql.Open("postgres", env.Postgres.URL(cluster.Superuser, "postgres"))
	must(t, err)
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), query, env.Database)
	must(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var pid int
		must(t, rows.Scan(&pid))
		pids = append(pids, pid)
	}
	must(t, rows.Err())
	return pids
}

// signalAll sends a signal to server processes. One that has ended meanwhile is no matter.
func signalAll(pids []int, sig syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig)
	}
}

// inFlight is how many requests a proxy serves, by its own count.
func inFlight(t *testing.T, p *testenv.Proxy) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Metrics+"/metrics", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "rgw_requests_in_flight "); ok {
			n, err := strconv.ParseFloat(rest, 64)
			must(t, err)
			return int(n)
		}
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	t.Fatal("the proxy does not count its requests")
	return 0
}

// Somebody's access is taken while their writes wait for their record: when the record is made at last, none of them
// reaches the rack, and those of others do. The database is held up by stopping the one server process that records,
// so that everything else goes on.
func TestARevocationCountsForWhatWaitsForItsRecord(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Config: map[string]string{"AUDIT_MAX_WAIT": "90s"}})
	p, books, staff := env.Proxies[0], newBooks(env), newPeople(t, env)
	r := &revocations{env: env, books: books, staff: staff}
	pid, err := env.Rack.AwaitProcess(t.Context(), "demo", "web")
	must(t, err)
	changes := r.changes()[:4]
	everybody := make([][8]person, pick(2, 40))
	for round := range everybody {
		for i := range everybody[round] {
			everybody[round][i], err = r.prepare(t.Context(), changes[i%len(changes)])
			must(t, err)
		}
	}
	heard(t, env)
	var stopped, went int
	for round, people := range everybody {
		number := loads.Add(1)
		var sessions []*session
		for i, who := range people {
			s, err := books.openSession(t.Context(), p.URL, who.token, pid, fmt.Sprintf("k%d-0-%d", number, i))
			must(t, err)
			sessions = append(sessions, s)
		}
		open := inFlight(t, p)
		held := backends(t, env, aRecordingBackend)
		if len(held) == 0 {
			t.Fatal("no server process records events")
		}
		signalAll(held, syscall.SIGSTOP)
		t.Cleanup(func() { signalAll(held, syscall.SIGCONT) })

		var asking sync.WaitGroup
		answers := make([]*entry, 2*len(people))
		for i := range answers {
			asking.Go(func() {
				c := &caller{address: at(p), token: people[i%len(people)].token, once: true}
				answers[i] = c.ask(t.Context(), aWrite, fmt.Sprintf("k%d-1-%d", number, i))
				books.note(answers[i])
			})
		}
		eventually(t, "all writes waited for their records", func() bool { return inFlight(t, p) >= open+len(answers) })
		// Every other person loses what they have. That the proxy has heard of it shows by the end of their session.
		for i := 0; i < len(people); i += 2 {
			must(t, changes[i%len(changes)].apply(t.Context(), people[i]))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if err := sessions[i].endedBy(ctx, ""); err != nil {
				t.Errorf("%s: %v", changes[i%len(changes)].name, err)
			}
			cancel()
		}
		signalAll(held, syscall.SIGCONT)
		asking.Wait()
		for i, e := range answers {
			lost := i%len(people)%2 == 0
			switch {
			case lost && (e.err != nil || e.status != http.StatusUnauthorized):
				t.Errorf("round %d: a write of somebody whose access was changed while it waited (%s) came to %s", round, changes[i%len(people)%len(changes)].name, e.told())
			case !lost && !e.fromRack():
				t.Errorf("round %d: a write of somebody else came to %s", round, e.told())
			case lost:
				stopped++
			default:
				went++
			}
		}
		for _, request := range env.Rack.Requests() {
			var of, caller int64
			var i int
			if _, err := fmt.Sscanf(keyOf(&request), "k%d-%d-%d", &of, &caller, &i); err == nil && of == number && caller == 1 && i%len(people)%2 == 0 {
				t.Errorf("round %d: the rack was asked for somebody whose access was gone: %s", round, request.Path)
			}
		}
		for _, s := range sessions {
			s.close()
		}
	}
	t.Logf("writes stopped between their record and the rack: %d; of others, let through: %d", stopped, went)
	books.close(t, allowance{})
}

// When announcements of changes do not arrive, and nothing else is amiss, nobody is served by what was true more than
// ACCESS_MAX_STALENESS ago: with the connection that listens frozen, so that nobody can tell, and with it cut again and again.
func TestNoDecisionIsStaleWhenAnnouncementsAreLost(t *testing.T) {
	t.Parallel()
	const staleness = time.Second
	env := start(t, testenv.Options{Proxies: 2, Config: map[string]string{"ACCESS_MAX_STALENESS": staleness.String()}})
	books := newBooks(env)
	r := &revocations{env: env, books: books, staff: newPeople(t, env)}
	changes := r.changes()[:4]
	var frozen, cut []took
	for i := range pick(4, 40) {
		c := changes[i%len(changes)]
		var held []int
		frozen = append(frozen, r.lose(t, c, func() (end func()) {
			eventually(t, "both proxies listened", func() bool { held = backends(t, env, aListeningBackend); return len(held) == 2 })
			signalAll(held, syscall.SIGSTOP)
			end = func() { signalAll(held, syscall.SIGCONT) }
			t.Cleanup(end)
			return end
		}))
		cut = append(cut, r.lose(t, c, func() func() {
			ctx, stop := context.WithCancel(t.Context())
			db, err := sql.Open("postgres", env.Postgres.URL(cluster.Superuser, env.Database))
			must(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for ctx.Err() == nil { // as soon as they are there again
					_, _ = db.ExecContext(ctx, endListeners, cluster.Proxy)
				}
			}()
			return func() { stop(); <-done; _ = db.Close() }
		}))
	}
	for name, list := range map[string][]took{"frozen": frozen, "cut again and again": cut} {
		t.Logf("the connection that listens %s, ACCESS_MAX_STALENESS %s: refused %s", name, staleness, spread(list))
		for _, one := range list {
			if one.fromCommit > staleness+generous {
				t.Errorf("with the connection that listens %s, a decision was %s stale", name, one.fromCommit)
			}
		}
	}
	books.close(t, allowance{})
}

// lose makes a change while announcements are lost, and returns how long both proxies went on as before.
func (r *revocations) lose(t *testing.T, c change, begin func() (end func())) took {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	who, err := r.prepare(ctx, c)
	must(t, err)
	number := loads.Add(1)
	callers := make([]*caller, len(r.env.Proxies))
	for i, p := range r.env.Proxies {
		callers[i] = &caller{address: at(p), token: who.token}
		defer callers[i].hangUp()
		e := callers[i].ask(ctx, c.shape, fmt.Sprintf("k%d-%d-0", number, i))
		r.books.note(e)
		if !e.fromRack() {
			t.Fatalf("before the change, a request came to %s", e.told())
		}
	}
	end := begin()
	defer end()
	began := time.Now()
	must(t, c.apply(ctx, who))
	committed := time.Now()
	var both sync.WaitGroup
	last := make([]time.Time, len(callers)) // that somebody was served
	for i, c2 := range callers {
		both.Go(func() {
			last[i] = committed
			for n := 1; ctx.Err() == nil; n++ {
				began := time.Now()
				e := c2.ask(ctx, c.shape, fmt.Sprintf("k%d-%d-%d", number, i, n))
				r.books.note(e)
				if e.err != nil || !e.fromRack() && e.status != http.StatusUnauthorized && e.status != http.StatusForbidden {
					t.Errorf("while announcements are lost, a request came to %s", e.told())
				}
				if !e.fromRack() {
					if took := time.Since(began); took > time.Second {
						t.Logf("%s: %s refused %s after it was asked, %s after the commit", c.name, r.env.Proxies[i].Name, took, time.Since(committed))
					}
					return
				}
				last[i] = time.Now()
			}
		})
	}
	both.Wait()
	felt := slices.MaxFunc(last, time.Time.Compare)
	return took{felt.Sub(began), felt.Sub(committed)}
}
