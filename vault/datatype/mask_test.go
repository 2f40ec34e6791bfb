package datatype

import "testing"

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
	} {
		if got := lookup(t, test.typ).Mask([]byte(test.value)); got != test.want {
			t.Errorf("%s %q: %q, want %q", test.typ, test.value, got, test.want)
		}
	}
}
