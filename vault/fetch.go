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
}

// fetch reads records with their DEKs.
func (v *Vault) fetch(ctx context.Context, tenant ID, ids []ID) (map[ID]*row, error) {
	f := &fetch{ids: ids}
	g := v.groupsOf(tenant)
	reads := g.reads
	if len(ids) > heavy {
		reads = g.bulkReads
	}
	err := reads.ride(ctx, f, len(ids))
	return f.rows, err
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

// fetchAll is one trip. A record that changed its DEK between the two statements is read once more: its row and its
// key then belong together, or it is gone.
func (v *Vault) fetchAll(ctx context.Context, tenant ID, ids []ID) (map[ID]*row, error) {
	rows := make(map[ID]*row, len(ids))
	for range 2 {
		missing, err := v.fetchInto(ctx, tenant, ids, rows)
		if err != nil || len(missing) == 0 {
			return rows, err
		}
		ids = missing
	}
	return rows, nil
}

func (v *Vault) fetchInto(ctx context.Context, tenant ID, ids []ID, rows map[ID]*row) (missing []ID, err error) {
	found := make(map[ID]*row, len(ids))
	data, keys := &pgx.Batch{}, &pgx.Batch{}
	if !v.store.apart {
		keys = data
	}
	data.Queue(`
		select r.record_id, r.collection_id, c.version, r.version, r.epoch, r.created_at, r.updated_at, r.expires_at, r.sealed
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.record_id = any($2) and (r.expires_at is null or r.expires_at > $3)`,
		tenant, ids, v.now()).Query(func(result pgx.Rows) error {
		for result.Next() {
			r := &row{}
			err := result.Scan(&r.id, &r.collection, &r.schema, &r.version, &r.epoch, &r.created, &r.updated, &r.expires, &r.sealed)
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
	if err := v.store.data.pipeline(ctx, tenant, data); err != nil {
		return nil, err
	}
	if v.store.apart {
		if err := v.store.keys.pipeline(ctx, tenant, keys); err != nil {
			return nil, err
		}
	}
	for id, r := range found {
		if r.wrapped == nil {
			missing = append(missing, id)
			continue
		}
		rows[id] = r
	}
	return missing, nil
}
