package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/privault/privault/kms/kmstest"
)

func TestKeysCheckLocal(t *testing.T) {
	t.Parallel()
	uri := kmstest.LocalURI(t)
	for _, got := range []finished{run1(t, nil, "keys", "check", uri), run1(t, []string{"PRIVAULT_KMS=" + uri}, "keys", "check")} {
		got.want(t, 0)
		if n := strings.Count(got.out, "ok "); n != 4 || strings.Contains(got.out, "FAILED") || got.err != "" {
			t.Errorf("printed %q and %q, want four steps that are ok", got.out, got.err)
		}
	}
	gone := run1(t, nil, "keys", "check", uri+".elsewhere").want(t, exitFailed)
	if !strings.Contains(gone.out, "FAILED  open") || strings.Contains(gone.out, "ok ") {
		t.Errorf("printed %q for a key file that isn't there", gone.out)
	}
}

// The settings of a transit engine reach it, and what it refuses is told in its own words for permissions.
func TestKeysCheckTransit(t *testing.T) {
	t.Parallel()
	s := kmstest.NewTransitServer(t, true)
	uri, err := s.Create("root")
	if err != nil {
		t.Fatal(err)
	}
	byToken, byRole := s.ByToken().Transit, s.ByAppRole().Transit
	token, err := byToken.Token()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := byRole.AppRole.SecretID()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), token+"\n")
	write(t, filepath.Join(dir, "secret"), secret+"\n")
	common := []string{"PRIVAULT_KMS_HCVAULT_NAMESPACE=" + byToken.Namespace, "PRIVAULT_KMS_HCVAULT_CA_FILE=" + byToken.CAFile}
	tokenEnv := slices.Concat(common, []string{"PRIVAULT_KMS_HCVAULT_TOKEN_FILE=" + filepath.Join(dir, "token")})
	run1(t, tokenEnv, "keys", "check", uri).want(t, 0)
	run1(t, slices.Concat(common, []string{"PRIVAULT_KMS_HCVAULT_APPROLE_ID=" + byRole.AppRole.RoleID,
		"PRIVAULT_KMS_HCVAULT_SECRET_ID_FILE=" + filepath.Join(dir, "secret")}), "keys", "check", uri).want(t, 0)

	s.Forbid("decrypt", true)
	got := run1(t, tokenEnv, "keys", "check", uri).want(t, exitFailed)
	if !strings.Contains(got.out, `missing permission: the capability "update" on team/transit/decrypt/root`) || strings.Contains(got.out+got.err, token) {
		t.Errorf("printed %q and %q", got.out, got.err)
	}
	s.Forbid("decrypt", false)
	s.SetDown(true)
	got = run1(t, tokenEnv, "keys", "check", uri).want(t, exitTryAgain)
	if strings.Contains(got.out+got.err, token) || !strings.Contains(got.out, "FAILED  wrap") {
		t.Errorf("printed %q and %q", got.out, got.err)
	}
}

// The endpoint comes from the settings, and the credentials from where AWS's own tools look for them.
func TestKeysCheckAWS(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	arn, err := s.Create("eu-central-1", false)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := s.Options().AWS.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"PRIVAULT_KMS_AWS_ENDPOINT=" + s.URL, "AWS_ACCESS_KEY_ID=" + credentials.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + credentials.SecretAccessKey, "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull}
	got := run1(t, env, "keys", "check", "aws-kms://"+arn).want(t, 0)
	if n := strings.Count(got.out, "ok "); n != 6 {
		t.Errorf("printed %q, want six steps that are ok", got.out)
	}
	s.Forbid("ReEncrypt", true)
	got = run1(t, env, "keys", "check", "aws-kms://"+arn).want(t, 0)
	if !strings.Contains(got.out, "missing permission: kms:ReEncryptFrom and kms:ReEncryptTo") {
		t.Errorf("printed %q", got.out)
	}
	s.Forbid("Encrypt", true)
	got = run1(t, env, "keys", "check", "aws-kms://"+arn).want(t, exitFailed)
	if !strings.Contains(got.out, "missing permission: kms:Encrypt") || !strings.Contains(got.err, "wrap failed") {
		t.Errorf("printed %q and %q", got.out, got.err)
	}
}
