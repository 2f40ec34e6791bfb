package vault_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/vaulttest"
)

// While people write, read, change, restrict, erase and link on two replicas, every record goes with its person.
func TestLinksRaceWithEverything(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.Work() // rows are purged meanwhile
	h.define(t, "letters")
	ctx := t.Context()
	replicas := []*vault.Vault{h.Vault, h.Replica()}
	var mu sync.Mutex
	written := map[int][]vault.Tokenized{}
	write := func(v *vault.Vault, n int, subject string) error {
		item := vaulttest.Item(map[string]string{"name": "Jane"})
		item.Subject = subject
		done, err := v.Tokenize(ctx, h.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err == nil && done[0].Err != nil {
			err = done[0].Err
		}
		if err == nil {
			mu.Lock()
			written[n] = append(written[n], done[0])
			mu.Unlock()
		}
		return err
	}
	count := map[string]int{}
	const pairs = 60
	for n := range pairs {
		a, b := fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n)
		for _, subject := range []string{a, b} {
			if err := write(h.Vault, n, subject); err != nil {
				t.Fatal(err)
			}
		}
		guarded := n%3 == 0 // one of the two is restricted, and so is never read
		if guarded {
			if _, _, err := h.Restrict(ctx, h.who, b, "dispute", nil); err != nil {
				t.Fatal(err)
			}
		}
		first, second := written[n][0], written[n][1]
		deeds := []func(*vault.Vault) error{
			func(v *vault.Vault) error { _, _, err := v.LinkSubjects(ctx, h.who, a, b, "duplicate"); return err },
			func(v *vault.Vault) error { _, _, err := v.LinkSubjects(ctx, h.who, b, a, "duplicate"); return err },
			func(v *vault.Vault) error { return write(v, n, a) },
			func(v *vault.Vault) error { return write(v, n, b) },
			func(v *vault.Vault) error { return write(v, n, b) },
			func(v *vault.Vault) error {
				if got := vaulttest.RevealOn(t, v, h.who, second.Tokens["name"]); guarded && got == jane {
					return errors.New("who is restricted was read")
				}
				return nil
			},
			func(v *vault.Vault) error {
				_, err := v.PatchRecord(ctx, h.who, "people", first.Record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Jane"`)}})
				return err
			},
			func(v *vault.Vault) error { _, _, err := v.Object(ctx, h.who, b, "letters", ""); return err },
			func(v *vault.Vault) error {
				_, err := v.OpenRequest(ctx, h.who, of(deadline.Access, b))
				return err
			},
			func(v *vault.Vault) error { return v.DeleteRecord(ctx, h.who, "people", second.Record, 0) },
		}
		var hold string
		switch {
		case n%10 == 9: // one of the two is held, and then nothing of either goes
			deeds = append(deeds, func(v *vault.Vault) error {
				placed, err := v.PlaceHold(ctx, h.who, vault.Hold{Matter: "case-1", Subject: b})
				hold = placed.ID
				return err
			})
		case n%2 == 0:
			deeds = append(deeds, func(v *vault.Vault) error { _, err := v.EraseSubject(ctx, h.who, a, "gdpr-17", false); return err },
				func(v *vault.Vault) error { _, err := v.EraseSubject(ctx, h.who, b, "gdpr-17", false); return err })
		}
		var wait sync.WaitGroup
		for i, do := range deeds {
			wait.Go(func() {
				err := do(replicas[(i+n)%2])
				mu.Lock()
				defer mu.Unlock()
				switch kind := vault.AsError(err).Kind; {
				case err == nil:
					count["done"]++
				case slices.Contains([]vault.Kind{vault.NotFound, vault.SubjectErased, vault.SubjectRestricted, vault.LegalHold}, kind):
					count[string(kind)]++
				default:
					t.Errorf("pair %d, deed %d: %v", n, i, err)
				}
			})
		}
		wait.Wait()
		// Whoever of them is there is linked, and then all that can be read is held, and all of it goes.
		for _, subject := range []string{a, b} {
			if err := write(replicas[1], n, subject); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := replicas[0].LinkSubjects(ctx, h.who, a, b, "duplicate"); err != nil {
			t.Fatal(err)
		}
		living := h.Count(`select count(*) from keystore.data_keys k join privault.records r using (tenant_id, record_id) where r.record_id = any($1)`, idsOf(written[n]))
		if n := heldOf(t, replicas[0], h.who, b); n != living {
			t.Errorf("%d records are held, and %d have a key", n, living)
		}
		if hold != "" {
			if err := replicas[1].DeleteRecord(ctx, h.who, "people", first.Record, 0); !slices.Contains([]vault.Kind{vault.LegalHold, vault.SubjectRestricted}, vault.AsError(err).Kind) {
				t.Errorf("pair %d: deleting what is held: %v", n, err)
			}
			if err := replicas[0].ReleaseHold(ctx, h.who, hold); err != nil {
				t.Fatal(err)
			}
		}
		if e, err := replicas[1].EraseSubject(ctx, h.who, a, "gdpr-17", false); err != nil || e.State != vault.ErasureErased {
			t.Fatal(e, err)
		}
		for _, d := range written[n] {
			if got := vaulttest.RevealOn(t, replicas[0], h.who, d.Tokens["name"]); got != string(vault.TokenNotFound) {
				t.Errorf("pair %d: a token of an erased person gives %s", n, got)
			}
		}
		if left := h.Count(`select count(*) from keystore.data_keys where record_id = any($1)`, idsOf(written[n])); left != 0 {
			t.Errorf("pair %d: %d keys are left", n, left)
		}
	}
	t.Logf("%v", count)
	if count["done"] < pairs || count[string(vault.NotFound)] == 0 {
		t.Errorf("nothing was raced for: %v", count)
	}
}

func idsOf(all []vault.Tokenized) (ids []vault.ID) {
	for _, d := range all {
		ids = append(ids, vault.RecordID(d.Record))
	}
	return ids
}

// Merging a person with many records takes one transaction, which the person's other calls wait for (PRIVAULT_MERGE_RECORDS: how many).
func TestMergingManyRecordsIsQuick(t *testing.T) {
	t.Parallel()
	many := 2000
	if text := os.Getenv("PRIVAULT_MERGE_RECORDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		many = n
	}
	h := newHousehold(t)
	for stored := 0; stored < many; {
		items := make([]vault.NewRecord, min(1000, many-stored))
		for i := range items {
			items[i] = vaulttest.Item(map[string]string{"name": "Jane"})
			items[i].Subject = "p-3"
		}
		if _, err := h.Tokenize(t.Context(), h.who, vault.Batch{Collection: "people", Items: items}); err != nil {
			t.Fatal(err)
		}
		stored += len(items)
	}
	began := time.Now()
	l := h.link(t, "p-1", "p-3")
	took := time.Since(began)
	t.Logf("%d records became another's in %v", l.Records, took.Round(time.Millisecond))
	if l.Records != many || took > 8*time.Second {
		t.Errorf("%d records in %v", l.Records, took)
	}
	if n := h.Count(`select count(*) from privault.records r join privault.subjects s using (tenant_id, subject_id) where s.link_id is null`); n != many+8 {
		t.Errorf("%d records are somebody's, want %d", n, many+8)
	}
}

// A restriction isn't missed by a read between whose two statements the person became one with somebody else.
func TestAReadBesideALinkSeesTheRestriction(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	if _, _, err := h.Restrict(t.Context(), h.who, "p-2", "dispute", nil); err != nil {
		t.Fatal(err)
	}
	token := h.tokens["p-2"][0]
	if got := h.Reveal(h.who, token); got != string(vault.SubjectRestricted) { // the replica knows that there are facts
		t.Fatal(got)
	}
	open := lock(t, h.OwnerURL, "keystore.data_keys in access exclusive mode") // which is read in between
	got := make(chan string, 1)
	go func() { got <- h.Reveal(h.who, token) }()
	await(t, "the read is held back", func() bool { return held(h.Bench, "keystore.data_keys") == 1 })
	h.Exec(`with two as (select (array_agg(subject_id))[1] as a, (array_agg(subject_id))[2] as b from (select distinct subject_id from privault.records) s),
		pair as (select case when f.subject_id = a then b else a end as stays, f.subject_id as goes from two, privault.subject_facts f),
		moved as (update privault.records r set subject_id = p.stays from pair p where r.subject_id = p.goes)
		update privault.subject_facts f set subject_id = p.stays from pair p where f.subject_id = p.goes`)
	open()
	if got := <-got; got != string(vault.SubjectRestricted) {
		t.Errorf("the read gives %s", got)
	}
}

// Of erasures that are asked for under both references at once, on two replicas, there is one, and neither runs into the other.
func TestAnErasureUnderBothReferencesIsOne(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	replicas := []*vault.Vault{h.Vault, h.Replica()}
	for n := range 20 {
		subjects := []string{fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n)}
		for _, subject := range subjects {
			h.store(t, "people", subject)
		}
		h.link(t, subjects[0], subjects[1])
		var got [4]vault.Erasure
		var wait sync.WaitGroup
		for i := range got {
			wait.Go(func() {
				var err error
				if got[i], err = replicas[i%2].EraseSubject(t.Context(), h.who, subjects[i/2], "gdpr-17", false); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		for _, e := range got {
			if e.ID != got[0].ID || e.Counts.Records != 2 {
				t.Fatalf("%d: %s erased %d records, %s %d", n, got[0].ID, got[0].Counts.Records, e.ID, e.Counts.Records)
			}
		}
	}
}

// Who becomes another, or is erased, while a page of their package is made gets none and is told so: a record under another of their references
// is not taken for somebody else's.
func TestAPackageBesideALink(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		gone string
		want vault.Kind
	}{
		"merged": {`with goes as (select distinct tenant_id, subject_id from privault.subjects where subject_id in (select subject_id from privault.subject_links)),
			stays as (select s.subject_id from privault.subjects s, goes g where s.subject_id <> g.subject_id),
			linked as (insert into privault.subject_links (tenant_id, link_id, subject_id, merged_id, records, reason, linked_at, principal_id)
				select g.tenant_id, gen_random_uuid(), s.subject_id, g.subject_id, 6, 'duplicate', now(), gen_random_uuid() from goes g, stays s),
			records as (update privault.records r set subject_id = s.subject_id from goes g, stays s where r.subject_id = g.subject_id)
			update privault.subjects p set subject_id = s.subject_id from goes g, stays s where p.subject_id = g.subject_id`, vault.Conflict},
		"erased": {`delete from privault.subjects where subject_id in (select subject_id from privault.subject_links)`, vault.SubjectErased},
		"nobody": {`delete from privault.subjects where link_id is not null`, vault.IntegrityFailure}, // and the reference is nobody's
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t)
			h.link(t, "p-1", "p-3")
			h.store(t, "people", "p-3")
			h.store(t, "orders", "p-3")                                                // whichever comes first
			open := lock(t, h.OwnerURL, "keystore.data_keys in access exclusive mode") // which is read when the records have been
			got := make(chan error, 1)
			go func() { got <- h.Package(t.Context(), h.who, order(dsar.Access, dsar.GDPR), io.Discard) }()
			await(t, "the package is held back", func() bool { return held(h.Bench, "keystore.data_keys") == 1 })
			h.Exec(c.gone)
			open()
			wantKind(t, "the package", <-got, c.want)
		})
	}
}
