package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func newKey(t rapid.TB, first byte) Key {
	raw := make([]byte, KeySize)
	for i := range raw {
		raw[i] = first + byte(i)
	}
	key, err := NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func somewhere() Place {
	return Place{Deployment: id(0x10), Tenant: id(0x20), Collection: id(0x30), Record: id(0x40), Field: 2, Version: 3}
}

func TestWhatIsSealedOpens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := newKey(t, rapid.Byte().Draw(t, "key"))
		draw := func(name string) [16]byte { return id(rapid.Byte().Draw(t, name)) }
		place := Place{draw("deployment"), draw("tenant"), draw("collection"), draw("record"), rapid.Uint32().Draw(t, "field"), rapid.Uint32().Draw(t, "version")}
		value := rapid.SliceOfN(rapid.Byte(), -1, 2000).Draw(t, "value")
		before := rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "before")
		box, err := key.Seal(slices.Clone(before), value, place)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(box, before) {
			t.Fatal("Seal changed what stood before the box")
		}
		box = box[len(before):]
		got, err := key.Open(box, place)
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("opened %x, %v, want %x", got, err, value)
		}
		again, err := key.Seal(nil, value, place)
		if err != nil || bytes.Equal(again, box) {
			t.Fatalf("two boxes of one value are alike, %v", err)
		}
		if len(value) > 12 && bytes.Contains(box, value) {
			t.Fatal("the box shows its value")
		}
	})
}

// The format's description in docs/formats.md, written out with crypto/cipher alone: what one makes, the other opens.
func byTheDocument(t *testing.T, raw, nonce, value []byte, place Place) (cipher.AEAD, []byte, []byte) {
	t.Helper()
	block, err := aes.NewCipher(raw)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	ad := []byte("privault/\x01")
	for _, part := range [][16]byte{place.Deployment, place.Tenant, place.Collection, place.Record} {
		ad = append(ad, part[:]...)
	}
	ad = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(ad, place.Field), place.Version)
	plain := append(binary.AppendUvarint(nil, uint64(len(value))), value...)
	for len(plain)%32 != 0 {
		plain = append(plain, 0)
	}
	return gcm, gcm.Seal(slices.Clone(nonce), nonce, plain, ad), ad
}

func TestFormatByTheDocument(t *testing.T) {
	t.Parallel()
	raw, nonce := make([]byte, KeySize), []byte("twelve bytes")
	for i := range raw {
		raw[i] = byte(i)
	}
	place, key := somewhere(), newKey(t, 0)
	for _, value := range []string{"", "x", "jane@example.com", string(bytes.Repeat([]byte("x"), 200))} {
		gcm, box, ad := byTheDocument(t, raw, nonce, []byte(value), place)
		if got, err := key.Open(box, place); err != nil || string(got) != value {
			t.Errorf("a box made by the document opens as %q, %v", got, err)
		}
		ours, err := key.Seal(nil, []byte(value), place)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := gcm.Open(nil, ours[:12], ours[12:], ad)
		if err != nil {
			t.Fatalf("the document does not open our box: %v", err)
		}
		size, n := binary.Uvarint(plain)
		if int(size) != len(value) || string(plain[n:n+len(value)]) != value || len(bytes.Trim(plain[n+len(value):], "\x00")) != 0 {
			t.Errorf("by the document our box holds %x", plain)
		}
	}
}

func TestEveryPartOfAPlaceCounts(t *testing.T) {
	t.Parallel()
	key, home := newKey(t, 0), somewhere()
	box, err := key.Seal(nil, []byte("value"), home)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{string(home.associated()): true}
	var others []Place
	for bit := range 128 {
		for _, change := range []func(*Place) *[16]byte{
			func(p *Place) *[16]byte { return &p.Deployment }, func(p *Place) *[16]byte { return &p.Tenant },
			func(p *Place) *[16]byte { return &p.Collection }, func(p *Place) *[16]byte { return &p.Record },
		} {
			other := home
			change(&other)[bit/8] ^= 1 << (bit % 8)
			others = append(others, other)
		}
	}
	for bit := range 32 {
		field, version := home, home
		field.Field ^= 1 << bit
		version.Version ^= 1 << bit
		others = append(others, field, version)
	}
	exchanged := home
	exchanged.Field, exchanged.Version = home.Version, home.Field
	others = append(others, exchanged)
	for _, other := range others {
		ad := string(other.associated())
		if seen[ad] {
			t.Fatalf("two places have the associated data %x", ad)
		}
		seen[ad] = true
		if value, err := key.Open(box, other); !errors.Is(err, ErrOpen) || value != nil {
			t.Fatalf("in another place the box gives %q, %v", value, err)
		}
	}
	if _, err := newKey(t, 1).Open(box, home); !errors.Is(err, ErrOpen) {
		t.Errorf("under another key: %v", err)
	}
}

