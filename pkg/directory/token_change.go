package directory

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"rackgateway/pkg/credential"
)

// NewToken is a token to be made.
type NewToken struct {
	Kind  credential.Kind
	Name  string        // device or pipeline, as people call it
	Owner string        // address or id of a person
	Life  time.Duration // 0: as long as the settings say; never longer
	// Bindings or Permissions, one of them, are what an API token may do. A CLI token may do what its owner may.
	Bindings    []Binding
	Permissions []string
	Sources     []netip.Prefix // API tokens: networks it may be used from; none means any
	Headless    bool           // CLI tokens: the device has no browser
}

const insertToken = `
insert into rgw.tokens (id, kind, name, owner_id, creator_id, permissions, source_cidrs, headless, expires_at, idle_limit, created_at, created_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10 * interval '1 second', $11, $12)`

const insertSecret = `
insert into rgw.token_secrets (hash, token_id, prefix, last_four, created_at) values ($1, $2, $3, $4, $5)`

// CreateToken makes a token. The secret is in the second result and nowhere else: it can be shown this once.
//
// A person makes CLI tokens for themself only. What an API token may do is never more than its creator may, now
// and later; one that the command line makes has no creator, and is bounded by its own list alone.
func (w *Writer) CreateToken(ctx context.Context, by Actor, want NewToken) (Token, credential.Token, error) {
	want, err := checkToken(want)
	if err != nil {
		return Token{}, credential.Token{}, err
	}
	secret, err := credential.New(want.Kind)
	if err != nil {
		return Token{}, credential.Token{}, wrap("drawing a token", err)
	}
	var made Token
	err = w.change(ctx, by, attempt{action: "token.create", resource: want.Name}, func(tx *writeTx) error {
		owner, err := tx.member(ctx, want.Owner)
		if err != nil {
			return err
		}
		if owner.LockedAt != nil {
			return refused("owner-locked", "%s is locked, and a token of theirs would be good for nothing: unlock first, or choose another owner", owner.Email)
		}
		var creator uuid.UUID
		if want.Kind == credential.CLI {
			if err := tx.mayActAs(owner.ID, owner.Email); err != nil {
				return err
			}
		} else {
			if creator, err = tx.creator(ctx); err != nil {
				return err
			}
			if err := tx.mayGiveToToken(ctx, want.Bindings, want.Permissions); err != nil {
				return err
			}
			if err := tx.nameIsFree(ctx, want.Name); err != nil {
				return err
			}
		}
		life, idle, err := tx.tokenLife(ctx, want.Kind, want.Life)
		if err != nil {
			return err
		}
		id := newID()
		expires := tx.now.Add(life)
		var idleSeconds *float64
		if idle > 0 {
			seconds := idle.Seconds()
			idleSeconds = &seconds
		}
		if _, err := tx.exec(ctx, insertToken, id, string(want.Kind), want.Name, owner.ID, nullID(creator), permissionArray(want.Permissions),
			pq.Array(prefixTexts(want.Sources)), want.Headless, expires, idleSeconds, tx.now, by.Label); err != nil {
			return wrap("making a token", err)
		}
		if err := tx.addSecret(ctx, id, secret); err != nil {
			return err
		}
		if err := tx.bind(ctx, uuid.Nil, id, want.Bindings); err != nil {
			return err
		}
		tx.record(change{
			action: "token.create", resource: want.Name,
			params: []string{
				"id", id.String(), "kind", string(want.Kind), "owner", owner.Email, "expires", stamp(expires), "prefix", secret.Prefix(),
				"roles", joinBindings(want.Bindings), "permissions", strings.Join(want.Permissions, " "),
				"networks", strings.Join(prefixTexts(want.Sources), " "), "headless", yes(want.Headless),
			},
		})
		made, err = tx.token(ctx, id.String())
		return err
	})
	if err != nil {
		return Token{}, credential.Token{}, err
	}
	return made, secret, nil
}

const revokeToken = `
update rgw.tokens set revoked_at = $2, revoked_reason = $3 where id = $1`

