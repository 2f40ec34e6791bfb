package fpe

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math/big"
	"slices"
	"sync"
)

// function is FF1's round function in one call: the CBC-MAC over P ‖ Q, stretched to d bytes and reduced. What is the
// same in every round goes through AES once: P and all blocks of Q before the one with the round's number in it.
//
// A narrow half has at most 15 bytes, so only the last block of Q changes from round to round, and it stays in two
// words. Going through single bytes of memory instead costs a third of the whole call.
type function struct {
	block   cipher.Block
	b, d    int
	mac     [aes.BlockSize]byte // before what changes
	hi, lo  uint64              // narrow: mac ⊕ the last block of Q, without round and half
	one     half                // narrow: the round 1 in its place
	scratch [aes.BlockSize]byte // what AES works on
	tail    []byte              // wide: the blocks of Q that change: rest of the tweak ‖ zeros ‖ round ‖ half
	stream  []byte              // wide: whole blocks, of which the first d bytes count
}

// What AES reads and writes passes through an interface, so it would come anew from the heap with every call.
var functions = sync.Pool{New: func() any { return new(function) }}

// start makes ready for the rounds of one call. b is how many bytes the larger half takes.
func (f *function) start(block cipher.Block, parameters [aes.BlockSize]byte, tweak []byte, b int, wide bool) {
	f.block, f.b, f.d = block, b, (b+3)/4*4+4
	f.mac = parameters
	block.Encrypt(f.mac[:], f.mac[:])
	for ; len(tweak) >= aes.BlockSize; tweak = tweak[aes.BlockSize:] {
		f.chain(&f.mac, tweak)
	}
	if wide {
		f.tail = blocks(f.tail, len(tweak)+1+b)
		clear(f.tail[copy(f.tail, tweak):])
		f.stream = blocks(f.stream, f.d)
		return
	}
	f.scratch = [aes.BlockSize]byte{}
	copy(f.scratch[:], tweak)
	if len(tweak)+1+b > aes.BlockSize {
		f.chain(&f.mac, f.scratch[:])
		f.scratch = [aes.BlockSize]byte{}
	}
	f.one = half{lo: 1 << (8 * b)}
	if b >= 8 {
		f.one = half{hi: 1 << (8*b - 64)}
	}
	f.hi = binary.BigEndian.Uint64(f.mac[:]) ^ binary.BigEndian.Uint64(f.scratch[:])
	f.lo = binary.BigEndian.Uint64(f.mac[8:]) ^ binary.BigEndian.Uint64(f.scratch[8:])
}

// blocks is s with the length of the whole blocks that hold n bytes. What is in it has no meaning.
func blocks(s []byte, n int) []byte {
	n = (n + aes.BlockSize - 1) / aes.BlockSize * aes.BlockSize
	return slices.Grow(s[:0], n)[:n]
}

// chain is one step of the CBC-MAC.
func (f *function) chain(mac *[aes.BlockSize]byte, next []byte) {
	for i, b := range next[:aes.BlockSize] {
		mac[i] ^= b
	}
	f.block.Encrypt(mac[:], mac[:])
}

// value is what a round adds to one half because of the other, modulo m.
func (f *function) value(round int, keep, m half) half {
	if keep.wide != nil {
		y := new(big.Int).SetBytes(f.bytes(round, keep.wide))
		return half{wide: y.Mod(y, m.wide)}
	}
	hi, lo := f.encrypt(f.hi^keep.hi^uint64(round)*f.one.hi, f.lo^keep.lo^uint64(round)*f.one.lo)
	if f.d <= aes.BlockSize {
		drop := 8 * (aes.BlockSize - f.d)
		return reduce(0, hi>>drop, hi<<(64-drop)|lo>>drop, m)
	}
	more, _ := f.encrypt(hi, lo^1) // d is 20: four bytes of a second block
	return reduce(hi>>32, hi<<32|lo>>32, lo<<32|more>>32, m)
}

// encrypt is AES on two words, big-endian.
func (f *function) encrypt(hi, lo uint64) (uint64, uint64) {
	binary.BigEndian.PutUint64(f.scratch[:], hi)
	binary.BigEndian.PutUint64(f.scratch[8:], lo)
	f.block.Encrypt(f.scratch[:], f.scratch[:])
	return binary.BigEndian.Uint64(f.scratch[:]), binary.BigEndian.Uint64(f.scratch[8:])
}

// bytes are the d bytes of a round's value that a wide half makes.
func (f *function) bytes(round int, keep *big.Int) []byte {
	keep.FillBytes(f.tail[len(f.tail)-f.b:])
	f.tail[len(f.tail)-f.b-1] = byte(round)
	f.scratch = f.mac
	for rest := f.tail; len(rest) > 0; rest = rest[aes.BlockSize:] {
		f.chain(&f.scratch, rest)
	}
	copy(f.stream, f.scratch[:])
	for j := 1; j*aes.BlockSize < len(f.stream); j++ {
		next := f.stream[j*aes.BlockSize:][:aes.BlockSize]
		copy(next, f.scratch[:])
		binary.BigEndian.PutUint64(next[8:], binary.BigEndian.Uint64(next[8:])^uint64(j))
		f.block.Encrypt(next, next)
	}
	return f.stream[:f.d]
}
