package main

import (
	"encoding/pem"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privault/privault/vault/vaulttest"
)

// tiny are flags of a benchmark that only shows that everything runs.
var tiny = []string{"bench", "--size", "small", "--time", "100ms", "--clients", "2", "--batch", "100", "--records", "300", "--person", "120", "--json", "figures.json"}

// Every measurement has figures: in the table, as JSON and in a document.
func TestBench(t *testing.T) {
	t.Parallel()
	for part := range slices.Chunk(measurements, 3) { // each with a server of its own, beside each other
		var names []string
		for _, m := range part {
			names = append(names, m.name)
		}
		t.Run(strings.Join(names, " "), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			document := filepath.Join(dir, "performance.md")
			write(t, document, "before\n"+figuresBegin+"old figures\n"+figuresEnd+"after\n")
			done := runIn(t, dir, nil, append(slices.Clone(tiny), "--markdown", document, "--commit", "abc123", "--only", strings.Join(names, ","))...).want(t, 0)
			text := read(t, document)
			if !strings.HasPrefix(text, "before\n"+figuresBegin) || !strings.HasSuffix(text, figuresEnd+"after\n") || strings.Contains(text, "old figures") {
				t.Error("the document is ", text)
			}
			report := measuredIn(t, dir, names)
			for _, r := range report.Rows {
				alone := strings.HasSuffix(r.Work, "closed loop")
				if !alone && (!good(r.Reference) || !good(r.Ratio)) || r.Unit != "ns" && r.Unit != "bytes" && !good(r.P50) || r.P99 > 0 && r.P99 < r.P50 {
					t.Errorf("a figure is missing in %+v", r)
				}
				if !strings.Contains(done.out, r.Work) || !strings.Contains(text, "| "+r.Work+" |") {
					t.Errorf("%s is not in the table or not in the document", r.Work)
				}
			}
			if want := "measuring " + strings.Join(names, "\nmeasuring ") + "\n"; done.err != want {
				t.Error("it complained: ", done.err)
			}
			if report.Machine.Cores < 1 || report.Date.IsZero() || report.Versions["postgres"] == "" || report.Versions["commit"] != "abc123" || report.Postgres["fsync"] != "on" || report.Sizes.Records != 300 {
				t.Errorf("the report has %+v, %v, %v", report.Machine, report.Versions, report.Postgres)
			}
		})
	}
}

// measuredIn reads the report, in which each of these measurements has figures.
func measuredIn(t testing.TB, dir string, names []string) *benchReport {
	t.Helper()
	report, err := readReport(filepath.Join(dir, "figures.json"))
	if err != nil {
		t.Fatal(err)
	}
	measured := map[string]bool{}
	for _, r := range report.Rows {
		measured[r.Name] = true
		if !good(r.Measured) {
			t.Errorf("the figures are %+v", r)
		}
	}
	for _, name := range names {
		if !measured[name] {
			t.Errorf("%s has no figure", name)
		}
	}
	return report
}

// A later run shows what its ratios are to earlier ones, and fails for none.
func TestBenchComparesRatios(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	earlier := benchReport{Date: time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC), Rows: []benchRow{{Work: "FF1, 16 digits", Ratio: 1000}}}
	if err := earlier.writeJSON(filepath.Join(dir, "earlier.json")); err != nil {
		t.Fatal(err)
	}
	later := runIn(t, dir, nil, "bench", "--only", "ff1", "--compare", "earlier.json").want(t, 0)
	if !strings.Contains(later.out, "ratio of 2026-03-04") || !regexp.MustCompile(`FF1, 16 digits .* 1000\.00 +0\.00`).MatchString(later.out) {
		t.Error(later.out)
	}
	runIn(t, dir, nil, "bench", "--only", "ff1,nothing").want(t, exitConfig)
}

// Over HTTP alone, a server that runs is measured with nothing beside it, and told what is left on it.
func TestBenchOfARunningServer(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample", "--database-url", vaulttest.EmptyDatabase(t))
	dir := t.TempDir()
	// A key with the roles that the documentation names, and no more.
	var principal, key struct{ ID, Key string }
	d.caller().want(t, 201, "POST", "/v1/principals", `{"name":"bench","roles":["admin","backend-writer","backend-reader","exporter","compliance"]}`, &principal)
	d.caller().want(t, 201, "POST", "/v1/principals/"+principal.ID+"/keys", `{}`, &key)
	env := []string{"PRIVAULT_API_KEY=" + key.Key}
	names := []string{"tokenize", "detokenize-batch", "record", "search", "import-stream", "export", "erase"}
	done := runIn(t, dir, env, append(slices.Clone(tiny), "--url", d.URL, "--only", strings.Join(names, ","))...).want(t, 0)
	for _, r := range measuredIn(t, dir, names).Rows {
		if r.Reference != 0 || r.Ratio != 0 {
			t.Errorf("the figures are %+v", r)
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

	// Behind a proxy that speaks TLS and has it under a path.
	behind, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(http.StripPrefix("/vault", httputil.NewSingleHostReverseProxy(behind)))
	defer front.Close()
	write(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	runIn(t, dir, append(env, "SSL_CERT_FILE=ca.pem"), append(slices.Clone(tiny), "--url", front.URL+"/vault/", "--only", "tokenize,record")...).want(t, 0)
	measuredIn(t, dir, []string{"tokenize", "record"})
	runIn(t, dir, env, "bench", "--url", "ftp://127.0.0.1", "--only", "search").want(t, exitConfig)
}

// A server that stands still for a while does so to all calls that are due meanwhile. The open loop counts each of them; a closed one counts as many as it has clients.
func TestBenchOpenLoopCountsWhatWaits(t *testing.T) {
	t.Parallel()
	var pause sync.RWMutex
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) == 400 {
			pause.Lock()
			<-time.After(500 * time.Millisecond)
			pause.Unlock()
		}
		pause.RLock()
		defer pause.RUnlock()
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	target := &benchTarget{host: strings.TrimPrefix(server.URL, "http://")}
	requests := target.posts("/", func(int) []byte { return []byte("{}") })
	open, err := target.open(t.Context(), 400, 2*time.Second, requests)
	if err != nil || served.Load() != 800 {
		t.Fatal(served.Load(), err)
	}
	if open.p99 < 400*time.Millisecond || open.value > 410 {
		t.Errorf("open: %+v", open)
	}
	served.Store(0)
	closed, err := target.closed(t.Context(), 1, 2*time.Second, requests)
	if err != nil || served.Load() < 400 {
		t.Fatal(served.Load(), err)
	}
	if closed.p99 > 400*time.Millisecond {
		t.Errorf("closed: %+v", closed)
	}
}

// A call that isn't answered with 200 is no figure.
func TestBenchFailsWithTheServer(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{429: "limits are lower", 503: "503 Service Unavailable"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		target := &benchTarget{host: strings.TrimPrefix(server.URL, "http://")}
		if f, err := target.closed(t.Context(), 2, time.Second, target.posts("/", func(int) []byte { return nil })); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %+v %v", status, f, err)
		}
		server.Close()
	}
}

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
