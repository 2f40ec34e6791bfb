package limit_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/privault/privault/api/limit"
	"github.com/privault/privault/vault/vaulttest"
)

func caller(n byte) limit.Caller {
	return limit.Caller{Tenant: [16]byte{1}, Principal: [16]byte{n}, Key: [16]byte{n}}
}

func refusal(t *testing.T, err error) *limit.Refusal {
	t.Helper()
	var r *limit.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("%v is no refusal", err)
	}
	return r
}

func enter(l *limit.Limiter, who limit.Caller) error {
	leave, err := l.Enter(context.Background(), who, 1)
	if err == nil {
		leave()
	}
	return err
}

// A burst passes at once, then the rate holds exactly, for each limit that is set.
func TestRatesHold(t *testing.T) {
	t.Parallel()
	rate := limit.Rate{PerSecond: 10, Burst: 5}
	for policy, c := range map[string]limit.Config{"principal": {Principal: rate}, "key": {Key: rate}, "tenant": {Tenant: rate}} {
		synctest.Test(t, func(t *testing.T) {
			l := limit.New(c, nil)
			passed := 0
			for range 100 { // ten seconds, ten a second
				for range 3 {
					if err := enter(l, caller(1)); err == nil {
						passed++
					} else if r := refusal(t, err); r.Policy != policy || r.After <= 0 || r.After > 100*time.Millisecond {
						t.Errorf("refused with %+v", r)
					}
				}
				time.Sleep(100 * time.Millisecond) //nolint:forbidigo // the clock of synctest
			}
			if passed != 5+99 {
				t.Errorf("%s: %d calls passed, want 104", policy, passed)
			}
		})
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Principal: limit.Rate{PerSecond: 1, Burst: 1}, Tenant: limit.Rate{PerSecond: 100, Burst: 3}}, nil)
		for n := range byte(3) {
			if err := enter(l, caller(n)); err != nil {
				t.Error(err)
			}
			if r := refusal(t, enter(l, caller(n))); r.Policy != "principal" {
				t.Errorf("refused with %+v", r)
			}
		}
		// What is refused for one limit isn't charged to another.
		if r := refusal(t, enter(l, caller(9))); r.Policy != "tenant" {
			t.Errorf("refused with %+v", r)
		}
		other := caller(9)
		other.Tenant = [16]byte{2}
		if err := enter(l, other); err != nil {
			t.Error("another tenant: ", err)
		}
	})
}

// A fast caller is slowed down first: at most 2 s, at most 20 calls at a time (D-4).
func TestCallersAreSlowedDownFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Principal: limit.Rate{PerSecond: 10, Burst: 10}, MaxDelay: limit.Duration(2 * time.Second), MaxWaiting: 20}, nil)
		start := time.Now()
		var passed, late, refused atomic.Int64
		var all sync.WaitGroup
		for range 5000 {
			all.Go(func() {
				if err := enter(l, caller(1)); err != nil {
					refused.Add(1)
					return
				}
				passed.Add(1)
				if took := time.Since(start); took > 0 {
					late.Add(1)
					if took > 2*time.Second {
						t.Errorf("a call waited %v", took)
					}
				}
			})
		}
		synctest.Wait()
		if err := enter(l, caller(2)); err != nil || time.Since(start) != 0 {
			t.Errorf("another principal: %v after %v", err, time.Since(start))
		}
		all.Wait()
		if passed.Load() != 30 || late.Load() != 20 || refused.Load() != 4970 {
			t.Errorf("%d passed, %d of them late, %d were refused; want 30, 20, 4970", passed.Load(), late.Load(), refused.Load())
		}
	})
}

func TestAWaitingCallerMayGoAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Principal: limit.Rate{PerSecond: 1, Burst: 1}, MaxDelay: limit.Duration(2 * time.Second), MaxWaiting: 1}, nil)
		if err := enter(l, caller(1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := l.Enter(ctx, caller(1), 1); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(time.Second) //nolint:forbidigo // the clock of synctest
		if err := enter(l, caller(1)); err != nil {
			t.Error("its place is free again: ", err)
		}
	})
}

