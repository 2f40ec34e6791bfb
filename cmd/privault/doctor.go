package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/privault/privault/vault"
)

type doctorCmd struct {
	Tenant   string `placeholder:"NAME" help:"Examine only this tenant's indexes; by default all."`
	NoOpen   bool   `help:"Leave the indexes out: examining them opens a sample of the records, in memory."`
	Database `embed:""`
	Keys     `embed:""`
}

// Run ends with 1 if something is broken. What is merely worth a look is printed, and ends with 0.
func (d *doctorCmd) Run(ctx context.Context) error {
	v, err := openOperating(ctx, d.Database, d.Keys)
	if err != nil {
		return err
	}
	defer v.Close()
	found, err := v.Examine(ctx)
	if err != nil {
		return err
	}
	broken := 0
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, f := range found {
		if f.Level == vault.Broken {
			broken++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Level, f.Check, f.Text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if ready := found[0].Level != vault.Broken; ready && !d.NoOpen {
		if err := d.indexes(ctx, v); err != nil {
			return err
		}
	}
	if broken > 0 {
		return fmt.Errorf("%d faults were found", broken)
	}
	return nil
}

func (d *doctorCmd) indexes(ctx context.Context, v *vault.Vault) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	if d.Tenant != "" {
		who, err := v.Operator(ctx, d.Tenant)
		if err != nil {
			return err
		}
		tenants = []vault.ID{who.Tenant}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	lines := 0
	for _, tenant := range tenants {
		leaks, err := v.IndexLeaks(ctx, tenant)
		if err != nil {
			return err
		}
		for _, l := range leaks {
			if lines++; lines == 1 {
				fmt.Fprintln(w, "\n\tindex\trecords\tdistinct\tmost frequent\ttop ten\tentropy\t")
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%.1f %%\t%.1f bit\t%s\n", l.Level, strings.Join([]string{l.Tenant, l.Collection, l.Field, l.Index}, "."),
				l.Records, l.Distinct, l.Top, 100*l.TopTen, l.Entropy, l.Advice)
		}
	}
	return w.Flush()
}
