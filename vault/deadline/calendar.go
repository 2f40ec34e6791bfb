package deadline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Calendar says which days are working days: Monday to Friday, but for holidays. The zero Calendar has none. It is
// immutable.
type Calendar struct{ holidays []holiday }

// holiday says whether it falls on a day.
type holiday func(Date) bool

// NewCalendar reads holidays, each one of
//
//	2027-06-17    that day
//	12-25         that day of every year
//	easter+39     so many days after (or before) Easter Sunday of the western churches
//	us-federal    the holidays of 5 U.S.C. 6103, on the days on which they are observed
func NewCalendar(holidays ...string) (Calendar, error) {
	var c Calendar
	for i, text := range holidays {
		h, err := parseHoliday(text)
		if err != nil {
			return Calendar{}, fmt.Errorf("holiday %d: %w", i+1, err)
		}
		c.holidays = append(c.holidays, h)
	}
	return c, nil
}

func parseHoliday(text string) (holiday, error) {
	if text == "us-federal" {
		return usFederal, nil
	}
	if offset, found := strings.CutPrefix(text, "easter"); found {
		n, err := strconv.Atoi(offset)
		if offset == "" {
			n, err = 0, nil
		}
		return func(d Date) bool { return d == easter(d.Year).AddDays(n) }, err
	}
	if day, err := ParseDate(text); err == nil {
		return func(d Date) bool { return d == day }, nil
	}
	if day, err := ParseDate("2024-" + text); err == nil { // a leap year
		return func(d Date) bool { return d.Month == day.Month && d.Day == day.Day }, nil
	}
	return nil, fmt.Errorf("a holiday is YYYY-MM-DD, MM-DD, easter+N, easter-N or us-federal")
}

// Working says whether d is a working day.
func (c Calendar) Working(d Date) bool {
	if w := d.Weekday(); w == time.Saturday || w == time.Sunday {
		return false
	}
	return !slices.ContainsFunc(c.holidays, func(h holiday) bool { return h(d) })
}

// WorkingDay is d, or the next working day if d is none.
func (c Calendar) WorkingDay(d Date) Date {
	for !c.Working(d) {
		d = d.AddDays(1)
	}
	return d
}

// easter is Easter Sunday by the anonymous Gregorian computus (Meeus, Astronomical Algorithms, chapter 8).
func easter(year int) Date {
	a, b, c := year%19, year/100, year%100
	d, e := b/4, b%4
	f := (b + 8) / 25
	g := (b - f + 1) / 3
	h := (19*a + b - d - g + 15) % 30
	i, k := c/4, c%4
	l := (32 + 2*e + 2*i - h - k) % 7
	m := (a + 11*h + 22*l) / 451
	n := h + l - 7*m + 114
	return Date{year, time.Month(n / 31), n%31 + 1}
}

// usFederal says whether a federal holiday of the United States is observed on d: on Friday for one that falls on a
// Saturday, on Monday for one on a Sunday.
func usFederal(d Date) bool {
	switch d.Weekday() {
	case time.Saturday, time.Sunday:
		return false
	case time.Friday:
		if fixedFederal(d.AddDays(1)) {
			return true
		}
	case time.Monday:
		if fixedFederal(d.AddDays(-1)) || mondayFederal(d) {
			return true
		}
	case time.Thursday:
		if d.Month == time.November && nth(d) == 4 { // Thanksgiving
			return true
		}
	}
	return fixedFederal(d)
}

// fixedFederal: New Year, Juneteenth, Independence Day, Veterans Day, Christmas.
func fixedFederal(d Date) bool {
	switch d.Month {
	case time.January:
		return d.Day == 1
	case time.June:
		return d.Day == 19
	case time.July:
		return d.Day == 4
	case time.November:
		return d.Day == 11
	case time.December:
		return d.Day == 25
	}
	return false
}

// mondayFederal: Martin Luther King's and Washington's birthdays, Memorial, Labor and Columbus Day.
func mondayFederal(d Date) bool {
	switch d.Month {
	case time.January, time.February:
		return nth(d) == 3
	case time.May:
		return d.AddDays(7).Month == time.June
	case time.September:
		return nth(d) == 1
	case time.October:
		return nth(d) == 2
	}
	return false
}

// nth is the how-manieth such day of the week d is in its month.
func nth(d Date) int { return (d.Day-1)/7 + 1 }
