package datatype

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func custom(tb testing.TB, pattern string, steps ...string) Type {
	tb.Helper()
	typ, f := Custom(CustomDefinition{pattern, steps})
	if f != nil {
		tb.Fatalf("%q %q: %v", pattern, steps, f)
	}
	return typ
}

func TestCustom(t *testing.T) {
	typ := custom(t, `^[A-Za-z]{2}-?[0-9]{6}$`, "trim", "upper", "strip:-")
	for _, test := range []struct{ raw, rule string }{
		{`"AB123456"`, ""},
		{`"ab-123456"`, ""},
		{`"AB12345"`, "pattern"},
		{`"AB1234567"`, "pattern"},
		{`"xAB123456"`, "pattern"},
		{`"AB123456\n"`, "pattern"},
		{`""`, "min-length"},
		{`7`, "type"},
	} {
		if _, f := typ.Parse([]byte(test.raw)); (f == nil) != (test.rule == "") || f != nil && f.Rule != test.rule {
			t.Errorf("%s: %v, want %q", test.raw, f, test.rule)
		}
	}
	for kind, want := range map[string]string{"exact": "AB123456", "last4": "3456", "prefix:3": "AB1", "domain": "", "prefix:9": ""} {
		if got, _ := typ.Derive(kind, []byte("ab-123456")); string(got) != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
	if got, f := typ.Seek("prefix:3", []byte(`"ab-1"`)); f != nil || string(got) != "AB1" {
		t.Errorf("Seek: %q, %v", got, f)
	}
	if got := typ.Mask([]byte("ab-123456")); got != "***" || typ.Name() != CustomName {
		t.Errorf("%s is masked as %q", typ.Name(), got)
	}
	if _, f := custom(t, `^a+$`).Parse([]byte(`"` + strings.Repeat("a", maxCustom+1) + `"`)); f == nil || f.Rule != "max-length" {
		t.Errorf("a value beyond the limit: %v", f)
	}
}

func TestCustomRefused(t *testing.T) {
	for _, test := range []struct {
		pattern string
		steps   []string
		rule    string
	}{
		{``, nil, "pattern"},
		{`[A-Z]{2}`, nil, "pattern"},
		{`^[A-Z]{2}`, nil, "pattern"},
		{`[A-Z]{2}$`, nil, "pattern"},
		{`^a|b$`, nil, "pattern"}, // ^a, or b$
		{`(?m)^a$`, nil, "pattern"},
		{`^$`, nil, "pattern"},
		{`^a*$`, nil, "pattern"},
		{`^a\b$`, nil, "pattern"},
		{`^(a$|b)$`, nil, "pattern"},
		{`^(a$`, nil, "pattern"},
		{`^(?=a)a$`, nil, "pattern"},
		{`^(a)\1$`, nil, "pattern"},
		{`^[^\x00-\x{10FFFF}]$`, nil, "pattern"},
		{`^a{1001}$`, nil, "pattern"},
		{`^(a{100}){20}$`, nil, "pattern"}, // beyond RE2's limit of 1,000
		{`^a{999}b{999}$`, nil, "pattern"},
		{`^(a|b)*a(a|b){16}$`, nil, "pattern"}, // 2^17 states
		{`^` + strings.Repeat("a", 255) + `$`, nil, "pattern"},
		{`^a$`, []string{"reverse"}, "normalise"},
		{`^a$`, []string{"strip:"}, "normalise"},
		{`^a$`, []string{"strip:" + strings.Repeat("x", 17)}, "normalise"},
		{`^a$`, []string{"lower", "upper"}, "normalise"},
		{`^a$`, []string{"trim", "trim", "trim", "trim", "trim", "trim", "trim", "trim", "trim"}, "normalise"},
	} {
		began := time.Now()
		if _, f := Custom(CustomDefinition{test.pattern, test.steps}); f == nil || f.Rule != test.rule || f.Detail == "" {
			t.Errorf("%.40q %q: %v, want %s", test.pattern, test.steps, f, test.rule)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%.40q took %v", test.pattern, took)
		}
	}
}

func TestCustomCardinality(t *testing.T) {
	for _, test := range []struct {
		pattern string
		steps   []string
		kind    string
		want    int
	}{
		{`^(red|green|blue)$`, nil, Exact, 3},
		{`^(a|b|a|[ab])$`, nil, Exact, 2}, // two ways to one word
		{`^[A-Z]{2}[0-9]{6}$`, nil, Exact, 676_000_000},
		{`^[A-Z]{2}[0-9]{6}$`, nil, Last4, 10_000},
		{`^[A-Z]{2}[0-9]{6}$`, nil, "prefix:1", 26},
		{`^[A-Z]{2}[0-9]{6}$`, nil, "prefix:4", 67_600},
		{`^[A-Z]{2}[0-9]{6}$`, nil, "prefix:9", 0},
		{`^AB[0-9]{6}$`, nil, "prefix:4", 100},
		{`^[0-9]{6}AB$`, nil, Last4, 100},
		{`^[a-zA-Z]{2}$`, nil, Exact, 2704},
		{`^[a-zA-Z]{2}$`, []string{"lower"}, Exact, 676},
		{`^(?i)(m|f)$`, []string{"upper"}, Exact, 2},
		{`^(?i)(m|f)$`, nil, Exact, 4},
		{`^[0-9]{3}-?[0-9]{2}$`, nil, Exact, 200_000},
		{`^[0-9]{3}-?[0-9]{2}$`, []string{"strip:-"}, Exact, 100_000},
		{`^[a-z]{8}[0-9]$`, []string{"digits"}, Exact, 10},
		{`^a+$`, nil, Exact, maxCustom},
		{`^\pL{1,100}$`, nil, Exact, many},
		{`^.{5}$`, nil, "prefix:5", many},
		{`^.{5}$`, nil, "prefix:6", 0},
		{`^.+$`, nil, "prefix:12", many},
	} {
		if got := custom(t, test.pattern, test.steps...).Cardinality(test.kind); got != test.want {
			t.Errorf("%s %q: %s has %d, want %d", test.pattern, test.steps, test.kind, got, test.want)
		}
	}
}

// The count of a small pattern is that of trying out every text.
func TestCustomCountsAgainstTrying(t *testing.T) {
	atom := rapid.SampledFrom([]string{"a", "b", "[ab]", "(a|ab)", "(b|aa|a)", "a?", "(ab)?", "b{1,2}", "(a|b)*?", "c?"})
	rapid.Check(t, func(t *rapid.T) {
		text := "^x?" + strings.Join(rapid.SliceOfN(atom, 1, 3).Draw(t, "atoms"), "") + "$"
		if strings.Contains(text, "*") {
			text = strings.ReplaceAll(text, "*?", "{0,2}")
		}
		typ, f := Custom(CustomDefinition{text, []string{"strip:c"}})
		if f != nil {
			return // it accepts the empty text
		}
		re := regexp.MustCompile(text)
		words, starts, ends, shortest := map[string]bool{}, map[string]bool{}, map[string]bool{}, 99
		var try func(string)
		try = func(word string) {
			if re.MatchString(word) {
				shortest = min(shortest, len(word))
				normal := strings.ReplaceAll(word, "c", "")
				words[normal] = true
				if len(normal) >= 2 {
					starts[normal[:2]] = true
				}
				if len(normal) >= 4 {
					ends[normal[len(normal)-4:]] = true
				}
			}
			if len(word) < 7 {
				for _, c := range "abcx" {
					try(word + string(c))
				}
			}
		}
		try("")
		got := []int{typ.Cardinality(Exact), typ.Cardinality("prefix:2"), typ.Cardinality(Last4), typ.spec().ends.fewest}
		if want := []int{len(words), len(starts), len(ends), shortest}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s: %v, by trying %v", text, got, want)
		}
	})
}

