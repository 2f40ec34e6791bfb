package vault

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// What a person says about its data, as its controller records it: consent to a purpose, objection to one, restriction of
// all processing. Each is in force on every replica once it is acknowledged, and its history is kept until the person is
// erased. A person may say so before anything of it is stored.

// Said is one of these as it holds now.
type Said struct {
	Purpose     string // empty for a restriction
	TextVersion string // of the text that consent was asked with
	Reference   string // evidence of a consent or an objection; the reason of a restriction
	Allowed     []string
	Since       time.Time

	Jurisdiction string // nothing else is said then (jurisdiction.go)
}

// ConsentEvent is one entry of a person's history of consents.
type ConsentEvent struct {
	ID          string
	Purpose     string
	Given       bool // or withdrawn
	TextVersion string
	Reference   string
	At          time.Time
	By          string // the principal
}

// GiveConsent records that a person consented to a purpose.
func (v *Vault) GiveConsent(ctx context.Context, who Caller, subject, purpose, textVersion, evidence string) (Said, bool, error) {
	said := Said{Purpose: purpose, TextVersion: textVersion, Reference: evidence}
	created, err := v.say(ctx, who, policy.WriteConsents, subject, consentFact, &said, func(p *Purpose) error {
		var faults faults
		if !opaqueReference.MatchString(textVersion) {
			faults.add("/text_version", "reference", referenceRule)
		} else if p.TextVersion != "" && p.TextVersion != textVersion {
			faults.add("/text_version", "text-version", "consent to this purpose is asked with another version of the text")
		}
		checkReference(&faults, "/evidence", evidence)
		return faults.err()
	})
	return said, created, err
}

// WithdrawConsent records that a person withdrew its consent to a purpose.
func (v *Vault) WithdrawConsent(ctx context.Context, who Caller, subject, purpose string) error {
	return v.unsay(ctx, who, policy.WriteConsents, subject, consentFact, purpose, nil)
}

// Object records that a person objected to a purpose.
func (v *Vault) Object(ctx context.Context, who Caller, subject, purpose, evidence string) (Said, bool, error) {
	said := Said{Purpose: purpose, Reference: evidence}
	created, err := v.say(ctx, who, policy.WriteConsents, subject, objectionFact, &said, func(*Purpose) error {
		var faults faults
		checkReference(&faults, "/evidence", evidence)
		return faults.err()
	})
	return said, created, err
}

// WithdrawObjection records that a person no longer objects to a purpose.
func (v *Vault) WithdrawObjection(ctx context.Context, who Caller, subject, purpose string) error {
	return v.unsay(ctx, who, policy.WriteConsents, subject, objectionFact, purpose, nil)
}

// Restrict keeps a person's data from being read, changed and deleted, but for the purposes that are allowed.
func (v *Vault) Restrict(ctx context.Context, who Caller, subject, reason string, allowed []string) (Said, bool, error) {
	said := Said{Reference: reason, Allowed: sortedNames(allowed)}
	created, err := v.say(ctx, who, policy.Restrict, subject, restrictionFact, &said, nil)
	return said, created, err
}

// LiftRestriction ends a restriction. The person must have been told before (GDPR 18(3)), and when is kept.
func (v *Vault) LiftRestriction(ctx context.Context, who Caller, subject string, informed time.Time) error {
	return v.unsay(ctx, who, policy.Restrict, subject, restrictionFact, "", &informed)
}

func checkReference(faults *faults, at, reference string) {
	if reference != "" && !opaqueReference.MatchString(reference) {
		faults.add(at, "reference", referenceRule)
	}
}

