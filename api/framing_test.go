package api_test

import (
	"strings"
	"testing"
)

// target is a route that reads JSON, ready to be called.
type target struct{ method, path string }

// targets are all routes that read JSON.
func (c client) targets(t *testing.T) []target {
	t.Helper()
	c.collection(t, "people", "name", "name", "j", "json")
	record := c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Record
	var principal struct{ ID string }
	c.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["admin"]}`).want(t, 201).read(t, &principal)
	return []target{{"POST", "/v1/tokenize"}, {"POST", "/v1/detokenize"}, {"POST", "/v1/principals"}, {"POST", "/v1/principals/" + principal.ID + "/keys"},
		{"PATCH", "/v1/principals/" + principal.ID}, {"POST", "/v1/revoked-tokens"},
		{"PUT", "/v1/collections/people"}, {"PATCH", "/v1/collections/people/records/" + record}}
}

func TestBytesThatAreNoJSON(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	targets := c.targets(t)
	secret := canary()
	for name, body := range map[string]string{
		"nothing":                    "",
		"white space":                " \n",
		"an opened object":           `{`,
		"an opened string":           `{"` + secret,
		"text behind it":             `{} ` + secret,
		"two documents":              `{"items":[]}{"items":[]}`,
		"brackets behind a fault":    `{"` + secret + `":1}]]]]:::`,
		"a member twice":             `{"name":"a","name":"b"}`,
		"an unknown member twice":    `{"value":"` + secret + `","value":"b"}`,
		"a member twice by escape":   `{"value":1,"va\u006cue":2}`,
		"a nested member twice":      `{"x":{"y":1,"y":2}}`,
		"invalid UTF-8":              "{\"name\":\"\xff\xfe" + secret + "\"}",
		"overlong UTF-8":             "{\"name\":\"\xc0\x80\"}",
		"UTF-8 of a surrogate":       "{\"name\":\"\xed\xa0\x80\"}",
		"a lone high surrogate":      `{"name":"\ud800"}`,
		"a lone low surrogate":       `{"name":"\udc00` + secret + `"}`,
		"a byte order mark":          "\ufeff{}",
		"UTF-16":                     "\xff\xfe{\x00}\x00",
		"NaN":                        `{"x":NaN}`,
		"Infinity":                   `{"x":-Infinity}`,
		"a leading zero":             `{"x":01}`,
		"a plus":                     `{"x":+1}`,
		"a bare point":               `{"x":1.}`,
		"hex":                        `{"x":0x10}`,
		"a number of 10,000 digits":  `{"x":` + strings.Repeat("1", 10_000) + `}`,
		"a number of 41 characters":  `{"x":-1.` + strings.Repeat("1", 36) + `e1}`,
		"arrays 100,000 deep":        strings.Repeat("[", 100_000),
		"arrays 100,000 deep, whole": `{"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
		"a comment":                  `{/*x*/}`,
		"a trailing comma":           `{"x":1,}`,
		"single quotes":              `{'x':1}`,
		"a control character":        "{\"x\":\"\x01\"}",
		"U+0000 between tokens":      "{\x00}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, to := range targets {
				a := c.send(t, to.method, to.path, body, `If-Match: "1"`)
				a.refused(t, 400, "malformed-json")
				quiet(t, "the answer", string(a.body), secret)
			}
		})
	}
	t.Cleanup(func() { quiet(t, "the log", c.Log.String(), secret) })
}

func TestJSONOfAnotherShape(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	targets := c.targets(t)
	secret := canary()
	for name, body := range map[string]string{
		"an array":            `[]`,
		"null":                `null`,
		"a string":            `"` + secret + `"`,
		"a number":            `4111111111111111`,
		"true":                `true`,
		"an unknown member":   `{"admin":true}`,
		"a value as a member": `{"` + secret + `":1}`,
		"a tenant":            `{"tenant":"` + secret + `"}`,
		"other case":          `{"Items":[],"Name":"a","Fields":{},"Expires_at":null}`,
		"257 members":         `{"x":{` + members(257) + `}}`,
		"arrays 33 deep":      `{"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`,
		"__proto__":           `{"__proto__":{"admin":true}}`,
		"the empty member":    `{"":1}`,
		"U+0000 as a member":  `{"\u0000":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, to := range targets {
				a := c.send(t, to.method, to.path, body, `If-Match: "1"`)
				if len(a.refused(t, 422, "validation-failed").Errors) == 0 {
					t.Errorf("nothing is said about where: %s", a.body)
				}
				quiet(t, "the answer", string(a.body), secret, "4111111111111111")
			}
		})
	}
	t.Cleanup(func() { quiet(t, "the log", c.Log.String(), secret) })
}

// members are n members of an object.
func members(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = `"k` + strings.Repeat("k", i) + `":1`
	}
	return strings.Join(all, ",")
}

func TestRequestsOfAnotherShape(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	secret := canary()
	for body, want := range map[string]fault{
		`{}`: {"/collection", "required"},
		`{"collection":"","items":[{"fields":{"name":"x"}}]}`:                                                             {"/collection", "required"},
		`{"collection":null,"items":[]}`:                                                                                  {"/collection", "type"},
		`{"collection":5,"items":[]}`:                                                                                     {"/collection", "type"},
		`{"collection":"people"}`:                                                                                         {"/items", "size"},
		`{"collection":"people","items":[]}`:                                                                              {"/items", "size"},
		`{"collection":"people","items":null}`:                                                                            {"/items", "type"},
		`{"collection":"people","items":{}}`:                                                                              {"/items", "type"},
		`{"collection":"people","items":[null]}`:                                                                          {"/items/0", "type"},
		`{"collection":"people","items":["` + secret + `"]}`:                                                              {"/items/0", "type"},
		`{"collection":"people","items":[{"fields":null}]}`:                                                               {"/items/0/fields", "type"},
		`{"collection":"people","items":[{"fields":["` + secret + `"]}]}`:                                                 {"/items/0/fields", "type"},
		`{"collection":"people","items":[{"fields":{"name":"x"}},{"subject":null,"fields":{"name":"x"}}]}`:                {"/items/1/subject", "type"},
		`{"collection":"people","items":[{"subject":4111111111111111,"fields":{"name":"x"}}]}`:                            {"/items/0/subject", "type"},
		`{"collection":"people","items":[{"Fields":{"name":"` + secret + `"}}]}`:                                          {"/items/0", "unknown-member"},
		`{"collection":"people","items":[{"expires_at":"` + secret + `","fields":{"name":"x"}}]}`:                         {"/items/0/expires_at", "type"},
		`{"collection":"people","items":[{"expires_at":"2099-02-30T00:00:00Z","fields":{"name":"x"}}]}`:                   {"/items/0/expires_at", "type"},
		`{"collection":"people","items":[{"expires_at":"9999-12-31T24:00:00Z","fields":{"name":"x"}}]}`:                   {"/items/0/expires_at", "type"},
		`{"collection":"people","items":[{"expires_at":"2099-01-01 00:00:00","fields":{"name":"x"}}]}`:                    {"/items/0/expires_at", "type"},
		`{"collection":"people","items":[{"expires_at":4070908800,"fields":{"name":"x"}}]}`:                               {"/items/0/expires_at", "type"},
		`{"collection":"people","items":[{"fields":{"name":"x"}}],"atomic":"true"}`:                                       {"/atomic", "type"},
		`{"collection":"people","items":[{"fields":{"name":"x"}}],"atomic":null}`:                                         {"/atomic", "type"},
		`{"collection":"people","items":[` + strings.Repeat(`{"fields":{"name":"x"}},`, 1000) + `{}]}`:                    {"/items", "size"},
		`{"collection":"people","items":[{"fields":{"name":"x"},"metadata":{"pan":"` + secret + `"}}]}`:                   {"/items/0", "unknown-member"},
		`{"collection":"people","items":[{"fields":{` + members(257) + `}}]}`:                                             {"", "members"},
		`{"collection":"people","items":[{"fields":{"name":` + strings.Repeat("[", 29) + strings.Repeat("]", 29) + `}}]}`: {"", "depth"},
	} {
		a := c.send(t, "POST", "/v1/tokenize", body)
		if p := a.refused(t, 422, "validation-failed"); len(p.Errors) != 1 || p.Errors[0] != want {
			t.Errorf("%.80s is faulted with %v, want %v", body, p.Errors, want)
		}
		quiet(t, "the answer", string(a.body), secret, "4111111111111111")
	}
	for body, want := range map[string]fault{
		`{}`:                                    {"/items", "size"},
		`{"items":[]}`:                          {"/items", "size"},
		`{"items":null}`:                        {"/items", "type"},
		`{"items":["pvtk_"]}`:                   {"/items/0", "type"},
		`{"items":[{}]}`:                        {"/items/0/token", "required"},
		`{"items":[{"token":null}]}`:            {"/items/0/token", "type"},
		`{"items":[{"token":5}]}`:               {"/items/0/token", "type"},
		`{"items":[{"token":"x","view":null}]}`: {"/items/0/view", "type"},
		`{"items":[{"token":"x","collection":null}]}`:                             {"/items/0/collection", "type"},
		`{"items":[{"token":"x","reveal":"full"}]}`:                               {"/items/0", "unknown-member"},
		`{"items":[` + strings.Repeat(`{"token":"x"},`, 1000) + `{"token":"x"}]}`: {"/items", "size"},
	} {
		if p := c.send(t, "POST", "/v1/detokenize", body).refused(t, 422, "validation-failed"); len(p.Errors) != 1 || p.Errors[0] != want {
			t.Errorf("%.80s is faulted with %v, want %v", body, p.Errors, want)
		}
	}
	quiet(t, "the log", c.Log.String(), secret)
}

func TestMediaTypesThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for _, to := range c.targets(t) {
		for _, header := range []string{"Content-Type:", "Content-Type: text/plain", "Content-Type: application/xml", "Content-Type: text/json",
			"Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data; boundary=x", "Content-Type: application/json; charset=utf-16",
			"Content-Type: application/json; charset=latin1", "Content-Type: application/jsonp", "Content-Type: ;", "Content-Encoding: gzip", "Content-Encoding: identity"} {
			c.send(t, to.method, to.path, `{}`, `If-Match: "1"`, header).refused(t, 415, "unsupported-media-type")
		}
		for _, header := range []string{"Accept: text/html", "Accept: image/*", "Accept: application/xml", "Accept: none"} {
			c.send(t, to.method, to.path, `{}`, `If-Match: "1"`, header).refused(t, 406, "not-acceptable")
		}
	}
	for _, header := range []string{"Content-Type: application/json; charset=UTF-8", "Content-Type: Application/JSON", "Accept: */*", "Accept: application/*",
		"Accept: text/html, application/json;q=0.5", "Accept: application/problem+json"} {
		c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"x"}]}`, header).want(t, 404)
	}
}

