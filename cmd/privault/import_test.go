package main

import (
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/vaulttest"
)

// importer is somebody with a file and a server.
type importer struct {
	*devServer
	folder string
}

func newImporter(t testing.TB, collection string, types map[string]string) *importer {
	t.Helper()
	i := &importer{folder: t.TempDir()}
	i.devServer = startDev(t, t.TempDir(), "--no-sample", "--database-url", vaulttest.EmptyDatabase(t))
	i.caller().collection(t, collection, types)
	return i
}

// settings are where the server is and the key for it.
func (i *importer) settings() []string {
	return []string{"PRIVAULT_URL=" + i.URL, "PRIVAULT_API_KEY=" + i.APIKey}
}

func (i *importer) run(t testing.TB, args ...string) finished {
	t.Helper()
	return runIn(t, i.folder, i.settings(), append([]string{"import"}, args...)...)
}

func (i *importer) path(name string) string { return filepath.Join(i.folder, name) }

// outcome is one line of an import's output.
type outcome struct {
	id, record, fault string
	tokens            map[string]string // by field, blank ones left out
}

// outcomes reads an import's output.
func (i *importer) outcomes(t testing.TB, name string) []outcome {
	t.Helper()
	table := readCSV(t, i.path(name))
	head := table[0]
	if !slices.Equal(head[:2], []string{"id", "record"}) || head[len(head)-1] != "error" {
		t.Fatalf("the output's columns are %q", head)
	}
	var all []outcome
	for _, cells := range table[1:] {
		o := outcome{id: cells[0], record: cells[1], fault: cells[len(cells)-1], tokens: map[string]string{}}
		for at := 2; at < len(head)-1; at++ {
			if cells[at] != "" {
				o.tokens[strings.TrimPrefix(head[at], "token_")] = cells[at]
			}
		}
		all = append(all, o)
	}
	return all
}

func readCSV(t testing.TB, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func (i *importer) records(t testing.TB) int {
	t.Helper()
	return vaulttest.CountURL(t, i.DatabaseURL, `select count(*) from privault.records`)
}

// values reads every record of an output back by its tokens.
func (i *importer) values(t testing.TB, out []outcome) []map[string]string {
	t.Helper()
	type place struct {
		row   int
		field string
	}
	var places []place
	var tokens []string
	values := make([]map[string]string, len(out))
	for row, o := range out {
		values[row] = map[string]string{}
		for field, token := range o.tokens {
			places, tokens = append(places, place{row, field}), append(tokens, token)
		}
	}
	for at, value := range i.caller().reveal(t, tokens) {
		values[places[at].row][places[at].field] = value
	}
	return values
}

// fields reads one record as a whole.
func (i *importer) fields(t testing.TB, collection, record string) map[string]any {
	t.Helper()
	var got struct{ Fields map[string]any }
	i.caller().want(t, http.StatusOK, http.MethodGet, "/v1/collections/"+collection+"/records/"+record+"?view=plain", nil, &got)
	return got.Fields
}

// Whatever a cell holds comes back byte for byte; an empty cell is no value.
func TestImportCSV(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"code": "string", "note": "string", "mail": "email", "size": "number", "member": "boolean", "extra": "json"})
	want := []map[string]any{
		{"code": "007", "note": "  leading and trailing  ", "mail": "Jane.Roe@Example.com", "size": 1.50, "member": true, "extra": map[string]any{"a": "<b>"}},
		{"code": "0", "note": "a \"quoted\" word, and a comma"},
		{"code": " ", "note": "one\r\ntwo\nthree\rfour\r\n\r\n"},
		{"note": "Zoë Ünal 👩‍🚀 \u00a0 e\u0301 \u202eabc"},
		{"code": "null", "note": "'; drop table people; -- <script>&amp;</script> \\n \u2028"},
		{"code": "\t", "note": "\ufeffmark"},
	}
	write(t, i.path("people.csv"), "\ufeff\"key\",code,Notiz,mail,size,member,unused,extra,subject\r\n"+
		"1,007,  leading and trailing  ,Jane.Roe@Example.com,1.50,true,x,\"{\"\"a\"\":\"\"<b>\"\"}\",cust-1\r\n"+
		"2,0,\"a \"\"quoted\"\" word, and a comma\",,,,,,\r\n"+
		"3, ,\"one\r\ntwo\nthree\rfour\r\n\r\n\",,,,,,cust-3\r\n"+
		"\r\n"+ // an empty line is no record
		"4,,Zoë Ünal 👩‍🚀 \u00a0 e\u0301 \u202eabc,,,,,,\r\n"+
		"5,null,'; drop table people; -- <script>&amp;</script> \\n \u2028,,,,y,,\r\n"+
		"\"6\",\t,\ufeffmark,\"\",,,,,")
	done := i.run(t, "people.csv", "--collection", "people", "--map", "code=code", "--map", "Notiz=note", "--map", "mail=mail",
		"--map", "size=size", "--map", "member=member", "--map", "extra=extra", "--subject", "subject").want(t, 0)
	if strings.Count(done.err, "\n") != 1 || strings.Contains(done.err, "\r") || !strings.HasPrefix(done.err, "6 records in") || done.out != "" {
		t.Errorf("it said %q and %q", done.err, done.out)
	}
	out := i.outcomes(t, "people.csv.tokens.csv")
	if len(out) != len(want) || i.records(t) != len(want) {
		t.Fatalf("%d lines of output and %d records, want %d", len(out), i.records(t), len(want))
	}
	for row, o := range out {
		if o.id != fmt.Sprint(row+1) || o.fault != "" {
			t.Errorf("line %d is of %q: %q", row, o.id, o.fault)
		}
		if diff := cmp.Diff(want[row], i.fields(t, "people", o.record)); diff != "" {
			t.Errorf("record %s (-want +got):\n%s", o.id, diff)
		}
		for field, value := range i.values(t, out[row:row+1])[0] {
			if text, is := want[row][field].(string); is && text != value {
				t.Errorf("record %s: the token of %s stands for %q, want %q", o.id, field, value, text)
			}
		}
	}
	if n := vaulttest.CountURL(t, i.DatabaseURL, `select count(distinct subject_id) from privault.records`); n != 2 {
		t.Errorf("%d subjects", n)
	}
	if exists(t, i.path("people.csv.tokens.csv.state")) {
		t.Error("the state file is left")
	}
	if info, err := os.Stat(i.path("people.csv.tokens.csv")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the output: %v %v", info.Mode(), err)
	}
}

