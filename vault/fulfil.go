package vault

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
)

// fulfil does what a verified, and where that was wanted approved, request asks for. It commits with the request's new state.
// Whoever takes the step must be allowed what it does.
func (s *stepping) fulfil() error {
	r := s.request
	if r.Type == deadline.Erasure { // by digest: it is done even where the reference is gone already
		return s.eraseAsAsked()
	}
	if r.Terms.Subject == "" {
		return s.comply(OutcomeNothingHeld) // erased since
	}
	subject, err := s.subjectOf(s.ctx, r.digest)
	if err != nil {
		return err
	}
	if subject == nil {
		return s.comply(OutcomeNothingHeld)
	}
	s.entry.Resources[0].Subject = formatOptional(subjectPrefix, subject)
	switch r.Type {
	case deadline.Restriction:
		return s.sayAsAsked(policy.Restrict, *subject, restrictionFact, &Said{Reference: r.ID, Allowed: append([]string{}, r.Terms.Allowed...)})
	case deadline.Objection:
		return s.sayAsAsked(policy.WriteConsents, *subject, objectionFact, &Said{Reference: r.ID, Purpose: r.Terms.Purpose})
	case deadline.Correction:
		return s.correctAsAsked(*subject)
	}
	return nil // what access and portability hand out is fetched
}

// subjectOf finds a person by digest.
func (t *txn) subjectOf(ctx context.Context, digest []byte) (id *ID, err error) {
	err = t.data.QueryRow(ctx, `
		select subject_id from privault.subjects where tenant_id = $1 and digest = $2`, t.who.Tenant, digest).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return id, err
}

func (s *stepping) sayAsAsked(action policy.Action, subject ID, kind string, said *Said) error {
	if err := s.entry.require(action); err != nil {
		return err
	}
	s.entry.Resources[0].Purpose = said.Purpose
	if _, err := s.begin(s.ctx, subject, kind, said); err != nil {
		return err
	}
	return s.comply(OutcomeComplied)
}

func (s *stepping) eraseAsAsked() error {
	r := s.request
	if err := s.entry.require(policy.Erase); err != nil {
		return err
	}
	w, err := s.lockForErasure(s.ctx, r.digest) // holdLock is v.lockPerson's
	if AsError(err).Kind == NotFound {
		return s.comply(OutcomeNothingHeld)
	}
	if err != nil {
		return err
	}
	if w.subject == nil { // erased before, and nothing has come since
		if err := s.forgetRequests(s.ctx, [][]byte{r.digest}, nil, true); err != nil {
			return err
		}
		r.sealed, r.Terms = nil, Terms{}
		s.entry.Resources[0].Erasure = w.earlier.ID
		r.Certificate = w.earlier.ID
		return s.comply(OutcomeComplied)
	}
	s.entry.Resources[0].Subject = formatOptional(subjectPrefix, w.subject)
	if r.Terms.Subject == "" && w.earlier != nil { // it may have been about a part
		return fail(Conflict, "the person was erased after this request was opened, and what it asks for is gone; for what has come since open a new request")
	}
	reason := r.Terms.Reason
	if reason == "" { // a crash between keystore and data took the terms
		reason = ErasureReasons[0]
	}
	e := Erasure{Reason: reason, Requested: r.Received, Counts: w.counts, Scope: r.Terms.Scope, Retained: r.Terms.Retained}
	if e.Scope != nil {
		err := s.narrow(s.ctx, w, &e)
		if err != nil && slices.Contains(AsError(err).Fields, nothingInScope) {
			return s.comply(OutcomeNothingHeld)
		}
		if err != nil {
			return err
		}
	}
	if err := s.vault.erase(s.ctx, s.txn, w, &e); err != nil {
		return err
	}
	r.Certificate = e.ID
	if e.State == ErasureDeferred {
		r.State = RequestDeferred
		r.happens(RequestEvent{Event: "deferred"})
		return nil
	}
	if e.Scope == nil {
		r.sealed, r.Terms = nil, Terms{} // forgetRequests took them
	}
	return s.comply(OutcomeComplied)
}

