package api_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/api"
	"github.com/privault/privault/api/limit"
	"github.com/privault/privault/vault/vaulttest"
)

// BenchmarkGuards is what authentication and limits cost of a tokenize over HTTP at 64 clients: compare its two lines.
// Policy is in both.
func BenchmarkGuards(b *testing.B) {
	v := vaulttest.New(b)
	key := v.Key()
	who, err := v.Authenticate(b.Context(), key)
	if err != nil {
		b.Fatal(err)
	}
	v.Collection(who, "people", map[string]string{"name": "name"})
	s, err := api.New(api.Config{Vault: v.Vault, Log: v.Log.Logger(), Metrics: prometheus.NewRegistry(), Limits: limit.New(generous(), nil)})
	if err != nil {
		b.Fatal(err)
	}
	for _, round := range []struct {
		name    string
		handler http.Handler
	}{{"without", s.Unguarded(who)}, {"with", s.Public()}, {"without", s.Unguarded(who)}, {"with", s.Public()}, {"without", s.Unguarded(who)}, {"with", s.Public()}} {
		b.Run(round.name, func(b *testing.B) { load(b, round.handler, key) })
	}
}

// BenchmarkGuardsAlone is the same on a call that does nothing, in one goroutine and without a network: what the guards cost.
func BenchmarkGuardsAlone(b *testing.B) {
	v := vaulttest.New(b)
	key := v.Key()
	who, err := v.Authenticate(b.Context(), key)
	if err != nil {
		b.Fatal(err)
	}
	s, err := api.New(api.Config{Vault: v.Vault, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Limits: limit.New(generous(), nil)})
	if err != nil {
		b.Fatal(err)
	}
	for name, handler := range map[string]http.Handler{"without": s.Unguarded(who), "with": s.Public()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/nothing", nil)
				r.Header.Set("Authorization", "Bearer "+key)
				handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}

// generous are the default limits, so high that nothing is slowed down.
func generous() limit.Config {
	c := limit.Defaults()
	fast := limit.Rate{PerSecond: 1e6, Burst: 1e6}
	c.Principal, c.Key, c.Tenant, c.Address = fast, fast, fast, fast
	c.Quotas.Principal = limit.Quota{Day: 1e12, Month: 1e12}
	return c
}

func load(b *testing.B, handler http.Handler, key string) {
	b.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	b.SetParallelism(32) // of two processors: 64 clients
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL+"/v1/tokenize", strings.NewReader(batch("people", `{"name":"Jane Roe"}`)))
			if err != nil {
				b.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+key)
			r.Header.Set("Content-Type", "application/json")
			res, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				b.Error("status ", res.StatusCode)
				return
			}
		}
	})
}
