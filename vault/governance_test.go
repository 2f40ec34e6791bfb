package vault_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

const (
	harmless  = `@id("cards") forbid (principal, action in Action::"reveal", resource) when { resource.classification == "restricted" && resource.collection == "cards" };`
	onlyHome  = `forbid (principal, action in Action::"reveal", resource) unless { context.network.isInRange(ip("10.0.0.0/8")) };`
	noReading = `@id("off") forbid (principal, action in Action::"reveal", resource);`
)

// govern gives a scene a policy, purposes, and a person with a consent, an objection and a restriction.
func (s *scene) govern(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	must := func(_ any, _ bool, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.PutPolicy(ctx, s.who, "cards", harmless, 0))
	must(s.PutPurpose(ctx, s.who, vault.Purpose{Name: "billing", LegalBasis: "contract"}, 0))
	must(s.PutPurpose(ctx, s.who, vault.Purpose{Name: "letters", LegalBasis: "consent"}, 0))
	must(s.GiveConsent(ctx, s.who, "person-9", "letters", "v1", ""))
	must(s.Object(ctx, s.who, "person-9", "billing", ""))
	must(s.Restrict(ctx, s.who, "person-9", "gdpr-18-1-a", []string{"billing"}))
	must(s.SetJurisdiction(ctx, s.who, "person-9", "GB"))
}

func governanceOperations() []operation {
	ctx := context.Background()
	return []operation{
		{name: "PutPolicy", action: policy.WritePolicies, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutPolicy(ctx, who, "more", harmless, 0)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutPolicy(ctx, who, "more", "permit", 0)
				return err
			}},
		{name: "GetPolicy", action: policy.ReadPolicies, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetPolicy(ctx, who, "cards"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetPolicy(ctx, who, "nobody"); return err }},
		{name: "ListPolicies", action: policy.ReadPolicies, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListPolicies(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListPolicies(ctx, who, "x", 10); return err }},
		{name: "PolicyHistory", action: policy.ReadPolicies, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PolicyHistory(ctx, who, "cards", "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PolicyHistory(ctx, who, "nobody", "", 10)
				return err
			}},
		{name: "Explain", action: policy.ReadPolicies, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.Explain(ctx, who, vault.Explain{Action: "policy.read"})
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.Explain(ctx, who, vault.Explain{Action: "detokenize"})
				return err
			}},
		{name: "DeletePolicy", action: policy.WritePolicies, problem: vault.PreconditionFailed,
			do:   func(s *scene, who vault.Caller) error { return s.DeletePolicy(ctx, who, "cards", 0) },
			fail: func(s *scene, who vault.Caller) error { return s.DeletePolicy(ctx, who, "cards", 9) }},
		{name: "PutPurpose", action: policy.WritePurposes, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutPurpose(ctx, who, vault.Purpose{Name: "ads", LegalBasis: "consent"}, 0)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutPurpose(ctx, who, vault.Purpose{Name: "ads", LegalBasis: "because"}, 0)
				return err
			}},
		{name: "GetPurpose", action: policy.ReadPurposes, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetPurpose(ctx, who, "billing"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetPurpose(ctx, who, "nobody"); return err }},
		{name: "ListPurposes", action: policy.ReadPurposes, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListPurposes(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListPurposes(ctx, who, "x", 10); return err }},
		{name: "GiveConsent", action: policy.WriteConsents, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.GiveConsent(ctx, who, "person-8", "letters", "v1", "")
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.GiveConsent(ctx, who, "person-8", "nothing", "v1", "")
				return err
			}},
		{name: "WithdrawConsent", action: policy.WriteConsents, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.WithdrawConsent(ctx, who, "person-9", "letters") },
			fail: func(s *scene, who vault.Caller) error { return s.WithdrawConsent(ctx, who, "nobody", "letters") }},
		{name: "Consents", action: policy.ReadConsents, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.Consents(ctx, who, "person-9", "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.Consents(ctx, who, "nobody", "", 10)
				return err
			}},
		{name: "Object", action: policy.WriteConsents, problem: vault.LooksLikePII,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.Object(ctx, who, "person-8", "billing", "")
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.Object(ctx, who, "jane@example.com", "billing", "")
				return err
			}},
		{name: "WithdrawObjection", action: policy.WriteConsents, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.WithdrawObjection(ctx, who, "person-9", "billing") },
			fail: func(s *scene, who vault.Caller) error { return s.WithdrawObjection(ctx, who, "person-9", "letters") }},
		{name: "Restrict", action: policy.Restrict, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.Restrict(ctx, who, "person-8", "gdpr-18", nil)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.Restrict(ctx, who, "person-8", "", []string{"nothing"})
				return err
			}},
		{name: "GetRestriction", action: policy.ReadConsents, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetRestriction(ctx, who, "person-9"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetRestriction(ctx, who, "nobody"); return err }},
		{name: "LiftRestriction", action: policy.Restrict, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error { return s.LiftRestriction(ctx, who, "person-9", s.Now()) },
			fail: func(s *scene, who vault.Caller) error {
				return s.LiftRestriction(ctx, who, "person-9", s.Now().Add(time.Hour))
			}},
		{name: "SetJurisdiction", action: policy.WriteSubject, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.SetJurisdiction(ctx, who, "person-8", "DE")
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.SetJurisdiction(ctx, who, "person-8", "Germany")
				return err
			}},
		{name: "ClearJurisdiction", action: policy.WriteSubject, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.ClearJurisdiction(ctx, who, "person-9") },
			fail: func(s *scene, who vault.Caller) error { return s.ClearJurisdiction(ctx, who, "nobody") }},
		{name: "DeletePurpose", action: policy.WritePurposes, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.DeletePurpose(ctx, who, "billing", 0) },
			fail: func(s *scene, who vault.Caller) error { return s.DeletePurpose(ctx, who, "nobody", 0) }},
	}
}

