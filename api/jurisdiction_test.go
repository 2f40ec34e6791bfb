package api_test

import "testing"

// An officer says where a person is; the data map says so, policies see it, and a request takes the regime that it implies.
func TestAPersonsJurisdiction(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := s.tenant("admin")
	admin.collection(t, "people", "email", "email")
	writer, reader, officer, auditor := admin.colleague(t, "backend-writer"), admin.colleague(t, "backend-reader"), admin.colleague(t, "compliance"), admin.colleague(t, "auditor")
	token := writer.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1","fields":{"email":"jane@example.com"}}]}`).
		want(t, 200).items(t)[0].Tokens["email"]
	const at = "/v1/subjects/cust-1/jurisdiction"
	for _, c := range []client{writer, reader, auditor, admin} {
		c.send(t, "PUT", at, `{"jurisdiction":"DE"}`).refused(t, 403, "forbidden")
	}
	officer.send(t, "DELETE", at, "").refused(t, 404, "not-found")
	for _, bad := range []string{`{}`, `{"jurisdiction":"de"}`, `{"jurisdiction":"UK"}`, `{"jurisdiction":"US-California"}`} {
		officer.send(t, "PUT", at, bad).refused(t, 422, "validation-failed")
	}
	officer.send(t, "POST", "/v1/requests", `{"type":"access","subject":"cust-1"}`).refused(t, 422, "validation-failed")

	var said, again struct{ Subject, Jurisdiction, Since string }
	officer.send(t, "PUT", at, `{"jurisdiction":"US-CA"}`).want(t, 201).read(t, &said)
	officer.send(t, "PUT", at, `{"jurisdiction":"US-CA"}`).want(t, 200).read(t, &again)
	if said.Subject != "cust-1" || said.Jurisdiction != "US-CA" || said.Since == "" || again != said {
		t.Errorf("said %+v, and again %+v", said, again)
	}
	writer.send(t, "DELETE", at, "").refused(t, 403, "forbidden")
	s.tenant("compliance").send(t, "DELETE", at, "").refused(t, 404, "not-found")
	var m struct{ Jurisdiction string }
	if officer.send(t, "GET", "/v1/subjects/cust-1", "").want(t, 200).read(t, &m); m.Jurisdiction != "US-CA" {
		t.Errorf("the data map says %q", m.Jurisdiction)
	}
	var r struct{ Regime string }
	if officer.send(t, "POST", "/v1/requests", `{"type":"access","subject":"cust-1"}`).want(t, 201).read(t, &r); r.Regime != "ccpa" {
		t.Errorf("the request is under %q", r.Regime)
	}
	admin.send(t, "PUT", "/v1/policies/europe", policyText(t, `forbid (principal, action in Action::"reveal", resource) when { context.jurisdiction == "DE" };`)).want(t, 201)
	var x struct{ Allowed bool }
	for where, want := range map[string]bool{"DE": false, "FR": true} {
		admin.send(t, "POST", "/v1/policies/explain", `{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"email","subject":{"jurisdiction":"`+where+`"}}`).
			want(t, 200).read(t, &x)
		if x.Allowed != want {
			t.Errorf("of a person in %s: %v", where, x.Allowed)
		}
	}
	admin.send(t, "POST", "/v1/policies/explain", `{"action":"erase","subject":{"jurisdiction":"Europe"}}`).refused(t, 422, "validation-failed")
	if got := reader.reveal(t, token); got != `"jane@example.com"` {
		t.Errorf("in US-CA: %s", got)
	}
	officer.send(t, "PUT", at, `{"jurisdiction":"DE"}`).want(t, 200)
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`","view":"plain"}]}`).want(t, 403)
	officer.send(t, "DELETE", at, "").want(t, 204)
	if got := reader.reveal(t, token); got != `"jane@example.com"` {
		t.Errorf("in no jurisdiction: %s", got)
	}
}
