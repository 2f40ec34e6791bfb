package deadline

import "testing"

func TestTheRegimeOfAJurisdiction(t *testing.T) {
	t.Parallel()
	if len(gdprCountries) != 27+7+3+1 {
		t.Errorf("%d countries", len(gdprCountries))
	}
	for code, want := range map[string]Regime{"DE": GDPR, "DE-BY": GDPR, "FR": GDPR, "RE": GDPR, "AX": GDPR, "IS": GDPR, "LI": GDPR, "NO": GDPR, "GB": GDPR,
		"GB-SCT": GDPR, "FR-GF": GDPR, "NL-NH": GDPR, "FR-NC": "", "NL-AW": "", "NO-21": "", "US-CA": CCPA, "US": "", "US-NY": "", "CA": "", "CH": "", "GL": "", "FO": "", "PF": "", "JE": "", "": ""} {
		if got, known := In(code); got != want || known != (want != "") {
			t.Errorf("%s implies %q, want %q", code, got, want)
		}
	}
}
