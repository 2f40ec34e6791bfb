package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privault/privault/vault/vaulttest"
)

// rotationSize is how many records the rotation under load is done with. PRIVAULT_ROTATION_RECORDS=1000000 measures it as the
// README promises it.
func rotationSize(t *testing.T) int {
	t.Helper()
	text, set := os.LookupEnv("PRIVAULT_ROTATION_RECORDS")
	if !set {
		return 5000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1000 || n > 1_000_000 {
		t.Fatal("PRIVAULT_ROTATION_RECORDS is 1000 to 1000000")
	}
	return n
}

// store keeps n records and gives a token of every hundredth.
func store(t *testing.T, c caller, n int) []string {
	t.Helper()
	c.collection(t, "people", map[string]string{"email": "email"})
	var mu sync.Mutex
	var tokens []string
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			for {
				first := int(next.Add(1000)) - 1000
				if first >= n {
					return
				}
				items := make([]any, min(1000, n-first))
				for i := range items {
					items[i] = map[string]any{"fields": map[string]string{"email": fmt.Sprintf("person-%d@example.com", first+i)}}
				}
				status, body, err := c.send(t.Context(), http.MethodPost, "/v1/tokenize", map[string]any{"collection": "people", "items": items})
				var got batchAnswer[importedItem]
				if err != nil || status != http.StatusOK || json.Unmarshal(body, &got) != nil {
					t.Errorf("tokenize: status %d, %v", status, err)
					return
				}
				mu.Lock()
				for i := 0; i < len(got.Items); i += 100 {
					tokens = append(tokens, got.Items[i].Tokens["email"])
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return tokens
}

// readers send 200 reads a second until stopped, and keep how long each took from when it was due.
type readers struct {
	mu     sync.Mutex
	took   []time.Duration
	failed atomic.Int64
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func read200(t *testing.T, c caller, tokens []string) *readers {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &readers{stop: stop}
	c.via = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	tick := time.NewTicker(5 * time.Millisecond)
	room := make(chan struct{}, 500) // a principal may have 1,000 calls at once
	r.done.Go(func() {
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			began := time.Now()
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			r.done.Go(func() {
				defer func() { <-room }()
				status, answer, err := c.send(context.WithoutCancel(ctx), http.MethodPost, "/v1/detokenize",
					map[string]any{"items": []any{map[string]string{"token": tokens[n%len(tokens)], "view": "plain"}}})
				if err != nil || status != http.StatusOK {
					r.failed.Add(1)
					t.Errorf("a read failed: status %d, %s, %v", status, answer, err)
				}
				r.mu.Lock()
				r.took = append(r.took, time.Since(began))
				r.mu.Unlock()
			})
		}
	})
	return r
}

// end stops the readers and gives how many reads there were, and the time that 99 of 100 stayed under.
func (r *readers) end() (reads int, p99 time.Duration) {
	r.stop()
	r.done.Wait()
	slices.Sort(r.took)
	return len(r.took), r.took[len(r.took)*99/100]
}

type jobAnswer struct {
	ID, State, Job string
	Done, Total    int
}

// No read fails while every DEK is wrapped anew.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	n := rotationSize(t)
	d := startDev(t, t.TempDir(), "--no-sample")
	c := d.caller()
	began := time.Now()
	tokens := store(t, c, n)
	t.Logf("%d records stored in %v", n, time.Since(began).Round(time.Millisecond))
	quiet := read200(t, c, tokens)
	pause := time.NewTimer(min(20*time.Second, time.Duration(n)*time.Millisecond))
	<-pause.C
	reads, before := quiet.end()
	load := read200(t, c, tokens)
	var rotation, job jobAnswer
	began = time.Now()
	c.want(t, http.StatusAccepted, http.MethodPost, "/v1/keys/wrap/rotate", nil, &rotation)
	for limit := time.Now().Add(10 * time.Minute); job.State != "completed" && job.State != "failed" && time.Now().Before(limit); {
		<-time.NewTimer(50 * time.Millisecond).C
		c.want(t, http.StatusOK, http.MethodGet, "/v1/jobs/"+rotation.Job, nil, &job)
	}
	took := time.Since(began)
	meanwhile, during := load.end()
	if job.State != "completed" || job.Done != n {
		t.Errorf("the job: %+v", job)
	}
	t.Logf("quiet: %d reads, p99 %v; rotating %d records in %v: %d reads, %d failed, p99 %v, ratio %.2f", reads, before, n,
		took.Round(time.Millisecond), meanwhile, load.failed.Load(), during, float64(during)/float64(before))
	wrapped(t, d.DatabaseURL, n)
}

// wrapped wants all DEKs to be wrapped by one key.
func wrapped(t *testing.T, database string, n int) {
	t.Helper()
	if keys := vaulttest.CountURL(t, database, `select count(distinct substring(wrapped from 2 for 4)) from keystore.data_keys`); keys != 1 {
		t.Errorf("the DEKs are wrapped by %d keys", keys)
	}
	if got := vaulttest.CountURL(t, database, `select count(*) from keystore.data_keys`); got != n {
		t.Errorf("%d DEKs, want %d", got, n)
	}
}

// A server that is killed in the middle of it goes on when it comes back, and every record opens.
func TestKilledInTheMiddleOfARotation(t *testing.T) {
	t.Parallel()
	const n = 20_000
	d := startDev(t, t.TempDir(), "--no-sample")
	c := d.caller()
	tokens := store(t, c, n)
	var rotation, job jobAnswer
	c.want(t, http.StatusAccepted, http.MethodPost, "/v1/keys/wrap/rotate", nil, &rotation)
	eventually(t, "the job has begun", func() bool {
		c.want(t, http.StatusOK, http.MethodGet, "/v1/jobs/"+rotation.Job, nil, &job)
		return job.Done > 0
	})
	d.kill(t)
	if job.State == "completed" {
		t.Fatal("the kill came too late to show anything")
	}
	again := startDev(t, d.dir, "--no-sample")
	// As if a minute had passed: the queue waits that long before it takes a job from a worker.
	vaulttest.ExecURL(t, again.DatabaseURL, `update river.river_job set attempted_at = attempted_at - interval '1 hour' where kind = 'job' and state = 'running'`)
	c = again.caller()
	before := job.Done
	for range 2400 {
		c.want(t, http.StatusOK, http.MethodGet, "/v1/jobs/"+rotation.Job, nil, &job)
		if job.State == "completed" {
			break
		}
		<-time.NewTimer(50 * time.Millisecond).C
	}
	t.Logf("%d of %d were done when the server was killed; afterwards %+v", before, n, job)
	if job.State != "completed" || job.Done != n {
		t.Errorf("the job: %+v", job)
	}
	wrapped(t, again.DatabaseURL, n)
	for _, value := range c.reveal(t, tokens) {
		if value == "" {
			t.Fatal("a token reveals nothing")
		}
	}
}

func TestKeysAreListedAndRotatedFromTheCommandLine(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample")
	c := d.caller()
	c.collection(t, "people", map[string]string{"email": "email"})
	token := c.tokenize(t, "people", "email", "jane@example.com")
	env := []string{"PRIVAULT_DATABASE_URL=" + d.DatabaseURL, "PRIVAULT_KMS=local://" + d.file("kms.keyset") + "?key-file=" + d.file("kms.key")}
	got := run1(t, env, "keys", "rotate", "wrap", "--tenant", "dev", "--wait").want(t, 0)
	if !strings.Contains(got.out, "key wrap\nversion 2\njob job_") || !strings.Contains(got.out, "done 1\n") {
		t.Errorf("printed %q", got.out)
	}
	got = run1(t, env, "keys", "list", "--tenant", "dev").want(t, 0)
	if words := strings.Join(strings.Fields(got.out), " "); !strings.Contains(words, "wrap 1 active XAES-256-GCM "+time.Now().UTC().Format(time.DateOnly)+" 0 -") ||
		!strings.Contains(words, "wrap 2 primary XAES-256-GCM") {
		t.Errorf("printed %s", got.out)
	}
	if values := c.reveal(t, []string{token}); values[0] != "jane@example.com" {
		t.Errorf("the token stands for %q", values[0])
	}
	run1(t, env, "keys", "rotate", "nonsense", "--tenant", "dev").want(t, exitFailed)
	run1(t, env, "keys", "list", "--tenant", "nobody").want(t, exitFailed)
}

func TestDoctorSaysWhatIndexesTell(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample")
	c := d.caller()
	c.want(t, http.StatusCreated, http.MethodPut, "/v1/collections/people", `{"fields":{"colour":{"type":"string","index":["exact"]}}}`, nil)
	items := slices.Repeat([]string{`{"fields":{"colour":"red"}}`, `{"fields":{"colour":"green"}}`, `{"fields":{"colour":"green"}}`}, 100)
	c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", `{"collection":"people","items":[`+strings.Join(items, ",")+`]}`, nil)
	env := []string{"PRIVAULT_DATABASE_URL=" + d.DatabaseURL, "PRIVAULT_KMS=local://" + d.file("kms.keyset") + "?key-file=" + d.file("kms.key")}
	got := run1(t, env, "doctor").want(t, exitFailed) // the development database's owner is bound by nothing
	words := strings.Join(strings.Fields(got.out), " ")
	for _, want := range []string{"ok ready", "ok clock", "fault database the database role", "warning dev.people.colour.exact 300 2 200 100.0 % 0.9 bit there are 2 values"} {
		if !strings.Contains(words, want) {
			t.Errorf("it doesn't say %q: %s", want, got.out)
		}
	}
	if strings.Contains(got.out, "green") {
		t.Error("it names a value")
	}
	if got := run1(t, env, "doctor", "--no-open").want(t, exitFailed); strings.Contains(got.out, "colour") {
		t.Errorf("without opening anything it says %s", got.out)
	}
	run1(t, env, "doctor", "--tenant", "nobody").want(t, exitFailed)
}
