package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/dsar"
)

type receiptCmd struct {
	Verify receiptVerifyCmd `cmd:"" help:"Verify the certificate of an erasure, the note of its completion, the report of a restore, or a person's data package, with the public key alone: no server, no database."`
}

type receiptVerifyCmd struct {
	File string `arg:"" type:"existingfile" help:"The certificate, as GET /v1/certificates/{id} gives it for Accept: text/plain, or the package (ZIP), as GET /v1/requests/{id}/package gives it."`
	Key  string `required:"" type:"existingfile" placeholder:"FILE" help:"File with the log's public keys (privault audit keygen writes FILE.pub)."`
}

// Run prints what was signed, if it is good.
func (r *receiptVerifyCmd) Run() error {
	keys, err := loadAuditKeys(r.Key)
	if err != nil {
		return err
	}
	f, err := os.Open(r.File)
	if err != nil {
		return err
	}
	defer f.Close()
	start := make([]byte, len(ageStart))
	n, err := f.ReadAt(start, 0)
	switch start = start[:n]; {
	case n == 0:
		return err
	case bytes.Equal(start, []byte(ageStart)):
		return fmt.Errorf("%s is encrypted: decrypt it first, with age --decrypt and the key that it was asked for with", r.File)
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return verifyPackage(keys, f)
	}
	signed, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	var text string
	for _, title := range []string{audit.ErasureTitle, audit.CompletionTitle, audit.ReplayTitle, audit.DrillTitle, audit.SweepTitle} {
		if text, err = keys.OpenText(title, signed); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s is no certificate by this key: %w", r.File, err)
	}
	fmt.Printf("verified: signed by %s\n\n%s", keys.Origin, text)
	return nil
}

const ageStart = "age-encryption.org/v1\n"

func verifyPackage(keys *audit.Keys, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	text, files, err := dsar.Verify(f, info.Size(), func(signed []byte) (string, error) { return keys.OpenText(audit.PackageTitle, signed) })
	if err != nil {
		return fmt.Errorf("%s is no package by this key: %w", f.Name(), err)
	}
	fmt.Printf("verified: signed by %s\n\n%s\n", keys.Origin, text)
	for _, file := range files {
		fmt.Printf("%s  %s\n", file.SHA256, file.Name)
	}
	return nil
}
