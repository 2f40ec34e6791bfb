package identity_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/privault/privault/api/identity"
)

func TestATokenSaysWhoItsHolderIs(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t, func(c *identity.IssuerConfig) {
		c.Tenant = identity.TenantRule{Claim: "org.id", Allow: map[string]string{"org-1": "acme", "org-2": "beta"}}
		c.Roles.Fixed = []string{"auditor"}
		c.Attributes = map[string]string{"posture": "device.posture", "mfa": "mfa", "level": "level", "teams": "teams", "none": "none", "odd": "org"}
	})
	got, err := a.Token(t.Context(), p.token(t, object{"org": object{"id": "org-2"}, "device": object{"posture": "managed"}, "mfa": true, "level": 3, "teams": []string{"a", "b"}}))
	if err != nil {
		t.Fatal(err)
	}
	want := identity.Identity{Tenant: "beta", Authority: p.URL, Subject: "service-1", Token: "jti-1", Roles: []string{"auditor", "backend-reader-masked"},
		Attributes: map[string][]string{"posture": {"managed"}, "mfa": {"true"}, "level": {"3"}, "teams": {"a", "b"}}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(identity.Identity{}, "Expires"), cmpopts.IgnoreUnexported(identity.Identity{})); diff != "" {
		t.Error(diff)
	}
	if left := got.Expires.Sub(p.now()); left < 600*time.Second || left > 631*time.Second {
		t.Errorf("it is good for %v more", left)
	}
	for what, org := range map[string]any{"an org that is not allowed": object{"id": "org-3"}, "no org": nil, "an org of another type": object{"id": 1}, "the tenant itself": object{"id": "acme"}} {
		_, err := a.Token(t.Context(), p.token(t, object{"org": org}))
		refused(t, what, err)
	}
	// Without a jti the token itself is what can be named.
	got, err = a.Token(t.Context(), p.token(t, object{"jti": nil, "org": object{"id": "org-1"}}))
	if err != nil || len(got.Token) != 43 {
		t.Errorf("without a jti it is named %q, %v", got.Token, err)
	}
}

func TestTokensOfOtherAlgorithms(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.keys["rsa-1"] = rsaKey()
	a := p.trusted(t, func(c *identity.IssuerConfig) { c.Algorithms = []string{"RS256", "PS256"} })
	if _, err := a.Token(t.Context(), sign(t, rsaKey(), header(object{"alg": "RS256", "kid": "rsa-1"}), p.claims(nil))); err != nil {
		t.Error("RS256: ", err)
	}
	_, err := a.Token(t.Context(), p.token(t, nil))
	refused(t, "ES256 where RSA is meant", err)
	_, err = a.Token(t.Context(), sign(t, rsaKey(), header(object{"alg": "RS384", "kid": "rsa-1"}), p.claims(nil)))
	refused(t, "RS384, which is not allowed", err)
	_, err = a.Token(t.Context(), sign(t, rsaKey(), header(object{"alg": "PS256", "kid": "rsa-1"}), p.claims(nil)))
	refused(t, "a signature of RS256 that says PS256", err)
}

