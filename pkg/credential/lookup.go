package credential

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/access"
)

// selectToken returns everything about one token that a decision needs, in one round trip and by indexes
// alone, so that its cost does not grow with the number of people and tokens. The person whose bindings
// count is the owner of a CLI token, and the creator of an API token, as its ceiling.
const selectToken = `
select s.valid_until,
       t.id, t.kind, t.name, t.permissions, t.source_cidrs::text[] as source_cidrs, t.headless, t.expires_at,
       extract(epoch from t.idle_limit)::float8 as idle_seconds, t.revoked_at is not null as revoked,
       coalesce(u.used_at, t.created_at) as last_used,
       o.id as owner_id, o.email as owner_email, o.locked_at is not null as owner_locked, o.removed_at is not null as owner_removed,
       greatest(o.signed_in_at, t.created_at) as vouched_at,
       exists (select from rgw.factors f where f.user_id = o.id and f.removed_at is null) as enrolled,
       (select json_agg(json_build_object('session', encode(x.session_hash, 'hex'), 'at', extract(epoch from x.decided_at)))
          from rgw.step_ups x
         where x.credential_id = t.id and x.outcome = 'approved' and x.exchanged_at is not null and x.ended_at is null
           and x.decided_at > now() - interval '13 hours') as step_ups,
       c.id as creator_id, coalesce(c.locked_at is null and c.removed_at is null, false) as creator_active,
       (select json_agg(json_build_object('role', b.role, 'app', b.app_pattern, 'built_in', r.built_in, 'permissions', r.permissions)
                        order by b.role, b.app_pattern)
          from rgw.bindings b join rgw.roles r on r.name = b.role
         where b.user_id = case t.kind when 'cli' then t.owner_id else t.creator_id end) as person_bindings,
       (select json_agg(json_build_object('role', b.role, 'app', b.app_pattern, 'built_in', r.built_in, 'permissions', r.permissions)
                        order by b.role, b.app_pattern)
          from rgw.bindings b join rgw.roles r on r.name = b.role
         where b.token_id = t.id) as token_bindings
  from rgw.token_secrets s
  join rgw.tokens t on t.id = s.token_id
  join rgw.users o on o.id = t.owner_id
  left join rgw.users c on c.id = t.creator_id
  left join rgw.token_uses u on u.token_id = t.id
 where s.hash = $1`

// selectSession returns the same about one browser session.
const selectSession = `
select s.id, 'session' as kind, s.expires_at, s.revoked_at is not null as revoked,
       coalesce(u.used_at, s.created_at) as last_used, s.created_at as vouched_at, s.verified_at is not null as verified,
       exists (select from rgw.factors f where f.user_id = o.id and f.removed_at is null) as enrolled,
       (select json_agg(json_build_object('session', encode(x.session_hash, 'hex'), 'at', extract(epoch from x.decided_at)))
          from rgw.step_ups x
         where x.credential_id = s.id and x.outcome = 'approved' and x.exchanged_at is not null and x.ended_at is null
           and x.decided_at > now() - interval '13 hours') as step_ups,
       o.id as owner_id, o.email as owner_email, o.locked_at is not null as owner_locked, o.removed_at is not null as owner_removed,
       (select json_agg(json_build_object('role', b.role, 'app', b.app_pattern, 'built_in', r.built_in, 'permissions', r.permissions)
                        order by b.role, b.app_pattern)
          from rgw.bindings b join rgw.roles r on r.name = b.role
         where b.user_id = o.id) as person_bindings
  from rgw.sessions s
  join rgw.users o on o.id = s.user_id
  left join rgw.session_uses u on u.session_id = s.id
 where s.hash = $1`

