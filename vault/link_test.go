package vault_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

func (h *household) link(t *testing.T, subject, other string) *vault.Link {
	t.Helper()
	l, _, err := h.LinkSubjects(t.Context(), h.who, subject, other, "duplicate")
	if err != nil {
		t.Fatalf("link %s to %s: %v", other, subject, err)
	}
	return l
}

// heldOf counts what is held of a person.
func heldOf(t *testing.T, v *vault.Vault, who vault.Caller, subject string) (n int) {
	t.Helper()
	m, _, err := v.GetSubject(t.Context(), who, subject, "", 200)
	if err != nil {
		t.Fatalf("the data map of %s: %v", subject, err)
	}
	for _, c := range m.Collections {
		n += c.Records
	}
	if n != len(m.Records) {
		t.Errorf("%s has %d records, and %d are listed", subject, n, len(m.Records))
	}
	return n
}

// Two people turn out to be one. Whatever was known of either is the one's, whichever reference is named, on every replica.
func TestLinkedReferencesAreOnePerson(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			other := h.Replica()
			ctx := t.Context()
			h.define(t, "letters")
			for _, subject := range []string{"p-1", "p-2"} { // and disclosures of both
				if got := h.Reveal(h.who, h.tokens[subject][0]); got != jane {
					t.Fatal(got)
				}
				if _, err := h.OpenRequest(ctx, h.who, of(deadline.Access, subject)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := h.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Subject: "p-1"}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.Restrict(ctx, h.who, "p-2", "dispute", nil); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.GiveConsent(ctx, h.who, "p-2", "letters", "v1", ""); err != nil {
				t.Fatal(err)
			}
			disclosures := func(subject string) []vault.Disclosure {
				page, _, err := other.Disclosures(ctx, h.who, subject, "", 200)
				if err != nil {
					t.Fatal(err)
				}
				return page
			}
			before := len(disclosures("p-1")) + len(disclosures("p-2"))

			l := h.link(t, "p-1", "p-2")
			if !l.Merged || l.Records != 4 || l.Subject != "p-1" || l.Linked != "p-2" || l.Reason != "duplicate" {
				t.Errorf("the link: %+v", l)
			}
			if again, created, err := other.LinkSubjects(ctx, h.who, "p-2", "p-1", "replaced"); err != nil || created || !cmp.Equal(again, l) {
				t.Errorf("linked again: %+v %v %v, want %+v", again, created, err, l)
			}
			h.store(t, "people", "p-2")
			for _, v := range []*vault.Vault{other, h.Vault} {
				for _, subject := range []string{"p-1", "p-2"} {
					if n := heldOf(t, v, h.who, subject); n != 9 {
						t.Errorf("%s has %d records, want 9", subject, n)
					}
					for _, token := range h.tokens[subject] {
						if got := vaulttest.RevealOn(t, v, h.who, token); got != string(vault.SubjectRestricted) {
							t.Errorf("a token of %s gives %s", subject, got)
						}
					}
					consents, _, err := v.Consents(ctx, h.who, subject, "", 10)
					if err != nil || len(consents) != 1 {
						t.Errorf("consents of %s: %v %v", subject, consents, err)
					}
					if _, err := v.GetRestriction(ctx, h.who, subject); err != nil {
						t.Errorf("the restriction of %s: %v", subject, err)
					}
					requests, _, err := v.ListRequests(ctx, h.who, vault.RequestQuery{Subject: subject}, "", 10)
					if err != nil || len(requests) != 2 {
						t.Errorf("%d requests of %s: %v", len(requests), subject, err)
					}
					links, _, err := v.Links(ctx, h.who, subject, "", 10)
					if diff := cmp.Diff([]vault.Link{*l}, links); diff != "" || err != nil {
						t.Errorf("links of %s: %v %s", subject, err, diff)
					}
					entries, _, err := v.Entries(ctx, h.who, vault.EntryQuery{Subject: subject}, "", 200)
					if err != nil || len(entries) < before {
						t.Errorf("%d entries about %s: %v", len(entries), subject, err)
					}
				}
			}
			if err := h.LiftRestriction(ctx, h.who, "p-1", h.Now()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(disclosures("p-1"), disclosures("p-2")); diff != "" || len(disclosures("p-1")) <= before {
				t.Errorf("%d disclosures, before %d (-p-1 +p-2):\n%s", len(disclosures("p-1")), before, diff)
			}
			wantKind(t, "deleting a record of the other, whose person is held", other.DeleteRecord(ctx, h.who, "people", h.of["p-2"][0], 0), vault.LegalHold)
			if e := h.erase(t, "p-2"); e.State != vault.ErasureDeferred || e.Counts.Records != 9 {
				t.Errorf("erasing under a hold: %+v", e)
			}
			patched, err := other.PatchRecord(ctx, h.who, "people", h.of["p-2"][1], vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}})
			if err != nil || patched.Version != 2 {
				t.Errorf("a change of a record of the other: %v %v", patched, err)
			}
		})
	}
}