// Revoke ends a token for good, and the sessions that it has open.
func (w *Writer) Revoke(ctx context.Context, by Actor, ref, reason string) (Token, error) {
	reason, err := checkReason(reason)
	if err != nil {
		return Token{}, err
	}
	return w.changeToken(ctx, by, "token.revoke", ref, func(tx *writeTx, token *Token) error {
		if _, err := tx.exec(ctx, revokeToken, token.ID, tx.now, reason); err != nil {
			return wrap("revoking a token", err)
		}
		tx.record(change{
			action: "token.revoke", resource: token.Name,
			params: []string{"id", token.ID.String(), "owner", token.Owner, "reason", reason},
		})
		return nil
	})
}

const setHeadless = `
update rgw.tokens set headless = $2 where id = $1`

// SetHeadless says of a CLI token of a person's own whether its device has a browser.
func (w *Writer) SetHeadless(ctx context.Context, by Actor, id, owner uuid.UUID, headless bool) (Token, error) {
	return w.changeToken(ctx, by, "token.headless", id.String(), func(tx *writeTx, token *Token) error {
		if token.Kind != credential.CLI || token.OwnerID != owner {
			return notFound("no-such-token", "you have no device %s: list yours to see which there are", id)
		}
		if token.Headless == headless {
			return conflict("no-change", "the device %s is so already", clean(token.Name))
		}
		if _, err := tx.exec(ctx, setHeadless, token.ID, headless); err != nil {
			return wrap("changing a device", err)
		}
		token.Headless = headless
		tx.record(change{
			action: "token.headless", resource: token.Name,
			params: []string{"id", token.ID.String(), "owner", token.Owner, "headless", strconv.FormatBool(headless)},
		})
		return nil
	})
}

// Rotation says how a token's secret is replaced.
type Rotation struct {
	// KeepOld is how long the secrets of before stay good, so that what uses them can be changed: at most 30 days,
	// and never beyond the token's own end. 0 ends them at once.
	KeepOld time.Duration
	// Life gives the token a new end, so far from now; 0 leaves the end that it has.
	Life time.Duration
}

const longestKeepOld = 30 * 24 * time.Hour

const endSecrets = `
update rgw.token_secrets set valid_until = $2
where token_id = $1 and (valid_until is null or valid_until > $2)`

const extendToken = `
update rgw.tokens set expires_at = $2 where id = $1`

// Rotate gives a token a new secret, which is in the second result and nowhere else.
func (w *Writer) Rotate(ctx context.Context, by Actor, ref string, rotation Rotation) (Token, credential.Token, error) {
	if rotation.KeepOld < 0 || rotation.KeepOld > longestKeepOld {
		return Token{}, credential.Token{}, invalid("bad-deadline", "the old secret can be kept for up to 30 days, not %s", rotation.KeepOld)
	}
	if rotation.Life < 0 {
		return Token{}, credential.Token{}, invalid("bad-expiry", "a token cannot end before it begins")
	}
	var secret credential.Token
	token, err := w.changeToken(ctx, by, "token.rotate", ref, func(tx *writeTx, token *Token) error {
		if token.Kind == credential.CLI {
			if err := tx.mayActAs(token.OwnerID, token.Owner); err != nil {
				return err
			}
		} else if err := tx.mayGiveToToken(ctx, token.Bindings, token.Permissions); err != nil {
			return err
		}
		var err error
		if secret, err = credential.New(token.Kind); err != nil {
			return wrap("drawing a token", err)
		}
		params := []string{"id", token.ID.String(), "owner", token.Owner, "prefix", secret.Prefix()}
		if rotation.Life > 0 {
			life, _, err := tx.tokenLife(ctx, token.Kind, rotation.Life)
			if err != nil {
				return err
			}
			if _, err := tx.exec(ctx, extendToken, token.ID, tx.now.Add(life)); err != nil {
				return wrap("giving a token a new end", err)
			}
			params = append(params, "expires", stamp(tx.now.Add(life)))
		}
		deadline := tx.now.Add(rotation.KeepOld)
		if _, err := tx.exec(ctx, endSecrets, token.ID, deadline); err != nil {
			return wrap("giving the old secrets a deadline", err)
		}
		if err := tx.addSecret(ctx, token.ID, secret); err != nil {
			return err
		}
		tx.record(change{action: "token.rotate", resource: token.Name, params: append(params, "old_until", stamp(deadline))})
		return nil
	})
	if err != nil {
		return Token{}, credential.Token{}, err
	}
	return token, secret, nil
}

// TokenRights are what an API token may do: roles, or permissions by name.
type TokenRights struct {
	Bindings    []Binding
	Permissions []string
	Sources     *[]netip.Prefix // networks it may be used from; nil leaves them as they are
}

