package directory

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
)

// SessionLife is how long a browser session lasts at most, however much it is used.
const SessionLife = 12 * time.Hour

// Session is a browser session, without its secret.
type Session struct {
	ID            uuid.UUID
	UserID        uuid.UUID
	Email         string // of the person
	Name          string
	CreatedAt     time.Time
	SeenAt        time.Time // last use, to the minute; the sign-in when there was none since
	ExpiresAt     time.Time // absolute
	RevokedAt     *time.Time
	RevokedReason string
	UserAgent     string // at the sign-in
	Address       netip.Addr
	State         string // "active", "revoked", "expired", "idle" or "owner locked"
}

// SessionFilter chooses sessions. The zero value is every session that is good.
type SessionFilter struct {
	User  string // address or id of the person; "" for everybody's
	Ended bool   // those that are good no longer too
	Limit int    // 1 to 1000; 0 is 100
	After string // the Next of the page before
}

type sessionRow struct {
	ID            uuid.UUID  `db:"id"`
	UserID        uuid.UUID  `db:"user_id"`
	Email         string     `db:"email"`
	Name          string     `db:"name"`
	Active        bool       `db:"active"`
	CreatedAt     time.Time  `db:"created_at"`
	SeenAt        time.Time  `db:"seen_at"`
	ExpiresAt     time.Time  `db:"expires_at"`
	RevokedAt     *time.Time `db:"revoked_at"`
	RevokedReason string     `db:"revoked_reason"`
	UserAgent     string     `db:"user_agent"`
	Address       *string    `db:"address"`
}

func (r sessionRow) session(now time.Time, idle time.Duration) (Session, error) {
	s := Session{
		ID: r.ID, UserID: r.UserID, Email: r.Email, Name: r.Name, CreatedAt: r.CreatedAt, SeenAt: r.SeenAt, ExpiresAt: r.ExpiresAt,
		RevokedAt: r.RevokedAt, RevokedReason: r.RevokedReason, UserAgent: r.UserAgent, State: "active",
	}
	switch {
	case r.RevokedAt != nil:
		s.State = "revoked"
	case !now.Before(r.ExpiresAt):
		s.State = "expired"
	case !r.Active:
		s.State = "owner locked"
	case now.Sub(r.SeenAt) > idle:
		s.State = "idle"
	}
	if r.Address != nil {
		address, err := netip.ParseAddr(*r.Address)
		if err != nil {
			return Session{}, wrap("reading the address of a session", err)
		}
		s.Address = address
	}
	return s, nil
}

const listSessions = `
select s.id, s.user_id, u.email, u.name, u.locked_at is null and u.removed_at is null as active, s.created_at,
  coalesce(l.used_at, s.created_at) as seen_at, s.expires_at, s.revoked_at, s.revoked_reason, s.user_agent, host(s.address) as address
from rgw.sessions s
join rgw.users u on u.id = s.user_id
left join rgw.session_uses l on l.session_id = s.id
where ($1::uuid is null or s.user_id = $1)
  and ($2 or s.created_at > $8 and s.revoked_at is null and s.expires_at > $3 and u.locked_at is null and u.removed_at is null
    and coalesce(l.used_at, s.created_at) >= $4)
  and (s.created_at, s.id) < ($5, $6::uuid)
order by s.created_at desc, s.id desc
limit $7`

// ListSessions returns browser sessions, the newest first, a page at a time.
func (r *Reader) ListSessions(ctx context.Context, filter SessionFilter) (Page[Session], error) {
	limit, err := pageSize(filter.Limit)
	if err != nil {
		return Page[Session]{}, err
	}
	before, beforeID, err := openTimeCursor(filter.After)
	if err != nil {
		return Page[Session]{}, err
	}
	var page Page[Session]
	err = r.view(ctx, func(tx *readTx) error {
		var of uuid.NullUUID
		if filter.User != "" {
			user, err := tx.user(ctx, filter.User)
			if err != nil {
				return err
			}
			of = nullID(user.ID)
		}
		idle, err := tx.sessionIdle(ctx)
		if err != nil {
			return err
		}
		var rows []sessionRow
		if err := tx.sel(ctx, &rows, listSessions, of, filter.Ended, tx.now, tx.now.Add(-idle), before, beforeID, limit+1, tx.now.Add(-SessionLife)); err != nil {
			return wrap("listing sessions", err)
		}
		if len(rows) > limit {
			rows = rows[:limit]
			last := rows[limit-1]
			page.Next = sealCursor(last.CreatedAt.UTC().Format(time.RFC3339Nano), last.ID)
		}
		for _, row := range rows {
			s, err := row.session(tx.now, idle)
			if err != nil {
				return err
			}
			page.Items = append(page.Items, s)
		}
		return nil
	})
	return page, err
}

// sessionIdle is how long a session may lie unused.
func (tx *readTx) sessionIdle(ctx context.Context) (time.Duration, error) {
	settings, err := tx.inForce(ctx)
	return settings.SessionIdle, err
}

