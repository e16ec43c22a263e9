package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
)

// SourceOptions say how storage is verified.
type SourceOptions struct {
	VerifyOptions

	// DB is compared with storage, when there is one.
	DB *sqlx.DB
	// From leaves out the bytes of tiles and events below it, which were verified before; everything is listed all the same.
	From int64
	// Retention is how long storage keeps events: those that are gone and older are not missed. Zero misses all.
	Retention time.Duration
}

// VerifySource recomputes a log from what storage holds, all versions of it, and compares it with the database, when
// one is given. An error says that it could not be done; what does not fit is in the report.
func VerifySource(ctx context.Context, source Source, opts SourceOptions) (*Report, error) {
	if err := opts.Keys.Check(); err != nil {
		return nil, err
	}
	v := &sourceVerifier{
		Report: Report{Where: source.Name(), Keys: opts.Keys, Findings: []Finding{}}, opts: opts, source: source,
		versions: make(map[string][]Object), partial: make(map[partOf][]int), lost: make(map[string]bool), edge: edge{roots: make([]tlog.Hash, 0, 64)},
	}
	if err := v.list(ctx); err != nil {
		return nil, err
	}
	if err := v.signed(ctx); err != nil {
		return nil, err
	}
	if v.head == nil {
		if opts.DB != nil {
			v.note("there is no checkpoint in the %s yet", v.Where)
		} else {
			v.add(KindCheckpoint, -1, uuid.UUID{}, "checkpoint", "there is no checkpoint: this is not a log, or all of it was deleted")
		}
		return &v.Report, nil
	}
	if err := v.tree(ctx); err != nil {
		return nil, err
	}
	if opts.DB != nil {
		if err := v.compare(ctx); err != nil {
			return nil, err
		}
	}
	return &v.Report, nil
}

type sourceVerifier struct {
	Report
	opts     SourceOptions
	source   Source
	versions map[string][]Object // by key, the oldest first, without delete markers
	partial  map[partOf][]int    // widths of the partial tiles that there are

	checkpoints []*Checkpoint   // that verify, by size
	head        *Checkpoint     // the newest whose tiles should be there
	strangers   []stranger      // checkpoints of another history
	lost        map[string]bool // what recoveries, by the log itself, could not bring back: SIZE ROOT of its checkpoint
	newest      *Checkpoint     // of all
	edge        edge
	hashes      []byte // the leaves' hashes that were read, one after the other, while a comparison is to follow
}

// partOf names a tile, whatever its width.
type partOf struct {
	level  int
	index  int64
	bundle bool
}

