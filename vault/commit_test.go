package vault_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// crowd is a vault whose next group commit gathers what the test sends into it.
type crowd struct {
	*vaulttest.Bench
	who     vault.Caller
	open    func() // lets the commits go
	metrics *prometheus.Registry
	sent    int
	fillers chan error
}

func newCrowd(t *testing.T, options ...vaulttest.Option) *crowd {
	t.Helper()
	c := &crowd{metrics: prometheus.NewRegistry(), fillers: make(chan error, 100)}
	c.Bench = vaulttest.New(t, append(options, vaulttest.With(func(conf *vault.Config) { conf.Metrics = c.metrics }))...)
	c.Config.Metrics = nil // for replicas
	c.who = c.Tenant()
	c.Collection(c.who, "people", map[string]string{"name": "string", "email": "email"})
	c.MustTokenize(c.who, "people", map[string]string{"name": "warm"})
	return c
}

// gather closes the dam and keeps every lane busy: what comes now waits and travels together.
func (c *crowd) gather(t *testing.T) {
	t.Helper()
	c.open = dam(t, c.OwnerURL)
	for n := range vault.LightLanes() {
		go func() {
			_, err := c.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "filler"})})
			c.fillers <- err
		}()
		await(t, "a filler is in flight", func() bool {
			waiting, flying := c.Crowd(c.who.Tenant)
			return waiting == 0 && flying == n+1
		})
	}
}

// send runs an operation that ends in a group commit, and returns once that waits.
func (c *crowd) send(t *testing.T, do func()) {
	t.Helper()
	c.sent++
	go do()
	await(t, "a change waits", func() bool {
		waiting, _ := c.Crowd(c.who.Tenant)
		return waiting == c.sent
	})
}

type told struct {
	done []vault.Tokenized
	err  error
}

// neighbour sends a tokenize of one name.
func (c *crowd) neighbour(t *testing.T, name string) <-chan told {
	t.Helper()
	out := make(chan told, 1)
	c.send(t, func() {
		done, err := c.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": name})})
		out <- told{done, err}
	})
	return out
}

// stored fails the test unless a neighbour was told that its value is stored, and it is.
func (c *crowd) stored(t *testing.T, name string, out <-chan told) {
	t.Helper()
	got := <-out
	if got.err != nil || got.done[0].Err != nil {
		t.Fatalf("the neighbour %s got %v, %v", name, got.done, got.err)
	}
	if value := c.Reveal(c.who, got.done[0].Tokens["name"]); value != `"`+name+`"` {
		t.Errorf("the neighbour's token gives %s, want %q", value, name)
	}
}

// trips are the sizes of the group commits so far: how many, and how many changes in all.
func (c *crowd) trips(t *testing.T) (count uint64, changes float64) {
	t.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "privault_commit_group_size" {
			h := f.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum()
		}
	}
	t.Fatal("no metric of group sizes")
	return 0, 0
}

