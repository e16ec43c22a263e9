package sql_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
	schema "rackgateway/sql"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { postgrestest.Main(m) }

// describe tells what the database's schema is, in lines that a person can read.
const describe = `
with things as (
  select 1 as part, 'type ' || t.typname as thing, string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder) as line
    from pg_type t join pg_enum e on e.enumtypid = t.oid
    where t.typnamespace = 'rgw'::regnamespace group by t.typname
  union all
  select 2, 'table ' || c.relname, case c.relkind when 'p' then 'partition by ' || pg_get_partkeydef(c.oid)
      else coalesce('partition ' || pg_get_expr(c.relpartbound, c.oid), 'plain') end
      || coalesce(' -- ' || obj_description(c.oid), ' -- NO COMMENT')
    from pg_class c where c.relnamespace = 'rgw'::regnamespace and c.relkind in ('r', 'p')
  union all
  select 3, 'table ' || c.relname, 'column ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
      || case when a.attnotnull then ' not null' else '' end
      || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') || coalesce(' -- ' || col_description(c.oid, a.attnum), '')
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = 'rgw'::regnamespace and c.relkind in ('r', 'p')
  union all
  select 4, 'table ' || c.relname, 'constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
    from pg_constraint k join pg_class c on c.oid = k.conrelid
    where c.relnamespace = 'rgw'::regnamespace and k.contype in ('p', 'u', 'f', 'c')
  union all
  select 5, 'table ' || c.relname, 'index ' || regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE ', '')
    from pg_index i join pg_class c on c.oid = i.indrelid
    where c.relnamespace = 'rgw'::regnamespace and not i.indisprimary
  union all
  select 6, 'table ' || c.relname, 'trigger ' || regexp_replace(pg_get_triggerdef(t.oid), '^CREATE TRIGGER ', '')
    from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'rgw'::regnamespace and not t.tgisinternal
  union all
  select 7, 'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
      'returns ' || pg_get_function_result(p.oid) || case when p.prosecdef then ' as its owner' else '' end
      || coalesce(' with ' || array_to_string(p.proconfig, '; '), '') || coalesce(' -- ' || obj_description(p.oid), ' -- NO COMMENT')
    from pg_proc p where p.pronamespace = 'rgw'::regnamespace
)
select thing, line from things
where thing !~ 'audit_events_[0-9]{6}' and thing <> 'table schema_migrations'
order by regexp_replace(thing, '^type', ' type'), part, line`

func TestSchemaIsTheOneCommitted(t *testing.T) {
	db := postgrestest.New(t).Owner(t)
	golden(t, "testdata/schema.txt", lines(t, db, describe))
}

func TestEveryTableColumnAndFunctionSaysWhatItIs(t *testing.T) {
	db := postgrestest.New(t).Owner(t)
	silent := lines(t, db, `
select c.relname, coalesce(a.attname, '(table)') from pg_class c
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and not c.relispartition
where c.relnamespace = 'rgw'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'schema_migrations'
  and (col_description(c.oid, a.attnum) is null and a.attname is not null or obj_description(c.oid) is null)
union all
select 'function', proname from pg_proc where pronamespace = 'rgw'::regnamespace and obj_description(oid) is null`)
	if silent != "" {
		t.Errorf("without a comment:\n%s", silent)
	}
}

func TestEachRoleMayDoWhatIsListedAndNothingElse(t *testing.T) {
	db := postgrestest.New(t).Owner(t)
	for _, role := range []string{"rgw_proxy", "rgw_admin"} {
		golden(t, "rights/"+role+".txt", rights(t, db, role))
	}
	if got := rights(t, db, cluster.Proxy); got != rights(t, db, "rgw_proxy") {
		t.Errorf("a login of the proxy's role may do otherwise:\n%s", got)
	}
	if got := lines(t, db, `select rolname, 'is special' from pg_roles where rolname like 'rgw\_%' and rolname <> $1
		and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)`, cluster.Owner); got != "" {
		t.Error(got)
	}
}

