package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/privault/privault/vault/policy"
)

// Who may do what, written out: for each role and action the most that may be seen, - where nothing is shown and it is
// allowed, and a dot where it is refused.
const rulings = `
action               admin  backend-writer  backend-reader-masked  backend-reader  exporter  compliance  auditor  operator  recipient  developer  nobody
collection.define    -      .               .                      .               .         .           .        .         .          -          .
collection.read      -      -               -                      -               -         -           -        -         .          -          .
collection.delete    -      .               .                      .               .         .           .        .         .          -          .
tokenize             .      -               .                      .               .         .           .        .         .          -          .
detokenize           .      .               masked                 plain           .         .           .        .         .          plain      .
token.validate       .      -               -                      -               .         .           .        .         .          -          .
token.rotate         .      -               .                      .               .         .           .        .         .          -          .
record.read          .      .               masked                 plain           .         .           .        .         .          plain      .
record.update        .      -               .                      .               .         .           .        .         .          -          .
record.delete        .      -               .                      .               .         .           .        .         .          -          .
search               .      -               -                      -               .         .           .        .         .          -          .
record.export        .      .               .                      .               plain     .           .        .         .          plain      .
package.read         .      .               .                      .               .         plain       .        .         .          plain      .
principal.manage     -      .               .                      .               .         .           .        .         .          -          .
policy.read          -      .               .                      .               .         -           -        .         .          -          .
policy.write         -      .               .                      .               .         .           .        .         .          -          .
purpose.read         -      .               .                      .               .         -           -        .         .          -          .
purpose.write        -      .               .                      .               .         -           .        .         .          -          .
consent.read         .      .               .                      .               .         -           -        .         .          -          .
consent.write        .      .               .                      .               .         -           .        .         .          -          .
subject.restrict     .      .               .                      .               .         -           .        .         .          -          .
audit.read           .      .               .                      .               .         -           -        .         .          -          .
alarm.read           -      .               .                      .               .         -           -        -         .          -          .
alarm.lift           -      .               .                      .               .         .           .        .         .          -          .
job.read             .      .               .                      .               .         .           .        -         .          -          .
key.read             .      .               .                      .               .         .           .        -         .          -          .
key.manage           .      .               .                      .               .         .           .        -         .          -          .
transform.define     -      .               .                      .               .         .           .        .         .          -          .
transform.read       -      -               .                      -               .         .           .        .         .          -          .
transform.encode     .      -               .                      .               .         .           .        .         .          -          .
transform.decode     .      .               .                      plain           .         .           .        .         .          plain      .
subject.read         .      .               .                      .               .         -           .        .         .          -          .
subject.write        .      .               .                      .               .         -           .        .         .          -          .
subject.link         .      .               .                      .               .         -           .        .         .          -          .
erase                .      .               .                      .               .         -           .        .         .          -          .
hold.place           .      .               .                      .               .         -           .        .         .          -          .
hold.read            .      .               .                      .               .         -           -        .         .          -          .
hold.release         .      .               .                      .               .         -           .        .         .          -          .
certificate.read     .      .               .                      .               .         -           -        .         .          -          .
retention.read       -      .               .                      .               .         -           -        -         .          -          .
retention.plan       .      .               .                      .               .         -           .        .         .          -          .
retention.sweep      .      .               .                      .               .         -           .        -         .          -          .
retention.confirm    .      .               .                      .               .         -           .        .         .          -          .
request.read         .      .               .                      .               .         -           -        .         .          -          .
request.run          .      .               .                      .               .         -           .        .         .          -          .
record.correct       .      .               .                      .               .         -           .        .         .          -          .
webhook.read         -      .               .                      .               .         -           -        -         .          -          .
webhook.write        -      .               .                      .               .         .           .        .         .          -          .
webhook.redeliver    -      .               .                      .               .         -           .        -         .          -          .
webhook.acknowledge  .      .               .                      .               .         -           .        .         -          -          .
suppression.read     .      .               .                      .               .         -           -        .         .          -          .
suppression.write    .      .               .                      .               .         -           .        .         .          -          .
webhook.deliver      .      .               .                      .               .         .           .        .         .          .          .
tenant.create        .      .               .                      .               .         .           .        .         .          .          .
sweep                .      .               .                      .               .         .           .        .         .          .          .
job.work             .      .               .                      .               .         .           .        .         .          .          .
index.inspect        .      .               .                      .               .         .           .        .         .          .          .
restore.replay       .      .               .                      .               .         .           .        .         .          .          .
`

// everyAction are the actions that a policy can grant, and those that none can.
var everyAction = append(policy.Actions(), policy.Deliver, policy.CreateTenant, policy.Sweep, policy.Work, policy.InspectIndexes, policy.Replay)

func ask(action policy.Action, view policy.View, roles ...string) policy.Question {
	return policy.Question{Principal: policy.Principal{ID: "prn_1", Roles: roles}, Action: action, View: view,
		Resource: policy.Resource{Collection: "people", Field: "email", Classification: "confidential"}}
}

