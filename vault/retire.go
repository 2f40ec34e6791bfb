package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"google.golang.org/protobuf/proto"

	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/privault/privault/vault/policy"
)

// The end of a key's life. A version that nothing needs is retired: it makes and opens nothing any more. A retired one is
// destroyed. Both are refused, with the reason, while anything that it made is still needed; and as no write is
// admitted with older keys than those in force, nothing can come to need it afterwards.

// RetireKey takes an old version of a keyset out of use.
func (v *Vault) RetireKey(ctx context.Context, who Caller, name string, version int) error {
	var credentials string
	if name == "credential" && who.Tenant == deploymentTenant {
		// Before the transaction: it looks at every tenant.
		var err error
		if credentials, err = v.needsCredentials(ctx, version); err != nil {
			return v.refuseUnopened(ctx, who, policy.ManageKeys, err)
		}
	}
	return v.endKey(ctx, who, name, version, "retired_at", func(t *txn, set *keysetRow, key KeyVersion) (*keyset.Handle, error) {
		if key.State == stateRetired {
			return nil, nil // as it was asked for already
		}
		why, err := credentials, error(nil)
		if name != "credential" {
			why, err = t.needs(ctx, name, version, key.id)
		}
		if err == nil && why != "" {
			err = fail(Conflict, "version %d of the key %s can't be retired: %s", version, name, why)
		}
		if err != nil {
			return nil, err
		}
		manager := keyset.NewManagerFromHandle(set.handle)
		if err := manager.Disable(key.id); err != nil {
			return nil, err
		}
		return manager.Handle()
	})
}

// DestroyKey puts an end to a retired version: the keyset keeps its place, and no key. Older copies of the keyset still hold the
// key: they open with the root key that sealed them, so it is gone for good when the root key is rotated too and the keystore's
// backups from before have expired.
func (v *Vault) DestroyKey(ctx context.Context, who Caller, name string, version int) error {
	return v.endKey(ctx, who, name, version, "destroyed_at", func(_ *txn, set *keysetRow, key KeyVersion) (*keyset.Handle, error) {
		if key.State != stateRetired {
			return nil, fail(Conflict, "version %d of the key %s is not retired; retire it first", version, name)
		}
		other, err := keyset.NewHandle(keysetsOf(who.Tenant)[name]())
		if err != nil {
			return nil, err
		}
		keys := insecurecleartextkeyset.KeysetMaterial(set.handle)
		// Tink reads no key without data, so a random one that was never used stands in its place.
		keys.Key[version-1].KeyData = insecurecleartextkeyset.KeysetMaterial(other).Key[0].KeyData
		keys.Key[version-1].Status = tinkpb.KeyStatusType_DESTROYED
		clearText, err := proto.Marshal(keys)
		if err != nil {
			return nil, err
		}
		defer clear(clearText)
		return insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(clearText)))
	})
}

// endKey changes the state of one version of a keyset, which change makes of it; nil: it is so already. Writes go on meanwhile:
// since the version's successor is in force none is admitted that was prepared with it.
func (v *Vault) endKey(ctx context.Context, who Caller, name string, version int, column string, change func(*txn, *keysetRow, KeyVersion) (*keyset.Handle, error)) error {
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.current(ctx, who.Tenant)
	if err != nil {
		return v.refuseUnopened(ctx, who, policy.ManageKeys, err)
	}
	return v.within(ctx, who, policy.ManageKeys, func(t *txn) error {
		if err := t.requireKey(name); err != nil {
			return err
		}
		if name == rootName {
			return fail(Conflict, "older root keys are not kept: there is nothing to retire")
		}
		var key KeyVersion
		sets, err := v.changeKeyset(ctx, t, keys, name, func(set *keysetRow) (*keyset.Handle, error) {
			if version < 1 || version > set.handle.Len() {
				return nil, fail(NotFound, "")
			}
			switch key = set.versions(nil)[version-1]; key.State {
			case statePrimary:
				return nil, fail(Conflict, "version %d of the key %s is in use; rotate it first", version, name)
			case stateDestroyed:
				return nil, nil
			}
			return change(t, set, key)
		})
		if err != nil {
			return err
		}
		// One that is so already keeps the time.
		_, err = t.keys.Exec(ctx, `
			insert into keystore.key_versions as k (tenant_id, name, key_id, version, created_at, `+column+`) values ($1, $2, $3, $4, $5, $6)
			on conflict (tenant_id, name, version) do update set `+column+` = coalesce(k.`+column+`, excluded.`+column+`)`,
			who.Tenant, name, int64(key.id), version, sets[name].created, t.now)
		return err
	})
}

