package vault_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// of is a request under the GDPR.
func of(typ deadline.Type, subject string) vault.NewRequest {
	return vault.NewRequest{Type: typ, Regime: deadline.GDPR, Terms: vault.Terms{Subject: subject}}
}

// verified is a step that verifies.
var verified = vault.Step{Kind: vault.StepVerify, Method: "document", Level: "reasonably-high", Reference: "ticket-1"}

func (h *household) ask(t testing.TB, n vault.NewRequest) *vault.Request {
	t.Helper()
	r, err := h.OpenRequest(t.Context(), h.who, n)
	if err != nil {
		t.Fatal("open a request: ", err)
	}
	return r
}

func (h *household) step(t testing.TB, id string, s vault.Step) *vault.Request {
	t.Helper()
	r, err := h.TakeStep(t.Context(), h.who, id, s)
	if err != nil {
		t.Fatalf("%s: %v", s.Kind, err)
	}
	return r
}

// colleague is another principal of the same tenant.
func (h *household) colleague(t testing.TB) vault.Caller {
	t.Helper()
	id, err := h.CreatePrincipal(t.Context(), h.who, "colleague", []string{"compliance"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.IssueKey(t.Context(), h.who, id, vault.KeyTerms{})
	if err != nil {
		t.Fatal(err)
	}
	who, err := h.Authenticate(t.Context(), key.Key)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// Each state against each step: where it leads, = where it was taken before and changes nothing, and a dot where it is a
// conflict. A request that is paused is verifying, with its clock standing still.
const stepTable = `
             acknowledge  verify       approve      deny    extend       pause      resume     cancel     complete   contest
received     received     in_progress  .            denied  received     verifying  .          cancelled  .          .
verifying    verifying    in_progress  .            denied  verifying    verifying  .          cancelled  .          .
paused       verifying    in_progress  .            denied  .            =          verifying  cancelled  .          .
waiting      waiting_for_approval  =   in_progress  denied  waiting_for_approval  .  .         cancelled  .          .
in_progress  in_progress  =            .            denied  in_progress  .          .          cancelled  completed  .
completed    .            =            .            .       .            .          .          .          =          .
denied       .            .            .            =       .            .          .          .          .          .
cancelled    .            .            .            .       .            .          .          =          .          .
deferred     deferred     =            .            denied  deferred     .          .          cancelled  .          .
expired      .            .            .            .       .            .          .          .          .          .
`

func TestEveryStepInEveryState(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	colleague := h.colleague(t)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-2"}); err != nil {
		t.Fatal(err)
	}
	taken := map[string]vault.Step{"acknowledge": {}, "verify": verified, "approve": {}, "deny": {Reason: "identity-not-verified"},
		"extend": {Reason: "complexity"}, "pause": {Reason: "identity"}, "resume": {}, "cancel": {}, "complete": {}, "contest": {Reference: "letter-7"}}
	for kind, s := range taken {
		s.Kind = kind
		taken[kind] = s
	}
	bring := map[string]func() *vault.Request{
		"received": func() *vault.Request { return h.ask(t, of(deadline.Access, "p-1")) },
		"waiting": func() *vault.Request {
			n := of(deadline.Access, "p-1")
			n.Approval = true
			return h.step(t, h.ask(t, n).ID, verified)
		},
		"deferred": func() *vault.Request { return h.step(t, h.ask(t, of(deadline.Erasure, "p-2")).ID, verified) },
		"expired": func() *vault.Request {
			r := h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, taken["pause"])
			h.Exec(`update privault.requests set asked_at = asked_at - interval '91 days' where state = 'verifying' and paused_at is not null`)
			if _, err := h.NoteDeadlines(t.Context(), h.who.Tenant, 100); err != nil {
				t.Fatal(err)
			}
			return r
		},
	}
	after := func(from string, s vault.Step) func() *vault.Request {
		return func() *vault.Request { return h.step(t, bring[from]().ID, s) }
	}
	bring["verifying"] = after("received", vault.Step{Kind: vault.StepVerify, Asked: true})
	bring["paused"] = after("received", taken["pause"])
	bring["in_progress"] = after("received", verified)
	bring["completed"] = after("in_progress", taken["complete"])
	bring["denied"] = after("received", taken["deny"])
	bring["cancelled"] = after("received", taken["cancel"])

	lines := strings.Split(strings.TrimSpace(stepTable), "\n")
	kinds := strings.Fields(lines[0])
	if len(kinds) != len(taken) || len(lines)-1 != len(bring) {
		t.Fatalf("%d kinds of step and %d states", len(kinds), len(lines)-1)
	}
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		for i, kind := range kinds {
			id := bring[cells[0]]().ID
			before, err := h.GetRequest(t.Context(), h.who, id)
			if err != nil {
				t.Fatal(err)
			}
			who := h.who
			if kind == "approve" {
				who = colleague
			}
			r, err := h.TakeStep(t.Context(), who, id, taken[kind])
			now, unread := h.GetRequest(t.Context(), h.who, id)
			if unread != nil {
				t.Fatal(unread)
			}
			want := cells[i+1]
			switch {
			case want == ".":
				wantKind(t, cells[0]+", "+kind, err, vault.Conflict)
			case err != nil:
				t.Errorf("%s, %s: %v, want %s", cells[0], kind, err, want)
				continue
			case want == "=":
				want = before.State
			}
			switch {
			case cells[i+1] == "." || cells[i+1] == "=":
				if now.Version != before.Version || len(now.History) != len(before.History) || now.State != before.State {
					t.Errorf("%s, %s changed something: %s %d, %s %d", cells[0], kind, before.State, before.Version, now.State, now.Version)
				}
			case r.State != want || now.State != want || now.Version <= before.Version || len(now.History) <= len(before.History):
				t.Errorf("%s, %s: %s, then read %s version %d, want %s", cells[0], kind, r.State, now.State, now.Version, want)
			case now.History[len(now.History)-1].State != want:
				t.Errorf("%s, %s: the history ends with %+v", cells[0], kind, now.History[len(now.History)-1])
			}
		}
	}
}

