package kms

import (
	"errors"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// Canonical is what URI gives for the key that Open opens by uri, without opening it: what the URIs of settings are found by.
func Canonical(uri string) (string, error) {
	p, err := providerOf(uri)
	if err != nil {
		return "", err
	}
	switch p.scheme {
	case "local":
		at, err := parseLocal(uri)
		return "local://" + at.keyset, err
	case "hcvault":
		u, err := url.Parse(uri)
		if err != nil {
			return "", errors.New("hcvault URI: no URI at all")
		}
		return transitURI(u), nil
	case "azure-kv":
		return strings.ToLower(uri), nil
	case "pkcs11":
		u, err := parsePKCS11(uri)
		return u.String(), err
	}
	return uri, nil
}

// Name is a name for the key of a URI that people may see: the provider and what the key is called there, without the account,
// the server, the token or the folder that it is in.
func Name(uri string) string {
	p, err := providerOf(uri)
	if err != nil {
		return "unknown"
	}
	name := path.Base(uri)
	switch p.scheme {
	case "local":
		at, _ := parseLocal(uri) // what it doesn't understand has no name
		name = filepath.Base(at.keyset)
	case "pkcs11":
		u, _ := parsePKCS11(uri) // likewise
		name = u.object
	}
	return p.scheme + ":" + name
}
