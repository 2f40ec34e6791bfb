package vault

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

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
	Route      string     `json:"route,omitempty"`   // of a call that was refused before an operation began
	Outcome    string     `json:"outcome"`           // ok, denied or failed
	Problem    string     `json:"problem,omitempty"` // the slug of what the caller was told
	Rule       string     `json:"rule,omitempty"`    // what the policy decided by; of several rulings, one that allowed
	Items      int        `json:"items,omitempty"`   // of a batch: how many were asked for; of refused calls: how many they were
	Refused    int        `json:"refused,omitempty"` // of a batch: how many of them were not done
	Resources  []resource `json:"resources,omitempty"`

	id  ID
	at  time.Time
	who Caller

	touched []touch // records of subjects
	ruled   string  // the last ruling's rule
	unknown int     // tokens that were nobody's
	law     *law
	rulings rulings
}

// resource is what an operation touched: just these fields of each of these records of one collection, seen alike. Its outcome is
// that of the operation, or denied: asked for and not shown; loosened: their masks, or packages for the person, show more from now on; deleted: the records
// are no more; anonymised: they are what was left of others; merged: the person is the one named before; delivered: the request's package was sent whole.
type resource struct {
	Collection string   `json:"collection,omitempty"`
	Transform  string   `json:"transform,omitempty"`
	Fields     []string `json:"fields,omitempty"`
	View       string   `json:"view,omitempty"`
	Outcome    string   `json:"outcome,omitempty"`
	Rule       string   `json:"rule,omitempty"` // what decided on this view, where a call has several rulings
	Records    []string `json:"records,omitempty"`
	Sealed     []string `json:"sealed,omitempty"` // the digest of each record as it was written (recordDigest)
	Principal  string   `json:"principal,omitempty"`
	Credential string   `json:"credential,omitempty"`
	Job        string   `json:"job,omitempty"`
	Key        string   `json:"key,omitempty"`     // the name of a keyset
	KMS        string   `json:"kms,omitempty"`     // the name of the KMS key that wraps a root key from now on
	Subject    string   `json:"subject,omitempty"` // the random id, whose link to the person dies with the person
	Hold       string   `json:"hold,omitempty"`
	Alarm      string   `json:"alarm,omitempty"` // its kind is the outcome, its response the rule
	Erasure    string   `json:"erasure,omitempty"`
	Sweep      string   `json:"sweep,omitempty"`
	Plan       string   `json:"plan,omitempty"`
	Request    string   `json:"request,omitempty"` // of a person
	Month      string   `json:"month,omitempty"`   // of audit entries
	Policy     string   `json:"policy,omitempty"`
	Version    int32    `json:"version,omitempty"` // of the policy, or in which the records were written
	Purpose    string   `json:"purpose,omitempty"`
	Webhook    string   `json:"webhook,omitempty"`  // its name
	Delivery   string   `json:"delivery,omitempty"` // what became of it is the outcome

	Suppression string `json:"suppression,omitempty"`
}

const (
	outcomeOK     = "ok"
	outcomeDenied = "denied"
	outcomeFailed = "failed"

	outcomeLoosened = "loosened"
	outcomeDeleted  = "deleted"

	outcomeDelivered  = "delivered"
	outcomeAnonymised = "anonymised"
	outcomeMerged     = "merged"
	outcomeTried      = "tried" // a dry run: nothing of it stayed
)

// open starts the entry of an operation.
func (v *Vault) open(who Caller, action policy.Action) (*entry, error) {
	if up := v.fence.up.Load(); up != nil && action != policy.Replay {
		return nil, up
	}
	e, err := newEntry(v.now(), action)
	if err != nil {
		return nil, err
	}
	in := operatorsLaw
	if who.Principal != (ID{}) {
		if in, err = v.lawOf(who.Tenant); err != nil {
			return nil, err
		}
	}
	e.Request, e.Purpose, e.who, e.law = who.Request, who.Purpose, who, in
	if who.Principal != (ID{}) {
		e.Principal, e.Credential = formatID(principalPrefix, who.Principal), formatID(credentialPrefix, who.Credential)
	}
	if who.Method != MethodAPIKey {
		e.Method = who.Method
	}
	return e, nil
}

// newEntry is an entry of the deployment's.
func newEntry(at time.Time, action policy.Action) (*entry, error) {
	at = at.UTC().Truncate(time.Microsecond)
	id, err := newIDAt(at)
	return &entry{ID: formatID(entryPrefix, id), At: at.Format("2006-01-02T15:04:05.000000Z"), Action: string(action), Outcome: outcomeOK, id: id, at: at}, err
}

// insertEntry writes an entry in the transaction of its work, behind what b holds.
func insertEntry(ctx context.Context, tx pgx.Tx, b *pgx.Batch, e *entry) error {
	body, err := e.body()
	if err != nil {
		return err
	}
	b.Queue(`
		insert into privault.audit_entries (tenant_id, entry_id, principal_id, at, action, outcome, body)
		values ($1, $2, $3, $4, $5, $6, $7)`,
		e.who.Tenant, e.id, e.who.Principal, e.at, e.Action, e.Outcome, body)
	return tx.SendBatch(ctx, b).Close()
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
func (e *entry) body() ([]byte, error) { return json.Marshal(e) }
