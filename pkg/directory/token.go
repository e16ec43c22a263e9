package directory

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"rackgateway/pkg/credential"
)

// Token is a credential, without its secret.
type Token struct {
	ID            uuid.UUID
	Kind          credential.Kind
	Name          string
	OwnerID       uuid.UUID
	Owner         string // address
	OwnerActive   bool   // false when the owner is locked or removed, so that the token is good for nothing
	CreatorID     uuid.UUID
	Creator       string    // address of the person whose rights an API token cannot exceed; "" when none
	Bindings      []Binding // API tokens: roles; nil when Permissions are given by name
	Permissions   []string  // API tokens: permissions by name, over all apps
	Sources       []netip.Prefix
	Headless      bool
	ExpiresAt     time.Time
	IdleLimit     time.Duration // 0: none
	RevokedAt     *time.Time
	RevokedReason string
	CreatedAt     time.Time
	CreatedBy     string
	UsedAt        *time.Time // to the minute
	UsedFrom      netip.Addr
	SignInDue     *time.Time // CLI tokens: when the owner has to have signed in again, by the setting reauth_days
	Secrets       []Secret   // newest first; those whose deadline passed are not listed
}

// Secret is what can be shown of a token's secret.
type Secret struct {
	Prefix     string
	LastFour   string
	ValidUntil *time.Time // deadline after a rotation; nil for the current one
}

// State says in a word what a token is good for at a moment: "active", "revoked", "expired", "idle" or
// "owner locked", or "sign-in due" when its owner has not signed in for as long as CLI tokens go on without.
func (t *Token) State(now time.Time) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case !now.Before(t.ExpiresAt):
		return "expired"
	case !t.OwnerActive:
		return "owner locked"
	case t.IdleLimit > 0 && !now.Before(t.lastLife().Add(t.IdleLimit)):
		return "idle"
	case t.SignInDue != nil && !now.Before(*t.SignInDue):
		return "sign-in due"
	}
	return "active"
}

func (t *Token) lastLife() time.Time {
	if t.UsedAt != nil && t.UsedAt.After(t.CreatedAt) {
		return *t.UsedAt
	}
	return t.CreatedAt
}

// TokenFilter chooses tokens. The zero value is every token that is neither revoked nor expired.
type TokenFilter struct {
	Kind   credential.Kind // "" for both
	Owner  string          // address or id of a person
	Search string          // words of the name, or their beginnings, in any case; or the beginning of a token
	Ended  bool            // those that are revoked or expired too
	Limit  int             // 1 to 1000; 0 is 100
	After  string          // the Next of the page before
}

type tokenRow struct {
	ID            uuid.UUID       `db:"id"`
	Kind          string          `db:"kind"`
	Name          string          `db:"name"`
	OwnerID       uuid.UUID       `db:"owner_id"`
	Owner         string          `db:"owner"`
	OwnerActive   bool            `db:"owner_active"`
	VouchedAt     time.Time       `db:"vouched_at"` // when the owner last signed in, or the token was made
	CreatorID     uuid.NullUUID   `db:"creator_id"`
	Creator       string          `db:"creator"`
	Permissions   *pq.StringArray `db:"permissions"`
	Sources       pq.StringArray  `db:"source_cidrs"`
	Headless      bool            `db:"headless"`
	ExpiresAt     time.Time       `db:"expires_at"`
	IdleSeconds   float64         `db:"idle_seconds"`
	RevokedAt     *time.Time      `db:"revoked_at"`
	RevokedReason string          `db:"revoked_reason"`
	CreatedAt     time.Time       `db:"created_at"`
	CreatedBy     string          `db:"created_by"`
	UsedAt        *time.Time      `db:"used_at"`
	UsedFrom      *string         `db:"used_address"`
}

func (r tokenRow) token() (Token, error) {
	t := Token{
		ID: r.ID, Kind: credential.Kind(r.Kind), Name: r.Name,
		OwnerID: r.OwnerID, Owner: r.Owner, OwnerActive: r.OwnerActive, CreatorID: r.CreatorID.UUID, Creator: r.Creator,
		Headless: r.Headless, ExpiresAt: r.ExpiresAt, IdleLimit: time.Duration(r.IdleSeconds * float64(time.Second)),
		RevokedAt: r.RevokedAt, RevokedReason: r.RevokedReason, CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy, UsedAt: r.UsedAt,
	}
	if r.Permissions != nil {
		t.Permissions = *r.Permissions
	}
	for _, text := range r.Sources {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return Token{}, wrap("reading the networks of a token", err)
		}
		t.Sources = append(t.Sources, prefix)
	}
	if r.UsedFrom != nil {
		address, err := netip.ParseAddr(*r.UsedFrom)
		if err != nil {
			return Token{}, wrap("reading the last address of a token", err)
		}
		t.UsedFrom = address
	}
	return t, nil
}

