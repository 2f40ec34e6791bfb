package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/privault/privault/vault/vaulttest"
)

// asCommand makes the test binary be the command, so that tests run real processes without building it anew.
const asCommand = "PRIVAULT_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "curl":
		os.Exit(curl(os.Args[1:]))
	case os.Getenv(asCommand) != "":
		main()
	default:
		vaulttest.Main(m)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&cli{}, kong.Name("privault"))
	if err != nil {
		t.Fatal(err)
	}
	overview := run1(t, nil, "--help").want(t, 0)
	for _, command := range parser.Model.Leaves(true) {
		path := strings.Fields(command.Path())
		if !strings.Contains(overview.out, strings.Join(path, " ")) {
			t.Errorf("privault --help does not mention %s", command.Path())
		}
		help := run1(t, nil, append(slices.Clone(path), "--help")...).want(t, 0)
		if !strings.Contains(help.out, command.Help) && len(command.Help) < 60 {
			t.Errorf("%s --help does not say what it does:\n%s", command.Path(), help.out)
		}
		for _, flag := range command.Flags {
			if flag.Name == "" || flag.Name == "-" || flag.Help == "" || !strings.Contains(help.out, "--"+flag.Name) {
				t.Errorf("%s has a flag %q that its help does not explain", command.Path(), flag.Name)
			}
		}
		if strings.Contains(help.out, "---") {
			t.Errorf("%s has a flag without a name:\n%s", command.Path(), help.out)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if got := run1(t, nil, "version").want(t, 0).out; !strings.HasPrefix(got, "privault ") {
		t.Errorf("version printed %q", got)
	}
}

// A command line that can't be read ends with the code that says "starting again won't help", and with usage.
func TestUnclearCommandLine(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"serve", "--nope"}, {"dev", "--nope"}, {"migrate", "up", "--nope"}, {"tenant", "create"}, {"keys"}, {"nope"}, {},
		{"import", "--collection", "people"}, {"import", "--collection", "people", "not-there.csv"}, {"import", "main.go"},
		{"serve", "--max-conns", "many"}, {"serve", "--kms-timeout", "soon"}, {"bench", "--clients", "x"}, {"migrate", "up"},
		{"tenant", "create", "acme", "--role", "backend-reader"},
	} {
		got := run1(t, nil, args...).want(t, exitConfig)
		if !strings.Contains(got.err, "Usage: privault") || !strings.Contains(got.err, "privault: ") || got.out != "" {
			t.Errorf("privault %q printed %q and %q", args, got.out, got.err)
		}
	}
}

// Settings that parse and can't be right are refused with the same code, without usage.
func TestUnfitSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args  []string
		wants []string
	}{
		{[]string{"bench", "--rounds", "0"}, []string{"--rounds"}},
		{[]string{"bench", "--clients", "0"}, []string{"--clients"}},
		{[]string{"bench", "--time", "0s"}, []string{"--time"}},
		{[]string{"bench", "--batch", "2000"}, []string{"--batch"}},
		{[]string{"keys", "create"}, []string{"--kms"}},
		{[]string{"keys", "create", "--kms", "vault://elsewhere"}, []string{"local://"}},
		{[]string{"keys", "check"}, []string{"--kms"}},
		{[]string{"keys", "check", "vault://elsewhere"}, []string{"aws-kms"}},
		{[]string{"keys", "check", "hcvault://127.0.0.1/transit/keys/root"}, []string{"0 ways to log in"}},
		{[]string{"tenant", "create", "acme"}, []string{"--database-url", "--kms"}},
		{[]string{"tenant", "create", "acme", "--database-url", "mysql://db/x", "--max-conns", "1"}, []string{"postgres://", "--max-conns", "--kms"}},
	} {
		got := run1(t, nil, c.args...).want(t, exitConfig)
		for _, want := range c.wants {
			if !strings.Contains(got.err, want) {
				t.Errorf("privault %q does not mention %s:\n%s", c.args, want, got.err)
			}
		}
	}
}
