package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A certificate verifies with the public key alone; one byte changed, and it doesn't.
func TestReceiptVerify(t *testing.T) {
	t.Parallel()
	d := startDev(t, filepath.Join(t.TempDir(), "vault"), "--no-sample")
	c := d.caller()
	c.collection(t, "people", map[string]string{"name": "name"})
	c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", map[string]any{"collection": "people", "items": []any{
		map[string]any{"subject": "cust-1", "fields": map[string]string{"name": "Jane"}}}}, nil)
	var erased struct{ Certificate string }
	c.want(t, http.StatusOK, http.MethodPost, "/v1/subjects/cust-1/erasure", map[string]string{"reason": "gdpr-17"}, &erased)

	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL+"/v1/certificates/"+erased.Certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+d.APIKey)
	r.Header.Set("Accept", "text/plain")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	file := filepath.Join(t.TempDir(), "certificate.txt")
	certificate, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certificate.ReadFrom(answer.Body); err != nil {
		t.Fatal(err)
	}
	if err := certificate.Close(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "public")
	write(t, key, read(t, d.file("audit.key.pub")))

	if out := run1(t, nil, "receipt", "verify", "--key", key, file).want(t, 0).out; !strings.Contains(out, "certificate: "+erased.Certificate) {
		t.Errorf("a good certificate: %s", out)
	}
	write(t, file, strings.Replace(read(t, file), "records: 1", "records: 2", 1))
	if out := run1(t, nil, "receipt", "verify", "--key", key, file).want(t, exitFailed); !strings.Contains(out.err, "is no certificate by this key") {
		t.Errorf("a changed certificate: %s", out.err)
	}
}
