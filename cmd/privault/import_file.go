package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// source reads an import's records, as many at a time as are asked for.
type source struct {
	collection string
	next       func() (row, error) // io.EOF at the end
	offset     func() int64
	columns    []mapping // in the order of their fields, so that a chunk read again has the same bytes
	tokens     []mapping // likewise
	id         string    // column
	subject    string    // column; empty: none
	expires    string    // column; empty: none
	exported   bool      // by privault export
}

// mapping says which field a column's values go to.
type mapping struct{ column, field, typ string }

// row is one record of the source: an item of the request, or why there is none.
type row struct {
	id    string
	item  []byte // JSON
	fault string // empty: it is sent
}

func newSource(i *importCmd, file *os.File, fields map[string]fieldInfo) (*source, error) {
	s := &source{collection: i.Collection, id: i.ID, subject: i.Subject, expires: i.Expires, exported: i.Exported}
	lines := slices.Contains([]string{".ndjson", ".jsonl"}, strings.ToLower(filepath.Ext(i.File)))
	if i.Exported {
		if len(i.Map)+len(i.Token) > 0 || i.ID+i.Subject+i.Expires != "" {
			return nil, &configError{[]string{"--exported says which columns there are: leave out --map, --token, --id, --subject and --expires"}}
		}
		s.mapExported(lines, fields)
	} else if err := s.mapColumns(i.Map, i.Token, fields); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(file, 1<<16)
	if mark, _ := in.Peek(3); string(mark) == "\ufeff" {
		_, _ = in.Discard(3) // a byte order mark belongs to no column and to no value
	}
	switch {
	case lines && s.id == "":
		return nil, &configError{[]string{"an NDJSON file has no first column: name the member that identifies a record with --id"}}
	case lines:
		s.readNDJSON(in)
	case strings.EqualFold(filepath.Ext(i.File), ".csv"):
		if err := s.readCSV(in, len(i.Map) > 0); err != nil {
			return nil, err
		}
	default:
		return nil, &configError{[]string{"the file's name ends in neither .csv, .ndjson nor .jsonl"}}
	}
	if len(s.columns) == 0 {
		return nil, &configError{[]string{"no column goes to a field: name them with --map COLUMN=FIELD"}}
	}
	return s, nil
}

// mapColumns reads --map and --token; without --map, every field has the column of its name.
func (s *source) mapColumns(pairs, tokens []string, fields map[string]fieldInfo) error {
	var faults []string
	fieldOf, columnOf := map[string]string{}, map[string]string{}
	for _, pair := range pairs {
		column, field, ok := strings.Cut(pair, "=")
		f, known := fields[field]
		switch {
		case !ok || !known:
			faults = append(faults, fmt.Sprintf("--map %s: the collection has no such field", pair))
		case fieldOf[column] != "" || columnOf[field] != "":
			faults = append(faults, fmt.Sprintf("--map %s: a column goes to one field, and a field has one column", pair))
		default:
			fieldOf[column], columnOf[field] = field, column
			s.columns = append(s.columns, mapping{column, field, f.Type})
		}
	}
	had := map[string]bool{}
	for _, pair := range tokens {
		field, column, ok := strings.Cut(pair, "=")
		f, known := fields[field]
		switch {
		case !ok || !known:
			faults = append(faults, fmt.Sprintf("--token %s: the collection has no such field", pair))
		case had[field]:
			faults = append(faults, fmt.Sprintf("--token %s: a field has one column of tokens", pair))
		case !f.takesTokens():
			faults = append(faults, fmt.Sprintf("--token %s: the field takes no tokens from outside: its definition says \"supplied\":\"allowed\" or \"required\" if it does", pair))
		default:
			had[field] = true
			s.tokens = append(s.tokens, mapping{column, field, tokenColumn})
		}
	}
	if len(faults) > 0 {
		return &configError{faults}
	}
	if len(pairs) == 0 {
		for field, f := range fields {
			s.columns = append(s.columns, mapping{field, field, f.Type})
		}
	}
	s.sortColumns()
	return nil
}

// mapExported maps what privault export writes.
func (s *source) mapExported(lines bool, fields map[string]fieldInfo) {
	s.id, s.subject, s.expires = "record", "subject", "expires_at"
	value, token := "", "token_"
	if lines {
		value, token = "fields.", "tokens."
	}
	for field, f := range fields {
		s.columns = append(s.columns, mapping{value + field, field, f.Type})
		if f.takesTokens() {
			s.tokens = append(s.tokens, mapping{token + field, field, tokenColumn})
		}
	}
	s.sortColumns()
}

func (s *source) sortColumns() {
	byField := func(a, b mapping) int { return strings.Compare(a.field, b.field) }
	slices.SortFunc(s.columns, byField)
	slices.SortFunc(s.tokens, byField)
}

// fields are those of the output, in order.
func (s *source) fields() []string {
	out := make([]string, len(s.columns))
	for i, m := range s.columns {
		out[i] = m.field
	}
	return out
}

