//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

const (
	insertPeople = `
insert into rgw.users (id, email, created_by) select * , 'bench' from unnest($1::uuid[], $2::text[])`
	insertBindings = `
insert into rgw.bindings (user_id, role, created_by) select id, $2, 'bench' from unnest($1::uuid[]) as id`
	insertTokens = `
insert into rgw.tokens (id, kind, name, owner_id, expires_at, created_by)
select id, 'cli', 'laptop', owner, now() + interval '90 days', 'bench' from unnest($1::uuid[], $2::uuid[]) as t (id, owner)`
	insertSecrets = `
insert into rgw.token_secrets (hash, token_id, prefix, last_four) select * from unnest($1::bytea[], $2::uuid[], $3::text[], $4::text[])`
	insertFactors = `
insert into rgw.factors (user_id, kind, name, sealed, created_by) select id, 'totp', 'phone', 'sealed', 'bench' from unnest($1::uuid[]) as id`
	insertStepUps = `
insert into rgw.step_ups (id, credential_id, user_id, request_id, mode, level, binding, operation, expires_at, outcome, decided_at, factor, exchanged_at)
select gen_random_uuid(), id, owner, gen_random_uuid(), 'page', 'step-up', sha256('bench'), '{}', now(), 'approved', now(), 'totp', now()
from unnest($1::uuid[], $2::uuid[]) as t (id, owner)`
)

// stepSession is the step-up session of everybody whom inSessions moved into one.
const stepSession = "session-of-the-bench"

const moveIntoSessions = `
update rgw.step_ups set session_hash = sha256(convert_to($1, 'UTF8')) where mode = 'page'`

// inSessions has the factors that everybody gave count for requests alone that carry stepSession, as they do in
// console mode. No proxy may have met these people before.
func (b *bench) inSessions(env *testenv.Env) {
	_, err := b.superuser(env).ExecContext(b.Context(), moveIntoSessions, stepSession)
	b.must(err)
}

// superuser opens an environment's database as somebody who may do everything.
func (b *bench) superuser(env *testenv.Env) *sqlx.DB {
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Superuser, env.Database)), Name: "bench"})
	b.must(err)
	b.Cleanup(func() { _ = db.Close() })
	return db
}

// populate adds people with a role, tokens and a fresh second factor, in bulk, without announcing them: proxies meet them for the first
// time. It returns the tokens.
func (b *bench) populate(env *testenv.Env, name, role string, people, tokensEach int) []string {
	var texts []string
	users, emails := make([]uuid.UUID, people), make([]string, people)
	var tokens, owners []uuid.UUID
	var hashes [][]byte
	var prefixes, lastFours []string
	for i := range users {
		users[i], emails[i] = uuid.New(), fmt.Sprintf("%s%d@example.com", name, i)
		for range tokensEach {
			token, err := credential.New(credential.CLI)
			b.must(err)
			hash := token.Hash()
			texts = append(texts, token.Reveal())
			tokens, owners = append(tokens, uuid.New()), append(owners, users[i])
			hashes = append(hashes, hash[:])
			prefixes, lastFours = append(prefixes, token.Prefix()), append(lastFours, token.LastFour())
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	db := b.superuser(env)
	b.must(postgres.InTx(ctx, db, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, `set local session_replication_role = replica`); err != nil {
			return err
		}
		for _, step := range []struct {
			statement string
			args      []any
		}{
			{insertPeople, []any{pq.Array(users), pq.Array(emails)}},
			{insertBindings, []any{pq.Array(users), role}},
			{insertTokens, []any{pq.Array(tokens), pq.Array(owners)}},
			{insertSecrets, []any{pq.Array(hashes), pq.Array(tokens), pq.Array(prefixes), pq.Array(lastFours)}},
			{insertFactors, []any{pq.Array(users)}},
			{insertStepUps, []any{pq.Array(tokens), pq.Array(owners)}},
		} {
			if _, err := tx.ExecContext(ctx, step.statement, step.args...); err != nil {
				return fmt.Errorf("%s: %w", step.statement, err)
			}
		}
		return nil
	}))
	_, err := db.ExecContext(ctx, `analyze`)
	b.must(err)
	return texts
}
