package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Cron starts a sweep, waits, and hears from the exit code whether all is well; somebody else confirms what is unusual. The report
// verifies with the public key alone.
func TestSweepFromCron(t *testing.T) {
	t.Parallel()
	d := startDev(t, filepath.Join(t.TempDir(), "vault"), "--no-sample", "--sweep-every", "0s")
	c := d.caller()
	c.want(t, http.StatusCreated, http.MethodPut, "/v1/collections/cases", map[string]any{
		"retention": map[string]string{"keep": "P1Y", "after": "field:closed"},
		"fields":    map[string]any{"name": map[string]string{"type": "name"}, "closed": map[string]string{"type": "date"}}}, nil)
	store := func(n int, closed string) {
		items := make([]any, n)
		for i := range items {
			items[i] = map[string]any{"fields": map[string]string{"name": fmt.Sprintf("Jane %d", i), "closed": closed}}
		}
		c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", map[string]any{"collection": "cases", "items": items}, nil)
	}
	store(100, "2100-01-01")
	store(4, "2020-01-01")
	env := []string{"PRIVAULT_URL=" + d.URL, "PRIVAULT_API_KEY=" + d.APIKey}
	dry := run1(t, env, "sweep", "--dry-run", "--wait").want(t, 0)
	if !strings.Contains(dry.out, "due 4\ndeleted 0\n") || !strings.Contains(dry.out, "remaining 4\n") {
		t.Errorf("a dry run: %s", dry.out)
	}
	done := run1(t, env, "sweep", "--collection", "cases", "--wait").want(t, 0)
	if !strings.Contains(done.out, "due 4\ndeleted 4\n") || !strings.Contains(done.out, "remaining 0\n") {
		t.Errorf("a sweep: %s", done.out)
	}
	id := regexp.MustCompile(`swp_\w+`).FindString(done.out)
	var s struct{ Report string }
	c.want(t, http.StatusOK, http.MethodGet, "/v1/retention/sweeps/"+id, nil, &s)
	report, key := filepath.Join(t.TempDir(), "report.txt"), filepath.Join(t.TempDir(), "public")
	write(t, report, s.Report)
	write(t, key, read(t, d.file("audit.key.pub")))
	if out := run1(t, nil, "receipt", "verify", "--key", key, report).want(t, 0).out; !strings.Contains(out, "sweep: "+id) || !strings.Contains(out, "rule cases/collection: 4") {
		t.Errorf("a good report: %s", out)
	}
	write(t, report, strings.Replace(s.Report, "deleted: 4", "deleted: 3", 1))
	run1(t, nil, "receipt", "verify", "--key", key, report).want(t, exitFailed)

	store(50, "2020-01-01")
	waits := run1(t, env, "sweep", "--wait").want(t, exitConfirm)
	if id = regexp.MustCompile(`swp_\w+`).FindString(waits.err); !strings.Contains(waits.err, "it would take more than is usual") || id == "" {
		t.Fatalf("a sweep of half of it: %s", waits.err)
	}
	if out := run1(t, env, "sweep", "--confirm", id, "--wait").want(t, 0).out; !strings.Contains(out, "deleted 50\n") {
		t.Errorf("confirmed: %s", out)
	}
	run1(t, env, "sweep", "--collection", "nothing").want(t, exitFailed)
	run1(t, env, "sweep", "--confirm", id, "--dry-run").want(t, exitConfig)
	var page struct{ Items []json.RawMessage }
	c.want(t, http.StatusOK, http.MethodGet, "/v1/retention/sweeps?limit=10", nil, &page)
	if len(page.Items) != 3 {
		t.Errorf("%d sweeps in the history, want 3", len(page.Items))
	}
}
