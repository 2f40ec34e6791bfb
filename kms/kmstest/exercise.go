// Package kmstest has the conformance suite that every KMS provider passes, and a Key with faults to switch on.
package kmstest

import (
	"context"
	"testing"
	"time"

	"github.com/privault/privault/kms"
)

// Provider is one provider in a world of its own, with its hooks into that world. A hook left nil is one that the
// provider has no such thing for, and its stories aren't told; Open and Foreign every provider has.
type Provider struct {
	// Open opens the key under test. Every call opens the same key.
	Open func(ctx context.Context) (kms.Key, error)
	// Foreign opens another key of the same provider, always the same one.
	Foreign func(ctx context.Context) (kms.Key, error)

	// InMemory says that an open Key holds the key material itself, as local does: what happens to the key
	// later (rotation, deletion) shows when it is opened the next time, and not before.
	InMemory bool

	// Rotate adds a version to the key, which wraps from then on.
	Rotate func() error
	// Retire takes all versions but the newest out of use, by which the KMS refuses what they wrapped.
	Retire func() error
	// Delete deletes the key for good, or schedules its deletion. For local, it removes the keyset file.
	Delete func() error
	// Disable disables the key, or enables it again.
	Disable func(on bool) error
	// Outage makes the KMS refuse connections or answer 5xx, or ends that.
	Outage func(on bool) error
	// Stall makes the KMS take calls and not answer, or ends that.
	Stall func(on bool) error
	// Throttle makes the KMS turn away the next calls, as over quota; 0 ends that.
	Throttle func(calls int) error
}

// Exercise tells every story of the suite that applies, each as a parallel subtest with a Provider of its own.
// Setup makes the key, and the KMS if it has to be a stand-in; what it opens it closes in t.Cleanup.
func Exercise(t *testing.T, setup func(t *testing.T) Provider) {
	t.Helper()
	probe := setup(t)
	for _, s := range stories {
		if s.applies != nil && !s.applies(probe) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), storyTime)
			defer cancel()
			if err := s.tell(ctx, setup(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

const (
	// storyTime is for a slow machine under the race detector.
	storyTime = time.Minute
	// prompt is how soon a call must return once its ctx has ended.
	prompt = 2 * time.Second
	// patience is the time given to a call that is bound to fail: long enough to reach the KMS, short enough
	// to sit through.
	patience = 300 * time.Millisecond
)

// story is one thing that every Key does. It returns an error and doesn't take a *testing.T, so that the tests
// of this package can tell it of a Key that breaks the contract and see it notice.
type story struct {
	name    string
	applies func(Provider) bool // nil: to all
	tell    func(ctx context.Context, p Provider) error
}

var stories = []story{
	{name: "round trip", tell: roundTrip},
	{name: "misuse refused", tell: misuseRefused},
	{name: "other associated data refused", tell: otherADRefused},
	{name: "flipped bits refused", tell: flippedBitsRefused},
	{name: "not a wrapped key refused", tell: garbageRefused},
	{name: "foreign key refused", tell: foreignRefused},
	{name: "wraps differ", tell: wrapsDiffer},
	{name: "slices stay the caller's", tell: slicesStay},
	{name: "URI names the key", tell: uriNames},
	{name: "ended context", tell: endedContext},
	{name: "concurrent use", tell: concurrentUse},
	{name: "opened again", tell: openedAgain},
	{name: "rewrapped", tell: rewrapped},
	{name: "rotated", applies: func(p Provider) bool { return p.Rotate != nil }, tell: rotated},
	{name: "rewrapped to the newest", applies: func(p Provider) bool { return p.Rotate != nil && p.Retire != nil }, tell: rewrappedToNewest},
	{name: "deleted", applies: func(p Provider) bool { return p.Delete != nil }, tell: deleted},
	{name: "disabled and enabled", applies: func(p Provider) bool { return p.Disable != nil }, tell: disabled},
	{name: "outage", applies: func(p Provider) bool { return p.Outage != nil }, tell: outage},
	{name: "stalled", applies: func(p Provider) bool { return p.Stall != nil }, tell: stalled},
	{name: "throttled", applies: func(p Provider) bool { return p.Throttle != nil }, tell: throttled},
}
