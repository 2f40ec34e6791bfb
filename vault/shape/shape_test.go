package shape

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/privault/privault/vault/fpe"
)

var pan = Options{Alphabet: "digits", KeepSuffix: 4, Luhn: "invalid", MinLength: 13, MaxLength: 19, Reversible: true}

func mustNew(t rapid.TB, o Options) *Shape {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustCipher(t rapid.TB, s *Shape, key byte) *fpe.Cipher {
	t.Helper()
	c, err := s.Cipher(bytes.Repeat([]byte{key}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCardNumber(t *testing.T) {
	t.Parallel()
	s := mustNew(t, pan)
	c, tweak := mustCipher(t, s, 1), []byte("tenant and field")
	for _, value := range []string{"4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111"} {
		token, err := s.Encrypt(c, tweak, value)
		if err != nil {
			t.Fatal(err)
		}
		if len(token) != len(value) || !strings.HasSuffix(token, "1111") || passesLuhn(token) {
			t.Errorf("%s has the token %s", value, token)
		}
		if back, err := s.Decrypt(c, tweak, token); err != nil || back != value {
			t.Errorf("%s comes back as %s, %v", value, back, err)
		}
	}
	// What is kept and the tweak both count.
	one, _ := s.Encrypt(c, tweak, "4111111111111111")
	other, _ := s.Encrypt(c, []byte("another field..."), "4111111111111111")
	third, _ := s.Encrypt(c, tweak, "4111111111111129") // the same twelve digits but for the check digit's doing
	if one == other || one[:11] == third[:11] {
		t.Errorf("tokens %s, %s, %s", one, other, third)
	}
	size, err := s.Size("4111 1111 1111 1111")
	if err != nil || size.Cmp(big.NewInt(1e11)) != 0 {
		t.Errorf("%v tokens, %v", size, err)
	}
}

// anyShape draws options and a value that fits them.
func anyShape(t *rapid.T, reversible bool) (*Shape, string) {
	if rapid.IntRange(0, 4).Draw(t, "kind") == 0 {
		s := mustNew(t, Options{Kind: "date", From: "0100-01-01", Reversible: reversible})
		row := make([]uint16, s.dates.bits)
		s.dates.write(row, rapid.IntRange(0, s.dates.count-1).Draw(t, "day"))
		return s, s.dates.text(row)
	}
	o := Options{
		KeepPrefix: rapid.IntRange(0, 6).Draw(t, "prefix"), KeepSuffix: rapid.IntRange(0, 4).Draw(t, "suffix"), Reversible: reversible,
	}
	switch alphabet := rapid.SampledFrom([]string{"digits", "lower", "upper", "alphanumeric", "äöüß€𝄞", "own"}).Draw(t, "alphabet"); alphabet {
	case "äöüß€𝄞":
		o.Characters, o.Separators = alphabet, ".a"
	case "own":
		o.Characters = "01"
	default:
		o.Alphabet = alphabet
	}
	if o.Alphabet == "digits" {
		o.Luhn = rapid.SampledFrom([]string{"", "valid", "invalid"}).Draw(t, "luhn")
	}
	s := mustNew(t, o)
	row := rapid.SliceOfN(rapid.Uint16Max(uint16(s.radix()-1)), s.o.MinLength, s.o.MinLength+30).Draw(t, "row")
	separators := []rune(s.o.Separators)
	var p parts
	for _, numeral := range row {
		for rapid.IntRange(0, 3).Draw(t, "separate") == 0 {
			p.runes = append(p.runes, rapid.SampledFrom(separators).Draw(t, "separator"))
		}
		p.at = append(p.at, len(p.runes))
		p.runes, p.row = append(p.runes, s.alphabet.Rune(numeral)), append(p.row, numeral)
	}
	return s, p.join(s, 0)
}

// Whatever the options: a token comes back as its value, is never the value, and has its shape.
func TestEncryptedTokens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, value := anyShape(t, true)
		c, tweak := mustCipher(t, s, rapid.Byte().Draw(t, "key")), rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "tweak")
		token, err := s.Encrypt(c, tweak, value)
		if err != nil {
			t.Fatal(err)
		}
		hasShape(t, s, value, token)
		back, err := s.Decrypt(c, tweak, token)
		if err != nil || back != value {
			t.Fatalf("%q comes back as %q, %v", value, back, err)
		}
	})
}

