package datatype

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestLooksLikePII(t *testing.T) {
	for _, test := range []struct{ id, rule string }{
		{"cust-1001", ""},
		{"10000001", ""},
		{"0190c5a2-7b3e-7c21-9f10-2a4b5c6d7e8f", ""},
		{"12345678-1234-4234-8234-123456789012", ""}, // a UUID without a letter
		{"f47ac10b58cc4372a5670e02b2c3d479", ""},
		{"rec_4fTq9zK2", ""},
		{"cust-123456789", ""}, // a serial behind a prefix
		{"ord-1700000000006", ""},
		{"user:1142000000000000004", ""},
		{"2026-07-01", ""},
		{"+442071838750", ""},
		{"", ""},
		{"@", ""},
		{"@jane", ""},

		{"jane@example.com", "email"},
		{"mailto:jane@example", "email"},

		{"4111111111111111", "pan"},
		{"4111-1111-1111-1111", "pan"},
		{"4111.1111.1111.1111", "pan"},
		{"4111:1111:1111:1111", "pan"},
		{"4222222222222", "pan"},
		{"6304000000000000000", "pan"},
		{"cust-4111111111111111", "pan"},
		{"pan:378282246310005", "pan"},
		{"4111111111111112", ""}, // Luhn says no
		{"411111111111111", ""},
		{"x4111111111111111", ""}, // one word with a letter in it is a code, not a number

		{"123-45-6789", "us_ssn"},
		{"912-34-5678", "us_ssn"}, // a taxpayer number
		{"ssn:123-45-6789", "us_ssn"},
		{"123456789", "us_ssn"},
		{"000456789", ""},
		{"666456789", ""},
		{"912345678", ""},
		{"123006789", ""},
		{"123450000", ""},
		{"1123-45-6789", ""},
		{"123-45-67890", ""},
	} {
		rule, yes := LooksLikePII(test.id)
		if rule != test.rule || yes != (test.rule != "") {
			t.Errorf("LooksLikePII(%q) = %q, %v; want %q", test.id, rule, yes, test.rule)
		}
	}
}

func TestUUIDsAlwaysPass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few letters among the digits, to come as near to a number as a UUID may.
		b := rapid.SliceOfN(rapid.SampledFrom([]byte("0123456789a")), 32, 32).Draw(t, "hex")
		id := fmt.Sprintf("%s-%s-%s-%s-%s", b[:8], b[8:12], b[12:16], b[16:20], b[20:])
		if rule, yes := LooksLikePII(id); yes {
			t.Fatalf("LooksLikePII(%q) = %q", id, rule)
		}
	})
}