// A function that is made later must not be everybody's, though PostgreSQL makes it so by default.
func TestLaterThingsAreNobodysAtFirst(t *testing.T) {
	db := postgrestest.New(t).Owner(t)
	db.MustExec(`create function rgw.later() returns integer language sql as 'select 1'`)
	db.MustExec(`create table rgw.later (n integer)`)
	for _, role := range []string{"rgw_proxy", "rgw_admin"} {
		var may bool
		if err := db.Get(&may, `select has_function_privilege($1, 'rgw.later()', 'execute')
			or has_table_privilege($1, 'rgw.later', 'select, insert, update, delete, truncate')`, role); err != nil {
			t.Fatal(err)
		}
		if may {
			t.Errorf("%s may use what was made later, though nobody gave it that", role)
		}
	}
}

// What the lists promise, tried.
func TestNobodyChangesAnEvent(t *testing.T) {
	db := postgrestest.New(t)
	owner := db.Owner(t)
	owner.MustExec(`update rgw.users set name = name`)
	owner.MustExec(insertUser, "ana@acme.com")
	var month string
	if err := owner.Get(&month, `select 'rgw.audit_events_' || to_char(now() at time zone 'UTC', 'YYYYMM')`); err != nil {
		t.Fatal(err)
	}
	for _, who := range []struct {
		name string
		db   *sqlx.DB
		also []string
	}{
		{"proxy", db.Proxy(t), []string{
			`select * from rgw.audit_events`,
			`insert into rgw.users (email, created_by) values ('eve@acme.com', 'eve')`,
			`update rgw.users set locked_at = null`,
			`delete from rgw.bindings`,
			`insert into rgw.token_uses (token_id, used_at) values (gen_random_uuid(), now())`,
			`insert into rgw.started_processes (app, pid, token_id, owner_id) values ('a', 'p', gen_random_uuid(), gen_random_uuid())`,
			`select * from rgw.schema_migrations`,
			`update rgw.cluster_epoch set epoch = 2`,
			`insert into rgw.sessions (hash, user_id, expires_at) values (sha256('x'), gen_random_uuid(), now())`,
			`update rgw.sessions set revoked_at = null`,
			`select rgw.session_used(gen_random_uuid(), null)`,
			`select * from rgw.signin_states`,
			`select * from rgw.bootstrap`,
		}},
		{"admin", db.Admin(t), []string{
			`delete from rgw.users`,
			`delete from rgw.tokens`,
			`delete from rgw.sessions`,
			`insert into rgw.session_uses (session_id, used_at) values (gen_random_uuid(), now())`,
			`delete from rgw.bootstrap`,
			`update rgw.bootstrap set done_at = now()`,
			`update rgw.signin_states set expires_at = now()`,
			`update rgw.cluster_epoch set epoch = 2`,
			`update rgw.schema_migrations set version_id = 0`,
		}},
	} {
		for _, statement := range append(who.also,
			`update rgw.audit_events set actor_label = 'bob@acme.com'`,
			`delete from rgw.audit_events`,
			`truncate rgw.audit_events`,
			`insert into rgw.audit_events (occurred_at, event_id) values (now(), gen_random_uuid()) on conflict (occurred_at, event_id) do update set app = 'x'`,
			`update `+month+` set actor_label = 'bob@acme.com'`,
			`delete from `+month,
			`select * from `+month,
			`insert into `+month+` (occurred_at, event_id) values (now(), gen_random_uuid())`,
			`drop table `+month,
			`alter table rgw.audit_events detach partition `+month,
			`drop table rgw.audit_events`,
			`alter table rgw.audit_events disable trigger all`,
			`create table rgw.mine (n integer)`,
			`create trigger mine before insert on rgw.audit_events for each row execute function rgw.announce_change()`,
			`select rgw.note_outside_change('users', 'INSERT', 'user:x')`,
			`alter table rgw.users disable trigger users_announce`,
			`set session_replication_role = replica`,
			`set role `+cluster.Owner,
		) {
			_, err := who.db.Exec(statement)
			if state := postgres.SQLState(err); state != "42501" { // insufficient_privilege
				t.Errorf("%s: %s: got %v, want to be refused", who.name, statement, err)
			}
		}
	}
}

