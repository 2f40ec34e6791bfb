package vault_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
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

// files stores n records and makes the first of them older.
func (a *archive) files(t *testing.T, n, old int, age string) []vault.Tokenized {
	t.Helper()
	var all []vault.Tokenized
	for len(all) < n {
		batch := vault.Batch{Collection: "files"}
		for range min(n-len(all), 500) {
			item := vaulttest.Item(aFile)
			item.Subject = fmt.Sprintf("p-%d", len(all)+len(batch.Items))
			batch.Items = append(batch.Items, item)
		}
		done, err := a.Tokenize(t.Context(), a.who, batch)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, done...)
	}
	for _, done := range all[:old] {
		a.age(done.Record, age)
	}
	return all
}

// sweep runs a sweep to its end, or until it waits for a confirmation.
func (a *archive) sweep(t *testing.T, dryRun bool) *vault.Sweep {
	t.Helper()
	started, err := a.StartSweep(t.Context(), a.who, "", dryRun)
	if err != nil {
		t.Fatal("start a sweep: ", err)
	}
	return a.rest(t, started.ID)
}

// rest waits until a sweep has ended, or waits.
func (a *archive) rest(t *testing.T, sweep string) (s *vault.Sweep) {
	t.Helper()
	a.Until(func() bool {
		var err error
		if s, err = a.GetSweep(t.Context(), a.who, sweep); err != nil {
			t.Fatal("get a sweep: ", err)
		}
		return s.State != vault.SweepQueued && s.State != vault.SweepRunning
	})
	return s
}

func (a *archive) records() int { return a.Count(`select count(*) from privault.records`) }

func TestASweepDestroysWhatIsDue(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t, options...)
			a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
			all := a.files(t, 40, 9, "366 days")
			if _, err := a.PlaceHold(t.Context(), a.who, vault.Hold{Matter: "case-1", Record: all[0].Record}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.Restrict(t.Context(), a.who, "p-1", "accuracy", nil); err != nil {
				t.Fatal(err)
			}
			a.Work()
			dry := a.sweep(t, true)
			want := vault.SweepCounts{Due: 9, Held: 1, Restricted: 1, Rules: map[string]int64{"files/collection": 7}}
			if diff := cmp.Diff(want, dry.Counts); diff != "" || dry.State != vault.SweepCompleted || dry.Counts.Remaining() != 7 {
				t.Errorf("dry run, %s (-want +got):\n%s", dry.State, diff)
			}
			if n := a.records(); n != 40 {
				t.Fatalf("a dry run leaves %d records", n)
			}
			s := a.sweep(t, false)
			want.Deleted = 7
			if diff := cmp.Diff(want, s.Counts); diff != "" || s.State != vault.SweepCompleted || s.Counts.Remaining() != 0 {
				t.Errorf("%s %s (-want +got):\n%s", s.State, s.Reason, diff)
			}
			a.Until(func() bool { return a.Count(`select count(*) from privault.jobs where finished_at is null`) == 0 }) // the other lane notices its end
			left := map[string]int{
				`select count(*) from privault.records`:                           33,
				`select count(*) from privault.blind_index`:                       3 * 33, // name, and mail twice: its index, its alias
				`select count(*) from privault.aliases`:                           1,
				`select count(*) from privault.records where due_at < now()`:      2,
				`select count(*) from privault.sweeps where not dry_run`:          1,
				`select count(*) from privault.jobs where state = 'failed'`:       0,
				`select count(*) from privault.audit_entries where body ~ 'swp_'`: a.Count(`select count(*) from privault.audit_entries where body ~ '"sweep":"swp_'`),
			}
			for query, want := range left {
				if n := a.Count(query); n != want {
					t.Errorf("%s: %d, want %d", query, n, want)
				}
			}
			if n := vaulttest.CountURL(t, a.KeysURL, `select count(*) from keystore.data_keys`); n != 33 {
				t.Errorf("%d keys are left of 33 records", n)
			}
			text, err := a.Config.AuditKeys.OpenText(audit.SweepTitle, []byte(s.Report))
			if err != nil {
				t.Error("the report: ", err)
			}
			for _, line := range []string{"sweep: " + s.ID, "due: 9", "deleted: 7", "held: 1", "restricted: 1", "remaining: 0", "rule files/collection: 7"} {
				if !strings.Contains(text, "\n"+line+"\n") {
					t.Errorf("the report has no line %q:\n%s", line, text)
				}
			}
			a.Sequence()
			var bad []vault.Discrepancy
			if _, err := vault.Reconcile(t.Context(), a.Config.DataURL, a.Config.AuditKeys, func(d vault.Discrepancy) error { bad = append(bad, d); return nil }); err != nil || len(bad) > 0 {
				t.Errorf("the log does not say what became of the records: %v %v", bad, err)
			}
		})
	}
}