func TestEveryBitOfABoxCounts(t *testing.T) {
	t.Parallel()
	key, home := newKey(t, 0), somewhere()
	box, err := key.Seal(nil, []byte("value"), home)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(box) {
		other := slices.Clone(box)
		other[bit/8] ^= 1 << (bit % 8)
		if value, err := key.Open(other, home); !errors.Is(err, ErrOpen) || value != nil {
			t.Fatalf("with bit %d flipped the box gives %q, %v", bit, value, err)
		}
	}
	for size := range box {
		if _, err := key.Open(box[:size], home); !errors.Is(err, ErrOpen) {
			t.Fatalf("%d bytes of the box: %v", size, err)
		}
	}
	if _, err := key.Open(append(slices.Clone(box), 0), home); !errors.Is(err, ErrOpen) {
		t.Errorf("a longer box: %v", err)
	}
}

// A plaintext that no Seal made, under the right key: its length must be checked all the same.
func TestLengthInsideABoxIsChecked(t *testing.T) {
	t.Parallel()
	key, home := newKey(t, 0), somewhere()
	for what, plain := range map[string][]byte{
		"empty": {}, "longer than it is": {5, 'a'}, "huge": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"no end": {0x80, 0x80}, "over 64 bits": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		box := key.aead.Seal(nil, nil, plain, home.associated())
		if value, err := key.Open(box, home); !errors.Is(err, ErrOpen) {
			t.Errorf("a length that is %s gives %q, %v", what, value, err)
		}
	}
}

func TestValuesOfOneStepHaveBoxesOfOneLength(t *testing.T) {
	t.Parallel()
	key, home := newKey(t, 0), somewhere()
	size := func(n int) int {
		box, err := key.Seal(nil, make([]byte, n), home)
		if err != nil {
			t.Fatal(err)
		}
		return len(box) - 12 - 16
	}
	for _, step := range []struct{ from, to, size int }{ // with one byte for the length, two from 128 on
		{0, 31, 32}, {32, 63, 64}, {64, 95, 96}, {96, 127, 128}, {128, 158, 160}, {159, 190, 192}, {191, 222, 224}, {223, 254, 256},
		{255, 270, 272}, {495, 510, 512}, {511, 542, 544}, {1023, 1086, 1088},
	} {
		if a, b := size(step.from), size(step.to); a != step.size || b != step.size {
			t.Errorf("values of %d and %d bytes have plaintexts of %d and %d, want %d", step.from, step.to, a, b, step.size)
		}
		if next := size(step.to + 1); next == step.size {
			t.Errorf("a value of %d bytes has a plaintext of %d too", step.to+1, next)
		}
	}
	for n := 1; n < 1<<21; n += 1 + n/50 {
		if p := padded(n); p < n || p < padded(n-1) || n > 256 && float64(p) > 1.12*float64(n) {
			t.Fatalf("%d bytes are filled up to %d", n, p)
		}
	}
}

func TestSizesThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 16, 24, 31, 33, 64} {
		if _, err := NewKey(make([]byte, size)); err == nil {
			t.Errorf("a key of %d bytes was taken", size)
		}
	}
	key := newKey(t, 0)
	if _, err := key.Seal(nil, make([]byte, MaxValue+1), somewhere()); err == nil {
		t.Error("a value that is too long was sealed")
	}
	box, err := key.Seal(nil, make([]byte, MaxValue), somewhere())
	if err != nil {
		t.Fatal(err)
	}
	if value, err := key.Open(box, somewhere()); err != nil || len(value) != MaxValue {
		t.Errorf("the longest value: %d bytes, %v", len(value), err)
	}
}