func TestRulingsWrittenOut(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(rulings), "\n")
	names := strings.Fields(lines[0])[1:]
	var actions []policy.Action
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		action := policy.Action(cells[0])
		actions = append(actions, action)
		first, last := policy.NoView, policy.NoView
		if policy.Reveals(action) {
			first, last = policy.Redacted, policy.Plain
		}
		for i, name := range names {
			most := map[string]int{".": -1, "-": 0, "redacted": 1, "masked": 2, "plain": 3}[cells[i+1]]
			for view := first; view <= last; view++ {
				got := policy.Builtin().Decide(ask(action, view, name))
				want := policy.Ruling{Rule: policy.DefaultDeny}
				if int(view) <= most {
					want = policy.Ruling{Allowed: true, Rule: "role:" + name}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s, view %q (-want +got):\n%s", name, action, view, diff)
				}
			}
		}
	}
	if diff := cmp.Diff(sorted(everyAction), sorted(actions)); diff != "" {
		t.Errorf("actions in the table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(names[:len(names)-1], append(policy.Roles(), policy.Developer)); diff != "" {
		t.Errorf("roles in the table (-want +got):\n%s", diff)
	}
}

func sorted[T ~string](all []T) []T {
	all = slices.Clone(all)
	slices.Sort(all)
	return all
}

func TestDenyIsTheDefault(t *testing.T) {
	t.Parallel()
	for _, roles := range [][]string{nil, {}, {""}, {"Admin"}, {"admin "}, {"root"}, {"backend"}, {"ADMIN"}, {"admin\x00"}, {"admin,backend-reader"}} {
		for _, action := range everyAction {
			if got := policy.Builtin().Decide(ask(action, policy.NoView, roles...)); got.Allowed || got.Rule != policy.DefaultDeny {
				t.Errorf("roles %q may %s: %+v", roles, action, got)
			}
		}
	}
	for _, action := range []policy.Action{"", "Tokenize", "detokenize ", "record", "*", "reveal"} {
		if policy.Builtin().Decide(ask(action, policy.NoView, policy.Developer)).Allowed {
			t.Errorf("the developer may do %q", action)
		}
	}
	if policy.Builtin().Decide(ask(policy.Detokenize, policy.Plain+1, policy.Developer)).Allowed {
		t.Error("a view beyond plain is allowed")
	}
}

// Several roles have the sum of what each has: not more, whatever their order, and none takes away.
func TestRolesAddUp(t *testing.T) {
	t.Parallel()
	all := append(policy.Roles(), policy.Developer, "nobody")
	rapid.Check(t, func(t *rapid.T) {
		roles := rapid.SliceOfDistinct(rapid.SampledFrom(all), rapid.ID[string]).Draw(t, "roles")
		q := ask(rapid.SampledFrom(everyAction).Draw(t, "action"),
			policy.View(rapid.IntRange(int(policy.NoView), int(policy.Plain)).Draw(t, "view")), roles...)
		want := slices.ContainsFunc(roles, func(role string) bool {
			return policy.Builtin().Decide(ask(q.Action, q.View, role)).Allowed
		})
		got := policy.Builtin().Decide(q)
		if got.Allowed != want {
			t.Fatalf("%+v: %+v, want %t", q, got, want)
		}
		if got.Allowed && !slices.Contains(roles, strings.TrimPrefix(got.Rule, "role:")) {
			t.Fatalf("%+v was decided by %s", q, got.Rule)
		}
		if q.View > policy.NoView && got.Allowed {
			q.View--
			if !policy.Builtin().Decide(q).Allowed {
				t.Fatalf("%+v: less is refused where more is allowed", q)
			}
		}
	})
}

// Nobody but the development server's role both administers, or runs keys, and comes to values.
func TestDutiesAreSeparate(t *testing.T) {
	t.Parallel()
	administers := []policy.Action{policy.ManagePrincipals, policy.WritePolicies}
	for _, role := range policy.Roles() {
		var values, powers []policy.Action
		for _, action := range policy.Actions() {
			allowed := false
			for view := policy.NoView; view <= policy.Plain; view++ {
				allowed = allowed || policy.Builtin().Decide(ask(action, view, role)).Allowed
			}
			if allowed && (policy.Reveals(action) || action == policy.Tokenize) {
				values = append(values, action)
			}
			if allowed && (policy.RunsKeys(action) || slices.Contains(administers, action)) {
				powers = append(powers, action)
			}
		}
		if len(values) > 0 && len(powers) > 0 {
			t.Errorf("%s may %v and %v", role, powers, values)
		}
	}
	if slices.Contains(policy.Roles(), policy.Developer) {
		t.Error("the developer's role can be given to anybody")
	}
}

func TestViews(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]policy.View{"": policy.Masked, "redacted": policy.Redacted, "masked": policy.Masked, "plain": policy.Plain} {
		if got, err := policy.ParseView(name); err != nil || got != want {
			t.Errorf("view %q is %v, %v", name, got, err)
		}
		if name != "" && fmt.Sprint(want) != name {
			t.Errorf("view %q is written %v", name, want)
		}
	}
	for _, name := range []string{"Plain", " plain", "plaintext", "none", "\x00", "0"} {
		if view, err := policy.ParseView(name); err == nil || view != policy.NoView {
			t.Errorf("view %q is %v", name, view)
		}
	}
	if policy.NoView >= policy.Redacted || policy.Redacted >= policy.Masked || policy.Masked >= policy.Plain {
		t.Error("the views are not in their order")
	}
}
