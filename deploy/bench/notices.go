//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/notify/notifytest"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// noticesPerMinute is how many people are told of something while the proxy and the sequencer are measured.
const noticesPerMinute = 1000

// teller has things happen, at an even pace: things that somebody is mailed of, or, when quiet, just as many that
// nobody is told of. It also measures how long events wait for their place in the ledger.
type teller struct {
	b      *bench
	db     *sqlx.DB
	key    audit.Key
	people int
	next   int // whom it is about
	last   *audit.Event
}

// tell does so for as long as ctx lasts, and returns how long some of the events waited for their place, in
// milliseconds, and how many events there were.
func (t *teller) tell(ctx context.Context, quiet bool) (placed sample, events int, err error) {
	every := time.NewTicker(time.Minute / noticesPerMinute)
	defer every.Stop()
	var asked time.Time
	for {
		select {
		case <-ctx.Done():
			return placed, events, nil
		case <-every.C:
		}
		e := audit.NewEvent(time.Now())
		e.ActorKind, e.ActorLabel, e.Action, e.Decision = audit.ActorSystem, "bench", "factor.add", audit.DecisionAllow
		e.Resource = fmt.Sprintf("told%d@example.com", t.next%t.people)
		if quiet {
			e.Action = "app.update" // the same event, of which nobody is told
		}
		t.next++
		// A round that ends does not cut an event off.
		if err := audit.Change(context.WithoutCancel(ctx), t.db, t.key, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return nil, 0, err
		}
		events++
		t.last = e
		if time.Since(asked) > 200*time.Millisecond {
			asked = time.Now()
			waited, err := t.untilPlaced(context.WithoutCancel(ctx), e)
			if err != nil {
				return nil, 0, err
			}
			placed = append(placed, milliseconds(waited))
		}
	}
}

const hasPlace = `select exists (select from rgw.ledger_leaves where occurred_at = $1 and event_id = $2)`

// untilPlaced returns how long an event that was committed a moment ago waits for its place.
func (t *teller) untilPlaced(ctx context.Context, e *audit.Event) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	began := time.Now()
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	for {
		var there bool
		if err := t.db.GetContext(ctx, &there, hasPlace, e.OccurredAt, e.ID); err != nil {
			return 0, err
		}
		if there {
			return time.Since(began), nil
		}
		<-every.C
	}
}

