//go:build pkcs11 && cgo

package kms_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

// These tests run against SoftHSM2 (Debian: softhsm2), through a module in C that can be told to fail.

const (
	hsmToken = "privault; tests" // a name that a URI has to encode
	hsmPIN   = "correct horse"
)

// hsm is the one token of the test binary, and a session of the tests' own with it.
var hsm struct {
	dir, module string
	lib         *pkcs11.Ctx
	session     pkcs11.SessionHandle
	mu          sync.Mutex // a session does one thing at a time
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "privault-softhsm")
		if err == nil {
			defer func() { _ = os.RemoveAll(dir) }()
			err = startHSM(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "SoftHSM2 (Debian: apt-get install softhsm2) and a C compiler are needed:", err)
			return 1
		}
		return m.Run()
	}())
}

func startHSM(dir string) error {
	library := cmp.Or(os.Getenv("PRIVAULT_TEST_SOFTHSM"), "/usr/lib/softhsm/libsofthsm2.so")
	if _, err := os.Stat(library); err != nil {
		return err
	}
	hsm.dir, hsm.module = dir, filepath.Join(dir, "module.so")
	compile := exec.Command(cmp.Or(os.Getenv("CC"), "cc"), "-shared", "-fPIC", "-O1", `-DSOFTHSM="`+library+`"`, "-o", hsm.module, "testdata/faulty.c", "-ldl")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	text := "directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	if err := os.Setenv("SOFTHSM2_CONF", conf); err != nil {
		return err
	}
	hsm.lib = pkcs11.New(library)
	if hsm.lib == nil {
		return errors.New("the library can't be loaded")
	}
	if err := hsm.lib.Initialize(); err != nil {
		return err
	}
	var err error
	hsm.session, err = initToken(hsmToken)
	return err
}

// initToken makes a token and returns a session that its user has logged into.
func initToken(label string) (pkcs11.SessionHandle, error) {
	slots, err := hsm.lib.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	slot := slots[len(slots)-1] // SoftHSM2 keeps one free at the end
	if err := hsm.lib.InitToken(slot, "security officer", label); err != nil {
		return 0, err
	}
	s, err := hsm.lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return 0, err
	}
	return s, errors.Join(hsm.lib.Login(s, pkcs11.CKU_SO, "security officer"), hsm.lib.InitPIN(s, hsmPIN), hsm.lib.Logout(s),
		hsm.lib.Login(s, pkcs11.CKU_USER, hsmPIN))
}

// hsmChange makes a change. While others read the token, SoftHSM2 fails now and then to write to it, for this reason
// or that.
func hsmChange(do func() error) (err error) {
	for range 20 {
		if err = do(); err == nil {
			break
		}
	}
	return err
}

// hsmCreate makes an AES key.
func hsmCreate(label string, id ...byte) error {
	hsm.mu.Lock()
	defer hsm.mu.Unlock()
	return hsmChange(func() error {
		_, err := hsm.lib.GenerateKey(hsm.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		})
		return err
	})
}

// hsmEach does something to each key of a label and, if one is given, an id.
func hsmEach(label string, id []byte, do func(pkcs11.ObjectHandle) error) error {
	hsm.mu.Lock()
	defer hsm.mu.Unlock()
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}
	if id != nil {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	if err := hsm.lib.FindObjectsInit(hsm.session, template); err != nil {
		return err
	}
	found, _, err := hsm.lib.FindObjects(hsm.session, 100)
	err = errors.Join(err, hsm.lib.FindObjectsFinal(hsm.session))
	for _, o := range found {
		err = errors.Join(err, hsmChange(func() error { return do(o) }))
	}
	return err
}

func hsmDestroy(o pkcs11.ObjectHandle) error { return hsm.lib.DestroyObject(hsm.session, o) }

// hsmAllow sets what a key may be used for.
func hsmAllow(encrypt, decrypt bool) func(pkcs11.ObjectHandle) error {
	return func(o pkcs11.ObjectHandle) error {
		return hsm.lib.SetAttributeValue(hsm.session, o, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, encrypt), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, decrypt),
		})
	}
}

// hsmWorld is a module of the test's own, with one key.
type hsmWorld struct{ label, module string }

