package vault

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Record is a record as far as a view shows it.
type Record struct {
	ID               string
	Version          int32
	Subject          string
	Fields           map[string]Secret // each one JSON value
	Tokens           map[string]string
	Previous         map[string][]string // tokens of before that go on resolving, by field; only where they were asked for
	Created, Updated time.Time
	Expires          *time.Time
	Changes          []FieldChange // of a patch that was tried (Patch.DryRun)
}

// What a patch does to a field, and what becomes of the field's token.
const (
	changeAdd     = "add"
	changeReplace = "replace"
	changeRemove  = "remove"

	tokenKept = "kept"
	tokenNew  = "new"
	tokenNone = "none"
)

// FieldChange is what a patch would do to a field. It says nothing of the values.
type FieldChange struct {
	Field  string
	Change string // add, replace or remove
	Token  string // kept, new or none: what would become of the token that the field has
}

// GetRecord reads a record in one view; fields narrows it to some of its fields. A field that the caller may not see in
// that view fails the call: nothing is left out silently.
func (v *Vault) GetRecord(ctx context.Context, who Caller, collection, record string, fields []string, view string) (*Record, error) {
	e, err := v.open(who, policy.ReadRecord)
	if err != nil {
		return nil, err
	}
	rec, err := v.getRecord(ctx, e, collection, record, fields, view)
	if err != nil {
		return nil, v.refuse(ctx, e, err)
	}
	if err := v.commit(ctx, &change{entry: e}); err != nil {
		return nil, AsError(err)
	}
	return rec, nil
}

func (v *Vault) getRecord(ctx context.Context, e *entry, collection, record string, fields []string, view string) (*Record, error) {
	id, ok := parseID(recordPrefix, record)
	if !ok {
		return nil, fail(NotFound, "")
	}
	keys, err := v.keyring.of(ctx, e.who.Tenant)
	if err != nil {
		return nil, err
	}
	r := v.newReader(keys, e)
	o, err := r.openWithAliases(ctx, collection, id)
	if err != nil {
		return nil, err
	}
	if o.coll.Name != collection {
		return nil, fail(NotFound, "")
	}
	wanted, err := policy.ParseView(view)
	if err != nil {
		return nil, invalid("", "view", err.Error())
	}
	if err := e.requireSome(policy.ReadRecord, wanted, o.coll, o.facts); err != nil {
		return nil, err
	}
	if err := e.requireUnrestricted(o.facts); err != nil {
		return nil, err
	}
	for _, name := range fields {
		if o.coll.fields[name] == nil {
			return nil, invalid("", "unknown-field", "the collection has no such field")
		}
	}
	defer r.conclude()
	return r.record(o, fields, policy.ReadRecord, func(*field) policy.View { return wanted })
}

// openWithAliases opens a record, and has read the aliases of its values with it. The two are two statements: a record
// that changed between them is read again.
func (r *reader) openWithAliases(ctx context.Context, collection string, id ID) (o *opened, err error) {
	tenant := r.keys.tenant
	shared := r.vault.mayShare(tenant, collection)
	for range maxAttempts {
		a := ask{ids: []ID{id}}
		if shared {
			a.shared = a.ids
		}
		found, err := r.vault.look(ctx, tenant, a)
		if err != nil {
			return nil, err
		}
		if found.rows[id] == nil {
			return nil, fail(NotFound, "")
		}
		if o, err = r.open(ctx, found.rows[id]); err != nil {
			return nil, err
		}
		if !o.coll.shared || shared && o.complete() {
			return o, nil
		}
		delete(r.opened, id)
		shared = true
	}
	return o, nil
}

// record gives a record's parts, those of fields or all, each in its view.
func (r *reader) record(o *opened, fields []string, action policy.Action, view func(*field) policy.View) (*Record, error) {
	rec := &Record{ID: o.id, Version: o.row.version, Fields: map[string]Secret{},
		Created: o.row.created, Updated: o.row.updated, Expires: o.row.expires}
	subject, err := r.plain(o, subjectField)
	if err != nil {
		return nil, err
	}
	rec.Subject = string(subject)
	for _, box := range o.boxes {
		f := o.coll.byNumber(box.Field)
		if f == nil || len(fields) > 0 && !slices.Contains(fields, f.name) {
			continue
		}
		if rec.Fields[f.name], err = r.show(o, f, view(f), action); err != nil {
			return nil, err
		}
	}
	rec.Tokens, err = r.tokens(o, fields)
	return rec, err
}

