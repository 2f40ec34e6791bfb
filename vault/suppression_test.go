package vault_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

func (s *scene) addSuppression(t *testing.T) {
	t.Helper()
	put, _, err := s.Suppress(t.Context(), s.who, "stays-out-1")
	if err != nil {
		t.Fatal(err)
	}
	s.suppression = put.ID
}

func suppressionOperations() []operation {
	ctx := context.Background()
	put := func(s *scene, who vault.Caller, subject string) error {
		_, _, err := s.Suppress(ctx, who, subject)
		return err
	}
	return []operation{
		{name: "Suppress", action: policy.WriteSuppressions, problem: vault.LooksLikePII,
			do:   func(s *scene, who vault.Caller) error { return put(s, who, "stays-out-2") },
			fail: func(s *scene, who vault.Caller) error { return put(s, who, "jane@example.com") }},
		{name: "ListSuppressions", action: policy.ReadSuppressions, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListSuppressions(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListSuppressions(ctx, who, "x", 10); return err }},
		{name: "LiftSuppression", action: policy.WriteSuppressions, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.LiftSuppression(ctx, who, s.suppression) },
			fail: func(s *scene, who vault.Caller) error { return s.LiftSuppression(ctx, who, "sup_x") }},
	}
}

// register is a vault with a collection that asks the suppression list, and one that doesn't.
type register struct {
	*vaulttest.Bench
	who vault.Caller
}

func newRegister(t *testing.T, options ...vaulttest.Option) *register {
	t.Helper()
	r := &register{Bench: vaulttest.New(t, options...)}
	r.who = r.Tenant()
	fields := func() map[string]vault.FieldDefinition {
		return map[string]vault.FieldDefinition{"email": {Type: "email", Index: []string{"exact"}}, "name": {Type: "name"}}
	}
	for name, s := range map[string]*vault.Suppression{"letters": {Fields: []string{"email"}}, "members": {}, "orders": nil} {
		if _, _, err := r.PutCollection(t.Context(), r.who, name, vault.Definition{Suppression: s, Fields: fields()}, 0); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func someone(subject, email string) vault.NewRecord {
	item := vaulttest.Item(map[string]string{"email": email, "name": "Jane Roe"})
	item.Subject = subject
	return item
}

// store gives the kind of error of each item; empty: it was stored.
func (r *register) store(t *testing.T, v *vault.Vault, collection string, items ...vault.NewRecord) (kinds []string) {
	t.Helper()
	done, err := v.Tokenize(t.Context(), r.who, vault.Batch{Collection: collection, Items: items})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		kind := ""
		if d.Err != nil {
			kind = string(d.Err.Kind)
		}
		kinds = append(kinds, kind)
	}
	return kinds
}

func (r *register) erase(t *testing.T, subject string) vault.Erasure {
	t.Helper()
	e, err := r.EraseSubject(t.Context(), r.who, subject, "gdpr-17", false)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnErasedPersonIsNotTakenInAgainWhereTheCollectionAsks(t *testing.T) {
	t.Parallel()
	const out = string(vault.SubjectErased)
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegister(t, options...)
			ctx := t.Context()
			other := r.Replica()
			r.store(t, r.Vault, "letters", someone("p-1", "jane@example.com"), someone("p-1", "Jane.Roe@example.com"))
			r.store(t, r.Vault, "orders", someone("p-2", "joe@example.com"))
			e := r.erase(t, "p-1")
			r.erase(t, "p-2") // whom no collection that asks knew
			for _, v := range []*vault.Vault{r.Vault, other} {
				if diff := cmp.Diff([]string{out, "", out, out, ""}, r.store(t, v, "letters",
					someone("p-1", "new@example.com"), someone("p-3", "other@example.com"), someone("p-4", "JANE@example.com"), someone("", "jane.roe@example.com"), someone("p-2", "joe@example.com"))); diff != "" {
					t.Errorf("letters (-want +got):\n%s", diff)
				}
			}
			// Where the person's reference alone is asked, and where nothing is.
			if diff := cmp.Diff([]string{out, ""}, r.store(t, r.Vault, "members", someone("p-1", "new@example.com"), someone("p-4", "jane@example.com"))); diff != "" {
				t.Errorf("members (-want +got):\n%s", diff)
			}
			// Who stayed out is nobody: erasing the person once more finds the erasure that there was.
			if again := r.erase(t, "p-1"); again.ID != e.ID {
				t.Errorf("erased again, as %s instead of %s", again.ID, e.ID)
			}
			if diff := cmp.Diff([]string{""}, r.store(t, r.Vault, "orders", someone("p-1", "jane@example.com"))); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
			_, err := r.Tokenize(ctx, r.who, vault.Batch{Collection: "letters", Atomic: true, Items: []vault.NewRecord{someone("p-9", "nine@example.com"), someone("p-1", "new@example.com")}})
			wantKind(t, "an atomic batch", err, vault.BatchRolledBack)
			done, err := r.Tokenize(ctx, r.who, vault.Batch{Collection: "letters", Items: []vault.NewRecord{someone("p-5", "five@example.com")}})
			if err != nil || done[0].Err != nil {
				t.Fatal(done, err)
			}
			for _, dry := range []bool{true, false} {
				_, err = r.PatchRecord(ctx, r.who, "letters", done[0].Record, vault.Patch{IfVersion: 1, DryRun: dry, Fields: map[string]vault.Secret{"email": secret(`"jane@EXAMPLE.com"`)}})
				wantKind(t, "a patch to the person's address", err, vault.SubjectErased)
			}
			if _, err := r.PatchRecord(ctx, r.who, "letters", done[0].Record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"email": secret(`"six@example.com"`)}}); err != nil {
				t.Error("a patch to another address: ", err)
			}

			page, _, err := r.ListSuppressions(ctx, r.who, "", 10)
			if err != nil || len(page) != 1 || page[0].Certificate != e.ID {
				t.Fatalf("%+v, %v", page, err)
			}
			if diff := cmp.Diff([]string{"email", "subject"}, page[0].Identifiers); diff != "" {
				t.Errorf("identifiers (-want +got):\n%s", diff)
			}
			// Who knows the person finds the entry, and lifts it as a whole.
			found, created, err := r.Suppress(ctx, r.who, "p-1")
			if err != nil || created || found.ID != page[0].ID {
				t.Fatalf("%+v, %t, %v", found, created, err)
			}
			if err := r.LiftSuppression(ctx, r.who, found.ID); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"", ""}, r.store(t, other, "letters", someone("p-1", "new@example.com"), someone("p-4", "jane@example.com"))); diff != "" {
				t.Errorf("lifted (-want +got):\n%s", diff)
			}
			if n := r.Count(`select count(*) from privault.suppressions`); n != 0 {
				t.Errorf("%d digests are left", n)
			}
		})
	}
}

