package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/privault/privault/api/egress"
)

const (
	// refetchAfter bounds how often an issuer is asked for its keys, whatever tokens come in.
	refetchAfter = 30 * time.Second
	// keysFresh is how long keys are used without being asked for again: what an issuer has withdrawn stops by then.
	keysFresh = 5 * time.Minute
	// keysGrace is how long the last keys serve while an issuer is away.
	keysGrace = time.Hour
	maxKeys   = 100
	minRSA    = 2048
)

// keySet is one issuer's keys, fetched when a token needs them: at most once in refetchAfter, by one flight for all who wait.
type keySet struct {
	config IssuerConfig
	client *http.Client
	now    func() time.Time
	flight singleflight.Group

	mu      sync.Mutex
	url     string // of the keys, once it is known
	byID    map[string]jose.JSONWebKey
	fetched time.Time // when the keys came
	tried   time.Time // when they were last asked for, with or without success
}

// ErrKeysAway says that the issuer's keys can't be had: nobody can say whether the token is good.
var ErrKeysAway = errors.New("the issuer's keys can't be fetched")

// key gives the key of an id. An id that is unknown after a fetch stays unknown until the next one is due.
func (k *keySet) key(ctx context.Context, id string) (jose.JSONWebKey, error) {
	known, fresh, due := k.have(id)
	if known && fresh || !due {
		return k.usable(id)
	}
	_, err, _ := k.flight.Do("", func() (any, error) {
		if _, _, due := k.have(id); !due {
			return nil, nil
		}
		// The flight is everybody's who waits for it.
		return nil, k.refresh(context.WithoutCancel(ctx))
	})
	key, useErr := k.usable(id)
	if useErr != nil && err != nil {
		return key, errors.Join(useErr, err)
	}
	return key, useErr
}

func (k *keySet) have(id string) (known, fresh, due bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	_, known = k.byID[id]
	return known, now.Sub(k.fetched) < keysFresh, now.Sub(k.tried) >= refetchAfter || k.tried.IsZero()
}

func (k *keySet) usable(id string) (jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fetched.IsZero() || k.now().Sub(k.fetched) > keysFresh+keysGrace {
		return jose.JSONWebKey{}, ErrKeysAway
	}
	if key, known := k.byID[id]; known {
		return key, nil
	}
	return jose.JSONWebKey{}, refused("kid is none of the issuer's keys")
}

func (k *keySet) refresh(ctx context.Context) error {
	k.mu.Lock()
	k.tried = k.now()
	url := k.url
	k.mu.Unlock()
	if url == "" {
		found, err := k.discover(ctx)
		if err != nil {
			return err
		}
		url = found
	}
	body, err := fetch(ctx, k.client, url)
	if err != nil {
		return err
	}
	keys, err := k.parse(body)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.url, k.byID, k.fetched = url, keys, k.now()
	return nil
}

// discover reads where the keys are from the issuer's metadata (RFC 8414, OpenID Connect Discovery).
func (k *keySet) discover(ctx context.Context) (string, error) {
	if k.config.JWKS != "" {
		return k.config.JWKS, nil
	}
	body, err := fetch(ctx, k.client, strings.TrimSuffix(k.config.Issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var metadata struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &metadata); err != nil {
		return "", errors.New("the issuer's metadata is not JSON")
	}
	if metadata.Issuer != k.config.Issuer || !egress.Fetchable(metadata.JWKS) {
		return "", errors.New("the issuer's metadata names another issuer, or no https:// address of its keys")
	}
	return metadata.JWKS, nil
}

// parse keeps the keys that the configuration's algorithms can use. Others may stand beside them.
func (k *keySet) parse(body []byte) (map[string]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("the issuer's keys are not a JWK set")
	}
	if len(set.Keys) > maxKeys {
		return nil, errors.New("the issuer has more than 100 keys")
	}
	keys := map[string]jose.JSONWebKey{}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := json.Unmarshal(raw, &key); err != nil || key.KeyID == "" || key.Use != "" && key.Use != "sig" {
			continue // of a kind that we don't know, or not for signatures
		}
		if key.Algorithm != "" && families[key.Algorithm] != families[k.config.Algorithms[0]] {
			continue
		}
		if strong(key.Key, families[k.config.Algorithms[0]]) {
			keys[key.KeyID] = key
		}
	}
	return keys, nil
}

// strong says whether key is a public key of this family, and long enough.
func strong(key any, family string) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return family == "RSA" && key.N.BitLen() >= minRSA && key.E >= 3
	case *ecdsa.PublicKey:
		return family == "EC"
	case ed25519.PublicKey:
		return family == "OKP"
	}
	return false
}
