package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// answer writes JSON whose values must come back byte for byte. encoding/json would compact and escape raw values, and
// this is the hot path; everything else is encoded by it.
type answer struct {
	b     []byte
	fresh bool // nothing stands before the next member or element
}

func (a *answer) comma() {
	if !a.fresh {
		a.b = append(a.b, ',')
	}
	a.fresh = false
}

func (a *answer) open(c byte) {
	a.b = append(a.b, c)
	a.fresh = true
}

func (a *answer) close(c byte) {
	a.b = append(a.b, c)
	a.fresh = false
}

// element opens an object in an array.
func (a *answer) element() {
	a.comma()
	a.open('{')
}

func (a *answer) name(name string) {
	a.comma()
	a.quote(name)
	a.b = append(a.b, ':')
}

func (a *answer) quote(s string) {
	// The error says that s is not UTF-8, which nothing that is quoted here can be; it is quoted with U+FFFD then.
	a.b, _ = jsontext.AppendQuote(a.b, s)
}

func (a *answer) text(name, s string) {
	a.name(name)
	a.quote(s)
}

func (a *answer) number(name string, n int) {
	a.name(name)
	a.b = strconv.AppendInt(a.b, int64(n), 10)
}

func (a *answer) raw(name string, value []byte) {
	a.name(name)
	a.b = append(a.b, value...)
}

func (a *answer) time(name string, t time.Time) {
	a.name(name)
	a.b = append(t.UTC().AppendFormat(append(a.b, '"'), time.RFC3339Nano), '"')
}

// tokens writes tokens by field, in order.
func (a *answer) tokens(values map[string]string) {
	a.name("tokens")
	a.open('{')
	for _, key := range sorted(values) {
		a.text(key, values[key])
	}
	a.close('}')
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (a *answer) problem(e *vault.Error, requestID string) int {
	p := problemOf(e, requestID)
	a.number("status", p.Status)
	body, err := json.Marshal(p)
	if err != nil {
		body = []byte("null")
	}
	a.raw("error", body)
	return p.Status
}

func (a *answer) send(c echo.Context, status int) error {
	return c.Blob(status, echo.MIMEApplicationJSON, a.b)
}

// statusOf is a batch's: 200 when every item succeeded, 207 when some did, and when none did the status that all
// share, or else 422.
func statusOf(statuses []int) int {
	succeeded := 0
	for _, s := range statuses {
		if s < 300 {
			succeeded++
		}
	}
	switch {
	case succeeded == len(statuses):
		return http.StatusOK
	case succeeded > 0:
		return http.StatusMultiStatus
	}
	for _, s := range statuses {
		if s != statuses[0] {
			return http.StatusUnprocessableEntity
		}
	}
	return statuses[0]
}

// sendBatch answers a batch of n items. item writes the members of one behind its index, and gives its status.
func sendBatch(c echo.Context, n, size int, item func(a *answer, i int) int) error {
	a := answer{b: make([]byte, 0, 64+size*n), fresh: true}
	statuses := make([]int, n)
	a.open('{')
	a.name("items")
	a.open('[')
	for i := range statuses {
		a.element()
		a.number("index", i)
		statuses[i] = item(&a, i)
		a.close('}')
	}
	a.close(']')
	a.close('}')
	return a.send(c, statusOf(statuses))
}

// sendPage answers with one page of a list.
func sendPage[T, W any](c echo.Context, page []T, next string, wire func(T) W) error {
	out := struct {
		Items []W     `json:"items"`
		Next  *string `json:"next_cursor"`
	}{make([]W, 0, len(page)), optional(next)}
	for _, item := range page {
		out.Items = append(out.Items, wire(item))
	}
	return sendJSON(c, http.StatusOK, out)
}

func sendJSON(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Blob(status, echo.MIMEApplicationJSON, body)
}

// sendVersion answers with what has versions, made just now or not.
func sendVersion(c echo.Context, created bool, version int32, out any) error {
	c.Response().Header().Set("ETag", etag(version))
	return sendPut(c, created, out)
}

// sendPut answers with what was put: 201 if it was made just now.
func sendPut(c echo.Context, created bool, out any) error {
	if created {
		return sendJSON(c, http.StatusCreated, out)
	}
	return sendJSON(c, http.StatusOK, out)
}
