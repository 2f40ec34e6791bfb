package kms

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const (
	// scryptWorkFactor is age's own default: about a second and 256 MiB for each guess at a passphrase.
	scryptWorkFactor = 18
	// maxScryptWorkFactor bounds what a planted keyset file can make Open spend (1 GiB). age's default would
	// allow 4 GiB.
	maxScryptWorkFactor = 20
)

// localKey is a Tink keyset in memory. It was read once: the files may move, change or go, and it goes on.
type localKey struct {
	uri  string
	aead tink.AEAD
}

// localPaths is a parsed local URI.
type localPaths struct {
	keyset  string
	keyFile string // empty: sealed to a passphrase
}

// CreateLocal makes the keyset file of a local URI, with one fresh key in it, sealed as the URI says. A key file
// that the URI names and that isn't there yet is made too; one that is there is used, so that a creation that
// was cut short can be run again. No file is ever overwritten: a keyset file that exists is an error that
// matches fs.ErrExist. Both files have mode 0600 and are on disk when CreateLocal returns.
//
// The key file opens the keyset file: keep them, and their backups, in different places. Its public half isn't
// written down anywhere, because age doesn't authenticate who sealed to a public key, and whoever had it could
// put a keyset of his own in the place of ours.
func CreateLocal(uri string, o Options) error {
	at, err := parseLocal(uri)
	if err != nil {
		return err
	}
	// The link in create decides; this only spares the key file and the passphrase.
	if _, err := os.Lstat(at.keyset); err == nil {
		return at.wrong("making the keyset file: %w", fs.ErrExist)
	}
	if at.keyFile != "" {
		if err := createKeyFile(at.keyFile); err != nil && !errors.Is(err, fs.ErrExist) {
			return at.wrong("making the key file: %w", err)
		}
	}
	s, err := at.sealer(o)
	if err != nil {
		return err
	}
	err = create(at.keyset, func() ([]byte, error) { return s.sealWithNewPrimary(keyset.NewManager()) })
	if err != nil {
		return at.wrong("making the keyset file: %w", err)
	}
	return nil
}

// RotateLocal adds a key to the keyset file of a local URI, and wraps with it from then on; what older keys
// wrapped still opens. The file is replaced atomically, and two rotations at once can't lose a key.
//
// A Key that is already open doesn't notice: it goes on wrapping with the older key, and what the new one
// wrapped is ErrCorrupt to it. So reopen it in every process that has it before any of them wraps again.
func RotateLocal(uri string, o Options) error {
	at, err := parseLocal(uri)
	if err != nil {
		return err
	}
	s, err := at.sealer(o)
	if err != nil {
		return err
	}
	// The target and not the link, or the rename would leave the target as it was.
	path, err := filepath.EvalSymlinks(at.keyset)
	if err != nil {
		return at.denied("keyset file: %w", err)
	}
	err = replace(path, func() ([]byte, error) {
		h, err := s.open()
		if err != nil {
			return nil, err
		}
		return s.sealWithNewPrimary(keyset.NewManagerFromHandle(h))
	})
	if err != nil {
		return at.wrong("rotating: %w", err)
	}
	return nil
}

// openLocal reads the keyset into memory. Whatever an operator has to put right (a file that is missing,
// damaged or open to others, a wrong passphrase or key file) is ErrDenied. ctx can't interrupt scrypt, so a
// passphrase delays a cancellation by up to a second.
func openLocal(ctx context.Context, uri string, o Options) (Key, error) {
	at, err := parseLocal(uri)
	if err != nil {
		return nil, err
	}
	s, err := at.sealer(o)
	if err != nil {
		return nil, err
	}
	h, err := s.open()
	if err != nil {
		return nil, at.wrong("%w", err)
	}
	a, err := aead.New(h)
	if err != nil {
		return nil, at.denied("keyset file: no usable key")
	}
	if err := ended(ctx); err != nil {
		return nil, err
	}
	return &localKey{uri: "local://" + at.keyset, aead: a}, nil
}

func (k *localKey) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := checkWrap(ctx, plaintext, ad); err != nil {
		return nil, err
	}
	wrapped, err := k.aead.Encrypt(plaintext, ad)
	if err != nil {
		return nil, fmt.Errorf("wrap: %w", err)
	}
	return wrapped, nil
}

// Unwrap needs no look at the prefix of its own: Tink tries the keys whose id it carries, and no other.
func (k *localKey) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	plaintext, err := k.aead.Decrypt(wrapped, ad)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return plaintext, nil
}

func (k *localKey) URI() string { return k.uri }

