package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What the ledger's lines hold, and how they are applied again: to databases that were set back, and by a running server to finish
// what somebody began who died.

// lineErasure is an erasure, or one that a hold defers. Records are the ids of all that was the person's, 16 bytes each: the keystore
// may come back without the data that would say which they are.
type lineErasure struct {
	ID             lineID        `json:"id"`
	Digest         []byte        `json:"digest"`
	Digests        [][]byte      `json:"digests,omitempty"` // of all references, where the person had several
	Subjects       []lineID      `json:"subjects"`          // the person's id, and those under which they were known before references were linked
	Reason         string        `json:"reason"`
	Requested      time.Time     `json:"requested_at"`
	Erased         *time.Time    `json:"erased_at,omitempty"`
	ShredEffective *time.Time    `json:"shred_effective_at,omitempty"`
	Counts         ErasureCounts `json:"counts"`
	Certificate    string        `json:"certificate,omitempty"`
	Records        []byte        `json:"records,omitempty"`
	Part           *linePart     `json:"part,omitempty"` // nil: everything
	Direct         bool          `json:"direct,omitempty"`
	Request        *lineID       `json:"request,omitempty"` // that was denied or taken back, of a withdrawal
	Denial         string        `json:"denial,omitempty"`  // why it was denied; empty: it was taken back, or the line is from before denials were told

	// What the law had kept then, and stays in a replay too, though the rules may be others by now.
	Kept     []lineKept `json:"kept,omitempty"`
	Retained []Retained `json:"retained,omitempty"` // what the erasure says of it; of a part, it stands there

	// What of the person stays on the suppression list. That it was lifted afterwards is not in the ledger: a replay errs on the side of
	// the person.
	Suppressed []lineSuppressed `json:"suppressed,omitempty"`
}

// lineKept is a record and when it is to be looked at again: as coarse as its row says it, for that may tell a date of the person's.
type lineKept struct {
	Record lineID     `json:"record"`
	Due    *time.Time `json:"due_at,omitempty"`
}

type lineSuppressed struct {
	Digest []byte `json:"digest"`
	Kind   string `json:"kind"`
}

