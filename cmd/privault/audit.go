package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/durable"
)

type auditCmd struct {
	Keygen auditKeygenCmd `cmd:"" help:"Make a key that signs the audit log's checkpoints, and print its public part."`
	Verify auditVerifyCmd `cmd:"" help:"Check that an audit log is whole, or that an entry is in it, with the public key alone."`
	Mirror auditMirrorCmd `cmd:"" help:"Copy an audit log into a folder, for checking it offline."`
	Export auditExportCmd `cmd:"" help:"Copy the audit log's entries, in the order of the log, to a file, a syslog server or an OTLP receiver."`
	Prune  auditPruneCmd  `cmd:"" help:"Drop the months of audit entries whose time is over. The tree stays as it is."`

	Reconcile auditReconcileCmd `cmd:"" help:"Compare the records in the database with what the audit log says was stored, changed and deleted, and name those that differ. The exit code is 1 if any does, or if the log is damaged; 75 if the database is away."`
}

type auditKeygenCmd struct {
	File string `arg:"" help:"Key file to write, and beside it FILE.pub with the public keys. If it exists, the new key takes over and the old one stays verifiable."`
	Name string `placeholder:"NAME" help:"The log's name, e.g. vault.example.com/audit: an address without the scheme. By default that of the old key, or privault/audit."`
}

func (k *auditKeygenCmd) Run() error {
	var retired []string
	old, err := loadAuditKeys(k.File)
	switch {
	case err == nil:
		if k.Name != "" && k.Name != old.Origin {
			return errors.New("a log keeps its name: leave --name out, or name another file for another log")
		}
		k.Name, retired = old.Origin, old.Public()
	case !errors.Is(err, os.ErrNotExist):
		return err
	case k.Name == "":
		k.Name = "privault/audit"
	}
	public, err := writeAuditKey(k.File, k.Name, retired)
	if err != nil {
		return err
	}
	fmt.Println(public)
	return nil
}

// writeAuditKey makes a key and writes its file, the public keys of earlier ones below it.
func writeAuditKey(path, name string, retired []string) (public string, err error) {
	private, public, err := audit.GenerateKey(name)
	if err != nil {
		return "", err
	}
	text := "# The key that signs the audit log's checkpoints. Keep it from everybody; give away the public one:\n# " + public + "\n" + private + "\n"
	if len(retired) > 0 {
		text += "# Earlier keys: their checkpoints still count.\n"
	}
	for _, line := range retired {
		text += line + "\n"
	}
	known := strings.Join(append([]string{public}, retired...), "\n") + "\n"
	// The public keys first: nothing is ever signed that they don't verify.
	if err := durable.Replace(path+".pub", []byte(known)); err != nil {
		return "", err
	}
	return public, durable.Replace(path, []byte(text))
}

func loadAuditKeys(path string) (*audit.Keys, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	keys, err := audit.ParseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// Audit says how the audit log is signed and kept.
type Audit struct {
	AuditKey  string `env:"PRIVAULT_AUDIT_KEY" placeholder:"FILE" help:"File with the key that signs the audit log's checkpoints (privault audit keygen)."`
	AuditCopy string `env:"PRIVAULT_AUDIT_COPY" placeholder:"FILE" help:"File that keeps the newest checkpoint outside the database, so that a database that was set back is noticed. By default the key file's name with .checkpoint."`
}

// Witnesses says who else signs the log's checkpoints.
type Witnesses struct {
	Witnesses      string        `env:"PRIVAULT_AUDIT_WITNESSES" placeholder:"FILE" help:"File with a line for each witness that is shown the log's checkpoints (C2SP tlog-witness): its key and its https:// address."`
	WitnessEvery   time.Duration `env:"PRIVAULT_AUDIT_WITNESS_EVERY" default:"10s" help:"How often."`
	WitnessPrivate bool          `env:"PRIVAULT_AUDIT_WITNESS_PRIVATE" help:"Witnesses may be at private addresses."`
}

func (w Witnesses) check(bad func(string, ...any)) {
	if w.Witnesses == "" {
		return
	}
	all, err := loadWitnesses(w.Witnesses)
	if err != nil {
		bad("--witnesses: %v", err)
	}
	for _, one := range all {
		if one.url == "" {
			bad("--witnesses: %s has no address", one.Name())
		}
	}
	if w.WitnessEvery < 100*time.Millisecond {
		bad("--witness-every is at least 100ms")
	}
}

func (a Audit) check(bad func(string, ...any)) {
	if a.AuditKey == "" {
		bad("--audit-key (PRIVAULT_AUDIT_KEY) is missing: without it nobody can check the audit log; make one with privault audit keygen FILE")
		return
	}
	if _, err := loadSigner(a.AuditKey); err != nil {
		bad("--audit-key: %v", err)
	}
	if dir := filepath.Dir(a.copied()); !isDir(dir) {
		bad("--audit-copy: there is no folder %s", dir)
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (a Audit) copied() string {
	if a.AuditCopy != "" {
		return a.AuditCopy
	}
	return a.AuditKey + ".checkpoint"
}

// into gives a vault its part of the settings.
func (a Audit) into(c *vault.Config) (err error) {
	c.AuditCopy = a.copied()
	c.AuditKeys, err = loadAuditKeys(a.AuditKey)
	return err
}

const (
	sequenceEvery   = time.Second
	partitionsEvery = time.Hour
)

// sequence takes the entries into the audit log, about every second, until ctx ends. Every replica tries; one at a time is at
// it.
func (s *service) sequence(ctx context.Context) error {
	tick := time.NewTicker(sequenceEvery)
	defer tick.Stop()
	months := time.NewTicker(partitionsEvery)
	defer months.Stop()
	s.makePartitions(ctx)
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-months.C:
			s.makePartitions(ctx)
		case <-tick.C:
			taken, err := vault.SequenceBatch, error(nil)
			for taken == vault.SequenceBatch && err == nil {
				taken, err = s.vault.Sequence(ctx)
			}
			last = s.report(ctx, "sequence the audit log", err, last)
		}
	}
}

// report logs an error of what is done every second when it is a new one.
func (s *service) report(ctx context.Context, what string, err error, last string) string {
	if err == nil || ctx.Err() != nil {
		return ""
	}
	if text := err.Error(); text != last {
		s.log.ErrorContext(ctx, what, "error", slog.AnyValue(err))
		return text
	}
	return last
}

func (s *service) makePartitions(ctx context.Context) {
	if _, err := s.vault.MakeAuditPartitions(ctx); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "make the audit log's next months", "error", err)
	}
}

// loadSigner loads audit keys that can sign.
func loadSigner(path string) (*audit.Keys, error) {
	keys, err := loadAuditKeys(path)
	if err == nil && !keys.CanSign() {
		err = errors.New("it has no private key")
	}
	return keys, err
}