// What one of the two has said holds for both where it protects more, and both histories are kept.
func TestWhatProtectsMoreIsKept(t *testing.T) {
	t.Parallel()
	for _, order := range [][2]string{{"p-1", "p-2"}, {"p-2", "p-1"}} {
		h := newHousehold(t)
		ctx := t.Context()
		for _, purpose := range []string{"letters", "calls", "surveys", "billing", "claims"} {
			h.define(t, purpose)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		consent := func(subject, purpose, version string) {
			t.Helper()
			_, _, err := h.GiveConsent(ctx, h.who, subject, purpose, version, "")
			must(err)
		}
		consent("p-1", "letters", "v1") // and the other has withdrawn it
		consent("p-2", "letters", "v1")
		must(h.WithdrawConsent(ctx, h.who, "p-2", "letters"))
		consent("p-1", "calls", "v1") // the other said nothing
		consent("p-1", "surveys", "v1")
		consent("p-2", "surveys", "v2") // both, the last one to another text
		_, _, err := h.Object(ctx, h.who, "p-2", "billing", "")
		must(err)
		_, _, err = h.Restrict(ctx, h.who, "p-1", "dispute-1", []string{"claims", "billing"})
		must(err)
		_, _, err = h.Restrict(ctx, h.who, "p-2", "dispute-2", []string{"claims", "letters"})
		must(err)
		h.link(t, order[0], order[1])
		for _, subject := range order {
			restricted, err := h.GetRestriction(ctx, h.who, subject)
			if diff := cmp.Diff([]string{"claims"}, restricted.Allowed); err != nil || diff != "" {
				t.Errorf("the restriction of %s allows: %v %s", subject, err, diff)
			}
			history, _, err := h.Consents(ctx, h.who, subject, "", 50)
			if err != nil || len(history) != 7 || history[0].Given || history[0].Purpose != "letters" {
				t.Errorf("the history of %s has %d entries, want 6 and that the consent was withdrawn: %+v %v", subject, len(history), history, err)
			}
		}
		facts := h.Texts(`select kind || ' ' || purpose || ' ' || text_version from privault.subject_facts order by 1`)
		if diff := cmp.Diff([]string{"consent calls v1", "consent surveys v2", "objection billing ", "restriction  "}, facts); diff != "" {
			t.Errorf("%v: facts (-want +got):\n%s", order, diff)
		}
	}
}

// An erasure takes all that came under either reference, at once, on every replica; and nothing leads from either to what was.
func TestErasingALinkedPerson(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			other := h.Replica()
			ctx := t.Context()
			h.store(t, "people", "p-3")
			d := vault.Definition{Fields: map[string]vault.FieldDefinition{"name": {Type: "string"}}, Suppression: &vault.Suppression{}}
			if _, _, err := h.PutCollection(ctx, h.who, "leads", d, 0); err != nil {
				t.Fatal(err)
			}
			h.store(t, "leads", "p-2")
			var requests []string
			for _, subject := range []string{"p-1", "p-2"} {
				r, err := h.OpenRequest(ctx, h.who, of(deadline.Access, subject))
				if err != nil {
					t.Fatal(err)
				}
				requests = append(requests, r.ID)
			}
			keys := vaulttest.CountURL(t, h.KeysURL, `select count(*) from keystore.data_keys`)
			h.link(t, "p-1", "p-2")
			h.link(t, "p-2", "p-4") // of whom nothing was known
			if n := vaulttest.CountURL(t, h.KeysURL, `select count(*) from keystore.data_keys`); n != keys+2 {
				t.Errorf("the links have %d keys, want 2", n-keys)
			}
			e, err := other.EraseSubject(ctx, h.who, "p-4", "gdpr-17", false)
			if err != nil || e.State != vault.ErasureErased {
				t.Fatal(e, err)
			}
			if diff := cmp.Diff(vault.ErasureCounts{Records: 9, DEKs: 9}, e.Counts); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			// Of 13 records' keys and two requests' there are p-3's left, and the links' have gone too.
			if n := vaulttest.CountURL(t, h.KeysURL, `select count(*) from keystore.data_keys`); n != 1 {
				t.Errorf("%d keys are left, want that of somebody else", n)
			}
			for _, v := range []*vault.Vault{h.Vault, other} {
				for _, subject := range []string{"p-1", "p-2", "p-4"} {
					for _, token := range h.tokens[subject] {
						if got := vaulttest.RevealOn(t, v, h.who, token); got != string(vault.TokenNotFound) {
							t.Errorf("a token of %s gives %s", subject, got)
						}
					}
					_, _, err := v.GetSubject(ctx, h.who, subject, "", 10)
					wantKind(t, "the data map of "+subject, err, vault.NotFound)
					_, _, err = v.Disclosures(ctx, h.who, subject, "", 10)
					wantKind(t, "the disclosures of "+subject, err, vault.NotFound)
					_, _, err = v.Links(ctx, h.who, subject, "", 10)
					wantKind(t, "the links of "+subject, err, vault.NotFound)
					if again, err := v.EraseSubject(ctx, h.who, subject, "gdpr-17", false); err != nil || again.ID != e.ID {
						t.Errorf("erasing %s again gives %s %v, want %s", subject, again.ID, err, e.ID)
					}
					_, _, err = v.LinkSubjects(ctx, h.who, "p-3", subject, "duplicate")
					wantKind(t, "linking whom was erased", err, vault.SubjectErased)
				}
				for _, id := range requests {
					r, err := v.GetRequest(ctx, h.who, id)
					if err != nil || r.Terms.Subject != "" {
						t.Errorf("a request still says %q: %v", r.Terms.Subject, err)
					}
				}
			}
			if n := h.Count(`select count(*) from privault.subject_links`); n != 0 {
				t.Errorf("%d links are left", n)
			}
			for _, subject := range []string{"p-1", "p-2", "p-4"} {
				items := []vault.NewRecord{vaulttest.Item(map[string]string{"name": "Jane"})}
				items[0].Subject = subject
				done, err := other.Tokenize(ctx, h.who, vault.Batch{Collection: "leads", Items: items})
				if err != nil || vault.AsError(done[0].Err).Kind != vault.SubjectErased {
					t.Errorf("%s in a collection that asks the suppression list: %v %v", subject, done, err)
				}
			}
			// Who comes again is somebody new, and two.
			h.store(t, "people", "p-1")
			h.store(t, "people", "p-2")
			if a, b := heldOf(t, other, h.who, "p-1"), heldOf(t, other, h.who, "p-2"); a != 1 || b != 1 {
				t.Errorf("of who came again %d and %d records are held, want 1 and 1", a, b)
			}
			h.Work()
			await(t, "the rows go", func() bool { return h.Count(`select count(*) from privault.erasing`) == 0 })
			if n := h.Count(`select count(*) from privault.records`); n != 3 {
				t.Errorf("%d records are left, want 3", n)
			}
		})
	}
}

