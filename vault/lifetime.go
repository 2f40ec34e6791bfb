package vault

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/privault/privault/vault/seal"
)

// What is due is unreadable at once, whenever a sweep comes. Rules are asked whenever a record is opened, with the definition that was
// in force when its row was read, so that a shorter rule holds from its commit on. due_at serves to find records, and may lie: a
// job brings it up to date after a change of the rules (restateStep).

// errDue is how opening a record ends that is due: it isn't there.
var errDue = fail(NotFound, "")

// lifetime is what the rules ask of a stored record.
func (r *reader) lifetime(o *opened) *lifetime {
	return &lifetime{created: o.row.created, updated: o.row.updated, expires: o.row.expires, revealed: o.row.revealed,
		generalised: o.row.generalised, purposes: r.purposes(),
		value: func(f *field) ([]byte, error) { return r.plain(o, uint32(f.number)) }}
}

func (r *reader) purposes() map[string]Purpose {
	if r.ends != nil {
		return r.ends
	}
	return r.entry.law.purposes
}

// outlive takes from a record what is due of it, or says that all of it is.
func (r *reader) outlive(o *opened) error {
	f, err := o.coll.fate(r.lifetime(o), r.entry.at)
	if err != nil {
		return err
	}
	if f.rule != "" {
		return errDue
	}
	for _, due := range f.fields {
		delete(o.plain, uint32(due.of.number))
		if due.action == actionAnonymise {
			o.vague = append(o.vague, due.of)
			continue
		}
		o.boxes = slices.DeleteFunc(o.boxes, func(box seal.Box) bool { return box.Field == uint32(due.of.number) })
	}
	return nil
}

// bindable are the values that digests are kept of: nothing leads to what is left of the others.
func bindable(values []value, generalised []int16) []value {
	if len(generalised) == 0 {
		return values
	}
	return slices.DeleteFunc(slices.Clone(values), func(v value) bool {
		return v.number != wholly && slices.Contains(generalised, int16(v.number)) || slices.Contains(generalised, wholly)
	})
}

// stillGeneral are the fields of which a patch leaves no more than there was, those among them that are due and that it
// is written anew without.
func (o *opened) stillGeneral(p Patch) []int16 {
	var still []int16
	for _, n := range o.row.generalised {
		if f := o.coll.byNumber(uint32(n)); f == nil || !slices.Contains(p.names(), f.name) {
			still = append(still, n)
		}
	}
	for _, f := range o.vague {
		if !slices.Contains(p.names(), f.name) {
			still = append(still, int16(f.number))
		}
	}
	return still
}

func sameTime(a, b *time.Time) bool { return a == b || a != nil && b != nil && a.Equal(*b) }

const (
	restateJob = "restate-retention" // brings due_at of a collection's records up to date
	// How many of the tenant's records one batch looks at.
	restateBatch = 2000
)

type restateParams struct {
	Collection string `json:"collection"`
}

// restate enqueues the job after a change of what makes records of a collection due.
func (t *txn) restate(ctx context.Context, before, after *Definition, name string) error {
	if sameRules(before, after) {
		return nil
	}
	_, err := t.enqueue(ctx, restateJob, restateParams{name})
	return err
}

// sameRules says whether two definitions of a collection make the same records due.
func sameRules(a, b *Definition) bool { return rulesOf(a) == rulesOf(b) }

// rulesOf are a definition's rules as a text.
func rulesOf(d *Definition) string {
	all := map[string]*Retention{"": d.Retention}
	for name, f := range d.Fields {
		if f.Retention != nil {
			all[name] = f.Retention
		}
	}
	text, _ := json.Marshal(all) // strings only
	return string(text)
}

// restateFor does it for the collections whose rules count from a purpose's end.
func (t *txn) restateFor(ctx context.Context, purpose string) error {
	colls, err := collectionsOf(ctx, t.data, t.who.Tenant)
	if err != nil {
		return err
	}
	for _, c := range colls {
		if slices.ContainsFunc(c.rules, func(r *rule) bool { return r.purpose == purpose }) {
			if _, err := t.enqueue(ctx, restateJob, restateParams{c.Name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// restateAt is where the job is. It begins once no replica writes by purposes of before.
type restateAt struct {
	Waited bool `json:"waited"`
	Record ID   `json:"record"`
}

func (v *Vault) restateStep(ctx context.Context, b *batch) (done int, more bool, err error) {
	var p restateParams
	var at restateAt
	if err := b.read(&p); err != nil {
		return 0, false, err
	}
	if err := b.resume(&at); err != nil {
		return 0, false, err
	}
	coll, err := b.namedCollection(ctx, p.Collection)
	if AsError(err).Kind == NotFound {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if !at.Waited && slices.ContainsFunc(coll.rules, func(r *rule) bool { return r.purpose != "" }) {
		b.after = 2 * lawLife
		return 0, true, b.leave(restateAt{Waited: true})
	}
	at.Waited = true
	until, err := b.window(ctx, at.Record, restateBatch)
	if err != nil {
		return 0, false, err
	}
	s, err := v.newSweeper(ctx, b, coll)
	if err != nil {
		return 0, false, err
	}
	rows, err := s.read(ctx, `r.record_id > $4 and r.record_id <= $5 order by r.record_id for update of r`, at.Record, until)
	if err != nil {
		return 0, false, err
	}
	var marks dueMarks
	for _, row := range rows {
		f, err := s.ask(ctx, row, coll, b.now)
		if err != nil && AsError(err).Kind == IntegrityFailure {
			continue // nobody can tell; sweeps count it
		}
		if err != nil {
			return 0, false, err
		}
		marks.add(row, f.next)
	}
	if err := marks.write(ctx, b.txn); err != nil {
		return 0, false, err
	}
	at.Record = until
	return len(marks.records), until != lastID, b.leave(at)
}

// dueMarks are new values of due_at.
type dueMarks struct {
	records []ID
	due     []*time.Time
}

// add marks a record with when it is due, unless it is marked so.
func (m *dueMarks) add(c *candidate, due *time.Time) {
	if !sameTime(due, c.due) {
		m.records, m.due = append(m.records, c.id), append(m.due, microseconds(due))
	}
}

func (m *dueMarks) write(ctx context.Context, t *txn) error {
	if len(m.records) == 0 {
		return nil
	}
	_, err := t.data.Exec(ctx, `
		update privault.records r set due_at = m.due_at from unnest($2::uuid[], $3::timestamptz[]) as m(record_id, due_at)
		where r.tenant_id = $1 and r.record_id = m.record_id`, t.who.Tenant, m.records, m.due)
	return err
}