func TestAVerifiedErasureErases(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			other := h.ask(t, vault.NewRequest{Type: deadline.Access, Regime: deadline.GDPR, Terms: vault.Terms{Subject: "p-1", Agent: &vault.Agent{Reference: "lawyer-3", Proof: "power-of-attorney"}}})
			r := h.ask(t, of(deadline.Erasure, "p-1"))
			if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
				t.Fatalf("before it is verified: %s", got)
			}
			r = h.step(t, r.ID, verified)
			if r.State != vault.RequestCompleted || r.Outcome != vault.OutcomeComplied || r.Certificate == "" || r.Closed == nil {
				t.Errorf("the request is %+v", r)
			}
			for _, token := range h.tokens["p-1"] {
				if got := h.Reveal(h.who, token); got != string(vault.TokenNotFound) {
					t.Errorf("a token of the erased person gives %s", got)
				}
			}
			if e, err := h.GetErasure(t.Context(), h.who, r.Certificate); err != nil || e.Reason != "gdpr-17" || e.Requested.Compare(r.Received) != 0 {
				t.Errorf("the erasure is %+v, %v", e, err)
			}
			// Nothing brings the person back: the terms of both requests are gone with their keys.
			for _, id := range []string{r.ID, other.ID} {
				got, err := h.GetRequest(t.Context(), h.who, id)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(vault.Terms{}, got.Terms); diff != "" {
					t.Errorf("what is left of the person (-want +got):\n%s", diff)
				}
			}
			if n := vaulttest.CountURL(t, h.KeysURL, `select count(*) from keystore.data_keys where tenant_id = $1`, h.who.Tenant); n != 4 {
				t.Errorf("%d keys are left, want the 4 of the other person's records", n)
			}
			// But they are found by who knows the reference, and the open one is answered.
			page, _, err := h.ListRequests(t.Context(), h.who, vault.RequestQuery{Subject: "p-1"}, "", 10)
			if err != nil || len(page) != 2 {
				t.Errorf("%d requests of the person are found, %v", len(page), err)
			}
			if got := h.step(t, other.ID, verified); got.State != vault.RequestCompleted || got.Outcome != vault.OutcomeNothingHeld {
				t.Errorf("the access request of the erased person is %s %s", got.State, got.Outcome)
			}
			// Asked again, it is the same erasure.
			if again := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified); again.Certificate != r.Certificate || again.Outcome != vault.OutcomeComplied {
				t.Errorf("erased again: %+v", again)
			}
		})
	}
}

