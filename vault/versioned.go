package vault

import (
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
)

// versioned is a PRF keyset whose keys callers name by small numbers: a key's version is its place in the keyset, from 1.
// Rotation adds a key at the end and makes it the primary. A key that was given a number may be disabled, never removed
// from the keyset: those behind it would change theirs, and what was made with them could not be read any more.
type versioned struct {
	set *prf.Set
	ids []uint32 // Tink's ids in the order of the keyset
}

func newVersioned(handle *keyset.Handle) (v versioned, err error) {
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return v, err
		}
		v.ids = append(v.ids, entry.KeyID())
	}
	v.set, err = prf.NewPRFSet(handle)
	return v, err
}

// current is the version of the primary key.
func (v versioned) current() int32 {
	for i, id := range v.ids {
		if id == v.set.PrimaryID {
			return int32(i) + 1
		}
	}
	return 0 // no keyset is without a primary
}

var errNoVersion = errors.New("the keyset has no such version")

// derive gives 32 bytes of the PRF under one version, or errNoVersion.
func (v versioned) derive(version int32, input []byte) ([]byte, error) {
	if version < 1 || int(version) > len(v.ids) {
		return nil, errNoVersion
	}
	f, enabled := v.set.PRFs[v.ids[version-1]]
	if !enabled {
		return nil, fmt.Errorf("%w: it is disabled", errNoVersion)
	}
	return f.ComputePRF(input, 32)
}
