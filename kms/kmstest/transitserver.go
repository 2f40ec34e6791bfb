package kmstest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/privault/privault/kms"
)

// TransitServer is the transit engine of HashiCorp Vault and OpenBao at the wire, with the logins by AppRole and by
// Kubernetes: the calls that package kms makes, with real encryption and the servers' own words for errors. It is as
// lax as they are about how a ciphertext is spelt, and makes a key that isn't there when asked to encrypt with it.
type TransitServer struct {
	Faults
	url    string
	caFile string

	mu        sync.Mutex
	keys      map[string]*transitKey
	tokens    map[string]bool
	lease     int
	renewable bool
	deaf      bool
	none      map[string]bool // operations that the caller has no permission for
	logins    int
	renewals  int
}

type transitKey struct {
	material      versions
	minDecryption int
	softDeleted   bool
}

const (
	transitMount     = "team/transit"
	transitNamespace = "privacy"
	transitRole      = "privault"
	transitSecret    = "secret-id-or-jwt-0123456789"
)

// NewTransitServer starts a TransitServer without keys, by TLS or on loopback without. It ends with the test. Tokens
// live for an hour and are renewable.
func NewTransitServer(t testing.TB, tls bool) *TransitServer {
	t.Helper()
	s := &TransitServer{keys: make(map[string]*transitKey), tokens: make(map[string]bool), none: make(map[string]bool), lease: 3600, renewable: true}
	if !tls {
		s.url = s.serve(t, s.handle, httptest.NewServer).URL
		return s
	}
	server := s.serve(t, s.handle, httptest.NewTLSServer)
	s.url, s.caFile = server.URL, filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(s.caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// Create makes a key and returns the URI that opens it.
func (s *TransitServer) Create(name string) (uri string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := new(transitKey)
	s.keys[name] = k
	host, secure := strings.CutPrefix(s.url, "https://")
	uri = "hcvault://" + strings.TrimPrefix(host, "http://") + "/" + transitMount + "/keys/" + name
	if !secure {
		uri += "?insecure=true"
	}
	return uri, k.material.add()
}

// Rotate adds a version to a key.
func (s *TransitServer) Rotate(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[name].material.add()
}

// Delete deletes a key for good.
func (s *TransitServer) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, name)
}

// Has reports whether there is a key, made by Create or by an encryption.
func (s *TransitServer) Has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[name] != nil
}

// SoftDelete is the nearest that these servers have to disabling a key.
func (s *TransitServer) SoftDelete(name string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].softDeleted = on
}

// SetMinDecryption refuses what older versions of a key wrapped.
func (s *TransitServer) SetMinDecryption(name string, version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].minDecryption = version
}

// Forbid takes the permission away for encrypt or decrypt, or gives it back.
func (s *TransitServer) Forbid(operation string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.none[operation] = on
}

// SetDeaf makes the server one that knows no associated data.
func (s *TransitServer) SetDeaf(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = on
}

// SetLease sets for how many seconds tokens are good, from the next login or renewal on, and whether they are
// renewable. They end by Revoke only.
func (s *TransitServer) SetLease(seconds int, renewable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease, s.renewable = seconds, renewable
}

// Revoke ends all tokens.
func (s *TransitServer) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Logins counts the logins and the renewals that succeeded.
func (s *TransitServer) Logins() (logins, renewals int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins, s.renewals
}

// ByToken are Options with a token.
func (s *TransitServer) ByToken() kms.Options {
	token := "hvs." + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = true
	o := s.options()
	o.Transit.Token = func() (string, error) { return token + "\n", nil }
	return o
}

// ByAppRole are Options with a role id and a secret id.
func (s *TransitServer) ByAppRole() kms.Options {
	o := s.options()
	o.Transit.AppRole = kms.AppRole{RoleID: transitRole, SecretID: func() (string, error) { return transitSecret, nil }}
	return o
}

// ByKubernetes are Options with a service account, whose token they put into dir.
func (s *TransitServer) ByKubernetes(dir string) (kms.Options, error) {
	o := s.options()
	o.Transit.Kubernetes = kms.Kubernetes{Role: transitRole, TokenFile: filepath.Join(dir, "token")}
	return o, os.WriteFile(o.Transit.Kubernetes.TokenFile, []byte(transitSecret), 0o600)
}

func (s *TransitServer) options() kms.Options {
	return kms.Options{Transit: kms.TransitOptions{Namespace: transitNamespace, CAFile: s.caFile}}
}

// transitCall has the fields of all the calls.
type transitCall struct {
	Plaintext      *string `json:"plaintext"`
	Ciphertext     string  `json:"ciphertext"`
	AssociatedData string  `json:"associated_data"`
	Type           string  `json:"type"`
	RoleID         string  `json:"role_id"`
	SecretID       string  `json:"secret_id"`
	Role           string  `json:"role"`
	JWT            string  `json:"jwt"`
}

// transitFault is an error as it goes over the wire.
type transitFault struct {
	status int
	text   string
}

func (f *transitFault) Error() string { return f.text }

func (f *transitFault) write(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {f.text}})
}