// forgetRequests is a part of the moment of erasure: what requests said of the person goes with their keys. Their digests stay,
// as that of the erasure does. Where an erasure is replayed, requests that were opened after it stay as they are, and where
// inKeys is false, the keystore has done its part and may be read-only.
func (t *txn) forgetRequests(ctx context.Context, digests [][]byte, replayed *time.Time, inKeys bool) error {
	rows, err := t.data.Query(ctx, `
		update privault.requests set sealed = null, proposal = null
		where tenant_id = $1 and digest = any($2) and ($3::timestamptz is null or opened_at <= $3) returning request_id`, t.who.Tenant, digests, replayed)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[ID])
	if err != nil {
		return err
	}
	if inKeys && len(ids) > 0 {
		_, err = t.keys.Exec(ctx, deleteKeys, t.who.Tenant, ids)
	}
	return err
}

// compliedWith and takenBack are how a request ends that waited for an erasure.
var (
	compliedWith = RequestEvent{Event: RequestCompleted, Reason: OutcomeComplied}
	takenBack    = RequestEvent{Event: RequestCancelled}
)

// answerWithdrawn ends the requests that waited for an erasure that a line of the ledger withdraws: the one that was denied is, and others, of
// whose end the ledger says nothing, count as taken back.
func (t *txn) answerWithdrawn(ctx context.Context, line *ledgerLine) error {
	id := ID(line.Erasure.ID)
	if denied := (*ID)(line.Erasure.Request); denied != nil && line.Erasure.Denial != "" {
		if err := t.answerWaiting(ctx, id, line.At, RequestEvent{Event: RequestDenied, Reason: line.Erasure.Denial}, denied); err != nil {
			return err
		}
	}
	return t.answerWaiting(ctx, id, line.At, takenBack, nil)
}

// answerWaiting ends the requests that waited for an erasure, or only one of them: it is done at that time, or withdrawn.
func (t *txn) answerWaiting(ctx context.Context, erasure ID, at time.Time, how RequestEvent, only *ID) error {
	rows, err := t.data.Query(ctx, `
		update privault.requests set state = $4, outcome = case when $4 = 'completed' then $5 end, denial = case when $4 = 'denied' then $5 end,
			closed_at = $3, version = version + 1
		where tenant_id = $1 and erasure_id = $2 and state = 'deferred' and ($6::uuid is null or request_id = $6)
		returning request_id, due_at`, t.who.Tenant, erasure, at, how.Event, how.Reason, only)
	if err != nil {
		return err
	}
	waited, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Request, error) {
		r := &Request{State: how.Event}
		err := row.Scan(&r.id, &r.Due)
		r.ID = formatID(requestPrefix, r.id)
		return r, err
	})
	for _, r := range waited {
		if err != nil {
			break
		}
		r.happens(how)
		t.entry.Resources = append(t.entry.Resources, resource{Request: r.ID})
		err = t.insertRequestEvents(ctx, r)
	}
	return err
}

// withdrawErasure ends an erasure that a hold has deferred.
const (
	withdrawErasure      = `update privault.erasures set state = 'withdrawn' where tenant_id = $1 and erasure_id = $2 and state = 'deferred'`
	withdrawUnlessWanted = withdrawErasure + ` and not direct and not exists (select from privault.requests
		where tenant_id = $1 and erasure_id = $2 and state = 'deferred' and request_id <> $3)`
)

// withdraw ends the erasure that a request waits for, which is denied or taken back; but not one that was asked for without a request too,
// or that another request waits for.
func (s *stepping) withdraw() error {
	r := s.request
	if r.State != RequestDeferred {
		return nil
	}
	id, _ := parseID(erasurePrefix, r.Certificate)
	done, err := s.data.Exec(s.ctx, withdrawUnlessWanted, s.who.Tenant, id, r.id)
	if err != nil || done.RowsAffected() == 0 {
		return err
	}
	s.entry.Resources[0].Erasure = r.Certificate
	e, err := s.erasure(s.ctx, id)
	if err != nil {
		return err
	}
	line := &lineErasure{ID: lineID(id), Digest: r.digest, Subjects: []lineID{}, Reason: e.Reason, Requested: e.Requested, Counts: e.Counts, Request: idInLine(r.id)}
	if s.Kind == StepDeny {
		line.Denial = s.Reason
	}
	if e.Scope != nil {
		line.Part = &linePart{Scope: e.Scope, Retained: e.Retained}
	}
	s.enter(&ledgerLine{Kind: withdrawLine, Erasure: line})
	return nil
}

