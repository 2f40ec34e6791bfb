package vault_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// What the stories have in common.

// kind is the kind of an error; empty for none.
func kind(err error) vault.Kind {
	if err == nil {
		return ""
	}
	return vault.AsError(err).Kind
}

// wantKind fails the test unless err is of that kind.
func wantKind(t *testing.T, what string, err error, want vault.Kind) {
	t.Helper()
	if kind(err) != want {
		t.Errorf("%s: %v, want kind %q", what, err, want)
	}
}

// await returns once something holds that other goroutines bring about.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("it never came to it that ", what)
		}
	}
}

// dam holds back every commit of an audit entry in a database until open is called. Reads go on.
func dam(t *testing.T, url string) (open func()) {
	t.Helper()
	return lock(t, url, "privault.audit_entries in share mode")
}

// lock takes a lock on a table until open is called.
func lock(t *testing.T, url, table string) (open func()) {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	open = func() { _ = c.Close(ctx) }
	t.Cleanup(open)
	if _, err := c.Exec(ctx, `begin; lock table `+table); err != nil {
		t.Fatal(err)
	}
	return open
}

// held says how many transactions of a database wait for a lock on a table.
func held(b *vaulttest.Bench, table string) int {
	return b.Count(`select count(*) from pg_locks where relation = $1::text::regclass and not granted
		and database = (select oid from pg_database where datname = current_database())`, table)
}

// rows is what a query gives, each row as text.
func rows(t testing.TB, url, query string, args ...any) []string {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	r, err := c.Query(ctx, query, args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(r, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		if err == nil && len(values) == 1 {
			return fmt.Sprint(values[0]), nil
		}
		return fmt.Sprint(values...), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// state is what the tables of both databases hold, a digest each, the audit trail left out.
func state(b *vaulttest.Bench) []string {
	var out []string
	for schema, url := range map[string]string{"privault": b.OwnerURL, "keystore": b.KeysURL} {
		out = append(out, rows(b.T(), url, `
			select tablename || ' ' || md5(query_to_xml('select x::text from ' || $1 || '.' || tablename || ' x order by 1', true, false, '')::text)
			from pg_tables where schemaname = $1 and tablename not in ('schema_migrations', 'elsewhere') and tablename not like 'audit\_%' order by 1`, schema)...)
	}
	slices.Sort(out)
	return out
}

func one(fields map[string]string) []vault.NewRecord {
	return []vault.NewRecord{vaulttest.Item(fields)}
}

func secret(json string) vault.Secret { return vault.NewSecret([]byte(json)) }
