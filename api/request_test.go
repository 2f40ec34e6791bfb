package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/vaulttest"
)

// made is a request as these tests read it.
type madeRequest struct {
	ID, State, Subject, Outcome, Certificate string
	Version                                  int
	Due                                      string `json:"due_at"`
	AcknowledgeBy                            string `json:"acknowledge_by"`
	Denial                                   struct{ Reason, Law string }
	History                                  []struct{ Event, By, State, Reason string }
}

func (c client) asked(t *testing.T, body string) (r madeRequest) {
	t.Helper()
	c.send(t, "POST", "/v1/requests", body).want(t, 201).read(t, &r)
	return r
}

func (c client) step(t *testing.T, id, step, body string) (r madeRequest) {
	t.Helper()
	c.send(t, "POST", "/v1/requests/"+id+"/"+step, body).want(t, 200).read(t, &r)
	return r
}

// Received, extended or not, due and to be acknowledged, as the deadlines' own table has them.
const datedRequests = `
gdpr  access       2027-01-31T10:00:00Z  2027-03-01
gdpr  access       2027-01-31T23:30:00Z  2027-03-01            in Berlin it is February
gdpr  access       2024-01-31T22:30:00Z  2024-02-29            in Berlin it is still January
gdpr  access       2027-03-05T10:00:00Z  2027-04-05
gdpr  access       2026-03-05T10:00:00Z  2026-04-07            Easter Monday
gdpr  portability  2026-12-31T10:00:00Z  2027-02-01
gdpr  erasure+     2026-11-30T10:00:00Z  2027-03-01
gdpr  correction+  2027-07-31T10:00:00Z  2027-11-01
ccpa  access       2026-11-20T18:00:00Z  2027-01-04  2026-12-07
ccpa  access       2026-11-20T07:30:00Z  2027-01-03  2026-12-04  in California it is the 19th
ccpa  erasure+     2027-12-20T18:00:00Z  2028-03-19  2028-01-05
ccpa  objection    2026-11-20T18:00:00Z  2026-12-14
ccpa  restriction  2027-05-20T18:00:00Z  2027-06-11
hipaa access       2027-01-31T10:00:00Z  2027-03-02
hipaa portability+ 2024-02-15T10:00:00Z  2024-04-15
hipaa correction   2024-01-01T10:00:00Z  2024-03-01
hipaa correction+  2026-12-15T10:00:00Z  2027-03-15
`

