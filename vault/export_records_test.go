package vault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// exported collects what an export sends, by record, and how large its pages were.
func exported(t *testing.T, v *vault.Vault, who vault.Caller, x vault.Export) (records map[string]vault.Exported, pages []int) {
	t.Helper()
	records = map[string]vault.Exported{}
	last := ""
	err := v.ExportRecords(t.Context(), who, x, func(page []vault.Exported) error {
		pages = append(pages, len(page))
		for _, r := range page {
			if r.ID <= last {
				t.Errorf("record %s comes behind %s", r.ID, last)
			}
			last, records[r.ID] = r.ID, r
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, pages
}

func shownOf(r vault.Exported) map[string]string {
	fields := map[string]string{}
	for name, value := range r.Fields {
		fields[name] = string(value.Reveal())
	}
	return fields
}

func TestAnExportHasEveryRecordWithItsTokens(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			who, foreign := v.Tenant(), v.Tenant()
			for _, tenant := range []vault.Caller{who, foreign} {
				defineFields(t, v, tenant, "people", everyToken)
				v.Collection(tenant, "others", map[string]string{"note": "text"})
			}
			var want []vault.Tokenized
			for i := range 13 {
				var items []vault.NewRecord
				for n := range 100 {
					item := everyValue()
					item.Subject = fmt.Sprintf("person-%d", i*100+n)
					item.Tokens = map[string]string{"legacy": fmt.Sprint("legacy-", i, "-", n), "moved": fmt.Sprint("moved-", i, "-", n)}
					items = append(items, item)
				}
				done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items})
				if err != nil || done[0].Err != nil {
					t.Fatal(err, done)
				}
				want = append(want, done...)
				v.MustTokenize(who, "others", map[string]string{"note": "x"})
			}
			if _, err := v.Tokenize(t.Context(), foreign, vault.Batch{Collection: "people", Items: []vault.NewRecord{everyValue()}}); err != nil {
				t.Fatal(err)
			}
			got, pages := exported(t, v.Vault, who, vault.Export{Collection: "people", View: "plain", Views: map[string]string{"card": "masked", "note": "redacted"}})
			if len(got) != len(want) || len(pages) < 3 {
				t.Errorf("%d records in %d pages, want %d", len(got), len(pages), len(want))
			}
			for i, w := range want {
				g := got[w.Record]
				if diff := cmp.Diff(w.Tokens, g.Tokens); diff != "" || g.Err != nil || g.Subject != fmt.Sprintf("person-%d", i) {
					t.Fatalf("record %d (-stored +exported): %v %s\n%s", i, g.Err, g.Subject, diff)
				}
				fields := shownOf(g)
				if fields["card"] != `"************1111"` || fields["note"] != "null" || fields["email"] != `"jane@example.com"` {
					t.Fatalf("record %d is shown as %v", i, fields)
				}
			}
			// It goes on where it was cut short, and narrows to some fields.
			rest, _ := exported(t, v.Vault, who, vault.Export{Collection: "people", After: want[1249].Record, Fields: []string{"name"}})
			if len(rest) != 50 {
				t.Errorf("%d records behind the 1,250th", len(rest))
			}
			for id, r := range rest {
				if diff := cmp.Diff(map[string]string{"name": `"J*** R***"`}, shownOf(r)); diff != "" || len(r.Tokens) != 1 {
					t.Fatalf("%s: %s %v", id, diff, r.Tokens)
				}
			}
			// What was shown stands in the log, record by record.
			if n := v.Count(`
				select count(distinct r) from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') x, jsonb_array_elements_text(x->'records') r
				where e.action = 'record.export' and x->>'view' = 'plain'`); n != len(want) {
				t.Errorf("%d records stand in the log as shown", n)
			}
			if empty, pages := exported(t, v.Vault, who, vault.Export{Collection: "people", After: want[1299].Record}); len(empty) != 0 || len(pages) != 1 {
				t.Errorf("behind the last: %d records in %d pages", len(empty), len(pages))
			}
		})
	}
}

