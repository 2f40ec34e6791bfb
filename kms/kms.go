// Package kms wraps key material with a key-encryption key that a key management system holds.
//
// There is one interface, Key, and a file per provider; package kmstest has the suite that every provider passes.
// What is wrapped here are tenant keysets and, where a collection asks for it, record DEKs: never values.
package kms

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Limits of every provider. They are the largest that all of them can serve, so that a vault may change provider
// without finding a key that no longer fits.
const (
	// MaxPlaintext is the most key material that one Wrap takes, in bytes; the least is 1.
	MaxPlaintext = 1024
	// MaxAD is the longest associated data, in bytes; the least is 1.
	MaxAD = 1024
	// MaxWrapped bounds what Wrap returns. Anything longer is refused before a provider is asked: wrapped keys
	// come out of a database that others may have written to.
	MaxWrapped = 4096
)

// Errors of a Key and of Open, matched with errors.Is. An error that matches none of them, and not the context's
// either, is misuse (a size outside the limits, no associated data, a URI that makes no sense) and a bug or a
// setting to put right, not a state of the KMS.
var (
	// ErrUnavailable means an outage, a time-out, or throttling that outlasted the provider's retries.
	// It is worth trying again later.
	ErrUnavailable = errors.New("KMS unavailable")
	// ErrDenied means that the KMS won't use the key for us: no permission, wrong secret, or a key that is
	// disabled, scheduled for deletion, deleted or unknown. An operator must act; trying again won't help.
	ErrDenied = errors.New("KMS key denied")
	// ErrCorrupt means that the wrapped bytes or the associated data don't belong to this key.
	ErrCorrupt = errors.New("wrapped key corrupt")
)

// permissionError is ErrDenied for want of a permission.
type permissionError struct {
	permission string
	error
}

func (e permissionError) Unwrap() error { return e.error }

// MissingPermission is what err says that an operator has to grant, in the KMS's own words: kms:Decrypt, say. It is
// empty for any other error, and where the KMS keeps it to itself.
func MissingPermission(err error) string {
	var missing permissionError
	errors.As(err, &missing)
	return missing.permission
}

// Key is a key-encryption key held by a KMS.
//
// Durability: nothing is stored. What Wrap returned opens for as long as the KMS keeps the key, rotations
// included, from any process that opens the same key.
//
// Concurrency: safe for concurrent use. Arguments are neither kept nor changed, results are the caller's own.
//
// Retries: the provider does them, bounded by ctx and by a limit of its own; the caller never does.
//
// Time: a call returns promptly once ctx ends, with an error that matches ctx.Err(). A deadline also matches
// ErrUnavailable, because a slow KMS is what runs it down; a cancellation doesn't, because it says nothing about
// the KMS.
//
// Secrets: no error holds plaintext, wrapped bytes, associated data or credentials.
type Key interface {
	// Wrap encrypts key material of 1 to MaxPlaintext bytes and binds it to ad. Two calls never return the same
	// bytes. Empty ad is refused: a wrapped key that any row can hold is one that can be moved between rows.
	Wrap(ctx context.Context, plaintext, ad []byte) (wrapped []byte, err error)

	// Unwrap returns what was wrapped under the same ad. Anything else (other ad, a changed or foreign wrapped
	// key, a version that the key doesn't have) fails with ErrCorrupt, and so does empty ad, since nothing was
	// ever wrapped under it.
	Unwrap(ctx context.Context, wrapped, ad []byte) (plaintext []byte, err error)

	// URI names the key. It holds no secret and nothing about how the key is opened, so that a moved credential
	// doesn't look like another key. It is stored beside what the key wrapped.
	URI() string
}

// Options carries what a provider needs and a URI must not hold. This package reads no environment: secrets come
// from the caller, or else from what the SDKs of the clouds find by themselves. The zero value serves every provider
// that needs none.
type Options struct {
	// Passphrase opens a local keyset that is sealed to one. It is called at most once per call of this package,
	// and not at all when the URI names a key file.
	Passphrase func() ([]byte, error)
	// AWS is for aws-kms keys.
	AWS AWSOptions
	// Transit is for hcvault keys.
	Transit TransitOptions
	// GCP is for gcp-kms keys.
	GCP GCPOptions
	// Azure is for azure-kv keys.
	Azure AzureOptions
	// PKCS11 is for pkcs11 keys.
	PKCS11 PKCS11Options

	// workFactor is scrypt's, as a power of two; 0 is scryptWorkFactor. Only tests set it.
	workFactor int
}

// provider is what Open needs to know about a scheme.
type provider struct {
	scheme      string
	development bool
	open        func(ctx context.Context, uri string, o Options) (Key, error)
}

