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
	id    kekID
	slots chan struct{} // calls for DEKs (direct.go)

	mu         sync.Mutex
	rest       time.Time // it is not called before
	directShut shut      // likewise, for DEKs
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
	standard *kek                                                                     // the deployment's
	inFlight int                                                                      // calls for DEKs that each gets at once
	open     func(ctx context.Context, wanted func(uri string) bool) (kms.Key, error) // Config.OpenKMS
	now      func() time.Time

	mu      sync.Mutex
	opened  map[kekID]*kek
	absent  map[kekID]time.Time // not named, when it was last looked for
	flights singleflight.Group
}

// errNotNamed says that the settings don't name a KMS key.
var errNotNamed = errors.New("the settings name no KMS key of that URI")

// named gives a KMS key, if the settings name it. It may call the KMS.
func (k *keks) named(ctx context.Context, id kekID) (*kek, error) {
	if id == k.standard.id {
		return k.standard, nil
	}
	k.mu.Lock()
	known, looked := k.opened[id], k.absent[id]
	k.mu.Unlock()
	switch {
	case known != nil:
		return known, nil
	case k.open == nil, k.now().Before(looked.Add(kmsPause)):
		return nil, errNotNamed
	}
	// Opening one that is away may take its time: nobody but those who want it waits.
	done, err, _ := k.flights.Do(string(id[:]), func() (any, error) {
		key, err := k.open(ctx, func(uri string) bool { return kekIDOf(uri) == id })
		if err != nil {
			return nil, err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if key == nil {
			k.absent[id] = k.now()
			return nil, errNotNamed
		}
		delete(k.absent, id)
		k.opened[id] = newKEK(key, k.inFlight)
		return k.opened[id], nil
	})
	if err != nil {
		return nil, err
	}
	return done.(*kek), nil
}

// of gives the KMS key to open something with, and whether it is the one that made it: if the settings don't name that one,
// it is another, which may be the same key by another URI.
func (k *keks) of(ctx context.Context, id kekID, otherwise *kek) (_ *kek, named bool, err error) {
	found, err := k.named(ctx, id)
	if errors.Is(err, errNotNamed) {
		return otherwise, false, nil
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
	k, named, err := r.keks.of(ctx, kekIDOf(root.uri), r.keks.standard)
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
		err = unnamed(kms.Name(root.uri))
	}
	return nil, nil, r.shutOut(tenant, err)
}

// unnamed is what callers hear of what no KMS key opens that this process can ask: it isn't damaged, for all we know.
func unnamed(key string) *Error {
	return &Error{Kind: KMSUnavailable, Detail: "this is wrapped by a KMS key that the server's settings don't name", RetryAfter: kmsPause,
		cause: fmt.Errorf("%s: %w", key, errNotNamed)}
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
