package api_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/policy"
)

// everyRoute is each route that takes a credential, with what it is decided on and a call of it that changes nothing, or
// nothing that matters. A route that is added without a line fails TestEveryRouteHasALine.
//
// In bodies and queries, {name} is an id of a world. {field} and {view} make a line one for each field and view.
var everyRoute = []routeLine{
	{route: "GET /v1/types", action: policy.ReadCollection},
	{route: "GET /v1/collections", action: policy.ReadCollection},
	{route: "PUT /v1/collections/:collection", action: policy.DefineCollection, body: `{}`},
	{route: "GET /v1/collections/:collection", action: policy.ReadCollection},
	{route: "DELETE /v1/collections/:collection", action: policy.DropCollection},
	{route: "POST /v1/collections/:collection/import", action: policy.Tokenize, body: `{"fields":{"{field}":"{value}"}}`, header: asLines},
	{route: "POST /v1/collections/:collection/export", action: policy.Export, body: `{"fields":["{field}"],"view":"{view}"}`},
	{route: "POST /v1/collections/:collection/search", action: policy.Search, body: `{"field":"{field}","equals":"{value}"}`},
	{route: "GET /v1/collections/:collection/records/:record", action: policy.ReadRecord, query: "?fields={field}&view={view}"},
	{route: "PATCH /v1/collections/:collection/records/:record", action: policy.UpdateRecord, body: `{"fields":{"{field}":"{value}"}}`, header: `If-Match: "9"`},
	{route: "DELETE /v1/collections/:collection/records/:record", action: policy.DeleteRecord, header: `If-Match: "9"`},
	{route: "POST /v1/tokenize", action: policy.Tokenize, body: `{"collection":"{collection}","items":[{"fields":{"{field}":"{value}"}}]}`},
	{route: "POST /v1/detokenize", action: policy.Detokenize, body: `{"items":[{"token":"{token}","view":"{view}"}]}`},
	{route: "POST /v1/tokens/validate", action: policy.ValidateToken, body: `{"items":[{"token":"{token}","field":"{field}"}]}`},
	{route: "POST /v1/tokens/rotate", action: policy.RotateToken, body: `{"items":[{"token":"{spare}","field":"{field}"}]}`, renew: (*world).spare},
	{route: "GET /v1/transforms", action: policy.ReadTransform},
	{route: "PUT /v1/transforms/:transform", action: policy.DefineTransform, body: `{"alphabet":"nothing"}`},
	{route: "GET /v1/transforms/:transform", action: policy.ReadTransform},
	{route: "DELETE /v1/transforms/:transform", action: policy.DefineTransform, renew: (*world).transform},
	{route: "POST /v1/transforms/:transform/encode", action: policy.Encode, body: `{"items":[{"value":"4111111111111111"}]}`, renew: (*world).transform},
	{route: "POST /v1/transforms/:transform/decode", action: policy.Decode, body: `{"items":[{"value":"4111111111111111"}]}`, renew: (*world).transform},
	{route: "GET /v1/subjects/:subject", action: policy.ReadSubject},
	{route: "POST /v1/subjects/:subject/erasure", action: policy.Erase, body: `{"reason":"gdpr-17"}`, query: "?dry_run=true"},
	{route: "GET /v1/certificates/:certificate", action: policy.ReadCertificate},
	{route: "POST /v1/retention/simulations", action: policy.ReadRetention, body: `{"collection":"nothing","definition":{}}`},
	{route: "GET /v1/retention/summary", action: policy.ReadRetention, query: "?quarter=2026-Q4"},
	{route: "POST /v1/retention/plans", action: policy.PlanRetention, body: `{"collection":"nothing"}`},
	{route: "GET /v1/retention/plans/:plan", action: policy.ReadRetention},
	{route: "GET /v1/retention/plans/:plan/items", action: policy.ReadRetention},
	{route: "POST /v1/retention/plans/:plan/execute", action: policy.PlanRetention, body: `{"hash":"nothing"}`},
	{route: "GET /v1/retention/sweeps", action: policy.ReadRetention},
	{route: "POST /v1/retention/sweeps", action: policy.SweepRetention, body: `{"collection":"nothing"}`},
	{route: "GET /v1/retention/sweeps/:sweep", action: policy.ReadRetention},
	{route: "POST /v1/retention/sweeps/:sweep/confirm", action: policy.ConfirmRetention, body: `{}`},
	{route: "POST /v1/retention/sweeps/:sweep/stop", action: policy.SweepRetention, body: `{}`, renew: (*world).sweep},
	{route: "GET /v1/holds", action: policy.ReadHold},
	{route: "POST /v1/holds", action: policy.PlaceHold, body: `{"matter":"case-1","reason":"litigation"}`},
	{route: "DELETE /v1/holds/:hold", action: policy.ReleaseHold, renew: (*world).hold},
	{route: "GET /v1/requests", action: policy.ReadRequests},
	{route: "POST /v1/requests", action: policy.RunRequests, body: `{"type":"access","regime":"nothing","subject":"cust-3"}`},
	{route: "GET /v1/requests/metrics", action: policy.ReadRequests, query: "?regime=ccpa&year=2026"},
	{route: "GET /v1/requests/:request", action: policy.ReadRequests},
	{route: "GET /v1/requests/:request/package", action: policy.ReadPackage},
	{route: "POST /v1/requests/:request/acknowledge", action: policy.RunRequests, body: `{}`},
	{route: "POST /v1/requests/:request/verify", action: policy.RunRequests, body: `{"outcome":"asked"}`},
	{route: "POST /v1/requests/:request/approve", action: policy.RunRequests, body: `{}`},
	{route: "POST /v1/requests/:request/deny", action: policy.RunRequests, body: `{"reason":"nothing"}`},
	{route: "POST /v1/requests/:request/extend", action: policy.RunRequests, body: `{"reason":"nothing"}`},
	{route: "POST /v1/requests/:request/pause", action: policy.RunRequests, body: `{"reason":"nothing"}`},
	{route: "POST /v1/requests/:request/resume", action: policy.RunRequests, body: `{}`},
	{route: "POST /v1/requests/:request/cancel", action: policy.RunRequests, body: `{}`, header: `If-Match: "99"`},
	{route: "POST /v1/requests/:request/complete", action: policy.RunRequests, body: `{}`},
	{route: "POST /v1/requests/:request/contest", action: policy.RunRequests, body: `{"reference":""}`},
	{route: "GET /v1/policies", action: policy.ReadPolicies},
	{route: "POST /v1/policies/explain", action: policy.ReadPolicies, body: `{"action":"policy.read"}`},
	{route: "PUT /v1/policies/:policy", action: policy.WritePolicies, body: `{"text":""}`},
	{route: "GET /v1/policies/:policy", action: policy.ReadPolicies},
	{route: "DELETE /v1/policies/:policy", action: policy.WritePolicies, header: `If-Match: "9"`},
	{route: "GET /v1/policies/:policy/history", action: policy.ReadPolicies},
	{route: "GET /v1/purposes", action: policy.ReadPurposes},
	{route: "PUT /v1/purposes/:purpose", action: policy.WritePurposes, body: `{}`},
	{route: "GET /v1/purposes/:purpose", action: policy.ReadPurposes},
	{route: "DELETE /v1/purposes/:purpose", action: policy.WritePurposes, header: `If-Match: "9"`},
	{route: "GET /v1/subjects/:subject/consents", action: policy.ReadConsents},
	{route: "PUT /v1/subjects/:subject/consents/:purpose", action: policy.WriteConsents, body: `{"text_version":"v1"}`},
	{route: "DELETE /v1/subjects/:subject/consents/:purpose", action: policy.WriteConsents, renew: (*world).consent},
	{route: "PUT /v1/subjects/:subject/objections/:purpose", action: policy.WriteConsents, body: `{}`},
	{route: "DELETE /v1/subjects/:subject/objections/:purpose", action: policy.WriteConsents, renew: (*world).objection},
	{route: "GET /v1/subjects/:subject/restriction", action: policy.ReadConsents, renew: (*world).restriction},
	{route: "PUT /v1/subjects/:subject/restriction", action: policy.Restrict, body: `{"reason":"gdpr-18-1-a"}`},
	{route: "DELETE /v1/subjects/:subject/restriction", action: policy.Restrict, body: `{"informed_at":"{now}"}`, header: "Content-Type: application/json", renew: (*world).restriction},
	{route: "PUT /v1/subjects/:subject/jurisdiction", action: policy.WriteSubject, body: `{"jurisdiction":"DE"}`},
	{route: "DELETE /v1/subjects/:subject/jurisdiction", action: policy.WriteSubject, renew: (*world).jurisdiction},
	{route: "GET /v1/subjects/:subject/links", action: policy.ReadSubject},
	{route: "POST /v1/subjects/:subject/links", action: policy.LinkSubjects, body: `{"subject":"cust-4","reason":"nothing"}`},
	{route: "GET /v1/audit/entries", action: policy.ReadAudit},
	{route: "GET /v1/audit/entries/:entry", action: policy.ReadAudit},
	{route: "GET /v1/audit/entries/:entry/proof", action: policy.ReadAudit},
	{route: "GET /v1/audit/consistency", action: policy.ReadAudit, query: "?from=1&to=2"},
	{route: "GET /v1/subjects/:subject/disclosures", action: policy.ReadAudit},
	{route: "POST /v1/principals", action: policy.ManagePrincipals, body: `{}`},
	{route: "GET /v1/principals", action: policy.ManagePrincipals},
	{route: "PATCH /v1/principals/:principal", action: policy.ManagePrincipals, body: `{"disabled":false}`},
	{route: "POST /v1/principals/:principal/keys", action: policy.ManagePrincipals, body: `{"expires_at":"2020-01-01T00:00:00Z"}`},
	{route: "GET /v1/principals/:principal/keys", action: policy.ManagePrincipals},
	{route: "DELETE /v1/principals/:principal/keys/:key", action: policy.ManagePrincipals, renew: (*world).key},
	{route: "GET /v1/certificates/:certificate/completion", action: policy.ReadCertificate, renew: (*world).complete},
	{route: "GET /v1/suppressions", action: policy.ReadSuppressions},
	{route: "POST /v1/suppressions", action: policy.WriteSuppressions, body: `{"subject":""}`},
	{route: "DELETE /v1/suppressions/:suppression", action: policy.WriteSuppressions, renew: (*world).suppression},
	{route: "GET /v1/webhooks", action: policy.ReadWebhooks},
	{route: "PUT /v1/webhooks/:webhook", action: policy.WriteWebhooks, body: `{}`},
	{route: "GET /v1/webhooks/:webhook", action: policy.ReadWebhooks},
	{route: "DELETE /v1/webhooks/:webhook", action: policy.WriteWebhooks, header: `If-Match: "99"`},
	{route: "POST /v1/webhooks/:webhook/rotate-secret", action: policy.WriteWebhooks, body: `{}`},
	{route: "GET /v1/webhooks/:webhook/deliveries", action: policy.ReadWebhooks},
	{route: "POST /v1/webhooks/:webhook/deliveries/:delivery/redeliver", action: policy.Redeliver, body: `{}`},
	{route: "POST /v1/webhooks/:webhook/deliveries/:delivery/acknowledge", action: policy.Acknowledge, body: `{}`},
	{route: "GET /v1/alarms", action: policy.ReadAlarms},
	{route: "DELETE /v1/alarms/:alarm", action: policy.LiftAlarm},
	{route: "GET /v1/jobs/:job", action: policy.ReadJobs},
	{route: "GET /v1/keys", action: policy.ReadKeys},
	{route: "POST /v1/keys/:key/rotate", action: policy.ManageKeys, path: "/v1/keys/wrap/rotate", body: `{}`},
	{route: "POST /v1/keys/:key/versions/:version/retire", action: policy.ManageKeys, path: "/v1/keys/wrap/versions/1/retire", body: `{}`},
	{route: "POST /v1/keys/:key/versions/:version/destroy", action: policy.ManageKeys, path: "/v1/keys/wrap/versions/1/destroy", body: `{}`},
	{route: "POST /v1/revoked-tokens", action: policy.ManagePrincipals, body: `{"issuer":"https://login.example.com","token":"{record}"}`},
}

