package vault_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// household is a vault with two people in two collections.
type household struct {
	*vaulttest.Bench
	who    vault.Caller
	tokens map[string][]string // subject → tokens
	of     map[string][]string // subject → records of "people"
}

func newHousehold(t *testing.T, options ...vaulttest.Option) *household {
	t.Helper()
	h := &household{Bench: vaulttest.New(t, options...), tokens: map[string][]string{}, of: map[string][]string{}}
	h.who = h.Tenant()
	for _, collection := range []string{"people", "orders"} {
		h.Collection(h.who, collection, map[string]string{"name": "string"})
		for _, subject := range []string{"p-1", "p-2"} {
			for range 2 {
				h.store(t, collection, subject)
			}
		}
	}
	return h
}

func (h *household) store(t *testing.T, collection, subject string) vault.Tokenized {
	t.Helper()
	item := vaulttest.Item(map[string]string{"name": "Jane"})
	item.Subject = subject
	done, err := h.Tokenize(t.Context(), h.who, vault.Batch{Collection: collection, Items: []vault.NewRecord{item}})
	if err != nil || done[0].Err != nil {
		t.Fatal(done, err)
	}
	h.tokens[subject] = append(h.tokens[subject], done[0].Tokens["name"])
	if collection == "people" {
		h.of[subject] = append(h.of[subject], done[0].Record)
	}
	return done[0]
}

func (h *household) erase(t *testing.T, subject string) vault.Erasure {
	t.Helper()
	e, err := h.EraseSubject(t.Context(), h.who, subject, "gdpr-17", false)
	if err != nil {
		t.Fatal("erase: ", err)
	}
	return e
}

func TestAnErasedPersonIsGoneEverywhereAtOnce(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			other := h.Replica()
			for _, token := range h.tokens["p-1"] {
				if got := vaulttest.RevealOn(t, other, h.who, token); got != jane {
					t.Fatal("before: ", got)
				}
			}
			e := h.erase(t, "p-1")
			if diff := cmp.Diff(vault.ErasureCounts{Records: 4, DEKs: 4}, e.Counts); diff != "" || e.State != vault.ErasureErased {
				t.Errorf("state %s, counts (-want +got):\n%s", e.State, diff)
			}
			if e.Erased == nil || e.ShredEffective == nil || e.ShredEffective.Sub(*e.Erased) != 35*24*time.Hour {
				t.Errorf("erased at %v, for good at %v", e.Erased, e.ShredEffective)
			}
			for _, v := range []*vault.Vault{other, h.Vault} {
				for _, token := range h.tokens["p-1"] {
					if got := vaulttest.RevealOn(t, v, h.who, token); got != string(vault.TokenNotFound) {
						t.Errorf("a token of the erased person gives %s", got)
					}
				}
				for _, token := range h.tokens["p-2"] {
					if got := vaulttest.RevealOn(t, v, h.who, token); got != jane {
						t.Errorf("a token of somebody else gives %s", got)
					}
				}
				_, err := v.GetRecord(t.Context(), h.who, "people", h.of["p-1"][0], nil, "plain")
				wantKind(t, "a record of the erased person", err, vault.NotFound)
				_, err = v.PatchRecord(t.Context(), h.who, "people", h.of["p-1"][0], vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}})
				wantKind(t, "a change of a record of the erased person", err, vault.NotFound)
				_, _, err = v.GetSubject(t.Context(), h.who, "p-1", "", 10)
				wantKind(t, "the erased person", err, vault.NotFound)
			}
			text, err := h.Config.AuditKeys.OpenText(audit.ErasureTitle, []byte(e.Certificate))
			if err != nil {
				t.Errorf("the certificate: %v", err)
			}
			for _, line := range []string{"certificate: " + e.ID, "reason: gdpr-17", "records: 4", "deks: 4", "aliases: 0", "index-entries: 0",
				"erased-at: " + e.Erased.UTC().Format(time.RFC3339Nano)} {
				if !strings.Contains(text, "\n"+line+"\n") {
					t.Errorf("the certificate has no line %q:\n%s", line, text)
				}
			}
			if _, err := h.Config.AuditKeys.OpenText(audit.ErasureTitle, []byte(strings.Replace(e.Certificate, "deks: 4", "deks: 5", 1))); err == nil {
				t.Error("a certificate that was changed still verifies")
			}
			if again := h.erase(t, "p-1"); again.ID != e.ID || again.State != e.State {
				t.Errorf("erasing again gives %s %s, want %s %s", again.ID, again.State, e.ID, e.State)
			}
			// The same reference again is somebody new, with an erasure of their own.
			h.store(t, "people", "p-1")
			if later := h.erase(t, "p-1"); later.ID == e.ID || later.Counts.Records != 1 {
				t.Errorf("the erasure of what came later: %+v", later)
			}
			if n := h.Count(`select count(*) from privault.subjects where tenant_id = $1`, h.who.Tenant); n != 1 {
				t.Errorf("%d people are known, want 1", n)
			}
		})
	}
}

