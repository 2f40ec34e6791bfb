package vault_test

import (
	"archive/zip"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/vaulttest"
)

// unpacked is a package as whoever gets it sees it.
type unpacked struct {
	files map[string]string
	data  struct {
		Subject     string
		Collections map[string]struct {
			Fields  map[string]struct{ Held string }
			Records []struct {
				Record string
				Fields map[string]any
				Held   []string
			}
		}
	}
	processing dsar.Processing
}

// unpack verifies a package and takes it apart.
func unpack(t *testing.T, v *vaulttest.Bench, b []byte) (u unpacked) {
	t.Helper()
	_, _, err := dsar.Verify(bytes.NewReader(b), int64(len(b)), func(signed []byte) (string, error) {
		return v.Config.AuditKeys.OpenText(audit.PackageTitle, signed)
	})
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	u.files = map[string]string{}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		u.files[f.Name] = string(text)
	}
	for name, into := range map[string]any{"data.json": &u.data, "processing.json": &u.processing} {
		if err := json.Unmarshal([]byte(u.files[name]), into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return u
}

// rows are a package's table, with its head.
func (u unpacked) rows(t *testing.T, collection string) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(u.files["csv/"+collection+".csv"])).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func order(kind, regime string) vault.PackageOrder {
	return vault.PackageOrder{Request: "req_1", Subject: "p-1", Kind: kind, Regime: regime}
}

// pack makes a package that must succeed.
func pack(t *testing.T, v *vaulttest.Bench, who vault.Caller, o vault.PackageOrder) unpacked {
	t.Helper()
	var out bytes.Buffer
	if err := v.Package(t.Context(), who, o, &out); err != nil {
		t.Fatal(err)
	}
	return unpack(t, v, out.Bytes())
}

// files are collections of a person with something of every sort.
func personsFiles(t *testing.T, v *vaulttest.Bench, who vault.Caller) {
	t.Helper()
	define := func(name string, d vault.Definition) {
		t.Helper()
		if _, _, err := v.PutCollection(t.Context(), who, name, d, 0); err != nil {
			t.Fatal(err)
		}
	}
	define("customers", vault.Definition{Description: "who buys", Fields: map[string]vault.FieldDefinition{
		"name": {Type: "name", Portable: true}, "email": {Type: "email", Portable: true, Index: []string{"exact"}, Token: vault.TokenDefinition{Strategy: "deterministic"}},
		"pan": {Type: "pan", Portable: true, Classification: "restricted", Token: vault.TokenDefinition{Strategy: "fpe"}}, "ssn": {Type: "us_ssn"},
		"fingerprint": {Type: "bytes", Nondisclosable: true}, "score": {Type: "number"}}})
	define("notes", vault.Definition{Fields: map[string]vault.FieldDefinition{"note": {Type: "text"}}})
	v.Collection(who, "empty", map[string]string{"note": "text"})
}

func keep(t *testing.T, v *vaulttest.Bench, who vault.Caller, collection, subject string, fields map[string]string) string {
	t.Helper()
	item := vaulttest.Item(fields)
	item.Subject = subject
	if score, has := item.Fields["score"]; has {
		item.Fields["score"] = secret(strings.Trim(string(score.Reveal()), `"`))
	}
	done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: collection, Items: []vault.NewRecord{item}})
	if err != nil || done[0].Err != nil {
		t.Fatal(err, done)
	}
	return done[0].Record
}

var janesFields = map[string]string{"name": "Jane Roe", "email": "jane@example.com", "pan": "4111111111111111", "ssn": "123-45-6789", "fingerprint": "3q2+7w==", "score": "-1.50"}

