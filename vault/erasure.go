package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/policy"
)

// ErasureReasons are the grounds on which a person is erased: GDPR 17(1)(a) to (d), the right to erasure as asked for
// (GDPR 17, CCPA 1798.105), and the controller's own wish.
var ErasureReasons = []string{"gdpr-17", "ccpa-1798.105", "no-longer-needed", "consent-withdrawn", "objection", "unlawful", "controller"}

// The states of an erasure. One that is deferred waits for a legal hold to be released.
const (
	ErasureDryRun    = "dry-run"
	ErasureDeferred  = "deferred"
	ErasureWithdrawn = "withdrawn" // while it was deferred: the request for it was denied or taken back
	ErasureErased    = "erased"
	ErasurePurged    = "purged" // erased, and no row is left
)

// Erasure is the erasure of a person. Certificate names it from the moment of erasure on.
type Erasure struct {
	ID             string
	State          string
	Reason         string
	Requested      time.Time
	Erased         *time.Time // the moment of erasure: one commit, from which on nothing of the person opens anywhere
	ShredEffective *time.Time // when the last backup of the keystore that holds the person's keys is gone
	Counts         ErasureCounts
	Scope          []ErasurePart      // of a partial one (partial.go); nil: everything
	Retained       []Retained         // what stays of the person, and why
	Certificate    string             // a signed note (C2SP signed-note); empty until erased
	Completion     string             // likewise; empty until every recipient has acknowledged the erasure or was given up
	Recipients     []ErasureRecipient // who had to be told; given by GetErasure

	direct bool // it was asked for without a request, be it once
}

// ErasureCounts says how much an erasure took.
type ErasureCounts struct {
	Records int `json:"records"`
	DEKs    int `json:"deks"`
	Aliases int `json:"aliases"`          // tokens that no other record has
	Entries int `json:"index_entries"`    // of blind indexes
	Values  int `json:"values,omitempty"` // in records that stay, of a partial erasure
	Held    int `json:"held,omitempty"`   // records that a legal hold keeps, which is why it is deferred
}

// EraseSubject erases a person: the keys of all their records are gone when it returns, on every replica and in every copy
// of the data database, and a job clears the rows away. Erasing again gives the same erasure. Where a legal hold keeps any
// of the records, nothing is erased, and the erasure is deferred until holds no longer keep any. A dry run only counts.
func (v *Vault) EraseSubject(ctx context.Context, who Caller, reference, reason string, dryRun bool) (Erasure, error) {
	return v.eraseAsked(ctx, who, reference, Erasure{Reason: reason}, dryRun)
}

// eraseAsked erases what a caller asks for, all of a person or a scope.
func (v *Vault) eraseAsked(ctx context.Context, who Caller, reference string, asked Erasure, dryRun bool) (e Erasure, err error) {
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return e, v.refuseUnopened(ctx, who, policy.Erase, err)
	}
	err = v.within(ctx, who, policy.Erase, func(t *txn) error {
		if checkSubject(reference, "") != nil {
			return fail(NotFound, "")
		}
		if err := t.holdLock(ctx, shared); err != nil {
			return err
		}
		sum, err := t.subjectDigest(ctx, keys, reference)
		if err != nil {
			return err
		}
		w, err := t.lockForErasure(ctx, sum)
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.Erase); err != nil {
			return err
		}
		if !slices.Contains(ErasureReasons, asked.Reason) {
			return invalid("/reason", "reason", "the reasons are "+list(ErasureReasons))
		}
		t.entry.Resources = []resource{{Subject: formatOptional(subjectPrefix, w.subject)}}
		if w.subject == nil {
			e = *w.earlier
			t.entry.Resources[0].Erasure = e.ID
			if dryRun {
				return nil
			}
			return t.forgetRequests(ctx, [][]byte{sum}, nil, true) // that were opened since
		}
		e = asked
		e.direct = true
		e.State, e.Requested = ErasureDryRun, t.now
		if e.Scope == nil {
			e.Counts = w.counts
		} else if err := t.narrow(ctx, w, &e); err != nil {
			return err
		}
		if !dryRun {
			return v.erase(ctx, t, w, &e)
		}
		if err := v.spareLawful(ctx, t, w, &e); err != nil {
			return err
		}
		if e.Counts.DEKs, err = t.countKeys(ctx, w.records); err == nil {
			e.Counts.Aliases, e.Counts.Entries, err = t.countBound(ctx, w.records)
		}
		return err
	})
	return e, err
}

