package audit_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// vectors visits the published vectors of a kind of proof (RFC 6962), those that must be refused too.
func vectors(t *testing.T, kind string, visit func(t *testing.T, raw []byte) (wantErr bool, err error)) {
	t.Helper()
	root := os.Getenv("PRIVAULT_VECTORS")
	if root == "" {
		t.Log("PRIVAULT_VECTORS is not set: the published vectors were not run")
		return
	}
	good, bad := 0, 0
	err := filepath.WalkDir(filepath.Join(root, "merkle", "testdata", kind), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		wantErr, got := visit(t, raw)
		if (got != nil) != wantErr {
			t.Errorf("%s: got %v, want an error: %t", path, got, wantErr)
		}
		if wantErr {
			bad++
		} else {
			good++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if good < 5 || bad < 20 {
		t.Errorf("only %d good and %d bad vectors", good, bad)
	}
}

// hashes makes hashes of bytes; one of another length is none.
func hashes(raw ...[]byte) ([]tlog.Hash, error) {
	all := make([]tlog.Hash, len(raw))
	for i, b := range raw {
		if len(b) != tlog.HashSize {
			return nil, fmt.Errorf("a hash of %d bytes", len(b))
		}
		copy(all[i][:], b)
	}
	return all, nil
}

func TestInclusionVectors(t *testing.T) {
	t.Parallel()
	vectors(t, "inclusion", func(t *testing.T, raw []byte) (bool, error) {
		t.Helper()
		var v struct {
			LeafIdx, TreeSize uint64
			Root, LeafHash    []byte
			Proof             [][]byte
			WantErr           bool
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		h, err := hashes(append([][]byte{v.Root, v.LeafHash}, v.Proof...)...)
		if err != nil {
			return v.WantErr, err
		}
		return v.WantErr, audit.CheckLeafHash(audit.Checkpoint{Size: int64(v.TreeSize), Root: h[0]}, int64(v.LeafIdx), h[1], h[2:])
	})
}

func TestConsistencyVectors(t *testing.T) {
	t.Parallel()
	vectors(t, "consistency", func(t *testing.T, raw []byte) (bool, error) {
		t.Helper()
		var v struct {
			Size1, Size2 int64
			Root1, Root2 []byte
			Proof        [][]byte
			WantErr      bool
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		for _, root := range []*[]byte{&v.Root1, &v.Root2} {
			if len(*root) != tlog.HashSize { // some vectors only ask whether two roots are equal
				sum := sha256.Sum256(*root)
				*root = sum[:]
			}
		}
		h, err := hashes(append([][]byte{v.Root1, v.Root2}, v.Proof...)...)
		if err != nil {
			return v.WantErr, err
		}
		return v.WantErr, audit.CheckConsistency(audit.Checkpoint{Size: v.Size1, Root: h[0]}, audit.Checkpoint{Size: v.Size2, Root: h[1]}, h[2:])
	})
}

// log is a tree in memory, as tiles.
type log struct {
	tree   *audit.Tree
	leaves [][]byte
	nodes  map[int][]tlog.Hash
}

func newLog(t testing.TB, size int) *log {
	t.Helper()
	tree, err := audit.NewTree(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &log{tree: tree, nodes: map[int][]tlog.Hash{}}
	for i := range size {
		leaf := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		l.leaves = append(l.leaves, leaf[:])
		l.nodes[0] = append(l.nodes[0], tlog.RecordHash(leaf[:]))
		for _, n := range tree.Append(leaf[:]) {
			if n.Index != int64(len(l.nodes[n.Level])) {
				t.Fatalf("node %d of level %d comes at place %d", n.Index, n.Level, len(l.nodes[n.Level]))
			}
			l.nodes[n.Level] = append(l.nodes[n.Level], n.Hash)
		}
	}
	return l
}

func (l *log) checkpoint() audit.Checkpoint {
	return audit.Checkpoint{Size: l.tree.Size, Root: l.tree.Root()}
}

func (l *log) fetch(t tlog.Tile) (data []byte, err error) {
	for i := t.N * audit.TileWidth; i < t.N*audit.TileWidth+int64(t.W); i++ {
		switch {
		case t.L == audit.Bundles && i < int64(len(l.leaves)):
			data = audit.AppendEntry(data, l.leaves[i])
		case t.L >= 0 && i < int64(len(l.nodes[t.L])):
			data = append(data, l.nodes[t.L][i][:]...)
		default:
			return nil, fmt.Errorf("no tile %s", audit.Path(t))
		}
	}
	return data, nil
}

var sizes = []int{0, 1, 2, 3, 7, 255, 256, 257, 511, 512, 700, 65535, 65536, 65537, 66000}

// The root that the edge gives is RFC 6962's, by another implementation, and taking the tree up by its edge changes nothing.
func TestRoots(t *testing.T) {
	t.Parallel()
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	for i, leaf := range newLog(t, sizes[len(sizes)-1]).leaves {
		more, err := tlog.StoredHashes(int64(i), leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	for _, size := range sizes {
		l := newLog(t, size)
		if size > 0 {
			want, err := tlog.TreeHash(int64(size), read)
			if err != nil || want != l.tree.Root() {
				t.Errorf("the root of %d leaves is %v, want %v, %v", size, l.tree.Root(), want, err)
			}
		}
		edge := make([][]tlog.Hash, audit.Levels(int64(size)))
		for level := range edge {
			edge[level] = l.nodes[level][len(l.nodes[level])-audit.Width(int64(size), level):]
		}
		again, err := audit.NewTree(int64(size), edge)
		if err != nil || again.Root() != l.tree.Root() {
			t.Errorf("a tree of %d leaves taken up again has another root, or %v", size, err)
		}
	}
}

func TestProofs(t *testing.T) {
	t.Parallel()
	l := newLog(t, 66000)
	now := l.checkpoint()
	for _, index := range []int64{0, 1, 255, 256, 65535, 65536, 65999} {
		proof, err := audit.ProveInclusion(now, index, l.fetch)
		if err != nil {
			t.Fatal(err)
		}
		if err := audit.CheckInclusion(now, index, l.leaves[index], proof); err != nil {
			t.Errorf("leaf %d: %v", index, err)
		}
		if audit.CheckInclusion(now, index, l.leaves[(index+1)%now.Size], proof) == nil || audit.CheckInclusion(now, index^1, l.leaves[index], proof) == nil {
			t.Errorf("the proof of leaf %d proves another", index)
		}
	}
	for _, size := range sizes {
		root, proof, err := audit.ProveConsistency(now, int64(size), l.fetch)
		older := newLog(t, size).checkpoint()
		if err != nil || root != older.Root {
			t.Errorf("the root of the first %d: %v", size, err)
		}
		if err := audit.CheckConsistency(older, now, proof); (err == nil) != (size > 0) {
			t.Errorf("from %d to %d: %v", size, now.Size, err)
		}
	}
}

// Whatever is changed in a log, Check says so.
func TestCheckSeesEveryChange(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		l := newLog(t, size)
		seen := 0
		err := audit.Check(l.checkpoint(), l.fetch, func(int64, []byte) error { seen++; return nil })
		if err != nil || seen != size {
			t.Fatalf("an honest log of %d: %v after %d leaves", size, err, seen)
		}
	}
	l := newLog(t, 66000)
	var all []tlog.Tile
	if err := audit.TilesOf(66000, func(t tlog.Tile) error { all = append(all, t); return nil }); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		victim := all[rand.IntN(len(all))]
		bit := rand.IntN(8)
		err := audit.Check(l.checkpoint(), func(t tlog.Tile) ([]byte, error) {
			data, err := l.fetch(t)
			if t == victim && err == nil {
				data[rand.IntN(len(data))] ^= 1 << bit
			}
			return data, err
		}, nil)
		if err == nil {
			t.Errorf("a changed bit in %s is not seen", audit.Path(victim))
		}
	}
	other := l.checkpoint()
	other.Root[3] ^= 1
	if audit.Check(other, l.fetch, nil) == nil {
		t.Error("another root is not seen")
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for want, tile := range map[string]tlog.Tile{
		"tile/0/000":                      {H: 8, L: 0, N: 0, W: 256},
		"tile/1/x001/234.p/8":             {H: 8, L: 1, N: 1234, W: 8},
		"tile/0/x001/x234/067":            {H: 8, L: 0, N: 1234067, W: 256},
		"tile/entries/x001/x234/067.p/12": {H: 8, L: audit.Bundles, N: 1234067, W: 12},
	} {
		if got := audit.Path(tile); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, ok := audit.ParsePath(want); !ok || got != tile {
			t.Errorf("%s is read as %v, %t", want, got, ok)
		}
	}
	for _, bad := range []string{"", "tile", "tile/0", "tile/0/", "tile/0/1", "tile/0/0000", "tile/0/-01", "tile/0/000.p/0", "tile/0/000.p/256",
		"tile/0/000.p/012", "tile/0/001/000", "tile/0/x000/001", "tile/8/000", "tile/00/000", "tile/-1/000", "tile/0/000/", "tile/data/000", "tile/0/000.p",
		"tile/0/x001/x001/x001/x001/x001/x001/x001/001", "tile/0/+01"} {
		if got, ok := audit.ParsePath(bad); ok {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func TestKeysAndCheckpoints(t *testing.T) {
	t.Parallel()
	first, firstPublic, err := audit.GenerateKey("vault.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := audit.GenerateKey("vault.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	old, err := audit.ParseKeys("# the key\n\n" + first + "  # now\n")
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := audit.ParseKeys(second + "\n" + firstPublic + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if old.Public()[0] != firstPublic || rotated.Public()[1] != firstPublic {
		t.Error("the public key of a private one is another")
	}
	root := newLog(t, 5).tree.Root()
	signed, err := old.Sign(5, root)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]*audit.Keys{"the key itself": old, "a later key file": rotated} {
		if c, err := keys.Open(signed); err != nil || c != (audit.Checkpoint{Origin: "vault.example/audit", Size: 5, Root: root}) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	fresh, err := rotated.Sign(5, root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Open(fresh); err == nil {
		t.Error("a checkpoint of a later key verifies with the old one")
	}
	// Anybody who has the note format and the public key can verify it.
	verifier, err := note.NewVerifier(firstPublic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(verifier)); err != nil {
		t.Error(err)
	}
	for i := range signed {
		changed := []byte(string(signed))
		changed[i] ^= 1
		if c, err := old.Open(changed); err == nil && (c.Size != 5 || c.Root != root) {
			t.Fatalf("a checkpoint changed at byte %d verifies as %+v", i, c)
		}
	}
	// Of a text that is no checkpoint no byte can be changed.
	receipt, err := old.SignText("a title\nname: value\n")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := rotated.OpenText("a title", receipt); err != nil || text != "a title\nname: value\n" {
		t.Errorf("%q, %v", text, err)
	}
	for i := range receipt {
		for bit := range 8 {
			changed := []byte(string(receipt))
			changed[i] ^= 1 << bit
			if _, err := old.OpenText("a title", changed); err == nil {
				t.Fatalf("a text with bit %d of byte %d changed verifies", bit, i)
			}
		}
	}
	if _, err := old.OpenText("another", receipt); err == nil {
		t.Error("a text verifies under another title")
	}
	another, _, err := audit.GenerateKey("other.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"nothing": "# nothing\n", "two names": first + "\n" + another, "rubbish": "key", "half a key": first[:len(first)-8],
		"a changed key": strings.Replace(first, "audit+", "audit+0", 1)} {
		if _, err := audit.ParseKeys(text); err == nil || strings.Contains(err.Error(), first[len(first)-20:]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	public, err := audit.ParseKeys(firstPublic)
	if err != nil || public.CanSign() {
		t.Errorf("a public key signs, or %v", err)
	}
	if _, err := public.Sign(5, root); err == nil {
		t.Error("a public key signs")
	}
	if _, _, err := audit.GenerateKey("not a name"); err == nil {
		t.Error("a name with spaces is taken")
	}
}

// docs/formats.md has this answer.
func TestLeafHasAKnownAnswer(t *testing.T) {
	t.Parallel()
	var salt, tenant [16]byte
	for i := range 16 {
		salt[i], tenant[i] = byte(i), byte(0x20+i)
	}
	if got, want := fmt.Sprintf("%x", audit.Leaf(salt, tenant, []byte(`{"id":"aud_1"}`))), "3bf76ca4c79108a8b7169971401b3a7fd36ac8b2f4c391a8f46dff2a6a1a9fbe"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
