package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/vaulttest"
)

// The fields of a collection that is moved: of every type that CSV might spoil, and with every kind of token.
const movedFields = `{"fields":{
	"name":{"type":"name"},"note":{"type":"text"},"size":{"type":"number"},"member":{"type":"boolean"},"extra":{"type":"json"},
	"email":{"type":"email","index":["exact"],"token":{"strategy":"deterministic"}},
	"pan":{"type":"pan","index":["exact"],"token":{"strategy":"fpe","supplied":"allowed"}},
	"account":{"type":"string","token":{"strategy":"format","alphabet":"digits","min_length":8,"max_length":12,"supplied":"allowed"}},
	"legacy":{"type":"string","token":{"supplied":"required"}}}}`

// pan is the nth of some card numbers.
func pan(n int) string {
	digits, sum := fmt.Sprintf("41111111%07d", n), 0
	for i := range digits {
		d := int(digits[i] - '0')
		if i%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return digits + fmt.Sprint((10-sum%10)%10)
}

func movedItem(n int) string {
	notes := []string{"plain", `a \"quoted\" word, and a comma`, `one\r\ntwo\nthree\rfour`, `=HYPERLINK(\"x\")`, `Zoë 🚀 \u0000`[:9], ` ; `, `null`, `\ttab`}
	extras := []string{`{"a": [1, "x"]}`, `"text"`, `[]`, `1.50`}
	return fmt.Sprintf(`{"subject":"cust-%d","expires_at":"2099-01-01T00:00:00Z","fields":{"name":"Person %d","note":"%s","size":%d.10,"member":%t,"extra":%s,
		"email":"p%d@example.com","pan":"%s","account":"%08d","legacy":"L%d"},"tokens":{"legacy":"old-%d"}}`,
		n, n, notes[n%len(notes)], n, n%2 == 0, extras[n%len(extras)], n%50, pan(n), n, n, n)
}

// another is a tenant of its own on the same databases.
func (i *importer) another(t testing.TB) *importer {
	t.Helper()
	other := &importer{folder: i.folder}
	other.devServer = startDev(t, t.TempDir(), "--no-sample", "--database-url", i.DatabaseURL)
	return other
}

func (i *importer) export(t testing.TB, args ...string) finished {
	t.Helper()
	return runIn(t, i.folder, i.settings(), append([]string{"export"}, args...)...)
}

// lines reads an NDJSON export, by subject.
func (i *importer) lines(t testing.TB, name string) map[string]exportedLine {
	t.Helper()
	text, err := os.ReadFile(i.path(name))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]exportedLine{}
	for line := range strings.Lines(string(text)) {
		var l exportedLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		all[l.Subject] = l
	}
	return all
}

// What was taken out of one tenant and brought into another is the same, byte for byte, and goes by the same tokens where
// they may be brought along.
func TestExportAndImportIntoAnotherTenant(t *testing.T) {
	t.Parallel()
	const people = 1200
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	i.caller().want(t, http.StatusCreated, http.MethodPut, "/v1/collections/people", movedFields, nil)
	var items []string
	for n := range people {
		items = append(items, movedItem(n))
	}
	for chunk := range slices.Chunk(items, 400) {
		i.caller().want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", `{"collection":"people","items":[`+strings.Join(chunk, ",")+`]}`, nil)
	}
	for _, name := range []string{"people.ndjson", "people.csv"} {
		done := i.export(t, name, "--collection", "people", "--view", "plain").want(t, 0)
		if !strings.HasPrefix(done.err, fmt.Sprintf("%d records in", people)) {
			t.Errorf("it said %s", done.err)
		}
		if info, err := os.Stat(i.path(name)); err != nil || info.Mode() != 0o600 || exists(t, i.path(name+".part")) {
			t.Errorf("the output: %v %v", info, err)
		}
	}
	before := i.lines(t, "people.ndjson")
	other := i.another(t)
	for _, name := range []string{"people.ndjson", "people.csv"} {
		collection := "from_" + name[len("people."):]
		other.caller().want(t, http.StatusCreated, http.MethodPut, "/v1/collections/"+collection, movedFields, nil)
		other.run(t, name, "--collection", collection, "--exported", "--out", collection+".csv").want(t, 0)
		for row, o := range other.outcomes(t, collection+".csv") {
			if was := before[fmt.Sprintf("cust-%d", row)]; o.id != was.Record {
				t.Fatalf("%s: row %d stands beside the record %s, which was %s", name, row, o.id, was.Record)
			}
		}
		other.export(t, collection+".ndjson", "--collection", collection, "--view", "plain").want(t, 0)
		after := other.lines(t, collection+".ndjson")
		if len(after) != people {
			t.Fatalf("%s: %d records arrived", name, len(after))
		}
		for subject, was := range before {
			is := after[subject]
			if diff := cmp.Diff(was.Fields, is.Fields); diff != "" || is.Expires != was.Expires {
				t.Fatalf("%s: %s is not what it was, until %s:\n%s", name, subject, is.Expires, diff)
			}
			for field, token := range was.Tokens {
				if kept := slices.Contains([]string{"pan", "account", "legacy"}, field); (is.Tokens[field] == token) != kept {
					t.Fatalf("%s: the token of %s was %s and is %s", name, field, token, is.Tokens[field])
				}
			}
		}
		// An old token gives the value in its new home.
		var answer struct{ Items []struct{ Value string } }
		other.caller().want(t, http.StatusOK, http.MethodPost, "/v1/detokenize",
			fmt.Sprintf(`{"items":[{"token":"%s","collection":"%s","field":"pan","view":"plain"}]}`, before["cust-7"].Tokens["pan"], collection), &answer)
		if answer.Items[0].Value != pan(7) {
			t.Errorf("%s: the old token gives %v", name, answer.Items)
		}
	}
}