// lineHold is a hold, or the release of one.
type lineHold struct {
	ID         lineID     `json:"id"`
	Matter     string     `json:"matter,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	Subject    *lineID    `json:"subject,omitempty"`
	Digest     []byte     `json:"digest,omitempty"`
	Collection *lineID    `json:"collection,omitempty"`
	Record     *lineID    `json:"record,omitempty"`
	Review     *time.Time `json:"review_at,omitempty"`
	Expires    *time.Time `json:"expires_at,omitempty"`
	At         time.Time  `json:"at"` // when it was placed, or released
}

// lineFact is what a person says about its data, from then on or no longer. That somebody consents is not in the ledger: who is
// not sure asks again.
type lineFact struct {
	Event       lineID     `json:"event"` // of the person's history
	Kind        string     `json:"kind"`
	Subject     lineID     `json:"subject"`
	Digest      []byte     `json:"digest"`
	Purpose     string     `json:"purpose,omitempty"`
	TextVersion string     `json:"text_version,omitempty"`
	Reference   string     `json:"reference,omitempty"`
	Allowed     []string   `json:"allowed,omitempty"`
	At          time.Time  `json:"at"`
	By          lineID     `json:"by"` // the principal
	Informed    *time.Time `json:"informed_at,omitempty"`
}

func packIDs(ids []ID) []byte {
	packed := make([]byte, 0, len(ids)*16)
	for _, id := range ids {
		packed = append(packed, id[:]...)
	}
	return packed
}

func unpackIDs(packed []byte) []ID {
	ids := make([]ID, 0, len(packed)/16)
	for id := range slices.Chunk(packed, 16) {
		if len(id) == 16 {
			ids = append(ids, ID(id))
		}
	}
	return ids
}

// enterErasure tells the ledger of an erasure that is about to be committed.
func (t *txn) enterErasure(w *erasable, id ID, e *Erasure) {
	line := &ledgerLine{Kind: deferralLine, Erasure: &lineErasure{ID: lineID(id), Digest: w.digest, Subjects: []lineID{lineID(*w.subject)},
		Reason: e.Reason, Requested: e.Requested, Counts: e.Counts, Direct: e.direct}}
	if e.State == ErasureErased {
		line.Kind = erasureLine
		line.Erasure.Erased, line.Erasure.ShredEffective, line.Erasure.Certificate = e.Erased, e.ShredEffective, e.Certificate
		line.Erasure.Records = packIDs(slices.Concat(w.records, w.links)) // the links' keys go with the records'
		line.Erasure.Kept = w.kept
		for _, id := range w.merged {
			line.Erasure.Subjects = append(line.Erasure.Subjects, lineID(id))
		}
		for digest, kind := range w.suppressed {
			line.Erasure.Suppressed = append(line.Erasure.Suppressed, lineSuppressed{[]byte(digest), kind})
		}
	}
	if len(w.digests) > 1 {
		line.Erasure.Digests = w.digests
	}
	if w.part != nil {
		line.Erasure.Part = &linePart{lineID(w.part.id), e.Scope, e.Retained}
	} else {
		line.Erasure.Retained = e.Retained
	}
	t.enter(line)
}

// enterHold tells it of a hold.
func (t *txn) enterHold(ctx context.Context, id ID, h *Hold, to target) error {
	line := &lineHold{ID: lineID(id), Matter: h.Matter, Reason: h.Reason, Subject: (*lineID)(to.subject), Collection: (*lineID)(to.collection),
		Record: (*lineID)(to.record), Review: h.Review, Expires: h.Expires, At: t.now}
	t.enter(&ledgerLine{Kind: holdLine, Hold: line})
	if to.subject == nil {
		return nil
	}
	var err error
	line.Digest, err = t.digestOf(ctx, *to.subject)
	return err
}

// enterFact tells it of what a person says.
func (t *txn) enterFact(ctx context.Context, event, subject ID, kind string, begins bool, said *Said, informed *time.Time) error {
	if kind == consentFact && begins {
		return nil
	}
	line := &ledgerLine{Kind: factEndsLine, Fact: &lineFact{Event: lineID(event), Kind: kind, Subject: lineID(subject), Purpose: said.Purpose,
		TextVersion: said.TextVersion, Reference: said.Reference, Allowed: said.Allowed, At: t.now, By: lineID(t.who.Principal), Informed: informed}}
	if begins {
		line.Kind = factLine
	}
	t.enter(line)
	var err error
	line.Fact.Digest, err = t.digestOf(ctx, subject)
	return err
}

// digestOf is the digest of a person's first reference; ErrNoRows: there is no such person any more.
func (t *txn) digestOf(ctx context.Context, subject ID) (digest []byte, err error) {
	err = t.data.QueryRow(ctx, `
		select digest from privault.subjects where tenant_id = $1 and subject_id = `+nowKnownAs+` order by link_id is not null limit 1`,
		t.who.Tenant, subject).Scan(&digest)
	return digest, err
}

// nowKnownAs is the id by now of a person who had the id $2.
const nowKnownAs = `coalesce((select l.subject_id from privault.subject_links l where l.tenant_id = $1 and l.merged_id = $2), $2)`

// subject is whom a line is about; nil: nobody.
func (l *ledgerLine) subject() *ID {
	switch {
	case l.Erasure != nil && len(l.Erasure.Subjects) > 0:
		return (*ID)(&l.Erasure.Subjects[0])
	case l.Hold != nil:
		return (*ID)(l.Hold.Subject)
	case l.Fact != nil:
		return (*ID)(&l.Fact.Subject)
	case l.Link != nil:
		return (*ID)(&l.Link.Subject)
	}
	return nil
}

// noteLine puts what a line is about into the entry.
func (t *txn) noteLine(l *ledgerLine) {
	r := resource{Subject: formatOptional(subjectPrefix, l.subject())}
	if l.Erasure != nil {
		r.Erasure = formatID(erasurePrefix, ID(l.Erasure.ID))
	}
	if l.Hold != nil {
		r.Hold = formatID(holdPrefix, ID(l.Hold.ID))
	}
	if l.Fact != nil {
		r.Purpose = l.Fact.Purpose
	}
	t.entry.Resources = []resource{r}
}

// finishLine does what a line wanted whose transaction never committed. An erasure is decided anew: what is there now is erased,
// unless a hold keeps it.
func (v *Vault) finishLine(ctx context.Context, t *txn, line *ledgerLine) error {
	t.noteLine(line)
	digest, err := t.lockAbout(ctx, line)
	if err != nil {
		return err
	}
	gone := digest == nil && line.subject() != nil
	if gone && line.Erasure == nil || line.Link != nil {
		// Or was introduced in a transaction that is lost: what was said of the person holds for when they come again.
		if gone, err = t.erasedAbout(ctx, line); err != nil {
			return err
		}
	}
	mine, _, err := t.markApplied(ctx, line.Seq, true, line.Kind.inKeystore())
	if err != nil || !mine || gone {
		return err
	}
	switch {
	case line.Kind == withdrawLine:
		return t.finishWithdrawal(ctx, line)
	case line.Link != nil:
		// It was begun before the erasure that waits.
		if waits, err := t.erasureWaits(ctx, [][]byte{line.Link.Digest, line.Link.OtherDigest}); err != nil || waits {
			return err
		}
		return t.applyLine(ctx, line)
	case line.Erasure == nil:
		return t.applyLine(ctx, line)
	}
	w, err := t.lockForErasure(ctx, digest)
	if err != nil {
		return err
	}
	e := line.Erasure.erasure()
	if todo, err := t.again(ctx, w, e); err != nil || !todo {
		return err
	}
	return v.erase(ctx, t, w, e)
}

// lockAbout locks, first of all, what a line is about: whoever may still be at it has it. It gives the person's digest; nil: there is
// nobody.
func (t *txn) lockAbout(ctx context.Context, line *ledgerLine) (digest []byte, err error) {
	mode := alone
	if line.Erasure != nil {
		mode = shared
	}
	if err := t.holdLock(ctx, mode); err != nil || line.subject() == nil {
		return nil, err
	}
	digest, err = t.digestOf(ctx, *line.subject())
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there, _, err := t.lockReferences(ctx, digest)
	if there == nil {
		return nil, err
	}
	return digest, err
}

// clocksApart is by how much an erasure may seem to be from before what it came after: replicas' clocks differ, and transactions wait.
const clocksApart = time.Hour

// digests are those of whom a hold, a fact or a link is about.
func (l *ledgerLine) digests() [][]byte {
	switch {
	case l.Hold != nil:
		return [][]byte{l.Hold.Digest}
	case l.Fact != nil:
		return [][]byte{l.Fact.Digest}
	case l.Link != nil:
		return [][]byte{l.Link.Digest, l.Link.OtherDigest}
	}
	return nil
}

// erasedAbout says whether the person that a hold, a fact or a link is about was erased afterwards.
func (t *txn) erasedAbout(ctx context.Context, line *ledgerLine) (erased bool, err error) {
	err = t.data.QueryRow(ctx, `
		select exists (select from privault.erasures
			where tenant_id = $1 and `+erasedUnder+` and scope is null and erased_at > $3)`,
		t.who.Tenant, line.digests(), line.At.Add(-clocksApart)).Scan(&erased)
	return erased, err
}

// erasedBy are the numbers of the last lines by which persons were erased, by their ids and digests.
type erasedBy map[string]int64

// erasedAlready gives those whose erasure a database has already, though it lacks earlier lines: a replay that had to leave one out went on.
func (v *Vault) erasedAlready(k *knowledge, data *applied) (erasedBy, error) {
	gone := erasedBy{}
	for seq, p := range k.pending {
		if p.kind != erasureLine || !p.done || !data.has(seq) {
			continue
		}
		line, err := v.ledger.line(p)
		if err != nil {
			return nil, err
		}
		e := line.Erasure
		if e.Part != nil {
			continue
		}
		for _, id := range e.Subjects {
			gone[string(id[:])] = max(gone[string(id[:])], seq)
		}
		for _, digest := range append(e.Digests, e.Digest) {
			gone[string(digest)] = max(gone[string(digest)], seq)
		}
	}
	return gone, nil
}

// after says whether whom a hold, a fact or a link is about was erased by a later line: it must not bring them back.
func (e erasedBy) after(line *ledgerLine) bool {
	if id := line.subject(); line.Erasure == nil && id != nil && e[string(id[:])] > line.Seq {
		return true
	}
	return slices.ContainsFunc(line.digests(), func(digest []byte) bool { return e[string(digest)] > line.Seq })
}

// applyLine does what a line says in the data database, where it may have been done in part.
func (t *txn) applyLine(ctx context.Context, line *ledgerLine) error {
	switch line.Kind {
	case deferralLine:
		return t.insertErasure(line.Erasure, ErasureDeferred)
	case withdrawLine:
		if _, err := t.data.Exec(ctx, withdrawErasure, t.who.Tenant, ID(line.Erasure.ID)); err != nil {
			return err
		}
		return t.answerWithdrawn(ctx, line)
	case holdLine:
		h := line.Hold
		subject, err := t.restoreSubject(ctx, h.Subject, h.Digest, h.At)
		if err != nil {
			return err
		}
		_, err = t.data.Exec(ctx, `
			insert into privault.holds (tenant_id, hold_id, matter, reason, subject_id, collection_id, record_id, created_at, review_at, expires_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing`,
			t.who.Tenant, ID(h.ID), h.Matter, h.Reason, subject, (*ID)(h.Collection), (*ID)(h.Record), h.At, h.Review, h.Expires)
		return err
	case releaseLine:
		_, err := t.data.Exec(ctx, releaseHold, t.who.Tenant, ID(line.Hold.ID), line.Hold.At)
		if err == nil {
			_, err = t.enqueue(ctx, deferredJob, struct{}{})
		}
		return err
	case factLine, factEndsLine:
		return t.applyFact(ctx, line.Fact, line.Kind == factLine)
	case linkLine:
		return t.applyLink(ctx, line.Link)
	default:
		return fmt.Errorf("the ledger has a line of kind %q, which this version doesn't know", line.Kind)
	}
}

func (t *txn) applyFact(ctx context.Context, f *lineFact, begins bool) error {
	subject, err := t.restoreSubject(ctx, &f.Subject, f.Digest, f.At)
	if err != nil {
		return err
	}
	said := Said{Purpose: f.Purpose, TextVersion: f.TextVersion, Reference: f.Reference, Allowed: f.Allowed, Since: f.At}
	if said.Allowed == nil {
		said.Allowed = []string{}
	}
	if begins {
		var later bool // what was said afterwards stays, though this comes late
		err = t.data.QueryRow(ctx, `
			select exists (select from privault.subject_history
				where tenant_id = $1 and subject_id = $2 and kind = $3 and purpose = $4 and at > $5)`,
			t.who.Tenant, subject, f.Kind, f.Purpose, f.At).Scan(&later)
		if err == nil && !later {
			err = t.writeFact(ctx, *subject, f.Kind, &said)
		}
	} else {
		_, err = t.data.Exec(ctx, deleteFact+` and since <= $5`, t.who.Tenant, subject, f.Kind, f.Purpose, f.At)
	}
	if err != nil {
		return err
	}
	_, err = t.data.Exec(ctx, insertHistory+` on conflict do nothing`, t.who.Tenant, subject, ID(f.Event), f.At, ID(f.By), f.Kind,
		f.Purpose, begins, f.TextVersion, f.Reference, said.Allowed, f.Informed)
	return err
}

// restoreSubject makes a person known who was introduced after the backup, under the id that later lines go by. It gives the id that
// the person has: another one, if they came again after the transaction that introduced them was lost.
func (t *txn) restoreSubject(ctx context.Context, subject *lineID, digest []byte, at time.Time) (id *ID, err error) {
	if subject == nil {
		return nil, nil
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.subjects (tenant_id, digest, subject_id, created_at) select $1, $3, $2, $4
		where not exists (select from privault.subjects where tenant_id = $1 and subject_id = `+nowKnownAs+`)
		on conflict do nothing`, t.who.Tenant, ID(*subject), digest, at)
	if err != nil {
		return nil, err
	}
	err = t.data.QueryRow(ctx, `
		select subject_id from privault.subjects where tenant_id = $1 and (subject_id = `+nowKnownAs+` or digest = $3)
		order by subject_id = `+nowKnownAs+` desc limit 1`, t.who.Tenant, ID(*subject), digest).Scan(&id)
	return id, err
}