func TestImportNDJSON(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"code": "string", "note": "string", "size": "number", "extra": "json"})
	write(t, i.path("people.ndjson"), "\ufeff"+`{"id":1,"code":"007","note":"a\tb \u00fc \ud83d\ude80 <&>","size":12345678901234567890.10,"extra":{"z":1, "a":"<&> \u003c"},"other":[1]}`+"\r\n"+
		"\n  \n"+
		`{"note":"","code":null,"id":"zwei"}`+"\n"+
		`{"code":"  ","id":"3"}`)
	i.run(t, "people.ndjson", "--collection", "people", "--id", "id").want(t, exitFailed)
	out := i.outcomes(t, "people.ndjson.tokens.csv")
	if len(out) != 3 || out[0].id != "1" || out[1].id != "zwei" || out[2].id != "3" {
		t.Fatalf("the output is of %v", out)
	}
	if !strings.Contains(out[1].fault, "note min-length") || out[1].record != "" {
		t.Errorf("an empty string, which a field can't hold: %q", out[1].fault)
	}
	want := map[string]string{"code": "007", "note": "a\tb ü 🚀 <&>", "size": "12345678901234567890.10", "extra": `{"z":1, "a":"<&> \u003c"}`}
	if diff := cmp.Diff(want, i.values(t, out[:1])[0]); diff != "" {
		t.Errorf("record 1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"code": "  "}, i.fields(t, "people", out[2].record)); diff != "" {
		t.Errorf("record 3 (-want +got):\n%s", diff)
	}
}

