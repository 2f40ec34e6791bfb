package vault

import (
	"time"

	"github.com/jackc/pgx/v5"
)

// The part of a trip that reads aliases and what else stands beside records.
//
// Rows are looked up one by one, as each is, in lateral sub-queries that "offset 0" keeps apart. As "= any", or joined, they would
// be planned while the tables are small by reading all that the tenant has, and a connection keeps its plans.

const aliasColumns = `a.text_digest, a.value_digest, a.collection_id, a.field, a.record_id, a.generation, a.key_version, a.sealed_text, a.space`

// scan reads aliasColumns, and what follows them, of the current row.
func (a *alias) scan(rows pgx.Rows, more ...any) error {
	return rows.Scan(append([]any{&a.text, &a.value, &a.collection, &a.field, &a.record, &a.generation, &a.keyVersion, &a.sealed, &a.space}, more...)...)
}

func (f *found) queueAliases(b *pgx.Batch, tenant ID, now time.Time, a *ask) {
	if len(a.values) > 0 {
		f.byValue = map[string][]*alias{}
		b.Queue(`
			select `+aliasColumns+` from unnest($2::bytea[]) y(digest) cross join lateral (
				select `+aliasColumns+` from privault.aliases a where a.tenant_id = $1 and a.value_digest = y.digest offset 0) a`,
			tenant, a.values).Query(eachAlias(func(have *alias, rows pgx.Rows) error {
			if err := have.scan(rows); err != nil {
				return err
			}
			f.byValue[string(have.value)] = append(f.byValue[string(have.value)], have)
			return nil
		}))
	}
	if len(a.texts) > 0 {
		f.byText = map[string]*alias{}
		b.Queue(`
			select `+aliasColumns+`, coalesce(a.record_id, (
				select r.record_id from privault.blind_index i join privault.records r on r.tenant_id = $1 and r.record_id = i.record_id
				where i.tenant_id = $1 and i.digest = a.value_digest and (r.expires_at is null or r.expires_at > $3) and (r.due_at is null or r.due_at > $3)
				limit 1), (
				select r.record_id from privault.blind_index i join privault.records r on r.tenant_id = $1 and r.record_id = i.record_id
				where i.tenant_id = $1 and i.digest = a.value_digest and (r.expires_at is null or r.expires_at > $3)
				limit 1))
			from unnest($2::bytea[]) y(digest) cross join lateral (
				select `+aliasColumns+` from privault.aliases a where a.tenant_id = $1 and a.text_digest = y.digest offset 0) a`, tenant, a.texts, now).Query(eachAlias(func(have *alias, rows pgx.Rows) error {
			if err := have.scan(rows, &have.holder); err != nil {
				return err
			}
			f.byText[string(have.text)] = have
			return nil
		}))
	}
	f.queueMore(b, tenant, a)
}

func (f *found) queueMore(b *pgx.Batch, tenant ID, a *ask) {
	if len(a.soles) > 0 {
		f.taken = map[string]bool{}
		b.Queue(`
			select y.digest from unnest($2::bytea[]) y(digest)
			where (select true from privault.blind_index i where i.tenant_id = $1 and i.digest = y.digest and i.sole limit 1)`, tenant, a.soles).Query(func(rows pgx.Rows) error {
			var digest []byte
			_, err := pgx.ForEachRow(rows, []any{&digest}, func() error {
				f.taken[string(digest)] = true
				return nil
			})
			return err
		})
	}
	if len(a.spaces) > 0 {
		f.used = map[string]int64{}
		b.Queue(`
			select s.digest, s.used from unnest($2::bytea[]) y(digest) cross join lateral (
				select s.digest, s.used from privault.alias_spaces s where s.tenant_id = $1 and s.digest = y.digest offset 0) s`, tenant, a.spaces).Query(func(rows pgx.Rows) error {
			var digest []byte
			var used int64
			_, err := pgx.ForEachRow(rows, []any{&digest, &used}, func() error {
				f.used[string(digest)] = used
				return nil
			})
			return err
		})
	}
	if len(a.shared) > 0 {
		f.shared = map[ID][]*alias{}
		b.Queue(`
			select `+aliasColumns+`, r.record_id
			from unnest($2::uuid[]) y(record_id) cross join lateral (
				select r.record_id, r.digests from privault.records r where r.tenant_id = $1 and r.record_id = y.record_id offset 0) r
			cross join lateral unnest(r.digests) d(digest) cross join lateral (
				select `+aliasColumns+` from privault.aliases a where a.tenant_id = $1 and a.value_digest = d.digest offset 0) a`, tenant, unique(a.shared)).Query(eachAlias(func(have *alias, rows pgx.Rows) error {
			var id ID
			if err := have.scan(rows, &id); err != nil {
				return err
			}
			f.shared[id] = append(f.shared[id], have)
			return nil
		}))
	}
}

// share gives the records that were found the aliases of their values.
func (f *found) share() {
	for id, aliases := range f.shared {
		if r := f.rows[id]; r != nil {
			r.aliases = aliases
		}
	}
}

// eachAlias reads rows one by one, each into an alias of its own.
func eachAlias(read func(*alias, pgx.Rows) error) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			if err := read(&alias{}, rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// ofField is the newest alias of a field's value.
func (r *row) ofField(number uint16) *alias {
	var have *alias
	for _, a := range r.aliases {
		if a.field == number {
			have = newest(have, a)
		}
	}
	return have
}

// leads says whether the record still has what an alias stands for.
func (r *row) leads(a *alias) bool {
	want := a.value
	if want == nil {
		want = a.text
	}
	return has(r.digests, want)
}
