package vault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
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
	// credentialTTL bounds how long a revoked key still works on a replica that didn't revoke it.
	credentialTTL = 5 * time.Second
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

// lookups holds who an API key stands for, for credentialTTL: by the key's SHA-256, which in memory needs no key of its
// own and costs a tenth of the stored digest.
type lookups struct {
	flights singleflight.Group
	mu      sync.Mutex
	held    map[[sha256.Size]byte]lookup
}

type lookup struct {
	caller  Caller
	expires time.Time // of the credential
	until   time.Time // this may be used
}

// maxLookups bounds the memory of lookups; past it, all are forgotten and asked for again.
const maxLookups = 50_000

func (l *lookups) init() { l.held = map[[sha256.Size]byte]lookup{} }

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
}

func (l *lookups) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.held)
}

var errUnauthenticated = &Error{Kind: Unauthenticated, Detail: "send a valid API key as Authorization: Bearer"}

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
	sum, err := digest(keys.credential, keyPurpose, key)
	if err != nil {
		return c, err
	}
	var expires time.Time
	var revoked *time.Time
	err = v.store.data.asPresented(ctx, sum, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select tenant_id, principal_id, credential_id, expires_at, revoked_at from privault.credentials where digest = $1`,
			sum).Scan(&c.Tenant, &c.Principal, &c.Credential, &expires, &revoked)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, setTenant, tenantSetting(c.Tenant)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			select roles from privault.principals where tenant_id = $1 and principal_id = $2`,
			c.Tenant, c.Principal).Scan(&c.Roles)
	})
	now := v.now()
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && (revoked != nil || !now.Before(expires)):
		return Caller{}, errUnauthenticated
	case err != nil:
		return Caller{}, err
	}
	c.Method = MethodAPIKey
	v.credentials.put(known, lookup{c, expires, now.Add(credentialTTL)})
	return c, nil
}

// IssueKey gives a principal a new API key, for 90 days unless expires says otherwise.
func (v *Vault) IssueKey(ctx context.Context, who Caller, principalID string, expires *time.Time) (Issued, error) {
	var issued Issued
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.of(ctx, deploymentTenant)
	if err != nil {
		return issued, v.refuseUnopened(ctx, who, policy.ManagePrincipals, err)
	}
	err = v.within(ctx, who, policy.ManagePrincipals, func(t *txn) error {
		principal, ok := parseID(principalPrefix, principalID)
		if !ok {
			return fail(NotFound, "")
		}
		err := t.data.QueryRow(ctx, `
			select principal_id from privault.principals where tenant_id = $1 and principal_id = $2`,
			who.Tenant, principal).Scan(&principal)
		if errors.Is(err, pgx.ErrNoRows) {
			return fail(NotFound, "")
		}
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.ManagePrincipals, policy.NoView); err != nil {
			return err
		}
		until := t.now.Add(defaultKeyLife)
		if expires != nil {
			until = *microseconds(expires)
		}
		if !until.After(t.now) || until.After(t.now.Add(maxKeyLife)) {
			return invalid("/expires_at", "range", "a key expires in the future, at most 366 days from now")
		}
		issued, err = t.issue(ctx, keys, principal, until)
		return err
	})
	return issued, err
}

func (t *txn) issue(ctx context.Context, deployment *tenantKeys, principal ID, expires time.Time) (Issued, error) {
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
		insert into privault.credentials (tenant_id, credential_id, principal_id, digest, created_at, expires_at)
		values ($1, $2, $3, $4, $5, $6)`, t.who.Tenant, id, principal, sum, t.now, expires)
	issued := Issued{Principal: formatID(principalPrefix, principal), ID: formatID(credentialPrefix, id), Key: key, Expires: expires.UTC()}
	t.entry.Resources = append(t.entry.Resources, resource{Principal: issued.Principal, Credential: issued.ID})
	return issued, err
}

// RevokeKey ends an API key: for calls that begin afterwards here, within credentialTTL on every other replica.
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
		if err := t.entry.require(policy.ManagePrincipals, policy.NoView); err != nil {
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
