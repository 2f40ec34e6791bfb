package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestACollectionIsMadeAndEvolves(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	const path = "/v1/collections/people"
	first := `{"description":"<customers> & co","fields":{"email":{"type":"email","classification":"restricted"},"name":{"type":"name","required":true}}}`
	made := c.send(t, "PUT", path, first).want(t, 201)
	if got := made.header.Get("ETag"); got != `"1"` {
		t.Errorf("the ETag is %s", got)
	}
	var got map[string]any
	made.read(t, &got)
	delete(got, "created_at")
	delete(got, "updated_at")
	field := func(typ, classification string, more ...any) map[string]any {
		f := map[string]any{"type": typ, "classification": classification, "token": map[string]any{"strategy": "random"}}
		for i := 0; i < len(more); i += 2 {
			f[more[i].(string)] = more[i+1]
		}
		return f
	}
	want := map[string]any{"name": "people", "version": 1.0, "kms": "hierarchical", "description": "<customers> & co",
		"fields": map[string]any{"email": field("email", "restricted"), "name": field("name", "confidential", "required", true)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	again := c.send(t, "PUT", path, first).want(t, 200)
	read := c.send(t, "GET", path, "").want(t, 200)
	for _, a := range []answer{again, read} {
		if diff := cmp.Diff(string(made.body), string(a.body)); diff != "" {
			t.Errorf("nothing has changed, yet: %s", diff)
		}
	}
	evolved := strings.Replace(first, `"fields":{`, `"fields":{"notes":{"type":"text","token":{"strategy":"none"}},`, 1)
	if got := c.send(t, "PUT", path, evolved).want(t, 200).header.Get("ETag"); got != `"2"` {
		t.Errorf("the ETag after a change is %s", got)
	}
}

func TestAChangeThatStrandsValuesIsAConflict(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name"},"email":{"type":"email"}}}`).want(t, 201)
	p := c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"text"}}}`).refused(t, 409, "conflict")
	if diff := cmp.Diff([]fault{{"/fields/email", "removed"}, {"/fields/name/type", "changed"}}, p.Errors); diff != "" {
		t.Error(diff)
	}
	p = c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name","required":true},"email":{"type":"email","classification":"public"}}}`).
		refused(t, 409, "conflict")
	if diff := cmp.Diff([]fault{{"/fields/email/classification", "lowered"}, {"/fields/name/required", "tightened"}}, p.Errors); diff != "" {
		t.Error(diff)
	}
}

func TestTheListOfCollectionsGoesOnAtItsCursor(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c, other := s.tenant(), s.tenant()
	for i := range 5 {
		c.collection(t, fmt.Sprintf("c%d", i), "name", "name")
	}
	type page struct {
		Items []struct{ Name string }
		Next  *string `json:"next_cursor"`
	}
	var names []string
	var cursors []string
	for path := "/v1/collections?limit=2"; path != ""; {
		var p page
		c.send(t, "GET", path, "").want(t, 200).read(t, &p)
		for _, item := range p.Items {
			names = append(names, item.Name)
		}
		path = ""
		if p.Next != nil {
			cursors = append(cursors, *p.Next)
			path = "/v1/collections?limit=2&cursor=" + url.QueryEscape(*p.Next)
		}
	}
	if diff := cmp.Diff([]string{"c0", "c1", "c2", "c3", "c4"}, names); diff != "" {
		t.Error(diff)
	}
	if len(cursors) != 2 {
		t.Fatalf("%d cursors, want 2", len(cursors))
	}
	flipped := []byte(cursors[0])
	flipped[len(flipped)/2] ^= 1
	other.send(t, "GET", "/v1/collections?cursor="+cursors[0], "").refused(t, 400, "malformed-request")
	c.send(t, "GET", "/v1/collections?cursor="+url.QueryEscape(string(flipped)), "").refused(t, 400, "malformed-request")
	c.send(t, "GET", "/v1/collections?cursor=c1", "").refused(t, 400, "malformed-request")
	var empty page
	other.send(t, "GET", "/v1/collections", "").want(t, 200).read(t, &empty)
	if len(empty.Items) != 0 || empty.Next != nil {
		t.Errorf("a new tenant's list is %+v", empty)
	}
}

