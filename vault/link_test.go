package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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

// A database from before a link knows afterwards that there is one: a hold of the person, and a restriction, are for all records.
func TestALinkSurvivesARestore(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			ctx := t.Context()
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			data, keys := h.Backup()
			l := h.link(t, "p-1", "p-2")
			h.link(t, "p-1", "p-3") // unknown before
			if _, err := h.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Subject: "p-1"}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.Restrict(ctx, h.who, "p-3", "dispute", nil); err != nil {
				t.Fatal(err)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			h.Close()
			r := h.On(data, keys)
			r.Vault = r.Replica()
			wantKind(t, "before the replay", r.Ready(ctx), vault.RestoreFence)
			if done := replay(t, r); done.Lines != 4 || done.Links != 2 || done.Unfinished != 0 {
				t.Errorf("the replay: %+v", done)
			}
			if again := replay(t, r); again.Lines != 0 {
				t.Errorf("replayed again: %+v", again)
			}
			if err := r.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			for _, subject := range []string{"p-1", "p-2", "p-3"} {
				if n := heldOf(t, r.Vault, h.who, subject); n != 8 {
					t.Errorf("%s has %d records, want 8", subject, n)
				}
			}
			wantKind(t, "deleting a record of the other", r.DeleteRecord(ctx, h.who, "people", h.of["p-2"][0], 0), vault.SubjectRestricted)
			if err := r.LiftRestriction(ctx, h.who, "p-2", h.Now()); err != nil {
				t.Fatal(err)
			}
			wantKind(t, "deleting a record of the other", r.DeleteRecord(ctx, h.who, "people", h.of["p-2"][0], 0), vault.LegalHold)
			links, _, err := r.Links(ctx, h.who, "p-2", "", 10)
			if err != nil || len(links) != 2 || links[1].ID != l.ID || links[1].Linked != "" || !links[1].Merged || links[0].Merged || links[1].Records != 4 {
				t.Errorf("links after a restore, of which the references are lost: %+v %v", links, err)
			}
		})
	}
}

// A database from before a link in which both are alive doesn't bring either back when the one person was erased; nor does a keystore alone.
func TestAnErasureOfALinkedPersonSurvivesARestore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options          []vaulttest.Option
		oldData, oldKeys bool
	}{
		"one database":  {nil, true, true},
		"data and keys": {[]vaulttest.Option{vaulttest.Apart}, true, true},
		"data alone":    {[]vaulttest.Option{vaulttest.Apart}, true, false},
		"keys alone":    {[]vaulttest.Option{vaulttest.Apart}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, c.options...)
			ctx := t.Context()
			request, err := h.OpenRequest(ctx, h.who, of(deadline.Access, "p-2"))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			data, keys := h.Backup()
			h.link(t, "p-1", "p-2")
			h.store(t, "people", "p-2")
			e := h.erase(t, "p-1")
			if e.Counts.Records != 9 {
				t.Fatal(e)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			h.Close()
			if !c.oldData {
				data = vaulttest.DatabaseOf(t, h.OwnerURL)
			}
			if !c.oldKeys {
				keys = vaulttest.DatabaseOf(t, h.KeysURL)
			}
			r := h.On(data, keys)
			r.Vault = r.Replica()
			if done := replay(t, r); done.Erasures != 1 {
				t.Errorf("the replay: %+v", done)
			}
			if err := r.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			if n := vaulttest.CountURL(t, r.KeysURL, `select count(*) from keystore.data_keys`); n != 0 {
				t.Errorf("%d keys came back", n)
			}
			for _, subject := range []string{"p-1", "p-2"} {
				for _, token := range h.tokens[subject] {
					if got := r.Reveal(h.who, token); got != string(vault.TokenNotFound) {
						t.Errorf("a token of %s gives %s", subject, got)
					}
				}
				if again, err := r.EraseSubject(ctx, h.who, subject, "gdpr-17", false); err != nil || again.ID != e.ID {
					t.Errorf("erasing %s again gives %s %v, want %s", subject, again.ID, err, e.ID)
				}
			}
			if got, err := r.GetRequest(ctx, h.who, request.ID); err != nil || got.Terms.Subject != "" {
				t.Errorf("a request still says %q: %v", got.Terms.Subject, err)
			}
			if n := r.Count(`select (select count(*) from privault.subjects) + (select count(*) from privault.subject_links)`); n != 0 {
				t.Errorf("%d rows lead to the person", n)
			}
		})
	}
}

