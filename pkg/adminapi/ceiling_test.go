package adminapi_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/adminapi"
)

// A property, by the API alone: through any order of grants, demotions, locks, rotations and changes of roles, an API
// token may do nothing that its creator may not do at that moment, be it at the rack or at the gateway.
func TestThroughAnyOrderOfChangesATokenExceedsItsCreatorNever(t *testing.T) {
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	w.person("root", "admin")
	creator := w.person("creator", "admin")
	w.want(http.StatusCreated, "", "root", "POST", "/roles", map[string]any{"name": "custom", "permissions": []string{"convox:app:list"}})
	issued := read[adminapi.IssuedToken](t, w.want(http.StatusCreated, "", "creator", "POST", "/tokens",
		`{"name":"ci","owner":"root@example.com","bindings":[{"role":"admin","app":"*"}]}`))
	w.learn("ci", issued.Secret)
	user, token := "/users/"+creator.ID.String(), "/tokens/"+issued.Token.Id.String()

	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	rights := func() map[string]any {
		list := []map[string]string{}
		for range random.IntN(3) {
			list = append(list, map[string]string{"role": pick("viewer", "ops", "deployer", "admin", "custom"), "app": pick("*", "web", "web-*", "api")})
		}
		return map[string]any{"bindings": list}
	}
	steps := []func() answer{
		func() answer { return w.do("root", "PUT", user+"/bindings", rights()) },
		func() answer { return w.do("root", "PUT", user+"/bindings", rights()) },
		func() answer { return w.do("root", "POST", user+"/lock", `{"reason":"x"}`) },
		func() answer { return w.do("root", "POST", user+"/unlock", nil) },
		func() answer { return w.do("creator", "PUT", token+"/rights", rights()) },
		func() answer { return w.do("root", "PUT", token+"/rights", rights()) },
		func() answer { return w.do("ci", "PUT", token+"/rights", rights()) },
		func() answer {
			return w.do("root", "PUT", token+"/rights", map[string]any{"permissions": []string{pick("convox:secret:read", "gateway:user:manage", "convox:app:list")}})
		},
		func() answer {
			return w.do("root", "PUT", "/roles/custom", map[string]any{"permissions": []string{pick("convox:secret:read", "convox:app:list", "gateway:token:manage")}})
		},
		func() answer {
			got := w.do(pick("root", "creator", "ci"), "POST", token+"/rotate", fmt.Sprintf(`{"keep_old_hours":%d}`, random.IntN(2)))
			if got.status == http.StatusOK {
				w.learn("ci", read[adminapi.IssuedToken](t, got).Secret)
			}
			return got
		},
	}
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	done := 0
	for range rounds {
		switch got := steps[random.IntN(len(steps))](); {
		case got.status >= http.StatusInternalServerError:
			t.Fatalf("%d %s", got.status, got.body)
		case got.status < http.StatusMultipleChoices:
			done++
		}
		w.hear()
		w.tokenIsWithin("ci", "creator")
	}
	if done < rounds/4 {
		t.Errorf("only %d of %d changes were made", done, rounds)
	}
}

// tokenIsWithin compares what a token may do with what a person may do: by what the proxy and the API go by, for every
// permission, and by asking the API.
func (w *world) tokenIsWithin(token, creator string) {
	w.t.Helper()
	principal := func(name string) *access.Principal {
		entry, err := w.cache.Resolve(w.t.Context(), w.tokens[name])
		if err != nil {
			return nil // locked
		}
		return entry.Principal
	}
	of, by := principal(token), principal(creator)
	for _, permission := range access.Permissions() {
		for _, app := range []string{"web", "web-x", "api", "other"} {
			if of != nil && access.AppInScope(of, permission, app) && (by == nil || !access.AppInScope(by, permission, app)) {
				w.t.Fatalf("the token has %s over %s, and its creator has not", permission, app)
			}
		}
	}
	id := uuid.NewString()
	for _, op := range []struct{ method, path string }{
		{"GET", "/users"}, {"POST", "/users"}, {"PUT", "/users/" + id + "/bindings"}, {"POST", "/tokens"}, {"PUT", "/settings/nosuch"}, {"GET", "/audit/events"},
		{"PUT", "/apps/web/settings/nosuch"}, {"GET", "/apps/api/settings"},
	} {
		// A parameter that no operation takes: what is allowed goes no further than that.
		if w.do(token, op.method, op.path+"?no=such", nil).status == http.StatusBadRequest && w.do(creator, op.method, op.path+"?no=such", nil).status != http.StatusBadRequest {
			w.t.Fatalf("the token is allowed %s %s, and its creator is not", op.method, op.path)
		}
	}
}