func TestEveryRouteHasALine(t *testing.T) {
	t.Parallel()
	var routes, lines []string
	for _, r := range serve(t).api.Routes() {
		if strings.HasPrefix(r.Pattern, "/v1/") && r.Pattern != "/v1/leaked-keys" { // which takes no credential
			routes = append(routes, r.Method+" "+r.Pattern)
		}
	}
	for _, row := range everyRoute {
		lines = append(lines, row.route)
	}
	slices.Sort(routes)
	slices.Sort(lines)
	if diff := cmp.Diff(routes, lines); diff != "" {
		t.Errorf("routes (-) and lines (+) differ:\n%s", diff)
	}
}

// routeLine is what these tests know of a route.
type routeLine struct {
	route  string
	action policy.Action
	body   string
	query  string
	header string
	path   string       // in place of the route's pattern
	renew  func(*world) // before each call, which uses something up
}

// matrixPolicies are a tenant's own policies, which tell roles, fields, classifications and views apart.
var matrixPolicies = []policy.Document{{Name: "desk", Version: 1, Text: `
	@id("masked") permit (principal in Role::"desk", action in Action::"reveal", resource) when { context.view != "plain" || resource.name == "name" };
	@id("mail") permit (principal in Role::"clerk", action in [Action::"tokenize", Action::"record.update", Action::"search"], resource == Field::"people/email");
	@id("look") permit (principal in Role::"clerk", action == Action::"collection.read", resource in Collection::"people");
	@id("idle") forbid (principal in Role::"idle", action, resource);`},
	{Name: "cards", Version: 1, Text: `
	@id("cards") forbid (principal, action in Action::"reveal", resource) when { resource.classification == "restricted" && context.view == "plain" }
		unless { principal in Role::"developer" };`},
}

