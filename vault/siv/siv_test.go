package siv_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/daead/subtle"
	"pgregory.net/rapid"

	"github.com/privault/privault/vault/siv"
)

// RFC 5297 A.1.
func TestTheRFCsExample(t *testing.T) {
	k := key(t, unhex(t, "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"), unhex(t, "101112131415161718191a1b1c1d1e1f2021222324252627"))
	plain := unhex(t, "112233445566778899aabbccddee")
	want := unhex(t, "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c")
	if have := k.Seal(nil, plain); !bytes.Equal(have, want) {
		t.Errorf("sealed it is %x, want %x", have, want)
	}
	if have, err := k.Open(nil, want); err != nil || !bytes.Equal(have, plain) {
		t.Errorf("opened it is %x (%v)", have, err)
	}
}

func TestItIsWhatTinkDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw, associated := rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "key"), rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "associated")
		compare(t, raw, associated, rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "plain"))
	})
}

func TestEveryLengthIsWhatTinkDoes(t *testing.T) {
	raw := sha512.Sum512([]byte("key"))
	for n := range 71 {
		for _, associated := range []int{0, 1, 15, 16, 17, 31, 32, 33, 53} {
			compare(t, raw[:], bytes.Repeat([]byte{7}, associated), bytes.Repeat([]byte{byte(n)}, n))
		}
	}
	for n := range 2000 { // one counter in 256 carries out of its last byte
		compare(t, raw[:], []byte("associated"), fmt.Appendf(nil, "%020d", n))
	}
}

// compare holds one text against Tink.
func compare(t interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}, raw, associated, plain []byte) {
	tink, err := subtle.NewAESSIV(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, err := tink.EncryptDeterministically(plain, associated)
	if err != nil {
		t.Fatal(err)
	}
	k := key(t, raw, associated)
	if have := k.Seal([]byte("before"), plain); !bytes.Equal(have, append([]byte("before"), want...)) {
		t.Fatalf("sealed it is %x, for Tink %x", have, want)
	}
	if have, err := k.Open([]byte("before"), want); err != nil || !bytes.Equal(have, append([]byte("before"), plain...)) {
		t.Fatalf("opened it is %x (%v)", have, err)
	}
}

func TestOneKeyServesSeveralAtOnce(t *testing.T) {
	k := key(t, make([]byte, 64), nil)
	var wait sync.WaitGroup
	for n := range 4 {
		wait.Go(func() {
			for i := range 500 {
				plain := fmt.Appendf(nil, "%010d%010d", n, i)
				if opened, err := k.Open(nil, k.Seal(nil, plain)); err != nil || !bytes.Equal(opened, plain) {
					t.Errorf("%s opens to %s (%v)", plain, opened, err)
				}
			}
		})
	}
	wait.Wait()
}

func TestWhatIsNotSealedDoesNotOpen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "key")
		sealed := key(t, raw, []byte("a")).Seal(nil, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "plain"))
		if _, err := key(t, raw, []byte("b")).Open(nil, sealed); !errors.Is(err, siv.ErrOpen) {
			t.Fatalf("with other associated data: %v", err)
		}
		if _, err := key(t, raw, []byte("a")).Open(nil, sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "length")]); !errors.Is(err, siv.ErrOpen) {
			t.Fatalf("cut short: %v", err)
		}
		sealed[rapid.IntRange(0, len(sealed)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := key(t, raw, []byte("a")).Open(nil, sealed); !errors.Is(err, siv.ErrOpen) {
			t.Fatalf("with another bit: %v", err)
		}
	})
}

func TestKeysHaveThreeLengths(t *testing.T) {
	for n := range 70 {
		_, err := siv.New(make([]byte, n), nil)
		if good := n == 32 || n == 48 || n == 64; good != (err == nil) {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
}

func key(t interface{ Fatal(...any) }, raw, associated []byte) *siv.Key {
	k, err := siv.New(raw, associated)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func BenchmarkSeal(b *testing.B) {
	k, err := siv.New(make([]byte, 64), []byte("associated"))
	if err != nil {
		b.Fatal(err)
	}
	dst, plain := make([]byte, 0, 64), make([]byte, 20)
	b.ReportAllocs()
	for b.Loop() {
		k.Seal(dst, plain)
	}
}

func BenchmarkTink(b *testing.B) {
	k, err := subtle.NewAESSIV(make([]byte, 64))
	if err != nil {
		b.Fatal(err)
	}
	plain := make([]byte, 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.EncryptDeterministically(plain, []byte("associated")); err != nil {
			b.Fatal(err)
		}
	}
}
