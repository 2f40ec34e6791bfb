package fpe

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// FuzzEncrypt and FuzzDecrypt: whatever comes in is refused with one of the four errors, or comes back, and is what the
// standard says.
func FuzzEncrypt(f *testing.F) { fuzz(f, encrypt) }

func FuzzDecrypt(f *testing.F) { fuzz(f, decrypt) }

func fuzz(f *testing.F, way direction) {
	f.Helper()
	f.Add([]byte("0123456789abcdef"), uint32(10), []byte("tweak"), []byte{0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6})
	f.Add(make([]byte, 24), uint32(2), []byte{}, make([]byte, 2*20))
	f.Add(make([]byte, 32), uint32(MaxRadix), make([]byte, 33), []byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Add(make([]byte, 16), uint32(65535), make([]byte, 16), make([]byte, 2*80))
	f.Fuzz(func(t *testing.T, key []byte, radix uint32, tweak, bytes []byte) {
		c, err := New(key, int(radix), 40)
		if err != nil {
			return
		}
		row := make([]uint16, min(len(bytes)/2, 2000))
		for i := range row {
			row[i] = binary.BigEndian.Uint16(bytes[2*i:])
		}
		got, err := c.apply(nil, row, tweak, way)
		if err != nil {
			if !errors.Is(err, ErrShort) && !errors.Is(err, ErrNumeral) && !errors.Is(err, ErrTweak) {
				t.Fatal(err)
			}
			return
		}
		if !slices.Equal(got, literal(c, row, tweak, way)) {
			t.Error("another row than the standard's")
		}
		if back, err := c.apply(nil, got, tweak, !way); err != nil || !slices.Equal(back, row) {
			t.Errorf("comes back as another row: %v", err)
		}
	})
}
