package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/privault/privault/vault/vaulttest"
)

// Whoever counted reveals on the client's side, and the audit log, come to the same number after kill -9 in the middle: each
// value that was handed out has its one entry, by the id of the request, and whatever else has an entry was sent and got no answer.
func TestRevealsAreCountedExactly(t *testing.T) {
	t.Parallel()
	const connections, calls, moment = 32, 4000, 1500
	d := startDev(t, t.TempDir(), "--no-sample")
	c := d.caller()
	c.collection(t, "people", map[string]string{"email": "email"})
	tokens := make([]string, 50)
	for i := range tokens {
		tokens[i] = c.tokenize(t, "people", "email", fmt.Sprintf("person-%d@example.com", i))
	}
	c.via = &http.Client{Timeout: patience, Transport: &http.Transport{MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections}}
	defer c.via.CloseIdleConnections()
	var revealed, unanswered sync.Map
	var next, count atomic.Int64
	reached := make(chan struct{})
	var wait sync.WaitGroup
	for range connections {
		wait.Go(func() {
			for n := next.Add(1); n <= calls; n = next.Add(1) {
				request := fmt.Sprintf("reveal-%d", n)
				value, err := reveal(c, request, tokens[int(n)%len(tokens)])
				switch {
				case err != nil:
					unanswered.Store(request, true)
				case value != fmt.Sprintf("person-%d@example.com", int(n)%len(tokens)):
					t.Errorf("%s reveals %q", request, value)
				default:
					revealed.Store(request, true)
					if count.Add(1) == moment {
						close(reached)
					}
				}
			}
		})
	}
	<-reached
	d.kill(t)
	wait.Wait()
	if count.Load() == calls {
		t.Fatal("the kill came too late to show anything")
	}
	again := startDev(t, d.dir, "--no-sample")
	// After the kill the log goes on counting.
	c = again.caller()
	for n := calls; n < calls+100; n++ {
		if _, err := reveal(c, fmt.Sprintf("reveal-%d", n+1), tokens[0]); err != nil {
			t.Fatal(err)
		}
		revealed.Store(fmt.Sprintf("reveal-%d", n+1), true)
		count.Add(1)
	}
	var entries []string
	for _, line := range vaulttest.TextsURL(t, again.DatabaseURL, `select body from privault.audit_entries where action = 'detokenize' and outcome = 'ok'`) {
		var e struct{ Request string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e.Request)
	}
	handedOut, lost := 0, 0
	seen := map[string]bool{}
	for _, request := range entries {
		if seen[request] {
			t.Errorf("%s has two entries", request)
		}
		seen[request] = true
		if _, was := revealed.Load(request); was {
			handedOut++
		} else if _, was := unanswered.Load(request); was {
			lost++
		} else {
			t.Errorf("an entry is about %q, which nobody sent", request)
		}
	}
	t.Logf("%d reveals were counted by the client; %d entries, %d of them of calls whose answer was lost in the kill", count.Load(), len(entries), lost)
	if int64(handedOut) != count.Load() || handedOut+lost != len(entries) {
		t.Errorf("the client counted %d reveals, the log %d", count.Load(), handedOut)
	}
}

// reveal reads one value under a request id of the client's choice.
func reveal(c caller, request, token string) (string, error) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, c.url+"/v1/detokenize",
		strings.NewReader(`{"items":[{"token":"`+token+`","view":"plain"}]}`))
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Request-Id", request)
	via := c.via
	if via == nil {
		via = http.DefaultClient
	}
	res, err := via.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var answer struct{ Items []struct{ Value string } }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK || len(answer.Items) != 1 {
		return "", fmt.Errorf("status %d", res.StatusCode)
	}
	return answer.Items[0].Value, nil
}
