package datatype

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// RFC 5321 4.5.3.1, in octets: a path has 256 with its angle brackets (RFC 3696, erratum 1690), a local part 64, and a
// domain 255 on the wire, which is 253 as text (RFC 1035 2.3.4) in labels of at most 63.
const (
	maxEmail  = 254
	maxLocal  = 64
	maxDomain = 253
	maxLabel  = 63
)

// checkEmail accepts one addr-spec, as RFC 5321 with RFC 6531 (non-ASCII) has it, and no more: no display name, no
// comment, no quoted local part, no address literal. Those are legal and in practice an attack or a mistake.
func checkEmail(value []byte) *Fault {
	_, _, f := splitEmail(value)
	return f
}

// splitEmail gives the local part as written and the domain as A-labels.
func splitEmail(value []byte) (local, domain string, f *Fault) {
	local, domain, found := strings.Cut(string(value), "@")
	switch {
	case !found || strings.Contains(domain, "@"):
		return "", "", fault("email", "send one address with exactly one @")
	case local == "" || len(local) > maxLocal:
		return "", "", fault("email", "send an address with 1 to 64 bytes before the @")
	case !isDotAtom(local):
		return "", "", fault("email", "send a plain address: no display name, comment, quotes, spaces, control characters, nor dots at either end or in a row")
	}
	domain, ok := asciiDomain(domain)
	if !ok {
		return "", "", fault("email", "send an address whose domain is a full host name, such as example.com")
	}
	return local, domain, nil
}

// isDotAtom is RFC 5322 3.2.3 with RFC 6532's non-ASCII. Format characters are refused beyond that: one that turns the
// writing direction can make a mask or an address look like another.
func isDotAtom(local string) bool {
	previous := '.'
	for _, r := range local {
		switch {
		case r == '.' && previous == '.':
			return false
		case r < utf8.RuneSelf && r != '.' && !isAtext(byte(r)):
			return false
		case r >= utf8.RuneSelf && !isVisible(r):
			return false
		}
		previous = r
	}
	return previous != '.'
}

func isAtext(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isVisible(r rune) bool {
	return r != utf8.RuneError && unicode.IsGraphic(r) && !unicode.IsSpace(r)
}

// asciiDomain gives the domain as A-labels in lower case. At least two labels are asked for, the last of them not a
// number: RFC 5321 2.3.5 wants fully qualified names, and "jane@example" is most often half an address.
func asciiDomain(domain string) (string, bool) {
	ascii, ok := domain, true
	if !isPlain(domain) {
		ascii, ok = toALabels(domain)
	}
	if !ok || len(ascii) > maxDomain {
		return "", false
	}
	labels, last := 0, ""
	for label := range strings.SplitSeq(ascii, ".") {
		if label == "" || len(label) > maxLabel {
			return "", false
		}
		labels, last = labels+1, label
	}
	return ascii, labels > 1 && strings.Trim(last, "0123456789") != ""
}

// isPlain says that a domain is its own A-labels, as most are: nothing in it has another form.
func isPlain(domain string) bool {
	for i := range len(domain) {
		if c := domain[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' {
			return false
		}
	}
	return true
}

func toALabels(domain string) (string, bool) {
	for _, r := range domain {
		// The two joiners are letters' companions in some scripts, and the profile below knows where they may stand.
		if !isVisible(r) && r != '\u200c' && r != '\u200d' {
			return "", false // UTS 46 would drop it silently
		}
	}
	// The error quotes the label, so it goes no further.
	ascii, err := idna.Lookup.ToASCII(domain)
	return ascii, err == nil
}

func normaliseEmail(value []byte) []byte {
	local, domain, f := splitEmail(value)
	if f != nil {
		return bytes.Clone(value)
	}
	// Composed first: the capital I with a dot has a lower case of its own.
	local = norm.NFC.String(strings.ToLower(norm.NFC.String(local)))
	return []byte(local + "@" + domain)
}

// maskEmail shows the domain as it was written. A star is legal in a local part, so those that have one show nothing of
// it, and those that are nothing but stars show no domain either: j***@example.com would be its own mask.
func maskEmail(value []byte) string {
	local, _, f := splitEmail(value)
	if f != nil {
		return hide(value)
	}
	domain := string(value[len(local):])
	switch {
	case strings.Trim(local, "*") == "":
		return stars
	case strings.Contains(local, "*"):
		return stars + domain
	}
	local = norm.NFC.String(local)
	first, size := utf8.DecodeRuneInString(local)
	if len(local) == size || unicode.IsMark(first) {
		return stars + domain
	}
	return local[:size] + stars + domain
}
