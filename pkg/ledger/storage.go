package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Object is one version of an object in storage.
type Object struct {
	Key     string // below the chain's prefix
	Version string // empty where storage has no versions
	Size    int64
	At      time.Time
	Latest  bool
	Marker  bool // a delete marker: the object was deleted, its versions are there
	// Locked is until when the version cannot be deleted, and Mode how; as far as Stat tells.
	Locked time.Time
	Mode   string
}

// Source is storage that a log can be read from: a bucket, or a directory. It is trusted for nothing.
type Source interface {
	// Name is what people call it.
	Name() string
	// List calls f with every version of every object whose key begins with a prefix.
	List(ctx context.Context, prefix string, f func(Object) error) error
	// Get returns a version of an object, or the present one when the version is empty; ErrNoObject when there is none.
	Get(ctx context.Context, key, version string) ([]byte, error)
}

// Storage is a source that takes objects which nobody can overwrite or delete for a time.
type Storage interface {
	Source
	// Put stores an object, protected until then. With once it returns ErrExists when there is one by that key already.
	Put(ctx context.Context, key string, data []byte, until time.Time, once bool) error
	// Holds reports whether storage holds these bytes under the key now, protected at least until then.
	Holds(ctx context.Context, key string, data []byte, until time.Time) error
	// Extend protects a version for longer.
	Extend(ctx context.Context, key, version string, until time.Time) error
}

// ErrNoObject says that there is no such object, and ErrExists that there is one.
var (
	ErrNoObject = errors.New("there is no such object")
	ErrExists   = errors.New("there is such an object already")
)

// maxObject is the most bytes that an object of a log has: 256 events of 8 KB and their lengths.
const maxObject = tileWidth * (8<<10 + 2)

// Directory is a log in a folder, as it was copied out of a bucket.
type Directory string

// Name implements Source.
func (d Directory) Name() string { return "directory" }

// List implements Source.
func (d Directory) List(ctx context.Context, prefix string, f func(Object) error) error {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(name, prefix) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return f(Object{Key: name, Size: info.Size(), At: info.ModTime(), Latest: true})
	})
}

// Get implements Source.
func (d Directory) Get(_ context.Context, key, _ string) ([]byte, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	info, err := root.Stat(filepath.FromSlash(key))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoObject
	case err != nil:
		return nil, err
	case info.Size() > maxObject:
		return nil, fmt.Errorf("%s has %d bytes, more than any object of a log", key, info.Size())
	}
	return root.ReadFile(filepath.FromSlash(key))
}

// Store writes a file of the log.
func (d Directory) Store(key string, data []byte) error {
	name := filepath.Join(string(d), filepath.FromSlash(path.Clean("/"+key)))
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o640) // #nosec G306 -- a log is for whoever may read the folder
}

// sourceTiles gives the tiles of a log in storage: whole ones, and else the widest there is.
type sourceTiles struct {
	ctx    context.Context // of the one operation that it is made for
	source Source
}

// Tile implements TileSource.
func (s sourceTiles) Tile(level int, index int64, width int) ([]byte, error) {
	for _, w := range []int{width, tileWidth} {
		t := tileID{level: level, index: index, width: w}
		data, err := s.source.Get(s.ctx, t.path(), "")
		if errors.Is(err, ErrNoObject) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", t.path(), err)
		}
		if len(data) != w*32 {
			return nil, fmt.Errorf("%s has %d bytes, and should have %d", t.path(), len(data), w*32)
		}
		return data[:width*32], nil
	}
	return nil, fmt.Errorf("%s: %w", tileID{level: level, index: index, width: width}.path(), ErrNoObject)
}

// checkpointKey is where a checkpoint is put under a key that is never written twice.
func checkpointKey(at time.Time, size int64) string {
	return fmt.Sprintf("checkpoints/%s-%d", at.UTC().Format("2006/01/02/T150405Z"), size)
}

// appendEntry appends an event to a bundle: its length in two bytes, and its bytes (C2SP tlog-tiles).
func appendEntry(bundle, event []byte) []byte {
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(event))), event...) // #nosec G115 -- at most 8 KB
}

// splitBundle takes a bundle apart.
func splitBundle(bundle []byte) (events [][]byte, err error) {
	for len(bundle) > 0 {
		if len(bundle) < 2 {
			return nil, errors.New("it ends within a length")
		}
		n := int(bundle[0])<<8 | int(bundle[1])
		if len(bundle) < 2+n {
			return nil, errors.New("it ends within an event")
		}
		events = append(events, bundle[2:2+n])
		bundle = bundle[2+n:]
	}
	return events, nil
}

// Copy copies the present version of every object of a log into a folder, for whoever wants to verify it elsewhere.
func Copy(ctx context.Context, from Source, to Directory) (objects int, err error) {
	var keys []string
	if err := from.List(ctx, "", func(o Object) error {
		if o.Latest && !o.Marker {
			keys = append(keys, o.Key)
		}
		return nil
	}); err != nil {
		return 0, err
	}
	for _, key := range keys {
		data, err := from.Get(ctx, key, "")
		if err != nil {
			return objects, fmt.Errorf("read %s: %w", key, err)
		}
		if err := to.Store(key, data); err != nil {
			return objects, fmt.Errorf("write %s: %w", key, err)
		}
		objects++
	}
	return objects, nil
}
