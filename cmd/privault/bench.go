package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/pgserver"
)

// benchCmd measures the server as its users meet it, over HTTP, durable and audited, beside pgbench's bare one-row
// durable insert into the same Postgres, in one run. The figures are for comparing with each other, not with those of
// another machine.
type benchCmd struct {
	Clients []int         `default:"1,16,64" help:"Client counts to measure."`
	Time    time.Duration `default:"5s" help:"Time for each measurement."`
	Rounds  int           `default:"3" help:"Measurements of each; the table shows the median."`
	Batch   int           `default:"1000" help:"Items of a batch; 0: no batches."`
	Audit   bool          `help:"Also compare the calls with the audit log's sequencer at work and without it, at the largest client count."`
	JSON    string        `type:"path" placeholder:"FILE" help:"Also write the figures here, as JSON."`
}

// benchRow is one line of the table: throughput per second and latency.
type benchRow struct {
	Work      string        `json:"work"`
	Clients   int           `json:"clients"`
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	Reference float64       `json:"reference_per_second"` // of the reference named in the head
	Ratio     float64       `json:"ratio"`
}

func (b *benchCmd) Run(ctx context.Context) error {
	if slices.ContainsFunc(b.Clients, func(n int) bool { return n < 1 || n > 300 }) || b.Time < time.Second || b.Rounds < 1 || b.Batch < 0 || b.Batch > 1000 {
		return &configError{[]string{"--clients are 1 to 300 each, --time is at least 1s, --rounds at least 1, --batch 0 to 1000"}}
	}
	dir, err := os.MkdirTemp("", "privault-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	dev, stop, err := startBenchServer(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	target, err := newBenchTarget(ctx, dev)
	if err != nil {
		return err
	}
	var rows []benchRow
	for _, clients := range b.Clients {
		measured, err := b.measure(ctx, target, clients)
		if err != nil {
			return err
		}
		rows = append(rows, measured...)
	}
	if b.Batch > 0 {
		measured, err := b.measureBatches(ctx, target)
		if err != nil {
			return err
		}
		rows = append(rows, measured...)
	}
	if err := b.report(rows); err != nil || !b.Audit {
		return err
	}
	compared, err := b.measureAudit(ctx, target, slices.Max(b.Clients))
	if err != nil {
		return err
	}
	return reportAudit(compared)
}

// startBenchServer runs `privault dev` in a process of its own, as it runs for its users.
func startBenchServer(ctx context.Context, dir string) (*devFile, func(), error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	server := exec.CommandContext(ctx, self, "dev", "--data", dir, "--no-sample", "--quiet", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	}
	// It prints its address when it is ready.
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		stop()
		return nil, nil, errors.New("the server did not start")
	}
	dev := &devFile{}
	raw, err := os.ReadFile(filepath.Join(dir, "dev.json"))
	if err == nil {
		err = json.Unmarshal(raw, dev)
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return dev, stop, nil
}

// benchTarget is a server with a collection to work on.
type benchTarget struct {
	dev    *devFile
	addr   string
	tokens []string
}

const (
	benchCollection = "bench"
	benchTokens     = 5000
)

func newBenchTarget(ctx context.Context, dev *devFile) (*benchTarget, error) {
	t := &benchTarget{dev: dev, addr: strings.TrimPrefix(dev.URL, "http://")}
	client := connection{URL: dev.URL, APIKey: dev.APIKey}
	status, body, err := client.call(ctx, http.MethodPut, "/v1/collections/"+benchCollection, []byte(`{"fields":{"email":{"type":"email"}}}`), "")
	if err != nil || status != http.StatusCreated {
		return nil, fmt.Errorf("make the collection: %s %w", problemText(status, body), err)
	}
	for len(t.tokens) < benchTokens {
		status, body, err := client.call(ctx, http.MethodPost, "/v1/tokenize", tokenizeBody(1000), "")
		var answer struct{ Items []importedItem }
		if err == nil {
			err = json.Unmarshal(body, &answer)
		}
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("store records: %s %w", problemText(status, body), err)
		}
		for _, item := range answer.Items {
			t.tokens = append(t.tokens, item.Tokens["email"])
		}
	}
	owner, err := pgx.Connect(ctx, dev.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer owner.Close(ctx)
	// What a durable insert of a row of that size costs with nothing around it.
	_, err = owner.Exec(ctx, `
		create table public.bench_reference (id bigint generated always as identity primary key, at timestamptz not null, value bytea not null);
		create table public.bench_select as select g as id, '\x00'::bytea || decode(repeat('ab', 120), 'hex') as value from generate_series(1, 5000) g;
		alter table public.bench_select add primary key (id);
		analyze public.bench_select`)
	return t, err
}

func tokenizeBody(items int) []byte {
	item := `{"fields":{"email":"jane.roe@example.com"}}`
	return []byte(`{"collection":"` + benchCollection + `","items":[` + strings.Repeat(item+",", items-1) + item + `]}`)
}

func (t *benchTarget) detokenizeBody(first, items int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	for i := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"token":"` + t.tokens[(first+i)%len(t.tokens)] + `","view":"plain"}`)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// measure measures both calls and the reference with so many clients, by turns, and gives the medians.
func (b *benchCmd) measure(ctx context.Context, t *benchTarget, clients int) ([]benchRow, error) {
	tokenize := [][]byte{t.request("/v1/tokenize", tokenizeBody(1))}
	var detokenize [][]byte
	for i := range t.tokens {
		detokenize = append(detokenize, t.request("/v1/detokenize", t.detokenizeBody(i, 1)))
	}
	var reference []float64
	rounds := map[string][]benchRow{}
	for range b.Rounds {
		bare, err := b.pgbench(ctx, t, clients, `insert into public.bench_reference (at, value) values (now(), decode(repeat('ab', 120), 'hex'));`)
		if err != nil {
			return nil, err
		}
		reference = append(reference, bare)
		for work, requests := range map[string][][]byte{"tokenize": tokenize, "detokenize": detokenize} {
			row, err := load(ctx, t.addr, requests, clients, b.Time)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", work, err)
			}
			row.Work = work
			rounds[work] = append(rounds[work], row)
		}
	}
	return []benchRow{
		median(rounds["tokenize"], reference, clients),
		median(rounds["detokenize"], reference, clients),
	}, nil
}

// measureBatches measures batches at four clients beside the same number of rows by multi-row insert and select.
func (b *benchCmd) measureBatches(ctx context.Context, t *benchTarget) ([]benchRow, error) {
	const clients = 4
	insert := fmt.Sprintf(`insert into public.bench_reference (at, value) select now(), decode(repeat('ab', 120), 'hex') from generate_series(1, %d);`, b.Batch)
	read := fmt.Sprintf(`select value from public.bench_select where id = any(array(select generate_series(1, %d)));`, b.Batch)
	var rows []benchRow
	for _, w := range []struct {
		work, reference string
		request         []byte
	}{
		{"tokenize", insert, t.request("/v1/tokenize", tokenizeBody(b.Batch))},
		{"detokenize", read, t.request("/v1/detokenize", t.detokenizeBody(0, b.Batch))},
	} {
		var reference []float64
		var rounds []benchRow
		for range b.Rounds {
			bare, err := b.pgbench(ctx, t, clients, w.reference)
			if err != nil {
				return nil, err
			}
			row, err := load(ctx, t.addr, [][]byte{w.request}, clients, b.Time)
			if err != nil {
				return nil, err
			}
			row.Work = fmt.Sprintf("%s, batch of %d", w.work, b.Batch)
			row.PerSecond *= float64(b.Batch)
			reference, rounds = append(reference, bare*float64(b.Batch)), append(rounds, row)
		}
		rows = append(rows, median(rounds, reference, clients))
	}
	return rows, nil
}

func median(rounds []benchRow, reference []float64, clients int) benchRow {
	slices.SortFunc(rounds, func(a, b benchRow) int { return int(a.PerSecond - b.PerSecond) })
	slices.Sort(reference)
	row := rounds[len(rounds)/2]
	row.Clients, row.Reference = clients, reference[len(reference)/2]
	row.Ratio = row.PerSecond / row.Reference
	return row
}

// request is a whole HTTP request, made once: the load must cost the machine little.
func (t *benchTarget) request(path string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, t.addr, t.dev.APIKey, len(body), body)
}

// load sends requests from so many connections, each waiting for its answer before the next, and measures.
func load(ctx context.Context, addr string, requests [][]byte, clients int, length time.Duration) (benchRow, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wait sync.WaitGroup
	start := time.Now()
	for c := range clients {
		wait.Go(func() {
			took, err := client(ctx, addr, requests, c)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = errors.Join(failed, err)
		})
	}
	wait.Wait()
	if failed != nil || len(all) == 0 {
		return benchRow{}, fmt.Errorf("no measurement: %w", failed)
	}
	seconds := time.Since(start).Seconds()
	slices.Sort(all)
	return benchRow{PerSecond: float64(len(all)) / seconds, P50: all[len(all)/2], P99: all[len(all)*99/100]}, nil
}

// client is one connection's share of a load.
func client(ctx context.Context, addr string, requests [][]byte, at int) ([]time.Duration, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answers := bufio.NewReaderSize(conn, 64<<10)
	var took []time.Duration
	for ; ctx.Err() == nil; at++ {
		start := time.Now()
		if _, err := conn.Write(requests[at%len(requests)]); err != nil {
			return nil, err
		}
		if err := readAnswer(answers); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

var contentLength = []byte("Content-Length: ")

// readAnswer reads one answer of status 200, and no more of it than it must.
func readAnswer(r *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("the server answered %q", bytes.TrimSpace(line))
		}
		if rest, found := bytes.CutPrefix(line, contentLength); found {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(rest))); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			break
		}
	}
	if length < 0 {
		return readChunked(r)
	}
	_, err := r.Discard(length)
	return err
}

// readChunked reads past a body of RFC 9112 chunks.
func readChunked(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := r.Discard(int(size) + 2); err != nil || size == 0 {
			return err
		}
	}
}

var pgbenchRate = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

// pgbench runs one statement over and over from so many clients and gives how often a second it committed.
func (b *benchCmd) pgbench(ctx context.Context, t *benchTarget, clients int, statement string) (float64, error) {
	program, err := findPgbench()
	if err != nil {
		return 0, err
	}
	script, err := os.CreateTemp("", "privault-bench-*.sql")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(script.Name()) }()
	if _, err := io.WriteString(script, statement+"\n"); err != nil {
		return 0, err
	}
	if err := script.Close(); err != nil {
		return 0, err
	}
	run := exec.CommandContext(ctx, program, "--no-vacuum", "--protocol=prepared", "--file="+script.Name(),
		"--client="+strconv.Itoa(clients), "--jobs="+strconv.Itoa(min(clients, 2)), "--time="+strconv.Itoa(max(1, int(b.Time.Seconds()))), t.dev.DatabaseURL)
	out, err := run.CombinedOutput()
	match := pgbenchRate.FindSubmatch(out)
	if err != nil || match == nil {
		return 0, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

// findPgbench looks where the server's binaries are, then in PATH.
func findPgbench() (string, error) {
	binaries, err := pgserver.Find()
	if err != nil {
		return "", err
	}
	if program, err := exec.LookPath(filepath.Join(binaries, "pgbench")); err == nil {
		return program, nil
	}
	program, err := exec.LookPath("pgbench")
	if err != nil {
		return "", errors.New("there is no pgbench to measure against: it comes with Postgres's packages (Debian: postgresql-contrib or postgresql)")
	}
	return program, nil
}

func (b *benchCmd) report(rows []benchRow) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "work\tclients\tper second\tp50 ms\tp99 ms\treference per second\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.0f\t%.2f\t\n", r.Work, r.Clients, r.PerSecond,
			float64(r.P50)/1e6, float64(r.P99)/1e6, r.Reference, r.Ratio)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println("\nreference: pgbench on the same Postgres in the same run; singles: one-row durable insert with as many clients;\nbatches: as many rows by one insert, or by one select.")
	if b.JSON == "" {
		return nil
	}
	raw, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.JSON, append(raw, '\n'), 0o600)
}