// notices measures what it costs the proxy and the sequencer that a thousand people a minute are told of something:
// rounds with notices and without follow each other, with the same events recorded in both.
func (b *bench) notices() {
	postmark := notifytest.NewPostmark()
	b.Cleanup(postmark.Close)
	env := b.environment(1)
	readers := b.populate(env, "reader", "viewer", principals, 1)
	t := &teller{b: b, people: 1000}
	b.populate(env, "told", "viewer", t.people, 0)
	admin := env.AddAdminWith(map[string]string{
		"LOG_LEVEL": "warn", "POSTMARK_API_TOKEN": notifytest.PostmarkToken, "POSTMARK_FROM": "gateway@example.com", "POSTMARK_API_BASE": postmark.URL,
	})
	admin.WaitReady(b.Context())
	var err error
	t.db, err = postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Admin, env.Database)), Name: "bench", MaxOpen: 2})
	b.must(err)
	b.Cleanup(func() { _ = t.db.Close() })
	t.key, err = audit.NewKey([]byte(env.MACKey()))
	b.must(err)

	busy := b.reading(nil, 32)
	steady := b.reading(nil, 32)
	steady.Rate = 1000
	steady.Measure = pick(b, 6*time.Second, 2*time.Second)
	t.round(env, admin, busy, readers, false) // what people heard of before that is told, and all is warm
	var adminCPU [2]sample
	for _, load := range []struct {
		name string
		job  Job
	}{{"reads at 32", busy}, {"reads at 1,000/s", steady}} {
		var all [2]figures // with notices, and without
		var placed [2]sample
		mails, events := 0, 0
		for round := range pick(b, 6, 2) {
			for i := range 2 {
				which := (i + round) % 2
				before := postmark.Count()
				result, waited, n, cpu, used := t.round(env, admin, load.job, readers, which == 1)
				f := &all[which]
				f.rate, f.p50, f.p99 = append(f.rate, result.PerSecond()), append(f.p50, result.P50), append(f.p99, result.P99)
				f.cpu = append(f.cpu, float64(cpu.Microseconds())/float64(result.Total))
				placed[which] = append(placed[which], waited.median())
				adminCPU[which] = append(adminCPU[which], used)
				if which == 0 {
					mails, events = mails+postmark.Count()-before, events+n
				} else if postmark.Count() != before {
					b.Fatalf("%d mails went out in a round without notices", postmark.Count()-before)
				}
			}
		}
		if mails != events || events == 0 {
			b.Fatalf("%d mails went out of %d events: this measures something else", mails, events)
		}
		cpu := ratios(all[0].cpu, all[1].cpu)
		told := fmt.Sprintf("%d mails", mails)
		if load.job.Rate == 0 {
			rate := ratios(all[0].rate, all[1].rate)
			b.report.add(load.name+" with 1,000 notices a minute, against without", rate.median(), "×", atLeast(0.95), atLeast(0.99), rate.spread()+"; "+told)
			b.report.add("CPU of the proxy per read with 1,000 notices a minute, against without", cpu.median(), "×", atMost(1.05), atMost(1.01), cpu.spread())
			continue
		}
		p50, p99 := differences(all[0].p50, all[1].p50), differences(all[0].p99, all[1].p99)
		b.report.add(load.name+": latency added by 1,000 notices a minute, p50", p50.median(), "ms", atMost(0.1), atMost(0.02), fmt.Sprintf("%s; without %v; %s", p50.spread(), round(all[1].p50.median()), told))
		b.report.tell(load.name+": latency added by 1,000 notices a minute, p99", p99.median(), "ms", fmt.Sprintf("%s; without %v", p99.spread(), round(all[1].p99.median())))
		late := differences(placed[0], placed[1])
		b.report.add("sequencer: an event's place is later by 1,000 notices a minute, p50", late.median(), "ms", atMost(2), atMost(0.5),
			fmt.Sprintf("%s; without %v ms", late.spread(), round(placed[1].median())))
	}
	more := differences(adminCPU[0], adminCPU[1])
	b.report.tell("CPU of admin for 1,000 notices a minute", more.median(), "% of a core", more.spread())
}

// round runs a job while things happen. It ends when what is to be told has been, so that rounds do not mix. It returns
// the CPU time of the proxy, and what admin used, in percent of a core.
func (t *teller) round(env *testenv.Env, admin *testenv.AdminServer, job Job, readers []string, quiet bool) (result Result, placed sample, events int, cpu time.Duration, used float64) {
	b := t.b
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	var telling sync.WaitGroup
	var err error
	began := time.Now()
	before, cerr := cpuOf(admin.PID())
	b.must(cerr)
	telling.Go(func() { placed, events, err = t.tell(ctx, quiet) })
	result, cpu, _ = b.loadOn(gatewaySubject(env, readers), job)
	stop()
	telling.Wait()
	b.must(err)
	after, cerr := cpuOf(admin.PID())
	b.must(cerr)
	used = float64(after-before) / float64(time.Since(began)) * 100
	if len(placed) == 0 {
		b.Fatalf("no event's place was waited for")
	}
	slices.Sort(placed)
	t.settle()
	return result, placed, events, cpu, used
}

// The last event has been looked at, and nothing waits to go out.
const allTold = `
select not exists (select from rgw.notices where state in ('waiting', 'held')) and exists (
  select from rgw.ledger_leaves l join rgw.ledger_cursors c on c.name = 'notices' and c.leaf_index > l.leaf_index where l.occurred_at = $1 and l.event_id = $2)`

// settle waits until all that happened is told.
func (t *teller) settle() {
	ctx, cancel := context.WithTimeout(t.b.Context(), time.Minute)
	defer cancel()
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		var done bool
		t.b.must(t.db.GetContext(ctx, &done, allTold, t.last.OccurredAt, t.last.ID))
		if done {
			return
		}
		<-every.C
	}
}
