package kms_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

// transitWorld is a Provider over two keys of a wire-level transit engine.
func transitWorld(t *testing.T, s *kmstest.TransitServer, o kms.Options) kmstest.Provider {
	t.Helper()
	ours, theirs := transitCreate(t, s, "ours"), transitCreate(t, s, "theirs")
	return kmstest.Provider{
		Open:     func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, ours, o) },
		Foreign:  func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, theirs, o) },
		Rotate:   func() error { return s.Rotate("ours") },
		Retire:   func() error { s.SetMinDecryption("ours", 2); return nil },
		Delete:   func() error { s.Delete("ours"); return nil },
		Disable:  func(on bool) error { s.SoftDelete("ours", on); return nil },
		Outage:   func(on bool) error { s.SetDown(on); return nil },
		Stall:    func(on bool) error { s.SetStalled(on); return nil },
		Throttle: func(calls int) error { s.Throttle(calls); return nil },
	}
}

func transitCreate(t *testing.T, s *kmstest.TransitServer, name string) string {
	t.Helper()
	uri, err := s.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return uri
}

func TestTransit(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		s := kmstest.NewTransitServer(t, true)
		return transitWorld(t, s, s.ByAppRole())
	})
}

// TestTransitService tells the stories of a real server, where the URIs of two of its keys are given. Where they
// aren't, TestTransit tells the same ones at the wire.
func TestTransitService(t *testing.T) {
	ours, theirs := os.Getenv("PRIVAULT_TEST_HCVAULT_KEY"), os.Getenv("PRIVAULT_TEST_HCVAULT_FOREIGN_KEY")
	if ours == "" || theirs == "" {
		return
	}
	o := kms.Options{Transit: kms.TransitOptions{
		Namespace: os.Getenv("PRIVAULT_TEST_HCVAULT_NAMESPACE"),
		CAFile:    os.Getenv("PRIVAULT_TEST_HCVAULT_CA_FILE"),
		Token:     func() (string, error) { return os.Getenv("PRIVAULT_TEST_HCVAULT_TOKEN"), nil },
	}}
	kmstest.Exercise(t, func(*testing.T) kmstest.Provider {
		return kmstest.Provider{
			Open:    func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, ours, o) },
			Foreign: func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, theirs, o) },
		}
	})
}

func TestTransitBadURI(t *testing.T) {
	t.Parallel()
	o := kms.Options{Transit: kms.TransitOptions{Token: func() (string, error) { return "hunter2", nil }}}
	for _, uri := range []string{
		"hcvault:", "hcvault://", "hcvault://host", "hcvault://host/transit/keys/", "hcvault://host/keys/hunter2", "hcvault://host/transit/hunter2",
		"hcvault:///transit/keys/hunter2", "hcvault://user:hunter2@host/transit/keys/k", "hcvault://hunter2@host/transit/keys/k",
		"hcvault://host/transit/keys/hunter2/decrypt", "hcvault://host/../sys/keys/hunter2", "hcvault://host/transit/keys/..",
		"hcvault://host/transit/keys/k%2fhunter2", "hcvault://host/transit//keys/hunter2", "hcvault://host/transit/keys/k#hunter2",
		"hcvault://host/transit/keys/k?token=hunter2", "hcvault://host/transit/keys/k?insecure=true&token=hunter2",
		"hcvault://host/transit/keys/k?insecure=true", "hcvault://127.0.0.1.example/transit/keys/k?insecure=true",
		"hcvault://host:hunter2/transit/keys/k", "hcvault://host/transit/keys/hunter 2\n",
	} {
		key, err := kms.Open(t.Context(), uri, o)
		if err == nil || key != nil || errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("Open(%q) = %v, %v, want a misuse error without the URI", uri, key, err)
		}
	}
	for uri, want := range map[string]string{
		"hcvault://Vault.example/transit/keys/root":             "hcvault://vault.example/transit/keys/root",
		"hcvault://vault.example:8200/transit/keys/root":        "hcvault://vault.example/transit/keys/root",
		"hcvault://vault.example:443/a/b/transit/keys/root.v-1": "hcvault://vault.example:443/a/b/transit/keys/root.v-1",
		"hcvault://[::1]:8200/transit/keys/root?insecure=true":  "hcvault://[::1]/transit/keys/root",
		"hcvault://localhost/transit/keys/keys?insecure=true":   "hcvault://localhost/transit/keys/keys",
	} {
		if got := mustOpen(t, uri, o).URI(); got != want {
			t.Errorf("Open(%q).URI() = %q, want %q", uri, got, want)
		}
	}
}

