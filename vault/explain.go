package vault

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Explain asks what the policy would decide.
type Explain struct {
	Principal  string // its roles are looked up; empty: Roles
	Roles      []string
	Attributes map[string][]string
	Action     string
	Collection string
	Field      string
	View       string // empty: the most is asked for
	Purpose    string
	Network    netip.Addr
	Method     string
	MTLS, DPoP bool
	At         time.Time // zero: now
	Subject    policy.SubjectFacts
}

// Explained is what would be decided, and by what.
type Explained struct {
	Allowed  bool
	Rule     string      // what decides
	View     policy.View // the most that is shown; of an action that shows no value, NoView
	Policies []string    // all that decide alike
}

// Explain says what the policy in force would decide, and by which rule. It touches no data.
func (v *Vault) Explain(ctx context.Context, who Caller, x Explain) (out Explained, err error) {
	err = v.within(ctx, who, policy.ReadPolicies, func(t *txn) error {
		c, f, err := t.explained(ctx, &x)
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ReadPolicies); err != nil {
			return err
		}
		if x.At.IsZero() {
			x.At = t.now
		}
		out, err = t.entry.law.explain(x, c, f)
		return err
	})
	return out, err
}

// explained looks up what the question names: 404 for what isn't there.
func (t *txn) explained(ctx context.Context, x *Explain) (c *Collection, f *field, err error) {
	if x.Principal != "" {
		id, ok := parseID(principalPrefix, x.Principal)
		if !ok {
			return nil, nil, fail(NotFound, "")
		}
		err := t.data.QueryRow(ctx, `
			select roles from privault.principals where tenant_id = $1 and principal_id = $2`, t.who.Tenant, id).Scan(&x.Roles)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil, fail(NotFound, "")
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if x.Collection == "" {
		return nil, nil, nil
	}
	if c, err = t.namedCollection(ctx, x.Collection); err != nil {
		return nil, nil, err
	}
	if x.Field != "" && c.fields[x.Field] == nil {
		return nil, nil, fail(NotFound, "")
	}
	return c, c.fields[x.Field], nil
}

// question is what is asked of the policies, as an operation would ask it.
func (l *law) question(x Explain, c *Collection, f *field) (q policy.Question, err error) {
	var faults faults
	action := policy.Action(x.Action)
	if !policy.Known(action) {
		faults.add("/action", "action", "there is no such action that a policy can grant")
	}
	if c == nil && (policy.OnField(action) || policy.OnCollection(action)) {
		faults.add("/collection", "required", "this action is decided on a collection")
	}
	if x.Field == "" && policy.OnField(action) && l.policies.Finely(action) {
		faults.add("/field", "required", "a policy tells fields apart: name one")
	}
	view := policy.NoView
	if x.View != "" {
		if view, err = policy.ParseView(x.View); err != nil {
			faults.add("/view", "view", err.Error())
		}
		if !policy.Reveals(action) {
			view = policy.NoView
		}
	}
	if x.Subject.Jurisdiction != "" {
		checkJurisdiction(&faults, "/subject/jurisdiction", x.Subject.Jurisdiction)
	}
	q = policy.Question{
		Principal: policy.Principal{ID: x.Principal, Roles: x.Roles, Attributes: x.Attributes},
		Action:    action,
		View:      view,
		Facts: policy.Facts{Purpose: x.Purpose, LegalBasis: l.purposes[x.Purpose].LegalBasis, Network: x.Network,
			Method: x.Method, MTLS: x.MTLS, DPoP: x.DPoP, Now: x.At, Subject: x.Subject},
	}
	if c != nil {
		q.Resource.Collection = c.Name
	}
	if f != nil {
		q.Resource.Field, q.Resource.Classification = f.name, f.classification
	}
	return q, faults.err()
}

// explain decides like an operation does: the policies, then what the person and the purpose allow. Without a view the most
// is asked for, where the action shows values.
func (l *law) explain(x Explain, c *Collection, f *field) (Explained, error) {
	q, err := l.question(x, c, f)
	if err != nil {
		return Explained{}, err
	}
	return l.decide(q, x.View == "", c, f), nil
}

func (l *law) decide(q policy.Question, most bool, c *Collection, f *field) Explained {
	var view policy.View
	var ruling policy.Ruling
	if most && policy.Reveals(q.Action) {
		view, ruling = l.policies.Most(q)
		q.View = max(view, policy.Redacted)
	} else {
		ruling = l.policies.Decide(q)
		if view = q.View; !ruling.Allowed {
			view, _ = l.policies.Most(q)
		}
	}
	if !policy.Reveals(q.Action) {
		view = policy.NoView
	}
	out := Explained{ruling.Allowed, ruling.Rule, view, l.policies.Decisive(q)}
	if len(out.Policies) == 0 {
		out.Policies = []string{ruling.Rule}
	}
	if !out.Allowed || c == nil {
		return out
	}
	if rule, barred := l.barred(q.Action, c, f, q.Facts.Purpose, q.Facts.Subject); barred != nil {
		return Explained{Rule: rule, Policies: []string{rule}}
	}
	return out
}

// Draft is a law that is in force nowhere: policies, purposes and collections as a tenant might have them. It answers what
// they would decide, without a vault.
type Draft struct {
	law         law
	collections map[string]*Collection
}

// NewDraft checks what the vault would check when it is told them.
func NewDraft(policies []policy.Document, purposes []Purpose, collections map[string]Definition) (*Draft, error) {
	set, err := policy.Compile(policies)
	if err != nil {
		return nil, err
	}
	d := &Draft{law{policies: set, purposes: map[string]Purpose{}}, map[string]*Collection{}}
	for _, p := range purposes {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("purpose %s: %w", p.Name, err)
		}
		d.law.purposes[p.Name] = p
	}
	for name, definition := range collections {
		if !nameOfCollection.MatchString(name) {
			return nil, fmt.Errorf("collection %s: its name is a lower-case letter, then up to 62 of a-z 0-9 _", name)
		}
		if err := definition.check(); err != nil {
			return nil, fmt.Errorf("collection %s: %w", name, err)
		}
		c := &Collection{Name: name, Definition: definition, fields: map[string]*field{}}
		for name, f := range definition.Fields {
			c.fields[name] = &field{name: name, classification: f.Classification, purposes: f.Purposes}
		}
		d.collections[name] = c
	}
	return d, nil
}

