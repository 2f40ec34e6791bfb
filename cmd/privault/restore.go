package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
)

// Ledger says where the ledger is, which a restored database is compared with.
type Ledger struct {
	Ledger          string `name:"ledger" env:"PRIVAULT_LEDGER" placeholder:"FILE" help:"File outside the database with what a restored one must be told again: erasures, holds, restrictions (docs/operate.md). All replicas share it."`
	AllowNoLedger   bool   `name:"allow-no-ledger" env:"PRIVAULT_ALLOW_NO_LEDGER" help:"Serve without a ledger: a restored backup brings erased people back, and nobody notices."`
	AllowLostLedger bool   `name:"allow-lost-ledger" env:"PRIVAULT_ALLOW_LOST_LEDGER" help:"Go on with a new ledger where the one that the database knows is lost or was set back. What only that one knew can't be applied to a restored database any more."`
}

func (l Ledger) check(bad func(string, ...any)) {
	switch {
	case l.Ledger == "" && !l.AllowNoLedger:
		bad("--ledger (PRIVAULT_LEDGER) is missing: without it a restored backup brings erased people back unnoticed; name a file outside the database, which is backed up apart from it, or say --allow-no-ledger")
	case l.Ledger != "" && l.AllowNoLedger:
		bad("--ledger and --allow-no-ledger exclude each other")
	case l.Ledger != "" && !isDir(filepath.Dir(l.Ledger)):
		bad("--ledger: there is no folder %s", filepath.Dir(l.Ledger))
	}
}

func (l Ledger) into(c *vault.Config) { c.Ledger, c.LostLedger = l.Ledger, l.AllowLostLedger }

// watchLedger looks after the ledger and the fence until ctx ends.
func (s *service) watchLedger(ctx context.Context) error {
	tick := time.NewTicker(vault.LedgerEvery)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			err := s.vault.WatchLedger(ctx)
			if vault.AsError(err).Kind == vault.RestoreFence {
				err = nil // it was said when the fence went up
			}
			last = s.report(ctx, "look after the ledger", err, last)
		}
	}
}

// behindFence waits until the fence is down, or ctx ends.
func (s *service) behindFence(ctx context.Context) error {
	tick := time.NewTicker(vault.LedgerEvery)
	defer tick.Stop()
	for s.vault.Fenced() != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

type restoreCmd struct {
	Drill  restoreDrillCmd  `cmd:"" help:"Restore a dump into scratch databases, replay the ledger, try to read whom it says is erased, and write a signed report. For cron: the exit code is 0 if nobody comes back, 1 if somebody does or the dump is no good, 75 if a server is away, 78 for settings."`
	Replay restoreReplayCmd `cmd:"" help:"Apply to a restored database, or a restored keystore, what the ledger says: erasures, holds, restrictions. It may be run again."`
}

type restoreReplayCmd struct {
	Database `embed:""`
	Keys     `embed:""`
	Ledger   string `env:"PRIVAULT_LEDGER" required:"" placeholder:"FILE" help:"The ledger. It is only read."`
	Lost     bool   `name:"allow-lost-ledger" env:"PRIVAULT_ALLOW_LOST_LEDGER" help:"The database is from before the ledger was begun anew: apply what this one has."`
	AuditKey string `env:"PRIVAULT_AUDIT_KEY" required:"" placeholder:"FILE" help:"Key that the report is signed with: that of the audit log."`
	Report   string `placeholder:"FILE" help:"Write the signed report to this file; by default it is printed."`
}

func (r *restoreReplayCmd) Run(ctx context.Context) error {
	keys, err := loadSigner(r.AuditKey)
	if err != nil {
		return &configError{[]string{fmt.Sprintf("--audit-key: %v", err)}}
	}
	v, err := openRestored(ctx, r.Database, r.Keys, r.Ledger, r.Lost)
	if err != nil {
		return awayOr(err)
	}
	defer v.Close()
	bar := newCountBar("lines replayed")
	done, err := v.ReplayLedger(ctx, func(done, total int) {
		bar.ChangeMax(total)
		_ = bar.Set(done) // only the display fails
	})
	_ = bar.Exit()
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return awayOr(err)
	}
	return writeReport(keys, done.Report(audit.ReplayTitle, time.Now()), r.Report)
}

// openRestored opens a vault for a replay.
func openRestored(ctx context.Context, d Database, k Keys, ledger string, lost bool) (*vault.Vault, error) {
	if err := operable(d, k); err != nil {
		return nil, err
	}
	return openVault(ctx, d, k, func(c *vault.Config) { c.Ledger, c.LostLedger, c.Restoring = ledger, lost, true })
}

// writeReport signs a report, and writes it to a file or prints it.
func writeReport(keys *audit.Keys, text, path string) error {
	signed, err := keys.SignText(text)
	if err != nil {
		return err
	}
	if path == "" {
		fmt.Printf("%s", signed)
		return nil
	}
	if err := os.WriteFile(path, signed, 0o600); err != nil {
		return err
	}
	fmt.Println("the signed report is", path)
	return nil
}
