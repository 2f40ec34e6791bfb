package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source reads an import's records, as many at a time as are asked for.
type source struct {
	collection string
	next       func() (map[string]json.RawMessage, error) // one record by column; io.EOF at the end
	offset     func() int64
	fields     []string          // of the output, in order
	fieldOf    map[string]string // by column
	id         string            // column
	subject    string            // column; empty: none
}

func newSource(i *importCmd, file *os.File, types map[string]string) (*source, error) {
	s := &source{collection: i.Collection, id: i.ID, subject: i.Subject, fieldOf: map[string]string{}}
	mapped, err := columnMap(i.Map, types)
	if err != nil {
		return nil, err
	}
	var columns []string // nil: not known beforehand
	switch ext := strings.ToLower(filepath.Ext(i.File)); ext {
	case ".csv":
		if columns, err = s.readCSV(file, mapped, types); err != nil {
			return nil, err
		}
	case ".ndjson", ".jsonl":
		s.readNDJSON(file)
	default:
		return nil, &configError{[]string{"the file's name ends in neither .csv, .ndjson nor .jsonl"}}
	}
	if s.id == "" && columns != nil {
		s.id = columns[0]
	}
	if s.id == "" {
		return nil, &configError{[]string{"an NDJSON file has no first column: name the member that identifies a record with --id"}}
	}
	for _, column := range append([]string{s.id, s.subject}, keys(mapped)...) {
		if columns != nil && column != "" && !slices.Contains(columns, column) && (len(i.Map) > 0 || column == s.id || column == s.subject) {
			return nil, &configError{[]string{"the file has no column " + column}}
		}
	}
	for column, field := range mapped {
		if columns == nil || slices.Contains(columns, column) {
			s.fieldOf[column] = field
			s.fields = append(s.fields, field)
		}
	}
	if len(s.fields) == 0 {
		return nil, &configError{[]string{"no column goes to a field: name them with --map COLUMN=FIELD"}}
	}
	slices.Sort(s.fields)
	return s, nil
}

// columnMap reads --map; without it, every field is its own column.
func columnMap(pairs []string, types map[string]string) (map[string]string, error) {
	mapped := map[string]string{}
	var faults []string
	for _, pair := range pairs {
		column, field, ok := strings.Cut(pair, "=")
		if _, known := types[field]; !ok || !known {
			faults = append(faults, fmt.Sprintf("--map %s: the collection has no such field", pair))
			continue
		}
		mapped[column] = field
	}
	if len(pairs) == 0 {
		for field := range types {
			mapped[field] = field
		}
	}
	if len(faults) > 0 {
		return nil, &configError{faults}
	}
	return mapped, nil
}

func keys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for key := range m {
		out = append(out, key)
	}
	return out
}

// readCSV reads RFC 4180 text. An empty cell is no value: CSV can't tell an empty one from none.
func (s *source) readCSV(file *os.File, fieldOf, types map[string]string) ([]string, error) {
	r := csv.NewReader(bufio.NewReaderSize(file, 1<<16))
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	columns := slices.Clone(head)
	columns[0] = strings.TrimPrefix(columns[0], "\ufeff") // a byte order mark is not part of the name
	s.offset = r.InputOffset
	s.next = func() (map[string]json.RawMessage, error) {
		cells, err := r.Read()
		if err != nil {
			return nil, err
		}
		record := make(map[string]json.RawMessage, len(cells))
		for at, cell := range cells {
			if cell == "" {
				continue
			}
			switch types[fieldOf[columns[at]]] {
			case "number", "boolean", "json":
				record[columns[at]] = json.RawMessage(cell)
			default:
				quoted, err := json.Marshal(cell)
				if err != nil {
					return nil, err
				}
				record[columns[at]] = quoted
			}
		}
		return record, nil
	}
	return columns, nil
}

func (s *source) readNDJSON(file *os.File) {
	r := bufio.NewReaderSize(file, 1<<16)
	var read int64
	s.offset = func() int64 { return read }
	s.next = func() (map[string]json.RawMessage, error) {
		for {
			line, err := r.ReadBytes('\n')
			read += int64(len(line))
			if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
				return nil, err
			}
			if len(strings.TrimSpace(string(line))) == 0 {
				continue
			}
			var record map[string]json.RawMessage
			if json.Unmarshal(line, &record) != nil {
				return nil, fmt.Errorf("a line that ends at byte %d is not a JSON object", read)
			}
			return record, nil
		}
	}
}

// chunk reads up to n records and makes their request; nil at the end.
func (s *source) chunk(n int) (*chunk, error) {
	c := &chunk{}
	type item struct {
		Subject json.RawMessage            `json:"subject,omitempty"`
		Fields  map[string]json.RawMessage `json:"fields"`
	}
	request := struct {
		Collection string `json:"collection"`
		Items      []item `json:"items"`
	}{Collection: s.collection}
	for len(request.Items) < n {
		record, err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		it := item{Fields: map[string]json.RawMessage{}}
		for column, field := range s.fieldOf {
			if value, have := record[column]; have && string(value) != "null" {
				it.Fields[field] = value
			}
		}
		if s.subject != "" {
			it.Subject = record[s.subject]
		}
		request.Items = append(request.Items, it)
		c.ids = append(c.ids, plainText(record[s.id]))
	}
	if len(request.Items) == 0 {
		return nil, nil
	}
	c.read = s.offset()
	var err error
	c.body, err = json.Marshal(request)
	return c, err
}

// plainText is a JSON string's text, or any other value as it stands.
func plainText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
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
	for at, item := range c.items {
		row := []string{c.ids[at], item.Record}
		for _, field := range o.fields {
			row = append(row, item.Tokens[field])
		}
		fault := ""
		if item.Error != nil {
			refused++
			fault = faultText(item.Error)
		}
		if err := o.w.Write(append(row, fault)); err != nil {
			return refused, err
		}
	}
	return refused, nil
}

// faultText says what was wrong with a record: which field broke which rule.
func faultText(raw json.RawMessage) string {
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
