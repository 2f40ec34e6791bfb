package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/api/limit"
)

// entriesSince gives what entries with an id after that one say, in their order, and the newest id.
func (s *service) entriesSince(t *testing.T, after string) (said []string, newest string) {
	t.Helper()
	newest = after
	for _, row := range s.Texts(`select entry_id || body from privault.audit_entries where entry_id > $1::text::uuid order by entry_id`, after) {
		var e struct {
			Action, Outcome, Problem, Route, Rule, Principal, Purpose string
			Items                                                     int
		}
		newest = row[:len(noEntry)]
		if err := json.Unmarshal([]byte(row[len(noEntry):]), &e); err != nil {
			t.Fatal(err)
		}
		if e.Purpose != "" {
			t.Errorf("the entry of %s has the purpose %q", e.Action, e.Purpose)
		}
		who := "somebody"
		if e.Principal == "" {
			who = "a stranger"
		}
		said = append(said, fmt.Sprintf("%s: %s %s %s %q %q %d", who, e.Action, e.Outcome, e.Problem, e.Route, e.Rule, e.Items))
	}
	return said, newest
}

const noEntry = "00000000-0000-0000-0000-000000000000"

// A call of a known principal that never comes to an operation leaves one entry all the same, and one that does leaves no
// second one.
func TestARefusedCallLeavesOneEntry(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	record := c.tokenize(t, "people", `{"name":"Jane"}`)[0].Record
	_, last := c.entriesSince(t, noEntry)
	for _, call := range []struct {
		method, path, body string
		headers            []string
		status             int
		entry              string
	}{
		{"POST", "/v1/tokenize", `{`, nil, 400, `call.refuse failed malformed-json "POST /v1/tokenize"`},
		{"POST", "/v1/tokenize", `{"x":1}`, nil, 422, `call.refuse failed validation-failed "POST /v1/tokenize"`},
		{"POST", "/v1/tokenize", `{}`, []string{"Content-Type: text/plain"}, 415, `call.refuse failed unsupported-media-type "POST /v1/tokenize"`},
		{"PUT", "/v1/collections/people", strings.Repeat(" ", 1<<20+1), nil, 413, `call.refuse failed payload-too-large "PUT /v1/collections/:collection"`},
		{"PATCH", "/v1/collections/people/records/" + record, `{"fields":{"name":"Ann"}}`, nil, 428, `call.refuse failed precondition-required "PATCH /v1/collections/:collection/records/:record"`},
		{"GET", "/v1/collections?value=x", "", nil, 400, `call.refuse failed malformed-request "GET /v1/collections"`},
		{"GET", "/v1/collections", "", []string{"Privault-Purpose: jane@example.com"}, 422, `call.refuse failed validation-failed "GET /v1/collections"`},
		{"GET", "/v1/jane@example.com", "", nil, 404, `call.refuse failed not-found "GET (none)"`},
		{"DELETE", "/v1/tokenize", "", nil, 405, `call.refuse failed method-not-allowed "DELETE (none)"`},
		{"POST", "/v1/collections/people/import", "{\n", []string{"Content-Type: application/x-ndjson"}, 200, `call.refuse failed malformed-json "POST /v1/collections/:collection/import"`},
		// Those come to an operation.
		{"POST", "/v1/detokenize", `{"items":[]}`, nil, 422, `detokenize failed validation-failed ""`},
		{"GET", "/v1/collections/nobody", "", nil, 404, `collection.read failed not-found ""`},
	} {
		c.send(t, call.method, call.path, call.body, call.headers...).want(t, call.status)
		var said []string
		said, last = c.entriesSince(t, last)
		if diff := cmp.Diff([]string{"somebody: " + call.entry + ` "" 0`}, said); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", call.method, call.path, diff)
		}
	}
	// Without a place for the entry, the caller hears of that.
	c.Exec(`revoke insert on privault.audit_entries from privault_app`)
	c.send(t, "POST", "/v1/tokenize", `{`).refused(t, 503, "audit-unavailable")
}

// Strangers are counted: however many calls they make, the log has an entry for each kind of refusal.
func TestStrangersCantFillTheLog(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.tenant()
	principal := c.principal(t, "billing", "auditor")
	id, old := c.issue(t, principal, `{}`)
	old.send(t, "GET", "/v1/audit/entries", "").want(t, 200)
	c.send(t, "DELETE", "/v1/principals/"+principal+"/keys/"+id, "").want(t, 204)
	_, last := c.entriesSince(t, noEntry)
	for range 40 {
		client{service: s}.send(t, "GET", "/v1/collections", "").refused(t, 401, "unauthenticated")
		client{service: s, key: "pvak_x"}.send(t, "GET", "/v1/collections?x=y", "").refused(t, 401, "unauthenticated")
		old.send(t, "GET", "/v1/collections", "").refused(t, 401, "unauthenticated")
	}
	said, _ := c.entriesSince(t, last)
	if len(said) != 0 {
		t.Errorf("the entries are there at once: %q", said)
	}
	for range 2 {
		if err := s.NoteRefusals(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	said, last = c.entriesSince(t, last)
	slices.Sort(said)
	want := []string{
		`a stranger: call.refuse failed unauthenticated "" "" 80`,
		`somebody: key.use failed unauthenticated "" "key-revoked" 40`,
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	// The tenant's own auditor reads what was tried with its key; they are in the tree, too.
	var p auditPage
	c.send(t, "GET", "/v1/audit/entries?action=key.use", "").want(t, 200).read(t, &p)
	if len(p.Items) != 1 {
		t.Errorf("%d entries of the revoked key", len(p.Items))
	}
	s.Sequence()
	// What can't be written is kept for the next time.
	client{service: s}.send(t, "GET", "/v1/collections", "").refused(t, 401, "unauthenticated")
	c.Exec(`revoke insert on privault.audit_entries from privault_app`)
	if err := s.NoteRefusals(t.Context()); err == nil {
		t.Error("entries are written nowhere")
	}
	c.Exec(`grant insert on privault.audit_entries to privault_app`)
	_, last = c.entriesSince(t, last)
	if err := s.NoteRefusals(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said, _ := c.entriesSince(t, last); len(said) != 1 {
		t.Errorf("entries: %q", said)
	}
}

// Reaching a limit has an entry at once; what is refused behind it is counted.
func TestALimitThatIsReachedLeavesAnEntry(t *testing.T) {
	t.Parallel()
	s := serveWith(t, limits(limit.Config{Principal: limit.Rate{PerSecond: 0.001, Burst: 3}}))
	c := s.tenant()
	_, last := c.entriesSince(t, noEntry)
	refused := 0
	for range 30 {
		if c.send(t, "GET", "/v1/collections", "").status == http.StatusTooManyRequests {
			refused++
		}
	}
	first, last := s.entriesSince(t, last)
	want := `somebody: call.refuse failed rate-limited "GET /v1/collections" "" `
	if n := len(first) - (30 - refused); n != 1 || first[len(first)-1] != want+"0" {
		t.Fatalf("%d refusals left %q", refused, first)
	}
	if err := s.NoteRefusals(t.Context()); err != nil {
		t.Fatal(err)
	}
	rest, _ := s.entriesSince(t, last)
	if diff := cmp.Diff([]string{want + fmt.Sprint(refused-1)}, rest); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}
