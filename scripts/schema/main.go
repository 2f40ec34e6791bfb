// Command schema writes migrations/schema.sql: both schemas as a freshly migrated database has them, for reading and for
// seeing in a review what a migration changes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault/pgserver"
)

const (
	target = "migrations/schema.sql"
	head   = "-- Written by `make schema` from a freshly migrated database. For reading; the migrations are what counts.\n\n"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "privault-schema-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err := pgserver.Start(ctx, pgserver.Config{Dir: dir, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	url := server.URL("postgres")
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, migrations.Roles); err != nil {
		return err
	}
	if err := migrations.Up(ctx, url, url); err != nil {
		return err
	}
	dumped, err := dump(ctx, url)
	if err != nil {
		return err
	}
	return os.WriteFile(target, []byte(head+dumped), 0o644) //nolint:gosec // a source file
}

// volatile are the lines that differ between versions of pg_dump, or from one run to the next.
var volatile = regexp.MustCompile(`(?m)^(-- Dumped .*|\\(un)?restrict .*|SET .*|SELECT pg_catalog\.set_config.*|--)?\n`)

func dump(ctx context.Context, url string) (string, error) {
	program, err := findDump()
	if err != nil {
		return "", err
	}
	// Which months have a partition depends on the day.
	out, err := exec.CommandContext(ctx, program, "--schema-only", "--no-owner", "--schema=privault", "--schema=keystore", "--schema=river",
		"--exclude-table=privault.*_[0-9][0-9][0-9][0-9]_[0-9][0-9]", url).Output()
	if err != nil {
		return "", fmt.Errorf("pg_dump: %w", err)
	}
	text := volatile.ReplaceAllString(string(out), "")
	text = regexp.MustCompile(`(?m)^-- (Name|PostgreSQL).*\n`).ReplaceAllString(text, "")
	return strings.ReplaceAll(text, ";\n", ";\n\n"), nil
}

func findDump() (string, error) {
	binaries, err := pgserver.Find()
	if err != nil {
		return "", err
	}
	if program, err := exec.LookPath(filepath.Join(binaries, "pg_dump")); err == nil {
		return program, nil
	}
	return exec.LookPath("pg_dump")
}
