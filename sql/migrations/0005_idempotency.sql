-- What the admin API answered to writes that carried an idempotency key, so that one sent again is answered as
-- before and done once.

-- +goose Up

create table rgw.idempotency_keys (
  principal  text        not null,
  operation  text        not null,
  key        text        not null,
  request    bytea       not null,
  attempt    uuid        not null,
  created_at timestamptz not null default now(),
  status     integer,
  answer     bytea,
  constraint idempotency_keys_pkey primary key (principal, operation, key),
  constraint idempotency_keys_key_length check (length(key) between 8 and 128),
  constraint idempotency_keys_request_length check (octet_length(request) = 32),
  constraint idempotency_keys_answered check (num_nonnulls(status, answer) in (0, 2))
);
create index idempotency_keys_created_idx on rgw.idempotency_keys (created_at);

comment on table  rgw.idempotency_keys is 'Writes of the last day that carried an idempotency key, and their answers.';
comment on column rgw.idempotency_keys.principal is 'Who asked: user:ID or token:ID.';
comment on column rgw.idempotency_keys.operation is 'Operation of the API.';
comment on column rgw.idempotency_keys.key is 'The key, as the client chose it.';
comment on column rgw.idempotency_keys.request is 'SHA-256 of the request: the same key with another one is a mistake.';
comment on column rgw.idempotency_keys.attempt is 'Request that is, or was, carrying it out.';
comment on column rgw.idempotency_keys.created_at is 'When it was first sent; a day later the row goes.';
comment on column rgw.idempotency_keys.status is 'HTTP status of the answer; null until there is one, and for good when the process ended in between.';
comment on column rgw.idempotency_keys.answer is 'Body of the answer, sealed, since it can hold the secret of a token.';
