package vault

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
)

// Request is what a person asks for by right. Its clock runs from Received on; step.go says what becomes of it.
type Request struct {
	ID       string
	Version  int32
	Type     deadline.Type
	Regime   deadline.Regime
	State    string
	Terms    Terms // the zero Terms once the person is erased
	Approval bool  // somebody else than who opened or verified it must approve

	Received                    time.Time
	Opened                      time.Time
	OpenedBy                    string
	AcknowledgeBy, Acknowledged *time.Time
	Due                         time.Time  // the last second of the last day, where the regime's days are counted
	Asked                       *time.Time // when the person was asked who they are
	Paused                      *time.Time // since when the clock stands still
	Extension                   string     // why there is more time
	Noticed                     *time.Time // when the person was told so
	Verified                    *Verification
	Approved                    *time.Time
	ApprovedBy                  string
	Outcome                     string // of a completed one
	Denial                      string // why it was denied, one of Denials
	Statement                   string // a reference to what the person says to the denial of a correction
	Certificate                 string // of the erasure
	Closed                      *time.Time

	History []RequestEvent // only where one request is read

	id       ID
	digest   []byte
	sealed   []byte
	proposal []byte
	noted    []string
	happened []RequestEvent // and is not yet in the history
}

// Terms are what a request says of the person, and what it asks for in particular. They are sealed under a key of the
// request's own, which goes when the person is erased.
type Terms struct {
	Subject      string   `json:"subject"`
	Reason       string   `json:"reason,omitempty"`        // of an erasure: one of ErasureReasons
	Purpose      string   `json:"purpose,omitempty"`       // that is objected to
	Allowed      []string `json:"allowed,omitempty"`       // purposes that a restriction allows
	Collection   string   `json:"collection,omitempty"`    // of a correction
	Record       string   `json:"record,omitempty"`        // likewise
	RecipientKey string   `json:"recipient_key,omitempty"` // age1…: what is handed out is encrypted to it
	Agent        *Agent   `json:"agent,omitempty"`

	Scope    []ErasurePart `json:"scope,omitempty"`    // of an erasure: only this goes; nil: everything
	Retained []Retained    `json:"retained,omitempty"` // likewise: on what ground something stays
}

// Agent is who asks for somebody else.
type Agent struct {
	Reference string `json:"reference"` // opaque
	Proof     string `json:"proof"`     // one of AgentProofs
}

// AgentProofs are what an agent shows that it may ask (11 CCR 7063; 45 CFR 164.502(g)).
var AgentProofs = []string{"signed-permission", "power-of-attorney", "parental-authority", "guardianship", "court-order", "registered-agent"}

// NewRequest is a request as it comes in.
type NewRequest struct {
	Type     deadline.Type
	Regime   deadline.Regime // empty: what the person's jurisdiction implies
	Terms    Terms
	Received *time.Time // nil: now
	Approval bool
	Fields   map[string]Secret // of a correction: to set, each one JSON value
	Remove   []string          // likewise: fields to remove
}

// RequestEvent is one entry of a request's history.
type RequestEvent struct {
	Event  string
	At     time.Time
	By     string // the principal; empty: the service itself
	State  string // afterwards
	Reason string
	Moment *time.Time // when it was, as the caller says
}

// The states of a request.
const (
	RequestReceived   = "received"
	RequestVerifying  = "verifying" // the person was asked who they are, or what they mean
	RequestWaiting    = "waiting_for_approval"
	RequestInProgress = "in_progress"
	RequestCompleted  = "completed"
	RequestDenied     = "denied"
	RequestCancelled  = "cancelled"
	RequestDeferred   = "deferred" // until a legal hold is released
	RequestExpired    = "expired"  // the person was asked who they are and never said it
)

// RequestStates are all of them.
var RequestStates = []string{RequestReceived, RequestVerifying, RequestWaiting, RequestInProgress, RequestCompleted, RequestDenied,
	RequestCancelled, RequestDeferred, RequestExpired}

