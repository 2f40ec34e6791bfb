package vault

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/seal"
)

// A subject is the person whose data it is. Outside it goes by the owner's references, one or several (link.go); in the database by a
// random id, which privault.subjects finds by a keyed digest of a reference. The references themselves are only sealed inside what
// belongs to the person.
//
// Who locks the row of one reference keeps the person from being erased or made one with another. An erasure, and who makes two one, lock
// the rows of all references, in the order of the digests.
var subjectReference = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

func checkSubject(subject, at string) error {
	if rule, yes := datatype.LooksLikePII(subject); yes {
		return &Error{Kind: LooksLikePII, Detail: "a subject is an opaque reference, not personal data", Fields: []FieldError{{at, rule}}}
	}
	if !subjectReference.MatchString(subject) {
		return invalid(at, "subject", "a subject is 1 to 128 of A-Z a-z 0-9 . _ : -")
	}
	return nil
}

// subjectDigests are what a subject is found by: digests of the reference under every key, the primary one first.
type subjectDigests struct{ all [][]byte }

// subject makes them.
func (k *tenantKeys) subject(reference string) (*subjectDigests, error) {
	all, err := allDigests(k.pseudonym, textOf("subject", reference))
	return &subjectDigests{all}, err
}

// primary is the digest that a new subject gets; nil for nobody.
func (s *subjectDigests) primary() []byte {
	if s == nil {
		return nil
	}
	return s.all[0]
}

// newSubjects are the subjects of a group of changes, as columns.
type newSubjects struct {
	digests    [][]byte
	generation []int32 // of the keys that the digest was made with
	ids        []ID    // for those that are new

	was, is [][]byte // digests under older keys, and what they become
}

func (n *newSubjects) gather(changes []*change) error {
	generation := map[string]int32{}
	for _, c := range changes {
		for i := range c.records {
			s := c.records[i].subject
			if s == nil {
				continue
			}
			is := s.primary()
			if _, have := generation[string(is)]; !have {
				n.digests = append(n.digests, is)
				n.supersede(s)
			}
			generation[string(is)] = max(generation[string(is)], c.schema.generation)
		}
	}
	// In one order, so that two groups that bring the same new subjects wait for each other and don't deadlock.
	slices.SortFunc(n.digests, slices.Compare)
	for _, d := range n.digests {
		id, err := newID()
		if err != nil {
			return err
		}
		n.ids, n.generation = append(n.ids, id), append(n.generation, generation[string(d)])
	}
	return nil
}

// supersede notes what the digests of a subject under older keys become.
func (n *newSubjects) supersede(s *subjectDigests) {
	for _, was := range s.all[1:] {
		n.was, n.is = append(n.was, was), append(n.is, s.primary())
	}
}

// queueMoves brings subjects, their requests, and the erasures of those who were erased, under the primary key.
func (n *newSubjects) queueMoves(b *pgx.Batch, tenant ID) {
	if len(n.was) > 0 {
		// In one order, whoever comes with whom: the updates would lock in whatever order they find.
		b.Queue(`select from privault.subjects where tenant_id = $1 and digest = any($2) order by digest for update`, tenant, n.was)
		b.Queue(moveSubjects, tenant, n.was, n.is)
		b.Queue(moveErasures, tenant, n.was, n.is)
		b.Queue(moveErasureReferences, tenant, n.was, n.is)
		b.Queue(moveRequests, tenant, n.was, n.is)
	}
}

func (n *newSubjects) queue(b *pgx.Batch, tenant ID, now time.Time) {
	n.queueMoves(b, tenant)
	if len(n.digests) > 0 {
		b.Queue(insertSubjects, tenant, n.digests, n.ids, now, n.generation)
	}
}

// queueUnused takes back those whom this trip made, and none of whose records it stored.
func (n *newSubjects) queueUnused(b *pgx.Batch, tenant ID) {
	if len(n.ids) > 0 {
		b.Queue(`
			delete from privault.subjects s where s.tenant_id = $1 and s.subject_id = any($2)
				and not exists (select from privault.records r where r.tenant_id = $1 and r.subject_id = s.subject_id)`, tenant, n.ids)
	}
}