// row is what selectToken and selectSession return. Its fields are exported because the fingerprint is made of their JSON.
type row struct {
	ValidUntil     sql.NullTime    `db:"valid_until"`
	ID             uuid.UUID       `db:"id"`
	Kind           string          `db:"kind"`
	Name           string          `db:"name"`
	Permissions    pq.StringArray  `db:"permissions"`
	SourceCIDRs    pq.StringArray  `db:"source_cidrs"`
	Headless       bool            `db:"headless"`
	ExpiresAt      time.Time       `db:"expires_at"`
	IdleSeconds    sql.NullFloat64 `db:"idle_seconds"`
	Revoked        bool            `db:"revoked"`
	LastUsed       time.Time       `db:"last_used" json:"-"`  // a use changes nobody's access
	VouchedAt      time.Time       `db:"vouched_at" json:"-"` // nor does a sign-in
	Enrolled       bool            `db:"enrolled" json:"-"`   // nor a second factor, which is asked for as it stands
	Verified       bool            `db:"verified" json:"-"`
	StepUps        jsonText        `db:"step_ups" json:"-"`
	OwnerID        uuid.UUID       `db:"owner_id"`
	OwnerEmail     string          `db:"owner_email"`
	OwnerLocked    bool            `db:"owner_locked"`
	OwnerRemoved   bool            `db:"owner_removed"`
	CreatorID      uuid.NullUUID   `db:"creator_id"`
	CreatorActive  bool            `db:"creator_active"`
	PersonBindings jsonText        `db:"person_bindings"`
	TokenBindings  jsonText        `db:"token_bindings"`
}

// jsonText is a json column that may be null.
type jsonText []byte

// Scan implements sql.Scanner.
func (t *jsonText) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*t = nil
	case []byte:
		*t = append([]byte(nil), v...)
	case string:
		*t = []byte(v)
	default:
		return fmt.Errorf("json column of type %T", value)
	}
	return nil
}

// binding is one element of person_bindings or token_bindings.
type binding struct {
	Role        string   `json:"role"`
	App         string   `json:"app"`
	BuiltIn     bool     `json:"built_in"`
	Permissions []string `json:"permissions"`
}

// errNoToken says that no token has the hash.
var errNoToken = errors.New("no such token")

// find asks the database for the token with this hash.
func (c *Cache) find(ctx context.Context, hash [sha256.Size]byte, kind Kind) (*row, error) {
	stmt, err := c.prepared(ctx, kind) //nolint:sqlclosecheck // it lives as long as the cache
	if err != nil {
		return nil, err
	}
	var r row
	switch err := stmt.GetContext(ctx, &r, hash[:]); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, errNoToken
	case err != nil:
		return nil, fmt.Errorf("look up a token: %w", err)
	}
	return &r, nil
}

// prepared returns the prepared look-up for a kind. database/sql prepares it anew on each connection that lacks it.
func (c *Cache) prepared(ctx context.Context, kind Kind) (*sqlx.Stmt, error) {
	place, query := &c.tokenStmt, selectToken
	if kind == Session {
		place, query = &c.sessionStmt, selectSession
	}
	if stmt := place.Load(); stmt != nil {
		return stmt, nil
	}
	stmt, err := c.db.PreparexContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("prepare the look-up of tokens: %w", err)
	}
	if !place.CompareAndSwap(nil, stmt) {
		_ = stmt.Close() //nolint:sqlclosecheck // somebody else was first; the other one is kept
	}
	return place.Load(), nil
}

// entry makes of a row what the cache keeps. It is not in the cache yet.
func (c *Cache) entry(hash [sha256.Size]byte, kind Kind, r *row, began time.Time) (*Entry, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("fingerprint of a token: %w", err)
	}
	if kind == Session {
		r.Name = "browser session"
	} else if string(kind) != r.Kind {
		return nil, errNoToken // its text says another kind than the database
	}
	tokenKind := string(kind) // not the row's text, which each entry would keep a copy of
	if kind == Session {
		tokenKind = access.TokenKindSession
	}
	e := &Entry{
		cache: c, hash: hash, fingerprint: sha256.Sum256(text), kind: kind, ends: r.ExpiresAt, endCause: ErrExpired,
		principal: access.Principal{
			Kind: access.KindUser, UserID: r.OwnerID.String(), UserLabel: r.OwnerEmail,
			TokenID: r.ID.String(), TokenName: r.Name, TokenKind: tokenKind,
			Headless: r.Headless, ExpiresAt: r.ExpiresAt,
		},
	}
	e.Principal = &e.principal
	e.subjects = append(e.ownSubjects[:0], subject{kind: userSubject, id: r.OwnerID}, subject{kind: tokenSubject, id: r.ID})
	p := e.Principal
	if kind == API {
		p.Kind = access.KindAPIToken
	}
	if r.ValidUntil.Valid && r.ValidUntil.Time.Before(e.ends) {
		e.ends, e.endCause = r.ValidUntil.Time, ErrReplaced
		p.ExpiresAt = e.ends
	}
	if r.IdleSeconds.Valid {
		e.idle = time.Duration(r.IdleSeconds.Float64 * float64(time.Second))
	}
	if r.CreatorID.Valid && r.CreatorID.UUID != r.OwnerID {
		e.subjects = append(e.subjects, subject{kind: userSubject, id: r.CreatorID.UUID})
	}
	e.validated.Store(began.UnixNano())
	e.lastUsed.Store(r.LastUsed.UnixNano())
	e.vouched.Store(r.VouchedAt.UnixNano())
	if err := e.noteFactors(r); err != nil {
		return nil, fmt.Errorf("step-ups of token %s: %w", p.TokenID, err)
	}

	switch { // a principal that is refused gets no grants: nothing can then go wrong with them
	case r.OwnerRemoved:
		e.refused = refuse(ErrOwnerGone, kind, p, time.Time{})
	case r.OwnerLocked:
		e.refused = refuse(ErrLocked, kind, p, time.Time{})
	case r.Revoked:
		e.refused = refuse(ErrRevoked, kind, p, time.Time{})
	}
	if e.refused == nil {
		if err := c.grants(e, r); err != nil {
			return nil, fmt.Errorf("rights of token %s: %w", p.TokenID, err)
		}
	}
	return e, nil
}

