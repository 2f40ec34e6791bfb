package deadline_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/privault/privault/vault/deadline"
)

func TestPeriods(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, c := range []struct{ period, from, to string }{
		{"P3Y", "2023-11-26T10:00:00Z", "2026-11-26T10:00:00Z"},
		{"P1Y", "2024-02-29T23:59:59Z", "2025-02-28T23:59:59Z"},
		{"P1M", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"},
		{"P13M", "2026-01-31T00:00:00Z", "2027-02-28T00:00:00Z"},
		{"P1Y1M", "2026-01-31T00:00:00Z", "2027-02-28T00:00:00Z"},
		{"P90D", "2026-01-01T12:00:00Z", "2026-04-01T12:00:00Z"},
		{"P2W", "2026-12-25T00:00:00Z", "2027-01-08T00:00:00Z"},
		{"PT36H", "2026-12-31T23:00:00Z", "2027-01-02T11:00:00Z"},
		{"P1M1DT1S", "2026-01-31T00:00:00Z", "2026-03-01T00:00:01Z"},
		{"P1D", "2026-03-29T01:30:00+01:00", "2026-03-30T00:30:00Z"}, // no zone's clocks count
	} {
		p, err := deadline.ParsePeriod(c.period)
		if err != nil {
			t.Fatal(c.period, err)
		}
		if got := p.After(at(c.from)); !got.Equal(at(c.to)) || p.String() != c.period {
			t.Errorf("%s after %s is %s, want %s", p, c.from, got, c.to)
		}
	}
	for _, text := range []string{"", "P", "PT", "0d", "-1d", "P0D", "PT0S", "-P1D", "P-1D", "P1000Y", "P101Y", "1e9", "30 days", "P1.5Y", "P1YT", "p3y", "P3Y ", "P1D1Y", "P99999999Y"} {
		if p, err := deadline.ParsePeriod(text); err == nil {
			t.Errorf("%q is a period: %v", text, p)
		}
	}
}

// What is before the cut-off is past its period, and nothing is past it that isn't.
func TestACutOffNeverComesEarly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"P1M", "P3Y", "P1Y6M", "P90D", "P2W", "P1M1D", "PT5H", "P1Y1M1DT1H1M1S"}).Draw(t, "period")
		p, err := deadline.ParsePeriod(text)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0)
		if due := p.After(p.Before(now)); due.After(now) {
			t.Errorf("what began at the cut-off %s is due at %s only, after %s", p.Before(now), due, now)
		}
		a, b := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "a"), 0), time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "b"), 0)
		if a.Before(b) && p.After(a).After(p.After(b)) {
			t.Errorf("%s is due after %s", a, b)
		}
	})
}