const (
	moveSubjects = `
	update privault.subjects s set digest = m.is_now from unnest($2::bytea[], $3::bytea[]) as m(was, is_now)
	where s.tenant_id = $1 and s.digest = m.was
		and not exists (select from privault.subjects o where o.tenant_id = $1 and o.digest = m.is_now)`
	moveErasures = `
	update privault.erasures e set digest = m.is_now from unnest($2::bytea[], $3::bytea[]) as m(was, is_now)
	where e.tenant_id = $1 and e.digest = m.was`
	moveErasureReferences = `
	update privault.erasure_references e set digest = m.is_now from unnest($2::bytea[], $3::bytea[]) as m(was, is_now)
	where e.tenant_id = $1 and e.digest = m.was
		and not exists (select from privault.erasure_references o where o.tenant_id = $1 and o.digest = m.is_now and o.erasure_id = e.erasure_id)`
	moveRequests = `
	update privault.requests r set digest = m.is_now from unnest($2::bytea[], $3::bytea[]) as m(was, is_now)
	where r.tenant_id = $1 and r.digest = m.was`
)

// A subject that is there is locked and not changed (a conflict's action locks its row even where its condition fails):
// whoever erases the person waits for this commit, and this one for whoever is at it, and then makes the person anew.
// Who doesn't know the newest keys makes none: the person may be there under one of them.
const insertSubjects = `
	insert into privault.subjects (tenant_id, digest, subject_id, created_at)
	select $1, s.digest, s.subject_id, $4 from unnest($2::bytea[], $3::uuid[], $5::int[]) as s(digest, subject_id, generation)
	where s.generation >= coalesce((select g.generation from privault.key_generations g where g.tenant_id = $1), 0)
	on conflict (tenant_id, digest) do update set created_at = excluded.created_at where false`

// ensureSubject gives a subject's id, which it makes if there is none yet, and locks the subject against erasure until the
// transaction ends.
func (t *txn) ensureSubject(ctx context.Context, keys *tenantKeys, reference string) (id ID, err error) {
	if keys, err = t.holdKeys(ctx, keys); err != nil {
		return id, err
	}
	s, err := keys.subject(reference)
	if err != nil {
		return id, err
	}
	if id, err = newID(); err != nil {
		return id, err
	}
	n := newSubjects{digests: [][]byte{s.primary()}, generation: []int32{keys.generation}, ids: []ID{id}}
	n.supersede(s)
	b := &pgx.Batch{}
	n.queue(b, t.who.Tenant, t.now)
	b.Queue(`select subject_id from privault.subjects where tenant_id = $1 and digest = $2`, t.who.Tenant, s.primary()).
		QueryRow(func(row pgx.Row) error { return row.Scan(&id) })
	return id, t.data.SendBatch(ctx, b).Close()
}

// SubjectMap is what is held of a person: where, how much, and under which tokens. It holds no value.
type SubjectMap struct {
	Created      time.Time
	Jurisdiction string // empty: not said
	Collections  []SubjectCollection
	Records      []SubjectRecord // a page of them, oldest first
}

// SubjectCollection counts what one collection holds of a person.
type SubjectCollection struct {
	Name    string
	Records int
	Fields  map[string]int // records that hold a value of the field
}

// SubjectRecord is one record of a person.
type SubjectRecord struct {
	Collection string
	Record     string
	Tokens     map[string]string
	Created    time.Time
	Held       bool // by a legal hold
}

// GetSubject says what is held of a person, with up to limit of the records from cursor on.
func (v *Vault) GetSubject(ctx context.Context, who Caller, reference, cursor string, limit int) (m *SubjectMap, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadSubject, err)
	}
	var e *entry
	var bound map[ID]int
	err = v.within(ctx, who, policy.ReadSubject, func(t *txn) error {
		s, err := t.requireSubject(ctx, keys, reference, policy.ReadSubject)
		if err != nil {
			return err
		}
		list := "subject/" + formatID(subjectPrefix, s.id)
		after, err := keys.openCursor(list, cursor)
		if err != nil {
			return err
		}
		m, e = &SubjectMap{Created: s.created}, t.entry
		if m.Jurisdiction, err = t.jurisdictionOf(ctx, s.id); err != nil {
			return err
		}
		if next, bound, err = v.mapSubject(ctx, t, keys, s.id, after, limit, m); err == nil && next != "" {
			next, err = keys.sealCursor(list, next)
		}
		return err
	})
	if err == nil {
		// Not in the transaction: a record's key may have to be asked of the KMS.
		if err = v.aliasesOfSubject(ctx, e, keys, bound, m); err != nil {
			err = AsError(err)
		}
	}
	if err != nil {
		return nil, "", err
	}
	return m, next, nil
}

type subject struct {
	id      ID
	created time.Time
}