// erasable is a person who is about to be erased, locked.
type erasable struct {
	digest  []byte
	digests [][]byte // of all the person's references
	subject *ID      // nil: there is nobody, but
	earlier *Erasure // was erased, or is to be
	records []ID
	counts  ErasureCounts
	bound   bool       // to aliases or indexes: some of the records
	held    bool       // by a legal hold: some of the records, or whatever will come
	part    *portion   // nil: everything goes
	kept    []lineKept // by a legal minimum, since spareLawful
	links   []ID       // of references, since eraseWhole
	merged  []ID       // under which else the person was known

	suppressed map[string]string // what of the person stays on the suppression list: digest → what it is of
}

// lockForErasure finds a person and everything of theirs, under holdLock. Until the transaction ends, whoever stores or changes a
// record of the person waits, and so does who places a hold.
func (t *txn) lockForErasure(ctx context.Context, digest []byte) (*erasable, error) {
	w := &erasable{digest: digest}
	var err error
	if w.subject, w.digests, err = t.lockReferences(ctx, digest); err != nil {
		return nil, err
	}
	if w.earlier, err = t.erasureOf(ctx, w.digests); err != nil {
		return nil, err
	}
	if w.subject == nil {
		if w.earlier == nil {
			return nil, fail(NotFound, "")
		}
		return w, nil
	}
	err = t.data.QueryRow(ctx, `
		select coalesce(array_agg(r.record_id), '{}'), coalesce(bool_or(cardinality(r.digests) > 0), false),
			case when exists (select from privault.holds h where h.tenant_id = $1 and h.released_at is null)
				then (select count(*) from privault.records r where r.tenant_id = $1 and r.subject_id = $2 and privault.held(r, $3)) else 0 end,
			exists (select from privault.holds h where h.tenant_id = $1 and h.subject_id = $2 and h.released_at is null
				and (h.expires_at is null or h.expires_at > $3))
		from privault.records r where r.tenant_id = $1 and r.subject_id = $2`,
		t.who.Tenant, w.subject, t.now).Scan(&w.records, &w.bound, &w.counts.Held, &w.held)
	w.counts.Records = len(w.records)
	w.held = w.held || w.counts.Held > 0
	return w, err
}

// erasureOf gives the newest erasure of whoever has one of the digests, if there is one; a partial one is none, nor is one that was withdrawn.
func (t *txn) erasureOf(ctx context.Context, digests [][]byte) (*Erasure, error) {
	rows, err := t.data.Query(ctx, selectErasure+erasedUnder+` and scope is null and state <> 'withdrawn' order by erasure_id desc limit 1`, t.who.Tenant, digests)
	if err != nil {
		return nil, err
	}
	e, err := pgx.CollectExactlyOneRow(rows, scanErasure)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return e, err
}

const selectErasure = `
	select erasure_id, state, reason, requested_at, erased_at, shred_effective_at, counts, scope, retained, coalesce(certificate, ''), coalesce(completion, ''), direct
	from privault.erasures where tenant_id = $1 and `

// erasedUnder says that an erasure is one of who has one of the digests $2.
const erasedUnder = `erasure_id = any(array(
	select o.erasure_id from privault.erasures o where o.tenant_id = $1 and o.digest = any($2)
	union all select o.erasure_id from privault.erasure_references o where o.tenant_id = $1 and o.digest = any($2)))`

// erasure reads one.
func (t *txn) erasure(ctx context.Context, id ID) (*Erasure, error) {
	rows, err := t.data.Query(ctx, selectErasure+`erasure_id = $2`, t.who.Tenant, id)
	if err != nil {
		return nil, err
	}
	return pgx.CollectExactlyOneRow(rows, scanErasure)
}

func scanErasure(r pgx.CollectableRow) (*Erasure, error) {
	e := &Erasure{}
	var id ID
	var counts []byte
	if err := r.Scan(&id, &e.State, &e.Reason, &e.Requested, &e.Erased, &e.ShredEffective, &counts, &e.Scope, &e.Retained, &e.Certificate, &e.Completion, &e.direct); err != nil {
		return nil, err
	}
	e.ID = formatID(erasurePrefix, id)
	return e, json.Unmarshal(counts, &e.Counts)
}

func (t *txn) countKeys(ctx context.Context, records []ID) (n int, err error) {
	err = t.keys.QueryRow(ctx, `
		select count(*) from keystore.data_keys where tenant_id = $1 and record_id = any($2)`, t.who.Tenant, records).Scan(&n)
	return n, err
}

