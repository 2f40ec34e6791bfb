package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Outsider is whom an outside authority, an issuer of access tokens or a CA, vouches for.
type Outsider struct {
	Tenant     string // by name
	Authority  string
	Subject    string // what the authority calls the principal
	Credential string // what the authority calls the credential: a token's jti, a certificate's fingerprint
	Roles      []string
	Attributes map[string][]string
	Method     string // MethodJWT or MethodMTLS
}

// principal is an outsider's id. It is computed, so that every replica and every auditor comes to the same one, and differs
// from tenant to tenant, so that two tenants can't tell that they know the same person.
func (o Outsider) principal(tenant ID) ID {
	return derivedID("privault/1/outsider", string(tenant[:]), o.Authority, o.Subject)
}

func derivedID(parts ...string) (id ID) {
	sum := digestOf(parts...)
	copy(id[:], sum[:])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // a UUIDv8
	return id
}

// digestOf hashes parts so that no two lists of parts give the same text.
func digestOf(parts ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range parts {
		sum := sha256.Sum256([]byte(part))
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func revocationDigest(authority, credential string) []byte {
	sum := digestOf("privault/1/revoked", authority, credential)
	return sum[:]
}

// Admit gives the Caller that an outsider is here. A disabled principal and a revoked credential are refused like an
// unknown one. Whom a tenant sees for the first time gets a row among its principals, for the auditor to look up; the
// roles in it are none, because they come with each credential.
//
// The answer may be used for CredentialTTL, and no longer.
func (v *Vault) Admit(ctx context.Context, o Outsider) (Caller, error) {
	if slices.Contains(o.Roles, policy.Developer) {
		return Caller{}, errUnauthenticated // whatever an authority was configured to say
	}
	tenant, err := v.tenantNamed(ctx, o.Tenant)
	if err != nil {
		return Caller{}, AsError(err)
	}
	c := Caller{
		Tenant: tenant, Principal: o.principal(tenant), Credential: derivedID("privault/1/credential", o.Authority, o.Credential),
		Roles: o.Roles, Attributes: o.Attributes, Method: o.Method,
	}
	known, refused := false, false
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select exists (select from privault.principals where tenant_id = $1 and principal_id = $2),
				exists (select from privault.principals where tenant_id = $1 and principal_id = $2 and disabled_at is not null)
				or exists (select from privault.revoked_tokens where tenant_id = $1 and digest = $3)`,
			tenant, c.Principal, revocationDigest(o.Authority, o.Credential)).Scan(&known, &refused)
		if err != nil {
			return err
		}
		c.curbs, err = curbsOf(ctx, tx, tenant, c.Principal, v.now())
		return err
	})
	switch {
	case err != nil:
		return Caller{}, AsError(err)
	case refused:
		return Caller{}, v.refuseKey(c, "revoked-or-disabled")
	case !known:
		return c, v.introduce(ctx, c, o)
	}
	return c, nil
}

// introduce notes an outsider's names.
func (v *Vault) introduce(ctx context.Context, c Caller, o Outsider) error {
	return v.within(ctx, c, policy.IntroducePrincipal, func(t *txn) error {
		t.entry.Rule = "issuer" // who configured the authority has decided
		t.entry.Resources = []resource{{Principal: formatID(principalPrefix, c.Principal)}}
		_, err := t.data.Exec(ctx, `
			insert into privault.principals (tenant_id, principal_id, name, roles, created_at, authority, subject)
			values ($1, $2, $3, '{}', $4, $5, $6) on conflict do nothing`,
			c.Tenant, c.Principal, "ext-"+hex.EncodeToString(c.Principal[:]), t.now, o.Authority, o.Subject)
		return err
	})
}

// tenantNamed finds a tenant. Tenants are never renamed or deleted, so one that was found is remembered.
func (v *Vault) tenantNamed(ctx context.Context, name string) (ID, error) {
	if id, have := v.tenants.Load(name); have {
		return id.(ID), nil
	}
	var id ID
	err := v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select tenant_id from privault.tenants where name = $1`, name).Scan(&id)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		v.log.WarnContext(ctx, "an issuer's configuration names a tenant that does not exist")
		return id, errUnauthenticated
	}
	if err == nil {
		v.tenants.Store(name, id)
	}
	return id, err
}

// RevokeToken ends an access token or a client certificate by what its authority calls it, before its own time: for
// calls that begin CredentialTTL later. It is kept until expires, which must not lie before the credential's own end.
func (v *Vault) RevokeToken(ctx context.Context, who Caller, authority, credential string, expires *time.Time) error {
	return v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		if err := t.entry.require(policy.ManagePrincipals); err != nil {
			return err
		}
		switch {
		case authority == "" || len(authority) > 255:
			return invalid("/issuer", "length", "issuer is 1 to 255 bytes long")
		case credential == "" || len(credential) > 255:
			return invalid("/token", "length", "token is the token's jti or the certificate's fingerprint, 1 to 255 bytes")
		}
		until := t.now.Add(maxTokenLife)
		if expires != nil {
			until = *microseconds(expires)
		}
		if !until.After(t.now) || until.After(t.now.Add(maxKeyLife)) {
			return invalid("/expires_at", "range", "a revocation ends in the future, at most 366 days from now")
		}
		t.entry.Resources = []resource{{Credential: formatID(credentialPrefix, derivedID("privault/1/credential", authority, credential))}}
		_, err := t.data.Exec(ctx, `
			insert into privault.revoked_tokens as r (tenant_id, digest, revoked_at, expires_at) values ($1, $2, $3, $4)
			on conflict (tenant_id, digest) do update set expires_at = greatest(r.expires_at, excluded.expires_at)`,
			who.Tenant, revocationDigest(authority, credential), t.now, until)
		return err
	})
}

// maxTokenLife is the most that an issuer's tokens may be configured to live, and somewhat more.
const maxTokenLife = 25 * time.Hour

// SweepRevocations deletes up to batch revocations of one tenant that have outlived their tokens, and gives how many.
func (v *Vault) SweepRevocations(ctx context.Context, tenant ID, batch int) (deleted int, err error) {
	return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
		done, err := t.data.Exec(ctx, `
			delete from privault.revoked_tokens where tenant_id = $1 and digest in (
				select digest from privault.revoked_tokens where tenant_id = $1 and expires_at <= $2
				limit $3 for update skip locked)`, tenant, t.now, batch)
		return done.RowsAffected(), err
	})
}
