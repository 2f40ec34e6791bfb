package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/fpe"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/shape"
)

// A transform is FF1 under a name: values in, tokens of the same shape out, and back, and nothing stored. So nothing can be erased
// either: a token can be decoded for as long as the tenant's `fpe` key of its version and the transform are there. Whoever needs
// erasure uses a collection. Or a transform masks, and nothing brings the value back.

// TransformDefinition is a transform as its owner writes it.
type TransformDefinition struct {
	shape.Options

	// A mask in place of FF1: of values of this type, with this mask, or the type's own. Nothing brings the value back.
	Type      string                   `json:"type,omitempty"`
	Pattern   string                   `json:"pattern,omitempty"`   // of the type custom
	Normalise []string                 `json:"normalise,omitempty"` // likewise
	Mask      *datatype.MaskDefinition `json:"mask,omitempty"`

	Purposes        []string `json:"purposes,omitempty"`         // that tokens may be decoded for; none: any
	PurposeRequired bool     `json:"purpose_required,omitempty"` // tokens are decoded for some registered purpose
	// Erasable is a wish that no transform can grant: true is refused with NotErasable.
	Erasable bool `json:"erasable,omitempty"`
}

// Transform is a transform in force. It is immutable.
type Transform struct {
	Name       string
	Definition TransformDefinition
	KeyVersion int32 // that Encode uses now
	Created    time.Time

	id    ID
	shape *shape.Shape // nil: it masks
	typ   datatype.Type
	mask  datatype.Mask
}

// adopt reads the stored form of a definition.
func (t *Transform) adopt(raw []byte) error {
	if err := json.Unmarshal(raw, &t.Definition); err != nil {
		return fmt.Errorf("a stored transform does not parse: %w", err)
	}
	return t.check()
}

// check makes the shape, and fills the defaults into the definition: they must stay what they are under a token.
func (t *Transform) check() error {
	d := &t.Definition
	if d.Erasable {
		return &Error{Kind: NotErasable, Fields: []FieldError{{"/erasable", "not-erasable"}},
			Detail: "a transform stores nothing, so what it encoded can't be erased; use a collection, whose records can"}
	}
	var faults faults
	checkPurposes("/purposes", d.Purposes, faults.add)
	if err := faults.err(); err != nil {
		return err
	}
	if d.Type != "" || d.Pattern != "" || len(d.Normalise) > 0 || d.Mask != nil {
		return t.checkMask()
	}
	d.Reversible = true
	s, err := shape.New(d.Options)
	if err != nil {
		return faultIn(err, "")
	}
	t.shape, d.Options = s, s.Options()
	return nil
}

// checkMask makes the mask.
func (t *Transform) checkMask() error {
	d := &t.Definition
	var faults faults
	if d.Options != (shape.Options{}) {
		faults.add("/type", "exclusive", "a transform masks values of a type, or encodes characters into others of a shape")
	}
	if slices.Contains(shapeless, d.Type) || d.Type == "bytes" {
		faults.add("/type", "not-applicable", "values of the types "+list(shapeless)+" and bytes are no text to mask")
	}
	f := FieldDefinition{Type: d.Type, Pattern: d.Pattern, Normalise: d.Normalise, Mask: d.Mask}
	f.checkType("", faults.add)
	if err := faults.err(); err != nil {
		return err
	}
	d.Normalise = f.Normalise
	var err error
	t.typ, t.mask, err = f.recall()
	return err
}

// faultIn gives a fault of package shape as an Error: of an option, or of the value that the pointer leads to.
func faultIn(err error, at string) error {
	var f *shape.Fault
	if !errors.As(err, &f) {
		return err
	}
	if f.Option != "" {
		at += "/" + f.Option
	}
	e := invalid(at, f.Rule, f.Detail)
	if f.Option != "" && f.Rule == string(DomainTooSmall) {
		e.Kind = DomainTooSmall
	}
	return e
}

// PutTransform makes a transform; created says whether it wasn't there. One that is there never changes.
func (v *Vault) PutTransform(ctx context.Context, who Caller, name string, d TransformDefinition) (made *Transform, created bool, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, false, v.refuseUnopened(ctx, who, policy.DefineTransform, err)
	}
	err = v.within(ctx, who, policy.DefineTransform, func(t *txn) error {
		if err := t.entry.require(policy.DefineTransform); err != nil {
			return err
		}
		if !nameOfCollection.MatchString(name) {
			return invalid("", "name", "a transform's name is a lower-case letter, then up to 62 of a-z 0-9 _")
		}
		t.entry.Resources = []resource{{Transform: name}}
		made = &Transform{Name: name, Definition: d, Created: t.now}
		if err := made.check(); err != nil {
			return err
		}
		before, err := readTransform(ctx, t.data, who.Tenant, name)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			created = true
			return t.insertTransform(ctx, made)
		case err != nil:
			return err
		case !reflect.DeepEqual(before.Definition, made.Definition):
			return fail(Conflict, "a transform never changes: its tokens would decode to something else; make another, or delete this one")
		}
		made = before
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	made.KeyVersion = made.version(keys)
	return made, created, nil
}

