package datatype

import "time"

// earliestBirth is before anybody alive, or dead so short a time ago that somebody keeps their data, was born.
const earliestBirth = "1850"

// checkDate accepts an ISO 8601 calendar date in extended form, YYYY-MM-DD, of the years 0001 to 9999, that exists in the
// proleptic Gregorian calendar. A time of day is another type's.
func checkDate(value []byte) *Fault {
	if !isDate(value) {
		return fault("date", "send a date that exists, as YYYY-MM-DD, from 0001-01-01 to 9999-12-31")
	}
	return nil
}

// checkBirth refuses 0001-01-01 and its like, which stand for "unknown" in other systems. Whether a date lies in the future is not
// asked: what is a value one day must not become none by the clock.
func checkBirth(value []byte) *Fault {
	if !isDate(value) || string(value[:4]) < earliestBirth {
		return fault("date-of-birth", "send a date of birth that exists, as YYYY-MM-DD, from 1850-01-01 on")
	}
	return nil
}

func isDate(value []byte) bool {
	if len(value) != len(time.DateOnly) {
		return false
	}
	day, err := time.Parse(time.DateOnly, string(value)) // the error quotes the value
	return err == nil && day.Year() >= 1
}

func maskDate(value []byte) string {
	if !isDate(value) {
		return hide(value)
	}
	return string(value[:4]) + "-**-**"
}
