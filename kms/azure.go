//go:build !nocloud

package kms

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// What an azureKey wraps. Azure's wrapKey binds no associated data, so the vault key wraps a content key that is
// drawn for this one call, and that seals the key material:
//
//	bytes  0       layout, azureLayout
//	bytes  1       algorithm of the vault key: 1 is RSA-OAEP-256, 2 is A256KW
//	bytes  2-17    version of the vault key, which is 32 hexadecimal digits; so a rotated key still unwraps
//	bytes 18-19    n, the length of the wrapped content key, big-endian
//	n bytes        the content key (32 bytes), wrapped by the vault key
//	12 bytes       nonce
//	the rest       the key material in AES-256-GCM under the content key, with its tag of 16 bytes
//
// GCM's associated data is all that stands before the nonce, then the length of the key's URI (two bytes, big-endian),
// the URI, and the caller's associated data.
const (
	azureLayout  = 1
	azureHeader  = 20
	azureVersion = 16
	contentKey   = 32
)

// azureAlgorithms is indexed by what byte 1 says.
var azureAlgorithms = map[byte]azkeys.EncryptionAlgorithm{
	1: azkeys.EncryptionAlgorithmRSAOAEP256,
	2: azkeys.EncryptionAlgorithmA256KW,
}

// azureURI wants a key and no version. Names are of any case, and mean the same.
var azureURI = regexp.MustCompile(`^azure-kv://([a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+)/keys/([a-zA-Z0-9-]{1,127})$`)

// azureKey is a key of Azure Key Vault or of a Managed HSM.
//
// With an RSA key, RSA-OAEP says nothing about who wrapped: whoever can read the public key, and write to our
// database, can put key material of his own in the place of ours. The oct-HSM key of a Managed HSM rules that out.
type azureKey struct {
	uri       string
	id        string // what the key ids in answers begin with
	name      string
	algorithm byte
	client    *azkeys.Client
}

// openAzure asks the vault for the type of the key (permission: keys/get), which decides the algorithm.
func openAzure(ctx context.Context, uri string, o Options) (Key, error) {
	match := azureURI.FindStringSubmatch(uri)
	if match == nil {
		return nil, errors.New("azure-kv URI: want azure-kv://HOST/keys/NAME, without a version")
	}
	host, name := strings.ToLower(match[1]), strings.ToLower(match[2])
	client, err := o.Azure.client(host)
	if err != nil {
		return nil, err
	}
	k := &azureKey{uri: "azure-kv://" + host + "/keys/" + name, id: "https://" + host + "/keys/" + name + "/", name: name, client: client}
	kind, err := retry(ctx, func(ctx context.Context) ([]byte, error) { return promptly(ctx, k.kind) })
	if err != nil {
		return nil, err
	}
	switch azkeys.KeyType(kind) {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		k.algorithm = 1
	case azkeys.KeyTypeOctHSM, azkeys.KeyTypeOct:
		k.algorithm = 2
	default:
		return nil, fmt.Errorf("%w: azure-kv: a key of type %.20q can't wrap: want RSA, or oct of 256 bits", ErrDenied, kind)
	}
	return k, nil
}

// client leaves retries to us: the SDK's wait for as long as the vault says, up to a minute.
func (o AzureOptions) client(host string) (*azkeys.Client, error) {
	opts := azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}}
	if o.Client != nil {
		opts.Transport = o.Client
	}
	creds, err := o.credentials(opts)
	if err != nil {
		return nil, err
	}
	client, err := azkeys.NewClient("https://"+host, creds, &azkeys.ClientOptions{ClientOptions: opts})
	if err != nil {
		return nil, fmt.Errorf("azure-kv client: %w", err)
	}
	return client, nil
}

func (o AzureOptions) credentials(opts azcore.ClientOptions) (azcore.TokenCredential, error) {
	if o.Credentials == nil {
		found, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: opts})
		if err != nil {
			return nil, fmt.Errorf("%w: Azure credentials: %w", ErrDenied, err)
		}
		return found, nil
	}
	c, err := o.Credentials()
	if err != nil {
		return nil, fmt.Errorf("Azure credentials: %w", err) //nolint:staticcheck // a name
	}
	made, err := azidentity.NewClientSecretCredential(c.TenantID, c.ClientID, c.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: opts})
	if err != nil {
		return nil, fmt.Errorf("%w: Azure credentials: not a tenant, a client and a secret", ErrDenied)
	}
	return made, nil
}

