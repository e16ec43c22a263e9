package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
	"rackgateway/pkg/testenv"
)

// Whatever step two admins are killed at while they tell people of what happened, each notice arrives, once, and those
// about one request arrive in their order.
func TestNoNoticeIsLostOrDoubledWhenAdminsAreKilled(t *testing.T) {
	t.Parallel()
	d := newDeaths(t)
	people := pick(120, 1120) // 9 mails each: 10,080
	perKill := d.plan(pick(1, 4), pick(3, 30), people)
	for _, step := range d.steps() {
		for range d.repeats {
			d.dieAt(step, perKill)
		}
	}
	for i := range d.random {
		d.dieAnytime(i, perKill)
	}
	d.tell(max(people-len(d.people), 0))
	d.end(true)
}

// Where a receiver cannot say what it has, whatever was on its way when admin died may arrive a second time, and nothing
// else does.
func TestOnlyWhatWasOnItsWayArrivesTwiceWhereTheReceiverKnowsNoKey(t *testing.T) {
	t.Parallel()
	d := newDeaths(t)
	d.postmark.Forget()
	d.slack.Forget()
	people := pick(40, 400)
	perKill := d.plan(pick(1, 5), pick(2, 20), people)
	for _, step := range d.steps() {
		if step.receiver != "" {
			for range d.repeats {
				d.dieAt(step, perKill)
			}
		}
	}
	for i := range d.random {
		d.dieAnytime(i, perKill)
	}
	d.end(false)
}

// deaths is two admins that tell people, what they are to tell, and the moments at which they were killed.
type deaths struct {
	*testing.T
	env      *testenv.Env
	db       *sqlx.DB // as admins see it
	super    *sqlx.DB
	key      audit.Key
	writer   *directory.Writer
	postmark *notifytest.Postmark
	slack    *notifytest.Slack
	chance   *rand.Rand

	repeats, random int

	people   []string          // addresses
	requests map[string]string // whom each request is about, by id
	order    []string          // ids of requests, in the order in which they were made
	kills    map[string]int    // by step
	inFlight []map[string]bool // by kill: notices that a process had claimed
}

// headlines of the notices about one request, in the order of its events.
var headlines = []string{"Your account was locked", "Your account was unlocked", "What you may do was changed", "A second factor was added"}

// requestsEach is how many requests are about one person; each is of four events.
const requestsEach = 2

func newDeaths(t *testing.T) *deaths {
	env := start(t, testenv.Options{Proxies: -1})
	d := &deaths{
		T: t, env: env, postmark: notifytest.NewPostmark(), slack: notifytest.NewSlack(), chance: chance(t),
		requests: make(map[string]string), kills: make(map[string]int),
	}
	t.Cleanup(d.postmark.Close)
	t.Cleanup(d.slack.Close)
	open := func(login string, most int) *sqlx.DB {
		db, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(login, env.Database)), Name: "faults", MaxOpen: most})
		d.must(err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	d.db, d.super = open(cluster.Admin, 6), open(cluster.Superuser, 4)
	var err error
	d.key, err = audit.NewKey([]byte(env.MACKey()))
	d.must(err)
	d.writer = directory.NewWriter(d.db, d.key, directory.WriterOptions{})
	d.slack.People(func(email string) string { return "U" + email })

	keys, err := seal.NewKeys(secret.NewText(env.AppKey()), secret.Text{})
	d.must(err)
	service := notify.New(notify.Config{
		DB: d.db, Key: d.key, Keys: keys, Console: &url.URL{Scheme: "https", Host: "localhost"},
		Slack: notify.SlackConfig{
			ClientID: notifytest.SlackClientID, ClientSecret: secret.NewText(notifytest.SlackClientSecret), SigningSecret: secret.NewText(notifytest.SlackSigningSecret),
			BaseURL: d.slack.Address(), AuthorizeURL: &url.URL{},
		},
	})
	begun, err := service.BeginSlack(testActor)
	d.must(err)
	u, err := url.Parse(begun)
	d.must(err)
	_, err = service.FinishSlack(t.Context(), testActor, notifytest.SlackCode, u.Query().Get("state"))
	d.must(err)
	_, err = service.AddRule(t.Context(), testActor, "C0OPS123", "ops", []string{"factor.add"})
	d.must(err)

	// A commit can be held where it is: at its very end.
	_, err = d.super.ExecContext(t.Context(), `
create function rgw.hold_here() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint); return null; end $$;
grant execute on function rgw.hold_here() to public;
create constraint trigger hold_notices after insert on rgw.notices deferrable initially deferred for each row execute function rgw.hold_here(7001);
create constraint trigger hold_sent after update on rgw.notices deferrable initially deferred for each row when (new.state = 'sent') execute function rgw.hold_here(7002);
create constraint trigger hold_gathered after update on rgw.notices deferrable initially deferred for each row when (new.state = 'gathered') execute function rgw.hold_here(7003)`)
	d.must(err)
	for range 2 {
		env.AddAdminWith(map[string]string{
			"POSTMARK_API_TOKEN": notifytest.PostmarkToken, "POSTMARK_FROM": "gateway@example.com", "POSTMARK_API_BASE": d.postmark.URL,
			"SLACK_CLIENT_ID": notifytest.SlackClientID, "SLACK_CLIENT_SECRET": notifytest.SlackClientSecret, "SLACK_SIGNING_SECRET": notifytest.SlackSigningSecret,
			"SLACK_API_BASE": d.slack.Address().String(),
		})
	}
	for _, a := range env.Admins {
		a.WaitReady(t.Context())
	}
	eventually(t, "the ledger is followed", func() bool { return d.count(`select count(*) from rgw.ledger_cursors where name = 'notices'`) == 1 })
	return d
}

