package identity

import (
	"crypto/x509"
	"strings"
)

// X509 is the Authority of who a client certificate stands for.
const X509 = "x509"

// certificateRule is a CertificateConfig that is ready to match.
type certificateRule struct {
	CertificateConfig
	prefix string // of a SPIFFE id whose last segment is free; empty: the whole id is fixed
}

func newCertificateRule(c CertificateConfig) certificateRule {
	r := certificateRule{CertificateConfig: c}
	if base, open := strings.CutSuffix(c.SPIFFE, "/*"); open {
		r.prefix = base + "/"
	}
	return r
}

// Certificate says for whom a verified client certificate stands. The first rule that matches decides.
func (a *Authority) Certificate(c *x509.Certificate) (Identity, error) {
	spiffe := ""
	if len(c.URIs) == 1 { // SPIFFE demands exactly one
		spiffe = c.URIs[0].String()
	}
	for _, r := range a.certificates {
		name, ok := r.match(c, spiffe)
		if !ok {
			continue
		}
		return Identity{Tenant: r.Tenant, Authority: X509, Subject: name, Token: Fingerprint(c), Roles: r.Roles,
			Attributes: r.Attributes, Expires: c.NotAfter}, nil
	}
	return Identity{}, refused("no rule is for this client certificate")
}

func (r certificateRule) match(c *x509.Certificate, spiffe string) (name string, ok bool) {
	switch {
	case r.Subject != "":
		name = c.Subject.String()
		return name, name == r.Subject && len(name) <= maxText
	case spiffe == "" || len(spiffe) > maxText:
		return "", false
	case r.prefix != "":
		last, has := strings.CutPrefix(spiffe, r.prefix)
		return spiffe, has && last != "" && !strings.ContainsAny(last, "/?#%")
	}
	return spiffe, spiffe == r.SPIFFE
}