func TestAPackageHasEverythingOfOnePerson(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const many = 1100 // more than two pages
			v := vaulttest.New(t, options...)
			who, foreign := v.Tenant(), v.Tenant()
			for _, tenant := range []vault.Caller{who, foreign} {
				personsFiles(t, v, tenant)
				keep(t, v, tenant, "customers", "p-2", map[string]string{"name": "Somebody Else"})
			}
			keep(t, v, foreign, "customers", "p-1", map[string]string{"name": "Somebody Foreign"})
			keep(t, v, who, "customers", "", map[string]string{"name": "Nobody's Own"})
			customer := keep(t, v, who, "customers", "p-1", janesFields)
			want := map[string]string{}
			for n := range many / 100 {
				var items []vault.NewRecord
				for i := range 100 {
					item := vaulttest.Item(map[string]string{"note": fmt.Sprintf("note %d", n*100+i)})
					item.Subject = "p-1"
					items = append(items, item, vault.NewRecord{Subject: "p-2", Fields: map[string]vault.Secret{"note": secret(`"somebody else's"`)}})
				}
				done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "notes", Items: items})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 100 {
					want[done[2*i].Record] = fmt.Sprintf("note %d", n*100+i)
				}
			}
			u := pack(t, v, who, order(dsar.Access, dsar.GDPR))
			if u.data.Subject != "p-1" || len(u.data.Collections) != 2 || len(u.data.Collections["customers"].Records) != 1 {
				t.Fatalf("%+v", u.data.Collections["customers"])
			}
			got := u.data.Collections["customers"].Records[0]
			if diff := cmp.Diff(map[string]any{"name": "Jane Roe", "email": "jane@example.com", "pan": "4111111111111111", "ssn": "123-45-6789", "fingerprint": "3q2+7w==", "score": -1.5}, got.Fields); diff != "" || got.Record != customer {
				t.Errorf("%s %s", got.Record, diff)
			}
			notes := map[string]string{}
			for _, r := range u.data.Collections["notes"].Records {
				notes[r.Record], _ = r.Fields["note"].(string)
			}
			if diff := cmp.Diff(want, notes); diff != "" {
				t.Errorf("data.json: %s", diff)
			}
			notes = map[string]string{}
			for _, row := range u.rows(t, "notes")[1:] {
				notes[row[0]] = row[4]
			}
			if diff := cmp.Diff(want, notes); diff != "" {
				t.Errorf("the table: %s", diff)
			}
			for file, text := range u.files {
				if strings.Contains(text, "omebody") || strings.Contains(text, "Nobody's") {
					t.Errorf("%s holds what is somebody else's", file)
				}
			}
			// Each record stands once in the log as shown, with each field that it has.
			if n := v.Count(`
				select count(r) from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') x, jsonb_array_elements_text(x->'records') r
				where e.action = 'package.read' and x->>'view' = 'plain'`); n != many+1 {
				t.Errorf("%d records stand in the log as shown, want %d", n, many+1)
			}
		})
	}
}

// Under the CCPA, what identifies in particular is said to be held, wherever one looks, and is nowhere.
func TestAPackageUnderTheCCPASaysWhatItHolds(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	keep(t, v, who, "customers", "p-1", janesFields)
	secrets := newBirds([]string{"4111111111111111", "123-45-6789", "3q2+7w=="}, nil)
	for _, kind := range []string{dsar.Access, dsar.Portability} {
		u := pack(t, v, who, order(kind, dsar.CCPA))
		for file, text := range u.files {
			if found := secrets.in([]byte(text)); len(found) > 0 && file != "report.pdf" {
				t.Errorf("%s of %s holds %q", file, kind, found)
			}
		}
		held := map[string]string{"pan": "a financial account number (payment card)"}
		if kind == dsar.Access {
			held["ssn"], held["fingerprint"] = "a Social Security number", "an identifier of a kind that may not be sent"
		}
		for name, what := range held {
			if u.data.Collections["customers"].Fields[name].Held != what || !strings.Contains(u.files["report.html"], what) || !strings.Contains(u.files["processing.json"], what) {
				t.Errorf("%s: it isn't said that %s is held", kind, name)
			}
		}
		if r := u.data.Collections["customers"].Records[0]; len(r.Held) != len(held) || r.Fields["name"] != "Jane Roe" {
			t.Errorf("%s: %+v", kind, r)
		}
	}
	// Nor were they opened.
	if n := v.Count(`
		select count(*) from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') x, jsonb_array_elements_text(x->'fields') f
		where e.action = 'package.read' and f in ('pan', 'ssn', 'fingerprint')`); n != 0 {
		t.Errorf("%d entries say that they were shown", n)
	}
}

// Portability hands out what is marked, and nothing else; a record without any of it is left out.
func TestAPackageForPortability(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	keep(t, v, who, "customers", "p-1", janesFields)
	keep(t, v, who, "customers", "p-1", map[string]string{"score": "7"})
	keep(t, v, who, "notes", "p-1", map[string]string{"note": "an opinion of ours"})
	u := pack(t, v, who, order(dsar.Portability, dsar.GDPR))
	records := u.data.Collections["customers"].Records
	if len(u.data.Collections) != 1 || len(records) != 1 || len(records[0].Fields) != 3 || records[0].Fields["pan"] != "4111111111111111" {
		t.Errorf("%+v", u.data)
	}
	if diff := cmp.Diff([]string{"record", "created_at", "updated_at", "expires_at", "email", "name", "pan"}, u.rows(t, "customers")[0]); diff != "" {
		t.Error(diff)
	}
	for file, text := range u.files {
		if strings.Contains(text, "an opinion of ours") || strings.Contains(text, "123-45-6789") {
			t.Errorf("%s holds what isn't portable", file)
		}
	}
}

