package identity

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/privault/privault/api/egress"
)

// Config says who may vouch for callers, and for whom. Its JSON is the file that `privault serve --issuers` reads.
type Config struct {
	Issuers      []IssuerConfig      `json:"issuers"`
	Certificates []CertificateConfig `json:"certificates"`
}

// IssuerConfig is one issuer of access tokens.
type IssuerConfig struct {
	Issuer   string `json:"issuer"`   // compared with iss byte for byte
	JWKS     string `json:"jwks_url"` // empty: found by discovery
	Audience string `json:"audience"` // what aud must contain

	Algorithms     []string `json:"algorithms"` // of one key type, e.g. ["ES256"]
	Types          []string `json:"types"`      // of typ; empty: at+jwt
	MaxLife        Duration `json:"max_life"`   // of a token, exp - iat; 0: 15 minutes
	Binding        binding  `json:"binding"`    // what a token must be bound to: "", "mtls", "dpop" or "any"
	PrivateNetwork bool     `json:"private_network"`

	Tenant     TenantRule        `json:"tenant"`
	Subject    string            `json:"subject"` // the claim that names the principal; empty: sub
	Roles      RoleRule          `json:"roles"`
	Attributes map[string]string `json:"attributes"` // attribute → claim
}

// TenantRule says which tenant an issuer's tokens are for: always the same, or what a claim stands for in a closed list.
type TenantRule struct {
	Name  string            `json:"name"`
	Claim string            `json:"claim"`
	Allow map[string]string `json:"allow"` // the claim's value → the tenant's name
}

// RoleRule says which roles an identity has. A value of the claim that Allow doesn't have gives none.
type RoleRule struct {
	Fixed []string            `json:"fixed"`
	Claim string              `json:"claim"` // a list of strings, or one string of words (scope)
	Allow map[string][]string `json:"allow"`
}

// CertificateConfig says for whom a client certificate stands: one whose URI or subject matches, under the CAs of the
// listener.
type CertificateConfig struct {
	SPIFFE  string   `json:"spiffe"`  // spiffe://domain/path; a last segment of * takes any one segment
	Subject string   `json:"subject"` // the distinguished name in the form of RFC 4514
	Tenant  string   `json:"tenant"`
	Roles   []string `json:"roles"`
	// What the authority calls the principal is the URI or the subject itself.
	Attributes map[string][]string `json:"attributes"`
}

// Duration is a time.Duration whose JSON is text such as "15m".
type Duration time.Duration

// UnmarshalText reads Go's form of a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	parsed, err := time.ParseDuration(string(b))
	*d = Duration(parsed)
	return err
}

// MarshalText is the reverse.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

type binding string

const (
	bindingMTLS binding = "mtls"
	bindingDPoP binding = "dpop"
	bindingAny  binding = "any"
)

const (
	defaultMaxLife = 15 * time.Minute
	mostMaxLife    = 24 * time.Hour
)

// families are the algorithms that may be allowed, by the type of their keys. Nothing symmetric is here: an issuer's
// public key must never be able to serve as a secret.
var families = map[string]string{
	"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
	"ES256": "EC", "ES384": "EC", "ES512": "EC", "EdDSA": "OKP",
}

var (
	name     = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	spiffeID = regexp.MustCompile(`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/\*)?$`)
)

// Faults are all that is wrong with a Config.
func (c Config) Faults() []string {
	var faults []string
	seen := map[string]bool{}
	for at, i := range c.Issuers {
		bad := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("issuers[%d]: ", at)+fmt.Sprintf(format, args...))
		}
		if seen[i.Issuer] {
			bad("the same issuer stands twice")
		}
		seen[i.Issuer] = true
		i.check(bad)
	}
	for at, r := range c.Certificates {
		bad := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("certificates[%d]: ", at)+fmt.Sprintf(format, args...))
		}
		if (r.SPIFFE == "") == (r.Subject == "") {
			bad("give one of spiffe and subject")
		}
		if r.SPIFFE != "" && !spiffeID.MatchString(r.SPIFFE) {
			bad("spiffe is spiffe://domain/path, whose last segment may be *")
		}
		if !name.MatchString(r.Tenant) {
			bad("tenant is a tenant's name")
		}
		checkRoles(bad, r.Roles)
		for attribute := range r.Attributes {
			checkAttribute(bad, attribute)
		}
	}
	return faults
}

func (i IssuerConfig) check(bad func(string, ...any)) {
	if !egress.Fetchable(i.Issuer) {
		bad("issuer must be an https:// URL without query or fragment (http:// only on this machine's loopback)")
	}
	if i.JWKS != "" && !egress.Fetchable(i.JWKS) {
		bad("jwks_url must be an https:// URL (http:// only on this machine's loopback)")
	}
	if i.Audience == "" {
		bad("audience is missing: without it a token for another service would be good here")
	}
	if len(i.Algorithms) == 0 {
		bad("algorithms is missing")
	}
	for _, alg := range i.Algorithms {
		if families[alg] == "" {
			bad("algorithms are RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA")
		} else if families[alg] != families[i.Algorithms[0]] {
			bad("all algorithms of an issuer need the same type of key")
		}
	}
	for _, t := range i.Types {
		if t != strings.ToLower(t) || t == "" {
			bad("types are in lower case, e.g. at+jwt")
		}
	}
	if life := time.Duration(i.MaxLife); life < 0 || life > mostMaxLife {
		bad("max_life is at most 24h")
	}
	if !slices.Contains([]binding{"", bindingMTLS, bindingDPoP, bindingAny}, i.Binding) {
		bad(`binding is "mtls", "dpop" or "any"`)
	}
	i.Tenant.check(bad)
	checkRoles(bad, i.Roles.Fixed)
	for _, roles := range i.Roles.Allow {
		checkRoles(bad, roles)
	}
	if (i.Roles.Claim == "") != (len(i.Roles.Allow) == 0) {
		bad("roles.claim and roles.allow go together")
	}
	for attribute := range i.Attributes {
		checkAttribute(bad, attribute)
	}
}

func (r TenantRule) check(bad func(string, ...any)) {
	if (r.Name == "") == (r.Claim == "") || (r.Claim == "") != (len(r.Allow) == 0) {
		bad("tenant is either a name, or a claim with the list of its values that are allowed")
	}
	if r.Name != "" && !name.MatchString(r.Name) {
		bad("tenant.name is a tenant's name")
	}
	for _, tenant := range r.Allow {
		if !name.MatchString(tenant) {
			bad("tenant.allow gives tenants' names")
		}
	}
}

func checkRoles(bad func(string, ...any), roles []string) {
	for _, role := range roles {
		if !name.MatchString(role) || role == "developer" {
			bad("a role is the name of a role; developer is for development servers")
		}
	}
}

func checkAttribute(bad func(string, ...any), attribute string) {
	if !name.MatchString(attribute) {
		bad("an attribute's name is a lower-case letter, then up to 62 of a-z 0-9 _ -")
	}
}

// reach says which addresses an issuer's keys may be fetched from.
func (i IssuerConfig) reach() egress.Rules {
	r := egress.Rules{Private: i.PrivateNetwork}
	for _, text := range []string{i.Issuer, i.JWKS} {
		if u, err := url.Parse(text); err == nil && egress.Loopback(u.Hostname()) {
			r.Loopback = true
		}
	}
	return r
}
