package datatype

import (
	"bytes"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

const (
	maxIP  = 45 // an IPv4 address in an IPv6 one, written out
	maxURL = 2048
)

// checkIP accepts one IPv4 or IPv6 address: no port, no prefix length, no zone, no octet with a leading zero, which some
// software reads as octal.
func checkIP(value []byte) *Fault {
	if _, ok := parseIP(value); !ok {
		return fault("ip", "send one IPv4 or IPv6 address, without port, prefix length or zone")
	}
	return nil
}

// parseIP takes ::ffff:192.0.2.1 for 192.0.2.1, which it is.
func parseIP(value []byte) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(string(value)) // the error quotes the value
	return ip.Unmap(), err == nil && ip.Zone() == "" && len(value) <= maxIP
}

// normaliseIP is RFC 5952's form.
func normaliseIP(value []byte) []byte {
	if ip, ok := parseIP(value); ok {
		return []byte(ip.String())
	}
	return bytes.Clone(value)
}

// maskIP shows the half of an IPv4 address, and of an IPv6 one the 32 bits that a provider has.
func maskIP(value []byte) string {
	ip, ok := parseIP(value)
	if !ok {
		return hide(value)
	}
	if ip.Is4() {
		b := ip.As4()
		return fmt.Sprintf("%d.%d.*.*", b[0], b[1])
	}
	b := ip.As16()
	return fmt.Sprintf("%x:%x:***", uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3]))
}

// checkURL accepts an absolute http or https URL with a full host name or an address, and without user and password: a
// secret would hide in what looks like an address (RFC 3986 3.2.1 warns of them too).
func checkURL(value []byte) *Fault {
	if _, ok := parseURL(value); !ok {
		return fault("url", "send an absolute http or https URL with a full host name or an IP address, without user, password, spaces and backslashes")
	}
	return nil
}

// link is a URL taken apart: host is in A-labels or an address, with the brackets of an IPv6 one.
type link struct {
	scheme, host, port, path, query, fragment string
	isDomain                                  bool
}

func parseURL(value []byte) (link, bool) {
	for _, r := range string(value) {
		if !isVisible(r) || r == '\\' {
			return link{}, false
		}
	}
	scheme, rest, found := strings.Cut(string(value), "://")
	if !found || len(value) > maxURL {
		return link{}, false
	}
	u, err := url.Parse(strings.ToLower(scheme) + "://" + normalisePercent(rest)) // the error quotes the value
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return link{}, false
	}
	u = u.ResolveReference(&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, Fragment: u.Fragment, RawFragment: u.RawFragment})
	l := link{scheme: u.Scheme, path: u.EscapedPath(), query: u.RawQuery, fragment: u.EscapedFragment()}
	if l.path == "" {
		l.path = "/"
	}
	if l.port = u.Port(); l.port != "" {
		n, err := strconv.ParseUint(l.port, 10, 16)
		if err != nil {
			return link{}, false
		}
		if l.port = strconv.FormatUint(n, 10); n == 80 && l.scheme == "http" || n == 443 && l.scheme == "https" {
			l.port = ""
		}
	}
	l.host, l.isDomain = asciiDomain(u.Hostname())
	if !l.isDomain {
		ip, ok := parseIP([]byte(u.Hostname()))
		if l.host = ip.String(); ip.Is6() {
			l.host = "[" + l.host + "]"
		}
		return l, ok
	}
	return l, true
}

// normalisePercent is RFC 3986 6.2.2.2 behind the scheme: capitals in the hexadecimal digits, and no unreserved character
// behind them.
func normalisePercent(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+2 >= len(s) {
			out.WriteByte(s[i])
			continue
		}
		b, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		switch {
		case err != nil:
			out.WriteByte('%')
			continue
		case isUnreserved(byte(b)):
			out.WriteByte(byte(b))
		default:
			fmt.Fprintf(&out, "%%%02X", b)
		}
		i += 2
	}
	return out.String()
}

func isUnreserved(c byte) bool {
	return isDigit(c) || isCapital(c) || 'a' <= c && c <= 'z' || strings.IndexByte("-._~", c) >= 0
}

// normaliseURL is RFC 3986 6.2.2 and 6.2.3: case, percent-encoding, dot segments, the scheme's own port, an empty path.
func normaliseURL(value []byte) []byte {
	l, ok := parseURL(value)
	if !ok {
		return bytes.Clone(value)
	}
	out := l.scheme + "://" + l.host
	if l.port != "" {
		out += ":" + l.port
	}
	out += l.path
	if l.query != "" {
		out += "?" + l.query
	}
	if l.fragment != "" {
		out += "#" + l.fragment
	}
	return []byte(out)
}

// maskURL shows the scheme and the domain that somebody registered, not what a person called a host of theirs: below a
// suffix that a hoster gives out (github.io) the suffix alone.
func maskURL(value []byte) string {
	l, ok := parseURL(value)
	if !ok || !l.isDomain {
		return hide(value)
	}
	shown := registered(l.host)
	mask := l.scheme + "://" + shown + "/***"
	if shown != l.host {
		mask = l.scheme + "://***." + shown + "/***"
	}
	if strings.Contains(mask, string(value)) || strings.Contains(mask, string(normaliseURL(value))) {
		return l.scheme + "://***" // the host was all there was
	}
	return mask
}

func registered(host string) string {
	suffix, public := publicsuffix.PublicSuffix(host)
	if !public && strings.Contains(suffix, ".") {
		return suffix
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(host) // the error quotes the host
	if err != nil {
		return host
	}
	return domain
}

func urlDomain(value []byte) (string, bool) {
	l, ok := parseURL(value)
	return l.host, ok && l.isDomain
}
