package vault_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// inPart is a request for the erasure of a part.
func inPart(p vault.PartialErasure) vault.NewRequest {
	n := of(deadline.Erasure, "p-1")
	n.Terms.Scope, n.Terms.Retained = p.Scope, p.Retained
	return n
}

func TestARequestErasesAPart(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	h := &household{Bench: c.Bench, who: c.who}
	// What can't be is said when it is opened, and what doesn't fit what is held when it is carried out.
	for rule, change := range map[string]func(*vault.NewRequest){
		"unknown-collection": func(n *vault.NewRequest) { n.Terms.Scope = []vault.ErasurePart{{Collection: "nothing"}} },
		"unknown-field": func(n *vault.NewRequest) {
			n.Terms.Scope = []vault.ErasurePart{{Collection: "orders", Fields: []string{"x"}}}
		},
		"size": func(n *vault.NewRequest) { n.Terms.Scope = []vault.ErasurePart{} },
		"ground": func(n *vault.NewRequest) {
			n.Terms.Retained = []vault.Retained{{Collection: "orders", Ground: "because"}}
		},
		"scope":          func(n *vault.NewRequest) { n.Terms.Scope = nil },
		"not-applicable": func(n *vault.NewRequest) { n.Type = deadline.Access },
	} {
		n := inPart(partial())
		change(&n)
		_, err := h.OpenRequest(t.Context(), h.who, n)
		wantKind(t, rule, err, vault.Invalid)
		if err != nil && vault.AsError(err).Fields[0].Rule != rule {
			t.Errorf("%s: %v", rule, err)
		}
	}
	unsaid := partial()
	unsaid.Retained = nil
	r := h.ask(t, inPart(unsaid))
	_, err := h.TakeStep(t.Context(), h.who, r.ID, verified)
	wantKind(t, "a ground is missing", err, vault.Invalid)
	if got, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || got.State != vault.RequestReceived || got.Verified != nil {
		t.Errorf("the request is %+v, %v", got, err)
	}
	h.step(t, r.ID, vault.Step{Kind: vault.StepCancel})

	// Under a hold it waits, and is answered once the hold is released.
	hold, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Record: c.letter.Record})
	if err != nil {
		t.Fatal(err)
	}
	r = h.step(t, h.ask(t, inPart(partial())).ID, verified)
	if r.State != vault.RequestDeferred || c.Reveal(c.who, c.letter.Tokens["name"]) != `"Jane"` {
		t.Fatalf("under a hold the request is %s", r.State)
	}
	if err := h.ReleaseHold(t.Context(), h.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	h.Work()
	h.Until(func() bool {
		r, err = h.GetRequest(t.Context(), h.who, r.ID)
		return err == nil && r.State == vault.RequestCompleted
	})
	c.hasPart(t, c.Bench)
	if diff := cmp.Diff(partial().Scope, r.Terms.Scope); diff != "" || r.Outcome != vault.OutcomeComplied {
		t.Errorf("%s; the request's scope (-want +got):\n%s", r.Outcome, diff)
	}
	if e, err := h.GetErasure(t.Context(), h.who, r.Certificate); err != nil || e.Certificate == "" || len(e.Retained) != 1 || e.Retained[0].Records != 1 {
		t.Errorf("the erasure is %+v, %v", e, err)
	}
	m, err := h.RequestMetrics(t.Context(), h.who, deadline.GDPR, h.Now().Year())
	if err != nil || m.All.Complied != 1 || m.All.InPart != 1 {
		t.Errorf("counted: %+v, %v", m, err)
	}
	// Nothing of it is left: nothing more is erased.
	letters := vault.PartialErasure{Scope: []vault.ErasurePart{{Collection: "letters"}}, Retained: partial().Retained}
	if r := h.step(t, h.ask(t, inPart(letters)).ID, verified); r.Outcome != vault.OutcomeNothingHeld {
		t.Errorf("again: %+v", r)
	}
	c.hasPart(t, c.Bench)
	// All of the person: nothing stays in part.
	h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	if m, err := h.RequestMetrics(t.Context(), h.who, deadline.GDPR, h.Now().Year()); err != nil || m.All.Complied != 3 || m.All.InPart != 1 {
		t.Errorf("counted: %+v, %v", m, err)
	}
}

// Threat: a request names a person who was erased, and so leads back to them.
func TestNoRequestLeadsToWhomIsErased(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	named := func() int { return h.Count(`select count(*) from privault.requests where sealed is not null`) }
	part := inPart(vault.PartialErasure{Scope: []vault.ErasurePart{{Collection: "people"}}, Retained: []vault.Retained{{Collection: "orders", Ground: "legal-claims"}}})
	before := h.ask(t, part)
	h.Exec(`update privault.requests set opened_at = opened_at + interval '1 second' where state = 'received'`) // another replica's clock
	h.erase(t, "p-1")
	if named() != 0 {
		t.Error("a request of a clock that is ahead still names the person")
	}
	h.ask(t, of(deadline.Access, "p-1"))
	if _, err := h.EraseSubject(t.Context(), h.who, "p-1", "controller", true); err != nil || named() != 1 {
		t.Error("a dry run did something: ", err)
	}
	h.erase(t, "p-1")
	if named() != 0 {
		t.Error("erased again, a request still names the person")
	}
	h.ask(t, of(deadline.Access, "p-1"))
	h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	if named() != 0 {
		t.Error("erased again by request, a request still names the person")
	}
	// What a request asked for in part doesn't become all of somebody who is there again.
	h.store(t, "people", "p-1")
	_, err := h.TakeStep(t.Context(), h.who, before.ID, verified)
	wantKind(t, "a request whose scope is gone", err, vault.Conflict)
	if m, _, err := h.GetSubject(t.Context(), h.who, "p-1", "", 10); err != nil || len(m.Records) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

// A request that is being opened for a person keeps them from being erased unseen: the erasure waits for it.
func TestWhoOpensARequestLocksThePerson(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	conn, err := pgx.Connect(t.Context(), h.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select from privault.subjects for update`); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := h.OpenRequest(t.Context(), h.who, of(deadline.Access, "p-1"))
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Error("it did not wait for who has the person locked: ", err)
	case <-time.After(500 * time.Millisecond):
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-opened; err != nil {
			t.Error(err)
		}
	}
}

// Threat: who may not run requests has the KMS asked, or a budget spent.
func TestNothingIsSpentBeforeTheDecision(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	n := of(deadline.Correction, "p-1")
	n.Terms.Collection, n.Terms.Record, n.Approval = "people", h.of["p-1"][0], true
	n.Fields = map[string]vault.Secret{"name": secret(`"Joe"`)}
	r := h.ask(t, n)
	// What is sealed under a broken key does not open: who looks at it fails.
	h.Exec(`update keystore.data_keys set wrapped = wrapped || '\x00'::bytea where version = 2`)
	_, err := h.TakeStep(t.Context(), vaulttest.As(h.who, "auditor"), r.ID, verified)
	wantKind(t, "who only reads", err, vault.Forbidden)
	if n := h.Count(`select count(*) from privault.audit_entries where action = $1 and outcome = 'denied'`, string(policy.RunRequests)); n != 1 {
		t.Errorf("%d entries of the refusal", n)
	}
	if got := h.step(t, r.ID, verified); got.State != vault.RequestWaiting {
		t.Errorf("a step that only leads to the approval looked at the correction: %s", got.State)
	}
	if _, err := h.TakeStep(t.Context(), h.colleague(t), r.ID, vault.Step{Kind: vault.StepApprove}); err == nil {
		t.Error("the approval did not look at the correction")
	}
}