func (k *azureKey) kind(ctx context.Context) ([]byte, error) {
	r, err := k.client.GetKey(ctx, k.name, "", nil)
	switch {
	case err != nil:
		return nil, azureError("get", err, nil)
	case r.Key == nil || r.Key.Kty == nil:
		return nil, fmt.Errorf("%w: get: answered without a key", ErrUnavailable)
	}
	return []byte(*r.Key.Kty), nil
}

func (k *azureKey) URI() string { return k.uri }

// Wrap needs keys/wrapKey.
func (k *azureKey) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := checkWrap(ctx, plaintext, ad); err != nil {
		return nil, err
	}
	// While somebody fetches a token, the SDK has all others wait, whatever their contexts say: hence promptly.
	keyed, err := retry(ctx, func(ctx context.Context) ([]byte, error) { return promptly(ctx, k.wrapKey) })
	if err != nil {
		return nil, err
	}
	content, header := keyed[:contentKey], keyed[contentKey:]
	defer clear(content)
	gcm, err := newGCM(content)
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(header), gcm.Seal(nil, nil, plaintext, k.bound(header, ad))...), nil
}

// wrapKey draws a content key and returns it, followed by what stands before the nonce.
func (k *azureKey) wrapKey(ctx context.Context) ([]byte, error) {
	algorithm := azureAlgorithms[k.algorithm]
	content := make([]byte, contentKey)
	rand.Read(content)
	r, err := k.client.WrapKey(ctx, k.name, "", azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: content}, nil)
	if err != nil {
		return nil, azureError("wrapKey", err, nil)
	}
	if r.KID == nil || len(*r.KID) < len(k.id) || !strings.EqualFold(string((*r.KID)[:len(k.id)]), k.id) {
		return nil, fmt.Errorf("%w: wrapKey: answered for another key", ErrUnavailable)
	}
	version, err := hex.DecodeString(string((*r.KID)[len(k.id):]))
	// 512 bytes are what an RSA key of 4096 bits makes, the longest that there is.
	if err != nil || len(version) != azureVersion || len(r.Result) == 0 || len(r.Result) > 512 {
		return nil, fmt.Errorf("%w: wrapKey: an answer of another form", ErrUnavailable)
	}
	size := binary.BigEndian.AppendUint16(nil, uint16(len(r.Result)))
	return slices.Concat(content, []byte{azureLayout, k.algorithm}, version, size, r.Result), nil
}

// Unwrap needs keys/unwrapKey.
func (k *azureKey) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	if len(wrapped) <= azureHeader || wrapped[0] != azureLayout {
		return nil, fmt.Errorf("%w: not of a layout that an azure-kv key writes", ErrCorrupt)
	}
	algorithm, known := azureAlgorithms[wrapped[1]]
	size := azureHeader + int(binary.BigEndian.Uint16(wrapped[azureHeader-2:]))
	if !known || size == azureHeader || size >= len(wrapped) {
		return nil, fmt.Errorf("%w: not of a layout that an azure-kv key writes", ErrCorrupt)
	}
	version, key := hex.EncodeToString(wrapped[2:2+azureVersion]), bytes.Clone(wrapped[azureHeader:size])
	content, err := retry(ctx, func(ctx context.Context) ([]byte, error) {
		return promptly(ctx, func(ctx context.Context) ([]byte, error) { return k.unwrapKey(ctx, algorithm, version, key) })
	})
	if err != nil {
		return nil, err
	}
	defer clear(content)
	if len(content) != contentKey {
		return nil, fmt.Errorf("%w: holds a content key of %d bytes", ErrCorrupt, len(content))
	}
	gcm, err := newGCM(content)
	if err != nil {
		return nil, err
	}
	plaintext, err := gcm.Open(nil, nil, wrapped[size:], k.bound(wrapped[:size], ad))
	if err != nil {
		return nil, fmt.Errorf("%w: doesn't authenticate", ErrCorrupt)
	}
	return plaintext, nil
}