// A person's package has the records of all references, and still none of anybody else's.
func TestAPackageHasTheRecordsOfAllReferences(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	want := []string{keep(t, v, who, "customers", "p-1", janesFields), keep(t, v, who, "customers", "p-77", map[string]string{"name": "Jane R."})}
	somebody := keep(t, v, who, "customers", "p-2", map[string]string{"name": "Somebody Else"})
	if _, _, err := v.LinkSubjects(t.Context(), who, "p-77", "p-1", "recognised"); err != nil {
		t.Fatal(err)
	}
	for _, o := range []vault.PackageOrder{order(dsar.Access, dsar.GDPR), order(dsar.Portability, dsar.GDPR)} {
		u := pack(t, v, who, o)
		var got []string
		for _, r := range u.data.Collections["customers"].Records {
			got = append(got, r.Record)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", o.Kind, diff)
		}
		if n := len(u.rows(t, "customers")); n != 3 {
			t.Errorf("the table has %d lines, want 3", n)
		}
	}
	v.Exec(`update privault.records set subject_id = (select subject_id from privault.records where record_id = $1) where record_id = $2`,
		vault.RecordID(want[0]), vault.RecordID(somebody))
	err := v.Package(t.Context(), who, order(dsar.Access, dsar.GDPR), io.Discard)
	wantKind(t, "a row of somebody else, said to be the person's", err, vault.IntegrityFailure)
}

