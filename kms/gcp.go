//go:build !nocloud

package kms

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/compute/metadata"
	gcpkms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// gcpLayout begins what a gcpKey wraps; the next four bytes are the CRC-32C of the ciphertext as Cloud KMS stated it
// (big-endian), and the rest is the ciphertext. So one checksum holds from Cloud KMS through the database and back to
// Cloud KMS, and what the database damaged is known for that without a call. It guards against accidents; against
// everyone else the ciphertext is authenticated.
const (
	gcpLayout = 1
	gcpHeader = 5
)

// gcpReconnect is the longest pause between two attempts to connect. That of gRPC, two minutes, would prolong every
// outage by as much.
const gcpReconnect = 5 * time.Second

// gcpName wants a key and no version: Cloud KMS wraps with the primary one, and knows by itself what to unwrap with.
var gcpName = regexp.MustCompile(`^projects/[a-zA-Z0-9.:_-]+(/locations/[a-zA-Z0-9-]+/keyRings/[a-zA-Z0-9_-]+/cryptoKeys/[a-zA-Z0-9_-]+)$`)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// gcpKey names its key in every call. Both checksums of each request are sent, and all of each answer are checked;
// where one is wrong, the wire is to blame, and the call is made again.
type gcpKey struct {
	name   string
	suffix string // the name without its project, which an answer may give by number
	client *gcpkms.KeyManagementClient
}

// openGCP calls nobody, unless the SDK has to ask whether this is a machine of Google's: that the key is there and
// ours to use shows with the first call. The connection is made then, too, and kept for as long as the process runs.
func openGCP(ctx context.Context, uri string, o Options) (Key, error) {
	name := strings.TrimPrefix(uri, "gcp-kms://")
	match := gcpName.FindStringSubmatch(name)
	if match == nil || name == uri {
		return nil, errors.New("gcp-kms URI: want gcp-kms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, without a version")
	}
	client, err := o.GCP.client(ctx)
	if err != nil {
		return nil, err
	}
	return &gcpKey{name: name, suffix: match[1], client: client}, nil
}

// client leaves retries to us, those of the SDK and of gRPC. It logs nothing: at the debug level, which an environment
// variable sets, the SDK writes whole requests.
func (o GCPOptions) client(ctx context.Context) (*gcpkms.KeyManagementClient, error) {
	silent := slog.New(slog.DiscardHandler)
	creds, err := o.credentials(silent)
	if err != nil {
		return nil, err
	}
	opts := []option.ClientOption{
		option.WithAuthCredentials(creds),
		option.WithLogger(silent),
		option.WithGRPCDialOption(grpc.WithDisableRetry()),
		option.WithGRPCDialOption(grpc.WithDisableServiceConfig()),
		option.WithGRPCDialOption(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: gcpReconnect},
			MinConnectTimeout: attemptTime,
		})),
	}
	if o.Endpoint != "" {
		if err := checkEndpoint(o.Endpoint); err != nil {
			return nil, fmt.Errorf("GCP endpoint: %w", err)
		}
		scheme, host, _ := strings.Cut(o.Endpoint, "://")
		opts = append(opts, option.WithEndpoint(host))
		if scheme == "http" {
			opts = append(opts, option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
		}
	}
	client, err := gcpkms.NewKeyManagementClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("GCP client: %w", err)
	}
	client.CallOptions.Encrypt, client.CallOptions.Decrypt = nil, nil
	return client, nil
}

