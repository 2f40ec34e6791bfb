package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/policy"
)

// Caller is who asks. Authentication makes it; nothing else does.
type Caller struct {
	Tenant     ID
	Principal  ID
	Credential ID
	Roles      []string
	Attributes map[string][]string // of the principal, as the credential says: claims, device posture
	Network    netip.Addr          // the client's address
	Method     string              // how it proved who it is: MethodAPIKey and its like
	MTLS, DPoP bool                // that it holds the key that its certificate, or its token, is bound to
	Purpose    string              // what a read is for, as the caller says
	Request    string              // the request's id, for the audit entry

	Once *IdempotencyKey // under which a change is made once; nil: it has none

	// Budget, if any, is asked before the caller hears of values whether they are known; its error refuses the call.
	Budget func(context.Context, Named) error

	curbs    []curb         // responses to alarms that are in force
	masked   bool           // one of them shows nothing in clear
	networks []netip.Prefix // where the key may be used from; empty: anywhere
}

// Config is what a Vault needs. Databases and KMS are required; the rest has defaults.
type Config struct {
	DataURL     string  // Postgres URL of the data database, as a member of privault_app
	KeystoreURL string  // of the keystore's, as a member of privault_keystore; empty: the same as DataURL
	KMS         kms.Key // the deployment's: it wraps the root keys of all tenants that brought none along

	// OpenKMS opens the other KMS key that is wanted, by its canonical URI (kms.Canonical), and gives nil if the settings name
	// none. Nil: there is no other.
	OpenKMS func(ctx context.Context, wanted func(uri string) bool) (kms.Key, error)
	// KMSInFlight is how many calls for records' data keys (kms: direct) each KMS key gets at once; 0: 16.
	KMSInFlight int

	// KeystoreBackups is how long the keystore's backups are kept: so long after an erasure a backup could still open what was
	// erased, and the certificate says so. 0: 35 days, the longest that managed Postgres services keep by default.
	KeystoreBackups time.Duration

	PackageLife time.Duration // how long a package can be fetched after its request was verified, or approved; 0: 30 days

	KeyCacheTTL time.Duration // how long unwrapped tenant keysets are used; 0: 300 s
	KMSTimeout  time.Duration // of one KMS call; 0: 5 s
	RotateAfter time.Duration // how old a root key or a `wrap` key gets before it is rotated; 0: until somebody does
	// RotateAfterUses is how much a `wrap` key wraps before it is rotated; 0: however much.
	RotateAfterUses int64
	MaxConns        int32 // of each pool; 0: four for each core, and at least 16

	AuditKeys *audit.Keys // of the audit log; nil: this vault doesn't sequence it
	AuditCopy string      // file that keeps the log's newest checkpoint outside the database; empty: none

	// Ledger is the file outside the databases that says what a restored one must be told again; all replicas share it. Empty: there
	// is none. LostLedger lets a new one begin where the one that the databases know is lost.
	Ledger     string
	LostLedger bool
	// Restoring opens a vault for ReplayLedger: there is no fence, and the ledger is only read.
	Restoring bool

	Alarms AlarmRules // over the default ones

	SweepEvery time.Duration // how often what is due is swept; 0: when somebody asks
	SweepLanes int           // how many jobs a sweep has, which replicas work beside each other; 0: 2
	SweepShare float64       // of a collection, of which a sweep takes so much without a confirmation; 0: 0.05
	Clocks     Clocks        // by which requests of persons are answered

	Courier Courier // sends webhooks; the zero one: none are registered and sent here

	Now     func() time.Time      // 0: time.Now
	Log     *slog.Logger          // nil: slog.Default
	Metrics prometheus.Registerer // nil: not registered anywhere
}

// Vault is the domain's one object. It is safe for concurrent use.
type Vault struct {
	store           store
	deployment      ID
	keyring         *keyring
	collections     schemas
	credentials     lookups
	tenants         sync.Map // name → tenant ID
	laws            laws
	withFacts       sync.Map // tenants whose persons have facts to look at (fact.go)
	groups          sync.Map // tenant ID → *groups
	jobs            jobs
	rotateAfter     time.Duration
	rotateAfterUses int64
	alarms          AlarmRules
	courier         Courier
	watcher         watcher
	inFlight        sync.Map // tenant, principal, route and Idempotency-Key → struct{}{}
	audit           auditLog
	ledger          *ledger // nil: there is none
	fence           fence
	refusals        refusals
	sweeps          sweeps
	reveals         reveals
	now             func() time.Time

	keystoreBackups time.Duration
	packageLife     time.Duration
	clocks          Clocks

	log     *slog.Logger
	metrics *metrics
}

