package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/audit"
)

// writerState is how far one writer is known.
type writerState struct {
	ID       uuid.UUID `db:"writer_id"`
	LastSeq  int64     `db:"last_seq"`
	LastAt   time.Time `db:"last_at"`
	Resting  bool      `db:"resting"`
	Reported int64     `db:"reported_seq"`
}

// gap is a run of numbers of a writer that have not been seen.
type gap struct {
	Writer   uuid.UUID `db:"writer_id"`
	First    int64     `db:"first_seq"`
	Last     int64     `db:"last_seq"`
	Noticed  time.Time `db:"noticed_at"`
	Reported bool      `db:"reported"`
}

// writers follows the numbers of all writers that have not ended. A batch works on a copy of what it changes, which
// counts once the batch is committed.
type writers struct {
	known map[uuid.UUID]writerState
	gaps  []gap

	// What the batch at hand changes.
	changed map[uuid.UUID]writerState
	closed  map[uuid.UUID]bool
	newGaps []gap // all gaps as they will be; nil when nothing changes
	touched bool
}

const (
	selectWriters = `select writer_id, last_seq, last_at, resting, reported_seq from rgw.ledger_writers`
	selectGaps    = `select writer_id, first_seq, last_seq, noticed_at, reported from rgw.ledger_gaps`
	upsertWriters = `
insert into rgw.ledger_writers (writer_id, last_seq, last_at, resting, reported_seq)
select * from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::boolean[], $5::bigint[])
on conflict (writer_id) do update set last_seq = excluded.last_seq, last_at = excluded.last_at,
  resting = excluded.resting, reported_seq = excluded.reported_seq`
	deleteWriters = `delete from rgw.ledger_writers where writer_id = any($1::uuid[])`
	deleteGaps    = `delete from rgw.ledger_gaps`
	insertGaps    = `
insert into rgw.ledger_gaps (writer_id, first_seq, last_seq, noticed_at, reported)
select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::boolean[])`
)

func loadWriters(ctx context.Context, db sqlx.QueryerContext) (*writers, error) {
	w := &writers{known: make(map[uuid.UUID]writerState)}
	var list []writerState
	if err := sqlx.SelectContext(ctx, db, &list, selectWriters); err != nil {
		return nil, fmt.Errorf("read how far writers are known: %w", err)
	}
	for _, state := range list {
		w.known[state.ID] = state
	}
	if err := sqlx.SelectContext(ctx, db, &w.gaps, selectGaps); err != nil {
		return nil, fmt.Errorf("read the gaps of writers: %w", err)
	}
	w.begin()
	return w, nil
}

// begin starts a batch, or forgets one that failed.
func (w *writers) begin() {
	w.changed, w.closed = make(map[uuid.UUID]writerState), make(map[uuid.UUID]bool)
	w.newGaps, w.touched = nil, false
}

// accept keeps what a batch changed.
func (w *writers) accept() {
	for id, state := range w.changed {
		w.known[id] = state
	}
	for id := range w.closed {
		delete(w.known, id)
	}
	if w.touched {
		w.gaps = w.newGaps
	}
	w.begin()
}

func (w *writers) state(id uuid.UUID) (writerState, bool) {
	if w.closed[id] {
		return writerState{}, false
	}
	if state, ok := w.changed[id]; ok {
		return state, true
	}
	state, ok := w.known[id]
	return state, ok
}

// gapsNow are the gaps as the batch at hand has them, to write to.
func (w *writers) gapsNow() []gap {
	if !w.touched {
		w.newGaps, w.touched = append([]gap(nil), w.gaps...), true
	}
	return w.newGaps
}

// see takes note of an event that got a leaf.
func (w *writers) see(e *audit.Event, now time.Time, leaf int64, found *alerts) {
	if e.WriterID == (uuid.UUID{}) {
		return
	}
	state, known := w.state(e.WriterID)
	if !known {
		state = writerState{ID: e.WriterID}
	}
	switch {
	case e.WriterSeq > state.LastSeq+1:
		w.newGaps = append(w.gapsNow(), gap{Writer: e.WriterID, First: state.LastSeq + 1, Last: e.WriterSeq - 1, Noticed: now})
	case e.WriterSeq <= state.LastSeq:
		if !w.fill(e.WriterID, e.WriterSeq) {
			found.note(AlertRepeated, e, leaf, "event %s has the number %d of its writer %s, which another event has: one of them was added by hand",
				e.ID, e.WriterSeq, e.WriterID)
		}
		return // nothing newer is known of the writer by it
	}
	state.LastSeq, state.LastAt, state.Resting = e.WriterSeq, e.OccurredAt, e.Rests()
	if state.Reported != 0 && state.Reported < state.LastSeq {
		state.Reported = 0
	}
	if e.Closes() {
		w.closed[e.WriterID] = true
		delete(w.changed, e.WriterID)
		return
	}
	delete(w.closed, e.WriterID)
	w.changed[e.WriterID] = state
}

