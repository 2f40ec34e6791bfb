package vault

import (
	"bytes"
	"context"
	"errors"
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
		if f != nil && f.ofValue() && !slices.Contains(o.row.generalised, int16(f.number)) && o.row.ofField(f.number) == nil {
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

// rebinding is a record on its way to the index entries and aliases of its values.
type rebinding struct {
	*opened
	values []value         // as they are from now on
	renew  map[uint32]bool // fields whose own alias is replaced
	bound  bound           // what the record is bound to then
}

// rebind moves records to the index entries and aliases of their values, under the primary keys. An alias of a record's own
// stays with the field, whatever its value, unless it is to be renewed. With reissue, values whose FPE token an older key has
// made get a new one; the old one goes on resolving.
func (r *reader) rebind(ctx context.Context, t *txn, all []*rebinding, reissue bool) error {
	var own []alias
	shares := reshares{by: map[string]*reshare{}}
	for _, m := range all {
		m.bound.texts = map[uint32]string{}
		if !m.coll.bound && len(m.row.digests) == 0 {
			continue
		}
		carried, err := r.keepOwn(ctx, t, m)
		if err != nil {
			return err
		}
		own = append(own, carried...)
		if err := r.markAgain(m, &shares); err != nil {
			return err
		}
	}
	if inserted, err := t.insertAliases(ctx, own); err != nil || inserted < len(own) {
		return errors.Join(err, errMovedAlias)
	}
	if err := r.shareAgain(ctx, t, all, &shares, reissue); err != nil {
		return err
	}
	if err := t.mark(ctx, all); err != nil {
		return err
	}
	return t.leave(ctx, all)
}

// markAgain gives a record the index entries of its values, and notes which of them share an alias.
func (r *reader) markAgain(m *rebinding, shares *reshares) error {
	for _, val := range m.values {
		f := m.coll.byNumber(val.number)
		if f == nil || !f.bound() {
			continue
		}
		marks, err := r.keys.marksOf(m.coll, f, val.plain, m.row.digests)
		if err != nil {
			return err
		}
		m.bound.marks = append(m.bound.marks, marks...)
		if !f.ofValue() {
			continue
		}
		digests, err := allDigests(r.keys.alias, valueInput(m.coll.id, f.number, val.plain))
		if err != nil {
			return err
		}
		s := shares.by[string(digests[0])]
		if s == nil {
			s = &reshare{coll: m.coll, field: f, plain: val.plain, digests: digests}
			shares.add(s)
		}
		s.users = append(s.users, m)
	}
	return nil
}

// keepOwn carries the record's own aliases on, those of fields that keep a value, and gives the rows that they get under the
// primary key, if they aren't there yet: the older ones go when the record is unbound from them.
func (r *reader) keepOwn(ctx context.Context, t *txn, m *rebinding) (carried []alias, err error) {
	for _, val := range m.values {
		f := m.coll.byNumber(val.number)
		if f == nil {
			continue
		}
		text, err := r.plain(m.opened, aliasBox|val.number)
		if err != nil {
			return nil, err
		}
		if text == nil || m.renew[val.number] {
			// What was stored before the field took tokens from outside goes on without one.
			if _, had := m.boxes.Get(val.number); f.supplied == suppliedRequired && !f.ofValue() && !had {
				return nil, invalid("/fields/"+f.name, "required", "a value of this field is stored with the token that comes with it; a patch has none")
			}
			if f.strategy == strategyFormat {
				if err := r.makeOwn(ctx, t, m, f, val); err != nil {
					return nil, err
				}
			}
			continue
		}
		a := alias{collection: m.coll.id, field: f.number, record: &m.row.id, generation: 1}
		if a.text, err = r.keys.alias.ComputePrimaryPRF(textInput(m.coll.id, f.number, string(text)), digestSize); err != nil {
			return nil, err
		}
		if !has(m.row.digests, a.text) {
			if f.strategy == strategyFormat {
				spaces, _, err := (&mint{keys: r.keys, coll: m.coll}).space(f, val.plain)
				if err != nil {
					return nil, err
				}
				a.space = first(spaces)
			}
			carried = append(carried, a)
		}
		m.bound.keep(val.number, string(text), a.text)
	}
	return carried, nil
}

// keep notes an alias of the record's own.
func (b *bound) keep(number uint32, text string, digest []byte) {
	b.texts[number] = text
	b.marks = append(b.marks, mark{digest, markOwn})
	b.boxes = append(b.boxes, value{aliasBox | number, []byte(text)})
}

// makeOwn gives a value that is new to the record an alias of the record's own.
func (r *reader) makeOwn(ctx context.Context, t *txn, m *rebinding, f *field, val value) error {
	mint := mint{keys: r.keys, coll: m.coll}
	spaces, limit, err := mint.space(f, val.plain)
	if err != nil {
		return faultIn(err, "/fields/"+f.name)
	}
	for range maxAttempts {
		text, err := t.newText(ctx, &mint, f, val.plain, 0)
		if err != nil {
			return faultIn(err, "/fields/"+f.name)
		}
		digest, err := r.keys.alias.ComputePrimaryPRF(textInput(m.coll.id, f.number, text), digestSize)
		if err != nil {
			return err
		}
		a := alias{text: digest, collection: m.coll.id, field: f.number, record: &m.row.id, generation: 1, space: first(spaces)}
		if err := t.roomIn(ctx, spaces, limit); err != nil {
			return err
		}
		inserted, err := t.insertAliases(ctx, []alias{a})
		if err != nil {
			return err
		}
		if inserted > 0 {
			m.bound.keep(val.number, text, digest)
			return nil
		}
	}
	return errTokensChange
}

var errTokensChange = fail(Conflict, "the tokens of a value keep changing")

// reshare is a value whose token its records share.
type reshare struct {
	coll    *Collection
	field   *field
	plain   []byte
	digests [][]byte // of the value, under every key
	users   []*rebinding
	all     []*alias // that it has, under every key
}

// reshares are those of some records.
type reshares struct {
	all []*reshare
	by  map[string]*reshare // each of their digests
}

func (r *reshares) add(s *reshare) {
	r.all = append(r.all, s)
	for _, d := range s.digests {
		r.by[string(d)] = s
	}
}

// shareAgain finds or makes the aliases of values, and locks them together with those that the records leave.
func (r *reader) shareAgain(ctx context.Context, t *txn, all []*rebinding, shares *reshares, reissue bool) error {
	if len(shares.all) == 0 {
		return nil
	}
	var digests [][]byte
	for _, s := range shares.all {
		digests = append(digests, s.digests...)
	}
	for _, m := range all {
		digests = append(digests, m.row.digests...)
	}
	for attempt := range maxAttempts {
		locked, err := t.lockedAliases(ctx, digests)
		if err != nil {
			return err
		}
		shares.found(locked)
		var missing []alias
		for _, s := range shares.all {
			a, err := r.lacking(ctx, t, s, attempt, reissue)
			if err != nil {
				return err
			}
			missing = append(missing, a...)
		}
		if len(missing) == 0 {
			return r.share(shares.all)
		}
		if _, err := t.insertAliases(ctx, missing); err != nil {
			return err
		}
	}
	return errTokensChange
}

// found notes the aliases that there are.
func (r *reshares) found(all []*alias) {
	for _, s := range r.all {
		s.all = nil
	}
	for _, a := range all {
		if s := r.by[string(a.value)]; s != nil && a.field == s.field.number && a.collection == s.coll.id {
			s.all = append(s.all, a)
		}
	}
}

// have is the alias that is handed out; nil: there is none.
func (s *reshare) have() (have *alias) {
	for _, a := range s.all {
		if bytes.Equal(a.value, s.digests[0]) {
			have = newest(have, a)
		}
	}
	return have
}

// lacking gives the aliases that a value lacks: its first one; or those that it has under older keys only, under the primary
// one; or, with reissue, one of the present FPE key. None: it has what it needs.
func (r *reader) lacking(ctx context.Context, t *txn, s *reshare, attempt int, reissue bool) ([]alias, error) {
	m := mint{keys: r.keys, coll: s.coll}
	at := "/fields/" + s.field.name
	carried, _, err := m.carry(s.field, s.all, s.plain, s.digests[0])
	if err != nil || len(carried) > 0 {
		return carried, err
	}
	have, generation := s.have(), int32(1)
	if have != nil {
		if !reissue || have.keyVersion == 0 || have.keyVersion >= m.keyVersion(s.field) {
			return nil, nil
		}
		generation = have.generation + 1
	}
	spaces, limit, err := m.space(s.field, s.plain)
	if err != nil {
		return nil, faultIn(err, at)
	}
	text, err := t.newText(ctx, &m, s.field, s.plain, attempt)
	if have != nil && errors.Is(err, errTokensChange) {
		return nil, nil // its space is so full that the new key makes no free text for it: it keeps the one that it has
	}
	if err != nil {
		return nil, faultIn(err, at)
	}
	if err := t.roomIn(ctx, spaces, limit); err != nil {
		return nil, err
	}
	made, err := r.keys.sealAlias(s.coll.id, s.field.number, text, s.plain, s.digests[0], generation)
	made.keyVersion, made.space = m.keyVersion(s.field), first(spaces)
	return []alias{made}, err
}

// share gives the records the aliases of their values.
func (r *reader) share(shares []*reshare) error {
	for _, s := range shares {
		have := s.have()
		text, err := r.keys.openAlias(have, s.plain)
		if err != nil {
			return err
		}
		for _, m := range s.users {
			m.bound.texts[uint32(s.field.number)] = text
			m.bound.marks = append(m.bound.marks, mark{have.value, markEntry})
		}
	}
	return nil
}

// first is the first of digests, if there are any.
func first(digests [][]byte) []byte {
	if len(digests) == 0 {
		return nil
	}
	return digests[0]
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

// roomIn refuses one more text of a space that is too full. Its digests are one for each key.
func (t *txn) roomIn(ctx context.Context, spaces [][]byte, limit int64) error {
	if spaces == nil {
		return nil
	}
	var used int64
	err := t.data.QueryRow(ctx, `select coalesce(sum(used), 0) from privault.alias_spaces where tenant_id = $1 and digest = any($2)`, t.who.Tenant, spaces).Scan(&used)
	if err == nil && used >= limit {
		return errExhausted
	}
	return err
}

// newText makes a text that is nobody's yet, under any key.
func (t *txn) newText(ctx context.Context, m *mint, f *field, plain []byte, attempt int) (string, error) {
	for last := attempt + triesInFull; attempt < last; attempt++ {
		text, err := m.text(f, plain, attempt)
		if err != nil {
			return "", err
		}
		digests, err := allDigests(m.keys.alias, textInput(m.coll.id, f.number, text))
		if err != nil {
			return "", err
		}
		var taken bool
		err = t.data.QueryRow(ctx, `
			select exists (select from privault.aliases where tenant_id = $1 and text_digest = any($2))`, t.who.Tenant, digests).Scan(&taken)
		if err != nil || !taken {
			return text, err
		}
	}
	return "", errTokensChange
}

// insertAliases inserts aliases but those whose text or value has one already: the next look finds whose it is.
func (t *txn) insertAliases(ctx context.Context, all []alias) (inserted int, err error) {
	if len(all) == 0 {
		return 0, nil
	}
	var b bonds
	b.addAliases(t.entry.id, all)
	err = t.data.QueryRow(ctx, `
		with inserted as (
			insert into privault.aliases (tenant_id, text_digest, collection_id, field, value_digest, record_id, generation, key_version, sealed_text, space)
			select $1, w.* from unnest($2::bytea[], $3::uuid[], $4::int[], $5::bytea[], $6::uuid[], $7::int[], $8::bigint[], $9::bytea[], $10::bytea[])
				as w(text_digest, collection_id, field, value_digest, record_id, generation, key_version, sealed_text, space)
			order by w.value_digest, w.text_digest
			on conflict do nothing
			returning space
		), counted as (
			insert into privault.alias_spaces as s (tenant_id, digest, used)
			select $1, i.space, count(*) from inserted i where i.space is not null group by i.space order by i.space
			on conflict (tenant_id, digest) do update set used = s.used + excluded.used
		)
		select count(*) from inserted`, t.who.Tenant, b.text, b.aliasCollection, b.aliasField, b.value, b.aliasRecord, b.generation, b.keyVersion,
		b.sealedAs, b.spaces).Scan(&inserted)
	return inserted, err
}

// mark inserts the records' new index entries, beyond those that they had.
func (t *txn) mark(ctx context.Context, all []*rebinding) error {
	var records []ID
	var fresh [][]byte
	var sole []bool
	for _, r := range all {
		for _, m := range r.bound.marks {
			if m.kind != markOwn && !has(r.row.digests, m.digest) {
				records, fresh, sole = append(records, r.row.id), append(fresh, m.digest), append(sole, m.kind == markSole)
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	done, err := t.data.Exec(ctx, `
		insert into privault.blind_index (tenant_id, digest, record_id, sole)
		select $1, m.digest, m.record_id, m.sole from unnest($2::uuid[], $3::bytea[], $4::boolean[]) as m(record_id, digest, sole) order by m.digest
		on conflict do nothing`, t.who.Tenant, records, fresh, sole)
	if err == nil && done.RowsAffected() < int64(len(fresh)) {
		return errNotUnique
	}
	return err
}

// leave removes the index entries and aliases that the records had and have no longer.
func (t *txn) leave(ctx context.Context, all []*rebinding) error {
	var records []ID
	var left [][]byte
	for _, r := range all {
		for _, gone := range without(r.row.digests, digestsOf(r.bound.marks)) {
			records, left = append(records, r.row.id), append(left, gone)
		}
	}
	if len(left) == 0 {
		return nil
	}
	_, _, err := t.unbindAll(ctx, records, left)
	return err
}