// A change is in force at once where it was made, and within 5 s on a replica that is being used all the time.
func TestAPolicyBitesOnEveryReplicaWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	token := v.MustTokenize(who, "people", map[string]string{"name": "Jane"}).Tokens["name"]
	other := v.Replica()
	if got := vaulttest.RevealOn(t, other, who, token); got != `"Jane"` {
		t.Fatalf("before any policy: %s", got)
	}
	for _, step := range []struct {
		change func() error
		want   string
	}{
		{func() error { _, _, err := v.PutPolicy(t.Context(), who, "off", noReading, 0); return err }, "forbidden"},
		{func() error { return v.DeletePolicy(t.Context(), who, "off", 0) }, `"Jane"`},
		{func() error { _, _, err := v.PutPolicy(t.Context(), who, "off", onlyHome, 0); return err }, "forbidden"},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		changed := time.Now()
		if got := v.Reveal(who, token); got != step.want {
			t.Errorf("on its own replica: %s, want %s", got, step.want)
		}
		for asked := time.Now(); vaulttest.RevealOn(t, other, who, token) != step.want; asked = time.Now() {
			if asked.Sub(changed) > 5*time.Second {
				t.Fatalf("not %s on the other replica when asked after %s", step.want, asked.Sub(changed))
			}
		}
		t.Logf("in force on the other replica after %s", time.Since(changed).Round(time.Millisecond))
	}
	who.Network = netip.MustParseAddr("10.1.2.3")
	v.Advance(vault.LawLife) // as if the replica had not been used for as long
	if got := vaulttest.RevealOn(t, other, who, token); got != `"Jane"` {
		t.Errorf("from home: %s", got)
	}
}

func TestNobodyLocksItselfOut(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant("admin")
	for _, text := range []string{`forbid (principal, action, resource);`, `forbid (principal in Role::"admin", action == Action::"policy.write", resource);`} {
		_, _, err := v.PutPolicy(t.Context(), who, "shut", text, 0)
		wantKind(t, text, err, vault.Conflict)
	}
	if page, _, err := v.ListPolicies(t.Context(), who, "", 10); err != nil || len(page) != 0 {
		t.Errorf("%d policies are in force, %v", len(page), err)
	}
}

