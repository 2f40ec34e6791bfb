package vault

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/daead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/sync/singleflight"

	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/seal"
)

// The keysets of a tenant. The nil tenant, the deployment, has `credential` only.
//
// `wrap` wraps a DEK per record for years, so it must not run into the limit of 2^32 random 96-bit nonces that
// AES-GCM has (NIST SP 800-38D 8.3): XAES-256-GCM takes 192-bit ones (https://c2sp.org/XAES-256-GCM).
var (
	tenantKeysets = map[string]func() *tinkpb.KeyTemplate{
		"wrap":      aead.XAES256GCM192BitNonceKeyTemplate,
		"token":     daead.AESSIVKeyTemplate,
		"pseudonym": prf.HMACSHA256PRFKeyTemplate,
		"index":     prf.HMACSHA256PRFKeyTemplate,
		"alias":     prf.HMACSHA256PRFKeyTemplate,
		"fpe":       prf.HMACSHA256PRFKeyTemplate,
	}
	deploymentKeysets = map[string]func() *tinkpb.KeyTemplate{
		"credential": prf.HMACSHA256PRFKeyTemplate,
	}
	firstKeysets = []string{"wrap", "token", "pseudonym", "credential"}
)

// tenantKeys are one tenant's keys, ready to use and safe for concurrent use.
type tenantKeys struct {
	deployment, tenant ID
	wrap               tink.AEAD
	token              *tokenKeys
	pseudonym          *prf.Set  // digests of subject references and idempotency keys
	index              *prf.Set  // digests of values, for blind indexes
	alias              *prf.Set  // digests of alias texts, and keys that open one only to whoever has the value
	fpe                versioned // keys of format-preserving encryption, one for each field and transform
	credential         *prf.Set  // digests of API keys; the deployment's only

	ring        *keyring
	generation  int32          // generation.go
	versions    map[string]int // the newest of each keyset
	kek         *kek           // the KMS key that wraps the root key
	root        []byte         // opens the keysets again when somebody has rotated one
	wrapPrimary uint32
	wrapEnded   map[uint32]bool // keys of `wrap` that were retired
}

// bound is associated data for what belongs to the tenant as a whole.
func (k *tenantKeys) bound(purpose string) []byte { return boundTo(purpose, k.deployment, k.tenant) }

func boundTo(purpose string, ids ...ID) []byte {
	ad := make([]byte, 0, len(purpose)+len(ids)*16+4)
	ad = append(ad, purpose...)
	for _, id := range ids {
		ad = append(ad, id[:]...)
	}
	return ad
}

// newDEK makes a record's DEK: the key to seal with, and its wrapped form for data_keys.
func (k *tenantKeys) newDEK(record ID, version int32) (seal.Key, []byte, error) {
	raw := make([]byte, seal.KeySize)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	defer clear(raw)
	wrapped, err := k.wrap.Encrypt(raw, k.dekPlace(record, version))
	if err != nil {
		return seal.Key{}, nil, err
	}
	key, err := seal.NewKey(raw)
	return key, wrapped, err
}

// openDEK unwraps a row of data_keys.
func (k *tenantKeys) openDEK(record ID, version int32, wrapped []byte) (seal.Key, error) {
	raw, err := k.wrap.Decrypt(wrapped, k.dekPlace(record, version))
	if err != nil {
		return seal.Key{}, &Error{Kind: IntegrityFailure, cause: errors.New("a data key does not unwrap for its record")}
	}
	defer clear(raw)
	return seal.NewKey(raw)
}

func (k *tenantKeys) dekPlace(record ID, version int32) []byte {
	return binary.BigEndian.AppendUint32(boundTo("privault/1/dek", k.deployment, k.tenant, record), uint32(version))
}

// digest is a keyed digest of a text for one purpose: 32 bytes, HMAC-SHA-256.
func digest(set *prf.Set, purpose, text string) ([]byte, error) {
	return set.ComputePrimaryPRF(textOf(purpose, text), digestSize)
}

func textOf(purpose, text string) []byte { return []byte(purpose + "\x00" + text) }