// say records a fact that holds from now on. Saying the same again changes nothing.
func (v *Vault) say(ctx context.Context, who Caller, action policy.Action, reference, kind string, said *Said, check func(*Purpose) error) (created bool, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return false, v.refuseUnopened(ctx, who, action, err)
	}
	err = v.within(ctx, who, action, func(t *txn) error {
		p := &Purpose{}
		if kind == consentFact || kind == objectionFact {
			if p, err = t.purpose(ctx, said.Purpose); err != nil {
				return err
			}
			if p.Version == 0 {
				return fail(NotFound, "")
			}
		}
		if err := t.entry.require(action); err != nil {
			return err
		}
		if err := checkSubject(reference, ""); err != nil {
			return err
		}
		if check == nil {
			err = t.checkRestriction(ctx, said)
		} else {
			err = check(p)
		}
		if err != nil {
			return err
		}
		if kind == restrictionFact { // it keeps records from a sweep, as a hold does
			if err := t.holdLock(ctx, alone); err != nil {
				return err
			}
		}
		id, err := t.ensureSubject(ctx, keys, reference)
		if err != nil {
			return err
		}
		t.entry.Resources = []resource{{Subject: formatID(subjectPrefix, id), Purpose: said.Purpose}}
		created, err = t.begin(ctx, id, kind, said)
		return err
	})
	return created, err
}

func (t *txn) checkRestriction(ctx context.Context, said *Said) error {
	var faults faults
	if !opaqueReference.MatchString(said.Reference) {
		faults.add("/reason", "reference", referenceRule)
	}
	if len(said.Allowed) > maxPurposes {
		faults.add("/allowed_purposes", "max-items", "a restriction allows at most 50 purposes")
		return faults.err()
	}
	for _, name := range said.Allowed {
		p, err := t.purpose(ctx, name)
		if err != nil {
			return err
		}
		if p.Version == 0 {
			faults.add("/allowed_purposes", "unknown-purpose", "a purpose that a restriction allows is registered first")
		}
	}
	return faults.err()
}

// begin makes a fact hold, unless just that holds already; created says that none of its kind did.
func (t *txn) begin(ctx context.Context, subject ID, kind string, said *Said) (created bool, err error) {
	before, err := t.said(ctx, subject, kind, said.Purpose)
	created = errors.Is(err, pgx.ErrNoRows)
	switch {
	case err != nil && !created:
		return false, err
	case !created && before.TextVersion == said.TextVersion && before.Reference == said.Reference && slices.Equal(before.Allowed, said.Allowed) &&
		before.Jurisdiction == said.Jurisdiction:
		*said = before
		return false, nil
	}
	said.Since = t.now
	if said.Allowed == nil {
		said.Allowed = []string{}
	}
	if err := t.writeFact(ctx, subject, kind, said); err != nil {
		return false, err
	}
	return created, t.record(ctx, subject, kind, true, said, nil)
}

