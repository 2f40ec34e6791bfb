//go:build !nocloud

package kms_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

// gcpCreate makes a key and returns its URI.
func gcpCreate(t *testing.T, s *kmstest.GCPServer) string {
	t.Helper()
	name, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	return "gcp-kms://" + name
}

// gcpOpen opens a key on a server of its own, and wraps with it.
func gcpOpen(t *testing.T) (*kmstest.GCPServer, kms.Key, []byte) {
	t.Helper()
	s := kmstest.NewGCPServer(t)
	k, err := closing(t, gcpCreate(t, s), s.Options())(t.Context())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s, k, mustWrap(t, k, "key material")
}

func gcpWorld(t *testing.T) kmstest.Provider {
	t.Helper()
	s := kmstest.NewGCPServer(t)
	ours := gcpCreate(t, s)
	name := strings.TrimPrefix(ours, "gcp-kms://")
	return kmstest.Provider{
		Open:    closing(t, ours, s.Options()),
		Foreign: closing(t, gcpCreate(t, s), s.Options()),
		Rotate:  func() error { return s.Rotate(name) },
		Retire:  func() error { s.Retire(name); return nil },
		Delete:  func() error { s.SetState(name, kmspb.CryptoKeyVersion_DESTROY_SCHEDULED); return nil },
		Disable: func(on bool) error {
			s.SetState(name, map[bool]kmspb.CryptoKeyVersion_CryptoKeyVersionState{
				true: kmspb.CryptoKeyVersion_DISABLED, false: kmspb.CryptoKeyVersion_ENABLED,
			}[on])
			return nil
		},
		Outage:   func(on bool) error { s.SetDown(on); return nil },
		Stall:    func(on bool) error { s.SetStalled(on); return nil },
		Throttle: func(calls int) error { s.Throttle(calls); return nil },
	}
}

func TestGCP(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return gcpWorld(t)
	})
}

// TestGCPService tells the stories of Google Cloud KMS itself, with what the SDK finds for credentials, where the URIs
// of two keys are given. Where they aren't, TestGCP tells the same ones at the wire.
func TestGCPService(t *testing.T) {
	ours, theirs := os.Getenv("PRIVAULT_TEST_GCP_KEY"), os.Getenv("PRIVAULT_TEST_GCP_FOREIGN_KEY")
	if ours == "" || theirs == "" {
		return
	}
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return kmstest.Provider{Open: closing(t, ours, kms.Options{}), Foreign: closing(t, theirs, kms.Options{})}
	})
}

func TestGCPBadURI(t *testing.T) {
	t.Parallel()
	s := kmstest.NewGCPServer(t)
	const name = "projects/p/locations/global/keyRings/r/cryptoKeys/k"
	for _, uri := range []string{
		"gcp-kms:", "gcp-kms://", "gcp-kms:" + name, "gcp-kms:///" + name, "gcp-kms://" + name + "/", "gcp-kms://" + name + "\n",
		"gcp-kms://" + name + "?key=hunter2", "gcp-kms://" + name + "/cryptoKeyVersions/1", "gcp-kms://user:hunter2@" + name,
		"gcp-kms://projects/p/locations/global/keyRings/r", "gcp-kms://projects/p/locations/global/keyRings/../cryptoKeys/hunter2",
		"gcp-kms://projects/p/locations/global/keyRings//cryptoKeys/k",
	} {
		key, err := kms.Open(t.Context(), uri, s.Options())
		if err == nil || key != nil || errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q) = %v, %v, want a misuse error without the URI", uri, key, err)
		}
	}
	for _, endpoint := range []string{"http://kms.example", "kms.example:443", "https://user:hunter2@kms.example", "http://10.0.0.1:80"} {
		o := s.Options()
		o.GCP.Endpoint = endpoint
		key, err := kms.Open(t.Context(), "gcp-kms://"+name, o)
		if err == nil || key != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("endpoint %q: Open = %v, %v, want an error without it", endpoint, key, err)
		}
	}
}

// TestGCPDamage: what the wire spoils once doesn't show, and what it keeps spoiling is no verdict on the wrapped key.
func TestGCPDamage(t *testing.T) {
	t.Parallel()
	var cases sync.WaitGroup // they wait more than they work
	defer cases.Wait()
	for name, test := range map[string]struct {
		damage       kmstest.GCPDamage
		wrap, unwrap bool // which of the calls it spoils
	}{
		"request without a checksum":                      {kmstest.GCPLostChecksum, true, false},
		"request without the checksum of associated data": {kmstest.GCPLostADChecksum, true, false},
		"changed request":                                 {kmstest.GCPChangedRequest, true, true},
		"changed answer":                                  {kmstest.GCPChangedAnswer, true, true},
		"answer without a checksum":                       {kmstest.GCPAnswerWithoutChecksum, true, true},
		"answer for another key":                          {kmstest.GCPAnswerForOtherKey, true, false},
	} {
		s, k, wrapped := gcpOpen(t)
		wrap := func() ([]byte, error) { return k.Wrap(t.Context(), []byte("key material"), ad) }
		unwrap := func() ([]byte, error) { return k.Unwrap(t.Context(), wrapped, ad) }
		cases.Go(func() {
			for call, do := range map[string]func() ([]byte, error){"Wrap": wrap, "Unwrap": unwrap} {
				if call == "Wrap" && !test.wrap || call == "Unwrap" && !test.unwrap {
					continue
				}
				s.Damage(test.damage, 1)
				before := s.Calls()
				if b, err := do(); len(b) == 0 || err != nil || s.Calls() != before+2 {
					t.Errorf("%s, once: %s: %d bytes, %v after %d calls, want success after 2", name, call, len(b), err, s.Calls()-before)
				}
				s.Damage(test.damage, 1<<30)
				if b, err := do(); b != nil || !errors.Is(err, kms.ErrUnavailable) || errors.Is(err, kms.ErrCorrupt) {
					t.Errorf("%s, always: %s: %d bytes, %v, want ErrUnavailable", name, call, len(b), err)
				}
				s.Damage(0, 0)
			}
		})
	}
}