func TestStatutoryClocksThroughTheAPI(t *testing.T) {
	t.Parallel()
	clock := func(zone string, holidays ...string) vault.Clock {
		c, err := deadline.NewCalendar(holidays...)
		if err != nil {
			t.Fatal(err)
		}
		z, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		return vault.Clock{Zone: z, Calendar: c}
	}
	s := serve(t, vaulttest.With(func(c *vault.Config) {
		c.Clocks = vault.Clocks{
			deadline.GDPR: clock("Europe/Berlin", "01-01", "easter-2", "easter+1", "05-01", "easter+39", "easter+50", "10-03", "12-25", "12-26"),
			deadline.CCPA: clock("America/Los_Angeles", "us-federal"),
		}
	}))
	s.Advance(4 * 365 * 24 * time.Hour) // nothing is received in the future
	c := s.tenant()
	c.collection(t, "people", "name", "name")
	c.send(t, "PUT", "/v1/purposes/sale", `{"legal_basis":"legitimate_interests"}`).want(t, 201)
	more := map[string]string{
		"objection":  `,"purpose":"sale"`,
		"correction": `,"correction":{"collection":"people","record":"rec_0352aQCR9XSdpbm0wI3im5","fields":{"name":"Jane Roe"}}`,
	}
	for line := range strings.Lines(strings.TrimSpace(datedRequests)) {
		f := strings.Fields(line)
		typ, extended := strings.CutSuffix(f[1], "+")
		r := c.asked(t, `{"type":"`+typ+`","regime":"`+f[0]+`","subject":"cust-1","received_at":"`+f[2]+`"`+more[typ]+`}`)
		if extended {
			r = c.step(t, r.ID, "extend", `{"reason":"complexity","noticed_at":"`+f[2]+`"}`)
		}
		if day, _, _ := strings.Cut(r.Due, "T"); day != f[3] || !strings.Contains(r.Due, "T23:59:59") {
			t.Errorf("%sis due at %s", line, r.Due)
		}
		acknowledge := ""
		if len(f) > 4 && strings.HasPrefix(f[4], "20") {
			acknowledge = f[4]
		}
		if day, _, _ := strings.Cut(r.AcknowledgeBy, "T"); day != acknowledge {
			t.Errorf("%sis to be acknowledged by %s", line, r.AcknowledgeBy)
		}
	}

	// An extension only in time, once, and where there is one; a pause only under the GDPR.
	late := c.asked(t, `{"type":"access","regime":"gdpr","subject":"cust-1","received_at":"2027-01-31T10:00:00Z"}`)
	if p := c.send(t, "POST", "/v1/requests/"+late.ID+"/extend", `{"reason":"complexity","noticed_at":"2027-03-02T10:00:00Z"}`).refused(t, 409, "conflict"); !strings.Contains(p.Detail, "by 2027-03-01") {
		t.Errorf("a late extension: %s", p.Detail)
	}
	c.step(t, late.ID, "extend", `{"reason":"complexity","noticed_at":"2027-03-01T10:00:00Z"}`)
	c.step(t, late.ID, "extend", `{"reason":"complexity","noticed_at":"2027-03-01T10:00:00Z"}`) // just so again
	c.send(t, "POST", "/v1/requests/"+late.ID+"/extend", `{"reason":"number-of-requests","noticed_at":"2027-03-01T10:00:00Z"}`).refused(t, 409, "conflict")
	optOut := c.asked(t, `{"type":"objection","regime":"ccpa","subject":"cust-1","purpose":"sale"}`)
	if p := c.send(t, "POST", "/v1/requests/"+optOut.ID+"/extend", `{"reason":"complexity"}`).refused(t, 409, "conflict"); !strings.Contains(p.Detail, "no extension") {
		t.Errorf("an extension of an opt-out: %s", p.Detail)
	}
	if p := c.send(t, "POST", "/v1/requests/"+optOut.ID+"/pause", `{"reason":"identity"}`).refused(t, 409, "conflict"); !strings.Contains(p.Detail, "counts from receipt") {
		t.Errorf("a pause under the CCPA: %s", p.Detail)
	}

	// Six days of doubt are six days more, but for a last day that is none for working.
	paused := c.asked(t, `{"type":"access","regime":"gdpr","subject":"cust-1"}`)
	before, err := time.Parse(time.RFC3339, paused.Due)
	if err != nil {
		t.Fatal(err)
	}
	c.step(t, paused.ID, "pause", `{"reason":"identity"}`)
	s.Advance(14 * 24 * time.Hour)
	after, err := time.Parse(time.RFC3339, c.step(t, paused.ID, "verify", `{"method":"document"}`).Due)
	if days := after.Sub(before).Hours() / 24; err != nil || days < 10 || days > 20 {
		t.Errorf("fourteen days of pause moved the date by %.1f days, %v", days, err)
	}
}

