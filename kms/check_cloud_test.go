//go:build !nocloud

package kms_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

func TestCheckAWS(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	uri := awsCreate(t, s, "eu-central-1", false)
	check := func() []kms.Finding { return kms.Check(t.Context(), uri, s.Options(), time.Minute) }
	if diff := cmp.Diff([]string{"open", "wrap", "unwrap", "bind", "re-encrypt", "unwrap again"}, steps(check())); diff != "" {
		t.Error(diff)
	}
	s.Forbid("ReEncrypt", true)
	found := check()
	wantDenied(t, found, "re-encrypt", "kms:ReEncryptFrom and kms:ReEncryptTo")
	if !found[len(found)-1].Spare {
		t.Error("a vault can do without ReEncrypt")
	}
	s.Forbid("Decrypt", true)
	wantDenied(t, check(), "unwrap", "kms:Decrypt")
	s.Forbid("Encrypt", true)
	wantDenied(t, check(), "wrap", "kms:Encrypt")
	s.SetState(awsARN(uri), "Disabled")
	s.Forbid("Encrypt", false)
	wantDenied(t, check(), "wrap", "")
}

func TestCheckGCP(t *testing.T) {
	t.Parallel()
	for call, want := range map[string]string{
		"Encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
		"Decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt",
	} {
		s := kmstest.NewGCPServer(t)
		uri := gcpCreate(t, s)
		s.RefuseCall(call, status.Error(codes.PermissionDenied, "Permission denied on resource (or it may not exist)."))
		step := map[string]string{"Encrypt": "wrap", "Decrypt": "unwrap"}[call]
		wantDenied(t, kms.Check(t.Context(), uri, s.Options(), time.Minute), step, want)
	}
}

func TestCheckAzure(t *testing.T) {
	t.Parallel()
	for operation, want := range map[string]string{
		"get": "get (data action keys/read)", "wrapkey": "wrapKey (data action keys/wrap/action)",
		"unwrapkey": "unwrapKey (data action keys/unwrap/action)",
	} {
		s := kmstest.NewAzureServer(t)
		uri := azureCreate(t, s, "oct-HSM")
		s.Forbid(operation)
		step := map[string]string{"get": "open", "wrapkey": "wrap", "unwrapkey": "unwrap"}[operation]
		wantDenied(t, kms.Check(t.Context(), uri, s.Options(), time.Minute), step, want)
	}
	s := kmstest.NewAzureServer(t)
	uri := azureCreate(t, s, "RSA")
	s.Disable(uri, true)
	wantDenied(t, kms.Check(t.Context(), uri, s.Options(), time.Minute), "open", "")
}
