//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/testenv"
)

// How cost grows: the same load on a small and on a large case, in turn.

// grown compares the large case, named "gateway", with the small one, named "bare" for the comparison's sake.
func (b *bench) grown(name string, job Job, small, large subject, must bar, note string) {
	small.name, large.name = "small", "large"
	f := b.rounds(pick(b, 5, 3), job, small, large)
	r := ratios(f["large"].rate, f["small"].rate)
	figures := func(name string) string {
		return fmt.Sprintf("%v requests/s at %v µs (+ %v PostgreSQL)", round(f[name].rate.median()), round(f[name].cpu.median()), round(f[name].serverCPU.median()))
	}
	b.report.add(name, r.median(), "×", must, bar{}, fmt.Sprintf("%s; %s against %s; %s", r.spread(), figures("large"), figures("small"), note))
}

// proxies compares three processes with one, the connections shared out among them.
func (b *bench) proxies() {
	env := b.environment(3)
	readers := b.populate(env, "reader", "viewer", principals, 1)
	three := gatewaySubject(env, readers)
	one := three
	one.addrs, one.pids = one.addrs[:1], one.pids[:1]
	b.grown("reads at 32: 3 proxies against 1", b.reading(nil, 32), one, three, atLeast(1), "the same machine for all")
}

// tokens compares a database with ten tokens, and one with very many, all of them in use.
func (b *bench) tokens() {
	many := pick(b, 100_000, 10_000)
	few, full := b.environment(1), b.environment(1)
	small := gatewaySubject(few, b.populate(few, "reader", "viewer", 10, 1))
	large := gatewaySubject(full, b.populate(full, "reader", "viewer", 1000, many/1000))
	// Each token is looked up once.
	first := b.reading(nil, 32)
	first.Warm, first.Measure, first.Count = 0, 0, many
	result, _, _ := b.loadOn(large, first)
	b.report.tell("reads at 32, each with a token not seen before", result.PerSecond(), "requests/s", fmt.Sprintf("%d tokens", many))
	b.grown(fmt.Sprintf("reads at 32: %d tokens in use against 10", many), b.reading(nil, 32), small, large, atLeast(0.95), "each has been seen once")
}

// The events of bulkEvents are like those that proxies write, spread over the days of this month so far.
const (
	bulkTable = `create table rgw.bulk (like rgw.audit_events including defaults including constraints)`
	bulkKeep  = `insert into rgw.bulk select * from rgw.audit_events`
	bulkRows  = `
insert into rgw.bulk (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac, kind, phase, decision,
  actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
select begins + n * step, gen_random_uuid(), 1, gen_random_uuid(), '00000000-0000-7000-8000-000000000001', n, 'k1', sha256(n::text::bytea),
  'action', 'finished', 'allow', 'user', md5((n % 500)::text), 'person' || n % 500 || '@example.com',
  (array['app.list', 'process.exec', 'release.promote', 'build.create', 'app.get'])[1 + n % 5], 'app-' || n % 200, '', 200, '127.0.0.1',
  ('{"auth":"basic","bytes_out":1998,"client":"cli","duration":' || 500 + n % 4000 || ',"method":"GET","mfa":"not-enforced","mfa_level":"none","op":"AppList","path":"/apps/app-' || n % 200 || '/processes","permission":"convox:app:list","rule":"role:viewer","token":"0191d1f2-8a50-7cc3-98c4-dc0c0c07398f","token_name":"laptop","user_agent":"convox.go/dev"}')::json
from (select date_trunc('month', now()) as begins, (now() - date_trunc('month', now())) / $1::bigint as step) as span, generate_series(1, $1::bigint) as n`
	bulkPartition = `
select format('%I.%I', n.nspname, c.relname), pg_get_expr(c.relpartbound, c.oid)
from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
where i.inhparent = 'rgw.audit_events'::regclass and c.relname = 'audit_events_' || to_char(now() at time zone 'UTC', 'YYYYMM')`
)

// fillLog puts so many events in the log of an environment, as a partition that is attached whole.
func (b *bench) fillLog(env *testenv.Env, events int) {
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Minute)
	defer cancel()
	db := b.superuser(env)
	b.must(postgres.InTx(ctx, db, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, `lock table rgw.audit_events in access exclusive mode`); err != nil {
			return err
		}
		for _, step := range []string{`set local maintenance_work_mem = '512MB'`, bulkTable, bulkKeep} {
			if _, err := tx.ExecContext(ctx, step); err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
		}
		if _, err := tx.ExecContext(ctx, bulkRows, events); err != nil {
			return fmt.Errorf("filling the log: %w", err)
		}
		var partition, bound string
		if err := tx.QueryRowContext(ctx, bulkPartition).Scan(&partition, &bound); err != nil {
			return fmt.Errorf("this month's partition: %w", err)
		}
		for _, step := range []string{
			"drop table " + partition,
			"alter table rgw.audit_events attach partition rgw.bulk " + bound,
			"grant select on rgw.bulk to public",
		} {
			if _, err := tx.ExecContext(ctx, step); err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
		}
		return nil
	}))
	for _, step := range []string{`vacuum analyze rgw.bulk`, `checkpoint`} {
		_, err := db.ExecContext(ctx, step)
		b.must(err)
	}
	b.calm(ctx, db)
}

// calm waits until commits are quick again: gigabytes were written a moment ago, and the disk may be at it still.
func (b *bench) calm(ctx context.Context, db *sqlx.DB) {
	const quick, inARow = 10 * time.Millisecond, 100
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for n := 0; n < inARow; n++ {
		began := time.Now()
		if _, err := db.ExecContext(ctx, `select txid_current()`); err != nil { // which the commit makes durable
			b.must(fmt.Errorf("commits do not become quick: %w", err))
		}
		if time.Since(began) > quick {
			n = -1
		}
	}
}

// longLog compares an empty log with a very long one.
func (b *bench) longLog() {
	empty := b.environment(1)
	full, events := b.long()
	for _, kind := range []struct {
		name, role string
		job        func([]string, int) Job
	}{{"reads", "viewer", b.reading}, {"writes", "deployer", b.writing}} {
		small := gatewaySubject(empty, b.populate(empty, kind.role, kind.role, principals, 1))
		large := gatewaySubject(full, b.populate(full, kind.role, kind.role, principals, 1))
		b.grown(fmt.Sprintf("%s at 32: a log of %d events against an empty one", kind.name, events), kind.job(nil, 32), small, large, atLeast(0.95),
			"PostgreSQL's cache is 256 MB")
	}
}