// A row that can't be stored is named, with its reason and without its values, and the others are stored. Nothing is
// mended in silence.
func TestImportRefusals(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email", "size": "number", "note": "string"})
	csvRows := []struct{ id, cells, fault string }{
		{"ok-1", "jane@example.com,1,fine", ""},
		{"bad-mail", "canary-mail,1,fine", "/mail"},
		{"bad-size", "joe@example.com,n/a-canary,fine", "column size: not a JSON value"},
		{"bad-zero", "joe@example.com,007,canary", "column size: not a JSON value"},
		{"bad-true", "joe@example.com,true,canary", "/size"},
		{"bad-text", "joe@example.com,1,canary\xff\xfe", "column note: not UTF-8"},
		{"bad-nul", "joe@example.com,1,canary\x00", "/note"},
		{"bad-short", "joe@example.com", "2 cells under a header of 4"},
		{"bad-long", "joe@example.com,1,canary,2", "5 cells under a header of 4"},
		{"ok-2", "ann@example.com,2,", ""},
	}
	var text strings.Builder
	text.WriteString("id,mail,size,note\n")
	for _, r := range csvRows {
		text.WriteString(r.id + "," + r.cells + "\n")
	}
	write(t, i.path("people.csv"), text.String())
	for _, chunk := range []string{"1", "4", "500"} {
		before := i.records(t)
		done := i.run(t, "people.csv", "--collection", "people", "--chunk", chunk, "--out", "out"+chunk).want(t, exitFailed)
		if !strings.Contains(done.err, "8 records were refused") || !strings.Contains(done.err, "out"+chunk) {
			t.Errorf("chunks of %s: it said %s", chunk, done.err)
		}
		if n := i.records(t) - before; n != 2 {
			t.Errorf("chunks of %s: %d records stored", chunk, n)
		}
		for row, o := range i.outcomes(t, "out"+chunk) {
			want := csvRows[row]
			if o.id != want.id || !strings.Contains(o.fault, want.fault) || (o.fault == "") != (o.record != "") {
				t.Errorf("chunks of %s, row %s: the output has %+v", chunk, want.id, o)
			}
		}
		if strings.Contains(read(t, i.path("out"+chunk)), "canary") || strings.Contains(done.err, "canary") {
			t.Error("a refused value is in the output or in what was said")
		}
	}

	write(t, i.path("people.jsonl"), strings.Join([]string{`{"id":"1","mail":"jane@example.com"}`, `["canary"]`, `{"id":"3","mail":"canary\ud800@example.com"}`,
		`{"id":"4","mail":"canary@example.com","mail":"b@example.com"}`, `{"id":"5",`, `null`, "{\"id\":\"7\",\"note\":\"canary\xff\"}", `{"id":"8","size":"canary"}`, `{"id":"9","note":"x"}`}, "\n"))
	done := i.run(t, "people.jsonl", "--collection", "people", "--id", "id").want(t, exitFailed)
	if !strings.Contains(done.err, "7 records were refused") {
		t.Error("it said ", done.err)
	}
	for row, o := range i.outcomes(t, "people.jsonl.tokens.csv") {
		stored := row == 0 || row == 8
		if stored != (o.record != "") || !stored && !strings.Contains(o.fault, fmt.Sprintf("line %d", row+1)) && !strings.Contains(o.fault, "/size") {
			t.Errorf("line %d: the output has %+v", row+1, o)
		}
	}
	if strings.Contains(read(t, i.path("people.jsonl.tokens.csv"))+done.err, "canary") {
		t.Error("a refused value is in the output or in what was said")
	}
}

