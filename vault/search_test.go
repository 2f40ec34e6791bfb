package vault_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// seek is a search for text values: pairs of a field, or field:index, and what it equals.
func seek(collection string, pairs ...string) vault.Search {
	s := vault.Search{Collection: collection, Limit: 50, At: func(i int) string { return fmt.Sprint("/and/", i) }}
	for i := 0; i < len(pairs); i += 2 {
		s.Terms = append(s.Terms, vault.Term{Field: pairs[i], Equals: secret(`"` + pairs[i+1] + `"`)})
	}
	return s
}

// finds gives the records that a search finds, all pages of it, sorted.
func finds(t *testing.T, v *vault.Vault, who vault.Caller, s vault.Search) []string {
	t.Helper()
	ids := []string{}
	for range 1000 {
		page, next, err := v.SearchRecords(t.Context(), who, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			ids = append(ids, m.Record)
		}
		if s.Cursor = next; next == "" {
			break
		}
	}
	slices.Sort(ids)
	return ids
}

func TestSearchFindsEveryRecordAndNothingElse(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			who, foreign := v.Tenant(), v.Tenant()
			for _, tenant := range []vault.Caller{who, foreign} {
				defineFields(t, v, tenant, "people", map[string]vault.FieldDefinition{
					"name": {Type: "name", Index: []string{"exact"}}, "email": {Type: "email", Index: []string{"exact"}}, "note": {Type: "text"}})
			}
			v.MustTokenize(foreign, "people", map[string]string{"name": "Jane Roe", "email": "jane@example.com"})
			var janes, both []string
			for i := range 23 {
				name, email := []string{"Jane Roe", "jane  ROE", "Joe Doe"}[i%3], fmt.Sprintf("p%d@example.com", i%2)
				record := v.MustTokenize(who, "people", map[string]string{"name": name, "email": email}).Record
				if i%3 < 2 {
					janes = append(janes, record)
					if i%2 == 1 {
						both = append(both, record)
					}
				}
			}
			slices.Sort(janes)
			slices.Sort(both)
			for _, limit := range []int{1, 7, len(janes), 50} {
				s := seek("people", "name", "JANE roe")
				s.Limit = limit
				if diff := cmp.Diff(janes, finds(t, v.Replica(), who, s)); diff != "" {
					t.Errorf("by pages of %d (-want +found):\n%s", limit, diff)
				}
			}
			if diff := cmp.Diff(both, finds(t, v.Vault, who, seek("people", "name", "Jane Roe", "email", "P1@EXAMPLE.com"))); diff != "" {
				t.Errorf("of both terms (-want +found):\n%s", diff)
			}
			for _, nobody := range []vault.Search{seek("people", "name", "Nobody"), seek("people", "name", "Joe Doe", "email", "jane@example.com")} {
				if found := finds(t, v.Vault, who, nobody); len(found) > 0 {
					t.Errorf("found %v", found)
				}
			}
			for _, s := range []vault.Search{seek("people", "note", "x"), seek("people", "nothing", "x"), seek("people", "email", "x"), seek("people")} {
				_, _, err := v.SearchRecords(t.Context(), who, s)
				wantKind(t, "a search that makes no sense", err, vault.Invalid)
			}
		})
	}
}

// What a record no longer has finds it no more, be it corrected, deleted or expired.
func TestSearchFollowsTheRecord(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"name": {Type: "name", Index: []string{"exact"}}})
	record := v.MustTokenize(who, "people", map[string]string{"name": "Jane"}).Record
	want := func(name string, ids ...string) {
		t.Helper()
		if diff := cmp.Diff(append([]string{}, ids...), finds(t, v.Vault, who, seek("people", "name", name))); diff != "" {
			t.Errorf("%s (-want +found):\n%s", name, diff)
		}
	}
	want("Jane", record)
	soon := v.Now().Add(time.Hour)
	if _, err := v.PatchRecord(t.Context(), who, "people", record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Joe"`)},
		SetExpires: true, Expires: &soon, IfVersion: 1}); err != nil {
		t.Fatal(err)
	}
	want("Jane")
	want("Joe", record)
	v.Advance(2 * time.Hour)
	want("Joe")
	if err := v.DeleteRecord(t.Context(), who, "people", record, 0); err != nil {
		t.Fatal(err)
	}
	if n := v.Count(`select count(*) from privault.blind_index`); n != 0 {
		t.Errorf("%d index entries are left", n)
	}
}

