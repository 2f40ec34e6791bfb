package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// The group commit. A change is what an operation decided and sealed; changes of one tenant ride together, as one
// statement in one pipelined round trip and one transaction. The audit entry is the ticket: a change's rows go in only
// if its entry did, in the same statement.

// change is what one operation wants committed: its audit entry, and rows that stand or fall with it.
type change struct {
	entry   *entry
	schema  schemaRef // the zero one: the change doesn't depend on a collection
	claim   *claim    // nil: no Idempotency-Key
	records []newRecord
	aliases []alias  // to be inserted, each once
	relies  []*alias // that must still be there
}

// schemaRef is the version of a collection, and the generation of the tenant's keys, that a change was prepared with.
type schemaRef struct {
	collection ID
	version    int32
	generation int32
}

// claim is an Idempotency-Key that a change wants for itself.
type claim struct {
	digest, request []byte // 32 bytes each: of the key, of the request's body
	answer          []byte // sealed
	rotated         bool   // it may have been made under an older key, which is found only by looking
}

// newRecord is a sealed record, with its wrapped DEK.
type newRecord struct {
	id, collection  ID
	subject         *subjectDigests // nil: none
	expires, due    *time.Time
	sealed, wrapped []byte
	marks           []mark
	listed          [][]byte // digests that must not be on the suppression list
}

func (c *change) weight() int {
	weight := 1 + len(c.records) + len(c.aliases)
	for i := range c.records {
		weight += len(c.records[i].marks)
	}
	return weight
}

// errNotAdmitted says that a change was not committed because its collection has another version by now, or the tenant
// newer keys, its Idempotency-Key is somebody else's, an alias that it relies on is gone, or one that it makes is there already.
var errNotAdmitted = errors.New("change not admitted")

// idempotencyLife is how long an Idempotency-Key is somebody's, and keeps its answer if it has one.
const idempotencyLife = 24 * time.Hour

const (
	// What weighs more, in rows, travels apart, so that a small call never waits behind a large batch.
	heavy = 100
	// Most that one trip carries, in rows: it takes Postgres some milliseconds.
	writeLoad = 2000
	readLoad  = 4000
	tripLimit = 15 * time.Second
)

// lanes are how many trips of one tenant are in flight at once. Small calls gather best in one lane: on two cores one
// carried more than two, three or four (docs/decisions.md). Large batches don't gather; two keep Postgres busy.
func lanes() (light, bulk int) {
	cores := runtime.GOMAXPROCS(0)
	return max(1, cores/2), max(2, cores)
}

// groups are one tenant's.
type groups struct {
	writes, bulkWrites *group[*change]
	reads, bulkReads   *group[*fetch]
}

func (v *Vault) groupsOf(tenant ID) *groups {
	if g, have := v.groups.Load(tenant); have {
		return g.(*groups)
	}
	write := func(ctx context.Context, rs []rider[*change]) { v.commitTogether(ctx, tenant, rs) }
	read := func(ctx context.Context, rs []rider[*fetch]) { v.fetchTogether(ctx, tenant, rs) }
	light, bulk := lanes()
	g, _ := v.groups.LoadOrStore(tenant, &groups{
		writes: newGroup(light, writeLoad, tripLimit, write), bulkWrites: newGroup(bulk, writeLoad, tripLimit, write),
		reads: newGroup(light, readLoad, tripLimit, read), bulkReads: newGroup(bulk, readLoad, tripLimit, read),
	})
	return g.(*groups)
}

func (v *Vault) closeGroups() {
	var wait sync.WaitGroup
	v.groups.Range(func(_, g any) bool {
		all := g.(*groups)
		for _, land := range []func(){all.reads.close, all.bulkReads.close, all.writes.close, all.bulkWrites.close} {
			wait.Go(land)
		}
		return true
	})
	wait.Wait()
}

// commit hands a change to the group commit and returns once it is durable.
func (v *Vault) commit(ctx context.Context, c *change) error {
	v.watcher.see(c.entry)
	g := v.groupsOf(c.entry.who.Tenant)
	if len(c.records) > heavy {
		return g.bulkWrites.ride(ctx, c, c.weight())
	}
	return g.writes.ride(ctx, c, c.weight())
}

