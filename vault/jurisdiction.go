package vault

import (
	"context"
	"regexp"
	"strings"

	"golang.org/x/text/language"

	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/policy"
)

// Under which law a person's data is depends on where the person is. It is said by their controller, is a fact that policies see, and says under
// which regime a request is that names none. It is ordinary data: the ledger doesn't have it, and a restored database has what it had.

var subdivision = regexp.MustCompile(`^[A-Z0-9]{1,3}$`)

// checkJurisdiction takes an ISO 3166-1 country (DE) or an ISO 3166-2 subdivision (US-CA). Which subdivisions a country has is not looked up.
func checkJurisdiction(faults *faults, at, code string) {
	country, part, divided := strings.Cut(code, "-")
	region, err := language.ParseRegion(country)
	if err != nil || len(country) != 2 || region.String() != country || region.Canonicalize() != region || !region.IsCountry() || region.M49() == 0 ||
		divided && !subdivision.MatchString(part) {
		faults.add(at, "jurisdiction", "a jurisdiction is a country of ISO 3166-1 or a subdivision of ISO 3166-2, in capitals: DE, GB, US-CA")
	}
}

// SetJurisdiction says under which jurisdiction a person is; created, that nobody had said before.
func (v *Vault) SetJurisdiction(ctx context.Context, who Caller, subject, code string) (said Said, created bool, err error) {
	said.Jurisdiction = code
	created, err = v.say(ctx, who, policy.WriteSubject, subject, jurisdictionFact, &said, func(*Purpose) error {
		var faults faults
		checkJurisdiction(&faults, "/jurisdiction", code)
		return faults.err()
	})
	return said, created, err
}

// ClearJurisdiction takes back that a person is under one.
func (v *Vault) ClearJurisdiction(ctx context.Context, who Caller, subject string) error {
	return v.unsay(ctx, who, policy.WriteSubject, subject, jurisdictionFact, "", nil)
}

// jurisdictionOf is a person's; empty: nobody has said.
func (t *txn) jurisdictionOf(ctx context.Context, subject ID) (code string, err error) {
	err = t.data.QueryRow(ctx, `
		select coalesce(max(jurisdiction), '') from privault.subject_facts
		where tenant_id = $1 and subject_id = $2 and kind = $3 and purpose = ''`, t.who.Tenant, subject, jurisdictionFact).Scan(&code)
	return code, err
}

// impliedRegime is what a request is under that names no regime.
func (t *txn) impliedRegime(ctx context.Context, keys *tenantKeys, reference string) (regime deadline.Regime, err error) {
	s, err := t.knownSubject(ctx, keys, reference)
	if err != nil && AsError(err).Kind != NotFound {
		return "", err
	}
	code := ""
	if err == nil {
		if code, err = t.jurisdictionOf(ctx, s.id); err != nil {
			return "", err
		}
	}
	regime, known := deadline.In(code)
	if !known {
		return "", invalid("/regime", "required", "name the regime: the person has no jurisdiction that says which one")
	}
	return regime, nil
}
