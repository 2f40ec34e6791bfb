package vault

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// After a rotation of keys that digests are made with, a job makes the digests anew, record by record: it opens what they are
// digests of, and changes nothing of the record but what leads to it. Until it is done everything is looked for under the old
// keys too, and resolves.

const redigestJob = "redigest"

// redigestAt is where the job is: behind this record, with that version of the keyset.
type redigestAt struct {
	Record  ID  `json:"record"`
	Version int `json:"version"`
}

// redigestAt gives the keyset that the job is about, and where it is with these keys.
func (b *batch) redigestAt(keys *tenantKeys) (name string, at redigestAt, err error) {
	var p keysetParams
	if err := errors.Join(b.read(&p), b.resume(&at)); err != nil {
		return "", at, err
	}
	if newest := keys.versions[p.Keyset]; at.Version < newest {
		at = redigestAt{Version: newest} // from the beginning: what was done is under an older key again
	}
	return p.Keyset, at, nil
}

// redigestBatch is how many records a batch holds still.
const redigestBatch = 100

// digested says which records have something that a keyset's keys made.
func digested(keysetName string) string {
	if keysetName == "pseudonym" {
		return `r.subject_id is not null`
	}
	return `r.digests is not null`
}

func (v *Vault) redigestCount(ctx context.Context, b *batch) (n int64, err error) {
	var p keysetParams
	if err := b.read(&p); err != nil {
		return 0, err
	}
	err = b.data.QueryRow(ctx, `
		select count(*) from privault.records r where r.tenant_id = $1 and `+digested(p.Keyset), b.who.Tenant).Scan(&n)
	return n, err
}

