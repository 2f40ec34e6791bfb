package vault_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// people stores records and gives a token of each.
func people(b *vaulttest.Bench, who vault.Caller, n int) []string {
	b.T().Helper()
	batch := vault.Batch{Collection: "people"}
	for i := range n {
		batch.Items = append(batch.Items, vaulttest.Item(map[string]string{"name": "person " + strconv.Itoa(i)}))
	}
	done, err := b.Tokenize(context.Background(), who, batch)
	if err != nil {
		b.T().Fatal(err)
	}
	tokens := make([]string, n)
	for i, d := range done {
		tokens[i] = d.Tokens["name"]
	}
	return tokens
}

func keyNamed(t *testing.T, b *vaulttest.Bench, who vault.Caller, name string) vault.KeyInfo {
	t.Helper()
	all, err := b.Keys(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		if k.Name == name {
			return k
		}
	}
	t.Fatalf("no key %s", name)
	return vault.KeyInfo{}
}

func revealAll(t *testing.T, v *vault.Vault, who vault.Caller, tokens []string) {
	t.Helper()
	for i, token := range tokens {
		if got, want := vaulttest.RevealOn(t, v, who, token), `"person `+strconv.Itoa(i)+`"`; got != want {
			t.Fatalf("token %d reveals %s", i, got)
		}
	}
}

func TestRotatingWrapBringsEveryDataKeyUnderTheNewKey(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := vaulttest.New(t, options...)
			who, other := b.Tenant(), b.Tenant()
			b.Collection(who, "people", map[string]string{"name": "string"})
			b.Collection(other, "people", map[string]string{"name": "string"})
			tokens, foreign := people(b, who, 1000), people(b, other, 3)
			before := rows(t, b.OwnerURL, `select record_id, version, updated_at, sealed from privault.records order by 1`)
			b.Work()
			done, err := b.RotateKey(t.Context(), who, "wrap")
			if err != nil || done.Version != 2 || done.Job == "" {
				t.Fatalf("got %+v, %v", done, err)
			}
			if j := b.Finish(who, done.Job); j.State != "completed" || j.Done != 1000 || *j.Total != 1000 {
				t.Errorf("got %+v", j)
			}
			k := keyNamed(t, b, who, "wrap")
			if k.Version != 2 || len(k.Versions) != 2 || *k.Versions[0].Uses != 0 || k.Versions[0].State != "active" || *k.Uses != 1000 {
				t.Errorf("got %+v", k)
			}
			revealAll(t, b.Vault, who, tokens[:20])
			revealAll(t, b.Vault, other, foreign)
			if n := *keyNamed(t, b, other, "wrap").Uses; n != 3 {
				t.Errorf("another tenant's keys have changed: %d", n)
			}
			after := rows(t, b.OwnerURL, `select record_id, version, updated_at, sealed from privault.records order by 1`)
			for i := range before {
				if before[i] != after[i] {
					t.Fatal("a record has changed")
				}
			}
		})
	}
}

// A replica that knows nothing of a rotation reads what was made under the new keys, with the KMS down.
func TestAReplicaMeetsKeysThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string"})
	old := people(b, who, 1)
	replica := b.Replica()
	revealAll(t, replica, who, old)
	for _, name := range []string{"wrap", "token"} {
		if _, err := b.RotateKey(t.Context(), who, name); err != nil {
			t.Fatal(err)
		}
	}
	fresh := people(b, who, 1)
	if fresh[0][5:12] == old[0][5:12] {
		t.Error("a new token has the old key's id")
	}
	calls := b.KMS.Unwraps()
	b.KMS.SetDown(true)
	revealAll(t, replica, who, fresh)
	revealAll(t, replica, who, old)
	if n := b.KMS.Unwraps() - calls; n != 0 {
		t.Errorf("%d calls of the KMS", n)
	}
}

func TestAReplicaFollowsANewRootKey(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string"})
	old := people(b, who, 1)
	replica := b.Replica()
	revealAll(t, replica, who, old)
	before := rows(t, b.KeysURL, `select wrapped from keystore.tenant_roots order by tenant_id desc limit 1`)
	done, err := b.RotateKey(t.Context(), who, "root")
	if err != nil || done.Version != 2 || done.Job != "" {
		t.Fatalf("got %+v, %v", done, err)
	}
	if after := rows(t, b.KeysURL, `select wrapped from keystore.tenant_roots order by tenant_id desc limit 1`); after[0] == before[0] {
		t.Error("the root key is the old one")
	}
	revealAll(t, b.Vault, who, old)
	if _, err := b.RotateKey(t.Context(), who, "wrap"); err != nil {
		t.Fatal(err)
	}
	if k := keyNamed(t, b, who, "root"); k.Version != 2 {
		t.Errorf("got %+v", k)
	}
	revealAll(t, replica, who, people(b, who, 1))
	revealAll(t, b.Replica(), who, old)
}

