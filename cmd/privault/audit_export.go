package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/durable"
)

type auditExportCmd struct {
	DatabaseURL string        `env:"PRIVAULT_DATABASE_URL" required:"" placeholder:"URL" help:"Postgres URL of the data database, as the server's login has it."`
	To          string        `env:"PRIVAULT_AUDIT_EXPORT_TO" default:"-" placeholder:"WHERE" help:"- for standard output, a file to append to, syslog+tcp://HOST:PORT, syslog+tls://HOST:PORT (RFC 5424 in the framing of RFC 6587 and 5425), or the address of an OTLP receiver over HTTP, https://HOST/v1/logs."`
	Cursor      string        `placeholder:"FILE" help:"File that says how far the log was delivered. It is written behind each batch, so what was on its way when something failed is sent again."`
	From        int64         `help:"Index in the log to begin with, where there is no cursor yet."`
	Follow      bool          `help:"Go on with what comes, until the process is told to stop."`
	Batch       int           `default:"500" help:"Entries sent together."`
	Patience    time.Duration `default:"5m" help:"Without --follow: how long to try again when the receiver or the database is away. The exit code is 75 then."`
	MaxMessage  int           `default:"8192" help:"Longest syslog message, in bytes. A longer entry is sent without its lists of records, and says how many they were."`
	CA          string        `placeholder:"FILE" help:"Certificates (PEM) that sign the receiver's; by default the system's."`
	Cert        string        `placeholder:"FILE" help:"Client certificate (PEM)."`
	CertKey     string        `placeholder:"FILE" help:"Its private key (PEM)."`
	HeaderFile  string        `placeholder:"FILE" help:"File with lines Name: value, sent to the OTLP receiver with every request."`
}

// deliver hands entries to a receiver and returns when it has them.
type deliver func(ctx context.Context, entries []vault.ShippedEntry) error

// errRefused is a delivery that the receiver will never take: to try again would not help, and to go on would lose entries.
var errRefused = errors.New("the receiver refuses the entries")

func (a *auditExportCmd) Run(ctx context.Context) error {
	if a.Batch < 1 || a.Batch > 10_000 || a.MaxMessage < 2048 || a.From < 0 {
		return &configError{[]string{"--batch is 1 to 10000, --max-message at least 2048, --from not negative"}}
	}
	send, err := a.receiver()
	if err != nil {
		return err
	}
	c, err := openCursorFile(a.Cursor, a.From)
	if err != nil {
		return err
	}
	defer c.close()
	x := &shipping{auditExportCmd: a, send: send, cursor: c}
	defer x.stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	var since time.Time
	for pause := time.Duration(0); ; {
		sent, err := x.batch(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errRefused), err != nil && vault.AsError(err).Kind == vault.IntegrityFailure:
			return err
		case err != nil:
			if since.IsZero() {
				since = time.Now()
			}
			if !a.Follow && time.Since(since) > a.Patience {
				return errors.Join(errTryAgain, err)
			}
			pause = min(max(2*pause, 500*time.Millisecond), time.Minute)
			log.WarnContext(ctx, "not delivered, trying again", "error", err.Error(), "next", c.Next, "in", pause.String())
		case sent == 0 && !a.Follow:
			return nil
		case sent == 0:
			since, pause = time.Time{}, time.Second
		default:
			since, pause = time.Time{}, 0
		}
		// Jitter, so that many who wait for one receiver don't come back together.
		if pause > 0 && !rest(ctx, pause/2+rand.N(pause)) { //nolint:gosec // nothing secret depends on it
			return nil
		}
	}
}

// rest waits, unless ctx ends.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// shipping is an export under way.
type shipping struct {
	*auditExportCmd
	send   deliver
	cursor *cursorFile
	log    *vault.LogReader
}

func (x *shipping) stop() {
	if x.log != nil {
		x.log.Close()
		x.log = nil
	}
}

