// Package migrations holds the schema of both databases as SQL and applies it.
//
// data/ makes schema privault in the data database, keystore/ makes schema keystore in the keystore's, which may be
// the same database. A migration is never edited once it has landed: a change is a new pair of files, and it must run
// while the previous version of the service is still serving. roles.sql is what a database administrator runs first.
// schema.sql is a dump of both, for reading; `make schema` writes it.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // golang-migrate's driver takes a database/sql handle
)

//go:embed data/*.sql keystore/*.sql
var files embed.FS

// Roles is the script that makes the group roles which the migrations grant to.
//
//go:embed roles.sql
var Roles string

// set is one series of migrations: the folder it is in and the schema it makes.
type set struct{ folder, schema string }

var (
	keystore = set{"keystore", "keystore"}
	data     = set{"data", "privault"}
)

// State says how far one set is.
type State struct {
	Schema  string
	Version uint // 0: nothing applied
	Latest  uint
	Dirty   bool // a migration failed half-way: an operator must look
}

// Up applies what is missing, keystore first. keystoreURL may equal dataURL.
func Up(ctx context.Context, dataURL, keystoreURL string) error {
	return each(ctx, dataURL, keystoreURL, func(m *migrate.Migrate, s set) error {
		if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
			return fmt.Errorf("migrations of schema %s: %w", s.schema, err)
		}
		return nil
	})
}

// Status reads how far both sets are.
func Status(ctx context.Context, dataURL, keystoreURL string) ([]State, error) {
	var states []State
	err := each(ctx, dataURL, keystoreURL, func(m *migrate.Migrate, s set) error {
		version, dirty, err := m.Version()
		if err != nil && !errors.Is(err, migrate.ErrNilVersion) {
			return fmt.Errorf("version of schema %s: %w", s.schema, err)
		}
		latest, err := s.latest()
		if err != nil {
			return err
		}
		states = append(states, State{Schema: s.schema, Version: version, Latest: latest, Dirty: dirty})
		return nil
	})
	return states, err
}

func each(ctx context.Context, dataURL, keystoreURL string, do func(*migrate.Migrate, set) error) error {
	for _, target := range []struct {
		set
		url string
	}{{keystore, keystoreURL}, {data, dataURL}} {
		if err := target.open(ctx, target.url, do); err != nil {
			return err
		}
	}
	return nil
}

func (s set) open(ctx context.Context, url string, do func(*migrate.Migrate, set) error) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("open database for schema %s: %w", s.schema, err)
	}
	defer db.Close()
	// golang-migrate keeps its version table inside the schema, so the schema comes first.
	name := pgx.Identifier{s.schema}.Sanitize()
	if _, err := db.ExecContext(ctx, "create schema if not exists "+name); err != nil {
		return fmt.Errorf("create schema %s: %w", s.schema, err)
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{SchemaName: s.schema})
	if err != nil {
		return fmt.Errorf("migrations of schema %s: %w", s.schema, err)
	}
	source, err := iofs.New(files, s.folder)
	if err != nil {
		return fmt.Errorf("read migrations of schema %s: %w", s.schema, err)
	}
	m, err := migrate.NewWithInstance("iofs", source, s.schema, driver)
	if err != nil {
		return fmt.Errorf("migrations of schema %s: %w", s.schema, err)
	}
	// Without Close the migration's connection, and a pool's Close after it, hang.
	return errors.Join(do(m, s), closed(m))
}

func (s set) latest() (uint, error) {
	source, err := iofs.New(files, s.folder)
	if err != nil {
		return 0, err
	}
	defer source.Close()
	version, err := source.First()
	for err == nil {
		var next uint
		if next, err = source.Next(version); err == nil {
			version = next
		}
	}
	return version, nil
}

func closed(m *migrate.Migrate) error {
	source, database := m.Close()
	return errors.Join(source, database)
}
