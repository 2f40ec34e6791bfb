package vault

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Shipping: reading the log in its own order, for who keeps a copy of the entries elsewhere. The order of the log is the
// only one in which nothing comes in between later.

// LogReader reads a log's entries with the database's URL alone: it needs no keys, since entries hold nothing that is sealed.
type LogReader struct {
	db         database
	Deployment string
}

// OpenLog opens the log of a data database. That it was opened is an entry of the log itself.
func OpenLog(ctx context.Context, url string) (*LogReader, error) {
	db, err := connect(ctx, url, 2, nil)
	if err != nil {
		return nil, AsError(err)
	}
	l := &LogReader{db: db}
	if err := l.open(ctx); err != nil {
		db.pool.Close()
		return nil, AsError(err)
	}
	return l, nil
}

func (l *LogReader) open(ctx context.Context) error {
	deployment, err := l.db.deployment(ctx)
	if err != nil {
		return err
	}
	l.Deployment = uuid.UUID(deployment).String()
	e, err := operatorsEntry(policy.ShipAudit)
	if err != nil {
		return err
	}
	return l.db.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		return insertEntry(ctx, tx, &pgx.Batch{}, e)
	})
}

// operatorsEntry is the entry of what the operator does with the database alone.
func operatorsEntry(action policy.Action) (*entry, error) {
	e, err := newEntry(time.Now(), action) //nolint:forbidigo // there is no vault whose clock it could be
	if err == nil {
		e.Rule = "operator"
	}
	return e, err
}

// Close releases the database.
func (l *LogReader) Close() { l.db.pool.Close() }

// ShippedEntry is an entry with its place in the log, and what makes its leaf: whoever has it can prove later that it was in
// the log, when the log itself no longer has its text.
type ShippedEntry struct {
	Index  int64           `json:"index"`
	Tenant string          `json:"tenant"`
	Salt   string          `json:"salt"` // hex
	Entry  json.RawMessage `json:"entry"`
}

// Read gives up to limit entries of the log from an index on, and the index to go on from. Entries that were dropped when
// their time was over are left out. An index that the log doesn't reach is IntegrityFailure: the database was set back.
func (l *LogReader) Read(ctx context.Context, from int64, limit int) (page []ShippedEntry, next int64, err error) {
	err = l.db.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
		var size int64
		if err := tx.QueryRow(ctx, `select size from privault.audit_head`).Scan(&size); err != nil {
			return err
		}
		if from > size {
			return &Error{Kind: IntegrityFailure, Detail: fmt.Sprintf("the log has %d entries, and %d were read before: the database was set back", size, from)}
		}
		next = min(size, from+int64(limit))
		var s ShippedEntry
		var tenant, salt ID
		var body string
		return each(ctx, tx, []any{&s.Index, &tenant, &salt, &body}, func() error {
			s.Tenant, s.Salt, s.Entry = uuid.UUID(tenant).String(), hex.EncodeToString(salt[:]), json.RawMessage(body)
			page = append(page, s)
			return nil
		}, `
			select l.leaf_index, l.tenant_id, e.salt, e.body from privault.audit_leaves l
			join privault.audit_entries e on e.tenant_id = l.tenant_id and e.entry_id = l.entry_id
			where l.leaf_index >= $1 and l.leaf_index < $2 order by l.leaf_index`, from, next)
	})
	if err != nil {
		return nil, 0, AsError(err)
	}
	return page, next, nil
}

// Line is the entry as one object of JSON, in which its own text is byte for byte what the leaf was made of.
func (s ShippedEntry) Line() []byte {
	b := fmt.Appendf(nil, `{"index":%d,"tenant":"%s","salt":"%s","entry":`, s.Index, s.Tenant, s.Salt)
	return append(append(b, s.Entry...), '}')
}

// Brief is the entry without its lists of records, for receivers that cut long messages: how many they are says Shortened.
func (s ShippedEntry) Brief() (ShippedEntry, error) {
	var e struct {
		entry
		Shortened int `json:"shortened"`
	}
	if err := json.Unmarshal(s.Entry, &e); err != nil {
		return s, errors.New("an audit entry does not parse")
	}
	for i := range e.Resources {
		r := &e.Resources[i]
		e.Shortened += len(r.Records)
		r.Records, r.Sealed = nil, nil
	}
	body, err := json.Marshal(e)
	s.Entry = body
	return s, err
}
