package limit

import (
	"math"
	"sync"
	"time"
)

type kind uint8

const (
	addresses kind = iota
	principals
	keys
	tenants
	principalDays
	principalMonths
	tenantDays
	tenantMonths
	distinct
)

// key names a counter.
type key struct {
	kind       kind
	tenant, id [16]byte
	period     int64
	scope      string
}

// bucket is a rate to be kept, quota a sum.
type (
	bucket struct {
		key    key
		policy string
		rate   Rate
	}
	quota struct {
		key    key
		policy string
		most   int64
		ends   time.Time
	}
)

// verdict is how a charge ended.
type verdict struct {
	delay   time.Duration // to wait before going on
	refused *Refusal
}

func (v verdict) refusal() error {
	if v.refused == nil {
		return nil
	}
	return v.refused
}

// memory counts in one replica. Rates are kept by GCRA: a counter is the time at which its bucket will be full again
// (the theoretical arrival time), so one number stands for rate and burst, and one that has passed can be forgotten.
type memory struct {
	now  func() time.Time
	mu   sync.Mutex
	tats map[key]int64 // ns
	used map[key]int64
	ends map[key]int64 // of used and seen, ns
	seen map[key]map[[8]byte]struct{}
	next int64 // when to look for what has passed
}

// maxCounters bounds the memory of counters: some 100 bytes each. When callers are more, those beyond it share one.
const maxCounters = 200_000

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, tats: map[key]int64{}, used: map[key]int64{}, ends: map[key]int64{}, seen: map[key]map[[8]byte]struct{}{}}
}

// take charges all limits or none, and says how long to wait: at most patience, or it is a refusal.
func (m *memory) take(buckets []bucket, quotas []quota, cost int, patience time.Duration) verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now().UnixNano()
	m.forget(now)
	var tats [4]int64
	wait, which := int64(0), -1
	for i := range buckets {
		b := &buckets[i]
		if _, have := m.tats[b.key]; !have && len(m.tats) >= maxCounters {
			b.key = key{kind: b.key.kind} // shared by all who come too late
		}
		interval := b.rate.interval()
		tats[i] = max(m.tats[b.key], now) + int64(float64(min(cost, b.rate.Burst))*interval)
		if w := tats[i] - int64(float64(b.rate.Burst)*interval) - now; w > wait {
			wait, which = w, i
		}
	}
	if wait > int64(patience) {
		b := buckets[which]
		return verdict{refused: &Refusal{Policy: b.policy, Rate: b.rate, After: time.Duration(wait)}}
	}
	for _, q := range quotas {
		if m.used[q.key]+int64(cost) > q.most {
			return verdict{refused: &Refusal{Policy: q.policy, Quota: true, After: time.Duration(q.ends.UnixNano() - now)}}
		}
	}
	for i := range buckets {
		m.tats[buckets[i].key] = tats[i]
	}
	for _, q := range quotas {
		m.used[q.key] += int64(cost)
		m.ends[q.key] = q.ends.UnixNano()
	}
	return verdict{delay: time.Duration(wait)}
}

// maxFine bounds for how long fines shut an address out, whatever it did.
const maxFine = int64(30 * time.Second)

// fine charges a bucket beyond what it holds.
func (m *memory) fine(b bucket, cost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now().UnixNano()
	if _, have := m.tats[b.key]; !have && len(m.tats) >= maxCounters {
		b.key = key{kind: b.key.kind}
	}
	interval := b.rate.interval()
	m.tats[b.key] = min(max(m.tats[b.key], now)+int64(float64(cost)*interval), now+int64(float64(b.rate.Burst)*interval)+maxFine)
}

// distinct adds values to those that were named, unless they would be too many.
func (m *memory) distinct(k key, digests [][8]byte, most int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	set := m.seen[k]
	if set == nil {
		set = map[[8]byte]struct{}{}
		m.seen[k] = set
		m.ends[k] = time.Unix(k.period, 0).AddDate(0, 0, 1).UnixNano()
	}
	fresh := map[[8]byte]struct{}{}
	for _, d := range digests {
		if _, have := set[d]; !have {
			fresh[d] = struct{}{}
		}
	}
	if int64(len(set)+len(fresh)) > most {
		return false
	}
	for d := range fresh {
		set[d] = struct{}{}
	}
	return true
}

const forgetEvery = int64(10 * time.Second)

// forget drops the counters that say nothing any more.
func (m *memory) forget(now int64) {
	if now < m.next {
		return
	}
	m.next = now + forgetEvery
	for k, tat := range m.tats {
		if tat <= now {
			delete(m.tats, k)
		}
	}
	for k, end := range m.ends {
		if end <= now {
			delete(m.ends, k)
			delete(m.used, k)
			delete(m.seen, k)
		}
	}
}

// Window is how long a bucket takes to fill, in whole seconds.
func (r Rate) Window() int { return max(1, int(math.Ceil(float64(r.Burst)/r.PerSecond))) }
