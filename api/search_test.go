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