func newHSMWorld(t *testing.T) hsmWorld {
	t.Helper()
	w := hsmWorld{label: rand.Text(), module: filepath.Join(t.TempDir(), "module.so")}
	code, err := os.ReadFile(hsm.module)
	if err == nil {
		err = os.WriteFile(w.module, code, 0o700)
	}
	if err = errors.Join(err, hsmCreate(w.label, 1)); err != nil {
		t.Fatal(err)
	}
	return w
}

func hsmURI(label string) string {
	return "pkcs11:token=" + strings.NewReplacer(" ", "%20", ";", "%3B").Replace(hsmToken) + ";object=" + label
}

func (w hsmWorld) options() kms.Options {
	return kms.Options{PKCS11: kms.PKCS11Options{Module: w.module, PIN: func() ([]byte, error) { return []byte(hsmPIN), nil }}}
}

func (w hsmWorld) open(t *testing.T) kms.Key {
	t.Helper()
	k, err := closing(t, hsmURI(w.label), w.options())(t.Context())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return k
}

// set switches a fault of the module.
func (w hsmWorld) set(fault string, on bool) error {
	path := w.module + "." + fault
	if on {
		return os.WriteFile(path, nil, 0o600)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (w hsmWorld) mustSet(t *testing.T, fault string, on bool) {
	t.Helper()
	if err := w.set(fault, on); err != nil {
		t.Fatal(err)
	}
}

func (w hsmWorld) throttle(calls int) error {
	return errors.Join(w.set("throttle", true), os.Truncate(w.module+".throttle", int64(calls)))
}

func TestPKCS11(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		w, foreign := newHSMWorld(t), newHSMWorld(t)
		last := byte(1)
		return kmstest.Provider{
			Open:     closing(t, hsmURI(w.label), w.options()),
			Foreign:  closing(t, hsmURI(foreign.label), foreign.options()),
			Rotate:   func() error { last++; return hsmCreate(w.label, last) },
			Retire:   func() error { return hsmEach(w.label, []byte{1}, hsmDestroy) },
			Delete:   func() error { return hsmEach(w.label, nil, hsmDestroy) },
			Disable:  func(on bool) error { return hsmEach(w.label, nil, hsmAllow(!on, !on)) },
			Outage:   func(on bool) error { return w.set("down", on) },
			Stall:    func(on bool) error { return w.set("stall", on) },
			Throttle: w.throttle,
		}
	})
}

// TestPKCS11Service tells the stories of an HSM, where the URIs of two keys are given, with module-path and pin-source.
func TestPKCS11Service(t *testing.T) {
	ours, theirs := os.Getenv("PRIVAULT_TEST_PKCS11_KEY"), os.Getenv("PRIVAULT_TEST_PKCS11_FOREIGN_KEY")
	if ours == "" || theirs == "" {
		return
	}
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return kmstest.Provider{Open: closing(t, ours, kms.Options{}), Foreign: closing(t, theirs, kms.Options{})}
	})
}

// TestPKCS11Removed: with the device its sessions are gone, and they all come back with it.
func TestPKCS11Removed(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	k := w.open(t)
	wrapped := mustWrap(t, k, "key material")
	w.mustSet(t, "gone", true)
	if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(kindOf(err), kms.ErrUnavailable) {
		t.Errorf("Unwrap: %v, want ErrUnavailable", err)
	}
	if _, err := kms.Open(t.Context(), hsmURI(w.label), w.options()); !errors.Is(kindOf(err), kms.ErrUnavailable) {
		t.Errorf("Open: %v, want ErrUnavailable", err)
	}
	w.mustSet(t, "gone", false)
	wantUnwrapped(t, k, wrapped, "key material")
}

// TestPKCS11StaleSessions: a token that was started anew knows none of our sessions, and there may be more of them than
// a call has attempts.
func TestPKCS11StaleSessions(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	k := w.open(t)
	wrapped := mustWrap(t, k, "key material")
	w.mustSet(t, "stall", true)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() { wantUnwrapped(t, k, wrapped, "key material") })
	}
	<-time.After(50 * time.Millisecond) // by which all have a session of their own
	w.mustSet(t, "stall", false)
	callers.Wait()
	w.mustSet(t, "stale", true)
	wantUnwrapped(t, k, wrapped, "key material")
}

