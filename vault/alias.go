package vault

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/prf"

	"github.com/privault/privault/vault/base62"
	"github.com/privault/privault/vault/seal"
	"github.com/privault/privault/vault/shape"
)

// An alias is a token whose text is kept, because it has to have a shape, or to be equal for equal values, or was brought
// along from elsewhere. There are two kinds:
//
//   - of a value: all records of the collection that have just this value in this field share it, and it resolves as long
//     as one of them lives. Its text is sealed under a key made of the value, so whoever has not the value can't read it,
//     and an old copy of the table gives nothing back once the records are erased.
//   - of a record: its text is among the record's own boxes, under the field's number with aliasBox set.
//
// What resolves an alias is compared with what the record itself proves, so a row that somebody moved gives no value.

// The token strategies: what stands in for a field's values.
const (
	strategyRandom        = "random"        // a pointer token (token.go)
	strategyDeterministic = "deterministic" // an alias of the value
	strategyNone          = "none"
)

// What a caller may bring along as a token: nothing, something, or something for each value.
const (
	suppliedOff      = "off"
	suppliedAllowed  = "allowed"
	suppliedRequired = "required"
)

// aliasBox is set in the number of the box that holds the text of a record's own alias.
const aliasBox = 1 << 16

// An opaque deterministic token is opaquePrefix and the base62 text of 160 random bits. It says which tenant's table it
// is in and nothing else, so it resolves without its collection and field being named.
const (
	opaquePrefix = "pvdt_"
	opaqueBytes  = 20
)

