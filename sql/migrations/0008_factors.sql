-- Second factors: what people have, what they are asked for, and what was given.

-- +goose Up

create table rgw.factors (
  id             uuid        not null default gen_random_uuid(),
  user_id        uuid        not null,
  kind           text        not null,
  name           text        not null,
  credential     bytea,
  public         jsonb,
  sealed         bytea,
  yubikey        text,
  counter        bigint      not null default 0,
  created_at     timestamptz not null default now(),
  created_by     text        not null,
  used_at        timestamptz,
  removed_at     timestamptz,
  removed_reason text        not null default '',
  constraint factors_pkey primary key (id),
  constraint factors_user_fkey foreign key (user_id) references rgw.users (id),
  constraint factors_kind check (kind in ('passkey', 'security-key', 'totp', 'yubikey-otp')),
  constraint factors_name_length check (length(name) between 1 and 200),
  constraint factors_whole check (removed_at is not null or case kind
    when 'totp' then sealed is not null
    when 'yubikey-otp' then yubikey is not null
    else credential is not null and public is not null end)
);
create index factors_user_idx on rgw.factors (user_id, created_at);
create unique index factors_credential_key on rgw.factors (credential) where removed_at is null and credential is not null;
create unique index factors_yubikey_key on rgw.factors (user_id, yubikey) where removed_at is null and yubikey is not null;

comment on table  rgw.factors is 'Second factors of people. A removed one keeps the row, without its secret, so that history keeps a name.';
comment on column rgw.factors.id is 'Stable identity; audit events name it.';
comment on column rgw.factors.user_id is 'The person.';
comment on column rgw.factors.kind is 'passkey or security-key (WebAuthn), totp, yubikey-otp.';
comment on column rgw.factors.name is 'What the person calls it.';
comment on column rgw.factors.credential is 'WebAuthn: the credential''s id, unique among those not removed.';
comment on column rgw.factors.public is 'WebAuthn: the public key and what else was said at the registration.';
comment on column rgw.factors.sealed is 'TOTP: the secret, sealed for this row.';
comment on column rgw.factors.yubikey is 'YubiKey OTP: the public identity of the key, 12 letters.';
comment on column rgw.factors.counter is 'WebAuthn: the signature counter. TOTP: the last time step that was used. It only grows.';
comment on column rgw.factors.created_at is 'When it was added.';
comment on column rgw.factors.created_by is 'Label of who added it.';
comment on column rgw.factors.used_at is 'When it was last given.';
comment on column rgw.factors.removed_at is 'When it was removed; null while it is good.';
comment on column rgw.factors.removed_reason is 'Why: by its owner, or reset by an administrator.';

create table rgw.backup_codes (
  hash        bytea       not null,
  user_id     uuid        not null,
  created_at  timestamptz not null default now(),
  used_at     timestamptz,
  replaced_at timestamptz,
  constraint backup_codes_pkey primary key (hash),
  constraint backup_codes_user_fkey foreign key (user_id) references rgw.users (id),
  constraint backup_codes_hash_length check (octet_length(hash) = 32)
);
create index backup_codes_user_idx on rgw.backup_codes (user_id);

comment on table  rgw.backup_codes is 'Backup codes, each good once, for when no other factor is at hand.';
comment on column rgw.backup_codes.hash is 'SHA-256 of the code and its owner.';
comment on column rgw.backup_codes.user_id is 'The person.';
comment on column rgw.backup_codes.created_at is 'When it was made.';
comment on column rgw.backup_codes.used_at is 'When it was given; null while it is good.';
comment on column rgw.backup_codes.replaced_at is 'When newer codes, or a reset, made it worthless.';

create table rgw.trusted_devices (
  id         uuid        not null default gen_random_uuid(),
  hash       bytea       not null,
  user_id    uuid        not null,
  user_agent text        not null default '',
  address    inet,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  constraint trusted_devices_pkey primary key (id),
  constraint trusted_devices_user_fkey foreign key (user_id) references rgw.users (id),
  constraint trusted_devices_hash_length check (octet_length(hash) = 32),
  constraint trusted_devices_user_agent_length check (length(user_agent) <= 400)
);
create unique index trusted_devices_hash_key on rgw.trusted_devices (hash);
create index trusted_devices_user_idx on rgw.trusted_devices (user_id);

