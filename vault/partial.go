package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A partial erasure takes some collections' records of a person, or some fields' values, and says what stays and why. Records
// that go are first given to a subject of their own that nothing leads to; from then on it goes as when a person is erased. Values
// go like in a patch: the record is sealed anew without them, and its old key is shredded.

// RetentionGrounds are those on which data of a person who asked for erasure stays: the person asked for no more, or the
// exceptions of GDPR 17(3)(a) to (e) and CCPA 1798.105(d), in the words of Denials.
var RetentionGrounds = []string{"not-requested", "freedom-of-expression", "legal-obligation", "public-health", "archiving-or-research", "legal-claims",
	"needed-for-exception"}

// ErasurePart is a collection of which a person's records go, or only what they hold in some fields.
type ErasurePart struct {
	Collection string   `json:"collection"`
	Fields     []string `json:"fields,omitempty"`
}

// Retained is what stays of a person in a collection.
type Retained struct {
	Collection string     `json:"collection"`
	Records    int        `json:"records"`
	Ground     string     `json:"ground"`          // one of RetentionGrounds
	Law        string     `json:"law,omitempty"`   // of a legal minimum: which
	Until      *time.Time `json:"until,omitempty"` // nil: no date is known
}

// PartialErasure is what is asked for.
type PartialErasure struct {
	Reason   string
	Scope    []ErasurePart
	Retained []Retained // of each collection in which something stays: the ground, and until when
	DryRun   bool
}

const (
	maxErasureParts = 100
	// Sealing a record anew takes about a millisecond, and they are sealed in one transaction.
	maxPartialRecords = 2000
)

// ErasePart erases a part of what is held of a person, in one commit. Where a legal hold keeps any of that part, nothing is
// erased yet, and the erasure is deferred. Of somebody who is erased entirely it gives that erasure.
func (v *Vault) ErasePart(ctx context.Context, who Caller, reference string, p PartialErasure) (Erasure, error) {
	asked := Erasure{Reason: p.Reason, Scope: p.Scope, Retained: p.Retained}
	if asked.Scope == nil {
		asked.Scope = []ErasurePart{} // which is refused: nil means everything
	}
	return v.eraseAsked(ctx, who, reference, asked, p.DryRun)
}

// again prepares an erasure that was asked for before; false: there is nothing to do, or it can't be done as it stands. Of a partial
// one, what stays is counted anew.
func (t *txn) again(ctx context.Context, w *erasable, e *Erasure) (bool, error) {
	if e.Scope == nil || w.subject == nil {
		e.Counts = w.counts
		return w.subject != nil, nil
	}
	err := t.narrow(ctx, w, e)
	if refused := AsError(err); err != nil && refused.Kind == Invalid {
		for _, f := range refused.Fields {
			if f.Rule == "size" || f.Rule == "kms-direct" {
				return false, nil
			}
		}
		err = nil // more stays, a date has passed, or nothing is left
	}
	return err == nil, err
}

// asDeferred gives an erasure the id of one that is deferred already and wants the same.
func (t *txn) asDeferred(ctx context.Context, digests [][]byte, e *Erasure) error {
	var id ID
	err := t.data.QueryRow(ctx, `
		select erasure_id, reason, requested_at from privault.erasures
		where tenant_id = $1 and `+erasedUnder+` and state = 'deferred' and scope = $3::jsonb order by erasure_id limit 1`,
		t.who.Tenant, digests, e.Scope).Scan(&id, &e.Reason, &e.Requested)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	e.ID = formatID(erasurePrefix, id)
	return err
}

// checkPart checks a part that a request asks to have erased, as far as that can be said before anybody looks at what is held.
func (t *txn) checkPart(ctx context.Context, m *Terms, faults *faults) error {
	if m.Scope == nil {
		if len(m.Retained) > 0 {
			faults.add("/retained", "scope", "retained says why something stays; name in scope what goes")
		}
		return nil
	}
	checkGrounds(m.Retained, t.now, faults)
	return t.checkErasureScope(ctx, m.Scope, faults)
}