// commitTogether commits a group. If the statement fails, each change is tried alone, so that one change's conflict
// never fails its neighbours.
func (v *Vault) commitTogether(ctx context.Context, tenant ID, rs []rider[*change]) {
	changes := make([]*change, len(rs))
	for i, r := range rs {
		changes[i] = r.cargo
	}
	v.metrics.commitSize.Observe(float64(len(changes)))
	admitted, err := v.commitAll(ctx, tenant, changes)
	if err != nil && len(rs) > 1 && (AsError(err).Kind != DatabaseUnavailable || deadlocked(err)) {
		for _, r := range rs {
			admitted, err := v.commitAll(ctx, tenant, []*change{r.cargo})
			r.settle(outcome(r.cargo, admitted, err))
		}
		return
	}
	for _, r := range rs {
		r.settle(outcome(r.cargo, admitted, err))
	}
}

func outcome(c *change, admitted map[ID]bool, err error) error {
	if err == nil && !admitted[c.entry.id] {
		return errNotAdmitted
	}
	if err != nil && len(c.records) == 0 && AsError(err).Kind == Internal {
		return &Error{Kind: AuditUnavailable, cause: err} // it was the entry alone that failed
	}
	return err
}

// commitAll is one trip: the ids of the entries that went in.
func (v *Vault) commitAll(ctx context.Context, tenant ID, changes []*change) (map[ID]bool, error) {
	p, err := newParcel(changes)
	if err != nil {
		return nil, err
	}
	if v.store.apart && len(p.record) > 0 {
		// The keystore first: a DEK without a record is harmless, a record without a DEK is lost.
		if err := v.insertKeys(ctx, tenant, p); err != nil {
			return nil, err
		}
	}
	admitted := make(map[ID]bool, len(changes))
	b := &pgx.Batch{}
	p.queue(b, tenant, v.now(), v.store.apart, func(id ID) { admitted[id] = true })
	return admitted, v.store.data.pipeline(ctx, tenant, b)
}

// parcel is a group's changes as columns, which is how they travel: one array parameter a column.
type parcel struct {
	entry, principal         []ID
	at                       []time.Time
	action, outcome          []string
	body                     [][]byte
	collection               []*ID
	version, generation      []int32
	key, request, answer     [][]byte
	locks                    []int64
	record, recordCollection []ID
	recordEntry              []ID
	subject, sealed, wrapped [][]byte
	expires, due             []*time.Time
	touchedEntry             []ID
	touched, touchedRecord   []ID
	subjects                 newSubjects
	bonds                    bonds
}

func newParcel(changes []*change) (*parcel, error) {
	p := newEmptyParcel(changes)
	for _, c := range changes {
		if err := p.add(c); err != nil {
			return nil, err
		}
	}
	slices.Sort(p.locks)
	p.locks = slices.Compact(p.locks)
	return p, p.subjects.gather(changes)
}

// newEmptyParcel makes room for everything once.
func newEmptyParcel(changes []*change) *parcel {
	n, rows := len(changes), 0
	for _, c := range changes {
		rows += len(c.records)
	}
	return &parcel{
		entry: make([]ID, 0, n), principal: make([]ID, 0, n), at: make([]time.Time, 0, n), action: make([]string, 0, n),
		outcome: make([]string, 0, n), body: make([][]byte, 0, n), collection: make([]*ID, 0, n), version: make([]int32, 0, n), generation: make([]int32, 0, n),
		key: make([][]byte, 0, n), request: make([][]byte, 0, n), answer: make([][]byte, 0, n), locks: make([]int64, 0, n),
		record: make([]ID, 0, rows), recordCollection: make([]ID, 0, rows), recordEntry: make([]ID, 0, rows),
		subject: make([][]byte, 0, rows), sealed: make([][]byte, 0, rows), wrapped: make([][]byte, 0, rows),
		expires: make([]*time.Time, 0, rows), due: make([]*time.Time, 0, rows),
	}
}

