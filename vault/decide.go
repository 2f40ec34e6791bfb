package vault

import (
	"fmt"

	"github.com/privault/privault/vault/policy"
)

// The questions that an operation asks the policy. Each ruling is noted in the operation's entry; asked again, a
// question has the same answer, so that a batch pays for one decision and not for a thousand.

// asked is a question about the values of a collection, as far as it may differ within one operation. Without a field
// it is about all of them.
type asked struct {
	action  policy.Action
	view    policy.View
	coll    *Collection
	field   *field
	subject policy.SubjectFacts
}

// rulings are an operation's answers by question. Most operations ask one.
type rulings struct {
	asked asked // the first
	ruled policy.Ruling
	more  map[asked]policy.Ruling
}

func (r *rulings) of(key asked) (policy.Ruling, bool) {
	if r.asked == key {
		return r.ruled, true
	}
	ruled, have := r.more[key]
	return ruled, have
}

func (r *rulings) keep(key asked, ruled policy.Ruling) {
	switch {
	case r.asked == asked{}:
		r.asked, r.ruled = key, ruled
	case r.more == nil:
		r.more = map[asked]policy.Ruling{key: ruled}
	default:
		r.more[key] = ruled
	}
}

// everyCollection is the resource of a question about all collections, as when they are listed.
const everyCollection = "*"

// require asks about the tenant's vault as a whole, where no value is shown.
func (e *entry) require(action policy.Action) error {
	if policy.OnField(action) || policy.OnCollection(action) {
		return fmt.Errorf("%s is decided on a collection: ask with requireCollection, requireSome or requireField", action)
	}
	return e.note(action, policy.NoView, e.law.policies.Decide(e.question(action, policy.NoView)))
}

// requireCollection asks about a collection's definition.
func (e *entry) requireCollection(action policy.Action, name string) error {
	q := e.question(action, policy.NoView)
	q.Resource.Collection = name
	return e.note(action, policy.NoView, e.law.policies.Decide(q))
}

// requireTransform asks about the values that pass through a transform. Nobody classified them, so they are restricted.
// Whose they are is not known, so nobody has consented to anything.
func (e *entry) requireTransform(action policy.Action, view policy.View, t *Transform) error {
	q := e.question(action, view)
	q.Resource = policy.Resource{Field: t.Name, Classification: "restricted"}
	if err := e.note(action, view, e.law.policies.Decide(q)); err != nil {
		return err
	}
	like := &Collection{Definition: Definition{Purposes: t.Definition.Purposes, PurposeRequired: t.Definition.PurposeRequired}}
	if rule, barred := e.law.barred(action, like, nil, e.who.Purpose, policy.SubjectFacts{}); barred != nil {
		e.ruled, e.Rule = rule, rule
		return barred
	}
	return nil
}

// requireSome asks whether a caller may do it to the values of a collection at all: to one of its fields, if the policy
// tells fields apart. Each field is asked for on its own then.
func (e *entry) requireSome(action policy.Action, view policy.View, c *Collection, s policy.SubjectFacts) error {
	if !e.law.policies.Finely(action) || len(c.order) == 0 {
		return e.requireField(action, view, c, nil, s)
	}
	var err error
	for _, f := range c.order {
		if err = e.requireField(action, view, c, f, s); err == nil {
			return nil
		}
	}
	return err
}

// requireEach asks for each of these fields.
func (e *entry) requireEach(action policy.Action, c *Collection, fields []*field, s policy.SubjectFacts) error {
	if !e.law.policies.Finely(action) {
		return e.requireField(action, policy.NoView, c, nil, s)
	}
	for _, f := range fields {
		if err := e.requireField(action, policy.NoView, c, f, s); err != nil {
			return err
		}
	}
	return nil
}

// requireField asks about one field's values; nil asks about a collection's as a whole.
func (e *entry) requireField(action policy.Action, view policy.View, c *Collection, f *field, s policy.SubjectFacts) error {
	if !e.law.policies.Finely(action) {
		f = nil // has the same answer
	}
	key := asked{action, view, c, f, s}
	ruling, have := e.rulings.of(key)
	if !have {
		q := e.question(action, view)
		q.Facts.Subject = s
		q.Resource.Collection = c.Name
		if f != nil {
			q.Resource.Field, q.Resource.Classification = f.name, f.classification
		}
		ruling = e.law.policies.Decide(q)
		e.rulings.keep(key, ruling)
	}
	return e.note(action, view, ruling)
}

// requireShown asks for a view of one field of a record: the policy first, and then the person's rights and the purpose.
func (e *entry) requireShown(action policy.Action, view policy.View, o *opened, f *field) error {
	if err := e.requireField(action, view, o.coll, f, o.facts); err != nil {
		return err
	}
	rule, barred := e.law.barred(action, o.coll, f, e.who.Purpose, o.facts)
	if barred == nil {
		return nil
	}
	e.ruled = rule
	return barred
}

// requireUnrestricted asks whether the person whose record it is had its processing restricted.
func (e *entry) requireUnrestricted(s policy.SubjectFacts) error {
	if !s.Restricted {
		return nil
	}
	e.ruled, e.Rule = restrictionRule, restrictionRule
	return errRestricted
}

func (e *entry) question(action policy.Action, view policy.View) policy.Question {
	return policy.Question{
		Principal: policy.Principal{ID: e.Principal, Roles: e.who.Roles, Attributes: e.who.Attributes},
		Action:    action,
		View:      view,
		Facts: policy.Facts{Purpose: e.who.Purpose, LegalBasis: e.law.purposes[e.who.Purpose].LegalBasis, Network: e.who.Network, Method: e.who.Method, MTLS: e.who.MTLS, DPoP: e.who.DPoP,
			Now: e.at},
	}
}

// note keeps a ruling for the entry: of several, one that allowed.
func (e *entry) note(action policy.Action, view policy.View, r policy.Ruling) error {
	if view == policy.Plain && e.who.masked {
		r = policy.Ruling{Rule: ruleOf(ResponseMask)} // a response to an alarm (response.go)
	}
	e.ruled = r.Rule
	if e.Rule == "" || r.Allowed {
		e.Rule = r.Rule
	}
	if !r.Allowed {
		return fail(Forbidden, "the policy doesn't allow this caller %s%s", action, viewed(view))
	}
	return nil
}

func viewed(view policy.View) string {
	if view == policy.NoView {
		return ""
	}
	return " with view " + view.String()
}
