package vault

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// What an operator should look at. Nothing here changes anything; what opens records leaves an entry.

// Level is how bad a Finding is.
type Level string

// The levels.
const (
	Fine   Level = "ok"
	Warn   Level = "warning"
	Broken Level = "fault"
)

// Finding is what one check found. Its text holds no value.
type Finding struct {
	Level Level
	Check string
	Text  string
}

// Examine looks at what the deployment and its tenants need to work, by cheap questions.
func (v *Vault) Examine(ctx context.Context) (all []Finding, err error) {
	add := func(level Level, check, format string, args ...any) {
		all = append(all, Finding{level, check, fmt.Sprintf(format, args...)})
	}
	if err := v.Ready(ctx); err != nil {
		add(Broken, "ready", "%v", err)
		return all, nil
	}
	add(Fine, "ready", "both databases answer, and the KMS opens the deployment's keys")
	faults, err := v.Faults(ctx)
	if err != nil {
		return nil, err
	}
	for _, text := range slices.Concat(faults.Roles, faults.Durability) {
		add(Broken, "database", "%s", text)
	}
	if err := v.examineClock(ctx, add); err != nil {
		return nil, err
	}
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	for _, tenant := range tenants {
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error { return v.examineTenant(ctx, tx, tenant, add) })
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// The server's clock dates records and expiry, the database's the log's partitions; ids are in the order of the former.
func (v *Vault) examineClock(ctx context.Context, add func(Level, string, string, ...any)) error {
	var theirs time.Time
	before := v.now()
	if err := v.store.data.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&theirs); err != nil {
		return err
	}
	apart := max(before.Sub(theirs), theirs.Sub(v.now()))
	switch {
	case apart > time.Minute:
		add(Broken, "clock", "this machine's clock and the database's are %v apart", apart.Round(time.Second))
	case apart > 2*time.Second:
		add(Warn, "clock", "this machine's clock and the database's are %v apart", apart.Round(time.Millisecond))
	default:
		add(Fine, "clock", "this machine's clock and the database's agree")
	}
	return nil
}

// behindAfter is how old an entry gets, at most, before it has its place in the log: the sequencer runs every second.
const behindAfter = time.Minute

func (v *Vault) examineTenant(ctx context.Context, tx pgx.Tx, tenant ID, add func(Level, string, string, ...any)) error {
	var name string
	var behind, failed, expired, ending int
	now := v.now()
	before, err := newIDAt(now.Add(-behindAfter))
	if err != nil {
		return err
	}
	err = tx.QueryRow(ctx, `
		select (select name from privault.tenants where tenant_id = $1),
			(select count(*) from (select e.entry_id from privault.audit_entries e where e.tenant_id = $1 and e.entry_id < $2 order by e.entry_id desc limit 100) e
				where not exists (select from privault.audit_leaves l where l.tenant_id = $1 and l.entry_id = e.entry_id)),
			(select count(*) from privault.jobs where tenant_id = $1 and state = 'failed' and finished_at > $3::timestamptz - interval '30 days'),
			(select count(*) from (select from privault.records where tenant_id = $1 and expires_at <= $3::timestamptz limit 100000) r),
			(select count(*) from privault.credentials where tenant_id = $1 and revoked_at is null and expires_at > $3::timestamptz and expires_at < $3::timestamptz + interval '14 days')`,
		tenant, before, now).Scan(&name, &behind, &failed, &expired, &ending)
	if err != nil {
		return err
	}
	check := "tenant " + name
	found := 0
	warn := func(n int, level Level, format string) {
		if n > 0 {
			found++
			add(level, check, format, n)
		}
	}
	warn(behind, Broken, "%d of the last 100 audit entries have waited for their place in the log for over a minute: does a server with audit keys run?")
	warn(failed, Warn, "%d jobs failed in the last 30 days: GET /v1/jobs/{job} says why")
	warn(expired, Warn, "%d records have expired and are still stored: unreadable, but not deleted")
	warn(ending, Warn, "%d API keys end within 14 days")
	stale, err := staleOf(ctx, tx, tenant)
	if err != nil {
		return err
	}
	for _, text := range stale {
		found++
		add(Broken, check, "%s", text)
	}
	if found == 0 {
		add(Fine, check, "nothing to look at")
	}
	return nil
}

