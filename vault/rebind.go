package vault

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// What ties a record to its index entries and aliases, when the record is read and when it changes.

// mayShare says whether values of a collection may have aliases that records share, as far as is known.
func (v *Vault) mayShare(tenant ID, collection string) bool {
	v.collections.mu.RLock()
	defer v.collections.mu.RUnlock()
	c := v.collections.byName[schemaName{tenant, collection}]
	return c == nil || c.shared
}

// complete says whether each value that shares an alias has it.
func (o *opened) complete() bool {
	for _, box := range o.boxes {
		f := o.coll.byNumber(box.Field)
		if f != nil && f.ofValue() && o.row.ofField(f.number) == nil {
			return false
		}
	}
	return true
}

// aliases gives the alias texts of a record's values, by field number.
func (r *reader) aliases(o *opened, held []value) (map[uint32]string, error) {
	var texts map[uint32]string
	for _, val := range held {
		f := o.coll.byNumber(val.number)
		if f == nil {
			continue
		}
		text, err := r.aliasOf(o, f)
		if err != nil {
			return nil, err
		}
		if text != "" {
			if texts == nil {
				texts = map[uint32]string{}
			}
			texts[val.number] = text
		}
	}
	return texts, nil
}

// aliasOf gives the text of a value's alias; empty if it has none.
func (r *reader) aliasOf(o *opened, f *field) (string, error) {
	own, err := r.plain(o, aliasBox|uint32(f.number))
	if own != nil || err != nil {
		return string(own), err
	}
	a := o.row.ofField(f.number)
	if a == nil {
		return "", nil
	}
	plain, err := r.plain(o, uint32(f.number))
	if err != nil {
		return "", err
	}
	return r.keys.openAlias(a, plain)
}

// rebind moves a record to the index entries and aliases of its new values, and gives what it is bound to then.
// An alias of its own stays with the field, whatever its value, unless the field is among those to be renewed.
func (r *reader) rebind(ctx context.Context, t *txn, o *opened, values []value, renew map[uint32]bool) (bound, error) {
	b := bound{texts: map[uint32]string{}}
	if !o.coll.bound && len(o.row.digests) == 0 {
		return b, nil
	}
	if err := r.keepOwn(ctx, t, o, values, renew, &b); err != nil {
		return b, err
	}
	shared := map[string]value{} // by value digest
	for _, val := range values {
		f := o.coll.byNumber(val.number)
		if f == nil || !f.bound() {
			continue
		}
		marks, err := r.keys.marksOf(o.coll, f, val.plain)
		if err != nil {
			return b, err
		}
		b.marks = append(b.marks, marks...)
		if !f.ofValue() {
			continue
		}
		digest, err := r.keys.alias.ComputePrimaryPRF(valueInput(o.coll.id, f.number, val.plain), digestSize)
		if err != nil {
			return b, err
		}
		shared[string(digest)] = val
	}
	if err := r.shareAgain(ctx, t, o, shared, &b); err != nil {
		return b, err
	}
	if err := t.mark(ctx, o.row.id, b.marks, o.row.digests); err != nil {
		return b, err
	}
	return b, t.unbind(ctx, o.row.id, without(o.row.digests, digestsOf(b.marks)))
}

// keepOwn carries the record's own aliases on, those of fields that keep a value, or makes others for those to be renewed.
func (r *reader) keepOwn(ctx context.Context, t *txn, o *opened, values []value, renew map[uint32]bool, b *bound) error {
	for _, val := range values {
		f := o.coll.byNumber(val.number)
		if f == nil {
			continue
		}
		text, err := r.plain(o, aliasBox|val.number)
		if err != nil {
			return err
		}
		if text == nil || renew[val.number] {
			if f.supplied == suppliedRequired && !f.ofValue() {
				return invalid("/fields/"+f.name, "required", "a value of this field is stored with the token that comes with it; a patch has none")
			}
			if f.strategy == strategyFormat {
				if err := r.makeOwn(ctx, t, o, f, val, b); err != nil {
					return err
				}
			}
			continue
		}
		all, err := allDigests(r.keys.alias, textInput(o.coll.id, f.number, string(text)))
		if err != nil {
			return err
		}
		for _, d := range all {
			if slices.ContainsFunc(o.row.digests, func(have []byte) bool { return slices.Equal(have, d) }) {
				b.marks = append(b.marks, mark{d, markOwn})
			}
		}
		b.texts[val.number] = string(text)
		b.boxes = append(b.boxes, value{aliasBox | val.number, text})
	}
	return nil
}

// makeOwn gives a value that is new to the record an alias of the record's own.
func (r *reader) makeOwn(ctx context.Context, t *txn, o *opened, f *field, val value, b *bound) error {
	m := mint{keys: r.keys, coll: o.coll}
	space, limit, err := m.space(f, val.plain)
	if err != nil {
		return faultIn(err, "/fields/"+f.name)
	}
	for range maxAttempts {
		text, err := m.text(f, val.plain, 0)
		if err != nil {
			return faultIn(err, "/fields/"+f.name)
		}
		digest, err := r.keys.alias.ComputePrimaryPRF(textInput(o.coll.id, f.number, text), digestSize)
		if err != nil {
			return err
		}
		a := alias{text: digest, collection: o.coll.id, field: f.number, record: &o.row.id, generation: 1, space: space}
		inserted, err := t.insertAlias(ctx, &a, limit)
		if err != nil {
			return err
		}
		if inserted {
			b.texts[val.number] = text
			b.marks = append(b.marks, mark{digest, markOwn})
			b.boxes = append(b.boxes, value{aliasBox | val.number, []byte(text)})
			return nil
		}
	}
	return &Error{Kind: Conflict, Detail: "the tokens of a value keep changing"}
}

