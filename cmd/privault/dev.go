package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/api/egress"
	"github.com/privault/privault/kms"
	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/durable"
	"github.com/privault/privault/vault/pgserver"
	"github.com/privault/privault/vault/policy"
)

type devCmd struct {
	Listen      string        `default:"127.0.0.1:8200" env:"PRIVAULT_DEV_LISTEN" help:"Address of the API."`
	OpsListen   string        `default:"127.0.0.1:9200" env:"PRIVAULT_DEV_OPS_LISTEN" help:"Address of /healthz, /readyz and /metrics."`
	Data        string        `default:"./.privault" type:"path" help:"Folder for the database, the local key and dev.json."`
	DatabaseURL string        `placeholder:"URL" help:"Use this Postgres, as the database's owner, in place of a private one."`
	NoSample    bool          `help:"Don't load the sample collection."`
	SweepEvery  time.Duration `default:"24h" env:"PRIVAULT_DEV_SWEEP_EVERY" help:"How often what is due by rules of retention is swept; 0: only when somebody asks (privault sweep)."`
	Quiet       bool          `help:"Print nothing but the address when ready."`
}

// devFile is DIR/dev.json: how to reach a development server that is ready.
type devFile struct {
	URL         string `json:"url"`
	OpsURL      string `json:"ops_url"`
	APIKey      string `json:"api_key"`
	DatabaseURL string `json:"database_url"` // as owner
	KeystoreURL string `json:"keystore_url"`
}

// devState is DIR/state.json: what the next start on the same data goes on with.
type devState struct {
	AppRole     string `json:"app_role"`
	AppPassword string `json:"app_password"`
	APIKey      string `json:"api_key"`
	SampleToken string `json:"sample_token"`
}

const (
	devDatabase = "privault"
	devTenant   = "dev"
)

