package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxToken  = 8 << 10
	maxText   = 255 // bytes of sub, jti, kid and an attribute's value
	maxValues = 64  // of one attribute
	leeway    = 30 * time.Second
)

type issuer struct {
	IssuerConfig
	keys *keySet
}

// header is all that a token's header may say. What would choose a key, an address or a processing rule is not in it, and
// a member that is not in it is refused.
type header struct {
	Alg  string `json:"alg"`
	Typ  string `json:"typ"`
	Kid  string `json:"kid"`
	X5t  string `json:"x5t"`
	X5tS string `json:"x5t#S256"`
}

type claims map[string]jsontext.Value

// Token says who the holder of an access token is. It proves the token and not its possession: see Prove.
func (a *Authority) Token(ctx context.Context, token string) (Identity, error) {
	i, c, err := a.verify(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	id, err := i.identify(c)
	if err != nil {
		return Identity{}, err
	}
	if id.Token == "" { // without a jti the token's own digest names it
		sum := sha256.Sum256([]byte(token))
		id.Token = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return id, nil
}

// verify checks the form, the signature and the claims that RFC 9068 and RFC 8725 demand, cheapest first: nothing is
// fetched, and no signature computed, for a token that can't be good.
func (a *Authority) verify(ctx context.Context, token string) (*issuer, claims, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return nil, nil, refused("not three parts of at most 8 KiB")
	}
	head, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	var h header
	if err := decodePart(head, &h); err != nil {
		return nil, nil, refused("the header is not JSON, or says more than it may")
	}
	var c claims
	if err := decodePart(body, &c); err != nil {
		return nil, nil, refused("the claims are not JSON")
	}
	iss, _ := c.text("iss")
	i := a.issuers[iss]
	switch {
	case i == nil:
		return nil, nil, refused("iss is no configured issuer")
	case !slices.Contains(i.Algorithms, h.Alg):
		return nil, nil, refused("alg is not allowed for this issuer")
	case h.Kid == "" || len(h.Kid) > maxText:
		return nil, nil, refused("kid is missing or long")
	case !i.typed(h.Typ):
		return nil, nil, refused("typ is not that of an access token")
	}
	if err := i.checkClaims(c, a.now()); err != nil {
		return nil, nil, err
	}
	key, err := i.keys.key(ctx, h.Kid)
	if err != nil {
		return nil, nil, err
	}
	if key.Algorithm != "" && key.Algorithm != h.Alg {
		return nil, nil, refused("alg is not that of the key")
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(h.Alg)})
	if err != nil {
		return nil, nil, refused("not a signed token")
	}
	if _, err := signed.Verify(key.Key); err != nil {
		return nil, nil, refused("the signature")
	}
	return i, c, nil
}

// decodePart reads one part: strict base64url, strict JSON without duplicate members.
func decodePart(part string, into any) error {
	if strings.ContainsAny(part, "\r\n") { // encoding/base64 passes over them
		return errors.New("a line break")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into, json.RejectUnknownMembers(true))
}

func (i *issuer) typed(typ string) bool {
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	if len(i.Types) == 0 {
		return typ == "at+jwt"
	}
	return slices.Contains(i.Types, typ)
}

func (i *issuer) checkClaims(c claims, now time.Time) error {
	exp, hasExp := c.time("exp")
	iat, hasIat := c.time("iat")
	nbf, hasNbf := c.time("nbf")
	life := time.Duration(i.MaxLife)
	if life == 0 {
		life = defaultMaxLife
	}
	_, nonce := c["nonce"]
	_, hash := c["at_hash"]
	switch {
	case nonce || hash:
		return refused("an ID token is not an access token")
	case !c.audience(i.Audience):
		return refused("aud is not this vault")
	case !hasExp || !hasIat:
		return refused("exp or iat is missing, or no number")
	case c["nbf"] != nil && !hasNbf:
		return refused("nbf is no number")
	case !now.Before(exp.Add(leeway)):
		return refused("exp is over")
	case iat.After(now.Add(leeway)) || hasNbf && nbf.After(now.Add(leeway)):
		return refused("iat or nbf lies in the future")
	case !exp.After(iat) || exp.Sub(iat) > life:
		return refused("the token lives too long, or not at all")
	}
	return nil
}

