package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const cardsPath = "/v1/transforms/cards"

// cards makes a transform of card numbers.
func (c client) cards(t *testing.T) answer {
	t.Helper()
	return c.send(t, "PUT", cardsPath, `{"alphabet":"digits","min_length":12,"max_length":19,"keep_prefix":0,"keep_suffix":4,"luhn":"invalid"}`).want(t, 201)
}

func TestATransformIsMadeReadAndDropped(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	made := c.cards(t)
	var got map[string]any
	made.read(t, &got)
	delete(got, "created_at")
	want := map[string]any{"name": "cards", "alphabet": "digits", "separators": " -", "min_length": 12.0, "max_length": 19.0,
		"keep_suffix": 4.0, "luhn": "invalid", "key_version": 1.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var page struct{ Items []json.RawMessage }
	c.send(t, "GET", "/v1/transforms", "").want(t, 200).read(t, &page)
	again := c.send(t, "PUT", cardsPath, `{"min_length":12,"max_length":19,"keep_suffix":4,"luhn":"invalid","erasable":false}`).want(t, 200)
	for what, body := range map[string][]byte{"GET": c.send(t, "GET", cardsPath, "").want(t, 200).body, "PUT": again.body, "the list": page.Items[0]} {
		if diff := cmp.Diff(string(made.body), string(body)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	c.send(t, "PUT", cardsPath, `{"alphabet":"digits"}`).refused(t, 409, "conflict")
	c.send(t, "DELETE", cardsPath, "").want(t, 204)
	c.send(t, "DELETE", cardsPath, "").refused(t, 404, "not-found")
	c.send(t, "GET", cardsPath, "").refused(t, 404, "not-found")
	c.send(t, "POST", cardsPath+"/encode", `{"items":[{"value":"4111111111111111"}]}`).refused(t, 404, "not-found")
}

func TestTransformsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for body, want := range map[string]struct {
		slug, at, rule string
	}{
		`{"alphabet":"digits","erasable":true}`:                                                  {"not-erasable", "/erasable", "not-erasable"},
		`{"alphabet":"digits","min_length":16,"keep_prefix":6,"keep_suffix":4,"luhn":"invalid"}`: {"domain-too-small", "/min_length", "domain-too-small"},
		`{"alphabet":"digits","min_length":5}`:                                                   {"domain-too-small", "/min_length", "domain-too-small"},
		`{"shape":"date","from":"1900-01-01","to":"2099-12-31"}`:                                 {"domain-too-small", "/to", "domain-too-small"},
		`{"alphabet":"emoji"}`:                                                                   {"validation-failed", "/alphabet", "unknown"},
		`{"shape":"email"}`:                                                                      {"validation-failed", "/shape", "not-applicable"},
		`{"alphabet":"digits","length":12}`:                                                      {"validation-failed", "/length", "not-applicable"},
		`{"alphabet":"lower","luhn":"valid"}`:                                                    {"validation-failed", "/luhn", "not-applicable"},
		`{"alphabet":"digits","strategy":"fpe"}`:                                                 {"validation-failed", "", "unknown-member"},
		`{"alphabet":"digits","keep_prefix":"4"}`:                                                {"validation-failed", "/keep_prefix", "type"},
		`{"alphabet":"digits","max_length":5}`:                                                   {"validation-failed", "/max_length", "range"},
		`{"alphabet":"digits","Reversible":false}`:                                               {"validation-failed", "", "unknown-member"},
		`{"characters":"` + strings.Repeat("ab", 2) + `","separators":"- \n"}`:                   {"validation-failed", "/characters", "alphabet"},
	} {
		p := c.send(t, "PUT", cardsPath, body).refused(t, 422, want.slug)
		if diff := cmp.Diff([]fault{{want.at, want.rule}}, p.Errors); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
	p := c.send(t, "PUT", cardsPath, `{"alphabet":"digits","min_length":16,"keep_prefix":6,"keep_suffix":4,"luhn":"invalid"}`).refused(t, 422, "domain-too-small")
	if !strings.Contains(p.Detail, "10^5 = 100000") {
		t.Errorf("the arithmetic is not in %q", p.Detail)
	}
	c.send(t, "PUT", "/v1/transforms/Cards", `{}`).refused(t, 422, "validation-failed")
}

func TestEncodeAndDecode(t *testing.T) {
	t.Parallel()
	of := hire(t, serve(t))
	of.admin.cards(t)
	values := []string{"4111111111111111", "5500-0055-5555-5559", "378282246310005"}
	items := func(texts []string, more string) string {
		var all []string
		for _, text := range texts {
			all = append(all, fmt.Sprintf(`{"value":%q%s}`, text, more))
		}
		return `{"items":[` + strings.Join(all, ",") + `]}`
	}
	type coded struct {
		Items []struct {
			Index, Status int
			Value         string
			KeyVersion    int `json:"key_version"`
		}
	}
	var out coded
	of.writer.send(t, "POST", cardsPath+"/encode", items(values, "")).want(t, 200).read(t, &out)
	var tokens []string
	for i, item := range out.Items {
		tokens = append(tokens, item.Value)
		if item.Index != i || item.Status != 200 || item.KeyVersion != 1 || len(item.Value) != len(values[i]) || item.Value == values[i] ||
			item.Value[len(item.Value)-4:] != values[i][len(values[i])-4:] {
			t.Errorf("%s is encoded as %+v", values[i], item)
		}
	}
	for _, version := range []string{"", `,"key_version":1`} {
		var back coded
		of.reader.send(t, "POST", cardsPath+"/decode", items(tokens, version), "Privault-Purpose: billing").want(t, 200).read(t, &back)
		for i, item := range back.Items {
			if item.Value != values[i] || item.KeyVersion != 1 {
				t.Errorf("%s comes back as %+v", values[i], item)
			}
		}
	}
	// Who does which.
	for name, c := range map[string]client{"the admin": of.admin, "the masked reader": of.masked, "the reader": of.reader} {
		if a := c.send(t, "POST", cardsPath+"/encode", items(values, "")); a.status != 403 {
			t.Errorf("%s encodes: %d", name, a.status)
		}
	}
	for name, c := range map[string]client{"the admin": of.admin, "the masked reader": of.masked, "the writer": of.writer} {
		if a := c.send(t, "POST", cardsPath+"/decode", items(tokens, "")); a.status != 403 {
			t.Errorf("%s decodes: %d", name, a.status)
		}
	}
	of.writer.send(t, "PUT", cardsPath, `{}`).refused(t, 403, "forbidden")
	of.writer.send(t, "GET", cardsPath, "").want(t, 200)
	for _, text := range append(values, tokens...) {
		if n := of.admin.Count(`select count(*) from privault.audit_entries where position($1 in body) > 0`, text); n != 0 {
			t.Errorf("%d audit entries hold %s", n, text)
		}
	}
	if n := of.admin.Count(`select count(*) from privault.audit_entries where body::json->'resources'->0->>'transform' = 'cards'
		and body::json->>'items' = '3' and action in ('transform.encode', 'transform.decode') and outcome = 'ok'`); n != 3 {
		t.Errorf("%d audit entries of three batches", n)
	}
}

func TestABatchOfATransform(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.cards(t)
	some := c.send(t, "POST", cardsPath+"/encode", `{"items":[{"value":"4111111111111111"},{"value":"4111111111111112"},{"value":"abc"}]}`).want(t, 207).items(t)
	if some[0].Status != 200 || some[1].Status != 422 || some[2].Status != 422 {
		t.Errorf("got %+v", some)
	}
	if diff := cmp.Diff([]fault{{"/items/1/value", "luhn"}}, some[1].Error.Errors); diff != "" {
		t.Error(diff)
	}
	none := c.send(t, "POST", cardsPath+"/decode", `{"items":[{"value":"4111111111111111"},{"value":"1","key_version":7}]}`).want(t, 422)
	quiet(t, "the answer", string(none.body), "4111111111111111")
	for body, want := range map[string]fault{
		`{"items":[]}`:                           {"/items", "size"},
		`{}`:                                     {"/items", "size"},
		`{"items":[{}]}`:                         {"/items/0/value", "required"},
		`{"items":[{"value":4111111111111111}]}`: {"/items/0/value", "type"},
		`{"items":[{"value":null}]}`:             {"/items/0/value", "type"},
		`{"items":[{"value":"1","key_version":0}]}`:                               {"/items/0/key_version", "key-version"},
		`{"items":[{"value":"1","view":"plain"}]}`:                                {"/items/0", "unknown-member"},
		`{"items":[` + strings.Repeat(`{"value":"1"},`, 1000) + `{"value":"1"}]}`: {"/items", "size"},
	} {
		p := c.send(t, "POST", cardsPath+"/encode", body).refused(t, 422, "validation-failed")
		if diff := cmp.Diff([]fault{want}, p.Errors); diff != "" {
			t.Errorf("%.60s: %s", body, diff)
		}
	}
}

func TestATransformMasks(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	made := c.send(t, "PUT", "/v1/transforms/shown", `{"type":"pan","mask":{"reveal_first":6,"reveal_last":4}}`).want(t, 201)
	if strings.Contains(string(made.body), "key_version") {
		t.Errorf("a mask has a key: %s", made.body)
	}
	a := c.send(t, "POST", "/v1/transforms/shown/encode", `{"items":[{"value":"4111 1111 1111 1111"},{"value":"4111"}]}`).want(t, 207)
	if items := a.items(t); string(items[0].Value) != `"411111******1111"` || items[1].Error.Errors[0].Pointer != "/items/1/value" {
		t.Errorf("got %s", a.body)
	}
	c.send(t, "POST", "/v1/transforms/shown/decode", `{"items":[{"value":"411111******1111"}]}`).refused(t, 422, "validation-failed")
	c.send(t, "GET", "/v1/transforms/shown", "").want(t, 200)
	c.send(t, "GET", "/v1/transforms", "").want(t, 200)
}

// Tokens of a transform are decoded for the purposes that it names, and, as for records without a person, never for one
// that needs consent.
func TestATransformsPurposes(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/purposes/billing", `{"legal_basis":"contract"}`).want(t, 201)
	c.send(t, "PUT", "/v1/purposes/fraud", `{"legal_basis":"legitimate_interests"}`).want(t, 201)
	c.send(t, "PUT", "/v1/purposes/letters", `{"legal_basis":"consent"}`).want(t, 201)
	const shape = `"alphabet":"digits","min_length":12,"max_length":19`
	c.send(t, "PUT", "/v1/transforms/open", `{`+shape+`}`).want(t, 201)
	c.send(t, "PUT", "/v1/transforms/some", `{`+shape+`,"purpose_required":true}`).want(t, 201)
	c.send(t, "PUT", "/v1/transforms/bound", `{`+shape+`,"purposes":["billing"]}`).want(t, 201)
	c.send(t, "PUT", "/v1/transforms/bound", `{`+shape+`,"purposes":["billing"]}`).want(t, 200)
	c.send(t, "PUT", "/v1/transforms/bound", `{`+shape+`,"purposes":["fraud"]}`).refused(t, 409, "conflict")
	c.send(t, "PUT", "/v1/transforms/other", `{`+shape+`,"purposes":["Not a name"]}`).refused(t, 422, "validation-failed")
	for purpose, allowed := range map[string][3]bool{ // open, some, bound
		"": {true, false, false}, "billing": {true, true, true}, "fraud": {true, true, false}, "letters": {false, false, false}, "unknown": {true, false, false},
	} {
		for i, name := range []string{"open", "some", "bound"} {
			var headers []string
			if purpose != "" {
				headers = []string{"Privault-Purpose: " + purpose}
			}
			c.send(t, "POST", "/v1/transforms/"+name+"/encode", `{"items":[{"value":"4111111111111111"}]}`, headers...).want(t, 200)
			a := c.send(t, "POST", "/v1/transforms/"+name+"/decode", `{"items":[{"value":"4111111111111111"}]}`, headers...)
			if allowed[i] {
				a.want(t, 200)
			} else {
				a.refused(t, 403, "purpose-not-allowed")
			}
		}
	}
}
