package directory

import (
	"context"
	"encoding/base64"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"rackgateway/pkg/access"
)

// User is a person, with what was bound to them.
type User struct {
	ID           uuid.UUID
	Email        string // case-folded
	Name         string
	LockedAt     *time.Time
	LockedReason string
	RemovedAt    *time.Time
	SignedInAt   *time.Time
	CreatedAt    time.Time
	CreatedBy    string
	Bindings     []Binding // by role, then app
}

// Active reports whether the person may do anything at all: neither locked nor removed.
func (u *User) Active() bool { return u.LockedAt == nil && u.RemovedAt == nil }

// Binding gives a role over the apps that match a pattern.
type Binding struct {
	Role string
	App  string // a name, or a pattern with * for any run of characters; "" is read as *
}

// String is the binding as the command line writes it: ROLE, or ROLE@PATTERN.
func (b Binding) String() string {
	if b.App == "" || b.App == allApps {
		return b.Role
	}
	return b.Role + "@" + b.App
}

// allApps is the pattern that every app matches, and the only one that gives anything on routes without an app.
const allApps = "*"

// ParseBinding reads ROLE or ROLE@PATTERN. Whether there is such a role is found out when it is bound.
func ParseBinding(s string) (Binding, error) {
	role, app, scoped := strings.Cut(s, "@")
	b := Binding{Role: strings.TrimSpace(role), App: strings.TrimSpace(app)}
	if !scoped {
		b.App = allApps
	}
	if b.Role == "" {
		return Binding{}, invalid("bad-binding", "%q is not a role: write ROLE, or ROLE@APP for the apps that a pattern matches", clean(s))
	}
	if err := checkPattern(b.App); err != nil {
		return Binding{}, err
	}
	return b, nil
}

// UserFilter chooses people. The zero value is everybody who was not removed.
type UserFilter struct {
	Search  string // words of the address or the name, or their beginnings, in any case
	Role    string // who has this role, over any apps
	Locked  *bool  // who is, or is not, locked
	Removed bool   // those who were removed too
	Limit   int    // 1 to 1000; 0 is 100
	After   string // the Next of the page before
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T
	Next  string // cursor of the page that follows; "" after the last
}

const (
	defaultPage = 100
	largestPage = 1000
)

func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return defaultPage, nil
	case limit < 0 || limit > largestPage:
		return 0, invalid("bad-limit", "a page has 1 to %d entries, not %d", largestPage, limit)
	}
	return limit, nil
}

type userRow struct {
	ID           uuid.UUID  `db:"id"`
	Email        string     `db:"email"`
	Name         string     `db:"name"`
	LockedAt     *time.Time `db:"locked_at"`
	LockedReason string     `db:"locked_reason"`
	RemovedAt    *time.Time `db:"removed_at"`
	SignedInAt   *time.Time `db:"signed_in_at"`
	CreatedAt    time.Time  `db:"created_at"`
	CreatedBy    string     `db:"created_by"`
}

func (r userRow) user() User {
	return User{
		ID: r.ID, Email: r.Email, Name: r.Name,
		LockedAt: r.LockedAt, LockedReason: r.LockedReason, RemovedAt: r.RemovedAt,
		SignedInAt: r.SignedInAt, CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy,
	}
}

const listUsers = `
select u.id, u.email, u.name, u.locked_at, u.locked_reason, u.removed_at, u.signed_in_at, u.created_at, u.created_by
from rgw.users u
where ($1 or u.removed_at is null)
  and ($2 = '' or rgw.words(u.email || ' ' || u.name) @@ lower($2)::tsquery)
  and ($3 = '' or exists (select from rgw.bindings b where b.user_id = u.id and b.role = $3))
  and ($4::boolean is null or (u.locked_at is not null) = $4)
  and (u.email, u.id) > ($5, $6::uuid)
order by u.email, u.id
limit $7`

// ListUsers returns people by address, a page at a time.
func (r *Reader) ListUsers(ctx context.Context, filter UserFilter) (Page[User], error) {
	limit, err := pageSize(filter.Limit)
	if err != nil {
		return Page[User]{}, err
	}
	afterEmail, afterID, err := openCursor(filter.After)
	if err != nil {
		return Page[User]{}, err
	}
	search, text := "", cleanSearch(filter.Search)
	if text != "" {
		if search = wordQuery(text); search == "" {
			return Page[User]{}, nil
		}
	}
	var page Page[User]
	err = r.view(ctx, func(tx *readTx) error {
		var rows []userRow
		if err := tx.sel(ctx, &rows, listUsers, filter.Removed, search, filter.Role,
			filter.Locked, afterEmail, afterID, limit+1); err != nil {
			return wrap("listing users", err)
		}
		if len(rows) > limit {
			rows = rows[:limit]
			last := rows[limit-1]
			page.Next = sealCursor(last.Email, last.ID)
		}
		users := make([]User, len(rows))
		for i, row := range rows {
			users[i] = row.user()
		}
		page.Items = users
		return tx.addBindings(ctx, users)
	})
	return page, err
}

const findUser = `
select u.id, u.email, u.name, u.locked_at, u.locked_reason, u.removed_at, u.signed_in_at, u.created_at, u.created_by
from rgw.users u
where u.email = $1 and u.removed_at is null`

const findUserByID = `
select u.id, u.email, u.name, u.locked_at, u.locked_reason, u.removed_at, u.signed_in_at, u.created_at, u.created_by
from rgw.users u
where u.id = $1`

