package kmstest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/kms"
)

// AzureServer is Azure at the wire: keys, wrapKey and unwrapKey of Key Vault and of Managed HSM with the errors that
// they document, and as much of Entra ID as it takes to get a token. It goes by the services' own names, which
// Options make all lead here.
type AzureServer struct {
	Faults // of the vault
	// Tokens has the faults of Entra ID.
	Tokens Faults

	client *http.Client
	token  string

	mu     sync.Mutex
	keys   map[string]*azureKey // by host and name
	rsa    int
	brief  bool
	none   string // the operation that the caller has no permission for
	answer func(operation string, answer map[string]string)
}

type azureKey struct {
	kind     string // RSA, oct-HSM, EC
	versions []azureVersion
	disabled bool
}

type azureVersion struct {
	id       string
	rsa      *rsa.PrivateKey
	kek      cipher.Block
	disabled bool
}

const (
	azureVault  = "privault-test.vault.azure.net"
	azureHSM    = "privault-test.managedhsm.azure.net"
	azureTenant = "11111111-2222-3333-4444-555555555555"
	azureClient = "66666666-7777-8888-9999-000000000000"
	azureSecret = "not-a-secret"
)

// azureRSA are keys for all servers of a test binary: making them takes long.
var azureRSA = func() (keys [4]func() (*rsa.PrivateKey, error)) {
	for i := range keys {
		keys[i] = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	}
	return keys
}()

// NewAzureServer starts an AzureServer without keys. It ends with the test.
func NewAzureServer(t testing.TB) *AzureServer {
	t.Helper()
	certificate, roots, err := azureCertificate()
	if err != nil {
		t.Fatalf("certificate: %v", err)
	}
	s := &AzureServer{keys: make(map[string]*azureKey), token: rand.Text()}
	address := s.serve(t, s.handle, func(h http.Handler) *httptest.Server {
		server := httptest.NewUnstartedServer(h)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
		server.StartTLS()
		return server
	}).Listener.Addr().String()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	t.Cleanup(func() {
		s.Tokens.SetStalled(false)
		transport.CloseIdleConnections()
	})
	s.client = &http.Client{Transport: transport}
	return s
}

// azureCertificate is one for all the names that the server goes by.
func azureCertificate() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"*.vault.azure.net", "*.managedhsm.azure.net", "login.microsoftonline.com", "login.microsoft.com"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, nil
}

// Options are those that reach the server and satisfy it.
func (s *AzureServer) Options() kms.Options {
	return kms.Options{Azure: kms.AzureOptions{
		Client: s.client,
		Credentials: func() (kms.AzureCredentials, error) {
			return kms.AzureCredentials{TenantID: azureTenant, ClientID: azureClient, ClientSecret: azureSecret}, nil
		},
	}}
}

// Create makes a key of a type (RSA, oct-HSM; EC can't wrap) in the vault, or in the HSM if it is for one, and
// returns its URI.
func (s *AzureServer) Create(kind string) (uri string, err error) {
	k := &azureKey{kind: kind}
	host, name := azureVault, strings.ToLower(rand.Text())
	if strings.HasSuffix(kind, "-HSM") {
		host = azureHSM
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[host+"/keys/"+name] = k
	return "azure-kv://" + host + "/keys/" + name, s.add(k)
}

// add needs s.mu.
func (s *AzureServer) add(k *azureKey) (err error) {
	id := make([]byte, 16)
	rand.Read(id)
	v := azureVersion{id: hex.EncodeToString(id)}
	if k.kind == "oct-HSM" {
		kek := make([]byte, 32)
		rand.Read(kek)
		v.kek, err = aes.NewCipher(kek)
	} else {
		v.rsa, err = azureRSA[s.rsa%len(azureRSA)]()
		s.rsa++
	}
	k.versions = append(k.versions, v)
	return err
}

func (s *AzureServer) key(uri string) *azureKey {
	return s.keys[strings.TrimPrefix(uri, "azure-kv://")]
}

// Rotate adds a version to a key.
func (s *AzureServer) Rotate(uri string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(s.key(uri))
}

// Disable disables a key, or enables it again.
func (s *AzureServer) Disable(uri string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key(uri).disabled = on
}

// Retire disables all versions of a key but the newest.
func (s *AzureServer) Retire(uri string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.key(uri).versions
	for i := range old[:len(old)-1] {
		old[i].disabled = true
	}
}

// Delete deletes a key, as softly as it may be.
func (s *AzureServer) Delete(uri string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, strings.TrimPrefix(uri, "azure-kv://"))
}