func staleOf(ctx context.Context, tx pgx.Tx, tenant ID) (texts []string, err error) {
	colls, err := collectionsOf(ctx, tx, tenant)
	for _, c := range colls {
		if names := c.Stale(); len(names) > 0 {
			texts = append(texts, fmt.Sprintf("the collection %s has values that another version normalised, in %s: searches by them are refused until privault keys rotate index has made their indexes anew", c.Name, list(names)))
		}
	}
	return texts, err
}

func collectionsOf(ctx context.Context, tx pgx.Tx, tenant ID) ([]*Collection, error) {
	rows, err := tx.Query(ctx, selectCollections+` order by name`, tenant)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanCollection)
}

// Leak is what whoever reads the database learns of an index by counting: estimates from a sample of its records, with the
// true counts of the digests that these have.
type Leak struct {
	Tenant, Collection, Field, Index string

	Records  int64   // of the collection that have the field
	Sampled  int     // of them
	Distinct int64   // digests
	Top      int64   // records under the most frequent digest
	TopTen   float64 // share of the records under the ten most frequent
	Entropy  float64 // Shannon's, in bits, of a record's digest
	Level    Level
	Advice   string
}

const (
	leakSample = 2000
	// What an index of so many records is not judged by: anything looks skewed.
	leakFewest = 200
)

// IndexLeaks examines the blind indexes of one tenant. It opens a sample of the records to see which digest is of which field,
// keeps no value, and leaves an entry for each collection.
func (v *Vault) IndexLeaks(ctx context.Context, tenant ID) (leaks []Leak, err error) {
	keys, err := v.keyring.of(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var colls []*Collection
	var name string
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) (err error) {
		if err := tx.QueryRow(ctx, `select name from privault.tenants where tenant_id = $1`, tenant).Scan(&name); err != nil {
			return err
		}
		colls, err = collectionsOf(ctx, tx, tenant)
		return err
	})
	for _, c := range colls {
		if !slices.ContainsFunc(c.order, func(f *field) bool { return len(f.index) > 0 }) {
			continue
		}
		e, err := v.open(Caller{Tenant: tenant}, policy.InspectIndexes)
		if err != nil {
			return nil, err
		}
		e.Rule, e.Resources = "operator", []resource{{Collection: c.Name}}
		x := inspection{keys: keys, coll: c, found: map[indexPlace][][]byte{}}
		more, err := x.run(ctx, v, e)
		if err != nil {
			return nil, v.refuse(ctx, e, err)
		}
		if err := v.commit(ctx, &change{entry: e}); err != nil {
			return nil, AsError(err)
		}
		for i := range more {
			more[i].Tenant = name
		}
		leaks = append(leaks, more...)
	}
	return leaks, err
}

// inspection is that of one collection.
type inspection struct {
	keys    *tenantKeys
	coll    *Collection
	records int64
	sampled int
	found   map[indexPlace][][]byte // the digest of each sampled record that has one
}

// indexPlace is an index of a field.
type indexPlace struct {
	field uint16
	index string
}

// run holds no transaction while it computes: all labels of a sample's values take a while.
func (x *inspection) run(ctx context.Context, v *Vault, e *entry) (leaks []Leak, err error) {
	var ids []ID
	err = v.store.data.within(ctx, e.who.Tenant, func(tx pgx.Tx) error {
		ids, err = x.sample(ctx, tx)
		return err
	})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	rows, err := v.fetch(ctx, e.who.Tenant, ids)
	if err != nil {
		return nil, err
	}
	r := v.newReader(x.keys, e)
	r.whole = true // what it counts is stored, due or not
	r.unwrap(ctx, rows)
	for _, row := range rows {
		if err := x.look(ctx, r, row); err != nil {
			return nil, err
		}
	}
	e.Items = x.sampled
	err = v.store.data.within(ctx, e.who.Tenant, func(tx pgx.Tx) error {
		leaks, err = x.count(ctx, tx)
		return err
	})
	return leaks, err
}

// sample picks records at random. It reads the table's pages once, and none of what is sealed.
func (x *inspection) sample(ctx context.Context, tx pgx.Tx) ([]ID, error) {
	err := tx.QueryRow(ctx, `
		select count(*) from privault.records where tenant_id = $1 and collection_id = $2`, x.keys.tenant, x.coll.id).Scan(&x.records)
	if err != nil || x.records == 0 {
		return nil, err
	}
	share := min(100, 100*leakSample/float64(x.records))
	rows, err := tx.Query(ctx, `
		select record_id from privault.records tablesample bernoulli ($3) where tenant_id = $1 and collection_id = $2`, x.keys.tenant, x.coll.id, share)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[ID])
}

