package vault_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/vaulttest"
)

const day = 24 * time.Hour

func (h *household) note(t *testing.T) {
	t.Helper()
	if _, err := h.NoteDeadlines(t.Context(), h.who.Tenant, 100); err != nil {
		t.Fatal(err)
	}
}

// told are the events of a request's history, after the first n.
func (h *household) told(t *testing.T, id string, n int) (events []string) {
	t.Helper()
	r, err := h.GetRequest(t.Context(), h.who, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.History[n:] {
		events = append(events, e.Event)
	}
	return events
}

func TestDatesAreNotedOnceEach(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ccpa := vault.NewRequest{Type: deadline.Access, Regime: deadline.CCPA, Terms: vault.Terms{Subject: "p-1"}}
	r, acknowledged := h.ask(t, ccpa), h.ask(t, ccpa)
	h.step(t, acknowledged.ID, vault.Step{Kind: vault.StepAcknowledge})
	paused := h.ask(t, of(deadline.Access, "p-1"))
	h.step(t, paused.ID, vault.Step{Kind: vault.StepPause, Reason: "identity"})
	closed := h.step(t, h.ask(t, ccpa).ID, vault.Step{Kind: vault.StepCancel})

	entries := `select count(*) from privault.audit_entries where action = 'sweep'`
	h.note(t)
	if n := h.Count(entries); n != 0 {
		t.Errorf("nothing was due, and %d entries say so", n)
	}
	want := []string{}
	for _, at := range []struct {
		moment time.Time
		event  string
	}{
		{r.AcknowledgeBy.Add(-2 * day), "acknowledgement-due-soon"}, {r.AcknowledgeBy.Add(time.Hour), "acknowledgement-overdue"},
		{r.Due.Add(-6 * day), "due-soon"}, {r.Due.Add(time.Hour), "overdue"},
	} {
		h.Advance(at.moment.Sub(h.Now()))
		for range 2 {
			h.note(t)
		}
		want = append(want, at.event)
		if diff := cmp.Diff(want, h.told(t, r.ID, 1)); diff != "" {
			t.Fatalf("noted (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"acknowledged", "due-soon", "overdue"}, h.told(t, acknowledged.ID, 1)); diff != "" {
		t.Errorf("of one that was acknowledged (-want +got):\n%s", diff)
	}
	if got := h.told(t, paused.ID, 2); got != nil {
		t.Errorf("of one whose clock stands still: %v", got)
	}
	if got := h.told(t, closed.ID, 2); got != nil {
		t.Errorf("of one that is closed: %v", got)
	}
	if n := h.Count(entries); n != 4 {
		t.Errorf("%d entries, want one for each time", n)
	}
	body := strings.Join(rows(t, h.OwnerURL, `select body from privault.audit_entries where action = 'sweep' and body like '%'||$1||'%'`, r.ID), "\n")
	for _, event := range want {
		if !strings.Contains(body, `"outcome":"`+event+`"`) {
			t.Errorf("no entry notes that it is %s:\n%s", event, body)
		}
	}

	// A date that moves is noted again; one that comes late is noted as what it is.
	noticed := r.Received.Add(day)
	h.step(t, r.ID, vault.Step{Kind: vault.StepExtend, Reason: "complexity", At: &noticed})
	h.note(t)
	h.Advance(50 * day)
	h.note(t)
	if got := h.told(t, r.ID, 5); !cmp.Equal(got, []string{"extended", "overdue"}) {
		t.Errorf("after the extension: %v", got)
	}
}

func TestWhoNeverSaysWhoTheyAreExpires(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	paused := h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, vault.Step{Kind: vault.StepPause, Reason: "identity"})
	asked := h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, vault.Step{Kind: vault.StepVerify, Asked: true})
	never := h.ask(t, of(deadline.Access, "p-1"))
	h.Advance(89 * day)
	h.note(t)
	for _, r := range []*vault.Request{paused, asked} {
		if got, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || got.State != vault.RequestVerifying {
			t.Errorf("after 89 days: %s, %v", got.State, err)
		}
	}
	h.Advance(2 * day)
	h.note(t)
	for _, r := range []*vault.Request{paused, asked} {
		if got, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || got.State != vault.RequestExpired || got.Closed == nil {
			t.Errorf("after 91 days: %s, %v", got.State, err)
		}
	}
	if got, err := h.GetRequest(t.Context(), h.who, never.ID); err != nil || got.State != vault.RequestReceived {
		t.Errorf("one of whom nothing was asked: %s, %v", got.State, err)
	}
}

// Whom the controller neglects after they have said who they are is no person who never said it.
func TestANeglectedRequestDoesNotExpire(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	pause := vault.Step{Kind: vault.StepPause, Reason: "identity"}
	r := h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, pause)
	h.Advance(5 * day)
	h.step(t, r.ID, vault.Step{Kind: vault.StepResume})
	late := h.ask(t, of(deadline.Access, "p-1"))
	h.Advance(200 * day)
	h.note(t)
	if got, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || got.State != vault.RequestVerifying || got.Asked != nil {
		t.Errorf("it is %+v, %v", got, err)
	}
	_, err := h.TakeStep(t.Context(), h.who, late.ID, pause)
	wantKind(t, "a pause after the date", err, vault.Conflict)
	// Asked anew, the 90 days begin anew.
	if got := h.step(t, r.ID, vault.Step{Kind: vault.StepVerify, Asked: true}); got.Asked == nil || got.Asked.Before(h.Now().Add(-day)) {
		t.Errorf("asked at %v", got.Asked)
	}
	h.Advance(91 * day)
	h.note(t)
	if got, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || got.State != vault.RequestExpired {
		t.Errorf("it is %+v, %v", got, err)
	}
}