// inForce is what all settings say together.
func (tx *readTx) inForce(ctx context.Context) (access.Settings, error) {
	settings := access.DefaultSettings()
	rows, err := tx.settings(ctx, "")
	if err != nil {
		return settings, err
	}
	for _, row := range rows {
		if err := settings.Set(row.Key, row.Value); err != nil {
			return settings, wrap("reading settings", err)
		}
	}
	return settings, nil
}

// NewSession is a sign-in that the identity provider has vouched for.
type NewSession struct {
	Email     string // verified
	Name      string // as the provider has it; used only for somebody who joins by this sign-in
	Subject   string // the provider's own name for the person; recorded
	Hash      [sha256.Size]byte
	UserAgent string
	// Device is the hash of the secret by which a trusted browser is recognised; zero for none.
	Device [sha256.Size]byte
}

const trustsDevice = `
select d.id from rgw.trusted_devices d
where d.user_id = $1 and d.hash = $2 and d.revoked_at is null and d.expires_at > $3`

const signedIn = `
update rgw.users set signed_in_at = $2 where id = $1`

const insertSession = `
insert into rgw.sessions (id, hash, user_id, created_at, expires_at, user_agent, address, verified_at)
values ($1, $2, $3, $4, $5, $6, $7, $8)`

// BeginSession signs a person in. They have to be a member, or the setting join_as_viewer lets them join; somebody
// who was removed does not join by themself. What by says of who it is is replaced by the person, once it is known
// that they are one.
func (w *Writer) BeginSession(ctx context.Context, by Actor, s NewSession) (Session, error) {
	email, err := checkEmail(s.Email)
	if err != nil {
		return Session{}, err
	}
	name, err := checkName("name", s.Name, false)
	if err != nil {
		name = "" // it is only for show, and the provider's mistake
	}
	var session Session
	err = w.change(ctx, by, attempt{action: "session.begin", resource: email}, func(tx *writeTx) error {
		user, err := tx.user(ctx, email)
		if CodeOf(err) == "no-such-user" {
			user, err = tx.join(ctx, email, name)
		}
		if err != nil {
			return err
		}
		if user.LockedAt != nil {
			return refused("user-locked", "%s is locked (%s): ask an administrator of this gateway", email, clean(user.LockedReason))
		}
		tx.by.Kind, tx.by.ID, tx.by.Label = audit.ActorUser, user.ID.String(), user.Email
		if _, err := tx.exec(ctx, signedIn, user.ID, tx.now); err != nil {
			return wrap("noting a sign-in", err)
		}
		session = Session{
			ID: newID(), UserID: user.ID, Email: user.Email, Name: user.Name, CreatedAt: tx.now, SeenAt: tx.now, ExpiresAt: tx.now.Add(SessionLife),
			UserAgent: cutText(s.UserAgent, 400), Address: by.Address, State: "active",
		}
		var address *string
		if by.Address.IsValid() {
			text := by.Address.Unmap().WithZone("").String()
			address = &text
		}
		var device uuid.UUID
		var verified *time.Time
		if trusted, err := tx.get(ctx, &device, trustsDevice, user.ID, s.Device[:], tx.now); err != nil {
			return wrap("looking for a trusted browser", err)
		} else if trusted {
			verified = &tx.now
		}
		if _, err := tx.exec(ctx, insertSession, session.ID, s.Hash[:], user.ID, session.CreatedAt, session.ExpiresAt, session.UserAgent, address, verified); err != nil {
			return wrap("beginning a session", err)
		}
		tx.record(change{
			action: "session.begin", resource: user.Email,
			params: []string{"id", session.ID.String(), "expires_at", stamp(session.ExpiresAt), "subject", clean(s.Subject), "trusted_device", idOrNothing(device)},
		})
		return nil
	})
	if err != nil {
		return Session{}, err
	}
	return session, nil
}

const wasRemoved = `
select count(*) from rgw.users u where u.email = $1 and u.removed_at is not null`

// join lets somebody in as a viewer, if the setting says so.
func (tx *writeTx) join(ctx context.Context, email, name string) (User, error) {
	settings, err := tx.inForce(ctx)
	if err != nil {
		return User{}, err
	}
	var before int
	if _, err := tx.get(ctx, &before, wasRemoved, email); err != nil {
		return User{}, wrap("looking for somebody who was removed", err)
	}
	if !settings.JoinAsViewer || before > 0 {
		return User{}, refused("not-a-member", "%s is not a user of this gateway: ask an administrator to add this address", email)
	}
	user := User{ID: newID(), Email: email, Name: name, CreatedAt: tx.now, CreatedBy: "sign-in", Bindings: []Binding{{Role: "viewer", App: allApps}}}
	if err := tx.addUser(ctx, user, "why", "joined by signing in"); err != nil {
		return User{}, err
	}
	return user, nil
}

// addUser inserts a person with their bindings, and records it.
func (tx *writeTx) addUser(ctx context.Context, user User, also ...string) error {
	if _, err := tx.exec(ctx, insertUser, user.ID, user.Email, user.Name, user.CreatedAt, user.CreatedBy); err != nil {
		return wrap("adding a user", err)
	}
	if err := tx.bind(ctx, user.ID, uuid.Nil, user.Bindings); err != nil {
		return err
	}
	tx.record(change{
		action: "user.add", resource: user.Email,
		params: append([]string{"id", user.ID.String(), "name", user.Name, "roles", joinBindings(user.Bindings)}, also...),
	})
	return nil
}