func (k *azureKey) unwrapKey(ctx context.Context, a azkeys.EncryptionAlgorithm, version string, wrapped []byte) ([]byte, error) {
	params := azkeys.KeyOperationParameters{Algorithm: &a, Value: wrapped}
	r, err := k.client.UnwrapKey(ctx, k.name, version, params, nil)
	if err == nil {
		return r.Result, nil
	}
	// The vault says the same of a key that is gone and of a version that never was.
	if answer := (*azcore.ResponseError)(nil); errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		if _, err := k.kind(ctx); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: names a version that the key doesn't have", ErrCorrupt)
	}
	return nil, azureError("unwrapKey", err, ErrCorrupt)
}

// bound is GCM's associated data.
func (k *azureKey) bound(header, ad []byte) []byte {
	b := make([]byte, 0, len(header)+2+len(k.uri)+len(ad))
	b = binary.BigEndian.AppendUint16(append(b, header...), uint16(len(k.uri)))
	return append(append(b, k.uri...), ad...)
}

// newGCM draws its own nonces, and key seals once only.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// azureError takes invalid for the kind of an argument that the vault doesn't like; nil is misuse. It repeats none of
// the SDK's errors, which print whole answers, and quotes the vault only where an operator has to know what is missing.
func azureError(call string, err error, invalid error) error {
	var answer *azcore.ResponseError
	if errors.As(err, &answer) {
		return azureAnswer(call, answer, invalid)
	}
	var token *azidentity.AuthenticationFailedError
	var network net.Error
	var final interface{ NonRetriable() }
	switch {
	case errors.As(err, &token) && token.RawResponse != nil && !outage(token.RawResponse.StatusCode):
		return fmt.Errorf("%w: %s: no token: Entra ID answered %d", ErrDenied, call, token.RawResponse.StatusCode)
	case errors.As(err, &token):
		return fmt.Errorf("%w: %s: no token: Entra ID is out of reach", ErrUnavailable, call)
	case errors.As(err, &network):
		return fmt.Errorf("%w: %s: the vault is out of reach", ErrUnavailable, call)
	case errors.As(err, &final):
		return fmt.Errorf("%w: %s: no credentials, or not a vault that they are for", ErrDenied, call)
	}
	return fmt.Errorf("%w: %s: no answer that can be read", ErrUnavailable, call)
}

func azureAnswer(call string, answer *azcore.ResponseError, invalid error) error {
	switch status := answer.StatusCode; {
	case outage(status):
		return fmt.Errorf("%w: %s: HTTP status %d", ErrUnavailable, call, status)
	case status == http.StatusBadRequest && invalid != nil:
		return fmt.Errorf("%w: %s: HTTP status %d", invalid, call, status)
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		message, reason := azureMessage(answer)
		err := fmt.Errorf("%w: %s: HTTP status %d: %.400s", ErrDenied, call, status, message)
		if azureForbidden[reason] {
			return permissionError{azurePermissions[call], err}
		}
		return err
	default:
		return fmt.Errorf("%s: HTTP status %d", call, status)
	}
}

// azureForbidden are the reasons of a 403 that a permission would remove. Others are a disabled key and a firewall.
var azureForbidden = map[string]bool{"AccessDenied": true, "ForbiddenByPolicy": true, "ForbiddenByRbac": true}

// azurePermissions are what the calls need: in an access policy, and as a data action of a role.
var azurePermissions = map[string]string{
	"get":       "get (data action keys/read)",
	"wrapKey":   "wrapKey (data action keys/wrap/action)",
	"unwrapKey": "unwrapKey (data action keys/unwrap/action)",
}

func azureMessage(answer *azcore.ResponseError) (message, reason string) {
	var said struct {
		Error struct {
			Message    string
			InnerError struct{ Code string } `json:"innererror"`
		}
	}
	body, err := runtime.Payload(answer.RawResponse)
	if err != nil || json.Unmarshal(body, &said) != nil {
		return answer.ErrorCode, ""
	}
	return said.Error.Message, said.Error.InnerError.Code
}