func TestWhatExpiredIsSwept(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, nil, nil)
	soon := time.Now().Add(time.Hour)
	item := vaulttest.Item(aFile)
	item.Expires = &soon
	done, err := a.Tokenize(t.Context(), a.who, vault.Batch{Collection: "files", Items: []vault.NewRecord{item, vaulttest.Item(aFile)}})
	if err != nil {
		t.Fatal(err)
	}
	a.Work()
	if s := a.sweep(t, false); s.Counts.Due != 0 || a.records() != 2 {
		t.Errorf("before: %+v", s.Counts)
	}
	a.age(done[0].Record, "2 hours")
	if s := a.sweep(t, false); s.Counts.Deleted != 1 || s.Counts.Rules["files/expires_at"] != 1 || a.records() != 1 {
		t.Errorf("after: %s %+v", s.State, s.Counts)
	}
}

func TestASweepThatIsUnusualWaits(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	all := a.files(t, 200, 11, "366 days")
	a.Work()
	s := a.sweep(t, false)
	braked := map[string]*vault.SweptCollection{"files": {Due: 11, Records: 200}}
	if diff := cmp.Diff(braked, s.Counts.Braked); diff != "" || s.State != vault.SweepNeedsConfirmation || s.Reason != vault.ReasonBrake || a.records() != 200 {
		t.Fatalf("%s %s, braked (-want +got):\n%s", s.State, s.Reason, diff)
	}
	operator := vaulttest.As(a.who, "operator")
	_, err := a.ConfirmSweep(t.Context(), operator, s.ID)
	wantKind(t, "the operator confirms", err, vault.Forbidden)
	if _, err := a.ConfirmSweep(t.Context(), vaulttest.As(a.who, "compliance"), s.ID); err != nil {
		t.Fatal("confirm: ", err)
	}
	if s = a.rest(t, s.ID); s.State != vault.SweepCompleted || s.Counts.Deleted != 11 || s.Confirmed == nil || a.records() != 189 {
		t.Errorf("confirmed: %s %+v", s.State, s.Counts)
	}
	_, err = a.ConfirmSweep(t.Context(), a.who, s.ID)
	wantKind(t, "confirmed twice", err, vault.Conflict)
	_, err = a.StopSweep(t.Context(), a.who, s.ID)
	wantKind(t, "stopped at the end", err, vault.Conflict)

	// Few of many, and yet more than ever.
	for range 3 {
		a.Exec(`insert into privault.sweeps (tenant_id, sweep_id, dry_run, state, as_of, created_at, finished_at, counts)
			values ($1, gen_random_uuid(), false, 'completed', now(), now(), now(), '{"rules":{"files/collection":2,"other/collection":90}}')`, a.who.Tenant)
	}
	a.Exec(`update privault.sweeps set counts = '{"rules":{"files/collection":2}}' where state = 'completed'`)
	for _, done := range all[20:29] {
		a.age(done.Record, "366 days")
	}
	if s = a.sweep(t, false); s.State != vault.SweepCompleted || s.Counts.Deleted != 9 {
		t.Errorf("below the floor: %s %+v", s.State, s.Counts)
	}
	a.files(t, 500, 0, "")
	for _, done := range all[30:42] {
		a.age(done.Record, "366 days")
	}
	if s = a.sweep(t, false); s.State != vault.SweepNeedsConfirmation || s.Counts.Braked["files"] == nil || s.Counts.Braked["files"].Usual == 0 {
		t.Errorf("more than three times as many as usual: %s %+v", s.State, s.Counts)
	}
	// Another one takes its place.
	again := a.sweep(t, false)
	if s, err = a.GetSweep(t.Context(), a.who, s.ID); err != nil || s.State != vault.SweepStopped || s.Reason != vault.ReasonSuperseded {
		t.Errorf("the one that waited is %s %s, %v", s.State, s.Reason, err)
	}
	if s, err := a.StopSweep(t.Context(), operator, again.ID); err != nil || s.State != vault.SweepStopped {
		t.Errorf("stopped: %v %v", s, err)
	}
	if n := a.records(); n != 680 {
		t.Errorf("%d records are left", n)
	}
}

