package vault_test

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// A fifth of PRIVAULT_SWEEP_RECORDS records (5,000 without it) is swept, beside a bare batched delete of the same rows of copies of the tables, while records are
// read 200 times a second. With the variable set it is a measurement: it says what it took, and holds it to the budget.
func TestSweepBesideABareDelete(t *testing.T) {
	t.Parallel()
	records, measured := 5000, false
	if text := os.Getenv("PRIVAULT_SWEEP_RECORDS"); text != "" {
		var err error
		if records, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
		measured = true
	}
	a := newArchive(t, vaulttest.With(func(c *vault.Config) { c.SweepShare = 2 }))
	a.Patience = 30
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	read := a.files(t, 200, 0, "")
	due := a.multiply(t, records)

	a.Work()
	a.planMany(t, due)
	bare := a.bareDelete(t, due)
	quiet := a.readFor(t, read, func(ctx context.Context) {
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
	}, measured)

	var s *vault.Sweep
	var took time.Duration
	var busy time.Duration
	before, peak := heapMeanwhile(func() {
		busy = a.readFor(t, read, func(context.Context) {
			began := time.Now()
			s = a.sweep(t, false)
			took = time.Since(began)
		}, true)
	})
	if s.State != vault.SweepCompleted || int(s.Counts.Deleted) != due || s.Counts.Remaining() != 0 {
		t.Fatalf("%s %+v, want %d", s.State, s.Counts, due)
	}
	if n := a.records(); n != 200+records-due {
		t.Errorf("%d records are left", n)
	}
	ratio := bare.Seconds() / took.Seconds()
	t.Logf("%d of %d: bare delete %v, sweep %v (from asking to the report, weighing included): %.2fx, %.0f records/s; reads at 200/s: p99 %v quiet, %v meanwhile (%d); heap %d MB before, at most %d MB",
		due, records, bare, took, ratio, float64(due)/took.Seconds(), quiet, busy, 200, before, peak)
	if measured && ratio < 0.5 {
		t.Errorf("the sweep reaches %.2f of a bare delete, want 0.5", ratio)
	}
	if measured && busy > 2*quiet {
		t.Errorf("p99 of reads is %v meanwhile, more than twice %v", busy, quiet)
	}
}

// multiply makes so many records out of one, behind the vault's back, of which every fifth is due. Their sealed values are the one's: none of them
// opens, and none has to.
func (a *archive) multiply(t *testing.T, records int) (due int) {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, a.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for _, statement := range []string{
		`create table privault.made as select
			(lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid as record_id, at, n % 5 = 0 as due
			from (select n, now() - interval '300 days' + n * interval '1 second' as at from generate_series(1, ` + strconv.Itoa(records) + `) n) s`,
		`insert into privault.records (tenant_id, record_id, collection_id, created_at, updated_at, version, epoch, sealed, due_at)
			select r.tenant_id, m.record_id, r.collection_id, m.at, m.at, 1, 0, r.sealed, m.at + interval '1 year' from privault.made m
			cross join (table privault.records limit 1) r`,
		`insert into keystore.data_keys select k.tenant_id, m.record_id, 1, k.wrapped, m.at from privault.made m cross join (table keystore.data_keys limit 1) k`,
		`update privault.records r set created_at = r.created_at - interval '1 year', due_at = r.due_at - interval '1 year' from privault.made m where m.record_id = r.record_id and m.due`,
		`vacuum analyze privault.records`, `vacuum analyze keystore.data_keys`,
		`create table privault.bare_records (like privault.records including all)`, `insert into privault.bare_records table privault.records`,
		`create table keystore.bare_keys (like keystore.data_keys including all)`, `insert into keystore.bare_keys table keystore.data_keys`,
		`vacuum analyze privault.bare_records`, `vacuum analyze keystore.bare_keys`, `checkpoint`,
	} {
		if _, err := c.Exec(ctx, statement); err != nil {
			t.Fatal(statement, err)
		}
	}
	if err := c.QueryRow(ctx, `select count(*) from privault.made where due`).Scan(&due); err != nil {
		t.Fatal(err)
	}
	return due
}

// heapMeanwhile gives the heap in MiB before something is done, and the most that it was meanwhile.
func heapMeanwhile(do func()) (before, most uint64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most = m.HeapAlloc>>20, m.HeapAlloc>>20
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc>>20)
			}
		}
	}()
	do()
	close(end)
	<-ended
	return before, most
}

// planMany makes a plan over all that is due, whose pages name each record once.
func (a *archive) planMany(t *testing.T, due int) {
	t.Helper()
	began := time.Now()
	var p *vault.RetentionPlan
	var err error
	before, peak := heapMeanwhile(func() {
		if p, err = a.MakePlan(t.Context(), a.who, "files", nil); err == nil {
			a.Until(func() bool {
				p, err = a.GetPlan(t.Context(), a.who, p.ID)
				return err != nil || p.State != vault.PlanMaking
			})
		}
	})
	if err != nil || int(p.Counts.Due) != due || p.Hash == "" {
		t.Fatal(p, err)
	}
	took := time.Since(began)
	listed, cursor := 0, ""
	for {
		items, next, err := a.ListPlanItems(t.Context(), a.who, p.ID, cursor, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if listed += len(items); next == "" {
			break
		}
		cursor = next
	}
	if listed != due {
		t.Errorf("the plan lists %d, want %d", listed, due)
	}
	t.Logf("a plan over %d: %v, heap %d MB before, at most %d MB; listed in %v", due, took, before, peak, time.Since(began)-took)
}

// bareDelete deletes the same rows of the copies, in batches of 10,000.
func (a *archive) bareDelete(t *testing.T, due int) time.Duration {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, a.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	began, gone := time.Now(), 0
	for {
		done, err := c.Exec(ctx, `
			with due as (
				select tenant_id, record_id from privault.bare_records where tenant_id = $1 and coalesce(due_at, expires_at) <= now()
					and collection_id = (select collection_id from privault.collections) and (due_at is not null or expires_at is not null) limit 10000),
			keys as (delete from keystore.bare_keys k using due d where k.tenant_id = d.tenant_id and k.record_id = d.record_id)
			delete from privault.bare_records r using due d where r.tenant_id = d.tenant_id and r.record_id = d.record_id`, a.who.Tenant)
		if err != nil {
			t.Fatal(err)
		}
		if done.RowsAffected() == 0 {
			break
		}
		gone += int(done.RowsAffected())
	}
	if gone != due {
		t.Fatalf("the bare delete took %d of %d", gone, due)
	}
	return time.Since(began)
}

// readFor reads records 200 times a second while do runs, and gives the 99th percentile.
func (a *archive) readFor(t *testing.T, read []vault.Tokenized, do func(context.Context), wait bool) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if !wait {
		cancel()
	}
	ended := make(chan struct{})
	var mu sync.Mutex
	var all []time.Duration
	var reads sync.WaitGroup
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			reads.Go(func() {
				began := time.Now()
				got := a.Reveal(a.who, read[i%len(read)].Tokens["name"])
				took := time.Since(began)
				mu.Lock()
				defer mu.Unlock()
				if all = append(all, took); got != `"Jane Roe"` {
					t.Error("a read gives ", got)
				}
			})
		}
	}()
	do(ctx)
	cancel()
	<-ended
	reads.Wait()
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}
