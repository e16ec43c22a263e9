package ledger_test

import (
	"context"
	"testing"
	"time"

	"rackgateway/pkg/ledger"
)

// fill makes events as writers do, within the database: so many, as if they had come over a month.
func (w *world) fill(n int) {
	w.t.Helper()
	w.write(1)
	for from := 1; from <= n; from += 500 { // as many as a writer's transaction has
		w.super.MustExec(`insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
			select e.occurred_at - n * interval '1 millisecond', gen_random_uuid(), e.epoch, gen_random_uuid(), '0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e60', n, e.mac_key, e.mac, e.kind, e.phase, e.decision, e.actor_kind,
				'actor-' || n % 50, 'person' || n % 50 || '@acme.com', (array['app.list', 'process.list', 'process.exec', 'release.list'])[1 + n % 4], 'app-' || n % 20, e.resource, e.status, e.address, e.detail
			from (select * from rgw.audit_events where mac is not null order by occurred_at limit 1) e, generate_series($1::integer, $2::integer) n`, from, min(from+499, n))
	}
	w.super.MustExec(`analyze rgw.audit_events`)
}

// BenchmarkSequencing gives places to b.N events that wait: events/s is what counts.
func BenchmarkSequencing(b *testing.B) {
	w := newWorld(b)
	w.fill(b.N)
	b.ResetTimer()
	began := time.Now()
	w.sequence()
	for w.size() < int64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "events/s")
}

// BenchmarkVerifying verifies a database of b.N events, MACs left out.
func BenchmarkVerifying(b *testing.B) {
	w := newWorld(b)
	w.fill(b.N)
	_, stop := w.sequence()
	for w.size() < int64(b.N) {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	b.ResetTimer()
	began := time.Now()
	report, err := ledger.VerifyDatabase(context.Background(), w.admin, ledger.VerifyOptions{})
	if err != nil {
		b.Fatal(err)
	}
	if report.Events < int64(b.N) {
		b.Fatal(report)
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "events/s")
	var bytes float64
	if err := w.super.Get(&bytes, `select sum(pg_total_relation_size(c.oid))::float8 from pg_class c where c.relnamespace = 'rgw'::regnamespace and c.relkind = 'r' and c.relname like 'ledger_%'`); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(bytes/float64(b.N), "ledger-B/event")
}