func TestTransitBadOptions(t *testing.T) {
	t.Parallel()
	const uri = "hcvault://vault.example/transit/keys/root"
	token := func() (string, error) { return "hunter2", nil }
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]kms.TransitOptions{
		"no login":   {},
		"two logins": {Token: token, AppRole: kms.AppRole{RoleID: "role", SecretID: token}},
		"bad mount":  {AppRole: kms.AppRole{Mount: "../sys", RoleID: "role", SecretID: token}},
		"no CA":      {Token: token, CAFile: empty},
		"CA gone":    {Token: token, CAFile: empty + "?"},
	} {
		key, err := kms.Open(t.Context(), uri, kms.Options{Transit: o})
		if err == nil || key != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: Open = %v, %v, want an error", name, key, err)
		}
	}
}

// TestTransitTLS: a server is trusted by the CA file, and by nothing else.
func TestTransitTLS(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, true)
	uri := transitCreate(t, s, "root")
	o := s.ByToken()
	wantUnwrapped(t, mustOpen(t, uri, o), mustWrap(t, mustOpen(t, uri, o), "key material"), "key material")
	o.Transit.CAFile = ""
	before := s.Calls()
	if _, err := mustOpen(t, uri, o).Wrap(t.Context(), []byte("key material"), ad); !errors.Is(err, kms.ErrUnavailable) || s.Calls() != before {
		t.Errorf("Wrap by a server that nobody vouches for = %v after %d calls, want ErrUnavailable after none", err, s.Calls()-before)
	}
}

func TestTransitKubernetes(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	uri := transitCreate(t, s, "root")
	o, err := s.ByKubernetes(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k := mustOpen(t, uri, o)
	wantUnwrapped(t, k, mustWrap(t, k, "key material"), "key material")
	if err := os.WriteFile(o.Transit.Kubernetes.TokenFile, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func() error{
		func() error { return nil },
		func() error { return os.WriteFile(o.Transit.Kubernetes.TokenFile, nil, 0o600) },
		func() error { return os.Remove(o.Transit.Kubernetes.TokenFile) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		_, err := mustOpen(t, uri, o).Wrap(t.Context(), []byte("key material"), ad)
		if !errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "canary") {
			t.Errorf("Wrap = %v, want ErrDenied", err)
		}
	}
}

func wantLogins(t *testing.T, s *kmstest.TransitServer, logins, renewals int) {
	t.Helper()
	if l, r := s.Logins(); l != logins || r != renewals {
		t.Errorf("%d logins and %d renewals, want %d and %d", l, r, logins, renewals)
	}
}

// TestTransitLogin: callers at once share a login, a token that was revoked is replaced, and a permission that is
// missing doesn't become a login for each call.
func TestTransitLogin(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	k := mustOpen(t, transitCreate(t, s, "root"), s.ByAppRole())
	wantLogins(t, s, 0, 0)
	wrapAtOnce := func() {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := k.Wrap(t.Context(), []byte("key material"), ad); err != nil {
					t.Errorf("Wrap: %v", err)
				}
			})
		}
		wg.Wait()
	}
	wrapAtOnce()
	wantLogins(t, s, 1, 0)
	s.Revoke()
	wrapAtOnce()
	wantLogins(t, s, 2, 0)
	s.Revoke()
	for range 3 {
		if _, err := k.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(err, kms.ErrDenied) {
			t.Errorf("Wrap right after another login = %v, want ErrDenied", err)
		}
	}
	wantLogins(t, s, 2, 0)
}

// TestTransitRenewal has a lease so short that it is always time to renew it.
func TestTransitRenewal(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	s.SetLease(5, true)
	k := mustOpen(t, transitCreate(t, s, "root"), s.ByAppRole())
	wrapped := mustWrap(t, k, "key material") // and proves the binding, with a renewal
	wantLogins(t, s, 1, 1)
	wantUnwrapped(t, k, wrapped, "key material")
	wantLogins(t, s, 1, 2)
	s.SetLease(5, false) // the login lasted as long as it may; the token is told with its next renewal
	wantUnwrapped(t, k, wrapped, "key material")
	wantLogins(t, s, 2, 2)
	s.SetLease(3600, true)
	wantUnwrapped(t, k, wrapped, "key material")
	wantUnwrapped(t, k, wrapped, "key material")
	wantLogins(t, s, 3, 2)
}

