package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
)

// Step is what somebody does about a request. Which of the fields it needs is its kind's to say.
type Step struct {
	Kind      string
	IfVersion int32 // the version that the caller saw; 0: any

	Asked     bool   // of verify: the person is asked, and has not answered yet
	Method    string // of verify: how, one of VerificationMethods
	Level     string // of verify: how surely, one of VerificationLevels
	Reference string // of verify: evidence; of contest: the person's statement. Opaque
	Reason    string // of deny, extend and pause
	At        *time.Time
}

// The kinds of step.
const (
	StepAcknowledge = "acknowledge" // the person was told that the request came in
	StepVerify      = "verify"
	StepApprove     = "approve"
	StepDeny        = "deny"
	StepExtend      = "extend"
	StepPause       = "pause"
	StepResume      = "resume"
	StepCancel      = "cancel"   // the person takes it back
	StepComplete    = "complete" // what was asked for has been handed out
	StepContest     = "contest"  // the person disagrees with the denial of a correction
)

// Verification says how it was found out that the person is who they say.
type Verification struct {
	Method, Level string
	Evidence      string // an opaque reference
	By            string
	At            time.Time
}

// VerificationMethods are how a person shows who they are.
var VerificationMethods = []string{"account", "matching", "document", "in-person", "declaration", "agent", notRequired}

// notRequired: the opt-out and the limit of the CCPA are no verifiable requests (11 CCR 7026(d), 7027(e)).
const notRequired = "not-required"

// VerificationLevels are the degrees of certainty of 11 CCR 7062, of which the other regimes need none.
var VerificationLevels = []string{reasonable, reasonablyHigh}

const (
	reasonable     = "reasonable"
	reasonablyHigh = "reasonably-high"
)

// ExtensionReasons are why more time is needed (GDPR 12(3), Cal. Civ. Code 1798.145(h), 45 CFR 164.524(b)(2)).
var ExtensionReasons = []string{"complexity", "number-of-requests", "records-elsewhere"}

// PauseReasons are why a clock stands still (GDPR 12(6); EDPB Guidelines 01/2022, 157).
var PauseReasons = []string{"identity", "clarification"}

// open are the states of a request that somebody must still do something about.
var open = []string{RequestReceived, RequestVerifying, RequestWaiting, RequestInProgress, RequestDeferred}

// step is a kind of step: the states that it can be taken in, and what it does.
type step struct {
	from []string
	do   func(*stepping) error
	done func(*Request, Step) bool // it was taken before, just so; nil: it can't be told

	fulfils bool // it may do what the request asks for
	ends    bool // without doing it
}

// stepping is a step that is being taken.
type stepping struct {
	Step
	*txn
	ctx     context.Context
	vault   *Vault
	keys    *tenantKeys
	request *Request
	ahead   *amendment // of a correction
}

var steps = map[string]step{
	StepAcknowledge: {from: open, do: (*stepping).acknowledge, done: func(r *Request, _ Step) bool { return r.Acknowledged != nil }},
	StepVerify: {from: []string{RequestReceived, RequestVerifying}, do: (*stepping).verify, fulfils: true, done: func(r *Request, s Step) bool {
		if s.Asked {
			return r.State == RequestVerifying && r.Asked != nil
		}
		return r.Verified != nil && r.Verified.Method == s.Method && r.Verified.Level == s.Level && r.Verified.Evidence == s.Reference
	}},
	StepApprove: {from: []string{RequestWaiting}, do: (*stepping).approve, fulfils: true, done: func(r *Request, _ Step) bool { return r.Approved != nil }},
	StepDeny: {from: open, do: (*stepping).deny, ends: true,
		done: func(r *Request, s Step) bool { return r.Denial != "" && r.Denial == s.Reason }},
	StepExtend: {from: open, do: (*stepping).extend,
		done: func(r *Request, s Step) bool {
			return r.Extension != "" && r.Extension == s.Reason && (s.At == nil || s.At.Equal(*r.Noticed))
		}},
	StepPause:  {from: []string{RequestReceived, RequestVerifying}, do: (*stepping).pause, done: func(r *Request, _ Step) bool { return r.Paused != nil }},
	StepResume: {from: []string{RequestVerifying}, do: (*stepping).resume},
	StepCancel: {from: open, do: (*stepping).cancel, ends: true,
		done: func(r *Request, _ Step) bool { return r.State == RequestCancelled }},
	StepComplete: {from: []string{RequestInProgress}, do: (*stepping).complete,
		done: func(r *Request, _ Step) bool { return r.State == RequestCompleted }},
	StepContest: {from: []string{RequestDenied}, do: (*stepping).contest,
		done: func(r *Request, s Step) bool { return r.Statement != "" && r.Statement == s.Reference }},
}

