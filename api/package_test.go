package api_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/dsar"
)

// handable is a verified request of cust-1 for access.
func (c client) handable(t *testing.T, more string) string {
	t.Helper()
	id := c.asked(t, `{"type":"access","regime":"gdpr","subject":"cust-1"`+more+`}`).ID
	c.step(t, id, "verify", `{"method":"document","level":"reasonably-high","reference":"ticket-1"}`)
	return id
}

func (c client) hasNotes(t *testing.T, n int) {
	t.Helper()
	c.collection(t, "notes", "note", "text")
	for from := 0; from < n; from += 500 {
		var items []string
		for i := from; i < min(n, from+500); i++ {
			items = append(items, fmt.Sprintf(`{"subject":"cust-1","fields":{"note":"note %d %x%x%x%x%x%x%x%x"}}`, i, rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()))
		}
		c.send(t, "POST", "/v1/tokenize", `{"collection":"notes","items":[`+strings.Join(items, ",")+`]}`).want(t, 200)
	}
}

// checkPackage wants a whole package with so many notes.
func (s *service) checkPackage(t *testing.T, b []byte, notes int) {
	t.Helper()
	_, _, err := dsar.Verify(bytes.NewReader(b), int64(len(b)), func(signed []byte) (string, error) { return s.Config.AuditKeys.OpenText(audit.PackageTitle, signed) })
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := z.Open("data.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(data)
	if err != nil || strings.Count(string(text), `"note":"note `) != notes {
		t.Errorf("%d notes, %v", strings.Count(string(text), `"note":"note `), err)
	}
}

func TestAPackageOverHTTP(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.tenant()
	c.hasNotes(t, 3)
	id := c.asked(t, `{"type":"access","regime":"gdpr","subject":"cust-1"}`).ID
	path := "/v1/requests/" + id + "/package"
	c.send(t, "GET", path, "").refused(t, 409, "conflict")
	c.step(t, id, "verify", `{"method":"document","level":"reasonably-high","reference":"ticket-1"}`)
	c.colleague(t, "auditor").send(t, "GET", path, "").refused(t, 403, "forbidden")
	s.tenant().send(t, "GET", path, "").refused(t, 404, "not-found")
	got := c.colleague(t, "compliance").send(t, "GET", path, "", "Accept: application/zip").want(t, 200)
	for name, want := range map[string]string{"Content-Type": "application/zip", "Cache-Control": "no-store", "Content-Disposition": `attachment; filename="package.zip"`} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q", name, got.header.Get(name))
		}
	}
	s.checkPackage(t, got.body, 3)
	if p := c.send(t, "GET", path, "").refused(t, 404, "not-found"); !strings.Contains(p.Detail, "once") {
		t.Errorf("again: %+v", p)
	}
	var r madeRequest
	c.send(t, "GET", "/v1/requests/"+id, "").want(t, 200).read(t, &r)
	if r.State != vault.RequestCompleted || r.Outcome != vault.OutcomeComplied {
		t.Errorf("%+v", r)
	}

	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	got = c.send(t, "GET", "/v1/requests/"+c.handable(t, `,"recipient_key":"`+identity.Recipient().String()+`"`)+"/package", "", "Accept: */*").want(t, 200)
	if got.header.Get("Content-Type") != "application/octet-stream" || got.header.Get("Content-Disposition") != `attachment; filename="package.zip.age"` {
		t.Errorf("%v", got.header)
	}
	open, err := age.Decrypt(bytes.NewReader(got.body), identity)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(open)
	if err != nil {
		t.Fatal(err)
	}
	s.checkPackage(t, b, 3)
}

// What breaks off in the middle doesn't end as an answer does, so no client takes it for whole; and it can be fetched again.
func TestAPackageThatIsCutOff(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.tenant()
	c.hasNotes(t, 1500)
	id := c.handable(t, "")
	fetch := func() ([]byte, error) {
		res, err := http.DefaultClient.Do(c.request(t, "GET", "/v1/requests/"+id+"/package", http.NoBody))
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(res.Body)
			t.Fatalf("%d %s", res.StatusCode, b)
		}
		return io.ReadAll(res.Body)
	}
	// The last page has a record that was moved here from somebody else: the first pages are on their way by then.
	c.send(t, "POST", "/v1/tokenize", `{"collection":"notes","items":[{"subject":"cust-2","fields":{"note":"canary"}}]}`).want(t, 200)
	const newest = ` where record_id = (select record_id from privault.records order by record_id desc limit 1)`
	s.Exec(`update privault.records set subject_id = (select subject_id from privault.records order by record_id limit 1)` + newest)
	b, err := fetch()
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(b) == 0 || bytes.Contains(b, []byte("canary")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := zip.NewReader(bytes.NewReader(b), int64(len(b))); err == nil {
		t.Error("what was cut off opens as an archive")
	}
	s.Exec(`update privault.records set subject_id = null` + newest)
	// A client that goes away.
	res, err := http.DefaultClient.Do(c.request(t, "GET", "/v1/requests/"+id+"/package", http.NoBody))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	s.Until(func() bool {
		return s.Count(`select count(*) from privault.packages where claim is null and attempts = 2`) == 1
	})
	b, err = fetch()
	if err != nil {
		t.Fatal(err)
	}
	s.checkPackage(t, b, 1500)
	if n := s.Count(`select count(*) from privault.audit_entries where body like '%"outcome":"delivered"%'`); n != 1 {
		t.Errorf("it was handed out %d times", n)
	}
}
