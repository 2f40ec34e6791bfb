package vault

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// Checkpoint is the log's newest signed checkpoint.
func (v *Vault) Checkpoint(ctx context.Context) (string, error) {
	var h head
	err := v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) (err error) {
		h, err = readHead(ctx, tx)
		return err
	})
	if err == nil && h.signed == "" {
		err = fail(NotFound, "no checkpoint was signed yet")
	}
	return h.signed, err
}

// Tile is a tile of the log, or an entry bundle, as C2SP tlog-tiles has them. They say nothing about the entries, so they
// are for everybody.
func (v *Vault) Tile(ctx context.Context, t tlog.Tile) (data []byte, err error) {
	err = v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		data, err = readTile(ctx, tx, t)
		return err
	})
	return data, err
}

// tilesIn reads tiles in a transaction.
func tilesIn(ctx context.Context, tx pgx.Tx) audit.Fetch {
	return func(t tlog.Tile) ([]byte, error) { return readTile(ctx, tx, t) }
}

// readTile puts a tile together from its rows: those of the leaves or, above, of the nodes.
func readTile(ctx context.Context, tx pgx.Tx, t tlog.Tile) (data []byte, err error) {
	first, count := t.N*audit.TileWidth, 0
	add := func(hash []byte) { data, count = append(data, hash...), count+1 }
	switch t.L {
	case audit.Bundles:
		count, data, err = readBundle(ctx, tx, first, t.W)
	case 0:
		err = eachBytes(ctx, tx, func(leaf []byte) {
			hash := tlog.RecordHash(leaf)
			add(hash[:])
		}, `select leaf from privault.audit_leaves where leaf_index >= $1 and leaf_index < $2 order by leaf_index`,
			first, first+int64(t.W))
	default:
		err = eachBytes(ctx, tx, add, `
			select hash from privault.audit_nodes where level = $1 and node_index >= $2 and node_index < $3 order by node_index`,
			t.L, first, first+int64(t.W))
	}
	if err == nil && count < t.W {
		return nil, fail(NotFound, "the log has no such tile yet")
	}
	return data, err
}

// each scans every row of a query and calls do for it.
func each(ctx context.Context, tx pgx.Tx, scan []any, do func() error, query string, args ...any) error {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	if _, err = pgx.ForEachRow(rows, scan, do); err != nil {
		return err
	}
	return rows.Err()
}

func eachBytes(ctx context.Context, tx pgx.Tx, do func([]byte), query string, args ...any) error {
	var b []byte
	return each(ctx, tx, []any{&b}, func() error {
		do(b)
		return nil
	}, query, args...)
}

// keptMonths gives the first id of the months that are there: what is older may have been dropped.
const keptMonths = `
		with kept as (
			select privault.first_id(min(to_date(right(c.relname, 7), 'YYYY_MM'))) as since
			from pg_inherits i join pg_class c on c.oid = i.inhrelid
			where i.inhparent = 'privault.audit_entries'::regclass and c.relname ~ '_\d{4}_\d{2}$')`

// readBundle gives leaves as an entry bundle. As long as an entry is there, its leaf is made from it anew, so that whoever
// checks the bundles has checked the entries themselves. Without its entry, a leaf stands for itself only if the entry's
// month was dropped.
func readBundle(ctx context.Context, tx pgx.Tx, first int64, width int) (count int, data []byte, err error) {
	const query = keptMonths + `
		select l.leaf_index, l.tenant_id, l.leaf, e.salt, e.body, l.entry_id < k.since
		from privault.audit_leaves l cross join kept k
		left join privault.audit_entries e on e.tenant_id = l.tenant_id and e.entry_id = l.entry_id
		where l.leaf_index >= $1 and l.leaf_index < $2 order by l.leaf_index`
	var index int64
	var tenant ID
	var stored []byte
	var salt *ID
	var body pgtype.DriverBytes // until the next row
	var dropped *bool
	err = each(ctx, tx, []any{&index, &tenant, &stored, &salt, &body, &dropped}, func() error {
		if salt != nil {
			leaf := audit.Leaf(*salt, tenant, body)
			stored = leaf[:]
		} else if dropped == nil || !*dropped {
			return &Error{Kind: IntegrityFailure, cause: fmt.Errorf("the entry of leaf %d is gone", index)}
		}
		data, count = audit.AppendEntry(data, stored), count+1
		return nil
	}, query, first, first+int64(width))
	return count, data, err
}
