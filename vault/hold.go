package vault

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Hold is a legal hold: while it lasts, nothing deletes the records that fit all of Subject, Collection and Record that it
// names. One predicate says what is held (privault.held); deletion, erasure, expiry and sweeps ask it under holdLock, and a
// trigger asks it once more.
type Hold struct {
	ID         string
	Matter     string // what the hold is for, e.g. a case number
	Reason     string // one of HoldReasons
	Subject    string
	Collection string
	Record     string
	Created    time.Time
	Review     *time.Time // when somebody should look whether it is still needed
	Expires    *time.Time // when it ends by itself
	Released   *time.Time
}

// HoldReasons are the grounds of a hold.
var HoldReasons = []string{"litigation", "investigation", "legal-obligation", "public-interest", "claims"}

var matterShape = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// PlaceHold places a hold. It waits for deletions that are under way; those that come later find it.
func (v *Vault) PlaceHold(ctx context.Context, who Caller, h Hold) (Hold, error) {
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return Hold{}, v.refuseUnopened(ctx, who, policy.PlaceHold, err)
	}
	err = v.within(ctx, who, policy.PlaceHold, func(t *txn) error {
		if err := t.entry.require(policy.PlaceHold); err != nil {
			return err
		}
		if err := h.check(t.now); err != nil {
			return err
		}
		// What is sealed under an older key might be sealed after the job that seals it anew.
		keys, err := t.holdKeys(ctx, keys)
		if err != nil {
			return err
		}
		if err := t.holdLock(ctx, alone); err != nil {
			return err
		}
		target, err := t.holdTarget(ctx, keys, h)
		if err != nil {
			return err
		}
		if err := t.requireHoldable(ctx, target.record); err != nil {
			return err
		}
		id, err := newID()
		if err != nil {
			return err
		}
		var sealed []byte
		if h.Subject != "" {
			if sealed, err = keys.wrap.Encrypt([]byte(h.Subject), keys.holdPlace(id)); err != nil {
				return err
			}
		}
		h.ID, h.Created, h.Review, h.Expires = formatID(holdPrefix, id), t.now, microseconds(h.Review), microseconds(h.Expires)
		_, err = t.data.Exec(ctx, `
			insert into privault.holds (tenant_id, hold_id, matter, reason, subject_id, reference, collection_id, record_id,
				created_at, review_at, expires_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			who.Tenant, id, h.Matter, h.Reason, target.subject, sealed, target.collection, target.record, t.now, h.Review, h.Expires)
		if err != nil {
			return err
		}
		t.entry.Resources = []resource{{Hold: h.ID, Collection: h.Collection, Subject: formatOptional(subjectPrefix, target.subject),
			Records: some(h.Record)}}
		return t.enterHold(ctx, id, &h, target)
	})
	return h, err
}

func (h *Hold) check(now time.Time) error {
	var faults faults
	if h.Reason == "" {
		h.Reason = HoldReasons[0]
	}
	if !matterShape.MatchString(h.Matter) {
		faults.add("/matter", "matter", "a matter is 1 to 128 of A-Z a-z 0-9 . _ : -")
	}
	if !slices.Contains(HoldReasons, h.Reason) {
		faults.add("/reason", "reason", "the reasons are "+list(HoldReasons))
	}
	if h.Subject == "" && h.Collection == "" && h.Record == "" {
		faults.add("", "target", "name a subject, a collection or a record")
	}
	for at, when := range map[string]*time.Time{"/expires_at": h.Expires, "/review_at": h.Review} {
		if when != nil && !when.After(now) {
			faults.add(at, "future", "the time is not in the future")
		}
	}
	if h.Subject != "" {
		if err := checkSubject(h.Subject, "/subject"); err != nil {
			return err
		}
	}
	return faults.err()
}

// target is what a hold names, by id.
type target struct{ subject, collection, record *ID }

// holdTarget finds what a hold names. A person of whom nothing is stored yet may be named: what comes later is held.
func (t *txn) holdTarget(ctx context.Context, keys *tenantKeys, h Hold) (to target, err error) {
	if h.Collection != "" {
		c, err := t.namedCollection(ctx, h.Collection)
		if AsError(err).Kind == NotFound {
			return to, invalid("/collection", "unknown-collection", "there is no such collection")
		}
		if err != nil {
			return to, err
		}
		to.collection = &c.id
	}
	if h.Record != "" {
		id, ok := parseID(recordPrefix, h.Record)
		if !ok {
			return to, errUnknownRecord
		}
		to.record = &id
	}
	if h.Subject != "" {
		id, err := t.ensureSubject(ctx, keys, h.Subject)
		if err != nil {
			return to, err
		}
		to.subject = &id
	}
	return to, nil
}

var errUnknownRecord = invalid("/record", "unknown-record", "there is no such record")

// requireHoldable refuses to hold a record that isn't there. It is asked under the lock: one that a sweep was about to delete must not be
// acknowledged as held.
func (t *txn) requireHoldable(ctx context.Context, record *ID) error {
	if record == nil {
		return nil
	}
	var there bool
	err := t.data.QueryRow(ctx, `
		select exists (select from privault.records r where r.tenant_id = $1 and r.record_id = $2 and `+notErasing+`)`, t.who.Tenant, *record).Scan(&there)
	if err == nil && !there {
		return errUnknownRecord
	}
	return err
}

func (k *tenantKeys) holdPlace(hold ID) []byte { return append(k.bound("privault/1/hold"), hold[:]...) }

// ListHolds reads up to limit holds, newest first, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListHolds(ctx context.Context, who Caller, cursor string, limit int) (page []Hold, next string, err error) {
	err = v.readList(ctx, who, policy.ReadHold, "holds", cursor, func(t *txn, keys *tenantKeys, before string) error {
		rows, err := t.data.Query(ctx, `
			select h.hold_id, h.matter, h.reason, h.reference, coalesce(c.name, ''), h.record_id, h.created_at, h.review_at, h.expires_at, h.released_at
			from privault.holds h left join privault.collections c using (tenant_id, collection_id)
			where h.tenant_id = $1 and h.hold_id < $2 order by h.hold_id desc limit $3`, who.Tenant, idBefore(holdPrefix, before), limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, keys.scanHold, "holds", limit, func(h Hold) string { return h.ID })
		return err
	})
	return page, next, err
}

func (k *tenantKeys) scanHold(r pgx.CollectableRow) (Hold, error) {
	var h Hold
	var id ID
	var record *ID
	var reference []byte
	err := r.Scan(&id, &h.Matter, &h.Reason, &reference, &h.Collection, &record, &h.Created, &h.Review, &h.Expires, &h.Released)
	if err != nil {
		return h, err
	}
	h.ID, h.Record = formatID(holdPrefix, id), formatOptional(recordPrefix, record)
	if reference != nil {
		subject, err := k.wrap.Decrypt(reference, k.holdPlace(id))
		if err != nil {
			return h, &Error{Kind: IntegrityFailure, cause: errors.New("the subject of a hold does not open")}
		}
		h.Subject = string(subject)
	}
	return h, nil
}

// ReleaseHold ends a hold. Erasures that only waited for it are done by a job.
func (v *Vault) ReleaseHold(ctx context.Context, who Caller, hold string) error {
	return v.within(ctx, who, policy.ReleaseHold, func(t *txn) error {
		id, ok := parseID(holdPrefix, hold)
		if !ok {
			return fail(NotFound, "")
		}
		done, err := t.data.Exec(ctx, releaseHold, who.Tenant, id, t.now)
		if err != nil {
			return err
		}
		if done.RowsAffected() == 0 {
			return fail(NotFound, "")
		}
		t.entry.Resources = []resource{{Hold: hold}}
		if err := t.entry.require(policy.ReleaseHold); err != nil {
			return err
		}
		t.enter(&ledgerLine{Kind: releaseLine, Hold: &lineHold{ID: lineID(id), At: t.now}})
		_, err = t.enqueue(ctx, deferredJob, struct{}{})
		return err
	})
}

const releaseHold = `
	update privault.holds set released_at = coalesce(released_at, $3) where tenant_id = $1 and hold_id = $2`

// some is a list of one, or none for the empty text.
func some(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

// mode is how a lock is held.
type mode string

const (
	alone  mode = `select pg_advisory_xact_lock(hashtextextended($1, 0))`        // who places a hold
	shared mode = `select pg_advisory_xact_lock_shared(hashtextextended($1, 0))` // who deletes
)

// holdLock puts deletions and new holds in an order: one that deletes shares it, who places a hold or makes two persons one has it
// alone, until the transaction ends. It comes before the look at the holds, whose snapshot must be taken under it, and before
// any person or record is locked.
func (t *txn) holdLock(ctx context.Context, m mode) error {
	_, err := t.data.Exec(ctx, string(m), tenantSetting(t.who.Tenant)+"/holds")
	return err
}

// requireUnheld refuses to go on if a hold keeps the record. It is asked under holdLock.
func (t *txn) requireUnheld(ctx context.Context, record ID) error {
	var held bool
	err := t.data.QueryRow(ctx, `
		select privault.held(r, $3) from privault.records r where r.tenant_id = $1 and r.record_id = $2`,
		t.who.Tenant, record, t.now).Scan(&held)
	if err == nil && held {
		return fail(LegalHold, "a legal hold keeps this record")
	}
	return err
}
