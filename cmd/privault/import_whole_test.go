package main

import (
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Ten thousand people as they really come, whole: every cell is read back and compared, byte for byte.
func TestImportWhole(t *testing.T) {
	t.Parallel()
	file, published := people(t)
	table := readCSV(t, file)
	head, rows := table[0], table[1:]
	types := map[string]string{}
	for _, column := range head {
		types[column] = "string"
	}
	i := newImporter(t, "persons", types)
	done := i.run(t, file, "--collection", "persons", "--id", "rec_id", "--out", "out.csv").want(t, 0)
	t.Logf("published file: %t; %s", published, done.err)

	out := i.outcomes(t, "out.csv")
	if len(out) != len(rows) || len(rows) < 10000 || i.records(t) != len(rows) {
		t.Fatalf("%d rows, %d lines of output, %d records", len(rows), len(out), i.records(t))
	}
	values := i.values(t, out)
	blank, wrong := 0, 0
	for row, cells := range rows {
		want := map[string]string{}
		for at, cell := range cells {
			if cell == "" {
				blank++
				continue
			}
			want[head[at]] = cell
		}
		if diff := cmp.Diff(want, values[row]); diff != "" || out[row].id != want["rec_id"] || out[row].fault != "" {
			if wrong++; wrong < 5 {
				t.Errorf("row %d, record %q: %s\n%s", row+1, out[row].id, out[row].fault, diff)
			}
		}
		if row%500 == 0 { // some as a whole, too: a blank cell is no field
			held := map[string]string{}
			for field, value := range i.fields(t, "persons", out[row].record) {
				held[field], _ = value.(string)
			}
			if diff := cmp.Diff(want, held); diff != "" {
				t.Errorf("row %d as a record:\n%s", row+1, diff)
			}
		}
	}
	if wrong > 0 || blank == 0 {
		t.Errorf("%d rows are not what they were; %d blank cells", wrong, blank)
	}
	t.Logf("%d rows, %d cells, %d of them blank", len(rows), len(rows)*len(head), blank)
}

// people is a file of 10,000 people: the published one if it is at hand, or else one with the same kinds of dirt.
func people(t testing.TB) (path string, published bool) {
	t.Helper()
	if data := os.Getenv("PRIVAULT_DATA"); data != "" {
		path = filepath.Join(data, "febrl", "persons_10000.csv")
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		return path, true
	}
	path = filepath.Join(t.TempDir(), "persons.csv")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := csv.NewWriter(f)
	rows := [][]string{{"rec_id", "given_name", "surname", "address", "postcode", "date_of_birth", "phone_number", "soc_sec_id"}}
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for n := range 10000 {
		rows = append(rows, []string{
			fmt.Sprint(n),
			pick("jack", "Zoë", "mary-ann", "", "o'brien", "ÅSE", "e\u0301lise", "  kim", "李雷"),
			pick("hemsworxth", "de la \"cruz\"", "", "smith ", "van der berg", "NULL", "-", "\u00a0x"),
			pick("12, long street", "unit 7,\n9 short street", "", "\"the barn\"", "mt. isa\trd"),
			fmt.Sprintf("%04d", random.IntN(10000)),
			pick("19780301", "", "1978-3-1", "00000000"),
			fmt.Sprintf("%02d %08d", random.IntN(10), random.IntN(1e8)),
			pick("", fmt.Sprintf("%07d", random.IntN(1e7))),
		})
	}
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path, false
}

// However large the rows are: a request stays within what the server takes, whatever --chunk says.
func TestImportWideRows(t *testing.T) {
	t.Parallel()
	i := newImporter(t, "people", map[string]string{"note": "text"})
	var text strings.Builder
	text.WriteString("id,note\n")
	for n := range 200 {
		fmt.Fprintf(&text, "%d,%s\n", n, strings.Repeat(fmt.Sprint(n%10), 50_000))
	}
	write(t, i.path("people.csv"), text.String())
	i.run(t, "people.csv", "--collection", "people").want(t, 0)
	if n := i.records(t); n != 200 {
		t.Errorf("%d records", n)
	}
}
