package vault

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// What the law has kept. Nobody deletes it before its time, whoever asks.

// lawful is a record that the legal minimum of its collection keeps.
type lawful struct {
	*candidate
	coll  *Collection
	until time.Time
}

// withMinimum says of a collection that it has a legal minimum.
const withMinimum = `definition->'retention'->'minimum' is not null`

// keptByLaw gives those of records that a legal minimum keeps. keys may be nil where they were not to be had: then it fails if a record has to be
// opened to know.
func (v *Vault) keptByLaw(ctx context.Context, t *txn, keys *tenantKeys, records []ID) ([]lawful, error) {
	var law bool // most tenants have none, and thousands of ids are not sent to learn that
	err := t.data.QueryRow(ctx, `
		select exists (select from privault.collections where tenant_id = $1 and `+withMinimum+`)`, t.who.Tenant).Scan(&law)
	if err != nil || !law {
		return nil, err
	}
	rows, err := t.data.Query(ctx, selectCollections+` and `+withMinimum+`
		and collection_id in (select r.collection_id from privault.records r where r.tenant_id = $1 and r.record_id = any($2))`, t.who.Tenant, records)
	if err != nil {
		return nil, err
	}
	colls, err := pgx.CollectRows(rows, scanCollection)
	if err != nil {
		return nil, err
	}
	var kept []lawful
	for _, c := range colls {
		alone := *c
		alone.rules = nil // what they count from may be damaged, or need the KMS
		if keys == nil && alone.perusing() {
			return nil, errKMSAway
		}
		w, err := v.newSweeper(ctx, &batch{txn: t, ring: keys}, &alone)
		if err != nil {
			return nil, err
		}
		all, err := w.read(ctx, `r.record_id = any($4)`, records)
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			f, err := w.ask(ctx, k, &alone, t.now)
			if err != nil {
				return nil, err
			}
			if f.until != nil {
				kept = append(kept, lawful{k, c, *f.until})
			}
		}
	}
	return kept, nil
}

// requireUnkept refuses to delete a record before the law allows it.
func (v *Vault) requireUnkept(ctx context.Context, t *txn, keys *tenantKeys, record ID) error {
	kept, err := v.keptByLaw(ctx, t, keys, []ID{record})
	if err == nil && len(kept) > 0 {
		return fail(Conflict, "the law has this record kept until %s (%s)", kept[0].until.Format(time.RFC3339), kept[0].coll.Definition.Retention.Minimum.Ground)
	}
	return err
}

// spareLawful takes out of an erasure what the law has kept, and says in it what stays, why and until when. Of a whole person those records
// are to be retainLawful's; of a part they stay as they are, for their person is still there.
func (v *Vault) spareLawful(ctx context.Context, t *txn, w *erasable, e *Erasure) error {
	keys, err := v.keyring.of(ctx, t.who.Tenant) // at hand: the person was found by them
	if err != nil {
		return err
	}
	all := w.records
	if w.part != nil {
		for _, values := range w.part.values {
			all = slices.Concat(all, values.records)
		}
	}
	kept, err := v.keptByLaw(ctx, t, keys, all)
	if err != nil || len(kept) == 0 {
		return err
	}
	stays, of := map[ID]bool{}, map[string]int{}
	for _, k := range kept {
		w.kept = append(w.kept, lineKept{lineID(k.id), k.coll.minimum.mark(&k.until)})
		stays[k.id] = true
		i, named := of[k.coll.Name]
		if !named {
			i = len(e.Retained)
			of[k.coll.Name] = i
			e.Retained = append(e.Retained, Retained{Collection: k.coll.Name, Ground: "legal-obligation", Law: k.coll.Definition.Retention.Minimum.Ground})
		}
		r := &e.Retained[i]
		if r.Records++; r.Until == nil || r.Until.Before(k.until) {
			r.Until = &k.until
		}
	}
	spared := func(id ID) bool { return stays[id] }
	w.records = slices.DeleteFunc(w.records, spared)
	e.Counts.Records = len(w.records)
	if w.part == nil {
		return nil
	}
	for i := range w.part.values {
		w.part.values[i].records = slices.DeleteFunc(w.part.values[i].records, spared)
	}
	return nil
}

// retainLawful makes records that the law has kept nobody's and unreadable from at on, though their person is erased. A sweep destroys them
// once the law lets it.
func (t *txn) retainLawful(ctx context.Context, kept []lineKept, at time.Time) error {
	records, due := make([]ID, len(kept)), make([]*time.Time, len(kept))
	for i, k := range kept {
		records[i], due[i] = ID(k.Record), k.Due
	}
	var id, collection ID
	var name string
	var version, epoch int32
	var sealed []byte
	return each(ctx, t.data, []any{&id, &collection, &name, &version, &epoch, &sealed}, func() error {
		t.entry.Resources = append(t.entry.Resources, resource{Collection: name, Records: []string{formatID(recordPrefix, id)},
			Version: version, Sealed: []string{recordDigest(collection, &at, epoch, sealed)}})
		return nil
	}, `
		update privault.records r set subject_id = null, expires_at = $2, due_at = k.due_at
		from unnest($3::uuid[], $4::timestamptz[]) as k(record_id, due_at), privault.collections c
		where r.tenant_id = $1 and r.record_id = k.record_id and c.tenant_id = $1 and c.collection_id = r.collection_id
		returning r.record_id, r.collection_id, c.name, r.version, r.epoch, r.sealed`, t.who.Tenant, at, records, due)
}