func TestListsRefuseLimitsOutOfRange(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for _, limit := range []string{"0", "-1", "201", "1e9", "%2210%22", "99999999999999999999", "0x10", "5%00"} {
		c.send(t, "GET", "/v1/collections?limit="+limit, "").refused(t, 422, "validation-failed")
	}
	for _, limit := range []string{"1", "200"} {
		c.send(t, "GET", "/v1/collections?limit="+limit, "").want(t, 200)
	}
}

func TestACollectionIsDroppedOnceItIsEmpty(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	record := c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Record
	c.send(t, "DELETE", "/v1/collections/people", "").refused(t, 409, "conflict")
	c.send(t, "DELETE", "/v1/collections/people/records/"+record, "").want(t, 204)
	c.send(t, "DELETE", "/v1/collections/people", "").want(t, 204)
	c.send(t, "GET", "/v1/collections/people", "").refused(t, 404, "not-found")
	c.send(t, "DELETE", "/v1/collections/people", "").refused(t, 404, "not-found")
	c.send(t, "POST", "/v1/tokenize", batch("people", `{"name":"Jane Roe"}`)).refused(t, 404, "not-found")
}

func TestDefinitionsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	many := make([]string, 201)
	for i := range many {
		many[i] = fmt.Sprintf(`"f%d":{"type":"name"}`, i)
	}
	field := func(f string) string { return `{"fields":{"f":` + f + `}}` }
	for name, row := range map[string]struct {
		body string
		want fault
	}{
		"no fields":              {`{"fields":{}}`, fault{"/fields", "size"}},
		"no fields at all":       {`{}`, fault{"/fields", "size"}},
		"too many fields":        {`{"fields":{` + strings.Join(many, ",") + `}}`, fault{"/fields", "size"}},
		"null for fields":        {`{"fields":null}`, fault{"/fields", "type"}},
		"null for a field":       {field(`null`), fault{"/fields/f", "type"}},
		"null for a type":        {field(`{"type":null}`), fault{"/fields/f/type", "type"}},
		"no type":                {field(`{}`), fault{"/fields/f/type", "type"}},
		"unknown type":           {field(`{"type":"zqtypezq"}`), fault{"/fields/f/type", "type"}},
		"CVV":                    {field(`{"type":"cvv"}`), fault{"/fields/f/type", "not-storable"}},
		"CVV, spelt":             {field(`{"type":"CVV-2"}`), fault{"/fields/f/type", "not-storable"}},
		"PIN":                    {field(`{"type":"pin"}`), fault{"/fields/f/type", "not-storable"}},
		"track data":             {field(`{"type":"track2"}`), fault{"/fields/f/type", "not-storable"}},
		"unknown classification": {field(`{"type":"name","classification":"Secret"}`), fault{"/fields/f/classification", "classification"}},
		"index to come":          {field(`{"type":"name","index":["soundex"]}`), fault{"/fields/f/index", "index"}},
		"no strategy":            {field(`{"type":"pan","token":{"strategy":"xor"}}`), fault{"/fields/f/token/strategy", "strategy"}},
		"shape without strategy": {field(`{"type":"pan","token":{"keep_suffix":4}}`), fault{"/fields/f/token", "not-applicable"}},
		"a period in words":      {`{"retention":{"keep":"30 days"},"fields":{"f":{"type":"name"}}}`, fault{"/retention/keep", "period"}},
		"a negative period":      {`{"retention":{"keep":"-P1D"},"fields":{"f":{"type":"name"}}}`, fault{"/retention/keep", "period"}},
		"a period of nothing":    {`{"retention":{"keep":"P0D"},"fields":{"f":{"type":"name"}}}`, fault{"/retention/keep", "period"}},
		"a millennium":           {`{"retention":{"keep":"P1000Y"},"fields":{"f":{"type":"name"}}}`, fault{"/retention/keep", "period"}},
		"after no date":          {`{"retention":{"keep":"P1Y","after":"field:f"},"fields":{"f":{"type":"name"}}}`, fault{"/retention/after", "after"}},
		"a minimum by no law":    {`{"retention":{"minimum":{"keep":"P10Y","ground":""}},"fields":{"f":{"type":"name"}}}`, fault{"/retention/minimum/ground", "ground"}},
		"a general name":         {`{"fields":{"f":{"type":"name","retention":{"keep":"P1Y","action":"anonymise"}}}}`, fault{"/fields/f/retention/action", "anonymise"}},
		"kms":                    {`{"kms":"remote","fields":{"f":{"type":"name"}}}`, fault{"/kms", "kms"}},
		"long description":       {`{"description":"` + strings.Repeat("zq", 501) + `","fields":{"f":{"type":"name"}}}`, fault{"/description", "max-length"}},
		"NUL in description":     {`{"description":"\u0000","fields":{"f":{"type":"name"}}}`, fault{"/description", "max-length"}},
		"NUL in a field's name":  {`{"fields":{"f\u0000":{"type":"name"}}}`, fault{"/fields", "name"}},
		"value as field's name":  {`{"fields":{"jane@example.com":{"type":"name"}}}`, fault{"/fields", "name"}},
		"the same, wrong type":   {`{"fields":{"jane@example.com":5}}`, fault{"/fields", "type"}},
		"the same, unknown":      {`{"fields":{"jane@example.com":{"zq":5}}}`, fault{"/fields", "unknown-member"}},
		"digits as field's name": {`{"fields":{"4111111111111111":5}}`, fault{"/fields", "type"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := c.send(t, "PUT", "/v1/collections/people", row.body)
			p := a.refused(t, 422, "validation-failed")
			if diff := cmp.Diff([]fault{row.want}, p.Errors); diff != "" {
				t.Error(diff)
			}
			quiet(t, "the answer", string(a.body), "jane@example.com", "4111111111111111", "zqtypezq", "zqzqzqzq")
		})
	}
}

