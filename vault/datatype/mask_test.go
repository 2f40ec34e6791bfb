package datatype

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestMask(t *testing.T) {
	for _, test := range []struct{ typ, value, want string }{
		{"email", "jane@example.com", "j***@example.com"},
		{"email", "jo@example.com", "j***@example.com"},
		{"email", "j@example.com", "***@example.com"},
		{"email", "e\u0301@example.com", "***@example.com"}, // one letter, two code points
		{"email", "Édith@EXAMPLE.com", "É***@EXAMPLE.com"},
		{"email", "j***@example.com", "***@example.com"},
		{"email", "***@example.com", "***"},
		{"email", "not an address", "***"},
		{"pan", "4111111111111111", "************1111"},
		{"pan", "4111 1111-1111 1111", "************1111"},
		{"pan", "378282246310005", "***********0005"},
		{"pan", "4222222222222", "*********2222"},
		{"pan", "4111", "***"},
		{"us_ssn", "123-45-6789", "***-**-6789"},
		{"us_ssn", "123456789", "***-**-6789"},
		{"us_ssn", "6789", "***"},
		{"phone", "+44 20 7183 8750", "+44********50"},
		{"phone", "+14155552671", "+1********71"},
		{"phone", "+29012345", "+290*****"}, // too short to show any digit of
		{"phone", "not a number", "***"},
		{"name", "Jane Roe", "J*** R***"},
		{"name", "  jane\u00a0roe ", "j*** r***"},
		{"name", "J", "***"},
		{"name", "Al Bo", "*** ***"},
		{"name", "Zoe\u0308", "Z***"},
		{"name", "O\u0308z", "***"}, // two letters, three code points
		{"name", "Maria del Carmen de la Cruz", "M*** d*** C*** ***"},
		{"name", "(Jane)", "***"},
		{"name", "J***", "***"},
		{"name", "*", "[masked]"},
		{"date", "1978-05-06", "1978-**-**"},
		{"date", "1978", "***"},
		{"text", "any text", "***"},
		{"string", "x", "***"},
		{"string", "***", "[masked]"},
		{"string", "* *", "[masked]"},
		{"number", "1", "***"},
		{"boolean", "true", "***"},
		{"json", `{"a":1}`, "***"},
		{"iban", "DE89 3704 0044 0532 0130 00", "DE****************3000"},
		{"iban", "NO9386011117947", "NO*********7947"},
		{"iban", "DE89", "***"},
		{"date_of_birth", "1978-05-06", "1978-**-**"},
		{"address", "1 Main St", "***"},
		{"postal_code", "SW1A 1AA", "SW***"},
		{"postal_code", "101", "***"},
		{"ip", "192.0.2.17", "192.0.*.*"},
		{"ip", "::ffff:192.0.2.17", "192.0.*.*"},
		{"ip", "2001:db8::17", "2001:db8:***"},
		{"ip", "::1", "0:0:***"},
		{"url", "https://example.com/people/jane", "https://example.com/***"},
		{"url", "https://jane.example.co.uk/", "https://***.example.co.uk/***"},
		{"url", "https://jane.github.io/cv", "https://***.github.io/***"},
		{"url", "https://example.com", "https://***"},
		{"url", "https://example.com/", "https://***"},
		{"url", "https://192.0.2.17/x", "***"},
		{"bytes", "\x00\xff", "***"},
		{"bytes", "**", "[masked]"},
	} {
		if got := lookup(t, test.typ).Mask([]byte(test.value)); got != test.want {
			t.Errorf("%s %q: %q, want %q", test.typ, test.value, got, test.want)
		}
	}
}

