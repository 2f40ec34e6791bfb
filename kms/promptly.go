package kms

import "context"

// promptly is do, but returns as soon as ctx ends, for what waits in C or for a lock of an SDK's and looks at no
// context. Do then goes on by itself: what it uses must be its own, and not the caller's to clear.
func promptly[T any](ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do(ctx)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ended(ctx)
	}
}
