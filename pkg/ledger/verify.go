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

// VerifyOptions say what a verification goes by.
type VerifyOptions struct {
	// Keys are the public keys that are trusted. Without any, those that the database names are, which shows only
	// that it agrees with itself.
	Keys Keyring
	// MACKeys, when there are any, authenticate each event too, which tells which one was edited where hashes were too.
	MACKeys []audit.Key
	Now     func() time.Time
	// Progress is told now and then how many leaves were looked at; it may be nil.
	Progress func(leaves int64)
}

func (o *VerifyOptions) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

const (
	selectCheckpoints = `
select size, previous_size, note from rgw.ledger_checkpoints where size > $1 and size <= $2 order by size limit 2000`
	selectDrops       = `select to_char(month, 'YYYY-MM') from rgw.ledger_drops`
	selectBeyond      = `select leaf_index, event_id, count(*) over () as many from rgw.ledger_leaves where leaf_index >= $1 order by leaf_index limit 1`
	selectHashesRange = `select hash_index, hash from rgw.ledger_hashes where level = $1 and hash_index = any($2::bigint[])`
	selectUnplaced    = `
select e.event_id, count(*) over () as many, e.occurred_at
from rgw.audit_events e
where e.occurred_at < $1 and (e.epoch <> $2 or e.xid < $3::text::xid8) = $4
  and not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)
order by e.occurred_at, e.event_id limit 1`
)

// VerifyDatabase recomputes the ledger from the events that the database holds, up to its newest checkpoint, and
// looks for events beside it. An error says that it could not be done; what does not fit is in the report.
func VerifyDatabase(ctx context.Context, db *sqlx.DB, opts VerifyOptions) (*Report, error) {
	v := &dbVerifier{Report: Report{Where: "database", Keys: opts.Keys, Findings: []Finding{}}, opts: opts, db: db, edge: edge{roots: make([]tlog.Hash, 0, 64)}}
	if len(v.Keys) == 0 {
		keys, err := PublicKeys(ctx, db)
		if err != nil {
			return nil, err
		}
		v.Keys = keys
		v.note("the public keys were taken from the database itself: give --public-key, kept elsewhere, to verify independently of it")
	}
	var dropped []string
	if err := db.SelectContext(ctx, &dropped, selectDrops); err != nil {
		return nil, fmt.Errorf("read what retention dropped: %w", err)
	}
	v.dropped = make(map[string]bool)
	for _, month := range dropped {
		v.dropped[month] = true
	}
	h, err := readHead(ctx, db)
	if err != nil {
		return nil, err
	}
	if h != nil {
		v.Size = h.Size
	} else {
		h = &head{}
	}
	if err := v.leaves(ctx); err != nil {
		return nil, err
	}
	v.Root = v.edge.root().String()
	if err := v.beside(ctx, h); err != nil {
		return nil, err
	}
	return &v.Report, nil
}

// progressEvery is how many leaves are verified between two calls of Progress, roughly.
const progressEvery = 100_000

// dbVerifier goes through the ledger once.
type dbVerifier struct {
	Report
	opts    VerifyOptions
	db      *sqlx.DB
	dropped map[string]bool // months

	edge        edge  // by the hashes that are stored
	computed    *edge // by those of the events, since the first that differs; nil while none does
	lost        bool  // the tree cannot be followed any further
	checkpoints []checkpointRow
	last        int64 // size of the last checkpoint that fitted
	started     int64 // size of the last checkpoint that was read

	// Since the last checkpoint that fitted.
	suspects  []suspect
	wrongMAC  *suspect
	backward  *suspect
	seqs      map[uuid.UUID]int64
	accused   []suspect // of all checkpoints that fitted
	canonical []byte
	tiles     []tileHash
}

type checkpointRow struct {
	Size     int64  `db:"size"`
	Previous int64  `db:"previous_size"`
	Note     string `db:"note"`
}

// suspect is a leaf whose event is not what the stored hash says.
type suspect struct {
	leaf             int64
	event            uuid.UUID
	stored, computed tlog.Hash
}

