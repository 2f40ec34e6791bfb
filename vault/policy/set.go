package policy

import (
	_ "embed"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
)

//go:embed roles.cedar
var builtinText string

// Document is a text of policies under a tenant's name for it.
type Document struct {
	Name    string
	Version int // 0: it was never stored, and rules don't name a version
	Text    string
}

// Set is policies in force together, the roles' among them: compiled, by action, and immutable but for what it remembers.
type Set struct {
	byAction map[Action][]*statement
	finely   map[Action]bool // some policy of the action tells fields of a collection apart
	varies   map[Action]bool // some policy of the action looks at what `asked` leaves out
	places   map[Action]bool // some policy of the action looks at the person's jurisdiction
	rulings  memory[asked, Ruling]
	entities memory[object, *cedar.Entity]
	roles    []string // those that a policy names
}

// statement is one policy. What its scope says of the principal and the action is looked at here; the rest is Cedar's.
type statement struct {
	rule      cedar.PolicyID
	forbid    bool
	role      string // the principal has it; empty: anybody
	principal string // the principal is that one; empty: anybody
	rest      *cedar.Policy
	always    bool // there is no rest to look at
}

// Builtin is the set of the roles alone.
var Builtin = sync.OnceValue(func() *Set {
	s, err := Compile(nil)
	if err != nil {
		panic(err) // a fault of roles.cedar, which every test meets
	}
	return s
})

// Roles are the names of the built-in roles that a principal can be given, Developer left out.
func Roles() []string {
	return slices.DeleteFunc(slices.Clone(Builtin().roles), func(role string) bool { return role == Developer })
}

// Roles are all that some policy names, Developer left out.
func (s *Set) Roles() []string {
	return slices.DeleteFunc(slices.Clone(s.roles), func(role string) bool { return role == Developer })
}

// Compile puts documents in force beside the roles. They have been checked; one that no longer holds fails the whole set.
func Compile(documents []Document) (*Set, error) {
	s := &Set{byAction: map[Action][]*statement{}, finely: map[Action]bool{}, varies: map[Action]bool{}, places: map[Action]bool{}}
	list, faults := parse(builtinText)
	if len(faults) > 0 {
		return nil, fmt.Errorf("roles.cedar:%d:%d: %s", faults[0].Line, faults[0].Column, faults[0].Detail)
	}
	for _, p := range list {
		s.add("role:"+name(p), p)
	}
	for _, d := range documents {
		list, faults := parse(d.Text)
		if len(faults) > 0 {
			return nil, fmt.Errorf("%w: %s, version %d, line %d: %s", errStored, d.Name, d.Version, faults[0].Line, faults[0].Rule)
		}
		version := ""
		if d.Version != 0 {
			version = "@" + strconv.Itoa(d.Version)
		}
		for i, p := range list {
			part := name(p)
			if part == "" {
				part = strconv.Itoa(i + 1)
			}
			s.add("policy:"+d.Name+version+"#"+part, p)
		}
	}
	return s, nil
}

func (s *Set) add(rule string, p *cedar.Policy) {
	tree := (*xast.Policy)(p.AST())
	st := &statement{rule: cedar.PolicyID(rule), forbid: p.Effect() == cedar.Forbid}
	rest := *tree
	rest.Action = xast.Scope{}.All()
	rest.Principal = xast.Scope{}.All()
	switch scope := tree.Principal.(type) {
	case xast.ScopeTypeIn:
		if scope.Entity.Type == "Role" {
			st.role = string(scope.Entity.ID)
		} else {
			rest.Principal = scope
		}
	case xast.ScopeTypeEq:
		st.principal = string(scope.Entity.ID)
	case xast.ScopeTypeAll:
	default:
		rest.Principal = tree.Principal
	}
	_, anything := rest.Resource.(xast.ScopeTypeAll)
	_, anybody := rest.Principal.(xast.ScopeTypeAll)
	st.always = anything && anybody && len(rest.Conditions) == 0
	st.rest = cedar.NewPolicyFromAST((*ast.Policy)(&rest))
	fine, vary, place := tellsFieldsApart(&rest), varies(&rest), places(&rest)
	for _, a := range actions {
		if a.traits&machine == 0 && covers(tree.Action, a.name, a.traits) {
			s.byAction[a.name] = append(s.byAction[a.name], st)
			s.finely[a.name] = s.finely[a.name] || fine
			s.varies[a.name] = s.varies[a.name] || vary
			s.places[a.name] = s.places[a.name] || place
		}
	}
	for _, role := range rolesOf(tree) {
		if !slices.Contains(s.roles, role) {
			s.roles = append(s.roles, role)
		}
	}
}

// covers says whether an action is in a policy's scope.
func covers(scope xast.IsActionScopeNode, action Action, traits trait) bool {
	is := func(uid types.EntityUID) bool {
		return string(uid.ID) == string(action) || uid.ID == revealing && traits&reveals != 0
	}
	switch scope := scope.(type) {
	case xast.ScopeTypeAll:
		return true
	case xast.ScopeTypeEq:
		return string(scope.Entity.ID) == string(action)
	case xast.ScopeTypeIn:
		return is(scope.Entity)
	case xast.ScopeTypeInSet:
		return slices.ContainsFunc(scope.Entities, is)
	}
	return false
}

