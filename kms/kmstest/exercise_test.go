package kmstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privault/privault/kms"
)

// remote is a Faulty with a quota and the retries of a provider for one, so that every hook has something to hook
// into.
type remote struct {
	*Faulty
	throttle atomic.Int64
}

func (r *remote) admitted(ctx context.Context) {
	for r.throttle.Load() > 0 && ctx.Err() == nil {
		r.throttle.Add(-1)
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
	}
}

func (r *remote) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	r.admitted(ctx)
	return r.Faulty.Wrap(ctx, plaintext, ad)
}

func (r *remote) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	r.admitted(ctx)
	return r.Faulty.Unwrap(ctx, wrapped, ad)
}

// latest is a local key that is opened again at each rotation, as a KMS of its own would be, and that can do without
// its older versions: what they wrapped begins with other bytes.
type latest struct {
	atomic.Pointer[kms.Key]
	only atomic.Pointer[[]byte]
}

const keyPrefix = 5

func (l *latest) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	return (*l.Load()).Wrap(ctx, plaintext, ad)
}

func (l *latest) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if only := l.only.Load(); only != nil && ctx.Err() == nil && !bytes.HasPrefix(wrapped, *only) {
		return nil, fmt.Errorf("%w: retired", kms.ErrDenied)
	}
	return (*l.Load()).Unwrap(ctx, wrapped, ad)
}

// retire leaves the newest version of the key at uri.
func (l *latest) retire(ctx context.Context, uri string) error {
	var newest latest
	if err := newest.open(ctx, uri); err != nil {
		return err
	}
	wrapped, err := newest.Wrap(ctx, secret(), place())
	if err != nil {
		return err
	}
	only := wrapped[:keyPrefix]
	l.only.Store(&only)
	return nil
}

func (l *latest) URI() string { return (*l.Load()).URI() }

func (l *latest) open(ctx context.Context, uri string) error {
	key, err := kms.Open(ctx, uri, kms.Options{})
	if err != nil {
		return err
	}
	l.Store(&key)
	return nil
}

// world has every hook, over a key of local. Broken, if given, is put between them.
func world(t testing.TB, broken func(kms.Key) kms.Key) Provider {
	t.Helper()
	uri := LocalURI(t)
	var current latest
	if err := current.open(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	var key kms.Key = &current
	if broken != nil {
		key = broken(key)
	}
	r := &remote{Faulty: NewFaulty(key)}
	foreign := Local(t)
	release := func() {}
	return Provider{
		Open:    func(context.Context) (kms.Key, error) { return r, nil },
		Foreign: func(context.Context) (kms.Key, error) { return foreign, nil },
		Rotate: func() error {
			if err := kms.RotateLocal(uri, kms.Options{}); err != nil {
				return err
			}
			return current.open(t.Context(), uri)
		},
		Retire:  func() error { return current.retire(t.Context(), uri) },
		Delete:  func() error { r.SetDenied(true); return nil },
		Disable: func(on bool) error { r.SetDenied(on); return nil },
		Outage:  func(on bool) error { r.SetDown(on); return nil },
		Stall: func(on bool) error {
			if release(); on {
				release = r.Hold()
			}
			return nil
		},
		Throttle: func(calls int) error { r.throttle.Store(int64(calls)); return nil },
	}
}

// TestExercise tells all stories, those that local itself has no hooks for among them.
func TestExercise(t *testing.T) {
	t.Parallel()
	Exercise(t, func(t *testing.T) Provider {
		t.Helper()
		return world(t, nil)
	})
}

// bent is a Key with some of its calls replaced.
type bent struct {
	kms.Key
	wrap, unwrap func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error)
	uri          func() string
}

func (b bent) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if b.wrap == nil {
		return b.Key.Wrap(ctx, plaintext, ad)
	}
	return b.wrap(b.Key, ctx, plaintext, ad)
}

func (b bent) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if b.unwrap == nil {
		return b.Key.Unwrap(ctx, wrapped, ad)
	}
	return b.unwrap(b.Key, ctx, wrapped, ad)
}

func (b bent) URI() string {
	if b.uri == nil {
		return b.Key.URI()
	}
	return b.uri()
}

