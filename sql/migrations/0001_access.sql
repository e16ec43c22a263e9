-- Who may do what: people, roles, bindings, tokens, settings; and how a change to any of them is
-- announced to every proxy, whichever way it was made.

-- +goose Up

create table rgw.users (
  id            uuid        not null default gen_random_uuid(),
  email         text        not null,
  name          text        not null default '',
  locked_at     timestamptz,
  locked_reason text        not null default '',
  removed_at    timestamptz,
  signed_in_at  timestamptz,
  created_at    timestamptz not null default now(),
  created_by    text        not null,
  constraint users_pkey primary key (id),
  constraint users_email_folded check (email = lower(email) and length(email) between 3 and 254),
  constraint users_name_length check (length(name) <= 200)
);
create unique index users_email_key on rgw.users (email) where removed_at is null;

comment on table  rgw.users is 'People. A removed person keeps the row, so that history keeps a name.';
comment on column rgw.users.id is 'Stable identity; audit events name it.';
comment on column rgw.users.email is 'Address, case-folded; unique among those not removed.';
comment on column rgw.users.name is 'Display name; may be empty.';
comment on column rgw.users.locked_at is 'When the person was locked; null when not locked.';
comment on column rgw.users.locked_reason is 'Why, in the words of whoever locked them.';
comment on column rgw.users.removed_at is 'When the person was removed; null while a member.';
comment on column rgw.users.signed_in_at is 'Last sign-in by the identity provider; null when never.';
comment on column rgw.users.created_at is 'When the row was made.';
comment on column rgw.users.created_by is 'Label of who added the person.';

create table rgw.roles (
  name        text        not null,
  built_in    boolean     not null default false,
  description text        not null default '',
  permissions text[]      not null default '{}',
  created_at  timestamptz not null default now(),
  created_by  text        not null,
  constraint roles_pkey primary key (name),
  constraint roles_name_form check (name ~ '^[a-z][a-z0-9-]{0,62}$'),
  constraint roles_builtin_has_no_list check (not built_in or permissions = '{}')
);

comment on table  rgw.roles is 'Roles. Built-in ones take their permissions from the program, so that an upgrade cannot leave them behind.';
comment on column rgw.roles.name is 'Name, as bindings and people use it.';
comment on column rgw.roles.built_in is 'True for the roles that the program defines and nobody may edit.';
comment on column rgw.roles.description is 'What the role is for.';
comment on column rgw.roles.permissions is 'Permissions of a custom role, scope:resource:action, without wildcards.';
comment on column rgw.roles.created_at is 'When the row was made.';
comment on column rgw.roles.created_by is 'Label of who made it.';

insert into rgw.roles (name, built_in, description, created_by) values
  ('viewer',   true, 'Sees apps, processes, builds and logs.', 'gateway'),
  ('ops',      true, 'A viewer who also restarts, runs and stops processes.', 'gateway'),
  ('deployer', true, 'An operator who also builds, releases and configures apps.', 'gateway'),
  ('admin',    true, 'Everything, on the rack and in the gateway.', 'gateway'),
  ('cicd',     true, 'A pipeline: builds, promotes, and runs commands in processes it started. For API tokens only.', 'gateway');

create table rgw.tokens (
  id             uuid        not null default gen_random_uuid(),
  kind           text        not null,
  name           text        not null,
  owner_id       uuid        not null,
  creator_id     uuid,
  permissions    text[],
  source_cidrs   cidr[]      not null default '{}',
  headless       boolean     not null default false,
  expires_at     timestamptz not null,
  idle_limit     interval,
  revoked_at     timestamptz,
  revoked_reason text        not null default '',
  created_at     timestamptz not null default now(),
  created_by     text        not null,
  constraint tokens_pkey primary key (id),
  constraint tokens_owner_fkey foreign key (owner_id) references rgw.users (id),
  constraint tokens_creator_fkey foreign key (creator_id) references rgw.users (id),
  constraint tokens_kind check (kind in ('cli', 'api')),
  constraint tokens_name_length check (length(name) between 1 and 200),
  constraint tokens_permissions_only_api check (permissions is null or kind = 'api')
);
create index tokens_owner_idx on rgw.tokens (owner_id);
create index tokens_creator_idx on rgw.tokens (creator_id);
create index tokens_created_idx on rgw.tokens (created_at, id);
create index tokens_name_idx on rgw.tokens (name);

comment on table  rgw.tokens is 'Credentials of command lines (cli) and pipelines (api). The secrets are in token_secrets, hashed.';
comment on column rgw.tokens.id is 'Stable identity; audit events name it.';
comment on column rgw.tokens.kind is 'cli: a person on one device, with the rights of that person. api: a pipeline, with rights of its own.';
comment on column rgw.tokens.name is 'Device or pipeline, as people call it.';
comment on column rgw.tokens.owner_id is 'The person it belongs to. When that person is locked or removed, it stops at once.';
comment on column rgw.tokens.creator_id is 'api: the person whose rights it can never exceed; null when the command line made it.';
comment on column rgw.tokens.permissions is 'api: permissions given by name in place of roles; null when roles are bound.';
comment on column rgw.tokens.source_cidrs is 'Networks it may be used from; empty means any.';
comment on column rgw.tokens.headless is 'True for a device without a browser.';
comment on column rgw.tokens.expires_at is 'Absolute end of its life.';
comment on column rgw.tokens.idle_limit is 'It ends when unused for so long; null means no limit.';
comment on column rgw.tokens.revoked_at is 'When it was revoked; null while it is good.';
comment on column rgw.tokens.revoked_reason is 'Why it was revoked.';
comment on column rgw.tokens.created_at is 'When it was made.';
comment on column rgw.tokens.created_by is 'Label of who made it.';

