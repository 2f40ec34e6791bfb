package pgserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const parentVariable = "PGSERVER_TEST_PARENT"

// TestMain also serves as the parent that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		s, err := Start(context.Background(), Config{Dir: dir, Settings: fast()})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.cmd.Process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

// fast spares the tests the disk and the memory.
func fast() map[string]string {
	return map[string]string{"fsync": "off", "shared_buffers": "16MB"}
}

func start(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := Start(t.Context(), Config{Dir: dir, Settings: fast()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}

// query returns the one value that a statement yields.
func query(t *testing.T, s *Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// wantError fails unless err says all the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q doesn't say %q", err, w)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestStopAndStartAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	s := start(t, dir)
	first := s.URL("postgres")
	conn := must(pgx.Connect(t.Context(), first))
	if _, err := conn.Exec(t.Context(), "create table kept as select 'still here' as word"); err != nil {
		t.Fatal(err)
	}
	// conn stays open: a fast shutdown doesn't wait for it.
	if got := query(t, s, "select current_user || ' ' || current_setting('data_checksums') || ' ' || current_setting('server_encoding')"); got != "privault_owner on UTF8" {
		t.Errorf("cluster is %q", got)
	}
	if mode := must(os.Stat(dir)).Mode().Perm(); mode != 0o700 {
		t.Errorf("folder has mode %o", mode)
	}
	for _, name := range []string{"password", "postgres.log", "lock"} {
		if mode := must(os.Stat(filepath.Join(dir, name))).Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", name, mode)
		}
	}

	pid, socket := s.cmd.Process.Pid, filepath.Join(s.host, socketName)
	if !runsIn(pid, s.data) || !exists(socket) {
		t.Fatal("no process or no socket while running")
	}
	stop(t, s)
	stop(t, s)
	<-s.Done()
	if runsIn(pid, s.data) || exists(socket) || exists(filepath.Join(s.data, "postmaster.pid")) {
		t.Error("process, socket or pid file left after Stop")
	}

	s = start(t, dir)
	if s.URL("postgres") != first {
		t.Error("second start has another address")
	}
	if got := query(t, s, "select word from kept"); got != "still here" {
		t.Errorf("kept %q", got)
	}
	stop(t, s)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestDurableCluster(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, s)
	if got := query(t, s, "select current_setting('fsync') || current_setting('listen_addresses')"); got != "on" {
		t.Errorf("fsync and addresses: %q", got)
	}
}

func TestRunningServer(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	_, err := Start(t.Context(), Config{Dir: s.dir})
	wantError(t, err, s.dir+" is in use by process "+strconv.Itoa(os.Getpid()))

	giveLock(s.lock) // as if we were gone and the server were not
	_, err = Start(t.Context(), Config{Dir: s.dir, patience: 50 * time.Millisecond})
	wantError(t, err, fmt.Sprintf("pid %d still runs on %s", s.cmd.Process.Pid, s.data))
	query(t, s, "select 'unharmed'")

	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	wantError(t, s.Stop(), "killed")
}

// parent starts another process that starts a server. kill ends it, harshly.
func parent(t *testing.T, dir string) (kill func(), out io.Reader) {
	t.Helper()
	p := exec.Command(must(os.Executable()))
	p.Env = append(os.Environ(), parentVariable+"="+dir)
	out = must(p.StdoutPipe())
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	t.Cleanup(kill)
	return kill, out
}

func TestParentKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a child of its parent's death")
	}
	t.Parallel()
	dir := t.TempDir()
	kill, out := parent(t, dir)
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	kill()
	s := start(t, dir)
	if runsIn(pid, s.data) {
		t.Errorf("process %d survived its parent", pid)
	}
	query(t, s, "select 'well'")
}

func TestFailedStart(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	stop(t, s)
	_, err := Start(t.Context(), Config{Dir: s.dir, Settings: map[string]string{"no_such_setting": "1"}})
	wantError(t, err, "postgres.log", `unrecognized configuration parameter "no_such_setting"`)
	if exists(filepath.Join(s.data, "postmaster.pid")) {
		t.Error("a pid file was left")
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if exists(filepath.Join(s.data, "postmaster.pid")) {
				cancel()
			}
		}
	}()
	if later, err := Start(ctx, Config{Dir: s.dir, Settings: fast()}); err == nil {
		stop(t, later) // it was quicker than we
	} else {
		wantError(t, err, "context canceled")
	}
	if exists(filepath.Join(s.data, "postmaster.pid")) {
		t.Error("the server was left running")
	}

	if err := os.WriteFile(filepath.Join(s.dir, "password"), []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Dir: s.dir, Settings: fast()})
	wantError(t, err, "server refuses us", "28P01")
	if exists(filepath.Join(s.data, "postmaster.pid")) {
		t.Error("the server was left running")
	}
}

