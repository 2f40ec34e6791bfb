package vault_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// ownKeys are KMS keys that customers brought along, as the settings name them.
type ownKeys struct {
	mu    sync.Mutex
	named map[string]kms.Key
}

func (o *ownKeys) open(_ context.Context, wanted func(string) bool) (kms.Key, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for uri, key := range o.named {
		if wanted(uri) {
			return key, nil
		}
	}
	return nil, nil
}

// add names a key; another one of that URI takes its place.
func (o *ownKeys) add(key kms.Key) kms.Key {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.named[key.URI()] = key
	return key
}

// owned is a vault with a tenant under the deployment's KMS key, and one under his own.
type owned struct {
	*vaulttest.Bench
	keys          *ownKeys
	own           *kmstest.Faulty
	theirs, his   vault.Caller
	token, hisTok string
}

func newOwned(t *testing.T, options ...vaulttest.Option) *owned {
	t.Helper()
	o := &owned{keys: &ownKeys{named: map[string]kms.Key{}}, own: kmstest.NewFaulty(kmstest.Local(t))}
	o.keys.add(o.own)
	o.Bench = vaulttest.New(t, append(options, vaulttest.With(func(c *vault.Config) { c.OpenKMS = o.keys.open }))...)
	o.theirs, o.his = o.Tenant(), o.tenantUnder("his", o.own.URI())
	o.token, o.hisTok = o.store(o.theirs), o.store(o.his)
	return o
}

func (o *owned) tenantUnder(name, uri string) vault.Caller {
	o.T().Helper()
	issued, err := o.CreateTenant(context.Background(), name, []string{"developer"}, uri)
	if err != nil {
		o.T().Fatal(err)
	}
	who, err := o.Authenticate(context.Background(), issued.Key)
	if err != nil {
		o.T().Fatal(err)
	}
	return who
}

func (o *owned) store(who vault.Caller) string {
	o.Collection(who, "people", map[string]string{"name": "string"})
	return o.MustTokenize(who, "people", map[string]string{"name": "Jane"}).Tokens["name"]
}

func (o *owned) reads(t *testing.T, what string, v *vault.Vault, want, hisWant string) {
	t.Helper()
	if got := vaulttest.RevealOn(t, v, o.theirs, o.token); got != want {
		t.Errorf("%s, a tenant under the deployment's key reads %s", what, got)
	}
	if got := vaulttest.RevealOn(t, v, o.his, o.hisTok); got != hisWant {
		t.Errorf("%s, the tenant under his own key reads %s, want %s", what, got, hisWant)
	}
}

func TestOneTenantsKMSKeyIsNoneOfTheOthersBusiness(t *testing.T) {
	t.Parallel()
	o := newOwned(t)
	if o.own.Wraps() != 1 {
		t.Errorf("his key wrapped %d times", o.own.Wraps())
	}
	// Away: the cache's life, as much again, and then 503 for him alone; few calls.
	o.own.SetDown(true)
	o.Advance(keyTTL + time.Minute)
	o.reads(t, "in grace", o.Vault, jane, jane)
	o.Advance(keyTTL)
	calls, others := o.own.Unwraps(), o.KMS.Unwraps()
	for range 10 {
		o.reads(t, "after grace", o.Vault, jane, unavailable)
	}
	if got := o.own.Unwraps() - calls; got != 1 {
		t.Errorf("his key was asked %d times, want once in a pause", got)
	}
	if got := o.KMS.Unwraps() - others; got > 2 {
		t.Errorf("the deployment's key was asked %d times", got)
	}
	if err := o.Ready(t.Context()); err != nil {
		t.Errorf("the replica is not ready: %v", err)
	}
	// The deployment's own key away: he goes on.
	o.own.SetDown(false)
	o.Advance(3 * time.Second)
	o.reads(t, "afterwards", o.Vault, jane, jane)
	o.KMS.SetDown(true)
	cold := o.Advance
	cold(keyTTL * 3 / 2)
	o.reads(t, "with the deployment's key away", o.Vault, jane, jane)
	o.KMS.SetDown(false)
}

func TestAStalledKMSKeyHoldsUpItsTenantOnly(t *testing.T) {
	t.Parallel()
	o := newOwned(t, vaulttest.With(func(c *vault.Config) { c.KMSTimeout = time.Minute }))
	cold := o.Replica()
	release := o.own.Hold()
	defer release()
	var wait sync.WaitGroup
	got := make(chan string, 30)
	for range 30 {
		wait.Go(func() { got <- vaulttest.RevealOn(t, cold, o.his, o.hisTok) })
	}
	await(t, "his key is asked", func() bool { return o.own.Unwraps() > 0 })
	for range 50 {
		if got := vaulttest.RevealOn(t, cold, o.theirs, o.token); got != jane {
			t.Fatalf("the others read %s", got)
		}
	}
	release()
	wait.Wait()
	close(got)
	for answer := range got {
		if answer != jane {
			t.Errorf("he reads %s once his key answers", answer)
		}
	}
}

