// Package datatype knows the types that values in the vault have: what is accepted, how it is stored, what two equal
// values have in common, and what of a value its mask shows.
//
// A value comes out as it went in, byte for byte: parsing checks and never rewrites. The normalised form serves matching
// only. No fault, mask or error holds a whole value, and a fault holds no part of one.
//
// # What a blind index is built on
//
// Derive gives the bytes whose keyed digest is a row of an index, and Seek gives those that a search is for, so that the
// two meet however the value and the question were spelled. The kinds, for a type that offers them (Type.Kinds):
//
//	exact      the normalised value                       "Jane@EXAMPLE.com"     jane@example.com
//	last4      the last four letters or digits            "4111 1111 1111 1111"  1111
//	domain     what stands after the @, as A-labels       "jane@münchen.de"      xn--mnchen-3ya.de
//	year       the year                                   "1978-05-06"           1978
//	prefix:n   the first n letters or digits, n 1 to 12   "+44 20 7183 8750"     prefix:4 is 4420
//
// Type.Cardinality says how many different entries a kind's index will have. An exact index of fewer than FewestValues is
// read off its frequencies by whoever sees the table: the rule index-domain-too-small refuses it.
package datatype

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// NormaliserVersion is the version of what Normalise answers. Blind indexes are built on that answer, so a change of it,
// be it by a new Unicode version or new telephone metadata, needs a new version and new indexes.
const NormaliserVersion = 1

// maxValue is the most bytes that any value has as it is stored: 64 KiB.
const maxValue = 64 << 10

// Type is one value type. It is immutable, safe for concurrent use, and comparable with ==. The zero Type is invalid: it
// parses nothing and masks everything.
type Type struct{ made *spec }

// spec is what a type does. The functions get stored values; normalise and mask must bear any bytes.
type spec struct {
	name       string
	about      string                        // for people
	examples   []string                      // values, as JSON
	telling    string                        // what kind of identifier it is, if the CCPA keeps it from being handed out
	textMax    int                           // for types that are JSON strings: the most bytes a string may have. Zero: stored as JSON text
	decode     func([]byte) ([]byte, *Fault) // of a string, what is stored; nil: the string itself
	encode     func([]byte) ([]byte, error)  // the other way, to JSON
	check      func([]byte) *Fault           // nil: nothing beyond the length
	normalise  func([]byte) []byte
	mask       func([]byte) string
	shows      shown                       // by mask
	generalise func([]byte) ([]byte, bool) // nil: there is no general form
	ends       ends
	index      index
	counted    func() *index // in its place, where it takes work to make
}

var noType = spec{check: checkNothing, normalise: bytes.Clone, mask: hide}

func (t Type) spec() *spec {
	if t.made == nil {
		return &noType
	}
	return t.made
}

// Lookup finds a type by its exact name.
func Lookup(name string) (Type, bool) {
	for i := range specs {
		if specs[i].name == name {
			return Type{&specs[i]}, true
		}
	}
	return Type{}, false
}

// Names are the names of all types, sorted.
func Names() []string {
	names := make([]string, 0, len(specs))
	for _, s := range specs {
		names = append(names, s.name)
	}
	return names
}

// Name is what Lookup finds the type by; empty for the zero Type.
func (t Type) Name() string { return t.spec().name }

// Nondisclosable says what kind of identifier a value is, in words for whoever it is about, if it is of those that an answer to
// a request to know must not give and must say are held (CCPA regulations, 11 CCR 7024(d)); else it is empty.
func (t Type) Nondisclosable() string { return t.spec().telling }

// Parse gives the value in raw as it is stored, or says which rule it breaks. A JSON null is no value of any type.
//
// raw is one JSON value that jsontext has found valid under its default options, with white space around it or not. The
// answer is the decoded string for the text types, the bytes behind the base64 for bytes, and the JSON text without the white
// space around it for number, boolean and json. It may share raw's memory, so neither may be written to while the other is in use.
func (t Type) Parse(raw []byte) ([]byte, *Fault) {
	value, s := bytes.Trim(raw, " \t\r\n"), t.spec()
	if s.textMax > 0 {
		var f *Fault
		if value, f = decodeText(value, s.textMax); f != nil {
			return nil, f
		}
	}
	if s.decode != nil {
		var f *Fault
		if value, f = s.decode(value); f != nil {
			return nil, f
		}
	}
	if s.check != nil {
		if f := s.check(value); f != nil {
			return nil, f
		}
	}
	return value, nil
}

// errNotText never quotes the value.
var errNotText = errors.New("datatype: the stored value is not UTF-8 text")

// JSON gives a stored value as JSON again: a string that decodes to the identical bytes for the text types, the JSON text
// itself for the others, which then shares value's memory. It fails on bytes that Parse never gave.
func (t Type) JSON(value []byte) ([]byte, error) {
	switch s := t.spec(); {
	case s.encode != nil:
		return s.encode(value)
	case s.textMax == 0:
		return value, nil
	}
	quoted, err := jsontext.AppendQuote(make([]byte, 0, len(value)+2), value)
	if err != nil {
		return nil, errNotText
	}
	return quoted, nil
}

// Normalise gives the form in which equal values of the type are equal bytes. It is for matching and never for storage,
// and it means something only for values that Parse gave. What it does, by type:
//
//   - string, text, name: canonical caseless matching (Unicode D145), then NFC; white space collapsed and trimmed
//   - email: the local part in lower case and NFC, the domain as A-labels. RFC 5321 lets the receiving host tell "Jane"
//     from "jane"; none that matters does, and two spellings of one mailbox must meet
//   - phone: E.164
//   - pan, us_ssn: the digits
//   - number: sign, digits and exponent, so that 1.50, 1.5 and 15e-1 are equal; exact, never by floating point
//   - json: no white space, members sorted, strings in shortest form, numbers as they were sent
//   - iban, postal_code: capitals and digits
//   - address: as text, with line breaks, commas, semicolons and full stops as spaces
//   - ip: RFC 5952; an IPv4 address inside an IPv6 one is the IPv4 address
//   - url: RFC 3986 6.2.2 and 6.2.3: case, percent-encoding, dot segments, default port; the host as A-labels
//   - date, date_of_birth, boolean, bytes: as stored
//   - custom: the field's own steps
func (t Type) Normalise(value []byte) []byte { return t.spec().normalise(value) }

// Mask is what the view "masked" shows of a field without a mask of its own (NewMask): enough for a support agent to recognise a value that somebody reads out, never
// enough to know it. It answers for any bytes, in valid UTF-8, and doesn't contain the value, normalised or not.
//
//   - email: j***@example.com; ***@example.com for a local part of one letter
//   - pan: ************1111; the last four digits, a star for each other one (PCI DSS 3.4.1 would let the BIN be seen too)
//   - us_ssn: ***-**-6789
//   - phone: +44********56; the calling code and the last two digits, as long as the E.164 number
//   - name: J*** R***; the first letter of each of the first four words, *** for a word of one or two letters
//   - date, date_of_birth: 1978-**-**
//   - iban: DE****************3000; the country and the last four characters
//   - postal_code: 94***; *** for one of fewer than five characters
//   - ip: 192.0.*.*, 2001:db8:***
//   - url: https://example.com/***; https://***.example.com/*** for a host below the registered domain
//   - everything else: ***
func (t Type) Mask(value []byte) string { return t.spec().mask(value) }

func checkNothing([]byte) *Fault { return fault("type", "the field has no type") }
