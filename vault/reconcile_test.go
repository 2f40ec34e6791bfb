package vault_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// differing are the records that aren't as the log says.
func differing(t testing.TB, v *vaulttest.Bench) (list []string, sums vault.Reconciled) {
	t.Helper()
	sums, err := vault.Reconcile(t.Context(), v.Config.DataURL, v.Config.AuditKeys, func(d vault.Discrepancy) error {
		list = append(list, fmt.Sprintf("%s %s %d %d", d.Record, d.Is, d.Version, d.Logged))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list, sums
}

// Whatever the service does to records, it says so in the log: nothing differs after every operation that there is.
func TestTheServiceNeverDiffersFromItsLog(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, op := range operations() {
		_ = op.fail(s, s.who)
		_ = op.do(s, vaulttest.As(s.who, "nobody"))
		_ = op.do(s, s.who)
	}
	s.Sequence()
	list, sums := differing(t, s.Bench)
	if len(list) > 0 {
		t.Errorf("differing: %q", list)
	}
	if n := s.Count(`select count(*) from privault.records`); int64(n) != sums.Records || n == 0 || sums.Statements < sums.Records {
		t.Errorf("%d records: %+v", n, sums)
	}
}

// unnamed stores so many records and gives their ids.
func unnamed(t testing.TB, v *vaulttest.Bench, who vault.Caller, n int) (ids []string) {
	t.Helper()
	for len(ids) < n {
		var items []vault.NewRecord
		for range min(n-len(ids), vault.MaxItems) {
			items = append(items, vaulttest.Item(map[string]string{"name": "Jane Roe"}))
		}
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range done {
			ids = append(ids, d.Record)
		}
	}
	return ids
}

// uuidOf is a record's id as it stands in its row.
func uuidOf(t testing.TB, v *vaulttest.Bench, who vault.Caller, record string) string {
	t.Helper()
	all := rows(t, v.OwnerURL, `select record_id::text from privault.records where tenant_id = $1 order by record_id`, who.Tenant)
	said := rows(t, v.OwnerURL, `select r from privault.audit_entries e, json_array_elements(e.body::json->'resources') i, json_array_elements_text(i->'records') r
		where e.tenant_id = $1 and e.action = 'tokenize' order by r collate "C"`, who.Tenant)
	for i := range said {
		if said[i] == record {
			return all[i]
		}
	}
	t.Fatal("there is no record ", record)
	return ""
}

// Each kind of change behind the service's back is seen, and the right record is named, and no other.
func TestWhatChangesBehindTheServicesBackIsNamed(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who, other := v.Tenant(), v.Tenant()
	for _, w := range []vault.Caller{who, other} {
		v.Collection(w, "people", map[string]string{"name": "string"})
		v.Collection(w, "others", map[string]string{"name": "string"})
	}
	ids := unnamed(t, v, who, 2500)
	unnamed(t, v, other, 30)
	id := map[string]string{}
	for i, name := range []string{"rolled back", "deleted", "restored", "sealed", "swapped", "expiry", "moved", "version", "epoch"} {
		id[name] = ids[i*300+7]
	}
	row := func(name string) string { return uuidOf(t, v, who, id[name]) }
	at := map[string]string{}
	for name := range id {
		at[name] = row(name)
	}
	v.Exec(`create table public.yesterday as table privault.records`)
	if _, err := v.PatchRecord(t.Context(), who, "people", id["rolled back"], vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1}); err != nil {
		t.Fatal(err)
	}
	if err := v.DeleteRecord(t.Context(), who, "people", id["restored"], 0); err != nil {
		t.Fatal(err)
	}
	v.Sequence()
	if list, sums := differing(t, v); len(list) > 0 || sums.Records != 2529 || sums.Tenants != 2 || sums.Unattested != 0 {
		t.Fatalf("before anything was done: %q %+v", list, sums)
	}
	fresh := "01890000-0000-7000-8000-000000000001"
	undo := `delete from privault.records; insert into privault.records table public.today`
	v.Exec(`create table public.today as table privault.records`)
	for _, row := range []struct{ statement, record, is string }{
		{`update privault.records r set version = y.version, sealed = y.sealed from public.yesterday y where r.record_id = $1::text::uuid and y.record_id = r.record_id`, "rolled back", "rolled-back 1 2"},
		{`delete from privault.records where record_id = $1::text::uuid`, "deleted", "deleted 0 1"},
		{`insert into privault.records select * from public.yesterday where record_id = $1::text::uuid`, "restored", "restored 1 1"},
		{`update privault.records set sealed = set_byte(sealed, 20, 255 - get_byte(sealed, 20)) where record_id = $1::text::uuid`, "sealed", "changed 1 1"},
		{`update privault.records r set sealed = (select sealed from privault.records o where o.tenant_id = r.tenant_id and o.record_id <> r.record_id limit 1) where record_id = $1::text::uuid`, "swapped", "changed 1 1"},
		{`update privault.records set expires_at = now() + interval '10 years' where record_id = $1::text::uuid`, "expiry", "changed 1 1"},
		{`update privault.records r set collection_id = (select c.collection_id from privault.collections c where c.tenant_id = r.tenant_id and c.name = 'others') where record_id = $1::text::uuid`, "moved", "changed 1 1"},
		{`update privault.records set version = 3 where record_id = $1::text::uuid`, "version", "changed 3 1"},
		{`update privault.records set epoch = 1 where record_id = $1::text::uuid`, "epoch", "changed 1 1"}, // brings revoked tokens back
	} {
		v.Exec(row.statement, at[row.record])
		list, _ := differing(t, v)
		if diff := cmp.Diff([]string{id[row.record] + " " + row.is}, list); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.record, diff)
		}
		v.Exec(undo)
	}
	v.Exec(`insert into privault.records (tenant_id, record_id, collection_id, version, epoch, sealed, created_at, updated_at)
		select tenant_id, $1::text::uuid, collection_id, version, epoch, sealed, created_at, updated_at from privault.records limit 1`, fresh)
	if list, sums := differing(t, v); len(list) != 1 || sums.Discrepancies != 1 {
		t.Errorf("one was inserted: %q %+v", list, sums)
	}
	v.Exec(undo)
	// All at once, and a tenant's last one too.
	v.Exec(`delete from privault.records where tenant_id = $1`, other.Tenant)
	if list, _ := differing(t, v); len(list) != 30 {
		t.Errorf("30 were deleted: %d", len(list))
	}
	v.Exec(undo)
	if list, _ := differing(t, v); len(list) > 0 {
		t.Errorf("the test itself broke something: %q", list)
	}
}