// User finds one person by address, or by id (which finds a removed one too).
func (r *Reader) User(ctx context.Context, ref string) (User, error) {
	var user User
	err := r.view(ctx, func(tx *readTx) (err error) {
		user, err = tx.user(ctx, ref)
		return err
	})
	return user, err
}

// user finds a person by address or id, with their bindings.
func (tx *readTx) user(ctx context.Context, ref string) (User, error) {
	query, arg := findUser, any(strings.ToLower(strings.TrimSpace(ref)))
	if id, err := uuid.Parse(ref); err == nil {
		query, arg = findUserByID, id
	} else if !utf8.ValidString(ref) || strings.ContainsRune(ref, 0) {
		return User{}, notFound("no-such-user", "there is no user with that address: list them to see who there is")
	}
	var row userRow
	if found, err := tx.get(ctx, &row, query, arg); err != nil {
		return User{}, wrap("finding a user", err)
	} else if !found {
		return User{}, notFound("no-such-user", "there is no user %s: list the users to see who there is, or add this one first", clean(ref))
	}
	users := []User{row.user()}
	err := tx.addBindings(ctx, users)
	return users[0], err
}

// member finds a person who was not removed.
func (tx *readTx) member(ctx context.Context, ref string) (User, error) {
	user, err := tx.user(ctx, ref)
	if err == nil && user.RemovedAt != nil {
		return User{}, notFound("user-removed", "%s was removed: add the address again, which makes a new user", user.Email)
	}
	return user, err
}

const bindingsOfUsers = `
select b.user_id as subject, b.role, b.app_pattern
from rgw.bindings b
where b.user_id = any($1)
order by b.role collate "C", b.app_pattern collate "C"`

type bindingRow struct {
	Subject uuid.UUID `db:"subject"`
	Role    string    `db:"role"`
	App     string    `db:"app_pattern"`
}

func (tx *readTx) addBindings(ctx context.Context, users []User) error {
	if len(users) == 0 {
		return nil
	}
	ids := make([]string, len(users))
	place := make(map[uuid.UUID]int, len(users))
	for i := range users {
		ids[i] = users[i].ID.String()
		place[users[i].ID] = i
	}
	var rows []bindingRow
	if err := tx.sel(ctx, &rows, bindingsOfUsers, pq.Array(ids)); err != nil {
		return wrap("reading the bindings of users", err)
	}
	for _, row := range rows {
		user := &users[place[row.Subject]]
		user.Bindings = append(user.Bindings, Binding{Role: row.Role, App: row.App})
	}
	return nil
}

// checkEmail folds an address to the form in which it is kept. Addresses are compared case-folded.
func checkEmail(address string) (string, error) {
	bad := func(why string) (string, error) {
		return "", invalid("bad-address", "%q is not an e-mail address that can be used: %s", clean(address), why)
	}
	address = strings.TrimSpace(address)
	for _, r := range address {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) || strings.ContainsRune(" \"<>(),;:\\[]", r) {
			return bad("write it plainly, as name@example.com")
		}
	}
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Address != address {
		return bad("write it plainly, as name@example.com")
	}
	if len(address) > 254 {
		return bad("it is longer than 254 characters")
	}
	return strings.ToLower(address), nil
}

// checkName looks at a display name: what people see, so nothing that could disguise it.
func checkName(what, name string, required bool) (string, error) {
	name = strings.TrimSpace(name)
	if !utf8.ValidString(name) {
		return "", invalid("bad-name", "the %s is not valid UTF-8", what)
	}
	for _, r := range name {
		if !unicode.IsGraphic(r) {
			return "", invalid("bad-name", "the %s has characters that cannot be seen: leave them out", what)
		}
	}
	if n := utf8.RuneCountInString(name); n > 200 {
		return "", invalid("bad-name", "the %s has %d characters: 200 is the most", what, n)
	}
	if required && name == "" {
		return "", invalid("bad-name", "the %s is empty: give one that people will recognise", what)
	}
	return name, nil
}

// checkReason looks at the sentence that says why something was taken from somebody.
func checkReason(reason string) (string, error) {
	reason, err := checkName("reason", reason, false)
	if err != nil {
		return "", err
	}
	if reason == "" {
		return "", invalid("reason-missing", "say why: the reason is recorded, and the person is told it")
	}
	return reason, nil
}

// checkPattern holds an app pattern to what the database takes and what an app's name can match.
func checkPattern(pattern string) error {
	if !access.ValidPattern(pattern) {
		return invalid("bad-pattern", "%q is not an app pattern: use an app's name, or * for any run of characters, such as web or worker-*", clean(pattern))
	}
	return nil
}

// clean makes a text from outside fit to be repeated in a message.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsGraphic(r) || r == '%' {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > 80 {
		s = string(runes[:80]) + "…"
	}
	return s
}

// sealCursor writes the place of the last entry of a page, its sort key and its id, as the cursor of the page after it.
func sealCursor(key string, id uuid.UUID) string {
	return base64.RawURLEncoding.EncodeToString(append(id[:], key...))
}

func openCursor(cursor string) (key string, id uuid.UUID, err error) {
	if cursor == "" {
		return "", uuid.Nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(raw) < len(id) || !utf8.Valid(raw[len(id):]) || strings.ContainsRune(string(raw[len(id):]), 0) {
		return "", uuid.Nil, invalid("bad-cursor", "that is not a cursor of this list: begin at the first page")
	}
	copy(id[:], raw)
	return string(raw[len(id):]), id, nil
}

// adminRole is the built-in role that the gateway must not be left without.
const adminRole = "admin"
