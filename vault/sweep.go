package vault

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Sweep is one run of retention: it destroys what was due when it was asked for, in batches, on every replica that has a hand free.
type Sweep struct {
	ID, State, Reason string
	Collection        string // empty: all
	DryRun            bool   // it only counts
	AsOf, Created     time.Time
	Started, Finished *time.Time
	Confirmed         *time.Time // when somebody said that it may take so much
	Counts            SweepCounts
	Report            string // a signed note, once it is completed
	Plan              string // that it executes; empty: none

	id         ID
	collection *ID
	plan       *ID               // that it executes
	lanes      int               // jobs of it that haven't ended
	weighed    map[string]string // the digest of each collection's rules when it was weighed, by its id
}

// SweepCounts says how much a sweep is about, and what became of it.
type SweepCounts struct {
	Due        int64                       `json:"due"`
	Deleted    int64                       `json:"deleted"`
	Anonymised int64                       `json:"anonymised"` // and those of which a field went
	Held       int64                       `json:"held"`
	Restricted int64                       `json:"restricted"` // whose persons had the processing restricted
	Minimum    int64                       `json:"minimum"`    // which the law has kept
	Unreadable int64                       `json:"unreadable"` // of which nobody could tell; they remain
	Rules      map[string]int64            `json:"rules,omitempty"`
	Braked     map[string]*SweptCollection `json:"braked,omitempty"` // collections of which it would take more than is usual
	Drift      map[string]int64            `json:"drift,omitempty"`  // of a plan: what stays that was to go, by why
}

// SweptCollection is how much of a collection is due.
type SweptCollection struct {
	Due     int64 `json:"due"`
	Records int64 `json:"records"` // or as many as were counted
	Usual   int64 `json:"usual"`   // what the sweeps before took, in the middle
}

// Remaining is what is due and still there, and not kept for a reason.
func (c *SweepCounts) Remaining() int64 {
	return max(0, c.Due-c.Deleted-c.Anonymised-c.Held-c.Restricted-c.Minimum)
}

// stays counts one that stays, by why. What isn't due any more, or is gone, was not to be counted as due.
func (c *SweepCounts) stays(why string) {
	switch why {
	case skipHeld:
		c.Held++
	case skipRestricted:
		c.Restricted++
	case skipMinimum:
		c.Minimum++
	case skipUnreadable:
		c.Unreadable++
	default:
		c.Due--
	}
}

// add adds those of a batch.
func (c *SweepCounts) add(more *SweepCounts) {
	c.Due, c.Deleted, c.Anonymised = c.Due+more.Due, c.Deleted+more.Deleted, c.Anonymised+more.Anonymised
	c.Held, c.Restricted, c.Minimum = c.Held+more.Held, c.Restricted+more.Restricted, c.Minimum+more.Minimum
	c.Unreadable += more.Unreadable
	if c.Rules == nil {
		c.Rules = map[string]int64{}
	}
	for rule, n := range more.Rules {
		c.Rules[rule] += n
	}
	for why, n := range more.Drift {
		if c.Drift == nil {
			c.Drift = map[string]int64{}
		}
		c.Drift[why] += n
	}
}

// The states of a sweep.
const (
	SweepQueued            = "queued"
	SweepRunning           = "running"
	SweepCompleted         = "completed"
	SweepNeedsConfirmation = "needs_confirmation"
	SweepStopped           = "stopped"
	SweepFailed            = "failed"
)

// Why a sweep waits or has stopped.
const (
	ReasonBrake      = "brake"         // it would take more than is usual
	ReasonClockGap   = "clock-gap"     // nothing has looked at the clock for so long that it may have jumped
	ReasonClock      = "clock-anomaly" // the clocks disagree, or went backwards
	ReasonAsked      = "asked"         // somebody stopped it
	ReasonSuperseded = "superseded"    // it waited for a confirmation, and another one was asked for
)

// StartSweep asks for a sweep of a collection, or of all. Jobs do it.
func (v *Vault) StartSweep(ctx context.Context, who Caller, collection string, dryRun bool) (s Sweep, err error) {
	err = v.within(ctx, who, policy.SweepRetention, func(t *txn) error {
		if err := t.entry.require(policy.SweepRetention); err != nil {
			return err
		}
		s = Sweep{Collection: collection, DryRun: dryRun}
		if collection != "" {
			c, err := t.namedCollection(ctx, collection)
			if AsError(err).Kind == NotFound {
				return invalid("/collection", "unknown-collection", "there is no such collection")
			}
			if err != nil {
				return err
			}
			s.collection = &c.id
		}
		return t.startSweep(ctx, &s)
	})
	return s, err
}

