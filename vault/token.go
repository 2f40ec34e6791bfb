package vault

import (
	"encoding/binary"
	"strings"

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

// token gives the text of a pointer; the same pointer has the same token as long as the key is the same.
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