func (d *deaths) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// plan says how often to die, and returns how many people to tell of something at each death.
func (d *deaths) plan(repeats, random, people int) int {
	d.repeats, d.random = repeats, random
	return max(people/(len(d.steps())*repeats+random), 3)
}

// tell adds people, and has things happen to them, of which they are told by mail, and every fifth in Slack too.
func (d *deaths) tell(many int) {
	if many == 0 {
		return
	}
	first := len(d.people)
	var added []directory.NewUser
	for i := range many {
		email := fmt.Sprintf("p%d@example.com", first+i)
		added, d.people = append(added, directory.NewUser{Email: email}), append(d.people, email)
	}
	for some := range slices.Chunk(added, 50) {
		_, err := d.writer.AddUsers(d.Context(), testActor, some)
		d.must(err)
	}
	for i := first; i < len(d.people); i++ {
		if i%5 == 0 {
			_, err := d.super.ExecContext(d.Context(), `
insert into rgw.notice_choices (user_id, topic, medium, wanted)
select u.id, t.topic, 'slack', true from rgw.users u, unnest(array['account.locked', 'account.unlocked', 'account.roles', 'account.factor']) t(topic) where u.email = $1`, d.people[i])
			d.must(err)
		}
		for range requestsEach {
			request := audit.NewEvent(time.Now()).RequestID
			d.requests[request.String()] = d.people[i]
			d.order = append(d.order, request.String())
			for _, action := range []string{"user.lock", "user.unlock", "user.set_roles", "factor.add"} {
				e := audit.NewEvent(time.Now())
				e.RequestID, e.ActorKind, e.ActorLabel, e.Action, e.Resource, e.Decision = request, audit.ActorSystem, "faults", action, d.people[i], audit.DecisionAllow
				d.must(audit.Change(d.Context(), d.db, d.key, e, func(*sqlx.Tx) error { return nil }))
			}
		}
	}
}

// step is a moment at which to die.
type step struct {
	name string

	receiver string // mail or slack, which has just been asked; empty for a step in the database alone
	taken    bool   // and has taken it

	lock    string // what holds the process at the step, as SQL; nothing that takes a transaction id, behind which events wait for their place
	query   string // which statement of the process then waits, as a pattern
	commit  int    // or whose commit then waits, by the trigger's number
	digests bool   // a digest has to be due
}

const holdNotices = `lock table rgw.notices in share row exclusive mode`

