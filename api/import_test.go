package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	importPath = "/v1/collections/people/import"
	asLines    = "Content-Type: application/x-ndjson"
)

func TestAnImportAnswersLineByLineInOrder(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name", "email", "email")
	secret := canary()
	a := c.send(t, "POST", importPath, strings.Join([]string{
		`{"subject":"cust-1","fields":{"name":"Jane Roe"}}`,
		`{"fields":{"email":"` + secret + `"}}`,
		``,
		`{"fields":{"name":"` + secret + `"}`,
		`{"more":"` + secret + `","fields":{}}`,
		`{"fields":{"name":"` + secret + `"}}{}`,
		`null`,
		`  {"fields":{"name":"John Roe"}}  ` + "\r",
		`{"fields":{"name":"Last, without a line's end"}}`}, "\n"), asLines).want(t, 200)
	if got := a.header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("the content type is %q", got)
	}
	var got []string
	lines := a.lines(t)
	for i, line := range lines {
		if line.Index != i {
			t.Errorf("line %d says it is %d", i, line.Index)
		}
		got = append(got, fmt.Sprint(line.Status, " ", line.Error.slug(), line.Error.Errors))
	}
	want := []string{"201 []", "422 validation-failed[{/fields/email email}]", "400 malformed-json[]", "422 validation-failed[{ unknown-member}]",
		"400 malformed-json[]", "422 validation-failed[{ type}]", "201 []", "201 []"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if got := c.reveal(t, lines[6].Tokens["name"]); got != `"John Roe"` {
		t.Errorf("got %s", got)
	}
	quiet(t, "the answer", string(a.body), secret)
	quiet(t, "the log", c.Log.String(), secret)
}

// A line's outcome is here before the next line is sent, and its record is durable by then.
func TestAnImportIsInterleaved(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	body, lines := io.Pipe()
	r := c.request(t, "POST", importPath, body, asLines)
	const line = `{"fields":{"name":"Jane Roe"}}` + "\n"
	first := make(chan error, 1)
	go func() {
		_, err := io.WriteString(lines, line)
		first <- err
	}()
	res, err := http.DefaultClient.Do(r) // returns with the first outcome
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	outcomes := bufio.NewReader(res.Body)
	var all []byte
	for i := range 5 {
		if i > 0 {
			if _, err := io.WriteString(lines, line); err != nil {
				t.Fatal(err)
			}
		}
		outcome, err := outcomes.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, outcome...)
		var stored item
		answer{body: outcome}.read(t, &stored)
		if got := c.reveal(t, stored.Tokens["name"]); stored.Index != i || got != `"Jane Roe"` {
			t.Fatalf("line %d: %s gives %s", i, outcome, got)
		}
	}
	if err := lines.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(outcomes); err != nil || len(rest) > 0 {
		t.Errorf("after the last line come %q and %v", rest, err)
	}
	answer{res.StatusCode, res.Header, all, false}.check(t, r, []byte(strings.Repeat(line, 5)))
}

func TestALongImportKeepsItsOrder(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "n", "number")
	const n = 2500
	var body strings.Builder
	for i := range n {
		fmt.Fprintf(&body, "{\"fields\":{\"n\":%d}}\n", i)
	}
	lines := c.send(t, "POST", importPath, body.String(), asLines).want(t, 200).lines(t)
	if len(lines) != n {
		t.Fatalf("%d outcomes, want %d", len(lines), n)
	}
	for _, i := range []int{0, 499, 500, 1234, n - 1} {
		if got := c.reveal(t, lines[i].Tokens["n"]); lines[i].Index != i || got != fmt.Sprint(i) {
			t.Errorf("line %d: index %d, value %s", i, lines[i].Index, got)
		}
	}
}

// Chunks of one import make tokens for the same new values, and none of their lines fails for it.
func TestAnImportIsNotInItsOwnWay(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name","token":{"strategy":"deterministic"}}}}`).want(t, 201)
	const n, names = 10_000, 700
	var body strings.Builder
	for i := range n {
		fmt.Fprintf(&body, "{\"fields\":{\"name\":\"Jane %d\"}}\n", i*i%names)
	}
	tokens := map[int]string{}
	for i, line := range c.send(t, "POST", importPath, body.String(), asLines).want(t, 200).lines(t) {
		token := line.Tokens["name"]
		if line.Status != 201 || token == "" || tokens[i*i%names] != "" && tokens[i*i%names] != token {
			t.Fatalf("line %d: %d %v, and its value has the token %q", i, line.Status, line.Error, tokens[i*i%names])
		}
		tokens[i*i%names] = token
	}
}

func TestALineThatIsTooLongEndsTheImport(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	const good = `{"fields":{"name":"Jane Roe"}}` + "\n"
	lines := c.send(t, "POST", importPath, good+strings.Repeat(" ", 1<<20)+good+good, asLines).want(t, 200).lines(t)
	if len(lines) != 2 || lines[0].Status != 201 || lines[1].Index != 1 || lines[1].Error.slug() != "payload-too-large" {
		t.Errorf("got %+v", lines)
	}
	if n := c.Count(`select count(*) from privault.records`); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

func TestImportsThatDoNotStart(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	const line = `{"fields":{"name":"Jane Roe"}}` + "\n"
	c.send(t, "POST", "/v1/collections/nobody/import", line, asLines).refused(t, 404, "not-found")
	c.send(t, "POST", importPath, line, "Content-Type: application/json").refused(t, 415, "unsupported-media-type")
	c.send(t, "POST", importPath, line, asLines, "Content-Encoding: gzip").refused(t, 415, "unsupported-media-type")
	c.send(t, "POST", importPath+"?x=1", line, asLines).refused(t, 400, "malformed-request")
	c.colleague(t, "backend-reader").send(t, "POST", importPath, line, asLines).refused(t, 403, "forbidden")
	if a := c.send(t, "POST", importPath, "", asLines).want(t, 200); len(a.body) > 0 {
		t.Errorf("an empty import answers %s", a.body)
	}
	if n := c.Count(`select count(*) from privault.records`); n != 0 {
		t.Errorf("%d records, want none", n)
	}
}
