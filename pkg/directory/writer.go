package directory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
)

// Writer makes changes. It is safe for concurrent use: changes are made one at a time, across all processes.
type Writer struct {
	db       *sqlx.DB
	key      audit.Key
	defaults []access.SettingValue
	now      func() time.Time
	maxWait  time.Duration
}

// WriterOptions are what a Writer can do without.
type WriterOptions struct {
	// Defaults gives the values of settings that the database does not hold; nil for the built-in ones alone.
	Defaults []access.SettingValue
	// Now is the clock; nil for the system's.
	Now func() time.Time
	// MaxWait is how long a change waits for another one that is under way; 10 seconds when zero.
	MaxWait time.Duration
}

// NewWriter makes a Writer over a database that is migrated. Events get their MAC by the key given, which must
// be the one that the proxies use.
func NewWriter(db *sqlx.DB, key audit.Key, o WriterOptions) *Writer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxWait == 0 {
		o.MaxWait = 10 * time.Second
	}
	return &Writer{db: db, key: key, defaults: o.Defaults, now: o.Now, maxWait: o.MaxWait}
}

// Actor is who asks for a change, as the events will say.
type Actor struct {
	Kind    audit.ActorKind
	ID      string // stable id; of a person or token, the UUID
	Label   string // address, token name, or what else people will recognise
	Address netip.Addr
	// User is the person, and Token the API token, whose rights bound what the actor may give. Both are zero for
	// the gateway's own command line.
	User  uuid.UUID
	Token uuid.UUID
	// Request joins the events of one request; zero for a new one each.
	Request uuid.UUID
	// Client and UserAgent say what was used; both may be empty.
	Client    string
	UserAgent string
	// Detail is what else is known of the request: how the actor authenticated, what let them in. Its parameters are
	// left out, since each event has its own.
	Detail audit.Detail
	// Grant is the second factor that was given for this very request, and spent by it: what is recorded leads to its
	// approval by it. Zero when there was none.
	Grant uuid.UUID
}

// Event returns an event about what the actor did, with nothing decided yet.
func (a Actor) Event(now time.Time, action, resource string) *audit.Event {
	event := audit.NewEvent(now)
	if a.Request != uuid.Nil {
		event.RequestID = a.Request
	}
	event.ActorKind, event.ActorID, event.ActorLabel = a.Kind, a.ID, a.Label
	event.Address = a.Address
	event.Action, event.Resource = action, resource
	event.Detail = a.Detail
	event.Detail.Params = nil
	if a.Grant != uuid.Nil {
		event.Detail.Params.Add("step_up", a.Grant.String())
	}
	event.Detail.Client, event.Detail.UserAgent = a.Client, a.UserAgent
	return event
}

// attempt is what the event says when a change is refused.
type attempt struct {
	action   string
	resource string
	app      string
}

// change is one thing that was done, as its event says it.
type change struct {
	action   string
	resource string
	app      string
	params   []string // name, value, name, value, …
}

// writeTx is a transaction that changes something. It commits only together with what it recorded.
type writeTx struct {
	readTx
	by      Actor
	request uuid.UUID
	changed bool
	events  []*audit.Event
}

// errUnrecorded is a defect of this package: a change that no event tells of is never committed.
var errUnrecorded = errors.New("a change without a record was given up")

// change runs fn and commits what it did together with the events it recorded. When fn answers that it will
// not, nothing of it remains, and the refusal is recorded instead.
func (w *Writer) change(ctx context.Context, by Actor, ask attempt, fn func(*writeTx) error) error {
	if by.Request == uuid.Nil {
		by.Request = newID()
	}
	err := w.transact(ctx, by, func(tx *writeTx) error {
		if err := tx.actorIsActive(ctx); err != nil {
			return err
		}
		return fn(tx)
	})
	var answer *Error
	if !errors.As(err, &answer) || answer.Kind == Invalid {
		return err
	}
	if err := w.transact(ctx, by, func(tx *writeTx) error {
		tx.refuse(ask, answer)
		return nil
	}); err != nil {
		return wrap("recording that a change was refused", err)
	}
	return answer
}

// begin marks the transaction as the gateway's own, so that the database does not add an event of its own for
// it, and waits for its turn. The lock comes first and alone: what the statements after it read is then what the
// change before left.
const begin = `
select set_config('rgw.request_id', $1, true), set_config('lock_timeout', $2, true), pg_advisory_xact_lock(7220417003)`

