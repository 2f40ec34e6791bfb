package api_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/api"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// service is the API on a real vault, behind a real listener.
type service struct {
	*vaulttest.Bench
	api *api.Server
	url string
}

func serve(t *testing.T, options ...vaulttest.Option) *service {
	t.Helper()
	return serveWith(t, func(*api.Config) {}, options...)
}

// serveWith serves with a changed configuration.
func serveWith(t *testing.T, change func(*api.Config), options ...vaulttest.Option) *service {
	t.Helper()
	s := &service{Bench: vaulttest.New(t, options...)}
	s.listen(t, s.Vault, nil, change)
	return s
}

// listen starts a listener on a vault, with TLS if it is given.
func (s *service) listen(t *testing.T, v *vault.Vault, over *tls.Config, change func(*api.Config)) {
	t.Helper()
	config := api.Config{Vault: v, Log: s.Log.Logger(), Metrics: prometheus.NewRegistry(), Now: s.Now}
	change(&config)
	var err error
	if s.api, err = api.New(config); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s.api.Public())
	api.Harden(server.Config)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if server.TLS = over; over != nil {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	s.url = server.URL
}

// client calls a service with one credential. Whatever it exchanges must be as the document says.
type client struct {
	*service
	key string
	via *http.Client // nil: http.DefaultClient
}

// tenant is a client of a new tenant, with the developer's role unless others are named.
func (s *service) tenant(roles ...string) client { return client{service: s, key: s.Key(roles...)} }

// colleague is a client of the same tenant with one role, made through the API.
func (c client) colleague(t *testing.T, role string) client {
	t.Helper()
	var principal, key struct{ ID, Key string }
	c.send(t, "POST", "/v1/principals", `{"name":"`+role+`","roles":["`+role+`"]}`).want(t, 201).read(t, &principal)
	c.send(t, "POST", "/v1/principals/"+principal.ID+"/keys", `{}`).want(t, 201).read(t, &key)
	return client{service: c.service, key: key.Key}
}

// collection defines a collection of optional fields, each name followed by its type.
func (c client) collection(t *testing.T, name string, fields ...string) {
	t.Helper()
	definition := map[string]map[string]string{}
	for i := 0; i < len(fields); i += 2 {
		definition[fields[i]] = map[string]string{"type": fields[i+1]}
	}
	c.send(t, "PUT", "/v1/collections/"+name, text(t, map[string]any{"fields": definition})).want(t, 201)
}

// tokenize stores records, each the JSON of its fields, and gives the outcomes.
func (c client) tokenize(t *testing.T, collection string, fields ...string) []item {
	t.Helper()
	return c.send(t, "POST", "/v1/tokenize", batch(collection, fields...)).want(t, 200).items(t)
}

func batch(collection string, fields ...string) string {
	items := make([]string, len(fields))
	for i, f := range fields {
		items[i] = `{"fields":` + f + `}`
	}
	return `{"collection":"` + collection + `","items":[` + strings.Join(items, ",") + `]}`
}

// reveal gives the JSON value behind a token in view plain.
func (c client) reveal(t *testing.T, token string) string {
	t.Helper()
	return string(c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`","view":"plain"}]}`).want(t, 200).items(t)[0].Value)
}

// send makes one call. Headers are "Name: value"; one without a value is not sent.
func (c client) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	r := c.request(t, method, path, strings.NewReader(body), headers...)
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	return c.do(t, r, []byte(body))
}

func (c client) request(t *testing.T, method, path string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	if method == "POST" || method == "PUT" || method == "PATCH" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if value == "" {
			r.Header.Del(strings.TrimSuffix(name, ":"))
			continue
		}
		r.Header.Set(name, value)
	}
	return r
}

// do sends a request whose body is sent and checks the exchange against the document.
func (c client) do(t *testing.T, r *http.Request, sent []byte) answer {
	t.Helper()
	via := c.via
	if via == nil {
		via = http.DefaultClient
	}
	res, err := via.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	a := receive(t, res)
	a.check(t, r, sent)
	return a
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	closed bool // the server ends the connection
}

func receive(t *testing.T, res *http.Response) answer {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal("read the answer: ", err)
	}
	return answer{res.StatusCode, res.Header, body, res.Close}
}

func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %d %s, want %d", a.status, a.body, status)
	}
	return a
}

// refused asserts that the answer is a problem, and gives it.
func (a answer) refused(t *testing.T, status int, slug string) problem {
	t.Helper()
	a.want(t, status)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("the content type is %q: %s", got, a.body)
	}
	var p problem
	a.read(t, &p)
	if p.slug() != slug {
		t.Fatalf("the problem is %s, want %s", a.body, slug)
	}
	return p
}

func (a answer) read(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

func (a answer) items(t *testing.T) []item {
	t.Helper()
	var list struct{ Items []item }
	a.read(t, &list)
	return list.Items
}

// lines reads an NDJSON answer.
func (a answer) lines(t *testing.T) []item {
	t.Helper()
	var all []item
	for line := range bytes.Lines(a.body) {
		var i item
		answer{body: line}.read(t, &i)
		all = append(all, i)
	}
	return all
}

// item is one outcome of a batch, of any kind.
type item struct {
	Index, Status                   int
	Record, Collection, Field, View string
	Tokens                          map[string]string
	Value                           json.RawMessage
	Error                           problem
}

// problem is a problem document.
type problem struct {
	Type, Title, Detail string
	Status              int
	RequestID           string `json:"request_id"`
	Errors              []fault
}

type fault struct{ Pointer, Rule string }

func (p problem) slug() string { return strings.TrimPrefix(p.Type, "urn:privault:problem:") }

// text is v as JSON.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// quiet looks for six bytes in a row of any of these values.
func quiet(t *testing.T, where, said string, values ...string) {
	t.Helper()
	for _, v := range values {
		for i := 0; i+6 <= len(v); i++ {
			if strings.Contains(said, v[i:i+6]) {
				t.Errorf("%s holds a part of what was submitted, %q: %s", where, v[i:i+6], said)
				return
			}
		}
	}
}

// canary is text that occurs nowhere by chance.
func canary() string { return strings.TrimPrefix(vaulttest.Canaries(1)[0], "canary-") }
