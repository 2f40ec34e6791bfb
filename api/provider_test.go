package api_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/api"
	"github.com/privault/privault/api/identity"
	"github.com/privault/privault/vault/vaulttest"
)

const us = "https://vault.example"

// installed has npm install the provider, once, unless it is there.
var installed = sync.OnceValue(func() error {
	if _, err := os.Stat("testdata/provider/node_modules/oidc-provider/package.json"); err == nil {
		return nil
	}
	out, err := exec.Command("npm", "ci", "--prefix", "testdata/provider", "--ignore-scripts", "--no-audit", "--no-fund").CombinedOutput()
	if err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
})

// openID starts the OpenID provider and gives its issuer's URL. It is not ours: npm's oidc-provider, a certified one.
func openID(t *testing.T) string {
	t.Helper()
	if err := installed(); err != nil {
		t.Fatal(err)
	}
	p := exec.Command("node", "provider.mjs")
	p.Dir = filepath.Join("testdata", "provider")
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal("start node: ", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = p.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the provider says nothing: ", err)
	}
	return strings.TrimSpace(line)
}

// federated serves a vault whose tenant takes the provider's tokens.
func federated(t *testing.T, issuer, tenant string, change func(*identity.IssuerConfig), over *tls.Config, more ...identity.CertificateConfig) *service {
	t.Helper()
	config := identity.IssuerConfig{Issuer: issuer, Audience: us, Algorithms: []string{"ES256"},
		Tenant:     identity.TenantRule{Claim: "org", Allow: map[string]string{"org-1": tenant}},
		Roles:      identity.RoleRule{Claim: "scope", Allow: map[string][]string{"vault.read": {"backend-reader-masked"}, "vault.write": {"backend-writer"}}},
		Attributes: map[string]string{"posture": "device.posture"}}
	if change != nil {
		change(&config)
	}
	s := &service{Bench: vaulttest.New(t)}
	authority, err := identity.New(identity.Config{Issuers: []identity.IssuerConfig{config}, Certificates: more}, identity.Options{Now: s.Now, Log: s.Log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	s.listen(t, s.Vault, over, func(c *api.Config) { c.Authority = authority })
	return s
}

// owner is a developer of a tenant of this name.
func (s *service) owner(t *testing.T, tenant string) client {
	t.Helper()
	issued, err := s.CreateTenant(t.Context(), tenant, []string{"developer"}, "")
	if err != nil {
		t.Fatal(err)
	}
	return client{service: s, key: issued.Key}
}

type grant struct {
	Access string `json:"access_token"`
	ID     string `json:"id_token"`
	Type   string `json:"token_type"`
}

// token asks the provider's token endpoint. Headers are "Name: value".
func token(t *testing.T, issuer, id, secret string, form url.Values, headers ...string) grant {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		r.SetBasicAuth(id, secret)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var g grant
	if err := json.Unmarshal(body, &g); err != nil || g.Access == "" {
		t.Fatalf("the provider answers %d %s", res.StatusCode, body)
	}
	return g
}

func service1(scope, resource string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "scope": {scope}, "resource": {resource}}
}

// A service's token (client credentials) says whose it is and what it may, and the entries say who it was.
func TestAServiceWithAnAccessToken(t *testing.T) {
	t.Parallel()
	issuer := openID(t)
	s := federated(t, issuer, "acme", nil, nil)
	owner := s.owner(t, "acme")
	other := s.owner(t, "other")
	owner.collection(t, "people", "name", "name")
	writer := client{service: s, key: token(t, issuer, "service", "service-secret", service1("vault.write", us)).Access}
	made := writer.tokenize(t, "people", `{"name":"Jane Roe"}`)[0]
	reader := client{service: s, key: token(t, issuer, "service", "service-secret", service1("vault.read", us)).Access}
	reveal := `{"items":[{"token":"` + made.Tokens["name"] + `"}]}`
	reader.send(t, "POST", "/v1/detokenize", reveal).want(t, 200)
	other.send(t, "POST", "/v1/detokenize", reveal).want(t, 404)
	writer.send(t, "POST", "/v1/detokenize", reveal).want(t, 403)
	reader.send(t, "POST", "/v1/tokenize", batch("people", `{"name":"x"}`)).refused(t, 403, "forbidden")
	reader.send(t, "POST", "/v1/tokenize", batch("people", `{"name":"x"}`), "X-Tenant: other").refused(t, 403, "forbidden")

	// Who it was: one principal, with the issuer's name for it, found by what the entries hold.
	var page struct {
		Items []struct{ ID, Name, Issuer, Subject string }
	}
	owner.send(t, "GET", "/v1/principals", "").want(t, 200).read(t, &page)
	var known []string
	for _, p := range page.Items {
		if p.Issuer != "" {
			known = append(known, p.ID, p.Issuer, p.Subject)
		}
	}
	if len(known) != 3 || known[1] != issuer || known[2] != "service" {
		t.Fatalf("the principals from outside are %q", known)
	}
	for action, want := range map[string]int{"principal.introduce": 1, "tokenize": 2, "detokenize": 2} {
		if got := s.Count(`select count(*) from privault.audit_entries where action = $1 and body::jsonb->>'principal' = $2
			and body::jsonb->>'method' = 'jwt'`, action, known[0]); got < want {
			t.Errorf("%d entries of %s by that principal, want %d", got, action, want)
		}
	}
	// Disabled, it is nobody, whatever tokens it has yet.
	owner.send(t, "PATCH", "/v1/principals/"+known[0], `{"disabled":true}`).want(t, 200)
	s.Advance(5 * time.Second)
	reader.send(t, "POST", "/v1/detokenize", reveal).refused(t, 401, "unauthenticated")
	owner.send(t, "PATCH", "/v1/principals/"+known[0], `{"disabled":false}`).want(t, 200)
	reader.send(t, "POST", "/v1/detokenize", reveal).want(t, 200)
	quiet(t, "the log", s.Log.String(), reader.key, writer.key)
}

// bad-inputs 46, 49, 50: tokens for others, ID tokens, revoked tokens.
func TestTokensOfARealProviderThatAreRefused(t *testing.T) {
	t.Parallel()
	issuer := openID(t)
	s := federated(t, issuer, "acme", nil, nil)
	owner := s.owner(t, "acme")
	call := func(token string, headers ...string) answer {
		return client{service: s, key: token}.send(t, "GET", "/v1/collections", "", append(headers, "X-Request-Id: one")...)
	}
	unknown := call("pvak_none")
	refused := func(what string, a answer) {
		t.Helper()
		a.refused(t, 401, "unauthenticated")
		if diff := cmp.Diff(string(unknown.body), string(a.body)); diff != "" {
			t.Errorf("%s is told apart from an unknown key:\n%s", what, diff)
		}
	}
	refused("a token for another service", call(token(t, issuer, "service", "service-secret", service1("vault.read", "https://other.example")).Access))
	user := login(t, issuer)
	refused("an ID token", call(user.ID))
	call(user.Access).want(t, 200)
	good := token(t, issuer, "service", "service-secret", service1("vault.read", us)).Access
	call(good).want(t, 200)
	refused("two credentials", call(good, "Authorization: Bearer "+good+", Bearer "+good))
	refused("the scheme Basic", call(good, "Authorization: Basic "+good))
	refused("the scheme DPoP, without a proof", call(good, "Authorization: DPoP "+good))
	refused("a token in capitals", call(strings.ToUpper(good)))
	refused("a tenant that the claim doesn't name", client{service: federated(t, issuer, "nobody", nil, nil), key: good}.send(t, "GET", "/v1/collections", "", "X-Request-Id: one"))
	var claims struct{ JTI string }
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	answer{body: body}.read(t, &claims)
	owner.send(t, "POST", "/v1/revoked-tokens", text(t, map[string]string{"issuer": issuer, "token": claims.JTI})).want(t, 204)
	s.Advance(5 * time.Second)
	refused("a revoked token", call(good))
	call(user.Access).want(t, 200)
}

// A person's token: authorization code with PKCE, through the provider's own login page.
func login(t *testing.T, issuer string) grant {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var code string
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == "console.example" {
			code = r.URL.Query().Get("code")
			return http.ErrUseLastResponse
		}
		return nil
	}}
	// visit gives the URL that a request ends at.
	visit := func(method, target string, form url.Values) *url.URL {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.Request.URL
	}
	verifier := rand.Text() + rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	page := visit(http.MethodGet, issuer+"/auth?"+url.Values{"client_id": {"console"}, "response_type": {"code"}, "scope": {"openid vault.read"}, "resource": {us}, "nonce": {"n-1"},
		"redirect_uri": {"https://console.example/callback"}, "code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}}.Encode(), nil)
	visit(http.MethodPost, page.String(), url.Values{"prompt": {"login"}, "login": {"user-1"}, "password": {"x"}})
	if code == "" {
		t.Fatalf("the login ended at %s", page.Path)
	}
	return token(t, issuer, "console", "", url.Values{"grant_type": {"authorization_code"}, "client_id": {"console"}, "code": {code}, "code_verifier": {verifier},
		"redirect_uri": {"https://console.example/callback"}, "resource": {us}})
}

// S-5: a token that the provider has bound to a key is good only with fresh proofs by that key.
func TestATokenWithDPoP(t *testing.T) {
	t.Parallel()
	issuer := openID(t)
	s := federated(t, issuer, "acme", func(c *identity.IssuerConfig) { c.Binding = "dpop" }, nil)
	s.owner(t, "acme")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	proof := func(method, target, access string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": target, "iat": time.Now().Unix()}
		if access != "" {
			sum := sha256.Sum256([]byte(access))
			claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
		}
		signed, err := signer.Sign([]byte(text(t, claims)))
		if err != nil {
			t.Fatal(err)
		}
		compact, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return compact
	}
	bound := token(t, issuer, "service", "service-secret", service1("vault.read", us), "DPoP: "+proof("POST", issuer+"/token", ""))
	if bound.Type != "DPoP" {
		t.Fatalf("the provider gave a %s token", bound.Type)
	}
	call := func(headers ...string) answer {
		return client{service: s}.send(t, "GET", "/v1/collections", "", headers...)
	}
	with := func(proof string) []string {
		return []string{"Authorization: DPoP " + bound.Access, "DPoP: " + proof}
	}
	first := proof("GET", s.url+"/v1/collections", bound.Access)
	call(with(first)...).want(t, 200)
	call(with(first)...).refused(t, 401, "unauthenticated")
	call(with(proof("GET", s.url+"/v1/principals", bound.Access))...).refused(t, 401, "unauthenticated")
	call("Authorization: Bearer "+bound.Access).refused(t, 401, "unauthenticated")
	call("Authorization: DPoP "+bound.Access).refused(t, 401, "unauthenticated")
	call(with(proof("GET", s.url+"/v1/collections", bound.Access))...).want(t, 200)
	free := token(t, issuer, "service", "service-secret", service1("vault.read", us)).Access
	client{service: s, key: free}.send(t, "GET", "/v1/collections", "").refused(t, 401, "unauthenticated")
}

// ca makes certificates.
type ca struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t *testing.T) *ca {
	t.Helper()
	c := &ca{}
	made := c.issue(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	c.key, c.cert = made.PrivateKey.(*ecdsa.PrivateKey), made.Leaf
	return c
}

func (c *ca) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	change(template)
	parent, signer := template, key
	if c.cert != nil {
		parent, signer = c.cert, c.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// as is a client with this certificate, or none.
func (c *ca) as(s *service, key string, certificates ...tls.Certificate) client {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return client{service: s, key: key, via: &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates}}}}
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject.CommonName = name }
}

