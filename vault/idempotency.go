package vault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/policy"
)

// IdempotencyKey is what a caller calls a request, so that sending it again does nothing again.
type IdempotencyKey struct {
	Route   string   // what is asked for: method and path, as sent; empty: to tokenize
	Key     string   // at most 255 printable ASCII characters
	Request [32]byte // SHA-256 of the request's body
}

// digests are what is stored of an Idempotency-Key, under every key, the primary one first. They are keyed: a plain digest of
// a short body could be tried out. The caller and the route are part of what the Idempotency-Key names.
func (k *IdempotencyKey) digests(keys *tenantKeys, who Caller) (key, request [][]byte, err error) {
	if key, err = allDigests(keys.pseudonym, textOf("idempotency-key\x00"+cmp.Or(k.Route, "tokenize")+"\x00"+string(who.Principal[:]), k.Key)); err != nil {
		return nil, nil, err
	}
	request, err = allDigests(keys.pseudonym, textOf("request", string(k.Request[:])))
	return key, request, err
}

// once makes of a change one that is made once under its caller's Idempotency-Key: the key is taken in the change's own transaction.
// What was answered is not kept. It may hold a secret, or what an erasure takes meanwhile; so whoever asks again hears that it was done.
func (v *Vault) once(ctx context.Context, who Caller, do func(*txn) error) (release func(), once func(*txn) error, err error) {
	if release, err = v.hold(who, who.Once); err != nil {
		return nil, nil, err
	}
	var digests, requests [][]byte
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.inForce(ctx, who.Tenant)
	if err == nil {
		digests, requests, err = who.Once.digests(keys, who)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return release, func(t *txn) error {
		if err := t.claimOnce(ctx, digests, requests); err != nil {
			return err
		}
		if err := do(t); err != nil || t.entry.Outcome == outcomeOK {
			return err
		}
		// A batch of which nothing was done.
		_, err := t.data.Exec(ctx, `delete from privault.idempotency_keys where tenant_id = $1 and digest = any($2) and entry_id = $3`, t.who.Tenant, digests, t.entry.id)
		return err
	}, nil
}

// claimOnce takes an Idempotency-Key, unless a change was made under it. Of two at once, one waits for the other's end. It is taken under every
// digest, in one order: a replica that knows of a newer key, and one that doesn't yet, have an older one in common.
func (t *txn) claimOnce(ctx context.Context, digests, requests [][]byte) error {
	fresh := t.now.Add(-idempotencyLife)
	b := &pgx.Batch{}
	b.Queue(`
		insert into privault.idempotency_keys as k (tenant_id, digest, request_digest, entry_id, answer, created_at)
		select $1, d, $3, $4, '', $5 from unnest($2::bytea[]) d order by d
		on conflict (tenant_id, digest) do update set request_digest = excluded.request_digest, entry_id = excluded.entry_id, answer = '', created_at = excluded.created_at
			where k.created_at <= $6`, t.who.Tenant, digests, requests[0], t.entry.id, t.now, fresh)
	var request []byte
	var made time.Time
	b.Queue(`
		select request_digest, created_at from privault.idempotency_keys
		where tenant_id = $1 and digest = any($2) and created_at > $3 and entry_id <> $4 limit 1`, t.who.Tenant, digests, fresh, t.entry.id).QueryRow(func(row pgx.Row) error {
		return row.Scan(&request, &made)
	})
	err := t.data.SendBatch(ctx, b).Close()
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case !slices.ContainsFunc(requests, func(r []byte) bool { return bytes.Equal(r, request) }):
		return fail(IdempotencyConflict, "this Idempotency-Key was used for another body")
	}
	return fail(Conflict, "this request was carried out under this Idempotency-Key at %s, and is not carried out again; only tokenize keeps its answer: look up what it made", made.UTC().Format(time.RFC3339))
}

// hold takes an Idempotency-Key, if there is one, for this process while the call runs.
func (v *Vault) hold(who Caller, k *IdempotencyKey) (release func(), err error) {
	if k == nil {
		return func() {}, nil
	}
	// Only a digest of it is stored, so a serial number that could be a card's by chance is let through.
	if rule, _ := datatype.LooksLikePII(k.Key); rule == "email" {
		return nil, &Error{Kind: LooksLikePII, Detail: "an Idempotency-Key is an opaque name, not an e-mail address"}
	}
	id := string(who.Tenant[:]) + string(who.Principal[:]) + k.Route + "\x00" + k.Key
	if _, running := v.inFlight.LoadOrStore(id, struct{}{}); running {
		return nil, &Error{Kind: Conflict, Detail: "a request with this Idempotency-Key is still running", RetryAfter: time.Second}
	}
	return func() { v.inFlight.Delete(id) }, nil
}

// answer is what is sealed beside an Idempotency-Key.
type answer struct {
	Items []answerItem `json:"items"`
}