// keyring holds the tenants' unwrapped keys for a while, so that KMS calls go with tenants and time, not with records.
//
// A holding is used for ttl, fetched anew by one caller shortly before it ends, and used for one ttl more while the KMS
// can't be reached. A KMS that refuses (key disabled, permission withdrawn) ends it at once. After a failed call the
// KMS key is left alone for a pause (kek.go), so that an outage doesn't cost each request a time-out.
type keyring struct {
	store      *store
	keks       keks
	deployment ID
	ttl        time.Duration
	timeout    time.Duration // of one KMS call
	now        func() time.Time
	metrics    *metrics

	uses    uses
	flights singleflight.Group
	mu      sync.Mutex
	held    map[ID]holding
	shut    map[ID]shut // tenants whose root key couldn't be opened
}

type holding struct {
	keys    *tenantKeys
	fetched time.Time
	reread  time.Time // when it was last read again for the sake of an unknown key
}

// of gives a tenant's keys.
func (r *keyring) of(ctx context.Context, tenant ID) (*tenantKeys, error) {
	now := r.now()
	r.mu.Lock()
	h, have := r.held[tenant]
	shut := r.shut[tenant]
	r.mu.Unlock()
	age := now.Sub(h.fetched)
	isShut := now.Before(shut.until)
	resting := isShut || have && h.keys.kek.resting(now)
	switch {
	case have && age < r.ttl*4/5:
		r.metrics.keyringHits.Inc()
		return h.keys, nil
	case have && age < r.ttl:
		r.metrics.keyringHits.Inc()
		if !resting {
			// Ahead of time and beside the request, which has what it needs.
			r.fly(ctx, tenant)
		}
		return h.keys, nil
	}
	r.metrics.keyringMisses.Inc()
	if !resting {
		select {
		case done := <-r.fly(ctx, tenant):
			if done.Err == nil {
				return done.Val.(*tenantKeys), nil
			}
			if !errors.Is(done.Err, kms.ErrUnavailable) {
				return nil, done.Err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if isShut && shut.why != errKMSAway {
		return nil, shut.why
	}
	if have && age < 2*r.ttl {
		return h.keys, nil
	}
	return nil, errKMSAway
}

// fly fetches a tenant's keys, once for all who ask meanwhile. The flight is everybody's: it doesn't end because the
// first caller went away, and who looked before it landed and asks after it gets what it brought.
func (r *keyring) fly(ctx context.Context, tenant ID) <-chan singleflight.Result {
	return r.flights.DoChan(string(tenant[:]), func() (any, error) {
		r.mu.Lock()
		h, have := r.held[tenant]
		r.mu.Unlock()
		if have && r.now().Sub(h.fetched) < r.ttl*4/5 {
			return h.keys, nil
		}
		return r.fetch(context.WithoutCancel(ctx), tenant)
	})
}

// fetch reads, unwraps and holds a tenant's keys.
func (r *keyring) fetch(ctx context.Context, tenant ID) (*tenantKeys, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout+5*time.Second)
	defer cancel()
	wrapped, sealed, err := r.read(ctx, tenant)
	if err != nil {
		return nil, err
	}
	root, kek, err := r.unwrap(ctx, tenant, wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(root)
	if len(sealed) < len(keysetsOf(tenant)) {
		if sealed, err = r.complete(ctx, tenant, root, sealed); err != nil {
			return nil, err
		}
	}
	keys, err := r.build(tenant, kek, root, sealed)
	if err != nil {
		return nil, err
	}
	if err := r.enforce(ctx, keys); err != nil {
		return nil, err
	}
	r.mu.Lock()
	delete(r.shut, tenant)
	r.held[tenant] = holding{keys: keys, fetched: r.now()}
	r.mu.Unlock()
	return keys, nil
}

// read gives a tenant's wrapped root key and its sealed keysets, by name: in one statement, so that they belong together
// while another replica puts a new root key under them.
func (r *keyring) read(ctx context.Context, tenant ID) (root wrappedRoot, sealed map[string][]byte, err error) {
	sealed = map[string][]byte{}
	err = r.store.keys.within(ctx, tenant, func(tx pgx.Tx) error {
		//nolint:rowserrcheck // ForEachRow does
		rows, err := tx.Query(ctx, `
			select r.kms_uri, r.wrapped, coalesce(k.name, ''), k.sealed from keystore.tenant_roots r left join keystore.tenant_keys k using (tenant_id)
			where r.tenant_id = $1`, tenant)
		if err != nil {
			return err
		}
		var wrapped, box []byte
		var name string
		_, err = pgx.ForEachRow(rows, []any{&root.uri, &wrapped, &name, &box}, func() error {
			root.wrapped = bytes.Clone(wrapped)
			if name != "" {
				sealed[name] = bytes.Clone(box)
			}
			return nil
		})
		if err == nil && root.wrapped == nil {
			err = fmt.Errorf("root key of a tenant: %w", pgx.ErrNoRows)
		}
		return err
	})
	return root, sealed, err
}

func keysetsOf(tenant ID) map[string]func() *tinkpb.KeyTemplate {
	if tenant == deploymentTenant {
		return deploymentKeysets
	}
	return tenantKeysets
}

// complete makes the keysets that a tenant of an earlier version of the service lacks, and gives all it has then: another
// replica may have been quicker. The keysets that there were from the start are not made again: what they opened is lost.
func (r *keyring) complete(ctx context.Context, tenant ID, root []byte, have map[string][]byte) (map[string][]byte, error) {
	lacking := map[string]func() *tinkpb.KeyTemplate{}
	for name, template := range keysetsOf(tenant) {
		switch _, has := have[name]; {
		case has:
		case slices.Contains(firstKeysets, name):
			return nil, &Error{Kind: IntegrityFailure, cause: fmt.Errorf("keyset %s is missing", name)}
		default:
			lacking[name] = template
		}
	}
	made, err := r.sealNew(tenant, root, lacking)
	if err != nil {
		return nil, err
	}
	err = r.store.keys.within(ctx, tenant, func(tx pgx.Tx) error { return insertKeysets(ctx, tx, tenant, made, r.now()) })
	if err != nil {
		return nil, err
	}
	_, sealed, err := r.read(ctx, tenant)
	return sealed, err
}

func (r *keyring) build(tenant ID, kek *kek, root []byte, sealed map[string][]byte) (*tenantKeys, error) {
	k := &tenantKeys{deployment: r.deployment, tenant: tenant, ring: r, kek: kek, root: slices.Clone(root), versions: map[string]int{}}
	for name, box := range sealed {
		handle, err := openKeyset(root, box, keysetPlace(r.deployment, tenant, name))
		if err != nil {
			return nil, &Error{Kind: IntegrityFailure, cause: fmt.Errorf("keyset %s: %w", name, err)}
		}
		k.versions[name] = handle.Len()
		switch name {
		case "wrap":
			l := &late{ring: r, keys: k, ids: keyIDs(handle)}
			k.wrapPrimary, k.wrapEnded = handle.KeysetInfo().GetPrimaryKeyId(), ended(handle)
			l.uses = r.uses.of(tenant, k.wrapPrimary)
			l.AEAD, err = aead.New(handle)
			k.wrap = l
		case "token":
			k.token, err = k.tokenKeysOf(handle)
		case "pseudonym":
			k.pseudonym, err = prf.NewPRFSet(handle)
		case "index":
			k.index, err = prf.NewPRFSet(handle)
		case "alias":
			k.alias, err = prf.NewPRFSet(handle)
		case "fpe":
			k.fpe, err = newVersioned(handle)
		case "credential":
			k.credential, err = prf.NewPRFSet(handle)
		}
		if err != nil {
			return nil, fmt.Errorf("keyset %s: %w", name, err)
		}
	}
	k.generation = generationOf(k.versions)
	return k, nil
}

// ended are the ids of a keyset's keys that were retired.
func ended(handle *keyset.Handle) map[uint32]bool {
	ids := map[uint32]bool{}
	for _, key := range handle.KeysetInfo().GetKeyInfo() {
		if key.GetStatus() != tinkpb.KeyStatusType_ENABLED {
			ids[key.GetKeyId()] = true
		}
	}
	return ids
}

// keyIDs are the ids of a keyset's keys.
func keyIDs(handle *keyset.Handle) map[uint32]bool {
	ids := map[uint32]bool{}
	for _, key := range handle.KeysetInfo().GetKeyInfo() {
		ids[key.GetKeyId()] = true
	}
	return ids
}

// newKeys is what a new tenant gets: a root key wrapped by the KMS and keysets sealed under it, ready to insert.
type newKeys struct {
	root   wrappedRoot
	sealed map[string][]byte
}

// create makes a new tenant's keys under a KMS key, which it calls: so no transaction may be open.
func (r *keyring) create(ctx context.Context, tenant ID, k *kek) (newKeys, error) {
	root := make([]byte, seal.KeySize)
	_, _ = rand.Read(root) // never fails (crypto/rand)
	defer clear(root)
	wrapped, err := r.wrap(ctx, k, tenant, root)
	if err == nil && k != r.keks.standard {
		err = r.prove(ctx, k, tenant, wrapped, root)
	}
	if err != nil {
		return newKeys{}, err
	}
	sealed, err := r.sealNew(tenant, root, keysetsOf(tenant))
	return newKeys{wrapped, sealed}, err
}

// sealNew makes keysets and seals them under a root key.
func (r *keyring) sealNew(tenant ID, root []byte, templates map[string]func() *tinkpb.KeyTemplate) (map[string][]byte, error) {
	sealed := make(map[string][]byte, len(templates))
	for name, template := range templates {
		handle, err := keyset.NewHandle(template())
		if err != nil {
			return nil, fmt.Errorf("keyset %s: %w", name, err)
		}
		if sealed[name], err = sealKeyset(root, handle, keysetPlace(r.deployment, tenant, name)); err != nil {
			return nil, fmt.Errorf("keyset %s: %w", name, err)
		}
	}
	return sealed, nil
}

// insert writes a new tenant's keys.
func (n newKeys) insert(ctx context.Context, tx pgx.Tx, tenant ID, now time.Time) error {
	_, err := tx.Exec(ctx, `
		insert into keystore.tenant_roots (tenant_id, kms_uri, wrapped, created_at) values ($1, $2, $3, $4)`,
		tenant, n.root.uri, n.root.wrapped, now)
	if err != nil {
		return err
	}
	return insertKeysets(ctx, tx, tenant, n.sealed, now)
}

// insertKeysets writes a tenant's sealed keysets; one that is there already stays as it is.
func insertKeysets(ctx context.Context, tx pgx.Tx, tenant ID, sealed map[string][]byte, now time.Time) error {
	for name, box := range sealed {
		_, err := tx.Exec(ctx, `
			insert into keystore.tenant_keys (tenant_id, name, sealed, created_at) values ($1, $2, $3, $4)
			on conflict (tenant_id, name) do nothing`, tenant, name, box, now)
		if err != nil {
			return err
		}
	}
	return nil
}

func keysetPlace(deployment, tenant ID, name string) []byte {
	return append(boundTo("privault/1/keyset", deployment, tenant), name...)
}

// sealKeyset seals the binary form of a Tink keyset under a root key: nonce 12 ‖ AES-256-GCM ‖ tag 16. A root key
// seals a handful of keysets in its life.
func sealKeyset(root []byte, handle *keyset.Handle, place []byte) ([]byte, error) {
	var clearText bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewBinaryWriter(&clearText)); err != nil {
		return nil, err
	}
	defer clear(clearText.Bytes())
	gcm, err := rootAEAD(root)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(nil, nil, clearText.Bytes(), place), nil
}

func openKeyset(root, box, place []byte) (*keyset.Handle, error) {
	gcm, err := rootAEAD(root)
	if err != nil {
		return nil, err
	}
	clearText, err := gcm.Open(nil, nil, box, place)
	if err != nil {
		return nil, errors.New("does not open for this tenant and name")
	}
	defer clear(clearText)
	return insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(clearText)))
}

func rootAEAD(root []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(root)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
