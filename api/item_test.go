package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestItemsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"pan":{"type":"pan"},"email":{"type":"email"},"date":{"type":"date"},"ssn":{"type":"us_ssn"},
		"phone":{"type":"phone"},"name":{"type":"name"},"text":{"type":"text"},"number":{"type":"number"},"flag":{"type":"boolean"},"json":{"type":"json"}}}`).want(t, 201)
	secret := canary()
	long := strings.Repeat(secret, 3000)
	for _, row := range []struct{ name, item, pointer, rule string }{
		{"unknown field", `{"fields":{"` + secret + `":"x"}}`, "/fields", "unknown-field"},
		{"no fields", `{"fields":{}}`, "/fields", "size"},
		{"fields missing", `{}`, "/fields", "size"},
		{"empty value", `{"fields":{"text":""}}`, "/fields/text", "min-length"},
		{"65,537 bytes", `{"fields":{"text":"` + long[:64<<10+1] + `"}}`, "/fields/text", "max-length"},
		{"long name", `{"fields":{"name":"` + long[:1025] + `"}}`, "/fields/name", "max-length"},
		{"null", `{"fields":{"text":null}}`, "/fields/text", "type"},
		{"null json", `{"fields":{"json":null}}`, "/fields/json", "type"},
		{"number for a string", `{"fields":{"pan":4111111111111111}}`, "/fields/pan", "type"},
		{"object for a string", `{"fields":{"email":{"$ne":null}}}`, "/fields/email", "type"},
		{"array for a string", `{"fields":{"email":["` + secret + `"]}}`, "/fields/email", "type"},
		{"string for a number", `{"fields":{"number":"` + secret + `"}}`, "/fields/number", "type"},
		{"string for a boolean", `{"fields":{"flag":"true"}}`, "/fields/flag", "type"},
		{"NUL in text", `{"fields":{"text":"` + secret + `\u0000"}}`, "/fields/text", "nul"},
		{"NUL in json", `{"fields":{"json":{"` + secret + `":"\u0000"}}}`, "/fields/json", "nul"},
		{"NUL in an e-mail", `{"fields":{"email":"jane\u0000@example.com"}}`, "/fields/email", "nul"},
		{"Luhn", `{"fields":{"pan":"4111111111111112"}}`, "/fields/pan", "luhn"},
		{"short number", `{"fields":{"pan":"411111111111"}}`, "/fields/pan", "pan"},
		{"Arabic digits", `{"fields":{"pan":"٤١١١١١١١١١١١١١١١"}}`, "/fields/pan", "pan"},
		{"full-width digits", `{"fields":{"pan":"４１１１１１１１１１１１１１１１"}}`, "/fields/pan", "pan"},
		{"no-break space", "{\"fields\":{\"pan\":\"4111\u00a01111\u00a01111\u00a01111\"}}", "/fields/pan", "pan"},
		{"zero-width space", "{\"fields\":{\"pan\":\"41111111\u200b11111111\"}}", "/fields/pan", "pan"},
		{"trailing line feed", `{"fields":{"pan":"4111111111111111\n"}}`, "/fields/pan", "pan"},
		{"two @", `{"fields":{"email":"` + secret + `@a@example.com"}}`, "/fields/email", "email"},
		{"400 characters", `{"fields":{"email":"` + strings.Repeat("a", 390) + `@b.example"}}`, "/fields/email", "max-length"},
		{"CRLF", `{"fields":{"email":"jane@example.com\r\nBcc: ` + secret + `"}}`, "/fields/email", "email"},
		{"display name", `{"fields":{"email":"Jane <jane@example.com>"}}`, "/fields/email", "email"},
		{"30 February", `{"fields":{"date":"2026-02-30"}}`, "/fields/date", "date"},
		{"29 February 2023", `{"fields":{"date":"2023-02-29"}}`, "/fields/date", "date"},
		{"year 0000", `{"fields":{"date":"0000-01-01"}}`, "/fields/date", "date"},
		{"time for a date", `{"fields":{"date":"9999-12-31T24:00:00Z"}}`, "/fields/date", "date"},
		{"SSN not given out", `{"fields":{"ssn":"666-45-6789"}}`, "/fields/ssn", "ssn"},
		{"national number", `{"fields":{"phone":"020 7183 8750"}}`, "/fields/phone", "e164"},
		{"control in a name", `{"fields":{"name":"` + secret + `\n"}}`, "/fields/name", "control"},
		{"past expiry", `{"fields":{"name":"x"},"expires_at":"2020-01-01T00:00:00Z"}`, "/expires_at", "future"},
		{"year 0 expiry", `{"fields":{"name":"x"},"expires_at":"0000-01-01T00:00:00Z"}`, "/expires_at", "future"},
		{"empty subject", `{"fields":{"name":"x"},"subject":""}`, "/subject", "subject"},
		{"NUL in a subject", `{"fields":{"name":"x"},"subject":"a\u0000"}`, "/subject", "subject"},
		{"space in a subject", `{"fields":{"name":"x"},"subject":"` + secret + ` "}`, "/subject", "subject"},
		{"long subject", `{"fields":{"name":"x"},"subject":"` + long[:129] + `"}`, "/subject", "subject"},
		{"non-ASCII subject", `{"fields":{"name":"x"},"subject":"cust-é"}`, "/subject", "subject"},
		{"path as a subject", `{"fields":{"name":"x"},"subject":"../../` + secret + `"}`, "/subject", "subject"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[`+row.item+`]}`).want(t, 422)
			item := a.items(t)[0]
			want := []fault{{"/items/0" + row.pointer, row.rule}}
			if diff := cmp.Diff(want, item.Error.Errors); diff != "" || item.Error.slug() != "validation-failed" {
				t.Errorf("%s: %s", item.Error.Type, diff)
			}
			quiet(t, "the answer", string(a.body), secret, "411111111111", "666-45-6789")
		})
	}
	t.Cleanup(func() { quiet(t, "the log", c.Log.String(), secret, "666-45-6789") })
}

