package vault

import (
	"bytes"
	"context"
	"encoding/binary"
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
	return v.endKey(ctx, who, name, version, "retired_at", func(t *txn, set *keysetRow, id uint32) (*keyset.Handle, error) {
		if why, err := v.needs(ctx, t, name, version, id); err != nil || why != "" {
			return nil, orConflict(err, "version %d of the key %s can't be retired: %s", version, name, why)
		}
		manager := keyset.NewManagerFromHandle(set.handle)
		if err := manager.Disable(id); err != nil {
			return nil, err
		}
		return manager.Handle()
	})
}

// DestroyKey puts an end to a retired version: the keyset keeps its place, and no key. Older copies of the keyset still hold the key: they
// open with the root key that sealed them, so it is gone for good when the root key is rotated too and the keystore's backups
// from before have expired.
func (v *Vault) DestroyKey(ctx context.Context, who Caller, name string, version int) error {
	return v.endKey(ctx, who, name, version, "destroyed_at", func(t *txn, set *keysetRow, id uint32) (*keyset.Handle, error) {
		if set.versions(nil)[version-1].State != stateRetired {
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

// endKey changes the state of one version of a keyset, alone: writes wait, and find the keyset as it is then.
func (v *Vault) endKey(ctx context.Context, who Caller, name string, version int, column string, change func(*txn, *keysetRow, uint32) (*keyset.Handle, error)) error {
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
		if _, err := t.data.Exec(ctx, `select pg_advisory_xact_lock($1)`, keysLock(who.Tenant)); err != nil {
			return err
		}
		sets, root, err := v.keyring.open(ctx, t.keys, keys)
		if err != nil {
			return err
		}
		defer clear(root)
		set := sets[name]
		if version < 1 || version > set.handle.Len() {
			return fail(NotFound, "")
		}
		key := set.versions(nil)[version-1]
		switch {
		case key.State == statePrimary:
			return fail(Conflict, "version %d of the key %s is in use; rotate it first", version, name)
		case key.State == stateDestroyed, key.State == stateRetired && column == "retired_at":
			return nil // as it was asked for already
		}
		handle, err := change(t, set, key.id)
		if err != nil {
			return err
		}
		box, err := sealKeyset(root, handle, keysetPlace(v.deployment, who.Tenant, name))
		if err != nil {
			return err
		}
		if err := t.replaceKeyset(ctx, name, box, set.version); err != nil {
			return err
		}
		_, err = t.keys.Exec(ctx, `
			insert into keystore.key_versions as k (tenant_id, name, key_id, version, created_at, `+column+`) values ($1, $2, $3, $4, $5, $6)
			on conflict (tenant_id, name, version) do update set `+column+` = excluded.`+column,
			who.Tenant, name, int64(key.id), version, set.created, t.now)
		return err
	})
}

func orConflict(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return fail(Conflict, format, args...)
}

// needs says what still needs a version of a keyset; empty: nothing.
func (v *Vault) needs(ctx context.Context, t *txn, name string, version int, id uint32) (why string, err error) {
	switch name {
	case "token":
		return "tokens that it made were handed out, and nobody can say whether they are still kept", nil
	case "pseudonym":
		return "persons who were erased, or have no record, are found under it until somebody names them again", nil
	case "credential":
		return v.needsCredentials(ctx, t, version)
	case "wrap":
		return t.needsWrap(ctx, id)
	}
	var settled bool
	err = t.keys.QueryRow(ctx, `
		select exists (select from keystore.key_versions where tenant_id = $1 and name = $2 and version > $3 and settled_at is not null)`,
		t.who.Tenant, name, version).Scan(&settled)
	if err == nil && !settled {
		return "the job that makes anew what it made has not finished; privault keys rotate starts it again", nil
	}
	if err != nil || name != "fpe" {
		return "", err
	}
	successor, err := v.successor(ctx, t, name, version)
	if err != nil {
		return "", err
	}
	var transforms int
	err = t.data.QueryRow(ctx, `
		select count(*) from privault.transforms where tenant_id = $1 and created_at < $2`, t.who.Tenant, successor).Scan(&transforms)
	if transforms > 0 {
		why = fmt.Sprintf("%d transforms are older than its successor, and what they encoded with it is decoded with it", transforms)
	}
	return why, err
}

// successor says when the version after one was known everywhere: what is made with a key, and stored nowhere, proves no generation.
func (v *Vault) successor(ctx context.Context, t *txn, name string, version int) (made time.Time, err error) {
	err = t.keys.QueryRow(ctx, `
		select created_at from keystore.key_versions where tenant_id = $1 and name = $2 and version = $3`, t.who.Tenant, name, version+1).Scan(&made)
	return made.Add(max(time.Hour, 2*v.keyring.ttl)), err
}

// needsWrap counts what is wrapped under a key.
func (t *txn) needsWrap(ctx context.Context, id uint32) (string, error) {
	prefix := binary.BigEndian.AppendUint32(nil, id)
	var deks, holds, answers int64
	err := t.keys.QueryRow(ctx, `
		select count(*) from keystore.data_keys where tenant_id = $1 and substring(wrapped from 1 for 1) = '\x01' and substring(wrapped from 2 for 4) = $2`,
		t.who.Tenant, prefix).Scan(&deks)
	if err != nil {
		return "", err
	}
	err = t.data.QueryRow(ctx, `
		select (select count(*) from privault.holds where tenant_id = $1 and substring(reference from 2 for 4) = $2),
			(select count(*) from privault.idempotency_keys where tenant_id = $1 and substring(answer from 2 for 4) = $2 and created_at > $3)`,
		t.who.Tenant, prefix, t.now.Add(-idempotencyLife)).Scan(&holds, &answers)
	if err != nil || deks+holds+answers == 0 {
		return "", err
	}
	return fmt.Sprintf("%d records, %d legal holds and %d answers to Idempotency-Keys are under it", deks, holds, answers), nil
}

// needsCredentials counts the API keys, of whatever tenant, that are as old as a key's successor, and may still be used.
func (v *Vault) needsCredentials(ctx context.Context, t *txn, version int) (string, error) {
	successor, err := v.successor(ctx, t, "credential", version)
	if err != nil {
		return "", err
	}
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return "", err
	}
	var n int64
	for _, tenant := range tenants {
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			var some int64
			err := tx.QueryRow(ctx, `
				select count(*) from privault.credentials
				where tenant_id = $1 and created_at < $2 and revoked_at is null and expires_at > $3`, tenant, successor, t.now).Scan(&some)
			n += some
			return err
		})
		if err != nil {
			return "", err
		}
	}
	if n > 0 {
		return fmt.Sprintf("%d API keys that were issued under it have not expired", n), nil
	}
	return "", nil
}
