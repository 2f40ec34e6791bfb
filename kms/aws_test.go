//go:build !nocloud

package kms_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

// awsWorld is a Provider over two keys of a wire-level KMS.
func awsWorld(t *testing.T) (kmstest.Provider, *kmstest.AWSServer, string) {
	t.Helper()
	s := kmstest.NewAWSServer(t)
	ours, theirs := awsCreate(t, s, "eu-central-1", false), awsCreate(t, s, "eu-central-1", false)
	return kmstest.Provider{
		Open:    func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, ours, s.Options()) },
		Foreign: func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, theirs, s.Options()) },
		Rotate:  func() error { return s.Rotate(awsARN(ours)) },
		Delete:  func() error { s.SetState(awsARN(ours), "PendingDeletion"); return nil },
		Disable: func(on bool) error {
			s.SetState(awsARN(ours), map[bool]string{true: "Disabled", false: "Enabled"}[on])
			return nil
		},
		Outage:   func(on bool) error { s.SetDown(on); return nil },
		Stall:    func(on bool) error { s.SetStalled(on); return nil },
		Throttle: func(calls int) error { s.Throttle(calls); return nil },
	}, s, ours
}

func awsARN(uri string) string { return strings.TrimPrefix(uri, "aws-kms://") }

// awsCreate makes a key and returns its URI.
func awsCreate(t *testing.T, s *kmstest.AWSServer, region string, multiRegion bool) string {
	t.Helper()
	arn, err := s.Create(region, multiRegion)
	if err != nil {
		t.Fatal(err)
	}
	return "aws-kms://" + arn
}

func TestAWS(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		p, _, _ := awsWorld(t)
		return p
	})
}

// TestAWSService tells the stories of AWS KMS itself, with what the SDK's default chain finds for credentials, where
// the URIs of two keys are given. Where they aren't, TestAWS tells the same ones at the wire.
func TestAWSService(t *testing.T) {
	ours, theirs := os.Getenv("PRIVAULT_TEST_AWS_KEY"), os.Getenv("PRIVAULT_TEST_AWS_FOREIGN_KEY")
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

func TestAWSBadURI(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234"
	for _, uri := range []string{
		"aws-kms:", "aws-kms://", "aws-kms:" + arn, "aws-kms:///" + arn, "aws-kms://" + arn + "?endpoint=http://hunter2",
		"aws-kms://arn:aws:kms:eu-central-1:111122223333:alias/hunter2", "aws-kms://" + arn + "/hunter2", "aws-kms://" + arn + "\n",
		"aws-kms://arn:aws:kms:hunter2.example:111122223333:key/1", "aws-kms://arn:aws:s3:eu-central-1:111122223333:key/1",
		"aws-kms://arn:aws:kms:eu-central-1::key/1", "aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab",
	} {
		key, err := kms.Open(t.Context(), uri, kms.Options{})
		if err == nil || key != nil || errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q) = %v, %v, want a misuse error without the URI", uri, key, err)
		}
	}
	for _, endpoint := range []string{
		"http://kms.example", "kms.example", "https://", "https://user:hunter2@kms.example", "https://kms.example?hunter2",
		"http://127.0.0.1.example", "ftp://localhost", "https://kms.example#hunter2", "http://localhost\nhunter2",
	} {
		key, err := kms.Open(t.Context(), "aws-kms://"+arn, kms.Options{AWS: kms.AWSOptions{Endpoint: endpoint}})
		if err == nil || key != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("endpoint %q: Open = %v, %v, want an error without it", endpoint, key, err)
		}
	}
}

// TestAWSDefaultChain: with nothing given but a Region and an endpoint, the SDK signs with what it finds.
func TestAWSDefaultChain(t *testing.T) {
	s := kmstest.NewAWSServer(t)
	given := s.Options()
	credentials, err := given.AWS.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", credentials.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", credentials.SecretAccessKey)
	t.Setenv("AWS_REGION", "us-west-2") // not that of the key
	t.Setenv("AWS_MAX_ATTEMPTS", "9")   // retries stay ours
	uri := awsCreate(t, s, "eu-central-1", false)
	k := mustOpen(t, uri, kms.Options{AWS: kms.AWSOptions{Endpoint: s.URL}})
	wantUnwrapped(t, k, mustWrap(t, k, "key material"), "key material")
	s.Answer(awsAnswer(http.StatusBadRequest, "ThrottlingException"))
	before := s.Calls()
	if _, err := k.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(err, kms.ErrUnavailable) || s.Calls()-before != 4 {
		t.Errorf("Wrap = %v after %d calls, want ErrUnavailable after 4", err, s.Calls()-before)
	}
}