// grants fills in what the principal may do, and from where.
func (c *Cache) grants(e *Entry, r *row) error {
	p := e.Principal
	for _, text := range r.SourceCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		p.SourceCIDRs = append(p.SourceCIDRs, prefix)
	}
	ofPerson, err := c.granted(e, r.PersonBindings, true)
	if err != nil {
		return err
	}
	if p.Kind == access.KindUser {
		p.Grants = ofPerson
		return nil
	}
	if r.Permissions != nil {
		p.Grants = []access.Grant{{Permissions: c.permissions("of token "+p.TokenID, r.Permissions), App: "*"}}
	} else if p.Grants, err = c.granted(e, r.TokenBindings, false); err != nil {
		return err
	}
	if r.CreatorID.Valid {
		p.Ceiling = []access.Grant{} // not nil: somebody locked or removed has nothing to pass on
		if r.CreatorActive {
			p.Ceiling = append(p.Ceiling, ofPerson...)
		}
	}
	return nil
}

// granted turns bindings into grants, and notes the roles that the entry depends on.
func (c *Cache) granted(e *Entry, text jsonText, person bool) ([]access.Grant, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var bindings []binding
	if err := json.Unmarshal(text, &bindings); err != nil {
		return nil, err
	}
	grants := make([]access.Grant, 0, len(bindings))
	for _, b := range bindings {
		e.dependOn(subject{kind: roleSubject, name: b.Role})
		grant := access.Grant{Role: b.Role, App: b.App}
		if b.BuiltIn {
			role, known := c.builtIn[b.Role]
			if !known || role.TokensOnly && person {
				c.odd("role "+b.Role, "a built-in role that this version does not give is ignored", "role", b.Role, "person", person)
				continue
			}
			grant.Role, grant.Permissions, grant.OwnProcessesOnly = role.Name, role.Permissions, role.OwnProcessesOnly
		} else {
			grant.Permissions = c.permissions("of role "+b.Role, b.Permissions)
		}
		grants = append(grants, grant)
	}
	return grants, nil
}

// permissions reads a list from the database. A name that this version does not know gives nothing: another
// version made it, or somebody by hand.
func (c *Cache) permissions(of string, names []string) access.PermissionSet {
	list := make([]access.Permission, 0, len(names))
	for _, name := range names {
		permission, err := access.ParsePermission(name)
		if err != nil {
			c.odd(of+" "+name, "a permission that does not exist is ignored", "of", of, "cause", err)
			continue
		}
		list = append(list, permission)
	}
	return access.NewPermissionSet(list...)
}

// maxOdd bounds how many oddities are remembered so as to be logged once each.
const maxOdd = 1000

// odd logs something in the database that is ignored, once for each key.
func (c *Cache) odd(key, what string, args ...any) {
	c.oddMu.Lock()
	known := c.oddities[key] || len(c.oddities) >= maxOdd
	if !known {
		c.oddities[key] = true
	}
	c.oddMu.Unlock()
	if !known {
		c.opts.Logger.Warn(what, args...)
	}
}
