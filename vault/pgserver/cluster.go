package pgserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	socketPort = "5432"
	socketName = ".s.PGSQL." + socketPort

	// The least of the platforms' sun_path, less its zero byte.
	socketPathMax = 103

	// A cluster gets its right name by a rename when it is whole; what lies
	// under this one is an interrupted initdb's.
	unfinished = "data.init-"

	shortened = "privault-pg-"
)

// open creates the folder and takes its lock, which release gives back and which
// the kernel takes from a process that dies.
func (s *Server) open(ctx context.Context) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	// In a folder of another's, that other could swap the files which we are
	// about to write, as root at worst.
	if uid, err := owner(s.dir); err != nil {
		return err
	} else if uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d and we are uid %d: start as its owner or name another folder", s.dir, uid, os.Geteuid())
	}
	var err error
	s.lock, err = takeLock(ctx, filepath.Join(s.dir, "lock"))
	return err
}

// takeLock tries for a moment: the kernel may be taking the lock from a process
// just killed, or from a child of its that hasn't got to its exec.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || !pause(ctx) {
			break
		}
	}
	if err == nil {
		// For the message below, no more.
		_ = f.Truncate(0)
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
		return f, nil
	}
	defer f.Close()
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	holder, _ := os.ReadFile(path)
	return nil, fmt.Errorf("%s is in use by process %s: stop it or name another folder", filepath.Dir(path), holder)
}

// giveLock unlocks before it closes: a child that another goroutine has forked
// and that hasn't got to its exec holds the file open too.
func giveLock(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	_ = f.Close()
}

// release gives up all that open and start took besides the process.
func (s *Server) release() {
	if s.host != "" && s.host != s.data {
		removeShort(s.host)
	}
	giveLock(s.lock)
}

// create makes a cluster and its password. The password comes first: a cluster
// that has its name is one that we can enter.
func (s *Server) create(ctx context.Context, binaries string, sync bool) error {
	if err := os.Remove(s.data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is neither empty nor a Postgres cluster: move it away", s.data)
	}
	leftovers, _ := filepath.Glob(filepath.Join(escapeGlob(s.dir), unfinished+"*"))
	for _, l := range leftovers {
		_ = os.RemoveAll(l) // an initdb in its last gasp may be writing still; the next start will get it
	}
	path, err := os.MkdirTemp(s.dir, unfinished)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(path) }() // if it still has this name
	if err := s.account.own(path); err != nil {
		return err
	}
	if s.password, err = writePassword(s.dir, s.account); err != nil {
		return err
	}
	if err := s.initdb(ctx, binaries, path, sync); err != nil {
		return err
	}
	if err := os.Rename(path, s.data); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return syncPath(s.dir)
}

// initdb syncs what it wrote, file by file: that costs tens of milliseconds,
// while one sync of the whole file system would wait for everybody's writes.
func (s *Server) initdb(ctx context.Context, binaries, path string, sync bool) error {
	data, err := os.Open(path)
	if err != nil {
		return err
	}
	defer data.Close()
	password, err := os.Open(filepath.Join(s.dir, "password"))
	if err != nil {
		return err
	}
	defer password.Close()

	cmd := s.account.command(ctx, filepath.Join(binaries, "initdb"))
	cmd.Args = append(cmd.Args,
		"--pgdata="+s.account.share(cmd, data),
		"--username="+Owner, "--pwfile="+s.account.share(cmd, password),
		"--auth=scram-sha-256", "--data-checksums",
		"--encoding=UTF8", "--locale=C")
	if !sync {
		cmd.Args = append(cmd.Args, "--no-sync")
	}
	// Its parts are children of its own, all of one process group.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second

	runtime.LockOSThread() // for the death signal, as in fork
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("initdb stopped: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, tail(string(out)))
	}
	return nil
}

// writePassword makes a random password of 160 bits. The file is the server
// user's, since initdb reads it; nobody but the folder's owner can get at it.
func writePassword(dir string, a account) (string, error) {
	var b [20]byte
	rand.Read(b[:]) // never fails
	password := hex.EncodeToString(b[:])
	path := filepath.Join(dir, "password")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	if err := syncPath(path); err != nil {
		return "", err
	}
	return password, a.own(path)
}

func readPassword(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "password"))
	if err != nil {
		return "", fmt.Errorf("the cluster's password is gone, put it back: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// clusterVersion returns the major version of the cluster, empty if there is none.
func clusterVersion(data string) (string, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// awaitFormer waits for the server of a process that was killed: it shuts down,
// and until it is gone no other can run. A postmaster.pid without a process is
// Postgres's own business.
func awaitFormer(ctx context.Context, data string, patience time.Duration) error {
	if patience == 0 {
		patience = formerPatience
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
		if err != nil {
			return nil
		}
		line, _, _ := strings.Cut(string(b), "\n")
		pid, err := strconv.Atoi(line)
		if err != nil || pid <= 1 || !runsIn(pid, data) {
			return nil
		}
		if !pause(limited) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("a Postgres with pid %d still runs on %s though its launcher is gone: end it with kill -INT %d", pid, data, pid)
		}
	}
}

// pause tells whether to try again: a moment has passed and ctx still runs.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(10 * time.Millisecond):
		return true
	}
}

// shortFolder returns a name of the data folder that clients can use: its own if
// it leaves room for the socket's and can't be read as a list, or else a link to it in a temporary folder that only we can enter. The
// server doesn't need it, it calls the folder ".".
func shortFolder(data string) (string, error) {
	usable := func(path string) bool {
		return len(filepath.Join(path, socketName)) <= socketPathMax && !strings.Contains(path, ",")
	}
	if usable(data) {
		return data, nil
	}
	temp := os.TempDir()
	if !usable(filepath.Join(temp, shortened+"1234567890", "s")) {
		temp = "/tmp"
	}
	former, _ := filepath.Glob(filepath.Join(escapeGlob(temp), shortened+"*", "s"))
	for _, f := range former {
		if to, err := os.Readlink(f); err == nil && to == data { // left by a process that was killed
			removeShort(f)
		}
	}
	folder, err := os.MkdirTemp(temp, shortened)
	if err != nil {
		return "", err
	}
	link := filepath.Join(folder, "s")
	return link, os.Symlink(data, link)
}

func removeShort(link string) {
	_ = os.Remove(link)
	_ = os.Remove(filepath.Dir(link))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func owner(path string) (int, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
