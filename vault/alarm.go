package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// What a principal suddenly does is noticed here: each replica counts in memory, and every few seconds adds what it counted
// to the hour's row, which all replicas share, and compares the sum with the principal's own past.

// The kinds of alarm.
const (
	AlarmTokenSpray       = "token-spray"       // tokens and ids that are nobody's
	AlarmExfiltration     = "exfiltration"      // values in clear
	AlarmDenials          = "denials"           // what the policy refused
	AlarmEnumeration      = "enumeration"       // calls beyond the budget of distinct values
	AlarmNewNetwork       = "new-network"       // from where the principal never came
	AlarmNewHour          = "new-hour"          // at an hour of the day at which it never did
	AlarmCredentialShared = "credential-shared" //nolint:gosec // an alarm's name: from many networks at once
	AlarmKeyLeaked        = "key-leaked"        // somebody reported the key, and has it
)

// AlarmKinds are all of them.
func AlarmKinds() []string {
	return []string{AlarmTokenSpray, AlarmExfiltration, AlarmDenials, AlarmEnumeration, AlarmNewNetwork, AlarmNewHour, AlarmCredentialShared, AlarmKeyLeaked}
}

// The responses. Each but the first is in force until it expires or is lifted.
const (
	ResponseAlert   = "alert"   // the audit entry, the metric, the log line
	ResponseMask    = "mask"    // the principal sees nothing in clear
	ResponseBlock   = "block"   // the principal is refused from that network
	ResponseSuspend = "suspend" // the credential is refused
)

var responses = []string{ResponseAlert, ResponseMask, ResponseBlock, ResponseSuspend}

// AlarmRule says when there is an alarm, and what is done.
type AlarmRule struct {
	Off      bool
	Floor    int64         // in an hour; so many are never sudden. Of credential-shared: networks within ten minutes
	Factor   float64       // of the most in an hour of the last two weeks. Neither this nor Floor: the default ones
	Response string        // empty: alert
	For      time.Duration // that the response is in force; 0: an hour
}

// AlarmRules are the rules by kind.
type AlarmRules struct {
	Rules map[string]AlarmRule
	Allow []netip.Prefix // from here there are alarms, and never a response
}

// defaultAlarms alert, and suspend a key that is known to have leaked.
var defaultAlarms = map[string]AlarmRule{
	AlarmTokenSpray:       {Floor: 500, Factor: 5},
	AlarmExfiltration:     {Floor: 20_000, Factor: 5},
	AlarmDenials:          {Floor: 500, Factor: 5},
	AlarmEnumeration:      {},
	AlarmNewNetwork:       {},
	AlarmNewHour:          {},
	AlarmCredentialShared: {Floor: 4},
	AlarmKeyLeaked:        {Response: ResponseSuspend, For: 24 * time.Hour},
}

// DefaultAlarms are the rules where no others are given.
func DefaultAlarms() map[string]AlarmRule { return maps.Clone(defaultAlarms) }

const (
	defaultResponse = time.Hour
	longestResponse = 24 * time.Hour
	longestBlock    = time.Hour // an address may be somebody else's by then
)

// Faults are all that is wrong with the rules.
func (a AlarmRules) Faults() []string {
	var faults []string
	for _, kind := range sortedKeys(a.Rules) {
		r := a.Rules[kind]
		if !slices.Contains(AlarmKinds(), kind) {
			faults = append(faults, fmt.Sprintf("there is no alarm %q; there are %s", kind, list(AlarmKinds())))
			continue
		}
		most := longestResponse
		if r.Response == ResponseBlock {
			most = longestBlock
		}
		if r.Floor < 0 || r.Factor < 0 || r.For < 0 || r.For > most || r.Response != "" && !slices.Contains(responses, r.Response) {
			faults = append(faults, fmt.Sprintf("%s: floor and factor are not negative, response is %s, and for is at most 24h, of block 1h", kind, list(responses)))
		}
		if r.Response == ResponseBlock && kind == AlarmKeyLeaked {
			faults = append(faults, kind+": who reports a key is not who used it; suspend it")
		}
	}
	return faults
}

