package vault

import (
	"slices"

	"github.com/privault/privault/vault/deadline"
)

// Denial is a ground on which a regime lets a request be denied.
type Denial struct {
	Regime deadline.Regime
	Reason string
	Law    string          // where it stands
	Types  []deadline.Type // of request; nil: all that the regime has
}

var (
	toErasure    = []deadline.Type{deadline.Erasure}
	toCorrection = []deadline.Type{deadline.Correction}
	toHandOut    = []deadline.Type{deadline.Access, deadline.Portability}
)

// Denials are all of them: the only text that a denial has.
var Denials = []Denial{
	{deadline.GDPR, "identity-not-verified", "GDPR 11(2), 12(2), 12(6)", nil},
	{deadline.GDPR, "manifestly-unfounded", "GDPR 12(5)", nil},
	{deadline.GDPR, "excessive", "GDPR 12(5)", nil},
	{deadline.GDPR, "restricted-by-law", "GDPR 23", nil},
	{deadline.GDPR, "rights-of-others", "GDPR 15(4), 20(4)", toHandOut},
	{deadline.GDPR, "not-portable", "GDPR 20(1), 20(3)", []deadline.Type{deadline.Portability}},
	{deadline.GDPR, "accurate", "GDPR 16", toCorrection},
	{deadline.GDPR, "no-ground", "GDPR 17(1), 18(1)", []deadline.Type{deadline.Erasure, deadline.Restriction}},
	{deadline.GDPR, "freedom-of-expression", "GDPR 17(3)(a)", toErasure},
	{deadline.GDPR, "legal-obligation", "GDPR 17(3)(b)", toErasure},
	{deadline.GDPR, "public-health", "GDPR 17(3)(c)", toErasure},
	{deadline.GDPR, "archiving-or-research", "GDPR 17(3)(d)", toErasure},
	{deadline.GDPR, "legal-claims", "GDPR 17(3)(e), 21(1)", []deadline.Type{deadline.Erasure, deadline.Objection}},
	{deadline.GDPR, "compelling-grounds", "GDPR 21(1)", []deadline.Type{deadline.Objection}},

	{deadline.CCPA, "identity-not-verified", "11 CCR 7022(h), 7024(a), 7060 ff.", []deadline.Type{deadline.Access, deadline.Portability, deadline.Correction, deadline.Erasure}},
	{deadline.CCPA, "not-made-by-consumer", "11 CCR 7102(a)(1)", nil},
	{deadline.CCPA, "agent-not-authorised", "11 CCR 7063", nil},
	{deadline.CCPA, "manifestly-unfounded", "Cal. Civ. Code 1798.145(h)(3)", nil},
	{deadline.CCPA, "excessive", "Cal. Civ. Code 1798.145(h)(3)", nil},
	{deadline.CCPA, "conflict-with-law", "Cal. Civ. Code 1798.145(a)", nil},
	{deadline.CCPA, "exempt-information", "Cal. Civ. Code 1798.145(c)-(e), 1798.146", nil},
	{deadline.CCPA, "fraudulent", "11 CCR 7023(h), 7026(e), 7027(f)", []deadline.Type{deadline.Correction, deadline.Objection, deadline.Restriction}},
	{deadline.CCPA, "accurate", "11 CCR 7023(b)", toCorrection},
	{deadline.CCPA, "needed-for-exception", "Cal. Civ. Code 1798.105(d)", toErasure},

	{deadline.HIPAA, "identity-not-verified", "45 CFR 164.514(h)", nil},
	{deadline.HIPAA, "not-in-designated-record-set", "45 CFR 164.524(a)(1), 164.526(a)(2)(ii)", nil},
	{deadline.HIPAA, "psychotherapy-notes", "45 CFR 164.524(a)(1)(i)", toHandOut},
	{deadline.HIPAA, "legal-proceedings", "45 CFR 164.524(a)(1)(ii)", toHandOut},
	{deadline.HIPAA, "correctional-institution", "45 CFR 164.524(a)(2)(ii)", toHandOut},
	{deadline.HIPAA, "research-in-progress", "45 CFR 164.524(a)(2)(iii)", toHandOut},
	{deadline.HIPAA, "privacy-act", "45 CFR 164.524(a)(2)(iv)", toHandOut},
	{deadline.HIPAA, "confidential-source", "45 CFR 164.524(a)(2)(v)", toHandOut},
	{deadline.HIPAA, "endangers-life", "45 CFR 164.524(a)(3)(i)", toHandOut},
	{deadline.HIPAA, "harms-another", "45 CFR 164.524(a)(3)(ii)", toHandOut},
	{deadline.HIPAA, "representative-harms", "45 CFR 164.524(a)(3)(iii)", toHandOut},
	{deadline.HIPAA, "not-created-here", "45 CFR 164.526(a)(2)(i)", toCorrection},
	{deadline.HIPAA, "not-open-to-access", "45 CFR 164.526(a)(2)(iii)", toCorrection},
	{deadline.HIPAA, "accurate", "45 CFR 164.526(a)(2)(iv)", toCorrection},
}

// denialOf finds a ground that a regime knows for a type of request; nil: it doesn't.
func denialOf(regime deadline.Regime, typ deadline.Type, reason string) *Denial {
	for i, d := range Denials {
		if d.Regime == regime && d.Reason == reason && (d.Types == nil || slices.Contains(d.Types, typ)) {
			return &Denials[i]
		}
	}
	return nil
}

// denialsOf are the grounds that a regime knows for a type of request.
func denialsOf(regime deadline.Regime, typ deadline.Type) (reasons []string) {
	for _, d := range Denials {
		if denialOf(regime, typ, d.Reason) != nil && d.Regime == regime {
			reasons = append(reasons, d.Reason)
		}
	}
	return reasons
}

// Law says where the ground stands on which a request was denied.
func (r *Request) Law() string {
	if d := denialOf(r.Regime, r.Type, r.Denial); d != nil {
		return d.Law
	}
	return ""
}
