package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// keysetParams name the keyset that a job is about.
type keysetParams struct {
	Keyset string `json:"keyset"`
}

// rewrapBatch is how many DEKs a batch wraps anew.
const rewrapBatch = 250

// rewrapAt is where the job is: behind this DEK, with that version of the keyset.
type rewrapAt struct {
	DEK     dekAt `json:"dek"`
	Version int   `json:"version"`
}

// dekAt is where a job over all DEKs is: behind this one.
type dekAt struct {
	Record  ID    `json:"record"`
	Version int32 `json:"version"`
}

func (v *Vault) rewrapCount(ctx context.Context, b *batch) (n int64, err error) {
	err = b.keys.QueryRow(ctx, `select count(*) from keystore.data_keys where tenant_id = $1`, b.who.Tenant).Scan(&n)
	return n, err
}

// eachDEK gives the next DEKs behind at, up to limit of them, and moves at on to each. wrapped is good until the next one.
func (b *batch) eachDEK(ctx context.Context, at *dekAt, limit int, do func(wrapped []byte, created time.Time) error) (seen int, err error) {
	return eachDEK(ctx, b.keys, b.who.Tenant, at, limit, do)
}

func eachDEK(ctx context.Context, tx pgx.Tx, tenant ID, at *dekAt, limit int, do func(wrapped []byte, created time.Time) error) (seen int, err error) {
	//nolint:rowserrcheck // ForEachRow does
	rows, err := tx.Query(ctx, `
		select record_id, version, wrapped, created_at from keystore.data_keys
		where tenant_id = $1 and (record_id, version) > ($2, $3) order by record_id, version limit $4`,
		tenant, at.Record, at.Version, limit)
	if err != nil {
		return 0, err
	}
	var wrapped []byte
	var created time.Time
	_, err = pgx.ForEachRow(rows, []any{&at.Record, &at.Version, &wrapped, &created}, func() error {
		seen++
		return do(wrapped, created)
	})
	return seen, err
}

// rewrapStep wraps a batch of DEKs anew under the primary key. It sees no value, and touches no record. A DEK that has changed or gone
// meanwhile is left alone; one that another replica, which knows the old key only, adds behind the job's back is counted
// by the inventory, and taken along by the next run.
func (v *Vault) rewrapStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var at rewrapAt
	if err := b.resume(&at); err != nil {
		return 0, false, err
	}
	if b.ring, err = b.holdKeys(ctx, b.ring); err != nil {
		return 0, false, err
	}
	if newest := b.ring.versions["wrap"]; at.Version < newest {
		at = rewrapAt{Version: newest} // from the beginning: what was done is under an older key again
	}
	var records []ID
	var versions []int32
	var olds, news [][]byte
	primary := b.ring.wrapPrimary
	done, err = b.eachDEK(ctx, &at.DEK, rewrapBatch, func(wrapped []byte, _ time.Time) error {
		// Under a retired key there is at most an orphan, which nothing opens and which is swept.
		if id, named := prefixOf(wrapped); named && (id == primary || b.ring.wrapEnded[id]) || isDirect(wrapped) {
			return nil
		}
		fresh, err := b.ring.rewrap(at.DEK.Record, at.DEK.Version, wrapped)
		if err != nil {
			return err
		}
		records, versions = append(records, at.DEK.Record), append(versions, at.DEK.Version)
		olds, news = append(olds, slices.Clone(wrapped)), append(news, fresh)
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	if err := b.putWrapped(ctx, records, versions, olds, news); err != nil {
		return 0, false, err
	}
	if done == 0 { // all that there is was done by batches that are durable
		for _, s := range sealedTexts {
			if err := b.rewrapTexts(ctx, s); err != nil {
				return 0, false, err
			}
		}
		return 0, false, b.settle(ctx, "wrap", at.Version)
	}
	return done, true, b.leave(at)
}

// putWrapped puts DEKs that were wrapped anew in the place of what they were, each if it is that still.
func (b *batch) putWrapped(ctx context.Context, records []ID, versions []int32, olds, news [][]byte) error {
	if len(records) == 0 {
		return nil
	}
	_, err := b.keys.Exec(ctx, `
		update keystore.data_keys d set wrapped = n.fresh
		from unnest($2::uuid[], $3::int[], $4::bytea[], $5::bytea[]) as n(record_id, version, old, fresh)
		where d.tenant_id = $1 and d.record_id = n.record_id and d.version = n.version and d.wrapped = n.old`,
		b.who.Tenant, records, versions, olds, news)
	return err
}

// rewrap wraps a DEK anew under the primary key.
func (k *tenantKeys) rewrap(record ID, version int32, wrapped []byte) ([]byte, error) {
	raw, err := k.wrap.Decrypt(wrapped, k.dekPlace(record, version))
	if err != nil {
		return nil, &Error{Kind: IntegrityFailure, cause: errors.New("a data key does not unwrap for its record")}
	}
	defer clear(raw)
	// Past the count of uses: else a tenant with more records than a key may wrap would rotate for ever.
	return k.wrap.(*late).AEAD.Encrypt(raw, k.dekPlace(record, version))
}

// sealedText is a column whose texts are sealed under `wrap` itself.
type sealedText struct {
	table, id, column string
	place             func(*tenantKeys, ID) []byte
}

var sealedTexts = []sealedText{
	{"holds", "hold_id", "reference", (*tenantKeys).holdPlace},
	{"webhooks", "webhook_id", "secret", (*tenantKeys).webhookPlace},
	{"webhooks", "webhook_id", "previous_secret", (*tenantKeys).webhookPlace},
}

// rewrapTexts seals the texts of a column anew under the primary key: there are few of them.
func (b *batch) rewrapTexts(ctx context.Context, s sealedText) error {
	rows, err := b.data.Query(ctx, `
		select `+s.id+`, `+s.column+` from privault.`+s.table+` where tenant_id = $1 and `+s.column+` is not null for update`, b.who.Tenant)
	if err != nil {
		return err
	}
	type text struct {
		id     ID
		sealed []byte
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t text, err error) { return t, r.Scan(&t.id, &t.sealed) })
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t text) bool {
		id, named := prefixOf(t.sealed)
		return named && id == b.ring.wrapPrimary
	})
	for _, t := range all {
		plain, err := b.ring.wrap.Decrypt(t.sealed, s.place(b.ring, t.id))
		if err != nil {
			return &Error{Kind: IntegrityFailure, cause: fmt.Errorf("a sealed text of %s does not open", s.table)}
		}
		fresh, err := b.ring.wrap.Encrypt(plain, s.place(b.ring, t.id))
		if err != nil {
			return err
		}
		_, err = b.data.Exec(ctx, `
			update privault.`+s.table+` set `+s.column+` = $3 where tenant_id = $1 and `+s.id+` = $2`, b.who.Tenant, t.id, fresh)
		if err != nil {
			return err
		}
	}
	return nil
}
