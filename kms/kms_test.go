package kms_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/privault/privault/kms"
)

// TestOpenUnknown also holds that a URI, which may carry a credential by mistake, isn't repeated.
func TestOpenUnknown(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"", "hunter2", "/hunter2", "://hunter2", "LOCAL://hunter2", " local://hunter2", "vault://user:hunter2@host/key",
	} {
		key, err := kms.Open(t.Context(), uri, kms.Options{})
		if err == nil || key != nil {
			t.Fatalf("Open(%q) = %v, %v, want an error", uri, key, err)
		}
		if text := err.Error(); !strings.Contains(text, "known: local") || strings.Contains(text, "hunter2") {
			t.Errorf("Open(%q): error %q: want the schemes known, and nothing of the URI behind its scheme", uri, text)
		}
		if errors.Is(err, kms.ErrDenied) || errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("Open(%q): %v: a URI that makes no sense is no state of the KMS", uri, err)
		}
	}
}

func TestOpenEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kms.Open(ctx, "local://absent", kms.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Open = %v, want context.Canceled", err)
	}
}

// TestDevelopmentOnly holds that no spelling that Open takes gets a local key past the check of `serve`.
func TestDevelopmentOnly(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]bool{
		"local://keyset.age":            true,
		"local:///var/lib/k?key-file=x": true,
		"local:":                        true,
		"LOCAL://keyset.age":            false, // and Open refuses it
		"aws-kms://local:":              false,
		"local":                         false,
		"":                              false,
	} {
		if got := kms.DevelopmentOnly(uri); got != want {
			t.Errorf("DevelopmentOnly(%q) = %v, want %v", uri, got, want)
		}
	}
}
