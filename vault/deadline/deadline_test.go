package deadline

import (
	"errors"
	"testing"
	"time"
)

// The holidays of most of Germany, as an example of a list that an operator writes.
var german = []string{"01-01", "easter-2", "easter+1", "05-01", "easter+39", "easter+50", "10-03", "12-25", "12-26"}

func calendar(t *testing.T, holidays ...string) Calendar {
	t.Helper()
	c, err := NewCalendar(holidays...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func date(t *testing.T, text string) Date {
	t.Helper()
	d, err := ParseDate(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// dated were computed by another program from published lists of holidays: GDPR with the German ones, CCPA with those
// that the United States Office of Personnel Management publishes.
var dated = []struct {
	regime      Regime
	typ         Type
	received    string
	extended    bool
	due         string
	acknowledge string
}{
	{GDPR, Access, "2027-01-31", false, "2027-03-01", ""},
	{GDPR, Access, "2024-01-31", false, "2024-02-29", ""},
	{GDPR, Access, "2027-01-30", false, "2027-03-01", ""},
	{GDPR, Access, "2024-01-30", false, "2024-02-29", ""},
	{GDPR, Access, "2024-01-29", false, "2024-02-29", ""},
	{GDPR, Access, "2027-01-28", false, "2027-03-01", ""},
	{GDPR, Access, "2026-08-31", false, "2026-09-30", ""},
	{GDPR, Access, "2026-10-31", false, "2026-11-30", ""},
	{GDPR, Access, "2026-12-31", false, "2027-02-01", ""},
	{GDPR, Access, "2027-02-28", false, "2027-03-30", ""},
	{GDPR, Access, "2024-02-29", false, "2024-04-02", ""},
	{GDPR, Access, "2027-03-05", false, "2027-04-05", ""},
	{GDPR, Access, "2026-03-05", false, "2026-04-07", ""},
	{GDPR, Access, "2027-02-26", false, "2027-03-30", ""},
	{GDPR, Access, "2026-11-25", false, "2026-12-28", ""},
	{GDPR, Access, "2026-11-26", false, "2026-12-28", ""},
	{GDPR, Access, "2027-04-01", false, "2027-05-03", ""},
	{GDPR, Access, "2026-12-01", false, "2027-01-04", ""},
	{GDPR, Access, "2027-05-31", false, "2027-06-30", ""},
	{GDPR, Access, "2028-01-31", false, "2028-02-29", ""},
	{GDPR, Access, "2027-02-05", false, "2027-03-05", ""},
	{GDPR, Access, "2026-09-03", false, "2026-10-05", ""},
	{GDPR, Access, "2027-04-06", false, "2027-05-07", ""},
	{GDPR, Access, "2027-04-17", false, "2027-05-18", ""},
	{GDPR, Access, "2027-02-27", false, "2027-03-30", ""},
	{GDPR, Erasure, "2026-11-30", true, "2027-03-01", ""},
	{GDPR, Erasure, "2027-01-31", true, "2027-04-30", ""},
	{GDPR, Erasure, "2026-12-31", true, "2027-03-31", ""},
	{GDPR, Erasure, "2027-03-31", true, "2027-06-30", ""},
	{GDPR, Erasure, "2027-07-31", true, "2027-11-01", ""},
	{GDPR, Erasure, "2026-09-25", true, "2026-12-28", ""},
	{CCPA, Access, "2027-01-01", false, "2027-02-15", "2027-01-15"},
	{CCPA, Access, "2026-11-20", false, "2027-01-04", "2026-12-07"},
	{CCPA, Access, "2024-01-15", false, "2024-02-29", "2024-01-29"},
	{CCPA, Access, "2026-12-18", false, "2027-02-01", "2027-01-05"},
	{CCPA, Access, "2027-06-10", false, "2027-07-25", "2027-06-25"},
	{CCPA, Access, "2027-12-20", false, "2028-02-03", "2028-01-05"},
	{CCPA, Access, "2027-02-05", false, "2027-03-22", "2027-02-22"},
	{CCPA, Access, "2026-06-15", false, "2026-07-30", "2026-06-30"},
	{CCPA, Access, "2028-02-10", false, "2028-03-26", "2028-02-25"},
	{CCPA, Access, "2024-02-14", false, "2024-03-30", "2024-02-29"},
	{CCPA, Erasure, "2027-01-01", true, "2027-04-01", "2027-01-15"},
	{CCPA, Erasure, "2026-11-20", true, "2027-02-18", "2026-12-07"},
	{CCPA, Erasure, "2024-01-15", true, "2024-04-14", "2024-01-29"},
	{CCPA, Erasure, "2027-12-20", true, "2028-03-19", "2028-01-05"},
	{CCPA, Objection, "2026-11-20", false, "2026-12-14", ""},
	{CCPA, Objection, "2027-06-14", false, "2027-07-07", ""},
	{CCPA, Objection, "2027-12-20", false, "2028-01-12", ""},
	{CCPA, Objection, "2026-12-31", false, "2027-01-25", ""},
	{CCPA, Objection, "2028-10-27", false, "2028-11-20", ""},
	{CCPA, Restriction, "2026-07-01", false, "2026-07-23", ""},
	{CCPA, Restriction, "2027-05-20", false, "2027-06-11", ""},
	{HIPAA, Access, "2027-01-31", false, "2027-03-02", ""},
	{HIPAA, Portability, "2027-01-31", true, "2027-04-01", ""},
	{HIPAA, Access, "2024-01-31", false, "2024-03-01", ""},
	{HIPAA, Portability, "2024-01-31", true, "2024-03-31", ""},
	{HIPAA, Access, "2024-02-15", false, "2024-03-16", ""},
	{HIPAA, Portability, "2024-02-15", true, "2024-04-15", ""},
	{HIPAA, Access, "2026-12-15", false, "2027-01-14", ""},
	{HIPAA, Portability, "2026-12-15", true, "2027-02-13", ""},
	{HIPAA, Access, "2027-06-30", false, "2027-07-30", ""},
	{HIPAA, Portability, "2027-06-30", true, "2027-08-29", ""},
	{HIPAA, Access, "2028-02-01", false, "2028-03-02", ""},
	{HIPAA, Portability, "2028-02-01", true, "2028-04-01", ""},
	{HIPAA, Correction, "2027-01-31", false, "2027-04-01", ""},
	{HIPAA, Correction, "2027-01-31", true, "2027-05-01", ""},
	{HIPAA, Correction, "2024-01-01", false, "2024-03-01", ""},
	{HIPAA, Correction, "2024-01-01", true, "2024-03-31", ""},
	{HIPAA, Correction, "2026-12-15", false, "2027-02-13", ""},
	{HIPAA, Correction, "2026-12-15", true, "2027-03-15", ""},
}

func TestDatedCases(t *testing.T) {
	t.Parallel()
	calendars := map[Regime]Calendar{GDPR: calendar(t, german...), CCPA: calendar(t, "us-federal"), HIPAA: {}}
	for _, d := range dated {
		r, err := For(d.regime, d.typ)
		if err != nil {
			t.Fatal(err)
		}
		received, c := date(t, d.received), calendars[d.regime]
		if got := r.DueBy(Course{Received: received, Extended: d.extended}, c).String(); got != d.due {
			t.Errorf("%s %s received %s, extended %t: due by %s, want %s", d.regime, d.typ, d.received, d.extended, got, d.due)
		}
		acknowledge := ""
		if day, has := r.AcknowledgeBy(received, c); has {
			acknowledge = day.String()
		}
		if d.acknowledge != acknowledge && d.acknowledge != "" {
			t.Errorf("%s %s received %s: acknowledge by %q, want %q", d.regime, d.typ, d.received, acknowledge, d.acknowledge)
		}
		if d.acknowledge == "" && acknowledge != "" {
			t.Errorf("%s %s: acknowledge by %s, and the law asks for none", d.regime, d.typ, acknowledge)
		}
	}
}

func TestPausesMoveTheDateOnlyWhereTheLawLetsThem(t *testing.T) {
	t.Parallel()
	at := Course{Received: date(t, "2027-03-01"), Pauses: []Pause{{date(t, "2027-03-04"), date(t, "2027-03-10")}}}
	for regime, want := range map[Regime]string{
		GDPR:  "2027-04-07", // 1 April and six days
		CCPA:  "2027-04-15", // 45 days from receipt, whatever verification takes
		HIPAA: "2027-03-31",
	} {
		r, err := For(regime, Access)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.DueBy(at, Calendar{}).String(); got != want {
			t.Errorf("%s: due by %s, want %s", regime, got, want)
		}
		if err := r.MayPause(); (err == nil) != (regime == GDPR) {
			t.Errorf("%s: may pause: %v", regime, err)
		}
	}
}

func TestExtensionNeedsNoticeInsideTheFirstPeriod(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		regime   Regime
		typ      Type
		noticed  string
		extended bool
		allowed  bool
	}{
		{GDPR, Access, "2027-03-01", false, true},
		{GDPR, Access, "2027-04-01", false, true}, // the last day
		{GDPR, Access, "2027-04-02", false, false},
		{GDPR, Access, "2027-03-15", true, false}, // once
		{GDPR, Access, "2027-02-28", false, false},
		{CCPA, Erasure, "2027-04-15", false, true},
		{CCPA, Erasure, "2027-04-16", false, false},
		{CCPA, Objection, "2027-03-02", false, false}, // 15 business days, and no more
		{HIPAA, Access, "2027-03-31", false, true},
		{HIPAA, Access, "2027-04-01", false, false},
		{HIPAA, Correction, "2027-04-30", false, true},
		{HIPAA, Correction, "2027-05-01", false, false},
	} {
		r, err := For(c.regime, c.typ)
		if err != nil {
			t.Fatal(err)
		}
		at := Course{Received: date(t, "2027-03-01"), Extended: c.extended}
		if err := r.MayExtend(at, date(t, c.noticed), Calendar{}); (err == nil) != c.allowed {
			t.Errorf("%s %s, notice on %s, extended before %t: %v", c.regime, c.typ, c.noticed, c.extended, err)
		}
	}
	// A pause lengthens the first period, and the time for the notice with it.
	r, err := For(GDPR, Access)
	if err != nil {
		t.Fatal(err)
	}
	at := Course{Received: date(t, "2027-03-01"), Pauses: []Pause{{date(t, "2027-03-04"), date(t, "2027-03-10")}}}
	if err := r.MayExtend(at, date(t, "2027-04-07"), Calendar{}); err != nil {
		t.Error(err)
	}
}

func TestRightsThatARegimeDoesNotHave(t *testing.T) {
	t.Parallel()
	for _, typ := range []Type{Erasure, Restriction, Objection, "complaint"} {
		if _, err := For(HIPAA, typ); !errors.Is(err, ErrNoRight) {
			t.Errorf("hipaa %s: %v", typ, err)
		}
	}
	if _, err := For("lgpd", Access); !errors.Is(err, ErrNoRight) {
		t.Error("an unknown regime has rights")
	}
}

func TestEaster(t *testing.T) {
	t.Parallel()
	// United States Naval Observatory, Dates of Easter.
	for _, want := range []string{"1961-04-02", "2000-04-23", "2008-03-23", "2011-04-24", "2024-03-31", "2026-04-05", "2027-03-28", "2038-04-25"} {
		day := date(t, want)
		if got := easter(day.Year); got != day {
			t.Errorf("Easter Sunday is %s, want %s", got, want)
		}
	}
}

func TestHolidaysThatAreNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "02-30", "2027-02-29", "easter+x", "christmas", "12/25"} {
		if _, err := NewCalendar("01-01", text); err == nil {
			t.Errorf("%q is taken for a holiday", text)
		}
	}
	if !calendar(t, "02-29").Working(date(t, "2027-03-01")) {
		t.Error("29 February is observed on another day")
	}
}

func TestDayEndsWhereTheControllerIs(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("", 2*60*60)
	late := time.Date(2027, 5, 1, 23, 30, 0, 0, time.UTC)
	if got := On(late.In(zone)).String(); got != "2027-05-02" {
		t.Errorf("the request came in on %s", got)
	}
	if got := date(t, "2027-05-02").End(zone).UTC().Format(time.RFC3339); got != "2027-05-02T22:00:00Z" {
		t.Errorf("the day ends at %s", got)
	}
}
