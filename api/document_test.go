package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/content"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/paths"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"

	"github.com/privault/privault/api"
)

// contract is the document, read once.
var contract = sync.OnceValue(func() *document {
	d := &document{}
	source, err := libopenapi.NewDocument(api.Contract)
	if err != nil {
		panic(err)
	}
	model, err := source.BuildV3Model()
	if err != nil {
		panic(err)
	}
	d.model = &model.Model
	var errs []error
	d.validator, errs = validator.NewValidator(source, config.WithFormatAssertions(), config.WithRejectUnsupportedBodyContent(),
		config.WithRejectUndeclaredRequestBody(), config.WithBodyDecoder("application/yaml", content.TextDecoder()),
		config.WithBodyDecoder("application/zip", content.TextDecoder()), config.WithBodyDecoder("text/plain", content.TextDecoder()), config.WithBodyDecoder("application/octet-stream", content.TextDecoder()),
		// An NDJSON body is checked line by line, each against the schema of a line.
		config.WithBodyDecoder("application/x-ndjson", content.JSONDecoder()))
	if len(errs) > 0 {
		panic(errs[0])
	}
	d.problem = d.model.Components.Schemas.GetOrZero("Problem").Schema()
	return d
})

type document struct {
	mu        sync.Mutex // the validator renders schemas as it goes, which is not safe for concurrent use
	model     *v3.Document
	validator validator.Validator
	problem   *base.Schema
}

var requestIDShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// check holds an exchange against the document: the answer always, and the request if it was accepted whole.
func (a answer) check(t *testing.T, r *http.Request, sent []byte) {
	t.Helper()
	if got := a.header.Get("X-Request-Id"); !requestIDShape.MatchString(got) {
		t.Errorf("%s %s: X-Request-Id is %q", r.Method, r.URL.Path, got)
	}
	// The document says which header a tile has.
	tile := a.status == http.StatusOK && strings.HasPrefix(r.URL.Path, "/audit/tile/")
	if got := a.header.Get("Cache-Control"); got != "no-store" && !tile {
		t.Errorf("%s %s: Cache-Control is %q", r.Method, r.URL.Path, got)
	}
	a.checkStatuses(t)
	for _, e := range contract().drift(a, r, sent) {
		t.Errorf("%s %s is not as the document says: %s\nsent: %.300s\ngot: %d %.600s", r.Method, r.URL.Path, e, sent, a.status, a.body)
	}
}

// checkStatuses holds the status of every problem, the answer's own or an item's, against the table of problems.
func (a answer) checkStatuses(t *testing.T) {
	t.Helper()
	var p problem
	var of []problem
	switch a.header.Get("Content-Type") {
	case "application/problem+json":
		a.read(t, &p)
		of = append(of, p, problem{Type: p.Type, Status: a.status})
	case "application/json":
		for _, i := range a.items(t) {
			if i.Error.Type != "" {
				of = append(of, i.Error, problem{Type: i.Error.Type, Status: i.Status})
			}
		}
	}
	for _, p := range of {
		if want := api.Problems()[p.slug()]; p.Status != want {
			t.Errorf("the status of %s is %d, want %d: %s", p.Type, p.Status, want, a.body)
		}
	}
}

// drift says where an exchange departs from the document.
func (d *document) drift(a answer, r *http.Request, sent []byte) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	item, missing, _ := paths.FindPath(r, d.model, config.NewValidationOptions())
	if len(missing) > 0 {
		return d.stray(a)
	}
	found := undeclared(a, item.GetOperations().GetOrZero(strings.ToLower(r.Method)))
	for _, line := range entities(a.header, a.body) {
		res := &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(line)), Request: r}
		_, errs := d.validator.ValidateHttpResponse(r, res)
		found = append(found, sentences(errs)...)
	}
	if a.status >= 300 || a.status == http.StatusMultiStatus {
		return found
	}
	for i, line := range entities(r.Header, sent) {
		if a.header.Get("Content-Type") == lines && !a.stored(i) {
			continue // what a refused line was is not the document's to say
		}
		again := r.Clone(r.Context())
		again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(line)), int64(len(line))
		_, errs := d.validator.ValidateHttpRequest(again)
		found = append(found, sentences(errs)...)
	}
	return found
}

// ordinary headers are HTTP's own business. Every other one of an answer stands in the document.
var ordinary = []string{"Content-Length", "Content-Type", "Date", "X-Content-Type-Options"}

func undeclared(a answer, op *v3.Operation) []string {
	declared := slices.Clone(ordinary)
	if response := op.Responses.Codes.GetOrZero(strconv.Itoa(a.status)); response != nil {
		for name := range response.Headers.KeysFromOldest() {
			declared = append(declared, http.CanonicalHeaderKey(name))
		}
	}
	var found []string
	for name := range a.header {
		if !slices.Contains(declared, name) {
			found = append(found, "a header "+name+" that the document doesn't have")
		}
	}
	return found
}

// stray is what no route takes. It is refused, by a problem like any other.
func (d *document) stray(a answer) []string {
	if a.status < 400 {
		return []string{"an answer of a route that the document doesn't have"}
	}
	_, errs := schema_validation.NewSchemaValidator().ValidateSchemaBytes(d.problem, a.body)
	return sentences(errs)
}

const lines = "application/x-ndjson"

// entities are the lines of an NDJSON body that aren't blank, or the one of any other.
func entities(h http.Header, body []byte) [][]byte {
	if h.Get("Content-Type") != lines {
		return [][]byte{body}
	}
	return slices.DeleteFunc(bytes.Split(body, []byte("\n")), func(line []byte) bool { return len(bytes.TrimSpace(line)) == 0 })
}

// stored says whether the i-th outcome of an import is that of a stored record.
func (a answer) stored(i int) bool {
	outcomes, outcome := entities(a.header, a.body), item{}
	return i < len(outcomes) && json.Unmarshal(outcomes[i], &outcome) == nil && outcome.Status == http.StatusCreated
}

func sentences(errs []*errors.ValidationError) []string {
	var all []string
	for _, e := range errs {
		s := e.Message + ": " + e.Reason
		for _, f := range e.SchemaValidationErrors {
			s += "; " + f.Reason + " at " + f.KeywordLocation
		}
		all = append(all, s)
	}
	return all
}
