package directory_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"rackgateway/pkg/directory"
)

func TestAddressesAreFoldedAndPlain(t *testing.T) {
	w := newWorld(t)
	u := w.add(t, "  Ana.Smith+x@Example.COM ", "viewer")
	if u.Email != "ana.smith+x@example.com" {
		t.Errorf("kept as %q", u.Email)
	}
	if found := must[directory.User](t)(w.User(t.Context(), "ANA.SMITH+X@example.com")); found.ID != u.ID {
		t.Error("not found by the address in other letters")
	}
	for _, address := range []string{
		"", "ana", "@example.com", "ana@", "Ana <ana@example.com>", "ana@example.com, dan@example.com", `"a b"@example.com`,
		"a na@example.com", "ana@exa\u0000mple.com", "аna@example.com", "ana@example.com\n", "(x)ana@example.com",
		strings.Repeat("a", 250) + "@example.com", "ana@[127.0.0.1]", "a%@example.com\xff",
	} {
		if _, err := w.AddUsers(t.Context(), console, []directory.NewUser{{Email: address}}); address == "ana@example.com\n" {
			if err != nil { // blank space around an address is no part of it
				t.Errorf("%q: %v", address, err)
			}
		} else {
			wantCode(t, err, "bad-address")
		}
	}
}

func TestPeopleAreAddedTogetherOrNotAtAll(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com")
	_, err := w.AddUsers(t.Context(), console, []directory.NewUser{{Email: "new@example.com"}, {Email: "ana@example.com"}})
	wantCode(t, err, "user-exists")
	_, err = w.User(t.Context(), "new@example.com")
	wantCode(t, err, "no-such-user")
	_, err = w.AddUsers(t.Context(), console, []directory.NewUser{{Email: "new@example.com"}, {Email: "NEW@example.com"}})
	wantCode(t, err, "address-twice")
	_, err = w.AddUsers(t.Context(), console, []directory.NewUser{{Email: "new@example.com", Bindings: []directory.Binding{{Role: "nosuch"}}}})
	wantCode(t, err, "no-such-role")
	_, err = w.AddUsers(t.Context(), console, nil)
	wantCode(t, err, "bad-count")
}

func TestNamesAndReasonsAreWhatTheySeem(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a\x1b[2Jb", "a\u202eb", "a\nb", "\xff", strings.Repeat("x", 201)} {
		_, err := w.AddUsers(t.Context(), console, []directory.NewUser{{Email: "ana@example.com", Name: name}})
		wantCode(t, err, "bad-name")
	}
	w.add(t, "ana@example.com")
	_, err := w.Lock(t.Context(), console, "ana@example.com", " ")
	wantCode(t, err, "reason-missing")
}

func TestALockedUserKeepsTheirRolesAndTheReason(t *testing.T) {
	w := newWorld(t)
	w.add(t, "dan@example.com", "deployer@web")
	u := must[directory.User](t)(w.Lock(t.Context(), console, "dan@example.com", "laptop stolen"))
	if u.Active() || u.LockedReason != "laptop stolen" || !u.LockedAt.Equal(w.now) {
		t.Errorf("locked as %+v", u)
	}
	_, err := w.Lock(t.Context(), console, "dan@example.com", "again")
	wantCode(t, err, "user-locked")
	u = must[directory.User](t)(w.Unlock(t.Context(), console, "dan@example.com"))
	if !u.Active() || u.LockedReason != "" || len(u.Bindings) != 1 {
		t.Errorf("unlocked as %+v", u)
	}
	_, err = w.Unlock(t.Context(), console, "dan@example.com")
	wantCode(t, err, "user-not-locked")
}

