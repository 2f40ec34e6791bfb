package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/policy"
)

// Moving a root key to another KMS key. It is a rotation: a new root key, wrapped by the other KMS key, takes over in one
// transaction, and the KMS key that wrapped the old one is needed no more. Only who runs the service moves keys; no route leads here.

// chosen gives the KMS key that an operator names by its URI; empty: the deployment's. It may call the KMS.
func (r *keyring) chosen(ctx context.Context, uri string) (*kek, error) {
	if uri == "" {
		return r.keks.standard, nil
	}
	canonical, err := kms.Canonical(uri)
	if err != nil {
		return nil, &Error{Kind: Invalid, Detail: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	k, err := r.keks.named(ctx, kekIDOf(canonical))
	if errors.Is(err, errNotNamed) {
		return nil, fail(Invalid, "the settings don't name that KMS key: put it into the file of KMS keys of every server first")
	}
	return k, err
}

// MoveRoot puts a tenant's keys under another KMS key, which the settings must name. Moved is false if they are under it already.
func (v *Vault) MoveRoot(ctx context.Context, who Caller, uri string) (done Rotation, moved bool, err error) {
	to, err := v.keyring.chosen(ctx, uri)
	var root wrappedRoot
	if err == nil {
		root, _, err = v.keyring.read(ctx, who.Tenant)
	}
	if err != nil {
		return done, false, v.refuseUnopened(ctx, who, policy.ManageKeys, err)
	}
	if root.uri == to.URI() {
		return done, false, nil
	}
	done, err = v.rotate(ctx, who, rootName, to)
	return done, err == nil, err
}

// MoveRoots puts everything that the deployment's own KMS key holds under another one: all tenants that brought none along,
// and then the deployment's own keys, by which it is told what is left to do if it is broken off. It tells of each that it moved.
func (v *Vault) MoveRoots(ctx context.Context, uri string, moved func(who Caller, done Rotation)) error {
	own, _, err := v.keyring.read(ctx, deploymentTenant)
	if err != nil {
		return AsError(err)
	}
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return AsError(err)
	}
	move := func(tenant ID) error {
		who := Caller{Tenant: tenant, Roles: []string{operatorRole}}
		done, did, err := v.MoveRoot(ctx, who, uri)
		if did {
			moved(who, done)
		}
		return err
	}
	var failed []error
	for _, tenant := range tenants {
		root, _, err := v.keyring.read(ctx, tenant)
		if err == nil && root.uri == own.uri {
			err = move(tenant)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("tenant %s: %w", tenantSetting(tenant), err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	return move(deploymentTenant)
}
