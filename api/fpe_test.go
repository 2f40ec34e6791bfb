package api_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/api"
	"github.com/privault/privault/vault/vaulttest"
)

// BenchmarkFPEBatches is 1,000 values a call over HTTP: encoded by a transform, which stores nothing, and stored in a collection
// under FPE tokens, new values and ones that are there.
func BenchmarkFPEBatches(b *testing.B) {
	v := vaulttest.New(b)
	key := v.Key()
	s, err := api.New(api.Config{Vault: v.Vault, Log: v.Log.Logger(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(s.Public())
	defer server.Close()
	send := func(method, path, body string) {
		b.Helper()
		r, err := http.NewRequestWithContext(b.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		defer answer.Body.Close()
		if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode > 201 {
			b.Fatal(answer.StatusCode, string(text[:min(len(text), 300)]), err, v.Log.String())
		}
	}
	send("PUT", "/v1/transforms/numbers", `{"alphabet":"digits","min_length":16,"max_length":16}`)
	send("PUT", "/v1/collections/numbers", `{"fields":{"number":{"type":"string","token":{"strategy":"fpe","alphabet":"digits","min_length":16,"max_length":16}}}}`)
	values := func(item string, first int) string {
		var text strings.Builder
		for n := range 1000 {
			if n > 0 {
				text.WriteByte(',')
			}
			fmt.Fprintf(&text, item, 4e15+float64(first+n))
		}
		return text.String()
	}
	encode := `{"items":[` + values(`{"value":"%.0f"}`, 0) + `]}`
	store := func(first int) string {
		return `{"collection":"numbers","items":[` + values(`{"fields":{"number":"%.0f"}}`, first) + `]}`
	}
	known, next := store(0), 0
	for name, call := range map[string]func(){
		"encode":      func() { send("POST", "/v1/transforms/numbers/encode", encode) },
		"store known": func() { send("POST", "/v1/tokenize", known) },
		"store new": func() {
			next += 1000
			send("POST", "/v1/tokenize", store(next))
		},
	} {
		b.Run(name, func(b *testing.B) {
			call() // warm
			for b.Loop() {
				call()
			}
		})
	}
}
