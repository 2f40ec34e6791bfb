package kms

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Finding is what Check found out about one thing that a vault asks of a key.
type Finding struct {
	// Step is open, wrap, unwrap, bind (other associated data is refused), re-encrypt or unwrap again.
	Step string
	// First is how long the first call took, that connects and logs in as well; Then is the median of those that
	// followed, 0 where there were none.
	First, Then time.Duration
	// Err is nil if all is well.
	Err error
	// Spare is true for what the vault can do without.
	Spare bool
}

// checkRounds are the calls that are timed after the first.
const checkRounds = 3

// Check finds out whether the key that uri names does what a vault needs, with material of its own: each step once and,
// to be timed, a few times more. It ends with the first step that fails and isn't spare; each call gets timeout.
func Check(ctx context.Context, uri string, o Options, timeout time.Duration) []Finding {
	c := checker{ctx: ctx, timeout: timeout, secret: make([]byte, 32), ad: []byte("privault keys check " + rand.Text())}
	rand.Read(c.secret)
	var k Key
	c.step("open", 0, func(ctx context.Context) (err error) {
		k, err = Open(ctx, uri, o)
		return err
	})
	var wrapped []byte
	c.step("wrap", checkRounds, func(ctx context.Context) (err error) {
		wrapped, err = k.Wrap(ctx, c.secret, c.ad)
		return err
	})
	c.step("unwrap", checkRounds, func(ctx context.Context) error { return c.opens(ctx, k, wrapped) })
	c.step("bind", 0, func(ctx context.Context) error {
		_, err := k.Unwrap(ctx, wrapped, append(c.ad, 0))
		if errors.Is(err, ErrCorrupt) {
			return nil
		}
		if err == nil {
			return errors.New("the key opens what was wrapped under other associated data")
		}
		return err
	})
	c.reEncrypts(k, wrapped)
	return c.found
}

type checker struct {
	ctx        context.Context
	timeout    time.Duration
	secret, ad []byte
	found      []Finding
	failed     bool
}

// step does nothing once one has failed.
func (c *checker) step(name string, more int, do func(context.Context) error) {
	if c.failed {
		return
	}
	f := c.try(name, more, do)
	c.found, c.failed = append(c.found, f), f.Err != nil
}

// reEncrypts looks whether a KMS that can do so re-encrypts for us. Without, a rotation unwraps and wraps.
func (c *checker) reEncrypts(k Key, wrapped []byte) {
	r, ok := k.(rewrapper)
	if !ok || c.failed {
		return
	}
	f := c.try("re-encrypt", checkRounds, func(ctx context.Context) error {
		again, err := r.rewrap(ctx, wrapped, c.ad)
		if err != nil {
			return err
		}
		wrapped = again
		return nil
	})
	f.Spare = true
	c.found = append(c.found, f)
	if f.Err == nil {
		c.step("unwrap again", 0, func(ctx context.Context) error { return c.opens(ctx, k, wrapped) })
	}
}

func (c *checker) try(name string, more int, do func(context.Context) error) Finding {
	f := Finding{Step: name}
	f.First, f.Err = c.time(do)
	var then []time.Duration
	for range more {
		if f.Err == nil {
			var took time.Duration
			took, f.Err = c.time(do)
			then = append(then, took)
		}
	}
	if len(then) > 0 {
		slices.Sort(then)
		f.Then = then[len(then)/2]
	}
	return f
}

func (c *checker) time(do func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	began := time.Now()
	err := do(ctx)
	return time.Since(began), err
}

func (c *checker) opens(ctx context.Context, k Key, wrapped []byte) error {
	got, err := k.Unwrap(ctx, wrapped, c.ad)
	defer clear(got)
	if err == nil && !bytes.Equal(got, c.secret) {
		return fmt.Errorf("%w: opened to something else than was wrapped", ErrCorrupt)
	}
	return err
}