// leaves goes through the leaves below the newest checkpoint.
func (v *dbVerifier) leaves(ctx context.Context) error {
	v.seqs = make(map[uuid.UUID]int64)
	batches := make(chan []Entry, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		defer close(batches)
		failed <- readChunks(ctx, v.db, v.Size, batches)
	}()
	defer func() {
		cancel()
		for range batches { // until the reader has ended
		}
	}()
	next := int64(0)
	told := int64(0)
	for batch := range batches {
		for i := range batch {
			e := &batch[i]
			if e.Index != next && !v.lost {
				v.add(KindDeleted, next, uuid.UUID{}, "", "leaves %d to %d are missing: somebody deleted them from the ledger", next, e.Index-1)
				v.lost = true
			}
			next = e.Index + 1
			if err := v.leaf(ctx, e); err != nil {
				return err
			}
		}
		if err := v.compareTiles(ctx); err != nil {
			return err
		}
		if v.opts.Progress != nil && next-told >= progressEvery {
			told = next
			v.opts.Progress(next)
		}
	}
	if err := <-failed; err != nil {
		return err
	}
	if next < v.Size {
		v.add(KindDeleted, next, uuid.UUID{}, "", "leaves %d to %d are missing: somebody deleted them from the ledger", next, v.Size-1)
		v.lost = true
		// Their checkpoints are still there to be looked at.
		for {
			row, err := v.checkpoint(ctx)
			if err != nil {
				return err
			}
			if row == nil {
				break
			}
			v.signature(row)
		}
	}
	v.accuse()
	v.sentence()
	if v.started < v.Size {
		v.add(KindCheckpoint, v.started, uuid.UUID{}, "", "the newest checkpoint, of size %d, is missing", v.Size)
	}
	return nil
}

