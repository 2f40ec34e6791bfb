package vault

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/privault/privault/vault/audit"
)

// What keeps a sweep from doing harm: a brake on what is unusual, a look at the clocks, and a rest while others are at work.

// sweeps is how the vault sweeps.
type sweeps struct {
	every time.Duration // 0: not by itself
	lanes int
	share float64 // of a collection, of which a sweep may take so much

	mu    sync.Mutex
	best  time.Duration // for a record, of late
	waits int64         // for a connection, up to the last batch
}

const (
	// So many records need no confirmation, whatever share they are.
	brakeFloor = 10
	// A sweep that takes so many times what the middle one of those before took needs one.
	brakeFactor = 3
	// So many of them are looked at, and fewer than the least say nothing.
	brakePast      = 7
	brakeLeastPast = 3
	// What weighing reads at once, in rows.
	weighRows = 50_000
	// One batch of weighing takes about so long.
	weighTurn = 3 * time.Second
)

// weighAt is how far weighing is.
type weighAt struct {
	Collection string      `json:"collection"` // that is being weighed
	At         sweepAt     `json:"at"`         // behind which what is due isn't counted yet
	Record     ID          `json:"record"`     // behind which the records aren't
	Counted    bool        `json:"counted"`    // what is due is
	Counts     SweepCounts `json:"counts"`
	// The digests of the rules, as Sweep.weighed has them.
	Weighed map[string]string `json:"weighed"`
	Now     weighedSoFar      `json:"now"`
}

// weighedSoFar is what is known of the collection that is being weighed.
type weighedSoFar struct {
	Due     int64 `json:"due"`
	Held    int64 `json:"held"`
	Records int64 `json:"records"`
}

// weighStep counts what is due, and lets the sweep begin if that is no more than is usual.
func (v *Vault) weighStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var p sweepParams
	var at weighAt
	if err := errors.Join(b.read(&p), b.resume(&at)); err != nil {
		return 0, false, err
	}
	s, err := b.sweepOf(ctx, formatID(sweepPrefix, p.Sweep), forUpdate)
	if err != nil || s.State != SweepQueued {
		return 0, false, err
	}
	b.entry.Resources = append(b.entry.Resources, resource{Sweep: s.ID})
	if reason, err := v.clockFault(ctx, b.txn); err != nil || reason != "" {
		if err == nil {
			err = b.endSweep(ctx, s, SweepStopped, reason)
		}
		return 0, false, err
	}
	rest := time.Duration(0)
	b.rest = &rest
	colls, err := b.scope(ctx, s)
	if err != nil {
		return 0, false, err
	}
	ends, err := currentPurposes(ctx, b.data, b.who.Tenant)
	if err != nil {
		return 0, false, err
	}
	for began := v.now(); ; {
		i := slices.IndexFunc(colls, func(c *Collection) bool { return c.Name > at.Collection || c.Name == at.Collection && !at.through() })
		if i < 0 {
			break
		}
		if v.now().Sub(began) > weighTurn {
			return 0, true, b.leave(at)
		}
		if colls[i].Name != at.Collection {
			at = weighAt{Collection: colls[i].Name, Counts: at.Counts, Weighed: at.Weighed}
			if at.Weighed == nil {
				at.Weighed = map[string]string{}
			}
			at.Weighed[formatID("", colls[i].id)] = colls[i].rulesDigest(ends)
		}
		if err := v.weigh(ctx, b, s, colls[i], &at); err != nil {
			return 0, false, err
		}
	}
	// What is done already was due too, of a sweep that is weighed again.
	had := s.Counts
	s.Counts = at.Counts
	s.Counts.Due += had.Deleted + had.Anonymised
	s.Counts.Deleted, s.Counts.Anonymised, s.Counts.Rules = had.Deleted, had.Anonymised, had.Rules
	_, err = b.data.Exec(ctx, `update privault.sweeps set weighed = $3 where tenant_id = $1 and sweep_id = $2`, b.who.Tenant, s.id, at.Weighed)
	if err != nil {
		return 0, false, err
	}
	return 0, false, v.weighed(ctx, b, s)
}

// through says that the collection is weighed.
func (w *weighAt) through() bool { return w.Record == lastID }