func workload(path string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: path}}
	}
}

// bad-inputs 51, S-5, S-8: who calls with a client certificate, alone or beside a token that is bound to it.
func TestCallersWithClientCertificates(t *testing.T) {
	t.Parallel()
	issuer := openID(t)
	root := newCA(t)
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	over := &tls.Config{Certificates: []tls.Certificate{root.issue(t, named("server"))}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
	s := federated(t, issuer, "acme", nil, over, identity.CertificateConfig{SPIFFE: "spiffe://example.org/sa/*", Tenant: "acme", Roles: []string{"backend-writer"}})
	issued, err := s.CreateTenant(t.Context(), "acme", []string{"developer"}, "")
	if err != nil {
		t.Fatal(err)
	}
	owner := root.as(s, issued.Key)
	owner.collection(t, "people", "name", "name")
	mine := root.issue(t, workload("/sa/billing"))
	root.as(s, "", mine).tokenize(t, "people", `{"name":"Jane Roe"}`)
	if got := s.Count(`select count(*) from privault.audit_entries where action = 'tokenize' and body::jsonb->>'method' = 'mtls' and outcome = 'ok'`); got != 1 {
		t.Errorf("%d entries say that a certificate was the credential", got)
	}
	list := func(c client, headers ...string) answer { return c.send(t, "GET", "/v1/collections", "", headers...) }
	list(root.as(s, "", root.issue(t, workload("/other")))).refused(t, 401, "unauthenticated")
	list(root.as(s, ""), "X-Forwarded-Client-Cert: URI=spiffe://example.org/sa/billing", "X-Client-Cert: x", "X-SSL-Client-Verify: SUCCESS").refused(t, 401, "unauthenticated")
	list(root.as(s, "pvak_none", mine)).refused(t, 401, "unauthenticated") // a bad key is not mended by a certificate
	stranger := newCA(t)
	if res, err := root.as(s, "", stranger.issue(t, workload("/sa/billing"))).via.Get(s.url + "/openapi.yaml"); err == nil {
		_ = res.Body.Close()
		t.Error("a certificate of another CA is taken")
	}
	// A token that the provider has bound to a certificate.
	bound := token(t, issuer, "bound", "bound-secret", service1("vault.read", us), "X-Test-Certificate: "+base64.StdEncoding.EncodeToString(mine.Certificate[0])).Access
	list(root.as(s, bound, mine)).want(t, 200)
	list(root.as(s, bound, root.issue(t, workload("/sa/billing")))).refused(t, 401, "unauthenticated")
	list(root.as(s, bound)).refused(t, 401, "unauthenticated")
	// Revoked, the certificate is nobody's.
	owner.send(t, "POST", "/v1/revoked-tokens", text(t, map[string]string{"issuer": "x509", "token": identity.Fingerprint(mine.Leaf)})).want(t, 204)
	s.Advance(5 * time.Second)
	list(root.as(s, "", mine)).refused(t, 401, "unauthenticated")
}