func (d *deaths) steps() []step {
	return []step{
		{name: "before the cursor moves", lock: `lock table rgw.ledger_cursors in share row exclusive mode`, query: `%update rgw.ledger_cursors%''notices''%`},
		{name: "between the cursor and the notices", lock: holdNotices, query: `%insert into rgw.notices (%`},
		{name: "in the commit of cursor and notices", commit: 7001},
		{name: "before a claim", lock: holdNotices, query: `%with due as%`},
		{name: "before Postmark takes it", receiver: "mail"},
		{name: "when Postmark has taken it and not answered", receiver: "mail", taken: true},
		{name: "when Postmark has answered, before that is noted", receiver: "mail", taken: true, lock: holdNotices, query: `%state = ''sent'', receipt%`},
		{name: "in the note of what Postmark answered", receiver: "mail", taken: true, lock: `lock table rgw.notice_media in share row exclusive mode`, query: `%update rgw.notice_media set failures = 0%`},
		{name: "in the commit of that note", commit: 7002},
		{name: "before Slack takes it", receiver: "slack"},
		{name: "when Slack has taken it and not answered", receiver: "slack", taken: true},
		{name: "when Slack has answered, before that is noted", receiver: "slack", taken: true, lock: holdNotices, query: `%state = ''sent'', receipt%`},
		{name: "before notices are gathered", lock: holdNotices, query: `%state = ''gathered''%`, digests: true},
		{name: "in the commit of a digest", commit: 7003, digests: true},
	}
}

// hold is a lock in the database that processes wait for.
type hold struct{ release func() }

// grab takes what a step's processes will wait for.
func (d *deaths) grab(s step) hold {
	d.Helper()
	tx, err := d.super.BeginTx(d.Context(), nil)
	d.must(err)
	statement := s.lock
	if s.commit != 0 {
		statement = fmt.Sprintf(`select pg_advisory_xact_lock(%d)`, s.commit)
	}
	_, err = tx.ExecContext(d.Context(), statement)
	d.must(err)
	return hold{func() { _ = tx.Rollback() }}
}

// grabAged has a digest fall due in the moment in which nobody can make it any more.
func (d *deaths) grabAged(s step) (release func()) {
	d.Helper()
	d.age()
	h := d.grab(s)
	if d.count(`select count(*) from rgw.notices where state = 'held' and made_at < now() - interval '10 minutes'`) > 0 {
		return h.release
	}
	// Somebody was faster: others take their place.
	h.release()
	d.tell(3)
	eventually(d.T, "something waits for a digest", func() bool { return d.count(`select count(*) from rgw.notices where state = 'held'`) > 0 })
	return d.grabAged(s)
}

// waits reports whether a process is held at a step.
func (d *deaths) waits(s step) bool {
	query, what := `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '`+s.query+`')`, []any{}
	if s.commit != 0 {
		query, what = `select exists (select from pg_locks where locktype = 'advisory' and not granted and objid = $1
  and database = (select oid from pg_database where datname = current_database()))`, []any{s.commit}
	}
	var held bool
	d.must(d.super.GetContext(d.Context(), &held, query, what...))
	return held
}

// arm has the next request to a receiver held: it is told when that is there, and goes on when it is let.
func (d *deaths) arm(s step) (reached <-chan struct{}, goOn func()) {
	there, free := make(chan struct{}), make(chan struct{})
	var one atomic.Bool
	held := func(take, answer func()) bool {
		if !one.CompareAndSwap(false, true) {
			return false
		}
		if s.taken {
			take()
		}
		close(there)
		<-free
		if !s.taken {
			panic(http.ErrAbortHandler) // it never had it
		}
		answer()
		return true
	}
	switch s.receiver {
	case "mail":
		d.postmark.Answer(func(w http.ResponseWriter, _ *http.Request, _ int, m *notifytest.Mail) bool {
			return held(func() { d.postmark.Take(m) }, func() { m.Accepted(w) })
		})
	case "slack":
		d.slack.Answer(func(w http.ResponseWriter, method string, form url.Values) bool {
			if method != "chat.postMessage" {
				return false
			}
			var m notifytest.Message
			return held(func() { m = d.slack.Take(form) }, func() { m.Accepted(w) })
		})
	}
	return there, sync.OnceFunc(func() { close(free); d.postmark.Answer(nil); d.slack.Answer(nil) })
}

// dieAt kills both admins when one is at a step, and starts them again.
func (d *deaths) dieAt(s step, people int) {
	d.Helper()
	release, goOn := func() {}, func() {}
	defer func() { release(); goOn() }()
	switch {
	case s.digests:
		d.tell(people)
		eventually(d.T, "something waits for a digest", func() bool { return d.count(`select count(*) from rgw.notices where state = 'held'`) > 0 })
		if s.commit != 0 {
			release = d.grab(s).release
			d.age()
		} else {
			release = d.grabAged(s)
		}
	case s.receiver != "":
		var reached <-chan struct{}
		reached, goOn = d.arm(s)
		d.tell(people)
		select {
		case <-reached:
		case <-time.After(patience):
			d.Fatalf("nobody came to the step: %s", s.name)
		}
		if s.lock != "" {
			release = d.grab(s).release
			goOn()
		}
	default:
		release = d.grab(s).release
		d.tell(people)
	}
	if s.lock != "" || s.commit != 0 {
		eventually(d.T, "an admin is "+s.name, func() bool { return d.waits(s) })
	}
	for _, a := range d.env.Admins {
		a.Kill()
	}
	d.noteDeath(s.name)
	release()
	goOn()
	d.leases()
	for _, a := range d.env.Admins {
		a.Start()
	}
	for _, a := range d.env.Admins {
		a.WaitReady(d.Context())
	}
}

