package vault

import (
	"bytes"
	"context"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/privault/privault/vault/policy"
)

// An owner finds that two references are one person. A link says so, and from its commit on everything that is asked or done under either
// acts on the one person. Where each was a person of their own, all that is known of the other becomes the first's: records, facts and
// their history, holds, what recipients are to be told, and the suppression list. Requests stay with the reference that they were made
// under, which finds the person. The accounting of disclosures is never changed: privault.subject_links says under which other ids the
// person is in it.
//
// A link isn't undone: nothing says afterwards which of the person's statements were made under which reference, and both are kept by what
// protects either. Records made under either reference still carry it, sealed.

// Link is how a reference came to be a person's.
type Link struct {
	ID      string
	Subject string // the reference that was the person's; empty, as Linked is, where a restore has lost them
	Linked  string // the one that was linked to it
	Reason  string // one of LinkReasons
	Merged  bool   // Linked was known before, as another person
	Records int    // that were theirs
	At      time.Time
	By      string // the principal
}

// LinkReasons are why two references are one person: one was made by mistake, one was replaced by the other, somebody unknown was
// recognised, the person said so.
var LinkReasons = []string{"duplicate", "replaced", "recognised", "person-confirmed"}

const (
	// All of them are changed in one transaction, which other calls for the same persons wait for (TestMergingManyRecordsIsQuick measures it).
	maxMergedRecords = 50_000
	maxLinks         = 100 // of one person
)

// linkTerms are what a link says of the person. They are sealed under a key of the link's own, which goes when the person is erased.
type linkTerms struct {
	Subject string `json:"subject"`
	Linked  string `json:"linked"`
}

const linkVersion = 1 // of the key