func TestCustomNormalisesUntilNothingChanges(t *testing.T) {
	typ, f := Custom(CustomDefinition{`^(?s).{1,30}$`, []string{"trim", "strip:é", "lower"}})
	if f != nil {
		t.Fatal(f)
	}
	if got := typ.Normalise([]byte("a É")); string(got) != "a" { // its É is stripped once it is an é, and the space goes then
		t.Errorf("it becomes %q", got)
	}
}

func TestCustomNormaliseIsIdempotentAndFound(t *testing.T) {
	step := rapid.SampledFrom([]string{"trim", "collapse", "lower", "digits", "strip:- ", "strip:é", "strip:x"})
	rapid.Check(t, func(t *rapid.T) {
		typ, f := Custom(CustomDefinition{`^(?s).{1,30}$`, rapid.SliceOfN(step, 0, 5).Draw(t, "steps")})
		if f != nil {
			t.Fatal(f)
		}
		value := []byte(rapid.StringOfN(rapid.RuneFrom([]rune("aA-é É\tx19\u0130")), 1, 30, -1).Draw(t, "value"))
		once := typ.Normalise(value)
		if twice := typ.Normalise(once); !bytes.Equal(once, twice) {
			t.Fatalf("%q → %q → %q", value, once, twice)
		}
		for _, kind := range []string{"last4", "prefix:3"} {
			part, ok := typ.Derive(kind, value)
			if !ok {
				continue
			}
			if found, f := typ.Seek(kind, []byte(`"`+string(part)+`"`)); f != nil || !bytes.Equal(found, part) {
				t.Fatalf("%s of %q is %q, but %q is sought: %v", kind, value, part, found, f)
			}
		}
	})
}