// What is wrong with the command is said before anything is stored.
func TestImportFlags(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email", "note": "string"})
	write(t, i.path("people.csv"), "id,mail,note,note\n1,jane@example.com,a,b\n")
	write(t, i.path("people.ndjson"), `{"id":"1"}`)
	write(t, i.path("people.xlsx"), "")
	write(t, i.path("empty.csv"), "")
	write(t, i.path("quotes.csv"), "id,mail\n1,\"canary\"x\n")
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"people.csv", "--chunk", "0"}, exitConfig, "--chunk"},
		{[]string{"people.csv", "--chunk", "1001"}, exitConfig, "--chunk"},
		{[]string{"people.csv", "--parallel", "17"}, exitConfig, "--parallel"},
		{[]string{"people.csv", "--map", "mail=nope"}, exitConfig, "--map mail=nope"},
		{[]string{"people.csv", "--map", "mail"}, exitConfig, "--map mail"},
		{[]string{"people.csv", "--map", "nope=mail"}, exitConfig, "no column nope"},
		{[]string{"people.csv", "--map", "mail=mail", "--map", "id=mail"}, exitConfig, "--map id=mail"},
		{[]string{"people.csv", "--map", "mail=mail", "--map", "mail=note"}, exitConfig, "--map mail=note"},
		{[]string{"people.csv"}, exitConfig, "the column note twice"},
		{[]string{"people.csv", "--map", "mail=mail", "--id", "nope"}, exitConfig, "no column nope"},
		{[]string{"people.csv", "--map", "mail=mail", "--subject", "nope"}, exitConfig, "no column nope"},
		{[]string{"people.ndjson"}, exitConfig, "--id"},
		{[]string{"people.xlsx"}, exitConfig, ".csv"},
		{[]string{"empty.csv"}, exitFailed, "header"},
		{[]string{"quotes.csv"}, exitFailed, "line 2"},
		{[]string{"people.csv", "--collection", "others", "--map", "mail=mail"}, exitFailed, "others"},
		{[]string{"people.csv", "--key-file", "people.ndjson"}, exitFailed, "401"},
		{[]string{"people.csv", "--url", "http://127.0.0.1:1"}, exitFailed, "127.0.0.1:1"},
	} {
		args := c.args
		if !slices.Contains(args, "--collection") {
			args = append(args, "--collection", "people")
		}
		got := i.run(t, args...).want(t, c.code)
		if !strings.Contains(got.err, c.said) || strings.Contains(got.err, i.APIKey) || strings.Contains(got.err, "canary") {
			t.Errorf("import %q does not say %q:\n%s", c.args, c.said, got.err)
		}
	}
	if n := i.records(t); n != 0 {
		t.Errorf("%d records were stored", n)
	}
	nowhere := runIn(t, i.folder, nil, "import", "people.csv", "--collection", "people").want(t, exitConfig)
	if !strings.Contains(nowhere.err, "PRIVAULT_API_KEY") {
		t.Error("without a server it says ", nowhere.err)
	}

	// In the folder of a development server, the server need not be named.
	home := filepath.Dir(i.dir)
	if err := os.Symlink(i.dir, filepath.Join(home, ".privault")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, "people.csv"), "id,mail\n1,jane@example.com\n")
	runIn(t, home, nil, "import", "people.csv", "--collection", "people").want(t, 0)
	if n := i.records(t); n != 1 {
		t.Errorf("%d records were stored", n)
	}
}

