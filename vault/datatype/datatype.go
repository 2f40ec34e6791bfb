// Package datatype knows the types that values in the vault have: what is accepted, how it is stored, what two equal
// values have in common, and what of a value its mask shows.
//
// A value comes out as it went in, byte for byte: parsing checks and never rewrites. The normalised form serves matching
// only. No fault, mask or error holds a whole value, and a fault holds no part of one.
package datatype

import (
	"bytes"
	"errors"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// NormaliserVersion is the version of what Normalise answers. Blind indexes are built on that answer, so a change of it,
// be it by a new Unicode version or new telephone metadata, needs a new version and new indexes.
const NormaliserVersion = 1

// maxValue is the most bytes that any value has as it is stored: 64 KiB.
const maxValue = 64 << 10

// Type is one value type. It is immutable, safe for concurrent use, and comparable with ==. The zero Type is invalid: it
// parses nothing and masks everything.
type Type struct{ at int } // index into specs

// spec is what a type does. The functions get stored values; normalise and mask must bear any bytes.
type spec struct {
	name      string
	textMax   int                 // for types stored as the decoded string: the most bytes it may have. Zero: stored as JSON text
	check     func([]byte) *Fault // nil: nothing beyond the length
	normalise func([]byte) []byte
	mask      func([]byte) string
}

// specs are the types. The order is no part of any stored form.
var specs = [...]spec{
	{"", 0, checkNothing, bytes.Clone, hide},
	{"boolean", 0, checkBoolean, bytes.Clone, hide},
	{"date", maxValue, checkDate, bytes.Clone, maskDate},
	{"email", maxEmail, checkEmail, normaliseEmail, maskEmail},
	{"json", 0, checkJSON, normaliseJSON, hide},
	{"name", maxName, checkName, normaliseText, maskName},
	{"number", 0, checkNumber, normaliseNumber, hide},
	{"pan", maxValue, checkPAN, normalisePAN, maskPAN},
	{"phone", maxValue, checkPhone, normalisePhone, maskPhone},
	{"string", maxValue, nil, normaliseText, hide},
	{"text", maxValue, nil, normaliseText, hide},
	{"us_ssn", maxValue, checkSSN, normaliseSSN, maskSSN},
}

// Lookup finds a type by its exact name.
func Lookup(name string) (Type, bool) {
	for i := 1; i < len(specs); i++ {
		if specs[i].name == name {
			return Type{i}, true
		}
	}
	return Type{}, false
}

// Names are the names of all types, sorted.
func Names() []string {
	names := make([]string, 0, len(specs)-1)
	for _, s := range specs[1:] {
		names = append(names, s.name)
	}
	slices.Sort(names)
	return names
}

// Name is what Lookup finds the type by; empty for the zero Type.
func (t Type) Name() string { return specs[t.at].name }

// Parse gives the value in raw as it is stored, or says which rule it breaks. A JSON null is no value of any type.
//
// raw is one JSON value that jsontext has found valid under its default options, with white space around it or not. The
// answer is the decoded string for the text types and the JSON text without the white space around it for number,
// boolean and json. It may share raw's memory, so neither may be written to while the other is in use.
func (t Type) Parse(raw []byte) ([]byte, *Fault) {
	value, s := bytes.Trim(raw, " \t\r\n"), &specs[t.at]
	if s.textMax > 0 {
		var f *Fault
		if value, f = decodeText(value, s.textMax); f != nil {
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
	if specs[t.at].textMax == 0 {
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
//   - date, boolean: as stored
func (t Type) Normalise(value []byte) []byte { return specs[t.at].normalise(value) }

// Mask is what the view "masked" shows: enough for a support agent to recognise a value that somebody reads out, never
// enough to know it. It answers for any bytes, in valid UTF-8, and doesn't contain the value, normalised or not.
//
//   - email: j***@example.com; ***@example.com for a local part of one letter
//   - pan: ************1111; the last four digits, a star for each other one (PCI DSS 3.4.1 would let the BIN be seen too)
//   - us_ssn: ***-**-6789
//   - phone: +44********56; the calling code and the last two digits, as long as the E.164 number
//   - name: J*** R***; the first letter of each of the first four words, *** for a word of one or two letters
//   - date: 1978-**-**
//   - everything else: ***
func (t Type) Mask(value []byte) string { return specs[t.at].mask(value) }

func checkNothing([]byte) *Fault { return fault("type", "the field has no type") }
