package datatype

import "time"

// checkDate accepts an ISO 8601 calendar date in extended form, YYYY-MM-DD, of the years 0001 to 9999, that exists in the
// proleptic Gregorian calendar. A time of day is another type's.
func checkDate(value []byte) *Fault {
	if !isDate(value) {
		return fault("date", "send a date that exists, as YYYY-MM-DD, from 0001-01-01 to 9999-12-31")
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
