package vault

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	prfsubtle "github.com/tink-crypto/tink-go/v2/prf/subtle"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault/seal"
	"github.com/privault/privault/vault/siv"
)

// from gives n bytes that count up.
func from(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// document is docs/formats.md, whose known answers are looked up by name.
type document string

func formats(t *testing.T) document {
	t.Helper()
	b, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	return document(b)
}

func (d document) text(t *testing.T, name string) string {
	t.Helper()
	match := regexp.MustCompile(`(?m)^` + name + ` +(\S+)$`).FindStringSubmatch(string(d))
	if match == nil {
		t.Fatalf("the document has no %q", name)
	}
	return match[1]
}

func (d document) bytes(t *testing.T, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(d.text(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The known answers of docs/formats.md on the way from a root key to a value, of tokens and of digests.
func TestKnownAnswersOfKeys(t *testing.T) {
	t.Parallel()
	d := formats(t)
	hmac, err := prfsubtle.NewHMACPRF("SHA256", from(0, 32))
	if err != nil {
		t.Fatal(err)
	}
	set := &prf.Set{PrimaryID: 7, PRFs: map[uint32]prf.PRF{7: hmac}}
	k := &tenantKeys{deployment: ID(from(0x10, 16)), tenant: ID(from(0x20, 16)), pseudonym: set, index: set, alias: set}
	tokens, err := siv.New(from(0xc0, 64), k.bound(tokenPurpose))
	if err != nil {
		t.Fatal(err)
	}
	const tokenKey = 0x05060708
	k.token = &tokenKeys{keys: k, ids: map[uint32]bool{tokenKey: true}, prefix: []byte{1, 5, 6, 7, 8}, primary: tokens, enabled: map[uint32]*siv.Key{tokenKey: tokens}}
	record, collection := ID(from(0x40, 16)), ID(from(0x30, 16))

	handle, err := openKeyset(from(0x60, 32), d.bytes(t, "keyset-sealed"), keysetPlace(k.deployment, k.tenant, "wrap"))
	if err != nil {
		t.Fatal(err)
	}
	var clearText bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewBinaryWriter(&clearText)); err != nil || !bytes.Equal(clearText.Bytes(), d.bytes(t, "keyset")) {
		t.Errorf("the keyset is %x, %v", clearText.Bytes(), err)
	}
	if k.wrap, err = aead.New(handle); err != nil {
		t.Fatal(err)
	}
	dek, err := k.openDEK(record, 3, d.bytes(t, "dek-wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	boxes, err := seal.Unpack(d.bytes(t, "sealed"))
	if err != nil {
		t.Fatal(err)
	}
	box, _ := boxes.Get(2)
	if plain, err := dek.Open(box, k.place(collection, record, 3, 2)); err != nil || string(plain) != "jane@example.com" {
		t.Errorf("the DEK opens the record to %q, %v", plain, err)
	}

	uri, err := kms.Canonical(d.text(t, "kms-uri"))
	id := kekIDOf(uri)
	if err != nil || !bytes.Equal(id[:], d.bytes(t, "kms-key")) {
		t.Errorf("the KMS key's id is %x, %v", id, err)
	}
	direct := (&kek{id: id}).mark(d.bytes(t, "kms-made"))
	if !bytes.Equal(direct, d.bytes(t, "dek-direct")) || !isDirect(direct) || isDirect(d.bytes(t, "dek-wrapped")) {
		t.Errorf("the directly wrapped DEK is %x", direct)
	}

	at := pointer{record, 2, 0}
	if token := k.tokenOf(at); token != d.text(t, "pointer") {
		t.Errorf("the token is %s", token)
	}
	if p, ok := k.resolve(d.text(t, "pointer")); !ok || p != at {
		t.Errorf("the token points at %v", p)
	}

	if !wellFormedKey(d.text(t, "api-key")) {
		t.Error("the API key's sum is another")
	}
	coll, f := &Collection{id: collection}, &field{number: 2}
	for name, made := range map[string]func() ([]byte, error){
		"subject-digest": func() ([]byte, error) {
			s, err := k.subject("cust-1001")
			return s.primary(), err
		},
		"api-key-digest": func() ([]byte, error) { return digest(set, keyPurpose, d.text(t, "api-key")) },
		"index-digest": func() ([]byte, error) {
			return index{name: indexExact, kind: indexExact}.digest(hmac, coll, f, []byte("jane@example.com"), 0)
		},
		"value-digest": func() ([]byte, error) {
			return hmac.ComputePRF(valueInput(collection, 2, []byte("jane@example.com")), digestSize)
		},
		"text-digest": func() ([]byte, error) { return hmac.ComputePRF(textInput(collection, 2, "abc-1001"), digestSize) },
	} {
		if got, err := made(); err != nil || !bytes.Equal(got, d.bytes(t, name)) {
			t.Errorf("%s is %x, %v", name, got, err)
		}
	}
	// The key that seals a value's alias shows in what it opens.
	key, err := k.aliasPRF(collection, 2, []byte("jane@example.com"), d.bytes(t, "value-digest"))
	if err != nil {
		t.Fatal(err)
	}
	alias, err := aliasKey(key, collection, 2, []byte("jane@example.com"))
	if err != nil {
		t.Fatal(err)
	}
	known, err := seal.NewKey(d.bytes(t, "alias-key"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := known.Seal(nil, []byte("abc-1001"), k.place(collection, record, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := alias.Open(sealed, k.place(collection, record, 1, 2)); err != nil || string(text) != "abc-1001" {
		t.Errorf("the alias's key opens %q, %v", text, err)
	}
}

// Another language makes and opens the same answers from the document alone, and notices one that is changed.
func TestAnotherLanguageHasTheKnownAnswers(t *testing.T) {
	t.Parallel()
	check := func(path string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "node", "../scripts/check-record.mjs", "--answers", path).CombinedOutput()
		return string(out), err
	}
	if out, err := check("../docs/formats.md"); err != nil || strings.Count(out, "\n") != 11 {
		t.Errorf("%v: %s", err, out)
	}
	d := string(formats(t))
	for _, name := range []string{"keyset", "keyset-sealed", "dek", "dek-wrapped", "kms-key", "dek-direct", "pointer", "subject-digest", "api-key-digest",
		"index-digest", "value-digest", "text-digest", "alias-key"} {
		line := regexp.MustCompile(`(?m)^(` + name + ` +\S*)(\S)$`)
		path := t.TempDir() + "/formats.md"
		spoilt := line.ReplaceAllStringFunc(d, func(whole string) string {
			last := "0"
			if strings.HasSuffix(whole, "0") {
				last = "1"
			}
			return whole[:len(whole)-1] + last
		})
		if spoilt == d {
			t.Fatalf("the document has no %s", name)
		}
		if err := os.WriteFile(path, []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := check(path); err == nil {
			t.Errorf("with another %s: %s", name, out)
		}
	}
}