// readCSV reads RFC 4180 text. An empty cell is no value: CSV can't tell an empty one from none.
func (s *source) readCSV(in *bufio.Reader, mapped bool) error {
	r := csv.NewReader(&quotedCR{r: in})
	r.ReuseRecord, r.FieldsPerRecord = true, -1
	head, err := r.Read()
	if err != nil {
		return fmt.Errorf("read the header: %w", err)
	}
	columns := slices.Clone(head)
	absent := func(m mapping) bool { return !slices.Contains(columns, m.column) }
	if !mapped {
		s.columns = slices.DeleteFunc(s.columns, absent)
	}
	if s.exported {
		s.tokens = slices.DeleteFunc(s.tokens, absent)
	}
	if s.id == "" {
		s.id = columns[0]
	}
	at, err := s.locate(columns)
	if err != nil {
		return err
	}
	s.offset = r.InputOffset
	s.next = func() (row, error) {
		cells, err := r.Read()
		if err != nil {
			return row{}, err
		}
		line, _ := r.FieldPos(0)
		if len(cells) != len(columns) {
			out := row{fault: fmt.Sprintf("line %d: %d cells under a header of %d", line, len(cells), len(columns))}
			if at[s.id] < len(cells) {
				out.id = cells[at[s.id]]
			}
			return out, nil
		}
		return s.row(line, cells[at[s.id]], func(column, typ string) ([]byte, error) { return cellJSON(cells[at[column]], typ) }), nil
	}
	return nil
}

// locate finds where the columns that are used stand.
func (s *source) locate(columns []string) (map[string]int, error) {
	used := []string{s.id}
	for _, column := range []string{s.subject, s.expires} {
		if column != "" {
			used = append(used, column)
		}
	}
	for _, m := range slices.Concat(s.columns, s.tokens) {
		used = append(used, m.column)
	}
	at := map[string]int{}
	var faults []string
	for _, column := range used {
		at[column] = slices.Index(columns, column)
		switch {
		case at[column] < 0:
			faults = append(faults, "the file has no column "+column)
		case slices.Contains(columns[at[column]+1:], column):
			faults = append(faults, "the file has the column "+column+" twice")
		}
	}
	if len(faults) > 0 {
		return nil, &configError{slices.Compact(faults)}
	}
	return at, nil
}

// cellJSON gives a cell as the JSON value that its field takes; nil for an empty one.
func cellJSON(cell, typ string) ([]byte, error) {
	if cell == "" {
		return nil, nil
	}
	switch typ {
	case "number", "boolean", "json":
		if !jsontext.Value(cell).IsValid() {
			return nil, errors.New("not a JSON value, which a field of type " + typ + " takes")
		}
		return []byte(cell), nil
	}
	quoted, err := jsontext.AppendQuote(nil, cell)
	if err != nil {
		return nil, errors.New("not UTF-8 text")
	}
	return quoted, nil
}

func (s *source) readNDJSON(in *bufio.Reader) {
	var read int64
	line := 0
	s.offset = func() int64 { return read }
	s.next = func() (row, error) {
		for {
			text, err := in.ReadBytes('\n')
			read += int64(len(text))
			line++
			if err != nil && (!errors.Is(err, io.EOF) || len(text) == 0) {
				return row{}, err
			}
			if len(bytes.TrimSpace(text)) == 0 {
				continue
			}
			members := object(text)
			if members == nil {
				return row{fault: fmt.Sprintf("line %d: not a well-formed JSON object", line)}, nil
			}
			within := map[string]map[string]json.RawMessage{}
			return s.row(line, plainText(members[s.id]), func(column, _ string) ([]byte, error) {
				if value := member(members, within, column); string(value) != "null" {
					return value, nil
				}
				return nil, nil
			}), nil
		}
	}
}

// member gives what a column names: a member of the object or, as fields.email, one of an object within, which is kept in within.
func member(of map[string]json.RawMessage, within map[string]map[string]json.RawMessage, column string) json.RawMessage {
	value, have := of[column]
	head, rest, nested := strings.Cut(column, ".")
	if have || !nested || of[head] == nil {
		return value
	}
	inner, read := within[head]
	if !read {
		inner = object(of[head])
		within[head] = inner
	}
	return inner[rest]
}

// object reads a JSON object as strictly as the server does: no invalid UTF-8, no member twice. nil: it isn't one.
func object(text []byte) (members map[string]json.RawMessage) {
	if !jsontext.Value(text).IsValid() || json.Unmarshal(text, &members) != nil {
		return nil
	}
	return members
}