// selectTokens is what every statement that reads tokens begins with.
const selectTokens = `
select t.id, t.kind, t.name, t.owner_id, o.email as owner, o.locked_at is null and o.removed_at is null as owner_active,
  greatest(o.signed_in_at, t.created_at) as vouched_at,
  t.creator_id, coalesce(c.email, '') as creator, t.permissions, t.source_cidrs, t.headless, t.expires_at,
  coalesce(extract(epoch from t.idle_limit), 0) as idle_seconds, t.revoked_at, t.revoked_reason, t.created_at, t.created_by,
  u.used_at, host(u.used_address) as used_address
from rgw.tokens t
join rgw.users o on o.id = t.owner_id
left join rgw.users c on c.id = t.creator_id
left join rgw.token_uses u on u.token_id = t.id`

const listTokens = selectTokens + `
where ($1 = '' or t.kind = $1)
  and ($2::uuid is null or t.owner_id = $2)
  and ($3 = '' or rgw.words(t.name) @@ lower($3)::tsquery)
  and ($4 or t.revoked_at is null and t.expires_at > $5)
  and (t.created_at, t.id) < ($6, $7::uuid)
order by t.created_at desc, t.id desc
limit $8`

const listTokensAmong = selectTokens + `
where ($1 = '' or t.kind = $1)
  and ($2::uuid is null or t.owner_id = $2)
  and t.id = any($3::uuid[])
  and ($4 or t.revoked_at is null and t.expires_at > $5)
  and (t.created_at, t.id) < ($6, $7::uuid)
order by t.created_at desc, t.id desc
limit $8`

const listTokensByPrefix = selectTokens + `
where ($1 = '' or t.kind = $1)
  and ($2::uuid is null or t.owner_id = $2)
  and t.id in (select s.token_id from rgw.token_secrets s where s.prefix like $3)
  and ($4 or t.revoked_at is null and t.expires_at > $5)
  and (t.created_at, t.id) < ($6, $7::uuid)
order by t.created_at desc, t.id desc
limit $8`

// ListTokens returns tokens, the newest first, a page at a time.
func (r *Reader) ListTokens(ctx context.Context, filter TokenFilter) (Page[Token], error) {
	limit, err := pageSize(filter.Limit)
	if err != nil {
		return Page[Token]{}, err
	}
	before, beforeID, err := openTimeCursor(filter.After)
	if err != nil {
		return Page[Token]{}, err
	}
	text := cleanSearch(filter.Search)
	words := ""
	if text != "" && !strings.HasPrefix(text, tokenMark) {
		if words = wordQuery(text); words == "" {
			return Page[Token]{}, nil
		}
	}
	var page Page[Token]
	err = r.view(ctx, func(tx *readTx) error {
		var owner uuid.NullUUID
		if filter.Owner != "" {
			user, err := tx.user(ctx, filter.Owner)
			if err != nil {
				return err
			}
			owner = nullID(user.ID)
		}
		statement, search := listTokens, any("")
		switch {
		case words != "":
			found, all, err := tx.tokensWithWords(ctx, words)
			if err != nil {
				return err
			}
			if search = words; all { // those who have a common word are met soon, from the newest on
				statement, search = listTokensAmong, pq.Array(found)
			}
		case text != "":
			statement, search = listTokensByPrefix, likeBeginning(text[:min(len(text), credential.TokenPrefixLength)])
		}
		var rows []tokenRow
		if err := tx.sel(ctx, &rows, statement, string(filter.Kind), owner, search, filter.Ended, tx.now,
			before, beforeID, limit+1); err != nil {
			return wrap("listing tokens", err)
		}
		if len(rows) > limit {
			rows = rows[:limit]
			last := rows[limit-1]
			page.Next = sealCursor(last.CreatedAt.UTC().Format(time.RFC3339Nano), last.ID)
		}
		page.Items, err = tx.tokens(ctx, rows)
		return err
	})
	return page, err
}

// mostFound is how many tokens a search gathers before it goes by the list of all instead.
const mostFound = 2000

// PostgreSQL can only guess how many rows have words that begin so, and with a limit it may walk the whole table in the
// hope of meeting them soon. What it is left with here is the index over words.
const (
	byBitmap       = `select set_config(name, $1, true) from unnest(array['enable_seqscan', 'enable_indexscan', 'enable_indexonlyscan']) as name`
	findTokenWords = `select t.id from rgw.tokens t where rgw.words(t.name) @@ lower($1)::tsquery limit $2`
)

// tokensWithWords returns the tokens whose names have the words, and whether these are all, rather than the first of
// many.
func (tx *readTx) tokensWithWords(ctx context.Context, words string) (found []string, all bool, err error) {
	var set []string
	if err := tx.sel(ctx, &set, byBitmap, "off"); err != nil {
		return nil, false, wrap("searching tokens", err)
	}
	if err := tx.sel(ctx, &found, findTokenWords, words, mostFound+1); err != nil {
		return nil, false, wrap("searching tokens", err)
	}
	if err := tx.sel(ctx, &set, byBitmap, "on"); err != nil {
		return nil, false, wrap("searching tokens", err)
	}
	return found, len(found) <= mostFound, nil
}

