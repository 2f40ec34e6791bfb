package pgserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
)

// places are searched in this order, in each the newest version first.
// scripts/postgres.sh searches the same ones.
var places = []string{
	"/usr/lib/postgresql/*/bin", // Debian
	"/usr/pgsql-*/bin",          // the Postgres project's own rpm packages
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

var errNotFound = errors.New("no Postgres found: run scripts/postgres.sh, or install Postgres and put the folder of postgres and initdb on PATH")

// Find returns the folder of postgres and initdb: on PATH, else where the
// platforms' packages and scripts/postgres.sh put them, newest first.
func Find() (string, error) {
	found := candidates()
	if len(found) == 0 {
		return "", fmt.Errorf("pgserver: %w", errNotFound)
	}
	return found[0], nil
}

func candidates() []string {
	var found []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) && hasBinaries(dir) {
			found = append(found, dir)
		}
	}
	for _, pattern := range append(slices.Clone(places), filepath.Join(cache(), "privault/postgres/*/bin")) {
		found = append(found, newest(pattern)...)
	}
	return found
}

// cache is where scripts/postgres.sh puts what it downloads. Not root's home:
// the server's user couldn't run what lies there.
func cache() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return escapeGlob(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache"
	}
	return escapeGlob(filepath.Join(os.Getenv("HOME"), ".cache"))
}

var versionInPath = regexp.MustCompile(`(\d+)[\d.]*/bin$`)

func newest(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	found = slices.DeleteFunc(found, func(dir string) bool { return !hasBinaries(dir) })
	major := func(dir string) int {
		m := versionInPath.FindStringSubmatch(dir)
		if m == nil {
			return 0
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(major(b), major(a)) })
	return found
}

func hasBinaries(dir string) bool {
	for _, name := range []string{"postgres", "initdb"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// choose returns the folder of binaries that run and fit the cluster's major
// version; made is empty when there is no cluster yet.
func (a account) choose(ctx context.Context, dir, made string) (string, error) {
	dirs := []string{dir}
	if dir == "" {
		dirs = candidates()
	}
	failure := errNotFound
	for i, dir := range dirs {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		version, err := a.version(ctx, dir)
		if err == nil && (made == "" || version == made) {
			return dir, nil
		}
		if err == nil {
			err = fmt.Errorf("the cluster was made by Postgres %s and %s has Postgres %s: install Postgres %s, or move the cluster away", made, dir, version, made)
		}
		if i == 0 {
			failure = err
		}
	}
	return "", failure
}

var versionInOutput = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// version returns the major version of the binaries in dir. They are run as the
// server's user, so that binaries it can't run are known as such.
func (a account) version(ctx context.Context, dir string) (string, error) {
	runtime.LockOSThread() // for the death signal, as in fork
	defer runtime.UnlockOSThread()
	path := filepath.Join(dir, "postgres")
	out, err := a.command(ctx, path, "--version").CombinedOutput()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("%s doesn't run: %w: %s", path, err, tail(string(out)))
	}
	if err != nil {
		return "", fmt.Errorf("%s can't be run as %s: %w", path, a, err)
	}
	m := versionInOutput.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s tells no version: %s", path, tail(string(out)))
	}
	return string(m[1]), nil
}
