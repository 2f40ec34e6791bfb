package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/vault/vaulttest"
)

// erasureKills is how often the server is killed.
const erasureKills = 25

// The server is killed at 25 random points of erasures, between the first look and the last purged row: first when all are acknowledged, and
// then within half as long again as that took. Whatever was begun is finished, nothing is done twice, and ledger and database agree.
func TestKilledWhileErasing(t *testing.T) {
	t.Parallel()
	const persons, records = 6, 3 // in each round
	i := newInstallation(t, false)
	run1(t, i.migrating(t), "migrate", "up").want(t, 0)
	settings := i.serving(t)
	run1(t, settings, "keys", "create").want(t, 0)
	key := tenantKey(t, settings)
	certificates := map[string]string{} // person → certificate that was acknowledged
	acknowledged, broken := 0, 0
	var within time.Duration
	for round := range erasureKills {
		s := startServe(t, settings...)
		c := caller{url: "http://" + s.public, key: key}
		if round == 0 {
			c.collection(t, "people", map[string]string{"email": "email"})
		}
		storePeople(t, c, round, persons, records)
		answered, killed := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(killed)
			if round == 0 {
				<-answered
			} else {
				<-time.NewTimer(rand.N(within)).C
			}
			s.kill(t)
		}()
		began := time.Now()
		var mu sync.Mutex
		var wait sync.WaitGroup
		for n := range persons {
			wait.Go(func() {
				person := fmt.Sprintf("person-%d-%d", round, n)
				status, body, err := c.send(t.Context(), http.MethodPost, "/v1/subjects/"+person+"/erasure", map[string]string{"reason": "gdpr-17"})
				mu.Lock()
				defer mu.Unlock()
				if err != nil || status != http.StatusOK {
					broken++
					return
				}
				acknowledged++
				certificates[person] = certificateIn(t, body)
			})
		}
		wait.Wait()
		if round == 0 {
			within = time.Since(began) * 3 / 2
		}
		close(answered)
		<-killed
	}
	t.Logf("%d kills: %d erasures were acknowledged before, %d were not", erasureKills, acknowledged, broken)
	if acknowledged == 0 || broken == 0 {
		t.Error("the kills came all too early, or all too late, to show anything")
	}
	s := startServe(t, settings...)
	c := caller{url: "http://" + s.public, key: key}
	for round := range erasureKills {
		for n := range persons {
			person := fmt.Sprintf("person-%d-%d", round, n)
			var body json.RawMessage
			c.want(t, http.StatusOK, http.MethodPost, "/v1/subjects/"+person+"/erasure", map[string]string{"reason": "gdpr-17"}, &body)
			if was := certificates[person]; was != "" && was != certificateIn(t, body) {
				t.Errorf("%s has the certificate %s, and %s was acknowledged", person, certificateIn(t, body), was)
			}
		}
	}
	count := func(query string) int { return vaulttest.CountURL(t, i.data, query) }
	// A job of a killed worker is given to another one after a minute.
	deadline := time.Now().Add(4 * time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for count(`select count(*) from privault.records`)+count(`select count(*) from privault.erasures where state <> 'purged'`) > 0 && time.Now().Before(deadline) {
		<-tick.C
	}
	all := erasureKills * persons
	for what, want := range map[string]struct{ got, want int }{
		"erasures":                         {count(`select count(*) from privault.erasures where state = 'purged'`), all},
		"people who have more than one":    {count(`select count(*) from (select from privault.erasures group by digest having count(*) > 1) x`), 0},
		"records":                          {count(`select count(*) from privault.records`), 0},
		"keys":                             {count(`select count(*) from keystore.data_keys`), 0},
		"people who are being erased":      {count(`select count(*) from privault.erasing`), 0},
		"people":                           {count(`select count(*) from privault.subjects`), 0},
		"records that entries say deleted": {count(`select count(*) from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') r, jsonb_array_elements(r->'records') where r->>'outcome' = 'deleted'`), all * records},
		"entries of erasures, by the database": {count(`select count(distinct r->>'erasure') from privault.audit_entries e, jsonb_array_elements(e.body::jsonb->'resources') r
			where e.outcome = 'ok' and e.action in ('erase', 'restore.replay') and r ? 'erasure'`), all},
	} {
		if want.got != want.want {
			t.Errorf("%s: %d, want %d", what, want.got, want.want)
		}
	}
	eventually(t, "the ledger says that everything is done", func() bool {
		return len(openLines(t, read(t, auditKey(i.kms)+".ledger"))) == 0 // of killed ones after ten seconds
	})
	agrees := run1(t, settings, "restore", "replay").want(t, 0)
	wantLines(t, agrees.out, "lines-replayed: 0", "left-for-the-server-to-finish: 0")
	lines := strings.Count(read(t, auditKey(i.kms)+".ledger"), `"kind":"erasure"`)
	t.Logf("%d erasures; the ledger has %d lines of them, of which %d were written again because a kill came before their commit", all, lines, lines-all)
	if lines < all {
		t.Errorf("the ledger has %d erasures", lines)
	}
	s.stop(t, 15)
}

func certificateIn(t testing.TB, body []byte) string {
	t.Helper()
	var e struct{ Certificate string }
	if err := json.Unmarshal(body, &e); err != nil || e.Certificate == "" {
		t.Errorf("no certificate in %s", body)
	}
	return e.Certificate
}

// storePeople keeps some records of each of some people.
func storePeople(t testing.TB, c caller, round, persons, records int) {
	t.Helper()
	var items []any
	for n := range persons * records {
		items = append(items, map[string]any{"subject": fmt.Sprintf("person-%d-%d", round, n%persons), "fields": map[string]string{"email": fmt.Sprintf("p%d@example.com", n)}})
	}
	c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", map[string]any{"collection": "people", "items": items}, nil)
}

// openLines are the lines of a ledger that take effect and that no later line says are done.
func openLines(t testing.TB, text string) map[int64]bool {
	t.Helper()
	open := map[int64]bool{}
	for line := range strings.Lines(text) {
		var l struct {
			Seq  int64
			Kind string
			Done []int64
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("a line of the ledger: %v", err)
		}
		if l.Kind != "ledger" && l.Kind != "done" {
			open[l.Seq] = true
		}
		for _, seq := range l.Done {
			delete(open, seq)
		}
	}
	return open
}
