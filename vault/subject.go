package vault

import (
	"regexp"

	"github.com/privault/privault/vault/datatype"
)

// A subject is the person whose data it is. Outside it goes by the owner's reference; in the database by a random id, which
// privault.subjects finds by a keyed digest of the reference. The reference itself is only sealed inside what belongs to the
// person.
var subjectReference = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

func checkSubject(subject, at string) error {
	if rule, yes := datatype.LooksLikePII(subject); yes {
		return &Error{Kind: LooksLikePII, Detail: "a subject is an opaque reference, not personal data", Fields: []FieldError{{at, rule}}}
	}
	if !subjectReference.MatchString(subject) {
		return invalid(at, "subject", "a subject is 1 to 128 of A-Z a-z 0-9 . _ : -")
	}
	return nil
}

// subjectDigest is what a subject is found by.
func (k *tenantKeys) subjectDigest(reference string) ([]byte, error) {
	return digest(k.pseudonym, "subject", reference)
}
