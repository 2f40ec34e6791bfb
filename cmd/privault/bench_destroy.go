package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

func measureErase(ctx context.Context, b *bencher) ([]benchRow, error) {
	var collections []string
	for range 4 {
		name, err := b.define(ctx, "person", emailField)
		if err != nil {
			return nil, err
		}
		collections = append(collections, name)
	}
	row := benchRow{Work: "erase a person", Records: b.Person, budget: budget{AtLeast: 1}}
	return b.beside(ctx, row, func(ctx context.Context) (figure, error) { return b.erase(ctx, collections) }, b.indexedDelete)
}

// erase stores a person with --person records, and times the call that erases them until it is acknowledged.
func (b *bencher) erase(ctx context.Context, collections []string) (f figure, err error) {
	subject := fmt.Sprintf("bench-%s", randomHex(8))
	item := fmt.Sprintf(`{"subject":%q,"fields":{"email":"jane.roe@example.com"}}`, subject)
	for i, left := 0, b.Person; left > 0; i++ {
		n := min(left, 250)
		items := strings.Split(strings.Repeat(item+"\n", n-1)+item, "\n")
		if _, err := b.store(ctx, collections[i%len(collections)], items); err != nil {
			return f, err
		}
		left -= n
	}
	if err := b.settle(ctx); err != nil {
		return f, err
	}
	var answer struct {
		State  string
		Counts struct{ Records int }
	}
	f, err = once(b.Person, func() error {
		status, body, err := b.call(ctx, http.MethodPost, "/v1/subjects/"+subject+"/erasure", []byte(`{"reason":"gdpr-17"}`), "")
		if err == nil && status != http.StatusOK {
			err = errors.New(problemText(status, body))
		}
		return errors.Join(err, json.Unmarshal(body, &answer))
	})
	if err == nil && (answer.State != "erased" || answer.Counts.Records != b.Person) {
		err = fmt.Errorf("the answer is %s with %d records", answer.State, answer.Counts.Records)
	}
	if err != nil {
		return f, err
	}
	return f, b.purged(ctx)
}

