// Package pgserver runs a private Postgres server for `privault dev`, for the
// test harness and for the benchmark. It is a launcher: it makes a cluster in a
// folder, starts the machine's own postgres on it and stops it again.
//
// The server is reached through a unix socket only, with a random password, by
// the user who started it. It never outlives the process that started it, not
// even after kill -9 (Linux).
//
// Nobody's data is deleted here, whatever is found in the folder.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// Owner is the superuser of every cluster made here.
	Owner = "privault_owner"

	// A fast shutdown ends with a checkpoint, which a slow disk can draw out.
	// After this an immediate shutdown follows: safe, the next start recovers.
	stopPatience = time.Minute

	readyPatience  = time.Minute
	formerPatience = 30 * time.Second
	lockPatience   = 500 * time.Millisecond
)

// settings are the server's own; Config.Settings come after them and win.
var settings = map[string]string{
	"listen_addresses":        "",
	"port":                    socketPort,
	"unix_socket_permissions": "0700",
	// Relative to the data folder, which is the server's working folder: it is
	// the one place that belongs to the server's user and is closed to all
	// others, and the name stays short however deep the folder lies.
	"unix_socket_directories": ".",
	"max_connections":         "100",
	"shared_buffers":          "256MB",

	// A statement, its parameters and the values that an error quotes must
	// never reach the log. "log" leaves out errors and warnings of statements
	// (the client has them) and keeps what the server says of itself.
	"log_min_messages":                  "log",
	"log_min_error_statement":           "panic",
	"log_min_duration_statement":        "-1",
	"log_parameter_max_length":          "0",
	"log_parameter_max_length_on_error": "0",
	"log_error_verbosity":               "terse",
}

// Config says where the cluster lies. Zero values work except Dir.
type Config struct {
	// Dir holds the cluster: Dir/data, Dir/password, Dir/postgres.log and
	// Dir/lock. It is created with mode 0700 and must belong to the caller.
	Dir string

	// Binaries is the folder with postgres and initdb. Empty: they are searched
	// for as Find does, taking those that fit the cluster's version.
	Binaries string

	// Settings are further server settings, e.g. fsync=off for tests, which
	// also spares initdb its sync.
	Settings map[string]string

	patience time.Duration // for the former server; zero: formerPatience
}

// Server is a running Postgres. Its methods may be called concurrently.
type Server struct {
	dir, data string
	password  string
	host      string // folder of the socket, as clients name it
	account   account

	cmd      *exec.Cmd
	lock     *os.File
	logStart int64 // what the log held before us
	stop     sync.Once
	done     chan struct{}
	err      error // how the process ended; read after done is closed
}

// Start makes the cluster if there is none and returns when the server answers.
// ctx bounds the start alone, a minute at most unless it has a deadline of its
// own; when it ends first, nothing is left running. The server lives until Stop
// or until the calling process ends.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Dir == "" {
		return nil, errors.New("pgserver: no folder given")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	s := &Server{dir: dir, data: filepath.Join(dir, "data"), done: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	if err := s.start(ctx, c); err != nil {
		s.release()
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	if err := s.ready(ctx); err != nil {
		_ = s.Stop() // err tells more than how the process ended
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	return s, nil
}

// URL returns the superuser's address of a database, for pgx and for psql. It
// holds the password.
func (s *Server) URL(database string) string {
	// libpq doesn't read "+" as a blank. The port is named lest PGPORT steps in.
	host := strings.ReplaceAll(url.QueryEscape(s.host), "+", "%20")
	return fmt.Sprintf("postgres://%s:%s@/%s?host=%s&port=%s",
		Owner, s.password, url.PathEscape(database), host, socketPort)
}

// Done is closed when the server's process has ended, wanted or not.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop ends the server, cutting off its clients, and waits until it is gone. It
// may be called again; it returns an error if the server ended badly.
func (s *Server) Stop() error {
	s.stop.Do(func() {
		s.signal(syscall.SIGINT)
		select {
		case <-s.done:
		case <-time.After(stopPatience):
			s.signal(syscall.SIGQUIT)
		}
	})
	<-s.done
	if s.err != nil {
		return fmt.Errorf("pgserver: server ended with %w; see %s", s.err, s.log())
	}
	return nil
}

// signal has no error: the process can only have ended already.
func (s *Server) signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

func (s *Server) log() string { return filepath.Join(s.dir, "postgres.log") }

// start brings the folder into order and forks the server; s.open came before.
func (s *Server) start(ctx context.Context, c Config) error {
	if err := awaitFormer(ctx, s.data, c.patience); err != nil {
		return err
	}
	made, err := clusterVersion(s.data)
	if err != nil {
		return err
	}
	if s.account, err = serverAccount(s.data); err != nil {
		return err
	}
	binaries, err := s.account.choose(ctx, c.Binaries, made)
	if err != nil {
		return err
	}
	if made == "" {
		err = s.create(ctx, binaries, c.Settings["fsync"] != "off")
	} else {
		s.password, err = readPassword(s.dir)
	}
	if err != nil {
		return err
	}
	if s.host, err = shortFolder(s.data); err != nil {
		return err
	}
	return s.fork(binaries, c.Settings)
}

// fork starts the server's process and the goroutine that waits for its end.
func (s *Server) fork(binaries string, further map[string]string) error {
	log, err := os.OpenFile(s.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	s.logStart = info.Size()
	data, err := os.Open(s.data)
	if err != nil {
		return err
	}
	defer data.Close()

	s.cmd = s.account.command(context.Background(), filepath.Join(binaries, "postgres"))
	s.cmd.Args = append(s.cmd.Args, "-D", s.account.share(s.cmd, data))
	all := maps.Clone(settings)
	maps.Copy(all, further)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s.cmd.Args = append(s.cmd.Args, "-c", name+"="+all[name])
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log

	started := make(chan error)
	go func() {
		// The kernel sends the parent's death signal when the thread that forked
		// ends, so this one is kept for as long as the server lives.
		runtime.LockOSThread()
		err := s.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		s.err = s.cmd.Wait()
		s.release()
		close(s.done)
	}()
	return <-started
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readyPatience)
		defer cancel()
	}
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		var refusal *pgconn.PgError
		if errors.As(err, &refusal) && refusal.Code != "57P03" { // cannot_connect_now
			return fmt.Errorf("server refuses us: %w", err)
		}
		select {
		case <-s.done:
			return fmt.Errorf("server ended while starting, %s", s.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("server is not ready: %w (%w), %s", ctx.Err(), err, s.lastWords())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lastWords returns the end of what this server logged, for errors.
func (s *Server) lastWords() string {
	f, err := os.Open(s.log())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, s.logStart, 1<<20))
	if err != nil {
		return err.Error()
	}
	return s.log() + " ends with:\n" + tail(string(b))
}

func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
