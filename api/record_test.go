package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestARecordIsReadInAView(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email", "name", "name", "notes", "text")
	stored := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1001",
		"fields":{"name":"Jane Roe","email":"jane@example.com"}}]}`).want(t, 200).items(t)[0]
	path := "/v1/collections/people/records/" + stored.Record
	for query, want := range map[string]map[string]any{
		"":                                {"email": "j***@example.com", "name": "J*** R***"},
		"?view=plain":                     {"email": "jane@example.com", "name": "Jane Roe"},
		"?view=redacted&fields=name":      {"name": nil},
		"?fields=name,notes&view=masked":  {"name": "J*** R***"},
		"?fields=notes":                   {},
		"?view=plain&fields=email%2Cname": {"email": "jane@example.com", "name": "Jane Roe"},
	} {
		a := c.send(t, "GET", path+query, "", "Privault-Purpose: billing").want(t, 200)
		if got := a.header.Get("ETag"); got != `"1"` {
			t.Errorf("the ETag is %s", got)
		}
		var got struct {
			Record, Subject string
			Version         int
			Fields          map[string]any
			Tokens          map[string]string
		}
		a.read(t, &got)
		if diff := cmp.Diff(want, got.Fields); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
		if got.Record != stored.Record || got.Subject != "cust-1001" || got.Version != 1 || len(got.Tokens) != len(want) {
			t.Errorf("got %s", a.body)
		}
		for name, token := range got.Tokens {
			if token != stored.Tokens[name] {
				t.Errorf("the token of %s has changed", name)
			}
		}
	}
	for _, query := range []string{"?view=full", "?fields=nothing", "?fields=name,,email"} {
		c.send(t, "GET", path+query, "").refused(t, 422, "validation-failed")
	}
	for _, query := range []string{"?limit=5", "?view=", "?fields=", "?view=plain&view=masked", "?name=x", "?%zz"} {
		c.send(t, "GET", path+query, "").refused(t, 400, "malformed-request")
	}
}

func TestAPatchKeepsTokensAndYieldsNewValues(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name","required":true},"email":{"type":"email"},"notes":{"type":"text"}}}`).want(t, 201)
	stored := c.tokenize(t, "people", `{"name":"Jane Roe","email":"jane@example.com"}`)[0]
	path := "/v1/collections/people/records/" + stored.Record
	expires := c.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	var tried struct {
		Changes []struct{ Field, Change, Token string }
	}
	a := c.send(t, "PATCH", path+"?dry_run=true", `{"fields":{"name":"Jane Doe"}}`, `If-Match: "1"`).want(t, 200)
	a.read(t, &tried)
	if len(tried.Changes) != 1 || tried.Changes[0].Change != "replace" || tried.Changes[0].Token != "kept" || a.header.Get("ETag") != `"1"` {
		t.Errorf("a dry run: %s", a.body)
	}
	c.send(t, "PATCH", path+"?dry_run=1", `{"fields":{"name":"Jane Doe"}}`, `If-Match: "1"`).refused(t, 400, "malformed-request")
	a = c.send(t, "PATCH", path, `{"fields":{"email":null,"name":"Jane Doe","notes":"new"},"expires_at":"`+expires+`"}`,
		`If-Match: "1"`, "Content-Type: application/merge-patch+json").want(t, 200)
	var got struct {
		Version int
		Tokens  map[string]string
		Expires string `json:"expires_at"`
	}
	a.read(t, &got)
	if got.Version != 2 || a.header.Get("ETag") != `"2"` || got.Expires != expires {
		t.Errorf("got %s", a.body)
	}
	if got := c.reveal(t, stored.Tokens["name"]); got != `"Jane Doe"` {
		t.Errorf("the old token gives %s", got)
	}
	if got := c.reveal(t, got.Tokens["notes"]); got != `"new"` {
		t.Errorf("the new field's token gives %s", got)
	}
	c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored.Tokens["email"]+`"}]}`).want(t, 404)
	got.Expires = ""
	c.send(t, "PATCH", path, `{"expires_at":null}`, `If-Match: "2"`).want(t, 200).read(t, &got)
	if got.Expires != "" {
		t.Errorf("it still expires at %s", got.Expires)
	}
}