func TestTransitWrongSecret(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	uri := transitCreate(t, s, "root")
	cause := errors.New("no file")
	text := func(s string, err error) func() (string, error) { return func() (string, error) { return s, err } }
	for name, change := range map[string]func(*kms.TransitOptions){
		"token":       func(o *kms.TransitOptions) { o.Token = text("canary", nil) },
		"empty token": func(o *kms.TransitOptions) { o.Token = text("\n", nil) },
		"no token":    func(o *kms.TransitOptions) { o.Token = text("", cause) },
		"secret id": func(o *kms.TransitOptions) {
			o.AppRole = kms.AppRole{RoleID: "privault", SecretID: text("canary", nil)}
		},
		"no secret id": func(o *kms.TransitOptions) { o.AppRole = kms.AppRole{RoleID: "privault"} },
		"auth mount": func(o *kms.TransitOptions) {
			o.AppRole = kms.AppRole{Mount: "elsewhere", RoleID: "privault", SecretID: text("canary", nil)}
		},
		"namespace": func(o *kms.TransitOptions) { o.Token, o.Namespace = s.ByToken().Transit.Token, "canary" },
		"role":      func(o *kms.TransitOptions) { o.AppRole = kms.AppRole{RoleID: "canary", SecretID: text("canary", nil)} },
		"no cluster": func(o *kms.TransitOptions) {
			o.Kubernetes = kms.Kubernetes{Role: "privault", TokenFile: filepath.Join(t.TempDir(), "none")}
		},
	} {
		o := s.ByToken()
		o.Transit.Token = nil
		change(&o.Transit)
		_, err := mustOpen(t, uri, o).Wrap(t.Context(), []byte("key material"), ad)
		if !errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "canary") || name == "no token" && !errors.Is(err, cause) {
			t.Errorf("%s: Wrap = %v, want ErrDenied", name, err)
		}
	}
}

// TestTransitDeletedStaysDeleted: the server makes a key that isn't there when it is asked to encrypt with it.
func TestTransitDeletedStaysDeleted(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	k := mustOpen(t, transitCreate(t, s, "root"), s.ByToken())
	s.Delete("root")
	if _, err := k.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(err, kms.ErrDenied) || s.Has("root") {
		t.Errorf("Wrap = %v, want ErrDenied, and there is a key: %v", err, s.Has("root"))
	}
}

func TestTransitMinDecryption(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	k := mustOpen(t, transitCreate(t, s, "root"), s.ByToken())
	wrapped := mustWrap(t, k, "key material")
	if err := s.Rotate("root"); err != nil {
		t.Fatal(err)
	}
	fresh, err := kms.Rewrap(t.Context(), k, wrapped, ad)
	if err != nil {
		t.Fatal(err)
	}
	s.SetMinDecryption("root", 2)
	wantUnwrapped(t, k, fresh, "key material")
	if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("Unwrap of a version that is shut out = %v, want ErrDenied", err)
	}
}

// TestTransitDeafServer: a server that ignores associated data wraps nothing for us.
func TestTransitDeafServer(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	k := mustOpen(t, transitCreate(t, s, "root"), s.ByToken())
	s.SetDeaf(true)
	got, err := k.Wrap(t.Context(), []byte("key material"), ad)
	if err == nil || got != nil || errors.Is(err, kms.ErrUnavailable) || !strings.Contains(err.Error(), "associated data") {
		t.Errorf("Wrap = %v, %v, want an error that says why", got, err)
	}
}

// TestTransitSpelling: what the server would take for the same wrapped key isn't one to us.
func TestTransitSpelling(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, false)
	k := mustOpen(t, transitCreate(t, s, "root"), s.ByToken())
	wrapped := string(mustWrap(t, k, "key material of 18"))
	if !strings.HasSuffix(wrapped, "==") {
		t.Fatalf("no padding at the end of %d characters: choose another length", len(wrapped))
	}
	sealed := strings.TrimPrefix(wrapped, "vault:v1:")
	for _, spelling := range []string{
		"vault:v0:" + sealed, "vault:v01:" + sealed, "vault:v+1:" + sealed, "vault:v-1:" + sealed, wrapped + "\n", "vault:v1:\n" + sealed,
		wrapped[:len(wrapped)-3] + string(wrapped[len(wrapped)-3]+1) + "==",
	} {
		if _, err := k.Unwrap(t.Context(), []byte(spelling), ad); !errors.Is(err, kms.ErrCorrupt) {
			t.Errorf("Unwrap of %q... = %v, want ErrCorrupt", spelling[:12], err)
		}
	}
	wantUnwrapped(t, k, []byte(wrapped), "key material of 18")
}

