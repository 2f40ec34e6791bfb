//go:build nocloud

package kms_test

import (
	"strings"
	"testing"

	"github.com/privault/privault/kms"
)

// TestNoCloud: a build without the SDKs says so, and doesn't take the URI for an unknown one.
func TestNoCloud(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"aws-kms://arn:aws:kms:eu-central-1:111122223333:key/mrk-1234", "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k",
		"azure-kv://v.vault.azure.net/keys/k",
	} {
		key, err := kms.Open(t.Context(), uri, kms.Options{})
		if err == nil || key != nil || kindOf(err) != nil || !strings.Contains(err.Error(), "no cloud KMS providers") {
			t.Errorf("Open(%q) = %v, %v, want an error that names the build", uri, key, err)
		}
	}
}
