package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
)

// measureAudit measures single calls by turns, while the log's sequencer is at work and while nobody is the sequencer.
func measureAudit(ctx context.Context, b *bencher) (rows []benchRow, err error) {
	owner, err := pgx.Connect(ctx, b.owner)
	if err != nil {
		return nil, err
	}
	defer owner.Close(ctx)
	for _, call := range []struct {
		work string
		kind func(context.Context, int) (traffic, error)
	}{{"tokenize, with the log", b.tokenizing}, {"detokenize, with the log", b.detokenizing}} {
		requests, err := call.kind(ctx, 1)
		if err != nil {
			return rows, err
		}
		load := b.load(b.usual(), 1, requests)
		row, err := b.beside(ctx, benchRow{Work: call.work, Clients: b.usual()},
			func(ctx context.Context) (f figure, err error) {
				lag, err := sequencing(ctx, owner, func() error {
					f, err = load(ctx)
					return err
				})
				f.note = fmt.Sprintf("an entry waited %.2f s at most for its place", lag.Seconds())
				return f, err
			},
			func(ctx context.Context) (f figure, err error) {
				err = notSequencing(ctx, owner, func() error {
					f, err = load(ctx)
					return err
				})
				return f, err
			})
		if err != nil {
			return rows, err
		}
		rows = append(rows, row...)
	}
	return rows, nil
}

// notSequencing does something while nobody is the sequencer: whoever has its lock is.
func notSequencing(ctx context.Context, owner *pgx.Conn, do func() error) error {
	if _, err := owner.Exec(ctx, `select pg_advisory_lock($1)`, vault.SequencerLock); err != nil {
		return err
	}
	err := do()
	_, freed := owner.Exec(ctx, `select pg_advisory_unlock($1)`, vault.SequencerLock)
	return errors.Join(err, freed)
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
