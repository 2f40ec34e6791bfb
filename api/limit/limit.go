// Package limit decides how often callers may call: rates for each principal, key, tenant and client address, quotas for a
// day and a month, how many calls at once, and how many distinct values somebody may ask about.
//
// A caller that is somewhat too fast is slowed down first, and refused only when it would have to wait too long or
// too many of its calls wait already. Counters are in memory, for one replica, or in Redis, for all of them.
package limit

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Caller is whom limits apply to.
type Caller struct{ Tenant, Principal, Key [16]byte }

// Refusal is a call that was refused. Its text names no caller.
type Refusal struct {
	Policy string // which limit: principal, key, tenant, address, quota-day …
	Quota  bool   // a quota is used up
	Rate   Rate   // of the limit, where it is a rate
	After  time.Duration
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the limit %q is reached; try again after %v", r.Policy, r.After)
}

// Limiter applies a Config. It is safe for concurrent use. A nil Limiter limits nothing.
type Limiter struct {
	config  Config
	local   *memory
	shared  *shared // nil: the counters of local are all there are
	running *crowds // calls under way, by principal
	tenants *crowds // and by tenant
	waiting *crowds // calls that are being slowed down, by principal
	queue   atomic.Int64
}

// maxQueue bounds how many calls of all callers together wait: each holds a connection.
const maxQueue = 1000

// New makes a Limiter from a Config that has no faults.
func New(c Config, now func() time.Time) *Limiter {
	if now == nil {
		now = time.Now
	}
	l := &Limiter{config: c, local: newMemory(now), running: newCrowds(), tenants: newCrowds(), waiting: newCrowds()}
	if c.Redis != nil {
		l.shared = &shared{config: *c.Redis, now: now}
	}
	return l
}

// Close releases what New and the first calls have opened.
func (l *Limiter) Close() {
	if l != nil && l.shared != nil {
		l.shared.close()
	}
}

// Arrive charges a client address, before anybody knows who calls: in memory always, so that a flood of strangers costs
// nothing but this.
func (l *Limiter) Arrive(from netip.Addr, cost int) error {
	if l == nil || l.config.Address.off() {
		return nil
	}
	v := l.local.take([]bucket{{key{kind: addresses, id: block(from)}, "address", l.config.Address}}, nil, cost, 0)
	return v.refusal()
}

// Fail charges an address for a bad credential, whether it can afford that or not: guessing is dearer than calling.
func (l *Limiter) Fail(from netip.Addr) {
	if l == nil || l.config.Address.off() || l.config.FailedAttempt == 0 {
		return
	}
	l.local.fine(bucket{key{kind: addresses, id: block(from)}, "address", l.config.Address}, l.config.FailedAttempt)
}

// block is what shares a limit: an IPv4 address, or the /64 that an IPv6 client can choose from freely.
func block(a netip.Addr) [16]byte {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return a.As16()
}

// Enter charges a call and waits as long as the caller must be slowed down. leave ends the call.
func (l *Limiter) Enter(ctx context.Context, who Caller, cost int) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	leave, refusal := l.enter(who)
	if refusal != nil {
		return nil, refusal
	}
	delay, err := l.charge(ctx, who, cost)
	if err == nil && delay > 0 {
		err = l.wait(ctx, who, delay)
	}
	if err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

func (l *Limiter) enter(who Caller) (leave func(), refusal *Refusal) {
	c := l.config.Concurrency
	if !l.running.enter(who.Principal, c.Principal) {
		return nil, &Refusal{Policy: "concurrency-principal", After: time.Second}
	}
	if !l.tenants.enter(who.Tenant, c.Tenant) {
		l.running.leave(who.Principal, c.Principal)
		return nil, &Refusal{Policy: "concurrency-tenant", After: time.Second}
	}
	return func() {
		l.running.leave(who.Principal, c.Principal)
		l.tenants.leave(who.Tenant, c.Tenant)
	}, nil
}

// charge takes the cost from every limit of the caller, or from none.
func (l *Limiter) charge(ctx context.Context, who Caller, cost int) (time.Duration, error) {
	var buckets [3]bucket
	var quotas [4]quota
	b, q := l.limits(who, buckets[:0], quotas[:0])
	if len(b) == 0 && len(q) == 0 {
		return 0, nil
	}
	patience := time.Duration(l.config.MaxDelay)
	if l.waiting.count(who.Principal) >= l.config.MaxWaiting || l.queue.Load() >= maxQueue {
		patience = 0
	}
	if l.shared != nil {
		v, err := l.shared.take(ctx, b, q, cost, patience)
		if err == nil {
			return v.delay, v.refusal()
		}
		if l.shared.config.Closed {
			return 0, err
		}
		// Open: this replica's own counters go on.
	}
	v := l.local.take(b, q, cost, patience)
	return v.delay, v.refusal()
}

