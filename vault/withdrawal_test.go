package vault_test

import (
	"testing"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
)

// Who takes an erasure back that waits for a hold is not erased when the hold is released, unless somebody else asked for it too.
func TestAnErasureThatWaitsIsTakenBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end    vault.Step
		direct bool // somebody asks for it without a request too
		shared bool // another request waits for it
		stays  bool
	}{
		"cancelled":             {end: vault.Step{Kind: vault.StepCancel}},
		"denied":                {end: vault.Step{Kind: vault.StepDeny, Reason: "legal-claims"}},
		"asked for directly":    {end: vault.Step{Kind: vault.StepCancel}, direct: true, stays: true},
		"asked for by two":      {end: vault.Step{Kind: vault.StepCancel}, shared: true, stays: true},
		"by two, and both ends": {end: vault.Step{Kind: vault.StepCancel}, shared: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t)
			hold, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-1"})
			if err != nil {
				t.Fatal(err)
			}
			r := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
			waiting := []string{r.ID}
			if c.shared {
				waiting = append(waiting, h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified).ID)
			}
			if c.direct && h.erase(t, "p-1").ID != r.Certificate {
				t.Fatal("it is another erasure")
			}
			ends := waiting
			if c.stays {
				ends = waiting[:1]
			}
			for _, id := range ends {
				for range 2 { // repeating it changes nothing
					if got := h.step(t, id, c.end); got.State != vault.RequestCancelled && got.State != vault.RequestDenied || got.Closed == nil {
						t.Errorf("the request is %+v", got)
					}
				}
			}
			want := vault.ErasureWithdrawn
			if c.stays {
				want = vault.ErasureDeferred
			}
			if e, err := h.GetErasure(t.Context(), h.who, r.Certificate); err != nil || e.State != want {
				t.Errorf("the erasure is %s, want %s: %v", e.State, want, err)
			}
			if err := h.ReleaseHold(t.Context(), h.who, hold.ID); err != nil {
				t.Fatal(err)
			}
			h.Work()
			if c.stays {
				h.Until(func() bool { return h.Reveal(h.who, h.tokens["p-1"][0]) == string(vault.TokenNotFound) })
				return
			}
			h.Until(func() bool {
				return h.Count(`select count(*) from privault.jobs where state in ('queued', 'running')`) == 0
			})
			if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
				t.Errorf("after the release: %s", got)
			}
			// It can be asked for again, and is another erasure.
			if e := h.erase(t, "p-1"); e.State != vault.ErasureErased || e.ID == r.Certificate {
				t.Errorf("asked for again: %+v", e)
			}
		})
	}
}

// A database from before it was taken back, or whose commit was lost, doesn't erase the person after all, and the request ends as it did.
func TestATakenBackErasureOutlivesARestore(t *testing.T) {
	t.Parallel()
	for want, end := range map[string]vault.Step{
		vault.RequestCancelled: {Kind: vault.StepCancel},
		vault.RequestDenied:    {Kind: vault.StepDeny, Reason: "legal-claims"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			takenBackBeforeARestore(t, end, want)
		})
	}
}

func takenBackBeforeARestore(t *testing.T, end vault.Step, want string) {
	t.Helper()
	h := newHousehold(t)
	hold, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-1"})
	if err != nil {
		t.Fatal(err)
	}
	r := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	if err := h.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, keys := h.Backup()
	was := h.step(t, r.ID, end)
	h.Close()
	b := h.On(data, keys)
	b.Vault = b.Replica()
	if done := replay(t, b); done.Lines != 1 {
		t.Errorf("the replay: %+v", done)
	}
	if err := b.WatchLedger(t.Context()); err != nil {
		t.Fatal("after the replay: ", err)
	}
	got, err := b.GetRequest(t.Context(), h.who, r.ID)
	if err != nil || got.State != want || got.Denial != end.Reason || got.Outcome != "" || got.Law() != was.Law() {
		t.Errorf("the request is %+v, %v", got, err)
	} else if last := got.History[len(got.History)-1]; last.Event != want || last.State != want || last.Reason != end.Reason {
		t.Errorf("its history ends with %+v", last)
	}
	if err := b.ReleaseHold(t.Context(), h.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	b.Work()
	b.Until(func() bool {
		return b.Count(`select count(*) from privault.jobs where state in ('queued', 'running')`) == 0
	})
	if got := b.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("after the release: %s", got)
	}
}

func TestATakenBackErasureWhoseCommitWasLost(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-1"}); err != nil {
		t.Fatal(err)
	}
	r := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	h.Exec(failCommits)
	if _, err := h.TakeStep(t.Context(), h.who, r.ID, vault.Step{Kind: vault.StepDeny, Reason: "legal-claims"}); err == nil {
		t.Fatal("the commit did not fail")
	}
	h.Exec(letCommit)
	h.Vault = h.Replica() // finishes what the ledger says was begun
	e, err := h.GetErasure(t.Context(), h.who, r.Certificate)
	got, err2 := h.GetRequest(t.Context(), h.who, r.ID)
	if err != nil || err2 != nil || e.State != vault.ErasureWithdrawn || got.State != vault.RequestDenied || got.Denial != "legal-claims" {
		t.Errorf("the erasure is %s, the request %s: %v %v", e.State, got.State, err, err2)
	}
}

// Somebody else may want the erasure before the lost withdrawal is finished: it stays then, and the ledger says so.
func TestAWithdrawalThatWasLostAsksWhoWantsTheErasure(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-1"}); err != nil {
		t.Fatal(err)
	}
	r := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	if err := h.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, keys := h.Backup()
	h.Exec(failCommits)
	if _, err := h.TakeStep(t.Context(), h.who, r.ID, vault.Step{Kind: vault.StepCancel}); err == nil {
		t.Fatal("the commit did not fail")
	}
	h.Exec(letCommit)
	second := h.step(t, h.ask(t, of(deadline.Erasure, "p-1")).ID, verified)
	h.Vault = h.Replica()
	e, err := h.GetErasure(t.Context(), h.who, r.Certificate)
	got, unread := h.GetRequest(t.Context(), h.who, second.ID)
	if err != nil || unread != nil || e.State != vault.ErasureDeferred || got.State != vault.RequestDeferred {
		t.Errorf("the erasure is %s, the second request %s: %v %v", e.State, got.State, err, unread)
	}
	h.Close()
	b := h.On(data, keys)
	b.Vault = b.Replica()
	replay(t, b)
	if err := b.WatchLedger(t.Context()); err != nil {
		t.Fatal("after the replay: ", err)
	}
	if e, err := b.GetErasure(t.Context(), h.who, r.Certificate); err != nil || e.State != vault.ErasureDeferred {
		t.Errorf("replayed, the erasure is %s: %v", e.State, err)
	}
}