// rule is a kind's, with its defaults.
func (a AlarmRules) rule(kind string) AlarmRule {
	r, given := a.Rules[kind]
	if usual := defaultAlarms[kind]; !given {
		r = usual
	} else if r.Floor == 0 && r.Factor == 0 {
		r.Floor, r.Factor = usual.Floor, usual.Factor
	}
	if r.Response == "" {
		r.Response = ResponseAlert
	}
	if r.For == 0 {
		r.For = defaultResponse
	}
	return r
}

// counts are what is counted of a principal.
type counts struct{ revealed, denied, unknown, refused int64 }

func (c *counts) add(o counts) {
	c.revealed += o.revealed
	c.denied += o.denied
	c.unknown += o.unknown
	c.refused += o.refused
}

// doer is who did it, by which credential and from where.
type doer struct {
	tenant, principal, credential ID
	network                       netip.Prefix
}

// watcher counts since the last look.
type watcher struct {
	mu    sync.Mutex
	since map[doer]counts
}

// maxDoers bounds the memory of a watcher between two looks.
const maxDoers = 100_000

// see counts what an operation's entry says. It costs a look-up in a map.
func (w *watcher) see(e *entry) {
	if e.who.Principal == (ID{}) {
		return
	}
	c := counts{unknown: int64(e.unknown)}
	for _, r := range e.Resources {
		switch {
		case r.Outcome == outcomeDenied:
			c.denied += int64(max(len(r.Records), 1))
		case r.View == policy.Plain.String():
			c.revealed += int64(len(r.Records) * len(r.Fields))
		}
	}
	switch {
	case e.Outcome == outcomeDenied && c.denied == 0:
		c.denied = 1
	case e.Problem == string(NotFound):
		c.unknown++
	case e.Problem == string(QuotaExceeded):
		c.refused = 1
	case e.Action == string(policy.Decode):
		c.revealed += int64(e.Items - e.Refused)
	}
	who := doer{e.who.Tenant, e.who.Principal, e.who.Credential, blockOf(e.who.Network)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since == nil {
		w.since = map[doer]counts{}
	}
	sum, have := w.since[who]
	if !have && len(w.since) >= maxDoers {
		return
	}
	sum.add(c)
	w.since[who] = sum
}

// blockOf is what counts as one network: the neighbours of an address.
func blockOf(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address is known
	}
	return p
}

// Watch adds what this replica counted to what all did, and raises the alarms that this gives. It gives how many.
func (v *Vault) Watch(ctx context.Context) (raised int, err error) {
	v.watcher.mu.Lock()
	since := v.watcher.since
	v.watcher.since = nil
	v.watcher.mu.Unlock()
	byTenant := map[ID]map[doer]counts{}
	for who, c := range since {
		if byTenant[who.tenant] == nil {
			byTenant[who.tenant] = map[doer]counts{}
		}
		byTenant[who.tenant][who] = c
	}
	for tenant, seen := range byTenant {
		alarms, failed := v.judge(ctx, tenant, seen)
		if failed == nil && len(alarms) > 0 {
			var n int
			n, failed = v.raise(ctx, tenant, alarms)
			raised += n
		}
		err = errors.Join(err, failed)
	}
	return raised, err
}

// past is what is known of a principal.
type past struct {
	hour   counts    // this one so far, on all replicas
	most   counts    // of an hour before
	known  time.Time // since when; zero: this is its first hour
	hours  []int     // of the day
	nearby int64     // networks within ten minutes
	fresh  []netip.Prefix
	raised []string // kinds of alarm that there are in this hour already
}

const (
	pastLife   = 14 * 24 * time.Hour
	habitAfter = 7 * 24 * time.Hour // before, nothing is a habit
)

