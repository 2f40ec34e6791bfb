package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/privault/privault/vault/deadline"
)

// Retention is how long a collection's records are kept, or a field's values, and what becomes of them then.
type Retention struct {
	Keep    string   `json:"keep,omitempty"`    // an ISO 8601 period; empty: only the minimum counts
	After   string   `json:"after,omitempty"`   // created (the default), updated, revealed, field:<date field> or purpose:<its end>
	Action  string   `json:"action,omitempty"`  // erase (the default) or anonymise
	Minimum *Minimum `json:"minimum,omitempty"` // of a collection only
}

// Minimum is how long the law has records kept at least. It wins over every rule, over expires_at, and over erasure.
type Minimum struct {
	Keep   string `json:"keep"`
	After  string `json:"after,omitempty"` // created (the default), updated or field:<date field>
	Ground string `json:"ground"`          // the law, e.g. "HGB 257"
}

const (
	afterCreated  = "created"
	afterUpdated  = "updated"
	afterRevealed = "revealed"
	afterField    = "field:"
	afterPurpose  = "purpose:"

	actionErase     = "erase"
	actionAnonymise = "anonymise"

	maxGround = 200
)

// rule is a Retention in force.
type rule struct {
	name    string // collection, or field:<name>: what counts, plans and entries call it
	of      *field // nil: the record as a whole
	keep    deadline.Period
	after   string
	by      *field // whose date it counts from
	purpose string // whose end it counts from
	action  string
}

// The names of rules that are no field's.
const (
	ruleCollection = "collection"
	ruleExpiry     = "expires_at" // what the record's owner said when it was stored
	ruleField      = "field:"
)

// checkRetention validates a definition's rules and fills in their defaults.
func (d *Definition) checkRetention(bad func(pointer, rule, detail string)) {
	if d.Retention != nil {
		d.checkRule("/retention", d.Retention, bad)
		d.checkMinimum(d.Retention, bad)
	}
	for name, f := range d.Fields {
		if f.Retention == nil {
			continue
		}
		at := "/fields/" + name + "/retention"
		if f.Retention.Keep == "" || f.Retention.Minimum != nil {
			bad(at, "retention", "a field's retention has keep; only a collection's has a minimum")
			continue
		}
		if d.KMS == kmsDirect { // whatever its beginning: the record is opened and sealed anew without the value
			bad(at, "direct", noDirect)
			continue
		}
		d.checkRule(at, f.Retention, bad)
		if typ, _, err := f.recall(); err == nil && f.Retention.Action == actionAnonymise && !typ.Generalises() {
			bad(at+"/action", "anonymise", "only dates and postal codes have a general form; other fields are erased")
		}
	}
}

func (d *Definition) checkRule(at string, r *Retention, bad func(pointer, rule, detail string)) {
	if r.Keep == "" {
		if r.Minimum == nil || r.After != "" || r.Action != "" {
			bad(at+"/keep", "period", "a rule says how long something is kept")
		}
		return
	}
	if _, err := deadline.ParsePeriod(r.Keep); err != nil {
		bad(at+"/keep", "period", err.Error())
	}
	if r.After == "" {
		r.After = afterCreated
	}
	if r.Action == "" {
		r.Action = actionErase
	}
	if r.Action != actionErase && r.Action != actionAnonymise {
		bad(at+"/action", "action", "the actions are erase and anonymise")
	}
	purpose, isPurpose := strings.CutPrefix(r.After, afterPurpose)
	if r.After != afterRevealed && (!isPurpose || !nameOfPurpose.MatchString(purpose)) {
		d.checkAfter(at, r.After, "after is created, updated, revealed, field: with the name of a date field, or purpose: with a purpose", bad)
	}
	if r.Action == actionAnonymise && d.KMS == kmsDirect {
		bad(at+"/action", "direct", noDirect)
	}
}

// noDirect is why rules that need a record's values don't go with kms: direct.
const noDirect = "a sweep opens no record whose key the KMS wraps itself: with kms direct, rules count from created, updated, revealed or a purpose, and erase whole records"

