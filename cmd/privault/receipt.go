package main

import (
	"fmt"
	"os"

	"github.com/privault/privault/vault/audit"
)

type receiptCmd struct {
	Verify receiptVerifyCmd `cmd:"" help:"Verify the certificate of an erasure with the public key alone: no server, no database."`
}

type receiptVerifyCmd struct {
	Certificate string `arg:"" type:"existingfile" help:"The certificate, as GET /v1/certificates/{id} gives it for Accept: text/plain."`
	Key         string `required:"" type:"existingfile" placeholder:"FILE" help:"File with the log's public keys (privault audit keygen writes FILE.pub)."`
}

// Run prints what the certificate says, if it is good.
func (r *receiptVerifyCmd) Run() error {
	keys, err := loadAuditKeys(r.Key)
	if err != nil {
		return err
	}
	signed, err := os.ReadFile(r.Certificate)
	if err != nil {
		return err
	}
	text, err := keys.OpenText(audit.ErasureTitle, signed)
	if err != nil {
		return fmt.Errorf("%s is no certificate by this key: %w", r.Certificate, err)
	}
	fmt.Printf("verified: signed by %s\n\n%s", keys.Origin, text)
	return nil
}
