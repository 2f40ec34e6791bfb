package vault

import (
	"context"
	"errors"
	"fmt"
)

// binder gives the values of one batch their index entries and aliases: those that there are, or new ones.
type binder struct {
	mint
	ask     ask
	shared  map[string]*sharing // by value digest, under the primary key
	texts   map[string]string   // digest of a text that this batch makes → digest of the value, or the record, that it is for
	soles   map[string]bool     // digests of values that a record of this batch has for itself
	taken   map[string]int64    // by space: texts that this batch takes
	found   *found
	aliases []alias
	relies  []*alias
}

// sharing is one value of the batch whose token all its records share.
type sharing struct {
	digests [][]byte // of the value, under every key
	alias   *alias   // nil: not there yet
	adds    []alias  // that the change makes: a new one, or those that it carries under the primary key
	relies  []*alias // that must still be there
	text    string
	texts   []string // that a new alias may have
	taken   bool     // the alias is in the change
}

// bound is what ties one record to the rows beside it.
type bound struct {
	marks  []mark
	texts  map[uint32]string   // alias texts, by field number
	makes  map[uint32][]string // texts that a new alias of the record's own may have
	boxes  []value             // those of the record's own, to be sealed with it
	own    []alias
	shares []*sharing
}

func newBinder(keys *tenantKeys, coll *Collection) *binder {
	return &binder{mint: mint{keys: keys, coll: coll}, shared: map[string]*sharing{}, texts: map[string]string{},
		soles: map[string]bool{}, taken: map[string]int64{}}
}