func TestRandomTokens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, value := anyShape(t, false)
		token, err := s.Random(rand.Reader, value)
		if err != nil {
			t.Fatal(err)
		}
		hasShape(t, s, value, token)
	})
}

// hasShape checks what a token has in common with its value, character by character, and what not.
func hasShape(t *rapid.T, s *Shape, value, token string) {
	t.Helper()
	if token == value {
		t.Fatalf("%q is its own token", value)
	}
	if s.o.Kind == "date" {
		if _, f := s.splitDate(token); f != nil {
			t.Fatalf("%q has the token %q: %v", value, token, f)
		}
		return
	}
	v, w := []rune(value), []rune(token)
	if len(v) != len(w) {
		t.Fatalf("%q has the token %q", value, token)
	}
	seen, total := 0, 0
	for _, r := range v {
		if _, in := s.alphabet.Numeral(r); in {
			total++
		}
	}
	for i := range v {
		_, in := s.alphabet.Numeral(v[i])
		_, out := s.alphabet.Numeral(w[i])
		kept := seen < s.o.KeepPrefix || seen >= total-s.o.KeepSuffix
		if in {
			seen++
		}
		if in != out || (!in || kept) && v[i] != w[i] {
			t.Fatalf("%q has the token %q", value, token)
		}
	}
	if s.o.Luhn != "" && passesLuhn(token) != (s.o.Luhn == "valid") {
		t.Fatalf("%q has the token %q under the rule %s", value, token, s.o.Luhn)
	}
}

// passesLuhn is written another way than luhn: from the right, over the text.
func passesLuhn(text string) bool {
	sum, double := 0, false
	for _, c := range slices.Backward([]byte(text)) {
		if c < '0' || c > '9' {
			continue
		}
		d := int(c - '0')
		if double {
			d = d*2%10 + d*2/10
		}
		sum, double = sum+d, !double
	}
	return sum%10 == 0
}

// All of a domain of a million: each value has a token of its own, and none has itself. FF1 with this key maps some value to
// itself.
func TestWholeDomain(t *testing.T) {
	t.Parallel()
	s := mustNew(t, Options{Alphabet: "digits", Reversible: true})
	c := mustCipher(t, s, keyWithFixedPoint)
	given, fixed := make([]bool, fpe.MinDomain), 0
	for i := range fpe.MinDomain {
		value := fmt.Sprintf("%06d", i)
		token, err := s.Encrypt(c, nil, value)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(token, "%d", &n); err != nil {
			t.Fatal(err)
		}
		if given[n] || n == i {
			t.Fatalf("%s has the token %s, which is taken", value, token)
		}
		given[n] = true
		p, _ := s.split(value)
		if image, err := c.Encrypt(nil, p.row, s.tweak(p, nil)); err != nil {
			t.Fatal(err)
		} else if slices.Equal(image, p.row) {
			fixed++
			for _, near := range []int{-1, 0, 1} {
				value := fmt.Sprintf("%06d", i+near)
				token, _ := s.Encrypt(c, nil, value)
				if back, err := s.Decrypt(c, nil, token); err != nil || back != value {
					t.Errorf("%s beside a fixed point comes back as %s, %v", value, back, err)
				}
			}
		}
	}
	if fixed == 0 {
		t.Error("the key was chosen for its fixed points, and has none")
	}
}

const keyWithFixedPoint = 1

