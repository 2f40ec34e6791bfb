package vault

import (
	"context"
	"slices"
	"sync"
	"time"
)

// group lets what arrives while a round trip to the database is in flight ride together in the next one. Nothing waits
// on purpose: an idle group sends at once, a busy one sends what has gathered.
//
// It is safe for concurrent use. A rider whose caller goes away travels on: what was decided is done and has its audit
// entry, and nothing changes for the others.
type group[T any] struct {
	lanes int                               // trips in flight at most
	load  int                               // weight of one trip at most; a heavier rider travels alone
	limit time.Duration                     // of one trip
	send  func(context.Context, []rider[T]) // settles every rider

	mu      sync.Mutex
	waiting []rider[T]
	flying  int
	closed  bool
	landed  sync.Cond // a lane has ended
}

// rider is one caller's part in a trip.
type rider[T any] struct {
	cargo  T
	weight int
	done   chan error // buffered: settling never waits
}

func (r rider[T]) settle(err error) { r.done <- err }

// maxWaiting bounds a group's riders: past it, callers are told to come back.
const maxWaiting = 20_000

func newGroup[T any](lanes, load int, limit time.Duration, send func(context.Context, []rider[T])) *group[T] {
	g := &group[T]{lanes: lanes, load: load, limit: limit, send: send}
	g.landed.L = &g.mu
	return g
}

// ride takes cargo along in the next trip and waits for its outcome. If ctx ends first, the outcome is not known.
func (g *group[T]) ride(ctx context.Context, cargo T, weight int) error {
	r := rider[T]{cargo, weight, make(chan error, 1)}
	g.mu.Lock()
	if g.closed || len(g.waiting) >= maxWaiting {
		g.mu.Unlock()
		return &Error{Kind: Overloaded, Detail: "too many calls are waiting, or the server is stopping", RetryAfter: time.Second}
	}
	g.waiting = append(g.waiting, r)
	if g.flying < g.lanes {
		g.flying++
		go g.fly()
	}
	g.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fly makes trips until nobody waits.
func (g *group[T]) fly() {
	for {
		aboard := g.board()
		if len(aboard) == 0 {
			return
		}
		// Not the context of any one rider: the trip is everybody's.
		ctx, cancel := context.WithTimeout(context.Background(), g.limit)
		g.send(ctx, aboard)
		cancel()
	}
}

// board takes the next trip's riders, or closes the lane when there are none.
func (g *group[T]) board() []rider[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	weight, n := 0, 0
	for n < len(g.waiting) && (n == 0 || weight+g.waiting[n].weight <= g.load) {
		weight += g.waiting[n].weight
		n++
	}
	if n == 0 {
		g.flying--
		g.landed.Broadcast()
		return nil
	}
	aboard := g.waiting[:n:n]
	g.waiting = slices.Clone(g.waiting[n:])
	return aboard
}

// close refuses new riders and waits for those that are aboard or waiting.
func (g *group[T]) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for g.flying > 0 {
		g.landed.Wait()
	}
}
