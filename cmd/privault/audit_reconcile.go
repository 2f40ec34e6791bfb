package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
)

type auditReconcileCmd struct {
	DatabaseURL string `env:"PRIVAULT_DATABASE_URL" required:"" placeholder:"URL" help:"Postgres URL of the data database, as the server's login has it. Nothing is changed."`
	Key         string `required:"" placeholder:"FILE" help:"The log's public keys (FILE.pub of privault audit keygen)."`
	Copy        string `placeholder:"FILE" help:"The newest checkpoint that is kept outside the database (--audit-copy of the server): the log must not be older."`
	JSON        bool   `help:"A JSON object a line for each record that differs, and one with the sums behind them."`
}

func (a *auditReconcileCmd) Run(ctx context.Context) error {
	keys, err := loadAuditKeys(a.Key)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	done, err := vault.Reconcile(ctx, a.DatabaseURL, keys, func(d vault.Discrepancy) error {
		if a.JSON {
			return out.Encode(d)
		}
		_, err := fmt.Printf("%s: %s of tenant %s; there is version %d, the log has %d\n", d.Is, d.Record, d.Tenant, d.Version, d.Logged)
		return err
	})
	if err != nil {
		return awayOr(err)
	}
	if a.Copy != "" {
		if err := notOlder(keys, a.Copy, done.Size); err != nil {
			return err
		}
	}
	if a.JSON {
		err = out.Encode(done)
	} else {
		_, err = fmt.Printf("%d records of %d tenants, %d statements of the log (%d entries in its tree): %d differ; %d are older than the log's entries\n",
			done.Records, done.Tenants, done.Statements, done.Size, done.Discrepancies, done.Unattested)
	}
	if err == nil && done.Discrepancies > 0 {
		err = errors.New("records differ from what the audit log says")
	}
	return err
}

// notOlder says whether a log reaches as far as a checkpoint that was kept.
func notOlder(keys *audit.Keys, path string, size int64) error {
	kept, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c, err := keys.Open(kept)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if size < c.Size {
		return fmt.Errorf("the log has %d entries, and %s says that it had %d: the database was set back", size, path, c.Size)
	}
	return nil
}