// A link that was written ahead and never committed is made, unless one of the two was erased meanwhile.
func TestALinkThatWasBegunIsFinished(t *testing.T) {
	t.Parallel()
	for _, erased := range []string{"", "p-1", "p-2"} {
		t.Run("erased: "+erased, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t)
			h.Exec(`create function privault.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
				create constraint trigger refuse after insert on privault.subject_links deferrable initially deferred for each row execute function privault.refuse()`)
			if _, _, err := h.LinkSubjects(t.Context(), h.who, "p-1", "p-2", "duplicate"); err == nil {
				t.Fatal("the commit did not fail")
			}
			h.Exec(letCommit)
			if erased != "" {
				h.erase(t, erased)
			}
			h.Advance(2 * time.Minute)
			if err := h.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			switch erased {
			case "":
				if n := heldOf(t, h.Vault, h.who, "p-2"); n != 8 {
					t.Errorf("p-2 has %d records, want 8", n)
				}
			case "p-1":
				if n := heldOf(t, h.Vault, h.who, "p-2"); n != 4 {
					t.Errorf("p-2 has %d records, want 4", n)
				}
			case "p-2":
				_, _, err := h.GetSubject(t.Context(), h.who, "p-2", "", 10)
				wantKind(t, "who was erased", err, vault.NotFound)
			}
		})
	}
}

// An erasure of one of two that was begun, and whose commit was lost, is done although the two are one by then.
func TestAnErasureThatWasBegunFindsTheLinkedPerson(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.Exec(failCommits)
	if _, err := h.EraseSubject(t.Context(), h.who, "p-2", "gdpr-17", false); err == nil {
		t.Fatal("the commit did not fail")
	}
	h.Exec(letCommit)
	h.link(t, "p-1", "p-2")
	h.Advance(2 * time.Minute)
	if err := h.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"p-1", "p-2"} {
		if got := h.Reveal(h.who, h.tokens[subject][0]); got != string(vault.TokenNotFound) {
			t.Errorf("a token of %s gives %s", subject, got)
		}
	}
}

