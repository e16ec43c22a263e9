package directory

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// NewUser is a person to be added.
type NewUser struct {
	Email    string
	Name     string // may be empty
	Bindings []Binding
}

const insertUser = `
insert into rgw.users (id, email, name, created_at, created_by) values ($1, $2, $3, $4, $5)`

// AddUsers adds people with their first roles: all of them, or none.
func (w *Writer) AddUsers(ctx context.Context, by Actor, people []NewUser) ([]User, error) {
	if len(people) == 0 || len(people) > largestPage {
		return nil, invalid("bad-count", "add 1 to %d users at a time", largestPage)
	}
	var addresses []string
	for i := range people {
		email, err := checkEmail(people[i].Email)
		if err != nil {
			return nil, err
		}
		if slices.Contains(addresses, email) {
			return nil, invalid("address-twice", "%s is in the list twice", email)
		}
		addresses = append(addresses, email)
		people[i].Email = email
		if people[i].Name, err = checkName("name", people[i].Name, false); err != nil {
			return nil, err
		}
		if people[i].Bindings, err = checkBindings(people[i].Bindings); err != nil {
			return nil, err
		}
	}
	var added []User
	ask := attempt{action: "user.add", resource: addresses[0]}
	err := w.change(ctx, by, ask, func(tx *writeTx) error {
		added = added[:0]
		for _, person := range people {
			if _, err := tx.user(ctx, person.Email); err == nil {
				return conflict("user-exists", "%s is a user already: change the roles with user role, or unlock the user", person.Email)
			} else if CodeOf(err) != "no-such-user" {
				return err
			}
			if err := tx.mayGiveToUser(ctx, person.Bindings); err != nil {
				return err
			}
			user := User{ID: newID(), Email: person.Email, Name: person.Name, CreatedAt: tx.now, CreatedBy: by.Label, Bindings: person.Bindings}
			if err := tx.addUser(ctx, user); err != nil {
				return err
			}
			added = append(added, user)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return added, nil
}

const lockUser = `
update rgw.users set locked_at = $2, locked_reason = $3 where id = $1`

// Lock takes everything from a person at once, until Unlock: sessions, tokens, and the API tokens they own.
func (w *Writer) Lock(ctx context.Context, by Actor, ref, reason string) (User, error) {
	reason, err := checkReason(reason)
	if err != nil {
		return User{}, err
	}
	return w.changeUser(ctx, by, "user.lock", ref, func(tx *writeTx, user *User) error {
		if user.LockedAt != nil {
			return conflict("user-locked", "%s is locked already (%s): unlock first if the reason is to change", user.Email, user.LockedReason)
		}
		now := tx.now
		if _, err := tx.exec(ctx, lockUser, user.ID, now, reason); err != nil {
			return wrap("locking a user", err)
		}
		user.LockedAt, user.LockedReason = &now, reason
		tx.record(change{action: "user.lock", resource: user.Email, params: []string{"id", user.ID.String(), "reason", reason}})
		return nil
	})
}

const unlockUser = `
update rgw.users set locked_at = null, locked_reason = '' where id = $1`

// Unlock gives a locked person back what they had.
func (w *Writer) Unlock(ctx context.Context, by Actor, ref string) (User, error) {
	return w.changeUser(ctx, by, "user.unlock", ref, func(tx *writeTx, user *User) error {
		if user.LockedAt == nil {
			return conflict("user-not-locked", "%s is not locked: there is nothing to undo", user.Email)
		}
		if err := tx.mayGiveToUser(ctx, user.Bindings); err != nil {
			return err
		}
		if _, err := tx.exec(ctx, unlockUser, user.ID); err != nil {
			return wrap("unlocking a user", err)
		}
		tx.record(change{
			action: "user.unlock", resource: user.Email,
			params: []string{"id", user.ID.String(), "locked_at", stamp(*user.LockedAt), "locked_reason", user.LockedReason},
		})
		user.LockedAt, user.LockedReason = nil, ""
		return nil
	})
}

const removeUser = `
update rgw.users set removed_at = $2 where id = $1`

const revokeTokensOfUser = `
update rgw.tokens set revoked_at = $2, revoked_reason = $3 where owner_id = $1 and revoked_at is null
returning id, name`

const revokeSessionsOfUser = `
update rgw.sessions set revoked_at = $2, revoked_reason = $3 where user_id = $1 and revoked_at is null and expires_at > $2
returning id`

// Remove ends a membership for good: roles are taken, and the tokens and sessions that the person has are revoked. The row
// stays, so that history keeps a name. Adding the address again makes a new user with nothing of the old one.
func (w *Writer) Remove(ctx context.Context, by Actor, ref string) (User, error) {
	return w.changeUser(ctx, by, "user.remove", ref, func(tx *writeTx, user *User) error {
		now := tx.now
		if _, err := tx.exec(ctx, removeUser, user.ID, now); err != nil {
			return wrap("removing a user", err)
		}
		if _, err := tx.exec(ctx, deleteUserBindings, user.ID); err != nil {
			return wrap("taking the roles of a removed user", err)
		}
		var revoked []struct {
			ID   uuid.UUID `db:"id"`
			Name string    `db:"name"`
		}
		const reason = "the owner was removed"
		if err := tx.change(ctx, &revoked, revokeTokensOfUser, user.ID, now, reason); err != nil {
			return wrap("revoking the tokens of a removed user", err)
		}
		tx.record(change{
			action: "user.remove", resource: user.Email,
			params: []string{"id", user.ID.String(), "roles", joinBindings(user.Bindings)},
		})
		for _, token := range revoked {
			tx.record(change{
				action: "token.revoke", resource: token.Name,
				params: []string{"id", token.ID.String(), "owner", user.Email, "reason", reason},
			})
		}
		var ended []uuid.UUID
		if err := tx.change(ctx, &ended, revokeSessionsOfUser, user.ID, now, reason); err != nil {
			return wrap("ending the sessions of a removed user", err)
		}
		for _, id := range ended {
			tx.record(change{action: "session.revoke", resource: user.Email, params: []string{"id", id.String(), "reason", reason}})
		}
		user.RemovedAt, user.Bindings = &now, nil
		return nil
	})
}

// actionSetRoles is what events call every change of somebody's roles.
const actionSetRoles = "user.set_roles"

// SetRoles makes a person's roles exactly these.
func (w *Writer) SetRoles(ctx context.Context, by Actor, ref string, bindings []Binding) (User, error) {
	want, err := checkBindings(bindings)
	if err != nil {
		return User{}, err
	}
	return w.changeUser(ctx, by, actionSetRoles, ref, func(tx *writeTx, user *User) error {
		return tx.setRoles(ctx, user, want)
	})
}

// Bind gives a person roles, beside those they have.
func (w *Writer) Bind(ctx context.Context, by Actor, ref string, bindings ...Binding) (User, error) {
	return w.EditRoles(ctx, by, ref, bindings, nil)
}

// Unbind takes roles from a person. Each must be one that they have, to the pattern.
func (w *Writer) Unbind(ctx context.Context, by Actor, ref string, bindings ...Binding) (User, error) {
	return w.EditRoles(ctx, by, ref, nil, bindings)
}

// EditRoles gives and takes roles in one change.
func (w *Writer) EditRoles(ctx context.Context, by Actor, ref string, give, take []Binding) (User, error) {
	give, err := checkBindings(give)
	if err != nil {
		return User{}, err
	}
	if take, err = checkBindings(take); err != nil {
		return User{}, err
	}
	return w.changeUser(ctx, by, actionSetRoles, ref, func(tx *writeTx, user *User) error {
		want := slices.Clone(user.Bindings)
		for _, b := range take {
			i := slices.Index(want, b)
			if i < 0 {
				return conflict("not-bound", "%s does not have %s: what they have is %s", user.Email, b, orNone(joinBindings(user.Bindings)))
			}
			want = slices.Delete(want, i, i+1)
		}
		return tx.setRoles(ctx, user, append(want, give...))
	})
}

// setRoles makes the difference between what a person has and shall have, and records both.
func (tx *writeTx) setRoles(ctx context.Context, user *User, want []Binding) error {
	want, err := checkBindings(want)
	if err != nil {
		return err
	}
	var given, taken []Binding
	for _, b := range want {
		if !slices.Contains(user.Bindings, b) {
			given = append(given, b)
		}
	}
	for _, b := range user.Bindings {
		if !slices.Contains(want, b) {
			taken = append(taken, b)
		}
	}
	if len(given)+len(taken) == 0 {
		return conflict("no-change", "%s has exactly these roles already: %s", user.Email, orNone(joinBindings(want)))
	}
	if err := tx.mayGiveToUser(ctx, given); err != nil {
		return err
	}
	for _, b := range taken {
		if _, err := tx.exec(ctx, deleteUserBinding, user.ID, b.Role, b.App); err != nil {
			return wrap("taking a role", err)
		}
	}
	if err := tx.bind(ctx, user.ID, uuid.Nil, given); err != nil {
		return err
	}
	tx.record(change{
		action: actionSetRoles, resource: user.Email,
		params: []string{
			"id", user.ID.String(), "old", joinBindings(user.Bindings), "new", joinBindings(want),
			"given", joinBindings(given), "taken", joinBindings(taken),
		},
	})
	user.Bindings = want
	return nil
}

// changeUser runs a change to one person, and refuses it when nobody would be left who can administer.
func (w *Writer) changeUser(ctx context.Context, by Actor, action, ref string, fn func(*writeTx, *User) error) (User, error) {
	var user User
	err := w.change(ctx, by, attempt{action: action, resource: clean(strings.ToLower(ref))}, func(tx *writeTx) (err error) {
		if user, err = tx.member(ctx, ref); err != nil {
			return err
		}
		before, err := tx.admins(ctx)
		if err != nil {
			return err
		}
		if err := fn(tx, &user); err != nil {
			return err
		}
		after, err := tx.admins(ctx)
		if err != nil {
			return err
		}
		if before > 0 && after == 0 {
			return refused("last-admin", "%s is the last user who can administer this gateway: give somebody else the role %s first", user.Email, adminRole)
		}
		return nil
	})
	if err != nil {
		return User{}, err
	}
	return user, nil
}

const countAdmins = `
select count(*) from rgw.users u
where u.removed_at is null and u.locked_at is null
  and exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*')`

// admins counts who can administer everything now.
func (tx *readTx) admins(ctx context.Context) (n int, err error) {
	_, err = tx.get(ctx, &n, countAdmins)
	return n, wrap("counting admins", err)
}

const insertBinding = `
insert into rgw.bindings (id, user_id, token_id, role, app_pattern, created_at, created_by) values ($1, $2, $3, $4, $5, $6, $7)`

const deleteUserBinding = `
delete from rgw.bindings where user_id = $1 and role = $2 and app_pattern = $3`

const deleteUserBindings = `
delete from rgw.bindings where user_id = $1`

// bind inserts bindings of a person or of a token, whichever id is given.
func (tx *writeTx) bind(ctx context.Context, user, token uuid.UUID, bindings []Binding) error {
	for _, b := range bindings {
		if _, err := tx.exec(ctx, insertBinding, newID(), nullID(user), nullID(token), b.Role, b.App, tx.now, tx.by.Label); err != nil {
			return wrap("binding a role", err)
		}
	}
	return nil
}

// checkBindings holds a list to its form, drops repetitions and sorts it.
func checkBindings(bindings []Binding) ([]Binding, error) {
	var list []Binding
	for _, b := range bindings {
		if b.App == "" {
			b.App = allApps
		}
		if err := checkRoleName(b.Role); err != nil {
			return nil, err
		}
		if err := checkPattern(b.App); err != nil {
			return nil, err
		}
		if !slices.Contains(list, b) {
			list = append(list, b)
		}
	}
	if len(list) > 100 {
		return nil, invalid("too-many-bindings", "a user or token has at most 100 bindings, not %d: use a pattern for many apps", len(list))
	}
	slices.SortFunc(list, func(a, b Binding) int {
		if c := strings.Compare(a.Role, b.Role); c != 0 {
			return c
		}
		return strings.Compare(a.App, b.App)
	})
	return list, nil
}

func joinBindings(bindings []Binding) string {
	texts := make([]string, len(bindings))
	for i, b := range bindings {
		texts[i] = b.String()
	}
	return strings.Join(texts, " ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func newID() uuid.UUID { return uuid.New() }

func nullID(id uuid.UUID) uuid.NullUUID { return uuid.NullUUID{UUID: id, Valid: id != uuid.Nil} }
