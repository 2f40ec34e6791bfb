package vault

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/audit"
)

// Reconciliation: the records that are there, against what the audit entries say was written and deleted. The entries are
// held against the tree first, in the same snapshot. Whoever writes or deletes a record says so in the operation's entry,
// by resource.wrote or outcomeDeleted; a test holds every operation to it.

// recordDigest is what an entry says of a record as it was written: SHA-256 of its collection, its expiry, its epoch (unless 0) and its sealed values,
// base64. What is sealed is noise, so is its hash.
func recordDigest(collection ID, expires *time.Time, epoch int32, sealed []byte) string {
	b := make([]byte, 0, len(collection)+8+4+len(sealed))
	b = append(b, collection[:]...)
	var at int64
	if expires != nil {
		at = expires.UnixMicro()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	if epoch != 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(epoch))
	}
	sum := sha256.Sum256(append(b, sealed...))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// selectRows are the records of a tenant in the order of their ids, with the same digest.
const selectRows = `
	select r.record_id, r.version,
		encode(sha256(uuid_send(r.collection_id) || int8send(coalesce((extract(epoch from r.expires_at) * 1000000)::bigint, 0))
			|| case when r.epoch = 0 then '' else int4send(r.epoch) end || r.sealed), 'base64')
	from privault.records r where r.tenant_id = (select privault.tenant()) order by r.record_id`

// selectSaid is what the entries of a tenant say of records, in the order of the records' ids: those are as text in the order
// that they are in as bytes. The text of an entry is canonical, so what it says stands in it just so.
// What stands once for many records is taken apart once: an entry of a batch has a thousand.
const selectSaid = `
	select z.record, coalesce(r.version, 0), coalesce(z.sealed, ''), r.outcome is not distinct from 'deleted'
	from privault.audit_entries e
	cross join lateral json_to_recordset(e.body::json->'resources') as r(version int, outcome text, records json, sealed json)
	cross join lateral rows from (json_array_elements_text(r.records), json_array_elements_text(coalesce(r.sealed, '[]'))) as z(record, sealed)
	where e.tenant_id = (select privault.tenant())
		and (position('"sealed":[' in e.body) > 0 or position('"outcome":"deleted"' in e.body) > 0)
		and e.body::json->>'outcome' = 'ok' and (z.sealed is not null or r.outcome = 'deleted')
	order by z.record collate "C"`

// What may be wrong with a record.
const (
	RecordInserted   = "inserted"    // no entry says that it was stored
	RecordRestored   = "restored"    // it was deleted, and is there
	RecordDeleted    = "deleted"     // it was stored, and no entry says that it was deleted
	RecordRolledBack = "rolled-back" // it was changed since
	RecordChanged    = "changed"     // it isn't what was written
)

// Discrepancy is a record that isn't as the audit log says.
type Discrepancy struct {
	Tenant  string `json:"tenant"`
	Record  string `json:"record"`
	Is      string `json:"is"`
	Version int32  `json:"version,omitempty"`        // of the row that is there
	Logged  int32  `json:"logged_version,omitempty"` // the last one that an entry says was written
}

// Reconciled says what was compared.
type Reconciled struct {
	Tenants       int   `json:"tenants"`
	Records       int64 `json:"records"`
	Statements    int64 `json:"statements"` // of entries, about records
	Unattested    int64 `json:"unattested"` // records that are older than what the log still has entries of
	Discrepancies int64 `json:"discrepancies"`
	Size          int64 `json:"log_size"`
}