func TestKeyIsNotKeptByItsCaller(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte{7}, KeySize)
	key, err := NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	box, err := key.Seal(nil, []byte("value"), somewhere())
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if value, err := key.Open(box, somewhere()); err != nil || string(value) != "value" {
		t.Errorf("once the raw key was cleared: %q, %v", value, err)
	}
}

func TestKeyServesManyAtOnce(t *testing.T) {
	t.Parallel()
	key := newKey(t, 0)
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			place := somewhere()
			place.Field = uint32(i)
			for n := range 200 {
				value := []byte(fmt.Sprint(i, n))
				box, err := key.Seal(nil, value, place)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := key.Open(box, place); err != nil || !bytes.Equal(got, value) {
					t.Errorf("%s came back as %s, %v", value, got, err)
				}
			}
		})
	}
	wait.Wait()
}

func TestWhatIsPackedUnpacks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SliceOfNDistinct(rapid.Uint32Range(0, 1<<31), 0, 20, rapid.ID[uint32]).Draw(t, "fields")
		slices.Sort(fields)
		var boxes Boxes
		for _, field := range fields {
			boxes = append(boxes, Box{field, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "box")})
		}
		got, err := Unpack(boxes.Pack())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(boxes, got); diff != "" {
			t.Fatal(diff)
		}
		for _, box := range boxes {
			if sealed, held := got.Get(box.Field); !held || !bytes.Equal(sealed, box.Sealed) {
				t.Fatalf("field %d gives %x, %t", box.Field, sealed, held)
			}
		}
		absent := rapid.Uint32().Filter(func(f uint32) bool { return !slices.Contains(fields, f) }).Draw(t, "absent")
		if _, held := got.Get(absent); held {
			t.Fatalf("field %d is there", absent)
		}
	})
}

func TestPackedBoxesThatAreRefused(t *testing.T) {
	t.Parallel()
	for what, packed := range map[string][]byte{
		"nothing": {}, "format 0": {0}, "format 2": {2, 1, 1, 'a'}, "a field without a length": {1, 5}, "a length without an end": {1, 5, 0x80},
		"a box that is cut off": {1, 5, 3, 'a', 'b'}, "a field twice": {1, 5, 1, 'a', 5, 1, 'b'}, "fields that fall": {1, 5, 1, 'a', 4, 1, 'b'},
		"a field that is too large": append(binary.AppendUvarint([]byte{1}, 1<<32+5), 1, 'a'),
		"a length that wraps":       append(binary.AppendUvarint([]byte{1, 5}, 1<<63), 'a'),
		"the largest length":        append(binary.AppendUvarint([]byte{1, 5}, 1<<64-1), 'a'),
		"more than 64 bits":         {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		if boxes, err := Unpack(packed); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v, %v", what, boxes, err)
		}
	}
	if boxes, err := Unpack([]byte{1}); err != nil || len(boxes) != 0 {
		t.Errorf("a record without values: %v, %v", boxes, err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add(Boxes{{1, []byte("a")}, {2, nil}, {1 << 31, []byte("ccc")}}.Pack())
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0})
	f.Fuzz(func(t *testing.T, packed []byte) {
		boxes, err := Unpack(packed)
		if err != nil {
			if !errors.Is(err, ErrOpen) || boxes != nil {
				t.Fatalf("%v, %v", boxes, err)
			}
			return
		}
		// What was taken for boxes is boxes: they pack, and unpack alike.
		again, err := Unpack(boxes.Pack())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(boxes, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzOpen(f *testing.F) {
	key, home := newKey(f, 0), somewhere()
	box, err := key.Seal(nil, []byte("value"), home)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(box[:27])
	f.Add(box[1:])
	f.Fuzz(func(t *testing.T, other []byte) {
		if bytes.Equal(other, box) {
			return
		}
		if value, err := key.Open(other, home); !errors.Is(err, ErrOpen) || value != nil {
			t.Fatalf("a box that nobody sealed gives %q, %v", value, err)
		}
	})
}
