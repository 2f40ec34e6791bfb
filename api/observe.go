package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/datatype"
)

// Keys of what a request carries in its echo.Context.
const (
	requestIDKey = "request_id"
	problemKey   = "problem"
	callerKey    = "caller"
	limitedKey   = "limited"
	cutOffKey    = "cut_off" // the answer had begun and can't be finished
)

// unmatched is the route label of requests that no route takes.
const unmatched = "(none)"

func requestID(c echo.Context) string {
	id, _ := c.Get(requestIDKey).(string)
	return id
}

var requestIDShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// observe gives the request its id, and afterwards logs and counts it. What is logged is a closed list: the route's
// pattern and not the path, no query, no header, no body.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		id := c.Request().Header.Get("X-Request-Id")
		// The id stands in the audit entry, so it must not be a way to write personal data there.
		if _, pii := datatype.LooksLikePII(id); pii || !requestIDShape.MatchString(id) {
			id = uuid.NewString()
		}
		c.Set(requestIDKey, id)
		c.Response().Header().Set("X-Request-Id", id)
		ctx := c.Request().Context() // what the guards put in its place ends with them
		if err := next(c); err != nil {
			who, _ := known(c)
			cheap := c.Get(limitedKey) != nil
			s.refuse(s.vault.Refuse(context.WithoutCancel(ctx), who, method(c)+" "+route(c), cheap, httpError(err)), c)
		}
		s.metrics.observe(c, time.Since(start))
		s.logRequest(c, id, time.Since(start))
		if c.Get(cutOffKey) != nil {
			panic(http.ErrAbortHandler) // the connection breaks, as net/http means it
		}
		return nil
	}
}

func (s *Server) logRequest(c echo.Context, id string, took time.Duration) {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("request_id", id), slog.String("method", method(c)), slog.String("route", route(c)),
		slog.Int("status", c.Response().Status), slog.Int64("bytes", c.Response().Size), slog.Duration("took", took))
	if who, ok := known(c); ok {
		attrs = append(attrs, slog.String("principal", uuid.UUID(who.Principal).String()))
	}
	if kind, failed := c.Get(problemKey).(vault.Kind); failed {
		attrs = append(attrs, slog.String("problem", string(kind)))
	}
	s.log.LogAttrs(c.Request().Context(), slog.LevelInfo, "request", attrs...)
}

func route(c echo.Context) string {
	if matched(c) {
		return c.Path()
	}
	return unmatched
}

// method is the request's method if it is one that exists: the text is the caller's.
func method(c echo.Context) string {
	switch m := c.Request().Method; m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "OTHER"
}

// recover turns a panic into a 500. The panic's own text may hold anything, so only its type and the stack are logged.
func (s *Server) recover(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if r := recover(); r != nil {
				if r == http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
					panic(r)
				}
				p, elsewhere := r.(*panicked)
				if !elsewhere {
					p = caught(r)
				}
				s.log.ErrorContext(c.Request().Context(), "panic", "request_id", requestID(c), "type", fmt.Sprintf("%T", p.value), "stack", string(p.stack))
				err = &vault.Error{Kind: vault.Internal}
			}
		}()
		return next(c)
	}
}

type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	limited  *prometheus.CounterVec
}

func newHTTPMetrics() *httpMetrics {
	return &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "privault_http_requests_total", Help: "Requests by route, method and status."}, []string{"route", "method", "status"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "privault_limited_total", Help: "Calls that were refused, by the limit that they reached."}, []string{"limit"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "privault_http_request_seconds", Help: "How long requests took, by route.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"route"}),
	}
}

func (m *httpMetrics) register(r prometheus.Registerer) error {
	if err := r.Register(m.requests); err != nil {
		return err
	}
	if err := r.Register(m.limited); err != nil {
		return err
	}
	return r.Register(m.seconds)
}

func (m *httpMetrics) observe(c echo.Context, took time.Duration) {
	m.requests.WithLabelValues(route(c), method(c), strconv.Itoa(c.Response().Status)).Inc()
	m.seconds.WithLabelValues(route(c)).Observe(took.Seconds())
}
