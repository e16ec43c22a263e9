-- Notices: what people are to hear of, from the moment its event has its place in the ledger until a receiver took it;
-- who wants what; and how the receivers do.

-- +goose Up

create table rgw.notices (
  number      bigint      not null generated always as identity,
  notice_id   uuid        not null,
  event_id    uuid        not null,
  leaf_index  bigint      not null,
  topic       text        not null,
  medium      text        not null,
  recipient   text        not null,
  user_id     uuid,
  lane        text        not null,
  thread      text        not null,
  content     jsonb       not null,
  state       text        not null,
  attempts    integer     not null default 0,
  next_at     timestamptz not null default now(),
  attempt_id  uuid,
  unsure      boolean     not null default false,
  trouble     text        not null default '',
  receipt     text        not null default '',
  digest      uuid,
  happened_at timestamptz not null,
  made_at     timestamptz not null default now(),
  ended_at    timestamptz,
  constraint notices_pkey primary key (number),
  constraint notices_id_key unique (notice_id),
  constraint notices_once_key unique (event_id, topic, medium, recipient),
  constraint notices_medium check (medium in ('mail', 'slack')),
  constraint notices_state check (state in ('waiting', 'held', 'sent', 'dead', 'gathered')),
  constraint notices_attempt_while_waiting check (attempt_id is null or state = 'waiting'),
  constraint notices_ended check ((ended_at is null) = (state in ('waiting', 'held')))
);
create index notices_due_idx on rgw.notices (medium, next_at, number) where state = 'waiting';
create index notices_lane_idx on rgw.notices (lane, number) where state = 'waiting';
create index notices_held_idx on rgw.notices (medium, recipient, made_at) where state in ('held', 'waiting');
create index notices_alike_idx on rgw.notices (medium, recipient, topic, made_at);
create index notices_thread_idx on rgw.notices (thread, recipient, number) where medium = 'slack' and state = 'sent';
create index notices_ended_idx on rgw.notices (ended_at) where ended_at is not null;
create index notices_user_idx on rgw.notices (user_id, number) where user_id is not null;
create index notices_state_idx on rgw.notices (state, number) where state in ('dead', 'held', 'waiting');

comment on table  rgw.notices is 'The outbox: one row for each notice and receiver, written with the cursor of whoever follows the ledger.';
comment on column rgw.notices.number is 'Order in which they were made. Numbers may be missing.';
comment on column rgw.notices.notice_id is 'Identity, and the key by which a receiver can tell a repetition.';
comment on column rgw.notices.event_id is 'The event that it is about; of a digest, the notice itself.';
comment on column rgw.notices.leaf_index is 'Place of the event in the ledger; -1 of what no event gave rise to: digests and tests.';
comment on column rgw.notices.topic is 'What sort of notice it is.';
comment on column rgw.notices.medium is 'How it goes out: mail or slack.';
comment on column rgw.notices.recipient is 'Address, Slack channel id, or, with @ before it, the address of a person in Slack.';
comment on column rgw.notices.user_id is 'The person it is for; null for a channel.';
comment on column rgw.notices.lane is 'Notices of one lane go out one after the other, in the order of their numbers.';
comment on column rgw.notices.thread is 'Messages of one thread are shown together: the request that the events belong to.';
comment on column rgw.notices.content is 'What it says: facts of the event, which were redacted when that was recorded.';
comment on column rgw.notices.state is 'waiting; held until a digest gathers it; sent; dead, until somebody retries it; gathered into a digest.';
comment on column rgw.notices.attempts is 'How often it was tried.';
comment on column rgw.notices.next_at is 'Not tried before then. While it is being tried, when that is given up for lost.';
comment on column rgw.notices.attempt_id is 'The attempt under way; one that is past next_at was lost, and its outcome is not known.';
comment on column rgw.notices.unsure is 'Whether the last attempt may have been taken though its answer was lost.';
comment on column rgw.notices.trouble is 'Why the last attempt failed, in a sentence.';
comment on column rgw.notices.receipt is 'How the receiver calls it: message id of a mail, timestamp of a Slack message.';
comment on column rgw.notices.digest is 'The digest that it was gathered into.';
comment on column rgw.notices.happened_at is 'When the event was.';
comment on column rgw.notices.made_at is 'When it was written here.';
comment on column rgw.notices.ended_at is 'When it was sent, gathered or given up; 30 days later the row goes.';

create table rgw.notice_media (
  medium       text        not null,
  paused_until timestamptz not null default '-infinity',
  failures     integer     not null default 0,
  trouble      text        not null default '',
  failed_at    timestamptz,
  succeeded_at timestamptz,
  constraint notice_media_pkey primary key (medium)
);
insert into rgw.notice_media (medium) values ('mail'), ('slack');
comment on table  rgw.notice_media is 'How each medium does. When it fails as a whole, everything waits and one notice is tried.';
comment on column rgw.notice_media.medium is 'mail or slack.';
comment on column rgw.notice_media.paused_until is 'Nothing is tried before then.';
comment on column rgw.notice_media.failures is 'Failures of the medium since the last success.';
comment on column rgw.notice_media.trouble is 'The last failure, in a sentence; kept after a success.';
comment on column rgw.notice_media.failed_at is 'When that was.';
comment on column rgw.notice_media.succeeded_at is 'When it last took something.';

