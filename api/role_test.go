package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// staff are clients of one tenant, one of each role.
type staff struct{ admin, writer, masked, reader client }

func hire(t *testing.T, s *service) staff {
	t.Helper()
	admin := s.tenant("admin")
	admin.collection(t, "people", "email", "email")
	return staff{admin, admin.colleague(t, "backend-writer"), admin.colleague(t, "backend-reader-masked"), admin.colleague(t, "backend-reader")}
}

func TestAMaskedReaderSeesNoPlainValue(t *testing.T) {
	t.Parallel()
	of := hire(t, serve(t))
	stored := of.writer.tokenize(t, "people", `{"email":"jane@example.com"}`)[0]
	token := stored.Tokens["email"]
	refs := func(views ...string) string {
		var items []map[string]string
		for _, view := range views {
			items = append(items, map[string]string{"token": token, "view": view})
		}
		return text(t, map[string]any{"items": items})
	}
	none := of.masked.send(t, "POST", "/v1/detokenize", refs("plain", "plain")).want(t, 403)
	for _, item := range none.items(t) {
		if item.Error.slug() != "forbidden" || item.Value != nil {
			t.Errorf("got %+v", item)
		}
	}
	quiet(t, "the answer", string(none.body), "jane@example.com")
	some := of.masked.send(t, "POST", "/v1/detokenize", refs("plain", "masked", "redacted")).want(t, 207).items(t)
	if some[0].Status != 403 || string(some[1].Value) != `"j***@example.com"` || string(some[2].Value) != `null` {
		t.Errorf("got %+v", some)
	}
	record := "/v1/collections/people/records/" + stored.Record
	of.masked.send(t, "GET", record+"?view=plain", "").refused(t, 403, "forbidden")
	of.masked.send(t, "GET", record, "").want(t, 200)
	if got := of.reader.reveal(t, token); got != `"jane@example.com"` {
		t.Errorf("the reader gets %s", got)
	}
}

func TestEachRoleDoesItsOwnAndNoMore(t *testing.T) {
	t.Parallel()
	of := hire(t, serve(t))
	stored := of.writer.tokenize(t, "people", `{"email":"jane@example.com"}`)[0]
	record := "/v1/collections/people/records/" + stored.Record
	ref := `{"items":[{"token":"` + stored.Tokens["email"] + `"}]}`
	fresh := batch("people", `{"email":"jane@example.com"}`)
	for name, row := range map[string]struct {
		call                          func(client) answer
		admin, writer, masked, reader int
	}{
		"define": {func(c client) answer {
			return c.send(t, "PUT", "/v1/collections/people", `{"fields":{"email":{"type":"email"}}}`)
		}, 200, 403, 403, 403},
		"read":     {func(c client) answer { return c.send(t, "GET", "/v1/collections/people", "") }, 200, 200, 200, 200},
		"list":     {func(c client) answer { return c.send(t, "GET", "/v1/collections", "") }, 200, 200, 200, 200},
		"drop":     {func(c client) answer { return c.send(t, "DELETE", "/v1/collections/people", "") }, 409, 403, 403, 403},
		"tokenize": {func(c client) answer { return c.send(t, "POST", "/v1/tokenize", fresh) }, 403, 200, 403, 403},
		"import": {func(c client) answer {
			return c.send(t, "POST", importPath, `{"fields":{"email":"a@b.example"}}`, asLines)
		}, 403, 200, 403, 403},
		"detokenize": {func(c client) answer { return c.send(t, "POST", "/v1/detokenize", ref) }, 403, 403, 200, 200},
		"get":        {func(c client) answer { return c.send(t, "GET", record, "") }, 403, 403, 200, 200},
		"get plain":  {func(c client) answer { return c.send(t, "GET", record+"?view=plain", "") }, 403, 403, 403, 200},
		"patch": {func(c client) answer {
			return c.send(t, "PATCH", record, `{"fields":{"email":"a@b.example"}}`, `If-Match: "9"`)
		}, 403, 412, 403, 403},
		"delete": {func(c client) answer { return c.send(t, "DELETE", record, "", `If-Match: "9"`) }, 403, 412, 403, 403},
		"principal": {func(c client) answer {
			return c.send(t, "POST", "/v1/principals", `{"name":"backend-writer","roles":["admin"]}`)
		}, 409, 403, 403, 403},
	} {
		got := []int{row.call(of.admin).status, row.call(of.writer).status, row.call(of.masked).status, row.call(of.reader).status}
		if diff := cmp.Diff([]int{row.admin, row.writer, row.masked, row.reader}, got); diff != "" {
			t.Errorf("%s by admin, writer, masked reader, reader: %s", name, diff)
		}
	}
}