// checkAfter checks a beginning that is written in the record itself.
func (d *Definition) checkAfter(at, after, detail string, bad func(pointer, rule, detail string)) {
	name, isField := strings.CutPrefix(after, afterField)
	switch {
	case after == afterCreated || after == afterUpdated:
	case !isField || d.Fields[name].Type != "date" && d.Fields[name].Type != "date_of_birth":
		bad(at+"/after", "after", detail)
	case d.KMS == kmsDirect:
		bad(at+"/after", "direct", noDirect)
	}
}

func (d *Definition) checkMinimum(r *Retention, bad func(pointer, rule, detail string)) {
	m, at := r.Minimum, "/retention/minimum"
	if m == nil {
		return
	}
	if _, err := deadline.ParsePeriod(m.Keep); err != nil {
		bad(at+"/keep", "period", err.Error())
	}
	if m.After == "" {
		m.After = afterCreated
	}
	d.checkAfter(at, m.After, "a minimum counts from created, updated, or field: with the name of a date field", bad)
	if strings.TrimSpace(m.Ground) == "" || len(m.Ground) > maxGround || strings.ContainsFunc(m.Ground, func(r rune) bool { return r < ' ' }) {
		bad(at+"/ground", "ground", fmt.Sprintf("the ground is the law that has the records kept, in at most %d bytes and one line", maxGround))
	}
}

// adoptRetention makes the rules of a definition that was checked when it was stored.
func (c *Collection) adoptRetention() error {
	if r := c.Definition.Retention; r != nil && r.Keep != "" {
		if err := c.adoptRule(ruleCollection, nil, *r); err != nil {
			return err
		}
	}
	for _, f := range c.order {
		if r := c.Definition.Fields[f.name].Retention; r != nil {
			if err := c.adoptRule(ruleField+f.name, f, *r); err != nil {
				return err
			}
		}
	}
	if r := c.Definition.Retention; r != nil && r.Minimum != nil {
		m := *r.Minimum
		kept, err := c.newRule("minimum", nil, Retention{Keep: m.Keep, After: m.After})
		c.minimum = kept
		return err
	}
	return nil
}

func (c *Collection) adoptRule(name string, of *field, r Retention) error {
	made, err := c.newRule(name, of, r)
	if err == nil {
		c.rules = append(c.rules, made)
		c.asksReveals = c.asksReveals || made.after == afterRevealed
	}
	return err
}

func (c *Collection) newRule(name string, of *field, r Retention) (*rule, error) {
	made := &rule{name: name, of: of, after: r.After, action: r.Action}
	var err error
	if made.keep, err = deadline.ParsePeriod(r.Keep); err != nil {
		return nil, fmt.Errorf("a stored rule of retention: %w", err)
	}
	if field, is := strings.CutPrefix(r.After, afterField); is {
		if made.by = c.fields[field]; made.by == nil {
			return nil, fmt.Errorf("a stored rule of retention counts from a field that there isn't")
		}
	}
	made.purpose, _ = strings.CutPrefix(r.After, afterPurpose)
	if made.purpose == r.After {
		made.purpose = ""
	}
	return made, nil
}

// ruled says whether the collection's records are due some time by its rules.
func (c *Collection) ruled() bool { return len(c.rules) > 0 }

// perusing says whether a sweep has to open records of the collection to know what is due: it counts from their values, or they
// are made anonymous.
func (c *Collection) perusing() bool {
	return c.minimum != nil && c.minimum.by != nil ||
		slices.ContainsFunc(c.rules, func(r *rule) bool { return r.by != nil || r.of != nil || r.action == actionAnonymise })
}

// lifetime is what rules ask of a record.
type lifetime struct {
	created, updated  time.Time
	expires, revealed *time.Time
	generalised       []int16
	value             func(f *field) ([]byte, error) // nil: the record has none
	purposes          map[string]Purpose
}

// fate is what the rules say of a record at a moment.
type fate struct {
	rule   string // by which the record as a whole is due; empty: it isn't
	action string
	fields []*rule    // whose fields are due, of a record that isn't
	until  *time.Time // when the legal minimum ends, if that is to come
	next   *time.Time // what due_at is to be: nil if nothing is ever due
}

// due says whether something of the record is due.
func (f *fate) due() bool { return f.rule != "" || len(f.fields) > 0 }

// wholly is the number among a record's generalised fields that stands for the record.
const wholly = subjectField