func TestTwoRotationsAtOnceLoseNoKey(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string"})
	replicas := []*vault.Vault{b.Vault, b.Replica(), b.Replica()}
	tokens := people(b, who, 1)
	var wait sync.WaitGroup
	var mu sync.Mutex
	rotated := 0
	for i := range 12 {
		wait.Go(func() {
			name := []string{"wrap", "root"}[i/6]
			_, err := replicas[i%3].RotateKey(t.Context(), who, name)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				rotated++
			case vault.AsError(err).Kind != vault.Conflict:
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wait.Wait()
	if rotated == 0 {
		t.Fatal("none was rotated")
	}
	wrap, root := keyNamed(t, b, who, "wrap"), keyNamed(t, b, who, "root")
	if n := wrap.Version + root.Version - 2; n != rotated {
		t.Errorf("%d rotations are there, %d were answered", n, rotated)
	}
	for _, v := range append(replicas, b.Replica()) {
		revealAll(t, v, who, tokens)
	}
}

func TestWhoRotatesWhat(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	for name, want := range map[string]vault.Kind{
		"credential": vault.NotFound, "": vault.NotFound, "Wrap": vault.NotFound,
	} {
		if _, err := b.RotateKey(t.Context(), who, name); vault.AsError(err).Kind != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, role := range []string{"admin", "backend-reader", "auditor"} {
		if _, err := b.RotateKey(t.Context(), vaulttest.As(who, role), "wrap"); vault.AsError(err).Kind != vault.Forbidden {
			t.Errorf("%s: %v", role, err)
		}
	}
	if _, err := b.RotateKey(t.Context(), vaulttest.As(who, "operator"), "wrap"); err != nil {
		t.Error(err)
	}
}

func TestOldKeysAreRotatedByThemselves(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t, vaulttest.With(func(c *vault.Config) { c.RotateAfter = 365 * 24 * time.Hour }))
	who := b.Tenant()
	k := keyNamed(t, b, who, "wrap")
	if k.NextRotation == nil || !k.NextRotation.Equal(k.Created.Add(365*24*time.Hour)) {
		t.Errorf("got %+v", k)
	}
	if err := b.RotateDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k := keyNamed(t, b, who, "wrap"); k.Version != 1 {
		t.Errorf("a fresh key was rotated: %+v", k)
	}
	b.Advance(366 * 24 * time.Hour)
	for range 2 {
		if err := b.RotateDue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"wrap": 2, "root": 2, "token": 1} {
		if k := keyNamed(t, b, who, name); k.Version != want {
			t.Errorf("%s has version %d", name, k.Version)
		}
	}
}

// A wrap key that has wrapped its share is rotated, whatever became of what it wrapped.
func TestWornKeysAreRotatedByThemselves(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t, vaulttest.With(func(c *vault.Config) { c.RotateAfterUses = 1000 }))
	who, other := b.Tenant(), b.Tenant()
	for _, w := range []vault.Caller{who, other} {
		b.Collection(w, "people", map[string]string{"name": "string"})
	}
	replica := b.Replica()
	due := func(want int) {
		t.Helper()
		for _, v := range []*vault.Vault{b.Vault, replica} {
			if err := v.NoteUses(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.RotateDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if k := keyNamed(t, b, who, "wrap"); k.Version != want {
			t.Errorf("the wrap key has version %d, want %d", k.Version, want)
		}
	}
	store := func(v *vault.Vault, n int) {
		t.Helper()
		batch := vault.Batch{Collection: "people"}
		for range n {
			batch.Items = append(batch.Items, vaulttest.Item(map[string]string{"name": "x"}))
		}
		done, err := v.Tokenize(t.Context(), who, batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range done[:n/2] {
			if err := v.DeleteRecord(t.Context(), who, "people", d.Record, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	store(b.Vault, 600)
	due(1)
	store(replica, 300)
	due(1)
	store(replica, 200)
	due(2) // of all replicas together, deleted ones too
	due(2)
	if k := keyNamed(t, b, other, "wrap"); k.Version != 1 {
		t.Errorf("another tenant's wrap key has version %d", k.Version)
	}
}
