//go:build pkcs11 && cgo

package kms

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

const pkcs11Sessions = 8

// pkcs11Key is the AES keys of one label in a token, or the one of an id: they are looked up in every call, because a
// handle says nothing of a key that was deleted or has got a successor since.
//
// A random IV has 96 bits, so no single key may make more than 2^32 wraps: rotate before.
//
// Calls of a library can't be interrupted. One that hangs keeps its session, so there are never more of them than
// there may be sessions.
type pkcs11Key struct {
	uri     pkcs11URI
	o       PKCS11Options
	lib     *pkcs11.Ctx
	slot    uint
	room    chan struct{}
	free    chan pkcs11.SessionHandle
	refused atomic.Bool
}

// pkcs11Version is a key of the label.
type pkcs11Version struct {
	handle pkcs11.ObjectHandle
	id     []byte
}

func openToken(ctx context.Context, u pkcs11URI, o PKCS11Options) (Key, error) {
	sessions := cmp.Or(o.Sessions, pkcs11Sessions)
	if sessions < 0 {
		return nil, errors.New("pkcs11: a negative number of sessions")
	}
	k := &pkcs11Key{uri: u, o: o, room: make(chan struct{}, sessions), free: make(chan pkcs11.SessionHandle, sessions)}
	_, err := promptly(ctx, func(context.Context) ([]byte, error) { return nil, k.load() })
	if err != nil {
		return nil, err
	}
	_, err = k.call(ctx, nil, nil, func(s pkcs11.SessionHandle, _, _ []byte) ([]byte, error) {
		v, err := k.newest(s)
		if err != nil {
			return nil, err
		}
		return nil, k.prove(s, v)
	})
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// load finds the slot. The library is initialized once for all keys in the process, and stays so.
func (k *pkcs11Key) load() error {
	k.lib = pkcs11.New(k.o.Module)
	if k.lib == nil {
		return fmt.Errorf("%w: pkcs11: the module can't be loaded", ErrDenied)
	}
	if err := k.lib.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return pkcs11Error("C_Initialize", err)
	}
	slots, err := k.lib.GetSlotList(true)
	if err != nil {
		return pkcs11Error("C_GetSlotList", err)
	}
	var found []uint
	for _, slot := range slots {
		info, err := k.lib.GetTokenInfo(slot)
		if err != nil {
			continue // pulled out just now, or not ours
		}
		u := k.uri
		if matchesAny(u.token, info.Label) && matchesAny(u.serial, info.SerialNumber) &&
			matchesAny(u.manufacturer, info.ManufacturerID) && matchesAny(u.model, info.Model) {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%w: pkcs11: %d tokens that the URI may mean, want one", ErrDenied, len(found))
	}
	k.slot = found[0]
	return nil
}

func matchesAny(want, got string) bool { return want == "" || want == got }

func (k *pkcs11Key) URI() string { return k.uri.String() }

// Close gives the sessions back that nobody is using. Only tests have a use for it.
func (k *pkcs11Key) Close() error {
	k.drain()
	return nil
}

// Wrap needs CKA_ENCRYPT on the key.
func (k *pkcs11Key) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := checkWrap(ctx, plaintext, ad); err != nil {
		return nil, err
	}
	return k.call(ctx, plaintext, ad, func(s pkcs11.SessionHandle, plaintext, ad []byte) ([]byte, error) {
		v, err := k.newest(s)
		if err != nil {
			return nil, err
		}
		iv, sealed, err := k.seal(s, v, plaintext, ad)
		if err != nil {
			return nil, err
		}
		return slices.Concat(pkcs11Header(v.id), iv, sealed), nil
	})
}

// Unwrap needs CKA_DECRYPT on the key.
func (k *pkcs11Key) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	id, iv, sealed, err := splitPKCS11(wrapped)
	if err != nil {
		return nil, err
	}
	return k.call(ctx, nil, ad, func(s pkcs11.SessionHandle, _, ad []byte) ([]byte, error) {
		versions, err := k.find(s)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(versions, func(v pkcs11Version) bool { return bytes.Equal(v.id, id) })
		if i < 0 {
			return nil, fmt.Errorf("%w: names a key that the token doesn't have", ErrCorrupt)
		}
		plaintext, err := k.open(s, versions[i], iv, sealed, ad)
		if unclear := (unclearError{}); errors.As(err, &unclear) {
			if err := k.prove(s, slices.MaxFunc(versions, func(a, b pkcs11Version) int { return newer(a.id, b.id) })); err != nil {
				return nil, fmt.Errorf("%w: C_Decrypt: %w", ErrUnavailable, unclear.error)
			}
			return nil, fmt.Errorf("%w: doesn't authenticate", ErrCorrupt)
		}
		return plaintext, err
	})
}

