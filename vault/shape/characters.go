package shape

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/privault/privault/vault/fpe"
)

// characters checks the options of a shape of characters.
func (s *Shape) characters() *Fault {
	o := &s.o
	if o.Domain != "" || o.From != "" || o.To != "" {
		return refuse("shape", "not-applicable", "domain, from and to are for the shapes email and date")
	}
	if f := s.chooseAlphabet(); f != nil {
		return f
	}
	if o.Luhn != "" && o.Luhn != luhnValid && o.Luhn != luhnInvalid {
		return refuse("luhn", "unknown", "luhn is valid or invalid, or left out")
	}
	if o.Luhn != "" && o.Alphabet != "digits" {
		return refuse("luhn", "not-applicable", "a Luhn rule is for the alphabet digits")
	}
	if o.Length > 0 && o.Reversible {
		return refuse("length", "not-applicable", "FF1 keeps the length of a value; length is for random tokens")
	}
	return s.lengths()
}

func (s *Shape) chooseAlphabet() *Fault {
	o := &s.o
	set := o.Characters
	switch {
	case set != "" && o.Alphabet != "":
		return refuse("characters", "not-applicable", "alphabet and characters exclude each other")
	case set == "":
		if o.Alphabet == "" {
			o.Alphabet = "digits"
		}
		var known bool
		if set, known = alphabets[o.Alphabet]; !known {
			return refuse("alphabet", "unknown", "an alphabet is digits, lower, upper or alphanumeric; characters takes a set of one's own")
		}
	}
	var err error
	if s.alphabet, err = fpe.NewAlphabet(set); err != nil {
		return refuse("characters", "alphabet", "%s", strings.TrimPrefix(err.Error(), "fpe: "))
	}
	if !utf8.ValidString(o.Separators) {
		return refuse("separators", "alphabet", "the separators are not UTF-8")
	}
	if o.Separators == "" {
		o.Separators = strings.Map(func(r rune) rune {
			if _, in := s.alphabet.Numeral(r); in {
				return -1
			}
			return r
		}, " -")
	}
	for _, r := range o.Separators {
		if _, in := s.alphabet.Numeral(r); in {
			return refuse("separators", "alphabet", "a separator is in the alphabet")
		}
	}
	return nil
}

// lengths checks how many characters there are and whether enough of them vary.
func (s *Shape) lengths() *Fault {
	o := &s.o
	for option, n := range map[string]int{"keep_prefix": o.KeepPrefix, "keep_suffix": o.KeepSuffix, "min_length": o.MinLength, "max_length": o.MaxLength, "length": o.Length} {
		if n < 0 || n > MaxLength {
			return refuse(option, "range", "%s is from 0 to %d", option, MaxLength)
		}
	}
	fixed := o.KeepPrefix + o.KeepSuffix
	if o.Luhn != "" {
		fixed++
	}
	need := fixed + 1
	if o.Reversible {
		need = fixed + fpe.MinLength(s.alphabet.Radix())
	}
	if o.MinLength == 0 {
		o.MinLength = need
	}
	if o.MaxLength == 0 {
		o.MaxLength = MaxLength
	}
	if o.MaxLength < o.MinLength {
		return refuse("max_length", "range", "max_length is below min_length, which is %d", o.MinLength)
	}
	if o.MinLength < need {
		return refuse("min_length", "domain-too-small", "%s", s.arithmetic(o.MinLength, need))
	}
	if o.Length > 0 && o.Length < fixed+1 {
		return refuse("length", "domain-too-small", "%s", s.arithmetic(o.Length, fixed+1))
	}
	return nil
}

// arithmetic shows why a value of so many characters has too few tokens.
func (s *Shape) arithmetic(length, need int) string {
	o, radix, vary := &s.o, s.alphabet.Radix(), length
	text := fmt.Sprintf("of %d characters", length)
	less := func(n int, why string) {
		if n > 0 {
			vary -= n
			text += fmt.Sprintf(", less %d %s", n, why)
		}
	}
	less(o.KeepPrefix, "of keep_prefix")
	less(o.KeepSuffix, "of keep_suffix")
	if o.Luhn != "" {
		less(1, "that the Luhn rule fixes")
	}
	vary = max(vary, 0)
	least := "1 has to vary"
	if o.Reversible {
		least = fmt.Sprintf("%d tokens are the least", fpe.MinDomain)
	}
	return fmt.Sprintf("%s, %d vary: %d^%d = %s tokens, and %s; let values have at least %d characters, or keep fewer",
		text, vary, radix, vary, possibilities(radix, vary), least, need)
}

