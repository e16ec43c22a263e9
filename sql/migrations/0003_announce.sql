-- Every change of access is announced on channel rgw_access, whichever way it was made; and one that
-- was made around the gateway leaves an event of its own, without a MAC, which the ledger raises an alert for.

-- +goose Up

-- +goose StatementBegin
create function rgw.announce_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  subject text;
  row_new jsonb := case when tg_op in ('INSERT', 'UPDATE') then to_jsonb(new) end;
  row_old jsonb := case when tg_op in ('UPDATE', 'DELETE') then to_jsonb(old) end;
  seen    jsonb := coalesce(row_new, row_old);
begin
  subject := case tg_table_name
    when 'users'         then 'user:'    || (seen ->> 'id')
    when 'roles'         then 'role:'    || (seen ->> 'name')
    when 'tokens'        then 'token:'   || (seen ->> 'id')
    when 'token_secrets' then 'token:'   || (seen ->> 'token_id')
    when 'bindings'      then coalesce('user:' || (seen ->> 'user_id'), 'token:' || (seen ->> 'token_id'))
    when 'settings'      then 'setting:' || (seen ->> 'key')
    else 'all'
  end;
  perform pg_notify('rgw_access', subject);
  -- A row that moves from one subject to another concerns both.
  if tg_op = 'UPDATE' and tg_table_name = 'bindings' then
    perform pg_notify('rgw_access', coalesce('user:' || (row_old ->> 'user_id'), 'token:' || (row_old ->> 'token_id')));
  elsif tg_op = 'UPDATE' and tg_table_name = 'token_secrets' then
    perform pg_notify('rgw_access', 'token:' || (row_old ->> 'token_id'));
  elsif tg_op = 'UPDATE' and tg_table_name in ('users', 'tokens') and row_old ->> 'id' <> row_new ->> 'id' then
    perform pg_notify('rgw_access', case tg_table_name when 'users' then 'user:' else 'token:' end || (row_old ->> 'id'));
  elsif tg_op = 'UPDATE' and tg_table_name = 'roles' then
    perform pg_notify('rgw_access', 'role:' || (row_old ->> 'name'));
  end if;
  perform rgw.note_outside_change(tg_table_name, tg_op, subject);
  return null;
end $$;

create function rgw.announce_truncate() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('rgw_access', 'all');
  perform rgw.note_outside_change(tg_table_name, tg_op, 'all');
  return null;
end $$;

-- The gateway sets rgw.request_id for its own transactions and records them itself, with a MAC. Whoever
-- imitates that leaves a change without any event that carries a MAC, which is what the ledger looks for.
create function rgw.note_outside_change(in_table text, in_operation text, in_subject text) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(current_setting('rgw.request_id', true), '') <> '' then
    return;
  end if;
  insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, kind, phase, decision,
    actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
  values (clock_timestamp(), gen_random_uuid(), (select epoch from rgw.cluster_epoch), gen_random_uuid(),
    'action', 'finished', 'none', 'database', session_user, session_user,
    'gateway.changed_outside', '', in_subject, 0, inet_client_addr(),
    -- Spelled as the gateway spells canonical JSON.
    format('{"params":{"operation":%s,"table":%s}}', to_json(lower(in_operation)), to_json(in_table))::json);
end $$;
-- +goose StatementEnd

comment on function rgw.announce_change() is 'Trigger: announces whose access changed.';
comment on function rgw.announce_truncate() is 'Trigger: announces that everybody''s access may have changed.';
comment on function rgw.note_outside_change(text, text, text) is 'Leaves an event, without a MAC, for a change that the gateway did not make.';

create trigger users_announce after insert or delete or update of id, email, name, locked_at, locked_reason, removed_at, signed_in_at
  on rgw.users for each row execute function rgw.announce_change();
create trigger roles_announce after insert or delete or update of name, built_in, permissions
  on rgw.roles for each row execute function rgw.announce_change();
create trigger tokens_announce after insert or delete or update of id, kind, name, owner_id, creator_id, permissions, source_cidrs, headless, expires_at, idle_limit, revoked_at, revoked_reason
  on rgw.tokens for each row execute function rgw.announce_change();
create trigger token_secrets_announce after insert or delete or update of hash, token_id, valid_until
  on rgw.token_secrets for each row execute function rgw.announce_change();
create trigger bindings_announce after insert or delete or update of user_id, token_id, role, app_pattern
  on rgw.bindings for each row execute function rgw.announce_change();
create trigger settings_announce after insert or delete or update of key, app, value
  on rgw.settings for each row execute function rgw.announce_change();

create trigger users_announce_truncate after truncate on rgw.users for each statement execute function rgw.announce_truncate();
create trigger roles_announce_truncate after truncate on rgw.roles for each statement execute function rgw.announce_truncate();
create trigger tokens_announce_truncate after truncate on rgw.tokens for each statement execute function rgw.announce_truncate();
create trigger token_secrets_announce_truncate after truncate on rgw.token_secrets for each statement execute function rgw.announce_truncate();
create trigger bindings_announce_truncate after truncate on rgw.bindings for each statement execute function rgw.announce_truncate();
create trigger settings_announce_truncate after truncate on rgw.settings for each statement execute function rgw.announce_truncate();
