package kmstest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/privault/privault/kms"
)

func TestFaultySwitches(t *testing.T) {
	t.Parallel()
	f := NewFaulty(Local(t))
	wrapped, err := f.Wrap(t.Context(), secret(), place())
	if err != nil {
		t.Fatal(err)
	}
	f.SetDown(true)
	if err := bothRefused(t.Context(), f, wrapped, kms.ErrUnavailable); err != nil {
		t.Errorf("down: %v", err)
	}
	f.SetDown(false)
	f.SetDenied(true)
	if err := bothRefused(t.Context(), f, wrapped, kms.ErrDenied); err != nil {
		t.Errorf("denied: %v", err)
	}
	f.SetDenied(false)
	if err := opens(t.Context(), f, wrapped, secret(), place()); err != nil {
		t.Errorf("all off: %v", err)
	}
	if w, u := f.Wraps(), f.Unwraps(); w != 3 || u != 3 {
		t.Errorf("%d wraps and %d unwraps counted, want 3 and 3", w, u)
	}
}

func TestFaultyDelay(t *testing.T) {
	t.Parallel()
	key := Local(t)
	synctest.Test(t, func(t *testing.T) {
		f := NewFaulty(key)
		f.SetDelay(3 * time.Second)
		began := time.Now()
		if err := works(t.Context(), f); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d != 6*time.Second {
			t.Errorf("two calls took %v, want 6s", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		_, err := f.Wrap(ctx, secret(), place())
		if !errors.Is(err, kms.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wrap = %v, want ErrUnavailable and DeadlineExceeded", err)
		}
		if d := time.Since(began); d != time.Second {
			t.Errorf("the call took %v, want its deadline of 1s", d)
		}
	})
}

func TestFaultyHold(t *testing.T) {
	t.Parallel()
	key := Local(t)
	synctest.Test(t, func(t *testing.T) {
		f := NewFaulty(key)
		release := f.Hold()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := f.Wrap(t.Context(), secret(), place()); err != nil {
					t.Errorf("held Wrap: %v", err)
				}
			})
		}
		synctest.Wait()
		if n := f.Wraps(); n != 8 {
			t.Errorf("%d calls came in, want 8", n)
		}
		release()
		release()
		wg.Wait()
		if err := works(t.Context(), f); err != nil {
			t.Errorf("after the release: %v", err)
		}
	})
}