func (t *txn) insertErasure(e *lineErasure, state string) error {
	counts, err := json.Marshal(e.Counts)
	if err != nil {
		return err
	}
	was := e.erasure()
	if e.Part == nil {
		was.Retained = e.Retained
	}
	t.last.Queue(writeErasure, t.who.Tenant, ID(e.ID), e.Digest, e.Reason, state, e.Requested, e.Erased, e.ShredEffective, counts, e.Certificate,
		was.Scope, was.Retained, e.Direct)
	if len(e.Digests) > 0 {
		t.last.Queue(insertErasureReferences, t.who.Tenant, e.Digests, ID(e.ID))
	}
	return nil
}

// subjects are those whose records go: of a part, the one that they were given to.
func (e *lineErasure) subjects() []ID {
	if e.Part != nil {
		return []ID{ID(e.Part.ID)}
	}
	subjects := make([]ID, len(e.Subjects))
	for i, s := range e.Subjects {
		subjects[i] = ID(s)
	}
	return subjects
}

// erasure is what was asked for.
func (e *lineErasure) erasure() *Erasure {
	asked := &Erasure{ID: formatID(erasurePrefix, ID(e.ID)), Reason: e.Reason, Requested: e.Requested, direct: e.Direct}
	if e.Part != nil {
		asked.Scope, asked.Retained = e.Part.Scope, e.Part.Retained
	}
	return asked
}

