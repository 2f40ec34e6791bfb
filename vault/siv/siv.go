// Package siv is AES-SIV (RFC 5297) for short texts that all have the same associated data, as a tenant's tokens have.
//
// What a key and its associated data give is worked out once. A text of 20 bytes then costs four AES blocks.
package siv

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
)

// Overhead is by how many bytes a sealed text is longer than the text.
const Overhead = aes.BlockSize

// ErrOpen is what Open answers for what Seal has not made with that key and associated data.
var ErrOpen = errors.New("not sealed with this key and associated data")

type block = [aes.BlockSize]byte

// Key seals and opens. It is safe for concurrent use.
type Key struct {
	mac, ctr cipher.Block
	k1, k2   block // CMAC's subkeys (RFC 4493 2.3): for last blocks that are full, and for those that aren't
	bound    block // S2V so far: what zeros and associated data give
}

// New makes a key of 32, 48 or 64 bytes, half of it for CMAC and half for counter mode, with its associated data.
func New(key, associated []byte) (*Key, error) {
	if n := len(key); n != 32 && n != 48 && n != 64 {
		return nil, errors.New("a key of AES-SIV has 32, 48 or 64 bytes")
	}
	k := &Key{}
	var err error
	if k.mac, err = aes.NewCipher(key[:len(key)/2]); err != nil {
		return nil, err
	}
	if k.ctr, err = aes.NewCipher(key[len(key)/2:]); err != nil {
		return nil, err
	}
	k.mac.Encrypt(k.k1[:], k.k1[:])
	double(&k.k1)
	k.k2 = k.k1
	double(&k.k2)
	var zeros, mac block
	k.cmac(&k.bound, zeros[:])
	double(&k.bound)
	k.cmac(&mac, associated)
	subtle.XORBytes(k.bound[:], k.bound[:], mac[:])
	return k, nil
}

// Seal appends to dst the sealed text of plain: the same each time. The two must not overlap.
func (k *Key) Seal(dst, plain []byte) []byte {
	w := &work{}
	start := len(dst)
	dst = append(append(dst, w.v[:]...), plain...)
	text := dst[start+Overhead:]
	k.s2v(w, text)
	copy(dst[start:], w.v[:])
	k.count(w, text)
	return dst
}

// Open appends to dst the text of sealed. The two must not overlap.
func (k *Key) Open(dst, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, ErrOpen
	}
	w := &work{v: block(sealed)}
	start := len(dst)
	dst = append(dst, sealed[Overhead:]...)
	k.count(w, dst[start:])
	k.s2v(w, dst[start:])
	if subtle.ConstantTimeCompare(w.v[:], sealed[:Overhead]) != 1 {
		clear(dst[start:])
		return nil, ErrOpen
	}
	return dst, nil
}

// work is what one text needs, allocated at once: a cipher.Block's arguments can't stay on the stack.
type work struct {
	v, counter, stream, mixed block
}

// s2v is RFC 5297 2.4 with one string of associated data. It changes the text's end, and changes it back.
func (k *Key) s2v(w *work, text []byte) {
	w.mixed = k.bound
	if len(text) < aes.BlockSize {
		double(&w.mixed)
		subtle.XORBytes(w.mixed[:], w.mixed[:], text)
		w.mixed[len(text)] ^= 0x80
		k.cmac(&w.v, w.mixed[:])
		return
	}
	end := text[len(text)-aes.BlockSize:]
	subtle.XORBytes(end, end, w.mixed[:])
	k.cmac(&w.v, text)
	subtle.XORBytes(end, end, w.mixed[:])
}

// count is RFC 5297 2.5 and 2.6: counter mode from v, with two bits of it cleared.
func (k *Key) count(w *work, text []byte) {
	w.counter = w.v
	w.counter[8] &= 0x7f
	w.counter[12] &= 0x7f
	for len(text) > 0 {
		k.ctr.Encrypt(w.stream[:], w.counter[:])
		text = text[subtle.XORBytes(text, text, w.stream[:]):]
		for i := aes.BlockSize - 1; i >= 0; i-- {
			if w.counter[i]++; w.counter[i] != 0 {
				break
			}
		}
	}
}

// cmac is RFC 4493.
func (k *Key) cmac(out *block, text []byte) {
	*out = block{}
	for len(text) > aes.BlockSize {
		subtle.XORBytes(out[:], out[:], text[:aes.BlockSize])
		k.mac.Encrypt(out[:], out[:])
		text = text[aes.BlockSize:]
	}
	k.last(out, text)
}

// last adds the last block, of up to 16 bytes.
func (k *Key) last(out *block, text []byte) {
	subtle.XORBytes(out[:], out[:], text)
	subkey := &k.k1
	if len(text) < aes.BlockSize {
		out[len(text)] ^= 0x80
		subkey = &k.k2
	}
	subtle.XORBytes(out[:], out[:], subkey[:])
	k.mac.Encrypt(out[:], out[:])
}

// double multiplies by x in GF(2^128), in constant time.
func double(b *block) {
	carry := b[0] >> 7
	for i := range aes.BlockSize - 1 {
		b[i] = b[i]<<1 | b[i+1]>>7
	}
	b[aes.BlockSize-1] = b[aes.BlockSize-1]<<1 ^ 0x87&-carry
}