// checkErasureScope says what of a scope can't be.
func (t *txn) checkErasureScope(ctx context.Context, scope []ErasurePart, faults *faults) error {
	if n := len(scope); n == 0 || n > maxErasureParts {
		return invalid("/scope", "size", fmt.Sprintf("scope names 1 to %d collections; leave it out to erase the whole person", maxErasureParts))
	}
	seen := map[string]bool{}
	for i, p := range scope {
		at := fmt.Sprintf("/scope/%d", i)
		coll, err := t.collection(ctx, `name = $2`, p.Collection)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			faults.add(at+"/collection", "unknown-collection", "there is no such collection")
			continue
		case err != nil:
			return err
		case seen[p.Collection]:
			faults.add(at+"/collection", "duplicate", "a collection is named once")
		}
		seen[p.Collection] = true
		if coll.direct() && len(p.Fields) > 0 {
			faults.add(at+"/fields", "kms-direct", "records of a collection with kms: direct aren't sealed anew here: erase the collection's records, or change them one by one")
		}
		for j, name := range p.Fields {
			switch f := coll.fields[name]; {
			case f == nil:
				faults.add(fmt.Sprintf("%s/fields/%d", at, j), "unknown-field", "the collection has no such field")
			case f.required:
				faults.add(fmt.Sprintf("%s/fields/%d", at, j), "required", "a record can't be without a required field: erase the collection's records, or make the field optional first")
			}
		}
	}
	return nil
}

// checkGrounds says what of the grounds can't be on which something stays.
func checkGrounds(named []Retained, now time.Time, faults *faults) {
	for i, r := range named {
		at := fmt.Sprintf("/retained/%d", i)
		switch {
		case !slices.Contains(RetentionGrounds, r.Ground):
			faults.add(at+"/ground", "ground", "the grounds are "+list(RetentionGrounds))
		case r.Until != nil && !r.Until.After(now):
			faults.add(at+"/until", "future", "until is not in the future")
		}
	}
}

// supersede ends an erasure that was deferred, of somebody who was erased meanwhile, or of what is gone by now.
func (t *txn) supersede(ctx context.Context, id ID, by *Erasure) error {
	_, err := t.data.Exec(ctx, `
		update privault.erasures set state = $3, erased_at = $4, shred_effective_at = $5, certificate = nullif($6, '')
		where tenant_id = $1 and erasure_id = $2 and state = 'deferred'`, t.who.Tenant, id, by.State, by.Erased, by.ShredEffective, by.Certificate)
	if err != nil {
		return err
	}
	return t.answerWaiting(ctx, id, t.now, compliedWith, nil)
}

// linePart is what the ledger says of a partial erasure.
type linePart struct {
	ID       lineID        `json:"id"` // the subject that the records were given to
	Scope    []ErasurePart `json:"scope"`
	Retained []Retained    `json:"retained"`
}

// replayPart takes a part once more, of a person whom a restored database has with it. Values go where the record opens: where it
// doesn't, its key is gone, and they with it. It gives the part that it found.
func (v *Vault) replayPart(ctx context.Context, t *txn, e *lineErasure) (*portion, error) {
	w := &erasable{subject: (*ID)(&e.Subjects[0])}
	if err := t.narrow(ctx, w, e.erasure()); err != nil && AsError(err).Kind != Invalid {
		return nil, err
	}
	for i := range w.part.values {
		w.part.values[i].records = slices.DeleteFunc(w.part.values[i].records, func(id ID) bool {
			return slices.ContainsFunc(e.Kept, func(k lineKept) bool { return ID(k.Record) == id })
		})
	}
	if err := v.takeValues(ctx, t, w.part); err != nil {
		return nil, err
	}
	return w.part, t.split(ctx, ID(e.Part.ID), unpackIDs(e.Records))
}