// shareAgain finds or makes the aliases of values, and locks them together with those that the record leaves.
func (r *reader) shareAgain(ctx context.Context, t *txn, o *opened, shared map[string]value, b *bound) error {
	if len(shared) == 0 {
		return nil
	}
	digests := slices.Clone(o.row.digests)
	for digest, val := range shared {
		f := o.coll.byNumber(val.number)
		all, err := allDigests(r.keys.alias, valueInput(o.coll.id, f.number, val.plain))
		if err != nil {
			return err
		}
		digests = append(append(digests, all...), []byte(digest))
	}
	m := mint{keys: r.keys, coll: o.coll}
	for attempt := range maxAttempts {
		have, err := t.lockedAliases(ctx, digests)
		if err != nil {
			return err
		}
		missing, err := r.shareFound(&m, attempt, o, shared, have, b)
		if err != nil || len(missing) == 0 {
			return err
		}
		for i := range missing {
			if _, err := t.insertAlias(ctx, &missing[i].alias, missing[i].limit); err != nil {
				return err
			}
		}
	}
	return &Error{Kind: Conflict, Detail: "the tokens of a value keep changing"}
}

// wantedAlias is an alias to be inserted, with how many texts of its space may be taken.
type wantedAlias struct {
	alias
	limit int64
}

// shareFound takes the aliases that there are, and makes those that are missing, in one order; if any are, b is as before.
func (r *reader) shareFound(m *mint, attempt int, o *opened, shared map[string]value, have []*alias, b *bound) (missing []wantedAlias, err error) {
	marks := b.marks
	for digest, val := range shared {
		f := o.coll.byNumber(val.number)
		var current *alias
		for _, a := range have {
			if a.field == f.number && a.collection == o.coll.id {
				if _, err := r.keys.aliasKey(o.coll.id, f.number, val.plain, a.value); err == nil {
					current = newest(current, a)
				}
			}
		}
		if current == nil {
			text, err := m.text(f, val.plain, attempt)
			if err != nil {
				return nil, faultIn(err, "/fields/"+f.name)
			}
			space, limit, err := m.space(f, val.plain)
			if err != nil {
				return nil, faultIn(err, "/fields/"+f.name)
			}
			made, err := r.keys.sealAlias(o.coll.id, f.number, text, val.plain, []byte(digest), 1)
			if err != nil {
				return nil, err
			}
			made.space, made.keyVersion = space, m.keyVersion(f)
			missing = append(missing, wantedAlias{made, limit})
			continue
		}
		if b.texts[val.number], err = r.keys.openAlias(current, val.plain); err != nil {
			return nil, err
		}
		marks = append(marks, mark{current.value, markEntry})
	}
	if len(missing) == 0 {
		b.marks = marks
	}
	slices.SortFunc(missing, func(a, b wantedAlias) int { return slices.Compare(a.value, b.value) })
	return missing, nil
}

// lockedAliases reads the aliases of values and keeps them from being deleted.
func (t *txn) lockedAliases(ctx context.Context, digests [][]byte) (have []*alias, err error) {
	const query = `
		select ` + aliasColumns + ` from privault.aliases a where a.tenant_id = $1 and a.value_digest = any($2)
		order by a.value_digest, a.generation for update`
	rows, err := t.data.Query(ctx, query, t.who.Tenant, digests) //nolint:rowserrcheck // eachAlias does
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	err = eachAlias(func(a *alias, rows pgx.Rows) error {
		have = append(have, a)
		return a.scan(rows)
	})(rows)
	return have, err
}

// insertAlias inserts an alias, unless its text or its value has one already: the next look finds whose it is.
func (t *txn) insertAlias(ctx context.Context, a *alias, limit int64) (inserted bool, err error) {
	if a.space != nil {
		var used int64
		err := t.data.QueryRow(ctx, `select coalesce(sum(used), 0) from privault.alias_spaces where tenant_id = $1 and digest = $2`, t.who.Tenant, a.space).Scan(&used)
		if err != nil {
			return false, err
		}
		if used >= limit {
			return false, errExhausted
		}
	}
	err = t.data.QueryRow(ctx, `
		with inserted as (
			insert into privault.aliases (tenant_id, text_digest, collection_id, field, value_digest, record_id, generation, key_version, sealed_text, space)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
			returning space
		), counted as (
			insert into privault.alias_spaces as s (tenant_id, digest, used) select $1, i.space, 1 from inserted i where i.space is not null
			on conflict (tenant_id, digest) do update set used = s.used + 1
		)
		select exists (select from inserted)`,
		t.who.Tenant, a.text, a.collection, int32(a.field), a.value, a.record, a.generation, a.keyVersion, a.sealed, a.space).Scan(&inserted)
	return inserted, err
}

// mark inserts a record's new index entries, beyond those that it had.
func (t *txn) mark(ctx context.Context, record ID, marks []mark, had [][]byte) error {
	var fresh [][]byte
	var sole []bool
	for _, m := range marks {
		if m.kind != markOwn && len(without([][]byte{m.digest}, had)) > 0 {
			fresh, sole = append(fresh, m.digest), append(sole, m.kind == markSole)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	done, err := t.data.Exec(ctx, `
		insert into privault.blind_index (tenant_id, digest, record_id, sole)
		select $1, m.digest, $2, m.sole from unnest($3::bytea[], $4::boolean[]) as m(digest, sole) order by m.digest
		on conflict do nothing`, t.who.Tenant, record, fresh, sole)
	if err == nil && done.RowsAffected() < int64(len(fresh)) {
		return errNotUnique
	}
	return err
}