const updateTokenRights = `
update rgw.tokens set permissions = $2, source_cidrs = $3 where id = $1`

const deleteTokenBindings = `
delete from rgw.bindings where token_id = $1`

// SetTokenRights makes what an API token may do exactly this.
func (w *Writer) SetTokenRights(ctx context.Context, by Actor, ref string, rights TokenRights) (Token, error) {
	rights, err := checkTokenRights(rights)
	if err != nil {
		return Token{}, err
	}
	var sources []netip.Prefix
	if rights.Sources != nil {
		if sources, err = checkSources(*rights.Sources); err != nil {
			return Token{}, err
		}
	}
	return w.changeToken(ctx, by, "token.set_rights", ref, func(tx *writeTx, token *Token) error {
		if token.Kind != credential.API {
			return refused("cli-token-has-no-rights", "%s is a CLI token, which may do what its owner may: change the roles of %s", clean(token.Name), token.Owner)
		}
		if rights.Sources == nil {
			sources = token.Sources
		}
		if slices.Equal(rights.Bindings, token.Bindings) && slices.Equal(rights.Permissions, token.Permissions) && slices.Equal(sources, token.Sources) {
			return conflict("no-change", "%s has exactly these rights already", clean(token.Name))
		}
		if err := tx.mayGiveToToken(ctx, rights.Bindings, rights.Permissions); err != nil {
			return err
		}
		if _, err := tx.exec(ctx, updateTokenRights, token.ID, permissionArray(rights.Permissions), pq.Array(prefixTexts(sources))); err != nil {
			return wrap("changing the rights of a token", err)
		}
		if _, err := tx.exec(ctx, deleteTokenBindings, token.ID); err != nil {
			return wrap("taking the roles of a token", err)
		}
		if err := tx.bind(ctx, uuid.Nil, token.ID, rights.Bindings); err != nil {
			return err
		}
		params := []string{
			"id", token.ID.String(), "owner", token.Owner,
			"old_roles", joinBindings(token.Bindings), "old_permissions", strings.Join(token.Permissions, " "),
			"new_roles", joinBindings(rights.Bindings), "new_permissions", strings.Join(rights.Permissions, " "),
		}
		if !slices.Equal(sources, token.Sources) {
			params = append(params, "old_networks", strings.Join(prefixTexts(token.Sources), " "), "new_networks", strings.Join(prefixTexts(sources), " "))
		}
		tx.record(change{action: "token.set_rights", resource: token.Name, params: params})
		return nil
	})
}

// changeToken runs a change to one token that has not ended.
func (w *Writer) changeToken(ctx context.Context, by Actor, action, ref string, fn func(*writeTx, *Token) error) (Token, error) {
	var token Token
	err := w.change(ctx, by, attempt{action: action, resource: clean(ref)}, func(tx *writeTx) (err error) {
		if token, err = tx.token(ctx, ref); err != nil {
			return err
		}
		if token.RevokedAt != nil {
			return conflict("token-revoked", "%s was revoked on %s (%s): make a new one", clean(token.Name), stamp(*token.RevokedAt), token.RevokedReason)
		}
		if !tx.now.Before(token.ExpiresAt) {
			return conflict("token-expired", "%s expired on %s: make a new one", clean(token.Name), stamp(token.ExpiresAt))
		}
		if err := fn(tx, &token); err != nil {
			return err
		}
		token, err = tx.token(ctx, token.ID.String())
		return err
	})
	if err != nil {
		return Token{}, err
	}
	return token, nil
}

func (tx *writeTx) addSecret(ctx context.Context, token uuid.UUID, secret credential.Token) error {
	hash := secret.Hash()
	_, err := tx.exec(ctx, insertSecret, hash[:], token, secret.Prefix(), secret.LastFour(), tx.now)
	return wrap("keeping the hash of a token", err)
}

const countTokensNamed = `
select count(*) from rgw.tokens t
where t.kind = 'api' and t.name = $1 and t.revoked_at is null and t.expires_at > $2`

// nameIsFree keeps the names of living API tokens apart: the audit log names the actor by it.
func (tx *readTx) nameIsFree(ctx context.Context, name string) error {
	var n int
	if _, err := tx.get(ctx, &n, countTokensNamed, name, tx.now); err != nil {
		return wrap("looking for tokens of the same name", err)
	}
	if n > 0 {
		return conflict("token-exists", "there is an API token %s already: rotate or revoke it, or choose another name", clean(name))
	}
	return nil
}

