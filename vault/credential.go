package vault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"github.com/privault/privault/vault/base62"
	"github.com/privault/privault/vault/policy"
)

// An API key is `pvak_`, the base62 text of 160 random bits, and the base62 text of the CRC-32 (IEEE) of what stands
// before it. The check sum is for typing errors and secret scanners: a key that fails it is refused without a look at
// the database.
const (
	apiKeyPrefix = "pvak_"
	apiKeyBytes  = 20
	apiKeySumLen = 4
	keyPurpose   = "api-key"
)

const (
	defaultKeyLife = 90 * 24 * time.Hour
	maxKeyLife     = 366 * 24 * time.Hour
	// A development server goes on with its key for as long as its data lies there.
	developerKeyLife = 10 * 365 * 24 * time.Hour
	// CredentialTTL bounds how long a revoked credential still works on a replica that didn't revoke it.
	CredentialTTL = 5 * time.Second
)

// How callers prove who they are.
const (
	MethodAPIKey = "api-key"
	MethodJWT    = "jwt"
	MethodMTLS   = "mtls"
)

// Rotation: the key that is replaced goes on for a while.
const (
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 7 * 24 * time.Hour
	maxNetworks    = 64
)

func newAPIKey() string {
	raw := make([]byte, apiKeyBytes)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	key := apiKeyPrefix + base62.Encode(raw)
	return key + base62.Encode(apiKeySum(key))
}

func apiKeySum(key string) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(key)))
}

func wellFormedKey(key string) bool {
	at := len(key) - base62.Len(apiKeySumLen)
	if len(key) != len(apiKeyPrefix)+base62.Len(apiKeyBytes)+base62.Len(apiKeySumLen) || !strings.HasPrefix(key, apiKeyPrefix) {
		return false
	}
	raw := make([]byte, apiKeyBytes)
	return base62.Decode(raw, key[len(apiKeyPrefix):at]) == nil && base62.Encode(apiKeySum(key[:at])) == key[at:]
}

// lookups holds who an API key stands for, for CredentialTTL: by the key's SHA-256, which in memory needs no key of its
// own and costs a tenth of the stored digest.
type lookups struct {
	flights singleflight.Group
	mu      sync.Mutex
	held    map[[sha256.Size]byte]lookup
	used    map[tenantCredential]time.Time // since the last NoteLastUsed
}

type tenantCredential struct{ tenant, credential ID }

type lookup struct {
	caller  Caller
	expires time.Time // of the credential
	until   time.Time // this may be used
}

// maxLookups bounds the memory of lookups; past it, all are forgotten and asked for again.
const maxLookups = 50_000

func (l *lookups) init() {
	l.held = map[[sha256.Size]byte]lookup{}
	l.used = map[tenantCredential]time.Time{}
}

func (l *lookups) get(key [sha256.Size]byte, now time.Time) (Caller, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, have := l.held[key]
	return h.caller, have && now.Before(h.until) && now.Before(h.expires)
}

func (l *lookups) put(key [sha256.Size]byte, h lookup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) >= maxLookups {
		clear(l.held)
	}
	l.held[key] = h
	// A key in use is looked up every CredentialTTL: noting it then costs the calls in between nothing.
	l.used[tenantCredential{h.caller.Tenant, h.caller.Credential}] = h.until.Add(-CredentialTTL)
}

func (l *lookups) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.held)
}

var errUnauthenticated = &Error{Kind: Unauthenticated, Detail: "send a valid credential"}

// Authenticate gives the caller that an API key stands for. Unknown, expired and revoked keys are refused alike.
func (v *Vault) Authenticate(ctx context.Context, key string) (Caller, error) {
	if !wellFormedKey(key) {
		return Caller{}, errUnauthenticated
	}
	known := sha256.Sum256([]byte(key))
	if caller, have := v.credentials.get(known, v.now()); have {
		return caller, nil
	}
	found, err, _ := v.credentials.flights.Do(string(known[:]), func() (any, error) {
		return v.lookUp(context.WithoutCancel(ctx), key, known)
	})
	if err != nil {
		return Caller{}, AsError(err)
	}
	return found.(Caller), nil
}

func (v *Vault) lookUp(ctx context.Context, key string, known [sha256.Size]byte) (c Caller, err error) {
	ctx, cancel := context.WithTimeout(ctx, tripLimit) // the flight is everybody's who waits for it
	defer cancel()
	keys, err := v.keyring.of(ctx, deploymentTenant)
	if err != nil {
		return c, err
	}
	c, err = v.lookUpWith(ctx, keys, key, known)
	if !errors.Is(err, errUnauthenticated) {
		return c, err
	}
	// It may have been issued under a key that came since.
	newer, failed := v.keyring.inForce(ctx, deploymentTenant)
	if failed != nil || newer.generation == keys.generation {
		return c, errors.Join(failed, err)
	}
	return v.lookUpWith(ctx, newer, key, known)
}

// lookUpWith looks an API key up by its digests under every key, one after the other: there is one, but after a rotation.
func (v *Vault) lookUpWith(ctx context.Context, keys *tenantKeys, key string, known [sha256.Size]byte) (c Caller, err error) {
	sums, err := allDigests(keys.credential, textOf(keyPurpose, key))
	if err != nil {
		return c, err
	}
	for _, sum := range sums {
		if c, err = v.presented(ctx, sum, known); !errors.Is(err, errUnauthenticated) {
			return c, err
		}
	}
	return c, err
}

