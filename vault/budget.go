package vault

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Whoever may name values and hears whether they are known can go through all the values that there are: by tokens that are
// equal for equal values, by unique fields, by searching, by encoding. So a caller has a budget of different values.

// Named is values that a caller is about to hear something of.
type Named struct {
	Scope   string    // the field, with the kind of index, or the transform
	Digests [][8]byte // of the values, under a key of the tenant's
	Few     bool      // there are so few such values that going through all of them is at hand
}

// tells says whether storing a value shows if it was known.
func (f *field) tells() bool { return f.ofValue() || f.unique }

// few says whether a type's values can be counted off. Of a card number the issuer and the last four are often known, of a
// telephone number the place.
func (f *field) few() bool {
	return f.typ.Cardinality(indexExact) < math.MaxInt32 || slices.Contains([]string{"pan", "us_ssn", "phone"}, f.typ.Name())
}

// naming gathers what one operation names.
type naming struct {
	keys *tenantKeys
	by   map[string]*Named
}

func (n *naming) add(scope string, few bool, input []byte) error {
	d, err := n.keys.index.ComputePrimaryPRF(input, 8)
	if err != nil {
		return err
	}
	if n.by == nil {
		n.by = map[string]*Named{}
	}
	if n.by[scope] == nil {
		n.by[scope] = &Named{Scope: scope, Few: few}
	}
	n.by[scope].Digests = append(n.by[scope].Digests, [8]byte(d))
	return nil
}

// value adds a value of a field, as it is normalised: to store it and to search for it names the same.
func (n *naming) value(c *Collection, f *field, kind string, derived []byte) error {
	scope := c.Name + "." + f.name
	if kind != indexExact {
		scope += "/" + kind
	}
	return n.add(scope, f.few(), append(append(digestInput("privault/1/budget", c.id, f.number), kind...), derived...))
}

// spend asks for the budget. It must not be called inside a transaction: the counter may be another server's.
func (n *naming) spend(ctx context.Context, who Caller) error {
	for _, named := range n.by {
		if err := who.Budget(ctx, *named); err != nil {
			return err
		}
	}
	return nil
}

// spendOnDrafts asks for the budget of what is to be stored.
func (s *sealer) spendOnDrafts(ctx context.Context, who Caller, drafts []draft) error {
	if who.Budget == nil || !slices.ContainsFunc(s.coll.order, (*field).tells) {
		return nil
	}
	n := naming{keys: s.keys}
	for i := range drafts {
		if drafts[i].err != nil {
			continue
		}
		for _, val := range drafts[i].values {
			f := s.coll.byNumber(val.number)
			if f == nil || !f.tells() {
				continue
			}
			if err := n.value(s.coll, f, indexExact, f.typ.Normalise(val.plain)); err != nil {
				return err
			}
		}
	}
	return n.spend(ctx, who)
}

// spendOnTerms asks for the budget of a search.
func (k *tenantKeys) spendOnTerms(ctx context.Context, who Caller, c *Collection, terms []sought) error {
	if who.Budget == nil {
		return nil
	}
	n := naming{keys: k}
	for _, t := range terms {
		if err := n.value(c, t.field, t.index.kind, t.derived); err != nil {
			return err
		}
	}
	return n.spend(ctx, who)
}

// spendOnPatch asks for the budget of a change, before its transaction. Values that are not good are the transaction's to
// refuse, and so is a caller who may not.
func (v *Vault) spendOnPatch(ctx context.Context, keys *tenantKeys, who Caller, collection string, p Patch) error {
	if who.Budget == nil {
		return nil
	}
	c, err := v.collectionNamed(ctx, who.Tenant, collection, false)
	if err != nil {
		return nil //nolint:nilerr // the transaction says it in its order
	}
	n := naming{keys: keys}
	for _, f := range c.named(p.Fields) {
		if !f.tells() {
			continue
		}
		value, fault := f.equals(index{name: indexExact, kind: indexExact}, p.Fields[f.name])
		if fault != nil {
			continue
		}
		if err := n.value(c, f, indexExact, value); err != nil {
			return err
		}
	}
	return n.spend(ctx, who)
}

// spendOnMisses asks for the budget of tokens that don't resolve, where nothing but that is learned. Those that only a key can make can't be guessed, and cost
// nothing; one with a shape can.
func (k *tenantKeys) spendOnMisses(ctx context.Context, who Caller, refs []TokenRef, missed func(i int) bool) error {
	if who.Budget == nil {
		return nil
	}
	n := naming{keys: k}
	for i, ref := range refs {
		if !missed(i) || strings.HasPrefix(ref.Token, tokenPrefix) || strings.HasPrefix(ref.Token, opaquePrefix) {
			continue
		}
		if err := n.add("tokens", false, fmt.Appendf(nil, "privault/1/budget-token%q%q%q", ref.Collection, ref.Field, ref.Token)); err != nil {
			return err
		}
	}
	return n.spend(ctx, who)
}