// Open connects to the databases and opens the deployment's keys, which proves that KMS and keystore work together.
// On a deployment's first start it makes those keys.
func Open(ctx context.Context, c Config) (*Vault, error) {
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // the default of Config's clock
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	v := &Vault{now: c.Now, log: c.Log, metrics: newMetrics(), rotateAfter: c.RotateAfter, rotateAfterUses: c.RotateAfterUses, alarms: c.Alarms, clocks: c.Clocks, courier: c.Courier}
	v.audit.keys = c.AuditKeys
	v.sweeps.every, v.sweeps.lanes, v.sweeps.share = c.SweepEvery, cmp.Or(c.SweepLanes, 2), cmp.Or(c.SweepShare, 0.05)
	if c.AuditCopy != "" {
		v.audit.copied = &safekeeping{c.AuditCopy}
	}
	apart := c.KeystoreURL != "" && c.KeystoreURL != c.DataURL
	inData := []string{dataSchema}
	if !apart {
		inData = append(inData, keysSchema)
	}
	data, err := connect(ctx, c.DataURL, c.MaxConns, func(ctx context.Context, c *pgx.Conn) error { return v.inspect(ctx, c, inData...) })
	if err != nil {
		return nil, fmt.Errorf("data database: %w", err)
	}
	v.store.data, v.store.keys = data, data
	if apart {
		v.store.keys, err = connect(ctx, c.KeystoreURL, c.MaxConns, func(ctx context.Context, c *pgx.Conn) error { return v.inspect(ctx, c, keysSchema) })
		if err != nil {
			data.pool.Close()
			return nil, fmt.Errorf("keystore database: %w", err)
		}
		v.store.apart = true
	}
	if err := v.start(ctx, c); err != nil {
		v.ledger.close()
		v.closePools()
		return nil, err
	}
	return v, nil
}

func (v *Vault) start(ctx context.Context, c Config) error {
	var err error
	if v.deployment, err = v.store.data.deployment(ctx); err != nil {
		return err
	}
	v.keyring = &keyring{
		store: &v.store, deployment: v.deployment, now: v.now, metrics: v.metrics,
		keks: keks{standard: newKEK(c.KMS, c.KMSInFlight), inFlight: c.KMSInFlight, open: c.OpenKMS, now: v.now,
			opened: map[kekID]*kek{}, absent: map[kekID]time.Time{}},
		held: map[ID]holding{}, shut: map[ID]shut{},
		ttl: orDefault(c.KeyCacheTTL, 300*time.Second), timeout: orDefault(c.KMSTimeout, 5*time.Second),
	}
	v.keystoreBackups = orDefault(c.KeystoreBackups, 35*24*time.Hour)
	v.packageLife = orDefault(c.PackageLife, 30*24*time.Hour)
	v.collections.init()
	v.credentials.init()
	if err := v.ensureDeploymentKeys(ctx); err != nil {
		return err
	}
	if err := v.jobs.init(v); err != nil {
		return fmt.Errorf("the job queue: %w", err)
	}
	if c.Metrics != nil {
		if err := v.metrics.register(c.Metrics, v.store, v.now); err != nil {
			return err
		}
	}
	if err := v.openLedger(ctx, c); err != nil {
		return err
	}
	v.fence.guards.Store(v.ledger != nil && !c.Restoring)
	return nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// connect opens a pool, which asks inspect before it uses a new connection.
func connect(ctx context.Context, url string, maxConns int32, inspect func(context.Context, *pgx.Conn) error) (database, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// pgx's own text may quote the URL, password included.
		return database{}, errors.New("the URL is not a Postgres connection URL")
	}
	config.MaxConns = int32(max(16, 4*runtime.GOMAXPROCS(0)))
	if maxConns > 0 {
		config.MaxConns = maxConns
	}
	config.MinIdleConns = 2
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		registerColumns(c.TypeMap())
		if inspect == nil {
			return nil
		}
		return inspect(ctx, c)
	}
	for name, value := range map[string]string{
		"application_name":  "privault",
		"statement_timeout": "10s",
		"lock_timeout":      "5s",
		// A client that died inside a transaction must not hold its locks.
		"idle_in_transaction_session_timeout": "30s",
		"timezone":                            "UTC",
		// The statements are few and find their rows by primary key, whatever their arrays hold: planning them anew each
		// time costs more than running them.
		"plan_cache_mode": "force_generic_plan",
		"jit":             "off", // likewise
		// A plan that was made while a table had a page or two must not read it whole once it has thousands.
		"enable_seqscan": "off",
	} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return database{}, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return database{}, err
	}
	return database{pool}, nil
}