// mayActAs refuses to hand a person's own credential to anybody else. The gateway's command line may: it is how
// the first people get in.
func (tx *writeTx) mayActAs(owner uuid.UUID, email string) error {
	if tx.by.Token == uuid.Nil && (tx.by.User == uuid.Nil || tx.by.User == owner) {
		return nil
	}
	return refused("own-tokens-only", "a CLI token acts as its owner, so that only %s can be given it: ask them to make one", email)
}

const creatorOfToken = `
select t.creator_id from rgw.tokens t where t.id = $1`

// creator is the person whose rights a new API token can never exceed: the actor, or, where a token makes a
// token, whoever made that one.
func (tx *writeTx) creator(ctx context.Context) (uuid.UUID, error) {
	if tx.by.Token == uuid.Nil {
		return tx.by.User, nil
	}
	var creator uuid.NullUUID
	if _, err := tx.get(ctx, &creator, creatorOfToken, tx.by.Token); err != nil {
		return uuid.Nil, wrap("finding the creator of a token", err)
	}
	return creator.UUID, nil
}

func checkToken(want NewToken) (NewToken, error) {
	var err error
	if want.Name, err = checkName("name of the token", want.Name, true); err != nil {
		return want, err
	}
	if want.Life < 0 {
		return want, invalid("bad-expiry", "a token cannot end before it begins")
	}
	if want.Owner == "" {
		return want, invalid("owner-missing", "say whose token it is: it stops when that person is locked or removed")
	}
	switch want.Kind {
	case credential.CLI:
		if len(want.Bindings)+len(want.Permissions)+len(want.Sources) > 0 {
			return want, invalid("cli-token-has-no-rights", "a CLI token may do what its owner may, from anywhere: roles, permissions and networks are for API tokens")
		}
		return want, nil
	case credential.API:
		if want.Headless {
			return want, invalid("bad-headless", "an API token is never asked for a second factor, so that headless means nothing for it")
		}
		rights, err := checkTokenRights(TokenRights{Bindings: want.Bindings, Permissions: want.Permissions})
		if err != nil {
			return want, err
		}
		want.Bindings, want.Permissions = rights.Bindings, rights.Permissions
		want.Sources, err = checkSources(want.Sources)
		return want, err
	case credential.Session: // begins by signing in, and in no other way
	}
	return want, invalid("bad-token-kind", "a token is of kind cli or api")
}

func checkTokenRights(rights TokenRights) (TokenRights, error) {
	var err error
	if rights.Bindings, err = checkBindings(rights.Bindings); err != nil {
		return rights, err
	}
	if rights.Permissions, err = checkPermissions(rights.Permissions); err != nil {
		return rights, err
	}
	switch {
	case len(rights.Bindings)+len(rights.Permissions) == 0:
		return rights, invalid("no-rights", "say what the token may do: roles, such as cicd@web, or permissions by name")
	case len(rights.Bindings) > 0 && len(rights.Permissions) > 0:
		return rights, invalid("roles-and-permissions", "a token has roles or permissions by name, not both: a custom role can hold the permissions")
	}
	return rights, nil
}

func checkSources(sources []netip.Prefix) ([]netip.Prefix, error) {
	if len(sources) > 100 {
		return nil, invalid("too-many-networks", "a token has at most 100 networks, not %d", len(sources))
	}
	var list []netip.Prefix
	for _, prefix := range sources {
		if !prefix.IsValid() {
			return nil, invalid("bad-network", "a network is written as 203.0.113.0/24 or 2001:db8::/32")
		}
		if prefix.Addr().Is4In6() {
			return nil, invalid("bad-network", "%s is an IPv4 network in IPv6's clothes: write it as IPv4", prefix)
		}
		if prefix != prefix.Masked() {
			return nil, invalid("bad-network", "%s has bits beyond its length: did you mean %s?", prefix, prefix.Masked())
		}
		if !slices.Contains(list, prefix) {
			list = append(list, prefix)
		}
	}
	return list, nil
}

func prefixTexts(prefixes []netip.Prefix) []string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return texts
}

// permissionArray is null for a token that has roles.
func permissionArray(permissions []string) any {
	if len(permissions) == 0 {
		return nil
	}
	return pq.Array(permissions)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
