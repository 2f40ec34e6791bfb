package vault_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// defineFields makes a collection of the given fields.
func defineFields(t *testing.T, v *vaulttest.Bench, who vault.Caller, name string, fields map[string]vault.FieldDefinition) {
	t.Helper()
	if _, _, err := v.PutCollection(t.Context(), who, name, vault.Definition{Fields: fields}, 0); err != nil {
		t.Fatal("define a collection: ", err)
	}
}

func strategy(typ, strategy string) vault.FieldDefinition {
	return vault.FieldDefinition{Type: typ, Token: vault.TokenDefinition{Strategy: strategy}}
}

// with defines people, whose e-mail has deterministic tokens.
func deterministic(t *testing.T, v *vaulttest.Bench, who vault.Caller) {
	t.Helper()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"email": strategy("email", "deterministic"), "name": {Type: "name"}})
}

// resolves gives what tokens of a field stand for in view plain: JSON values, or kinds of error.
func resolves(t *testing.T, v *vault.Vault, who vault.Caller, collection, field string, tokens ...string) []string {
	t.Helper()
	refs := make([]vault.TokenRef, len(tokens))
	for i, token := range tokens {
		refs[i] = vault.TokenRef{Token: token, Collection: collection, Field: field, View: "plain"}
	}
	done, err := v.Detokenize(t.Context(), who, refs)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, len(done))
	for i, d := range done {
		if got[i] = string(d.Value.Reveal()); d.Err != nil {
			got[i] = string(d.Err.Kind)
		}
	}
	return got
}

func wantResolves(t *testing.T, v *vault.Vault, who vault.Caller, token, want string) {
	t.Helper()
	if got := resolves(t, v, who, "", "", token)[0]; got != want {
		t.Errorf("the token gives %s, want %s", got, want)
	}
}

func TestADeterministicTokenIsOneForAValueInAField(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			who, foreign := v.Tenant(), v.Tenant()
			deterministic(t, v, who)
			deterministic(t, v, foreign)
			defineFields(t, v, who, "others", map[string]vault.FieldDefinition{"email": strategy("email", "deterministic")})
			first := v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com", "name": "Jane"})
			token := first.Tokens["email"]
			// In one batch with itself, and again.
			done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{
				vaulttest.Item(map[string]string{"email": "jane@example.com"}), vaulttest.Item(map[string]string{"email": "new@example.com"}),
				vaulttest.Item(map[string]string{"email": "new@example.com"}), vaulttest.Item(map[string]string{"email": "Jane@example.com"})}})
			if err != nil {
				t.Fatal(err)
			}
			if done[0].Tokens["email"] != token || done[1].Tokens["email"] != done[2].Tokens["email"] {
				t.Errorf("equal values have the tokens %v", done)
			}
			elsewhere := v.MustTokenize(who, "others", map[string]string{"email": "jane@example.com"}).Tokens["email"]
			theirs := v.MustTokenize(foreign, "people", map[string]string{"email": "jane@example.com"}).Tokens["email"]
			all := map[string]bool{token: true, done[1].Tokens["email"]: true, done[3].Tokens["email"]: true, elsewhere: true, theirs: true}
			if len(all) != 5 {
				t.Errorf("other values, collections or tenants share a token: %v", all)
			}
			wantResolves(t, v.Vault, who, token, `"jane@example.com"`)
			wantResolves(t, v.Vault, who, done[3].Tokens["email"], `"Jane@example.com"`)
			wantResolves(t, v.Replica(), who, elsewhere, `"jane@example.com"`)
			wantResolves(t, v.Vault, who, theirs, "token-not-found")
			if got := resolves(t, v.Vault, who, "others", "email", token)[0]; got != "token-not-found" {
				t.Errorf("in another collection the token gives %s", got)
			}
			rec, err := v.GetRecord(t.Context(), who, "people", first.Record, nil, "masked")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first.Tokens, rec.Tokens); diff != "" {
				t.Errorf("the record has other tokens (-given +read):\n%s", diff)
			}
		})
	}
}

func TestADeterministicTokenLivesAsLongAsAHolder(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	deterministic(t, v, who)
	store := func() vault.Tokenized {
		return v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com"})
	}
	remove := func(record string) {
		if err := v.DeleteRecord(t.Context(), who, "people", record, 0); err != nil {
			t.Fatal(err)
		}
	}
	one, two := store(), store()
	token := one.Tokens["email"]
	remove(one.Record)
	wantResolves(t, v.Vault, who, token, `"jane@example.com"`)
	// The other one gets another value, and the token of a third one that has it.
	other := v.MustTokenize(who, "people", map[string]string{"email": "joe@example.com"})
	rec, err := v.PatchRecord(t.Context(), who, "people", two.Record, vault.Patch{
		Fields: map[string]vault.Secret{"email": secret(`"joe@example.com"`)}, IfVersion: 1})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Tokens["email"] != other.Tokens["email"] {
		t.Errorf("after the patch the token is %s, want %s", rec.Tokens["email"], other.Tokens["email"])
	}
	wantResolves(t, v.Vault, who, token, "token-not-found")
	remove(other.Record)
	wantResolves(t, v.Vault, who, other.Tokens["email"], `"joe@example.com"`)
	again := store()
	if again.Tokens["email"] == token {
		t.Error("a value has the token back that it had before it was erased")
	}
	// To a value that nobody has, and back again.
	if rec, err = v.PatchRecord(t.Context(), who, "people", again.Record, vault.Patch{
		Fields: map[string]vault.Secret{"email": secret(`"nobody@example.com"`)}, IfVersion: 1}); err != nil {
		t.Fatal(err)
	}
	wantResolves(t, v.Vault, who, rec.Tokens["email"], `"nobody@example.com"`)
	if _, err = v.PatchRecord(t.Context(), who, "people", again.Record, vault.Patch{Remove: []string{"email"},
		Fields: map[string]vault.Secret{"name": secret(`"Jane"`)}, IfVersion: 2}); err != nil {
		t.Fatal(err)
	}
	wantResolves(t, v.Vault, who, rec.Tokens["email"], "token-not-found")
	remove(two.Record)
	remove(again.Record)
	if n := v.Count(`select (select count(*) from privault.aliases) + (select count(*) from privault.blind_index)`); n != 0 {
		t.Errorf("%d rows are left of deleted records", n)
	}
}

