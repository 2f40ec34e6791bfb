package vault

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Principal is who may call: one of the tenant's own, or one that an outside authority vouches for.
type Principal struct {
	ID        string
	Name      string
	Roles     []string // of an outsider none: they come with each credential
	Authority string   // of an outsider: the issuer or "x509"
	Subject   string   // of an outsider: what the authority calls it
	Created   time.Time
	Disabled  *time.Time
}

// KeyTerms are what a new API key is issued under.
type KeyTerms struct {
	Expires  *time.Time     // nil: in 90 days
	Networks []netip.Prefix // where it may be used from; empty: anywhere
	Replaces string         // id of a key of the same principal, which ends after Overlap
	Overlap  *time.Duration // nil: 24 hours
}

// Key is an API key as its tenant's administrators see it: all but the key.
type Key struct {
	ID       string
	Created  time.Time
	Expires  time.Time
	Revoked  *time.Time
	LastUsed *time.Time
	Networks []netip.Prefix
}

// ListPrincipals reads up to limit principals in the order of their names, from cursor on; the next cursor is empty at
// the end.
func (v *Vault) ListPrincipals(ctx context.Context, who Caller, cursor string, limit int) (page []Principal, next string, err error) {
	err = v.readList(ctx, who, policy.ManagePrincipals, "principals", cursor, func(t *txn, keys *tenantKeys, after string) error {
		rows, err := t.data.Query(ctx, `
			select principal_id, name, roles, coalesce(authority, ''), coalesce(subject, ''), created_at, disabled_at
			from privault.principals where tenant_id = $1 and name > $2 order by name limit $3`, who.Tenant, after, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanPrincipal, "principals", limit, func(p Principal) string { return p.Name })
		return err
	})
	return page, next, err
}

func scanPrincipal(row pgx.CollectableRow) (p Principal, err error) {
	var id ID
	err = row.Scan(&id, &p.Name, &p.Roles, &p.Authority, &p.Subject, &p.Created, &p.Disabled)
	p.ID = formatID(principalPrefix, id)
	return p, err
}

// DisablePrincipal refuses all credentials of a principal, or takes them again: for calls that begin afterwards here,
// within CredentialTTL on every other replica. Nobody disables itself: whoever can do it alone could not undo it.
func (v *Vault) DisablePrincipal(ctx context.Context, who Caller, principalID string, disabled bool) (p Principal, err error) {
	err = v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		principal, err := t.principal(ctx, principalID)
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ManagePrincipals); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Principal: principalID}}
		if disabled && principal == who.Principal {
			return fail(Conflict, "a principal can't disable itself")
		}
		rows, err := t.data.Query(ctx, `
			update privault.principals set disabled_at = case when $3 then coalesce(disabled_at, $4) end
			where tenant_id = $1 and principal_id = $2
			returning principal_id, name, roles, coalesce(authority, ''), coalesce(subject, ''), created_at, disabled_at`,
			who.Tenant, principal, disabled, t.now)
		if err != nil {
			return err
		}
		p, err = pgx.CollectExactlyOneRow(rows, scanPrincipal)
		return err
	})
	if err == nil {
		v.credentials.forget()
	}
	return p, err
}

// principal finds a principal of the caller's tenant.
func (t *txn) principal(ctx context.Context, text string) (id ID, err error) {
	id, ok := parseID(principalPrefix, text)
	if !ok {
		return id, fail(NotFound, "")
	}
	err = t.data.QueryRow(ctx, `
		select principal_id from privault.principals where tenant_id = $1 and principal_id = $2`, t.who.Tenant, id).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return id, fail(NotFound, "")
	}
	return id, err
}

// replace lets the replaced key end after the overlap, unless it ends before by itself.
func (t *txn) replace(ctx context.Context, principal ID, terms KeyTerms) error {
	if terms.Replaces == "" {
		if terms.Overlap != nil {
			return invalid("/overlap_seconds", "replaces", "an overlap needs a key to replace")
		}
		return nil
	}
	overlap := defaultOverlap
	if terms.Overlap != nil {
		overlap = *terms.Overlap
	}
	if overlap < 0 || overlap > maxOverlap {
		return invalid("/overlap_seconds", "range", "an overlap is 0 seconds to 7 days")
	}
	credential, ok := parseID(credentialPrefix, terms.Replaces)
	if !ok {
		return invalid("/replaces", "key", "this principal has no such key")
	}
	done, err := t.data.Exec(ctx, `
		update privault.credentials set expires_at = least(expires_at, $4)
		where tenant_id = $1 and principal_id = $2 and credential_id = $3`, t.who.Tenant, principal, credential, t.now.Add(overlap))
	if err == nil && done.RowsAffected() == 0 {
		return invalid("/replaces", "key", "this principal has no such key")
	}
	t.entry.Resources = append(t.entry.Resources, resource{Credential: terms.Replaces})
	return err
}

// ListKeys gives all API keys that a principal has or had, newest first.
func (v *Vault) ListKeys(ctx context.Context, who Caller, principalID string) (all []Key, err error) {
	err = v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		principal, err := t.principal(ctx, principalID)
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ManagePrincipals); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Principal: principalID}}
		rows, err := t.data.Query(ctx, `
			select credential_id, created_at, expires_at, revoked_at, last_used_at, networks from privault.credentials
			where tenant_id = $1 and principal_id = $2 order by created_at desc, credential_id`, who.Tenant, principal)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k Key, err error) {
			var id ID
			err = row.Scan(&id, &k.Created, &k.Expires, &k.Revoked, &k.LastUsed, &k.Networks)
			k.ID = formatID(credentialPrefix, id)
			return k, err
		})
		return err
	})
	return all, err
}

// NoteLastUsed writes down when keys were last used, one statement for each tenant that used any since the last call.
// It is bookkeeping of the vault's own, called about once a minute, and leaves no entry.
func (v *Vault) NoteLastUsed(ctx context.Context) error {
	v.credentials.mu.Lock()
	used := v.credentials.used
	v.credentials.used = map[tenantCredential]time.Time{}
	v.credentials.mu.Unlock()
	credentials, times := map[ID][]ID{}, map[ID][]time.Time{}
	for k, at := range used {
		credentials[k.tenant] = append(credentials[k.tenant], k.credential)
		times[k.tenant] = append(times[k.tenant], at.UTC().Truncate(time.Minute))
	}
	var failed error
	for tenant, ids := range credentials {
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				update privault.credentials c set last_used_at = greatest(c.last_used_at, u.at)
				from unnest($2::uuid[], $3::timestamptz[]) as u(credential_id, at)
				where c.tenant_id = $1 and c.credential_id = u.credential_id and c.last_used_at is distinct from u.at`, tenant, ids, times[tenant])
			return err
		})
		failed = errors.Join(failed, err)
	}
	return failed
}
