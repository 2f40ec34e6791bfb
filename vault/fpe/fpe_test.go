package fpe

import (
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The samples that NIST publishes with SP 800-38G (FF1samples.pdf).
var samples = []struct {
	key               string
	radix             int
	tweak, plain, box string
}{
	{"2b7e151628aed2a6abf7158809cf4f3c", 10, "", "0123456789", "2433477484"},
	{"2b7e151628aed2a6abf7158809cf4f3c", 10, "39383736353433323130", "0123456789", "6124200773"},
	{"2b7e151628aed2a6abf7158809cf4f3c", 36, "3737373770717273373737", "0123456789abcdefghi", "a9tv40mll9kdu509eum"},
	{"2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f", 10, "", "0123456789", "2830668132"},
	{"2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f", 10, "39383736353433323130", "0123456789", "2496655549"},
	{"2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f", 36, "3737373770717273373737", "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"},
	{"2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94", 10, "", "0123456789", "6657667009"},
	{"2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94", 10, "39383736353433323130", "0123456789", "1001623463"},
	{"2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94", 36, "3737373770717273373737", "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"},
}

const characters36 = "0123456789abcdefghijklmnopqrstuvwxyz"

func TestNISTSamples(t *testing.T) {
	t.Parallel()
	for _, sample := range samples {
		c, err := New(unhex(t, sample.key), sample.radix, 16)
		if err != nil {
			t.Fatal(err)
		}
		check(t, c, newAlphabet(t, characters36[:sample.radix]), unhex(t, sample.tweak), sample.plain, sample.box)
	}
}

// check encrypts and decrypts text, appending and in place.
func check(t *testing.T, c *Cipher, a *Alphabet, tweak []byte, plain, box string) {
	t.Helper()
	x, err := a.Numerals(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	y, err := a.Numerals(nil, box)
	if err != nil {
		t.Fatal(err)
	}
	checkNumerals(t, c, tweak, x, y)
}

func checkNumerals(t *testing.T, c *Cipher, tweak []byte, plain, box []uint16) {
	t.Helper()
	mark := []uint16{1, 2, 3}
	for name, f := range map[string]func([]uint16, []uint16, []byte) ([]uint16, error){"Encrypt": c.Encrypt, "Decrypt": c.Decrypt} {
		in, want := plain, box
		if name == "Decrypt" {
			in, want = box, plain
		}
		got, err := f(mark, in, tweak)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(append(mark[:3:3], want...), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		place := append([]uint16(nil), in...)
		if got, err = f(place[:0], place, tweak); err != nil || &got[0] != &place[0] || !cmp.Equal(got, want) {
			t.Errorf("%s in place gives another result, %v", name, err)
		}
	}
}

func newCipher(t testing.TB, key []byte, radix, maxTweak int) *Cipher {
	t.Helper()
	c, err := New(key, radix, maxTweak)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newAlphabet(t testing.TB, characters string) *Alphabet {
	t.Helper()
	a, err := NewAlphabet(characters)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