// What a privacy officer does, as docs/requests.md tells it.
func TestAnOfficerRunsRequests(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := s.tenant("admin")
	admin.collection(t, "people", "email", "email", "name", "name")
	writer, reader, officer, auditor := admin.colleague(t, "backend-writer"), admin.colleague(t, "backend-reader"), admin.colleague(t, "compliance"), admin.colleague(t, "auditor")
	stored := writer.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[
		{"subject":"cust-1","fields":{"email":"jane@example.com","name":"Jane Roe"}},{"subject":"cust-2","fields":{"email":"joe@example.com"}}]}`).want(t, 200).items(t)
	token := stored[0].Tokens["email"]

	// Correction: the token stays, and the value is new. Nobody who runs requests sees it.
	correction := officer.asked(t, `{"type":"correction","regime":"gdpr","subject":"cust-1","correction":{"collection":"people","record":"`+stored[0].Record+`","fields":{"email":"jane@example.org","name":null}}}`)
	quiet(t, "the request", text(t, correction), "jane@example.org")
	quiet(t, "the request, read", string(officer.send(t, "GET", "/v1/requests/"+correction.ID, "").want(t, 200).body), "jane@example.org")
	if got := officer.step(t, correction.ID, "verify", `{"method":"account"}`); got.State != "completed" || got.Outcome != "complied" {
		t.Errorf("the correction is %+v", got)
	}
	if got := reader.reveal(t, token); got != `"jane@example.org"` {
		t.Errorf("the token gives %s", got)
	}
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored[0].Tokens["name"]+`"}]}`).want(t, 404)
	foreign := officer.asked(t, `{"type":"correction","regime":"gdpr","subject":"cust-1","correction":{"collection":"people","record":"`+stored[1].Record+`","fields":{"email":"jane@example.org"}}}`)
	officer.send(t, "POST", "/v1/requests/"+foreign.ID+"/verify", `{"method":"account"}`).refused(t, 409, "conflict")
	if got := officer.step(t, foreign.ID, "deny", `{"reason":"accurate"}`); got.Denial.Law != "GDPR 16" {
		t.Errorf("denied by %+v", got.Denial)
	}

	// Restriction and objection hold at once.
	restricted := officer.asked(t, `{"type":"restriction","regime":"gdpr","subject":"cust-2"}`)
	officer.step(t, restricted.ID, "verify", `{"method":"document","level":"reasonable","reference":"scan-4"}`)
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored[1].Tokens["email"]+`"}]}`).want(t, 423)
	officer.send(t, "PUT", "/v1/purposes/sale", `{"legal_basis":"legitimate_interests"}`).want(t, 201)
	optOut := officer.asked(t, `{"type":"objection","regime":"ccpa","subject":"cust-1","purpose":"sale"}`)
	if got := officer.step(t, optOut.ID, "verify", `{"method":"not-required"}`); got.State != "completed" {
		t.Errorf("the opt-out is %s", got.State)
	}
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`"}]}`, "Privault-Purpose: sale").want(t, 403)

	// Erasure with a second pair of eyes.
	erasure := officer.asked(t, `{"type":"erasure","regime":"gdpr","subject":"cust-1","approval":true,"agent":{"reference":"lawyer-3","proof":"power-of-attorney"}}`)
	if got := officer.step(t, erasure.ID, "verify", `{"method":"agent"}`); got.State != "waiting_for_approval" {
		t.Errorf("the erasure is %s", got.State)
	}
	officer.send(t, "POST", "/v1/requests/"+erasure.ID+"/approve", ``).refused(t, 409, "conflict")
	var second, key struct{ ID, Key string }
	admin.send(t, "POST", "/v1/principals", `{"name":"second","roles":["compliance"]}`).want(t, 201).read(t, &second)
	admin.send(t, "POST", "/v1/principals/"+second.ID+"/keys", `{}`).want(t, 201).read(t, &key)
	approver := client{service: s, key: key.Key}
	done := approver.step(t, erasure.ID, "approve", ``)
	if done.State != "completed" || done.Certificate == "" || done.Subject != "" {
		t.Errorf("the erasure is %+v", done)
	}
	officer.send(t, "GET", "/v1/certificates/"+done.Certificate, "", "Accept: text/plain").want(t, 200)
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`"}]}`).want(t, 404)

	var read madeRequest
	auditor.send(t, "GET", "/v1/requests/"+erasure.ID, "").want(t, 200).read(t, &read)
	var events []string
	for _, e := range read.History {
		events = append(events, e.Event+" "+e.State)
	}
	if diff := cmp.Diff([]string{"opened received", "verified waiting_for_approval", "approved in_progress", "completed completed"}, events); diff != "" {
		t.Errorf("the history (-want +got):\n%s", diff)
	}

	// Lists, with pages, and the year's counts.
	var page struct {
		Items []madeRequest
		Next  *string `json:"next_cursor"`
	}
	officer.send(t, "GET", "/v1/requests?state=completed&limit=2", "").want(t, 200).read(t, &page)
	if len(page.Items) != 2 || page.Next == nil || page.Items[0].ID != erasure.ID {
		t.Fatalf("the first page: %+v", page)
	}
	officer.send(t, "GET", "/v1/requests?state=completed&cursor="+*page.Next, "").want(t, 200).read(t, &page)
	if len(page.Items) != 2 || page.Next != nil {
		t.Errorf("the second page: %+v", page)
	}
	waiting := officer.asked(t, `{"type":"access","regime":"ccpa","subject":"cust-2"}`)
	for before, want := range map[string]int{waiting.Due: 0, "2099-01-01T00:00:00Z": 1} {
		officer.send(t, "GET", "/v1/requests?due_before="+before, "").want(t, 200).read(t, &page)
		if len(page.Items) != want {
			t.Errorf("%d are due before %s, want %d", len(page.Items), before, want)
		}
	}
	officer.send(t, "GET", "/v1/requests?subject=cust-1", "").want(t, 200).read(t, &page)
	if len(page.Items) != 4 {
		t.Errorf("%d requests of the erased person, want 4", len(page.Items))
	}
	var counted struct {
		All   struct{ Received, Complied, Denied, Open int }
		Types map[string]struct{ Received int }
	}
	year := s.Now().UTC().Format("2006")
	officer.send(t, "GET", "/v1/requests/metrics?regime=gdpr&year="+year, "").want(t, 200).read(t, &counted)
	if counted.All.Received != 4 || counted.All.Complied != 3 || counted.All.Denied != 1 || counted.Types["correction"].Received != 2 {
		t.Errorf("the year's counts: %+v", counted)
	}

	// Who may, in which order errors come, and what is refused.
	for _, c := range []client{writer, reader, admin} {
		c.send(t, "GET", "/v1/requests/"+waiting.ID, "").refused(t, 403, "forbidden")
		c.send(t, "POST", "/v1/requests/"+waiting.ID+"/verify", `{"method":"account"}`).refused(t, 403, "forbidden")
	}
	auditor.send(t, "POST", "/v1/requests/"+waiting.ID+"/cancel", ``).refused(t, 403, "forbidden")
	auditor.send(t, "POST", "/v1/requests", `{"type":"access","regime":"gdpr","subject":"cust-2"}`).refused(t, 403, "forbidden")
	officer.send(t, "GET", "/v1/requests/req_"+strings.Repeat("0", 22), "").refused(t, 404, "not-found")
	officer.send(t, "POST", "/v1/requests/"+waiting.ID+"/cancel", ``, `If-Match: "7"`).refused(t, 412, "precondition-failed")
	officer.send(t, "POST", "/v1/requests/"+waiting.ID+"/cancel", ``, `If-Match: "1"`).want(t, 200)
	officer.send(t, "POST", "/v1/requests", `{"type":"access","regime":"gdpr","subject":"jane@example.com"}`).refused(t, 422, "identifier-looks-like-pii")
	for body, rule := range map[string]string{
		`{"type":"erasure","regime":"hipaa","subject":"cust-2"}`:                                                                                                               "no-such-right",
		`{"type":"access","regime":"gdpr","subject":"cust-2","received_at":"2099-01-01T00:00:00Z"}`:                                                                            "past",
		`{"type":"access","regime":"gdpr","subject":"cust-2","recipient_key":"age1nothing"}`:                                                                                   "age-recipient",
		`{"type":"erasure","regime":"gdpr","subject":"cust-2","reason":"just so"}`:                                                                                             "reason",
		`{"type":"erasure","regime":"gdpr","subject":"cust-2","scope":[{"collection":"nothing"}]}`:                                                                             "unknown-collection",
		`{"type":"erasure","regime":"gdpr","subject":"cust-2","retained":[{"collection":"people","ground":"legal-claims"}]}`:                                                   "scope",
		`{"type":"access","regime":"gdpr","subject":"cust-2","reason":"gdpr-17"}`:                                                                                              "not-applicable",
		`{"type":"objection","regime":"gdpr","subject":"cust-2","purpose":"nothing"}`:                                                                                          "unknown-purpose",
		`{"type":"access","regime":"gdpr","subject":"cust-2","agent":{"reference":"Jane Roe, lawyer","proof":"a promise"}}`:                                                    "proof",
		`{"type":"correction","regime":"gdpr","subject":"cust-2"}`:                                                                                                             "record",
		`{"type":"correction","regime":"gdpr","subject":"cust-2","correction":{"collection":"people","record":"` + stored[1].Record + `","fields":{"email":"nobody at all"}}}`: "email",
	} {
		p := officer.send(t, "POST", "/v1/requests", body).refused(t, 422, "validation-failed")
		var rules []string
		for _, e := range p.Errors {
			rules = append(rules, e.Rule)
		}
		if len(rules) == 0 || !strings.Contains(strings.Join(rules, " "), rule) {
			t.Errorf("%s: %v, want %s", body, rules, rule)
		}
		quiet(t, "the problem", text(t, p), "nobody at all", "Jane Roe, lawyer", "just so", "age1nothing")
	}
	officer.send(t, "POST", "/v1/requests", `{"type":"access","regime":"gdpr","subject":"cust-2","approved":true}`).refused(t, 422, "validation-failed")
	officer.send(t, "GET", "/v1/requests?state=lost", "").refused(t, 422, "validation-failed")
	officer.send(t, "GET", "/v1/requests/metrics?regime=lgpd&year=2026", "").refused(t, 422, "validation-failed")
	specific := officer.asked(t, `{"type":"access","regime":"ccpa","subject":"cust-2"}`)
	officer.send(t, "POST", "/v1/requests/"+specific.ID+"/verify", `{"method":"matching","level":"reasonable"}`).refused(t, 422, "validation-failed")
	officer.send(t, "POST", "/v1/requests/"+specific.ID+"/verify", `{"method":"not-required"}`).refused(t, 422, "validation-failed")
	officer.send(t, "POST", "/v1/requests/"+specific.ID+"/deny", `{"reason":"psychotherapy-notes"}`).refused(t, 422, "validation-failed")
}