// parseLocal takes both paths as they stand, without percent-decoding: they are file names, not web addresses.
func parseLocal(uri string) (localPaths, error) {
	rest, ok := strings.CutPrefix(uri, "local://")
	if !ok {
		return localPaths{}, errors.New("not a local key URI: want local://PATH or local://PATH?key-file=PATH")
	}
	path, keyFile, sealed := strings.Cut(rest, "?key-file=")
	switch {
	case path == "" || sealed && keyFile == "":
		return localPaths{}, errors.New("local key URI with an empty path")
	case strings.ContainsAny(path+keyFile, "?&"):
		return localPaths{}, errors.New("local key URI: the only parameter is key-file, and paths hold no ? or &")
	}
	at := localPaths{keyset: filepath.Clean(path)}
	if sealed {
		at.keyFile = filepath.Clean(keyFile)
	}
	if at.keyset == at.keyFile {
		return localPaths{}, errors.New("local key URI: the keyset file and its key file are the same")
	}
	return at, nil
}

func (p localPaths) wrong(format string, args ...any) error {
	return fmt.Errorf("local key %s: %w", p.keyset, fmt.Errorf(format, args...))
}

func (p localPaths) denied(format string, args ...any) error {
	return fmt.Errorf("local key %s: %w: %w", p.keyset, ErrDenied, fmt.Errorf(format, args...))
}

// sealer seals and opens the keyset file of one URI.
type sealer struct {
	at        localPaths
	recipient age.Recipient
	identity  age.Identity
}

// sealer reads the key file, or asks for the passphrase. age's errors are told apart and then dropped, here and
// in open: some of them quote the file.
func (p localPaths) sealer(o Options) (sealer, error) {
	if p.keyFile == "" {
		return p.passphraseSealer(o)
	}
	text, err := readPrivate(p.keyFile)
	if err != nil {
		return sealer{}, p.denied("key file: %w", err)
	}
	defer clear(text)
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil || len(ids) != 1 {
		return sealer{}, p.denied("key file %s: want exactly one age identity", p.keyFile)
	}
	id, ok := ids[0].(*age.X25519Identity)
	if !ok {
		return sealer{}, p.denied("key file %s: not an X25519 identity", p.keyFile)
	}
	return sealer{at: p, recipient: id.Recipient(), identity: id}, nil
}

func (p localPaths) passphraseSealer(o Options) (sealer, error) {
	if o.Passphrase == nil {
		return sealer{}, p.wrong("needs a passphrase, or ?key-file=PATH")
	}
	passphrase, err := o.Passphrase()
	if err != nil {
		return sealer{}, p.wrong("asking for the passphrase: %w", err)
	}
	if len(passphrase) == 0 {
		return sealer{}, p.wrong("empty passphrase")
	}
	r, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return sealer{}, p.wrong("passphrase: %w", err)
	}
	id, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return sealer{}, p.wrong("passphrase: %w", err)
	}
	r.SetWorkFactor(cmp.Or(o.workFactor, scryptWorkFactor))
	id.SetMaxWorkFactor(maxScryptWorkFactor)
	return sealer{at: p, recipient: r, identity: id}, nil
}

func (s sealer) open() (*keyset.Handle, error) {
	sealed, err := readPrivate(s.at.keyset)
	if err != nil {
		return nil, fmt.Errorf("%w: keyset file: %w", ErrDenied, err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), s.identity)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return nil, fmt.Errorf("%w: keyset file: wrong passphrase or key file", ErrDenied)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: keyset file: damaged, or not a keyset file", ErrDenied)
	}
	clearText, err := io.ReadAll(r)
	defer clear(clearText)
	if err != nil {
		return nil, fmt.Errorf("%w: keyset file: damaged", ErrDenied)
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(clearText)))
	if err != nil {
		return nil, fmt.Errorf("%w: keyset file: no keyset in it", ErrDenied)
	}
	return h, nil
}

// sealWithNewPrimary adds a key to m, makes it the one that wraps, and returns the sealed keyset.
//
// XAES-256-GCM, because a wrapping key lives long: with plain AES-GCM's random 96-bit nonces one key may make no
// more than 2^32 wraps, a count that nobody keeps, and a repeated nonce gives the key's authentication away.
// With 192 bits the same odds are met after 2^80. It is AES throughout, so it runs on the same hardware.
// The TINK prefix says which key wrapped, so that a rotation needs no trial decryption.
func (s sealer) sealWithNewPrimary(m *keyset.Manager) ([]byte, error) {
	id, err := m.Add(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("new key: %w", err)
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, fmt.Errorf("new key: %w", err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("new key: %w", err)
	}
	var clearText, sealed bytes.Buffer
	defer func() { clear(clearText.Bytes()) }()
	if err := insecurecleartextkeyset.Write(h, keyset.NewBinaryWriter(&clearText)); err != nil {
		return nil, fmt.Errorf("serializing: %w", err)
	}
	w, err := age.Encrypt(&sealed, s.recipient)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if _, err := w.Write(clearText.Bytes()); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed.Bytes(), nil
}

func createKeyFile(path string) error {
	return create(path, func() ([]byte, error) {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, err
		}
		return []byte("# opens a privault keyset file\n" + id.String() + "\n"), nil
	})
}