// A hold that was acknowledged keeps its record, whenever it comes, and nothing that is due is left behind: 20 runs.
func TestHoldsBeatASweepAtFullSpeed(t *testing.T) {
	t.Parallel()
	a := newArchive(t, vaulttest.With(func(c *vault.Config) { c.SweepLanes, c.SweepShare = 4, 2 }))
	other := a.Replica()
	a.WorkOn(a.Vault)
	a.WorkOn(other)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	for run := range 20 {
		all := a.files(t, 400, 0, "")
		a.Exec(`update privault.records set created_at = created_at - interval '366 days', due_at = due_at - interval '366 days' where due_at > now()`)
		started, err := a.StartSweep(t.Context(), a.who, "", false)
		if err != nil {
			t.Fatal(err)
		}
		held := map[string]string{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for _, i := range rand.Perm(len(all))[:40] {
			wait.Go(func() {
				h, err := other.PlaceHold(t.Context(), a.who, vault.Hold{Matter: "case-1", Record: all[i].Record})
				switch kind := vault.AsError(err).Kind; {
				case err == nil:
					mu.Lock()
					held[all[i].Record] = h.ID
					mu.Unlock()
				case kind != vault.Invalid: // it is gone already
					t.Error("place a hold: ", err)
				}
			})
		}
		wait.Wait()
		a.rest(t, started.ID)
		for record := range held {
			if n := a.Count(`select count(*) from privault.records where record_id = $1`, vault.RecordID(record)); n != 1 {
				t.Fatalf("run %d: a held record is gone", run)
			}
		}
		if s := a.sweep(t, false); int(s.Counts.Held) != len(held) || a.records() != len(held) {
			t.Fatalf("run %d: %d held, %d are left, and the sweep says %+v", run, len(held), a.records(), s.Counts)
		}
		for _, hold := range held {
			if err := a.ReleaseHold(t.Context(), a.who, hold); err != nil {
				t.Fatal(err)
			}
		}
		if a.sweep(t, false); a.records() != 0 {
			t.Fatalf("run %d: %d are left once the holds are released", run, a.records())
		}
		a.Exec(`delete from privault.sweeps`) // or the next one would be more than usual
	}
}

func TestFourReplicasSweepEachRecordOnce(t *testing.T) {
	t.Parallel()
	a := newArchive(t, vaulttest.With(func(c *vault.Config) { c.SweepLanes, c.SweepShare = 4, 2 }))
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	a.files(t, 6000, 0, "")
	a.Exec(`update privault.records set created_at = created_at - interval '366 days', due_at = due_at - interval '366 days'`)
	kept := a.files(t, 10, 0, "")
	for range 4 {
		a.WorkOn(a.Replica())
	}
	s := a.sweep(t, false)
	if s.Counts.Deleted != 6000 || s.Counts.Remaining() != 0 || a.records() != 10 {
		t.Errorf("%s %+v, %d records are left", s.State, s.Counts, a.records())
	}
	if n := a.Count(`select count(*) from (select jsonb_array_elements_text(r->'records') as record from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') r
		where r->>'outcome' = 'deleted' group by 1 having count(*) > 1) twice`); n != 0 {
		t.Errorf("%d records were deleted twice", n)
	}
	if got := a.Reveal(a.who, kept[0].Tokens["name"]); got != `"Jane Roe"` {
		t.Errorf("one that was kept gives %s", got)
	}
}

func TestClocksThatAreNotToBeBelieved(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"ten years on": 10 * 365 * 24 * time.Hour, "a day back": -24 * time.Hour, "two minutes on": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
			a.files(t, 5, 1, "366 days")
			a.Work()
			a.Advance(jump)
			if s := a.sweep(t, false); s.State != vault.SweepStopped || s.Reason != vault.ReasonClock || a.records() != 5 {
				t.Errorf("%s %s, %d records", s.State, s.Reason, a.records())
			}
			a.Advance(-jump)
			if s := a.sweep(t, false); s.State != vault.SweepCompleted || a.records() != 4 {
				t.Errorf("set right: %s %s, %d records", s.State, s.Reason, a.records())
			}
		})
	}
	for name, by := range map[string]string{"the database's, ten years on": "+3650d", "the database's, a day back": "-1d"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
			a.files(t, 5, 1, "366 days")
			skewed := &archive{a.Skewed(by), a.who}
			started, err := skewed.StartSweep(t.Context(), a.who, "", false)
			if err == nil {
				err = skewed.WorkAll(t.Context(), a.who.Tenant) // a queue whose clock is behind would begin tomorrow
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := skewed.rest(t, started.ID); s.State != vault.SweepStopped || s.Reason != vault.ReasonClock || skewed.records() != 5 {
				t.Errorf("%s %s, %d records", s.State, s.Reason, skewed.records())
			}
		})
	}
	t.Run("the database's went back", func(t *testing.T) {
		t.Parallel()
		a := newArchive(t)
		a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
		a.files(t, 5, 1, "366 days")
		a.Work()
		a.Exec(`insert into privault.retention_clocks values ($1, now() + interval '1 hour')`, a.who.Tenant)
		if s := a.sweep(t, false); s.State != vault.SweepStopped || s.Reason != vault.ReasonClock || a.records() != 5 {
			t.Errorf("%s %s, %d records", s.State, s.Reason, a.records())
		}
		// Both went on together, as far as can be told.
		a.Exec(`update privault.retention_clocks set seen_at = now() - interval '10 years'`)
		s := a.sweep(t, false)
		if s.State != vault.SweepNeedsConfirmation || s.Reason != vault.ReasonClockGap || a.records() != 5 {
			t.Errorf("%s %s, %d records", s.State, s.Reason, a.records())
		}
		if _, err := a.ConfirmSweep(t.Context(), a.who, s.ID); err != nil {
			t.Fatal(err)
		}
		if s := a.rest(t, s.ID); s.State != vault.SweepCompleted || a.records() != 4 {
			t.Errorf("confirmed: %s %s, %d records", s.State, s.Reason, a.records())
		}
	})
}

