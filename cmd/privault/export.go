package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

type exportCmd struct {
	Out            string   `arg:"" type:"path" help:"Where the records go: .csv, or .ndjson and .jsonl for the server's own lines."`
	Collection     string   `required:"" help:"The collection to take out."`
	Field          []string `help:"Only this field; repeat it. By default all."`
	View           string   `default:"masked" enum:"redacted,masked,plain" help:"How much of the values is shown."`
	ViewOf         []string `sep:"none" placeholder:"FIELD=VIEW" help:"A field's own view; repeat it."`
	Purpose        string   `help:"What the values are read for."`
	PreviousTokens bool     `help:"Also the tokens that values had before a rotation of fpe keys, and that go on resolving."`
	Restart        bool     `help:"Overwrite the file, if it is there."`

	connection `embed:""`
}

// exportedLine is one line of the server's stream.
type exportedLine struct {
	Record   string                     `json:"record"`
	Subject  string                     `json:"subject"`
	Expires  string                     `json:"expires_at"`
	Fields   map[string]json.RawMessage `json:"fields"`
	Tokens   map[string]string          `json:"tokens"`
	Previous map[string][]string        `json:"previous_tokens"`
	Status   int                        `json:"status"`
	Error    json.RawMessage            `json:"error"`
}

func (x *exportCmd) Run(ctx context.Context) error {
	if err := x.credentials(); err != nil {
		return err
	}
	if _, err := os.Stat(x.Out); err == nil && !x.Restart {
		return fmt.Errorf("%s is there already; move it away, or say --restart to overwrite it", x.Out)
	}
	fields, err := x.fields(ctx, x.Collection)
	if err != nil {
		return err
	}
	views := map[string]string{}
	for _, pair := range x.ViewOf {
		field, view, _ := strings.Cut(pair, "=")
		views[field] = view
	}
	// Nobody takes half an export for a whole one: the file has its name when all is in it.
	f, err := os.OpenFile(x.Out+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sink, err := newSink(f, x.Out, x.columns(fields), fields, x.PreviousTokens)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := x.transfer(ctx, sink, views); err != nil {
		return err
	}
	if err := errors.Join(sink.flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(x.Out+".part", x.Out); err != nil {
		return err
	}
	return x.report(sink, time.Since(start))
}

// columns are the fields that are taken out, in order.
func (x *exportCmd) columns(fields map[string]fieldInfo) []string {
	columns := slices.Clone(x.Field)
	if len(columns) == 0 {
		for name := range fields {
			columns = append(columns, name)
		}
	}
	slices.Sort(columns)
	return slices.Compact(columns)
}

// transfer asks again, behind the last record that came, while the server or the way to it is down.
func (x *exportCmd) transfer(ctx context.Context, sink *sink, views map[string]string) error {
	pause := 100 * time.Millisecond
	for attempt := 0; ; attempt++ {
		before := sink.records
		again, err := x.stream(ctx, sink, views)
		if err == nil {
			return nil
		}
		if sink.records > before {
			attempt, pause = 0, 100*time.Millisecond
		}
		if !again || attempt == 8 || ctx.Err() != nil {
			return fmt.Errorf("after record %d: %w", sink.records, err)
		}
		if !rest(ctx, pause) {
			return ctx.Err()
		}
		pause *= 2
	}
}

// stream reads one stream to its end; again says whether it may go on behind the last record.
func (x *exportCmd) stream(ctx context.Context, sink *sink, views map[string]string) (again bool, err error) {
	asked := map[string]any{"view": x.View}
	for name, given := range map[string]any{"fields": x.Field, "views": views} {
		if n, _ := json.Marshal(given); len(n) > 4 { // neither [] nor {} nor null
			asked[name] = given
		}
	}
	if x.PreviousTokens {
		asked["previous_tokens"] = true
	}
	if sink.last != "" {
		asked["after"] = sink.last
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return false, err
	}
	r, err := x.request(ctx, http.MethodPost, "/v1/collections/"+url.PathEscape(x.Collection)+"/export", body)
	if err != nil {
		return false, err
	}
	if x.Purpose != "" {
		r.Header.Set("Privault-Purpose", x.Purpose)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return true, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, err := io.ReadAll(answer.Body)
		return passing(answer.StatusCode), errors.Join(errors.New(problemText(answer.StatusCode, text)), err)
	}
	in := bufio.NewReaderSize(answer.Body, 1<<16)
	for {
		text, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			return false, nil
		case err != nil:
			return true, errors.New("the stream was cut off")
		}
		var line exportedLine
		if err := json.Unmarshal(text, &line); err != nil {
			return false, errors.New("the server sent a line that is no record")
		}
		if line.Record == "" {
			return passing(line.Status), errors.New(problemText(line.Status, line.Error))
		}
		if err := sink.write(line, text); err != nil {
			return false, err
		}
	}
}

// passing says whether an answer may be another one in a moment.
func passing(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
}

func (x *exportCmd) report(sink *sink, took time.Duration) error {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(os.Stderr, "%d records in %.2f s (%.0f/s), %d withheld, %.0f MiB of memory; they are in %s\n",
		sink.records, took.Seconds(), float64(sink.records)/took.Seconds(), sink.withheld, float64(m.Sys)/(1<<20), x.Out)
	if sink.withheld > 0 {
		return fmt.Errorf("%d records were withheld: %s says of each why", sink.withheld, x.Out)
	}
	return nil
}

// sink is the file that an export is written to.
type sink struct {
	out      *bufio.Writer
	table    *csv.Writer // nil: NDJSON
	columns  []string
	fields   map[string]fieldInfo
	previous bool
	records  int
	withheld int
	last     string
}

func newSink(f io.Writer, name string, columns []string, fields map[string]fieldInfo, previous bool) (*sink, error) {
	s := &sink{out: bufio.NewWriterSize(f, 1<<16), columns: columns, fields: fields, previous: previous}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".ndjson", ".jsonl":
		return s, nil
	case ".csv":
	default:
		return nil, &configError{[]string{"the file's name ends in neither .csv, .ndjson nor .jsonl"}}
	}
	s.table = csv.NewWriter(s.out)
	head := append([]string{"record", "subject", "expires_at"}, columns...)
	for _, c := range columns {
		head = append(head, "token_"+c)
	}
	if previous {
		for _, c := range columns {
			head = append(head, "previous_tokens_"+c)
		}
	}
	return s, s.table.Write(append(head, "error"))
}

func (s *sink) write(line exportedLine, text []byte) error {
	s.records, s.last = s.records+1, line.Record
	fault := ""
	if line.Error != nil {
		s.withheld++
		fault = faultText(line.Error)
	}
	if s.table == nil {
		_, err := s.out.Write(text)
		return err
	}
	cells := []string{line.Record, line.Subject, line.Expires}
	for _, c := range s.columns {
		cell := string(line.Fields[c])
		switch {
		case cell == "null":
			cell = "" // redacted, as nothing is
		case s.fields[c].Type != "json": // where a text and its JSON would be mixed up
			cell = plainText(line.Fields[c])
		}
		cells = append(cells, cell)
	}
	for _, c := range s.columns {
		cells = append(cells, line.Tokens[c])
	}
	if s.previous {
		for _, c := range s.columns {
			cells = append(cells, strings.Join(line.Previous[c], "\n")) // a token may hold a space, and no control character
		}
	}
	return s.table.Write(append(cells, fault))
}

func (s *sink) flush() error {
	if s.table != nil {
		s.table.Flush()
		if err := s.table.Error(); err != nil {
			return err
		}
	}
	return s.out.Flush()
}
