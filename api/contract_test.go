package api_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/api"
)

func TestTheDocumentIsOpenAPI(t *testing.T) {
	t.Parallel()
	_, errs := contract().validator.ValidateDocument()
	for _, s := range sentences(errs) {
		t.Error(s)
	}
}

func TestTheRoutesAreTheDocumentsPaths(t *testing.T) {
	t.Parallel()
	var routes, documented []string
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, r := range serve(t).api.Routes() {
		routes = append(routes, r.Method+" "+parameter.ReplaceAllString(r.Pattern, "{$1}"))
	}
	for path, item := range contract().model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(documented)
	if diff := cmp.Diff(documented, routes); diff != "" {
		t.Errorf("document (-) and router (+) differ:\n%s", diff)
	}
}

// A parameter that the document has is read, and no other is.
func TestTheQueryParametersAreTheDocuments(t *testing.T) {
	t.Parallel()
	documented, read := map[string][]string{}, map[string][]string{}
	for path, item := range contract().model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			var names []string
			for _, p := range append(item.Parameters, op.Parameters...) {
				if p.In == "query" {
					names = append(names, p.Name)
				}
			}
			if slices.Sort(names); names != nil {
				documented[strings.ToUpper(method)+" "+path] = names
			}
		}
	}
	parameter := regexp.MustCompile(`:(\w+)`)
	for route, names := range api.QueryParameters() {
		names = slices.Clone(names)
		slices.Sort(names)
		read[parameter.ReplaceAllString(route, "{$1}")] = names
	}
	if diff := cmp.Diff(documented, read); diff != "" {
		t.Errorf("document (-) and routes (+) differ:\n%s", diff)
	}
}

// Whatever takes a credential is limited, so every such operation can answer 429.
func TestEveryOperationMayBeLimited(t *testing.T) {
	t.Parallel()
	for path, item := range contract().model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			if strings.HasPrefix(path, "/v1/") && op.Responses.Codes.GetOrZero("429") == nil {
				t.Errorf("%s %s does not say 429", method, path)
			}
		}
	}
}

func TestTheProblemsAreTheDocuments(t *testing.T) {
	t.Parallel()
	var have, documented []string
	for slug := range api.Problems() {
		have = append(have, "urn:privault:problem:"+slug)
	}
	for _, value := range contract().problem.Properties.GetOrZero("type").Schema().Enum {
		documented = append(documented, value.Value)
	}
	slices.Sort(have)
	slices.Sort(documented)
	if diff := cmp.Diff(documented, have); diff != "" {
		t.Errorf("document (-) and code (+) differ:\n%s", diff)
	}
}

func TestTheServerServesItsDocument(t *testing.T) {
	t.Parallel()
	a := client{service: serve(t)}.send(t, "GET", "/openapi.yaml", "", "Accept: application/yaml").want(t, 200)
	if diff := cmp.Diff(string(api.Contract), string(a.body)); diff != "" {
		t.Error(diff)
	}
}

// The checks that every test of this package relies on must themselves notice.
func TestDriftIsSeen(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	sent := batch("people", `{"name":"Jane Roe"}`)
	r := c.request(t, "POST", "/v1/tokenize", strings.NewReader(sent))
	good := c.do(t, r, []byte(sent))
	refused := c.send(t, "POST", "/v1/tokenize", `{`)
	unrouted := c.send(t, "POST", "/v1/nothing", `{}`)
	for name, change := range map[string]struct {
		answer
		from, to string
	}{
		"a member too many":            {good, `{"items"`, `{"more":1,"items"`},
		"a member too few":             {good, `"items"`, `"more"`},
		"an item's member too many":    {good, `{"index"`, `{"more":1,"index"`},
		"an item's member too few":     {good, `"record"`, `"recor"`},
		"a token of another form":      {good, `pvtk_`, `pvtk-`},
		"an item's status":             {good, `201`, `202`},
		"a problem's member too many":  {refused, `{"type"`, `{"more":1,"type"`},
		"a problem's member too few":   {refused, `"title"`, `"titel"`},
		"a problem of another type":    {refused, `malformed-json`, `malformed`},
		"a stray problem's member":     {unrouted, `{"type"`, `{"more":1,"type"`},
		"no JSON":                      {good, `{"items"`, `{items`},
		"no JSON from where no one is": {unrouted, `{"type"`, `{type`},
	} {
		a := answer{change.status, change.header, []byte(strings.Replace(string(change.body), change.from, change.to, 1)), false}
		if len(contract().drift(a, r, []byte(sent))) == 0 {
			t.Errorf("%s passes unseen", name)
		}
	}
	for name, change := range map[string]func(*answer){
		"an undeclared status":       func(a *answer) { a.status = http.StatusAccepted },
		"an undeclared content type": func(a *answer) { a.header.Set("Content-Type", "text/plain") },
		"a header too many":          func(a *answer) { a.header.Set("X-More", "1") },
		"a header too few":           func(a *answer) { a.header.Del("X-Request-Id") },
		"a header of another form":   func(a *answer) { a.header.Set("Cache-Control", "public") },
	} {
		a := answer{good.status, good.header.Clone(), good.body, false}
		change(&a)
		if len(contract().drift(a, r, []byte(sent))) == 0 {
			t.Errorf("%s passes unseen", name)
		}
	}
	for name, body := range map[string]string{
		"a request's member too many":        `{"more":1,` + sent[1:],
		"a request's member too few":         `{}`,
		"a request's member of another type": strings.Replace(sent, `"people"`, `5`, 1),
		"a request's null":                   strings.Replace(sent, `"Jane Roe"`, `null`, 1),
	} {
		if len(contract().drift(good, r, []byte(body))) == 0 {
			t.Errorf("%s passes unseen", name)
		}
	}
}

func TestTheDocumentsExamplesWork(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	const records = "/v1/collections/{collection}/records/{record}"
	c.send(t, "PUT", "/v1/collections/customers", example(t, "/v1/collections/{collection}", "put", "application/json")).want(t, 201)
	stored := c.send(t, "POST", "/v1/tokenize", example(t, "/v1/tokenize", "post", "application/json")).want(t, 200).items(t)[0]
	c.send(t, "POST", "/v1/detokenize", example(t, "/v1/detokenize", "post", "application/json")).want(t, 404)
	c.send(t, "PATCH", "/v1/collections/customers/records/"+stored.Record,
		example(t, records, "patch", "application/merge-patch+json"), `If-Match: "1"`).want(t, 200)
	var billing struct{ ID string }
	c.send(t, "POST", "/v1/principals", example(t, "/v1/principals", "post", "application/json")).want(t, 201).read(t, &billing)
	c.send(t, "POST", "/v1/principals/"+billing.ID+"/keys",
		example(t, "/v1/principals/{principal}/keys", "post", "application/json")).want(t, 201)
}

// example is a request's example in the document, as JSON.
func example(t *testing.T, path, method, media string) string {
	t.Helper()
	op := contract().model.Paths.PathItems.GetOrZero(path).GetOperations().GetOrZero(method)
	var value any
	if err := op.RequestBody.Content.GetOrZero(media).Example.Decode(&value); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