// Explain says what would be decided, as Vault.Explain does. The principal is not looked up: its roles are x's.
func (d *Draft) Explain(x Explain) (Explained, error) {
	c := d.collections[x.Collection]
	if c == nil {
		if x.Collection != "" {
			return Explained{}, invalid("/collection", "unknown", "there is no such collection")
		}
		return d.law.explain(x, nil, nil)
	}
	f := c.fields[x.Field]
	if f == nil && x.Field != "" {
		return Explained{}, invalid("/field", "unknown", "the collection has no such field")
	}
	return d.law.explain(x, c, f)
}

const restrictionRule = "restriction"

var errRestricted = &Error{Kind: SubjectRestricted, Detail: "processing of this person's data is restricted"}

// barred says why a caller may not come to a person's data although the policy allows it: the rule, and what it is told.
func (l *law) barred(action policy.Action, c *Collection, f *field, purpose string, s policy.SubjectFacts) (rule string, err *Error) {
	if action == policy.ReadPackage || action == policy.Correct {
		// A person's own request: it is none of the purposes that the person can object to, and a restriction is for its own good.
		return "", nil
	}
	if s.Restricted {
		return restrictionRule, errRestricted
	}
	if !policy.Reveals(action) {
		return "", nil
	}
	no := func(rule, detail string) (string, *Error) { return rule, fail(PurposeNotAllowed, "%s", detail) }
	_, registered := l.purposes[purpose]
	allowed := c.Definition.Purposes
	if f != nil && len(f.purposes) > 0 {
		allowed = f.purposes
	}
	switch {
	case (len(allowed) > 0 || c.Definition.PurposeRequired) && !registered:
		return no("purpose-required", "name a registered purpose as Privault-Purpose")
	case len(allowed) > 0 && !slices.Contains(allowed, purpose):
		return no("purpose-not-listed", "this is not one of the purposes that the data is kept for")
	}
	if rule, detail := l.unwilling(purpose, s); rule != "" {
		return no(rule, detail)
	}
	return "", nil
}

// unwilling says by which rule the person doesn't want a purpose; empty: by none.
func (l *law) unwilling(purpose string, s policy.SubjectFacts) (rule, detail string) {
	p, registered := l.purposes[purpose]
	switch {
	case purpose != "" && s.Objected:
		return "objection", "the person objected to this purpose"
	case registered && p.RequiresConsent() && !s.Consented:
		return "no-consent", "the person has not consented to this purpose, or withdrew"
	}
	return "", ""
}

// unwanted says whether the person keeps its records from being found for a purpose.
func (l *law) unwanted(purpose string, s policy.SubjectFacts) bool {
	rule, _ := l.unwilling(purpose, s)
	return s.Restricted || rule != ""
}
