package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/seal"
)

// TokenRef asks for the value behind a token.
type TokenRef struct {
	Token      string
	Collection string // optional: the token must be of it
	Field      string // optional: the token must be of it
	View       string // redacted, masked (the default) or plain
}

// Revealed is the outcome of one TokenRef: either Err, or a value as far as View shows it.
type Revealed struct {
	Collection string
	Field      string
	Record     string
	View       string
	Value      Secret // one JSON value; null for redacted
	Err        *Error
}

// Detokenize gives the values behind tokens, an outcome for each in its order. Unknown, foreign, expired and deleted
// tokens are refused alike. It returns once the audit entry that says what was revealed is durable.
func (v *Vault) Detokenize(ctx context.Context, who Caller, refs []TokenRef) ([]Revealed, error) {
	done := make([]Revealed, len(refs))
	errs, err := v.behindTokens(ctx, who, policy.Detokenize, refs, func(r *reader, i int, o *opened, f *field) (err error) {
		done[i], err = r.reveal(o, f, refs[i].View, "/items/"+strconv.Itoa(i)+"/view")
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range errs {
		done[i].Err = errs[i]
	}
	return done, nil
}

// Live is the outcome of one TokenRef of ValidateTokens: either Err, or what the token stands for.
type Live struct {
	Collection string
	Field      string
	Record     string
	Err        *Error
}

// ValidateTokens says which tokens resolve, and shows no value. All others are refused alike, as by Detokenize.
func (v *Vault) ValidateTokens(ctx context.Context, who Caller, refs []TokenRef) ([]Live, error) {
	done := make([]Live, len(refs))
	errs, err := v.behindTokens(ctx, who, policy.ValidateToken, refs, func(r *reader, i int, o *opened, f *field) error {
		err := r.entry.requireShown(policy.ValidateToken, policy.NoView, o, f)
		r.note(o, f, policy.NoView, err != nil)
		if err == nil {
			done[i] = Live{Collection: o.coll.Name, Field: f.name, Record: o.id}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range errs {
		done[i].Err = errs[i]
	}
	return done, nil
}

var errTokenNotFound = &Error{Kind: TokenNotFound,
	Detail: "a token that does not begin with pvtk_ or pvdt_ is found with its collection and field"}

// behindTokens is an operation on what tokens lead to: do for each field of a record that one leads to. It gives the error
// of each item, and returns once the entry is durable.
func (v *Vault) behindTokens(ctx context.Context, who Caller, action policy.Action, refs []TokenRef,
	do func(r *reader, i int, o *opened, f *field) error) ([]*Error, error) {
	e, err := v.open(who, action)
	if err != nil {
		return nil, err
	}
	errs, err := v.eachBehind(ctx, e, refs, do)
	if err != nil {
		return nil, v.refuse(ctx, e, err)
	}
	if err := v.commit(ctx, &change{entry: e}); err != nil {
		return nil, AsError(err)
	}
	v.metrics.batch(string(action), e.Items, e.Refused)
	return errs, nil
}

func (v *Vault) eachBehind(ctx context.Context, e *entry, refs []TokenRef, do func(r *reader, i int, o *opened, f *field) error) ([]*Error, error) {
	if err := checkBatch(len(refs)); err != nil {
		return nil, err
	}
	keys, err := v.keyring.of(ctx, e.who.Tenant)
	if err != nil {
		return nil, err
	}
	leads, rows, err := v.resolve(ctx, keys, refs)
	if err != nil {
		return nil, err
	}
	r := v.newReader(keys, e)
	r.unwrap(ctx, rows)
	errs := make([]*Error, len(refs))
	for i, ref := range refs {
		o, f, err := r.follow(ctx, ref, leads[i], rows)
		if err == nil {
			err = do(r, i, o, f)
		}
		if err != nil {
			errs[i] = r.failed(ctx, err)
		}
	}
	if e.Action == string(policy.ValidateToken) {
		if err := keys.spendOnMisses(ctx, e.who, refs, func(i int) bool { return errs[i] != nil && errs[i].Kind == TokenNotFound }); err != nil {
			return nil, err
		}
	}
	r.conclude()
	e.ended(errs)
	return errs, nil
}

// failed counts an item that failed.
func (r *reader) failed(ctx context.Context, err error) *Error {
	r.entry.Refused++
	failed := AsError(err)
	if failed.Kind == TokenNotFound {
		r.entry.unknown++
	}
	if failed.Kind == IntegrityFailure {
		r.vault.log.ErrorContext(ctx, "integrity failure", "request_id", r.entry.Request, "error", failed)
	}
	return failed
}

// ended notes how a batch ended: failed, if every item did.
func (e *entry) ended(errs []*Error) {
	if e.Items = len(errs); e.Refused == e.Items {
		e.close(errs[0])
	}
}

// reader opens the records of one operation, each once, and notes in its entry what it showed.
type reader struct {
	vault  *Vault
	keys   *tenantKeys
	entry  *entry
	opened map[ID]*opened
	sights map[sight]*seen
	order  []*seen // as they came

	direct map[dekAt]*dek     // DEKs that a KMS key wraps, unwrapped
	ahead  bool               // and no more of them: a transaction is open
	ends   map[string]Purpose // the purposes; nil: those of the entry's law
	whole  bool               // for jobs that carry along what is stored: what is due is opened too
}

// sight is one record, asked for in one view, with one outcome.
type sight struct {
	record ID
	view   policy.View
	denied bool
}

// seen is what a sight showed, or would have.
type seen struct {
	likeness
	fields []string
	record string
	row    *row
}

// likeness is what an entry says of records once for all of them.
type likeness struct{ collection, view, outcome, rule, fields string }

func (v *Vault) newReader(keys *tenantKeys, e *entry) *reader {
	return &reader{vault: v, keys: keys, entry: e, opened: map[ID]*opened{}, sights: map[sight]*seen{}}
}

// readerFor gives a reader to an operation that didn't fetch the keys before its transaction.
func (v *Vault) readerFor(ctx context.Context, t *txn) (*reader, error) {
	keys, err := v.keyring.of(ctx, t.who.Tenant)
	if err != nil {
		return nil, err
	}
	if keys, err = t.holdKeys(ctx, keys); err != nil {
		return nil, err
	}
	return v.newReader(keys, t.entry), nil
}

// opened is a record whose DEK is unwrapped.
type opened struct {
	id    string
	row   *row
	coll  *Collection
	dek   seal.Key
	boxes seal.Boxes
	plain map[uint32][]byte
	facts policy.SubjectFacts
	vague []*field // whose values are shown as far as they will be left
}

func (r *reader) reveal(o *opened, f *field, shown, viewAt string) (Revealed, error) {
	view, err := policy.ParseView(shown)
	if err != nil {
		return Revealed{}, invalid(viewAt, "view", err.Error())
	}
	out := Revealed{Collection: o.coll.Name, Field: f.name, Record: o.id, View: view.String()}
	out.Value, err = r.show(o, f, view, policy.Detokenize)
	if err != nil {
		return Revealed{}, err
	}
	return out, nil
}

// open unwraps a record's DEK, once an operation.
func (r *reader) open(ctx context.Context, row *row) (*opened, error) {
	if o := r.opened[row.id]; o != nil {
		return o, nil
	}
	coll, err := r.vault.collectionByID(ctx, r.keys.tenant, row.collection, row.schema)
	if err != nil {
		return nil, err
	}
	o := &opened{id: formatID(recordPrefix, row.id), row: row, coll: coll, plain: map[uint32][]byte{},
		facts: r.entry.law.facts(row, r.entry.who.Purpose)}
	if o.boxes, err = seal.Unpack(row.sealed); err != nil {
		return nil, &Error{Kind: IntegrityFailure, cause: err}
	}
	if o.dek, err = r.dekOf(ctx, row); err != nil {
		return nil, err
	}
	if o.coll.ruled() && !r.whole {
		if err := r.outlive(o); err != nil {
			return nil, err
		}
	}
	r.opened[row.id] = o
	return o, nil
}

// show asks for a view of one field and gives the value in it.
func (r *reader) show(o *opened, f *field, view policy.View, action policy.Action) (Secret, error) {
	if err := r.entry.requireShown(action, view, o, f); err != nil {
		r.note(o, f, view, true)
		return Secret{}, err
	}
	if view == policy.Redacted {
		r.note(o, f, view, false)
		return NewSecret([]byte("null")), nil
	}
	plain, err := r.plain(o, uint32(f.number))
	if err != nil {
		return Secret{}, err
	}
	var shown []byte
	if view == policy.Masked {
		shown, err = json.Marshal(f.mask.Of(plain))
	} else {
		shown, err = f.typ.JSON(plain)
	}
	if err != nil {
		return Secret{}, &Error{Kind: Internal, cause: fmt.Errorf("a value of field %s does not encode", f.name)}
	}
	r.note(o, f, view, false)
	r.revealed(o)
	return NewSecret(shown), nil
}

// plain opens a field's box, once an operation.
func (r *reader) plain(o *opened, number uint32) ([]byte, error) {
	if plain, have := o.plain[number]; have {
		return plain, nil
	}
	box, held := o.boxes.Get(number)
	if !held {
		return nil, nil
	}
	plain, err := o.dek.Open(box, r.keys.place(o.coll.id, o.row.id, o.row.version, number))
	if err != nil {
		return nil, &Error{Kind: IntegrityFailure, cause: fmt.Errorf("record %s, field number %d: %w", o.id, number, err)}
	}
	if slices.ContainsFunc(o.vague, func(f *field) bool { return uint32(f.number) == number }) {
		plain, _ = o.coll.byNumber(number).typ.Generalise(plain)
	}
	o.plain[number] = plain
	return plain, nil
}

// note keeps what was shown, or denied.
func (r *reader) note(o *opened, f *field, view policy.View, denied bool) {
	at := sight{o.row.id, view, denied}
	n := r.sights[at]
	if n == nil {
		n = &seen{likeness: likeness{collection: o.coll.Name, view: view.String(), rule: r.entry.ruled}, record: o.id, row: o.row}
		if denied {
			n.outcome = outcomeDenied
		}
		r.sights[at] = n
		r.order = append(r.order, n)
	}
	if i, have := slices.BinarySearch(n.fields, f.name); !have {
		n.fields = slices.Insert(n.fields, i, f.name)
	}
}

// conclude writes what was noted into the entry. Records of which just the same was seen stand together, so that the
// entry says of each record which fields were shown, and no more.
func (r *reader) conclude() {
	index, touched := map[likeness]int{}, make(map[ID]bool, len(r.order))
	for _, t := range r.entry.touched {
		touched[t.record] = true // what was rewritten is noted already
	}
	for _, n := range r.order {
		n.likeness.fields = strings.Join(n.fields, "\x00")
		i, have := index[n.likeness]
		if !have {
			i = len(r.entry.Resources)
			index[n.likeness] = i
			r.entry.Resources = append(r.entry.Resources, resource{Collection: n.collection, Fields: n.fields, View: n.view, Outcome: n.outcome, Rule: n.rule})
		}
		r.entry.Resources[i].Records = append(r.entry.Resources[i].Records, n.record)
		if !touched[n.row.id] {
			touched[n.row.id] = true
			r.entry.touches(n.row.subject, n.row.id)
		}
	}
}