func TestRecordsAreMadeAnonymous(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t, options...)
			a.define(t, &vault.Retention{Keep: "P1Y", Action: "anonymise"}, nil)
			all := a.files(t, 9, 6, "366 days")
			bare := a.file(t, "p-9", map[string]string{"name": "Jane Roe"})
			a.age(bare.Record, "366 days")
			sealed := a.Texts(`select encode(sealed, 'hex') from privault.records`)
			a.Work()
			s := a.sweep(t, false)
			if s.State != vault.SweepCompleted || s.Counts.Anonymised != 6 || s.Counts.Deleted != 1 {
				t.Fatalf("%s %+v", s.State, s.Counts)
			}
			old := map[string]bool{}
			for _, done := range append(all[:6:6], bare) {
				delete(done.Tokens, "mail") // that of the others as well
				a.gone(t, "the record that was", done)
				old[done.Record] = true
			}
			var left []map[string]string
			err := a.ExportRecords(t.Context(), a.who, vault.Export{Collection: "files", View: "plain"}, func(page []vault.Exported) error {
				for _, x := range page {
					if _, whole := x.Fields["name"]; whole {
						continue
					}
					seen := map[string]string{"subject": x.Subject}
					for name, value := range x.Fields {
						seen[name] = string(value.Reveal())
					}
					if old[x.ID] {
						t.Errorf("%s has its old id", x.ID)
					}
					left = append(left, seen)
					_, err := a.PatchRecord(t.Context(), a.who, "files", x.ID, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Joe"`)}})
					wantKind(t, "a change of an anonymous record", err, vault.Conflict)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"subject": "", "born": `"1984"`, "closed": `"2020"`, "plz": `"SW"`}
			for _, seen := range left {
				if diff := cmp.Diff(want, seen); diff != "" {
					t.Errorf("what is left (-want +got):\n%s", diff)
				}
			}
			if len(left) != 6 {
				t.Errorf("%d are left of 6", len(left))
			}
			// Nothing that is left in either database leads back: no ciphertext, no key, no digest, no subject, and no id of before beside one of now.
			for query, want := range map[string]int{
				`select count(*) from privault.records where generalised is not null and (subject_id is not null or digests is not null or expires_at is not null)`:       0,
				`select count(*) from privault.records where generalised = '{0}'`:                                                                                         6,
				`select count(*) from privault.records where created_at < now() - interval '1 day'`:                                                                       0,
				`select count(*) from privault.blind_index i where not exists (select from privault.records r where r.record_id = i.record_id and r.generalised is null)`: 0,
				`select count(*) from privault.aliases a where a.record_id is not null`:                                                                                   0,
			} {
				if n := a.Count(query); n != want {
					t.Errorf("%s: %d, want %d", query, n, want)
				}
			}
			for _, done := range append(all[:6:6], bare) {
				if n := vaulttest.CountURL(t, a.KeysURL, `select count(*) from keystore.data_keys where record_id = $1`, vault.RecordID(done.Record)); n != 0 {
					t.Errorf("%d keys of a record that was", n)
				}
			}
			opened := 0
			for _, text := range sealed {
				opened += a.OpenWithEveryKey(t.Context(), a.who.Tenant, text)
			}
			if opened != 3*6 { // the values, and the persons, of those that weren't due
				t.Errorf("with every key that there is %d boxes of before open", opened)
			}
			if again := a.sweep(t, false); again.Counts.Due != 0 {
				t.Errorf("again: %+v", again.Counts)
			}
		})
	}
}

