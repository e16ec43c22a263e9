package directory

import (
	"context"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
)

// What belongs to people and is kept elsewhere, such as their second factors, is changed in the same way as what is
// kept here: by one transaction that holds the change and its events, after every change before it.

// Attempt is what the event says when a change is refused.
type Attempt struct {
	Action   string // resource.verb
	Resource string // what is to be changed, as people call it
}

// Tx is a transaction of [Writer.Change].
type Tx struct{ tx *writeTx }

// Change runs fn in a transaction and commits what it did together with the events that it recorded. When fn returns
// an *Error other than Invalid, nothing of it remains and the refusal is recorded; a change without a record is
// given up.
func (w *Writer) Change(ctx context.Context, by Actor, ask Attempt, fn func(*Tx) error) error {
	return w.change(ctx, by, attempt{action: ask.Action, resource: ask.Resource}, func(tx *writeTx) error { return fn(&Tx{tx}) })
}

// Now is the moment of the transaction, in microseconds.
func (t *Tx) Now() time.Time { return t.tx.now }

// Request joins the events of the transaction.
func (t *Tx) Request() uuid.UUID { return t.tx.request }

// Exec runs a statement that changes something, and returns how many rows it changed.
func (t *Tx) Exec(ctx context.Context, statement string, args ...any) (int64, error) {
	return t.tx.exec(ctx, statement, args...)
}

// Keep runs a statement that changes what nobody's access depends on, such as a count or a challenge, so that no
// event need tell of it.
func (t *Tx) Keep(ctx context.Context, statement string, args ...any) (int64, error) {
	result, err := t.tx.tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Change runs a statement that changes something and returns rows.
func (t *Tx) Change(ctx context.Context, rows any, statement string, args ...any) error {
	return t.tx.change(ctx, rows, statement, args...)
}

// Unchanged says that a statement that could have changed something did not, so that there is nothing to record.
func (t *Tx) Unchanged() { t.tx.changed = false }

// Select reads all rows of a query.
func (t *Tx) Select(ctx context.Context, rows any, query string, args ...any) error {
	return t.tx.sel(ctx, rows, query, args...)
}

// Get reads the one row there may be, and reports whether there was one.
func (t *Tx) Get(ctx context.Context, row any, query string, args ...any) (bool, error) {
	return t.tx.get(ctx, row, query, args...)
}

// User returns somebody by id or address. Nobody is an *Error.
func (t *Tx) User(ctx context.Context, who string) (User, error) { return t.tx.user(ctx, who) }

// Settings are those in force.
func (t *Tx) Settings(ctx context.Context) (access.Settings, error) { return t.tx.inForce(ctx) }

// IsLastAdmin reports whether the person, and nobody else, can administer the gateway.
func (t *Tx) IsLastAdmin(ctx context.Context, id uuid.UUID) (bool, error) {
	var admins []uuid.UUID
	if err := t.tx.sel(ctx, &admins, twoAdmins); err != nil {
		return false, wrap("looking for administrators", err)
	}
	return len(admins) == 1 && admins[0] == id, nil
}

const twoAdmins = `
select u.id from rgw.users u
where u.locked_at is null and u.removed_at is null
  and exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*')
limit 2`

// Record notes one thing that was done: its parameters are name, value, name, value, …; empty values are left out.
func (t *Tx) Record(action, resource string, params ...string) {
	t.tx.record(change{action: action, resource: resource, params: params})
}

// RecordUnder is Record for an event that belongs to another request: what somebody decided about it, say.
func (t *Tx) RecordUnder(request uuid.UUID, action, resource string, params ...string) {
	t.Record(action, resource, params...)
	t.tx.events[len(t.tx.events)-1].RequestID = request
}

// RecordRefusal notes that something was asked for and refused, where the transaction commits all the same: a wrong
// code is counted and told in one.
func (t *Tx) RecordRefusal(request uuid.UUID, action, resource string, answer *Error, params ...string) {
	t.tx.refuse(attempt{action: action, resource: resource}, answer)
	event := t.tx.events[len(t.tx.events)-1]
	if request != uuid.Nil {
		event.RequestID = request
	}
	for i := 0; i+1 < len(params); i += 2 {
		if params[i+1] != "" {
			event.Detail.Params.Add(params[i], params[i+1])
		}
	}
}

// View runs fn in one read-only transaction: what it reads is of one moment.
func (r *Reader) View(ctx context.Context, fn func(*View) error) error {
	return r.view(ctx, func(tx *readTx) error { return fn(&View{tx}) })
}

// View is a transaction of [Reader.View].
type View struct{ tx *readTx }

// Now is the moment of the transaction.
func (v *View) Now() time.Time { return v.tx.now }

// Select reads all rows of a query.
func (v *View) Select(ctx context.Context, rows any, query string, args ...any) error {
	return v.tx.sel(ctx, rows, query, args...)
}

// Get reads the one row there may be, and reports whether there was one.
func (v *View) Get(ctx context.Context, row any, query string, args ...any) (bool, error) {
	return v.tx.get(ctx, row, query, args...)
}

// User returns somebody by id or address. Nobody is an *Error.
func (v *View) User(ctx context.Context, who string) (User, error) { return v.tx.user(ctx, who) }

// Settings are those in force.
func (v *View) Settings(ctx context.Context) (access.Settings, error) { return v.tx.inForce(ctx) }

// NewError makes an answer for the person who asked, of another package that changes things by [Writer.Change].
func NewError(kind Kind, code, format string, args ...any) *Error {
	switch kind {
	case NotFound:
		return notFound(code, format, args...)
	case Conflict:
		return conflict(code, format, args...)
	case Refused:
		return refused(code, format, args...)
	default:
		return invalid(code, format, args...)
	}
}