// TestStoriesCatch tells the stories of Keys that each break the contract in one way, and wants the suite to
// notice: a conformance suite that passes everything is worth nothing.
func TestStoriesCatch(t *testing.T) {
	t.Parallel()
	constant := []byte("constant")
	for _, test := range []struct {
		name, story string
		key         func(kms.Key) kms.Key
	}{
		{"binds no associated data", "other associated data refused", func(k kms.Key) kms.Key {
			return bent{Key: k,
				wrap: func(k kms.Key, ctx context.Context, b, _ []byte) ([]byte, error) { return k.Wrap(ctx, b, constant) },
				unwrap: func(k kms.Key, ctx context.Context, b, _ []byte) ([]byte, error) {
					return k.Unwrap(ctx, b, constant)
				}}
		}},
		{"trims associated data", "other associated data refused", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				return k.Unwrap(ctx, b, bytes.TrimSpace(ad))
			}}
		}},
		{"takes no associated data for some", "misuse refused", func(k kms.Key) kms.Key {
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				if len(ad) == 0 {
					ad = constant
				}
				return k.Wrap(ctx, b, ad)
			}}
		}},
		{"wraps nothing", "misuse refused", func(k kms.Key) kms.Key {
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				if len(b) == 0 {
					b = constant
				}
				return k.Wrap(ctx, b, ad)
			}}
		}},
		{"calls misuse an outage", "misuse refused", func(k kms.Key) kms.Key {
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				w, err := k.Wrap(ctx, b, ad)
				if err != nil {
					err = fmt.Errorf("%w: %w", kms.ErrUnavailable, err)
				}
				return w, err
			}}
		}},
		{"calls corruption an outage", "flipped bits refused", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				p, err := k.Unwrap(ctx, b, ad)
				if errors.Is(err, kms.ErrCorrupt) {
					err = kms.ErrUnavailable
				}
				return p, err
			}}
		}},
		{"has a bit nobody reads", "flipped bits refused", func(k kms.Key) kms.Key {
			return bent{Key: k,
				wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
					w, err := k.Wrap(ctx, b, ad)
					if err != nil {
						return nil, err
					}
					return append(w, 1), nil
				},
				unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
					if len(b) == 0 || b[len(b)-1]&^0x80 != 1 {
						return nil, kms.ErrCorrupt
					}
					return k.Unwrap(ctx, b[:len(b)-1], ad)
				}}
		}},
		{"trims wrapped bytes", "not a wrapped key refused", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				return k.Unwrap(ctx, bytes.TrimSuffix(b, []byte("\n")), ad)
			}}
		}},
		{"returns what didn't authenticate", "flipped bits refused", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				p, err := k.Unwrap(ctx, b, ad)
				if err != nil {
					p = constant
				}
				return p, err
			}}
		}},
		{"quotes what it was given", "other associated data refused", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				p, err := k.Unwrap(ctx, b, ad)
				if err != nil {
					err = fmt.Errorf("associated data %s: %w", ad, err)
				}
				return p, err
			}}
		}},
		{"opens what others wrapped", "foreign key refused", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				p, err := k.Unwrap(ctx, b, ad)
				if errors.Is(err, kms.ErrCorrupt) {
					p, err = secret(), nil
				}
				return p, err
			}}
		}},
		{"is deterministic", "wraps differ", func(k kms.Key) kms.Key {
			seen := make(map[string][]byte)
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				name := string(b) + string(ad)
				if w, ok := seen[name]; ok {
					return bytes.Clone(w), nil
				}
				w, err := k.Wrap(ctx, b, ad)
				seen[name] = w
				return bytes.Clone(w), err
			}}
		}},
		{"clears its argument", "slices stay the caller's", func(k kms.Key) kms.Key {
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				defer clear(b)
				return k.Wrap(ctx, b, ad)
			}}
		}},
		{"hands out its cache", "slices stay the caller's", func(k kms.Key) kms.Key {
			cache := make(map[string][]byte)
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				name := string(b) + string(ad)
				if p, ok := cache[name]; ok {
					return p, nil
				}
				p, err := k.Unwrap(ctx, b, ad)
				if err == nil {
					cache[name] = p
				}
				return p, err
			}}
		}},
		{"ignores its context", "ended context", func(k kms.Key) kms.Key {
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				return k.Wrap(context.WithoutCancel(ctx), b, ad)
			}}
		}},
		{"calls a cancellation an outage", "ended context", func(k kms.Key) kms.Key {
			return bent{Key: k, unwrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				p, err := k.Unwrap(ctx, b, ad)
				if ctx.Err() != nil {
					err = fmt.Errorf("%w: %w", kms.ErrUnavailable, ctx.Err())
				}
				return p, err
			}}
		}},
		{"mixes up callers", "concurrent use", func(k kms.Key) kms.Key {
			var mu sync.Mutex
			var last []byte
			return bent{Key: k, wrap: func(k kms.Key, ctx context.Context, b, ad []byte) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				if last == nil || bytes.HasPrefix(b, []byte("canary")) {
					last = bytes.Clone(b)
				}
				return k.Wrap(ctx, last, ad)
			}}
		}},
		{"has its parameters in its URI", "URI names the key", func(k kms.Key) kms.Key {
			return bent{Key: k, uri: func() string { return "local://k?passphrase=hunter2" }}
		}},
		{"has a credential in its URI", "URI names the key", func(k kms.Key) kms.Key {
			return bent{Key: k, uri: func() string { return "hcvault://user:hunter2@host/k" }}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := tell(t, test.story, world(t, test.key)); err == nil {
				t.Errorf("the story %q is pleased with a key that %s", test.story, test.name)
			} else if strings.Contains(err.Error(), "hunter2") && strings.Contains(test.name, "credential") {
				t.Errorf("the story repeats the credential: %v", err)
			}
		})
	}
}

