-- The record: audit events, insert-only, one partition a month.

-- +goose Up

create type rgw.actor_kind     as enum ('nobody', 'user', 'api_token', 'system', 'database');
create type rgw.event_kind     as enum ('action', 'poll', 'preflight', 'system');
create type rgw.event_phase    as enum ('started', 'finished', 'refused', 'cut');
create type rgw.event_decision as enum ('none', 'allow', 'deny', 'challenge', 'wait');

create table rgw.cluster_epoch (
  only_row boolean not null default true,
  epoch    integer not null default 1,
  constraint cluster_epoch_pkey primary key (only_row),
  constraint cluster_epoch_one_row check (only_row)
);
insert into rgw.cluster_epoch default values;

comment on table  rgw.cluster_epoch is 'Counts the lives of the database cluster, because transaction ids begin anew when one is restored from a dump.';
comment on column rgw.cluster_epoch.only_row is 'Always true: there is one row.';
comment on column rgw.cluster_epoch.epoch is 'The present life; events carry it.';

create table rgw.audit_events (
  occurred_at timestamptz        not null,
  event_id    uuid               not null,
  epoch       integer            not null,
  xid         xid8               not null default pg_current_xact_id(),
  request_id  uuid               not null,
  writer_id   uuid,
  writer_seq  bigint,
  mac_key     text,
  mac         bytea,
  kind        rgw.event_kind     not null,
  phase       rgw.event_phase    not null,
  decision    rgw.event_decision not null,
  actor_kind  rgw.actor_kind     not null,
  actor_id    text               not null,
  actor_label text               not null,
  action      text               not null,
  app         text               not null,
  resource    text               not null,
  status      integer            not null,
  address     inet,
  detail      json               not null,
  constraint audit_events_pkey primary key (occurred_at, event_id),
  constraint audit_events_mac_whole check (num_nonnulls(writer_id, writer_seq, mac_key, mac) in (0, 4))
) partition by range (occurred_at);

create index audit_events_xid_idx    on rgw.audit_events (xid);
create index audit_events_actor_idx  on rgw.audit_events (actor_id, occurred_at);
create index audit_events_app_idx    on rgw.audit_events (app, occurred_at) where app <> '';
create index audit_events_action_idx on rgw.audit_events (action, occurred_at);

comment on table  rgw.audit_events is 'What was asked, decided and done. Rows are inserted and never changed; retention drops whole months.';
comment on column rgw.audit_events.occurred_at is 'When, by the writer''s clock, in microseconds; fixed by the writer, so that a repeated insert is the same row.';
comment on column rgw.audit_events.event_id is 'UUIDv7, fixed by the writer.';
comment on column rgw.audit_events.epoch is 'Life of the cluster that the transaction id belongs to.';
comment on column rgw.audit_events.xid is 'Transaction that inserted it: the order of the ledger is found from it.';
comment on column rgw.audit_events.request_id is 'Joins the events of one request.';
comment on column rgw.audit_events.writer_id is 'One life of one process that writes events; null for an event that the database wrote by itself.';
comment on column rgw.audit_events.writer_seq is 'Number of the event within its writer, from 1 without gaps.';
comment on column rgw.audit_events.mac_key is 'Which key the MAC was made with.';
comment on column rgw.audit_events.mac is 'HMAC-SHA256 of the canonical bytes under a key that the database does not hold.';
comment on column rgw.audit_events.kind is 'A person''s doing (action), what a client does by itself (poll, preflight), or the gateway''s own (system).';
comment on column rgw.audit_events.phase is 'started before the rack is asked; finished with the outcome; refused; cut when an answer broke off.';
comment on column rgw.audit_events.decision is 'What was decided.';
comment on column rgw.audit_events.actor_kind is 'What sort of actor.';
comment on column rgw.audit_events.actor_id is 'Stable id of the actor; empty when nobody.';
comment on column rgw.audit_events.actor_label is 'Address or token name, as it was then.';
comment on column rgw.audit_events.action is 'What was asked, resource.verb.';
comment on column rgw.audit_events.app is 'App concerned; empty when none.';
comment on column rgw.audit_events.resource is 'Thing concerned, by the name the request gave; empty when none.';
comment on column rgw.audit_events.status is 'HTTP status that the client was given; 0 when not known yet.';
comment on column rgw.audit_events.address is 'Client''s address, from the connection or a trusted proxy.';
comment on column rgw.audit_events.detail is 'Everything else, as canonical JSON.';

create table rgw.audit_events_overflow partition of rgw.audit_events default;
comment on table rgw.audit_events_overflow is 'The net for events outside every month that was prepared; a row here raises an alert.';

-- +goose StatementBegin
-- A partition is made as a table of its own and attached, since that lets others read and insert meanwhile
-- ("create table … partition of" would lock everybody out, and wait behind every long read first). Where a
-- long read holds the lock that is still needed, it gives up after two seconds: there are months of time.
create function rgw.ensure_event_partitions(months integer) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  first date := date_trunc('month', now() at time zone 'UTC')::date;
  month date;
  name  text;
  made  integer := 0;
begin
  if months is null or months < 0 or months > 36 then
    raise exception 'months must be between 0 and 36, not %', months using errcode = 'invalid_parameter_value';
  end if;
  -- One at a time: all processes call this daily, and at start.
  perform pg_advisory_xact_lock(7220417001);
  for i in -1 .. months loop
    month := first + make_interval(months => i);
    name := 'audit_events_' || to_char(month, 'YYYYMM');
    if to_regclass('rgw.' || name) is null then
      begin
        execute format('create table rgw.%I (like rgw.audit_events including defaults including constraints)', name);
        execute format('alter table rgw.audit_events attach partition rgw.%I for values from (%L) to (%L)', name,
          to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
          to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
        execute format('comment on table rgw.%I is %L', name, 'The events of ' || to_char(month, 'YYYY-MM') || ' (UTC).');
        made := made + 1;
      exception when check_violation then
        raise warning 'events of % are in rgw.audit_events_overflow, and stay there: % is not made', to_char(month, 'YYYY-MM'), name;
      end;
    end if;
  end loop;
  return made;
end $$;
-- +goose StatementEnd
comment on function rgw.ensure_event_partitions(integer) is 'Makes the monthly partitions from last month to so many months ahead; returns how many it made.';

-- +goose StatementBegin
create function rgw.token_used(used_token uuid, used_from inet) returns void
  language sql security definer set search_path = pg_catalog, pg_temp as $$
  insert into rgw.token_uses as u (token_id, used_at, used_address)
  values (used_token, date_trunc('minute', now()), used_from)
  on conflict (token_id) do update set used_at = excluded.used_at, used_address = excluded.used_address
  where u.used_at < excluded.used_at;
$$;
-- +goose StatementEnd
comment on function rgw.token_used(uuid, inet) is 'Notes the use of a token, to the minute.';

-- +goose StatementBegin
create function rgw.process_started(in_app text, in_pid text, by_token uuid, by_owner uuid) returns void
  language sql security definer set search_path = pg_catalog, pg_temp as $$
  insert into rgw.started_processes (app, pid, token_id, owner_id)
  values (in_app, in_pid, by_token, by_owner)
  on conflict (app, pid) do update
    set token_id = excluded.token_id, owner_id = excluded.owner_id, started_at = now();
$$;
-- +goose StatementEnd
comment on function rgw.process_started(text, text, uuid, uuid) is 'Notes who started a one-off process.';