// tellsFieldsApart says whether a policy may rule differently on two fields of one collection. It errs on the side of yes.
func tellsFieldsApart(p *xast.Policy) bool {
	switch scope := p.Resource.(type) {
	case xast.ScopeTypeAll, xast.ScopeTypeIs:
	case xast.ScopeTypeIn:
		if scope.Entity.Type == "Field" {
			return true
		}
	case xast.ScopeTypeIsIn:
		if scope.Entity.Type == "Field" {
			return true
		}
	default:
		return true
	}
	fine := false
	for _, c := range p.Conditions {
		xast.Inspect(xast.NewNode(c.Body), func(n xast.IsNode) bool {
			if access, yes := n.(xast.NodeTypeAccess); yes && isResource(access.Arg) && access.Value == "collection" {
				return false
			}
			fine = fine || isResource(n)
			return true
		})
	}
	return fine
}

func isResource(n xast.IsNode) bool {
	v, yes := n.(xast.NodeTypeVariable)
	return yes && v.Name == "resource"
}

// rolesOf are the roles that a policy names, in its scope or in its conditions.
func rolesOf(p *xast.Policy) []string {
	var roles []string
	note := func(uid types.EntityUID) {
		if uid.Type == "Role" {
			roles = append(roles, string(uid.ID))
		}
	}
	switch scope := p.Principal.(type) {
	case xast.ScopeTypeIn:
		note(scope.Entity)
	case xast.ScopeTypeIsIn:
		note(scope.Entity)
	}
	for _, c := range p.Conditions {
		xast.Inspect(xast.NewNode(c.Body), func(n xast.IsNode) bool {
			if v, yes := n.(xast.NodeValue); yes {
				if uid, yes := v.Value.(types.EntityUID); yes {
					note(uid)
				}
			}
			return true
		})
	}
	return roles
}

// Finely says whether some policy tells the fields of a collection apart for an action. If none does, a question about
// a field has the same answer as one about its collection.
func (s *Set) Finely(action Action) bool { return s.finely[action] }

// Decide rules on a question: the first permit's rule, or that of the first forbid, or of the first policy that can't be
// evaluated.
func (s *Set) Decide(q Question) Ruling {
	if s.varies[q.Action] {
		return s.decide(q)
	}
	asked := q.asked()
	if asked.facts.Subject.Jurisdiction != "" && !s.places[q.Action] { // else what is remembered would be as many times as there are jurisdictions
		asked.facts.Subject.Jurisdiction = ""
	}
	return s.rulings.get(asked, func() Ruling { return s.decide(q) })
}

func (s *Set) decide(q Question) Ruling {
	rulings := s.decisive(q)
	if len(rulings) == 0 {
		return Ruling{Rule: DefaultDeny}
	}
	return rulings[0]
}

// Decisive are the rules that decided, one or more: the permits if it is allowed, and else what denies.
func (s *Set) Decisive(q Question) []string {
	var rules []string
	for _, r := range s.decisive(q) {
		rules = append(rules, r.Rule)
	}
	return rules
}

// decisive are the rulings of the policies that decide. None: nothing permits.
func (s *Set) decisive(q Question) []Ruling {
	if q.View > Plain {
		return nil
	}
	var room [16]*statement
	open := applicable(room[:0])
	var permits []Ruling
	for _, st := range s.byAction[q.Action] {
		switch {
		case st.role != "" && !slices.Contains(q.Principal.Roles, st.role), st.principal != "" && st.principal != q.Principal.ID:
		case !st.always:
			open = append(open, st)
		case st.forbid:
			return []Ruling{{Rule: string(st.rule)}}
		default:
			permits = append(permits, Ruling{true, string(st.rule)})
		}
	}
	if len(open) == 0 {
		return permits
	}
	w := &world{set: s, q: &q, request: q.request()}
	decision, found := cedar.Authorize(open, w, w.request)
	if len(found.Errors) > 0 {
		denials := make([]Ruling, len(found.Errors))
		for i, e := range found.Errors {
			denials[i].Rule = "error:" + strings.TrimPrefix(string(e.PolicyID), "policy:")
		}
		return denials
	}
	rulings := make([]Ruling, len(found.Reasons), len(found.Reasons)+len(permits))
	for i, r := range found.Reasons {
		rulings[i] = Ruling{decision == cedar.Allow, string(r.PolicyID)}
	}
	if decision == cedar.Deny && len(rulings) > 0 {
		return rulings
	}
	return append(permits, rulings...)
}

// Most gives the most that is shown of a value, and what decided; NoView if nothing may be seen.
func (s *Set) Most(q Question) (View, Ruling) {
	var ruling Ruling
	for q.View = Plain; q.View > NoView; q.View-- {
		if ruling = s.Decide(q); ruling.Allowed {
			break
		}
	}
	return q.View, ruling
}

// applicable are policies whose principal and action fit.
type applicable []*statement

