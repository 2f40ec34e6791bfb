package vault_test

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// keyed is a batch of names under an Idempotency-Key; the names stand for the request's body.
func keyed(key string, names ...string) vault.Batch {
	b := vault.Batch{Collection: "people", Claim: &vault.IdempotencyKey{Key: key, Request: sha256.Sum256([]byte(fmt.Sprint(names)))}}
	for _, name := range names {
		b.Items = append(b.Items, vaulttest.Item(map[string]string{"name": name}))
	}
	return b
}

var sameAnswer = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(vault.Error{})}

func TestSameKeySameBodySameAnswer(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWarmed(t, options...)
			ctx := t.Context()
			// The second item is refused, and is refused again in the same words.
			batch := func() vault.Batch {
				b := keyed("order-1", "Joe", "bad", "Ann")
				b.Items[1].Fields["x"] = secret(`1`)
				return b
			}
			first, err := w.Tokenize(ctx, w.who, batch())
			if err != nil || first[0].Err != nil || first[1].Err == nil || first[2].Err != nil {
				t.Fatal(first, err)
			}
			before := w.Count(`select count(*) from privault.records`)
			same := func(what string, v *vault.Vault) {
				again, err := v.Tokenize(ctx, w.who, batch())
				if err != nil {
					t.Fatal(what, err)
				}
				if diff := cmp.Diff(first, again, sameAnswer); diff != "" {
					t.Errorf("%s the answer is another one (-first +again):\n%s", what, diff)
				}
			}
			same("again", w.Vault)
			same("on another replica", w.Replica())
			w.Close()
			same("after a restart", w.Replica())
			w.Advance(23 * time.Hour)
			same("a day later", w.Replica())
			if got := w.Count(`select count(*) from privault.records`); got != before {
				t.Errorf("%d records were stored by retries", got-before)
			}
			if got := w.Count(`select count(*) from privault.audit_entries where action = 'tokenize' and outcome = 'ok'`); got != 1+1+4 {
				t.Errorf("%d entries of tokenize, want one for each call", got)
			}
		})
	}
}

