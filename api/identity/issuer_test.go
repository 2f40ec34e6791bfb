package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/privault/privault/api/identity"
)

const audience = "https://vault.example"

// provider is an issuer whose keys and faults a test decides on.
type provider struct {
	*httptest.Server
	mu     sync.Mutex
	keys   map[string]crypto.Signer
	broken func(http.ResponseWriter, *http.Request) bool // answers in its place
	hits   atomic.Int64                                  // how often the keys were asked for
	seen   atomic.Int64                                  // how often anything was
	offset atomic.Int64
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{keys: map[string]crypto.Signer{"ec-1": newKey(t)}}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	p.seen.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil && p.broken(w, r) {
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.URL, "jwks_uri": p.URL + "/keys"})
	case "/keys":
		p.hits.Add(1)
		set := jose.JSONWebKeySet{}
		for id, key := range p.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
		}
		_ = json.NewEncoder(w).Encode(set)
	default:
		http.NotFound(w, r)
	}
}

func (p *provider) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

func (p *provider) now() time.Time          { return time.Now().Add(time.Duration(p.offset.Load())) }
func (p *provider) advance(d time.Duration) { p.offset.Add(int64(d)) }

func (p *provider) config() identity.IssuerConfig {
	return identity.IssuerConfig{Issuer: p.URL, Audience: audience, Algorithms: []string{"ES256"},
		Tenant: identity.TenantRule{Name: "acme"},
		Roles:  identity.RoleRule{Claim: "scope", Allow: map[string][]string{"vault.read": {"backend-reader-masked"}, "vault.write": {"backend-writer"}}}}
}

func authority(t *testing.T, p *provider, c identity.Config) *identity.Authority {
	t.Helper()
	a, err := identity.New(c, identity.Options{Now: p.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// trusted is an authority that knows this one issuer.
func (p *provider) trusted(t *testing.T, change ...func(*identity.IssuerConfig)) *identity.Authority {
	t.Helper()
	c := p.config()
	for _, f := range change {
		f(&c)
	}
	return authority(t, p, identity.Config{Issuers: []identity.IssuerConfig{c}})
}

type object = map[string]any

// claims are those of a good token, with changes; nil takes a claim away.
func (p *provider) claims(changes object) object {
	now := p.now().Unix()
	c := object{"iss": p.URL, "aud": audience, "sub": "service-1", "jti": "jti-1", "iat": now, "nbf": now, "exp": now + 600, "client_id": "service-1", "scope": "vault.read other"}
	for name, v := range changes {
		if v == nil {
			delete(c, name)
			continue
		}
		c[name] = v
	}
	return c
}

// header is that of a good token, with changes.
func header(changes object) object {
	h := object{"alg": "ES256", "typ": "at+jwt", "kid": "ec-1"}
	maps.Copy(h, changes)
	for name, v := range h {
		if v == nil {
			delete(h, name)
		}
	}
	return h
}

func part(v any) string {
	var raw []byte
	switch v := v.(type) {
	case string:
		raw = []byte(v)
	default:
		raw, _ = json.Marshal(v)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// sign makes a token of any header and claims, each JSON text or an object, with any key.
func sign(t *testing.T, key any, h, c any) string {
	t.Helper()
	input := part(h) + "." + part(c)
	return input + "." + base64.RawURLEncoding.EncodeToString(signature(t, key, input))
}

func signature(t *testing.T, key any, input string) []byte {
	t.Helper()
	sum := crypto.SHA256.New()
	sum.Write([]byte(input))
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, sum.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		n := (key.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
	case *rsa.PrivateKey:
		out, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		return out
	case ed25519.PrivateKey:
		return ed25519.Sign(key, []byte(input))
	}
	t.Fatalf("sign with %T", key)
	return nil
}

// token is a good token, with changes to its claims.
func (p *provider) token(t *testing.T, changes object) string {
	t.Helper()
	p.mu.Lock()
	key := p.keys["ec-1"]
	p.mu.Unlock()
	return sign(t, key, header(nil), p.claims(changes))
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, identity.ErrRefused) {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}
