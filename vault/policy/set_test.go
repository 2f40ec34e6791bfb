package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/policy"
)

func compile(t testing.TB, texts ...string) *policy.Set {
	t.Helper()
	var documents []policy.Document
	for i, text := range texts {
		if faults := policy.Check(text); len(faults) > 0 {
			t.Fatalf("%s\n%+v", text, faults)
		}
		documents = append(documents, policy.Document{Name: fmt.Sprintf("d%d", i), Version: 1, Text: text})
	}
	s, err := policy.Compile(documents)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEveryFactCanDecide(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for condition, change := range map[string]func(*policy.Question){
		`context.view != "plain"`:                                      func(q *policy.Question) { q.View = policy.Plain },
		`context.purpose == "billing"`:                                 func(q *policy.Question) { q.Facts.Purpose = "marketing" },
		`context.legal_basis == "contract"`:                            func(q *policy.Question) { q.Facts.LegalBasis = "consent" },
		`context.network.isInRange(ip("10.0.0.0/8"))`:                  func(q *policy.Question) { q.Facts.Network = netip.MustParseAddr("11.0.0.1") },
		`context.network.isIpv4()`:                                     func(q *policy.Question) { q.Facts.Network = netip.Addr{} },
		`context.method == "api-key"`:                                  func(q *policy.Question) { q.Facts.Method = "jwt" },
		`context.mtls`:                                                 func(q *policy.Question) { q.Facts.MTLS = false },
		`context.dpop`:                                                 func(q *policy.Question) { q.Facts.DPoP = false },
		`context.time < datetime("2026-03-04T17:00:00Z")`:              func(q *policy.Question) { q.Facts.Now = at.Add(5 * time.Hour) },
		`context.time.toTime() >= duration("9h")`:                      func(q *policy.Question) { q.Facts.Now = at.Add(-4 * time.Hour) },
		`context.has_subject`:                                          func(q *policy.Question) { q.Facts.Subject.Known = false },
		`!context.restricted`:                                          func(q *policy.Question) { q.Facts.Subject.Restricted = true },
		`!context.objected`:                                            func(q *policy.Question) { q.Facts.Subject.Objected = true },
		`context.jurisdiction like "DE*"`:                              func(q *policy.Question) { q.Facts.Subject.Jurisdiction = "US-CA" },
		`context.consented`:                                            func(q *policy.Question) { q.Facts.Subject.Consented = false },
		`resource.collection == "people"`:                              func(q *policy.Question) { q.Resource.Collection = "staff" },
		`resource in Collection::"people"`:                             func(q *policy.Question) { q.Resource.Collection = "staff" },
		`resource in Vault::"vault" && resource.name == "email"`:       func(q *policy.Question) { q.Resource.Field = "name" },
		`resource == Field::"people/email"`:                            func(q *policy.Question) { q.Resource.Field = "name" },
		`["public", "confidential"].contains(resource.classification)`: func(q *policy.Question) { q.Resource.Classification = "restricted" },
		`principal == Principal::"prn_1"`:                              func(q *policy.Question) { q.Principal.ID = "prn_2" },
		`principal in Role::"support"`:                                 func(q *policy.Question) { q.Principal.Roles = []string{"sales"} },
		`principal.hasTag("team") && principal.getTag("team").contains("fraud")`: func(q *policy.Question) {
			q.Principal.Attributes = map[string][]string{"team": {"sales"}}
		},
		`principal.hasTag("device_managed")`: func(q *policy.Question) { delete(q.Principal.Attributes, "device_managed") },
		`action == Action::"detokenize"`:     func(q *policy.Question) { q.Action = policy.ReadRecord },
		`action in Action::"reveal"`:         func(q *policy.Question) { q.Action = policy.UpdateRecord },
	} {
		s := compile(t, `permit (principal, action in [Action::"reveal", Action::"record.update"], resource) when { `+condition+` };`)
		q := policy.Question{
			Principal: policy.Principal{ID: "prn_1", Roles: []string{"support"},
				Attributes: map[string][]string{"team": {"ops", "fraud"}, "device_managed": {"true"}}},
			Action: policy.Detokenize, View: policy.Masked,
			Resource: policy.Resource{Collection: "people", Field: "email", Classification: "confidential"},
			Facts: policy.Facts{Purpose: "billing", LegalBasis: "contract", Network: netip.MustParseAddr("::ffff:10.1.2.3"), Method: "api-key",
				MTLS: true, DPoP: true, Now: at, Subject: policy.SubjectFacts{Known: true, Consented: true, Jurisdiction: "DE-BY"}},
		}
		if got := s.Decide(q); !got.Allowed || got.Rule != "policy:d0@1#1" {
			t.Errorf("%s: %+v", condition, got)
		}
		change(&q)
		if got := s.Decide(q); got.Allowed {
			t.Errorf("%s does not hold, and yet %+v", condition, got)
		}
	}
}

func TestAForbidWins(t *testing.T) {
	t.Parallel()
	s := compile(t, `@id("everything") permit (principal, action, resource);`,
		`@id("cards") forbid (principal, action in Action::"reveal", resource) when { resource.classification == "restricted" };`)
	q := ask(policy.Detokenize, policy.Masked, "backend-reader")
	if got := s.Decisive(q); cmp.Diff([]string{"role:backend-reader", "policy:d0@1#everything"}, got) != "" {
		t.Errorf("decided by %q", got)
	}
	q.Resource.Classification = "restricted"
	if diff := cmp.Diff(policy.Ruling{Rule: "policy:d1@1#cards"}, s.Decide(q)); diff != "" {
		t.Error(diff)
	}
	forbidden := compile(t, `forbid (principal, action, resource);`)
	for _, action := range policy.Actions() {
		if got := forbidden.Decide(ask(action, policy.NoView, policy.Developer)); got.Allowed || got.Rule != "policy:d0@1#1" {
			t.Errorf("%s: %+v", action, got)
		}
	}
}

// Cedar skips a policy whose condition fails to evaluate, a forbid too. Here that denies.
func TestAnErrorDenies(t *testing.T) {
	t.Parallel()
	const overflow = `9223372036854775807 + (if context.mtls then 1 else 0) > 0`
	for effect, want := range map[string]policy.Ruling{
		"forbid": {Rule: "error:d0@1#broken"},
		"permit": {Rule: "error:d0@1#broken"},
	} {
		s := compile(t, `@id("broken") `+effect+` (principal, action, resource) when { `+overflow+` };`)
		q := ask(policy.Detokenize, policy.Plain, policy.Developer)
		q.Facts.MTLS = true
		if diff := cmp.Diff(want, s.Decide(q)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", effect, diff)
		}
	}
}

func TestTheMostThatIsShown(t *testing.T) {
	t.Parallel()
	s := compile(t, `@id("cards") forbid (principal, action in Action::"reveal", resource == Field::"people/pan") unless { context.view == "redacted" };`)
	for _, row := range []struct {
		role, field string
		want        policy.View
	}{
		{"backend-reader", "email", policy.Plain}, {"backend-reader-masked", "email", policy.Masked},
		{"backend-reader", "pan", policy.Redacted}, {"backend-writer", "email", policy.NoView},
	} {
		q := ask(policy.Detokenize, policy.NoView, row.role)
		q.Resource.Field = row.field
		if got, ruling := s.Most(q); got != row.want || ruling.Allowed != (got > policy.NoView) {
			t.Errorf("%s sees of %s: %v, %+v", row.role, row.field, got, ruling)
		}
	}
}

// Where no policy tells fields apart, a field is decided as its collection is, which the caller of Finely relies on.
func TestWhatTellsFieldsApart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`permit (principal, action, resource);`:                                                                              false,
		`permit (principal, action, resource is Field);`:                                                                     false,
		`permit (principal, action, resource in Collection::"people");`:                                                      false,
		`permit (principal, action in Action::"reveal", resource) when { resource.collection == "people" };`:                 false,
		`permit (principal, action in Action::"reveal", resource) when { context.mtls && principal in Role::"x" };`:          false,
		`permit (principal, action in Action::"reveal", resource) when { resource.name == "email" };`:                        true,
		`permit (principal, action in Action::"reveal", resource) when { resource.classification == "public" };`:             true,
		`permit (principal, action in Action::"reveal", resource == Field::"people/email");`:                                 true,
		`permit (principal, action in Action::"reveal", resource in Field::"people/email");`:                                 true,
		`permit (principal, action in Action::"reveal", resource) when { resource == Field::"people/email" };`:               true,
		`permit (principal, action in Action::"reveal", resource) when { [Field::"people/email"].contains(resource) };`:      true,
		`permit (principal, action == Action::"tokenize", resource) when { resource == Field::"people/email" };`:             false,
		`forbid (principal, action, resource is Field) unless { resource.classification == "public" && context.dpop };`:      true,
		`permit (principal, action in Action::"reveal", resource) when { resource.collection == "p" || resource.name=="e"};`: true,
	} {
		if got := compile(t, text).Finely(policy.Detokenize); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

func TestFaultsSayWhereAndQuoteNothing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"permit (principal, action, resource)":                                                                            "1:37 syntax",
		"permit (principal, action,\n  secretword);":                                                                      "2:13 syntax",
		"permit (principal, action == Action::\"secretword\", resource);":                                                 "1:30 unknown-action",
		"permit (principal == Secretword::\"x\", action, resource);":                                                      "1:22 unknown-entity-type",
		"permit (principal, action, resource)\nwhen { context.secretword };":                                              "2:16 unknown-attribute",
		"permit (principal, action, resource);\npermit (principal, action, resource)\nwhen { resource.secretword == 1 };": "3:17 unknown-attribute",
		"permit (principal, action == Action::\"detokenize\", resource) when { context.view == 5 };":                      "1:1 type",
		"permit (principal, action, resource) when { principal.getTag(\"secretword\").contains(\"x\") };":                 "1:63 optional",
		"permit (principal, action, resource) when { context.network.isInRange(ip(\"secretword\")) };":                    "1:75 literal",
		"permit (principal, action == Action::\"policy.write\", resource is Field);":                                      "1:1 not-applicable",
		"@id(\"Secretword\") permit (principal, action, resource);":                                                       "1:6 id",
		"@id(\"a\") permit (principal, action, resource); @id(\"a\") permit (principal, action, resource);":               "1:53 id",
		"":                                    "1:1 size",
		"// nothing\n":                        "1:1 size",
		strings.Repeat(" ", policy.MaxText+1): "1:1 max-length",
		"permit (principal, action, resource) when { \"a };\n": "1:45 syntax",
	} {
		faults := policy.Check(text)
		if len(faults) == 0 {
			t.Errorf("%q passes", text)
			continue
		}
		got := fmt.Sprintf("%d:%d %s", faults[0].Line, faults[0].Column, faults[0].Rule)
		if got != want {
			t.Errorf("%.80q: got %s, want %s", text, got, want)
		}
		if said := strings.ToLower(fmt.Sprint(faults)); strings.Contains(said, "secretword") {
			t.Errorf("%q is quoted: %s", text, said)
		}
	}
}