// weigh counts on: first what is due of the collection, and then its records, until it is sure that those are few of them.
func (v *Vault) weigh(ctx context.Context, b *batch, s *Sweep, c *Collection, at *weighAt) error {
	now := &at.Now
	if !at.Counted {
		n, held, err := b.weighDue(ctx, s, c, &at.At)
		now.Due, now.Held, at.Counted = now.Due+n, now.Held+held, n < weighRows
		at.Counts.Due += n
		return err
	}
	most := now.Due - now.Held
	if most < brakeFloor || s.DryRun {
		at.Record = lastID
		return nil
	}
	if float64(now.Records)*v.sweeps.share < float64(most) {
		n, last, err := b.weighRecords(ctx, c, at.Record)
		if err != nil {
			return err
		}
		if now.Records, at.Record = now.Records+n, last; last != lastID {
			return nil
		}
	}
	at.Record = lastID
	usual, err := b.usual(ctx, c.Name)
	if err != nil {
		return err
	}
	if float64(now.Records)*v.sweeps.share < float64(most) || usual > 0 && most > brakeFactor*usual {
		if at.Counts.Braked == nil {
			at.Counts.Braked = map[string]*SweptCollection{}
		}
		at.Counts.Braked[c.Name] = &SweptCollection{Due: most, Records: now.Records, Usual: usual}
	}
	return nil
}

// weighDue counts what of a collection may be due behind at, weighRows of it at most.
func (t *txn) weighDue(ctx context.Context, s *Sweep, c *Collection, at *sweepAt) (n, held int64, err error) {
	var due *time.Time
	var record *ID
	err = t.data.QueryRow(ctx, `
		select count(*), count(*) filter (where held), (array_agg(due))[count(*)::int], (array_agg(record_id))[count(*)::int] from (
			select coalesce(r.due_at, r.expires_at) as due, r.record_id, `+isHeld+` as held
			from privault.records r where r.tenant_id = $1 and r.collection_id = $2 and `+isDueBehind+inOrderOfDue+`limit $7) n`,
		t.who.Tenant, c.id, t.now, s.AsOf, at.Due, at.Record, weighRows).Scan(&n, &held, &due, &record)
	if err == nil && record != nil {
		at.Due, at.Record = *due, *record
	}
	return n, held, err
}

// weighRecords counts a collection's records behind one, among weighRows of the tenant's. last is lastID at the end.
func (t *txn) weighRecords(ctx context.Context, c *Collection, after ID) (n int64, last ID, err error) {
	var end *ID
	err = t.data.QueryRow(ctx, `
		select count(*) filter (where collection_id = $4), (array_agg(record_id))[$3] from (
			select r.record_id, r.collection_id from privault.records r where r.tenant_id = $1 and r.record_id > $2 order by r.record_id limit $3) n`,
		t.who.Tenant, after, weighRows, c.id).Scan(&n, &end)
	if end == nil {
		return n, lastID, err
	}
	return n, *end, err
}

// usual is what the middle one of the last sweeps took of a collection; 0: not known.
func (t *txn) usual(ctx context.Context, collection string) (int64, error) {
	rows, err := t.data.Query(ctx, `
		select sum(r.value::bigint)::bigint from (
			select sweep_id, counts from privault.sweeps where tenant_id = $1 and state = 'completed' and not dry_run order by sweep_id desc limit 100) s
		cross join lateral jsonb_each_text(coalesce(s.counts->'rules', '{}')) r
		where split_part(r.key, '/', 1) = $2 group by s.sweep_id order by s.sweep_id desc limit $3`, t.who.Tenant, collection, brakePast)
	if err != nil {
		return 0, err
	}
	past, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(past) < brakeLeastPast {
		return 0, err
	}
	slices.Sort(past)
	return past[len(past)/2], nil
}

// weighed begins the sweep, or has it wait for somebody who says that it may.
func (v *Vault) weighed(ctx context.Context, b *batch, s *Sweep) error {
	if s.DryRun {
		_, err := v.runSweep(ctx, b.txn, s)
		return err
	}
	gap, err := b.clockGap(ctx)
	switch {
	case err != nil:
		return err
	case gap && s.Counts.Due > 0:
		return b.endSweep(ctx, s, SweepNeedsConfirmation, ReasonClockGap)
	case len(s.Counts.Braked) > 0:
		return b.endSweep(ctx, s, SweepNeedsConfirmation, ReasonBrake)
	}
	if err := b.seeClock(ctx); err != nil {
		return err
	}
	_, err = v.runSweep(ctx, b.txn, s)
	return err
}