// After a rotation of FPE keys the owner of a column learns which new token stands for which old one.
func TestExportSaysWhatTokensWereBefore(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	c := i.caller()
	c.want(t, http.StatusCreated, http.MethodPut, "/v1/collections/people", movedFields, nil)
	c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", `{"collection":"people","items":[`+movedItem(1)+`,`+movedItem(2)+`]}`, nil)
	i.export(t, "before.ndjson", "--collection", "people").want(t, 0)
	before := i.lines(t, "before.ndjson")
	var rotation struct{ Job string }
	c.want(t, http.StatusAccepted, http.MethodPost, "/v1/keys/fpe/rotate", `{}`, &rotation)
	eventually(t, "the job", func() bool {
		var job struct{ State string }
		c.want(t, http.StatusOK, http.MethodGet, "/v1/jobs/"+rotation.Job, "", &job)
		return job.State == "completed"
	})
	i.export(t, "after.ndjson", "--collection", "people", "--previous-tokens").want(t, 0)
	i.export(t, "after.csv", "--collection", "people", "--previous-tokens").want(t, 0)
	table := readCSV(t, i.path("after.csv"))
	column := slices.Index(table[0], "previous_tokens_pan")
	for n, subject := range []string{"cust-1", "cust-2"} {
		is := i.lines(t, "after.ndjson")[subject]
		old := before[subject].Tokens["pan"]
		if is.Tokens["pan"] == old || !slices.Equal(is.Previous["pan"], []string{old}) || len(is.Previous) != 1 || table[1+n][column] != old {
			t.Errorf("%s: %d previous tokens, the token is new: %t, the table has it: %t", subject, len(is.Previous), is.Tokens["pan"] != old, table[1+n][column] == old)
		}
	}
}

