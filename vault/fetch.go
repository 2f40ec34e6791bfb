package vault

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// ask is what an operation wants to know of the database. Asks of one tenant ride together (group.go).
type ask struct {
	ids    []ID     // of records, with their DEKs: what isn't found, or has expired, or has no DEK any more, is not there
	shared []ID     // of records whose values' aliases are wanted
	values [][]byte // digests of values whose aliases are wanted
	texts  [][]byte // digests of texts whose aliases are wanted, with a live record that each leads to
	soles  [][]byte // digests of values that only one record may have: which are taken
	spaces [][]byte // digests of the texts that fields can have: how many are taken
	query  func(*pgx.Batch)
}

// found is what a trip brings: shared by its riders, and not to be changed. Only the map of rows is each rider's own, with those that it
// asked for: it may go on to ask a KMS for all their keys.
type found struct {
	rows    map[ID]*row
	byValue map[string][]*alias // by value digest
	byText  map[string]*alias   // by text digest
	taken   map[string]bool     // of soles
	used    map[string]int64
	shared  map[ID][]*alias // by record: of its values

	generation int32 // of the tenant's keys, after digests were looked for (generation.go)
}

// fetch is an ask on its way. Its results are its own until the trip has settled.
type fetch struct {
	ask
	found *found
}

// row is a record as it is stored.
type row struct {
	id, collection ID
	schema         int32 // version of the collection when the row was read
	version, epoch int32
	created        time.Time
	updated        time.Time
	expires        *time.Time
	sealed         []byte
	digests        [][]byte
	revealed       *time.Time
	generalised    []int16
	heard          bool // somebody wants to hear of its correction; only of openForUpdate
	wrapped        []byte
	subject        *ID // nil: nobody's
	facts          []subjectFact
	aliases        []*alias // of its values, if they were asked for
}

func (a *ask) weight() int {
	return 1 + len(a.ids) + len(a.shared) + len(a.values) + len(a.texts) + len(a.soles)
}

// fetch reads records with their DEKs.
func (v *Vault) fetch(ctx context.Context, tenant ID, ids []ID) (map[ID]*row, error) {
	found, err := v.look(ctx, tenant, ask{ids: ids})
	if err != nil {
		return nil, err
	}
	return found.rows, nil
}

// look answers an ask.
func (v *Vault) look(ctx context.Context, tenant ID, a ask) (*found, error) {
	f := &fetch{ask: a}
	g := v.groupsOf(tenant)
	reads, weight := g.reads, a.weight()
	if weight > heavy {
		reads = g.bulkReads
	}
	if err := reads.ride(ctx, f, weight); err != nil {
		return nil, err // the trip may be under way still: what it found is its own until it has settled
	}
	return f.found, nil
}

func (v *Vault) fetchTogether(ctx context.Context, tenant ID, rs []rider[*fetch]) {
	v.metrics.fetchSize.Observe(float64(len(rs)))
	var together ask
	var queries []func(*pgx.Batch)
	for _, r := range rs {
		a := r.cargo.ask
		if a.query != nil {
			queries = append(queries, a.query)
		}
		if len(rs) == 1 {
			together = a
			break
		}
		together.ids = append(together.ids, a.ids...)
		together.shared = append(together.shared, a.shared...)
		together.values = append(together.values, a.values...)
		together.texts = append(together.texts, a.texts...)
		together.soles = append(together.soles, a.soles...)
		together.spaces = append(together.spaces, a.spaces...)
	}
	if len(rs) > 1 {
		for _, digests := range []*[][]byte{&together.values, &together.texts, &together.soles, &together.spaces} {
			*digests = distinct(*digests)
		}
	}
	found, err := v.lookAll(ctx, tenant, together, queries)
	for _, r := range rs {
		if r.cargo.found = found; err == nil && len(rs) > 1 {
			r.cargo.found = found.of(r.cargo.ids)
		}
		r.settle(err)
	}
}

// of is what one rider has of it.
func (f *found) of(ids []ID) *found {
	own := *f
	own.rows = make(map[ID]*row, len(ids))
	for _, id := range ids {
		if r := f.rows[id]; r != nil {
			own.rows[id] = r
		}
	}
	return &own
}

