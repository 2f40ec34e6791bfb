package api_test

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/policy"
)

// nobodys are ids of no tenant, by the names of the routes' parameters and of the placeholders.
var nobodys = map[string]string{
	"collection": "nothing", "record": "rec_0352aQCR9XSdpbm0wI3im5", "principal": "prn_0352aQCR9XSdpbm0wI3im5", "key": "key_0352aQCR9XSdpbm0wI3im5",
	"transform": "nothing", "subject": "cust-nobody", "certificate": "crt_0352aQCR9XSdpbm0wI3im5", "hold": "hld_0352aQCR9XSdpbm0wI3im5",
	"sweep": "swp_0352aQCR9XSdpbm0wI3im5", "plan": "pln_0352aQCR9XSdpbm0wI3im5",
	"policy": "nothing", "purpose": "nothing", "entry": "ent_0352aQCR9XSdpbm0wI3im5", "job": "job_0352aQCR9XSdpbm0wI3im5", "alarm": "alm_0352aQCR9XSdpbm0wI3im5",
	"request":     "req_0352aQCR9XSdpbm0wI3im5",
	"suppression": "sup_0352aQCR9XSdpbm0wI3im5", "webhook": "nothing", "delivery": "dlv_0352aQCR9XSdpbm0wI3im5", "token": "pvtk_nothing", "cursor": "nothing",
}

// idsElsewhere are ids that stand in bodies and queries.
var idsElsewhere = []routeLine{
	{route: "POST /v1/tokenize", body: `{"collection":"{collection}","items":[{"fields":{"private":"x"}}]}`},
	{route: "POST /v1/detokenize", body: `{"items":[{"token":"{token}"}]}`},
	{route: "POST /v1/detokenize", body: `{"items":[{"token":"{token}","view":"plain","collection":"{collection}","field":"private"}]}`},
	{route: "POST /v1/tokens/validate", body: `{"items":[{"token":"{token}"}]}`},
	{route: "POST /v1/tokens/validate", body: `{"items":[{"token":"{token}","collection":"{collection}","field":"private"}]}`},
	{route: "POST /v1/tokens/rotate", body: `{"items":[{"token":"{token}"}]}`},
	{route: "POST /v1/policies/explain", action: policy.ReadPolicies, body: `{"action":"detokenize","collection":"{collection}","field":"private"}`},
	{route: "POST /v1/policies/explain", action: policy.ReadPolicies, body: `{"action":"policy.read","principal":"{principal}"}`},
	{route: "POST /v1/principals/:principal/keys", body: `{"replaces":"{key}"}`},
	{route: "POST /v1/holds", body: `{"matter":"case-1","reason":"litigation","collection":"{collection}"}`},
	{route: "POST /v1/holds", body: `{"matter":"case-1","reason":"litigation","collection":"people","record":"{record}"}`},
	{route: "POST /v1/holds", body: `{"matter":"case-1","reason":"litigation","subject":"{subject}"}`},
	{route: "POST /v1/requests", body: `{"type":"access","regime":"gdpr","subject":"{subject}"}`},
	{route: "POST /v1/requests", body: `{"type":"correction","regime":"gdpr","subject":"cust-3","correction":{"collection":"{collection}","record":"rec_0352aQCR9XSdpbm0wI3im5","fields":{"private":"x"}}}`},
	{route: "POST /v1/requests", body: `{"type":"correction","regime":"gdpr","subject":"cust-3","correction":{"collection":"people","record":"{record}","fields":{"name":"x"}}}`},
	{route: "GET /v1/requests", query: "?subject={subject}"},
	{route: "GET /v1/requests", query: "?cursor={cursor}"},
	{route: "GET /v1/audit/entries", query: "?subject={subject}"},
	{route: "GET /v1/audit/entries", query: "?principal={principal}"},
	{route: "GET /v1/audit/entries", query: "?record={record}"},
	{route: "GET /v1/collections", query: "?cursor={cursor}"},
	{route: "GET /v1/transforms", query: "?cursor={cursor}"},
	{route: "GET /v1/subjects/:subject", query: "?cursor={cursor}"},
	{route: "GET /v1/holds", query: "?cursor={cursor}"},
	{route: "GET /v1/retention/sweeps", query: "?cursor={cursor}"},
	{route: "GET /v1/retention/plans/:plan/items", query: "?cursor={cursor}"},
	{route: "POST /v1/retention/plans", body: `{"collection":"{collection}"}`},
	{route: "POST /v1/retention/simulations", body: `{"collection":"{collection}","definition":{}}`},
	{route: "POST /v1/retention/sweeps", body: `{"collection":"{collection}","dry_run":true}`},
	{route: "GET /v1/policies", query: "?cursor={cursor}"},
	{route: "GET /v1/policies/:policy/history", query: "?cursor={cursor}"},
	{route: "GET /v1/suppressions", query: "?cursor={cursor}"},
	{route: "POST /v1/suppressions", body: `{"subject":"{subject}"}`},
	{route: "GET /v1/webhooks", query: "?cursor={cursor}"},
	{route: "GET /v1/webhooks/:webhook/deliveries", query: "?cursor={cursor}"},
	{route: "GET /v1/alarms", query: "?cursor={cursor}"},
	{route: "GET /v1/purposes", query: "?cursor={cursor}"},
	{route: "GET /v1/principals", query: "?cursor={cursor}"},
	{route: "GET /v1/subjects/:subject/consents", query: "?cursor={cursor}"},
	{route: "GET /v1/subjects/:subject/disclosures", query: "?cursor={cursor}"},
	{route: "GET /v1/subjects/:subject/links", query: "?cursor={cursor}"},
	{route: "GET /v1/audit/entries", query: "?cursor={cursor}"},
	{route: "POST /v1/collections/:collection/search", body: `{"field":"email","equals":"jane@example.com","cursor":"{cursor}"}`},
}