// New keys of pseudonyms find a person by every reference, those too under which nothing is stored.
func TestLinksSurviveNewKeysOfPseudonyms(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	other := h.Replica()
	ctx := t.Context()
	h.link(t, "p-1", "p-2")
	h.link(t, "p-1", "p-3")
	e := h.erase(t, "p-1")
	for _, subject := range []string{"p-4", "p-5"} {
		h.store(t, "people", subject)
	}
	h.link(t, "p-4", "p-5")
	h.link(t, "p-4", "p-6")
	rotate := func() {
		t.Helper()
		for _, name := range []string{"pseudonym", "wrap"} {
			done, err := h.RotateKey(ctx, h.who, name)
			if err != nil {
				t.Fatal(err)
			}
			if done.Job != "" {
				h.Finish(h.who, done.Job)
			}
		}
	}
	h.Work()
	rotate()
	h.store(t, "people", "p-6")
	rotate()
	for _, subject := range []string{"p-6", "p-5", "p-4"} {
		if n := heldOf(t, other, h.who, subject); n != 3 {
			t.Errorf("%s has %d records, want 3", subject, n)
		}
		links, _, err := other.Links(ctx, h.who, subject, "", 10)
		if err != nil || len(links) != 2 || links[0].Linked != "p-6" || links[1].Linked != "p-5" {
			t.Errorf("the links of %s: %+v %v", subject, links, err)
		}
	}
	for _, subject := range []string{"p-3", "p-2", "p-1"} {
		if again, err := other.EraseSubject(ctx, h.who, subject, "gdpr-17", false); err != nil || again.ID != e.ID {
			t.Errorf("erasing %s again gives %s %v, want %s", subject, again.ID, err, e.ID)
		}
	}
	if e, err := other.EraseSubject(ctx, h.who, "p-6", "gdpr-17", false); err != nil || e.Counts.Records != 3 {
		t.Errorf("erased: %+v %v", e, err)
	}
	if n := h.Count(`select count(*) from privault.subjects`); n != 0 {
		t.Errorf("%d references are left", n)
	}
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

// While people write, read, change, restrict, erase and link on two replicas, every record goes with its person.
func TestLinksRaceWithEverything(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.Work() // rows are purged meanwhile
	ctx := t.Context()
	replicas := []*vault.Vault{h.Vault, h.Replica()}
	var mu sync.Mutex
	written := map[int][]vault.Tokenized{}
	write := func(v *vault.Vault, n int, subject string) error {
		item := vaulttest.Item(map[string]string{"name": "Jane"})
		item.Subject = subject
		done, err := v.Tokenize(ctx, h.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err == nil && done[0].Err != nil {
			err = done[0].Err
		}
		if err == nil {
			mu.Lock()
			written[n] = append(written[n], done[0])
			mu.Unlock()
		}
		return err
	}
	count := map[string]int{}
	const pairs = 60
	for n := range pairs {
		a, b := fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n)
		for _, subject := range []string{a, b} {
			if err := write(h.Vault, n, subject); err != nil {
				t.Fatal(err)
			}
		}
		guarded := n%3 == 0 // one of the two is restricted, and so is never read
		if guarded {
			if _, _, err := h.Restrict(ctx, h.who, b, "dispute", nil); err != nil {
				t.Fatal(err)
			}
		}
		first, second := written[n][0], written[n][1]
		deeds := []func(*vault.Vault) error{
			func(v *vault.Vault) error { _, _, err := v.LinkSubjects(ctx, h.who, a, b, "duplicate"); return err },
			func(v *vault.Vault) error { _, _, err := v.LinkSubjects(ctx, h.who, b, a, "duplicate"); return err },
			func(v *vault.Vault) error { return write(v, n, a) },
			func(v *vault.Vault) error { return write(v, n, b) },
			func(v *vault.Vault) error { return write(v, n, b) },
			func(v *vault.Vault) error {
				if got := vaulttest.RevealOn(t, v, h.who, second.Tokens["name"]); guarded && got == jane {
					return errors.New("who is restricted was read")
				}
				return nil
			},
			func(v *vault.Vault) error {
				_, err := v.PatchRecord(ctx, h.who, "people", first.Record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Jane"`)}})
				return err
			},
			func(v *vault.Vault) error { _, _, err := v.Object(ctx, h.who, b, "default", ""); return err },
			func(v *vault.Vault) error {
				_, err := v.OpenRequest(ctx, h.who, of(deadline.Access, b))
				return err
			},
			func(v *vault.Vault) error { return v.DeleteRecord(ctx, h.who, "people", second.Record, 0) },
		}
		if n%2 == 0 {
			deeds = append(deeds, func(v *vault.Vault) error { _, err := v.EraseSubject(ctx, h.who, a, "gdpr-17", false); return err },
				func(v *vault.Vault) error { _, err := v.EraseSubject(ctx, h.who, b, "gdpr-17", false); return err })
		}
		var wait sync.WaitGroup
		for i, do := range deeds {
			wait.Go(func() {
				err := do(replicas[(i+n)%2])
				mu.Lock()
				defer mu.Unlock()
				switch kind := vault.AsError(err).Kind; {
				case err == nil:
					count["done"]++
				case slices.Contains([]vault.Kind{vault.NotFound, vault.SubjectErased, vault.SubjectRestricted}, kind):
					count[string(kind)]++
				default:
					t.Errorf("pair %d, deed %d: %v", n, i, err)
				}
			})
		}
		wait.Wait()
		// Whoever of them is there is linked, and then all that can be read is held, and all of it goes.
		for _, subject := range []string{a, b} {
			if err := write(replicas[1], n, subject); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := replicas[0].LinkSubjects(ctx, h.who, a, b, "duplicate"); err != nil {
			t.Fatal(err)
		}
		living := h.Count(`select count(*) from keystore.data_keys k join privault.records r using (tenant_id, record_id) where r.record_id = any($1)`, idsOf(written[n]))
		if n := heldOf(t, replicas[0], h.who, b); n != living {
			t.Errorf("%d records are held, and %d have a key", n, living)
		}
		if _, err := replicas[1].EraseSubject(ctx, h.who, a, "gdpr-17", false); err != nil {
			t.Fatal(err)
		}
		for _, d := range written[n] {
			if got := vaulttest.RevealOn(t, replicas[0], h.who, d.Tokens["name"]); got != string(vault.TokenNotFound) {
				t.Errorf("pair %d: a token of an erased person gives %s", n, got)
			}
		}
		if left := h.Count(`select count(*) from keystore.data_keys where record_id = any($1)`, idsOf(written[n])); left != 0 {
			t.Errorf("pair %d: %d keys are left", n, left)
		}
	}
	t.Logf("%v", count)
	if count["done"] < pairs || count[string(vault.NotFound)] == 0 {
		t.Errorf("nothing was raced for: %v", count)
	}
}

func idsOf(all []vault.Tokenized) (ids []vault.ID) {
	for _, d := range all {
		ids = append(ids, vault.RecordID(d.Record))
	}
	return ids
}

// Merging a person with many records takes one transaction, which the person's other calls wait for (PRIVAULT_MERGE_RECORDS: how many).
func TestMergingManyRecordsIsQuick(t *testing.T) {
	t.Parallel()
	many := 2000
	if text := os.Getenv("PRIVAULT_MERGE_RECORDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		many = n
	}
	h := newHousehold(t)
	for stored := 0; stored < many; {
		items := make([]vault.NewRecord, min(1000, many-stored))
		for i := range items {
			items[i] = vaulttest.Item(map[string]string{"name": "Jane"})
			items[i].Subject = "p-3"
		}
		if _, err := h.Tokenize(context.Background(), h.who, vault.Batch{Collection: "people", Items: items}); err != nil {
			t.Fatal(err)
		}
		stored += len(items)
	}
	began := time.Now()
	l := h.link(t, "p-1", "p-3")
	took := time.Since(began)
	t.Logf("%d records became another's in %v", l.Records, took.Round(time.Millisecond))
	if l.Records != many || took > 8*time.Second {
		t.Errorf("%d records in %v", l.Records, took)
	}
	if n := h.Count(`select count(*) from privault.records r join privault.subjects s using (tenant_id, subject_id) where s.link_id is null`); n != many+8 {
		t.Errorf("%d records are somebody's, want %d", n, many+8)
	}
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