// batch delivers the next entries, and says how far the log is. It gives how many places of the log that were.
func (x *shipping) batch(ctx context.Context) (places int64, err error) {
	if x.log == nil {
		if x.log, err = vault.OpenLog(ctx, x.DatabaseURL); err != nil {
			return 0, err
		}
		if err := x.cursor.belongsTo(x.log.Deployment); err != nil {
			return 0, err
		}
	}
	entries, next, err := x.log.Read(ctx, x.cursor.Next, x.Batch)
	if err != nil {
		x.stop() // to be opened again, which is an entry; that the receiver is away is none
		return 0, err
	}
	if len(entries) > 0 {
		if err := x.send(ctx, entries); err != nil {
			return 0, err
		}
	}
	if places = next - x.cursor.Next; places == 0 {
		return 0, nil
	}
	return places, x.cursor.advance(next)
}

// receiver is where the entries go.
func (a *auditExportCmd) receiver() (deliver, error) {
	switch scheme, _, _ := strings.Cut(a.To, "://"); {
	case a.To == "-":
		return func(_ context.Context, entries []vault.ShippedEntry) error { return writeLines(os.Stdout, entries) }, nil
	case scheme == a.To:
		return func(_ context.Context, entries []vault.ShippedEntry) error { return appendLines(a.To, entries) }, nil
	case scheme == "syslog+tcp", scheme == "syslog+tls":
		return a.syslog()
	case scheme == "http", scheme == "https":
		return a.otlp()
	}
	return nil, &configError{[]string{"--to is -, a file, or an address that begins with syslog+tcp://, syslog+tls://, https:// or http://"}}
}

func writeLines(f *os.File, entries []vault.ShippedEntry) error {
	var b []byte
	for _, e := range entries {
		b = append(append(b, e.Line()...), '\n')
	}
	_, err := f.Write(b)
	return err
}

// appendLines returns when the lines are durable. What is left of a line that was broken off is cut away first.
func appendLines(path string, entries []vault.ShippedEntry) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := wholeLines(f)
	if err != nil {
		return err
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.Seek(end, 0); err != nil {
		return err
	}
	if err := writeLines(f, entries); err != nil {
		return err
	}
	return f.Sync()
}

// wholeLines is where the last whole line of a file ends.
func wholeLines(f *os.File) (end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	b := make([]byte, 64<<10)
	for end = info.Size(); end > 0; {
		from := max(0, end-int64(len(b)))
		part := b[:end-from]
		if _, err := f.ReadAt(part, from); err != nil {
			return 0, err
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] == '\n' {
				return from + int64(i) + 1, nil
			}
		}
		end = from
	}
	return 0, nil
}

// cursorFile says how far a log was delivered. One export at a time has it.
type cursorFile struct {
	Deployment string `json:"deployment"`
	Next       int64  `json:"next"` // index in the log

	path string // empty: it isn't kept
	lock *os.File
}

func openCursorFile(path string, from int64) (*cursorFile, error) {
	c := &cursorFile{Next: from, path: path}
	if path == "" {
		return c, nil
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another export works with %s", path), lock.Close())
	}
	c.lock = lock
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not the cursor of an export: %w", path, err), lock.Close())
	}
	return c, nil
}

func (c *cursorFile) close() {
	if c.lock != nil {
		_ = c.lock.Close() // and with it the lock goes
	}
}

// belongsTo refuses to go on with another deployment's log.
func (c *cursorFile) belongsTo(deployment string) error {
	if c.Deployment != "" && c.Deployment != deployment {
		return fmt.Errorf("%w: %s is the cursor of another deployment's log", errRefused, c.path)
	}
	c.Deployment = deployment
	return nil
}

// advance is durable when it returns.
func (c *cursorFile) advance(next int64) error {
	c.Next = next
	if c.path == "" {
		return nil
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return durable.Replace(c.path, append(text, '\n'))
}
