package vault

import (
	"bytes"
	"testing"

	"github.com/tink-crypto/tink-go/v2/daead"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// What Tink seals and opens with a keyset, tokenKeys do, and what it refuses, they refuse: also after keys were disabled and destroyed.
func TestTokenKeysAreThoseThatTinkUses(t *testing.T) {
	t.Parallel()
	k := &tenantKeys{deployment: ID{1}, tenant: ID{2}, ring: &keyring{}}
	manager := keyset.NewManager()
	var ids []uint32
	for range 4 {
		id, err := manager.Add(daead.AESSIVKeyTemplate())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	plain := make([]byte, pointerSize)
	var sealed [][]byte
	for _, primary := range ids {
		if err := manager.SetPrimary(primary); err != nil {
			t.Fatal(err)
		}
		tink, ours := bothOf(t, k, manager)
		want, err := tink.EncryptDeterministically(plain, k.bound(tokenPurpose))
		if err != nil {
			t.Fatal(err)
		}
		if have := ours.seal(nil, plain); !bytes.Equal(have, want) {
			t.Errorf("sealed it is %x, for Tink %x", have, want)
		}
		sealed = append(sealed, want)
	}
	if err := manager.Disable(ids[0]); err != nil {
		t.Fatal(err)
	}
	if err := manager.Delete(ids[1]); err != nil {
		t.Fatal(err)
	}
	for _, first := range sealed[:3] {
		other := bytes.Clone(first)
		other[0] = 0
		sealed = append(sealed, other, first[:prefixSize+1], first[:prefixSize-1], append(bytes.Clone(first), 0))
	}
	tink, ours := bothOf(t, k, manager)
	opened := 0
	for _, s := range sealed {
		want, refused := tink.DecryptDeterministically(s, k.bound(tokenPurpose))
		have, err := ours.openNow(s)
		if (err != nil) != (refused != nil) || !bytes.Equal(have, want) {
			t.Errorf("%x opens to %x (%v), for Tink to %x (%v)", s, have, err, want, refused)
		}
		if err == nil {
			opened++
		}
	}
	if opened != 2 || len(ours.ids) != 3 {
		t.Errorf("%d texts of two enabled keys open, and %d ids are known", opened, len(ours.ids))
	}
}

func bothOf(t *testing.T, k *tenantKeys, manager *keyset.Manager) (tink interface {
	EncryptDeterministically(plain, associated []byte) ([]byte, error)
	DecryptDeterministically(sealed, associated []byte) ([]byte, error)
}, ours *tokenKeys) {
	t.Helper()
	handle, err := manager.Handle()
	if err != nil {
		t.Fatal(err)
	}
	if tink, err = daead.New(handle); err != nil {
		t.Fatal(err)
	}
	if ours, err = k.tokenKeysOf(handle); err != nil {
		t.Fatal(err)
	}
	return tink, ours
}

// A keyset whose keys tokens aren't made with is not taken.
func TestTokenKeysAreOfAESSIV(t *testing.T) {
	t.Parallel()
	k := &tenantKeys{}
	for name, template := range tenantKeysets {
		handle, err := keyset.NewHandle(template())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.tokenKeysOf(handle); (err == nil) != (name == "token") {
			t.Errorf("keyset %s: %v", name, err)
		}
	}
}
