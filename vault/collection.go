package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/shape"
)

// Definition is a collection's schema as its owner writes it.
type Definition struct {
	Description string       `json:"description,omitempty"`
	KMS         string       `json:"kms,omitempty"` // hierarchical (the default), or direct: the KMS key itself wraps each record's DEK
	Retention   *Retention   `json:"retention,omitempty"`
	Suppression *Suppression `json:"suppression,omitempty"` // nil: the list isn't asked
	Purposes    []string     `json:"purposes,omitempty"`    // that values may be read for; none: any
	// Values are read for some registered purpose.
	PurposeRequired bool                       `json:"purpose_required,omitempty"`
	Fields          map[string]FieldDefinition `json:"fields"`

	Confirmed string `json:"-"` // the hash of a simulation of just these rules, which may make much due at once
}

// FieldDefinition is one field of a Definition.
type FieldDefinition struct {
	Type           string          `json:"type"`
	Classification string          `json:"classification,omitempty"` // public, internal, confidential (the default) or restricted
	Required       bool            `json:"required,omitempty"`
	Index          []string        `json:"index,omitempty"`    // exact, last4 …, exact/smoothed:1024
	Unique         bool            `json:"unique,omitempty"`   // needs the index exact
	Purposes       []string        `json:"purposes,omitempty"` // in place of the collection's
	Token          TokenDefinition `json:"token,omitzero"`
	Retention      *Retention      `json:"retention,omitempty"` // of the field's values alone

	Portable       bool `json:"portable,omitempty"`       // the person gave it, so portability (GDPR 20) hands it out
	Nondisclosable bool `json:"nondisclosable,omitempty"` // under the CCPA it is only said to be held; some types always are

	Pattern   string                   `json:"pattern,omitempty"`   // of the type custom
	Normalise []string                 `json:"normalise,omitempty"` // likewise
	Mask      *datatype.MaskDefinition `json:"mask,omitempty"`      // nil: the type's
}

// TokenDefinition says what stands in for a field's values: random (the default), a pointer token; deterministic, the
// same token for the same value; fpe, likewise, by format-preserving encryption; format, a random one of the value's shape;
// none, no token.
type TokenDefinition struct {
	Strategy string `json:"strategy,omitempty"`
	Supplied string `json:"supplied,omitempty"` // off (the default), allowed or required: tokens that the caller brings along
	shape.Options
}

const (
	kmsHierarchical = "hierarchical"
	kmsDirect       = "direct"
	maxFields       = 200
	maxDescription  = 1000
	restricted      = "restricted"
	maxPurposes     = 50
	subjectField    = 0 // the number under which a record's own subject reference is sealed
)