// writeFact makes a fact hold, unless there is a later one.
func (t *txn) writeFact(ctx context.Context, subject ID, kind string, said *Said) error {
	// What tells those who read records to look for facts.
	_, err := t.data.Exec(ctx, `
		insert into privault.governance as g (tenant_id, version, facts) values ($1, 1, true)
		on conflict (tenant_id) do update set facts = true where not g.facts`, t.who.Tenant)
	if err != nil {
		return err
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.subject_facts as f (tenant_id, subject_id, kind, purpose, text_version, reference, allowed, since, jurisdiction)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		on conflict (tenant_id, subject_id, kind, purpose) do update set text_version = excluded.text_version,
			reference = excluded.reference, allowed = excluded.allowed, since = excluded.since,
			jurisdiction = excluded.jurisdiction
			where f.since <= excluded.since`,
		t.who.Tenant, subject, kind, said.Purpose, said.TextVersion, said.Reference, said.Allowed, said.Since, said.Jurisdiction)
	return err
}

// said reads a fact that holds, or gives pgx.ErrNoRows.
func (t *txn) said(ctx context.Context, subject ID, kind, purpose string) (s Said, err error) {
	rows, err := t.data.Query(ctx, `
		select purpose, text_version, reference, allowed, since, jurisdiction from privault.subject_facts
		where tenant_id = $1 and subject_id = $2 and kind = $3 and purpose = $4 for update`, t.who.Tenant, subject, kind, purpose)
	if err != nil {
		return s, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Said])
}

// record adds to a person's history, and tells who wants to hear of restrictions. A jurisdiction has no history but the audit log.
func (t *txn) record(ctx context.Context, subject ID, kind string, begins bool, said *Said, informed *time.Time) error {
	if kind == jurisdictionFact {
		return nil
	}
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = t.data.Exec(ctx, insertHistory,
		t.who.Tenant, subject, id, t.now, t.who.Principal, kind, said.Purpose, begins, said.TextVersion, said.Reference, said.Allowed, informed)
	if err != nil {
		return err
	}
	if err := t.enterFact(ctx, id, subject, kind, begins, said, informed); err != nil || kind != restrictionFact {
		return err
	}
	event := EventRestrictionLifted
	if begins {
		event = EventSubjectRestricted
	}
	return t.emitOf(ctx, event, subject, happening{subject: &subject})
}

const (
	insertHistory = `
	insert into privault.subject_history (tenant_id, subject_id, event_id, at, principal_id, kind, purpose, begins,
		text_version, reference, allowed, informed_at)
	values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`
	deleteFact = `
	delete from privault.subject_facts where tenant_id = $1 and subject_id = $2 and kind = $3 and purpose = $4`
)

// unsay ends a fact that holds.
func (v *Vault) unsay(ctx context.Context, who Caller, action policy.Action, reference, kind, purpose string, informed *time.Time) error {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return v.refuseUnopened(ctx, who, action, err)
	}
	return v.within(ctx, who, action, func(t *txn) error {
		s, before, err := t.saidOf(ctx, keys, reference, kind, purpose)
		if err != nil {
			return err
		}
		t.entry.Resources = []resource{{Subject: formatID(subjectPrefix, s), Purpose: purpose}}
		if err := t.entry.require(action); err != nil {
			return err
		}
		if informed != nil && (informed.After(t.now) || informed.Before(before.Since)) {
			return invalid("/informed_at", "range", "the person is told after the restriction began and before it is lifted")
		}
		_, err = t.data.Exec(ctx, deleteFact, t.who.Tenant, s, kind, purpose)
		if err != nil {
			return err
		}
		return t.record(ctx, s, kind, false, &before, microseconds(informed))
	})
}

// saidOf finds a fact by the person's reference: 404 for an unknown person and for what doesn't hold.
func (t *txn) saidOf(ctx context.Context, keys *tenantKeys, reference, kind, purpose string) (id ID, said Said, err error) {
	s, err := t.knownSubject(ctx, keys, reference)
	if err != nil {
		return id, said, err
	}
	said, err = t.said(ctx, s.id, kind, purpose)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fail(NotFound, "")
	}
	return s.id, said, err
}

// GetRestriction reads the restriction of a person.
func (v *Vault) GetRestriction(ctx context.Context, who Caller, reference string) (said Said, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return said, v.refuseUnopened(ctx, who, policy.ReadConsents, err)
	}
	err = v.within(ctx, who, policy.ReadConsents, func(t *txn) error {
		var id ID
		if id, said, err = t.saidOf(ctx, keys, reference, restrictionFact, ""); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Subject: formatID(subjectPrefix, id)}}
		return t.entry.require(policy.ReadConsents)
	})
	return said, err
}

// Consents gives up to limit of the entries of a person's history of consents, the newest first, from cursor on; the next
// cursor is empty at the end.
func (v *Vault) Consents(ctx context.Context, who Caller, reference, cursor string, limit int) (page []ConsentEvent, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadConsents, err)
	}
	err = v.within(ctx, who, policy.ReadConsents, func(t *txn) error {
		s, err := t.requireSubject(ctx, keys, reference, policy.ReadConsents)
		if err != nil {
			return err
		}
		list := "consents/" + formatID(subjectPrefix, s.id)
		after, err := keys.openCursor(list, cursor)
		if err != nil {
			return err
		}
		before := lastID
		if after != "" {
			before, _ = parseID(eventPrefix, after) // sealed by us
		}
		rows, err := t.data.Query(ctx, `
			select event_id, purpose, begins, text_version, reference, at, principal_id from privault.subject_history
			where tenant_id = $1 and subject_id = $2 and kind = 'consent' and event_id < $3
			order by event_id desc limit $4`, t.who.Tenant, s.id, before, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, func(r pgx.CollectableRow) (e ConsentEvent, err error) {
			var id, by ID
			err = r.Scan(&id, &e.Purpose, &e.Given, &e.TextVersion, &e.Reference, &e.At, &by)
			e.ID, e.By = formatID(eventPrefix, id), formatID(principalPrefix, by)
			return e, err
		}, list, limit, func(e ConsentEvent) string { return e.ID })
		return err
	})
	return page, next, err
}