// PRIVAULT_RECONCILE_RECORDS=1000000 measures it.
func TestReconcileMany(t *testing.T) {
	n := 3000
	if text, set := os.LookupEnv("PRIVAULT_RECONCILE_RECORDS"); set {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1000 || n > 10_000_000 {
			t.Fatal("PRIVAULT_RECONCILE_RECORDS is 1000 to 10000000")
		}
	} else {
		t.Parallel()
	}
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	unnamed(t, v, who, n)
	v.Sequence()
	v.Exec(`update privault.records set epoch = 1 where record_id = (select max(record_id::text)::uuid from privault.records)`)
	begun := time.Now()
	list, sums := differing(t, v)
	t.Logf("%d records reconciled in %s", sums.Records, time.Since(begun).Round(time.Millisecond))
	if len(list) != 1 || sums.Records != int64(n) {
		t.Errorf("%d records, differing: %q", sums.Records, list)
	}
}

// Somebody who changes the log as well, to make it fit, is noticed: it is held against its tree first.
func TestReconcileTrustsNoEntryThatTheTreeDoesNotHave(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	unnamed(t, v, who, 10)
	if list, sums := differing(t, v); len(list) > 0 || sums.Size != 0 || sums.Records != 10 {
		t.Errorf("before there is a tree: %q %+v", list, sums)
	}
	v.Sequence()
	v.Exec(`delete from privault.records`)
	v.Exec(`update privault.audit_entries set body = replace(body, '"sealed":[', '"seal_ed":[')`)
	_, err := vault.Reconcile(t.Context(), v.Config.DataURL, v.Config.AuditKeys, func(vault.Discrepancy) error { return nil })
	if vault.AsError(err).Kind != vault.IntegrityFailure {
		t.Errorf("entries that were changed: %v", err)
	}
}

// A person's records go with their purge, which says which they were; records from before the log's first month are counted
// and not judged.
func TestReconcileKnowsErasuresAndTheLogsBeginning(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Work()
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	item := vaulttest.Item(map[string]string{"name": "Jane"})
	item.Subject = "person-1"
	if _, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: slices.Repeat([]vault.NewRecord{item}, 700)}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.EraseSubject(t.Context(), who, "person-1", "gdpr-17", false); err != nil {
		t.Fatal(err)
	}
	v.Until(func() bool { return v.Count(`select count(*) from privault.records`) == 0 })
	unnamed(t, v, who, 5)
	v.Sequence()
	if list, _ := differing(t, v); len(list) > 0 {
		t.Errorf("after an erasure: %q", list)
	}
	// The month is dropped. What is changed afterwards is judged again.
	month := time.Now().UTC().Format("2006_01")
	v.Exec(`drop table privault.audit_entries_` + month)
	list, sums := differing(t, v)
	if len(list) > 0 || sums.Unattested != 5 {
		t.Errorf("of a month that was dropped: %q %+v", list, sums)
	}
}