func TestRefusalsComeInTheirOrder(t *testing.T) {
	t.Parallel()
	of := hire(t, serve(t))
	stranger := client{service: of.admin.service}
	const unknown = "/v1/collections/people/records/rec_0000000000000000000000"
	// 401 before 404
	stranger.send(t, "GET", unknown, "").refused(t, 401, "unauthenticated")
	stranger.send(t, "GET", "/v1/nothing", "").refused(t, 401, "unauthenticated")
	stranger.send(t, "POST", "/v1/tokenize", `{`).refused(t, 401, "unauthenticated")
	// 404 before 403
	of.admin.send(t, "GET", unknown, "").refused(t, 404, "not-found")
	of.admin.send(t, "POST", "/v1/tokenize", batch("nobody", `{}`)).refused(t, 404, "not-found")
	of.admin.send(t, "POST", "/v1/collections/nobody/import", "{}\n", asLines).refused(t, 404, "not-found")
	of.reader.send(t, "DELETE", "/v1/collections/nobody", "").refused(t, 404, "not-found")
	of.reader.send(t, "DELETE", "/v1/principals/prn_0000000000000000000000/keys/key_0000000000000000000000", "").refused(t, 404, "not-found")
	of.writer.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"none","view":"plain"}]}`).want(t, 404)
	// 403 before 422
	of.reader.send(t, "POST", "/v1/tokenize", batch("people")).refused(t, 403, "forbidden")
	of.reader.send(t, "POST", "/v1/principals", `{}`).refused(t, 403, "forbidden")
	of.reader.send(t, "PUT", "/v1/collections/people", `{}`).refused(t, 403, "forbidden")
}

func TestATenantNamedByTheCallerIsNotTheTenant(t *testing.T) {
	t.Parallel()
	s := serve(t)
	mine, theirs := s.tenant(), s.tenant()
	theirs.collection(t, "people", "name", "name")
	for _, name := range []string{"X-Tenant", "X-Tenant-Id", "Tenant", "Privault-Tenant"} {
		mine.send(t, "GET", "/v1/collections/people", "", name+": other").refused(t, 404, "not-found")
	}
	mine.send(t, "POST", "/v1/detokenize", `{"tenant":"other","items":[{"token":"x"}]}`).refused(t, 422, "validation-failed")
}

func TestPurposesAreNames(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	body := `{"items":[{"token":"` + c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Tokens["name"] + `"}]}`
	for _, purpose := range []string{"Billing", "for jane@example.com", "1", "bill ing", "péage"} {
		a := c.send(t, "POST", "/v1/detokenize", body, "Privault-Purpose: "+purpose)
		a.refused(t, 422, "validation-failed")
		quiet(t, "the answer", string(a.body), "jane@example.com")
	}
	c.send(t, "POST", "/v1/detokenize", body, "Privault-Purpose: billing_2-eu").want(t, 200)
	if n := c.Count(`select count(*) from privault.audit_entries where body::json->>'purpose' = 'billing_2-eu'`); n != 1 {
		t.Errorf("%d audit entries have the purpose, want 1", n)
	}
}
