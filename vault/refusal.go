package vault

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/privault/privault/vault/policy"
)

// Calls that end before any operation begins. One of a known principal leaves an entry, like every other. What somebody may
// repeat at no cost, strangers above all, is counted, and leaves an entry for each kind in each interval (NoteRefusals):
// who could write an entry with every attempt could fill the log.

// refusal is what calls that are counted together have in common. Without a principal it is the deployment's.
type refusal struct {
	tenant, principal, credential ID
	method                        string // how the caller proved who it is
	action                        policy.Action
	route, problem, rule          string
}

// refusals counts refused calls since the last NoteRefusals.
type refusals struct {
	mu     sync.Mutex
	counts map[refusal]int
}

// maxRefusals bounds the kinds of refusal that are told apart in one interval; what comes beyond is counted as a stranger's.
const maxRefusals = 1000

// add counts n calls, and says whether they are the first of their kind in this interval.
func (r *refusals) add(kind refusal, n int) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[refusal]int{}
	}
	_, have := r.counts[kind]
	if !have && len(r.counts) >= maxRefusals {
		r.counts[refusal{action: kind.action, problem: kind.problem}] += n
		return false
	}
	r.counts[kind] += n
	return !have
}

// take gives all counts and begins anew.
func (r *refusals) take() map[refusal]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.counts
	r.counts = nil
	maps.DeleteFunc(taken, func(_ refusal, n int) bool { return n == 0 })
	return taken
}

// Refuse accounts for a call that failed outside of the vault's operations, by its route's pattern, and gives the error that
// the caller hears: cause, unless the entry can't be written. A call that has its entry already gets no second one. cheap
// says that refusing costs less than an entry does, as with limits: then the first in an interval has an entry at once, and
// the rest one together.
func (v *Vault) Refuse(ctx context.Context, who Caller, route string, cheap bool, cause error) error {
	e := AsError(cause)
	if e.Kind == Unauthenticated {
		v.metrics.unauthenticated.Inc()
	}
	switch {
	case e.entered, errors.Is(cause, context.Canceled), errors.Is(cause, context.DeadlineExceeded):
		return e // of a call that was given up, an operation may be under way, and its entry with it
	case who.Principal == (ID{}):
		if e.Kind == Unauthenticated || cheap {
			v.refusals.add(refusal{action: policy.RefuseCall, problem: string(e.Kind)}, 1)
		}
		return e
	case cheap:
		kind := refusal{who.Tenant, who.Principal, who.Credential, who.Method, policy.RefuseCall, route, string(e.Kind), ""}
		if !v.refusals.add(kind, 0) {
			v.refusals.add(kind, 1)
			return e
		}
	}
	left, err := v.open(who, policy.RefuseCall)
	if err != nil {
		return AsError(err)
	}
	left.Route = route
	return v.refuse(ctx, left, cause)
}

// refuseKey counts the use of a credential that is known and no longer good: its tenant's auditors read of it, and its
// bearer hears what everybody hears.
func (v *Vault) refuseKey(who Caller, rule string) error {
	v.refusals.add(refusal{who.Tenant, who.Principal, who.Credential, who.Method, policy.UseKey, "", string(Unauthenticated), rule}, 1)
	e := *errUnauthenticated
	e.entered = true
	return &e
}

// NoteRefusals leaves the entries of the calls that were counted since it last did.
func (v *Vault) NoteRefusals(ctx context.Context) error {
	var failed error
	for kind, n := range v.refusals.take() {
		if err := v.noteRefusal(ctx, kind, n); err != nil {
			v.refusals.add(kind, n) // for the next time
			failed = err
		}
	}
	return failed
}

func (v *Vault) noteRefusal(ctx context.Context, kind refusal, n int) error {
	e, err := v.open(Caller{Tenant: kind.tenant, Principal: kind.principal, Credential: kind.credential, Method: kind.method}, kind.action)
	if err != nil {
		return err
	}
	e.Route, e.Rule, e.Items = kind.route, kind.rule, n
	e.close(&Error{Kind: Kind(kind.problem)})
	return v.commit(ctx, &change{entry: e})
}
