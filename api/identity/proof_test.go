package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/privault/privault/api/identity"
)

func thumbprint(t *testing.T, key *ecdsa.PrivateKey) (jose.JSONWebKey, string) {
	t.Helper()
	jwk := jose.JSONWebKey{Key: key.Public()}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return jwk, base64.RawURLEncoding.EncodeToString(sum)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func certificate(t *testing.T, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	change(template)
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: name, Organization: []string{"Example"}} }
}

func spiffe(uris ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, text := range uris {
			u, err := url.Parse(text)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

// S-5, RFC 8705: a token that is bound to a certificate is good only with it.
func TestATokenBoundToACertificate(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	mine, others := certificate(t, named("a")), certificate(t, named("a"))
	bound := p.token(t, object{"cnf": object{"x5t#S256": identity.Fingerprint(mine)}})
	for _, binding := range []string{"", "mtls", "any"} {
		a := p.trusted(t, func(c *identity.IssuerConfig) { setBinding(c, binding) })
		id, err := a.Token(t.Context(), bound)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Prove(t.Context(), id, bound, identity.Request{Certificate: mine}); err != nil {
			t.Errorf("with its certificate, binding %q: %v", binding, err)
		}
		refused(t, "another certificate", a.Prove(t.Context(), id, bound, identity.Request{Certificate: others}))
		refused(t, "no certificate", a.Prove(t.Context(), id, bound, identity.Request{}))
		free := p.token(t, nil)
		if id, err = a.Token(t.Context(), free); err != nil {
			t.Fatal(err)
		}
		err = a.Prove(t.Context(), id, free, identity.Request{Certificate: mine})
		if binding == "" && err != nil {
			t.Error("a token that needs no binding: ", err)
		}
		if binding != "" {
			refused(t, "a token that isn't bound where it must be", err)
		}
	}
	a := p.trusted(t, func(c *identity.IssuerConfig) { setBinding(c, "dpop") })
	id, err := a.Token(t.Context(), bound)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "bound to a certificate where a key is meant", a.Prove(t.Context(), id, bound, identity.Request{Certificate: mine}))
}

func setBinding(c *identity.IssuerConfig, to string) {
	switch to {
	case "mtls":
		c.Binding = "mtls"
	case "dpop":
		c.Binding = "dpop"
	case "any":
		c.Binding = "any"
	}
}

// S-5, RFC 9449: a token that is bound to a key needs a fresh proof with every request.
func TestATokenBoundToAKey(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t, func(c *identity.IssuerConfig) { setBinding(c, "dpop") })
	mine := newKey(t)
	jwk, thumb := thumbprint(t, mine)
	token := p.token(t, object{"cnf": object{"jkt": thumb}})
	id, err := a.Token(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse("https://vault.example/v1/detokenize")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	proof := func(key any, h, c object) string {
		n++
		full := object{"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
		for name, v := range h {
			full[name] = v
		}
		claims := object{"jti": hash(time.Now().String() + string(rune('a'+n))), "htm": "POST", "htu": target.String(), "iat": p.now().Unix(), "ath": hash(token)}
		for name, v := range c {
			claims[name] = v
		}
		return sign(t, key, full, claims)
	}
	prove := func(proofs ...string) error {
		return a.Prove(t.Context(), id, token, identity.Request{Method: "POST", URL: target, Proofs: proofs, DPoP: true})
	}
	good := proof(mine, nil, nil)
	if err := prove(good); err != nil {
		t.Fatal(err)
	}
	refused(t, "the same proof again", prove(good))
	refused(t, "under the scheme Bearer", a.Prove(t.Context(), id, token, identity.Request{Method: "POST", URL: target, Proofs: []string{proof(mine, nil, nil)}}))
	for _, htu := range []string{"https://vault.example:443/v1/detokenize", "HTTPS://VAULT.EXAMPLE/v1/detokenize", "https://vault.example/v1/detokenize?x=y"} {
		if err := prove(proof(mine, nil, object{"htu": htu})); err != nil {
			t.Errorf("htu %s: %v", htu, err)
		}
	}
	other := newKey(t)
	otherJWK, _ := thumbprint(t, other)
	secretJWK := jose.JSONWebKey{Key: mine}
	now := p.now().Unix()
	for name, proofs := range map[string][]string{
		"none": nil, "two": {proof(mine, nil, nil), proof(mine, nil, nil)}, "no token": {"x"}, "empty": {""}, "four parts": {proof(mine, nil, nil) + ".x"},
		"another key":               {proof(other, object{"jwk": otherJWK}, nil)},
		"another key's signature":   {proof(other, nil, nil)},
		"a private key":             {proof(mine, object{"jwk": secretJWK}, nil)},
		"a secret":                  {proof(mine, object{"jwk": object{"kty": "oct", "k": "AAAA"}}, nil)},
		"no key":                    {proof(mine, object{"jwk": nil}, nil)},
		"alg none":                  {proof(mine, object{"alg": "none"}, nil)},
		"alg HS256":                 {proof(mine, object{"alg": "HS256"}, nil)},
		"typ JWT":                   {proof(mine, object{"typ": "JWT"}, nil)},
		"typ at+jwt":                {proof(mine, object{"typ": "at+jwt"}, nil)},
		"crit":                      {proof(mine, object{"crit": []string{"x"}, "x": 1}, nil)},
		"another method":            {proof(mine, nil, object{"htm": "GET"})},
		"another path":              {proof(mine, nil, object{"htu": "https://vault.example/v1/tokenize"})},
		"another host":              {proof(mine, nil, object{"htu": "https://other.example/v1/detokenize"})},
		"another scheme":            {proof(mine, nil, object{"htu": "http://vault.example/v1/detokenize"})},
		"another port":              {proof(mine, nil, object{"htu": "https://vault.example:444/v1/detokenize"})},
		"another token":             {proof(mine, nil, object{"ath": hash("x")})},
		"no ath":                    {proof(mine, nil, object{"ath": nil})},
		"no jti":                    {proof(mine, nil, object{"jti": ""})},
		"old":                       {proof(mine, nil, object{"iat": now - 70})},
		"from the future":           {proof(mine, nil, object{"iat": now + 70})},
		"no iat":                    {proof(mine, nil, object{"iat": nil})},
		"the access token as proof": {token},
	} {
		refused(t, name, prove(proofs...))
	}
	free := p.token(t, nil)
	if id, err = a.Token(t.Context(), free); err != nil {
		t.Fatal(err)
	}
	refused(t, "a token without a key, under DPoP", a.Prove(t.Context(), id, free, identity.Request{DPoP: true, Proofs: []string{good}}))
	refused(t, "a token without a key, where it must have one", a.Prove(t.Context(), id, free, identity.Request{}))
}

// The memory of proofs doesn't grow for ever, and forgets none that is still good.
func TestMemoryOfProofs(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 0)
	m := identity.NewMemory(func() time.Time { return now })
	first := func(i int) (bool, error) {
		return m.First(t.Context(), [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, time.Minute)
	}
	for i := range 200_000 {
		if ok, err := first(i); !ok || err != nil {
			t.Fatal(i, err)
		}
	}
	if ok, err := first(5); ok || err != nil {
		t.Errorf("one that was seen: %t %v", ok, err)
	}
	if ok, err := first(200_001); ok || err == nil {
		t.Errorf("one too many: %t %v", ok, err)
	}
	now = now.Add(2 * time.Minute)
	if ok, err := first(200_001); !ok || err != nil {
		t.Errorf("when there is room again: %t %v", ok, err)
	}
	if ok, err := first(5); !ok || err != nil {
		t.Errorf("one that is over: %t %v", ok, err)
	}
}

func TestCertificatesStandForPrincipals(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := authority(t, p, identity.Config{Certificates: []identity.CertificateConfig{
		{SPIFFE: "spiffe://example.org/ns/prod/sa/billing", Tenant: "acme", Roles: []string{"backend-writer"}, Attributes: map[string][]string{"env": {"prod"}}},
		{SPIFFE: "spiffe://example.org/ns/prod/sa/*", Tenant: "acme", Roles: []string{"backend-reader-masked"}},
		{Subject: "CN=batch,O=Example", Tenant: "beta", Roles: []string{"backend-reader"}},
	}})
	for want, change := range map[string]func(*x509.Certificate){
		"acme backend-writer":        spiffe("spiffe://example.org/ns/prod/sa/billing"),
		"acme backend-reader-masked": spiffe("spiffe://example.org/ns/prod/sa/other"),
		"beta backend-reader":        named("batch"),
	} {
		c := certificate(t, change)
		id, err := a.Certificate(c)
		if err != nil || id.Tenant+" "+id.Roles[0] != want || id.Token != identity.Fingerprint(c) || id.Authority != identity.X509 {
			t.Errorf("%s is %+v, %v", want, id, err)
		}
	}
	for name, change := range map[string]func(*x509.Certificate){
		"no name":             func(*x509.Certificate) {},
		"another name":        named("batch2"),
		"another domain":      spiffe("spiffe://example.com/ns/prod/sa/billing"),
		"one segment more":    spiffe("spiffe://example.org/ns/prod/sa/a/b"),
		"no last segment":     spiffe("spiffe://example.org/ns/prod/sa/"),
		"two URIs":            spiffe("spiffe://example.org/ns/prod/sa/billing", "spiffe://example.org/ns/prod/sa/other"),
		"a query":             spiffe("spiffe://example.org/ns/prod/sa/a?b"),
		"a DNS name like one": func(c *x509.Certificate) { c.DNSNames = []string{"billing"} },
	} {
		_, err := a.Certificate(certificate(t, change))
		refused(t, name, err)
	}
}

// E-7: keys are fetched from public addresses only.
func TestAddressesThatKeysMayComeFrom(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.1.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.8", "203.0.113.5", "240.0.0.1",
		"::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe::1", "::ffff:127.0.0.1", "::127.0.0.1", "2001:db8::1"} {
		if identity.Public(netip.MustParseAddr(text).Unmap()) {
			t.Errorf("%s counts as public", text)
		}
	}
	for _, text := range []string{"8.8.8.8", "93.184.216.34", "2606:4700::1111"} {
		if !identity.Public(netip.MustParseAddr(text)) {
			t.Errorf("%s doesn't count as public", text)
		}
	}
	// A name that leads inside is not dialled: the address counts, and not the name.
	p := newProvider(t)
	c := p.config()
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	c.Issuer = "https://login.example"
	c.JWKS = "https://localtest.invalid:" + u.Port()
	a := authority(t, p, identity.Config{Issuers: []identity.IssuerConfig{c}})
	_, err = a.Token(t.Context(), p.token(t, object{"iss": c.Issuer}))
	if !errors.Is(err, identity.ErrKeysAway) {
		t.Errorf("got %v", err)
	}
	if err := identity.Dial(t.Context(), c, u.Host); err == nil {
		t.Error("an issuer of another name may be fetched from the loopback")
	}
	c = p.config()
	if err := identity.Dial(t.Context(), c, u.Host); err != nil {
		t.Error("an issuer on the loopback: ", err)
	}
	if got := p.seen.Load(); got != 0 {
		t.Errorf("%d requests came", got)
	}
}
