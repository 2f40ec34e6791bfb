package vault

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/policy"
)

// Reading the audit entries. Whoever reads them leaves an entry too.

// EntryQuery narrows audit entries down; what is empty doesn't.
type EntryQuery struct {
	Subject   string // the owner's reference
	Principal string
	Action    string
	Purpose   string
	Outcome   string
	Record    string
	From, To  time.Time // from is included, to is not
}

// entryScan is the most entries that one call looks at: a filter that fits few makes more pages, not longer ones.
const entryScan = 20_000

// Entries reads up to limit audit entries, as canonical JSON, the newest first. A page may be short, or empty, and still have
// a next cursor: it ends only where that is empty.
func (v *Vault) Entries(ctx context.Context, who Caller, q EntryQuery, cursor string, limit int) (page []json.RawMessage, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadAudit, err)
	}
	err = v.within(ctx, who, policy.ReadAudit, func(t *txn) error {
		if err := t.entry.require(policy.ReadAudit); err != nil {
			return err
		}
		before, err := t.entryCursor(keys, "audit-entries", cursor, q.To)
		if err != nil {
			return err
		}
		query, args, err := q.sql(ctx, t, keys, before, limit)
		if err != nil {
			return err
		}
		var ids []ID
		var id, last *ID
		var body *string
		var scanned int
		err = each(ctx, t.data, []any{&id, &body, &scanned, &last}, func() error {
			if id != nil {
				ids, page = append(ids, *id), append(page, json.RawMessage(*body))
			}
			return nil
		}, query, args...)
		if err != nil {
			return err
		}
		t.entry.Items = min(len(page), limit)
		switch {
		case len(page) > limit:
			page, last = page[:limit], &ids[limit-1]
		case scanned < q.scan(limit):
			return nil
		}
		next, err = keys.sealCursor("audit-entries", string(last[:]))
		return err
	})
	return page, next, err
}

// entryCursor gives the id before which a page begins.
func (t *txn) entryCursor(keys *tenantKeys, list, cursor string, to time.Time) (before ID, err error) {
	position, err := keys.openCursor(list, cursor)
	if err != nil {
		return before, err
	}
	switch {
	case position != "":
		copy(before[:], position)
	case to.IsZero():
		before = ID(slices.Repeat([]byte{0xff}, 16))
	default:
		before = firstID(to)
	}
	return before, nil
}