func TestOneConflictAmongFiftyFailsAlone(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrowd(t, options...)
			ctx := t.Context()
			// Another replica has used the Idempotency-Key for another body, and dropped a collection that this one knows.
			other := c.Replica()
			claim := func(body string) *vault.IdempotencyKey {
				return &vault.IdempotencyKey{Key: "order-1", Request: sha256.Sum256([]byte(body))}
			}
			first := vault.Batch{Collection: "people", Items: one(map[string]string{"name": "theirs"}), Claim: claim("theirs")}
			if _, err := other.Tokenize(ctx, c.who, first); err != nil {
				t.Fatal(err)
			}
			c.Collection(c.who, "gone", map[string]string{"name": "string"})
			if err := c.CanTokenize(ctx, c.who, "gone"); err != nil {
				t.Fatal(err)
			}
			if err := other.DeleteCollection(ctx, c.who, "gone", 0); err != nil {
				t.Fatal(err)
			}
			there := vault.RecordID(c.MustTokenize(c.who, "people", map[string]string{"name": "there"}).Record)
			before, changes := c.trips(t)

			c.gather(t)
			var neighbours []<-chan told
			for i := range 25 {
				neighbours = append(neighbours, c.neighbour(t, fmt.Sprint("early-", i)))
			}
			refused := map[string]chan error{}
			refuse := func(what string, do func() error) {
				out := make(chan error, 1)
				refused[what] = out
				c.send(t, func() { out <- do() })
			}
			refuse("key of another body", func() error {
				_, err := c.Tokenize(ctx, c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "ours"}), Claim: claim("ours")})
				return err
			})
			refuse("dropped collection", func() error {
				_, err := c.Tokenize(ctx, c.who, vault.Batch{Collection: "gone", Items: one(map[string]string{"name": "late"})})
				return err
			})
			raw := vault.Raw{Collection: "people", Sealed: []byte{1}, Wrapped: make([]byte, 77), Action: policy.Tokenize}
			rawly := func(what string, change func(*vault.Raw)) {
				r := raw
				r.Record = [16]byte{byte(len(refused))}
				change(&r)
				refuse(what, func() error { return c.CommitRaw(ctx, c.who, r) })
			}
			rawly("record that exists", func(r *vault.Raw) { r.Record = there })
			rawly("wrapped DEK that is too short", func(r *vault.Raw) { r.Wrapped = []byte{1, 2, 3} })
			rawly("action with a NUL", func(r *vault.Raw) { r.Action = "tokenize\x00" })
			for i := range 25 {
				neighbours = append(neighbours, c.neighbour(t, fmt.Sprint("late-", i)))
			}
			c.open()

			want := map[string]vault.Kind{
				"key of another body":           vault.IdempotencyConflict,
				"dropped collection":            vault.NotFound,
				"record that exists":            vault.Internal,
				"wrapped DEK that is too short": vault.Internal,
				"action with a NUL":             vault.Internal,
			}
			got := map[string]vault.Kind{}
			for what, out := range refused {
				got[what] = kind(<-out)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what must fail ends otherwise (-want +got):\n%s", diff)
			}
			for i, out := range neighbours {
				name := fmt.Sprint("early-", i)
				if i >= 25 {
					name = fmt.Sprint("late-", i-25)
				}
				c.stored(t, name, out)
			}
			after, all := c.trips(t)
			if after == before || all-changes < 55 {
				t.Errorf("%v changes in %d trips: the neighbours didn't travel together", all-changes, after-before)
			}
			if got := c.Count(`select count(*) from privault.records`); got != 50+vault.LightLanes()+3 {
				t.Errorf("%d records are stored", got)
			}
			if got := c.Count(`select count(*) from privault.records where sealed = '\x01'`); got != 0 {
				t.Errorf("%d records of changes that failed are stored", got)
			}
			if got := c.Reveal(c.who, c.token(t, there)); got != `"there"` {
				t.Errorf("the record that was there gives %s", got)
			}
		})
	}
}

func (c *crowd) token(t *testing.T, record [16]byte) string {
	t.Helper()
	token, err := c.TokenAt(t.Context(), c.who.Tenant, record, 2, 0) // fields are numbered by name: email, name
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestConflictsShareOneTrip(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.gather(t)
	var neighbours []<-chan told
	for i := range 50 {
		neighbours = append(neighbours, c.neighbour(t, fmt.Sprint("n-", i)))
	}
	before, changes := c.trips(t)
	c.open()
	for i, out := range neighbours {
		c.stored(t, fmt.Sprint("n-", i), out)
	}
	// The trip of the fifty, and one for the entry of each reveal above.
	after, all := c.trips(t)
	if trips := int(after - before); trips != 1+50 || int(all-changes) != 50+50 {
		t.Errorf("fifty that waited together took %d trips of %v changes", trips-50, all-changes-50)
	}
}

func TestCallerWhoGoesAwayLosesNothingOfOthers(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.open = dam(t, c.OwnerURL)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 2)
	tokenize := func(name string) {
		_, err := c.Tokenize(ctx, c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": name})})
		gone <- err
	}
	go tokenize("in flight")
	await(t, "a trip is held back", func() bool { return held(c.Bench, "privault.audit_entries") == 1 })
	for range vault.LightLanes() - 1 {
		go func() {
			_, err := c.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "filler"})})
			c.fillers <- err
		}()
	}
	await(t, "every lane is busy", func() bool {
		waiting, flying := c.Crowd(c.who.Tenant)
		return waiting == 0 && flying == vault.LightLanes()
	})
	before := c.neighbour(t, "before")
	c.send(t, func() { tokenize("waiting") })
	after := c.neighbour(t, "after")
	leave()
	for range 2 {
		wantKind(t, "a caller who went away", <-gone, vault.Cancelled)
	}
	c.open()
	c.stored(t, "before", before)
	c.stored(t, "after", after)
	// What was decided is done, with exactly one entry.
	if got := c.Count(`select count(*) from privault.records`); got != 1+4+vault.LightLanes()-1 {
		t.Errorf("%d records, want those of the callers who went away too", got)
	}
	if got := c.Count(`select count(*) from privault.audit_entries where action = 'tokenize'`); got != 1+4+vault.LightLanes()-1 {
		t.Errorf("%d entries, want one for each tokenize", got)
	}
	if got := c.Count(`select count(*) from privault.audit_entries where outcome <> 'ok'`); got != 0 {
		t.Errorf("%d entries of a failure", got)
	}
}

