package vault

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// late is an AEAD of a keyset that others may have rotated: what names a key that it doesn't know is opened with the keyset as
// it is by now.
type late struct {
	tink.AEAD
	ring *keyring
	keys *tenantKeys
	ids  map[uint32]bool
	uses *atomic.Int64 // of the primary key
}

// Encrypt is that of the keyset, and counts.
func (l *late) Encrypt(plaintext, ad []byte) ([]byte, error) {
	l.uses.Add(1)
	return l.AEAD.Encrypt(plaintext, ad)
}

// Decrypt is that of the keyset, read again if need be.
func (l *late) Decrypt(sealed, ad []byte) ([]byte, error) {
	return openLate(l.ring, l.keys, l.ids, sealed, func(k *tenantKeys) ([]byte, error) { return k.wrap.(*late).AEAD.Decrypt(sealed, ad) },
		func(k *tenantKeys) map[uint32]bool { return k.wrap.(*late).ids })
}

// open is that of the keyset, read again if need be.
func (t *tokenKeys) open(sealed []byte) ([]byte, error) {
	return openLate(t.keys.ring, t.keys, t.ids, sealed, func(k *tenantKeys) ([]byte, error) { return k.token.openNow(sealed) },
		func(k *tenantKeys) map[uint32]bool { return k.token.ids })
}

// openLate tries the keys at hand, and if they don't have the one that sealed names, those that there are by now. A reading that
// was under way when it was called may have begun too early, so there is a second one.
func openLate(r *keyring, keys *tenantKeys, ids map[uint32]bool, sealed []byte, open func(*tenantKeys) ([]byte, error), known func(*tenantKeys) map[uint32]bool) ([]byte, error) {
	id, named := prefixOf(sealed)
	for range 2 {
		if !named || ids[id] {
			break
		}
		newer, err := r.newer(keys)
		if err != nil {
			return nil, err
		}
		keys, ids = newer, known(newer)
	}
	return open(keys)
}

// prefixSize is the length of a Tink prefix: 0x01 and the key's id.
const prefixSize = 5

// prefixOf gives the key id in a Tink prefix.
func prefixOf(sealed []byte) (uint32, bool) {
	if len(sealed) < prefixSize || sealed[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:prefixSize]), true
}

// rereadEvery bounds how often unknown key ids make a tenant's keysets be read again: they may be a caller's invention. Who comes
// in between waits, so nobody is refused for it.
const rereadEvery = 200 * time.Millisecond

// newer gives a tenant's keys as they are in the keystore by now, opened with the root key that is held: no KMS is asked,
// unless the root key has changed too.
func (r *keyring) newer(have *tenantKeys) (*tenantKeys, error) {
	done, err, _ := r.flights.Do("again "+string(have.tenant[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), r.timeout+5*time.Second)
		defer cancel()
		r.mu.Lock()
		h := r.held[have.tenant]
		pause := h.reread.Add(rereadEvery).Sub(r.now())
		r.mu.Unlock()
		if pause > 0 {
			wait := time.NewTimer(min(pause, rereadEvery))
			defer wait.Stop()
			<-wait.C
		}
		return r.again(ctx, have)
	})
	if err != nil {
		return nil, err
	}
	return done.(*tenantKeys), nil
}

// again reads a tenant's keysets again and holds them, for as long as those that were held.
func (r *keyring) again(ctx context.Context, have *tenantKeys) (*tenantKeys, error) {
	_, sealed, err := r.read(ctx, have.tenant)
	if err != nil {
		return nil, err
	}
	keys, err := r.build(have.tenant, have.kek, have.root, sealed)
	if err != nil && AsError(err).Kind == IntegrityFailure {
		return r.fetch(ctx, have.tenant) // the root key is another
	}
	if err != nil {
		return nil, err
	}
	if err := r.enforce(ctx, keys); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.held[have.tenant]
	h.keys, h.reread = keys, r.now()
	if h.fetched.IsZero() {
		h.fetched = r.now().Add(-r.ttl) // dropped meanwhile: it serves who waits, and is fetched anew after that
	}
	r.held[have.tenant] = h
	return keys, nil
}

// current gives a tenant's keys no older than the call.
func (r *keyring) current(ctx context.Context, tenant ID) (*tenantKeys, error) {
	keys, err := r.of(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return r.again(ctx, keys)
}
