package shape

import (
	"math/bits"
	"time"

	"github.com/privault/privault/vault/fpe"
)

// dates is the window of a shape of dates. A date's row are the bits of its day, counted from the first.
type dates struct {
	first int64 // days since 1970
	count int
	bits  int // that the last day takes
}

func (s *Shape) date() *Fault {
	if s.o != (Options{Kind: kindDate, From: s.o.From, To: s.o.To, Reversible: s.o.Reversible}) {
		return refuse("shape", "not-applicable", "a date has from and to, and no other option")
	}
	s.o.From, s.o.To = or(s.o.From, "0001-01-01"), or(s.o.To, "9999-12-31")
	from, known := day(s.o.From)
	if !known {
		return refuse("from", "date", "from is a date, YYYY-MM-DD")
	}
	to, known := day(s.o.To)
	if !known || to <= from {
		return refuse("to", "date", "to is a date after from, YYYY-MM-DD")
	}
	s.dates = dates{from, int(to - from + 1), bits.Len(uint(to - from))}
	if s.o.Reversible && s.dates.count < fpe.MinDomain {
		return refuse("to", "domain-too-small", "from the first date to the last there are %d, and %d tokens are the least; widen the window: from 0001-01-01 to 9999-12-31 there are 3652059",
			s.dates.count, fpe.MinDomain)
	}
	return nil
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

const secondsOfDay = 24 * 60 * 60

// day counts from 1970 in the proleptic Gregorian calendar.
func day(text string) (int64, bool) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Year() < 1 {
		return 0, false
	}
	seconds := t.Unix()
	return (seconds - (seconds%secondsOfDay+secondsOfDay)%secondsOfDay) / secondsOfDay, true
}

func (s *Shape) splitDate(text string) (parts, *Fault) {
	at, known := day(text)
	if !known {
		return parts{}, refuse("", "date", "send a date that exists, YYYY-MM-DD")
	}
	at -= s.dates.first
	if at < 0 || at >= int64(s.dates.count) {
		return parts{}, refuse("", "date", "send a date of the shape's window")
	}
	p := parts{row: make([]uint16, s.dates.bits)}
	s.dates.write(p.row, int(at))
	return p, nil
}

func (d dates) write(row []uint16, at int) {
	for i := range row {
		row[i] = uint16(at >> (len(row) - 1 - i) & 1)
	}
}

func (d dates) read(row []uint16) (at int) {
	for _, bit := range row {
		at = at<<1 | int(bit)
	}
	return at
}

func (d dates) text(row []uint16) string {
	return time.Unix((d.first+int64(d.read(row)))*secondsOfDay, 0).UTC().Format(time.DateOnly)
}
