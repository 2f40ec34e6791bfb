package vault

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"slices"

	"github.com/jackc/pgx/v5"
)

// The part of a group commit that ties records to their index entries and aliases. It costs nothing where there are none.

// bonds are a group's marks, aliases and what it relies on, as columns.
type bonds struct {
	markEntry, markRecord []ID
	markDigest            [][]byte
	markKind              []int32
	relies                []reliance
	aliasEntry            []ID
	text, value, sealedAs [][]byte
	aliasCollection       []ID
	aliasField            []int32
	aliasRecord           []*ID
	generation            []int32
	keyVersion            []int64
	spaces                [][]byte
	digests               []*string // of each record, as the text of an array
	listedEntry           []ID
	listed                [][]byte // what must not be on the suppression list
}

// reliance is an alias that a change was prepared from and that must still be there.
type reliance struct {
	entry ID
	alias *alias
}

func (b *bonds) add(c *change) {
	id := c.entry.id
	for i := range c.records {
		b.digests = append(b.digests, arrayText(c.records[i].marks))
		for _, d := range c.records[i].listed {
			b.listedEntry, b.listed = append(b.listedEntry, id), append(b.listed, d)
		}
		for _, m := range c.records[i].marks {
			b.markEntry, b.markRecord = append(b.markEntry, id), append(b.markRecord, c.records[i].id)
			b.markDigest, b.markKind = append(b.markDigest, m.digest), append(b.markKind, m.kind)
		}
	}
	for _, a := range c.relies {
		b.relies = append(b.relies, reliance{id, a})
	}
	b.addAliases(id, c.aliases)
}

func (b *bonds) addAliases(entry ID, all []alias) {
	for i := range all {
		a := &all[i]
		b.aliasEntry, b.text, b.value = append(b.aliasEntry, entry), append(b.text, a.text), append(b.value, a.value)
		b.sealedAs, b.aliasCollection = append(b.sealedAs, a.sealed), append(b.aliasCollection, a.collection)
		b.aliasField, b.aliasRecord = append(b.aliasField, int32(a.field)), append(b.aliasRecord, a.record)
		b.generation, b.keyVersion = append(b.generation, a.generation), append(b.keyVersion, a.keyVersion)
		b.spaces = append(b.spaces, a.space)
	}
}

// arrayText is records.digests as a literal; nil for null. unnest would make one long array of many short ones.
func arrayText(marks []mark) *string {
	if len(marks) == 0 {
		return nil
	}
	text := make([]byte, 0, len(marks)*(2*digestSize+6)+1)
	for _, m := range marks {
		text = append(text, `,"\\x`...)
		text = append(hex.AppendEncode(text, m.digest), '"')
	}
	text[0] = '{'
	literal := string(append(text, '}'))
	return &literal
}

func (b *bonds) none() bool {
	return len(b.markEntry)+len(b.relies)+len(b.aliasEntry)+len(b.listed) == 0
}

// columns are the parameters of insertBound after those of insertTogether.
func (b *bonds) columns() []any {
	// They are locked one by one, in the order in which others lock them.
	slices.SortFunc(b.relies, func(x, y reliance) int {
		return cmp.Or(bytes.Compare(x.alias.value, y.alias.value), cmp.Compare(x.alias.generation, y.alias.generation))
	})
	entries, texts := make([]ID, len(b.relies)), make([][]byte, len(b.relies))
	for i, r := range b.relies {
		entries[i], texts[i] = r.entry, r.alias.text
	}
	return []any{b.markEntry, b.markRecord, b.markDigest, b.markKind, entries, texts,
		b.aliasEntry, b.text, b.aliasCollection, b.aliasField, b.value, b.aliasRecord, b.generation, b.keyVersion, b.sealedAs, b.spaces, b.digests}
}

// returnBound gives the entries that went in, and notes for queueRest how many did not.
const returnBound = `select array_agg(entry_id), set_config('privault.refused', (cardinality($3) - count(*))::text, true) from admitted`

// refusedSome is no column's business, so Postgres asks it once and doesn't even begin if nothing was refused.
const refusedSome = `current_setting('privault.refused') <> '0'`

// queueRest takes back what changes brought that were not admitted after all: an alias that leads to nothing would keep
// its text from others, and a digest of a value that was never stored.
//
// What is there is looked for row by row, with a limit: as joins, these looks were planned while the tables were empty, and went
// through the whole of them for each row once they were full.
func (b *bonds) queueRest(batch *pgx.Batch, tenant ID) {
	if len(b.aliasEntry) > 0 {
		batch.Queue(`
			delete from privault.aliases a
			where `+refusedSome+` and a.tenant_id = $1 and a.text_digest = any($2) and a.xmin = pg_current_xact_id()::xid
				and (select true from privault.blind_index i where i.tenant_id = $1 and i.digest = a.value_digest limit 1) is null
				and (select true from privault.records r where r.tenant_id = $1 and r.record_id = a.record_id limit 1) is null`, tenant, b.text)
	}
	var soles [][]byte
	for i, kind := range b.markKind {
		if kind == markSole {
			soles = append(soles, b.markDigest[i])
		}
	}
	if len(soles) > 0 {
		batch.Queue(`
			delete from privault.blind_index i
			where `+refusedSome+` and i.tenant_id = $1 and i.digest = any($2) and i.xmin = pg_current_xact_id()::xid
				and (select true from privault.records r where r.tenant_id = $1 and r.record_id = i.record_id limit 1) is null`, tenant, soles)
	}
}

