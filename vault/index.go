package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tink-crypto/tink-go/v2/prf"

	"github.com/privault/privault/vault/datatype"
)

// A blind index says which records have a value without saying the value: rows of a keyed digest and a record's id.
// Equality is all that it can be asked for, and all that it tells whoever reads the table.

// indexExact is the index of a field's whole value, in its normalised form. Every other kind is of what derives from it.
const indexExact = datatype.Exact

// What a digest of a record is for.
const (
	markOwn   = iota // the text of an alias of the record's own: in privault.aliases
	markEntry        // an entry of the blind index
	markSole         // likewise, and no other record may have it
)

// mark is a digest that leads to a record. All marks of a record are in records.digests, by which they are found again.
type mark struct {
	digest []byte
	kind   int32
}

const digestSize = 32

// A digest's input begins with what it is for, and with the field that it belongs to, in fixed widths.
func digestInput(purpose string, collection ID, field uint16) []byte {
	in := make([]byte, 0, len(purpose)+16+2+64)
	in = append(append(in, purpose...), collection[:]...)
	return binary.BigEndian.AppendUint16(in, field)
}

// allDigests are the digests of one input under every key of a set, the primary one first: until everything is under the
// primary, what is looked for may be under another.
func allDigests(set *prf.Set, input []byte) ([][]byte, error) {
	all := make([][]byte, 0, len(set.PRFs))
	for _, key := range keysOf(set) {
		d, err := key.ComputePRF(input, digestSize)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// keysOf are the enabled keys of a set, the primary one first.
func keysOf(set *prf.Set) []prf.PRF {
	keys := make([]prf.PRF, 1, len(set.PRFs))
	for id, key := range set.PRFs {
		if id == set.PrimaryID {
			keys[0] = key
		} else {
			keys = append(keys, key)
		}
	}
	return keys
}

// index is one of a field's blind indexes. A value that is frequent shows as a digest that is frequent, so a field of skewed
// values may have one in a mode that hides it:
//
//   - bucketed: the digest is of one of so many buckets, each of which many values fall into. A search reads the bucket.
//   - smoothed: a value has so many labels, and each record takes one of them by chance. A search looks all of them up.
type index struct {
	name string // as defined: exact, last4, exact/smoothed:1024
	kind string // what of a value it is of
	mode string // bucketed, smoothed, or none
	n    int    // buckets, or labels of each value
}

const (
	bucketed = "bucketed"
	smoothed = "smoothed"
)

// The bounds of the modes. With fewer buckets a search reads too much, and with fewer values for each a bucket tells its
// value; with more labels, a search looks up too many.
const (
	mostBuckets     = 1 << 16
	valuesOfABucket = 8
	fewestLabels    = 16
	mostLabels      = 4096
	fewestSmoothed  = 100 // different values
)

// parseIndex takes an index's name apart; false: it names no mode that there is.
func parseIndex(name string) (index, bool) {
	kind, how, moded := strings.Cut(name, "/")
	x := index{name: name, kind: kind}
	if !moded {
		return x, true
	}
	mode, count, _ := strings.Cut(how, ":")
	n, err := strconv.Atoi(count)
	x.mode, x.n = mode, n
	known := mode == bucketed && n >= 2 && n <= mostBuckets || mode == smoothed && n >= fewestLabels && n <= mostLabels
	return x, err == nil && known && strconv.Itoa(n) == count
}

// indexOf gives the field's index of a kind, in whatever mode it is.
func (f *field) indexOf(kind string) (index, bool) {
	for _, x := range f.index {
		if x.kind == kind || x.name == kind {
			return x, true
		}
	}
	return index{}, false
}

// equals is what an index is built on, of a value that is sought.
func (f *field) equals(x index, raw Secret) ([]byte, *datatype.Fault) {
	return f.typ.Seek(x.kind, raw.Reveal())
}

// digest is what one key makes of what the index is of. label is that of smoothed; else it has no meaning.
func (x index) digest(key prf.PRF, coll *Collection, f *field, derived []byte, label uint32) ([]byte, error) {
	in := append(append(digestInput("privault/1/index", coll.id, f.number), x.name...), 0)
	switch x.mode {
	case smoothed:
		in = binary.BigEndian.AppendUint32(in, label)
	case bucketed:
		which, err := key.ComputePRF(append(in, derived...), 8)
		if err != nil {
			return nil, err
		}
		in = append(append(digestInput("privault/1/bucket", coll.id, f.number), x.name...), 0)
		derived = binary.BigEndian.AppendUint32(nil, uint32(binary.BigEndian.Uint64(which)%uint64(x.n)))
	}
	return key.ComputePRF(append(in, derived...), digestSize)
}

// digests are those that a value may stand under, under every key, the primary one first.
func (x index) digests(set *prf.Set, coll *Collection, f *field, derived []byte) ([][]byte, error) {
	labels := 1
	if x.mode == smoothed {
		labels = x.n
	}
	var all [][]byte
	for _, key := range keysOf(set) {
		for label := range labels {
			d, err := x.digest(key, coll, f, derived, uint32(label))
			if err != nil {
				return nil, err
			}
			all = append(all, d)
		}
	}
	return all, nil
}

// label is the label of a record's entry: the one that it has, or one by chance.
func (x index) label(set *prf.Set, coll *Collection, f *field, derived []byte, had [][]byte) (uint32, error) {
	if x.mode != smoothed || len(had) == 0 {
		return x.chance(), nil
	}
	all, err := x.digests(set, coll, f, derived)
	for i, d := range all {
		if has(had, d) {
			return uint32(i % x.n), nil
		}
	}
	return x.chance(), err
}

// chance is a label for a new entry.
func (x index) chance() uint32 {
	if x.mode != smoothed {
		return 0
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return uint32(binary.BigEndian.Uint64(b[:]) % uint64(x.n))
}

// checkIndex validates what a field's definition says of indexes, and puts the kinds in order.
func (f *FieldDefinition) checkIndex(at string, bad func(pointer, rule, detail string)) {
	slices.Sort(f.Index)
	typ, _, err := f.recall()
	if err != nil {
		return // the type was refused
	}
	had := map[string]bool{}
	for _, name := range f.Index {
		x, known := parseIndex(name)
		n := typ.Cardinality(x.kind)
		switch {
		case n == 0:
			bad(at+"/index", "index", "values of the type "+f.Type+" have the indexes "+list(typ.Kinds()))
		case !known:
			bad(at+"/index", "mode", fmt.Sprintf("an index's mode is bucketed:n, n 2 to %d, or smoothed:n, n %d to %d", mostBuckets, fewestLabels, mostLabels))
		case x.fewest() > n:
			bad(at+"/index", string(IndexDomainTooSmall), fmt.Sprintf("an index %s on the type %s would have about %d different values, and %d are the least: "+
				"their frequencies alone would tell them", name, f.Type, n, x.fewest()))
		case had[x.kind]:
			bad(at+"/index", "duplicate", "a field has one index of a kind")
		}
		had[x.kind] = true
	}
	if f.Unique && !slices.Contains(f.Index, indexExact) {
		bad(at+"/unique", "index", "a unique field has the index exact")
	}
}

// fewest is how many different values an index must be expected to have.
func (x index) fewest() int {
	switch x.mode {
	case bucketed:
		return valuesOfABucket * x.n
	case smoothed:
		return fewestSmoothed
	}
	return datatype.FewestValues
}

// derive gives what an index is built on; false: nothing of the value falls under it.
func (f *field) derive(x index, plain []byte) ([]byte, bool) {
	return f.typ.Derive(x.kind, plain)
}

// marksOf are the index entries of one value. An entry that no other record may have stands under every key, or two
// records could have it under one each while the keys change.
//
// had are the digests that the record has: an entry that is one of many labels keeps its label. Who sees one record under
// several would learn which belong together.
func (k *tenantKeys) marksOf(coll *Collection, f *field, plain []byte, had [][]byte) ([]mark, error) {
	marks := make([]mark, 0, len(f.index))
	for _, x := range f.index {
		derived, falls := f.derive(x, plain)
		if !falls {
			continue
		}
		if f.unique && x.name == indexExact {
			all, err := x.digests(k.index, coll, f, derived)
			if err != nil {
				return nil, err
			}
			for _, d := range all {
				marks = append(marks, mark{d, markSole})
			}
			continue
		}
		label, err := x.label(k.index, coll, f, derived, had)
		if err != nil {
			return nil, err
		}
		d, err := x.digest(k.index.PRFs[k.index.PrimaryID], coll, f, derived, label)
		if err != nil {
			return nil, err
		}
		marks = append(marks, mark{d, markEntry})
	}
	return marks, nil
}

// unbind removes what leads to a record by some of its digests: index entries, aliases of its own, and those of its values
// that no other record has.
func (t *txn) unbind(ctx context.Context, record ID, digests [][]byte) error {
	if len(digests) == 0 {
		return nil
	}
	_, _, err := t.unbindAll(ctx, slices.Repeat([]ID{record}, len(digests)), digests)
	return err
}

// unbindRecords removes all that leads to records, whose rows go after it.
func (t *txn) unbindRecords(ctx context.Context, records []ID) (aliases, entries int, err error) {
	var bound []ID
	var digests [][]byte
	err = t.data.QueryRow(ctx, `
		select array_agg(r.record_id), array_agg(d.digest) from privault.records r cross join lateral unnest(r.digests) d(digest)
		where r.tenant_id = $1 and r.record_id = any($2)`, t.who.Tenant, records).Scan(&bound, &digests)
	if err != nil || len(digests) == 0 {
		return 0, 0, err
	}
	return t.unbindAll(ctx, bound, digests)
}

// countBound says what unbindRecords would remove.
func (t *txn) countBound(ctx context.Context, records []ID) (aliases, entries int, err error) {
	err = t.data.QueryRow(ctx, `
		with led as (
			select distinct d.digest from privault.records r cross join lateral unnest(r.digests) d(digest)
			where r.tenant_id = $1 and r.record_id = any($2)
		)
		select (select count(*) from privault.aliases a join led on a.text_digest = led.digest
				where a.tenant_id = $1 and a.record_id = any($2))
			+ (select count(*) from privault.aliases a join led on a.value_digest = led.digest
				where a.tenant_id = $1 and not exists (select from privault.blind_index i
					where i.tenant_id = $1 and i.digest = a.value_digest and i.record_id <> all ($2))),
			(select count(*) from privault.blind_index i join led using (digest)
				where i.tenant_id = $1 and i.record_id = any($2))`, t.who.Tenant, records).Scan(&aliases, &entries)
	return aliases, entries, err
}

// unbindAll removes what leads to each record by the digest beside it. It locks the aliases first: who hands one out to another
// record meanwhile has either committed that before, and is seen by the statement that looks for holders, or finds the alias gone.
func (t *txn) unbindAll(ctx context.Context, records []ID, digests [][]byte) (aliases, entries int, err error) {
	_, err = t.data.Exec(ctx, `
		select from privault.aliases where tenant_id = $1 and value_digest = any($2) order by value_digest, generation for update`,
		t.who.Tenant, digests)
	if err != nil {
		return 0, 0, err
	}
	done, err := t.data.Exec(ctx, `
		delete from privault.blind_index i using unnest($2::bytea[], $3::uuid[]) as b(digest, record_id)
		where i.tenant_id = $1 and i.digest = b.digest and i.record_id = b.record_id`, t.who.Tenant, digests, records)
	if err != nil {
		return 0, 0, err
	}
	aliases, err = t.dropAliases(ctx, records, digests)
	return aliases, int(done.RowsAffected()), err
}

// dropAliases deletes the records' own aliases, and those of values that no record has any more. It is a statement of its
// own: its snapshot must be taken when the locks are held.
func (t *txn) dropAliases(ctx context.Context, records []ID, digests [][]byte) (gone int, err error) {
	err = t.data.QueryRow(ctx, `
		with own as (
			delete from privault.aliases where tenant_id = $1 and text_digest = any($2) and record_id = any($3)
			returning space
		), orphaned as (
			delete from privault.aliases a where a.tenant_id = $1 and a.value_digest = any($2) and not exists (
				select from privault.blind_index i where i.tenant_id = $1 and i.digest = a.value_digest)
			returning a.space
		), gone as (
			select space from own union all select space from orphaned
		)`+freeSpaces+`
		select count(*) from gone`, t.who.Tenant, digests, records).Scan(&gone)
	return gone, err
}

// freeSpaces gives the texts of aliases that are gone back to their spaces.
const freeSpaces = `, freed as (
			update privault.alias_spaces s set used = s.used - g.n
			from (select space, count(*) as n from gone where space is not null group by space) g
			where s.tenant_id = $1 and s.digest = g.space
		)`

// digestsOf are the digests of marks, as records.digests has them; nil for none.
func digestsOf(marks []mark) [][]byte {
	var all [][]byte
	for _, m := range marks {
		all = append(all, m.digest)
	}
	return all
}

// has says whether a digest is among others.
func has(digests [][]byte, d []byte) bool {
	return slices.ContainsFunc(digests, func(have []byte) bool { return bytes.Equal(have, d) })
}

// without are the digests of all that others don't have.
func without(all, others [][]byte) [][]byte {
	var left [][]byte
	for _, d := range all {
		if !has(others, d) {
			left = append(left, d)
		}
	}
	return left
}
