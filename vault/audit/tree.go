package audit

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// The height of a tile, and how many hashes a full one has.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
)

// EmptyRoot is the root of a tree without leaves.
var EmptyRoot = tlog.Hash(sha256.Sum256(nil))

// Tree is the right edge of a tree, which is all that growing it takes: the hashes of the tile that isn't full yet, for
// each level of tiles.
type Tree struct {
	Size int64
	edge [][]tlog.Hash
}

// Node is a hash that a tile of level 1 or more holds: the root of a full tile of the level below.
type Node struct {
	Level int
	Index int64
	Hash  tlog.Hash
}

// Width is how many hashes the last tile of a level has, if it isn't full; 0 if there is none.
func Width(size int64, level int) int { return int(size>>(TileHeight*level)) % TileWidth }

// Levels is how many levels of tiles a tree has.
func Levels(size int64) int { return (bits.Len64(uint64(size)) + TileHeight - 1) / TileHeight }

// NewTree takes up a tree by its edge.
func NewTree(size int64, edge [][]tlog.Hash) (*Tree, error) {
	if len(edge) != Levels(size) {
		return nil, fmt.Errorf("the edge of a tree of %d leaves has %d levels, not %d", size, Levels(size), len(edge))
	}
	for level, hashes := range edge {
		if len(hashes) != Width(size, level) {
			return nil, fmt.Errorf("the edge of a tree of %d leaves has %d hashes at level %d, not %d", size, Width(size, level), level, len(hashes))
		}
	}
	return &Tree{Size: size, edge: edge}, nil
}

// Append adds a leaf and gives the nodes that it completed, from the lowest level up.
func (t *Tree) Append(leaf []byte) (nodes []Node) {
	t.Size++
	hash := tlog.RecordHash(leaf)
	for level := 0; ; level++ {
		if level == len(t.edge) {
			t.edge = append(t.edge, nil)
		}
		t.edge[level] = append(t.edge[level], hash)
		if len(t.edge[level]) < TileWidth {
			return nodes
		}
		hash = perfect(t.edge[level])
		t.edge[level] = t.edge[level][:0]
		nodes = append(nodes, Node{level + 1, t.Size>>(TileHeight*(level+1)) - 1, hash})
	}
}

// Root is the tree's root hash (RFC 6962, 2.1).
func (t *Tree) Root() tlog.Hash {
	if t.Size == 0 {
		return EmptyRoot
	}
	var whole []tlog.Hash // the perfect trees side by side, the largest first
	for level := len(t.edge) - 1; level >= 0; level-- {
		rest := t.edge[level]
		for len(rest) > 0 {
			n := 1 << (bits.Len(uint(len(rest))) - 1)
			whole = append(whole, perfect(rest[:n]))
			rest = rest[n:]
		}
	}
	root := whole[len(whole)-1]
	for i := len(whole) - 2; i >= 0; i-- {
		root = tlog.NodeHash(whole[i], root)
	}
	return root
}

// perfect is the root over a power of two of hashes.
func perfect(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(perfect(hashes[:half]), perfect(hashes[half:]))
}