// fill takes a number out of the gaps, and tells whether it was in one.
func (w *writers) fill(writer uuid.UUID, seq int64) bool {
	current := w.gaps
	if w.touched {
		current = w.newGaps
	}
	if !slices.ContainsFunc(current, func(g gap) bool { return g.Writer == writer && g.First <= seq && seq <= g.Last }) {
		return false
	}
	var out []gap
	hit := false
	for _, g := range w.gapsNow() {
		if hit || g.Writer != writer || seq < g.First || seq > g.Last {
			out = append(out, g)
			continue
		}
		hit = true
		if before := g; g.First < seq {
			before.Last = seq - 1
			out = append(out, before)
		}
		if after := g; seq < g.Last {
			after.First = seq + 1
			out = append(out, after)
		}
	}
	w.newGaps = out
	return hit
}

// overdue turns what has been missing for long into alerts. Watching is since when the sequencer has been keeping up:
// silence that it may not have heard is none.
func (w *writers) overdue(now, watching time.Time, found *alerts) {
	for i, g := range w.gaps {
		if g.Reported || now.Sub(g.Noticed) < gapPatience || now.Sub(watching) < gapPatience {
			continue
		}
		gaps := w.gapsNow()
		gaps[i].Reported = true
		found.note(AlertGap, nil, -1, "of the events of writer %s, %d to %d are missing: they were deleted before they got a place in the ledger, "+
			"or the database lost what it had committed; keep a copy of the database and find out which", g.Writer, g.First, g.Last)
	}
	for id, state := range w.known {
		if state.Resting || state.Reported == state.LastSeq {
			continue
		}
		since := state.LastAt
		if watching.After(since) {
			since = watching
		}
		if now.Sub(since) < silencePatience {
			continue
		}
		state.Reported = state.LastSeq
		w.changed[id] = state
		found.note(AlertSilent, nil, -1, "writer %s ended without saying so: events after its number %d may be missing; "+
			"a process that was killed leaves this too", id, state.LastSeq)
	}
}

const (
	gapPatience     = time.Minute
	silencePatience = 30 * time.Second
)

// save writes what the batch at hand changes.
func (w *writers) save(ctx context.Context, tx *sqlx.Tx) error {
	if len(w.changed) > 0 {
		var ids []string
		var seqs, reported []int64
		var at []string
		var resting []bool
		for id, state := range w.changed {
			ids, seqs, reported = append(ids, id.String()), append(seqs, state.LastSeq), append(reported, state.Reported)
			at, resting = append(at, timestamp(state.LastAt)), append(resting, state.Resting)
		}
		if _, err := tx.ExecContext(ctx, upsertWriters, pq.Array(ids), pq.Array(seqs), pq.Array(at), pq.Array(resting), pq.Array(reported)); err != nil {
			return fmt.Errorf("note how far writers are known: %w", err)
		}
	}
	var ended []string
	for id := range w.closed {
		if _, had := w.known[id]; had {
			ended = append(ended, id.String())
		}
	}
	if len(ended) > 0 {
		if _, err := tx.ExecContext(ctx, deleteWriters, pq.Array(ended)); err != nil {
			return fmt.Errorf("forget writers that ended: %w", err)
		}
	}
	if !w.touched {
		return nil
	}
	if _, err := tx.ExecContext(ctx, deleteGaps); err != nil {
		return fmt.Errorf("note gaps: %w", err)
	}
	var ids, noticed []string
	var first, last []int64
	var reported []bool
	for _, g := range w.newGaps {
		ids, first, last = append(ids, g.Writer.String()), append(first, g.First), append(last, g.Last)
		noticed, reported = append(noticed, timestamp(g.Noticed)), append(reported, g.Reported)
	}
	if _, err := tx.ExecContext(ctx, insertGaps, pq.Array(ids), pq.Array(first), pq.Array(last), pq.Array(noticed), pq.Array(reported)); err != nil {
		return fmt.Errorf("note gaps: %w", err)
	}
	return nil
}

// timestamp is how times are given to the database in arrays.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999Z07:00") }