// S-1, S-2, S-4 and bad-inputs 42 to 49: forged, confused, foreign, old and odd tokens.
func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t)
	if _, err := a.Token(t.Context(), p.token(t, nil)); err != nil {
		t.Fatal("a good token: ", err)
	}
	key, other := p.keys["ec-1"], newKey(t)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	mac := func(secret []byte, h object) string {
		input := part(header(h)) + "." + part(p.claims(nil))
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	good := p.token(t, nil)
	parts := strings.Split(good, ".")
	now := p.now().Unix()
	jwk := object{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
	tokens := map[string]string{
		"nothing":                      "",
		"no token":                     "hello",
		"one part":                     parts[0],
		"two parts":                    parts[0] + "." + parts[1],
		"no signature":                 parts[0] + "." + parts[1] + ".",
		"four parts":                   good + ".x",
		"five parts, as encrypted":     part(object{"alg": "dir", "enc": "A256GCM"}) + "...." + parts[2],
		"dots alone":                   "..",
		"a signature of another":       parts[0] + "." + parts[1] + "." + strings.Split(p.token(t, object{"sub": "x"}), ".")[2],
		"other claims":                 parts[0] + "." + part(p.claims(object{"scope": "vault.write"})) + "." + parts[2],
		"another header":               part(header(object{"x5t": "x"})) + "." + parts[1] + "." + parts[2],
		"a cut signature":              good[:len(good)-4],
		"a longer signature":           good + "AAAA",
		"an empty ECDSA signature":     parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"a DER signature":              parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString([]byte("0E\x02\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x02!\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")),
		"padded base64":                parts[0] + "=." + parts[1] + "." + parts[2],
		"standard base64":              parts[0] + "." + parts[1] + ".+/" + parts[2][2:],
		"white space in it":            parts[0] + "." + parts[1] + ". " + parts[2],
		"a line break in it":           parts[0] + "\n." + parts[1] + "." + parts[2],
		"another key":                  sign(t, other, header(nil), p.claims(nil)),
		"HS256 by the public key":      mac(secret, object{"alg": "HS256"}),
		"HS256 by the key's DER":       mac(public, object{"alg": "HS256"}),
		"HS256 by an empty secret":     mac(nil, object{"alg": "HS256"}),
		"claims that are no JSON":      sign(t, key, header(nil), "x"),
		"claims that are a list":       sign(t, key, header(nil), "[]"),
		"claims that are null":         sign(t, key, header(nil), "null"),
		"a claim twice":                sign(t, key, header(nil), fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"a","sub":"b","iat":%d,"exp":%d}`, p.URL, audience, now, now+600)),
		"a header's member twice":      sign(t, key, `{"alg":"ES256","typ":"at+jwt","kid":"ec-1","kid":"ec-1"}`, p.claims(nil)),
		"a header that is a list":      sign(t, key, `["ES256"]`, p.claims(nil)),
		"a header with a tail":         sign(t, key, `{"alg":"ES256","typ":"at+jwt","kid":"ec-1"} x`, p.claims(nil)),
		"an exponent that overflows":   sign(t, key, header(nil), fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"a","iat":%d,"exp":1e400}`, p.URL, audience, now)),
		"9 KiB":                        p.token(t, object{"x": strings.Repeat("x", 7<<10)}),
		"1 MiB of dots":                strings.Repeat(".", 1<<20),
		"invalid UTF-8":                sign(t, key, header(nil), fmt.Sprintf("{\"iss\":%q,\"aud\":%q,\"sub\":\"\xff\",\"iat\":%d,\"exp\":%d}", p.URL, audience, now, now+600)),
		"signed for another algorithm": sign(t, rsaKey(), header(object{"alg": "RS256"}), p.claims(nil)),
	}
	for _, alg := range []string{"none", "None", "nOnE", "NONE", "", "HS384", "HS512", "ES384", "es256", "ES256 ", "RS256", "EdDSA", "ES256K"} {
		tokens["alg "+alg] = sign(t, key, header(object{"alg": alg}), p.claims(nil))
		tokens["alg "+alg+", unsigned"] = part(header(object{"alg": alg})) + "." + parts[1] + "."
	}
	for name, h := range map[string]object{
		"jwk": {"jwk": jwk}, "jku": {"jku": p.URL + "/keys"}, "x5u": {"x5u": p.URL + "/cert"}, "x5c": {"x5c": []string{"AAAA"}},
		"crit": {"crit": []string{"exp"}, "exp": now}, "crit b64": {"crit": []string{"b64"}, "b64": true}, "b64 false": {"crit": []string{"b64"}, "b64": false}, "b64 alone": {"b64": false},
		"cty JWT": {"cty": "JWT"}, "zip": {"zip": "DEF"}, "enc": {"enc": "A256GCM"}, "an unknown member": {"x": 1}, "Kid": {"Kid": "ec-1"}, "alg a number": {"alg": 1}, "alg null": {"alg": nil},
		"typ missing": {"typ": nil}, "typ JWT": {"typ": "JWT"}, "typ dpop+jwt": {"typ": "dpop+jwt"}, "typ id_token": {"typ": "id_token+jwt"}, "typ logout+jwt": {"typ": "logout+jwt"}, "typ a list": {"typ": []string{"at+jwt"}},
		"kid missing": {"kid": nil}, "kid empty": {"kid": ""}, "kid a path": {"kid": "../../dev/null"}, "kid SQL": {"kid": "' or 1=1--"}, "kid of 5 KiB": {"kid": strings.Repeat("k", 5<<10)},
		"kid of none": {"kid": "ec-2"}, "kid a number": {"kid": 1}, "kid with NUL": {"kid": "ec-1\x00"},
	} {
		tokens[name] = sign(t, key, header(h), p.claims(nil))
	}
	for name, c := range map[string]object{
		"iss missing": {"iss": nil}, "iss with a slash": {"iss": p.URL + "/"}, "iss in capitals": {"iss": strings.ToUpper(p.URL)}, "iss another": {"iss": "https://login.example"}, "iss a list": {"iss": []string{p.URL}},
		"aud missing": {"aud": nil}, "aud another": {"aud": "https://other.example"}, "aud others": {"aud": []string{"a", "b"}}, "aud none": {"aud": []string{}}, "aud a number": {"aud": 1}, "aud an object": {"aud": object{audience: 1}},
		"aud a part": {"aud": audience[:len(audience)-1]}, "aud with a slash": {"aud": audience + "/"}, "aud mixed": {"aud": []any{audience, 1}},
		"exp missing": {"exp": nil}, "exp past": {"exp": now - 31, "iat": now - 600}, "exp text": {"exp": fmt.Sprint(now + 600)}, "exp negative": {"exp": -1}, "exp huge": {"exp": 1e18}, "exp null": {"exp": []any{nil}},
		"exp before iat": {"exp": now - 5, "iat": now}, "a life of 24 h": {"iat": now, "exp": now + 24*3600}, "a life of 15 min and a second": {"iat": now, "exp": now + 901},
		"iat missing": {"iat": nil}, "iat future": {"iat": now + 60}, "iat text": {"iat": "now"}, "nbf in an hour": {"nbf": now + 3600}, "nbf text": {"nbf": "now"}, "nbf true": {"nbf": true},
		"sub missing": {"sub": nil}, "sub empty": {"sub": ""}, "sub a number": {"sub": 5}, "sub of 256": {"sub": strings.Repeat("s", 256)}, "sub with NUL": {"sub": "a\x00"}, "jti of 256": {"jti": strings.Repeat("j", 256)},
		"an ID token's nonce": {"nonce": "n"}, "an ID token's at_hash": {"at_hash": "h"},
		"cnf of a kind we don't know": {"cnf": object{"kid": "x"}}, "cnf empty": {"cnf": object{}}, "cnf text": {"cnf": "x"}, "cnf of a jwk": {"cnf": object{"jwk": jwk}},
	} {
		tokens[name] = p.token(t, c)
	}
	tokens["a token in a token"] = sign(t, key, header(object{"cty": "JWT"}), good)
	before := p.seen.Load()
	for name, token := range tokens {
		_, err := a.Token(t.Context(), token)
		refused(t, name, err)
		if err != nil && len(token) > 20 && strings.Contains(err.Error(), token[len(token)-20:]) {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
	if got := p.seen.Load() - before; got != 0 {
		t.Errorf("%d requests went out for tokens that are refused", got)
	}
	t.Logf("%d tokens", len(tokens))
}

func TestTokensAtTheEdge(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t)
	now := p.now().Unix()
	for name, c := range map[string]object{
		"aud in a list": {"aud": []string{"x", audience}}, "exp a moment ago": {"exp": now - 25, "iat": now - 600}, "nbf missing": {"nbf": nil}, "iat in a moment": {"iat": now + 25}, "nbf in a moment": {"nbf": now + 25},
		"a life of 15 min": {"iat": now, "exp": now + 900}, "times with fractions": {"iat": float64(now) - 0.5, "exp": float64(now) + 60.25}, "sub of 255": {"sub": strings.Repeat("s", 255)}, "no scope": {"scope": nil}, "no jti": {"jti": nil},
	} {
		if _, err := a.Token(t.Context(), p.token(t, c)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, typ := range []string{"at+jwt", "AT+JWT", "application/at+jwt"} {
		if _, err := a.Token(t.Context(), sign(t, p.keys["ec-1"], header(object{"typ": typ}), p.claims(nil))); err != nil {
			t.Errorf("typ %s: %v", typ, err)
		}
	}
	// Issuers that write no at+jwt can be told apart from their ID tokens all the same.
	a = p.trusted(t, func(c *identity.IssuerConfig) { c.Types = []string{"jwt"} })
	if _, err := a.Token(t.Context(), sign(t, p.keys["ec-1"], header(object{"typ": "JWT"}), p.claims(nil))); err != nil {
		t.Error(err)
	}
	_, err := a.Token(t.Context(), sign(t, p.keys["ec-1"], header(object{"typ": "JWT"}), p.claims(object{"nonce": "x"})))
	refused(t, "an ID token", err)
}

// S-3: whatever key ids tokens name, the issuer is asked at most once in 30 seconds.
func TestAFloodOfKeyIDs(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t)
	if _, err := a.Token(t.Context(), p.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	p.advance(31 * time.Second)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 125 {
				_, err := a.Token(t.Context(), sign(t, key, header(object{"kid": fmt.Sprint(worker, "-", i)}), p.claims(nil)))
				refused(t, "a made-up kid", err)
			}
		})
	}
	all.Wait()
	if got := p.hits.Load(); got != 2 {
		t.Errorf("the issuer was asked for its keys %d times, want twice", got)
	}
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t)
	if _, err := a.Token(t.Context(), p.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	old, fresh := p.keys["ec-1"], newKey(t)
	p.change(func() { p.keys["ec-2"] = fresh })
	next := func() string { return sign(t, fresh, header(object{"kid": "ec-2"}), p.claims(nil)) }
	_, err := a.Token(t.Context(), next())
	refused(t, "a key that came within 30 seconds", err)
	p.advance(31 * time.Second)
	if _, err := a.Token(t.Context(), next()); err != nil {
		t.Error("the new key: ", err)
	}
	p.change(func() { delete(p.keys, "ec-1") })
	p.advance(5 * time.Minute)
	_, err = a.Token(t.Context(), sign(t, old, header(nil), p.claims(nil)))
	refused(t, "a key that was withdrawn", err)
	if _, err := a.Token(t.Context(), next()); err != nil {
		t.Error("the new key, still: ", err)
	}
}