func TestAWSCredentials(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	uri := awsCreate(t, s, "eu-central-1", false)
	o := s.Options()
	cause := errors.New("the file is gone")
	for name, credentials := range map[string]func() (kms.AWSCredentials, error){
		"none to be had": func() (kms.AWSCredentials, error) { return kms.AWSCredentials{}, cause },
		"empty":          func() (kms.AWSCredentials, error) { return kms.AWSCredentials{}, nil },
		"another's": func() (kms.AWSCredentials, error) {
			return kms.AWSCredentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		},
		"with spare slash": func() (kms.AWSCredentials, error) {
			return kms.AWSCredentials{AccessKeyID: "a/b", SecretAccessKey: "b"}, nil
		},
	} {
		o.AWS.Credentials = credentials
		_, err := mustOpen(t, uri, o).Wrap(t.Context(), []byte("key material"), ad)
		if !errors.Is(err, kms.ErrDenied) || name == "none to be had" && !errors.Is(err, cause) {
			t.Errorf("%s: Wrap = %v, want ErrDenied", name, err)
		}
	}
}

// TestAWSMultiRegion: a replica opens what the primary wrapped, and a key of one Region isn't there in another.
func TestAWSMultiRegion(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	uri := awsCreate(t, s, "eu-central-1", true)
	arn, err := s.Replicate(awsARN(uri), "us-east-1")
	if err != nil {
		t.Fatal(err)
	}
	primary, replica := mustOpen(t, uri, s.Options()), mustOpen(t, "aws-kms://"+arn, s.Options())
	wantUnwrapped(t, replica, mustWrap(t, primary, "key material"), "key material")
	wantUnwrapped(t, primary, mustWrap(t, replica, "key material"), "key material")

	local := awsCreate(t, s, "eu-central-1", false)
	elsewhere := mustOpen(t, strings.Replace(local, "eu-central-1", "us-east-1", 1), s.Options())
	if _, err := elsewhere.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("Wrap with a key of another Region = %v, want ErrDenied", err)
	}
}

// awsAnswer is an error answer; an empty code leaves its type out.
func awsAnswer(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if code != "" {
			w.Header().Set("X-Amzn-Errortype", "com.amazonaws.kms#"+code+":http://internal.amazon.com/")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, `{"message":"canary"}`)
	}
}

// awsCall is one of a server of its own.
func awsCall(t *testing.T, answer http.HandlerFunc) call {
	t.Helper()
	s := kmstest.NewAWSServer(t)
	k := mustOpen(t, awsCreate(t, s, "eu-central-1", false), s.Options())
	c := call{key: k, wrapped: mustWrap(t, k, "key material")}
	before := s.Calls()
	c.count = func() int { return s.Calls() - before }
	s.Answer(answer)
	return c
}

