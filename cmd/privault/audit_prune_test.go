package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privault/privault/vault/vaulttest"
)

// The owner, who is nothing else, drops months that are over; the log verifies as before; holds keep what they need.
func TestMonthsOfEntriesAreDroppedAndTheLogStaysWhole(t *testing.T) {
	t.Parallel()
	i := newInstallation(t, false)
	i.migrate(t)
	run1(t, i.serving(t), "keys", "create").want(t, 0)
	printedKey(t, run1(t, i.serving(t), "tenant", "create", "acme").want(t, 0))
	var months []string
	for n := 18; n > 12; n-- {
		month := time.Now().UTC().AddDate(0, 0, 1-time.Now().UTC().Day()).AddDate(0, -n, 0)
		name := month.Format("2006_01")
		months = append(months, name)
		for _, parent := range []string{"audit_entries", "disclosures"} {
			vaulttest.ExecURL(t, as(t, i.data, i.migrator), fmt.Sprintf(`do $$ begin
				execute format('create table privault.%[1]s_%[2]s partition of privault.%[1]s for values from (%%L) to (%%L)',
					privault.first_id('%[3]s'), privault.first_id('%[3]s'::timestamptz + interval '1 month'));
				alter table privault.%[1]s_%[2]s enable row level security; alter table privault.%[1]s_%[2]s force row level security;
			end $$`, parent, name, month.Format("2006-01-02 00:00:00Z")))
		}
		vaulttest.ExecURL(t, i.data, `
			with made as (
				insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
				select t.tenant_id, overlay(privault.first_id($1::text::timestamptz + interval '1 day')::text placing right(gen_random_uuid()::text, 22) from 15)::uuid, now(), t.tenant_id, 'made', 'ok', '{}'
				from privault.tenants t, generate_series(1, 100) returning tenant_id, entry_id)
			insert into privault.disclosures (tenant_id, subject_id, entry_id, record_id)
			select tenant_id, $2::text::uuid, entry_id, entry_id from made limit 1`,
			month.Format("2006-01-02 00:00:00Z"), fmt.Sprintf("00000000-0000-0000-0000-0000000000%02d", n))
	}
	s := startServe(t, i.serving(t)...)
	log, key := "http://"+s.public+"/audit", auditKey(i.kms)+".pub"
	whole := func() {
		t.Helper()
		run1(t, nil, "audit", "verify", log, "--key", key).want(t, 0)
	}
	left := func() int {
		return vaulttest.CountURL(t, i.data, `select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
			where i.inhparent in ('privault.audit_entries'::regclass, 'privault.disclosures'::regclass) and right(c.relname, 7) < to_char(now(), 'YYYY_MM')`)
	}
	prune := func(args ...string) string {
		t.Helper()
		return run1(t, i.migrating(t), append([]string{"audit", "prune"}, args...)...).want(t, 0).out
	}
	// Nothing goes that the tree doesn't have.
	vaulttest.ExecURL(t, i.data, `insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body, xid)
		select t.tenant_id, privault.first_id(date_trunc('month', now()) - interval '18 months' + interval '2 days'), now(), t.tenant_id, 'made', 'ok', '{}', '9999999999' from privault.tenants t`)
	eventually(t, "the log has the old entries", func() bool {
		return vaulttest.CountURL(t, i.data, `select count(*) from privault.audit_leaves`) >= 600
	})
	if f := run1(t, i.migrating(t), "audit", "prune").want(t, exitFailed); !strings.Contains(f.err, "tree doesn't have") {
		t.Error(f.err)
	}
	vaulttest.ExecURL(t, i.data, `delete from privault.audit_entries where xid = '9999999999'`)
	whole()
	// A person is held: the month in which something was done with their records stays, and those after it.
	vaulttest.ExecURL(t, i.data, `insert into privault.holds (tenant_id, hold_id, matter, reason, subject_id, reference, created_at)
		select tenant_id, gen_random_uuid(), 'case-7', 'litigation', '00000000-0000-0000-0000-000000000016', 'x', now() from privault.tenants`)
	want := fmt.Sprintf("%s would be dropped\n%s would be dropped\n%s stays: a legal hold keeps it, and what came later with it\n", months[0], months[1], months[2])
	if got := prune("--dry-run"); got != want || left() != 12 {
		t.Errorf("dry: %s (%d tables)", got, left())
	}
	if got := prune(); got != strings.ReplaceAll(want, "would be ", "") || left() != 8 {
		t.Errorf("with a hold: %s (%d tables)", got, left())
	}
	whole()
	// A hold that is on no person keeps all that the tenant did.
	vaulttest.ExecURL(t, i.data, `update privault.holds set subject_id = null, reference = null, collection_id = gen_random_uuid()`)
	if got := prune(); !strings.HasPrefix(got, months[2]+" stays") {
		t.Error(got)
	}
	vaulttest.ExecURL(t, i.data, `update privault.holds set released_at = now()`)
	prune("--keep", "10500h") // between 14 and 15 months
	if n := left(); n >= 8 || n == 0 {
		t.Errorf("%d tables are left of 8", n)
	}
	prune()
	whole()
	if n := vaulttest.CountURL(t, i.data, `select count(*) from privault.audit_entries where action = 'audit.prune'`); n != 3 {
		t.Errorf("%d entries say what was dropped, want 3", n)
	}
	// The service itself can't, and nobody drops by accident what is young.
	if f := run1(t, []string{"PRIVAULT_MIGRATE_DATABASE_URL=" + as(t, i.data, i.writer)}, "audit", "prune").want(t, exitFailed); !strings.Contains(f.err, "42501") {
		t.Error(f.err)
	}
	run1(t, i.migrating(t), "audit", "prune", "--keep", "24h").want(t, exitConfig)
}
