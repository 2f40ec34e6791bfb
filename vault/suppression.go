package vault

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// The suppression list keeps those who were erased from being taken in again where a collection asks for it. It holds keyed digests,
// under the keys of pseudonyms: of the reference of a person, and of the values by which a collection knows persons.

// Suppression is what a collection asks of the suppression list.
type Suppression struct {
	Fields []string `json:"fields,omitempty"` // whose values stay on the list too, beside the person's reference
}

// Suppressed is an entry of the list.
type Suppressed struct {
	ID          string
	Identifiers []string // what of the person is on it: subject, and types of values
	Certificate string   // of the erasure that brought it there; empty: somebody put it there
	Created     time.Time
}

const suppressedSubject = "subject"

// checkSuppression validates what a definition says of the suppression list.
func (d *Definition) checkSuppression(bad func(pointer, rule, detail string)) {
	if d.Suppression == nil {
		return
	}
	d.Suppression.Fields = sortedNames(d.Suppression.Fields)
	for _, name := range d.Suppression.Fields {
		f, known := d.Fields[name]
		switch {
		case !known:
			bad("/suppression/fields", "unknown-field", "the collection has no such field")
		case !slices.Contains(f.Index, indexExact):
			bad("/suppression/fields", "index", "a field whose values stay on the suppression list has the index exact")
		case d.KMS == kmsDirect:
			bad("/suppression/fields", "kms", "with kms: direct the suppression list has persons' references alone: of values, an erasure would cost a call of the KMS for each record")
		}
	}
}

// suppressionInput is what the digest of a value on the list is of. Values of one type are equal whatever collection they are in.
func suppressionInput(f *field, derived []byte) []byte {
	return append([]byte("privault/1/suppression\x00"+f.typ.Name()+"\x00"), derived...)
}

// identifier is a value that may be on the list, under every key, the primary one first.
type identifier struct {
	field   *field
	digests [][]byte
}

// identifiers are those values of a record that its collection names; of gives a field's, nil if there is none.
func (k *tenantKeys) identifiers(coll *Collection, of func(*field) ([]byte, error)) (all []identifier, err error) {
	for _, f := range coll.suppressed {
		plain, err := of(f)
		if err != nil {
			return nil, err
		}
		if plain == nil {
			continue
		}
		derived, falls := f.derive(index{name: indexExact, kind: indexExact}, plain)
		if !falls {
			continue
		}
		digests, err := allDigests(k.pseudonym, suppressionInput(f, derived))
		if err != nil {
			return nil, err
		}
		all = append(all, identifier{f, digests})
	}
	return all, nil
}

// suppressible gives drafts the digests that must not be on the list when they are committed. The commit looks in its own statement;
// for the second attempt of a batch that was not admitted it is looked here which they were.
func (s *sealer) suppressible(ctx context.Context, v *Vault, drafts []draft, look bool) (err error) {
	for i := range drafts {
		d := &drafts[i]
		if d.err != nil {
			continue
		}
		if d.item.Subject != "" {
			if d.subject, err = s.keys.subject(d.item.Subject); err != nil {
				return err
			}
		}
		if d.identifiers, err = s.keys.identifiers(s.coll, valueOf(d.values)); err != nil {
			return err
		}
	}
	if !look {
		return nil
	}
	return s.refuseSuppressed(ctx, v, drafts)
}

// listed are the digests of a draft; none, where the list isn't asked.
func (d *draft) listed() (all [][]byte) {
	if d.subject != nil {
		all = append(all, d.subject.all...)
	}
	for _, i := range d.identifiers {
		all = append(all, i.digests...)
	}
	return all
}

// refuseSuppressed looks which drafts are on the list, and refuses them.
func (s *sealer) refuseSuppressed(ctx context.Context, v *Vault, drafts []draft) error {
	var all [][]byte
	for i := range drafts {
		all = append(all, drafts[i].listed()...)
	}
	on := map[string]bool{}
	b := &pgx.Batch{}
	b.Queue(selectSuppressed, s.keys.tenant, all).Query(func(rows pgx.Rows) error {
		var digest []byte
		_, err := pgx.ForEachRow(rows, []any{&digest}, func() error {
			on[string(digest)] = true
			return nil
		})
		return err
	})
	if len(all) == 0 {
		return nil
	}
	if err := v.store.data.pipeline(ctx, s.keys.tenant, b); err != nil {
		return err
	}
	for i := range drafts {
		if d := &drafts[i]; d.err == nil {
			d.err = d.suppressed(on)
		}
	}
	return nil
}

const selectSuppressed = `select distinct digest from privault.suppressions where tenant_id = $1 and digest = any($2)`