func TestFieldsAreSweptFromRecordsThatLiveOn(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P10Y", After: "updated"}, map[string]vault.Retention{"mail": {Keep: "P30D"}, "born": {Keep: "P30D", Action: "anonymise"}, "name": {Keep: "P60D"}})
	done := a.file(t, "p-1", aFile)
	bare := a.file(t, "p-2", map[string]string{"mail": "jane@example.com"})
	a.age(done.Record, "31 days")
	a.age(bare.Record, "31 days")
	before := a.Count(`select extract(epoch from updated_at)::int from privault.records where record_id = $1`, vault.RecordID(done.Record))
	a.Work()
	s := a.sweep(t, false)
	if s.State != vault.SweepCompleted || s.Counts.Anonymised != 1 || s.Counts.Deleted != 1 || s.Counts.Rules["files/field:mail"] != 2 || s.Counts.Rules["files/field:born"] != 1 {
		t.Fatalf("%s %+v", s.State, s.Counts)
	}
	want := map[string]string{"name": `"Jane Roe"`, "born": `"1984"`, "closed": `"2020-06-15"`, "plz": `"SW1A 1AA"`}
	if diff := cmp.Diff(want, a.read(t, done.Record)); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
	if now := a.Count(`select extract(epoch from updated_at)::int from privault.records where record_id = $1`, vault.RecordID(done.Record)); now != before {
		t.Error("the sweep changed when the record was changed")
	}
	if n := a.Count(`select count(*) from privault.aliases`); n != 0 {
		t.Errorf("%d aliases of the value that is gone", n)
	}
	if got := a.Reveal(a.who, done.Tokens["name"]); got != `"Jane Roe"` {
		t.Errorf("the name's token gives %s", got)
	}
	if again := a.sweep(t, false); again.Counts.Due != 0 {
		t.Errorf("again: %+v", again.Counts)
	}
	a.age(done.Record, "30 days")
	if again := a.sweep(t, false); again.Counts.Rules["files/field:name"] != 1 || again.Counts.Anonymised != 1 {
		t.Errorf("later: %+v", again.Counts)
	}
}

// addRetention leaves something of retention in a scene.
func (s *scene) addRetention(t *testing.T) {
	t.Helper()
	started, err := s.StartSweep(t.Context(), s.who, "", true)
	if err != nil {
		t.Fatal(err)
	}
	s.sweep = started.ID
	for _, id := range []*string{&s.waiting, &s.running} {
		if started, err = s.StartSweep(t.Context(), s.who, "", true); err != nil {
			t.Fatal(err)
		}
		*id = started.ID
	}
	s.Exec(`update privault.sweeps set state = 'needs_confirmation' where sweep_id = (select sweep_id from privault.sweeps order by sweep_id offset 1 limit 1)`)
	s.Exec(`insert into privault.retention_clocks values ($1, now())`, s.who.Tenant)
	p, err := s.MakePlan(t.Context(), s.who, "people", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.plan, s.hash = p.ID, p.Hash
	s.Exec(`insert into privault.retention_items select tenant_id, (select plan_id from privault.retention_plans), record_id, 'collection', 'erase', '' from privault.records`)
}

func retentionOperations() []operation {
	ctx := context.Background()
	return []operation{
		{name: "SummariseRetention", action: policy.ReadRetention, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.SummariseRetention(ctx, who, time.Time{}, s.Now())
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.SummariseRetention(ctx, who, s.Now(), time.Time{})
				return err
			}},
		{name: "SimulateRetention", action: policy.ReadRetention, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.SimulateRetention(ctx, who, "people", vault.Definition{Retention: &vault.Retention{Keep: "P1Y"}, Fields: map[string]vault.FieldDefinition{
					"name": {Type: "string", Index: []string{"exact"}}, "email": {Type: "email"}, "phone": strategy("phone", "deterministic")}})
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.SimulateRetention(ctx, who, "nothing", vault.Definition{})
				return err
			}},
		{name: "MakePlan", action: policy.PlanRetention, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { _, err := s.MakePlan(ctx, who, "people", nil); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.MakePlan(ctx, who, "nothing", nil); return err }},
		{name: "GetPlan", action: policy.ReadRetention, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetPlan(ctx, who, s.plan); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetPlan(ctx, who, "pln_x"); return err }},
		{name: "ListPlanItems", action: policy.ReadRetention, problem: vault.Malformed,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.ListPlanItems(ctx, who, s.plan, "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.ListPlanItems(ctx, who, s.plan, "x", 10)
				return err
			}},
		{name: "ExecutePlan", action: policy.PlanRetention, problem: vault.Conflict,
			do:   func(s *scene, who vault.Caller) error { _, err := s.ExecutePlan(ctx, who, s.plan, s.hash); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.ExecutePlan(ctx, who, s.plan, "x"); return err }},
		{name: "StartSweep", action: policy.SweepRetention, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { _, err := s.StartSweep(ctx, who, "", true); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.StartSweep(ctx, who, "nothing", true); return err }},
		{name: "GetSweep", action: policy.ReadRetention, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetSweep(ctx, who, s.sweep); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetSweep(ctx, who, "swp_x"); return err }},
		{name: "ListSweeps", action: policy.ReadRetention, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListSweeps(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListSweeps(ctx, who, "x", 10); return err }},
		{name: "ConfirmSweep", action: policy.ConfirmRetention, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.ConfirmSweep(ctx, who, s.waiting)
				return err
			},
			fail: func(s *scene, who vault.Caller) error { _, err := s.ConfirmSweep(ctx, who, "swp_x"); return err }},
		{name: "StopSweep", action: policy.SweepRetention, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.StopSweep(ctx, who, s.running)
				return err
			},
			fail: func(s *scene, who vault.Caller) error { _, err := s.StopSweep(ctx, who, "swp_x"); return err }},
	}
}

