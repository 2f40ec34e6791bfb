package kms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

const passphrase = "correct horse battery staple"

var ad = []byte("tenant=1;kind=keyset")

// sealed makes Options for a keyset that is sealed to words.
func sealed(words string) kms.Options {
	return kms.Weak(kms.Options{Passphrase: func() ([]byte, error) { return []byte(words), nil }})
}

// local is a Provider over a keyset made with o; keyFile is what follows the path of the keyset in its URI.
func local(t *testing.T, o kms.Options, keyFile string) kmstest.Provider {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "root.age")
	uri := func(path string) string {
		if keyFile == "" {
			return "local://" + path
		}
		return "local://" + path + "?key-file=" + filepath.Join(dir, keyFile)
	}
	ours, theirs := uri(path), uri(filepath.Join(dir, "foreign.age"))
	for _, u := range []string{ours, theirs} {
		if err := kms.CreateLocal(u, o); err != nil {
			t.Fatalf("CreateLocal: %v", err)
		}
	}
	return kmstest.Provider{
		Open:     func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, ours, o) },
		Foreign:  func(ctx context.Context) (kms.Key, error) { return kms.Open(ctx, theirs, o) },
		InMemory: true,
		Rotate:   func() error { return kms.RotateLocal(ours, o) },
		Delete:   func() error { return os.Remove(path) },
	}
}

func TestLocalByPassphrase(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return local(t, sealed(passphrase), "")
	})
}

func TestLocalByKeyFile(t *testing.T) {
	t.Parallel()
	kmstest.Exercise(t, func(t *testing.T) kmstest.Provider {
		t.Helper()
		return local(t, kms.Options{}, "root.key")
	})
}

// files makes a keyset with a key file, and returns the paths of both and the URI.
func files(t *testing.T) (path, keyFile, uri string) {
	t.Helper()
	dir := t.TempDir()
	path, keyFile = filepath.Join(dir, "root.age"), filepath.Join(dir, "root.key")
	uri = "local://" + path + "?key-file=" + keyFile
	if err := kms.CreateLocal(uri, kms.Options{}); err != nil {
		t.Fatalf("CreateLocal: %v", err)
	}
	return path, keyFile, uri
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// denied checks that the key doesn't open, with an error that says why and quotes none of what the files hold.
func denied(t *testing.T, uri string, o kms.Options, why string) {
	t.Helper()
	key, err := kms.Open(t.Context(), uri, o)
	if key != nil || !errors.Is(err, kms.ErrDenied) || !strings.Contains(err.Error(), why) {
		t.Fatalf("Open = %v, %v, want ErrDenied that says %q", key, err, why)
	}
	for _, secret := range []string{passphrase, "AGE-SECRET-KEY", "age-encryption.org", "canary"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error holds %q: %v", secret, err)
		}
	}
}

func TestLocalURIIsThePath(t *testing.T) {
	t.Parallel()
	path, _, uri := files(t)
	key, err := kms.Open(t.Context(), uri, kms.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := key.URI(), "local://"+path; got != want {
		t.Errorf("URI() = %q, want %q", got, want)
	}
}

func TestLocalRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("keys of 100%", 0o700); err != nil {
		t.Fatal(err)
	}
	const uri = "local://./keys of 100%/root+1.age?key-file=keys of 100%/root+1.key"
	if err := kms.CreateLocal(uri, kms.Options{}); err != nil {
		t.Fatal(err)
	}
	key, err := kms.Open(t.Context(), uri, kms.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := key.URI(), "local://keys of 100%/root+1.age"; got != want {
		t.Errorf("URI() = %q, want %q", got, want)
	}
	if mustRead(t, "keys of 100%/root+1.key") == nil {
		t.Error("no key file where the URI says")
	}
}

func TestLocalBadURI(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"local:", "local:root.age", "local://", "local://?key-file=k", "local://root.age?key-file=",
		"local://root.age?passphrase=hunter2", "local://root.age?key-file=k&passphrase=hunter2",
		"local://root.age?key-file=k?key-file=k", "local://root.age?key-file=./root.age",
	} {
		_, openErr := kms.Open(t.Context(), uri, sealed(passphrase))
		for call, err := range map[string]error{
			"Open":        openErr,
			"CreateLocal": kms.CreateLocal(uri, sealed(passphrase)),
			"RotateLocal": kms.RotateLocal(uri, sealed(passphrase)),
		} {
			if err == nil || errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s(%q) = %v, want a misuse error without the URI's parameters", call, uri, err)
			}
		}
	}
}

