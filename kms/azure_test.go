//go:build !nocloud

package kms_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

// azureCreate makes a key and returns its URI.
func azureCreate(t *testing.T, s *kmstest.AzureServer, kind string) string {
	t.Helper()
	uri, err := s.Create(kind)
	if err != nil {
		t.Fatal(err)
	}
	return uri
}

func azureWorld(t *testing.T, kind string) kmstest.Provider {
	t.Helper()
	s := kmstest.NewAzureServer(t)
	ours, theirs := azureCreate(t, s, kind), azureCreate(t, s, kind)
	return kmstest.Provider{
		Open:     func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, ours, s.Options()) },
		Foreign:  func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, theirs, s.Options()) },
		Rotate:   func() error { return s.Rotate(ours) },
		Retire:   func() error { s.Retire(ours); return nil },
		Delete:   func() error { s.Delete(ours); return nil },
		Disable:  func(on bool) error { s.Disable(ours, on); return nil },
		Outage:   func(on bool) error { s.SetDown(on); return nil },
		Stall:    func(on bool) error { s.SetStalled(on); return nil },
		Throttle: func(calls int) error { s.Throttle(calls); return nil },
	}
}

func TestAzureRSA(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return azureWorld(t, "RSA")
	})
}

func TestAzureHSM(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return azureWorld(t, "oct-HSM")
	})
}

// TestAzureService tells the stories of Azure Key Vault itself, with what the SDK finds for credentials, where the
// URIs of two keys are given. Where they aren't, the tests above tell the same ones at the wire.
func TestAzureService(t *testing.T) {
	ours, theirs := os.Getenv("PRIVAULT_TEST_AZURE_KEY"), os.Getenv("PRIVAULT_TEST_AZURE_FOREIGN_KEY")
	if ours == "" || theirs == "" {
		return
	}
	kmstest.Exercise(t, func(*testing.T) kmstest.Provider {
		return kmstest.Provider{
			Open:    func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, ours, kms.Options{}) },
			Foreign: func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, theirs, kms.Options{}) },
		}
	})
}

func TestAzureBadURI(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAzureServer(t)
	for _, uri := range []string{
		"azure-kv:", "azure-kv://", "azure-kv://v.vault.azure.net", "azure-kv://v.vault.azure.net/keys/", "azure-kv://v.vault.azure.net/secrets/hunter2",
		"azure-kv://v.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef", "azure-kv://user:hunter2@v.vault.azure.net/keys/k",
		"azure-kv://v.vault.azure.net:443/keys/k", "azure-kv://v.vault.azure.net/keys/k?hunter2", "azure-kv://v.vault.azure.net/keys/../hunter2",
		"azure-kv:///v.vault.azure.net/keys/k", "azure-kv://v/keys/k", "azure-kv://v.vault.azure.net/keys/k\n", "azure-kv://v.vault.azure.net/keys/k#hunter2",
	} {
		key, err := kms.Open(t.Context(), uri, s.Options())
		if err == nil || key != nil || kindOf(err) != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q) = %v, %v, want a misuse error without the URI", uri, key, err)
		}
	}
	if n := s.Calls(); n != 0 {
		t.Errorf("%d calls, want none", n)
	}
}

// TestAzureURIOfAnyCase: a vault doesn't tell cases apart, so neither may what is bound to the URI.
func TestAzureURIOfAnyCase(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAzureServer(t)
	uri := azureCreate(t, s, "RSA")
	host, name, _ := strings.Cut(strings.TrimPrefix(uri, "azure-kv://"), "/keys/")
	upper := mustOpen(t, "azure-kv://"+strings.ToUpper(host)+"/keys/"+strings.ToUpper(name), s.Options())
	if upper.URI() != uri {
		t.Errorf("URI %q, want %q", upper.URI(), uri)
	}
	wantUnwrapped(t, mustOpen(t, uri, s.Options()), mustWrap(t, upper, "key material"), "key material")
}

// TestAzureLayout holds what the doc comment of the layout says.
func TestAzureLayout(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAzureServer(t)
	for kind, want := range map[string]struct {
		algorithm byte
		size      int
	}{"RSA": {1, 256}, "oct-HSM": {2, 40}} {
		k := mustOpen(t, azureCreate(t, s, kind), s.Options())
		var version string
		s.Bend(func(_ string, answer map[string]string) {
			version = answer["kid"][strings.LastIndex(answer["kid"], "/")+1:]
		})
		wrapped := mustWrap(t, k, "key material")
		header := fmt.Sprintf("\x01%c", want.algorithm)
		if !strings.HasPrefix(string(wrapped), header) || fmt.Sprintf("%x", wrapped[2:18]) != version ||
			int(wrapped[18])<<8+int(wrapped[19]) != want.size || len(wrapped) != 20+want.size+12+len("key material")+16 {
			t.Errorf("%s: %d bytes that begin with %x, of version %s", kind, len(wrapped), wrapped[:20], version)
		}
	}
}

