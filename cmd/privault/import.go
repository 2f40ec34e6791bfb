package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/privault/privault/vault/durable"
)

type importCmd struct {
	File       string   `arg:"" type:"existingfile" help:"CSV file with a header, or NDJSON (.ndjson, .jsonl)."`
	Collection string   `required:"" help:"The collection to store into."`
	Map        []string `sep:"none" placeholder:"COLUMN=FIELD" help:"Store this column in that field; repeat it. Without --map, columns go to the fields of their names and others are left out."`
	ID         string   `name:"id" placeholder:"COLUMN" help:"The column that stands beside the tokens in the output; by default the first."`
	Subject    string   `placeholder:"COLUMN" help:"The column that holds the subject's reference."`
	Token      []string `sep:"none" placeholder:"FIELD=COLUMN" help:"The column that holds the token which the field's value has already; repeat it. The field's definition says whether it takes tokens from outside."`
	Exported   bool     `help:"The file was written by privault export: its columns are known. Tokens go along where a field takes them, but for those that begin with pvtk_ or pvdt_, which only their own tenant can make."`
	Expires    string   `placeholder:"COLUMN" help:"The column that holds when the record expires, as RFC 3339 has it."`
	Out        string   `type:"path" placeholder:"FILE" help:"Where ids and tokens go, as CSV; by default FILE.tokens.csv."`
	Chunk      *int     `placeholder:"N" help:"Records in one request, 1 to 1000; by default 1000, or as many as an import began with that goes on."`
	Parallel   int      `default:"4" help:"Requests at once, 1 to 16."`
	Restart    bool     `help:"Forget an import of this file that was cut short, and start anew."`

	connection `embed:""`

	chunk int // as it was said, or began
}

// importState is what makes an import resumable: FILE.tokens.csv.state. A chunk is sent under an Idempotency-Key made
// of the import's id and the chunk's number. After a kill, the chunks that the server had stored but that were not noted
// here are sent again under the same keys, and give the same tokens: nothing is stored twice, nothing is lost.
type importState struct {
	ID      string    `json:"id"`
	Source  string    `json:"source"` // digest of what the import was asked to do, and of the file's size and time
	Chunk   int       `json:"chunk"`  // records in one request; 0: the file is of a version before, where it was 500 unless said
	Chunks  int       `json:"chunks"` // done, and in the output
	Refused int       `json:"refused"`
	Rows    int       `json:"rows"`
	Offset  int64     `json:"offset"` // length of the output up to there
	Saved   time.Time `json:"saved"`  // what was stored and isn't noted was sent later

	begun int // how many chunks were done when this run began
}

// The output is made durable, and noted how far it is, after so long or so many chunks. What comes between is sent again after a kill.
const (
	saveEvery  = 200 * time.Millisecond
	saveChunks = 64
)

const (
	maxParallel  = 16
	defaultChunk = 1000
)

// resumable is a little less than the server keeps an Idempotency-Key's answer (24 h).
const resumable = 23 * time.Hour

func (i *importCmd) Run(ctx context.Context) error {
	if i.Chunk != nil {
		i.chunk = *i.Chunk
	}
	if i.Chunk != nil && i.chunk < 1 || i.chunk > 1000 || i.Parallel < 1 || i.Parallel > maxParallel {
		return &configError{[]string{"--chunk is 1 to 1000 and --parallel 1 to 16"}}
	}
	if err := i.credentials(); err != nil {
		return err
	}
	if i.Out == "" {
		i.Out = i.File + ".tokens.csv"
	}
	file, err := os.Open(i.File)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	fields, err := i.fields(ctx, i.Collection)
	if err != nil {
		return err
	}
	source, err := newSource(i, file, fields)
	if err != nil {
		return err
	}
	state, err := i.resume(info)
	if err != nil {
		return err
	}
	return i.transfer(ctx, source, state, info.Size())
}

// resume reads where an earlier run of the same import stopped, or starts anew.
func (i *importCmd) resume(info fs.FileInfo) (*importState, error) {
	b, err := os.ReadFile(i.stateFile())
	if errors.Is(err, fs.ErrNotExist) || i.Restart {
		if _, err := os.Stat(i.Out); err == nil && !i.Restart {
			return nil, fmt.Errorf("%s is there already: an import ended, or something else wrote it; move it away, or say --restart to overwrite it", i.Out)
		}
		i.chunk = cmp.Or(i.chunk, defaultChunk)
		return &importState{ID: rand.Text(), Source: i.source(info), Chunk: i.chunk}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &importState{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s does not parse; say --restart to start anew", i.stateFile())
	}
	i.chunk = cmp.Or(i.chunk, s.Chunk, 500)
	if s.Source != i.source(info) {
		return nil, fmt.Errorf("%s is of another import (other file, columns, chunk size, server or key); run that again as it was, or say --restart to start anew, which stores again what it had stored", i.stateFile())
	}
	s.begun, s.Chunk = s.Chunks, i.chunk
	if time.Since(s.Saved) > resumable {
		return nil, fmt.Errorf("the import was cut short over %s ago: the server no longer knows which of the requests behind record %d it had stored; "+
			"look for them before you say --restart", resumable, s.Rows)
	}
	return s, nil
}

// source is a digest of what is asked for.
func (i *importCmd) source(info fs.FileInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%q\x00%q\x00%t\x00%s\x00%s\x00%s\x00%s\x00%s\x00%s\x00%d\x00%d\x00%d", i.Collection, i.Map, i.Token, i.Exported, i.ID, i.Subject, i.Expires, i.URL, i.APIKey,
		filepath.Base(i.File), i.chunk, info.Size(), info.ModTime().UnixNano()))
	return hex.EncodeToString(sum[:])
}

