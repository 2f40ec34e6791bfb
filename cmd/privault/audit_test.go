package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/vault/vaulttest"
)

// What docs/audit.md tells an outsider to do, on a server that runs.
func TestAnOutsiderChecksTheLog(t *testing.T) {
	t.Parallel()
	database, kms := vaulttest.Database(t), kmstest.LocalURI(t)
	settings := trial(vaulttest.AppURL(database), kms)
	key := tenantKey(t, settings)
	s := startServe(t, settings...)
	c := caller{url: "http://" + s.public, key: key}
	c.collection(t, "people", map[string]string{"email": "email"})
	log, public := "http://"+s.public+"/audit", auditKey(kms)+".pub"
	dir := t.TempDir()
	seen := filepath.Join(dir, "seen")
	for range 2 {
		c.tokenize(t, "people", "email", "jane@example.com")
		entries := vaulttest.CountURL(t, vaulttest.OwnerURL(database), `select count(*) from privault.audit_entries`)
		eventually(t, "the log has all entries", func() bool {
			_, said, _ := strings.Cut(run1(t, nil, "audit", "verify", log, "--key", public, "--since", seen).out, "is whole: ")
			size := 0
			_, err := fmt.Sscanf(said, "%d entries", &size)
			return err == nil && size >= entries
		})
	}
	// By somebody else's program, as it is.
	others := func() (said string, whole bool) {
		out, err := exec.CommandContext(t.Context(), "../../scripts/tool.sh", "fsck", "--ui=false", "--storage_url", log, "--public_key", public).CombinedOutput()
		if err != nil {
			t.Fatalf("tessera's fsck: %v: %s", err, out)
		}
		// It ends with 0 whatever it finds.
		return string(out), strings.Contains(string(out), "Successfully fsck'd log") && !strings.Contains(string(out), "fsck failed")
	}
	if said, whole := others(); !whole {
		t.Error("tessera's fsck: ", said)
	}
	// Offline, from a copy, and the proof of one entry.
	mirror := filepath.Join(dir, "mirror")
	run1(t, nil, "audit", "mirror", log, mirror, "--key", public).want(t, 0)
	run1(t, nil, "audit", "verify", mirror, "--key", public, "--since", seen).want(t, 0)
	var page struct{ Items []struct{ ID string } }
	c.want(t, http.StatusOK, http.MethodGet, "/v1/audit/entries?action=tokenize", nil, &page)
	_, proof, err := c.send(t.Context(), http.MethodGet, "/v1/audit/entries/"+page.Items[0].ID+"/proof", nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "proof.json")
	write(t, path, string(proof))
	if got := run1(t, nil, "audit", "verify", "--proof", path, "--key", public).want(t, 0).out; !strings.Contains(got, "the entry is number ") {
		t.Error(got)
	}
	// And none of it passes when it was touched.
	write(t, path, strings.Replace(string(proof), "tokenize", "detokenize", 1))
	run1(t, nil, "audit", "verify", "--proof", path, "--key", public).want(t, exitFailed)
	vaulttest.ExecURL(t, vaulttest.OwnerURL(database), `update privault.audit_entries set body = replace(body, 'tokenize', 'detokenize')`)
	if got := run1(t, nil, "audit", "verify", log, "--key", public).want(t, exitFailed).err; !strings.Contains(got, "tile/0/000") {
		t.Error(got)
	}
	if said, whole := others(); whole || !strings.Contains(said, "fsck failed") {
		t.Error("tessera's fsck doesn't see a changed entry: ", said)
	}
	bundles, err := filepath.Glob(filepath.Join(mirror, "tile", "entries", "000.p", "*"))
	if err != nil || len(bundles) != 1 {
		t.Fatal(bundles, err)
	}
	b, err := os.ReadFile(bundles[0])
	if err != nil {
		t.Fatal(err)
	}
	b[40] ^= 1
	write(t, bundles[0], string(b))
	run1(t, nil, "audit", "verify", mirror, "--key", public).want(t, exitFailed)
	s.stop(t, syscall.SIGTERM)
}

// A key that takes over leaves the old one's checkpoints verifiable.
func TestKeygenRotates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.key")
	first := strings.TrimSpace(run1(t, nil, "audit", "keygen", path, "--name", "vault.example/audit").want(t, 0).out)
	second := strings.TrimSpace(run1(t, nil, "audit", "keygen", path).want(t, 0).out)
	keys, err := loadAuditKeys(path)
	if err != nil || !keys.CanSign() || keys.Origin != "vault.example/audit" {
		t.Fatal(keys, err)
	}
	if got := keys.Public(); len(got) != 2 || got[0] != second || got[1] != first {
		t.Errorf("the keys are %q", got)
	}
	public, err := loadAuditKeys(path + ".pub")
	if err != nil || public.CanSign() || len(public.Public()) != 2 {
		t.Error(public, err)
	}
	run1(t, nil, "audit", "keygen", path, "--name", "another.example/audit").want(t, exitFailed)
}
