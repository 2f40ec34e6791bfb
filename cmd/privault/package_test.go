package main

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/vaulttest"
)

// person stores so many notes of one person, which compression leaves long.
func (c caller) person(t testing.TB, subject string, notes int) {
	t.Helper()
	for from := 0; from < notes; from += 500 {
		var items []any
		for n := from; n < min(notes, from+500); n++ {
			b := make([]byte, 200)
			_, _ = rand.Read(b)
			items = append(items, map[string]any{"subject": subject, "fields": map[string]string{"note": hex.EncodeToString(b)}})
		}
		c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", map[string]any{"collection": "notes", "items": items}, nil)
	}
}

// verifiedRequest is one whose package can be fetched.
func (c caller) verifiedRequest(t testing.TB, subject string) (path string) {
	t.Helper()
	var made struct{ ID string }
	c.want(t, http.StatusCreated, http.MethodPost, "/v1/requests", map[string]string{"type": "access", "regime": "gdpr", "subject": subject}, &made)
	c.want(t, http.StatusOK, http.MethodPost, "/v1/requests/"+made.ID+"/verify", map[string]string{"method": "document", "level": "reasonably-high", "reference": "ticket-1"}, nil)
	return "/v1/requests/" + made.ID + "/package"
}

func verifies(keys *audit.Keys, b []byte) bool {
	_, _, err := dsar.Verify(bytes.NewReader(b), int64(len(b)), func(signed []byte) (string, error) { return keys.OpenText(audit.PackageTitle, signed) })
	return err == nil
}

