package vault

import (
	"encoding/json"
	"time"

	"github.com/privault/privault/vault/policy"
)

// entry is one audit entry: an allow-list of what may be written down, in the order in which it is. No field may ever
// hold a value, a masked value, a token or free text.
type entry struct {
	ID         string     `json:"id"`
	At         string     `json:"at"` // UTC, with microseconds as Postgres has them
	Request    string     `json:"request,omitempty"`
	Principal  string     `json:"principal,omitempty"`
	Credential string     `json:"credential,omitempty"`
	Method     string     `json:"method,omitempty"`  // how the caller proved who it is, where not by an API key
	Network    string     `json:"network,omitempty"` // where a key was refused for where it was used
	Purpose    string     `json:"purpose,omitempty"`
	Action     string     `json:"action"`
	Outcome    string     `json:"outcome"`           // ok, denied or failed
	Problem    string     `json:"problem,omitempty"` // the slug of what the caller was told
	Rule       string     `json:"rule,omitempty"`    // what the policy decided by; of several rulings, one that allowed
	Items      int        `json:"items,omitempty"`   // of a batch: how many were asked for
	Refused    int        `json:"refused,omitempty"` // of a batch: how many of them were not done
	Resources  []resource `json:"resources,omitempty"`

	id  ID
	at  time.Time
	who Caller

	touched []touch // records of subjects
	ruled   string  // the last ruling's rule
	law     *law
	rulings map[asked]policy.Ruling
}

// resource is what an operation touched: just these fields of each of these records of one collection, seen alike.
type resource struct {
	Collection string   `json:"collection,omitempty"`
	Transform  string   `json:"transform,omitempty"`
	Fields     []string `json:"fields,omitempty"`
	View       string   `json:"view,omitempty"`
	Outcome    string   `json:"outcome,omitempty"` // denied: asked for and not shown; loosened: their masks show more from now on
	Rule       string   `json:"rule,omitempty"`    // what decided on this view, where a call has several rulings
	Records    []string `json:"records,omitempty"`
	Sealed     []string `json:"sealed,omitempty"` // SHA-256 of each record as it was written, base64
	Principal  string   `json:"principal,omitempty"`
	Credential string   `json:"credential,omitempty"`
	Job        string   `json:"job,omitempty"`
	Key        string   `json:"key,omitempty"`     // the name of a keyset
	KMS        string   `json:"kms,omitempty"`     // the name of the KMS key that wraps a root key from now on
	Subject    string   `json:"subject,omitempty"` // the random id, whose link to the person dies with the person
	Hold       string   `json:"hold,omitempty"`
	Erasure    string   `json:"erasure,omitempty"`
	Policy     string   `json:"policy,omitempty"`
	Version    int32    `json:"version,omitempty"` // of the policy, or in which the records were written
	Purpose    string   `json:"purpose,omitempty"`
}

const (
	outcomeOK     = "ok"
	outcomeDenied = "denied"
	outcomeFailed = "failed"

	outcomeLoosened = "loosened"
)

// open starts the entry of an operation.
func (v *Vault) open(who Caller, action policy.Action) (*entry, error) {
	at := v.now().UTC().Truncate(time.Microsecond)
	id, err := newIDAt(at)
	if err != nil {
		return nil, err
	}
	in := operatorsLaw
	if who.Principal != (ID{}) {
		if in, err = v.lawOf(who.Tenant); err != nil {
			return nil, err
		}
	}
	e := &entry{
		ID: formatID(entryPrefix, id), At: at.Format("2006-01-02T15:04:05.000000Z"), Action: string(action), Outcome: outcomeOK,
		Request: who.Request, Purpose: who.Purpose, id: id, at: at, who: who, law: in,
	}
	if who.Principal != (ID{}) {
		e.Principal, e.Credential = formatID(principalPrefix, who.Principal), formatID(credentialPrefix, who.Credential)
	}
	if who.Method != MethodAPIKey {
		e.Method = who.Method
	}
	return e, nil
}

// close notes how the operation ended.
func (e *entry) close(err error) {
	if err == nil {
		return
	}
	kind := AsError(err).Kind
	e.Problem, e.Outcome = string(kind), outcomeFailed
	if kind == Forbidden || kind == PurposeNotAllowed || kind == SubjectRestricted {
		e.Outcome = outcomeDenied
	}
}

// body is the entry's canonical JSON: the members in the order above, nothing else.
func (e *entry) body() (string, error) {
	b, err := json.Marshal(e)
	return string(b), err
}
