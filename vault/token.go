package vault

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/tink-crypto/tink-go/v2/daead/aessiv"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/privault/privault/vault/base62"
	"github.com/privault/privault/vault/siv"
)

// A pointer token is `pvtk_` and the base62 text of
//
//	Tink prefix 5 (0x01 ‖ id of the `token` key) ‖ AES-SIV(record id 16 ‖ field number 2 ‖ epoch 2)
//
// with the deployment and tenant as associated data (RFC 5297). There is no row for it: it can't be forged, says
// nothing to those without the key, and is resolved by the record's primary key.
const (
	tokenPrefix  = "pvtk_"
	pointerSize  = 16 + 2 + 2
	tokenBytes   = prefixSize + siv.Overhead + pointerSize
	tokenPurpose = "privault/1/token"
)

// pointer is what a token points at.
type pointer struct {
	record ID
	field  uint16
	epoch  uint16
}

// tokenKeys are the keys of a `token` keyset. They are used without Tink, which would expand a key, and go over associated data that are
// always the same, for each token.
type tokenKeys struct {
	keys    *tenantKeys
	ids     map[uint32]bool // also of keys that are not enabled
	prefix  []byte          // of the primary key
	primary *siv.Key
	enabled map[uint32]*siv.Key
}

// sivKeySize is AES-256 twice: Tink takes no smaller keys for AES-SIV either.
const sivKeySize = 64

func (k *tenantKeys) tokenKeysOf(handle *keyset.Handle) (*tokenKeys, error) {
	t := &tokenKeys{keys: k, ids: keyIDs(handle), enabled: map[uint32]*siv.Key{}}
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, err
		}
		if entry.KeyStatus() != keyset.Enabled {
			continue
		}
		key, ok := entry.Key().(*aessiv.Key)
		if !ok {
			return nil, errors.New("it has a key that is not of AES-SIV")
		}
		prefix := key.OutputPrefix()
		if id, named := prefixOf(prefix); !named || id != entry.KeyID() || key.KeyBytes().Len() != sivKeySize {
			return nil, errors.New("it has a key of another size, or whose prefix does not name it")
		}
		raw := key.KeyBytes().Data(insecuresecretdataaccess.Token{})
		made, err := siv.New(raw, k.bound(tokenPurpose))
		clear(raw)
		if err != nil {
			return nil, err
		}
		t.enabled[entry.KeyID()] = made
		if entry.IsPrimary() {
			t.prefix, t.primary = prefix, made
		}
	}
	if t.primary == nil {
		return nil, errors.New("it has no primary key")
	}
	return t, nil
}

// seal appends to dst the primary key's prefix and the sealed text of plain.
func (t *tokenKeys) seal(dst, plain []byte) []byte {
	return t.primary.Seal(append(dst, t.prefix...), plain)
}

// openNow opens with the keys at hand.
func (t *tokenKeys) openNow(sealed []byte) ([]byte, error) {
	id, named := prefixOf(sealed)
	if key := t.enabled[id]; named && key != nil {
		return key.Open(make([]byte, 0, pointerSize), sealed[prefixSize:])
	}
	return nil, siv.ErrOpen
}

// tokenOf gives the text of a pointer; the same pointer has the same token as long as the key is the same.
func (k *tenantKeys) tokenOf(p pointer) string {
	plain := make([]byte, 0, pointerSize)
	plain = append(plain, p.record[:]...)
	plain = binary.BigEndian.AppendUint16(plain, p.field)
	plain = binary.BigEndian.AppendUint16(plain, p.epoch)
	sealed := k.token.seal(make([]byte, 0, tokenBytes), plain)
	text := make([]byte, 0, len(tokenPrefix)+base62.Len(tokenBytes))
	return string(base62.Append(append(text, tokenPrefix...), sealed))
}

// resolve reads a token. Whatever isn't one of this tenant's tokens is refused alike, without a look at the database.
func (k *tenantKeys) resolve(text string) (pointer, bool) {
	var p pointer
	body, found := strings.CutPrefix(text, tokenPrefix)
	sealed := make([]byte, tokenBytes)
	if !found || base62.Decode(sealed, body) != nil {
		return p, false
	}
	plain, err := k.token.open(sealed)
	if err != nil || len(plain) != pointerSize {
		return p, false
	}
	p.record = ID(plain[:16])
	p.field = binary.BigEndian.Uint16(plain[16:])
	p.epoch = binary.BigEndian.Uint16(plain[18:])
	return p, true
}
