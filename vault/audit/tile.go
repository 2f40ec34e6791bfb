package audit

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Bundles is the level under which a tile is an entry bundle: the leaves themselves.
const Bundles = -1

// Path is a tile's path below the log's prefix, as C2SP tlog-tiles spells it: tile/0/x001/x234/067.p/8.
func Path(t tlog.Tile) string {
	level := "entries"
	if t.L != Bundles {
		level = strconv.Itoa(t.L)
	}
	index := fmt.Sprintf("%03d", t.N%1000)
	for n := t.N / 1000; n > 0; n /= 1000 {
		index = fmt.Sprintf("x%03d/%s", n%1000, index)
	}
	path := "tile/" + level + "/" + index
	if t.W < TileWidth {
		path += ".p/" + strconv.Itoa(t.W)
	}
	return path
}

// ParsePath reads what Path writes, and nothing else.
func ParsePath(path string) (t tlog.Tile, ok bool) {
	parts := strings.Split(path, "/")
	if len(parts) < 3 || len(parts) > 9 || parts[0] != "tile" {
		return t, false
	}
	t = tlog.Tile{H: TileHeight, L: Bundles, W: TileWidth}
	if parts[1] != "entries" {
		level, err := strconv.Atoi(parts[1])
		if err != nil || level < 0 || level > 6 {
			return t, false
		}
		t.L = level
	}
	parts = parts[2:]
	if last := len(parts) - 1; last > 0 && strings.HasSuffix(parts[last-1], ".p") {
		width, err := strconv.Atoi(parts[last])
		if err != nil || width < 1 || width >= TileWidth {
			return t, false
		}
		t.W = width
		parts = parts[:last]
		parts[last-1] = strings.TrimSuffix(parts[last-1], ".p")
	}
	for _, part := range parts {
		n, err := strconv.Atoi(strings.TrimPrefix(part, "x"))
		if err != nil || n < 0 || n > 999 {
			return t, false
		}
		t.N = t.N*1000 + int64(n)
	}
	return t, Path(t) == path
}

// Exists says whether a tree of that size has the tile, whole or in part.
func Exists(t tlog.Tile, size int64) bool {
	level := max(t.L, 0)
	return t.N >= 0 && t.N < 1<<40 && t.N*TileWidth+int64(t.W) <= size>>(TileHeight*level)
}

// TilesOf gives every tile that a tree of that size has, entry bundles first, each level from left to right.
func TilesOf(size int64, visit func(tlog.Tile) error) error {
	for level := Bundles; level < Levels(size); level++ {
		count := size >> (TileHeight * max(level, 0))
		for n := int64(0); n*TileWidth < count; n++ {
			width := int(min(TileWidth, count-n*TileWidth))
			if err := visit(tlog.Tile{H: TileHeight, L: level, N: n, W: width}); err != nil {
				return err
			}
		}
	}
	return nil
}
