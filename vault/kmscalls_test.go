package vault_test

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// kmsRecords is how many records the tests here store. PRIVAULT_KMS_RECORDS=100000 measures it.
func kmsRecords(t *testing.T) int {
	t.Helper()
	text, set := os.LookupEnv("PRIVAULT_KMS_RECORDS")
	if !set {
		return 2000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1000 || n > 1_000_000 {
		t.Fatal("PRIVAULT_KMS_RECORDS is 1000 to 1000000")
	}
	return n
}

// Calls of the KMS go with tenants, not with records: their making and first use included.
func TestKMSCallsOfManyRecords(t *testing.T) {
	t.Parallel()
	const tenants = 10
	n := kmsRecords(t)
	b := vaulttest.New(t)
	var wait sync.WaitGroup
	for range tenants {
		who := b.Tenant()
		b.Collection(who, "people", map[string]string{"name": "string"})
		wait.Go(func() {
			for left := n / tenants; left > 0; left -= 200 {
				people(b, who, min(200, left))
			}
		})
	}
	wait.Wait()
	calls := b.KMS.Wraps() + b.KMS.Unwraps()
	t.Logf("%d calls of the KMS for %d records of %d tenants", calls, n, tenants)
	if calls > 40 {
		t.Errorf("%d calls of the KMS", calls)
	}
	if got := b.Count(`select count(*) from privault.records`); got != n {
		t.Errorf("%d records, want %d", got, n)
	}
}

// With warm caches an outage of the KMS fails no request; past the time to live and the grace it is told as what it is, and it
// ends by itself.
func TestReadsAndWritesOutliveAnOutageOfTheKMS(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string"})
	tokens := people(b, who, 10)
	b.Freeze()
	b.KMS.SetDown(true)
	ask := func() (failed []string) {
		var mu sync.Mutex
		var wait sync.WaitGroup
		for i := range 200 {
			wait.Go(func() {
				got := b.Reveal(who, tokens[i%10])
				_, err := b.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{vaulttest.Item(map[string]string{"name": "x"})}})
				mu.Lock()
				defer mu.Unlock()
				if got[0] != '"' {
					failed = append(failed, got)
				}
				if err != nil {
					failed = append(failed, string(vault.AsError(err).Kind))
				}
			})
		}
		wait.Wait()
		return failed
	}
	for range 20 { // 30 s of outage, across the time to live, and on to the end of the grace
		b.Advance(29 * time.Second)
		if failed := ask(); len(failed) > 0 {
			t.Fatalf("%d calls failed, the first with %s", len(failed), failed[0])
		}
	}
	b.Advance(time.Minute)
	failed := ask()
	for _, kind := range failed {
		if kind != string(vault.KMSUnavailable) {
			t.Fatalf("a call ends with %s", kind)
		}
	}
	if len(failed) != 400 {
		t.Errorf("%d of 400 calls failed past the grace", len(failed))
	}
	b.KMS.SetDown(false)
	b.Advance(3 * time.Second)
	if failed := ask(); len(failed) > 0 {
		t.Errorf("afterwards %d calls fail, the first with %s", len(failed), failed[0])
	}
}
