package api_test

import (
	"fmt"
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

// BenchmarkGuards is what authentication, policy and limits cost of a tokenize over HTTP at 64 clients: compare its two
// lines. With: an API key, the default limits with quotas, and fifty policies of the tenant's own, of which thirty are about
// tokenizing. Without: none of them, but for the built-in roles.
func BenchmarkGuards(b *testing.B) {
	v := vaulttest.New(b)
	key, bare := v.Key(), v.Tenant()
	who, err := v.Authenticate(b.Context(), key)
	if err != nil {
		b.Fatal(err)
	}
	v.Collection(bare, "people", map[string]string{"name": "name"})
	v.Collection(who, "people", map[string]string{"name": "name"})
	if _, _, err := v.PutPolicy(b.Context(), who, "fifty", fifty(), 0); err != nil {
		b.Fatal(err)
	}
	s, err := api.New(api.Config{Vault: v.Vault, Log: v.Log.Logger(), Metrics: prometheus.NewRegistry(), Limits: limit.New(generous(), nil)})
	if err != nil {
		b.Fatal(err)
	}
	for _, round := range []struct {
		name    string
		handler http.Handler
	}{{"without", s.Unguarded(bare)}, {"with", s.Public()}, {"without", s.Unguarded(bare)}, {"with", s.Public()}, {"without", s.Unguarded(bare)}, {"with", s.Public()}} {
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

// fifty policies as a large tenant might have them, none of which refuses the benchmark's calls.
func fifty() string {
	var text strings.Builder
	for i := range 50 {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&text, "permit (principal in Role::\"team%d\", action in Action::\"reveal\", resource) when { context.purpose == \"p%d\" };\n", i%10, i)
		case 1:
			fmt.Fprintf(&text, "forbid (principal, action == Action::\"tokenize\", resource) when { resource.classification == \"restricted\" && context.purpose == \"p%d\" };\n", i)
		case 2:
			fmt.Fprintf(&text, "permit (principal in Role::\"team%d\", action == Action::\"tokenize\", resource);\n", i%10)
		case 3:
			fmt.Fprintf(&text, "forbid (principal, action == Action::\"tokenize\", resource) unless { context.network.isInRange(ip(\"127.0.0.0/8\")) };\n")
		case 4:
			fmt.Fprintf(&text, "permit (principal, action == Action::\"record.read\", resource == Field::\"people/f%d\") when { context.mtls };\n", i)
		}
	}
	return text.String()
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
