package vault_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// A replica that knows an old schema must not refuse what the one in force allows.
func TestAnOldSchemaRefusesNothingThatTheNewOneAllows(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "name"})
	other := v.Replica()
	only := func(field string) vault.Batch {
		return vault.Batch{Collection: "people", Items: []vault.NewRecord{vaulttest.Item(map[string]string{field: "ann@example.com"})}}
	}
	if _, err := other.Tokenize(t.Context(), who, only("name")); err != nil {
		t.Fatal(err)
	}
	v.Collection(who, "people", map[string]string{"name": "name", "email": "email"})
	for _, atomic := range []bool{false, true} {
		b := only("email")
		b.Atomic = atomic
		done, err := other.Tokenize(t.Context(), who, b)
		if err != nil || done[0].Err != nil {
			t.Errorf("atomic %t: %v %v", atomic, err, done)
		}
	}
	if err := v.DeleteCollection(t.Context(), who, "people", 0); kind(err) != vault.Conflict {
		t.Fatal(err)
	}
}

// What was done under an Idempotency-Key is told again even if it could not be done now.
func TestARepeatIsAnsweredEvenIfItCouldNotBeDoneNow(t *testing.T) {
	t.Parallel()
	for _, atomic := range []bool{false, true} {
		v := vaulttest.New(t)
		who := v.Tenant()
		v.Collection(who, "people", map[string]string{"name": "name"})
		expires := v.Now().Add(time.Minute)
		batch := func(request byte) vault.Batch {
			item := vaulttest.Item(map[string]string{"name": "Ann"})
			item.Expires = &expires
			return vault.Batch{Collection: "people", Items: []vault.NewRecord{item}, Atomic: atomic,
				Claim: &vault.IdempotencyKey{Key: "k", Request: [32]byte{request}}}
		}
		first, err := v.Tokenize(t.Context(), who, batch(1))
		if err != nil || first[0].Err != nil {
			t.Fatal(err, first)
		}
		v.Advance(2 * time.Minute)
		again, err := v.Tokenize(t.Context(), who, batch(1))
		if err != nil || again[0].Err != nil || again[0].Record != first[0].Record {
			t.Errorf("atomic %t: the repeat gives %v, %v", atomic, again, err)
		}
		if _, err := v.Tokenize(t.Context(), who, batch(2)); kind(err) != vault.IdempotencyConflict {
			t.Errorf("atomic %t: another body gives %v", atomic, err)
		}
	}
}

// An attempt at more than the policy allows stands in the entry, whatever else the call was allowed.
func TestADeniedItemStandsBesideAnAllowedOne(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "name"})
	token := v.MustTokenize(who, "people", map[string]string{"name": "Ann"}).Tokens["name"]
	for _, views := range [][]string{{"masked", "plain"}, {"plain", "masked"}} {
		refs := []vault.TokenRef{{Token: token, View: views[0]}, {Token: token, View: views[1]}}
		if _, err := v.Detokenize(t.Context(), vaulttest.As(who, "backend-reader-masked"), refs); err != nil {
			t.Fatal(err)
		}
		var e struct {
			Outcome, Rule string
			Resources     []struct{ View, Outcome, Rule string }
		}
		body := rows(t, v.OwnerURL, `select body from privault.audit_entries where action = 'detokenize' order by entry_id desc limit 1`)
		if err := json.Unmarshal([]byte(body[0]), &e); err != nil {
			t.Fatal(err)
		}
		if e.Outcome != "ok" || e.Rule != "role:backend-reader-masked" || len(e.Resources) != 2 {
			t.Errorf("%v: %+v", views, e)
		}
		for _, r := range e.Resources {
			if denied := r.View == "plain"; denied != (r.Outcome == "denied") || denied != (r.Rule == "default-deny") {
				t.Errorf("%v: %+v", views, r)
			}
		}
	}
}

// A keystore that isn't this deployment's must not be furnished with new keys.
func TestAForeignKeystoreIsRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t, vaulttest.Apart)
	v.Tenant()
	c := v.Config
	c.KeystoreURL = vaulttest.AppURL(vaulttest.Database(t))
	if opened, err := vault.Open(t.Context(), c); err == nil {
		opened.Close()
		t.Error("a vault opened with an empty keystore beside tenants")
	}
}
