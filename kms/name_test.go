package kms_test

import (
	"testing"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

func TestNamesOfKeys(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]struct{ canonical, name string }{
		"local:///etc/privault/./kms.keyset?key-file=/etc/privault/kms.key": {"local:///etc/privault/kms.keyset", "local:kms.keyset"},
		"aws-kms://arn:aws:kms:eu-central-1:123456789012:key/mrk-1234":      {"aws-kms://arn:aws:kms:eu-central-1:123456789012:key/mrk-1234", "aws-kms:mrk-1234"},
		"gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/root":       {"gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/root", "gcp-kms:root"},
		"azure-kv://Acme.vault.azure.net/keys/Root":                         {"azure-kv://acme.vault.azure.net/keys/root", "azure-kv:Root"},
		"hcvault://Vault.example:8200/transit/keys/root":                    {"hcvault://vault.example/transit/keys/root", "hcvault:root"},
		"pkcs11:object=root;token=t?module-path=/m.so&pin-source=file:/pin": {"pkcs11:token=t;object=root", "pkcs11:root"},
	} {
		if got, err := kms.Canonical(uri); err != nil || got != want.canonical {
			t.Errorf("%s is %s, %v", uri, got, err)
		}
		if got := kms.Name(uri); got != want.name {
			t.Errorf("%s is called %s", uri, got)
		}
	}
	for _, uri := range []string{"", "/etc/kms", "ftp://x", "local://", "pkcs11:object=x;pin-value=1234;token=t"} {
		if got, err := kms.Canonical(uri); err == nil {
			t.Errorf("%q is %s", uri, got)
		}
	}
	// What an open key says of itself is what its URI is found by.
	uri := kmstest.LocalURI(t)
	key, err := kms.Open(t.Context(), uri, kms.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := kms.Canonical(uri); err != nil || got != key.URI() {
		t.Errorf("got %s, %v; the key says %s", got, err, key.URI())
	}
}