// tokens gives a record's tokens: those of fields, or all.
func (r *reader) tokens(o *opened, fields []string) (map[string]string, error) {
	var held []value
	for _, box := range o.boxes {
		f := o.coll.byNumber(box.Field)
		if f != nil && (len(fields) == 0 || slices.Contains(fields, f.name)) {
			held = append(held, value{number: box.Field})
		}
	}
	aliases, err := r.aliases(o, held)
	if err != nil {
		return nil, err
	}
	return r.keys.tokensOf(o.coll, o.row.id, o.row.epoch, held, aliases), nil
}

// Patch is a change of a record: an RFC 7396 merge patch of its fields and its expiry.
type Patch struct {
	Fields     map[string]Secret // to set, each one JSON value
	Remove     []string          // fields to remove
	SetExpires bool              // whether Expires, nil included, replaces what is there
	Expires    *time.Time
	IfVersion  int32 // the version that the caller saw
	DryRun     bool  // find out what it would do, and do nothing

	erasing bool // no definition keeps a value
}

// PatchRecord changes a record. Tokens of the fields that stay go on resolving, to the new values. The record is sealed
// anew under a new DEK and the old one is shredded, so the values that were replaced are gone too.
func (v *Vault) PatchRecord(ctx context.Context, who Caller, collection, record string, p Patch) (*Record, error) {
	id, ok := parseID(recordPrefix, record)
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.UpdateRecord, err)
	}
	if err := v.spendOnPatch(ctx, keys, who, collection, p); err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.UpdateRecord, err)
	}
	r := v.newReader(keys, nil)
	var rows map[ID]*row
	if ok {
		if rows, err = v.directRow(ctx, who.Tenant, collection, id); err != nil {
			return nil, v.refuseUnopened(ctx, who, policy.UpdateRecord, err)
		}
	}
	r.lookAhead(ctx, rows)
	var rec *Record
	err = v.within(ctx, who, policy.UpdateRecord, func(t *txn) error {
		if !ok || !nameOfCollection.MatchString(collection) {
			return fail(NotFound, "")
		}
		r.entry = t.entry
		if r.keys, err = t.holdKeys(ctx, keys); err != nil {
			return err
		}
		o, err := r.openForUpdate(ctx, t, collection, id)
		if err != nil {
			return err
		}
		if err := t.entry.requireSome(policy.UpdateRecord, policy.NoView, o.coll, o.facts); err != nil {
			return err
		}
		if err := t.entry.requireEach(policy.UpdateRecord, o.coll, p.fields(o.coll), o.facts); err != nil {
			return err
		}
		if err := t.entry.requireUnrestricted(o.facts); err != nil {
			return err
		}
		if o.row.version != p.IfVersion {
			return fail(PreconditionFailed, "the record has another version by now")
		}
		if p.DryRun {
			return t.undone(ctx, func() error {
				rec, err = r.tryPatch(ctx, t, o, p)
				return err
			})
		}
		rec, err = r.patch(ctx, t, o, p)
		return err
	})
	return rec, err
}