type answerItem struct {
	Tokenized
	Kind   Kind         `json:"kind,omitempty"`
	Detail string       `json:"detail,omitempty"`
	Faults []FieldError `json:"faults,omitempty"`
}

func (k *IdempotencyKey) claim(keys *tenantKeys, who Caller, done []Tokenized) (*claim, error) {
	a := answer{make([]answerItem, len(done))}
	for i, d := range done {
		a.Items[i].Tokenized = d
		if d.Err != nil {
			a.Items[i].Kind, a.Items[i].Detail, a.Items[i].Faults = d.Err.Kind, d.Err.Detail, d.Err.Fields
		}
	}
	plain, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	key, request, err := k.digests(keys, who)
	if err != nil {
		return nil, err
	}
	sealed, err := keys.wrap.Encrypt(plain, answerPlace(keys, key[0]))
	return &claim{digest: key[0], request: request[0], answer: sealed, rotated: len(key) > 1}, err
}

func answerPlace(keys *tenantKeys, digest []byte) []byte {
	return append(keys.bound("privault/1/answer"), digest...)
}

// replay gives the answer that a batch's Idempotency-Key already has, if any, and leaves an entry of its own.
func (v *Vault) replay(ctx context.Context, who Caller, b Batch) ([]Tokenized, error) {
	if b.Claim == nil {
		return nil, nil
	}
	keys, err := v.keyring.inForce(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.Tokenize, err)
	}
	digests, requests, err := b.Claim.digests(keys, who)
	if err != nil {
		return nil, err
	}
	var digest, request, sealed []byte
	err = v.store.data.within(ctx, who.Tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			select digest, request_digest, answer from privault.idempotency_keys
			where tenant_id = $1 and digest = any($2) and created_at > $3`,
			who.Tenant, digests, v.now().Add(-idempotencyLife)).Scan(&digest, &request, &sealed)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	e, opened := v.open(who, policy.Tokenize)
	if opened != nil {
		return nil, opened
	}
	if err != nil {
		return nil, v.refuse(ctx, e, err)
	}
	same := slices.ContainsFunc(requests, func(r []byte) bool { return bytes.Equal(r, request) })
	done, err := v.openAnswer(ctx, e, keys, b.Collection, same, digest, sealed)
	if err != nil {
		return nil, v.refuse(ctx, e, err)
	}
	e.Resources = []resource{{Collection: b.Collection, Records: recordIDs(done)}}
	return done, v.commit(ctx, &change{entry: e})
}

// openAnswer opens a stored answer, if it is of the same request.
func (v *Vault) openAnswer(ctx context.Context, e *entry, keys *tenantKeys, collection string, same bool, digest, sealed []byte) ([]Tokenized, error) {
	coll, err := v.collectionNamed(ctx, e.who.Tenant, collection, false)
	if AsError(err).Kind == NotFound {
		coll, err = &Collection{Name: collection}, nil // it is gone since
	}
	if err != nil {
		return nil, err
	}
	if err := e.requireSome(policy.Tokenize, policy.NoView, coll, policy.SubjectFacts{}); err != nil {
		return nil, err
	}
	if !same {
		return nil, fail(IdempotencyConflict, "this Idempotency-Key was used for another body")
	}
	plain, err := keys.wrap.Decrypt(sealed, answerPlace(keys, digest))
	if err != nil {
		return nil, &Error{Kind: IntegrityFailure, cause: errors.New("a stored answer does not open")}
	}
	return readAnswer(plain)
}

func readAnswer(plain []byte) ([]Tokenized, error) {
	var a answer
	if err := json.Unmarshal(plain, &a); err != nil {
		return nil, fmt.Errorf("a stored answer does not parse: %w", err)
	}
	done := make([]Tokenized, len(a.Items))
	for i, item := range a.Items {
		done[i] = item.Tokenized
		if item.Kind != "" {
			done[i].Err = &Error{Kind: item.Kind, Detail: item.Detail, Fields: item.Faults}
		}
	}
	return done, nil
}

// SweepIdempotencyKeys deletes up to batch Idempotency-Keys of one tenant whose time is over, and gives how many.
func (v *Vault) SweepIdempotencyKeys(ctx context.Context, tenant ID, batch int) (deleted int, err error) {
	return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
		done, err := t.data.Exec(ctx, `
			delete from privault.idempotency_keys where tenant_id = $1 and digest in (
				select digest from privault.idempotency_keys where tenant_id = $1 and created_at <= $2
				limit $3 for update skip locked)`, tenant, t.now.Add(-idempotencyLife), batch)
		return done.RowsAffected(), err
	})
}

// sweepIdempotencyKeys does it for every tenant, and deletes revocations that are over, and behaviour that is too long ago, too.
func (v *Vault) sweepIdempotencyKeys(ctx context.Context) error {
	return errors.Join(v.eachTenant(ctx, v.SweepIdempotencyKeys), v.eachTenant(ctx, v.SweepRevocations),
		v.eachTenant(ctx, v.SweepBehaviour))
}
