package deadline

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Period is an ISO 8601 duration: how long something is kept. It is immutable.
type Period struct {
	months, days int
	clock        time.Duration
	text         string
}

var periodShape = regexp.MustCompile(`^P(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,5})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,8})S)?)?$`)

// longestPeriod is a hundred years: what is longer is a slip, or means for ever.
const longestPeriod = 100 * 365.25 * 24 * float64(time.Hour)

// ParsePeriod reads P3Y, P18M, P90D, P2W, P1Y6M, PT12H and the like: more than nothing, and a hundred years at most.
func ParsePeriod(text string) (Period, error) {
	bad := fmt.Errorf("a period is an ISO 8601 duration such as P3Y, P18M, P90D or PT12H: more than nothing, and P100Y at most")
	found := periodShape.FindStringSubmatch(text)
	if found == nil || strings.HasSuffix(text, "T") {
		return Period{}, bad
	}
	var n [8]int
	for i, digits := range found[1:] {
		n[i], _ = strconv.Atoi(digits) // digits, few enough, or nothing
	}
	p := Period{months: 12*n[0] + n[1], days: 7*n[2] + n[3], text: text,
		clock: time.Duration(n[4])*time.Hour + time.Duration(n[5])*time.Minute + time.Duration(n[6])*time.Second}
	about := (float64(p.months)*30.4375+float64(p.days))*24*float64(time.Hour) + float64(p.clock)
	if about <= 0 || about > longestPeriod {
		return Period{}, bad
	}
	return p, nil
}

func (p Period) String() string { return p.text }

// After is the moment a period after t, in UTC: months first, with the month's last day for a day that it doesn't have, then days,
// then hours. It is what Postgres makes of t + interval in a session in UTC.
func (p Period) After(t time.Time) time.Time {
	t = t.UTC()
	if p.months == 0 && p.days < 36500 { // days of UTC have 24 hours
		return t.Add(time.Duration(p.days)*24*time.Hour + p.clock)
	}
	day := On(t).AddMonths(p.months).AddDays(p.days)
	return day.utc().Add(t.Sub(On(t).utc()) + p.clock)
}

// Before is the latest moment of which After is not behind t: what lies before it is past the period at t.
func (p Period) Before(t time.Time) time.Time {
	t = t.UTC().Add(-p.clock)
	day := On(t).AddDays(-p.days).AddMonths(-p.months)
	return day.utc().Add(t.Sub(On(t).utc()))
}