func TestLocalFilesArePrivate(t *testing.T) {
	t.Parallel()
	path, keyFile, uri := files(t)
	for _, file := range []string{path, keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", file, info.Mode())
		}
		for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601, 0o777} {
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
			denied(t, uri, kms.Options{}, fmt.Sprintf("%s has mode %04o", file, mode))
			if err := kms.RotateLocal(uri, kms.Options{}); !errors.Is(err, kms.ErrDenied) {
				t.Errorf("RotateLocal at mode %v = %v, want ErrDenied", mode, err)
			}
		}
		if err := os.Chmod(file, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kms.Open(t.Context(), uri, kms.Options{}); err != nil {
		t.Errorf("Open of read-only files: %v", err)
	}
}

func TestLocalWrongSecret(t *testing.T) {
	t.Parallel()
	path, keyFile, uri := files(t)
	_, otherKeyFile, _ := files(t)
	byPassphrase := "local://" + filepath.Join(t.TempDir(), "root.age")
	if err := kms.CreateLocal(byPassphrase, sealed(passphrase)); err != nil {
		t.Fatal(err)
	}
	const why = "wrong passphrase or key file"
	denied(t, byPassphrase, sealed("canary"), why)
	denied(t, byPassphrase, sealed(passphrase+"\n"), why)
	denied(t, byPassphrase+"?key-file="+keyFile, kms.Options{}, why)
	denied(t, "local://"+path, sealed(passphrase), why)
	denied(t, "local://"+path+"?key-file="+otherKeyFile, kms.Options{}, why)
	if _, err := kms.Open(t.Context(), uri, kms.Options{}); err != nil {
		t.Errorf("Open: %v", err)
	}
}

func TestLocalPassphraseCallback(t *testing.T) {
	t.Parallel()
	_, _, uri := files(t)
	unasked := kms.Options{Passphrase: func() ([]byte, error) {
		t.Error("asked for a passphrase although there is a key file")
		return nil, nil
	}}
	if _, err := kms.Open(t.Context(), uri, unasked); err != nil {
		t.Errorf("Open: %v", err)
	}
	cause := errors.New("no terminal")
	failing := kms.Options{Passphrase: func() ([]byte, error) { return nil, cause }}
	path := filepath.Join(t.TempDir(), "root.age")
	for name, o := range map[string]kms.Options{"none": {}, "empty": sealed(""), "failing": failing} {
		err := kms.CreateLocal("local://"+path, o)
		if err == nil || name == "failing" && !errors.Is(err, cause) {
			t.Errorf("%s: CreateLocal = %v", name, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: CreateLocal left a file: %v", name, err)
		}
	}
}

func TestLocalDamagedFiles(t *testing.T) {
	t.Parallel()
	path, keyFile, uri := files(t)
	good := mustRead(t, path)
	put := func(file string, b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range [][]byte{
		nil, []byte("canary"), good[:len(good)-1], good[:len(good)/2], append(bytes.Clone(good), 0),
		bytes.Replace(good, []byte("X25519"), []byte("canary"), 1), bytes.Repeat([]byte("canary"), 1<<18),
	} {
		put(path, bad)
		denied(t, uri, kms.Options{}, "keyset file")
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		put(path, bad)
		denied(t, uri, kms.Options{}, "keyset file")
	}
	put(path, good)

	identity := mustRead(t, keyFile)
	for _, bad := range [][]byte{
		nil, []byte("canary"), []byte("AGE-SECRET-KEY-1CANARY"), identity[:len(identity)-3], append(bytes.Clone(identity), identity...),
	} {
		put(keyFile, bad)
		denied(t, uri, kms.Options{}, "key file")
	}
}

func TestLocalMissingFiles(t *testing.T) {
	t.Parallel()
	path, keyFile, uri := files(t)
	dir := filepath.Dir(path)
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	denied(t, "local://"+pipe+"?key-file="+keyFile, kms.Options{}, "not a regular file")
	denied(t, "local://"+path+"?key-file="+dir, kms.Options{}, "not a regular file")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	denied(t, uri, kms.Options{}, "no such file")
	if _, err := kms.Open(t.Context(), uri, kms.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, want fs.ErrNotExist", err)
	}
	if err := kms.RotateLocal(uri, kms.Options{}); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, kms.ErrDenied) {
		t.Errorf("RotateLocal = %v, want fs.ErrNotExist and ErrDenied", err)
	}
}

func TestCreateLocalNeverOverwrites(t *testing.T) {
	t.Parallel()
	path, keyFile, uri := files(t)
	keyset, identity := mustRead(t, path), mustRead(t, keyFile)
	if err := kms.CreateLocal(uri, kms.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("CreateLocal over both files = %v, want fs.ErrExist", err)
	}
	// Cut short after the key file: the same call finishes it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := kms.CreateLocal(uri, kms.Options{}); err != nil {
		t.Errorf("CreateLocal over the key file: %v", err)
	}
	if !bytes.Equal(mustRead(t, keyFile), identity) {
		t.Error("the key file was overwritten")
	}
	if bytes.Equal(mustRead(t, path), keyset) {
		t.Error("the keyset isn't new")
	}
	if _, err := kms.Open(t.Context(), uri, kms.Options{}); err != nil {
		t.Errorf("Open: %v", err)
	}
	// A link that leads nowhere is a file too.
	link := filepath.Join(filepath.Dir(path), "link.age")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	if err := kms.CreateLocal("local://"+link+"?key-file="+keyFile, kms.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("CreateLocal over a link = %v, want fs.ErrExist", err)
	}
}

