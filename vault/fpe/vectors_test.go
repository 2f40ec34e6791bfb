package fpe

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// published reads a file of the published sets that PRIVAULT_VECTORS names (make test sets it where they lie beside the
// checkout). Without them NIST's samples, the oracle and the properties remain.
func published(t *testing.T, name string, into any) bool {
	t.Helper()
	folder := os.Getenv("PRIVAULT_VECTORS")
	if folder == "" {
		return false
	}
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
	return true
}

// NIST's ACVP set: keys of 128, 192 and 256 bits, radix 2 to 64, tweaks of up to 16 bytes, 10 to 512 numerals.
func TestACVP(t *testing.T) {
	t.Parallel()
	var set struct {
		TestGroups []struct {
			Alphabet string
			Radix    int
			Tests    []struct{ Tweak, Pt, Key, Ct string }
		}
	}
	if !published(t, "acvp/ff1_internalProjection.json", &set) {
		return
	}
	n := 0
	for _, group := range set.TestGroups {
		a := newAlphabet(t, group.Alphabet)
		for _, test := range group.Tests {
			tweak := unhex(t, test.Tweak)
			check(t, newCipher(t, unhex(t, test.Key), group.Radix, len(tweak)), a, tweak, test.Pt, test.Ct)
			n++
		}
	}
	if n != 750 {
		t.Errorf("the set has %d tests, not 750", n)
	}
}

// Wycheproof's three sets. They agree with SP 800-38G of 2016, which let radix^length be as small as 100, and say so of
// what Revision 1 no longer allows (flag SmallMessageSize, "valid"). Those rows are refused here, like those that are too
// short for both; that the arithmetic would be right is checked below the door. At the other end the sets differ: they
// stop at 260 numerals, ACVP at 512, both by choice of their authors, and FF1 itself at 2^32; MaxLength is ours.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	for _, file := range []struct {
		name                  string
		valid, small, refused int
	}{
		{"aes_ff1_base10_test", 3300, 12, 533},
		{"aes_ff1_base36_test", 2459, 6, 389},
		{"aes_ff1_radix10_test", 3300, 12, 533},
	} {
		var set struct {
			TestGroups []struct {
				Alphabet string
				Radix    int
				Tests    []wycheproofTest
			}
		}
		if !published(t, "wycheproof/"+file.name+".json", &set) {
			return
		}
		valid, small, refused := 0, 0, 0
		for _, group := range set.TestGroups {
			for _, test := range group.Tests {
				plain, box, err := test.numerals(group.Alphabet)
				c, tweak := (*Cipher)(nil), unhex(t, test.Tweak)
				if err == nil {
					c, err = New(unhex(t, test.Key), group.Radix, len(tweak))
				}
				if err == nil {
					_, err = c.Encrypt(nil, plain, tweak)
				}
				switch {
				case slices.Contains(test.Flags, "SmallMessageSize"):
					small++
					if !errors.Is(err, ErrShort) {
						t.Errorf("%s %d: a row of less than a million: %v", file.name, test.TcID, err)
					}
					if got := c.feistel(nil, plain, tweak, encrypt); !slices.Equal(got, box) {
						t.Errorf("%s %d: FF1 gives another row", file.name, test.TcID)
					}
				case test.Result == "valid" && err == nil:
					valid++
					checkNumerals(t, c, tweak, plain, box)
				case test.Result == "invalid" && err != nil:
					refused++
				default:
					t.Errorf("%s %d (%s) should be %s: %v", file.name, test.TcID, test.Comment, test.Result, err)
				}
			}
		}
		if valid != file.valid || small != file.small || refused != file.refused {
			t.Errorf("%s: %d valid, %d small, %d refused", file.name, valid, small, refused)
		}
	}
}

type wycheproofTest struct {
	TcID                        int
	Comment, Key, Tweak, Result string
	Flags                       []string
	Msg, Ct                     json.RawMessage // text, or an array of numerals
}

func (w wycheproofTest) numerals(alphabet string) (plain, box []uint16, err error) {
	var a *Alphabet
	if alphabet != "" {
		if a, err = NewAlphabet(alphabet); err != nil {
			return nil, nil, err
		}
	}
	read := func(raw json.RawMessage) (row []uint16, err error) {
		if a != nil {
			var text string
			if err := json.Unmarshal(raw, &text); err != nil {
				return nil, err
			}
			return a.Numerals(nil, text)
		}
		var numbers []int
		if err := json.Unmarshal(raw, &numbers); err != nil {
			return nil, err
		}
		for _, n := range numbers {
			row = append(row, uint16(n)) // -1 becomes 65535: no numeral of the radix either
		}
		return row, nil
	}
	if plain, err = read(w.Msg); err != nil {
		return nil, nil, err
	}
	box, err = read(w.Ct)
	return plain, box, err
}