func TestMonthsHaveTheirPartition(t *testing.T) {
	db := postgrestest.New(t).Owner(t)
	if got := lines(t, db, `
select to_char(first + make_interval(months => i), 'YYYYMM'), 'is missing' from
  (select date_trunc('month', now() at time zone 'UTC')) f(first), generate_series(-1, $1::integer) i
where to_regclass('rgw.audit_events_' || to_char(first + make_interval(months => i), 'YYYYMM')) is null`, postgres.PartitionsAhead); got != "" {
		t.Error(got)
	}
	// Each as its parent: same constraints, same indexes, no rights of its own.
	if got := lines(t, db, `
select c.relname, 'differs' from pg_class c join pg_inherits on inhrelid = c.oid
where inhparent = 'rgw.audit_events'::regclass and (exists (select from aclexplode(c.relacl) where grantee <> c.relowner)
  or (select count(*) from pg_index where indrelid = c.oid) <> (select count(*) from pg_index where indrelid = inhparent)
  or (select count(*) from pg_constraint where conrelid = c.oid and contype = 'c')
     <> (select count(*) from pg_constraint where conrelid = inhparent and contype = 'c'))`); got != "" {
		t.Error(got)
	}
	var made int
	if err := db.Get(&made, `select rgw.ensure_event_partitions(14)`); err != nil {
		t.Fatal(err)
	}
	if made != 2 {
		t.Errorf("two months more make %d partitions", made)
	}
	for _, bad := range []string{"-1", "37", "null"} {
		if _, err := db.Exec(`select rgw.ensure_event_partitions(` + bad + `)`); postgres.SQLState(err) != "22023" {
			t.Errorf("%s months: %v", bad, err)
		}
	}
}

// A month whose events came before its partition keeps them in the net, and the months after it are made.
func TestAMonthThatWasNotPreparedDoesNotStopTheOthers(t *testing.T) {
	db := postgrestest.New(t).Owner(t)
	db.MustExec(`insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, kind, phase, decision, actor_kind,
		actor_id, actor_label, action, app, resource, status, detail)
		values (now() + interval '13 months', gen_random_uuid(), 1, gen_random_uuid(), 'system', 'finished', 'none', 'system', '', '', 'x', '', '', 0, '{}')`)
	var made int
	if err := db.Get(&made, `select rgw.ensure_event_partitions(15)`); err != nil {
		t.Fatal(err)
	}
	if made != 2 {
		t.Errorf("made %d partitions, want the two months after the one in the net", made)
	}
}

// Making partitions is safe while somebody reads for hours and others insert.
func TestPartitionsAreMadeUnderALongRead(t *testing.T) {
	db := postgrestest.New(t)
	owner, proxy := db.Owner(t), db.Proxy(t)
	read := owner.MustBegin()
	defer func() { _ = read.Rollback() }()
	var from, to string
	if err := owner.QueryRow(`select day::text, (day + interval '1 hour')::text from date_trunc('day', now(), 'UTC') d(day)`).Scan(&from, &to); err != nil {
		t.Fatal(err)
	}
	read.MustExec(`select count(*) from rgw.audit_events where occurred_at >= '` + from + `' and occurred_at < '` + to + `'`)
	write := proxy.MustBegin()
	defer func() { _ = write.Rollback() }()
	write.MustExec(insertEvent)
	if _, err := proxy.Exec(`select rgw.ensure_event_partitions(13)`); err != nil {
		t.Fatalf("partitions cannot be made while one reads a month and another inserts: %v", err)
	}

	// A read of everything holds the net too. Then it gives up, and nobody waits for it.
	read.MustExec(`select count(*) from rgw.audit_events`)
	gaveUp := make(chan error, 1)
	go func() { _, err := proxy.Exec(`select rgw.ensure_event_partitions(14)`); gaveUp <- err }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		select {
		case err := <-gaveUp:
			if state := postgres.SQLState(err); state != "55P03" { // lock_not_available
				t.Fatalf("got %v, want it to give up", err)
			}
			return
		default:
		}
		if _, err := proxy.ExecContext(ctx, insertEvent); err != nil {
			t.Fatalf("an event waited for a partition to be made: %v", err)
		}
	}
}

const (
	insertEvent = `
insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, kind, phase, decision, actor_kind,
  actor_id, actor_label, action, app, resource, status, detail)
values (now(), gen_random_uuid(), 1, gen_random_uuid(), 'system', 'finished', 'none', 'system', '', '', 'x', '', '', 0, '{}')`
	insertUser = `insert into rgw.users (email, created_by) values ($1, 'test')`
)