func TestInterruptedInitdb(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	half := filepath.Join(dir, unfinished+"*", "PG_VERSION")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if found, _ := filepath.Glob(half); len(found) > 0 {
				cancel()
			}
		}
	}()
	_, err := Start(ctx, Config{Dir: dir, Settings: fast()})
	wantError(t, err, "initdb stopped: context canceled")
	if left, _ := filepath.Glob(filepath.Join(dir, "data*")); left != nil {
		t.Errorf("left: %v", left)
	}

	kill, _ := parent(t, dir)
	for found, _ := filepath.Glob(half); len(found) == 0; found, _ = filepath.Glob(half) {
		pause(t.Context())
	}
	kill()
	query(t, start(t, dir), "select 'well'")
}

func TestOtherVersionIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	stop(t, s)
	version := filepath.Join(s.data, "PG_VERSION")
	ours := strings.TrimSpace(string(must(os.ReadFile(version))))
	if err := os.WriteFile(version, []byte("8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: s.dir})
	wantError(t, err, "the cluster was made by Postgres 8", "has Postgres "+ours)

	if err := os.WriteFile(version, []byte(ours+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	query(t, start(t, s.dir), "select 'data unharmed'")
}

func TestForeignFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	foreign := filepath.Join(dir, "data", "thesis.txt")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: dir})
	wantError(t, err, "neither empty nor a Postgres cluster")
	if !exists(foreign) {
		t.Error("a foreign file was removed")
	}

	theirs := "/" // root's
	if os.Geteuid() == 0 {
		theirs = t.TempDir()
		if err := os.Chown(theirs, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Start(t.Context(), Config{Dir: theirs})
	wantError(t, err, "start as its owner or name another folder")
}

// As root the server's user can neither walk to this folder nor name it.
func TestLongStrangeClosedFolder(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	if err := os.Chmod(top, 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, filepath.Join(top, "a b+c,d&e=é%20[*]'\"", strings.Repeat("long", 30)))
	if s.host == s.data || len(filepath.Join(s.host, socketName)) > socketPathMax {
		t.Errorf("socket's folder is %s", s.host)
	}
	query(t, s, "select 'well'")
	stop(t, s)
	if exists(filepath.Dir(s.host)) {
		t.Errorf("%s was left", s.host)
	}

	// A killed launcher leaves its link, the next one takes it away.
	left := must(shortFolder(s.data))
	start(t, s.dir)
	if exists(filepath.Dir(left)) {
		t.Errorf("%s was left", left)
	}
}

func TestStrangeNamesInURL(t *testing.T) {
	t.Parallel()
	s := start(t, filepath.Join(t.TempDir(), "a b+c&d=é%20"))
	if s.host != s.data {
		t.Fatalf("socket's folder is %s", s.host)
	}
	conn := must(pgx.Connect(t.Context(), s.URL("postgres")))
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `create database "odd /?&name"`); err != nil {
		t.Fatal(err)
	}
	odd := must(pgx.Connect(t.Context(), s.URL("odd /?&name")))
	defer odd.Close(t.Context())
	psql, err := exec.LookPath("psql")
	if err != nil {
		return // the binaries of scripts/postgres.sh come without it
	}
	out, err := exec.Command(psql, "-XAtc", "select current_database()", s.URL("odd /?&name")).CombinedOutput()
	if err != nil || string(out) != "odd /?&name\n" {
		t.Errorf("psql: %v: %s", err, out)
	}
}

func TestServerSeesNoSecretsAndLogsNone(t *testing.T) {
	t.Setenv("VAULT_SECRET", "canary-environment")
	s := start(t, t.TempDir())
	conn := must(pgx.Connect(t.Context(), s.URL("postgres")))
	defer conn.Close(t.Context())
	for _, sql := range []string{"select 'canary-text'::int", "syntax canary-word", "do $$ begin raise warning 'canary'; end $$"} {
		_, _ = conn.Exec(t.Context(), sql)
	}
	_, _ = conn.Exec(t.Context(), "select 1 / length(substr($1, 99))", "canary-parameter")
	stop(t, s)
	if log := string(must(os.ReadFile(s.log()))); strings.Contains(log, "canary") || !strings.Contains(log, "ready to accept connections") {
		t.Errorf("log:\n%s", log)
	}
	if env := strings.Join(s.cmd.Env, " "); strings.Contains(env, "canary") {
		t.Errorf("environment: %s", env)
	}
}

// The default settings, so fsync included.
func BenchmarkStart(b *testing.B) {
	run := func(b *testing.B, dir string) {
		b.Helper()
		s, err := Start(b.Context(), Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		defer b.StartTimer()
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		for range b.N {
			run(b, filepath.Join(b.TempDir(), "new"))
		}
	})
	b.Run("warm", func(b *testing.B) {
		dir := b.TempDir()
		run(b, dir)
		b.ResetTimer()
		for range b.N {
			run(b, dir)
		}
	})
}
