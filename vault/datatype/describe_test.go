package datatype

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The table in docs/types.md, and the list in the README, are what the types are.
func TestTheDocumentsListTheTypes(t *testing.T) {
	var table strings.Builder
	table.WriteString("| type | takes | examples, and how they are masked | indexes | masks of one's own |\n|---|---|---|---|---|\n")
	for _, d := range Describe() {
		var examples []string
		for _, e := range d.Examples {
			examples = append(examples, fmt.Sprintf("`%s` → `%s`", e.Value, e.Masked))
		}
		cells := []string{"`" + d.Name + "`", d.About, strings.Join(examples, "<br>"), strings.Join(d.Indexes, ", "), d.Masks.String()}
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		table.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	for path, part := range map[string]string{
		"../../docs/types.md": table.String(),
		"../../README.md":     strings.Join(Names(), ", ") + ", and custom patterns",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), strings.Join(strings.Fields(part), " ")) {
			t.Errorf("%s does not hold:\n%s", path, part)
		}
	}
}

// Every type has examples, and all of them are values.
func TestExamplesAreValues(t *testing.T) {
	for i, d := range Describe() {
		if d.Name == CustomName {
			continue
		}
		typ := lookup(t, d.Name)
		if want := len(typ.spec().examples); len(d.Examples) != want || want == 0 || d.About == "" {
			t.Errorf("%d: %s has %d examples that are values, of %d", i, d.Name, len(d.Examples), want)
		}
		for _, e := range d.Examples {
			if strings.Contains(string(e.Value), e.Masked) {
				t.Errorf("%s: %s is masked as %s", d.Name, e.Value, e.Masked)
			}
		}
	}
}