// The server is killed at 25 random moments of 25 downloads. Each package is in the end in somebody's hands, and can't be fetched any more:
// fetched whole once, or killed between its mark and the end of the answer, when whoever fetched it has every byte of it.
func TestPackagesWhoseServerIsKilled(t *testing.T) {
	t.Parallel()
	const kills, notes = 25, 700
	base := startDev(t, t.TempDir(), "--no-sample")
	dir := t.TempDir()
	again := func() *devServer {
		return startDev(t, dir, "--no-sample", "--database-url", base.DatabaseURL)
	}
	d := again()
	c := d.caller()
	c.collection(t, "notes", map[string]string{"note": "text"})
	c.person(t, "cust-1", notes)
	keys, err := loadAuditKeys(base.file("audit.key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(path string) (whole bool, status int, b []byte) {
		status, b, err := d.caller().send(t.Context(), http.MethodGet, path, nil)
		return err == nil && status == http.StatusOK, status, b
	}
	first := c.verifiedRequest(t, "cust-1")
	began := time.Now()
	if whole, status, b := fetch(first); !whole || !verifies(keys, b) {
		t.Fatalf("a package that nothing disturbs: %d, %d bytes", status, len(b))
	}
	takes := time.Since(began)

	paths := make([]string, kills)
	for i := range paths {
		paths[i] = c.verifiedRequest(t, "cust-1")
	}
	got := map[string]int{}     // how often each was fetched whole
	inHand := map[string]bool{} // the answer had no end, but all of the package
	cut := 0
	for _, path := range paths {
		done, took := make(chan struct{}), takes
		go func() {
			defer close(done)
			began := time.Now()
			whole, _, b := fetch(path)
			switch {
			case whole && !verifies(keys, b):
				t.Errorf("%s ended well, and does not verify", path)
			case whole:
				got[path]++
				took = time.Since(began)
			default:
				cut++
				inHand[path] = verifies(keys, b)
			}
		}()
		time.Sleep(time.Duration(mathrand.Int64N(int64(takes) * 5 / 4))) //nolint:forbidigo // a random moment is the point
		d.kill(t)
		<-done
		takes = min(takes, took) // the machine may have less to do than before
		d = again()
	}
	t.Logf("a download takes %v; of %d that were under way when the server was killed, %d were cut off", takes, kills, cut)
	if cut < kills/3 {
		t.Error("the kills came too late to show anything")
	}
	for _, path := range paths {
		var whole bool
		eventually(t, "the package is fetched", func() bool {
			var status int
			var b []byte
			whole, status, b = fetch(path)
			if whole && !verifies(keys, b) {
				t.Errorf("%s was fetched again and does not verify", path)
			}
			return status != http.StatusConflict // its lease is not over
		})
		if whole {
			got[path]++
		}
		if whole, status, _ := fetch(path); whole || status != http.StatusNotFound {
			t.Errorf("%s can be fetched once more: %d", path, status)
		}
	}
	for _, path := range paths {
		if got[path] != 1 && (got[path] != 0 || !inHand[path]) {
			t.Errorf("%s was fetched whole %d times; of an answer that broke off, somebody has all of it: %t", path, got[path], inHand[path])
		}
	}
	for what, query := range map[string]string{
		"marks":    `select count(*) from privault.packages where delivered_at is not null`,
		"entries":  `select count(*) from privault.audit_entries where body like '%"outcome":"delivered"%' and outcome = 'ok'`,
		"requests": `select count(*) from privault.requests where state = 'completed' and outcome = 'complied'`,
	} {
		if n := vaulttest.CountURL(t, base.DatabaseURL, query); n != kills+1 {
			t.Errorf("%d %s, want %d", n, what, kills+1)
		}
	}
}

// receipt verify takes a package as it takes a certificate; one byte changed, and it doesn't.
func TestReceiptVerifyOfAPackage(t *testing.T) {
	t.Parallel()
	d := startDev(t, filepath.Join(t.TempDir(), "vault"), "--no-sample")
	c := d.caller()
	c.collection(t, "notes", map[string]string{"note": "text"})
	c.person(t, "cust-1", 3)
	path := c.verifiedRequest(t, "cust-1")
	status, b, err := c.send(t.Context(), http.MethodGet, path, nil)
	if err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	file, key := filepath.Join(t.TempDir(), "package.zip"), filepath.Join(t.TempDir(), "public")
	write(t, file, string(b))
	write(t, key, read(t, d.file("audit.key.pub")))
	out := run1(t, nil, "receipt", "verify", "--key", key, file).want(t, 0).out
	for _, line := range []string{"verified: signed by ", "request: " + strings.Split(path, "/")[3], "  data.json\n", "  csv/notes.csv\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in\n%s", line, out)
		}
	}
	for _, at := range []int{40, len(b) / 2, len(b) - 30} {
		changed := bytes.Clone(b)
		changed[at] ^= 4
		write(t, file, string(changed))
		if out := run1(t, nil, "receipt", "verify", "--key", key, file).want(t, exitFailed); !strings.Contains(out.err, "is no package by this key") {
			t.Errorf("byte %d changed: %s", at, out.err)
		}
	}
	write(t, file, "age-encryption.org/v1\n-> X25519 x\n")
	if out := run1(t, nil, "receipt", "verify", "--key", key, file).want(t, exitFailed); !strings.Contains(out.err, "age --decrypt") {
		t.Errorf("an encrypted package: %s", out.err)
	}
	write(t, file, "PK\x03\x04 and no more")
	run1(t, nil, "receipt", "verify", "--key", key, file).want(t, exitFailed)
}

// The commands of docs/packages.md, as they stand.
func TestThePackagesPageWorks(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	write(t, i.path("audit.key.pub"), read(t, i.file("audit.key.pub")))
	said := i.runPage(t, "packages.md")
	if len(said) != 1 || !strings.Contains(said[0], "verified: signed by") || !strings.Contains(said[0], "  csv/buyers.csv\n") || !strings.Contains(said[0], "regime: ccpa\n") {
		t.Errorf("%q", said)
	}
	z, err := zip.OpenReader(i.path("package.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := z.Open("data.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(data)
	if err != nil || !strings.Contains(string(text), `"score":-1.50`) || !strings.Contains(string(text), `"held":["licence"]`) || strings.Contains(string(text), "D1234567") {
		t.Errorf("%v: %s", err, text)
	}
}
