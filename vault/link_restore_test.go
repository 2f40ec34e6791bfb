package vault_test

import (
	"context"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/vaulttest"
)

// A database from before a link knows afterwards that there is one: a hold of the person, and a restriction, are for all records.
func TestALinkSurvivesARestore(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			ctx := t.Context()
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			data, keys := h.Backup()
			l := h.link(t, "p-1", "p-2")
			h.link(t, "p-1", "p-3") // unknown before
			if _, err := h.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Subject: "p-1"}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.Restrict(ctx, h.who, "p-3", "dispute", nil); err != nil {
				t.Fatal(err)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			h.Close()
			r := h.On(data, keys)
			r.Vault = r.Replica()
			wantKind(t, "before the replay", r.Ready(ctx), vault.RestoreFence)
			if done := replay(t, r); done.Lines != 4 || done.Links != 2 || done.Unfinished != 0 {
				t.Errorf("the replay: %+v", done)
			}
			if again := replay(t, r); again.Lines != 0 {
				t.Errorf("replayed again: %+v", again)
			}
			if err := r.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			for _, subject := range []string{"p-1", "p-2", "p-3"} {
				if n := heldOf(t, r.Vault, h.who, subject); n != 8 {
					t.Errorf("%s has %d records, want 8", subject, n)
				}
			}
			wantKind(t, "deleting a record of the other", r.DeleteRecord(ctx, h.who, "people", h.of["p-2"][0], 0), vault.SubjectRestricted)
			if err := r.LiftRestriction(ctx, h.who, "p-2", h.Now()); err != nil {
				t.Fatal(err)
			}
			wantKind(t, "deleting a record of the other", r.DeleteRecord(ctx, h.who, "people", h.of["p-2"][0], 0), vault.LegalHold)
			links, _, err := r.Links(ctx, h.who, "p-2", "", 10)
			if err != nil || len(links) != 2 || links[1].ID != l.ID || links[1].Linked != "" || !links[1].Merged || links[0].Merged || links[1].Records != 4 {
				t.Errorf("links after a restore, of which the references are lost: %+v %v", links, err)
			}
		})
	}
}

// A database from before a link in which both are alive doesn't bring either back when the one person was erased; nor does a keystore alone.
func TestAnErasureOfALinkedPersonSurvivesARestore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options          []vaulttest.Option
		oldData, oldKeys bool
	}{
		"one database":  {nil, true, true},
		"data and keys": {[]vaulttest.Option{vaulttest.Apart}, true, true},
		"data alone":    {[]vaulttest.Option{vaulttest.Apart}, true, false},
		"keys alone":    {[]vaulttest.Option{vaulttest.Apart}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, c.options...)
			ctx := t.Context()
			request, err := h.OpenRequest(ctx, h.who, of(deadline.Access, "p-2"))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			data, keys := h.Backup()
			h.link(t, "p-1", "p-2")
			h.store(t, "people", "p-2")
			e := h.erase(t, "p-1")
			if e.Counts.Records != 9 {
				t.Fatal(e)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			h.Close()
			if !c.oldData {
				data = vaulttest.DatabaseOf(t, h.OwnerURL)
			}
			if !c.oldKeys {
				keys = vaulttest.DatabaseOf(t, h.KeysURL)
			}
			r := h.On(data, keys)
			r.Vault = r.Replica()
			if done := replay(t, r); done.Erasures != 1 {
				t.Errorf("the replay: %+v", done)
			}
			if err := r.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			if n := vaulttest.CountURL(t, r.KeysURL, `select count(*) from keystore.data_keys`); n != 0 {
				t.Errorf("%d keys came back", n)
			}
			for _, subject := range []string{"p-1", "p-2"} {
				for _, token := range h.tokens[subject] {
					if got := r.Reveal(h.who, token); got != string(vault.TokenNotFound) {
						t.Errorf("a token of %s gives %s", subject, got)
					}
				}
				if again, err := r.EraseSubject(ctx, h.who, subject, "gdpr-17", false); err != nil || again.ID != e.ID {
					t.Errorf("erasing %s again gives %s %v, want %s", subject, again.ID, err, e.ID)
				}
			}
			if got, err := r.GetRequest(ctx, h.who, request.ID); err != nil || got.Terms.Subject != "" {
				t.Errorf("a request still says %q: %v", got.Terms.Subject, err)
			}
			if n := r.Count(`select (select count(*) from privault.subjects) + (select count(*) from privault.subject_links)`); n != 0 {
				t.Errorf("%d rows lead to the person", n)
			}
		})
	}
}

