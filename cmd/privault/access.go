package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/privault/privault/api"
	"github.com/privault/privault/api/identity"
)

// Access says who may call, and how the server knows where from.
type Access struct {
	Issuers        string   `env:"PRIVAULT_ISSUERS" placeholder:"FILE" help:"JSON file of the issuers of access tokens and the client certificates that stand for callers."`
	ClientCA       string   `name:"client-ca" env:"PRIVAULT_CLIENT_CA" placeholder:"FILE" help:"CA bundle (PEM) that client certificates are verified with. Read again when it changes."`
	PublicURL      string   `name:"public-url" env:"PRIVAULT_PUBLIC_URL" placeholder:"URL" help:"Scheme and host under which callers know this server, where a proxy changes them. DPoP proofs name it."`
	ClientAddress  string   `name:"client-address" env:"PRIVAULT_CLIENT_ADDRESS" enum:"direct,proxy," default:"" help:"Where a caller's address comes from: direct, the connection; proxy, X-Forwarded-For of the trusted proxies."`
	TrustedProxies []string `name:"trusted-proxies" env:"PRIVAULT_TRUSTED_PROXIES" placeholder:"CIDR" help:"The networks of the proxies whose X-Forwarded-For counts."`
}

func (a *Access) check(bad func(string, ...any), listen string, tls bool) {
	if a.Issuers != "" {
		c, err := a.issuers()
		if err != nil {
			bad("--issuers: %v", err)
		}
		for _, fault := range c.Faults() {
			bad("--issuers: %s", fault)
		}
	}
	if a.ClientCA != "" {
		if !tls {
			bad("--client-ca needs --tls-cert: without TLS there are no client certificates")
		}
		if _, err := loadPool(a.ClientCA); err != nil {
			bad("--client-ca: %v", err)
		}
	}
	if a.PublicURL != "" {
		u, err := url.Parse(a.PublicURL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			bad("--public-url is a scheme and a host, e.g. https://vault.example.com")
		}
	}
	if _, err := a.proxies(); err != nil {
		bad("--trusted-proxies are networks, e.g. 10.0.0.0/24")
	}
	switch {
	case a.ClientAddress == "" && !onLoopback(listen):
		bad("the public listener is not on the loopback: say where callers' addresses come from, --client-address direct or --client-address proxy")
	case a.ClientAddress == "proxy" && len(a.TrustedProxies) == 0:
		bad("--client-address proxy needs --trusted-proxies")
	case a.ClientAddress != "proxy" && len(a.TrustedProxies) > 0:
		bad("--trusted-proxies needs --client-address proxy")
	}
}

func onLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return err != nil || host == "localhost" || ip != nil && ip.IsLoopback() // a bad address is another fault
}

func (a *Access) proxies() (all []netip.Prefix, err error) {
	for _, text := range a.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// issuers reads the file.
func (a *Access) issuers() (identity.Config, error) {
	var c identity.Config
	err := readSettings(a.Issuers, &c)
	return c, err
}

// apply completes the API's configuration. The settings have no faults.
func (a *Access) apply(c *api.Config) error {
	var err error
	if c.Proxies, err = a.proxies(); err != nil {
		return err
	}
	if a.PublicURL != "" {
		if c.SeenAs, err = url.Parse(a.PublicURL); err != nil {
			return err
		}
	}
	if a.Issuers == "" {
		return nil
	}
	config, err := a.issuers()
	if err != nil {
		return err
	}
	o := identity.Options{Log: c.Log}
	if c.Limits.Shared() {
		o.Replays = c.Limits // a proof that one replica has seen is none for another
	}
	c.Authority, err = identity.New(config, o)
	return err
}

var errNoCertificate = errors.New("no certificate in it")

func loadPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errNoCertificate
	}
	return pool, nil
}

// clientCAs reads the CA bundle again when it changes, at most once in a while. A broken new one leaves the old one in
// force.
type clientCAs struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	pool    *x509.CertPool
	stamp   string
	checked time.Time
}

func (c *clientCAs) get() (*x509.CertPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool != nil && time.Since(c.checked) < certificateCheck {
		return c.pool, nil
	}
	c.checked = time.Now()
	stamp := fileStamp(c.path)
	if c.pool != nil && stamp == c.stamp {
		return c.pool, nil
	}
	pool, err := loadPool(c.path)
	if err == nil {
		c.pool, c.stamp = pool, stamp
		c.log.Info("client CAs loaded")
		return pool, nil
	}
	if c.pool != nil {
		c.log.Error("the new client CAs do not load; the old ones stay in force", "error", err)
		return c.pool, nil
	}
	return nil, fmt.Errorf("client CAs: %w", err)
}

// withClientCerts lets a listener ask for client certificates. One that is sent must be good; to send none is no fault here,
// because a caller may have another credential.
func withClientCerts(base *tls.Config, path string, log *slog.Logger) *tls.Config {
	if path == "" {
		return base
	}
	cas := &clientCAs{path: path, log: log}
	// A resumed session would bring a certificate past a CA that is no longer trusted.
	base.SessionTicketsDisabled = true
	base.ClientAuth = tls.VerifyClientCertIfGiven
	asking := base.Clone()
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool, err := cas.get()
		if err != nil {
			return nil, err
		}
		c := asking.Clone()
		c.ClientCAs = pool
		return c, nil
	}
	return base
}
