package api_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/api"
	"github.com/privault/privault/api/limit"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func mustURL(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return u
}

// issue gives a principal of the client's tenant another key.
func (c client) issue(t *testing.T, principal, terms string) (id string, with client) {
	t.Helper()
	var key struct{ ID, Key string }
	c.send(t, "POST", "/v1/principals/"+principal+"/keys", terms).want(t, 201).read(t, &key)
	return key.ID, client{service: c.service, key: key.Key}
}

func (c client) principal(t *testing.T, name string, roles ...string) string {
	t.Helper()
	var p struct{ ID string }
	c.send(t, "POST", "/v1/principals", text(t, map[string]any{"name": name, "roles": roles})).want(t, 201).read(t, &p)
	return p.ID
}

// A key with networks is good from there only, and what X-Forwarded-For says counts only behind a proxy that is trusted.
func TestAKeyIsGoodFromItsNetworks(t *testing.T) {
	t.Parallel()
	behind := serveWith(t, func(c *api.Config) { c.Proxies = prefixes("127.0.0.0/8", "10.0.0.0/8") })
	owner := behind.tenant()
	id, key := owner.issue(t, owner.principal(t, "billing", "backend-writer"), `{"networks":["192.0.2.0/24","2001:db8::/48"]}`)
	list := func(c client, forwarded ...string) answer {
		if len(forwarded) > 0 {
			return c.send(t, "GET", "/v1/collections", "", "X-Forwarded-For: "+strings.Join(forwarded, ", "))
		}
		return c.send(t, "GET", "/v1/collections", "")
	}
	for _, row := range []struct {
		from []string
		good bool
	}{
		{[]string{"192.0.2.7"}, true}, {[]string{"::ffff:192.0.2.7"}, true}, {[]string{"2001:db8::1"}, true}, {[]string{"192.0.2.7", "10.1.2.3"}, true}, {[]string{"198.51.100.1", "192.0.2.7"}, true},
		{nil, false}, {[]string{"198.51.100.1"}, false}, {[]string{"192.0.2.7", "198.51.100.1"}, false}, {[]string{"192.0.2.7", "198.51.100.1", "10.1.2.3"}, false},
		{[]string{"192.0.2.7", "nonsense"}, false}, {[]string{"192.0.2.7:80"}, false}, {[]string{"10.0.0.1"}, false}, {[]string{"192.0.2.7", ""}, false},
	} {
		if a := list(key, row.from...); row.good {
			a.want(t, 200)
		} else {
			a.refused(t, 401, "unauthenticated")
		}
	}
	if got := behind.Count(`select count(*) from privault.audit_entries where action = 'key.use' and outcome = 'failed'
		and body::jsonb->>'credential' = $1 and body::jsonb->>'rule' = 'key-networks' and body::jsonb->>'network' is not null`, id); got != 8 {
		t.Errorf("%d entries say that the key was used from elsewhere, want 8", got)
	}
	// The same without a trusted proxy: the header says nothing.
	direct := serve(t)
	owner = direct.tenant()
	_, key = owner.issue(t, owner.principal(t, "billing", "backend-writer"), `{"networks":["192.0.2.0/24"]}`)
	list(key, "192.0.2.7").refused(t, 401, "unauthenticated")
	_, key = owner.issue(t, owner.principal(t, "shop", "backend-writer"), `{"networks":["127.0.0.0/8","::1/128"]}`)
	list(key, "198.51.100.1").want(t, 200)
	for _, networks := range []string{`["192.0.2.7"]`, `["192.0.2.7/24"]`, `["x"]`, `[5]`, `[null]`, `"192.0.2.0/24"`, `["::ffff:192.0.2.0/120"]`} {
		owner.send(t, "POST", "/v1/principals/"+owner.principal(t, "p"+strings.ToLower(canary()), "admin")+"/keys", `{"networks":`+networks+`}`).refused(t, 422, "validation-failed")
	}
}

func TestAKeyIsReplacedWithOverlap(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	billing, other := c.principal(t, "billing", "backend-writer"), c.principal(t, "other", "backend-writer")
	first, old := c.issue(t, billing, `{}`)
	_, fresh := c.issue(t, billing, `{"replaces":"`+first+`","overlap_seconds":3600}`)
	list := func(c client) answer { return c.send(t, "GET", "/v1/collections", "") }
	list(old).want(t, 200)
	list(fresh).want(t, 200)
	c.Advance(time.Hour)
	list(old).refused(t, 401, "unauthenticated")
	list(fresh).want(t, 200)
	second, now := c.issue(t, billing, `{}`)
	c.issue(t, billing, `{"replaces":"`+second+`","overlap_seconds":0}`)
	list(now).refused(t, 401, "unauthenticated")
	keys := "/v1/principals/" + billing + "/keys"
	for body, want := range map[string]string{
		`{"replaces":"key_0000000000000000000000"}`:                        "/replaces",
		`{"replaces":"x"}`:                                                 "/replaces",
		`{"overlap_seconds":5}`:                                            "/overlap_seconds",
		`{"replaces":"` + first + `","overlap_seconds":604801}`:            "/overlap_seconds",
		`{"replaces":"` + first + `","overlap_seconds":-1}`:                "/overlap_seconds",
		`{"replaces":"` + first + `","overlap_seconds":99999999999}`:       "/overlap_seconds",
		`{"replaces":"` + first + `","expires_at":"2020-01-01T00:00:00Z"}`: "/expires_at",
	} {
		if p := c.send(t, "POST", keys, body).refused(t, 422, "validation-failed"); len(p.Errors) != 1 || p.Errors[0].Pointer != want {
			t.Errorf("%s is faulted with %v", body, p.Errors)
		}
	}
	c.send(t, "POST", "/v1/principals/"+other+"/keys", `{"replaces":"`+first+`"}`).refused(t, 422, "validation-failed")
}

