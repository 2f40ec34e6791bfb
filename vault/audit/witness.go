package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Witness is the key of somebody who signs checkpoints that continue all those that he saw before: cosignature/v1 of C2SP
// tlog-cosignature. It is a note.Verifier.
type Witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

const (
	cosignatureAlgorithm = 0x04
	cosignatureSize      = 8 + ed25519.SignatureSize // a time, then the signature
)

// ParseWitness reads a witness's key: NAME+HASH+KEY, as signed notes have it.
func ParseWitness(text string) (*Witness, error) {
	bad := errors.New("a witness's key is NAME+HASH+KEY, with a key for cosignature/v1")
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 || parts[0] == "" || strings.ContainsAny(parts[0], " \n") {
		return nil, bad
	}
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	raw, failed := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || failed != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != cosignatureAlgorithm {
		return nil, bad
	}
	sum := sha256.Sum256([]byte(parts[0] + "\n" + string(raw)))
	if binary.BigEndian.Uint32(sum[:]) != uint32(hash) {
		return nil, errors.New("the hash in a witness's key is not that of the key")
	}
	return &Witness{parts[0], uint32(hash), raw[1:]}, nil
}

// Name is the witness's name.
func (w *Witness) Name() string { return w.name }

// KeyHash is the hash of its key.
func (w *Witness) KeyHash() uint32 { return w.hash }

// Verify says whether the witness has signed a text.
func (w *Witness) Verify(text, signature []byte) bool {
	if len(signature) != cosignatureSize {
		return false
	}
	signed := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(signature), text)
	return ed25519.Verify(w.key, signed, signature[8:])
}

// Cosignature is that a witness has signed a checkpoint, and when.
type Cosignature struct {
	Witness string
	At      time.Time
}

// OpenCosigned verifies a checkpoint that the log has signed, and gives those of the witnesses who have too.
func (k *Keys) OpenCosigned(signed []byte, witnesses []*Witness) (c Checkpoint, by []Cosignature, err error) {
	if c, err = k.Open(signed); err != nil {
		return c, nil, err
	}
	verifiers := make([]note.Verifier, len(witnesses))
	for i, w := range witnesses {
		verifiers[i] = w
	}
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		return c, nil, nil
	}
	if err != nil {
		return c, nil, fmt.Errorf("a cosignature: %w", err)
	}
	for _, s := range n.Sigs {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(raw) != 4+cosignatureSize {
			return c, nil, errors.New("a cosignature has another length")
		}
		at := binary.BigEndian.Uint64(raw[4:])
		if at > math.MaxInt64/2 {
			return c, nil, errors.New("a cosignature has no time")
		}
		by = append(by, Cosignature{s.Name, time.Unix(int64(at), 0).UTC()})
	}
	return c, by, nil
}

// AddCheckpoint is what a witness is asked (C2SP tlog-witness): the size that it has seen, the proof that the signed checkpoint
// continues that, and the checkpoint.
func AddCheckpoint(seen int64, proof []tlog.Hash, signed string) []byte {
	b := fmt.Appendf(nil, "old %d\n", seen)
	for _, h := range proof {
		b = append(append(b, base64.StdEncoding.EncodeToString(h[:])...), '\n')
	}
	return append(append(b, '\n'), signed...)
}

// Cosign adds to a signed checkpoint what a witness has answered, if it is the witness's signature of it.
func (k *Keys) Cosign(signed, answer string, w *Witness) (string, error) {
	mark := "— " + w.name + " "
	for line := range strings.Lines(answer) {
		if !strings.HasPrefix(line, mark) || !strings.HasSuffix(line, "\n") {
			continue
		}
		if _, by, err := k.OpenCosigned([]byte(signed+line), []*Witness{w}); err == nil && len(by) == 1 {
			return signed + line, nil
		}
	}
	return "", errors.New("the answer is not the witness's signature of the checkpoint")
}
