package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/privault/privault/kms"
)

// Kind classifies an error for the caller. Its text is the problem's slug, in answers (RFC 9457) and audit entries.
type Kind string

// The kinds of error.
const (
	Internal             Kind = "internal"
	Cancelled            Kind = "request-timeout" // the caller went away: what it asked for may have been done
	Malformed            Kind = "malformed-request"
	Unauthenticated      Kind = "unauthenticated"
	Forbidden            Kind = "forbidden"
	PurposeNotAllowed    Kind = "purpose-not-allowed"
	SubjectRestricted    Kind = "subject-restricted"
	NotFound             Kind = "not-found"
	TokenNotFound        Kind = "token-not-found"
	Conflict             Kind = "conflict"
	IdempotencyConflict  Kind = "idempotency-conflict"
	BatchRolledBack      Kind = "batch-rolled-back"
	LegalHold            Kind = "legal-hold"
	SubjectErased        Kind = "subject-erased"
	PreconditionFailed   Kind = "precondition-failed"
	PreconditionRequired Kind = "precondition-required"
	Invalid              Kind = "validation-failed"
	LooksLikePII         Kind = "identifier-looks-like-pii"
	DomainTooSmall       Kind = "domain-too-small"
	IndexDomainTooSmall  Kind = "index-domain-too-small"
	FormatSpaceExhausted Kind = "format-space-exhausted"
	NotErasable          Kind = "not-erasable"
	IntegrityFailure     Kind = "integrity-failure"
	KMSUnavailable       Kind = "kms-unavailable"
	AuditUnavailable     Kind = "audit-unavailable"
	DatabaseUnavailable  Kind = "database-unavailable"
	RestoreFence         Kind = "restore-fence" // the databases are older than the ledger
	Overloaded           Kind = "overloaded"
	QuotaExceeded        Kind = "quota-exceeded" // by who limits callers

	// DestinationNotAllowed is an address that the server doesn't call for others.
	DestinationNotAllowed Kind = "destination-not-allowed"
)

// Error is what every operation fails with. Detail and Fields are for the caller and never hold a value, a token, a key
// or SQL; the cause is for the log.
type Error struct {
	Kind       Kind
	Detail     string
	Fields     []FieldError
	At         []Place       // of Fields, where they are within a text
	RetryAfter time.Duration // zero: not said
	cause      error
	entered    bool // the audit log has the entry of the call that failed so, or can't have it
}

// Place is where in a text something is; both count from 1.
type Place struct{ Line, Column int }

// FieldError says which part of a request broke which rule.
type FieldError struct {
	Pointer string // RFC 6901, into the request's body
	Rule    string
}

func (e *Error) Error() string {
	text := string(e.Kind)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.cause }

func fail(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

func invalid(pointer, rule, detail string) *Error {
	return &Error{Kind: Invalid, Detail: detail, Fields: []FieldError{{pointer, rule}}}
}

// AsError gives err as an *Error; what isn't one is Internal, or a kind that its cause speaks for.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: kindOf(err), cause: err}
}

func kindOf(err error) Kind {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, kms.ErrUnavailable), errors.Is(err, kms.ErrDenied):
		return KMSUnavailable
	case errors.Is(err, kms.ErrCorrupt):
		return IntegrityFailure
	case errors.As(err, &pg):
		if gone(pg.Code) {
			return DatabaseUnavailable
		}
		if pg.ConstraintName == "records_held" {
			return LegalHold
		}
		if strings.Contains(pg.Message+pg.Where+pg.TableName, "audit_entries") {
			return AuditUnavailable
		}
		return Internal
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed), pgconn.SafeToRetry(err):
		return DatabaseUnavailable
	}
	return Internal
}

// gone says whether a Postgres error means that the server can't work for us now: connection lost (08), out of
// resources (53), shutting down or starting (57P), statement or lock time-out (57014, 55P03), a deadlock (40P01), read-only (25006).
func gone(code string) bool {
	switch code[:2] {
	case "08", "53":
		return true
	}
	switch code {
	case "57014", "57P01", "57P02", "57P03", "55P03", "40P01", "25006":
		return true
	}
	return false
}

// deadlocked says whether a transaction was the victim of a deadlock: the same work may be done at once.
func deadlocked(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "40P01"
}

// violates says whether err is the breach of a named constraint.
func violates(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.ConstraintName == constraint
}
