package vault

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/keyset"

	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/policy"
)

// KeyInfo is a line of the inventory of a tenant's keys.
type KeyInfo struct {
	Name, Purpose, Algorithm string
	KMS                      string // of the root key: the name of the KMS key that wraps it (kms.Name)
	Version                  int    // of the primary
	Created                  time.Time
	Uses                     *int64     // of the primary: how much is wrapped under it, where that can be counted
	NextRotation             *time.Time // nil: not by itself
	Versions                 []KeyVersion
}

// KeyVersion is one key of a keyset.
type KeyVersion struct {
	Version int
	State   string // primary, active, retired or destroyed
	Created time.Time
	Uses    *int64

	id uint32
}

// purposes are what a tenant's keys are for, in the order of the inventory.
var purposes = []struct{ name, purpose, algorithm string }{
	{rootName, "seals the tenant's keysets; wrapped by the key management system", "AES-256-GCM"},
	{"wrap", "wraps the data-encryption key of each record", "XAES-256-GCM"},
	{"token", "makes and reads pointer tokens", "AES-SIV"},
	{"pseudonym", "digests of subject references and idempotency keys", "HMAC-SHA-256"},
	{"index", "digests of values, for search", "HMAC-SHA-256"},
	{"alias", "digests of aliases", "HMAC-SHA-256"},
	{"fpe", "derives the keys of format-preserving encryption", "HMAC-SHA-256"},
	{"credential", "digests of API keys; the deployment's only", "HMAC-SHA-256"},
}

// sealedKeyset is a row of tenant_keys.
type sealedKeyset struct {
	box     []byte
	version int32
	created time.Time
}

// Keys is the inventory of the caller's tenant.
func (v *Vault) Keys(ctx context.Context, who Caller) (all []KeyInfo, err error) {
	// Before the transaction: a slow KMS must not hold a connection.
	keys, err := v.keyring.current(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.ReadKeys, err)
	}
	err = v.within(ctx, who, policy.ReadKeys, func(t *txn) error {
		if err := t.entry.require(policy.ReadKeys); err != nil {
			return err
		}
		if all, err = v.inventory(ctx, t.keys, keys); err != nil {
			return err
		}
		t.entry.Items = len(all)
		return nil
	})
	return all, err
}

func (v *Vault) inventory(ctx context.Context, tx pgx.Tx, keys *tenantKeys) ([]KeyInfo, error) {
	sets, root, err := v.keyring.open(ctx, tx, keys)
	if err != nil {
		return nil, err
	}
	defer clear(root)
	made, err := creationTimes(ctx, tx, keys.tenant)
	if err != nil {
		return nil, err
	}
	uses, err := wrapUses(ctx, tx, keys.tenant)
	if err != nil {
		return nil, err
	}
	all := make([]KeyInfo, 0, len(purposes))
	for _, p := range purposes {
		info := KeyInfo{Name: p.name, Purpose: p.purpose, Algorithm: p.algorithm}
		if set, have := sets[p.name]; have {
			info.Versions = set.versions(made[p.name])
		} else if p.name == rootName {
			info.Versions, info.KMS = rootVersions(made), kms.Name(keys.kek.URI())
		} else {
			continue
		}
		for i := range info.Versions {
			version := &info.Versions[i]
			if p.name == "wrap" {
				n := uses[version.id]
				version.Uses = &n
			}
			if version.State == statePrimary {
				info.Version, info.Created, info.Uses = version.Version, version.Created, version.Uses
			}
		}
		if v.rotateAfter > 0 && rotatesItself(p.name) {
			next := info.Created.Add(v.rotateAfter)
			info.NextRotation = &next
		}
		all = append(all, info)
	}
	return all, nil
}

const (
	statePrimary   = "primary"
	stateActive    = "active"
	stateRetired   = "retired"
	stateDestroyed = "destroyed"
)

// keysetRow is an opened keyset.
type keysetRow struct {
	sealedKeyset
	handle *keyset.Handle
}

// versions are a keyset's keys, numbered in the order in which they were added.
func (k *keysetRow) versions(made map[int]time.Time) []KeyVersion {
	all := make([]KeyVersion, 0, k.handle.Len())
	info := k.handle.KeysetInfo()
	for i, key := range info.GetKeyInfo() {
		v := KeyVersion{Version: i + 1, State: stateActive, Created: k.created, id: key.GetKeyId()}
		if at, known := made[v.Version]; known {
			v.Created = at
		}
		switch {
		case v.id == info.GetPrimaryKeyId():
			v.State = statePrimary
		case key.GetStatus() == tinkpb.KeyStatusType_DESTROYED:
			v.State = stateDestroyed
		case key.GetStatus() != tinkpb.KeyStatusType_ENABLED:
			v.State = stateRetired
		}
		all = append(all, v)
	}
	return all
}

// rootVersions is the one root key that there is: an older one seals nothing any more, and is not kept.
func rootVersions(made map[string]map[int]time.Time) []KeyVersion {
	latest := KeyVersion{Version: 1, State: statePrimary, Created: made[rootName][0]}
	for version, at := range made[rootName] {
		if version > latest.Version {
			latest.Version, latest.Created = version, at
		}
	}
	return []KeyVersion{latest}
}

// creationTimes are when keys were made, by name and version; under version 0 when the tenant's first root key was.
func creationTimes(ctx context.Context, tx pgx.Tx, tenant ID) (map[string]map[int]time.Time, error) {
	made := map[string]map[int]time.Time{}
	//nolint:rowserrcheck // ForEachRow does
	rows, err := tx.Query(ctx, `
		select name, version, created_at from keystore.key_versions where tenant_id = $1
		union all select 'root', 0, created_at from keystore.tenant_roots where tenant_id = $1`, tenant)
	if err != nil {
		return nil, err
	}
	var name string
	var version int
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&name, &version, &at}, func() error {
		if made[name] == nil {
			made[name] = map[int]time.Time{}
		}
		made[name][version] = at
		return nil
	})
	return made, err
}

// wrapUses counts a tenant's DEKs by the key that wraps them, which its Tink prefix names.
func wrapUses(ctx context.Context, tx pgx.Tx, tenant ID) (map[uint32]int64, error) {
	uses := map[uint32]int64{}
	//nolint:rowserrcheck // ForEachRow does
	rows, err := tx.Query(ctx, `
		select substring(wrapped from 2 for 4), count(*) from keystore.data_keys where tenant_id = $1 and get_byte(wrapped, 0) = 1 group by 1`, tenant)
	if err != nil {
		return nil, err
	}
	var id []byte
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&id, &n}, func() error {
		uses[binary.BigEndian.Uint32(id)] = n
		return nil
	})
	return uses, err
}
