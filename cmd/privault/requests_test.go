package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
)

// The commands of docs/requests.md, as they stand.
func TestTheRequestsPageWorks(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	said := i.runPage(t, "requests.md")
	rest := strings.Join(said, "")
	for _, want := range []string{`"tokens"`, `"acknowledge_by":"2026-12-04T23:59:59Z"`, `"due_at":"2027-01-04T23:59:59Z"`, `"acknowledged_at"`, `"state":"completed"`, "certificate: crt_", "DUE", `"complied":1`, `"merged":true`, `"linked":"cust-2077"`} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("the commands don't say %s, in its turn: %q", want, said)
		}
		rest = after
	}
	for _, d := range vault.Denials {
		if line := fmt.Sprintf("| `%s` | `%s` | ", d.Regime, d.Reason); !strings.Contains(read(t, "../../docs/requests.md"), line) || !strings.Contains(read(t, "../../docs/requests.md"), d.Law) {
			t.Errorf("docs/requests.md doesn't say %s%s", line, d.Law)
		}
	}
}

func TestRequestsList(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "unused", map[string]string{"note": "text"})
	ids := map[string]string{}
	for regime, received := range map[string]string{"gdpr": "2026-01-05T10:00:00Z", "ccpa": time.Now().UTC().Format(time.RFC3339)} {
		var made struct{ ID string }
		i.caller().want(t, 201, "POST", "/v1/requests", `{"type":"access","regime":"`+regime+`","subject":"cust-1","received_at":"`+received+`"}`, &made)
		ids[regime] = made.ID
	}
	list := func(args ...string) finished {
		return runIn(t, i.folder, i.settings(), append([]string{"requests", "list"}, args...)...)
	}
	all := list().want(t, 0).out
	lines := strings.Split(strings.TrimSpace(all), "\n")
	if len(lines) != 3 || !strings.Contains(lines[1], ids["gdpr"]) || !strings.HasPrefix(lines[1], "2026-02-05") || !strings.Contains(lines[1], "OVERDUE") ||
		!strings.Contains(lines[2], ids["ccpa"]) || strings.Contains(all, "cust-1") {
		t.Errorf("the list:\n%s", all)
	}
	for _, args := range [][]string{{"--due-within", "24h"}, {"--due-before", "2026-03-01T00:00:00Z"}} {
		if got := list(args...).want(t, 0).out; !strings.Contains(got, ids["gdpr"]) || strings.Contains(got, ids["ccpa"]) {
			t.Errorf("%v:\n%s", args, got)
		}
	}
	if got := list("--state", "denied").want(t, 0).out; strings.Contains(got, "req_") {
		t.Errorf("denied ones:\n%s", got)
	}
	if got := list("--state", "lost").want(t, exitFailed).err; !strings.Contains(got, "the states are") {
		t.Errorf("a state that is none: %s", got)
	}
	list("--due-within", "24h", "--due-before", "2026-03-01T00:00:00Z").want(t, exitConfig)
}

func TestRequestClockSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, says := range map[string]string{
		`{"gdpr":{"zone":"Europe/Berlin","holidays":["12-25","easter+1"]},"ccpa":{"zone":"America/Los_Angeles","holidays":["us-federal"]}}`: "",
		`{"gdpr":{"holidays":["12-25"]}}`:     "",
		`{"lgpd":{"zone":"UTC"}}`:             "no regime",
		`{"gdpr":{"zone":"Berlin"}}`:          "IANA",
		`{"gdpr":{"zone":"Local"}}`:           "IANA",
		`{"gdpr":{"holidays":["christmas"]}}`: "holiday 1",
		`{"gdpr":{"timezone":"UTC"}}`:         "--request-clocks",
		`[]`:                                  "--request-clocks",
	} {
		file := filepath.Join(dir, "clocks.json")
		write(t, file, text)
		var faults []string
		Clocks{file}.check(func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
		if got := strings.Join(faults, "\n"); says == "" && got != "" || !strings.Contains(got, says) {
			t.Errorf("%s: %q", text, got)
		}
	}
	// The document's own example.
	_, example, _ := strings.Cut(read(t, "../../docs/requests.md"), "```json\n")
	example, _, _ = strings.Cut(example, "```")
	file := filepath.Join(dir, "example.json")
	write(t, file, example)
	clocks, err := Clocks{file}.clocks()
	christmas := deadline.Date{Year: 2026, Month: 12, Day: 25}
	if err != nil || clocks[deadline.GDPR].Zone.String() != "Europe/Berlin" || clocks[deadline.CCPA].Calendar.Working(christmas) {
		t.Errorf("the document's example: %+v, %v", clocks, err)
	}
}