func TestEveryChangeOfAccessIsAnnounced(t *testing.T) {
	db := postgrestest.New(t)
	owner := db.Owner(t)
	const (
		ana   = "00000000-0000-0000-0000-00000000000a"
		bob   = "00000000-0000-0000-0000-00000000000b"
		token = "00000000-0000-0000-0000-00000000000c"
		other = "00000000-0000-0000-0000-00000000000d"
		sess  = "00000000-0000-0000-0000-00000000000e"
		moved = "00000000-0000-0000-0000-00000000000f"
	)
	for _, step := range []struct {
		statement string
		announced string // payloads, in any order; empty when nothing is
	}{
		{`insert into rgw.users (id, email, created_by) values ('` + ana + `', 'ana@acme.com', 'test')`, "user:" + ana},
		{`insert into rgw.users (id, email, created_by) values ('` + bob + `', 'bob@acme.com', 'test')`, "user:" + bob},
		{`update rgw.users set locked_at = now(), locked_reason = 'lost' where email = 'ana@acme.com'`, "user:" + ana},
		{`update rgw.users set signed_in_at = now() where email = 'ana@acme.com'`, ""}, // which changes no right: it would end open sockets
		{`update rgw.users set locked_reason = 'found' where email = 'ana@acme.com'`, ""},
		{`insert into rgw.sessions (id, hash, user_id, expires_at) values ('` + sess + `', sha256('s'), '` + ana + `', now())`, "token:" + sess},
		{`select rgw.session_used('` + sess + `', '10.0.0.1')`, ""},
		{`update rgw.sessions set revoked_reason = 'signed out'`, ""},
		{`update rgw.sessions set revoked_at = now()`, "token:" + sess},
		{`delete from rgw.session_uses`, ""},
		{`update rgw.sessions set id = '` + moved + `'`, "token:" + sess + " token:" + moved},
		{`delete from rgw.sessions`, "token:" + moved},
		{`insert into rgw.roles (name, created_by) values ('reader', 'test')`, "role:reader"},
		{`update rgw.roles set permissions = '{convox:app:list}' where name = 'reader'`, "role:reader"},
		{`update rgw.roles set name = 'readers' where name = 'reader'`, "role:reader role:readers"},
		{`update rgw.roles set description = 'reads' where name = 'readers'`, ""},
		{`insert into rgw.tokens (id, kind, name, owner_id, expires_at, created_by) values ('` + token + `', 'cli', 'laptop', '` + ana + `', now(), 'test')`, "token:" + token},
		{`insert into rgw.tokens (id, kind, name, owner_id, expires_at, created_by) values ('` + other + `', 'api', 'ci', '` + ana + `', now(), 'test')`, "token:" + other},
		{`insert into rgw.token_secrets (hash, token_id, prefix, last_four) values (sha256('x'), '` + token + `', 'rgw_cli_', 'abcd')`, "token:" + token},
		{`update rgw.token_secrets set valid_until = now()`, "token:" + token},
		{`update rgw.token_secrets set token_id = '` + other + `'`, "token:" + token + " token:" + other},
		{`delete from rgw.token_secrets`, "token:" + other},
		{`update rgw.tokens set revoked_at = now() where id = '` + token + `'`, "token:" + token},
		{`insert into rgw.bindings (user_id, role, created_by) values ('` + ana + `', 'viewer', 'test')`, "user:" + ana},
		{`update rgw.bindings set user_id = '` + bob + `'`, "user:" + ana + " user:" + bob},
		{`update rgw.bindings set user_id = null, token_id = '` + other + `'`, "token:" + other + " user:" + bob},
		{`delete from rgw.bindings`, "token:" + other},
		{`insert into rgw.settings (key, value, updated_by) values ('deploy_approvals', 'true', 'test')`, "setting:deploy_approvals"},
		{`update rgw.settings set value = 'false'`, "setting:deploy_approvals"},
		{`delete from rgw.settings`, "setting:deploy_approvals"},
		{`truncate rgw.bindings`, "all"},
		{`delete from rgw.roles where name = 'readers'`, "role:readers"},
		{`insert into rgw.factors (user_id, kind, name, yubikey, created_by) values ('` + ana + `', 'yubikey-otp', 'key', 'cccccccccccc', 'test')`, "factor:" + ana},
		{`update rgw.factors set used_at = now()`, ""},
		{`update rgw.factors set counter = 0`, "factor:" + ana}, // a code counts again
		{`insert into rgw.backup_codes (hash, user_id) values (sha256('c'), '` + ana + `')`, "factor:" + ana},
		{`update rgw.backup_codes set used_at = null`, "factor:" + ana},
		{`truncate rgw.backup_codes`, "all"},
		{`insert into rgw.trusted_devices (hash, user_id, expires_at) values (sha256('d'), '` + ana + `', now())`, "factor:" + ana},
		{`update rgw.trusted_devices set expires_at = now() + interval '10 years'`, "factor:" + ana},
		{`insert into rgw.step_ups (id, credential_id, user_id, request_id, mode, level, binding, operation, expires_at, outcome, decided_at, exchanged_at)
			values (gen_random_uuid(), '` + token + `', '` + ana + `', gen_random_uuid(), 'page', 'always', sha256('b'), '{}', now(), 'approved', now(), now())`, "factor:" + token},
		{`select rgw.step_up_spend('` + token + `', null, sha256('b'), 600)`, "factor:" + token}, // by a function, which says whose change it is
		{`update rgw.step_ups set spent_at = null`, "factor:" + token},
		{`select rgw.token_used('` + token + `', '10.0.0.1')`, ""},
		{`select rgw.process_started('web', 'p1', '` + token + `', '` + ana + `')`, ""},
	} {
		got := announced(t, db, func() { owner.MustExec(step.statement) })
		if strings.Join(got, " ") != step.announced {
			t.Errorf("%s\n\tannounces %q, want %q", step.statement, got, step.announced)
		}
	}

	// All of them went around the gateway: each left an event without a MAC, but for those that concern nobody's access.
	var left, macs int
	if err := owner.QueryRow(`select count(*), count(mac) from rgw.audit_events where action = 'gateway.changed_outside'
		and actor_kind = 'database' and actor_id = $1 and phase = 'finished'`, cluster.Owner).Scan(&left, &macs); err != nil {
		t.Fatal(err)
	}
	if left != 37 || macs != 0 {
		t.Errorf("%d changes outside the gateway are recorded, %d with a MAC; want 37 and none", left, macs)
	}
	var detail string
	if err := owner.Get(&detail, `select detail::text from rgw.audit_events where resource = 'all'`); err != nil {
		t.Fatal(err)
	}
	if want := `{"params":{"operation":"truncate","table":"bindings"}}`; detail != want {
		t.Errorf("the event says %s, want %s", detail, want)
	}
}