// TestAzureBound: neither another key's URI nor another header opens a content key, even to whoever can unwrap it.
func TestAzureBound(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAzureServer(t)
	k := mustOpen(t, azureCreate(t, s, "RSA"), s.Options())
	a, b := mustWrap(t, k, "key material"), mustWrap(t, k, "key material")
	spliced := append(bytes.Clone(a[:20+256]), b[20+256:]...)
	if _, err := k.Unwrap(t.Context(), spliced, ad); !errors.Is(err, kms.ErrCorrupt) {
		t.Errorf("content key of one wrap and ciphertext of another: %v, want ErrCorrupt", err)
	}
	// The vault is made to unwrap ours for the other key.
	theirs := mustOpen(t, azureCreate(t, s, "RSA"), s.Options())
	var content string
	s.Bend(func(_ string, answer map[string]string) { content = answer["value"] })
	wantUnwrapped(t, k, a, "key material")
	s.Answer(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"kid": "https://privault-test.vault.azure.net/keys/k/0", "value": content})
	})
	wantUnwrapped(t, k, a, "key material")
	if _, err := theirs.Unwrap(t.Context(), a, ad); !errors.Is(err, kms.ErrCorrupt) {
		t.Errorf("ours, and our content key, under their URI: %v, want ErrCorrupt", err)
	}
	a[2] ^= 1
	if _, err := k.Unwrap(t.Context(), a, ad); !errors.Is(err, kms.ErrCorrupt) {
		t.Errorf("our content key under another version: %v, want ErrCorrupt", err)
	}
}

