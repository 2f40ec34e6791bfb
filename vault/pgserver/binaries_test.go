package pgserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// programs lays out a folder as an installation has it.
func programs(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	var want []string
	for _, version := range []string{"18.4.0", "15", "9.6"} {
		want = append(want, programs(t, filepath.Join(top, version, "bin")))
	}
	if err := os.MkdirAll(filepath.Join(top, "19", "bin"), 0o755); err != nil { // no programs in it
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, newest(filepath.Join(top, "*", "bin"))); diff != "" {
		t.Error(diff)
	}
}

func TestFindLooksInPathThenCache(t *testing.T) {
	onPath := programs(t, t.TempDir())
	downloads := t.TempDir()
	downloaded := programs(t, filepath.Join(downloads, "privault/postgres/18.4.0/bin"))
	t.Setenv("PATH", t.TempDir()+":"+onPath)
	t.Setenv("XDG_CACHE_HOME", downloads)
	got, err := Find()
	if err != nil || got != onPath {
		t.Errorf("found %s, %v", got, err)
	}
	if all := candidates(); all[len(all)-1] != downloaded {
		t.Errorf("candidates %v", all)
	}

	usual := places
	defer func() { places = usual }()
	places = nil
	t.Setenv("PATH", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err = Find()
	wantError(t, err, "run scripts/postgres.sh")
}

func TestBrokenBinariesAreNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: t.TempDir(), Binaries: programs(t, dir)})
	wantError(t, err, filepath.Join(dir, "postgres"))
	_, err = Start(t.Context(), Config{Dir: t.TempDir(), Binaries: "/nonexistent"})
	wantError(t, err, "/nonexistent/postgres can't be run", "no such file")
}