// TestGCPChangedAtRest: what the database damaged shows without a call.
func TestGCPChangedAtRest(t *testing.T) {
	t.Parallel()
	s, k, wrapped := gcpOpen(t)
	before := s.Calls()
	for i := range wrapped {
		wrapped[i] ^= 0x10
		if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(err, kms.ErrCorrupt) {
			t.Fatalf("byte %d changed: %v, want ErrCorrupt", i, err)
		}
		wrapped[i] ^= 0x10
	}
	if n := s.Calls() - before; n != 0 {
		t.Errorf("%d calls, want none", n)
	}
}

func TestGCPErrors(t *testing.T) {
	t.Parallel()
	var cases sync.WaitGroup // they wait more than they work
	defer cases.Wait()
	for _, test := range []struct {
		code         codes.Code
		wrap, unwrap error // nil: misuse
		quoted       bool
	}{
		{codes.PermissionDenied, kms.ErrDenied, kms.ErrDenied, true},
		{codes.Unauthenticated, kms.ErrDenied, kms.ErrDenied, true},
		{codes.NotFound, kms.ErrDenied, kms.ErrDenied, true},
		{codes.FailedPrecondition, kms.ErrDenied, kms.ErrDenied, true},
		{codes.InvalidArgument, nil, kms.ErrCorrupt, false},
		{codes.Unimplemented, nil, nil, false},
		{codes.Unavailable, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{codes.Internal, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{codes.Aborted, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{codes.Unknown, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{codes.DeadlineExceeded, kms.ErrUnavailable, kms.ErrUnavailable, false},
		{codes.Canceled, kms.ErrUnavailable, kms.ErrUnavailable, false},
	} {
		s, k, wrapped := gcpOpen(t)
		cases.Go(func() {
			s.Refuse(status.Error(test.code, "says the service"))
			before := s.Calls()
			_, wrapErr := k.Wrap(t.Context(), []byte("key material"), ad)
			_, unwrapErr := k.Unwrap(t.Context(), wrapped, ad)
			for call, got := range map[string]struct{ err, want error }{"Wrap": {wrapErr, test.wrap}, "Unwrap": {unwrapErr, test.unwrap}} {
				if kind := kindOf(got.err); got.err == nil || !errors.Is(kind, got.want) || got.want == nil && kind != nil {
					t.Errorf("%v: %s: %v, want %v", test.code, call, got.err, got.want)
				}
				if quoted := strings.Contains(fmt.Sprint(got.err), "says the service"); quoted != test.quoted {
					t.Errorf("%v: %s: %v: quotes the service: %v", test.code, call, got.err, quoted)
				}
			}
			if n := s.Calls() - before; n != map[bool]int{true: 8, false: 2}[errors.Is(test.wrap, kms.ErrUnavailable)] {
				t.Errorf("%v: %d calls, want one for each, or four where that may help", test.code, n)
			}
		})
	}
}

// TestGCPCredentials: what the SDK can't use is the operator's to put right, and is never quoted.
func TestGCPCredentials(t *testing.T) {
	t.Parallel()
	s := kmstest.NewGCPServer(t)
	uri := gcpCreate(t, s)
	asked := errors.New("the secret store is down")
	for text, want := range map[string]error{
		"":                   kms.ErrDenied,
		"hunter2":            kms.ErrDenied,
		`{"type":"hunter2"}`: kms.ErrDenied,
		`{"type":"service_account","private_key":"hunter2"}`: kms.ErrDenied,
	} {
		o := s.Options()
		o.GCP.Credentials = func() ([]byte, error) { return []byte(text), nil }
		k, err := kms.Open(t.Context(), uri, o)
		if k != nil || !errors.Is(err, want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open with %q: %v, %v, want %v and no quotation", text, k, err, want)
		}
	}
	o := s.Options()
	o.GCP.Credentials = func() ([]byte, error) { return nil, asked }
	if _, err := kms.Open(t.Context(), uri, o); !errors.Is(err, asked) {
		t.Errorf("Open = %v, want the error of Credentials", err)
	}
}

// TestGCPTokens: a token endpoint that is down is an outage, and one that refuses is not.
func TestGCPTokens(t *testing.T) {
	t.Parallel()
	s := kmstest.NewGCPServer(t)
	uri := gcpCreate(t, s)
	subject := filepath.Join(t.TempDir(), "subject")
	if err := os.WriteFile(subject, []byte("subject token"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, test := range map[string]struct {
		url      string
		patience time.Duration // what is down is asked again and again until then
		want     error
	}{
		"down":     {tokenEndpoint(t, http.StatusServiceUnavailable), 2 * time.Second, kms.ErrUnavailable},
		"refusing": {tokenEndpoint(t, http.StatusBadRequest), time.Minute, kms.ErrDenied},
		"gone":     {gone.URL, 2 * time.Second, kms.ErrUnavailable},
	} {
		o := s.Options()
		o.GCP.Credentials = func() ([]byte, error) {
			return json.Marshal(map[string]any{
				"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
				"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": test.url,
				"credential_source": map[string]string{"file": subject},
			})
		}
		k, err := closing(t, uri, o)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), test.patience)
		_, err = k.Wrap(ctx, []byte("key material"), ad)
		cancel()
		if !errors.Is(kindOf(err), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: Wrap: %v, want %v and no quotation", name, err, test.want)
		}
	}
}

// tokenEndpoint answers every request with code.
func tokenEndpoint(t *testing.T, code int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"hunter2"}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}
