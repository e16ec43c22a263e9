package directory_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestNobodyGivesWhatTheyDoNotHave(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.add(t, "root@example.com", "admin")
	must[directory.Role](t)(w.CreateRole(ctx, console, directory.NewRole{Name: "people", Permissions: []string{"gateway:user:manage", "gateway:role:manage", "gateway:token:manage"}}))
	eve := person(w.add(t, "eve@example.com", "people", "deployer@web-*"))
	w.add(t, "dan@example.com")
	w.add(t, "loc@example.com", "admin")
	must[directory.User](t)(w.Lock(ctx, console, "loc@example.com", "x"))

	refusals := map[string]func() error{
		"a role to herself":  func() error { _, err := w.Bind(ctx, eve, "eve@example.com", bindings(t, "admin")...); return err },
		"a role to a friend": func() error { _, err := w.SetRoles(ctx, eve, "dan@example.com", bindings(t, "ops")); return err },
		"a role over more apps": func() error {
			_, err := w.Bind(ctx, eve, "dan@example.com", bindings(t, "deployer@web*")...)
			return err
		},
		"a role to a new user": func() error {
			_, err := w.AddUsers(ctx, eve, []directory.NewUser{{Email: "new@example.com", Bindings: bindings(t, "viewer")}})
			return err
		},
		"rights to a role of hers": func() error {
			_, err := w.EditRole(ctx, eve, "people", directory.RoleEdit{Add: []string{"convox:secret:read"}})
			return err
		},
		"rights to a new role": func() error {
			_, err := w.CreateRole(ctx, eve, directory.NewRole{Name: "mine", Permissions: []string{"convox:app:list"}})
			return err
		},
		"rights to a token": func() error {
			_, _, err := w.CreateToken(ctx, eve, directory.NewToken{Kind: credential.API, Name: "ci", Owner: "eve@example.com", Bindings: bindings(t, "cicd")})
			return err
		},
		"permissions to a token": func() error {
			_, _, err := w.CreateToken(ctx, eve, directory.NewToken{Kind: credential.API, Name: "ci", Owner: "eve@example.com", Permissions: []string{"convox:app:list"}})
			return err
		},
		"what a locked user had": func() error { _, err := w.Unlock(ctx, eve, "loc@example.com"); return err },
	}
	for name, attempt := range refusals {
		if err := attempt(); directory.CodeOf(err) != "wider-than-yours" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := w.CreateToken(ctx, eve, directory.NewToken{Kind: credential.CLI, Name: "his", Owner: "dan@example.com"}); directory.CodeOf(err) != "own-tokens-only" {
		t.Errorf("a token that acts as somebody else: %v", err)
	}

	// What she has, she gives.
	must[directory.User](t)(w.Bind(ctx, eve, "dan@example.com", bindings(t, "deployer@web-api", "viewer@web-*-x", "people")...))
	must[directory.Role](t)(w.CreateRole(ctx, eve, directory.NewRole{Name: "half", Permissions: []string{"gateway:user:manage"}}))
	if _, _, err := w.CreateToken(ctx, eve, directory.NewToken{Kind: credential.API, Name: "ci", Owner: "dan@example.com", Bindings: bindings(t, "deployer@web-api")}); err != nil {
		t.Errorf("a token within her rights: %v", err)
	}
	if _, _, err := w.CreateToken(ctx, eve, directory.NewToken{Kind: credential.CLI, Name: "hers", Owner: "eve@example.com"}); err != nil {
		t.Errorf("a CLI token of her own: %v", err)
	}
	// Taking needs no rights of one's own.
	must[directory.User](t)(w.SetRoles(ctx, eve, "dan@example.com", nil))
}

func TestATokenGivesNoMoreThanItAndItsCreatorHave(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.add(t, "root@example.com", "admin")
	ana := w.add(t, "ana@example.com", "admin")
	parent, _, err := w.CreateToken(ctx, person(ana), directory.NewToken{
		Kind: credential.API, Name: "parent", Owner: "ana@example.com", Permissions: []string{"convox:app:list", "convox:log:read", "gateway:token:manage"},
	})
	if err != nil {
		t.Fatal(err)
	}
	actor := directory.Actor{Kind: audit.ActorAPIToken, ID: parent.ID.String(), Label: parent.Name, Token: parent.ID}
	child := func(name string, permissions ...string) (directory.Token, error) {
		token, _, err := w.CreateToken(ctx, actor, directory.NewToken{Kind: credential.API, Name: name, Owner: "ana@example.com", Permissions: permissions})
		return token, err
	}
	made, err := child("child", "convox:app:list")
	if err != nil || made.CreatorID != ana.ID {
		t.Errorf("made %+v, %v", made, err)
	}
	_, err = child("wider", "convox:secret:read")
	wantCode(t, err, "wider-than-yours")
	_, _, err = w.CreateToken(ctx, actor, directory.NewToken{Kind: credential.CLI, Name: "me", Owner: "ana@example.com"})
	wantCode(t, err, "own-tokens-only")

	must[directory.User](t)(w.SetRoles(ctx, console, "ana@example.com", bindings(t, "ops")))
	_, err = child("after-demotion", "gateway:token:manage")
	wantCode(t, err, "wider-than-yours")
	if _, err = child("still", "convox:log:read"); err != nil {
		t.Errorf("what both have: %v", err)
	}
	must[directory.User](t)(w.Lock(ctx, console, "ana@example.com", "x"))
	_, err = child("locked", "convox:log:read")
	wantCode(t, err, "actor-locked")
}

// Two ways to ask whether one pattern covers another: the rule, and trying every name of some letters.
func TestPatternsCoverWhatTheyMatch(t *testing.T) {
	letters := "ab*"
	var patterns, names []string
	var grow func(prefix string, left int)
	grow = func(prefix string, left int) {
		if prefix != "" {
			patterns = append(patterns, prefix)
		}
		if left > 0 {
			for _, l := range letters {
				grow(prefix+string(l), left-1)
			}
		}
	}
	grow("", 4)
	// A third letter, which no pattern names, and names long enough to tell any two of these patterns apart.
	letters = "abc"
	var all []string
	all, patterns = patterns, nil
	grow("", 6)
	names, patterns = patterns, all
	for _, wide := range patterns {
		for _, narrow := range patterns {
			want := true
			for _, name := range names {
				if access.PatternMatch(narrow, name) && !access.PatternMatch(wide, name) {
					want = false
					break
				}
			}
			if got := directory.PatternCovers(strings.ReplaceAll(wide, "**", "*"), strings.ReplaceAll(narrow, "**", "*")); got && !want {
				t.Fatalf("%q is taken to cover %q", wide, narrow)
			} else if want && !got && !strings.Contains(wide+" "+narrow, "**") {
				t.Errorf("%q is not taken to cover %q", wide, narrow)
			}
		}
	}
}

// A property: through any order of grants, demotions, locks, rotations and changes of roles, what the proxy lets an
// API token do lies within what its creator may do at that moment.
func TestAnAPITokenNeverExceedsItsCreator(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	w.add(t, "root@example.com", "admin")
	must[directory.Role](t)(w.CreateRole(ctx, console, directory.NewRole{Name: "custom", Permissions: []string{"convox:app:list"}}))
	creator := w.add(t, "ana@example.com", "admin")
	_, secret, err := w.CreateToken(ctx, person(creator), directory.NewToken{Kind: credential.API, Name: "ci", Owner: "root@example.com", Bindings: bindings(t, "deployer", "custom@web")})
	if err != nil {
		t.Fatal(err)
	}
	proxy := credential.NewCache(postgrestest.Open(t, w.proxyURL), deaf{}, credential.Options{Now: func() time.Time { return w.now }})
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	anyBindings := func() []directory.Binding {
		var texts []string
		for range random.IntN(3) {
			texts = append(texts, pick("viewer", "ops", "deployer", "admin", "custom")+"@"+pick("*", "web", "web-*", "api"))
		}
		return bindings(t, texts...)
	}
	steps := []func() error{
		func() error { _, err := w.SetRoles(ctx, console, creator.Email, anyBindings()); return err },
		func() error { _, err := w.Bind(ctx, console, creator.Email, anyBindings()...); return err },
		func() error { _, err := w.Lock(ctx, console, creator.Email, "x"); return err },
		func() error { _, err := w.Unlock(ctx, console, creator.Email); return err },
		func() error {
			_, replaced, err := w.Rotate(ctx, person(creator), "ci", directory.Rotation{})
			if err == nil {
				secret = replaced
			}
			return err
		},
		func() error {
			_, err := w.SetTokenRights(ctx, person(creator), "ci", directory.TokenRights{Bindings: anyBindings()})
			return err
		},
		func() error {
			_, err := w.SetTokenRights(ctx, console, "ci", directory.TokenRights{Permissions: []string{pick("convox:secret:read", "gateway:user:manage", "convox:app:list")}})
			return err
		},
		func() error {
			_, err := w.EditRole(ctx, console, "custom", directory.RoleEdit{Permissions: &[]string{pick("convox:secret:read", "convox:app:list", "convox:app:delete")}})
			return err
		},
	}
	rounds := 120
	if testing.Short() {
		rounds = 30
	}
	for range rounds {
		var answer *directory.Error
		if err := steps[random.IntN(len(steps))](); err != nil && !errors.As(err, &answer) {
			t.Fatal(err)
		}
		entry, err := proxy.Resolve(ctx, secret)
		if err != nil {
			t.Fatal(err)
		}
		w.isWithin(t, entry.Principal, creator.ID)
	}
}

// deaf is a feed without any proof of life, so that the proxy's cache asks the database each time.
type deaf struct{}

func (deaf) Subscribe(string, func(string)) {}
func (deaf) OnReset(func())                 {}
func (deaf) ProofAge() time.Duration        { return time.Hour }

// isWithin compares what the proxy would let a token do with what its creator may do, permission by permission.
func (w *world) isWithin(t *testing.T, p *access.Principal, creator uuid.UUID) {
	t.Helper()
	user := must[directory.User](t)(w.User(t.Context(), creator.String()))
	roles := map[string]directory.Role{}
	for _, role := range must[[]directory.Role](t)(w.ListRoles(t.Context())) {
		roles[role.Name] = role
	}
	mayCreator := func(permission access.Permission, app string) bool {
		if !user.Active() {
			return false
		}
		for _, b := range user.Bindings {
			for _, name := range roles[b.Role].Permissions {
				if name == string(permission) && access.PatternMatch(b.App, app) {
					return true
				}
			}
		}
		return false
	}
	for _, permission := range access.Permissions() {
		for _, app := range []string{"web", "web-x", "api", "other"} {
			if access.AppInScope(p, permission, app) && !mayCreator(permission, app) {
				t.Fatalf("the token has %s over %s, and its creator has not", permission, app)
			}
		}
	}
}