// The outcomes of a completed request.
const (
	OutcomeComplied    = "complied"
	OutcomeNothingHeld = "nothing-held" // of the person; or no more, since they were erased
)

// The versions of the keys that a request's parts are sealed under.
const (
	termsVersion    = 1
	proposalVersion = 2
)

// OpenRequest takes in what a person asks for. Nothing is done about it before it is verified, so requests in somebody
// else's name change nothing for that person.
func (v *Vault) OpenRequest(ctx context.Context, who Caller, n NewRequest) (*Request, error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.RunRequests, err)
	}
	var r *Request
	err = v.within(ctx, who, policy.RunRequests, func(t *txn) error {
		if err := t.entry.require(policy.RunRequests); err != nil {
			return err
		}
		if err := t.checkRequest(ctx, keys, &n); err != nil {
			return err
		}
		id, err := newID()
		if err != nil {
			return err
		}
		r = &Request{ID: formatID(requestPrefix, id), Version: 1, Type: n.Type, Regime: n.Regime, State: RequestReceived, Terms: n.Terms,
			Approval: n.Approval, Received: t.now, Opened: t.now, OpenedBy: formatID(principalPrefix, who.Principal), id: id}
		if n.Received != nil {
			r.Received = n.Received.Truncate(time.Microsecond)
		}
		v.clocks.of(r.Regime).start(r)
		if err := t.insertRequest(ctx, keys, r, &n); err != nil {
			return err
		}
		r.happens(RequestEvent{Event: "opened"})
		t.entry.Resources = []resource{{Request: r.ID}}
		return t.insertRequestEvents(ctx, r)
	})
	return r, err
}