// TestPKCS11Unclear: SoftHSM2 says the same of a wrong tag and of a trouble of its own, and we tell them apart, even
// where the key in question may no longer wrap.
func TestPKCS11Unclear(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	k := w.open(t)
	wrapped := mustWrap(t, k, "key material")
	if err := errors.Join(hsmEach(w.label, []byte{1}, hsmAllow(false, true)), hsmCreate(w.label, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unwrap(t.Context(), wrapped, []byte("other")); !errors.Is(kindOf(err), kms.ErrCorrupt) {
		t.Errorf("other associated data: %v, want ErrCorrupt", err)
	}
	w.mustSet(t, "down", true)
	if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(kindOf(err), kms.ErrUnavailable) {
		t.Errorf("token down: %v, want ErrUnavailable", err)
	}
	w.mustSet(t, "down", false)
	wantUnwrapped(t, k, wrapped, "key material")
}

// TestPKCS11Permissions: an attribute that the key lacks is named. Open finds out, since it has the token prove itself.
func TestPKCS11Permissions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		encrypt, decrypt bool
		missing          string
	}{{false, true, "CKA_ENCRYPT on the key"}, {true, false, "CKA_DECRYPT on the key"}} {
		w := newHSMWorld(t)
		if err := hsmEach(w.label, nil, hsmAllow(test.encrypt, test.decrypt)); err != nil {
			t.Fatal(err)
		}
		wantDenied(t, kms.Check(t.Context(), hsmURI(w.label), w.options(), time.Minute), "open", test.missing)
	}
}

// TestPKCS11IV: whoever makes the IV, it is the one that was used that is kept.
func TestPKCS11IV(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	theirs := w.options()
	theirs.PKCS11.TokenIV = true
	if _, err := kms.Open(t.Context(), hsmURI(w.label), theirs); !errors.Is(kindOf(err), kms.ErrDenied) {
		t.Errorf("TokenIV with a token that makes none: %v, want ErrDenied", err)
	}
	ours := w.open(t)
	w.mustSet(t, "iv", true)
	k := mustOpen(t, hsmURI(w.label), theirs)
	wrapped, again := mustWrap(t, k, "key material"), mustWrap(t, k, "key material")
	if zero := make([]byte, 12); bytes.Equal(wrapped[3:15], zero) || bytes.Equal(wrapped[3:15], again[3:15]) {
		t.Errorf("IVs %x and %x", wrapped[3:15], again[3:15])
	}
	wantUnwrapped(t, ours, wrapped, "key material")
	if _, err := ours.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(kindOf(err), kms.ErrDenied) {
		t.Errorf("an IV of ours, to a token that takes none: %v, want ErrDenied", err)
	}
}

// TestPKCS11AssociatedData: a token that drops it isn't taken.
func TestPKCS11AssociatedData(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	w.mustSet(t, "lax", true)
	if _, err := kms.Open(t.Context(), hsmURI(w.label), w.options()); !errors.Is(kindOf(err), kms.ErrDenied) {
		t.Errorf("Open: %v, want ErrDenied", err)
	}
}

// TestPKCS11Hangs: calls that don't return get no more sessions than there are.
func TestPKCS11Hangs(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	o := w.options()
	o.PKCS11.Sessions = 2
	k := mustOpen(t, hsmURI(w.label), o)
	wrapped := mustWrap(t, k, "key material")
	w.mustSet(t, "stall", true)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began := time.Now()
			if _, err := k.Unwrap(ctx, wrapped, ad); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 2*time.Second {
				t.Errorf("Unwrap: %v after %v, want DeadlineExceeded at once", err, time.Since(began))
			}
		})
	}
	callers.Wait()
	w.mustSet(t, "stall", false)
	wantUnwrapped(t, k, wrapped, "key material")
}