// TestAzureBentAnswers: an answer that makes no sense is no verdict on the wrapped key, unless it is the content key.
func TestAzureBentAnswers(t *testing.T) {
	t.Parallel()
	var cases sync.WaitGroup // they wait more than they work
	defer cases.Wait()
	s := kmstest.NewAzureServer(t)
	k := mustOpen(t, azureCreate(t, s, "RSA"), s.Options())
	wrapped := mustWrap(t, k, "key material")
	for name, bend := range map[string]func(answer map[string]string){
		"another key":    func(a map[string]string) { a["kid"] = strings.Replace(a["kid"], "privault", "somebody", 1) },
		"no key":         func(a map[string]string) { delete(a, "kid") },
		"no version":     func(a map[string]string) { a["kid"] = a["kid"][:len(a["kid"])-32] },
		"a long version": func(a map[string]string) { a["kid"] += "00" },
		"no result":      func(a map[string]string) { delete(a, "value") },
		"a long result":  func(a map[string]string) { a["value"] = strings.Repeat("A", 700) },
	} {
		s := kmstest.NewAzureServer(t)
		k := mustOpen(t, azureCreate(t, s, "RSA"), s.Options())
		s.Bend(func(_ string, answer map[string]string) { bend(answer) })
		cases.Go(func() {
			if _, err := k.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(kindOf(err), kms.ErrUnavailable) {
				t.Errorf("%s: Wrap: %v, want ErrUnavailable", name, err)
			}
		})
	}
	for name, value := range map[string]string{"short": "AAAA", "of another call": strings.Repeat("A", 43)} {
		s.Bend(func(_ string, answer map[string]string) { answer["value"] = value })
		if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(kindOf(err), kms.ErrCorrupt) {
			t.Errorf("content key %s: Unwrap: %v, want ErrCorrupt", name, err)
		}
	}
	s.Bend(nil)
	s.Answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{")) })
	if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(kindOf(err), kms.ErrUnavailable) {
		t.Errorf("half an answer: Unwrap: %v, want ErrUnavailable", err)
	}
}

func TestAzureErrors(t *testing.T) {
	t.Parallel()
	var cases sync.WaitGroup // they wait more than they work
	defer cases.Wait()
	for _, test := range []struct {
		status       int
		wrap, unwrap error // nil: misuse
		quoted       bool
	}{
		{http.StatusUnauthorized, kms.ErrDenied, kms.ErrDenied, true},
		{http.StatusForbidden, kms.ErrDenied, kms.ErrDenied, true},
		{http.StatusNotFound, kms.ErrDenied, kms.ErrDenied, true},
		{http.StatusBadRequest, nil, kms.ErrCorrupt, false},
		{http.StatusConflict, nil, nil, false},
		{http.StatusTooManyRequests, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{http.StatusRequestTimeout, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{http.StatusInternalServerError, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{http.StatusGatewayTimeout, kms.ErrUnavailable, kms.ErrUnavailable, false},
	} {
		s := kmstest.NewAzureServer(t)
		uri := azureCreate(t, s, "oct-HSM")
		k := mustOpen(t, uri, s.Options())
		wrapped := mustWrap(t, k, "key material")
		cases.Go(func() {
			s.Answer(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(`{"error":{"code":"Code","message":"says the vault"}}`))
			})
			before := s.Calls()
			_, wrapErr := k.Wrap(t.Context(), []byte("key material"), ad)
			_, unwrapErr := k.Unwrap(t.Context(), wrapped, ad)
			if n := s.Calls() - before; test.wrap != nil && n != map[bool]int{true: 8, false: 2}[errors.Is(test.wrap, kms.ErrUnavailable)] && test.status != http.StatusNotFound {
				t.Errorf("%d: %d calls, want one for each, or four where that may help", test.status, n)
			}
			for call, got := range map[string]struct{ err, want error }{"Wrap": {wrapErr, test.wrap}, "Unwrap": {unwrapErr, test.unwrap}} {
				if kind := kindOf(got.err); got.err == nil || !errors.Is(kind, got.want) {
					t.Errorf("%d: %s: %v, want %v", test.status, call, got.err, got.want)
				}
				if quoted := strings.Contains(fmt.Sprint(got.err), "says the vault"); quoted != test.quoted {
					t.Errorf("%d: %s: %v: quotes the vault: %v", test.status, call, got.err, quoted)
				}
			}
			if _, err := kms.Open(t.Context(), uri, s.Options()); !errors.Is(kindOf(err), test.wrap) || err == nil {
				t.Errorf("%d: Open: %v, want %v", test.status, err, test.wrap)
			}
		})
	}
	s := kmstest.NewAzureServer(t)
	if _, err := kms.Open(t.Context(), azureCreate(t, s, "EC"), s.Options()); !errors.Is(kindOf(err), kms.ErrDenied) {
		t.Errorf("Open of an EC key: %v, want ErrDenied", err)
	}
}

// TestAzureTokens: Entra ID in an outage is one of the KMS, and one that refuses is not.
func TestAzureTokens(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAzureServer(t)
	uri := azureCreate(t, s, "RSA")
	asked := errors.New("the secret store is down")
	for name, test := range map[string]struct {
		credentials kms.AzureCredentials
		err         error
		want        error
	}{
		"no credentials":     {want: kms.ErrDenied},
		"not a tenant":       {credentials: kms.AzureCredentials{TenantID: "hunter2/..", ClientID: "c", ClientSecret: "hunter2"}, want: kms.ErrDenied},
		"wrong secret":       {credentials: kms.AzureCredentials{TenantID: "t", ClientID: "c", ClientSecret: "hunter2"}, want: kms.ErrDenied},
		"error of the asked": {err: asked, want: asked},
	} {
		o := s.Options()
		o.Azure.Credentials = func() (kms.AzureCredentials, error) { return test.credentials, test.err }
		if _, err := kms.Open(t.Context(), uri, o); !errors.Is(err, test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: Open: %v, want %v and no quotation", name, err, test.want)
		}
	}
	s.Tokens.SetDown(true)
	if _, err := kms.Open(t.Context(), uri, s.Options()); !errors.Is(kindOf(err), kms.ErrUnavailable) {
		t.Errorf("Entra ID down: Open: %v, want ErrUnavailable", err)
	}
	s.Tokens.SetDown(false)
	s.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/t", resource="https://evil.example"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	if _, err := kms.Open(t.Context(), uri, s.Options()); !errors.Is(kindOf(err), kms.ErrDenied) {
		t.Errorf("challenge for a foreign resource: Open: %v, want ErrDenied", err)
	}
}

// TestAzureTokensStalled: callers that wait for one and the same token each keep to their own deadline.
func TestAzureTokensStalled(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAzureServer(t)
	s.BriefTokens(true)
	k := mustOpen(t, azureCreate(t, s, "RSA"), s.Options())
	wrapped := mustWrap(t, k, "key material")
	// A vault that takes the token no more has the SDK fetch another one.
	s.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	s.Tokens.SetStalled(true)
	before := s.Tokens.Calls()
	long, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	callers.Go(func() {
		if _, err := k.Unwrap(long, wrapped, ad); !errors.Is(err, context.Canceled) {
			t.Errorf("Unwrap: %v, want Canceled", err)
		}
	})
	for s.Tokens.Calls() == before {
		<-time.After(time.Millisecond)
	}
	for range 8 {
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		began := time.Now()
		_, err := k.Unwrap(short, wrapped, ad)
		cancel()
		if d := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || d > 2*time.Second {
			t.Errorf("Unwrap: %v after %v, want DeadlineExceeded at once", err, d)
		}
	}
	cancel()
	callers.Wait()
}
