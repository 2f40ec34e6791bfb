package audit_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// cosigner signs notes as cosignature/v1 has it: a note.Signer of its own making.
type cosigner struct {
	name string
	key  ed25519.PrivateKey
	at   uint64
}

func newCosigner(name string, seed byte) cosigner {
	return cosigner{name, ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), 32))), 1_700_000_000}
}

func (c cosigner) public() []byte {
	return append([]byte{4}, c.key.Public().(ed25519.PublicKey)...)
}

func (c cosigner) Name() string { return c.name }

func (c cosigner) KeyHash() uint32 {
	sum := sha256.Sum256([]byte(c.name + "\n" + string(c.public())))
	return binary.BigEndian.Uint32(sum[:])
}

func (c cosigner) Sign(text []byte) ([]byte, error) {
	signature := ed25519.Sign(c.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", c.at, text))
	return append(binary.BigEndian.AppendUint64(nil, c.at), signature...), nil
}

func (c cosigner) verifier() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, c.KeyHash(), base64.StdEncoding.EncodeToString(c.public()))
}

func TestCosignatures(t *testing.T) {
	t.Parallel()
	private, _, err := audit.GenerateKey("log.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := audit.ParseKeys(private)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := keys.Sign(7, tlog.RecordHash([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	one, two := newCosigner("w1.example/witness", 'a'), newCosigner("w2.example", 'b')
	var known []*audit.Witness
	answers := map[string]string{}
	for _, c := range []cosigner{one, two} {
		w, err := audit.ParseWitness(c.verifier())
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, w)
		n, err := note.Sign(&note.Note{Text: text + "\n"}, c)
		if err != nil {
			t.Fatal(err)
		}
		_, answers[c.name], _ = strings.Cut(string(n), "\n\n")
	}
	if _, by, err := keys.OpenCosigned(signed, known); err != nil || len(by) != 0 {
		t.Errorf("before anybody has cosigned: %v, %v", by, err)
	}
	cosigned := string(signed)
	for i, w := range known {
		if cosigned, err = keys.Cosign(cosigned, answers[w.Name()], w); err != nil {
			t.Fatal(err)
		}
		c, by, err := keys.OpenCosigned([]byte(cosigned), known)
		if err != nil || len(by) != i+1 || c.Size != 7 || by[i].Witness != w.Name() || by[i].At.Unix() != 1_700_000_000 {
			t.Errorf("%+v, %+v, %v", c, by, err)
		}
	}
	// The log's own signature goes on counting by itself.
	if _, err := keys.Open([]byte(cosigned)); err != nil {
		t.Error(err)
	}
	// Another's signature, one of another text, another time in it, an answer of something else.
	later := answers[one.name]
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(later[strings.LastIndex(later, " ")+1:]))
	if err != nil {
		t.Fatal(err)
	}
	raw[11]++
	later = later[:strings.LastIndex(later, " ")+1] + base64.StdEncoding.EncodeToString(raw) + "\n"
	other, err := note.Sign(&note.Note{Text: "log.example/audit\n8\n" + text[strings.LastIndex(text, "\n")+1:] + "\n"}, one)
	if err != nil {
		t.Fatal(err)
	}
	_, ofOther, _ := strings.Cut(string(other), "\n\n")
	for what, answer := range map[string]string{"nothing": "", "another's": answers[two.name], "another time": later, "another text": ofOther,
		"no newline": strings.TrimSpace(answers[one.name]), "text": "— " + one.name + " x\n", "two lines in one": strings.TrimSpace(answers[one.name]) + " \n"} {
		if got, err := keys.Cosign(string(signed), answer, known[0]); err == nil {
			t.Errorf("%s is taken: %q", what, got)
		}
	}
	for _, bad := range []string{"", "x", "w+00000000+AAAA", one.verifier() + "AA", strings.Replace(one.verifier(), "w1", "w3", 1), strings.Replace(one.verifier(), "+", " ", 1), keys.Public()[0]} {
		if _, err := audit.ParseWitness(bad); err == nil {
			t.Errorf("%q is a witness's key", bad)
		}
	}
}

func TestWhatAWitnessIsAsked(t *testing.T) {
	t.Parallel()
	got := string(audit.AddCheckpoint(20, []tlog.Hash{{1}, {2}}, "log\n21\nroot\n\n— log sig\n"))
	want := "old 20\nAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nlog\n21\nroot\n\n— log sig\n"
	if got != want {
		t.Errorf("asked:\n%s", got)
	}
}