// credentials drops the SDK's errors where they may quote what Credentials returned.
func (o GCPOptions) credentials(log *slog.Logger) (*auth.Credentials, error) {
	detect := &credentials.DetectOptions{
		Scopes:           gcpkms.DefaultAuthScopes(),
		UseSelfSignedJWT: true,
		Client:           &http.Client{Transport: tokenTransport{}},
		Logger:           log,
	}
	if o.Credentials == nil {
		found, err := credentials.DetectDefault(detect)
		if err != nil {
			return nil, fmt.Errorf("%w: GCP credentials: %w", ErrDenied, err)
		}
		return withTokenErrors(found), nil
	}
	text, err := o.Credentials()
	if err != nil {
		return nil, fmt.Errorf("GCP credentials: %w", err)
	}
	var file struct {
		Type credentials.CredType `json:"type"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%w: GCP credentials: not JSON", ErrDenied)
	}
	found, err := credentials.NewCredentialsFromJSON(file.Type, text, detect)
	if err != nil {
		return nil, fmt.Errorf("%w: GCP credentials: nothing that the SDK can use", ErrDenied)
	}
	return withTokenErrors(found), nil
}

// withTokenErrors has c tell tokens that are refused from tokens that can't be had. gRPC passes on the code of a
// status, and makes Unauthenticated of all other errors, even of an outage.
func withTokenErrors(c *auth.Credentials) *auth.Credentials {
	return auth.NewCredentials(&auth.CredentialsOptions{
		TokenProvider:          gcpTokens{c.TokenProvider},
		QuotaProjectIDProvider: auth.CredentialsPropertyFunc(c.QuotaProjectID),
		UniverseDomainProvider: auth.CredentialsPropertyFunc(c.UniverseDomain),
	})
}

type gcpTokens struct{ auth.TokenProvider }

// Token quotes no answer: it could hold a token. Where others are at the endpoint already, the SDK waits for them.
func (p gcpTokens) Token(ctx context.Context) (*auth.Token, error) {
	token, err := promptly(ctx, p.TokenProvider.Token)
	if err == nil {
		return token, nil
	}
	var network net.Error
	var machine *metadata.Error
	if ctx.Err() != nil || errors.As(err, &network) || errors.As(err, &machine) && outage(machine.Code) {
		return nil, status.Error(codes.Unavailable, "no token: the endpoint for tokens is out of reach")
	}
	return nil, status.Error(codes.Unauthenticated, "no token: the credentials are refused")
}

// tokenTransport makes a net.Error of an outage, because what the SDK makes of one is text.
type tokenTransport struct{}

func (tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && outage(answer.StatusCode) {
		_ = answer.Body.Close()
		return nil, &net.OpError{Op: "token", Err: fmt.Errorf("HTTP status %d", answer.StatusCode)}
	}
	return answer, err
}

func (k *gcpKey) URI() string { return "gcp-kms://" + k.name }

// Close ends the connection. Only tests have a use for it.
func (k *gcpKey) Close() error { return k.client.Close() }

// Wrap needs cloudkms.cryptoKeyVersions.useToEncrypt.
func (k *gcpKey) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := checkWrap(ctx, plaintext, ad); err != nil {
		return nil, err
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		r, err := k.client.Encrypt(ctx, &kmspb.EncryptRequest{
			Name:                              k.name,
			Plaintext:                         plaintext,
			PlaintextCrc32C:                   checksum(plaintext),
			AdditionalAuthenticatedData:       ad,
			AdditionalAuthenticatedDataCrc32C: checksum(ad),
		})
		switch {
		case err != nil:
			return nil, gcpError("Encrypt", err, nil)
		case !r.GetVerifiedPlaintextCrc32C() || !r.GetVerifiedAdditionalAuthenticatedDataCrc32C():
			return nil, fmt.Errorf("%w: Encrypt: a checksum got lost on the way", ErrUnavailable)
		case !matches(r.GetCiphertext(), r.GetCiphertextCrc32C()):
			return nil, fmt.Errorf("%w: Encrypt: the answer doesn't match its checksum", ErrUnavailable)
		case !strings.Contains(r.GetName(), k.suffix+"/cryptoKeyVersions/"):
			return nil, fmt.Errorf("%w: Encrypt: answered for another key", ErrUnavailable)
		case len(r.GetCiphertext()) > MaxWrapped-gcpHeader:
			return nil, fmt.Errorf("%w: Encrypt: answered with %d bytes of ciphertext", ErrUnavailable, len(r.GetCiphertext()))
		}
		wrapped := binary.BigEndian.AppendUint32([]byte{gcpLayout}, uint32(r.GetCiphertextCrc32C().GetValue()))
		return append(wrapped, r.GetCiphertext()...), nil
	})
}

// Unwrap needs cloudkms.cryptoKeyVersions.useToDecrypt.
func (k *gcpKey) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	if len(wrapped) <= gcpHeader || wrapped[0] != gcpLayout {
		return nil, fmt.Errorf("%w: not of a layout that a gcp-kms key writes", ErrCorrupt)
	}
	ciphertext := wrapped[gcpHeader:]
	stated := wrapperspb.Int64(int64(binary.BigEndian.Uint32(wrapped[1:])))
	if !matches(ciphertext, stated) {
		return nil, fmt.Errorf("%w: changed since it was written", ErrCorrupt)
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		r, err := k.client.Decrypt(ctx, &kmspb.DecryptRequest{
			Name:                              k.name,
			Ciphertext:                        ciphertext,
			CiphertextCrc32C:                  stated,
			AdditionalAuthenticatedData:       ad,
			AdditionalAuthenticatedDataCrc32C: checksum(ad),
		})
		switch {
		case err != nil:
			return nil, gcpError("Decrypt", err, ErrCorrupt)
		case len(r.GetPlaintext()) == 0:
			return nil, fmt.Errorf("%w: Decrypt: answered without a plaintext", ErrUnavailable)
		case !matches(r.GetPlaintext(), r.GetPlaintextCrc32C()):
			return nil, fmt.Errorf("%w: Decrypt: the answer doesn't match its checksum", ErrUnavailable)
		}
		return r.GetPlaintext(), nil
	})
}

func checksum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// matches refuses an absent checksum too.
func matches(b []byte, stated *wrapperspb.Int64Value) bool {
	return stated != nil && stated.GetValue() == int64(crc32.Checksum(b, castagnoli))
}

// gcpPermissions are what the calls need. Cloud KMS says the same of a key that isn't there to callers who may not know.
var gcpPermissions = map[string]string{
	"Encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
	"Decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt",
}

// gcpError takes invalid for the kind of an argument that Cloud KMS doesn't like; nil is misuse. It quotes Cloud KMS
// only where an operator has to know which permission is missing, or which version is disabled.
func gcpError(call string, err error, invalid error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.PermissionDenied:
		return permissionError{gcpPermissions[call], fmt.Errorf("%w: %s: %s: %.400s", ErrDenied, call, s.Code(), s.Message())}
	case codes.Unauthenticated, codes.NotFound, codes.FailedPrecondition:
		return fmt.Errorf("%w: %s: %s: %.400s", ErrDenied, call, s.Code(), s.Message())
	case codes.InvalidArgument:
		// A request that was damaged on its way is no fault of what was wrapped.
		if text := strings.ToLower(s.Message()); strings.Contains(text, "crc32c") || strings.Contains(text, "checksum") {
			return fmt.Errorf("%w: %s: the request didn't match its checksum", ErrUnavailable, call)
		}
		if invalid != nil {
			return fmt.Errorf("%w: %s: %s", invalid, call, s.Code())
		}
		return fmt.Errorf("%s: %s", call, s.Code())
	case codes.OutOfRange, codes.Unimplemented, codes.AlreadyExists:
		return fmt.Errorf("%s: %s", call, s.Code())
	}
	return fmt.Errorf("%w: %s: %s", ErrUnavailable, call, s.Code())
}
