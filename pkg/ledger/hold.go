package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
)

// Hold keeps retention from dropping the events of a time.
type Hold struct {
	ID       uuid.UUID  `db:"hold_id" json:"id"`
	Since    time.Time  `db:"since" json:"since"` // first day (UTC)
	Until    time.Time  `db:"until" json:"until"` // last day
	Reason   string     `db:"reason" json:"reason"`
	PlacedBy string     `db:"placed_by" json:"placed_by"`
	PlacedAt time.Time  `db:"placed_at" json:"placed_at"`
	LiftedAt *time.Time `db:"lifted_at" json:"lifted_at,omitempty"`
}

const (
	selectHolds = `select hold_id, since, until, reason, placed_by, placed_at, lifted_at from rgw.ledger_holds order by placed_at desc, hold_id`
	insertHold  = `insert into rgw.ledger_holds (hold_id, since, until, reason, placed_by) values ($1, $2::date, $3::date, $4, $5) returning placed_at`
	liftHold    = `update rgw.ledger_holds set lifted_at = now() where hold_id = $1 and lifted_at is null returning since, until, reason`
)

// ErrNoHold says that there is no such hold in force, and ErrBadHold that a hold ends before it begins.
var (
	ErrNoHold  = errors.New("there is no such hold in force")
	ErrBadHold = errors.New("the hold ends before it begins: until is the last day that is held")
)

// Holds lists all holds, the newest first.
func Holds(ctx context.Context, db sqlx.QueryerContext) (list []Hold, err error) {
	if err := sqlx.SelectContext(ctx, db, &list, selectHolds); err != nil {
		return nil, fmt.Errorf("list holds: %w", err)
	}
	return list, nil
}

// PlaceHold places a hold, and records it in the same transaction as the event given.
func PlaceHold(ctx context.Context, db *sqlx.DB, key audit.Key, e *audit.Event, since, until time.Time, reason string) (Hold, error) {
	if until.Before(since) {
		return Hold{}, ErrBadHold
	}
	h := Hold{ID: audit.NewID(time.Now()), Since: since, Until: until, Reason: reason, PlacedBy: e.ActorLabel}
	e.Resource = h.ID.String()
	e.Detail.Params.Add("since", since.Format(time.DateOnly))
	e.Detail.Params.Add("until", until.Format(time.DateOnly))
	e.Detail.Params.Add("reason", reason)
	err := audit.Change(ctx, db, key, e, func(tx *sqlx.Tx) error {
		return tx.GetContext(ctx, &h.PlacedAt, insertHold, h.ID, since.Format(time.DateOnly), until.Format(time.DateOnly), reason, h.PlacedBy)
	})
	if err != nil {
		return Hold{}, fmt.Errorf("place the hold: %w", err)
	}
	return h, nil
}

// LiftHold ends a hold, and records it in the same transaction as the event given.
func LiftHold(ctx context.Context, db *sqlx.DB, key audit.Key, e *audit.Event, id uuid.UUID) error {
	e.Resource = id.String()
	return audit.Change(ctx, db, key, e, func(tx *sqlx.Tx) error {
		var h Hold
		switch err := tx.GetContext(ctx, &h, liftHold, id); {
		case errors.Is(err, sql.ErrNoRows):
			return ErrNoHold
		case err != nil:
			return fmt.Errorf("lift the hold: %w", err)
		}
		e.Detail.Params.Add("reason", h.Reason)
		return nil
	})
}
