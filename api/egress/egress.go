// Package egress is how the server calls addresses that somebody else has named: the keys of issuers, witnesses, webhooks. It
// connects only to addresses that its rules admit, and looks at the address that it dials: a name that resolves to another one
// between check and call gains nothing. It follows no redirect and asks no proxy.
package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// Timeout is of one call, from the look-up of the name to the answer's head.
const Timeout = 5 * time.Second

var errForbiddenAddress = errors.New("the address is not a public one")

// Rules say which addresses may be dialled: public ones, and these.
type Rules struct {
	Loopback bool           // this machine
	Private  bool           // private networks: RFC 1918, RFC 4193 and carrier-grade NAT
	Networks []netip.Prefix // these of them; never an address where clouds keep their metadata
	Resolver *net.Resolver  // nil: the machine's
	Roots    *x509.CertPool // who vouches for servers; nil: whom the machine trusts
}

// Admits says whether an address may be dialled.
func (r Rules) Admits(ip netip.Addr) bool {
	ip = ip.Unmap()
	local := ip.IsPrivate() || cgnat.Contains(ip)
	switch {
	case ip.Zone() != "", slices.Contains(metadata, ip):
		return false
	case ip.IsLoopback():
		return r.Loopback
	case local:
		return r.Private || slices.ContainsFunc(r.Networks, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	return public(ip)
}

// Client is an HTTP client that keeps to the rules.
func (r Rules) Client() *http.Client {
	return r.client(func(at netip.AddrPort) bool { return r.Admits(at.Addr()) })
}

func (r Rules) client(admits func(netip.AddrPort) bool) *http.Client {
	dialer := &net.Dialer{Timeout: Timeout, Resolver: r.Resolver, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !admits(at) {
			return errForbiddenAddress
		}
		return nil
	}}
	return &http.Client{
		Timeout: Timeout,
		Transport: &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: Timeout, DisableKeepAlives: true,
			MaxResponseHeaderBytes: 16 << 10,
			TLSClientConfig:        &tls.Config{RootCAs: r.Roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Client is for a server that an operator has named: one at a public address; on this machine, if the URL says so by name; or in
// a private network, if the operator has said that too.
func Client(address string, private bool) *http.Client {
	u, err := url.Parse(address)
	return Rules{Loopback: err == nil && Loopback(u.Hostname()), Private: private}.Client()
}

// Fetchable says whether an operator may name this address: https, or http on the loopback, and nothing that hides in a URL.
func Fetchable(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && Loopback(u.Hostname())
}

// Loopback says whether a host is this machine by name.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

var cgnat = netip.MustParsePrefix("100.64.0.0/10")

// metadata are clouds' services of that in private networks (AWS, Alibaba). The others' are link-local.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200")}

// notPublic are the ranges that net/netip's own questions leave out: this network, protocol assignments, documentation,
// benchmarks, reserved; IPv6 forms that carry an IPv4 address (NAT64, 6to4, Teredo); documentation.
var notPublic = func() (all []netip.Prefix) {
	for _, text := range []string{"0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/23", "2001:db8::/32", "100::/64", "::/96", "fec0::/10"} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}()

func public(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) })
}