// fifty policies about reading values, as a large tenant might have them: each with a scope and a condition.
func fifty(t testing.TB) *policy.Set {
	t.Helper()
	var b strings.Builder
	for i := range 50 {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "permit (principal in Role::\"team%d\", action in Action::\"reveal\", resource) when { resource.collection == \"people\" && context.purpose == \"p%d\" };\n", i%10, i)
		case 1:
			fmt.Fprintf(&b, "forbid (principal, action in Action::\"reveal\", resource) when { resource.classification == \"restricted\" && context.purpose == \"p%d\" };\n", i)
		case 2:
			fmt.Fprintf(&b, "permit (principal in Role::\"team%d\", action == Action::\"tokenize\", resource);\n", i%10)
		case 3:
			fmt.Fprintf(&b, "forbid (principal, action == Action::\"detokenize\", resource) unless { context.network.isInRange(ip(\"10.0.0.0/8\")) };\n")
		case 4:
			fmt.Fprintf(&b, "permit (principal, action == Action::\"record.read\", resource == Field::\"people/f%d\") when { context.mtls };\n", i)
		}
	}
	return compile(t, b.String())
}

func BenchmarkDecide(b *testing.B) {
	q := ask(policy.Detokenize, policy.Masked, "backend-reader-masked", "team0")
	q.Facts = policy.Facts{Purpose: "billing", LegalBasis: "contract", Network: netip.MustParseAddr("10.1.2.3"), Method: "api-key", Now: time.Now()}
	for name, s := range map[string]*policy.Set{"roles": policy.Builtin(), "fifty": fifty(b)} {
		for _, asked := range []string{"before", "never before"} {
			b.Run(name+"/asked "+asked, func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if asked == "never before" {
						q.Facts.Network = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
					}
					if !s.Decide(q).Allowed {
						b.Fatal("denied")
					}
				}
			})
		}
	}
}

