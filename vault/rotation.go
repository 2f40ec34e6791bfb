package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/seal"
)

// Rotation. A keyset gets a new key, which is primary at once; what the old ones made goes on opening. Other replicas notice when they
// meet something made under a key that they don't know (late.go), or, where they would only not find it, by the tenant's
// generation (generation.go): then they read the keyset again and open it with the root key that they hold, which asks the
// database, as the read at hand does anyway, and not the KMS. Making the key primary only once every replica must have it
// would need a bound on all their cache lives, and twice that long to wait.

// remaking are the jobs that make anew what the old keys of a keyset made. What has no line needs none: keysets are sealed
// under a new root key in the same transaction; tokens that were handed out, and API keys, go on under the keys that they
// were made with.
var remaking = map[string]string{
	"wrap": "rewrap-wrap", "index": redigestJob, "alias": redigestJob, "fpe": redigestJob, "pseudonym": redigestJob,
}

const rootName = "root"

// Rotation is what RotateKey did.
type Rotation struct {
	Name    string
	Version int
	Job     string // that brings what exists under the new key; empty: nothing has to be
}

// RotateKey gives a tenant's keyset a new primary key, or the tenant a new root key. What the old keys made goes on opening.
// Of two rotations of the same keyset at once, one is told Conflict.
func (v *Vault) RotateKey(ctx context.Context, who Caller, name string) (done Rotation, err error) {
	return v.rotate(ctx, who, name, nil)
}

// rotate is RotateKey; to is the KMS key that is to wrap a new root key, if not the one that wraps the present one.
func (v *Vault) rotate(ctx context.Context, who Caller, name string, to *kek) (done Rotation, err error) {
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.current(ctx, who.Tenant)
	var fresh *freshRoot
	if err == nil && name == rootName {
		fresh, err = v.keyring.newRoot(ctx, who.Tenant, cmp.Or(to, keys.kek))
	}
	if err != nil {
		return done, v.refuseUnopened(ctx, who, policy.ManageKeys, err)
	}
	err = v.within(ctx, who, policy.ManageKeys, func(t *txn) error {
		if err := t.requireKey(name); err != nil {
			return err
		}
		if fresh != nil {
			done, err = v.rotateRoot(ctx, t, keys, fresh)
		} else {
			done, err = v.rotateKeyset(ctx, t, keys, name)
		}
		return err
	})
	if err == nil {
		v.keyring.forget(who.Tenant)
	}
	return done, err
}

// requireKey decides on a change of one key.
func (t *txn) requireKey(name string) error {
	if _, have := keysetsOf(t.who.Tenant)[name]; !have && name != rootName {
		return fail(NotFound, "")
	}
	if err := t.entry.require(policy.ManageKeys); err != nil {
		return err
	}
	t.entry.Resources = append(t.entry.Resources, resource{Key: name})
	return nil
}

// rotateKeyset adds a key to a keyset and makes it primary.
func (v *Vault) rotateKeyset(ctx context.Context, t *txn, keys *tenantKeys, name string) (Rotation, error) {
	done := Rotation{Name: name}
	var id uint32
	sets, err := v.changeKeyset(ctx, t, keys, name, func(set *keysetRow) (handle *keyset.Handle, err error) {
		manager := keyset.NewManagerFromHandle(set.handle)
		if id, err = manager.Add(keysetsOf(t.who.Tenant)[name]()); err != nil {
			return nil, err
		}
		if err := manager.SetPrimary(id); err != nil {
			return nil, err
		}
		done.Version = set.handle.Len() + 1
		return manager.Handle()
	})
	if err != nil {
		return Rotation{}, err
	}
	if err := t.insertKeyVersion(ctx, name, id, done.Version); err != nil {
		return done, err
	}
	if job := remaking[name]; job != "" {
		if done.Job, err = t.enqueue(ctx, job, keysetParams{name}); err != nil {
			return done, err
		}
	}
	return done, raiseGeneration(ctx, t.data, t.who.Tenant, 1+generationOf(versionsOf(sets)))
}