// presented gives the caller whose API key has a digest.
func (v *Vault) presented(ctx context.Context, sum []byte, known [sha256.Size]byte) (c Caller, err error) {
	var expires time.Time
	var revoked, disabled *time.Time
	err = v.store.data.asPresented(ctx, sum, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select tenant_id, principal_id, credential_id, expires_at, revoked_at, networks from privault.credentials where digest = $1`,
			sum).Scan(&c.Tenant, &c.Principal, &c.Credential, &expires, &revoked, &c.networks)
		if err != nil {
			return err
		}
		if err := actAs(ctx, tx, c.Tenant); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			select roles, disabled_at from privault.principals where tenant_id = $1 and principal_id = $2`,
			c.Tenant, c.Principal).Scan(&c.Roles, &disabled)
		if err != nil {
			return err
		}
		c.curbs, err = curbsOf(ctx, tx, c.Tenant, c.Principal, v.now())
		return err
	})
	c.Method = MethodAPIKey
	now := v.now()
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Caller{}, errUnauthenticated
	case err != nil:
		return Caller{}, err
	case revoked != nil:
		return Caller{}, v.refuseKey(c, "key-revoked")
	case disabled != nil:
		return Caller{}, v.refuseKey(c, "principal-disabled")
	case !now.Before(expires):
		return Caller{}, v.refuseKey(c, "key-expired")
	}
	v.credentials.put(known, lookup{c, expires, now.Add(CredentialTTL)})
	return c, nil
}

// At is the caller calling from an address. A key that may not be used from there, or that an alarm has suspended, is
// refused like an unknown one, and the entry says why: its owner reads that, and a thief doesn't.
func (v *Vault) At(ctx context.Context, who Caller, from netip.Addr) (Caller, error) {
	who.Network = from.Unmap().WithZone("")
	response, masked := who.curbed(v.now())
	who.masked = masked
	rule := "key-networks"
	if response != "" {
		rule = ruleOf(response)
	} else if len(who.networks) == 0 || slices.ContainsFunc(who.networks, func(p netip.Prefix) bool { return p.Contains(who.Network) }) {
		return who, nil
	}
	e, err := v.open(who, policy.UseKey)
	if err != nil {
		return Caller{}, err
	}
	e.Rule, e.Network = rule, who.Network.String()
	return Caller{}, v.refuse(ctx, e, errUnauthenticated)
}

// IssueKey gives a principal a new API key. A principal may have several; the one that a new key replaces goes on for the
// overlap, so that services can be moved over one by one.
func (v *Vault) IssueKey(ctx context.Context, who Caller, principalID string, terms KeyTerms) (Issued, error) {
	var issued Issued
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.of(ctx, deploymentTenant)
	if err != nil {
		return issued, v.refuseUnopened(ctx, who, policy.ManagePrincipals, err)
	}
	err = v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		principal, err := t.principal(ctx, principalID)
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ManagePrincipals); err != nil {
			return err
		}
		until := t.now.Add(defaultKeyLife)
		if terms.Expires != nil {
			until = *microseconds(terms.Expires)
		}
		if !until.After(t.now) || until.After(t.now.Add(maxKeyLife)) {
			return invalid("/expires_at", "range", "a key expires in the future, at most 366 days from now")
		}
		if len(terms.Networks) > maxNetworks {
			return invalid("/networks", "size", "a key has at most 64 networks")
		}
		if err := t.replace(ctx, principal, terms); err != nil {
			return err
		}
		issued, err = t.issue(ctx, keys, principal, until, terms.Networks)
		return err
	})
	if err == nil && terms.Replaces != "" {
		v.credentials.forget()
	}
	return issued, err
}

func (t *txn) issue(ctx context.Context, deployment *tenantKeys, principal ID, expires time.Time, networks []netip.Prefix) (Issued, error) {
	id, err := newID()
	if err != nil {
		return Issued{}, err
	}
	key := newAPIKey()
	sum, err := digest(deployment.credential, keyPurpose, key)
	if err != nil {
		return Issued{}, err
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.credentials (tenant_id, credential_id, principal_id, digest, created_at, expires_at, networks)
		values ($1, $2, $3, $4, $5, $6, coalesce($7, '{}'::cidr[]))`, t.who.Tenant, id, principal, sum, t.now, expires, networks)
	issued := Issued{Principal: formatID(principalPrefix, principal), ID: formatID(credentialPrefix, id), Key: key, Expires: expires.UTC()}
	t.entry.Resources = append(t.entry.Resources, resource{Principal: issued.Principal, Credential: issued.ID})
	return issued, err
}

// RevokeKey ends an API key: for calls that begin afterwards here, within CredentialTTL on every other replica.
func (v *Vault) RevokeKey(ctx context.Context, who Caller, principalID, keyID string) error {
	err := v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		principal, knownPrincipal := parseID(principalPrefix, principalID)
		credential, knownKey := parseID(credentialPrefix, keyID)
		if !knownPrincipal || !knownKey {
			return fail(NotFound, "")
		}
		err := t.data.QueryRow(ctx, `
			select credential_id from privault.credentials
			where tenant_id = $1 and principal_id = $2 and credential_id = $3 for update`,
			who.Tenant, principal, credential).Scan(&credential)
		if errors.Is(err, pgx.ErrNoRows) {
			return fail(NotFound, "")
		}
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ManagePrincipals); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Principal: principalID, Credential: keyID}}
		_, err = t.data.Exec(ctx, `
			update privault.credentials set revoked_at = coalesce(revoked_at, $4)
			where tenant_id = $1 and principal_id = $2 and credential_id = $3`, who.Tenant, principal, credential, t.now)
		return err
	})
	if err == nil {
		v.credentials.forget()
	}
	return err
}
