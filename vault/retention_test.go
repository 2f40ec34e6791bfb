package vault_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// archive is a vault with a collection whose records have several kinds of field.
type archive struct {
	*vaulttest.Bench
	who vault.Caller
}

func newArchive(t *testing.T, options ...vaulttest.Option) *archive {
	t.Helper()
	b := vaulttest.New(t, options...)
	return &archive{b, b.Tenant()}
}

// define defines "files" with a rule.
func (a *archive) define(t *testing.T, r *vault.Retention, fields map[string]vault.Retention) {
	t.Helper()
	d := vault.Definition{Retention: r, Fields: map[string]vault.FieldDefinition{
		"name": {Type: "name", Index: []string{"exact"}}, "born": {Type: "date_of_birth"}, "closed": {Type: "date"}, "plz": {Type: "postal_code"},
		"mail": {Type: "email", Index: []string{"exact"}, Token: vault.TokenDefinition{Strategy: "deterministic"}},
	}}
	for name, r := range fields {
		f := d.Fields[name]
		f.Retention = &r
		d.Fields[name] = f
	}
	if _, _, err := a.PutCollection(t.Context(), a.who, "files", d, 0); err != nil {
		t.Fatal("define: ", err)
	}
}

var aFile = map[string]string{"name": "Jane Roe", "born": "1984-02-29", "closed": "2020-06-15", "plz": "SW1A 1AA", "mail": "jane@example.com"}

// file stores one record of a person.
func (a *archive) file(t *testing.T, subject string, fields map[string]string) vault.Tokenized {
	t.Helper()
	item := vaulttest.Item(fields)
	item.Subject = subject
	done, err := a.Tokenize(t.Context(), a.who, vault.Batch{Collection: "files", Items: []vault.NewRecord{item}})
	if err != nil || done[0].Err != nil {
		t.Fatal("store: ", err, done)
	}
	return done[0]
}

// age makes a record older than it is, behind the vault's back.
func (a *archive) age(record string, by string) {
	a.Exec(`update privault.records set created_at = created_at - $2::interval, updated_at = updated_at - $2::interval,
		due_at = due_at - $2::interval, expires_at = expires_at - $2::interval, revealed_at = revealed_at - $2::interval where record_id = $1`, vault.RecordID(record), by)
}

// read says what is to be seen of a record: its fields, or the kind of error.
func (a *archive) read(t *testing.T, record string) map[string]string {
	t.Helper()
	rec, err := a.GetRecord(t.Context(), a.who, "files", record, nil, "plain")
	if err != nil {
		return map[string]string{"": string(vault.AsError(err).Kind)}
	}
	seen := map[string]string{}
	for name, value := range rec.Fields {
		seen[name] = string(value.Reveal())
	}
	return seen
}

// gone wants a record unreadable on every path, on this replica and another.
func (a *archive) gone(t *testing.T, what string, done vault.Tokenized) {
	t.Helper()
	for _, v := range []*vault.Vault{a.Vault, a.Replica()} {
		_, err := v.GetRecord(t.Context(), a.who, "files", done.Record, nil, "plain")
		wantKind(t, what+", read", err, vault.NotFound)
		_, err = v.PatchRecord(t.Context(), a.who, "files", done.Record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}})
		wantKind(t, what+", changed", err, vault.NotFound)
		for field, token := range done.Tokens {
			if got := vaulttest.RevealOn(t, v, a.who, token); got != string(vault.TokenNotFound) {
				t.Errorf("%s: the token of %s gives %s", what, field, got)
			}
			live, err := v.ValidateTokens(t.Context(), a.who, []vault.TokenRef{{Token: token}})
			if err != nil || live[0].Err == nil || live[0].Err.Kind != vault.TokenNotFound {
				t.Errorf("%s: the token of %s validates: %v %v", what, field, live, err)
			}
		}
		page, _, err := v.SearchRecords(t.Context(), a.who, vault.Search{Collection: "files", Terms: []vault.Term{{Field: "name", Equals: secret(`"Jane Roe"`)}}, Limit: 10, At: func(int) string { return "" }})
		for _, m := range page {
			if m.Record == done.Record {
				t.Errorf("%s: it is found", what)
			}
		}
		if err != nil {
			t.Errorf("%s: search: %v", what, err)
		}
		err = v.ExportRecords(t.Context(), a.who, vault.Export{Collection: "files", View: "plain"}, func(page []vault.Exported) error {
			for _, x := range page {
				if x.ID == done.Record {
					t.Errorf("%s: it is exported: %v", what, x)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: export: %v", what, err)
		}
	}
}

func TestWhatIsDueIsUnreadableAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rule   vault.Retention
		before string // an age at which it is there
		after  string // and one more at which it isn't
	}{
		"created":        {vault.Retention{Keep: "P3Y"}, "2 years 364 days", "2 days"},
		"updated":        {vault.Retention{Keep: "P90D", After: "updated"}, "89 days", "1 day"},
		"revealed":       {vault.Retention{Keep: "P30D", After: "revealed"}, "29 days", "1 day 1 hour"},
		"made anonymous": {vault.Retention{Keep: "P1Y", Action: "anonymise"}, "364 days", "2 days"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			a.define(t, &c.rule, nil)
			kept, due := a.file(t, "p-1", aFile), a.file(t, "p-1", aFile)
			a.age(due.Record, c.before)
			if got := a.read(t, due.Record); got["name"] != `"Jane Roe"` {
				t.Fatalf("before: %v", got)
			}
			a.age(due.Record, c.after)
			rest := due
			rest.Tokens = map[string]string{"name": due.Tokens["name"]} // that of mail is kept's as well
			a.gone(t, "the record that is due", rest)
			for field, token := range kept.Tokens {
				if got := a.Reveal(a.who, token); got != `"`+aFile[field]+`"` {
					t.Errorf("the other record's token of %s gives %s", field, got)
				}
			}
		})
	}
}

