package ledger

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
)

// Book is the ledger as those use it who show it. Fields without a remark must be given.
type Book struct {
	DB       *sqlx.DB // as the role of admin
	Key      audit.Key
	Follower *Follower
	// Trouble says why nothing is signed, and how old the oldest event without a place is.
	State func() State

	// Chain is the bucket and prefix that the ledger is copied to; empty when it is not.
	Chain string
	// PushURL is where events are pushed to; empty when they are not.
	PushURL string
	// RetentionDays is how long events are kept; 0 for ever.
	RetentionDays int

	// StartVerification and StartAnchor have it done soon. The second is nil when there is no bucket.
	StartVerification func()
	StartAnchor       func()
}

// PlaceHold keeps retention from dropping the events of a time.
func (b *Book) PlaceHold(ctx context.Context, e *audit.Event, since, until time.Time, reason string) (Hold, error) {
	return PlaceHold(ctx, b.DB, b.Key, e, since, until, reason)
}

// LiftHold ends a hold.
func (b *Book) LiftHold(ctx context.Context, e *audit.Event, id uuid.UUID) error {
	return LiftHold(ctx, b.DB, b.Key, e, id)
}
