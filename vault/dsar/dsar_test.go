package dsar

import (
	"archive/zip"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/audit"
)

func keys(t testing.TB) *audit.Keys {
	t.Helper()
	private, _, err := audit.GenerateKey("test.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	k, err := audit.ParseKeys(private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signer(k *audit.Keys) func(string) ([]byte, error) {
	return func(text string) ([]byte, error) { return k.SignText(audit.PackageTitle + "\n" + text) }
}

func opener(k *audit.Keys) func([]byte) (string, error) {
	return func(signed []byte) (string, error) { return k.OpenText(audit.PackageTitle, signed) }
}

var (
	then  = time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)
	until = then.AddDate(3, 0, 0)

	customers = Collection{Name: "customers", Description: "who buys", Purposes: []string{"billing"}, Fields: []Field{
		{Name: "name", Type: "name", Classification: "confidential"}, {Name: "pan", Type: "pan", Classification: "restricted", Held: "a financial account number (payment card)"},
		{Name: "visits", Type: "number", Classification: "internal"}, {Name: "extra", Type: "json", Classification: "internal"}, {Name: "member", Type: "boolean", Classification: "internal"}}}
	notes = Collection{Name: "notes", Fields: []Field{{Name: "note", Type: "text", Classification: "internal"}}}
)

