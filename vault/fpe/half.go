package fpe

import (
	"math/big"
	"math/bits"
)

// half is one half of the Feistel network, or a modulus, as a number: in two words up to 2^120 (see function), from there
// on as a big integer, which is its own and changes in place. All those of one call are of one kind: wide, or narrow.
type half struct {
	hi, lo uint64
	wide   *big.Int
}

// power is radix^n.
func (c *Cipher) power(n int, wide bool) half {
	if !wide {
		return c.powers[n]
	}
	return half{wide: new(big.Int).Exp(new(big.Int).SetUint64(c.radix), big.NewInt(int64(n)), nil)}
}

// number is NUM_radix of a row.
func (c *Cipher) number(row []uint16, wide bool) (x half) {
	if wide {
		return half{wide: c.wideNumber(row)}
	}
	for _, numeral := range row {
		if x.hi|x.lo>>47 == 0 {
			x.lo = x.lo*c.radix + uint64(numeral)
		} else {
			x = x.mulAdd(c.radix, uint64(numeral))
		}
	}
	return x
}

// digits is STR_radix: it fills row with the numerals of x.
func (c *Cipher) digits(row []uint16, x half) {
	if x.wide != nil {
		c.wideDigits(row, x.wide)
		return
	}
	i := len(row) - 1
	for ; i >= 0 && x.hi != 0; i-- {
		var numeral uint64
		x.hi, numeral = x.hi/c.radix, x.hi%c.radix
		x.lo, numeral = bits.Div64(numeral, x.lo, c.radix)
		row[i] = uint16(numeral)
	}
	for ; i >= 0 && x.lo >= 1<<48; i-- {
		x.lo, row[i] = x.lo/c.radix, uint16(x.lo%c.radix)
	}
	// Exact below 2^48: the product is too large by less than 2^-16, and x / radix is at least that far below the next
	// whole number.
	for ; i >= 0; i-- {
		quotient, _ := bits.Mul64(x.lo, c.reciprocal)
		x.lo, row[i] = quotient, uint16(x.lo-quotient*c.radix)
	}
}

// bytesBelow is how many bytes the largest number below the modulus h takes.
func (h half) bytesBelow() int {
	if h.wide != nil {
		n := h.wide.BitLen()
		if h.wide.TrailingZeroBits() == uint(n-1) {
			n--
		}
		return (n + 7) / 8
	}
	lo, borrow := bits.Sub64(h.lo, 1, 0)
	if hi := h.hi - borrow; hi != 0 {
		return 8 + (bits.Len64(hi)+7)/8
	}
	return (bits.Len64(lo) + 7) / 8
}

// step is h plus or minus y, modulo m. Both are below m.
func (h half) step(y, m half, way direction) half {
	if h.wide != nil {
		if way == decrypt {
			y.wide.Sub(m.wide, y.wide)
		}
		if h.wide.Add(h.wide, y.wide); h.wide.Cmp(m.wide) >= 0 {
			h.wide.Sub(h.wide, m.wide)
		}
		return h
	}
	if way == decrypt {
		y = m.minus(y)
	}
	lo, carry := bits.Add64(h.lo, y.lo, 0)
	sum := half{hi: h.hi + y.hi + carry, lo: lo} // below 2^121
	if sum.hi > m.hi || sum.hi == m.hi && sum.lo >= m.lo {
		return sum.minus(m)
	}
	return sum
}

// minus is h - x.
func (h half) minus(x half) half {
	lo, borrow := bits.Sub64(h.lo, x.lo, 0)
	hi, _ := bits.Sub64(h.hi, x.hi, borrow)
	return half{hi: hi, lo: lo}
}

// mulAdd is h · factor + plus, which must be below 2^128.
func (h half) mulAdd(factor, plus uint64) half {
	carry, lo := bits.Mul64(h.lo, factor)
	lo, c := bits.Add64(lo, plus, 0)
	return half{hi: h.hi*factor + carry + c, lo: lo}
}

// reduce is a number of three words, the highest first, modulo m.
func reduce(y0, y1, y2 uint64, m half) half {
	if m.hi == 0 { // then y0 is 0: values of 20 bytes are for halves of over 96 bits
		if y1 == 0 {
			return half{lo: y2 % m.lo}
		}
		return half{lo: bits.Rem64(y1, y2, m.lo)}
	}
	// Knuth, The Art of Computer Programming 2, 4.3.1, algorithm D: the divisor has two words and its highest bit set.
	shift := bits.LeadingZeros64(m.hi)
	d := half{hi: m.hi<<shift | m.lo>>(64-shift), lo: m.lo << shift}
	rest := half{hi: y0 >> (64 - shift), lo: y0<<shift | y1>>(64-shift)}
	rest = remainder(rest, y1<<shift|y2>>(64-shift), d)
	rest = remainder(rest, y2<<shift, d)
	return half{hi: rest.hi >> shift, lo: rest.lo>>shift | rest.hi<<(64-shift)}
}

// remainder is (x · 2^64 + low) modulo d, whose highest bit is set. x is below d.
func remainder(x half, low uint64, d half) half {
	quotient := ^uint64(0) // of the highest words: too large by at most 2
	if x.hi < d.hi {
		quotient, _ = bits.Div64(x.hi, x.lo, d.hi)
	}
	carry, p0 := bits.Mul64(quotient, d.lo)
	p2, p1 := bits.Mul64(quotient, d.hi)
	p1, c := bits.Add64(p1, carry, 0)
	r0, b := bits.Sub64(low, p0, 0)
	r1, b := bits.Sub64(x.lo, p1, b)
	r2, _ := bits.Sub64(x.hi, p2+c, b)
	for r2 != 0 {
		r0, c = bits.Add64(r0, d.lo, 0)
		r1, c = bits.Add64(r1, d.hi, c)
		r2 += c
	}
	return half{hi: r1, lo: r0}
}

// wideNumber and wideDigits carry as many numerals as fit a word at a time. They take time square in the length of row.
func (c *Cipher) wideNumber(row []uint16) *big.Int {
	x, chunk, base := new(big.Int), new(big.Int), new(big.Int)
	for len(row) > 0 {
		n := min(len(row), c.perWord)
		base.SetUint64(c.powers[n].lo)
		word := uint64(0)
		for _, numeral := range row[:n] {
			word = word*c.radix + uint64(numeral)
		}
		x.Add(x.Mul(x, base), chunk.SetUint64(word))
		row = row[n:]
	}
	return x
}

// wideDigits uses x up.
func (c *Cipher) wideDigits(row []uint16, x *big.Int) {
	base, chunk := new(big.Int).SetUint64(c.powers[c.perWord].lo), new(big.Int)
	for end := len(row); end > 0; end -= c.perWord {
		x.QuoRem(x, base, chunk)
		word := chunk.Uint64()
		for i := end - 1; i >= max(0, end-c.perWord); i-- {
			word, row[i] = word/c.radix, uint16(word%c.radix)
		}
	}
}