// The legal minimum wins over shorter rules and expires_at: what is due is unreadable, and stays until the law lets it go.
func TestTheLegalMinimumWins(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y", Minimum: &vault.Minimum{Keep: "P2Y", After: "field:closed", Ground: "HGB 257"}}, nil)
	fields := maps.Clone(aFile)
	fields["closed"] = time.Now().AddDate(-1, 0, 0).Format(time.DateOnly)
	kept, gone := a.file(t, "p-1", fields), a.file(t, "p-2", aFile)
	for _, done := range []vault.Tokenized{kept, gone} {
		a.age(done.Record, "400 days")
	}
	a.Work()
	s := a.sweep(t, false)
	if s.Counts.Deleted != 1 || a.records() != 1 {
		t.Errorf("%s %+v", s.State, s.Counts)
	}
	delete(kept.Tokens, "mail")
	a.gone(t, "what the law has kept", kept)
	err := a.DeleteRecord(t.Context(), a.who, "files", kept.Record, 0)
	wantKind(t, "its deletion", err, vault.Conflict)
	if detail := vault.AsError(err).Detail; !strings.Contains(detail, "HGB 257") {
		t.Errorf("it says %q", detail)
	}
	p, err := a.MakePlan(t.Context(), a.who, "files", nil)
	if err != nil || p.Counts.Due != 0 {
		t.Errorf("the plan: %+v, %v", p, err)
	}
	// Expired as well, and marked as due.
	a.Exec(`update privault.records set expires_at = now() - interval '1 day', due_at = now() - interval '1 day'`)
	if s = a.sweep(t, false); s.Counts.Minimum != 1 || s.Counts.Deleted != 0 || a.records() != 1 {
		t.Errorf("expired: %+v", s.Counts)
	}
	if n := a.Count(`select count(*) from privault.records where due_at > now() + interval '11 months'`); n != 1 {
		t.Errorf("%d are marked for when the law lets them go", n)
	}
}

