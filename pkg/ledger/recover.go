package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres"
)

// RecoverConfig says what a log is rebuilt from. Fields without a remark must be given.
type RecoverConfig struct {
	DB       *sqlx.DB // as the owner of the schema, which is migrated
	Source   Source
	Keys     Keyring // trusted
	Key      audit.Key
	Signing  KeySource                // where the signing key is from now on
	By       *audit.Event             // who does it: the event that is recorded at the end
	Progress func(done, leaves int64) // may be nil
	Now      func() time.Time
}

// Recovered is what a recovery did.
type Recovered struct {
	Report *Report // of the source, before anything was done
	From   int64   // leaves that the database had
	Size   int64   // leaves that it has now
	Events int64   // that were put back
	Lost   int64   // leaves that had been signed, and whose events are not in the source
	NewKey string  // public key that checkpoints are signed with from now on; empty when it is the one before
}

// LostFrom is the first leaf that was signed and is lost, when any is.
func (r *Recovered) LostFrom() int64 { return r.Size }

// LostTo is the last leaf that was signed and is lost; it is before LostFrom when none is.
func (r *Recovered) LostTo() int64 { return r.Size + r.Lost - 1 }

// Recover puts back into the database what the source holds beyond it: leaves, hashes, events and the checkpoint. The
// source has to verify first, and the database has to hold a beginning of the same log, or nothing of it. What was signed
// beyond what the source holds is lost, and is said so in the log. No sequencer may run meanwhile; the lock sees to it.
func Recover(ctx context.Context, cfg RecoverConfig) (*Recovered, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	report, err := VerifySource(ctx, cfg.Source, SourceOptions{VerifyOptions: VerifyOptions{Keys: cfg.Keys}})
	if err != nil {
		return nil, err
	}
	out := &Recovered{Report: report}
	if !report.Sound() {
		return out, fmt.Errorf("the %s does not verify, so that nothing is rebuilt from it: %s", report.Where, report.First().Message)
	}
	text, err := cfg.Source.Get(ctx, "checkpoint", "")
	if err != nil {
		return out, fmt.Errorf("read the checkpoint: %w", err)
	}
	c, err := ParseCheckpoint(string(text), cfg.Keys)
	if err != nil {
		return out, fmt.Errorf("the checkpoint: %w", err)
	}
	newest, err := NewestCheckpoint(ctx, cfg.Source, cfg.Keys)
	if err != nil {
		return out, err
	}
	err = postgres.InTx(ctx, cfg.DB, func(tx *sqlx.Tx) error { return cfg.rebuild(ctx, tx, c, newest, out) })
	return out, err
}

const (
	lockSequencer = `select pg_try_advisory_xact_lock(7220417051)`
	ownTables     = `lock table rgw.ledger_leaves in share row exclusive mode`
	maxXID        = `select pg_current_xact_id()::text`
	insertRestore = `insert into rgw.ledger_restores (size, lost_size, lost_note) values ($1, $2, $3)`
	selectEpoch   = `select epoch from rgw.cluster_epoch`
)