comment on table  rgw.trusted_devices is 'Browsers in which a person need not give a factor when signing in. They count for nothing else.';
comment on column rgw.trusted_devices.id is 'Stable identity; audit events name it.';
comment on column rgw.trusted_devices.hash is 'SHA-256 of the secret in the browser''s cookie.';
comment on column rgw.trusted_devices.user_id is 'The person.';
comment on column rgw.trusted_devices.user_agent is 'What the browser said it was.';
comment on column rgw.trusted_devices.address is 'Address from which it was trusted.';
comment on column rgw.trusted_devices.created_at is 'When it was trusted.';
comment on column rgw.trusted_devices.expires_at is 'When it has to be trusted anew.';
comment on column rgw.trusted_devices.revoked_at is 'When it was distrusted; null until then.';

create table rgw.ceremonies (
  id         uuid        not null default gen_random_uuid(),
  user_id    uuid        not null,
  session_id uuid        not null,
  purpose    text        not null,
  step_up_id uuid,
  kind       text        not null,
  name       text        not null default '',
  sealed     bytea       not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  spent_at   timestamptz,
  constraint ceremonies_pkey primary key (id),
  constraint ceremonies_user_fkey foreign key (user_id) references rgw.users (id),
  constraint ceremonies_purpose check (purpose in ('enrol', 'assert'))
);
create index ceremonies_expires_idx on rgw.ceremonies (expires_at);

comment on table  rgw.ceremonies is 'Enrolments and WebAuthn assertions under way. Each can be ended once, by the browser session that began it.';
comment on column rgw.ceremonies.id is 'Identity.';
comment on column rgw.ceremonies.user_id is 'The person.';
comment on column rgw.ceremonies.session_id is 'The browser session that began it.';
comment on column rgw.ceremonies.purpose is 'enrol: a factor is added. assert: one is given.';
comment on column rgw.ceremonies.step_up_id is 'assert: the step-up that it is given for.';
comment on column rgw.ceremonies.kind is 'Kind of the factor.';
comment on column rgw.ceremonies.name is 'enrol: what the factor is to be called.';
comment on column rgw.ceremonies.sealed is 'The challenge, or the new secret, sealed for this row.';
comment on column rgw.ceremonies.created_at is 'When it began.';
comment on column rgw.ceremonies.expires_at is 'When it can no longer be ended.';
comment on column rgw.ceremonies.spent_at is 'When it was ended, well or not.';

create table rgw.factor_failures (
  id            bigint      generated always as identity,
  user_id       uuid        not null,
  credential_id uuid        not null,
  failed_at     timestamptz not null default now(),
  forgiven_at   timestamptz,
  constraint factor_failures_pkey primary key (id),
  constraint factor_failures_user_fkey foreign key (user_id) references rgw.users (id)
);
create index factor_failures_credential_idx on rgw.factor_failures (credential_id, failed_at);
create index factor_failures_user_idx on rgw.factor_failures (user_id, failed_at);

comment on table  rgw.factor_failures is 'Wrong codes and failed assertions of the last days, to lock by.';
comment on column rgw.factor_failures.id is 'Identity.';
comment on column rgw.factor_failures.user_id is 'Whose factor was asked for.';
comment on column rgw.factor_failures.credential_id is 'The session in which it was given.';
comment on column rgw.factor_failures.failed_at is 'When.';
comment on column rgw.factor_failures.forgiven_at is 'When it stopped counting, because a factor was given, a lock began, or somebody unlocked.';

create table rgw.factor_locks (
  id            uuid        not null default gen_random_uuid(),
  user_id       uuid        not null,
  credential_id uuid        not null,
  locked_at     timestamptz not null default now(),
  locked_until  timestamptz not null,
  lifted_at     timestamptz,
  constraint factor_locks_pkey primary key (id),
  constraint factor_locks_user_fkey foreign key (user_id) references rgw.users (id)
);
create index factor_locks_credential_idx on rgw.factor_locks (credential_id, locked_until);
create index factor_locks_user_idx on rgw.factor_locks (user_id, locked_until);

