package vault

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// With a keystore of its own, a crash between its commit and that of the data leaves a DEK that no record is sealed under. It opens
// nothing, but it must not stay for ever either: an orphan may be the last copy of a key that was to be shredded.

const (
	// No operation takes so long: what is older and has no record will never have one.
	orphanAge   = 10 * time.Minute
	orphanBatch = 2000
)

// sweepOrphans enqueues the job for every tenant.
func (v *Vault) sweepOrphans(ctx context.Context) error {
	if !v.store.apart {
		return nil
	}
	return v.enqueueFor(ctx, orphanJob, nil)
}

const orphanJob = "sweep-orphan-keys"

// orphanStep looks at a batch of DEKs, in the order of their records, and deletes those that no version of a record is sealed under.
func (v *Vault) orphanStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	at := dekAt{}
	if err := b.resume(&at); err != nil {
		return 0, false, err
	}
	var records []ID
	var versions []int32
	seen, err := b.eachDEK(ctx, &at, orphanBatch, func(_ []byte, created time.Time) error {
		if created.Before(b.now.Add(-orphanAge)) {
			records, versions = append(records, at.Record), append(versions, at.Version)
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	// After the keys were read: a record that has such an old key was there then, and is there now or deleted.
	orphanRecords, orphanVersions, err := b.without(ctx, records, versions)
	if err == nil && len(orphanRecords) > 0 {
		_, err = b.keys.Exec(ctx, `
			delete from keystore.data_keys d using unnest($2::uuid[], $3::int[]) as o(record_id, version)
			where d.tenant_id = $1 and d.record_id = o.record_id and d.version = o.version and d.created_at <= $4`,
			b.who.Tenant, orphanRecords, orphanVersions, b.now.Add(-orphanAge))
	}
	if err != nil {
		return 0, false, err
	}
	return len(orphanRecords), seen == orphanBatch, b.leave(at)
}

// without gives those versions of records, and parts of requests and links, that the data database doesn't have.
func (b *batch) without(ctx context.Context, records []ID, versions []int32) (r []ID, v []int32, err error) {
	//nolint:rowserrcheck // ForEachRow does
	rows, err := b.data.Query(ctx, `
		select k.record_id, k.version from unnest($2::uuid[], $3::int[]) as k(record_id, version)
		where not exists (select from privault.records r
			where r.tenant_id = $1 and r.record_id = k.record_id and r.version = k.version)
		and not exists (select from privault.requests q
			where q.tenant_id = $1 and q.request_id = k.record_id and case k.version when 1 then q.sealed when 2 then q.proposal end is not null)
		and not exists (select from privault.subject_links l where l.tenant_id = $1 and l.link_id = k.record_id and l.sealed is not null)`,
		b.who.Tenant, records, versions)
	if err != nil {
		return nil, nil, err
	}
	var record ID
	var version int32
	_, err = pgx.ForEachRow(rows, []any{&record, &version}, func() error {
		r, v = append(r, record), append(v, version)
		return nil
	})
	return r, v, err
}
