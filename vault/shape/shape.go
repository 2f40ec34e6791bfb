// Package shape makes tokens that look like what they stand for: as many digits with the same separators, the same last
// four, a card number that is none, a date that exists, an e-mail address.
//
// Options say what stays and what varies; New checks them once and gives a Shape, which is immutable and safe for
// concurrent use.
//
//	s, err := shape.New(shape.Options{Alphabet: "digits", KeepSuffix: 4, Luhn: "invalid", MinLength: 13, Reversible: true})
//	cipher, err := s.Cipher(key)                  // FF1 with the shape's radix; keep it
//	token, err := s.Encrypt(cipher, tweak, value) // strategy fpe and transforms
//	value, err := s.Decrypt(cipher, tweak, token)
//	token, err := s.Random(rand.Reader, value)    // strategy format: needs no Reversible
//	space, err := s.Size(value)                   // how many tokens such a value can have, for the rule of the tenth
//
// # Rules
//
// Equal values must be equal texts to get equal tokens: separators pass through, so give Encrypt the spelling that the
// token shall have. What is kept goes into FF1's tweak together with the caller's; separators don't.
//
// A Reversible shape has at least fpe.MinDomain (a million) tokens for its shortest value, counted over the characters that
// really vary. A field of a type should set MinLength to the type's own least length.
//
// With a Luhn rule one digit follows from the others, the last that isn't kept. A value has to pass Luhn; its token passes
// it ("valid") or misses it by a fixed remainder ("invalid"), so that no token of such a field is ever taken for a card
// number. There is no rule that would take every row of digits: ten times as many values as tokens can't be told apart.
//
// No token equals its value. FF1 has fixed points, one on average over the whole domain, and they are exchanged with
// their neighbours (permute.go), which takes a second FF1 call.
//
// Every refusal is a *Fault, of an option or of a value, and none quotes a value.
package shape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/privault/privault/vault/fpe"
)

// Options are what a collection's definition or a transform says about the shape of tokens, by the names they have there.
// The zero Options are digits with spaces and dashes between them.
type Options struct {
	// Kind is "" for characters, or "email" or "date".
	Kind string `json:"shape,omitempty"`

	// Alphabet is what varies: "digits" (the default), "lower", "upper" or "alphanumeric" (0-9A-Za-z). Characters, in its
	// place, are a set of one's own; their order is part of what a token decrypts to.
	Alphabet   string `json:"alphabet,omitempty"`
	Characters string `json:"characters,omitempty"`
	// KeepPrefix and KeepSuffix are how many characters of the alphabet stay as they are at either end.
	KeepPrefix int `json:"keep_prefix,omitempty"`
	KeepSuffix int `json:"keep_suffix,omitempty"`
	// Separators pass through wherever they stand: space and dash unless set. None of them is in the alphabet.
	Separators string `json:"separators,omitempty"`
	// Luhn is "" (no rule), "valid" or "invalid"; digits only.
	Luhn string `json:"luhn,omitempty"`
	// MinLength and MaxLength bound what a value may have of characters of the alphabet, kept ones included. Unset, the least is
	// what the shape needs and the most is MaxLength.
	MinLength int `json:"min_length,omitempty"`
	MaxLength int `json:"max_length,omitempty"`
	// Length is what a random token has of them; the value's own if unset. For "email" it is the local part's, 16 if unset.
	Length int `json:"length,omitempty"`

	// Domain takes the place of an e-mail address's own, which stays if this is unset.
	Domain string `json:"domain,omitempty"`

	// From and To are the first and the last date that a token may be: 0001-01-01 and 9999-12-31 unless set.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`

	// Reversible shapes can Encrypt. The caller says so, by what the shape is for, and New checks what that takes.
	Reversible bool `json:"-"`
}

// MaxLength is the most characters of the alphabet that a value may have.
const MaxLength = 1024

// Fault is why options or a value were refused.
type Fault struct {
	Option string // the option by its JSON name; empty for a value
	Rule   string // "domain-too-small" where a million tokens are missing; else a word such as "luhn", "length"
	Detail string // for people; holds nothing of a value
}

func (f *Fault) Error() string { return f.Detail }

func refuse(option, rule, format string, args ...any) *Fault {
	return &Fault{option, rule, fmt.Sprintf(format, args...)}
}

// Shape is checked Options. It is immutable and safe for concurrent use.
type Shape struct {
	o        Options
	alphabet *fpe.Alphabet
	dates    dates
}

const (
	kindEmail = "email"
	kindDate  = "date"

	luhnValid   = "valid"
	luhnInvalid = "invalid"
)

var alphabets = map[string]string{
	"digits":       "0123456789",
	"lower":        "abcdefghijklmnopqrstuvwxyz",
	"upper":        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
	"alphanumeric": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
}

