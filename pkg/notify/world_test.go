package notify_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// world is a database with people, a ledger that is kept, and a server that takes mail.
type world struct {
	t        testing.TB
	admin    *sqlx.DB
	owner    *sqlx.DB
	key      audit.Key
	keys     seal.Keys
	postmark *notifytest.Postmark
	slack    *notifytest.Slack
	writer   *directory.Writer
	by       directory.Actor
	log      *lockedBuffer
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	pg := postgrestest.New(t)
	key, err := audit.NewKey([]byte(strings.Repeat("mac key of tests ", 4)))
	check(t, err)
	keys, err := seal.NewKeys(secret.NewText(strings.Repeat("application key of tests ", 4)), secret.Text{})
	check(t, err)
	w := &world{
		t: t, admin: pg.Admin(t), owner: pg.Owner(t), key: key, keys: keys, postmark: notifytest.NewPostmark(), slack: notifytest.NewSlack(), log: &lockedBuffer{},
		by: directory.Actor{Kind: audit.ActorSystem, ID: "command-line", Label: "ops@laptop", Client: "command-line"},
	}
	t.Cleanup(w.postmark.Close)
	t.Cleanup(w.slack.Close)
	w.writer = directory.NewWriter(w.admin, key, directory.WriterOptions{})
	sequencer := ledger.NewSequencer(ledger.SequencerConfig{
		DB: w.admin, Keys: ledger.KeySource{Origin: "gateway.example.com/acme/staging", Box: keys.Box(ledger.SealPurpose)}, MACKey: key,
		Interval: time.Millisecond, Poll: 10 * time.Millisecond,
	})
	run(t, sequencer.Run)
	return w
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

// service returns notices that do not run yet.
func (w *world) service(change ...func(*notify.Config)) *notify.Service {
	w.t.Helper()
	follower := ledger.NewFollower(w.admin, nil)
	run(w.t, follower.Run)
	run(w.t, func(ctx context.Context) error { // in place of announcements
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				follower.Wake()
			}
		}
	})
	console := &url.URL{Scheme: "https", Host: "gateway.example.com"}
	config := notify.Config{
		DB: w.admin, Key: w.key, Keys: w.keys, Follower: follower, Console: console, Gateway: "acme/staging",
		Postmark: notify.PostmarkConfig{
			Token: secret.NewText(notifytest.PostmarkToken), From: "gateway@example.com", Stream: "outbound", BaseURL: w.postmark.Address(),
			Domain: "gateway.example.com", Console: console, Gateway: "acme/staging",
		},
		Slack: notify.SlackConfig{
			ClientID: "1.2", ClientSecret: secret.NewText(notifytest.SlackClientSecret), SigningSecret: secret.NewText(notifytest.SlackSigningSecret),
			BaseURL: w.slack.Address(), AuthorizeURL: &url.URL{Scheme: "https", Host: "slack.com", Path: "/oauth/v2/authorize"},
		},
		Limits: notify.Limits{Poll: 20 * time.Millisecond, Backoff: 20 * time.Millisecond, BackoffMax: 100 * time.Millisecond, Stored: time.Millisecond, SlackPace: time.Millisecond},
		Log:    slog.New(slog.NewTextHandler(w.log, nil)),
	}
	for _, f := range change {
		f(&config)
	}
	return notify.New(config)
}

// notices starts notices.
func (w *world) notices(change ...func(*notify.Config)) (*notify.Service, func()) {
	w.t.Helper()
	s := w.service(change...)
	return s, run(w.t, s.Run)
}

func (w *world) addUser(email string, roles ...directory.Binding) directory.User {
	w.t.Helper()
	users, err := w.writer.AddUsers(w.t.Context(), w.by, []directory.NewUser{{Email: email, Bindings: roles}})
	check(w.t, err)
	return users[0]
}

func adminRole() directory.Binding { return directory.Binding{Role: "admin", App: "*"} }

// record records an event that changes nothing.
func (w *world) record(e *audit.Event) {
	w.t.Helper()
	check(w.t, audit.Change(w.t.Context(), w.admin, w.key, e, func(*sqlx.Tx) error { return nil }))
}

// event is one that somebody made.
func event(user directory.User, action string) *audit.Event {
	e := audit.NewEvent(time.Now())
	e.ActorKind, e.ActorID, e.ActorLabel, e.Action, e.Decision = audit.ActorUser, user.ID.String(), user.Email, action, audit.DecisionAllow
	e.Address = netip.MustParseAddr("198.51.100.7")
	return e
}

func (w *world) count(query string, args ...any) int {
	w.t.Helper()
	var n int
	check(w.t, w.owner.Get(&n, query, args...))
	return n
}

// eventually waits for something.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for !so() {
		if time.Now().After(end) {
			t.Fatalf("in vain: until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// subjects of the mails to an address.
func (w *world) subjects(to string) (list []string) {
	for _, m := range w.postmark.Taken() {
		if m.To == to {
			list = append(list, m.Subject)
		}
	}
	return list
}

func (w *world) gets(to, subject string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%s gets %q", to, subject), func() bool {
		for _, s := range w.subjects(to) {
			if strings.HasPrefix(s, subject) {
				return true
			}
		}
		return false
	})
}

// told waits until the ledger has been followed to its end.
func (w *world) told() {
	w.t.Helper()
	eventually(w.t, "the ledger is followed to its end", func() bool {
		return w.count(`select (select count(*) from rgw.audit_events) - coalesce((select leaf_index from rgw.ledger_cursors where name = 'notices'), 0)`) == 0
	})
}

// quiet waits until the ledger has been followed to its end and nothing waits.
func (w *world) quiet() {
	w.t.Helper()
	eventually(w.t, "all is told", func() bool {
		return w.count(`select (select count(*) from rgw.audit_events) - (select count(*) from rgw.ledger_leaves)`) == 0 &&
			w.count(`select (select count(*) from rgw.ledger_leaves) - coalesce((select leaf_index from rgw.ledger_cursors where name = 'notices'), 0)`) == 0 &&
			w.count(`select count(*) from rgw.notices where state = 'waiting'`) == 0
	})
}