// changeKeyset puts what a change makes of a keyset in its place, unless it gives nil, and gives all keysets as they were.
func (v *Vault) changeKeyset(ctx context.Context, t *txn, keys *tenantKeys, name string, change func(*keysetRow) (*keyset.Handle, error)) (map[string]*keysetRow, error) {
	sets, root, err := v.keyring.open(ctx, t.keys, keys)
	if err != nil {
		return nil, err
	}
	defer clear(root)
	handle, err := change(sets[name])
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", name, err)
	}
	if handle == nil {
		return sets, nil
	}
	box, err := sealKeyset(root, handle, keysetPlace(v.deployment, t.who.Tenant, name))
	if err != nil {
		return nil, err
	}
	return sets, t.replaceKeyset(ctx, name, box, sets[name].version)
}

// versionsOf are the newest version of each keyset.
func versionsOf(sets map[string]*keysetRow) map[string]int {
	versions := map[string]int{}
	for name, set := range sets {
		versions[name] = set.handle.Len()
	}
	return versions
}

// rotateRoot seals the keysets anew, under a root key that the KMS has just wrapped.
func (v *Vault) rotateRoot(ctx context.Context, t *txn, keys *tenantKeys, fresh *freshRoot) (Rotation, error) {
	defer clear(fresh.key)
	sets, root, err := v.keyring.open(ctx, t.keys, keys)
	if err != nil {
		return Rotation{}, err
	}
	defer clear(root)
	var version int
	if err := t.keys.QueryRow(ctx, `
		select 1 + coalesce(max(version), 1) from keystore.key_versions where tenant_id = $1 and name = $2`, t.who.Tenant, rootName).Scan(&version); err != nil {
		return Rotation{}, err
	}
	changed, err := t.keys.Exec(ctx, `
		update keystore.tenant_roots set wrapped = $2, kms_uri = $4 where tenant_id = $1 and wrapped = $3`,
		t.who.Tenant, fresh.wrapped, fresh.replaces.wrapped, fresh.uri)
	if err != nil {
		return Rotation{}, err
	}
	if changed.RowsAffected() == 0 {
		return Rotation{}, errRotated
	}
	for _, name := range sortedKeys(sets) {
		box, err := sealKeyset(fresh.key, sets[name].handle, keysetPlace(v.deployment, t.who.Tenant, name))
		if err != nil {
			return Rotation{}, err
		}
		if err := t.replaceKeyset(ctx, name, box, sets[name].version); err != nil {
			return Rotation{}, err
		}
	}
	t.entry.Resources[len(t.entry.Resources)-1].KMS = kms.Name(fresh.uri)
	if err := t.insertKeyVersion(ctx, rootName, 0, version); err != nil {
		return Rotation{}, err
	}
	job, err := t.rewrapsDirect(ctx, fresh.uri != fresh.replaces.uri)
	return Rotation{Name: rootName, Version: version, Job: job}, err
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

var errRotated = &Error{Kind: Conflict, Detail: "the key is being rotated by somebody else", RetryAfter: time.Second}

// replaceKeyset puts a keyset in the place of the one that was read: the row's version says whether it is that still.
func (t *txn) replaceKeyset(ctx context.Context, name string, box []byte, version int32) error {
	changed, err := t.keys.Exec(ctx, `
		update keystore.tenant_keys set sealed = $3, version = version + 1
		where tenant_id = $1 and name = $2 and version = $4`, t.who.Tenant, name, box, version)
	if err == nil && changed.RowsAffected() == 0 {
		return errRotated
	}
	return err
}

func (t *txn) insertKeyVersion(ctx context.Context, name string, id uint32, version int) error {
	_, err := t.keys.Exec(ctx, `
		insert into keystore.key_versions (tenant_id, name, key_id, version, created_at) values ($1, $2, $3, $4, $5)`,
		t.who.Tenant, name, int64(id), version, t.now)
	if violates(err, "key_versions_pkey") {
		return errRotated
	}
	return err
}

// freshRoot is a new root key, wrapped by the KMS, and what it is to replace.
type freshRoot struct {
	wrappedRoot
	key      []byte
	replaces wrappedRoot
}

// newRoot makes a root key for a tenant under a KMS key, which it calls: so no transaction may be open.
func (r *keyring) newRoot(ctx context.Context, tenant ID, k *kek) (*freshRoot, error) {
	replaces, _, err := r.read(ctx, tenant)
	if err != nil {
		return nil, err
	}
	f := &freshRoot{key: make([]byte, seal.KeySize), replaces: replaces}
	_, _ = rand.Read(f.key) // never fails (crypto/rand)
	if f.wrappedRoot, err = r.wrap(ctx, k, tenant, f.key); err == nil {
		err = r.prove(ctx, k, tenant, f.wrappedRoot, f.key)
	}
	return f, err
}

// open reads a tenant's keysets and opens them with the root key that is held with keys.
func (r *keyring) open(ctx context.Context, tx pgx.Tx, keys *tenantKeys) (map[string]*keysetRow, []byte, error) {
	//nolint:rowserrcheck // ForEachRow does
	rows, err := tx.Query(ctx, `
		select name, sealed, version, created_at from keystore.tenant_keys where tenant_id = $1`, keys.tenant)
	if err != nil {
		return nil, nil, err
	}
	sealed := map[string]sealedKeyset{}
	var name string
	var row sealedKeyset
	_, err = pgx.ForEachRow(rows, []any{&name, &row.box, &row.version, &row.created}, func() error {
		row.box = slices.Clone(row.box)
		sealed[name] = row
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	root := slices.Clone(keys.root)
	sets := map[string]*keysetRow{}
	for name, row := range sealed {
		handle, err := openKeyset(root, row.box, keysetPlace(r.deployment, keys.tenant, name))
		if err != nil {
			// Most likely sealed under a newer root key than the one that is held. Asked again, it is fetched.
			r.forget(keys.tenant)
			return nil, nil, errRotated
		}
		sets[name] = &keysetRow{row, handle}
	}
	return sets, root, nil
}

// forget makes the next caller fetch a tenant's keys. They are still there if the KMS is down then.
func (r *keyring) forget(tenant ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h, have := r.held[tenant]; have {
		h.fetched = h.fetched.Add(-r.ttl)
		r.held[tenant] = h
	}
}

// rotatesItself says whether a key is rotated when it is old: one that costs its users nothing.
func rotatesItself(name string) bool { return name == rootName || name == "wrap" }

// rotateDue rotates the keys of every tenant that are older than they may be, or have wrapped more. That those of one can't be is
// no reason to leave the others' alone: his KMS key may be away.
func (v *Vault) rotateDue(ctx context.Context) error {
	if v.rotateAfter == 0 && v.rotateAfterUses == 0 {
		return nil
	}
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, tenant := range tenants {
		failed = append(failed, v.rotateDueOf(ctx, Caller{Tenant: tenant, Roles: []string{operatorRole}}))
	}
	return errors.Join(failed...)
}

func (v *Vault) rotateDueOf(ctx context.Context, who Caller) error {
	worn, err := v.worn(ctx, who.Tenant)
	if err == nil && worn {
		_, err = v.RotateKey(ctx, who, "wrap")
	}
	if err != nil && AsError(err).Kind != Conflict || v.rotateAfter == 0 {
		return err
	}
	keys, err := v.Keys(ctx, who)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.NextRotation == nil || k.NextRotation.After(v.now()) {
			continue
		}
		if _, err := v.RotateKey(ctx, who, k.Name); err != nil && AsError(err).Kind != Conflict {
			return err
		}
	}
	return nil
}

// operatorRole is the built-in role of who runs keys.
const operatorRole = "operator"

// DeploymentOperator is the caller that stands for whoever works on the machine itself, for the deployment's own keys.
func DeploymentOperator() Caller {
	return Caller{Tenant: deploymentTenant, Roles: []string{operatorRole}}
}

// Operator is the caller that stands for whoever works on the machine itself, for one tenant, with the role that runs keys.
func (v *Vault) Operator(ctx context.Context, tenant string) (who Caller, err error) {
	err = v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select tenant_id from privault.tenants where name = $1`, tenant).Scan(&who.Tenant)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return who, fail(NotFound, "there is no tenant of that name")
	}
	who.Roles = []string{operatorRole}
	return who, err
}
