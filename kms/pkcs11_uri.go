package kms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// PKCS11Options are those of pkcs11 keys, in builds that have them (build tag pkcs11, with cgo).
type PKCS11Options struct {
	// Module is the path of the token's library. It may stand in the URI instead, as module-path.
	Module string
	// PIN is the user's. It is asked at each login: by Open, and after the token forgot us. It may stand in a file
	// instead that only its owner can read, and that the URI names as pin-source; nil and no file is for tokens
	// without a login.
	PIN func() ([]byte, error)
	// Sessions bounds how many calls the token gets at once; 0 is 8.
	Sessions int
	// TokenIV is for tokens that insist on making the IVs of GCM themselves, and take a buffer of zeros for them.
	// Others get random ones from us, and may still put their own in the place of those.
	TokenIV bool
}

// pkcs11URI is a parsed URI of RFC 7512.
type pkcs11URI struct {
	token, manufacturer, serial, model string // empty: any
	object                             string
	id                                 []byte
	module, pinSource                  string
}

// openPKCS11 logs in and has the token prove that it binds associated data: that the key is there and ours to use
// shows at once.
func openPKCS11(ctx context.Context, uri string, o Options) (Key, error) {
	u, err := parsePKCS11(uri)
	if err != nil {
		return nil, err
	}
	p := o.PKCS11
	switch {
	case p.Module != "" && u.module != "":
		return nil, errors.New("pkcs11 URI: module-path, and Options.PKCS11.Module too: want one of them")
	case p.PIN != nil && u.pinSource != "":
		return nil, errors.New("pkcs11 URI: pin-source, and Options.PKCS11.PIN too: want one of them")
	case p.Module == "" && u.module == "":
		return nil, errors.New("pkcs11 URI: no module: want module-path, or Options.PKCS11.Module")
	case u.pinSource != "":
		p.PIN = u.readPIN
	}
	p.Module += u.module
	return openToken(ctx, u, p)
}

// parsePKCS11 takes the attributes that name a key and a token, and those that say where the library and the PIN are.
func parsePKCS11(uri string) (pkcs11URI, error) {
	var u pkcs11URI
	rest, ok := strings.CutPrefix(uri, "pkcs11:")
	if !ok || strings.ContainsAny(uri, "#\n") {
		return u, errors.New("pkcs11 URI: want pkcs11:token=TOKEN;object=LABEL?module-path=PATH&pin-source=file:PATH")
	}
	path, query, _ := strings.Cut(rest, "?")
	var id, kind string
	err := attributes(path, ";", map[string]*string{
		"token": &u.token, "manufacturer": &u.manufacturer, "serial": &u.serial, "model": &u.model,
		"object": &u.object, "id": &id, "type": &kind,
	})
	if err == nil {
		err = attributes(query, "&", map[string]*string{"module-path": &u.module, "pin-source": &u.pinSource})
	}
	u.id = []byte(id)
	switch {
	case err != nil:
		return u, err
	case u.token == "" && u.serial == "":
		return u, errors.New("pkcs11 URI: no token: want token or serial")
	case u.object == "" && id == "":
		return u, errors.New("pkcs11 URI: no key: want object or id")
	case len(id) > 255:
		return u, errors.New("pkcs11 URI: an id of more than 255 bytes")
	case kind != "" && kind != "secret-key":
		return u, errors.New("pkcs11 URI: not of type secret-key")
	case u.module != "" && !filepath.IsAbs(u.module):
		return u, errors.New("pkcs11 URI: module-path isn't absolute")
	case u.pinSource != "" && !filepath.IsAbs(strings.TrimPrefix(u.pinSource, "file:")):
		return u, errors.New("pkcs11 URI: pin-source: want file: and an absolute path")
	}
	return u, nil
}

// attributes sets what text names, once each. An attribute that we don't know may say which key is meant, so it is
// refused, and so is the PIN itself: URIs get stored and printed.
func attributes(text, separator string, into map[string]*string) error {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, separator) {
		name, value, _ := strings.Cut(part, "=")
		at := into[name]
		if name == "pin-value" {
			return errors.New("pkcs11 URI: pin-value isn't taken: want pin-source, or Options.PKCS11.PIN")
		}
		if at == nil {
			return errors.New("pkcs11 URI: an attribute that isn't taken: want token, manufacturer, serial, model, object, id, type; and module-path, pin-source")
		}
		decoded, err := url.PathUnescape(value)
		if err != nil || decoded == "" || *at != "" {
			return fmt.Errorf("pkcs11 URI: %s: empty, badly encoded or there twice", name)
		}
		*at = decoded
	}
	return nil
}

// readPIN drops the newline that editors leave.
func (u pkcs11URI) readPIN() ([]byte, error) {
	pin, err := readPrivate(strings.TrimPrefix(u.pinSource, "file:"))
	if err != nil {
		return nil, fmt.Errorf("%w: pin-source: %w", ErrDenied, err)
	}
	return bytes.TrimRight(pin, "\r\n"), nil
}

// String is the URI without what says how the key is opened, its attributes in one order.
func (u pkcs11URI) String() string {
	var parts []string
	for _, a := range []struct{ name, value string }{
		{"token", u.token}, {"manufacturer", u.manufacturer}, {"serial", u.serial}, {"model", u.model}, {"object", u.object},
	} {
		if a.value != "" {
			// What PathEscape leaves alone and RFC 7512 doesn't.
			value := strings.NewReplacer(";", "%3B", "@", "%40", "$", "%24").Replace(url.PathEscape(a.value))
			parts = append(parts, a.name+"="+value)
		}
	}
	if len(u.id) > 0 {
		var id strings.Builder
		for _, b := range u.id {
			fmt.Fprintf(&id, "%%%02X", b)
		}
		parts = append(parts, "id="+id.String())
	}
	return "pkcs11:" + strings.Join(parts, ";")
}

// What a pkcs11 key wraps:
//
//	byte  0    layout, pkcs11Layout
//	byte  1    n, the length of the wrapping key's CKA_ID
//	n bytes    that CKA_ID; so a key that newer ones have joined still unwraps
//	12 bytes   IV
//	the rest   the key material in AES-GCM, with its tag of 16 bytes
//
// GCM's associated data is all that stands before the IV, then the caller's.
const (
	pkcs11Layout = 1
	pkcs11IV     = 12
	pkcs11Tag    = 16
)

// splitPKCS11 takes a wrapped key apart. Its parts are the caller's own.
func splitPKCS11(wrapped []byte) (id, iv, sealed []byte, err error) {
	b := bytes.Clone(wrapped)
	if len(b) < 2 || b[0] != pkcs11Layout || len(b) <= 2+int(b[1])+pkcs11IV+pkcs11Tag {
		return nil, nil, nil, fmt.Errorf("%w: not of a layout that a pkcs11 key writes", ErrCorrupt)
	}
	at := 2 + int(b[1])
	return b[2:at], b[at : at+pkcs11IV], b[at+pkcs11IV:], nil
}

// newer orders ids as numbers: PKCS#11 knows no versions, so the key of the highest id wraps.
func newer(a, b []byte) int {
	x, y := bytes.TrimLeft(a, "\x00"), bytes.TrimLeft(b, "\x00")
	if c := len(x) - len(y); c != 0 {
		return c
	}
	if c := slices.Compare(x, y); c != 0 {
		return c
	}
	return len(a) - len(b)
}
