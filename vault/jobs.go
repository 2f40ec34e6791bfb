package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/privault/privault/vault/policy"
)

// Work that outlives a request. This file is the one place that knows the queue (github.com/riverqueue/river).
//
// An operation enqueues inside its own transaction, so there is a job if and only if the operation committed:
//
//	err := v.within(ctx, who, policy.RotateKeys, func(t *txn) error {
//		…
//		id, err := t.enqueue(ctx, "rewrap", rewrapParams{Keyset: name})
//		…
//	})
//
// What a job does is a jobKind, which has a line in Vault.jobKinds. Its step does one bounded batch and says how many things it did
// and whether there is more:
//
//	func (v *Vault) reindexStep(ctx context.Context, b *batch) (done int, more bool, err error) {
//		var at ID
//		if err := b.resume(&at); err != nil { … }     // the zero value in the first batch
//		… read up to N rows behind at, by primary key, and change them through b.data and b.keys
//		return n, n == N, b.leave(last)               // where the next batch goes on
//	}
//
// A batch is a transaction with an audit entry of its own, in the tenant's name and the job's, like any operation; the cursor and
// the progress commit with it, so a crash repeats nothing and skips nothing. (With a keystore of its own its part commits first, so what a step does there must bear
// repeating.) Any replica works any job, one batch of a job at a time. Parameters and cursors hold ids, names and counts: never a
// value, a token or free text.

// jobKind is one kind of job. Both functions run in the batch's transaction: nothing in them may wait on a network.
type jobKind struct {
	count func(ctx context.Context, b *batch) (int64, error)                   // in the first batch: how much there is; nil: not known
	step  func(ctx context.Context, b *batch) (done int, more bool, err error) // one bounded batch

	current bool // the batch needs the keys as they are now, and not as a cache has them

	// ahead is done before the batch's transaction, for what must wait on a network: b has the cursor, the keys, and no transaction.
	// The step runs only if the cursor is the same then.
	ahead func(ctx context.Context, b *batch) error
}

// jobKinds is the one table of kinds.
func (v *Vault) jobKinds() map[string]jobKind {
	return map[string]jobKind{
		orphanJob:     {step: v.orphanStep},
		"rewrap-wrap": {count: v.rewrapCount, step: v.rewrapStep, current: true},
		directJob:     {count: v.directCount, step: v.directStep, ahead: v.directAhead, current: true},
		redigestJob:   {count: v.redigestCount, step: v.redigestStep, ahead: v.redigestAhead, current: true},
		purgeJob:      {step: v.purgeStep},
		deferredJob:   {step: v.deferredStep},
		restateJob:    {step: v.restateStep},
		weighJob:      {step: v.weighStep},
		sweepJob:      {step: v.sweepStep},
		planJob:       {step: v.planStep},
	}
}

// periodic is something that one replica does now and then, for all tenants.
type periodic struct {
	name  string
	every time.Duration
	do    func(ctx context.Context) error
}

func (v *Vault) periodics() []periodic {
	return []periodic{
		{"sweep-idempotency-keys", time.Hour, v.sweepIdempotencyKeys},
		{"rotate-due-keys", time.Hour, v.rotateDue},
		{"finish-rotations", time.Hour, v.finishRotations},
		{"sweep-jobs", 24 * time.Hour, v.sweepJobs},
		{"erase-deferred", 10 * time.Minute, v.eraseDeferred},
		{"sweep-orphan-keys", 24 * time.Hour, v.sweepOrphans},
		{"sweep-retention", 30 * time.Minute, v.sweepDue},
		{"sweep-plans", 24 * time.Hour, v.sweepPlans},
		{"note-deadlines", deadlinesEvery, v.noteDeadlines},
		{"sweep-requests", 24 * time.Hour, v.sweepRequests},
		{"wake-webhooks", wakeEvery, v.wakeWebhooks},
		{"sweep-deliveries", time.Hour, v.sweepDeliveries},
	}
}

// batch is one batch of a job: an operation's transaction, and what the job knows.
type batch struct {
	*txn
	ring   *tenantKeys // fetched before the transaction
	job    ID
	tenant ID
	after  time.Duration  // set by a step: how long the next batch must wait, at least
	rest   *time.Duration // set by a step: how long to rest behind this batch; nil: as usual

	params, cursor []byte
	left           []byte
	found          any // by ahead
}

// read gives the parameters that the job was enqueued with.
func (b *batch) read(params any) error { return json.Unmarshal(b.params, params) }

// resume gives what the batch before has left; in the first batch it leaves position as it is.
func (b *batch) resume(position any) error {
	if b.cursor == nil {
		return nil
	}
	return json.Unmarshal(b.cursor, position)
}