// erase does it, or defers it. One that was deferred before goes on under its own id, as does one that has an id already.
func (v *Vault) erase(ctx context.Context, t *txn, w *erasable, e *Erasure) error {
	id, err := newID()
	if err != nil {
		return err
	}
	if begun, ok := parseID(erasurePrefix, e.ID); ok {
		id = begun
	}
	if w.earlier != nil && w.earlier.State == ErasureDeferred {
		id, _ = parseID(erasurePrefix, w.earlier.ID)
		e.Requested, e.Reason = w.earlier.Requested, w.earlier.Reason
	}
	e.ID = formatID(erasurePrefix, id)
	t.entry.Resources[0].Erasure = e.ID
	e.State = ErasureDeferred
	if !w.held {
		e.State = ErasureErased
		if err := v.shredSubject(ctx, t, w, id, e); err != nil {
			return err
		}
	}
	counts, err := json.Marshal(e.Counts)
	if err != nil {
		return err
	}
	if w.earlier == nil || w.earlier.ID != e.ID || e.State != ErasureDeferred || e.direct && !w.earlier.direct { // one that stays deferred says nothing new
		t.enterErasure(w, id, e)
	}
	t.last.Queue(writeErasure, t.who.Tenant, id, w.digest, e.Reason, e.State, e.Requested, e.Erased, e.ShredEffective, counts, e.Certificate,
		e.Scope, e.Retained, e.direct)
	if len(w.digests) > 1 {
		t.last.Queue(insertErasureReferences, t.who.Tenant, w.digests, id)
	}
	return nil
}

// notErasing says of a row r of records that its person is not erased: until it is purged it is there, and for nobody.
const notErasing = `not exists (select from privault.erasing e where e.tenant_id = r.tenant_id and e.subject_id = r.subject_id)`

const (
	writeErasure = `
	insert into privault.erasures (tenant_id, erasure_id, digest, reason, state, requested_at, erased_at, shred_effective_at, counts, certificate, scope, retained, direct)
	values ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, ''), $11, $12, $13)
	on conflict (tenant_id, erasure_id) do update set state = excluded.state, erased_at = excluded.erased_at,
		shred_effective_at = excluded.shred_effective_at, counts = excluded.counts, certificate = excluded.certificate,
		retained = excluded.retained, direct = erasures.direct or excluded.direct`
	insertErasureReferences = `
	insert into privault.erasure_references (tenant_id, digest, erasure_id) select $1, unnest($2::bytea[]), $3 on conflict do nothing`
	deleteKeys = `
	delete from keystore.data_keys where tenant_id = $1 and record_id = any($2)`
	// Of ids from $2 to $3, all $4 that there are, if their digest is $5: nobody else's is among them then. One statement has one snapshot,
	// so whose key comes meanwhile keeps it.
	deleteKeyRange = `
	delete from keystore.data_keys where tenant_id = $1 and record_id between $2 and $3
		and (select sha256(string_agg(uuid_send(k.record_id), '')) from (
			select record_id from keystore.data_keys where tenant_id = $1 and record_id between $2 and $3 order by record_id limit $4 + 1) k) = $5`
)

