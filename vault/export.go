package vault

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// The way out: all records of a collection, with their tokens, each field in the view that was asked for.

// Export asks for the records of a collection that are there when it begins.
type Export struct {
	Collection string
	Fields     []string          // nil: all
	View       string            // of all fields that Views doesn't name; empty: masked
	Views      map[string]string // by field
	Previous   bool              // whether tokens of before are wanted, which a rotation of FPE keys has replaced
	After      string            // the record behind which an export goes on that was cut short; empty: the first
}

// Exported is one record, or its id and why it is withheld.
type Exported struct {
	*Record
	Err *Error
}

const (
	// A page is what is in memory at once, and what one entry is about.
	exportPage  = 500
	exportBytes = 4 << 20 // sealed
	// How many records of the tenant are looked at for a page: those of other collections are passed over.
	exportScan = 5000
)

// ExportRecords gives a collection's records to send, page by page, in the order of their ids. A page's entry is durable
// before it is sent. Records that may not be shown as was asked are sent as errors: none is left out, and none shows less than
// was asked for. It ends early with the error of send.
func (v *Vault) ExportRecords(ctx context.Context, who Caller, x Export, send func([]Exported) error) error {
	e, err := v.open(who, policy.Export)
	if err != nil {
		return err
	}
	p, err := v.planExport(ctx, e, x)
	if err != nil {
		return v.refuse(ctx, e, err)
	}
	for {
		page, more, err := v.exportPage(ctx, e, p)
		if err != nil {
			return v.refuse(ctx, e, err)
		}
		if err := v.commit(ctx, &change{entry: e}); err != nil {
			return AsError(err)
		}
		v.metrics.batch(string(policy.Export), e.Items, e.Refused)
		if err := send(page); err != nil || !more {
			return err
		}
		if e, err = v.open(who, policy.Export); err != nil {
			return err
		}
	}
}

// exportPlan is an export under way.
type exportPlan struct {
	coll     *Collection
	fields   []string
	previous bool
	view     policy.View
	views    map[string]policy.View
	scan     scan
}

// scan is a way through the records of a collection, in the order of their ids.
type scan struct {
	collection ID
	subject    *ID // only this person's; nil: everybody's
	at         ID  // the last record that was looked at
	until      ID  // the first that is too late
}

func (p *exportPlan) viewOf(f *field) policy.View {
	if view, named := p.views[f.name]; named {
		return view
	}
	return p.view
}