// leave keeps a position for the next batch.
func (b *batch) leave(position any) (err error) {
	b.left, err = json.Marshal(position)
	return err
}

// Job is how far a job is.
type Job struct {
	ID, Kind, State   string // the state is queued, running, completed or failed
	Done              int64
	Total             *int64 // nil: not known, or not yet
	Problem           string // of a failed one: the kind of error
	Created           time.Time
	Started, Finished *time.Time
}

const (
	jobQueued    = "queued"
	jobRunning   = "running"
	jobCompleted = "completed"
	jobFailed    = "failed"
)

const (
	// A worker lets a job go after a turn, so that long jobs don't keep others waiting.
	jobTurn = 20 * time.Second
	// A turn and one last batch fit into it.
	jobTimeout = 45 * time.Second
	// A job whose worker died is given to another one afterwards; the queue looks every 30 s.
	jobRescue = 60 * time.Second
	// Workers of a replica: batches are for the background.
	jobWorkers = 2
	// Webhooks of a replica that are sent to at once: they wait on others' networks, and not on our database.
	webhookWorkers = 16
	// How often a job is tried that fails for a reason which waiting doesn't cure.
	jobAttempts = 5
	// How long one waits that failed because a system was away.
	jobPause = 5 * time.Second
	// How long a job waits at which somebody else was found: who may leave it before its end, so it isn't let go for good.
	jobElsewhere = time.Second
	// Likewise for a KMS: each try may take its time-out, and a tenant whose KMS key is away must not keep the workers from others.
	jobKMSPause = 20 * time.Second
)

// jobs is the queue's client and what it works with.
type jobs struct {
	client *river.Client[pgx.Tx]
	kinds  map[string]jobKind

	mu       sync.Mutex
	started  bool
	stopping chan struct{} // closed: finish the batch and let the job go
}

// init makes the client, which enqueues; it works nothing before StartJobs.
func (j *jobs) init(v *Vault) error {
	j.kinds, j.stopping = v.jobKinds(), make(chan struct{})
	workers := river.NewWorkers()
	river.AddWorker(workers, &jobWorker{vault: v})
	tick := &tickWorker{vault: v, do: map[string]func(context.Context) error{}}
	river.AddWorker(workers, tick)
	c := &river.Config{
		Schema: "river", Workers: workers, Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: jobWorkers}},
		JobTimeout: jobTimeout, RescueStuckJobsAfter: jobRescue, MaxAttempts: jobAttempts,
		// The queue's own words are for its developers, and an error that we return has been logged.
		Logger: slog.New(slog.DiscardHandler),
		// It takes the tables' owner, which the service is not.
		ReindexerIndexNames: []string{},
	}
	river.AddWorker(workers, &webhookWorker{vault: v}) // also without a queue of its own: a replay tells the queue, and sends nothing
	if v.courier.Post != nil {
		c.Queues[webhookQueue] = river.QueueConfig{MaxWorkers: webhookWorkers}
	}
	for _, p := range v.periodics() {
		tick.do[p.name] = p.do
		c.PeriodicJobs = append(c.PeriodicJobs, river.NewPeriodicJob(river.PeriodicInterval(p.every),
			func() (river.JobArgs, *river.InsertOpts) { return tickArgs{p.name}, nil },
			&river.PeriodicJobOpts{ID: p.name, RunOnStart: true}))
	}
	var err error
	j.client, err = river.NewClient(riverpgxv5.New(v.store.data.pool), c)
	return err
}

// StartJobs begins to work jobs, which only cmd asks for. StopJobs ends it.
func (v *Vault) StartJobs(ctx context.Context) error {
	j := &v.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.started {
		return errors.New("jobs are worked already")
	}
	// Stopping is StopJobs's: it lets batches finish.
	if err := j.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start to work jobs: %w", err)
	}
	j.started = true
	return nil
}

// StopJobs lets the batches in flight finish, at most until ctx ends, and gives their jobs back to the queue.
func (v *Vault) StopJobs(ctx context.Context) error {
	j := &v.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.started {
		return nil
	}
	j.started = false
	close(j.stopping)
	if err := j.client.Stop(ctx); err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return j.client.StopAndCancel(late)
	}
	return nil
}