// dieAnytime kills one of the admins at some moment, while the other goes on.
func (d *deaths) dieAnytime(i, people int) {
	d.Helper()
	a := d.env.Admins[i%2]
	var telling sync.WaitGroup
	telling.Go(func() { d.tell(people) })
	moment(d.Context(), d.chance, 0, 600*time.Millisecond)
	a.Kill()
	telling.Wait()
	d.noteDeath("at any moment")
	a.Start()
	a.WaitReady(d.Context())
}

// noteDeath keeps what processes had claimed: that alone may arrive twice.
func (d *deaths) noteDeath(name string) {
	d.kills[name]++
	var ids []string
	d.must(d.super.SelectContext(d.Context(), &ids, `select notice_id::text from rgw.notices where attempt_id is not null`))
	claimed := make(map[string]bool)
	for _, id := range ids {
		claimed[id] = true
	}
	d.inFlight = append(d.inFlight, claimed)
}

// leases ends the leases of the dead, when nobody is alive: in the short form two minutes are not waited for.
func (d *deaths) leases() {
	if !long {
		// What a process had asked the server for before it died may be done all the same.
		eventually(d.T, "the sessions of the dead have ended", func() bool {
			return d.count(`select count(*) from pg_stat_activity where datname = current_database() and application_name <> 'faults' and usename = $1`, cluster.Admin) == 0
		})
		_, err := d.super.ExecContext(d.Context(), `update rgw.notices set next_at = now() where attempt_id is not null`)
		d.must(err)
	}
}

// age has ten minutes go by for what waits for a digest.
func (d *deaths) age() {
	_, err := d.super.ExecContext(d.Context(), `update rgw.notices set made_at = made_at - interval '11 minutes' where state = 'held'`)
	d.must(err)
}

func (d *deaths) count(query string, args ...any) (n int) {
	d.Helper()
	d.must(d.super.GetContext(d.Context(), &n, query, args...))
	return n
}

// arrival is one notice that a receiver took.
type arrival struct {
	id, to, request, headline string
	thread, ts                string // in Slack
}

var requestForm = regexp.MustCompile(`/console/audit/([0-9a-f-]{36})`)

func (d *deaths) arrivals() (mails, messages []arrival) {
	request := func(text string) string {
		if found := requestForm.FindStringSubmatch(text); found != nil {
			return found[1]
		}
		return ""
	}
	for _, m := range d.postmark.Taken() {
		mails = append(mails, arrival{id: m.Metadata["notice"], to: m.To, request: request(m.TextBody), headline: m.Subject})
	}
	for _, m := range d.slack.Taken() {
		messages = append(messages, arrival{id: m.ClientID, to: strings.TrimPrefix(m.Channel, "U"), request: request(m.Blocks), headline: m.Text, thread: m.Thread, ts: m.TS})
	}
	return mails, messages
}