comment on table  rgw.factor_locks is 'Sessions in which no factor is checked for a while, after too many that were wrong. The account and its other credentials go on.';
comment on column rgw.factor_locks.id is 'Stable identity; audit events name it.';
comment on column rgw.factor_locks.user_id is 'The person.';
comment on column rgw.factor_locks.credential_id is 'The session.';
comment on column rgw.factor_locks.locked_at is 'When it began.';
comment on column rgw.factor_locks.locked_until is 'When it ends by itself.';
comment on column rgw.factor_locks.lifted_at is 'When an administrator ended it; null otherwise.';

create table rgw.step_ups (
  id            uuid        not null,
  credential_id uuid        not null,
  user_id       uuid        not null,
  request_id    uuid        not null,
  mode          text        not null,
  level         text        not null,
  binding       bytea       not null,
  operation     jsonb       not null,
  words         text        not null default '',
  address       inet,
  opened_at     timestamptz not null default now(),
  expires_at    timestamptz not null,
  outcome       text,
  decided_at    timestamptz,
  factor        text        not null default '',
  code_hash     bytea,
  exchanged_at  timestamptz,
  session_hash  bytea,
  spent_at      timestamptz,
  ended_at      timestamptz,
  constraint step_ups_pkey primary key (id),
  constraint step_ups_user_fkey foreign key (user_id) references rgw.users (id),
  constraint step_ups_mode check (mode in ('callback', 'held', 'page', 'socket', 'silent', 'console', 'sign-in')),
  constraint step_ups_level check (level in ('step-up', 'always')),
  constraint step_ups_outcome check (outcome in ('approved', 'refused', 'expired')),
  constraint step_ups_decided check ((outcome is null) = (decided_at is null)),
  constraint step_ups_binding_length check (octet_length(binding) = 32),
  constraint step_ups_hash_lengths check (octet_length(code_hash) = 32 and octet_length(session_hash) = 32)
);
create index step_ups_credential_idx on rgw.step_ups (credential_id, opened_at);
create index step_ups_user_idx on rgw.step_ups (user_id, opened_at);
create index step_ups_pending_idx on rgw.step_ups (expires_at) where outcome is null;
create index step_ups_opened_idx on rgw.step_ups (opened_at);

comment on table  rgw.step_ups is 'Second factors asked for and given: the challenge, the session that came of it, and the one use of a grant for an operation that asks each time.';
comment on column rgw.step_ups.id is 'Identity; the challenge''s name in addresses.';
comment on column rgw.step_ups.credential_id is 'The CLI token or browser session that it is for, and for nothing else.';
comment on column rgw.step_ups.user_id is 'Whose factor is asked for.';
comment on column rgw.step_ups.request_id is 'The request that was challenged; events are joined by it.';
comment on column rgw.step_ups.mode is 'How the answer comes back: callback (CLI and browser on one machine), held (the CLI waits), page (the command is run again), socket and silent (the socket waits), console, sign-in.';
comment on column rgw.step_ups.level is 'step-up: counts for a window of time. always: for one use of this very operation besides.';
comment on column rgw.step_ups.binding is 'SHA-256 of the operation in every part that a grant is bound to.';
comment on column rgw.step_ups.operation is 'The operation in words, and what it is bound to, for the page.';
comment on column rgw.step_ups.words is 'Two words that the terminal shows and the page asks for, where no callback ties the two together.';
comment on column rgw.step_ups.address is 'Where the request came from.';
comment on column rgw.step_ups.opened_at is 'When it was asked for.';
comment on column rgw.step_ups.expires_at is 'When it can no longer be approved.';
comment on column rgw.step_ups.outcome is 'What became of it; null while nobody has decided.';
comment on column rgw.step_ups.decided_at is 'When; of an approval, when the factor was given.';
comment on column rgw.step_ups.factor is 'Kind of the factor given.';
comment on column rgw.step_ups.code_hash is 'callback: SHA-256 of the code that the page gave to the CLI.';
comment on column rgw.step_ups.exchanged_at is 'When the approval was taken into use; it counts from then.';
comment on column rgw.step_ups.session_hash is 'SHA-256 of the session that requests have to carry; null when the token alone is enough.';
comment on column rgw.step_ups.spent_at is 'always: when its one use was taken.';
comment on column rgw.step_ups.ended_at is 'When it stopped counting before its time: its factors were reset, say.';

