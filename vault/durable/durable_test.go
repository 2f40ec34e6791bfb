package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/privault/privault/vault/durable"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	want := func(content string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("it holds %q, %v; want %q", got, err, content)
		}
	}
	for _, content := range []string{"one, which is longer", "two", ""} {
		if err := durable.Replace(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		want(content)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("its mode is %v, %v", info.Mode(), err)
		}
	}
	// What a crash left beside it is in nobody's way.
	if err := os.WriteFile(path+".new", []byte("half of some"), 0o644); err != nil { // as somebody else may have made it
		t.Fatal(err)
	}
	if err := durable.Replace(path, []byte("three")); err != nil {
		t.Fatal(err)
	}
	want("three")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(path + ".new"); !os.IsNotExist(err) {
		t.Errorf("something is left beside it: %v", err)
	}
	// What can't be written leaves the old one.
	if err := os.MkdirAll(path+".new/full", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(path, []byte("four")); err == nil {
		t.Error("it is replaced through a folder")
	}
	want("three")
	if err := durable.Replace(filepath.Join(path, "nowhere"), nil); err == nil {
		t.Error("a file is in a file")
	}
}
