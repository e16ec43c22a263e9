package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/testenv"
)

// generous is what a test allows for what should take milliseconds: the benchmark has the bar.
const generous = 2 * time.Second

// aDeletion takes that destructive actions are allowed.
var aDeletion = &shape{name: "deletion", method: "DELETE", path: "/apps/KEY", write: true}

// change is one way to take something from somebody.
type change struct {
	name  string
	apply func(ctx context.Context, who person) error
	shape *shape // what is refused from then on
	stays bool   // sessions do not end with it
}

// revocations is the test bench of changes: two proxies, and whoever makes changes.
type revocations struct {
	env   *testenv.Env
	books *books
	staff *people
	pid   string
}

// rightsOf are the permissions of the role that each person has alone.
func rightsOf(who person) string { return "role-of-" + who.email[:len(who.email)-len("@example.com")] }

var mayWork = []string{"convox:config:set", "convox:process:exec", "convox:process:read", "convox:app:read"}

// changes are all the ways: as admin makes them, by plain SQL, and by the admin program.
func (r *revocations) changes() []change {
	exec := func(query string, arg func(person) any) func(context.Context, person) error {
		return func(ctx context.Context, who person) error {
			result, err := r.env.DB.ExecContext(ctx, query, arg(who))
			if err != nil {
				return err
			}
			if n, err := result.RowsAffected(); err != nil || n == 0 {
				return fmt.Errorf("the statement changed %d rows: %w", n, err)
			}
			return nil
		}
	}
	run := func(args func(person) []string) func(context.Context, person) error {
		return func(_ context.Context, who person) error {
			_, stderr, err := r.env.TryAdmin(args(who)...)
			if err != nil {
				return fmt.Errorf("%w: %s", err, stderr)
			}
			return nil
		}
	}
	w := r.staff.writer
	token := func(who person) any { return who.tokenID }
	email := func(who person) any { return who.email }
	role := func(who person) any { return rightsOf(who) }
	return []change{
		{name: "token revoked", shape: aWrite, apply: func(ctx context.Context, who person) error {
			_, err := w.Revoke(ctx, testActor, who.tokenID, "test")
			return err
		}},
		{name: "person locked", shape: aWrite, apply: func(ctx context.Context, who person) error {
			_, err := w.Lock(ctx, testActor, who.email, "test")
			return err
		}},
		{name: "role taken", shape: aWrite, apply: func(ctx context.Context, who person) error {
			_, err := w.SetRoles(ctx, testActor, who.email, []directory.Binding{{Role: "viewer", App: "*"}})
			return err
		}},
		{name: "role edited", shape: aWrite, apply: func(ctx context.Context, who person) error {
			_, err := w.EditRole(ctx, testActor, rightsOf(who), directory.RoleEdit{Permissions: &[]string{"convox:app:read"}})
			return err
		}},
		{name: "setting changed", shape: aDeletion, stays: true, apply: func(ctx context.Context, _ person) error {
			_, err := w.SetSetting(ctx, testActor, "", "allow_destructive", json.RawMessage("false"))
			return err
		}},
		{name: "token revoked by SQL", shape: aWrite, apply: exec(`update rgw.tokens set revoked_at = now() where id = $1`, token)},
		{name: "token deleted by SQL", shape: aWrite, apply: exec(`delete from rgw.token_secrets where token_id = $1`, token)},
		{name: "person locked by SQL", shape: aWrite, apply: exec(`update rgw.users set locked_at = now() where email = $1`, email)},
		{name: "role taken by SQL", shape: aWrite, apply: exec(`delete from rgw.bindings where user_id = (select id from rgw.users where email = $1)`, email)},
		{name: "role edited by SQL", shape: aWrite, apply: exec(`update rgw.roles set permissions = '{}' where name = $1`, role)},
		{name: "setting changed by SQL", shape: aDeletion, stays: true, apply: exec(`update rgw.settings set value = 'false' where key = 'allow_destructive' and $1::text <> ''`, email)},
		{name: "admin token revoke", shape: aWrite, apply: run(func(who person) []string { return []string{"token", "revoke", who.tokenID, "--reason", "test"} })},
		{name: "admin user lock", shape: aWrite, apply: run(func(who person) []string { return []string{"user", "lock", who.email, "--reason", "test"} })},
		{name: "admin user role", shape: aWrite, apply: run(func(who person) []string { return []string{"user", "role", who.email, "--set", "viewer"} })},
		{name: "admin role edit", shape: aWrite, apply: run(func(who person) []string {
			return []string{"role", "edit", rightsOf(who), "--permission", "convox:app:read"}
		})},
		{name: "admin setting set", shape: aDeletion, stays: true, apply: run(func(person) []string { return []string{"setting", "set", "allow_destructive", "false"} })},
	}
}

// prepare makes somebody with the role that the change takes away from.
func (r *revocations) prepare(ctx context.Context, c change) (person, error) {
	if c.shape == aDeletion {
		return r.staff.add(ctx, "admin")
	}
	next := person{email: fmt.Sprintf("person%d@example.com", r.staff.made.Load()+1)}
	if _, err := r.staff.writer.CreateRole(ctx, testActor, directory.NewRole{Name: rightsOf(next), Permissions: mayWork}); err != nil {
		return person{}, err
	}
	return r.staff.add(ctx, rightsOf(next))
}

