package directory_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
)

// grow puts in bulk what the tables hold after years: people, tokens that are good and ten times as many that are not, and
// sessions that have ended.
func grow(t *testing.T, db *sqlx.DB, people int) {
	t.Helper()
	err := postgres.InTx(t.Context(), db, func(tx *sqlx.Tx) error {
		for _, statement := range []string{
			`set local session_replication_role = replica`, // nothing is announced, or noted as done around the gateway
			`create temp table n on commit drop as select g as i, gen_random_uuid() as u from generate_series(1, $1::integer) g`,
			`insert into rgw.users (id, email, name, created_by) select u, 'person' || i || '@example.com', 'Person Number ' || i, 'test' from n`,
			`insert into rgw.tokens (kind, name, owner_id, created_at, expires_at, revoked_at, created_by)
				select 'cli', 'device ' || i || ' of year ' || y, u, now() - y * interval '100 days' - i * interval '1 second', now() + (90 - 100 * y) * interval '1 day',
					case when y % 2 = 1 then now() end, 'test' from n, generate_series(0, 10) y`,
			`insert into rgw.token_secrets (hash, token_id, prefix, last_four)
				select sha256(id::text::bytea), id, 'rgw_cli_' || left(replace(id::text, '-', ''), 8), 'abcd' from rgw.tokens where created_by = 'test'`,
			`insert into rgw.sessions (hash, user_id, created_at, expires_at)
				select sha256((u::text || y)::bytea), u, now() - y * interval '20 hours', now() - y * interval '8 hours' from n, generate_series(1, 10) y`,
		} {
			var args []any
			if statement[:6] == "create" {
				args = append(args, people)
			}
			if _, err := tx.ExecContext(t.Context(), statement, args...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `vacuum analyze rgw.users, rgw.tokens, rgw.token_secrets, rgw.sessions, rgw.bindings`); err != nil {
		t.Fatal(err)
	}
}

// looked counts the rows of a table that a statement looks at, by what PostgreSQL says that it did.
func looked(t *testing.T, db *sqlx.DB, table, statement string, args ...any) int {
	t.Helper()
	var text string
	err := postgres.InTx(t.Context(), db, func(tx *sqlx.Tx) error {
		if statement == directory.FindTokenWordsStatement {
			if _, err := tx.ExecContext(t.Context(), directory.ByBitmapStatement, "off"); err != nil {
				return err
			}
		}
		return tx.GetContext(t.Context(), &text, "explain (analyze, format json) "+statement, args...)
	})
	if err != nil {
		t.Fatal(err)
	}
	type node struct {
		Relation string  `json:"Relation Name"`
		Rows     float64 `json:"Actual Rows"`
		Loops    float64 `json:"Actual Loops"`
		Filtered float64 `json:"Rows Removed by Filter"`
		Unfit    float64 `json:"Rows Removed by Index Recheck"`
		Plans    []json.RawMessage
	}
	var count func(raw json.RawMessage) float64
	count = func(raw json.RawMessage) float64 {
		var n node
		if err := json.Unmarshal(raw, &n); err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		if n.Relation == table {
			sum = (n.Rows + n.Filtered + n.Unfit) * n.Loops
		}
		for _, below := range n.Plans {
			sum += count(below)
		}
		return sum
	}
	var plans []struct{ Plan json.RawMessage }
	if err := json.Unmarshal([]byte(text), &plans); err != nil {
		t.Fatal(err)
	}
	return int(count(plans[0].Plan))
}

// What lists, searches and looks up looks at no more rows when there are many, or ever were, than when there are few.
func TestListsSearchesAndLookUpsLookAtFewRowsHoweverManyThereAre(t *testing.T) {
	w := newWorld(t)
	people := 3000
	grow(t, postgrestest.Open(t, w.superuserURL), people)
	now, latest := time.Now(), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	var owner, prefix string
	if err := w.db.QueryRowContext(context.WithoutCancel(t.Context()), `select t.owner_id::text, s.prefix from rgw.tokens t join rgw.token_secrets s on s.token_id = t.id
		where t.name = 'device 77 of year 0'`).Scan(&owner, &prefix); err != nil {
		t.Fatal(err)
	}
	const page = 101
	tokens := func(search string, ended bool) []any {
		return []any{"", nil, search, ended, now, latest, uuid.Nil, page}
	}
	for _, q := range []struct {
		name      string
		table     string
		statement string
		args      []any
	}{
		{"a page of tokens", "tokens", directory.ListTokensStatement, tokens("", false)},
		{"a page of tokens that ended too", "tokens", directory.ListTokensStatement, tokens("", true)},
		{"the tokens of a person", "tokens", directory.ListTokensStatement, []any{"", owner, "", false, now, latest, uuid.Nil, page}},
		{"tokens by a name", "tokens", directory.FindTokenWordsStatement, []any{directory.WordQuery("device 77 of year 0"), 2001}},
		{"tokens by a word that few have", "tokens", directory.FindTokenWordsStatement, []any{directory.WordQuery("777"), 2001}},
		{"tokens by a word that all have", "tokens", directory.ListTokensStatement, tokens(directory.WordQuery("dev"), true)},
		{"tokens by a word that none has", "tokens", directory.FindTokenWordsStatement, []any{directory.WordQuery("nosuch"), 2001}},
		{"a token by its beginning", "tokens", directory.ListTokensByPrefixStatement, tokens(directory.LikeBeginning(prefix), true)},
		{"tokens by what all begin with", "tokens", directory.ListTokensByPrefixStatement, tokens(directory.LikeBeginning("rgw_"), true)},
		{"a token by its name", "tokens", directory.FindTokensByNameStatement, []any{"device 77 of year 0"}},
		{"a page of people", "users", directory.ListUsersStatement, []any{false, "", "", nil, "", uuid.Nil, page}},
		{"a person by a word", "users", directory.ListUsersStatement, []any{false, directory.WordQuery("person77"), "", nil, "", uuid.Nil, page}},
		{"people by a word that all have", "users", directory.ListUsersStatement, []any{false, directory.WordQuery("number"), "", nil, "", uuid.Nil, page}},
		{"a page of sessions", "sessions", directory.ListSessionsStatement, []any{nil, false, now, now.Add(-30 * time.Minute), latest, uuid.Nil, page, now.Add(-directory.SessionLife)}},
	} {
		if n := looked(t, w.db, q.table, q.statement, q.args...); n > 2*page {
			t.Errorf("%s looks at %d rows of its table, of %d people and %d tokens", q.name, n, people, 11*people)
		}
	}
}
