package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

const (
	fetchTimeout = 5 * time.Second
	fetchBytes   = 256 << 10
)

var errForbiddenAddress = errors.New("the address is not a public one")

// guarded is an HTTP client that connects only to allowed addresses. The check is made on the address that is dialled,
// so a name that resolves anew between check and dial gains nothing. It follows no redirect and asks no proxy.
func guarded(allowed func(netip.Addr) bool) *http.Client {
	dialer := &net.Dialer{Timeout: fetchTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !allowed(at.Addr().Unmap()) {
			return errForbiddenAddress
		}
		return nil
	}}
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: fetchTimeout, DisableKeepAlives: true,
			MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Client is for a server that an operator has named: one at a public address; on this machine, if the URL says so by name; or in
// a private network, if the operator has said that too.
func Client(address string, private bool) *http.Client {
	u, err := url.Parse(address)
	return guarded(allowed(err == nil && loopback(u.Hostname()), private))
}

// allowed says which addresses may be dialled.
func allowed(local, private bool) func(netip.Addr) bool {
	return func(ip netip.Addr) bool {
		switch {
		case ip.IsLoopback():
			return local
		case private && (ip.IsPrivate() || inCGNAT(ip)):
			return true
		}
		return public(ip)
	}
}

// loopback says whether a host is this machine by name.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// notPublic are the ranges that net/netip's own questions leave out: this network, carrier-grade NAT, protocol assignments,
// documentation, benchmarks, reserved; IPv6 forms that carry an IPv4 address (NAT64, 6to4, Teredo); documentation.
var notPublic = func() (all []netip.Prefix) {
	for _, text := range []string{"0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/23", "2001:db8::/32", "100::/64", "::/96", "fec0::/10"} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}()

func inCGNAT(ip netip.Addr) bool { return netip.MustParsePrefix("100.64.0.0/10").Contains(ip) }

func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || inCGNAT(ip) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// fetch gets a small JSON document.
func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, fetchBytes+1))
	if err == nil && len(body) > fetchBytes {
		err = errors.New("more than 256 KiB")
	}
	return body, err
}
