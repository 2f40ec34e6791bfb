package vault

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// station is a group whose trips depart and land when the test says so.
type station struct {
	*group[int]
	departed chan []int // the cargo of each trip, as it departs
	land     chan error // one for each trip: how it ends
}

func newStation(lanes, load int) *station {
	s := &station{departed: make(chan []int, 100), land: make(chan error)}
	s.group = newGroup(lanes, load, time.Minute, func(_ context.Context, rs []rider[int]) {
		var cargo []int
		for _, r := range rs {
			cargo = append(cargo, r.cargo)
		}
		s.departed <- cargo
		err := <-s.land
		for _, r := range rs {
			r.settle(err)
		}
	})
	return s
}

// board queues cargo without waiting for its outcome: its caller has gone away already.
func (s *station) board(t *testing.T, cargo, weight int) {
	t.Helper()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.ride(gone, cargo, weight); !errors.Is(err, context.Canceled) {
		t.Fatalf("a rider whose caller has gone away got %v", err)
	}
}

func (s *station) trip(t *testing.T, want ...int) {
	t.Helper()
	if diff := cmp.Diff(want, <-s.departed); diff != "" {
		t.Errorf("the trip carries other cargo (-want +got):\n%s", diff)
	}
}

func TestGroupSendsAtOnceWhenIdleAndGathersWhenBusy(t *testing.T) {
	t.Parallel()
	s := newStation(1, 100)
	s.board(t, 1, 1)
	s.trip(t, 1)
	for cargo := 2; cargo <= 6; cargo++ {
		s.board(t, cargo, 1)
	}
	if len(s.departed) != 0 {
		t.Error("a second trip departed while the only lane was in flight")
	}
	s.land <- nil
	s.trip(t, 2, 3, 4, 5, 6)
	s.land <- nil
	s.close()
}

func TestGroupCarriesNoMoreThanItsLoad(t *testing.T) {
	t.Parallel()
	s := newStation(1, 10)
	s.board(t, 0, 1)
	s.trip(t, 0)
	for cargo, weight := range []int{6, 4, 1, 99, 10, 5, 6} {
		s.board(t, cargo+1, weight)
	}
	for _, want := range [][]int{{1, 2}, {3}, {4}, {5}, {6}, {7}} { // the load of 99 travels alone
		s.land <- nil
		s.trip(t, want...)
	}
	s.land <- nil
	s.close()
}

func TestGroupKeepsToItsLanes(t *testing.T) {
	t.Parallel()
	s := newStation(2, 100)
	s.board(t, 1, 1)
	s.trip(t, 1)
	s.board(t, 2, 1)
	s.trip(t, 2)
	s.board(t, 3, 1)
	s.board(t, 4, 1)
	if len(s.departed) != 0 {
		t.Error("a third trip departed with two lanes")
	}
	s.land <- nil
	s.trip(t, 3, 4)
	s.land <- nil
	s.land <- nil
	s.close()
	if s.flying != 0 {
		t.Errorf("%d lanes are in flight after close", s.flying)
	}
}

func TestGroupGivesEachRiderTheOutcomeOfItsTrip(t *testing.T) {
	t.Parallel()
	s := newStation(1, 100)
	lost := errors.New("lost")
	outcome := make(chan error, 1)
	go func() { outcome <- s.ride(t.Context(), 1, 1) }()
	s.trip(t, 1)
	select {
	case err := <-outcome:
		t.Fatalf("the rider had an outcome (%v) before its trip landed", err)
	default:
	}
	s.land <- lost
	if err := <-outcome; !errors.Is(err, lost) {
		t.Errorf("the rider of a trip that failed got %v", err)
	}
	go func() { outcome <- s.ride(t.Context(), 2, 1) }()
	s.trip(t, 2)
	s.land <- nil
	if err := <-outcome; err != nil {
		t.Errorf("the rider of the next trip got %v", err)
	}
	s.close()
}

func TestGroupTripOutlivesItsRiders(t *testing.T) {
	t.Parallel()
	seen := make(chan error, 1)
	proceed := make(chan struct{})
	g := newGroup(1, 1, time.Minute, func(ctx context.Context, rs []rider[int]) {
		<-proceed
		if _, limited := ctx.Deadline(); !limited {
			t.Error("a trip has no limit")
		}
		seen <- ctx.Err()
		for _, r := range rs {
			r.settle(nil)
		}
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.ride(gone, 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("the rider got %v", err)
	}
	close(proceed)
	if err := <-seen; err != nil {
		t.Errorf("the trip's context ended with its rider's: %v", err)
	}
	g.close()
}

func TestGroupRefusesTooMany(t *testing.T) {
	t.Parallel()
	s := newStation(1, maxWaiting)
	s.board(t, 0, 1)
	s.trip(t, 0)
	for cargo := range maxWaiting {
		s.board(t, cargo+1, 1)
	}
	err := s.ride(t.Context(), -1, 1)
	if e := AsError(err); e.Kind != Overloaded || e.RetryAfter == 0 {
		t.Errorf("one too many got %v, want overloaded and when to come back", err)
	}
	s.land <- nil
	if got := len(<-s.departed); got != maxWaiting {
		t.Errorf("the next trip carries %d, want the %d that were accepted", got, maxWaiting)
	}
	s.land <- nil
	s.close()
}

func TestGroupCloseFinishesWhatItAccepted(t *testing.T) {
	t.Parallel()
	s := newStation(1, 1)
	s.board(t, 1, 1)
	s.trip(t, 1)
	s.board(t, 2, 1)
	closed := make(chan struct{})
	go func() {
		s.close()
		close(closed)
	}()
	s.land <- nil
	s.trip(t, 2)
	select {
	case <-closed:
		t.Error("close returned with a trip in flight")
	default:
	}
	s.land <- nil
	<-closed
	if err := s.ride(t.Context(), 3, 1); AsError(err).Kind != Overloaded {
		t.Errorf("a rider after close got %v", err)
	}
}

// Whatever comes: each rider travels once, in the order in which it came, and no trip is too heavy or too many.
func TestGroupProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lanes, load := rapid.IntRange(1, 4).Draw(t, "lanes"), rapid.IntRange(1, 20).Draw(t, "load")
		weights := rapid.SliceOfN(rapid.IntRange(1, 25), 1, 60).Draw(t, "weights")
		var mu sync.Mutex
		var carried []int
		flying, most := 0, 0
		g := newGroup(lanes, load, time.Minute, func(_ context.Context, rs []rider[int]) {
			weight := 0
			mu.Lock()
			flying++
			most = max(most, flying)
			for i, r := range rs {
				weight += r.weight
				carried = append(carried, r.cargo)
				if i > 0 && rs[i-1].cargo >= r.cargo {
					t.Errorf("%d travels behind %d", r.cargo, rs[i-1].cargo)
				}
			}
			mu.Unlock()
			if weight > load && len(rs) > 1 {
				t.Errorf("%d riders of weight %d with a load of %d", len(rs), weight, load)
			}
			mu.Lock()
			flying--
			mu.Unlock()
			for _, r := range rs {
				r.settle(nil)
			}
		})
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for cargo, weight := range weights {
			_ = g.ride(gone, cargo, weight)
		}
		g.close()
		slices.Sort(carried)
		if len(carried) != len(weights) || carried[0] != 0 || len(slices.Compact(carried)) != len(weights) {
			t.Errorf("carried %v of %d", carried, len(weights))
		}
		if most > lanes {
			t.Errorf("%d trips in flight with %d lanes", most, lanes)
		}
	})
}