func TestADateFieldSaysHowLong(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y", After: "field:closed"}, nil)
	day := func(ago int) string { return time.Now().UTC().AddDate(-1, 0, -ago).Format(time.DateOnly) }
	for ago, gone := range map[int]bool{-40: false, -1: false, 0: false, 2: true, 400: true} {
		fields := map[string]string{"name": "Jane Roe", "closed": day(ago)}
		done := a.file(t, "", fields)
		if gone {
			a.gone(t, fmt.Sprintf("closed a year and %d days ago", ago), done)
		} else if got := a.read(t, done.Record); got["closed"] != `"`+fields["closed"]+`"` {
			t.Errorf("closed a year and %d days ago: %v", ago, got)
		}
	}
	undated := a.file(t, "", map[string]string{"name": "Jane Roe"})
	if got := a.read(t, undated.Record); got["name"] == "" {
		t.Errorf("without a date: %v", got)
	}
	// What stands in clear says no more of the date than the month.
	if n := a.Count(`select count(*) from privault.records where due_at is not null and due_at <> date_trunc('month', due_at)`); n != 0 {
		t.Errorf("%d records say in clear to the day when they are due", n)
	}
	if n := a.Count(`select count(*) from privault.records where due_at is not null`); n != 5 {
		t.Errorf("%d of 5 dated records are marked", n)
	}
}

func TestFieldsHaveRulesOfTheirOwn(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, nil, map[string]vault.Retention{"mail": {Keep: "P30D"}, "born": {Keep: "P60D", Action: "anonymise"}})
	done := a.file(t, "p-1", aFile)
	a.age(done.Record, "31 days")
	whole := map[string]string{"name": `"Jane Roe"`, "born": `"1984-02-29"`, "closed": `"2020-06-15"`, "plz": `"SW1A 1AA"`}
	if diff := cmp.Diff(whole, a.read(t, done.Record)); diff != "" {
		t.Errorf("after 31 days (-want +got):\n%s", diff)
	}
	if got := a.Reveal(a.who, done.Tokens["mail"]); got != string(vault.TokenNotFound) {
		t.Errorf("the token of the field that is due gives %s", got)
	}
	page, _, err := a.SearchRecords(t.Context(), a.who, vault.Search{Collection: "files", Terms: []vault.Term{{Field: "mail", Equals: secret(`"jane@example.com"`)}}, Limit: 10, At: func(int) string { return "" }})
	if err != nil || len(page) != 0 {
		t.Errorf("it is found by the value that is due: %v, %v", page, err)
	}
	a.age(done.Record, "30 days")
	whole["born"] = `"1984"`
	if diff := cmp.Diff(whole, a.read(t, done.Record)); diff != "" {
		t.Errorf("after 61 days (-want +got):\n%s", diff)
	}
	if got := a.Reveal(a.who, done.Tokens["born"]); got != `"1984"` {
		t.Errorf("the token of the date gives %s", got)
	}
	// A change writes it anew without what is due.
	rec, err := a.PatchRecord(t.Context(), a.who, "files", done.Record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Jane Doe"`)}})
	if err != nil || rec.Version != 2 {
		t.Fatal(rec, err)
	}
	if n := a.Count(`select count(*) from privault.aliases`); n != 0 {
		t.Errorf("%d aliases are left", n)
	}
	whole["name"] = `"Jane Doe"`
	if diff := cmp.Diff(whole, a.read(t, done.Record)); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
}

