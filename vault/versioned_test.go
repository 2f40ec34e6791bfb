package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"testing"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/prf/subtle"

	"github.com/privault/privault/vault/fpe"
	"github.com/privault/privault/vault/shape"
)

// Keys that are added leave those before them their versions; one that is disabled keeps its own, too.
func TestVersionsSurviveRotation(t *testing.T) {
	t.Parallel()
	manager := keyset.NewManager()
	var outputs [][]byte
	for n := int32(1); n <= 4; n++ {
		id, err := manager.Add(prf.HMACSHA256PRFKeyTemplate())
		if err != nil {
			t.Fatal(err)
		}
		if err := manager.SetPrimary(id); err != nil {
			t.Fatal(err)
		}
		handle, err := manager.Handle()
		if err != nil {
			t.Fatal(err)
		}
		keys, err := newVersioned(handle)
		if err != nil || keys.current() != n {
			t.Fatalf("version %d is current, not %d: %v", keys.current(), n, err)
		}
		for i := int32(1); i <= n; i++ {
			out, err := keys.derive(i, []byte("input"))
			if err != nil {
				t.Fatal(err)
			}
			if int(i) > len(outputs) {
				outputs = append(outputs, out)
			}
			if !bytes.Equal(out, outputs[i-1]) {
				t.Errorf("version %d gives something else after %d rotations", i, n-1)
			}
		}
		for _, none := range []int32{-1, 0, n + 1} {
			if out, err := keys.derive(none, []byte("input")); !errors.Is(err, errNoVersion) || out != nil {
				t.Errorf("version %d: %v", none, err)
			}
		}
	}
	handle, err := manager.Handle()
	if err != nil {
		t.Fatal(err)
	}
	second, err := handle.Entry(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Disable(second.KeyID()); err != nil {
		t.Fatal(err)
	}
	if handle, err = manager.Handle(); err != nil {
		t.Fatal(err)
	}
	keys, err := newVersioned(handle)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.derive(2, []byte("input")); !errors.Is(err, errNoVersion) {
		t.Errorf("a disabled version: %v", err)
	}
	if out, err := keys.derive(3, []byte("input")); err != nil || !bytes.Equal(out, outputs[2]) || keys.current() != 4 {
		t.Errorf("version 3 beside a disabled one: %v", err)
	}
}

// The known answer of docs/formats.md, from the keyset's key to the token.
func TestKnownAnswerOfATransform(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	known := func(name string) string {
		match := regexp.MustCompile(`(?m)^` + name + ` +([0-9a-f]+)$`).FindSubmatch(document)
		if match == nil {
			t.Fatalf("the document has no %q", name)
		}
		return string(match[1])
	}
	ids := func(first byte) (out ID) {
		for i := range out {
			out[i] = first + byte(i)
		}
		return out
	}
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = byte(i)
	}
	hmac, err := subtle.NewHMACPRF("SHA256", raw)
	if err != nil {
		t.Fatal(err)
	}
	keys := &tenantKeys{deployment: ids(0x10), tenant: ids(0x20), fpe: versioned{&prf.Set{PrimaryID: 7, PRFs: map[uint32]prf.PRF{7: hmac}}, []uint32{7}}}
	made := &Transform{id: ids(0x50), Definition: TransformDefinition{Options: shape.Options{KeepSuffix: 4, Luhn: "invalid", MinLength: 13, MaxLength: 19}}}
	if err := made.check(); err != nil {
		t.Fatal(err)
	}
	c := coder{naming: naming{keys: keys}, transform: made, versions: map[int32]*version{}}
	got := c.code(TransformItem{Value: NewSecret([]byte(known("value")))}, "")
	if got.Err != nil || got.KeyVersion != 1 || string(got.Value.Reveal()) != known("token") {
		t.Errorf("the token is %s, %v", got.Value.Reveal(), got.Err)
	}
	key, err := keys.fpe.derive(1, boundTo("privault/1/fpe-transform", keys.deployment, keys.tenant, made.id))
	if err != nil || hex.EncodeToString(key) != known("key") {
		t.Errorf("the key is %x, %v", key, err)
	}
	// What stands between the two, by FF1 alone.
	tweak, err := hex.DecodeString(known("tweak"))
	if err != nil {
		t.Fatal(err)
	}
	ff1, err := fpe.New(key, 10, len(tweak))
	if err != nil {
		t.Fatal(err)
	}
	digits, err := fpe.NewAlphabet("0123456789")
	if err != nil {
		t.Fatal(err)
	}
	row, err := digits.Numerals(nil, known("in"))
	if err != nil {
		t.Fatal(err)
	}
	if row, err = ff1.Encrypt(row[:0], row, tweak); err != nil {
		t.Fatal(err)
	}
	if out, err := digits.Text(nil, row); err != nil || string(out) != known("out") || known("token")[:11] != known("out") {
		t.Errorf("FF1 gives %s, %v", out, err)
	}
}
