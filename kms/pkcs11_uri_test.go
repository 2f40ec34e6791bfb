package kms_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/privault/privault/kms"
)

func TestPKCS11Name(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"pkcs11:token=t;object=k":                                                    "pkcs11:token=t;object=k",
		"pkcs11:object=k;token=t":                                                    "pkcs11:token=t;object=k",
		"pkcs11:object=k;type=secret-key;serial=00":                                  "pkcs11:serial=00;object=k",
		"pkcs11:token=t;id=%01%ff":                                                   "pkcs11:token=t;id=%01%FF",
		"pkcs11:token=t;id=ab":                                                       "pkcs11:token=t;id=%61%62",
		"pkcs11:token=The%20token%3b;model=m;manufacturer=a;object=%C3%A4":           "pkcs11:token=The%20token%3B;manufacturer=a;model=m;object=%C3%A4",
		"pkcs11:token=a%2Fb%3F%40%24%25;object=k":                                    "pkcs11:token=a%2Fb%3F%40%24%25;object=k",
		"pkcs11:token=t;object=k?module-path=/lib/m.so&pin-source=file:/run/hunter2": "pkcs11:token=t;object=k",
		"pkcs11:token=t;object=k?pin-source=/run/hunter2":                            "pkcs11:token=t;object=k",
		"pkcs11:token=t;object=k?":                                                   "pkcs11:token=t;object=k",
	} {
		got, err := kms.NamePKCS11(uri)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", uri, got, err, want)
			continue
		}
		if again, err := kms.NamePKCS11(got); err != nil || again != got {
			t.Errorf("%s: %s, %v when taken again", got, again, err)
		}
	}
}

func TestPKCS11BadURI(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"pkcs11:", "pkcs11://token=t;object=k", "pkcs11:token=t", "pkcs11:object=k", "pkcs11:token=t;object=k\n", "pkcs11:token=t;object=k#hunter2",
		"pkcs11:token=t;token=hunter2;object=k", "pkcs11:token=;object=k", "pkcs11:token=t;object=%zz", "pkcs11:token=t;;object=k", "pkcs11:token;object=k",
		"pkcs11:token=t;object=k;type=private", "pkcs11:token=t;object=k;slot-id=1", "pkcs11:token=t;object=k;x-hunter2=1",
		"pkcs11:token=t;object=k?pin-value=hunter2", "pkcs11:token=t;object=k?pin-source=|hunter2", "pkcs11:token=t;object=k?pin-source=https://hunter2",
		"pkcs11:token=t;object=k?pin-source=file:hunter2", "pkcs11:token=t;object=k?module-path=hunter2.so", "pkcs11:token=t;object=k?module-name=hunter2",
		"pkcs11:token=t;object=k?pin-source=/a&pin-source=/hunter2", "pkcs11:token=t;object=k;pin-value=hunter2",
		"pkcs11:token=t;id=" + strings.Repeat("a", 256),
		// Without a module, and with two.
		"pkcs11:token=t;object=k",
	} {
		key, err := kms.Open(t.Context(), uri, kms.Options{})
		if err == nil || key != nil || kindOf(err) != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q) = %v, %v, want a misuse error without the URI", uri, key, err)
		}
	}
	o := kms.Options{PKCS11: kms.PKCS11Options{Module: "/lib/m.so", PIN: func() ([]byte, error) { return nil, nil }}}
	for _, query := range []string{"module-path=/lib/m.so", "pin-source=/run/hunter2"} {
		if key, err := kms.Open(t.Context(), "pkcs11:token=t;object=k?"+query, o); err == nil || key != nil || kindOf(err) != nil {
			t.Errorf("%s, and in Options too: Open = %v, %v, want a misuse error", query, key, err)
		}
	}
}

func TestPKCS11Split(t *testing.T) {
	t.Parallel()
	iv, sealed := bytes.Repeat([]byte{7}, 12), bytes.Repeat([]byte{9}, 17)
	for _, id := range [][]byte{nil, {1}, bytes.Repeat([]byte{0xff}, 255)} {
		wrapped := bytes.Join([][]byte{{1, byte(len(id))}, id, iv, sealed}, nil)
		gotID, gotIV, gotSealed, err := kms.SplitPKCS11(wrapped)
		if err != nil || !bytes.Equal(gotID, id) || !bytes.Equal(gotIV, iv) || !bytes.Equal(gotSealed, sealed) {
			t.Errorf("id of %d bytes: %x, %x, %x, %v", len(id), gotID, gotIV, gotSealed, err)
		}
		for n := range wrapped {
			if _, _, _, err := kms.SplitPKCS11(wrapped[:n]); !errors.Is(err, kms.ErrCorrupt) {
				t.Errorf("id of %d bytes, cut to %d of %d: %v, want ErrCorrupt", len(id), n, len(wrapped), err)
			}
		}
	}
	if _, _, _, err := kms.SplitPKCS11(append([]byte{2, 0}, append(iv, sealed...)...)); !errors.Is(err, kms.ErrCorrupt) {
		t.Errorf("layout 2: %v, want ErrCorrupt", err)
	}
}

func TestPKCS11Newer(t *testing.T) {
	t.Parallel()
	ids := [][]byte{nil, {0}, {1}, {0, 1}, {2}, {0xff}, {1, 0}, {1, 1}, {0, 1, 2}, {1, 0, 0}}
	for i, a := range ids {
		for j, b := range ids {
			if got := kms.Newer(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("Newer(%x, %x) = %d", a, b, got)
			}
		}
	}
}
