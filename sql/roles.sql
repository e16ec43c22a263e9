-- The two database roles and exactly what each may do. `admin migrate` runs this after the migrations,
-- every time: it takes everything away and gives back what is listed, so this page is the whole truth.
-- They are group roles: give each process a login of its own (create user … in role rgw_proxy).

do $$ begin
  if not exists (select from pg_roles where rolname = 'rgw_proxy') then
    create role rgw_proxy nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'rgw_admin') then
    create role rgw_admin nologin;
  end if;
end $$;

revoke all on schema rgw from public, rgw_proxy, rgw_admin;
revoke all on all tables in schema rgw from public, rgw_proxy, rgw_admin;
revoke all on all sequences in schema rgw from public, rgw_proxy, rgw_admin;
revoke all on all functions in schema rgw from public, rgw_proxy, rgw_admin;

-- What a later migration makes is nobody's until it is listed here. (PostgreSQL gives every function to
-- everybody by default, and takes that back only for all schemas at once.)
alter default privileges revoke execute on functions from public;

-- proxy: reads who may do what, inserts events, and calls the functions named. Nothing else. The column that
-- both leave out, xid, is the database's own: it says which transaction inserted the row.
grant usage on schema rgw to rgw_proxy;
grant select on rgw.users, rgw.roles, rgw.tokens, rgw.token_secrets, rgw.token_uses, rgw.sessions, rgw.session_uses,
  rgw.bindings, rgw.settings, rgw.started_processes, rgw.cluster_epoch to rgw_proxy;
-- Of second factors: whether somebody has one, and what a credential was stepped up by. No secret, and no code.
grant select (id, user_id, kind, removed_at) on rgw.factors to rgw_proxy;
grant select (id, credential_id, user_id, mode, outcome, decided_at, exchanged_at, session_hash, ended_at) on rgw.step_ups to rgw_proxy;
grant insert (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac, kind, phase, decision,
  actor_kind, actor_id, actor_label, action, app, resource, status, address, detail) on rgw.audit_events to rgw_proxy;
grant execute on function rgw.ensure_event_partitions(integer), rgw.token_used(uuid, inet),
  rgw.process_started(text, text, uuid, uuid),
  rgw.step_up_open(uuid, uuid, uuid, text, text, bytea, jsonb, text, inet, bytea, integer),
  rgw.step_up_exchange(uuid, uuid, bytea, bytea), rgw.step_up_spend(uuid, bytea, bytea, integer) to rgw_proxy;

-- admin: changes who may do what, inserts and reads events. It changes no event, and no row that history names is deleted.
grant usage on schema rgw to rgw_admin;
grant select, insert, update on rgw.users, rgw.tokens, rgw.token_secrets, rgw.sessions to rgw_admin;
grant select, insert, update, delete on rgw.roles, rgw.bindings, rgw.settings to rgw_admin;
grant select, insert, delete on rgw.signin_states to rgw_admin;
grant select, insert, update on rgw.factors, rgw.backup_codes, rgw.trusted_devices, rgw.factor_locks to rgw_admin;
grant select, insert, update, delete on rgw.ceremonies, rgw.factor_failures, rgw.step_ups to rgw_admin;
grant select, insert on rgw.bootstrap to rgw_admin;
grant select, insert, update, delete on rgw.idempotency_keys to rgw_admin;
grant select on rgw.token_uses, rgw.session_uses, rgw.started_processes, rgw.cluster_epoch, rgw.schema_migrations to rgw_admin;
grant select, insert (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac, kind, phase, decision,
  actor_kind, actor_id, actor_label, action, app, resource, status, address, detail) on rgw.audit_events to rgw_admin;
grant execute on function rgw.ensure_event_partitions(integer), rgw.token_used(uuid, inet),
  rgw.session_used(uuid, inet), rgw.words(text),
  rgw.step_up_open(uuid, uuid, uuid, text, text, bytea, jsonb, text, inet, bytea, integer),
  rgw.step_up_exchange(uuid, uuid, bytea, bytea), rgw.step_up_spend(uuid, bytea, bytea, integer) to rgw_admin;

-- The ledger: what is in it is added to and never changed. What is updated says only how far somebody has come.
grant select, insert on rgw.ledger_leaves, rgw.ledger_hashes, rgw.ledger_checkpoints, rgw.ledger_actors, rgw.ledger_anchors,
  rgw.ledger_verifications, rgw.ledger_keys to rgw_admin;
grant update (sealed) on rgw.ledger_keys to rgw_admin;
grant select, insert, update, delete on rgw.ledger_writers, rgw.ledger_gaps to rgw_admin;
grant select, insert, update on rgw.ledger_cursors, rgw.ledger_holds to rgw_admin;
grant select on rgw.ledger_clusters, rgw.ledger_restores, rgw.ledger_drops to rgw_admin;
grant execute on function rgw.raise_cluster_epoch(integer, bigint, text), rgw.drop_event_month(date, integer, text) to rgw_admin;

-- Notices: what has ended goes after a while. Admin reads of people what it needs to write to them.
grant select, insert, update, delete on rgw.notices, rgw.notice_rules, rgw.notice_choices, rgw.notice_addresses, rgw.notice_refusals,
  rgw.notice_marks, rgw.integrations to rgw_admin;
grant select, insert on rgw.notice_places to rgw_admin;
grant select, update on rgw.notice_media to rgw_admin;
