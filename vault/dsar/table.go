package dsar

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"strings"
	"time"
)

// Table writes the records of one collection as CSV (RFC 4180, UTF-8, lines end with a line feed). A cell that a spreadsheet
// might take for a formula has an apostrophe in front; data.json has every value as it is.
func (w *Writer) Table(c Collection, records Records) error {
	return w.archive.file("csv/"+c.Name+".csv", func(out *bufio.Writer) error {
		table := csv.NewWriter(out)
		row := []string{"record", "created_at", "updated_at", "expires_at"}
		held := false
		for _, f := range c.Fields {
			held = held || f.Held != ""
			row = append(row, f.Name)
		}
		if held {
			row = append(row, "held")
		}
		if err := table.Write(row); err != nil {
			return err
		}
		err := records(func(r *Record) error {
			row = append(row[:0], r.ID, stamp(&r.Created), stamp(&r.Updated), stamp(r.Expires))
			for _, f := range c.Fields {
				row = append(row, cell(f.Type, r.Values[f.Name]))
			}
			if held {
				row = append(row, strings.Join(r.Held, " "))
			}
			return table.Write(row)
		})
		if err != nil {
			return err
		}
		table.Flush()
		return table.Error()
	})
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// formulaStarts are what a spreadsheet takes for the beginning of a formula (OWASP, CSV injection), wide forms too.
const formulaStarts = "=+-@\t\r\n＝＋－＠"

// cell is a value as it stands in a table. A number is never a formula, and stays one.
func cell(typ string, value json.RawMessage) string {
	text := plainText(typ, value)
	first := strings.TrimLeft(text, " ") // which a spreadsheet overlooks
	if first != "" && typ != "number" && strings.ContainsRune(formulaStarts, []rune(first)[0]) {
		return "'" + text
	}
	return text
}

// plainText is a JSON string's text, and else the JSON itself: so of the type json, where the two would be mixed up.
func plainText(typ string, value json.RawMessage) string {
	var text string
	if typ == "json" || json.Unmarshal(value, &text) != nil {
		return string(value)
	}
	return text
}