// Persons who were merged merge once more, and the accounting goes by all their ids.
func TestAChainOfLinks(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	h.store(t, "people", "p-3")
	h.link(t, "p-2", "p-3")
	h.link(t, "p-1", "p-2")
	for _, subject := range []string{"p-1", "p-2", "p-3"} {
		if n := heldOf(t, h.Vault, h.who, subject); n != 9 {
			t.Errorf("%s has %d records, want 9", subject, n)
		}
		var all []string
		for cursor := ""; ; {
			page, next, err := h.Disclosures(ctx, h.who, subject, cursor, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				all = append(all, d.Entry)
			}
			if cursor = next; next == "" {
				break
			}
		}
		if !slices.IsSortedFunc(all, func(a, b string) int { return strings.Compare(b, a) }) || len(slices.Compact(slices.Clone(all))) != 9 {
			t.Errorf("the disclosures of %s: %v", subject, all)
		}
		links, next, err := h.Links(ctx, h.who, subject, "", 1)
		if err != nil || len(links) != 1 || links[0].Linked != "p-2" || next == "" {
			t.Fatalf("the links of %s: %+v %q %v", subject, links, next, err)
		}
		links, next, err = h.Links(ctx, h.who, subject, next, 1)
		if err != nil || len(links) != 1 || links[0].Linked != "p-3" || next != "" {
			t.Errorf("the next link of %s: %+v %q %v", subject, links, next, err)
		}
	}
}

func TestWhatIsNotLinked(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	h.store(t, "people", "p-3")
	h.store(t, "people", "p-4")
	h.erase(t, "p-4")
	if _, err := h.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Subject: "p-3"}); err != nil {
		t.Fatal(err)
	}
	if e := h.erase(t, "p-3"); e.State != vault.ErasureDeferred {
		t.Fatal(e)
	}
	before := h.Texts(`select subject_id::text || coalesce(link_id::text, '') from privault.subjects order by 1`)
	stranger := h.Tenant()
	for name, c := range map[string]struct {
		who                    vault.Caller
		subject, other, reason string
		kind                   vault.Kind
	}{
		"nobody":                      {h.who, "nobody", "p-1", "duplicate", vault.NotFound},
		"another tenant's":            {stranger, "p-1", "p-2", "duplicate", vault.NotFound},
		"no reference":                {h.who, "p-1", "", "duplicate", vault.Invalid},
		"an address":                  {h.who, "p-1", "jane@example.com", "duplicate", vault.LooksLikePII},
		"itself":                      {h.who, "p-1", "p-1", "duplicate", vault.Invalid},
		"no reason":                   {h.who, "p-1", "p-2", "because", vault.Invalid},
		"whose erasure waits":         {h.who, "p-1", "p-3", "duplicate", vault.Conflict},
		"to one whose erasure waits":  {h.who, "p-3", "p-1", "duplicate", vault.Conflict},
		"who was erased":              {h.who, "p-1", "p-4", "duplicate", vault.SubjectErased},
		"to one who was erased":       {h.who, "p-4", "p-1", "duplicate", vault.NotFound},
		"by a backend":                {vaulttest.As(h.who, "backend-writer"), "p-1", "p-2", "duplicate", vault.Forbidden},
		"an unknown one by a backend": {vaulttest.As(h.who, "backend-writer"), "nobody", "p-2", "duplicate", vault.NotFound},
	} {
		_, _, err := h.LinkSubjects(ctx, c.who, c.subject, c.other, c.reason)
		wantKind(t, name, err, c.kind)
	}
	if diff := cmp.Diff(before, h.Texts(`select subject_id::text || coalesce(link_id::text, '') from privault.subjects order by 1`)); diff != "" {
		t.Errorf("what was refused has changed something (-before +after):\n%s", diff)
	}
	// Who came again after an erasure is somebody.
	h.store(t, "people", "p-4")
	h.link(t, "p-1", "p-4")
	if n := heldOf(t, h.Vault, h.who, "p-4"); n != 5 {
		t.Errorf("%d records, want 5", n)
	}
}

