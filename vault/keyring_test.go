package vault_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

const keyTTL = 300 * time.Second // the default

// warmed is a vault with one stored value, and its tenant's keys at hand.
type warmed struct {
	*vaulttest.Bench
	who     vault.Caller
	record  vault.Tokenized
	unwraps int
}

func newWarmed(t *testing.T, options ...vaulttest.Option) *warmed {
	t.Helper()
	w := &warmed{Bench: vaulttest.New(t, options...)}
	w.who = w.Tenant()
	w.Collection(w.who, "people", map[string]string{"name": "string"})
	w.record = w.MustTokenize(w.who, "people", map[string]string{"name": "Jane"})
	w.unwraps = w.KMS.Unwraps()
	return w
}

func (w *warmed) read(t *testing.T, want string) {
	t.Helper()
	if got := w.Reveal(w.who, w.record.Tokens["name"]); got != want {
		t.Errorf("the token gives %s, want %s", got, want)
	}
}

// called is how many calls of the KMS there were since the last look.
func (w *warmed) called() int {
	n := w.KMS.Unwraps() - w.unwraps
	w.unwraps += n
	return n
}

const (
	jane        = `"Jane"`
	unavailable = string(vault.KMSUnavailable)
)

func TestTenantOfAnEarlierVersionGetsTheKeysetsItLacks(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	keysets := w.Count(`select count(*) from keystore.tenant_keys where tenant_id = $1`, w.who.Tenant)
	w.Exec(`delete from keystore.tenant_keys where tenant_id = $1 and name in ('index', 'fpe')`, w.who.Tenant)
	w.Vault = w.Replica() // with nothing in memory
	w.read(t, jane)
	if got := w.Count(`select count(*) from keystore.tenant_keys where tenant_id = $1`, w.who.Tenant); got != keysets {
		t.Errorf("the tenant has %d keysets, want %d", got, keysets)
	}
	w.Exec(`delete from keystore.tenant_keys where tenant_id = $1 and name = 'wrap'`, w.who.Tenant)
	w.Vault = w.Replica()
	w.read(t, string(vault.IntegrityFailure)) // a new one would open nothing
}

func TestKMSCallsGoWithTenantsNotRecords(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	wraps, unwraps := v.KMS.Wraps(), v.KMS.Unwraps()
	for range 10 {
		who := v.Tenant()
		v.Collection(who, "people", map[string]string{"name": "string"})
		for range 10 {
			done := v.MustTokenize(who, "people", map[string]string{"name": "Jane"})
			if got := v.Reveal(who, done.Tokens["name"]); got != jane {
				t.Errorf("the token gives %s", got)
			}
			if _, err := v.PatchRecord(t.Context(), who, "people", done.Record, vault.Patch{
				Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}, IfVersion: 1}); err != nil {
				t.Error(err)
			}
		}
	}
	if got := v.KMS.Wraps() - wraps; got != 10 {
		t.Errorf("10 new tenants took %d wraps, want 10", got)
	}
	if got := v.KMS.Unwraps() - unwraps; got != 10 {
		t.Errorf("10 tenants with 100 records took %d unwraps, want 10", got)
	}
}

func TestKeysAreRefreshedAheadBesideTheRequest(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	w.Advance(keyTTL*4/5 - time.Minute)
	w.read(t, jane)
	if got := w.called(); got != 0 {
		t.Errorf("%d calls of the KMS while the keys are fresh", got)
	}
	// A request near the end has what it needs: it doesn't wait for the KMS.
	release := w.KMS.Hold()
	defer release()
	w.Advance(90 * time.Second)
	w.read(t, jane)
	await(t, "the keys are fetched ahead", func() bool { return w.KMS.Unwraps() == w.unwraps+1 })
	release()
	// Past their end the old keys would cost a call: the new ones are there, or on their way.
	w.Advance(time.Minute)
	w.read(t, jane)
	if got := w.called(); got != 1 {
		t.Errorf("%d calls of the KMS for one refresh", got)
	}
}

func TestKeysAreFetchedOnceForManyWaiting(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	registry := prometheus.NewRegistry()
	w.Config.Metrics = registry
	cold := w.Replica()
	w.called()
	misses := func() float64 { return counter(t, registry, "privault_keyring_misses_total") }
	before := misses()
	release := w.KMS.Hold()
	var wait sync.WaitGroup
	answers := make(chan string, 20)
	for range 20 {
		wait.Go(func() { answers <- vaulttest.RevealOn(t, cold, w.who, w.record.Tokens["name"]) })
	}
	// One whose caller goes away takes the flight from nobody.
	gone, leave := context.WithCancel(t.Context())
	wait.Go(func() {
		_, err := cold.GetRecord(gone, w.who, "people", w.record.Record, nil, "plain")
		wantKind(t, "a caller who went away", err, vault.Cancelled)
	})
	await(t, "all wait for the keys", func() bool { return misses() == before+21 })
	leave()
	release()
	wait.Wait()
	close(answers)
	for got := range answers {
		if got != jane {
			t.Errorf("a waiting reader got %s", got)
		}
	}
	if got := w.called(); got != 1 {
		t.Errorf("%d calls of the KMS for 21 that waited together", got)
	}
}