// tryPatch patches a record in a transaction that will be undone, and gives the record as it is, with the tokens that
// would stay and what would change.
func (r *reader) tryPatch(ctx context.Context, t *txn, o *opened, p Patch) (*Record, error) {
	values, err := r.patched(o, p, t.now)
	if err != nil {
		return nil, err
	}
	after, err := r.put(ctx, t, o, p, values)
	if err != nil {
		return nil, err
	}
	rec := &Record{ID: o.id, Version: o.row.version, Tokens: after.Tokens, Created: o.row.created, Updated: o.row.updated, Expires: o.row.expires}
	for _, f := range p.fields(o.coll) {
		_, held := o.boxes.Get(uint32(f.number))
		c := FieldChange{Field: f.name, Change: changeAdd, Token: tokenNew}
		switch _, set := p.Fields[f.name]; {
		case !set && !held:
			continue
		case !set:
			c.Change = changeRemove
		case held:
			c.Change = changeReplace
		}
		switch was, err := r.plain(o, uint32(f.number)); {
		case err != nil:
			return nil, err
		case after.Tokens[f.name] == "":
			c.Token = tokenNone
		case held && (!f.ofValue() || slices.ContainsFunc(values, value{uint32(f.number), was}.equal)):
			c.Token = tokenKept
		}
		if c.Token == tokenNew {
			delete(rec.Tokens, f.name) // the next try would give another one
		}
		rec.Changes = append(rec.Changes, c)
	}
	return rec, nil
}

// openForUpdate locks a record against other changes and opens it. Without a collection, it may be of any.
func (r *reader) openForUpdate(ctx context.Context, t *txn, collection string, id ID) (*opened, error) {
	row := &row{id: id}
	// The person first, as whoever erases them does, and must not miss the key that is about to be made.
	person, err := t.lockOwner(ctx, id)
	if err != nil {
		return nil, err
	}
	err = t.data.QueryRow(ctx, `
		select r.subject_id, r.collection_id, c.version, r.version, r.epoch, r.created_at, r.updated_at, r.expires_at, r.sealed, r.digests,
			r.revealed_at, r.generalised,
			exists (select from privault.webhooks w where w.tenant_id = $1 and $5 = any(w.events) and w.disabled_at is null)
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.record_id = $2 and (c.name = $3 or $3 = '') and (r.expires_at is null or r.expires_at > $4)
		for update of r`, t.who.Tenant, id, collection, t.now, EventRecordCorrected).
		Scan(&row.subject, &row.collection, &row.schema, &row.version, &row.epoch, &row.created, &row.updated, &row.expires, &row.sealed, &row.digests,
			&row.revealed, &row.generalised, &row.heard)
	if err == nil && row.subject != nil && (person == nil || *person != *row.subject) {
		err = pgx.ErrNoRows // it was erased meanwhile
	}
	if err == nil {
		row.facts, err = t.subjectFacts(ctx, row.subject)
	}
	if err == nil {
		err = t.keys.QueryRow(ctx, `
			select wrapped from keystore.data_keys where tenant_id = $1 and record_id = $2 and version = $3`,
			t.who.Tenant, id, row.version).Scan(&row.wrapped)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fail(NotFound, "")
	}
	if err != nil {
		return nil, err
	}
	// The schema in force, read in this transaction: the lock on the row doesn't hold the collection still.
	coll, err := t.collection(ctx, `collection_id = $2`, row.collection)
	if err != nil {
		return nil, err
	}
	r.vault.collections.put(t.who.Tenant, coll)
	return r.open(ctx, row)
}

// patch changes a record, and tells who wants to hear of corrections.
func (r *reader) patch(ctx context.Context, t *txn, o *opened, p Patch) (*Record, error) {
	values, err := r.patched(o, p, t.now)
	if err != nil {
		return nil, err
	}
	rec, err := r.put(ctx, t, o, p, values)
	if err != nil || len(p.names()) == 0 || !o.row.heard {
		return rec, err
	}
	return rec, t.emit(ctx, EventRecordCorrected, happening{Subject: formatOptional(subjectPrefix, o.row.subject), subject: o.row.subject,
		Collections: []affected{{Collection: o.coll.Name, Records: []string{o.id}, Fields: p.names(), Version: rec.Version, purposes: o.coll.Definition.Purposes}}})
}

// put gives a record the values that a patch leaves it.
func (r *reader) put(ctx context.Context, t *txn, o *opened, p Patch, values []value) (*Record, error) {
	if slices.Contains(o.row.generalised, wholly) {
		return nil, fail(Conflict, "the record was made anonymous, and nothing is added to it")
	}
	w := rewriting{values: values, expires: o.row.expires, epoch: o.row.epoch, fields: p.names(), generalised: o.stillGeneral(p)}
	if p.SetExpires {
		w.expires = microseconds(p.Expires)
	}
	if err := t.requireUnsuppressed(ctx, r.keys, o.coll, p, values); err != nil {
		return nil, err
	}
	moved := &rebinding{opened: o, values: bindable(values, w.generalised)}
	if err := r.rebind(ctx, t, []*rebinding{moved}, false); err != nil {
		return nil, err
	}
	w.bound = moved.bound
	return r.rewrite(ctx, t, o, w)
}