func TestANewRuleHoldsAtOnce(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P3Y"}, nil)
	done := a.file(t, "p-1", aFile)
	a.age(done.Record, "400 days")
	if got := a.read(t, done.Record); len(got) != 5 {
		t.Fatalf("by the old rule: %v", got)
	}
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	a.gone(t, "by the new rule", done)
	const due = `select count(*) from privault.records where due_at <= now()`
	if n := a.Count(due); n != 0 {
		t.Fatalf("%d are marked before the job ran", n)
	}
	a.Work()
	a.settle(t)
	if n := a.Count(due); n != 1 {
		t.Errorf("%d are marked once it has", n)
	}
	a.define(t, nil, nil)
	a.settle(t)
	if n := a.Count(`select count(*) from privault.records where due_at is not null`); n != 0 {
		t.Errorf("%d are marked without any rule", n)
	}
	if got := a.read(t, done.Record); len(got) != 5 {
		t.Errorf("without a rule: %v", got)
	}
}

func TestAPurposeEnds(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	put := func(ends *time.Time) {
		if _, _, err := a.PutPurpose(t.Context(), a.who, vault.Purpose{Name: "newsletter", LegalBasis: "contract", Ends: ends}, 0); err != nil {
			t.Fatal(err)
		}
	}
	put(nil)
	a.define(t, &vault.Retention{Keep: "P1D", After: "purpose:newsletter"}, nil)
	done := a.file(t, "", aFile)
	a.age(done.Record, "10 years")
	if got := a.read(t, done.Record); len(got) != 5 {
		t.Fatalf("of a purpose that doesn't end: %v", got)
	}
	ends := time.Now().AddDate(0, 0, -2)
	put(&ends)
	a.gone(t, "two days behind the end", done)
	a.Work()
	a.settle(t)
	if n := a.Count(`select count(*) from privault.records where due_at <= now()`); n != 1 {
		t.Errorf("%d are marked", n)
	}
}

// settle waits for all jobs.
func (a *archive) settle(t *testing.T) {
	t.Helper()
	a.Until(func() bool { return a.Count(`select count(*) from privault.jobs where finished_at is null`) == 0 })
	if failed := a.Texts(`select kind || ' ' || problem from privault.jobs where state = 'failed'`); len(failed) > 0 {
		t.Fatal("jobs failed: ", failed, a.Log)
	}
}

func TestARevealPutsTheEndOff(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P30D", After: "revealed"}, nil)
	seen, unseen := a.file(t, "", aFile), a.file(t, "", aFile)
	for _, done := range []vault.Tokenized{seen, unseen} {
		a.age(done.Record, "29 days")
	}
	if got := a.Reveal(a.who, seen.Tokens["name"]); got != `"Jane Roe"` {
		t.Fatal(got)
	}
	_, err := a.GetRecord(t.Context(), a.who, "files", unseen.Record, nil, "redacted") // which shows nothing
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.NoteReveals(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.Count(`select count(*) from privault.records where revealed_at is not null`); n != 1 {
		t.Fatalf("%d records are noted as revealed, want 1", n)
	}
	for _, done := range []vault.Tokenized{seen, unseen} {
		a.age(done.Record, "2 days")
	}
	a.Work()
	s := a.sweep(t, false)
	if s.Counts.Deleted != 1 || s.Counts.Due != 1 || a.records() != 1 {
		t.Errorf("%s %+v", s.State, s.Counts)
	}
	if got := a.read(t, seen.Record); len(got) != 5 {
		t.Errorf("the one that was revealed: %v", got)
	}
	// The sweep has looked, and marked it anew.
	if n := a.Count(`select count(*) from privault.records where due_at > now() + interval '28 days'`); n != 1 {
		t.Errorf("%d are marked for later", n)
	}
}
