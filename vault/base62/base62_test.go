package base62

import (
	"bytes"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRoundTripAndOneTextEach(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.Byte(), 0, 48).Draw(t, "in")
		text := Encode(in)
		if len(text) != Len(len(in)) {
			t.Fatalf("%d bytes gave %d characters, want %d", len(in), len(text), Len(len(in)))
		}
		out := make([]byte, len(in))
		if err := Decode(out, text); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("Decode(%q) = %x, %v; want %x", text, out, err, in)
		}
	})
}

func TestDecodeAcceptsOnlyWhatEncodeGives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 48).Draw(t, "n")
		text := rapid.StringOfN(rapid.RuneFrom([]rune(alphabet)), Len(n), Len(n), -1).Draw(t, "text")
		out := make([]byte, n)
		if Decode(out, text) == nil && Encode(out) != text {
			t.Fatalf("%q decodes to %x, which encodes to %q", text, out, Encode(out))
		}
	})
}

// math/big has the same number base with its letters the other way round.
func TestAgainstMathBig(t *testing.T) {
	swap := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.Byte(), 1, 48).Draw(t, "in")
		want := strings.Map(swap, new(big.Int).SetBytes(in).Text(62))
		want = strings.Repeat("0", Len(len(in))-len(want)) + want
		if got := Encode(in); got != want {
			t.Fatalf("Encode(%x) = %q, want %q", in, got, want)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{"", "0", strings.Repeat("z", Len(16)), strings.Repeat("-", Len(16)), strings.Repeat("0", Len(16)+1), strings.Repeat("é", Len(16)/2)} {
		if err := Decode(make([]byte, 16), text); err == nil {
			t.Errorf("Decode(16 bytes, %q) was accepted", text)
		}
	}
}

func BenchmarkEncodeToken(b *testing.B) {
	in := bytes.Repeat([]byte{0xa5}, 41)
	dst := make([]byte, 0, 64)
	for b.Loop() {
		dst = Append(dst[:0], in)
	}
}

func BenchmarkDecodeToken(b *testing.B) {
	text := Encode(bytes.Repeat([]byte{0xa5}, 41))
	out := make([]byte, 41)
	for b.Loop() {
		if err := Decode(out, text); err != nil {
			b.Fatal(err)
		}
	}
}