// Forbid takes away the permission for an operation: get, wrapkey or unwrapkey.
func (s *AzureServer) Forbid(operation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.none = operation
}

// BriefTokens has tokens from now on live for a second, so that each call fetches its own; false ends that.
func (s *AzureServer) BriefTokens(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.brief = on
}

// Bend lets f change the answers of an operation (wrapkey, unwrapkey) before they go out; nil ends that.
func (s *AzureServer) Bend(f func(operation string, answer map[string]string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// azureFault is an error as it goes over the wire. Behind a slash in its code stands that of the inner error.
type azureFault struct {
	status        int
	code, message string
}

func (f *azureFault) Error() string { return f.code }

func (f *azureFault) write(w http.ResponseWriter, _ *http.Request) {
	if f.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "10")
	}
	code, inner, _ := strings.Cut(f.code, "/")
	fault := map[string]any{"code": code, "message": f.message}
	if inner != "" {
		fault["innererror"] = map[string]string{"code": inner}
	}
	writeAzure(w, f.status, map[string]any{"error": fault})
}

func writeAzure(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *AzureServer) handle(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Host, "login.") {
		s.login(w, r)
		return
	}
	// What elicits the challenge has no body.
	var call struct{ Alg, Value string }
	err := body(r, &call)
	throttled := &azureFault{http.StatusTooManyRequests, "Throttled", "Request was not processed because too many requests were received."}
	broken := &azureFault{http.StatusServiceUnavailable, "ServiceUnavailable", ""}
	if s.meet(w, r, throttled.write, broken.write) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+s.token {
		_, domain, _ := strings.Cut(r.Host, ".")
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/`+azureTenant+`", resource="https://`+domain+`"`)
		(&azureFault{http.StatusUnauthorized, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token."}).write(w, r)
		return
	}
	answer, fault := s.operate(r, call.Alg, call.Value, err)
	if fault != nil {
		fault.write(w, r)
		return
	}
	writeAzure(w, http.StatusOK, answer)
}

// operate takes the path apart: /keys/NAME[/VERSION] and, with a POST, another /OPERATION.
func (s *AzureServer) operate(r *http.Request, algorithm, value string, unread error) (any, *azureFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, operation := strings.TrimPrefix(r.URL.Path, "/keys/"), ""
	if i := strings.LastIndexByte(path, '/'); r.Method == http.MethodPost && i > 0 {
		path, operation = path[:i], path[i+1:]
	}
	name, id, _ := strings.Cut(path, "/")
	k := s.keys[r.Host+"/keys/"+name]
	v := k.version(id)
	switch {
	case r.URL.Query().Get("api-version") == "":
		return nil, &azureFault{http.StatusBadRequest, "BadParameter", "api-version must be specified"}
	case v == nil:
		return nil, &azureFault{http.StatusNotFound, "KeyNotFound", "A key with (name/id) " + name + " was not found in this key vault."}
	case k.disabled || v.disabled:
		return nil, &azureFault{http.StatusForbidden, "Forbidden/KeyDisabled", "Operation is not allowed on a disabled key."}
	}
	if s.none != "" && (operation == s.none || operation == "" && s.none == "get") {
		return nil, &azureFault{http.StatusForbidden, "Forbidden/ForbiddenByPolicy", "The caller does not have keys permission for " + s.none}
	}
	kid := "https://" + r.Host + "/keys/" + name + "/" + v.id
	if r.Method == http.MethodGet {
		return map[string]any{"key": map[string]string{"kid": kid, "kty": k.kind}}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err := errors.Join(unread, err); err != nil {
		return nil, &azureFault{http.StatusBadRequest, "BadParameter", err.Error()}
	}
	result, err := v.operate(operation, algorithm, b)
	if err != nil {
		return nil, &azureFault{http.StatusBadRequest, "BadParameter", err.Error()}
	}
	answer := map[string]string{"kid": kid, "value": base64.RawURLEncoding.EncodeToString(result)}
	if s.answer != nil {
		s.answer(operation, answer)
	}
	return answer, nil
}

// version is the newest one if id is empty.
func (k *azureKey) version(id string) *azureVersion {
	if k == nil {
		return nil
	}
	for i := len(k.versions) - 1; i >= 0; i-- {
		if id == "" || k.versions[i].id == id {
			return &k.versions[i]
		}
	}
	return nil
}

func (v *azureVersion) operate(operation, algorithm string, b []byte) ([]byte, error) {
	switch {
	case operation == "wrapkey" && algorithm == "RSA-OAEP-256" && v.rsa != nil:
		return rsa.EncryptOAEP(sha256.New(), rand.Reader, &v.rsa.PublicKey, b, nil)
	case operation == "unwrapkey" && algorithm == "RSA-OAEP-256" && v.rsa != nil:
		return rsa.DecryptOAEP(sha256.New(), nil, v.rsa, b, nil)
	case operation == "wrapkey" && algorithm == "A256KW" && v.kek != nil:
		return keyWrap(v.kek, b)
	case operation == "unwrapkey" && algorithm == "A256KW" && v.kek != nil:
		return keyUnwrap(v.kek, b)
	}
	return nil, fmt.Errorf("key and algorithm don't go together: %s", algorithm)
}

// keyIV is what RFC 3394 begins with, and recognizes its own by.
const keyIV = 0xa6a6a6a6a6a6a6a6

// keyWrap is that of RFC 3394.
func keyWrap(kek cipher.Block, key []byte) ([]byte, error) {
	if len(key)%8 != 0 || len(key) < 16 {
		return nil, errors.New("not a key to wrap")
	}
	n, a := len(key)/8, uint64(keyIV)
	out := append(make([]byte, 8), key...)
	var block [16]byte
	for t := range 6 * n {
		r := out[8*(t%n+1):][:8]
		binary.BigEndian.PutUint64(block[:8], a)
		copy(block[8:], r)
		kek.Encrypt(block[:], block[:])
		a = binary.BigEndian.Uint64(block[:8]) ^ uint64(t+1)
		copy(r, block[8:])
	}
	binary.BigEndian.PutUint64(out, a)
	return out, nil
}

func keyUnwrap(kek cipher.Block, wrapped []byte) ([]byte, error) {
	if len(wrapped)%8 != 0 || len(wrapped) < 24 {
		return nil, errors.New("not a wrapped key")
	}
	out := append([]byte{}, wrapped...)
	n, a := len(out)/8-1, binary.BigEndian.Uint64(out)
	var block [16]byte
	for t := 6*n - 1; t >= 0; t-- {
		r := out[8*(t%n+1):][:8]
		binary.BigEndian.PutUint64(block[:8], a^uint64(t+1))
		copy(block[8:], r)
		kek.Decrypt(block[:], block[:])
		a = binary.BigEndian.Uint64(block[:8])
		copy(r, block[8:])
	}
	if a != keyIV {
		return nil, errors.New("the wrapped key doesn't authenticate")
	}
	return out[8:], nil
}

// login is Entra ID: what the SDK asks about its tenant, and a token for a client with its secret.
func (s *AzureServer) login(w http.ResponseWriter, r *http.Request) {
	err := r.ParseForm()
	broken := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	if s.Tokens.meet(w, r, broken, broken) {
		return
	}
	tenant := "https://login.microsoftonline.com/" + azureTenant
	switch {
	case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
		writeAzure(w, http.StatusOK, map[string]any{
			"tenant_discovery_endpoint": tenant + "/v2.0/.well-known/openid-configuration", "metadata": []any{},
		})
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		writeAzure(w, http.StatusOK, map[string]string{
			"issuer": tenant + "/v2.0", "authorization_endpoint": tenant + "/oauth2/v2.0/authorize", "token_endpoint": tenant + "/oauth2/v2.0/token",
		})
	case err != nil || r.PostForm.Get("client_id") != azureClient || r.PostForm.Get("grant_type") != "client_credentials" ||
		!strings.Contains(r.PostForm.Get("scope"), "azure.net/.default") ||
		subtle.ConstantTimeCompare([]byte(r.PostForm.Get("client_secret")), []byte(azureSecret)) != 1:
		writeAzure(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."})
	default:
		s.mu.Lock()
		seconds := map[bool]int{false: 3599, true: 1}[s.brief]
		s.mu.Unlock()
		writeAzure(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": seconds, "access_token": s.token})
	}
}
