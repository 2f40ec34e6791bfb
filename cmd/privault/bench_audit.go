package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
)

// auditRow compares a call with the audit log's sequencer at work with the same call when entries are only written.
type auditRow struct {
	Work    string        `json:"work"`
	Clients int           `json:"clients"`
	With    float64       `json:"with_per_second"`
	Plain   float64       `json:"plain_per_second"`
	Ratio   float64       `json:"ratio"`
	Lag     time.Duration `json:"longest_lag_ns"` // that an entry waited for its place in the log
}

// measureAudit measures by turns, with the sequencer and without it.
func (b *benchCmd) measureAudit(ctx context.Context, t *benchTarget, clients int) ([]auditRow, error) {
	owner, err := pgx.Connect(ctx, t.dev.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer owner.Close(ctx)
	requests := map[string][][]byte{"tokenize": {t.request("/v1/tokenize", tokenizeBody(1))}}
	for i := range t.tokens {
		requests["detokenize"] = append(requests["detokenize"], t.request("/v1/detokenize", t.detokenizeBody(i, 1)))
	}
	var rows []auditRow
	for _, work := range []string{"tokenize", "detokenize"} {
		row := auditRow{Work: work, Clients: clients}
		var with, plain []float64
		for round := range 2 * b.Rounds {
			// Each goes first every other time: what gets slower as the run goes on favours neither.
			rates, how := &with, sequencing
			if turn := round % 4; turn == 0 || turn == 3 {
				rates, how = &plain, notSequencing
			}
			lag, err := how(ctx, owner, func() error {
				measured, err := load(ctx, t.addr, requests[work], clients, b.Time)
				*rates = append(*rates, measured.PerSecond)
				return err
			})
			if err != nil {
				return nil, err
			}
			row.Lag = max(row.Lag, lag)
		}
		slices.Sort(with)
		slices.Sort(plain)
		row.With, row.Plain = with[b.Rounds/2], plain[b.Rounds/2]
		row.Ratio = row.With / row.Plain
		rows = append(rows, row)
	}
	return rows, nil
}

// notSequencing does something while nobody is the sequencer: whoever has its lock is.
func notSequencing(ctx context.Context, owner *pgx.Conn, do func() error) (lag time.Duration, err error) {
	if _, err := owner.Exec(ctx, `select pg_advisory_lock($1)`, vault.SequencerLock); err != nil {
		return 0, err
	}
	err = do()
	_, freed := owner.Exec(ctx, `select pg_advisory_unlock($1)`, vault.SequencerLock)
	return 0, errors.Join(err, freed)
}

// sequencing does something while the sequencer is at work and has nothing left over from before.
func sequencing(ctx context.Context, owner *pgx.Conn, do func() error) (lag time.Duration, err error) {
	if err := sequenced(ctx, owner); err != nil {
		return 0, err
	}
	watch, stop := context.WithCancel(ctx)
	longest := make(chan time.Duration)
	go func() { longest <- watchLag(watch, owner) }()
	err = do()
	stop()
	return <-longest, err
}

const unsequenced = `
	select extract(epoch from clock_timestamp() - (
		select e.at from privault.audit_entries e where e.xid > h.xid order by e.xid limit 1)) from privault.audit_head h`

// sequenced waits until the log has every entry.
func sequenced(ctx context.Context, owner *pgx.Conn) error {
	for range 600 {
		var oldest *float64
		if err := owner.QueryRow(ctx, unsequenced).Scan(&oldest); err != nil {
			return err
		}
		if oldest == nil || *oldest < 1 {
			return nil
		}
		if !rest(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	return errors.New("the sequencer does not catch up")
}

// watchLag gives how old the oldest entry got that had no place in the log.
func watchLag(ctx context.Context, owner *pgx.Conn) (longest time.Duration) {
	for rest(ctx, 100*time.Millisecond) {
		var oldest *float64
		if owner.QueryRow(context.WithoutCancel(ctx), unsequenced).Scan(&oldest) == nil && oldest != nil {
			longest = max(longest, time.Duration(*oldest*float64(time.Second)))
		}
	}
	return longest
}

func reportAudit(rows []auditRow) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nwork\tclients\tper second with the log\tentries alone\tratio\tlongest lag s\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.2f\t%.2f\t\n", r.Work, r.Clients, r.With, r.Plain, r.Ratio, r.Lag.Seconds())
	}
	return w.Flush()
}
