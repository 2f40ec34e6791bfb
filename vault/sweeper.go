package vault

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// What reads records that may be due, and asks their fate.

// sweeper works on one collection in one batch.
type sweeper struct {
	*reader
	t     *txn
	coll  *Collection
	prior *Collection // as it was before a change that is tried; nil: none is
}

// newSweeper reads what the collection's rules ask beside the records.
func (v *Vault) newSweeper(ctx context.Context, b *batch, coll *Collection) (*sweeper, error) {
	s := &sweeper{reader: v.newReader(b.ring, b.entry), t: b.txn, coll: coll}
	s.whole, s.ends = true, map[string]Purpose{}
	if !slices.ContainsFunc(coll.rules, func(r *rule) bool { return r.purpose != "" }) {
		return s, nil
	}
	var err error
	s.ends, err = currentPurposes(ctx, b.data, b.who.Tenant)
	return s, err
}

// candidate is a record that may be due.
type candidate struct {
	row
	due              *time.Time // as it is marked
	held, restricted bool
	fate             fate
	unreadable       bool // nobody knows its fate
}

// isHeld and isRestricted cost a look at each record only where there are any holds or facts at all.
const (
	isHeld = `case when (select exists (select from privault.holds h where h.tenant_id = $1 and h.released_at is null))
			then privault.held(r, $3) else false end`
	isRestricted = `case when (select ` + haveFacts + `) then exists (select from privault.subject_facts f
			where f.tenant_id = $1 and f.subject_id = r.subject_id and f.kind = 'restriction') else false end`
)

// peruses says whether records have to be opened.
func (s *sweeper) peruses() bool { return s.coll.perusing() || s.prior != nil && s.prior.perusing() }

// read gives candidates of the collection. where has the parameters from $4 on.
func (s *sweeper) read(ctx context.Context, where string, args ...any) ([]*candidate, error) {
	sealed := `null::bytea`
	if s.peruses() {
		sealed = `r.sealed`
	}
	rows, err := s.t.data.Query(ctx, `
		select r.record_id, r.version, r.epoch, r.created_at, r.updated_at, r.expires_at, r.revealed_at, r.generalised, r.subject_id,
			r.digests, r.due_at, `+sealed+`, `+isHeld+`, `+isRestricted+`
		from privault.records r where r.tenant_id = $1 and r.collection_id = $2 and $3::timestamptz is not null and `+where,
		append([]any{s.t.who.Tenant, s.coll.id, s.t.now}, args...)...)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(found pgx.CollectableRow) (*candidate, error) {
		c := &candidate{}
		c.collection, c.schema = s.coll.id, s.coll.Version
		return c, found.Scan(&c.id, &c.version, &c.epoch, &c.created, &c.updated, &c.expires, &c.revealed, &c.generalised, &c.subject,
			&c.digests, &c.due, &c.sealed, &c.held, &c.restricted)
	})
	if err != nil || len(all) == 0 || !s.peruses() {
		return all, err
	}
	byID, ids, subjects := map[ID]*row{}, make([]ID, len(all)), make([]*ID, len(all))
	for i, c := range all {
		byID[c.id], ids[i], subjects[i] = &c.row, c.id, c.subject
	}
	// An erasure must not miss the keys that are about to be made.
	if _, err := s.t.data.Exec(ctx, `
		select from privault.subjects where tenant_id = $1 and subject_id = any($2) and link_id is null order by digest for key share`, s.t.who.Tenant, subjects); err != nil {
		return nil, err
	}
	b := &pgx.Batch{}
	queueKeys(b, s.t.who.Tenant, ids, byID)
	return all, s.t.keys.SendBatch(ctx, b).Close()
}

// ruleShredded is that a record's key is gone: it was erased, or a sweep died between its two commits.
const ruleShredded = "shredded"

// ask says what is due of a candidate by the rules of the collection, as it is or was.
func (s *sweeper) ask(ctx context.Context, c *candidate, coll *Collection, now time.Time) (fate, error) {
	l := &lifetime{created: c.created, updated: c.updated, expires: c.expires, revealed: c.revealed, generalised: c.generalised, purposes: s.ends}
	if s.peruses() {
		if c.wrapped == nil {
			return fate{rule: ruleShredded, action: actionErase, next: c.due}, nil
		}
		o, err := s.open(ctx, &c.row)
		if err != nil {
			return fate{}, err
		}
		l.value = func(f *field) ([]byte, error) { return s.plain(o, uint32(f.number)) }
	}
	return coll.fate(l, now)
}

// judge asks a candidate's fate, and opens what doing it will ask for. A record of which it can't be told is noted as unreadable: it must not
// keep the others.
func (s *sweeper) judge(ctx context.Context, c *candidate, now time.Time) (err error) {
	if c.fate, err = s.ask(ctx, c, s.coll, now); err == nil && (len(c.fate.fields) > 0 || c.fate.action == actionAnonymise) {
		var o *opened
		if o, err = s.open(ctx, &c.row); err == nil {
			for _, box := range o.boxes {
				if _, err = s.plain(o, box.Field); err != nil {
					break
				}
			}
		}
	}
	if err != nil && AsError(err).Kind == IntegrityFailure {
		s.vault.log.WarnContext(ctx, "a record can't be judged by the rules of retention", "record", formatID(recordPrefix, c.id), "error", err)
		c.fate, c.unreadable, err = fate{}, true, nil
	}
	return err
}
