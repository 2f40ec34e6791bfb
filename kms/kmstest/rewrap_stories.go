package kmstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/privault/privault/kms"
)

func rewrapRefused(ctx context.Context, k kms.Key, wrapped, ad []byte, want ...error) error {
	got, err := kms.Rewrap(ctx, k, wrapped, ad)
	return refused("Rewrap", got, err, want...)
}

func rewrapped(ctx context.Context, p Provider) error {
	k, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	kept, ad := bytes.Clone(wrapped), place()
	fresh, err := kms.Rewrap(ctx, k, wrapped, ad)
	if err != nil {
		return fmt.Errorf("Rewrap: %w", err)
	}
	if bytes.Equal(fresh, wrapped) || len(fresh) > kms.MaxWrapped {
		return fmt.Errorf("Rewrap: %d bytes that are the same, or too many", len(fresh))
	}
	if !bytes.Equal(wrapped, kept) || !bytes.Equal(ad, place()) {
		return errors.New("Rewrap: an argument was changed")
	}
	if err := errors.Join(opens(ctx, k, fresh, secret(), place()), opens(ctx, k, wrapped, secret(), place())); err != nil {
		return err
	}
	return rewrapRefusals(ctx, p, k, wrapped)
}

// rewrapRefusals are those of Unwrap.
func rewrapRefusals(ctx context.Context, p Provider, k kms.Key, wrapped []byte) error {
	foreign, err := p.Foreign(ctx)
	if err != nil {
		return fmt.Errorf("Foreign: %w", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
	defer cancel()
	return errors.Join(
		rewrapRefused(ctx, k, wrapped, append(place(), 0), kms.ErrCorrupt),
		rewrapRefused(ctx, k, wrapped, nil, kms.ErrCorrupt),
		rewrapRefused(ctx, k, nil, place(), kms.ErrCorrupt),
		rewrapRefused(ctx, k, with(wrapped, len(wrapped)/2, 0), place(), kms.ErrCorrupt),
		rewrapRefused(ctx, k, bytes.Repeat([]byte{0}, kms.MaxWrapped+1), place(), kms.ErrCorrupt),
		rewrapRefused(ctx, foreign, wrapped, place(), kms.ErrCorrupt),
		rewrapRefused(cancelled, k, wrapped, place(), context.Canceled),
		rewrapRefused(late, k, wrapped, place(), context.DeadlineExceeded, kms.ErrUnavailable),
	)
}

// rewrappedToNewest is what a rotation is for: afterwards the old version can go.
func rewrappedToNewest(ctx context.Context, p Provider) error {
	_, wrapped, err := start(ctx, p)
	if err != nil {
		return err
	}
	if err := p.Rotate(); err != nil {
		return fmt.Errorf("Rotate: %w", err)
	}
	k, err := p.Open(ctx)
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	fresh, err := kms.Rewrap(ctx, k, wrapped, place())
	if err != nil {
		return fmt.Errorf("Rewrap: %w", err)
	}
	if err := p.Retire(); err != nil {
		return fmt.Errorf("Retire: %w", err)
	}
	if err := opens(ctx, k, fresh, secret(), place()); err != nil {
		return fmt.Errorf("rewrapped before the old version went: %w", err)
	}
	if _, err := k.Unwrap(ctx, wrapped, place()); !errors.Is(err, kms.ErrDenied) && !errors.Is(err, kms.ErrCorrupt) {
		return fmt.Errorf("wrapped with a version that is gone: want ErrDenied or ErrCorrupt; got: %w", err)
	}
	return works(ctx, k)
}
