package ledger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"rackgateway/pkg/audit"
)

// AnchorConfig says where the ledger is copied to, and how often. Fields without a remark must be given.
type AnchorConfig struct {
	DB        *sqlx.DB // as the role of admin
	Storage   Storage
	Chain     string // names the storage in the database
	Key       audit.Key
	Interval  time.Duration // between two copies
	Retention time.Duration // for which storage protects an object, from when it was put
	Events    int64         // new events that make a copy at once; default 10,000
	Log       *slog.Logger
	Now       func() time.Time
	Alerted   func(*Alert) // told of each alert; may be nil
}

// Anchor copies the ledger to storage that cannot be overwritten: tiles and events every interval, the signed
// checkpoint alone every minute. Whatever it puts there was checked against the signed tree first, and is looked at
// afterwards. After an outage of any length it goes on where it was. Any number may run: one works. It must be made by
// NewAnchor.
type Anchor struct {
	AnchorConfig

	now  chan struct{}
	once sync.Map // alerts that were recorded, by their sentence

	// Of the goroutine of Run.
	failing time.Time // since when; zero while it works
}

// NewAnchor returns an anchor, which works once Run runs.
func NewAnchor(config AnchorConfig) *Anchor {
	config.Events = cmp.Or(config.Events, 10_000)
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Anchor{AnchorConfig: config, now: make(chan struct{}, 1)}
}

// Start has the ledger copied now.
func (a *Anchor) Start() {
	select {
	case a.now <- struct{}{}:
	default:
	}
}