// However many fixed points a permutation has, even if it has nothing else: the one made from it has none and can be undone.
func TestRings(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const radix, size = 3, 9
		image := make([]int, size)
		for i := range image {
			image[i] = i
		}
		for i, j := range rapid.Permutation([]int{0, 1, 2, 3, 4, 5, 6, 7, 8}).Draw(t, "permutation")[:rapid.IntRange(0, size).Draw(t, "moved")] {
			image[i], image[j] = image[j], image[i]
		}
		p := permutation{
			once: func(row []uint16, way direction) ([]uint16, error) {
				at := int(row[0]*radix + row[1])
				if way == encrypt {
					at = image[at]
				} else {
					at = slices.Index(image, at)
				}
				return []uint16{uint16(at / radix), uint16(at % radix)}, nil
			},
			next: func(row []uint16, step int) []uint16 {
				return []uint16{row[0], uint16((int(row[1]) + step + radix) % radix)}
			},
		}
		for i := range uint16(size) {
			row := []uint16{i / radix, i % radix}
			token, err := p.apply(row, encrypt)
			if err != nil {
				t.Fatal(err)
			}
			back, err := p.apply(token, decrypt)
			if err != nil || slices.Equal(token, row) || !slices.Equal(back, row) {
				t.Fatalf("%v has the token %v, which comes back as %v, %v", row, token, back, err)
			}
		}
	})
}

func TestEmail(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		o             Options
		value, domain string
		length        int
	}{
		{Options{Kind: "email"}, "jane.roe@Example.com", "@Example.com", 16},
		{Options{Kind: "email", Domain: "tokens.example", Length: 12}, "a@b", "@tokens.example", 12},
		{Options{Kind: "email"}, `"a@b"@example.com`, "@example.com", 16},
	} {
		s := mustNew(t, row.o)
		token, err := s.Random(rand.Reader, row.value)
		if err != nil {
			t.Fatal(err)
		}
		local, found := strings.CutSuffix(token, row.domain)
		if !found || len(local) != row.length || strings.Trim(local, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("%s has the token %s", row.value, token)
		}
		size, err := s.Size(row.value)
		if want := possibilities(36, row.length); err != nil || size.Cmp(want) != 0 {
			t.Errorf("%v tokens, %v", size, err)
		}
	}
}

// A random token of its own length keeps the ends and has no separators.
func TestLength(t *testing.T) {
	t.Parallel()
	s := mustNew(t, Options{Alphabet: "digits", KeepPrefix: 2, KeepSuffix: 3, Length: 12, Luhn: "valid"})
	token, err := s.Random(rand.Reader, "12-34-56-789")
	if err != nil || len(token) != 12 || token[:2] != "12" || token[9:] != "789" || !passesLuhn(token) {
		t.Errorf("the token is %s, %v", token, err)
	}
}