// purged waits until the job behind erasures has removed the rows: it must not run beside what comes next.
func (b *bencher) purged(ctx context.Context) error {
	if b.owner == "" {
		return nil
	}
	return b.bare(ctx, func(owner *pgx.Conn) error {
		for range 1200 {
			var waiting bool
			if err := owner.QueryRow(ctx, `select exists (select from privault.erasing)`).Scan(&waiting); err != nil || !waiting {
				return err
			}
			if !rest(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
		}
		return errors.New("the rows of an erased person are not removed after two minutes")
	})
}

// indexedDelete deletes as many rows, found by an index on their person, of a table that has the main columns of records and ten times as many rows.
func (b *bencher) indexedDelete(ctx context.Context) (f figure, err error) {
	err = b.exec(ctx,
		`drop table if exists public.bench_person`,
		`create table public.bench_person (tenant_id uuid, record_id uuid, subject_id int, sealed bytea, primary key (tenant_id, record_id))`,
		`create index on public.bench_person (tenant_id, subject_id)`,
		fmt.Sprintf(`insert into public.bench_person (tenant_id, record_id, subject_id, sealed)
			select '00000000-0000-7000-8000-000000000000', gen_random_uuid(), i %% 10, decode(repeat('ab', 150), 'hex') from generate_series(1, %d) i`, 10*b.Person),
		`vacuum analyze public.bench_person`, `checkpoint`)
	if err != nil {
		return f, err
	}
	err = b.bare(ctx, func(owner *pgx.Conn) error {
		f, err = once(b.Person, func() error {
			done, err := owner.Exec(ctx, `delete from public.bench_person where tenant_id = $1 and subject_id = $2`, "00000000-0000-7000-8000-000000000000", 7)
			if err == nil && int(done.RowsAffected()) != b.Person {
				err = fmt.Errorf("%d rows were deleted", done.RowsAffected())
			}
			return err
		})
		return err
	})
	return f, err
}

// readsMeanwhile are the calls a second that are made while a sweep runs.
const readsMeanwhile = 200

func measureSweep(ctx context.Context, b *bencher) ([]benchRow, error) {
	reads, err := b.detokenizing(ctx, 1)
	if err != nil {
		return nil, err
	}
	var quiet, busy []figure
	var due string
	rows, err := b.beside(ctx, benchRow{Work: "sweep", Records: b.Records, budget: budget{AtLeast: 0.5}},
		func(ctx context.Context) (figure, error) {
			if due, err = b.expired(ctx); err != nil {
				return figure{}, err
			}
			calm, err := b.open(ctx, readsMeanwhile, b.Time, reads)
			if err != nil {
				return figure{}, err
			}
			f, meanwhile, err := b.sweepUnder(ctx, due, reads)
			quiet, busy = append(quiet, calm), append(busy, meanwhile)
			return f, err
		}, b.bareDelete)
	if err != nil {
		return rows, err
	}
	for _, all := range [][]figure{quiet, busy} {
		for i := range all {
			all[i].value = ms(all[i].p99)
		}
	}
	calm, meanwhile := median(quiet), median(busy)
	return append(rows, benchRow{Work: fmt.Sprintf("%d reads/s during a sweep", readsMeanwhile), Unit: "ms p99", Measured: meanwhile.value, Reference: calm.value,
		P50: ms(meanwhile.p50), P99: ms(meanwhile.p99), budget: budget{AtLeast: 0.5}}), nil
}

// expired gives a collection with --records records, all of which have expired: by the database's own hand, for the API stores none that have.
func (b *bencher) expired(ctx context.Context) (collection string, err error) {
	if len(b.lately) == 0 {
		if _, err := b.imported(ctx); err != nil {
			return "", err
		}
	}
	collection = b.lately[0]
	b.lately = b.lately[1:]
	return collection, b.exec(ctx,
		`update privault.records set expires_at = now() - interval '1 day' where collection_id = (select collection_id from privault.collections where name = '`+collection+`')`,
		`vacuum analyze privault.records`, `vacuum analyze keystore.data_keys`, `checkpoint`)
}

// sweepUnder sweeps a collection while reads are made, and times it from the call that asks for it until it has ended.
func (b *bencher) sweepUnder(ctx context.Context, collection string, reads traffic) (f, meanwhile figure, err error) {
	until, end := context.WithCancel(ctx)
	defer end()
	var wait sync.WaitGroup
	var failed error
	wait.Go(func() { meanwhile, failed = b.open(until, readsMeanwhile, time.Hour, reads) })
	f, err = b.watched(func() error { return b.sweep(ctx, collection) })
	end()
	wait.Wait()
	return f, meanwhile, errors.Join(err, failed)
}

// sweep asks for a sweep, confirms that it may take everything, and waits for its end.
func (b *bencher) sweep(ctx context.Context, collection string) error {
	c := &sweepCmd{connection: b.connection}
	s, err := c.ask(ctx, http.MethodPost, "/v1/retention/sweeps", []byte(`{"collection":"`+collection+`"}`))
	for confirmed := false; err == nil && s.Finished == ""; {
		if s.State == "needs_confirmation" && !confirmed {
			s, err = c.ask(ctx, http.MethodPost, "/v1/retention/sweeps/"+s.ID+"/confirm", []byte(`{}`))
			confirmed = true
			continue
		}
		if !rest(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
		s, err = c.ask(ctx, http.MethodGet, "/v1/retention/sweeps/"+s.ID, nil)
	}
	if err == nil && (s.State != "completed" || int(s.Deleted) != b.Records) {
		err = fmt.Errorf("%w, with %d of %d deleted", &unfinishedSweep{s}, s.Deleted, b.Records)
	}
	return err
}

// bareDelete deletes as many rows of copies of the tables, due likewise, in batches of 10,000.
func (b *bencher) bareDelete(ctx context.Context) (f figure, err error) {
	if len(b.lately) == 0 {
		if _, err := b.imported(ctx); err != nil {
			return f, err
		}
	}
	ours := `r.collection_id = (select collection_id from privault.collections where name = '` + b.lately[0] + `')`
	err = b.exec(ctx,
		`drop table if exists public.bench_records, public.bench_keys`,
		`create table public.bench_records (like privault.records including all)`,
		`create table public.bench_keys (like keystore.data_keys including all)`,
		`insert into public.bench_records (tenant_id, record_id, collection_id, subject_id, created_at, updated_at, expires_at, version, epoch, sealed)
			select r.tenant_id, r.record_id, r.collection_id, r.subject_id, r.created_at, r.updated_at, now() - interval '1 day', r.version, r.epoch, r.sealed
			from privault.records r where `+ours,
		`insert into public.bench_keys (tenant_id, record_id, version, wrapped, created_at)
			select k.tenant_id, k.record_id, k.version, k.wrapped, k.created_at from keystore.data_keys k join privault.records r using (tenant_id, record_id) where `+ours,
		`vacuum analyze public.bench_records`, `vacuum analyze public.bench_keys`, `checkpoint`)
	if err != nil {
		return f, err
	}
	err = b.bare(ctx, func(owner *pgx.Conn) error {
		f, err = once(b.Records, func() error {
			gone := 0
			for {
				done, err := owner.Exec(ctx, `
					with due as (
						select tenant_id, record_id from public.bench_records
						where coalesce(due_at, expires_at) <= now() and (due_at is not null or expires_at is not null) limit 10000),
					keys as (delete from public.bench_keys k using due d where k.tenant_id = d.tenant_id and k.record_id = d.record_id)
					delete from public.bench_records r using due d where r.tenant_id = d.tenant_id and r.record_id = d.record_id`)
				if err != nil {
					return err
				}
				if done.RowsAffected() == 0 {
					break
				}
				gone += int(done.RowsAffected())
			}
			if gone != b.Records {
				return fmt.Errorf("%d of %d rows were deleted", gone, b.Records)
			}
			return nil
		})
		return err
	})
	return f, err
}
