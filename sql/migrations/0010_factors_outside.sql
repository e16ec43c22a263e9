-- What else second factors hang on is announced, and leaves an event when it was changed around the gateway: backup codes,
-- trusted browsers, counters, and which grants were spent.

-- +goose Up

create trigger backup_codes_announce after insert or delete or update of hash, user_id, used_at, replaced_at
  on rgw.backup_codes for each row execute function rgw.announce_factor();
create trigger trusted_devices_announce after insert or delete or update of id, hash, user_id, expires_at, revoked_at
  on rgw.trusted_devices for each row execute function rgw.announce_factor();
create trigger backup_codes_announce_truncate after truncate on rgw.backup_codes for each statement execute function rgw.announce_truncate();
create trigger trusted_devices_announce_truncate after truncate on rgw.trusted_devices for each statement execute function rgw.announce_truncate();

drop trigger factors_announce on rgw.factors;
create trigger factors_announce after insert or delete or update of id, user_id, kind, credential, public, sealed, yubikey, counter, removed_at
  on rgw.factors for each row execute function rgw.announce_factor();
drop trigger step_ups_announce on rgw.step_ups;
create trigger step_ups_announce after insert or delete or update of id, credential_id, user_id, level, binding, expires_at, outcome, decided_at, code_hash, exchanged_at, session_hash, spent_at, ended_at
  on rgw.step_ups for each row execute function rgw.announce_factor();

-- As before, but for the request that it marks its change with.
-- +goose StatementBegin
create or replace function rgw.step_up_spend(in_credential uuid, in_session bytea, in_binding bytea, in_seconds integer) returns uuid
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  grant_id   uuid;
  asked_with uuid;
begin
  select u.id, u.request_id into grant_id, asked_with from rgw.step_ups u
   where u.credential_id = in_credential and u.binding = in_binding and u.level = 'always' and u.outcome = 'approved'
     and u.exchanged_at is not null and u.ended_at is null and u.spent_at is null
     and u.decided_at > now() - make_interval(secs => in_seconds)
     and (u.session_hash is null or u.session_hash = in_session)
   order by u.decided_at limit 1 for update skip locked;
  if not found then return null; end if;
  perform set_config('rgw.request_id', asked_with::text, true);
  update rgw.step_ups set spent_at = now() where id = grant_id;
  return grant_id;
end $$;
-- +goose StatementEnd
