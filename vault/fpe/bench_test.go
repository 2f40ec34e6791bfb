package fpe

import (
	"crypto/aes"
	"testing"
	"time"

	"github.com/capitalone/fpe/ff1"
)

// BenchmarkSixteenDigits measures FF1 on a card number against the AES that a plain FF1 would spend (20 block calls) and
// against capitalone/fpe, in turns of 200 calls each, so that a noisy machine bears on all three alike. What it reports
// are nanoseconds for one call of each and the two ratios.
func BenchmarkSixteenDigits(b *testing.B) {
	key, tweak := make([]byte, 32), []byte("tweak 01")
	c, a := newCipher(b, key, 10, len(tweak)), newAlphabet(b, "0123456789")
	digits, err := a.Numerals(nil, "4111111111111111")
	if err != nil {
		b.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		b.Fatal(err)
	}
	oracle, err := ff1.NewCipher(10, len(tweak), key, tweak)
	if err != nil {
		b.Fatal(err)
	}
	text, buffer := "4111111111111111", make([]byte, aes.BlockSize)
	const calls = 200
	var took [3]time.Duration
	contenders := [3]func(){
		func() { digits, err = c.Encrypt(digits[:0], digits, tweak) },
		func() {
			for range 20 {
				block.Encrypt(buffer, buffer)
			}
		},
		func() { text, err = oracle.Encrypt(text) },
	}
	for b.Loop() {
		for i, contender := range contenders {
			start := time.Now()
			for range calls {
				contender()
			}
			took[i] += time.Since(start)
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	per := func(i int) float64 { return float64(took[i].Nanoseconds()) / float64(b.N) / calls }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(0), "ff1-ns")
	b.ReportMetric(per(1), "20aes-ns")
	b.ReportMetric(per(2), "capitalone-ns")
	b.ReportMetric(per(0)/per(1), "x-20aes")
	b.ReportMetric(per(2)/per(0), "x-capitalone")
}

func BenchmarkEncrypt(b *testing.B) {
	for _, row := range []struct {
		name          string
		radix, length int
		tweak         int
	}{
		{"16digits", 10, 16, 8}, {"16digits tweak64", 10, 16, 64}, {"9digits", 10, 9, 8}, {"19digits", 10, 19, 8},
		{"20alphanumeric", 62, 20, 8}, {"60digits", 10, 60, 8}, {"128digits", 10, 128, 8}, {"8 of 65536", MaxRadix, 8, 8},
	} {
		b.Run(row.name, func(b *testing.B) {
			c := newCipher(b, make([]byte, 32), row.radix, row.tweak)
			x, tweak := make([]uint16, row.length), make([]byte, row.tweak)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Encrypt(x[:0], x, tweak); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
