package datatype

import (
	"bytes"
	"unicode"
)

const (
	maxAddress = 1024
	minPostal  = 3
	maxPostal  = 10 // letters and digits: the longest in the Universal Postal Union's list (Iran's)
)

// checkAddress accepts a postal address of one or more lines. There is no form that the addresses of all countries have.
func checkAddress(value []byte) *Fault {
	if bytes.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' }) {
		return fault("control", "remove control characters other than line breaks, tabs among them")
	}
	return nil
}

// normaliseAddress is normaliseText, with line breaks, commas, semicolons and full stops taken for spaces: they are where
// two spellings of one address differ most.
func normaliseAddress(value []byte) []byte {
	spaced := bytes.Map(func(r rune) rune {
		if r == ',' || r == ';' || r == '.' {
			return ' '
		}
		return r
	}, value)
	return normaliseText(spaced)
}

// checkPostal accepts what any country's postal code looks like; which country it is of, it doesn't say.
func checkPostal(value []byte) *Fault {
	if _, ok := compactPostal(value); !ok {
		return fault("postal-code", "send 3 to 10 letters and digits with a digit among them, with single spaces or dashes between them if any")
	}
	return nil
}

func compactPostal(value []byte) ([]byte, bool) {
	code, ok := compact(value, " -", 2*maxPostal)
	return code, ok && minPostal <= len(code) && len(code) <= maxPostal && bytes.ContainsAny(code, "0123456789")
}

func normalisePostal(value []byte) []byte {
	if code, ok := compactPostal(value); ok {
		return code
	}
	return bytes.Clone(value)
}

// maskPostal shows the first two characters of five and more.
func maskPostal(value []byte) string {
	code, ok := compactPostal(value)
	if !ok || len(code) < 5 {
		return hide(value)
	}
	return string(code[:2]) + stars
}

// foldPostal bears codes that are cut off at a separator.
func foldPostal(text []byte) ([]byte, bool) {
	return compact(bytes.Trim(text, " -"), " -", 2*maxPostal)
}