func (p *parcel) add(c *change) error {
	body, err := c.entry.body()
	if err != nil {
		return err
	}
	p.entry, p.principal = append(p.entry, c.entry.id), append(p.principal, c.entry.who.Principal)
	p.at, p.body = append(p.at, c.entry.at), append(p.body, body)
	p.action, p.outcome = append(p.action, c.entry.Action), append(p.outcome, c.entry.Outcome)
	var collection *ID
	if c.schema != (schemaRef{}) {
		collection = &c.schema.collection
		p.locks = append(p.locks, collectionLock(*collection))
	}
	p.collection, p.version = append(p.collection, collection), append(p.version, c.schema.version)
	p.generation = append(p.generation, c.schema.generation)
	wanted := claim{}
	if c.claim != nil {
		wanted = *c.claim
	}
	p.key, p.request, p.answer = append(p.key, wanted.digest), append(p.request, wanted.request), append(p.answer, wanted.answer)
	for _, t := range c.entry.touched {
		p.touchedEntry, p.touched, p.touchedRecord = append(p.touchedEntry, c.entry.id), append(p.touched, t.subject), append(p.touchedRecord, t.record)
	}
	for _, r := range c.records {
		p.record, p.recordCollection = append(p.record, r.id), append(p.recordCollection, r.collection)
		p.recordEntry, p.expires = append(p.recordEntry, c.entry.id), append(p.expires, r.expires)
		p.due = append(p.due, r.due)
		p.subject, p.sealed, p.wrapped = append(p.subject, r.subject.primary()), append(p.sealed, r.sealed), append(p.wrapped, r.wrapped)
	}
	p.bonds.add(c)
	return nil
}

// collectionLock is the advisory lock that a commit shares and a change of the collection takes alone.
func collectionLock(id ID) int64 { return int64(binary.BigEndian.Uint64(id[8:])) }

func (p *parcel) queue(b *pgx.Batch, tenant ID, now time.Time, apart bool, admit func(ID)) {
	admitted := func(rows pgx.Rows) error {
		var id ID
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			admit(id)
			return nil
		})
		return err
	}
	// Only entries that nothing can keep out have touched anything: those of changes without records.
	if len(p.touched) > 0 {
		b.Queue(insertDisclosures, tenant, p.touchedEntry, p.touched, p.touchedRecord)
	}
	if len(p.locks) == 0 {
		b.Queue(insertEntries, tenant, p.entry, p.principal, p.at, p.action, p.outcome, p.body).Query(admitted)
		return
	}
	// Its own statement: the next one's snapshot must be taken when the locks are held. That of the keys comes first, as in holdKeys.
	b.Queue(`select pg_advisory_xact_lock_shared(l) from unnest($1::bigint[]) l`, append([]int64{keysLock(tenant)}, p.locks...))
	p.subjects.queue(b, tenant, now)
	keys, wrapped := insertTogetherKeys, p.wrapped
	if apart {
		keys, wrapped = insertNoKeys, nil
	}
	args := []any{tenant, now, p.entry, p.principal, p.at, p.action, p.outcome, p.body, p.collection, p.version,
		p.key, p.request, p.answer, p.generation, now.Add(-idempotencyLife),
		p.record, p.recordEntry, p.recordCollection, p.subject, p.expires, p.sealed, wrapped, p.due}
	if p.bonds.none() {
		b.Queue(insertTogether+keys+`select entry_id from admitted`, args...).Query(admitted)
	} else {
		statement := insertBound
		args = append(args, p.bonds.columns()...)
		if len(p.bonds.listed) > 0 {
			statement = insertUnlisted
			args = append(args, p.bonds.listedEntry, p.bonds.listed)
		}
		b.Queue(statement+keys+returnBound, args...).QueryRow(func(row pgx.Row) error {
			var ids []ID
			var refused string
			err := row.Scan(&ids, &refused)
			for _, id := range ids {
				admit(id)
			}
			return err
		})
	}
	if len(p.bonds.listed) > 0 { // who stays out is nobody
		p.subjects.queueUnused(b, tenant)
	}
	p.bonds.queueRest(b, tenant)
	if len(p.subjects.digests) > 0 {
		b.Queue(insertRecordDisclosures, tenant, p.recordEntry, p.record)
	}
}