// call retries do, with copies of its own of what the caller may clear.
func (k *pkcs11Key) call(ctx context.Context, plaintext, ad []byte, do func(s pkcs11.SessionHandle, plaintext, ad []byte) ([]byte, error)) ([]byte, error) {
	ad = bytes.Clone(ad)
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		plaintext := bytes.Clone(plaintext)
		return promptly(ctx, func(ctx context.Context) ([]byte, error) {
			defer clear(plaintext)
			return k.with(ctx, func(s pkcs11.SessionHandle) ([]byte, error) { return do(s, plaintext, ad) })
		})
	})
}

// with lends do a session. One that saw an error may be in the middle of something and isn't lent again; and what one
// session suffers of an outage, the others that wait have suffered too.
func (k *pkcs11Key) with(ctx context.Context, do func(pkcs11.SessionHandle) ([]byte, error)) ([]byte, error) {
	select {
	case k.room <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx)
	}
	defer func() { <-k.room }()
	s, err := k.session()
	if err != nil {
		return nil, err
	}
	b, err := do(s)
	if err == nil || errors.Is(err, ErrCorrupt) {
		k.free <- s
		return b, err
	}
	_ = k.lib.CloseSession(s)
	if errors.Is(err, ErrUnavailable) {
		k.drain()
	}
	return nil, err
}

func (k *pkcs11Key) drain() {
	for {
		select {
		case s := <-k.free:
			_ = k.lib.CloseSession(s)
		default:
			return
		}
	}
}

// session is a free one, or one more. The login holds for all sessions of the process, until the last is closed.
func (k *pkcs11Key) session() (pkcs11.SessionHandle, error) {
	select {
	case s := <-k.free:
		return s, nil
	default:
	}
	s, err := k.lib.OpenSession(k.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return 0, pkcs11Error("C_OpenSession", err)
	}
	if err := k.login(s); err != nil {
		_ = k.lib.CloseSession(s)
		return 0, err
	}
	return s, nil
}

// login doesn't try a PIN again that was refused: tokens lock themselves after a few of those.
func (k *pkcs11Key) login(s pkcs11.SessionHandle) error {
	if k.o.PIN == nil {
		return nil
	}
	if k.refused.Load() {
		return fmt.Errorf("%w: C_Login: the PIN was refused before", ErrDenied)
	}
	pin, err := k.o.PIN()
	if err != nil {
		return fmt.Errorf("pkcs11: asking for the PIN: %w", err)
	}
	err = k.lib.Login(s, pkcs11.CKU_USER, string(pin))
	if err == nil || errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return nil
	}
	err = pkcs11Error("C_Login", err)
	k.refused.Store(errors.Is(err, ErrDenied))
	return err
}

func (k *pkcs11Key) newest(s pkcs11.SessionHandle) (pkcs11Version, error) {
	versions, err := k.find(s)
	if err != nil {
		return pkcs11Version{}, err
	}
	return slices.MaxFunc(versions, func(a, b pkcs11Version) int { return newer(a.id, b.id) }), nil
}

// find returns at least one version, and no two of one id.
func (k *pkcs11Key) find(s pkcs11.SessionHandle) ([]pkcs11Version, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
	}
	if k.uri.object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.uri.object))
	}
	if len(k.uri.id) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, k.uri.id))
	}
	handles, err := k.handles(s, template)
	if err != nil {
		return nil, err
	}
	var versions []pkcs11Version
	for _, h := range handles {
		attributes, err := k.lib.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
		if err != nil {
			return nil, pkcs11Error("C_GetAttributeValue", err)
		}
		id := attributes[0].Value
		if len(id) > 255 || slices.ContainsFunc(versions, func(v pkcs11Version) bool { return bytes.Equal(v.id, id) }) {
			return nil, fmt.Errorf("%w: pkcs11: two keys of one id, or an id of more than 255 bytes", ErrDenied)
		}
		versions = append(versions, pkcs11Version{handle: h, id: id})
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("%w: pkcs11: no such key in the token, or not for this user", ErrDenied)
	}
	return versions, nil
}

