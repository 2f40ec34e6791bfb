package kmstest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/privault/privault/kms"
)

// Faulty is a Key that does what the Key under it does, until a switch is set. Tests of caching, time-outs and
// outages put it between a vault and a real key. It keeps the contract of kms.Key, faults included; all its
// methods are safe for concurrent use. A call first waits, as Hold and SetDelay stood when it came in, and then
// fails or not as SetDown and SetDenied stand by then: so a test can hold a call, break the KMS, and let it go.
type Faulty struct {
	key     kms.Key
	down    atomic.Bool
	denied  atomic.Bool
	delay   atomic.Int64
	held    atomic.Pointer[hold]
	wraps   atomic.Int64
	unwraps atomic.Int64
	flying  atomic.Int64
	peak    atomic.Int64
}

type hold struct{ released chan struct{} }

// NewFaulty returns key with all faults off.
func NewFaulty(key kms.Key) *Faulty { return &Faulty{key: key} }

// SetDown makes every call fail with kms.ErrUnavailable, as in an outage.
func (f *Faulty) SetDown(on bool) { f.down.Store(on) }

// SetDenied makes every call fail with kms.ErrDenied, as for a key that an operator disabled.
func (f *Faulty) SetDenied(on bool) { f.denied.Store(on) }

// SetDelay makes every call take at least d, or until its ctx ends.
func (f *Faulty) SetDelay(d time.Duration) { f.delay.Store(int64(d)) }

// Hold makes every call wait until release is called, or its ctx ends: what a test of single flight needs to
// have many callers waiting at once. Release may be called more than once; a second Hold replaces the first,
// whose release still frees the calls that it holds.
func (f *Faulty) Hold() (release func()) {
	h := &hold{released: make(chan struct{})}
	f.held.Store(h)
	var once atomic.Bool
	return func() {
		if once.CompareAndSwap(false, true) {
			f.held.CompareAndSwap(h, nil)
			close(h.released)
		}
	}
}

// Wraps counts the calls of Wrap as they come in, failed and held ones included.
func (f *Faulty) Wraps() int { return int(f.wraps.Load()) }

// Unwraps counts the calls of Unwrap as they come in, failed and held ones included.
func (f *Faulty) Unwraps() int { return int(f.unwraps.Load()) }

// Peak is the most calls that there were at once since it was last asked.
func (f *Faulty) Peak() int { return int(f.peak.Swap(0)) }

func (f *Faulty) enter() (leave func()) {
	for n, most := f.flying.Add(1), f.peak.Load(); n > most && !f.peak.CompareAndSwap(most, n); most = f.peak.Load() {
	}
	return func() { f.flying.Add(-1) }
}

// URI is that of the Key under it, whatever the switches say.
func (f *Faulty) URI() string { return f.key.URI() }

// Wrap is that of the Key under it, once the switches let it through.
func (f *Faulty) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	f.wraps.Add(1)
	defer f.enter()()
	if err := f.fault(ctx); err != nil {
		return nil, err
	}
	return f.key.Wrap(ctx, plaintext, ad)
}

// Unwrap is that of the Key under it, once the switches let it through.
func (f *Faulty) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	f.unwraps.Add(1)
	defer f.enter()()
	if err := f.fault(ctx); err != nil {
		return nil, err
	}
	return f.key.Unwrap(ctx, wrapped, ad)
}

// fault is nil when ctx has ended, because the Key under it then says so in the words that the contract asks for.
func (f *Faulty) fault(ctx context.Context) error {
	if h := f.held.Load(); h != nil {
		select {
		case <-h.released:
		case <-ctx.Done():
		}
	}
	if d := time.Duration(f.delay.Load()); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case f.down.Load():
		return fmt.Errorf("%w: switched down", kms.ErrUnavailable)
	case f.denied.Load():
		return fmt.Errorf("%w: switched off", kms.ErrDenied)
	}
	return nil
}