func (v *Vault) insertKeys(ctx context.Context, tenant ID, p *parcel) error {
	b := &pgx.Batch{}
	// A retry of one change alone brings its DEKs again.
	b.Queue(`
		insert into keystore.data_keys (tenant_id, record_id, version, wrapped, created_at)
		select $1, r.record_id, 1, r.wrapped, $2 from unnest($3::uuid[], $4::bytea[]) as r(record_id, wrapped)
		on conflict do nothing`, tenant, v.now(), p.record, p.wrapped)
	return v.store.keys.pipeline(ctx, tenant, b)
}

const insertEntries = `
	insert into privault.audit_entries (tenant_id, entry_id, principal_id, at, action, outcome, body)
	select $1, e.* from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[]) as e
	returning entry_id`

// A change is fresh if its collection still has the version that it was prepared with and its keys are of the generation
// in force (generation.go), and admitted if it is fresh and got the Idempotency-Key that it wants, if any.
const insertTogether = freshChanges + claimKeys + returnClaimed + admit + returnAdmitted + `, sealed as (
		insert into privault.records (tenant_id, record_id, collection_id, subject_id, version, epoch, sealed,
			created_at, updated_at, expires_at, due_at)
		select $1, r.record_id, r.collection_id, s.subject_id, 1, 0, r.sealed, $2, $2, r.expires_at, r.due_at
		from unnest($16::uuid[], $17::uuid[], $18::uuid[], $19::bytea[], $20::timestamptz[], $21::bytea[], $23::timestamptz[])
			as r(record_id, entry_id, collection_id, digest, expires_at, sealed, due_at)
		join admitted using (entry_id)
		left join privault.subjects s on s.tenant_id = $1 and s.digest = r.digest
	)`

// The parts of insertTogether and insertBound (bond.go).
const (
	freshChanges = `
	with fresh as (
		select e.* from unnest($3::uuid[], $4::uuid[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
			$9::uuid[], $10::int[], $11::bytea[], $12::bytea[], $13::bytea[], $14::int[])
			as e(entry_id, principal_id, at, action, outcome, body, collection_id, version, digest, request_digest, answer, generation)
		where e.collection_id is null or exists (
			select from privault.collections c
			where c.tenant_id = $1 and c.collection_id = e.collection_id and c.version = e.version)
			and e.generation >= coalesce((select g.generation from privault.key_generations g where g.tenant_id = $1), 0)
	)`
	claimKeys = `, claimed as (
		insert into privault.idempotency_keys as k (tenant_id, digest, request_digest, entry_id, answer, created_at)
		select $1, f.digest, f.request_digest, f.entry_id, f.answer, $2 from fresh f where f.digest is not null`
	returnClaimed = `
		on conflict (tenant_id, digest) do update
			set request_digest = excluded.request_digest, entry_id = excluded.entry_id,
				answer = excluded.answer, created_at = excluded.created_at
			where k.created_at <= $15
		returning k.entry_id
	)`
	admit = `, admitted as (
		insert into privault.audit_entries (tenant_id, entry_id, principal_id, at, action, outcome, body)
		select $1, f.entry_id, f.principal_id, f.at, f.action, f.outcome, f.body from fresh f
		where (f.digest is null or f.entry_id in (select c.entry_id from claimed c))`
	returnAdmitted = `
		returning entry_id
	)`
	// Where the keystore is in the same database.
	insertTogetherKeys = `, keys as (
		insert into keystore.data_keys (tenant_id, record_id, version, wrapped, created_at)
		select $1, r.record_id, 1, r.wrapped, $2 from unnest($16::uuid[], $17::uuid[], $22::bytea[])
			as r(record_id, entry_id, wrapped)
		join admitted using (entry_id)
	) `
	// Where it isn't: the parameter, which is empty then, has a type all the same.
	insertNoKeys = `, keys as (select from unnest($22::bytea[])) `
)
