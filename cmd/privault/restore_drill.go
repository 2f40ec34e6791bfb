package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/pgserver"
)

type restoreDrillCmd struct {
	Dump         string `required:"" type:"existingfile" placeholder:"FILE" help:"Dump of the data database: pg_dump's custom format, or plain SQL."`
	KeystoreDump string `type:"existingfile" placeholder:"FILE" help:"Dump of the keystore, where it is a database of its own."`
	Server       string `env:"PRIVAULT_DRILL_SERVER" required:"" placeholder:"URL" help:"Postgres URL of a server for the scratch databases, as a superuser. Not the production server."`
	KeystoreURL  string `env:"PRIVAULT_KEYSTORE_URL" placeholder:"URL" help:"Without --keystore-dump: the keystore in use, which is only read. What comes of a data backup alone."`
	Ledger       string `env:"PRIVAULT_LEDGER" required:"" placeholder:"FILE" help:"The ledger. It is only read."`
	AuditKey     string `env:"PRIVAULT_AUDIT_KEY" required:"" placeholder:"FILE" help:"Key that the report is signed with: that of the audit log."`
	Report       string `placeholder:"FILE" help:"Write the signed report to this file; by default it is printed."`
	Binaries     string `placeholder:"DIR" help:"Folder of psql and pg_restore; by default PATH, or where Postgres is found."`
	Keep         bool   `help:"Leave the scratch databases there."`
	Keys         `embed:""`
}

func (r *restoreDrillCmd) Run(ctx context.Context) (err error) {
	keys, err := loadSigner(r.AuditKey)
	if err != nil {
		return &configError{[]string{fmt.Sprintf("--audit-key: %v", err)}}
	}
	if r.Binaries == "" {
		if r.Binaries, err = clientBinaries(); err != nil {
			return err
		}
	}
	name := "privault_drill_" + randomHex(6)
	s, err := r.scratch(ctx, name)
	if s != nil && !r.Keep {
		defer func() { err = errors.Join(err, s.drop(context.WithoutCancel(ctx))) }()
	}
	if err != nil {
		return awayOr(err)
	}
	v, err := openRestored(ctx, Database{DatabaseURL: s.data, KeystoreURL: s.keys, MaxConns: 4}, r.Keys, r.Ledger, false)
	if err != nil {
		return awayOr(err)
	}
	defer v.Close()
	done, err := v.Drill(ctx)
	if err != nil {
		return awayOr(err)
	}
	dump, err := fileDigest(r.Dump)
	if err != nil {
		return err
	}
	more := [][2]string{{"dump-sha256", dump}}
	if r.KeystoreDump != "" {
		if dump, err = fileDigest(r.KeystoreDump); err != nil {
			return err
		}
		more = append(more, [2]string{"keystore-dump-sha256", dump})
	}
	if err := writeReport(keys, done.Replay.Report(audit.DrillTitle, time.Now(), append(more, done.Lines()...)...), r.Report); err != nil {
		return err
	}
	switch {
	case done.After > 0:
		return fmt.Errorf("%d records of erased people can be read from this backup, even after the replay", done.After)
	case !done.Passed():
		return errors.New("nothing of this backup can be read at all, so that erased people can't says nothing: is it the right KMS key, and the right keystore?")
	}
	return nil
}

// clientBinaries finds the folder of Postgres's client programs.
func clientBinaries() (string, error) {
	if path, err := exec.LookPath("pg_restore"); err == nil {
		return filepath.Dir(path), nil
	}
	dir, err := pgserver.Find()
	if err != nil {
		return "", &configError{[]string{"no pg_restore was found: name its folder with --binaries"}}
	}
	return dir, nil
}

// scratch is where a drill takes place.
type scratch struct {
	server     string
	data, keys string   // URLs
	made       []string // databases
}