func (d *draft) suppressed(on map[string]bool) error {
	isOn := func(digests [][]byte) bool {
		return slices.ContainsFunc(digests, func(sum []byte) bool { return on[string(sum)] })
	}
	if d.subject != nil && isOn(d.subject.all) {
		return suppressedAt(d.at + "/subject")
	}
	for _, i := range d.identifiers {
		if isOn(i.digests) {
			return suppressedAt(d.at + "/fields/" + i.field.name)
		}
	}
	return nil
}

func suppressedAt(pointer string) *Error {
	return &Error{Kind: SubjectErased, Fields: []FieldError{{pointer, "suppressed"}},
		Detail: "the person was erased and is on the suppression list, which this collection asks; lift it first (DELETE /v1/suppressions/{id})"}
}

// requireUnsuppressed refuses a change of a record to values that are on the list.
func (t *txn) requireUnsuppressed(ctx context.Context, keys *tenantKeys, coll *Collection, p Patch, values []value) error {
	if len(coll.suppressed) == 0 {
		return nil
	}
	all, err := keys.identifiers(coll, func(f *field) ([]byte, error) {
		if _, set := p.Fields[f.name]; !set {
			return nil, nil
		}
		return valueOf(values)(f)
	})
	if err != nil {
		return err
	}
	for _, i := range all {
		var on bool
		err := t.data.QueryRow(ctx, `select exists (`+selectSuppressed+`)`, t.who.Tenant, i.digests).Scan(&on)
		if err != nil {
			return err
		}
		if on {
			return suppressedAt("/fields/" + i.field.name)
		}
	}
	return nil
}

// suppress puts a person who is being erased on the list, if some of the person's records are in a collection that asks for it. It
// opens the values that such collections name, so it comes before the keys go.
func (v *Vault) suppress(ctx context.Context, t *txn, w *erasable, erasure ID) error {
	var asking []ID
	err := t.data.QueryRow(ctx, `
		select array_agg(collection_id) from privault.collections where tenant_id = $1 and definition ? 'suppression'`, t.who.Tenant).Scan(&asking)
	if err != nil || len(asking) == 0 {
		return err
	}
	rows, err := t.data.Query(ctx, `
		select r.record_id, r.subject_id, r.collection_id, c.version, r.version, r.sealed
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.subject_id = $2 and r.collection_id = any($3)`, t.who.Tenant, w.subject, asking)
	if err != nil {
		return err
	}
	byID, ids := map[ID]*row{}, []ID(nil)
	all, err := pgx.CollectRows(rows, func(found pgx.CollectableRow) (*row, error) {
		r := &row{}
		err := found.Scan(&r.id, &r.subject, &r.collection, &r.schema, &r.version, &r.sealed)
		byID[r.id], ids = r, append(ids, r.id)
		return r, err
	})
	if err != nil || len(all) == 0 {
		return err
	}
	b := &pgx.Batch{}
	queueKeys(b, t.who.Tenant, ids, byID)
	if err := t.keys.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	r, err := v.readerFor(ctx, t)
	if err != nil {
		return err
	}
	w.suppressed = map[string]string{}
	for _, digest := range w.digests {
		w.suppressed[string(digest)] = suppressedSubject
	}
	for _, row := range all {
		if err := r.identify(ctx, row, w.suppressed); err != nil {
			return err
		}
	}
	return t.insertSuppressed(ctx, w.suppressed, &erasure)
}

// identify adds the values of a record that its collection names.
func (r *reader) identify(ctx context.Context, row *row, on map[string]string) error {
	coll, err := r.vault.collectionByID(ctx, r.keys.tenant, row.collection, row.schema)
	if err != nil || len(coll.suppressed) == 0 || row.wrapped == nil {
		return err
	}
	o, err := r.open(ctx, row)
	if err != nil {
		return err
	}
	all, err := r.keys.identifiers(coll, func(f *field) ([]byte, error) { return r.plain(o, uint32(f.number)) })
	for _, i := range all {
		on[string(i.digests[0])] = i.field.typ.Name()
	}
	return err
}

