package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// benchTarget is the server that is measured, and what was stored there.
type benchTarget struct {
	connection
	host, base string // of the URL: where to dial, and the path before every route's
	tls        bool
	owner      string // URL of the server's database, as its owner; empty: it isn't ours, and nothing is measured beside it
	pid        int    // of the server, if it is ours
	dir        string // for files
	stop       func()
	prefix     string // of the names of collections

	made    []string // collections
	values  atomic.Int64
	tokens  []string // of stored values, once somebody asked for them
	lately  []string // collections that hold --records records each, the file's
	copied  bool     // the reference's table holds the file's records
	created bool     // the references' tables are there
}

// target is the server of --url, or one of the benchmark's own.
func (b *benchCmd) target(ctx context.Context, dir string) (*benchTarget, error) {
	t := &benchTarget{dir: dir, prefix: "bench_", stop: func() {}}
	if b.URL != "" {
		// Not of PRIVAULT_URL: a benchmark falls upon nobody's server for a variable that is meant for other commands.
		t.connection = connection{URL: b.URL, KeyFile: b.KeyFile}
		t.prefix += randomHex(4) + "_"
		if err := t.credentials(); err != nil {
			return nil, err
		}
	} else if err := t.start(ctx); err != nil {
		return nil, err
	}
	u, err := url.Parse(t.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &configError{[]string{"--url is not the http(s):// URL of a server"}}
	}
	t.host, t.base, t.tls = u.Host, strings.TrimSuffix(u.Path, "/"), u.Scheme == "https"
	if u.Port() == "" {
		t.host = net.JoinHostPort(u.Hostname(), u.Scheme) // the port by its name
	}
	return t, nil
}

// start runs `privault dev` in a process of its own, as it runs for its users.
func (t *benchTarget) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	data := filepath.Join(t.dir, "server")
	server := exec.CommandContext(ctx, self, "dev", "--data", data, "--no-sample", "--quiet", "--sweep-every", "0",
		"--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	t.pid = server.Process.Pid
	t.stop = func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	}
	// It prints its address when it is ready.
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.stop()
		return errors.New("the server did not start")
	}
	dev := devFile{}
	raw, err := os.ReadFile(filepath.Join(data, "dev.json"))
	if err == nil {
		err = json.Unmarshal(raw, &dev)
	}
	if err != nil {
		t.stop()
		return err
	}
	t.connection = connection{URL: dev.URL, APIKey: dev.APIKey}
	t.owner = dev.DatabaseURL
	return nil
}

func (t *benchTarget) close() { t.stop() }

// leave says what stays on somebody's server.
func (t *benchTarget) leave(w io.Writer) {
	if t.owner != "" || len(t.made) == 0 {
		return
	}
	fmt.Fprintf(w, "\nLeft on %s: the collections %s, and the audit entries of all calls.\n"+
		"Their records can't be read after a day (keep P1D), and go with a sweep: privault sweep --collection NAME --wait; where it waits\n"+
		"for a confirmation: --confirm. Then DELETE /v1/collections/NAME.\n", t.URL, strings.Join(t.made, ", "))
}

// define makes a collection of these fields and gives its name. On a server that isn't ours its records stay for a day.
func (t *benchTarget) define(ctx context.Context, name, fields string) (string, error) {
	name = fmt.Sprintf("%s%s_%d", t.prefix, name, len(t.made)+1)
	definition := `{"fields":` + fields + `}`
	if t.owner == "" {
		definition = `{"retention":{"keep":"P1D"},"fields":` + fields + `}`
	}
	status, body, err := t.call(ctx, http.MethodPut, "/v1/collections/"+name, []byte(definition), "")
	if err == nil && status != http.StatusCreated {
		err = errors.New(problemText(status, body))
	}
	if err != nil {
		return "", fmt.Errorf("make the collection %s: %w", name, err)
	}
	t.made = append(t.made, name)
	return name, nil
}

// store stores items, each as JSON, and gives what became of them.
func (t *benchTarget) store(ctx context.Context, collection string, items []string) ([]importedItem, error) {
	var answer struct{ Items []importedItem }
	status, body, err := t.call(ctx, http.MethodPost, "/v1/tokenize", []byte(batchBody(collection, items...)), "")
	if err == nil && status != http.StatusOK {
		err = errors.New(problemText(status, body))
	}
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil {
		return nil, fmt.Errorf("store records: %w", err)
	}
	return answer.Items, nil
}

// batchBody is a body for tokenize.
func batchBody(collection string, items ...string) string {
	return `{"collection":"` + collection + `","items":[` + strings.Join(items, ",") + `]}`
}

// benchTokens is how many stored values are read by turns.
const benchTokens = 5000

const emailField = `{"email":{"type":"email"}}`

// email is a value that was not there before.
func (t *benchTarget) email() string {
	return fmt.Sprintf("jane.roe.%08d@example.com", t.values.Add(1))
}

// stored gives tokens of values of a collection without indexes.
func (t *benchTarget) stored(ctx context.Context) ([]string, error) {
	if len(t.tokens) > 0 {
		return t.tokens, nil
	}
	collection, err := t.define(ctx, "read", emailField)
	if err != nil {
		return nil, err
	}
	t.tokens, err = t.fill(ctx, collection, "email", t.email)
	return t.tokens, err
}

// fill stores values of a field, each in a record of its own, and gives their tokens.
func (t *benchTarget) fill(ctx context.Context, collection, field string, value func() string) (tokens []string, err error) {
	for len(tokens) < benchTokens {
		var items []string
		for range 1000 {
			items = append(items, `{"fields":{"`+field+`":"`+value()+`"}}`)
		}
		stored, err := t.store(ctx, collection, items)
		if err != nil {
			return nil, err
		}
		for _, item := range stored {
			tokens = append(tokens, item.Tokens[field])
		}
	}
	return tokens, t.settle(ctx)
}

// settle does what autovacuum does within a minute, and makes Postgres write what waits: neither side of a comparison pays for what was before it.
func (t *benchTarget) settle(ctx context.Context) error {
	if t.owner == "" {
		return nil
	}
	return t.exec(ctx, `analyze`, `checkpoint`)
}

// bare does something on the database itself, for what stands beside a figure.
func (t *benchTarget) bare(ctx context.Context, do func(*pgx.Conn) error) error {
	owner, err := pgx.Connect(ctx, t.owner)
	if err != nil {
		return err
	}
	defer owner.Close(ctx)
	return do(owner)
}

// exec runs statements on the database itself, each by itself.
func (t *benchTarget) exec(ctx context.Context, statements ...string) error {
	return t.bare(ctx, func(owner *pgx.Conn) error {
		for _, s := range statements {
			if _, err := owner.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}
