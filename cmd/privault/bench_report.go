package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

// benchReport is what --json writes.
type benchReport struct {
	Date     time.Time         `json:"date"`
	Machine  benchMachine      `json:"machine"`
	Versions map[string]string `json:"versions"`
	Postgres map[string]string `json:"postgres,omitempty"` // the settings that durable writes depend on
	Sizes    benchSizes        `json:"sizes"`
	Rows     []benchRow        `json:"rows"`
}

type benchMachine struct {
	Processor string  `json:"processor"`
	Cores     int     `json:"cores"`
	MemoryGiB float64 `json:"memory_gib"`
	Kernel    string  `json:"kernel"`
}

// benchRow is one figure and the one beside it.
type benchRow struct {
	Name      string  `json:"name"` // of the measurement
	Work      string  `json:"work"`
	Clients   int     `json:"clients,omitempty"`
	Records   int     `json:"records,omitempty"`
	Unit      string  `json:"unit"` // a rate ends in /s; of anything else less is better
	Measured  float64 `json:"measured"`
	P50       float64 `json:"p50_ms,omitempty"` // of what is done once: how long it took
	P99       float64 `json:"p99_ms,omitempty"`
	Reference float64 `json:"reference,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"` // to the reference; above 1 is better than it, whatever the unit
	budget
	Note string `json:"note,omitempty"`
}

// budget is what a ratio should be.
type budget struct {
	AtLeast float64 `json:"at_least,omitempty"`
	Aim     float64 `json:"aim,omitempty"`
}

func (r *benchRow) take(f figure) {
	r.Measured, r.P50, r.P99, r.Note = f.value, ms(f.p50), ms(f.p99), f.note
}

func (r benchRow) complete() benchRow {
	switch {
	case r.Reference == 0:
	case strings.HasSuffix(r.Unit, "/s"):
		r.Ratio = r.Measured / r.Reference
	default:
		r.Ratio = r.Reference / r.Measured
	}
	return r
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// newReport notes the machine and the versions.
func newReport(ctx context.Context, sizes benchSizes, t *benchTarget, commit string) (*benchReport, error) {
	r := &benchReport{Date: time.Now().UTC().Truncate(time.Second), Sizes: sizes, Versions: map[string]string{"go": runtime.Version()},
		Machine: benchMachine{Processor: cmp.Or(procLine("cpuinfo", "model name"), runtime.GOARCH), Cores: runtime.NumCPU(), Kernel: runtime.GOOS}}
	if kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(procLine("meminfo", "MemTotal"), " kB"), 64); err == nil {
		r.Machine.MemoryGiB = float64(int(kilobytes/(1<<20)*10)) / 10
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		r.Machine.Kernel += " " + string(bytes.TrimSpace(release))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		r.Versions["privault"] = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && commit == "" {
				commit = s.Value
			}
		}
	}
	r.Versions["commit"] = cmp.Or(commit, "unknown")
	if t.owner == "" {
		return r, nil
	}
	r.Postgres = map[string]string{}
	return r, t.bare(ctx, func(owner *pgx.Conn) error {
		for _, name := range []string{"server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size"} {
			var value string
			if err := owner.QueryRow(ctx, `select current_setting($1)`, name).Scan(&value); err != nil {
				return err
			}
			r.Postgres[name] = value
		}
		r.Versions["postgres"] = r.Postgres["server_version"]
		delete(r.Postgres, "server_version")
		return nil
	})
}

