// Command privault is the privacy vault: the server, and the tools that operators run beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // time zones where the machine has none

	"github.com/alecthomas/kong"
)

// Exit codes, from BSD's sysexits where one fits.
const (
	exitFailed   = 1
	exitTryAgain = 75 // EX_TEMPFAIL: what was asked for is away
	exitConfig   = 78 // EX_CONFIG: the settings are at fault, starting again won't help
)

type cli struct {
	Dev      devCmd      `cmd:"" help:"Run a development server: its own Postgres, a local KMS, a sample, an API key that may do everything."`
	Serve    serveCmd    `cmd:"" help:"Run the production server."`
	Migrate  migrateCmd  `cmd:"" help:"Apply the database schema, or show how far it is."`
	Tenant   tenantCmd   `cmd:"" help:"Make tenants."`
	Keys     keysCmd     `cmd:"" help:"Tenants' keys, and the key-encryption keys that wrap them."`
	Audit    auditCmd    `cmd:"" help:"Keys and checks of the audit log."`
	Policy   policyCmd   `cmd:"" help:"Try policies before they are in force."`
	Requests requestsCmd `cmd:"" help:"Requests of persons, and until when they must be answered."`
	Sweep    sweepCmd    `cmd:"" help:"Destroy what is due by the rules of retention: for cron."`
	Receipt  receiptCmd  `cmd:"" help:"Verify certificates and data packages."`
	Import   importCmd   `cmd:"" help:"Store a CSV or NDJSON file's records and write their tokens to a file."`
	Export   exportCmd   `cmd:"" help:"Write a collection's records and tokens to a CSV or NDJSON file."`
	Restore  restoreCmd  `cmd:"" help:"After a backup was restored: bring it up to date with the ledger, and try it out beforehand."`
	Doctor   doctorCmd   `cmd:"" help:"Examine a deployment: databases, clocks, log, jobs, and what its indexes tell whoever reads them."`
	Bench    benchCmd    `cmd:"" help:"Measure the vault beside bare Postgres, or a running server."`
	Version  versionCmd  `cmd:"" help:"Show the version."`
}

func main() {
	// The first signal asks to stop; a second one, with the handler gone, ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	var c cli
	parser, err := kong.New(&c, kong.Name("privault"),
		kong.Description("A privacy vault: it keeps personal data sealed in Postgres and gives tokens in its place."),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "privault:", err)
		return exitFailed
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		var unclear *kong.ParseError
		if errors.As(err, &unclear) {
			parser.Stdout = os.Stderr
			_ = unclear.Context.PrintUsage(true) // there is nowhere left to say that stderr can't be written
		}
		fmt.Fprintln(os.Stderr, "privault:", err)
		return exitConfig
	}
	err = parsed.Run()
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "privault:", err)
	var faults *configError
	var unfinished *unfinishedSweep
	switch {
	case errors.As(err, &faults):
		return exitConfig
	case errors.As(err, &unfinished):
		return exitConfirm
	case errors.Is(err, errTryAgain):
		return exitTryAgain
	}
	return exitFailed
}

type versionCmd struct{}

//nolint:unparam // kong wants the error
func (versionCmd) Run() error {
	version := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	fmt.Println("privault", version)
	return nil
}