// look notes which of a record's digests is of which index.
func (x *inspection) look(ctx context.Context, r *reader, row *row) error {
	o, err := r.open(ctx, row)
	if err != nil {
		return err
	}
	x.sampled++
	for _, f := range o.coll.order {
		plain, err := r.plain(o, uint32(f.number))
		if err != nil {
			return err
		}
		for _, index := range f.index {
			derived, falls := f.derive(index, plain)
			if plain == nil || !falls {
				continue
			}
			all, err := index.digests(x.keys.index, o.coll, f, derived)
			if err != nil {
				return err
			}
			for _, d := range all {
				if has(row.digests, d) {
					at := indexPlace{f.number, index.name}
					x.found[at] = append(x.found[at], d)
				}
			}
		}
	}
	clear(o.plain)
	delete(r.opened, row.id)
	return nil
}

// count asks how many records stand under each digest that was met.
func (x *inspection) count(ctx context.Context, tx pgx.Tx) (leaks []Leak, err error) {
	for _, f := range x.coll.order {
		for _, index := range f.index {
			met := x.found[indexPlace{f.number, index.name}]
			if len(met) == 0 {
				continue
			}
			counts := map[string]int64{}
			var digest []byte
			var n int64
			err := each(ctx, tx, []any{&digest, &n}, func() error {
				counts[string(digest)] = n
				return nil
			}, `select digest, count(*) from privault.blind_index where tenant_id = $1 and digest = any($2) group by digest`, x.keys.tenant, met)
			if err != nil {
				return nil, err
			}
			l := Leak{Collection: x.coll.Name, Field: f.name, Index: index.name, Sampled: len(met),
				Records: int64(math.Round(float64(x.records) * float64(len(met)) / float64(x.sampled)))}
			l.measure(met, counts)
			l.judge(index, f.unique)
			leaks = append(leaks, l)
		}
	}
	return leaks, nil
}

// measure estimates from the sample. A digest of n records is met n times as often as one of a single record.
func (l *Leak) measure(met [][]byte, counts map[string]int64) {
	distinct, entropy := 0.0, 0.0
	for _, d := range met {
		n := float64(max(counts[string(d)], 1))
		distinct += 1 / n
		entropy += math.Log2(float64(max(l.Records, 1)) / n)
	}
	l.Distinct = int64(math.Round(float64(l.Records) * distinct / float64(len(met))))
	l.Entropy = max(entropy/float64(len(met)), 0)
	var all []int64
	for _, n := range counts {
		all = append(all, n)
	}
	slices.Sort(all)
	slices.Reverse(all)
	for i, n := range all {
		if i == 0 {
			l.Top = n
		}
		if i < 10 {
			l.TopTen += float64(n) / float64(max(l.Records, 1))
		}
	}
	l.TopTen, l.Records = min(l.TopTen, 1), max(l.Records, l.Top)
}

// judge says whether the frequencies tell values. The bounds are where the attack of skew_test.go begins to bite.
func (l *Leak) judge(x index, unique bool) {
	l.Level, l.Advice = Fine, "the frequencies tell next to nothing"
	even := float64(l.Records) / float64(max(l.Distinct, 1)) // records of a digest, if all had as many
	switch {
	case l.Records < leakFewest:
		l.Advice = "too few records to judge by"
	case unique:
		l.Advice = "every value is there once"
	case x.mode == bucketed:
		if float64(l.Top) > 4*even {
			l.Level, l.Advice = Warn, "one bucket stands out, and its most frequent value with it: use smoothed"
		}
	case x.mode == smoothed:
		if l.Top > 8 {
			l.Level, l.Advice = Warn, fmt.Sprintf("some labels have %d records and more: give the values more labels", l.Top)
		}
	case l.Distinct < 50:
		l.Level, l.Advice = Warn, fmt.Sprintf("there are %d values: their frequencies alone tell which is which; drop the index", l.Distinct)
	case float64(l.Top) > 10*even && l.TopTen > 0.02:
		l.Level, l.Advice = Warn, "the most frequent values are known by their frequencies: use a mode, such as "+x.kind+"/smoothed:1024"
	}
}