func TestAWSErrors(t *testing.T) {
	t.Parallel()
	kinds := []error{kms.ErrCorrupt, kms.ErrDenied, kms.ErrUnavailable}
	var calls []call
	tests := []struct {
		status int
		code   string
		want   error // nil: misuse
	}{
		{http.StatusBadRequest, "InvalidCiphertextException", kms.ErrCorrupt},
		{http.StatusBadRequest, "IncorrectKeyException", kms.ErrCorrupt},
		{http.StatusBadRequest, "AccessDeniedException", kms.ErrDenied},
		{http.StatusBadRequest, "DisabledException", kms.ErrDenied},
		{http.StatusBadRequest, "KMSInvalidStateException", kms.ErrDenied},
		{http.StatusBadRequest, "NotFoundException", kms.ErrDenied},
		{http.StatusBadRequest, "InvalidKeyUsageException", kms.ErrDenied},
		{http.StatusBadRequest, "ExpiredTokenException", kms.ErrDenied},
		{http.StatusForbidden, "SignatureDoesNotMatch", kms.ErrDenied},
		{http.StatusBadRequest, "", kms.ErrDenied},
		{http.StatusBadRequest, "ThrottlingException", kms.ErrUnavailable},
		{http.StatusServiceUnavailable, "DependencyTimeoutException", kms.ErrUnavailable},
		{http.StatusInternalServerError, "KMSInternalException", kms.ErrUnavailable},
		{http.StatusInternalServerError, "KeyUnavailableException", kms.ErrUnavailable},
		{http.StatusBadGateway, "", kms.ErrUnavailable},
		{http.StatusTooManyRequests, "", kms.ErrUnavailable},
		{http.StatusBadRequest, "ValidationException", nil},
	}
	for _, test := range tests {
		calls = append(calls, awsCall(t, awsAnswer(test.status, test.code)))
	}
	atOnce(t, calls)
	for i, test := range tests {
		c := calls[i]
		for _, kind := range kinds {
			if errors.Is(c.wrapErr, kind) != errors.Is(kind, test.want) || errors.Is(c.unwrapErr, kind) != errors.Is(kind, test.want) {
				t.Errorf("%d %s: Wrap = %v, Unwrap = %v, want %v", test.status, test.code, c.wrapErr, c.unwrapErr, test.want)
			}
		}
		if c.wrapErr == nil || c.unwrapErr == nil {
			t.Fatalf("%d %s: no error", test.status, test.code)
		}
		if n := c.count(); (n > 2) != errors.Is(test.want, kms.ErrUnavailable) {
			t.Errorf("%d %s: %d calls: what may pass is tried again, and nothing else", test.status, test.code, n)
		}
		if strings.Contains(c.unwrapErr.Error(), "canary") != (test.code == "AccessDeniedException") {
			t.Errorf("%d %s: %v: only a missing permission is explained in the words of KMS", test.status, test.code, c.unwrapErr)
		}
	}
}

// TestAWSStrangeAnswers: whatever stands between us and KMS is an outage, not corruption and not a key.
func TestAWSStrangeAnswers(t *testing.T) {
	t.Parallel()
	var calls []call
	answers := []struct {
		status int
		body   string
	}{
		{http.StatusOK, ""}, {http.StatusOK, "{}"}, {http.StatusOK, "<html>canary"}, {http.StatusOK, `{"Plaintext":"","CiphertextBlob":""}`},
		{http.StatusOK, `{"Plaintext":"?","CiphertextBlob":"?"}`}, {http.StatusBadGateway, "<html>canary"}, {http.StatusForbidden, "<html>canary"},
	}
	for _, answer := range answers {
		calls = append(calls, awsCall(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(answer.status)
			fmt.Fprint(w, answer.body)
		}))
	}
	atOnce(t, calls)
	for i, answer := range answers {
		for name, err := range map[string]error{"Wrap": calls[i].wrapErr, "Unwrap": calls[i].unwrapErr} {
			if !errors.Is(err, kms.ErrUnavailable) || errors.Is(err, kms.ErrCorrupt) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%d %q: %s = %v, want ErrUnavailable", answer.status, answer.body, name, err)
			}
		}
	}
}

// TestAWSCancelledInTheLastAttempt: what earlier attempts ran into doesn't turn a cancellation into an outage.
func TestAWSCancelledInTheLastAttempt(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	k := mustOpen(t, awsCreate(t, s, "eu-central-1", false), s.Options())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calls atomic.Int64
	s.Answer(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 4 {
			awsAnswer(http.StatusInternalServerError, "KMSInternalException")(w, r)
			return
		}
		cancel()
		<-r.Context().Done()
	})
	_, err := k.Wrap(ctx, []byte("key material"), ad)
	if !errors.Is(err, context.Canceled) || errors.Is(err, kms.ErrUnavailable) {
		t.Errorf("Wrap = %v, want context.Canceled alone", err)
	}
}

// TestAWSRewrap: KMS does it by itself, and where we may not ask it to, we do.
func TestAWSRewrap(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	k := mustOpen(t, awsCreate(t, s, "eu-central-1", false), s.Options())
	wrapped := mustWrap(t, k, "key material")
	if err := s.Rotate(awsARN(k.URI())); err != nil {
		t.Fatal(err)
	}
	rewrap := func(want int) {
		t.Helper()
		before := s.Calls()
		got, err := kms.Rewrap(t.Context(), k, wrapped, ad)
		if err != nil {
			t.Fatalf("Rewrap: %v", err)
		}
		if n := s.Calls() - before; n != want {
			t.Errorf("%d calls, want %d", n, want)
		}
		wantUnwrapped(t, k, got, "key material")
	}
	rewrap(1)
	s.Forbid("ReEncrypt", true)
	rewrap(3) // ReEncrypt, Decrypt, Encrypt
}