// bind gives each draft what it is bound to. Drafts that can't have it are refused one by one.
func (s *sealer) bind(ctx context.Context, v *Vault, drafts []draft) (*binder, error) {
	b := newBinder(s.keys, s.coll)
	for i := range drafts {
		if drafts[i].err != nil {
			continue
		}
		if err := b.want(&drafts[i]); err != nil {
			if AsError(err).Kind != Invalid {
				return nil, err
			}
			drafts[i].err = err
		}
	}
	var err error
	if b.found, err = v.look(ctx, s.keys.tenant, b.ask); err != nil {
		return nil, err
	}
	for i := range drafts {
		d := &drafts[i]
		if d.err != nil {
			continue
		}
		var refused *Error
		if err := b.give(d); errors.As(err, &refused) && refused.Kind != IntegrityFailure {
			d.err = refused
		} else if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// want marks a draft's values, and asks for what there is of them.
func (b *binder) want(d *draft) error {
	for _, val := range d.values {
		f := b.coll.byNumber(val.number)
		if f == nil || !f.bound() {
			continue
		}
		marks, err := b.keys.marksOf(b.coll, f, val.plain, nil)
		if err != nil {
			return err
		}
		for _, m := range marks {
			if m.kind == markSole {
				b.ask.soles = append(b.ask.soles, m.digest)
			}
		}
		d.bound.marks = append(d.bound.marks, marks...)
		if f.ofValue() {
			if err := b.wantShared(f, val.plain); err != nil {
				return faultIn(err, d.at+"/fields/"+f.name)
			}
		} else if _, given := d.item.Tokens[f.name]; !given && f.strategy == strategyFormat {
			texts, err := b.wantTexts(f, val.plain)
			if err != nil {
				return faultIn(err, d.at+"/fields/"+f.name)
			}
			if d.bound.makes == nil {
				d.bound.makes = map[uint32][]string{}
			}
			d.bound.makes[val.number] = texts
		}
		if text, given := d.item.Tokens[f.name]; given {
			all, err := allDigests(b.keys.alias, textInput(b.coll.id, f.number, text))
			if err != nil {
				return err
			}
			b.ask.texts = append(b.ask.texts, all...)
		}
	}
	return nil
}

func (b *binder) wantShared(f *field, plain []byte) error {
	digests, err := allDigests(b.keys.alias, valueInput(b.coll.id, f.number, plain))
	if err != nil {
		return err
	}
	if b.shared[string(digests[0])] == nil {
		texts, err := b.wantTexts(f, plain)
		if err != nil {
			return err
		}
		b.shared[string(digests[0])] = &sharing{digests: digests, texts: texts}
		b.ask.values = append(b.ask.values, digests...)
	}
	return nil
}

// wantTexts makes texts for a new alias, and asks which of them are taken and how full their space is.
func (b *binder) wantTexts(f *field, plain []byte) ([]string, error) {
	texts, err := b.mint.texts(f, plain)
	if err != nil || f.shape == nil {
		return texts, err
	}
	for _, text := range texts {
		all, err := allDigests(b.keys.alias, textInput(b.coll.id, f.number, text))
		if err != nil {
			return nil, err
		}
		b.ask.texts = append(b.ask.texts, all...)
	}
	space, _, err := b.space(f, plain)
	b.ask.spaces = append(b.ask.spaces, space...)
	return texts, err
}

// give finds or makes the aliases of one draft. What it makes is the change's once the whole draft has what it needs.
func (b *binder) give(d *draft) error {
	for _, m := range d.bound.marks {
		if m.kind == markSole && (b.found.taken[string(m.digest)] || b.soles[string(m.digest)]) {
			return errNotUnique
		}
	}
	for _, val := range d.values {
		f := b.coll.byNumber(val.number)
		if f == nil || !f.bound() {
			continue
		}
		text, given := d.item.Tokens[f.name]
		var err error
		switch {
		case f.ofValue():
			err = b.share(d, f, val.plain, text)
		case given:
			err = b.own(d, f, text, nil)
		case d.bound.makes[val.number] != nil:
			err = b.ownNew(d, f, val)
		}
		if err != nil {
			return err
		}
	}
	for _, m := range d.bound.marks {
		if m.kind == markSole {
			b.soles[string(m.digest)] = true
		}
	}
	b.aliases = append(b.aliases, d.bound.own...)
	for _, s := range d.bound.shares {
		if !s.taken {
			b.aliases, b.relies = append(b.aliases, s.adds...), append(b.relies, s.relies...)
			s.taken = true
		}
	}
	return nil
}

var (
	// Which field of which record is nobody's to know who may not search.
	errNotUnique  = fail(Conflict, "a value that must be unique is there already")
	errTokenTaken = fail(Conflict, "the token stands for something else already, or the value has another token")
)

// share gives the value's alias; supplied is the text that the caller wants for it, if any.
func (b *binder) share(d *draft, f *field, plain []byte, supplied string) error {
	digest, err := b.keys.alias.ComputePrimaryPRF(valueInput(b.coll.id, f.number, plain), digestSize)
	if err != nil {
		return err
	}
	s := b.shared[string(digest)]
	if s.alias == nil {
		if err := b.settle(s, f, plain, supplied); err != nil {
			return err
		}
	}
	if supplied != "" && supplied != s.text {
		return errTokenTaken
	}
	d.bound.texts[uint32(f.number)] = s.text
	d.bound.marks = append(d.bound.marks, mark{s.alias.value, markEntry})
	d.bound.shares = append(d.bound.shares, s)
	return nil
}

// settle finds the alias of a value, or makes it.
func (b *binder) settle(s *sharing, f *field, plain []byte, supplied string) (err error) {
	var all []*alias
	var have *alias
	for _, digest := range s.digests {
		for _, a := range b.found.byValue[string(digest)] {
			all, have = append(all, a), newest(have, a)
		}
	}
	if have != nil {
		return b.take(s, f, plain, all, have)
	}
	text, space := supplied, []byte(nil)
	if text != "" {
		err = b.free(f, text, string(s.digests[0]))
	} else {
		text, space, err = b.choose(f, plain, s.texts, string(s.digests[0]))
	}
	if err != nil {
		return err
	}
	made, err := b.keys.sealAlias(b.coll.id, f.number, text, plain, s.digests[0], 1)
	if err != nil {
		return err
	}
	if made.space = space; supplied == "" {
		made.keyVersion = b.keyVersion(f)
	}
	s.text, s.alias, s.adds = text, &made, []alias{made}
	return nil
}

// take gives a value the alias that it has, and brings it, and the older ones, under the primary key. What the change relies on
// are the rows that it was prepared from: meanwhile they may have been replaced, or gone with their last record.
func (b *binder) take(s *sharing, f *field, plain []byte, all []*alias, have *alias) (err error) {
	if s.text, err = b.keys.openAlias(have, plain); err != nil {
		return err
	}
	var from []*alias
	if s.adds, from, err = b.carry(f, all, plain, s.digests[0]); err != nil {
		return err
	}
	s.alias, s.relies = have, []*alias{have}
	for i, a := range from {
		s.relies = append(s.relies, a)
		if a == have {
			s.alias = &s.adds[i]
		}
	}
	return nil
}

// choose takes the first text that is free, if its space is not too full.
func (b *binder) choose(f *field, plain []byte, texts []string, owner string) (text string, space []byte, err error) {
	spaces, limit, err := b.space(f, plain)
	if err != nil {
		return "", nil, err
	}
	if spaces != nil {
		space = spaces[0]
		used := b.taken[string(space)]
		for _, s := range spaces {
			used += b.found.used[string(s)]
		}
		if used >= limit {
			return "", nil, errExhausted
		}
		b.taken[string(space)]++
	}
	for _, text := range texts {
		if b.free(f, text, owner) == nil {
			return text, space, nil
		}
	}
	return "", nil, errNotAdmitted // all of them are taken: make others
}

// ownNew makes an alias of the record's own.
func (b *binder) ownNew(d *draft, f *field, val value) error {
	text, space, err := b.choose(f, val.plain, d.bound.makes[val.number], string(d.id[:]))
	if err != nil {
		return err
	}
	return b.own(d, f, text, space)
}

// own gives the record an alias of its own.
func (b *binder) own(d *draft, f *field, text string, space []byte) error {
	if err := b.free(f, text, string(d.id[:])); err != nil {
		return err
	}
	digest, err := b.keys.alias.ComputePrimaryPRF(textInput(b.coll.id, f.number, text), digestSize)
	if err != nil {
		return err
	}
	id := d.id
	d.bound.own = append(d.bound.own, alias{text: digest, collection: b.coll.id, field: f.number, record: &id, generation: 1, space: space})
	d.bound.texts[uint32(f.number)] = text
	d.bound.marks = append(d.bound.marks, mark{digest, markOwn})
	d.bound.boxes = append(d.bound.boxes, value{aliasBox | uint32(f.number), []byte(text)})
	return nil
}

// free takes a text for an owner, unless it is another's.
func (b *binder) free(f *field, text, owner string) error {
	all, err := allDigests(b.keys.alias, textInput(b.coll.id, f.number, text))
	if err != nil {
		return err
	}
	for _, digest := range all {
		if b.found.byText[string(digest)] != nil {
			return errTokenTaken
		}
		if other, made := b.texts[string(digest)]; made && other != owner {
			return errTokenTaken
		}
		b.texts[string(digest)] = owner
	}
	return nil
}

// checkTokens validates the tokens that a caller brings along for an item.
func (s *sealer) checkTokens(d *draft, faults *faults) {
	for name := range d.item.Tokens {
		f := s.coll.fields[name]
		switch {
		case f == nil:
			faults.add(d.at+"/tokens", "unknown-field", "the collection has no such field")
		case f.supplied == suppliedOff:
			faults.add(d.at+"/tokens/"+name, "supplied", "the field takes no tokens from outside")
		}
		if _, given := d.item.Fields[name]; f != nil && !given {
			faults.add(d.at+"/tokens/"+name, "no-value", "a token stands for a value of the same item")
		}
	}
	for _, val := range d.values {
		f := s.coll.byNumber(val.number)
		if f == nil {
			continue
		}
		text, given := d.item.Tokens[f.name]
		if given {
			if rule, detail := f.checkSupplied(text, val.plain); rule != "" {
				faults.add(d.at+"/tokens/"+f.name, rule, detail)
			}
		} else if f.supplied == suppliedRequired {
			faults.add(d.at+"/tokens/"+f.name, "required", fmt.Sprintf("the field takes the tokens that come with its values; %s is missing", f.name))
		}
	}
}