// A row that somebody planted in the index finds nothing.
func TestAPlantedIndexEntryFindsNothing(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"name": {Type: "name", Index: []string{"exact"}}})
	jane := v.MustTokenize(who, "people", map[string]string{"name": "Jane"}).Record
	v.MustTokenize(who, "people", map[string]string{"name": "Joe"})
	v.Exec(`insert into privault.blind_index select i.tenant_id, i.digest, r.record_id, false from privault.blind_index i, privault.records r on conflict do nothing`)
	if diff := cmp.Diff([]string{jane}, finds(t, v.Vault, who, seek("people", "name", "Jane"))); diff != "" {
		t.Errorf("(-want +found):\n%s", diff)
	}
}

func TestAUniqueValueIsThereOnce(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email": {Type: "email", Index: []string{"exact"}, Unique: true}, "name": strategy("name", "deterministic")})
	done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{
		vaulttest.Item(map[string]string{"email": "jane@example.com", "name": "Jane"}), vaulttest.Item(map[string]string{"email": "Jane@EXAMPLE.com", "name": "Joe"}),
		vaulttest.Item(map[string]string{"email": "joe@example.com", "name": "Joe"})}})
	if err != nil || done[0].Err != nil || done[2].Err != nil {
		t.Fatal(err, done)
	}
	wantKind(t, "the second of a batch", done[1].Err, vault.Conflict)
	again, err := v.Replica().Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: one(map[string]string{"email": "jane@example.com", "name": "Jim"})})
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, "the value again", again[0].Err, vault.Conflict)
	_, err = v.PatchRecord(t.Context(), who, "people", done[2].Record, vault.Patch{Fields: map[string]vault.Secret{"email": secret(`"JANE@example.com"`)}, IfVersion: 1})
	wantKind(t, "a patch to it", err, vault.Conflict)
	if _, err = v.PatchRecord(t.Context(), who, "people", done[0].Record, vault.Patch{Fields: map[string]vault.Secret{"email": secret(`"JANE@example.com"`)}, IfVersion: 1}); err != nil {
		t.Error("another spelling of a record's own value: ", err)
	}
	if err := v.DeleteRecord(t.Context(), who, "people", done[0].Record, 0); err != nil {
		t.Fatal(err)
	}
	v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com"})
	if n := v.Count(`select count(*) from privault.aliases`); n != 1 {
		t.Errorf("%d aliases, want that of Joe: what was refused leaves none", n)
	}
}

// Of many at the same time one has the unique value, and the others leave nothing behind.
func TestARaceForAUniqueValueHasOneWinner(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email": {Type: "email", Index: []string{"exact"}, Unique: true}, "name": strategy("name", "deterministic")})
	replicas := []*vault.Vault{v.Vault, v.Replica()}
	won := make(chan bool)
	for client := range 32 {
		go func() {
			done, err := replicas[client%2].Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: one(map[string]string{
				"email": "jane@example.com", "name": fmt.Sprint("Jane ", client)})})
			if err != nil || done[0].Err != nil && done[0].Err.Kind != vault.Conflict {
				t.Errorf("client %d: %v, %v", client, err, done)
			}
			won <- err == nil && done[0].Err == nil
		}()
	}
	winners := 0
	for range 32 {
		if <-won {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d winners", winners)
	}
	for what, want := range map[string]int{"records": 1, "aliases": 1, "blind_index": 2} {
		if n := v.Count(`select count(*) from privault.` + what); n != want {
			t.Errorf("%d rows in %s, want %d", n, what, want)
		}
	}
}