func invalid(format string, args ...any) *transitFault {
	return &transitFault{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

func (s *TransitServer) handle(w http.ResponseWriter, r *http.Request) {
	var call transitCall
	err := body(r, &call)
	throttled := &transitFault{http.StatusTooManyRequests, "request path \"transit\": rate limit quota exceeded"}
	broken := &transitFault{http.StatusServiceUnavailable, "Vault is sealed"}
	if s.meet(w, r, throttled.write, broken.write) {
		return
	}
	if err != nil {
		invalid("failed to parse JSON input").write(w, r)
		return
	}
	s.mu.Lock()
	answer, fault := s.dispatch(r, call)
	s.mu.Unlock()
	if fault != nil {
		fault.write(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *TransitServer) dispatch(r *http.Request, c transitCall) (any, *transitFault) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	noRoute := &transitFault{http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", path)}
	if r.Method != http.MethodPost || r.Header.Get("X-Vault-Namespace") != transitNamespace {
		return nil, noRoute
	}
	switch path {
	case "auth/approle/login":
		return s.login(c.RoleID == transitRole && c.SecretID == transitSecret, "invalid role or secret ID")
	case "auth/kubernetes/login":
		return s.login(c.Role == transitRole && c.JWT == transitSecret, "invalid role name")
	}
	token := r.Header.Get("X-Vault-Token")
	if !s.tokens[token] {
		return nil, &transitFault{http.StatusForbidden, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"}
	}
	if path == "auth/token/renew-self" {
		if !s.renewable {
			return nil, invalid("lease is not renewable")
		}
		s.renewals++
		return s.auth(token), nil
	}
	if operation, _, _ := strings.Cut(strings.TrimPrefix(path, transitMount+"/"), "/"); s.none[operation] {
		return nil, &transitFault{http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n"}
	}
	if name, ok := strings.CutPrefix(path, transitMount+"/encrypt/"); ok {
		return s.encrypt(name, c)
	}
	if name, ok := strings.CutPrefix(path, transitMount+"/decrypt/"); ok {
		return s.decrypt(name, c)
	}
	return nil, noRoute
}

func (s *TransitServer) login(ok bool, text string) (any, *transitFault) {
	if !ok {
		return nil, invalid("%s", text)
	}
	s.logins++
	token := "hvs." + rand.Text()
	s.tokens[token] = true
	return s.auth(token), nil
}

func (s *TransitServer) auth(token string) any {
	return map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": s.lease, "renewable": s.renewable}}
}

func (s *TransitServer) encrypt(name string, c transitCall) (any, *transitFault) {
	if c.Plaintext == nil {
		return nil, invalid("missing plaintext to encrypt")
	}
	k := s.keys[name]
	if k == nil {
		if c.Type != "" && c.Type != "aes256-gcm96" {
			return nil, invalid("unknown key type %s", c.Type)
		}
		k = new(transitKey)
		if err := k.material.add(); err != nil {
			return nil, &transitFault{http.StatusInternalServerError, err.Error()}
		}
		s.keys[name] = k
	}
	if k.softDeleted {
		return nil, invalid("refusing to use soft-deleted key")
	}
	plaintext, err := base64.StdEncoding.DecodeString(*c.Plaintext)
	if err != nil {
		return nil, invalid("%v", err)
	}
	ad, fault := s.associated(c)
	if fault != nil {
		return nil, fault
	}
	n := len(k.material)
	sealed := base64.StdEncoding.EncodeToString(k.material.seal(n, plaintext, ad))
	return data(map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", n, sealed), "key_version": n}), nil
}

func (s *TransitServer) associated(c transitCall) ([]byte, *transitFault) {
	if s.deaf {
		return nil, nil
	}
	ad, err := base64.StdEncoding.DecodeString(c.AssociatedData)
	if err != nil {
		return nil, &transitFault{http.StatusInternalServerError, "1 error occurred:\n\t* internal error\n\n"}
	}
	return ad, nil
}

func data(fields map[string]any) any { return map[string]any{"data": fields, "warnings": nil} }

func (s *TransitServer) decrypt(name string, c transitCall) (any, *transitFault) {
	k := s.keys[name]
	switch {
	case c.Ciphertext == "":
		return nil, invalid("missing ciphertext to decrypt")
	case k == nil:
		return nil, invalid("encryption key not found")
	case k.softDeleted:
		return nil, invalid("refusing to use soft-deleted key")
	}
	rest, ok := strings.CutPrefix(c.Ciphertext, "vault:v")
	if !ok {
		return nil, invalid("invalid ciphertext: no prefix")
	}
	number, text, ok := strings.Cut(rest, ":")
	if !ok {
		return nil, invalid("invalid ciphertext: wrong number of fields")
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return nil, invalid("invalid ciphertext: version number could not be decoded")
	}
	n = max(n, 1) // versions once began with 0
	if n > len(k.material) {
		return nil, invalid("invalid ciphertext: version is too new")
	}
	if n < k.minDecryption {
		return nil, invalid("ciphertext or signature version is disallowed by policy (too old)")
	}
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, invalid("invalid ciphertext: could not decode base64")
	}
	ad, fault := s.associated(c)
	if fault != nil {
		return nil, fault
	}
	plaintext, err := k.material.open(n, sealed, ad)
	if err != nil {
		return nil, invalid("cipher: message authentication failed")
	}
	return data(map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plaintext)}), nil
}