// Records of requests are kept for as long as the law wants them, and no longer; nobody can delete one before.
func TestRequestsAreKeptAndThenSwept(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ids := map[string]string{}
	for regime, n := range map[deadline.Regime]int{deadline.CCPA: 23, deadline.GDPR: 25, deadline.HIPAA: 25} {
		r := h.ask(t, vault.NewRequest{Type: deadline.Access, Regime: regime, Terms: vault.Terms{Subject: "p-1"}})
		h.step(t, r.ID, vault.Step{Kind: vault.StepCancel})
		h.Exec(`update privault.requests set closed_at = closed_at - make_interval(months => $1) where regime = $2`, n, string(regime))
		ids[string(regime)] = r.ID
	}
	open := h.ask(t, of(deadline.Access, "p-1"))
	h.Exec(`update privault.requests set received_at = received_at - interval '10 years', opened_at = opened_at - interval '10 years' where state = 'received'`)
	asApp(t, h.Config.DataURL, &h.who.Tenant, func(tx pgx.Tx) {
		done, err := tx.Exec(t.Context(), `delete from privault.requests`)
		if err != nil || done.RowsAffected() != 1 {
			t.Errorf("the service's role can delete %d requests, of which one is not kept any more; %v", done.RowsAffected(), err)
		}
	})
	keys := h.Count(`select count(*) from keystore.data_keys`)
	if n, err := h.SweepRequests(t.Context(), h.who.Tenant, 10); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	for regime, id := range ids {
		_, err := h.GetRequest(t.Context(), h.who, id)
		if want := regime == "gdpr"; want != (vault.AsError(err).Kind == vault.NotFound && err != nil) {
			t.Errorf("%s after the sweep: %v", regime, err)
		}
	}
	if _, err := h.GetRequest(t.Context(), h.who, open.ID); err != nil {
		t.Errorf("an open one after the sweep: %v", err)
	}
	if n := h.Count(`select count(*) from keystore.data_keys`); n != keys-1 {
		t.Errorf("%d keys after the sweep, %d before", n, keys)
	}
	if n := h.Count(`select count(*) from privault.request_events e where not exists (select from privault.requests r where r.request_id = e.request_id)`); n != 0 {
		t.Errorf("%d events of no request are left", n)
	}
}

func TestTheMetricOfOverdueRequests(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	h := newHousehold(t, vaulttest.With(func(c *vault.Config) { c.Metrics = registry }))
	overdue := func() float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "privault_requests_overdue" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatal("there is no such metric")
		return 0
	}
	if got := overdue(); !math.IsNaN(got) {
		t.Errorf("before anybody looked it is %v", got)
	}
	long := h.Now().AddDate(0, -2, 0)
	n := of(deadline.Access, "p-1")
	n.Received = &long
	h.ask(t, n)
	h.ask(t, of(deadline.Access, "p-1"))
	h.Work()
	h.Until(func() bool { return overdue() == 1 })
	h.Advance(time.Hour)
	if got := overdue(); got == 0 {
		t.Errorf("an hour later it is %v", got)
	}
}

