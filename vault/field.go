package vault

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/policy"
)

// What a field's definition says of its values: their type, their mask, and the normaliser that they are matched by.

// checkType validates the type and the mask.
func (d *FieldDefinition) checkType(at string, bad func(pointer, rule, detail string)) {
	if len(d.Normalise) == 0 {
		d.Normalise = nil // as it comes back from the database
	}
	typ, known := datatype.Lookup(d.Type)
	if reason, refused := datatype.Refused(d.Type); refused {
		bad(at+"/type", "not-storable", reason)
		return
	}
	switch {
	case d.Type == datatype.CustomName:
		var f *datatype.Fault
		if typ, f = datatype.Custom(d.custom()); f != nil {
			bad(at+"/"+f.Rule, f.Rule, f.Detail)
			return
		}
	case !known:
		bad(at+"/type", "type", "the types are "+list(datatype.Names())+" and "+datatype.CustomName)
		return
	case d.Pattern != "":
		bad(at+"/pattern", "pattern", "pattern and normalise belong to the type custom")
	case len(d.Normalise) > 0:
		bad(at+"/normalise", "normalise", "pattern and normalise belong to the type custom")
	}
	if d.Mask == nil {
		return
	}
	if _, f := typ.NewMask(*d.Mask); f != nil {
		bad(at+"/mask", f.Rule, f.Detail)
	}
}

func (d *FieldDefinition) custom() datatype.CustomDefinition {
	return datatype.CustomDefinition{Pattern: d.Pattern, Normalise: d.Normalise}
}

// recall gives the type and the mask of a definition that was checked when it was made.
func (d *FieldDefinition) recall() (datatype.Type, datatype.Mask, error) {
	typ, known := datatype.Lookup(d.Type)
	if d.Type == datatype.CustomName {
		var f *datatype.Fault
		if typ, f = datatype.Recall(d.custom()); f != nil {
			return datatype.Type{}, datatype.Mask{}, f
		}
		known = true
	}
	if !known {
		return datatype.Type{}, datatype.Mask{}, errors.New("its type is not known")
	}
	if d.Mask == nil {
		return typ, typ.DefaultMask(), nil
	}
	mask, f := typ.NewMask(*d.Mask)
	if f != nil {
		return datatype.Type{}, datatype.Mask{}, f
	}
	return typ, mask, nil
}

// loosens says whether the field's mask shows more than it did. A mask strands nothing, so it may change; but what shows
// more to everybody who may see masked values is noted in the audit entry, and refused in a restricted field.
func (d *FieldDefinition) loosens(was FieldDefinition) bool {
	_, is, err := d.recall()
	_, before, errBefore := was.recall()
	return err == nil && errBefore == nil && is.ShowsMore(before)
}

// nondisclosable says what kind of identifier the field's values are, if the CCPA keeps them from being handed out: by the
// type, or because the owner says so.
func (d *FieldDefinition) nondisclosable(typ datatype.Type) string {
	if what := typ.Nondisclosable(); what != "" || !d.Nondisclosable {
		return what
	}
	return "an identifier of a kind that may not be sent"
}

// noteLoosened writes into the entry which fields' masks, or packages for the person (package.go), show more from now on.
func (t *txn) noteLoosened(before *Collection, after Definition) {
	var fields []string
	for name, is := range after.Fields {
		if was, had := before.Definition.Fields[name]; had && (is.loosens(was) || was.Nondisclosable && !is.Nondisclosable) {
			fields = append(fields, name)
		}
	}
	if len(fields) > 0 {
		slices.Sort(fields)
		t.entry.Resources = append(t.entry.Resources, resource{Collection: before.Name, Fields: fields, Outcome: outcomeLoosened})
	}
}

// normalisers are the versions that the digests of the fields' values are made with. A field that had digests keeps its
// version when the definition changes: they were not made anew.
func normalisers(d Definition, before *Collection) map[string]int {
	all := make(map[string]int, len(d.Fields))
	for name := range d.Fields {
		all[name] = datatype.NormaliserVersion
		if before != nil && before.normalisers[name] != 0 && before.Definition.Fields[name].matched() {
			all[name] = before.normalisers[name]
		}
	}
	return all
}

// matched says whether digests of the field's normalised values are kept.
func (d FieldDefinition) matched() bool {
	return len(d.Index) > 0 || d.Token.Strategy != strategyRandom && d.Token.Strategy != strategyNone
}

// firstNormaliser is the version of collections that were stored before versions were.
const firstNormaliser = 1

// adoptNormalisers fills in what was stored before there were versions.
func (s *stored) adoptNormalisers() map[string]int {
	all := make(map[string]int, len(s.Fields))
	for name := range s.Fields {
		if all[name] = s.Normalisers[name]; all[name] == 0 {
			all[name] = firstNormaliser
		}
	}
	return all
}

// Stale are the fields whose index, or tokens that are equal for equal values, were made by another version of the
// normaliser than the server's: until they are made anew, looking for a value by them would miss some silently.
func (c *Collection) Stale() []string {
	var names []string
	for _, f := range c.order {
		if f.stale {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// normalisedAnew notes that the digests of all fields were made with today's normalisers.
func (t *txn) normalisedAnew(ctx context.Context) error {
	colls, err := collectionsOf(ctx, t.data, t.who.Tenant)
	if err != nil {
		return err
	}
	for _, c := range colls {
		if len(c.Stale()) == 0 {
			continue
		}
		if err := t.lockCollection(ctx, c.id); err != nil {
			return err
		}
		raw, err := json.Marshal(stored{c.Definition, c.numbers(), normalisers(c.Definition, nil)})
		if err != nil {
			return err
		}
		// If it has just changed, the job is tried again.
		done, err := t.data.Exec(ctx, `
			update privault.collections set definition = $3, version = version + 1
			where tenant_id = $1 and collection_id = $2 and version = $4`, t.who.Tenant, c.id, raw, c.Version)
		if err == nil && done.RowsAffected() == 0 {
			err = fail(Conflict, "the collection %s has changed a moment ago", c.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Types documents the types that fields can have. It shows nothing of a tenant's, and leaves an entry as every read does.
func (v *Vault) Types(ctx context.Context, who Caller) ([]datatype.Description, error) {
	err := v.within(ctx, who, policy.ReadCollection, func(t *txn) error {
		return t.entry.requireCollection(policy.ReadCollection, everyCollection)
	})
	if err != nil {
		return nil, err
	}
	return datatype.Describe(), nil
}