// rulesDigest is of what decides what a sweep takes of a collection.
func (c *Collection) rulesDigest(ends map[string]Purpose) string {
	said := struct {
		Rules string
		Ends  map[string]*time.Time
	}{rulesOf(&c.Definition), map[string]*time.Time{}}
	for _, r := range c.rules {
		if r.purpose != "" {
			said.Ends[r.purpose] = ends[r.purpose].Ends
		}
	}
	text, _ := json.Marshal(said) // of strings and times, which can't fail
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// asWeighed says whether the rules are those that the sweep was weighed by.
func (t *txn) asWeighed(ctx context.Context, s *Sweep) (bool, error) {
	colls, err := t.scope(ctx, s)
	if err != nil {
		return false, err
	}
	ends, err := currentPurposes(ctx, t.data, t.who.Tenant)
	return len(colls) == len(s.weighed) && !slices.ContainsFunc(colls, func(c *Collection) bool {
		return s.weighed[formatID("", c.id)] != c.rulesDigest(ends)
	}), err
}

// weighAgain has a sweep weighed once more, because the rules are others than they were. A confirmation was of what the old ones took. The lanes
// that are under way end.
func (t *txn) weighAgain(ctx context.Context, s *Sweep) error {
	done, err := t.data.Exec(ctx, `
		update privault.sweeps set state = 'queued', reason = '', started_at = null, confirmed_at = null, confirmed_by = null
		where tenant_id = $1 and sweep_id = $2 and state = $3 and started_at is not distinct from $4`, t.who.Tenant, s.id, s.State, s.Started)
	s.State, s.Reason, s.Started, s.Confirmed = SweepQueued, "", nil, nil
	if err == nil && done.RowsAffected() > 0 { // or another lane has done it
		_, err = t.enqueue(ctx, weighJob, sweepParams{Sweep: s.id})
	}
	return err
}

const (
	// The most that the clocks of server and database may differ by: what is due is due by the earlier of them.
	clockSkew = time.Minute
	// Who hasn't looked at the clock for so long can't tell a jump from a pause.
	clockGap = 7 * 24 * time.Hour
)

// clockFault says why the clocks are not to be believed; empty: they are.
func (v *Vault) clockFault(ctx context.Context, t *txn) (reason string, err error) {
	var now time.Time
	var seen *time.Time
	err = t.data.QueryRow(ctx, `
		select clock_timestamp(), (select seen_at from privault.retention_clocks where tenant_id = $1)`, t.who.Tenant).Scan(&now, &seen)
	if err != nil {
		return "", err
	}
	if skew := now.Sub(v.now()); skew.Abs() > clockSkew || seen != nil && now.Before(seen.Add(-time.Second)) {
		return ReasonClock, nil
	}
	return "", nil
}

// requireClock refuses what a clock that has jumped would have destroyed.
func (v *Vault) requireClock(ctx context.Context, t *txn) error {
	reason, err := v.clockFault(ctx, t)
	if err == nil && reason != "" {
		err = fail(Conflict, "the clocks of server and database disagree, or went backwards: put them right first")
	}
	if err != nil {
		return err
	}
	gap, err := t.clockGap(ctx)
	if err == nil && gap {
		err = fail(Conflict, "nothing has looked at the clock for a week: start a sweep, which asks for a confirmation if anything is due, and execute the plan then")
	}
	return err
}

// clockGap says whether nobody has looked at the clock for too long.
func (t *txn) clockGap(ctx context.Context) (gap bool, err error) {
	err = t.data.QueryRow(ctx, `
		select exists (select from privault.retention_clocks where tenant_id = $1 and seen_at < clock_timestamp() - $2::interval)`,
		t.who.Tenant, clockGap).Scan(&gap)
	return gap, err
}

// seeClock writes down what the database's clock says.
func (t *txn) seeClock(ctx context.Context) error {
	_, err := t.data.Exec(ctx, `
		insert into privault.retention_clocks as k (tenant_id, seen_at) values ($1, clock_timestamp())
		on conflict (tenant_id) do update set seen_at = greatest(k.seen_at, excluded.seen_at)`, t.who.Tenant)
	return err
}

// rest is how long a lane rests after a batch: always a little, longer when records take longer than they can, and longer still when somebody
// had to wait for a connection. So a sweep has what nobody else wants.
func (s *sweeps) rest(took time.Duration, records int, pool *pgxpool.Stat) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := pool.EmptyAcquireCount()
	crowded := waits > s.waits
	s.waits = waits
	rest := took / 4
	if records >= sweepBatchRows/2 { // fewer say little of what one costs
		each := took / time.Duration(records)
		if s.best == 0 || each < s.best {
			s.best = each
		}
		if slow := float64(each) / float64(s.best); slow > 2 {
			rest = time.Duration(float64(took) * min(slow, 8) / 2)
		}
		s.best += s.best / 200 // what was possible once may not be so any more
	}
	if crowded {
		rest += 2 * took
	}
	return min(rest, 2*time.Second)
}