// judge adds what was seen and compares.
func (v *Vault) judge(ctx context.Context, tenant ID, seen map[doer]counts) (alarms []Alarm, err error) {
	now := v.now().UTC().Truncate(time.Microsecond)
	of := map[ID]*past{}
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		if err := addBehaviour(ctx, tx, tenant, now, seen, of); err != nil {
			return err
		}
		return readPast(ctx, tx, tenant, now, of)
	})
	if err != nil {
		return nil, err
	}
	for principal, p := range of {
		for _, a := range v.alarms.sudden(principal, p, seen, now) {
			if !slices.Contains(p.raised, a.Kind) {
				alarms = append(alarms, a)
			}
		}
	}
	return alarms, nil
}

func addBehaviour(ctx context.Context, tx pgx.Tx, tenant ID, now time.Time, seen map[doer]counts, of map[ID]*past) error {
	sums := map[ID]*counts{}
	var principals, networked []ID
	var networks []netip.Prefix
	for who, c := range seen {
		if sums[who.principal] == nil {
			sums[who.principal] = &counts{}
			principals = append(principals, who.principal)
		}
		sums[who.principal].add(c)
		if who.network.IsValid() {
			networked, networks = append(networked, who.principal), append(networks, who.network)
		}
	}
	slices.SortFunc(principals, func(a, b ID) int { return slices.Compare(a[:], b[:]) }) // in one order on all replicas
	var revealed, denied, unknown, refused []int64
	for _, id := range principals {
		c := sums[id]
		revealed, denied, unknown, refused = append(revealed, c.revealed), append(denied, c.denied), append(unknown, c.unknown), append(refused, c.refused)
	}
	rows, err := tx.Query(ctx, `
		insert into privault.behaviour as b (tenant_id, principal_id, hour, revealed, denied, unknown, refused)
		select $1, s.id, $3, s.revealed, s.denied, s.unknown, s.refused
		from unnest($2::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) as s(id, revealed, denied, unknown, refused)
		on conflict (tenant_id, principal_id, hour) do update set revealed = b.revealed + excluded.revealed,
			denied = b.denied + excluded.denied, unknown = b.unknown + excluded.unknown, refused = b.refused + excluded.refused
		returning principal_id, revealed, denied, unknown, refused`,
		tenant, principals, now.Truncate(time.Hour), revealed, denied, unknown, refused)
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (id ID, err error) {
		p := &past{}
		err = r.Scan(&id, &p.hour.revealed, &p.hour.denied, &p.hour.unknown, &p.hour.refused)
		of[id] = p
		return id, err
	})
	if err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `
		insert into privault.principal_networks as n (tenant_id, principal_id, network, first_at, last_at)
		select distinct $1::uuid, s.id, s.network, $4::timestamptz, $4::timestamptz from unnest($2::uuid[], $3::cidr[]) as s(id, network) order by s.id, s.network
		on conflict (tenant_id, principal_id, network) do update set last_at = greatest(n.last_at, excluded.last_at)
		returning principal_id, network, first_at = $4`, tenant, networked, networks, now)
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (id ID, err error) {
		var network netip.Prefix
		var fresh bool
		if err = r.Scan(&id, &network, &fresh); err == nil && fresh {
			of[id].fresh = append(of[id].fresh, network)
		}
		return id, err
	})
	return err
}