var parameter = regexp.MustCompile(`:([a-z]+)`)

// Threat I-1: whatever another tenant has is answered like what nobody has, on every route and for every id that it takes.
func TestAnotherTenantsIDIsNobodys(t *testing.T) {
	t.Parallel()
	s := serve(t)
	mine, theirs := newWorld(t, s), newWorld(t, s)
	theirs.alone()
	calls := 0
	lines := slices.Clone(everyRoute)
	slices.SortStableFunc(lines, func(a, b routeLine) int { // what makes something comes last
		return cmp.Compare(strings.Index(a.route, "PUT"), strings.Index(b.route, "PUT"))
	})
	for _, line := range lines {
		if line.path != "" {
			continue // its name is the same for all tenants
		}
		names := parameter.FindAllStringSubmatch(line.route, -1)
		for which := 1; which < 1<<len(names); which++ { // each set of ids that are not mine
			var foreign []string
			for i, name := range names {
				if which&(1<<i) != 0 {
					foreign = append(foreign, name[1])
				}
			}
			calls++
			mine.compare(line, theirs, foreign...)
		}
	}
	for _, line := range idsElsewhere {
		for _, m := range regexp.MustCompile(`\{([a-z]+)\}`).FindAllStringSubmatch(line.body+line.query, -1) {
			calls++
			mine.compare(line, theirs, m[1])
		}
	}
	if calls < 80 {
		t.Errorf("only %d kinds of call were made", calls)
	}
	if got := theirs.reveal(t, theirs.ids["token"]); got != `"Jane Roe"` {
		t.Errorf("their value is %s afterwards", got)
	}
	for _, line := range everyRoute {
		if strings.HasPrefix(line.route, "GET ") && !strings.Contains(line.route, "/records/") && !strings.Contains(line.route, "/restriction") && !strings.Contains(line.route, "/package") {
			theirs.call(theirs.client, line).want(t, 200)
		}
	}
}

