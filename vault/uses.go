package vault

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// How often keys have wrapped something. Each process counts in memory and adds it up in the keystore every minute (NoteUses),
// so a call costs nothing and a process that dies forgets a minute at most: the count says when to rotate, and no more.
//
// It is what was ever wrapped, deleted records and answers to Idempotency-Keys included, but for what a rotation wraps anew. The
// inventory's uses are what there is.

// uses are the wraps of this process that aren't written down yet.
type uses struct {
	mu  sync.Mutex
	all map[useOf]*atomic.Int64
}

type useOf struct {
	tenant ID
	key    uint32 // Tink's id
}

// of gives a key's counter.
func (u *uses) of(tenant ID, key uint32) *atomic.Int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all == nil {
		u.all = map[useOf]*atomic.Int64{}
	}
	n := u.all[useOf{tenant, key}]
	if n == nil {
		n = &atomic.Int64{}
		u.all[useOf{tenant, key}] = n
	}
	return n
}

// NoteUses writes down how often this process's keys have wrapped something since the last time.
func (v *Vault) NoteUses(ctx context.Context) error {
	u := &v.keyring.uses
	u.mu.Lock()
	counts := make(map[useOf]*atomic.Int64, len(u.all))
	for of, n := range u.all {
		counts[of] = n
	}
	u.mu.Unlock()
	for of, counter := range counts {
		n := counter.Swap(0)
		if n == 0 {
			continue
		}
		err := v.store.keys.within(ctx, of.tenant, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				insert into keystore.key_uses as u (tenant_id, key_id, uses) values ($1, $2, $3)
				on conflict (tenant_id, key_id) do update set uses = u.uses + excluded.uses`, of.tenant, int64(of.key), n)
			return err
		})
		if err != nil {
			counter.Add(n)
			return err
		}
	}
	return nil
}

// worn says whether the primary key of a tenant's `wrap` keyset has wrapped more than a key may. No KMS is asked unless some key has.
func (v *Vault) worn(ctx context.Context, tenant ID) (bool, error) {
	if v.rotateAfterUses == 0 {
		return false, nil
	}
	var ids []int64
	err := v.store.keys.within(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `select key_id from keystore.key_uses where tenant_id = $1 and uses >= $2`, tenant, v.rotateAfterUses)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	if err != nil || len(ids) == 0 {
		return false, err
	}
	keys, err := v.keyring.current(ctx, tenant)
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		if id == int64(keys.wrapPrimary) {
			return true, nil
		}
	}
	return false, nil
}
