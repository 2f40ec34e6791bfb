package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
)

// scaleSteps is in how many parts the records come; the first and the last are compared.
const scaleSteps = 10

// measureScale imports --records ten times over and compares what a record costs at the end with what it cost at the start.
func measureScale(ctx context.Context, b *bencher) ([]benchRow, error) {
	collection, err := b.define(ctx, "scale", bulkFields)
	if err != nil {
		return nil, err
	}
	if err := b.emptied(ctx); err != nil {
		return nil, err
	}
	start, err := b.occupied(ctx)
	if err != nil {
		return nil, err
	}
	var imports, reads []figure
	var tokens []string
	for step := range scaleSteps {
		f, err := b.watched(func() error {
			more, err := b.streamMade(ctx, collection, step*b.Records)
			tokens = append(tokens, more...)
			return err
		})
		if err != nil {
			return nil, err
		}
		imports = append(imports, f)
		if step > 0 && step < scaleSteps-1 {
			continue
		}
		if err := b.settle(ctx); err != nil {
			return nil, err
		}
		if f, err = b.scattered(ctx, tokens); err != nil {
			return nil, err
		}
		reads = append(reads, f)
	}
	end, err := b.occupied(ctx)
	if err != nil {
		return nil, err
	}
	all := scaleSteps * b.Records
	name, email := bulkRecord(0)
	inserted := benchRow{Work: "import, the last tenth beside the first", Records: all, Reference: imports[0].value}
	inserted.take(imports[len(imports)-1])
	read := benchRow{Work: "detokenize one of all beside one of the first tenth", Clients: b.usual(), Records: all, Unit: "calls/s", Reference: reads[0].value}
	read.take(reads[len(reads)-1])
	stored := benchRow{Work: "a record of two values at rest beside its plaintext", Records: all, Unit: "bytes", Reference: float64(len(name) + len(email)),
		Measured: float64(end.all()-start.all()) / float64(all), Note: end.since(start, all)}
	return []benchRow{inserted, read, stored}, nil
}

// streamMade imports so many records, made as they are sent, and gives some of their tokens.
func (b *bencher) streamMade(ctx context.Context, collection string, from int) (tokens []string, err error) {
	out, in := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(in, 1<<16)
		for i := range b.Records {
			name, email := bulkRecord(from + i)
			if _, err := fmt.Fprintf(w, `{"fields":{"name":%q,"email":%q}}`+"\n", name, email); err != nil {
				return // the reader has gone, and says why
			}
		}
		_ = in.CloseWithError(w.Flush())
	}()
	defer out.Close()
	every, line := max(1, b.Records*scaleSteps/(20*benchTokens)), 0
	err = b.stream(ctx, out, collection, func(answer []byte) error {
		if line++; line%every > 0 {
			return nil
		}
		var item importedItem
		if err := json.Unmarshal(answer, &item); err != nil {
			return err
		}
		tokens = append(tokens, item.Tokens["email"])
		return nil
	})
	return tokens, err
}

// scattered reads tokens in no order, and notes how many pages were not in Postgres's own memory.
func (b *bencher) scattered(ctx context.Context, tokens []string) (f figure, err error) {
	const stride = 1_000_003 // a prime: each token once before any comes again
	one := b.reading(tokens, 1, "")
	scatter := func(sent []byte, n int) []byte { return one(sent, n*stride%len(tokens)) }
	// A round to begin with: Postgres counts a connection's pages when its next statement has ended.
	var at [2][2]int64
	for i := range at {
		if f, err = b.closed(ctx, b.usual(), b.Time, scatter); err != nil {
			return f, err
		}
		if at[i], err = b.pages(ctx); err != nil {
			return f, err
		}
	}
	asked, missed := at[1][0]-at[0][0], at[1][1]-at[0][1]
	f.note = fmt.Sprintf("%.1f %% of the pages asked for were not in shared_buffers", 100*float64(missed)/float64(max(1, asked)))
	return f, nil
}

// pages are how many of the pages of records and keys were asked for, and how many of them Postgres had to fetch.
func (b *bencher) pages(ctx context.Context) (p [2]int64, err error) {
	err = b.bare(ctx, func(owner *pgx.Conn) error {
		return owner.QueryRow(ctx, `
			select sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint, sum(heap_blks_read + idx_blks_read)::bigint
			from pg_statio_user_tables where schemaname || '.' || relname = any($1)`, scaleTables).Scan(&p[0], &p[1])
	})
	return p, err
}

// occupied is how many bytes are at rest in each of scaleTables: the table's own, and its indexes'.
type occupied [][2]int64

func (o occupied) all() (bytes int64) {
	for _, t := range o {
		bytes += t[0] + t[1]
	}
	return bytes
}

// scaleTables are those that grow with records.
var scaleTables = []string{"privault.records", "keystore.data_keys"}

func (b *bencher) occupied(ctx context.Context) (o occupied, err error) {
	err = b.bare(ctx, func(owner *pgx.Conn) error {
		for _, name := range scaleTables {
			var t [2]int64
			if err := owner.QueryRow(ctx, `select pg_table_size($1::regclass), pg_indexes_size($1::regclass)`, name).Scan(&t[0], &t[1]); err != nil {
				return err
			}
			o = append(o, t)
		}
		return nil
	})
	return o, err
}

// emptied takes away what other measurements have stored: what a sweep leaves free would be filled first, and not counted.
func (b *bencher) emptied(ctx context.Context) error {
	return b.bare(ctx, func(owner *pgx.Conn) error {
		_, err := owner.Exec(ctx, `truncate `+strings.Join(scaleTables, ", "))
		return err
	})
}

// since says for each table what so many records added.
func (o occupied) since(start occupied, records int) string {
	var text bytes.Buffer
	for i, name := range scaleTables {
		if i > 0 {
			text.WriteString("; ")
		}
		of := func(part int) float64 { return float64(o[i][part]-start[i][part]) / float64(records) }
		fmt.Fprintf(&text, "%s %.0f, its indexes %.0f", name, of(0), of(1))
	}
	return text.String()
}
