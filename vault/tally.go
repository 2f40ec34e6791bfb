package vault

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
)

// RequestMetrics count the requests under one regime that were received in one year: what 11 CCR 7102(a) asks for, and as
// good for the other regimes.
type RequestMetrics struct {
	Regime deadline.Regime
	Year   int
	All    RequestCounts
	Types  map[deadline.Type]RequestCounts // those that any came of
}

// RequestCounts say what became of requests.
type RequestCounts struct {
	Received    int
	Complied    int // in whole or in part; NothingHeld are among them
	InPart      int // of Complied: erasures after which something of the person stays
	NothingHeld int
	Denied      int
	Denials     map[string]int // by reason
	Cancelled   int
	Expired     int
	Open        int
	MedianDays  *float64 // from receipt to the answer, a denial included; nil: none was answered
	MeanDays    *float64
}

// RequestMetrics gives a year's counts. Years before the ones whose requests are kept are short or empty.
func (v *Vault) RequestMetrics(ctx context.Context, who Caller, regime deadline.Regime, year int) (*RequestMetrics, error) {
	m := &RequestMetrics{Regime: regime, Year: year, Types: map[deadline.Type]RequestCounts{}}
	err := v.within(ctx, who, policy.ReadRequests, func(t *txn) error {
		if err := t.entry.require(policy.ReadRequests); err != nil {
			return err
		}
		if _, err := deadline.For(regime, deadline.Access); err != nil {
			return invalid("", "regime", "the regimes are gdpr, ccpa and hipaa")
		}
		if year < 2000 || year > t.now.Year()+1 {
			return invalid("", "year", "year is a calendar year, from 2000 on")
		}
		return m.count(ctx, t, v.clocks.of(regime).Zone)
	})
	return m, err
}

func (m *RequestMetrics) count(ctx context.Context, t *txn, zone *time.Location) error {
	first := time.Date(m.Year, 1, 1, 0, 0, 0, 0, zone)
	args := []any{t.who.Tenant, m.Regime, first, first.AddDate(1, 0, 0)}
	b := &pgx.Batch{}
	b.Queue(`
		select coalesce(type, ''), count(*), count(*) filter (where state = 'completed'), count(*) filter (where state = 'completed' and in_part), count(*) filter (where outcome = 'nothing-held'),
			count(*) filter (where state = 'denied'), count(*) filter (where state = 'cancelled'), count(*) filter (where state = 'expired'),
			count(*) filter (where closed_at is null),
			percentile_cont(0.5) within group (order by days) filter (where state in ('completed', 'denied')),
			(avg(days) filter (where state in ('completed', 'denied')))::float8
		from (select *, exists (select from privault.erasures e where e.tenant_id = q.tenant_id and e.erasure_id = q.erasure_id
					and jsonb_typeof(e.retained) = 'array' and e.retained <> '[]') as in_part,
				(closed_at at time zone $5)::date - (received_at at time zone $5)::date as days from privault.requests q
			where tenant_id = $1 and regime = $2 and received_at >= $3 and received_at < $4) r
		group by grouping sets ((type), ())`, append(args, zone.String())...).Query(func(rows pgx.Rows) error {
		var typ deadline.Type
		var c RequestCounts
		_, err := pgx.ForEachRow(rows, []any{&typ, &c.Received, &c.Complied, &c.InPart, &c.NothingHeld, &c.Denied, &c.Cancelled, &c.Expired, &c.Open, &c.MedianDays, &c.MeanDays}, func() error {
			c.Denials = map[string]int{}
			if typ == "" {
				m.All = c
			} else {
				m.Types[typ] = c
			}
			return nil
		})
		return err
	})
	b.Queue(`
		select type, denial, count(*) from privault.requests
		where tenant_id = $1 and regime = $2 and received_at >= $3 and received_at < $4 and denial is not null
		group by type, denial`, args...).Query(func(rows pgx.Rows) error {
		var typ deadline.Type
		var reason string
		var n int
		_, err := pgx.ForEachRow(rows, []any{&typ, &reason, &n}, func() error {
			if c, counted := m.Types[typ]; counted { // otherwise it came after the statement before
				c.Denials[reason] = n
				m.All.Denials[reason] += n
			}
			return nil
		})
		return err
	})
	return t.data.SendBatch(ctx, b).Close()
}