// nothing says whether a part that is to be erased is gone already.
func (w *erasable) nothing() bool {
	return w.part != nil && len(w.records) == 0 && !slices.ContainsFunc(w.part.values, func(p portionValues) bool { return len(p.records) > 0 })
}

// portion is the part of a person's data that is to be erased.
type portion struct {
	id     ID // the subject that the records are given to
	values []portionValues
}

// portionValues are records of which some fields' values go.
type portionValues struct {
	collection string
	fields     []string
	records    []ID

	// By takeValues:
	taken   []string // records that held some, and hold something else
	emptied []ID     // those that hold nothing else, or don't open any more: they are left alone
	count   int      // of the values
}

// heldIn is what a collection holds of a person.
type heldIn struct {
	records []ID
	held    int // by a legal hold
}

// nothingInScope is the fault of a part that holds nothing of the person.
var nothingInScope = FieldError{"/scope", "nothing-held"}

// narrow narrows what is to be erased to a scope. It counts what stays, of which the erasure must say why. One that a hold defers and that is
// deferred already goes on under its id.
func (t *txn) narrow(ctx context.Context, w *erasable, e *Erasure) error {
	holdings, err := t.holdings(ctx, *w.subject)
	if err != nil {
		return err
	}
	w.earlier, w.records, w.held, w.counts = nil, []ID{}, false, ErasureCounts{}
	w.part = &portion{}
	if w.part.id, err = newID(); err != nil {
		return err
	}
	var faults faults
	if err := t.checkErasureScope(ctx, e.Scope, &faults); err != nil {
		return err
	}
	stay := map[string]int{}
	for name, h := range holdings {
		stay[name] = len(h.records)
	}
	for _, p := range e.Scope {
		h := holdings[p.Collection]
		if h == nil {
			continue
		}
		if w.counts.Held += h.held; h.held > 0 {
			w.held = true
		}
		if len(p.Fields) > 0 {
			w.part.values = append(w.part.values, portionValues{collection: p.Collection, fields: p.Fields, records: h.records})
			continue
		}
		w.records = append(w.records, h.records...)
		delete(stay, p.Collection)
	}
	if len(w.records) == 0 && len(w.part.values) == 0 && len(faults.fields) == 0 {
		faults.add(nothingInScope.Pointer, nothingInScope.Rule, "nothing of the person is in the scope")
	}
	n := 0
	for _, values := range w.part.values {
		n += len(values.records)
	}
	if n > maxPartialRecords {
		faults.add("/scope", "size", fmt.Sprintf("fields are erased in at most %d records at once: erase whole collections, or change the records one by one", maxPartialRecords))
	}
	e.Retained = retained(e.Retained, stay, t.now, &faults)
	w.counts.Records = len(w.records)
	e.Counts = w.counts
	if err := faults.err(); err != nil || !w.held || e.ID != "" {
		return err
	}
	return t.asDeferred(ctx, w.digests, e)
}

// retained gives what stays in each collection, with the ground that was named for it.
func retained(named []Retained, stay map[string]int, now time.Time, faults *faults) []Retained {
	checkGrounds(named, now, faults)
	grounds := map[string]Retained{}
	for i, r := range named {
		if stay[r.Collection] == 0 {
			faults.add(fmt.Sprintf("/retained/%d/collection", i), "nothing-held", "nothing of the person stays in that collection")
		}
		grounds[r.Collection] = r
	}
	var all []Retained
	for _, name := range slices.Sorted(maps.Keys(stay)) {
		r, have := grounds[name]
		if !have {
			r.Ground = RetentionGrounds[0]
			faults.add("/retained", "required", "of each collection in which something of the person stays, retained names the ground; "+name+" is missing")
		}
		r.Collection, r.Records = name, stay[name]
		all = append(all, r)
	}
	return all
}

