package vault_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
)

const hidden = "canary-plaintext"

// bearers are the ways in which code holds a Secret.
func bearers() map[string]any {
	type named struct{ Value vault.Secret }
	type unnamed struct{ value vault.Secret }
	type embedded struct{ vault.Secret }
	s := secret(hidden)
	return map[string]any{
		"value": s, "pointer": &s, "named": named{s}, "unnamed": unnamed{s}, "embedded": embedded{s},
		"pointer to named": &named{s}, "pointer to unnamed": &unnamed{s}, "slice": []vault.Secret{s}, "array": [1]vault.Secret{s},
		"map": map[string]vault.Secret{"a": s}, "map of structs": map[string]unnamed{"a": {s}}, "any": []any{s, &s},
		"record": vault.Record{Fields: map[string]vault.Secret{"a": s}}, "item": vault.NewRecord{Fields: map[string]vault.Secret{"a": s}},
		"revealed": []vault.Revealed{{Value: s}}, "batch": vault.Batch{Items: []vault.NewRecord{{Fields: map[string]vault.Secret{"a": s}}}},
		"patch": vault.Patch{Fields: map[string]vault.Secret{"a": s}},
	}
}

// leaked says whether text shows the secret in any form that a verb may write: as text, quoted, hex, or decimal bytes.
func leaked(text string) bool {
	raw := []byte(hidden)
	forms := append(forms(hidden), strings.Trim(fmt.Sprintf("%d", raw), "[]"), fmt.Sprintf("% x", raw), strings.TrimPrefix(fmt.Sprintf("%#v", raw), "[]byte"))
	return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) })
}

func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	for what, bearer := range bearers() {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".3"} {
			for verb := 'A'; verb <= 'z'; verb++ {
				if text := fmt.Sprintf("%"+flags+string(verb), bearer); leaked(text) {
					t.Errorf("%%%s%c shows the secret in a %s: %s", flags, verb, what, text)
				}
			}
		}
		if text := fmt.Sprint(bearer) + fmt.Sprintln(bearer) + fmt.Errorf("%w %v", errors.New("x"), bearer).Error(); leaked(text) {
			t.Errorf("Print shows the secret in a %s: %s", what, text)
		}
	}
	s := secret(hidden)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%x", s), fmt.Sprintf("%q", &s), fmt.Sprintf("%d", s)} {
		if text != "[secret]" {
			t.Errorf("a secret prints as %s", text)
		}
	}
}

func TestSecretIsNotLogged(t *testing.T) {
	t.Parallel()
	for what, bearer := range bearers() {
		var b bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&b, nil), slog.NewTextHandler(&b, nil)} {
			l := slog.New(h)
			l.Info("x", "a", bearer, slog.Group("g", "a", bearer))
			l.With("a", bearer).Info("x")
		}
		if leaked(b.String()) || b.Len() == 0 {
			t.Errorf("slog shows the secret in a %s: %s", what, b.String())
		}
	}
}

func TestSecretIsNotEncoded(t *testing.T) {
	t.Parallel()
	for what, bearer := range bearers() {
		text, err := json.Marshal(bearer)
		if leaked(string(text)) {
			t.Errorf("JSON shows the secret in a %s: %s", what, text)
		}
		if slices.Contains([]string{"value", "pointer", "named", "embedded", "map", "slice", "record", "revealed"}, what) && err == nil {
			t.Errorf("a %s is encoded as %s; it must fail, lest a caller be answered with nothing", what, text)
		}
		text, _ = xml.Marshal(bearer)
		var b bytes.Buffer
		_ = gob.NewEncoder(&b).Encode(bearer)
		if leaked(string(text)) || leaked(b.String()) {
			t.Errorf("XML or gob shows the secret in a %s", what)
		}
	}
}

func TestZeroSecret(t *testing.T) {
	t.Parallel()
	if got := (vault.Secret{}).Reveal(); got != nil {
		t.Errorf("the zero Secret reveals %q", got)
	}
	if got := fmt.Sprint(vault.Secret{}); got != "[secret]" {
		t.Errorf("the zero Secret prints as %s", got)
	}
	if got := secret(hidden).Reveal(); string(got) != hidden {
		t.Errorf("a Secret reveals %q", got)
	}
}

// The functions that may see plaintext, and how often each reveals some. A new one is added here, on purpose.
func TestCallersOfReveal(t *testing.T) {
	t.Parallel()
	want := map[string]int{
		"api/tokenize.go detokenize": 1,
		"api/record.go record":       1,
		"api/transform.go transform": 1,
		"vault/transform.go code":    1,
		"vault/tokenize.go values":   1,
		"vault/record.go patched":    1,
		"vault/index.go equals":      1,
		"vault/package.go open":      1,

		"vault/request.go checkCorrection": 1,
		"vault/request.go proposalOf":      1,
	}
	got := map[string]int{}
	set := token.NewFileSet()
	files := 0
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() && path != ".." && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "vaulttest") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			in := "a declaration"
			if f, is := d.(*ast.FuncDecl); is {
				in = f.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				// A method value counts as well as a call.
				if s, is := n.(*ast.SelectorExpr); is && s.Sel.Name == "Reveal" {
					got[strings.TrimPrefix(filepath.ToSlash(path), "../")+" "+in]++
				}
				return true
			})
		}
		return nil
	})
	if err != nil || files < 40 {
		t.Fatalf("%d files, %v", files, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("callers of Reveal outside tests (-allowed +found):\n%s", diff)
	}
}
