package kmstest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/privault/privault/kms"
)

// secret and place are canaries: no error may hold them, whatever the encoding. Each call makes them anew, so that
// a provider that writes to its arguments spoils no other story.
func secret() []byte { return []byte("canary-key-material-0123456789ab") }

func place() []byte { return []byte("tenant=canary-tenant;kind=keyset;v=1") }

// kinds are the errors that callers tell apart.
var kinds = []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt, context.Canceled, context.DeadlineExceeded}

// refused checks a failed call: no result, an error of exactly the kinds wanted, and nothing in its text that
// must not be there. No kinds wanted means misuse.
func refused(call string, got []byte, err error, want ...error) error {
	if err == nil {
		return fmt.Errorf("%s: no error", call)
	}
	if got != nil {
		return fmt.Errorf("%s: a result besides the error %w", call, err)
	}
	for _, k := range kinds {
		wanted := false
		for _, w := range want {
			wanted = wanted || errors.Is(k, w)
		}
		if errors.Is(err, k) != wanted {
			return fmt.Errorf("%s: want an error that matches %w: %v; got: %w", call, k, wanted, err)
		}
	}
	for _, c := range [][]byte{secret(), place()} {
		for _, form := range []string{string(c), hex.EncodeToString(c), base64.StdEncoding.EncodeToString(c), fmt.Sprintf("%d", c)} {
			if strings.Contains(err.Error(), form) {
				return fmt.Errorf("%s: the error holds what was passed in", call)
			}
		}
	}
	return nil
}

func wrapRefused(ctx context.Context, k kms.Key, plaintext, ad []byte, want ...error) error {
	got, err := k.Wrap(ctx, plaintext, ad)
	return refused("Wrap", got, err, want...)
}

func unwrapRefused(ctx context.Context, k kms.Key, wrapped, ad []byte, want ...error) error {
	got, err := k.Unwrap(ctx, wrapped, ad)
	return refused("Unwrap", got, err, want...)
}

// bothRefused checks that neither call gets through.
func bothRefused(ctx context.Context, k kms.Key, wrapped []byte, want ...error) error {
	if err := wrapRefused(ctx, k, secret(), place(), want...); err != nil {
		return err
	}
	return unwrapRefused(ctx, k, wrapped, place(), want...)
}

// opens checks that wrapped opens to plaintext.
func opens(ctx context.Context, k kms.Key, wrapped, plaintext, ad []byte) error {
	got, err := k.Unwrap(ctx, wrapped, ad)
	if err != nil {
		return fmt.Errorf("Unwrap: %w", err)
	}
	if !bytes.Equal(got, plaintext) {
		return fmt.Errorf("Unwrap: %d bytes that aren't the %d wrapped", len(got), len(plaintext))
	}
	return nil
}

// works checks a round trip.
func works(ctx context.Context, k kms.Key) error {
	wrapped, err := k.Wrap(ctx, secret(), place())
	if err != nil {
		return fmt.Errorf("Wrap: %w", err)
	}
	return opens(ctx, k, wrapped, secret(), place())
}

// start opens the key and wraps secret in place.
func start(ctx context.Context, p Provider) (kms.Key, []byte, error) {
	k, err := p.Open(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("Open: %w", err)
	}
	wrapped, err := k.Wrap(ctx, secret(), place())
	if err != nil {
		return nil, nil, fmt.Errorf("Wrap: %w", err)
	}
	return k, wrapped, nil
}

// with is a copy of b with one bit flipped.
func with(b []byte, at, bit int) []byte {
	c := bytes.Clone(b)
	c[at] ^= 1 << bit
	return c
}
