package vault

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// The sequencer gives committed entries their place in the log and keeps the Merkle tree over it (package audit). Entries
// are written without it, by whoever does the work; it comes after them, about a second later, one for the deployment.
//
// The order is that of (xid, entry id), up to the oldest transaction that was still running: whatever commits later has a
// higher xid than everything that has a place already, so no entry is ever passed over. Where the database is restored into
// another cluster, whose xids may be lower, all that come are raised above those that were (privault.raise_audit_xids).

// SequenceBatch is the most entries that one call of Sequence takes.
const SequenceBatch = 5000

// SequencerLock is the advisory lock of the one sequencer.
const SequencerLock int64 = 0x70726976_61756474

// auditLog is what a Vault knows of the log.
type auditLog struct {
	keys   *audit.Keys  // nil: this vault neither signs nor serves the log
	copied *safekeeping // nil: no copy of the newest checkpoint outside the database
	halted atomic.Pointer[Error]
}

// head is the one row of audit_head.
type head struct {
	size   int64
	root   tlog.Hash
	xid    string
	entry  ID
	signed string
	base   int64 // what xids of this cluster are raised by
}

// Sequence takes a batch of entries into the log and publishes the new checkpoint. It gives how many they were; 0 also if
// another replica is at it. Once the database is not the one that the newest checkpoint came from, it fails for good: a log
// that stops is better than a log that forks.
func (v *Vault) Sequence(ctx context.Context) (taken int, err error) {
	if v.audit.keys == nil || !v.audit.keys.CanSign() {
		return 0, errors.New("the audit log has no key to sign with")
	}
	if halted := v.audit.halted.Load(); halted != nil {
		return 0, halted
	}
	if v.Fenced() != nil {
		return 0, nil // what becomes of the database is being decided
	}
	err = v.store.data.alone(ctx, SequencerLock, func(c *pgxpool.Conn) error {
		return v.audit.copied.hold(func(copied []byte) ([]byte, error) {
			taken, copied, err = v.sequence(ctx, c, copied)
			return copied, err
		}, func() error {
			return v.publish(ctx, c)
		})
	})
	return taken, err
}

// halt stops the log for good.
func (v *Vault) halt(format string, args ...any) error {
	e := &Error{Kind: IntegrityFailure, cause: fmt.Errorf("the audit log has stopped: "+format, args...)}
	v.audit.halted.Store(e)
	v.metrics.auditHalted.Set(1)
	return e
}

// damaged halts the log if what was read of it is wrong, and not if it couldn't be read.
func (v *Vault) damaged(what string, err error) error {
	var pg *pgconn.PgError
	switch AsError(err).Kind {
	case DatabaseUnavailable, Cancelled:
		return err
	}
	if errors.As(err, &pg) {
		return err
	}
	return v.halt("%s is damaged: %w", what, err)
}

// sequence stages a batch, in a transaction of its own, and gives the checkpoint that is to be published. The checkpoint is
// kept outside before it is shown to anybody, so the copy is never older than what was published, and never newer than
// what is staged.
func (v *Vault) sequence(ctx context.Context, c *pgxpool.Conn, copied []byte) (taken int, signed []byte, err error) {
	if err := v.adopt(ctx, c); err != nil {
		return 0, nil, err
	}
	err = asDeployment(ctx, c, func(tx pgx.Tx) error {
		h, err := readHead(ctx, tx)
		if err != nil {
			return err
		}
		if err := v.compare(ctx, tx, h, copied); err != nil {
			return err
		}
		tree, err := readEdge(ctx, tx, h)
		if err != nil {
			return v.damaged("its edge", err)
		}
		s := &staging{tree: tree, head: h, now: v.now()}
		if err := s.take(ctx, tx); err != nil {
			return err
		}
		taken = len(s.leaf)
		if taken > 0 {
			if err := s.write(ctx, tx); err != nil {
				return err
			}
		}
		v.metrics.auditSize.Set(float64(tree.Size))
		v.metrics.auditLag.Set(s.lag().Seconds())
		signed, err = v.audit.keys.Sign(tree.Size, tree.Root())
		return err
	})
	return taken, signed, err
}

// adopt makes the log go on in a cluster that isn't the one that it knows.
func (v *Vault) adopt(ctx context.Context, c *pgxpool.Conn) error {
	return asDeployment(ctx, c, func(tx pgx.Tx) error {
		var known, raised bool
		err := tx.QueryRow(ctx, `
			select coalesce(h.system_id = s.system_identifier, false)
				and h.xid::text::bigint < h.xid_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint
			from privault.audit_head h, pg_control_system() s`).Scan(&known)
		if err != nil || known {
			return err
		}
		// It looks at every entry, once.
		if _, err := tx.Exec(ctx, `select set_config('statement_timeout', '0', true)`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `select privault.raise_audit_xids()`).Scan(&raised); err == nil && raised {
			v.log.WarnContext(ctx, "the database is in another Postgres cluster than before; the audit log goes on in it")
		}
		return err
	})
}

// compare holds the database against the copy of the newest checkpoint.
func (v *Vault) compare(ctx context.Context, tx pgx.Tx, h head, copied []byte) error {
	if copied == nil {
		return nil
	}
	c, err := v.audit.keys.Open(copied)
	if err != nil {
		return v.halt("the copy of its newest checkpoint does not verify: %w", err)
	}
	if c.Size > h.size {
		return v.halt("the database has %d entries, and a checkpoint of %d was published: it was set back, or another sequencer is at work on a copy", h.size, c.Size)
	}
	root, _, err := audit.ProveConsistency(audit.Checkpoint{Size: h.size, Root: h.root}, c.Size, tilesIn(ctx, tx))
	if err != nil {
		return v.damaged("its tiles", err)
	}
	if root != c.Root {
		return v.halt("the database does not continue the checkpoint of %d entries that was published", c.Size)
	}
	return nil
}