func (i *importCmd) stateFile() string { return i.Out + ".state" }

// chunk is one request and its outcome.
type chunk struct {
	number int
	rows   []row
	body   []byte
	sent   int   // of the rows, those that are in the body
	read   int64 // bytes of the source up to here
	done   chan error
	items  []importedItem // one for each that was sent
}

type importedItem struct {
	Status int               `json:"status"`
	Record string            `json:"record"`
	Tokens map[string]string `json:"tokens"`
	Error  jsontext.Value    `json:"error"`
}

// transfer reads, sends and writes at once: chunks are sent Parallel at a time and written in order.
func (i *importCmd) transfer(ctx context.Context, source *source, s *importState, size int64) error {
	out, err := openOutput(i.Out, s.Offset, source.fields())
	if err != nil {
		return err
	}
	defer out.Close()
	if err := i.save(out, s); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bar := newBar(size, "importing")
	start, before := time.Now(), s.Rows
	saved, since := start, 0 // the chunks since then
	flying := make(chan *chunk, i.Parallel)
	failed := make(chan error, 1)
	go func() {
		defer close(flying)
		failed <- i.send(ctx, source, s.ID, s.Chunks, flying)
	}()
	for c := range flying {
		if err := <-c.done; err != nil {
			return errors.Join(fmt.Errorf("records from %d on: %w; run the same command again to go on", s.Rows+1, err), i.save(out, s))
		}
		refused, err := out.write(c)
		if err != nil {
			return err
		}
		s.Chunks, s.Rows, s.Refused = c.number+1, s.Rows+len(c.rows), s.Refused+refused
		if since++; since >= saveChunks || time.Since(saved) >= saveEvery {
			if err := i.save(out, s); err != nil {
				return err
			}
			saved, since = time.Now(), 0
		}
		_ = bar.Set64(c.read)
	}
	if err := i.save(out, s); err != nil {
		return err
	}
	if err := <-failed; err != nil {
		return fmt.Errorf("after record %d: %w", s.Rows, err)
	}
	_ = bar.Finish()
	if err := os.Remove(i.stateFile()); err != nil {
		return err
	}
	return i.report(s, before, time.Since(start))
}

// save makes the output durable and notes how far it is, in this order.
func (i *importCmd) save(out *output, s *importState) error {
	offset, err := out.sync()
	if err != nil {
		return err
	}
	s.Offset = offset
	// An earlier run may have sent as many chunks that it had not noted; until those are done, what isn't noted may be as old.
	if s.Saved.IsZero() || s.Chunks > s.begun+saveChunks+maxParallel+2 {
		s.Saved = time.Now()
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return durable.Replace(i.stateFile(), b)
}

func (i *importCmd) report(s *importState, before int, took time.Duration) error {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rows := s.Rows - before
	fmt.Fprintf(os.Stderr, "%d records in %.2f s (%.0f/s), %d refused, %.0f MiB of memory; ids and tokens are in %s\n",
		rows, took.Seconds(), float64(rows)/took.Seconds(), s.Refused, float64(m.Sys)/(1<<20), i.Out)
	if s.Refused > 0 {
		return fmt.Errorf("%d records were refused: the column error of %s says why", s.Refused, i.Out)
	}
	return nil
}

// send cuts the source into chunks and sends them, skipping those that an earlier run has done.
func (i *importCmd) send(ctx context.Context, source *source, id string, skip int, flying chan<- *chunk) error {
	for number := 0; ; number++ {
		c, err := source.chunk(i.chunk)
		if err != nil {
			return err
		}
		if c == nil {
			return nil
		}
		if number < skip {
			continue
		}
		c.number, c.done = number, make(chan error, 1)
		select {
		case flying <- c:
		case <-ctx.Done():
			return fmt.Errorf("%w; run the same command again to go on", context.Cause(ctx))
		}
		go func() { c.done <- i.store(ctx, c, fmt.Sprintf("import-%s-%d", id, number)) }()
	}
}

// store sends one chunk, again and again while the server or the way to it is down.
func (i *importCmd) store(ctx context.Context, c *chunk, key string) error {
	if c.sent == 0 {
		return nil
	}
	pause := 100 * time.Millisecond
	for attempt := 0; ; attempt++ {
		status, body, err := i.call(ctx, http.MethodPost, "/v1/tokenize", c.body, key)
		var answer struct {
			Items []importedItem `json:"items"`
		}
		if err == nil && json.Unmarshal(body, &answer) == nil && len(answer.Items) == c.sent {
			c.items, c.body = answer.Items, nil
			return nil
		}
		if err == nil {
			err = errors.New(problemText(status, body))
		}
		again := status == 0 || status == http.StatusConflict || passing(status)
		if !again || attempt == 8 || ctx.Err() != nil {
			return err
		}
		if !rest(ctx, pause) {
			return ctx.Err()
		}
		pause *= 2
	}
}