// The lists show all but the keys, and when each was last used.
func TestPrincipalsAndKeysAreListed(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	billing := c.principal(t, "billing", "backend-writer")
	c.principal(t, "archive", "backend-reader-masked")
	first, one := c.issue(t, billing, `{"networks":["127.0.0.0/8"]}`)
	c.Advance(time.Second)
	second, two := c.issue(t, billing, `{}`)
	one.send(t, "GET", "/v1/collections", "").want(t, 200)
	if err := c.NoteLastUsed(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.send(t, "DELETE", "/v1/principals/"+billing+"/keys/"+second, "").want(t, 204)
	var keys struct {
		Items []struct {
			ID       string
			Revoked  *time.Time `json:"revoked_at"`
			LastUsed *time.Time `json:"last_used_at"`
			Networks []string
		}
	}
	list := c.send(t, "GET", "/v1/principals/"+billing+"/keys", "").want(t, 200)
	list.read(t, &keys)
	if len(keys.Items) != 2 || keys.Items[0].ID != second || keys.Items[0].Revoked == nil || keys.Items[0].LastUsed != nil ||
		keys.Items[1].ID != first || keys.Items[1].Revoked != nil || len(keys.Items[1].Networks) != 1 {
		t.Fatalf("the keys are %s", list.body)
	}
	if used := keys.Items[1].LastUsed; used == nil || c.Now().Sub(*used) > 2*time.Minute || used.Second() != 0 {
		t.Errorf("last used %v", used)
	}
	quiet(t, "the list", string(list.body), one.key[5:], two.key[5:])
	var names []string
	path := "/v1/principals?limit=1"
	for range 4 {
		var page struct {
			Items []struct{ Name string }
			Next  *string `json:"next_cursor"`
		}
		c.send(t, "GET", path, "").want(t, 200).read(t, &page)
		for _, p := range page.Items {
			names = append(names, p.Name)
		}
		if page.Next == nil {
			break
		}
		path = "/v1/principals?limit=1&cursor=" + *page.Next
	}
	if got := strings.Join(names, " "); got != "admin archive billing" {
		t.Errorf("the principals are %q", got)
	}
	stranger := c.tenant()
	stranger.send(t, "GET", "/v1/principals/"+billing+"/keys", "").refused(t, 404, "not-found")
	stranger.send(t, "PATCH", "/v1/principals/"+billing, `{"disabled":true}`).refused(t, 404, "not-found")
}

func TestADisabledPrincipal(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	billing := c.principal(t, "billing", "backend-writer")
	_, key := c.issue(t, billing, `{}`)
	list := func(headers ...string) answer { return key.send(t, "GET", "/v1/collections", "", headers...) }
	list().want(t, 200)
	var p struct {
		Disabled *time.Time `json:"disabled_at"`
	}
	c.send(t, "PATCH", "/v1/principals/"+billing, `{"disabled":true}`).want(t, 200).read(t, &p)
	disabled := list("X-Request-Id: one")
	if p.Disabled == nil || string(disabled.body) != string(client{service: c.service, key: "pvak_none"}.send(t, "GET", "/v1/collections", "", "X-Request-Id: one").body) {
		t.Errorf("a disabled principal's key is told apart: %s", disabled.body)
	}
	disabled.refused(t, 401, "unauthenticated")
	c.send(t, "PATCH", "/v1/principals/"+billing, `{"disabled":false}`).want(t, 200)
	list().want(t, 200)
	var page struct{ Items []struct{ ID, Name string } }
	c.send(t, "GET", "/v1/principals", "").want(t, 200).read(t, &page)
	c.send(t, "PATCH", "/v1/principals/"+page.Items[0].ID, `{"disabled":true}`).refused(t, 409, "conflict")
	c.send(t, "PATCH", "/v1/principals/"+billing, `{}`).refused(t, 422, "validation-failed")
}

func limits(c limit.Config) func(*api.Config) {
	return func(a *api.Config) { a.Limits = limit.New(c, nil) }
}

// Too many calls are 429, with what a client needs to know; one address is one whatever it forwards (S-7).
func TestCallsAreLimited(t *testing.T) {
	t.Parallel()
	rate := limit.Rate{PerSecond: 0.01, Burst: 3}
	for name, row := range map[string]struct {
		config  limit.Config
		slug    string
		headers map[string]string
	}{
		"principal": {limit.Config{Principal: rate}, "rate-limited", map[string]string{"Ratelimit-Policy": `"principal";q=3;w=300`}},
		"key":       {limit.Config{Key: rate}, "rate-limited", map[string]string{"Ratelimit-Policy": `"key";q=3;w=300`}},
		"tenant":    {limit.Config{Tenant: rate}, "rate-limited", map[string]string{"Ratelimit-Policy": `"tenant";q=3;w=300`}},
		"address":   {limit.Config{Address: rate}, "rate-limited", map[string]string{"Ratelimit-Policy": `"address";q=3;w=300`}},
		"quota":     {limit.Config{Quotas: limit.Quotas{Tenant: limit.Quota{Day: 3}}}, "quota-exceeded", map[string]string{"Ratelimit-Policy": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serveWith(t, limits(row.config)).tenant()
			for i := range 20 {
				a := c.send(t, "GET", "/v1/collections", "", "X-Forwarded-For: 192.0.2."+string(rune('0'+i%10)))
				if i < 3 {
					a.want(t, 200)
					continue
				}
				a.refused(t, 429, row.slug)
				for header, want := range row.headers {
					if got := a.header.Get(header); got != want {
						t.Errorf("%s is %q, want %q", header, got, want)
					}
				}
				if a.header.Get("Retry-After") == "" || a.header.Get("Ratelimit") == "" {
					t.Errorf("the headers are %v", a.header)
				}
			}
			if row.config.Address.Burst == 0 {
				c.service.tenant().send(t, "GET", "/v1/collections", "").want(t, 200)
			} else {
				client{service: c.service}.send(t, "GET", "/v1/collections", "").refused(t, 429, "rate-limited")
			}
		})
	}
}

// A request that is for another host is not answered, where we know who we are.
func TestAnotherHost(t *testing.T) {
	t.Parallel()
	s := serve(t)
	key := s.tenant().key
	ask := func(host string) answer {
		return s.wire(t, "GET /v1/collections HTTP/1.1\r\nHost: "+host+"\r\nAuthorization: Bearer "+key+"\r\nConnection: close\r\n\r\n")
	}
	ask("anything").want(t, 200)
	s.listen(t, s.Vault, nil, func(c *api.Config) { c.SeenAs = mustURL("https://vault.example") })
	ask("vault.example").want(t, 200)
	ask("VAULT.example").want(t, 200)
	ask("other.example").refused(t, 421, "misdirected")
	ask("vault.example.other.example").refused(t, 421, "misdirected")
}

// bad-inputs 28, 41, 52, 53, 58: whatever is wrong with a credential, strangers hear the same.
func TestCredentialsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	key := s.tenant().key
	var first string
	for what, headers := range map[string][]string{
		"none":                 {"Authorization:"},
		"Basic":                {"Authorization: Basic dXNlcjpwYXNz"},
		"a key as Basic":       {"Authorization: Basic " + key},
		"Bearer alone":         {"Authorization: Bearer"},
		"an empty Bearer":      {"Authorization: Bearer  "},
		"a key without scheme": {"Authorization: " + key},
		"two keys in one":      {"Authorization: Bearer " + key + ", Bearer " + key},
		"a blank behind":       {"Authorization: Bearer " + key + " x"},
		"a blank before":       {"Authorization: Bearer  " + key},
		"a key as DPoP":        {"Authorization: DPoP " + key},
		"Digest":               {"Authorization: Digest username=x"},
		"a bad check sum":      {"Authorization: Bearer " + key[:len(key)-1] + "!"},
		"an unsigned token":    {"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."},
		"another header":       {"Authorization:", "X-Api-Key: " + key},
		"a cookie":             {"Authorization:", "Cookie: key=" + key},
		"a proxy's header":     {"Authorization:", "X-Forwarded-User: admin", "X-Forwarded-Client-Cert: URI=spiffe://x/y"},
	} {
		a := client{service: s, key: key}.send(t, "GET", "/v1/collections", "", append(headers, "X-Request-Id: one")...)
		a.refused(t, 401, "unauthenticated")
		if first == "" {
			first = string(a.body)
		}
		if string(a.body) != first {
			t.Errorf("%s is told apart: %s", what, a.body)
		}
		if a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", what)
		}
		quiet(t, what, string(a.body), key[5:])
	}
	client{service: s, key: key}.send(t, "GET", "/v1/collections", "", "X-Tenant: other", "Authorization: bearer "+key).want(t, 200)
	quiet(t, "the log", s.Log.String(), key[5:])
}

// D-1: a body that trickles in ends its request, long before the server's own time-out for the whole.
func TestASlowBodyIsGivenUp(t *testing.T) {
	t.Parallel()
	s := serve(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	if _, err := io.WriteString(conn, "POST /v1/detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\nAuthorization: Bearer "+s.tenant().key+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var trickle sync.WaitGroup
	trickle.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if _, err := io.WriteString(conn, " "); err != nil {
					return
				}
			}
		}
	})
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	close(stop)
	trickle.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	receive(t, res).refused(t, 400, "malformed-request")
	if took := time.Since(start); took < 4*time.Second || took > 20*time.Second {
		t.Errorf("it was given up after %v", took)
	}
}