// subjectDigest is what a subject is found by, if it is there: whatever was found under an older key is so no longer.
func (t *txn) subjectDigest(ctx context.Context, keys *tenantKeys, reference string) ([]byte, error) {
	digests, err := t.eachDigest(ctx, keys, reference)
	if err != nil {
		return nil, err
	}
	return digests[0], nil
}

// eachDigest is subjectDigest of several, together: in one order with others who do.
func (t *txn) eachDigest(ctx context.Context, keys *tenantKeys, references ...string) (digests [][]byte, err error) {
	if keys, err = t.holdKeys(ctx, keys); err != nil {
		return nil, err
	}
	var n newSubjects
	for _, reference := range references {
		s, err := keys.subject(reference)
		if err != nil {
			return nil, err
		}
		n.supersede(s)
		digests = append(digests, s.primary())
	}
	b := &pgx.Batch{}
	n.queueMoves(b, t.who.Tenant)
	return digests, t.data.SendBatch(ctx, b).Close()
}

// knownSubject finds a subject, and locks it against erasure until the transaction ends; who was erased, or never was there, is not
// found.
func (t *txn) knownSubject(ctx context.Context, keys *tenantKeys, reference string) (s subject, err error) {
	if checkSubject(reference, "") != nil {
		return s, fail(NotFound, "")
	}
	sum, err := t.subjectDigest(ctx, keys, reference)
	if err != nil {
		return s, err
	}
	err = t.data.QueryRow(ctx, `
		select s.subject_id, (select min(o.created_at) from privault.subjects o where o.tenant_id = $1 and o.subject_id = s.subject_id)
		from privault.subjects s where s.tenant_id = $1 and s.digest = $2 for key share of s`, t.who.Tenant, sum).Scan(&s.id, &s.created)
	return s, orNotFound(err)
}

// requireSubject is knownSubject for an action on the person, which it names in the entry and decides.
func (t *txn) requireSubject(ctx context.Context, keys *tenantKeys, reference string, action policy.Action) (s subject, err error) {
	if s, err = t.knownSubject(ctx, keys, reference); err != nil {
		return s, err
	}
	t.entry.Resources = []resource{{Subject: formatID(subjectPrefix, s.id)}}
	return s, t.entry.require(action)
}

// lockReferences locks a person under all references, and gives their digests; nobody has the one digest. It is called under holdLock, so
// there will be no others.
func (t *txn) lockReferences(ctx context.Context, digest []byte) (id *ID, digests [][]byte, err error) {
	var person ID
	var one []byte
	err = each(ctx, t.data, []any{&person, &one}, func() error {
		id, digests = &person, append(digests, slices.Clone(one))
		return nil
	}, `
		select subject_id, digest from privault.subjects
		where tenant_id = $1 and subject_id = (select s.subject_id from privault.subjects s where s.tenant_id = $1 and s.digest = $2)
		order by digest for update`, t.who.Tenant, digest)
	if id == nil {
		digests = [][]byte{digest}
	}
	return id, digests, err
}

// lockOwner locks whose record it is; nil: nobody's, or erased.
func (t *txn) lockOwner(ctx context.Context, record ID) (*ID, error) {
	person, settled, err := t.owner(ctx, t.data, record, `skip locked`)
	// Who has become one with somebody else while this waits is locked all the same, and waiting for that person with it would be a deadlock
	// with the next who locks both. So it is let go.
	for attempt := 0; err == nil && !settled && attempt < maxAttempts; attempt++ {
		var savepoint pgx.Tx
		if savepoint, err = t.data.Begin(ctx); err != nil {
			break
		}
		if person, settled, err = t.owner(ctx, savepoint, record, ``); err == nil && settled {
			return person, savepoint.Commit(ctx)
		}
		err = errors.Join(err, savepoint.Rollback(ctx))
	}
	return person, err
}

// owner is an attempt of lockOwner, which is settled if it is whose record it was when the lock was there.
func (t *txn) owner(ctx context.Context, tx pgx.Tx, record ID, wait string) (person *ID, settled bool, err error) {
	var owner *ID
	b := &pgx.Batch{}
	b.Queue(`
		select s.subject_id from privault.records r join privault.subjects s using (tenant_id, subject_id)
		where r.tenant_id = $1 and r.record_id = $2 and s.link_id is null for key share of s `+wait, t.who.Tenant, record).QueryRow(optionally(&person))
	b.Queue(`
		select s.subject_id from privault.records r join privault.subjects s using (tenant_id, subject_id)
		where r.tenant_id = $1 and r.record_id = $2 and s.link_id is null`, t.who.Tenant, record).QueryRow(optionally(&owner))
	err = tx.SendBatch(ctx, b).Close()
	return person, owner == nil || person != nil && *person == *owner, err
}