// Whose a record is stands in its row, and is sealed inside it. A row that somebody has moved to another person breaks the
// package off before anything of the record is sent.
func TestAForeignRowBreaksAPackageOff(t *testing.T) {
	t.Parallel()
	for what, owner := range map[string]string{"somebody else's": "p-2", "nobody's": ""} {
		v := vaulttest.New(t)
		who := v.Tenant()
		personsFiles(t, v, who)
		keep(t, v, who, "notes", "p-1", map[string]string{"note": "mine"})
		foreign := keep(t, v, who, "notes", owner, map[string]string{"note": "canary-7Q"})
		v.Exec(`update privault.records set subject_id = (select subject_id from privault.records where subject_id is not null order by record_id limit 1)
			where record_id = $1`, vault.RecordID(foreign))
		var out bytes.Buffer
		err := v.Package(t.Context(), who, order(dsar.Access, dsar.GDPR), &out)
		wantKind(t, what, err, vault.IntegrityFailure)
		if out.Len() > 0 {
			t.Errorf("%s: %d bytes were sent", what, out.Len())
		}
		if n := v.Count(`select count(*) from privault.audit_entries where action = 'package.read' and outcome = 'failed' and body like '%integrity-failure%'`); n != 1 {
			t.Errorf("%s: %d entries say so", what, n)
		}
		if strings.Contains(v.Log.String(), "canary") {
			t.Errorf("%s: the log holds the value", what)
		}
	}
}

// A person gets its data whatever purposes, objections and restrictions there are; policies can refuse it.
func TestWhoMayMakeAPackage(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	must := func(_ any, _ bool, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(v.PutPurpose(t.Context(), who, vault.Purpose{Name: "letters", LegalBasis: "consent", Description: "We write to you"}, 0))
	must(v.PutPurpose(t.Context(), who, vault.Purpose{Name: "ads", LegalBasis: "legitimate_interests"}, 0))
	must(v.PutCollection(t.Context(), who, "people", vault.Definition{Purposes: []string{"letters"}, PurposeRequired: true,
		Fields: map[string]vault.FieldDefinition{"name": {Type: "name"}, "email": {Type: "email"}}}, 0))
	token := func() string {
		item := vaulttest.Item(map[string]string{"name": "Jane Roe", "email": "jane@example.com"})
		item.Subject = "p-1"
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err != nil {
			t.Fatal(err)
		}
		return done[0].Tokens["email"]
	}()
	must(v.GiveConsent(t.Context(), who, "p-1", "letters", "v1", "form-7"))
	reader := who
	reader.Purpose = "letters"
	if done, err := v.Detokenize(t.Context(), reader, []vault.TokenRef{{Token: token, View: "plain"}}); err != nil || done[0].Err != nil {
		t.Fatal(err, done)
	}
	must(v.Object(t.Context(), who, "p-1", "ads", ""))
	must(v.Restrict(t.Context(), who, "p-1", "gdpr-18-1-a", nil))
	for _, role := range []string{"admin", "backend-writer", "backend-reader", "exporter", "auditor", "operator"} {
		var out bytes.Buffer
		wantKind(t, role, v.Package(t.Context(), vaulttest.As(who, role), order(dsar.Access, dsar.GDPR), &out), vault.Forbidden)
		if out.Len() > 0 {
			t.Errorf("%s was sent %d bytes", role, out.Len())
		}
	}
	officer := vaulttest.As(who, "compliance")
	u := pack(t, v, officer, order(dsar.Access, dsar.GDPR))
	if u.data.Collections["people"].Records[0].Fields["name"] != "Jane Roe" {
		t.Errorf("%+v", u.data)
	}
	p := pack(t, v, officer, order(dsar.Access, dsar.GDPR)).processing
	if len(p.Recipients) != 1 || len(p.Sources) != 1 {
		t.Fatalf("recipients %+v, sources %+v", p.Recipients, p.Sources)
	}
	seen, stored := p.Recipients[0], p.Sources[0]
	if seen.Purpose != "letters" || seen.Times != 1 || cmp.Diff(map[string][]string{"people": {"email"}}, seen.Fields) != "" || seen.Principal == "" {
		t.Errorf("who saw it: %+v", seen)
	}
	if stored.Times != 1 || cmp.Diff(map[string][]string{"people": {"email", "name"}}, stored.Fields) != "" {
		t.Errorf("who stored it: %+v", stored)
	}
	if len(p.Purposes) != 1 || p.Purposes[0].Name != "letters" || p.Purposes[0].LegalBasis != "consent" || p.Purposes[0].Description != "We write to you" {
		t.Errorf("purposes: %+v", p.Purposes)
	}
	var said []string
	for _, s := range p.Statements {
		said = append(said, fmt.Sprint(s.Kind, " ", s.Purpose, " ", s.Given))
	}
	if diff := cmp.Diff([]string{"consent letters true", "objection ads true", "restriction  true"}, said); diff != "" || p.Restriction == nil || p.Restriction.Reason != "gdpr-18-1-a" {
		t.Errorf("what the person said: %s %+v", diff, p.Restriction)
	}
	for what, o := range map[string]vault.PackageOrder{"no kind": {Subject: "p-1", Regime: dsar.GDPR}, "no regime": {Subject: "p-1", Kind: dsar.Portability},
		"no key": {Subject: "p-1", Kind: dsar.Portability, Regime: dsar.GDPR, Recipient: "age1nobody"}} {
		wantKind(t, what, v.Package(t.Context(), officer, o, io.Discard), vault.Invalid)
	}
	if _, _, err := v.PutPolicy(t.Context(), who, "packages", `forbid (principal, action == Action::"package.read", resource) when { resource.name == "email" };`, 0); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "with a field that may not be seen", v.Package(t.Context(), officer, order(dsar.Access, dsar.GDPR), io.Discard), vault.Forbidden)
	wantKind(t, "without it", v.Package(t.Context(), officer, order(dsar.Portability, dsar.GDPR), io.Discard), "")
}

