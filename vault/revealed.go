package vault

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// When records were last revealed, for rules that count from it. A reveal writes nothing beyond its entry: each process remembers which records it
// revealed, and writes that down every minute (NoteReveals), of each record once a day. So the rule knows it to the day
// (revealedGrain), and a process that is killed forgets a minute: a record that nobody had revealed for so long that it was about to be due,
// and that was revealed in just that minute, is due a day later all the same.

// reveals are those that aren't written down yet.
type reveals struct {
	mu  sync.Mutex
	all map[ID]map[ID]time.Time // tenant → record → when
}

// see notes a reveal of a record of a collection whose rules ask for it.
func (r *reveals) see(tenant, record ID, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[ID]map[ID]time.Time{}
	}
	if r.all[tenant] == nil {
		r.all[tenant] = map[ID]time.Time{}
	}
	r.all[tenant][record] = at
}

// revealed notes that a field of a record was shown, masked or in clear.
func (r *reader) revealed(o *opened) {
	if o.coll.asksReveals && (o.row.revealed == nil || r.entry.at.Sub(*o.row.revealed) >= revealedGrain/2) {
		r.vault.reveals.see(r.keys.tenant, o.row.id, r.entry.at)
	}
}

// NoteReveals writes down which records were revealed since the last time.
func (v *Vault) NoteReveals(ctx context.Context) error {
	v.reveals.mu.Lock()
	all := v.reveals.all
	v.reveals.all = nil
	v.reveals.mu.Unlock()
	var failed error
	for tenant, seen := range all {
		if err := v.noteReveals(ctx, tenant, seen); err != nil {
			failed = err
			for record, at := range seen {
				v.reveals.see(tenant, record, at) // the next time
			}
		}
	}
	return failed
}

func (v *Vault) noteReveals(ctx context.Context, tenant ID, seen map[ID]time.Time) error {
	records, at := make([]ID, 0, len(seen)), make([]time.Time, 0, len(seen))
	for record := range seen {
		records = append(records, record)
	}
	// In one order: two replicas note the same records.
	slices.SortFunc(records, func(a, b ID) int { return slices.Compare(a[:], b[:]) })
	for _, record := range records {
		at = append(at, seen[record])
	}
	for len(records) > 0 {
		n := min(len(records), sweepBatch)
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			// due_at stays: it may be too early, and a sweep looks again.
			_, err := tx.Exec(ctx, `
				with seen as (
					select r.record_id, n.at from unnest($2::uuid[], $3::timestamptz[]) as n(record_id, at)
					join privault.records r on r.tenant_id = $1 and r.record_id = n.record_id
					where r.revealed_at is null or r.revealed_at < n.at - $4::interval
					order by r.record_id for update of r)
				update privault.records r set revealed_at = s.at from seen s where r.tenant_id = $1 and r.record_id = s.record_id`,
				tenant, records[:n], at[:n], revealedGrain/2)
			return err
		})
		if err != nil {
			return err
		}
		records, at = records[n:], at[n:]
	}
	return nil
}
