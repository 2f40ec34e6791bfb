package vault_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
)

// A rule that would make much unreadable at once is refused, until just that was confirmed.
func TestAShorterRuleIsTriedFirst(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P3Y"}, nil)
	all := a.files(t, 100, 20, "400 days")
	a.age(all[0].Record, "900 days") // due already
	coll, err := a.GetCollection(t.Context(), a.who, "files")
	if err != nil {
		t.Fatal(err)
	}
	shorter := func(keep string) vault.Definition {
		d := coll.Definition
		d.Retention = &vault.Retention{Keep: keep}
		return d
	}
	s, err := a.SimulateRetention(t.Context(), a.who, "files", shorter("P1Y"))
	if err != nil {
		t.Fatal(err)
	}
	want := &vault.Simulation{Records: 100, Exact: true, DueNow: 20, DueBefore: 1, Hash: s.Hash,
		DueIn: []vault.DueIn{{Days: 30, Records: 20}, {Days: 90, Records: 20}, {Days: 365, Records: 100}}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("a year (-want +got):\n%s", diff)
	}
	put := func(d vault.Definition) error {
		_, _, err := a.PutCollection(t.Context(), a.who, "files", d, 0)
		return err
	}
	err = put(shorter("P1Y"))
	wantKind(t, "without a confirmation", err, vault.Conflict)
	if !strings.Contains(vault.AsError(err).Detail, "19 of 100") {
		t.Errorf("it says %v", err)
	}
	other := shorter("P6M")
	other.Confirmed = s.Hash
	wantKind(t, "another rule, with that confirmation", put(other), vault.Conflict)
	if err := put(shorter("P2Y")); err != nil { // nothing becomes due
		t.Error("two years: ", err)
	}
	confirmed := shorter("P1Y")
	confirmed.Confirmed = s.Hash
	wantKind(t, "the confirmation of another version", put(confirmed), vault.Conflict)
	if s, err = a.SimulateRetention(t.Context(), a.who, "files", shorter("P1Y")); err != nil {
		t.Fatal(err)
	}
	confirmed.Confirmed = s.Hash
	if err := put(confirmed); err != nil {
		t.Error("confirmed: ", err)
	}
	a.gone(t, "what is due by the new rule", vault.Tokenized{Record: all[1].Record})
	dated := coll.Definition
	dated.Retention = &vault.Retention{Keep: "P1Y", After: "field:closed"}
	if s, err = a.SimulateRetention(t.Context(), a.who, "files", dated); err != nil || s.DueNow != 100 || s.DueBefore != 20 {
		t.Errorf("by a date in the record: %+v, %v", s, err)
	}
}