// readChunks reads all leaves below a size.
func readChunks(ctx context.Context, db *sqlx.DB, size int64, out chan<- []Entry) error {
	var batch []Entry
	send := func() error {
		select {
		case out <- batch:
			batch = make([]Entry, 0, chunk)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	batch = make([]Entry, 0, chunk)
	err := Entries(ctx, db, 0, size, func(e *Entry) error {
		batch = append(batch, *e)
		if len(batch) == chunk {
			return send()
		}
		return nil
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	return send()
}

// leaf looks at one leaf, and at the checkpoint that ends with it, if one does.
func (v *dbVerifier) leaf(ctx context.Context, e *Entry) error {
	computed := e.Hash
	if e.Gone {
		if month := e.Event.OccurredAt.UTC().Format("2006-01"); v.dropped[month] {
			v.Dropped++
		} else {
			v.add(KindDeleted, e.Index, e.Event.ID, "", "event %s (leaf %d) is missing: somebody deleted it from the database", e.Event.ID, e.Index)
		}
	} else {
		v.canonical = e.Event.AppendCanonical(v.canonical[:0])
		computed = tlog.RecordHash(v.canonical)
		v.Events++
		v.witness(e)
	}
	if v.lost {
		if computed != e.Hash {
			v.add(KindEdited, e.Index, e.Event.ID, "", "event %s (leaf %d) is not what was put into the ledger: somebody edited it", e.Event.ID, e.Index)
		}
		return v.signaturesUpTo(ctx, e.Index+1)
	}
	if computed != e.Hash {
		s := suspect{leaf: e.Index, event: e.Event.ID, stored: e.Hash, computed: computed}
		v.suspects = append(v.suspects, s)
		if v.computed == nil {
			fork := v.edge.clone()
			v.computed = &fork
		}
	}
	if v.computed != nil {
		v.computed.add(computed, nil)
	}
	v.tiles = v.edge.add(e.Hash, v.tiles)
	row, err := v.peek(ctx)
	if err != nil {
		return err
	}
	for row != nil && row.Size <= v.edge.size {
		if row.Size < v.edge.size {
			return fmt.Errorf("checkpoint of size %d was passed", row.Size) // a defect of this function
		}
		v.take(ctx)
		v.against(row)
		if row, err = v.peek(ctx); err != nil {
			return err
		}
	}
	return nil
}

// witness notes what tells edited and reordered events from one another, should the tree not fit.
func (v *dbVerifier) witness(e *Entry) {
	if e.Event.WriterID != (uuid.UUID{}) {
		if was := v.seqs[e.Event.WriterID]; e.Event.WriterSeq < was && v.backward == nil {
			v.backward = &suspect{leaf: e.Index, event: e.Event.ID}
		}
		v.seqs[e.Event.WriterID] = e.Event.WriterSeq
		if e.Event.Closes() {
			delete(v.seqs, e.Event.WriterID)
		}
	}
	if v.wrongMAC == nil && len(v.opts.MACKeys) > 0 && !v.authentic(&e.Event) {
		v.wrongMAC = &suspect{leaf: e.Index, event: e.Event.ID}
	}
}

// authentic tells whether an event's MAC is right, or made with a key that is not at hand.
func (v *dbVerifier) authentic(e *audit.Event) bool {
	if e.WriterID == (uuid.UUID{}) {
		return true // the database's own, which an alert was raised for
	}
	for _, key := range v.opts.MACKeys {
		if key.ID() == e.MACKeyID {
			return key.VerifyCanonical(e, v.canonical)
		}
	}
	return true
}

// peek returns the next checkpoint, nil after the last.
func (v *dbVerifier) peek(ctx context.Context) (*checkpointRow, error) {
	if len(v.checkpoints) == 0 {
		if v.started >= v.Size {
			return nil, nil
		}
		if err := v.db.SelectContext(ctx, &v.checkpoints, selectCheckpoints, v.started, v.Size); err != nil {
			return nil, fmt.Errorf("read checkpoints: %w", err)
		}
		if len(v.checkpoints) == 0 {
			v.started = v.Size
			return nil, nil
		}
	}
	return &v.checkpoints[0], nil
}

// take passes the checkpoint that peek returned.
func (v *dbVerifier) take(context.Context) {
	v.started = v.checkpoints[0].Size
	v.checkpoints = v.checkpoints[1:]
}

// checkpoint is peek and take in one.
func (v *dbVerifier) checkpoint(ctx context.Context) (*checkpointRow, error) {
	row, err := v.peek(ctx)
	if err == nil && row != nil {
		v.take(ctx)
	}
	return row, err
}

func (v *dbVerifier) signaturesUpTo(ctx context.Context, size int64) error {
	for {
		row, err := v.peek(ctx)
		if err != nil || row == nil || row.Size > size {
			return err
		}
		v.take(ctx)
		v.signature(row)
	}
}

// signature checks a checkpoint for itself; nil when it cannot be gone by.
func (v *dbVerifier) signature(row *checkpointRow) *Checkpoint {
	if row.Previous != v.last && !v.lost {
		v.add(KindCheckpoint, v.last, uuid.UUID{}, "", "a checkpoint between the sizes %d and %d is missing: somebody deleted it", v.last, row.Size)
	}
	v.last = row.Size
	c, err := ParseCheckpoint(row.Note, v.Keys)
	if err != nil {
		v.add(kindOf(err), row.Previous, uuid.UUID{}, "", "the checkpoint of size %d: %v", row.Size, err)
		return nil
	}
	if c.N != row.Size {
		v.add(KindCheckpoint, row.Previous, uuid.UUID{}, "", "the checkpoint that is stored for size %d is of size %d", row.Size, c.N)
		return nil
	}
	v.Origin = c.Origin
	v.Checkpoints++
	return c
}

// kindOf is the kind of finding that the error of a checkpoint is.
func kindOf(err error) string {
	switch {
	case errors.Is(err, errCheckpointKey):
		return KindKey
	case errors.Is(err, errCheckpointSig):
		return KindSignature
	default:
		return KindCheckpoint
	}
}

// against holds the tree so far against the checkpoint that is due.
func (v *dbVerifier) against(row *checkpointRow) {
	before := v.last
	c := v.signature(row)
	if c == nil {
		return
	}
	root := v.edge.root()
	switch {
	case c.Hash == root: // the stored hashes are right
		v.accuse()
	case v.computed != nil && c.Hash == v.computed.root(): // the events are right
		s := v.suspects[0]
		v.add(KindTree, s.leaf, s.event, "", "the stored hash of leaf %d is not that of its event %s, which is as it was signed: somebody changed the hash", s.leaf, s.event)
		v.edge = *v.computed
	default:
		v.blame(before, row.Size)
		v.lost = true
	}
	v.suspects, v.computed = nil, nil
	v.wrongMAC, v.backward = nil, nil
}

// mostAccused bounds what is remembered to tell exchanged events from edited ones.
const mostAccused = 100_000

// accuse notes events that are not what the tree, which is right, says.
func (v *dbVerifier) accuse() {
	for _, s := range v.suspects {
		if len(v.accused) < mostAccused {
			v.accused = append(v.accused, s)
			continue
		}
		v.add(KindEdited, s.leaf, s.event, "", "event %s (leaf %d) is not what was put into the ledger: somebody edited it", s.event, s.leaf)
	}
}

// sentence tells which of those were exchanged, and which edited.
func (v *dbVerifier) sentence() {
	belongs := make(map[tlog.Hash]int64, len(v.accused))
	for _, s := range v.accused {
		belongs[s.stored] = s.leaf
	}
	for _, s := range v.accused {
		if other, swapped := belongs[s.computed]; swapped {
			v.add(KindReordered, s.leaf, s.event, "", "event %s stands at leaf %d, and belongs at leaf %d: somebody exchanged them", s.event, s.leaf, other)
			continue
		}
		v.add(KindEdited, s.leaf, s.event, "", "event %s (leaf %d) is not what was put into the ledger: somebody edited it", s.event, s.leaf)
	}
}

// blame finds the likeliest reason why the tree is not the one that was signed.
func (v *dbVerifier) blame(from, to int64) {
	switch {
	case v.wrongMAC != nil:
		v.add(KindEdited, v.wrongMAC.leaf, v.wrongMAC.event, "", "event %s (leaf %d) and its hash are not what was signed: somebody edited both", v.wrongMAC.event, v.wrongMAC.leaf)
	case v.backward != nil:
		v.add(KindReordered, v.backward.leaf, v.backward.event, "", "the events from leaf %d to %d are in another order than was signed: event %s (leaf %d) comes before an earlier one of its writer",
			from, to-1, v.backward.event, v.backward.leaf)
	case len(v.suspects) > 0:
		s := v.suspects[0]
		v.add(KindEdited, s.leaf, s.event, "", "event %s (leaf %d) is not what was signed: somebody edited it, and hashes too", s.event, s.leaf)
	default:
		v.add(KindForked, from, uuid.UUID{}, "", "the tree is another than the one that was signed, from a leaf between %d and %d on; compare with a bucket to find which", from, to-1)
	}
}

// compareTiles holds the stored hashes of higher levels against the tree's.
func (v *dbVerifier) compareTiles(ctx context.Context) error {
	for level := 1; level <= topLevel && !v.lost; level++ {
		want := make(map[int64]tlog.Hash)
		var indexes []int64
		for _, tile := range v.tiles {
			if tile.level == level {
				want[tile.index] = tile.hash
				indexes = append(indexes, tile.index)
			}
		}
		if len(indexes) == 0 {
			break
		}
		var rows []struct {
			Index int64  `db:"hash_index"`
			Hash  []byte `db:"hash"`
		}
		if err := v.db.SelectContext(ctx, &rows, selectHashesRange, level, pq.Array(indexes)); err != nil {
			return fmt.Errorf("read hashes of tiles: %w", err)
		}
		for _, row := range rows {
			if hash := want[row.Index]; string(hash[:]) != string(row.Hash) {
				v.add(KindTree, row.Index<<(level*tileHeight), uuid.UUID{}, "", "hash %d of level %d is not that of its leaves: somebody changed it", row.Index, level)
			}
			delete(want, row.Index)
		}
		for index := range want {
			v.add(KindTree, index<<(level*tileHeight), uuid.UUID{}, "", "hash %d of level %d is missing: somebody deleted it", index, level)
		}
	}
	v.tiles = v.tiles[:0]
	return nil
}

// beside looks for what stands beside the ledger: leaves that nothing signs, and events without a leaf.
func (v *dbVerifier) beside(ctx context.Context, h *head) error {
	var beyond struct {
		Leaf  int64     `db:"leaf_index"`
		Event uuid.UUID `db:"event_id"`
		Many  int64     `db:"many"`
	}
	// A batch that was committed since is no finding: its checkpoint came with it.
	newest, err := readHead(ctx, v.db)
	if err != nil {
		return err
	}
	size := v.Size
	if newest != nil {
		size = newest.Size
	}
	switch err := v.db.GetContext(ctx, &beyond, selectBeyond, size); {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return fmt.Errorf("look for leaves beyond the newest checkpoint: %w", err)
	default:
		again, err := readHead(ctx, v.db)
		if err != nil {
			return err
		}
		if again == nil || again.Size <= beyond.Leaf {
			v.add(KindAdded, beyond.Leaf, beyond.Event, "", "leaf %d (event %s) is beyond the newest checkpoint, of size %d: no sequencer put it there (%d such leaves)", beyond.Leaf, beyond.Event, size, beyond.Many)
		}
	}
	for _, passed := range []bool{true, false} {
		var unplaced struct {
			Event uuid.UUID `db:"event_id"`
			Many  int64     `db:"many"`
			At    time.Time `db:"occurred_at"`
		}
		at := cursor{epoch: h.CursorEpoch, xid: h.CursorXID, whole: h.CursorWhole}
		switch err := v.db.GetContext(ctx, &unplaced, selectUnplaced, v.opts.now().Add(-lateAge), at.epoch, at.bound(), passed); {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return fmt.Errorf("look for events without a place: %w", err)
		case passed && h.Size > 0:
			v.add(KindAdded, -1, unplaced.Event, "", "event %s of %s has no place in the ledger, though all of its time have one: somebody added it by hand, or deleted its leaf (%d such events)",
				unplaced.Event, unplaced.At.UTC().Format(time.RFC3339), unplaced.Many)
		default:
			v.note("%d events, the first of %s, wait for their place in the ledger: is admin running?", unplaced.Many, unplaced.At.UTC().Format(time.RFC3339))
		}
	}
	return nil
}
