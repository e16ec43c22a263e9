-- The ledger: the order of the events, the tree over them and its signed checkpoints. Rows of leaves, hashes and
-- checkpoints are inserted and never changed; what else is here is how far somebody has come.

-- +goose Up

create table rgw.ledger_keys (
  number     integer     not null,
  public_key text        not null,
  sealed     bytea,
  made_at    timestamptz not null default now(),
  constraint ledger_keys_pkey primary key (number),
  constraint ledger_keys_public_key_key unique (public_key)
);
comment on table  rgw.ledger_keys is 'Keys that checkpoints are signed with, the newest last.';
comment on column rgw.ledger_keys.number is 'Counts the keys, from 1.';
comment on column rgw.ledger_keys.public_key is 'Verifier key, as signed notes spell it: NAME+HASH+BASE64. The name is the origin of the checkpoints.';
comment on column rgw.ledger_keys.sealed is 'The private half, sealed with APP_SECRET_KEY; null when AUDIT_SIGNING_KEY gives it.';
comment on column rgw.ledger_keys.made_at is 'When it was first known.';

create table rgw.ledger_leaves (
  leaf_index  bigint      not null,
  occurred_at timestamptz not null,
  event_id    uuid        not null,
  hash        bytea       not null,
  constraint ledger_leaves_pkey primary key (leaf_index),
  constraint ledger_leaves_event_key unique (occurred_at, event_id),
  constraint ledger_leaves_index_from_zero check (leaf_index >= 0),
  constraint ledger_leaves_hash_length check (octet_length(hash) = 32)
);
comment on table  rgw.ledger_leaves is 'The order of the events: dense from 0. Kept when retention drops the events themselves.';
comment on column rgw.ledger_leaves.leaf_index is 'Place in the ledger.';
comment on column rgw.ledger_leaves.occurred_at is 'Key of the event.';
comment on column rgw.ledger_leaves.event_id is 'Key of the event.';
comment on column rgw.ledger_leaves.hash is 'SHA-256 of a zero byte and the canonical bytes of the event (RFC 6962 section 2.1).';

create table rgw.ledger_hashes (
  level      smallint not null,
  hash_index bigint   not null,
  hash       bytea    not null,
  constraint ledger_hashes_pkey primary key (level, hash_index),
  constraint ledger_hashes_level check (level between 1 and 7),
  constraint ledger_hashes_hash_length check (octet_length(hash) = 32)
);
comment on table  rgw.ledger_hashes is 'Roots of the whole subtrees of 256, 256² … leaves: what tiles above the lowest level are made of.';
comment on column rgw.ledger_hashes.level is 'Level of the tile that it stands in; the lowest level is ledger_leaves.';
comment on column rgw.ledger_hashes.hash_index is 'Place within the level.';
comment on column rgw.ledger_hashes.hash is 'Root of the subtree.';

create table rgw.ledger_checkpoints (
  size          bigint      not null,
  previous_size bigint      not null,
  note          text        not null,
  signed_at     timestamptz not null,
  cursor_epoch  integer     not null,
  cursor_xid    xid8        not null,
  cursor_whole  boolean     not null,
  constraint ledger_checkpoints_pkey primary key (size),
  constraint ledger_checkpoints_previous_key unique (previous_size),
  constraint ledger_checkpoints_grows check (size > previous_size and previous_size >= 0)
);
comment on table  rgw.ledger_checkpoints is 'Signed tree heads, one for each batch. Each follows exactly one other, so that two sequencers can never fork the tree.';
comment on column rgw.ledger_checkpoints.size is 'Leaves under it.';
comment on column rgw.ledger_checkpoints.previous_size is 'Size of the checkpoint before it; 0 for the first.';
comment on column rgw.ledger_checkpoints.note is 'C2SP tlog-checkpoint with its signatures.';
comment on column rgw.ledger_checkpoints.signed_at is 'When it was signed, by the sequencer''s clock.';
comment on column rgw.ledger_checkpoints.cursor_epoch is 'Life of the cluster that the cursor belongs to.';
comment on column rgw.ledger_checkpoints.cursor_xid is 'Every event of an earlier transaction of that life has a leaf.';
comment on column rgw.ledger_checkpoints.cursor_whole is 'Whether every event of that transaction itself has one too.';

create table rgw.ledger_clusters (
  epoch             integer     not null,
  system_identifier bigint      not null,
  began_at          timestamptz not null default now(),
  reason            text        not null,
  constraint ledger_clusters_pkey primary key (epoch)
);
comment on table  rgw.ledger_clusters is 'The lives of the database cluster that the sequencer has seen.';
comment on column rgw.ledger_clusters.epoch is 'The life.';
comment on column rgw.ledger_clusters.system_identifier is 'Identifier that initdb gave the cluster.';
comment on column rgw.ledger_clusters.began_at is 'When the sequencer first saw it.';
comment on column rgw.ledger_clusters.reason is 'How it was told from the one before.';

