package vault

import (
	"crypto/rand"
	"encoding/binary"
	"math/big"
	"slices"

	"github.com/privault/privault/vault/fpe"
	"github.com/privault/privault/vault/shape"
)

// The texts of new aliases. FF1 needs no table to give equal values equal tokens; the table says that a value is still
// there, and which texts are another's.

const (
	strategyFPE    = "fpe"    // an alias of the value, by FF1
	strategyFormat = "format" // an alias of the record, random in the field's shape
)

// shapesOfTypes are what a type's values look like, unless the definition says otherwise.
var shapesOfTypes = map[string]shape.Options{
	"pan":           {Luhn: "invalid", MinLength: 13, MaxLength: 19},
	"us_ssn":        {MinLength: 9, MaxLength: 9},
	"phone":         {MinLength: 8, MaxLength: 15, Separators: " +-()."},
	"email":         {Kind: "email"},
	"date":          {Kind: "date"},
	"date_of_birth": {Kind: "date"},
}

// shapeless are the types whose values are no text.
var shapeless = []string{"boolean", "json", "number"}

// shaped says whether the tokens have a shape: a deterministic one has it only if it is asked for.
func (t *TokenDefinition) shaped() bool {
	return t.Strategy == strategyFPE || t.Strategy == strategyFormat || t.Strategy == strategyDeterministic && t.Options != shape.Options{}
}

// shape makes the shape of a field's tokens and fills its defaults in; nil if they have none.
func (f *FieldDefinition) shape() (*shape.Shape, error) {
	t := &f.Token
	if !t.shaped() {
		return nil, nil
	}
	o := t.Options
	d := shapesOfTypes[f.Type]
	if o.Kind == "" {
		o.Kind = d.Kind
	}
	if o.Alphabet == "" && o.Characters == "" {
		o.Luhn = orText(o.Luhn, d.Luhn)
	}
	o.Separators = orText(o.Separators, d.Separators)
	if o.MinLength == 0 {
		o.MinLength = d.MinLength
	}
	if o.MaxLength == 0 {
		o.MaxLength = d.MaxLength
	}
	o.Reversible = t.Strategy == strategyFPE
	s, err := shape.New(o)
	if err != nil {
		return nil, err
	}
	t.Options = s.Options()
	t.Reversible = false // the strategy says it
	return s, nil
}

func orText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// mint makes texts for the values of one collection.
type mint struct {
	keys    *tenantKeys
	coll    *Collection
	ciphers map[uint16]*fpe.Cipher
}

// tries is how many texts are made for one alias: where a tenth of a space is full, one in ten thousand finds all of
// them taken, and is tried again.
const tries = 4

// triesInFull is the same where a space may be filled to over a half: by the texts of two FPE keys.
const triesInFull = 32

// text makes a text. Every attempt gives another one, if need be; the first of FF1 is always the same.
func (m *mint) text(f *field, plain []byte, attempt int) (string, error) {
	switch {
	case f.shape == nil:
		return newOpaque(), nil
	case f.strategy != strategyFPE:
		return f.shape.Random(rand.Reader, string(plain))
	}
	version := m.keys.fpe.current()
	c := m.ciphers[f.number]
	if c == nil {
		place := binary.BigEndian.AppendUint16(boundTo("privault/1/fpe-field", m.keys.deployment, m.keys.tenant, m.coll.id), f.number)
		key, err := m.keys.fpe.derive(version, place)
		if err != nil {
			return "", err
		}
		defer clear(key)
		if c, err = f.shape.Cipher(key); err != nil {
			return "", err
		}
		if m.ciphers == nil {
			m.ciphers = map[uint16]*fpe.Cipher{}
		}
		m.ciphers[f.number] = c
	}
	tweak := binary.BigEndian.AppendUint16(boundTo("", m.keys.tenant, m.coll.id), f.number)
	tweak = append(binary.BigEndian.AppendUint32(tweak, uint32(version)), byte(attempt))
	return f.shape.Encrypt(c, tweak, string(plain))
}

// texts makes those that an alias may have, the best first.
func (m *mint) texts(f *field, plain []byte) ([]string, error) {
	if f.shape == nil {
		return []string{newOpaque()}, nil
	}
	n := tries
	if f.strategy == strategyFPE && m.keys.fpe.current() > 1 {
		n = triesInFull
	}
	texts := make([]string, n)
	for i := range texts {
		var err error
		if texts[i], err = m.text(f, plain, i); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// keyVersion is that of the key that a field's texts are made with; 0: with none.
func (m *mint) keyVersion(f *field) int64 {
	if f.strategy == strategyFPE {
		return int64(m.keys.fpe.current())
	}
	return 0
}

// countedSpace is how many texts make a space too large to be counted: no table of aliases comes to a tenth of it.
var countedSpace = big.NewInt(1_000_000_000_000)

// space gives the digests (under every key, the primary one first) under which the texts that a value's random alias may
// have are counted, and how many of them may be taken: a tenth, so that nobody guesses one and a free one is found at once.
// nil: there are too many to count. FF1 fills its space to the last text, and is not counted.
func (m *mint) space(f *field, plain []byte) ([][]byte, int64, error) {
	if f.shape == nil || f.strategy == strategyFPE {
		return nil, 0, nil
	}
	size, err := f.shape.Size(string(plain))
	if err != nil || size.Cmp(countedSpace) > 0 {
		return nil, 0, err
	}
	kept, err := f.shape.Kept(string(plain))
	if err != nil {
		return nil, 0, err
	}
	digests, err := allDigests(m.keys.alias, append(digestInput("privault/1/space", m.coll.id, f.number), kept...))
	return digests, size.Int64() / 10, err
}

var errExhausted = &Error{Kind: FormatSpaceExhausted,
	Detail: "a tenth of the tokens that such a value could have are taken; let more of it vary, or use the strategy fpe"}

// checkShape validates the options of tokens with a shape.
func (f *FieldDefinition) checkShape(at string, bad func(pointer, rule, detail string)) {
	if f.Token.shaped() && slices.Contains(shapeless, f.Type) {
		bad(at+"/strategy", "not-applicable", "values of the types "+list(shapeless)+" have no shape")
		return
	}
	if _, err := f.shape(); err != nil {
		e := AsError(faultIn(err, at))
		for _, fault := range e.Fields {
			bad(fault.Pointer, fault.Rule, e.Detail)
		}
	}
}
