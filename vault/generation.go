package vault

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5"
)

// What is found by a digest is lost to whoever doesn't know the digest's key: it would not be an error, but "not found", and
// a second token for one value. So keys have generations. A rotation adds a key to a keyset and raises the tenant's generation,
// which stands in the data database, beside the digests; a write is admitted, and a look-up believed, only with the keys of the
// generation in force. A replica that is behind reads its keysets again, with the root key that it holds, and goes on.
//
// Nobody uses a key before its generation is in force: whoever reads keysets that are ahead of the data database raises it
// first. So after a crash between the keystore's commit and that of the data nobody is behind unseen; the job that the rotation lacks
// then is enqueued within the hour (finishRotations).

// generationOf counts the rotations of keysets, by the newest version of each.
func generationOf(versions map[string]int) (generation int32) {
	for _, version := range versions {
		generation += int32(version) - 1
	}
	return generation
}

// keysLock is the advisory lock that a commit shares and a rotation takes alone. It is told from a collection's by the bit
// that is set in every one of theirs (the variant of a UUID) and in none of these.
func keysLock(tenant ID) int64 { return int64(binary.BigEndian.Uint64(tenant[8:]) &^ (1 << 63)) }

const selectGeneration = `select coalesce((select generation from privault.key_generations where tenant_id = $1), 0)`

// enforce puts the generation of keys in force, before they are used.
func (r *keyring) enforce(ctx context.Context, k *tenantKeys) error {
	if k.generation == 0 {
		return nil
	}
	return r.store.data.within(ctx, k.tenant, func(tx pgx.Tx) error {
		var inForce int32
		if err := tx.QueryRow(ctx, selectGeneration, k.tenant).Scan(&inForce); err != nil || inForce >= k.generation {
			return err
		}
		return raiseGeneration(ctx, tx, k.tenant, k.generation)
	})
}

// raiseGeneration waits for the writes that are under way. Those that come after it, and are behind, are not admitted.
func raiseGeneration(ctx context.Context, tx pgx.Tx, tenant ID, generation int32) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, keysLock(tenant)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		insert into privault.key_generations as g (tenant_id, generation) values ($1, $2)
		on conflict (tenant_id) do update set generation = greatest(g.generation, excluded.generation)`, tenant, generation)
	return err
}

// inForce gives a tenant's keys of the generation in force.
func (r *keyring) inForce(ctx context.Context, tenant ID) (*tenantKeys, error) {
	keys, err := r.of(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var generation int32
	err = r.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, selectGeneration, tenant).Scan(&generation)
	})
	if err != nil {
		return nil, err
	}
	return r.atLeast(keys, generation)
}

// atLeast gives a tenant's keys of a generation that is in force, or a later one.
func (r *keyring) atLeast(keys *tenantKeys, generation int32) (*tenantKeys, error) {
	for range 2 { // a reading that was under way may have begun too early
		if keys.generation >= generation {
			return keys, nil
		}
		var err error
		if keys, err = r.newer(keys); err != nil {
			return nil, err
		}
	}
	if keys.generation < generation {
		return nil, &Error{Kind: IntegrityFailure, cause: errors.New("the keystore is older than the data database: it lacks keys that data was written with")}
	}
	return keys, nil
}

// holdKeys gives the keys of the generation in force, which stays in force until the transaction ends. Whoever makes a digest or a
// DEK inside a transaction holds its keys first: the operation may be run again from its beginning.
func (t *txn) holdKeys(ctx context.Context, have *tenantKeys) (*tenantKeys, error) {
	// Two statements: the second one's snapshot must be taken when the lock is held.
	b := &pgx.Batch{}
	b.Queue(`select pg_advisory_xact_lock_shared($1)`, keysLock(have.tenant))
	var generation int32
	b.Queue(selectGeneration, have.tenant).QueryRow(func(row pgx.Row) error { return row.Scan(&generation) })
	if err := t.data.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if held := have.ring.heldKeys(have.tenant); held != nil && held.generation > have.generation {
		have = held
	}
	if have.generation < generation {
		return nil, &behind{have, generation}
	}
	return have, nil
}

// behind says that an operation was begun with keys that are older than those in force. Within runs it again when it has read them:
// inside the transaction that would take another connection, which there may be none of as long as this one waits.
type behind struct {
	have       *tenantKeys
	generation int32
}

func (*behind) Error() string { return "the tenant has newer keys" }

// heldKeys are what is held of a tenant; nil: nothing.
func (r *keyring) heldKeys(tenant ID) *tenantKeys {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[tenant].keys
}