func (t *txn) startSweep(ctx context.Context, s *Sweep) error {
	if !s.DryRun {
		_, err := t.data.Exec(ctx, `
			update privault.sweeps set state = 'stopped', reason = $2, finished_at = $3 where tenant_id = $1 and state = 'needs_confirmation'`,
			t.who.Tenant, ReasonSuperseded, t.now)
		if err != nil {
			return err
		}
	}
	if err := t.addSweep(ctx, s); err != nil {
		return err
	}
	_, err := t.enqueue(ctx, weighJob, sweepParams{Sweep: s.id})
	return err
}

// addSweep writes down that there is a sweep.
func (t *txn) addSweep(ctx context.Context, s *Sweep) (err error) {
	if s.id, err = newID(); err != nil {
		return err
	}
	s.ID, s.State, s.Created = formatID(sweepPrefix, s.id), SweepQueued, t.now
	// The earlier of the two clocks says what is due.
	if err := t.data.QueryRow(ctx, `select least($1, clock_timestamp())`, t.now).Scan(&s.AsOf); err != nil {
		return err
	}
	t.entry.Resources = append(t.entry.Resources, resource{Sweep: s.ID, Collection: s.Collection})
	_, err = t.data.Exec(ctx, `
		insert into privault.sweeps (tenant_id, sweep_id, collection_id, dry_run, state, as_of, created_at, counts, plan_id)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, t.who.Tenant, s.id, s.collection, s.DryRun, s.State, s.AsOf, t.now, &s.Counts, s.plan)
	return err
}

const selectSweeps = `
	select s.sweep_id, s.state, s.reason, s.collection_id, coalesce(c.name, ''), s.dry_run, s.as_of, s.created_at, s.started_at, s.confirmed_at,
		s.finished_at, s.lanes, s.counts, coalesce(s.report, ''), s.plan_id, s.weighed
	from privault.sweeps s left join privault.collections c using (tenant_id, collection_id) where s.tenant_id = $1 `

func scanSweep(r pgx.CollectableRow) (s Sweep, err error) {
	err = r.Scan(&s.id, &s.State, &s.Reason, &s.collection, &s.Collection, &s.DryRun, &s.AsOf, &s.Created, &s.Started, &s.Confirmed, &s.Finished,
		&s.lanes, &s.Counts, &s.Report, &s.plan, &s.weighed)
	s.ID, s.Plan = formatID(sweepPrefix, s.id), formatOptional(planPrefix, s.plan)
	return s, err
}

// sweepOf is readSweep of the caller's tenant.
func (t *txn) sweepOf(ctx context.Context, sweep, lock string) (*Sweep, error) {
	return readSweep(ctx, t.data, t.who.Tenant, sweep, lock)
}

// readSweep reads a sweep; lock says how, if at all.
func readSweep(ctx context.Context, tx pgx.Tx, tenant ID, sweep, lock string) (*Sweep, error) {
	id, ok := parseID(sweepPrefix, sweep)
	if !ok {
		return nil, fail(NotFound, "")
	}
	rows, err := tx.Query(ctx, selectSweeps+`and s.sweep_id = $2 `+lock, tenant, id)
	if err != nil {
		return nil, err
	}
	s, err := pgx.CollectExactlyOneRow(rows, scanSweep)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fail(NotFound, "")
	}
	return &s, err
}

const forUpdate = `for update of s` // of sweepOf

// GetSweep says how far a sweep is.
func (v *Vault) GetSweep(ctx context.Context, who Caller, sweep string) (s *Sweep, err error) {
	err = v.within(ctx, who, policy.ReadRetention, func(t *txn) error {
		if s, err = t.sweepOf(ctx, sweep, ""); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Sweep: sweep}}
		return t.entry.require(policy.ReadRetention)
	})
	return s, err
}

// ListSweeps gives up to limit sweeps, newest first, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListSweeps(ctx context.Context, who Caller, cursor string, limit int) (page []Sweep, next string, err error) {
	err = v.readList(ctx, who, policy.ReadRetention, "sweeps", cursor, func(t *txn, keys *tenantKeys, before string) error {
		rows, err := t.data.Query(ctx, selectSweeps+`and s.sweep_id < $2 order by s.sweep_id desc limit $3`, who.Tenant, idBefore(sweepPrefix, before), limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanSweep, "sweeps", limit, func(s Sweep) string { return s.ID })
		return err
	})
	return page, next, err
}

// ConfirmSweep lets a sweep go on that waits for a confirmation.
func (v *Vault) ConfirmSweep(ctx context.Context, who Caller, sweep string) (s *Sweep, err error) {
	return v.changeSweep(ctx, who, policy.ConfirmRetention, sweep, func(t *txn, s *Sweep) error {
		if s.State != SweepNeedsConfirmation {
			return fail(Conflict, "the sweep waits for no confirmation: it is %s", s.State)
		}
		if same, err := t.asWeighed(ctx, s); err != nil || !same {
			if err == nil {
				err = t.weighAgain(ctx, s)
			}
			return err
		}
		s.Confirmed = &t.now
		if _, err := t.data.Exec(ctx, `
			update privault.sweeps set confirmed_at = $3, confirmed_by = $4 where tenant_id = $1 and sweep_id = $2`,
			who.Tenant, s.id, t.now, who.Principal); err != nil {
			return err
		}
		if err := t.seeClock(ctx); err != nil { // somebody has looked
			return err
		}
		_, err := v.runSweep(ctx, t, s)
		return err
	})
}

// StopSweep ends a sweep after the batches that are under way. What they did stays done.
func (v *Vault) StopSweep(ctx context.Context, who Caller, sweep string) (*Sweep, error) {
	return v.changeSweep(ctx, who, policy.SweepRetention, sweep, func(t *txn, s *Sweep) error {
		if s.Finished != nil {
			return fail(Conflict, "the sweep has ended: it is %s", s.State)
		}
		return t.endSweep(ctx, s, SweepStopped, ReasonAsked)
	})
}

func (v *Vault) changeSweep(ctx context.Context, who Caller, action policy.Action, sweep string, do func(*txn, *Sweep) error) (s *Sweep, err error) {
	err = v.within(ctx, who, action, func(t *txn) error {
		if s, err = t.sweepOf(ctx, sweep, forUpdate); err != nil {
			return err
		}
		if err := t.entry.require(action); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Sweep: sweep}}
		return do(t, s)
	})
	return s, err
}

// endSweep writes down how a sweep ended, or that it waits.
func (t *txn) endSweep(ctx context.Context, s *Sweep, state, reason string) error {
	s.State, s.Reason, s.Finished = state, reason, &t.now
	if state == SweepNeedsConfirmation {
		s.Finished = nil
	}
	_, err := t.data.Exec(ctx, `
		update privault.sweeps set state = $3, reason = $4, finished_at = $5, counts = $6, report = nullif($7, '') where tenant_id = $1 and sweep_id = $2`,
		t.who.Tenant, s.id, s.State, s.Reason, s.Finished, &s.Counts, s.Report)
	return err
}

// The kinds of job of a sweep. One weighs what is due, and asks whether that is usual; the others, each in a lane of its own, do it.
const (
	weighJob = "weigh-sweep"
	sweepJob = "sweep-retention"
)

type sweepParams struct {
	Sweep uuid.UUID `json:"sweep"`
	Lane  int       `json:"lane"`
	Lanes int       `json:"lanes"`
	Began time.Time `json:"began"` // a sweep that was weighed again has other lanes
}

// runSweep enqueues a job for each lane. The lanes share the records out by the last byte of their ids, which is random: no two
// replicas want the same one.
func (v *Vault) runSweep(ctx context.Context, t *txn, s *Sweep) (jobs []string, err error) {
	s.State, s.Reason, s.lanes = SweepRunning, "", v.sweeps.lanes
	if s.DryRun {
		s.lanes = 1
	}
	_, err = t.data.Exec(ctx, `
		update privault.sweeps set state = $3, reason = '', started_at = $4, lanes = $5, counts = $6 where tenant_id = $1 and sweep_id = $2`,
		t.who.Tenant, s.id, s.State, t.now, s.lanes, &s.Counts)
	for lane := 0; lane < s.lanes && err == nil; lane++ {
		var job string
		job, err = t.enqueue(ctx, sweepJob, sweepParams{s.id, lane, s.lanes, t.now})
		jobs = append(jobs, job)
	}
	return jobs, err
}

// scope are the collections that a sweep is about, in the order of their names.
func (t *txn) scope(ctx context.Context, s *Sweep) ([]*Collection, error) {
	all, err := collectionsOf(ctx, t.data, t.who.Tenant)
	all = slices.DeleteFunc(all, func(c *Collection) bool { return s.collection != nil && *s.collection != c.id })
	slices.SortFunc(all, func(a, b *Collection) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// sweepBatchRows is how many records a batch takes: a transaction of some 20 ms, which is as long as a hold, or a change of one of
// them, waits at most.
const sweepBatchRows = 1000

// sweepAt is where a lane is: behind that record of that collection.
type sweepAt struct {
	Collection string    `json:"collection"`
	Due        time.Time `json:"due"`
	Record     ID        `json:"record"`
}

// sweepStep does a batch of one lane.
func (v *Vault) sweepStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var p sweepParams
	var at sweepAt
	if err := errors.Join(b.read(&p), b.resume(&at)); err != nil {
		return 0, false, err
	}
	s, err := b.sweepOf(ctx, formatID(sweepPrefix, p.Sweep), "")
	if err != nil || s.State != SweepRunning || !sameTime(microseconds(&p.Began), s.Started) {
		return 0, false, err
	}
	b.entry.Resources = append(b.entry.Resources, resource{Sweep: s.ID})
	began := v.now()
	if reason, err := v.clockFault(ctx, b.txn); err != nil || reason != "" {
		if err == nil {
			err = b.endSweep(ctx, s, SweepStopped, reason)
		}
		return 0, false, err
	}
	seen, done, err := v.nextOfLane(ctx, b, s, &at, p)
	if err != nil {
		return 0, false, err
	}
	if s.State != SweepRunning { // it is weighed again
		return 0, false, nil
	}
	if seen == 0 {
		return 0, false, v.endLane(ctx, b, s.ID)
	}
	rest := v.sweeps.rest(v.now().Sub(began), seen, v.store.data.pool.Stat())
	b.rest = &rest
	return done, true, b.leave(at)
}

// nextOfLane does the next batch: of a plan's items, or of the collections one behind the other. It gives how many records it looked at, and of
// how many something is gone.
func (v *Vault) nextOfLane(ctx context.Context, b *batch, s *Sweep, at *sweepAt, p sweepParams) (seen, done int, err error) {
	if s.plan != nil {
		return v.executeBatch(ctx, b, s, at, p)
	}
	rows, err := b.data.Query(ctx, `
		select collection_id as id, name from privault.collections
		where tenant_id = $1 and ($2::uuid is null or collection_id = $2) and name collate "C" >= $3 order by name collate "C"`,
		b.who.Tenant, s.collection, at.Collection)
	if err != nil {
		return 0, 0, err
	}
	type named struct {
		ID   ID
		Name string
	}
	colls, err := pgx.CollectRows(rows, pgx.RowToStructByName[named])
	if err != nil {
		return 0, 0, err
	}
	for _, c := range colls {
		if c.Name != at.Collection {
			*at = sweepAt{Collection: c.Name}
		}
		if seen, done, err = v.sweepCollection(ctx, b, s, c.ID, at, p); err != nil || seen > 0 || s.State != SweepRunning {
			return seen, done, err
		}
	}
	return 0, 0, nil
}

// The condition and the order of what is due at $4, behind $5 and $6.
const (
	isDueBehind = `(r.due_at is not null or r.expires_at is not null) and coalesce(r.due_at, r.expires_at) <= $4
			and (coalesce(r.due_at, r.expires_at), r.record_id) > ($5, $6) `
	inOrderOfDue = `order by coalesce(r.due_at, r.expires_at), r.record_id `
)

// sweepCollection does the next batch of a collection.
func (v *Vault) sweepCollection(ctx context.Context, b *batch, s *Sweep, id ID, at *sweepAt, p sweepParams) (seen, done int, err error) {
	if err := b.shareCollection(ctx, id); err != nil {
		return 0, 0, err
	}
	c, err := b.collection(ctx, `collection_id = $2`, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, nil // it was deleted a moment ago
	}
	if err != nil {
		return 0, 0, err
	}
	// Before the look at the holds, whose snapshot must be taken under it.
	if err := b.holdLock(ctx, shared); err != nil {
		return 0, 0, err
	}
	w, err := v.newSweeper(ctx, b, c)
	if err != nil {
		return 0, 0, err
	}
	if s.weighed[formatID("", id)] != c.rulesDigest(w.ends) {
		return 0, 0, b.weighAgain(ctx, s)
	}
	all, err := w.read(ctx, isDueBehind+`and ($7 = 1 or get_byte(uuid_send(r.record_id), 15) % $7 = $8) `+inOrderOfDue+`limit $9 for update of r skip locked`,
		s.AsOf, at.Due, at.Record, p.Lanes, p.Lane, sweepBatchRows)
	if err != nil || len(all) == 0 {
		return 0, 0, err
	}
	last := all[len(all)-1]
	at.Due, at.Record = last.marked(), last.id
	counts := SweepCounts{Rules: map[string]int64{}}
	var due []*candidate
	var marks dueMarks
	for _, k := range all {
		if err := w.judge(ctx, k, s.AsOf); err != nil {
			return 0, 0, err
		}
		why := k.skipped()
		if why != skipUnreadable && !k.fate.due() { // not yet, after all
			why = itemChanged
		}
		switch why {
		case "":
			due = append(due, k)
			continue
		case itemChanged, skipMinimum:
			marks.add(k, k.fate.next)
		}
		counts.stays(why)
	}
	if s.DryRun {
		w.count(due, &counts)
		return len(all), len(due), b.addCounts(ctx, s.id, &counts)
	}
	if err := marks.write(ctx, b.txn); err != nil {
		return 0, 0, err
	}
	if err := w.dispose(ctx, due, &counts); err != nil {
		return 0, 0, err
	}
	return len(all), len(due), b.addCounts(ctx, s.id, &counts)
}

// marked is where a candidate stands in the order.
func (c *candidate) marked() time.Time {
	if c.due != nil {
		return *c.due
	}
	return *c.expires
}

// addCounts adds a batch's to those of the sweep. It comes last: other lanes wait for the row.
func (t *txn) addCounts(ctx context.Context, sweep ID, more *SweepCounts) error {
	var c SweepCounts
	err := t.data.QueryRow(ctx, `select counts from privault.sweeps where tenant_id = $1 and sweep_id = $2 for update`, t.who.Tenant, sweep).Scan(&c)
	if err != nil {
		return err
	}
	c.add(more)
	_, err = t.data.Exec(ctx, `update privault.sweeps set counts = $3 where tenant_id = $1 and sweep_id = $2`, t.who.Tenant, sweep, &c)
	return err
}

// endLane notes that a lane is through; the last one completes the sweep.
func (v *Vault) endLane(ctx context.Context, b *batch, sweep string) error {
	s, err := b.sweepOf(ctx, sweep, forUpdate)
	if err != nil || s.State != SweepRunning {
		return err
	}
	if s.lanes > 1 {
		_, err := b.data.Exec(ctx, `update privault.sweeps set lanes = lanes - 1 where tenant_id = $1 and sweep_id = $2`, b.who.Tenant, s.id)
		return err
	}
	s.Finished = &b.now
	if s.Report, err = v.reportSweep(b.who.Tenant, s); err != nil {
		return err
	}
	return b.endSweep(ctx, s, SweepCompleted, "")
}

// failSweep ends the sweep whose job has failed, if it is a sweep's: the schedule begins another one only when there is none.
func failSweep(ctx context.Context, tx pgx.Tx, tenant, job ID, now time.Time) error {
	_, err := tx.Exec(ctx, `
		update privault.sweeps s set state = 'failed', finished_at = $3 from privault.jobs j
		where s.tenant_id = $1 and s.finished_at is null and j.tenant_id = $1 and j.job_id = $2
			and j.kind in ('`+weighJob+`', '`+sweepJob+`') and s.sweep_id = (j.params->>'sweep')::uuid`, tenant, job, now)
	return err
}