// Threat: whoever opens requests in somebody's name must not get in the way of the true one.
func TestUnverifiedRequestsBlockNothing(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	var false_ []string
	for i := range 60 {
		typ := []deadline.Type{deadline.Erasure, deadline.Access, deadline.Restriction}[i%3]
		r := h.ask(t, of(typ, "p-1"))
		if i%2 == 0 {
			h.step(t, r.ID, vault.Step{Kind: vault.StepPause, Reason: "identity"})
		}
		false_ = append(false_, r.ID)
	}
	true_ := h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, verified)
	if true_.State != vault.RequestInProgress {
		t.Errorf("the true request is %s", true_.State)
	}
	for _, id := range false_ {
		r, err := h.GetRequest(t.Context(), h.who, id)
		if err != nil || r.State != vault.RequestReceived && r.State != vault.RequestVerifying || r.Verified != nil {
			t.Fatalf("a false request is %+v, %v", r, err)
		}
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("the false requests have done something: %s", got)
	}
	if erased := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified); erased.State != vault.RequestCompleted {
		t.Errorf("the true erasure is %s", erased.State)
	}
}

func TestAnErasureUnderAHoldIsDoneOnRelease(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	hold, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-1"})
	if err != nil {
		t.Fatal(err)
	}
	first := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	second := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	if first.State != vault.RequestDeferred || second.State != vault.RequestDeferred || first.Certificate != second.Certificate {
		t.Fatalf("%s %s, %s %s", first.State, first.Certificate, second.State, second.Certificate)
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("under the hold: %s", got)
	}
	if err := h.ReleaseHold(t.Context(), h.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	h.Work()
	for _, r := range []*vault.Request{first, second} {
		h.Until(func() bool {
			got, err := h.GetRequest(t.Context(), h.who, r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got.State == vault.RequestCompleted {
				last := got.History[len(got.History)-1]
				if got.Outcome != vault.OutcomeComplied || got.Terms.Subject != "" || last.Event != "completed" || last.By != "" {
					t.Errorf("%+v", got)
				}
			}
			return got.State == vault.RequestCompleted
		})
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != string(vault.TokenNotFound) {
		t.Errorf("after the release: %s", got)
	}
}

// State and effect are one commit: whichever statement fails, neither stays.
func TestARequestAndWhatItDoesCommitTogether(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"privault.requests", "privault.request_events", "privault.erasures", "privault.subjects", "keystore.data_keys"} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t)
			r := h.ask(t, of(deadline.Erasure, "p-1"))
			h.Exec(raises(broken))
			_, err := h.TakeStep(t.Context(), h.who, r.ID, verified)
			wantKind(t, "an erasure with a broken "+broken, err, vault.Internal)
			if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
				t.Errorf("the value is %s", got)
			}
			h.Exec(`drop trigger broken on ` + broken)
			if got, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || got.State != vault.RequestReceived || got.Terms.Subject != "p-1" || len(got.History) != 1 {
				t.Errorf("the request is %+v, %v", got, err)
			}
			if got := h.step(t, r.ID, verified); got.State != vault.RequestCompleted {
				t.Errorf("tried again it is %s", got.State)
			}
		})
	}
}

