package datatype

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// The kinds of index. prefix:n is spelled with its number: prefix:6.
const (
	Exact  = "exact"
	Last4  = "last4"
	Domain = "domain"
	Year   = "year"
	prefix = "prefix:"
)

// FewestValues is how many different values an exact index must be expected to have. With fewer, their frequencies
// alone tell which entry is which (Naveed, Kamara, Wright, CCS 2015).
const FewestValues = 1024

const (
	longestPrefix = 12
	maxBIN        = 8      // ISO/IEC 7812-1: the issuer identification number; more of a PAN, beside its last four, is the PAN
	century       = 36_525 // days
	many          = math.MaxInt32
	expectedYears = 120
)

// index is what a type's indexes are built on. A kind that is zero is not offered.
type index struct {
	exact, last4 int                         // how many different entries are expected
	domain       func([]byte) (string, bool) // of a value
	year         func([]byte) (string, bool) // of a value
	fold         func([]byte) ([]byte, bool) // a normalised value, or a part of one that somebody typed, to what last4 and prefix count
	prefix       func(n int) int             // how many different entries are expected
	maxPrefix    int
}

func (t Type) index() *index {
	s := t.spec()
	if s.counted != nil {
		return s.counted()
	}
	return &s.index
}

// kind is a kind of index, taken apart.
type kind struct {
	name   string
	length int // of prefix
}

// parseKind takes prefix:01 and prefix:13 for no kind at all.
func parseKind(name string) kind {
	digits, isPrefix := strings.CutPrefix(name, prefix)
	if !isPrefix {
		return kind{name: name}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > longestPrefix || strconv.Itoa(n) != digits {
		return kind{}
	}
	return kind{prefix, n}
}

// Cardinality says how many different entries an index of the kind is expected to have: an estimate from above of what a
// population's values are, for numbers and dates what people have and not what can be written. Zero: the type offers no
// such index.
func (t Type) Cardinality(name string) int {
	x := t.index()
	switch k := parseKind(name); {
	case k.name == Exact:
		return x.exact
	case k.name == Last4:
		return x.last4
	case k.name == Domain && x.domain != nil:
		return many
	case k.name == Year && x.year != nil:
		return expectedYears
	case k.name == prefix && k.length <= x.maxPrefix:
		return x.prefix(k.length)
	}
	return 0
}

// Kinds are the kinds of index that the type offers, whatever their cardinality.
func (t Type) Kinds() []string {
	var kinds []string
	for _, name := range []string{Exact, Last4, Domain, Year} {
		if t.Cardinality(name) > 0 {
			kinds = append(kinds, name)
		}
	}
	for n := 1; n <= t.index().maxPrefix; n++ {
		kinds = append(kinds, prefix+strconv.Itoa(n))
	}
	return kinds
}

// Derive gives what the index of a kind holds of a stored value. It answers false if the type offers no such index or the
// value has no such part: a name of three letters has no prefix of four.
func (t Type) Derive(name string, value []byte) ([]byte, bool) {
	if t.Cardinality(name) == 0 {
		return nil, false
	}
	x, k := t.index(), parseKind(name)
	switch k.name {
	case Exact:
		return t.Normalise(value), true
	case Domain:
		return derived(x.domain(value))
	case Year:
		return derived(x.year(value))
	}
	folded, ok := x.fold(t.Normalise(value))
	if !ok {
		return nil, false
	}
	if k.name == Last4 {
		return last(folded, 4)
	}
	return first(folded, k.length)
}

func derived(part string, ok bool) ([]byte, bool) {
	if !ok {
		return nil, false
	}
	return []byte(part), true
}

// Seek gives what an index of the kind holds for what a search asks for, or says what is wrong with the question. raw is
// one JSON value, as for Parse: a whole value for exact, and else a string that holds the part, spelled as in a value.
func (t Type) Seek(name string, raw []byte) ([]byte, *Fault) {
	if t.Cardinality(name) == 0 {
		return nil, fault("index", "the field's type has no such index")
	}
	x, k := t.index(), parseKind(name)
	if k.name == Exact {
		value, f := t.Parse(raw)
		if f != nil {
			return nil, f
		}
		return t.Normalise(value), nil
	}
	text, f := decodeText(bytes.Trim(raw, " \t\r\n"), maxName)
	if f != nil {
		return nil, f
	}
	switch k.name {
	case Domain:
		host, ok := asciiDomain(string(text))
		if !ok {
			return nil, fault("domain", "send a full host name, such as example.com")
		}
		return []byte(host), nil
	case Year:
		if len(text) != 4 || !allDigits(text) {
			return nil, fault("year", "send a year of four digits")
		}
		return text, nil
	case Last4:
		k.length = 4
	}
	folded, ok := x.fold(text)
	if !ok || utf8.RuneCount(folded) != k.length {
		return nil, fault("length", "send exactly as many letters or digits as the index holds")
	}
	return folded, nil
}

func first(text []byte, n int) ([]byte, bool) {
	at := 0
	for range n {
		if at == len(text) {
			return nil, false
		}
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return text[:at], true
}

func last(text []byte, n int) ([]byte, bool) {
	at := len(text)
	for range n {
		if at == 0 {
			return nil, false
		}
		_, size := utf8.DecodeLastRune(text[:at])
		at -= size
	}
	return text[at:], true
}

// foldText leaves white space out: nobody knows whether a prefix of five has the space in it. An accent that stood behind
// a space then meets a letter.
func foldText(text []byte) ([]byte, bool) {
	return norm.NFC.Bytes(bytes.ReplaceAll(normaliseText(text), []byte(" "), nil)), true
}

// foldDigits gives the digits between separators.
func foldDigits(separators string) func([]byte) ([]byte, bool) {
	return func(text []byte) ([]byte, bool) {
		out := make([]byte, 0, len(text))
		for _, c := range text {
			switch {
			case isDigit(c):
				out = append(out, c)
			case strings.IndexByte(separators, c) < 0:
				return nil, false
			}
		}
		return out, true
	}
}

// letters is how many prefixes of n letters there are. Names use fewer: what is refused is refused rightly.
func letters(n int) int { return power(26, n) }

func digits(n int) int { return power(10, n) }

// national leaves out the calling code: nearly all the customers of a business share it.
func national(n int) int { return power(10, n-3) }

func power(base, n int) int {
	all := 1
	for range n {
		if all *= base; all >= many {
			return many
		}
	}
	return all
}

func emailDomain(value []byte) (string, bool) {
	_, domain, f := splitEmail(value)
	return domain, f == nil
}

func yearOf(value []byte) (string, bool) {
	if !isDate(value) {
		return "", false
	}
	return string(value[:4]), true
}
