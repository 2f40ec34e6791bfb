package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/seal"
)

// Collections with kms: direct. The KMS key itself wraps each record's DEK, so that each record that is made, changed or read is
// a call of the KMS, and a line in its audit trail.
//
// Calls run beside each other, within bounds, and never inside a transaction: what an operation needs is unwrapped before it
// begins. One batch asks nothing more of a KMS key that has just failed. That is the business of direct records: the tenant's
// keysets, and with them all else, are asked for on their own (kek.resting).

// A directly wrapped DEK is directMark ‖ the KMS key's id ‖ what the KMS made. What the `wrap` keyset wraps begins with Tink's 0x01.
const (
	directMark   = 0x02
	directHeader = 1 + len(kekID{})
)

// kekID says which KMS key wrapped a DEK: the first bytes of the SHA-256 of its canonical URI.
type kekID [8]byte

func newKEK(key kms.Key, inFlight int) *kek {
	if inFlight <= 0 {
		inFlight = defaultInFlight
	}
	return &kek{Key: key, id: kekIDOf(key.URI()), slots: make(chan struct{}, inFlight)}
}

func kekIDOf(uri string) kekID {
	sum := sha256.Sum256([]byte(uri))
	return kekID(sum[:])
}

// defaultInFlight is how many calls for DEKs one KMS key gets at once from one process.
const defaultInFlight = 16

// isDirect says whether a DEK is wrapped by a KMS key itself.
func isDirect(wrapped []byte) bool { return len(wrapped) > directHeader && wrapped[0] == directMark }

// direct has do call the KMS key for a DEK, once there is a slot and unless it failed a moment ago.
func (r *keyring) direct(ctx context.Context, k *kek, operation string, do func(context.Context) error) error {
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := k.directRest(r.now()); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	err := do(call)
	r.metrics.kmsCall(operation, err)
	if err == nil {
		return nil
	}
	why := directFailure(err)
	if why.Kind == KMSUnavailable && ctx.Err() == nil { // a caller who had little time says nothing about the KMS
		k.mu.Lock()
		k.directShut = shut{why, r.now().Add(kmsPause)}
		k.mu.Unlock()
	}
	return why
}

// directFailure is what callers hear of a KMS that failed them for a DEK.
func directFailure(err error) *Error {
	switch {
	case errors.Is(err, context.Canceled):
		return AsError(err)
	case errors.Is(err, kms.ErrUnavailable):
		return errKMSAway
	case errors.Is(err, kms.ErrCorrupt):
		return &Error{Kind: IntegrityFailure, cause: errors.New("a data key does not unwrap for its record")}
	}
	return &Error{Kind: KMSUnavailable, Detail: "the key management system refuses to use the key that wraps this record's", RetryAfter: kmsPause, cause: err}
}

// directRest is why no DEK is to be asked for now.
func (k *kek) directRest(now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case now.Before(k.rest):
		return errKMSAway
	case now.Before(k.directShut.until):
		return k.directShut.why
	}
	return nil
}

// dek is the DEK of one version of a record.
type dek struct {
	at      dekAt
	wrapped []byte
	key     seal.Key
	err     error // why there is no key
}

// eachDirect does something for each of many DEKs, beside each other.
func eachDirect(k *kek, deks []dek, do func(d *dek) error) {
	var g errgroup.Group
	g.SetLimit(cap(k.slots))
	for i := range deks {
		g.Go(func() error {
			deks[i].err = do(&deks[i])
			return nil
		})
	}
	_ = g.Wait() // each says for itself how it went
}

// makeDirect makes DEKs that the tenant's KMS key wraps.
func (r *keyring) makeDirect(ctx context.Context, keys *tenantKeys, deks []dek) {
	k := keys.kek
	eachDirect(k, deks, func(d *dek) error {
		raw := make([]byte, seal.KeySize)
		_, _ = rand.Read(raw) // never fails (crypto/rand)
		defer clear(raw)
		return r.direct(ctx, k, "wrap_dek", func(ctx context.Context) error {
			wrapped, err := k.Wrap(ctx, raw, keys.dekPlace(d.at.Record, d.at.Version))
			if err != nil {
				return err
			}
			d.wrapped = k.mark(wrapped)
			d.key, err = seal.NewKey(raw)
			return err
		})
	})
}

// mark puts in front of what a KMS key made whose it is.
func (k *kek) mark(wrapped []byte) []byte {
	marked := make([]byte, 0, directHeader+len(wrapped))
	return append(append(append(marked, directMark), k.id[:]...), wrapped...)
}

