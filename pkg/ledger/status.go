package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
)

const selectPlaces = `
select l.event_id, l.leaf_index from unnest($1::timestamptz[], $2::uuid[]) as k(at, id)
join rgw.ledger_leaves l on l.occurred_at = k.at and l.event_id = k.id`

// Places returns the leaf indexes of events, of those that have one.
func Places(ctx context.Context, db sqlx.QueryerContext, events []*audit.Event) (map[uuid.UUID]int64, error) {
	if len(events) == 0 {
		return nil, nil
	}
	var at, ids []string
	for _, e := range events {
		at, ids = append(at, timestamp(e.OccurredAt)), append(ids, e.ID.String())
	}
	var rows []struct {
		ID    uuid.UUID `db:"event_id"`
		Index int64     `db:"leaf_index"`
	}
	if err := sqlx.SelectContext(ctx, db, &rows, selectPlaces, pq.Array(at), pq.Array(ids)); err != nil {
		return nil, fmt.Errorf("find the places of events: %w", err)
	}
	places := make(map[uuid.UUID]int64, len(rows))
	for _, row := range rows {
		places[row.ID] = row.Index
	}
	return places, nil
}

// Verification is a verification of the gateway's own.
type Verification struct {
	At     time.Time `db:"verified_at"`
	What   string    `db:"what"`
	Size   int64     `db:"size"`
	Sound  bool      `db:"sound"`
	Report []byte    `db:"report"`
}

const (
	selectVerifications = `
select verified_at, what, size, sound, report from rgw.ledger_verifications order by verified_at desc limit 100`
	selectLastVerifications = `
select distinct on (what) verified_at, what, size, sound, report from rgw.ledger_verifications order by what, verified_at desc`
	selectAnchor = `
select size, anchored_at from rgw.ledger_anchors where chain = $1 and (whole or not $2) order by size desc limit 1`
	selectAnchoredSince = `
select anchored_at from rgw.ledger_anchors where chain = $1 and whole and size > $2 order by size limit 1`
	selectCursor = `select leaf_index, moved_at, trouble from rgw.ledger_cursors where name = $1`
)

// Verifications lists the verifications of the gateway's own, newest first.
func Verifications(ctx context.Context, db sqlx.QueryerContext) (list []Verification, err error) {
	if err := sqlx.SelectContext(ctx, db, &list, selectVerifications); err != nil {
		return nil, fmt.Errorf("list verifications: %w", err)
	}
	return list, nil
}

// LastVerifications are the newest verification of each sort.
func LastVerifications(ctx context.Context, db sqlx.QueryerContext) (list []Verification, err error) {
	if err := sqlx.SelectContext(ctx, db, &list, selectLastVerifications); err != nil {
		return nil, fmt.Errorf("read the last verifications: %w", err)
	}
	return list, nil
}

// Anchored is how far a chain has been copied.
type Anchored struct {
	Size int64     `db:"size"`
	At   time.Time `db:"anchored_at"`
}

// LastAnchor returns what was copied last to a chain: with its tiles and events, or the checkpoint alone too. Nil when
// nothing was.
func LastAnchor(ctx context.Context, db sqlx.QueryerContext, chain string, whole bool) (*Anchored, error) {
	var a Anchored
	switch err := sqlx.GetContext(ctx, db, &a, selectAnchor, chain, whole); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read what was anchored: %w", err)
	}
	return &a, nil
}

// AnchoredAt tells when a leaf was found in the bucket; zero when it was not yet.
func AnchoredAt(ctx context.Context, db sqlx.QueryerContext, chain string, index int64) (at time.Time, err error) {
	switch err := sqlx.GetContext(ctx, db, &at, selectAnchoredSince, chain, index); {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read what was anchored: %w", err)
	}
	return at, nil
}

// Cursor is how far somebody has come who follows the ledger.
type Cursor struct {
	Next    int64     `db:"leaf_index"`
	MovedAt time.Time `db:"moved_at"`
	Trouble string    `db:"trouble"`
}

// CursorOf reads a cursor; nil when there is none of that name.
func CursorOf(ctx context.Context, db sqlx.QueryerContext, name string) (*Cursor, error) {
	var c Cursor
	switch err := sqlx.GetContext(ctx, db, &c, selectCursor, name); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the cursor %s: %w", name, err)
	}
	return &c, nil
}

// DroppedMonths lists the months that retention dropped, as 2026-11.
func DroppedMonths(ctx context.Context, db sqlx.QueryerContext) (months []string, err error) {
	if err := sqlx.SelectContext(ctx, db, &months, selectDrops); err != nil {
		return nil, fmt.Errorf("read what retention dropped: %w", err)
	}
	return months, nil
}

// Exporter writes out what a search finds, in the order of the ledger.
type Exporter struct {
	Checkpoint *Checkpoint
	Keys       Keyring

	db     *sqlx.DB
	hashes tlog.HashReader
}

// NewExporter prepares an export up to the newest checkpoint; nil when there is none yet.
func NewExporter(ctx context.Context, db *sqlx.DB) (*Exporter, error) {
	keys, err := PublicKeys(ctx, db)
	if err != nil {
		return nil, err
	}
	c, _, err := Head(ctx, db, keys)
	if err != nil || c == nil {
		return nil, err
	}
	return &Exporter{
		Checkpoint: c, Keys: keys, db: db,
		hashes: hashReader(c.Tree, &cachedTiles{source: dbTiles{ctx, db}, kept: make(map[tileID][]byte)}),
	}, nil
}

// Path is the inclusion path of a leaf under the checkpoint.
func (x *Exporter) Path(index int64) ([]tlog.Hash, error) {
	proof, err := tlog.ProveRecord(x.Checkpoint.N, index, x.hashes)
	if err != nil {
		return nil, fmt.Errorf("prove leaf %d: %w", index, err)
	}
	return proof, nil
}

// Each calls f with every event that the search finds, in the order of the ledger. The entry is good until f returns;
// its event's Detail is not read.
func (x *Exporter) Each(ctx context.Context, q *audit.Query, f func(*Entry) error) (err error) {
	if err := q.Resolve(ctx, x.db); err != nil {
		return err
	}
	conditions, args := q.Conditions(x.Checkpoint.N)
	rows, err := x.db.QueryxContext(ctx, `select `+entryColumns+audit.Columns("e")+`
from rgw.audit_events e join rgw.ledger_leaves l on l.occurred_at = e.occurred_at and l.event_id = e.event_id
where l.leaf_index < $1 and `+conditions+`
order by l.leaf_index`, args...)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var scanner audit.RawScanner
	var entry Entry
	for rows.Next() {
		if err := scanEntry(rows, &scanner, &entry); err != nil {
			return err
		}
		if err := f(&entry); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// cachedTiles remembers the tiles that it gave last. It is for one goroutine.
type cachedTiles struct {
	source TileSource
	kept   map[tileID][]byte
}

// mostTiles is how many tiles are remembered: 2 MB.
const mostTiles = 256

// Tile implements TileSource.
func (c *cachedTiles) Tile(level int, index int64, width int) ([]byte, error) {
	t := tileID{level: level, index: index, width: width}
	if data, ok := c.kept[t]; ok {
		return data, nil
	}
	data, err := c.source.Tile(level, index, width)
	if err != nil {
		return nil, err
	}
	if len(c.kept) >= mostTiles {
		clear(c.kept)
	}
	c.kept[t] = data
	return data, nil
}

// The names of the cursors of the gateway's own followers.
const (
	AnchorCursor = "anchor"
	PushCursor   = "push"
)