func (t *txn) insertSuppressed(ctx context.Context, on map[string]string, erasure *ID) error {
	id, err := newID()
	if err != nil {
		return err
	}
	var digests [][]byte
	var kinds []string
	for digest, kind := range on {
		digests, kinds = append(digests, []byte(digest)), append(kinds, kind)
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.suppressions (tenant_id, suppression_id, digest, kind, erasure_id, created_at)
		select $1, $2, s.digest, s.kind, $5, $6 from unnest($3::bytea[], $4::text[]) as s(digest, kind)`, t.who.Tenant, id, digests, kinds, erasure, t.now)
	t.entry.Resources = append(t.entry.Resources, resource{Suppression: formatID(suppressionPrefix, id)})
	return err
}

// Suppress puts a person on the list by hand; created says whether they were not. It gives the entry, which is how one finds it who
// knows the person.
func (v *Vault) Suppress(ctx context.Context, who Caller, reference string) (s *Suppressed, created bool, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, false, v.refuseUnopened(ctx, who, policy.WriteSuppressions, err)
	}
	err = v.within(ctx, who, policy.WriteSuppressions, func(t *txn) error {
		if err := t.entry.require(policy.WriteSuppressions); err != nil {
			return err
		}
		if err := checkSubject(reference, "/subject"); err != nil {
			return err
		}
		if keys, err = t.holdKeys(ctx, keys); err != nil {
			return err
		}
		digests, err := keys.subject(reference)
		if err != nil {
			return err
		}
		if err := t.suppressionLock(ctx); err != nil {
			return err
		}
		if s, err = t.suppressedBy(ctx, digests.all); err != nil || s != nil {
			return err
		}
		created = true
		on := map[string]string{string(digests.primary()): suppressedSubject}
		err = eachBytes(ctx, t.data, func(digest []byte) { on[string(digest)] = suppressedSubject }, `
			select o.digest from privault.subjects s join privault.subjects o using (tenant_id, subject_id)
			where s.tenant_id = $1 and s.digest = any($2)`, t.who.Tenant, digests.all)
		if err != nil {
			return err
		}
		if err = t.insertSuppressed(ctx, on, nil); err == nil {
			s, err = t.suppressedBy(ctx, digests.all)
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return s, created, nil
}

// suppressionLock makes two that put the same person on the list wait for each other: the second finds the first's entry.
func (t *txn) suppressionLock(ctx context.Context) error {
	_, err := t.data.Exec(ctx, string(alone), tenantSetting(t.who.Tenant)+"/suppressions")
	return err
}

// suppressedBy finds the newest entry that has one of the digests; nil: there is none.
func (t *txn) suppressedBy(ctx context.Context, digests [][]byte) (*Suppressed, error) {
	rows, err := t.data.Query(ctx, selectSuppressions+` and suppression_id in (
			select suppression_id from privault.suppressions where tenant_id = $1 and digest = any($2))
		group by suppression_id order by suppression_id desc limit 1`, t.who.Tenant, digests)
	if err != nil {
		return nil, err
	}
	s, err := pgx.CollectExactlyOneRow(rows, scanSuppressed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err == nil && len(t.entry.Resources) == 0 {
		t.entry.Resources = []resource{{Suppression: s.ID}}
	}
	return s, err
}

const selectSuppressions = `
	select suppression_id, array_agg(distinct kind order by kind), (array_agg(erasure_id))[1], min(created_at)
	from privault.suppressions where tenant_id = $1`

func scanSuppressed(r pgx.CollectableRow) (*Suppressed, error) {
	s := &Suppressed{}
	var id ID
	var erasure *ID
	err := r.Scan(&id, &s.Identifiers, &erasure, &s.Created)
	s.ID, s.Certificate = formatID(suppressionPrefix, id), formatOptional(erasurePrefix, erasure)
	return s, err
}

// ListSuppressions gives up to limit entries of the list, newest first, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListSuppressions(ctx context.Context, who Caller, cursor string, limit int) (page []*Suppressed, next string, err error) {
	err = v.readList(ctx, who, policy.ReadSuppressions, "suppressions", cursor, func(t *txn, keys *tenantKeys, before string) error {
		rows, err := t.data.Query(ctx, selectSuppressions+` and suppression_id < $2
			group by suppression_id order by suppression_id desc limit $3`, who.Tenant, idBefore(suppressionPrefix, before), limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanSuppressed, "suppressions", limit, func(s *Suppressed) string { return s.ID })
		return err
	})
	return page, next, err
}

// LiftSuppression takes a person off the list, with all that an erasure brought there.
func (v *Vault) LiftSuppression(ctx context.Context, who Caller, suppression string) error {
	return v.within(ctx, who, policy.WriteSuppressions, func(t *txn) error {
		id, ok := parseID(suppressionPrefix, suppression)
		if !ok {
			return fail(NotFound, "")
		}
		done, err := t.data.Exec(ctx, `delete from privault.suppressions where tenant_id = $1 and suppression_id = $2`, who.Tenant, id)
		if err != nil {
			return err
		}
		if done.RowsAffected() == 0 {
			return fail(NotFound, "")
		}
		t.entry.Resources = []resource{{Suppression: suppression}}
		return t.entry.require(policy.WriteSuppressions)
	})
}
