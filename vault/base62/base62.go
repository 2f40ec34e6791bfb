// Package base62 writes byte strings of a known length as 0-9A-Za-z text of a known length, and back.
//
// The alphabet is in ASCII order, so the texts of two byte strings of one length sort as the byte strings do.
// A byte string has exactly one text: what Decode accepts, Encode gives again.
package base62

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// digits of base 62 that one uint64 carries at a time: 62^10 < 2^60.
const (
	chunk     = 10
	chunkBase = 839299365868340224 // 62^10
)

// pairs are two digits at a time.
var pairs = func() (pairs [62 * 62][2]byte) {
	for i := range pairs {
		pairs[i] = [2]byte{alphabet[i/62], alphabet[i%62]}
	}
	return pairs
}()

// maxLimbs bounds the input to 48 bytes, so that the work needs no heap.
const maxLimbs = 6

// ErrText is what Decode answers for text that no byte string of that length encodes to. It never quotes the text.
var ErrText = errors.New("not base62 of that length")

// Len is how many characters n bytes (at most 48) take.
func Len(n int) int { return (n*8*100000 + 595418) / 595419 } // 8 / log2(62), rounded up; log2(62) = 5.954196…

// Append appends the text of b (at most 48 bytes) to dst: Len(len(b)) characters.
func Append(dst, b []byte) []byte {
	var limbs [maxLimbs]uint64 // little end first
	for i, rest := 0, b; len(rest) > 0; i++ {
		var limb [8]byte
		low := rest[max(0, len(rest)-8):]
		copy(limb[8-len(low):], low)
		limbs[i], rest = binary.BigEndian.Uint64(limb[:]), rest[:len(rest)-len(low)]
	}
	n := Len(len(b))
	start := len(dst)
	dst = slices.Grow(dst, n)[:start+n]
	text := dst[start:]
	used := (len(b) + 7) / 8
	for end := n; end > 0; end -= chunk {
		for used > 0 && limbs[used-1] == 0 {
			used--
		}
		var rest uint64
		for i := used - 1; i >= 0; i-- {
			limbs[i], rest = bits.Div64(rest, limbs[i], chunkBase)
		}
		i := end
		for ; i > 1 && i > end-chunk; i -= 2 {
			copy(text[i-2:i], pairs[rest%uint64(len(pairs))][:])
			rest /= uint64(len(pairs))
		}
		if i == 1 && i > end-chunk {
			text[0] = alphabet[rest]
		}
	}
	return dst
}

// Encode is Append as a string.
func Encode(b []byte) string { return string(Append(make([]byte, 0, Len(len(b))), b)) }

// Decode fills out (at most 48 bytes) from its text, which must have exactly Len(len(out)) characters.
func Decode(out []byte, text string) error {
	if len(text) != Len(len(out)) {
		return ErrText
	}
	var limbs [maxLimbs]uint64 // little end first
	used := 0
	for start, size := 0, (len(text)-1)%chunk+1; start < len(text); start, size = start+size, chunk { // the first is the short one
		var carry uint64
		for _, c := range []byte(text[start : start+size]) {
			d := digits[c]
			if d > 61 {
				return ErrText
			}
			carry = carry*62 + uint64(d)
		}
		for i := range used {
			hi, lo := bits.Mul64(limbs[i], chunkBase)
			sum, over := bits.Add64(lo, carry, 0)
			limbs[i], carry = sum, hi+over
		}
		if carry != 0 {
			if used == maxLimbs {
				return ErrText
			}
			limbs[used] = carry
			used++
		}
	}
	for i, rest := 0, out; len(rest) > 0; i++ {
		var limb [8]byte
		binary.BigEndian.PutUint64(limb[:], limbs[i])
		low := rest[max(0, len(rest)-8):]
		copy(low, limb[8-len(low):])
		limbs[i] >>= 8 * len(low)
		rest = rest[:len(rest)-len(low)]
	}
	if limbs != [maxLimbs]uint64{} { // larger than out can hold: a second text for the same bytes
		return ErrText
	}
	return nil
}

// digits are the digits of characters; 62: it is none.
var digits = func() (digits [256]uint8) {
	for i := range digits {
		digits[i] = 62
	}
	for i, c := range []byte(alphabet) {
		digits[c] = uint8(i)
	}
	return digits
}()