func TestAnIssuerThatIsAway(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t)
	away := func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "no", http.StatusInternalServerError)
		return true
	}
	p.change(func() { p.broken = away })
	for range 3 {
		if _, err := a.Token(t.Context(), p.token(t, nil)); !errors.Is(err, identity.ErrKeysAway) {
			t.Errorf("before its keys were ever had: %v", err)
		}
	}
	if got := p.seen.Load(); got != 1 {
		t.Errorf("%d requests, want one in 30 seconds", got)
	}
	p.change(func() { p.broken = nil })
	p.advance(31 * time.Second)
	if _, err := a.Token(t.Context(), p.token(t, nil)); err != nil {
		t.Fatal("when it is back: ", err)
	}
	p.change(func() { p.broken = away })
	p.advance(10 * time.Minute)
	if _, err := a.Token(t.Context(), p.token(t, nil)); err != nil {
		t.Error("its keys go on for a while: ", err)
	}
	p.advance(time.Hour)
	if _, err := a.Token(t.Context(), p.token(t, nil)); !errors.Is(err, identity.ErrKeysAway) {
		t.Errorf("and not for ever: %v", err)
	}
}

// What an issuer answers may send us nowhere.
func TestIssuersAnswersThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(p *provider, w http.ResponseWriter, r *http.Request){
		"a redirect": func(p *provider, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, p.URL+"/elsewhere", http.StatusFound)
		},
		"no JSON": func(_ *provider, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"more than 256 KB": func(_ *provider, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat(" ", 300<<10)))
		},
		"another issuer": func(p *provider, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":"https://other.example","jwks_uri":"%s/keys"}`, p.URL)
		},
		"keys by http": func(p *provider, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://keys.example/keys"}`, p.URL)
		},
		"keys in a file": func(p *provider, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, p.URL)
		},
		"keys at the metadata address": func(p *provider, w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://169.254.169.254/keys"}`, p.URL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.broken = func(w http.ResponseWriter, r *http.Request) bool { answer(p, w, r); return true }
			if _, err := p.trusted(t).Token(t.Context(), p.token(t, nil)); !errors.Is(err, identity.ErrKeysAway) {
				t.Errorf("got %v", err)
			}
			if got := p.seen.Load(); got != 1 {
				t.Errorf("%d requests", got)
			}
		})
	}
}

// S-4: huge credentials cost no memory (CVE-2025-30204).
func TestHugeTokensCostNothing(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	a := p.trusted(t)
	huge := strings.Repeat(".", 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		if _, err := a.Token(t.Context(), huge); !errors.Is(err, identity.ErrRefused) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 20<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}
