package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// New tokens for old ones, as when tokens have come into wrong hands. The old ones stop resolving with the commit.
//
//   - A pointer token has no row: the record's epoch goes up by one, and with it all pointer tokens of the record change.
//   - A record's own alias is replaced by another text.
//   - An alias of a value is replaced for all records that have the value.
//   - An FPE token is what the field's key makes of the value, and a token that must be brought along is nobody's to make
//     here: both are refused.

// Rotated is the outcome of one TokenRef of RotateTokens: either Err, or all tokens of the record as they are now.
type Rotated struct {
	Collection string
	Field      string
	Record     string
	Tokens     map[string]string
	Err        *Error
}

// RotateTokens replaces tokens, an outcome for each in its order. Items that are refused don't keep the others from being
// done. It is one transaction: what it reports as done is durable once it returns.
func (v *Vault) RotateTokens(ctx context.Context, who Caller, refs []TokenRef) ([]Rotated, error) {
	if err := checkBatch(len(refs)); err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.RotateToken, err)
	}
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.RotateToken, err)
	}
	leads, rows, err := v.resolve(ctx, keys, refs)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.RotateToken, err)
	}
	if err := keys.spendOnMisses(ctx, who, refs, func(i int) bool { return leads[i] == nil }); err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.RotateToken, err)
	}
	r := v.newReader(keys, nil)
	r.lookAhead(ctx, rows)
	var errs []*Error
	done := make([]Rotated, len(refs))
	err = v.within(ctx, who, policy.RotateToken, func(t *txn) (err error) {
		r.entry = t.entry
		if r.keys, err = t.holdKeys(ctx, keys); err != nil {
			return err
		}
		x := &reissue{reader: r, txn: t, refs: refs, leads: leads, done: done, errs: make([]*Error, len(refs)), plans: map[ID]*plan{}, away: map[ID]error{}}
		if err := x.run(ctx); err != nil {
			return err
		}
		r.conclude()
		t.entry.ended(x.errs)
		errs = x.errs
		return nil
	})
	if err != nil {
		return nil, err
	}
	refused := 0
	for i, err := range errs {
		if err != nil {
			done[i], refused = Rotated{Err: err}, refused+1
		}
	}
	v.metrics.batch(string(policy.RotateToken), len(refs), refused)
	return done, nil
}

// reissue is one call of RotateTokens.
type reissue struct {
	*reader
	txn   *txn
	refs  []TokenRef
	leads []*lead
	done  []Rotated
	errs  []*Error
	plans map[ID]*plan // by record
	away  map[ID]error // records whose keys the KMS doesn't give
}

// plan is what is to be replaced of one record.
type plan struct {
	*opened
	items  []int           // of the batch
	raise  bool            // the epoch
	renew  map[uint32]bool // fields whose own alias is replaced
	shared map[uint32]bool // fields whose value's alias is
}