// SQLSTATE of a lock that was not had in time.
const lockNotAvailable = "55P03"

// ErrBusy says that a change was not made, because another one held its place for too long. It is no answer about
// the change itself, which may be tried again.
var ErrBusy = errors.New("another change is under way and does not end: try again, and look for a transaction in the database that was left open")

// ErrOutcomeUnknown says that a change may have been made or not: the answer to its commit was lost.
var ErrOutcomeUnknown = errors.New("it is not known whether the change was made: look before you repeat it")

func (w *Writer) transact(ctx context.Context, by Actor, fn func(*writeTx) error) error {
	tx, err := w.db.BeginTxx(ctx, nil)
	if err != nil {
		return wrap("beginning a change", err)
	}
	if _, err := tx.ExecContext(ctx, begin, by.Request.String(), strconv.FormatInt(w.maxWait.Milliseconds(), 10)); err != nil {
		err = errors.Join(err, rollback(tx))
		var pqErr *pq.Error
		if errors.As(err, &pqErr) && pqErr.Code == lockNotAvailable {
			return fmt.Errorf("%w (%w)", ErrBusy, err)
		}
		return wrap("waiting for other changes", err)
	}
	wtx := &writeTx{
		readTx: readTx{tx: tx, defaults: w.defaults, now: moment(w.now)},
		by:     by, request: by.Request,
	}
	if err := fn(wtx); err != nil {
		return errors.Join(err, rollback(tx))
	}
	if wtx.changed && len(wtx.events) == 0 {
		return errors.Join(errUnrecorded, rollback(tx))
	}
	if err := audit.InsertTx(ctx, tx, w.key, wtx.events...); err != nil {
		return errors.Join(wrap("recording a change", err), rollback(tx))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing: %w (%w)", ErrOutcomeUnknown, err)
	}
	return nil
}

// exec runs a statement that changes something, and returns how many rows it changed.
func (tx *writeTx) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	tx.changed = true
	result, err := tx.tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// change runs a statement that changes something and returns rows.
func (tx *writeTx) change(ctx context.Context, rows any, statement string, args ...any) error {
	tx.changed = true
	return tx.tx.SelectContext(ctx, rows, statement, args...)
}

// record notes one thing that was done; it is inserted when the change is complete.
func (tx *writeTx) record(c change) {
	event := tx.event(c.action, c.resource, c.app)
	event.Phase, event.Decision = audit.PhaseFinished, audit.DecisionAllow
	for i := 0; i+1 < len(c.params); i += 2 {
		if c.params[i+1] != "" {
			event.Detail.Params.Add(c.params[i], c.params[i+1])
		}
	}
	tx.events = append(tx.events, event)
}

// refuse notes that a change was asked for and not made.
func (tx *writeTx) refuse(ask attempt, answer *Error) {
	event := tx.event(ask.action, ask.resource, ask.app)
	event.Phase, event.Decision = audit.PhaseRefused, audit.DecisionDeny
	event.Detail.Code, event.Detail.Error = answer.Code, answer.Message
	tx.events = append(tx.events, event)
}

// event begins an event. Those of one transaction follow each other by a microsecond, so that a list shows them in
// their order.
func (tx *writeTx) event(action, resource, app string) *audit.Event {
	event := tx.by.Event(tx.now.Add(time.Duration(len(tx.events))*time.Microsecond), action, resource)
	event.RequestID, event.App = tx.request, app
	return event
}

// actorIsActive refuses an actor who lost their access while the change waited for its turn.
func (tx *writeTx) actorIsActive(ctx context.Context) error {
	if tx.by.User != uuid.Nil {
		actor, err := tx.user(ctx, tx.by.User.String())
		if err != nil {
			return err
		}
		if !actor.Active() {
			return refused("actor-locked", "%s was locked or removed meanwhile: nothing was changed", actor.Email)
		}
	}
	if tx.by.Token != uuid.Nil {
		actor, err := tx.token(ctx, tx.by.Token.String())
		if err != nil {
			return err
		}
		if state := actor.State(tx.now); state != "active" {
			return refused("actor-locked", "the token %s is no longer good (%s): nothing was changed", clean(actor.Name), state)
		}
	}
	return nil
}
