//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/sync/errgroup"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
	"rackgateway/pkg/testenv/idp"
)

// changes measures how long a change of access takes to be in force on every one of two proxies, by whichever way it is
// made.
func (b *bench) changes() {
	count := pick(b, 200, 50)
	env := b.suite.Start(b, testenv.Options{
		Proxies: 2, Admins: 1, Upstream: "http://" + b.upstream.addr, Config: map[string]string{"LOG_LEVEL": "warn"},
	})
	owner, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Owner, env.Database)), Name: "bench"})
	b.must(err)
	defer func() { _ = owner.Close() }()

	number := 0
	for _, way := range []struct {
		name, from string
		count      int
		change     func(id string) (began time.Time)
	}{
		{"the API", "from before the request", count, func(id string) time.Time {
			began := time.Now()
			if got := env.Admins[0].Do("admin", http.MethodDelete, "/api/v1/tokens/"+id, nil); got.Status != http.StatusNoContent {
				b.Fatalf("revoking a token: %d %s", got.Status, got.Body)
			}
			return began
		}},
		{"the command line", "from the moment that its event tells, since a program takes time to start", min(count, 60), func(id string) time.Time {
			env.Admin("token", "revoke", id, "--reason", "measured")
			var at time.Time
			b.must(owner.GetContext(b.Context(), &at, `select max(occurred_at) from rgw.audit_events where action = 'token.revoke'`))
			return at
		}},
		{"SQL", "from before the statement", count, func(id string) time.Time {
			began := time.Now()
			_, err := owner.ExecContext(b.Context(), `update rgw.tokens set revoked_at = now() where id = $1`, id)
			b.must(err)
			return began
		}},
	} {
		var took sample
		for range way.count {
			number++
			took = append(took, milliseconds(b.untilRefused(env, number, way.change)))
		}
		slices.Sort(took)
		at := func(q float64) float64 { return took[min(int(q*float64(len(took))+0.999999), len(took))-1] }
		b.report.add("a change by "+way.name+" in force on two proxies, p99", at(0.99), "ms", atMost(100), atMost(20),
			fmt.Sprintf("p50 %v ms, max %v ms, of %d; %s", round(at(0.5)), round(at(1)), len(took), way.from))
	}
}

// untilRefused makes a token that is in use at every proxy, has it revoked, and returns how long it took until the last
// of the proxies refused it.
func (b *bench) untilRefused(env *testenv.Env, number int, revoke func(id string) (began time.Time)) time.Duration {
	made := env.Admins[0].Do("admin", http.MethodPost, "/api/v1/tokens",
		strings.NewReader(fmt.Sprintf(`{"name":"measured-%d","bindings":[{"role":"viewer","app":"*"}]}`, number)))
	var issued struct {
		Secret string `json:"secret"`
		Token  struct {
			ID string `json:"id"`
		} `json:"token"`
	}
	if err := json.Unmarshal([]byte(made.Body), &issued); err != nil || made.Status != http.StatusCreated {
		b.Fatalf("making a token: %d %s", made.Status, made.Body)
	}
	var asking sync.WaitGroup
	ended := make([]time.Time, len(env.Proxies))
	errs := make([]error, len(env.Proxies))
	for i, proxy := range env.Proxies {
		// Each from an address of its own: many refusals of one address would be cut short.
		a, err := newAsker(b.Context(), address(proxy), issued.Secret, net.IPv4(127, 0, byte(2+number/250), byte(1+number%250)))
		b.must(err)
		defer a.close()
		status, err := a.ask()
		b.must(err)
		if status != http.StatusOK {
			b.Fatalf("before it is revoked, the token is answered with %d", status)
		}
		asking.Go(func() { ended[i], errs[i] = a.untilRefused() })
	}
	began := revoke(issued.Token.ID)
	asking.Wait()
	b.must(errors.Join(errs...))
	return slices.MaxFunc(ended, time.Time.Compare).Sub(began)
}

// asker asks a proxy for the same over one connection.
type asker struct {
	conn    net.Conn
	request []byte
	answers *bufio.Reader
}

func newAsker(ctx context.Context, address, token string, from net.IP) (*asker, error) {
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: socketTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	a := &asker{conn: conn, request: (&Job{Method: "GET", Path: "/apps?"}).head(token, 0), answers: bufio.NewReader(conn)}
	return a, conn.SetDeadline(time.Now().Add(socketTimeout))
}

func (a *asker) close() { _ = a.conn.Close() }