func (k *pkcs11Key) handles(s pkcs11.SessionHandle, template []*pkcs11.Attribute) (all []pkcs11.ObjectHandle, err error) {
	if err := k.lib.FindObjectsInit(s, template); err != nil {
		return nil, pkcs11Error("C_FindObjectsInit", err)
	}
	for {
		some, _, err := k.lib.FindObjects(s, 64)
		if err != nil {
			return nil, pkcs11Error("C_FindObjects", err)
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := k.lib.FindObjectsFinal(s); err != nil {
		return nil, pkcs11Error("C_FindObjectsFinal", err)
	}
	return all, nil
}

// pkcs11Header is what stands before the IV.
func pkcs11Header(id []byte) []byte { return append([]byte{pkcs11Layout, byte(len(id))}, id...) }

// seal returns the IV that the token used: some write their own into what we hand them.
func (k *pkcs11Key) seal(s pkcs11.SessionHandle, v pkcs11Version, plaintext, ad []byte) (iv, sealed []byte, err error) {
	iv = make([]byte, pkcs11IV)
	if !k.o.TokenIV {
		rand.Read(iv)
	}
	params := pkcs11.NewGCMParams(iv, append(pkcs11Header(v.id), ad...), 8*pkcs11Tag)
	defer params.Free()
	if err := k.lib.EncryptInit(s, gcmMechanism(params), v.handle); err != nil {
		return nil, nil, pkcs11Error("C_EncryptInit", err)
	}
	sealed, err = k.lib.Encrypt(s, plaintext)
	if err != nil {
		return nil, nil, pkcs11Error("C_Encrypt", err)
	}
	used := params.IV()
	if len(used) != pkcs11IV || len(sealed) != len(plaintext)+pkcs11Tag {
		return nil, nil, fmt.Errorf("%w: C_Encrypt: an IV of %d bytes, and %d bytes of %d", ErrUnavailable, len(used), len(sealed), len(plaintext))
	}
	if k.o.TokenIV && bytes.Equal(used, iv) {
		return nil, nil, fmt.Errorf("%w: pkcs11: the token made no IV: don't set TokenIV", ErrDenied)
	}
	return used, sealed, nil
}

func (k *pkcs11Key) open(s pkcs11.SessionHandle, v pkcs11Version, iv, sealed, ad []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(iv, append(pkcs11Header(v.id), ad...), 8*pkcs11Tag)
	defer params.Free()
	if err := k.lib.DecryptInit(s, gcmMechanism(params), v.handle); err != nil {
		return nil, pkcs11Error("C_DecryptInit", err)
	}
	plaintext, err := k.lib.Decrypt(s, sealed)
	var code pkcs11.Error
	if err == nil || !errors.As(err, &code) {
		return plaintext, err
	}
	switch code {
	case pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_SIGNATURE_INVALID:
		return nil, fmt.Errorf("%w: C_Decrypt: %w", ErrCorrupt, code)
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED:
		return nil, unclearError{code}
	}
	return nil, pkcs11Error("C_Decrypt", code)
}

func gcmMechanism(p *pkcs11.GCMParams) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}
}

// unclearError is what a token says both of a tag that is wrong, SoftHSM among them, and of a trouble of its own.
// Whether it still does its work tells which.
type unclearError struct{ error }

// prove has the token open what it sealed, and refuse it under other associated data.
func (k *pkcs11Key) prove(s pkcs11.SessionHandle, v pkcs11Version) error {
	plaintext, ad := []byte(rand.Text()), []byte("proof")
	iv, sealed, err := k.seal(s, v, plaintext, ad)
	if err != nil {
		return err
	}
	got, err := k.open(s, v, iv, sealed, ad)
	if errors.Is(err, ErrDenied) {
		return err
	}
	if err != nil || !bytes.Equal(got, plaintext) {
		return fmt.Errorf("%w: pkcs11: the token doesn't open what it sealed", ErrUnavailable)
	}
	if _, err := k.open(s, v, iv, sealed, []byte("other")); err == nil {
		return fmt.Errorf("%w: pkcs11: the token doesn't bind associated data", ErrDenied)
	}
	return nil
}

// pkcs11Permissions are attributes of the key.
var pkcs11Permissions = map[string]string{"C_EncryptInit": "CKA_ENCRYPT on the key", "C_DecryptInit": "CKA_DECRYPT on the key"}

// pkcs11Error takes what an operator has to put right for ErrDenied. All else may pass, a handle among them that has
// become invalid: the next attempt looks it up.
func pkcs11Error(call string, err error) error {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, call, err)
	}
	switch code {
	case pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED:
		return permissionError{pkcs11Permissions[call], fmt.Errorf("%w: %s: %w", ErrDenied, call, code)}
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED,
		pkcs11.CKR_USER_PIN_NOT_INITIALIZED, pkcs11.CKR_USER_TYPE_INVALID, pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
		pkcs11.CKR_USER_TOO_MANY_TYPES, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:
		return fmt.Errorf("%w: %s: %w", ErrDenied, call, code)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, call, code)
}
