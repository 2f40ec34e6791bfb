package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// benchCmd measures the server as its users meet it, over HTTP, durable and audited, and beside each figure what the same
// Postgres, or the same processor, does with nothing around it, by turns in one run. A ratio of the two is what can be compared
// with another day and another machine; a time is not.
type benchCmd struct {
	Only    []string `placeholder:"NAME,..." help:"Measure these alone; they are listed above."`
	Size    string   `default:"normal" enum:"small,normal,full" help:"How much: small takes about a minute, normal a quarter of an hour, full most of an hour. The flags below change parts of it."`
	URL     string   `help:"Measure this running server over HTTP alone, with nothing beside it, in place of one of its own. It leaves its collections there."`
	KeyFile string   `type:"existingfile" placeholder:"FILE" help:"File with the API key for --url; by default PRIVAULT_API_KEY, or the development server's."`

	Clients []int          `help:"Client counts for single calls, 1 to 300 each; what is measured at one count alone takes 64 if it is among them, or else the last."`
	Batch   []int          `help:"Sizes of batches, 1 to 1000 items each."`
	Time    *time.Duration `help:"Time for each measurement of calls, at least 100ms; pgbench takes whole seconds."`
	Rounds  *int           `help:"Measurements of each; the table shows the medians."`
	Records *int           `help:"Records to import, export and sweep, at least 100; scale imports ten times as many."`
	Person  *int           `help:"Records of the person to erase, at least 100."`

	JSON     string `type:"path" placeholder:"FILE" help:"Also write the figures here, with machine and versions."`
	Markdown string `type:"existingfile" placeholder:"FILE" help:"Also write the figures into this file, between its lines <!-- figures --> and <!-- end of figures -->."`
	Commit   string `help:"The commit that is measured, for the report; by default what the build says."`
	Compare  string `type:"existingfile" placeholder:"FILE" help:"Show the ratios of an earlier --json beside those of now."`
}

// benchSizes says how much is measured.
type benchSizes struct {
	Clients []int         `json:"clients"`
	Batch   []int         `json:"batch"`
	Time    time.Duration `json:"time_ns"`
	Rounds  int           `json:"rounds"`
	Records int           `json:"records"`
	Person  int           `json:"person"`
}

var benchPresets = map[string]benchSizes{
	"small":  {Clients: []int{1, 64}, Batch: []int{1000}, Time: time.Second, Rounds: 1, Records: 20_000, Person: 2000},
	"normal": {Clients: []int{1, 64, 256}, Batch: []int{100, 1000}, Time: 2 * time.Second, Rounds: 3, Records: 100_000, Person: 10_000},
	"full":   {Clients: []int{1, 16, 64, 256}, Batch: []int{100, 1000}, Time: 2 * time.Second, Rounds: 5, Records: 1_000_000, Person: 10_000},
}

// sizes are those of the preset, but for what the flags say.
func (b *benchCmd) sizes() (benchSizes, error) {
	s := benchPresets[b.Size]
	if len(b.Clients) > 0 {
		s.Clients = b.Clients
	}
	if len(b.Batch) > 0 {
		s.Batch = b.Batch
	}
	s.Time = *cmp.Or(b.Time, &s.Time)
	s.Rounds, s.Records, s.Person = *cmp.Or(b.Rounds, &s.Rounds), *cmp.Or(b.Records, &s.Records), *cmp.Or(b.Person, &s.Person)
	within := func(least, most int) func(int) bool { return func(n int) bool { return n < least || n > most } }
	var faults []string
	if slices.ContainsFunc(s.Clients, within(1, 300)) || slices.ContainsFunc(s.Batch, within(1, 1000)) {
		faults = append(faults, "--clients are 1 to 300 each, --batch 1 to 1000 each")
	}
	if s.Time < 100*time.Millisecond || s.Rounds < 1 || min(s.Records, s.Person) < 100 {
		faults = append(faults, "--time is at least 100ms, --rounds at least 1, --records and --person at least 100")
	}
	for _, name := range b.Only {
		if !slices.ContainsFunc(measurements, func(m measurement) bool { return m.name == name && (m.anywhere || b.URL == "") }) {
			faults = append(faults, "--only "+name+": there is no such measurement, or it doesn't go with --url")
		}
	}
	if b.URL != "" && b.Compare+b.Markdown != "" {
		faults = append(faults, "--url measures no ratios, which is what --compare and --markdown are about")
	}
	if len(faults) > 0 {
		return s, &configError{faults}
	}
	return s, nil
}

// usual is the client count of what is measured at one alone.
func (s benchSizes) usual() int {
	if slices.Contains(s.Clients, 64) {
		return 64
	}
	return s.Clients[len(s.Clients)-1]
}

// measurement is an entry of what is measured.
type measurement struct {
	name, what, reference string
	unit                  string // of its figures; a rate ends in /s, of anything else less is better
	anywhere              bool   // over HTTP alone: against any running server
	run                   func(context.Context, *bencher) ([]benchRow, error)
}