var auditWord = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,62}$`)

func (q EntryQuery) filtered() bool {
	return q.Principal != "" || q.Action != "" || q.Purpose != "" || q.Outcome != "" || q.Record != ""
}

// scan is how many entries a page looks at.
func (q EntryQuery) scan(limit int) int {
	if !q.filtered() {
		return limit + 1
	}
	return entryScan
}

// sql is the query of a page: a window of entries by their ids, which are in the order of time, and the filter over it.
func (q EntryQuery) sql(ctx context.Context, t *txn, keys *tenantKeys, before ID, limit int) (query string, args []any, err error) {
	args = []any{t.who.Tenant, before, firstID(q.From), q.scan(limit), limit + 1}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	source := `
		select e.entry_id, e.principal_id, e.action, e.outcome, e.body from privault.audit_entries e
		where e.tenant_id = $1 and e.entry_id < $2 and e.entry_id >= $3 order by e.entry_id desc limit $4`
	if q.Subject != "" {
		subject, err := t.subjectDigest(ctx, keys, q.Subject)
		if err != nil {
			return "", nil, err
		}
		source = `
		select e.entry_id, e.principal_id, e.action, e.outcome, e.body from (
			select distinct d.entry_id from (` + knownIDs(arg(subject)) + `) k, lateral (
				select distinct d.entry_id from privault.disclosures d
				where d.tenant_id = $1 and d.subject_id = k.subject_id and d.entry_id < $2 and d.entry_id >= $3
				order by d.entry_id desc limit $4) d
			order by d.entry_id desc limit $4) d
		join privault.audit_entries e on e.tenant_id = $1 and e.entry_id = d.entry_id`
	}
	where := []string{"true"}
	if q.Principal != "" {
		id, ok := parseID(principalPrefix, q.Principal)
		if !ok {
			return "", nil, invalid("", "principal", "principal is an id, prn_…")
		}
		where = append(where, "w.principal_id = "+arg(id))
	}
	for column, word := range map[string]string{"w.action": q.Action, "w.outcome": q.Outcome} {
		if word != "" {
			where = append(where, column+" = "+arg(word))
		}
	}
	// The body is canonical and has no free text, so these stand in it just so or not at all.
	if q.Purpose != "" {
		if !auditWord.MatchString(q.Purpose) {
			return "", nil, invalid("", "purpose", "that is not the name of a purpose")
		}
		where = append(where, `position(`+arg(`"purpose":"`+q.Purpose+`"`)+` in w.body) > 0`)
	}
	if q.Record != "" {
		if _, ok := parseID(recordPrefix, q.Record); !ok {
			return "", nil, invalid("", "record", "record is an id, rec_…")
		}
		where = append(where, `position(`+arg(`"`+q.Record+`"`)+` in w.body) > 0`)
	}
	return `with w as materialized (` + source + `),
		f as (select w.entry_id, w.body from w where ` + strings.Join(where, " and ") + ` order by w.entry_id desc limit $5)
		select f.entry_id, f.body, c.scanned::int, c.last
		from (select (select count(*) from w) as scanned, (select w.entry_id from w order by w.entry_id limit 1) as last) c
		left join f on true order by f.entry_id desc`, args, nil
}

// firstID is the first id of a time; the zero time has the first of all.
func firstID(at time.Time) (id ID) {
	if at.IsZero() {
		return id
	}
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// LoggedEntry is an audit entry with its place in the log.
type LoggedEntry struct {
	Body  json.RawMessage // canonical JSON
	Index *int64          // of its leaf; nil: it has none yet
}

// Entry reads one audit entry.
func (v *Vault) Entry(ctx context.Context, who Caller, entry string) (l LoggedEntry, err error) {
	err = v.within(ctx, who, policy.ReadAudit, func(t *txn) error {
		p, err := t.readEntry(ctx, entry)
		l = LoggedEntry{Body: json.RawMessage(p.Body), Index: p.index}
		return err
	})
	return l, err
}

// Proof is all that shows an outsider that an entry is in the log: its text, its salt and tenant, which make its leaf; the way
// from the leaf to the root; and the signed root.
type Proof struct {
	Body       string
	Salt       string // hex
	Tenant     string // hex
	Index      int64
	Size       int64
	Hashes     []tlog.Hash
	Checkpoint string

	index *int64
}

// Prove proves that an entry is in the log.
func (v *Vault) Prove(ctx context.Context, who Caller, entry string) (p Proof, err error) {
	err = v.within(ctx, who, policy.ReadAudit, func(t *txn) (err error) {
		if p, err = t.readEntry(ctx, entry); err != nil {
			return err
		}
		return v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
			c, signed, err := v.signedHead(ctx, tx)
			if err != nil {
				return err
			}
			if p.index == nil || *p.index >= c.Size {
				return &Error{Kind: Conflict, Detail: "the entry has no place in a signed tree yet", RetryAfter: 2 * time.Second}
			}
			p.Index, p.Size, p.Checkpoint = *p.index, c.Size, signed
			p.Hashes, err = audit.ProveInclusion(c, p.Index, tilesIn(ctx, tx))
			return damagedTree(err)
		})
	})
	return p, err
}

func damagedTree(err error) error {
	if err != nil && AsError(err).Kind == Internal {
		return &Error{Kind: IntegrityFailure, cause: err}
	}
	return err
}

func (t *txn) readEntry(ctx context.Context, entry string) (p Proof, err error) {
	id, ok := parseID(entryPrefix, entry)
	if !ok {
		return p, fail(NotFound, "")
	}
	var salt ID
	err = t.data.QueryRow(ctx, `
		select e.body, e.salt, l.leaf_index from privault.audit_entries e left join privault.audit_leaves l using (tenant_id, entry_id)
		where e.tenant_id = $1 and e.entry_id = $2`, t.who.Tenant, id).Scan(&p.Body, &salt, &p.index)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, fail(NotFound, "")
	}
	p.Salt, p.Tenant = hex.EncodeToString(salt[:]), hex.EncodeToString(t.who.Tenant[:])
	if err != nil {
		return p, err
	}
	return p, t.entry.require(policy.ReadAudit)
}

// signedHead is the newest checkpoint, verified.
func (v *Vault) signedHead(ctx context.Context, tx pgx.Tx) (c audit.Checkpoint, signed string, err error) {
	h, err := readHead(ctx, tx)
	if err != nil {
		return c, "", err
	}
	if h.signed == "" || v.audit.keys == nil {
		return c, "", fail(NotFound, "no checkpoint was signed yet")
	}
	if c, err = v.audit.keys.Open([]byte(h.signed)); err != nil {
		err = &Error{Kind: IntegrityFailure, cause: err}
	}
	return c, h.signed, err
}

// Consistency is what shows that one tree is the beginning of another.
type Consistency struct {
	FromRoot, ToRoot tlog.Hash
	To               int64
	Hashes           []tlog.Hash
}

// ProveConsistency proves that the tree of from leaves is the beginning of that of to; 0 is the newest signed one.
func (v *Vault) ProveConsistency(ctx context.Context, who Caller, from, to int64) (p Consistency, err error) {
	err = v.within(ctx, who, policy.ReadAudit, func(t *txn) error {
		if err := t.entry.require(policy.ReadAudit); err != nil {
			return err
		}
		return v.store.data.within(ctx, deploymentTenant, func(tx pgx.Tx) error {
			c, _, err := v.signedHead(ctx, tx)
			if err != nil {
				return err
			}
			if to == 0 {
				to = c.Size
			}
			if from < 1 || from > to || to > c.Size {
				return invalid("", "range", "from is at least 1, to is not less, and no more than the newest checkpoint's size")
			}
			// The larger tree's root first, which the signed one proves, and then the proof within it.
			root, _, err := audit.ProveConsistency(c, to, tilesIn(ctx, tx))
			if err != nil {
				return damagedTree(err)
			}
			p.To, p.ToRoot = to, root
			p.FromRoot, p.Hashes, err = audit.ProveConsistency(audit.Checkpoint{Size: to, Root: root}, from, tilesIn(ctx, tx))
			return damagedTree(err)
		})
	})
	return p, err
}
