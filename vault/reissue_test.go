package vault_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/shape"
	"github.com/privault/privault/vault/vaulttest"
)

// everyToken is a collection with a field of each way in which a token can come about.
var everyToken = map[string]vault.FieldDefinition{
	"name":    {Type: "name"},
	"note":    {Type: "text"},
	"email":   {Type: "email", Index: []string{"exact"}, Token: vault.TokenDefinition{Strategy: "deterministic"}},
	"phone":   {Type: "phone", Token: vault.TokenDefinition{Strategy: "deterministic", Options: shape.Options{KeepPrefix: 2}}},
	"card":    {Type: "pan", Token: vault.TokenDefinition{Strategy: "fpe"}},
	"account": {Type: "string", Token: vault.TokenDefinition{Strategy: "format", Options: shape.Options{Alphabet: "digits", MinLength: 8, MaxLength: 12}}},
	"legacy":  {Type: "string", Token: vault.TokenDefinition{Supplied: "allowed"}},
	"moved":   {Type: "string", Token: vault.TokenDefinition{Supplied: "required"}},
}

func everyValue() vault.NewRecord {
	item := vaulttest.Item(map[string]string{"name": "Jane Roe", "note": "x", "email": "jane@example.com", "phone": "+442071838750",
		"card": "4111111111111111", "account": "123456789", "legacy": "old", "moved": "old"})
	item.Subject, item.Tokens = "person-1", map[string]string{"legacy": "legacy-1", "moved": "moved-1"}
	return item
}

func rotateOf(t *testing.T, v *vault.Vault, who vault.Caller, collection string, tokens map[string]string, fields ...string) []vault.Rotated {
	t.Helper()
	var refs []vault.TokenRef
	for _, f := range fields {
		refs = append(refs, vault.TokenRef{Token: tokens[f], Collection: collection, Field: f})
	}
	done, err := v.RotateTokens(t.Context(), who, refs)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestRotatedTokensStopAndTheNewOnesResolve(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			who, replica := v.Tenant(), v.Replica()
			defineFields(t, v, who, "people", everyToken)
			stored, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{everyValue()}})
			if err != nil || stored[0].Err != nil {
				t.Fatal(err, stored)
			}
			old := stored[0].Tokens
			for _, step := range []struct{ asked, change string }{
				{"name", "name note"}, // pointer tokens of a record change together
				{"email", "email"},
				{"phone", "phone"},
				{"account", "account"},
				{"legacy", "legacy"}, // goes on as a pointer token
				{"note", "name note legacy"},
			} {
				done := rotateOf(t, v.Vault, who, "people", old, step.asked)[0]
				if done.Err != nil || done.Record != stored[0].Record || done.Field != step.asked {
					t.Fatalf("%s: %+v", step.asked, done)
				}
				for field, was := range old {
					is := done.Tokens[field]
					if changes := strings.Contains(" "+step.change+" ", " "+field+" "); (is != was) != changes {
						t.Errorf("%s rotated: the token of %s changes: %v", step.asked, field, is != was)
					} else if got := resolves(t, replica, who, "people", field, was)[0]; changes && got != "token-not-found" {
						t.Errorf("%s rotated: the old token of %s gives %s", step.asked, field, got)
					}
					want, _ := everyValue().Fields[field], is
					if got := resolves(t, replica, who, "people", field, is)[0]; got != string(want.Reveal()) {
						t.Errorf("%s rotated: the token of %s gives %s, want %s", step.asked, field, got, want.Reveal())
					}
				}
				rec, err := v.GetRecord(t.Context(), who, "people", done.Record, nil, "masked")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(done.Tokens, rec.Tokens); diff != "" {
					t.Errorf("%s rotated: the record has other tokens (-given +read):\n%s", step.asked, diff)
				}
				old = done.Tokens
			}
			if !strings.HasPrefix(old["legacy"], "pvtk_") || len(old["account"]) != 9 || old["phone"][:3] != "+44" {
				t.Errorf("the tokens have other shapes now: %v", old)
			}
			for _, field := range []string{"card", "moved"} {
				done := rotateOf(t, v.Vault, who, "people", old, field)[0]
				if done.Err == nil || done.Err.Kind != vault.Invalid || done.Err.Fields[0] != (vault.FieldError{Pointer: "/items/0/token", Rule: "not-rotatable"}) || done.Err.Detail == "" {
					t.Errorf("%s: %+v", field, done)
				}
				wantStands(t, v.Vault, who, field, old[field], string(everyValue().Fields[field].Reveal()))
			}
			if n := v.Count(`select count(*) from privault.aliases`); n != 5 { // email, phone, card, account, moved
				t.Errorf("%d aliases are left", n)
			}
			if n := v.Count(`select sum(used) from privault.alias_spaces`); n != v.Count(`select count(*) from privault.aliases where space is not null`) {
				t.Errorf("%d texts are counted", n)
			}
			if got := finds(t, v.Vault, who, seek("people", "email", "jane@example.com")); len(got) != 1 {
				t.Errorf("a search finds %v", got)
			}
		})
	}
}