// replayErasure erases once more whom a restored database has brought back. It asks no hold: none kept the person when it was done.
func (v *Vault) replayErasure(ctx context.Context, t *txn, e *lineErasure, inData, inKeys bool) error {
	subjects := e.subjects()
	var part *portion
	if e.Part != nil {
		if inData {
			var err error
			if part, err = v.replayPart(ctx, t, e); err != nil {
				return err
			}
		}
	} else if inData && len(e.Kept) > 0 { // before the others are looked for, which are all that is still the person's
		if err := t.retainLawful(ctx, e.Kept, *e.Erased); err != nil {
			return err
		}
	}
	records := unpackIDs(e.Records)
	var id ID
	err := each(ctx, t.data, []any{&id}, func() error {
		records = append(records, id)
		return nil
	}, `select record_id from privault.records where tenant_id = $1 and subject_id = any($2)`, t.who.Tenant, subjects)
	if err != nil {
		return err
	}
	if inKeys {
		if _, err := t.keys.Exec(ctx, deleteKeys, t.who.Tenant, records); err != nil {
			return err
		}
	}
	if e.Part == nil {
		digests := append([][]byte{e.Digest}, e.Digests...) // and those of a backup, which may be under an older key
		err = eachBytes(ctx, t.data, func(digest []byte) { digests = append(digests, slices.Clone(digest)) }, `
			select digest from privault.subjects where tenant_id = $1 and subject_id = any($2)`, t.who.Tenant, subjects)
		if err != nil {
			return err
		}
		if err := t.forgetRequests(ctx, digests, e.Erased, inKeys); err != nil {
			return err
		}
		if _, _, err := t.forgetLinks(ctx, subjects, inKeys); err != nil {
			return err
		}
	}
	if err := t.answerWaiting(ctx, ID(e.ID), *e.Erased, compliedWith, nil); err != nil {
		return err
	}
	if !inData {
		return nil
	}
	// That recipients were told may be lost with the rest, so they are told once more.
	erasure := ID(e.ID)
	for _, subject := range subjects {
		about := happening{Certificate: formatID(erasurePrefix, erasure), Collections: part.affected(), erasure: &erasure}
		if err := t.emitOf(ctx, EventSubjectErased, subject, about); err != nil {
			return err
		}
	}
	if _, _, err := t.unbindRecords(ctx, records); err != nil {
		return err
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.erasing (tenant_id, subject_id, erasure_id) select $1, unnest($2::uuid[]), $3 on conflict do nothing`, t.who.Tenant, subjects, ID(e.ID))
	if err != nil {
		return err
	}
	if _, err := t.data.Exec(ctx, `delete from privault.subjects where tenant_id = $1 and subject_id = any($2)`, t.who.Tenant, subjects); err != nil {
		return err
	}
	if err := t.insertErasure(e, ErasureErased); err != nil {
		return err
	}
	if len(e.Suppressed) > 0 {
		on := map[string]string{}
		for _, s := range e.Suppressed {
			on[string(s.Digest)] = s.Kind
		}
		if err := t.insertSuppressed(ctx, on, &erasure); err != nil {
			return err
		}
	}
	_, err = t.enqueue(ctx, purgeJob, purgeParams{formatID(erasurePrefix, ID(e.ID))})
	return err
}

// Replay says what a replay of the ledger has done.
type Replay struct {
	Deployment   string
	Ledger       string
	Last         int64  // the ledger's last line
	Hash         string // its SHA-256, hexadecimal
	Data, Keys   int64  // how far the databases had it
	Lines        int    // that were applied
	Erasures     int    // of these
	Deferrals    int
	Holds        int
	Releases     int
	Facts        int // restrictions, objections and consents, said or taken back
	Links        int // of two references to one person
	Strange      int // of tenants that the database doesn't have
	Unfinished   int // lines that were never committed: the server finishes them when it starts
	ReplayedData int // of Lines, in the data database
	ReplayedKeys int // and in the keystore
}

// replayLock is the advisory lock of the one replay.
const replayLock int64 = 0x70726976_72657374

// ReplayLedger applies to databases that were set back what the ledger says was committed. It may be run again, and goes on where
// it was. The vault is one that was opened for Restoring.
func (v *Vault) ReplayLedger(ctx context.Context, progress func(done, total int)) (r Replay, err error) {
	if v.ledger == nil {
		return r, errors.New("there is no ledger to replay")
	}
	ran := false
	err = v.store.data.alone(ctx, replayLock, func(*pgxpool.Conn) error {
		ran = true
		r, err = v.replayAll(ctx, progress)
		return err
	})
	if err == nil && !ran {
		err = &Error{Kind: Conflict, Detail: "another replay is at work on this database"}
	}
	return r, err
}

func (v *Vault) replayAll(ctx context.Context, progress func(done, total int)) (r Replay, err error) {
	k, all, todo, err := v.behind(ctx)
	if err != nil {
		return r, err
	}
	l := v.ledger
	l.mu.Lock()
	r = Replay{Deployment: lineID(v.deployment).String(), Ledger: l.header.Ledger.String(), Last: k.last, Hash: fmt.Sprintf("%x", l.tip), Data: all[0].seq, Keys: all[1].seq}
	l.mu.Unlock()
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return r, err
	}
	var late []string // the others are not written to
	for _, a := range all {
		if len(k.missing(a)) > 0 {
			late = append(late, a.schema)
			if err := v.writeApplied(ctx, a.schema, l.header.Seq); err != nil {
				return r, err
			}
		}
	}
	gone, err := v.erasedAlready(k, all[0])
	if err != nil {
		return r, err
	}
	var failed []error
	stuck := map[ID]bool{} // what a line is about that could not be applied: later ones would come before it
	for i, seq := range todo {
		p, about := k.pending[seq], ID{}
		inData, inKeys := !all[0].has(seq), p.kind.inKeystore() && !all[1].has(seq)
		if !slices.Contains(tenants, p.tenant) {
			r.Strange++
		}
		err := v.reapply(ctx, seq, p, func(ctx context.Context, t *txn, line *ledgerLine) error {
			t.noteLine(line)
			if about = line.about(); stuck[about] {
				return errors.New("it waits for an earlier line")
			}
			data, keys, err := t.markApplied(ctx, seq, inData, inKeys)
			switch {
			case err != nil || !data && !keys || !slices.Contains(tenants, p.tenant) || gone.after(line):
				return err
			case line.Kind == erasureLine:
				return v.replayErasure(ctx, t, line.Erasure, data, keys)
			}
			return t.applyLine(ctx, line)
		})
		if err != nil {
			failed = append(failed, lineFailed(seq, err))
			if hopeless(ctx, err) {
				break
			}
			stuck[about] = true
			continue
		}
		r.count(p.kind, inData, inKeys)
		progress(i+1, len(todo))
	}
	for _, p := range k.pending {
		if !p.done {
			r.Unfinished++
		}
	}
	if all, err = v.appliedIn(ctx); err != nil {
		return r, errors.Join(append(failed, err)...)
	}
	if err := errors.Join(append(failed, v.settle(ctx, k, all, late...))...); err != nil {
		return r, err
	}
	return r, v.sweepOrphans(ctx)
}

// about is the id of what a line begins, changes or ends: the order of those with the same one counts.
func (l *ledgerLine) about() ID {
	switch {
	case l.Erasure != nil:
		return ID(l.Erasure.ID)
	case l.Hold != nil:
		return ID(l.Hold.ID)
	case l.Fact != nil:
		return ID(l.Fact.Subject)
	case l.Link != nil:
		return ID(l.Link.Subject)
	}
	return ID{}
}

// behind says which lines the databases lack, in their order.
func (v *Vault) behind(ctx context.Context) (k *knowledge, all []*applied, todo []int64, err error) {
	if err := v.ledger.refresh(); err != nil {
		return nil, nil, nil, err
	}
	k = v.ledger.knows()
	if all, err = v.appliedIn(ctx); err != nil {
		return nil, nil, nil, err
	}
	for _, a := range all {
		v.ledger.normalise(a)
		todo = append(todo, k.missing(a)...)
	}
	slices.Sort(todo)
	return k, all, slices.Compact(todo), nil
}

func (r *Replay) count(kind lineKind, inData, inKeys bool) {
	r.Lines++
	if inData {
		r.ReplayedData++
	}
	if inKeys {
		r.ReplayedKeys++
	}
	switch kind {
	case erasureLine:
		r.Erasures++
	case deferralLine, withdrawLine:
		r.Deferrals++
	case holdLine:
		r.Holds++
	case releaseLine:
		r.Releases++
	case factLine, factEndsLine:
		r.Facts++
	case linkLine:
		r.Links++
	}
}

// Report is the replay as lines of "name: value".
func (r *Replay) Report(title string, at time.Time, more ...[2]string) string {
	var b bytes.Buffer
	b.WriteString(title + "\n")
	for _, line := range append([][2]string{
		{"deployment", r.Deployment}, {"at", at.UTC().Format(time.RFC3339)},
		{"ledger", r.Ledger}, {"ledger-lines", fmt.Sprint(r.Last)}, {"ledger-tip", r.Hash},
		{"data-applied-before", fmt.Sprint(r.Data)}, {"keystore-applied-before", fmt.Sprint(r.Keys)},
		{"lines-replayed", fmt.Sprint(r.Lines)}, {"of-them-in-data", fmt.Sprint(r.ReplayedData)}, {"of-them-in-keystore", fmt.Sprint(r.ReplayedKeys)},
		{"erasures", fmt.Sprint(r.Erasures)}, {"deferred-erasures", fmt.Sprint(r.Deferrals)}, {"holds", fmt.Sprint(r.Holds)}, {"released-holds", fmt.Sprint(r.Releases)},
		{"restrictions-objections-consents", fmt.Sprint(r.Facts)}, {"links", fmt.Sprint(r.Links)}, {"of-unknown-tenants", fmt.Sprint(r.Strange)}, {"left-for-the-server-to-finish", fmt.Sprint(r.Unfinished)},
	}, more...) {
		b.WriteString(line[0] + ": " + line[1] + "\n")
	}
	return b.String()
}