var (
	classifications  = []string{"public", "internal", "confidential", restricted} // each stricter than the one before
	nameOfCollection = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

// Collection is a schema in force. It is immutable.
type Collection struct {
	Name             string
	Version          int32
	Definition       Definition
	Created, Updated time.Time

	id     ID
	fields map[string]*field
	order  []*field // by number
	bound  bool     // some field's values have rows beside their record's
	shared bool     // some field's tokens are aliases of its values

	suppresses bool     // the suppression list is asked
	suppressed []*field // whose values may be on it

	normalisers map[string]int // the versions by which fields' values are matched

	rules   []*rule // of retention
	minimum *rule   // nil: the law has nothing kept

	asksReveals bool // some rule counts from when a record was last revealed
}

// field is what the vault works with: the number is the field's for good, and part of every token and ciphertext.
type field struct {
	name     string
	number   uint16
	typ      datatype.Type
	mask     datatype.Mask
	stale    bool // values were matched by another normaliser than today's
	required bool
	token    bool // a value that has no alias has a pointer token
	strategy string
	supplied string       // what a caller may bring along as a token
	shape    *shape.Shape // of its aliases; nil: they are opaque
	index    []index      // blind indexes
	unique   bool         // no two records have equal values

	classification string
	purposes       []string
	portable       bool
	nondisclosable string // what kind of identifier it is, if the CCPA keeps it from being handed out
}

// byNumber gives a field, or nil if the number is that of a subject reference or an alias.
func (c *Collection) byNumber(number uint32) *field {
	i, found := slices.BinarySearchFunc(c.order, number, func(f *field, n uint32) int { return int(f.number) - int(n) })
	if !found {
		return nil
	}
	return c.order[i]
}

// named are the fields that some values are for.
func (c *Collection) named(values map[string]Secret) []*field {
	fields := make([]*field, 0, len(values))
	for _, f := range c.order {
		if _, given := values[f.name]; given {
			fields = append(fields, f)
		}
	}
	return fields
}

// stored is the form of a Definition in the database: with the numbers, and the versions of the normaliser that the
// fields' digests are made with.
type stored struct {
	Definition
	Numbers     map[string]uint16 `json:"numbers"`
	Normalisers map[string]int    `json:"normalisers"`
}

func (c *Collection) adopt(raw []byte) error {
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("a stored collection does not parse: %w", err)
	}
	c.Definition, c.normalisers = s.Definition, s.adoptNormalisers()
	c.fields = make(map[string]*field, len(s.Fields))
	for name, d := range s.Fields {
		typ, mask, err := d.recall()
		if err != nil {
			return fmt.Errorf("field %s of a stored collection: %w", name, err)
		}
		f := &field{name: name, number: s.Numbers[name], typ: typ, required: d.Required, token: d.Token.Strategy == strategyRandom,
			strategy: d.Token.Strategy, supplied: cmp.Or(d.Token.Supplied, suppliedOff), unique: d.Unique, classification: d.Classification,
			purposes: d.Purposes, mask: mask, portable: d.Portable, nondisclosable: d.nondisclosable(typ),
			stale: d.matched() && c.normalisers[name] != datatype.NormaliserVersion}
		for _, name := range d.Index {
			x, known := parseIndex(name)
			if !known {
				return fmt.Errorf("field %s of a stored collection has an index that is not known", f.name)
			}
			f.index = append(f.index, x)
		}
		if f.shape, err = d.shape(); err != nil {
			return fmt.Errorf("tokens of field %s of a stored collection: %w", name, err)
		}
		c.fields[name] = f
		c.bound = c.bound || f.bound()
		c.shared = c.shared || f.ofValue()
		c.order = append(c.order, f)
	}
	if c.suppresses = s.Suppression != nil; c.suppresses {
		for _, name := range s.Suppression.Fields {
			c.suppressed = append(c.suppressed, c.fields[name])
		}
	}
	slices.SortFunc(c.order, func(a, b *field) int { return int(a.number) - int(b.number) })
	return c.adoptRetention()
}

