package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

// The vocabulary of policies, as a Cedar schema. The principal's attributes are tags, since every deployment has its own:
// principal.hasTag("department") && principal.getTag("department").contains("fraud").
const vocabulary = `
entity Role;
entity Principal in [Role] tags Set<String>;
entity Vault;
entity Collection in [Vault];
entity Field in [Collection] = {
  "collection": String,
  "name": String,
  "classification": String
};
type Circumstances = {
  "view": String,
  "purpose": String,
  "legal_basis": String,
  "network": ipaddr,
  "method": String,
  "mtls": Bool,
  "dpop": Bool,
  "time": datetime,
  "has_subject": Bool,
  "restricted": Bool,
  "objected": Bool,
  "consented": Bool,
  "jurisdiction": String
};
action "reveal";
`

// revealing is the group of all actions that show values, for policies about any of them.
const revealing = "reveal"

// Schema is the Cedar schema that policies are held to.
func Schema() string {
	var b strings.Builder
	b.WriteString(vocabulary)
	for _, a := range actions {
		if a.traits&machine != 0 {
			continue
		}
		group := ""
		if a.traits&reveals != 0 {
			group = fmt.Sprintf(" in [%q]", revealing)
		}
		fmt.Fprintf(&b, "action %q%s appliesTo { principal: Principal, resource: %s, context: Circumstances };\n", a.name, group, a.on)
	}
	return b.String()
}

var resolvedSchema = sync.OnceValue(func() *resolved.Schema {
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(Schema())); err != nil {
		panic(err) // a fault of this file, which every test meets
	}
	r, err := s.Resolve()
	if err != nil {
		panic(err)
	}
	return r
})

func rowOf(action Action) (on kind, traits trait) {
	for _, a := range actions {
		if a.name == action {
			return a.on, a.traits
		}
	}
	return "", 0
}

func kindOf(action Action) kind {
	on, _ := rowOf(action)
	return on
}

func traitsOf(action Action) trait {
	_, traits := rowOf(action)
	return traits
}

// OnField says whether an action is decided on the fields of a collection.
func OnField(action Action) bool { return kindOf(action) == onField }

// OnCollection says whether an action is decided on a collection's definition.
func OnCollection(action Action) bool { return kindOf(action) == onCollection }

// Reveals says whether an action shows values.
func Reveals(action Action) bool { return traitsOf(action)&reveals != 0 }

// RunsKeys says whether an action works on keys.
func RunsKeys(action Action) bool { return traitsOf(action)&runsKeys != 0 }

// Known says whether there is such an action that a policy can grant.
func Known(action Action) bool { return slices.Contains(Actions(), action) }