// TestCreateLocalRace: of many creations at once one makes the keyset, and the others leave it and no rubbish.
func TestCreateLocalRace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keyFile := filepath.Join(dir, "root.key")
	first := "local://" + filepath.Join(dir, "first.age") + "?key-file=" + keyFile
	if err := kms.CreateLocal(first, kms.Options{}); err != nil {
		t.Fatal(err)
	}
	uri := "local://" + filepath.Join(dir, "root.age") + "?key-file=" + keyFile
	var made atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if kms.CreateLocal(uri, kms.Options{}) == nil {
				made.Add(1)
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("%d creations succeeded, want 1", n)
	}
	if _, err := kms.Open(t.Context(), uri, kms.Options{}); err != nil {
		t.Errorf("Open: %v", err)
	}
	wantFiles(t, dir, "first.age", "root.age", "root.key")
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("files %q, want %q", got, want)
	}
}

// TestRotateLocalRace: whatever was wrapped between rotations that ran at once still opens, so no rotation wrote
// over the key of another.
func TestRotateLocalRace(t *testing.T) {
	t.Parallel()
	path, _, uri := files(t)
	var mu sync.Mutex
	var wrapped [][]byte
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 8 {
				if kms.RotateLocal(uri, kms.Options{}) != nil {
					continue // another one was at it
				}
				key, err := kms.Open(t.Context(), uri, kms.Options{})
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				w, err := key.Wrap(t.Context(), []byte("key material"), ad)
				if err != nil {
					t.Errorf("Wrap: %v", err)
					return
				}
				mu.Lock()
				wrapped = append(wrapped, w)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	key, err := kms.Open(t.Context(), uri, kms.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(wrapped) == 0 {
		t.Fatal("no rotation succeeded")
	}
	for i, w := range wrapped {
		if _, err := key.Unwrap(t.Context(), w, ad); err != nil {
			t.Errorf("wrapped after rotation %d of %d: %v", i, len(wrapped), err)
		}
	}
	wantFiles(t, filepath.Dir(path), "root.age", "root.key")
}

// TestRotateLocalCutShort: a staged file that a crash left behind stops the next rotation, says so, and is
// neither used nor removed.
func TestRotateLocalCutShort(t *testing.T) {
	t.Parallel()
	path, _, uri := files(t)
	before := mustRead(t, path)
	if err := os.WriteFile(path+".new", []byte("half a keyset"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := kms.RotateLocal(uri, kms.Options{})
	if err == nil || !strings.Contains(err.Error(), path+".new is there") || errors.Is(err, fs.ErrExist) {
		t.Errorf("RotateLocal = %v, want an error that names the staged file", err)
	}
	if !bytes.Equal(mustRead(t, path), before) {
		t.Error("the keyset changed")
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := kms.RotateLocal(uri, kms.Options{}); err != nil {
		t.Errorf("RotateLocal: %v", err)
	}
}

func TestRotateLocalThroughLink(t *testing.T) {
	t.Parallel()
	path, keyFile, _ := files(t)
	before := mustRead(t, path)
	link := filepath.Join(t.TempDir(), "link.age")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	uri := "local://" + link + "?key-file=" + keyFile
	if err := kms.RotateLocal(uri, kms.Options{}); err != nil {
		t.Fatalf("RotateLocal: %v", err)
	}
	if _, err := kms.Open(t.Context(), uri, kms.Options{}); err != nil {
		t.Errorf("Open: %v", err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	if bytes.Equal(mustRead(t, path), before) {
		t.Error("the target wasn't rotated")
	}
}

// A keyset file and a wrapped key as the first release made them, sealed to passphrase.
const (
	firstKeyset = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBwUEUwWTFheFlGSHJCQW44OWZnOTl3IDQKQlVkMGlxUVNUb0xVMW9v" +
		"M3BocDE3dEJkaDZtV0xJMVJPNWdTbkVaVFd2RQotLS0gMWc4YkJGbkxtRjdFbkM2N0tMK0NFM0Z2cXRFdFo2Z2c0M01PODlF" +
		"VFVDYwquuLvK5sIaAcUnCHQp6xIDR0CabJrrwAQwtMhfHsMjhvA3ARzfTG06nWjO1oPtFqKc9meMfVO2/WA0GvXkj0bA/3qE" +
		"xXbvRQL5dj4rpYkIkYBPe11dRVd/1MW4XMzffTV/+2Z3UlcyE3rR+oh+yhj7ABTC6R1BpjjoaxA2CsxdSVTzijG9kTKV8EyQ" +
		"VwHDLQ=="
	firstWrapped = "AQkxWQOKbTndJxmYRYvCjmKBFab4e//FG7UcMfrh1z+NWVAovH9+Gh7D8YDXfVOoyDGz0elQGwVKrSur7GhnTS77UN5v+g8H/3OGwNU="
)

// TestLocalFormatLasts holds that later releases open what the first one wrote.
func TestLocalFormatLasts(t *testing.T) {
	t.Parallel()
	keyset, err := base64.StdEncoding.DecodeString(firstKeyset)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := base64.StdEncoding.DecodeString(firstWrapped)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.age")
	if err := os.WriteFile(path, keyset, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := kms.Open(t.Context(), "local://"+path, sealed(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	const want = "key material of the first format"
	got, err := key.Unwrap(t.Context(), wrapped, ad)
	if err != nil || string(got) != want {
		t.Errorf("Unwrap = %q, %v, want %q", got, err, want)
	}
	// Prefix and key id, 192-bit nonce, tag: see sealWithNewPrimary for why it is no shorter.
	if overhead := len(wrapped) - len(want); wrapped[0] != 1 || overhead != 5+24+16 {
		t.Errorf("wrapped begins with %d and is %d bytes longer, want 1 and %d", wrapped[0], overhead, 5+24+16)
	}
	again, err := key.Wrap(t.Context(), []byte(want), ad)
	if err != nil || len(again) != len(wrapped) || !bytes.Equal(again[:5], wrapped[:5]) {
		t.Errorf("Wrap returns %d bytes, %v, want the %d of the first format and its key id", len(again), err, len(wrapped))
	}
}

// TestLocalWorkFactor doesn't seal at full strength, which takes 10 s under the race detector.
func TestLocalWorkFactor(t *testing.T) {
	t.Parallel()
	if kms.ScryptWorkFactor < 18 {
		t.Errorf("work factor %d, want at least age's 18", kms.ScryptWorkFactor)
	}
	if kms.ScryptWorkFactor > kms.MaxScryptWorkFactor {
		t.Errorf("files are sealed with work factor %d, and refused above %d", kms.ScryptWorkFactor, kms.MaxScryptWorkFactor)
	}
}

// TestLocalPlantedWorkFactor: a file that asks for more than 1 GiB is refused before it gets it.
func TestLocalPlantedWorkFactor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.age")
	uri := "local://" + path
	if err := kms.CreateLocal(uri, sealed(passphrase)); err != nil {
		t.Fatal(err)
	}
	planted := bytes.Replace(mustRead(t, path), []byte(" 4\n"), []byte(" 21\n"), 1)
	if err := os.WriteFile(path, planted, 0o600); err != nil {
		t.Fatal(err)
	}
	denied(t, uri, sealed(passphrase), "damaged")
}

func BenchmarkLocalWrapUnwrap(b *testing.B) {
	key := kmstest.Local(b)
	dek := bytes.Repeat([]byte{7}, 32)
	b.ReportAllocs()
	for b.Loop() {
		wrapped, err := key.Wrap(b.Context(), dek, ad)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := key.Unwrap(b.Context(), wrapped, ad); err != nil {
			b.Fatal(err)
		}
	}
}
