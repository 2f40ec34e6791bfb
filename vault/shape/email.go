package shape

import (
	"strings"

	"github.com/privault/privault/vault/fpe"
)

// email is the shape of an address whose local part is random: lower-case letters and digits. FF1 is not for it, since
// local parts are as short as people like.
func (s *Shape) email() *Fault {
	if s.o != (Options{Kind: kindEmail, Domain: s.o.Domain, Length: s.o.Length, Reversible: s.o.Reversible}) {
		return refuse("shape", "not-applicable", "an email has domain and length, and no other option")
	}
	if s.o.Reversible {
		return refuse("shape", "not-applicable", "an address has a random local part: its strategy is format, not fpe")
	}
	if s.o.Length == 0 {
		s.o.Length = 16
	}
	if s.o.Length < 8 || s.o.Length > 64 {
		return refuse("length", "range", "the local part of an address has from 8 to 64 characters")
	}
	if s.o.Domain != "" && !isDomain(s.o.Domain) {
		return refuse("domain", "email", "domain is a host name such as tokens.example.com")
	}
	var err error
	s.alphabet, err = fpe.NewAlphabet(alphabets["digits"] + alphabets["lower"])
	if err != nil {
		return refuse("shape", "unknown", "%v", err)
	}
	return nil
}

func (s *Shape) splitEmail(text string) (parts, *Fault) {
	at := strings.LastIndexByte(text, '@')
	if at < 1 || at == len(text)-1 {
		return parts{}, refuse("", "email", "send an e-mail address")
	}
	return parts{tail: "@" + or(s.o.Domain, text[at+1:])}, nil
}

// isDomain is RFC 1123's host name of at least two labels, in ASCII.
func isDomain(text string) bool {
	labels := strings.Split(text, ".")
	for _, label := range labels {
		if len(label) == 0 || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return false
		}
	}
	return len(text) <= 253 && len(labels) > 1
}
