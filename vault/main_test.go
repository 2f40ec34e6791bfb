package vault_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/privault/privault/vault/vaulttest"
)

func TestMain(m *testing.M) { vaulttest.Main(m) }

// The map of the package's comment has every file.
func TestTheMapHasEveryFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, said, found := strings.Cut(string(text), "# The files")
	words := strings.FieldsFunc(said, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
	files, err := filepath.Glob("*.go")
	if err != nil || !found || len(files) < 50 {
		t.Fatal(len(files), found, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".go")
		if !strings.HasSuffix(name, "_test") && name != "doc" && !slices.Contains(words, name) {
			t.Errorf("%s is not in it", file)
		}
	}
}
