package datatype

import (
	"bytes"
	"testing"
	"unicode"
)

func TestNormalise(t *testing.T) {
	for _, test := range []struct{ typ, value, want string }{
		{"name", "  Jane \t ROE ", "jane roe"},
		{"name", "Ängström", "ängström"},
		{"name", "A\u0308ngstro\u0308m", "ängström"}, // bad input 79: NFD and NFC meet
		{"name", "Straße", "strasse"},
		{"name", "ΣΊΣΥΦΟΣ", "σίσυφοσ"},
		{"text", "a\u00a0\u2003b", "a b"},
		{"string", "ABC-1", "abc-1"},
		{"string", " \t", ""},
		{"email", "Jane@EXAMPLE.com", "jane@example.com"},
		{"email", "jane@MÜNCHEN.de", "jane@xn--mnchen-3ya.de"},
		{"email", "jane@mu\u0308nchen.de", "jane@xn--mnchen-3ya.de"},
		{"email", "JE\u0301@example。com", "jé@example.com"},
		{"email", "not one", "not one"},
		{"phone", "+44 (0)20 7183-8750", "+442071838750"},
		{"phone", "+39 02 36618300", "+390236618300"},
		{"phone", "+1.415.555.2671", "+14155552671"},
		{"pan", "4111-1111 1111 1111", "4111111111111111"},
		{"us_ssn", "123-45-6789", "123456789"},
		{"date", "1978-05-06", "1978-05-06"},
		{"boolean", "true", "true"},
		{"number", "1.50", "15e-1"},
		{"number", "15e-1", "15e-1"},
		{"number", "0.15E+1", "15e-1"},
		{"number", "-100", "-1e2"},
		{"number", "-0.00e7", "0"},
		{"number", "1e99999999999999999999", "1e99999999999999999999"},
		{"number", "10e99999999999999999999", "1e100000000000000000000"},
		{"iban", "de89 3704 0044 0532 0130 00", "DE89370400440532013000"},
		{"address", "1 Main St.,\nSpringfield", "1 main st springfield"},
		{"postal_code", "sw1a 1aa", "SW1A1AA"},
		{"ip", "2001:0DB8:0:0::17", "2001:db8::17"},
		{"ip", "::ffff:192.0.2.17", "192.0.2.17"},
		{"url", "HTTP://MÜNCHEN.example:80/%7ejane/./a/../b%2f?q=%c3%a9#", "http://xn--mnchen-3ya.example/~jane/b%2F?q=%C3%A9"},
		{"url", "https://example.com", "https://example.com/"},
		{"url", "https://example.com:8443/%2e%2e/ä", "https://example.com:8443/%C3%A4"},
		{"url", "https://[2001:DB8::0017]/", "https://[2001:db8::17]/"},
		{"bytes", "\x00\xff", "\x00\xff"},
		{"json", `{ "b":1.0, "a" : "\u0061" }`, `{"a":"a","b":1.0}`},
		{"json", `9007199254740993`, `9007199254740993`}, // 2^53 + 1 stays apart from 2^53
	} {
		if got := lookup(t, test.typ).Normalise([]byte(test.value)); string(got) != test.want {
			t.Errorf("%s %q: %q, want %q", test.typ, test.value, got, test.want)
		}
	}
}

func TestCaseVariantsMeet(t *testing.T) {
	for r := rune(1); r <= unicode.MaxRune; r++ {
		other := unicode.SimpleFold(r)
		if other == r {
			continue
		}
		one, two := normaliseText([]byte(string(r))), normaliseText([]byte(string(other)))
		if !bytes.Equal(one, two) || !bytes.Equal(one, normaliseText(one)) {
			t.Errorf("%U and %U normalise to %q and %q", r, other, one, two)
		}
	}
}