// enqueue makes a job of the transaction's tenant and gives its id. It is worked once the transaction has committed. If the
// same job (kind and parameters) is unfinished, that one starts over in its place.
func (t *txn) enqueue(ctx context.Context, kind string, params any) (string, error) {
	if _, known := t.jobs.kinds[kind]; !known {
		return "", fmt.Errorf("no job kind %q", kind)
	}
	id, err := newID()
	if err != nil {
		return "", err
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return "", err
	}
	err = t.data.QueryRow(ctx, `
		insert into privault.jobs (tenant_id, job_id, kind, params, state, created_at) values ($1, $2, $3, $4, $5, $6)
		on conflict (tenant_id, kind, params) where finished_at is null
			do update set state = excluded.state, cursor = null, done = 0, total = null, started_at = null
		returning job_id`, t.who.Tenant, id, kind, encoded, jobQueued, t.now).Scan(&id)
	if err != nil {
		return "", err
	}
	// One that started over is in the queue already; once more does no harm, and mends a queue that lost it.
	_, err = t.jobs.client.InsertTx(ctx, t.data, jobArgs{Tenant: t.who.Tenant, Job: id}, nil)
	text := formatID(jobPrefix, id)
	t.entry.Resources = append(t.entry.Resources, resource{Job: text})
	return text, err
}

// Job says how far a job of the caller's tenant is.
func (v *Vault) Job(ctx context.Context, who Caller, job string) (found Job, err error) {
	err = v.within(ctx, who, policy.ReadJobs, func(t *txn) error {
		id, ok := parseID(jobPrefix, job)
		if !ok {
			return fail(NotFound, "")
		}
		var problem *string
		err := t.data.QueryRow(ctx, `
			select kind, state, done, total, problem, created_at, started_at, finished_at from privault.jobs
			where tenant_id = $1 and job_id = $2`, who.Tenant, id).
			Scan(&found.Kind, &found.State, &found.Done, &found.Total, &problem, &found.Created, &found.Started, &found.Finished)
		if errors.Is(err, pgx.ErrNoRows) {
			return fail(NotFound, "")
		}
		if err != nil {
			return err
		}
		if problem != nil {
			found.Problem = *problem
		}
		found.ID = job
		t.entry.Resources = []resource{{Job: job}}
		return t.entry.require(policy.ReadJobs)
	})
	return found, err
}

// jobLife is how long a job can be asked for after it ended.
const jobLife = 30 * 24 * time.Hour

// sweepJobs deletes what every tenant's jobs that ended long ago have left.
func (v *Vault) sweepJobs(ctx context.Context) error {
	return v.eachTenant(ctx, func(ctx context.Context, tenant ID, batch int) (done int, err error) {
		return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
			swept, err := t.data.Exec(ctx, `
				delete from privault.jobs where tenant_id = $1 and job_id in (
					select job_id from privault.jobs where tenant_id = $1 and finished_at < $2 limit $3 for update skip locked)`,
				tenant, t.now.Add(-jobLife), batch)
			return swept.RowsAffected(), err
		})
	})
}

// jobArgs is all that the queue knows of a job.
type jobArgs struct {
	Tenant uuid.UUID `json:"tenant"`
	Job    uuid.UUID `json:"job"`
}

// Kind is the queue's name for a job of ours.
func (jobArgs) Kind() string { return "job" }

// jobWorker works a job for a turn.
type jobWorker struct {
	river.WorkerDefaults[jobArgs]
	vault *Vault
}

// NextRetry comes a second after the first failure, and then each time twice as late.
func (w *jobWorker) NextRetry(j *river.Job[jobArgs]) time.Time {
	return w.vault.now().Add(time.Second << min(j.Attempt, 10))
}

// Work runs batches until the job is done, the turn is over or the server stops.
func (w *jobWorker) Work(ctx context.Context, j *river.Job[jobArgs]) error {
	v, tenant, job := w.vault, ID(j.Args.Tenant), ID(j.Args.Job)
	turn, cancel := context.WithTimeout(ctx, jobTurn)
	defer cancel()
	for {
		began := v.now()
		b, more, err := v.runBatch(ctx, tenant, job)
		switch {
		case err != nil:
			return v.batchFailed(ctx, tenant, job, err, j.Attempt >= jobAttempts)
		case !more:
			return nil
		case b.after > 0:
			return river.JobSnooze(b.after)
		}
		// Twice as long a rest as the work took: a third of one core at most, and requests in between.
		pause := min(2*v.now().Sub(began), time.Second)
		if b.rest != nil {
			pause = *b.rest
		}
		rest := time.NewTimer(pause)
		select {
		case <-rest.C:
		case <-turn.Done():
			return river.JobSnooze(0)
		case <-v.jobs.stopping:
			return river.JobSnooze(0)
		}
	}
}