// openDirect unwraps DEKs.
func (r *keyring) openDirect(ctx context.Context, keys *tenantKeys, deks []dek) {
	eachDirect(keys.kek, deks, func(d *dek) error {
		raw, err := r.rawDirect(ctx, keys, d)
		defer clear(raw)
		if err != nil {
			return err
		}
		d.key, err = seal.NewKey(raw)
		return err
	})
}

// rawDirect unwraps a DEK with the KMS key that wrapped it.
func (r *keyring) rawDirect(ctx context.Context, keys *tenantKeys, d *dek) (raw []byte, err error) {
	id := kekID(d.wrapped[1:directHeader])
	k, named, err := keys.kek, true, error(nil)
	if id != k.id {
		if k, named, err = r.keks.of(ctx, id, keys.kek); err != nil {
			return nil, directFailure(err)
		}
	}
	err = r.direct(ctx, k, "unwrap_dek", func(ctx context.Context) error {
		raw, err = k.Unwrap(ctx, d.wrapped[directHeader:], keys.dekPlace(d.at.Record, d.at.Version))
		return err
	})
	if err != nil && !named && AsError(err).Kind == IntegrityFailure {
		err = unnamed("the KMS key of a data key")
	}
	return raw, err
}

// directJob wraps directly wrapped DEKs anew: under the KMS key that the tenant's root key is under by now, and its newest version.
// After a move to another KMS key it looks again later for what replicas have wrapped meanwhile that knew only the old one.
const (
	directJob   = "rewrap-direct"
	directBatch = 200
)

type directParams struct {
	Moved bool `json:"moved"`
}

// directAt is where the job is: which time, and behind which DEK.
type directAt struct {
	dekAt
	Again bool `json:"again"`
}

// rewrapped is what a batch of directJob made before its transaction.
type rewrapped struct {
	deks []dek
	olds [][]byte
	at   directAt
	more bool
}

func (v *Vault) directCount(ctx context.Context, b *batch) (n int64, err error) {
	err = b.keys.QueryRow(ctx, `
		select count(*) from keystore.data_keys where tenant_id = $1 and get_byte(wrapped, 0) = $2`, b.who.Tenant, directMark).Scan(&n)
	return n, err
}

// directAhead reads the next DEKs and has the KMS wrap them anew.
func (v *Vault) directAhead(ctx context.Context, b *batch) error {
	var f rewrapped
	if err := b.resume(&f.at); err != nil {
		return err
	}
	err := v.store.keys.within(ctx, b.tenant, func(tx pgx.Tx) error {
		seen, err := eachDEK(ctx, tx, b.tenant, &f.at.dekAt, directBatch, func(wrapped []byte, _ time.Time) error {
			if isDirect(wrapped) && (!f.at.Again || kekID(wrapped[1:directHeader]) != b.ring.kek.id) {
				f.olds = append(f.olds, bytes.Clone(wrapped))
				f.deks = append(f.deks, dek{at: f.at.dekAt, wrapped: f.olds[len(f.olds)-1]})
			}
			return nil
		})
		f.more = seen == directBatch
		return err
	})
	if err != nil {
		return err
	}
	eachDirect(b.ring.kek, f.deks, func(d *dek) (err error) { return v.keyring.rewrapDirect(ctx, b.ring, d) })
	for i := range f.deks {
		if err := f.deks[i].err; err != nil {
			return err
		}
	}
	b.found = f
	return nil
}

// rewrapDirect wraps a DEK anew: inside the KMS where it can.
func (r *keyring) rewrapDirect(ctx context.Context, keys *tenantKeys, d *dek) error {
	k, place := keys.kek, keys.dekPlace(d.at.Record, d.at.Version)
	do := func(ctx context.Context) ([]byte, error) {
		return kms.Rewrap(ctx, k.Key, d.wrapped[directHeader:], place)
	}
	if kekID(d.wrapped[1:directHeader]) != k.id {
		raw, err := r.rawDirect(ctx, keys, d)
		if err != nil {
			return err
		}
		defer clear(raw)
		do = func(ctx context.Context) ([]byte, error) { return k.Wrap(ctx, raw, place) }
	}
	return r.direct(ctx, k, "rewrap_dek", func(ctx context.Context) error {
		wrapped, err := do(ctx)
		if err == nil {
			d.wrapped = k.mark(wrapped)
		}
		return err
	})
}

// directStep puts in place what directAhead made. A DEK that has changed or gone meanwhile is left alone.
func (v *Vault) directStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	f := b.found.(rewrapped)
	records, versions, news := make([]ID, len(f.deks)), make([]int32, len(f.deks)), make([][]byte, len(f.deks))
	for i, d := range f.deks {
		records[i], versions[i], news[i] = d.at.Record, d.at.Version, d.wrapped
	}
	if err := b.putWrapped(ctx, records, versions, f.olds, news); err != nil {
		return 0, false, err
	}
	var params directParams
	if err := b.read(&params); err != nil {
		return 0, false, err
	}
	if !f.more && params.Moved && !f.at.Again {
		b.after = 2 * v.keyring.ttl // by then every replica has the keys as they are now
		return len(f.deks), true, b.leave(directAt{Again: true})
	}
	return len(f.deks), f.more, b.leave(f.at)
}