// Two replicas that verify, deny and cancel the same request at once: one of them decides.
func TestARaceForARequestIsDecidedOnce(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	replicas := []*vault.Vault{h.Vault, h.Replica()}
	for round := range 12 {
		h.store(t, "people", fmt.Sprint("racer-", round))
		r := h.ask(t, of(deadline.Erasure, fmt.Sprint("racer-", round)))
		steps := []vault.Step{verified, {Kind: vault.StepDeny, Reason: "excessive"}, {Kind: vault.StepCancel},
			{Kind: vault.StepVerify, Method: "account"}, {Kind: vault.StepDeny, Reason: "no-ground"}, {Kind: vault.StepPause, Reason: "identity"}}
		var wait sync.WaitGroup
		for i, s := range steps {
			wait.Go(func() {
				if _, err := replicas[i%2].TakeStep(t.Context(), h.who, r.ID, s); err != nil && vault.AsError(err).Kind != vault.Conflict {
					t.Errorf("%s: %v", s.Kind, err)
				}
			})
		}
		wait.Go(func() {
			if _, err := replicas[round%2].EraseSubject(t.Context(), h.who, fmt.Sprint("racer-", round), "controller", false); err != nil {
				t.Error(err)
			}
		})
		wait.Wait()
		got, err := h.GetRequest(t.Context(), h.who, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		var ends []string
		for _, e := range got.History {
			switch e.Event {
			case "completed", "denied", "cancelled":
				ends = append(ends, e.Event)
			}
		}
		if len(ends) != 1 || got.State != ends[0] {
			t.Errorf("the request is %s, and ended with %v", got.State, ends)
		}
		if n := h.Count(`select count(*) from privault.erasures where certificate is not null`); n != round+1 {
			t.Errorf("%d erasures after %d rounds", n, round+1)
		}
	}
}

// Who contests that their data is right may have it restricted meanwhile (GDPR 18(1)(a)): it is corrected all the same.
func TestARestrictedPersonsDataIsCorrected(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.step(t, h.ask(t, of(deadline.Restriction, "p-1")).ID, verified)
	patch := vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}}
	_, err := h.PatchRecord(t.Context(), h.who, "people", h.of["p-1"][0], patch)
	wantKind(t, "a change by anybody", err, vault.SubjectRestricted)
	n := of(deadline.Correction, "p-1")
	n.Terms.Collection, n.Terms.Record, n.Fields = "people", h.of["p-1"][0], patch.Fields
	r := h.ask(t, n)
	_, err = h.TakeStep(t.Context(), vaulttest.As(h.who, "auditor"), r.ID, verified)
	wantKind(t, "by who only reads", err, vault.Forbidden)
	if got := h.step(t, r.ID, verified); got.State != vault.RequestCompleted {
		t.Errorf("the correction is %s", got.State)
	}
	if n := h.Count(`select count(*) from privault.requests where proposal is not null`); n != 0 {
		t.Error("what the correction brought is still there")
	}
	for _, e := range []vault.Explain{{Action: "record.correct", Roles: []string{"compliance"}}, {Action: "record.update", Roles: []string{"backend-writer"}}} {
		e.Collection, e.Field, e.Subject = "people", "name", policy.SubjectFacts{Known: true, Restricted: true}
		got, err := h.Explain(t.Context(), h.who, e)
		if err != nil || got.Allowed != (e.Action == "record.correct") {
			t.Errorf("%s is explained as %+v, %v", e.Action, got, err)
		}
	}
	lift := vaulttest.As(h.who, "compliance")
	if err := h.LiftRestriction(t.Context(), lift, "p-1", h.Now()); err != nil {
		t.Fatal(err)
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != `"Joe"` {
		t.Errorf("the value is %s", got)
	}
}

