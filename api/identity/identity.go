// Package identity finds out who a caller is from what outside authorities vouch for: access tokens of OAuth 2 issuers
// (RFC 9068), client certificates, and tokens bound to a certificate (RFC 8705) or to a key (DPoP, RFC 9449).
//
// What may vouch for whom is one Config, the operator's. Nothing that a token says chooses a key, an algorithm, an
// address to fetch from, or a tenant that the configuration doesn't let its issuer speak for.
package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Identity is who an authority says that the caller is.
type Identity struct {
	Tenant     string // by name
	Authority  string // the issuer's URL, or X509
	Subject    string // what the authority calls the principal; unique only with Authority
	Token      string // what names the credential: the token's jti or the certificate's fingerprint
	Roles      []string
	Attributes map[string][]string
	Expires    time.Time

	certificate string // cnf.x5t#S256: the client certificate that the token is bound to
	key         string // cnf.jkt: the thumbprint of the key that the token is bound to
	binding     binding
}

// ErrRefused is every refusal of a credential. Which rule refused it is for the log, and no caller's business.
var ErrRefused = errors.New("the credential is refused")

// refused is a refusal with its reason; the reason never holds a part of the credential.
type refused string

func (r refused) Error() string        { return string(r) }
func (r refused) Is(target error) bool { return target == ErrRefused }

// Request is what a proof of possession is checked against.
type Request struct {
	Method      string
	URL         *url.URL // with scheme and host, as the caller sees it
	Certificate *x509.Certificate
	Proofs      []string // the DPoP headers
	DPoP        bool     // the token came under the scheme DPoP
}

// Replays remembers proofs: First says whether this one was never seen before, and keeps it for life. It must be safe for
// concurrent use. Memory is good for one replica.
type Replays interface {
	First(ctx context.Context, digest [32]byte, life time.Duration) (bool, error)
}

// Options are what an Authority needs beside its Config.
type Options struct {
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger
	Replays Replays      // nil: in memory
	Client  *http.Client // nil: the guarded one; for tests
}

// Authority knows everybody whom the configuration lets vouch for callers. It is safe for concurrent use.
type Authority struct {
	issuers      map[string]*issuer
	certificates []certificateRule
	replays      Replays
	now          func() time.Time
	log          *slog.Logger
}

// New makes an Authority from a Config that has no faults. It fetches nothing: keys come with the first token of an
// issuer, so that an issuer that is away doesn't keep the server from starting.
func New(c Config, o Options) (*Authority, error) {
	if faults := c.Faults(); len(faults) > 0 {
		return nil, errors.New("identity: " + faults[0])
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Replays == nil {
		o.Replays = &Memory{now: o.Now}
	}
	a := &Authority{issuers: map[string]*issuer{}, replays: o.Replays, now: o.Now, log: o.Log}
	for _, i := range c.Issuers {
		client := o.Client
		if client == nil {
			client = i.reach().Client()
		}
		a.issuers[i.Issuer] = &issuer{IssuerConfig: i, keys: &keySet{config: i, client: client, now: o.Now}}
	}
	for _, r := range c.Certificates {
		a.certificates = append(a.certificates, newCertificateRule(r))
	}
	return a, nil
}

// Issuers says whether any issuer of access tokens is configured.
func (a *Authority) Issuers() bool { return a != nil && len(a.issuers) > 0 }