// Whoever isn't known, or was erased, gets a package that says so.
func TestAPackageOfNobody(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	keep(t, v, who, "notes", "p-2", map[string]string{"note": "somebody else's"})
	keep(t, v, who, "notes", "p-1", map[string]string{"note": "mine"})
	if _, err := v.EraseSubject(t.Context(), who, "p-1", "gdpr-17", false); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"p-1", "p-3"} {
		o := order(dsar.Access, dsar.GDPR)
		o.Subject = subject
		u := pack(t, v, who, o)
		if len(u.data.Collections) != 0 || !strings.Contains(u.files["report.html"], "Nothing that this request is about") {
			t.Errorf("%s: %+v", subject, u.data)
		}
	}
}

func TestAPackageIsEncrypted(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	keep(t, v, who, "notes", "p-1", map[string]string{"note": "canary-7Q"})
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	o := order(dsar.Access, dsar.GDPR)
	o.Recipient = identity.Recipient().String()
	var out bytes.Buffer
	if err := v.Package(t.Context(), who, o, &out); err != nil {
		t.Fatal(err)
	}
	open, err := age.Decrypt(bytes.NewReader(out.Bytes()), identity)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(open)
	if err != nil {
		t.Fatal(err)
	}
	if u := unpack(t, v, b); u.data.Collections["notes"].Records[0].Fields["note"] != "canary-7Q" {
		t.Errorf("%+v", u.data)
	}
}

// rubbish is a text that compression leaves long.
func rubbish(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('A' + rand.IntN(26) + rand.IntN(2)*32)
	}
	return string(b)
}

// interfering runs something once, when the first bytes of a package arrive.
type interfering struct {
	bytes.Buffer
	do func()
}

func (w *interfering) Write(p []byte) (int, error) {
	if w.do != nil {
		do := w.do
		w.do = nil
		do()
	}
	return w.Buffer.Write(p)
}