// rewriting is a record as it will be.
type rewriting struct {
	values  []value // in the order of their numbers
	bound   bound
	expires *time.Time
	epoch   int32
	fields  []string // that the entry names

	generalised []int16 // fields whose values are what is left of them (retention.go)
	quiet       bool    // nobody changed it: updated_at stays
}

// rewrite seals a record anew, under a new DEK.
func (r *reader) rewrite(ctx context.Context, t *txn, o *opened, w rewriting) (*Record, error) {
	version := o.row.version + 1
	key, wrapped, err := r.newDEKOf(o.row)
	if err != nil {
		return nil, err
	}
	sealed, err := r.keys.sealRecord(key, o.coll.id, o.row.id, version, append(slices.Clip(w.values), w.bound.boxes...))
	if err != nil {
		return nil, err
	}
	// A DEK of this version may be there from a change that died between the two commits: nothing is sealed under it.
	_, err = t.keys.Exec(ctx, `
		insert into keystore.data_keys (tenant_id, record_id, version, wrapped, created_at) values ($1, $2, $3, $4, $5)
		on conflict (tenant_id, record_id, version) do update set wrapped = excluded.wrapped, created_at = excluded.created_at`, t.who.Tenant, o.row.id, version, wrapped, t.now)
	if err != nil {
		return nil, err
	}
	updated := t.now
	if w.quiet {
		updated = o.row.updated
	}
	due, err := o.coll.dueAt(&lifetime{created: o.row.created, updated: updated, expires: w.expires, revealed: o.row.revealed,
		generalised: w.generalised, value: valueOf(w.values), purposes: r.purposes()})
	if err != nil {
		return nil, err
	}
	_, err = t.data.Exec(ctx, `
		update privault.records set version = $3, sealed = $4, expires_at = $5, updated_at = $6, digests = $7, epoch = $8, due_at = $9, generalised = $10
		where tenant_id = $1 and record_id = $2`, t.who.Tenant, o.row.id, version, sealed, w.expires, updated, digestsOf(w.bound.marks), w.epoch, due, w.generalised)
	if err != nil {
		return nil, err
	}
	t.shredLater = append(t.shredLater, recordVersion{o.row.id, o.row.version})
	t.entry.Resources = append(t.entry.Resources, resource{Collection: o.coll.Name, Fields: w.fields, Records: []string{o.id},
		Version: version, Sealed: []string{recordDigest(o.coll.id, w.expires, w.epoch, sealed)}})
	t.entry.touches(o.row.subject, o.row.id)
	return &Record{ID: o.id, Version: version, Created: o.row.created, Updated: updated, Expires: w.expires,
		Tokens: r.keys.tokensOf(o.coll, o.row.id, w.epoch, w.values, w.bound.texts)}, nil
}

// microseconds is a time as Postgres will have it.
func microseconds(at *time.Time) *time.Time {
	if at == nil {
		return nil
	}
	short := at.Truncate(time.Microsecond)
	return &short
}