// A transaction that the gateway marked as its own leaves no such event.
func TestTheGatewaysOwnChangesAreNotOutside(t *testing.T) {
	db := postgrestest.New(t)
	admin := db.Admin(t)
	admin.SetMaxOpenConns(1)
	tx := admin.MustBegin()
	tx.MustExec(`select set_config('rgw.request_id', 'f3b1', true)`)
	tx.MustExec(insertUser, "ana@acme.com")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := admin.Get(&n, `select count(*) from rgw.audit_events`); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 0 {
		t.Errorf("%d events for a change that the gateway made", n)
	}
	admin.MustExec(insertUser, "bob@acme.com") // the same session afterwards is not marked any more
	if n := count(); n != 1 {
		t.Errorf("%d events for a change around it, want 1", n)
	}
}

func TestLastUseIsWrittenOnceAMinute(t *testing.T) {
	db := postgrestest.New(t)
	owner, proxy := db.Owner(t), db.Proxy(t)
	owner.MustExec(`insert into rgw.users (id, email, created_by) values ('00000000-0000-0000-0000-00000000000a', 'ana@acme.com', 'test')`)
	owner.MustExec(`insert into rgw.tokens (id, kind, name, owner_id, expires_at, created_by)
		values ('00000000-0000-0000-0000-00000000000c', 'cli', 'laptop', '00000000-0000-0000-0000-00000000000a', now(), 'test')`)
	for _, address := range []string{"10.0.0.1", "10.0.0.2"} {
		if _, err := proxy.Exec(`select rgw.token_used('00000000-0000-0000-0000-00000000000c', $1)`, address); err != nil {
			t.Fatal(err)
		}
	}
	got := lines(t, proxy, `select host(used_address), (used_at = date_trunc('minute', used_at))::text from rgw.token_uses`)
	if got != "10.0.0.1\n  true\n" && got != "10.0.0.2\n  true\n" { // the second only when the minute changed in between
		t.Error(got)
	}
}

