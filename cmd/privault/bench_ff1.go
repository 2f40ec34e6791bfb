package main

import (
	"context"
	"crypto/aes"
	"time"

	"github.com/privault/privault/vault/fpe"
)

// measureFF1 takes turns of 200 calls, so that a noisy machine bears on both alike.
func measureFF1(ctx context.Context, b *bencher) ([]benchRow, error) {
	key, tweak := make([]byte, 32), []byte("tweak 01")
	cipher, err := fpe.New(key, 10, len(tweak))
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	const calls = 200
	digits, buffer := []uint16{4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, make([]byte, aes.BlockSize)
	timed := func(do func() error) (figure, error) {
		start := time.Now()
		for range calls {
			if err := do(); err != nil {
				return figure{}, err
			}
		}
		return figure{value: float64(time.Since(start).Nanoseconds()) / calls}, nil
	}
	many := *b
	many.Rounds = 1001
	row := benchRow{Work: "FF1, 16 digits", budget: budget{AtLeast: 0.5}}
	return many.beside(ctx, row, func(context.Context) (figure, error) {
		return timed(func() (err error) {
			digits, err = cipher.Encrypt(digits[:0], digits, tweak)
			return err
		})
	}, func(context.Context) (figure, error) {
		return timed(func() error {
			for range 20 {
				block.Encrypt(buffer, buffer)
			}
			return nil
		})
	})
}