func wantStands(t *testing.T, v *vault.Vault, who vault.Caller, field, token, want string) {
	t.Helper()
	if got := resolves(t, v, who, "people", field, token)[0]; got != want {
		t.Errorf("the token of %s gives %s, want %s", field, got, want)
	}
}

// A value's token is all holders', and goes with the last of them as before.
func TestARotatedTokenOfAValueIsAllHolders(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	deterministic(t, v, who)
	value := map[string]string{"email": "jane@example.com", "name": "Jane"}
	one, two := v.MustTokenize(who, "people", value), v.MustTokenize(who, "people", value)
	// Both ask at once, and one of them for another field too.
	done, err := v.RotateTokens(t.Context(), who, []vault.TokenRef{{Token: one.Tokens["email"]}, {Token: two.Tokens["name"]}, {Token: one.Tokens["email"]}, {Token: one.Tokens["name"]}})
	if err != nil {
		t.Fatal(err)
	}
	token := done[0].Tokens["email"]
	for i, d := range done {
		if d.Err != nil || d.Tokens["email"] != token {
			t.Errorf("item %d: %+v", i, d)
		}
	}
	three := v.MustTokenize(who, "people", value)
	if token == one.Tokens["email"] || three.Tokens["email"] != token {
		t.Errorf("the token was %s, is %s, and a third record gets %s", one.Tokens["email"], token, three.Tokens["email"])
	}
	wantResolves(t, v.Vault, who, one.Tokens["email"], "token-not-found")
	for _, record := range []string{one.Record, two.Record, three.Record} {
		wantResolves(t, v.Vault, who, token, `"jane@example.com"`)
		if err := v.DeleteRecord(t.Context(), who, "people", record, 0); err != nil {
			t.Fatal(err)
		}
	}
	wantResolves(t, v.Vault, who, token, "token-not-found")
	if n := v.Count(`select count(*) from privault.aliases`); n != 0 {
		t.Errorf("%d aliases are left", n)
	}
}