// maker makes a package of so many records of either collection, with this text in each note.
func made(t testing.TB, k *audit.Keys, h Head, records int, text string) []byte {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	of := func(c Collection) Records {
		return func(add func(*Record) error) error {
			for i := range records {
				r := &Record{ID: fmt.Sprintf("rec_%s_%d", c.Name, i), Created: then, Updated: then}
				if c.Name == "notes" {
					r.Expires, r.Values = &until, map[string]json.RawMessage{"note": quoted}
				} else {
					r.Values = map[string]json.RawMessage{"name": json.RawMessage(`"Zoë Roe"`), "visits": json.RawMessage(`-1.50`), "extra": json.RawMessage(`{"a":[1,"<x>"]}`), "member": json.RawMessage(`true`)}
					r.Held = []string{"pan"}
				}
				if err := add(r); err != nil {
					return err
				}
			}
			return nil
		}
	}
	var out bytes.Buffer
	w := New(&out, h)
	err = w.Data(func(collection func(Collection, Records) error) error {
		for _, c := range []Collection{customers, notes} {
			if err := collection(c, of(c)); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range []Collection{customers, notes} {
		if err == nil {
			err = w.Table(c, of(c))
		}
	}
	if err == nil {
		err = w.Finish(Processing{Purposes: []Purpose{{Name: "billing", LegalBasis: "contract"}},
			Recipients: []Recipient{{Principal: "billing", Purpose: "billing", Fields: map[string][]string{"customers": {"name"}}, Times: 2, First: then, Last: until}}}, signer(k))
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func head(kind, regime string) Head {
	return Head{Request: "req_1", Subject: "cust-1001", Kind: kind, Regime: regime, Created: then, Deployment: "d", Tenant: "t"}
}

// files are a package's files by name.
func files(t testing.TB, b []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all[f.Name] = string(text)
	}
	return all
}

func verify(b []byte, k *audit.Keys) (string, []File, error) {
	return Verify(bytes.NewReader(b), int64(len(b)), opener(k))
}

func TestAPackageVerifies(t *testing.T) {
	t.Parallel()
	k := keys(t)
	b := made(t, k, head(Access, GDPR), 3, "hello")
	text, listed, err := verify(b, k)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range listed {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"data.json", "csv/customers.csv", "csv/notes.csv", "report.html", "report.pdf", "processing.json"}, names); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{"request: req_1", "kind: access", "regime: gdpr", "created-at: 2026-11-26T10:00:00Z"} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	if strings.Contains(text, "cust-1001") {
		t.Error("the note names the person")
	}
	if _, _, err := verify(b, keys(t)); err == nil {
		t.Error("it verifies with another key")
	}
	if again := made(t, k, head(Access, GDPR), 3, "hello"); !bytes.Equal(b, again) {
		t.Error("the same data makes another package")
	}
}

// Whatever byte is changed, cut off or added, the package is refused.
func TestOneChangedByteIsRefused(t *testing.T) {
	t.Parallel()
	k := keys(t)
	b := made(t, k, head(Access, GDPR), 2, "hello")
	at := map[int]bool{}
	for i := range 4000 { // the end, with the note and the directory, whole
		at[max(0, len(b)-1-i)] = true
	}
	for range 2000 {
		at[rand.IntN(len(b))] = true
	}
	for i := range at {
		changed := bytes.Clone(b)
		changed[i] ^= 1 << rand.IntN(8)
		if _, _, err := verify(changed, k); err == nil {
			t.Fatalf("byte %d of %d is changed from %#x to %#x, and it verifies", i, len(b), b[i], changed[i])
		}
	}
	t.Logf("%d of %d bytes were changed, one at a time", len(at), len(b))
	for range 200 {
		cut := rand.IntN(len(b))
		if _, _, err := verify(b[:cut], k); err == nil {
			t.Fatalf("cut off behind %d bytes it verifies", cut)
		}
	}
	for what, more := range map[string][]byte{"behind": append(bytes.Clone(b), 0), "in front": append([]byte{0}, b...), "a comment": commented(b)} {
		if _, _, err := verify(more, k); err == nil {
			t.Errorf("with a byte more %s it verifies", what)
		}
	}
}

// commented gives the archive a comment of one byte.
func commented(b []byte) []byte {
	c := append(bytes.Clone(b), 'x')
	c[len(b)-2] = 1
	return c
}

// An archive of the right files, made by somebody else, is none of ours: nor with a note of another package.
func TestAnotherArchiveIsRefused(t *testing.T) {
	t.Parallel()
	k := keys(t)
	b, other := made(t, k, head(Access, GDPR), 2, "hello"), made(t, k, head(Access, GDPR), 2, "other")
	for name, swapped := range map[string]string{"data.json": "data.json", "note": noteName, "manifest": manifestName} {
		var out bytes.Buffer
		w := zip.NewWriter(&out)
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		theirs := files(t, other)
		for _, f := range z.File {
			text := files(t, b)[f.Name]
			if f.Name == swapped {
				text = theirs[f.Name]
			}
			to, err := w.CreateHeader(&zip.FileHeader{Name: f.Name, Method: f.Method, Modified: then})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(to, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := verify(out.Bytes(), k); err == nil {
			t.Errorf("with another %s it verifies", name)
		}
	}
	if _, _, err := verify([]byte("not a ZIP"), k); err == nil {
		t.Error("a text verifies")
	}
}

func TestDataIsWhatWasStored(t *testing.T) {
	t.Parallel()
	const text = "=cmd|' /C calc'!A0 <b>\"quoted\"</b>, מ 山 🚀\nsecond line"
	all := files(t, made(t, keys(t), head(Access, CCPA), 2, text))
	var data struct {
		Format, Subject, Kind, Regime string
		Collections                   map[string]struct {
			Fields  map[string]Field
			Records []struct {
				Record string
				Fields map[string]any
				Held   []string
			}
		}
	}
	if err := json.Unmarshal([]byte(all["data.json"]), &data); err != nil {
		t.Fatal(err)
	}
	if data.Format != "privault-data/1" || data.Subject != "cust-1001" || data.Regime != CCPA {
		t.Errorf("%+v", data)
	}
	if got := data.Collections["notes"].Records[1]; got.Record != "rec_notes_1" || got.Fields["note"] != text {
		t.Errorf("%+v", got)
	}
	got := data.Collections["customers"].Records[0]
	if diff := cmp.Diff(map[string]any{"name": "Zoë Roe", "visits": -1.5, "extra": map[string]any{"a": []any{1.0, "<x>"}}, "member": true}, got.Fields); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"pan"}, got.Held); diff != "" || data.Collections["customers"].Fields["pan"].Held == "" {
		t.Errorf("what is held: %s", diff)
	}
	if !strings.Contains(all["data.json"], `"visits":-1.50`) {
		t.Error("a digit is lost")
	}
	for name, want := range map[string][][]string{
		"customers": {{"record", "created_at", "updated_at", "expires_at", "name", "pan", "visits", "extra", "member", "held"},
			{"rec_customers_0", "2026-11-26T10:00:00Z", "2026-11-26T10:00:00Z", "", "Zoë Roe", "", "-1.50", `{"a":[1,"<x>"]}`, "true", "pan"}},
		"notes": {{"record", "created_at", "updated_at", "expires_at", "note"},
			{"rec_notes_0", "2026-11-26T10:00:00Z", "2026-11-26T10:00:00Z", "2029-11-26T10:00:00Z", "'" + text}},
	} {
		rows, err := csv.NewReader(strings.NewReader(all["csv/"+name+".csv"])).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, rows[:2]); diff != "" || len(rows) != 3 {
			t.Errorf("%s: %d rows\n%s", name, len(rows), diff)
		}
	}
	if report := all["report.html"]; strings.Contains(report, "<b>") || !strings.Contains(report, "מ 山 🚀") || strings.Contains(report, "<script") {
		t.Error("the page is not what it should be")
	}
	for _, file := range []string{"report.html", "processing.json"} {
		if !strings.Contains(all[file], "a financial account number (payment card)") {
			t.Errorf("%s doesn't say that a card number is held", file)
		}
	}
	var p Processing
	if err := json.Unmarshal([]byte(all["processing.json"]), &p); err != nil {
		t.Fatal(err)
	}
	if c := p.Categories[0]; c.Collection != "customers" || c.Records != 2 || c.Fields[1].Values != 2 || c.NeverExpire != 2 || len(p.Rights) != len(rights[CCPA]) || p.Recipients[0].Times != 2 {
		t.Errorf("%+v %+v", p, c)
	}
}

// A cell that a spreadsheet might run is defused, a number stays a number.
func TestCells(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, value, want string }{
		{"text", `"=1+1"`, "'=1+1"}, {"text", `"+1"`, "'+1"}, {"text", `"-1"`, "'-1"}, {"text", `"@SUM(A1)"`, "'@SUM(A1)"},
		{"text", `"\t=1"`, "'\t=1"}, {"text", `"\r=1"`, "'\r=1"}, {"text", `"\n=1"`, "'\n=1"}, {"text", `"  =1"`, "'  =1"}, {"text", `"＝1"`, "'＝1"},
		{"phone", `"+44 20 7183 8750"`, "'+44 20 7183 8750"}, {"text", `"a=1"`, "a=1"}, {"text", `""`, ""}, {"text", `"'"`, "'"},
		{"number", `-1.50`, "-1.50"}, {"json", `"=1"`, `"=1"`}, {"json", `-1`, "'-1"}, {"boolean", `true`, "true"}, {"text", ``, ""},
	} {
		if got := cell(c.typ, json.RawMessage(c.value)); got != c.want {
			t.Errorf("%s %s is %q, want %q", c.typ, c.value, got, c.want)
		}
	}
}

// The regimes' reports differ in the rights that they name, and in nothing else.
func TestRegimesDifferInRights(t *testing.T) {
	t.Parallel()
	k := keys(t)
	rest := map[string]string{}
	for regime, law := range map[string]string{GDPR: "GDPR, Article 15", CCPA: "1798.110", HIPAA: "45 CFR 164.524"} {
		page := files(t, made(t, k, head(Access, regime), 1, "x"))["report.html"]
		if !strings.Contains(page, law) {
			t.Errorf("%s: the report doesn't name %s", regime, law)
		}
		from, to := strings.Index(page, "<h2>Your rights"), strings.Index(page, "<h2>The data")
		rest[regime] = page[:from] + page[to:]
	}
	if rest[GDPR] != rest[CCPA] || rest[GDPR] != rest[HIPAA] {
		t.Error("the rest differs too")
	}
}

// A report stops somewhere and says so; the data goes on.
func TestReportsStopAndSaySo(t *testing.T) {
	t.Parallel()
	all := files(t, made(t, keys(t), head(Access, GDPR), 900, strings.Repeat("x", 3000)))
	if n := strings.Count(all["data.json"], `"record":`); n != 1800 {
		t.Errorf("%d records in data.json", n)
	}
	page := all["report.html"]
	shown := strings.Count(page, ", stored on ")
	if shown < 900 || shown > reportRecords+2 || !strings.Contains(page, fmt.Sprintf("%d more are in data.json", 1800-shown)) {
		t.Errorf("%d records are shown", shown)
	}
	if !strings.Contains(page, "the rest is in data.json") || strings.Contains(page, strings.Repeat("x", 2001)) {
		t.Error("a long value is shown whole")
	}
}

// What the PDF can't show is marked, and said; what it can is set.
func TestLettersInAPDF(t *testing.T) {
	t.Parallel()
	font, err := fontMap()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text, want string
		lost       bool
	}{
		{"Zoë Ünal, Łukasz, Nguyễn", "Zoë Ünal, Łukasz, Nguyễn", false},
		{"Ольга Χρήστος Գարեգին გიორგი", "Ольга Χρήστος Գարեգին გიორგი", false},
		{"Zoe\u0308", "Zoë", false},
		{"שלום", "□□□□", true},
		{"محمد", "□□□□", true},
		{"山田", "□□", true},
		{"🚀", "□", true},
		{"a\u202eb\x00c\td\ne", "a□b□c d\ne", true},
	} {
		l := &letters{font: font, known: map[rune]bool{}}
		if got := l.text(c.text); got != c.want || l.lost != c.lost {
			t.Errorf("%q is set as %q, want %q, lost: %t", c.text, got, c.want, l.lost)
		}
	}
	for text, lost := range map[string]bool{"Zoë": false, "山": true} {
		var plain, again bytes.Buffer
		blocks := []block{{Level: 1, Text: "Title"}, {Level: 3, Text: "Part"}, {Pairs: []pair{{"Term", text}, {strings.Repeat("term ", 50), strings.Repeat("word ", 5000)}, {"End", strings.Repeat("x", 500)}}}}
		for _, out := range []*bytes.Buffer{&plain, &again} {
			if err := writePDF(out, then, blocks); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(plain.Bytes(), []byte("%PDF-")) || !bytes.HasSuffix(bytes.TrimSpace(plain.Bytes()), []byte("%%EOF")) || !bytes.Equal(plain.Bytes(), again.Bytes()) {
			t.Error("that is no PDF, or another one each time")
		}
		t.Logf("%q lost %t: %d bytes", text, lost, plain.Len())
	}
}

// failing breaks after so many bytes.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// An error of the output, or of the records, ends the package.
func TestErrorsEndAPackage(t *testing.T) {
	t.Parallel()
	many := func(add func(*Record) error) error {
		for i := range 5000 {
			id, err := json.Marshal(fmt.Sprint(rand.Uint64(), rand.Uint64()))
			if err == nil {
				err = add(&Record{ID: fmt.Sprint(i), Values: map[string]json.RawMessage{"note": id}})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, left := range []int{0, 1000, 100_000} {
		w := New(&failing{left}, head(Access, GDPR))
		if err := w.Data(func(collection func(Collection, Records) error) error { return collection(notes, many) }); err == nil {
			t.Errorf("with room for %d bytes it goes on", left)
		}
		if err := New(&failing{left}, head(Access, GDPR)).Table(notes, many); err == nil {
			t.Errorf("with room for %d bytes a table goes on", left)
		}
	}
	broken := func(add func(*Record) error) error { return io.ErrNoProgress }
	w := New(io.Discard, head(Access, GDPR))
	if err := w.Data(func(collection func(Collection, Records) error) error { return collection(notes, broken) }); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("an error of the records is %v", err)
	}
}
