package vault

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// What retention leaves to be seen: metrics of what is due and still there, and the quarter's summary.

// overdueLook is how many of a tenant's due records the metrics look at.
const overdueLook = 10_000

const overdueNow = `
	select min(d.since) filter (where not d.held), count(*) filter (where not d.held), count(*) filter (where d.held)
	from privault.collections c cross join lateral (
		select coalesce(r.due_at, r.expires_at) as since, ` + isHeld + ` as held
		from privault.records r where r.tenant_id = $1 and r.collection_id = c.collection_id and (r.due_at is not null or r.expires_at is not null)
			and coalesce(r.due_at, r.expires_at) <= $3
		order by coalesce(r.due_at, r.expires_at) limit $2) d
	where c.tenant_id = $1`

// NoteDue brings the metrics of retention up to date: since when the oldest record is due that no hold keeps, and how many there are.
func (v *Vault) NoteDue(ctx context.Context) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	now := v.now()
	var oldest time.Duration
	var due, held int64
	for _, tenant := range tenants {
		var since *time.Time
		var n, kept int64
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, overdueNow, tenant, overdueLook, now).Scan(&since, &n, &kept)
		})
		if err != nil {
			return err
		}
		if due, held = due+n, held+kept; since != nil {
			oldest = max(oldest, now.Sub(*since))
		}
	}
	var dead int64
	if err := v.store.data.pool.QueryRow(ctx, `
		select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables
		where schemaname = 'privault' and relname in ('records', 'blind_index', 'aliases')`).Scan(&dead); err != nil {
		return err
	}
	v.metrics.oldestDue.Set(oldest.Seconds())
	v.metrics.due.WithLabelValues("due").Set(float64(due))
	v.metrics.due.WithLabelValues("held").Set(float64(held))
	v.metrics.deadRows.Set(float64(dead))
	return nil
}

// RetentionSummary is what became of data in a quarter: PCI DSS 3.2.1 has it verified each quarter that nothing is kept longer than
// it may be.
type RetentionSummary struct {
	From, To    time.Time
	Sweeps      int64 // that were completed, dry runs not among them
	Stopped     int64
	Waiting     int64 // for a confirmation, now
	Counts      SweepCounts
	Last        *time.Time // when the last one was completed
	Overdue     int64      // records that are due now and that nothing keeps; counted up to 10,000 of each collection
	OldestSince *time.Time // since when the oldest of them is
}

// SummariseRetention says what was swept from one time to another, and what is overdue now.
func (v *Vault) SummariseRetention(ctx context.Context, who Caller, from, to time.Time) (*RetentionSummary, error) {
	s := &RetentionSummary{From: from, To: to}
	err := v.within(ctx, who, policy.ReadRetention, func(t *txn) error {
		if err := t.entry.require(policy.ReadRetention); err != nil {
			return err
		}
		if !to.After(from) {
			return invalid("/to", "range", "a summary is of a time that ends after it begins")
		}
		rows, err := t.data.Query(ctx, selectSweeps+`and s.created_at >= $2 and s.created_at < $3 and not s.dry_run`, who.Tenant, from, to)
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(rows, scanSweep)
		if err != nil {
			return err
		}
		s.Counts.Rules = map[string]int64{}
		for _, one := range all {
			switch one.State {
			case SweepCompleted:
				s.Sweeps++
				if s.Last == nil || one.Finished.After(*s.Last) {
					s.Last = one.Finished
				}
			case SweepNeedsConfirmation:
				s.Waiting++
			case SweepStopped, SweepFailed:
				s.Stopped++
			}
			s.Counts.Deleted, s.Counts.Anonymised = s.Counts.Deleted+one.Counts.Deleted, s.Counts.Anonymised+one.Counts.Anonymised
			for rule, n := range one.Counts.Rules {
				s.Counts.Rules[rule] += n
			}
		}
		return t.data.QueryRow(ctx, overdueNow, who.Tenant, overdueLook, t.now).Scan(&s.OldestSince, &s.Overdue, &s.Counts.Held)
	})
	return s, err
}
