//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// The ledger: how fast events get their places and are verified, how soon they are shown, and what that costs.

const (
	sizeOfLedger = `select coalesce(max(size), 0) from rgw.ledger_checkpoints`
	// How many leaves the checkpoints of a stretch added, and in how many seconds by the sequencer's own clock, from its
	// first checkpoint to its last.
	paceOfLedger = `
select max(size) - min(size) as leaves, extract(epoch from max(signed_at) - min(signed_at))::float8 as seconds
from rgw.ledger_checkpoints where size > $1 and previous_size < $2`
)

// record has a writer record so many events as a proxy does: in batches, with MACs and numbers.
func (b *bench) record(env *testenv.Env, events int) {
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Proxy, env.Database)), Name: "bench", MaxOpen: 4})
	b.must(err)
	defer func() { _ = db.Close() }()
	key, err := audit.NewKey([]byte(env.MACKey()))
	b.must(err)
	writer := audit.NewWriter(db, audit.WriterOptions{Key: key})
	done := make(chan error, 1)
	go func() { done <- writer.Run(b.Context()) }()
	var under []*audit.Ticket
	for i := range events {
		ticket, err := writer.Enqueue(recordedEvent(i))
		b.must(err)
		if under = append(under, ticket); len(under) == 4096 || i == events-1 {
			for _, ticket := range under {
				b.must(ticket.Wait(b.Context()))
			}
			under = under[:0]
		}
	}
	b.must(writer.Close(b.Context()))
	b.must(<-done)
}

// recordedEvent is one as a proxy makes it of a read by a person at a command line.
func recordedEvent(n int) *audit.Event {
	e := audit.NewEvent(time.Now())
	e.Decision, e.ActorKind, e.Status = audit.DecisionAllow, audit.ActorUser, http.StatusOK
	e.ActorID, e.ActorLabel = fmt.Sprintf("0191d1f2-8a50-7cc3-98c4-%012d", n%500), fmt.Sprintf("person%d@example.com", n%500)
	e.Action, e.App = []string{"app.list", "process.list", "release.list", "build.list"}[n%4], fmt.Sprintf("app-%d", n%200)
	sent := int64(1998)
	e.Detail = audit.Detail{
		Auth: "basic", Client: "cli", Method: "GET", Path: "/apps/" + e.App + "/processes", Op: "ProcessList", Permission: "convox:process:list", Rule: "role:viewer",
		MFA: "not-enforced", MFALevel: "none", Token: "0191d1f2-8a50-7cc3-98c4-dc0c0c07398f", TokenName: "laptop", BytesOut: &sent, Duration: int64(500 + n%4000), UserAgent: "convox.go/dev",
	}
	return e
}

// untilPlaced waits until the ledger of an environment has a size.
func (b *bench) untilPlaced(env *testenv.Env, size int64) {
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Minute)
	defer cancel()
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		var have int64
		b.must(env.DB.GetContext(ctx, &have, sizeOfLedger))
		if have >= size {
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			b.Fatalf("the ledger has %d leaves, and should have %d", have, size)
		}
	}
}

// ledgerSize is how many leaves there are.
func (b *bench) ledgerSize(env *testenv.Env) (size int64) {
	b.must(env.DB.GetContext(b.Context(), &size, sizeOfLedger))
	return size
}

