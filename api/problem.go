package api

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// The kinds of error that only HTTP has.
const (
	malformedJSON    vault.Kind = "malformed-json"
	methodNotAllowed vault.Kind = "method-not-allowed"
	notAcceptable    vault.Kind = "not-acceptable"
	payloadTooLarge  vault.Kind = "payload-too-large"
	uriTooLong       vault.Kind = "uri-too-long"
	headersTooLarge  vault.Kind = "headers-too-large"
	misdirected      vault.Kind = "misdirected"
	unsupportedMedia vault.Kind = "unsupported-media-type"
)

// kinds is the one table from a kind of error to its status and title.
var kinds = map[vault.Kind]struct {
	status int
	title  string
}{
	malformedJSON:              {http.StatusBadRequest, "The body is not well-formed JSON"},
	vault.Malformed:            {http.StatusBadRequest, "The request is malformed"},
	vault.Unauthenticated:      {http.StatusUnauthorized, "The request has no valid credential"},
	vault.Forbidden:            {http.StatusForbidden, "The policy does not allow this"},
	vault.PurposeNotAllowed:    {http.StatusForbidden, "The purpose is not allowed for this"},
	vault.SubjectRestricted:    {http.StatusLocked, "Processing of this person's data is restricted"},
	vault.NotFound:             {http.StatusNotFound, "Not found"},
	vault.TokenNotFound:        {http.StatusNotFound, "The token does not resolve"},
	methodNotAllowed:           {http.StatusMethodNotAllowed, "The method is not allowed here"},
	notAcceptable:              {http.StatusNotAcceptable, "Only JSON is served"},
	vault.Conflict:             {http.StatusConflict, "The request conflicts with the state"},
	vault.IdempotencyConflict:  {http.StatusConflict, "The Idempotency-Key was used for another request"},
	vault.BatchRolledBack:      {http.StatusConflict, "The batch was rolled back"},
	vault.LegalHold:            {http.StatusConflict, "A legal hold keeps this"},
	vault.SubjectErased:        {http.StatusConflict, "The subject was erased"},
	vault.PreconditionFailed:   {http.StatusPreconditionFailed, "The resource has changed"},
	payloadTooLarge:            {http.StatusRequestEntityTooLarge, "The body is too large"},
	uriTooLong:                 {http.StatusRequestURITooLong, "The URI is too long"},
	unsupportedMedia:           {http.StatusUnsupportedMediaType, "The content type is not supported"},
	misdirected:                {http.StatusMisdirectedRequest, "This server is not the host that was asked for"},
	rateLimited:                {http.StatusTooManyRequests, "Too many calls"},
	vault.QuotaExceeded:        {http.StatusTooManyRequests, "A quota is used up"},
	vault.Invalid:              {http.StatusUnprocessableEntity, "The request breaks a rule"},
	vault.LooksLikePII:         {http.StatusUnprocessableEntity, "An identifier looks like personal data"},
	vault.IndexDomainTooSmall:  {http.StatusUnprocessableEntity, "An index would have too few values"},
	vault.FormatSpaceExhausted: {http.StatusConflict, "The tokens of this shape are running out"},
	vault.DomainTooSmall:       {http.StatusUnprocessableEntity, "Too few tokens would be possible"},
	vault.NotErasable:          {http.StatusUnprocessableEntity, "What is not stored can't be erased"},
	vault.PreconditionRequired: {http.StatusPreconditionRequired, "Send If-Match"},
	headersTooLarge:            {http.StatusRequestHeaderFieldsTooLarge, "The headers are too large"},
	vault.Cancelled:            {http.StatusRequestTimeout, "The caller went away"},
	vault.Internal:             {http.StatusInternalServerError, "Internal error"},
	vault.IntegrityFailure:     {http.StatusInternalServerError, "Stored data failed its integrity check"},
	vault.KMSUnavailable:       {http.StatusServiceUnavailable, "The key management system is unavailable"},
	vault.AuditUnavailable:     {http.StatusServiceUnavailable, "The audit log can't be written"},
	vault.DatabaseUnavailable:  {http.StatusServiceUnavailable, "The database is unavailable"},
	vault.RestoreFence:         {http.StatusServiceUnavailable, "The database is older than the ledger"},
	vault.Overloaded:           {http.StatusServiceUnavailable, "The server is overloaded"},

	vault.DestinationNotAllowed: {http.StatusUnprocessableEntity, "The server does not call this address"},
}

// problem is an RFC 9457 problem document.
type problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`
	RequestID string       `json:"request_id"`
	Errors    []fieldFault `json:"errors,omitempty"`
}

type fieldFault struct {
	Pointer string `json:"pointer"`
	Rule    string `json:"rule"`
	Line    int    `json:"line,omitempty"` // within the text that the pointer names
	Column  int    `json:"column,omitempty"`
}

func problemOf(e *vault.Error, requestID string) problem {
	kind := e.Kind
	k, known := kinds[kind]
	if !known {
		kind = vault.Internal
		k = kinds[kind]
	}
	p := problem{Type: "urn:privault:problem:" + string(kind), Title: k.title, Status: k.status, Detail: e.Detail, RequestID: requestID}
	for i, f := range e.Fields {
		fault := fieldFault{Pointer: f.Pointer, Rule: f.Rule}
		if i < len(e.At) {
			fault.Line, fault.Column = e.At[i].Line, e.At[i].Column
		}
		p.Errors = append(p.Errors, fault)
	}
	return p
}

// refuse is where every error of a request ends: as a problem for the caller, and in the log if it is our fault.
func (s *Server) refuse(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	e := httpError(err)
	p := problemOf(e, requestID(c))
	h := c.Response().Header()
	if p.Status >= 500 {
		s.log.ErrorContext(c.Request().Context(), "request failed", "request_id", p.RequestID, "problem", string(e.Kind), "error", e)
		if e.RetryAfter == 0 && p.Status == http.StatusServiceUnavailable {
			e = &vault.Error{Kind: e.Kind, RetryAfter: time.Second}
		}
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if p.Status == http.StatusRequestEntityTooLarge {
		h.Set("Connection", "close")
	}
	c.Set(problemKey, e.Kind)
	body, err := json.Marshal(p)
	if err != nil {
		body = []byte(`{"type":"urn:privault:problem:internal","title":"Internal error","status":500}`)
	}
	_ = c.Blob(p.Status, "application/problem+json", body) // the caller is gone: there is nobody to tell
}

// httpError gives any error as a vault.Error: echo's own (no route) and those of reading a body too.
func httpError(err error) *vault.Error {
	var tooLarge *http.MaxBytesError
	var routing *echo.HTTPError
	switch {
	case errors.As(err, &tooLarge):
		return &vault.Error{Kind: payloadTooLarge}
	case errors.As(err, &routing) && routing.Code == http.StatusNotFound:
		return &vault.Error{Kind: vault.NotFound}
	}
	return vault.AsError(err)
}

func malformed(detail string) error { return &vault.Error{Kind: vault.Malformed, Detail: detail} }

func invalid(pointer, rule, detail string) error {
	return &vault.Error{Kind: vault.Invalid, Detail: detail, Fields: []vault.FieldError{{Pointer: pointer, Rule: rule}}}
}
