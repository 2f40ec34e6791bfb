// Package deadline knows the statutory clocks of data subject requests: until when a request must be acknowledged and
// answered, when the time may be extended, and whether it may stand still. It is arithmetic on calendar dates and asks no
// clock: the caller says which day it is, in the time zone of whoever has to answer.
//
// The sources are Regulation (EU) 2016/679 (GDPR) with Regulation (EEC, Euratom) 1182/71 on periods and EDPB Guidelines
// 01/2022; the California Civil Code 1798.100 ff. with 11 CCR 7000 ff. (CCPA); and 45 CFR 164.524 and 164.526 (HIPAA). It
// helps with keeping the dates; it is no legal advice, and where a text leaves room the earlier date is taken.
package deadline

import (
	"errors"
	"fmt"
	"slices"
)

// Regime is the law that a request is made under.
type Regime string

// The regimes.
const (
	GDPR  Regime = "gdpr"
	CCPA  Regime = "ccpa"
	HIPAA Regime = "hipaa"
)

// Type is what a request asks for.
type Type string

// The types of request. Under the CCPA a restriction is the right to limit the use of sensitive data (1798.121) and an
// objection the right to opt out of sale and sharing (1798.120).
const (
	Access      Type = "access"
	Portability Type = "portability"
	Correction  Type = "correction"
	Erasure     Type = "erasure"
	Restriction Type = "restriction"
	Objection   Type = "objection"
)

// unit is what a span is counted in.
type unit uint8

const (
	days unit = iota
	businessDays
	months
)

// span is a length of time. Zero: there is none.
type span struct {
	n    int
	unit unit
}

// Rule is the clock of one type of request under one regime.
type Rule struct {
	Regime Regime
	Types  []Type
	Law    string // where it stands

	acknowledge span
	respond     span
	extend      span // beyond respond, counted from receipt: respond and extend together
	pause       bool // the clock stands still while the person has to prove who they are, or what they ask for
	roll        bool // a last day that is no working day moves to the next one
}

var rules = []Rule{
	{
		Regime: GDPR, Types: []Type{Access, Portability, Correction, Erasure, Restriction, Objection},
		Law:     "GDPR 12(3), 12(6); Regulation 1182/71 Article 3",
		respond: span{1, months}, extend: span{2, months}, pause: true, roll: true,
	},
	{
		Regime: CCPA, Types: []Type{Access, Portability, Correction, Erasure},
		Law:         "Cal. Civ. Code 1798.130(a)(2); 11 CCR 7021",
		acknowledge: span{10, businessDays}, respond: span{45, days}, extend: span{45, days},
	},
	{
		Regime: CCPA, Types: []Type{Restriction, Objection},
		Law:     "11 CCR 7026(f), 7027(g)",
		respond: span{15, businessDays},
	},
	{
		Regime: HIPAA, Types: []Type{Access, Portability},
		Law:     "45 CFR 164.524(b)(2)",
		respond: span{30, days}, extend: span{30, days},
	},
	{
		Regime: HIPAA, Types: []Type{Correction},
		Law:     "45 CFR 164.526(b)(2)",
		respond: span{60, days}, extend: span{30, days},
	},
}

// ErrNoRight says that a regime doesn't know such a request.
var ErrNoRight = errors.New("the regime has no such right")

// For gives the rule of a request, or ErrNoRight.
func For(regime Regime, typ Type) (Rule, error) {
	for _, r := range rules {
		if r.Regime == regime && slices.Contains(r.Types, typ) {
			return r, nil
		}
	}
	return Rule{}, fmt.Errorf("%w: %s under %s", ErrNoRight, typ, regime)
}

// Pause is a time in which the clock stands still: from the day on which the person was asked until the day on which the
// answer came.
type Pause struct{ From, To Date }

// Course is what has happened to a request so far.
type Course struct {
	Received Date
	Pauses   []Pause // closed ones, apart from each other, in order
	Extended bool
}

// AcknowledgeBy is the last day for confirming that a request came in; false where the law asks for no confirmation.
func (r Rule) AcknowledgeBy(received Date, c Calendar) (Date, bool) {
	if r.acknowledge == (span{}) {
		return Date{}, false
	}
	return r.acknowledge.after(received, c), true
}

// DueBy is the last day for answering a request.
func (r Rule) DueBy(at Course, c Calendar) Date {
	length := r.respond
	if at.Extended {
		length.n += r.extend.n // in the same unit, and counted from receipt
	}
	due := length.after(at.Received, c)
	for _, p := range at.Pauses {
		if r.pause {
			due = due.AddDays(p.To.DaysSince(p.From))
		}
	}
	if r.roll {
		due = c.WorkingDay(due)
	}
	return due
}

// MayPause is nil where the law lets the clock stand still.
func (r Rule) MayPause() error {
	if !r.pause {
		return fmt.Errorf("%s counts from receipt, whatever time verification takes", r.Law)
	}
	return nil
}

// MayExtend is nil if an extension is possible and the person is told of it on the day noticed: once, and inside the
// first period.
func (r Rule) MayExtend(at Course, noticed Date, c Calendar) error {
	first := r.DueBy(Course{Received: at.Received, Pauses: at.Pauses}, c)
	switch {
	case r.extend == (span{}):
		return fmt.Errorf("%s knows no extension", r.Law)
	case at.Extended:
		return errors.New("the time was extended already")
	case noticed.Before(at.Received):
		return errors.New("the notice is older than the request")
	case first.Before(noticed):
		return fmt.Errorf("the person must be told inside the first period, by %s", first)
	}
	return nil
}

// after is the last day of a span that an event on a day begins. The day of the event is not counted (1182/71 Article
// 3(1); Cal. Civ. Code 10).
func (s span) after(event Date, c Calendar) Date {
	switch s.unit {
	case months:
		return event.AddMonths(s.n)
	case businessDays:
		day := event
		for left := s.n; left > 0; {
			if day = day.AddDays(1); c.Working(day) {
				left--
			}
		}
		return day
	}
	return event.AddDays(s.n)
}
