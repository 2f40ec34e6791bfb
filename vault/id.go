package vault

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/privault/privault/vault/base62"
)

// ID names a row. As text it has a prefix for its kind, which API answers and audit entries show.
type ID = [16]byte

// The prefixes of ids.
const (
	recordPrefix      = "rec_"
	principalPrefix   = "prn_"
	credentialPrefix  = "key_"
	jobPrefix         = "job_"
	subjectPrefix     = "sub_"
	eventPrefix       = "evt_"
	entryPrefix       = "aud_"
	holdPrefix        = "hld_"
	erasurePrefix     = "crt_"
	alarmPrefix       = "alm_"
	sweepPrefix       = "swp_"
	planPrefix        = "pln_"
	requestPrefix     = "req_"
	deliveryPrefix    = "dlv_"
	suppressionPrefix = "sup_"
	linkPrefix        = "lnk_"
)

// lastID stands behind every other.
var lastID = ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// deploymentTenant is the tenant that the deployment itself acts as.
var deploymentTenant ID

// newID makes a UUIDv7 (RFC 9562): ids of rows made together lie together in an index.
func newID() (ID, error) {
	id, err := uuid.NewV7()
	return ID(id), err
}

// newIDAt makes a UUIDv7 of a time: a range of such ids is a range of times.
func newIDAt(at time.Time) (ID, error) {
	id, err := newID()
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id, err
}

func formatID(prefix string, id ID) string { return prefix + base62.Encode(id[:]) }

// formatOptional is formatID for an id that may not be there.
func formatOptional(prefix string, id *ID) string {
	if id == nil {
		return ""
	}
	return formatID(prefix, *id)
}

func parseID(prefix, text string) (ID, bool) {
	var id ID
	body, found := strings.CutPrefix(text, prefix)
	return id, found && base62.Decode(id[:], body) == nil
}