// A person has a part of what is held of them erased, by a request.
func TestARequestErasesAPartThroughTheAPI(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.tenant()
	c.collection(t, "people", "email", "email", "name", "name")
	stored := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1","fields":{"email":"jane@example.com","name":"Jane Roe"}}]}`).want(t, 200).items(t)
	body := `{"type":"erasure","regime":"gdpr","subject":"cust-1","scope":[{"collection":"people","fields":["email"]}]`
	bare := c.asked(t, body+`}`)
	if p := c.send(t, "POST", "/v1/requests/"+bare.ID+"/verify", `{"method":"account"}`).refused(t, 422, "validation-failed"); !strings.Contains(p.Detail, "people is missing") {
		t.Errorf("without a ground: %s", p.Detail)
	}
	r := c.asked(t, body+`,"retained":[{"collection":"people","ground":"legal-claims"}]}`)
	got := string(c.send(t, "POST", "/v1/requests/"+r.ID+"/verify", `{"method":"account"}`).want(t, 200).body)
	for _, part := range []string{`"state":"completed"`, `"subject":"cust-1"`, `"scope":[{"collection":"people","fields":["email"]}]`, `"retained":[{"collection":"people","ground":"legal-claims"}]`} {
		if !strings.Contains(got, part) {
			t.Errorf("no %s in %s", part, got)
		}
	}
	c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored[0].Tokens["email"]+`"}]}`).want(t, 404)
	if got := c.reveal(t, stored[0].Tokens["name"]); got != `"Jane Roe"` {
		t.Errorf("what stays is %s", got)
	}
	var counted struct {
		All struct {
			Complied int
			InPart   int `json:"complied_in_part"`
		}
	}
	c.send(t, "GET", "/v1/requests/metrics?regime=gdpr&year="+s.Now().UTC().Format("2006"), "").want(t, 200).read(t, &counted)
	if counted.All.Complied != 1 || counted.All.InPart != 1 {
		t.Errorf("counted: %+v", counted)
	}
}
