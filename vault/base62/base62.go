// Package base62 writes byte strings of a known length as 0-9A-Za-z text of a known length, and back.
//
// The alphabet is in ASCII order, so the texts of two byte strings of one length sort as the byte strings do.
// A byte string has exactly one text: what Decode accepts, Encode gives again.
package base62

import (
	"errors"
	"math/bits"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// digits of base 62 that one uint64 carries at a time: 62^10 < 2^60.
const (
	chunk     = 10
	chunkBase = 839299365868340224 // 62^10
)

// maxLimbs bounds the input to 48 bytes, so that the work needs no heap.
const maxLimbs = 6

// ErrText is what Decode answers for text that no byte string of that length encodes to. It never quotes the text.
var ErrText = errors.New("not base62 of that length")

// Len is how many characters n bytes (at most 48) take.
func Len(n int) int { return (n*8*100000 + 595418) / 595419 } // 8 / log2(62), rounded up; log2(62) = 5.954196…

// Append appends the text of b (at most 48 bytes) to dst: Len(len(b)) characters.
func Append(dst, b []byte) []byte {
	var limbs [maxLimbs]uint64 // little end first
	for i, c := range b {
		at := len(b) - 1 - i
		limbs[at/8] |= uint64(c) << (8 * (at % 8))
	}
	n := Len(len(b))
	start := len(dst)
	for range n {
		dst = append(dst, alphabet[0])
	}
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
		for i := end - 1; i >= 0 && i >= end-chunk; i-- {
			text[i] = alphabet[rest%62]
			rest /= 62
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
			d := digit(c)
			if d > 61 {
				return ErrText
			}
			carry = carry*62 + d
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
	for i := range out {
		at := len(out) - 1 - i
		out[i] = byte(limbs[at/8] >> (8 * (at % 8)))
		limbs[at/8] &^= 0xff << (8 * (at % 8))
	}
	if limbs != [maxLimbs]uint64{} { // larger than out can hold: a second text for the same bytes
		return ErrText
	}
	return nil
}

func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c >= 'A' && c <= 'Z':
		return uint64(c-'A') + 10
	case c >= 'a' && c <= 'z':
		return uint64(c-'a') + 36
	}
	return 62
}
