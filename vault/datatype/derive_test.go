package datatype

import (
	"bytes"
	"slices"
	"strconv"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDerive(t *testing.T) {
	for _, test := range []struct{ typ, kind, value, want string }{
		{"email", "exact", "Jane@EXAMPLE.com", "jane@example.com"},
		{"email", "domain", "Jane@EXAMPLE.com", "example.com"},
		{"email", "domain", "jane@münchen.de", "xn--mnchen-3ya.de"},
		{"email", "domain", "jane@mail.example.co.uk", "mail.example.co.uk"},
		{"email", "domain", "not an address", ""},
		{"email", "last4", "jane@example.com", ""},
		{"email", "prefix:3", "jane@example.com", ""},
		{"pan", "exact", "4111 1111-1111 1111", "4111111111111111"},
		{"pan", "last4", "3782-822463-10005", "0005"},
		{"pan", "prefix:6", "4111 1111 1111 1111", "411111"},
		{"pan", "prefix:8", "4111 1111 1111 1111", "41111111"},
		{"pan", "prefix:9", "4111 1111 1111 1111", ""},
		{"us_ssn", "last4", "123-45-6789", "6789"},
		{"us_ssn", "prefix:3", "123-45-6789", ""},
		{"phone", "last4", "+44 (0)20 7183-8750", "8750"},
		{"phone", "prefix:4", "+44 (0)20 7183-8750", "4420"},
		{"date", "year", "1978-05-06", "1978"},
		{"date", "exact", "1978-05-06", "1978-05-06"},
		{"date", "year", "1978", ""},
		{"name", "prefix:5", "Jo  Smith", "josmi"},
		{"name", "prefix:5", "Straße", "stras"},
		{"name", "prefix:4", "Ann", ""},
		{"string", "last4", "AB-99 É1", "99é1"},
		{"string", "last4", "x", ""},
		{"text", "prefix:3", "long text", ""},
		{"boolean", "exact", "true", "true"},
		{"boolean", "year", "true", ""},
		{"number", "exact", "1.50", "15e-1"},
		{"iban", "last4", "DE89 3704 0044 0532 0130 00", "3000"},
		{"url", "domain", "https://WWW.Example.com/x", "www.example.com"},
		{"url", "domain", "https://192.0.2.17/x", ""},
		{"date_of_birth", "year", "1978-05-06", "1978"},
		{"postal_code", "prefix:4", "sw1a 1aa", "SW1A"},
		{"postal_code", "prefix:5", "94105-1234", "94105"},
		{"name", "prefix:0", "Jane", ""},
		{"name", "prefix:01", "Jane", ""},
		{"name", "prefix:13", "Jane Quinlan Roe-Exampleton", ""},
		{"name", "prefix:", "Jane", ""},
		{"name", "prefix", "Jane", ""},
		{"name", "", "Jane", ""},
	} {
		got, ok := lookup(t, test.typ).Derive(test.kind, []byte(test.value))
		if string(got) != test.want || ok != (test.want != "") {
			t.Errorf("%s %s of %q: %q, %v; want %q", test.typ, test.kind, test.value, got, ok, test.want)
		}
	}
	if _, ok := (Type{}).Derive("exact", []byte("x")); ok {
		t.Error("the zero Type has an index")
	}
}

// What a search asks for, in spellings that differ from the value's.
func TestSeek(t *testing.T) {
	for _, test := range []struct{ typ, kind, raw, want, rule string }{
		{"email", "exact", `"JANE@Example.com"`, "jane@example.com", ""},
		{"email", "exact", `"jane"`, "", "email"},
		{"email", "domain", `"Example.COM"`, "example.com", ""},
		{"email", "domain", `"MÜNCHEN.de"`, "xn--mnchen-3ya.de", ""},
		{"email", "domain", `"@example.com"`, "", "domain"},
		{"email", "domain", `7`, "", "type"},
		{"email", "year", `"1978"`, "", "index"},
		{"pan", "last4", `"1111"`, "1111", ""},
		{"pan", "last4", `"111"`, "", "length"},
		{"pan", "last4", `"11112"`, "", "length"},
		{"pan", "last4", `"11é1"`, "", "length"},
		{"pan", "prefix:6", `"4111 11"`, "411111", ""},
		{"phone", "prefix:4", `"+44 20"`, "4420", ""},
		{"name", "prefix:5", `" JO SMI"`, "josmi", ""},
		{"date", "year", `"1978"`, "1978", ""},
		{"date", "year", `"78"`, "", "year"},
		{"date", "year", `1978`, "", "type"},
		{"date", "prefix:4", `"1978"`, "", "index"},
		{"name", "prefix:3", `""`, "", "min-length"},
		{"postal_code", "prefix:4", `"sw1a "`, "SW1A", ""},
		{"iban", "last4", `"30 00"`, "3000", ""},
	} {
		got, f := lookup(t, test.typ).Seek(test.kind, []byte(test.raw))
		if string(got) != test.want || (f == nil) != (test.rule == "") || f != nil && f.Rule != test.rule {
			t.Errorf("%s %s for %s: %q, %v; want %q, %q", test.typ, test.kind, test.raw, got, f, test.want, test.rule)
		}
	}
}

func TestKindsAndCardinality(t *testing.T) {
	for _, test := range []struct {
		typ  string
		want []string
	}{
		{"boolean", []string{"exact"}},
		{"date", []string{"exact", "year"}},
		{"email", []string{"exact", "domain"}},
		{"us_ssn", []string{"exact", "last4"}},
		{"pan", []string{"exact", "last4", "prefix:1", "prefix:2", "prefix:3", "prefix:4", "prefix:5", "prefix:6", "prefix:7", "prefix:8"}},
	} {
		if diff := cmp.Diff(test.want, lookup(t, test.typ).Kinds()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.typ, diff)
		}
	}
	for _, test := range []struct {
		typ, kind string
		enough    bool
	}{
		{"boolean", "exact", false},
		{"date", "exact", true},
		{"date", "year", false},
		{"pan", "prefix:3", false},
		{"pan", "prefix:4", true},
		{"phone", "prefix:6", false},
		{"phone", "prefix:7", true},
		{"name", "prefix:2", false},
		{"name", "prefix:3", true},
		{"us_ssn", "last4", true},
		{"email", "domain", true},
		{"text", "last4", false},
	} {
		if got := lookup(t, test.typ).Cardinality(test.kind); got >= FewestValues != test.enough {
			t.Errorf("%s %s is expected to have %d values", test.typ, test.kind, got)
		}
	}
	for _, name := range Names() {
		if lookup(t, name).Cardinality(Exact) == 0 {
			t.Errorf("%s has no exact index", name)
		}
	}
}