// rewrapsDirect enqueues the job, if the tenant has a collection that it is for.
func (t *txn) rewrapsDirect(ctx context.Context, moved bool) (job string, err error) {
	var has bool
	err = t.data.QueryRow(ctx, `
		select exists (select from privault.collections where tenant_id = $1 and definition->>'kms' = $2)`, t.who.Tenant, kmsDirect).Scan(&has)
	if err != nil || !has {
		return "", err
	}
	return t.enqueue(ctx, directJob, directParams{moved})
}

// unwrap unwraps the DEKs of those rows that a KMS key wraps, beside each other, for the reader's later use.
func (r *reader) unwrap(ctx context.Context, rows map[ID]*row) {
	var deks []dek
	for _, row := range rows {
		if isDirect(row.wrapped) {
			deks = append(deks, dek{at: dekAt{row.id, row.version}, wrapped: row.wrapped})
		}
	}
	if len(deks) > 0 {
		r.vault.keyring.openDirect(ctx, r.keys, deks)
		r.keep(deks)
	}
}

func (r *reader) keep(deks []dek) {
	if r.direct == nil {
		r.direct = make(map[dekAt]*dek, len(deks))
	}
	for i := range deks {
		r.direct[deks[i].at] = &deks[i]
	}
}

// errNotAhead says that a direct record changed after its DEKs had been asked for, before the transaction.
var errNotAhead = &Error{Kind: Conflict, Detail: "the record changed a moment ago", RetryAfter: time.Second}

// dekOf gives a record's DEK.
func (r *reader) dekOf(ctx context.Context, of *row) (seal.Key, error) {
	if !isDirect(of.wrapped) {
		return r.keys.openDEK(of.id, of.version, of.wrapped)
	}
	at := dekAt{of.id, of.version}
	if d := r.direct[at]; d != nil && bytes.Equal(d.wrapped, of.wrapped) {
		return d.key, d.err
	}
	if r.ahead {
		return seal.Key{}, errNotAhead
	}
	r.unwrap(ctx, map[ID]*row{of.id: of})
	return r.direct[at].key, r.direct[at].err
}

// newDEKOf gives a new DEK for a record's next version.
func (r *reader) newDEKOf(of *row) (seal.Key, []byte, error) {
	if !isDirect(of.wrapped) {
		return r.keys.newDEK(of.id, of.version+1)
	}
	d := r.direct[dekAt{of.id, of.version + 1}]
	if d == nil {
		return seal.Key{}, nil, errNotAhead
	}
	return d.key, d.wrapped, d.err
}

// lookAhead unwraps and makes the DEKs that a change of these records needs, before its transaction: in there, the reader calls
// no KMS.
func (r *reader) lookAhead(ctx context.Context, rows map[ID]*row) {
	r.ahead = true
	r.unwrap(ctx, rows)
	var next []dek
	for _, row := range rows {
		if isDirect(row.wrapped) {
			next = append(next, dek{at: dekAt{row.id, row.version + 1}})
		}
	}
	r.vault.keyring.makeDirect(ctx, r.keys, next)
	r.keep(next)
}

// directRow reads a record ahead of its change, if the collection says that it is direct.
func (v *Vault) directRow(ctx context.Context, tenant ID, collection string, record ID) (map[ID]*row, error) {
	coll, err := v.collectionNamed(ctx, tenant, collection, false)
	if AsError(err).Kind == NotFound || err == nil && !coll.direct() {
		return nil, nil // the transaction says why
	}
	if err != nil {
		return nil, err
	}
	return v.fetch(ctx, tenant, []ID{record})
}

// wrapDirectly makes the DEKs of a batch's records. A record without one is refused; with atomic the batch is.
func (s *sealer) wrapDirectly(ctx context.Context, r *keyring, drafts []draft, atomic bool) error {
	var deks []dek
	var of []*draft
	for i := range drafts {
		if drafts[i].err == nil {
			deks, of = append(deks, dek{at: dekAt{drafts[i].id, 1}}), append(of, &drafts[i])
		}
	}
	r.makeDirect(ctx, s.keys, deks)
	for i := range deks {
		of[i].dek, of[i].err = &deks[i], deks[i].err
		if atomic && deks[i].err != nil {
			return deks[i].err
		}
	}
	return ctx.Err()
}