// Nobody gets what a request does without its own privilege: a policy against erasing is one against erasing by request.
func TestARequestTakesThePrivilegeOfWhatItDoes(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.define(t, "letters")
	officer := vaulttest.As(h.who, "compliance")
	if _, _, err := h.PutPolicy(t.Context(), h.who, "narrow", `@id("n") forbid (principal in Role::"compliance",
		action in [Action::"erase", Action::"subject.restrict", Action::"consent.write", Action::"record.correct"], resource);`, 0); err != nil {
		t.Fatal(err)
	}
	objection, correction := of(deadline.Objection, "p-1"), of(deadline.Correction, "p-1")
	objection.Terms.Purpose = "letters"
	correction.Terms.Collection, correction.Terms.Record, correction.Remove = "people", h.of["p-1"][0], []string{"name"}
	for _, n := range []vault.NewRequest{of(deadline.Erasure, "p-1"), of(deadline.Restriction, "p-1"), objection, correction} {
		r, err := h.OpenRequest(t.Context(), officer, n)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.TakeStep(t.Context(), officer, r.ID, verified)
		wantKind(t, string(n.Type)+" without its privilege", err, vault.Forbidden)
		if got, err := h.GetRequest(t.Context(), officer, r.ID); err != nil || got.State != vault.RequestReceived || got.Verified != nil {
			t.Errorf("the %s is %s, %v", n.Type, got.State, err)
		}
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("the value is %s", got)
	}
}

// A restored backup doesn't bring back whom a request named: the replay takes that away again, and the request goes on.
func TestARestoredRequestDoesNotNameTheErased(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			r, other := h.ask(t, of(deadline.Erasure, "p-1")), h.ask(t, of(deadline.Access, "p-1"))
			h.step(t, h.ask(t, of(deadline.Restriction, "p-2")).ID, verified)
			data, keys := h.Backup()
			done := h.step(t, r.ID, verified)
			restricted := h.step(t, h.ask(t, of(deadline.Restriction, "p-2")).ID, verified)
			if err := h.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.Close()
			back := h.On(data, keys)
			replay(t, back)
			back.Vault = back.Replica()
			for _, id := range []string{r.ID, other.ID} {
				got, err := back.GetRequest(t.Context(), h.who, id)
				if err != nil || got.Terms.Subject != "" || got.State != vault.RequestReceived {
					t.Errorf("%s names %q and is %s, %v", id, got.Terms.Subject, got.State, err)
				}
			}
			if n := back.Count(`select count(*) from privault.requests where sealed is not null`); n != 1 {
				t.Errorf("%d requests have something sealed, want that of the other person", n)
			}
			if again, err := back.TakeStep(t.Context(), h.who, r.ID, verified); err != nil || again.Certificate != done.Certificate || again.State != vault.RequestCompleted {
				t.Errorf("taken up again: %+v, %v", again, err)
			}
			if said, err := back.GetRestriction(t.Context(), h.who, "p-2"); err != nil || said.Reference != restricted.ID {
				t.Errorf("the restriction by a request that the backup doesn't have: %+v, %v", said, err)
			}
		})
	}
}

// Corrections, changes and erasures of one person at once: none waits for another in a circle, and the erased stay gone.
func TestCorrectionsBesideChangesAndErasures(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	replicas := []*vault.Vault{h.Vault, h.Replica()}
	for round := range 8 {
		subject := fmt.Sprint("busy-", round)
		stored := h.store(t, "orders", subject)
		var wait sync.WaitGroup
		for i := range 6 {
			n := of(deadline.Correction, subject)
			n.Terms.Collection, n.Terms.Record, n.Fields = "orders", stored.Record, map[string]vault.Secret{"name": secret(`"Joe"`)}
			r := h.ask(t, n)
			wait.Go(func() {
				if _, err := replicas[i%2].TakeStep(t.Context(), h.who, r.ID, verified); err != nil && vault.AsError(err).Kind != vault.Conflict {
					t.Errorf("a correction: %v", err)
				}
			})
			wait.Go(func() {
				_, err := replicas[i%2].PatchRecord(t.Context(), h.who, "orders", stored.Record, vault.Patch{IfVersion: int32(i + 1), Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}})
				if kind := vault.AsError(err).Kind; err != nil && kind != vault.PreconditionFailed && kind != vault.NotFound {
					t.Errorf("a change: %v", err)
				}
			})
		}
		erasure := h.ask(t, of(deadline.Erasure, subject))
		wait.Go(func() {
			if _, err := replicas[round%2].TakeStep(t.Context(), h.who, erasure.ID, verified); err != nil {
				t.Errorf("an erasure: %v", err)
			}
		})
		wait.Wait()
		if got := h.Reveal(h.who, stored.Tokens["name"]); got != string(vault.TokenNotFound) {
			t.Errorf("the erased person's token gives %s", got)
		}
	}
	if n := h.Count(`select count(*) from privault.requests where sealed is not null or proposal is not null`); n != 0 {
		t.Errorf("%d requests of erased persons still say something", n)
	}
}

