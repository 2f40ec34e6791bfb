package vault_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// Threat I-1: what another tenant owns is exactly as absent as what nobody owns.
func TestForeignIsUnknown(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	ctx := t.Context()
	owner, stranger := v.Tenant(), v.Tenant()
	for _, who := range []vault.Caller{owner, stranger} {
		v.Collection(who, "people", map[string]string{"name": "string"})
	}
	v.Collection(owner, "private", map[string]string{"name": "string"})
	theirs := v.MustTokenize(owner, "people", map[string]string{"name": "Jane"})
	principal, err := v.CreatePrincipal(ctx, owner, "service", []string{policy.Admin})
	if err != nil {
		t.Fatal(err)
	}
	key, err := v.IssueKey(ctx, owner, principal, vault.KeyTerms{})
	if err != nil {
		t.Fatal(err)
	}
	// Like the foreign ones in form, and nobody's.
	never := v.MustTokenize(owner, "people", map[string]string{"name": "gone"})
	if err := v.DeleteRecord(ctx, owner, "people", never.Record, 0); err != nil {
		t.Fatal(err)
	}
	const nobody = "0000000000000000000001"
	for what, try := range map[string]func(token, record, collection, principal, key string) error{
		"Detokenize": func(token, _, _, _, _ string) error {
			done, err := v.Detokenize(ctx, stranger, []vault.TokenRef{{Token: token}})
			if err != nil {
				return err
			}
			return done[0].Err
		},
		"ValidateTokens": func(token, _, _, _, _ string) error {
			done, err := v.ValidateTokens(ctx, stranger, []vault.TokenRef{{Token: token}})
			if err != nil {
				return err
			}
			return done[0].Err
		},
		"RotateTokens": func(token, _, _, _, _ string) error {
			done, err := v.RotateTokens(ctx, stranger, []vault.TokenRef{{Token: token}})
			if err != nil {
				return err
			}
			return done[0].Err
		},
		"GetRecord": func(_, record, _, _, _ string) error {
			_, err := v.GetRecord(ctx, stranger, "people", record, nil, "")
			return err
		},
		"PatchRecord": func(_, record, _, _, _ string) error {
			_, err := v.PatchRecord(ctx, stranger, "people", record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"x"`)}, IfVersion: 1})
			return err
		},
		"DeleteRecord": func(_, record, _, _, _ string) error { return v.DeleteRecord(ctx, stranger, "people", record, 0) },
		"Tokenize": func(_, _, collection, _, _ string) error {
			_, err := v.Tokenize(ctx, stranger, vault.Batch{Collection: collection, Items: one(map[string]string{"name": "x"})})
			return err
		},
		"GetCollection": func(_, _, collection, _, _ string) error {
			_, err := v.GetCollection(ctx, stranger, collection)
			return err
		},
		"DeleteCollection": func(_, _, collection, _, _ string) error { return v.DeleteCollection(ctx, stranger, collection, 0) },
		"IssueKey": func(_, _, _, principal, _ string) error {
			_, err := v.IssueKey(ctx, stranger, principal, vault.KeyTerms{})
			return err
		},
		"RevokeKey": func(_, _, _, principal, key string) error { return v.RevokeKey(ctx, stranger, principal, key) },
	} {
		foreign := try(theirs.Tokens["name"], theirs.Record, "private", principal, key.ID)
		unknown := try(never.Tokens["name"], never.Record, "nobodys", "prn_"+nobody, "key_"+nobody)
		f, u := vault.AsError(foreign), vault.AsError(unknown)
		if f.Kind != vault.NotFound && f.Kind != vault.TokenNotFound {
			t.Errorf("%s of what is another tenant's: %v", what, foreign)
		}
		if diff := cmp.Diff([]any{u.Kind, u.Detail, u.Fields, u.RetryAfter, u.Error()}, []any{f.Kind, f.Detail, f.Fields, f.RetryAfter, f.Error()}); diff != "" {
			t.Errorf("%s: foreign and unknown can be told apart:\n%s", what, diff)
		}
	}
	if page, _, err := v.ListCollections(ctx, stranger, "", 10); err != nil || len(page) != 1 {
		t.Errorf("the stranger's list has %d collections, %v", len(page), err)
	}
	if got := v.Reveal(owner, theirs.Tokens["name"]); got != `"Jane"` {
		t.Errorf("the owner's token gives %s afterwards", got)
	}
	if _, err := v.Authenticate(ctx, key.Key); err != nil {
		t.Errorf("the owner's key: %v", err)
	}
}

// A cursor is its tenant's and its list's.
func TestForeignCursor(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	owner, stranger := v.Tenant(), v.Tenant()
	for _, name := range []string{"a", "b", "c"} {
		v.Collection(owner, name, map[string]string{"name": "string"})
	}
	var names []string
	cursor := ""
	for {
		page, next, err := v.ListCollections(t.Context(), owner, cursor, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			names = append(names, c.Name)
		}
		if next == "" {
			break
		}
		cursor = next
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" {
		t.Errorf("pages of one (-want +got):\n%s", diff)
	}
	_, _, err := v.ListCollections(t.Context(), stranger, cursor, 1)
	wantKind(t, "another tenant's cursor", err, vault.Malformed)
	_, _, err = v.ListCollections(t.Context(), owner, cursor[:len(cursor)-2]+"AA", 1)
	wantKind(t, "a changed cursor", err, vault.Malformed)
}

type table struct{ name, url string }

// tables are those that have tenants, each with the database that it is used in.
func tables(b *vaulttest.Bench) []table {
	var all []table
	for schema, url := range map[string]string{"privault": b.OwnerURL, "keystore": b.KeysURL} {
		for _, name := range rows(b.T(), url, `
			select schemaname || '.' || tablename from pg_tables
			where schemaname = $1 and tablename not in ('schema_migrations', 'deployment', 'audit_nodes', 'audit_head', 'audit_witnesses', 'ledger')
				and not exists (select from pg_inherits where inhrelid = format('%I.%I', schemaname, tablename)::regclass) order by 1`, schema) {
			all = append(all, table{name, url})
		}
	}
	return all
}

// asApp runs do in a transaction of the service's role that works for a tenant; nil: for none.
func asApp(t *testing.T, url string, tenant *[16]byte, do func(pgx.Tx)) {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if tenant != nil {
		if _, err := tx.Exec(ctx, `select set_config('privault.tenant', $1::uuid::text, true)`, *tenant); err != nil {
			t.Fatal(err)
		}
	}
	do(tx)
}

// fill leaves something of the scene's tenant in every table that has nothing of it yet.
func (s *scene) fill(t *testing.T) {
	t.Helper()
	for _, op := range operations() {
		if op.name == "Tokenize with a key" || op.name == "RevokeToken" {
			wantKind(t, op.name, op.do(s, s.who), "")
		}
	}
	s.Sequence()
	if err := s.NoteUses(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The mutation check of threat I-1: with every WHERE removed, row-level security still shows nothing of others.
func TestRowLevelSecurityHidesOtherTenants(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, options...)
			s.fill(t)
			stranger, nobody := s.Tenant().Tenant, [16]byte{15: 1}
			apps := map[string]string{"privault": s.Config.DataURL, "keystore": s.Config.KeystoreURL}
			if apps["keystore"] == "" {
				apps["keystore"] = s.Config.DataURL
			}
			seen := 0
			for _, table := range tables(s.Bench) {
				app := apps[strings.Split(table.name, ".")[0]]
				seen++
				mine := vaulttest.CountURL(t, table.url, `select count(*) from `+table.name+` where tenant_id = $1`, s.who.Tenant)
				if mine == 0 {
					t.Errorf("nothing in %s to hide", table.name)
				}
				count := func(tenant *[16]byte, where string, args ...any) (n int) {
					asApp(t, app, tenant, func(tx pgx.Tx) {
						if err := tx.QueryRow(t.Context(), `select count(*) from `+table.name+where, args...).Scan(&n); err != nil {
							t.Fatal(err)
						}
					})
					return n
				}
				if got := count(nil, ""); got != 0 {
					t.Errorf("%s shows %d rows to no tenant", table.name, got)
				}
				if got := count(&nobody, ""); got != 0 {
					t.Errorf("%s shows %d rows to a tenant that isn't", table.name, got)
				}
				if got := count(&stranger, ` where tenant_id <> $1`, stranger); got != 0 {
					t.Errorf("%s shows %d rows to another tenant", table.name, got)
				}
				if got := count(&s.who.Tenant, ""); got != mine {
					t.Errorf("%s shows %d of %d rows to their owner", table.name, got, mine)
				}
			}
			const tenanted = `select count(*) from pg_class c join pg_attribute a on a.attrelid = c.oid
				where relnamespace::regnamespace::text = $1 and relkind in ('r', 'p') and not relispartition and attname = 'tenant_id'`
			all := vaulttest.CountURL(t, s.OwnerURL, tenanted, "privault") + vaulttest.CountURL(t, s.KeysURL, tenanted, "keystore")
			if seen != all {
				t.Errorf("%d tables were looked at, of %d that have tenants", seen, all)
			}
		})
	}
}

// Nothing is written, changed or deleted for another tenant either.
func TestRowLevelSecurityRefusesForeignWrites(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.fill(t)
	stranger := s.Tenant().Tenant
	ctx := t.Context()
	mine := func() map[string]int {
		counts := map[string]int{}
		for _, table := range tables(s.Bench) {
			counts[table.name] = s.Count(`select count(*) from `+table.name+` where tenant_id = $1`, s.who.Tenant)
		}
		return counts
	}
	before := mine()
	for _, table := range tables(s.Bench) {
		row := rows(t, s.OwnerURL, `select row_to_json(x)::text from `+table.name+` x where tenant_id = $1 limit 1`, s.who.Tenant)[0]
		asApp(t, s.Config.DataURL, &stranger, func(tx pgx.Tx) {
			_, err := tx.Exec(ctx, `insert into `+table.name+` select (json_populate_record(null::`+table.name+`, $1)).*`, row)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "42501" || !strings.Contains(pg.Message, "row-level security") {
				t.Errorf("an insert into %s for another tenant: %v", table.name, err)
			}
		})
		asApp(t, s.Config.DataURL, &stranger, func(tx pgx.Tx) {
			done, err := tx.Exec(ctx, `update `+table.name+` set tenant_id = tenant_id where tenant_id = $1`, s.who.Tenant)
			if err == nil && done.RowsAffected() > 0 {
				t.Errorf("%d rows of another tenant's %s were changed", done.RowsAffected(), table.name)
			}
		})
		asApp(t, s.Config.DataURL, &stranger, func(tx pgx.Tx) {
			if _, err := tx.Exec(ctx, `delete from `+table.name); err == nil {
				_ = tx.Commit(ctx) // its own rows may go
			}
		})
	}
	if diff := cmp.Diff(before, mine()); diff != "" {
		t.Errorf("rows of another tenant were deleted (-before +after):\n%s", diff)
	}
}

// Threat E-8: the service's roles have the privileges of this list, and no others.
func TestPrivilegesOfTheServicesRoles(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	want := []string{
		"privault_app privault.alarms INSERT SELECT UPDATE",
		"privault_app privault.alias_spaces DELETE INSERT SELECT UPDATE",
		"privault_app privault.aliases DELETE INSERT SELECT UPDATE",
		"privault_app privault.audit_entries INSERT SELECT",
		"privault_app privault.audit_head SELECT UPDATE",
		"privault_app privault.audit_leaves INSERT SELECT",
		"privault_app privault.audit_nodes INSERT SELECT", "privault_app privault.audit_witnesses INSERT SELECT UPDATE",
		"privault_app privault.behaviour DELETE INSERT SELECT UPDATE",
		"privault_app privault.blind_index DELETE INSERT SELECT UPDATE",
		"privault_app privault.collections DELETE INSERT SELECT UPDATE",
		"privault_app privault.credentials INSERT SELECT UPDATE",
		"privault_app privault.deployment SELECT",
		"privault_app privault.disclosures INSERT SELECT",
		"privault_app privault.erasing DELETE INSERT SELECT",
		"privault_app privault.erasure_recipients INSERT SELECT UPDATE",
		"privault_app privault.erasure_references INSERT SELECT UPDATE",
		"privault_app privault.erasures INSERT SELECT UPDATE",
		"privault_app privault.governance INSERT SELECT UPDATE",
		"privault_app privault.holds INSERT SELECT UPDATE",
		"privault_app privault.idempotency_keys DELETE INSERT SELECT UPDATE",
		"privault_app privault.jobs DELETE INSERT SELECT UPDATE",
		"privault_app privault.key_generations INSERT SELECT UPDATE",
		"privault_app privault.ledger INSERT SELECT UPDATE",
		"privault_app privault.ledger_applied DELETE INSERT SELECT",
		"privault_app privault.packages INSERT SELECT UPDATE",
		"privault_app privault.policies INSERT SELECT",
		"privault_app privault.principal_networks DELETE INSERT SELECT UPDATE",
		"privault_app privault.principals INSERT SELECT UPDATE",
		"privault_app privault.purposes DELETE INSERT SELECT UPDATE",
		"privault_app privault.records DELETE INSERT SELECT UPDATE",
		"privault_app privault.request_events INSERT SELECT",
		"privault_app privault.requests DELETE INSERT SELECT UPDATE",
		"privault_app privault.retention_clocks INSERT SELECT UPDATE",
		"privault_app privault.retention_items DELETE INSERT SELECT UPDATE",
		"privault_app privault.retention_plans INSERT SELECT UPDATE",
		"privault_app privault.revoked_tokens DELETE INSERT SELECT UPDATE",
		"privault_app privault.subject_facts DELETE INSERT SELECT UPDATE",
		"privault_app privault.subject_history DELETE INSERT SELECT",
		"privault_app privault.subject_links DELETE INSERT SELECT UPDATE",
		"privault_app privault.subjects DELETE INSERT SELECT UPDATE",
		"privault_app privault.suppressions DELETE INSERT SELECT",
		"privault_app privault.sweeps INSERT SELECT UPDATE",
		"privault_app privault.tenants INSERT SELECT",
		"privault_app privault.transforms DELETE INSERT SELECT",
		"privault_app privault.webhook_deliveries DELETE INSERT SELECT UPDATE",
		"privault_app privault.webhooks DELETE INSERT SELECT UPDATE",
		"privault_app river.river_job DELETE INSERT SELECT UPDATE",
		"privault_app river.river_leader DELETE INSERT SELECT UPDATE",
		"privault_app river.river_migration SELECT",
		"privault_app river.river_notification DELETE INSERT SELECT UPDATE",
		"privault_app river.river_queue DELETE INSERT SELECT UPDATE",
		"privault_keystore keystore.data_keys DELETE INSERT SELECT UPDATE",
		"privault_keystore keystore.key_uses INSERT SELECT UPDATE",
		"privault_keystore keystore.key_versions INSERT SELECT UPDATE",
		"privault_keystore keystore.ledger INSERT SELECT UPDATE",
		"privault_keystore keystore.ledger_applied DELETE INSERT SELECT",
		"privault_keystore keystore.tenant_keys INSERT SELECT UPDATE",
		"privault_keystore keystore.tenant_roots INSERT SELECT UPDATE",
	}
	got := rows(t, v.OwnerURL, `
		select role || ' ' || schemaname || '.' || tablename || ' ' || string_agg(privilege, ' ' order by privilege)
		from pg_tables
		cross join unnest(array['privault_app', 'privault_keystore']) as r(role)
		cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
			|| case when current_setting('server_version_num')::int >= 170000 then array['MAINTAIN'] else '{}'::text[] end) as p(privilege)
		where schemaname not in ('pg_catalog', 'information_schema')
			and has_table_privilege(role, format('%I.%I', schemaname, tablename), privilege)
		group by role, schemaname, tablename order by 1`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("privileges on tables (-want +got):\n%s", diff)
	}
	for what, query := range map[string]string{
		"privileges on single columns": `select grantee || ' ' || table_name || '.' || column_name from information_schema.column_privileges c
			where grantee like 'privault\_%' and grantee <> 'privault_owner' and not exists (select from information_schema.table_privileges t
				where t.grantee = c.grantee and t.table_schema = c.table_schema and t.table_name = c.table_name and t.privilege_type = c.privilege_type)`,
		"create in a schema or database": `select r.rolname || ' ' || n.nspname from pg_roles r, pg_namespace n
			where r.rolname in ('privault_app', 'privault_keystore', 'privault_test') and n.nspname !~ '^pg_'
			and (has_schema_privilege(r.rolname, n.oid, 'create') or has_database_privilege(r.rolname, current_database(), 'create'))`,
		"roles above row-level security": `select rolname::text from pg_roles where rolname in ('privault_app', 'privault_keystore', 'privault_test')
			and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)`,
		"tables that they own": `select tablename::text from pg_tables where tableowner in ('privault_app', 'privault_keystore', 'privault_test')`,
		"tables of tenants without forced row-level security": `select relname::text from pg_class
			where relnamespace::regnamespace::text in ('privault', 'keystore') and relkind in ('r', 'p')
			and relname not in ('schema_migrations', 'deployment') and not (relrowsecurity and relforcerowsecurity)`,
		// make_audit_partitions makes the log's next months, a year ahead at most, and nothing else; raise_audit_xids does
		// nothing but in a cluster that the log doesn't know.
		"functions that run as their owner": `select proname::text from pg_proc where pronamespace::regnamespace::text in ('privault', 'keystore') and prosecdef
			and proname not in ('make_audit_partitions', 'raise_audit_xids')`,
		"views": `select viewname::text from pg_views where schemaname in ('privault', 'keystore')`,
	} {
		if got := rows(t, v.OwnerURL, query); len(got) != 0 {
			t.Errorf("%s: %v, want none", what, got)
		}
	}
	// And in fact: evidence is neither changed nor deleted, and nothing is made or dropped.
	for _, statement := range []string{
		`update privault.audit_entries set outcome = 'ok'`, `delete from privault.audit_entries`, `truncate privault.audit_entries`,
		`update privault.audit_leaves set leaf = leaf`, `delete from privault.audit_leaves`, `update privault.audit_nodes set hash = hash`, `delete from privault.audit_nodes`,
		`update privault.disclosures set entry_id = entry_id`, `delete from privault.disclosures`, `delete from privault.audit_head`,
		`select privault.prune_audit(now(), false)`, `select body from privault.audit_entries_rest`, `drop table privault.audit_entries_rest`,
		`delete from keystore.tenant_roots`, `delete from keystore.tenant_keys`, `delete from privault.credentials`,
		`drop table privault.records`, `create table privault.mine ()`, `create table keystore.mine ()`, `alter table privault.records disable row level security`,
		`drop policy tenant on privault.records`, `set role privault_owner`, `set session authorization privault_owner`, `alter role privault_test bypassrls`,
		`create function privault.tenant() returns uuid language sql as 'select null'`,
	} {
		asApp(t, v.Config.DataURL, nil, func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), statement)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "42501" {
				t.Errorf("%s as the service's role: %v, want insufficient privilege", statement, err)
			}
		})
	}
}

// Faults sees a role that row-level security doesn't bind, and a server that may lose what it acknowledged.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			f, err := v.Faults(t.Context())
			if err != nil || len(f.Roles) != 0 {
				t.Errorf("the service's role: %v, %v", f.Roles, err)
			}
			if len(f.Durability) == 0 || !strings.Contains(f.Durability[0], "fsync=off") { // the tests' server
				t.Errorf("a server without fsync: %v", f.Durability)
			}
			c := v.Config
			c.DataURL = v.OwnerURL
			if c.KeystoreURL != "" {
				c.KeystoreURL = v.KeysURL
			}
			asOwner, err := vault.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer asOwner.Close()
			f, err = asOwner.Faults(t.Context())
			for _, schema := range []string{"privault", "keystore"} {
				if text := strings.Join(f.Roles, "\n"); err != nil || !strings.Contains(text, "schema "+schema) {
					t.Errorf("a superuser, and nothing is said about schema %s: %v, %v", schema, f.Roles, err)
				}
			}
		})
	}
}
