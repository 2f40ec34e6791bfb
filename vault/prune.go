package vault

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// What may become of a month of audit entries.
const (
	MonthDropped     = "dropped"
	MonthHeld        = "held"        // a legal hold keeps it
	MonthUnsequenced = "unsequenced" // it has entries that the tree doesn't have
)

// Month is a month of audit entries, as 2006_01, and what became of it.
type Month struct {
	Month   string `json:"month"`
	Outcome string `json:"outcome"`
}

// PruneAudit drops the months of audit entries that ended before a time, as the owner of the database, whose URL is given:
// the service's own role can't. It stops at the first month that must stay, so that what is gone is always the log's beginning; a
// dry run only says what would go. The tree keeps the leaves, and what was dropped is an entry of the log itself.
func PruneAudit(ctx context.Context, url string, before time.Time, dry bool) (months []Month, err error) {
	db, err := connect(ctx, url, 2, nil)
	if err != nil {
		return nil, AsError(err)
	}
	defer db.pool.Close()
	err = db.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('statement_timeout', '0', true)`); err != nil {
			return err
		}
		e, err := operatorsEntry(policy.PruneAudit)
		if err != nil {
			return err
		}
		var m Month
		err = each(ctx, tx, []any{&m.Month, &m.Outcome}, func() error {
			if months = append(months, m); m.Outcome == MonthDropped {
				e.Resources = append(e.Resources, resource{Month: m.Month})
			}
			return nil
		}, `select p.month, p.outcome from privault.prune_audit($1, $2) p`, before, dry)
		if err != nil || dry || len(e.Resources) == 0 {
			return err
		}
		return insertEntry(ctx, tx, &pgx.Batch{}, e)
	})
	if err != nil {
		return nil, AsError(err)
	}
	return months, nil
}