// What is remembered is the ruling on just this question, however many were asked meanwhile.
func TestRulingsAreRemembered(t *testing.T) {
	t.Parallel()
	s := compile(t, `permit (principal, action == Action::"detokenize", resource) when { context.network.isInRange(ip("10.0.0.0/9")) };`)
	for range 2 {
		for i := range 10_000 {
			q := ask(policy.Detokenize, policy.Masked)
			q.Facts.Network = netip.AddrFrom4([4]byte{10, byte(i % 2 * 128), byte(i >> 8), byte(i)})
			if got := s.Decide(q).Allowed; got != (i%2 == 0) {
				t.Fatalf("%s: %t", q.Facts.Network, got)
			}
		}
	}
}

// A collection, and its values as a whole, are two things of one name.
func TestACollectionIsNotItsFields(t *testing.T) {
	t.Parallel()
	s := compile(t, `permit (principal, action, resource is Field) when { resource.collection == "people" };
		permit (principal, action, resource == Collection::"people") when { context.method == "jwt" };`)
	whole := policy.Resource{Collection: "people"}
	for range 2 {
		if got := s.Decide(policy.Question{Action: policy.ReadCollection, Resource: whole}); got.Allowed {
			t.Errorf("the collection: %+v", got)
		}
		if got := s.Decide(policy.Question{Action: policy.Detokenize, View: policy.Masked, Resource: whole}); !got.Allowed {
			t.Errorf("its values: %+v", got)
		}
		if got := s.Decide(policy.Question{Action: policy.ReadCollection, Resource: whole, Facts: policy.Facts{Method: "jwt"}}); !got.Allowed {
			t.Errorf("the collection by a JWT: %+v", got)
		}
	}
}