alter table rgw.sessions add column verified_at timestamptz;
comment on column rgw.sessions.verified_at is 'When a second factor was given at the sign-in, or the browser was a trusted one; null until then.';

-- What is announced here changes what a request has to show, not whose rights it has: it ends no sockets, so it is
-- told apart from a change of access. The proxies of the release before take it for anything, and read all anew.
-- +goose StatementBegin
create function rgw.announce_factor() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  row_new jsonb := case when tg_op in ('INSERT', 'UPDATE') then to_jsonb(new) end;
  row_old jsonb := case when tg_op in ('UPDATE', 'DELETE') then to_jsonb(old) end;
  seen    jsonb := coalesce(row_new, row_old);
  subject text;
begin
  subject := case tg_table_name
    when 'step_ups' then seen ->> 'credential_id'
    when 'sessions' then seen ->> 'id'
    else seen ->> 'user_id'
  end;
  perform pg_notify('rgw_access', 'factor:' || subject);
  if tg_op = 'UPDATE' and tg_table_name = 'step_ups' and row_old ->> 'credential_id' <> row_new ->> 'credential_id' then
    perform pg_notify('rgw_access', 'factor:' || (row_old ->> 'credential_id'));
  elsif tg_op = 'UPDATE' and tg_table_name = 'factors' and row_old ->> 'user_id' <> row_new ->> 'user_id' then
    perform pg_notify('rgw_access', 'factor:' || (row_old ->> 'user_id'));
  end if;
  perform rgw.note_outside_change(tg_table_name, tg_op, 'factor:' || subject);
  return null;
end $$;
-- +goose StatementEnd
comment on function rgw.announce_factor() is 'Trigger: announces whose second factor stands otherwise than before.';

create trigger factors_announce after insert or delete or update of id, user_id, kind, credential, public, sealed, yubikey, removed_at
  on rgw.factors for each row execute function rgw.announce_factor();
create trigger step_ups_announce after insert or delete or update of id, credential_id, user_id, level, binding, outcome, decided_at, code_hash, exchanged_at, session_hash, ended_at
  on rgw.step_ups for each row execute function rgw.announce_factor();
create trigger sessions_verified_announce after update of verified_at
  on rgw.sessions for each row execute function rgw.announce_factor();
create trigger factors_announce_truncate after truncate on rgw.factors for each statement execute function rgw.announce_truncate();
create trigger step_ups_announce_truncate after truncate on rgw.step_ups for each statement execute function rgw.announce_truncate();

-- The proxy may not write these tables. What it may do is in the three functions that follow; each marks its change
-- as the gateway's own, and the proxy records what came of it.

-- +goose StatementBegin
create function rgw.step_up_open(in_id uuid, in_credential uuid, in_request uuid, in_mode text, in_level text,
  in_binding bytea, in_operation jsonb, in_words text, in_address inet, in_session bytea, in_seconds integer)
  returns table (state text, id uuid, words text, expires_at timestamptz)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  owner   uuid;
  pending record;
