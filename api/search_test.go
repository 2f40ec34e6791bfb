package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const searchPath = "/v1/collections/people/search"

func TestSearchAnswersTokensAndNoValues(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"email":{"type":"email","index":["exact"],"token":{"strategy":"deterministic"}},
		"name":{"type":"name","index":["exact"],"unique":true},"note":{"type":"text"}}}`).want(t, 201)
	stored := c.tokenize(t, "people", `{"email":"jane@example.com","name":"Jane Roe"}`, `{"email":"jane@example.com","name":"Joe Roe"}`, `{"email":"jim@example.com","name":"Jim"}`)
	var page struct {
		Items []struct {
			Record string
			Tokens map[string]string
		}
		Next *string `json:"next_cursor"`
	}
	a := c.send(t, "POST", searchPath, `{"field":"email","equals":"Jane@Example.com","limit":1}`).want(t, 200)
	quiet(t, "the answer", string(a.body), "example.com", "Jane")
	a.read(t, &page)
	if len(page.Items) != 1 || page.Items[0].Record != stored[0].Record || page.Next == nil {
		t.Fatalf("the first page is %s", a.body)
	}
	if diff := cmp.Diff(stored[0].Tokens, page.Items[0].Tokens); diff != "" {
		t.Errorf("tokens (-given +found):\n%s", diff)
	}
	next := `{"field":"email","equals":"jane@example.com","limit":1,"cursor":` + text(t, *page.Next) + `}`
	page.Items, page.Next = nil, nil
	c.send(t, "POST", searchPath, next).want(t, 200).read(t, &page)
	if len(page.Items) != 1 || page.Items[0].Record != stored[1].Record || page.Next != nil {
		t.Errorf("the second page has %v", page)
	}
	page.Items = nil
	c.send(t, "POST", searchPath, `{"and":[{"field":"email","equals":"jane@example.com"},{"field":"name","equals":"joe roe"}]}`).want(t, 200).read(t, &page)
	if len(page.Items) != 1 || page.Items[0].Record != stored[1].Record {
		t.Errorf("both terms find %v", page)
	}
	if again := c.send(t, "POST", "/v1/tokenize", batch("people", `{"name":"JANE ROE"}`)).want(t, 409).items(t); again[0].Error.slug() != "conflict" {
		t.Errorf("a value that must be unique: %v", again)
	}
	for name, body := range map[string]string{
		"no index":      `{"field":"note","equals":"x"}`,
		"no such field": `{"field":"nothing","equals":"x"}`,
		"no value":      `{"field":"email"}`,
		"no address":    `{"field":"email","equals":"x"}`,
		"null":          `{"field":"email","equals":null}`,
		"other index":   `{"field":"email","index":"soundex","equals":"x"}`,
		"nothing":       `{}`,
		"two ways":      `{"field":"email","equals":"x","and":[]}`,
		"no terms":      `{"and":[]}`,
		"limit":         `{"field":"email","equals":"jane@example.com","limit":201}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.send(t, "POST", searchPath, body).refused(t, 422, "validation-failed")
		})
	}
	c.send(t, "POST", searchPath, `{"field":"email","equals":"jim@example.com","cursor":`+text(t, next)+`}`).refused(t, 400, "malformed-request")
	c.send(t, "POST", "/v1/collections/nobody/search", `{"field":"email","equals":"jim@example.com"}`).refused(t, 404, "not-found")
}

// The example of the contract: a card column, an e-mail column, and what is found by their parts.
func TestTokensWithAShapeOverTheWire(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"description":"customers","fields":{
		"email":{"type":"email","classification":"confidential","index":["exact","domain"],"token":{"strategy":"deterministic"}},
		"pan":{"type":"pan","classification":"restricted","index":["exact"],"token":{"strategy":"fpe","keep_suffix":4,"luhn":"invalid"}},
		"ssn":{"type":"us_ssn","token":{"strategy":"format","supplied":"allowed"}},
		"name":{"type":"name","classification":"confidential","required":true}}}`).want(t, 201)
	one := c.tokenize(t, "people", `{"email":"jane@example.com","pan":"4111 1111 1111 1111","name":"Jane","ssn":"123-45-6789"}`)[0]
	two := c.tokenize(t, "people", `{"email":"jane@example.com","pan":"4111 1111 1111 1111","name":"Jane","ssn":"123-45-6789"}`)[0]
	if one.Tokens["pan"] != two.Tokens["pan"] || one.Tokens["email"] != two.Tokens["email"] || one.Tokens["ssn"] == two.Tokens["ssn"] || one.Tokens["name"] == two.Tokens["name"] {
		t.Errorf("two records of equal values have %v and %v", one.Tokens, two.Tokens)
	}
	ask := `{"items":[{"token":"` + one.Tokens["pan"] + `","collection":"people","field":"pan","view":"plain"},{"token":"` + one.Tokens["email"] + `"},
		{"token":"` + one.Tokens["pan"] + `"},{"token":"` + two.Tokens["ssn"] + `","collection":"people","field":"ssn","view":"plain"}]}`
	got := c.send(t, "POST", "/v1/detokenize", ask).want(t, 207).items(t)
	if string(got[0].Value) != `"4111 1111 1111 1111"` || string(got[1].Value) != `"j***@example.com"` || got[2].Error.slug() != "token-not-found" || string(got[3].Value) != `"123-45-6789"` {
		t.Errorf("the tokens give %+v", got)
	}
	var page struct{ Items []struct{ Record string } }
	c.send(t, "POST", searchPath, `{"field":"email","index":"domain","equals":"example.com"}`).want(t, 200).read(t, &page)
	if len(page.Items) != 2 {
		t.Errorf("the domain finds %v", page)
	}
	supplied := `{"collection":"people","items":[{"fields":{"name":"Joe","ssn":"234-56-7890"},"tokens":{"ssn":"legacy-77"}}]}`
	if joe := c.send(t, "POST", "/v1/tokenize", supplied).want(t, 200).items(t)[0]; joe.Tokens["ssn"] != "legacy-77" {
		t.Errorf("the token that was brought along is %v", joe.Tokens)
	}
	c.send(t, "POST", "/v1/tokenize", supplied).want(t, 409)
	c.send(t, "PUT", "/v1/collections/small", `{"fields":{"pan":{"type":"pan","token":{"strategy":"fpe","keep_prefix":6,"keep_suffix":4}}}}`).refused(t, 422, "domain-too-small")
	c.send(t, "PUT", "/v1/collections/few", `{"fields":{"b":{"type":"boolean","index":["exact"]}}}`).refused(t, 422, "index-domain-too-small")
}
