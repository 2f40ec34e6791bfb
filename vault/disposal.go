package vault

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"time"
)

// The hands of retention: what erases records that are due, takes values from them, and makes them anonymous.

// Why something that is due stays.
const (
	skipHeld       = "held"
	skipRestricted = "restricted"
	skipMinimum    = "minimum"
	skipUnreadable = "unreadable" // it doesn't open, or a date in it doesn't parse: nobody knows what is due
)

// skipped is why a candidate that is due stays; empty: it goes.
func (c *candidate) skipped() string {
	switch {
	case c.unreadable:
		return skipUnreadable
	case c.held:
		return skipHeld
	case c.restricted:
		return skipRestricted
	case c.fate.until != nil:
		return skipMinimum
	}
	return ""
}

// count notes by which rules candidates are due, each as the collection's.
func (s *sweeper) count(due []*candidate, counts *SweepCounts) {
	for _, c := range due {
		if c.fate.rule != "" {
			counts.Rules[s.coll.Name+"/"+c.fate.rule]++
		}
		for _, r := range c.fate.fields {
			counts.Rules[s.coll.Name+"/"+r.name]++
		}
	}
}

// dispose does what is due of candidates. What became of them stands in the entry, and in counts.
func (s *sweeper) dispose(ctx context.Context, due []*candidate, counts *SweepCounts) error {
	s.count(due, counts)
	var gone, general, partly []*candidate
	for _, c := range due {
		switch {
		case c.fate.rule == "":
			partly = append(partly, c)
		case c.fate.action == actionAnonymise:
			general = append(general, c)
		default:
			gone = append(gone, c)
		}
	}
	changed, empty, err := s.trim(ctx, partly)
	if err != nil {
		return err
	}
	anonymised, err := s.anonymise(ctx, general)
	if err != nil {
		return err
	}
	counts.Anonymised += changed + anonymised
	counts.Deleted += int64(len(due)) - changed - anonymised
	return s.erase(ctx, slices.Concat(gone, empty, general))
}

// erase shreds records and deletes their rows, with all that leads to them.
func (s *sweeper) erase(ctx context.Context, gone []*candidate) error {
	if len(gone) == 0 {
		return nil
	}
	all, bound := make([]ID, 0, len(gone)), []ID{}
	said := resource{Collection: s.coll.Name, Outcome: outcomeDeleted, Records: make([]string, 0, len(gone))}
	var digests [][]byte
	for _, c := range gone {
		all, said.Records = append(all, c.id), append(said.Records, formatID(recordPrefix, c.id))
		for _, d := range c.digests {
			bound, digests = append(bound, c.id), append(digests, d)
		}
	}
	s.entry.Resources = append(s.entry.Resources, said)
	_, err := s.t.keys.Exec(ctx, `
		delete from keystore.data_keys where tenant_id = $1 and record_id = any($2)`, s.t.who.Tenant, all)
	if err == nil && len(bound) > 0 {
		_, _, err = s.t.unbindAll(ctx, bound, digests)
	}
	if err == nil {
		_, err = s.t.data.Exec(ctx, `delete from privault.records where tenant_id = $1 and record_id = any($2)`, s.t.who.Tenant, all)
	}
	return err
}