// TestPKCS11Versions: the highest id wraps, whatever came first, and an id in the URI stands for itself.
func TestPKCS11Versions(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	k := w.open(t)
	for _, id := range [][]byte{{1, 0}, {0, 9}, nil} {
		if err := hsmCreate(w.label, id...); err != nil {
			t.Fatal(err)
		}
	}
	wrapped := mustWrap(t, k, "key material")
	if !bytes.HasPrefix(wrapped, []byte{1, 2, 1, 0}) {
		t.Errorf("wrapped begins with %x, want layout 1 and id 0100", wrapped[:4])
	}
	first := mustOpen(t, hsmURI(w.label)+";id=%01", w.options())
	if got, want := first.URI(), hsmURI(w.label)+";id=%01"; got != want {
		t.Errorf("URI %s, want %s", got, want)
	}
	if _, err := first.Unwrap(t.Context(), wrapped, ad); !errors.Is(kindOf(err), kms.ErrCorrupt) {
		t.Errorf("wrapped by another id: %v, want ErrCorrupt", err)
	}
	wantUnwrapped(t, k, mustWrap(t, first, "key material"), "key material")
	if err := hsmEach(w.label, []byte{1, 0}, hsmDestroy); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unwrap(t.Context(), wrapped, ad); !errors.Is(kindOf(err), kms.ErrCorrupt) {
		t.Errorf("wrapped by an id that is gone: %v, want ErrCorrupt", err)
	}
	if err := hsmCreate(w.label, 9); err != nil {
		t.Fatal(err)
	}
	if err := hsmCreate(w.label, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Wrap(t.Context(), []byte("key material"), ad); !errors.Is(kindOf(err), kms.ErrDenied) {
		t.Errorf("two keys of one id: %v, want ErrDenied", err)
	}
}

// TestPKCS11Login has a token to itself: a login holds for the whole process.
func TestPKCS11Login(t *testing.T) {
	t.Parallel()
	hsm.mu.Lock()
	label := "login " + rand.Text()[:8]
	s, err := initToken(label)
	if err == nil {
		err = hsm.lib.CloseSession(s)
	}
	hsm.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	w := newHSMWorld(t)
	uri := "pkcs11:token=" + strings.ReplaceAll(label, " ", "%20") + ";object=none"
	asked := errors.New("the secret store is down")
	for name, test := range map[string]struct {
		pin  func() ([]byte, error)
		want error
	}{
		"wrong PIN":          {func() ([]byte, error) { return []byte("hunter2"), nil }, kms.ErrDenied},
		"no key":             {func() ([]byte, error) { return []byte(hsmPIN), nil }, kms.ErrDenied},
		"error of the asked": {func() ([]byte, error) { return nil, asked }, asked},
	} {
		o := w.options()
		o.PKCS11.PIN = test.pin
		_, err := kms.Open(t.Context(), uri, o)
		if !errors.Is(err, test.want) || strings.Contains(err.Error(), "hunter2") || errors.Is(test.want, asked) && kindOf(err) != nil {
			t.Errorf("%s: Open: %v, want %v and no quotation", name, err, test.want)
		}
	}
}

// TestPKCS11PinSource: what the URI says of the module and of the PIN isn't in the name of the key.
func TestPKCS11PinSource(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(hsmPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := mustOpen(t, hsmURI(w.label)+"?module-path="+w.module+"&pin-source=file:"+pin, kms.Options{})
	wantUnwrapped(t, w.open(t), mustWrap(t, k, "key material"), "key material")
	if got, want := k.URI(), hsmURI(w.label); got != want {
		t.Errorf("URI %s, want %s", got, want)
	}
	if err := os.Chmod(pin, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := kms.Open(t.Context(), hsmURI(w.label)+"?module-path="+w.module+"&pin-source="+pin, kms.Options{}); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("a PIN that others may read: %v, want ErrDenied", err)
	}
}

func TestPKCS11Unopenable(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	for name, test := range map[string]struct {
		uri    string
		module string
	}{
		"no such module": {hsmURI(w.label), w.module + ".absent"},
		"not a module":   {hsmURI(w.label), "/etc/hostname"},
		"no such token":  {"pkcs11:token=absent;object=k", w.module},
		"other serial":   {hsmURI(w.label) + ";serial=absent", w.module},
		"no such key":    {hsmURI("absent"), w.module},
	} {
		o := w.options()
		o.PKCS11.Module = test.module
		if k, err := kms.Open(t.Context(), test.uri, o); k != nil || !errors.Is(err, kms.ErrDenied) {
			t.Errorf("%s: Open: %v, %v, want ErrDenied", name, k, err)
		}
	}
}
