package vault

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Secret holds a plaintext value on its way through the process. It is a closure because a closure can't be printed by
// accident: fmt doesn't call methods of unexported fields, and prints the bytes of a struct that has them.
type Secret struct{ open func() []byte }

// NewSecret takes b over; the caller doesn't change it afterwards.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// Reveal gives the plaintext. Its callers are allow-listed by a test.
func (s Secret) Reveal() []byte {
	if s.open == nil {
		return nil
	}
	return s.open()
}

// Format writes the same for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// LogValue is what slog writes.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText always fails: a Secret reaches an answer by Reveal only.
func (Secret) MarshalText() ([]byte, error) { return nil, errors.New("a secret is not marshalled") }
