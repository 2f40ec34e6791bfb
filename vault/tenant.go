package vault

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

var nameOfPrincipal = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// Issued is a new API key. Key is shown this once; the vault keeps a keyed digest of it.
type Issued struct {
	Tenant    string // only from CreateTenant
	Principal string
	ID        string
	Key       string
	Expires   time.Time
}

// operator is who acts on the machine itself: the deployment, by nobody's credential. Its decisions are made by being
// there, so they carry a rule of their own.
func (t *txn) operator() { t.entry.Rule = "operator" }

// countEverywhere adds up what a query counts in the data database for each tenant, which is its $1.
func (v *Vault) countEverywhere(ctx context.Context, query string, args ...any) (sum int64, err error) {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return 0, err
	}
	for _, tenant := range tenants {
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			var n int64
			err := tx.QueryRow(ctx, query, append([]any{tenant}, args...)...).Scan(&n)
			sum += n
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// ensureDeploymentKeys opens the deployment's own keys, and makes them on the first start of all.
func (v *Vault) ensureDeploymentKeys(ctx context.Context) error {
	_, err := v.keyring.of(ctx, deploymentTenant)
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	if len(tenants) > 0 {
		return errors.New("the keystore has no keys of this deployment, which has tenants: is the keystore's URL the right one?")
	}
	keys, err := v.keyring.create(ctx, deploymentTenant, v.keyring.keks.standard)
	if err != nil {
		return err
	}
	err = v.store.keys.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return keys.insert(ctx, tx, deploymentTenant, v.now())
	})
	if err != nil && !violates(err, "tenant_roots_pkey") { // another replica was quicker
		return err
	}
	_, err = v.keyring.of(ctx, deploymentTenant)
	return err
}

// Tenants are the ids of all tenants, for sweeps.
func (v *Vault) Tenants(ctx context.Context) (ids []ID, err error) {
	err = v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `select tenant_id from privault.tenants order by tenant_id`)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[ID])
		return err
	})
	return ids, err
}

// CreateTenant makes a tenant with its keys and a first principal of the given roles, and gives that principal's first
// API key. Its root key is wrapped by the KMS key of kmsURI, which the settings must name; empty: by the deployment's. It is for
// the operator on the machine itself; no route leads here.
func (v *Vault) CreateTenant(ctx context.Context, name string, roles []string, kmsURI string) (Issued, error) {
	if !nameOfPrincipal.MatchString(name) {
		return Issued{}, fail(Invalid, "a tenant's name is a lower-case letter, then up to 62 of a-z 0-9 _ -")
	}
	tenant, err := newID()
	if err != nil {
		return Issued{}, err
	}
	// Before the transaction: a slow KMS must not hold a connection.
	kek, err := v.keyring.chosen(ctx, kmsURI)
	if err != nil {
		return Issued{}, AsError(err)
	}
	keys, err := v.keyring.create(ctx, tenant, kek)
	if err != nil {
		return Issued{}, AsError(err)
	}
	deployment, err := v.keyring.of(ctx, deploymentTenant)
	if err != nil {
		return Issued{}, AsError(err)
	}
	var issued Issued
	err = v.within(ctx, Caller{Tenant: tenant}, policy.CreateTenant, func(t *txn) error {
		t.operator()
		_, err := t.data.Exec(ctx, `insert into privault.tenants (tenant_id, name, created_at) values ($1, $2, $3)`, tenant, name, t.now)
		if violates(err, "tenants_name_key") {
			return fail(Conflict, "a tenant of that name exists")
		}
		if err != nil {
			return err
		}
		if err := keys.insert(ctx, t.keys, tenant, t.now); err != nil {
			return err
		}
		principal, err := t.insertPrincipal(ctx, "admin", roles)
		if err != nil {
			return err
		}
		life := defaultKeyLife
		if slices.Contains(roles, policy.Developer) {
			life = developerKeyLife
		}
		issued, err = t.issue(ctx, deployment, principal, t.now.Add(life), nil)
		return err
	})
	issued.Tenant = name
	return issued, err
}

// CreatePrincipal makes a principal with roles and gives its id.
func (v *Vault) CreatePrincipal(ctx context.Context, who Caller, name string, roles []string) (string, error) {
	var text string
	err := v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		if err := t.entry.require(policy.ManagePrincipals); err != nil {
			return err
		}
		if !nameOfPrincipal.MatchString(name) {
			return invalid("/name", "name", "a principal's name is a lower-case letter, then up to 62 of a-z 0-9 _ -")
		}
		if len(roles) == 0 {
			return invalid("/roles", "min-items", "a principal needs at least one role")
		}
		for _, role := range roles {
			if known := t.entry.law.policies.Roles(); !slices.Contains(known, role) {
				return invalid("/roles", "role", "the roles are "+list(known))
			}
		}
		principal, err := t.insertPrincipal(ctx, name, roles)
		text = formatID(principalPrefix, principal)
		return err
	})
	return text, err
}

func (t *txn) insertPrincipal(ctx context.Context, name string, roles []string) (ID, error) {
	id, err := newID()
	if err != nil {
		return id, err
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.principals (tenant_id, principal_id, name, roles, created_at) values ($1, $2, $3, $4, $5)`,
		t.who.Tenant, id, name, roles, t.now)
	if violates(err, "principals_name") {
		return id, fail(Conflict, "a principal of that name exists")
	}
	t.entry.Resources = append(t.entry.Resources, resource{Principal: formatID(principalPrefix, id)})
	return id, err
}