// version is that of the keys that the transform encodes with; 0: with none.
func (t *Transform) version(keys *tenantKeys) int32 {
	if t.shape == nil {
		return 0
	}
	return keys.fpe.current()
}

func (t *txn) insertTransform(ctx context.Context, made *Transform) (err error) {
	if made.id, err = newID(); err != nil {
		return err
	}
	raw, err := json.Marshal(made.Definition)
	if err != nil {
		return err
	}
	_, err = t.data.Exec(ctx, `
		insert into privault.transforms (tenant_id, transform_id, name, definition, created_at)
		values ($1, $2, $3, $4, $5)`, t.who.Tenant, made.id, made.Name, raw, t.now)
	if violates(err, "transforms_name") {
		return fail(Conflict, "a transform of that name was made a moment ago")
	}
	return err
}

const transformColumns = `select transform_id, name, definition, created_at from privault.transforms where tenant_id = $1 and `

func readTransform(ctx context.Context, tx pgx.Tx, tenant ID, name string) (*Transform, error) {
	rows, err := tx.Query(ctx, transformColumns+`name = $2`, tenant, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectExactlyOneRow(rows, scanTransform)
}

func scanTransform(r pgx.CollectableRow) (*Transform, error) {
	t := &Transform{}
	var raw []byte
	if err := r.Scan(&t.id, &t.Name, &raw, &t.Created); err != nil {
		return nil, err
	}
	return t, t.adopt(raw)
}

// GetTransform reads a transform.
func (v *Vault) GetTransform(ctx context.Context, who Caller, name string) (found *Transform, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.ReadTransform, err)
	}
	err = v.within(ctx, who, policy.ReadTransform, func(t *txn) error {
		if found, err = readTransform(ctx, t.data, who.Tenant, name); err != nil {
			return orNotFound(err)
		}
		t.entry.Resources = []resource{{Transform: name}}
		found.KeyVersion = found.version(keys)
		return t.entry.require(policy.ReadTransform)
	})
	return found, err
}

func orNotFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fail(NotFound, "")
	}
	return err
}

// ListTransforms reads up to limit transforms in the order of their names, from cursor on; the next cursor is empty at
// the end.
func (v *Vault) ListTransforms(ctx context.Context, who Caller, cursor string, limit int) (page []*Transform, next string, err error) {
	err = v.readList(ctx, who, policy.ReadTransform, "transforms", cursor, func(t *txn, keys *tenantKeys, after string) error {
		rows, err := t.data.Query(ctx, transformColumns+`name > $2 order by name limit $3`, who.Tenant, after, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanTransform, "transforms", limit, func(t *Transform) string { return t.Name })
		for _, each := range page {
			each.KeyVersion = each.version(keys)
		}
		return err
	})
	return page, next, err
}

// DeleteTransform drops a transform. What it encoded can't be decoded by one of the same name that is made later: its keys
// go with its id.
func (v *Vault) DeleteTransform(ctx context.Context, who Caller, name string) error {
	return v.within(ctx, who, policy.DefineTransform, func(t *txn) error {
		if _, err := readTransform(ctx, t.data, who.Tenant, name); err != nil {
			return orNotFound(err)
		}
		if err := t.entry.require(policy.DefineTransform); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Transform: name}}
		_, err := t.data.Exec(ctx, `delete from privault.transforms where tenant_id = $1 and name = $2`, who.Tenant, name)
		return err
	})
}

// TransformItem asks for one value to be encoded, or one token to be decoded.
type TransformItem struct {
	Value      Secret // UTF-8 text, not JSON
	KeyVersion int32  // 0: the current one
}

// Transformed is the outcome of one TransformItem: either Err, or the other text and the key version between the two.
type Transformed struct {
	Value      Secret
	KeyVersion int32
	Err        *Error
}

// Encode gives the tokens of values, an outcome for each in its order. It returns once its audit entry is durable.
func (v *Vault) Encode(ctx context.Context, who Caller, name string, items []TransformItem) ([]Transformed, error) {
	return v.transform(ctx, who, policy.Encode, name, items)
}

// Decode gives the values of tokens, likewise. A token of another key version than its item says gives some other value:
// nothing in it tells them apart.
func (v *Vault) Decode(ctx context.Context, who Caller, name string, items []TransformItem) ([]Transformed, error) {
	return v.transform(ctx, who, policy.Decode, name, items)
}

func (v *Vault) transform(ctx context.Context, who Caller, action policy.Action, name string, items []TransformItem) ([]Transformed, error) {
	e, err := v.open(who, action)
	if err != nil {
		return nil, err
	}
	done, err := v.transformAll(ctx, e, action, name, items)
	if err != nil {
		return nil, v.refuse(ctx, e, err)
	}
	if err := v.commit(ctx, &change{entry: e}); err != nil {
		return nil, AsError(err)
	}
	v.metrics.batch(string(action), e.Items, e.Refused)
	return done, nil
}

