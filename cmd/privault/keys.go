package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault"
)

type keysCmd struct {
	Create  keysCreateCmd  `cmd:"" help:"Make a local key-encryption key: a Tink keyset in a file, sealed to a key file or to a passphrase."`
	List    keysListCmd    `cmd:"" help:"Show a tenant's keys: versions, ages, uses."`
	Rotate  keysRotateCmd  `cmd:"" help:"Give a tenant's key a new version; what the old one made goes on opening."`
	Retire  keysRetireCmd  `cmd:"" help:"Take an old version of a key out of use, if nothing needs it any more."`
	Destroy keysDestroyCmd `cmd:"" help:"Destroy a retired version of a key."`
	Move    keysMoveCmd    `cmd:"" help:"Put a tenant's keys, or all that hang on the deployment's KMS key, under another KMS key."`
	Check   keysCheckCmd   `cmd:"" help:"Prove that a key-encryption key does what a vault needs, and say which permission is missing."`
}

type keysCreateCmd struct {
	Keys `embed:""`
}

func (k *keysCreateCmd) Run() error {
	if !kms.DevelopmentOnly(k.KMS) {
		return &configError{[]string{"--kms must be a local:// URI; keys of other systems are made there"}}
	}
	return kms.CreateLocal(k.KMS, k.options())
}

type keysCheckCmd struct {
	URI  string `arg:"" optional:"" help:"The key; by default that of --kms."`
	Keys `embed:""`
}

// errTryAgain is a failure of something that is away, and may come back.
var errTryAgain = errors.New("try again later")

// awayOr says so of an error that is the database's being away.
func awayOr(err error) error {
	if vault.AsError(err).Kind == vault.DatabaseUnavailable {
		return errors.Join(errTryAgain, err)
	}
	return err
}

// Run ends with 0 for a key that can be used, 78 for a URI or settings that can't be right, 75 for a KMS that is away
// and 1 for one that refuses.
func (k *keysCheckCmd) Run(ctx context.Context) error {
	k.KMS = cmp.Or(k.URI, k.KMS)
	var faults []string
	k.check(func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
	if len(faults) > 0 {
		return &configError{faults}
	}
	found := kms.Check(ctx, k.KMS, k.options(), k.KMSTimeout)
	if err := printFindings(os.Stdout, found); err != nil {
		return err
	}
	for _, f := range found {
		switch {
		case f.Err == nil || f.Spare:
		case errors.Is(f.Err, kms.ErrUnavailable):
			return fmt.Errorf("the KMS is away: %w", errTryAgain)
		case errors.Is(f.Err, kms.ErrDenied), errors.Is(f.Err, kms.ErrCorrupt), ctx.Err() != nil:
			return fmt.Errorf("the key can't be used: %s failed", f.Step)
		default:
			return &configError{[]string{"the key can't be used: " + f.Err.Error()}}
		}
	}
	return nil
}

// stepNames are what the findings of kms.Check mean to an operator.
var stepNames = map[string]string{
	"bind":         "other associated data refused",
	"re-encrypt":   "re-encrypt inside the KMS",
	"unwrap again": "unwrap what was re-encrypted",
}

func printFindings(to io.Writer, found []kms.Finding) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, f := range found {
		name := cmp.Or(stepNames[f.Step], f.Step)
		if f.Err == nil {
			then := ""
			if f.Then > 0 {
				then = ", then " + roundly(f.Then)
			}
			fmt.Fprintf(w, "ok\t%s\t%s%s\n", name, roundly(f.First), then)
			continue
		}
		verdict, why := "FAILED", f.Err.Error()
		if f.Spare {
			verdict, why = "no", why+" (a rotation unwraps and wraps instead)"
		}
		if missing := kms.MissingPermission(f.Err); missing != "" {
			why = "missing permission: " + missing + " (" + f.Err.Error() + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, name, oneLine(why))
	}
	return w.Flush()
}

// roundly is d to three digits or so.
func roundly(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// oneLine takes control characters out of what a KMS said: it goes to a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
