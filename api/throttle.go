package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/api/limit"
	"github.com/privault/privault/vault"
)

const rateLimited vault.Kind = "rate-limited"

// admit charges the client's address, before anything is known of who calls: a flood of strangers costs next to nothing. It notes
// credentials in URLs, which no route takes.
func (s *Server) admit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.limits.Arrive(s.address(c.Request()), 1); err != nil {
			return s.limited(c, err)
		}
		if query := c.Request().URL.RawQuery; strings.Contains(query, "pvak_") || strings.Contains(query, "access_token=") {
			s.log.WarnContext(c.Request().Context(), "credential-in-url", "request_id", requestID(c))
		}
		return next(c)
	}
}

// throttle charges the caller, slows it down, or refuses its call.
func (s *Server) throttle(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if s.limits == nil {
			return next(c)
		}
		r, who := c.Request(), caller(c)
		leave, err := s.limits.Enter(r.Context(), limitedBy(who), s.limits.Cost(r.Method+" "+c.Path(), r.ContentLength))
		if err != nil {
			return s.limited(c, err)
		}
		defer leave()
		return next(c)
	}
}

func limitedBy(who vault.Caller) limit.Caller {
	return limit.Caller{Tenant: who.Tenant, Principal: who.Principal, Key: who.Credential}
}

// budget bounds how many different values a caller may name.
func (s *Server) budget(c echo.Context, who limit.Caller) func(context.Context, vault.Named) error {
	return func(ctx context.Context, n vault.Named) error {
		if err := s.limits.Distinct(ctx, who, n.Scope, n.Digests, n.Few); err != nil {
			return s.limited(c, err)
		}
		return nil
	}
}

// limited gives a refusal as a problem, with what a client needs to know to slow down by itself
// (draft-ietf-httpapi-ratelimit-headers).
func (s *Server) limited(c echo.Context, err error) error {
	c.Set(limitedKey, true)
	var r *limit.Refusal
	switch {
	case errors.Is(err, limit.ErrAway):
		s.log.WarnContext(c.Request().Context(), "calls can't be counted", "error", err)
		return &vault.Error{Kind: vault.Overloaded, RetryAfter: time.Second}
	case !errors.As(err, &r):
		return err // the caller went away while it waited
	}
	s.metrics.limited.WithLabelValues(r.Policy).Inc()
	after := time.Duration(math.Ceil(r.After.Seconds())) * time.Second
	h := c.Response().Header()
	if r.Rate.Burst > 0 {
		h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", r.Policy, r.Rate.Burst, r.Rate.Window()))
	}
	h.Set("RateLimit", fmt.Sprintf("%q;r=0;t=%d", r.Policy, int(after.Seconds())))
	kind, detail := rateLimited, "the limit "+r.Policy+" is reached"
	if r.Quota {
		kind = vault.QuotaExceeded
	}
	if r.Policy == limit.DistinctValues {
		detail += ": so many different values of one field may be named in a day; those that were named today are free"
	}
	return &vault.Error{Kind: kind, Detail: detail, RetryAfter: after}
}

// A body may come slowly, but not arbitrarily so: after bodyGrace it must have come at minBodyRate on average.
const (
	bodyGrace   = 5 * time.Second
	minBodyRate = 1 << 10 // bytes a second
)

// paced reads a request's body and gives up on one that is too slow. A body that comes in one piece costs it nothing.
func paced(c echo.Context) io.ReadCloser {
	return &pacedBody{ReadCloser: c.Request().Body, control: http.NewResponseController(c.Response())}
}

type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	start   time.Time
	read    int64
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.start.IsZero() {
		b.start = time.Now()
		// The whole of a request has readTimeout from its first byte on; its body, at least, must begin within the grace.
		_ = b.control.SetReadDeadline(b.start.Add(bodyGrace))
	} else {
		earned := time.Duration(b.read) * time.Second / minBodyRate
		_ = b.control.SetReadDeadline(b.start.Add(min(bodyGrace+earned, readTimeout)))
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	return n, err
}

// host says whether a request is meant for us, where the operator has said who we are.
func (s *Server) host(r *http.Request) bool {
	return s.seenAs == nil || strings.EqualFold(r.Host, s.seenAs.Host)
}
