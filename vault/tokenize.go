package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/seal"
)

// MaxItems is the most items that one batch may have.
const MaxItems = 1000

func checkBatch(items int) error {
	if items == 0 || items > MaxItems {
		return invalid("/items", "size", fmt.Sprintf("a batch has 1 to %d items", MaxItems))
	}
	return nil
}

// NewRecord is a record to be stored.
type NewRecord struct {
	Subject string            // the person, by the owner's opaque reference; empty: none
	Fields  map[string]Secret // each one JSON value, exactly as it came
	Tokens  map[string]string // by field: tokens that the caller brings along
	Expires *time.Time
}

// Batch is one call of Tokenize.
type Batch struct {
	Collection string
	Items      []NewRecord
	Atomic     bool // all or nothing
	Claim      *IdempotencyKey
}

// Tokenized is the outcome of one item: either Err, or the record and a token for each field that has one.
type Tokenized struct {
	Record string            `json:"record,omitempty"`
	Tokens map[string]string `json:"tokens,omitempty"`
	Err    *Error            `json:"-"`
}

// Tokenize stores records and gives tokens for their values, an outcome for each item in its order. Items that are
// refused don't keep the others from being stored, unless the batch is atomic. Once it returns, what it reports as
// stored is durable.
func (v *Vault) Tokenize(ctx context.Context, who Caller, b Batch) ([]Tokenized, error) {
	release, err := v.hold(who, b.Claim)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.Tokenize, err)
	}
	defer release()
	// A change that isn't admitted was prepared with an old schema, or its Idempotency-Key has an answer already, or somebody
	// else made a token for one of its values first, or took one away: the next look finds it so.
	for attempt := range maxAttempts {
		done, err := v.tokenize(ctx, who, b, attempt > 0)
		if !errors.Is(err, errNotAdmitted) {
			return done, err
		}
		if done, err := v.replay(ctx, who, b); done != nil || err != nil {
			return done, err
		}
	}
	return nil, v.refuseUnopened(ctx, who, policy.Tokenize,
		&Error{Kind: Conflict, Detail: "the collection, or the tokens of its values, keep changing", RetryAfter: time.Second})
}

// maxAttempts bounds how often a batch is prepared. Each time somebody else's change has been committed in between.
const maxAttempts = 8

// CanTokenize says whether a caller may store records in a collection, before a stream of them starts. It leaves an entry
// only if the answer is no; the stream's own chunks leave theirs.
func (v *Vault) CanTokenize(ctx context.Context, who Caller, collection string) error {
	e, err := v.open(who, policy.Tokenize)
	if err != nil {
		return err
	}
	coll, err := v.collectionNamed(ctx, who.Tenant, collection, true)
	if err == nil {
		err = e.requireSome(policy.Tokenize, policy.NoView, coll, policy.SubjectFacts{})
	}
	if err != nil {
		return v.refuse(ctx, e, err)
	}
	return nil
}

// refuseUnopened leaves the entry of an operation that failed before it had one.
func (v *Vault) refuseUnopened(ctx context.Context, who Caller, action policy.Action, cause error) error {
	e, err := v.open(who, action)
	if err != nil {
		return err
	}
	return v.refuse(ctx, e, cause)
}