// addRequests gives a scene requests, one of them long overdue.
func (s *scene) addRequests(t *testing.T) {
	t.Helper()
	long := s.Now().AddDate(0, -3, 0)
	for _, n := range []vault.NewRequest{of(deadline.Erasure, "asking-1"), {Type: deadline.Access, Regime: deadline.CCPA, Terms: vault.Terms{Subject: "asking-2"}, Received: &long}} {
		r, err := s.OpenRequest(t.Context(), s.who, n)
		if err != nil {
			t.Fatal(err)
		}
		s.request = r.ID
	}
	s.Exec(`insert into privault.packages select tenant_id, request_id, null, null, 1, received_at from privault.requests`)
}

func requestOperations() []operation {
	ctx := context.Background()
	open := func(s *scene, who vault.Caller, n vault.NewRequest) error {
		_, err := s.OpenRequest(ctx, who, n)
		return err
	}
	take := func(s *scene, who vault.Caller, step vault.Step) error {
		_, err := s.TakeStep(ctx, who, s.request, step)
		return err
	}
	read := func(s *scene, who vault.Caller, id string) error {
		_, err := s.GetRequest(ctx, who, id)
		return err
	}
	page := func(s *scene, who vault.Caller, q vault.RequestQuery) error {
		_, _, err := s.ListRequests(ctx, who, q, "", 10)
		return err
	}
	return []operation{
		{name: "OpenRequest", action: policy.RunRequests, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { return open(s, who, of(deadline.Erasure, "asking-1")) },
			fail: func(s *scene, who vault.Caller) error { return open(s, who, of("complaint", "asking-1")) }},
		{name: "GetRequest", action: policy.ReadRequests, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return read(s, who, s.request) },
			fail: func(s *scene, who vault.Caller) error { return read(s, who, "req_x") }},
		{name: "ListRequests", action: policy.ReadRequests, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { return page(s, who, vault.RequestQuery{Subject: "asking-1"}) },
			fail: func(s *scene, who vault.Caller) error { return page(s, who, vault.RequestQuery{State: "lost"}) }},
		{name: "RequestMetrics", action: policy.ReadRequests, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.RequestMetrics(ctx, who, deadline.CCPA, 2026)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.RequestMetrics(ctx, who, deadline.CCPA, 1999)
				return err
			}},
		{name: "NoteDeadlines", action: policy.Sweep, operator: true, problem: vault.Internal,
			do: func(s *scene, who vault.Caller) error { _, err := s.NoteDeadlines(ctx, who.Tenant, 10); return err },
			fail: func(s *scene, who vault.Caller) error {
				s.Exec(`alter table privault.request_events rename to elsewhere`)
				defer s.Exec(`alter table privault.elsewhere rename to request_events`)
				_, err := s.NoteDeadlines(ctx, who.Tenant, 10)
				return err
			}},
		{name: "SweepRequests", action: policy.Sweep, operator: true, problem: vault.Internal,
			do: func(s *scene, who vault.Caller) error { _, err := s.SweepRequests(ctx, who.Tenant, 10); return err },
			fail: func(s *scene, who vault.Caller) error {
				s.Exec(`alter table privault.requests rename to elsewhere`)
				defer s.Exec(`alter table privault.elsewhere rename to requests`)
				_, err := s.SweepRequests(ctx, who.Tenant, 10)
				return err
			}},
		{name: "TakeStep", action: policy.RunRequests, problem: vault.Conflict,
			do:   func(s *scene, who vault.Caller) error { return take(s, who, vault.Step{Kind: vault.StepAcknowledge}) },
			fail: func(s *scene, who vault.Caller) error { return take(s, who, vault.Step{Kind: vault.StepApprove}) }},
	}
}