func (v *Vault) transformAll(ctx context.Context, e *entry, action policy.Action, name string, items []TransformItem) ([]Transformed, error) {
	found, err := v.transformNamed(ctx, e.who.Tenant, name)
	if err != nil {
		return nil, err
	}
	view := policy.NoView
	if action == policy.Decode {
		view = policy.Plain
	}
	if err := e.requireTransform(action, view, found); err != nil {
		return nil, err
	}
	e.Resources = []resource{{Transform: name}}
	if err := checkBatch(len(items)); err != nil {
		return nil, err
	}
	if found.shape == nil && action == policy.Decode {
		return nil, invalid("", "not-reversible", "this transform masks: nothing brings the value back")
	}
	keys, err := v.keyring.of(ctx, e.who.Tenant)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(items, func(i TransformItem) bool { return i.KeyVersion > keys.fpe.current() }) { // it may have come since
		if keys, err = v.keyring.newer(keys); err != nil {
			return nil, err
		}
	}
	c := coder{transform: found, decode: action == policy.Decode, versions: map[int32]*version{}, naming: naming{keys: keys}}
	c.counts = e.who.Budget != nil && !c.decode
	done := make([]Transformed, len(items))
	for i, item := range items {
		done[i] = c.code(item, "/items/"+strconv.Itoa(i))
		if done[i].Err != nil {
			e.Refused++
		}
	}
	if err := c.spend(ctx, e.who); err != nil {
		return nil, err
	}
	e.Items = len(items)
	if e.Refused == e.Items {
		e.close(done[0].Err)
	}
	return done, nil
}

// coder does the items of one batch. Each key version is derived once.
type coder struct {
	transform *Transform
	decode    bool
	versions  map[int32]*version
	counts    bool // what is encoded is named
	naming
}

type version struct {
	cipher *fpe.Cipher
	tweak  []byte
	err    error
}

func (c *coder) code(item TransformItem, at string) Transformed {
	plain := item.Value.Reveal()
	if c.transform.shape == nil {
		return c.maskOf(plain, item.KeyVersion, at)
	}
	if item.KeyVersion == 0 {
		item.KeyVersion = c.keys.fpe.current()
	}
	k, have := c.versions[item.KeyVersion]
	if !have {
		k = c.version(item.KeyVersion)
		c.versions[item.KeyVersion] = k
	}
	if errors.Is(k.err, errNoVersion) {
		return Transformed{Err: invalid(at+"/key_version", "key-version", "the tenant's fpe keyset has no such version")}
	}
	if k.err != nil {
		return Transformed{Err: AsError(k.err)}
	}
	code := c.transform.shape.Encrypt
	if c.decode {
		code = c.transform.shape.Decrypt
	}
	text, err := code(k.cipher, k.tweak, string(plain))
	if err == nil && c.counts {
		err = c.add("transform:"+c.transform.Name, true, append(boundTo("privault/1/budget", c.transform.id), plain...))
	}
	if err != nil {
		return Transformed{Err: AsError(faultIn(err, at+"/value"))}
	}
	return Transformed{Value: NewSecret([]byte(text)), KeyVersion: item.KeyVersion}
}

func (c *coder) maskOf(plain []byte, keyVersion int32, at string) Transformed {
	if keyVersion != 0 {
		return Transformed{Err: invalid(at+"/key_version", "key-version", "a mask has no key")}
	}
	raw, err := json.Marshal(string(plain))
	if err != nil {
		return Transformed{Err: AsError(err)}
	}
	value, fault := c.transform.typ.Parse(raw)
	if fault != nil {
		return Transformed{Err: invalid(at+"/value", fault.Rule, fault.Detail)}
	}
	return Transformed{Value: NewSecret([]byte(c.transform.mask.Of(value)))}
}

// version derives one version's key, and the tweak that goes with it (docs/formats.md).
func (c *coder) version(n int32) *version {
	id := c.transform.id
	key, err := c.keys.fpe.derive(n, boundTo("privault/1/fpe-transform", c.keys.deployment, c.keys.tenant, id))
	if err != nil {
		return &version{err: err}
	}
	defer clear(key)
	k := &version{tweak: binary.BigEndian.AppendUint32(bytes.Join([][]byte{c.keys.tenant[:], id[:]}, nil), uint32(n))}
	k.cipher, k.err = c.transform.shape.Cipher(key)
	return k
}

// transformNamed reads a transform in one round trip. It isn't held for the next call: a replica that went on with one that
// was made anew elsewhere would give out tokens that nothing decodes.
func (v *Vault) transformNamed(ctx context.Context, tenant ID, name string) (found *Transform, err error) {
	b := &pgx.Batch{}
	b.Queue(transformColumns+`name = $2`, tenant, name).Query(func(rows pgx.Rows) error {
		found, err = pgx.CollectExactlyOneRow(rows, scanTransform)
		return err
	})
	return found, orNotFound(v.store.data.pipeline(ctx, tenant, b))
}