// needs says what still needs a version of a keyset; empty: nothing.
func (t *txn) needs(ctx context.Context, name string, version int, id uint32) (why string, err error) {
	switch name {
	case "token":
		return "tokens that it made were handed out, and nobody can say whether they are still kept", nil
	case "pseudonym":
		return "persons who were erased, or have no record, are found under it until somebody names them again", nil
	}
	var settled bool
	err = t.keys.QueryRow(ctx, `
		select exists (select from keystore.key_versions where tenant_id = $1 and name = $2 and version > $3 and settled_at is not null)`,
		t.who.Tenant, name, version).Scan(&settled)
	switch {
	case err != nil:
		return "", err
	case !settled:
		return "the job that makes anew what it made has not finished", nil
	case name == "wrap":
		return t.needsWrap(ctx, id)
	case name == "fpe":
		return t.needsFPE(ctx)
	}
	return "", nil
}

// needsFPE counts the transforms that encode: what they made names its key version, and nobody can say where it is kept.
func (t *txn) needsFPE(ctx context.Context) (string, error) {
	var transforms int
	err := t.data.QueryRow(ctx, `
		select count(*) from privault.transforms where tenant_id = $1 and coalesce(definition->>'type', '') = ''`, t.who.Tenant).Scan(&transforms)
	if err != nil || transforms == 0 {
		return "", err
	}
	return fmt.Sprintf("%d transforms may have encoded with it, and what they encoded is decoded with it", transforms), nil
}

// needsWrap counts the answers to Idempotency-Keys that are wrapped under a key. They aren't wrapped anew, and are gone after a day.
func (t *txn) needsWrap(ctx context.Context, id uint32) (string, error) {
	var answers int
	err := t.data.QueryRow(ctx, `
		select count(*) from privault.idempotency_keys where tenant_id = $1 and substring(answer from 2 for 4) = $2 and created_at > $3`,
		t.who.Tenant, binary.BigEndian.AppendUint32(nil, id), t.now.Add(-idempotencyLife)).Scan(&answers)
	if err != nil || answers == 0 {
		return "", err
	}
	return fmt.Sprintf("%d answers to Idempotency-Keys are under it, for a day at most", answers), nil
}

// needsCredentials counts the API keys, of whatever tenant, that are as old as a key's successor, and may still be used.
func (v *Vault) needsCredentials(ctx context.Context, version int) (string, error) {
	var successor time.Time
	err := v.store.keys.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			select created_at from keystore.key_versions where tenant_id = $1 and name = 'credential' and version = $2`, deploymentTenant, version+1).Scan(&successor)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil // it has none: it is in use
	}
	if err != nil {
		return "", err
	}
	// By then every replica knew the successor.
	successor, now := successor.Add(max(time.Hour, 2*v.keyring.ttl)), v.now()
	n, err := v.countEverywhere(ctx, `
		select count(*) from privault.credentials
		where tenant_id = $1 and created_at < $2 and revoked_at is null and expires_at > $3`, successor, now)
	if err != nil || n == 0 {
		return "", err
	}
	return fmt.Sprintf("%d API keys that were issued under it have not expired", n), nil
}