// sequencing measures how fast admin gives events their places that wait for them, and how fast the command line
// verifies all of them, their MACs too.
func (b *bench) sequencing() {
	rounds, each := pick(b, 5, 3), pick(b, 200_000, 20_000)
	env := b.suite.Start(b, testenv.Options{Proxies: -1})
	admin := env.AddAdmin()
	admin.WaitReady(b.Context())
	b.untilPlaced(env, 1)
	var rate, cpu, serverCPU sample
	for range rounds {
		admin.Pause()
		from := b.ledgerSize(env)
		b.record(env, each)
		before, err := cpuOf(admin.PID())
		b.must(err)
		serverBefore, err := cpuOfServer(env.Postgres)
		b.must(err)
		admin.Resume()
		b.untilPlaced(env, from+int64(each))
		after, err := cpuOf(admin.PID())
		b.must(err)
		serverAfter, err := cpuOfServer(env.Postgres)
		b.must(err)
		var pace struct {
			Leaves  float64 `db:"leaves"`
			Seconds float64 `db:"seconds"`
		}
		b.must(env.DB.GetContext(b.Context(), &pace, paceOfLedger, from, from+int64(each)))
		if pace.Seconds == 0 {
			b.Fatalf("%d events got their places in one batch: too few to measure", each)
		}
		rate = append(rate, pace.Leaves/pace.Seconds)
		cpu = append(cpu, float64((after-before).Microseconds())/float64(each))
		serverCPU = append(serverCPU, float64((serverAfter-serverBefore).Microseconds())/float64(each))
	}
	admin.Stop()
	b.report.add("sequencing rate", rate.median(), "events/s", atLeast(20_000), atLeast(50_000),
		fmt.Sprintf("%s of %d events that waited; CPU per event %v µs, and %v of PostgreSQL", rate.spread(), each, round(cpu.median()), round(serverCPU.median())))

	var verified sample
	size := b.ledgerSize(env)
	for range rounds {
		began := time.Now()
		said, complaints, err := env.TryAdmin("audit", "verify", "--json")
		took := time.Since(began)
		var report struct {
			Events   int64             `json:"events"`
			Findings []json.RawMessage `json:"findings"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(said), &report)
		}
		if err != nil || report.Events < size || len(report.Findings) > 0 {
			b.Fatalf("admin audit verify: %v: %s%s", err, said, complaints)
		}
		verified = append(verified, float64(report.Events)/took.Seconds())
	}
	b.report.add(fmt.Sprintf("verification rate of %d events", size), verified.median(), "events/s", atLeast(50_000), atLeast(200_000),
		verified.spread()+"; admin audit verify, its start included: events, MACs, leaves, tree, signatures")
}

// tail measures how long after its commit an event is on a live tail, while a proxy serves.
func (b *bench) tail() {
	env := b.environmentWith(1, 1)
	readers := b.populate(env, "reader", "viewer", principals, 1)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, env.Admins[0].URL+"/api/v1/audit/tail?q=kind:all", nil)
	b.must(err)
	request.Header.Set("Authorization", "Bearer "+env.Token("admin"))
	answer, err := env.Client().Do(request)
	b.must(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		b.Fatalf("the tail: %s", answer.Status)
	}
	type outcome struct {
		took sample
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		var out outcome
		lines := bufio.NewScanner(answer.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			text, is := strings.CutPrefix(lines.Text(), "data: ")
			if !is {
				continue
			}
			var e struct {
				At     time.Time `json:"occurred_at"`
				Action string    `json:"action"`
			}
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				out.err = err
				break
			}
			if e.Action == "app.list" {
				out.took = append(out.took, milliseconds(time.Since(e.At)))
			}
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			out.err = err
		}
		done <- out
	}()
	job := b.reading(nil, 32)
	job.Rate, job.Warm, job.Measure = 1000, time.Second, pick(b, 20*time.Second, 4*time.Second)
	result, _, _ := b.loadOn(gatewaySubject(env, readers), job)
	b.untilPlaced(env, int64(result.Total))
	var last int64
	b.must(env.DB.GetContext(b.Context(), &last, `select count(*) from rgw.audit_events where action = 'app.list'`))
	// What is under way comes within the bar many times over; what has not come by then is missing below.
	timer := time.NewTimer(3 * time.Second)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	cancel()
	out := <-done
	b.must(out.err)
	if int64(len(out.took)) < last {
		b.Fatalf("the tail showed %d events of %d", len(out.took), last)
	}
	slices.Sort(out.took)
	at := func(q float64) float64 { return out.took[min(int(q*float64(len(out.took))+0.999999), len(out.took))-1] }
	b.report.add("event to live tail at 1,000 requests/s, p99", at(0.99), "ms", atMost(500), atMost(100),
		fmt.Sprintf("p50 %v ms, max %v ms, of %d; from when the event was made, which is before its commit", round(at(0.5)), round(at(1)), len(out.took)))
}

// sequenced compares a proxy whose events get their places meanwhile with one whose events wait.
func (b *bench) sequenced() {
	without, with := b.environmentWith(1, 0), b.environmentWith(1, 1)
	for _, kind := range []struct {
		name, role string
		job        func([]string, int) Job
	}{{"reads", "viewer", b.reading}, {"writes", "deployer", b.writing}} {
		small := gatewaySubject(without, b.populate(without, kind.role, kind.role, principals, 1))
		large := gatewaySubject(with, b.populate(with, kind.role, kind.role, principals, 1))
		small.name, large.name = "without", "with"
		// At a rate that leaves room for both, as in production, where admin has a share of its own.
		job := kind.job(nil, 32)
		job.Rate, job.Measure = 1000, pick(b, 6*time.Second, 2*time.Second)
		f := b.rounds(pick(b, 5, 3), job, small, large)
		r := ratios(f["with"].rate, f["without"].rate)
		p50, p99 := differences(f["with"].p50, f["without"].p50), differences(f["with"].p99, f["without"].p99)
		b.report.add(fmt.Sprintf("%s at 1,000/s: throughput with sequencing, against without", kind.name), r.median(), "×", atLeast(0.95), atLeast(1),
			fmt.Sprintf("%s; p50 %+.2f ms, p99 %+.2f ms", r.spread(), p50.median(), p99.median()))

		// And where the load, the rack, the proxy, PostgreSQL and admin share two cores, all of them busy.
		f = b.rounds(pick(b, 5, 3), kind.job(nil, 32), small, large)
		r = ratios(f["with"].rate, f["without"].rate)
		b.report.tell(fmt.Sprintf("%s at 32, all cores busy: with sequencing on the same cores, against without", kind.name), r.median(), "×",
			fmt.Sprintf("%s; %v against %v requests/s", r.spread(), round(f["with"].rate.median()), round(f["without"].rate.median())))
	}
}

// longRun is an environment with a very long log, which several measurements share.
type longRun struct {
	env    *testenv.Env
	events int
}

// long returns the environment with the long log, and makes it for the first who asks. It lives until the run ends.
func (b *bench) long() (*testenv.Env, int) {
	if b.shared.env == nil {
		events := pick(b, 10_000_000, 300_000)
		// An event takes less than 1 KB with its indexes, and as much again while they are built.
		if room := int(freeSpace(os.TempDir()) / 3 / 1024); room < events {
			events = room
		}
		whole := *b
		whole.TB = b.whole
		env := whole.environment(1)
		whole.fillLog(env, events)
		b.shared.env, b.shared.events = env, events
	}
	return b.shared.env, b.shared.events
}

const (
	// The locks of the sequencer and of whoever verifies: nobody looks at leaves that are only there to be found.
	holdLedger = `select pg_advisory_lock(7220417051), pg_advisory_lock(7220417054)`
	bulkLeaves = `
insert into rgw.ledger_leaves (leaf_index, occurred_at, event_id, hash)
select row_number() over (order by occurred_at, event_id) - 1, occurred_at, event_id, sha256(event_id::text::bytea) from rgw.audit_events`
	bulkActors = `
insert into rgw.ledger_actors (actor_label, actor_id) select 'person' || n || '@example.com', md5(n::text) from generate_series(0, 499) n on conflict do nothing`
)

// search measures searches of a very long log, as whoever asks the API has them: with their own record, and the places of
// what was found.
func (b *bench) search() {
	env, events := b.long()
	ctx := b.Context()
	db := b.superuser(env)
	held, err := db.Connx(ctx)
	b.must(err)
	defer func() { _ = held.Close() }()
	_, err = held.ExecContext(ctx, holdLedger)
	b.must(err)
	for _, step := range []string{bulkLeaves, bulkActors, `vacuum analyze rgw.ledger_leaves, rgw.ledger_actors`, `checkpoint`} {
		_, err := db.ExecContext(ctx, step)
		b.must(err)
	}
	b.calm(ctx, db)
	admin := env.AddAdmin()
	admin.WaitReady(ctx)
	defer admin.Stop()

	var first, last time.Time
	b.must(env.DB.QueryRowContext(ctx, `select min(occurred_at), max(occurred_at) from rgw.audit_events`).Scan(&first, &last))
	random := rand.New(rand.NewPCG(7, 11)) // the same questions in each run
	during := func(width time.Duration) string {
		at := first.Add(time.Duration(random.Int64N(int64(last.Sub(first) - width))))
		return "since:" + at.UTC().Format(time.RFC3339) + " until:" + at.Add(width).UTC().Format(time.RFC3339)
	}
	person := func() string { return fmt.Sprintf("actor:person%d@example.com", random.IntN(500)) }
	app := func() string { return fmt.Sprintf("app:app-%d", random.IntN(200)) }
	action := func() string {
		return "action:" + []string{"app.list", "process.exec", "release.promote", "build.create", "app.get"}[random.IntN(5)]
	}
	asked := pick(b, 40, 10)
	var all sample
	var each []string
	for _, kind := range []struct {
		name string
		q    func() string
	}{
		{"time", func() string { return during(time.Hour) }}, {"actor", person}, {"app", app}, {"action", action},
		{"actor and time", func() string { return person() + " " + during(24*time.Hour) }},
		{"app and action", func() string { return app() + " " + action() }},
		{"actor and app", func() string { return person() + " " + app() }},
		{"app, of which there is none", func() string { return "app:nosuch" }},
		{"actor, of whom there is none", func() string { return "actor:nobody@example.com" }},
		{"a refusal of an app, of which there is none", func() string { return app() + " decision:deny" }},
		{"time and status", func() string { return "status:>=500 " + during(24*time.Hour) }},
	} {
		var took sample
		for i := range asked + 3 {
			spent, _ := b.ask(admin, kind.q(), false)
			if i >= 3 { // the first ones meet everything for the first time
				took = append(took, spent)
			}
		}
		all = append(all, took...)
		each = append(each, fmt.Sprintf("%s %v", kind.name, round(took.quantile(0.95))))
	}
	b.report.add(fmt.Sprintf("search over %d events by time, actor, app or action, p95", events), all.quantile(0.95), "ms", atMost(200), atMost(50),
		fmt.Sprintf("p50 %v, max %v, of %d; p95 of each: %s", round(all.quantile(0.5)), round(all.quantile(1)), len(all), strings.Join(each, ", ")))

	var found, none sample
	for range pick(b, 20, 5) {
		spent, _ := b.ask(admin, fmt.Sprintf("\"/apps/app-%d/\" ", random.IntN(200))+during(24*time.Hour), true)
		found = append(found, spent)
		spent, n := b.ask(admin, `"drop table" `+during(24*time.Hour), true)
		if n != 0 {
			b.Fatalf("%d events say drop table", n)
		}
		none = append(none, spent)
	}
	b.report.add(fmt.Sprintf("free text within a day of %d events, p95", events), max(found.quantile(0.95), none.quantile(0.95)), "ms", atMost(1000), atMost(300),
		fmt.Sprintf("a page of what is found %v, the whole day when nothing is %v (p50 %v)", round(found.quantile(0.95)), round(none.quantile(0.95)), round(none.quantile(0.5))))
	spent, _ := b.ask(admin, "decision:deny", true)
	b.report.tell(fmt.Sprintf("through all %d events for what is not there", events), spent, "ms", "page by page, each within its time")
}

// quantile is a value that such a part of the sample does not exceed.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))+0.999999), len(sorted))-1]
}

// ask searches, and returns how long it took in milliseconds and how many events it found. With whole it goes on, page by
// page, until something was found or everything was looked through.
func (b *bench) ask(admin *testenv.AdminServer, q string, whole bool) (spent float64, found int) {
	began := time.Now()
	for cursor := ""; ; {
		got := admin.Do("admin", http.MethodGet, "/api/v1/audit/events?limit=50&q="+url.QueryEscape(q)+cursor, nil)
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next"`
		}
		if got.Status != http.StatusOK {
			b.must(errors.New(got.Body))
		}
		b.must(json.Unmarshal([]byte(got.Body), &page))
		found += len(page.Items)
		if !whole || page.Next == "" || found > 0 {
			return milliseconds(time.Since(began)), found
		}
		cursor = "&cursor=" + url.QueryEscape(page.Next)
	}
}
