package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/privault/privault/vault/policy"
)

// Disclosure accounting: which of a person's records were touched, by whom, why and when. A row of privault.disclosures says
// that an entry is about a record of a subject, and commits with the entry. The subject's id there is random: without the
// person's row in privault.subjects nobody can say whose it was.

// touch is a record of a subject that an operation touched.
type touch struct{ subject, record ID }

// touches notes that an operation is about a record, if it is somebody's.
func (e *entry) touches(subject *ID, record ID) {
	if subject != nil {
		e.touched = append(e.touched, touch{*subject, record})
	}
}

const insertDisclosures = `
	insert into privault.disclosures (tenant_id, entry_id, subject_id, record_id)
	select $1, d.entry_id, d.subject_id, d.record_id from unnest($2::uuid[], $3::uuid[], $4::uuid[]) as d(entry_id, subject_id, record_id)`

// Of records that were just stored: those whose change was admitted are there, and say whose they are.
const insertRecordDisclosures = `
	insert into privault.disclosures (tenant_id, entry_id, subject_id, record_id)
	select $1, d.entry_id, r.subject_id, r.record_id from unnest($2::uuid[], $3::uuid[]) as d(entry_id, record_id)
	join privault.records r on r.tenant_id = $1 and r.record_id = d.record_id
	where r.subject_id is not null`

// insertDisclosures writes what an operation with a transaction of its own has touched.
func (t *txn) insertDisclosures(ctx context.Context) error {
	n := len(t.entry.touched)
	if n == 0 {
		return nil
	}
	subjects, records := make([]ID, n), make([]ID, n)
	for i, touched := range t.entry.touched {
		subjects[i], records[i] = touched.subject, touched.record
	}
	_, err := t.data.Exec(ctx, insertDisclosures, t.who.Tenant, slices.Repeat([]ID{t.entry.id}, n), subjects, records)
	return err
}

// Disclosure is one operation on a person's records: of its resources only what is the person's.
type Disclosure struct {
	Entry      string     `json:"entry"`
	At         string     `json:"at"`
	Request    string     `json:"request,omitempty"`
	Principal  string     `json:"principal,omitempty"`
	Credential string     `json:"credential,omitempty"`
	Purpose    string     `json:"purpose,omitempty"`
	Action     string     `json:"action"`
	Outcome    string     `json:"outcome"`
	Resources  []resource `json:"resources"`
}

// Disclosures reads up to limit of the operations on a person's records, the newest first.
func (v *Vault) Disclosures(ctx context.Context, who Caller, subject, cursor string, limit int) (page []Disclosure, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadAudit, err)
	}
	err = v.within(ctx, who, policy.ReadAudit, func(t *txn) error {
		s, err := t.knownSubject(ctx, keys, subject)
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ReadAudit); err != nil {
			return err
		}
		list := "disclosures\x00" + string(s.id[:])
		before, err := t.entryCursor(keys, list, cursor, t.now.AddDate(100, 0, 0))
		if err != nil {
			return err
		}
		var last ID
		if page, last, err = t.disclosures(ctx, s.id, before, limit+1); err != nil || len(page) <= limit {
			t.entry.Items = len(page)
			return err
		}
		page, t.entry.Items = page[:limit], limit
		next, err = keys.sealCursor(list, string(last[:]))
		return err
	})
	return page, next, err
}

// disclosures gives limit disclosures before an entry, and the id of the last but one.
func (t *txn) disclosures(ctx context.Context, subject, before ID, limit int) (page []Disclosure, last ID, err error) {
	known, err := t.idsOf(ctx, subject)
	if err != nil {
		return nil, last, err
	}
	var entry ID
	var ids []ID
	var records []ID
	var body string
	err = each(ctx, t.data, []any{&entry, &records, &body}, func() error {
		d, err := disclosed(records, body)
		ids, page = append(ids, entry), append(page, d)
		return err
	}, `
		with page as (
			select distinct d.entry_id from unnest($2::uuid[]) as k(subject_id), lateral `+entriesAbout+` order by d.entry_id desc limit $4)
		select p.entry_id, array(
			select d.record_id from privault.disclosures d where d.tenant_id = $1 and d.subject_id = any($2) and d.entry_id = p.entry_id), e.body
		from page p join privault.audit_entries e on e.tenant_id = $1 and e.entry_id = p.entry_id
		order by p.entry_id desc`, t.who.Tenant, known, before, limit)
	if len(ids) > 1 {
		last = ids[len(ids)-2]
	}
	return page, last, err
}

// entriesAbout are the newest $4 entries before $3 of each of the ids k.subject_id that a person is known by: each in the order of the
// primary key.
const entriesAbout = `(
	select distinct d.entry_id from privault.disclosures d
	where d.tenant_id = $1 and d.subject_id = k.subject_id and d.entry_id < $3 order by d.entry_id desc limit $4) d`

// disclosed cuts an entry down to some of its records.
func disclosed(records []ID, body string) (d Disclosure, err error) {
	var e entry
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		return d, &Error{Kind: IntegrityFailure, cause: fmt.Errorf("an audit entry does not parse: %w", err)}
	}
	theirs := make(map[string]bool, len(records))
	for _, id := range records {
		theirs[formatID(recordPrefix, id)] = true
	}
	d = Disclosure{Entry: e.ID, At: e.At, Request: e.Request, Principal: e.Principal, Credential: e.Credential, Purpose: e.Purpose,
		Action: e.Action, Outcome: e.Outcome, Resources: []resource{}}
	for _, r := range e.Resources {
		r.Records = slices.DeleteFunc(r.Records, func(id string) bool { return !theirs[id] })
		r.Sealed = nil
		if len(r.Records) > 0 {
			d.Resources = append(d.Resources, r)
		}
	}
	return d, nil
}