create table rgw.ledger_writers (
  writer_id    uuid        not null,
  last_seq     bigint      not null,
  last_at      timestamptz not null,
  resting      boolean     not null,
  reported_seq bigint      not null default 0,
  constraint ledger_writers_pkey primary key (writer_id)
);
comment on table  rgw.ledger_writers is 'How far each writer that has not ended is known; what gaps and silence are told by.';
comment on column rgw.ledger_writers.writer_id is 'One life of one process.';
comment on column rgw.ledger_writers.last_seq is 'Number of its last event.';
comment on column rgw.ledger_writers.last_at is 'When that happened.';
comment on column rgw.ledger_writers.resting is 'Whether that was a heartbeat, so that silence after it is no matter.';
comment on column rgw.ledger_writers.reported_seq is 'Number after which events may be missing, when that was reported; 0 when not.';

create table rgw.ledger_gaps (
  writer_id  uuid        not null,
  first_seq  bigint      not null,
  last_seq   bigint      not null,
  noticed_at timestamptz not null,
  reported   boolean     not null default false,
  constraint ledger_gaps_pkey primary key (writer_id, first_seq),
  constraint ledger_gaps_order check (last_seq >= first_seq)
);
comment on table  rgw.ledger_gaps is 'Numbers of writers'' events that have not been seen.';
comment on column rgw.ledger_gaps.writer_id is 'The writer.';
comment on column rgw.ledger_gaps.first_seq is 'First number that is missing.';
comment on column rgw.ledger_gaps.last_seq is 'Last number that is missing.';
comment on column rgw.ledger_gaps.noticed_at is 'When a later event was seen.';
comment on column rgw.ledger_gaps.reported is 'Whether an alert was recorded, a minute later.';

create table rgw.ledger_actors (
  actor_label text not null,
  actor_id    text not null,
  constraint ledger_actors_pkey primary key (actor_label, actor_id)
);
create index ledger_actors_folded_idx on rgw.ledger_actors (lower(actor_label));
comment on table  rgw.ledger_actors is 'Which actors have gone by which name, as far as sequenced: how a search by name finds events by id.';
comment on column rgw.ledger_actors.actor_label is 'Address or token name, as it was then.';
comment on column rgw.ledger_actors.actor_id is 'Stable id; empty for nobody.';

create table rgw.ledger_anchors (
  chain       text        not null,
  size        bigint      not null,
  whole       boolean     not null,
  object_key  text        not null,
  anchored_at timestamptz not null default now(),
  constraint ledger_anchors_pkey primary key (chain, size, whole)
);
comment on table  rgw.ledger_anchors is 'What is in the bucket, found there after it was put.';
comment on column rgw.ledger_anchors.chain is 'Bucket and prefix.';
comment on column rgw.ledger_anchors.size is 'Leaves under the checkpoint.';
comment on column rgw.ledger_anchors.whole is 'Whether the tiles and events below it are there too, or the checkpoint alone.';
comment on column rgw.ledger_anchors.object_key is 'Key of the checkpoint.';
comment on column rgw.ledger_anchors.anchored_at is 'When it was found there.';

create table rgw.ledger_cursors (
  name       text        not null,
  leaf_index bigint      not null,
  moved_at   timestamptz not null default now(),
  trouble    text        not null default '',
  constraint ledger_cursors_pkey primary key (name)
);
comment on table  rgw.ledger_cursors is 'How far those have come who follow the ledger.';
comment on column rgw.ledger_cursors.name is 'Who follows.';
comment on column rgw.ledger_cursors.leaf_index is 'Next leaf that it has not dealt with.';
comment on column rgw.ledger_cursors.moved_at is 'When it last came further, or was found up to date.';
comment on column rgw.ledger_cursors.trouble is 'Why it does not, in a sentence; empty when it does.';

create table rgw.ledger_verifications (
  verified_at timestamptz not null default now(),
  what        text        not null,
  size        bigint      not null,
  sound       boolean     not null,
  report      json        not null,
  constraint ledger_verifications_pkey primary key (verified_at, what)
);
comment on table  rgw.ledger_verifications is 'What the gateway found when it verified itself.';
comment on column rgw.ledger_verifications.verified_at is 'When.';
comment on column rgw.ledger_verifications.what is 'What was verified: the database, or the bucket against it.';
comment on column rgw.ledger_verifications.size is 'Leaves that were looked at.';
comment on column rgw.ledger_verifications.sound is 'Whether nothing was found.';
comment on column rgw.ledger_verifications.report is 'What was found.';

create table rgw.ledger_restores (
  restored_at timestamptz not null default now(),
  size        bigint      not null,
  lost_size   bigint      not null,
  lost_note   text        not null,
  constraint ledger_restores_pkey primary key (restored_at),
  constraint ledger_restores_sizes check (size >= 0 and lost_size >= size)
);
comment on table  rgw.ledger_restores is 'When the log was rebuilt from its bucket, and what could not be.';
comment on column rgw.ledger_restores.restored_at is 'When.';
comment on column rgw.ledger_restores.size is 'Leaves that the bucket held.';
comment on column rgw.ledger_restores.lost_size is 'Leaves of the newest checkpoint that had been signed.';
comment on column rgw.ledger_restores.lost_note is 'That checkpoint, when leaves under it were lost; empty otherwise.';