// TestFaultStoriesCatch does the same for the hooks: each one set to do nothing, or to the wrong thing.
func TestFaultStoriesCatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, story string
		spoil       func(p *Provider)
	}{
		{"a deletion without effect", "deleted", func(p *Provider) { p.Delete = func() error { return nil } }},
		{"a deletion that shows too early", "deleted", func(p *Provider) { p.InMemory = true }},
		{"a key disabled without effect", "disabled and enabled", func(p *Provider) { p.Disable = func(bool) error { return nil } }},
		{"a key that stays disabled", "disabled and enabled", func(p *Provider) {
			disable := p.Disable
			p.Disable = func(bool) error { return disable(true) }
		}},
		{"a disabled key taken for an outage", "disabled and enabled", func(p *Provider) { p.Disable = p.Outage }},
		{"an outage taken for a disabled key", "outage", func(p *Provider) { p.Outage = p.Disable }},
		{"an outage that nobody notices", "outage", func(p *Provider) { p.Outage = func(bool) error { return nil } }},
		{"a stall that nobody notices", "stalled", func(p *Provider) { p.Stall = func(bool) error { return nil } }},
		{"throttling without retries", "throttled", func(p *Provider) {
			outage := p.Outage
			p.Throttle = func(calls int) error { return outage(calls > 0) }
		}},
		{"throttling that nobody notices", "throttled", func(p *Provider) { p.Throttle = func(int) error { return nil } }},
		{"a rotation that loses the old key", "rotated", func(p *Provider) {
			ours, theirs := p.Open, p.Foreign
			first := true
			p.Rotate = func() error { first = false; return nil }
			p.Open = func(ctx context.Context) (kms.Key, error) {
				if first {
					return ours(ctx)
				}
				return theirs(ctx)
			}
		}},
		{"a rotation without effect", "rewrapped to the newest", func(p *Provider) { p.Rotate = func() error { return nil } }},
		{"a retirement without effect", "rewrapped to the newest", func(p *Provider) { p.Retire = func() error { return nil } }},
		{"a retirement that takes all versions", "rewrapped to the newest", func(p *Provider) { p.Retire = p.Delete }},
		{"a rotation that shows too early", "rotated", func(p *Provider) { p.InMemory = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := world(t, nil)
			test.spoil(&p)
			if err := tell(t, test.story, p); err == nil {
				t.Errorf("the story %q is pleased with %s", test.story, test.name)
			}
		})
	}
}

func tell(t *testing.T, name string, p Provider) error {
	t.Helper()
	for _, s := range stories {
		if s.name == name {
			return s.tell(t.Context(), p)
		}
	}
	t.Fatalf("no story %q", name)
	return nil
}
