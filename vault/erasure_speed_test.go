package vault_test

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// erasureSize is how many records the erasure is done with. PRIVAULT_ERASURE_RECORDS=10000 measures it as the README says it.
func erasureSize(t *testing.T) int {
	t.Helper()
	text, set := os.LookupEnv("PRIVAULT_ERASURE_RECORDS")
	if !set {
		return 400
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 400 || n > 100_000 {
		t.Fatal("PRIVAULT_ERASURE_RECORDS is 400 to 100000")
	}
	return n
}

// One person with many records in four collections: from the first moment after the acknowledgement on, nothing of theirs is given on either
// of two replicas. Beside it, how long an indexed delete of as many rows takes.
func TestAnErasureOfManyRecordsIsAtOnce(t *testing.T) {
	t.Parallel()
	n := erasureSize(t)
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		eraseMany(t, name, n, options...)
	}
}

func eraseMany(t *testing.T, name string, n int, options ...vaulttest.Option) {
	t.Helper()
	b := vaulttest.New(t, options...)
	who := b.Tenant()
	replicas := []*vault.Vault{b.Vault, b.Replica()}
	for round := range 3 {
		subject := fmt.Sprintf("many-%d", round)
		tokens := many(t, b, who, subject, n)
		if got := b.Reveal(who, tokens[0]); got != jane {
			t.Fatal("before: ", got)
		}
		reference := indexedDelete(t, b.OwnerURL, n)
		began := time.Now()
		e, err := b.EraseSubject(t.Context(), who, subject, "gdpr-17", false)
		took := time.Since(began)
		if err != nil || e.Counts.Records != n || e.Counts.DEKs != n {
			t.Fatal(e.Counts, err)
		}
		t.Logf("%s, %d records: erased in %v, an indexed delete of as many rows in %v: %.2f", name, n, took, reference, float64(took)/float64(reference))
		if given := tryEach(t, replicas, who, tokens, 5000); given != 0 {
			t.Errorf("%s: right after the acknowledgement %d tries gave something", name, given)
		}
	}
}

// tryEach reads tokens on the replicas, many at once, and says how many gave something.
func tryEach(t *testing.T, replicas []*vault.Vault, who vault.Caller, tokens []string, tries int) (given int64) {
	t.Helper()
	var wait sync.WaitGroup
	var next, gave atomic.Int64
	for worker := range 16 {
		wait.Go(func() {
			for i := next.Add(1); i <= int64(tries); i = next.Add(1) {
				if got := vaulttest.RevealOn(t, replicas[worker%2], who, tokens[int(i)*7919%len(tokens)]); got != string(vault.TokenNotFound) {
					gave.Add(1)
				}
			}
		})
	}
	wait.Wait()
	return gave.Load()
}

// indexedDelete measures one delete of n rows, found by an index on their subject, of a table that has the columns of records and ten times as many rows.
func indexedDelete(t *testing.T, owner string, n int) time.Duration {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, owner)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, `
		drop table if exists public.reference;
		create table public.reference (tenant_id uuid, record_id uuid, subject_id int, sealed bytea, primary key (tenant_id, record_id));
		create index on public.reference (tenant_id, subject_id);
		insert into public.reference select '00000000-0000-7000-8000-000000000000', gen_random_uuid(), i % 10, decode(repeat('ab', 150), 'hex') from generate_series(1, `+strconv.Itoa(10*n)+`) i;
		analyze public.reference`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	done, err := c.Exec(ctx, `delete from public.reference where tenant_id = $1 and subject_id = $2`, "00000000-0000-7000-8000-000000000000", 7)
	took := time.Since(began)
	if err != nil || done.RowsAffected() != int64(n) {
		t.Fatal(done, err)
	}
	return took
}

// many stores n records of a person in four collections and gives their tokens.
func many(t *testing.T, b *vaulttest.Bench, who vault.Caller, subject string, n int) (tokens []string) {
	t.Helper()
	for part := range 4 {
		collection := fmt.Sprintf("part_%d", part)
		if _, _, err := b.PutCollection(t.Context(), who, collection, vault.Definition{Fields: map[string]vault.FieldDefinition{"name": {Type: "string"}}}, 0); err != nil {
			t.Fatal(err)
		}
		for left := n / 4; left > 0; left -= 1000 {
			tokens = append(tokens, janes(t, b, who, collection, subject, min(left, 1000))...)
		}
	}
	return tokens
}

// janes stores n records of a person in one batch and gives the tokens of their names.
func janes(t *testing.T, b *vaulttest.Bench, who vault.Caller, collection, subject string, n int) (tokens []string) {
	t.Helper()
	batch := vault.Batch{Collection: collection}
	for range n {
		item := vaulttest.Item(map[string]string{"name": "Jane"})
		item.Subject = subject
		batch.Items = append(batch.Items, item)
	}
	done, err := b.Tokenize(t.Context(), who, batch)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		if d.Err != nil {
			t.Fatal(d.Err)
		}
		tokens = append(tokens, d.Tokens["name"])
	}
	return tokens
}