func (v *Vault) tokenize(ctx context.Context, who Caller, b Batch, fresh bool) ([]Tokenized, error) {
	e, err := v.open(who, policy.Tokenize)
	if err != nil {
		return nil, err
	}
	c, done, err := v.prepare(ctx, e, b, fresh)
	if errors.Is(err, errNotAdmitted) {
		return nil, err
	}
	if err != nil || len(c.records) == 0 {
		// What can't be done now may have been done under the same Idempotency-Key before.
		if given, failed := v.replay(ctx, who, b); given != nil || failed != nil {
			return given, failed
		}
	}
	if err != nil {
		e.forgetRecords()
		return done, v.refuse(ctx, e, err)
	}
	if c.claim != nil && c.claim.rotated {
		if given, failed := v.replay(ctx, who, b); given != nil || failed != nil {
			return given, failed
		}
	}
	err = v.commit(ctx, c)
	switch {
	case err == nil:
		v.metrics.batch(string(policy.Tokenize), e.Items, e.Refused)
		return done, nil
	case errors.Is(err, errNotAdmitted):
		return nil, err
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, AsError(err) // the change travels on, and its entry with it (Refuse)
	case violates(err, "records_pkey"), violates(err, "data_keys_pkey"):
		err = &Error{Kind: Conflict, Detail: "a record of that id exists", cause: err}
	}
	e.forgetRecords()
	return nil, v.refuse(ctx, e, err)
}

// forgetRecords drops the ids of records that were not made after all.
func (e *entry) forgetRecords() {
	for i := range e.Resources {
		r := &e.Resources[i]
		r.Records, r.Version, r.Sealed = nil, 0, nil
	}
}

// wrote notes the first version of records, in the order of their ids in the entry.
func (r *resource) wrote(records []newRecord) {
	if len(records) == 0 {
		return
	}
	r.Version, r.Sealed = 1, make([]string, len(records))
	for i := range records {
		r.Sealed[i] = recordDigest(records[i].collection, records[i].expires, 0, records[i].sealed)
	}
}

// prepare decides, validates and seals: what the batch wants committed, and its answer once it is.
func (v *Vault) prepare(ctx context.Context, e *entry, b Batch, fresh bool) (*change, []Tokenized, error) {
	ring := v.keyring.of
	if fresh {
		ring = v.keyring.inForce
	}
	keys, err := ring(ctx, e.who.Tenant)
	if err != nil {
		return nil, nil, err
	}
	coll, err := v.collectionNamed(ctx, e.who.Tenant, b.Collection, fresh)
	if err != nil {
		return nil, nil, err
	}
	if err := e.requireSome(policy.Tokenize, policy.NoView, coll, policy.SubjectFacts{}); err != nil {
		return nil, nil, err
	}
	if err := checkBatch(len(b.Items)); err != nil {
		return nil, nil, err
	}
	c := &change{entry: e, schema: schemaRef{coll.id, coll.Version, keys.generation}, records: make([]newRecord, 0, len(b.Items))}
	done := make([]Tokenized, len(b.Items))
	s := sealer{keys: keys, coll: coll, now: v.now(), purposes: e.law.purposes}
	drafts, err := s.drafts(e, b.Items)
	if err != nil {
		return nil, nil, err
	}
	if err := s.spendOnDrafts(ctx, e.who, drafts); err != nil {
		return nil, nil, err
	}
	if coll.suppresses {
		if err := s.suppressible(ctx, v, drafts, fresh); err != nil {
			return nil, nil, err
		}
	}
	if coll.bound {
		bound, err := s.bind(ctx, v, drafts)
		if err != nil {
			return nil, nil, err
		}
		c.aliases, c.relies = bound.aliases, bound.relies
	}
	if coll.direct() {
		if err := s.wrapDirectly(ctx, v.keyring, drafts, b.Atomic); err != nil {
			return nil, nil, err
		}
	}
	for i := range drafts {
		d := &drafts[i]
		if d.err != nil {
			done[i].Err = AsError(d.err)
			e.Refused++
			continue
		}
		r, tokens, err := s.seal(d)
		if err != nil {
			return nil, nil, err
		}
		c.records = append(c.records, r)
		done[i] = Tokenized{Record: formatID(recordPrefix, r.id), Tokens: tokens}
	}
	if e.Refused > 0 && !fresh && v.outdated(ctx, e.who.Tenant, coll) {
		return nil, nil, errNotAdmitted // a schema that is no longer in force must not refuse anything either
	}
	e.Items = len(b.Items)
	e.Resources = []resource{{Collection: coll.Name, Fields: s.fieldNames(), Records: recordIDs(done)}}
	e.Resources[0].wrote(c.records)
	switch {
	case e.Refused > 0 && b.Atomic:
		return nil, done, rolledBack(done)
	case len(c.records) == 0:
		// Nothing to commit but the entry of a call that failed.
		e.close(done[0].Err)
		return &change{entry: e}, done, nil
	}
	if b.Claim != nil {
		if c.claim, err = b.Claim.claim(keys, e.who, done); err != nil {
			return nil, nil, err
		}
	}
	return c, done, nil
}