// TakeStep takes a step of a request, and with the step that verifies or approves it does what the request asks for, in one
// transaction. A step that was taken before, just so, changes nothing and gives the request as it is.
func (v *Vault) TakeStep(ctx context.Context, who Caller, id string, s Step) (*Request, error) {
	kind, known := steps[s.Kind]
	if !known {
		return nil, fmt.Errorf("no step %q", s.Kind)
	}
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.RunRequests, err)
	}
	// Before anything is opened, asked of a KMS or spent.
	if err := v.mayRunRequests(ctx, who); err != nil {
		return nil, err
	}
	var ahead *amendment
	fulfils := kind.fulfils && !s.Asked
	if fulfils {
		// Before the transaction: a correction may need the KMS.
		if ahead, err = v.lookAtCorrection(ctx, who, keys, id, s.Kind); err != nil {
			return nil, v.refuseUnopened(ctx, who, policy.RunRequests, err)
		}
	}
	var r *Request
	err = v.within(ctx, who, policy.RunRequests, func(t *txn) error {
		held, err := t.holdKeys(ctx, keys)
		if err != nil {
			return err
		}
		if fulfils || kind.ends {
			// The person first: an erasure locks them before it looks for their requests.
			if err := v.lockPerson(ctx, t, held, id, fulfils); err != nil {
				return err
			}
		}
		if r, err = v.request(ctx, t, held, id, "for update"); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Request: r.ID}}
		if err := t.entry.require(policy.RunRequests); err != nil {
			return err
		}
		return (&stepping{s, t, ctx, v, held, r, ahead}).take(kind)
	})
	return r, err
}

// mayRunRequests decides it, and leaves an entry only of a refusal.
func (v *Vault) mayRunRequests(ctx context.Context, who Caller) error {
	e, err := v.open(who, policy.RunRequests)
	if err != nil {
		return err
	}
	if err := e.require(policy.RunRequests); err != nil {
		return v.refuse(ctx, e, err)
	}
	return nil
}

func (s *stepping) take(kind step) error {
	r := s.request
	if err := s.check(); err != nil {
		return err
	}
	if kind.done != nil && kind.done(r, s.Step) {
		return nil
	}
	if s.IfVersion != 0 && s.IfVersion != r.Version {
		return fail(PreconditionFailed, "the request has another version by now")
	}
	if !slices.Contains(kind.from, r.State) {
		return fail(Conflict, "a request that is %s can't %s; that takes one that is %s", r.State, s.Kind, strings.Join(kind.from, ", "))
	}
	if kind.ends {
		if err := s.withdraw(); err != nil {
			return err
		}
	}
	if err := kind.do(s); err != nil {
		return err
	}
	return s.putRequest(s.ctx, r)
}

// check looks at what the step brings along, whatever state the request is in.
func (s *stepping) check() error {
	var faults faults
	r := s.request
	switch s.Kind {
	case StepVerify:
		if !s.Asked {
			s.checkVerification(&faults)
		}
	case StepDeny:
		if denialOf(r.Regime, r.Type, s.Reason) == nil {
			faults.add("/reason", "reason", "the reasons of this regime for this type are "+list(denialsOf(r.Regime, r.Type)))
		}
	case StepExtend:
		if !slices.Contains(ExtensionReasons, s.Reason) {
			faults.add("/reason", "reason", "the reasons are "+list(ExtensionReasons))
		}
	case StepPause:
		if !slices.Contains(PauseReasons, s.Reason) {
			faults.add("/reason", "reason", "the reasons are "+list(PauseReasons))
		}
	case StepContest:
		checkOpaque(&faults, "/reference", s.Reference)
	}
	if s.At != nil {
		at := s.At.Truncate(time.Microsecond)
		if s.At = &at; at.After(s.now) || at.Before(r.Received) {
			faults.add(map[string]string{StepExtend: "/noticed_at", StepAcknowledge: "/acknowledged_at"}[s.Kind], "range", "it lies between the request and now")
		}
	}
	return faults.err()
}