func TestMigrationsMayRunAtOnceAndAgain(t *testing.T) {
	db := postgrestest.New(t)
	server := db.Cluster
	name := strings.ToLower(t.Name())
	if err := server.CreateDatabase(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	done := make(chan error)
	const several = 4
	for range several {
		fresh := postgrestest.Open(t, postgres.URL(server.URL(cluster.Owner, name)))
		go func() { done <- postgres.Migrate(t.Context(), fresh, slog.New(slog.DiscardHandler)) }()
	}
	for range several {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	again := postgrestest.Open(t, postgres.URL(server.URL(cluster.Owner, name)))
	if err := postgres.Migrate(t.Context(), again, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	// They came out as the template did, which was migrated by one.
	if got, want := lines(t, again, describe), lines(t, db.Owner(t), describe); got != want {
		t.Error(cmp.Diff(want, got))
	}
	// And what somebody gave by hand is taken away again.
	again.MustExec(`grant delete on rgw.audit_events to rgw_admin; grant select on rgw.audit_events_overflow to public;
		grant execute on function rgw.announce_change() to public; grant update (name) on rgw.users to rgw_proxy`)
	if err := postgres.Migrate(t.Context(), again, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	for _, role := range []string{"rgw_proxy", "rgw_admin"} {
		golden(t, "rights/"+role+".txt", rights(t, again, role))
	}
}

func TestMigrationSaysWhichRightIsMissing(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	super := postgrestest.Open(t, postgres.URL(db.Cluster.URL(cluster.Superuser, "postgres")))
	super.MustExec(`drop database ` + db.Name)
	super.MustExec(`drop role ` + cluster.Proxy + `, ` + cluster.Admin + `, rgw_proxy, rgw_admin`)
	super.MustExec(`alter role ` + cluster.Owner + ` nocreaterole`)
	if err := db.Cluster.CreateDatabase(t.Context(), db.Name, ""); err != nil {
		t.Fatal(err)
	}
	owner := db.Owner(t)
	err := postgres.Migrate(t.Context(), owner, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "CREATEROLE") {
		t.Fatalf("got %v, want to be told of CREATEROLE", err)
	}
	super.MustExec(`alter role ` + cluster.Owner + ` createrole`)
	if err := postgres.Migrate(t.Context(), owner, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	super.MustExec(`alter role ` + cluster.Owner + ` nocreaterole`) // needed only while a role is missing
	if err := postgres.Migrate(t.Context(), owner, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"rgw_proxy", "rgw_admin"} {
		golden(t, "rights/"+role+".txt", rights(t, owner, role))
	}
}

// The roles' page runs with the proxies connected: in one transaction, they never see a right missing.
func TestRolesAreSetInOneTransaction(t *testing.T) {
	db := postgrestest.New(t)
	owner, proxy := db.Owner(t), db.Proxy(t)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if _, err := proxy.Exec(insertEvent); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for range 20 {
		owner.MustExec(schema.Roles)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// announced returns what is announced on rgw_access while the function runs, in order of the text.
func announced(t *testing.T, db *postgrestest.Database, f func()) []string {
	t.Helper()
	notices := make(chan *pq.Notification, 100)
	l, err := pq.NewListenerConn(db.Cluster.URL(cluster.Proxy, db.Name), notices)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := l.Listen("rgw_access"); err != nil {
		t.Fatal(err)
	}
	f()
	if _, err := l.ExecSimpleQuery(`notify rgw_access, 'end'`); err != nil {
		t.Fatal(err)
	}
	var got []string
	for n := range notices {
		if n.Extra == "end" {
			break
		}
		got = append(got, n.Extra)
	}
	slices.Sort(got)
	return got
}

// lines returns rows of a thing and a line about it, the lines of a thing below it.
func lines(t *testing.T, db *sqlx.DB, query string, args ...any) string {
	t.Helper()
	rows, err := db.Query(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var b strings.Builder
	last := ""
	for rows.Next() {
		var thing, line string
		if err := rows.Scan(&thing, &line); err != nil {
			t.Fatal(err)
		}
		if thing != last {
			fmt.Fprintln(&b, thing)
			last = thing
		}
		fmt.Fprintln(&b, " ", line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// rights is what a role may do.
func rights(t *testing.T, db *sqlx.DB, role string) string {
	t.Helper()
	text, err := schema.Rights(t.Context(), db, role)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (go test ./sql -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is otherwise (go test ./sql -update, when it should be):\n%s", name, diff)
	}
}
