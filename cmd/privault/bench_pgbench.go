package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/privault/privault/vault/pgserver"
)

// What pgbench runs over and over. Rows are of the size that a sealed value of an e-mail address has, about 120 bytes.
const (
	insertOne  = `insert into public.bench_insert (at, value) values (now(), decode(repeat('ab', %d), 'hex'));`
	insertMany = `insert into public.bench_insert (at, value) select now(), decode(repeat('ab', 120), 'hex') from generate_series(1, %d);`
	selectMany = `select value from public.bench_select where id = any(array(select generate_series(1, %d)));`
	selectOne  = `\set n random(1, 5000)
select id, value from public.bench_select where key = 'jane.roe.' || :n::text || '@example.com';`
)

// reference runs a script from so many clients.
func (b *bencher) reference(clients int, script string, rows int) func(context.Context) (figure, error) {
	return func(ctx context.Context) (figure, error) {
		rate, err := b.pgbench(ctx, clients, b.Time, script)
		return figure{value: rate * float64(rows)}, err
	}
}

// insertReference is what a durable insert of a row costs with nothing around it.
func (b *bencher) insertReference(clients, values int) func(context.Context) (figure, error) {
	return b.reference(clients, fmt.Sprintf(insertOne, 120*values), 1)
}

var pgbenchRate = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

// pgbench runs a script over and over and gives how often a second it was through.
func (t *benchTarget) pgbench(ctx context.Context, clients int, length time.Duration, script string) (float64, error) {
	program, err := findPgbench()
	if err != nil {
		return 0, err
	}
	if err := t.createReferences(ctx); err != nil {
		return 0, err
	}
	file := filepath.Join(t.dir, "pgbench.sql")
	if err := os.WriteFile(file, []byte(script+"\n"), 0o600); err != nil {
		return 0, err
	}
	// Its time runs while it connects, about ten milliseconds for each client, and more on a busy machine; its rate is without that.
	for seconds := max(1, int(length.Seconds())) + clients/64; ; seconds *= 2 {
		run := exec.CommandContext(ctx, program, "--no-vacuum", "--protocol=prepared", "--file="+file,
			"--client="+strconv.Itoa(clients), "--jobs="+strconv.Itoa(min(clients, 2)), "--time="+strconv.Itoa(seconds), t.owner)
		out, err := run.CombinedOutput()
		if match := pgbenchRate.FindSubmatch(out); err == nil && match != nil {
			return strconv.ParseFloat(string(match[1]), 64)
		}
		if err == nil && seconds > 30 {
			err = errors.New("it gives no rate")
		}
		if err != nil {
			return 0, fmt.Errorf("pgbench: %w\n%s", err, out)
		}
	}
}

// createReferences makes the tables of the scripts.
func (t *benchTarget) createReferences(ctx context.Context) error {
	if t.created {
		return nil
	}
	err := t.exec(ctx,
		`create table public.bench_insert (id bigint generated always as identity primary key, at timestamptz not null, value bytea not null)`,
		`create table public.bench_select as
			select g as id, 'jane.roe.' || g || '@example.com' as key, decode(repeat('ab', 120), 'hex') as value from generate_series(1, 5000) g`,
		`alter table public.bench_select add primary key (id)`,
		`create index on public.bench_select (key)`,
		`vacuum analyze public.bench_select`)
	t.created = err == nil
	return err
}

// findPgbench looks where the server's binaries are, then in PATH.
func findPgbench() (string, error) {
	binaries, err := pgserver.Find()
	if err != nil {
		return "", err
	}
	if program, err := exec.LookPath(filepath.Join(binaries, "pgbench")); err == nil {
		return program, nil
	}
	program, err := exec.LookPath("pgbench")
	if err != nil {
		return "", errors.New("there is no pgbench to measure against: it comes with Postgres's packages (Debian: postgresql-contrib or postgresql)")
	}
	return program, nil
}
