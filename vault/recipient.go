package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/audit"
)

// ErasureRecipient is a party that was told of an erasure, since the person's data had been disclosed to it.
type ErasureRecipient struct {
	Name    string
	Country string
	State   string     // of its deliveries as a whole: pending, delivered, acknowledged or failed
	Settled *time.Time // when it acknowledged, or was given up
}

// settleRecipient brings what is known of a recipient up to what has become of the deliveries that told it of an erasure. Once
// nothing is left to wait for, a second note says so beside the certificate.
func (v *Vault) settleRecipient(ctx context.Context, t *txn, erasure *ID, webhook ID) error {
	if erasure == nil {
		return nil
	}
	// One after the other, and each with a snapshot of its own: of two that settle the last parts at once, neither would see both.
	var erased time.Time
	err := t.data.QueryRow(ctx, `
		select erased_at from privault.erasures where tenant_id = $1 and erasure_id = $2 for update`, t.who.Tenant, erasure).Scan(&erased)
	if err != nil {
		return err
	}
	done, err := t.data.Exec(ctx, `
		update privault.erasure_recipients r set state = n.state, settled_at = case when n.state in ('acknowledged', 'failed') then $4::timestamptz end
		from (
			select case when bool_or(state = 'pending') then 'pending' when coalesce(bool_or(state = 'failed'), true) then 'failed'
				when bool_or(state = 'delivered') then 'delivered' else 'acknowledged' end as state
			from privault.webhook_deliveries where tenant_id = $1 and erasure_id = $2 and webhook_id = $3) n
		where r.tenant_id = $1 and r.erasure_id = $2 and r.webhook_id = $3 and r.state <> n.state`, t.who.Tenant, erasure, webhook, t.now)
	if err != nil || done.RowsAffected() == 0 {
		return err
	}
	return v.completeErasure(ctx, t, *erasure, erased)
}

// settleAll is settleRecipient for every erasure that a webhook's recipient has not settled.
func (v *Vault) settleAll(ctx context.Context, t *txn, webhook ID) error {
	rows, err := t.data.Query(ctx, `
		select erasure_id from privault.erasure_recipients
		where tenant_id = $1 and webhook_id = $2 and state in ('pending', 'delivered') order by erasure_id`, t.who.Tenant, webhook)
	if err != nil {
		return err
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[ID])
	for i := range open {
		if err == nil {
			err = v.settleRecipient(ctx, t, &open[i], webhook)
		}
	}
	return err
}

// completeErasure signs the note of completion, if every recipient has acknowledged or was given up. One that acknowledges after
// all gives a new note; one that is told again takes the note back.
func (v *Vault) completeErasure(ctx context.Context, t *txn, erasure ID, erased time.Time) error {
	all, err := recipientsOf(ctx, t.data, t.who.Tenant, erasure)
	if err != nil {
		return err
	}
	var note *string
	if settled(all) {
		signed, err := v.certifyCompletion(t.who.Tenant, erasure, erased, t.now, all)
		if err != nil {
			return err
		}
		note = &signed
	}
	_, err = t.data.Exec(ctx, `
		update privault.erasures set completion = $3 where tenant_id = $1 and erasure_id = $2`, t.who.Tenant, erasure, note)
	return err
}

func settled(all []ErasureRecipient) bool {
	for _, r := range all {
		if r.Settled == nil {
			return false
		}
	}
	return len(all) > 0
}

// certifyCompletion writes and signs the note, in the form of a certificate.
func (v *Vault) certifyCompletion(tenant, erasure ID, erased, now time.Time, all []ErasureRecipient) (string, error) {
	if v.audit.keys == nil {
		return "", errors.New("this server has no key to sign with")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\ncertificate: %s\ndeployment: %s\ntenant: %s\nerased-at: %s\ncompleted-at: %s\nrecipients: %d\n", audit.CompletionTitle,
		formatID(erasurePrefix, erasure), uuid.UUID(v.deployment), uuid.UUID(tenant), erased.UTC().Format(time.RFC3339Nano), now.UTC().Format(time.RFC3339Nano), len(all))
	for _, r := range all {
		fmt.Fprintf(&b, "recipient: %s %s %s", strconv.Quote(r.Name), r.State, r.Settled.UTC().Format(time.RFC3339Nano))
		if r.Country != "" {
			b.WriteString(" " + r.Country)
		}
		b.WriteByte('\n')
	}
	signed, err := v.audit.keys.SignText(b.String())
	return string(signed), err
}

// recipientsOf are the recipients of an erased person's data, by name.
func recipientsOf(ctx context.Context, tx pgx.Tx, tenant, erasure ID) ([]ErasureRecipient, error) {
	rows, err := tx.Query(ctx, `
		select name, country, state, settled_at from privault.erasure_recipients
		where tenant_id = $1 and erasure_id = $2 order by name, webhook_id`, tenant, erasure)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ErasureRecipient])
}