func TestTransitErrors(t *testing.T) {
	t.Parallel()
	kinds := []error{kms.ErrCorrupt, kms.ErrDenied, kms.ErrUnavailable}
	var calls []call
	tests := []struct {
		status       int
		body         string
		wrap, unwrap error // nil: misuse
	}{
		{400, `{"errors":["cipher: message authentication failed"]}`, kms.ErrCorrupt, kms.ErrCorrupt},
		{400, `{"errors":["invalid ciphertext: unable to decrypt"]}`, kms.ErrCorrupt, kms.ErrCorrupt},
		{400, `{"errors":["canary"]}`, nil, kms.ErrCorrupt},
		{400, `{"errors":["missing 'context' for key derivation; the key was created using a derived key"]}`, nil, nil},
		{400, `{"errors":["'[0].associated_data' provided for non-AEAD cipher suite rsa-2048"]}`, nil, nil},
		{400, `{"errors":["encryption key not found"]}`, kms.ErrDenied, kms.ErrDenied},
		{400, `Client sent an HTTP request to an HTTPS server.`, kms.ErrDenied, kms.ErrDenied},
		{403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, kms.ErrDenied, kms.ErrDenied},
		{403, `<html>canary`, kms.ErrDenied, kms.ErrDenied},
		{404, `{"errors":[]}`, kms.ErrDenied, kms.ErrDenied},
		{412, `{"errors":["required index state not present"]}`, kms.ErrUnavailable, kms.ErrUnavailable},
		{429, `{"errors":["rate limit quota exceeded"]}`, kms.ErrUnavailable, kms.ErrUnavailable},
		{500, `{"errors":["decryption failed: cipher: message authentication failed"]}`, kms.ErrUnavailable, kms.ErrUnavailable},
		{502, `<html>canary`, kms.ErrUnavailable, kms.ErrUnavailable},
		{503, `{"errors":["Vault is sealed"]}`, kms.ErrUnavailable, kms.ErrUnavailable},
		{307, ``, kms.ErrUnavailable, kms.ErrUnavailable},
		{204, ``, kms.ErrUnavailable, kms.ErrUnavailable},
		{200, ``, kms.ErrUnavailable, kms.ErrUnavailable},
		{200, `<html>canary`, kms.ErrUnavailable, kms.ErrUnavailable},
		{200, `{"data":{"plaintext":"canary?","ciphertext":"canary"}}`, kms.ErrUnavailable, kms.ErrUnavailable},
		{200, `{"data":{"plaintext":"","ciphertext":""}}`, kms.ErrUnavailable, kms.ErrUnavailable},
		{200, `{"data":{"plaintext":"` + strings.Repeat("A", 1<<20) + `"}}`, kms.ErrUnavailable, kms.ErrUnavailable},
	}
	for _, test := range tests {
		s := kmstest.NewTransitServer(t, false)
		k := mustOpen(t, transitCreate(t, s, "root"), s.ByToken())
		calls = append(calls, call{key: k, wrapped: mustWrap(t, k, "key material")})
		s.Answer(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/elsewhere") {
				t.Error("the redirect was followed")
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(test.status)
			fmt.Fprint(w, test.body)
		})
	}
	atOnce(t, calls)
	for i, test := range tests {
		wrapErr, unwrapErr := calls[i].wrapErr, calls[i].unwrapErr
		name := fmt.Sprintf("%d %.40s", test.status, test.body)
		for _, kind := range kinds {
			if errors.Is(wrapErr, kind) != errors.Is(kind, test.wrap) || errors.Is(unwrapErr, kind) != errors.Is(kind, test.unwrap) {
				t.Errorf("%s: Wrap = %v, want %v; Unwrap = %v, want %v", name, wrapErr, test.wrap, unwrapErr, test.unwrap)
			}
		}
		if wrapErr == nil || unwrapErr == nil || strings.Contains(wrapErr.Error()+unwrapErr.Error(), "canary") {
			t.Errorf("%s: Wrap = %v, Unwrap = %v: want errors that quote nothing", name, wrapErr, unwrapErr)
		}
	}
}