// Who asks to be erased is told what the law has kept, why and until when. It is unreadable at once, and goes when the law lets it.
func TestTheLegalMinimumOutlastsAnErasure(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t, options...)
			a.define(t, &vault.Retention{Minimum: &vault.Minimum{Keep: "P2Y", Ground: "HGB 257"}}, nil)
			a.Collection(a.who, "letters", map[string]string{"text": "text"})
			kept, old := a.file(t, "p-1", aFile), a.file(t, "p-1", aFile)
			a.age(old.Record, "3 years")
			item := vaulttest.Item(map[string]string{"text": "Dear Jane"})
			item.Subject = "p-1"
			if _, err := a.Tokenize(t.Context(), a.who, vault.Batch{Collection: "letters", Items: []vault.NewRecord{item}}); err != nil {
				t.Fatal(err)
			}
			check := func(what string, dry bool) vault.Erasure {
				t.Helper()
				e, err := a.EraseSubject(t.Context(), a.who, "p-1", "gdpr-17", dry)
				if err != nil {
					t.Fatal(what, err)
				}
				if len(e.Retained) != 1 || e.Retained[0].Collection != "files" || e.Retained[0].Records != 1 || e.Retained[0].Law != "HGB 257" ||
					e.Retained[0].Until == nil || e.Retained[0].Until.Before(time.Now().AddDate(2, 0, -1)) || e.Counts.Records != 2 {
					t.Errorf("%s: %+v", what, e)
				}
				return e
			}
			check("a dry run", true)
			e := check("the erasure", false)
			if !strings.Contains(e.Certificate, "\nretained: files, 1 records, legal-obligation (HGB 257), until ") {
				t.Errorf("the certificate says\n%s", e.Certificate)
			}
			a.gone(t, "what the law has kept", kept)
			a.gone(t, "what it hasn't", old)
			a.Work()
			a.settle(t)
			if n := a.Count(`select count(*) from privault.records where subject_id is null and record_id = $1`, vault.RecordID(kept.Record)); n != 1 || a.records() != 1 {
				t.Errorf("%d records, %d of them the one that the law has kept", a.records(), n)
			}
			if s := a.sweep(t, false); s.Counts.Deleted != 0 || a.records() != 1 {
				t.Errorf("a sweep: %+v", s.Counts)
			}
			a.Exec(`update privault.records set created_at = created_at - interval '3 years', due_at = due_at - interval '3 years'`)
			if s := a.sweep(t, false); s.Counts.Deleted != 1 || a.records() != 0 {
				t.Errorf("once the law lets it: %s %+v", s.State, s.Counts)
			}
			a.Sequence()
			var bad []vault.Discrepancy
			if _, err := vault.Reconcile(t.Context(), a.Config.DataURL, a.Config.AuditKeys, func(d vault.Discrepancy) error { bad = append(bad, d); return nil }); err != nil || len(bad) > 0 {
				t.Errorf("the log does not say what became of the records: %v %v", bad, err)
			}
		})
	}
}

// What the law had kept at an erasure survives a restore of a backup from before, in which it is the person's again.
func TestTheLegalMinimumSurvivesARestore(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t, options...)
			a.define(t, &vault.Retention{Minimum: &vault.Minimum{Keep: "P2Y", Ground: "HGB 257"}}, nil)
			kept, old := a.file(t, "p-1", aFile), a.file(t, "p-1", aFile)
			a.age(old.Record, "3 years")
			if err := a.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			data, keys := a.Backup()
			e, err := a.EraseSubject(t.Context(), a.who, "p-1", "gdpr-17", false)
			if err != nil || len(e.Retained) != 1 {
				t.Fatal(e, err)
			}
			if err := a.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			a.Close()
			r := &archive{a.On(data, keys), a.who}
			r.Vault = r.Replica()
			if done := replay(t, r.Bench); done.Erasures != 1 {
				t.Errorf("the replay: %+v", done)
			}
			if err := r.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := r.GetErasure(t.Context(), r.who, e.ID)
			if diff := cmp.Diff(e.Retained, got.Retained); err != nil || diff != "" {
				t.Errorf("what the erasure says is retained: %v\n%s", err, diff)
			}
			r.Work()
			await(t, "the other one's row goes", func() bool { return r.records() == 1 })
			if n := r.Count(`select count(*) from privault.records where record_id = $1 and subject_id is null and expires_at <= now() and due_at > now() + interval '1 year'`,
				vault.RecordID(kept.Record)); n != 1 {
				t.Error("what the law has kept isn't as the erasure left it")
			}
			if n := vaulttest.CountURL(t, r.KeysURL, `select count(*) from keystore.data_keys`); n != 1 {
				t.Errorf("it has %d keys", n)
			}
			r.gone(t, "what the law has kept", kept)
			r.gone(t, "what it hasn't", old)
		})
	}
}

// A record that doesn't open keeps none of the others, and is told.
func TestASweepLeavesWhatItCantRead(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y", After: "field:closed"}, nil)
	broken := a.file(t, "p-0", aFile)
	a.file(t, "p-1", aFile)
	a.file(t, "p-2", aFile)
	a.Exec(`update privault.records set sealed = '\x00' where record_id = $1`, vault.RecordID(broken.Record))
	a.Work()
	s := a.sweep(t, false)
	if s.State != vault.SweepCompleted || s.Counts.Unreadable != 1 || s.Counts.Deleted != 2 || s.Counts.Remaining() != 1 || a.records() != 1 {
		t.Errorf("%s %+v, %d records", s.State, s.Counts, a.records())
	}
	if !strings.Contains(s.Report, "\nunreadable: 1\n") {
		t.Errorf("the report says\n%s", s.Report)
	}
}