func (a *asker) ask() (status int, err error) {
	if _, err := a.conn.Write(a.request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(a.answers, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// untilRefused asks every millisecond until the token is refused, and returns when it was. Without a pause those who ask
// would take the time of those who are to hear.
func (a *asker) untilRefused() (time.Time, error) {
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	for ; ; <-every.C {
		status, err := a.ask()
		switch {
		case err != nil:
			return time.Time{}, err
		case status == http.StatusUnauthorized:
			return time.Now(), nil
		case status != http.StatusOK:
			return time.Time{}, fmt.Errorf("refused with status %d", status)
		}
	}
}

// people measures admin with many people signed in and many tokens, against few of both.
func (b *bench) people() {
	signIns, tokens := pick(b, 1000, 500), pick(b, 100_000, 10_000)
	env := b.suite.Start(b, testenv.Options{Admins: 1, Upstream: "http://" + b.upstream.addr, Config: map[string]string{"LOG_LEVEL": "warn"}})
	admin := env.Admins[0]
	db := b.superuser(env)
	few := 1000
	b.nameTokens(env, db, "few", few/10)
	b.signPeopleIn(env, "early", signIns/10) // a page of sessions, of the full measure
	before := b.questions(env, db)

	b.nameTokens(env, db, "many", (tokens-few)/10)
	began := time.Now()
	b.signPeopleIn(env, "late", signIns-signIns/10)
	took := time.Since(began)
	b.report.tell(fmt.Sprintf("%d people sign in", signIns), float64(signIns-signIns/10)/took.Seconds(), "a second", "8 at a time, the provider's own work included")

	after := b.questions(env, db)
	for _, q := range questions {
		b.report.add(fmt.Sprintf("%s with %d tokens, against %d", q.name, tokens, few), after[q.name].median()/before[q.name].median(), "×", atMost(2), atMost(1.2),
			fmt.Sprintf("%v ms and %v ms", round(after[q.name].median()), round(before[q.name].median())))
	}
	memory, err := memoryOf(admin.PID())
	b.must(err)
	b.report.add(fmt.Sprintf("peak RSS of admin, %d sign-ins and %d tokens", signIns, tokens), float64(memory.peak)/megabyte, "MB", atMost(256), atMost(128), "")
}

// nameTokens adds people with ten CLI tokens each, under names that are not all alike.
func (b *bench) nameTokens(env *testenv.Env, db *sqlx.DB, name string, people int) {
	b.populate(env, name, "viewer", people, 10)
	b.must(postgres.InTx(b.Context(), db, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(b.Context(), `set local session_replication_role = replica`); err != nil {
			return err
		}
		_, err := tx.ExecContext(b.Context(), `update rgw.tokens set name = 'device ' || left(id::text, 8) where name = 'laptop'`)
		return err
	}))
	_, err := db.ExecContext(b.Context(), `vacuum analyze rgw.tokens, rgw.users, rgw.token_secrets`)
	b.must(err)
}

// questions are what admin is asked, with what stands for ID, NAME and PREFIX taken from some token.
var questions = []struct{ name, path string }{
	{"the first page of tokens", "/api/v1/tokens"},
	{"a search by name", "/api/v1/tokens?search=NAME"},
	{"a search by what all names have", "/api/v1/tokens?search=device"},
	{"a search that finds nothing", "/api/v1/tokens?search=nosuch"},
	{"a search by a token's beginning", "/api/v1/tokens?search=PREFIX"},
	{"a look-up", "/api/v1/tokens/ID"},
	{"the first page of people", "/api/v1/users"},
	{"a search for a person", "/api/v1/users?search=ana"},
	{"the first page of sessions", "/api/v1/sessions?limit=50"},
}

// questions asks them all, several times, and returns how long the answers took, in milliseconds.
func (b *bench) questions(env *testenv.Env, db *sqlx.DB) map[string]sample {
	var some []struct {
		ID     string `db:"id"`
		Name   string `db:"name"`
		Prefix string `db:"prefix"`
	}
	rounds := pick(b, 60, 20)
	b.must(db.SelectContext(b.Context(), &some, `
select t.id::text as id, t.name, s.prefix from rgw.tokens t join rgw.token_secrets s on s.token_id = t.id where t.name like 'device %' order by t.id limit $1`, rounds))
	took := make(map[string]sample)
	for i := range rounds + 5 {
		of := some[i%len(some)]
		put := strings.NewReplacer("ID", of.ID, "NAME", strings.TrimPrefix(of.Name, "device "), "PREFIX", of.Prefix)
		for _, q := range questions {
			began := time.Now()
			got := env.Admins[0].Do("admin", http.MethodGet, put.Replace(q.path), nil)
			if got.Status != http.StatusOK {
				b.Fatalf("%s: %d %s", q.path, got.Status, got.Body)
			}
			if i >= 5 { // the first ones meet everything for the first time
				took[q.name] = append(took[q.name], milliseconds(time.Since(began)))
			}
		}
	}
	return took
}

// signPeopleIn adds people, and has each sign in at the provider with a browser of their own.
func (b *bench) signPeopleIn(env *testenv.Env, name string, count int) {
	b.populate(env, name, "viewer", count, 0)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range count {
		name := fmt.Sprintf("%s%d", name, i)
		env.Provider.AddPerson(idp.Person{Subject: name, Email: name + "@example.com", Name: name})
		group.Go(func() error {
			browser, err := testenv.NewBrowser(env.Admins[0].URL, env.CA())
			if err != nil {
				return err
			}
			defer browser.Close()
			_, err = browser.SignIn(b.Context(), name, "/console/")
			return err
		})
	}
	b.must(group.Wait())
}