// run locks everything in one order, so that two calls wait for each other and don't deadlock: the records by their ids,
// and then the aliases of their values.
func (x *reissue) run(ctx context.Context) error {
	rows := map[ID]*row{}
	var ids []ID
	for _, p := range x.leads {
		if p != nil {
			ids = append(ids, p.record)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range slices.Compact(ids) {
		o, err := x.openForUpdate(ctx, x.txn, "", id)
		switch kind := AsError(err).Kind; {
		case err == nil:
			rows[id] = o.row
		case kind == KMSUnavailable:
			x.away[id] = err
		case kind != NotFound:
			return err
		}
	}
	locked, err := x.lock(ctx, rows)
	if err != nil {
		return err
	}
	for i, ref := range x.refs {
		if err := x.admit(ctx, i, ref, rows, locked); err != nil {
			x.errs[i] = x.failed(ctx, err)
		}
	}
	return x.replace(ctx, locked)
}

// lock gives the aliases of the values of records, which nobody else changes from now on.
func (x *reissue) lock(ctx context.Context, rows map[ID]*row) ([]*alias, error) {
	var digests [][]byte
	for _, r := range rows {
		digests = append(digests, r.digests...)
	}
	if len(digests) == 0 {
		return nil, nil
	}
	return x.txn.lockedAliases(ctx, digests)
}

// admit decides on one item and adds it to its record's plan.
func (x *reissue) admit(ctx context.Context, i int, ref TokenRef, rows map[ID]*row, locked []*alias) error {
	p := x.leads[i]
	if p != nil && x.away[p.record] != nil {
		return x.away[p.record]
	}
	// Between the look and the locks the token may have stopped leading there.
	if p != nil && p.alias != nil && rows[p.record] != nil && !stillThere(p.alias, rows[p.record], locked) {
		p = nil
	}
	o, f, err := x.follow(ctx, ref, p, rows)
	if err != nil {
		return err
	}
	if err := x.entry.requireShown(policy.RotateToken, policy.NoView, o, f); err != nil {
		x.note(o, f, policy.NoView, true)
		return err
	}
	at := "/items/" + strconv.Itoa(i) + "/token"
	switch {
	case p.alias == nil && o.row.epoch == math.MaxUint16:
		return invalid(at, "not-rotatable", "the record's tokens were rotated 65,535 times, which is as often as they can be")
	case p.alias != nil && f.strategy == strategyFPE:
		return invalid(at, "not-rotatable", "an fpe token is what the field's key makes of the value: only another key makes another token")
	case p.alias != nil && f.supplied == suppliedRequired:
		return invalid(at, "not-rotatable", "the field takes the tokens that come with its values, and makes none")
	}
	have := x.plans[o.row.id]
	if have == nil {
		have = &plan{opened: o, renew: map[uint32]bool{}, shared: map[uint32]bool{}}
		x.plans[o.row.id] = have
	}
	have.items = append(have.items, i)
	switch {
	case p.alias == nil:
		have.raise = true
	case p.alias.record != nil:
		have.renew[uint32(f.number)] = true
	default:
		have.shared[uint32(f.number)] = true
	}
	x.done[i] = Rotated{Collection: o.coll.Name, Field: f.name, Record: o.id}
	return nil
}

// stillThere says whether an alias leads to a record now that both are locked.
func stillThere(a *alias, r *row, locked []*alias) bool {
	return r.leads(a) && (a.record != nil || has(textsOf(locked), a.text))
}

// replace does what was planned: first the aliases that records share, so that every record's tokens are the new ones.
func (x *reissue) replace(ctx context.Context, locked []*alias) error {
	order := slices.SortedFunc(maps.Keys(x.plans), func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	renewed := map[string]error{} // by value digest: how it went
	for _, id := range order {
		p := x.plans[id]
		for _, number := range slices.Sorted(maps.Keys(p.shared)) {
			if err := x.renewShared(ctx, p, number, locked, renewed); err != nil {
				if x.refuse(ctx, p, err) {
					break
				}
				return err
			}
		}
	}
	for _, id := range order {
		p := x.plans[id]
		if len(p.items) == 0 {
			continue
		}
		tokens, err := x.renewOwn(ctx, p)
		if err != nil {
			if x.refuse(ctx, p, err) {
				continue
			}
			return err
		}
		for _, i := range p.items {
			x.done[i].Tokens = tokens
		}
	}
	return nil
}

// refuse takes a record out of the batch, if what is wrong is wrong with it alone.
func (x *reissue) refuse(ctx context.Context, p *plan, err error) bool {
	var refused *Error
	if !errors.As(err, &refused) || refused.Kind != FormatSpaceExhausted && refused.Kind != Conflict {
		return false
	}
	for _, i := range p.items {
		x.errs[i] = x.failed(ctx, refused)
	}
	p.items = nil
	return true
}

// renewShared replaces the alias of a value, for all that have the value. All others that the value has stop with it.
func (x *reissue) renewShared(ctx context.Context, p *plan, number uint32, locked []*alias, renewed map[string]error) error {
	f := p.coll.byNumber(number)
	plain, err := x.plain(p.opened, number)
	if err != nil {
		return err
	}
	digests, err := allDigests(x.keys.alias, valueInput(p.coll.id, f.number, plain))
	if err != nil {
		return err
	}
	var old []*alias
	for _, a := range locked {
		if a.field != f.number || a.collection != p.coll.id {
			continue
		}
		if has(digests, a.value) {
			old = append(old, a)
		}
	}
	if len(old) == 0 {
		return errMovedAlias
	}
	if err, done := renewed[string(digests[0])]; done {
		return err
	}
	err = x.txn.attempt(ctx, func() error {
		// The new one has the old one's place: whoever stores the value at the same time, and saw none, must find it taken.
		text, spaces, err := x.renewed(ctx, p, f, plain)
		if err != nil {
			return err
		}
		if err := x.txn.deleteAliases(ctx, textsOf(old)); err != nil {
			return err
		}
		return x.insertShared(ctx, p, f, plain, old, text, first(spaces))
	})
	renewed[string(digests[0])] = err
	return err
}

func textsOf(all []*alias) [][]byte {
	texts := make([][]byte, len(all))
	for i, a := range all {
		texts[i] = a.text
	}
	return texts
}

// renewed makes a text for a value, while those that are to stop are still there, and so are not free.
func (x *reissue) renewed(ctx context.Context, p *plan, f *field, plain []byte) (text string, spaces [][]byte, err error) {
	m := mint{keys: x.keys, coll: p.coll}
	spaces, limit, err := m.space(f, plain)
	if err != nil {
		return "", nil, err
	}
	if err := x.txn.roomIn(ctx, spaces, limit); err != nil {
		return "", nil, err
	}
	text, err = x.txn.newText(ctx, &m, f, plain, 0)
	return text, spaces, err
}

// insertShared gives a value one text in place of its old aliases. While keys change there are records that have the value's
// digest under an older one; they find it there.
func (x *reissue) insertShared(ctx context.Context, p *plan, f *field, plain []byte, old []*alias, text string, space []byte) error {
	var made []alias
	var values [][]byte
	for _, a := range old {
		if has(values, a.value) {
			continue
		}
		values = append(values, a.value)
		fresh, err := x.keys.sealAlias(p.coll.id, f.number, text, plain, a.value, 1)
		if err != nil {
			return err
		}
		fresh.space = space
		made = append(made, fresh)
	}
	inserted, err := x.txn.insertAliases(ctx, made)
	if err == nil && inserted < len(made) {
		err = errTokensChange
	}
	return err
}

// deleteAliases deletes aliases of values, and frees their texts.
func (t *txn) deleteAliases(ctx context.Context, texts [][]byte) error {
	done, err := t.data.Exec(ctx, `
		with gone as (
			delete from privault.aliases where tenant_id = $1 and text_digest = any($2) and value_digest is not null
			returning space
		)`+freeSpaces+`
		select from gone`, t.who.Tenant, texts)
	if err == nil && done.RowsAffected() != int64(len(texts)) {
		return fmt.Errorf("%d of %d locked aliases were there to be deleted", done.RowsAffected(), len(texts))
	}
	return err
}

// renewOwn replaces what is the record's own, and gives all its tokens. If it fails, nothing of it stays.
func (x *reissue) renewOwn(ctx context.Context, p *plan) (map[string]string, error) {
	if !p.raise && len(p.renew) == 0 {
		return x.tokensNow(ctx, p)
	}
	var values []value
	for _, box := range p.boxes {
		if box.Field >= aliasBox {
			continue
		}
		plain, err := x.plain(p.opened, box.Field)
		if err != nil {
			return nil, err
		}
		values = append(values, value{box.Field, plain})
	}
	w := rewriting{values: values, expires: p.row.expires, epoch: p.row.epoch, generalised: p.row.generalised}
	if p.raise {
		w.epoch++
	}
	for _, i := range p.items {
		w.fields = append(w.fields, x.done[i].Field)
	}
	slices.Sort(w.fields)
	w.fields = slices.Compact(w.fields)
	err := x.txn.attempt(ctx, func() (err error) {
		moved := &rebinding{opened: p.opened, values: bindable(values, w.generalised), renew: p.renew}
		err = x.rebind(ctx, x.txn, []*rebinding{moved}, false)
		w.bound = moved.bound
		return err
	})
	if err != nil {
		return nil, err
	}
	rec, err := x.rewrite(ctx, x.txn, p.opened, w)
	if err != nil {
		return nil, err
	}
	return rec.Tokens, nil
}

// attempt runs do in the data database so that nothing of it stays if it fails.
func (t *txn) attempt(ctx context.Context, do func() error) error {
	whole := t.data
	defer func() { t.data = whole }()
	return pgx.BeginFunc(ctx, whole, func(part pgx.Tx) error {
		t.data = part
		return do()
	})
}

// tokensNow gives the tokens of a record of which only aliases that it shares were replaced.
func (x *reissue) tokensNow(ctx context.Context, p *plan) (map[string]string, error) {
	var err error
	if p.row.aliases, err = x.txn.lockedAliases(ctx, p.row.digests); err != nil {
		return nil, err
	}
	for number := range p.shared {
		x.note(p.opened, p.coll.byNumber(number), policy.NoView, false)
	}
	return x.tokens(p.opened, nil)
}
