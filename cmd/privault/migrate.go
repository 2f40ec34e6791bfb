package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault/policy"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Apply what is missing, keystore first. Connect as the owner of the database."`
	Status migrateStatusCmd `cmd:"" help:"Show how far both schemas are. The exit code is 1 if something is missing."`
	Roles  migrateRolesCmd  `cmd:"" help:"Print the SQL that makes the group roles, for a database administrator: privault migrate roles | psql …"`
}

// target is which databases to migrate.
type target struct {
	DatabaseURL string `env:"PRIVAULT_MIGRATE_DATABASE_URL" required:"" placeholder:"URL" help:"Postgres URL of the data database, as its owner."`
	KeystoreURL string `env:"PRIVAULT_MIGRATE_KEYSTORE_URL" placeholder:"URL" help:"Postgres URL of the keystore, as its owner; by default it is in the data database."`
}

func (t target) keystore() string {
	return Database{DatabaseURL: t.DatabaseURL, KeystoreURL: t.KeystoreURL}.keystore()
}

type migrateUpCmd struct {
	target `embed:""`
}

func (m *migrateUpCmd) Run(ctx context.Context) error {
	if err := migrations.Up(ctx, m.DatabaseURL, m.keystore()); err != nil {
		return err
	}
	_, err := showStatus(ctx, m.target)
	return err
}

type migrateStatusCmd struct {
	target `embed:""`
}

func (m *migrateStatusCmd) Run(ctx context.Context) error {
	current, err := showStatus(ctx, m.target)
	if err == nil && !current {
		err = fmt.Errorf("the schema is not up to date: run `privault migrate up`")
	}
	return err
}

func showStatus(ctx context.Context, t target) (current bool, err error) {
	states, err := migrations.Status(ctx, t.DatabaseURL, t.keystore())
	if err != nil {
		return false, err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "schema\tversion\tlatest\tstate")
	current = true
	for _, s := range states {
		state := "up to date"
		switch {
		case s.Dirty:
			state = "a migration failed half-way: look at it, mend it, then set the version by hand"
		case s.Version < s.Latest:
			state = "behind"
		case s.Version > s.Latest:
			state = "ahead of this binary"
		}
		current = current && state == "up to date"
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", s.Schema, s.Version, s.Latest, state)
	}
	return current, w.Flush()
}

type migrateRolesCmd struct{}

func (migrateRolesCmd) Run() error {
	fmt.Print(migrations.Roles)
	return nil
}

type tenantCmd struct {
	Create tenantCreateCmd `cmd:"" help:"Make a tenant with its keys and a first principal, and print that principal's API key, this once."`
}

type tenantCreateCmd struct {
	Name      string `arg:"" help:"Lower-case letters, digits, _ and -."`
	Role      string `default:"admin" enum:"admin,developer" help:"The first principal's role. developer may do everything, values and keys alike: not for production."`
	TenantKMS string `name:"tenant-kms" placeholder:"URI" help:"The KMS key of the tenant's own (one of --kms-keys) that is to wrap its root key; by default the deployment's does, --kms."`
	Database  `embed:""`
	Keys      `embed:""`
}

func (t *tenantCreateCmd) Run(ctx context.Context) error {
	v, err := openOperating(ctx, t.Database, t.Keys)
	if err != nil {
		return err
	}
	defer v.Close()
	role := policy.Admin
	if t.Role == policy.Developer {
		role = policy.Developer
	}
	issued, err := v.CreateTenant(ctx, t.Name, []string{role}, t.TenantKMS)
	if err != nil {
		return err
	}
	fmt.Printf("tenant %s\nprincipal %s\nexpires %s\nkey %s\n", issued.Tenant, issued.Principal, issued.Expires.Format("2006-01-02"), issued.Key)
	return nil
}