func TestARemovedUserIsGoneAndTheAddressFreeAgain(t *testing.T) {
	w := newWorld(t)
	old := w.add(t, "dan@example.com", "deployer")
	token, _, err := w.CreateToken(t.Context(), console, directory.NewToken{Kind: "cli", Name: "laptop", Owner: "dan@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	must[directory.User](t)(w.Remove(t.Context(), console, "dan@example.com"))
	_, err = w.User(t.Context(), "dan@example.com")
	wantCode(t, err, "no-such-user")
	_, err = w.Unlock(t.Context(), console, old.ID.String())
	wantCode(t, err, "user-removed")
	if gone := must[directory.User](t)(w.User(t.Context(), old.ID.String())); gone.Email != "dan@example.com" || gone.RemovedAt == nil || len(gone.Bindings) != 0 {
		t.Errorf("history keeps %+v", gone)
	}
	if token = must[directory.Token](t)(w.Token(t.Context(), token.ID.String())); token.State(w.now) != "revoked" {
		t.Errorf("the token is %s", token.State(w.now))
	}
	if again := w.add(t, "dan@example.com"); again.ID == old.ID || len(again.Bindings) != 0 {
		t.Errorf("added again as %+v", again)
	}
}

func TestRolesAreSetGivenAndTaken(t *testing.T) {
	w := newWorld(t)
	w.add(t, "dan@example.com", "viewer")
	want := func(u directory.User, err error, roles string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, b := range must[directory.User](t)(w.User(t.Context(), u.Email)).Bindings {
			texts = append(texts, b.String())
		}
		if got := strings.Join(texts, " "); got != roles {
			t.Errorf("roles are %q, want %q", got, roles)
		}
	}
	u, err := w.SetRoles(t.Context(), console, "dan@example.com", bindings(t, "deployer@web", "ops@worker-*", "deployer@web", "viewer@*"))
	want(u, err, "deployer@web ops@worker-* viewer")
	u, err = w.EditRoles(t.Context(), console, "dan@example.com", bindings(t, "ops"), bindings(t, "viewer", "ops@worker-*"))
	want(u, err, "deployer@web ops")
	_, err = w.Unbind(t.Context(), console, "dan@example.com", bindings(t, "deployer")...)
	wantCode(t, err, "not-bound")
	_, err = w.Bind(t.Context(), console, "dan@example.com", bindings(t, "ops")...)
	wantCode(t, err, "no-change")
	_, err = w.Bind(t.Context(), console, "dan@example.com", bindings(t, "cicd@web")...)
	wantCode(t, err, "role-for-tokens-only")
	_, err = w.Bind(t.Context(), console, "dan@example.com", directory.Binding{Role: "ops", App: "Web"})
	wantCode(t, err, "bad-pattern")
	u, err = w.SetRoles(t.Context(), console, "dan@example.com", nil)
	want(u, err, "")
}

func TestTheLastAdminStays(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin", "viewer")
	w.add(t, "eve@example.com", "admin@web") // over some apps: she cannot administer the gateway
	w.add(t, "bob@example.com", "admin")
	must[directory.User](t)(w.Lock(t.Context(), console, "bob@example.com", "on leave"))
	for name, attempt := range map[string]func() (directory.User, error){
		"lock":   func() (directory.User, error) { return w.Lock(t.Context(), console, "ana@example.com", "x") },
		"remove": func() (directory.User, error) { return w.Remove(t.Context(), console, "ana@example.com") },
		"demote": func() (directory.User, error) {
			return w.SetRoles(t.Context(), console, "ana@example.com", bindings(t, "viewer"))
		},
		"unbind": func() (directory.User, error) {
			return w.Unbind(t.Context(), console, "ana@example.com", bindings(t, "admin")...)
		},
		"narrow": func() (directory.User, error) {
			return w.SetRoles(t.Context(), console, "ana@example.com", bindings(t, "admin@web-*"))
		},
		"have none": func() (directory.User, error) { return w.SetRoles(t.Context(), console, "ana@example.com", nil) },
	} {
		_, err := attempt()
		if directory.CodeOf(err) != "last-admin" {
			t.Errorf("%s: %v", name, err)
		}
	}
	must[directory.User](t)(w.Unlock(t.Context(), console, "bob@example.com"))
	must[directory.User](t)(w.Remove(t.Context(), console, "ana@example.com"))
}

// Two at once: each would leave the other one, and both together nobody.
func TestTheLastTwoAdminsCannotBothGo(t *testing.T) {
	w := newWorld(t)
	for round := range 20 {
		first, second := fmt.Sprintf("a%d@example.com", round), fmt.Sprintf("b%d@example.com", round)
		w.add(t, first, "admin")
		w.add(t, second, "admin")
		if round > 0 { // whoever stayed in the round before goes now
			for _, u := range must[directory.Page[directory.User]](t)(w.ListUsers(t.Context(), directory.UserFilter{Role: "admin"})).Items {
				if u.Email != first && u.Email != second {
					must[directory.User](t)(w.Remove(t.Context(), console, u.Email))
				}
			}
		}
		errs := make([]error, 2)
		var together sync.WaitGroup
		together.Go(func() { _, errs[0] = w.SetRoles(t.Context(), console, first, bindings(t, "viewer")) })
		together.Go(func() {
			if round%2 == 0 {
				_, errs[1] = w.Lock(t.Context(), console, second, "race")
			} else {
				_, errs[1] = w.Remove(t.Context(), console, second)
			}
		})
		together.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v and %v", round, errs[0], errs[1])
		}
		for _, err := range errs {
			if err != nil {
				wantCode(t, err, "last-admin")
			}
		}
	}
}

// Each locks the other: whoever is second has no access any more.
func TestOfTwoAdminsWhoLockEachOtherOneStays(t *testing.T) {
	w := newWorld(t)
	ana, bob := w.add(t, "ana@example.com", "admin"), w.add(t, "bob@example.com", "admin")
	w.add(t, "eve@example.com", "admin")
	errs := make([]error, 2)
	var together sync.WaitGroup
	together.Go(func() { _, errs[0] = w.Lock(t.Context(), person(ana), bob.Email, "race") })
	together.Go(func() { _, errs[1] = w.Lock(t.Context(), person(bob), ana.Email, "race") })
	together.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Fatalf("%v and %v", errs[0], errs[1])
	}
	for _, err := range errs {
		if err != nil {
			wantCode(t, err, "actor-locked")
		}
	}
}