// reportSweep writes and signs what a sweep did: lines of "name: value" under a title, as a signed note.
func (v *Vault) reportSweep(tenant ID, s *Sweep) (string, error) {
	if !v.audit.keys.CanSign() {
		return "", nil
	}
	lines := [][2]string{
		{"sweep", s.ID},
		{"deployment", uuid.UUID(v.deployment).String()},
		{"tenant", uuid.UUID(tenant).String()},
		{"dry-run", strconv.FormatBool(s.DryRun)},
		{"as-of", s.AsOf.UTC().Format(time.RFC3339Nano)},
		{"finished-at", s.Finished.UTC().Format(time.RFC3339Nano)},
	}
	if s.Plan != "" {
		lines = append(lines, [2]string{"plan", s.Plan})
	}
	if s.Confirmed != nil {
		lines = append(lines, [2]string{"confirmed-at", s.Confirmed.UTC().Format(time.RFC3339Nano)})
	}
	c := &s.Counts
	for _, n := range []struct {
		name string
		is   int64
	}{{"due", c.Due}, {"deleted", c.Deleted}, {"anonymised", c.Anonymised}, {"held", c.Held}, {"restricted", c.Restricted}, {"minimum", c.Minimum}, {"unreadable", c.Unreadable}, {"remaining", c.Remaining()}} {
		lines = append(lines, [2]string{n.name, strconv.FormatInt(n.is, 10)})
	}
	for _, rule := range slices.Sorted(maps.Keys(c.Rules)) {
		lines = append(lines, [2]string{"rule " + rule, strconv.FormatInt(c.Rules[rule], 10)})
	}
	for _, why := range slices.Sorted(maps.Keys(c.Drift)) {
		lines = append(lines, [2]string{"drift " + why, strconv.FormatInt(c.Drift[why], 10)})
	}
	var b strings.Builder
	b.WriteString(audit.SweepTitle + "\n")
	for _, line := range lines {
		b.WriteString(line[0] + ": " + line[1] + "\n")
	}
	signed, err := v.audit.keys.SignText(b.String())
	return string(signed), err
}

// sweepDue begins the sweeps that are due by the schedule.
func (v *Vault) sweepDue(ctx context.Context) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	if v.sweeps.every == 0 {
		return nil
	}
	for _, tenant := range tenants {
		wanted := false
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `
				select exists (select from privault.records r where r.tenant_id = $1 and r.collection_id in (select c.collection_id from privault.collections c where c.tenant_id = $1)
						and (r.due_at is not null or r.expires_at is not null) and coalesce(r.due_at, r.expires_at) <= $2)
					and not exists (select from privault.sweeps s where s.tenant_id = $1 and s.finished_at is null and not s.dry_run)
					and not exists (select from privault.sweeps s where s.tenant_id = $1 and not s.dry_run and s.created_at > $3)`,
				tenant, v.now(), v.now().Add(-v.sweeps.every)).Scan(&wanted)
		})
		if err == nil {
			_, err = v.sweep(ctx, tenant, func(t *txn) (int64, error) {
				if fault, err := v.clockFault(ctx, t); err != nil || fault != "" {
					return 0, err // a sweep would say so
				}
				if gap, err := t.clockGap(ctx); err == nil && !gap {
					if err := t.seeClock(ctx); err != nil {
						return 0, err
					}
				}
				if !wanted {
					return 0, nil
				}
				return 1, t.startSweep(ctx, &Sweep{})
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