// list reads what there is, and finds what was overwritten or deleted.
func (v *sourceVerifier) list(ctx context.Context) error {
	err := v.source.List(ctx, "", func(o Object) error {
		if o.Marker {
			v.add(KindObject, leafOfKey(o.Key), uuid.UUID{}, o.Key, "%s was deleted at %s; its versions are there", o.Key, o.At.UTC().Format(time.RFC3339))
			if _, seen := v.versions[o.Key]; !seen {
				v.versions[o.Key] = nil
			}
			return nil
		}
		v.Objects++
		v.versions[o.Key] = append(v.versions[o.Key], o)
		return nil
	})
	if err != nil {
		return err
	}
	for key, list := range v.versions {
		if t, bundle, ok := parseTilePath(key); ok && t.width < tileWidth {
			of := partOf{t.level, t.index, bundle}
			v.partial[of] = append(v.partial[of], t.width)
		}
		// Listings give the newest version first. Those of one moment stay in the opposite order of theirs.
		slices.Reverse(list)
		slices.SortStableFunc(list, func(a, b Object) int { return a.At.Compare(b.At) })
		if key == "checkpoint" || len(list) < 2 {
			continue
		}
		first, err := v.source.Get(ctx, key, list[0].Version)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		for _, later := range list[1:] {
			other, err := v.source.Get(ctx, key, later.Version)
			if err != nil {
				return fmt.Errorf("read %s: %w", key, err)
			}
			if !bytes.Equal(first, other) {
				v.add(KindObject, leafOfKey(key), uuid.UUID{}, key, "%s was overwritten at %s by a version with other bytes; the one before is there", key, later.At.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

// leafOfKey is the first leaf that an object is about; -1 when it is about none.
func leafOfKey(key string) int64 {
	t, _, ok := parseTilePath(key)
	if !ok {
		return -1
	}
	return (t.index * tileWidth) << (t.level * tileHeight)
}

// get returns the first version of an object.
func (v *sourceVerifier) get(ctx context.Context, key string) ([]byte, error) {
	list := v.versions[key]
	if len(list) == 0 {
		return nil, ErrNoObject
	}
	return v.source.Get(ctx, key, list[0].Version)
}

const selectCopied = `select exists (select from rgw.ledger_anchors where whole)`

// copied reports whether the log has ever been copied as a whole, by the database's word. Without one it is taken for
// copied, so that whoever trusts storage alone is told of all that is missing.
func (v *sourceVerifier) copied(ctx context.Context) (yes bool, err error) {
	if v.opts.DB == nil {
		return true, nil
	}
	if err := v.opts.DB.GetContext(ctx, &yes, selectCopied); err != nil {
		return false, fmt.Errorf("look whether the log was copied before: %w", err)
	}
	return yes, nil
}

// signed reads every checkpoint, in every version.
func (v *sourceVerifier) signed(ctx context.Context) error {
	for key, list := range v.versions {
		if key != "checkpoint" && !strings.HasPrefix(key, "checkpoints/") {
			continue
		}
		for _, o := range list {
			text, err := v.source.Get(ctx, key, o.Version)
			if err != nil {
				return fmt.Errorf("read %s: %w", key, err)
			}
			c, err := ParseCheckpoint(string(text), v.opts.Keys)
			if err != nil {
				v.add(kindOf(err), -1, uuid.UUID{}, key, "%s (of %s): %v", key, o.At.UTC().Format(time.RFC3339), err)
				continue
			}
			if size, named := sizeOfKey(key); named && key != "checkpoint" && size != c.N {
				v.add(KindCheckpoint, -1, uuid.UUID{}, key, "%s holds the checkpoint of another size, %d", key, c.N)
				continue
			}
			v.Checkpoints++
			v.checkpoints = append(v.checkpoints, c)
			if key == "checkpoint" && (v.head == nil || c.N > v.head.N) {
				v.head = c
			}
			if v.newest == nil || c.N > v.newest.N {
				v.newest = c
			}
		}
	}
	if v.head == nil && v.newest != nil {
		copied, err := v.copied(ctx)
		if err != nil {
			return err
		}
		if !copied { // an admin that ended in the middle of the first copy leaves this, and the next one goes on
			return nil
		}
		v.add(KindCheckpoint, -1, uuid.UUID{}, "checkpoint", "the newest checkpoint is missing, and older ones are there")
		v.head = v.newest
	}
	if v.head == nil {
		return nil
	}
	v.Origin, v.Size, v.Root = v.head.Origin, v.head.N, v.head.Hash.String()
	for _, c := range v.checkpoints {
		if c.Origin != v.Origin {
			v.add(KindCheckpoint, -1, uuid.UUID{}, "", "there are checkpoints of two logs: %s and %s", v.Origin, c.Origin)
		}
	}
	slices.SortFunc(v.checkpoints, func(a, b *Checkpoint) int {
		switch {
		case a.N != b.N:
			return int(min(max(a.N-b.N, -1), 1))
		default:
			return bytes.Compare(a.Hash[:], b.Hash[:])
		}
	})
	for i := 1; i < len(v.checkpoints); i++ {
		if a, b := v.checkpoints[i-1], v.checkpoints[i]; a.N == b.N && a.Hash != b.Hash {
			if a.N <= v.head.N { // one of them is held against the tree, and does not fit
				continue
			}
			v.add(KindForked, -1, uuid.UUID{}, "", "two checkpoints of size %d have different roots, %v and %v: the key signed two histories", a.N, a.Hash, b.Hash)
		}
	}
	return nil
}

// tile reads a tile of the tree of the head: the whole one, the one of its width, or the beginning of a wider one.
func (v *sourceVerifier) tile(ctx context.Context, t tileID, bundle bool) (data []byte, key string, err error) {
	path := tileID.path
	if bundle {
		path = tileID.bundlePath
	}
	key = path(t)
	if data, err = v.get(ctx, key); !errors.Is(err, ErrNoObject) || t.width == tileWidth {
		return data, key, err
	}
	for width := t.width + 1; width <= tileWidth; width++ {
		wider := t
		wider.width = width
		if data, err = v.get(ctx, path(wider)); !errors.Is(err, ErrNoObject) {
			return data, path(wider), err
		}
	}
	return nil, key, ErrNoObject
}

// widthOf is the width that a tile's key tells.
func widthOf(key string) int {
	t, _, _ := parseTilePath(key)
	return t.width
}

// narrower holds the narrower objects of a tile, of the time when the log was smaller, against what there is now: each is
// the beginning of it.
func (v *sourceVerifier) narrower(ctx context.Context, t tileID, bundle bool, whole []byte) error {
	path := tileID.path
	if bundle {
		path = tileID.bundlePath
	}
	for _, width := range v.partial[partOf{t.level, t.index, bundle}] {
		if width >= t.width { // the one that was read, or of a tree that grows just now
			continue
		}
		part := t
		part.width = width
		key := path(part)
		if len(v.versions[key]) == 0 { // deleted, which was told
			continue
		}
		data, err := v.get(ctx, key)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		want := whole[:min(len(whole), width*tlog.HashSize)]
		if bundle {
			want = firstEvents(whole, width)
		}
		if !bytes.Equal(data, want) {
			kind := KindTree
			if bundle {
				kind = KindEdited
			}
			v.add(kind, leafOfKey(key), uuid.UUID{}, key, "%s is not the beginning of what stands there now: somebody changed it", key)
		}
	}
	return nil
}

// firstEvents is the part of a bundle that holds its first events.
func firstEvents(bundle []byte, count int) []byte {
	at := 0
	for range count {
		if at+2 > len(bundle) {
			break
		}
		at += 2 + int(bundle[at])<<8 + int(bundle[at+1])
	}
	return bundle[:min(at, len(bundle))]
}

// tree recomputes the tree from the leaves' hashes, and the hashes from the events.
func (v *sourceVerifier) tree(ctx context.Context) error {
	due := v.checkpoints
	for len(due) > 0 && due[0].N == 0 {
		due = due[1:]
	}
	gone := int64(0) // events that storage keeps no longer
	higher := make(map[int][]tileHash)
	for _, t := range tilesOf(v.head.N, 0, 0) {
		first := t.index * tileWidth
		hashes, key, err := v.tile(ctx, t, false)
		if errors.Is(err, ErrNoObject) {
			v.add(KindObject, first, uuid.UUID{}, key, "%s is missing, so that leaves from %d on cannot be checked", key, first)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		if len(hashes) != widthOf(key)*tlog.HashSize {
			v.add(KindTree, first, uuid.UUID{}, key, "%s has %d bytes, which is not the length of a tile", key, len(hashes))
			return nil
		}
		hashes = hashes[:t.width*tlog.HashSize]
		if v.opts.DB != nil {
			v.hashes = append(v.hashes, hashes...)
		}
		if first+int64(t.width) > v.opts.From {
			if err := v.narrower(ctx, t, false, hashes); err != nil {
				return err
			}
			missing, err := v.events(ctx, t, hashes)
			if err != nil {
				return err
			}
			switch {
			case missing && gone == first:
				gone = first + int64(t.width)
			case missing:
				v.add(KindObject, first, uuid.UUID{}, t.bundlePath(), "%s is missing: the events from leaf %d on were deleted", t.bundlePath(), first)
			}
		}
		for i := range t.width {
			for _, m := range v.edge.add(tlog.Hash(hashes[i*tlog.HashSize:(i+1)*tlog.HashSize]), nil) {
				higher[m.level] = append(higher[m.level], m)
			}
			for len(due) > 0 && due[0].N == v.edge.size {
				if root := v.edge.root(); root != due[0].Hash {
					v.strangers = append(v.strangers, stranger{due[0], root})
				}
				due = due[1:]
			}
		}
		if v.opts.Progress != nil && first%progressEvery < tileWidth {
			v.opts.Progress(first)
		}
	}
	if gone > 0 {
		v.expired(ctx, gone)
	}
	forked, err := v.judge(ctx)
	if err != nil {
		return err
	}
	for level := 1; level <= topLevel && !forked; level++ {
		if err := v.level(ctx, level, higher[level]); err != nil {
			return err
		}
	}
	if n := len(due); n > 0 {
		v.note("%d checkpoints are ahead of the tiles: their events are copied within the interval", n)
	}
	return nil
}

// stranger is a checkpoint that the tree does not fit.
type stranger struct {
	*Checkpoint

	root tlog.Hash // that the tree has
}

// judge tells which of the checkpoints that do not fit the tree were signed before the database was lost, by what the log
// says of its recoveries, and which are forks.
func (v *sourceVerifier) judge(ctx context.Context) (forked bool, err error) {
	for _, s := range v.strangers {
		known := v.lost[lostMark(s.N, s.Hash.String())]
		if !known && v.opts.DB != nil { // the recovery may stand below what was read now
			if err := v.opts.DB.GetContext(ctx, &known, selectRestore, s.Note, v.head.N); err != nil {
				return false, fmt.Errorf("read what was restored: %w", err)
			}
		}
		switch {
		case known:
			v.note("the checkpoint of size %d is of leaves that were lost with the database before they were copied: the log was rebuilt since, and says so", s.N)
		case !forked:
			forked = true
			leaf, event := v.suspectBelow(s.Checkpoint)
			v.add(KindForked, leaf, event, "", "the tiles make a tree of size %d with root %v, and its checkpoint has %v: somebody changed a tile, from leaf %d on, or the tree was forked",
				s.N, s.root, s.Hash, leaf)
		}
	}
	return forked, nil
}

// suspectBelow is the first leaf that the tree may differ from the signed one at: behind the last checkpoint that fitted.
func (v *sourceVerifier) suspectBelow(c *Checkpoint) (int64, uuid.UUID) {
	leaf := int64(0)
	for _, other := range v.checkpoints {
		if other.N >= c.N {
			break
		}
		if !slices.ContainsFunc(v.strangers, func(s stranger) bool { return s.Checkpoint == other }) {
			leaf = other.N
		}
	}
	for _, f := range v.Findings { // an event that does not fit its hash says where
		if f.Kind == KindEdited && f.Leaf >= 0 && f.Leaf < c.N {
			return f.Leaf, f.Event
		}
	}
	return leaf, uuid.UUID{}
}

// lostMark names a checkpoint.
func lostMark(size int64, root string) string { return strconv.FormatInt(size, 10) + " " + root }

// restoredMark is how the canonical bytes of an event spell that it tells of a recovery.
var restoredMark = []byte(`"action":"` + ActionRestored + `"`)

// recovery notes what an event says of a recovery, if it tells of one.
func (v *sourceVerifier) recovery(canonical []byte) {
	if !bytes.Contains(canonical, restoredMark) {
		return
	}
	e, err := audit.ParseCanonical(canonical)
	if err != nil || e.Action != ActionRestored {
		return
	}
	size, err := strconv.ParseInt(e.Detail.Params.Get("lost_to"), 10, 64)
	if err == nil {
		v.lost[lostMark(size, e.Detail.Params.Get("lost_root"))] = true
	}
}

// events holds the events of a tile against its hashes. Missing says that they are not there.
func (v *sourceVerifier) events(ctx context.Context, t tileID, hashes []byte) (missing bool, err error) {
	first := t.index * tileWidth
	bundle, key, err := v.tile(ctx, t, true)
	if errors.Is(err, ErrNoObject) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	events, err := splitBundle(bundle)
	if err != nil || len(events) != widthOf(key) {
		v.add(KindEdited, first, uuid.UUID{}, key, "%s cannot be taken apart into %d events: somebody changed it", key, widthOf(key))
		return false, nil //nolint:nilerr // it is a finding
	}
	if err := v.narrower(ctx, t, true, bundle); err != nil {
		return false, err
	}
	for i, event := range events[:t.width] {
		v.Events++
		if hash := tlog.RecordHash(event); !bytes.Equal(hash[:], hashes[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			v.add(KindEdited, first+int64(i), idIn(event), key, "the event at leaf %d in %s is not what its hash says: somebody edited it, or the hash", first+int64(i), key)
			continue
		}
		v.recovery(event)
	}
	return false, nil
}

// idIn is the id that an event's bytes tell.
func idIn(event []byte) uuid.UUID {
	var e struct {
		ID uuid.UUID `json:"event_id"`
	}
	_ = json.Unmarshal(event, &e) // which tells nothing of bytes that are no event
	return e.ID
}

// expired decides whether the oldest events are gone because their retention is over.
func (v *sourceVerifier) expired(ctx context.Context, gone int64) {
	if v.opts.Retention > 0 && gone < v.head.N {
		t := tileID{index: gone / tileWidth, width: int(min(v.head.N-gone/tileWidth*tileWidth, tileWidth))}
		if bundle, _, err := v.tile(ctx, t, true); err == nil {
			if events, err := splitBundle(bundle); err == nil && len(events) > 0 {
				var e struct {
					At time.Time `json:"occurred_at"`
				}
				if json.Unmarshal(events[0], &e) == nil && v.opts.now().Sub(e.At) > v.opts.Retention-24*time.Hour {
					v.note("the events before leaf %d are no longer in the %s: their retention is over", gone, v.Where)
					return
				}
			}
		}
	}
	v.add(KindObject, 0, uuid.UUID{}, "", "the events before leaf %d are missing, though they should still be kept", gone)
}

// level holds the tiles of a higher level against the tree.
func (v *sourceVerifier) level(ctx context.Context, level int, made []tileHash) error {
	if len(made) == 0 {
		return nil
	}
	for _, t := range tilesOf(v.head.N, level, 0) {
		want := make([]byte, 0, t.width*tlog.HashSize)
		for _, m := range made[t.index*tileWidth : t.index*tileWidth+int64(t.width)] {
			want = append(want, m.hash[:]...)
		}
		got, key, err := v.tile(ctx, t, false)
		switch {
		case errors.Is(err, ErrNoObject):
			v.add(KindObject, leafOfKey(key), uuid.UUID{}, key, "%s is missing", key)
		case err != nil:
			return fmt.Errorf("read %s: %w", key, err)
		case len(got) != widthOf(key)*tlog.HashSize || !bytes.Equal(got[:len(want)], want):
			v.add(KindTree, leafOfKey(key), uuid.UUID{}, key, "%s is not what the tiles below it make: somebody changed it", key)
		default:
			if err := v.narrower(ctx, t, false, want); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare holds the database against storage: the same leaves, as far as both go.
func (v *sourceVerifier) compare(ctx context.Context) error {
	db := v.opts.DB
	h, err := readHead(ctx, db)
	if err != nil {
		return err
	}
	size := int64(0)
	if h != nil {
		size = h.Size
	}
	if size < v.newest.N {
		restored, err := v.restored(ctx)
		if err != nil {
			return err
		}
		if restored {
			v.note("the log was rebuilt from the bucket: leaves %d to %d had been signed and were lost with the database", size, v.newest.N-1)
		} else {
			v.add(KindRolledBack, size, uuid.UUID{}, "", "the database holds %d leaves, and %d were signed: it was replaced by an older one, or leaves from %d on were deleted", size, v.newest.N, size)
		}
	}
	both := min(size, int64(len(v.hashes)/tlog.HashSize))
	for from := int64(0); from < both; from += chunk {
		to := min(from+chunk, both)
		rows, err := db.QueryxContext(ctx, selectLeafTile, from, to)
		if err != nil {
			return fmt.Errorf("read leaves from %d: %w", from, err)
		}
		data, err := joinHashes(rows, int(to-from))
		if err != nil {
			return err
		}
		want := v.hashes[from*tlog.HashSize : to*tlog.HashSize]
		if bytes.Equal(data, want) {
			continue
		}
		for i := range int(to - from) {
			at := i * tlog.HashSize
			if at+tlog.HashSize > len(data) || !bytes.Equal(data[at:at+tlog.HashSize], want[at:at+tlog.HashSize]) {
				leaf := from + int64(i)
				v.add(KindForked, leaf, v.eventAt(ctx, leaf), "", "from leaf %d on the database holds another log than the %s", leaf, v.Where)
				return nil
			}
		}
	}
	return nil
}

func (v *sourceVerifier) restored(ctx context.Context) (yes bool, err error) {
	if err := v.opts.DB.GetContext(ctx, &yes, selectRestore, v.newest.Note, v.newest.N); err != nil {
		return false, fmt.Errorf("read what was restored: %w", err)
	}
	return yes, nil
}

// eventAt is the event that storage has at a leaf.
func (v *sourceVerifier) eventAt(ctx context.Context, leaf int64) uuid.UUID {
	t := tileID{index: leaf / tileWidth, width: int(min(v.head.N-leaf/tileWidth*tileWidth, tileWidth))}
	bundle, _, err := v.tile(ctx, t, true)
	if err != nil {
		return uuid.UUID{}
	}
	events, err := splitBundle(bundle)
	if err != nil || int(leaf%tileWidth) >= len(events) {
		return uuid.UUID{}
	}
	return idIn(events[leaf%tileWidth])
}
