package kmstest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/privault/privault/kms"
)

// rotated rotates twice: what the first key wrapped must outlive more than one successor.
func rotated(ctx context.Context, p Provider) error {
	before, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	old := [][]byte{wrapped}
	for range 2 {
		if err := p.Rotate(); err != nil {
			return fmt.Errorf("Rotate: %w", err)
		}
		after, wrapped, err := start(ctx, p)
		if err != nil {
			return fmt.Errorf("after the rotation: %w", err)
		}
		if after.URI() != before.URI() {
			return fmt.Errorf("URI %q, and %q before the rotation", after.URI(), before.URI())
		}
		old = append(old, wrapped)
		for i, w := range old {
			if err := opens(ctx, after, w, secret(), place()); err != nil {
				return fmt.Errorf("wrapped after %d of %d rotations: %w", i, len(old)-1, err)
			}
		}
		if err := seenBefore(ctx, p, before, old[0], wrapped); err != nil {
			return fmt.Errorf("key opened before the rotation: %w", err)
		}
	}
	return nil
}

// seenBefore checks a key that was opened before a rotation.
func seenBefore(ctx context.Context, p Provider, k kms.Key, older, newer []byte) error {
	if err := opens(ctx, k, older, secret(), place()); err != nil {
		return err
	}
	if p.InMemory {
		return unwrapRefused(ctx, k, newer, place(), kms.ErrCorrupt)
	}
	return opens(ctx, k, newer, secret(), place())
}

func deleted(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	if err := p.Delete(); err != nil {
		return fmt.Errorf("Delete: %w", err)
	}
	if p.InMemory {
		if err := works(ctx, k); err != nil {
			return fmt.Errorf("key opened before the deletion: %w", err)
		}
	} else if err := bothRefused(ctx, k, wrapped, kms.ErrDenied); err != nil {
		return fmt.Errorf("key opened before the deletion: %w", err)
	}
	return deniedFromOpen(ctx, p, wrapped)
}

// deniedFromOpen leaves it to the provider whether it is Open that asks the KMS or the first call.
func deniedFromOpen(ctx context.Context, p Provider, wrapped []byte) error {
	k, err := p.Open(ctx)
	if err != nil {
		return refused("Open", nil, err, kms.ErrDenied)
	}
	return bothRefused(ctx, k, wrapped, kms.ErrDenied)
}

func disabled(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	if err := p.Disable(true); err != nil {
		return fmt.Errorf("Disable: %w", err)
	}
	if err := bothRefused(ctx, k, wrapped, kms.ErrDenied); err != nil {
		return err
	}
	if err := deniedFromOpen(ctx, p, wrapped); err != nil {
		return err
	}
	if err := p.Disable(false); err != nil {
		return fmt.Errorf("enabling: %w", err)
	}
	return opens(ctx, k, wrapped, secret(), place())
}

// outage gives the calls little time, because a provider may spend all of it on retries. Whether they end by
// themselves or by the deadline is its own affair.
func outage(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	if err := p.Outage(true); err != nil {
		return fmt.Errorf("Outage: %w", err)
	}
	if err := unavailable(ctx, k, wrapped); err != nil {
		return err
	}
	if err := p.Outage(false); err != nil {
		return fmt.Errorf("ending the outage: %w", err)
	}
	return opens(ctx, k, wrapped, secret(), place())
}

func unavailable(ctx context.Context, k kms.Key, wrapped []byte) error {
	calls := map[string]func(context.Context) ([]byte, error){
		"Wrap":   func(ctx context.Context) ([]byte, error) { return k.Wrap(ctx, secret(), place()) },
		"Unwrap": func(ctx context.Context) ([]byte, error) { return k.Unwrap(ctx, wrapped, place()) },
		"Rewrap": func(ctx context.Context) ([]byte, error) { return kms.Rewrap(ctx, k, wrapped, place()) },
	}
	for name, call := range calls {
		short, cancel := context.WithTimeout(ctx, patience)
		began := time.Now()
		got, err := call(short)
		cancel()
		if d := time.Since(began); d > patience+prompt {
			return fmt.Errorf("%s: returned after %v", name, d)
		}
		want := []error{kms.ErrUnavailable}
		if errors.Is(err, context.DeadlineExceeded) {
			want = append(want, context.DeadlineExceeded)
		}
		if err := refused(name, got, err, want...); err != nil {
			return err
		}
	}
	return nil
}

// stalled is where a context that ends in the middle of a call shows.
func stalled(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	if err := p.Stall(true); err != nil {
		return fmt.Errorf("Stall: %w", err)
	}
	if err := unavailable(ctx, k, wrapped); err != nil {
		return fmt.Errorf("deadline: %w", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	time.AfterFunc(patience, cancel)
	began := time.Now()
	if err := bothRefused(cancelled, k, wrapped, context.Canceled); err != nil {
		return fmt.Errorf("cancelled: %w", err)
	}
	if d := time.Since(began); d > patience+prompt {
		return fmt.Errorf("cancelled: returned after %v", d)
	}
	if err := p.Stall(false); err != nil {
		return fmt.Errorf("ending the stall: %w", err)
	}
	return opens(ctx, k, wrapped, secret(), place())
}

// throttled lets one call be turned away, which the provider retries, and then all of them, which it gives up on.
func throttled(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	if err := p.Throttle(1); err != nil {
		return fmt.Errorf("Throttle: %w", err)
	}
	if err := opens(ctx, k, wrapped, secret(), place()); err != nil {
		return fmt.Errorf("throttled once: %w", err)
	}
	if err := p.Throttle(1 << 30); err != nil {
		return fmt.Errorf("Throttle: %w", err)
	}
	if err := unavailable(ctx, k, wrapped); err != nil {
		return fmt.Errorf("throttled for good: %w", err)
	}
	if err := p.Throttle(0); err != nil {
		return fmt.Errorf("ending the throttling: %w", err)
	}
	return opens(ctx, k, wrapped, secret(), place())
}
