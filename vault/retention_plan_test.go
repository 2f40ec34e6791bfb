package vault_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// items are all of a plan's, by record.
func (a *archive) items(t *testing.T, plan string) (all []vault.PlanItem) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := a.ListPlanItems(t.Context(), a.who, plan, cursor, 7)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if cursor = next; next == "" {
			return all
		}
	}
}

// A plan is executed as it was looked at: what is held, changed or gone by then stays, and is told.
func TestAPlanIsExecutedAndNothingElse(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t, options...)
			a.define(t, &vault.Retention{Keep: "P1Y", After: "updated"}, nil)
			all := a.files(t, 40, 20, "366 days")
			hold := func(i int) {
				t.Helper()
				if _, err := a.PlaceHold(t.Context(), a.who, vault.Hold{Matter: "case-1", Record: all[i].Record}); err != nil {
					t.Fatal(err)
				}
			}
			hold(0)
			p, err := a.MakePlan(t.Context(), a.who, "files", nil)
			if err != nil || p.State != vault.PlanReady {
				t.Fatal(p, err)
			}
			want := vault.PlanCounts{Due: 19, Rules: map[string]int64{"collection": 19}, Actions: map[string]int64{"erase": 19}, Skipped: map[string]int64{"held": 1}}
			if diff := cmp.Diff(want, p.Counts); diff != "" {
				t.Errorf("the plan counts (-want +got):\n%s", diff)
			}
			// Whoever has the items can compute the hash.
			sum := sha256.New()
			fmt.Fprintf(sum, "files\t%s\ncollection\tP1Y\tupdated\terase\t%s\n", p.AsOf.UTC().Format(time.RFC3339Nano), p.AsOf.UTC().AddDate(-1, 0, 0).Format(time.RFC3339Nano))
			items := a.items(t, p.ID)
			for _, i := range items {
				fmt.Fprintf(sum, "%s\t%s\t%s\t%s\n", i.Record, i.Rule, i.Action, i.Skipped)
			}
			if got := hex.EncodeToString(sum.Sum(nil)); got != p.Hash || len(items) != 20 {
				t.Errorf("the hash of %d items is %s, the plan's %s", len(items), got, p.Hash)
			}

			hold(1)
			_, err = a.PatchRecord(t.Context(), a.who, "files", all[2].Record, vault.Patch{IfVersion: 1, SetExpires: true})
			wantKind(t, "a change of what is due", err, vault.NotFound)
			a.age(all[2].Record, "-30 days") // changed meanwhile, as far as the rule is concerned
			if err := a.DeleteRecord(t.Context(), a.who, "files", all[3].Record, 0); err != nil {
				t.Fatal(err)
			}
			a.age(all[30].Record, "366 days") // due only now
			_, err = a.ExecutePlan(t.Context(), a.who, p.ID, "0"+p.Hash[1:]+"0")
			wantKind(t, "another hash", err, vault.Conflict)
			done, err := a.ExecutePlan(t.Context(), a.who, p.ID, p.Hash)
			if err != nil || done.Outcome == nil || done.Outcome.State != vault.SweepCompleted {
				t.Fatal(done, err)
			}
			c := done.Outcome.Counts
			if diff := cmp.Diff(map[string]int64{"held": 1, "changed": 1, "gone": 1}, c.Drift); diff != "" || c.Deleted != 16 || c.Held != 1 || c.Remaining() != 0 {
				t.Errorf("%+v, drift (-want +got):\n%s", c, diff)
			}
			for i, done := range all {
				want := 0
				if i <= 2 || i >= 20 {
					want = 1
				}
				if n := a.Count(`select count(*) from privault.records where record_id = $1`, vault.RecordID(done.Record)); n != want {
					t.Errorf("of record %d there are %d, want %d", i, n, want)
				}
			}
			outcomes := map[string]int{}
			for _, i := range a.items(t, p.ID) {
				outcomes[i.Skipped+"/"+i.Outcome]++
			}
			if diff := cmp.Diff(map[string]int{"held/": 1, "/held": 1, "/changed": 1, "/gone": 1, "/done": 16}, outcomes); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
			_, err = a.ExecutePlan(t.Context(), a.who, p.ID, p.Hash)
			wantKind(t, "executed twice", err, vault.Conflict)
		})
	}
}

func TestPlansLookAheadAndExpire(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	all := a.files(t, 5, 2, "366 days")
	ahead := time.Now().AddDate(2, 0, 0)
	p, err := a.MakePlan(t.Context(), a.who, "files", &ahead)
	if err != nil || p.Counts.Due != 5 {
		t.Fatal(p, err)
	}
	done, err := a.ExecutePlan(t.Context(), a.who, p.ID, p.Hash)
	if err != nil || done.Outcome.Counts.Deleted != 2 || done.Outcome.Counts.Drift["changed"] != 3 || a.records() != 3 {
		t.Errorf("executed before its time: %+v, %v", done, err)
	}
	a.age(all[2].Record, "366 days")
	if p, err = a.MakePlan(t.Context(), a.who, "files", nil); err != nil || p.Counts.Due != 1 {
		t.Fatal(p, err)
	}
	a.Exec(`update privault.retention_plans set expires_at = now() - interval '1 second' where sweep_id is null`)
	if p, err := a.GetPlan(t.Context(), a.who, p.ID); err != nil || p.State != vault.PlanExpired {
		t.Errorf("it is %v, %v", p, err)
	}
	_, err = a.ExecutePlan(t.Context(), a.who, p.ID, p.Hash)
	wantKind(t, "one that has expired", err, vault.Conflict)
	far := time.Now().AddDate(20, 0, 0)
	_, err = a.MakePlan(t.Context(), a.who, "files", &far)
	wantKind(t, "twenty years ahead", err, vault.Invalid)
}

// A record that doesn't open any more when its plan is executed is told as that, and not as changed.
func TestAPlanTellsWhatItCantRead(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y", After: "field:closed"}, nil)
	broken := a.file(t, "p-0", aFile)
	a.file(t, "p-1", aFile)
	p, err := a.MakePlan(t.Context(), a.who, "files", nil)
	if err != nil || p.Counts.Due != 2 {
		t.Fatal(p, err)
	}
	a.Exec(`update privault.records set sealed = '\x00' where record_id = $1`, vault.RecordID(broken.Record))
	done, err := a.ExecutePlan(t.Context(), a.who, p.ID, p.Hash)
	if err != nil || done.Outcome == nil || done.Outcome.State != vault.SweepCompleted {
		t.Fatal(done, err)
	}
	c := done.Outcome.Counts
	if diff := cmp.Diff(map[string]int64{"unreadable": 1}, c.Drift); diff != "" || c.Unreadable != 1 || c.Due != 2 || c.Deleted != 1 || c.Remaining() != 1 {
		t.Errorf("%+v, drift (-want +got):\n%s", c, diff)
	}
	for _, i := range a.items(t, p.ID) {
		want := "done"
		if i.Record == broken.Record {
			want = "unreadable"
		}
		if i.Outcome != want {
			t.Errorf("the outcome of %s is %q, want %q", i.Record, i.Outcome, want)
		}
	}
}