// What is put on the list by hand, what holds when the keys have changed, and what two at once make of it.
func TestTheSuppressionListOutlivesItsKeys(t *testing.T) {
	t.Parallel()
	r := newRegister(t)
	ctx := t.Context()
	if _, created, err := r.Suppress(ctx, r.who, "p-0"); err != nil || !created {
		t.Fatal(created, err)
	}
	r.store(t, r.Vault, "letters", someone("p-1", "jane@example.com"))
	r.erase(t, "p-1")
	for _, name := range []string{"pseudonym", "index"} {
		if _, err := r.RotateKey(ctx, r.who, name); err != nil {
			t.Fatal(err)
		}
	}
	again := r.Replica()
	const out = string(vault.SubjectErased)
	if diff := cmp.Diff([]string{out, out, out, ""}, r.store(t, again, "letters", someone("p-0", "a@example.com"), someone("p-1", "b@example.com"), someone("p-2", "jane@example.com"), someone("p-3", "c@example.com"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if found, created, err := again.Suppress(ctx, r.who, "p-1"); err != nil || created || len(found.Identifiers) != 2 {
		t.Errorf("%+v, %t, %v", found, created, err)
	}
	// A later erasure is under the new keys, and found as well.
	r.store(t, again, "letters", someone("p-7", "seven@example.com"))
	r.erase(t, "p-7")
	if diff := cmp.Diff([]string{out, out}, r.store(t, r.Vault, "letters", someone("p-7", "x@example.com"), someone("p-8", "Seven@example.com"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Nobody gets in between an erasure and the list: what was acknowledged behind it is not of the person.
func TestAnErasureAndThoseWhoTakeInRace(t *testing.T) {
	t.Parallel()
	r := newRegister(t)
	ctx := t.Context()
	r.store(t, r.Vault, "letters", someone("p-1", "jane@example.com"))
	erased := make(chan struct{})
	behind := make(chan string, 400)
	finished := make(chan struct{})
	for w := range 4 {
		go func() {
			defer func() { finished <- struct{}{} }()
			for range 100 {
				after := false
				select {
				case <-erased:
					after = true
				default:
				}
				item := someone("p-1", "jane@example.com")
				if w%2 == 1 {
					item.Subject = ""
				}
				done, err := r.Tokenize(ctx, r.who, vault.Batch{Collection: "letters", Items: []vault.NewRecord{item}})
				if err == nil && done[0].Err == nil && after {
					behind <- done[0].Record
				}
			}
		}()
	}
	r.erase(t, "p-1")
	close(erased)
	for range 4 {
		<-finished
	}
	close(behind)
	if got := slices.Collect(func(yield func(string) bool) {
		for record := range behind {
			if !yield(record) {
				return
			}
		}
	}); len(got) != 0 {
		t.Errorf("%d records were taken in after the erasure", len(got))
	}
}

func TestWhatADefinitionSaysOfTheSuppressionList(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	for name, d := range map[string]vault.Definition{
		"no such field": {Suppression: &vault.Suppression{Fields: []string{"phone"}}, Fields: map[string]vault.FieldDefinition{"email": {Type: "email"}}},
		"no index":      {Suppression: &vault.Suppression{Fields: []string{"email"}}, Fields: map[string]vault.FieldDefinition{"email": {Type: "email"}}},
		"a mode":        {Suppression: &vault.Suppression{Fields: []string{"email"}}, Fields: map[string]vault.FieldDefinition{"email": {Type: "email", Index: []string{"exact/bucketed:16"}}}},
		"kms: direct":   {KMS: "direct", Suppression: &vault.Suppression{Fields: []string{"email"}}, Fields: map[string]vault.FieldDefinition{"email": {Type: "email", Index: []string{"exact"}}}},
	} {
		_, _, err := v.PutCollection(t.Context(), who, "people", d, 0)
		wantKind(t, name, err, vault.Invalid)
	}
	// It can be asked for later, and given up: versions like any other.
	fields := map[string]vault.FieldDefinition{"email": {Type: "email", Index: []string{"exact"}}}
	for version, s := range []*vault.Suppression{nil, {Fields: []string{"email"}}, {}, nil} {
		c, _, err := v.PutCollection(t.Context(), who, "people", vault.Definition{Suppression: s, Fields: fields}, 0)
		if err != nil || int(c.Version) != version+1 {
			t.Fatalf("%+v, %v", c, err)
		}
	}
}
