package ledger_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

func TestMain(m *testing.M) {
	code := postgrestest.Run(m)
	if usedServer.Load() {
		if server, err := theServer(); err == nil {
			_ = server.Close()
		}
	}
	os.Exit(code)
}

// origin names the ledger of tests.
const origin = "gateway.example.com/acme/staging"

// world is a database, whoever writes events to it, and whoever sequences them.
type world struct {
	t      testing.TB
	pg     *postgrestest.Database
	admin  *sqlx.DB
	super  *sqlx.DB
	key    audit.Key
	source ledger.KeySource

	mu     sync.Mutex
	alerts []*ledger.Alert
}

func newWorld(t testing.TB) *world {
	t.Helper()
	pg := postgrestest.New(t)
	return worldOf(t, pg)
}

func worldOf(t testing.TB, pg *postgrestest.Database) *world {
	t.Helper()
	key, err := audit.NewKey([]byte(strings.Repeat("mac key of tests ", 4)))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(secret.NewText(strings.Repeat("application key of tests ", 4)), secret.Text{})
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		t: t, pg: pg, admin: pg.Admin(t), super: postgrestest.Open(t, pg.SuperuserURL()), key: key,
		source: ledger.KeySource{Origin: origin, Box: keys.Box(ledger.SealPurpose)},
	}
}

// config is a sequencer's, whose alerts the world gathers.
func (w *world) config() ledger.SequencerConfig {
	return ledger.SequencerConfig{
		DB: w.admin, Keys: w.source, MACKey: w.key, Interval: time.Millisecond, Poll: 10 * time.Millisecond,
		Alerted: func(alert *ledger.Alert) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.alerts = append(w.alerts, alert)
		},
	}
}

// alerted returns the alerts of a code so far.
func (w *world) alerted(code string) (list []*ledger.Alert) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, alert := range w.alerts {
		if alert.Code == code || code == "" {
			list = append(list, alert)
		}
	}
	return list
}

// run runs something until the test, or the function that it returns, ends it.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// sequence starts a sequencer.
func (w *world) sequence(change ...func(*ledger.SequencerConfig)) (*ledger.Sequencer, func()) {
	w.t.Helper()
	config := w.config()
	for _, f := range change {
		f(&config)
	}
	s := ledger.NewSequencer(config)
	return s, run(w.t, s.Run)
}

// event is one that a person made.
func event(n int) *audit.Event {
	e := audit.NewEvent(time.Now())
	e.ActorKind, e.ActorID, e.ActorLabel = audit.ActorUser, "0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f", "ana@acme.com"
	e.Action, e.App, e.Decision, e.Status = "app.list", "web", audit.DecisionAllow, 200
	e.Detail.Path = fmt.Sprintf("/apps/%d", n)
	e.Detail.Method = "GET"
	return e
}

// insert records events, each in a transaction of its own, as changes are.
func (w *world) insert(n int) {
	w.t.Helper()
	for i := range n {
		if err := audit.Change(w.t.Context(), w.admin, w.key, event(i), func(*sqlx.Tx) error { return nil }); err != nil {
			w.t.Fatal(err)
		}
	}
}

// write records events with a writer that runs, and leaves it open.
func (w *world) write(n int) {
	w.t.Helper()
	writer := audit.NewWriter(w.admin, audit.WriterOptions{Key: w.key})
	done := make(chan error, 1)
	go func() { done <- writer.Run(context.Background()) }()
	var tickets []*audit.Ticket
	for i := range n {
		ticket, err := writer.Enqueue(event(i))
		if err != nil {
			w.t.Fatal(err)
		}
		tickets = append(tickets, ticket)
		if len(tickets) == 2000 || i == n-1 {
			for _, ticket := range tickets {
				if err := ticket.Wait(w.t.Context()); err != nil {
					w.t.Fatal(err)
				}
			}
			tickets = tickets[:0]
		}
	}
	if err := writer.Close(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

// settled waits until every event has its place.
func (w *world) settled() int64 {
	w.t.Helper()
	var events, leaves int64
	eventually(w.t, "every event has a place", func() bool {
		if err := w.super.QueryRow(`select (select count(*) from rgw.audit_events), (select count(*) from rgw.ledger_leaves)`).Scan(&events, &leaves); err != nil {
			w.t.Log(err)
			return false
		}
		return events == leaves
	})
	return leaves
}

func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for !so() {
		if time.Now().After(end) {
			t.Fatalf("in vain: until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// verify verifies the database with the keys it names.
func (w *world) verify(change ...func(*ledger.VerifyOptions)) *ledger.Report {
	w.t.Helper()
	opts := ledger.VerifyOptions{}
	for _, f := range change {
		f(&opts)
	}
	report, err := ledger.VerifyDatabase(w.t.Context(), w.admin, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

func (w *world) sound() *ledger.Report {
	w.t.Helper()
	report := w.verify()
	if !report.Sound() {
		w.t.Fatalf("the ledger does not verify:\n%s", report)
	}
	return report
}

func (w *world) keys() ledger.Keyring {
	w.t.Helper()
	keys, err := ledger.PublicKeys(w.t.Context(), w.admin)
	if err != nil {
		w.t.Fatal(err)
	}
	return keys
}