// Newest returns the newest checkpoint in storage, nil when there is none. It is checked against the keys.
func (a *Anchor) Newest(ctx context.Context) (*Checkpoint, error) {
	keys, err := PublicKeys(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	return NewestCheckpoint(ctx, a.Storage, keys)
}

// NewestCheckpoint returns the largest checkpoint that storage holds under any key, nil when there is none.
func NewestCheckpoint(ctx context.Context, source Source, keys Keyring) (*Checkpoint, error) {
	var newest *Checkpoint
	look := func(key, version string) error {
		text, err := source.Get(ctx, key, version)
		if errors.Is(err, ErrNoObject) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		c, err := ParseCheckpoint(string(text), keys)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if newest == nil || c.N > newest.N {
			newest = c
		}
		return nil
	}
	if err := look("checkpoint", ""); err != nil {
		return nil, err
	}
	// Those that went there alone are newer; their keys tell when, and how many leaves are under them. Of the last days
	// that there are, that suffices.
	largest, largestKey := int64(-1), ""
	err := source.List(ctx, "checkpoints/", func(o Object) error {
		if size, ok := sizeOfKey(o.Key); ok && !o.Marker && size > largest {
			largest, largestKey = size, o.Key
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if largestKey != "" && (newest == nil || largest > newest.N) {
		if err := look(largestKey, ""); err != nil {
			return nil, err
		}
	}
	return newest, nil
}

func sizeOfKey(key string) (int64, bool) {
	i := strings.LastIndexByte(key, '-')
	if i < 0 {
		return 0, false
	}
	size, err := strconv.ParseInt(key[i+1:], 10, 64)
	return size, err == nil && size >= 0
}

const (
	tryAnchorLock = `select pg_try_advisory_lock(7220417053)`
	insertAnchor  = `insert into rgw.ledger_anchors (chain, size, whole, object_key) values ($1, $2, $3, $4) on conflict do nothing`
	moveCursor    = `
insert into rgw.ledger_cursors (name, leaf_index, trouble) values ($1, $2, $3)
on conflict (name) do update set leaf_index = excluded.leaf_index, trouble = excluded.trouble, moved_at = now()`
	selectWorth = `
select exists (select from rgw.ledger_leaves l join rgw.audit_events e on e.occurred_at = l.occurred_at and e.event_id = l.event_id
  where l.leaf_index >= $1 and l.leaf_index < $2 and e.action not in ('ledger.anchored', 'ledger.verified'))`
)

const (
	anchorPoll       = 10 * time.Second
	checkpointEvery  = time.Minute
	failurePatience  = 10 * time.Minute
	anchorConcurrent = 8
)

// Run copies until ctx ends, whenever it holds the lock.
func (a *Anchor) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.term(ctx); err != nil && ctx.Err() == nil {
			a.Log.WarnContext(ctx, "copying the ledger was interrupted; it goes on", "error", err)
		}
		select {
		case <-time.After(anchorPoll):
		case <-a.now:
			a.Start() // for whoever has the lock
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// term is one time of holding the lock.
func (a *Anchor) term(ctx context.Context) error {
	conn, err := a.DB.Connx(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer discard(conn)
	if _, err := conn.ExecContext(ctx, `set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3`); err != nil {
		return err
	}
	var mine bool
	if err := conn.GetContext(ctx, &mine, tryAnchorLock); err != nil || !mine {
		return err
	}
	forced := false
	for {
		if err := conn.PingContext(ctx); err != nil { // the lock is gone with it
			return err
		}
		a.Attempt(ctx, forced)
		forced = false
		select {
		case <-time.After(anchorPoll):
		case <-a.now:
			forced = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Attempt copies what is due, or all there is with now, and tells when it cannot.
func (a *Anchor) Attempt(ctx context.Context, now bool) {
	err := a.due(ctx, now)
	if ctx.Err() != nil {
		return
	}
	size, trouble := int64(0), ""
	if whole, e := LastAnchor(ctx, a.DB, a.Chain, true); e == nil && whole != nil {
		size = whole.Size
	}
	if err != nil {
		trouble = "the ledger could not be copied to " + a.Chain + ": " + err.Error()
		if a.failing.IsZero() {
			a.failing = a.Now()
			a.Log.WarnContext(ctx, "the ledger could not be copied; it is tried again", "chain", a.Chain, "error", err)
		}
		var bad *badStorageError
		switch {
		case errors.As(err, &bad):
			a.alert(ctx, bad.code, trouble)
		case a.Now().Sub(a.failing) > failurePatience:
			a.alert(ctx, AlertAnchor, "for ten minutes and more, "+trouble)
			a.failing = a.Now()
		}
	} else {
		a.failing = time.Time{}
	}
	if _, err := a.DB.ExecContext(ctx, moveCursor, AnchorCursor, size, trouble); err != nil && ctx.Err() == nil {
		a.Log.WarnContext(ctx, "how far the ledger was copied could not be noted", "error", err)
	}
}

func (a *Anchor) alert(ctx context.Context, code, message string) {
	if _, known := a.once.LoadOrStore(message, true); known {
		return
	}
	alert := &Alert{Code: code, Message: message, Leaf: -1, Count: 1}
	a.Log.ErrorContext(ctx, "the ledger noticed something", "code", code, "what", message)
	if err := audit.Change(ctx, a.DB, a.Key, alert.event(a.Now()), func(*sqlx.Tx) error { return nil }); err != nil {
		a.once.Delete(message)
		return
	}
	if a.Alerted != nil {
		a.Alerted(alert)
	}
}

// badStorageError is an error that says that storage, or the database, is not what it should be.
type badStorageError struct {
	code string
	err  error
}

func (b *badStorageError) Error() string { return b.err.Error() }
func (b *badStorageError) Unwrap() error { return b.err }

// due copies what is due.
func (a *Anchor) due(ctx context.Context, now bool) error {
	keys, err := PublicKeys(ctx, a.DB)
	if err != nil {
		return err
	}
	c, _, err := Head(ctx, a.DB, keys)
	if err != nil || c == nil {
		return err
	}
	whole, err := LastAnchor(ctx, a.DB, a.Chain, true)
	if err != nil {
		return err
	}
	last, err := LastAnchor(ctx, a.DB, a.Chain, false)
	if err != nil {
		return err
	}
	from, at := int64(0), time.Time{}
	if whole != nil {
		from, at = whole.Size, whole.At
	}
	if c.N <= from && !now {
		return nil
	}
	grown, err := a.grown(ctx, from, c.N)
	if err != nil {
		return err
	}
	if now || grown && (a.Now().Sub(at) >= a.Interval || c.N-from >= a.Events) {
		return a.whole(ctx, keys, c, from)
	}
	if grown && last != nil && c.N > last.Size && a.Now().Sub(last.At) >= checkpointEvery {
		return a.alone(ctx, c)
	}
	return nil
}

// grown tells whether there is anything new but what the copying itself has recorded.
func (a *Anchor) grown(ctx context.Context, from, to int64) (yes bool, err error) {
	if to-from > 100 {
		return true, nil
	}
	if err := a.DB.GetContext(ctx, &yes, selectWorth, from, to); err != nil {
		return false, fmt.Errorf("look at what is new: %w", err)
	}
	return yes, nil
}

// alone puts the signed checkpoint where it is never overwritten.
func (a *Anchor) alone(ctx context.Context, c *Checkpoint) error {
	key := checkpointKey(a.Now(), c.N)
	if err := a.put(ctx, key, []byte(c.Note), true); err != nil {
		return err
	}
	if _, err := a.DB.ExecContext(ctx, insertAnchor, a.Chain, c.N, false, key); err != nil {
		return fmt.Errorf("note that the checkpoint was copied: %w", err)
	}
	return nil
}

// whole copies tiles and events from one size to that of the checkpoint, and the checkpoint after them.
func (a *Anchor) whole(ctx context.Context, keys Keyring, c *Checkpoint, from int64) error {
	if err := a.compare(ctx, keys, c); err != nil {
		return err
	}
	reader := hashReader(c.Tree, &lockedTiles{source: &cachedTiles{source: dbTiles{ctx, a.DB}, kept: make(map[tileID][]byte)}})
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(anchorConcurrent)
	for _, t := range tilesOf(c.N, 0, from>>tileHeight) {
		if running.Err() != nil {
			break
		}
		hashes, err := tlog.ReadTileData(tlog.Tile{H: tileHeight, L: 0, N: t.index, W: t.width}, reader)
		if err != nil {
			_ = group.Wait()
			return &badStorageError{AlertStored, fmt.Errorf("tile %d of the database is not what was signed: %w", t.index, err)}
		}
		bundle, err := a.bundle(ctx, t, hashes)
		if err != nil {
			_ = group.Wait()
			return err
		}
		group.Go(func() error {
			if err := a.put(running, t.bundlePath(), bundle, true); err != nil {
				return err
			}
			return a.put(running, t.path(), hashes, true)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for level := 1; c.N>>(level*tileHeight) > 0; level++ {
		for _, t := range tilesOf(c.N, level, from>>((level+1)*tileHeight)) {
			hashes, err := tlog.ReadTileData(tlog.Tile{H: tileHeight, L: level, N: t.index, W: t.width}, reader)
			if err != nil {
				return &badStorageError{AlertStored, fmt.Errorf("tile %d of level %d of the database is not what was signed: %w", t.index, level, err)}
			}
			if err := a.put(ctx, t.path(), hashes, true); err != nil {
				return err
			}
		}
	}
	key := checkpointKey(a.Now(), c.N)
	if err := a.put(ctx, key, []byte(c.Note), true); err != nil {
		return err
	}
	if err := a.put(ctx, "checkpoint", []byte(c.Note), false); err != nil {
		return err
	}
	e := systemEvent(a.Now(), ActionAnchored)
	e.Resource = a.Chain
	e.Detail.Params.Add("size", strconv.FormatInt(c.N, 10))
	e.Detail.Params.Add("key", key)
	return audit.Change(ctx, a.DB, a.Key, e, func(tx *sqlx.Tx) error {
		_, err := tx.ExecContext(ctx, insertAnchor, a.Chain, c.N, true, key)
		return err
	})
}

// compare makes sure that storage holds no other history: nothing is put over one.
func (a *Anchor) compare(ctx context.Context, keys Keyring, c *Checkpoint) error {
	text, err := a.Storage.Get(ctx, "checkpoint", "")
	if errors.Is(err, ErrNoObject) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the checkpoint in the bucket: %w", err)
	}
	held, err := ParseCheckpoint(string(text), keys)
	switch {
	case err != nil:
		return &badStorageError{AlertBucket, fmt.Errorf("the checkpoint in the bucket: %w", err)}
	case held.Origin != c.Origin:
		return &badStorageError{AlertBucket, fmt.Errorf("the bucket holds the log %s: give this one a prefix of its own with AUDIT_ANCHOR_CHAIN_ID", strconv.Quote(held.Origin))}
	case held.N > c.N:
		return &badStorageError{AlertRolledBack, fmt.Errorf("the bucket is at size %d, and the database at %d", held.N, c.N)}
	case held.N == 0:
		return nil
	}
	got, err := tlog.TreeHash(held.N, hashReader(c.Tree, dbTiles{ctx, a.DB}))
	if err != nil {
		return &badStorageError{AlertStored, err}
	}
	if got != held.Hash {
		return &badStorageError{AlertForked, fmt.Errorf("at size %d the bucket has the root %v, and the database %v", held.N, held.Hash, got)}
	}
	return nil
}

// bundle reads the events of a tile, and checks that they are those that were signed.
func (a *Anchor) bundle(ctx context.Context, t tileID, hashes []byte) (bundle []byte, err error) {
	from := t.index * tileWidth
	next := from
	var canonical []byte
	err = Entries(ctx, a.DB, from, from+int64(t.width), func(e *Entry) error {
		if e.Index != next || e.Gone {
			return &badStorageError{AlertStored, fmt.Errorf("event of leaf %d is missing from the database", next)}
		}
		canonical = e.Event.AppendCanonical(canonical[:0])
		hash := tlog.RecordHash(canonical)
		if at := int(next - from); !bytes.Equal(hash[:], hashes[at*tlog.HashSize:(at+1)*tlog.HashSize]) {
			return &badStorageError{AlertStored, fmt.Errorf("event %s (leaf %d) is not what was signed: somebody edited it", e.Event.ID, e.Index)}
		}
		next++
		bundle = appendEntry(bundle, canonical)
		return nil
	})
	if err == nil && next != from+int64(t.width) {
		err = &badStorageError{AlertStored, fmt.Errorf("leaf %d is missing from the database", next)}
	}
	return bundle, err
}

// put stores an object and looks whether it is there. A retry never makes a second truth: same key, same bytes, or an
// alert.
func (a *Anchor) put(ctx context.Context, key string, data []byte, once bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	until := a.Now().Add(a.Retention).UTC().Truncate(time.Second)
	err := a.Storage.Put(ctx, key, data, until, once)
	if errors.Is(err, ErrExists) {
		held, err := a.Storage.Get(ctx, key, "")
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		if !bytes.Equal(held, data) {
			return &badStorageError{AlertBucket, fmt.Errorf("%s is in the bucket with other bytes", key)}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if err := a.Storage.Holds(ctx, key, data, until); err != nil {
		if errors.Is(err, errOtherBytes) || errors.Is(err, errUnlocked) {
			return &badStorageError{AlertBucket, err}
		}
		return err
	}
	return nil
}

// Lengthen protects every hash tile and the newest checkpoint for the whole retention anew, so that tiles live as long as
// the log. It is for once a day.
func (a *Anchor) Lengthen(ctx context.Context) (objects int, err error) {
	until := a.Now().Add(a.Retention).UTC().Truncate(time.Second)
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(anchorConcurrent)
	var newest Object
	err = a.Storage.List(ctx, "", func(o Object) error {
		t, bundle, isTile := parseTilePath(o.Key)
		_ = t
		if strings.HasPrefix(o.Key, "checkpoints/") && o.Key > newest.Key {
			newest = o
		}
		if o.Marker || !(isTile && !bundle || o.Key == "checkpoint" && o.Latest) {
			return nil
		}
		objects++
		group.Go(func() error { return a.Storage.Extend(running, o.Key, o.Version, until) })
		return running.Err()
	})
	err = errors.Join(err, group.Wait())
	if err == nil && newest.Key != "" {
		objects++
		err = a.Storage.Extend(ctx, newest.Key, newest.Version, until)
	}
	return objects, err
}

// lockedTiles lets several goroutines ask for tiles.
type lockedTiles struct {
	mu     sync.Mutex
	source TileSource
}

// Tile implements TileSource.
func (l *lockedTiles) Tile(level int, index int64, width int) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.source.Tile(level, index, width)
}