// redigestAhead has the KMS unwrap the DEKs that it has wrapped itself of the records that come next.
func (v *Vault) redigestAhead(ctx context.Context, b *batch) error {
	name, at, err := b.redigestAt(b.ring)
	if err != nil {
		return err
	}
	r := v.newReader(b.ring, nil)
	r.ahead, r.whole = true, true
	b.found = r
	var ids []ID
	rows := map[ID]*row{}
	err = v.store.data.within(ctx, b.tenant, func(tx pgx.Tx) error {
		next, err := tx.Query(ctx, `
			select n.record_id, n.version from (
				select r.record_id, r.version, r.collection_id from privault.records r
				where r.tenant_id = $1 and r.record_id > $2 and `+digested(name)+` order by r.record_id limit $3) n
			join privault.collections c on c.tenant_id = $1 and c.collection_id = n.collection_id and c.definition->>'kms' = $4`,
			b.tenant, at.Record, redigestBatch, kmsDirect)
		if err != nil {
			return err
		}
		_, err = pgx.CollectRows(next, func(found pgx.CollectableRow) (*row, error) {
			r := &row{}
			err := found.Scan(&r.id, &r.version)
			ids, rows[r.id] = append(ids, r.id), r
			return r, err
		})
		return err
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	deks := &pgx.Batch{}
	queueKeys(deks, b.tenant, ids, rows)
	if err := v.store.keys.pipeline(ctx, b.tenant, deks); err != nil {
		return err
	}
	r.unwrap(ctx, rows)
	return nil
}

// redigestStep brings the digests of a batch of records under the primary keys, and, after a rotation of FPE keys, issues new
// tokens.
func (v *Vault) redigestStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	keys, err := b.holdKeys(ctx, b.ring)
	if err != nil {
		return 0, false, err
	}
	name, at, err := b.redigestAt(keys)
	if err != nil {
		return 0, false, err
	}
	rows, err := b.nextRecords(ctx, at.Record, name, redigestBatch)
	if err != nil {
		return 0, false, err
	}
	if len(rows) == 0 { // all that there is was done by batches that are durable
		if name == "index" {
			err = b.normalisedAnew(ctx)
		}
		return 0, false, errors.Join(err, b.settle(ctx, name, at.Version))
	}
	r := b.found.(*reader)
	r.keys, r.entry = keys, b.entry
	all := make([]*rebinding, 0, len(rows))
	for i, row := range rows {
		if row.wrapped == nil {
			continue // erased: nothing leads to it any more, and a job clears it away
		}
		o, err := r.open(ctx, row)
		if errors.Is(err, errNotAhead) { // the next batch begins with it
			rows = rows[:i]
			break
		}
		if err != nil {
			return 0, false, err
		}
		all = append(all, &rebinding{opened: o})
	}
	if name == "pseudonym" {
		err = r.moveSubjects(ctx, b.txn, all)
	} else {
		err = r.redigest(ctx, b.txn, all, name == "fpe")
	}
	if err != nil {
		return 0, false, err
	}
	if len(rows) > 0 {
		at.Record = rows[len(rows)-1].id
	}
	return len(rows), true, b.leave(at)
}

// redigest binds records anew to the values that they have.
func (r *reader) redigest(ctx context.Context, t *txn, all []*rebinding, reissue bool) error {
	for _, m := range all {
		for _, box := range m.boxes {
			if f := m.coll.byNumber(box.Field); f == nil || !f.bound() {
				continue
			}
			plain, err := r.plain(m.opened, box.Field)
			if err != nil {
				return err
			}
			m.values = append(m.values, value{box.Field, plain})
		}
		m.values = bindable(m.values, m.row.generalised)
	}
	if err := r.rebind(ctx, t, all, reissue); err != nil {
		return err
	}
	var records []ID
	var digests []*string
	for _, m := range all {
		if !sameDigests(m.row.digests, digestsOf(m.bound.marks)) {
			records, digests = append(records, m.row.id), append(digests, arrayText(m.bound.marks))
		}
	}
	if len(records) == 0 {
		return nil
	}
	_, err := t.data.Exec(ctx, `
		update privault.records r set digests = n.digests::bytea[] from unnest($2::uuid[], $3::text[]) as n(record_id, digests)
		where r.tenant_id = $1 and r.record_id = n.record_id`, t.who.Tenant, records, digests)
	return err
}

func sameDigests(a, b [][]byte) bool {
	return len(a) == len(b) && len(without(a, b)) == 0
}

// moveSubjects brings the persons whose records they are under the primary key.
func (r *reader) moveSubjects(ctx context.Context, t *txn, all []*rebinding) error {
	var n newSubjects
	seen := map[string]bool{} // by reference: a person may have several
	for _, m := range all {
		reference, err := r.plain(m.opened, subjectField)
		if err != nil {
			return err
		}
		if seen[string(reference)] {
			continue
		}
		seen[string(reference)] = true
		s, err := r.keys.subject(string(reference))
		if err != nil {
			return err
		}
		n.supersede(s)
	}
	b := &pgx.Batch{}
	n.queueMoves(b, t.who.Tenant)
	return t.data.SendBatch(ctx, b).Close()
}

// nextRecords reads the next records behind an id that have something of a keyset's, expired ones too. One without a DEK was
// erased. They, and erasures of their persons, are kept from changing until the transaction ends; but not to bring persons
// under a new key: that changes no record, and locks the persons alone.
func (t *txn) nextRecords(ctx context.Context, after ID, keysetName string, limit int) (all []*row, err error) {
	lock := ` for update of r`
	if keysetName == "pseudonym" {
		lock = ``
	} else if _, err := t.data.Exec(ctx, `
		select from privault.subjects where tenant_id = $1 and subject_id in (
			select r.subject_id from privault.records r where r.tenant_id = $1 and r.record_id > $2 and `+digested(keysetName)+` order by r.record_id limit $3)
		and link_id is null order by digest for key share`, t.who.Tenant, after, limit); err != nil {
		// The persons first, as whoever erases them does.
		return nil, err
	}
	rows, err := t.data.Query(ctx, `
		select r.record_id, r.subject_id, r.collection_id, c.version, r.version, r.epoch, r.sealed, r.digests, r.generalised
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.record_id > $2 and `+digested(keysetName)+` order by r.record_id limit $3`+lock, t.who.Tenant, after, limit)
	if err != nil {
		return nil, err
	}
	all, err = pgx.CollectRows(rows, func(found pgx.CollectableRow) (*row, error) {
		r := &row{}
		return r, found.Scan(&r.id, &r.subject, &r.collection, &r.schema, &r.version, &r.epoch, &r.sealed, &r.digests, &r.generalised)
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	byID, ids, subjects := map[ID]*row{}, make([]ID, len(all)), make([]*ID, len(all))
	for i, r := range all {
		byID[r.id], ids[i], subjects[i] = r, r.id, r.subject
	}
	if lock != `` { // somebody's whose record came in between
		if _, err := t.data.Exec(ctx, `
			select from privault.subjects where tenant_id = $1 and subject_id = any($2) and link_id is null order by digest for key share`, t.who.Tenant, subjects); err != nil {
			return nil, err
		}
	}
	// When nobody can erase any of them any more.
	b := &pgx.Batch{}
	queueKeys(b, t.who.Tenant, ids, byID)
	return all, t.keys.SendBatch(ctx, b).Close()
}

// settle notes that nothing is left that a keyset's older keys made, as far as a job can know.
func (b *batch) settle(ctx context.Context, name string, version int) error {
	_, err := b.keys.Exec(ctx, `
		update keystore.key_versions k set settled_at = $3 where k.tenant_id = $1 and k.name = $2 and k.settled_at is null
			and k.version <= $4`, b.who.Tenant, name, b.now, version)
	return err
}

// finishRotations enqueues the jobs of rotations that are not settled and have none: one that failed for good, or, with a keystore
// of its own, one that a crash between the two commits has kept from being enqueued.
func (v *Vault) finishRotations(ctx context.Context) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		var names []string
		err := v.store.keys.within(ctx, tenant, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `
				select name from keystore.key_versions where tenant_id = $1 and version > 1 group by name
				having max(version) > coalesce(max(version) filter (where settled_at is not null), 0)`, tenant)
			if err != nil {
				return err
			}
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			if remaking[name] == "" {
				continue
			}
			_, err := v.sweep(ctx, tenant, func(t *txn) (int64, error) { return 0, t.enqueueUnless(ctx, remaking[name], keysetParams{name}) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// enqueueUnless makes a job unless it is there, unfinished.
func (t *txn) enqueueUnless(ctx context.Context, kind string, params keysetParams) error {
	var there bool
	err := t.data.QueryRow(ctx, `
		select exists (select from privault.jobs where tenant_id = $1 and kind = $2 and params->>'keyset' = $3 and finished_at is null)`,
		t.who.Tenant, kind, params.Keyset).Scan(&there)
	if err == nil && !there {
		_, err = t.enqueue(ctx, kind, params)
	}
	return err
}