// end waits until all is told, and counts.
func (d *deaths) end(knows bool) {
	untold := func() int {
		return d.count(`select (select count(*) from rgw.audit_events) - coalesce((select leaf_index from rgw.ledger_cursors where name = 'notices'), 0)`)
	}
	waiting := func() int { return d.count(`select count(*) from rgw.notices where state in ('waiting', 'held')`) }
	if !long {
		for _, a := range d.env.Admins {
			a.Kill()
		}
		d.noteDeath("at any moment")
		d.leases()
		for _, a := range d.env.Admins {
			a.Start()
		}
	}
	ctx, cancel := context.WithTimeout(d.Context(), pick(4*time.Minute, 15*time.Minute))
	defer cancel()
	every := time.NewTicker(500 * time.Millisecond)
	defer every.Stop()
	for untold() > 0 || waiting() > 0 {
		d.age()
		select {
		case <-every.C:
		case <-ctx.Done():
			d.Fatalf("in the end %d events are untold and %d notices wait; admin says: %s", untold(), waiting(), d.env.Admins[0].Log())
		}
	}

	mails, messages := d.arrivals()
	times, first := make(map[string]int), make(map[string]arrival)
	var once []arrival
	for _, a := range append(slices.Clone(mails), messages...) {
		if times[a.id]++; times[a.id] == 1 {
			once, first[a.id] = append(once, a), a
		}
	}

	// What went out is what the outbox says went out, and nothing else.
	var rows []struct {
		ID     string        `db:"notice_id"`
		State  string        `db:"state"`
		Topic  string        `db:"topic"`
		Digest uuid.NullUUID `db:"digest"`
		Total  int           `db:"total"`
	}
	d.must(d.super.SelectContext(d.Context(), &rows, `select notice_id::text, state, topic, digest, coalesce((content->'digest'->>'total')::int, 0) as total from rgw.notices`))
	sent, gathered, inDigests := 0, 0, 0
	for _, r := range rows {
		switch {
		case r.State == "sent" && times[r.ID] > 0:
			sent++
			inDigests += r.Total
		case r.State == "gathered" && times[r.ID] == 0:
			gathered++
		default:
			d.Errorf("notice %s (%s) is %s, and arrived %d times", r.ID, r.Topic, r.State, times[r.ID])
		}
	}
	if len(times) != sent || inDigests != gathered {
		d.Errorf("%d notices arrived, and %d were sent; digests tell of %d, and %d were gathered", len(times), sent, inDigests, gathered)
	}

	// Each event was told to whom it is about, by mail and, of every fifth person, in Slack, in its order.
	lost, outOfOrder, unthreaded := d.held(once, mails, messages)
	doubled := 0
	for id, n := range times {
		if n == 1 {
			continue
		}
		doubled += n - 1
		deadly := 0
		for _, claimed := range d.inFlight {
			if claimed[id] {
				deadly++
			}
		}
		if knows || n-1 > deadly {
			d.Errorf("a notice arrived %d times, and was on its way at %d deaths: %+v", n, deadly, first[id])
		}
	}
	if lost+outOfOrder+unthreaded > 0 {
		d.Errorf("%d notices are lost, %d came before what they follow, %d are not in their thread", lost, outOfOrder, unthreaded)
	}
	total := 0
	for _, n := range d.kills {
		total += n
	}
	d.Logf("%d notices: %d sent (%d by mail, %d in Slack), %d gathered in digests; admins killed %d times at %d steps; lost %d, doubled %d, out of order %d",
		len(rows), sent, len(mails), len(messages), gathered, total, len(d.kills), lost, doubled, outOfOrder)
	for _, name := range slices.Sorted(maps.Keys(d.kills)) {
		d.Logf("killed %d times %s", d.kills[name], name)
	}
}

// held holds what arrived to what happened.
func (d *deaths) held(once, mails, messages []arrival) (lost, outOfOrder, unthreaded int) {
	type lane struct{ to, request string }
	got := map[string]map[lane][]arrival{"mail": {}, "slack": {}}
	welcomed := make(map[string]bool)
	byMail := make(map[string]bool)
	for _, a := range mails {
		byMail[a.id] = true
	}
	for _, a := range once {
		medium := "slack"
		if byMail[a.id] {
			medium = "mail"
			welcomed[a.to] = welcomed[a.to] || strings.HasPrefix(a.headline, "Welcome")
		}
		got[medium][lane{a.to, a.request}] = append(got[medium][lane{a.to, a.request}], a)
	}
	inSlack := make(map[string]bool)
	for i, email := range d.people {
		inSlack[email] = i%5 == 0
		if !welcomed[email] {
			lost++
		}
	}
	begun := make(map[string]string) // by the message that a thread began with, which may have arrived twice: whose thread
	for _, a := range messages {
		if a.thread == "" {
			begun[a.ts] = a.to + a.request
		}
	}
	for _, request := range d.order {
		to := d.requests[request]
		for medium, lanes := range got {
			if medium == "slack" && !inSlack[to] {
				continue
			}
			came := lanes[lane{to, request}]
			lost += max(len(headlines)-len(came), 0)
			for i, a := range came {
				if i >= len(headlines) || !strings.HasPrefix(a.headline, headlines[i]) {
					outOfOrder++
				}
				if medium == "slack" && i > 0 && begun[a.thread] != to+request {
					unthreaded++
				}
			}
		}
	}
	return lost, outOfOrder, unthreaded
}
