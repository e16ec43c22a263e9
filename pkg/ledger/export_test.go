package ledger

import (
	"context"

	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/tlog"
)

// OnStep has f called before each step of the sequencer that can fail; an error makes it fail there.
func (s *Sequencer) OnStep(f func(ctx context.Context, name string) error) { s.step = f }

// Edge is the right edge of a tree, for tests of it.
type Edge struct{ edge }

// Add appends a leaf.
func (e *Edge) Add(leaf tlog.Hash) (tiles int) { return len(e.add(leaf, nil)) }

// Root is the tree's hash.
func (e *Edge) Root() tlog.Hash { return e.root() }

// Statements are all the fixed statements that this package sends to the database, by name.
var Statements = map[string]string{
	"selectKeys": selectKeys, "insertKey": insertKey, "lockKeys": lockKeys, "resealKey": resealKey, "selectHead": selectHead,
	"selectLeafTile": selectLeafTile, "selectTile": selectTile, "selectEntries": selectEntries,
	"selectWriters": selectWriters, "selectGaps": selectGaps, "upsertWriters": upsertWriters, "deleteWriters": deleteWriters,
	"deleteGaps": deleteGaps, "insertGaps": insertGaps, "tryLock": tryLock, "selectCluster": selectCluster, "raiseEpoch": raiseEpoch,
	"selectRestore": selectRestore, "selectBatch": selectBatch, "selectBatchCarefully": selectBatchCarefully, "selectLate": selectLate,
	"insertLeaves": insertLeaves, "insertHashes": insertHashes, "insertCheckpoint": insertCheckpoint, "insertActors": insertActors,
	"notifyLedger": notifyLedger, "selectLateRange": selectLateRange, "selectNextTime": selectNextTime, "selectLag": selectLag,
	"selectEventLeaf": selectEventLeaf, "selectEventLeafAnywhere": selectEventLeafAnywhere, "selectSize": selectSize,
	"selectCheckpoints": selectCheckpoints, "selectDrops": selectDrops, "selectBeyond": selectBeyond,
	"selectHashesRange": selectHashesRange, "selectUnplaced": selectUnplaced,
}

// ParseTilePath and TilePath are for the fuzz target.
func ParseTilePath(path string) (again string, ok bool) {
	t, bundle, ok := parseTilePath(path)
	if bundle {
		return t.bundlePath(), ok
	}
	return t.path(), ok
}

// SplitBundle and PublicOf are for fuzz targets.
var (
	SplitBundle = splitBundle
	PublicOf    = publicOf
)

// Discard ends the session of a connection.
func Discard(conn *sqlx.Conn) { discard(conn) }
