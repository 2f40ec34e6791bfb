package vault

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Drill is what a trial of a backup found: how much of those whom the ledger has as erased could be read before the replay, and after it.
type Drill struct {
	Replay        Replay
	Erased        int // records of erased people that the backup holds
	Before, After int // how many of them opened
	Living        int // records of others that were tried afterwards
	LivingOpened  int // and opened: where none does, that nothing of the erased opens says nothing
}

// Passed says whether the backup brings nobody back.
func (d *Drill) Passed() bool { return d.After == 0 && (d.Living == 0 || d.LivingOpened > 0) }

// Lines are those of the report beyond the replay's.
func (d *Drill) Lines() [][2]string {
	verdict := "passed"
	if !d.Passed() {
		verdict = "FAILED"
	}
	return [][2]string{
		{"records-of-erased-people", fmt.Sprint(d.Erased)},
		{"of-them-readable-before-the-replay", fmt.Sprint(d.Before)}, {"of-them-readable-after-the-replay", fmt.Sprint(d.After)},
		{"records-of-others-tried", fmt.Sprint(d.Living)}, {"of-them-readable", fmt.Sprint(d.LivingOpened)},
		{"verdict", verdict},
	}
}

const (
	drillBatch  = 500
	drillLiving = 100 // of each tenant
)

// Drill replays the ledger on scratch databases and tries to read those whom it has as erased, past every policy. The vault is one
// that was opened for Restoring.
func (v *Vault) Drill(ctx context.Context) (d Drill, err error) {
	erased, err := v.erasedIn(ctx)
	if err != nil {
		return d, err
	}
	if d.Before, err = v.tryAll(ctx, erased); err != nil {
		return d, err
	}
	for _, ids := range erased {
		d.Erased += len(ids)
	}
	if d.Replay, err = v.ReplayLedger(ctx, func(int, int) {}); err != nil {
		return d, err
	}
	if d.After, err = v.tryAll(ctx, erased); err != nil {
		return d, err
	}
	living, err := v.livingBeside(ctx, erased)
	if err != nil {
		return d, err
	}
	for _, ids := range living {
		d.Living += len(ids)
	}
	d.LivingOpened, err = v.tryAll(ctx, living)
	return d, err
}

// erasedIn finds the records that the database still has of whom the ledger has as erased, by tenant.
func (v *Vault) erasedIn(ctx context.Context) (map[ID][]ID, error) {
	if err := v.ledger.refresh(); err != nil {
		return nil, err
	}
	k := v.ledger.knows()
	erased := map[ID][]ID{}
	for _, p := range k.pending {
		if p.kind != erasureLine || !p.done {
			continue
		}
		line, err := v.ledger.line(p)
		if err != nil {
			return nil, err
		}
		err = v.store.data.within(ctx, p.tenant, func(tx pgx.Tx) error {
			var id ID
			return each(ctx, tx, []any{&id}, func() error {
				erased[p.tenant] = append(erased[p.tenant], id)
				return nil
			}, `select record_id from privault.records where tenant_id = $1 and (subject_id = any($2) or record_id = any($3))`,
				p.tenant, line.Erasure.subjects(), unpackIDs(line.Erasure.Records))
		})
		if err != nil {
			return nil, err
		}
	}
	return erased, nil
}

// livingBeside picks some of the others.
func (v *Vault) livingBeside(ctx context.Context, erased map[ID][]ID) (map[ID][]ID, error) {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	living := map[ID][]ID{}
	for _, tenant := range tenants {
		gone := erased[tenant]
		if gone == nil {
			gone = []ID{}
		}
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			var id ID
			return each(ctx, tx, []any{&id}, func() error {
				living[tenant] = append(living[tenant], id)
				return nil
			}, `select record_id from privault.records where tenant_id = $1 and record_id <> all($2) order by md5(record_id::text) limit $3`,
				tenant, gone, drillLiving)
		})
		if err != nil {
			return nil, err
		}
	}
	return living, nil
}

// tryAll tries to open records, and says how many did.
func (v *Vault) tryAll(ctx context.Context, records map[ID][]ID) (opened int, err error) {
	for tenant, ids := range records {
		for some := range slices.Chunk(ids, drillBatch) {
			n, err := v.try500(ctx, tenant, some)
			if err != nil {
				return opened, err
			}
			opened += n
		}
	}
	return opened, nil
}

func (v *Vault) try500(ctx context.Context, tenant ID, ids []ID) (opened int, err error) {
	keys, err := v.keyring.of(ctx, tenant)
	if err != nil {
		return 0, err
	}
	e, err := v.open(Caller{Tenant: tenant}, policy.Replay)
	if err != nil {
		return 0, err
	}
	e.Rule, e.Items = "operator", len(ids)
	rows, err := v.fetch(ctx, tenant, ids)
	if err != nil {
		return 0, err
	}
	r := v.newReader(keys, e)
	r.whole = true // what opens counts, due or not
	r.unwrap(ctx, rows)
	for _, row := range rows {
		o, err := r.open(ctx, row)
		if err == nil {
			for _, f := range o.coll.order {
				if _, err = r.plain(o, uint32(f.number)); err != nil {
					break
				}
			}
		}
		switch kind := AsError(err).Kind; {
		case err == nil:
			opened++
		case kind == KMSUnavailable, kind == DatabaseUnavailable, kind == Cancelled:
			return opened, err // it is not known
		}
	}
	e.Refused = len(ids) - opened
	return opened, v.commit(ctx, &change{entry: e})
}
