package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Term is one condition of a search: the field's value, or what the index is of, equals a value.
type Term struct {
	Field  string
	Index  string // exact, if empty
	Equals Secret // one JSON value
}

// Search asks for the records for which all terms hold.
type Search struct {
	Collection string
	Terms      []Term
	At         func(term int) string // pointer of a term in the request
	Cursor     string
	Limit      int
}

// Match is a record that a search found: its id and tokens, and nothing of its values.
type Match struct {
	Record string
	Tokens map[string]string
}

const maxTerms = 8

// SearchRecords finds records by their blind indexes, in the order of their ids. The values are compared after they have
// been normalised. Records whose persons have restricted the processing, or don't want its purpose, are left out. next is the
// cursor of the next page; empty at the end.
func (v *Vault) SearchRecords(ctx context.Context, who Caller, s Search) (page []Match, next string, err error) {
	e, err := v.open(who, policy.Search)
	if err != nil {
		return nil, "", err
	}
	page, next, err = v.search(ctx, e, s)
	if err != nil {
		return nil, "", v.refuse(ctx, e, err)
	}
	e.Items = len(page) + e.Refused
	if err := v.commit(ctx, &change{entry: e}); err != nil {
		return nil, "", AsError(err)
	}
	v.metrics.batch(string(policy.Search), 1, 0)
	return page, next, nil
}

// sought is a term made ready.
type sought struct {
	field   *field
	index   index
	derived []byte
	digests [][]byte // under every key
}

func (v *Vault) search(ctx context.Context, e *entry, s Search) ([]Match, string, error) {
	keys, err := v.keyring.of(ctx, e.who.Tenant)
	if err != nil {
		return nil, "", err
	}
	coll, err := v.collectionNamed(ctx, e.who.Tenant, s.Collection, false)
	if err != nil {
		return nil, "", err
	}
	if err := e.requireSome(policy.Search, policy.NoView, coll, policy.SubjectFacts{}); err != nil {
		return nil, "", err
	}
	terms, err := keys.seek(coll, s)
	if err != nil && v.outdated(ctx, e.who.Tenant, coll) {
		if coll, err = v.collectionNamed(ctx, e.who.Tenant, s.Collection, false); err == nil {
			terms, err = keys.seek(coll, s)
		}
	}
	if err != nil {
		return nil, "", err
	}
	if err := e.requireEach(policy.Search, coll, fieldsOf(terms), policy.SubjectFacts{}); err != nil {
		return nil, "", err
	}
	if err := keys.spendOnTerms(ctx, e.who, coll, terms); err != nil {
		return nil, "", err
	}
	list := "search\x00" + coll.Name + "\x00" + s.Terms[0].Field + "\x00" + terms[0].index.name + "\x00" + string(terms[0].derived)
	after, err := keys.openCursor(list, s.Cursor)
	if err != nil {
		return nil, "", err
	}
	ids, generation, err := v.searchIDs(ctx, e.who.Tenant, coll.id, terms, after, s.Limit+1)
	if err == nil && generation > keys.generation {
		if keys, err = v.keyring.atLeast(keys, generation); err != nil {
			return nil, "", err
		}
		if terms, err = keys.seek(coll, s); err != nil {
			return nil, "", err
		}
		ids, _, err = v.searchIDs(ctx, e.who.Tenant, coll.id, terms, after, s.Limit+1)
	}
	if err != nil {
		return nil, "", err
	}
	var next string
	if len(ids) > s.Limit {
		ids = ids[:s.Limit]
		if next, err = keys.sealCursor(list, string(ids[s.Limit-1][:])); err != nil {
			return nil, "", err
		}
	}
	page, err := v.matches(ctx, keys, e, coll, ids, terms)
	return page, next, err
}

func fieldsOf(terms []sought) []*field {
	fields := make([]*field, len(terms))
	for i, t := range terms {
		fields[i] = t.field
	}
	return fields
}

// errStaleIndex refuses what would miss some of the values without saying so.
var errStaleIndex = fail(Conflict, "the field's index was made by another version of the service, which normalised values otherwise; "+
	"the operator makes it anew by rotating the key index")

// seek validates the terms and makes their digests.
func (k *tenantKeys) seek(coll *Collection, s Search) ([]sought, error) {
	if len(s.Terms) == 0 || len(s.Terms) > maxTerms {
		return nil, invalid("/and", "size", fmt.Sprintf("a search has 1 to %d terms", maxTerms))
	}
	terms := make([]sought, len(s.Terms))
	for i, term := range s.Terms {
		at, f, kind := s.At(i), coll.fields[term.Field], term.Index
		if kind == "" {
			kind = indexExact
		}
		if f == nil {
			return nil, invalid(at+"/field", "unknown-field", "the collection has no such field")
		}
		x, have := f.indexOf(kind)
		if !have {
			return nil, invalid(at+"/field", "not-indexed", "the field does not have that index; its definition names those that it has")
		}
		if f.stale {
			return nil, errStaleIndex
		}
		derived, fault := f.equals(x, term.Equals)
		if fault != nil {
			return nil, invalid(at+"/equals", fault.Rule, fault.Detail)
		}
		all, err := x.digests(k.index, coll, f, derived)
		if err != nil {
			return nil, err
		}
		terms[i] = sought{f, x, derived, all}
	}
	// What stands under many labels costs a look for each.
	slices.SortStableFunc(terms, func(a, b sought) int { return len(a.digests) - len(b.digests) })
	return terms, nil
}