// patience is how long a promise that nothing comes is watched.
const patience = 150 * time.Millisecond

func TestNothingIsToldBeforeItsCommit(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	ctx := t.Context()
	v.Collection(who, "people", map[string]string{"name": "string"})
	there := v.MustTokenize(who, "people", map[string]string{"name": "Jane"})
	for what, do := range map[string]func() (any, error){
		"tokenize": func() (any, error) {
			return v.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Joe"})})
		},
		"tokenize of many": func() (any, error) {
			items := make([]vault.NewRecord, 200)
			for i := range items {
				items[i] = vaulttest.Item(map[string]string{"name": "Joe"})
			}
			return v.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: items})
		},
		"detokenize": func() (any, error) {
			return v.Detokenize(ctx, who, []vault.TokenRef{{Token: there.Tokens["name"], View: "plain"}})
		},
		"read": func() (any, error) { return v.GetRecord(ctx, who, "people", there.Record, nil, "plain") },
		"put collection": func() (any, error) {
			c, _, err := v.PutCollection(ctx, who, "new", vault.Definition{Fields: map[string]vault.FieldDefinition{"a": {Type: "string"}}}, 0)
			return c, err
		},
		"issue": func() (any, error) { return v.CreatePrincipal(ctx, who, "svc", []string{policy.Admin}) },
		"patch": func() (any, error) {
			return v.PatchRecord(ctx, who, "people", there.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
		},
	} {
		open := dam(t, v.OwnerURL)
		answer := make(chan error, 1)
		go func() {
			_, err := do()
			answer <- err
		}()
		await(t, "the commit is held back: "+what, func() bool { return held(v, "privault.audit_entries") == 1 })
		select {
		case err := <-answer:
			t.Errorf("%s answered (%v) before its commit", what, err)
			continue
		case <-time.After(patience):
		}
		open()
		if err := <-answer; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCloseFinishesWhatWasAccepted(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	other := c.Replica()
	c.gather(t)
	var accepted []<-chan told
	for i := range 20 {
		accepted = append(accepted, c.neighbour(t, fmt.Sprint("n-", i)))
	}
	closed := make(chan struct{})
	go func() {
		c.Close()
		close(closed)
	}()
	await(t, "the vault takes no more changes", func() bool { return c.Stopping(c.who.Tenant) })
	_, err := c.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "late"})})
	if wantKind(t, "tokenize while closing", err, vault.Overloaded); vault.AsError(err).RetryAfter == 0 {
		t.Error("overloaded doesn't say when to come back")
	}
	select {
	case <-closed:
		t.Error("the vault closed before what it had accepted was done")
	default:
	}
	c.open()
	for i, out := range accepted {
		got := <-out
		if got.err != nil {
			t.Fatalf("accepted before the close: %v", got.err)
		}
		if value := vaulttest.RevealOn(t, other, c.who, got.done[0].Tokens["name"]); value != fmt.Sprintf(`"n-%d"`, i) {
			t.Errorf("another replica gives %s", value)
		}
	}
	<-closed
	for range vault.LightLanes() {
		if err := <-c.fillers; err != nil {
			t.Error(err)
		}
	}
}

// A reader who goes away while the database is asked gets no answer, and the trip that goes on without it harms nobody.
func TestReaderWhoGoesAwayWhileReading(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	open := lock(t, w.OwnerURL, "privault.records in access exclusive mode")
	ctx, leave := context.WithCancel(t.Context())
	gone, stayed := make(chan error, 1), make(chan string, 1)
	go func() {
		_, err := w.Detokenize(ctx, w.who, []vault.TokenRef{{Token: w.record.Tokens["name"], View: "plain"}})
		gone <- err
	}()
	await(t, "the read is held back", func() bool { return held(w.Bench, "privault.records") == 1 })
	go func() { stayed <- w.Reveal(w.who, w.record.Tokens["name"]) }()
	leave()
	wantKind(t, "a reader who went away", <-gone, vault.Cancelled)
	open()
	if got := <-stayed; got != jane {
		t.Errorf("the reader who stayed got %s", got)
	}
	w.read(t, jane)
	if got := w.Count(`select count(*) from privault.audit_entries where action = 'detokenize' and outcome = 'ok'`); got != 2 {
		t.Errorf("%d entries of a reveal, want none of the reader who went away", got)
	}
}
