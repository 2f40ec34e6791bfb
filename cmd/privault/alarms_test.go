package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// A running server notices for itself.
func TestAServerNoticesASprayer(t *testing.T) {
	t.Parallel()
	d := startDev(t, filepath.Join(t.TempDir(), "vault"), "--no-sample")
	c := d.caller()
	items := make([]map[string]string, 600)
	for i := range items {
		items[i] = map[string]string{"token": fmt.Sprintf("pvtk_%d", i)}
	}
	c.want(t, http.StatusNotFound, http.MethodPost, "/v1/detokenize", map[string]any{"items": items}, nil)
	eventually(t, "there is an alarm", func() bool {
		var page struct{ Items []struct{ Kind string } }
		c.want(t, http.StatusOK, http.MethodGet, "/v1/alarms", nil, &page)
		return len(page.Items) == 1 && page.Items[0].Kind == "token-spray"
	})
	_, metrics, err := caller{url: d.OpsURL}.send(t.Context(), http.MethodGet, "/metrics", nil)
	if err != nil || !strings.Contains(string(metrics), `privault_alarms_total{kind="token-spray",response="alert"} 1`) {
		t.Error("no metric says so")
	}
}

func TestAlarmSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, says := range map[string]string{
		`{"rules":{"token-spray":{"floor":100,"response":"suspend","for":"1h"}},"allow":["10.0.0.0/8"]}`: "",
		`{"rules":{"nothing":{}}}`:                              "there is no alarm",
		`{"rules":{"denials":{"response":"block","for":"2h"}}}`: "at most 24h, of block 1h",
		`{"rules":{"denials":{"answer":"block"}}}`:              "--alarms",
		`{"allow":["10.0.0.0"]}`:                                "--alarms",
		`{`:                                                     "--alarms",
	} {
		file := filepath.Join(dir, "alarms.json")
		write(t, file, text)
		var faults []string
		Alarms{file}.check(func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
		if got := strings.Join(faults, "\n"); says == "" && got != "" || !strings.Contains(got, says) {
			t.Errorf("%s: %q", text, got)
		}
	}
}
