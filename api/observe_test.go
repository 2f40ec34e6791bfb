package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/api"
	"github.com/privault/privault/vault/vaulttest"
)

func TestNoRouteWithoutACredential(t *testing.T) {
	t.Parallel()
	s := serve(t)
	key := s.Key()
	parameter := strings.NewReplacer(":collection", "people", ":record", "rec_0000000000000000000000", ":principal", "prn_0000000000000000000000", ":key", "key_0000000000000000000000")
	wrong := []byte(key)
	wrong[10] ^= 1
	credentials := []string{"", "Basic " + key, "Bearer", "Bearer " + key + "0", "Bearer " + strings.ToLower(key), "Bearer  " + key, "Bearer " + string(wrong), key,
		"Bearer pvak_" + strings.Repeat("0", 33), "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "Bearer " + key + ", Bearer " + key, "Token " + key}
	checked := 0
	for _, r := range s.api.Routes() {
		if r.Pattern == "/openapi.yaml" || r.Pattern == "/v1/leaked-keys" || strings.HasPrefix(r.Pattern, "/audit/") { // for everybody
			continue
		}
		checked++
		for _, credential := range credentials {
			a := client{service: s}.send(t, r.Method, parameter.Replace(r.Pattern), "", "Authorization: "+credential)
			a.refused(t, 401, "unauthenticated")
			if got := a.header.Get("WWW-Authenticate"); got != "Bearer" {
				t.Errorf("WWW-Authenticate is %q", got)
			}
			quiet(t, "the answer", string(a.body), key[5:])
		}
	}
	if checked < 13 {
		t.Errorf("%d routes were looked at", checked)
	}
	client{service: s}.send(t, "GET", "/v1/collections", "", "Authorization: bearer "+key).want(t, 200) // RFC 9110 11.1: the scheme in any case
	quiet(t, "the log", s.Log.String(), key[5:])
}

func TestAWellFormedRequestIDComesBack(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for _, id := range []string{"a", "8d2c1f60-checkout", "A.b_c-9", strings.Repeat("x", 64)} {
		a := c.send(t, "GET", "/v1/collections/nobody", "", "X-Request-Id: "+id)
		if p := a.refused(t, 404, "not-found"); p.RequestID != id || a.header.Get("X-Request-Id") != id {
			t.Errorf("%s comes back as %s and %s", id, p.RequestID, a.header.Get("X-Request-Id"))
		}
	}
	for _, id := range []string{"", "two words", "jane@example.com", "4111111111111111", "078-05-1120", strings.Repeat("x", 65), "a/b", "é", "{}"} {
		a := c.send(t, "GET", "/v1/collections/nobody", "", "X-Request-Id: "+id)
		if p := a.refused(t, 404, "not-found"); p.RequestID == id || a.header.Get("X-Request-Id") != p.RequestID {
			t.Errorf("%s comes back as %s and %s", id, p.RequestID, a.header.Get("X-Request-Id"))
		}
	}
	if n := c.Count(`select count(*) from privault.audit_entries where body::json->>'request' = '8d2c1f60-checkout'`); n != 1 {
		t.Errorf("%d audit entries have the request's id, want 1", n)
	}
}

func TestARequestLeavesOneLineWithoutPathQueryValueOrToken(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	secret, name := canary(), "c"+strings.ToLower(canary())
	c.collection(t, name, "name", "name")
	stored := c.tokenize(t, name, `{"name":"`+secret+`"}`)[0]
	c.reveal(t, stored.Tokens["name"])
	c.send(t, "GET", "/v1/collections/"+name+"/records/"+stored.Record+"?view=plain", "", "X-More: "+secret, "User-Agent: "+secret, "Privault-Purpose: billing").want(t, 200)
	c.send(t, "GET", "/v1/"+secret, "").want(t, 404)
	c.send(t, "GET", "/"+secret, "").want(t, 404)
	c.send(t, "GET", "/openapi.yaml/"+secret, "").want(t, 404)
	c.send(t, secret, "/openapi.yaml", "").want(t, 405)
	c.send(t, "POST", "/v1/collections/"+name+"/import", `{"fields":{"name":"`+secret+`"}}`, asLines).want(t, 200)
	c.send(t, "GET", "/v1/collections?cursor="+secret, "").want(t, 400)
	quiet(t, "the log", c.Log.String(), secret, name, stored.Tokens["name"][5:], stored.Record[4:], c.key[5:])

	type line struct{ Method, Route, Problem string }
	var got []line
	for text := range strings.Lines(c.Log.String()) {
		var all map[string]any
		answer{body: []byte(text)}.read(t, &all)
		if all["msg"] != "request" {
			continue
		}
		for name := range all {
			if !slices.Contains([]string{"time", "level", "msg", "request_id", "method", "route", "status", "bytes", "took", "principal", "problem"}, name) {
				t.Errorf("the log has a member %s", name)
			}
		}
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	want := []line{{"PUT", "/v1/collections/:collection", ""}, {"POST", "/v1/tokenize", ""}, {"POST", "/v1/detokenize", ""},
		{"GET", "/v1/collections/:collection/records/:record", ""}, {"GET", "(none)", "not-found"}, {"GET", "(none)", "not-found"}, {"GET", "(none)", "not-found"},
		{"OTHER", "(none)", "method-not-allowed"}, {"POST", "/v1/collections/:collection/import", ""}, {"GET", "/v1/collections", "malformed-request"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAPanicSaysNothing(t *testing.T) {
	t.Parallel()
	s := serve(t)
	secret := canary()
	s.api.PanicAt("/panic", secret)
	a := client{service: s}.send(t, "GET", "/panic", "")
	a.refused(t, 500, "internal")
	quiet(t, "the answer", string(a.body), secret)
	quiet(t, "the log", s.Log.String(), secret)
	if !strings.Contains(s.Log.String(), `"msg":"panic"`) {
		t.Error("the log doesn't say that there was a panic")
	}
	s.tenant().send(t, "GET", "/v1/collections", "").want(t, 200)
}

func TestAnOutageIsRetriable(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	token := c.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Tokens["name"]
	body := `{"items":[{"token":"` + token + `","view":"plain"}]}`
	c.Exec(`alter table privault.audit_entries rename to elsewhere`)
	a := c.send(t, "POST", "/v1/detokenize", body)
	a.refused(t, 503, "audit-unavailable")
	quiet(t, "the answer", string(a.body), "Jane Roe", "elsewhere", "audit_entries", "SQLSTATE")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
	}
	c.Exec(`alter table privault.elsewhere rename to audit_entries`)
	c.send(t, "POST", "/v1/detokenize", body).want(t, 200)
}

func TestHSTSComesWithTLSOnly(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	for hsts, want := range map[bool]string{true: "max-age=63072000; includeSubDomains", false: ""} {
		s, err := api.New(api.Config{Vault: b.Vault, Log: b.Log.Logger(), Metrics: prometheus.NewRegistry(), HSTS: hsts})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.Public().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/collections", nil))
		if got := w.Header().Get("Strict-Transport-Security"); got != want {
			t.Errorf("HSTS %t: %q", hsts, got)
		}
		if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("X-Content-Type-Options is %q", got)
		}
	}
}

func TestOperatorsHaveAListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "GET", "/v1/collections/"+strings.ToLower(canary()), "").want(t, 404)
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		c.api.Operations().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if w := get(path); w.Code != 200 || w.Body.String() != "ok\n" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := get("/metrics"); !strings.Contains(w.Body.String(), `privault_http_requests_total{method="GET",route="/v1/collections/:collection",status="404"} 1`) {
		t.Errorf("the metrics are %s", w.Body)
	}
	for _, path := range []string{"/", "/v1/collections", "/openapi.yaml"} {
		if w := get(path); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