func TestRefusedOptions(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]struct {
		o            Options
		option, rule string
		detail       string
	}{
		"BIN and last four under a Luhn rule": {
			Options{Alphabet: "digits", KeepPrefix: 6, KeepSuffix: 4, Luhn: "valid", MinLength: 16, Reversible: true}, "min_length", "domain-too-small",
			"of 16 characters, less 6 of keep_prefix, less 4 of keep_suffix, less 1 that the Luhn rule fixes, 5 vary: 10^5 = 100000 tokens, " +
				"and 1000000 tokens are the least; let values have at least 17 characters, or keep fewer",
		},
		"last four of nine":          {Options{KeepSuffix: 4, MinLength: 9, Reversible: true}, "min_length", "domain-too-small", ""},
		"all is kept":                {Options{KeepSuffix: 4, KeepPrefix: 4, MinLength: 8}, "min_length", "domain-too-small", ""},
		"a length that is kept":      {Options{KeepSuffix: 4, Length: 4}, "length", "domain-too-small", ""},
		"two centuries":              {Options{Kind: "date", From: "1900-01-01", To: "2099-12-31", Reversible: true}, "to", "domain-too-small", ""},
		"a window that ends early":   {Options{Kind: "date", From: "2020-01-01", To: "2019-01-01"}, "to", "date", ""},
		"no date":                    {Options{Kind: "date", From: "2020-02-30"}, "from", "date", ""},
		"a date with digits":         {Options{Kind: "date", Alphabet: "digits"}, "shape", "not-applicable", ""},
		"no shape":                   {Options{Kind: "iban"}, "shape", "unknown", ""},
		"no alphabet":                {Options{Alphabet: "emoji"}, "alphabet", "unknown", ""},
		"two alphabets":              {Options{Alphabet: "digits", Characters: "01"}, "characters", "not-applicable", ""},
		"one character":              {Options{Characters: "0"}, "characters", "alphabet", ""},
		"a character twice":          {Options{Characters: "010"}, "characters", "alphabet", ""},
		"a separator that varies":    {Options{Alphabet: "digits", Separators: "-1"}, "separators", "alphabet", ""},
		"Luhn of letters":            {Options{Alphabet: "lower", Luhn: "valid"}, "luhn", "not-applicable", ""},
		"another Luhn":               {Options{Luhn: "maybe"}, "luhn", "unknown", ""},
		"less than nothing":          {Options{KeepPrefix: -1}, "keep_prefix", "range", ""},
		"the most before the least":  {Options{MinLength: 12, MaxLength: 10}, "max_length", "range", ""},
		"FF1 of a length of its own": {Options{Length: 20, Reversible: true}, "length", "not-applicable", ""},
		"FF1 of an address":          {Options{Kind: "email", Reversible: true}, "shape", "not-applicable", ""},
		"a domain that is none":      {Options{Kind: "email", Domain: "ex ample.com"}, "domain", "email", ""},
		"an address of three":        {Options{Kind: "email", Length: 3}, "length", "range", ""},
		"a domain of digits":         {Options{Domain: "example.com"}, "shape", "not-applicable", ""},
	} {
		s, err := New(bad.o)
		var f *Fault
		if s != nil || !errors.As(err, &f) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if bad.detail == "" {
			bad.detail = f.Detail
		}
		if diff := cmp.Diff(&Fault{bad.option, bad.rule, bad.detail}, f); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRefusedValues(t *testing.T) {
	t.Parallel()
	s := mustNew(t, pan)
	c := mustCipher(t, s, 1)
	for value, rule := range map[string]string{
		"": "length", "411111111111": "length", "41111111111111111111": "length", "4111111111111112": "luhn", "4111.1111.1111.1111": "characters",
		"-4111111111111111x": "characters", "٤111111111111111": "characters", "4111111111111111\xff": "characters",
	} {
		for _, f := range []func() (string, error){
			func() (string, error) { return s.Encrypt(c, nil, value) },
			func() (string, error) { return s.Decrypt(c, nil, value) },
		} {
			var fault *Fault
			if got, err := f(); got != "" || !errors.As(err, &fault) || fault.Rule != rule || value != "" && strings.Contains(fault.Detail, value) {
				t.Errorf("%q: %q, %v", value, got, err)
			}
		}
	}
	if _, err := s.Decrypt(c, nil, "4111111111111111"); err == nil {
		t.Error("a card number decrypts as if it were a token")
	}
	dates := mustNew(t, Options{Kind: "date", From: "1900-01-01", To: "1999-12-31"})
	for _, value := range []string{"2000-01-01", "1899-12-31", "1950-02-29", "1950-2-3", "today"} {
		if got, err := dates.Random(rand.Reader, value); err == nil {
			t.Errorf("%s has the token %s", value, got)
		}
	}
	if _, err := dates.Encrypt(c, nil, "1950-01-01"); err == nil {
		t.Error("a shape that is not reversible encrypts")
	}
	if _, err := mustNew(t, Options{Alphabet: "lower", Reversible: true}).Encrypt(c, nil, "abcdefghijk"); err == nil {
		t.Error("a cipher of another radix is taken")
	}
	if _, err := s.Random(bytes.NewReader(nil), "4111111111111111"); err == nil {
		t.Error("a token without randomness")
	}
}