// A link that was written ahead and never committed is made, unless one of the two was erased meanwhile.
func TestALinkThatWasBegunIsFinished(t *testing.T) {
	t.Parallel()
	for _, erased := range []string{"", "p-1", "p-2"} {
		t.Run("erased: "+erased, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t)
			h.Exec(`create function privault.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
				create constraint trigger refuse after insert on privault.subject_links deferrable initially deferred for each row execute function privault.refuse()`)
			if _, _, err := h.LinkSubjects(t.Context(), h.who, "p-1", "p-2", "duplicate"); err == nil {
				t.Fatal("the commit did not fail")
			}
			h.Exec(letCommit)
			if erased != "" {
				h.erase(t, erased)
			}
			h.Advance(2 * time.Minute)
			if err := h.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			switch erased {
			case "":
				if n := heldOf(t, h.Vault, h.who, "p-2"); n != 8 {
					t.Errorf("p-2 has %d records, want 8", n)
				}
			case "p-1":
				if n := heldOf(t, h.Vault, h.who, "p-2"); n != 4 {
					t.Errorf("p-2 has %d records, want 4", n)
				}
			case "p-2":
				_, _, err := h.GetSubject(t.Context(), h.who, "p-2", "", 10)
				wantKind(t, "who was erased", err, vault.NotFound)
			}
		})
	}
}

// An erasure of one of two that was begun, and whose commit was lost, is done although the two are one by then.
func TestAnErasureThatWasBegunFindsTheLinkedPerson(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.Exec(failCommits)
	if _, err := h.EraseSubject(t.Context(), h.who, "p-2", "gdpr-17", false); err == nil {
		t.Fatal("the commit did not fail")
	}
	h.Exec(letCommit)
	h.link(t, "p-1", "p-2")
	h.Advance(2 * time.Minute)
	if err := h.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"p-1", "p-2"} {
		if got := h.Reveal(h.who, h.tokens[subject][0]); got != string(vault.TokenNotFound) {
			t.Errorf("a token of %s gives %s", subject, got)
		}
	}
}

// New keys of pseudonyms find a person by every reference, those too under which nothing is stored.
func TestLinksSurviveNewKeysOfPseudonyms(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	other := h.Replica()
	ctx := t.Context()
	h.link(t, "p-1", "p-2")
	h.link(t, "p-1", "p-3")
	e := h.erase(t, "p-1")
	for _, subject := range []string{"p-4", "p-5"} {
		h.store(t, "people", subject)
	}
	h.link(t, "p-4", "p-5")
	h.link(t, "p-4", "p-6")
	rotate := func() {
		t.Helper()
		for _, name := range []string{"pseudonym", "wrap"} {
			done, err := h.RotateKey(ctx, h.who, name)
			if err != nil {
				t.Fatal(err)
			}
			if done.Job != "" {
				h.Finish(h.who, done.Job)
			}
		}
	}
	h.Work()
	rotate()
	h.store(t, "people", "p-6")
	rotate()
	for _, subject := range []string{"p-6", "p-5", "p-4"} {
		if n := heldOf(t, other, h.who, subject); n != 3 {
			t.Errorf("%s has %d records, want 3", subject, n)
		}
		links, _, err := other.Links(ctx, h.who, subject, "", 10)
		if err != nil || len(links) != 2 || links[0].Linked != "p-6" || links[1].Linked != "p-5" {
			t.Errorf("the links of %s: %+v %v", subject, links, err)
		}
	}
	for _, subject := range []string{"p-3", "p-2", "p-1"} {
		if again, err := other.EraseSubject(ctx, h.who, subject, "gdpr-17", false); err != nil || again.ID != e.ID {
			t.Errorf("erasing %s again gives %s %v, want %s", subject, again.ID, err, e.ID)
		}
	}
	if e, err := other.EraseSubject(ctx, h.who, "p-6", "gdpr-17", false); err != nil || e.Counts.Records != 3 {
		t.Errorf("erased: %+v %v", e, err)
	}
	if n := h.Count(`select count(*) from privault.subjects`); n != 0 {
		t.Errorf("%d references are left", n)
	}
}