func counter(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no metric ", name)
	return 0
}

// P-7: an outage of the KMS is invisible for the rest of the keys' life and one life more, and ends without a restart.
func TestKMSOutage(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	w.KMS.SetDown(true)
	w.Advance(keyTTL - time.Minute)
	w.read(t, jane)
	w.Advance(2 * time.Minute) // the keys' life is over: grace
	w.read(t, jane)
	if _, err := w.Tokenize(t.Context(), w.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Joe"})}); err != nil {
		t.Errorf("tokenize in the time of grace: %v", err)
	}
	w.Advance(keyTTL)
	w.read(t, unavailable)
	_, err := w.Tokenize(t.Context(), w.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Joe"})})
	if wantKind(t, "tokenize", err, vault.KMSUnavailable); vault.AsError(err).RetryAfter == 0 {
		t.Error("kms-unavailable doesn't say when to come back")
	}
	_, err = w.PatchRecord(t.Context(), w.who, "people", w.record.Record, vault.Patch{Remove: []string{"name"}, IfVersion: 1})
	wantKind(t, "patch", err, vault.KMSUnavailable)
	_, err = w.IssueKey(t.Context(), w.who, "prn_0000000000000000000001", vault.KeyTerms{})
	wantKind(t, "a new API key", err, vault.KMSUnavailable)
	_, _, err = w.ListCollections(t.Context(), w.who, "", 10)
	wantKind(t, "a list", err, vault.KMSUnavailable)
	if got := w.Count(`select count(*) from privault.audit_entries where outcome = 'failed' and body::jsonb->>'problem' = 'kms-unavailable'`); got != 5 {
		t.Errorf("%d entries, want one for each of five operations that failed", got)
	}
	_, err = w.CreateTenant(t.Context(), "fresh", []string{"admin"}, "")
	wantKind(t, "a new tenant", err, vault.KMSUnavailable)
	wantKind(t, "readiness", w.Ready(t.Context()), vault.KMSUnavailable)
	// What needs no key goes on.
	if _, err := w.GetCollection(t.Context(), w.who, "people"); err != nil {
		t.Errorf("reading a collection: %v", err)
	}
	w.KMS.SetDown(false)
	w.Advance(3 * time.Second) // past the pause
	w.read(t, jane)
	if err := w.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// After a failed call the KMS is left alone for two seconds, by all tenants and callers.
func TestKMSIsLeftAloneAfterAFailure(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	w.KMS.SetDown(true)
	w.Advance(2*keyTTL + time.Second)
	w.called()
	for range 10 {
		w.read(t, unavailable)
	}
	if got := w.called(); got != 1 {
		t.Errorf("%d calls of a KMS that is down, want 1", got)
	}
	w.Advance(2100 * time.Millisecond)
	w.read(t, unavailable)
	if got := w.called(); got != 1 {
		t.Errorf("%d calls once the pause was over, want 1", got)
	}
}

func TestSlowKMSIsAnOutage(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, vaulttest.With(func(c *vault.Config) { c.KMSTimeout = 20 * time.Millisecond }))
	release := w.KMS.Hold()
	defer release()
	w.Advance(keyTTL + time.Second)
	w.read(t, jane)
	w.Advance(keyTTL)
	w.read(t, unavailable)
	release()
	w.Advance(3 * time.Second)
	w.read(t, jane)
}

// A KMS that refuses its key means it: no time of grace.
func TestDeniedKeyStopsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	w.KMS.SetDenied(true)
	w.read(t, jane) // nothing has asked the KMS yet
	w.Advance(keyTTL + time.Second)
	w.read(t, unavailable)
	// Down besides: the keys that were held are gone, not kept for such a day.
	w.KMS.SetDenied(false)
	w.KMS.SetDown(true)
	w.read(t, unavailable)
	w.KMS.SetDown(false)
	w.Advance(3 * time.Second)
	w.read(t, jane)
}

func TestVaultDoesNotOpenWithoutItsKMS(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	w.KMS.SetDown(true)
	v, err := vault.Open(t.Context(), w.Config)
	wantKind(t, "opening while the KMS is down", err, vault.KMSUnavailable)
	if v != nil {
		t.Error("there is a vault nevertheless")
	}
	w.KMS.SetDown(false)
	other := w.Config
	other.KMS = vaulttest.New(t).KMS
	_, err = vault.Open(t.Context(), other)
	wantKind(t, "opening with another KMS key", err, vault.KMSUnavailable) // damaged it is not: the settings name another key
}