// Close finishes what was accepted and releases the databases.
func (v *Vault) Close() {
	// Whoever started jobs has stopped them, with a time limit; this is for who forgot.
	if err := v.StopJobs(context.Background()); err != nil {
		v.log.Error("stop working jobs", "error", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), tripLimit)
	defer cancel()
	if err := v.NoteRefusals(ctx); err != nil {
		v.log.Error("the entries of refused calls are not written", "error", err)
	}
	v.closeGroups()
	if v.ledger != nil && v.fence.opened.Load() {
		// What this process has committed, the next one needn't wonder about.
		if err := v.WatchLedger(ctx); err != nil {
			v.log.WarnContext(ctx, "the ledger is not up to date", "error", err)
		}
	}
	v.ledger.close()
	v.closePools()
}

func (v *Vault) closePools() {
	v.store.data.pool.Close()
	if v.store.apart {
		v.store.keys.pool.Close()
	}
}

// Ready says whether the vault can serve: both databases answer, the deployment's keys are at hand, and the audit log goes on.
func (v *Vault) Ready(ctx context.Context) error {
	if err := v.Fenced(); err != nil {
		return err
	}
	if halted := v.audit.halted.Load(); halted != nil {
		return halted
	}
	if err := v.store.data.pool.Ping(ctx); err != nil {
		return &Error{Kind: DatabaseUnavailable, cause: err}
	}
	if err := v.store.keys.pool.Ping(ctx); err != nil {
		return &Error{Kind: DatabaseUnavailable, cause: err}
	}
	_, err := v.keyring.of(ctx, deploymentTenant)
	return err
}

// Faults says what about the databases is unfit for production.
func (v *Vault) Faults(ctx context.Context) (f Faults, err error) {
	if err := v.store.data.faults(ctx, "privault", &f); err != nil {
		return f, err
	}
	err = v.store.keys.faults(ctx, "keystore", &f)
	if !v.store.apart {
		f.Durability = slices.Compact(f.Durability) // one server: said once
	}
	return f, err
}

// txn is one operation's transaction, on both databases.
type txn struct {
	data  pgx.Tx
	keys  pgx.Tx // the same as data where the keystore is in the same database
	who   Caller
	now   time.Time
	entry *entry
	jobs  *jobs

	shredLater []recordVersion
	lines      []*ledgerLine // for the ledger
	last       pgx.Batch     // what is written with the entry, in one round trip: nothing else of the operation reads it
	repeatable bool          // what it does changes nothing outside the transaction: the victim of a deadlock is run again
}

type recordVersion struct {
	record  ID
	version int32
}

// within runs one operation: do, its decisions and its audit entry in one transaction. It commits if do gives nil;
// otherwise nothing of it stays but an entry that says how it failed.
//
// With a keystore of its own there are two transactions. The keystore's commits first, so a crash between the two
// leaves at most a DEK that nothing is sealed under, or, of a delete, a record that is shredded already and answers like
// an unknown one. Neither loses what was acknowledged; such DEKs are swept (orphan.go).
//
// An operation whose keys turn out to be older than those in force is run again with newer ones, and one that is repeatable if it
// was the victim of a deadlock.
func (v *Vault) within(ctx context.Context, who Caller, action policy.Action, do func(*txn) error) error {
	if who.Once != nil {
		release, once, err := v.once(ctx, who, do)
		if err != nil {
			return v.refuseUnopened(ctx, who, action, err)
		}
		defer release()
		do = once
	}
	t, err := v.try(ctx, who, action, do)
	for attempt := 0; attempt < maxAttempts; attempt++ {
		var late *behind
		if errors.As(err, &late) {
			if _, err = v.keyring.atLeast(late.have, late.generation); err != nil {
				break
			}
		} else if t == nil || !t.repeatable || !deadlocked(err) {
			break
		}
		t, err = v.try(ctx, who, action, do)
	}
	switch {
	case err == nil:
		if v.ledger != nil && len(t.lines) > 0 { // it has a lock, under which files are waited for
			v.ledger.committed(t.lines)
		}
		v.watcher.see(t.entry) // of one that failed, refuse has its entry committed, which sees it
		return v.shredApart(ctx, t)
	case t == nil:
		return err
	}
	return v.refuse(ctx, t.entry, err)
}