var matrixFields = []struct{ name, typ, classification, value string }{
	{"email", "email", "confidential", "jane@example.com"},
	{"pan", "pan", "restricted", "4111111111111111"},
	{"name", "name", "internal", "Jane Roe"},
	{"code", "string", "public", "code-7391"},
}

// world is a tenant with one of everything. ids are by the names of the routes' parameters.
type world struct {
	client
	t   *testing.T
	ids map[string]string
}

func newWorld(t *testing.T, s *service) *world {
	t.Helper()
	w := &world{s.tenant(), t, map[string]string{"collection": "people", "subject": "cust-3", "webhook": "crm", "policy": "desk", "purpose": "letters", "transform": "cards"}}
	fields := map[string]any{}
	values := map[string]string{}
	for _, f := range matrixFields {
		fields[f.name] = map[string]any{"type": f.typ, "classification": f.classification, "index": []string{"exact"}}
		values[f.name] = f.value
	}
	w.send(t, "PUT", "/v1/collections/people", text(t, map[string]any{"fields": fields})).want(t, 201)
	stored := w.send(t, "POST", "/v1/tokenize", text(t, map[string]any{"collection": "people", "items": []any{
		map[string]any{"subject": "cust-1", "fields": values}, map[string]any{"subject": "cust-2", "fields": values}, map[string]any{"subject": "cust-3", "fields": values}}})).want(t, 200).items(t)
	w.ids["record"] = stored[0].Record
	for field, token := range stored[0].Tokens {
		w.ids["token "+field] = token
	}
	for _, d := range matrixPolicies {
		w.send(t, "PUT", "/v1/policies/"+d.Name, policyText(t, d.Text)).want(t, 201)
	}
	w.send(t, "PUT", "/v1/purposes/letters", `{"legal_basis":"consent"}`).want(t, 201)
	w.webhook("crm", "subject.erased")
	w.suppression()
	var made struct{ ID, Certificate, Job string }
	w.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["auditor"]}`).want(t, 201).read(t, &made)
	w.ids["principal"] = made.ID
	w.send(t, "POST", "/v1/subjects/cust-2/erasure", `{"reason":"gdpr-17"}`).want(t, 200).read(t, &made)
	w.ids["certificate"] = made.Certificate
	w.delivered("crm")
	w.complete()
	w.send(t, "POST", "/v1/keys/wrap/rotate", `{}`).want(t, 202).read(t, &made)
	w.ids["job"] = made.Job
	var leaked struct{ Key string }
	w.send(t, "POST", "/v1/principals/"+w.ids["principal"]+"/keys", `{}`).want(t, 201).read(t, &leaked)
	w.send(t, "POST", "/v1/leaked-keys", `{"key":"`+leaked.Key+`"}`).want(t, 204)
	var alarms struct{ Items []struct{ ID string } }
	w.send(t, "GET", "/v1/alarms", "").want(t, 200).read(t, &alarms)
	w.ids["alarm"] = alarms.Items[0].ID
	w.ids["request"] = w.made("POST", "/v1/requests", `{"type":"access","regime":"gdpr","subject":"cust-3"}`)
	w.key()
	w.hold()
	w.sweep()
	w.transform()
	w.consent()
	w.objection()
	w.restriction()
	s.Sequence()
	var page struct{ Items []struct{ ID string } }
	w.send(t, "GET", "/v1/audit/entries?limit=1", "").want(t, 200).read(t, &page)
	w.ids["entry"] = page.Items[0].ID
	return w
}

func (w *world) made(method, path, body string) (id string) {
	w.t.Helper()
	a := w.send(w.t, method, path, body)
	if a.status >= 300 {
		w.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	var made struct{ ID string }
	a.read(w.t, &made)
	return made.ID
}

func (w *world) key() {
	w.ids["key"] = w.made("POST", "/v1/principals/"+w.ids["principal"]+"/keys", `{}`)
}
func (w *world) sweep() {
	w.ids["sweep"] = w.made("POST", "/v1/retention/sweeps", `{"dry_run":true}`)
	w.ids["plan"] = w.made("POST", "/v1/retention/plans", `{"collection":"people"}`)
}

func (w *world) hold() {
	w.ids["hold"] = w.made("POST", "/v1/holds", `{"matter":"case-7","reason":"litigation","subject":"cust-1"}`)
}

// spare makes tokens that may be used up.
func (w *world) spare() {
	values := map[string]string{}
	for _, f := range matrixFields {
		values[f.name] = f.value
	}
	for field, token := range w.tokenize(w.t, "people", text(w.t, values))[0].Tokens {
		w.ids["spare "+field] = token
	}
}
func (w *world) transform() {
	w.made("PUT", "/v1/transforms/cards", `{"alphabet":"digits","min_length":12,"max_length":19,"luhn":"invalid"}`)
}
func (w *world) suppression() {
	w.ids["suppression"] = w.made("POST", "/v1/suppressions", `{"subject":"cust-99"}`)
}
func (w *world) webhook(name, event string) {
	w.send(w.t, "PUT", "/v1/webhooks/"+name, `{"url":"https://127.0.0.1:9/hook","events":["`+event+`"],"recipient":true}`).want(w.t, 201)
}

// delivered finds the newest delivery of a webhook.
func (w *world) delivered(webhook string) {
	var page struct{ Items []struct{ ID string } }
	w.send(w.t, "GET", "/v1/webhooks/"+webhook+"/deliveries?limit=1", "").want(w.t, 200).read(w.t, &page)
	w.ids["delivery"] = page.Items[0].ID
}

// complete has the recipient acknowledge the erasure.
func (w *world) complete() {
	w.send(w.t, "POST", "/v1/webhooks/crm/deliveries/"+w.ids["delivery"]+"/acknowledge", `{}`).want(w.t, 200)
}
func (w *world) consent() {
	w.made("PUT", "/v1/subjects/cust-3/consents/letters", `{"text_version":"v1"}`)
}
func (w *world) objection() { w.made("PUT", "/v1/subjects/cust-3/objections/letters", `{}`) }
func (w *world) jurisdiction() {
	w.made("PUT", "/v1/subjects/cust-3/jurisdiction", `{"jurisdiction":"GB"}`)
}
func (w *world) restriction() {
	w.made("PUT", "/v1/subjects/cust-3/restriction", `{"reason":"gdpr-18-1-a"}`)
	w.ids["now"] = time.Now().UTC().Format(time.RFC3339Nano)
}

var placeholder = regexp.MustCompile(`[{:]([a-z]+)\}?`)

// fill puts ids in the place of their names.
func (w *world) fill(pattern string) string {
	return placeholder.ReplaceAllStringFunc(pattern, func(name string) string {
		id, known := w.ids[strings.Trim(name, "{:}")]
		if !known {
			return name
		}
		return id
	})
}

// Threat I-2: every role on every route, and on every field in every view, does what the policy says and nothing else.
func TestEveryRoleOnEveryRouteFieldAndView(t *testing.T) {
	t.Parallel()
	set, err := policy.Compile(matrixPolicies)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, serve(t))
	cells, allowed := 0, 0
	for _, role := range append(policy.Roles(), "desk", "clerk", "idle", policy.Developer) {
		c := w.client
		if role != policy.Developer {
			var key struct{ Key string }
			id := w.made("POST", "/v1/principals", `{"name":"a-`+role+`","roles":["`+role+`"]}`)
			w.send(t, "POST", "/v1/principals/"+id+"/keys", `{}`).want(t, 201).read(t, &key)
			c.key = key.Key
		}
		for _, row := range everyRoute {
			for _, cell := range cellsOf(row) {
				q := policy.Question{Principal: policy.Principal{Roles: []string{role}}, Action: row.action, View: cell.view,
					Facts: policy.Facts{Network: netip.MustParseAddr("127.0.0.1"), Method: "api-key", Now: time.Now()}}
				want := w.expected(set, q, row, cell)
				cells++
				if want {
					allowed++
				}
				w.try(c, row, cell, role, want)
			}
		}
	}
	t.Logf("%d cells, %d of them allowed", cells, allowed)
	if allowed < cells/10 || allowed > cells/2 {
		t.Errorf("%d of %d cells are allowed: this can't be meant", allowed, cells)
	}
}

// cell is one field in one view; the zero cell is a route's that has neither.
type cell struct {
	field int // of matrixFields
	view  policy.View
}

func cellsOf(row routeLine) (all []cell) {
	fields, views := 1, []policy.View{policy.NoView}
	if strings.Contains(row.body+row.query, "{field}") || strings.Contains(row.body, "{token}") {
		fields = len(matrixFields)
	}
	if strings.Contains(row.body+row.query, "{view}") {
		views = []policy.View{policy.Redacted, policy.Masked, policy.Plain}
	}
	for field := range fields {
		for _, view := range views {
			all = append(all, cell{field, view})
		}
	}
	return all
}

// expected is what the policy says of a cell.
func (w *world) expected(set *policy.Set, q policy.Question, row routeLine, c cell) bool {
	f := matrixFields[c.field]
	switch {
	case row.action == policy.Encode, row.action == policy.Decode:
		q.Resource = policy.Resource{Field: w.ids["transform"], Classification: "restricted"}
		if row.action == policy.Decode {
			q.View = policy.Plain
		}
	case row.action == policy.DeleteRecord, row.action == policy.ReadPackage: // a record is deleted whole, a person gets all of it
		if row.action == policy.ReadPackage {
			q.View = policy.Plain
		}
		for _, f := range matrixFields {
			q.Resource = policy.Resource{Collection: "people", Field: f.name, Classification: f.classification}
			if !set.Decide(q).Allowed {
				return false
			}
		}
		return true
	case policy.OnField(row.action):
		q.Resource = policy.Resource{Collection: "people", Field: f.name, Classification: f.classification}
	case policy.OnCollection(row.action):
		q.Resource.Collection = "*"
		if strings.Contains(row.route, ":collection") {
			q.Resource.Collection = "people"
		}
	}
	return set.Decide(q).Allowed
}

// try makes a cell's call and looks whether it is refused, and what it shows.
func (w *world) try(c client, row routeLine, at cell, role string, want bool) {
	w.t.Helper()
	if row.renew != nil {
		row.renew(w)
	}
	f := matrixFields[at.field]
	w.ids["field"], w.ids["value"], w.ids["view"], w.ids["token"] = f.name, f.value, at.view.String(), w.ids["token "+f.name]
	w.ids["spare"] = w.ids["spare "+f.name]
	a := w.call(c, row)
	status := a.status
	if row.header == asLines && status == 200 {
		status = a.lines(w.t)[0].Status
	}
	what := role + " " + row.route + " " + f.name + " " + at.view.String()
	switch {
	case !want && status != 403:
		w.t.Errorf("%s: the policy denies it, and the answer is %d %s", what, a.status, a.body)
	case want && (status == 403 || status == 401 || status == 404 || status >= 500):
		w.t.Errorf("%s: the policy allows it, and the answer is %d %s", what, a.status, a.body)
	case at.view == policy.NoView:
	case !want && strings.Contains(string(a.body), f.value), want && strings.Contains(string(a.body), f.value) != (at.view == policy.Plain):
		w.t.Errorf("%s shows %s", what, a.body)
	}
}

// call fills a row in and sends it.
func (w *world) call(c client, row routeLine) answer {
	w.t.Helper()
	method, path, _ := strings.Cut(row.route, " ")
	if row.path != "" {
		path = row.path
	}
	var headers []string
	if row.header != "" {
		headers = append(headers, row.header)
	}
	return c.send(w.t, method, w.fill(path)+w.fill(row.query), w.fill(row.body), headers...)
}
