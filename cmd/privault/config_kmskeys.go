package main

import (
	"context"
	"fmt"

	"github.com/privault/privault/kms"
)

// kmsKeys is the file of the KMS keys that tenants' root keys may be wrapped by besides the deployment's: keys that customers brought
// along, or the key that a deployment is moving from or to.
//
// It is the whole list of what the service calls. What a database says of a key only picks a line of it, so whoever writes to
// the database makes the service call nobody. A line has all that its key is opened with, and takes nothing of the deployment's
// settings: else the deployment's token would be shown to a customer's server.
type kmsKeys struct {
	Keys []kmsKey `json:"keys"`
}

type kmsKey struct {
	URI            string `json:"uri"`
	PassphraseFile string `json:"passphrase_file,omitzero"`
	Providers
}

func readKMSKeys(path string) (all kmsKeys, err error) {
	err = readSettings(path, &all)
	return all, err
}

// check names what is wrong with the file, and no URI.
func (a kmsKeys) check(bad func(string, ...any), noLocal bool) {
	seen := map[string]bool{}
	for i, k := range a.Keys {
		uri, err := kms.Canonical(k.URI)
		switch {
		case err != nil:
			bad("--kms-keys: key %d: %v", i+1, err)
		case seen[uri]:
			bad("--kms-keys: key %d is there twice", i+1)
		case kms.DevelopmentOnly(k.URI) && noLocal:
			bad("--kms-keys: key %d is local: it lies on this machine's disk; use a real KMS, or say --allow-local-kms", i+1)
		}
		seen[uri] = true
	}
}

// openNamed opens the key that is wanted, by its canonical URI, if the file names it. The file is read each time, which is once for
// each key: a new line needs no restart.
func (k Keys) openNamed(ctx context.Context, wanted func(uri string) bool) (kms.Key, error) {
	all, err := readKMSKeys(k.KMSKeys)
	if err != nil {
		return nil, fmt.Errorf("the file of KMS keys: %w", err)
	}
	for _, line := range all.Keys {
		if named, err := kms.Canonical(line.URI); err != nil || !wanted(named) {
			continue
		}
		if kms.DevelopmentOnly(line.URI) && k.noLocal {
			return nil, fmt.Errorf("%w: a local key is not allowed here", kms.ErrDenied)
		}
		return kms.Open(ctx, line.URI, Keys{PassphraseFile: line.PassphraseFile, Providers: line.Providers}.options())
	}
	return nil, nil
}