create table rgw.ledger_holds (
  hold_id   uuid        not null,
  since     date        not null,
  until     date        not null,
  reason    text        not null,
  placed_by text        not null,
  placed_at timestamptz not null default now(),
  lifted_at timestamptz,
  constraint ledger_holds_pkey primary key (hold_id),
  constraint ledger_holds_order check (until >= since),
  constraint ledger_holds_reason check (reason <> '')
);
comment on table  rgw.ledger_holds is 'Legal holds: retention drops no month that one touches.';
comment on column rgw.ledger_holds.hold_id is 'Identifier.';
comment on column rgw.ledger_holds.since is 'First day held (UTC).';
comment on column rgw.ledger_holds.until is 'Last day held (UTC).';
comment on column rgw.ledger_holds.reason is 'Why.';
comment on column rgw.ledger_holds.placed_by is 'Who asked for it.';
comment on column rgw.ledger_holds.placed_at is 'When.';
comment on column rgw.ledger_holds.lifted_at is 'When it ended; null while it is in force.';

create table rgw.ledger_drops (
  month      date        not null,
  events     bigint      not null,
  last_leaf  bigint      not null,
  dropped_at timestamptz not null default now(),
  constraint ledger_drops_pkey primary key (month)
);
comment on table  rgw.ledger_drops is 'Months whose events retention has dropped. Their leaves stay, and their copies in the bucket.';
comment on column rgw.ledger_drops.month is 'First day of the month.';
comment on column rgw.ledger_drops.events is 'How many events it held.';
comment on column rgw.ledger_drops.last_leaf is 'The last leaf among them; -1 when there was none.';
comment on column rgw.ledger_drops.dropped_at is 'When.';

-- +goose StatementBegin
create function rgw.raise_cluster_epoch(from_epoch integer, identifier bigint, because text) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  raised integer;
begin
  update rgw.cluster_epoch set epoch = epoch + 1 where epoch = from_epoch returning epoch into raised;
  if raised is null then
    select epoch into raised from rgw.cluster_epoch;
  end if;
  insert into rgw.ledger_clusters (epoch, system_identifier, reason) values (raised, identifier, because) on conflict do nothing;
  return raised;
end $$;
-- +goose StatementEnd
comment on function rgw.raise_cluster_epoch(integer, bigint, text) is 'Begins a new life of the cluster, unless somebody else has.';

-- +goose StatementBegin
-- Retention. Everything that must be so is looked at here, by the owner of the events, whoever asks.
create function rgw.drop_event_month(in_month date, keep_days integer, in_chain text) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '5s' as $$
declare
  first   date := date_trunc('month', in_month)::date;
  after   date := (date_trunc('month', in_month) + interval '1 month')::date;
  name    text := 'audit_events_' || to_char(first, 'YYYYMM');
  held    text;
  behind  bigint;
  many    bigint;
  last_at bigint;
begin
  if keep_days is null or keep_days < 30 then
    raise exception 'events are kept for at least 30 days, not %', keep_days using errcode = 'invalid_parameter_value';
  end if;
  if after + keep_days > (now() at time zone 'UTC')::date then
    raise exception '% is not older than % days', to_char(first, 'YYYY-MM'), keep_days using errcode = 'object_not_in_prerequisite_state';
  end if;
  select h.reason into held from rgw.ledger_holds h where h.lifted_at is null and h.since < after and h.until >= first limit 1;
  if held is not null then
    raise exception '% is on hold: %', to_char(first, 'YYYY-MM'), held using errcode = 'object_not_in_prerequisite_state';
  end if;
  if to_regclass('rgw.' || name) is null then
    return null;
  end if;
  -- Nobody adds to it between the look and the drop.
  execute format('lock table rgw.%I in share mode', name);
  execute format('select count(*), coalesce(max(l.leaf_index), -1), count(*) filter (where l.leaf_index is null)
    from rgw.%I e left join rgw.ledger_leaves l on l.occurred_at = e.occurred_at and l.event_id = e.event_id', name)
    into many, last_at, behind;
  if behind > 0 then
    raise exception '% events of % are not in the ledger yet', behind, to_char(first, 'YYYY-MM') using errcode = 'object_not_in_prerequisite_state';
  end if;
  if many > 0 and not exists (select from rgw.ledger_anchors a where a.chain = in_chain and a.whole and a.size > last_at) then
    raise exception 'the events of % are not anchored yet', to_char(first, 'YYYY-MM') using errcode = 'object_not_in_prerequisite_state';
  end if;
  execute format('alter table rgw.audit_events detach partition rgw.%I', name);
  execute format('drop table rgw.%I', name);
  insert into rgw.ledger_drops (month, events, last_leaf) values (first, many, last_at) on conflict (month) do nothing;
  return many;
end $$;
-- +goose StatementEnd
comment on function rgw.drop_event_month(date, integer, text) is 'Drops the events of a month that is older, sequenced, anchored and not on hold; returns how many.';