// optionally scans a row that need not be there.
func optionally(into any) func(pgx.Row) error {
	return func(row pgx.Row) error {
		if err := row.Scan(into); !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return nil
	}
}

// mapSubject goes through a person's records once: which fields a record holds stands in front of its boxes, so nothing is
// opened. It gives the id of the last record of a page that isn't the last, and the records, each with its place in m, whose tokens'
// texts are kept.
func (v *Vault) mapSubject(ctx context.Context, t *txn, keys *tenantKeys, id ID, after string, limit int, m *SubjectMap) (next string, bound map[ID]int, err error) {
	rows, err := t.data.Query(ctx, `
		select r.record_id, r.collection_id, c.version, r.epoch, r.created_at, r.sealed, r.digests, privault.held(r, $3)
		from privault.records r join privault.collections c using (tenant_id, collection_id)
		where r.tenant_id = $1 and r.subject_id = $2 and (r.expires_at is null or r.expires_at > $3)
		order by r.record_id`, t.who.Tenant, id, t.now)
	if err != nil {
		return "", nil, err
	}
	defer rows.Close()
	at, _ := parseID(recordPrefix, after) // the first page: from the lowest id
	counts := map[ID]int{}                // collection → its place in m
	bound = map[ID]int{}
	for rows.Next() {
		var r row
		var held bool
		if err := rows.Scan(&r.id, &r.collection, &r.schema, &r.epoch, &r.created, &r.sealed, &r.digests, &held); err != nil {
			return "", nil, err
		}
		coll, err := v.collectionByID(ctx, t.who.Tenant, r.collection, r.schema)
		if err != nil {
			return "", nil, err
		}
		boxes, err := seal.Unpack(r.sealed)
		if err != nil {
			return "", nil, &Error{Kind: IntegrityFailure, cause: err}
		}
		place, have := counts[r.collection]
		if !have {
			place = len(m.Collections)
			counts[r.collection] = place
			m.Collections = append(m.Collections, SubjectCollection{Name: coll.Name, Fields: map[string]int{}})
		}
		holding := m.Collections[place].count(coll, boxes)
		switch {
		case bytes.Compare(r.id[:], at[:]) <= 0 || next != "":
		case len(m.Records) == limit:
			next = m.Records[limit-1].Record
		default:
			var tokens map[string]string
			if coll.bound || len(r.digests) > 0 {
				bound[r.id] = len(m.Records)
			} else {
				tokens = keys.tokensOf(coll, r.id, r.epoch, holding, nil)
			}
			m.Records = append(m.Records, SubjectRecord{Collection: coll.Name, Record: formatID(recordPrefix, r.id), Tokens: tokens, Created: r.created, Held: held})
		}
	}
	if err := rows.Err(); err != nil {
		return "", nil, err
	}
	return next, bound, nil
}

// aliasesOfSubject reads the tokens of records, each with its place in m, whose texts are kept.
func (v *Vault) aliasesOfSubject(ctx context.Context, e *entry, keys *tenantKeys, records map[ID]int, m *SubjectMap) error {
	if len(records) == 0 {
		return nil
	}
	ids := slices.Collect(maps.Keys(records))
	found, err := v.look(ctx, e.who.Tenant, ask{ids: ids, shared: ids})
	if err != nil {
		return err
	}
	r := v.newReader(keys, e)
	r.unwrap(ctx, found.rows)
	for id, at := range records {
		if found.rows[id] == nil {
			continue // it has gone since
		}
		o, err := r.open(ctx, found.rows[id])
		if errors.Is(err, errDue) {
			continue
		}
		if err != nil {
			return err
		}
		if m.Records[at].Tokens, err = r.tokens(o, nil); err != nil {
			return err
		}
	}
	return nil
}

// count notes one more record, and gives the fields that it holds.
func (c *SubjectCollection) count(coll *Collection, boxes seal.Boxes) []value {
	c.Records++
	var holding []value
	for _, box := range boxes {
		if f := coll.byNumber(box.Field); f != nil {
			c.Fields[f.name]++
			holding = append(holding, value{number: box.Field})
		}
	}
	return holding
}