// patched gives all values of the record as they will be, in the order of their numbers.
func (r *reader) patched(o *opened, p Patch, now time.Time) ([]value, error) {
	var faults faults
	if p.SetExpires && p.Expires != nil && !p.Expires.After(now) {
		faults.add("/expires_at", "future", "expires_at is not in the future")
	}
	if len(p.Fields) == 0 && len(p.Remove) == 0 && !p.SetExpires {
		faults.add("", "size", "the patch changes nothing")
	}
	for _, name := range p.names() {
		if o.coll.fields[name] == nil {
			faults.add("/fields", "unknown-field", "the collection has no such field")
		}
	}
	subject, err := r.plain(o, subjectField)
	if err != nil {
		return nil, err
	}
	values := []value{}
	if subject != nil {
		values = append(values, value{subjectField, subject})
	}
	for _, f := range o.coll.order {
		plain, err := r.plain(o, uint32(f.number))
		if err != nil {
			return nil, err
		}
		if raw, set := p.Fields[f.name]; set {
			parsed, fault := f.typ.Parse(raw.Reveal())
			if fault != nil {
				faults.add("/fields/"+f.name, fault.Rule, fault.Detail)
			}
			plain = parsed
		}
		if slices.Contains(p.Remove, f.name) {
			plain = nil
			if f.required && !p.erasing {
				faults.add("/fields/"+f.name, "required", "a required field can't be removed")
			}
		}
		if plain != nil {
			values = append(values, value{uint32(f.number), plain})
		}
	}
	if len(values) == 0 || len(values) == 1 && values[0].number == subjectField {
		faults.add("/fields", "size", "a record has at least one field; delete the record instead")
	}
	return values, faults.err()
}

// fields are those of a collection that the patch changes.
func (p Patch) fields(c *Collection) []*field {
	return slices.DeleteFunc(slices.Clone(c.order), func(f *field) bool { return !slices.Contains(p.names(), f.name) })
}

func (p Patch) names() []string {
	names := slices.Clone(p.Remove)
	for name := range p.Fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// requireDelete asks for every field: a record is deleted whole.
func (t *txn) requireDelete(ctx context.Context, collection string, row *row) (err error) {
	if row.facts, err = t.subjectFacts(ctx, row.subject); err != nil {
		return err
	}
	c, facts := &Collection{Name: collection}, t.entry.law.facts(row, t.who.Purpose)
	if t.entry.law.policies.Finely(policy.DeleteRecord) {
		if c, err = t.namedCollection(ctx, collection); err != nil {
			return err
		}
	}
	if err := t.entry.requireEach(policy.DeleteRecord, c, c.order, facts); err != nil {
		return err
	}
	return t.entry.requireUnrestricted(facts)
}

// DeleteRecord deletes a record, an expired one too: its DEKs, and with them every copy of its values, and its row.
// ifVersion 0 means any.
func (v *Vault) DeleteRecord(ctx context.Context, who Caller, collection, record string, ifVersion int32) error {
	// Only a minimum that counts from a date in the record asks for them: without, all else is deleted all the same.
	keys, _ := v.keyring.of(ctx, who.Tenant)
	return v.within(ctx, who, policy.DeleteRecord, func(t *txn) error {
		id, ok := parseID(recordPrefix, record)
		if !ok || !nameOfCollection.MatchString(collection) {
			return fail(NotFound, "")
		}
		if err := t.holdLock(ctx, shared); err != nil {
			return err
		}
		var row row
		err := t.data.QueryRow(ctx, `
			select r.version, r.subject_id, r.digests from privault.records r join privault.collections c using (tenant_id, collection_id)
			where r.tenant_id = $1 and r.record_id = $2 and c.name = $3 and `+notErasing+`
			for update of r`, who.Tenant, id, collection).Scan(&row.version, &row.subject, &row.digests)
		if err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				return fail(NotFound, "")
			}
			return err
		}
		if err := t.requireDelete(ctx, collection, &row); err != nil {
			return err
		}
		if ifVersion != 0 && ifVersion != row.version {
			return fail(PreconditionFailed, "the record has another version by now")
		}
		t.entry.Resources = []resource{{Collection: collection, Records: []string{record}, Outcome: outcomeDeleted}}
		if err := t.requireUnheld(ctx, id); err != nil {
			return err
		}
		if err := v.requireUnkept(ctx, t, keys, id); err != nil {
			return err
		}
		if err := t.unbind(ctx, id, row.digests); err != nil {
			return err
		}
		t.entry.touches(row.subject, id)
		if _, err := t.keys.Exec(ctx, `
			delete from keystore.data_keys where tenant_id = $1 and record_id = $2`, who.Tenant, id); err != nil {
			return err
		}
		_, err = t.data.Exec(ctx, `delete from privault.records where tenant_id = $1 and record_id = $2`, who.Tenant, id)
		return err
	})
}
