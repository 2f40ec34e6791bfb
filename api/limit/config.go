package limit

import (
	"fmt"
	"time"
)

// Config is what is limited, and how far. Its JSON is the file that `privault serve --limits` reads. What is zero is not
// limited.
type Config struct {
	Principal Rate `json:"principal"`
	Key       Rate `json:"key"`
	Tenant    Rate `json:"tenant"`
	Address   Rate `json:"address"` // of a client; counted in each replica

	MaxDelay   Duration `json:"max_delay"`   // how long a call may be held back
	MaxWaiting int      `json:"max_waiting"` // how many calls of a principal may be

	Quotas      Quotas      `json:"quotas"`
	Concurrency Concurrency `json:"concurrency"`         // counted in each replica
	Distinct    int64       `json:"distinct_values"`     // that a principal may name in one field in a day
	DistinctFew int64       `json:"distinct_values_few"` // likewise, where there are few: card numbers, SSNs, dates, postal codes

	Costs         map[string]int `json:"costs"`          // "POST /v1/tokenize" → units; over the built-in ones
	FailedAttempt int            `json:"failed_attempt"` // units that an address pays for a bad credential

	Redis *Redis `json:"-"`
}

// Rate is how many units a second, in the long run, and how many at once. A unit is an ordinary call.
type Rate struct {
	PerSecond float64 `json:"per_second"`
	Burst     int     `json:"burst"`
}

func (r Rate) off() bool { return r.PerSecond == 0 }

// interval is the time that one unit takes.
func (r Rate) interval() float64 { return float64(time.Second) / r.PerSecond }

// Quota is how many units may be used up in a day and in a month, UTC.
type Quota struct {
	Day   int64 `json:"day"`
	Month int64 `json:"month"`
}

// Quotas are of each principal and each tenant.
type Quotas struct {
	Principal Quota `json:"principal"`
	Tenant    Quota `json:"tenant"`
}

// Concurrency is how many calls may be under way at once.
type Concurrency struct {
	Principal int `json:"principal"`
	Tenant    int `json:"tenant"`
}

// Redis keeps counters for all replicas.
type Redis struct {
	URL     string
	Timeout time.Duration // of one question; 0: 250 ms
	Closed  bool          // refuse calls while Redis is away; or else each replica counts for itself
}

// Duration is a time.Duration whose JSON is text such as "2s".
type Duration time.Duration

// UnmarshalText reads Go's form of a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	parsed, err := time.ParseDuration(string(b))
	*d = Duration(parsed)
	return err
}

// MarshalText is the reverse.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Defaults are generous: they stop what has run wild, and no service that works.
func Defaults() Config {
	return Config{
		Principal: Rate{10_000, 20_000}, Key: Rate{10_000, 20_000}, Tenant: Rate{50_000, 100_000}, Address: Rate{20_000, 40_000},
		MaxDelay: Duration(2 * time.Second), MaxWaiting: 20, Concurrency: Concurrency{Principal: 1000, Tenant: 4000},
		Distinct: 50_000, DistinctFew: 10_000, FailedAttempt: 100,
	}
}

const mostDelay = 10 * time.Second

// Faults are all that is wrong with a Config.
func (c Config) Faults() []string {
	var faults []string
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for name, r := range map[string]Rate{"principal": c.Principal, "key": c.Key, "tenant": c.Tenant, "address": c.Address} {
		if r.PerSecond < 0 || r.PerSecond > 1e6 || r.PerSecond > 0 && r.PerSecond < 1e-4 {
			bad("%s.per_second is 0.0001 to 1000000, or 0 for no limit", name)
		}
		if (r.PerSecond == 0) != (r.Burst == 0) || r.Burst < 0 || r.Burst > 1e9 {
			bad("%s needs both per_second and burst, or neither", name)
		}
	}
	if d := time.Duration(c.MaxDelay); d < 0 || d > mostDelay {
		bad("max_delay is 0s to 10s")
	}
	if c.MaxWaiting < 0 || c.MaxWaiting > maxQueue || min(c.Distinct, c.DistinctFew) < 0 || max(c.Distinct, c.DistinctFew) > 1e6 ||
		c.FailedAttempt < 0 || c.Concurrency.Principal < 0 || c.Concurrency.Tenant < 0 {
		bad("max_waiting is 0 to 1000, distinct_values and distinct_values_few 0 to 1000000, and no other number is negative")
	}
	for _, q := range []Quota{c.Quotas.Principal, c.Quotas.Tenant} {
		if q.Day < 0 || q.Month < 0 {
			bad("a quota is not negative")
		}
	}
	for _, cost := range c.Costs {
		if cost < 0 || cost > 10_000 {
			bad("a cost is 0 to 10000 units")
		}
	}
	return faults
}

// costs are what routes cost that do more than an ordinary call, in units. Large bodies cost more on every route: see Cost.
var costs = map[string]int{
	"POST /v1/collections/:collection/import": 10,
	"POST /v1/collections/:collection/export": 50,
	"POST /v1/collections/:collection/search": 5,
	"PUT /v1/collections/:collection":         5,
	"POST /v1/subjects/:subject/erasure":      20,
	"GET /v1/subjects/:subject/disclosures":   10,
	"GET /v1/audit/entries":                   10,
	"POST /v1/retention/plans":                50,
	"POST /v1/retention/sweeps":               50,
	"POST /v1/principals":                     5,
	"POST /v1/principals/:principal/keys":     5,
	"POST /v1/revoked-tokens":                 5,
}

const (
	bytesOfAUnit = 4 << 10 // some twenty items of a batch
	unknownUnits = 16      // of a body of unknown length
)

// Cost is what a call costs: that of its route, and a unit for every 4 KiB of its body.
func (l *Limiter) Cost(route string, body int64) int {
	if l == nil {
		return 0
	}
	cost, set := l.config.Costs[route]
	if !set {
		if cost, set = costs[route]; !set {
			cost = 1
		}
	}
	switch {
	case body < 0:
		cost += unknownUnits
	default:
		cost += int(min(body, 1<<30) / bytesOfAUnit)
	}
	return cost
}