// deleteManyKeys is deleteKeys of a person's records, which it sorts. Looking for each key costs more than deleting it, and ids of records that were
// stored together lie together: where nobody else's are in between, a whole range goes at once.
func (t *txn) deleteManyKeys(ctx context.Context, records []ID) (gone int, err error) {
	slices.SortFunc(records, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	const fewest, most = 50, 1000 // ids of a range
	var left []ID
	b := &pgx.Batch{}
	for ids := range slices.Chunk(records, most) {
		if len(ids) < fewest {
			left = append(left, ids...)
			continue
		}
		sum := sha256.Sum256(packIDs(ids))
		b.Queue(deleteKeyRange, t.who.Tenant, ids[0], ids[len(ids)-1], len(ids), sum[:]).Exec(func(done pgconn.CommandTag) error {
			if gone += int(done.RowsAffected()); done.RowsAffected() == 0 {
				left = append(left, ids...)
			}
			return nil
		})
	}
	if err := t.keys.SendBatch(ctx, b).Close(); err != nil || len(left) == 0 {
		return gone, err
	}
	done, err := t.keys.Exec(ctx, deleteKeys, t.who.Tenant, left)
	return gone + int(done.RowsAffected()), err
}

// shredSubject is the moment of erasure: the keys go, and the link between the person and their random id.
func (v *Vault) shredSubject(ctx context.Context, t *txn, w *erasable, id ID, e *Erasure) error {
	if err := v.spareLawful(ctx, t, w, e); err != nil {
		return err
	}
	gone, take := *w.subject, v.eraseWhole
	if w.part != nil {
		gone, take = w.part.id, v.erasePart
	}
	if err := take(ctx, t, w, id, e); err != nil {
		return err
	}
	var err error
	if e.Counts.DEKs, err = t.deleteManyKeys(ctx, w.records); err != nil {
		return err
	}
	// With the keys, so that an erased value gets another token at once and not the one that it had.
	if w.bound {
		if e.Counts.Aliases, e.Counts.Entries, err = t.unbindRecords(ctx, w.records); err != nil {
			return err
		}
	}
	t.last.Queue(`
		insert into privault.erasing (tenant_id, subject_id, erasure_id) values ($1, $2, $3)`, t.who.Tenant, gone, id)
	t.last.Queue(`
		delete from privault.subjects where tenant_id = $1 and subject_id = $2`, t.who.Tenant, gone)
	if err := t.answerWaiting(ctx, id, t.now, compliedWith, nil); err != nil {
		return err
	}
	effective := t.now.Add(v.keystoreBackups)
	e.Erased, e.ShredEffective = &t.now, &effective
	if e.Certificate, err = v.certify(t.who.Tenant, *w.subject, e); err != nil {
		return err
	}
	for _, subject := range append([]ID{gone}, w.merged...) { // whom a recipient may know by an id from before a link
		if err := t.emitOf(ctx, EventSubjectErased, subject, happening{Certificate: e.ID, erasure: &id, Collections: w.part.affected()}); err != nil {
			return err
		}
	}
	_, err = t.enqueue(ctx, purgeJob, purgeParams{e.ID})
	return err
}

// eraseWhole is what is done only when all of a person goes: what the law has kept becomes nobody's, what the collections ask for stays on
// the suppression list, and what requests say goes.
func (v *Vault) eraseWhole(ctx context.Context, t *txn, w *erasable, id ID, _ *Erasure) error {
	if len(w.kept) > 0 {
		if err := t.retainLawful(ctx, w.kept, t.now); err != nil {
			return err
		}
	}
	if err := v.suppress(ctx, t, w, id); err != nil {
		return err
	}
	var err error
	if w.links, w.merged, err = t.forgetLinks(ctx, []ID{*w.subject}, true); err != nil {
		return err
	}
	return t.forgetRequests(ctx, w.digests, nil, true)
}

// certify writes and signs the certificate of an erasure: lines of "name: value" under a title, as a signed note. It says
// nothing about the erased data but how much there was.
func (v *Vault) certify(tenant, subject ID, e *Erasure) (string, error) {
	var b strings.Builder
	b.WriteString(audit.ErasureTitle + "\n")
	lines := [][2]string{
		{"certificate", e.ID},
		{"deployment", uuid.UUID(v.deployment).String()},
		{"tenant", uuid.UUID(tenant).String()},
		{"subject", formatID(subjectPrefix, subject)}, // which nothing leads to any more, if all of the person is erased
		{"reason", e.Reason},
		{"requested-at", e.Requested.UTC().Format(time.RFC3339Nano)},
		{"erased-at", e.Erased.UTC().Format(time.RFC3339Nano)},
		{"shred-effective-at", e.ShredEffective.UTC().Format(time.RFC3339Nano)},
		{"records", strconv.Itoa(e.Counts.Records)},
		{"deks", strconv.Itoa(e.Counts.DEKs)},
		{"aliases", strconv.Itoa(e.Counts.Aliases)},
		{"index-entries", strconv.Itoa(e.Counts.Entries)},
	}
	if e.Scope != nil {
		lines = append(lines, [2]string{"scope", scopeText(e.Scope)}, [2]string{"values", strconv.Itoa(e.Counts.Values)})
	}
	for _, r := range e.Retained {
		lines = append(lines, [2]string{"retained", r.text()})
	}
	for _, line := range lines {
		b.WriteString(line[0] + ": " + line[1] + "\n")
	}
	signed, err := v.audit.keys.SignText(b.String())
	return string(signed), err
}

// The kinds of job that erasures need.
const (
	purgeJob    = "purge-erased"   // clears away the rows of one erasure
	deferredJob = "erase-deferred" // does the erasures that a hold no longer keeps
)

// purgeRows is how many records one batch of a purge deletes.
const purgeRows = 500

type purgeParams struct {
	Erasure string `json:"erasure"`
}

// purgeStep deletes rows of a person who is erased. Behind the last it notes that none is left.
func (v *Vault) purgeStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var p purgeParams
	if err := b.read(&p); err != nil {
		return 0, false, err
	}
	id, ok := parseID(erasurePrefix, p.Erasure)
	if !ok {
		return 0, false, errors.New("the job names no erasure")
	}
	gone := resource{Erasure: p.Erasure}
	var record ID
	err = each(ctx, b.data, []any{&record}, func() error {
		gone.Records, gone.Outcome = append(gone.Records, formatID(recordPrefix, record)), outcomeDeleted
		return nil
	}, `
		delete from privault.records where tenant_id = $1 and record_id in (
			select r.record_id from privault.records r join privault.erasing e using (tenant_id, subject_id)
			where r.tenant_id = $1 and e.erasure_id = $2 order by r.record_id limit $3)
		returning record_id`, b.who.Tenant, id, purgeRows)
	if err != nil {
		return 0, false, err
	}
	b.entry.Resources = append(b.entry.Resources, gone)
	done = len(gone.Records)
	if done == purgeRows {
		return done, true, nil
	}
	for _, table := range []string{"subject_facts", "subject_history", "webhook_deliveries"} { // restriction, objections and consents; what was told of them
		_, err := b.data.Exec(ctx, `
			delete from privault.`+table+` where tenant_id = $1
				and subject_id in (select e.subject_id from privault.erasing e where e.tenant_id = $1 and e.erasure_id = $2)`, b.who.Tenant, id)
		if err != nil {
			return 0, false, err
		}
	}
	if _, err := b.data.Exec(ctx, `delete from privault.erasing where tenant_id = $1 and erasure_id = $2`, b.who.Tenant, id); err != nil {
		return 0, false, err
	}
	_, err = b.data.Exec(ctx, `
		update privault.erasures set state = 'purged', purged_at = $3 where tenant_id = $1 and erasure_id = $2 and state = 'erased'`,
		b.who.Tenant, id, b.now)
	return done, false, err
}

