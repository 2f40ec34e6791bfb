package fpe

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Alphabet is an ordered set of characters (runes), of which the first stands for the numeral 0. It is immutable.
type Alphabet struct {
	runes []rune
	ascii [utf8.RuneSelf]int32 // the numeral, or -1
	other map[rune]uint16      // of the runes beyond ASCII
}

// ErrCharacter says that a text has a character that is not in the alphabet. It doesn't quote it.
var ErrCharacter = errors.New("fpe: a character is not in the alphabet")

// NewAlphabet makes an Alphabet of from 2 to MaxRadix characters, no two of them the same.
func NewAlphabet(characters string) (*Alphabet, error) {
	if !utf8.ValidString(characters) {
		return nil, errors.New("fpe: the alphabet is not UTF-8")
	}
	a := &Alphabet{runes: []rune(characters)}
	if n := len(a.runes); n < 2 || n > MaxRadix {
		return nil, fmt.Errorf("fpe: an alphabet has from 2 to %d characters, not %d", MaxRadix, n)
	}
	for i := range a.ascii {
		a.ascii[i] = -1
	}
	for i, r := range a.runes {
		if _, twice := a.Numeral(r); twice {
			return nil, fmt.Errorf("fpe: character %d of the alphabet stands there twice", i+1)
		}
		if r < utf8.RuneSelf {
			a.ascii[r] = int32(i)
			continue
		}
		if a.other == nil {
			a.other = make(map[rune]uint16)
		}
		a.other[r] = uint16(i)
	}
	return a, nil
}

// Radix is how many characters the alphabet has.
func (a *Alphabet) Radix() int { return len(a.runes) }

// Numeral is what r stands for, if it is in the alphabet.
func (a *Alphabet) Numeral(r rune) (uint16, bool) {
	if r >= 0 && r < utf8.RuneSelf {
		return uint16(a.ascii[r]), a.ascii[r] >= 0
	}
	numeral, ok := a.other[r]
	return numeral, ok
}

// Rune is what stands for a numeral below the radix.
func (a *Alphabet) Rune(numeral uint16) rune { return a.runes[numeral] }

// Numerals appends to dst the numerals of text, or fails with ErrCharacter.
func (a *Alphabet) Numerals(dst []uint16, text string) ([]uint16, error) {
	if !utf8.ValidString(text) { // an alphabet with U+FFFD would take broken bytes for it
		return nil, ErrCharacter
	}
	for _, r := range text {
		numeral, ok := a.Numeral(r)
		if !ok {
			return nil, ErrCharacter
		}
		dst = append(dst, numeral)
	}
	return dst, nil
}

// Text appends to dst the characters of numerals, or fails with ErrNumeral.
func (a *Alphabet) Text(dst []byte, numerals []uint16) ([]byte, error) {
	for _, numeral := range numerals {
		if int(numeral) >= len(a.runes) {
			return nil, ErrNumeral
		}
		dst = utf8.AppendRune(dst, a.runes[numeral])
	}
	return dst, nil
}