// parts are a value taken apart. In a shape of characters row has the numerals of all characters of the alphabet, in a date
// the bits of its day.
type parts struct {
	runes []rune // the whole value
	at    []int  // where in runes the characters of the alphabet stand
	row   []uint16
	tail  string // of an e-mail address: "@" and the domain
}

func (s *Shape) split(text string) (parts, *Fault) {
	switch s.o.Kind {
	case kindDate:
		return s.splitDate(text)
	case kindEmail:
		return s.splitEmail(text)
	}
	if !utf8.ValidString(text) {
		return parts{}, refuse("", "characters", "send valid UTF-8")
	}
	p := parts{runes: []rune(text)}
	for i, r := range p.runes {
		if numeral, in := s.alphabet.Numeral(r); in {
			p.at, p.row = append(p.at, i), append(p.row, numeral)
		} else if !strings.ContainsRune(s.o.Separators, r) {
			return parts{}, refuse("", "characters", "send characters of the alphabet, with its separators among them or not")
		}
	}
	if len(p.row) < s.o.MinLength || len(p.row) > s.o.MaxLength {
		return parts{}, refuse("", "length", "send from %d to %d characters of the alphabet", s.o.MinLength, s.o.MaxLength)
	}
	return p, nil
}

// vary is the part of the row that varies freely.
func (p parts) vary(s *Shape) []uint16 {
	end := len(p.row) - s.o.KeepSuffix
	if s.o.Luhn != "" {
		end--
	}
	return p.row[s.o.KeepPrefix:end]
}

// kept are the characters that stay, at either end.
func (p parts) kept(s *Shape) (prefix, suffix string) {
	if s.o.Kind != "" {
		return "", ""
	}
	text := func(row []uint16) string {
		b, _ := s.alphabet.Text(nil, row) // the numerals came from this alphabet
		return string(b)
	}
	return text(p.row[:s.o.KeepPrefix]), text(p.row[len(p.row)-s.o.KeepSuffix:])
}

// resize gives the parts of a random token of the length that the options ask for, without separators.
func (p parts) resize(s *Shape) parts {
	n := s.o.Length
	row := make([]uint16, n)
	if s.o.Kind == "" {
		copy(row, p.row[:s.o.KeepPrefix])
		copy(row[n-s.o.KeepSuffix:], p.row[len(p.row)-s.o.KeepSuffix:])
	}
	at := make([]int, n)
	for i := range at {
		at[i] = i
	}
	return parts{runes: make([]rune, n), at: at, row: row, tail: p.tail}
}

// join writes the row back between the separators. Under a Luhn rule it sets the last digit that isn't kept so that the sum
// leaves the remainder.
func (p parts) join(s *Shape, remainder int) string {
	if s.o.Kind == kindDate {
		return s.dates.text(p.row)
	}
	if s.o.Luhn != "" {
		free := len(p.row) - s.o.KeepSuffix - 1
		for p.row[free] = 0; luhn(p.row) != remainder; p.row[free]++ { // each of the ten digits leaves another remainder
		}
	}
	out := slices.Clone(p.runes)
	for i, at := range p.at {
		out[at] = s.alphabet.Rune(p.row[i])
	}
	return string(out) + p.tail
}

// luhnRemainder is what the Luhn sum of a token leaves. Every remainder but 0 would do for "invalid"; one for all makes it
// one more thing by which a token is known.
func (s *Shape) luhnRemainder() int {
	if s.o.Luhn == luhnInvalid {
		return 5
	}
	return 0
}

// luhn is the sum of ISO/IEC 7812-1 annex B modulo 10.
func luhn(row []uint16) int {
	sum := 0
	for i, numeral := range row {
		d := int(numeral)
		if (len(row)-i)%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum % 10
}