// An import that was cut short is gone on with by the same command on the same file, and by nothing else.
func TestImportForeignState(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email", "other": "email"})
	file, state := i.path("people.csv"), i.path("people.csv.tokens.csv.state")
	write(t, file, "id,mail\n1,jane@example.com\n2,joe@example.com\n")
	args := []string{"people.csv", "--collection", "people", "--map", "mail=mail", "--chunk", "1"}
	i.run(t, args...).want(t, 0)
	ended := i.run(t, args...).want(t, exitFailed)
	if !strings.Contains(ended.err, "--restart") || i.records(t) != 2 {
		t.Errorf("on an import that ended it said %s", ended.err)
	}

	// A line that can't be read cuts the next one short after its second record.
	write(t, file, "id,mail\n1,jane@example.com\n2,joe@example.com\n3,\"x\"y\n")
	cut := i.run(t, append(args, "--restart")...).want(t, exitFailed)
	if !strings.Contains(cut.err, "after record 2") || !exists(t, state) || i.records(t) != 4 {
		t.Errorf("%d records; it said %s", i.records(t), cut.err)
	}
	other := i.principal(t)
	kept := read(t, state) + read(t, i.path("people.csv.tokens.csv"))
	for what, foreign := range map[string]func() finished{
		"another mapping": func() finished { return i.run(t, append(args[:3:3], "--map", "mail=other", "--chunk", "1")...) },
		"another chunk":   func() finished { return i.run(t, append(args[:5:5], "--chunk", "2")...) },
		"another id":      func() finished { return i.run(t, append(args, "--id", "mail")...) },
		"another key": func() finished {
			return runIn(t, i.folder, []string{"PRIVAULT_URL=" + i.URL, "PRIVAULT_API_KEY=" + other}, append([]string{"import"}, args...)...)
		},
	} {
		if got := foreign().want(t, exitFailed); !strings.Contains(got.err, "another import") || !strings.Contains(got.err, "--restart") {
			t.Errorf("%s: it said %s", what, got.err)
		}
	}
	if read(t, state)+read(t, i.path("people.csv.tokens.csv")) != kept || i.records(t) != 4 {
		t.Error("a refused import changed something")
	}

	// Without a size it goes on with the size that it began with.
	if got := i.run(t, args[:5]...).want(t, exitFailed); !strings.Contains(got.err, "after record 2") || i.records(t) != 4 {
		t.Errorf("without --chunk there are %d records; it said %s", i.records(t), got.err)
	}

	// The output was lost: going on would leave a hole in it.
	output := read(t, i.path("people.csv.tokens.csv"))
	write(t, i.path("people.csv.tokens.csv"), output[:len(output)-1])
	if got := i.run(t, args...).want(t, exitFailed); !strings.Contains(got.err, "--restart") {
		t.Error("on an output cut short it said ", got.err)
	}

	write(t, file, "id,mail\n7,jane@example.com\n")
	if got := i.run(t, args...).want(t, exitFailed); !strings.Contains(got.err, "another import") {
		t.Error("another file: it said ", got.err)
	}
	i.run(t, append(args, "--restart")...).want(t, 0)
	if out := i.outcomes(t, "people.csv.tokens.csv"); len(out) != 1 || out[0].id != "7" || i.records(t) != 5 {
		t.Errorf("after --restart there are %d records and the output has %v", i.records(t), out)
	}

	// The server forgets its Idempotency-Keys after a day; so does the command, a little earlier.
	write(t, file, "id,mail\n1,jane@example.com\n2,\"x\"y\n")
	i.run(t, append(args, "--restart")...).want(t, exitFailed)
	text := read(t, state)
	before, after, found := strings.Cut(text, `"saved":"`)
	if !found {
		t.Fatal("no time in ", text)
	}
	_, after, _ = strings.Cut(after, `"`)
	// A run in between that notes nothing more doesn't make what an earlier one sent any younger.
	hours := `"saved":"` + time.Now().Add(time.Hour-resumable).Format(time.RFC3339) + `"`
	write(t, state, before+hours+after)
	if got := i.run(t, args...).want(t, exitFailed); !strings.Contains(got.err, "after record") || !strings.Contains(read(t, state), hours) {
		t.Errorf("hours later it said %s, and keeps %s", got.err, read(t, state))
	}
	write(t, state, before+`"saved":"`+time.Now().Add(-resumable-time.Minute).Format(time.RFC3339)+`"`+after)
	if got := i.run(t, args...).want(t, exitFailed); !strings.Contains(got.err, "23h") {
		t.Error("a day later it said ", got.err)
	}
}

// An import that a version before began, whose requests had 500 records unless said, goes on.
func TestImportOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email"})
	i.numbered(t, "people.csv", 500)
	file, state := i.path("people.csv"), i.path("people.csv.tokens.csv.state")
	write(t, file, read(t, file)+"501,\"x\"y\n")
	for _, args := range [][]string{{"people.csv", "--collection", "people", "--chunk", "500"}, {"people.csv", "--collection", "people"}} {
		if got := i.run(t, args...).want(t, exitFailed); !strings.Contains(got.err, "after record 500") || i.records(t) != 500 {
			t.Errorf("there are %d records; it said %s", i.records(t), got.err)
		}
		write(t, state, strings.Replace(read(t, state), `"chunk":500,`, "", 1))
	}
}

// principal gives the key of somebody else of the same tenant.
func (i *importer) principal(t testing.TB) string {
	t.Helper()
	return i.caller().principal(t, "somebody", "backend-writer")
}

// numbered writes a file of so many records and gives their values.
func (i *importer) numbered(t testing.TB, name string, rows int) []string {
	t.Helper()
	var text strings.Builder
	text.WriteString("id,mail\n")
	values := make([]string, rows)
	for n := range rows {
		values[n] = fmt.Sprintf("person-%d@example.com", n)
		fmt.Fprintf(&text, "%d,%s\n", n, values[n])
	}
	write(t, i.path(name), text.String())
	return values
}