// Columns of another vault's dump: tokens come from where --token says, also from within an object.
func TestImportBringsTokensAlong(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	i.caller().want(t, http.StatusCreated, http.MethodPut, "/v1/collections/cards",
		`{"fields":{"pan":{"type":"pan","token":{"supplied":"required"}},"name":{"type":"name"}}}`, nil)
	write(t, i.path("dump.csv"), "id,card,card_token,holder,until\n1,4111111111111111,tok_1,Jane Roe,2099-01-01T00:00:00Z\n2,4242424242424242,,Joe Doe,\n")
	args := []string{"--collection", "cards", "--map", "card=pan", "--map", "holder=name", "--token", "pan=card_token"}
	i.run(t, append([]string{"dump.csv", "--expires", "until"}, args...)...).want(t, exitFailed)
	out := i.outcomes(t, "dump.csv.tokens.csv")
	if out[0].tokens["pan"] != "tok_1" || out[0].fault != "" || !strings.Contains(out[1].fault, "/tokens/pan required") {
		t.Errorf("got %+v", out)
	}
	if n := vaulttest.CountURL(t, i.DatabaseURL, `select count(*) from privault.records where expires_at = '2099-01-01'`); n != 1 {
		t.Errorf("%d records expire", n)
	}
	write(t, i.path("dump.ndjson"), `{"id":"7","data":{"number":"4000000000000002","holder.name":"Ann Poe"},"token":"tok_7"}`+"\n"+`{"id":"8","data":{"number":"4000000000000010"},"token":8}`+"\n")
	i.run(t, "dump.ndjson", "--collection", "cards", "--id", "id", "--map", "data.number=pan", "--map", "data.holder.name=name", "--token", "pan=token").want(t, exitFailed)
	out = i.outcomes(t, "dump.ndjson.tokens.csv")
	if out[0].tokens["pan"] != "tok_7" || i.fields(t, "cards", out[0].record)["name"] != "Ann Poe" || !strings.Contains(out[1].fault, "column token: not a string") {
		t.Errorf("got %+v", out)
	}
	for what, args := range map[string][]string{
		"no such field":            {"--token", "number=card_token"},
		"no tokens from outside":   {"--token", "name=holder"},
		"a field has one column":   {"--token", "pan=card_token", "--token", "pan=id"},
		"the file has no column x": {"--token", "pan=x"},
		"leave out --map":          {"--exported", "--map", "card=pan"},
	} {
		done := i.run(t, append([]string{"dump.csv", "--collection", "cards", "--out", "x.csv"}, args...)...).want(t, exitConfig)
		if !strings.Contains(done.err, what) {
			t.Errorf("%v: it said %s", args, done.err)
		}
	}
}

// The server is killed and comes back while an export runs: it goes on, and nothing is missing or twice.
func TestExportGoesOnAfterTheServerWasKilled(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"note": "text"})
	var text strings.Builder
	text.WriteString("id,note\n")
	for n := range 3000 {
		fmt.Fprintf(&text, "%d,%s\n", n, strings.Repeat(fmt.Sprint(n%10), 4000))
	}
	write(t, i.path("people.csv"), text.String())
	i.run(t, "people.csv", "--collection", "people").want(t, 0)
	p := start(t, i.folder, i.settings(), "export", "out.ndjson", "--collection", "people", "--view", "plain")
	for {
		if info, err := os.Stat(i.path("out.ndjson.part")); err == nil && info.Size() > 0 {
			break
		}
		if p.ended() {
			t.Fatalf("it ended at once: %s", p.stderr.String())
		}
	}
	p.signal(syscall.SIGSTOP) // a slow reader
	i.kill(t)
	startDev(t, i.dir, "--no-sample", "--database-url", i.DatabaseURL, "--listen", strings.TrimPrefix(i.URL, "http://"))
	p.signal(syscall.SIGCONT)
	if code := p.wait(t); code != 0 {
		t.Fatalf("it ended with %d: %s", code, p.stderr.String())
	}
	var ids []string
	read, err := os.ReadFile(i.path("out.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(read)) {
		var l exportedLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, l.Record)
	}
	if n := len(ids); n != 3000 || !slices.IsSorted(ids) || len(slices.Compact(ids)) != n {
		t.Errorf("%d lines of %d records", n, len(slices.Compact(ids)))
	}
}

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// runPage runs the commands of a document, as they stand, and gives what each block of them said.
func (i *importer) runPage(t *testing.T, name string) (said []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"curl", "privault"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, block := range shellBlock.FindAllStringSubmatch(string(page), -1) {
		run := exec.CommandContext(t.Context(), "sh", "-e", "-c", block[1])
		run.Dir = i.folder
		run.Env = append(environment(i.settings()), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%s\n%v: %s", block[1], err, out)
		}
		said = append(said, string(out))
	}
	return said
}

// The commands of docs/migrate.md, as they stand.
func TestTheMigrationPageWorks(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	said := i.runPage(t, "migrate.md")
	if len(said) != 6 || !strings.Contains(said[2], ",tok_7Jx1,") || !strings.Contains(said[3], `"value":"4111111111111111"`) || !strings.Contains(said[3], `"card":"tok_9Kq2"`) {
		t.Errorf("%d blocks said %q", len(said), said)
	}
	was, is := i.lines(t, "cards-all.ndjson"), i.lines(t, "again.ndjson")
	if diff := cmp.Diff(was[""].Fields, is[""].Fields); diff != "" || len(was[""].Fields) != 3 || was[""].Tokens["card"] != is[""].Tokens["card"] {
		t.Errorf("what came back (-was +is): %s", diff)
	}
}