// runBatch does one batch, and says whether there is more to do.
func (v *Vault) runBatch(ctx context.Context, tenant, job ID) (b *batch, more bool, err error) {
	if err := v.Fenced(); err != nil {
		return nil, false, err // it is waited for
	}
	var kind string
	var params, cursor []byte
	var free bool
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			with free as (select from privault.jobs where tenant_id = $1 and job_id = $2 for key share skip locked)
			select kind, params, cursor, exists (select from free) from privault.jobs where tenant_id = $1 and job_id = $2 and finished_at is null`,
			tenant, job).Scan(&kind, &params, &cursor, &free)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil // done already, or gone with its tenant
	}
	if err != nil {
		return nil, false, err
	}
	do, known := v.jobs.kinds[kind]
	if !known {
		return nil, false, fmt.Errorf("no job kind %q here", kind) // a newer replica knows it
	}
	b = &batch{job: job, tenant: tenant, params: params, cursor: cursor}
	if !free {
		b.after = jobElsewhere
		return b, true, nil
	}
	// Before the transaction: a slow KMS must not hold a connection.
	ring := v.keyring.of
	if do.current {
		ring = v.keyring.current
	}
	if b.ring, err = ring(ctx, tenant); err != nil {
		return nil, false, err
	}
	if do.ahead != nil {
		if err := do.ahead(ctx, b); err != nil {
			return nil, false, err
		}
	}
	text := formatID(jobPrefix, job)
	err = v.within(ctx, Caller{Tenant: tenant, Request: text}, policy.Work, func(t *txn) error {
		t.operator()
		t.entry.Resources = []resource{{Job: text}}
		b.txn = t
		more, err = b.run(ctx, do)
		return err
	})
	return b, more, err
}

// run does the batch and writes down how far the job is then.
func (b *batch) run(ctx context.Context, do jobKind) (more bool, err error) {
	var total *int64
	var started *time.Time
	ahead := b.cursor
	err = b.data.QueryRow(ctx, `
		select params, cursor, total, started_at from privault.jobs
		where tenant_id = $1 and job_id = $2 and finished_at is null for update skip locked`, b.who.Tenant, b.job).
		Scan(&b.params, &b.cursor, &total, &started)
	if errors.Is(err, pgx.ErrNoRows) {
		b.after = jobElsewhere
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if do.ahead != nil && !bytes.Equal(ahead, b.cursor) {
		return true, nil // another worker was there, or it started over
	}
	if started == nil {
		started = &b.now
		if do.count != nil {
			n, err := do.count(ctx, b)
			if err != nil {
				return false, err
			}
			total = &n
		}
	}
	done, more, err := do.step(ctx, b)
	if err != nil {
		return false, err
	}
	b.entry.Items = done
	state, finished := jobRunning, (*time.Time)(nil)
	if !more {
		state, finished = jobCompleted, &b.now
	}
	_, err = b.data.Exec(ctx, `
		update privault.jobs set state = $3, cursor = coalesce($4, cursor), done = done + $5, total = $6, started_at = $7, finished_at = $8
		where tenant_id = $1 and job_id = $2`, b.who.Tenant, b.job, state, b.left, done, total, started, finished)
	return more, err
}

// batchFailed says what the queue is to do about a batch that failed: try again, or give up.
func (v *Vault) batchFailed(ctx context.Context, tenant, job ID, err error, last bool) error {
	kind := AsError(err).Kind
	v.log.WarnContext(ctx, "a batch failed", "job", formatID(jobPrefix, job), "problem", string(kind), "error", err)
	switch kind {
	case KMSUnavailable:
		return river.JobSnooze(jobKMSPause)
	case DatabaseUnavailable, AuditUnavailable, RestoreFence, Overloaded, Cancelled:
		return river.JobSnooze(jobPause)
	}
	// The queue stores what it is told, so it is told no more than this.
	told := errors.New(string(kind))
	if !last {
		return told
	}
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			update privault.jobs set state = $3, problem = $4, finished_at = $5
			where tenant_id = $1 and job_id = $2 and finished_at is null`,
			tenant, job, jobFailed, string(kind), v.now())
		if err == nil {
			err = failSweep(ctx, tx, tenant, job, v.now())
		}
		return err
	})
	if err != nil {
		return river.JobSnooze(jobPause) // the job must not stay unfinished for ever
	}
	return river.JobCancel(told)
}

// webhookArgs is all that the queue knows of webhooks: that one has something to send.
type webhookArgs struct {
	Tenant  uuid.UUID `json:"tenant"`
	Webhook uuid.UUID `json:"webhook"`
}

const webhookQueue = "webhooks"

// Kind is the queue's name for a webhook that has something to send.
func (webhookArgs) Kind() string { return "webhook" }