// procLine gives what a file of /proc says under a name; nothing where there is no /proc.
func procLine(file, name string) string {
	b, err := os.ReadFile(filepath.Join("/proc", file))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func readReport(path string) (*benchReport, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &benchReport{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, &configError{[]string{path + " is none of --json's files"}}
	}
	return r, nil
}

func (r *benchReport) writeJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

// benchHead names the columns of the table.
var benchHead = []string{"work", "clients", "records", "unit", "measured", "p50 ms", "p99 ms", "reference", "ratio", "at least", "aim"}

// cells are a row of the table.
func (r benchRow) cells() []string {
	number := func(n float64, digits int) string {
		if n == 0 {
			return "–"
		}
		return strconv.FormatFloat(n, 'f', digits, 64)
	}
	digits := 0
	if !strings.HasSuffix(r.Unit, "/s") {
		digits = 2
	}
	return []string{r.Work, number(float64(r.Clients), 0), number(float64(r.Records), 0), r.Unit, number(r.Measured, digits), number(r.P50, 2), number(r.P99, 2),
		number(r.Reference, digits), number(r.Ratio, 2), number(r.AtLeast, 1), number(r.Aim, 1)}
}

// print writes the table, with the ratios of before if there are any. Nothing fails because it was slow.
func (r *benchReport) print(w io.Writer, before *benchReport) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := slices.Clone(benchHead)
	if before != nil {
		head = append(head, "ratio of "+before.Date.Format(time.DateOnly), "now / then")
	}
	fmt.Fprintln(table, strings.Join(append(head, ""), "\t"))
	for _, row := range r.Rows {
		cells := row.cells()
		if before != nil {
			cells = append(cells, before.change(row)...)
		}
		fmt.Fprintln(table, strings.Join(append(cells, row.Note), "\t"))
	}
	fmt.Fprintln(table)
	for _, m := range measurements {
		if slices.ContainsFunc(r.Rows, func(row benchRow) bool { return row.Name == m.name && row.Reference > 0 }) {
			fmt.Fprintf(table, "%s: %s; beside it %s\n", m.name, m.what, m.reference)
		}
	}
	return table.Flush()
}

// change gives the ratio that the same work of the same size had then, and what it is now to what it was.
func (r *benchReport) change(now benchRow) []string {
	i := slices.IndexFunc(r.Rows, func(then benchRow) bool {
		return then.Work == now.Work && then.Clients == now.Clients && then.Records == now.Records && then.Ratio > 0
	})
	if i < 0 || now.Ratio == 0 {
		return []string{"–", "–"}
	}
	then := r.Rows[i]
	return []string{strconv.FormatFloat(then.Ratio, 'f', 2, 64), strconv.FormatFloat(now.Ratio/then.Ratio, 'f', 2, 64)}
}

// Between these lines a document has the figures.
const (
	figuresBegin = "<!-- figures -->\n"
	figuresEnd   = "<!-- end of figures -->\n"
)

// writeMarkdown puts the figures into a document, in place of those that it has.
func (r *benchReport) writeMarkdown(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(b), figuresBegin)
	_, after, ends := strings.Cut(rest, figuresEnd)
	if !begins || !ends {
		return &configError{[]string{path + " has no lines " + strings.TrimSpace(figuresBegin) + " and " + strings.TrimSpace(figuresEnd)}}
	}
	var w strings.Builder
	fmt.Fprintf(&w, "%s%sMeasured on %s: %s, %d cores, %.1f GiB, %s; privault %s, commit %s, %s, Postgres %s (%s).\n\n", before, figuresBegin, r.Date.Format(time.DateOnly),
		r.Machine.Processor, r.Machine.Cores, r.Machine.MemoryGiB, r.Machine.Kernel, r.Versions["privault"], r.Versions["commit"], r.Versions["go"], r.Versions["postgres"], settingsText(r.Postgres))
	fmt.Fprintf(&w, "| %s | |\n|---|%s---|\n", strings.Join(benchHead, " | "), strings.Repeat("--:|", len(benchHead)-1))
	for _, row := range r.Rows {
		fmt.Fprintf(&w, "| %s | %s |\n", strings.Join(row.cells(), " | "), row.Note)
	}
	fmt.Fprintf(&w, "\nSizes: %v for each measurement of calls, %d rounds, medians.\n%s%s", r.Sizes.Time, r.Sizes.Rounds, figuresEnd, after)
	return os.WriteFile(path, []byte(w.String()), 0o600) // it is there, and keeps its mode
}

func settingsText(settings map[string]string) string {
	var all []string
	for name, value := range settings {
		all = append(all, name+" "+value)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