// rebuild does it, in one transaction.
func (cfg *RecoverConfig) rebuild(ctx context.Context, tx *sqlx.Tx, c, newest *Checkpoint, out *Recovered) error {
	var mine bool
	if err := tx.GetContext(ctx, &mine, lockSequencer); err != nil {
		return fmt.Errorf("take the sequencer's lock: %w", err)
	}
	if !mine {
		return errors.New("an admin runs and sequences this database: stop every admin first")
	}
	if _, err := tx.ExecContext(ctx, ownTables); err != nil {
		return fmt.Errorf("keep others out: %w", err)
	}
	e := edge{roots: make([]tlog.Hash, 0, 64)}
	h, err := readHead(ctx, tx)
	if err != nil {
		return err
	}
	previous := int64(0)
	if h != nil {
		held, err := ParseCheckpoint(h.Note, cfg.Keys)
		if err != nil {
			return fmt.Errorf("the newest checkpoint in the database: %w", err)
		}
		if held.N >= c.N {
			return fmt.Errorf("the database holds %d leaves, and the %s %d: there is nothing to bring back", held.N, cfg.Source.Name(), c.N)
		}
		want, err := tlog.TreeHash(held.N, hashReader(c.Tree, sourceTiles{ctx, cfg.Source}))
		if err != nil {
			return fmt.Errorf("read the tiles of the %s: %w", cfg.Source.Name(), err)
		}
		if want != held.Hash {
			return fmt.Errorf("the database holds another log than the %s: keep a copy of it, and rebuild into a fresh database", cfg.Source.Name())
		}
		if e, err = readEdge(held.Tree, hashReader(held.Tree, dbTiles{ctx, tx})); err != nil {
			return fmt.Errorf("the database's own tree: %w", err)
		}
		previous = held.N
	}
	out.From = previous
	for _, t := range tilesOf(c.N, 0, previous>>tileHeight) {
		if err := cfg.restoreTile(ctx, tx, t, &e, out); err != nil {
			return err
		}
		if cfg.Progress != nil {
			cfg.Progress(e.size, c.N)
		}
	}
	if e.root() != c.Hash {
		return fmt.Errorf("what was put back makes another tree than the checkpoint of size %d signs", c.N)
	}
	return cfg.finish(ctx, tx, c, newest, previous, out)
}

// restoreTile puts back the leaves of one tile, and their events.
func (cfg *RecoverConfig) restoreTile(ctx context.Context, tx *sqlx.Tx, t tileID, e *edge, out *Recovered) error {
	bundle, err := bundleOf(ctx, cfg.Source, t)
	if err != nil {
		return err
	}
	from := e.size
	at, ids, hashes := newArray(0), newArray(0), newArray(0)
	var tiles []tileHash
	for i, canonical := range bundle {
		if t.index*tileWidth+int64(i) < from {
			continue
		}
		event, added, err := audit.RestoreTx(ctx, tx, cfg.Key, canonical)
		if err != nil {
			return err
		}
		if added {
			out.Events++
		}
		hash := tlog.RecordHash(canonical)
		tiles = e.add(hash, tiles)
		at.add(func(dst []byte) []byte {
			return event.OccurredAt.AppendFormat(append(dst, '"'), `2006-01-02 15:04:05.999999Z07:00"`)
		})
		ids.add(func(dst []byte) []byte { return append(dst, event.ID.String()...) })
		hashes.add(func(dst []byte) []byte { return appendBytea(dst, hash[:]) })
	}
	if _, err := tx.ExecContext(ctx, insertLeaves, from, at.String(), ids.String(), hashes.String()); err != nil {
		return fmt.Errorf("put leaves back from %d: %w", from, err)
	}
	if len(tiles) == 0 {
		return nil
	}
	var levels, indexes []int64
	var values pq.ByteaArray
	for i := range tiles {
		levels, indexes, values = append(levels, int64(tiles[i].level)), append(indexes, tiles[i].index), append(values, tiles[i].hash[:])
	}
	if _, err := tx.ExecContext(ctx, insertHashes, pq.Array(levels), pq.Array(indexes), values); err != nil {
		return fmt.Errorf("put hashes back: %w", err)
	}
	return nil
}

// bundleOf reads the events of a tile.
func bundleOf(ctx context.Context, source Source, t tileID) ([][]byte, error) {
	for _, width := range []int{t.width, tileWidth} {
		other := t
		other.width = width
		data, err := source.Get(ctx, other.bundlePath(), "")
		if errors.Is(err, ErrNoObject) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", other.bundlePath(), err)
		}
		events, err := splitBundle(data)
		if err != nil || len(events) < t.width {
			return nil, fmt.Errorf("%s cannot be taken apart into %d events", other.bundlePath(), t.width)
		}
		return events[:t.width], nil
	}
	return nil, fmt.Errorf("%s: %w: its retention is over; what is younger cannot be rebuilt without it", t.bundlePath(), ErrNoObject)
}