// complete wants each record stored once, and once in the output, in the order of the file.
func (i *importer) complete(t testing.TB, output string, values []string) {
	t.Helper()
	out := i.outcomes(t, output)
	if n := i.records(t); n != len(values) || len(out) != len(values) {
		t.Fatalf("%d records in the database and %d in the output, want %d", n, len(out), len(values))
	}
	seen := map[string]bool{}
	for row, got := range i.values(t, out) {
		if out[row].id != fmt.Sprint(row) || got["mail"] != values[row] || seen[out[row].record] {
			t.Fatalf("line %d of the output is record %s of %q: %v, want %q", row+1, out[row].record, out[row].id, got, values[row])
		}
		seen[out[row].record] = true
	}
	if exists(t, i.path(output+".state")) {
		t.Error("the state file is left")
	}
}

// Killed again and again, the import ends with each record stored once.
func TestImportKilled(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email"})
	values := i.numbered(t, "people.csv", 8000)
	state := i.path("people.csv.tokens.csv.state")
	kills := 0
	for code := -1; code != 0; {
		p := start(t, i.folder, i.settings(), "import", "people.csv", "--collection", "people", "--chunk", "5")
		before := ""
		if exists(t, state) {
			before = read(t, state)
		}
		seen := 0
		eventually(t, "the import goes on", func() bool {
			if now, err := os.ReadFile(state); err == nil && string(now) != before {
				before, seen = string(now), seen+1
			}
			return seen > 1 || p.ended()
		})
		p.signal(syscall.SIGKILL)
		if code = p.wait(t); code > 0 {
			t.Fatalf("after %d kills it ended with code %d:\n%s", kills, code, p.stderr.String())
		}
		if code < 0 {
			kills++
		}
	}
	if kills < 3 {
		t.Errorf("it was killed only %d times", kills)
	}
	t.Logf("killed %d times", kills)
	i.complete(t, "people.csv.tokens.csv", values)
}

// Interrupted by an operator, it says how to go on.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email"})
	values := i.numbered(t, "people.csv", 8000)
	p := start(t, i.folder, i.settings(), "import", "people.csv", "--collection", "people", "--chunk", "5")
	eventually(t, "the import has begun", func() bool { return exists(t, i.path("people.csv.tokens.csv.state")) })
	p.signal(syscall.SIGINT)
	if code := p.wait(t); code != exitFailed || !strings.Contains(p.stderr.String(), "run the same command again") {
		t.Errorf("it ended with code %d and said %s", code, p.stderr.String())
	}
	i.run(t, "people.csv", "--collection", "people", "--chunk", "5").want(t, 0)
	i.complete(t, "people.csv.tokens.csv", values)
}

// A way to the server that breaks now and then, after the server has stored and before the answer is there, is borne.
func TestImportOverBrokenWay(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email"})
	values := i.numbered(t, "people.csv", 1000)
	way := breakingProxy(t, strings.TrimPrefix(i.URL, "http://"), 5)
	done := i.run(t, "people.csv", "--collection", "people", "--chunk", "20", "--url", "http://"+way.address).want(t, 0)
	if way.broken.Load() < 5 {
		t.Errorf("the way broke only %d times", way.broken.Load())
	}
	t.Logf("the way broke %d times; %s", way.broken.Load(), done.err)
	i.complete(t, "people.csv.tokens.csv", values)
}

// The server is killed in the middle, and is back before the import's patience ends.
func TestImportWhileServerIsKilled(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"mail": "email"})
	values := i.numbered(t, "people.csv", 2000)
	p := start(t, i.folder, i.settings(), "import", "people.csv", "--collection", "people", "--chunk", "20")
	output := i.path("people.csv.tokens.csv")
	eventually(t, "the import is in the middle", func() bool { return exists(t, output) && strings.Count(read(t, output), "\n") > 200 })
	i.kill(t)
	again := startDev(t, i.dir, "--no-sample", "--database-url", i.DatabaseURL, "--listen", strings.TrimPrefix(i.URL, "http://"))
	if code := p.wait(t); code != 0 {
		t.Fatalf("the import ended with code %d:\n%s", code, p.stderr.String())
	}
	i.devServer = again
	i.complete(t, "people.csv.tokens.csv", values)
}