// openTimeCursor reads a cursor of a list that is sorted from newest to oldest.
func openTimeCursor(cursor string) (time.Time, uuid.UUID, error) {
	if cursor == "" {
		return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), uuid.Nil, nil
	}
	key, id, err := openCursor(cursor)
	if err != nil {
		return time.Time{}, uuid.Nil, err
	}
	at, err := time.Parse(time.RFC3339Nano, key)
	if err != nil || at.Year() < 1 || at.Year() > 9999 {
		return time.Time{}, uuid.Nil, invalid("bad-cursor", "that is not a cursor of this list: begin at the first page")
	}
	return at, id, nil
}

const findTokenByID = selectTokens + `
where t.id = $1`

const findTokensByName = selectTokens + `
where t.id in (
  select n.id from rgw.tokens n where n.name = $1
  union select s.token_id from rgw.token_secrets s where s.prefix = $1)
order by t.created_at desc, t.id desc
limit 20`

// Token finds one token by id, by shown prefix, or by name. A name that several have finds the one that is
// neither revoked nor expired, if there is exactly one.
func (r *Reader) Token(ctx context.Context, ref string) (Token, error) {
	var token Token
	err := r.view(ctx, func(tx *readTx) (err error) {
		token, err = tx.token(ctx, ref)
		return err
	})
	return token, err
}

func (tx *readTx) token(ctx context.Context, ref string) (Token, error) {
	missing := notFound("no-such-token", "there is no token %s: list the tokens and name one by its id", clean(ref))
	if ref == "" || !utf8.ValidString(ref) || strings.ContainsRune(ref, 0) {
		return Token{}, missing
	}
	query, arg := findTokensByName, any(ref)
	if id, err := uuid.Parse(ref); err == nil {
		query, arg = findTokenByID, id
	}
	var rows []tokenRow
	if err := tx.sel(ctx, &rows, query, arg); err != nil {
		return Token{}, wrap("finding a token", err)
	}
	tokens, err := tx.tokens(ctx, rows)
	if err != nil {
		return Token{}, err
	}
	if len(tokens) > 1 {
		living := slices.DeleteFunc(slices.Clone(tokens), func(t Token) bool { return t.RevokedAt != nil || !tx.now.Before(t.ExpiresAt) })
		if len(living) == 1 {
			tokens = living
		}
	}
	switch len(tokens) {
	case 0:
		return Token{}, missing
	case 1:
		return tokens[0], nil
	}
	return Token{}, conflict("token-ambiguous", "%s are named %s: name the one you mean by its id", count(len(tokens), "token"), clean(ref))
}

const secretsOfTokens = `
select s.token_id, s.prefix, s.last_four, s.valid_until
from rgw.token_secrets s
where s.token_id = any($1) and (s.valid_until is null or s.valid_until > $2)
order by s.created_at desc, s.hash`

const bindingsOfTokens = `
select b.token_id as subject, b.role, b.app_pattern
from rgw.bindings b
where b.token_id = any($1)
order by b.role collate "C", b.app_pattern collate "C"`

// tokens completes rows with their bindings and secrets, in two queries however many there are.
func (tx *readTx) tokens(ctx context.Context, rows []tokenRow) ([]Token, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	settings, err := tx.inForce(ctx)
	if err != nil {
		return nil, err
	}
	tokens := make([]Token, len(rows))
	ids := make([]string, len(rows))
	place := make(map[uuid.UUID]int, len(rows))
	for i, row := range rows {
		token, err := row.token()
		if err != nil {
			return nil, err
		}
		if token.Kind == credential.CLI {
			due := row.VouchedAt.Add(settings.ReauthEvery)
			token.SignInDue = &due
		}
		tokens[i], ids[i], place[row.ID] = token, row.ID.String(), i
	}
	var secrets []struct {
		TokenID    uuid.UUID  `db:"token_id"`
		Prefix     string     `db:"prefix"`
		LastFour   string     `db:"last_four"`
		ValidUntil *time.Time `db:"valid_until"`
	}
	if err := tx.sel(ctx, &secrets, secretsOfTokens, pq.Array(ids), tx.now); err != nil {
		return nil, wrap("reading what identifies tokens", err)
	}
	for _, s := range secrets {
		token := &tokens[place[s.TokenID]]
		token.Secrets = append(token.Secrets, Secret{Prefix: s.Prefix, LastFour: s.LastFour, ValidUntil: s.ValidUntil})
	}
	var bindings []bindingRow
	if err := tx.sel(ctx, &bindings, bindingsOfTokens, pq.Array(ids)); err != nil {
		return nil, wrap("reading the bindings of tokens", err)
	}
	for _, b := range bindings {
		token := &tokens[place[b.Subject]]
		token.Bindings = append(token.Bindings, Binding{Role: b.Role, App: b.App})
	}
	return tokens, nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
