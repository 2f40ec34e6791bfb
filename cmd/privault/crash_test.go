package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/privault/privault/vault/pgserver"
	"github.com/privault/privault/vault/vaulttest"
)

// loadTest is many callers that store values of which no two are equal, until there are enough or the server is gone.
type loadTest struct {
	acknowledged sync.Map // token to value
	count        atomic.Int64
	answered     sync.Map // status to true, of answers other than 200
	broken       atomic.Int64
	reached      chan struct{} // closed after so many acknowledgements
	done         chan struct{}
}

func storm(c caller, connections, calls int, after int64) *loadTest {
	l := &loadTest{reached: make(chan struct{}), done: make(chan struct{})}
	c.via = &http.Client{Timeout: patience, Transport: &http.Transport{MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections}}
	var next atomic.Int64
	var wait sync.WaitGroup
	for range connections {
		wait.Go(func() {
			for n := next.Add(1); n <= int64(calls); n = next.Add(1) {
				l.call(c, fmt.Sprintf("person-%d@example.com", n), after)
			}
		})
	}
	go func() {
		wait.Wait()
		c.via.CloseIdleConnections()
		close(l.done)
	}()
	return l
}

func (l *loadTest) call(c caller, value string, after int64) {
	status, answer, err := c.send(context.Background(), http.MethodPost, "/v1/tokenize", oneItem("people", "email", value))
	var got batchAnswer[importedItem]
	switch {
	case err != nil || status == http.StatusOK && json.Unmarshal(answer, &got) != nil:
		l.broken.Add(1)
	case status != http.StatusOK:
		l.answered.Store(fmt.Sprintf("%d %s", status, answer), true)
	default:
		l.acknowledged.Store(got.Items[0].Tokens["email"], value)
		if l.count.Add(1) == after {
			close(l.reached)
		}
	}
}

// await waits until enough calls are acknowledged, and wants that they aren't all.
func (l *loadTest) await(t testing.TB) {
	t.Helper()
	select {
	case <-l.reached:
	case <-l.done:
		t.Fatalf("the load ended with %d acknowledgements", l.count.Load())
	case <-time.After(patience):
		t.Fatalf("the load stands still at %d acknowledgements", l.count.Load())
	}
}

// check wants every acknowledged token to stand for its value.
func (l *loadTest) check(t testing.TB, c caller) {
	t.Helper()
	var tokens, values []string
	l.acknowledged.Range(func(token, value any) bool {
		tokens, values = append(tokens, token.(string)), append(values, value.(string))
		return true
	})
	if len(tokens) != int(l.count.Load()) {
		t.Errorf("%d tokens for %d acknowledgements", len(tokens), l.count.Load())
	}
	for i, got := range c.reveal(t, tokens) {
		if got != values[i] {
			t.Errorf("an acknowledged token stands for %q, want %q", got, values[i])
		}
	}
}

const (
	stormConnections = 64
	stormCalls       = 5000
	stormMoment      = 1000
	tokenizeEntries  = `select count(*) from privault.audit_entries where action = 'tokenize' and outcome = 'ok'`
)

// What was acknowledged survives kill -9 in the middle of 5,000 calls, and each has its audit entry.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	killedUnderLoad(t, `{"fields":{"email":{"type":"email"}}}`, 0)
}

// So do tokens that have rows of their own, and nothing is left of a record that didn't come to be.
func TestKilledUnderLoadWithAliases(t *testing.T) {
	t.Parallel()
	killedUnderLoad(t, `{"fields":{"email":{"type":"email","index":["exact"],"token":{"strategy":"deterministic"}}}}`, 1)
}

// killedUnderLoad wants so many aliases for each record, and an index entry for each of them and for the value.
func killedUnderLoad(t *testing.T, definition string, aliases int) {
	t.Helper()
	d := startDev(t, t.TempDir(), "--no-sample")
	d.caller().want(t, http.StatusCreated, http.MethodPut, "/v1/collections/people", definition, nil)
	load := storm(d.caller(), stormConnections, stormCalls, stormMoment)
	load.await(t)
	d.kill(t)
	<-load.done

	acknowledged := int(load.count.Load())
	if acknowledged == stormCalls {
		t.Fatal("the kill came too late to show anything")
	}
	again := startDev(t, d.dir, "--no-sample")
	if again.APIKey != d.APIKey {
		t.Error("the second start has another key")
	}
	load.check(t, again.caller())
	entries := vaulttest.CountURL(t, again.DatabaseURL, tokenizeEntries)
	records := vaulttest.CountURL(t, again.DatabaseURL, `select count(*) from privault.records`)
	keys := vaulttest.CountURL(t, again.DatabaseURL, `select count(*) from keystore.data_keys`)
	t.Logf("of %d calls %d were acknowledged when the server was killed; afterwards: %d audit entries, %d records, %d keys",
		stormCalls, acknowledged, entries, records, keys)
	if entries < acknowledged || records != entries || keys != records {
		t.Error("these must be equal, and no fewer than the acknowledgements")
	}
	made := vaulttest.CountURL(t, again.DatabaseURL, `select count(*) from privault.aliases`)
	indexed := vaulttest.CountURL(t, again.DatabaseURL, `select count(*) from privault.blind_index`)
	if made != aliases*records || indexed != 2*aliases*records {
		t.Errorf("%d aliases and %d index entries of %d records", made, indexed, records)
	}
	again.stop(t, syscall.SIGTERM)
}

// SIGTERM under load: whatever the server took on is finished and answered, and it ends well. So there are exactly as
// many audit entries as answers.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample")
	d.caller().collection(t, "people", map[string]string{"email": "email"})
	load := storm(d.caller(), stormConnections, stormCalls, stormMoment)
	load.await(t)
	d.stop(t, syscall.SIGTERM)
	<-load.done
	load.answered.Range(func(answer, _ any) bool {
		t.Error("an accepted call was answered ", answer)
		return true
	})

	postgres, err := pgserver.Start(t.Context(), pgserver.Config{Dir: d.file("postgres")})
	if err != nil {
		t.Fatal(err)
	}
	entries := vaulttest.CountURL(t, postgres.URL(devDatabase), tokenizeEntries)
	if err := postgres.Stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d calls were answered, %d found the door closed", load.count.Load(), stormCalls, load.broken.Load())
	if entries != int(load.count.Load()) || entries == stormCalls {
		t.Errorf("%d calls were done, and %d answered", entries, load.count.Load())
	}
}
