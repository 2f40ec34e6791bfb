package api_test

import (
	"strings"
	"testing"
)

func TestComplianceAnswersForAPersonsRights(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := s.tenant("admin")
	admin.collection(t, "people", "email", "email")
	writer, officer, reader := admin.colleague(t, "backend-writer"), admin.colleague(t, "compliance"), admin.colleague(t, "backend-reader")
	stored := writer.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[
		{"subject":"cust-1001","fields":{"email":"jane@example.com"}},{"subject":"cust-1001","fields":{"email":"jane@example.org"}}]}`).want(t, 200).items(t)

	var m struct {
		Subject     string
		Collections []struct {
			Collection string
			Records    int
			Fields     map[string]int
		}
		Items []struct {
			Record string
			Tokens map[string]string
			Held   bool
		}
		Next *string `json:"next_cursor"`
	}
	first := officer.send(t, "GET", "/v1/subjects/cust-1001?limit=1", "").want(t, 200)
	first.read(t, &m)
	quiet(t, "the map", string(first.body), "jane")
	if len(m.Collections) != 1 || m.Collections[0].Records != 2 || m.Collections[0].Fields["email"] != 2 {
		t.Errorf("the map counts %+v", m.Collections)
	}
	if len(m.Items) != 1 || m.Items[0].Tokens["email"] != stored[0].Tokens["email"] || m.Next == nil {
		t.Fatalf("the first page: %+v", m.Items)
	}
	officer.send(t, "GET", "/v1/subjects/cust-1001?limit=1&cursor="+*m.Next, "").want(t, 200).read(t, &m)
	if len(m.Items) != 1 || m.Items[0].Record != stored[1].Record || m.Next != nil {
		t.Errorf("the second page: %+v", m)
	}

	var hold struct{ ID string }
	officer.send(t, "POST", "/v1/holds", `{"matter":"case-7","subject":"cust-1001"}`).want(t, 201).read(t, &hold)
	writer.send(t, "DELETE", "/v1/collections/people/records/"+stored[0].Record, "").refused(t, 409, "legal-hold")
	var e struct{ Certificate, State string }
	officer.send(t, "POST", "/v1/subjects/cust-1001/erasure", `{"reason":"gdpr-17"}`).want(t, 202).read(t, &e)
	deferred := e.Certificate
	if e.State != "deferred" {
		t.Errorf("the erasure is %s", e.State)
	}
	officer.send(t, "GET", "/v1/holds", "").want(t, 200)
	officer.send(t, "DELETE", "/v1/holds/"+hold.ID, "").want(t, 204)
	officer.send(t, "POST", "/v1/subjects/cust-1001/erasure?dry_run=true", `{"reason":"gdpr-17"}`).want(t, 200)
	if got := reader.reveal(t, stored[0].Tokens["email"]); got != `"jane@example.com"` {
		t.Errorf("before the erasure: %s", got)
	}
	for body, rule := range map[string]string{
		`{"reason":"gdpr-17","scope":[]}`: "size", `{"reason":"gdpr-17","scope":[{"collection":"people","fields":["x"]}]}`: "unknown-field",
		`{"reason":"gdpr-17","retained":[]}`: "scope", `{"reason":"gdpr-17","scope":[{"collection":"people","fields":["email"]}]}`: "required",
	} {
		if a := officer.send(t, "POST", "/v1/subjects/cust-1001/erasure", body); a.status != 422 || !strings.Contains(string(a.body), `"`+rule+`"`) {
			t.Errorf("%s: %s", body, a.body)
		}
	}
	officer.send(t, "POST", "/v1/subjects/cust-1001/erasure?dry_run=true", `{"reason":"gdpr-17","scope":[{"collection":"people","fields":["email"]}],
		"retained":[{"collection":"people","ground":"legal-claims","until":"2099-01-01T00:00:00Z"}]}`).want(t, 200)
	officer.send(t, "POST", "/v1/subjects/cust-1001/erasure", `{"reason":"gdpr-17"}`).want(t, 200).read(t, &e)
	if e.State != "erased" || e.Certificate != deferred {
		t.Errorf("the erasure is %+v, want %s", e, deferred)
	}
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored[0].Tokens["email"]+`"}]}`).want(t, 404)
	officer.send(t, "GET", "/v1/certificates/"+e.Certificate, "").want(t, 200)
	officer.send(t, "GET", "/v1/subjects/cust-1001", "").refused(t, 404, "not-found")

	for path, c := range map[string]client{"/v1/subjects/cust-2": writer, "/v1/subjects/cust-3": admin} {
		c.send(t, "GET", path, "").refused(t, 404, "not-found") // before 403
	}
	writer.send(t, "POST", "/v1/holds", `{"matter":"case-7","subject":"cust-1001"}`).refused(t, 403, "forbidden")
	officer.send(t, "POST", "/v1/holds", `{"matter":"case-7","subject":"jane@example.com"}`).refused(t, 422, "identifier-looks-like-pii")
	officer.send(t, "POST", "/v1/holds", `{"matter":"case-7"}`).refused(t, 422, "validation-failed")
	officer.send(t, "GET", "/v1/certificates/crt_"+strings.Repeat("0", 22), "").refused(t, 404, "not-found")
	officer.send(t, "POST", "/v1/subjects/cust-1001/erasure?dry_run=perhaps", `{"reason":"gdpr-17"}`).refused(t, 400, "malformed-request")
	officer.send(t, "DELETE", "/v1/holds/"+hold.ID+"?force=true", "").refused(t, 400, "malformed-request")
}