func TestSubjectsThatLookLikePersonalData(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	for subject, rule := range map[string]string{"jane.roe@mail.test": "email", "4111111111111111": "pan", "4111 1111 1111 1111": "pan", "4111-1111-1111-1111": "pan", "card:4111111111111111": "pan",
		"078-05-1120": "us_ssn", "078051120": "us_ssn", "ssn.078-05-1120": "us_ssn"} {
		a := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"`+subject+`","fields":{"name":"x"}}]}`).want(t, 422)
		got := a.items(t)[0].Error
		if diff := cmp.Diff([]fault{{"/items/0/subject", rule}}, got.Errors); diff != "" || got.slug() != "identifier-looks-like-pii" {
			t.Errorf("%s for a %s: %s", got.Type, rule, diff)
		}
		quiet(t, "the answer", string(a.body), subject)
	}
	for _, subject := range []string{"cust-1001", "a", "A.b_c:d-9", "0198c0de-0000-7000-8000-000000000001", strings.Repeat("s", 128)} {
		c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"`+subject+`","fields":{"name":"x"}}]}`).want(t, 200)
	}
}

func TestEveryFaultOfAnItemIsNamed(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name","required":true},"email":{"type":"email"}}}`).want(t, 201)
	got := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"fields":{"email":"none"},"expires_at":"2020-01-01T00:00:00Z"}]}`).
		want(t, 422).items(t)[0].Error.Errors
	want := []fault{{"/items/0/expires_at", "future"}, {"/items/0/fields/email", "email"}, {"/items/0/fields/name", "required"}}
	slices.SortFunc(got, func(a, b fault) int { return strings.Compare(a.Pointer, b.Pointer) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// One bad item in a hundred keeps none of the others from being stored.
func TestOneBadItemInAHundred(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	fields := make([]string, 100)
	for i := range fields {
		fields[i] = `{"name":"Jane Roe"}`
	}
	fields[37] = `{"name":""}`
	items := c.send(t, "POST", "/v1/tokenize", batch("people", fields...)).want(t, 207).items(t)
	if diff := cmp.Diff([]fault{{"/items/37/fields/name", "min-length"}}, items[37].Error.Errors); diff != "" {
		t.Error(diff)
	}
	if n := c.Count(`select count(*) from privault.records`); n != 99 {
		t.Errorf("%d records, want 99", n)
	}
}

func TestTokensThatDoNotResolve(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c, other := s.tenant(), s.tenant()
	c.collection(t, "people", "name", "name")
	c.collection(t, "others", "name", "name")
	other.collection(t, "people", "name", "name")
	stored := c.tokenize(t, "people", `{"name":"Jane Roe"}`, `{"name":"John Roe"}`)
	token := stored[0].Tokens["name"]
	c.send(t, "DELETE", "/v1/collections/people/records/"+stored[1].Record, "").want(t, 204)
	expiring := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"fields":{"name":"x"},"expires_at":"`+
		c.Now().Add(time.Minute).UTC().Format(time.RFC3339)+`"}]}`).want(t, 200).items(t)[0].Tokens["name"]
	c.Advance(2 * time.Minute)
	swapped := []byte(token)
	if swapped[len(swapped)-1]++; swapped[len(swapped)-1] > 'z' {
		swapped[len(swapped)-1] = '0'
	}
	refs := []map[string]string{
		{"token": ""}, {"token": "pvtk_"}, {"token": token[:len(token)-1]}, {"token": token + "0"}, {"token": strings.ToLower(token)}, {"token": strings.ToUpper(token)},
		{"token": token + " "}, {"token": " " + token}, {"token": token + "\n"}, {"token": token[:20] + "\u200b" + token[20:]}, {"token": token + "\x00"}, {"token": "pvtk-" + token[5:]},
		{"token": "pvrk_" + token[5:]}, {"token": string(swapped)}, {"token": "pvtk_" + strings.Repeat("0", 56)}, {"token": "pvtk_" + strings.Repeat("z", 56)},
		{"token": c.key}, {"token": stored[0].Record}, {"token": "4111111111111111"}, {"token": strings.Repeat("x", 1<<20)}, {"token": "' or 1=1--"},
		{"token": stored[1].Tokens["name"]}, {"token": expiring}, {"token": other.tokenize(t, "people", `{"name":"x"}`)[0].Tokens["name"]},
		{"token": token, "collection": "others"}, {"token": token, "collection": "nobody"}, {"token": token, "collection": ""}, {"token": token, "field": "email"}, {"token": token, "field": ""},
	}
	a := c.send(t, "POST", "/v1/detokenize", text(t, map[string]any{"items": refs})).want(t, 404)
	want := a.items(t)[0]
	if want.Error.slug() != "token-not-found" {
		t.Fatalf("got %+v", want)
	}
	for i, got := range a.items(t) {
		want.Index = i
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q is refused in another way than the rest:\n%s", refs[i], diff)
		}
	}
	quiet(t, "the log", c.Log.String(), token[5:], c.key[5:])
	for _, view := range []string{"", "full", "Plain", "plain ", "\x00"} {
		item := c.send(t, "POST", "/v1/detokenize", text(t, map[string]any{"items": []map[string]string{{"token": token, "view": view}}})).want(t, 422).items(t)[0]
		if diff := cmp.Diff([]fault{{"/items/0/view", "view"}}, item.Error.Errors); diff != "" {
			t.Errorf("view %q: %s", view, diff)
		}
	}
}