func readPast(ctx context.Context, tx pgx.Tx, tenant ID, now time.Time, of map[ID]*past) error {
	principals := make([]ID, 0, len(of))
	for id := range of {
		principals = append(principals, id)
	}
	rows, err := tx.Query(ctx, `
		select b.principal_id, min(b.hour), max(b.revealed), max(b.denied), max(b.unknown), array_agg(distinct extract(hour from b.hour)::int)
		from privault.behaviour b
		where b.tenant_id = $1 and b.principal_id = any($2) and b.hour >= $3 and b.hour < $4
		group by b.principal_id`, tenant, principals, now.Add(-pastLife), now.Truncate(time.Hour))
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (id ID, err error) {
		var p past
		if err = r.Scan(&id, &p.known, &p.most.revealed, &p.most.denied, &p.most.unknown, &p.hours); err == nil {
			of[id].known, of[id].most, of[id].hours = p.known, p.most, p.hours
		}
		return id, err
	})
	if err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `
		select principal_id, count(*) from privault.principal_networks
		where tenant_id = $1 and principal_id = any($2) and last_at > $3 group by principal_id`, tenant, principals, now.Add(-10*time.Minute))
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (id ID, err error) {
		var n int64
		if err = r.Scan(&id, &n); err == nil {
			of[id].nearby = n
		}
		return id, err
	})
	if err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `
		select principal_id, kind from privault.alarms where tenant_id = $1 and principal_id = any($2) and hour = $3`, tenant, principals, now.Truncate(time.Hour))
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (id ID, err error) {
		var kind string
		if err = r.Scan(&id, &kind); err == nil {
			of[id].raised = append(of[id].raised, kind)
		}
		return id, err
	})
	return err
}

// sudden are the alarms that a principal's hour gives.
func (a AlarmRules) sudden(principal ID, p *past, seen map[doer]counts, now time.Time) (alarms []Alarm) {
	raise := func(kind string, counted, usual int64, by func(counts) int64) {
		if r := a.rule(kind); !r.Off && counted > max(r.Floor, int64(r.Factor*float64(usual))) {
			alarms = append(alarms, a.alarm(kind, principal, most(principal, seen, by), counted, usual, now))
		}
	}
	raise(AlarmExfiltration, p.hour.revealed, p.most.revealed, func(c counts) int64 { return c.revealed })
	raise(AlarmDenials, p.hour.denied, p.most.denied, func(c counts) int64 { return c.denied })
	raise(AlarmTokenSpray, p.hour.unknown, p.most.unknown, func(c counts) int64 { return c.unknown })
	raise(AlarmEnumeration, p.hour.refused, 0, func(c counts) int64 { return c.refused })
	anything := func(counts) int64 { return 1 }
	raise(AlarmCredentialShared, p.nearby, 0, anything)
	if p.known.IsZero() || now.Sub(p.known) < habitAfter {
		return alarms
	}
	if !slices.Contains(p.hours, now.Hour()) {
		raise(AlarmNewHour, 1, 0, anything)
	}
	if len(p.fresh) == 0 || a.rule(AlarmNewNetwork).Off {
		return alarms
	}
	for who := range seen {
		if who.principal == principal && slices.Contains(p.fresh, who.network) {
			return append(alarms, a.alarm(AlarmNewNetwork, principal, who, 1, 0, now))
		}
	}
	return alarms
}

// most is by which credential and from where a principal did most of it, of what this replica saw.
func most(principal ID, seen map[doer]counts, by func(counts) int64) (top doer) {
	best := int64(-1)
	for who, c := range seen {
		if who.principal == principal && by(c) > best {
			top, best = who, by(c)
		}
	}
	return top
}

func (a AlarmRules) alarm(kind string, principal ID, who doer, counted, usual int64, now time.Time) Alarm {
	r := a.rule(kind)
	out := Alarm{Kind: kind, principal: principal, credential: who.credential, Network: who.network, Raised: now,
		Counted: counted, Usual: usual, Response: r.Response, Expires: now}
	for _, allowed := range a.Allow {
		if who.network.IsValid() && allowed.Overlaps(who.network) {
			out.Response = ResponseAlert
		}
	}
	if out.Response == ResponseBlock && !who.network.IsValid() {
		out.Response = ResponseAlert
	}
	if out.Response != ResponseAlert {
		out.Expires = now.Add(r.For)
	}
	return out
}
