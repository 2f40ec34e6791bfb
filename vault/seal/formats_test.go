package seal

import (
	"encoding/hex"
	"os"
	"regexp"
	"testing"
)

// The known answer of docs/formats.md was made with crypto/cipher alone. The document and the code can't drift apart.
func TestKnownAnswerOfTheDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	known := func(name string) []byte {
		match := regexp.MustCompile(`(?m)^` + name + ` +([0-9a-f]+)$`).FindSubmatch(document)
		if match == nil {
			t.Fatalf("the document has no known answer %q", name)
		}
		b, err := hex.DecodeString(string(match[1]))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	place := Place{Deployment: id(0x10), Tenant: id(0x20), Collection: id(0x30), Record: id(0x40), Field: 2, Version: 3}
	if got, want := hex.EncodeToString(place.associated()), hex.EncodeToString(known("A")); got != want {
		t.Errorf("associated data is %s, want %s", got, want)
	}
	boxes, err := Unpack(known("sealed"))
	if err != nil {
		t.Fatal(err)
	}
	box, held := boxes.Get(2)
	if !held || string(box) != string(known("box")) {
		t.Errorf("the packed record has the box %x", box)
	}
	raw := make([]byte, KeySize)
	for i := range raw {
		raw[i] = byte(i)
	}
	key, err := NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	value, err := key.Open(box, place)
	if err != nil || string(value) != "jane@example.com" {
		t.Errorf("the box gives %q, %v", value, err)
	}
}

func id(first byte) (out [16]byte) {
	for i := range out {
		out[i] = first + byte(i)
	}
	return out
}