func TestPathsThatLeadNowhere(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for _, path := range []string{"/v1//detokenize", "//v1/detokenize", "/v1/detokenize/", "/V1/detokenize", "/v1/Detokenize", "/v1/x/../detokenize", "/v1/%2e%2e/v1/detokenize",
		"/v1/detokenize%00", "/v1/detokenize%20", "/v1%2Fdetokenize", "/%761/detokenize", "/v1/./detokenize", "/v1;x/detokenize", "/v1/detokenize;x", "/v2/detokenize", "/", "/v1", "/v1/",
		"/metrics", "/healthz", "/readyz", "/debug/pprof/", "/.env", "/v1/tenants"} {
		a := c.send(t, "POST", path, `{"items":[{"token":"x"}]}`)
		a.refused(t, 404, "not-found")
		c.send(t, "GET", path, "").refused(t, 404, "not-found")
	}
}

func TestMethodsThatARouteDoesNotHave(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for path, methods := range map[string]string{"/v1/tokenize": "POST", "/v1/detokenize": "POST", "/v1/collections": "GET", "/v1/collections/people": "GET, PUT, DELETE",
		"/v1/collections/people/import": "POST", "/v1/collections/people/records/x": "GET, PATCH, DELETE", "/v1/principals": "GET, POST", "/v1/principals/x": "PATCH", "/v1/principals/x/keys": "GET, POST", "/v1/revoked-tokens": "POST",
		"/v1/principals/x/keys/y": "DELETE", "/openapi.yaml": "GET"} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "LINK"} {
			if strings.Contains(methods, method) {
				continue
			}
			a := c.send(t, method, path, "")
			a.refused(t, 405, "method-not-allowed")
			if got := a.header.Get("Allow"); got != methods {
				t.Errorf("%s %s: Allow is %q, want %q", method, path, got, methods)
			}
		}
	}
	client{service: c.service}.send(t, "PATCH", "/v1/tokenize", "").refused(t, 401, "unauthenticated")
	for _, header := range []string{"X-HTTP-Method-Override: DELETE", "X-Method-Override: PUT"} {
		c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"x"}]}`, header).want(t, 404).items(t)
	}
}

func TestValuesInAURLAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	secret := canary()
	for _, path := range []string{"/v1/detokenize?value=" + secret, "/v1/tokenize?" + secret, "/v1/detokenize?api_key=" + c.key, "/v1/principals?%zz"} {
		a := c.send(t, "POST", path, `{"items":[{"token":"x"}]}`)
		a.refused(t, 400, "malformed-request")
		quiet(t, "the answer", string(a.body), secret, c.key[5:])
	}
	for _, path := range []string{"/v1/collections?token=" + secret, "/v1/collections?limit=5&limit=6", "/v1/collections?view=plain", "/v1/collections?api_key=" + c.key} {
		a := c.send(t, "GET", path, "")
		a.refused(t, 400, "malformed-request")
		quiet(t, "the answer", string(a.body), secret, c.key[5:])
	}
	said := c.Log.String()
	quiet(t, "the log", said, secret, c.key[5:])
	if n := strings.Count(said, `"credential-in-url"`); n != 2 {
		t.Errorf("%d keys in URLs were noticed, want 2", n)
	}
}
