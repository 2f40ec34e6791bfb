package audit

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a tree's head: how many leaves it has and their root.
type Checkpoint struct {
	Origin string // the log's name, which is its keys' name too
	Size   int64
	Root   tlog.Hash
}

// Text is the checkpoint as it is signed (C2SP tlog-checkpoint).
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 {
		return c, errors.New("a checkpoint has three lines at least")
	}
	c.Origin = lines[0]
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 0 || strconv.FormatInt(c.Size, 10) != lines[1] {
		return c, errors.New("a checkpoint's second line is the number of leaves")
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) {
		return c, errors.New("a checkpoint's third line is the root hash")
	}
	copy(c.Root[:], root)
	return c, nil
}

// Keys are a log's: those that sign its checkpoints now, and those whose old checkpoints still count.
type Keys struct {
	Origin    string
	signers   []note.Signer
	verifiers []note.Verifier
	public    []string
}

// GenerateKey makes a signing key for a log of that name and gives the lines for a key file and for the public.
func GenerateKey(name string) (private, public string, err error) {
	private, public, err = note.GenerateKey(rand.Reader, name)
	if err == nil {
		_, err = note.NewVerifier(public) // which looks at the name, too
	}
	if err != nil {
		return "", "", errors.New("a log's name is like a web address without the scheme, without spaces or +")
	}
	return private, public, nil
}

// ParseKeys reads key lines: private keys sign, public keys are those of earlier signers, which stay verifiable; what
// follows # is a comment. All of them have one name.
func ParseKeys(text string) (*Keys, error) {
	k := &Keys{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if strings.HasPrefix(line, "PRIVATE+KEY+") {
			signer, public, err := parseSigner(line)
			if err != nil {
				return nil, err
			}
			k.signers = append(k.signers, signer)
			line = public
		}
		verifier, err := note.NewVerifier(line)
		if err != nil {
			return nil, errors.New("a line is neither a private nor a public key of the signed-note format")
		}
		if k.Origin == "" {
			k.Origin = verifier.Name()
		}
		if verifier.Name() != k.Origin {
			return nil, errors.New("the keys of one log have one name")
		}
		k.verifiers, k.public = append(k.verifiers, verifier), append(k.public, line)
	}
	if len(k.verifiers) == 0 {
		return nil, errors.New("there is no key")
	}
	return k, nil
}

// parseSigner reads a private key, and derives its public one.
func parseSigner(line string) (note.Signer, string, error) {
	bad := errors.New("a private key is not an Ed25519 key of the signed-note format")
	signer, err := note.NewSigner(line)
	if err != nil {
		return nil, "", bad // the library's own text could quote the key
	}
	parts := strings.SplitN(line, "+", 5)
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return nil, "", bad
	}
	key, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return nil, "", bad
	}
	public, err := note.NewEd25519VerifierKey(signer.Name(), key)
	return signer, public, err
}

// Public are the public keys, a line each: the newest first, if the key file has them so.
func (k *Keys) Public() []string { return k.public }

// CanSign says whether there is a private key.
func (k *Keys) CanSign() bool { return len(k.signers) > 0 }

// Sign signs a checkpoint with every private key.
func (k *Keys) Sign(size int64, root tlog.Hash) ([]byte, error) {
	return k.SignText(Checkpoint{k.Origin, size, root}.Text())
}

// Open verifies a signed checkpoint: one signature of a known key makes it good.
func (k *Keys) Open(signed []byte) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(k.verifiers...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's signature: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err == nil && c.Origin != k.Origin {
		err = errors.New("the checkpoint is another log's")
	}
	return c, err
}

// The first lines of what is signed and is no checkpoint: the certificate of an erasure, and what stands for a package that a
// person got of its data.
const (
	ErasureTitle = "privault erasure certificate v1"
	PackageTitle = "privault data package v1"
	SweepTitle   = "privault retention sweep v1"
)

// The first lines of the reports of a replay and of a drill.
const (
	ReplayTitle = "privault restore report v1"
	DrillTitle  = "privault restore drill v1"
)

// CompletionTitle is the first line of the note that every recipient of an erased person's data has acknowledged the erasure, or was
// given up.
const CompletionTitle = "privault erasure completion v1"

// SignText signs a text of lines that isn't a checkpoint with every private key.
func (k *Keys) SignText(text string) ([]byte, error) {
	if !k.CanSign() {
		return nil, errors.New("the audit log has no key to sign with")
	}
	return note.Sign(&note.Note{Text: text}, k.signers...)
}

// OpenText verifies a signed text with that title. Every signature must be of a known key, and every byte as SignText wrote it:
// base64 leaves bits open, and a signature by nobody who is known could be changed unseen.
func (k *Keys) OpenText(title string, signed []byte) (string, error) {
	n, err := note.Open(signed, note.VerifierList(k.verifiers...))
	if err != nil {
		return "", fmt.Errorf("the signature: %w", err)
	}
	if !strings.HasPrefix(n.Text, title+"\n") {
		return "", errors.New("what is signed has another title")
	}
	canonical := n.Text + "\n"
	for _, s := range n.Sigs {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			return "", err
		}
		canonical += "— " + s.Name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
	}
	if canonical != string(signed) {
		return "", errors.New("a signature is by a key that isn't in the key file, or was written by somebody else than the signer")
	}
	return n.Text, nil
}
