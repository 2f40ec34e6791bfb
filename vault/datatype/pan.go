package datatype

import (
	"bytes"
	"strings"
)

// ISO/IEC 7812-1 allows primary account numbers of up to 19 digits; the shortest that circulate have 13.
const (
	minPAN = 13
	maxPAN = 19
)

// checkPAN accepts ASCII digits, with single spaces or dashes between them, that end in their Luhn digit. Digits of other
// scripts and no-break spaces are refused: they would store one number under two spellings.
func checkPAN(value []byte) *Fault {
	digits, ok := groupedDigits(value, " -", maxPAN)
	if !ok || len(digits) < minPAN {
		return fault("pan", "send 13 to 19 digits, with single spaces or dashes between them if any")
	}
	if !luhn(digits) {
		return fault("luhn", "send a card number whose check digit is right")
	}
	return nil
}

// groupedDigits gives the ASCII digits of value, at most limit of them, where every separator stands between two digits.
func groupedDigits(value []byte, separators string, limit int) ([]byte, bool) {
	if len(value) > 2*limit {
		return nil, false
	}
	digits := make([]byte, 0, 2*maxPAN)
	between := false
	for _, c := range value {
		switch {
		case isDigit(c):
			digits, between = append(digits, c), true
		case between && strings.IndexByte(separators, c) >= 0:
			between = false
		default:
			return nil, false
		}
	}
	return digits, between && len(digits) <= limit
}

// luhn is ISO/IEC 7812-1 annex B: every second digit from the right is doubled, its digits are added, the sum ends in 0.
func luhn(digits []byte) bool {
	sum := 0
	for i, c := range digits {
		d := int(c - '0')
		if (len(digits)-i)%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func allDigits(b []byte) bool {
	for _, c := range b {
		if !isDigit(c) {
			return false
		}
	}
	return len(b) > 0
}

func normalisePAN(value []byte) []byte {
	if digits, ok := groupedDigits(value, " -", maxPAN); ok {
		return digits
	}
	return bytes.Clone(value)
}

func maskPAN(value []byte) string {
	digits, ok := groupedDigits(value, " -", maxPAN)
	if !ok || len(digits) < minPAN {
		return hide(value)
	}
	last := len(digits) - 4
	return strings.Repeat("*", last) + string(digits[last:])
}