// finish writes the keys, the checkpoint, and what was done.
func (cfg *RecoverConfig) finish(ctx context.Context, tx *sqlx.Tx, c, newest *Checkpoint, previous int64, out *Recovered) error {
	known, err := PublicKeys(ctx, tx)
	if err != nil {
		return err
	}
	number := len(known)
	for _, public := range cfg.Keys {
		if contains(known, public) {
			continue
		}
		number++
		if _, err := tx.ExecContext(ctx, insertKey, number, public, nil); err != nil {
			return fmt.Errorf("note the public key: %w", err)
		}
	}
	if err := cfg.newKey(ctx, tx, out); err != nil {
		return err
	}
	var xid string
	var epoch int32
	if err := tx.GetContext(ctx, &xid, maxXID); err != nil {
		return err
	}
	if err := tx.GetContext(ctx, &epoch, selectEpoch); err != nil {
		return err
	}
	// What was put back carries this transaction's id, and has its leaves: the cursor stands before it, and what the
	// transaction adds beside it is found by looking carefully.
	if _, err := tx.ExecContext(ctx, insertCheckpoint, c.N, previous, c.Note, cfg.Now(), epoch, xid, false); err != nil {
		return fmt.Errorf("write the checkpoint: %w", err)
	}
	out.Size = c.N
	lost, note := c.N, ""
	if newest != nil && newest.N > c.N {
		lost, note = newest.N, newest.Note
		out.Lost = newest.N - c.N
	}
	if _, err := tx.ExecContext(ctx, insertRestore, c.N, lost, note); err != nil {
		return fmt.Errorf("note what was restored: %w", err)
	}
	e := cfg.By
	e.Action, e.Resource, e.RequestID = ActionRestored, cfg.Source.Name(), audit.NewID(cfg.Now())
	e.Kind = audit.KindSystem
	e.Detail.Count = out.Events
	e.Detail.Params.Add("size", strconv.FormatInt(c.N, 10))
	e.Detail.Params.Add("had", strconv.FormatInt(previous, 10))
	if out.Lost > 0 {
		e.Detail.Params.Add("lost_to", strconv.FormatInt(lost, 10))
		e.Detail.Params.Add("lost_root", newest.Hash.String())
	}
	if out.NewKey != "" {
		e.Detail.Params.Add("public_key", out.NewKey)
	}
	if e.ID != (uuid.UUID{}) {
		return errors.New("the event of the recovery was used before")
	}
	return audit.InsertTx(ctx, tx, cfg.Key, e)
}

// newKey makes a signing key where the one before was lost with the database.
func (cfg *RecoverConfig) newKey(ctx context.Context, tx *sqlx.Tx, out *Recovered) error {
	var rows []keyRow
	if err := tx.SelectContext(ctx, &rows, selectKeys); err != nil {
		return fmt.Errorf("read the ledger's keys: %w", err)
	}
	newest := rows[len(rows)-1]
	if _, err := cfg.Signing.signerOf(newest); err == nil {
		return nil
	}
	next := keyRow{Number: newest.Number + 1}
	if cfg.Signing.Given.IsZero() {
		private, public, err := newKey(nameOf(newest.PublicKey))
		if err != nil {
			return err
		}
		next.PublicKey, next.Sealed = public, cfg.Signing.Box.Seal([]byte(private.Reveal()), identityOf(public))
	} else {
		public, err := publicOf(cfg.Signing.Given)
		if err != nil {
			return err
		}
		if nameOf(public) != nameOf(newest.PublicKey) {
			return fmt.Errorf("AUDIT_SIGNING_KEY is named %s, and the log %s", nameOf(public), nameOf(newest.PublicKey))
		}
		next.PublicKey = public
	}
	if _, err := tx.ExecContext(ctx, insertKey, next.Number, next.PublicKey, next.Sealed); err != nil {
		return fmt.Errorf("note the new key: %w", err)
	}
	out.NewKey = next.PublicKey
	return nil
}