func TestCostsCount(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{Costs: map[string]int{"POST /v1/tokenize": 7}}, nil)
	for want, got := range map[int]int{1: l.Cost("GET /v1/collections", 0), 7: l.Cost("POST /v1/tokenize", 4095), 8: l.Cost("POST /v1/tokenize", 4096),
		20: l.Cost("POST /v1/subjects/:subject/erasure", 0), 17: l.Cost("POST /v1/detokenize", -1), 2049: l.Cost("POST /v1/detokenize", 8<<20)} {
		if got != want {
			t.Errorf("cost %d, want %d", got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Principal: limit.Rate{PerSecond: 10, Burst: 10}}, nil)
		if _, err := l.Enter(t.Context(), caller(1), 9); err != nil {
			t.Error(err)
		}
		if r := refusal(t, func() error { _, err := l.Enter(t.Context(), caller(1), 5); return err }()); r.After != 400*time.Millisecond {
			t.Errorf("refused with %+v", r)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // the clock of synctest
		if _, err := l.Enter(t.Context(), caller(1), 5000); err != nil {
			t.Error("what costs more than a burst takes a whole one: ", err)
		}
	})
}

func TestQuotasHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Quotas: limit.Quotas{Principal: limit.Quota{Day: 5, Month: 12}, Tenant: limit.Quota{Day: 8}}}, nil)
		count := func(n byte) (passed int, last *limit.Refusal) {
			for range 20 {
				if err := enter(l, caller(n)); err == nil {
					passed++
				} else {
					last = refusal(t, err)
				}
			}
			return passed, last
		}
		for _, want := range []struct {
			who    byte
			passed int
			policy string
			after  time.Duration
		}{{1, 5, "quota-principal-day", 24 * time.Hour}, {2, 3, "quota-tenant-day", 24 * time.Hour}} {
			if passed, r := count(want.who); passed != want.passed || !r.Quota || r.Policy != want.policy || r.After != want.after {
				t.Errorf("%d passed, then %+v; want %+v", passed, r, want)
			}
		}
		for _, want := range []int{5, 2, 0} { // the month holds 12
			time.Sleep(24 * time.Hour) //nolint:forbidigo // the clock of synctest
			if passed, _ := count(1); passed != want {
				t.Errorf("%d passed on the next day, want %d", passed, want)
			}
		}
		time.Sleep(30 * 24 * time.Hour) //nolint:forbidigo // likewise
		if passed, _ := count(1); passed != 5 {
			t.Errorf("%d passed in the next month", passed)
		}
	})
}

func TestCallsAtOnceAreCapped(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{Concurrency: limit.Concurrency{Principal: 2, Tenant: 3}}, nil)
	in := func(n byte) (func(), error) { return l.Enter(t.Context(), caller(n), 1) }
	var leave []func()
	for _, n := range []byte{1, 1, 2} {
		f, err := in(n)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, f)
	}
	_, err := in(1)
	if r := refusal(t, err); r.Policy != "concurrency-principal" {
		t.Errorf("refused with %+v", r)
	}
	_, err = in(2)
	if r := refusal(t, err); r.Policy != "concurrency-tenant" {
		t.Errorf("refused with %+v", r)
	}
	leave[0]()
	if _, err := in(2); err != nil {
		t.Error("when one has left: ", err)
	}
}

// S-7: an address is charged as one, and an IPv6 client for all that it may call itself.
func TestAddressesAreCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Address: limit.Rate{PerSecond: 1, Burst: 2}}, nil)
		for i, row := range []struct {
			address string
			passes  bool
		}{{"192.0.2.1", true}, {"::ffff:192.0.2.1", true}, {"192.0.2.1", false}, {"192.0.2.2", true},
			{"2001:db8::1", true}, {"2001:db8::ffff:2", true}, {"2001:db8::3%eth0", false}, {"2001:db8:0:1::1", true}} {
			if err := l.Arrive(netip.MustParseAddr(row.address), 1); (err == nil) != row.passes {
				t.Errorf("%d: %s: %v", i, row.address, err)
			}
		}
	})
}