// took is how long it took until a change was felt, from before it began and from when it was committed.
type took struct{ fromStart, fromCommit time.Duration }

// measure makes one change and waits until it is felt: by requests through one proxy, and by a session through the other.
func (r *revocations) measure(t *testing.T, c change, who person, session, requests *testenv.Proxy) (refused, ended took) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if c.shape == aDeletion {
		_, err := r.staff.writer.SetSetting(ctx, testActor, "", "allow_destructive", json.RawMessage("true"))
		must(t, err)
	}
	number := loads.Add(1)
	s, err := r.books.openSession(ctx, session.URL, who.token, r.pid, fmt.Sprintf("k%d-0-0", number))
	must(t, err)
	defer s.close()
	asks := &caller{address: at(requests), token: who.token}
	defer asks.hangUp()
	ask := func(n int) *entry {
		e := asks.ask(ctx, c.shape, fmt.Sprintf("k%d-1-%d", number, n))
		r.books.note(e)
		return e
	}
	eventually(t, "the person was served before "+c.name, func() bool { // a setting takes a moment to be heard of
		return ask(int(loads.Add(1))).fromRack()
	})
	feels := make(chan time.Time, 1)
	asking := make(chan struct{})
	var last *entry
	go func() {
		defer close(feels)
		for n := 0; ctx.Err() == nil; n++ {
			if n == 1 {
				close(asking)
			}
			if last = ask(n + 1_000_000); !last.fromRack() {
				feels <- time.Now()
				return
			}
		}
	}()
	<-asking
	began := time.Now()
	must(t, c.apply(ctx, who))
	committed := time.Now()
	felt, ok := <-feels
	if !ok || last.err != nil || last.status != http.StatusUnauthorized && last.status != http.StatusForbidden {
		t.Fatalf("%s: requests came to %s", c.name, last.told())
	}
	refused = took{felt.Sub(began), max(0, felt.Sub(committed))}
	if c.stays {
		must(t, s.echo(ctx, "still here"))
		s.finish(t)
		return refused, took{}
	}
	if err := s.endedBy(ctx, ""); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
	ended = took{s.at.Sub(began), max(0, s.at.Sub(committed))}
	// What the rack was asked after the change.
	for _, request := range r.env.Rack.Requests() {
		if late := request.Time.Sub(committed); late > generous && keyForm.FindString(request.Path) != "" && r.books.by(keyOf(&request), number) {
			t.Errorf("%s: the rack was asked %s after it", c.name, late)
		}
	}
	return refused, ended
}

// by is whether a key is of a load.
func (b *books) by(key string, number int64) bool {
	var of, caller, n int64
	_, err := fmt.Sscanf(key, "k%d-%d-%d", &of, &caller, &n)
	return err == nil && of == number
}

// What is taken from somebody is gone at once and everywhere: requests through another proxy are refused, and a session
// that is open ends with a message and the exit code 1.
func TestWhatIsTakenIsGoneAtOnceAndEverywhere(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: 2})
	r := &revocations{env: env, books: newBooks(env), staff: newPeople(t, env)}
	var err error
	r.pid, err = env.Rack.AwaitProcess(t.Context(), "demo", "web")
	must(t, err)
	type turn struct {
		change
		who person
	}
	var turns []turn
	for _, c := range r.changes() {
		rounds := pick(9, 60)
		if strings.HasPrefix(c.name, "admin ") {
			rounds = pick(1, 15) // a process each
		}
		for range rounds {
			who, err := r.prepare(t.Context(), c)
			must(t, err)
			turns = append(turns, turn{c, who})
		}
	}
	heard(t, env)
	var refused, ended []took
	for i, turn := range turns {
		one, other := r.measure(t, turn.change, turn.who, env.Proxies[i%2], env.Proxies[(i+1)%2])
		refused = append(refused, one)
		if !turn.stays {
			ended = append(ended, other)
		}
		if worst := max(one.fromCommit, other.fromCommit); worst > generous {
			t.Errorf("%s: it took %s until it was felt", turn.name, worst)
		}
	}
	t.Logf("refused by the other proxy: %s", spread(refused))
	t.Logf("open exec ended: %s", spread(ended))
	r.books.close(t, allowance{})
}

// spread describes many durations.
func spread(all []took) string {
	describe := func(of func(took) time.Duration) string {
		list := make([]time.Duration, len(all))
		for i, one := range all {
			list[i] = of(one)
		}
		slices.Sort(list)
		at := func(q float64) time.Duration {
			return list[min(int(q*float64(len(list))), len(list)-1)].Round(10 * time.Microsecond)
		}
		return fmt.Sprintf("p50 %s, p99 %s, max %s", at(0.5), at(0.99), at(1))
	}
	return fmt.Sprintf("%d times; from the commit %s; from before the change began %s", len(all),
		describe(func(t took) time.Duration { return t.fromCommit }), describe(func(t took) time.Duration { return t.fromStart }))
}
