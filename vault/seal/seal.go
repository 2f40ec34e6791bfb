// Package seal turns a value into a box that opens in one place only, and keeps the boxes of a record together.
//
// Format 1 (docs/formats.md has known answers). A box is
//
//	nonce 12 ‖ AES-256-GCM ciphertext ‖ tag 16
//
// under the record's data-encryption key (DEK), with a random nonce (NIST SP 800-38D 8.2.2; a DEK seals at most a few
// hundred values in its life, so the 2^32 limit is out of reach), over
//
//	uvarint length of the value ‖ value ‖ zeros up to the padded length
//
// with the Place as associated data. A record's boxes stand one behind the other:
//
//	0x01 ‖ ( uvarint field number ‖ uvarint length ‖ box )*     field numbers rising
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Format is the first byte of a record's boxes and part of every associated data.
const Format = 1

// KeySize is the length of a DEK in bytes.
const KeySize = 32

// MaxValue is the longest value that can be sealed, in bytes.
const MaxValue = 1 << 20

// ErrOpen says that a box, its key and its place don't belong together, or that one of them was changed.
var ErrOpen = errors.New("box does not open in this place")

// Place is where a value lives. Everything in it is authenticated, so a box moved to any other place is refused.
type Place struct {
	Deployment, Tenant, Collection, Record [16]byte
	Field                                  uint32
	Version                                uint32 // of the record
}

// associated is the Place as associated data: fixed widths, so two places never write the same bytes.
func (p *Place) associated() []byte {
	ad := make([]byte, 0, 10+4*16+8)
	ad = append(ad, "privault/"...)
	ad = append(ad, Format)
	ad = append(ad, p.Deployment[:]...)
	ad = append(ad, p.Tenant[:]...)
	ad = append(ad, p.Collection[:]...)
	ad = append(ad, p.Record[:]...)
	ad = binary.BigEndian.AppendUint32(ad, p.Field)
	return binary.BigEndian.AppendUint32(ad, p.Version)
}

// Key seals and opens with one DEK. It is immutable and safe for concurrent use.
type Key struct{ aead cipher.AEAD }

// NewKey makes a Key of KeySize raw bytes, which it does not keep.
func NewKey(raw []byte) (Key, error) {
	if len(raw) != KeySize {
		return Key{}, fmt.Errorf("a DEK has %d bytes, not %d", KeySize, len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return Key{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return Key{aead}, err
}

// Seal appends the box of value in place to dst.
func (k Key) Seal(dst, value []byte, place Place) ([]byte, error) {
	if len(value) > MaxValue {
		return nil, fmt.Errorf("a value of %d bytes is longer than %d", len(value), MaxValue)
	}
	plain := make([]byte, padded(binary.MaxVarintLen32+len(value)))
	n := binary.PutUvarint(plain, uint64(len(value)))
	plain = plain[:padded(n+len(value))]
	copy(plain[n:], value)
	dst = k.aead.Seal(dst, nil, plain, place.associated())
	clear(plain)
	return dst, nil
}

// Open gives back the value that was sealed in place, or ErrOpen.
func (k Key) Open(box []byte, place Place) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, box, place.associated())
	if err != nil {
		return nil, ErrOpen
	}
	size, n := binary.Uvarint(plain)
	if n <= 0 || size > uint64(len(plain)-n) {
		return nil, ErrOpen
	}
	return plain[n : n+int(size) : n+int(size)], nil
}

// padded is the length that a plaintext of n bytes is filled up to, so that a box tells little of its value's length:
// steps of 32 up to 256, then Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication
// with PURBs", PoPETs 2019), which adds at most 12 %.
func padded(n int) int {
	step := 32
	if n > 256 {
		exponent := bits.Len(uint(n)) - 1
		step = 1 << (exponent - bits.Len(uint(exponent)))
	}
	return (n + step - 1) / step * step
}

// Boxes are a record's boxes in the order of their field numbers.
type Boxes []Box

// Box is the sealed value of one field.
type Box struct {
	Field  uint32
	Sealed []byte
}

// Pack writes the boxes as one byte string.
func (b Boxes) Pack() []byte {
	size := 1
	for _, box := range b {
		size += 2*binary.MaxVarintLen32 + len(box.Sealed)
	}
	out := make([]byte, 1, size)
	out[0] = Format
	for _, box := range b {
		out = binary.AppendUvarint(out, uint64(box.Field))
		out = binary.AppendUvarint(out, uint64(len(box.Sealed)))
		out = append(out, box.Sealed...)
	}
	return out
}

// Unpack reads what Pack wrote. The boxes alias packed.
func Unpack(packed []byte) (Boxes, error) {
	if len(packed) == 0 || packed[0] != Format {
		return nil, ErrOpen
	}
	var boxes Boxes
	for rest := packed[1:]; len(rest) > 0; {
		field, n := binary.Uvarint(rest)
		if n <= 0 || field > 1<<31 {
			return nil, ErrOpen
		}
		rest = rest[n:]
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return nil, ErrOpen
		}
		if last := len(boxes) - 1; last >= 0 && boxes[last].Field >= uint32(field) {
			return nil, ErrOpen
		}
		boxes = append(boxes, Box{uint32(field), rest[n : n+int(size)]})
		rest = rest[n+int(size):]
	}
	return boxes, nil
}

// Get finds a field's box.
func (b Boxes) Get(field uint32) ([]byte, bool) {
	for _, box := range b {
		if box.Field == field {
			return box.Sealed, true
		}
	}
	return nil, false
}