// publish shows the checkpoint of what is staged, which is kept outside by now.
func (v *Vault) publish(ctx context.Context, c *pgxpool.Conn) error {
	return asDeployment(ctx, c, func(tx pgx.Tx) error {
		h, err := readHead(ctx, tx)
		if err != nil {
			return err
		}
		signed, err := v.audit.keys.Sign(h.size, h.root)
		if err != nil || string(signed) == h.signed {
			return err
		}
		_, err = tx.Exec(ctx, `update privault.audit_head set signed = $1`, string(signed))
		return err
	})
}

func asDeployment(ctx context.Context, c *pgxpool.Conn, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if err := actAs(ctx, tx, deploymentTenant); err != nil {
			return err
		}
		return do(tx)
	})
}

func readHead(ctx context.Context, tx pgx.Tx) (h head, err error) {
	var root []byte
	err = tx.QueryRow(ctx, `
		select size, root, xid::text, entry_id, coalesce(signed, ''), xid_base from privault.audit_head`).
		Scan(&h.size, &root, &h.xid, &h.entry, &h.signed, &h.base)
	copy(h.root[:], root)
	return h, err
}

// readEdge reads the right edge of the tree, which must have the root that the head says.
func readEdge(ctx context.Context, tx pgx.Tx, h head) (*audit.Tree, error) {
	edge := make([][]tlog.Hash, audit.Levels(h.size))
	for level := range edge {
		width := audit.Width(h.size, level)
		if width == 0 {
			continue
		}
		count := h.size >> (audit.TileHeight * level)
		data, err := readTile(ctx, tx, tlog.Tile{H: audit.TileHeight, L: level, N: count / audit.TileWidth, W: width})
		if err != nil {
			return nil, err
		}
		for ; len(data) > 0; data = data[tlog.HashSize:] {
			edge[level] = append(edge[level], tlog.Hash(data[:tlog.HashSize]))
		}
	}
	tree, err := audit.NewTree(h.size, edge)
	if err == nil && tree.Root() != h.root {
		err = errors.New("the last tiles and the root don't belong together")
	}
	return tree, err
}

// staging is a batch on its way into the log, as columns.
type staging struct {
	tree   *audit.Tree
	head   head
	now    time.Time
	oldest time.Time // of the batch

	index         []int64
	tenant, entry []ID
	leaf          [][]byte
	nodes         []audit.Node
}

// take reads the next entries and puts them into the tree.
func (s *staging) take(ctx context.Context, tx pgx.Tx) error {
	const query = `
		select e.tenant_id, e.entry_id, e.xid::text, e.at, e.salt, e.body from privault.audit_entries e
		where e.xid >= $1::text::xid8 and (e.xid > $1::text::xid8 or e.entry_id > $2) and e.xid < (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + $4)::text::xid8
		order by e.xid, e.entry_id limit $3`
	after, entryAfter := s.head.xid, s.head.entry
	var tenant, entry, salt ID
	var at time.Time
	var body pgtype.DriverBytes // until the next row
	return each(ctx, tx, []any{&tenant, &entry, &s.head.xid, &at, &salt, &body}, func() error {
		if s.oldest.IsZero() || at.Before(s.oldest) {
			s.oldest = at
		}
		leaf := audit.Leaf(salt, tenant, body)
		s.index, s.leaf = append(s.index, s.tree.Size), append(s.leaf, leaf[:])
		s.tenant, s.entry = append(s.tenant, tenant), append(s.entry, entry)
		s.nodes = append(s.nodes, s.tree.Append(leaf[:])...)
		s.head.entry = entry
		return nil
	}, query, after, entryAfter, SequenceBatch, s.head.base)
}

// lag is how old the oldest entry of the batch is.
func (s *staging) lag() time.Duration {
	if s.oldest.IsZero() {
		return 0
	}
	return s.now.Sub(s.oldest)
}

func (s *staging) write(ctx context.Context, tx pgx.Tx) error {
	level, index, hash := make([]int16, len(s.nodes)), make([]int64, len(s.nodes)), make([][]byte, len(s.nodes))
	for i, n := range s.nodes {
		level[i], index[i], hash[i] = int16(n.Level), n.Index, n.Hash[:]
	}
	root := s.tree.Root()
	b := &pgx.Batch{}
	b.Queue(`
		insert into privault.audit_leaves (leaf_index, tenant_id, entry_id, leaf)
		select l.leaf_index, l.tenant_id, l.entry_id, l.leaf
		from unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bytea[]) as l(leaf_index, tenant_id, entry_id, leaf)`,
		s.index, s.tenant, s.entry, s.leaf)
	if len(s.nodes) > 0 {
		b.Queue(`
			insert into privault.audit_nodes (level, node_index, hash)
			select n.level, n.node_index, n.hash from unnest($1::smallint[], $2::bigint[], $3::bytea[]) as n(level, node_index, hash)`,
			level, index, hash)
	}
	b.Queue(`update privault.audit_head set size = $1, root = $2, xid = $3::text::xid8, entry_id = $4`,
		s.tree.Size, root[:], s.head.xid, s.head.entry)
	return tx.SendBatch(ctx, b).Close()
}

// MakeAuditPartitions makes the months to come, so that every entry finds its partition.
func (v *Vault) MakeAuditPartitions(ctx context.Context) (made int, err error) {
	err = v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select privault.make_audit_partitions($1)`, v.now().AddDate(0, 3, 0)).Scan(&made)
	})
	return made, err
}