func TestAChangeSaysWhichVersionItSaw(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	path := "/v1/collections/people/records/" + c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Record
	const body = `{"fields":{"name":"Jane Doe"}}`
	c.send(t, "PATCH", path, body).refused(t, 428, "precondition-required")
	for _, match := range []string{`"2"`, `"0"`, `1`, `*`, `W/"1"`, `"1", "2"`, `"one"`, `"99999999999"`} {
		c.send(t, "PATCH", path, body, "If-Match: "+match).refused(t, 412, "precondition-failed")
	}
	c.send(t, "PATCH", path, body, `If-Match: "1"`).want(t, 200)
	c.send(t, "PATCH", path, body, `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "DELETE", path, "", `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "DELETE", path, "", `If-Match: "2"`).want(t, 204)
	c.send(t, "DELETE", path, "", `If-Match: "2"`).refused(t, 404, "not-found")
}

func TestADeletedRecordIsGone(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	stored := c.tokenize(t, "people", `{"name":"Jane Roe"}`, `{"name":"John Roe"}`)
	const records = "/v1/collections/people/records/"
	if body := c.send(t, "DELETE", records+stored[0].Record, "").want(t, 204).body; len(body) > 0 {
		t.Errorf("204 comes with %s", body)
	}
	c.send(t, "DELETE", records+stored[1].Record, "", "If-Match: *").want(t, 204)
	c.send(t, "GET", records+stored[0].Record, "").refused(t, 404, "not-found")
	c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored[0].Tokens["name"]+`"}]}`).want(t, 404)
	if n := c.Count(`select count(*) from keystore.data_keys`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

func TestPatchesThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name","required":true},"email":{"type":"email"}}}`).want(t, 201)
	path := "/v1/collections/people/records/" + c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Record
	secret := canary()
	for name, row := range map[string]struct {
		body string
		want []fault
	}{
		"nothing":                  {`{}`, []fault{{"", "size"}}},
		"no fields":                {`{"fields":{}}`, []fault{{"", "size"}}},
		"null for fields":          {`{"fields":null}`, []fault{{"/fields", "type"}}},
		"unknown member":           {`{"subject":"` + secret + `"}`, []fault{{"", "unknown-member"}}},
		"unknown field":            {`{"fields":{"` + secret + `":"x"}}`, []fault{{"/fields", "unknown-field"}}},
		"unknown field to remove":  {`{"fields":{"` + secret + `":null}}`, []fault{{"/fields", "unknown-field"}}},
		"required field to remove": {`{"fields":{"name":null}}`, []fault{{"/fields/name", "required"}, {"/fields", "size"}}},
		"bad value":                {`{"fields":{"email":"` + secret + `"}}`, []fault{{"/fields/email", "email"}}},
		"number for a string":      {`{"fields":{"email":4111111111111111}}`, []fault{{"/fields/email", "type"}}},
		"expiry in the past":       {`{"expires_at":"2020-01-01T00:00:00Z"}`, []fault{{"/expires_at", "future"}}},
		"expiry that is no time":   {`{"expires_at":"` + secret + `"}`, []fault{{"/expires_at", "type"}}},
		"expiry that is no string": {`{"expires_at":4111111111111111}`, []fault{{"/expires_at", "type"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := c.send(t, "PATCH", path, row.body, `If-Match: "1"`)
			if diff := cmp.Diff(row.want, a.refused(t, 422, "validation-failed").Errors); diff != "" {
				t.Error(diff)
			}
			quiet(t, "the answer", string(a.body), secret, "4111111111111111")
		})
	}
	t.Cleanup(func() { quiet(t, "the log", c.Log.String(), secret) })
}

func TestIDsThatNameNoRecord(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	c.collection(t, "others", "name", "name")
	record := c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Record
	for _, path := range []string{
		"people/records/rec_0000000000000000000000", "people/records/rec_", "people/records/" + strings.ToLower(record), "people/records/" + record + "0",
		"people/records/" + record + "%20", "people/records/" + record + "%00", "people/records/key" + record[3:], "people/records/%ff", "others/records/" + record, "none/records/" + record,
		"people/records/" + strings.Repeat("z", 4096),
	} {
		c.send(t, "GET", "/v1/collections/"+path, "").refused(t, 404, "not-found")
		c.send(t, "PATCH", "/v1/collections/"+path, `{"fields":{"name":"x"}}`, `If-Match: "1"`).refused(t, 404, "not-found")
		c.send(t, "DELETE", "/v1/collections/"+path, "").refused(t, 404, "not-found")
	}
	c.send(t, "GET", "/v1/collections/people/records/"+record, "").want(t, 200)
}