// A package in whose making the records change is broken off: its files would say different things, or its entries not the truth.
func TestAPackageWhoseRecordsChange(t *testing.T) {
	t.Parallel()
	for what, story := range map[string]struct {
		do   func(t *testing.T, v *vaulttest.Bench, who vault.Caller, first string) error
		want vault.Kind
	}{
		"nothing": {func(*testing.T, *vaulttest.Bench, vault.Caller, string) error { return nil }, ""},
		"a new record": {func(t *testing.T, v *vaulttest.Bench, who vault.Caller, _ string) error {
			t.Helper()
			keep(t, v, who, "notes", "p-1", map[string]string{"note": "too late"})
			return nil
		}, ""},
		"a changed one": {func(t *testing.T, v *vaulttest.Bench, who vault.Caller, first string) error {
			t.Helper()
			_, err := v.PatchRecord(t.Context(), who, "notes", first, vault.Patch{Fields: map[string]vault.Secret{"note": secret(`"changed"`)}, IfVersion: 1})
			return err
		}, vault.Conflict},
		"a deleted one": {func(t *testing.T, v *vaulttest.Bench, who vault.Caller, first string) error {
			t.Helper()
			return v.DeleteRecord(t.Context(), who, "notes", first, 0)
		}, vault.Conflict},
		"an erased person": {func(t *testing.T, v *vaulttest.Bench, who vault.Caller, _ string) error {
			t.Helper()
			_, err := v.EraseSubject(t.Context(), who, "p-1", "gdpr-17", false)
			return err
		}, vault.Conflict},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t)
			who := v.Tenant()
			personsFiles(t, v, who)
			first := ""
			for range 12 {
				id := keep(t, v, who, "notes", "p-1", map[string]string{"note": rubbish(12_000)})
				if first == "" {
					first = id
				}
			}
			out := &interfering{}
			out.do = func() {
				if err := story.do(t, v, who, first); err != nil {
					t.Error(err)
				}
			}
			err := v.Package(t.Context(), who, order(dsar.Access, dsar.GDPR), out)
			wantKind(t, what, err, story.want)
			if out.do != nil {
				t.Fatal("nothing was sent before the end")
			}
			if err == nil {
				if u := unpack(t, v, out.Bytes()); len(u.data.Collections["notes"].Records) != 12 {
					t.Errorf("%d records", len(u.data.Collections["notes"].Records))
				}
				return
			}
			if _, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len())); err == nil {
				t.Error("what was sent opens as an archive")
			}
		})
	}
}

// Without its entry nothing is sent; an end of the way out ends the package.
func TestAPackageWithoutAnEntrySendsNothing(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	keep(t, v, who, "notes", "p-1", map[string]string{"note": "canary-7Q"})
	gone := errors.New("gone")
	if err := v.Package(t.Context(), who, order(dsar.Access, dsar.GDPR), broken{gone}); !errors.Is(err, gone) {
		t.Errorf("whoever went away: %v", err)
	}
	v.Exec(`alter table privault.audit_entries add constraint none check (action <> 'package.read' or body not like '%"view":"plain"%') not valid`)
	var out bytes.Buffer
	wantKind(t, "without a log", v.Package(t.Context(), who, order(dsar.Access, dsar.GDPR), &out), vault.AuditUnavailable)
	if out.Len() > 0 {
		t.Errorf("%d bytes were sent", out.Len())
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

// peak counts what is sent, and sees how large the heap gets meanwhile.
type peak struct {
	sent int
	heap uint64
}

func (p *peak) Write(b []byte) (int, error) {
	p.sent += len(b)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p.heap = max(p.heap, m.HeapAlloc)
	return len(b), nil
}

// A package of ten times as many records takes no more memory. PRIVAULT_PACKAGE_RECORDS=100000 measures it, alone.
func TestAPackageOfManyRecords(t *testing.T) {
	text, set := os.LookupEnv("PRIVAULT_PACKAGE_RECORDS")
	many := 5000
	if set {
		var err error
		if many, err = strconv.Atoi(text); err != nil || many < 10_000 || many > 1_000_000 {
			t.Fatal("PRIVAULT_PACKAGE_RECORDS is 10000 to 1000000")
		}
	} else {
		t.Parallel()
	}
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	for subject, n := range map[string]int{"few": many / 10, "many": many} {
		for from := 0; from < n; from += 1000 {
			var items []vault.NewRecord
			for range min(1000, n-from) {
				item := vaulttest.Item(map[string]string{"note": rubbish(100)})
				item.Subject = subject
				items = append(items, item)
			}
			done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: []string{"notes", "empty"}[from/1000%2], Items: items})
			if err != nil || done[0].Err != nil {
				t.Fatal(err, done[0].Err)
			}
		}
	}
	heaps := map[string]uint64{}
	for _, subject := range []string{"few", "many"} {
		o := order(dsar.Access, dsar.GDPR)
		o.Subject = subject
		runtime.GC()
		out := &peak{}
		began := time.Now()
		if err := v.Package(t.Context(), who, o, out); err != nil {
			t.Fatal(err)
		}
		heaps[subject] = out.heap
		t.Logf("%s: %d bytes in %v, a heap of at most %.1f MiB", subject, out.sent, time.Since(began).Round(time.Millisecond), float64(out.heap)/(1<<20))
	}
	if n := v.Count(`
		select count(r) from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') x, jsonb_array_elements_text(x->'records') r
		where e.action = 'package.read' and x->>'view' = 'plain'`); n != many+many/10 {
		t.Errorf("%d records stand in the log as shown", n)
	}
	if set && heaps["many"] > heaps["few"]*3/2 {
		t.Errorf("ten times as many records take %.1f times the memory", float64(heaps["many"])/float64(heaps["few"]))
	}
}
