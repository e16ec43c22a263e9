package faults

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/testenv"
)

// ask sends JSON to an admin as somebody, and returns the status and the body. The error is of an admin that is not
// there.
func ask(ctx context.Context, env *testenv.Env, admin *testenv.AdminServer, who, method, path, key, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, admin.URL+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+env.Token(who))
	req.Header.Set("Content-Type", testenv.JSONType)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := env.Client().Do(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, string(text), err
}

// Whatever moment an admin is killed at, a change that it was asked for is there together with its event, or neither
// is; what a client was told is done, is; and asking again under the same key does nothing twice.
func TestAnAdminKilledInMidChangeLeavesTheChangeAndItsEventOrNeither(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: -1, Admins: 1})
	admin, random := env.Admins[0], chance(t)
	ctx, stop := context.WithCancel(t.Context())
	var (
		next, done atomic.Int64
		mu         sync.Mutex
		answered   = make(map[string]bool) // by address: whether a client was told that it is done
		callers    sync.WaitGroup
	)
	add := func(address string) (int, string, error) {
		return ask(t.Context(), env, admin, "admin", http.MethodPost, "/users", "key-of-"+address, fmt.Sprintf(`{"email":%q}`, address))
	}
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				address := fmt.Sprintf("change-%d@example.com", next.Add(1))
				status, body, err := add(address)
				switch {
				case err == nil && status == http.StatusCreated:
					done.Add(1)
				case err == nil && status < http.StatusInternalServerError:
					t.Errorf("%s: %d %s", address, status, body)
				}
				mu.Lock()
				answered[address] = err == nil && status == http.StatusCreated
				mu.Unlock()
				if err != nil { // nobody is there
					pause := time.NewTimer(5 * time.Millisecond)
					select {
					case <-pause.C:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	kills := pick(5, 60)
	for range kills {
		more := done.Load() + 20
		eventually(t, "changes are made", func() bool { return done.Load() >= more })
		moment(t.Context(), random, 0, 100*time.Millisecond)
		admin.Kill()
		admin.Start()
		admin.WaitReady(t.Context())
	}
	stop()
	callers.Wait()

	state := func() (people, events map[string]int) {
		t.Helper()
		count := func(query string) map[string]int {
			var rows []struct {
				Address string `db:"address"`
				N       int    `db:"n"`
			}
			if err := env.DB.SelectContext(t.Context(), &rows, query); err != nil {
				t.Fatal(err)
			}
			counts := make(map[string]int)
			for _, row := range rows {
				counts[row.Address] = row.N
			}
			return counts
		}
		return count(`select email as address, count(*) as n from rgw.users where email like 'change-%' group by 1`),
			count(`select resource as address, count(*) as n from rgw.audit_events where action = 'user.add' and phase = 'finished' and resource like 'change-%' group by 1`)
	}
	people, events := state()
	if !maps.Equal(people, events) {
		t.Errorf("%d people were added, and %d events tell of it: %v", len(people), len(events), differing(people, events))
	}
	unknown := 0
	for address, told := range answered {
		if told && people[address] != 1 {
			t.Errorf("%s was told to be there, and is not", address)
		}
		if !told {
			unknown++
		}
	}
	t.Logf("admins killed: %d; %d changes made; what became of %d the client never heard", kills, len(people), unknown)

	for address, told := range answered {
		if told {
			continue
		}
		if status, body, err := add(address); err != nil || status != http.StatusCreated && status != http.StatusConflict {
			t.Errorf("%s again: %d %s (%v)", address, status, body, err)
		}
	}
	again, events := state()
	if !maps.Equal(again, events) || slices.ContainsFunc(slices.Collect(maps.Values(again)), func(n int) bool { return n != 1 }) {
		t.Errorf("after asking again: %v", differing(again, events))
	}
}

// differing lists what two counts differ in.
func differing(a, b map[string]int) []string {
	var list []string
	for name, n := range a {
		if b[name] != n {
			list = append(list, fmt.Sprintf("%s: %d and %d", name, n, b[name]))
		}
	}
	for name, n := range b {
		if _, ok := a[name]; !ok {
			list = append(list, fmt.Sprintf("%s: 0 and %d", name, n))
		}
	}
	slices.Sort(list)
	return list
}

// Two processes, asked at once for what cannot both be done.
func TestTwoAdminsAtOnce(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: -1, Admins: 2})
	staff := newPeople(t, env)
	env.AddUser("ben", "admin")
	ids := make(map[string]string)
	var rows []struct {
		ID    string `db:"id"`
		Email string `db:"email"`
	}
	if err := env.DB.SelectContext(t.Context(), &rows, `select id::text, email from rgw.users`); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		ids[row.Email] = row.ID
	}
	type outcome struct {
		status int
		body   string
	}
	both := func(one, two func() (int, string, error)) (a, b outcome) {
		t.Helper()
		var asked sync.WaitGroup
		for i, f := range []func() (int, string, error){one, two} {
			asked.Go(func() {
				status, body, err := f()
				if err != nil {
					t.Error(err)
				}
				*[]*outcome{&a, &b}[i] = outcome{status, body}
			})
		}
		asked.Wait()
		return a, b
	}
	count := func(query string, args ...any) int {
		t.Helper()
		var n int
		if err := env.DB.GetContext(t.Context(), &n, query, args...); err != nil {
			t.Fatal(err)
		}
		return n
	}

	for round := range pick(12, 200) {
		// Each of two admins demotes the other.
		demote := func(admin int, who, whom string) func() (int, string, error) {
			return func() (int, string, error) {
				return ask(t.Context(), env, env.Admins[admin], who, http.MethodPut, "/users/"+ids[whom]+"/bindings", "", `{"bindings":[{"role":"viewer","app":"*"}]}`)
			}
		}
		one, two := both(demote(0, "admin", "ben@example.com"), demote(1, "ben", "ana@example.com"))
		left := count(`select count(*) from rgw.bindings b join rgw.users u on u.id = b.user_id where b.role = 'admin' and u.email in ('ana@example.com', 'ben@example.com')`)
		if left != 1 || (one.status == http.StatusOK) == (two.status == http.StatusOK) {
			t.Fatalf("round %d: %d admins are left, after %d %s and %d %s", round, left, one.status, one.body, two.status, two.body)
		}
		for _, email := range []string{"ana@example.com", "ben@example.com"} {
			if _, err := staff.writer.SetRoles(t.Context(), testActor, email, []directory.Binding{{Role: "admin", App: "*"}}); err != nil && directory.CodeOf(err) != "no-change" {
				t.Fatal(err)
			}
		}
		for i, who := range []string{"admin", "ben", "admin", "ben"} {
			eventually(t, "both admins have heard that "+who+" is an admin again", func() bool {
				status, _, err := ask(t.Context(), env, env.Admins[i/2], who, http.MethodGet, "/users", "", "")
				return err == nil && status == http.StatusOK
			})
		}

		// Both make a role of the same name.
		role := func(admin int) func() (int, string, error) {
			return func() (int, string, error) {
				return ask(t.Context(), env, env.Admins[admin], "admin", http.MethodPost, "/roles", "", fmt.Sprintf(`{"name":"role-%d","permissions":["convox:app:list"]}`, round))
			}
		}
		one, two = both(role(0), role(1))
		if min(one.status, two.status) != http.StatusCreated || max(one.status, two.status) != http.StatusConflict {
			t.Errorf("round %d: a role made twice: %d %s and %d %s", round, one.status, one.body, two.status, two.body)
		}

		// The same request under the same key comes to both.
		address := fmt.Sprintf("twice-%d@example.com", round)
		same := func(admin int) func() (int, string, error) {
			return func() (int, string, error) {
				return ask(t.Context(), env, env.Admins[admin], "admin", http.MethodPost, "/users", "key-of-"+address, fmt.Sprintf(`{"email":%q}`, address))
			}
		}
		one, two = both(same(0), same(1))
		if one.status != http.StatusCreated && two.status != http.StatusCreated {
			t.Errorf("round %d: under one key: %d %s and %d %s", round, one.status, one.body, two.status, two.body)
		}
		if n := count(`select count(*) from rgw.audit_events where action = 'user.add' and resource = $1`, address); n != 1 {
			t.Errorf("round %d: under one key it was recorded %d times", round, n)
		}
	}
}
