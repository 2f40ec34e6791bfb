package main

import (
	"context"
	"fmt"
	"time"

	"github.com/privault/privault/vault"
)

// auditPruneCmd keeps a year unless it is told otherwise, as PCI DSS 10.5.1 wants it, and the month that has to be full before it goes.
type auditPruneCmd struct {
	DatabaseURL string        `env:"PRIVAULT_MIGRATE_DATABASE_URL" required:"" placeholder:"URL" help:"Postgres URL of the data database, as its owner: the server's login can't drop evidence."`
	Keep        time.Duration `env:"PRIVAULT_AUDIT_RETENTION" default:"9600h" help:"How long entries are kept. A month goes when all of it is older."`
	DryRun      bool          `help:"Only say what would be dropped."`
}

// shortestRetention is a month: to drop more is no retention but an accident.
const shortestRetention = 31 * 24 * time.Hour

func (a *auditPruneCmd) Run(ctx context.Context) error {
	if a.Keep < shortestRetention {
		return &configError{[]string{"--keep is at least 744h, a month"}}
	}
	months, err := vault.PruneAudit(ctx, a.DatabaseURL, time.Now().Add(-a.Keep), a.DryRun)
	if err != nil {
		return awayOr(err)
	}
	for _, m := range months {
		switch {
		case m.Outcome == vault.MonthHeld:
			fmt.Println(m.Month, "stays: a legal hold keeps it, and what came later with it")
		case m.Outcome == vault.MonthUnsequenced:
			return fmt.Errorf("%s stays: it has entries that the log's tree doesn't have; is the sequencer running?", m.Month)
		case a.DryRun:
			fmt.Println(m.Month, "would be dropped")
		default:
			fmt.Println(m.Month, "dropped")
		}
	}
	return nil
}