// Guessing keys is dearer than calling, and shuts an address out for half a minute at most (D-9).
func TestFailedAttemptsAreDear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Address: limit.Rate{PerSecond: 100, Burst: 200}, FailedAttempt: 50}, nil)
		guesser, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		guesses := 0
		for range 60 * 1000 {
			if l.Arrive(guesser, 1) == nil {
				l.Fail(guesser)
				guesses++
			}
			time.Sleep(time.Millisecond) //nolint:forbidigo // the clock of synctest
		}
		if guesses < 110 || guesses > 125 {
			t.Errorf("%d guesses in a minute, want some 120", guesses)
		}
		for range 1000 {
			l.Fail(guesser)
		}
		if r := refusal(t, l.Arrive(guesser, 1)); r.After < 29*time.Second || r.After > 31*time.Second {
			t.Errorf("refused for %v", r.After)
		}
		if err := l.Arrive(other, 1); err != nil {
			t.Error("another address: ", err)
		}
	})
}

// Whoever comes from ever new addresses fills no memory, and is limited in the end.
func TestCountersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit.New(limit.Config{Address: limit.Rate{PerSecond: 0.01, Burst: 10}}, nil)
		passed := 0
		for i := range 300_000 {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], uint32(i))
			if l.Arrive(netip.AddrFrom4(a), 1) == nil {
				passed++
			}
		}
		if passed != 200_010 {
			t.Errorf("%d passed", passed)
		}
	})
}

func values(from, n int) [][8]byte {
	all := make([][8]byte, n)
	for i := range all {
		binary.BigEndian.PutUint64(all[i][:], uint64(from+i))
	}
	return all
}