func (s *stepping) checkVerification(faults *faults) {
	r := s.request
	if s.Level == "" {
		s.Level = reasonable
	}
	if !slices.Contains(VerificationMethods, s.Method) {
		faults.add("/method", "method", "the methods are "+list(VerificationMethods))
	}
	if !slices.Contains(VerificationLevels, s.Level) {
		faults.add("/level", "level", "the levels are "+list(VerificationLevels))
	}
	if s.Reference != "" {
		checkOpaque(faults, "/reference", s.Reference)
	}
	ccpa := r.Regime == deadline.CCPA
	if s.Method == notRequired && (!ccpa || r.Type != deadline.Objection && r.Type != deadline.Restriction) {
		faults.add("/method", "verification-required", "only an opt-out or a limit under the CCPA goes without verification (11 CCR 7026(d), 7027(e))")
	}
	if ccpa && handsOut(r.Type) && s.Level != reasonablyHigh && s.Method != "account" {
		faults.add("/level", "reasonably-high", "specific pieces of personal information take a reasonably high degree of certainty, or the person's account (11 CCR 7061, 7062(c))")
	}
}

func (s *stepping) acknowledge() error {
	r := s.request
	if r.Acknowledged = s.At; s.At == nil {
		r.Acknowledged = &s.now
	}
	r.happens(RequestEvent{Event: "acknowledged", Moment: r.Acknowledged})
	return nil
}

func (s *stepping) verify() error {
	r := s.request
	if s.Asked {
		r.State = RequestVerifying
		r.Asked = &s.now
		r.happens(RequestEvent{Event: "asked"})
		return nil
	}
	if err := s.goOn(); err != nil {
		return err
	}
	r.Verified = &Verification{Method: s.Method, Level: s.Level, Evidence: s.Reference, By: formatID(principalPrefix, s.who.Principal), At: s.now}
	if r.Approval {
		r.State = RequestWaiting
	} else {
		r.State = RequestInProgress
	}
	r.happens(RequestEvent{Event: "verified", Reason: s.Method})
	if r.Approval {
		return nil
	}
	return s.fulfil()
}

func (s *stepping) approve() error {
	r := s.request
	by := formatID(principalPrefix, s.who.Principal)
	if by == r.OpenedBy || by == r.Verified.By {
		return fail(Conflict, "whoever opened or verified a request doesn't approve it; another principal does")
	}
	r.Approved, r.ApprovedBy, r.State = &s.now, by, RequestInProgress
	r.happens(RequestEvent{Event: "approved"})
	return s.fulfil()
}

func (s *stepping) deny() error {
	s.request.Denial = s.Reason
	s.closeRequest(s.request, RequestDenied, RequestEvent{Event: "denied", Reason: s.Reason})
	return nil
}

func (s *stepping) cancel() error {
	s.closeRequest(s.request, RequestCancelled, RequestEvent{Event: "cancelled"})
	return nil
}

func (s *stepping) complete() error { return s.comply(OutcomeComplied) }

func (s *stepping) contest() error {
	r := s.request
	if r.Type != deadline.Correction || r.Regime == deadline.GDPR {
		return fail(Conflict, "a statement of disagreement belongs to a denied correction under the HIPAA or CCPA (45 CFR 164.526(d)(2), 11 CCR 7023(f))")
	}
	r.Statement = s.Reference
	r.happens(RequestEvent{Event: "contested"})
	return nil
}

func (s *stepping) comply(outcome string) error {
	s.answered(s.request, outcome)
	return nil
}

// answered ends a request that was complied with. putRequest writes it.
func (t *txn) answered(r *Request, outcome string) {
	r.Outcome = outcome
	t.closeRequest(r, RequestCompleted, RequestEvent{Event: "completed", Reason: outcome})
}

