package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privault/privault/api"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// A change that would be another one each time is made once under an Idempotency-Key.
func TestAChangeIsMadeOnceUnderItsKey(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"email":{"type":"email"}},"retention":{"keep":"P1Y"}}`).want(t, 201)
	token := c.tokenize(t, "people", `{"email":"a@example.com"}`)[0].Tokens["email"]
	c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1","fields":{"email":"b@example.com"}}]}`).want(t, 200)
	c.send(t, "PUT", "/v1/webhooks/crm", `{"url":"https://127.0.0.1:9/hook","events":["subject.erased"],"recipient":true}`).want(t, 201)
	c.send(t, "POST", "/v1/subjects/cust-1/erasure", `{"reason":"gdpr-17"}`).want(t, 200)
	var page struct{ Items []struct{ ID string } }
	c.send(t, "GET", "/v1/webhooks/crm/deliveries", "").want(t, 200).read(t, &page)
	principal := c.principal(t, "billing", "auditor")
	_, admin := c.issue(t, c.principal(t, "second", policy.Roles()...), `{}`)
	for _, call := range []struct {
		path, body, other string // another body that can be done, if there is one
		status            int
		count             string // what there is one more of
	}{
		{"/v1/tokens/rotate", `{"items":[{"token":"` + token + `"}]}`, "", 200, `select count(distinct version) from privault.records`},
		{"/v1/retention/plans", `{"collection":"people"}`, `{"collection":"people","as_of":"2030-01-01T00:00:00Z"}`, 201, `select count(*) from privault.retention_plans`},
		{"/v1/retention/sweeps", `{"collection":"people"}`, `{"dry_run":true}`, 202, `select count(*) from privault.sweeps`},
		{"/v1/holds", `{"matter":"case-7","subject":"cust-9"}`, `{"matter":"case-8","subject":"cust-9"}`, 201, `select count(*) from privault.holds`},
		{"/v1/requests", `{"type":"access","regime":"gdpr","subject":"cust-9"}`, `{"type":"access","regime":"gdpr","subject":"cust-8"}`, 201, `select count(*) from privault.requests`},
		{"/v1/principals/" + principal + "/keys", `{}`, `{"networks":["10.0.0.0/8"]}`, 201, `select count(*) from privault.credentials`},
		{"/v1/webhooks/crm/rotate-secret", `{}`, "", 200, `select version from privault.webhooks`},
		{"/v1/webhooks/crm/deliveries/" + page.Items[0].ID + "/redeliver", `{}`, "", 202, `select count(*) from privault.audit_entries where action = 'webhook.redeliver' and outcome = 'ok'`},
		{"/v1/keys/alias/rotate", ``, `{}`, 202, `select coalesce(sum(generation), 0)::int from privault.key_generations`},
	} {
		const key = "Idempotency-Key: order-8d2c1f" // the same: the path is part of the name
		before := c.Count(call.count)
		c.send(t, "POST", call.path, call.body, key).want(t, call.status)
		made := c.Count(call.count)
		if made == before {
			t.Errorf("%s: nothing was made", call.path)
		}
		refused := c.send(t, "POST", call.path, call.body, key).refused(t, 409, "conflict")
		if !strings.Contains(refused.Detail, "carried out under this Idempotency-Key at 2") {
			t.Errorf("%s: %s", call.path, refused.Detail)
		}
		if call.other != "" {
			c.send(t, "POST", call.path, call.other, key).refused(t, 409, "idempotency-conflict")
		}
		if c.Count(call.count) != made {
			t.Errorf("%s: sent again it makes another", call.path)
		}
		if call.path != "/v1/tokens/rotate" {
			admin.send(t, "POST", call.path, call.body, key).want(t, call.status) // it is somebody else's name
		}
	}
	// What is refused takes no name, nor does a batch of which nothing is done.
	const nobody = `{"items":[{"token":"pvtk_0000000000000000000000000000000000000000000"}]}`
	for range 2 {
		c.send(t, "POST", "/v1/tokens/rotate", nobody, "Idempotency-Key: order-8").want(t, 404)
	}
	const key = "Idempotency-Key: order-9"
	c.send(t, "POST", "/v1/holds", `{"matter":""}`, key).refused(t, 422, "validation-failed")
	c.send(t, "POST", "/v1/holds", `{"matter":"case-9","subject":"cust-9"}`, key).want(t, 201)
	c.send(t, "POST", "/v1/holds", `{"matter":"case-9","subject":"cust-9"}`, "Idempotency-Key: two words").refused(t, 400, "malformed-request")
	c.send(t, "POST", "/v1/holds", `{"matter":"case-9","subject":"cust-9"}`, "Idempotency-Key: jane@example.com").refused(t, 422, "identifier-looks-like-pii")
	// It is kept a day, across a rotation of the key that digests it.
	c.send(t, "POST", "/v1/keys/pseudonym/rotate", "").want(t, 202)
	c.send(t, "POST", "/v1/holds", `{"matter":"case-9","subject":"cust-9"}`, key).refused(t, 409, "conflict")
	c.Advance(25 * time.Hour)
	c.send(t, "POST", "/v1/holds", `{"matter":"case-9","subject":"cust-9"}`, key).want(t, 201)
}

// A keystore in a database of its own has a transaction of its own.
func TestAChangeIsMadeOnceBesideAKeystoreApart(t *testing.T) {
	t.Parallel()
	c := serve(t, vaulttest.Apart).tenant()
	for _, status := range []int{202, 409, 409} {
		if a := c.send(t, "POST", "/v1/keys/wrap/rotate", `{}`, "Idempotency-Key: order-1"); a.status != status {
			t.Errorf("%d %s, want %d", a.status, a.body, status)
		}
	}
}

// A change may take its time, and longer than its body may: the body is read once.
func TestASlowChangeIsMadeUnderItsKey(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	slow := func(table string, seconds float64) {
		c.Exec(fmt.Sprintf(`do $$ begin lock table privault.%s in exclusive mode; perform pg_sleep(%f); end $$`, table, seconds))
	}
	var wait sync.WaitGroup
	wait.Go(func() { slow("holds", 3.5) })
	wait.Go(func() { slow("audit_entries", 6.5) }) // each shorter than a lock is waited for
	c.Until(func() bool {
		return c.Count(`select count(*) from pg_locks where mode = 'ExclusiveLock' and granted and relation in ('privault.holds'::regclass, 'privault.audit_entries'::regclass)`) == 2
	})
	c.send(t, "POST", "/v1/holds", `{"matter":"case-7","subject":"cust-9"}`, "Idempotency-Key: order-1").want(t, 201)
	wait.Wait()
}

// Of many at once, on two replicas, one makes the change.
func TestOneOfManyMakesTheChange(t *testing.T) {
	t.Parallel()
	s := serve(t)
	other := &service{Bench: s.Bench}
	other.listen(t, s.Replica(), nil, func(*api.Config) {})
	c := s.tenant()
	var made, again atomic.Int64
	var wait sync.WaitGroup
	for i := range 20 {
		on := client{service: []*service{s, other}[i%2], key: c.key}
		wait.Go(func() {
			switch a := on.send(t, "POST", "/v1/holds", `{"matter":"case-7","subject":"cust-9"}`, "Idempotency-Key: order-1"); a.status {
			case http.StatusCreated:
				made.Add(1)
			case http.StatusConflict:
				again.Add(1)
			default:
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	wait.Wait()
	if made.Load() != 1 || again.Load() != 19 || c.Count(`select count(*) from privault.holds`) != 1 {
		t.Errorf("it was made %d times, and refused %d times", made.Load(), again.Load())
	}
}