// Many rotate, store and delete the same few values on two replicas: in the end each value has one token, which all its
// records give, and nothing is left of those that are gone.
func TestRotationBesideEverythingElse(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	fields := map[string]vault.FieldDefinition{"email": everyToken["email"], "account": everyToken["account"]}
	defineFields(t, v, who, "people", fields)
	vaults := []*vault.Vault{v.Vault, v.Replica()}
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 12 {
				vlt := vaults[(g+i)%2]
				items := []vault.NewRecord{}
				for n := range 3 {
					items = append(items, vaulttest.Item(map[string]string{"email": fmt.Sprintf("p%d@example.com", (g+i+n)%3), "account": "12345678"}))
				}
				done, err := vlt.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items})
				if err != nil {
					t.Error(err)
					return
				}
				var refs []vault.TokenRef
				for _, d := range done {
					refs = append(refs, vault.TokenRef{Token: d.Tokens["email"]}, vault.TokenRef{Token: d.Tokens["account"], Collection: "people", Field: "account"})
				}
				rotated, err := vlt.RotateTokens(t.Context(), who, refs)
				if err != nil {
					t.Error(err)
					return
				}
				for _, d := range rotated {
					if d.Err != nil && d.Err.Kind != vault.TokenNotFound {
						t.Error(d.Err)
					}
				}
				if err := vlt.DeleteRecord(t.Context(), who, "people", done[i%3].Record, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n, m := v.Count(`select count(*) from privault.aliases where value_digest is not null`), v.Count(`select count(*) from privault.aliases where record_id is not null`); n != 3 || m != 8*12*2 {
		t.Errorf("%d aliases of 3 values, %d of %d records", n, m, 8*12*2)
	}
	for p := range 3 {
		email := fmt.Sprintf("p%d@example.com", p)
		tokens := map[string]bool{}
		for _, id := range finds(t, v.Vault, who, seek("people", "email", email)) {
			rec, err := v.GetRecord(t.Context(), who, "people", id, nil, "masked")
			if err != nil {
				t.Fatal(err)
			}
			tokens[rec.Tokens["email"]] = true
			wantStands(t, v.Vault, who, "account", rec.Tokens["account"], `"12345678"`)
		}
		if len(tokens) != 1 {
			t.Errorf("%s has %d tokens", email, len(tokens))
		}
		for token := range tokens {
			wantResolves(t, v.Vault, who, token, `"`+email+`"`)
		}
	}
}

func TestWhatMayNotBeRotatedOrAskedAfter(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	deterministic(t, v, who)
	soon := v.Now().Add(time.Hour)
	item := vaulttest.Item(map[string]string{"email": "jane@example.com", "name": "Jane"})
	item.Subject = "person-1"
	brief := vaulttest.Item(map[string]string{"email": "joe@example.com", "name": "Joe"})
	brief.Expires = &soon
	stored, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item, brief}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(who vault.Caller, token string) [2]vault.Kind {
		t.Helper()
		live, err := v.ValidateTokens(t.Context(), who, []vault.TokenRef{{Token: token}})
		if err != nil {
			t.Fatal(err)
		}
		done, err := v.RotateTokens(t.Context(), who, []vault.TokenRef{{Token: token}})
		if err != nil {
			t.Fatal(err)
		}
		var kinds [2]vault.Kind
		if live[0].Err != nil {
			kinds[0] = live[0].Err.Kind
		}
		if done[0].Err != nil {
			kinds[1] = done[0].Err.Kind
		}
		return kinds
	}
	jane, joe := stored[0].Tokens["email"], stored[1].Tokens["email"]
	v.Advance(2 * time.Hour)
	for what, c := range map[string]struct {
		who   vault.Caller
		token string
		want  [2]vault.Kind
	}{
		"by a reader":         {vaulttest.As(who, "backend-reader"), jane, [2]vault.Kind{"", vault.Forbidden}},
		"by an admin":         {vaulttest.As(who, policy.Admin), jane, [2]vault.Kind{vault.Forbidden, vault.Forbidden}},
		"of what has expired": {who, joe, [2]vault.Kind{vault.TokenNotFound, vault.TokenNotFound}},
		"of nothing":          {who, "pvdt_x", [2]vault.Kind{vault.TokenNotFound, vault.TokenNotFound}},
	} {
		if diff := cmp.Diff(c.want, ask(c.who, c.token)); diff != "" {
			t.Errorf("%s: validate, rotate (-want +got):\n%s", what, diff)
		}
	}
	if _, _, err := v.Restrict(t.Context(), who, "person-1", "accuracy-contested", nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([2]vault.Kind{vault.SubjectRestricted, vault.SubjectRestricted}, ask(who, jane)); diff != "" {
		t.Errorf("of a restricted person: %s", diff)
	}
	if err := v.LiftRestriction(t.Context(), who, "person-1", v.Now()); err != nil {
		t.Fatal(err)
	}
	v.Exec(`update privault.records set epoch = 65535`)
	rec, err := v.GetRecord(t.Context(), who, "people", stored[0].Record, nil, "masked")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([2]vault.Kind{"", vault.Invalid}, ask(who, rec.Tokens["name"])); diff != "" {
		t.Errorf("once too often: %s", diff)
	}
}