func TestNewMask(t *testing.T) {
	plate, f := Custom(CustomDefinition{Pattern: `^[A-Z]{2}[0-9]{6}$`})
	if f != nil {
		t.Fatal(f)
	}
	for _, test := range []struct {
		typ         string
		mask        MaskDefinition
		value, want string // want "": refused
	}{
		{"pan", MaskDefinition{RevealFirst: 8, RevealLast: 4}, "4111 1111 1111 1111", "41111111****1111"},
		{"pan", MaskDefinition{RevealFirst: 8, RevealLast: 4}, "378282246310005", "378282*****0005"}, // 15 digits have a BIN of six
		{"pan", MaskDefinition{RevealFirst: 8, RevealLast: 4}, "4222222222222", "422222***2222"},
		{"pan", MaskDefinition{RevealFirst: 9}, "", ""},
		{"pan", MaskDefinition{RevealLast: 5}, "", ""},
		{"pan", MaskDefinition{Template: "{first8}{last5}"}, "", ""},
		{"pan", MaskDefinition{Template: "{first6} ... {last4}"}, "4111111111111111", "411111 ... 1111"},
		{"pan", MaskDefinition{Part: "none"}, "4111111111111111", "***"},
		{"pan", MaskDefinition{Part: "domain"}, "", ""},
		{"us_ssn", MaskDefinition{Template: "***-**-{last4}"}, "123456789", "***-**-6789"},
		{"us_ssn", MaskDefinition{RevealLast: 2}, "123-45-6789", "*******89"},
		{"us_ssn", MaskDefinition{RevealFirst: 3, RevealLast: 4}, "", ""},
		{"us_ssn", MaskDefinition{RevealLast: 9}, "", ""},
		{"email", MaskDefinition{Part: "domain"}, "Jane@Example.com", "***@example.com"},
		{"email", MaskDefinition{RevealFirst: 3}, "jane@example.com", "jan***"},
		{"email", MaskDefinition{Template: "{first1}…@{domain}"}, "jane@example.com", "j…@example.com"},
		{"email", MaskDefinition{Part: "year"}, "", ""},
		{"url", MaskDefinition{Part: "domain"}, "https://www.example.com/jane", "***www.example.com***"},
		{"date_of_birth", MaskDefinition{Part: "year"}, "1978-05-06", "1978-**-**"},
		{"date_of_birth", MaskDefinition{Part: "none"}, "1978-05-06", "***"},
		{"date_of_birth", MaskDefinition{Template: "born in {year}"}, "1978-05-06", "born in 1978"},
		{"date", MaskDefinition{RevealFirst: 4}, "", ""},
		{"phone", MaskDefinition{RevealLast: 4}, "+44 20 7183 8750", "+********8750"},
		{"phone", MaskDefinition{RevealFirst: 3, RevealLast: 4}, "", ""}, // +29012345 would be whole
		{"postal_code", MaskDefinition{RevealFirst: 3}, "94105", "941***"},
		{"postal_code", MaskDefinition{RevealFirst: 3}, "101", "***"},
		{"iban", MaskDefinition{RevealLast: 4}, "DE89 3704 0044 0532 0130 00", "******************3000"},
		{"string", MaskDefinition{RevealLast: 4}, "ACC-00123", "***0123"},
		{"string", MaskDefinition{RevealLast: 4}, "1234567", "***"}, // more than half of it
		{"string", MaskDefinition{RevealFirst: 13}, "", ""},
		{"string", MaskDefinition{Template: "acc-{last1}"}, "acc-", "***"}, // the mask would hold it
		{"name", MaskDefinition{RevealFirst: 1}, "Jane Roe", "J***"},
		{"text", MaskDefinition{RevealFirst: 1}, "", ""},
		{"bytes", MaskDefinition{RevealFirst: 1}, "", ""},
		{"boolean", MaskDefinition{Part: "none"}, "true", "***"},
		{"custom", MaskDefinition{RevealFirst: 2}, "AB123456", "AB******"},
		{"custom", MaskDefinition{Template: "**{last3}"}, "AB123456", "**456"},
		{"custom", MaskDefinition{RevealFirst: 2, RevealLast: 4}, "AB123456", "AB**3456"},
		{"custom", MaskDefinition{RevealFirst: 2, RevealLast: 6}, "", ""},
		{"custom", MaskDefinition{RevealLast: 8}, "", ""},
		{"string", MaskDefinition{}, "", ""},
		{"string", MaskDefinition{RevealFirst: -1}, "", ""},
		{"string", MaskDefinition{RevealFirst: 1, Part: "none"}, "", ""},
		{"string", MaskDefinition{Part: "none", Template: "x"}, "", ""},
		{"string", MaskDefinition{Part: "all"}, "", ""},
		{"string", MaskDefinition{Template: "{value}"}, "", ""},
		{"string", MaskDefinition{Template: "{last4"}, "", ""},
		{"string", MaskDefinition{Template: "last4}"}, "", ""},
		{"string", MaskDefinition{Template: "{last13}"}, "", ""},
		{"string", MaskDefinition{Template: "{last04}"}, "", ""},
		{"string", MaskDefinition{Template: "a\nb"}, "", ""},
		{"string", MaskDefinition{Template: strings.Repeat("x", 65)}, "", ""},
	} {
		typ := plate
		if test.typ != CustomName {
			typ = lookup(t, test.typ)
		}
		m, f := typ.NewMask(test.mask)
		if (f != nil) != (test.want == "") || f != nil && (f.Rule != "mask" || f.Detail == "") {
			t.Errorf("%s %+v: %v", test.typ, test.mask, f)
			continue
		}
		if f == nil && m.Of([]byte(test.value)) != test.want {
			t.Errorf("%s %+v of %q: %q, want %q", test.typ, test.mask, test.value, m.Of([]byte(test.value)), test.want)
		}
	}
}

