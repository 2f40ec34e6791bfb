package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const maxURL = 2048

// lastIsNumber is a host whose last label is a number: what some resolvers take for an IPv4 address in another form.
var lastIsNumber = regexp.MustCompile(`(^|\.)(0[xX][0-9a-fA-F]*|[0-9]+)$`)

// CheckWebhook says what is wrong with an address that somebody wants webhooks sent to; empty: nothing. It looks the name up.
func (r Rules) CheckWebhook(ctx context.Context, text string) (fault string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxURL || u.Opaque != "" || u.Host == "":
		return "it is an absolute URL of at most 2,048 characters"
	case u.User != nil || u.Fragment != "":
		return "it has no user, password or fragment"
	case u.Scheme != "https" && (u.Scheme != "http" || !r.Loopback || !Loopback(u.Hostname())):
		return "it begins with https://"
	}
	found, fault := r.lookUp(ctx, u.Hostname())
	port := uint64(443)
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return "its port is 443 or 8443"
		}
	}
	for _, ip := range found {
		if !r.Admits(ip) {
			return "its host has an address that is not a public one"
		}
		if !r.admitsWebhook(netip.AddrPortFrom(ip, uint16(port))) {
			return "its port is 443 or 8443"
		}
	}
	return fault
}

// admitsWebhook says whether webhooks may be sent to an address: a network that the operator has named has ports of its own.
func (r Rules) admitsWebhook(to netip.AddrPort) bool {
	return r.Admits(to.Addr()) && (!(Rules{}).Admits(to.Addr()) || to.Port() == 443 || to.Port() == 8443)
}

// lookUp gives the addresses of a host.
func (r Rules) lookUp(ctx context.Context, host string) (found []netip.Addr, fault string) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, ""
	}
	switch {
	case strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return nil, "its host is written in ASCII (an international name in its xn-- form)"
	case lastIsNumber.MatchString(strings.TrimSuffix(host, ".")):
		return nil, "its host is a name, or an IP address in its usual form"
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	resolver := r.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	found, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(found) == 0 {
		return nil, "its host has no address"
	}
	return found, ""
}

// The reasons why a call got no answer.
const (
	faultTimeout     = "timeout"
	faultTLS         = "tls"
	faultDestination = "destination-not-allowed"
	faultUnreachable = "unreachable"
)

// PostWebhook sends a body and gives the answer's status, and how long its sender wants to be left alone. The rest of the answer
// is not read. Without an answer, fault says why.
func (r Rules) PostWebhook(ctx context.Context, to string, header map[string]string, body string) (status int, retryAfter time.Duration, fault string) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return 0, 0, faultDestination
	}
	for name, value := range header {
		q.Header.Set(name, value)
	}
	answer, err := r.client(r.admitsWebhook).Do(q)
	if err != nil {
		return 0, 0, faultOf(err)
	}
	_ = answer.Body.Close() // unread, however long it is
	seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err == nil && seconds > 0 {
		retryAfter = time.Duration(min(seconds, 24*60*60)) * time.Second
	}
	return answer.StatusCode, retryAfter, ""
}

// faultOf names an error: its own text holds the address.
func faultOf(err error) string {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.Is(err, errForbiddenAddress):
		return faultDestination
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return faultTimeout
	case errors.As(err, &certificate), errors.As(err, &record), errors.As(err, &alert):
		return faultTLS
	}
	return faultUnreachable
}