// Who is on the suppression list is so under every reference, whether it was put there before the link or after.
func TestTheSuppressionListHasAllReferences(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	d := vault.Definition{Fields: map[string]vault.FieldDefinition{"name": {Type: "string"}}, Suppression: &vault.Suppression{}}
	if _, _, err := h.PutCollection(ctx, h.who, "leads", d, 0); err != nil {
		t.Fatal(err)
	}
	suppress := func(subject string) string {
		t.Helper()
		s, _, err := h.Suppress(ctx, h.who, subject)
		if err != nil {
			t.Fatal(err)
		}
		return s.ID
	}
	takes := func(subject string) bool {
		t.Helper()
		item := vaulttest.Item(map[string]string{"name": "Jane"})
		item.Subject = subject
		done, err := h.Tokenize(ctx, h.who, vault.Batch{Collection: "leads", Items: []vault.NewRecord{item}})
		if err != nil {
			t.Fatal(err)
		}
		return done[0].Err == nil
	}
	h.store(t, "people", "p-3")
	h.store(t, "people", "p-4")
	lists := []string{suppress("p-1")}
	h.link(t, "p-2", "p-1")
	h.link(t, "p-3", "p-4")
	lists = append(lists, suppress("p-4"))
	h.link(t, "p-3", "p-5")
	all := []string{"p-1", "p-2", "p-3", "p-4", "p-5"}
	for _, subject := range all {
		if takes(subject) {
			t.Errorf("%s is taken in", subject)
		}
	}
	for _, id := range lists {
		if err := h.LiftSuppression(ctx, h.who, id); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range all {
		if !takes(subject) {
			t.Errorf("%s is not taken in, though nothing keeps it out", subject)
		}
	}
}

// A hold keeps the months of the audit log in which the person was somebody else.
func TestAHoldKeepsTheMonthsOfTheMerged(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-9"}); err != nil {
		t.Fatal(err)
	}
	outcome := func() string {
		t.Helper()
		h.Sequence()
		months, err := vault.PruneAudit(t.Context(), h.OwnerURL, h.Now().AddDate(0, 2, 0), true)
		if err != nil || len(months) == 0 {
			t.Fatal(months, err)
		}
		return months[0].Outcome
	}
	if got := outcome(); got != vault.MonthDropped {
		t.Fatalf("a month in which nothing was done with the person is %s", got)
	}
	h.link(t, "p-9", "p-2")
	if got := outcome(); got != vault.MonthHeld {
		t.Errorf("a month in which something was done with the person is %s", got)
	}
}

