// Package policy decides who may do what, and how much of a value they may see. It is pure: questions in, rulings out.
//
// Deny is the default. The rules are Cedar policies (https://docs.cedarpolicy.com): the roles of roles.cedar, which are
// part of the program, and a tenant's own, which permit more or forbid. A forbid wins over every permit, and a policy
// whose condition can't be evaluated denies.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Action is what a caller wants to do. Each is a privilege of its own.
type Action string

// The actions. Each has its line in the table below, and the roles that may do it in roles.cedar.
const (
	DefineCollection  Action = "collection.define"
	ReadCollection    Action = "collection.read"
	DropCollection    Action = "collection.delete"
	Tokenize          Action = "tokenize"
	Detokenize        Action = "detokenize"
	ValidateToken     Action = "token.validate" // says that a token resolves, and shows nothing
	RotateToken       Action = "token.rotate"
	ReadRecord        Action = "record.read"
	UpdateRecord      Action = "record.update"
	DeleteRecord      Action = "record.delete"
	Search            Action = "search"
	Export            Action = "record.export" // all records of a collection
	ReadPackage       Action = "package.read"  // what a person gets who asked for their data
	ManagePrincipals  Action = "principal.manage"
	ReadPolicies      Action = "policy.read"
	WritePolicies     Action = "policy.write"
	ReadPurposes      Action = "purpose.read"
	WritePurposes     Action = "purpose.write"
	ReadConsents      Action = "consent.read"
	WriteConsents     Action = "consent.write" // consents and objections
	Restrict          Action = "subject.restrict"
	ReadAudit         Action = "audit.read"
	ReadAlarms        Action = "alarm.read"
	LiftAlarm         Action = "alarm.lift" // end the response to one
	ReadJobs          Action = "job.read"
	ReadKeys          Action = "key.read"   // the inventory
	ManageKeys        Action = "key.manage" // rotate, retire and destroy
	DefineTransform   Action = "transform.define"
	ReadTransform     Action = "transform.read"
	Encode            Action = "transform.encode"
	Decode            Action = "transform.decode"
	ReadSubject       Action = "subject.read"
	WriteSubject      Action = "subject.write" // say under which jurisdiction a person is
	LinkSubjects      Action = "subject.link"  // say that two references are one person
	Erase             Action = "erase"
	PlaceHold         Action = "hold.place"
	ReadHold          Action = "hold.read"
	ReleaseHold       Action = "hold.release"
	ReadCertificate   Action = "certificate.read"
	ReadRetention     Action = "retention.read"    // sweeps, plans and what a rule would do
	PlanRetention     Action = "retention.plan"    // make and execute plans
	SweepRetention    Action = "retention.sweep"   // destroy what is due, within what is usual
	ConfirmRetention  Action = "retention.confirm" // and beyond
	ReadRequests      Action = "request.read"
	RunRequests       Action = "request.run"    // take in, verify, approve, deny; what is done then takes its own privilege too
	Correct           Action = "record.correct" // change values as a person asked for
	ReadWebhooks      Action = "webhook.read"
	WriteWebhooks     Action = "webhook.write"
	Redeliver         Action = "webhook.redeliver"
	Acknowledge       Action = "webhook.acknowledge" // by a recipient, that it has done its part
	ReadSuppressions  Action = "suppression.read"
	WriteSuppressions Action = "suppression.write" // put a person there, and lift
	Deliver           Action = "webhook.deliver"   // by the service itself: an attempt
	CreateTenant      Action = "tenant.create"     // by the deployment's operator, on the machine itself; no role has it
	Sweep             Action = "sweep"             // likewise
	Work              Action = "job.work"          // likewise: a batch of a job, which was decided on when it was enqueued
	InspectIndexes    Action = "index.inspect"     // likewise: what an index tells whoever reads the database

	Replay Action = "restore.replay" // likewise: a line of the ledger is applied to a database that doesn't have it

	// RaiseAlarm is by the service itself, when it notices something.
	RaiseAlarm Action = "alarm.raise"

	// IntroducePrincipal notes whom a configured authority vouches for; UseKey is refused where a key may not be used,
	// or no longer; RefuseCall is what a call comes to that ends before its own action; ShipAudit and PruneAudit are that the
	// operator copies the log elsewhere, and drops what is too old. Nobody asks for them.
	IntroducePrincipal Action = "principal.introduce"
	UseKey             Action = "key.use"
	RefuseCall         Action = "call.refuse"
	ShipAudit          Action = "audit.ship"
	PruneAudit         Action = "audit.prune"
)

// kind is the type of the resource that an action is decided on.
type kind string

const (
	onVault      kind = "Vault"      // the tenant's vault as a whole
	onCollection kind = "Collection" // a collection's definition
	onField      kind = "Field"      // the values of a field
)