// New checks the options.
func New(o Options) (*Shape, error) {
	s := &Shape{o: o}
	var f *Fault
	switch o.Kind {
	case "":
		f = s.characters()
	case kindEmail:
		f = s.email()
	case kindDate:
		f = s.date()
	default:
		f = refuse("shape", "unknown", "a shape is email or date, or left out for characters of an alphabet")
	}
	if f != nil {
		return nil, f
	}
	return s, nil
}

// Options are what the shape was made of, with the defaults filled in.
func (s *Shape) Options() Options { return s.o }

// Cipher is FF1 with the radix of a Reversible shape. It is immutable: make it once for a key.
func (s *Shape) Cipher(key []byte) (*fpe.Cipher, error) {
	return fpe.New(key, s.radix(), fpe.MaxTweak)
}

func (s *Shape) radix() int {
	if s.o.Kind == kindDate {
		return 2
	}
	return s.alphabet.Radix()
}

// Encrypt gives the token of a value. It is never the value. The tweak says whose token it is: tenant, collection, field and
// key version, of a fixed length.
func (s *Shape) Encrypt(c *fpe.Cipher, tweak []byte, value string) (string, error) {
	return s.crypt(c, tweak, value, encrypt)
}

// Decrypt gives the value of a token that Encrypt made with the same cipher, tweak and options. Any other text of the
// shape gives some other value, and nothing tells them apart.
func (s *Shape) Decrypt(c *fpe.Cipher, tweak []byte, token string) (string, error) {
	return s.crypt(c, tweak, token, decrypt)
}

func (s *Shape) crypt(c *fpe.Cipher, tweak []byte, text string, way direction) (string, error) {
	if !s.o.Reversible || c.Radix() != s.radix() {
		return "", errors.New("shape: this shape or this cipher is not for encryption")
	}
	p, f := s.split(text)
	if f != nil {
		return "", f
	}
	from, to := 0, s.luhnRemainder()
	if way == decrypt {
		from, to = to, from
	}
	if s.o.Luhn != "" && luhn(p.row) != from {
		if way == decrypt {
			return "", refuse("", "luhn", "send a token of this shape: its check digit is another")
		}
		return "", refuse("", "luhn", "send digits whose Luhn check digit is right")
	}
	vary := p.vary(s)
	permuted, err := s.permute(c, s.tweak(p, tweak), vary, way)
	if err != nil {
		return "", err
	}
	copy(vary, permuted)
	return p.join(s, to), nil
}

// Random gives a token in the shape of value, from a source of random bytes. It is never the value, and may be a token that
// was given before: whoever stores it finds out.
func (s *Shape) Random(random io.Reader, value string) (string, error) {
	p, f := s.split(value)
	if f != nil {
		return "", f
	}
	if s.o.Length > 0 {
		p = p.resize(s)
	}
	for range 100 { // where ten tokens are possible, a hundred draws of the value itself are no accident
		if err := s.draw(random, p.vary(s)); err != nil {
			return "", err
		}
		if token := p.join(s, s.luhnRemainder()); token != value {
			return token, nil
		}
	}
	return "", refuse("", "domain-too-small", "no token of this shape differs from the value")
}

// Size is how many tokens a value such as this one can have: those that agree with it in all that is kept.
func (s *Shape) Size(value string) (*big.Int, error) {
	p, f := s.split(value)
	if f != nil {
		return nil, f
	}
	if s.o.Length > 0 {
		p = p.resize(s)
	}
	if s.o.Kind == kindDate {
		return big.NewInt(int64(s.dates.count)), nil
	}
	return possibilities(s.radix(), len(p.vary(s))), nil
}

// Kept says what the random tokens of a value have in common: values with equal answers share the tokens that Size counts.
func (s *Shape) Kept(value string) (string, error) {
	p, f := s.split(value)
	if f != nil {
		return "", f
	}
	length := len(p.row)
	if s.o.Length > 0 {
		length = s.o.Length
	}
	prefix, suffix := p.kept(s)
	return fmt.Sprintf("%d %d %s%s%s", length, len(prefix), prefix, suffix, p.tail), nil
}

func possibilities(radix, length int) *big.Int {
	return new(big.Int).Exp(big.NewInt(int64(radix)), big.NewInt(int64(length)), nil)
}

// tweak is what FF1 gets for one: the kept characters, each end after its length, and the caller's tweak.
func (s *Shape) tweak(p parts, callers []byte) []byte {
	prefix, suffix := p.kept(s)
	out := make([]byte, 0, 2*binary.MaxVarintLen16+len(prefix)+len(suffix)+len(callers))
	out = append(binary.AppendUvarint(out, uint64(len(prefix))), prefix...)
	out = append(binary.AppendUvarint(out, uint64(len(suffix))), suffix...)
	return append(out, callers...)
}
