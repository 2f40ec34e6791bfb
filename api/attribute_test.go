package api_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/privault/privault/api"
)

// E-4, E-5: a condition holds by what the server knows, and not by what a caller says; what isn't known denies.
func TestConditionsHoldByWhatIsKnown(t *testing.T) {
	t.Parallel()
	s := serveWith(t, func(c *api.Config) { c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	admin := s.tenant()
	admin.collection(t, "people", "name", "name")
	token := admin.tokenize(t, "people", `{"name":"Jane Roe"}`)[0].Tokens["name"]
	admin.send(t, "PUT", "/v1/policies/office", policyText(t, `
		permit (principal in Role::"inside", action == Action::"detokenize", resource) when { context.network.isInRange(ip("10.0.0.0/8")) };
		permit (principal in Role::"managed", action == Action::"detokenize", resource)
			when { principal.hasTag("device_posture") && principal.getTag("device_posture").contains("ok") };
		permit (principal in Role::"bound", action == Action::"detokenize", resource) when { context.mtls || context.dpop };
		permit (principal in Role::"day", action == Action::"detokenize", resource)
			when { context.time.toTime() >= duration("1h") && context.time.toTime() < duration("2h") };`)).want(t, 201)
	ask := func(c client, headers ...string) answer {
		t.Helper()
		return c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`"}]}`, headers...)
	}
	inside := admin.colleague(t, "inside")
	for from, allowed := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "203.0.113.7, 10.1.2.3": true,
		"": false, "203.0.113.7": false, "10.1.2.3, 203.0.113.7": false, "10.1.2.3, nonsense": false, "2001:db8::1": false, "11.0.0.1": false} {
		var headers []string
		if from != "" {
			headers = []string{"X-Forwarded-For: " + from}
		}
		if a := ask(inside, headers...); (a.status == 200) != allowed || !allowed && a.status != 403 {
			t.Errorf("from %q: %d", from, a.status)
		}
	}
	// Nobody vouches for what a header says.
	for role, headers := range map[string][]string{
		"managed": {"X-Device-Posture: ok", "Device-Posture: ok", "X-Attributes: device_posture=ok"},
		"bound":   {"X-Client-Cert: x", "X-Forwarded-Client-Cert: Hash=x", "X-SSL-Client-Verify: SUCCESS", "DPoP: x"},
	} {
		c := admin.colleague(t, role)
		for _, header := range append(headers, "X-Request-Id: one") {
			ask(c, header).want(t, 403)
		}
	}
	// The hour is UTC's, also where clocks go back at 01:00 UTC and show 01:30 twice.
	day := admin.colleague(t, "day")
	for at, allowed := range map[string]bool{
		"2026-10-25T00:30:00Z": false, "2026-10-25T01:30:00+01:00": false, "2026-10-25T01:30:00Z": true, "2026-10-25T02:30:00+01:00": true,
		"2026-10-25T00:59:59.999Z": false, "2026-10-25T01:00:00Z": true, "2026-10-25T02:00:00Z": false,
	} {
		a := admin.send(t, "POST", "/v1/policies/explain", `{"roles":["day"],"action":"detokenize","collection":"people","field":"name","time":"`+at+`"}`).want(t, 200)
		if strings.Contains(string(a.body), `"allowed":true`) != allowed {
			t.Errorf("at %s: %s", at, a.body)
		}
	}
	now := s.Now().UTC()
	for _, hour := range []int{0, 1, 2} { // by the server's own clock
		next := time.Date(now.Year(), now.Month(), now.Day()+1, hour, 30, 0, 0, time.UTC)
		s.Advance(next.Sub(s.Now()))
		want := 403
		if hour == 1 {
			want = 200
		}
		ask(day).want(t, want)
	}
	// An hour that a caller asks for is none.
	ask(day, "Date: Sun, 25 Oct 2026 01:30:00 GMT").want(t, 403)
}