begin
  if in_mode not in ('callback', 'held', 'page', 'socket', 'silent', 'console') or in_seconds not between 10 and 900 then
    raise exception 'a step-up of mode % for % seconds', in_mode, in_seconds using errcode = 'invalid_parameter_value';
  end if;
  perform set_config('rgw.request_id', in_request::text, true);
  -- One at a time for each credential, or five at once would each see none.
  perform pg_advisory_xact_lock(7220417, hashtext(in_credential::text));
  select t.owner_id into owner from rgw.tokens t where t.id = in_credential and t.kind = 'cli' and t.revoked_at is null;
  if owner is null then
    select s.user_id into owner from rgw.sessions s where s.id = in_credential and s.revoked_at is null;
  end if;
  if owner is null then
    return query select 'unknown'::text, null::uuid, ''::text, null::timestamptz;
    return;
  end if;
  -- The client repeats what was challenged. A session that was made for this a moment ago and does not carry it is
  -- answered in words, or the two would go on for ever.
  if in_mode in ('callback', 'held') and exists (
    select from rgw.step_ups u where u.credential_id = in_credential and u.session_hash = in_session and u.binding = in_binding
      and u.exchanged_at > now() - interval '1 minute') then
    return query select 'looped'::text, null::uuid, ''::text, null::timestamptz;
    return;
  end if;
  -- Run again before anybody answered, the same command shows the same page.
  if in_mode in ('page', 'console') then
    select u.id, u.words, u.expires_at into pending from rgw.step_ups u
     where u.credential_id = in_credential and u.binding = in_binding and u.mode = in_mode and u.level = in_level
       and u.outcome is null and u.expires_at > now() + interval '1 minute'
     order by u.opened_at desc limit 1;
    if found then
      return query select 'open'::text, pending.id, pending.words, pending.expires_at;
      return;
    end if;
  end if;
  if (select count(*) from rgw.step_ups u where u.credential_id = in_credential and u.opened_at > now() - interval '1 minute'
       and (u.outcome is null or u.outcome = 'expired')) >= 5 then
    return query select 'too-many'::text, null::uuid, ''::text, null::timestamptz;
    return;
  end if;
  insert into rgw.step_ups (id, credential_id, user_id, request_id, mode, level, binding, operation, words, address, expires_at)
  values (in_id, in_credential, owner, in_request, in_mode, in_level, in_binding, in_operation, in_words, in_address,
    now() + make_interval(secs => in_seconds));
  return query select 'opened'::text, in_id, in_words, now() + make_interval(secs => in_seconds);
end $$;

create function rgw.step_up_exchange(in_id uuid, in_credential uuid, in_code bytea, in_session bytea) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  s rgw.step_ups;
begin
  select * into s from rgw.step_ups u where u.id = in_id and u.credential_id = in_credential for update;
  if not found or s.mode not in ('callback', 'held', 'socket', 'silent') then return 'unknown'; end if;
  if s.outcome is null then
    return case when s.expires_at <= now() then 'expired' else 'pending' end;
  end if;
  if s.outcome <> 'approved' then return s.outcome; end if;
  if s.ended_at is not null then return 'ended'; end if;
  if s.exchanged_at is not null then return 'used'; end if;
  if s.decided_at < now() - interval '5 minutes' then return 'expired'; end if;
  if s.mode = 'callback' and (in_code is null or s.code_hash is null or sha256(in_code) <> s.code_hash) then return 'wrong-code'; end if;
  if s.mode in ('callback', 'held') and in_session is null then return 'wrong-code'; end if;
  perform set_config('rgw.request_id', s.request_id::text, true);
  update rgw.step_ups set exchanged_at = now(), session_hash = in_session where id = in_id;
  return 'approved';
end $$;

-- Whoever gets the row gets the grant; who comes at the same moment passes it by and finds none.
create function rgw.step_up_spend(in_credential uuid, in_session bytea, in_binding bytea, in_seconds integer) returns uuid
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  grant_id uuid;
begin
  update rgw.step_ups set spent_at = now()
   where id = (
     select u.id from rgw.step_ups u
      where u.credential_id = in_credential and u.binding = in_binding and u.level = 'always' and u.outcome = 'approved'
        and u.exchanged_at is not null and u.ended_at is null and u.spent_at is null
        and u.decided_at > now() - make_interval(secs => in_seconds)
        and (u.session_hash is null or u.session_hash = in_session)
      order by u.decided_at limit 1 for update skip locked)
  returning id into grant_id;
  return grant_id;
end $$;
-- +goose StatementEnd
comment on function rgw.step_up_open(uuid, uuid, uuid, text, text, bytea, jsonb, text, inet, bytea, integer) is
  'Asks for a second factor. state: opened, open (the same is asked already), looped, too-many, unknown.';
comment on function rgw.step_up_exchange(uuid, uuid, bytea, bytea) is
  'Takes an approval into use, once: approved, or pending, refused, expired, ended, used, wrong-code, unknown.';
comment on function rgw.step_up_spend(uuid, bytea, bytea, integer) is
  'Spends the grant for this very operation, and returns the step-up that gave it; null when there is none.';
