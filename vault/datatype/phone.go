package datatype

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/nyaruka/phonenumbers"
)

// E.164 6.1: at most 15 digits. What is sent may have separators, and the trunk zero of "+44 (0)20 …".
const (
	maxPhoneDigits = 15
	maxPhoneInput  = 40
)

// checkPhone accepts what E.164 could route: a known calling code and a possible length for it. Whether the number is
// *valid*, in a range given out today, is not asked: numbering plans change more often than a vault is updated, and a
// customer's new number must not be refused for that. Numbers that only work inside their own area are refused.
func checkPhone(value []byte) *Fault {
	if _, ok := parsePhone(value); !ok {
		return fault("e164", "send an international number in E.164 form, such as +442071838750; spaces, dashes, dots and parentheses may separate digits")
	}
	return nil
}

// phone is a number in E.164 form, and its calling code.
type phone struct {
	e164 string
	code int32
}

func parsePhone(value []byte) (phone, bool) {
	digits, ok := phoneDigits(value)
	if !ok {
		return phone{}, false
	}
	// ZZ is no region: the calling code decides. The library reads letters, extensions and "tel:" as well, which is why it
	// sees nothing but digits.
	number, err := phonenumbers.Parse("+"+digits, "ZZ")
	if err != nil || phonenumbers.IsPossibleNumberWithReason(number) != phonenumbers.IS_POSSIBLE {
		return phone{}, false
	}
	e164 := phonenumbers.Format(number, phonenumbers.E164)
	return phone{e164, number.GetCountryCode()}, len(e164) <= 1+maxPhoneDigits
}

// phoneDigits gives the ASCII digits after a plus sign, without the separators. The last character is a digit.
func phoneDigits(value []byte) (string, bool) {
	if len(value) < 2 || len(value) > maxPhoneInput || value[0] != '+' || !isDigit(value[len(value)-1]) {
		return "", false
	}
	digits := make([]byte, 0, len(value))
	for _, c := range value[1:] {
		switch {
		case isDigit(c):
			digits = append(digits, c)
		case strings.IndexByte(" -.()", c) < 0:
			return "", false
		}
	}
	return string(digits), true
}

func normalisePhone(value []byte) []byte {
	if p, ok := parsePhone(value); ok {
		return []byte(p.e164)
	}
	return bytes.Clone(value)
}

// maskPhone shows the last two digits only where four more stay hidden: a few calling codes have numbers of four digits.
func maskPhone(value []byte) string {
	p, ok := parsePhone(value)
	if !ok {
		return hide(value)
	}
	code := "+" + strconv.Itoa(int(p.code))
	national := len(p.e164) - len(code)
	if national < 6 {
		return code + strings.Repeat("*", national)
	}
	return code + strings.Repeat("*", national-2) + p.e164[len(p.e164)-2:]
}
