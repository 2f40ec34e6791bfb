package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that should happen at once; under the race detector, on a busy machine.
const patience = 60 * time.Second

// process is a running privault. It doesn't outlive its test.
type process struct {
	*exec.Cmd
	stdout, stderr text
	done           chan struct{} // closed when it has ended and its output is complete
}

// text collects what a process prints.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// environment is what a process gets: nothing of the tester's own settings.
func environment(more []string) []string {
	env := append([]string{asCommand + "=1"}, more...)
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// start runs privault in this folder with these settings in its environment.
func start(t testing.TB, dir string, env []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self, args...), done: make(chan struct{})}
	p.Dir, p.Env = dir, environment(env)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(patience):
			p.signal(syscall.SIGKILL)
			<-p.done
			t.Errorf("privault %q did not stop:\n%s", args, p.stderr.String())
		}
	})
	return p
}

// tell shows what the process said, should the test fail.
func (p *process) tell(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("privault %q:\n%s%s", p.Args[1:], tail(p.stdout.String()), tail(p.stderr.String()))
		}
	})
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// signal has no error: the process can only have ended already.
func (p *process) signal(s syscall.Signal) { _ = p.Process.Signal(s) }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait gives the exit code; -1 if a signal ended the process.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("privault %q goes on and on:\n%s", p.Args[1:], tail(p.stderr.String()))
		return 0
	}
}

// stop ends the process as an operator does and wants it to end well.
func (p *process) stop(t testing.TB, s syscall.Signal) {
	t.Helper()
	p.signal(s)
	if code := p.wait(t); code != 0 {
		t.Fatalf("after %v it ended with code %d:\n%s", s, code, tail(p.stderr.String()))
	}
}

// kill ends the process as the kernel does when memory runs out.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(syscall.SIGKILL)
	if p.wait(t); p.ProcessState.Exited() {
		t.Fatalf("it ended before it was killed:\n%s", tail(p.stderr.String()))
	}
}

// finished is how a process ended.
type finished struct {
	args     []string
	code     int
	out, err string
}

// run1 runs privault to its end.
func run1(t testing.TB, env []string, args ...string) finished {
	t.Helper()
	return runIn(t, t.TempDir(), env, args...)
}

func runIn(t testing.TB, dir string, env []string, args ...string) finished {
	t.Helper()
	p := start(t, dir, env, args...)
	code := p.wait(t)
	return finished{args, code, p.stdout.String(), p.stderr.String()}
}

func (f finished) want(t testing.TB, code int) finished {
	t.Helper()
	if f.code != code {
		t.Fatalf("privault %q ended with code %d, want %d:\n%s%s", f.args, f.code, code, tail(f.out), tail(f.err))
	}
	return f
}

// eventually looks again and again until it is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it never came to this: ", what)
		}
	}
}

// devServer is a `privault dev` that is ready.
type devServer struct {
	*process
	devFile
	dir   string
	stale time.Time // of a dev.json that an earlier run left
}

func (d *devServer) caller() caller { return caller{url: d.URL, key: d.APIKey} }

// startDev starts a development server on any free ports and waits until it is ready.
func startDev(t testing.TB, dir string, flags ...string) *devServer {
	t.Helper()
	d := launchDev(t, dir, flags...)
	d.ready(t)
	return d
}

func launchDev(t testing.TB, dir string, flags ...string) *devServer {
	t.Helper()
	args := append([]string{"dev", "--data", dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"}, flags...)
	d := &devServer{dir: dir}
	if info, err := os.Stat(d.file("dev.json")); err == nil {
		d.stale = info.ModTime()
	}
	d.process = start(t, t.TempDir(), nil, args...)
	d.tell(t)
	return d
}

func (d *devServer) ready(t testing.TB) {
	t.Helper()
	eventually(t, "the development server is ready", func() bool {
		if d.ended() {
			t.Fatalf("the development server ended with code %d:\n%s", d.ProcessState.ExitCode(), d.stderr.String())
		}
		if info, err := os.Stat(d.file("dev.json")); err != nil || info.ModTime().Equal(d.stale) {
			return false
		}
		b, err := os.ReadFile(d.file("dev.json"))
		return err == nil && json.Unmarshal(b, &d.devFile) == nil
	})
}

func (d *devServer) file(name string) string { return filepath.Join(d.dir, name) }

// postgres is the pid of the server's own Postgres; 0 if none runs.
func (d *devServer) postgres(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(d.file("postgres/data/postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, parsed := strconv.Atoi(line)
	if err := errors.Join(err, parsed); err != nil {
		t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