// LinkSubjects makes other a reference of the person whom reference finds. Linking what is linked already changes nothing, and gives the
// link; created says whether it is new.
func (v *Vault) LinkSubjects(ctx context.Context, who Caller, reference, other, reason string) (l *Link, created bool, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, false, v.refuseUnopened(ctx, who, policy.LinkSubjects, err)
	}
	err = v.within(ctx, who, policy.LinkSubjects, func(t *txn) error {
		t.repeatable = true
		keys, err := t.holdKeys(ctx, keys)
		if err != nil {
			return err
		}
		// No erasure, deletion, hold or other link is under way then.
		if err := t.holdLock(ctx, alone); err != nil {
			return err
		}
		digests, err := t.eachDigest(ctx, keys, reference, other)
		if err != nil {
			return err
		}
		if _, err := t.requireSubject(ctx, keys, reference, policy.LinkSubjects); err != nil {
			return err
		}
		if err := checkLink(reference, other, reason); err != nil {
			return err
		}
		l = &Link{Subject: reference, Linked: other, Reason: reason, At: t.now, By: formatID(principalPrefix, who.Principal)}
		created, err = t.link(ctx, keys, l, digests)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return l, created, nil
}

func checkLink(reference, other, reason string) error {
	if err := checkSubject(other, "/subject"); err != nil {
		return err
	}
	var faults faults
	if other == reference {
		faults.add("/subject", "same", "a reference is not linked to itself")
	}
	if !slices.Contains(LinkReasons, reason) {
		faults.add("/reason", "reason", "the reasons are "+list(LinkReasons))
	}
	return faults.err()
}

// link makes the link l of two references, with their digests, the first of which is somebody's; false: there was one, which l is then.
func (t *txn) link(ctx context.Context, keys *tenantKeys, l *Link, digests [][]byte) (bool, error) {
	p, err := t.lockPair(ctx, digests, keys.generation)
	if err != nil {
		return false, err
	}
	if p.stays == p.goes {
		return false, t.linked(ctx, keys, p, l)
	}
	if err := t.requireLinkable(ctx, p); err != nil {
		return false, err
	}
	p.link, err = newID()
	if err != nil {
		return false, err
	}
	l.ID, l.Merged = formatID(linkPrefix, p.link), !p.anew
	sealed, err := t.sealPart(ctx, keys, p.link, linkVersion, linkTerms{l.Subject, l.Linked})
	if err != nil {
		return false, err
	}
	if err := t.merge(ctx, p, l, t.who.Principal, sealed); err != nil {
		return false, err
	}
	if err := t.listAlike(ctx, keys, p, l); err != nil {
		return false, err
	}
	if l.Merged {
		t.entry.Resources = append(t.entry.Resources, resource{Subject: formatID(subjectPrefix, p.goes), Outcome: outcomeMerged})
	}
	t.enter(&ledgerLine{Kind: linkLine, Link: &lineLink{ID: lineID(p.link), Subject: lineID(p.stays), Digest: digests[0], Other: lineID(p.goes),
		OtherDigest: digests[1], Merged: l.Merged, Reason: l.Reason, At: t.now, By: lineID(t.who.Principal)}})
	return true, nil
}

// pair are two persons who are about to be one, locked under all their references.
type pair struct {
	stays, goes ID       // the same: they are one already
	digests     [][]byte // of all references of both
	other       []byte   // that of the reference that is linked
	links       [2]*ID   // by which each of the two references was linked before
	anew        bool     // nobody was known by the second reference
	link        ID
}

// lockPair locks the persons of two digests, and makes somebody of the second if there is nobody. It is called under holdLock, alone.
func (t *txn) lockPair(ctx context.Context, digests [][]byte, generation int32) (*pair, error) {
	p := &pair{other: digests[1]}
	// In one order with the commits of records, which bring new persons in it too.
	n := newSubjects{digests: slices.SortedFunc(slices.Values(digests), slices.Compare)}
	var fresh ID
	for _, digest := range n.digests {
		id, err := newID()
		if err != nil {
			return nil, err
		}
		if bytes.Equal(digest, p.other) {
			fresh = id
		}
		n.ids, n.generation = append(n.ids, id), append(n.generation, generation)
	}
	// By the persons and not by their digests: those move when keys have changed.
	const theirs = `where tenant_id = $1 and subject_id = any(array(select s.subject_id from privault.subjects s where s.tenant_id = $1 and s.digest = any($2)))`
	b := &pgx.Batch{}
	b.Queue(`select from privault.subjects `+theirs+` order by digest for update`, t.who.Tenant, digests)
	n.queue(b, t.who.Tenant, t.now)
	b.Queue(`select digest from privault.subjects `+theirs, t.who.Tenant, digests).Query(func(rows pgx.Rows) (err error) {
		p.digests, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
		return err
	})
	for i, into := range []*ID{&p.stays, &p.goes} {
		b.Queue(`select subject_id, link_id from privault.subjects where tenant_id = $1 and digest = $2`, t.who.Tenant, digests[i]).
			QueryRow(func(row pgx.Row) error { return row.Scan(into, &p.links[i]) })
	}
	err := t.data.SendBatch(ctx, b).Close()
	p.anew = p.goes == fresh
	return p, err
}

// linked finds the link that made two references one person's.
func (t *txn) linked(ctx context.Context, keys *tenantKeys, p *pair, l *Link) error {
	by := p.links[1]
	if by == nil {
		by = p.links[0]
	}
	rows, err := t.data.Query(ctx, selectLinks+`link_id = $2`, t.who.Tenant, by)
	if err != nil {
		return err
	}
	found, err := pgx.CollectExactlyOneRow(rows, scanLink)
	if err == nil {
		err = t.openLinks(ctx, keys, []*storedLink{found})
	}
	if err != nil {
		return err
	}
	*l = found.Link
	return nil
}

// erasureWaits says whether an erasure of one of a pair waits for a hold.
func (t *txn) erasureWaits(ctx context.Context, digests [][]byte) (waits bool, err error) {
	err = t.data.QueryRow(ctx, `
		select exists (select from privault.erasures where tenant_id = $1 and `+erasedUnder+` and state = 'deferred')`,
		t.who.Tenant, digests).Scan(&waits)
	return waits, err
}

// requireLinkable refuses what must not become one person, or can't.
func (t *txn) requireLinkable(ctx context.Context, p *pair) error {
	waits, err := t.erasureWaits(ctx, p.digests)
	if err != nil {
		return err
	}
	if waits {
		return fail(Conflict, "an erasure of one of the two waits for a legal hold; link them when it is done")
	}
	erased, err := t.erasureOf(ctx, [][]byte{p.other})
	if err != nil {
		return err
	}
	var records, links int
	err = t.data.QueryRow(ctx, `
		select (select count(*) from privault.records where tenant_id = $1 and subject_id = $2),
			(select count(*) from privault.subject_links where tenant_id = $1 and subject_id = any($3))`,
		t.who.Tenant, p.goes, []ID{p.stays, p.goes}).Scan(&records, &links)
	switch {
	case err != nil:
		return err
	case erased != nil && records == 0: // who has come again since is somebody
		return &Error{Kind: SubjectErased, Detail: "the person of the other reference was erased, and is not brought back by a link"}
	case records > maxMergedRecords:
		return fail(Conflict, "the person of the other reference has more than %d records; link the two the other way round", maxMergedRecords)
	case links >= maxLinks:
		return fail(Conflict, "a person has at most %d links", maxLinks)
	}
	return nil
}

// merge makes everything of one of a pair the other's, and writes the link. Where both have something to say, what protects more is kept:
// either's restriction, allowing what both allow; either's objection; and a consent that one of them has withdrawn is withdrawn.
// The one that stays keeps its jurisdiction, and takes the other's if it has none.
func (t *txn) merge(ctx context.Context, p *pair, l *Link, by ID, sealed []byte) error {
	newlyRestricted, err := t.mergeFacts(ctx, p, l, by)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(`update privault.records set subject_id = $2 where tenant_id = $1 and subject_id = $3`, t.who.Tenant, p.stays, p.goes).
		Exec(func(done pgconn.CommandTag) error { l.Records = int(done.RowsAffected()); return nil })
	for _, table := range []string{"holds", "webhook_deliveries", "subject_links"} {
		b.Queue(`update privault.`+table+` set subject_id = $2 where tenant_id = $1 and subject_id = $3`, t.who.Tenant, p.stays, p.goes)
	}
	b.Queue(`
		update privault.subjects set subject_id = $2, link_id = coalesce(link_id, $4) where tenant_id = $1 and subject_id = $3`,
		t.who.Tenant, p.stays, p.goes, p.link)
	if err := t.data.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	var merged *ID
	if l.Merged {
		merged = &p.goes
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.subject_links (tenant_id, link_id, subject_id, merged_id, records, reason, linked_at, principal_id, sealed)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, t.who.Tenant, p.link, p.stays, merged, l.Records, l.Reason, l.At, by, sealed)
	if err != nil || !newlyRestricted || !l.Merged {
		return err
	}
	return t.emitOf(ctx, EventSubjectRestricted, p.stays, happening{subject: &p.stays})
}

// mergeFacts is merge of what the two have said, with the history; restricted says that one of the two was, and both are now.
func (t *txn) mergeFacts(ctx context.Context, p *pair, l *Link, by ID) (restricted bool, err error) {
	both := []ID{p.stays, p.goes}
	err = t.data.QueryRow(ctx, `
		select count(*) = 1 from privault.subject_facts where tenant_id = $1 and subject_id = any($2) and kind = 'restriction'`,
		t.who.Tenant, both).Scan(&restricted)
	if err != nil {
		return false, err
	}
	var said Said
	var withdrawn []Said
	err = each(ctx, t.data, []any{&said.Purpose, &said.TextVersion}, func() error {
		withdrawn = append(withdrawn, said)
		return nil
	}, `
		with latest as (
			select distinct on (h.subject_id, h.purpose) h.subject_id, h.purpose, h.begins from privault.subject_history h
			where h.tenant_id = $1 and h.subject_id = any($2) and h.kind = 'consent'
			order by h.subject_id, h.purpose, h.at desc, h.event_id desc)
		delete from privault.subject_facts f using latest l
		where f.tenant_id = $1 and f.subject_id = any($2) and f.kind = 'consent' and f.purpose = l.purpose and f.subject_id <> l.subject_id and not l.begins
		returning f.purpose, f.text_version`, t.who.Tenant, both)
	if err != nil {
		return false, err
	}
	b := &pgx.Batch{}
	b.Queue(`
		insert into privault.subject_facts as f (tenant_id, subject_id, kind, purpose, text_version, reference, allowed, since, jurisdiction)
		select o.tenant_id, $2, o.kind, o.purpose, o.text_version, o.reference, o.allowed, o.since, o.jurisdiction
		from privault.subject_facts o where o.tenant_id = $1 and o.subject_id = $3
		on conflict (tenant_id, subject_id, kind, purpose) do update set
			allowed = array(select i.purpose from (select unnest(f.allowed) as purpose intersect select unnest(excluded.allowed)) i order by i.purpose collate "C"),
			text_version = case when f.kind = 'consent' and excluded.since > f.since then excluded.text_version else f.text_version end,
			reference = case when f.kind = 'consent' and excluded.since > f.since then excluded.reference else f.reference end,
			since = case f.kind when 'consent' then greatest(f.since, excluded.since) when 'jurisdiction' then f.since
				else least(f.since, excluded.since) end`,
		t.who.Tenant, p.stays, p.goes)
	b.Queue(`delete from privault.subject_facts where tenant_id = $1 and subject_id = $2`, t.who.Tenant, p.goes)
	b.Queue(`
		with moved as (delete from privault.subject_history where tenant_id = $1 and subject_id = $3 returning *)
		insert into privault.subject_history (tenant_id, subject_id, event_id, at, principal_id, kind, purpose, begins, text_version, reference, allowed, informed_at)
		select m.tenant_id, $2, m.event_id, m.at, m.principal_id, m.kind, m.purpose, m.begins, m.text_version, m.reference, m.allowed, m.informed_at
		from moved m`, t.who.Tenant, p.stays, p.goes)
	for _, w := range withdrawn {
		id, err := newID()
		if err != nil {
			return false, err
		}
		b.Queue(insertHistory, t.who.Tenant, p.stays, id, l.At, by, consentFact, w.Purpose, false, w.TextVersion,
			formatID(linkPrefix, p.link), []string{}, nil)
	}
	return restricted, t.data.SendBatch(ctx, b).Close()
}

// listAlike puts all references of a person on the suppression list, where one of them is.
func (t *txn) listAlike(ctx context.Context, keys *tenantKeys, p *pair, l *Link) error {
	on := slices.Clone(p.digests) // and, since the list isn't moved to new keys, what was found under older ones
	for _, reference := range []string{l.Subject, l.Linked} {
		s, err := keys.subject(reference)
		if err != nil {
			return err
		}
		on = append(on, s.all...)
	}
	return t.insertAlike(ctx, on, p.digests)
}

// insertAlike puts digests of a person on the list where one that is on it is the person's. Who is put there by hand meanwhile waits, or is found.
func (t *txn) insertAlike(ctx context.Context, on, digests [][]byte) error {
	if err := t.suppressionLock(ctx); err != nil {
		return err
	}
	_, err := t.data.Exec(ctx, `
		insert into privault.suppressions (tenant_id, digest, suppression_id, kind, erasure_id, created_at)
		select distinct s.tenant_id, o.digest, s.suppression_id, s.kind, s.erasure_id, s.created_at
		from privault.suppressions s cross join unnest($3::bytea[]) as o(digest)
		where s.tenant_id = $1 and s.digest = any($2) and s.kind = $4
		on conflict do nothing`, t.who.Tenant, on, digests, suppressedSubject)
	return err
}

// forgetLinks is a part of the moment of erasure: how references came to be a person's, with the keys. It gives the links, and under which
// other ids the person was known.
func (t *txn) forgetLinks(ctx context.Context, subjects []ID, inKeys bool) (links, merged []ID, err error) {
	var link ID
	var was *ID
	err = each(ctx, t.data, []any{&link, &was}, func() error {
		if links = append(links, link); was != nil {
			merged = append(merged, *was)
		}
		return nil
	}, `delete from privault.subject_links where tenant_id = $1 and subject_id = any($2) returning link_id, merged_id`, t.who.Tenant, subjects)
	if err == nil && inKeys && len(links) > 0 {
		_, err = t.keys.Exec(ctx, deleteKeys, t.who.Tenant, links)
	}
	return links, merged, err
}

// lineLink is what the ledger says of a link.
type lineLink struct {
	ID          lineID    `json:"id"`
	Subject     lineID    `json:"subject"`
	Digest      []byte    `json:"digest"`
	Other       lineID    `json:"other"` // whom the linked reference found
	OtherDigest []byte    `json:"other_digest"`
	Merged      bool      `json:"merged,omitempty"` // who was known before
	Reason      string    `json:"reason"`
	At          time.Time `json:"at"`
	By          lineID    `json:"by"` // the principal
}

// applyLink makes two persons one whom a restored database has as two. What the link was sealed under is lost.
func (t *txn) applyLink(ctx context.Context, l *lineLink) error {
	digests := make([][]byte, 2)
	for i, of := range []struct {
		subject *lineID
		digest  []byte
	}{{&l.Subject, l.Digest}, {&l.Other, l.OtherDigest}} {
		id, err := t.restoreSubject(ctx, of.subject, of.digest, l.At)
		if err == nil {
			digests[i], err = t.digestOf(ctx, *id)
		}
		if err != nil {
			return err
		}
	}
	p, err := t.lockPair(ctx, digests, math.MaxInt32)
	if err != nil || p.stays == p.goes {
		return err
	}
	p.link = ID(l.ID)
	// Whoever has come under the other reference since was somebody too.
	if err := t.merge(ctx, p, &Link{Merged: l.Merged || p.goes != ID(l.Other) && !p.anew, Reason: l.Reason, At: l.At}, ID(l.By), nil); err != nil {
		return err
	}
	return t.insertAlike(ctx, append([][]byte{l.Digest, l.OtherDigest}, p.digests...), p.digests)
}

// storedLink is a link as it is in the database.
type storedLink struct {
	Link
	id     ID
	sealed []byte
}

const selectLinks = `
	select link_id, merged_id is not null, records, reason, linked_at, principal_id, sealed from privault.subject_links
	where tenant_id = $1 and `

func scanLink(row pgx.CollectableRow) (*storedLink, error) {
	l := &storedLink{}
	var by ID
	err := row.Scan(&l.id, &l.Merged, &l.Records, &l.Reason, &l.At, &by, &l.sealed)
	l.ID, l.By = formatID(linkPrefix, l.id), formatID(principalPrefix, by)
	return l, err
}

// openLinks opens what links say of the person, as far as they have their keys.
func (t *txn) openLinks(ctx context.Context, keys *tenantKeys, all []*storedLink) error {
	by, ids := map[ID]*storedLink{}, []ID{}
	for _, l := range all {
		if l.sealed != nil {
			by[l.id], ids = l, append(ids, l.id)
		}
	}
	var id ID
	var wrapped []byte
	return each(ctx, t.keys, []any{&id, &wrapped}, func() error {
		var terms linkTerms
		l := by[id]
		err := keys.openPart(id, linkVersion, wrapped, l.sealed, &terms)
		l.Subject, l.Linked = terms.Subject, terms.Linked
		return err
	}, `
		select record_id, wrapped from keystore.data_keys where tenant_id = $1 and record_id = any($2) and version = $3`,
		t.who.Tenant, ids, linkVersion)
}

// Links gives up to limit of the links of a person's references, the newest first, from cursor on; the next cursor is empty at the end.
func (v *Vault) Links(ctx context.Context, who Caller, reference, cursor string, limit int) (page []Link, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadSubject, err)
	}
	err = v.within(ctx, who, policy.ReadSubject, func(t *txn) error {
		s, err := t.requireSubject(ctx, keys, reference, policy.ReadSubject)
		if err != nil {
			return err
		}
		list := "links/" + formatID(subjectPrefix, s.id)
		after, err := keys.openCursor(list, cursor)
		if err != nil {
			return err
		}
		rows, err := t.data.Query(ctx, selectLinks+`subject_id = $2 and link_id < $3 order by link_id desc limit $4`,
			who.Tenant, s.id, idBefore(linkPrefix, after), limit+1)
		if err != nil {
			return err
		}
		all, more, err := pageOf(keys, rows, scanLink, list, limit, func(l *storedLink) string { return l.ID })
		if err != nil {
			return err
		}
		next = more
		if err := t.openLinks(ctx, keys, all); err != nil {
			return err
		}
		page = make([]Link, len(all))
		for i, l := range all {
			page[i] = l.Link
		}
		return nil
	})
	return page, next, err
}

// knownIDs selects the ids of idsOf, as subject_id, by the digest of a reference.
func knownIDs(digest string) string {
	return `select s.subject_id from privault.subjects s where s.tenant_id = $1 and s.digest = ` + digest + `
		union all select l.merged_id from privault.subjects s join privault.subject_links l using (tenant_id, subject_id)
		where s.tenant_id = $1 and s.digest = ` + digest + ` and l.merged_id is not null`
}

// idsOf are the ids under which a person is known, or was before others were found to be them: the accounting of disclosures has all of them.
func (t *txn) idsOf(ctx context.Context, subject ID) ([]ID, error) {
	rows, err := t.data.Query(ctx, `
		select merged_id from privault.subject_links where tenant_id = $1 and subject_id = $2 and merged_id is not null`, t.who.Tenant, subject)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[ID])
	return append(ids, subject), err
}
