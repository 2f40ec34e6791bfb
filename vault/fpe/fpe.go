// Package fpe is format-preserving encryption: FF1 of NIST SP 800-38G, with the smallest domain of its Revision 1 (second
// public draft, 2025), a million.
//
// A Cipher turns a row of numerals, each below its radix, into another row of the same length, and back. An Alphabet
// (alphabet.go) stands between numerals and text. FF3 was withdrawn and is not here.
//
// There is nothing in the output to tell a right key or tweak from a wrong one: decrypting with either gives plausible
// rubbish. Whoever stores ciphertexts stores beside them which key they were made with.
//
// Halves below 2^120 are computed in machine words without allocating; longer ones by math/big, exactly. Neither takes
// constant time: division and math/big depend on the values.
package fpe

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// MaxRadix is the largest radix of FF1, and what a uint16 can count.
	MaxRadix = 1 << 16
	// MinDomain is the fewest rows of numerals that a Cipher tells apart: radix^length, SP 800-38G Rev. 1, section 5.
	// Smaller domains fall to the attacks of Durak and Vaudenay and of Hoang, Tessaro and Trieu.
	MinDomain = 1_000_000
	// MaxLength is the most numerals of a row. FF1 itself stops at 2^32; the work grows with the square of the length.
	MaxLength = 1 << 16
	// MaxTweak is the longest tweak that a Cipher can be made for, in bytes.
	MaxTweak = 1 << 16

	rounds = 10
)

// What Encrypt and Decrypt refuse. No error quotes a numeral or a tweak.
var (
	ErrNumeral = errors.New("fpe: a numeral is not below the radix")
	ErrShort   = errors.New("fpe: too few numerals: a million rows must be possible")
	ErrLong    = errors.New("fpe: too many numerals")
	ErrTweak   = errors.New("fpe: the tweak is longer than this cipher takes")
)

// Cipher is FF1 with one key and one radix. It is immutable and safe for concurrent use.
type Cipher struct {
	block      cipher.Block
	radix      uint64
	reciprocal uint64 // ⌊2^64 / radix⌋ + 1, see digits
	powers     []half // radix^0, radix^1, … below 2^120
	perWord    int    // the largest n of a radix^n below 2^64
	minLength  int
	maxTweak   int
}

// New makes a Cipher of an AES key of 16, 24 or 32 bytes, which it does not keep, for numerals below radix and tweaks of
// up to maxTweak bytes.
func New(key []byte, radix, maxTweak int) (*Cipher, error) {
	if radix < 2 || radix > MaxRadix {
		return nil, fmt.Errorf("fpe: a radix is from 2 to %d, not %d", MaxRadix, radix)
	}
	if maxTweak < 0 || maxTweak > MaxTweak {
		return nil, fmt.Errorf("fpe: the longest tweak is from 0 to %d bytes, not %d", MaxTweak, maxTweak)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("fpe: %w", err)
	}
	c := &Cipher{block: block, radix: uint64(radix), minLength: MinLength(radix), maxTweak: maxTweak}
	c.reciprocal = ^uint64(0)/c.radix + 1
	for power := (half{lo: 1}); ; power = power.mulAdd(c.radix, 0) {
		c.powers = append(c.powers, power)
		if power.hi == 0 {
			c.perWord = len(c.powers) - 1
		}
		if power.hi >= 1<<56/c.radix { // the next might reach 2^120
			break
		}
	}
	return c, nil
}

// MinLength is the least length whose rows of numerals below radix number at least MinDomain, and at least 2.
func MinLength(radix int) int {
	n := 2
	for domain := radix * radix; domain < MinDomain; domain *= radix {
		n++
	}
	return n
}

// Radix is what every numeral is below.
func (c *Cipher) Radix() int { return int(c.radix) }

// Encrypt appends to dst the numerals that src stands for under the tweak. Encrypt(x[:0], x, tweak) works in place.
func (c *Cipher) Encrypt(dst, src []uint16, tweak []byte) ([]uint16, error) {
	return c.apply(dst, src, tweak, encrypt)
}

// Decrypt undoes Encrypt with the same key, radix and tweak.
func (c *Cipher) Decrypt(dst, src []uint16, tweak []byte) ([]uint16, error) {
	return c.apply(dst, src, tweak, decrypt)
}

type direction bool

const (
	encrypt direction = false
	decrypt direction = true
)

func (c *Cipher) apply(dst, src []uint16, tweak []byte, way direction) ([]uint16, error) {
	switch {
	case len(src) < c.minLength:
		return nil, ErrShort
	case len(src) > MaxLength:
		return nil, ErrLong
	case len(tweak) > c.maxTweak:
		return nil, ErrTweak
	}
	if c.radix < MaxRadix {
		for _, numeral := range src {
			if uint64(numeral) >= c.radix {
				return nil, ErrNumeral
			}
		}
	}
	return c.feistel(dst, src, tweak, way), nil
}

// feistel is algorithms 7 and 8 of SP 800-38G. Its halves stay numbers from the first round to the last: each round
// replaces one of them by its sum with, or difference from, a keyed function of the other, modulo radix^(its length).
// Decrypting takes the rounds from the last to the first, and the halves the other way round.
func (c *Cipher) feistel(dst, src []uint16, tweak []byte, way direction) []uint16 {
	u := len(src) / 2
	wide := len(src)-u >= len(c.powers)
	moduli := [2]half{c.power(u, wide), c.power(len(src)-u, wide)}
	change, keep := c.number(src[:u], wide), c.number(src[u:], wide)
	if way == decrypt {
		change, keep = keep, change
	}
	f := functions.Get().(*function)
	f.start(c.block, c.parameters(len(src), len(tweak)), tweak, moduli[1].bytesBelow(), wide)
	for i := range rounds {
		round := i
		if way == decrypt {
			round = rounds - 1 - i
		}
		m := moduli[round%2]
		change = change.step(f.value(round, keep, m), m, way)
		change, keep = keep, change
	}
	functions.Put(f)
	if way == decrypt {
		change, keep = keep, change
	}
	n := len(dst)
	dst = append(dst, src...)
	c.digits(dst[n:n+u], change)
	c.digits(dst[n+u:], keep)
	return dst
}

// parameters are the block P of FF1.
func (c *Cipher) parameters(n, t int) (p [aes.BlockSize]byte) {
	p = [aes.BlockSize]byte{1, 2, 1, byte(c.radix >> 16), byte(c.radix >> 8), byte(c.radix), rounds, byte(n / 2)}
	binary.BigEndian.PutUint32(p[8:], uint32(n))
	binary.BigEndian.PutUint32(p[12:], uint32(t))
	return p
}
