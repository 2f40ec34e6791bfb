package vault

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// RetentionPlan says exactly what is due of a collection: which records, by which rule, and what stays and why. Its hash is over all of
// that, so whoever executes a plan executes what was looked at, and nothing else.
type RetentionPlan struct {
	ID, State, Collection string
	AsOf                  time.Time
	Rules                 []PlannedRule
	Counts                PlanCounts
	Hash                  string // hexadecimal; empty while it is being made
	Sweep                 string // that executes it
	Created, Expires      time.Time
	Outcome               *Sweep // how far that is

	id, collection ID
}

// The states of a plan.
const (
	PlanMaking   = "making"
	PlanReady    = "ready"
	PlanExecuted = "executed" // or being so: Outcome says
	PlanExpired  = "expired"
)

// PlannedRule is a rule as it was in force, and the latest beginning that it makes due.
type PlannedRule struct {
	Rule   string `json:"rule"`
	Keep   string `json:"keep"`
	After  string `json:"after"`
	Action string `json:"action"`
	Cutoff string `json:"cutoff"`
}

// PlanCounts says how much a plan is about.
type PlanCounts struct {
	Due     int64            `json:"due"`     // that go, or are made anonymous, or lose a field
	Rules   map[string]int64 `json:"rules"`   // by rule
	Actions map[string]int64 `json:"actions"` // by action
	Skipped map[string]int64 `json:"skipped"` // by why they stay
}

// PlanItem is one record of a plan.
type PlanItem struct {
	Record  string
	Rule    string // or several, of fields, with commas
	Action  string
	Skipped string // why it stays: held, restricted, minimum or unreadable
	Outcome string // once the plan was executed
}

const (
	// How long a plan may be executed: what was looked at so long ago was looked at by nobody.
	planLife = 7 * 24 * time.Hour
	// How long after that its items are kept.
	planKeep = 30 * 24 * time.Hour
	// How far ahead a plan looks at most.
	planAhead = 10 * 366 * 24 * time.Hour
	// How long a call works on a plan itself, before it leaves the rest to jobs.
	planTurn = 10 * time.Second
	planRows = 2000
	planJob  = "plan-retention"
)

type planParams struct {
	Plan uuid.UUID `json:"plan"`
}

