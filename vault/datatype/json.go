package datatype

import (
	"bytes"
	"math/big"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxNumber = 40 // characters of a number literal: any 128-bit integer, or a decimal of 38 digits with sign and point
	maxDepth  = 32 // arrays and objects within each other
)

// checkNumber accepts a number literal. It is stored as it was sent: 1.50 stays 1.50, and no digit is lost.
func checkNumber(value []byte) *Fault {
	if !isNumber(value) {
		return fault("type", "send a JSON number")
	}
	if len(value) > maxNumber {
		return fault("max-length", "send a number of at most 40 characters")
	}
	return nil
}

func isNumber(value []byte) bool {
	return len(value) > 0 && (value[0] == '-' || isDigit(value[0]))
}

// normaliseNumber works on the digits. The exponent may itself have more digits than an int64 holds.
func normaliseNumber(value []byte) []byte {
	if !isNumber(value) || len(value) > maxNumber {
		return bytes.Clone(value)
	}
	mantissa, exponent := value, new(big.Int)
	if i := bytes.IndexAny(value, "eE"); i >= 0 {
		mantissa = value[:i]
		if _, ok := exponent.SetString(string(value[i+1:]), 10); !ok {
			return bytes.Clone(value)
		}
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	whole, negative := bytes.CutPrefix(whole, []byte("-"))
	all := bytes.TrimLeft(append(bytes.Clone(whole), fraction...), "0")
	digits := bytes.TrimRight(all, "0")
	if len(digits) == 0 {
		return []byte("0") // -0 and 0e9 too
	}
	exponent.Add(exponent, big.NewInt(int64(len(all)-len(digits)-len(fraction))))
	out := make([]byte, 0, 2*maxNumber)
	if negative {
		out = append(out, '-')
	}
	return exponent.Append(append(append(out, digits...), 'e'), 10)
}

func checkBoolean(value []byte) *Fault {
	if s := string(value); s != "true" && s != "false" {
		return fault("type", "send true or false")
	}
	return nil
}

// checkJSON accepts any value but null, which in a merge patch (RFC 7396) means that the field is taken away. Nulls inside
// are values. It relies on the text being valid: a backslash stands in strings only, and always has a character after it.
func checkJSON(value []byte) *Fault {
	switch {
	case len(value) == 0 || string(value) == "null":
		return fault("type", "send a JSON value other than null, or leave the field out")
	case len(value) > maxValue:
		return tooLong()
	}
	depth, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\':
			if i++; bytes.HasPrefix(value[i:], []byte("u0000")) {
				return hasNUL()
			}
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return fault("depth", "nest arrays and objects at most 32 deep")
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return nil
}

// normaliseJSON leaves the numbers alone: RFC 8785 would round them to floating point, and two that differ would meet.
func normaliseJSON(value []byte) []byte {
	out := jsontext.Value(bytes.Clone(value))
	if err := out.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return bytes.Clone(value)
	}
	return out
}