// row makes a record's item of what value gives for its columns.
func (s *source) row(line int, id string, value func(column, typ string) ([]byte, error)) row {
	b := []byte{'{'}
	fault := ""
	bad := func(column, why string) {
		if fault == "" {
			fault = fmt.Sprintf("line %d, column %s: %s", line, column, why)
		}
	}
	member := func(name, column, typ string) {
		v, err := value(column, typ)
		if err != nil {
			bad(column, err.Error())
		}
		if v == nil || s.exported && typ == tokenColumn && ownToken(v) {
			return
		}
		if (typ == tokenColumn || typ == textColumn) && v[0] != '"' {
			bad(column, "not a string")
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), `":`...) // a field's name needs no escape
		b = append(b, v...)
	}
	if s.subject != "" {
		member("subject", s.subject, textColumn)
	}
	if s.expires != "" {
		member("expires_at", s.expires, textColumn)
	}
	group := func(name string, of []mapping) {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), `":{`...)
		for _, m := range of {
			member(m.field, m.column, m.typ)
		}
		b = append(b, '}')
	}
	group("fields", s.columns)
	if len(s.tokens) > 0 {
		group("tokens", s.tokens)
	}
	return row{id: id, item: append(b, '}'), fault: fault}
}

// The types of columns that hold no values: whatever stands in them is text.
const (
	textColumn  = "(text)"
	tokenColumn = "(token)"
)

// ownToken says whether a token is one that nobody but the tenant that made it can make.
func ownToken(quoted []byte) bool {
	return bytes.HasPrefix(quoted, []byte(`"pvtk`)) || bytes.HasPrefix(quoted, []byte(`"pvdt`))
}

// chunkBytes is where a chunk of large records ends before it is full: the server takes 8 MiB.
const chunkBytes = 4 << 20

// chunk reads up to n records and makes their request; nil at the end.
func (s *source) chunk(n int) (*chunk, error) {
	name, err := json.Marshal(s.collection)
	if err != nil {
		return nil, err
	}
	c := &chunk{body: fmt.Appendf(nil, `{"collection":%s,"items":[`, name)}
	for len(c.rows) < n && len(c.body) < chunkBytes {
		r, err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if r.fault == "" {
			if c.sent > 0 {
				c.body = append(c.body, ',')
			}
			c.body = append(c.body, r.item...)
			c.sent++
		}
		r.item = nil
		c.rows = append(c.rows, r)
	}
	if len(c.rows) == 0 {
		return nil, nil
	}
	c.body, c.read = append(c.body, `]}`...), s.offset()
	return c, nil
}

// plainText is a JSON string's text, or any other value as it stands.
func plainText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// quotedCR keeps a line break inside quotes as it is. There it is part of the value, but encoding/csv makes \n of \r\n:
// it drops one \r, so it is given two.
type quotedCR struct {
	r              *bufio.Reader
	quoted, double bool
}

func (q *quotedCR) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if q.double {
			p[n], q.double = '\r', false
			n++
			continue
		}
		if n > 0 && q.r.Buffered() == 0 {
			return n, nil
		}
		c, err := q.r.ReadByte()
		if err != nil {
			return n, err
		}
		switch c {
		case '"':
			q.quoted = !q.quoted
		case '\r':
			next, _ := q.r.Peek(1)
			q.double = q.quoted && string(next) == "\n"
		}
		p[n] = c
		n++
	}
	return n, nil
}

// output is the CSV file of ids and tokens.
type output struct {
	*os.File
	w      *csv.Writer
	fields []string
}

// openOutput goes on behind offset; whatever stands there was not noted as done.
func openOutput(path string, offset int64, fields []string) (*output, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.Size() < offset {
		return nil, errors.Join(err, f.Close(), fmt.Errorf("%s is shorter than was noted: it was changed; say --restart to start anew", path))
	}
	if err := errors.Join(f.Truncate(offset), seek(f, offset)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o := &output{File: f, w: csv.NewWriter(f), fields: fields}
	if offset == 0 {
		head := []string{"id", "record"}
		for _, field := range fields {
			head = append(head, "token_"+field)
		}
		err = o.w.Write(append(head, "error"))
	}
	return o, err
}

func seek(f *os.File, offset int64) error {
	_, err := f.Seek(offset, io.SeekStart)
	return err
}

// write adds a chunk's rows and gives how many were refused.
func (o *output) write(c *chunk) (refused int, err error) {
	items := c.items
	for _, r := range c.rows {
		item, fault := importedItem{}, r.fault
		if fault == "" {
			item, items = items[0], items[1:]
		}
		if item.Error != nil {
			fault = faultText(item.Error)
		}
		if fault != "" {
			refused++
		}
		cells := []string{r.id, item.Record}
		for _, field := range o.fields {
			cells = append(cells, item.Tokens[field])
		}
		if err := o.w.Write(append(cells, fault)); err != nil {
			return refused, err
		}
	}
	return refused, nil
}

// faultText says what was wrong with a record: which field broke which rule.
func faultText(raw []byte) string {
	var p struct {
		Title  string `json:"title"`
		Errors []struct {
			Pointer string `json:"pointer"`
			Rule    string `json:"rule"`
		} `json:"errors"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return "refused"
	}
	parts := []string{p.Title}
	for _, e := range p.Errors {
		parts = append(parts, e.Pointer+" "+e.Rule)
	}
	return strings.Join(parts, "; ")
}

// sync makes everything written durable and gives the file's length.
func (o *output) sync() (int64, error) {
	o.w.Flush()
	if err := errors.Join(o.w.Error(), o.Sync()); err != nil {
		return 0, err
	}
	return o.Seek(0, io.SeekCurrent)
}