// Whatever is derived from a value is found by a search for it, and values that are equal derive alike.
func TestDerivedIsFound(t *testing.T) {
	for _, name := range Names() {
		typ := lookup(t, name)
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			raw := values(t, name)
			value, f := typ.Parse(raw)
			if f != nil {
				t.Skip("not a value")
			}
			before := bytes.Clone(value)
			for _, kind := range typ.Kinds() {
				part, ok := typ.Derive(kind, value)
				if !ok {
					continue
				}
				if again, ok := typ.Derive(kind, value); !ok || !bytes.Equal(part, again) || !bytes.Equal(before, value) {
					t.Fatalf("%s of %q: %q, then %q; the value is %q", kind, before, part, again, value)
				}
				question := raw
				if kind != Exact {
					question, _ = jsontext.AppendQuote(nil, part)
				}
				found, f := typ.Seek(kind, question)
				if f != nil || !bytes.Equal(found, part) {
					t.Fatalf("%s of %q is %q, but a search for %s is for %q, %v", kind, value, part, question, found, f)
				}
			}
		}))
	}
}

func TestDeriveBearsAnyBytes(t *testing.T) {
	kinds := []string{Exact, Last4, Domain, Year}
	for n := 1; n <= longestPrefix; n++ {
		kinds = append(kinds, prefix+strconv.Itoa(n))
	}
	for _, name := range append(Names(), "") {
		typ, _ := Lookup(name)
		t.Run("type "+name, rapid.MakeCheck(func(t *rapid.T) {
			value := rapid.SliceOf(rapid.Byte()).Draw(t, "value")
			kind := rapid.SampledFrom(kinds).Draw(t, "kind")
			if _, ok := typ.Derive(kind, value); ok && !slices.Contains(typ.Kinds(), kind) {
				t.Fatalf("%s is derived and not offered", kind)
			}
			_, _ = typ.Seek(kind, value)
		}))
	}
}