// A request under either reference is about the one person.
func TestRequestsOfALinkedPerson(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	h.define(t, "letters")
	h.link(t, "p-1", "p-2")

	var out bytes.Buffer
	if err := fetch(t, h.Vault, h.who, h.step(t, h.ask(t, of(deadline.Access, "p-2")).ID, verified).ID, &out); err != nil {
		t.Fatal(err)
	}
	u := unpack(t, h.Bench, out.Bytes())
	if people, orders := len(u.data.Collections["people"].Records), len(u.data.Collections["orders"].Records); u.data.Subject != "p-2" || people != 4 || orders != 4 {
		t.Errorf("the package of %s has %d people and %d orders, want 4 and 4", u.data.Subject, people, orders)
	}
	stored := 0
	for _, s := range u.processing.Sources {
		stored += s.Times
	}
	if stored != 8 {
		t.Errorf("the accounting has %d times that something was stored, want 8", stored)
	}

	n := of(deadline.Correction, "p-1")
	n.Terms.Collection, n.Terms.Record, n.Fields = "people", h.of["p-2"][0], map[string]vault.Secret{"name": secret(`"Joe"`)}
	if r := h.step(t, h.ask(t, n).ID, verified); r.State != vault.RequestCompleted {
		t.Errorf("the correction is %s", r.State)
	}
	if got := h.Reveal(h.who, h.tokens["p-2"][0]); got != `"Joe"` {
		t.Errorf("after the correction: %s", got)
	}
	n = of(deadline.Objection, "p-2")
	n.Terms.Purpose = "letters"
	h.step(t, h.ask(t, n).ID, verified)
	if err := h.WithdrawObjection(ctx, h.who, "p-1", "letters"); err != nil {
		t.Errorf("the objection of the other: %v", err)
	}
	h.step(t, h.ask(t, of(deadline.Restriction, "p-2")).ID, verified)
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != string(vault.SubjectRestricted) {
		t.Errorf("a token of the restricted person gives %s", got)
	}

	hold, err := h.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Record: h.of["p-1"][0]})
	if err != nil {
		t.Fatal(err)
	}
	r := h.step(t, h.ask(t, of(deadline.Erasure, "p-2")).ID, verified)
	if r.State != vault.RequestDeferred {
		t.Fatalf("the request is %s", r.State)
	}
	if e := h.erase(t, "p-1"); e.ID != r.Certificate || e.State != vault.ErasureDeferred {
		t.Errorf("asked for under the other reference it is another erasure: %+v, want %s", e, r.Certificate)
	}
	if err := h.ReleaseHold(ctx, h.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	h.Work()
	await(t, "the erasure", func() bool {
		got, err := h.GetRequest(ctx, h.who, r.ID)
		return err == nil && got.State == vault.RequestCompleted
	})
	for _, subject := range []string{"p-1", "p-2"} {
		for _, token := range h.tokens[subject] {
			if got := h.Reveal(h.who, token); got != string(vault.TokenNotFound) {
				t.Errorf("a token of %s gives %s", subject, got)
			}
		}
	}
}

// Recipients hear that a link restricts records, and what they were told of either goes with the person.
func TestRecipientsHearOfALinkThatRestricts(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	l := h.webhook(t, "crm", func(w *vault.Webhook) { w.Events = []string{vault.EventSubjectRestricted} }, nil)
	if _, _, err := h.Restrict(ctx, h.who, "p-2", "dispute", nil); err != nil {
		t.Fatal(err)
	}
	h.deliver(t) // one after the other: they are sent at once
	h.link(t, "p-1", "p-2")
	h.link(t, "p-1", "p-3") // which restricts nobody anew
	h.deliver(t)
	messages := l.Messages()
	if len(messages) != 2 {
		t.Fatalf("%d messages, want of the restriction and of the link", len(messages))
	}
	records := 0
	for _, c := range l.read(t, messages[1]).Data.Collections {
		records += len(c.Records)
	}
	if records != 8 {
		t.Errorf("the link is told with %d records, want 8", records)
	}
	h.erase(t, "p-1")
	h.Work()
	await(t, "what was told of the person goes", func() bool { return h.Count(`select count(*) from privault.webhook_deliveries`) == 0 })
}

func linkOperations() []operation {
	ctx := context.Background()
	link := func(s *scene, who vault.Caller, subject, other, reason string) error {
		_, _, err := s.LinkSubjects(ctx, who, subject, other, reason)
		return err
	}
	links := func(s *scene, who vault.Caller, subject string) error {
		_, _, err := s.Links(ctx, who, subject, "", 10)
		return err
	}
	return []operation{
		{name: "LinkSubjects", action: policy.LinkSubjects, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { return link(s, who, "held-1", "person-1", "duplicate") },
			fail: func(s *scene, who vault.Caller) error { return link(s, who, "held-1", "person-1", "just so") }},
		{name: "LinkSubjects, of an unknown reference", action: policy.LinkSubjects, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return link(s, who, "held-1", "held-3", "replaced") },
			fail: func(s *scene, who vault.Caller) error { return link(s, who, "nobody", "held-1", "replaced") }},
		{name: "Links", action: policy.ReadSubject, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return links(s, who, "held-2") },
			fail: func(s *scene, who vault.Caller) error { return links(s, who, "nobody") }},
	}
}
