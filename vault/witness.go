package vault

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// Witnesses sign checkpoints too. Who speaks to them is not here: this is what they are shown, and what they gave.

// Submission is what a witness is to be shown: a signed checkpoint, and the proof that it continues what the witness has seen.
type Submission struct {
	Signed string
	Seen   int64
	Proof  []tlog.Hash
}

// ForWitness is a checkpoint for a witness who has seen that many entries; less than 0: as many as were noted.
func (v *Vault) ForWitness(ctx context.Context, witness string, seen int64, signed string) (s Submission, err error) {
	if v.audit.keys == nil {
		return s, errors.New("the audit log has no key")
	}
	c, err := v.audit.keys.Open([]byte(signed))
	if err != nil {
		return s, err
	}
	err = v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) (err error) {
		if seen < 0 {
			seen = 0
			err := tx.QueryRow(ctx, `select size from privault.audit_witnesses where witness = $1`, witness).Scan(&seen)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
		}
		if seen > c.Size {
			return &Error{Kind: IntegrityFailure, Detail: "the witness " + witness + " has seen more entries than the log has: the database was set back, or there are two"}
		}
		s = Submission{Signed: signed, Seen: seen}
		if seen == 0 || seen == c.Size {
			return nil // nothing to prove
		}
		_, s.Proof, err = audit.ProveConsistency(c, seen, tilesIn(ctx, tx))
		return damagedTree(err)
	})
	return s, err
}

// KeepCosigned notes which witnesses have seen a checkpoint and shows it to everybody, with their signatures, unless a newer
// one is shown already.
func (v *Vault) KeepCosigned(ctx context.Context, cosigned string, witnesses []string) error {
	if v.audit.keys == nil {
		return errors.New("the audit log has no key")
	}
	c, err := v.audit.keys.Open([]byte(cosigned))
	if err != nil {
		return err
	}
	return v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			insert into privault.audit_witnesses as w (witness, size) select n, $2 from unnest($1::text[]) n order by n
			on conflict (witness) do update set size = greatest(w.size, excluded.size)`, witnesses, c.Size)
		if err != nil {
			return err
		}
		var shown string
		if err := tx.QueryRow(ctx, `select coalesce(cosigned, '') from privault.audit_head for update`).Scan(&shown); err != nil {
			return err
		}
		if newer, err := v.audit.keys.Open([]byte(shown)); err == nil && newer.Size > c.Size {
			return nil
		}
		_, err = tx.Exec(ctx, `update privault.audit_head set cosigned = $1`, cosigned)
		return err
	})
}

// Cosigned is the newest checkpoint that witnesses have signed.
func (v *Vault) Cosigned(ctx context.Context) (signed string, err error) {
	err = v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select coalesce(cosigned, '') from privault.audit_head`).Scan(&signed)
	})
	if err == nil && signed == "" {
		err = fail(NotFound, "no witness has signed a checkpoint")
	}
	return signed, err
}