// searchIDs finds the records that all terms hold for, and the generation of keys in force then. The first term leads, in the
// order of its index, so a page costs what it holds, however many records the term finds; terms that refuse most of them cost more.
func (v *Vault) searchIDs(ctx context.Context, tenant, collection ID, terms []sought, after string, limit int) (ids []ID, generation int32, err error) {
	var from ID
	copy(from[:], after)
	var digests [][]byte
	var term []int32
	narrowing := 0 // terms that narrow the first one's rows here; the others do when the values are compared
	for i, t := range terms[1:] {
		if t.index.mode == smoothed {
			continue
		}
		narrowing++
		for _, d := range t.digests {
			digests, term = append(digests, d), append(term, int32(i))
		}
	}
	// Each row's record is looked up and not joined: a statement that was planned before the tables were first analysed joins by reading them whole.
	found, err := v.look(ctx, tenant, ask{query: func(b *pgx.Batch) {
		b.Queue(`
			select distinct m.record_id from unnest($2::bytea[]) as first(digest) cross join lateral (
				select i.record_id from privault.blind_index i
				where i.tenant_id = $1 and i.digest = first.digest and i.record_id > $3
					and (select r.collection_id = $4 and (r.expires_at is null or r.expires_at > $5)
						from privault.records r where r.tenant_id = $1 and r.record_id = i.record_id)
					and ($8 = 0 or (select count(distinct d.term) from unnest($6::bytea[], $7::int[]) as d(digest, term)
						join privault.blind_index j on j.tenant_id = $1 and j.digest = d.digest and j.record_id = i.record_id) = $8)
				order by i.record_id limit $9) m
			order by m.record_id limit $9`,
			tenant, terms[0].digests, from, collection, v.now(), digests, term, narrowing, limit).Query(func(rows pgx.Rows) error {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[ID])
			return err
		})
	}})
	if err != nil {
		return nil, 0, err // the trip may be under way still
	}
	return ids, found.generation, nil
}

// matches reads what was found and compares the values themselves: an index row that somebody planted, or whose record has
// changed since, finds nothing.
func (v *Vault) matches(ctx context.Context, keys *tenantKeys, e *entry, coll *Collection, ids []ID, terms []sought) ([]Match, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := v.look(ctx, e.who.Tenant, ask{ids: ids, shared: ids})
	if err != nil {
		return nil, err
	}
	r := v.newReader(keys, e)
	r.unwrap(ctx, found.rows)
	page := make([]Match, 0, len(ids))
	var withheld []string
	for _, id := range ids {
		if found.rows[id] == nil {
			continue
		}
		o, err := r.open(ctx, found.rows[id])
		if errors.Is(err, errDue) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if holds, err := r.holds(o, terms); err != nil || !holds {
			if err != nil {
				return nil, err
			}
			continue
		}
		if !e.maySearch(o, terms) {
			withheld = append(withheld, o.id)
			continue
		}
		tokens, err := r.tokens(o, nil)
		if err != nil {
			return nil, err
		}
		page = append(page, Match{o.id, tokens})
	}
	names := make([]string, len(terms))
	for i, t := range terms {
		names[i] = t.field.name
	}
	slices.Sort(names)
	names = slices.Compact(names)
	e.Resources = []resource{{Collection: coll.Name, Fields: names, Records: recordsOf(page)}}
	if e.Refused = len(withheld); e.Refused > 0 {
		e.Resources = append(e.Resources, resource{Collection: coll.Name, Fields: names, Records: withheld, Outcome: outcomeDenied})
	}
	return page, nil
}

// maySearch says whether a record may be found: its person may have had the processing restricted, or not want the purpose.
func (e *entry) maySearch(o *opened, terms []sought) bool {
	if e.law.unwanted(e.who.Purpose, o.facts) {
		return false
	}
	return e.requireEach(policy.Search, o.coll, fieldsOf(terms), o.facts) == nil
}

func recordsOf(page []Match) []string {
	ids := make([]string, len(page))
	for i, m := range page {
		ids[i] = m.Record
	}
	return ids
}

// holds says whether the values of a record are what the terms say.
func (r *reader) holds(o *opened, terms []sought) (bool, error) {
	for _, t := range terms {
		plain, err := r.plain(o, uint32(t.field.number))
		if plain == nil || err != nil {
			return false, err
		}
		if derived, falls := t.field.derive(t.index, plain); !falls || !bytes.Equal(derived, t.derived) {
			return false, nil
		}
	}
	return true, nil
}
