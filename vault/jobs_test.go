package vault_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// steps is a job that counts to a number in batches of two, and remembers where each batch began.
type steps struct {
	to int

	mu    sync.Mutex
	began []int
	hook  func(at int) error // before a batch
}

func (s *steps) step(_ context.Context, at *int) (done int, more bool, err error) {
	if s.hook != nil {
		if err := s.hook(*at); err != nil {
			return 0, false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = append(s.began, *at)
	done = min(2, s.to-*at)
	*at += done
	return done, *at < s.to, nil
}

func TestAJobRunsInBatchesToItsEnd(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := vaulttest.New(t, options...)
			who := b.Tenant()
			s := &steps{to: 5}
			b.AddJobKind("count", 5, s.step)
			id, err := b.Enqueue(t.Context(), who, "count", "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if j, err := b.Job(t.Context(), who, id); err != nil || j.State != "queued" || j.Done != 0 || j.Total != nil || j.Started != nil {
				t.Errorf("before there are workers: %+v, %v", j, err)
			}
			b.Work()
			j := b.Finish(who, id)
			if j.State != "completed" || j.Done != 5 || *j.Total != 5 || j.Started == nil || j.Finished == nil {
				t.Errorf("got %+v", j)
			}
			if want := []int{0, 2, 4}; !slices.Equal(s.began, want) {
				t.Errorf("the batches began at %d", s.began)
			}
			if n := b.Count(`select count(*) from privault.audit_entries where action = 'job.work' and body::jsonb->>'request' = $1`, id); n != 3 {
				t.Errorf("%d entries for three batches", n)
			}
		})
	}
}