// insertBound is insertTogether for a group with bonds. A change lacks something if an alias that it relies on is gone,
// or if one that it makes, or a value that only one record may have, is somebody else's; then it is not admitted.
//
// The comparisons are "not in", which Postgres hashes whatever it thinks of the sizes. Each kind of row is locked or
// inserted in one order, here and wherever else (unbindAll, lockedAliases), so that two wait for each other and don't
// deadlock. An alias counts as the change's own only if all that it stands for is: two changes may bring the same text for
// two values.
const (
	insertBound = boundChanges + `)` + admitBound
	// insertUnlisted lacks what is on the suppression list, too.
	insertUnlisted = boundChanges + `
		union all
		select y.entry_id from unnest($41::uuid[], $42::bytea[]) as y(entry_id, digest)
		where y.digest in (select s.digest from privault.suppressions s where s.tenant_id = $1 and s.digest = any($42))
	)` + admitBound
)

const boundChanges = freshChanges + `, marked as materialized (
		select m.* from unnest($24::uuid[], $25::uuid[], $26::bytea[], $27::int[]) as m(entry_id, record_id, digest, kind)
	), relied as materialized (
		select a.text_digest from unnest($29::bytea[]) as y(text_digest) cross join lateral (
			select a.text_digest from privault.aliases a where a.tenant_id = $1 and a.text_digest = y.text_digest offset 0 for key share) a
	), wanted as materialized (
		select w.* from unnest($30::uuid[], $31::bytea[], $32::uuid[], $33::int[], $34::bytea[], $35::uuid[], $36::int[], $37::bigint[], $38::bytea[], $39::bytea[])
			as w(entry_id, text_digest, collection_id, field, value_digest, record_id, generation, key_version, sealed_text, space)
	), aliased as (
		insert into privault.aliases (tenant_id, text_digest, collection_id, field, value_digest, record_id, generation, key_version, sealed_text, space)
		select $1, w.text_digest, w.collection_id, w.field, w.value_digest, w.record_id, w.generation, w.key_version, w.sealed_text, w.space
		from wanted w join fresh using (entry_id)
		order by w.value_digest, w.text_digest
		on conflict do nothing
		returning text_digest, value_digest, record_id
	), sole as (
		insert into privault.blind_index (tenant_id, digest, record_id, sole)
		select $1, m.digest, m.record_id, true from marked m join fresh using (entry_id) where m.kind = 2
		order by m.digest
		on conflict do nothing
		returning digest, record_id
	), lacking as materialized (
		select y.entry_id from unnest($28::uuid[], $29::bytea[]) as y(entry_id, text_digest)
		where y.text_digest not in (select r.text_digest from relied r)
		union all
		select w.entry_id from wanted w
		where (w.text_digest, coalesce(w.value_digest, uuid_send(w.record_id))) not in (
			select a.text_digest, coalesce(a.value_digest, uuid_send(a.record_id)) from aliased a)
		union all
		select m.entry_id from marked m
		where m.kind = 2 and (m.digest, m.record_id) not in (select s.digest, s.record_id from sole s)
	`

const admitBound = claimKeys + complete + returnClaimed + admit + complete + returnAdmitted + `, sealed as (
		insert into privault.records (tenant_id, record_id, collection_id, subject_id, version, epoch, sealed,
			created_at, updated_at, expires_at, due_at, digests)
		select $1, r.record_id, r.collection_id, s.subject_id, 1, 0, r.sealed, $2, $2, r.expires_at, r.due_at, r.digests::bytea[]
		from unnest($16::uuid[], $17::uuid[], $18::uuid[], $19::bytea[], $20::timestamptz[], $21::bytea[], $23::timestamptz[], $40::text[])
			as r(record_id, entry_id, collection_id, digest, expires_at, sealed, due_at, digests)
		join admitted using (entry_id)
		left join privault.subjects s on s.tenant_id = $1 and s.digest = r.digest
	), indexed as (
		insert into privault.blind_index (tenant_id, digest, record_id, sole)
		select $1, m.digest, m.record_id, false from marked m join admitted using (entry_id) where m.kind = 1
		on conflict do nothing
	), spaced as (
		insert into privault.alias_spaces as s (tenant_id, digest, used)
		select $1, w.space, count(*) from wanted w join admitted using (entry_id) where w.space is not null
		group by w.space order by w.space
		on conflict (tenant_id, digest) do update set used = s.used + excluded.used
	)`

const complete = ` and f.entry_id not in (select l.entry_id from lacking l)`
