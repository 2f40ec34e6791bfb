package kms_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/privault/privault/kms"
)

func mustOpen(t *testing.T, uri string, o kms.Options) kms.Key {
	t.Helper()
	k, err := kms.Open(t.Context(), uri, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return k
}

func mustWrap(t *testing.T, k kms.Key, plaintext string) []byte {
	t.Helper()
	wrapped, err := k.Wrap(t.Context(), []byte(plaintext), ad)
	if err != nil {
		t.Fatalf("Wrap: %v", err)
	}
	return wrapped
}

func wantUnwrapped(t *testing.T, k kms.Key, wrapped []byte, want string) {
	t.Helper()
	got, err := k.Unwrap(t.Context(), wrapped, ad)
	if err != nil || string(got) != want {
		t.Errorf("Unwrap: %d bytes, %v, want the %d wrapped", len(got), err, len(want))
	}
}

// closing is what Provider.Open wants, for a Key with a connection.
func closing(t *testing.T, uri string, o kms.Options) func(context.Context) (kms.Key, error) {
	t.Helper()
	return func(ctx context.Context) (kms.Key, error) {
		k, err := kms.Open(ctx, uri, o)
		if c, ok := k.(io.Closer); ok {
			t.Cleanup(func() { _ = c.Close() })
		}
		return k, err
	}
}

// call is a Wrap and an Unwrap of a key whose KMS has begun to answer in some way.
type call struct {
	key                kms.Key
	wrapped            []byte
	count              func() int // the requests since then
	wrapErr, unwrapErr error
}

// atOnce makes all calls at the same time: those that are tried again take theirs.
func atOnce(t *testing.T, calls []call) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range calls {
		c := &calls[i]
		wg.Go(func() { _, c.wrapErr = c.key.Wrap(t.Context(), []byte("key material"), ad) })
		wg.Go(func() { _, c.unwrapErr = c.key.Unwrap(t.Context(), c.wrapped, ad) })
	}
	wg.Wait()
}

// kindOf is nil for misuse.
func kindOf(err error) error {
	for _, kind := range []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}
