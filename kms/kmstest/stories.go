package kmstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/privault/privault/kms"
)

func roundTrip(ctx context.Context, p Provider) error {
	k, _, err := start(ctx, p)
	if err != nil {
		return err
	}
	for _, size := range []int{1, 16, 31, 32, 33, 64, 512, kms.MaxPlaintext} {
		for _, ad := range [][]byte{place(), {0}, bytes.Repeat([]byte{0xff}, kms.MaxAD)} {
			plaintext := bytes.Repeat([]byte{byte(size)}, size)
			wrapped, err := k.Wrap(ctx, plaintext, ad)
			if err != nil {
				return fmt.Errorf("Wrap of %d bytes: %w", size, err)
			}
			if len(wrapped) > kms.MaxWrapped {
				return fmt.Errorf("Wrap of %d bytes: %d bytes, over MaxWrapped", size, len(wrapped))
			}
			if err := opens(ctx, k, wrapped, plaintext, ad); err != nil {
				return err
			}
		}
	}
	return nil
}

func misuseRefused(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	long := bytes.Repeat(place(), kms.MaxAD)
	for _, plaintext := range [][]byte{nil, {}, make([]byte, kms.MaxPlaintext+1)} {
		if err := wrapRefused(ctx, k, plaintext, place()); err != nil {
			return fmt.Errorf("%d bytes of plaintext: %w", len(plaintext), err)
		}
	}
	for _, ad := range [][]byte{nil, {}, long} {
		if err := wrapRefused(ctx, k, secret(), ad); err != nil {
			return fmt.Errorf("%d bytes of associated data: %w", len(ad), err)
		}
		if err := unwrapRefused(ctx, k, wrapped, ad, kms.ErrCorrupt); err != nil {
			return fmt.Errorf("%d bytes of associated data: %w", len(ad), err)
		}
	}
	return nil
}

func otherADRefused(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	others := [][]byte{
		place()[1:], place()[:len(place())-1], place()[:1],
		bytes.ToUpper(place()), []byte(" " + string(place())), []byte(string(place()) + "\n"), append(place(), 0),
		append(place(), place()...),
	}
	for i := range place() {
		others = append(others, with(place(), i, i%8))
	}
	for i, ad := range others {
		if err := unwrapRefused(ctx, k, wrapped, ad, kms.ErrCorrupt); err != nil {
			return fmt.Errorf("other associated data %d: %w", i, err)
		}
	}
	return opens(ctx, k, wrapped, secret(), place())
}

// flippedBitsRefused flips one bit of each byte, and every bit near both ends: that is where providers have
// headers, and where a text encoding has bits that a lax decoder doesn't look at.
func flippedBitsRefused(ctx context.Context, p Provider) error {
	const edge = 16
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	for i := range wrapped {
		for bit := range 8 {
			if bit != i%8 && i >= edge && i < len(wrapped)-edge {
				continue
			}
			if err := unwrapRefused(ctx, k, with(wrapped, i, bit), place(), kms.ErrCorrupt); err != nil {
				return fmt.Errorf("bit %d of byte %d of %d: %w", bit, i, len(wrapped), err)
			}
		}
	}
	return opens(ctx, k, wrapped, secret(), place())
}

func garbageRefused(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	garbage := [][]byte{
		nil, {}, {0}, secret(), place(),
		append(bytes.Clone(wrapped), 0), append(bytes.Clone(wrapped), '\n'), append(bytes.Clone(wrapped), wrapped...),
		append([]byte{0}, wrapped...),
		bytes.Repeat([]byte{0}, kms.MaxWrapped), bytes.Repeat([]byte{0}, kms.MaxWrapped+1),
	}
	for n := range wrapped {
		garbage = append(garbage, wrapped[:n])
	}
	for _, g := range garbage {
		if err := unwrapRefused(ctx, k, g, place(), kms.ErrCorrupt); err != nil {
			return fmt.Errorf("%d bytes in place of %d: %w", len(g), len(wrapped), err)
		}
	}
	return nil
}

func foreignRefused(ctx context.Context, p Provider) error {
	k, ours, err := start(ctx, p)
	if err != nil {
		return err
	}
	foreign, err := p.Foreign(ctx)
	if err != nil {
		return fmt.Errorf("Foreign: %w", err)
	}
	theirs, err := foreign.Wrap(ctx, secret(), place())
	if err != nil {
		return fmt.Errorf("foreign Wrap: %w", err)
	}
	if err := unwrapRefused(ctx, k, theirs, place(), kms.ErrCorrupt); err != nil {
		return fmt.Errorf("theirs with our key: %w", err)
	}
	if err := unwrapRefused(ctx, foreign, ours, place(), kms.ErrCorrupt); err != nil {
		return fmt.Errorf("ours with their key: %w", err)
	}
	return opens(ctx, foreign, theirs, secret(), place())
}

