-- Signing in: browser sessions, sign-ins that were used up, and whether the first people were made.

-- +goose Up

create table rgw.sessions (
  id             uuid        not null default gen_random_uuid(),
  hash           bytea       not null,
  user_id        uuid        not null,
  created_at     timestamptz not null default now(),
  expires_at     timestamptz not null,
  revoked_at     timestamptz,
  revoked_reason text        not null default '',
  user_agent     text        not null default '',
  address        inet,
  constraint sessions_pkey primary key (id),
  constraint sessions_user_fkey foreign key (user_id) references rgw.users (id),
  constraint sessions_hash_length check (octet_length(hash) = 32),
  constraint sessions_user_agent_length check (length(user_agent) <= 400)
);
create unique index sessions_hash_key on rgw.sessions (hash);
create index sessions_user_idx on rgw.sessions (user_id, created_at);
create index sessions_created_idx on rgw.sessions (created_at, id);

comment on table  rgw.sessions is 'Browser sessions, each begun by a sign-in. The secret is in the browser''s cookie; here is its hash.';
comment on column rgw.sessions.id is 'Stable identity; audit events name it.';
comment on column rgw.sessions.hash is 'SHA-256 of the whole text in the cookie.';
comment on column rgw.sessions.user_id is 'The person who signed in. When they are locked or removed, it stops at once.';
comment on column rgw.sessions.created_at is 'When they signed in.';
comment on column rgw.sessions.expires_at is 'Absolute end of its life. It ends earlier when it is not used, by the setting session_idle_minutes.';
comment on column rgw.sessions.revoked_at is 'When it was ended, by signing out or by somebody who may; null until then.';
comment on column rgw.sessions.revoked_reason is 'Why it was ended.';
comment on column rgw.sessions.user_agent is 'What the browser said it was, at the sign-in.';
comment on column rgw.sessions.address is 'Address that the sign-in came from.';

create table rgw.session_uses (
  session_id   uuid        not null,
  used_at      timestamptz not null,
  used_address inet,
  constraint session_uses_pkey primary key (session_id),
  constraint session_uses_session_fkey foreign key (session_id) references rgw.sessions (id) on delete cascade
);

comment on table  rgw.session_uses is 'Last use of each session, apart from sessions so that it announces nothing. Written at most once a minute.';
comment on column rgw.session_uses.session_id is 'The session.';
comment on column rgw.session_uses.used_at is 'When it was last used, to the minute.';
comment on column rgw.session_uses.used_address is 'From where.';

-- +goose StatementBegin
create function rgw.session_used(used_session uuid, used_from inet) returns void
  language sql security definer set search_path = pg_catalog, pg_temp as $$
  insert into rgw.session_uses as u (session_id, used_at, used_address)
  values (used_session, date_trunc('minute', now()), used_from)
  on conflict (session_id) do update set used_at = excluded.used_at, used_address = excluded.used_address
  where u.used_at < excluded.used_at;
$$;
-- +goose StatementEnd
comment on function rgw.session_used(uuid, inet) is 'Notes the use of a session, to the minute.';

create table rgw.signin_states (
  hash       bytea       not null,
  expires_at timestamptz not null,
  constraint signin_states_pkey primary key (hash),
  constraint signin_states_hash_length check (octet_length(hash) = 32)
);
create index signin_states_expires_idx on rgw.signin_states (expires_at);

comment on table  rgw.signin_states is 'Sign-ins that came back from the identity provider, so that none can come back twice.';
comment on column rgw.signin_states.hash is 'SHA-256 of the state.';
comment on column rgw.signin_states.expires_at is 'When the sign-in could no longer come back anyway, and the row may go.';

create table rgw.bootstrap (
  what      text        not null,
  done_at   timestamptz not null default now(),
  addresses text[]      not null,
  constraint bootstrap_pkey primary key (what)
);

comment on table  rgw.bootstrap is 'What was done once, at the first start, and is never done again.';
comment on column rgw.bootstrap.what is 'What was done: users.';
comment on column rgw.bootstrap.done_at is 'When.';
comment on column rgw.bootstrap.addresses is 'The people who were made then.';

-- A session is announced as a token: it is a credential like others, and the release before, which knows
-- nothing of sessions, then drops nothing else.
-- +goose StatementBegin
create or replace function rgw.announce_change() returns trigger
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
    when 'sessions'      then 'token:'   || (seen ->> 'id')
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
  elsif tg_op = 'UPDATE' and tg_table_name in ('users', 'tokens', 'sessions') and row_old ->> 'id' <> row_new ->> 'id' then
    perform pg_notify('rgw_access', case tg_table_name when 'users' then 'user:' else 'token:' end || (row_old ->> 'id'));
  elsif tg_op = 'UPDATE' and tg_table_name = 'roles' then
    perform pg_notify('rgw_access', 'role:' || (row_old ->> 'name'));
  end if;
  perform rgw.note_outside_change(tg_table_name, tg_op, subject);
  return null;
end $$;
-- +goose StatementEnd

create trigger sessions_announce after insert or delete or update of id, hash, user_id, created_at, expires_at, revoked_at
  on rgw.sessions for each row execute function rgw.announce_change();
create trigger sessions_announce_truncate after truncate on rgw.sessions for each statement execute function rgw.announce_truncate();

-- Signing in changes nobody's rights, nor does the wording of a reason. If it were announced, each sign-in would
-- end that person's own open sockets. A change of it around the gateway does leave an event still.
drop trigger users_announce on rgw.users;
create trigger users_announce after insert or delete or update of id, email, name, locked_at, removed_at
  on rgw.users for each row execute function rgw.announce_change();

-- +goose StatementBegin
create function rgw.note_signed_in() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rgw.note_outside_change(tg_table_name, tg_op, 'user:' || new.id);
  return null;
end $$;
-- +goose StatementEnd
comment on function rgw.note_signed_in() is 'Trigger: leaves an event when a sign-in, or the reason of a lock, was written around the gateway.';
create trigger users_signed_in after update of signed_in_at, locked_reason on rgw.users for each row
  when (old.locked_at is not distinct from new.locked_at) execute function rgw.note_signed_in();