// MakePlan makes a plan of what is due of a collection at a time, now if it is nil. A large one is finished by a job: it is
// making until then.
func (v *Vault) MakePlan(ctx context.Context, who Caller, collection string, asOf *time.Time) (p *RetentionPlan, err error) {
	var job string
	err = v.within(ctx, who, policy.PlanRetention, func(t *txn) error {
		c, err := t.namedCollection(ctx, collection)
		if err != nil && AsError(err).Kind != NotFound {
			return err
		}
		if err := t.entry.require(policy.PlanRetention); err != nil {
			return err
		}
		if c == nil {
			return invalid("/collection", "unknown-collection", "there is no such collection")
		}
		p = &RetentionPlan{State: PlanMaking, Collection: c.Name, AsOf: t.now, Created: t.now, Expires: t.now.Add(planLife), collection: c.id}
		if asOf != nil {
			p.AsOf = *microseconds(asOf)
		}
		if p.AsOf.After(t.now.Add(planAhead)) {
			return invalid("/as_of", "range", "a plan looks ten years ahead at most")
		}
		if p.id, err = newID(); err != nil {
			return err
		}
		p.ID = formatID(planPrefix, p.id)
		t.entry.Resources = []resource{{Plan: p.ID, Collection: c.Name}}
		for _, r := range c.rules {
			p.Rules = append(p.Rules, PlannedRule{r.name, r.keep.String(), r.after, r.action, r.keep.Before(p.AsOf).Format(time.RFC3339Nano)})
		}
		_, err = t.data.Exec(ctx, `
			insert into privault.retention_plans (tenant_id, plan_id, collection_id, as_of, state, rules, counts, created_at, expires_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, who.Tenant, p.id, c.id, p.AsOf, p.State, &p.Rules, &p.Counts, t.now, p.Expires)
		if err != nil {
			return err
		}
		job, err = t.enqueue(ctx, planJob, planParams{p.id})
		return err
	})
	if err != nil {
		return nil, err
	}
	return v.planAfter(ctx, who.Tenant, p.ID, job)
}

// planAfter works jobs of a plan, and gives it as it is then.
func (v *Vault) planAfter(ctx context.Context, tenant ID, plan string, jobs ...string) (p *RetentionPlan, err error) {
	if err := v.workAlong(ctx, tenant, jobs...); err != nil {
		return nil, AsError(err)
	}
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		p, err = readPlan(ctx, tx, tenant, plan, "")
		return err
	})
	return p, err
}

// workAlong works jobs that a call has made, so that short ones are done when it answers. What takes longer is left to the workers.
func (v *Vault) workAlong(ctx context.Context, tenant ID, jobs ...string) error {
	ctx, cancel := context.WithTimeout(ctx, planTurn+tripLimit)
	defer cancel()
	began := v.now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(jobs) > 0 && v.now().Sub(began) < planTurn {
		job, _ := parseID(jobPrefix, jobs[0])
		b, more, err := v.runBatch(ctx, tenant, job)
		if err != nil {
			return err
		}
		if more && b.after == 0 {
			continue
		}
		var open bool // a worker has it
		err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `
				select exists (select from privault.jobs where tenant_id = $1 and job_id = $2 and finished_at is null)`, tenant, job).Scan(&open)
		})
		if err != nil {
			return err
		}
		if !open {
			jobs = jobs[1:]
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// readPlan reads a plan, and how far its execution is. It doesn't ask whether the plan has expired.
func readPlan(ctx context.Context, tx pgx.Tx, tenant ID, plan, lock string) (*RetentionPlan, error) {
	id, ok := parseID(planPrefix, plan)
	if !ok {
		return nil, fail(NotFound, "")
	}
	p := &RetentionPlan{ID: plan, id: id}
	var hash []byte
	var sweep *ID
	err := tx.QueryRow(ctx, `
		select p.state, p.collection_id, coalesce(c.name, ''), p.as_of, p.rules, p.counts, p.hash, p.sweep_id, p.created_at, p.expires_at
		from privault.retention_plans p left join privault.collections c using (tenant_id, collection_id)
		where p.tenant_id = $1 and p.plan_id = $2 `+lock, tenant, id).
		Scan(&p.State, &p.collection, &p.Collection, &p.AsOf, &p.Rules, &p.Counts, &hash, &sweep, &p.Created, &p.Expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fail(NotFound, "")
	}
	if err != nil {
		return nil, err
	}
	p.Hash, p.Sweep = hex.EncodeToString(hash), formatOptional(sweepPrefix, sweep)
	if sweep != nil {
		p.Outcome, err = readSweep(ctx, tx, tenant, p.Sweep, "")
	}
	return p, err
}

// GetPlan gives a plan, and how far its execution is.
func (v *Vault) GetPlan(ctx context.Context, who Caller, plan string) (p *RetentionPlan, err error) {
	err = v.within(ctx, who, policy.ReadRetention, func(t *txn) error {
		if p, err = t.plan(ctx, plan, ""); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Plan: plan}}
		return t.entry.require(policy.ReadRetention)
	})
	return p, err
}

// plan reads a plan as it stands now.
func (t *txn) plan(ctx context.Context, plan, lock string) (*RetentionPlan, error) {
	p, err := readPlan(ctx, t.data, t.who.Tenant, plan, lock)
	if err != nil {
		return nil, err
	}
	if p.Sweep == "" && !p.Expires.After(t.now) {
		p.State = PlanExpired
	}
	return p, nil
}

// ListPlanItems gives up to limit records of a plan in the order of their ids, from cursor on.
func (v *Vault) ListPlanItems(ctx context.Context, who Caller, plan, cursor string, limit int) (page []PlanItem, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadRetention, err)
	}
	err = v.within(ctx, who, policy.ReadRetention, func(t *txn) error {
		p, err := t.plan(ctx, plan, "")
		if err != nil {
			return err
		}
		t.entry.Resources = []resource{{Plan: plan}}
		if err := t.entry.require(policy.ReadRetention); err != nil {
			return err
		}
		list := "plan/" + plan
		after, err := keys.openCursor(list, cursor)
		if err != nil {
			return err
		}
		at, _ := parseID(recordPrefix, after) // the first page: from the lowest id
		rows, err := t.data.Query(ctx, selectItems+` limit $4`, who.Tenant, p.id, at, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanItem, list, limit, func(i PlanItem) string { return i.Record })
		return err
	})
	return page, next, err
}

const selectItems = `
	select record_id, rule, action, skipped, coalesce(outcome, '') from privault.retention_items
	where tenant_id = $1 and plan_id = $2 and record_id > $3 order by record_id`

func scanItem(r pgx.CollectableRow) (i PlanItem, err error) {
	var id ID
	err = r.Scan(&id, &i.Rule, &i.Action, &i.Skipped, &i.Outcome)
	i.Record = formatID(recordPrefix, id)
	return i, err
}

// planAt is how far the job is: first it collects, in the order of what is due, and then it computes the hash, in that of the ids.
type planAt struct {
	At        sweepAt    `json:"at"`
	Collected bool       `json:"collected"`
	Record    ID         `json:"record"`
	Sum       []byte     `json:"sum"` // the hash so far
	Counts    PlanCounts `json:"counts"`
}

func (v *Vault) planStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var params planParams
	var at planAt
	if err := errors.Join(b.read(&params), b.resume(&at)); err != nil {
		return 0, false, err
	}
	p, err := readPlan(ctx, b.data, b.who.Tenant, formatID(planPrefix, params.Plan), "for update of p")
	if err != nil || p.State != PlanMaking {
		return 0, false, err
	}
	b.entry.Resources = append(b.entry.Resources, resource{Plan: p.ID})
	var rest time.Duration
	b.rest = &rest
	if at.Collected {
		n, err := b.sumItems(ctx, p, &at)
		if err != nil || n == planRows {
			return n, true, errors.Join(err, b.leave(at))
		}
		sum, err := at.resume(p)
		if err != nil {
			return 0, false, err
		}
		_, err = b.data.Exec(ctx, `
			update privault.retention_plans set state = 'ready', hash = $3, counts = $4 where tenant_id = $1 and plan_id = $2`,
			b.who.Tenant, p.id, sum.Sum(nil), &at.Counts)
		return n, false, err
	}
	c, err := b.collection(ctx, `collection_id = $2`, p.collection)
	if errors.Is(err, pgx.ErrNoRows) {
		at.Collected = true // it was deleted, and was empty
		return 0, true, b.leave(at)
	}
	if err != nil {
		return 0, false, err
	}
	n, err := v.collect(ctx, b, p, c, &at)
	at.Collected = n < planRows
	return n, true, errors.Join(err, b.leave(at))
}

// collect writes down what is due of the next candidates.
func (v *Vault) collect(ctx context.Context, b *batch, p *RetentionPlan, c *Collection, at *planAt) (seen int, err error) {
	w, err := v.newSweeper(ctx, b, c)
	if err != nil {
		return 0, err
	}
	all, err := w.read(ctx, isDueBehind+inOrderOfDue+`limit $7`, p.AsOf, at.At.Due, at.At.Record, planRows)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	last := all[len(all)-1]
	at.At.Due, at.At.Record = last.marked(), last.id
	if at.Counts.Rules == nil {
		at.Counts = PlanCounts{Rules: map[string]int64{}, Actions: map[string]int64{}, Skipped: map[string]int64{}}
	}
	var ids []ID
	var rules, actions, skipped []string
	for _, k := range all {
		if err := w.judge(ctx, k, p.AsOf); err != nil {
			return 0, err
		}
		if !k.fate.due() && !k.unreadable {
			continue
		}
		rule, action := k.fate.text()
		why := k.skipped()
		if why != "" {
			at.Counts.Skipped[why]++
		} else {
			at.Counts.Due++
			at.Counts.Rules[rule]++
			at.Counts.Actions[action]++
		}
		ids, rules, actions, skipped = append(ids, k.id), append(rules, rule), append(actions, action), append(skipped, why)
	}
	_, err = b.data.Exec(ctx, `
		insert into privault.retention_items (tenant_id, plan_id, record_id, rule, action, skipped)
		select $1, $2, i.* from unnest($3::uuid[], $4::text[], $5::text[], $6::text[]) as i(record_id, rule, action, skipped)
		on conflict do nothing`, b.who.Tenant, p.id, ids, rules, actions, skipped)
	return len(all), err
}

// text is a fate as plans write it: the rules by which something is due, and what is to be done.
func (f *fate) text() (rule, action string) {
	if f.rule != "" {
		return f.rule, f.action
	}
	var rules, actions []string
	for _, r := range f.fields {
		rules, actions = append(rules, r.name), append(actions, r.action)
	}
	slices.Sort(actions)
	return strings.Join(rules, ","), strings.Join(slices.Compact(actions), ",")
}

// resume gives the hash as far as it is computed: SHA-256 of a line for the collection and the time, one for each rule, and one for
// each record in the order of the ids (docs/retention.md).
func (a *planAt) resume(p *RetentionPlan) (hash.Hash, error) {
	sum := sha256.New()
	if a.Sum != nil {
		return sum, sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(a.Sum)
	}
	fmt.Fprintf(sum, "%s\t%s\n", p.Collection, p.AsOf.UTC().Format(time.RFC3339Nano))
	for _, r := range p.Rules {
		fmt.Fprintf(sum, "%s\t%s\t%s\t%s\t%s\n", r.Rule, r.Keep, r.After, r.Action, r.Cutoff)
	}
	return sum, nil
}

// sumItems takes the next items into the hash.
func (b *batch) sumItems(ctx context.Context, p *RetentionPlan, at *planAt) (int, error) {
	sum, err := at.resume(p)
	if err != nil {
		return 0, err
	}
	rows, err := b.data.Query(ctx, selectItems+` limit $4`, b.who.Tenant, p.id, at.Record, planRows)
	if err != nil {
		return 0, err
	}
	items, err := pgx.CollectRows(rows, scanItem)
	if err != nil {
		return 0, err
	}
	for _, i := range items {
		fmt.Fprintf(sum, "%s\t%s\t%s\t%s\n", i.Record, i.Rule, i.Action, i.Skipped)
	}
	if len(items) > 0 {
		at.Record, _ = parseID(recordPrefix, items[len(items)-1].Record)
	}
	at.Sum, err = sum.(encoding.BinaryMarshaler).MarshalBinary()
	return len(items), err
}

// ExecutePlan does what a plan says, to those records and no others. Each is looked at once more: what is held by now, or has changed so that
// the rule no longer makes it due, stays, and is told.
func (v *Vault) ExecutePlan(ctx context.Context, who Caller, plan, hash string) (p *RetentionPlan, err error) {
	var jobs []string
	err = v.within(ctx, who, policy.PlanRetention, func(t *txn) error {
		if p, err = t.plan(ctx, plan, "for update of p"); err != nil {
			return err
		}
		if err := t.entry.require(policy.PlanRetention); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Plan: plan, Collection: p.Collection}}
		switch {
		case p.State == PlanExecuted:
			return fail(Conflict, "the plan was executed already; make a new one")
		case p.State == PlanExpired:
			return fail(Conflict, "the plan has expired; make a new one")
		case p.State == PlanMaking:
			return &Error{Kind: Conflict, Detail: "the plan is still being made", RetryAfter: time.Second}
		case subtle.ConstantTimeCompare([]byte(hash), []byte(p.Hash)) != 1:
			return &Error{Kind: Conflict, Fields: []FieldError{{"/hash", "hash"}}, Detail: "that is not the plan's hash: look at the plan that is to be executed"}
		}
		if err := v.requireClock(ctx, t); err != nil {
			return err
		}
		s := &Sweep{collection: &p.collection, plan: &p.id, Counts: SweepCounts{Due: p.Counts.Due}}
		if err := t.addSweep(ctx, s); err != nil {
			return err
		}
		if jobs, err = v.runSweep(ctx, t, s); err != nil {
			return err
		}
		_, err := t.data.Exec(ctx, `
			update privault.retention_plans set state = 'executed', sweep_id = $3 where tenant_id = $1 and plan_id = $2`, who.Tenant, p.id, s.id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return v.planAfter(ctx, who.Tenant, plan, jobs...)
}

// What becomes of an item of a plan beside what keeps it (skipHeld and the others).
const (
	itemDone    = "done"
	itemGone    = "gone"    // before
	itemChanged = "changed" // not due any more, or by another rule
	itemBusy    = "busy"    // somebody was changing it
)

// executeBatch does the next items of a lane.
func (v *Vault) executeBatch(ctx context.Context, b *batch, s *Sweep, at *sweepAt, p sweepParams) (seen, done int, err error) {
	if err := b.shareCollection(ctx, *s.collection); err != nil {
		return 0, 0, err
	}
	if err := b.holdLock(ctx, shared); err != nil {
		return 0, 0, err
	}
	c, err := b.collection(ctx, `collection_id = $2`, *s.collection)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	var asOf time.Time
	if err := b.data.QueryRow(ctx, `select least(as_of, $3) from privault.retention_plans where tenant_id = $1 and plan_id = $2`,
		b.who.Tenant, s.plan, s.AsOf).Scan(&asOf); err != nil {
		return 0, 0, err
	}
	rows, err := b.data.Query(ctx, `
		select record_id, rule, action, '', '' from privault.retention_items
		where tenant_id = $1 and plan_id = $2 and record_id > $3 and skipped = '' and outcome is null
			and ($4 = 1 or get_byte(uuid_send(record_id), 15) % $4 = $5) order by record_id limit $6`,
		b.who.Tenant, s.plan, at.Record, p.Lanes, p.Lane, sweepBatchRows)
	if err != nil {
		return 0, 0, err
	}
	items, err := pgx.CollectRows(rows, scanItem)
	if err != nil || len(items) == 0 {
		return 0, 0, err
	}
	ids, outcome := make([]ID, len(items)), map[ID]string{}
	for i, item := range items {
		ids[i], _ = parseID(recordPrefix, item.Record)
	}
	at.Record = ids[len(ids)-1]
	w, err := v.newSweeper(ctx, b, c)
	if err != nil {
		return 0, 0, err
	}
	due, counts, err := w.recheck(ctx, ids, items, asOf, outcome)
	if err != nil {
		return 0, 0, err
	}
	if err := w.dispose(ctx, due, counts); err != nil {
		return 0, 0, err
	}
	outcomes := make([]string, len(ids))
	for i, id := range ids {
		outcomes[i] = outcome[id]
	}
	_, err = b.data.Exec(ctx, `
		update privault.retention_items i set outcome = o.outcome from unnest($3::uuid[], $4::text[]) as o(record_id, outcome)
		where i.tenant_id = $1 and i.plan_id = $2 and i.record_id = o.record_id`, b.who.Tenant, s.plan, ids, outcomes)
	if err != nil {
		return 0, 0, err
	}
	return len(items), len(due), b.addCounts(ctx, s.id, counts)
}

// recheck looks at the records of items once more, notes the outcome of each, and gives those that go.
func (s *sweeper) recheck(ctx context.Context, ids []ID, items []PlanItem, asOf time.Time, outcome map[ID]string) ([]*candidate, *SweepCounts, error) {
	counts := &SweepCounts{Rules: map[string]int64{}, Drift: map[string]int64{}}
	all, err := s.read(ctx, `r.record_id = any($4) for update of r skip locked`, ids)
	if err != nil {
		return nil, nil, err
	}
	byID := map[ID]*candidate{}
	for _, k := range all {
		byID[k.id] = k
	}
	left := map[ID]bool{} // those that are there all the same: somebody else has locked them
	if len(all) < len(ids) {
		var id ID
		err := each(ctx, s.t.data, []any{&id}, func() error {
			left[id] = true
			return nil
		}, `select record_id from privault.records where tenant_id = $1 and record_id = any($2)`, s.t.who.Tenant, ids)
		if err != nil {
			return nil, nil, err
		}
	}
	var due []*candidate
	for i, id := range ids {
		k := byID[id]
		if k == nil {
			outcome[id] = itemGone
			if left[id] {
				outcome[id] = itemBusy
			}
		} else {
			if err := s.judge(ctx, k, asOf); err != nil {
				return nil, nil, err
			}
			outcome[id] = k.skipped()
			if rule, action := k.fate.text(); !k.unreadable && (rule != items[i].Rule || action != items[i].Action) {
				outcome[id] = itemChanged
			}
		}
		if outcome[id] == "" {
			outcome[id] = itemDone
			due = append(due, k)
			continue
		}
		counts.stays(outcome[id])
		counts.Drift[outcome[id]]++
	}
	return due, counts, nil
}

// sweepPlans deletes the items of plans that nobody can execute any more.
func (v *Vault) sweepPlans(ctx context.Context) error {
	return v.eachTenant(ctx, func(ctx context.Context, tenant ID, batch int) (int, error) {
		return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
			swept, err := t.data.Exec(ctx, `
				delete from privault.retention_items where tenant_id = $1 and (plan_id, record_id) in (
					select i.plan_id, i.record_id from privault.retention_items i join privault.retention_plans p using (tenant_id, plan_id)
					where i.tenant_id = $1 and p.expires_at < $2 limit $3)`, tenant, t.now.Add(-planKeep), batch)
			return swept.RowsAffected(), err
		})
	})
}