// A part of a linked person is erased from either's records, and stays so in a database from before the link.
func TestAPartialErasureOfALinkedPersonSurvivesARestore(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	if err := h.WatchLedger(ctx); err != nil {
		t.Fatal(err)
	}
	data, keys := h.Backup()
	h.link(t, "p-1", "p-2")
	e, err := h.ErasePart(ctx, h.who, "p-2", vault.PartialErasure{Reason: "gdpr-17", Scope: []vault.ErasurePart{{Collection: "people"}},
		Retained: []vault.Retained{{Collection: "orders", Ground: "legal-obligation"}}})
	if err != nil || e.State != vault.ErasureErased || e.Counts.Records != 4 || e.Retained[0].Records != 4 {
		t.Fatalf("%+v %v", e, err)
	}
	if err := h.WatchLedger(ctx); err != nil {
		t.Fatal(err)
	}
	h.Close()
	r := h.On(data, keys)
	r.Vault = r.Replica()
	if done := replay(t, r); done.Lines != 2 || done.Links != 1 || done.Erasures != 1 {
		t.Errorf("the replay: %+v", done)
	}
	if err := r.WatchLedger(ctx); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"p-1", "p-2"} {
		if n := heldOf(t, r.Vault, h.who, subject); n != 4 {
			t.Errorf("%s has %d records, want 4", subject, n)
		}
		for i, token := range h.tokens[subject] {
			want := jane
			if i < 2 { // of people
				want = string(vault.TokenNotFound)
			}
			if got := r.Reveal(h.who, token); got != want {
				t.Errorf("token %d of %s gives %s, want %s", i, subject, got, want)
			}
		}
	}
}

// A link, a hold or a restriction that could not be applied, and is tried again when the person's erasure has been, doesn't bring the person back.
func TestALineThatFailedDoesNotBringAnErasedPersonBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table string
		do    func(context.Context, *household) error
	}{
		"a link": {"subject_links", func(ctx context.Context, h *household) error {
			_, _, err := h.LinkSubjects(ctx, h.who, "p-1", "p-2", "duplicate")
			return err
		}},
		"a hold": {"holds", func(ctx context.Context, h *household) error {
			hold, err := h.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Subject: "p-1"})
			if err != nil {
				return err
			}
			return h.ReleaseHold(ctx, h.who, hold.ID)
		}},
		"a restriction": {"subject_facts", func(ctx context.Context, h *household) error {
			_, _, err := h.Restrict(ctx, h.who, "p-1", "dispute", nil)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t)
			ctx := t.Context()
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			data, keys := h.Backup()
			if err := c.do(ctx, h); err != nil {
				t.Fatal(err)
			}
			h.erase(t, "p-1")
			h.store(t, "people", "p-1") // who comes again is somebody else
			if _, _, err := h.Restrict(ctx, h.who, "p-1", "dispute-2", nil); err != nil {
				t.Fatal(err)
			}
			if err := h.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			h.Close()
			r := h.On(data, keys)
			done, err := replayWithout(t, r, c.table)
			if err == nil || done.Erasures != 1 {
				t.Fatalf("the replay: %+v, %v", done, err)
			}
			replay(t, r)
			r.Vault = r.Replica()
			if err := r.WatchLedger(ctx); err != nil {
				t.Fatal(err)
			}
			left := 1 // who came again, and is restricted
			if name != "a link" {
				left = 2 // and p-2, who has nothing to do with it
			}
			if n := r.Count(`select count(*) from privault.subjects`); n != left {
				t.Errorf("there are %d persons, want %d", n, left)
			}
			if n := r.Count(`select (select count(*) from privault.subject_links) + (select count(*) from privault.holds)`); n != 0 {
				t.Errorf("%d links and holds came back", n)
			}
			if restricted, err := r.GetRestriction(ctx, h.who, "p-1"); err != nil || restricted.Reference != "dispute-2" {
				t.Errorf("the restriction of who came again: %+v %v", restricted, err)
			}
			if n := r.Count(`select count(*) from privault.subject_history`); n != 1 {
				t.Errorf("their history has %d entries, want 1", n)
			}
		})
	}
}
