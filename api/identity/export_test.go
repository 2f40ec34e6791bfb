package identity

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/privault/privault/api/egress"
)

// Public says whether keys may come from an address.
func Public(a netip.Addr) bool { return egress.Rules{}.Admits(a) }

// NewMemory is a Memory with a clock of its own.
func NewMemory(now func() time.Time) *Memory { return &Memory{now: now} }

// Dial connects to an address as the fetching of an issuer's keys would.
func Dial(ctx context.Context, c IssuerConfig, address string) error {
	conn, err := c.reach().Client().Transport.(*http.Transport).DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err
}
