package vault

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// What is noted of open requests as their dates come near and pass: once each, in the request's history and an audit entry.
const (
	dueSoon            = "due-soon"
	overdue            = "overdue"
	acknowledgeSoon    = "acknowledgement-due-soon"
	acknowledgeOverdue = "acknowledgement-overdue"
)

// The same as in toNote.
const (
	soon            = 7 * 24 * time.Hour
	soonAcknowledge = 3 * 24 * time.Hour
	// A person who was asked who they are and hasn't said it for so long won't; what is due meanwhile is due all the same.
	expireAfter = 90 * 24 * time.Hour

	deadlinesEvery = 10 * time.Minute
)

// withoutDue drops what was noted of a date that has moved.
func withoutDue(noted []string) []string {
	return slices.DeleteFunc(slices.Clone(noted), func(n string) bool { return n == dueSoon || n == overdue })
}

// deadlines are the events of a request that are due to be noted.
func (r *Request) deadlines(now time.Time) (events []string) {
	note := func(date time.Time, ahead time.Duration, early, late string) {
		switch {
		case slices.Contains(r.noted, late):
		case now.After(date):
			events = append(events, late)
		case now.After(date.Add(-ahead)) && !slices.Contains(r.noted, early):
			events = append(events, early)
		}
	}
	if r.AcknowledgeBy != nil && r.Acknowledged == nil {
		note(*r.AcknowledgeBy, soonAcknowledge, acknowledgeSoon, acknowledgeOverdue)
	}
	if r.Paused == nil {
		note(r.Due, soon, dueSoon, overdue)
	}
	return events
}

// expired says whether the person was asked who they are too long ago.
func (r *Request) expired(now time.Time) bool {
	return r.State == RequestVerifying && r.Asked != nil && now.After(r.Asked.Add(expireAfter)) && (r.Paused != nil || now.After(r.Due))
}

// toNote are the open requests of which something is to be noted: Request.deadlines and expired in SQL.
const toNote = ` closed_at is null and (
	paused_at is null and (due_at < $2 and not 'overdue' = any(noted)
		or due_at < $2 + interval '7 days' and not noted && array['due-soon', 'overdue'])
	or acknowledged_at is null and (acknowledge_by < $2 and not 'acknowledgement-overdue' = any(noted)
		or acknowledge_by < $2 + interval '3 days' and not noted && array['acknowledgement-due-soon', 'acknowledgement-overdue'])
	or state = 'verifying' and asked_at < $2 - interval '90 days' and (paused_at is not null or due_at < $2))`

// NoteDeadlines notes what is due of up to batch of a tenant's requests, and gives of how many.
func (v *Vault) NoteDeadlines(ctx context.Context, tenant ID, batch int) (int, error) {
	// Most of the time there is nothing, and nothing needs no entry.
	var some bool
	err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select exists (select from privault.requests where tenant_id = $1 and`+toNote+`)`, tenant, v.now()).Scan(&some)
	})
	if err != nil || !some {
		return 0, err
	}
	return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
		rows, err := t.data.Query(ctx, requestColumns+toNote+` limit $3 for update skip locked`, tenant, t.now, batch)
		if err != nil {
			return 0, err
		}
		due, err := pgx.CollectRows(rows, v.scanRequest)
		if err != nil {
			return 0, err
		}
		for _, r := range due {
			for _, event := range r.deadlines(t.now) {
				r.noted = append(r.noted, event)
				r.happens(RequestEvent{Event: event})
				t.entry.Resources = append(t.entry.Resources, resource{Request: r.ID, Outcome: event})
			}
			if r.expired(t.now) {
				t.closeRequest(r, RequestExpired, RequestEvent{Event: RequestExpired})
				t.entry.Resources = append(t.entry.Resources, resource{Request: r.ID, Outcome: RequestExpired})
			}
			if err := t.putRequest(ctx, r); err != nil {
				return 0, err
			}
		}
		return int64(len(due)), nil
	})
}

// noteDeadlines does it for every tenant, and counts what is overdue.
func (v *Vault) noteDeadlines(ctx context.Context) error {
	if err := v.eachTenant(ctx, v.NoteDeadlines); err != nil {
		return err
	}
	now := v.now()
	n, err := v.countEverywhere(ctx, `
		select count(*) from privault.requests
		where tenant_id = $1 and closed_at is null and paused_at is null and due_at < $2`, now)
	if err == nil {
		v.metrics.overdue.set(n, now)
	}
	return err
}

// overdueCount is how many requests were overdue when this replica last looked: one replica does at a time, and another one
// the next, so what is older than a few looks is no longer said.
type overdueCount struct {
	n  atomic.Int64
	at atomic.Int64
}

func (o *overdueCount) set(n int64, at time.Time) { o.n.Store(n); o.at.Store(at.UnixNano()) }

func (o *overdueCount) gauge(now func() time.Time) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "privault_requests_overdue",
		Help: "Open requests of persons whose date has passed, over all tenants; NaN on a replica that has not looked for half an hour."},
		func() float64 {
			if now().Sub(time.Unix(0, o.at.Load())) > 3*deadlinesEvery {
				return math.NaN()
			}
			return float64(o.n.Load())
		})
}

// SweepRequests deletes up to batch of a tenant's requests that were closed so long ago that no law wants them kept, with
// their histories, and gives how many. The database lets nobody delete others (migration 13).
func (v *Vault) SweepRequests(ctx context.Context, tenant ID, batch int) (int, error) {
	return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
		rows, err := t.data.Query(ctx, `
			delete from privault.requests where tenant_id = $1 and request_id in (
				select request_id from privault.requests
				where tenant_id = $1 and closed_at < $2::timestamptz - case regime when 'hipaa' then interval '6 years' else interval '24 months' end
				limit $3 for update skip locked)
			returning request_id`, tenant, t.now, batch)
		if err != nil {
			return 0, err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[ID])
		if err != nil || len(ids) == 0 {
			return 0, err
		}
		_, err = t.keys.Exec(ctx, deleteKeys, tenant, ids)
		return int64(len(ids)), err
	})
}

// sweepRequests does it for every tenant.
func (v *Vault) sweepRequests(ctx context.Context) error { return v.eachTenant(ctx, v.SweepRequests) }