// scratch makes the databases and restores the dumps into them.
func (r *restoreDrillCmd) scratch(ctx context.Context, name string) (*scratch, error) {
	s := &scratch{server: r.Server}
	c, err := pgx.Connect(ctx, r.Server)
	if err != nil {
		return nil, errors.Join(errTryAgain, errors.New("can't connect to the scratch server"))
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, migrations.Roles); err != nil { // dumps grant to them
		return nil, err
	}
	if s.data, err = r.load(ctx, c, s, name, r.Dump); err != nil {
		return s, err
	}
	s.keys = s.data
	if r.KeystoreDump != "" {
		if s.keys, err = r.load(ctx, c, s, name+"_keys", r.KeystoreDump); err != nil {
			return s, err
		}
	}
	var whole bool
	d, err := pgx.Connect(ctx, s.data)
	if err != nil {
		return s, err
	}
	defer d.Close(ctx)
	if err := d.QueryRow(ctx, `select to_regclass('keystore.data_keys') is not null`).Scan(&whole); err != nil {
		return s, err
	}
	if !whole && r.KeystoreDump == "" {
		if r.KeystoreURL == "" {
			return s, &configError{[]string{"the dump has no keystore in it: give --keystore-dump, or --keystore-url for the one in use"}}
		}
		s.keys, err = readOnly(r.KeystoreURL)
		return s, err // a schema that is behind is said by whoever reads it
	}
	return s, migrations.Up(ctx, s.data, s.keys)
}

// readOnly is a database's URL for sessions that can't change it.
func readOnly(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", &configError{[]string{"--keystore-url is not a postgres:// URL"}}
	}
	q := u.Query()
	q.Set("default_transaction_read_only", "on")
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// load makes a database of a dump and gives its URL.
func (r *restoreDrillCmd) load(ctx context.Context, c *pgx.Conn, s *scratch, name, dump string) (string, error) {
	u, err := url.Parse(r.Server)
	if err != nil {
		return "", &configError{[]string{"--server is not a postgres:// URL"}}
	}
	if _, err := c.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	s.made = append(s.made, name)
	u.Path = "/" + name
	whole := u.String()
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username()) // command lines are seen by others
	custom, err := isCustomDump(dump)
	if err != nil {
		return "", err
	}
	program := exec.CommandContext(ctx, filepath.Join(r.Binaries, "psql"), "--no-psqlrc", "--quiet", "--output", os.DevNull, "--file", dump, u.String())
	if custom {
		program = exec.CommandContext(ctx, filepath.Join(r.Binaries, "pg_restore"), "--no-owner", "--no-acl", "--exit-on-error", "--dbname", u.String(), dump)
	}
	var said bytes.Buffer
	program.Env, program.Stderr = append(os.Environ(), "PGPASSWORD="+password), &said
	if err := program.Run(); err != nil {
		return "", fmt.Errorf("restore %s: %w: %s", dump, err, firstLine(said.String()))
	}
	if fault := restoreFault(said.String()); fault != "" {
		return "", fmt.Errorf("restore %s: %s", dump, fault)
	}
	return whole, nil
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

func isCustomDump(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, 5)
	_, err = io.ReadFull(f, magic)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s is no dump", path)
	}
	return string(magic) == "PGDMP", err
}

// restoreFault finds what went wrong in what psql said of a plain dump: all but owners and grants of roles that the scratch server doesn't have.
func restoreFault(said string) string {
	for line := range strings.Lines(said) {
		noRole := strings.Contains(line, `role "`) && strings.HasSuffix(strings.TrimSpace(line), "does not exist")
		if strings.Contains(line, "ERROR:") && !noRole {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

func (s *scratch) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.server)
	if err != nil {
		return fmt.Errorf("the scratch databases %s are still there: can't connect to their server", strings.Join(s.made, ", "))
	}
	defer c.Close(ctx)
	for _, name := range s.made {
		if _, failed := c.Exec(ctx, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)"); failed != nil {
			err = errors.Join(err, fmt.Errorf("the scratch database %s is still there: %w", name, failed))
		}
	}
	return err
}