func (d *devCmd) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(d.Data, 0o700); err != nil {
		return err
	}
	lock, err := d.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	// Whoever waits for the file must not find the one of an earlier run.
	if err := os.Remove(d.file("dev.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	owner := d.DatabaseURL
	if owner == "" {
		server, err := pgserver.Start(ctx, pgserver.Config{Dir: d.file("postgres"), Settings: map[string]string{
			"max_connections": "400", // the benchmark's reference opens one for each client
		}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Stop()) }()
		go func() {
			<-server.Done()
			cancel(errors.New("the private Postgres has ended; its log is " + d.file("postgres/postgres.log")))
		}()
		if owner, err = createDatabase(ctx, server); err != nil {
			return err
		}
	}
	err = d.serve(ctx, owner)
	if err != nil {
		// A Postgres that goes breaks connections first: a moment later ctx knows.
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// lock keeps a second server off the folder; the kernel takes it from a process that dies.
func (d *devCmd) lock() (*os.File, error) {
	f, err := os.OpenFile(d.file("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another privault dev: stop it, or name another folder with --data", d.Data), f.Close())
	}
	return f, nil
}

func (d *devCmd) file(name string) string { return filepath.Join(d.Data, name) }

// createDatabase makes the development database in a private Postgres and gives its URL.
func createDatabase(ctx context.Context, server *pgserver.Server) (string, error) {
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer admin.Close(ctx)
	var exists bool
	if err := admin.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, devDatabase).Scan(&exists); err != nil || exists {
		return server.URL(devDatabase), err
	}
	for _, statement := range []string{"create database " + devDatabase,
		"alter database " + devDatabase + " set search_path = privault, keystore, public"} { // for psql
		if _, err := admin.Exec(ctx, statement); err != nil {
			return "", err
		}
	}
	return server.URL(devDatabase), nil
}

func (d *devCmd) serve(ctx context.Context, owner string) error {
	logFile, err := os.OpenFile(d.file("privault.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	relaxGC()
	log, end := newLog(logFile)
	defer end()

	state, err := d.state()
	if err != nil {
		return err
	}
	// Before the role that it names exists: a start that dies in between goes on with it.
	if err := d.writeJSON("state.json", state); err != nil {
		return err
	}
	app, err := prepareDatabase(ctx, owner, state)
	if err != nil {
		return err
	}
	keys, folder, err := d.localKey(ctx, owner)
	if err != nil {
		return err
	}
	evidence := Audit{AuditKey: filepath.Join(folder, "audit.key")}
	if _, err := os.Stat(evidence.AuditKey); errors.Is(err, fs.ErrNotExist) {
		if _, err := writeAuditKey(evidence.AuditKey, "privault/dev-"+randomHex(4), nil); err != nil {
			return err
		}
	}
	metrics := newMetrics()
	var unread error
	v, err := openVault(ctx, Database{DatabaseURL: app}, keys, func(c *vault.Config) {
		c.Log, c.Metrics = log, metrics
		c.Courier = courierBy(egress.Rules{Loopback: true}) // a receiver that is being developed is here too
		c.SweepEvery = d.SweepEvery
		unread = evidence.into(c)
		c.Ledger = filepath.Join(folder, "ledger")
	})
	if err := errors.Join(err, unread); err != nil {
		return err
	}
	defer v.Close()
	if err := d.prepareTenant(ctx, v, state); err != nil {
		return err
	}
	if err := d.writeJSON("state.json", state); err != nil {
		return err
	}
	defer func() { _ = os.Remove(d.file("dev.json")) }()
	s := &service{vault: v, log: log, metrics: metrics, public: listener{address: d.Listen}, ops: listener{address: d.OpsListen}}
	return s.run(ctx, func(public, ops net.Addr) error {
		f := devFile{URL: "http://" + public.String(), OpsURL: "http://" + ops.String(), APIKey: state.APIKey, DatabaseURL: owner, KeystoreURL: owner}
		if err := d.writeJSON("dev.json", f); err != nil {
			return err
		}
		return d.greet(os.Stdout, f, state)
	})
}

// state reads what an earlier run left, or starts anew.
func (d *devCmd) state() (*devState, error) {
	s := &devState{}
	b, err := os.ReadFile(d.file("state.json"))
	switch {
	case err == nil:
		err = json.Unmarshal(b, s)
	case errors.Is(err, fs.ErrNotExist):
		s.AppRole, s.AppPassword = "privault_dev_"+randomHex(4), randomHex(20)
		err = nil
	}
	return s, err
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// prepareDatabase makes the roles and the schema, and gives the URL that the service connects with: never as owner, so
// that row-level security binds it as it does in production.
func prepareDatabase(ctx context.Context, owner string, s *devState) (string, error) {
	c, err := pgx.Connect(ctx, owner)
	if err != nil {
		return "", errors.New("can't connect to the database as its owner; is the URL right and the server up?")
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, migrations.Roles); err != nil {
		return "", fmt.Errorf("make the group roles (the owner must be allowed to create roles): %w", err)
	}
	var exists bool
	if err := c.QueryRow(ctx, `select exists (select from pg_roles where rolname = $1)`, s.AppRole).Scan(&exists); err != nil {
		return "", err
	}
	verb, role := "create role ", pgx.Identifier{s.AppRole}.Sanitize()
	if exists {
		verb = "alter role "
	}
	// The password is hex of our own making: it needs no quoting.
	if _, err := c.Exec(ctx, verb+role+" login password '"+s.AppPassword+"'"); err != nil {
		return "", fmt.Errorf("make the service's role: %w", err)
	}
	if _, err := c.Exec(ctx, "grant privault_app, privault_keystore to "+role); err != nil {
		return "", fmt.Errorf("make the service's role: %w", err)
	}
	if err := migrations.Up(ctx, owner, owner); err != nil {
		return "", err
	}
	u, err := url.Parse(owner)
	if err != nil {
		return "", errors.New("--database-url is not a postgres:// URL")
	}
	u.User = url.UserPassword(s.AppRole, s.AppPassword)
	return u.String(), nil
}

// localKey gives the key-encryption key: that of the development server which made this database, if its files are on this
// machine, so that a second server on --database-url joins it as a replica with a tenant of its own; or else one in Data. The
// key of the audit log lies in the same folder.
func (d *devCmd) localKey(ctx context.Context, owner string) (keys Keys, folder string, err error) {
	own := "local://" + d.file("kms.keyset")
	c, err := pgx.Connect(ctx, owner)
	if err != nil {
		return keys, "", err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, `
		select kms_uri from keystore.tenant_roots where tenant_id = '00000000-0000-0000-0000-000000000000'`).Scan(&own)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return keys, "", err
	}
	path := strings.TrimPrefix(own, "local://")
	if _, err := os.Stat(path); err != nil {
		path = d.file("kms.keyset") // there is none yet, or the folder was moved
	}
	folder = filepath.Dir(path)
	keys.KMS = "local://" + path + "?key-file=" + filepath.Join(folder, "kms.key")
	if err := kms.CreateLocal(keys.KMS, keys.options()); err != nil && !errors.Is(err, fs.ErrExist) {
		return keys, "", err
	}
	return keys, folder, nil
}

// prepareTenant makes the development tenant and the sample, unless they are there.
func (d *devCmd) prepareTenant(ctx context.Context, v *vault.Vault, s *devState) error {
	who, err := v.Authenticate(ctx, s.APIKey)
	if err != nil && vault.AsError(err).Kind != vault.Unauthenticated {
		return err
	}
	if err != nil {
		issued, err := v.CreateTenant(ctx, devTenant, []string{policy.Developer}, "")
		if vault.AsError(err).Kind == vault.Conflict {
			// The state file is gone, or the database is another's: start beside what is there.
			issued, err = v.CreateTenant(ctx, devTenant+"-"+randomHex(4), []string{policy.Developer}, "")
		}
		if err != nil {
			return err
		}
		s.APIKey, s.SampleToken = issued.Key, ""
		if who, err = v.Authenticate(ctx, s.APIKey); err != nil {
			return err
		}
	}
	if d.NoSample || s.SampleToken != "" {
		return nil
	}
	s.SampleToken, err = loadSample(ctx, v, who)
	return err
}

// writeJSON replaces a file that only its owner may read.
func (d *devCmd) writeJSON(name string, v any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // the URLs have ampersands, and people read this
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	return durable.Replace(d.file(name), b.Bytes())
}

// sampleCollection is made up, like everybody in it.
const sampleCollection = "sample_people"

func loadSample(ctx context.Context, v *vault.Vault, who vault.Caller) (token string, err error) {
	_, _, err = v.PutCollection(ctx, who, sampleCollection, vault.Definition{
		Description: "Made-up people to play with",
		Fields: map[string]vault.FieldDefinition{
			"name":  {Type: "name", Classification: "confidential", Required: true},
			"email": {Type: "email", Classification: "confidential"},
			"pan":   {Type: "pan", Classification: "restricted"},
		}}, 0)

	if err != nil {
		return "", err
	}
	b := vault.Batch{Collection: sampleCollection}
	for i, p := range [][3]string{
		{"Ada Example", "ada@example.com", "4111111111111111"},
		{"Ben Muster", "ben@example.org", "5555555555554444"},
		{"Chi Beispiel", "chi@example.net", "378282246310005"},
	} {
		item := vault.NewRecord{Subject: fmt.Sprintf("sample-%d", i+1), Fields: map[string]vault.Secret{}}
		for at, name := range []string{"name", "email", "pan"} {
			item.Fields[name] = vault.NewSecret([]byte(`"` + p[at] + `"`))
		}
		b.Items = append(b.Items, item)
	}
	done, err := v.Tokenize(ctx, who, b)
	if err != nil {
		return "", err
	}
	if done[0].Err != nil {
		return "", done[0].Err
	}
	return done[0].Tokens["email"], nil
}

var greeting = template.Must(template.New("").Parse(`
Privault is ready. This server is for development: its keys lie in {{.Dir}}.

  address   {{.URL}}
  API key   {{.APIKey}}
  metrics   {{.OpsURL}}/metrics
  psql      psql "$(sed -n 's/.*"database_url": "\(.*\)".*/\1/p' '{{.Dir}}/dev.json')"
{{if .SampleToken}}
Store a value and get a token in its place:

curl -s {{.URL}}/v1/tokenize -H 'Authorization: Bearer {{.APIKey}}' -H 'Content-Type: application/json' \
  -d '{"collection":"{{.Sample}}","items":[{"fields":{"name":"Jane Roe","email":"jane@example.com"}}]}'

What support staff see of it (masked is the default):

curl -s {{.URL}}/v1/detokenize -H 'Authorization: Bearer {{.APIKey}}' -H 'Content-Type: application/json' \
  -d '{"items":[{"token":"{{.SampleToken}}"}]}'

The value itself:

curl -s {{.URL}}/v1/detokenize -H 'Authorization: Bearer {{.APIKey}}' -H 'Content-Type: application/json' \
  -d '{"items":[{"token":"{{.SampleToken}}","view":"plain"}]}'
{{end}}
Ctrl-C stops it. Started again on the same folder, it goes on with the same data and key.
`))

func (d *devCmd) greet(w io.Writer, f devFile, s *devState) error {
	if d.Quiet {
		_, err := fmt.Fprintln(w, f.URL)
		return err
	}
	return greeting.Execute(w, struct {
		devFile
		Dir, Sample, SampleToken string
	}{f, d.Data, sampleCollection, s.SampleToken})
}