func newOpaque() string {
	b := make([]byte, opaqueBytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return opaquePrefix + base62.Encode(b)
}

// isOpaque says whether a text has the form of an opaque token.
func isOpaque(text string) bool {
	body, found := strings.CutPrefix(text, opaquePrefix)
	return found && base62.Decode(make([]byte, opaqueBytes), body) == nil
}

// maxAlias is the most bytes that a token brought along may have.
const maxAlias = 512

// alias is a row of privault.aliases.
type alias struct {
	text, value []byte // digests; value is nil for a record's own
	collection  ID
	field       uint16
	record      *ID // whose own it is
	generation  int32
	keyVersion  int64
	sealed      []byte
	space       []byte // digest of the few texts that it takes one of; nil: there are many

	holder *ID // a live record that has the value, where one was looked for
}

// textInput is what the digest of an alias's text is made of. An opaque token's says no collection and field.
func textInput(coll ID, field uint16, text string) []byte {
	if isOpaque(text) {
		coll, field = ID{}, 0
	}
	return append(digestInput("privault/1/text", coll, field), text...)
}

func valueInput(coll ID, field uint16, plain []byte) []byte {
	return append(digestInput("privault/1/value", coll, field), plain...)
}

// aliasPRF is the alias key that a value's digest is of. That may be one that came since these keys were read.
func (k *tenantKeys) aliasPRF(coll ID, field uint16, plain, valueDigest []byte) (prf.PRF, error) {
	f, err := k.aliasPRFHere(coll, field, plain, valueDigest)
	if !errors.Is(err, errMovedAlias) {
		return f, err
	}
	newer, failed := k.ring.newer(k)
	if failed != nil {
		return nil, failed
	}
	return newer.aliasPRFHere(coll, field, plain, valueDigest)
}

func (k *tenantKeys) aliasPRFHere(coll ID, field uint16, plain, valueDigest []byte) (prf.PRF, error) {
	for _, f := range k.alias.PRFs {
		d, err := f.ComputePRF(valueInput(coll, field, plain), digestSize)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(d, valueDigest) {
			return f, nil
		}
	}
	return nil, errMovedAlias
}

// aliasKey is the key that seals the text of a value's alias.
func aliasKey(f prf.PRF, coll ID, field uint16, plain []byte) (seal.Key, error) {
	raw, err := f.ComputePRF(append(digestInput("privault/1/alias-key", coll, field), plain...), seal.KeySize)
	if err != nil {
		return seal.Key{}, err
	}
	defer clear(raw)
	return seal.NewKey(raw)
}

var errMovedAlias = &Error{Kind: IntegrityFailure, cause: errors.New("an alias does not belong to the value that it leads to")}

// aliasPlace is where the text of a value's alias lives: in the row of its digest.
func (k *tenantKeys) aliasPlace(a *alias) seal.Place {
	return seal.Place{Deployment: k.deployment, Tenant: k.tenant, Collection: a.collection, Record: ID(a.text[:16]),
		Field: aliasBox | uint32(a.field), Version: uint32(a.generation)}
}

// sealAlias makes the row of a value's new alias, under the key that the value's digest is of.
func (k *tenantKeys) sealAlias(coll ID, field uint16, text string, plain, valueDigest []byte, generation int32) (alias, error) {
	a := alias{value: valueDigest, collection: coll, field: field, generation: generation}
	f, err := k.aliasPRF(coll, field, plain, valueDigest)
	if err != nil {
		return a, err
	}
	if a.text, err = f.ComputePRF(textInput(coll, field, text), digestSize); err != nil {
		return a, err
	}
	key, err := aliasKey(f, coll, field, plain)
	if err != nil {
		return a, err
	}
	a.sealed, err = key.Seal(nil, []byte(text), k.aliasPlace(&a))
	return a, err
}

// openAlias gives the text of a value's alias to who has the value.
func (k *tenantKeys) openAlias(a *alias, plain []byte) (string, error) {
	f, err := k.aliasPRF(a.collection, a.field, plain, a.value)
	if err != nil {
		return "", err
	}
	key, err := aliasKey(f, a.collection, a.field, plain)
	if err != nil {
		return "", err
	}
	text, err := key.Open(a.sealed, k.aliasPlace(a))
	if err != nil {
		return "", &Error{Kind: IntegrityFailure, cause: fmt.Errorf("alias of field number %d: %w", a.field, err)}
	}
	return string(text), nil
}

// carry makes rows under the primary key of those aliases of a value that have none there yet: every generation, for all their
// texts resolve. all are its aliases under every key, digest is the value's under the primary one. The older rows go with the
// last record that still has them.
func (m *mint) carry(f *field, all []*alias, plain, digest []byte) (carried []alias, from []*alias, err error) {
	have := map[int32]bool{}
	for _, a := range all {
		have[a.generation] = have[a.generation] || bytes.Equal(a.value, digest)
	}
	for _, a := range all {
		if have[a.generation] {
			continue
		}
		have[a.generation] = true
		text, err := m.keys.openAlias(a, plain)
		if err != nil {
			return nil, nil, err
		}
		made, err := m.keys.sealAlias(a.collection, a.field, text, plain, digest, a.generation)
		if err != nil {
			return nil, nil, err
		}
		made.keyVersion = a.keyVersion
		if a.space != nil {
			spaces, _, err := m.space(f, plain)
			if err != nil {
				return nil, nil, err
			}
			made.space = first(spaces)
		}
		carried, from = append(carried, made), append(from, a)
	}
	return carried, from, nil
}

// newest is the alias of a value that is handed out.
func newest(have *alias, other *alias) *alias {
	if have == nil || other.generation > have.generation {
		return other
	}
	return have
}

// ofValue says whether the field's tokens are aliases of its values.
func (f *field) ofValue() bool {
	return f.strategy == strategyDeterministic || f.strategy == strategyFPE
}

// bound says whether a value of the field has rows beside its record's.
func (f *field) bound() bool {
	return f.ofValue() || f.strategy == strategyFormat || len(f.index) > 0 || f.supplied != suppliedOff
}

// checkSupplied says what is wrong with a token that a caller brings along.
func (f *field) checkSupplied(text string, plain []byte) (rule, detail string) {
	switch {
	case text == "" || len(text) > maxAlias:
		return "size", fmt.Sprintf("a token has 1 to %d bytes", maxAlias)
	case strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return "control", "a token has no control characters"
	case strings.HasPrefix(text, "pvtk"), strings.HasPrefix(text, "pvdt"):
		return "reserved", "tokens that begin with pvtk or pvdt are made here only"
	case text == string(plain):
		return "equals-value", "a token must not be its value"
	}
	return "", ""
}

// checkToken validates what a field's definition says of its tokens, and fills in the defaults.
func (f *FieldDefinition) checkToken(at string, bad func(pointer, rule, detail string)) {
	t := &f.Token
	switch t.Strategy {
	case strategyRandom, strategyNone:
		if t.Options != (shape.Options{}) {
			bad(at+"/token", "not-applicable", "a shape belongs to the strategies deterministic, fpe and format")
		}
	case strategyDeterministic, strategyFPE, strategyFormat:
		f.checkShape(at+"/token", bad)
	default:
		bad(at+"/token/strategy", "strategy", "the token strategies are random, deterministic, fpe, format and none")
	}
	if t.Supplied == suppliedOff {
		t.Supplied = ""
	}
	switch {
	case !slices.Contains([]string{"", suppliedAllowed, suppliedRequired}, t.Supplied):
		bad(at+"/token/supplied", "supplied", "supplied is off, allowed or required")
	case t.Supplied != "" && t.Strategy == strategyNone:
		bad(at+"/token/supplied", "supplied", "a field without tokens has none to supply")
	}
}