create table rgw.notice_rules (
  rule_id      uuid        not null,
  channel_id   text        not null,
  channel_name text        not null,
  patterns     text[]      not null,
  created_at   timestamptz not null default now(),
  created_by   text        not null,
  constraint notice_rules_pkey primary key (rule_id),
  constraint notice_rules_channel_length check (length(channel_id) between 1 and 64 and length(channel_name) <= 100),
  constraint notice_rules_patterns check (cardinality(patterns) between 1 and 50)
);
comment on table  rgw.notice_rules is 'Which events are told in which Slack channel.';
comment on column rgw.notice_rules.rule_id is 'Identity.';
comment on column rgw.notice_rules.channel_id is 'The channel, as Slack identifies it.';
comment on column rgw.notice_rules.channel_name is 'Its name when the rule was made.';
comment on column rgw.notice_rules.patterns is 'Patterns of actions, such as user.*, or refused, or alert.';
comment on column rgw.notice_rules.created_at is 'When it was made.';
comment on column rgw.notice_rules.created_by is 'Label of who made it.';

create table rgw.notice_choices (
  user_id uuid    not null,
  topic   text    not null,
  medium  text    not null,
  wanted  boolean not null,
  constraint notice_choices_pkey primary key (user_id, topic, medium),
  constraint notice_choices_user_fkey foreign key (user_id) references rgw.users (id),
  constraint notice_choices_medium check (medium in ('mail', 'slack'))
);
comment on table  rgw.notice_choices is 'What people want to hear of, and by what, where that is not the default.';
comment on column rgw.notice_choices.user_id is 'The person.';
comment on column rgw.notice_choices.topic is 'Sort of notice.';
comment on column rgw.notice_choices.medium is 'mail or slack.';
comment on column rgw.notice_choices.wanted is 'Whether they want it so.';

create table rgw.notice_addresses (
  address text        not null,
  state   text        not null,
  reason  text        not null default '',
  since   timestamptz not null default now(),
  constraint notice_addresses_pkey primary key (address),
  constraint notice_addresses_state check (state in ('bounced', 'complained'))
);
comment on table  rgw.notice_addresses is 'Addresses that mail does not reach.';
comment on column rgw.notice_addresses.address is 'The address, case-folded.';
comment on column rgw.notice_addresses.state is 'bounced: it came back. complained: the person marked a mail as spam.';
comment on column rgw.notice_addresses.reason is 'In the words of the mail service.';
comment on column rgw.notice_addresses.since is 'When it said so.';

create table rgw.notice_places (
  user_id  uuid        not null,
  kind     text        not null,
  place    text        not null,
  first_at timestamptz not null,
  constraint notice_places_pkey primary key (user_id, kind, place),
  constraint notice_places_kind check (kind in ('device', 'network'))
);
comment on table  rgw.notice_places is 'From where and with what people have signed in, so that something new is told.';
comment on column rgw.notice_places.user_id is 'The person.';
comment on column rgw.notice_places.kind is 'device: sort of browser and system. network: address range.';
comment on column rgw.notice_places.place is 'Which.';
comment on column rgw.notice_places.first_at is 'When it was first seen.';

create table rgw.notice_refusals (
  subject text        not null,
  since   timestamptz not null,
  many    bigint      not null,
  constraint notice_refusals_pkey primary key (subject, since)
);
create index notice_refusals_since_idx on rgw.notice_refusals (since);
comment on table  rgw.notice_refusals is 'How often each was refused in each ten minutes of the last day.';
comment on column rgw.notice_refusals.subject is 'Actor, or address of nobody.';
comment on column rgw.notice_refusals.since is 'Beginning of the ten minutes.';
comment on column rgw.notice_refusals.many is 'Refusals, those recorded as counts too.';

create table rgw.notice_marks (
  what       text        not null,
  subject    text        not null,
  noted_at   timestamptz not null default now(),
  constraint notice_marks_pkey primary key (what, subject)
);
comment on table  rgw.notice_marks is 'What the clock has made an event of already.';
comment on column rgw.notice_marks.what is 'token.expires_soon or token.expired.';
comment on column rgw.notice_marks.subject is 'The token and when it expires.';
comment on column rgw.notice_marks.noted_at is 'When the event was recorded.';

create table rgw.integrations (
  name         text        not null,
  detail       jsonb       not null,
  sealed       bytea       not null,
  installed_at timestamptz not null default now(),
  installed_by text        not null,
  constraint integrations_pkey primary key (name)
);
comment on table  rgw.integrations is 'Other services that somebody connected.';
comment on column rgw.integrations.name is 'slack.';
comment on column rgw.integrations.detail is 'What may be shown of it: team, bot, scopes.';
comment on column rgw.integrations.sealed is 'Its token, sealed with APP_SECRET_KEY.';
comment on column rgw.integrations.installed_at is 'When it was connected.';
comment on column rgw.integrations.installed_by is 'Label of who did.';
