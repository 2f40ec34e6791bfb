package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAPurposesLife(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	const path = "/v1/purposes/letters"
	c.send(t, "GET", path, "").refused(t, 404, "not-found")
	c.send(t, "PUT", path, `{"description":"News","legal_basis":"consent","consent_text_version":"2026-01"}`).want(t, 201)
	c.send(t, "PUT", path, `{"description":"News","legal_basis":"consent","consent_text_version":"2026-01"}`).want(t, 200)
	var got struct {
		Purpose         string
		Version         int
		RequiresConsent bool `json:"requires_consent"`
	}
	c.send(t, "GET", path, "").want(t, 200).read(t, &got)
	if got.Purpose != "letters" || got.Version != 1 || !got.RequiresConsent {
		t.Errorf("got %+v", got)
	}
	c.send(t, "PUT", path, `{"legal_basis":"contract"}`, `If-Match: "2"`).refused(t, 412, "precondition-failed")
	c.send(t, "PUT", path, `{"legal_basis":"contract"}`, `If-Match: "1"`).want(t, 200).read(t, &got)
	if got.Version != 2 || got.RequiresConsent {
		t.Errorf("changed: %+v", got)
	}
	c.send(t, "PUT", "/v1/purposes/ads", `{"legal_basis":"legitimate_interests"}`).want(t, 201)
	var list struct{ Items []struct{ Purpose string } }
	c.send(t, "GET", "/v1/purposes?limit=5", "").want(t, 200).read(t, &list)
	if len(list.Items) != 2 || list.Items[0].Purpose != "ads" {
		t.Errorf("the list is %+v", list)
	}
	c.send(t, "DELETE", path, "", `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "DELETE", path, "").want(t, 204)
	c.send(t, "DELETE", path, "").refused(t, 404, "not-found")
	for body, rule := range map[string]string{
		`{}`:                    "legal-basis",
		`{"legal_basis":"fun"}`: "legal-basis",
		`{"legal_basis":"contract","consent_text_version":"1"}`:  "not-applicable",
		`{"legal_basis":"consent","consent_text_version":"a b"}`: "reference",
	} {
		a := c.send(t, "PUT", path, body)
		a.refused(t, 422, "validation-failed")
		var p problem
		a.read(t, &p)
		if p.Errors[0].Rule != rule {
			t.Errorf("%s: %+v", body, p.Errors)
		}
	}
	c.send(t, "PUT", "/v1/purposes/Bad", `{"legal_basis":"contract"}`).refused(t, 422, "validation-failed")
}

func TestConsentObjectionRestriction(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	c.send(t, "PUT", "/v1/purposes/letters", `{"legal_basis":"consent","consent_text_version":"v1"}`).want(t, 201)
	c.send(t, "PUT", "/v1/purposes/billing", `{"legal_basis":"contract"}`).want(t, 201)
	stored := c.send(t, "POST", "/v1/tokenize",
		`{"collection":"people","items":[{"subject":"cust-1","fields":{"name":"Jane Roe"}},{"fields":{"name":"Joe"}}]}`).want(t, 200).items(t)
	refs := fmt.Sprintf(`{"items":[{"token":%q},{"token":%q}]}`, stored[0].Tokens["name"], stored[1].Tokens["name"])
	record := "/v1/collections/people/records/" + stored[0].Record
	slugs := func(purpose string) [2]string {
		header := "Privault-Purpose: " + purpose
		if purpose == "" {
			header = "Privault-Purpose"
		}
		items := c.send(t, "POST", "/v1/detokenize", refs, header).items(t)
		return [2]string{items[0].Error.slug(), items[1].Error.slug()}
	}
	wants := func(what string, got, want [2]string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	const subject = "/v1/subjects/cust-1"
	wants("no consent", slugs("letters"), [2]string{"purpose-not-allowed", "purpose-not-allowed"})
	c.send(t, "PUT", subject+"/consents/letters", `{"text_version":"v0"}`).refused(t, 422, "validation-failed")
	c.send(t, "PUT", subject+"/consents/nothing", `{"text_version":"v1"}`).refused(t, 404, "not-found")
	c.send(t, "PUT", "/v1/subjects/jane@example.com/consents/letters", `{"text_version":"v1"}`).refused(t, 422, "identifier-looks-like-pii")
	c.send(t, "PUT", subject+"/consents/letters", `{"text_version":"v1","evidence":"form/77"}`).want(t, 201)
	c.send(t, "PUT", subject+"/consents/letters", `{"text_version":"v1","evidence":"form/77"}`).want(t, 200)
	wants("consent", slugs("letters"), [2]string{"", "purpose-not-allowed"})
	c.send(t, "DELETE", subject+"/consents/letters", "").want(t, 204)
	c.send(t, "DELETE", subject+"/consents/letters", "").refused(t, 404, "not-found")
	wants("withdrawn", slugs("letters"), [2]string{"purpose-not-allowed", "purpose-not-allowed"})
	var history struct {
		Items []struct{ Event, TextVersion, Evidence string }
	}
	c.send(t, "GET", subject+"/consents", "").want(t, 200).read(t, &history)
	if len(history.Items) != 2 || history.Items[0].Event != "withdrawn" || history.Items[1].Event != "given" {
		t.Errorf("history is %+v", history)
	}
	c.send(t, "GET", "/v1/subjects/nobody/consents", "").refused(t, 404, "not-found")

	c.send(t, "PUT", subject+"/objections/billing", `{}`).want(t, 201)
	wants("objected", slugs("billing"), [2]string{"purpose-not-allowed", ""})
	c.send(t, "DELETE", subject+"/objections/billing", "").want(t, 204)
	wants("no longer", slugs("billing"), [2]string{"", ""})

	c.send(t, "PUT", subject+"/restriction", `{"reason":"gdpr-18-1-a","allowed_purposes":["nothing"]}`).refused(t, 422, "validation-failed")
	c.send(t, "PUT", subject+"/restriction", `{"reason":"gdpr-18-1-a","allowed_purposes":["billing"]}`).want(t, 201)
	c.send(t, "GET", subject+"/restriction", "").want(t, 200)
	wants("restricted", slugs(""), [2]string{"subject-restricted", ""})
	wants("restricted, but allowed", slugs("billing"), [2]string{"", ""})
	c.send(t, "POST", "/v1/detokenize", fmt.Sprintf(`{"items":[{"token":%q}]}`, stored[0].Tokens["name"])).want(t, 423)
	c.send(t, "GET", record, "").refused(t, 423, "subject-restricted")
	c.send(t, "PATCH", record, `{"fields":{"name":"Ann"}}`, `If-Match: "1"`).refused(t, 423, "subject-restricted")
	c.send(t, "DELETE", record, "").refused(t, 423, "subject-restricted")
	c.send(t, "DELETE", subject+"/restriction", `{}`, "Content-Type: application/json").refused(t, 422, "validation-failed")
	c.send(t, "DELETE", subject+"/restriction", `{"informed_at":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"}`, "Content-Type: application/json").want(t, 204)
	c.send(t, "GET", subject+"/restriction", "").refused(t, 404, "not-found")
	c.send(t, "GET", record, "").want(t, 200)
}

// Of two purposes a proxy might read the one and we the other.
func TestTwoPurposesAreNone(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email")
	token := c.tokenize(t, "people", `{"email":"a@example.com"}`)[0].Tokens["email"]
	body := `{"items":[{"token":"` + token + `"}]}`
	for header, status := range map[string]int{"Privault-Purpose": 422, "Content-Type": 415} {
		r := c.request(t, "POST", "/v1/detokenize", strings.NewReader(body), "Privault-Purpose: billing")
		r.Header.Add(header, r.Header.Get(header)) // were they the same, too
		if a := c.do(t, r, []byte(body)); a.status != status {
			t.Errorf("two of %s: %d %s", header, a.status, a.body)
		}
	}
}