func (l *Limiter) limits(who Caller, b []bucket, q []quota) ([]bucket, []quota) {
	for _, x := range [...]bucket{
		{key{kind: principals, tenant: who.Tenant, id: who.Principal}, "principal", l.config.Principal},
		{key{kind: keys, tenant: who.Tenant, id: who.Key}, "key", l.config.Key},
		{key{kind: tenants, tenant: who.Tenant}, "tenant", l.config.Tenant},
	} {
		if !x.rate.off() {
			b = append(b, x)
		}
	}
	if l.config.Quotas == (Quotas{}) {
		return b, q
	}
	now := l.local.now().UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, x := range [...]quota{
		{key{kind: principalDays, tenant: who.Tenant, id: who.Principal, period: day.Unix()}, "quota-principal-day", l.config.Quotas.Principal.Day, day.AddDate(0, 0, 1)},
		{key{kind: principalMonths, tenant: who.Tenant, id: who.Principal, period: month.Unix()}, "quota-principal-month", l.config.Quotas.Principal.Month, month.AddDate(0, 1, 0)},
		{key{kind: tenantDays, tenant: who.Tenant, period: day.Unix()}, "quota-tenant-day", l.config.Quotas.Tenant.Day, day.AddDate(0, 0, 1)},
		{key{kind: tenantMonths, tenant: who.Tenant, period: month.Unix()}, "quota-tenant-month", l.config.Quotas.Tenant.Month, month.AddDate(0, 1, 0)},
	} {
		if x.most > 0 {
			q = append(q, x)
		}
	}
	return b, q
}

// wait holds a call back. At most MaxWaiting calls of a principal wait at a time.
func (l *Limiter) wait(ctx context.Context, who Caller, delay time.Duration) error {
	if l.queue.Add(1) > maxQueue || !l.waiting.enter(who.Principal, max(l.config.MaxWaiting, 1)) {
		l.queue.Add(-1)
		return &Refusal{Policy: "principal", Rate: l.config.Principal, After: delay}
	}
	defer l.queue.Add(-1)
	defer l.waiting.leave(who.Principal, max(l.config.MaxWaiting, 1))
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// DistinctValues is the policy of a Refusal by Distinct.
const DistinctValues = "distinct-values"

// Budgets says whether Distinct refuses anybody anything.
func (l *Limiter) Budgets() bool {
	return l != nil && max(l.config.Distinct, l.config.DistinctFew) > 0
}

// Distinct charges a principal for asking about values of a scope (a field), each by a keyed digest: how many different
// ones it may name in a day is bounded, because whoever may name all of them has the field. Values named before are free.
//
// few says that the scope has few values, so that a smaller budget is needed to keep anybody from going through them.
func (l *Limiter) Distinct(ctx context.Context, who Caller, scope string, digests [][8]byte, few bool) error {
	if l == nil || len(digests) == 0 {
		return nil
	}
	most := l.config.Distinct
	if few {
		most = l.config.DistinctFew
	}
	if most == 0 {
		return nil
	}
	now := l.local.now().UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	k := key{kind: distinct, tenant: who.Tenant, id: who.Principal, period: day.Unix(), scope: scope}
	fits, err := false, error(nil)
	if l.shared != nil {
		fits, err = l.shared.distinct(ctx, k, digests, most)
	}
	if err != nil && l.shared.config.Closed {
		return err
	}
	if l.shared == nil || err != nil {
		fits = l.local.distinct(k, digests, most)
	}
	if !fits {
		return &Refusal{Policy: DistinctValues, Quota: true, After: day.AddDate(0, 0, 1).Sub(now)}
	}
	return nil
}

// crowds counts who is in, by id.
type crowds struct {
	mu sync.Mutex
	in map[[16]byte]int
}

func newCrowds() *crowds { return &crowds{in: map[[16]byte]int{}} }

func (c *crowds) enter(id [16]byte, most int) bool {
	if most == 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in[id] >= most {
		return false
	}
	c.in[id]++
	return true
}

func (c *crowds) leave(id [16]byte, most int) {
	if most == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in[id]--; c.in[id] <= 0 {
		delete(c.in, id)
	}
}

func (c *crowds) count(id [16]byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in[id]
}
