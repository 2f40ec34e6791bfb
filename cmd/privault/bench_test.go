package main

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/privault/privault/vault/vaulttest"
)

// tiny are flags of a benchmark that only shows that everything runs.
var tiny = []string{"bench", "--size", "small", "--clients", "2", "--batch", "100", "--records", "300", "--person", "120"}

// The benchmark runs through: every measurement has figures, in the table, as JSON and in a document.
func TestBench(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	document := filepath.Join(dir, "performance.md")
	write(t, document, "before\n"+figuresBegin+"old figures\n"+figuresEnd+"after\n")
	done := runIn(t, dir, nil, append(tiny, "--json", "figures.json", "--markdown", document)...).want(t, 0)
	report, err := readReport(filepath.Join(dir, "figures.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, document)
	if !strings.HasPrefix(text, "before\n"+figuresBegin) || !strings.HasSuffix(text, figuresEnd+"after\n") || strings.Contains(text, "old figures") {
		t.Error("the document is ", text)
	}
	measured := map[string]int{}
	for _, r := range report.Rows {
		measured[r.Name]++
		alone := strings.HasSuffix(r.Work, "closed loop")
		if !good(r.Measured) || !alone && (!good(r.Reference) || !good(r.Ratio)) || r.Unit != "ns" && !good(r.P50) || r.P99 > 0 && r.P99 < r.P50 {
			t.Errorf("a figure is missing in %+v", r)
		}
		if !strings.Contains(done.out, r.Work) || !strings.Contains(text, "| "+r.Work+" |") {
			t.Errorf("%s is not in the table or not in the document", r.Work)
		}
	}
	for _, m := range measurements {
		if measured[m.name] == 0 {
			t.Errorf("%s has no figure", m.name)
		}
		if !strings.Contains(done.out, m.name+": ") || !strings.Contains(done.err, "measuring "+m.name+"\n") {
			t.Errorf("%s is not told of", m.name)
		}
	}
	if len(strings.Split(strings.TrimSpace(done.err), "\n")) != len(measurements) {
		t.Error("it complained: ", done.err)
	}
	if report.Machine.Cores < 1 || report.Date.IsZero() || report.Versions["postgres"] == "" || report.Postgres["fsync"] != "on" || report.Sizes.Records != 300 {
		t.Errorf("the report has %+v, %v, %v", report.Machine, report.Versions, report.Postgres)
	}

	// A later run shows what it is to an earlier one, and what that one has not.
	report.Rows = []benchRow{{Work: "FF1, 16 digits", Ratio: 1000}}
	if err := report.writeJSON(filepath.Join(dir, "earlier.json")); err != nil {
		t.Fatal(err)
	}
	later := runIn(t, dir, nil, "bench", "--only", "ff1", "--compare", "earlier.json").want(t, 0)
	if !strings.Contains(later.out, "ratio of "+report.Date.Format("2006-01-02")) || !strings.Contains(later.out, "1000.00") || !strings.Contains(later.out, "0.00") {
		t.Error(later.out)
	}
	runIn(t, dir, nil, "bench", "--only", "ff1,nothing").want(t, exitConfig)
}

// Over HTTP alone, a server that runs is measured with nothing beside it, and told what is left on it.
func TestBenchOfARunningServer(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample", "--database-url", vaulttest.EmptyDatabase(t))
	dir := t.TempDir()
	env := []string{"PRIVAULT_API_KEY=" + d.APIKey}
	names := []string{"tokenize", "detokenize-batch", "record", "search", "import-stream", "export", "erase"}
	done := runIn(t, dir, env, append(tiny, "--url", d.URL, "--json", "figures.json", "--only", strings.Join(names, ","))...).want(t, 0)
	report, err := readReport(filepath.Join(dir, "figures.json"))
	if err != nil {
		t.Fatal(err)
	}
	measured := map[string]bool{}
	for _, r := range report.Rows {
		measured[r.Name] = true
		if !good(r.Measured) || r.Reference != 0 || r.Ratio != 0 {
			t.Errorf("the figures are %+v", r)
		}
	}
	for _, name := range names {
		if !measured[name] {
			t.Errorf("%s has no figure", name)
		}
	}
	var list struct {
		Items []struct {
			Name      string
			Retention struct{ Keep string }
		}
	}
	d.caller().want(t, 200, "GET", "/v1/collections", nil, &list)
	if len(list.Items) < 5 {
		t.Errorf("the server has %d collections", len(list.Items))
	}
	for _, c := range list.Items {
		if !strings.Contains(done.out, c.Name) || c.Retention.Keep != "P1D" {
			t.Errorf("of %s, kept for %q, nothing is said", c.Name, c.Retention.Keep)
		}
	}
	runIn(t, dir, env, "bench", "--url", d.URL, "--only", "sweep").want(t, exitConfig)
	runIn(t, dir, env, "bench", "--url", "ftp://127.0.0.1", "--only", "search").want(t, exitConfig)
}

// Calls that a server does not answer with 200 are no figures.
func good(n float64) bool { return n > 0 && !math.IsInf(n, 0) && !math.IsNaN(n) }

func TestBenchHelp(t *testing.T) {
	t.Parallel()
	help := run1(t, nil, "bench", "--help").want(t, 0).out
	for _, m := range measurements {
		if !strings.Contains(help, m.name+": ") {
			t.Errorf("--help does not name %s", m.name)
		}
	}
}