func TestWhatIsRolledBackEnqueuesNothing(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.AddJobKind("count", 5, (&steps{to: 5}).step)
	if _, err := b.Enqueue(t.Context(), who, "count", "x", errors.New("spoilt")); err == nil {
		t.Fatal("the operation did not fail")
	}
	if n := b.Count(`select (select count(*) from privault.jobs) + (select count(*) from river.river_job)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func TestAnotherTenantsJobIsUnknown(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who, stranger := b.Tenant(), b.Tenant()
	b.AddJobKind("count", 5, (&steps{to: 5}).step)
	id, err := b.Enqueue(t.Context(), who, "count", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, unknown := range []string{id, "job_x", ""} {
		if _, err := b.Job(t.Context(), stranger, unknown); vault.AsError(err).Kind != vault.NotFound {
			t.Errorf("%q: %v", unknown, err)
		}
	}
	if _, err := b.Job(t.Context(), vaulttest.As(who, "backend-reader"), id); vault.AsError(err).Kind != vault.Forbidden {
		t.Errorf("a reader of values may see jobs: %v", err)
	}
	if _, err := b.Job(t.Context(), vaulttest.As(who, "operator"), id); err != nil {
		t.Errorf("an operator may not: %v", err)
	}
}

func TestABatchThatFailsLeavesNothingAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	failed := false
	s := &steps{to: 6}
	s.hook = func(at int) error {
		if at == 2 && !failed {
			failed = true
			return errors.New("this once")
		}
		return nil
	}
	b.AddJobKind("count", 6, s.step)
	id, err := b.Enqueue(t.Context(), who, "count", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Work()
	if j := b.Finish(who, id); j.State != "completed" || j.Done != 6 {
		t.Errorf("got %+v", j)
	}
	if want := []int{0, 2, 4}; !slices.Equal(s.began, want) {
		t.Errorf("the batches began at %d", s.began)
	}
	if n := b.Count(`select count(*) from river.river_job where errors::text like '%this once%'`); n != 0 {
		t.Error("the queue keeps an error's text")
	}
}

func TestAnOutageIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.AddJobKind("count", 2, (&steps{to: 2}).step)
	id, err := b.Enqueue(t.Context(), who, "count", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	worker := b.Replica() // with no keys in its cache
	worker.AddJobKind("count", 2, (&steps{to: 2}).step)
	b.KMS.SetDown(true)
	b.WorkOn(worker)
	b.Until(func() bool {
		return b.Count(`select count(*) from river.river_job where metadata ? 'snoozes'`) == 1
	})
	b.KMS.SetDown(false)
	if j := b.Finish(who, id); j.State != "completed" {
		t.Errorf("got %+v", j)
	}
}

func TestAJobIsGivenBackWhenItsServerStops(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	reached, stopped := make(chan struct{}), make(chan struct{})
	s := &steps{to: 100}
	s.hook = func(at int) error {
		if at == 10 {
			close(reached)
			<-stopped
		}
		return nil
	}
	b.AddJobKind("count", 100, s.step)
	id, err := b.Enqueue(t.Context(), who, "count", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Work()
	<-reached
	done := make(chan error)
	go func() { done <- b.StopJobs(t.Context()) }()
	close(stopped)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	j, err := b.Job(t.Context(), who, id)
	if err != nil || j.State != "running" || j.Done < 12 || j.Done == 100 {
		t.Fatalf("got %+v, %v", j, err)
	}
	other, rest := b.Replica(), &steps{to: 100}
	other.AddJobKind("count", 100, rest.step)
	b.WorkOn(other)
	if j := b.Finish(who, id); j.State != "completed" || j.Done != 100 {
		t.Errorf("got %+v", j)
	}
	if rest.began[0] != int(j.Done) {
		t.Errorf("the second replica began at %d, the first ended at %d", rest.began[0], j.Done)
	}
}

// Who is at a job may leave it before its end: whoever made a plan works along for some seconds. A worker that came meanwhile comes again.
func TestAJobThatSomebodyElseHasIsNotLetGo(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.define(t, &vault.Retention{Keep: "P1Y"}, nil)
	if _, err := a.StartSweep(t.Context(), a.who, "", true); err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), a.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select from privault.jobs for update`); err != nil {
		t.Fatal(err)
	}
	a.Work()
	a.Until(func() bool {
		return a.Count(`select count(*) from river.river_job where kind = 'job' and attempted_at is not null and state <> 'running'`) > 0
	})
	if n := a.Count(`select count(*) from privault.jobs where finished_at is not null`); n != 0 {
		t.Fatal("a job that somebody has locked was finished")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.Until(func() bool { return a.Count(`select count(*) from privault.jobs where finished_at is null`) == 0 })
}

func TestAskedForAgainAJobStartsOver(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	s := &steps{to: 2}
	b.AddJobKind("count", 2, s.step)
	first, err := b.Enqueue(t.Context(), who, "count", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Enqueue(t.Context(), who, "count", "x", nil)
	if err != nil || again != first {
		t.Fatalf("a second unfinished job of the same: %s, %v", again, err)
	}
	other, err := b.Enqueue(t.Context(), who, "count", "y", nil)
	if err != nil || other == first {
		t.Fatalf("another thing's job is the same: %v", err)
	}
	b.Work()
	b.Finish(who, first)
	b.Finish(who, other)
	if third, err := b.Enqueue(t.Context(), who, "count", "x", nil); err != nil || third == first {
		t.Errorf("a finished job starts again: %v", err)
	}
}

// A job can be asked for for a month after it ended, and one that hasn't ended for ever.
func TestOldJobsAreSwept(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who, other := b.Tenant(), b.Tenant()
	s := &steps{to: 1}
	b.AddJobKind("count", 1, s.step)
	var ids []string
	for i, of := range []vault.Caller{who, who, other} {
		id, err := b.Enqueue(t.Context(), of, "count", []string{"a", "b", "a"}[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	b.Work()
	for i, of := range []vault.Caller{who, who, other} {
		b.Finish(of, ids[i])
	}
	sweep := func(want int) {
		t.Helper()
		if err := b.SweepJobs(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := b.Count(`select count(*) from privault.jobs`); n != want {
			t.Errorf("%d jobs are left, want %d", n, want)
		}
	}
	if err := b.StopJobs(t.Context()); err != nil { // or a job of its own sweeps beside us
		t.Fatal(err)
	}
	b.Advance(29 * 24 * time.Hour)
	sweep(3)
	b.Exec(`update privault.jobs set state = 'running', finished_at = null where tenant_id = $1 and params = '"b"'`, who.Tenant)
	b.Advance(2 * 24 * time.Hour)
	sweep(1)
	_, err := b.Job(t.Context(), who, ids[0])
	wantKind(t, "a job that was swept", err, vault.NotFound)
	if err := b.DeleteBehind(who.Tenant, `delete from privault.jobs where tenant_id = $1`); err != nil {
		t.Fatal(err)
	}
	if n := b.Count(`select count(*) from privault.jobs`); n != 1 {
		t.Error("the service's role deletes a job that hasn't ended")
	}
}