// Restriction, objection, consent, purpose and expiry hold as for every other read; what is withheld is said.
func TestAnExportWithholdsWhatAReadWould(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"name": {Type: "name", Index: []string{"exact"}}})
	soon := v.Now().Add(time.Hour)
	ids := map[string]string{}
	for _, person := range []string{"free", "restricted", "objects", "brief", "erased"} {
		item := vaulttest.Item(map[string]string{"name": "Jane Roe"})
		if item.Subject = person; person == "brief" {
			item.Expires = &soon
		}
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err != nil {
			t.Fatal(err)
		}
		ids[done[0].Record] = person
	}
	must := func(_ any, _ bool, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(v.PutPurpose(t.Context(), who, vault.Purpose{Name: "letters", LegalBasis: "contract"}, 0))
	must(v.PutPurpose(t.Context(), who, vault.Purpose{Name: "law", LegalBasis: "legal_obligation"}, 0))
	must(v.PutPurpose(t.Context(), who, vault.Purpose{Name: "ads", LegalBasis: "consent"}, 0))
	must(v.Restrict(t.Context(), who, "restricted", "gdpr-18-1-a", []string{"law"}))
	must(v.Object(t.Context(), who, "objects", "letters", ""))
	must(v.GiveConsent(t.Context(), who, "free", "ads", "v1", ""))
	if _, err := v.EraseSubject(t.Context(), who, "erased", "gdpr-17", false); err != nil {
		t.Fatal(err)
	}
	v.Advance(2 * time.Hour)
	for purpose, want := range map[string]map[string]vault.Kind{
		"":        {"free": "", "restricted": vault.SubjectRestricted, "objects": ""},
		"letters": {"free": "", "restricted": vault.SubjectRestricted, "objects": vault.PurposeNotAllowed},
		"law":     {"free": "", "restricted": "", "objects": ""},
		"ads":     {"free": "", "restricted": vault.SubjectRestricted, "objects": vault.PurposeNotAllowed},
	} {
		who.Purpose = purpose
		records, _ := exported(t, v.Vault, who, vault.Export{Collection: "people", View: "plain"})
		got, free := map[string]vault.Kind{}, map[string]bool{}
		for id, r := range records {
			got[ids[id]] = ""
			if r.Err != nil {
				got[ids[id]] = r.Err.Kind
			} else {
				free[ids[id]] = true
			}
			if (r.Err == nil) != (shownOf(r)["name"] == `"Jane Roe"`) || (r.Err == nil) != (len(r.Tokens) == 1) {
				t.Errorf("purpose %q: %s is sent as %+v", purpose, ids[id], r)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("purpose %q (-want +got):\n%s", purpose, diff)
		}
		// A search finds just those.
		found := map[string]bool{}
		for _, id := range finds(t, v.Vault, who, seek("people", "name", "Jane Roe")) {
			found[ids[id]] = true
		}
		if diff := cmp.Diff(free, found); diff != "" {
			t.Errorf("purpose %q: exported and found differ (-exported +found):\n%s", purpose, diff)
		}
	}
	// What a search withheld stands in its entry.
	if n := v.Count(`select count(*) from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') x
		where e.action = 'search' and x->>'outcome' = 'denied' and (e.body::jsonb->>'refused')::int = jsonb_array_length(x->'records')`); n != 3 {
		t.Errorf("%d searches say what they withheld, want 3", n)
	}
}

func TestWhoMayExport(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"name": {Type: "name"}, "email": {Type: "email"}})
	v.MustTokenize(who, "people", map[string]string{"name": "Jane Roe", "email": "jane@example.com"})
	sent := 0
	export := func(who vault.Caller, x vault.Export) error {
		return v.ExportRecords(t.Context(), who, x, func(page []vault.Exported) error {
			sent += len(page)
			return nil
		})
	}
	for _, role := range []string{"admin", "backend-writer", "backend-reader", "compliance", "operator"} {
		wantKind(t, role, export(vaulttest.As(who, role), vault.Export{Collection: "people"}), vault.Forbidden)
	}
	for what, x := range map[string]vault.Export{
		"an unknown view":           {Collection: "people", View: "clear"},
		"an unknown field":          {Collection: "people", Fields: []string{"nothing"}},
		"an unknown field's view":   {Collection: "people", Views: map[string]string{"nothing": "plain"}},
		"a field's unknown view":    {Collection: "people", Views: map[string]string{"name": "clear"}},
		"going on behind no record": {Collection: "people", After: "rec_x"},
	} {
		wantKind(t, what, export(who, x), vault.Invalid)
	}
	wantKind(t, "an unknown collection", export(who, vault.Export{Collection: "nobody"}), vault.NotFound)
	if sent != 0 {
		t.Errorf("%d records were sent all the same", sent)
	}
	if _, _, err := v.PutPolicy(t.Context(), who, "export", `forbid (principal, action == Action::"record.export", resource) when { resource.name == "email" && context.view == "plain" };`, 0); err != nil {
		t.Fatal(err)
	}
	exporter := vaulttest.As(who, "exporter")
	wantKind(t, "a field that may not be seen", export(exporter, vault.Export{Collection: "people", View: "plain"}), vault.Forbidden)
	wantKind(t, "in a view that may", export(exporter, vault.Export{Collection: "people", View: "plain", Views: map[string]string{"email": "masked"}}), "")
	wantKind(t, "without the field", export(exporter, vault.Export{Collection: "people", View: "plain", Fields: []string{"name"}}), "")
	if sent != 2 {
		t.Errorf("%d records were sent", sent)
	}
	gone := errors.New("gone")
	if err := v.ExportRecords(t.Context(), exporter, vault.Export{Collection: "people"}, func([]vault.Exported) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("whoever went away: %v", err)
	}
}

// Without its entry, a page isn't sent.
func TestAnExportWithoutAnEntrySendsNothing(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "name"})
	v.MustTokenize(who, "people", map[string]string{"name": "Jane Roe"})
	v.Exec(`alter table privault.audit_entries add constraint none check (action <> 'record.export') not valid`)
	err := v.ExportRecords(t.Context(), who, vault.Export{Collection: "people"}, func(page []vault.Exported) error {
		t.Errorf("sent %d records", len(page))
		return nil
	})
	wantKind(t, "an export without a log", err, vault.AuditUnavailable)
	if strings.Contains(v.Log.String(), "Jane") {
		t.Error("the value is in the log")
	}
}
