package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/privault/privault/api/identity"
	"github.com/privault/privault/vault"
)

// One answer for every credential that isn't good, whichever it is and whatever is wrong with it.
var errUnauthenticated = &vault.Error{Kind: vault.Unauthenticated, Detail: "send a valid credential"}

// identify finds out who sent a request: by its API key or access token, or without one by its client certificate.
func (s *Server) identify(r *http.Request) (vault.Caller, error) {
	sent := r.Header["Authorization"]
	if len(sent) == 0 {
		if c := clientCertificate(r); c != nil && s.authority != nil {
			return s.outsider(r, identity.Fingerprint(c), func() (identity.Identity, error) { return s.authority.Certificate(c) })
		}
		return vault.Caller{}, errUnauthenticated
	}
	scheme, credential, _ := strings.Cut(sent[0], " ")
	bearer, dpop := strings.EqualFold(scheme, "Bearer"), strings.EqualFold(scheme, "DPoP")
	if len(sent) != 1 || !bearer && !dpop || credential == "" {
		return vault.Caller{}, errUnauthenticated
	}
	if strings.HasPrefix(credential, "pvak_") || !s.authority.Issuers() {
		if dpop {
			return vault.Caller{}, errUnauthenticated
		}
		return s.vault.Authenticate(r.Context(), credential)
	}
	return s.outsider(r, credential, func() (identity.Identity, error) { return s.authority.Token(r.Context(), credential) })
}

// outsider gives the caller that an outside authority vouches for. Who a credential stands for is remembered as long as
// an API key's is; possession of what it is bound to is proved with every request.
func (s *Server) outsider(r *http.Request, credential string, vouch func() (identity.Identity, error)) (vault.Caller, error) {
	known, err := s.outsiders.find(r.Context(), sha256.Sum256([]byte(credential)), func(ctx context.Context) (outsider, error) {
		id, err := vouch()
		if err != nil {
			return outsider{}, err
		}
		method := vault.MethodJWT
		if id.Authority == identity.X509 {
			method = vault.MethodMTLS
		}
		who, err := s.vault.Admit(ctx, vault.Outsider{Tenant: id.Tenant, Authority: id.Authority, Subject: id.Subject,
			Credential: id.Token, Roles: id.Roles, Attributes: id.Attributes, Method: method})
		return outsider{id, who}, err
	})
	if err != nil {
		return vault.Caller{}, s.refusal(r, err)
	}
	who, certificate := known.who, clientCertificate(r)
	who.MTLS = certificate != nil
	if who.Method == vault.MethodMTLS {
		return who, nil
	}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	who.DPoP = strings.EqualFold(scheme, "DPoP")
	err = s.authority.Prove(r.Context(), known.id, credential, identity.Request{
		Method: r.Method, URL: s.asSeen(r), Certificate: certificate, Proofs: r.Header["Dpop"], DPoP: who.DPoP})
	if err != nil {
		return vault.Caller{}, s.refusal(r, err)
	}
	return who, nil
}

// refusal hides from the caller why a credential is refused, and tells the log.
func (s *Server) refusal(r *http.Request, err error) error {
	if e := vault.AsError(err); e.Kind == vault.Unauthenticated {
		return e
	}
	if errors.Is(err, identity.ErrRefused) {
		s.log.DebugContext(r.Context(), "credential refused", "reason", err.Error())
		return errUnauthenticated
	}
	if errors.Is(err, identity.ErrKeysAway) {
		s.log.WarnContext(r.Context(), "an issuer's keys can't be fetched", "error", err)
		return errUnauthenticated
	}
	return err
}

// clientCertificate is the certificate that the listener has verified. Nothing that a header says counts.
func clientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// asSeen is the request's URL as its sender sees it.
func (s *Server) asSeen(r *http.Request) *url.URL {
	u := &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if s.seenAs != nil {
		u.Scheme, u.Host = s.seenAs.Scheme, s.seenAs.Host
	}
	return u
}

// address is where a request comes from. Behind trusted proxies that is the last address in X-Forwarded-For that isn't
// one of theirs; whatever stands before it anyone can have written. Without trusted proxies the header says nothing.
func (s *Server) address(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap()
	if !s.trusted(at) {
		return at
	}
	var hops []string
	for _, line := range r.Header["X-Forwarded-For"] {
		hops = append(hops, strings.Split(line, ",")...)
	}
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return at // a proxy that is trusted writes addresses: this is somebody else's text
		}
		if at = hop.Unmap().WithZone(""); !s.trusted(at) {
			return at
		}
	}
	return at
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// outsider is who a credential of an outside authority stands for.
type outsider struct {
	id  identity.Identity
	who vault.Caller
}

// outsiders remembers who credentials stand for, by their digest, for vault.CredentialTTL.
type outsiders struct {
	now     func() time.Time
	flights singleflight.Group
	mu      sync.Mutex
	held    map[[sha256.Size]byte]heldOutsider
}

type heldOutsider struct {
	outsider
	until time.Time
}

const maxOutsiders = 50_000

func (o *outsiders) find(ctx context.Context, digest [sha256.Size]byte, ask func(context.Context) (outsider, error)) (outsider, error) {
	o.mu.Lock()
	h, have := o.held[digest]
	o.mu.Unlock()
	if now := o.now(); have && now.Before(h.until) && now.Before(h.id.Expires) {
		return h.outsider, nil
	}
	found, err, _ := o.flights.Do(string(digest[:]), func() (any, error) {
		// The flight is everybody's who waits for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		fresh, err := ask(ctx)
		if err != nil {
			return outsider{}, err
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.held == nil || len(o.held) >= maxOutsiders {
			o.held = map[[sha256.Size]byte]heldOutsider{}
		}
		o.held[digest] = heldOutsider{fresh, o.now().Add(vault.CredentialTTL)}
		return fresh, nil
	})
	return found.(outsider), err
}