// I-5: how many different values somebody may ask about in a day is bounded; the same again is free.
func TestDistinctValuesAreBounded(t *testing.T) {
	t.Parallel()
	redis := vaulttest.NewRedis(t)
	for name, c := range map[string]limit.Config{"memory": {Distinct: 100}, "Redis": {Distinct: 100, Redis: &limit.Redis{URL: redis.URL}}} {
		l := limit.New(c, nil)
		defer l.Close()
		ask := func(n byte, scope string, v [][8]byte) error {
			return l.Distinct(t.Context(), caller(n), scope, v, false)
		}
		for _, v := range [][][8]byte{values(0, 60), values(0, 60), values(20, 80), values(0, 100)} {
			if err := ask(1, "people.email", v); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if r := refusal(t, ask(1, "people.email", values(99, 2))); !r.Quota || r.After <= 0 || r.After > 24*time.Hour {
			t.Errorf("%s: refused with %+v", name, r)
		}
		if err := errors.Join(ask(1, "people.email", values(0, 100)), ask(1, "people.pan", values(500, 100)), ask(2, "people.email", values(500, 100))); err != nil {
			t.Errorf("%s: known values, another field, another principal: %v", name, err)
		}
	}
}

// A quota of 10,000 under 64 clients on two replicas with one Redis is kept to the unit.
func TestReplicasShareOneRedis(t *testing.T) {
	t.Parallel()
	redis := vaulttest.NewRedis(t)
	c := limit.Config{Quotas: limit.Quotas{Principal: limit.Quota{Day: 10_000}}, Redis: &limit.Redis{URL: redis.URL, Timeout: 10 * time.Second, Closed: true}}
	replicas := []*limit.Limiter{limit.New(c, nil), limit.New(c, nil)}
	var passed, refused atomic.Int64
	var all sync.WaitGroup
	for client := range 64 {
		all.Go(func() {
			for range 200 {
				err := enter(replicas[client%2], caller(1))
				var r *limit.Refusal
				switch {
				case err == nil:
					passed.Add(1)
				case errors.As(err, &r) && r.Policy == "quota-principal-day":
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 10_000 || refused.Load() != 2_800 {
		t.Errorf("%d calls passed and %d were refused, want 10000 and 2800", passed.Load(), refused.Load())
	}
	for _, l := range replicas {
		l.Close()
	}
}

// The rate of one bucket holds over all replicas, and slows callers down as in memory.
func TestRatesHoldAcrossReplicas(t *testing.T) {
	t.Parallel()
	redis := vaulttest.NewRedis(t)
	c := limit.Config{Principal: limit.Rate{PerSecond: 0.001, Burst: 500}, Redis: &limit.Redis{URL: redis.URL, Timeout: 10 * time.Second, Closed: true}}
	replicas := []*limit.Limiter{limit.New(c, nil), limit.New(c, nil)}
	var passed atomic.Int64
	var all sync.WaitGroup
	for client := range 16 {
		all.Go(func() {
			for range 50 {
				if enter(replicas[client%2], caller(1)) == nil {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 500 {
		t.Errorf("%d calls passed, want 500", passed.Load())
	}
	slow := limit.New(limit.Config{Key: limit.Rate{PerSecond: 20, Burst: 1}, MaxDelay: limit.Duration(time.Second), MaxWaiting: 5, Redis: c.Redis}, nil)
	start := time.Now()
	for range 5 {
		if err := enter(slow, caller(2)); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("five calls at 20 a second took %v", took)
	}
	for _, l := range append(replicas, slow) {
		l.Close()
	}
}

// While Redis is away, calls are refused or each replica counts for itself, as the operator chose; when it is back, it counts.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	redis := vaulttest.NewRedis(t)
	redis.Stop()
	limits := func(closed bool) *limit.Limiter {
		l := limit.New(limit.Config{Principal: limit.Rate{PerSecond: 0.001, Burst: 3}, Redis: &limit.Redis{URL: redis.URL, Timeout: 10 * time.Second, Closed: closed}}, nil)
		t.Cleanup(l.Close)
		return l
	}
	open, closed := limits(false), limits(true)
	for i := range 4 {
		if err := enter(open, caller(1)); (err == nil) != (i < 3) {
			t.Errorf("open, call %d: %v", i, err)
		}
		if err := enter(closed, caller(1)); !errors.Is(err, limit.ErrAway) {
			t.Errorf("closed, call %d: %v", i, err)
		}
	}
	if _, err := closed.First(t.Context(), [32]byte{1}, time.Minute); !errors.Is(err, limit.ErrAway) {
		t.Errorf("a proof: %v", err)
	}
	redis.Start()
	deadline := time.Now().Add(20 * time.Second)
	for errors.Is(enter(closed, caller(2)), limit.ErrAway) {
		if time.Now().After(deadline) {
			t.Fatal("it is never back")
		}
		<-time.After(50 * time.Millisecond)
	}
	for want := range 2 {
		if fresh, err := closed.First(t.Context(), [32]byte{1}, time.Minute); err != nil || fresh != (want == 0) {
			t.Errorf("the same proof, time %d: %t %v", want+1, fresh, err)
		}
	}
}

func TestConfigsFaults(t *testing.T) {
	t.Parallel()
	if faults := limit.Defaults().Faults(); len(faults) > 0 {
		t.Error(faults)
	}
	for name, c := range map[string]limit.Config{
		"a rate without a burst": {Principal: limit.Rate{PerSecond: 1}}, "a burst without a rate": {Tenant: limit.Rate{Burst: 1}}, "a negative rate": {Key: limit.Rate{PerSecond: -1, Burst: 1}},
		"a long delay": {MaxDelay: limit.Duration(time.Minute)}, "a negative quota": {Quotas: limit.Quotas{Tenant: limit.Quota{Month: -1}}}, "a negative cost": {Costs: map[string]int{"x": -1}},
		"many waiting": {MaxWaiting: 1001}, "a negative cap": {Concurrency: limit.Concurrency{Tenant: -1}},
	} {
		if len(c.Faults()) == 0 {
			t.Errorf("%s passes", name)
		}
	}
}

func BenchmarkEnter(b *testing.B) {
	b.ReportAllocs()
	fast := limit.Rate{PerSecond: 1e6, Burst: 1e9}
	c := limit.Defaults()
	c.Principal, c.Key, c.Tenant, c.Address = fast, fast, fast, fast
	c.Quotas.Principal.Day = 1e12
	l := limit.New(c, nil)
	from := netip.MustParseAddr("192.0.2.1")
	for i := 0; b.Loop(); i++ {
		_ = l.Arrive(from, 1)
		leave, err := l.Enter(b.Context(), caller(byte(i)), 1)
		if err == nil {
			leave()
		}
	}
}

func ExampleRefusal() {
	fmt.Println(&limit.Refusal{Policy: "principal", After: time.Second})
	// Output: the limit "principal" is reached; try again after 1s
}