// A customer who disables his key is taken at his word: no grace, a clear refusal, and back when he enables it.
func TestACustomerDisablesHisKey(t *testing.T) {
	t.Parallel()
	o := newOwned(t)
	o.own.SetDenied(true)
	o.reads(t, "within the cache's life", o.Vault, jane, jane)
	o.Advance(keyTTL + time.Second)
	calls := o.own.Unwraps()
	for range 10 {
		o.reads(t, "disabled", o.Vault, jane, unavailable)
	}
	if got := o.own.Unwraps() - calls; got != 1 {
		t.Errorf("the disabled key was asked %d times, want once in a pause", got)
	}
	_, err := o.Tokenize(t.Context(), o.his, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Joe"})})
	if e := vault.AsError(err); e.Kind != vault.KMSUnavailable || !strings.Contains(e.Detail, "refuses") || strings.Contains(e.Detail, "local:") {
		t.Errorf("he is told %q", e.Detail)
	}
	// Away besides: what was held is gone, not kept for such a day.
	o.own.SetDenied(false)
	o.own.SetDown(true)
	o.Advance(3 * time.Second)
	o.reads(t, "disabled, then away", o.Vault, jane, unavailable)
	o.own.SetDown(false)
	o.Advance(3 * time.Second)
	o.reads(t, "enabled", o.Vault, jane, jane)
}

// What a database says of a KMS key picks one that the settings name, and makes the service call nobody else.
func TestTheDatabaseCannotNameAKMSKey(t *testing.T) {
	t.Parallel()
	o := newOwned(t)
	stored := rows(t, o.KeysURL, `select kms_uri from keystore.tenant_roots where kms_uri <> $1`, o.KMS.URI())
	if len(stored) != 1 || stored[0] != o.own.URI() {
		t.Fatalf("the keystore names %v", stored)
	}
	for uri, want := range map[string]string{
		"hcvault://169.254.169.254/latest/keys/x": unavailable, // nobody: the deployment's key is tried, and isn't it
		o.KMS.URI(): string(vault.IntegrityFailure),
	} {
		o.Exec(`update keystore.tenant_roots set kms_uri = $2 where tenant_id = $1`, o.his.Tenant, uri)
		calls := o.own.Unwraps()
		o.reads(t, "with another URI in the keystore", o.Replica(), jane, want)
		if got := o.own.Unwraps() - calls; got != 0 {
			t.Errorf("his key was asked %d times", got)
		}
	}
	if log := o.Log.String(); strings.Contains(log, "169.254") || strings.Contains(log, o.own.URI()) {
		t.Error("a key's URI stands in the log")
	}
	o.Exec(`update keystore.tenant_roots set kms_uri = $2 where tenant_id = $1`, o.theirs.Tenant, o.own.URI())
	if got := vaulttest.RevealOn(t, o.Replica(), o.theirs, o.token); got != string(vault.IntegrityFailure) {
		t.Errorf("another's key is taken for that of the tenant: %s", got)
	}
	// An older name of the deployment's key is that key.
	o.Exec(`update keystore.tenant_roots set kms_uri = 'local:///elsewhere/kms.keyset' where tenant_id = $1`, o.theirs.Tenant)
	if got := vaulttest.RevealOn(t, o.Replica(), o.theirs, o.token); got != jane {
		t.Errorf("under an older name of the key: %s", got)
	}
	_, err := o.CreateTenant(t.Context(), "foreign", []string{"developer"}, "hcvault://elsewhere.example/transit/keys/x")
	wantKind(t, "a new tenant under a key that the settings don't name", err, vault.Invalid)
	_, _, err = o.MoveRoot(t.Context(), o.his, "hcvault://elsewhere.example/transit/keys/x")
	wantKind(t, "moving to a key that the settings don't name", err, vault.Invalid)
	_, _, err = o.MoveRoot(t.Context(), o.his, "nonsense")
	wantKind(t, "moving to nonsense", err, vault.Invalid)
}

func TestMovingARootKeyToAnotherKMSKey(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwned(t, options...)
			next := kmstest.NewFaulty(kmstest.Local(t))
			o.keys.add(next)
			replica := o.Replica()
			o.reads(t, "before", replica, jane, jane)
			done, moved, err := o.MoveRoot(t.Context(), o.his, next.URI())
			if err != nil || !moved || done.Version != 2 {
				t.Fatalf("got %+v, %t, %v", done, moved, err)
			}
			if k := keyNamed(t, o.Bench, o.his, "root"); k.Version != 2 || k.KMS != kms.Name(next.URI()) {
				t.Errorf("the inventory says %+v", k)
			}
			if k := keyNamed(t, o.Bench, o.theirs, "root"); k.Version != 1 || k.KMS != kms.Name(o.KMS.URI()) {
				t.Errorf("the inventory says of another tenant %+v", k)
			}
			if n := o.Count(`select count(*) from privault.audit_entries where tenant_id = $1 and body::jsonb->'resources'->0->>'kms' = $2`,
				o.his.Tenant, kms.Name(next.URI())); n != 1 {
				t.Errorf("%d audit entries say where the keys went", n)
			}
			if _, moved, err := o.MoveRoot(t.Context(), o.his, next.URI()); err != nil || moved {
				t.Errorf("once more: %t, %v", moved, err)
			}
			// The old key is needed no more, by nobody.
			o.own.SetDenied(true)
			for range 2 {
				o.reads(t, "with the old key gone", o.Vault, jane, jane)
				o.reads(t, "with the old key gone", replica, jane, jane)
				o.reads(t, "with the old key gone", o.Replica(), jane, jane)
				o.Advance(keyTTL + time.Second)
			}
			// A rotation stays with the key that it finds, and he can go back under the deployment's.
			if done, err := o.RotateKey(t.Context(), o.his, "root"); err != nil || done.Version != 3 {
				t.Errorf("got %+v, %v", done, err)
			}
			if k := keyNamed(t, o.Bench, o.his, "root"); k.KMS != kms.Name(next.URI()) {
				t.Errorf("a rotation took the root key to %s", k.KMS)
			}
			if _, moved, err := o.MoveRoot(t.Context(), o.his, ""); err != nil || !moved {
				t.Errorf("back: %t, %v", moved, err)
			}
			next.SetDown(true)
			o.reads(t, "back under the deployment's key", o.Replica(), jane, jane)
		})
	}
}

