package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const exportPath = "/v1/collections/people/export"

type exportLine struct {
	Record, Subject string
	Version, Status int
	Fields          map[string]any
	Tokens          map[string]string
	Error           *problem
}

func exportLines(t *testing.T, a answer) (all []exportLine) {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Fatalf("the answer is %s", got)
	}
	for line := range bytes.Lines(a.body) {
		var l exportLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func TestExportStreamsWhatIsThere(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name", "email", "email")
	if got := exportLines(t, c.send(t, "POST", exportPath, `{}`).want(t, 200)); len(got) != 0 {
		t.Errorf("an empty collection: %v", got)
	}
	want := c.tokenize(t, "people", `{"name":"Jane Roe","email":"jane@example.com"}`, `{"name":"Joe Doe"}`)
	got := exportLines(t, c.send(t, "POST", exportPath, `{"view":"plain","views":{"email":"masked"}}`).want(t, 200))
	for i, fields := range []map[string]any{{"name": "Jane Roe", "email": "j***@example.com"}, {"name": "Joe Doe"}} {
		if diff := cmp.Diff(exportLine{Record: want[i].Record, Version: 1, Fields: fields, Tokens: want[i].Tokens}, got[i]); diff != "" {
			t.Errorf("record %d (-want +got):\n%s", i, diff)
		}
	}
	// Without a body, and going on behind the first.
	r := c.request(t, "POST", exportPath, http.NoBody)
	r.Header.Del("Content-Type")
	if got := exportLines(t, c.do(t, r, nil).want(t, 200)); len(got) != 2 || got[0].Fields["name"] != "J*** R***" {
		t.Errorf("without a body: %+v", got)
	}
	if got := exportLines(t, c.send(t, "POST", exportPath, `{"after":"`+want[0].Record+`","fields":["name"]}`).want(t, 200)); len(got) != 1 || got[0].Record != want[1].Record || len(got[0].Tokens) != 1 {
		t.Errorf("behind the first: %+v", got)
	}
	for _, body := range []string{`{"fields":[]}`, `{"fields":["none"]}`, `{"view":""}`, `{"view":"clear"}`, `{"after":"x"}`, `{"all":true}`} {
		c.send(t, "POST", exportPath, body).refused(t, 422, "validation-failed")
	}
	c.send(t, "POST", "/v1/collections/nobody/export", `{}`).refused(t, 404, "not-found")
	c.colleague(t, "backend-reader").send(t, "POST", exportPath, `{}`).refused(t, 403, "forbidden")
	c.colleague(t, "exporter").send(t, "POST", exportPath, `{"view":"plain"}`).want(t, 200)
}

func TestExportSaysWhatItWithholds(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1","fields":{"name":"Jane Roe"}},{"fields":{"name":"Joe Doe"}}]}`).want(t, 200)
	c.send(t, "PUT", "/v1/subjects/cust-1/restriction", `{"reason":"gdpr-18-1-a"}`)
	got := exportLines(t, c.send(t, "POST", exportPath, `{"view":"plain"}`).want(t, 200))
	if len(got) != 2 || got[0].Status != 423 || got[0].Error.slug() != "subject-restricted" || got[0].Fields != nil || got[0].Tokens != nil || got[1].Error != nil {
		t.Errorf("got %+v", got)
	}
}

// A stream that can't go on says so in its last line, and where to go on is known.
func TestExportThatEndsEarlySaysSo(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.tenant()
	c.collection(t, "people", "note", "text")
	note := strings.Repeat("x", 60_000)
	for range 5 {
		var fields []string
		for n := range 100 {
			fields = append(fields, fmt.Sprintf(`{"note":"%d%s"}`, n, note))
		}
		c.tokenize(t, "people", fields...)
	}
	r := c.request(t, "POST", exportPath, strings.NewReader(`{"view":"plain"}`))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, 1<<20)
	var last, end exportLine
	for n := 0; in.Scan(); n++ {
		var l exportLine
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if end = l; l.Error == nil {
			last = l
		}
		if n == 0 {
			s.Exec(`alter table privault.audit_entries add constraint none check (action <> 'record.export') not valid`)
		}
	}
	if in.Err() != nil || end.Record != "" || end.Status != 503 || end.Error.slug() != "audit-unavailable" {
		t.Errorf("the last line is %+v, %v", end, in.Err())
	}
	s.Exec(`alter table privault.audit_entries drop constraint none`)
	rest := exportLines(t, c.send(t, "POST", exportPath, `{"after":"`+last.Record+`"}`).want(t, 200))
	if len(rest) == 0 || len(rest) >= 500 || rest[0].Record <= last.Record {
		t.Errorf("%d records behind the last", len(rest))
	}
}
