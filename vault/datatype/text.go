package datatype

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// maxName is the most bytes a name has: beyond any name a register holds, short of a document put in the wrong field.
const maxName = 1024

const stars = "***"

// decodeText gives the string that raw is a JSON string of. U+0000 is refused because PostgreSQL's text cannot hold it
// and too much software stops reading there.
func decodeText(raw []byte, limit int) ([]byte, *Fault) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return nil, fault("type", "send a JSON string")
	}
	value := raw[1 : len(raw)-1 : len(raw)-1]
	if bytes.IndexByte(value, '\\') >= 0 {
		if len(value) > 6*limit { // \uXXXX is the longest way to write one byte
			return nil, tooLong()
		}
		var err error
		if value, err = jsontext.AppendUnquote(make([]byte, 0, len(value)), raw); err != nil {
			return nil, fault("type", "send a valid JSON string")
		}
		if bytes.IndexByte(value, 0) >= 0 {
			return nil, hasNUL()
		}
	}
	switch {
	case len(value) == 0:
		return nil, fault("min-length", "send at least one character, or leave the field out")
	case len(value) > limit:
		return nil, tooLong()
	}
	return value, nil
}

func tooLong() *Fault { return fault("max-length", "send a shorter value; the type limits its length") }

func hasNUL() *Fault { return fault("nul", "remove the character U+0000") }

func checkName(value []byte) *Fault {
	if bytes.ContainsFunc(value, unicode.IsControl) {
		return fault("control", "remove control characters, line breaks and tabs among them")
	}
	return nil
}

// normaliseText folds case on the decomposed form (Unicode D145: U+0345 would otherwise fold out of order).
func normaliseText(value []byte) []byte {
	if out, ok := normaliseASCII(value); ok {
		return out
	}
	folded := bytes.Map(foldCherokee, cases.Fold().Bytes(norm.NFD.Bytes(value)))
	return bytes.Join(bytes.Fields(norm.NFC.Bytes(folded)), []byte{' '})
}

// foldCherokee mends what cases.Fold does to Cherokee, whose small letters fold to the capitals: it swaps them, so that no
// two spellings meet (golang/go#46101). Behind Fold, the answer stays the same when that is repaired.
func foldCherokee(r rune) rune {
	if r >= utf8.RuneSelf && unicode.Is(unicode.Cherokee, r) {
		return unicode.ToUpper(r)
	}
	return r
}

// normaliseASCII is normaliseText for values that are ASCII throughout, in one pass.
func normaliseASCII(value []byte) ([]byte, bool) {
	out := make([]byte, 0, len(value))
	gap := false
	for _, c := range value {
		switch {
		case c >= utf8.RuneSelf:
			return nil, false
		case c == ' ' || '\t' <= c && c <= '\r':
			gap = len(out) > 0
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		if gap {
			out, gap = append(out, ' '), false
		}
		out = append(out, c)
	}
	return out, true
}

// hide is the mask that shows nothing. A value of nothing but stars would stand in it whole, so that gets another one.
func hide(value []byte) string {
	for _, r := range string(value) {
		if r != '*' && !unicode.IsSpace(r) {
			return stars
		}
	}
	return "[masked]"
}

// maskName counts letters in NFC, so that a letter and its accent are one however they were typed. Names with stars in
// them are hidden: J*** would be its own mask.
func maskName(value []byte) string {
	if !utf8.Valid(value) || bytes.IndexByte(value, '*') >= 0 {
		return hide(value)
	}
	var words []string
	for word := range strings.FieldsSeq(norm.NFC.String(string(value))) {
		first, size := utf8.DecodeRuneInString(word)
		if unicode.IsLetter(first) && utf8.RuneCountInString(word) > 2 {
			words = append(words, word[:size]+stars)
		} else {
			words = append(words, stars)
		}
		if len(words) == 4 {
			break
		}
	}
	if len(words) == 0 {
		return hide(value)
	}
	return strings.Join(words, " ")
}