// fate asks every rule. Whoever reads is told what is due, the minimum notwithstanding: that keeps a record stored, and not readable.
func (c *Collection) fate(l *lifetime, now time.Time) (f fate, err error) {
	if slices.Contains(l.generalised, wholly) {
		return f, nil
	}
	var next *time.Time
	sooner := func(at *time.Time) { // of the marks
		if at != nil && (next == nil || at.Before(*next)) {
			next = at
		}
	}
	var first *time.Time
	for _, r := range c.rules {
		if r.of != nil && slices.Contains(l.generalised, int16(r.of.number)) {
			continue
		}
		at, err := r.due(l)
		if err != nil {
			return f, err
		}
		if r.of != nil && at != nil {
			held, err := l.value(r.of)
			if err != nil {
				return f, err
			}
			if held == nil {
				continue
			}
		}
		sooner(r.mark(at))
		switch {
		case at == nil || at.After(now):
		case r.of != nil:
			f.fields = append(f.fields, r)
		case first == nil || at.Before(*first):
			first, f.rule, f.action = at, r.name, r.action
		}
	}
	if sooner(l.expires); l.expires != nil && !l.expires.After(now) {
		f.rule, f.action = ruleExpiry, actionErase
	}
	if f.rule != "" {
		f.fields = nil
	}
	f.next = next
	return f, c.keepMinimum(l, now, &f)
}

// keepMinimum puts off what the law has kept.
func (c *Collection) keepMinimum(l *lifetime, now time.Time, f *fate) error {
	if c.minimum == nil {
		return nil
	}
	until, err := c.minimum.due(l)
	if err != nil {
		return err
	}
	if until == nil { // it has no such date
		end := c.minimum.keep.After(l.created)
		until = &end
	}
	if until.After(now) {
		f.until = until
	}
	if mark := c.minimum.mark(until); f.next != nil && f.next.Before(*mark) {
		f.next = mark
	}
	return nil
}

// revealedGrain is how exactly it is known when a record was last revealed: it is written down once a day.
const revealedGrain = 24 * time.Hour

// due is when the rule makes a record due; nil: not as far as is known.
func (r *rule) due(l *lifetime) (*time.Time, error) {
	from := l.created
	switch {
	case r.after == afterUpdated:
		from = l.updated
	case r.after == afterRevealed && l.revealed != nil:
		from = l.revealed.Add(revealedGrain)
	case r.purpose != "":
		p, registered := l.purposes[r.purpose]
		if !registered || p.Ends == nil {
			return nil, nil
		}
		from = *p.Ends
	case r.by != nil:
		text, err := l.value(r.by)
		if err != nil || text == nil {
			return nil, err
		}
		if day, err := time.Parse(time.DateOnly, string(text)); err == nil {
			from = day.AddDate(0, 0, 1) // when the day is over
		} else if year, err := time.Parse("2006", string(text)); err == nil {
			from = year.AddDate(1, 0, 0) // that is all that is left of it
		} else {
			return nil, &Error{Kind: IntegrityFailure, cause: errors.New("a date does not parse")}
		}
	}
	at := r.keep.After(from)
	return &at, nil
}

// mark is what is stored of a due moment, in clear. One that says when a date in the record is, is rounded down: to the month, or
// of a date of birth to the year. A sweep looks again.
func (r *rule) mark(due *time.Time) *time.Time {
	if due == nil || r.by == nil {
		return due
	}
	month := due.Month()
	if r.by.typ.Name() == "date_of_birth" {
		month = time.January
	}
	rounded := time.Date(due.Year(), month, 1, 0, 0, 0, 0, time.UTC)
	return &rounded
}

// dueAt is what due_at of a record is to be: nil if no rule speaks of it, and expires_at counts alone.
func (c *Collection) dueAt(l *lifetime) (*time.Time, error) {
	if !c.ruled() && c.minimum == nil {
		return nil, nil
	}
	f, err := c.fate(l, l.updated)
	return microseconds(f.next), err
}

// valueOf gives values by their field, as rules ask for them.
func valueOf(values []value) func(*field) ([]byte, error) {
	return func(f *field) ([]byte, error) {
		for _, v := range values {
			if v.number == uint32(f.number) {
				return v.plain, nil
			}
		}
		return nil, nil
	}
}