// finishWithdrawal withdraws an erasure whose withdrawal was never committed; or not, where somebody else wants it by now: then the ledger says
// once more that it waits.
func (t *txn) finishWithdrawal(ctx context.Context, line *ledgerLine) error {
	id := ID(line.Erasure.ID)
	done, err := t.data.Exec(ctx, withdrawUnlessWanted, t.who.Tenant, id, (*ID)(line.Erasure.Request))
	if err != nil {
		return err
	}
	if done.RowsAffected() > 0 {
		return t.answerWithdrawn(ctx, line)
	}
	e, err := t.erasure(ctx, id)
	if err != nil || e.State != ErasureDeferred {
		return err
	}
	again := *line.Erasure
	again.Request, again.Denial, again.Direct = nil, "", e.direct
	t.enter(&ledgerLine{Kind: deferralLine, Erasure: &again})
	return nil
}

// amendment is a change of a record that is about to be made: what a KMS or a budget must be asked for was, before the
// transaction.
type amendment struct {
	reader *reader
	record ID
	Patch
}

// lookAtCorrection prepares the correction that a request asks for; nil: it asks for none, or this kind of step won't make it.
func (v *Vault) lookAtCorrection(ctx context.Context, who Caller, keys *tenantKeys, id, kind string) (*amendment, error) {
	request, ok := parseID(requestPrefix, id)
	if !ok {
		return nil, nil // the transaction says so
	}
	var terms, brought, termsKey, broughtKey []byte
	err := v.store.data.within(ctx, who.Tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			select sealed, proposal from privault.requests
			where tenant_id = $1 and request_id = $2 and sealed is not null and proposal is not null
				and approval = $3 and state = any($4)`, who.Tenant, request, kind == StepApprove, steps[kind].from).Scan(&terms, &brought)
	})
	if err == nil {
		err = v.store.keys.within(ctx, who.Tenant, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `
				select a.wrapped, b.wrapped from keystore.data_keys a join keystore.data_keys b using (tenant_id, record_id)
				where a.tenant_id = $1 and a.record_id = $2 and a.version = $3 and b.version = $4`,
				who.Tenant, request, termsVersion, proposalVersion).Scan(&termsKey, &broughtKey)
		})
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	var m Terms
	var p proposal
	if err == nil {
		err = errors.Join(keys.openPart(request, termsVersion, termsKey, terms, &m), keys.openPart(request, proposalVersion, broughtKey, brought, &p))
	}
	if err != nil {
		return nil, err
	}
	a := &amendment{reader: v.newReader(keys, nil), Patch: p.patch()}
	if a.record, ok = parseID(recordPrefix, m.Record); !ok {
		return nil, nil
	}
	if err := v.spendOnPatch(ctx, keys, who, m.Collection, a.Patch); err != nil {
		return nil, err
	}
	rows, err := v.directRow(ctx, who.Tenant, m.Collection, a.record)
	if err != nil {
		return nil, err
	}
	a.reader.lookAhead(ctx, rows)
	return a, nil
}

// correctAsAsked changes the record as a change of it by anybody else would: its tokens stay, and its index and aliases
// change with it. A restriction doesn't keep a person from having their data corrected.
func (s *stepping) correctAsAsked(subject ID) error {
	r := s.request
	if s.ahead == nil {
		return fail(Conflict, "what the correction brings is gone; open a new request")
	}
	a := s.ahead
	a.reader.keys, a.reader.entry = s.keys, s.entry
	o, err := a.reader.openForUpdate(s.ctx, s.txn, r.Terms.Collection, a.record)
	if AsError(err).Kind == NotFound || err == nil && (o.row.subject == nil || *o.row.subject != subject) {
		return fail(Conflict, "the record is gone, or is not this person's; deny the request, or open another one")
	}
	if err != nil {
		return err
	}
	if err := s.entry.requireSome(policy.Correct, policy.NoView, o.coll, o.facts); err != nil {
		return err
	}
	if err := s.entry.requireEach(policy.Correct, o.coll, a.fields(o.coll), o.facts); err != nil {
		return err
	}
	if _, err := a.reader.patch(s.ctx, s.txn, o, a.Patch); err != nil {
		return err
	}
	return s.comply(OutcomeComplied)
}