// planExport validates what is asked for, and decides as far as can be said before the records are read.
func (v *Vault) planExport(ctx context.Context, e *entry, x Export) (*exportPlan, error) {
	coll, err := v.collectionNamed(ctx, e.who.Tenant, x.Collection, true)
	if err != nil {
		return nil, err
	}
	p := &exportPlan{coll: coll, fields: x.Fields, previous: x.Previous, views: map[string]policy.View{}, scan: scan{collection: coll.id}}
	if p.scan.until, err = newIDAt(v.now()); err != nil {
		return nil, err
	}
	var faults faults
	if p.view, err = policy.ParseView(x.View); err != nil {
		faults.add("/view", "view", err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(x.Views)) {
		view, err := policy.ParseView(x.Views[name])
		if err != nil {
			faults.add("/views", "view", err.Error())
		}
		p.views[name] = view
	}
	for at, names := range map[string][]string{"/fields": x.Fields, "/views": slices.Collect(maps.Keys(x.Views))} {
		if slices.ContainsFunc(names, func(name string) bool { return coll.fields[name] == nil }) {
			faults.add(at, "unknown-field", "the collection has no such field")
		}
	}
	if x.After != "" {
		after, ok := parseID(recordPrefix, x.After)
		if !ok {
			faults.add("/after", "record", "after is the id of the last record that was received")
		}
		p.scan.at = after
	}
	if err := p.decide(e, policy.SubjectFacts{}); err != nil {
		return nil, err
	}
	return p, faults.err()
}

// decide asks for each field in its view.
func (p *exportPlan) decide(e *entry, s policy.SubjectFacts) error {
	if len(p.coll.order) == 0 {
		return e.requireField(policy.Export, p.view, p.coll, nil, s)
	}
	for _, f := range p.coll.order {
		if len(p.fields) > 0 && !slices.Contains(p.fields, f.name) {
			continue
		}
		if err := e.requireField(policy.Export, max(p.viewOf(f), policy.Redacted), p.coll, f, s); err != nil {
			return err
		}
	}
	return nil
}

// exportPage reads the next records and shows them; more says whether there may be others behind them.
func (v *Vault) exportPage(ctx context.Context, e *entry, p *exportPlan) (page []Exported, more bool, err error) {
	if err := p.decide(e, policy.SubjectFacts{}); err != nil {
		return nil, false, err // the policy may have changed since the last page
	}
	keys, err := v.keyring.of(ctx, e.who.Tenant)
	if err != nil {
		return nil, false, err
	}
	ids, more, err := v.scanIDs(ctx, e.who.Tenant, &p.scan)
	if err != nil {
		return nil, false, err
	}
	r := v.newReader(keys, e)
	found := &found{}
	if len(ids) > 0 {
		if found, err = v.look(ctx, e.who.Tenant, ask{ids: ids, shared: ids}); err != nil {
			return nil, false, err
		}
	}
	r.unwrap(ctx, found.rows)
	page = make([]Exported, 0, len(ids))
	for _, id := range ids {
		if found.rows[id] == nil {
			continue // gone, or expired, since it was looked for
		}
		x := Exported{}
		if x.Record, err = r.export(ctx, found.rows[id], p); errors.Is(err, errDue) {
			continue
		}
		if err != nil {
			x.Record, x.Err = &Record{ID: formatID(recordPrefix, id)}, r.failed(ctx, err)
		}
		page = append(page, x)
	}
	r.conclude()
	e.Items = len(page)
	return page, more, nil
}

// export shows one record.
func (r *reader) export(ctx context.Context, row *row, p *exportPlan) (*Record, error) {
	o, err := r.open(ctx, row)
	if err != nil {
		return nil, err
	}
	if o.coll.shared && !o.complete() { // an alias was made between the two reads
		delete(r.opened, row.id)
		if o, err = r.openWithAliases(ctx, o.coll.Name, row.id); err != nil {
			return nil, err
		}
	}
	if err := r.entry.requireUnrestricted(o.facts); err != nil {
		return nil, err
	}
	rec, err := r.record(o, p.fields, policy.Export, p.viewOf)
	if err == nil && p.previous {
		rec.Previous, err = r.previous(o, p.fields)
	}
	return rec, err
}

// previous gives the tokens that the record's values had before, oldest first, and that go on resolving: by them the owner
// of a column finds which new token stands for which old one.
func (r *reader) previous(o *opened, fields []string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, f := range o.coll.order {
		current := o.row.ofField(f.number)
		if current == nil || len(fields) > 0 && !slices.Contains(fields, f.name) {
			continue
		}
		plain, err := r.plain(o, uint32(f.number))
		if err != nil {
			return nil, err
		}
		older := slices.DeleteFunc(slices.Clone(o.row.aliases), func(a *alias) bool {
			return a.field != f.number || a.generation >= current.generation
		})
		slices.SortFunc(older, func(a, b *alias) int { return cmp.Compare(a.generation, b.generation) })
		for _, a := range older {
			text, err := r.keys.openAlias(a, plain)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(all[f.name], text) { // while alias keys change, a text may have a row under each
				all[f.name] = append(all[f.name], text)
			}
		}
	}
	return all, nil
}

// scanIDs gives the ids of the next records of a scan. It looks at a bounded number of the tenant's or the person's records: an
// index by collection would cost every insert more than it saves an export.
func (v *Vault) scanIDs(ctx context.Context, tenant ID, s *scan) (ids []ID, more bool, err error) {
	args, whose := []any{tenant, s.at, s.until, s.collection, exportScan, exportPage}, ""
	if s.subject != nil {
		args, whose = append(args, s.subject), "and r.subject_id = $7"
	}
	// The trip may outlast the caller, who then leaves with nothing of what it finds.
	var found []ID
	size, at, last := 0, s.at, false
	_, err = v.look(ctx, tenant, ask{query: func(b *pgx.Batch) {
		// Postgres stops at a page's records, or at the last that may be looked at, which is there whosever it is.
		b.Queue(`
			select r.record_id, r.ours, r.n = $5, r.size
			from (
				select r.record_id, r.collection_id = $4 ours, octet_length(r.sealed) size, row_number() over (order by r.record_id) n
				from privault.records r where r.tenant_id = $1 and r.record_id > $2 and r.record_id < $3 `+whose+`
				order by r.record_id limit $5) r
			where r.ours or r.n = $5 limit $6`, args...).Query(func(rows pgx.Rows) error {
			defer rows.Close()
			for rows.Next() && !last {
				var ours bool
				var sealed int
				if err := rows.Scan(&at, &ours, &last, &sealed); err != nil {
					return err
				}
				if ours {
					found, size = append(found, at), size+sealed
				}
				last = last || len(found) == exportPage || size >= exportBytes
			}
			return rows.Err()
		})
	}})
	if err != nil {
		return nil, false, err
	}
	s.at = at
	return found, last, nil
}