// holdings are a person's records by collection.
func (t *txn) holdings(ctx context.Context, subject ID) (map[string]*heldIn, error) {
	all := map[string]*heldIn{}
	var name string
	var h heldIn
	err := each(ctx, t.data, []any{&name, &h.records, &h.held}, func() error {
		all[name] = &heldIn{h.records, h.held}
		h.records = nil
		return nil
	}, `
		select c.name, array_agg(r.record_id order by r.record_id), count(*) filter (where privault.held(r, $3))
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.subject_id = $2 group by c.name`, t.who.Tenant, subject, t.now)
	return all, err
}

// erasePart takes the values, and gives the records of which nothing is left, and those that go anyway, to the subject of their own.
func (v *Vault) erasePart(ctx context.Context, t *txn, w *erasable, _ ID, e *Erasure) error {
	if err := v.takeValues(ctx, t, w.part); err != nil {
		return err
	}
	for _, values := range w.part.values {
		w.records = append(w.records, values.emptied...)
		e.Counts.Values += values.count
		for j := range e.Retained {
			if e.Retained[j].Collection == values.collection {
				e.Retained[j].Records -= len(values.emptied)
			}
		}
	}
	e.Retained = slices.DeleteFunc(e.Retained, func(r Retained) bool { return r.Records == 0 })
	e.Counts.Records = len(w.records)
	return t.split(ctx, w.part.id, w.records)
}

// split gives records to a subject that nothing leads to.
func (t *txn) split(ctx context.Context, to ID, records []ID) error {
	_, err := t.data.Exec(ctx, `
		update privault.records set subject_id = $3 where tenant_id = $1 and record_id = any($2)`, t.who.Tenant, records, to)
	return err
}

// affected are the records that go on without some values.
func (p *portion) affected() (all []affected) {
	if p == nil {
		return nil
	}
	for _, values := range p.values {
		if len(values.taken) > 0 {
			all = append(all, affected{Collection: values.collection, Records: values.taken, Fields: values.fields})
		}
	}
	return all
}

// takeValues seals records anew without the values that a part takes. Without any, no key is needed, and one that is away keeps nobody
// from erasing.
func (v *Vault) takeValues(ctx context.Context, t *txn, p *portion) error {
	if len(p.values) == 0 {
		return nil
	}
	r, err := v.readerFor(ctx, t)
	if err != nil {
		return err
	}
	for i := range p.values {
		for _, id := range p.values[i].records {
			if err := r.takeFrom(ctx, t, &p.values[i], id); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeFrom is takeValues of one record.
func (r *reader) takeFrom(ctx context.Context, t *txn, p *portionValues, id ID) error {
	o, err := r.openForUpdate(ctx, t, p.collection, id)
	if err != nil && AsError(err).Kind == NotFound { // expired, or of a key that is gone
		p.emptied = append(p.emptied, id)
		return nil
	}
	if err != nil {
		return err
	}
	remove, stays := []string{}, false
	for _, box := range o.boxes {
		switch f := o.coll.byNumber(box.Field); {
		case f == nil:
		case slices.Contains(p.fields, f.name):
			remove = append(remove, f.name)
		default:
			stays = true
		}
	}
	if len(remove) == 0 {
		return nil
	}
	p.count += len(remove)
	if !stays {
		p.emptied = append(p.emptied, id)
		return nil
	}
	p.taken = append(p.taken, o.id)
	_, err = r.patch(ctx, t, o, Patch{Remove: remove, erasing: true})
	return err
}

// scopeText is a scope as a certificate says it.
func scopeText(scope []ErasurePart) string {
	parts := make([]string, len(scope))
	for i, p := range scope {
		if parts[i] = p.Collection; len(p.Fields) > 0 {
			parts[i] += " (" + strings.Join(p.Fields, ", ") + ")"
		}
	}
	return strings.Join(parts, "; ")
}

// text is what stays, as a certificate says it.
func (r Retained) text() string {
	text := fmt.Sprintf("%s, %d records, %s", r.Collection, r.Records, r.Ground)
	if r.Law != "" {
		text += " (" + r.Law + ")"
	}
	if r.Until != nil {
		text += ", until " + r.Until.UTC().Format(time.RFC3339)
	}
	return text
}
