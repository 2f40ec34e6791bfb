package kmstest

import (
	"path/filepath"
	"testing"

	"github.com/privault/privault/kms"
)

// LocalURI makes a local keyset with its key file in a folder that goes when the test ends, and returns the URI
// that opens it.
func LocalURI(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	uri := "local://" + filepath.Join(dir, "keyset.age") + "?key-file=" + filepath.Join(dir, "keyset.key")
	if err := kms.CreateLocal(uri, kms.Options{}); err != nil {
		t.Fatalf("CreateLocal: %v", err)
	}
	return uri
}

// Local is the open key of a fresh LocalURI: a real Key for tests that need one and don't care which.
func Local(t testing.TB) kms.Key {
	t.Helper()
	key, err := kms.Open(t.Context(), LocalURI(t), kms.Options{})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return key
}
