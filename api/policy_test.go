package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func policyText(t *testing.T, cedar string) string {
	t.Helper()
	return text(t, map[string]string{"text": cedar})
}

func TestAPolicysLife(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name", "email", "email")
	tokens := c.tokenize(t, "people", `{"name":"Jane Roe","email":"jane@example.com"}`)[0].Tokens
	const path = "/v1/policies/no-mail"
	first := policyText(t, `@id("mail") forbid (principal, action in Action::"reveal", resource == Field::"people/email");`)
	second := policyText(t, `permit (principal in Role::"support", action == Action::"detokenize", resource) when { resource.name == "name" };`)
	c.send(t, "GET", path, "").refused(t, 404, "not-found")
	c.send(t, "PUT", path, first, `If-Match: "1"`).refused(t, 412, "precondition-failed")
	if got := c.send(t, "PUT", path, first).want(t, 201).header.Get("ETag"); got != `"1"` {
		t.Errorf("ETag %s", got)
	}
	c.send(t, "PUT", path, first).want(t, 200)
	refs := `{"items":[{"token":"` + tokens["email"] + `"},{"token":"` + tokens["name"] + `"}]}`
	items := c.send(t, "POST", "/v1/detokenize", refs).want(t, 207).items(t)
	if items[0].Error.slug() != "forbidden" || items[1].Status != 200 {
		t.Errorf("got %+v", items)
	}
	c.send(t, "PUT", path, second, `If-Match: "1"`).want(t, 200)
	c.send(t, "PUT", path, first, `If-Match: "1"`).refused(t, 412, "precondition-failed")
	// A role of the policy's own can be given, and does what the policy says.
	support := c.colleague(t, "support")
	items = support.send(t, "POST", "/v1/detokenize", refs).want(t, 207).items(t)
	if items[0].Error.slug() != "forbidden" || items[1].Status != 200 {
		t.Errorf("support gets %+v", items)
	}
	c.send(t, "DELETE", path, "", `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "DELETE", path, "", `If-Match: "2"`).want(t, 204)
	c.send(t, "DELETE", path, "").refused(t, 404, "not-found")
	support.send(t, "POST", "/v1/detokenize", refs).want(t, 403)
	var history struct {
		Items []struct {
			Version int
			Text    *string
		}
		NextCursor *string `json:"next_cursor"`
	}
	c.send(t, "GET", path+"/history?limit=2", "").want(t, 200).read(t, &history)
	if len(history.Items) != 2 || history.Items[0].Version != 3 || history.Items[0].Text != nil || history.NextCursor == nil {
		t.Fatalf("history is %+v", history)
	}
	c.send(t, "GET", path+"/history?limit=2&cursor="+*history.NextCursor, "").want(t, 200).read(t, &history)
	if len(history.Items) != 1 || history.Items[0].Version != 1 || history.NextCursor != nil {
		t.Errorf("the history's end is %+v", history)
	}
	c.send(t, "PUT", path, second).want(t, 201)
	c.send(t, "GET", "/v1/policies", "").want(t, 200).read(t, &history)
	if len(history.Items) != 1 || history.Items[0].Version != 4 {
		t.Errorf("the list is %+v", history)
	}
}

func TestAPolicysFaultsHaveLinesAndColumns(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant("admin")
	secret := "c" + canary() // a word, which must not begin with a digit
	a := c.send(t, "PUT", "/v1/policies/p", policyText(t, "permit (principal, action, resource)\nwhen { context."+secret+" };\npermit (principal, action == Action::\""+secret+"\", resource);"))
	a.refused(t, 422, "validation-failed")
	type place struct {
		Pointer, Rule string
		Line, Column  int
	}
	var p struct {
		Detail string
		Errors []place
	}
	a.read(t, &p)
	if diff := cmp.Diff([]place{{"/text", "unknown-attribute", 2, 16}, {"/text", "unknown-action", 3, 30}}, p.Errors[:2]); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if !strings.Contains(p.Detail, "line 2, column 16") {
		t.Errorf("the detail is %q", p.Detail)
	}
	quiet(t, "the answer", string(a.body), secret)
	for name, body := range map[string]string{"p": `{"text":""}`, "q": `{}`, "-": policyText(t, `permit (principal, action, resource);`)} {
		c.send(t, "PUT", "/v1/policies/"+name, body).refused(t, 422, "validation-failed")
	}
}

func TestExplainSaysWhichRuleDecides(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"email":{"type":"email"},"pan":{"type":"pan","classification":"restricted"},"name":{"type":"name","purposes":["billing"]}}}`).want(t, 201)
	c.send(t, "PUT", "/v1/purposes/billing", `{"legal_basis":"contract"}`).want(t, 201)
	c.send(t, "PUT", "/v1/purposes/letters", `{"legal_basis":"consent"}`).want(t, 201)
	c.send(t, "PUT", "/v1/policies/cards", policyText(t, `@id("inside") forbid (principal, action in Action::"reveal", resource)
		when { resource.classification == "restricted" && context.view == "plain" } unless { context.network.isInRange(ip("10.0.0.0/8")) };`)).want(t, 201)
	var prn struct{ ID string }
	c.send(t, "POST", "/v1/principals", `{"name":"desk","roles":["backend-reader-masked"]}`).want(t, 201).read(t, &prn)
	for body, want := range map[string]string{
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"email"}`:                                                  `{"allowed":true,"rule":"role:backend-reader","view":"plain","policies":["role:backend-reader"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"pan"}`:                                                    `{"allowed":true,"rule":"role:backend-reader","view":"masked","policies":["role:backend-reader"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"pan","view":"plain"}`:                                     `{"allowed":false,"rule":"policy:cards@1#inside","view":"masked","policies":["policy:cards@1#inside"]}`,
		`{"roles":["backend-reader"],"action":"record.read","collection":"people","field":"pan","view":"plain","network":"10.1.1.1"}`:               `{"allowed":true,"rule":"role:backend-reader","view":"plain","policies":["role:backend-reader"]}`,
		`{"principal":"` + prn.ID + `","action":"detokenize","collection":"people","field":"email","view":"plain"}`:                                 `{"allowed":false,"rule":"default-deny","view":"masked","policies":["default-deny"]}`,
		`{"roles":["backend-writer"],"action":"detokenize","collection":"people","field":"email"}`:                                                  `{"allowed":false,"rule":"default-deny","view":null,"policies":["default-deny"]}`,
		`{"roles":["admin"],"action":"policy.write"}`:                                                                                               `{"allowed":true,"rule":"role:admin","view":null,"policies":["role:admin"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"name"}`:                                                   `{"allowed":false,"rule":"purpose-required","view":null,"policies":["purpose-required"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"name","purpose":"letters"}`:                               `{"allowed":false,"rule":"purpose-not-listed","view":null,"policies":["purpose-not-listed"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"email","purpose":"letters"}`:                              `{"allowed":false,"rule":"no-consent","view":null,"policies":["no-consent"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"email","purpose":"letters","subject":{"consented":true}}`: `{"allowed":true,"rule":"role:backend-reader","view":"plain","policies":["role:backend-reader"]}`,
		`{"roles":["backend-reader"],"action":"detokenize","collection":"people","field":"email","purpose":"billing","subject":{"objected":true}}`:  `{"allowed":false,"rule":"objection","view":null,"policies":["objection"]}`,
		`{"roles":["backend-writer"],"action":"record.update","collection":"people","field":"email","subject":{"restricted":true}}`:                 `{"allowed":false,"rule":"restriction","view":null,"policies":["restriction"]}`,
	} {
		if got := c.send(t, "POST", "/v1/policies/explain", body).want(t, 200); string(got.body) != want {
			t.Errorf("%s\ngot  %s\nwant %s", body, got.body, want)
		}
	}
	for body, status := range map[string]int{
		`{"action":"detokenize","collection":"nobody","field":"email"}`:                      404,
		`{"action":"detokenize","collection":"people","field":"nothing"}`:                    404,
		`{"action":"detokenize","collection":"people"}`:                                      422, // a policy tells fields apart
		`{"action":"detokenize"}`:                                                            422,
		`{"action":"tenant.create"}`:                                                         422,
		`{"action":"policy.read","network":"10.0.0.0/8"}`:                                    422,
		`{"principal":"prn_0352aQCR9XSdpbm0wI3im5","action":"policy.read"}`:                  404,
		`{"action":"detokenize","collection":"people","field":"email","view":"upside-down"}`: 422,
	} {
		c.send(t, "POST", "/v1/policies/explain", body).want(t, status)
	}
}