// rolledBack is why an atomic batch was not stored: every fault of every item. One that is not a fault of a field, such as a value that
// is there already, stands at its item, under the problem that the item would have alone.
func rolledBack(done []Tokenized) *Error {
	err := fail(BatchRolledBack, "the batch is atomic and not every item could be stored; none was")
	for i, d := range done {
		if d.Err == nil {
			continue
		}
		if len(d.Err.Fields) == 0 {
			err.Fields = append(err.Fields, FieldError{"/items/" + strconv.Itoa(i), string(d.Err.Kind)})
		}
		err.Fields = append(err.Fields, d.Err.Fields...)
	}
	return err
}

func recordIDs(done []Tokenized) []string {
	ids := make([]string, 0, len(done))
	for _, d := range done {
		if d.Record != "" {
			ids = append(ids, d.Record)
		}
	}
	return ids
}

// sealer turns the items of one batch into sealed records.
type sealer struct {
	keys *tenantKeys
	coll *Collection
	now  time.Time
	used map[string]bool // fields that some record has

	purposes map[string]Purpose
}

func (s *sealer) fieldNames() []string {
	names := make([]string, 0, len(s.used))
	for name := range s.used {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// draft is an item on its way to a record.
type draft struct {
	id     ID
	at     string // its place in the request, for the pointers of its faults
	item   *NewRecord
	values []value
	bound  bound
	dek    *dek // of a direct collection

	subject     *subjectDigests // made early where the suppression list is asked
	identifiers []identifier    // that may be on it
	err         error           // why it is refused
}

// drafts decides on the items and validates them.
func (s *sealer) drafts(e *entry, items []NewRecord) ([]draft, error) {
	drafts := make([]draft, len(items))
	for i := range items {
		d := &drafts[i]
		d.item, d.at = &items[i], "/items/"+strconv.Itoa(i)
		var err error
		if d.id, err = newID(); err != nil {
			return nil, err
		}
		if s.coll.bound {
			d.bound.texts = map[uint32]string{}
		}
		if e.law.policies.Finely(policy.Tokenize) {
			d.err = e.requireEach(policy.Tokenize, s.coll, s.coll.named(d.item.Fields), policy.SubjectFacts{})
		}
		if d.err == nil {
			d.values, d.err = s.values(d)
		}
	}
	return drafts, nil
}

// seal seals one draft and gives its tokens.
func (s *sealer) seal(d *draft) (newRecord, map[string]string, error) {
	r := newRecord{id: d.id, collection: s.coll.id, expires: d.item.Expires, marks: d.bound.marks, subject: d.subject, listed: d.listed()}
	values := d.values
	var err error
	if d.item.Subject != "" {
		values = append([]value{{number: subjectField, plain: []byte(d.item.Subject)}}, values...)
		if r.subject == nil {
			if r.subject, err = s.keys.subject(d.item.Subject); err != nil {
				return r, nil, err
			}
		}
	}
	var key seal.Key
	if d.dek != nil {
		key, r.wrapped = d.dek.key, d.dek.wrapped
	} else if key, r.wrapped, err = s.keys.newDEK(d.id, 1); err != nil {
		return r, nil, err
	}
	if r.sealed, err = s.keys.sealRecord(key, s.coll.id, d.id, 1, append(values, d.bound.boxes...)); err != nil {
		return r, nil, err
	}
	r.due, err = s.coll.dueAt(&lifetime{created: s.now, updated: s.now, expires: r.expires, value: valueOf(values), purposes: s.purposes})
	if err != nil {
		return r, nil, err
	}
	if s.used == nil {
		s.used = map[string]bool{}
	}
	for name := range d.item.Fields {
		s.used[name] = true
	}
	return r, s.keys.tokensOf(s.coll, d.id, 0, values, d.bound.texts), nil
}

// value is one value of a record on its way to or from its box.
type value struct {
	number uint32
	plain  []byte
}

func (a value) equal(b value) bool { return a.number == b.number && bytes.Equal(a.plain, b.plain) }

// values validates an item's parts and gives its values in the order of the field numbers.
func (s *sealer) values(d *draft) ([]value, error) {
	var faults faults
	item, at := d.item, d.at
	if item.Subject != "" {
		if err := checkSubject(item.Subject, at+"/subject"); err != nil {
			return nil, err
		}
	}
	if item.Expires != nil && !item.Expires.After(s.now) {
		faults.add(at+"/expires_at", "future", "expires_at is not in the future")
	}
	if len(item.Fields) == 0 {
		faults.add(at+"/fields", "size", "a record has at least one field")
	}
	for name := range item.Fields {
		if s.coll.fields[name] == nil {
			// The name is the caller's text: it might be a value.
			faults.add(at+"/fields", "unknown-field", "the collection has no such field")
		}
	}
	values := make([]value, 0, len(item.Fields)+1)
	for _, f := range s.coll.order {
		raw, given := item.Fields[f.name]
		switch {
		case given:
			plain, fault := f.typ.Parse(raw.Reveal())
			if fault != nil {
				faults.add(at+"/fields/"+f.name, fault.Rule, fault.Detail)
				continue
			}
			values = append(values, value{uint32(f.number), plain})
		case f.required:
			faults.add(at+"/fields/"+f.name, "required", "a required field is missing")
		}
	}
	if d.values = values; s.coll.bound || len(item.Tokens) > 0 {
		s.checkTokens(d, &faults)
	}
	return values, faults.err()
}

// faults collects what is wrong with a request.
type faults struct {
	fields  []FieldError
	details []string
}

func (f *faults) add(pointer, rule, detail string) {
	f.fields = append(f.fields, FieldError{pointer, rule})
	if !slices.Contains(f.details, detail) {
		f.details = append(f.details, detail)
	}
}

func (f *faults) err() error {
	if len(f.fields) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Detail: strings.Join(f.details, "; "), Fields: f.fields}
}

// sealRecord seals a record's values, which are in the order of their numbers, under its DEK.
func (k *tenantKeys) sealRecord(dek seal.Key, collection, record ID, version int32, values []value) ([]byte, error) {
	boxes := make(seal.Boxes, len(values))
	for i, val := range values {
		box, err := dek.Seal(nil, val.plain, k.place(collection, record, version, val.number))
		if err != nil {
			return nil, err
		}
		boxes[i] = seal.Box{Field: val.number, Sealed: box}
	}
	return boxes.Pack(), nil
}

func (k *tenantKeys) place(collection, record ID, version int32, number uint32) seal.Place {
	return seal.Place{Deployment: k.deployment, Tenant: k.tenant, Collection: collection, Record: record,
		Field: number, Version: uint32(version)}
}

// tokensOf gives the tokens of a record's values, by field name: the alias where there is one.
func (k *tenantKeys) tokensOf(coll *Collection, record ID, epoch int32, values []value, aliases map[uint32]string) map[string]string {
	tokens := make(map[string]string, len(values))
	for _, val := range values {
		f := coll.byNumber(val.number)
		if f == nil {
			continue
		}
		if text, have := aliases[val.number]; have {
			tokens[f.name] = text
			continue
		}
		if !f.token {
			continue
		}
		tokens[f.name] = k.tokenOf(pointer{record, f.number, uint16(epoch)})
	}
	return tokens
}
