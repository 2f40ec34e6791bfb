package vault_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// The race: what is asked of one person, and what came of it.
type (
	deed struct {
		person int
		verb   string // write, read, delete, erase, hold
		token  string // read and deleted
	}
	outcome struct {
		kind  string // ok, held, gone
		token string // written
	}
	// personState is what one person's state must be if things happened one after the other.
	personState struct {
		held  bool
		alive string // tokens, each between two spaces
	}
)

// personModel says what may come of a deed: a token gives its value from its writing until it is deleted or the person erased, and never
// again; who is held loses nothing.
var personModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		of := map[int][]porcupine.Operation{}
		for _, o := range history {
			person := o.Input.(deed).person
			of[person] = append(of[person], o)
		}
		all := make([][]porcupine.Operation, 0, len(of))
		for _, one := range of {
			all = append(all, one)
		}
		return all
	},
	Init: func() any { return personState{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(personState), input.(deed), output.(outcome)
		alive := strings.Contains(s.alive, " "+in.token+" ")
		switch in.verb {
		case "write":
			s.alive += " " + out.token + " "
			return out.kind == "ok", s
		case "hold":
			s.held = true
			return out.kind == "ok", s
		case "read":
			return (out.kind == "ok") == alive, s
		case "delete":
			want := "ok"
			if !alive {
				want = "gone"
			} else if s.held {
				want = "held"
			}
			if want == "ok" {
				s.alive = strings.Replace(s.alive, " "+in.token+" ", "", 1)
			}
			return out.kind == want, s
		default: // erase
			if s.held {
				return out.kind == "held", s
			}
			s.alive = ""
			return out.kind == "ok", s
		}
	},
}

// race is a history in the making.
type race struct {
	*vaulttest.Bench
	who      vault.Caller
	replicas []*vault.Vault
	began    time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	tokens  map[int][]string  // of each person
	records map[string]string // token → record
}

func (r *race) do(client int, d deed) error {
	v := r.replicas[client%len(r.replicas)]
	r.mu.Lock()
	if known := r.tokens[d.person]; d.token == "" && (d.verb == "read" || d.verb == "delete") {
		d.token = known[rand.IntN(len(known))]
	}
	record := r.records[d.token]
	r.mu.Unlock()
	called := time.Since(r.began)
	out, made, err := r.ask(v, d, record)
	returned := time.Since(r.began)
	if err != nil {
		return fmt.Errorf("%s: %w", d.verb, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if out.token != "" {
		r.tokens[d.person], r.records[out.token] = append(r.tokens[d.person], out.token), made
	}
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: d, Call: int64(called), Output: out, Return: int64(returned)})
	return nil
}

// ask does it, and gives what came of it, and the record that was made.
func (r *race) ask(v *vault.Vault, d deed, record string) (out outcome, made string, err error) {
	ctx, person := r.T().Context(), fmt.Sprintf("person-%d", d.person)
	out.kind = "ok"
	switch d.verb {
	case "write":
		item := vaulttest.Item(map[string]string{"name": "Jane"})
		item.Subject = person
		done, err := v.Tokenize(ctx, r.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
		if err == nil && done[0].Err != nil {
			err = done[0].Err
		}
		if err != nil {
			return out, "", err
		}
		out.token = done[0].Tokens["name"]
		return out, done[0].Record, nil
	case "read":
		switch got := vaulttest.RevealOn(r.T(), v, r.who, d.token); got {
		case jane:
		case string(vault.TokenNotFound):
			out.kind = "gone"
		default:
			err = fmt.Errorf("it gives %s", got)
		}
	case "delete":
		err = v.DeleteRecord(ctx, r.who, "people", record, 0)
	case "hold":
		_, err = v.PlaceHold(ctx, r.who, vault.Hold{Matter: "case-1", Subject: person})
	case "erase":
		var e vault.Erasure
		if e, err = v.EraseSubject(ctx, r.who, person, "gdpr-17", false); e.State == vault.ErasureDeferred {
			out.kind = "held"
		}
	}
	switch {
	case err == nil:
	case vault.AsError(err).Kind == vault.NotFound:
		out.kind, err = "gone", nil
	case vault.AsError(err).Kind == vault.LegalHold:
		out.kind, err = "held", nil
	}
	return out, "", err
}

// A thousand people, of whom 16 at once write, read, delete, erase and hold, on two replicas: whatever happened could have happened one after the
// other. So a read that began after an erasure was acknowledged never yields, and nothing that is held goes.
func TestErasuresHoldsReadsAndWritesAreLinearizable(t *testing.T) {
	t.Parallel()
	const persons, together, workers = 1000, 8, 16
	b := vaulttest.New(t)
	r := &race{Bench: b, who: b.Tenant(), replicas: []*vault.Vault{b.Vault, b.Replica()}, began: time.Now(), tokens: map[int][]string{}, records: map[string]string{}}
	b.Work() // rows are purged meanwhile
	r.Collection(r.who, "people", map[string]string{"name": "string"})
	var next atomic.Int64
	var deeds []deed
	run := func() {
		var wait sync.WaitGroup
		next.Store(0)
		for client := range workers {
			wait.Go(func() {
				for n := next.Add(1); int(n) <= len(deeds); n = next.Add(1) {
					if err := r.do(client, deeds[n-1]); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	for person := range persons {
		deeds = append(deeds, deed{person: person, verb: "write"})
	}
	run()
	// A few people at a time, so that what is done to each of them happens at once.
	deeds = nil
	for first := 0; first < persons; first += together {
		var some []deed
		for person := first; person < first+together; person++ {
			verbs := []string{"write", "write", "read", "read", "read", "read", "delete", "erase", "erase"}
			if person%2 == 0 {
				verbs = append(verbs, "hold")
			}
			for _, verb := range verbs {
				some = append(some, deed{person: person, verb: verb})
			}
		}
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		deeds = append(deeds, some...)
	}
	run()
	// And at the end everything that was ever written, on both.
	deeds = nil
	for person, tokens := range r.tokens {
		for _, token := range tokens {
			deeds = append(deeds, deed{person, "read", token}, deed{person, "read", token})
		}
	}
	run()
	count := map[string]int{}
	for _, o := range r.history {
		count[o.Input.(deed).verb+" "+o.Output.(outcome).kind]++
	}
	t.Logf("%d operations in %v: %v", len(r.history), time.Since(r.began).Round(time.Millisecond), count)
	for _, must := range []string{"read ok", "read gone", "erase ok", "erase held", "delete ok", "delete held", "delete gone"} {
		if count[must] == 0 {
			t.Errorf("the race has no %q", must)
		}
	}
	for _, one := range personModel.Partition(r.history) {
		if got := porcupine.CheckOperationsTimeout(personModel, one, time.Minute); got != porcupine.Ok {
			slices.SortFunc(one, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
			for _, o := range one {
				t.Logf("%v to %v: %+v: %+v", time.Duration(o.Call), time.Duration(o.Return), o.Input, o.Output)
			}
			t.Fatalf("a history is not linearizable: %s", got)
		}
	}
	// The model must be able to say no: one read that yields after an erasure.
	i := slices.IndexFunc(r.history, func(o porcupine.Operation) bool {
		return o.Input.(deed).verb == "read" && o.Output.(outcome).kind == "gone"
	})
	wrong := slices.Clone(r.history)
	wrong[i].Output = outcome{kind: "ok"}
	wrong[i].Call, wrong[i].Return = int64(time.Since(r.began)), int64(time.Since(r.began))
	if porcupine.CheckOperations(personModel, wrong) {
		t.Error("a read of what is gone passes for good")
	}
}
