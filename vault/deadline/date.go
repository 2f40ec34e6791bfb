package deadline

import (
	"fmt"
	"time"
)

// Date is a day of the Gregorian calendar, without a time of day or a zone.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// On is the day of a moment, in the moment's own zone.
func On(t time.Time) Date {
	year, month, day := t.Date()
	return Date{year, month, day}
}

// ParseDate reads YYYY-MM-DD.
func ParseDate(text string) (Date, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return Date{}, fmt.Errorf("a date is YYYY-MM-DD")
	}
	return On(t), nil
}

func (d Date) String() string { return d.utc().Format(time.DateOnly) }

func (d Date) utc() time.Time { return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC) }

// End is the moment at which the day is over in a zone.
func (d Date) End(zone *time.Location) time.Time {
	return time.Date(d.Year, d.Month, d.Day+1, 0, 0, 0, 0, zone)
}

// Before says whether d lies before other.
func (d Date) Before(other Date) bool { return d.utc().Before(other.utc()) }

// AddDays is n days later.
func (d Date) AddDays(n int) Date { return On(d.utc().AddDate(0, 0, n)) }

// AddMonths is the same day n months later, or that month's last day if it has no such day (1182/71 Article 3(2)(c)).
func (d Date) AddMonths(n int) Date {
	first := time.Date(d.Year, d.Month+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return Date{first.Year(), first.Month(), min(d.Day, last)}
}

// DaysSince is how many days d lies after other.
func (d Date) DaysSince(other Date) int { return int(d.utc().Sub(other.utc()).Hours() / 24) }

// Weekday is the day of the week.
func (d Date) Weekday() time.Weekday { return d.utc().Weekday() }
