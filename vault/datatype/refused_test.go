package datatype

import (
	"strings"
	"testing"
)

// Bad input 67: a field of these types is no field.
func TestRefused(t *testing.T) {
	for _, name := range []string{"cvv", "cvc", "cvv2", "cid", "cav2", "CVV", "cvv-2", "card_verification_code", "pin", "PIN", "pin_block", "pin-block", "track2", "track_data"} {
		reason, yes := Refused(name)
		if !yes || !strings.Contains(reason, "PCI DSS 3.3.1") {
			t.Errorf("Refused(%q) = %q, %v", name, reason, yes)
		}
		if _, ok := Lookup(name); ok {
			t.Errorf("%q is a type", name)
		}
	}
	for _, name := range append(Names(), "", "opinion", "pinned", "tracking") {
		if reason, yes := Refused(name); yes || reason != "" {
			t.Errorf("Refused(%q) = %q, %v", name, reason, yes)
		}
	}
}
