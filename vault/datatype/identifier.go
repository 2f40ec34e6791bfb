package datatype

import "strings"

// LooksLikePII says whether an opaque identifier, such as a subject's or an idempotency key, looks like the personal data
// that it should stand in for, and like which type: "email", "pan" or "us_ssn". Identifiers stand in URLs, logs and audit
// entries, where such data must not get. It is a guard against mistakes and no detector for free text.
//
//   - email: an @ with something on both sides.
//   - pan: 13 to 19 Luhn-valid digits and nothing else but the separators '-', '.', ':', '_' and ' '. One in ten bare
//     numbers of that length is Luhn-valid by chance, so serials of 13 digits and more need a prefix: "ord-1700000000006".
//   - pan, behind a prefix: between separators, 15 or 16 Luhn-valid digits beginning with 2 to 6, as all but a few cards
//     do. Time stamps begin with 1 and 64-bit serials have more digits.
//   - us_ssn: ddd-dd-dddd between separators, whatever its range, as taxpayer numbers (9dd-dd-dddd) look the same.
//   - us_ssn: nine bare digits in a range that is given out. Behind a prefix they pass: "cust-123456789" is an ordinary
//     serial.
//
// A UUID always passes: it has 32 digits in all, and groups of 8, 4 and 12.
func LooksLikePII(id string) (rule string, yes bool) {
	if at := strings.IndexByte(id, '@'); at > 0 && at < len(id)-1 {
		return "email", true
	}
	digits := make([]byte, 0, 2*maxPAN)
	for i := range len(id) {
		if isDigit(id[i]) {
			digits = append(digits, id[i])
		}
	}
	switch {
	case len(digits) < 9:
		return "", false
	case isWholePAN(id, digits), hasCardNumber(id):
		return "pan", true
	case len(id) == 9 && isAssignableSSN(digits), hasDashedSSN(id):
		return "us_ssn", true
	}
	return "", false
}

func isWholePAN(id string, digits []byte) bool {
	if len(digits) < minPAN || len(digits) > maxPAN || !luhn(digits) {
		return false
	}
	for i := range len(id) {
		if !isDigit(id[i]) && !isSeparator(id[i]) {
			return false
		}
	}
	return true
}

func hasCardNumber(id string) bool {
	for part := range strings.FieldsFuncSeq(id, func(r rune) bool { return r < 0x80 && isSeparator(byte(r)) }) {
		if (len(part) == 15 || len(part) == 16) && '2' <= part[0] && part[0] <= '6' && allDigits([]byte(part)) && luhn([]byte(part)) {
			return true
		}
	}
	return false
}

func hasDashedSSN(id string) bool {
	for from := 0; from+11 <= len(id); from++ {
		to := from + 11
		if isDashedSSN([]byte(id[from:to])) && (from == 0 || isSeparator(id[from-1])) && (to == len(id) || isSeparator(id[to])) {
			return true
		}
	}
	return false
}

func isSeparator(c byte) bool { return strings.IndexByte("-.:_ ", c) >= 0 }
