// Package audit is the evidence: the leaf that stands for an audit entry, the RFC 6962 tree over all leaves, its tiles as
// C2SP tlog-tiles has them, signed checkpoints, and the checks that an outsider makes of all this. It is pure: tiles come
// and go through functions that the caller gives it.
//
// A leaf hides its entry: it is a salted commitment. The tree can be published, and an entry can be forgotten when its time
// is over, without the tree losing anything.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// LeafSize is the length of a leaf's data, in bytes.
const LeafSize = sha256.Size

const leafPurpose = "privault/1/leaf"

// Leaf is what the tree holds of an entry: SHA-256 of the purpose, the entry's salt, its tenant, and its canonical JSON.
func Leaf(salt, tenant [16]byte, body []byte) (leaf [LeafSize]byte) {
	var most [2048]byte // enough for most entries, so that they need no allocation
	b := append(most[:0], leafPurpose...)
	b = append(b, salt[:]...)
	b = append(b, tenant[:]...)
	return sha256.Sum256(append(b, body...))
}

// AppendEntry writes a leaf into an entry bundle: its length in two bytes, then itself.
func AppendEntry(bundle, leaf []byte) []byte {
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(leaf))), leaf...)
}

// Entries takes an entry bundle apart.
func Entries(bundle []byte) (leaves [][]byte, err error) {
	for len(bundle) > 0 {
		if len(bundle) < 2 {
			return nil, errors.New("an entry bundle ends in the middle of a length")
		}
		n := int(binary.BigEndian.Uint16(bundle))
		if n != LeafSize {
			return nil, fmt.Errorf("an entry of %d bytes: a leaf has %d", n, LeafSize)
		}
		if len(bundle) < 2+n {
			return nil, errors.New("an entry bundle ends in the middle of an entry")
		}
		leaves = append(leaves, bundle[2:2+n])
		bundle = bundle[2+n:]
	}
	return leaves, nil
}

// CheckInclusion says whether a leaf is at that index of the tree.
func CheckInclusion(c Checkpoint, index int64, leaf []byte, proof []tlog.Hash) error {
	return CheckLeafHash(c, index, tlog.RecordHash(leaf), proof)
}

// CheckLeafHash is CheckInclusion for whoever has a leaf's hash only.
func CheckLeafHash(c Checkpoint, index int64, hash tlog.Hash, proof []tlog.Hash) error {
	return tlog.CheckRecord(proof, c.Size, c.Root, index, hash)
}

// CheckConsistency says whether the older tree is the beginning of the newer one. The empty tree is of every other, which
// proves nothing, so it is refused.
func CheckConsistency(older, newer Checkpoint, proof []tlog.Hash) error {
	switch {
	case older.Size < 1:
		return errors.New("the older tree is empty")
	case older.Size > newer.Size:
		return fmt.Errorf("the older tree has %d leaves, the newer one %d", older.Size, newer.Size)
	case older.Size == newer.Size:
		if len(proof) > 0 {
			return errors.New("a proof between trees of one size has no hashes")
		}
		if older.Root != newer.Root {
			return errors.New("two trees of one size have different roots")
		}
		return nil
	}
	return tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root)
}
