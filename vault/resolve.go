package vault

import (
	"context"
	"crypto/subtle"
	"errors"
	"maps"
)

// From tokens to what they stand for.

// lead is what a token leads to: a field of a record.
type lead struct {
	pointer
	alias *alias // nil: the token is a pointer
}

// resolve finds what tokens lead to, with the records. What leads to nothing is nil. Each kind of look is one trip for
// all of them.
func (v *Vault) resolve(ctx context.Context, keys *tenantKeys, refs []TokenRef) ([]*lead, map[ID]*row, error) {
	leads := make([]*lead, len(refs))
	var ids []ID
	var aliases []int // of refs
	for i, ref := range refs {
		if p, ok := keys.resolve(ref.Token); ok {
			leads[i] = &lead{pointer: p}
			ids = append(ids, p.record)
		} else {
			aliases = append(aliases, i)
		}
	}
	texts, err := v.textDigests(ctx, keys, refs, aliases)
	if err != nil {
		return nil, nil, err
	}
	var rows map[ID]*row
	for attempt := 0; attempt < maxAttempts && (len(texts) > 0 || attempt == 0 && len(ids) > 0); attempt++ {
		var generation int32
		if ids, generation, err = v.follow(ctx, keys.tenant, texts, leads, ids); err != nil {
			return nil, nil, err
		}
		if generation > keys.generation {
			if keys, err = v.keyring.atLeast(keys, generation); err != nil {
				return nil, nil, err
			}
			if texts, err = v.textDigests(ctx, keys, refs, aliases); err != nil {
				return nil, nil, err
			}
			if ids, _, err = v.follow(ctx, keys.tenant, texts, leads, ids); err != nil {
				return nil, nil, err
			}
		}
		if len(ids) > 0 {
			more, err := v.fetch(ctx, keys.tenant, ids)
			if err != nil {
				return nil, nil, err
			}
			if rows == nil {
				rows = more
			} else {
				maps.Copy(rows, more)
			}
		}
		ids = nil
		// Between the two trips a record may have gone, or got another value: its alias may lead to another one by now.
		for i := range texts {
			t := leads[i]
			if t == nil || rows[t.record] != nil && rows[t.record].leads(t.alias) {
				delete(texts, i)
			}
		}
	}
	for i := range texts {
		leads[i] = nil
	}
	return leads, rows, nil
}

// textDigests are the digests that the texts of aliases may have, by ref. A text in a field that there isn't has none.
func (v *Vault) textDigests(ctx context.Context, keys *tenantKeys, refs []TokenRef, aliases []int) (map[int][][]byte, error) {
	texts := map[int][][]byte{}
	fields := map[[2]string]*place{}
	for _, i := range aliases {
		ref, at := refs[i], place{}
		if ref.Token == "" || len(ref.Token) > maxAlias {
			continue
		}
		if !isOpaque(ref.Token) {
			name := [2]string{ref.Collection, ref.Field}
			s, known := fields[name]
			if !known {
				var err error
				if s, err = v.fieldNamed(ctx, keys.tenant, ref.Collection, ref.Field); err != nil {
					return nil, err
				}
				fields[name] = s
			}
			if s == nil {
				continue
			}
			at = *s
		}
		all, err := allDigests(keys.alias, textInput(at.collection, at.field, ref.Token))
		if err != nil {
			return nil, err
		}
		texts[i] = all
	}
	return texts, nil
}

// place is where a field is.
type place struct {
	collection ID
	field      uint16
}

// fieldNamed gives a field's place, or nil if there is no such field.
func (v *Vault) fieldNamed(ctx context.Context, tenant ID, collection, field string) (*place, error) {
	if collection == "" || field == "" {
		return nil, nil
	}
	for _, fresh := range []bool{false, true} {
		c, err := v.collectionNamed(ctx, tenant, collection, fresh)
		if err != nil {
			if AsError(err).Kind == NotFound {
				return nil, nil
			}
			return nil, err
		}
		if f := c.fields[field]; f != nil {
			return &place{c.id, f.number}, nil
		}
	}
	return nil, nil
}

// follow looks aliases up, notes where they lead, and adds the records to ids. It says which generation of keys is in force.
func (v *Vault) follow(ctx context.Context, tenant ID, texts map[int][][]byte, leads []*lead, ids []ID) ([]ID, int32, error) {
	if len(texts) == 0 {
		return ids, 0, nil
	}
	var a ask
	for _, all := range texts {
		a.texts = append(a.texts, all...)
	}
	found, err := v.look(ctx, tenant, a)
	if err != nil {
		return nil, 0, err
	}
	for i, all := range texts {
		leads[i] = nil
		for _, digest := range all {
			if have := found.byText[string(digest)]; have != nil && have.holder != nil {
				leads[i] = &lead{pointer{record: *have.holder, field: have.field}, have}
				ids = append(ids, *have.holder)
				break
			}
		}
	}
	return ids, found.generation, nil
}

// follow opens the record that a token leads to, and gives the field. An alias must be what the record says that it is.
func (r *reader) follow(ctx context.Context, ref TokenRef, p *lead, rows map[ID]*row) (*opened, *field, error) {
	if p == nil || rows[p.record] == nil || p.alias == nil && rows[p.record].epoch != int32(p.epoch) {
		return nil, nil, errTokenNotFound
	}
	o, err := r.open(ctx, rows[p.record])
	if errors.Is(err, errDue) {
		err = errTokenNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	f := o.coll.byNumber(uint32(p.field))
	if f == nil || ref.Collection != "" && ref.Collection != o.coll.Name || ref.Field != "" && ref.Field != f.name {
		return nil, nil, errTokenNotFound
	}
	if _, held := o.boxes.Get(uint32(f.number)); !held {
		return nil, nil, errTokenNotFound
	}
	if p.alias != nil {
		if err := r.prove(o, f, p.alias, ref.Token); err != nil {
			return nil, nil, err
		}
	}
	return o, f, nil
}

// prove compares an alias with what the record says: its own box, or a text that opens with its value only.
func (r *reader) prove(o *opened, f *field, a *alias, token string) (err error) {
	var text string
	if a.record != nil {
		var own []byte
		own, err = r.plain(o, aliasBox|uint32(f.number))
		text = string(own)
	} else {
		var plain []byte
		if plain, err = r.plain(o, uint32(f.number)); err == nil {
			text, err = r.keys.openAlias(a, plain)
		}
	}
	if err != nil {
		return err
	}
	if a.collection != o.coll.id || subtle.ConstantTimeCompare([]byte(text), []byte(token)) != 1 {
		return errMovedAlias
	}
	return nil
}