// Replicas that start together on an empty deployment agree on its keys.
func TestFirstStartOfManyReplicas(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	b.Exec(`delete from keystore.tenant_keys`)
	b.Exec(`delete from keystore.tenant_roots`)
	var wait sync.WaitGroup
	vaults := make([]*vault.Vault, 8)
	for i := range vaults {
		wait.Go(func() {
			v, err := vault.Open(t.Context(), b.Config)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(v.Close)
			vaults[i] = v
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	issued, err := vaults[0].CreateTenant(t.Context(), "first", []string{"developer"}, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vaults {
		if _, err := v.Authenticate(t.Context(), issued.Key); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
	}
}

// The whole life of a record with the keystore in a database of its own: each of the two holds only its part.
func TestKeystoreApart(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, vaulttest.Apart)
	ctx := t.Context()
	keys := func(where string) int {
		return vaulttest.CountURL(t, w.KeysURL, `select count(*) from keystore.data_keys `+where)
	}
	if got := []int{keys(""), w.Count(`select count(*) from privault.records`), w.Count(`select count(*) from keystore.data_keys`),
		vaulttest.CountURL(t, w.KeysURL, `select count(*) from privault.records`)}; !cmp.Equal(got, []int{1, 1, 0, 0}) {
		t.Errorf("keys, records, keys beside the data, records beside the keys: %v", got)
	}
	rec, err := w.PatchRecord(ctx, w.who, "people", w.record.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
	if err != nil || rec.Version != 2 {
		t.Fatal(rec, err)
	}
	w.read(t, `"Ann"`)
	if keys("where version = 1") != 0 || keys("where version = 2") != 1 {
		t.Error("the replaced DEK is there, or the new one isn't")
	}
	got, err := w.GetRecord(ctx, w.who, "people", w.record.Record, nil, "plain")
	if err != nil || string(got.Fields["name"].Reveal()) != `"Ann"` {
		t.Errorf("the record: %v, %v", got, err)
	}
	if err := w.DeleteRecord(ctx, w.who, "people", w.record.Record, 2); err != nil {
		t.Error(err)
	}
	w.read(t, string(vault.TokenNotFound))
	if keys("") != 0 || w.Count(`select count(*) from privault.records`) != 0 {
		t.Error("a deleted record left its row or its key")
	}
	if err := w.DeleteCollection(ctx, w.who, "people", 0); err != nil {
		t.Error(err)
	}
}

// What a crash between the two commits leaves behind costs nothing that was acknowledged.
func TestCrashBetweenTheTwoCommits(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, vaulttest.Apart)
	ctx := t.Context()
	id := vault.RecordID(w.record.Record)
	orphan := func(record [16]byte, version int) {
		vaulttest.ExecURL(t, w.KeysURL, `insert into keystore.data_keys (tenant_id, record_id, version, wrapped, created_at)
			select tenant_id, $2, $3, wrapped, created_at from keystore.data_keys where record_id = $1 and version = 1`, id, record, version)
	}
	// Of a tokenize: a key without a record. Of a change: a key of the version that never came.
	orphan([16]byte{15: 1}, 1)
	orphan(id, 2)
	w.read(t, jane)
	rec, err := w.PatchRecord(ctx, w.who, "people", w.record.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
	if err != nil || rec.Version != 2 {
		t.Fatal(rec, err)
	}
	w.read(t, `"Ann"`)
	// Of a delete: a record that is shredded already. It is gone for every reader, and may be deleted again.
	vaulttest.ExecURL(t, w.KeysURL, `delete from keystore.data_keys where record_id = $1`, id)
	w.read(t, string(vault.TokenNotFound))
	_, err = w.GetRecord(ctx, w.who, "people", w.record.Record, nil, "plain")
	wantKind(t, "reading a shredded record", err, vault.NotFound)
	_, err = w.PatchRecord(ctx, w.who, "people", w.record.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Eve"`)}, IfVersion: 2})
	wantKind(t, "changing a shredded record", err, vault.NotFound)
	if err := w.DeleteRecord(ctx, w.who, "people", w.record.Record, 0); err != nil {
		t.Errorf("deleting a shredded record: %v", err)
	}
	if err := w.DeleteCollection(ctx, w.who, "people", 0); err != nil {
		t.Errorf("deleting the collection then: %v", err)
	}
}

// P-3 with two databases: whichever of the two fails, no value is lost that was acknowledged and none is half there.
func TestEveryStatementMayFailAloneApart(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, vaulttest.Apart)
	ctx := t.Context()
	change := func(name string) error {
		_, err := w.PatchRecord(ctx, w.who, "people", w.record.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(name)}, IfVersion: 1})
		return err
	}
	for table, url := range map[string]string{"privault.records": w.OwnerURL, "privault.audit_entries": w.OwnerURL, "keystore.data_keys": w.KeysURL} {
		want := vault.Internal
		if table == "privault.audit_entries" {
			want = vault.AuditUnavailable
		}
		vaulttest.ExecURL(t, url, raises(table))
		wantKind(t, "a change with a broken "+table, change(`"Eve"`), want)
		_, err := w.Tokenize(ctx, w.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Eve"})})
		wantKind(t, "a tokenize with a broken "+table, err, want)
		if table != "privault.audit_entries" {
			w.read(t, jane)
		}
		vaulttest.ExecURL(t, url, `drop trigger broken on `+table)
		w.read(t, jane)
		if got := w.Count(`select count(*) from privault.records`); got != 1 {
			t.Errorf("%d records with a broken %s", got, table)
		}
	}
	if err := change(`"Ann"`); err != nil {
		t.Errorf("a change once all is whole: %v", err)
	}
	w.read(t, `"Ann"`)
}
