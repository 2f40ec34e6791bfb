package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// The records that are imported and exported.
const bulkFields = `{"name":{"type":"name"},"email":{"type":"email"}}`

func bulkRecord(i int) (name, email string) {
	return fmt.Sprintf("Jane Roe %08d", i), fmt.Sprintf("jane.roe.%08d@example.com", i)
}

// bulkFile gives the file of --records, written once for each format: .csv or .ndjson.
func (b *bencher) bulkFile(format string) (string, error) {
	path := filepath.Join(b.dir, "people"+format)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<16)
	if format == ".csv" {
		fmt.Fprintln(out, "id,name,email")
	}
	for i := range b.Records {
		name, email := bulkRecord(i)
		if format == ".csv" {
			fmt.Fprintf(out, "%d,%s,%s\n", i, name, email)
		} else {
			fmt.Fprintf(out, `{"fields":{"name":%q,"email":%q}}`+"\n", name, email)
		}
	}
	return path, errors.Join(out.Flush(), f.Sync(), f.Close())
}

// once times something that is done to so many records.
func once(records int, do func() error) (figure, error) {
	start := time.Now()
	err := do()
	took := time.Since(start)
	return figure{value: float64(records) / took.Seconds(), p50: took}, err
}

// watched times something that is done to --records records, and notes how much memory the server had at most meanwhile, where the system tells.
func (b *bencher) watched(do func() error) (figure, error) {
	process := strconv.Itoa(b.pid)
	reset := os.WriteFile(filepath.Join("/proc", process, "clear_refs"), []byte("5"), 0o600) // proc(5): the peak is what it is now
	f, err := once(b.Records, do)
	if kilobytes, unknown := strconv.Atoi(strings.TrimSuffix(procLine(filepath.Join(process, "status"), "VmHWM"), " kB")); reset == nil && unknown == nil {
		f.note = fmt.Sprintf("the server had %d MiB at most", kilobytes>>10)
	}
	return f, err
}

// command runs privault itself against the server that is measured.
func (b *bencher) command(ctx context.Context, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	run := exec.CommandContext(ctx, self, args...)
	run.Dir, run.Env = b.dir, append(os.Environ(), "PRIVAULT_URL="+b.URL, "PRIVAULT_API_KEY="+b.APIKey)
	if said, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("privault %s: %w\n%s", args[0], err, said)
	}
	return nil
}

// imported imports the file into a collection of its own with the command, and notes the collection among those of late.
func (b *bencher) imported(ctx context.Context) (f figure, err error) {
	file, err := b.bulkFile(".csv")
	if err != nil {
		return f, err
	}
	collection, err := b.define(ctx, "import", bulkFields)
	if err != nil {
		return f, err
	}
	if err := b.settle(ctx); err != nil {
		return f, err
	}
	out := filepath.Join(b.dir, collection+".csv")
	f, err = b.watched(func() error {
		return b.command(ctx, "import", file, "--collection", collection, "--out", out)
	})
	if err != nil {
		return f, err
	}
	b.lately = append(b.lately, collection)
	return f, os.Remove(out) // which is longer than the file
}

func measureImport(ctx context.Context, b *bencher) ([]benchRow, error) {
	return b.beside(ctx, benchRow{Work: "import, privault import", Records: b.Records, budget: budget{AtLeast: 0.3}},
		b.imported, b.copyIn)
}

func measureImportStream(ctx context.Context, b *bencher) ([]benchRow, error) {
	file, err := b.bulkFile(".ndjson")
	if err != nil {
		return nil, err
	}
	return b.beside(ctx, benchRow{Work: "import, one stream", Records: b.Records, budget: budget{AtLeast: 0.3}},
		func(ctx context.Context) (figure, error) {
			collection, err := b.define(ctx, "stream", bulkFields)
			if err == nil {
				err = b.settle(ctx)
			}
			if err != nil {
				return figure{}, err
			}
			return b.watched(func() error {
				in, err := os.Open(file)
				if err != nil {
					return err
				}
				defer in.Close()
				return b.stream(ctx, in, collection, func([]byte) error { return nil })
			})
		}, b.copyIn)
}

// stream sends --records lines to the import route and looks at each line that comes back.
func (b *bencher) stream(ctx context.Context, in io.Reader, collection string, each func(line []byte) error) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(b.URL, "/")+"/v1/collections/"+collection+"/import", in)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+b.APIKey)
	r.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, err := io.ReadAll(answer.Body)
		return errors.Join(errors.New(problemText(answer.StatusCode, text)), err)
	}
	stored, lines := 0, bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(`"status":201`)) {
			return errors.New("the server refused a record")
		}
		if err := each(lines.Bytes()); err != nil {
			return err
		}
		stored++
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if stored != b.Records {
		return fmt.Errorf("the server stored %d of %d records", stored, b.Records)
	}
	return nil
}

// copyIn copies the CSV file into one table with a key, by COPY.
func (b *bencher) copyIn(ctx context.Context) (f figure, err error) {
	path, err := b.bulkFile(".csv")
	if err != nil {
		return f, err
	}
	file, err := os.Open(path)
	if err != nil {
		return f, err
	}
	defer file.Close()
	err = b.exec(ctx, `create table if not exists public.bench_copy (id bigint primary key, name text not null, email text not null)`,
		`truncate public.bench_copy`, `checkpoint`)
	if err != nil {
		return f, err
	}
	err = b.bare(ctx, func(owner *pgx.Conn) error {
		f, err = once(b.Records, func() error {
			_, err := owner.PgConn().CopyFrom(ctx, file, `copy public.bench_copy (id, name, email) from stdin (format csv, header)`)
			return err
		})
		return err
	})
	b.copied = err == nil
	return f, err
}

func measureExport(ctx context.Context, b *bencher) ([]benchRow, error) {
	if len(b.lately) == 0 {
		if _, err := b.imported(ctx); err != nil {
			return nil, err
		}
	}
	if !b.copied && b.owner != "" {
		if _, err := b.copyIn(ctx); err != nil {
			return nil, err
		}
	}
	out := filepath.Join(b.dir, "exported.ndjson")
	collection := b.lately[len(b.lately)-1]
	return b.beside(ctx, benchRow{Work: "export, privault export", Records: b.Records},
		func(ctx context.Context) (f figure, err error) {
			f, err = b.watched(func() error {
				return b.command(ctx, "export", out, "--collection", collection, "--view", "plain", "--restart")
			})
			if err != nil {
				return f, err
			}
			return f, b.countExported(out)
		}, b.copyOut)
}

// countExported says whether all records are in the file, in plain.
func (b *bencher) countExported(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := 0
	for in := bufio.NewScanner(file); in.Scan(); lines++ {
		var line exportedLine
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return err
		}
		if !strings.HasPrefix(plainText(line.Fields["email"]), "jane.roe.") {
			return errors.New("an exported record is not as it was imported")
		}
	}
	if lines != b.Records {
		return fmt.Errorf("%d of %d records were exported", lines, b.Records)
	}
	return nil
}

// copyOut copies as many rows to a file, by COPY.
func (b *bencher) copyOut(ctx context.Context) (f figure, err error) {
	file, err := os.Create(filepath.Join(b.dir, "copied.csv"))
	if err != nil {
		return f, err
	}
	defer file.Close()
	err = b.bare(ctx, func(owner *pgx.Conn) error {
		f, err = once(b.Records, func() error {
			_, err := owner.PgConn().CopyTo(ctx, file, `copy public.bench_copy (id, name, email) to stdout (format csv)`)
			return errors.Join(err, file.Sync())
		})
		return err
	})
	return f, err
}