func TestATokenOfAnExpiredHolderLeadsToALivingOne(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	deterministic(t, v, who)
	soon := v.Now().Add(time.Hour)
	item := vaulttest.Item(map[string]string{"email": "jane@example.com"})
	item.Expires = &soon
	done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
	if err != nil {
		t.Fatal(err)
	}
	token := done[0].Tokens["email"]
	v.Advance(2 * time.Hour)
	wantResolves(t, v.Vault, who, token, "token-not-found")
	if later := v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com"}).Tokens["email"]; later != token {
		t.Error("a value that is still stored has two tokens")
	}
	wantResolves(t, v.Vault, who, token, `"jane@example.com"`)
}

// 64 clients on two replicas, each with all of 50 new values in an order of its own: 50 tokens.
func TestConcurrentClientsAgreeOnTokens(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	deterministic(t, v, who)
	replicas := []*vault.Vault{v.Vault, v.Replica()}
	var mu sync.Mutex
	tokens := map[string]map[string]bool{}
	var wait sync.WaitGroup
	for client := range 64 {
		wait.Go(func() {
			for i := range 50 {
				value := fmt.Sprintf("v%d@example.com", (i*7+client)%50)
				done, err := replicas[client%2].Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: one(map[string]string{"email": value})})
				if err != nil || done[0].Err != nil {
					t.Errorf("client %d: %v, %v", client, err, done)
					return
				}
				mu.Lock()
				if tokens[value] == nil {
					tokens[value] = map[string]bool{}
				}
				tokens[value][done[0].Tokens["email"]] = true
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if len(tokens) != 50 {
		t.Errorf("%d values", len(tokens))
	}
	for value, all := range tokens {
		if len(all) != 1 {
			t.Errorf("%s has %d tokens", value, len(all))
		}
		for token := range all {
			wantResolves(t, v.Vault, who, token, `"`+value+`"`)
		}
	}
	if n := v.Count(`select count(*) from privault.aliases`); n != 50 {
		t.Errorf("%d aliases", n)
	}
	if n := v.Count(`select count(*) from privault.records`); n != 64*50 {
		t.Errorf("%d records", n)
	}
}

// Holders come and go at the same time: a token that was given out resolves as long as its record lives.
func TestHoldersComeAndGoTogether(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	deterministic(t, v, who)
	replicas := []*vault.Vault{v.Vault, v.Replica()}
	var wait sync.WaitGroup
	for client := range 16 {
		wait.Go(func() {
			for i := range 30 {
				on := replicas[(client+i)%2]
				done, err := on.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: one(map[string]string{"email": fmt.Sprintf("v%d@example.com", i%3)})})
				if err != nil || done[0].Err != nil {
					t.Errorf("tokenize: %v, %v", err, done)
					return
				}
				back, err := on.Detokenize(t.Context(), who, []vault.TokenRef{{Token: done[0].Tokens["email"], View: "plain"}})
				if err != nil || back[0].Err != nil {
					t.Errorf("a token of a living record: %v, %v", err, back[0].Err)
				}
				if err := on.DeleteRecord(t.Context(), who, "people", done[0].Record, 0); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	wait.Wait()
	if n := v.Count(`select (select count(*) from privault.aliases) + (select count(*) from privault.blind_index)`); n != 0 {
		t.Errorf("%d rows are left of deleted records", n)
	}
}

// Erasing one of two holders leaves the token, erasing the other stops it, and the counts say so.
func TestErasureStopsATokenWithItsLastHolder(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email": {Type: "email", Index: []string{"exact"}, Token: vault.TokenDefinition{Strategy: "deterministic"}}})
	var token string
	for _, subject := range []string{"p-1", "p-2"} {
		item := vaulttest.Item(map[string]string{"email": "jane@example.com"})
		item.Subject = subject
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err != nil || done[0].Err != nil {
			t.Fatal(err, done)
		}
		token = done[0].Tokens["email"]
	}
	for _, step := range []struct {
		subject, gives string
		want           vault.ErasureCounts
	}{
		{"p-1", `"jane@example.com"`, vault.ErasureCounts{Records: 1, DEKs: 1, Entries: 2}},
		{"p-2", "token-not-found", vault.ErasureCounts{Records: 1, DEKs: 1, Aliases: 1, Entries: 2}},
	} {
		for _, dry := range []bool{true, false} {
			e, err := v.EraseSubject(t.Context(), who, step.subject, "gdpr-17", dry)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(step.want, e.Counts); diff != "" {
				t.Errorf("%s, dry %t (-want +got):\n%s", step.subject, dry, diff)
			}
		}
		wantResolves(t, v.Vault, who, token, step.gives)
	}
	again := v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com"}).Tokens["email"]
	if again == token {
		t.Error("an erased value has its token back")
	}
	wantResolves(t, v.Vault, who, token, "token-not-found")
	wantResolves(t, v.Vault, who, again, `"jane@example.com"`)
}
