// Package vaulttest runs a Vault on a real Postgres for tests.
//
// A test binary has one server: its TestMain calls Main. Each New has a database of its own, migrated, with the roles
// that production has, so row-level security binds it. Nothing is skipped for want of a server: without one, tests fail.
package vaulttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/api/egress"
	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/pgserver"
	"github.com/privault/privault/vault/policy"
)

const (
	template = "privault_template"
	appRole  = "privault_test"
	appPass  = "test"
)

// server is the test binary's own.
var server struct {
	start sync.Once
	*pgserver.Server
	dir string
	err error
}

// Main runs the tests and stops the server behind them.
func Main(m *testing.M) {
	code := m.Run()
	if server.Server != nil {
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop Postgres:", err)
			code = max(code, 1)
		}
	}
	if server.dir != "" {
		_ = os.RemoveAll(server.dir)
	}
	os.Exit(code)
}

// Dir is the server's folder, with its data and its log.
func Dir() string { return server.dir }

func started(t testing.TB) *pgserver.Server {
	t.Helper()
	server.start.Do(func() { server.err = startServer() })
	if server.err != nil {
		t.Fatal("no Postgres: ", server.err)
	}
	return server.Server
}

func startServer() error {
	dir, err := os.MkdirTemp("", "privault-test-")
	if err != nil {
		return err
	}
	server.dir = dir
	ctx := context.Background()
	// The tests kill services, never this server.
	server.Server, err = pgserver.Start(ctx, pgserver.Config{Dir: dir, Settings: map[string]string{
		"fsync": "off", "max_connections": "300", "shared_buffers": "128MB", "log_statement": "none"}})
	if err != nil {
		return err
	}
	if err := furnish(ctx, server.Server, template); err != nil {
		return err
	}
	return migrations.Up(ctx, server.URL(template), server.URL(template))
}

// furnish makes the roles, and an empty database.
func furnish(ctx context.Context, s *pgserver.Server, database string) error {
	c, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, statement := range []string{migrations.Roles,
		fmt.Sprintf("create role %s login password '%s' in role privault_app, privault_keystore", appRole, appPass),
		"create database " + database} {
		if _, err := c.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func onServer(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	c, err := pgx.Connect(ctx, server.URL(database))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	return do(c)
}

// Bench is a vault with all that a test may want to do to it.
type Bench struct {
	*vault.Vault
	KMS      *kmstest.Faulty
	Log      *Log
	Config   vault.Config // as it was opened
	OwnerURL string       // of the data database, for looking behind the vault's back
	KeysURL  string       // of the keystore, likewise
	Patience int          // how many minutes Until waits; 0: one
	t        testing.TB
	offset   *atomic.Int64
	frozen   *atomic.Pointer[time.Time] // nil inside: the clock goes on by itself
}

// Option changes how New sets a vault up.
type Option func(*setup)

type setup struct {
	config vault.Config
	apart  bool
}

// Apart puts the keystore into a database of its own.
func Apart(s *setup) { s.apart = true }

// With changes the configuration.
func With(change func(*vault.Config)) Option { return func(s *setup) { change(&s.config) } }

var databases atomic.Int64

// Database makes a migrated database and gives its name.
func Database(t testing.TB) string {
	t.Helper()
	started(t)
	name := fmt.Sprintf("t%d", databases.Add(1))
	ctx := context.Background()
	err := onServer(ctx, "postgres", func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, fmt.Sprintf("create database %s template %s strategy wal_log", name, template))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = onServer(ctx, "postgres", func(c *pgx.Conn) error {
			_, err := c.Exec(ctx, "drop database if exists "+name+" with (force)")
			return err
		})
	})
	return name
}

