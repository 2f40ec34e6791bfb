package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTokensAreValidatedAndReplaced(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name"},"card":{"type":"pan","token":{"strategy":"fpe"}},
		"email":{"type":"email","token":{"strategy":"deterministic"}}}}`).want(t, 201)
	stored := c.tokenize(t, "people", `{"name":"Jane Roe","card":"4111111111111111","email":"jane@example.com"}`)[0]
	name, card, email := stored.Tokens["name"], stored.Tokens["card"], stored.Tokens["email"]
	refs := `{"items":[{"token":"` + name + `"},{"token":"` + card + `","collection":"people","field":"card"},{"token":"` + email + `","field":"email"},{"token":"` + card + `"}]}`
	var answer struct {
		Items []struct {
			Status            int
			Live              bool
			Collection, Field string
			Record, Token     string
			Tokens            map[string]string
			Error             *problem
		}
	}
	c.send(t, "POST", "/v1/tokens/validate", refs).want(t, 207).read(t, &answer)
	for i, field := range []string{"name", "card", "email"} {
		if got := answer.Items[i]; got.Status != 200 || !got.Live || got.Collection != "people" || got.Field != field || got.Record != stored.Record {
			t.Errorf("%s: %+v", field, got)
		}
	}
	if got := answer.Items[3]; got.Status != 404 || got.Error.slug() != "token-not-found" {
		t.Errorf("without its collection and field: %+v", got)
	}
	answer.Items = nil
	c.send(t, "POST", "/v1/tokens/rotate", refs).want(t, 207).read(t, &answer)
	for i, want := range []int{200, 422, 200, 404} {
		if got := answer.Items[i]; got.Status != want {
			t.Errorf("item %d: %+v", i, got)
		}
	}
	if got := answer.Items[1].Error.Errors; len(got) != 1 || got[0].Pointer != "/items/1/token" || got[0].Rule != "not-rotatable" {
		t.Errorf("an fpe token: %+v", answer.Items[1].Error)
	}
	if answer.Items[0].Token == name || answer.Items[0].Token != answer.Items[0].Tokens["name"] || answer.Items[2].Token == email {
		t.Errorf("got %+v", answer.Items)
	}
	c.send(t, "POST", "/v1/tokens/validate", `{"items":[{"token":"`+name+`"},{"token":"`+email+`"}]}`).want(t, 404)
	c.send(t, "POST", "/v1/tokens/validate", `{"items":[{"token":"`+answer.Items[0].Token+`"},{"token":"`+answer.Items[2].Token+`"}]}`).want(t, 200)
	if diff := cmp.Diff(`"Jane Roe"`, c.reveal(t, answer.Items[0].Token)); diff != "" {
		t.Error(diff)
	}
	for _, route := range []string{"/v1/tokens/validate", "/v1/tokens/rotate"} {
		c.send(t, "POST", route, `{"items":[]}`).refused(t, 422, "validation-failed")
		c.send(t, "POST", route, `{"items":[{}]}`).refused(t, 422, "validation-failed")
		c.send(t, "POST", route, `{"items":[{"token":"x","view":"plain"}]}`).refused(t, 422, "validation-failed")
	}
}