// closeRequest ends a request. What a correction brought is of no use any more, and its key goes.
func (t *txn) closeRequest(r *Request, state string, e RequestEvent) {
	r.State, r.Closed, r.Paused = state, &t.now, nil
	if r.proposal != nil {
		r.proposal = nil
		t.shredLater = append(t.shredLater, recordVersion{r.id, proposalVersion})
	}
	r.happens(e)
}

func (s *stepping) rule() deadline.Rule {
	rule, _ := deadline.For(s.request.Regime, s.request.Type) // it was checked
	return rule
}

func (s *stepping) extend() error {
	r, clock := s.request, s.vault.clocks.of(s.request.Regime)
	if r.Paused != nil {
		return fail(Conflict, "the clock stands still; resume it first")
	}
	noticed := s.now
	if s.At != nil {
		noticed = *s.At
	}
	history, err := s.requestHistory(s.ctx, r.id)
	if err != nil {
		return err
	}
	pauses := clock.pauses(history)
	if err := s.rule().MayExtend(clock.course(r, pauses), clock.day(noticed), clock.Calendar); err != nil {
		return fail(Conflict, "no extension: %v", err)
	}
	r.Extension, r.Noticed = s.Reason, &noticed
	clock.reckon(r, pauses)
	r.happens(RequestEvent{Event: "extended", Reason: s.Reason, Moment: &noticed})
	return nil
}

func (s *stepping) pause() error {
	if err := s.rule().MayPause(); err != nil {
		return fail(Conflict, "no pause: %v", err)
	}
	r := s.request
	if s.now.After(r.Due) {
		return fail(Conflict, "no pause: the day by which it had to be answered has passed; answer it now")
	}
	r.State, r.Paused, r.Asked = RequestVerifying, &s.now, &s.now
	r.happens(RequestEvent{Event: "paused", Reason: s.Reason})
	return nil
}

func (s *stepping) resume() error {
	if s.request.Paused == nil {
		return fail(Conflict, "the clock doesn't stand still")
	}
	return s.goOn()
}

// goOn lets a clock go on that stands still.
func (s *stepping) goOn() error {
	r := s.request
	if r.Paused == nil {
		return nil
	}
	clock := s.vault.clocks.of(r.Regime)
	history, err := s.requestHistory(s.ctx, r.id)
	if err != nil {
		return err
	}
	r.Paused, r.Asked = nil, nil // the person has answered
	r.happens(RequestEvent{Event: "resumed"})
	clock.reckon(r, clock.pauses(append(history, RequestEvent{Event: "resumed", At: s.now})))
	return nil
}

// lockPerson locks the person that a request is about, if there is one, against erasure. A step that doesn't fulfil the request needs that only
// where an erasure waits for a hold.
func (v *Vault) lockPerson(ctx context.Context, t *txn, keys *tenantKeys, id string, fulfils bool) error {
	r, err := v.request(ctx, t, keys, id, "")
	if err != nil || !fulfils && r.State != RequestDeferred {
		return err
	}
	switch r.Type { // holds and persons, in the order of holdLock
	case deadline.Erasure:
		err = t.holdLock(ctx, shared)
	case deadline.Restriction: // it keeps records from a sweep that is under way
		err = t.holdLock(ctx, alone)
	}
	if err != nil {
		return err
	}
	digest := r.digest
	switch {
	case r.Terms.Subject == "": // erased since
	case r.Type == deadline.Restriction, r.Type == deadline.Objection:
		_, err = t.ensureSubject(ctx, keys, r.Terms.Subject) // they hold for what comes later too
		return err
	default:
		if digest, err = t.subjectDigest(ctx, keys, r.Terms.Subject); err != nil {
			return err
		}
	}
	if r.Type == deadline.Erasure {
		_, _, err = t.lockReferences(ctx, digest)
		return err
	}
	return t.lockSubject(ctx, digest) // as who changes a record, who has locked that before, does
}

// lockSubject locks a person against erasure, if there is one.
func (t *txn) lockSubject(ctx context.Context, digest []byte) error {
	_, err := t.data.Exec(ctx, `select from privault.subjects where tenant_id = $1 and digest = $2 for key share`, t.who.Tenant, digest)
	return err
}