// Keys of records that were stored together are deleted as a range: never one that is somebody else's, and all of them though some of
// them are being wrapped anew.
func TestAnErasureTakesNobodyElsesKeys(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := vaulttest.New(t, options...)
			who := b.Tenant()
			b.Collection(who, "people", map[string]string{"name": "string"})
			tokens := map[string][]string{}
			for _, next := range []struct {
				subject string
				records int
			}{{"other", 60}, {"alone", 120}, {"other", 1}, {"mixed", 100}, {"other", 1}, {"mixed", 100}, {"few", 3}, {"other", 60}} {
				tokens[next.subject] = append(tokens[next.subject], janes(t, b, who, "people", next.subject, next.records)...)
			}
			keys, err := pgx.Connect(t.Context(), b.KeysURL)
			if err != nil {
				t.Fatal(err)
			}
			defer keys.Close(context.WithoutCancel(t.Context()))
			left := 0
			for _, all := range tokens {
				left += len(all)
			}
			for _, subject := range []string{"alone", "mixed", "few"} {
				rewrap, err := keys.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := rewrap.Exec(t.Context(), `update keystore.data_keys set wrapped = wrapped where tenant_id = $1`, who.Tenant); err != nil {
					t.Fatal(err)
				}
				erased := make(chan error, 1)
				var e vault.Erasure
				go func() {
					var err error
					e, err = b.EraseSubject(t.Context(), who, subject, "gdpr-17", false)
					erased <- err
				}()
				b.Until(func() bool {
					return len(erased) > 0 || vaulttest.CountURL(t, b.KeysURL, `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
						and query like '%delete from keystore.data_keys%'`) > 0
				})
				if err := rewrap.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := <-erased; err != nil || e.Counts.DEKs != len(tokens[subject]) {
					t.Fatal(subject, ": ", e.Counts, err)
				}
				left -= len(tokens[subject])
				if there := vaulttest.CountURL(t, b.KeysURL, `select count(*) from keystore.data_keys`); there != left {
					t.Errorf("%s: %d keys are left, want %d", subject, there, left)
				}
			}
			for _, token := range tokens["other"] {
				if got := b.Reveal(who, token); got != jane {
					t.Fatal("somebody else's: ", got)
				}
			}
		})
	}
}