// alone gives the world things under names that nobody else has, and a cursor.
func (w *world) alone() {
	w.t.Helper()
	w.send(w.t, "PUT", "/v1/collections/private", `{"fields":{"private":{"type":"name"}}}`).want(w.t, 201)
	stored := w.send(w.t, "POST", "/v1/tokenize", `{"collection":"private","items":[{"subject":"cust-9","fields":{"private":"Jane Roe"}}]}`).want(w.t, 200).items(w.t)[0]
	for name, id := range map[string]string{"collection": "private", "record": stored.Record, "token": stored.Tokens["private"], "subject": "cust-9",
		"policy": "ours", "purpose": "ours", "transform": "ours", "webhook": "ours"} {
		w.ids[name] = id
	}
	w.send(w.t, "PUT", "/v1/policies/ours", policyText(w.t, `forbid (principal in Role::"idle", action, resource);`)).want(w.t, 201)
	w.send(w.t, "PUT", "/v1/purposes/ours", `{"legal_basis":"contract"}`).want(w.t, 201)
	w.send(w.t, "PUT", "/v1/transforms/ours", `{"alphabet":"digits","min_length":12,"max_length":19}`).want(w.t, 201)
	w.webhook("ours", "record.corrected")
	w.send(w.t, "PATCH", "/v1/collections/private/records/"+stored.Record, `{"fields":{"private":"Jane Roe"}}`, `If-Match: "1"`).want(w.t, 200)
	w.delivered("ours")
	for _, kind := range []string{"consents", "objections"} {
		w.send(w.t, "PUT", "/v1/subjects/cust-9/"+kind+"/ours", `{}`)
	}
	var page struct {
		Next string `json:"next_cursor"`
	}
	w.send(w.t, "GET", "/v1/collections?limit=1", "").want(w.t, 200).read(w.t, &page)
	w.ids["cursor"] = page.Next
}

// told is what routes answer, by the id, where that is not 404: they make what isn't there, or say what is wrong with the
// body, or list nothing.
var told = map[string]int{
	"PUT /v1/collections/:collection collection": 422, "PUT /v1/transforms/:transform transform": 422, "PUT /v1/policies/:policy policy": 422,
	"PUT /v1/purposes/:purpose purpose": 422, "PUT /v1/webhooks/:webhook webhook": 422, "PUT /v1/subjects/:subject/consents/:purpose subject": 201,
	"PUT /v1/subjects/:subject/objections/:purpose subject": 201, "PUT /v1/subjects/:subject/restriction subject": 201,
	"PUT /v1/subjects/:subject/jurisdiction subject": 201,
	"POST /v1/principals/:principal/keys key":        422, "POST /v1/holds collection": 422, "POST /v1/retention/sweeps collection": 422, "POST /v1/retention/plans collection": 422, "POST /v1/retention/simulations collection": 422, "POST /v1/holds record": 422, "POST /v1/holds subject": 201, "POST /v1/suppressions subject": 201,
	"POST /v1/requests collection": 422, "POST /v1/requests record": 201, "POST /v1/requests subject": 201, "GET /v1/requests subject": 200,
	"GET /v1/audit/entries subject": 200, "GET /v1/audit/entries principal": 200, "GET /v1/audit/entries record": 200,
}

// compare makes a line's call with another tenant's ids and with nobody's.
func (w *world) compare(line routeLine, theirs *world, foreign ...string) {
	w.t.Helper()
	if line.renew != nil {
		line.renew(w)
	}
	if line.header == "" {
		line.header = `If-Match: "1"`
	}
	var answers [2]answer
	for i, ids := range []map[string]string{nobodys, theirs.ids} {
		mine := map[string]string{}
		for _, name := range foreign {
			mine[name] = w.ids[name]
			if w.ids[name] = ids[name]; ids[name] == "" {
				w.t.Fatalf("there is no %s to try on %s", name, line.route)
			}
		}
		answers[i] = w.call(w.client, line)
		for _, name := range foreign {
			answers[i].body = []byte(strings.ReplaceAll(string(answers[i].body), `"`+ids[name]+`"`, `"`+name+`"`)) // the caller's own text
			w.ids[name] = mine[name]
		}
	}
	nobody, other := moment.ReplaceAllString(string(answers[0].body), "now"), moment.ReplaceAllString(string(answers[1].body), "now")
	if diff := gocmp.Diff(nobody, other); diff != "" || answers[0].status != answers[1].status {
		w.t.Errorf("%s: nobody's %v is %d and another's %d, and (-, +):\n%s", line.route, foreign, answers[0].status, answers[1].status, diff)
	}
	want := told[line.route+" "+strings.Join(foreign, " ")]
	switch {
	case foreign[0] == "cursor":
		want = 400
	case want == 0:
		want = 404
	}
	if answers[0].status != want {
		w.t.Errorf("%s %s: nobody's %v is %d %s", line.route, line.query, foreign, answers[0].status, nobody)
	}
}

// moment is what differs between any two calls.
var moment = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z|"request_id":"[^"]*"|hld_\w+|ety_\w+|"id":"(req|sup)_\w+"`)
