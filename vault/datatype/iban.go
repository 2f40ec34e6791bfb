package datatype

import (
	"bytes"
	"strings"
)

// The lengths of an IBAN: ISO 13616-1 allows 34 characters, the shortest registered (Norway's) has 15.
const (
	minIBAN      = 15
	maxIBAN      = 34
	maxIBANInput = 2 * maxIBAN
)

// ibanForms are the national parts (BBAN) of the countries in SWIFT's IBAN Registry, the registration authority's list
// for ISO 13616, by country code: how many characters, and of which kind: n digits, a capitals, c both. No library for Go
// that keeps up with the registry exists. A country that joins needs a line here.
var ibanForms = map[string]string{
	"AD": "8n12c", "AE": "19n", "AL": "8n16c", "AT": "16n", "AZ": "4a20c", "BA": "16n", "BE": "12n", "BG": "4a6n8c",
	"BH": "4a14c", "BI": "23n", "BR": "23n1a1c", "BY": "4c4n16c", "CH": "5n12c", "CR": "18n", "CY": "8n16c", "CZ": "20n",
	"DE": "18n", "DJ": "23n", "DK": "14n", "DO": "4c20n", "EE": "16n", "EG": "25n", "ES": "20n", "FI": "14n", "FK": "2a12n",
	"FO": "14n", "FR": "10n11c2n", "GB": "4a14n", "GE": "2a16n", "GI": "4a15c", "GL": "14n", "GR": "7n16c", "GT": "24c",
	"HN": "4a20n", "HR": "17n", "HU": "24n", "IE": "4a14n", "IL": "19n", "IQ": "4a15n", "IS": "22n", "IT": "1a10n12c",
	"JO": "4a4n18c", "KW": "4a22c", "KZ": "3n13c", "LB": "4n20c", "LC": "4a24c", "LI": "5n12c", "LT": "16n", "LU": "3n13c",
	"LV": "4a13c", "LY": "21n", "MC": "10n11c2n", "MD": "20c", "ME": "18n", "MK": "3n10c2n", "MN": "16n", "MR": "23n",
	"MT": "4a5n18c", "MU": "4a19n3a", "NI": "4a20n", "NL": "4a10n", "NO": "11n", "OM": "3n16c", "PK": "4a16c", "PL": "24n",
	"PS": "4a21c", "PT": "21n", "QA": "4a21c", "RO": "4a16c", "RS": "18n", "RU": "14n15c", "SA": "2n18c", "SC": "4a20n3a",
	"SD": "14n", "SE": "20n", "SI": "15n", "SK": "20n", "SM": "1a10n12c", "SO": "19n", "ST": "21n", "SV": "4a20n",
	"TL": "19n", "TN": "20n", "TR": "5n1n16c", "UA": "6n19c", "VA": "18n", "VG": "4a16n", "XK": "16n", "YE": "4a4n18c",
}

// checkIBAN accepts an IBAN of a registered country, in groups with single spaces or without, in either case. Whether the
// account exists is the bank's to say.
func checkIBAN(value []byte) *Fault {
	iban, ok := compactIBAN(value)
	if !ok || len(iban) < minIBAN {
		return fault("iban", "send an IBAN: two letters, two digits, and letters and digits, with single spaces between groups if any")
	}
	form, known := ibanForms[string(iban[:2])]
	switch {
	case !known:
		return fault("iban-country", "send an IBAN of a country in the IBAN Registry")
	case !hasForm(iban[4:], form):
		return fault("iban", "send an IBAN of the length and form that its country has")
	case mod97(iban) != 1:
		return fault("mod97", "send an IBAN whose check digits are right")
	}
	return nil
}

// compactIBAN gives the capitals and digits of value without the spaces between them.
func compactIBAN(value []byte) ([]byte, bool) {
	iban, ok := compact(value, " ", maxIBANInput)
	if !ok || len(iban) < 4 || len(iban) > maxIBAN {
		return nil, false
	}
	return iban, isCapital(iban[0]) && isCapital(iban[1]) && isDigit(iban[2]) && isDigit(iban[3])
}

// compact gives the ASCII letters, as capitals, and digits of value, where every separator stands between two of them.
func compact(value []byte, separators string, limit int) ([]byte, bool) {
	if len(value) > limit {
		return nil, false
	}
	out := make([]byte, 0, len(value))
	between := false
	for _, c := range value {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		switch {
		case isDigit(c) || isCapital(c):
			out, between = append(out, c), true
		case between && strings.IndexByte(separators, c) >= 0:
			between = false
		default:
			return nil, false
		}
	}
	return out, between
}

func isCapital(c byte) bool { return 'A' <= c && c <= 'Z' }

// hasForm compares a BBAN with a form such as 4a10n.
func hasForm(bban []byte, form string) bool {
	n := 0
	for _, c := range []byte(form) {
		if isDigit(c) {
			n = 10*n + int(c-'0')
			continue
		}
		if len(bban) < n {
			return false
		}
		for _, b := range bban[:n] {
			if c == 'n' && !isDigit(b) || c == 'a' && !isCapital(b) {
				return false
			}
		}
		bban, n = bban[n:], 0
	}
	return len(bban) == 0
}

// mod97 is ISO/IEC 7064 MOD 97-10 as ISO 13616-1 uses it: the first four characters go to the end, and a letter counts as
// two digits from 10 on.
func mod97(iban []byte) int {
	rest := 0
	for i := range iban {
		switch c := iban[(i+4)%len(iban)]; {
		case isDigit(c):
			rest = (10*rest + int(c-'0')) % 97
		default:
			rest = (100*rest + int(c-'A') + 10) % 97
		}
	}
	return rest
}

func normaliseIBAN(value []byte) []byte {
	if iban, ok := compactIBAN(value); ok {
		return iban
	}
	return bytes.Clone(value)
}

// maskIBAN shows the country and the last four characters.
func maskIBAN(value []byte) string {
	iban, ok := compactIBAN(value)
	if !ok || len(iban) < minIBAN {
		return hide(value)
	}
	end := len(iban) - 4
	return string(iban[:2]) + strings.Repeat("*", end-2) + string(iban[end:])
}

func foldIBAN(text []byte) ([]byte, bool) { return compact(bytes.Trim(text, " "), " ", maxIBANInput) }