// What sets an action apart. No role but the development server's may have both of the first two.
type trait uint8

const (
	reveals  trait = 1 << iota // shows or hands out values
	runsKeys                   // works on keys
	machine                    // by the operator on the machine itself: no policy can grant it
)

// actions is the one table of actions: what each is decided on, and what sets it apart.
var actions = []struct {
	name   Action
	on     kind
	traits trait
}{
	{DefineCollection, onCollection, 0},
	{ReadCollection, onCollection, 0},
	{DropCollection, onCollection, 0},
	{Tokenize, onField, 0},
	{Detokenize, onField, reveals},
	{ValidateToken, onField, 0},
	{RotateToken, onField, 0},
	{ReadRecord, onField, reveals},
	{UpdateRecord, onField, 0},
	{DeleteRecord, onField, 0},
	{Search, onField, 0},
	{Export, onField, reveals},
	{ReadPackage, onField, reveals},
	{ManagePrincipals, onVault, 0},
	{ReadPolicies, onVault, 0},
	{WritePolicies, onVault, 0},
	{ReadPurposes, onVault, 0},
	{WritePurposes, onVault, 0},
	{ReadConsents, onVault, 0},
	{WriteConsents, onVault, 0},
	{Restrict, onVault, 0},
	{ReadAudit, onVault, 0},
	{ReadAlarms, onVault, 0},
	{LiftAlarm, onVault, 0},
	{ReadJobs, onVault, 0},
	{ReadKeys, onVault, 0},
	{ManageKeys, onVault, runsKeys},
	{DefineTransform, onVault, 0},
	{ReadTransform, onVault, 0},
	{Encode, onField, 0},
	{Decode, onField, reveals},
	{ReadSubject, onVault, 0},
	{WriteSubject, onVault, 0},
	{LinkSubjects, onVault, 0},
	{Erase, onVault, 0},
	{PlaceHold, onVault, 0},
	{ReadHold, onVault, 0},
	{ReleaseHold, onVault, 0},
	{ReadCertificate, onVault, 0},
	{ReadRetention, onVault, 0},
	{PlanRetention, onVault, 0},
	{SweepRetention, onVault, 0},
	{ConfirmRetention, onVault, 0},
	{ReadRequests, onVault, 0},
	{RunRequests, onVault, 0},
	{Correct, onField, 0},
	{ReadWebhooks, onVault, 0},
	{WriteWebhooks, onVault, 0},
	{Redeliver, onVault, 0},
	{Acknowledge, onVault, 0},
	{ReadSuppressions, onVault, 0},
	{WriteSuppressions, onVault, 0},
	{Deliver, onVault, machine},
	{RaiseAlarm, onVault, machine},
	{CreateTenant, onVault, machine},
	{Sweep, onVault, machine},
	{Work, onVault, machine},
	{InspectIndexes, onVault, machine},
	{Replay, onVault, machine},
}

// Actions are the names of all actions that a policy can grant.
func Actions() []Action {
	var names []Action
	for _, a := range actions {
		if a.traits&machine == 0 {
			names = append(names, a.name)
		}
	}
	return names
}

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

// Question is one decision asked for: may this principal do this, to this, in these circumstances?
type Question struct {
	Principal Principal
	Action    Action
	Resource  Resource
	View      View // asked for; NoView where no value is shown
	Facts     Facts
}

// Principal is who asks.
type Principal struct {
	ID         string
	Roles      []string
	Attributes map[string][]string // from the credential: claims, device posture
}

// Resource is what is asked about: nothing for the vault as a whole, a collection, or a field of one. A Field of no name
// stands for the collection's values as a whole. What passes through a transform is a field of no collection, by the
// transform's name.
type Resource struct {
	Collection     string
	Field          string
	Classification string
}

// Facts are the circumstances.
type Facts struct {
	Purpose    string // as the caller says; empty: none
	LegalBasis string // of the purpose; empty: it isn't registered
	Network    netip.Addr
	Method     string // how the caller proved who it is
	MTLS, DPoP bool   // by a key that it holds
	Now        time.Time

	Subject SubjectFacts
}

// SubjectFacts are those of the person whose record it is.
type SubjectFacts struct {
	Known      bool // there is a person
	Restricted bool // under GDPR 18
	Objected   bool // to the purpose
	Consented  bool // to the purpose, and didn't withdraw

	Jurisdiction string // as ISO 3166 has it: "DE", "US-CA"; empty: not said
}

// Ruling is the answer. Rule names what decided, for the audit entry.
type Ruling struct {
	Allowed bool
	Rule    string
}

// Developer is the role that may do everything. Only the development server hands it out.
const Developer = "developer"

// Admin is the role of a tenant's first principal.
const Admin = "admin"

// DefaultDeny is the rule by which whatever no policy permits is refused.
const DefaultDeny = "default-deny"