// What another version of the service stored, and this one can't read, shuts the tenant's vault to all but who can mend it.
func TestAPolicyThatDoesNotCompileShutsTheVault(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	token := v.MustTokenize(who, "people", map[string]string{"name": "Jane"}).Tokens["name"]
	if _, _, err := v.PutPolicy(t.Context(), who, "cards", harmless, 0); err != nil {
		t.Fatal(err)
	}
	v.Exec(`update privault.policies set text = 'permit (principal, action == Action::"time.travel", resource);'`)
	other := v.Replica()
	if got := vaulttest.RevealOn(t, other, who, token); got != "forbidden" {
		t.Errorf("a value is shown: %s", got)
	}
	if _, _, err := other.PutPolicy(t.Context(), who, "cards", harmless, 0); err != nil {
		t.Errorf("it can't be mended: %v", err)
	}
	if got := vaulttest.RevealOn(t, other, who, token); got != `"Jane"` {
		t.Errorf("mended: %s", got)
	}
}

// person stores one record about a person and gives its token.
func person(t *testing.T, v *vaulttest.Bench, who vault.Caller, subject string) vault.Tokenized {
	t.Helper()
	item := vaulttest.Item(map[string]string{"name": "Jane"})
	item.Subject = subject
	done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
	if err != nil || done[0].Err != nil {
		t.Fatal(err, done[0].Err)
	}
	return done[0]
}

// Restriction, consent and objection are read with the records, so that they hold on every replica from the first call on.
func TestWhatAPersonSaysHoldsOnEveryReplicaAtOnce(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			ctx := t.Context()
			who := v.Tenant()
			v.Collection(who, "people", map[string]string{"name": "string"})
			for purpose, basis := range map[string]string{"billing": "contract", "letters": "consent", "ads": "legitimate_interests"} {
				if _, _, err := v.PutPurpose(ctx, who, vault.Purpose{Name: purpose, LegalBasis: basis}, 0); err != nil {
					t.Fatal(err)
				}
			}
			jane, joe := person(t, v, who, "jane"), person(t, v, who, "joe")
			replicas := []*vault.Vault{v.Vault, v.Replica(), v.Replica()}
			sees := func(what, purpose string, tokenized vault.Tokenized, want string) {
				t.Helper()
				as := who
				as.Purpose = purpose
				for i, r := range replicas {
					if got := vaulttest.RevealOn(t, r, as, tokenized.Tokens["name"]); got != want {
						t.Errorf("%s, for %q on replica %d: %s, want %s", what, purpose, i, got, want)
					}
				}
			}
			must := func(_ any, _ bool, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			sees("nothing said", "", jane, `"Jane"`)
			sees("nothing said", "letters", jane, "purpose-not-allowed")

			must(v.GiveConsent(ctx, who, "jane", "letters", "v1", "form/1"))
			sees("consent given", "letters", jane, `"Jane"`)
			sees("somebody else's consent", "letters", joe, "purpose-not-allowed")
			must(v.PutPurpose(ctx, who, vault.Purpose{Name: "letters", LegalBasis: "consent", TextVersion: "v2"}, 0))
			v.Advance(vault.LawLife)
			sees("consent to an old text", "letters", jane, "purpose-not-allowed")
			must(v.GiveConsent(ctx, who, "jane", "letters", "v2", "form/2"))
			sees("consent to the new text", "letters", jane, `"Jane"`)
			if err := v.WithdrawConsent(ctx, who, "jane", "letters"); err != nil {
				t.Fatal(err)
			}
			sees("consent withdrawn", "letters", jane, "purpose-not-allowed")

			must(v.Object(ctx, who, "jane", "ads", ""))
			sees("objected", "ads", jane, "purpose-not-allowed")
			sees("objected to another", "billing", jane, `"Jane"`)
			if err := v.WithdrawObjection(ctx, who, "jane", "ads"); err != nil {
				t.Fatal(err)
			}
			sees("no longer objected", "ads", jane, `"Jane"`)

			must(v.Restrict(ctx, who, "jane", "gdpr-18-1-a", []string{"billing"}))
			sees("restricted", "", jane, "subject-restricted")
			sees("restricted", "ads", jane, "subject-restricted")
			sees("restricted", "unheard-of", jane, "subject-restricted")
			sees("restricted, but allowed", "billing", jane, `"Jane"`)
			sees("somebody else's restriction", "", joe, `"Jane"`)
			for i, r := range replicas {
				_, err := r.GetRecord(ctx, who, "people", jane.Record, nil, "")
				wantKind(t, "GetRecord", err, vault.SubjectRestricted)
				_, err = r.PatchRecord(ctx, who, "people", jane.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
				wantKind(t, "PatchRecord", err, vault.SubjectRestricted)
				wantKind(t, "DeleteRecord", r.DeleteRecord(ctx, who, "people", jane.Record, 0), vault.SubjectRestricted)
				if t.Failed() {
					t.Fatalf("on replica %d", i)
				}
			}
			person(t, v, who, "jane") // storing goes on
			began := v.Now()
			wantKind(t, "lifted before it began", v.LiftRestriction(ctx, who, "jane", began.Add(-time.Hour)), vault.Invalid)
			if err := v.LiftRestriction(ctx, who, "jane", v.Now()); err != nil {
				t.Fatal(err)
			}
			sees("lifted", "", jane, `"Jane"`)

			page, _, err := v.Consents(ctx, who, "jane", "", 10)
			if err != nil {
				t.Fatal(err)
			}
			var history []string
			for _, e := range page {
				history = append(history, map[bool]string{true: "given ", false: "withdrawn "}[e.Given]+e.TextVersion+" "+e.Reference)
			}
			if diff := cmp.Diff([]string{"withdrawn v2 form/2", "given v2 form/2", "given v1 form/1"}, history); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			wantKind(t, "withdrawn twice", v.WithdrawConsent(ctx, who, "jane", "letters"), vault.NotFound)
		})
	}
}

