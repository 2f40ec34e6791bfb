package vault

import (
	"time"

	"github.com/privault/privault/vault/deadline"
)

// Clock is where the days of a regime are counted, and which of them are working days there.
type Clock struct {
	Zone     *time.Location // nil: UTC
	Calendar deadline.Calendar
}

// Clocks are those of the regimes. A regime without one counts in UTC and knows no holidays, so its dates are early
// rather than late.
type Clocks map[deadline.Regime]Clock

func (c Clocks) of(regime deadline.Regime) Clock {
	clock := c[regime]
	if clock.Zone == nil {
		clock.Zone = time.UTC
	}
	return clock
}

// day is the day of a moment where the regime's days are counted.
func (c Clock) day(at time.Time) deadline.Date { return deadline.On(at.In(c.Zone)) }

// last is the last second of a day.
func (c Clock) last(day deadline.Date) time.Time { return day.End(c.Zone).Add(-time.Second) }

// start sets the dates of a request that has come in.
func (c Clock) start(r *Request) {
	rule, _ := deadline.For(r.Regime, r.Type) // it was checked
	if day, wanted := rule.AcknowledgeBy(c.day(r.Received), c.Calendar); wanted {
		at := c.last(day)
		r.AcknowledgeBy = &at
	}
	c.reckon(r, nil)
}

// reckon sets until when a request must be answered, and what was noted of the date before no longer counts.
func (c Clock) reckon(r *Request, pauses []deadline.Pause) {
	rule, _ := deadline.For(r.Regime, r.Type)
	due := c.last(rule.DueBy(c.course(r, pauses), c.Calendar))
	if !due.Equal(r.Due) {
		r.Due, r.noted = due, withoutDue(r.noted)
	}
}

func (c Clock) course(r *Request, pauses []deadline.Pause) deadline.Course {
	return deadline.Course{Received: c.day(r.Received), Pauses: pauses, Extended: r.Extension != ""}
}

// pauses are those of a history that are over.
func (c Clock) pauses(history []RequestEvent) (all []deadline.Pause) {
	var from deadline.Date
	for _, e := range history {
		switch e.Event {
		case "paused":
			from = c.day(e.At)
		case "resumed":
			all = append(all, deadline.Pause{From: from, To: c.day(e.At)})
		}
	}
	return all
}

// show gives the dates in the zone in which they are the days that they are.
func (c Clock) show(r *Request) {
	r.Due = r.Due.In(c.Zone)
	if r.AcknowledgeBy != nil {
		at := r.AcknowledgeBy.In(c.Zone)
		r.AcknowledgeBy = &at
	}
}