// wrapsOnly is a key that we may not unwrap with.
type wrapsOnly struct{ kms.Key }

func (wrapsOnly) Unwrap(context.Context, []byte, []byte) ([]byte, error) {
	return nil, fmt.Errorf("%w: no permission", kms.ErrDenied)
}

func TestNothingMovesUnderAKeyThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	o := newOwned(t)
	bad := o.keys.add(wrapsOnly{kmstest.Local(t)})
	before := rows(t, o.KeysURL, `select kms_uri, wrapped from keystore.tenant_roots order by tenant_id`)
	_, _, err := o.MoveRoot(t.Context(), o.his, bad.URI())
	wantKind(t, "moving to a key that only wraps", err, vault.KMSUnavailable)
	_, err = o.CreateTenant(t.Context(), "locked", []string{"developer"}, bad.URI())
	wantKind(t, "a tenant under a key that only wraps", err, vault.KMSUnavailable)
	if after := rows(t, o.KeysURL, `select kms_uri, wrapped from keystore.tenant_roots order by tenant_id`); strings.Join(after, ";") != strings.Join(before, ";") {
		t.Error("a root key has changed")
	}
	o.reads(t, "afterwards", o.Replica(), jane, jane)
}

// The whole deployment goes to another KMS key, broken off in the middle, and taken up again.
func TestMovingTheDeployment(t *testing.T) {
	t.Parallel()
	o := newOwned(t)
	for i := range 4 {
		o.tenantUnder(fmt.Sprintf("more%d", i), "")
	}
	old := o.KMS
	next := &failsAfter{Key: kmstest.Local(t), calls: 5}
	o.keys.add(next)
	moved := 0
	count := func(vault.Caller, vault.Rotation) { moved++ }
	err := o.MoveRoots(t.Context(), next.URI(), count)
	if err == nil || moved != 2 {
		t.Fatalf("moved %d, %v; want 2 of 6 and an error", moved, err)
	}
	next.mend()
	o.reads(t, "half-way", o.Replica(), jane, jane)
	o.Advance(3 * time.Second)
	if err = o.MoveRoots(t.Context(), next.URI(), count); err != nil || moved != 6 {
		t.Fatalf("then moved %d in all, %v; want 6", moved, err)
	}
	if n := o.Count(`select count(*) from keystore.tenant_roots where kms_uri = $1`, next.URI()); n != 6 {
		t.Errorf("%d root keys are there, want those of 5 tenants and the deployment", n)
	}
	old.SetDenied(true)
	o.Config.KMS = next.Key
	o.reads(t, "under the other key", o.Replica(), jane, jane)
}

// failsAfter is a key that is away from some call on.
type failsAfter struct {
	kms.Key
	mu    sync.Mutex
	calls int
}

func (f *failsAfter) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = 1 << 30
}

func (f *failsAfter) spend() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls--; f.calls < 0 {
		return fmt.Errorf("%w: away", kms.ErrUnavailable)
	}
	return nil
}

func (f *failsAfter) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := f.spend(); err != nil {
		return nil, err
	}
	return f.Key.Wrap(ctx, plaintext, ad)
}

func (f *failsAfter) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := f.spend(); err != nil {
		return nil, err
	}
	return f.Key.Unwrap(ctx, wrapped, ad)
}

func TestOneTenantsKMSKeyKeepsNobodyFromBeingRotated(t *testing.T) {
	t.Parallel()
	o := newOwned(t, vaulttest.With(func(c *vault.Config) { c.RotateAfter = 365 * 24 * time.Hour }))
	last := o.tenantUnder("last", "")
	o.Advance(366 * 24 * time.Hour)
	o.own.SetDown(true)
	wantKind(t, "rotating all", o.RotateDue(t.Context()), vault.KMSUnavailable)
	for _, who := range []vault.Caller{o.theirs, last} {
		if k := keyNamed(t, o.Bench, who, "wrap"); k.Version != 2 {
			t.Errorf("a tenant's wrap key has version %d", k.Version)
		}
	}
}