// anonymise writes what may be left of records as records of nobody, with other ids and the time of now: nothing but the batch
// says which one was which, and it doesn't say in what order. The old ones are the caller's to erase.
func (s *sweeper) anonymise(ctx context.Context, all []*candidate) (made int64, err error) {
	if len(all) == 0 {
		return 0, nil
	}
	var ids []ID
	var sealed, wrapped [][]byte
	said := map[string]string{}
	for _, c := range all {
		values, err := s.general(ctx, c)
		if err != nil {
			return 0, err
		}
		if len(values) == 0 {
			continue
		}
		id, err := unorderedID(s.t.now)
		if err != nil {
			return 0, err
		}
		key, w, err := s.keys.newDEK(id, 1)
		if err != nil {
			return 0, err
		}
		box, err := s.keys.sealRecord(key, s.coll.id, id, 1, values)
		if err != nil {
			return 0, err
		}
		ids, sealed, wrapped = append(ids, id), append(sealed, box), append(wrapped, w)
		said[formatID(recordPrefix, id)] = recordDigest(s.coll.id, nil, 0, box)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	wrote := resource{Collection: s.coll.Name, Outcome: outcomeAnonymised, Version: 1, Records: slices.Sorted(maps.Keys(said))}
	for _, record := range wrote.Records {
		wrote.Sealed = append(wrote.Sealed, said[record])
	}
	s.entry.Resources = append(s.entry.Resources, wrote)
	_, err = s.t.keys.Exec(ctx, `
		insert into keystore.data_keys (tenant_id, record_id, version, wrapped, created_at)
		select $1, k.record_id, 1, k.wrapped, $2 from unnest($3::uuid[], $4::bytea[]) as k(record_id, wrapped)`, s.t.who.Tenant, s.t.now, ids, wrapped)
	if err != nil {
		return 0, err
	}
	_, err = s.t.data.Exec(ctx, `
		insert into privault.records (tenant_id, record_id, collection_id, version, epoch, sealed, created_at, updated_at, generalised)
		select $1, n.record_id, $2, 1, 0, n.sealed, $3, $3, $6 from unnest($4::uuid[], $5::bytea[]) as n(record_id, sealed) order by n.record_id`,
		s.t.who.Tenant, s.coll.id, s.t.now, ids, sealed, []int16{wholly})
	return int64(len(ids)), err
}

// general is what is left of a record's values.
func (s *sweeper) general(ctx context.Context, c *candidate) ([]value, error) {
	o, err := s.open(ctx, &c.row)
	if err != nil {
		return nil, err
	}
	var values []value
	for _, f := range s.coll.order {
		plain, err := s.plain(o, uint32(f.number))
		if err != nil {
			return nil, err
		}
		if left, ok := f.typ.Generalise(plain); ok {
			values = append(values, value{uint32(f.number), left})
		}
	}
	return values, nil
}

// unorderedID is an id of a time that says nothing about the order in which ids of that time were made.
func unorderedID(at time.Time) (ID, error) {
	id, err := newIDAt(at)
	if err != nil {
		return id, err
	}
	_, err = rand.Read(id[6:8]) // where the library counts within a millisecond
	id[6] = id[6]&0x0f | 0x70   // version 7 (RFC 9562)
	return id, err
}

// trim takes the values from records whose fields are due, or leaves what may be left of them. It gives how many it changed, and
// those that are empty then.
func (s *sweeper) trim(ctx context.Context, all []*candidate) (changed int64, empty []*candidate, err error) {
	var moved []*rebinding
	var written []rewriting
	for _, c := range all {
		o, err := s.open(ctx, &c.row)
		if err != nil {
			return 0, nil, err
		}
		w := rewriting{expires: c.expires, epoch: c.epoch, generalised: c.generalised, quiet: true}
		fields := 0
		for _, box := range o.boxes {
			f := s.coll.byNumber(box.Field)
			if f == nil && box.Field != subjectField {
				continue // an alias, which rebind carries along
			}
			plain, err := s.plain(o, box.Field)
			if err != nil {
				return 0, nil, err
			}
			if f != nil {
				if i := slices.IndexFunc(c.fate.fields, func(r *rule) bool { return r.of == f }); i >= 0 {
					w.fields = append(w.fields, f.name)
					if c.fate.fields[i].action == actionErase {
						continue
					}
					plain, _ = f.typ.Generalise(plain)
					w.generalised = append(slices.Clip(w.generalised), int16(f.number))
				}
				fields++
			}
			w.values = append(w.values, value{box.Field, plain})
		}
		if fields == 0 {
			empty = append(empty, c)
			continue
		}
		slices.Sort(w.fields)
		moved, written = append(moved, &rebinding{opened: o, values: bindable(w.values, w.generalised)}), append(written, w)
	}
	if len(moved) == 0 {
		return 0, empty, nil
	}
	if err := s.rebind(ctx, s.t, moved, false); err != nil {
		return 0, nil, err
	}
	for i := range moved {
		written[i].bound = moved[i].bound
		if _, err := s.rewrite(ctx, s.t, moved[i].opened, written[i]); err != nil {
			return 0, nil, err
		}
	}
	return int64(len(moved)), empty, nil
}