// identify maps claims as the configuration says.
func (i *issuer) identify(c claims) (Identity, error) {
	id := Identity{Authority: i.Issuer, Tenant: i.Tenant.Name, binding: i.Binding}
	if i.Tenant.Claim != "" {
		value, _ := c.text(i.Tenant.Claim)
		if id.Tenant = i.Tenant.Allow[value]; id.Tenant == "" {
			return id, refused("the claim for the tenant names none that this issuer may speak for")
		}
	}
	subject := i.Subject
	if subject == "" {
		subject = "sub"
	}
	var ok bool
	if id.Subject, ok = c.text(subject); !ok || id.Subject == "" || len(id.Subject) > maxText || strings.ContainsRune(id.Subject, 0) {
		return id, refused("the claim for the principal is missing, empty or long")
	}
	if id.Token, _ = c.text("jti"); len(id.Token) > maxText {
		return id, refused("jti is long")
	}
	id.Roles = slices.Clone(i.Roles.Fixed)
	for _, value := range c.texts(i.Roles.Claim) {
		for _, role := range i.Roles.Allow[value] {
			if !slices.Contains(id.Roles, role) {
				id.Roles = append(id.Roles, role)
			}
		}
	}
	for attribute, claim := range i.Attributes {
		if values := c.attribute(claim); len(values) > 0 {
			if id.Attributes == nil {
				id.Attributes = map[string][]string{}
			}
			id.Attributes[attribute] = values
		}
	}
	id.Expires, _ = c.time("exp")
	id.Expires = id.Expires.Add(leeway)
	if raw := c["cnf"]; raw != nil {
		var cnf map[string]string
		if json.Unmarshal(raw, &cnf) != nil {
			return id, refused("cnf is not understood")
		}
		id.certificate, id.key = cnf["x5t#S256"], cnf["jkt"]
		if len(cnf) == 0 || id.certificate == "" && id.key == "" {
			return id, refused("cnf binds the token in a way that is not understood")
		}
	}
	return id, nil
}

// at finds a claim; a dot leads into an object, unless a claim has the whole name.
func (c claims) at(path string) jsontext.Value {
	if raw := c[path]; raw != nil {
		return raw
	}
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper || c[first].Kind() != '{' {
		return nil
	}
	var inner claims
	if json.Unmarshal(c[first], &inner) != nil {
		return nil
	}
	return inner.at(rest)
}

func (c claims) text(path string) (string, bool) {
	raw := c.at(path)
	if raw.Kind() != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// texts reads a list of strings, or the words of one string (scope).
func (c claims) texts(path string) []string {
	raw := c.at(path)
	switch raw.Kind() {
	case '"':
		s, _ := c.text(path)
		return strings.Fields(s)
	case '[':
		var list []string
		if json.Unmarshal(raw, &list) == nil {
			return list
		}
	}
	return nil
}

// attribute gives a claim's values as text: a string, true, false, a number as it stands, or a list of strings.
func (c claims) attribute(path string) []string {
	raw := c.at(path)
	var values []string
	switch raw.Kind() {
	case '"':
		s, _ := c.text(path)
		values = []string{s}
	case 't', 'f', '0':
		values = []string{string(raw)}
	case '[':
		values = c.texts(path)
	}
	if len(values) > maxValues || slices.ContainsFunc(values, func(s string) bool { return len(s) > maxText }) {
		return nil
	}
	return values
}

// time reads a NumericDate.
func (c claims) time(path string) (time.Time, bool) {
	raw := c[path]
	if raw.Kind() != '0' {
		return time.Time{}, false
	}
	n, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(n, 0) || n < 0 || n > 1<<40 {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(n)
	return time.Unix(int64(whole), int64(fraction*1e9)), true
}

// audience says whether aud, a string or a list of strings, has us.
func (c claims) audience(us string) bool {
	raw := c["aud"]
	switch raw.Kind() {
	case '"':
		one, ok := c.text("aud")
		return ok && one == us
	case '[':
		var list []string
		return json.Unmarshal(raw, &list) == nil && slices.Contains(list, us)
	}
	return false
}