func TestADryRunOfAnErasureOnlyCounts(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	e, err := h.EraseSubject(t.Context(), h.who, "p-1", "gdpr-17", true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(vault.ErasureCounts{Records: 4, DEKs: 4}, e.Counts); diff != "" || e.State != vault.ErasureDryRun || e.ID != "" {
		t.Errorf("%+v", e)
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("after the dry run a token gives %s", got)
	}
	if n := h.Count(`select count(*) from privault.erasures`); n != 0 {
		t.Errorf("the dry run left %d erasures", n)
	}
}

func TestErasureOfNobodyAndForNoReason(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	stranger := h.Tenant()
	for name, c := range map[string]struct {
		who             vault.Caller
		subject, reason string
		want            vault.Kind
	}{
		"an unknown person":            {h.who, "p-9", "gdpr-17", vault.NotFound},
		"another tenant's person":      {stranger, "p-1", "gdpr-17", vault.NotFound},
		"an address for a name":        {h.who, "jane@example.com", "gdpr-17", vault.NotFound},
		"no ground":                    {h.who, "p-1", "", vault.Invalid},
		"an unknown ground":            {h.who, "p-1", "because", vault.Invalid},
		"a caller who may not":         {vaulttest.As(h.who, "backend-writer"), "p-1", "gdpr-17", vault.Forbidden},
		"a caller who may do too much": {vaulttest.As(h.who, "admin"), "p-1", "gdpr-17", vault.Forbidden},
	} {
		_, err := h.EraseSubject(t.Context(), c.who, c.subject, c.reason, false)
		wantKind(t, name, err, c.want)
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("a refused erasure left %s", got)
	}
}

// Writers, changers and an eraser at once: what has a key afterwards belongs to somebody who is there.
func TestErasureMissesNothingThatIsBeingStored(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	other := h.Replica()
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for i := range 6 {
		v := h.Vault
		if i%2 == 1 {
			v = other
		}
		wait.Go(func() {
			for version := int32(1); ; version++ {
				select {
				case <-stop:
					return
				default:
				}
				if i < 4 {
					item := vaulttest.Item(map[string]string{"name": "Jane"})
					item.Subject = "p-1"
					if _, err := v.Tokenize(t.Context(), h.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}}); err != nil {
						t.Error(err)
					}
					continue
				}
				_, err := v.PatchRecord(t.Context(), h.who, "people", h.of["p-1"][i-4], vault.Patch{IfVersion: version, Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}})
				if err != nil && vault.AsError(err).Kind != vault.NotFound {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		h.erase(t, "p-1")
	}
	close(stop)
	wait.Wait()
	last := h.erase(t, "p-1")
	orphans := h.Count(`
		select count(*) from privault.records r join keystore.data_keys k using (tenant_id, record_id)
		where r.subject_id is not null and not exists (select from privault.subjects s where s.tenant_id = r.tenant_id and s.subject_id = r.subject_id)`)
	if orphans != 0 {
		t.Errorf("%d records of erased people have a key", orphans)
	}
	if last.State != vault.ErasureErased {
		t.Errorf("the last erasure is %s", last.State)
	}
}

func TestWhatIsHeldIsNotDeleted(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	hold, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-7", Subject: "p-1", Collection: "people"})
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, "deleting a held record", h.DeleteRecord(t.Context(), h.who, "people", h.of["p-1"][0], 0), vault.LegalHold)
	if err := h.DeleteRecord(t.Context(), h.who, "people", h.of["p-2"][0], 0); err != nil {
		t.Errorf("deleting what is not held: %v", err)
	}
	first := h.erase(t, "p-1")
	if first.State != vault.ErasureDeferred || first.Counts.Held != 2 || first.Erased != nil {
		t.Errorf("the erasure of a held person: %+v", first)
	}
	if again := h.erase(t, "p-1"); again.ID != first.ID || again.State != vault.ErasureDeferred {
		t.Errorf("asked again: %+v", again)
	}
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("a held token gives %s", got)
	}
	m, _, err := h.GetSubject(t.Context(), h.who, "p-1", "", 10)
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, r := range m.Records {
		if r.Held {
			held++
		}
	}
	if held != 2 {
		t.Errorf("%d records are shown as held, want 2", held)
	}
	if _, _, err := h.PutPurpose(t.Context(), h.who, vault.Purpose{Name: "letters", LegalBasis: "contract"}, 0); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"p-1", "p-2"} {
		if _, _, err := h.Object(t.Context(), h.who, subject, "letters", ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.ReleaseHold(t.Context(), h.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	// What the hold deferred goes on by itself, and then the rows go.
	h.Work()
	await(t, "the deferred erasure is done and purged", func() bool {
		return h.Count(`select count(*) from privault.erasures where state = 'purged'`) == 1
	})
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != string(vault.TokenNotFound) {
		t.Errorf("after the release a token gives %s", got)
	}
	if done := h.erase(t, "p-1"); done.ID != first.ID || done.State != vault.ErasurePurged || done.Counts.Records != 4 {
		t.Errorf("after the release: %+v, want %s", done, first.ID)
	}
	for table, want := range map[string]int{"privault.records": 3, "keystore.data_keys": 3, "privault.erasing": 0, "privault.subjects": 1,
		"privault.subject_facts": 1, "privault.subject_history": 1} {
		if n := h.Count(`select count(*) from `+table+` where tenant_id = $1`, h.who.Tenant); n != want {
			t.Errorf("%s has %d rows, want %d", table, n, want)
		}
	}
}

func TestAHoldOnAPersonOfWhomNothingIsStoredKeepsWhatComes(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-8", Subject: "p-3"}); err != nil {
		t.Fatal(err)
	}
	if e := h.erase(t, "p-3"); e.State != vault.ErasureDeferred {
		t.Errorf("erasing a person who is held before anything is stored: %+v", e)
	}
	done := h.store(t, "people", "p-3")
	wantKind(t, "deleting", h.DeleteRecord(t.Context(), h.who, "people", done.Record, 0), vault.LegalHold)
}

// Behind the service's back, and whatever else forgets to ask, the table itself refuses.
func TestTheTableItselfKeepsWhatIsHeld(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-9", Record: h.of["p-1"][0]}); err != nil {
		t.Fatal(err)
	}
	err := h.DeleteBehind(h.who.Tenant, `delete from privault.records where tenant_id = $1`)
	wantKind(t, "deleting everything", err, vault.LegalHold)
	if n := h.Count(`select count(*) from privault.records where tenant_id = $1`, h.who.Tenant); n != 8 {
		t.Errorf("%d records are left, want all 8", n)
	}
}

func TestHoldsAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	var want []string
	for i := range 5 {
		placed, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: fmt.Sprintf("case-%d", i), Subject: "p-1", Reason: "claims"})
		if err != nil {
			t.Fatal(err)
		}
		want = append([]string{placed.ID}, want...)
	}
	var got []string
	for cursor := ""; ; {
		page, next, err := h.ListHolds(t.Context(), h.who, cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, hold := range page {
			got = append(got, hold.ID)
			if hold.Subject != "p-1" || hold.Reason != "claims" {
				t.Errorf("a hold reads %+v", hold)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	wantKind(t, "releasing an unknown hold", h.ReleaseHold(t.Context(), h.who, "hld_0000000000000000000000"), vault.NotFound)
	wantKind(t, "releasing another tenant's hold", h.ReleaseHold(t.Context(), h.Tenant(), want[0]), vault.NotFound)
	_, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-x"})
	wantKind(t, "a hold on nothing", err, vault.Invalid)
	_, err = h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-x", Record: "rec_0000000000000000000000"})
	wantKind(t, "a hold on an unknown record", err, vault.Invalid)
}

// addRights gives a scene a hold, somebody to erase and somebody erased.
func (s *scene) addRights(t *testing.T) {
	t.Helper()
	for _, subject := range []string{"leaving-1", "gone-1"} {
		item := vaulttest.Item(map[string]string{"name": "Joe"})
		item.Subject = subject
		if done, err := s.Tokenize(t.Context(), s.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}}); err != nil || done[0].Err != nil {
			t.Fatal(done, err)
		}
	}
	hold, err := s.PlaceHold(t.Context(), s.who, vault.Hold{Matter: "case-1", Subject: "held-1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{"held-1", "held-2"}, {"gone-1", "gone-2"}} {
		if _, _, err := s.LinkSubjects(t.Context(), s.who, pair[0], pair[1], "duplicate"); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := s.EraseSubject(t.Context(), s.who, "gone-1", "gdpr-17", false)
	if err != nil {
		t.Fatal(err)
	}
	s.hold, s.certificate = hold.ID, gone.ID
}

// rightsOperations are those that serve people's rights.
func rightsOperations() []operation {
	ctx := context.Background()
	hold := func(s *scene, who vault.Caller, h vault.Hold) error {
		_, err := s.PlaceHold(ctx, who, h)
		return err
	}
	erase := func(s *scene, who vault.Caller, reason string) error {
		_, err := s.EraseSubject(ctx, who, "leaving-1", reason, false)
		return err
	}
	return []operation{
		{name: "PlaceHold", action: policy.PlaceHold, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				return hold(s, who, vault.Hold{Matter: "case-1", Subject: "person-9"})
			},
			fail: func(s *scene, who vault.Caller) error { return hold(s, who, vault.Hold{Matter: "case 1"}) }},
		{name: "ListHolds", action: policy.ReadHold, problem: vault.Malformed,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.ListHolds(ctx, who, "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.ListHolds(ctx, who, "x", 10)
				return err
			}},
		{name: "ReleaseHold", action: policy.ReleaseHold, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.ReleaseHold(ctx, who, s.hold) },
			fail: func(s *scene, who vault.Caller) error { return s.ReleaseHold(ctx, who, "hld_x") }},
		{name: "GetSubject", action: policy.ReadSubject, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.GetSubject(ctx, who, "held-1", "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.GetSubject(ctx, who, "nobody", "", 10)
				return err
			}},
		{name: "EraseSubject", action: policy.Erase, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { return erase(s, who, "gdpr-17") },
			fail: func(s *scene, who vault.Caller) error { return erase(s, who, "just so") }},
		{name: "GetErasure", action: policy.ReadCertificate, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.GetErasure(ctx, who, s.certificate)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.GetErasure(ctx, who, "crt_x")
				return err
			}},
	}
}
