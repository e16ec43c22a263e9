package ledger

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Tiles hold 256 hashes (C2SP tlog-tiles).
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	topLevel   = 7 // 256^8 leaves are more than an int64 counts
)

// edge is the right edge of a tree: the roots of the largest whole subtrees that it is made of, from left to right.
// It is all that is needed to go on from.
type edge struct {
	size  int64
	roots []tlog.Hash // one for each bit of size, the highest first
}

// tileHash is the root of a whole subtree of 256^level leaves, for a level from 1.
type tileHash struct {
	level int
	index int64
	hash  tlog.Hash
}

// add appends a leaf's hash, and the hashes of tiles above the lowest level that become whole by it to out.
func (e *edge) add(leaf tlog.Hash, out []tileHash) []tileHash {
	hash := leaf
	for height := 1; e.size>>(height-1)&1 == 1; height++ {
		hash = tlog.NodeHash(e.roots[len(e.roots)-1], hash)
		e.roots = e.roots[:len(e.roots)-1]
		if height%tileHeight == 0 {
			out = append(out, tileHash{level: height / tileHeight, index: e.size >> height, hash: hash})
		}
	}
	e.roots = append(e.roots, hash)
	e.size++
	return out
}

// root is the hash of the whole tree.
func (e *edge) root() tlog.Hash {
	if len(e.roots) == 0 {
		return emptyRoot
	}
	hash := e.roots[len(e.roots)-1]
	for i := len(e.roots) - 2; i >= 0; i-- {
		hash = tlog.NodeHash(e.roots[i], hash)
	}
	return hash
}

// emptyRoot is the hash of a tree without leaves: SHA-256 of nothing (RFC 6962 section 2.1).
var emptyRoot = tlog.Hash{
	0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
}

func (e *edge) clone() edge {
	return edge{size: e.size, roots: append(make([]tlog.Hash, 0, 64), e.roots...)}
}

// readEdge reads the right edge of a tree. What the reader gives is checked against the tree's root.
func readEdge(tree tlog.Tree, r tlog.HashReader) (edge, error) {
	e := edge{size: tree.N}
	var indexes []int64
	for height := bits.Len64(uint64(tree.N)) - 1; height >= 0; height-- { // #nosec G115 -- a size is not negative
		if tree.N>>height&1 == 1 {
			indexes = append(indexes, tlog.StoredHashIndex(height, tree.N>>height-1))
		}
	}
	if len(indexes) > 0 {
		roots, err := r.ReadHashes(indexes)
		if err != nil {
			return edge{}, err
		}
		e.roots = roots
	}
	if got := e.root(); got != tree.Hash {
		return edge{}, fmt.Errorf("the stored hashes make a tree with root %v, and the checkpoint of size %d has %v", got, tree.N, tree.Hash)
	}
	return e, nil
}

// tileID names a tile: hashes of one level, width of them from index*256.
type tileID struct {
	level int
	index int64
	width int
}

// path is the tile's path (C2SP tlog-tiles), below the log's prefix.
func (t tileID) path() string {
	return "tile/" + strconv.Itoa(t.level) + "/" + indexPath(t.index, t.width)
}

// bundlePath is the path of the events under a tile of the lowest level.
func (t tileID) bundlePath() string { return "tile/entries/" + indexPath(t.index, t.width) }

func indexPath(index int64, width int) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	if width != tileWidth {
		path += ".p/" + strconv.Itoa(width)
	}
	return path
}

// parseTilePath reads what path and bundlePath write, and nothing else.
func parseTilePath(path string) (t tileID, bundle, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return tileID{}, false, false
	}
	level, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return tileID{}, false, false
	}
	if level == "entries" {
		bundle = true
	} else {
		n, err := strconv.ParseUint(level, 10, 6)
		if err != nil || n > topLevel {
			return tileID{}, false, false
		}
		t.level = int(n)
	}
	t.width = tileWidth
	if index, partial, has := strings.Cut(rest, ".p/"); has {
		w, err := strconv.ParseUint(partial, 10, 8)
		if err != nil || w == 0 {
			return tileID{}, false, false
		}
		rest, t.width = index, int(w)
	}
	groups := strings.Split(rest, "/")
	if len(groups) > 6 {
		return tileID{}, false, false
	}
	for i, group := range groups {
		if i < len(groups)-1 {
			var has bool
			if group, has = strings.CutPrefix(group, "x"); !has {
				return tileID{}, false, false
			}
		}
		n, err := strconv.ParseUint(group, 10, 10)
		if err != nil || len(group) != 3 || n > 999 {
			return tileID{}, false, false
		}
		t.index = t.index*1000 + int64(n) // #nosec G115 -- three digits
	}
	again := t.path()
	if bundle {
		again = t.bundlePath()
	}
	return t, bundle, again == path // one spelling for each
}

// tilesOf lists the tiles of a level that a tree of this size has from one index on.
func tilesOf(size int64, level int, from int64) (tiles []tileID) {
	hashes := size >> (level * tileHeight)
	for index := from; index*tileWidth < hashes; index++ {
		tiles = append(tiles, tileID{level: level, index: index, width: int(min(hashes-index*tileWidth, tileWidth))})
	}
	return tiles
}

// TileSource gives the hashes of tiles, one after the other, from wherever a log is kept. It may give anything:
// what it gives is checked.
type TileSource interface {
	// Tile returns width*32 bytes.
	Tile(level int, index int64, width int) ([]byte, error)
}

// hashReader reads the hashes of a tree from its tiles, and checks each against the tree's root.
func hashReader(tree tlog.Tree, source TileSource) tlog.HashReader {
	return tlog.TileHashReader(tree, &tileReader{source: source})
}

// tileReader is what package tlog asks for tiles.
type tileReader struct{ source TileSource }

// Height implements tlog.TileReader.
func (*tileReader) Height() int { return tileHeight }

// ReadTiles implements tlog.TileReader.
func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, tile := range tiles {
		data, err := r.source.Tile(tile.L, tile.N, tile.W)
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %d of level %d has %d bytes, and should have %d", tile.N, tile.L, len(data), tile.W*tlog.HashSize)
		}
		out[i] = data
	}
	return out, nil
}

// SaveTiles implements tlog.TileReader.
func (*tileReader) SaveTiles([]tlog.Tile, [][]byte) {}
