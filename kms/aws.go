//go:build !nocloud

package kms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// awsContextKey is the name under which associated data goes into the encryption context, base64 in its standard
// form. What was wrapped opens under this name only, so it never changes. KMS checks the context byte for byte and
// writes it to CloudTrail in the clear.
const awsContextKey = "privault-ad"

// awsARN wants a key and not an alias: an alias can be pointed at another key, and what the first one wrapped would no
// longer open. The Region becomes part of a host name.
var awsARN = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z][a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+$`)

// awsKey names its key in every call, Decrypt and ReEncrypt included. So a wrapped key can't choose what opens it, and
// a multi-Region key opens what any of its replicas wrapped.
type awsKey struct {
	arn    string
	client *awskms.Client
}

// openAWS calls nobody: that the key is there and ours to use shows with the first call.
func openAWS(ctx context.Context, uri string, o Options) (Key, error) {
	arn := strings.TrimPrefix(uri, "aws-kms://")
	match := awsARN.FindStringSubmatch(arn)
	if match == nil || arn == uri {
		return nil, errors.New("aws-kms URI: want aws-kms://ARN with the ARN of a key, and not of an alias")
	}
	client, err := o.AWS.client(ctx, match[1])
	if err != nil {
		return nil, err
	}
	return &awsKey{arn: arn, client: client}, nil
}

// client leaves retries to us: the SDK's take 2 s after the first throttle.
func (o AWSOptions) client(ctx context.Context, region string) (*awskms.Client, error) {
	if o.Endpoint != "" {
		if err := checkEndpoint(o.Endpoint); err != nil {
			return nil, fmt.Errorf("AWS endpoint: %w", err)
		}
	}
	c := aws.Config{Credentials: aws.CredentialsProviderFunc(o.retrieve)}
	if o.Credentials == nil {
		var err error
		if c, err = config.LoadDefaultConfig(ctx, config.WithRegion(region)); err != nil {
			return nil, fmt.Errorf("%w: AWS configuration: %w", ErrDenied, err)
		}
	}
	c.Region = region
	c.Credentials = classified{c.Credentials}
	return awskms.NewFromConfig(c, func(s *awskms.Options) {
		s.Retryer = aws.NopRetryer{}
		if o.Endpoint != "" {
			s.BaseEndpoint = &o.Endpoint
		}
	}), nil
}

func (o AWSOptions) retrieve(context.Context) (aws.Credentials, error) {
	c, err := o.Credentials()
	if err != nil {
		return aws.Credentials{}, err
	}
	return aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}, nil
}

// classified tells a KMS that refuses us from credentials that can't be had: the chain may have to call STS or a
// metadata service for them, whose errors look like those of KMS.
type classified struct{ aws.CredentialsProvider }

func (c classified) Retrieve(ctx context.Context) (aws.Credentials, error) {
	got, err := c.CredentialsProvider.Retrieve(ctx)
	if err == nil {
		return got, nil
	}
	kind := ErrDenied
	var api smithy.APIError
	var network net.Error
	if errors.As(err, &api) {
		kind = awsKind(api.ErrorCode(), statusOf(err))
	} else if errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) {
		kind = ErrUnavailable
	}
	if kind == nil {
		kind = ErrDenied
	}
	return got, fmt.Errorf("%w: AWS credentials: %w", kind, err)
}

func (k *awsKey) URI() string { return "aws-kms://" + k.arn }

// Wrap needs kms:Encrypt.
func (k *awsKey) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := checkWrap(ctx, plaintext, ad); err != nil {
		return nil, err
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		out, err := k.client.Encrypt(ctx, &awskms.EncryptInput{
			KeyId: &k.arn, Plaintext: plaintext, EncryptionContext: encryptionContext(ad),
		})
		if err != nil {
			return nil, awsError("Encrypt", err)
		}
		return awsWrapped("Encrypt", out.CiphertextBlob)
	})
}

// Unwrap needs kms:Decrypt.
func (k *awsKey) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		out, err := k.client.Decrypt(ctx, &awskms.DecryptInput{
			KeyId: &k.arn, CiphertextBlob: wrapped, EncryptionContext: encryptionContext(ad),
		})
		if err != nil {
			return nil, awsError("Decrypt", err)
		}
		if len(out.Plaintext) == 0 {
			return nil, fmt.Errorf("%w: Decrypt answered without a plaintext", ErrUnavailable)
		}
		return out.Plaintext, nil
	})
}

// rewrap needs kms:ReEncryptFrom and kms:ReEncryptTo on the key.
func (k *awsKey) rewrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		out, err := k.client.ReEncrypt(ctx, &awskms.ReEncryptInput{
			CiphertextBlob: wrapped,
			SourceKeyId:    &k.arn, SourceEncryptionContext: encryptionContext(ad),
			DestinationKeyId: &k.arn, DestinationEncryptionContext: encryptionContext(ad),
		})
		if err != nil {
			return nil, awsError("ReEncrypt", err)
		}
		return awsWrapped("ReEncrypt", out.CiphertextBlob)
	})
}

func encryptionContext(ad []byte) map[string]string {
	return map[string]string{awsContextKey: base64.StdEncoding.EncodeToString(ad)}
}

// awsWrapped refuses an answer that no Unwrap would take: the SDK makes an empty result of an empty body.
func awsWrapped(call string, blob []byte) ([]byte, error) {
	if len(blob) == 0 || len(blob) > MaxWrapped {
		return nil, fmt.Errorf("%w: %s answered with %d bytes of ciphertext", ErrUnavailable, call, len(blob))
	}
	return blob, nil
}

// awsPermissions are what the calls need.
var awsPermissions = map[string]string{
	"Encrypt":   "kms:Encrypt",
	"Decrypt":   "kms:Decrypt",
	"ReEncrypt": "kms:ReEncryptFrom and kms:ReEncryptTo",
}

// awsError names the code of what KMS answered, and quotes KMS only where it says which permission is missing: its
// other messages may hold whole requests.
func awsError(call string, err error) error {
	if errors.Is(err, ErrDenied) || errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("%s: %w", call, err)
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	detail := api.ErrorCode()
	if detail == "AccessDeniedException" {
		err := fmt.Errorf("%w: %s: %s: %.400s", ErrDenied, call, detail, api.ErrorMessage())
		return permissionError{awsPermissions[call], err}
	}
	kind := awsKind(api.ErrorCode(), statusOf(err))
	if kind == nil {
		return fmt.Errorf("%s: %s", call, detail)
	}
	return fmt.Errorf("%w: %s: %s", kind, call, detail)
}

func statusOf(err error) int {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// awsKind is nil for misuse. AccessDeniedException stays ErrDenied whatever its message blames: that "the ciphertext
// refers to a customer master key that does not exist" is also what a caller reads who lost a permission.
func awsKind(code string, status int) error {
	switch code {
	case "InvalidCiphertextException", "IncorrectKeyException":
		return ErrCorrupt
	case "ValidationException", "SerializationException":
		return nil
	case "ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException", "LimitExceededException",
		"KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException",
		"InternalFailure", "ServiceUnavailable", "ServiceUnavailableException":
		return ErrUnavailable
	}
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return ErrUnavailable
	}
	return ErrDenied
}