func TestNamesOfCollections(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for _, name := range []string{"People", "1people", "_people", "pe-ople", "people%20", "people%00", "%ff", "pe%2Fople", "%D0%BF", "jane@example.com", strings.Repeat("p", 64)} {
		c.send(t, "PUT", "/v1/collections/"+name, `{"fields":{"f":{"type":"name"}}}`).refused(t, 422, "validation-failed")
		c.send(t, "GET", "/v1/collections/"+name, "").refused(t, 404, "not-found")
		c.send(t, "DELETE", "/v1/collections/"+name, "").refused(t, 404, "not-found")
		for _, method := range []string{"GET", "DELETE"} {
			c.send(t, method, "/v1/collections/"+name+"/records/rec_0000000000000000000000", "").refused(t, 404, "not-found")
		}
		c.send(t, "PATCH", "/v1/collections/"+name+"/records/rec_0000000000000000000000", `{"fields":{"f":"x"}}`, `If-Match: "1"`).refused(t, 404, "not-found")
		c.send(t, "POST", "/v1/collections/"+name+"/import", "{}\n", "Content-Type: application/x-ndjson").refused(t, 404, "not-found")
	}
	c.collection(t, strings.Repeat("p", 63), "f", "name")
}

func TestACollectionChangesOnlyInTheVersionThatWasSeen(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	const path, first = "/v1/collections/people", `{"fields":{"name":{"type":"name"}}}`
	const second = `{"fields":{"name":{"type":"name"},"notes":{"type":"text"}}}`
	c.send(t, "PUT", path, first, `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "PUT", path, first).want(t, 201)
	c.send(t, "PUT", path, second, `If-Match: "1"`).want(t, 200)
	c.send(t, "PUT", path, first, `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "DELETE", path, "", `If-Match: "1"`).refused(t, 412, "precondition-failed")
	c.send(t, "DELETE", path, "", `If-Match: "2"`).want(t, 204)
}