// lookAll is one trip. A record may get its next DEK between two statements, so one whose key isn't there is read
// again until the two belong together. It is gone if the same version has no key twice: a version's key outlives its row.
func (v *Vault) lookAll(ctx context.Context, tenant ID, a ask, queries []func(*pgx.Batch)) (*found, error) {
	f := &found{}
	data := &pgx.Batch{}
	now := v.now()
	for _, queue := range queries {
		queue(data)
	}
	f.queueAliases(data, tenant, now, &a)
	if len(a.texts) > 0 || len(queries) > 0 {
		data.Queue(selectGeneration, tenant).QueryRow(func(row pgx.Row) error { return row.Scan(&f.generation) })
	}
	ids := unique(a.ids)
	without := map[ID]int32{} // the version that was seen without its key
	for first := true; len(ids) > 0 || first && len(data.QueuedQueries) > 0; first = false {
		rows, keyless, err := v.fetchOnce(ctx, tenant, data, ids)
		if err != nil {
			return nil, err
		}
		if f.rows == nil {
			f.rows = rows
		} else {
			maps.Copy(f.rows, rows)
		}
		ids, data = nil, &pgx.Batch{}
		for _, r := range keyless {
			if without[r.id] != r.version {
				without[r.id] = r.version
				ids = append(ids, r.id)
			}
		}
	}
	f.share()
	return f, nil
}

// distinct are the digests, each once, sorted.
func distinct(digests [][]byte) [][]byte {
	slices.SortFunc(digests, bytes.Compare)
	return slices.CompactFunc(digests, bytes.Equal)
}

// unique are the ids, each once, in the order of the indexes that they are looked up in: neighbours are on the same pages.
func unique(ids []ID) []ID {
	once := slices.Clone(ids) // they are a caller's own
	slices.SortFunc(once, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(once)
}

// fetchOnce reads records once, with what else is queued, and gives apart the rows that it found no key for.
func (v *Vault) fetchOnce(ctx context.Context, tenant ID, data *pgx.Batch, ids []ID) (found map[ID]*row, keyless []*row, err error) {
	if len(ids) == 0 {
		return nil, nil, v.store.data.pipeline(ctx, tenant, data)
	}
	found = make(map[ID]*row, len(ids))
	facts, keys := factsOf{}, &pgx.Batch{}
	if !v.store.apart {
		keys = data
	}
	queueRecords(data, tenant, v.now(), ids, found, &facts)
	queueKeys(keys, tenant, ids, found)
	_, asked := v.withFacts.Load(tenant)
	if asked { // along with the records
		data.Queue(selectFacts, tenant, ids).Query(facts.read)
	}
	if err := v.store.data.pipeline(ctx, tenant, data); err != nil {
		return nil, nil, err
	}
	if facts.any && !asked {
		v.withFacts.Store(tenant, true)
		if err := v.fetchFacts(ctx, tenant, found, &facts); err != nil {
			return nil, nil, err
		}
	}
	facts.spread(found)
	if v.store.apart {
		if err := v.store.keys.pipeline(ctx, tenant, keys); err != nil {
			return nil, nil, err
		}
	}
	for id, r := range found {
		if r.wrapped == nil {
			keyless = append(keyless, r)
			delete(found, id)
		}
	}
	return found, keyless, nil
}

const recordColumns = `r.record_id, r.collection_id, r.version, r.epoch, r.created_at, r.updated_at, r.expires_at, r.sealed, r.digests,
	r.revealed_at, r.generalised, r.subject_id`

func queueRecords(b *pgx.Batch, tenant ID, now time.Time, ids []ID, found map[ID]*row, facts *factsOf) {
	b.Queue(`
		select `+recordColumns+`, c.version, `+haveFacts+`
		from unnest($2::uuid[]) y(record_id) cross join lateral (
			select `+recordColumns+` from privault.records r where r.tenant_id = $1 and r.record_id = y.record_id offset 0) r
		join privault.collections c on c.tenant_id = $1 and c.collection_id = r.collection_id
		where r.expires_at is null or r.expires_at > $3`,
		tenant, ids, now).Query(func(result pgx.Rows) error {
		for result.Next() {
			r := &row{}
			err := result.Scan(&r.id, &r.collection, &r.version, &r.epoch, &r.created, &r.updated, &r.expires, &r.sealed,
				&r.digests, &r.revealed, &r.generalised, &r.subject, &r.schema, &facts.any)
			if err != nil {
				return err
			}
			found[r.id] = r
		}
		return result.Err()
	})
}

func queueKeys(b *pgx.Batch, tenant ID, ids []ID, found map[ID]*row) {
	b.Queue(`
		select k.record_id, k.version, k.wrapped from unnest($2::uuid[]) y(record_id) cross join lateral (
			select k.record_id, k.version, k.wrapped from keystore.data_keys k where k.tenant_id = $1 and k.record_id = y.record_id offset 0) k`,
		tenant, ids).Query(func(result pgx.Rows) error {
		var id ID
		var version int32
		var wrapped []byte
		for result.Next() {
			if err := result.Scan(&id, &version, &wrapped); err != nil {
				return err
			}
			if r := found[id]; r != nil && r.version == version {
				r.wrapped = wrapped
				wrapped = nil
			}
		}
		return result.Err()
	})
}
