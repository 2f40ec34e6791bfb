package kms

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Limits of retry. Without a deadline of the caller's, a call to a KMS that never answers takes 20.35 s; one that is
// turned away each time, 0.35 s. Longer is the business of the caller, who has a cache and knows how long it lasts.
const (
	attempts    = 4
	attemptTime = 5 * time.Second
	// firstPause is the longest one before the second attempt, and doubles after that.
	firstPause = 50 * time.Millisecond
)

// retry calls do until it gets through, up to attempts times, as long as what comes back is ErrUnavailable: do
// returns errors that are of this package's kinds already. It is given a context of its own, that ends with ctx or
// when the attempt has had its time. Pauses are random, so that replicas that were turned away together don't come
// back together.
//
// Once ctx has ended, whatever do made of that, the error is the one that Key promises.
func retry(ctx context.Context, do func(context.Context) ([]byte, error)) ([]byte, error) {
	pause := firstPause
	for n := 1; ; n++ {
		b, err := attempt(ctx, do)
		if err == nil {
			return b, nil
		}
		if e := ended(ctx); e != nil {
			return nil, e
		}
		if n == attempts || !errors.Is(err, ErrUnavailable) {
			return nil, err
		}
		if e := rest(ctx, rand.N(pause)); e != nil { //nolint:gosec // spreads load, guards nothing
			if errors.Is(e, ErrUnavailable) {
				return nil, fmt.Errorf("%w, after %w", e, err)
			}
			return nil, e
		}
		pause *= 2
	}
}

func attempt(ctx context.Context, do func(context.Context) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return do(ctx)
}

// rest waits for d, or returns the error of a ctx that ends before.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}
