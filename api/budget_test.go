package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/privault/privault/api/limit"
	"github.com/privault/privault/vault/vaulttest"
)

// I-5, I-6: whoever may ask of any value whether it is known has a budget of different ones, on every way of asking; in one
// replica's memory, and in Redis over two of them.
func TestNamingValuesHasABudget(t *testing.T) {
	t.Parallel()
	redis := vaulttest.NewRedis(t)
	for name, c := range map[string]limit.Config{
		"memory": {Distinct: 5, DistinctFew: 3},
		"Redis":  {Distinct: 5, DistinctFew: 3, Redis: &limit.Redis{URL: redis.URL, Closed: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveWith(t, limits(c))
			admin := s.tenant()
			other := admin // on the same replica, unless counters are shared
			if c.Redis != nil {
				replica := &service{Bench: s.Bench}
				replica.listen(t, s.Vault, nil, limits(c))
				other.service = replica
			}
			admin.send(t, "PUT", "/v1/collections/people", `{"fields":{
				"email":{"type":"email","index":["exact","domain"],"token":{"strategy":"deterministic"}},
				"pan":{"type":"pan","token":{"strategy":"fpe","keep_suffix":4}},
				"login":{"type":"string","index":["exact"],"unique":true},
				"note":{"type":"text"}}}`).want(t, 201)
			admin.send(t, "PUT", "/v1/transforms/cards", `{"alphabet":"digits","min_length":12,"max_length":19}`).want(t, 201)
			mail := func(n int) string { return fmt.Sprintf(`{"email":"p%d@example%d.com"}`, n, n) }
			find := func(n int) string { return fmt.Sprintf(`{"field":"email","equals":"P%d@example%d.com"}`, n, n) }
			const search = "/v1/collections/people/search"

			admin.tokenize(t, "people", mail(0), mail(1), mail(2))
			admin.tokenize(t, "people", mail(0), mail(1), mail(2)) // again, and free
			other.send(t, "POST", search, find(1)).want(t, 200)    // named before, in other letters
			other.send(t, "POST", search, find(3)).want(t, 200)
			other.send(t, "POST", search, find(4)).want(t, 200)
			for _, refused := range []answer{
				admin.send(t, "POST", search, find(5)),
				other.send(t, "POST", search, find(6)),
				admin.send(t, "POST", "/v1/tokenize", batch("people", mail(0), mail(7))),
			} {
				p := refused.refused(t, 429, "quota-exceeded")
				if !strings.Contains(p.Detail, "distinct-values") || refused.header.Get("Retry-After") == "" || refused.header.Get("RateLimit") == "" {
					t.Errorf("the refusal says %q, %v", p.Detail, refused.header)
				}
				quiet(t, "the answer", string(refused.body), "example5.com", "example7.com")
			}
			line := admin.send(t, "POST", importPath, `{"fields":`+mail(8)+`}`, asLines).want(t, 200).lines(t)[0]
			if line.Status != 429 || line.Error.slug() != "quota-exceeded" {
				t.Errorf("an import's line is %+v", line)
			}
			stored := admin.tokenize(t, "people", `{"note":"one"}`)[0]
			record := "/v1/collections/people/records/" + stored.Record
			admin.send(t, "PATCH", record, `{"fields":`+mail(9)+`}`, `If-Match: "1"`).refused(t, 429, "quota-exceeded")
			admin.send(t, "PATCH", record, `{"fields":`+mail(1)+`}`, `If-Match: "1"`).want(t, 200)
			// Other fields, kinds of index, transforms, principals and tenants have budgets of their own.
			admin.send(t, "POST", search, `{"field":"email","index":"domain","equals":"example5.com"}`).want(t, 200)
			for n := range 4 {
				want := 200
				if n == 3 { // cards have few values
					want = 429
				}
				pan := []string{"4111111111111111", "5555555555554444", "378282246310005", "6011111111111117"}[n]
				admin.send(t, "POST", "/v1/tokenize", batch("people", `{"pan":"`+pan+`"}`)).want(t, want)
				admin.send(t, "POST", "/v1/transforms/cards/encode", `{"items":[{"value":"`+pan+`"}]}`).want(t, want)
			}
			for n := range 6 {
				want := 200
				if n == 5 { // that a unique value is taken would tell that it is there
					want = 429
				}
				admin.send(t, "POST", "/v1/tokenize", batch("people", fmt.Sprintf(`{"login":"login-%d"}`, n))).want(t, want)
			}
			notes := make([]string, 50)
			for n := range notes {
				notes[n] = fmt.Sprintf(`{"note":"note-%d"}`, n)
			}
			admin.tokenize(t, "people", notes...) // random tokens say nothing
			admin.colleague(t, "backend-writer").tokenize(t, "people", mail(5), mail(6))
			for n := range 7 { // guessed tokens; what resolves is free, and so is what nobody can guess
				want := 404
				if n > 4 {
					want = 429
				}
				guess := fmt.Sprintf(`{"token":"400000%09d1111","collection":"people","field":"pan"}`, n)
				admin.send(t, "POST", "/v1/tokens/validate", `{"items":[`+guess+`]}`).want(t, want)
			}
			// Replacing tokens tells the same, from the same budget.
			admin.send(t, "POST", "/v1/tokens/rotate", `{"items":[{"token":"4000000000000071111","collection":"people","field":"pan"}]}`).want(t, 429)
			admin.send(t, "POST", "/v1/tokens/rotate", `{"items":[{"token":"4000000000000001111","collection":"people","field":"pan"}]}`).want(t, 404)
			admin.send(t, "POST", "/v1/tokens/validate", `{"items":[{"token":"`+stored.Tokens["note"]+`"},{"token":"pvtk_none"},{"token":"pvdt_none"}]}`).want(t, 207)
			if n := s.Count(`select count(*) from privault.audit_entries where body::json->>'problem' = 'quota-exceeded'`); n < 6 {
				t.Errorf("%d entries say that a budget was used up", n)
			}
		})
	}
}