// Whatever mask is accepted, it never shows a value, and of a card number never more than the issuer and the last four.
func TestAcceptedMasksHoldNoValue(t *testing.T) {
	for _, name := range Names() {
		typ := lookup(t, name)
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			mask, f := typ.NewMask(maskDefinitions(t))
			if f != nil {
				return
			}
			value, f := typ.Parse(values(t, name))
			if f != nil {
				return
			}
			out, normal := mask.Of(value), string(typ.Normalise(value))
			if !utf8.ValidString(out) || out == "" || strings.Contains(out, string(value)) || normal != "" && strings.Contains(out, normal) {
				t.Fatalf("%q is masked as %q", value, out)
			}
			if name == "pan" && mask.pieces == nil && len(out) == len(normal) {
				seen := len(out) - strings.Count(out, "*")
				if most := map[bool]int{true: 12, false: 10}[len(normal) >= 16]; seen > most {
					t.Fatalf("%q is masked as %q", value, out)
				}
			}
			mask.Of(rapid.SliceOf(rapid.Byte()).Draw(t, "any"))
		}))
	}
}

func maskDefinitions(t *rapid.T) MaskDefinition {
	n := rapid.IntRange(-1, 13)
	switch rapid.IntRange(0, 2).Draw(t, "form") {
	case 0:
		return MaskDefinition{RevealFirst: n.Draw(t, "first"), RevealLast: n.Draw(t, "last")}
	case 1:
		return MaskDefinition{Part: rapid.SampledFrom([]string{"none", "domain", "year"}).Draw(t, "reveal")}
	}
	part := rapid.SampledFrom([]string{"{first1}", "{first6}", "{first8}", "{last2}", "{last4}", "{domain}", "{year}", "*", "x", "é "})
	return MaskDefinition{Template: strings.Join(rapid.SliceOfN(part, 1, 6).Draw(t, "parts"), "")}
}

func TestShowsMore(t *testing.T) {
	typ := lookup(t, "email")
	of := func(d MaskDefinition) Mask {
		m, f := typ.NewMask(d)
		if f != nil {
			t.Fatal(f)
		}
		return m
	}
	none, domain, three := of(MaskDefinition{Part: "none"}), of(MaskDefinition{Part: "domain"}), of(MaskDefinition{RevealFirst: 3})
	for _, test := range []struct {
		is, was Mask
		want    bool
	}{
		{domain, none, true},
		{none, domain, false},
		{typ.DefaultMask(), none, true},
		{domain, typ.DefaultMask(), false},
		{three, typ.DefaultMask(), true},
		{three, domain, true},
		{domain, three, true},
		{three, three, false},
	} {
		if got := test.is.ShowsMore(test.was); got != test.want {
			t.Errorf("%+v against %+v: %v", test.is.shows, test.was.shows, got)
		}
	}
}
