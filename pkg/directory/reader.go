package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/access"
)

// Reader answers questions. It is safe for concurrent use. Each call is one read-only transaction.
type Reader struct {
	db       *sqlx.DB
	defaults []access.SettingValue
	now      func() time.Time
}

// ReaderOptions are what a Reader can do without.
type ReaderOptions struct {
	// Defaults gives the values of settings that the database does not hold; nil for the built-in ones alone.
	Defaults []access.SettingValue
	// Now is the clock; nil for the system's.
	Now func() time.Time
}

// NewReader makes a Reader over a database that is migrated.
func NewReader(db *sqlx.DB, o ReaderOptions) *Reader {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reader{db: db, defaults: o.Defaults, now: o.Now}
}

// view runs fn in one read-only transaction: what it reads is of one moment.
func (r *Reader) view(ctx context.Context, fn func(*readTx) error) error {
	tx, err := r.db.BeginTxx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return wrap("beginning to read", err)
	}
	if err := fn(&readTx{tx: tx, defaults: r.defaults, now: moment(r.now)}); err != nil {
		return errors.Join(err, rollback(tx))
	}
	return wrap("ending to read", tx.Commit())
}

// readTx is what the questions are asked with. It has no way to run a statement that is no query.
type readTx struct {
	tx       *sqlx.Tx
	defaults []access.SettingValue
	now      time.Time // of the transaction, in microseconds, as the database keeps it
}

func moment(clock func() time.Time) time.Time { return clock().UTC().Truncate(time.Microsecond) }

// sel reads all rows.
func (tx *readTx) sel(ctx context.Context, rows any, query string, args ...any) error {
	return tx.tx.SelectContext(ctx, rows, query, args...)
}

// get reads the one row there may be, and reports whether there was one.
func (tx *readTx) get(ctx context.Context, row any, query string, args ...any) (bool, error) {
	err := tx.tx.GetContext(ctx, row, query, args...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rollback gives up a transaction; one that is over already is no error.
func rollback(tx *sqlx.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return wrap("rolling back", err)
	}
	return nil
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
