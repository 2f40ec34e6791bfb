// Package policy decides who may do what, and how much of a value they may see. It is pure: questions in, rulings out.
//
// Deny is the default. A role grants actions, and the most that its holders see of a value; a principal with several
// roles has the sum of them.
package policy

import (
	"fmt"
	"slices"
)

// Action is what a caller wants to do. Each is a privilege of its own.
type Action string

// The actions.
const (
	DefineCollection Action = "collection.define"
	ReadCollection   Action = "collection.read"
	DropCollection   Action = "collection.delete"
	Tokenize         Action = "tokenize"
	Detokenize       Action = "detokenize"
	ReadRecord       Action = "record.read"
	UpdateRecord     Action = "record.update"
	DeleteRecord     Action = "record.delete"
	ManagePrincipals Action = "principal.manage"
	CreateTenant     Action = "tenant.create" // by the deployment's operator, on the machine itself; no role has it
	Sweep            Action = "sweep"         // likewise
)

// View is how much of a value is shown. The zero View is no view at all.
type View uint8

// The views, each showing more than the one before.
const (
	NoView View = iota
	Redacted
	Masked
	Plain
)

var viewNames = [...]string{"", "redacted", "masked", "plain"}

func (v View) String() string { return viewNames[v] }

// ParseView reads a view's name. The empty name is the default, Masked.
func ParseView(name string) (View, error) {
	if name == "" {
		return Masked, nil
	}
	if i := slices.Index(viewNames[1:], name); i >= 0 {
		return View(i + 1), nil
	}
	return NoView, fmt.Errorf("a view is redacted, masked or plain")
}

// Question is one decision asked for.
type Question struct {
	Roles  []string
	Action Action
	View   View // asked for; NoView where no value is shown
}

// Ruling is the answer. Rule names what decided, for the audit entry.
type Ruling struct {
	Allowed bool
	Rule    string
}

type role struct {
	name    string
	actions []Action
	view    View
}

// roles are the built-in ones. None but the development server's can both administer and read values.
var roles = []role{
	{"admin", []Action{DefineCollection, ReadCollection, DropCollection, ManagePrincipals}, NoView},
	{"backend-writer", []Action{ReadCollection, Tokenize, UpdateRecord, DeleteRecord}, NoView},
	{"backend-reader-masked", []Action{ReadCollection, Detokenize, ReadRecord}, Masked},
	{"backend-reader", []Action{ReadCollection, Detokenize, ReadRecord}, Plain},
	{"developer", []Action{DefineCollection, ReadCollection, DropCollection, ManagePrincipals, Tokenize, Detokenize, ReadRecord, UpdateRecord, DeleteRecord}, Plain},
}

// Developer is the role that may do everything. Only the development server hands it out.
const Developer = "developer"

// Admin is the role of a tenant's first principal.
const Admin = "admin"

// Roles are the names of the roles that a principal can be given, Developer left out.
func Roles() []string {
	var names []string
	for _, r := range roles {
		if r.name != Developer {
			names = append(names, r.name)
		}
	}
	return names
}

// Decide rules on a question.
func Decide(q Question) Ruling {
	for _, r := range roles {
		if slices.Contains(q.Roles, r.name) && slices.Contains(r.actions, q.Action) && q.View <= r.view {
			return Ruling{Allowed: true, Rule: "role:" + r.name}
		}
	}
	return Ruling{Rule: "default-deny"}
}
