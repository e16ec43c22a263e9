-- Searching people and tokens by the beginnings of words, and listing those that are still good, at a cost that does not
-- grow with how many there are or ever were.
--
-- Words rather than trigrams: pg_trgm is an extension, which not every managed PostgreSQL lets one have. What is used
-- here is in every server.

-- +goose Up

-- Words are what stands between spaces and the punctuation of ASCII, in small letters.
create function rgw.words(in_text text) returns tsvector
  language sql immutable parallel safe
  return array_to_tsvector(array_remove(string_to_array(
    translate(lower(in_text), e' \t\r\n!"#$%&''()*+,-./:;<=>?@[\\]^_`{|}~', repeat(' ', 36)), ' '), ''));

comment on function rgw.words(text) is 'The words of a name or address, for searching by their beginnings.';

create index users_words_idx on rgw.users using gin (rgw.words(email || ' ' || name));
create index tokens_words_idx on rgw.tokens using gin (rgw.words(name));
create index tokens_live_idx on rgw.tokens (expires_at) where revoked_at is null;
create index token_secrets_prefix_search_idx on rgw.token_secrets (prefix text_pattern_ops);
