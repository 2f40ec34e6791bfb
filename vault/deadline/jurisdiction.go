package deadline

import (
	"slices"
	"strings"
)

// gdprCountries are the members of the EU with the parts of them that have codes of their own and are in it (TFEU 349, 355), of the EEA (Joint
// Committee Decision 154/2018), and the United Kingdom, whose UK GDPR has the same clocks.
var gdprCountries = strings.Fields(`
	AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK
	AX GF GP MF MQ RE YT
	IS LI NO
	GB`)

// gdprElsewhere are subdivisions of those countries that are outside both: ISO 3166-2 has them beside codes of their own.
var gdprElsewhere = strings.Fields(`FR-BL FR-CP FR-NC FR-PF FR-PM FR-TF FR-WF NL-AW NL-BQ1 NL-BQ2 NL-BQ3 NL-CW NL-SX NO-21 NO-22`)

// In is the regime that an ISO 3166 jurisdiction implies for requests; false: none, or it doesn't say. HIPAA goes by who holds the data, not by where.
func In(jurisdiction string) (Regime, bool) {
	country, _, _ := strings.Cut(jurisdiction, "-")
	switch {
	case slices.Contains(gdprCountries, country) && !slices.Contains(gdprElsewhere, jurisdiction):
		return GDPR, true
	case jurisdiction == "US-CA":
		return CCPA, true
	}
	return "", false
}
