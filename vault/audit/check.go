package audit

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Fetch gives a tile's bytes: 32 for each hash of it, or an entry bundle. A tile that is larger by now than asked for may be
// given whole.
type Fetch func(tlog.Tile) ([]byte, error)

// Hashes reads a tree's hashes from tiles, and only such as the checkpoint's root proves.
func Hashes(c Checkpoint, fetch Fetch) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, tiles{fetch})
}

// tiles is a tlog.TileReader.
type tiles struct{ fetch Fetch }

func (t tiles) Height() int { return TileHeight }

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	read := make([][]byte, len(wanted))
	for i, tile := range wanted {
		data, err := t.fetch(tile)
		if err != nil {
			return nil, err
		}
		if len(data) < tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s is too short", Path(tile))
		}
		read[i] = data[:tile.W*tlog.HashSize]
	}
	return read, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ProveInclusion proves that the tree has a leaf at an index.
func ProveInclusion(c Checkpoint, index int64, fetch Fetch) ([]tlog.Hash, error) {
	if index < 0 || index >= c.Size {
		return nil, fmt.Errorf("a tree of %d leaves has no leaf %d", c.Size, index)
	}
	return tlog.ProveRecord(c.Size, index, Hashes(c, fetch))
}

// ProveConsistency proves that the first leaves of the tree are a tree of that size, and gives its root.
func ProveConsistency(c Checkpoint, size int64, fetch Fetch) (tlog.Hash, []tlog.Hash, error) {
	switch {
	case size < 0 || size > c.Size:
		return tlog.Hash{}, nil, fmt.Errorf("a tree of %d leaves has no beginning of %d", c.Size, size)
	case size == c.Size:
		return c.Root, nil, nil
	case size == 0:
		return EmptyRoot, nil, nil
	}
	hashes := Hashes(c, fetch)
	root, err := tlog.TreeHash(size, hashes)
	if err != nil {
		return root, nil, err
	}
	proof, err := tlog.ProveTree(c.Size, size, hashes)
	return root, proof, err
}

// Check builds the whole tree anew from its entry bundles and compares every tile and the root. visit, if given, sees every
// leaf. Memory doesn't grow with the tree.
func Check(c Checkpoint, fetch Fetch, visit func(index int64, leaf []byte) error) error {
	b := builder{fetch: fetch, size: c.Size}
	tree, err := NewTree(0, nil)
	if err != nil {
		return err
	}
	for n := int64(0); n*TileWidth < c.Size; n++ {
		width := int(min(TileWidth, c.Size-n*TileWidth))
		leaves, err := bundle(tlog.Tile{H: TileHeight, L: Bundles, N: n, W: width}, fetch)
		if err != nil {
			return err
		}
		for i, leaf := range leaves {
			index := n*TileWidth + int64(i)
			if visit != nil {
				if err := visit(index, leaf); err != nil {
					return fmt.Errorf("leaf %d: %w", index, err)
				}
			}
			if err := b.add(Node{0, index, tlog.RecordHash(leaf)}); err != nil {
				return err
			}
			for _, node := range tree.Append(leaf) {
				if err := b.add(node); err != nil {
					return err
				}
			}
		}
	}
	if tree.Root() != c.Root {
		return errors.New("the leaves don't add up to the checkpoint's root: something was changed, removed or reordered")
	}
	return nil
}

func bundle(t tlog.Tile, fetch Fetch) ([][]byte, error) {
	data, err := fetch(t)
	if err != nil {
		return nil, err
	}
	leaves, err := Entries(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Path(t), err)
	}
	if len(leaves) < t.W {
		return nil, fmt.Errorf("%s has %d entries", Path(t), len(leaves))
	}
	return leaves[:t.W], nil
}

// builder puts hashes together to tiles and compares each with the one that the log gives.
type builder struct {
	fetch  Fetch
	size   int64
	levels [][]byte
}

func (b *builder) add(n Node) error {
	if n.Level == len(b.levels) {
		b.levels = append(b.levels, nil)
	}
	b.levels[n.Level] = append(b.levels[n.Level], n.Hash[:]...)
	built := b.levels[n.Level]
	width := len(built) / tlog.HashSize
	if width < TileWidth && n.Index+1 < b.size>>(TileHeight*n.Level) {
		return nil
	}
	tile := tlog.Tile{H: TileHeight, L: n.Level, N: n.Index / TileWidth, W: width}
	given, err := b.fetch(tile)
	if err != nil {
		return err
	}
	if len(given) < len(built) || !bytes.Equal(given[:len(built)], built) {
		return fmt.Errorf("%s is not what the entries make it", Path(tile))
	}
	b.levels[n.Level] = built[:0]
	return nil
}