func TestSameKeyOtherBody(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	ctx := t.Context()
	first, err := w.Tokenize(ctx, w.who, keyed("order-1", "Joe"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*vault.Vault{w.Vault, w.Replica()} {
		_, err = v.Tokenize(ctx, w.who, keyed("order-1", "Eve"))
		wantKind(t, "the key with another body", err, vault.IdempotencyConflict)
	}
	if got := w.Count(`select count(*) from privault.records`); got != 2 {
		t.Errorf("%d records, want what was there and the first", got)
	}
	if got := w.Reveal(w.who, first[0].Tokens["name"]); got != `"Joe"` {
		t.Errorf("the first answer's token gives %s", got)
	}
}

func TestKeyBelongsToItsPrincipal(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	ctx := t.Context()
	principal, err := w.CreatePrincipal(ctx, w.who, "service", []string{"backend-writer"})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := w.IssueKey(ctx, w.who, principal, vault.KeyTerms{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.Authenticate(ctx, issued.Key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := w.Tenant()
	w.Collection(stranger, "people", map[string]string{"name": "string"})
	records := map[string]bool{}
	for i, who := range []vault.Caller{w.who, other, stranger} {
		done, err := w.Tokenize(ctx, who, keyed("order-1", fmt.Sprint("n", i)))
		if err != nil || done[0].Err != nil {
			t.Fatalf("caller %d: %v, %v", i, done, err)
		}
		records[done[0].Record] = true
	}
	if len(records) != 3 {
		t.Errorf("three callers with one key's text got %d records", len(records))
	}
	// A role that went is asked for again: the stored answer is no way around it.
	_, err = w.Tokenize(ctx, vaulttest.As(w.who, "admin"), keyed("order-1", "n0"))
	wantKind(t, "the same request without the role", err, vault.Forbidden)
}

func TestKeyOfARunningRequest(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	open := dam(t, w.OwnerURL)
	first := make(chan told, 1)
	go func() {
		done, err := w.Tokenize(t.Context(), w.who, keyed("order-1", "Joe"))
		first <- told{done, err}
	}()
	await(t, "the first request is held back", func() bool { return held(w.Bench, "privault.audit_entries") == 1 })
	second := make(chan error, 1)
	go func() {
		_, err := w.Tokenize(t.Context(), w.who, keyed("order-1", "Joe"))
		second <- err
	}()
	await(t, "the second request's entry waits", func() bool {
		n, _ := w.Crowd(w.who.Tenant)
		return n == 1 || held(w.Bench, "privault.audit_entries") == 2
	})
	open()
	err := <-second
	if wantKind(t, "the same key while the first runs", err, vault.Conflict); vault.AsError(err).RetryAfter == 0 {
		t.Error("the conflict doesn't say when to come back")
	}
	answer := <-first
	if answer.err != nil {
		t.Fatal(answer.err)
	}
	again, err := w.Tokenize(t.Context(), w.who, keyed("order-1", "Joe"))
	if err != nil || again[0].Record != answer.done[0].Record {
		t.Errorf("afterwards the key gives %v, %v", again, err)
	}
}

// Two replicas, one key, many times at once: one record.
func TestKeyOnManyReplicasAtOnce(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	replicas := []*vault.Vault{w.Vault, w.Replica(), w.Replica(), w.Replica()}
	for round := range 5 {
		var wait sync.WaitGroup
		var mu sync.Mutex
		records := map[string]bool{}
		for _, v := range replicas {
			wait.Go(func() {
				done, err := v.Tokenize(t.Context(), w.who, keyed(fmt.Sprint("order-", round), "Joe"))
				if err != nil {
					t.Errorf("one of them: %v", err)
					return
				}
				mu.Lock()
				records[done[0].Record] = true
				mu.Unlock()
			})
		}
		wait.Wait()
		if len(records) != 1 {
			t.Errorf("one key on four replicas gave %d records", len(records))
		}
		if got := w.Count(`select count(*) from privault.records`); got != 1+round+1 {
			t.Errorf("%d records after %d keys", got, round+1)
		}
	}
}

func TestExpiredKeyMayBeUsedAgain(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	ctx := t.Context()
	first, err := w.Tokenize(ctx, w.who, keyed("order-1", "Joe"))
	if err != nil {
		t.Fatal(err)
	}
	w.Advance(25 * time.Hour)
	second, err := w.Tokenize(ctx, w.who, keyed("order-1", "Eve"))
	if err != nil || second[0].Record == first[0].Record {
		t.Fatalf("a key whose time is over: %v, %v", second, err)
	}
	again, err := w.Tokenize(ctx, w.who, keyed("order-1", "Eve"))
	if err != nil || again[0].Record != second[0].Record {
		t.Errorf("its second use gives %v, %v", again, err)
	}
}

func TestSweepOfKeys(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	ctx := t.Context()
	stranger := w.Tenant()
	w.Collection(stranger, "people", map[string]string{"name": "string"})
	for i := range 5 {
		for _, who := range []vault.Caller{w.who, stranger} {
			if _, err := w.Tokenize(ctx, who, keyed(fmt.Sprint("order-", i), "Joe")); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Advance(25 * time.Hour)
	if _, err := w.Tokenize(ctx, w.who, keyed("fresh", "Joe")); err != nil {
		t.Fatal(err)
	}
	var deleted []int
	for {
		n, err := w.SweepIdempotencyKeys(ctx, w.who.Tenant, 2)
		if err != nil {
			t.Fatal(err)
		}
		if deleted = append(deleted, n); n < 2 {
			break
		}
	}
	if diff := cmp.Diff([]int{2, 2, 1}, deleted); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	if got := w.Count(`select count(*) from privault.idempotency_keys where tenant_id = $1`, w.who.Tenant); got != 1 {
		t.Errorf("%d keys are left, want the fresh one", got)
	}
	if got := w.Count(`select count(*) from privault.idempotency_keys where tenant_id = $1`, stranger.Tenant); got != 5 {
		t.Errorf("%d of another tenant's keys are left, want all", got)
	}
	if got := w.Count(`select count(*) from privault.audit_entries where action = $1 and outcome = 'ok'`, string(policy.Sweep)); got != 3 {
		t.Errorf("%d entries, want one for each batch", got)
	}
	tenants, err := w.Tenants(ctx)
	if err != nil || len(tenants) != 2 {
		t.Errorf("the tenants to sweep: %v, %v", tenants, err)
	}
}

// A stored answer is sealed for its key: it can't be moved, and doesn't show what it holds.
func TestStoredAnswersAreBound(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	ctx := t.Context()
	for _, key := range []string{"a", "b"} {
		if _, err := w.Tokenize(ctx, w.who, keyed(key, "Joe")); err != nil {
			t.Fatal(err)
		}
	}
	w.Exec(`update privault.idempotency_keys k set answer = o.answer from privault.idempotency_keys o where k.digest <> o.digest`)
	for _, key := range []string{"a", "b"} {
		_, err := w.Tokenize(ctx, w.who, keyed(key, "Joe"))
		wantKind(t, "an answer that was moved", err, vault.IntegrityFailure)
	}
}

// A retry gets the first answer also when the request would be refused by now, and another body its conflict when that
// body is refused.
func TestKeyComesBeforeTheItems(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	soon := w.Now().Add(time.Hour)
	batch := func() vault.Batch {
		b := keyed("order-1", "Joe")
		b.Items[0].Expires = &soon
		return b
	}
	first, err := w.Tokenize(t.Context(), w.who, batch())
	if err != nil || first[0].Err != nil {
		t.Fatal(first, err)
	}
	w.Advance(2 * time.Hour)
	again, err := w.Tokenize(t.Context(), w.who, batch())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, sameAnswer); diff != "" {
		t.Errorf("the answer is another one (-first +again):\n%s", diff)
	}
	other := keyed("order-1", "Eve")
	other.Items[0].Fields["x"] = secret(`1`)
	_, err = w.Tokenize(t.Context(), w.who, other)
	wantKind(t, "the key with another body, which is refused besides", err, vault.IdempotencyConflict)
}