// measurements come in the order in which they run: what fills the database comes last.
var measurements = []measurement{
	{"tokenize", "one value in a call, each client waiting for its answer", "pgbench: one-row durable insert by as many clients", "calls/s", true, measureTokenize},
	{"detokenize", "one token in a call, in plain, likewise", "the same insert: the audit entry is a durable write", "calls/s", true, measureDetokenize},
	{"tokenize-batch", "--batch values in a call, 4 clients", "pgbench: as many rows by one insert", "values/s", true, measureTokenizeBatch},
	{"detokenize-batch", "--batch tokens in a call, 4 clients", "pgbench: as many rows by one select", "values/s", true, measureDetokenizeBatch},
	{"open", "single calls that arrive at 50 % and 80 % of what the closed loop did, whatever is still unanswered; a latency counts from when the call was due", "p99 of the closed loop", "ms p99", true, measureOpen},
	{"deterministic", "tokenize one new value of a field with deterministic tokens, and detokenize one", "the same insert", "calls/s", true, measureDeterministic},
	{"fpe", "tokenize one new card number of a field with FF1 tokens, and detokenize one", "the same insert", "calls/s", true, measureFPE},
	{"record", "store a record of 1 and of 8 fields, and read it whole, in plain", "pgbench: one-row durable insert, of as many bytes where it stores", "calls/s", true, measureRecords},
	{"search", "find a record by a whole value, audited", "pgbench: one row by an indexed select", "calls/s", true, measureSearch},
	{"ff1", "FF1 of 16 digits, in process", "20 AES block calls", "ns", false, measureFF1},
	{"audit", "single calls while the log's sequencer is at work", "the same calls while entries are only written", "calls/s", false, measureAudit},
	{"erase", "the acknowledged erasure of a person with --person records in 4 collections", "one indexed delete of as many rows", "records/s", true, measureErase},
	{"import", "privault import of a CSV file of --records", "COPY of the file into one table", "records/s", true, measureImport},
	{"import-stream", "the same records as NDJSON by one call of the import route", "COPY of the CSV file into one table", "records/s", true, measureImportStream},
	{"export", "privault export of them, in plain", "COPY of as many rows to a file", "records/s", true, measureExport},
	{"sweep", "a sweep of --records that have expired, and 200 reads/s meanwhile", "a bare delete of the same rows in batches of 10,000; the reads without a sweep", "records/s", false, measureSweep},
	{"scale", "ten times --records imported by ten calls, what the last tenth and a random token of all cost, and what a record takes at rest", "the first tenth; a random token when there was no more; the record's plaintext", "records/s", false, measureScale},
}

// Help lists the measurements.
func (*benchCmd) Help() string {
	var b strings.Builder
	b.WriteString("Measurements, each beside its reference, by turns in one run:")
	for _, m := range measurements {
		fmt.Fprintf(&b, "\n\n%s: %s. Beside it: %s.", m.name, m.what, m.reference)
	}
	return b.String()
}

func (b *benchCmd) Run(ctx context.Context) error {
	sizes, err := b.sizes()
	if err != nil {
		return err
	}
	var before *benchReport
	if b.Compare != "" {
		if before, err = readReport(b.Compare); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "privault-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	target, err := b.target(ctx, dir)
	if err != nil {
		return err
	}
	defer target.close()
	report, err := newReport(ctx, sizes, target, b.Commit)
	if err != nil {
		return err
	}
	// What fails takes nothing from what else was measured.
	var faults []error
	at := &bencher{benchSizes: sizes, benchTarget: target}
	for _, m := range measurements {
		if len(b.Only) > 0 && !slices.Contains(b.Only, m.name) || b.URL != "" && !m.anywhere || ctx.Err() != nil {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", m.name)
		rows, err := m.run(ctx, at)
		for _, r := range rows {
			r.Name, r.Unit = m.name, cmp.Or(r.Unit, m.unit)
			report.Rows = append(report.Rows, r.complete())
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	faults = append(faults, report.print(os.Stdout, before))
	target.leave(os.Stdout)
	if ctx.Err() != nil { // what is half goes into no file
		return errors.Join(append(faults, ctx.Err())...)
	}
	if b.JSON != "" {
		faults = append(faults, report.writeJSON(b.JSON))
	}
	if b.Markdown != "" {
		faults = append(faults, report.writeMarkdown(b.Markdown))
	}
	return errors.Join(faults...)
}

// bencher is what a measurement has to work with.
type bencher struct {
	benchSizes
	*benchTarget
}

// figure is what one round gave: a rate or a time, as the unit says, and the latencies behind it.
type figure struct {
	value    float64
	p50, p99 time.Duration // 0: there is one latency alone, or none
	note     string
}

// beside measures the work and its reference one after the other, as often as there are rounds, and completes the row with the medians.
// Each goes first every other time: what gets slower as the run goes on favours neither. A server that is only called has no reference.
func (b *bencher) beside(ctx context.Context, row benchRow, work, reference func(context.Context) (figure, error)) ([]benchRow, error) {
	var got, bare []figure
	turn := func(do func(context.Context) (figure, error), into *[]figure) error {
		if do == nil {
			return nil
		}
		f, err := do(ctx)
		*into = append(*into, f)
		return err
	}
	if b.owner == "" {
		reference = nil
	}
	for round := range b.Rounds {
		turns := []func() error{func() error { return turn(reference, &bare) }, func() error { return turn(work, &got) }}
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, do := range turns {
			if err := do(); err != nil {
				return nil, err
			}
		}
	}
	row.take(median(got))
	if reference != nil {
		row.Reference = median(bare).value
	}
	return []benchRow{row}, nil
}

func median(rounds []figure) figure {
	slices.SortFunc(rounds, func(a, b figure) int { return cmp.Compare(a.value, b.value) })
	return rounds[len(rounds)/2]
}