// check validates a definition and fills in its defaults. What a later version of the service will understand is
// refused in so many words, never ignored.
func (d *Definition) check() error {
	var faults []FieldError
	var details []string
	bad := func(pointer, rule, detail string) {
		faults = append(faults, FieldError{pointer, rule})
		if detail != "" && !slices.Contains(details, detail) {
			details = append(details, detail)
		}
	}
	if d.KMS == "" {
		d.KMS = kmsHierarchical
	}
	if d.KMS != kmsHierarchical && d.KMS != kmsDirect {
		bad("/kms", "kms", "kms is hierarchical or direct")
	}
	if len(d.Description) > maxDescription || strings.ContainsRune(d.Description, 0) {
		bad("/description", "max-length", fmt.Sprintf("a description has at most %d bytes and no U+0000", maxDescription))
	}
	checkPurposes("/purposes", d.Purposes, bad)
	if len(d.Fields) == 0 || len(d.Fields) > maxFields {
		bad("/fields", "size", fmt.Sprintf("a collection has 1 to %d fields", maxFields))
	}
	for name, f := range d.Fields {
		at := "/fields/" + name
		if !nameOfCollection.MatchString(name) {
			bad("/fields", "name", "a field's name is a lower-case letter, then up to 62 of a-z 0-9 _")
			continue
		}
		f.check(at, bad)
		d.Fields[name] = f
	}
	d.checkRetention(bad)
	d.checkSuppression(bad)
	if len(faults) == 0 {
		return nil
	}
	slices.SortFunc(faults, func(a, b FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
	kind := Invalid
	for _, small := range []Kind{DomainTooSmall, IndexDomainTooSmall} {
		if !slices.ContainsFunc(faults, func(f FieldError) bool { return f.Rule != string(small) }) {
			kind = small
		}
	}
	return &Error{Kind: kind, Detail: strings.Join(details, "; "), Fields: faults}
}

func (f *FieldDefinition) check(at string, bad func(pointer, rule, detail string)) {
	if f.Classification == "" {
		f.Classification = "confidential"
	}
	if f.Token.Strategy == "" {
		f.Token.Strategy = strategyRandom
	}
	f.checkType(at, bad)
	if !slices.Contains(classifications, f.Classification) {
		bad(at+"/classification", "classification", "the classifications are "+list(classifications))
	}
	checkPurposes(at+"/purposes", f.Purposes, bad)
	f.checkIndex(at, bad)
	f.checkToken(at, bad)
}

func checkPurposes(at string, purposes []string, bad func(pointer, rule, detail string)) {
	if len(purposes) > maxPurposes || slices.ContainsFunc(purposes, func(p string) bool { return !nameOfPurpose.MatchString(p) }) {
		bad(at, "purposes", fmt.Sprintf("purposes are at most %d names: a lower-case letter, then up to 62 of a-z 0-9 _ -", maxPurposes))
	}
}

func list(words []string) string { return strings.Join(words, ", ") }

func (c *Collection) direct() bool { return c.Definition.KMS == kmsDirect }

// strands says what of a new definition would leave stored values or tokens without their schema.
func strands(before, after Definition) error {
	var faults []FieldError
	bad := func(name, member, rule string) {
		faults = append(faults, FieldError{"/fields/" + name + member, rule})
	}
	for name, was := range before.Fields {
		is, kept := after.Fields[name]
		switch {
		case !kept:
			bad(name, "", "removed")
		case is.Type != was.Type:
			bad(name, "/type", "changed")
		case is.Pattern != was.Pattern:
			bad(name, "/pattern", "changed")
		case !slices.Equal(is.Normalise, was.Normalise):
			bad(name, "/normalise", "changed")
		case was.Classification == restricted && is.loosens(was):
			bad(name, "/mask", "loosened")
		case is.Required && !was.Required:
			bad(name, "/required", "tightened")
		case is.Token.Strategy != was.Token.Strategy && (was.Token.Strategy != strategyNone || is.Token.Strategy != strategyRandom):
			bad(name, "/token/strategy", "changed")
		case is.Token.Options != was.Token.Options:
			bad(name, "/token", "changed")
		case !slices.Equal(is.Index, was.Index):
			bad(name, "/index", "changed")
		case is.Unique && !was.Unique:
			bad(name, "/unique", "tightened")
		case slices.Index(classifications, is.Classification) < slices.Index(classifications, was.Classification):
			bad(name, "/classification", "lowered")
		}
	}
	for name, is := range after.Fields {
		if _, had := before.Fields[name]; !had && is.Required {
			bad(name, "/required", "tightened")
		}
	}
	if len(faults) == 0 {
		return nil
	}
	slices.SortFunc(faults, func(a, b FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
	return &Error{Kind: Conflict, Fields: faults,
		Detail: "a collection may gain optional fields and become looser; values or tokens that exist would lose their schema"}
}

// PutCollection makes a collection or evolves it; created says which. ifVersion is the version that the caller saw; 0: any.
func (v *Vault) PutCollection(ctx context.Context, who Caller, name string, d Definition, ifVersion int32) (c *Collection, created bool, err error) {
	c = &Collection{Name: name, Version: 1}
	confirmed := d.Confirmed
	d.Confirmed = ""
	var keys *tenantKeys
	if rulesOf(&d) != rulesOf(&Definition{}) {
		// Before the transaction: a slow KMS must not hold a connection.
		if keys, err = v.keyring.of(ctx, who.Tenant); err != nil {
			return nil, false, v.refuseUnopened(ctx, who, policy.DefineCollection, err)
		}
	}
	err = v.within(ctx, who, policy.DefineCollection, func(t *txn) error {
		if err := t.entry.requireCollection(policy.DefineCollection, name); err != nil {
			return err
		}
		if !nameOfCollection.MatchString(name) {
			return invalid("", "name", "a collection's name is a lower-case letter, then up to 62 of a-z 0-9 _")
		}
		t.entry.Resources = []resource{{Collection: name}}
		if err := d.check(); err != nil {
			return err
		}
		// Two that make the same collection: the second waits here for the first, and then evolves it.
		if _, err := t.data.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, tenantSetting(who.Tenant)+"/"+name); err != nil {
			return err
		}
		before, err := t.collection(ctx, `name = $2`, name)
		created = errors.Is(err, pgx.ErrNoRows)
		switch {
		case err != nil && !created:
			return err
		case ifVersion != 0 && (created || before.Version != ifVersion):
			return fail(PreconditionFailed, "the collection has another version by now, or is gone")
		case created:
			return t.createCollection(ctx, c, d)
		}
		if keys != nil {
			if err := v.brakeRules(ctx, t, keys, before, d, confirmed); err != nil {
				return err
			}
		}
		return t.evolveCollection(ctx, c, before, d)
	})
	if err == nil {
		v.collections.put(who.Tenant, c)
	}
	return c, created, err
}

func (t *txn) createCollection(ctx context.Context, c *Collection, d Definition) error {
	id, err := newID()
	if err != nil {
		return err
	}
	c.id, c.Created, c.Updated = id, t.now, t.now
	raw, err := json.Marshal(stored{d, numbers(d, nil), normalisers(d, nil)})
	if err != nil {
		return err
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.collections (tenant_id, collection_id, name, version, definition, created_at, updated_at)
		values ($1, $2, $3, 1, $4, $5, $5)`, t.who.Tenant, id, c.Name, raw, t.now)
	if violates(err, "collections_name") {
		return fail(Conflict, "a collection of that name was made a moment ago")
	}
	if err != nil {
		return err
	}
	return c.adopt(raw)
}

func (t *txn) evolveCollection(ctx context.Context, c, before *Collection, d Definition) error {
	if err := strands(before.Definition, d); err != nil {
		return err
	}
	*c = *before
	if reflect.DeepEqual(before.Definition, d) {
		return nil
	}
	t.noteLoosened(before, d)
	if err := t.lockCollection(ctx, before.id); err != nil {
		return err
	}
	if d.KMS != before.Definition.KMS {
		if err := t.requireEmpty(ctx, before.id); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(stored{d, numbers(d, before.numbers()), normalisers(d, before)})
	if err != nil {
		return err
	}
	done, err := t.data.Exec(ctx, `
		update privault.collections set definition = $3, version = version + 1, updated_at = $4
		where tenant_id = $1 and collection_id = $2`, t.who.Tenant, before.id, raw, t.now)
	if err != nil {
		return err
	}
	if done.RowsAffected() == 0 {
		return fail(Conflict, "the collection was deleted a moment ago")
	}
	if err := t.restate(ctx, &before.Definition, &d, before.Name); err != nil {
		return err
	}
	*c = Collection{Name: before.Name, Version: before.Version + 1, Created: before.Created, Updated: t.now, id: before.id}
	return c.adopt(raw)
}

// requireEmpty refuses another kms for a collection that holds records: those that there are would stay as they are, and the
// definition would say of them what isn't so.
func (t *txn) requireEmpty(ctx context.Context, id ID) error {
	var holds bool
	err := t.data.QueryRow(ctx, `
		select exists (select from privault.records where tenant_id = $1 and collection_id = $2)`, t.who.Tenant, id).Scan(&holds)
	if err == nil && holds {
		return &Error{Kind: Conflict, Fields: []FieldError{{"/kms", "changed"}},
			Detail: "the collection holds records, whose keys are wrapped as it says now; make another collection, or delete them first"}
	}
	return err
}

// lockCollection waits for the group commits that are under way in a collection and holds up new ones, which find
// another version, or no collection, when they go on.
func (t *txn) lockCollection(ctx context.Context, id ID) error {
	_, err := t.data.Exec(ctx, `select pg_advisory_xact_lock($1)`, collectionLock(id))
	return err
}

// shareCollection keeps changes of a collection away until the transaction ends, and waits for those that are under way: its definition is
// to be read after that.
func (t *txn) shareCollection(ctx context.Context, id ID) error {
	_, err := t.data.Exec(ctx, `select pg_advisory_xact_lock_shared($1)`, collectionLock(id))
	return err
}

// numbers are those that the fields have.
func (c *Collection) numbers() map[string]uint16 {
	all := map[string]uint16{}
	for name, f := range c.fields {
		all[name] = f.number
	}
	return all
}

// numbers gives each new field the next number, in the order of the names, and leaves those that have one.
func numbers(d Definition, had map[string]uint16) map[string]uint16 {
	next := uint16(subjectField + 1)
	all := make(map[string]uint16, len(d.Fields))
	for name, n := range had {
		all[name] = n
		next = max(next, n+1)
	}
	var fresh []string
	for name := range d.Fields {
		if _, have := all[name]; !have {
			fresh = append(fresh, name)
		}
	}
	slices.Sort(fresh)
	for _, name := range fresh {
		all[name] = next
		next++
	}
	return all
}

// GetCollection reads a collection.
func (v *Vault) GetCollection(ctx context.Context, who Caller, name string) (*Collection, error) {
	var c *Collection
	err := v.within(ctx, who, policy.ReadCollection, func(t *txn) (err error) {
		if c, err = t.namedCollection(ctx, name); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Collection: name}}
		return t.entry.requireCollection(policy.ReadCollection, name)
	})
	return c, err
}

// ListCollections reads up to limit collections in the order of their names, from cursor on; the next cursor is empty
// at the end.
func (v *Vault) ListCollections(ctx context.Context, who Caller, cursor string, limit int) (page []*Collection, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadCollection, err)
	}
	err = v.within(ctx, who, policy.ReadCollection, func(t *txn) error {
		if err := t.entry.requireCollection(policy.ReadCollection, everyCollection); err != nil {
			return err
		}
		after, err := keys.openCursor("collections", cursor)
		if err != nil {
			return err
		}
		rows, err := t.data.Query(ctx, selectCollections+` and name > $2 order by name limit $3`, who.Tenant, after, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanCollection, "collections", limit, func(c *Collection) string { return c.Name })
		return err
	})
	return page, next, err
}

// DeleteCollection drops a collection that holds no record. ifVersion is the version that the caller saw; 0: any.
func (v *Vault) DeleteCollection(ctx context.Context, who Caller, name string, ifVersion int32) error {
	return v.within(ctx, who, policy.DropCollection, func(t *txn) error {
		c, err := t.namedCollection(ctx, name)
		if err != nil {
			return err
		}
		if err := t.entry.requireCollection(policy.DropCollection, name); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Collection: name}}
		if ifVersion != 0 && ifVersion != c.Version {
			return fail(PreconditionFailed, "the collection has another version by now")
		}
		if err := t.lockCollection(ctx, c.id); err != nil {
			return err
		}
		done, err := t.data.Exec(ctx, `
			delete from privault.collections c where c.tenant_id = $1 and c.collection_id = $2
				and not exists (select from privault.records r where r.tenant_id = $1 and r.collection_id = $2)`, who.Tenant, c.id)
		if err == nil && done.RowsAffected() == 0 {
			return fail(Conflict, "the collection holds records")
		}
		return err
	})
}

func (t *txn) namedCollection(ctx context.Context, name string) (*Collection, error) {
	if !nameOfCollection.MatchString(name) {
		return nil, fail(NotFound, "")
	}
	c, err := t.collection(ctx, `name = $2`, name)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fail(NotFound, "")
	}
	return c, err
}

func (t *txn) collection(ctx context.Context, where string, arg any) (*Collection, error) {
	return readCollection(ctx, t.data, t.who.Tenant, where, arg)
}

func readCollection(ctx context.Context, tx pgx.Tx, tenant ID, where string, arg any) (*Collection, error) {
	rows, err := tx.Query(ctx, selectCollections+` and `+where, tenant, arg)
	if err != nil {
		return nil, err
	}
	return pgx.CollectExactlyOneRow(rows, scanCollection)
}

const selectCollections = `
	select collection_id, name, version, definition, created_at, updated_at from privault.collections where tenant_id = $1`

func scanCollection(r pgx.CollectableRow) (*Collection, error) {
	c := &Collection{}
	var raw []byte
	if err := r.Scan(&c.id, &c.Name, &c.Version, &raw, &c.Created, &c.Updated); err != nil {
		return nil, err
	}
	return c, c.adopt(raw)
}

// schemas holds collections, so that the hot path needs no query for them. What it holds may be old: a write is
// admitted only with the version in force, and a read brings that version with its rows.
type schemas struct {
	mu     sync.RWMutex
	byName map[schemaName]*Collection
	byID   map[schemaID]*Collection
}

type (
	schemaName struct {
		tenant ID
		name   string
	}
	schemaID struct{ tenant, id ID }
)

func (s *schemas) init() {
	s.byName, s.byID = map[schemaName]*Collection{}, map[schemaID]*Collection{}
}

// put keeps the newer version of a collection: two that were read at the same time may come in either order.
func (s *schemas) put(tenant ID, c *Collection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byID[schemaID{tenant, c.id}]; have != nil && have.Version > c.Version {
		return
	}
	s.byName[schemaName{tenant, c.Name}] = c
	s.byID[schemaID{tenant, c.id}] = c
}

func (s *schemas) forget(tenant ID, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byName, schemaName{tenant, name})
}

// collectionNamed gives a collection for a write; fresh makes sure that it is what the database has now.
func (v *Vault) collectionNamed(ctx context.Context, tenant ID, name string, fresh bool) (*Collection, error) {
	v.collections.mu.RLock()
	c, have := v.collections.byName[schemaName{tenant, name}]
	v.collections.mu.RUnlock()
	if have && !fresh {
		return c, nil
	}
	if !nameOfCollection.MatchString(name) {
		return nil, fail(NotFound, "")
	}
	c, err := v.loadCollection(ctx, tenant, `name = $2`, name)
	if AsError(err).Kind == NotFound {
		v.collections.forget(tenant, name)
	}
	return c, err
}

// outdated says whether a collection is no longer what the database has.
func (v *Vault) outdated(ctx context.Context, tenant ID, c *Collection) bool {
	now, err := v.collectionNamed(ctx, tenant, c.Name, true)
	return err != nil || now.id != c.id || now.Version != c.Version
}

// collectionByID gives a collection in at least the version that a row was read with.
func (v *Vault) collectionByID(ctx context.Context, tenant, id ID, version int32) (*Collection, error) {
	v.collections.mu.RLock()
	c, have := v.collections.byID[schemaID{tenant, id}]
	v.collections.mu.RUnlock()
	if have && c.Version >= version {
		return c, nil
	}
	return v.loadCollection(ctx, tenant, `collection_id = $2`, id)
}

func (v *Vault) loadCollection(ctx context.Context, tenant ID, where string, arg any) (c *Collection, err error) {
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		c, err = readCollection(ctx, tx, tenant, where, arg)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fail(NotFound, "")
	}
	if err != nil {
		return nil, err
	}
	v.collections.put(tenant, c)
	return c, nil
}