create table rgw.token_secrets (
  hash        bytea       not null,
  token_id    uuid        not null,
  prefix      text        not null,
  last_four   text        not null,
  valid_until timestamptz,
  created_at  timestamptz not null default now(),
  constraint token_secrets_pkey primary key (hash),
  constraint token_secrets_token_fkey foreign key (token_id) references rgw.tokens (id) on delete cascade,
  constraint token_secrets_hash_length check (octet_length(hash) = 32)
);
create index token_secrets_token_idx on rgw.token_secrets (token_id);
create index token_secrets_prefix_idx on rgw.token_secrets (prefix);

comment on table  rgw.token_secrets is 'What a token is recognised by. A rotation adds one and gives the old one a deadline.';
comment on column rgw.token_secrets.hash is 'SHA-256 of the whole token text.';
comment on column rgw.token_secrets.token_id is 'The token it opens.';
comment on column rgw.token_secrets.prefix is 'First characters of the token, kind and id, enough to recognise it by.';
comment on column rgw.token_secrets.last_four is 'Last four characters of the token.';
comment on column rgw.token_secrets.valid_until is 'Deadline after a rotation; null for the current secret.';
comment on column rgw.token_secrets.created_at is 'When it was made.';

create table rgw.token_uses (
  token_id     uuid        not null,
  used_at      timestamptz not null,
  used_address inet,
  constraint token_uses_pkey primary key (token_id),
  constraint token_uses_token_fkey foreign key (token_id) references rgw.tokens (id) on delete cascade
);

comment on table  rgw.token_uses is 'Last use of each token, apart from tokens so that it announces nothing. Written at most once a minute.';
comment on column rgw.token_uses.token_id is 'The token.';
comment on column rgw.token_uses.used_at is 'When it was last used, to the minute.';
comment on column rgw.token_uses.used_address is 'From where.';

create table rgw.bindings (
  id          uuid        not null default gen_random_uuid(),
  user_id     uuid,
  token_id    uuid,
  role        text        not null,
  app_pattern text        not null default '*',
  created_at  timestamptz not null default now(),
  created_by  text        not null,
  constraint bindings_pkey primary key (id),
  constraint bindings_user_fkey foreign key (user_id) references rgw.users (id),
  constraint bindings_token_fkey foreign key (token_id) references rgw.tokens (id) on delete cascade,
  constraint bindings_role_fkey foreign key (role) references rgw.roles (name),
  constraint bindings_one_subject check (num_nonnulls(user_id, token_id) = 1),
  constraint bindings_pattern_form check (app_pattern ~ '^[a-z0-9*-]{1,64}$')
);
create unique index bindings_user_key on rgw.bindings (user_id, role, app_pattern) where user_id is not null;
create unique index bindings_token_key on rgw.bindings (token_id, role, app_pattern) where token_id is not null;
create index bindings_role_idx on rgw.bindings (role);

comment on table  rgw.bindings is 'Gives a role, over the apps that match a pattern, to one person or one API token.';
comment on column rgw.bindings.id is 'Identity.';
comment on column rgw.bindings.user_id is 'The person, or null.';
comment on column rgw.bindings.token_id is 'The API token, or null.';
comment on column rgw.bindings.role is 'The role given.';
comment on column rgw.bindings.app_pattern is 'Apps it is given over: a name, or a pattern with * for any run of characters.';
comment on column rgw.bindings.created_at is 'When it was given.';
comment on column rgw.bindings.created_by is 'Label of who gave it.';

create table rgw.settings (
  key        text        not null,
  app        text        not null default '',
  value      jsonb       not null,
  updated_at timestamptz not null default now(),
  updated_by text        not null,
  constraint settings_pkey primary key (key, app),
  constraint settings_key_form check (key ~ '^[a-z][a-z0-9_]{0,62}$')
);

comment on table  rgw.settings is 'Settings that were changed from their default. Their history is in the audit events.';
comment on column rgw.settings.key is 'Name of the setting.';
comment on column rgw.settings.app is 'App it holds for; empty for the whole gateway.';
comment on column rgw.settings.value is 'The value, of the type that the setting has.';
comment on column rgw.settings.updated_at is 'When it was last changed.';
comment on column rgw.settings.updated_by is 'Label of who changed it.';

create table rgw.started_processes (
  app        text        not null,
  pid        text        not null,
  token_id   uuid        not null,
  owner_id   uuid        not null,
  started_at timestamptz not null default now(),
  constraint started_processes_pkey primary key (app, pid)
);

comment on table  rgw.started_processes is 'Who started which one-off process, so that a command can end what it began. Written before the rack''s answer is passed on.';
comment on column rgw.started_processes.app is 'App.';
comment on column rgw.started_processes.pid is 'Process id, as the rack named it.';
comment on column rgw.started_processes.token_id is 'Token that started it.';
comment on column rgw.started_processes.owner_id is 'Owner of that token.';
comment on column rgw.started_processes.started_at is 'When.';