// Whether the law has a record kept is asked of the minimum alone: what the other rules count from may be damaged.
func TestTheLegalMinimumIsAskedAlone(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y", After: "field:closed", Minimum: &vault.Minimum{Keep: "P2Y", Ground: "HGB 257"}}, nil)
	fields := maps.Clone(aFile)
	fields["closed"] = time.Now().Format(time.DateOnly)
	kept, old := a.file(t, "p-1", fields), a.file(t, "p-1", fields)
	a.age(old.Record, "3 years")
	a.Exec(`update privault.records set sealed = '\x00'`)
	err := a.DeleteRecord(t.Context(), a.who, "files", kept.Record, 0)
	wantKind(t, "the deletion of what the law has kept", err, vault.Conflict)
	if err := a.DeleteRecord(t.Context(), a.who, "files", old.Record, 0); err != nil || a.records() != 1 {
		t.Errorf("the deletion of the other one: %v, %d records are left", err, a.records())
	}
}

// A sweep whose job has failed has ended, and the schedule goes on with another one.
func TestASweepThatFailsHasEnded(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	a.files(t, 3, 2, "366 days")
	s, err := a.StartSweep(t.Context(), a.who, "", false)
	if err != nil {
		t.Fatal(err)
	}
	a.Exec(`update privault.sweeps set counts = '"nonsense"'`)
	a.Exec(`update river.river_job set attempt = 4`) // the next one is the last
	a.Work()
	await(t, "the sweep has failed", func() bool {
		return a.Count(`select count(*) from privault.sweeps where state = 'failed' and finished_at is not null`) == 1
	})
	a.Exec(`update privault.sweeps set counts = '{}'`)
	if got, err := a.GetSweep(t.Context(), a.who, s.ID); err != nil || got.State != vault.SweepFailed {
		t.Errorf("%+v %v", got, err)
	}
	if s := a.sweep(t, false); s.State != vault.SweepCompleted || s.Counts.Deleted != 2 {
		t.Errorf("the next one: %s %+v", s.State, s.Counts)
	}
}

// Who confirms what a sweep takes confirms what it was weighed by, and no other rules.
func TestAConfirmationIsOfWhatWasWeighed(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	a.files(t, 100, 20, "366 days")
	a.Work()
	s := a.sweep(t, false)
	if s.State != vault.SweepNeedsConfirmation {
		t.Fatal(s.State)
	}
	a.define(t, &vault.Retention{Keep: "P6M"}, nil)
	got, err := a.ConfirmSweep(t.Context(), a.who, s.ID)
	if err != nil || got.State != vault.SweepQueued || got.Confirmed != nil {
		t.Fatalf("under other rules: %+v %v", got, err)
	}
	if s = a.rest(t, s.ID); s.State != vault.SweepNeedsConfirmation || a.records() != 100 {
		t.Fatalf("weighed again: %s, %d records", s.State, a.records())
	}
	if _, err := a.ConfirmSweep(t.Context(), a.who, s.ID); err != nil {
		t.Fatal(err)
	}
	if s = a.rest(t, s.ID); s.State != vault.SweepCompleted || s.Counts.Deleted != 20 || a.records() != 80 {
		t.Errorf("confirmed: %s %+v", s.State, s.Counts)
	}
}

// A change of a collection that is under way holds a sweep up, which goes by the new rules then.
func TestASweepWaitsForAChangeOfTheRules(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	a.files(t, 8, 4, "366 days")
	c, err := pgx.Connect(t.Context(), a.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `
		select pg_advisory_xact_lock(('x' || encode(substring(uuid_send(collection_id) from 9), 'hex'))::bit(64)::bigint) from privault.collections`); err != nil {
		t.Fatal(err)
	}
	s, err := a.StartSweep(t.Context(), a.who, "", false)
	if err != nil {
		t.Fatal(err)
	}
	a.Work()
	await(t, "the lanes wait", func() bool {
		return a.Count(`select count(*) from pg_locks where locktype = 'advisory' and not granted`) > 0
	})
	if _, err := tx.Exec(t.Context(), `
		update privault.collections set version = version + 1, definition = replace(definition::text, '"P1Y"', '"P9Y"')::jsonb`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := a.rest(t, s.ID); s.State != vault.SweepCompleted || s.Counts.Deleted != 0 || a.records() != 8 {
		t.Errorf("%s %+v, %d records", s.State, s.Counts, a.records())
	}
}
