package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// The benchmark runs through, and says in JSON what its table says.
func TestBench(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "figures.json")
	done := run1(t, nil, "bench", "--clients", "1,4", "--time", "1s", "--rounds", "1", "--batch", "100", "--json", file).want(t, 0)
	var rows []benchRow
	if err := json.Unmarshal([]byte(read(t, file)), &rows); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		work    string
		clients int
	}{
		{"tokenize", 1}, {"detokenize", 1}, {"tokenize", 4}, {"detokenize", 4},
		{"tokenize, batch of 100", 4}, {"detokenize, batch of 100", 4},
	}
	if len(rows) != len(want) {
		t.Fatalf("%d rows: %+v", len(rows), rows)
	}
	for i, r := range rows {
		if r.Work != want[i].work || r.Clients != want[i].clients || !strings.Contains(done.out, r.Work) {
			t.Errorf("row %d is of %s with %d clients", i, r.Work, r.Clients)
		}
		if r.PerSecond <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Reference <= 0 || r.Ratio <= 0 {
			t.Errorf("a figure is missing in %+v", r)
		}
	}
	if done.err != "" {
		t.Error("it complained: ", done.err)
	}
}
