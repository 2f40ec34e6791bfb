package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAKeyWorksUntilItIsRevoked(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant("admin")
	var billing struct {
		ID, Name string
		Roles    []string
	}
	c.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["backend-writer","backend-reader"]}`).want(t, 201).read(t, &billing)
	if diff := cmp.Diff([]string{"backend-writer", "backend-reader"}, billing.Roles); diff != "" || billing.Name != "billing" {
		t.Errorf("got %+v", billing)
	}
	var key struct {
		ID, Key string
		Expires time.Time `json:"expires_at"`
	}
	keys := "/v1/principals/" + billing.ID + "/keys"
	c.send(t, "POST", keys, `{}`).want(t, 201).read(t, &key)
	if days := key.Expires.Sub(c.Now()).Hours() / 24; days < 89 || days > 90 {
		t.Errorf("the key is good for %.1f days", days)
	}
	b := client{service: c.service, key: key.Key}
	b.send(t, "GET", "/v1/collections", "").want(t, 200)
	c.send(t, "DELETE", keys+"/"+key.ID, "").want(t, 204)
	revoked := b.send(t, "GET", "/v1/collections", "", "X-Request-Id: one")
	revoked.refused(t, 401, "unauthenticated")
	unknown := client{service: c.service, key: "pvak_none"}.send(t, "GET", "/v1/collections", "", "X-Request-Id: one")
	if diff := cmp.Diff(string(unknown.body), string(revoked.body)); diff != "" {
		t.Errorf("a revoked key is told apart from an unknown one:\n%s", diff)
	}
	c.send(t, "DELETE", keys+"/"+key.ID, "").want(t, 204)
	quiet(t, "the log", c.Log.String(), key.Key[5:])
}

func TestAKeyEndsWithItsTime(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant("admin")
	var principal, key struct{ ID, Key, ExpiresAt string }
	c.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["admin"]}`).want(t, 201).read(t, &principal)
	soon := c.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	a := c.send(t, "POST", "/v1/principals/"+principal.ID+"/keys", `{"expires_at":"`+soon+`"}`).want(t, 201)
	a.read(t, &key)
	if !strings.Contains(string(a.body), soon) {
		t.Errorf("%s doesn't end at %s", a.body, soon)
	}
	b := client{service: c.service, key: key.Key}
	b.send(t, "GET", "/v1/collections", "").want(t, 200)
	c.Advance(61 * time.Minute)
	b.send(t, "GET", "/v1/collections", "").refused(t, 401, "unauthenticated")
}

func TestPrincipalsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant("admin")
	c.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["admin"]}`).want(t, 201)
	c.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["admin"]}`).refused(t, 409, "conflict")
	secret := canary()
	for name, row := range map[string]struct {
		body string
		want fault
	}{
		"no name":        {`{"roles":["admin"]}`, fault{"/name", "name"}},
		"null name":      {`{"name":null,"roles":["admin"]}`, fault{"/name", "type"}},
		"value as name":  {`{"name":"` + secret + `","roles":["admin"]}`, fault{"/name", "name"}},
		"case":           {`{"name":"Admin","roles":["admin"]}`, fault{"/name", "name"}},
		"hidden space":   {`{"name":"admin\u200b","roles":["admin"]}`, fault{"/name", "name"}},
		"Kelvin sign":    {`{"name":"ad\u212ain","roles":["admin"]}`, fault{"/name", "name"}},
		"NUL":            {`{"name":"a\u0000","roles":["admin"]}`, fault{"/name", "name"}},
		"long name":      {`{"name":"` + strings.Repeat("a", 64) + `","roles":["admin"]}`, fault{"/name", "name"}},
		"no roles":       {`{"name":"ok","roles":[]}`, fault{"/roles", "min-items"}},
		"null roles":     {`{"name":"ok","roles":null}`, fault{"/roles", "type"}},
		"unknown role":   {`{"name":"ok","roles":["` + secret + `"]}`, fault{"/roles", "role"}},
		"developer":      {`{"name":"ok","roles":["developer"]}`, fault{"/roles", "role"}},
		"null role":      {`{"name":"ok","roles":[null]}`, fault{"/roles/0", "type"}},
		"unknown member": {`{"name":"ok","roles":["admin"],"tenant":"` + secret + `"}`, fault{"", "unknown-member"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := c.send(t, "POST", "/v1/principals", row.body)
			if diff := cmp.Diff([]fault{row.want}, a.refused(t, 422, "validation-failed").Errors); diff != "" {
				t.Error(diff)
			}
			quiet(t, "the answer", string(a.body), secret)
		})
	}
	t.Cleanup(func() { quiet(t, "the log", c.Log.String(), secret) })
}

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant("admin")
	var principal, key struct{ ID string }
	c.send(t, "POST", "/v1/principals", `{"name":"billing","roles":["admin"]}`).want(t, 201).read(t, &principal)
	keys := "/v1/principals/" + principal.ID + "/keys"
	for _, expires := range []string{`"2020-01-01T00:00:00Z"`, `"2099-01-01T00:00:00Z"`, `"tomorrow"`, `5`, `"9999-12-31T24:00:00Z"`, `"2027-02-30T00:00:00Z"`, `""`} {
		c.send(t, "POST", keys, `{"expires_at":`+expires+`}`).refused(t, 422, "validation-failed")
	}
	c.send(t, "POST", keys, `{"expires_at":null}`).want(t, 201).read(t, &key)
	for _, path := range []string{"/v1/principals/prn_0000000000000000000000/keys", "/v1/principals/x%00/keys", "/v1/principals/" + key.ID + "/keys"} {
		c.send(t, "POST", path, `{}`).refused(t, 404, "not-found")
		c.send(t, "DELETE", path+"/"+key.ID, "").refused(t, 404, "not-found")
	}
	c.send(t, "DELETE", keys+"/key_0000000000000000000000", "").refused(t, 404, "not-found")
	c.send(t, "DELETE", keys+"/%ff", "").refused(t, 404, "not-found")
}
