package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// What cron sees of a database that was touched.
func TestReconcileFromTheCommandLine(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"email": "email"})
	var records []string
	for range 3 {
		records = append(records, v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com"}).Record)
	}
	v.Sequence()
	key := filepath.Join(t.TempDir(), "audit.pub")
	write(t, key, strings.Join(v.Config.AuditKeys.Public(), "\n"))
	args := []string{"audit", "reconcile", "--database-url", v.Config.DataURL, "--key", key, "--copy", v.Config.AuditCopy}
	if got := run1(t, nil, args...).want(t, 0).out; !strings.HasPrefix(got, "3 records of 1 tenants, 3 statements of the log") {
		t.Error(got)
	}
	v.Exec(`create table public.yesterday as table privault.audit_head`)
	v.Exec(`delete from privault.records where record_id = (select max(record_id::text)::uuid from privault.records)`)
	got := run1(t, nil, append(args, "--json")...).want(t, exitFailed).out
	var d vault.Discrepancy
	var sums vault.Reconciled
	lines := strings.SplitN(got, "\n", 2)
	if err := json.Unmarshal([]byte(lines[0]), &d); err != nil || d.Record != records[2] || d.Is != vault.RecordDeleted || d.Logged != 1 {
		t.Errorf("%v in %s", err, got)
	}
	if err := json.Unmarshal([]byte(lines[1]), &sums); err != nil || sums.Discrepancies != 1 || sums.Records != 2 {
		t.Errorf("%v in %s", err, got)
	}
	// A database without the end of its log, which the copy of the checkpoint knows.
	entries := v.Count(`select count(*) from privault.audit_leaves`)
	v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com"})
	v.Sequence()
	v.Exec(`delete from privault.records`)
	v.Exec(`delete from privault.audit_entries where (tenant_id, entry_id) in (select tenant_id, entry_id from privault.audit_leaves where leaf_index >= $1)`, entries)
	v.Exec(`delete from privault.audit_leaves where leaf_index >= $1`, entries)
	v.Exec(`delete from privault.audit_head`)
	v.Exec(`insert into privault.audit_head table public.yesterday`)
	if got := run1(t, nil, args...).want(t, exitFailed).err; !strings.Contains(got, "set back") {
		t.Error(got)
	}
	run1(t, nil, "audit", "reconcile", "--database-url", "postgres://127.0.0.1:1/x", "--key", key).want(t, exitTryAgain)
	run1(t, nil, "audit", "reconcile", "--key", key).want(t, exitConfig)
}
