package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// people makes people and tokens the way admin does, without a process for each.
type people struct {
	writer *directory.Writer
	made   atomic.Int64
}

var testActor = directory.Actor{Kind: audit.ActorSystem, ID: "faults", Label: "faults", Client: "faults"}

func newPeople(t *testing.T, env *testenv.Env) *people {
	t.Helper()
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Admin, env.Database)), Name: "faults", MaxOpen: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	key, err := audit.NewKey([]byte(env.MACKey()))
	if err != nil {
		t.Fatal(err)
	}
	return &people{writer: directory.NewWriter(db, key, directory.WriterOptions{})}
}

// person is somebody with one CLI token.
type person struct {
	email   string
	tokenID string
	token   string
}

// add makes a person with a role.
func (p *people) add(ctx context.Context, role string) (person, error) {
	who := person{email: fmt.Sprintf("person%d@example.com", p.made.Add(1))}
	_, err := p.writer.AddUsers(ctx, testActor, []directory.NewUser{{Email: who.email, Bindings: []directory.Binding{{Role: role, App: "*"}}}})
	if err != nil {
		return who, err
	}
	made, token, err := p.writer.CreateToken(ctx, testActor, directory.NewToken{Kind: credential.CLI, Name: "laptop", Owner: who.email})
	who.tokenID, who.token = made.ID.String(), token.Reveal()
	return who, err
}

// many makes several people with a role.
func (p *people) many(t *testing.T, n int, role string) []person {
	t.Helper()
	all := make([]person, n)
	for i := range all {
		var err error
		if all[i], err = p.add(t.Context(), role); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// heard waits until every proxy has heard of all that was changed so far: a change that is heard of only later, such
// as the making of a token, ends the sessions that it concerns. Announcements arrive in order, and the proof that they do
// is one.
func heard(t *testing.T, env *testenv.Env) {
	t.Helper()
	since := time.Now()
	for _, p := range env.Proxies {
		eventually(t, p.Name+" had heard of all changes", func() bool {
			asked := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+"/api/v1/health/ready", nil)
			must(t, err)
			resp, err := env.Client().Do(req)
			must(t, err)
			defer func() { _ = resp.Body.Close() }()
			var said struct {
				Checks struct{ Listener struct{ Detail string } }
			}
			must(t, json.NewDecoder(resp.Body).Decode(&said))
			text, ok := strings.CutPrefix(said.Checks.Listener.Detail, "last proof ")
			if !ok {
				return false
			}
			age, err := time.ParseDuration(strings.TrimSuffix(text, " ago"))
			must(t, err)
			return asked.Add(-age - time.Millisecond).After(since)
		})
	}
}

func tokensOf(all []person) []string {
	tokens := make([]string, len(all))
	for i, who := range all {
		tokens[i] = who.token
	}
	return tokens
}