func (t *txn) insertRequest(ctx context.Context, keys *tenantKeys, r *Request, n *NewRequest) error {
	keys, err := t.holdKeys(ctx, keys)
	if err != nil {
		return err
	}
	// Under the primary key, as whatever else is found by the reference.
	if r.digest, err = t.subjectDigest(ctx, keys, r.Terms.Subject); err != nil {
		return err
	}
	// Whoever erases the person waits, and then finds this request.
	if err := t.lockSubject(ctx, r.digest); err != nil {
		return err
	}
	if r.sealed, err = t.sealPart(ctx, keys, r.id, termsVersion, r.Terms); err != nil {
		return err
	}
	if r.Type == deadline.Correction {
		if r.proposal, err = t.sealPart(ctx, keys, r.id, proposalVersion, proposalOf(n)); err != nil {
			return err
		}
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.requests (tenant_id, request_id, version, type, regime, state, digest, sealed, proposal, approval,
			received_at, opened_at, opened_by, acknowledge_by, due_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		t.who.Tenant, r.id, r.Version, r.Type, r.Regime, r.State, r.digest, r.sealed, r.proposal, r.Approval,
		r.Received, r.Opened, t.who.Principal, r.AcknowledgeBy, r.Due)
	return err
}

// checkRequest says what of a request can't be, and fills in what it may leave out.
func (t *txn) checkRequest(ctx context.Context, keys *tenantKeys, n *NewRequest) (err error) {
	if err := checkSubject(n.Terms.Subject, "/subject"); err != nil {
		return err
	}
	if n.Regime == "" {
		if n.Regime, err = t.impliedRegime(ctx, keys, n.Terms.Subject); err != nil {
			return err
		}
	}
	if _, err := deadline.For(n.Regime, n.Type); err != nil {
		return invalid("/type", "no-such-right", "the types are access, portability, correction, erasure, restriction and objection, the regimes gdpr, ccpa and hipaa; "+
			"hipaa knows access, portability and correction only")
	}
	var faults faults
	if n.Received != nil && n.Received.After(t.now) {
		faults.add("/received_at", "past", "a request was not received in the future")
	}
	if key := n.Terms.RecipientKey; key != "" {
		if !handsOut(n.Type) {
			faults.add("/recipient_key", "not-applicable", "only access and portability hand anything out")
		} else if _, err := recipient(key); err != nil {
			faults.add("/recipient_key", "age-recipient", "a recipient's key is one age public key, age1…")
		}
	}
	if a := n.Terms.Agent; a != nil {
		if !slices.Contains(AgentProofs, a.Proof) {
			faults.add("/agent/proof", "proof", "the proofs of an agent are "+list(AgentProofs))
		}
		checkOpaque(&faults, "/agent/reference", a.Reference)
	}
	if err := t.checkTerms(ctx, n, &faults); err != nil {
		return err
	}
	return faults.err()
}

// checkOpaque is for references that callers make up: never the thing itself.
func checkOpaque(faults *faults, at, reference string) {
	if rule, yes := datatype.LooksLikePII(reference); yes {
		faults.add(at, rule, "a reference is opaque, and not personal data")
	} else if !opaqueReference.MatchString(reference) {
		faults.add(at, "reference", referenceRule)
	}
}

// handsOut says whether a type of request is answered with the person's data.
func handsOut(typ deadline.Type) bool { return typ == deadline.Access || typ == deadline.Portability }

// checkTerms checks what only one type of request has.
func (t *txn) checkTerms(ctx context.Context, n *NewRequest, faults *faults) error {
	m := &n.Terms
	for _, term := range []struct {
		at        string
		misplaced bool
	}{
		{"/reason", m.Reason != "" && n.Type != deadline.Erasure},
		{"/scope", m.Scope != nil && n.Type != deadline.Erasure},
		{"/retained", len(m.Retained) > 0 && n.Type != deadline.Erasure},
		{"/purpose", m.Purpose != "" && n.Type != deadline.Objection},
		{"/allowed_purposes", len(m.Allowed) > 0 && n.Type != deadline.Restriction},
		{"/correction", (m.Collection != "" || m.Record != "" || len(n.Fields)+len(n.Remove) > 0) && n.Type != deadline.Correction},
	} {
		if term.misplaced {
			faults.add(term.at, "not-applicable", "reason, scope and retained belong to an erasure, purpose to an objection, allowed_purposes to a restriction, correction to a correction")
		}
	}
	switch n.Type {
	case deadline.Erasure:
		if m.Reason == "" {
			m.Reason = map[deadline.Regime]string{deadline.GDPR: "gdpr-17", deadline.CCPA: "ccpa-1798.105"}[n.Regime]
		}
		if !slices.Contains(ErasureReasons, m.Reason) {
			faults.add("/reason", "reason", "the reasons are "+list(ErasureReasons))
		}
		return t.checkPart(ctx, m, faults)
	case deadline.Objection:
		p, err := t.purpose(ctx, m.Purpose)
		if err != nil {
			return err
		}
		if p.Version == 0 {
			faults.add("/purpose", "unknown-purpose", "a purpose that is objected to is registered first")
		}
	case deadline.Restriction:
		said := Said{Reference: string(n.Type), Allowed: m.Allowed}
		return t.checkRestriction(ctx, &said)
	case deadline.Correction:
		return t.checkCorrection(ctx, n, faults)
	}
	return nil
}

// checkCorrection holds what a correction brings against the collection as it is now; it is held again when it is applied.
func (t *txn) checkCorrection(ctx context.Context, n *NewRequest, faults *faults) error {
	if _, ok := parseID(recordPrefix, n.Terms.Record); !ok {
		faults.add("/correction/record", "record", "a correction names the record by its id")
	}
	c, err := t.namedCollection(ctx, n.Terms.Collection)
	if AsError(err).Kind == NotFound {
		faults.add("/correction/collection", "unknown-collection", "there is no such collection")
		return nil
	}
	if err != nil {
		return err
	}
	p := Patch{Fields: n.Fields, Remove: n.Remove}
	if len(p.names()) == 0 {
		faults.add("/correction/fields", "size", "a correction changes at least one field")
	}
	for _, name := range p.names() {
		f := c.fields[name]
		if f == nil {
			faults.add("/correction/fields", "unknown-field", "the collection has no such field")
		} else if raw, set := n.Fields[name]; set {
			if _, fault := f.typ.Parse(raw.Reveal()); fault != nil {
				faults.add("/correction/fields/"+name, fault.Rule, fault.Detail)
			}
		}
	}
	return nil
}

// proposal is what a correction brings, as it is sealed. Its values are bytes, since raw JSON within JSON would be compacted.
type proposal struct {
	Fields map[string][]byte `json:"fields,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

func proposalOf(n *NewRequest) proposal {
	p := proposal{Fields: map[string][]byte{}, Remove: n.Remove}
	for name, value := range n.Fields {
		p.Fields[name] = value.Reveal()
	}
	return p
}

func (p proposal) patch() Patch {
	patch := Patch{Fields: map[string]Secret{}, Remove: p.Remove}
	for name, raw := range p.Fields {
		patch.Fields[name] = NewSecret(raw)
	}
	return patch
}

// sealPart seals what a request or a link says under a new key of its own.
func (t *txn) sealPart(ctx context.Context, keys *tenantKeys, id ID, version int32, part any) ([]byte, error) {
	plain, err := json.Marshal(part)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	key, wrapped, err := keys.newDEK(id, version)
	if err != nil {
		return nil, err
	}
	_, err = t.keys.Exec(ctx, `
		insert into keystore.data_keys (tenant_id, record_id, version, wrapped, created_at) values ($1, $2, $3, $4, $5)`,
		t.who.Tenant, id, version, wrapped, t.now)
	if err != nil {
		return nil, err
	}
	return key.Seal(nil, plain, keys.place(ID{}, id, version, 0))
}

// openRequests opens what requests say of their persons. One whose key is gone says nothing any more.
func (t *txn) openRequests(ctx context.Context, keys *tenantKeys, all []*Request) error {
	by := map[ID]*Request{}
	ids := []ID{}
	for _, r := range all {
		if r.sealed != nil {
			by[r.id], ids = r, append(ids, r.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var id ID
	var wrapped []byte
	return each(ctx, t.keys, []any{&id, &wrapped}, func() error {
		return keys.openPart(id, termsVersion, wrapped, by[id].sealed, &by[id].Terms)
	}, `
		select record_id, wrapped from keystore.data_keys where tenant_id = $1 and record_id = any($2) and version = $3`,
		t.who.Tenant, ids, termsVersion)
}

func (k *tenantKeys) openPart(id ID, version int32, wrapped, sealed []byte, into any) error {
	key, err := k.openDEK(id, version, wrapped)
	if err != nil {
		return err
	}
	plain, err := key.Open(sealed, k.place(ID{}, id, version, 0))
	if err != nil {
		return &Error{Kind: IntegrityFailure, cause: errors.New("a request does not open")}
	}
	defer clear(plain)
	return json.Unmarshal(plain, into)
}

const requestColumns = `
	select request_id, version, type, regime, state, digest, sealed, proposal, approval, received_at, opened_at, opened_by, acknowledge_by,
		acknowledged_at, due_at, asked_at, paused_at, coalesce(extension, ''), noticed_at, verified_at, verified_by, coalesce(method, ''),
		coalesce(level, ''), coalesce(evidence, ''), approved_at, approved_by, coalesce(outcome, ''), coalesce(denial, ''), coalesce(statement, ''),
		erasure_id, closed_at, noted
	from privault.requests where tenant_id = $1 and `

func (v *Vault) scanRequest(row pgx.CollectableRow) (*Request, error) {
	r := &Request{}
	var opener ID
	var verified *time.Time
	var verifier, approver, erasure *ID
	var by Verification
	err := row.Scan(&r.id, &r.Version, &r.Type, &r.Regime, &r.State, &r.digest, &r.sealed, &r.proposal, &r.Approval, &r.Received, &r.Opened, &opener, &r.AcknowledgeBy,
		&r.Acknowledged, &r.Due, &r.Asked, &r.Paused, &r.Extension, &r.Noticed, &verified, &verifier, &by.Method,
		&by.Level, &by.Evidence, &r.Approved, &approver, &r.Outcome, &r.Denial, &r.Statement,
		&erasure, &r.Closed, &r.noted)
	if err != nil {
		return nil, err
	}
	r.ID, r.OpenedBy, r.ApprovedBy = formatID(requestPrefix, r.id), formatID(principalPrefix, opener), formatOptional(principalPrefix, approver)
	r.Certificate = formatOptional(erasurePrefix, erasure)
	if verified != nil {
		by.At, by.By = *verified, formatOptional(principalPrefix, verifier)
		r.Verified = &by
	}
	v.clocks.of(r.Regime).show(r)
	return r, nil
}

// request reads a request, with its terms; lock is empty, or for update. Who locks the person as well does so before.
func (v *Vault) request(ctx context.Context, t *txn, keys *tenantKeys, id, lock string) (*Request, error) {
	parsed, ok := parseID(requestPrefix, id)
	if !ok {
		return nil, fail(NotFound, "")
	}
	rows, err := t.data.Query(ctx, requestColumns+`request_id = $2 `+lock, t.who.Tenant, parsed)
	if err != nil {
		return nil, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, v.scanRequest)
	if err != nil {
		return nil, orNotFound(err)
	}
	return r, t.openRequests(ctx, keys, []*Request{r})
}

// putRequest writes a request that has changed, and what happened to it.
func (t *txn) putRequest(ctx context.Context, r *Request) error {
	r.Version++
	var by Verification
	var verified *time.Time
	if r.Verified != nil {
		by, verified = *r.Verified, &r.Verified.At
	}
	_, err := t.data.Exec(ctx, `
		update privault.requests set version = $3, state = $4, sealed = $5, proposal = $6, acknowledged_at = $7, due_at = $8, asked_at = $9,
			paused_at = $10, extension = nullif($11, ''), noticed_at = $12, verified_at = $13, verified_by = $14, method = nullif($15, ''),
			level = nullif($16, ''), evidence = nullif($17, ''), approved_at = $18, approved_by = $19, outcome = nullif($20, ''),
			denial = nullif($21, ''), statement = nullif($22, ''), erasure_id = $23, closed_at = $24, noted = $25
		where tenant_id = $1 and request_id = $2`,
		t.who.Tenant, r.id, r.Version, r.State, r.sealed, r.proposal, r.Acknowledged, r.Due, r.Asked,
		r.Paused, r.Extension, r.Noticed, verified, optionalID(principalPrefix, by.By), by.Method,
		by.Level, by.Evidence, r.Approved, optionalID(principalPrefix, r.ApprovedBy), r.Outcome,
		r.Denial, r.Statement, optionalID(erasurePrefix, r.Certificate), r.Closed, r.noted)
	if err != nil {
		return err
	}
	return t.insertRequestEvents(ctx, r)
}

// optionalID is the id that formatOptional wrote.
func optionalID(prefix, text string) *ID {
	if id, ok := parseID(prefix, text); ok {
		return &id
	}
	return nil
}

// happens notes what happens to a request, for its history.
func (r *Request) happens(e RequestEvent) {
	e.State = r.State
	r.happened = append(r.happened, e)
}

// toldOfRequests are what of a request's history webhooks may hear.
var toldOfRequests = map[string]string{dueSoon: EventRequestDueSoon, overdue: EventRequestOverdue, "completed": EventRequestCompleted}

// insertRequestEvents writes what happened to a request, and tells who wants to hear of it.
func (t *txn) insertRequestEvents(ctx context.Context, r *Request) error {
	b := &pgx.Batch{}
	for _, e := range r.happened {
		b.Queue(`
			insert into privault.request_events (tenant_id, request_id, number, at, principal_id, event, state, reason, moment)
			select $1, $2, coalesce(max(number), 0) + 1, $3, $4, $5, $6, nullif($7, ''), $8
			from privault.request_events where tenant_id = $1 and request_id = $2`,
			t.who.Tenant, r.id, t.now, t.who.Principal, e.Event, e.State, e.Reason, microseconds(e.Moment))
	}
	happened := r.happened
	r.happened = nil
	if err := t.data.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	for _, e := range happened {
		if kind, told := toldOfRequests[e.Event]; told {
			if err := t.emit(ctx, kind, happening{Request: r.ID, State: e.State, Due: &r.Due}); err != nil {
				return err
			}
		}
	}
	return nil
}

// GetRequest reads a request with its history.
func (v *Vault) GetRequest(ctx context.Context, who Caller, id string) (r *Request, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.ReadRequests, err)
	}
	err = v.within(ctx, who, policy.ReadRequests, func(t *txn) error {
		if r, err = v.request(ctx, t, keys, id, ""); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Request: r.ID}}
		if err := t.entry.require(policy.ReadRequests); err != nil {
			return err
		}
		r.History, err = t.requestHistory(ctx, r.id)
		return err
	})
	return r, err
}

func (t *txn) requestHistory(ctx context.Context, id ID) ([]RequestEvent, error) {
	rows, err := t.data.Query(ctx, `
		select event, at, principal_id, state, coalesce(reason, ''), moment from privault.request_events
		where tenant_id = $1 and request_id = $2 order by number`, t.who.Tenant, id)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e RequestEvent, err error) {
		var by ID
		err = row.Scan(&e.Event, &e.At, &by, &e.State, &e.Reason, &e.Moment)
		if by != (ID{}) {
			e.By = formatID(principalPrefix, by)
		}
		return e, err
	})
}

// RequestQuery narrows a list of requests. Zero fields don't.
type RequestQuery struct {
	State     string
	DueBefore *time.Time // open ones that must be answered before
	Subject   string
}

// ListRequests reads up to limit requests, the newest first, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListRequests(ctx context.Context, who Caller, q RequestQuery, cursor string, limit int) (page []*Request, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadRequests, err)
	}
	err = v.within(ctx, who, policy.ReadRequests, func(t *txn) error {
		if err := t.entry.require(policy.ReadRequests); err != nil {
			return err
		}
		if q.State != "" && !slices.Contains(RequestStates, q.State) {
			return invalid("", "state", "the states are "+list(RequestStates))
		}
		position, err := keys.openCursor("requests", cursor)
		if err != nil {
			return err
		}
		before, ok := parseID(requestPrefix, position)
		if !ok {
			before = lastID
		}
		var digest []byte
		if q.Subject != "" {
			if err := checkSubject(q.Subject, ""); err != nil {
				return err
			}
			if digest, err = t.subjectDigest(ctx, keys, q.Subject); err != nil {
				return err
			}
		}
		rows, err := t.data.Query(ctx, requestColumns+`request_id < $2 and ($3 = '' or state = $3)
			and ($4::timestamptz is null or due_at < $4 and closed_at is null) and ($5::bytea is null or digest = $5 or digest = any(array(
				select o.digest from privault.subjects s join privault.subjects o using (tenant_id, subject_id) where s.tenant_id = $1 and s.digest = $5)))
			order by request_id desc limit $6`, who.Tenant, before, q.State, q.DueBefore, digest, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, v.scanRequest, "requests", limit, func(r *Request) string { return r.ID })
		if err != nil {
			return err
		}
		return t.openRequests(ctx, keys, page)
	})
	return page, next, err
}