func TestSuppliedTokens(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	supplied := func(typ, strategy, supplied string) vault.FieldDefinition {
		return vault.FieldDefinition{Type: typ, Token: vault.TokenDefinition{Strategy: strategy, Supplied: supplied}}
	}
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email": supplied("email", "deterministic", "allowed"), "name": supplied("name", "random", "required"), "note": {Type: "text"}})
	put := func(email, emailToken, name, nameToken string) vault.Tokenized {
		t.Helper()
		item := vaulttest.Item(map[string]string{"email": email, "name": name})
		item.Tokens = map[string]string{}
		for field, token := range map[string]string{"email": emailToken, "name": nameToken} {
			if token != "" {
				item.Tokens[field] = token
			}
		}
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err != nil {
			t.Fatal(err)
		}
		return done[0]
	}
	first := put("jane@example.com", "legacy-1", "Jane", "n-1")
	if first.Err != nil || first.Tokens["email"] != "legacy-1" || first.Tokens["name"] != "n-1" {
		t.Fatal(first)
	}
	if second := put("jane@example.com", "legacy-1", "Jane", "n-2"); second.Err != nil || second.Tokens["email"] != "legacy-1" {
		t.Error("a second holder of the value: ", second)
	}
	if third := put("jane@example.com", "", "Jane", "n-3"); third.Err != nil || third.Tokens["email"] != "legacy-1" {
		t.Error("a third one, that brings no token: ", third)
	}
	for what, row := range map[string]struct {
		got  vault.Tokenized
		want vault.Kind
	}{
		"a token of another value":        {put("joe@example.com", "legacy-1", "Joe", "n-4"), vault.Conflict},
		"another token for the value":     {put("jane@example.com", "legacy-2", "Joe", "n-4"), vault.Conflict},
		"a token of another record":       {put("joe@example.com", "", "Jane", "n-1"), vault.Conflict},
		"none where it is required":       {put("joe@example.com", "", "Joe", ""), vault.Invalid},
		"the value itself":                {put("joe@example.com", "joe@example.com", "Joe", "n-4"), vault.Invalid},
		"one of ours":                     {put("joe@example.com", "pvdt_x", "Joe", "n-4"), vault.Invalid},
		"a new value with a new token":    {put("joe@example.com", "legacy-3", "Joe", "n-4"), ""},
		"the same token in another field": {put("jim@example.com", "n-1", "Jim", "legacy-1"), ""},
	} {
		if err := row.got.Err; row.want != "" && (err == nil || err.Kind != row.want) || row.want == "" && err != nil {
			t.Errorf("%s: %v, want %s", what, err, row.want)
		}
	}
	if diff := cmp.Diff([]string{`"jane@example.com"`, `"joe@example.com"`, "token-not-found"}, resolves(t, v.Vault, who, "people", "email", "legacy-1", "legacy-3", "legacy-2")); diff != "" {
		t.Error(diff)
	}
	wantResolves(t, v.Vault, who, "legacy-1", "token-not-found")
	// The token of a record stays when its value is corrected.
	rec, err := v.PatchRecord(t.Context(), who, "people", first.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Janet"`)}, IfVersion: 1})
	if err != nil || rec.Tokens["name"] != "n-1" {
		t.Fatal(rec, err)
	}
	read, err := v.GetRecord(t.Context(), who, "people", first.Record, nil, "masked")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Tokens, read.Tokens); diff != "" {
		t.Errorf("tokens (-given +read):\n%s", diff)
	}
	if got := resolves(t, v.Vault, who, "people", "name", "n-1")[0]; got != `"Janet"` {
		t.Errorf("it gives %s", got)
	}
	if err := v.DeleteRecord(t.Context(), who, "people", first.Record, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"token-not-found"}, resolves(t, v.Vault, who, "people", "name", "n-1")); diff != "" {
		t.Error(diff)
	}
}