// deferredStep tries the next erasure that waits for a hold.
func (v *Vault) deferredStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var after string
	if err := b.resume(&after); err != nil {
		return 0, false, err
	}
	position, _ := parseID(erasurePrefix, after)       // at first: from the lowest id
	if _, err := b.holdKeys(ctx, b.ring); err != nil { // before the person, as everywhere
		return 0, false, err
	}
	if err := b.holdLock(ctx, shared); err != nil {
		return 0, false, err
	}
	var id ID
	var digest []byte
	err = b.data.QueryRow(ctx, `
		select erasure_id, digest from privault.erasures
		where tenant_id = $1 and state = 'deferred' and erasure_id > $2 order by erasure_id limit 1`,
		b.who.Tenant, position).Scan(&id, &digest)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	w, err := b.lockForErasure(ctx, digest)
	if err != nil {
		return 0, false, err
	}
	e, err := b.erasure(ctx, id) // by now whoever would have withdrawn it has
	if err != nil {
		return 0, false, err
	}
	waits := e.State == ErasureDeferred
	todo, err := b.again(ctx, w, e)
	switch {
	case err != nil || !waits:
	case w.subject == nil:
		err = b.supersede(ctx, id, w.earlier)
	case todo && w.nothing():
		err = b.supersede(ctx, id, &Erasure{State: ErasurePurged, Erased: &b.now, ShredEffective: &b.now})
	case todo && !w.held:
		b.entry.Resources = append([]resource{{Subject: formatOptional(subjectPrefix, w.subject)}}, b.entry.Resources...)
		err, done = v.erase(ctx, b.txn, w, e), 1
	}
	if err != nil {
		return 0, false, err
	}
	return done, true, b.leave(formatID(erasurePrefix, id))
}

// eraseDeferred makes jobs for erasures that wait for a hold: it may have ended by itself.
func (v *Vault) eraseDeferred(ctx context.Context) error {
	return v.enqueueFor(ctx, deferredJob, waitsForHold)
}

// waitsForHold says whether some erasure of a tenant is deferred.
func waitsForHold(ctx context.Context, tx pgx.Tx, tenant ID) (waits bool, err error) {
	err = tx.QueryRow(ctx, `
		select exists (select from privault.erasures where tenant_id = $1 and state = 'deferred')`, tenant).Scan(&waits)
	return waits, err
}

// GetErasure gives an erasure, with its certificate once it is done.
func (v *Vault) GetErasure(ctx context.Context, who Caller, certificate string) (*Erasure, error) {
	var e *Erasure
	err := v.within(ctx, who, policy.ReadCertificate, func(t *txn) error {
		id, ok := parseID(erasurePrefix, certificate)
		if !ok {
			return fail(NotFound, "")
		}
		var err error
		if e, err = t.erasure(ctx, id); err != nil {
			return orNotFound(err)
		}
		t.entry.Resources = []resource{{Erasure: certificate}}
		if err := t.entry.require(policy.ReadCertificate); err != nil {
			return err
		}
		e.Recipients, err = recipientsOf(ctx, t.data, who.Tenant, id)
		return err
	})
	return e, err
}