// providers has one line per provider, and their order is that of error messages.
var providers = []provider{
	{scheme: "local", development: true, open: openLocal},
	{scheme: "aws-kms", open: openAWS},
	{scheme: "hcvault", open: openTransit},
	{scheme: "gcp-kms", open: openGCP},
	{scheme: "azure-kv", open: openAzure},
	{scheme: "pkcs11", open: openPKCS11},
}

// Open opens the key that uri names with the provider of its scheme. The schemes are:
//
//	local://PATH               a keyset file sealed to Options.Passphrase
//	local://PATH?key-file=PATH a keyset file sealed to the identity in a key file
//	aws-kms://ARN              a symmetric key of AWS KMS; see Options.AWS
//	hcvault://HOST[:PORT]/MOUNT/keys/NAME
//	                           a key of the transit engine of HashiCorp Vault or OpenBao; see Options.Transit
//	gcp-kms://projects/…       a symmetric key of Google Cloud KMS; see Options.GCP
//	azure-kv://HOST/keys/NAME  a key of Azure Key Vault or a Managed HSM; see Options.Azure
//	pkcs11:token=…;object=…    an AES key of an HSM (RFC 7512); see Options.PKCS11
//
// Builds with the tag nocloud have no aws-kms, gcp-kms and azure-kv, and builds without the tag pkcs11 no pkcs11: they
// say so.
//
// A key that can't be opened as things stand is ErrDenied or ErrUnavailable, as for a Key's methods. No error
// repeats uri, which may hold a credential that should not be there.
func Open(ctx context.Context, uri string, o Options) (Key, error) {
	p, err := providerOf(uri)
	if err != nil {
		return nil, err
	}
	if err := ended(ctx); err != nil {
		return nil, err
	}
	return p.open(ctx, uri, o)
}

// rewrapper is a Key whose KMS can re-encrypt inside itself.
type rewrapper interface {
	// rewrap is Rewrap without a way around.
	rewrap(ctx context.Context, wrapped, ad []byte) ([]byte, error)
}

// Rewrap returns what k has wrapped as wrapped by the newest version of k, under the same ad: the step of a rotation.
// It fails as Unwrap does, and what it was given goes on opening for as long as the KMS keeps the version. AWS KMS does
// it inside itself if we may ReEncrypt; elsewhere the key material passes through here, and its copy is cleared.
func Rewrap(ctx context.Context, k Key, wrapped, ad []byte) ([]byte, error) {
	if r, ok := k.(rewrapper); ok {
		if b, err := r.rewrap(ctx, wrapped, ad); !errors.Is(err, ErrDenied) {
			return b, err
		}
	}
	plaintext, err := k.Unwrap(ctx, wrapped, ad)
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	return k.Wrap(ctx, plaintext, ad)
}

// DevelopmentOnly reports whether uri names a provider that production must refuse, because the process that
// uses the key also holds it. It is false for a URI that Open refuses anyway.
func DevelopmentOnly(uri string) bool {
	p, err := providerOf(uri)
	return err == nil && p.development
}

func providerOf(uri string) (provider, error) {
	scheme, _, found := strings.Cut(uri, ":")
	var known []string
	for _, p := range providers {
		if found && p.scheme == scheme {
			return p, nil
		}
		known = append(known, p.scheme)
	}
	list := strings.Join(known, ", ")
	if !found {
		return provider{}, fmt.Errorf("key URI without a scheme (known: %s)", list)
	}
	return provider{}, fmt.Errorf("key URI of unknown scheme %q (known: %s)", scheme, list)
}

// checkWrap refuses what must not reach a provider. Every Wrap begins with it.
func checkWrap(ctx context.Context, plaintext, ad []byte) error {
	switch {
	case len(plaintext) == 0 || len(plaintext) > MaxPlaintext:
		return fmt.Errorf("wrap: %d bytes of key material, want 1 to %d", len(plaintext), MaxPlaintext)
	case len(ad) == 0:
		return errors.New("wrap: no associated data: the wrapped key would be bound to nothing")
	case len(ad) > MaxAD:
		return fmt.Errorf("wrap: %d bytes of associated data, want 1 to %d", len(ad), MaxAD)
	}
	return ended(ctx)
}

// checkUnwrap refuses what no Wrap can have returned, or taken. Every Unwrap begins with it.
func checkUnwrap(ctx context.Context, wrapped, ad []byte) error {
	switch {
	case len(wrapped) == 0 || len(wrapped) > MaxWrapped:
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrCorrupt, len(wrapped), MaxWrapped)
	case len(ad) == 0 || len(ad) > MaxAD:
		return fmt.Errorf("%w: %d bytes of associated data, want 1 to %d", ErrCorrupt, len(ad), MaxAD)
	}
	return ended(ctx)
}

// ended is nil while ctx lasts, and then the error that Key promises.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