// All is what cedar.Authorize wants.
func (a applicable) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, st := range a {
			if !yield(st.rule, st.rest) {
				return
			}
		}
	}
}

func (q *Question) resource() cedar.EntityUID {
	switch on := kindOf(q.Action); on {
	case onCollection:
		return cedar.NewEntityUID(cedar.EntityType(on), cedar.String(q.Resource.Collection))
	case onField:
		return cedar.NewEntityUID(cedar.EntityType(on), cedar.String(q.Resource.Collection+"/"+q.Resource.Field))
	}
	return theVault
}

var theVault = cedar.NewEntityUID(cedar.EntityType(onVault), "vault")

func (q *Question) request() cedar.Request {
	network := q.Facts.Network.Unmap()
	if !network.IsValid() {
		network = netip.IPv6Unspecified()
	}
	return cedar.Request{
		Principal: cedar.NewEntityUID("Principal", cedar.String(q.Principal.ID)),
		Action:    cedar.NewEntityUID("Action", cedar.String(q.Action)),
		Resource:  q.resource(),
		Context: cedar.NewRecord(cedar.RecordMap{
			"view":        cedar.String(q.View.String()),
			"purpose":     cedar.String(q.Facts.Purpose),
			"legal_basis": cedar.String(q.Facts.LegalBasis),
			"network":     cedar.IPAddr(netip.PrefixFrom(network.WithZone(""), network.BitLen())),
			"method":      cedar.String(q.Facts.Method),
			"mtls":        cedar.Boolean(q.Facts.MTLS),
			"dpop":        cedar.Boolean(q.Facts.DPoP),
			"time":        cedar.NewDatetime(q.Facts.Now),
			"has_subject": cedar.Boolean(q.Facts.Subject.Known),
			"restricted":  cedar.Boolean(q.Facts.Subject.Restricted),
			"objected":    cedar.Boolean(q.Facts.Subject.Objected),
			"consented":   cedar.Boolean(q.Facts.Subject.Consented),

			"jurisdiction": cedar.String(q.Facts.Subject.Jurisdiction),
		}),
	}
}

// world holds the entities of one question, each made when a policy first looks at it; of a resource, for good.
type world struct {
	set       *Set
	q         *Question
	request   cedar.Request
	principal *cedar.Entity
}

// Get is what cedar.Authorize wants.
func (w *world) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch {
	case uid == w.request.Principal:
		if w.principal == nil {
			w.principal = w.q.Principal.entity(uid)
		}
		return *w.principal, true
	case uid == w.request.Resource:
		return *w.set.entities.get(object{uid, w.q.Resource}, func() *cedar.Entity { return w.q.Resource.entity(uid) }), true
	case uid.Type == cedar.EntityType(onCollection):
		return cedar.Entity{UID: uid, Parents: inTheVault}, true
	case uid == w.request.Action && traitsOf(w.q.Action)&reveals != 0:
		return cedar.Entity{UID: uid, Parents: inReveal}, true
	}
	return cedar.Entity{UID: uid}, false
}

// object is a resource as one kind of action sees it: the collection, or all its fields.
type object struct {
	uid cedar.EntityUID
	Resource
}

var (
	inTheVault = cedar.NewEntityUIDSet(theVault)
	inReveal   = cedar.NewEntityUIDSet(cedar.NewEntityUID("Action", revealing))
)

func (p Principal) entity(uid cedar.EntityUID) *cedar.Entity {
	roles := make([]cedar.EntityUID, len(p.Roles))
	for i, role := range p.Roles {
		roles[i] = cedar.NewEntityUID("Role", cedar.String(role))
	}
	tags := make(cedar.RecordMap, len(p.Attributes))
	for name, values := range p.Attributes {
		all := make([]cedar.Value, len(values))
		for i, v := range values {
			all[i] = cedar.String(v)
		}
		tags[cedar.String(name)] = cedar.NewSet(all...)
	}
	return &cedar.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(roles...), Tags: cedar.NewRecord(tags)}
}

func (r Resource) entity(uid cedar.EntityUID) *cedar.Entity {
	if uid.Type != cedar.EntityType(onField) {
		e := &cedar.Entity{UID: uid}
		if uid != theVault {
			e.Parents = inTheVault
		}
		return e
	}
	return &cedar.Entity{
		UID:     uid,
		Parents: cedar.NewEntityUIDSet(cedar.NewEntityUID(cedar.EntityType(onCollection), cedar.String(r.Collection))),
		Attributes: cedar.NewRecord(cedar.RecordMap{
			"collection":     cedar.String(r.Collection),
			"name":           cedar.String(r.Field),
			"classification": cedar.String(r.Classification),
		}),
	}
}

// Shut is the set in force when a tenant's policies can't be read: nothing is allowed but to read and mend them, by whoever
// has a role for it.
func Shut() *Set {
	s, err := Compile([]Document{{Name: "unreadable", Text: `
		forbid (principal, action, resource) unless { action == Action::"policy.read" || action == Action::"policy.write" };`}})
	if err != nil {
		panic(err) // a fault of this text, which a test meets
	}
	return s
}