func TestAPersonMaySpeakBeforeItsFirstRecord(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	if _, created, err := v.Restrict(t.Context(), who, "jane", "gdpr-18", nil); err != nil || !created {
		t.Fatal(created, err)
	}
	if _, created, err := v.Restrict(t.Context(), who, "jane", "gdpr-18", nil); err != nil || created {
		t.Error("the same restriction twice:", created, err)
	}
	if got := v.Reveal(who, person(t, v, who, "jane").Tokens["name"]); got != "subject-restricted" {
		t.Errorf("got %s", got)
	}
	if n := v.Count(`select count(*) from privault.subject_history`); n != 1 {
		t.Errorf("%d entries of history, want 1", n)
	}
}

// Where the collection or the field names purposes, values are read for those alone.
func TestPurposesOfCollectionsAndFields(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	ctx := t.Context()
	who := v.Tenant()
	for _, purpose := range []string{"billing", "support"} {
		if _, _, err := v.PutPurpose(ctx, who, vault.Purpose{Name: purpose, LegalBasis: "contract"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	text := func(purposes ...string) vault.FieldDefinition {
		return vault.FieldDefinition{Type: "string", Purposes: purposes}
	}
	for name, d := range map[string]vault.Definition{
		"open":     {Fields: map[string]vault.FieldDefinition{"a": text(), "b": text("billing")}},
		"required": {PurposeRequired: true, Fields: map[string]vault.FieldDefinition{"a": text(), "b": text("billing")}},
		"listed":   {Purposes: []string{"support", "unheard-of"}, Fields: map[string]vault.FieldDefinition{"a": text(), "b": text("billing")}},
	} {
		if _, _, err := v.PutCollection(ctx, who, name, d, 0); err != nil {
			t.Fatal(err)
		}
	}
	const yes, no = `"x"`, "purpose-not-allowed"
	for collection, rows := range map[string]map[string][2]string{ // purpose → what a and b give
		"open":     {"": {yes, no}, "unregistered": {yes, no}, "billing": {yes, yes}, "support": {yes, no}},
		"required": {"": {no, no}, "unregistered": {no, no}, "billing": {yes, yes}, "support": {yes, no}},
		"listed":   {"": {no, no}, "unregistered": {no, no}, "billing": {no, yes}, "support": {yes, no}, "unheard-of": {no, no}},
	} {
		stored := v.MustTokenize(who, collection, map[string]string{"a": "x", "b": "x"})
		for purpose, want := range rows {
			as := who
			as.Purpose = purpose
			got := [2]string{v.Reveal(as, stored.Tokens["a"]), v.Reveal(as, stored.Tokens["b"])}
			if got != want {
				t.Errorf("%s for %q: %q, want %q", collection, purpose, got, want)
			}
		}
	}
}