func TestUsersAreListedByPagesAndFound(t *testing.T) {
	w := newWorld(t)
	var people []directory.NewUser
	for i := range 25 {
		people = append(people, directory.NewUser{Email: fmt.Sprintf("user%02d@example.com", i), Name: fmt.Sprintf("Person 100%% number_%d", i), Bindings: bindings(t, "viewer")})
	}
	must[[]directory.User](t)(w.AddUsers(t.Context(), console, people))
	must[directory.User](t)(w.Lock(t.Context(), console, "user03@example.com", "x"))
	must[directory.User](t)(w.Remove(t.Context(), console, "user04@example.com"))
	list := func(f directory.UserFilter) []string {
		var all []string
		for {
			page := must[directory.Page[directory.User]](t)(w.ListUsers(t.Context(), f))
			for _, u := range page.Items {
				all = append(all, u.Email)
				if u.RemovedAt == nil && len(u.Bindings) != 1 {
					t.Errorf("%s has %v", u.Email, u.Bindings)
				}
			}
			if f.After = page.Next; page.Next == "" {
				return all
			}
		}
	}
	if all := list(directory.UserFilter{Limit: 7}); len(all) != 24 || !slices.IsSorted(all) || slices.Contains(all, "user04@example.com") {
		t.Errorf("listed %v", all)
	}
	if all := list(directory.UserFilter{Limit: 5, Removed: true}); len(all) != 25 {
		t.Errorf("with the removed, listed %d", len(all))
	}
	if one := list(directory.UserFilter{Search: "USER07"}); len(one) != 1 {
		t.Errorf("by address, found %v", one)
	}
	if one := list(directory.UserFilter{Search: "number_7"}); len(one) != 1 {
		t.Errorf("by name, found %v: an underscore stands for itself", one)
	}
	if none := list(directory.UserFilter{Search: "numberx7"}); len(none) != 0 {
		t.Errorf("found %v", none)
	}
	if all := list(directory.UserFilter{Search: "100% n"}); len(all) != 24 {
		t.Errorf("a percent sign stands for itself: found %d", len(all))
	}
	locked, yes := list(directory.UserFilter{Locked: new(bool)}), true
	if len(locked) != 23 || len(list(directory.UserFilter{Locked: &yes})) != 1 {
		t.Errorf("%d are not locked", len(locked))
	}
	if len(list(directory.UserFilter{Role: "ops"})) != 0 || len(list(directory.UserFilter{Role: "viewer"})) != 24 {
		t.Error("the filter by role is wrong")
	}
	for _, cursor := range []string{"x", "%", "AAAA", strings.Repeat("A", 22) + "_w"} {
		_, err := w.ListUsers(t.Context(), directory.UserFilter{After: cursor})
		wantCode(t, err, "bad-cursor")
	}
	_, err := w.ListUsers(t.Context(), directory.UserFilter{Limit: 1001})
	wantCode(t, err, "bad-limit")
}
