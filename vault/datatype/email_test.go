package datatype

import (
	"testing"

	"pgregory.net/rapid"
)

// A domain that isPlain takes is what the profile would make of it.
func TestPlainDomainsAreTheirALabels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.StringMatching(`([a-z0-9]{1,65}|[a-z0-9.-]{1,20}|xn--[a-z0-9]{1,8}|[A-Za-zäß]{1,5}|)(\.([a-z0-9]{1,30}|[a-z0-9-]{1,5}|))*`).Draw(t, "domain")
		if !isPlain(domain) {
			return
		}
		have, valid := asciiDomain(domain)
		ascii, ok := toALabels(domain)
		if want := ok && ascii == domain; valid && (!want || have != domain) {
			t.Fatalf("%q is %q, the profile has %q %v", domain, have, ascii, ok)
		}
	})
}