// Reconcile compares the data database with its audit log, whose public keys are given, and calls found for each record that
// isn't as the log says. It changes nothing, waits for nobody, and needs no key but those; its memory doesn't grow with
// the database. Entries that have no place in the tree yet count too. An entry that isn't what the tree says, and a tree
// that isn't what was signed, is an error.
func Reconcile(ctx context.Context, url string, keys *audit.Keys, found func(Discrepancy) error) (r Reconciled, err error) {
	db, err := connect(ctx, url, 2, nil)
	if err != nil {
		return r, AsError(err)
	}
	defer db.pool.Close()
	// One snapshot for everything. It takes no transaction id, so the sequencer doesn't wait for it.
	err = pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('statement_timeout', '0', true), set_config('work_mem', '64MB', true)`); err != nil {
			return err
		}
		if err := actAs(ctx, tx, deploymentTenant); err != nil {
			return err
		}
		if err := r.checkLog(ctx, tx, keys); err != nil {
			return err
		}
		since, err := logBegins(ctx, tx)
		if err != nil {
			return err
		}
		tenants, err := loggedTenants(ctx, tx)
		if err != nil {
			return err
		}
		for _, tenant := range tenants {
			if err := r.tenant(ctx, tx, tenant, since, found); err != nil {
				return err
			}
		}
		r.Tenants = len(tenants)
		return nil
	})
	if err != nil {
		return r, AsError(err)
	}
	return r, nil
}

// checkLog holds the entries against the tree and the tree against its newest checkpoint.
func (r *Reconciled) checkLog(ctx context.Context, tx pgx.Tx, keys *audit.Keys) error {
	h, err := readHead(ctx, tx)
	if err != nil {
		return err
	}
	if h.signed == "" {
		if h.size > 0 {
			return &Error{Kind: IntegrityFailure, Detail: "the log has entries and no checkpoint"}
		}
		return nil
	}
	c, err := keys.Open([]byte(h.signed))
	if err != nil {
		return &Error{Kind: IntegrityFailure, Detail: "the log's checkpoint does not verify", cause: err}
	}
	r.Size = c.Size
	if err := audit.Check(c, tilesIn(ctx, tx), nil); err != nil {
		return damagedTree(err)
	}
	return nil
}

// logBegins is the first id of what the log still has entries of; the nil id, if no month was dropped.
func logBegins(ctx context.Context, tx pgx.Tx) (since ID, err error) {
	var first *ID
	err = tx.QueryRow(ctx, keptMonths+`
		select k.since from kept k where (select l.entry_id from privault.audit_leaves l order by l.leaf_index limit 1) < k.since`).Scan(&first)
	if err == nil && first != nil {
		since = *first
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return since, err
}

// loggedTenants are the tenants that there are, and those that there were.
func loggedTenants(ctx context.Context, tx pgx.Tx) (tenants []ID, err error) {
	var tenant ID
	err = each(ctx, tx, []any{&tenant}, func() error {
		tenants = append(tenants, tenant)
		return nil
	}, `select tenant_id from privault.tenants union select tenant_id from privault.audit_entries`)
	return slices.DeleteFunc(tenants, func(id ID) bool { return id == deploymentTenant }), err
}

// said is all that the entries say of one record.
type said struct {
	record  string
	version int32  // the last one that was written; 0: none
	digest  string // of it
	gone    bool
}

// present is a record that is there.
type present struct {
	record  string
	id      ID
	version int32
	digest  string
}

// tenant merges a tenant's records with what the entries say of them. Both come in the order of their ids.
func (r *Reconciled) tenant(ctx context.Context, tx pgx.Tx, tenant, since ID, found func(Discrepancy) error) error {
	if err := actAs(ctx, tx, tenant); err != nil {
		return err
	}
	rows, err := openCursor(ctx, tx, "rows", selectRows, func(r pgx.CollectableRow) (p present, err error) {
		err = r.Scan(&p.id, &p.version, &p.digest)
		p.record = formatID(recordPrefix, p.id)
		return p, err
	})
	if err != nil {
		return err
	}
	entries, err := openCursor(ctx, tx, "said", selectSaid, func(r pgx.CollectableRow) (s said, err error) {
		err = r.Scan(&s.record, &s.version, &s.digest, &s.gone)
		return s, err
	})
	if err != nil {
		return err
	}
	name := uuid.UUID(tenant).String()
	for {
		logged, row, err := r.next(ctx, rows, entries)
		if err != nil {
			return err
		}
		if logged == nil && row == nil {
			break
		}
		d := Discrepancy{Tenant: name}
		switch {
		case row == nil:
			d.Record, d.Logged = logged.record, logged.version
		case logged == nil && slices.Compare(row.id[:], since[:]) < 0:
			r.Unattested++
			continue
		case logged == nil:
			d.Record, d.Version = row.record, row.version
		default:
			d.Record, d.Version, d.Logged = row.record, row.version, logged.version
		}
		if d.Is = wrong(logged, row); d.Is == "" {
			continue
		}
		r.Discrepancies++
		if err := found(d); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `close rows; close said`, pgx.QueryExecModeSimpleProtocol)
	return err
}

// next gives the next record, as it is there and as the log says; nil where it isn't in one of them.
func (r *Reconciled) next(ctx context.Context, rows *cursor[present], entries *cursor[said]) (logged *said, row *present, err error) {
	row, err = rows.peek(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := entries.peek(ctx)
	if err != nil {
		return nil, nil, err
	}
	if row != nil && (s == nil || row.record <= s.record) {
		r.Records++
		rows.at++
	} else {
		row = nil
	}
	if s == nil || row != nil && s.record != row.record {
		return nil, row, nil
	}
	all := said{record: s.record}
	for ; s != nil && s.record == all.record; s, err = entries.peek(ctx) {
		r.Statements++
		if all.gone = all.gone || s.gone; s.version > all.version {
			all.version, all.digest = s.version, s.digest
		}
		entries.at++
	}
	return &all, row, err
}

// wrong says what is wrong with a record; nothing, if it is as the log says. A record that was deleted never comes back.
func wrong(logged *said, row *present) string {
	switch {
	case logged == nil:
		return RecordInserted
	case row == nil && logged.gone:
		return ""
	case row == nil:
		return RecordDeleted
	case logged.gone:
		return RecordRestored
	case row.version < logged.version:
		return RecordRolledBack
	case row.version > logged.version, row.digest != logged.digest:
		return RecordChanged
	}
	return ""
}

// cursor reads a query's rows in portions, so that two can be read side by side on one connection.
type cursor[T any] struct {
	tx   pgx.Tx
	name string
	scan pgx.RowToFunc[T]
	page []T
	at   int
	end  bool
}

const cursorPage = 2000

func openCursor[T any](ctx context.Context, tx pgx.Tx, name, query string, scan pgx.RowToFunc[T]) (*cursor[T], error) {
	_, err := tx.Exec(ctx, "declare "+name+" no scroll cursor for "+query)
	return &cursor[T]{tx: tx, name: name, scan: scan}, err
}

// peek gives the next row, nil behind the last. Whoever is done with it raises at.
func (c *cursor[T]) peek(ctx context.Context) (*T, error) {
	if c.at == len(c.page) && !c.end {
		rows, err := c.tx.Query(ctx, fmt.Sprintf("fetch %d from %s", cursorPage, c.name))
		if err != nil {
			return nil, err
		}
		if c.page, err = pgx.AppendRows(c.page[:0], rows, c.scan); err != nil {
			return nil, err
		}
		c.at, c.end = 0, len(c.page) < cursorPage
	}
	if c.at == len(c.page) {
		return nil, nil
	}
	return &c.page[c.at], nil
}
