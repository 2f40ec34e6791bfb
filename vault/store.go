package vault

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/google/uuid"
)

// database is one Postgres database. Operations reach it through the gate; besides, what keeps the service itself going reads
// and writes it: keys, authentication, the sequencer and jobs.
type database struct{ pool *pgxpool.Pool }

// store is where everything is: the data database and the keystore, which may be the same.
type store struct {
	data, keys database
	apart      bool // the keystore is a database of its own
}

// setTenant says which tenant the current transaction works for; row-level security shows it nothing else.
const setTenant = `select set_config('privault.tenant', $1, true)`

func tenantSetting(tenant ID) string { return uuid.UUID(tenant).String() }

func actAs(ctx context.Context, tx pgx.Tx, tenant ID) error {
	_, err := tx.Exec(ctx, setTenant, tenantSetting(tenant))
	return err
}

// deployment reads the deployment's id.
func (d database) deployment(ctx context.Context) (id ID, err error) {
	if err = d.pool.QueryRow(ctx, `select deployment_id from privault.deployment`).Scan(&id); err != nil {
		err = fmt.Errorf("read the deployment's id (has `privault migrate up` run?): %w", err)
	}
	return id, err
}

// within runs do in a transaction for one tenant and commits it, unless do fails.
func (d database) within(ctx context.Context, tenant ID, do func(pgx.Tx) error) error {
	// One round trip for both. The id is one of ours, and its text has no quote in it.
	begin := pgx.TxOptions{BeginQuery: "begin; set local privault.tenant = '" + tenantSetting(tenant) + "'"}
	return pgx.BeginTxFunc(ctx, d.pool, begin, do)
}

// alone runs do on a connection of its own that holds an advisory lock, unless somebody else holds it.
func (d database) alone(ctx context.Context, lock int64, do func(*pgxpool.Conn) error) error {
	c, err := d.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	var got bool
	if err := c.QueryRow(ctx, `select pg_try_advisory_lock($1)`, lock).Scan(&got); err != nil || !got {
		return err
	}
	err = do(c)
	if _, failed := c.Exec(context.WithoutCancel(ctx), `select pg_advisory_unlock($1)`, lock); failed != nil {
		_ = c.Conn().Close(context.WithoutCancel(ctx)) // the lock ends with the connection
	}
	return err
}

// pipeline sends statements for one tenant in one round trip and one transaction, which commits unless one of them
// fails: a batch without begin is an implicit transaction that ends at its Sync message.
func (d database) pipeline(ctx context.Context, tenant ID, b *pgx.Batch) error {
	all := &pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 1+len(b.QueuedQueries))}
	all.Queue(setTenant, tenantSetting(tenant))
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	return d.pool.SendBatch(ctx, all).Close()
}

// asPresented runs do in a transaction that may see the one credential with that digest, of whichever tenant.
func (d database) asPresented(ctx context.Context, digest []byte, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `select set_config('privault.presented', $1, true)`, hex.EncodeToString(digest))
		if err != nil {
			return err
		}
		return do(tx)
	})
}

// Faults is what makes a database unfit for production, a sentence each.
type Faults struct {
	Roles      []string // a role that row-level security or privileges don't bind
	Durability []string // a server that may lose what it acknowledged
}

func (d database) faults(ctx context.Context, schema string, f *Faults) error {
	var role, fsync, pages, commit string
	var super, bypass, owner bool
	err := d.pool.QueryRow(ctx, `
		select current_user, rolsuper, rolbypassrls, current_setting('fsync'), current_setting('full_page_writes'),
			current_setting('synchronous_commit'),
			exists (select from pg_tables where schemaname = $1 and pg_has_role(current_user, tableowner, 'member'))
		from pg_roles where rolname = current_user`, schema).Scan(&role, &super, &bypass, &fsync, &pages, &commit, &owner)
	if err != nil {
		return fmt.Errorf("look at the database role: %w", err)
	}
	if super || bypass || owner {
		f.Roles = append(f.Roles, fmt.Sprintf("the database role %q is superuser=%t, bypassrls=%t, owner of schema %s=%t: "+
			"row-level security would not bind it; connect as a member of privault_app or privault_keystore (privault migrate roles)",
			role, super, bypass, schema, owner))
	}
	if fsync != "on" || pages != "on" || commit == "off" {
		f.Durability = append(f.Durability, fmt.Sprintf("the Postgres server runs with fsync=%s, full_page_writes=%s and synchronous_commit=%s: "+
			"it may lose what was acknowledged", fsync, pages, commit))
	}
	return nil
}
