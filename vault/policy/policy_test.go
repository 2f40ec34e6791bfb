package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var everyAction = []Action{DefineCollection, ReadCollection, DropCollection, Tokenize, Detokenize, ReadRecord, UpdateRecord,
	DeleteRecord, ManagePrincipals, CreateTenant, Sweep}

// The whole policy, written out: for each role and action the most that may be seen, - where nothing is shown and it is
// allowed, and a dot where it is refused.
const rulings = `
action              admin  backend-writer  backend-reader-masked  backend-reader  developer  nobody
collection.define   -      .               .                      .               plain      .
collection.read     -      -               masked                 plain           plain      .
collection.delete   -      .               .                      .               plain      .
tokenize            .      -               .                      .               plain      .
detokenize          .      .               masked                 plain           plain      .
record.read         .      .               masked                 plain           plain      .
record.update       .      -               .                      .               plain      .
record.delete       .      -               .                      .               plain      .
principal.manage    -      .               .                      .               plain      .
tenant.create       .      .               .                      .               .          .
sweep               .      .               .                      .               .          .
`

func TestRulingsWrittenOut(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(rulings), "\n")
	names := strings.Fields(lines[0])[1:]
	var actions []Action
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		actions = append(actions, Action(cells[0]))
		for i, name := range names {
			most := map[string]int{".": -1, "-": 0, "redacted": 1, "masked": 2, "plain": 3}[cells[i+1]]
			for view := NoView; view <= Plain; view++ {
				got := Decide(Question{Roles: []string{name}, Action: Action(cells[0]), View: view})
				want := Ruling{Rule: "default-deny"}
				if int(view) <= most {
					want = Ruling{Allowed: true, Rule: "role:" + name}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s, view %q (-want +got):\n%s", name, cells[0], view, diff)
				}
			}
		}
	}
	if diff := cmp.Diff(everyAction, actions); diff != "" {
		t.Errorf("actions in the table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(names[:len(names)-1], append(Roles(), Developer)); diff != "" {
		t.Errorf("roles in the table (-want +got):\n%s", diff)
	}
}

func TestDenyIsTheDefault(t *testing.T) {
	t.Parallel()
	for _, roles := range [][]string{nil, {}, {""}, {"Admin"}, {"admin "}, {"root"}, {"backend"}, {"ADMIN"}, {"admin\x00"}, {"admin,backend-reader"}} {
		for _, action := range everyAction {
			if got := Decide(Question{Roles: roles, Action: action}); got.Allowed || got.Rule != "default-deny" {
				t.Errorf("roles %q may %s: %+v", roles, action, got)
			}
		}
	}
	for _, action := range []Action{"", "Tokenize", "detokenize ", "record", "*"} {
		if got := Decide(Question{Roles: []string{Developer}, Action: action}); got.Allowed {
			t.Errorf("the developer may do %q", action)
		}
	}
	if Decide(Question{Roles: []string{Developer}, Action: Detokenize, View: Plain + 1}).Allowed {
		t.Error("a view beyond plain is allowed")
	}
}

// Several roles have the sum of what each has: not more, whatever their order, and none takes away.
func TestRolesAddUp(t *testing.T) {
	t.Parallel()
	all := append(Roles(), Developer, "nobody")
	rapid.Check(t, func(t *rapid.T) {
		q := Question{
			Roles:  rapid.SliceOfDistinct(rapid.SampledFrom(all), rapid.ID[string]).Draw(t, "roles"),
			Action: rapid.SampledFrom(everyAction).Draw(t, "action"),
			View:   View(rapid.IntRange(int(NoView), int(Plain)).Draw(t, "view")),
		}
		want := slices.ContainsFunc(q.Roles, func(role string) bool {
			return Decide(Question{Roles: []string{role}, Action: q.Action, View: q.View}).Allowed
		})
		got := Decide(q)
		if got.Allowed != want {
			t.Fatalf("%+v: %+v, want %t", q, got, want)
		}
		if got.Allowed && !slices.Contains(q.Roles, strings.TrimPrefix(got.Rule, "role:")) {
			t.Fatalf("%+v was decided by %s", q, got.Rule)
		}
		if q.View > NoView && got.Allowed {
			q.View--
			if !Decide(q).Allowed {
				t.Fatalf("%+v: less is refused where more is allowed", q)
			}
		}
	})
}

// Nobody but the development server's role both administers and reads values.
func TestDutiesAreSeparate(t *testing.T) {
	t.Parallel()
	for _, role := range Roles() {
		may := func(a Action, view View) bool {
			return Decide(Question{Roles: []string{role}, Action: a, View: view}).Allowed
		}
		if may(ManagePrincipals, NoView) && (may(Detokenize, Redacted) || may(ReadRecord, Redacted) || may(Tokenize, NoView)) {
			t.Errorf("%s manages principals and touches values", role)
		}
	}
	if slices.Contains(Roles(), Developer) {
		t.Error("the developer's role can be given to anybody")
	}
}

func TestViews(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]View{"": Masked, "redacted": Redacted, "masked": Masked, "plain": Plain} {
		if got, err := ParseView(name); err != nil || got != want {
			t.Errorf("view %q is %v, %v", name, got, err)
		}
		if name != "" && fmt.Sprint(want) != name {
			t.Errorf("view %q is written %v", name, want)
		}
	}
	for _, name := range []string{"Plain", " plain", "plaintext", "none", "\x00", "0"} {
		if view, err := ParseView(name); err == nil || view != NoView {
			t.Errorf("view %q is %v", name, view)
		}
	}
	if NoView >= Redacted || Redacted >= Masked || Masked >= Plain {
		t.Error("the views are not in their order")
	}
}