// RefuseSession records a sign-in that did not come as far as BeginSession. The resource is the address that was to be
// signed in, as far as it is known; code and message are those of the answer.
func (w *Writer) RefuseSession(ctx context.Context, by Actor, resource, code, message string) error {
	return w.transact(ctx, withRequest(by), func(tx *writeTx) error {
		tx.refuse(attempt{action: "session.begin", resource: clean(resource)}, refused(code, "%s", message))
		return nil
	})
}

// RefuseSessions records a number of such sign-ins that were not recorded one by one.
func (w *Writer) RefuseSessions(ctx context.Context, by Actor, code, message string, number int64) error {
	return w.transact(ctx, withRequest(by), func(tx *writeTx) error {
		tx.refuse(attempt{action: "session.begin"}, refused(code, "%s", message))
		tx.events[0].Detail.Count = number
		return nil
	})
}

func withRequest(by Actor) Actor {
	if by.Request == uuid.Nil {
		by.Request = newID()
	}
	return by
}

const findSession = `
select s.id, s.user_id, u.email, u.name, u.locked_at is null and u.removed_at is null as active, s.created_at,
  coalesce(l.used_at, s.created_at) as seen_at, s.expires_at, s.revoked_at, s.revoked_reason, s.user_agent, host(s.address) as address
from rgw.sessions s
join rgw.users u on u.id = s.user_id
left join rgw.session_uses l on l.session_id = s.id
where s.id = $1`

const revokeSession = `
update rgw.sessions set revoked_at = $2, revoked_reason = $3 where id = $1`

// RevokeSession ends a session at once, and with it what is open by it. With of, the session has to be that person's:
// others' are not there then.
func (w *Writer) RevokeSession(ctx context.Context, by Actor, id, of uuid.UUID, reason string) (Session, error) {
	reason, err := checkReason(reason)
	if err != nil {
		return Session{}, err
	}
	return w.endSession(ctx, by, "session.revoke", id, of, reason)
}

// EndSession is a person's own signing out.
func (w *Writer) EndSession(ctx context.Context, by Actor, id uuid.UUID) (Session, error) {
	return w.endSession(ctx, by, "session.end", id, by.User, "signed out")
}

func (w *Writer) endSession(ctx context.Context, by Actor, action string, id, of uuid.UUID, reason string) (Session, error) {
	var session Session
	err := w.change(ctx, by, attempt{action: action, resource: id.String()}, func(tx *writeTx) error {
		var row sessionRow
		found, err := tx.get(ctx, &row, findSession, id)
		if err != nil {
			return wrap("finding a session", err)
		}
		if !found || of != uuid.Nil && row.UserID != of {
			return notFound("no-such-session", "there is no session %s: list the sessions to see which there are", id)
		}
		idle, err := tx.sessionIdle(ctx)
		if err != nil {
			return err
		}
		if session, err = row.session(tx.now, idle); err != nil {
			return err
		}
		if session.RevokedAt != nil {
			return conflict("session-revoked", "this session was ended already: %s", clean(session.RevokedReason))
		}
		if _, err := tx.exec(ctx, revokeSession, id, tx.now, reason); err != nil {
			return wrap("ending a session", err)
		}
		session.RevokedAt, session.RevokedReason, session.State = &tx.now, reason, "revoked"
		tx.record(change{action: action, resource: session.Email, params: []string{"id", id.String(), "reason", reason}})
		return nil
	})
	if err != nil {
		return Session{}, err
	}
	return session, nil
}

const forgetStates = `
delete from rgw.signin_states where expires_at < $1`

const spendState = `
insert into rgw.signin_states (hash, expires_at) values ($1, $2) on conflict on constraint signin_states_pkey do nothing`

// SpendState notes that a sign-in came back from the identity provider, by the hash of its state, and reports
// whether it is the first time. After the time given it could not come back anyway, and is forgotten. It changes
// nobody's access, so there is no event for it.
func (w *Writer) SpendState(ctx context.Context, hash [sha256.Size]byte, until time.Time) (first bool, err error) {
	if _, err := w.db.ExecContext(ctx, forgetStates, w.now()); err != nil {
		return false, wrap("forgetting old sign-ins", err)
	}
	result, err := w.db.ExecContext(ctx, spendState, hash[:], until)
	if err != nil {
		return false, wrap("noting that a sign-in came back", err)
	}
	n, err := result.RowsAffected()
	return n == 1, wrap("noting that a sign-in came back", err)
}

// cutText makes a text from outside fit for the database: valid, and of so many characters at most.
func cutText(s string, most int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
	n := 0
	for i := range s {
		if n == most {
			return s[:i]
		}
		n++
	}
	return s
}

// idOrNothing is the text of an id, "" of the zero one.
func idOrNothing(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}