// EmptyDatabase makes a database without the schema and gives its owner's URL.
func EmptyDatabase(t testing.TB) string {
	t.Helper()
	started(t)
	name := fmt.Sprintf("e%d", databases.Add(1))
	err := onServer(context.Background(), "postgres", func(c *pgx.Conn) error {
		_, err := c.Exec(context.Background(), "create database "+name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return server.URL(name)
}

// OwnerURL is a database's URL for its owner, a superuser.
func OwnerURL(database string) string { return server.URL(database) }

// AppURL is a database's URL for the service's role.
func AppURL(database string) string { return asApp(server.URL(database)) }

func asApp(owner string) string {
	u, err := url.Parse(owner)
	if err != nil {
		panic(err)
	}
	u.User = url.UserPassword(appRole, appPass)
	return u.String()
}

// New opens a vault on a fresh database; it is closed with the test.
func New(t testing.TB, options ...Option) *Bench {
	t.Helper()
	b := &Bench{KMS: kmstest.NewFaulty(kmstest.Local(t)), Log: &Log{}, t: t, offset: &atomic.Int64{}, frozen: &atomic.Pointer[time.Time]{}}
	data := Database(t)
	s := setup{config: vault.Config{DataURL: AppURL(data), KMS: b.KMS, MaxConns: 8, Now: b.Now, Log: b.Log.Logger(),
		Courier:   Courier(egress.Rules{Loopback: true, Roots: Roots()}),
		AuditKeys: AuditKeys(t), AuditCopy: filepath.Join(t.TempDir(), "checkpoint"), Ledger: filepath.Join(t.TempDir(), "ledger")}}
	for _, o := range options {
		o(&s)
	}
	b.OwnerURL, b.KeysURL = OwnerURL(data), OwnerURL(data)
	if s.apart {
		keys := Database(t)
		s.config.KeystoreURL, b.KeysURL = AppURL(keys), OwnerURL(keys)
	}
	b.Config = s.config
	b.Vault = b.Replica()
	return b
}

// AuditKeys makes a key for an audit log.
func AuditKeys(t testing.TB) *audit.Keys {
	t.Helper()
	private, _, err := audit.GenerateKey("test.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := audit.ParseKeys(private)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Sequence takes every entry that is there into the audit log. The order waits for transactions that run anywhere on the
// server, those of other tests too.
func (b *Bench) Sequence() {
	b.t.Helper()
	entries := b.Count(`select count(*) from privault.audit_entries`)
	for limit := time.Now().Add(time.Minute); ; {
		if _, err := b.Vault.Sequence(context.Background()); err != nil {
			b.t.Fatal("sequence: ", err)
		}
		if b.Count(`select size::int from privault.audit_head`) >= entries {
			return
		}
		if time.Now().After(limit) {
			b.t.Fatal("the sequencer does not get on")
		}
	}
}

// T is the test that the vault was opened for.
func (b *Bench) T() testing.TB { return b.t }

// Replica opens one more vault on the same databases.
func (b *Bench) Replica() *vault.Vault {
	b.t.Helper()
	v, err := vault.Open(context.Background(), b.Config)
	if err != nil {
		b.t.Fatal("open a vault: ", err)
	}
	b.t.Cleanup(v.Close)
	return v
}

// Work works jobs until the test ends.
func (b *Bench) Work() { b.t.Helper(); b.WorkOn(b.Vault) }

// WorkOn is Work by a given replica.
func (b *Bench) WorkOn(v *vault.Vault) {
	b.t.Helper()
	if err := v.StartJobs(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := v.StopJobs(context.Background()); err != nil {
			b.t.Error(err)
		}
	})
}

// Finish waits for a job to end.
func (b *Bench) Finish(who vault.Caller, id string) (j vault.Job) {
	b.t.Helper()
	b.Until(func() bool {
		var err error
		if j, err = b.Job(context.Background(), who, id); err != nil {
			b.t.Fatal(err)
		}
		return j.Finished != nil
	})
	return j
}

// Until waits for something to be so, no longer than Patience.
func (b *Bench) Until(so func() bool) {
	b.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 3000 * max(1, b.Patience) {
		if so() {
			return
		}
		<-tick.C
	}
	b.t.Fatal("what the test waits for doesn't come")
}

// Copy opens a vault with the same settings on a copy of the databases.
func (b *Bench) Copy() *Bench {
	b.t.Helper()
	c := b.On(b.Backup())
	c.Vault = c.Replica()
	return c
}

// Backup copies the databases as they are, and gives the names of the copies, which are one where the keystore is in the data database.
// The vault is closed for it and opened again.
func (b *Bench) Backup() (data, keys string) {
	b.t.Helper()
	b.Close() // a template has no other sessions
	data = b.clone(b.OwnerURL)
	if keys = data; b.KeysURL != b.OwnerURL {
		keys = b.clone(b.KeysURL)
	}
	b.Vault = b.Replica()
	return data, keys
}

func (b *Bench) clone(owner string) string {
	b.t.Helper()
	name := fmt.Sprintf("c%d", databases.Add(1))
	ExecURL(b.t, server.URL("postgres"), fmt.Sprintf("create database %s template %s", name, DatabaseOf(b.t, owner)))
	return name
}

// DatabaseOf is the name of the database in a URL.
func DatabaseOf(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// On is the bench with other databases, as Backup names them. No vault is open on them.
func (b *Bench) On(data, keys string) *Bench {
	c := *b
	c.Vault = nil
	c.OwnerURL, c.KeysURL, c.Config.DataURL = OwnerURL(data), OwnerURL(keys), AppURL(data)
	if c.Config.KeystoreURL != "" {
		c.Config.KeystoreURL = AppURL(keys)
	}
	return &c
}

// Elsewhere opens a vault on a copy of all rows of the data database, which holds the keystore too, in a cluster that was made just
// now: what a dump leaves when it is restored.
func (b *Bench) Elsewhere() *Bench {
	b.t.Helper()
	return b.elsewhere("")
}

// Skewed is Elsewhere in a cluster whose clock is off by as much, e.g. +3650d. It takes Debian's package faketime.
func (b *Bench) Skewed(by string) *Bench {
	b.t.Helper()
	found, err := pgserver.Find()
	if err != nil {
		b.t.Fatal(err)
	}
	libraries, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(libraries) == 0 {
		b.t.Fatal("no libfaketime (Debian: apt-get install faketime): ", err)
	}
	dir, err := os.MkdirTemp("", "privault-faketime-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // the server runs as somebody else where the test is root
	}
	for program, env := range map[string]string{"initdb": "", "postgres": "LD_PRELOAD=" + libraries[0] + " FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME='" + by + "' "} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+env+"exec "+filepath.Join(found, program)+" \"$@\"\n"), 0o755)
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return b.elsewhere(dir)
}

func (b *Bench) elsewhere(binaries string) *Bench {
	b.t.Helper()
	ctx := context.Background()
	// Not t.TempDir: what is still open in it would fail the test.
	dir, err := os.MkdirTemp("", "privault-test-")
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := pgserver.Start(ctx, pgserver.Config{Dir: dir, Binaries: binaries, Settings: map[string]string{"fsync": "off", "shared_buffers": "32MB"}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = errors.Join(s.Stop(), os.RemoveAll(dir)) })
	const database = "elsewhere"
	owner := s.URL(database)
	err = furnish(ctx, s, database)
	if err == nil {
		err = migrations.Up(ctx, owner, owner)
	}
	if err == nil {
		err = copyRows(ctx, b.OwnerURL, owner)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	c := *b
	c.OwnerURL, c.KeysURL, c.Config.DataURL = owner, owner, asApp(owner)
	c.Vault = c.Replica()
	return &c
}

// copyRows replaces the rows of one migrated database by those of another.
func copyRows(ctx context.Context, from, to string) error {
	source, err := pgx.Connect(ctx, from)
	if err != nil {
		return err
	}
	defer source.Close(ctx)
	target, err := pgx.Connect(ctx, to)
	if err != nil {
		return err
	}
	defer target.Close(ctx)
	if _, err := target.Exec(ctx, `set session_replication_role = replica`); err != nil { // no triggers, no foreign keys
		return err
	}
	rows, err := source.Query(ctx, `
		select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and c.relkind in ('r', 'p') and not c.relispartition`)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		var data bytes.Buffer
		if _, err := source.PgConn().CopyTo(ctx, &data, "copy (table "+table+") to stdout"); err != nil {
			return err
		}
		if _, err := target.Exec(ctx, "delete from "+table); err != nil {
			return err
		}
		if _, err := target.PgConn().CopyFrom(ctx, &data, "copy "+table+" from stdin"); err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
	}
	return nil
}

// Now is the vault's clock.
func (b *Bench) Now() time.Time {
	now := time.Now()
	if stood := b.frozen.Load(); stood != nil {
		now = *stood
	}
	return now.Add(time.Duration(b.offset.Load()))
}

// Freeze stops the vault's clock: from now on only Advance moves it, however slow the machine is.
func (b *Bench) Freeze() {
	now := time.Now()
	b.frozen.Store(&now)
}

// Advance moves the vault's clock on.
func (b *Bench) Advance(d time.Duration) { b.offset.Add(int64(d)) }

// Key makes a tenant with a principal of these roles (the developer's, if none is given) and gives its API key.
func (b *Bench) Key(roles ...string) string {
	b.t.Helper()
	if len(roles) == 0 {
		roles = []string{policy.Developer}
	}
	issued, err := b.CreateTenant(context.Background(), "t-"+strings.ToLower(rand.Text()[:12]), roles, "")
	if err != nil {
		b.t.Fatal("create a tenant: ", err)
	}
	return issued.Key
}

// Tenant is Key as a caller.
func (b *Bench) Tenant(roles ...string) vault.Caller {
	b.t.Helper()
	who, err := b.Authenticate(context.Background(), b.Key(roles...))
	if err != nil {
		b.t.Fatal(err)
	}
	return who
}

// As is a caller of the same tenant with other roles.
func As(who vault.Caller, roles ...string) vault.Caller {
	who.Roles = roles
	return who
}

// Collection defines a collection of optional fields, each name with its type.
func (b *Bench) Collection(who vault.Caller, name string, fields map[string]string) {
	b.t.Helper()
	d := vault.Definition{Fields: map[string]vault.FieldDefinition{}}
	for field, typ := range fields {
		d.Fields[field] = vault.FieldDefinition{Type: typ}
	}
	if _, _, err := b.PutCollection(context.Background(), who, name, d, 0); err != nil {
		b.t.Fatal("define a collection: ", err)
	}
}

// Item is a record of string values.
func Item(fields map[string]string) vault.NewRecord {
	item := vault.NewRecord{Fields: map[string]vault.Secret{}}
	for name, text := range fields {
		item.Fields[name] = vault.NewSecret([]byte(`"` + text + `"`))
	}
	return item
}

// MustTokenize stores one record of string values and gives its id and tokens.
func (b *Bench) MustTokenize(who vault.Caller, collection string, fields map[string]string) vault.Tokenized {
	b.t.Helper()
	done, err := b.Tokenize(context.Background(), who, vault.Batch{Collection: collection, Items: []vault.NewRecord{Item(fields)}})
	if err != nil {
		b.t.Fatal("tokenize: ", err)
	}
	if done[0].Err != nil {
		b.t.Fatal("tokenize: ", done[0].Err)
	}
	return done[0]
}

// Reveal gives what a token stands for in view plain: the JSON value, or the kind of error.
func (b *Bench) Reveal(who vault.Caller, token string) string {
	b.t.Helper()
	return RevealOn(b.t, b.Vault, who, token)
}

// RevealOn is Reveal on a given replica.
func RevealOn(t testing.TB, v *vault.Vault, who vault.Caller, token string) string {
	t.Helper()
	done, err := v.Detokenize(context.Background(), who, []vault.TokenRef{{Token: token, View: "plain"}})
	if err != nil {
		return string(vault.AsError(err).Kind)
	}
	if done[0].Err != nil {
		return string(done[0].Err.Kind)
	}
	return string(done[0].Value.Reveal())
}

// Exec runs a statement behind the vault's back, as the owner of the data database.
func (b *Bench) Exec(statement string, args ...any) {
	b.t.Helper()
	ExecURL(b.t, b.OwnerURL, statement, args...)
}

// ExecURL runs a statement in a database.
func ExecURL(t testing.TB, url, statement string, args ...any) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, statement, args...); err != nil {
		t.Fatal(err)
	}
}

// Count runs a query that gives one number, as the owner of the data database.
func (b *Bench) Count(query string, args ...any) int {
	b.t.Helper()
	return CountURL(b.t, b.OwnerURL, query, args...)
}

// Texts runs a query of one text column in the data database, as its owner.
func (b *Bench) Texts(query string, args ...any) []string {
	b.t.Helper()
	return TextsURL(b.t, b.OwnerURL, query, args...)
}

// TextsURL is Texts in a database.
func TextsURL(t testing.TB, url, query string, args ...any) (texts []string) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, query, args...)
	if err == nil {
		texts, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// CountURL is Count in a database.
func CountURL(t testing.TB, url, query string, args ...any) int {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	var n int
	if err := c.QueryRow(ctx, query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Log keeps what was logged.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Logger writes JSON into the Log.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is everything logged so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Canaries are values that occur nowhere by chance, for looking for them where they must not be.
func Canaries(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "canary-" + rand.Text()
	}
	return out
}
