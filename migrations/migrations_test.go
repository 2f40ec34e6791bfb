package migrations_test

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault/vaulttest"
)

func TestMain(m *testing.M) { vaulttest.Main(m) }

func TestUpBringsBothSchemasToTheLatestAndIsIdempotent(t *testing.T) {
	t.Parallel()
	ctx, database := t.Context(), vaulttest.EmptyDatabase(t)
	before, err := migrations.Status(ctx, database, database)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range before {
		if s.Version != 0 || s.Latest == 0 || s.Dirty {
			t.Errorf("an empty database has the state %+v", s)
		}
	}
	var first []migrations.State
	for range 2 {
		if err := migrations.Up(ctx, database, database); err != nil {
			t.Fatal(err)
		}
		states, err := migrations.Status(ctx, database, database)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range states {
			if s.Version != s.Latest || s.Dirty {
				t.Errorf("a migrated database has the state %+v", s)
			}
		}
		if first != nil {
			if diff := cmp.Diff(first, states); diff != "" {
				t.Errorf("a second Up changed the state (-first +second):\n%s", diff)
			}
		}
		first = states
	}
}

// The owner of a production database is neither superuser nor may it make roles.
func TestAnOwnerWithoutPrivilegesMigratesItsDatabase(t *testing.T) {
	t.Parallel()
	ctx, database := t.Context(), vaulttest.EmptyDatabase(t)
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	name := u.Path[1:]
	vaulttest.ExecURL(t, database, `create role migrator_`+name+` login password 'test'; alter database `+name+` owner to migrator_`+name)
	u.User = url.UserPassword("migrator_"+name, "test")
	if err := migrations.Up(ctx, u.String(), u.String()); err != nil {
		t.Fatal(err)
	}
	if n := vaulttest.CountURL(t, database, `select count(*) from pg_tables where schemaname in ('privault', 'keystore') and tableowner <> $1`, "migrator_"+name); n != 0 {
		t.Errorf("%d tables belong to somebody else", n)
	}
}

func TestTheKeystoreCanBeADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	ctx, data, keys := t.Context(), vaulttest.EmptyDatabase(t), vaulttest.EmptyDatabase(t)
	if err := migrations.Up(ctx, data, keys); err != nil {
		t.Fatal(err)
	}
	for database, schema := range map[string]string{data: "keystore", keys: "privault"} {
		if n := vaulttest.CountURL(t, database, `select count(*) from pg_tables where schemaname = $1`, schema); n != 0 {
			t.Errorf("schema %s is in the other's database too", schema)
		}
	}
}

func TestEveryTableWithATenantForcesRowLevelSecurity(t *testing.T) {
	t.Parallel()
	database := vaulttest.EmptyDatabase(t)
	if err := migrations.Up(t.Context(), database, database); err != nil {
		t.Fatal(err)
	}
	const withTenant = `from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname in ('privault', 'keystore') and c.relkind in ('r', 'p')
		and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')`
	if n := vaulttest.CountURL(t, database, `select count(*) `+withTenant); n < 9 {
		t.Fatalf("only %d tables have a tenant", n)
	}
	if n := vaulttest.CountURL(t, database, `select count(*) `+withTenant+` and not (c.relrowsecurity and c.relforcerowsecurity)`); n != 0 {
		t.Errorf("%d tables with a tenant don't force row-level security", n)
	}
}

func TestEveryMonthStoresEntriesUncompressed(t *testing.T) {
	t.Parallel()
	database := vaulttest.EmptyDatabase(t)
	if err := migrations.Up(t.Context(), database, database); err != nil {
		t.Fatal(err)
	}
	if n := vaulttest.CountURL(t, database, `select privault.make_audit_partitions(now() + interval '10 months')`); n < 2 {
		t.Fatalf("%d partitions were made for ten months", n)
	}
	const bodies = `select count(*) from pg_inherits i join pg_attribute a on a.attrelid = i.inhrelid and a.attname = 'body'
		where i.inhparent = 'privault.audit_entries'::regclass and a.attstorage`
	if n := vaulttest.CountURL(t, database, bodies+` = 'e'`); n < 11 {
		t.Errorf("%d partitions store entries as they are", n)
	}
	if n := vaulttest.CountURL(t, database, bodies+` <> 'e'`); n != 0 {
		t.Errorf("%d partitions compress them", n)
	}
}

func TestRolesCanBeRunAgain(t *testing.T) {
	t.Parallel()
	ctx, database := t.Context(), vaulttest.EmptyDatabase(t)
	c, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for range 2 {
		if _, err := c.Exec(ctx, migrations.Roles); err != nil {
			t.Fatal(err)
		}
	}
}