// try runs an operation once, with an entry of its own; without one there is no txn either.
func (v *Vault) try(ctx context.Context, who Caller, action policy.Action, do func(*txn) error) (*txn, error) {
	e, err := v.open(who, action)
	if err != nil {
		return nil, err
	}
	// As Postgres will have it: what an answer says now must be what is read later.
	t := &txn{who: who, now: v.now().Truncate(time.Microsecond), entry: e, jobs: &v.jobs}
	return t, v.store.data.within(ctx, who.Tenant, func(tx pgx.Tx) error {
		t.data, t.keys = tx, tx
		if !v.store.apart {
			return v.conclude(ctx, t, do)
		}
		return v.store.keys.within(ctx, who.Tenant, func(tx pgx.Tx) error {
			t.keys = tx
			return v.conclude(ctx, t, do)
		})
	})
}

// undone does work of which only what it found out stays: whatever it stored is taken back, and the entry says that
// it was tried.
func (t *txn) undone(ctx context.Context, do func() error) error {
	data, keys, named, touched, lines := t.data, t.keys, len(t.entry.Resources), len(t.entry.touched), len(t.lines)
	last := len(t.last.QueuedQueries)
	savepoint, err := data.Begin(ctx)
	if err != nil {
		return err
	}
	t.data, t.keys = savepoint, savepoint
	if keys != data {
		if t.keys, err = keys.Begin(ctx); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if keys != data {
		err = t.keys.Rollback(ctx)
	}
	err = errors.Join(err, savepoint.Rollback(ctx))
	t.data, t.keys, t.shredLater = data, keys, nil
	t.entry.touched, t.lines, t.last.QueuedQueries = t.entry.touched[:touched], t.lines[:lines], t.last.QueuedQueries[:last]
	for i := range t.entry.Resources[named:] {
		r := &t.entry.Resources[named+i]
		r.Version, r.Sealed, r.Outcome = 0, nil, outcomeTried
	}
	return err
}

// conclude does the work and writes its entry.
func (v *Vault) conclude(ctx context.Context, t *txn, do func(*txn) error) error {
	if err := do(t); err != nil {
		return err
	}
	if t.entry.Rule == "" && t.entry.Outcome == outcomeOK {
		return errors.New("an operation finished without a decision")
	}
	if !v.store.apart {
		if err := shred(ctx, t.keys, t.who.Tenant, t.shredLater); err != nil {
			return err
		}
	}
	if err := insertEntry(ctx, t.data, &t.last, t.entry); err != nil {
		return err
	}
	if err := t.insertDisclosures(ctx); err != nil {
		return err
	}
	return v.writeAhead(ctx, t)
}

// shredApart deletes the DEKs that an operation replaced, once its record points at the new ones. If it doesn't come to
// that, they are orphans: nothing in the data database is sealed under them any more.
func (v *Vault) shredApart(ctx context.Context, t *txn) error {
	if !v.store.apart || len(t.shredLater) == 0 {
		return nil
	}
	// The record points at its new key: that the caller has gone away must not keep the old one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tripLimit)
	defer cancel()
	err := v.store.keys.within(ctx, t.who.Tenant, func(tx pgx.Tx) error {
		return shred(ctx, tx, t.who.Tenant, t.shredLater)
	})
	if err != nil {
		v.log.WarnContext(ctx, "replaced data keys are still there", "count", len(t.shredLater), "error", err)
	}
	return nil
}

// shred deletes DEKs. Without its DEK a record is noise, on every replica and in every copy of the data database.
func shred(ctx context.Context, tx pgx.Tx, tenant ID, keys []recordVersion) error {
	for _, k := range keys {
		_, err := tx.Exec(ctx, `
			delete from keystore.data_keys where tenant_id = $1 and record_id = $2 and version = $3`,
			tenant, k.record, k.version)
		if err != nil {
			return err
		}
	}
	return nil
}

// refuse leaves the entry of an operation that failed, and gives its error. If the entry can't be written either, that
// is what the caller hears.
func (v *Vault) refuse(ctx context.Context, e *entry, err error) error {
	e.close(err)
	if left := v.commit(context.WithoutCancel(ctx), &change{entry: e}); left != nil {
		v.log.ErrorContext(ctx, "no audit entry for a failed operation", "request_id", e.Request, "action", e.Action, "problem", e.Problem, "error", left)
		err = left
	}
	told := *AsError(err)
	told.entered = true
	return &told
}
