package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/privault/privault/kms"
)

// The KMS keys that wrap tenants' root keys: the deployment's, and those that customers brought along.
//
// Which one opens a tenant's root key stands in tenant_roots.kms_uri, in a database that somebody may have written to. So that
// URI is only ever looked up among those that the settings name (keks.open): it makes the service call nobody whom its operator
// hasn't named. A URI that they don't name may be an older name of the deployment's key, which is tried then; the
// associated data and the KMS say whether it was.

// kek is a key-encryption key of a KMS, and how it has been lately. What one KMS key suffers is the business of nobody but the
// tenants whose root keys it wraps: pauses are each key's own.
type kek struct {
	kms.Key

	mu   sync.Mutex
	rest time.Time // it is not called before
}

// kmsPause is how long a KMS key is left alone after a call failed, and a tenant's root key after the KMS refused it.
const kmsPause = 2 * time.Second

func (k *kek) resting(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.rest)
}

// heard notes how a call that ended now went.
func (k *kek) heard(err error, now time.Time) {
	if !errors.Is(err, kms.ErrUnavailable) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rest = now.Add(kmsPause)
}

// errKMSAway is what whoever needs the KMS hears while it is away.
var errKMSAway = &Error{Kind: KMSUnavailable, Detail: "the key management system does not answer", RetryAfter: kmsPause, cause: kms.ErrUnavailable}

// keks are the KMS keys of this process.
type keks struct {
	standard *kek                                                   // the deployment's
	open     func(ctx context.Context, uri string) (kms.Key, error) // Config.OpenKMS

	mu      sync.Mutex
	opened  map[string]*kek
	flights singleflight.Group
}

// errNotNamed says that the settings don't name a KMS key.
var errNotNamed = errors.New("the settings name no KMS key of that URI")

// named gives the KMS key of a canonical URI, if the settings name it. It may call the KMS.
func (k *keks) named(ctx context.Context, uri string) (*kek, error) {
	if uri == k.standard.URI() {
		return k.standard, nil
	}
	k.mu.Lock()
	known := k.opened[uri]
	k.mu.Unlock()
	switch {
	case known != nil:
		return known, nil
	case k.open == nil:
		return nil, errNotNamed
	}
	// Opening one that is away may take its time: nobody but those who want it waits.
	done, err, _ := k.flights.Do(uri, func() (any, error) {
		key, err := k.open(ctx, uri)
		if err == nil && key == nil {
			err = errNotNamed
		}
		if err != nil {
			return nil, err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.opened == nil {
			k.opened = map[string]*kek{}
		}
		fresh := &kek{Key: key}
		k.opened[uri] = fresh
		return fresh, nil
	})
	if err != nil {
		return nil, err
	}
	return done.(*kek), nil
}

// of gives the KMS key to open a root key with, and whether it is the one that the keystore names.
func (k *keks) of(ctx context.Context, uri string) (_ *kek, named bool, err error) {
	found, err := k.named(ctx, uri)
	if errors.Is(err, errNotNamed) {
		return k.standard, false, nil
	}
	return found, true, err
}

// wrappedRoot is a row of tenant_roots.
type wrappedRoot struct {
	uri     string // canonical, of the KMS key
	wrapped []byte
}

// rootPlace is what a root key is bound to.
func (r *keyring) rootPlace(tenant ID) []byte {
	return boundTo("privault/1/root", r.deployment, tenant)
}

// unwrap opens a tenant's root key. It calls the KMS, so no transaction may be open.
func (r *keyring) unwrap(ctx context.Context, tenant ID, root wrappedRoot) ([]byte, *kek, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	k, named, err := r.keks.of(ctx, root.uri)
	if err != nil {
		return nil, nil, r.shutOut(tenant, err)
	}
	if k.resting(r.now()) {
		return nil, nil, errKMSAway
	}
	key, err := k.Unwrap(ctx, root.wrapped, r.rootPlace(tenant))
	r.metrics.kmsCall("unwrap", err)
	k.heard(err, r.now())
	switch {
	case err == nil:
		return key, k, nil
	case errors.Is(err, kms.ErrUnavailable):
		return nil, nil, err
	case errors.Is(err, kms.ErrCorrupt) && !named:
		// It isn't damaged for all we know: its KMS key is one that this process can't ask.
		err = &Error{Kind: KMSUnavailable, Detail: "this tenant's root key is wrapped by a KMS key that the server's settings don't name",
			RetryAfter: kmsPause, cause: fmt.Errorf("%s: %w", kms.Name(root.uri), errNotNamed)}
	}
	return nil, nil, r.shutOut(tenant, err)
}

// shut is why a tenant's root key can't be opened, for a while.
type shut struct {
	why   *Error
	until time.Time
}

// shutOut has a tenant's root key left alone for a while: others share the KMS's limits. Unless the KMS is merely away, what is
// held ends at once.
func (r *keyring) shutOut(tenant ID, err error) *Error {
	var why *Error
	switch {
	case errors.Is(err, kms.ErrUnavailable):
		why = errKMSAway
	case errors.Is(err, kms.ErrCorrupt), errors.As(err, &why):
		why = AsError(err)
	default: // denied, or settings that can't be right
		why = &Error{Kind: KMSUnavailable, Detail: "the key management system refuses to use the key that this tenant's data hang on", RetryAfter: kmsPause, cause: err}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if why != errKMSAway {
		delete(r.held, tenant)
	}
	r.shut[tenant] = shut{why, r.now().Add(kmsPause)}
	return why
}

// wrap wraps a new root key for a tenant. It calls the KMS, so no transaction may be open.
func (r *keyring) wrap(ctx context.Context, k *kek, tenant ID, root []byte) (wrappedRoot, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	wrapped, err := k.Wrap(ctx, root, r.rootPlace(tenant))
	r.metrics.kmsCall("wrap", err)
	k.heard(err, r.now())
	return wrappedRoot{k.URI(), wrapped}, err
}

// prove has what was just wrapped opened again: a KMS key that we may wrap with and not unwrap would take everything with it.
func (r *keyring) prove(ctx context.Context, k *kek, tenant ID, root wrappedRoot, want []byte) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	got, err := k.Unwrap(ctx, root.wrapped, r.rootPlace(tenant))
	defer clear(got)
	r.metrics.kmsCall("unwrap", err)
	k.heard(err, r.now())
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%w: it opens to something else than was wrapped", kms.ErrCorrupt)
	}
	return err
}
