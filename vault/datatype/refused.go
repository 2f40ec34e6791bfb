package datatype

import "strings"

// PCI DSS 4.0.1, requirement 3.3.1: sensitive authentication data is not kept after authorization, even encrypted.
const (
	whyCode  = "card verification codes are never storable, not even encrypted (PCI DSS 3.3.1.2)"
	whyPIN   = "PINs and PIN blocks are never storable, not even encrypted (PCI DSS 3.3.1.3)"
	whyTrack = "full track data is never storable, not even encrypted (PCI DSS 3.3.1.1)"
)

// refused is by name without separators, in lower case.
var refused = map[string]string{
	"cvv": whyCode, "cvv2": whyCode, "icvv": whyCode, "dcvv": whyCode,
	"cvc": whyCode, "cvc2": whyCode, "cav": whyCode, "cav2": whyCode, "cid": whyCode, "csc": whyCode, "cvn": whyCode, "cvn2": whyCode,
	"cvd": whyCode, "cvd2": whyCode, "cve": whyCode, "cvp2": whyCode, "cardcode": whyCode, "cardsecuritycode": whyCode,
	"cardverificationcode": whyCode, "cardverificationvalue": whyCode,
	"pin": whyPIN, "pinblock": whyPIN, "epb": whyPIN, "encryptedpinblock": whyPIN,
	"track": whyTrack, "track1": whyTrack, "track2": whyTrack, "trackdata": whyTrack, "fulltrack": whyTrack, "magstripe": whyTrack,
	"magneticstripe": whyTrack,
}

var joined = strings.NewReplacer("_", "", "-", "", " ", "", ".", "")

// Refused says whether name is one of the types that no vault may hold, and why, for a human. Case and the separators
// "_", "-", "." and " " make no difference, so that CVV-2 doesn't come in by its spelling.
func Refused(name string) (reason string, isRefused bool) {
	reason, isRefused = refused[joined.Replace(strings.ToLower(name))]
	return reason, isRefused
}