// Keys rotate under requests like under records: what they say opens afterwards, and they are found by the reference.
func TestRequestsOutliveRotations(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	r, nobody := h.ask(t, of(deadline.Erasure, "p-1")), h.ask(t, of(deadline.Access, "p-77"))
	h.Work()
	for _, name := range []string{"wrap", "pseudonym"} {
		done, err := h.RotateKey(t.Context(), h.who, name)
		if err != nil {
			t.Fatal(err)
		}
		if j := h.Finish(h.who, done.Job); j.State != "completed" {
			t.Fatalf("the rotation of %s is %s", name, j.State)
		}
	}
	if err := h.RetireKey(t.Context(), h.who, "wrap", 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []*vault.Request{r, nobody} {
		got, err := h.GetRequest(t.Context(), h.who, want.ID)
		if err != nil || got.Terms.Subject != want.Terms.Subject {
			t.Errorf("after the rotations: %q, %v", got.Terms.Subject, err)
		}
		page, _, err := h.ListRequests(t.Context(), h.who, vault.RequestQuery{Subject: want.Terms.Subject}, "", 10)
		if err != nil || len(page) != 1 || page[0].ID != want.ID {
			t.Errorf("by the reference %d are found, %v", len(page), err)
		}
	}
	if got := h.step(t, r.ID, verified); got.State != vault.RequestCompleted || got.Outcome != vault.OutcomeComplied {
		t.Errorf("the erasure is %s %s", got.State, got.Outcome)
	}
	if got := h.step(t, nobody.ID, verified); got.Outcome != vault.OutcomeNothingHeld {
		t.Errorf("of nobody: %s %s", got.State, got.Outcome)
	}
}

// With a keystore of its own, the sweep of orphans leaves the keys of requests alone.
func TestRequestsKeysAreNoOrphans(t *testing.T) {
	t.Parallel()
	h := newHousehold(t, vaulttest.Apart)
	correction := vault.NewRequest{Type: deadline.Correction, Regime: deadline.HIPAA, Terms: vault.Terms{Subject: "p-1", Collection: "people", Record: h.of["p-1"][0]},
		Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}}
	r, denied := h.ask(t, correction), h.ask(t, correction)
	h.step(t, denied.ID, vault.Step{Kind: vault.StepDeny, Reason: "accurate"})
	if got := h.step(t, denied.ID, vault.Step{Kind: vault.StepContest, Reference: "letter-7"}); got.Statement != "letter-7" || got.State != vault.RequestDenied {
		t.Errorf("the contested denial is %+v", got)
	}
	keys := func() int { return vaulttest.CountURL(t, h.KeysURL, `select count(*) from keystore.data_keys`) }
	before := keys()
	if want := 8 + 2 + 1; before != want { // records, requests, and the proposal of the open one
		t.Errorf("%d keys, want %d", before, want)
	}
	h.Advance(time.Hour)
	h.Work()
	h.Until(func() bool {
		return h.Count(`select count(*) from privault.jobs where kind = 'sweep-orphan-keys' and state = 'completed'`) > 0
	})
	if got := keys(); got != before {
		t.Errorf("%d keys after the sweep, %d before", got, before)
	}
	if got := h.step(t, r.ID, verified); got.State != vault.RequestCompleted {
		t.Errorf("the correction is %s", got.State)
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != `"Joe"` {
		t.Errorf("the corrected value is %s", got)
	}
	if got := keys(); got != before-1 {
		t.Errorf("%d keys after the correction, want %d", got, before-1)
	}
}

func TestWebhooksHearOfRequests(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	desk := h.webhook(t, "desk", func(w *vault.Webhook) {
		w.Events = []string{vault.EventRequestDueSoon, vault.EventRequestOverdue, vault.EventRequestCompleted}
	}, nil)
	hold, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-2"})
	if err != nil {
		t.Fatal(err)
	}
	h.step(t, h.ask(t, of(deadline.Restriction, "p-1")).ID, verified)
	deferred := h.step(t, h.ask(t, of(deadline.Erasure, "p-2")).ID, verified)
	open := h.ask(t, of(deadline.Access, "p-1"))
	want := []string{vault.EventRequestCompleted}
	told := func() (kinds []string) {
		h.deliver(t)
		for _, m := range desk.Messages() {
			kinds = append(kinds, desk.read(t, m).Type)
			if !strings.Contains(m.Body, `"request":"req_`) || !strings.Contains(m.Body, `"due_at":"20`) || strings.Contains(m.Body, "p-1") {
				t.Errorf("told as %s", m.Body)
			}
		}
		return kinds
	}
	if diff := cmp.Diff(want, told()); diff != "" {
		t.Errorf("told at first (-want +got):\n%s", diff)
	}
	if err := h.ReleaseHold(t.Context(), h.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	h.Work()
	h.Until(func() bool {
		r, err := h.GetRequest(t.Context(), h.who, deferred.ID)
		return err == nil && r.State == vault.RequestCompleted
	})
	// The rest by hand: who sends while the clock jumps loses its lease, and the message is sent again.
	if err := h.StopJobs(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.deliver(t)
	h.Advance(open.Due.Add(-day).Sub(h.Now()))
	h.note(t)
	h.deliver(t)
	h.Advance(2 * day)
	h.note(t)
	got := map[string]int{}
	for _, kind := range told() {
		got[kind]++
	}
	if diff := cmp.Diff(map[string]int{vault.EventRequestCompleted: 2, vault.EventRequestDueSoon: 1, vault.EventRequestOverdue: 1}, got); diff != "" {
		t.Errorf("told in all (-want +got):\n%s", diff)
	}
}