// InsertOpts keep webhooks apart from jobs: they have workers of their own.
func (webhookArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: webhookQueue} }

// wake has some replica look after a while what these webhooks have to send, once the transaction has committed.
func (j *jobs) wake(ctx context.Context, tx pgx.Tx, tenant ID, in time.Duration, webhooks ...ID) error {
	all := make([]river.InsertManyParams, 0, len(webhooks))
	for _, id := range webhooks {
		one := river.InsertManyParams{Args: webhookArgs{tenant, id}}
		if in > 0 {
			one.InsertOpts = &river.InsertOpts{ScheduledAt: time.Now().Add(in)} //nolint:forbidigo // the queue has no other clock
		}
		all = append(all, one)
	}
	_, err := j.client.InsertManyFastTx(ctx, tx, all)
	return err
}

func (t *txn) wake(ctx context.Context, in time.Duration, webhooks ...ID) error {
	return t.jobs.wake(ctx, t.data, t.who.Tenant, in, webhooks...)
}

// webhookWorker sends what a webhook has due, for a turn.
type webhookWorker struct {
	river.WorkerDefaults[webhookArgs]
	vault *Vault
}

// Work sends. What fails for a reason of ours is tried again; what a receiver doesn't take is no failure here.
func (w *webhookWorker) Work(ctx context.Context, j *river.Job[webhookArgs]) error {
	v := w.vault
	turn, cancel := context.WithTimeout(ctx, jobTurn)
	defer cancel()
	more, err := v.deliver(ctx, ID(j.Args.Tenant), ID(j.Args.Webhook), func() bool {
		select {
		case <-turn.Done():
			return false
		case <-v.jobs.stopping:
			return false
		default:
			return true
		}
	})
	if err != nil {
		kind := AsError(err).Kind
		v.log.WarnContext(ctx, "webhooks are not sent", "webhook", j.Args.Webhook.String(), "problem", string(kind), "error", err)
		return river.JobSnooze(jobKMSPause)
	}
	if more {
		return river.JobSnooze(0)
	}
	return nil
}

// tickArgs names a periodic.
type tickArgs struct {
	Name string `json:"name"`
}

// Kind is the queue's name for what is done now and then.
func (tickArgs) Kind() string { return "tick" }

// InsertOpts keep one that takes longer than its period from gathering.
func (tickArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateScheduled}}}
}

type tickWorker struct {
	river.WorkerDefaults[tickArgs]
	do    map[string]func(context.Context) error
	vault *Vault
}

// Work does it once. It isn't tried again before its time comes round.
func (w *tickWorker) Work(ctx context.Context, j *river.Job[tickArgs]) error {
	do, known := w.do[j.Args.Name]
	if !known {
		return nil // a newer replica's
	}
	if w.vault.Fenced() != nil {
		return river.JobSnooze(jobPause)
	}
	if err := do(ctx); err != nil {
		kind := AsError(err).Kind
		w.vault.log.ErrorContext(ctx, "periodic work failed", "name", j.Args.Name, "problem", string(kind), "error", err)
		return errors.New(string(kind))
	}
	return nil
}

// sweepBatch is how many rows a sweep takes at once: a transaction of a few milliseconds.
const sweepBatch = 1000

// eachTenant runs a bounded sweep over every tenant until none is left over anywhere; do says how many it did of batch at most.
func (v *Vault) eachTenant(ctx context.Context, do func(ctx context.Context, tenant ID, batch int) (int, error)) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		for n := sweepBatch; n == sweepBatch; {
			if n, err = do(ctx, tenant, sweepBatch); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep is one transaction of what nobody asks for, in a tenant's name, with its entry. It gives how many things were done.
func (v *Vault) sweep(ctx context.Context, tenant ID, do func(*txn) (int64, error)) (done int, err error) {
	err = v.within(ctx, Caller{Tenant: tenant}, policy.Sweep, func(t *txn) error {
		t.operator()
		n, err := do(t)
		done = int(n)
		t.entry.Items = done
		return err
	})
	return done, err
}

// enqueueFor makes a job of a kind without parameters for every tenant that needs one; nil: for every tenant.
func (v *Vault) enqueueFor(ctx context.Context, kind string, needs func(ctx context.Context, tx pgx.Tx, tenant ID) (bool, error)) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		needed := true
		if needs != nil {
			err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) (err error) {
				needed, err = needs(ctx, tx, tenant)
				return err
			})
		}
		if err == nil && needed {
			_, err = v.sweep(ctx, tenant, func(t *txn) (int64, error) {
				_, err := t.enqueue(ctx, kind, struct{}{})
				return 0, err
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
