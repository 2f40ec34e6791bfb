package vault

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// fetch asks for records by id. Fetches of one tenant ride together (group.go); what isn't found, or has expired, or
// has no DEK any more, is not in rows.
type fetch struct {
	ids  []ID
	rows map[ID]*row // shared by the riders of one trip: not to be changed
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
	wrapped        []byte
	subject        *ID // nil: nobody's
	facts          []subjectFact
}

// fetch reads records with their DEKs.
func (v *Vault) fetch(ctx context.Context, tenant ID, ids []ID) (map[ID]*row, error) {
	f := &fetch{ids: ids}
	g := v.groupsOf(tenant)
	reads := g.reads
	if len(ids) > heavy {
		reads = g.bulkReads
	}
	if err := reads.ride(ctx, f, len(ids)); err != nil {
		return nil, err // the trip may be under way still: rows are its own until it has settled
	}
	return f.rows, nil
}

func (v *Vault) fetchTogether(ctx context.Context, tenant ID, rs []rider[*fetch]) {
	var ids []ID
	asked := map[ID]bool{}
	for _, r := range rs {
		for _, id := range r.cargo.ids {
			if !asked[id] {
				asked[id] = true
				ids = append(ids, id)
			}
		}
	}
	v.metrics.fetchSize.Observe(float64(len(rs)))
	rows, err := v.fetchAll(ctx, tenant, ids)
	for _, r := range rs {
		r.cargo.rows = rows
		r.settle(err)
	}
}

// fetchAll is one trip. A record may get its next DEK between the two statements, so one whose key isn't there is read
// again until the two belong together. It is gone if the same version has no key twice: a version's key outlives its row.
func (v *Vault) fetchAll(ctx context.Context, tenant ID, ids []ID) (map[ID]*row, error) {
	rows := make(map[ID]*row, len(ids))
	without := map[ID]int32{} // the version that was seen without its key
	for len(ids) > 0 {
		keyless, err := v.fetchInto(ctx, tenant, ids, rows)
		if err != nil {
			return nil, err
		}
		ids = nil
		for _, r := range keyless {
			if without[r.id] != r.version {
				without[r.id] = r.version
				ids = append(ids, r.id)
			}
		}
	}
	return rows, nil
}

// fetchInto reads once, and gives the rows that it found no key for.
func (v *Vault) fetchInto(ctx context.Context, tenant ID, ids []ID, rows map[ID]*row) (keyless []*row, err error) {
	found := make(map[ID]*row, len(ids))
	facts := factsOf{}
	data, keys := &pgx.Batch{}, &pgx.Batch{}
	if !v.store.apart {
		keys = data
	}
	data.Queue(`
		select r.record_id, r.collection_id, c.version, r.version, r.epoch, r.created_at, r.updated_at, r.expires_at, r.sealed,
			r.subject_id, `+haveFacts+`
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.record_id = any($2) and (r.expires_at is null or r.expires_at > $3)`,
		tenant, ids, v.now()).Query(func(result pgx.Rows) error {
		for result.Next() {
			r := &row{}
			err := result.Scan(&r.id, &r.collection, &r.schema, &r.version, &r.epoch, &r.created, &r.updated, &r.expires, &r.sealed,
				&r.subject, &facts.any)
			if err != nil {
				return err
			}
			found[r.id] = r
		}
		return result.Err()
	})
	keys.Queue(`
		select record_id, version, wrapped from keystore.data_keys where tenant_id = $1 and record_id = any($2)`,
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
	_, asked := v.withFacts.Load(tenant)
	if asked { // along with the records
		data.Queue(selectFacts+`(select r.subject_id from privault.records r where r.tenant_id = $1 and r.record_id = any($2))`,
			tenant, ids).Query(facts.read)
	}
	if err := v.store.data.pipeline(ctx, tenant, data); err != nil {
		return nil, err
	}
	if facts.any && !asked {
		v.withFacts.Store(tenant, true)
		if err := v.fetchFacts(ctx, tenant, found, &facts); err != nil {
			return nil, err
		}
	}
	facts.spread(found)
	if v.store.apart {
		if err := v.store.keys.pipeline(ctx, tenant, keys); err != nil {
			return nil, err
		}
	}
	for id, r := range found {
		if r.wrapped == nil {
			keyless = append(keyless, r)
			continue
		}
		rows[id] = r
	}
	return keyless, nil
}