func wrapsDiffer(ctx context.Context, p Provider) error {
	k, _, err := start(ctx, p)
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	for range 16 {
		wrapped, err := k.Wrap(ctx, secret(), place())
		if err != nil {
			return fmt.Errorf("Wrap: %w", err)
		}
		if seen[string(wrapped)] {
			return errors.New("two wraps of one plaintext are the same")
		}
		if bytes.Contains(wrapped, secret()) {
			return errors.New("the wrapped key holds the plaintext")
		}
		seen[string(wrapped)] = true
	}
	return nil
}

func slicesStay(ctx context.Context, p Provider) error {
	k, _, err := start(ctx, p)
	if err != nil {
		return err
	}
	plaintext, ad := bytes.Clone(secret()), bytes.Clone(place())
	wrapped, err := k.Wrap(ctx, plaintext, ad)
	if err != nil {
		return fmt.Errorf("Wrap: %w", err)
	}
	kept := bytes.Clone(wrapped)
	if err := opens(ctx, k, wrapped, secret(), ad); err != nil {
		return err
	}
	if !bytes.Equal(plaintext, secret()) || !bytes.Equal(ad, place()) || !bytes.Equal(wrapped, kept) {
		return errors.New("an argument was changed")
	}
	// A caller clears key material after use. That must not reach what the provider may still hold.
	clear(plaintext)
	got, err := k.Unwrap(ctx, wrapped, ad)
	if err != nil {
		return fmt.Errorf("Unwrap: %w", err)
	}
	clear(got)
	clear(wrapped)
	return opens(ctx, k, kept, secret(), place())
}

func uriNames(ctx context.Context, p Provider) error {
	k, err := p.Open(ctx)
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	again, err := p.Open(ctx)
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	foreign, err := p.Foreign(ctx)
	if err != nil {
		return fmt.Errorf("Foreign: %w", err)
	}
	uri := k.URI()
	scheme, rest, found := strings.Cut(uri, ":")
	switch {
	case !found || scheme == "" || rest == "":
		return fmt.Errorf("URI %q without a scheme or a name", uri)
	case again.URI() != uri:
		return fmt.Errorf("URI %q, and %q when opened again", uri, again.URI())
	case foreign.URI() == uri:
		return fmt.Errorf("URI %q is the foreign key's too", uri)
	case strings.Contains(uri, "?"):
		return fmt.Errorf("URI %q says how the key is opened", uri)
	}
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		return errors.New("URI with a user in it")
	}
	if found, err := kms.Canonical(uri); err != nil || found != uri {
		return fmt.Errorf("URI %q is found by %q (%v)", uri, found, err) //nolint:errorlint // nil, mostly
	}
	return nil
}

func endedContext(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := bothRefused(cancelled, k, wrapped, context.Canceled); err != nil {
		return fmt.Errorf("cancelled before the call: %w", err)
	}
	late, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
	defer cancel()
	if err := bothRefused(late, k, wrapped, context.DeadlineExceeded, kms.ErrUnavailable); err != nil {
		return fmt.Errorf("deadline before the call: %w", err)
	}
	return works(ctx, k)
}

func concurrentUse(ctx context.Context, p Provider) error {
	k, _, err := start(ctx, p)
	if err != nil {
		return err
	}
	const callers, rounds = 8, 16
	errs := make(chan error, callers)
	for c := range callers {
		go func() {
			for r := range rounds {
				plaintext := fmt.Appendf(nil, "key of caller %d in round %d", c, r)
				ad := fmt.Appendf(nil, "caller=%d;round=%d", c, r)
				wrapped, err := k.Wrap(ctx, plaintext, ad)
				if err == nil {
					err = opens(ctx, k, wrapped, plaintext, ad)
				}
				if err != nil {
					errs <- fmt.Errorf("caller %d, round %d: %w", c, r, err)
					return
				}
			}
			errs <- nil
		}()
	}
	var all error
	for range callers {
		all = errors.Join(all, <-errs)
	}
	return all
}

func openedAgain(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	again, err := p.Open(ctx)
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	if err := opens(ctx, again, wrapped, secret(), place()); err != nil {
		return err
	}
	wrapped, err = again.Wrap(ctx, secret(), place())
	if err != nil {
		return fmt.Errorf("Wrap: %w", err)
	}
	return opens(ctx, k, wrapped, secret(), place())
}
