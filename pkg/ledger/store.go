package ledger

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
)

// Channel is where the sequencer announces each new checkpoint; the payload is the tree's size.
const Channel = "rgw_ledger"

// head is the newest checkpoint, and how far its sequencer had come.
type head struct {
	Size        int64     `db:"size"`
	Note        string    `db:"note"`
	SignedAt    time.Time `db:"signed_at"`
	CursorEpoch int32     `db:"cursor_epoch"`
	CursorXID   uint64    `db:"cursor_xid"`
	CursorWhole bool      `db:"cursor_whole"`
}

const selectHead = `
select size, note, signed_at, cursor_epoch, cursor_xid::text as cursor_xid, cursor_whole
from rgw.ledger_checkpoints order by size desc limit 1`

// readHead reads the newest checkpoint; nil when there is none.
func readHead(ctx context.Context, db sqlx.QueryerContext) (*head, error) {
	var h head
	switch err := sqlx.GetContext(ctx, db, &h, selectHead); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the newest checkpoint: %w", err)
	}
	return &h, nil
}

// Head returns the newest checkpoint and when it was signed; nil when there is none. It is checked against the keys.
func Head(ctx context.Context, db sqlx.QueryerContext, keys Keyring) (*Checkpoint, time.Time, error) {
	h, err := readHead(ctx, db)
	if err != nil || h == nil {
		return nil, time.Time{}, err
	}
	c, err := ParseCheckpoint(h.Note, keys)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("the newest checkpoint in the database: %w", err)
	}
	return c, h.SignedAt, nil
}

const (
	selectLeafTile = `select hash from rgw.ledger_leaves where leaf_index >= $1 and leaf_index < $2 order by leaf_index`
	selectTile     = `select hash from rgw.ledger_hashes where level = $3 and hash_index >= $1 and hash_index < $2 order by hash_index`
)

// dbTiles gives the tiles that the database holds.
type dbTiles struct {
	ctx context.Context // of the one operation that it is made for
	db  sqlx.QueryerContext
}

// DatabaseTiles gives the tiles that the database holds, for one operation.
func DatabaseTiles(ctx context.Context, db sqlx.QueryerContext) TileSource { return dbTiles{ctx, db} }

// Tile implements TileSource.
func (d dbTiles) Tile(level int, index int64, width int) ([]byte, error) {
	from := index * tileWidth
	var rows *sqlx.Rows
	var err error
	if level == 0 {
		rows, err = d.db.QueryxContext(d.ctx, selectLeafTile, from, from+int64(width))
	} else {
		rows, err = d.db.QueryxContext(d.ctx, selectTile, from, from+int64(width), level)
	}
	if err != nil {
		return nil, fmt.Errorf("read tile %d of level %d: %w", index, level, err)
	}
	data, err := joinHashes(rows, width)
	if err != nil {
		return nil, fmt.Errorf("read tile %d of level %d: %w", index, level, err)
	}
	return data, nil
}

func joinHashes(rows *sqlx.Rows, width int) (data []byte, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	data = make([]byte, 0, width*tlog.HashSize)
	var hash sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&hash); err != nil {
			return nil, err
		}
		data = append(data, hash...)
	}
	return data, rows.Err()
}

// Entry is an event with its place.
type Entry struct {
	Index int64
	Hash  tlog.Hash // of the leaf, as the ledger has it
	Event audit.Event
	// Gone says that the event is not in the database: Event has its time and id alone.
	Gone bool
}

// entryColumns come before those of the event in queries that scanEntry reads.
const entryColumns = `l.leaf_index, l.hash, l.occurred_at, l.event_id, `

var (
	selectEntries = `
select ` + entryColumns + audit.Columns("e") + `
from rgw.ledger_leaves l left join rgw.audit_events e on e.occurred_at = l.occurred_at and e.event_id = l.event_id
where l.leaf_index >= $1 and l.leaf_index < $2
order by l.leaf_index`
)

// scanEntry reads one row.
func scanEntry(rows interface{ Scan(dest ...any) error }, scanner *audit.RawScanner, out *Entry) error {
	var hash []byte
	var at time.Time
	var id uuid.UUID
	if err := scanner.Scan(rows, &out.Event, &out.Index, &hash, &at, &id); err != nil {
		return err
	}
	if len(hash) != tlog.HashSize {
		return fmt.Errorf("leaf %d has a hash of %d bytes", out.Index, len(hash))
	}
	copy(out.Hash[:], hash)
	if out.Gone = out.Event.ID == (uuid.UUID{}); out.Gone {
		out.Event.OccurredAt, out.Event.ID = at.UTC(), id
	}
	return nil
}

// chunk is how many leaves are read at once.
const chunk = 4096

// Entries calls f with each leaf from one index on and before another, in order. The entry is good until f returns.
// Leaves that are missing are left out: who cares looks at the indexes.
func Entries(ctx context.Context, db sqlx.QueryerContext, from, to int64, f func(*Entry) error) error {
	var scanner audit.RawScanner
	var entry Entry
	for ; from < to; from += chunk {
		if err := entries(ctx, db, from, min(from+chunk, to), &scanner, &entry, f); err != nil {
			return err
		}
	}
	return nil
}

func entries(ctx context.Context, db sqlx.QueryerContext, from, to int64, scanner *audit.RawScanner, entry *Entry, f func(*Entry) error) (err error) {
	rows, err := db.QueryxContext(ctx, selectEntries, from, to)
	if err != nil {
		return fmt.Errorf("read leaves from %d: %w", from, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scanEntry(rows, scanner, entry); err != nil {
			return err
		}
		if err := f(entry); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read leaves from %d: %w", from, err)
	}
	return nil
}

// discard ends the session of a connection, and with it its locks and settings: nothing of it goes back to the pool.
func discard(conn *sqlx.Conn) {
	// A connection that broke, or whose context ended, in the middle of a transaction is put away by package sql on a goroutine
	// of its own. Raw looks first whether that was done, and then reads what it clears (database/sql, Conn.grabConn and
	// Conn.close): in between, it dereferences nil. Then the session has been ended with an error, and never goes back to the
	// pool, as is wanted; what Raw holds is the Conn's own lock, which nobody asks for any more.
	defer func() {
		what := recover()
		if what == nil {
			return
		}
		if _, dereference := what.(runtime.Error); !dereference {
			panic(what)
		}
	}()
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}
