package dsar

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A report shows the first records, up to these bounds, which are all that it holds in memory.
const (
	reportRecords = 1000
	reportBytes   = 1 << 20
	reportValue   = 2000 // characters of a value
)

// block is a piece of a report, whatever it is written as.
type block struct {
	Level int    // of a heading; 0: no heading
	Text  string // of a heading or a paragraph
	Pairs []pair // terms and what stands beside them
}

type pair struct{ Term, Text string }

// report keeps what is shown of the data.
type report struct {
	cards []block
	last  string // the collection of the last card
	size  int
	full  bool
	left  int // records that are not shown
}

// show keeps a record, the nth of its collection, as long as there is room.
func (r *report) show(c Collection, n int, rec *Record) {
	if r.full = r.full || len(r.cards) >= reportRecords || r.size >= reportBytes; r.full {
		r.left++
		return
	}
	if r.last != c.Name {
		r.last = c.Name
		r.cards = append(r.cards, block{Level: 3, Text: words(c.Name)})
	}
	card := block{Text: fmt.Sprintf("Record %d, stored on %s", n, day(rec.Created))}
	for _, f := range c.Fields {
		text := spoken(f, rec)
		if text == "" {
			continue
		}
		r.size += len(text)
		card.Pairs = append(card.Pairs, pair{words(f.Name), text})
	}
	r.cards = append(r.cards, card)
}

// spoken is a value as a person reads it.
func spoken(f Field, rec *Record) string {
	value := rec.Values[f.Name]
	switch {
	case slices.Contains(rec.Held, f.Name):
		return "held, and not sent: " + f.Held
	case value == nil:
		return ""
	case f.Type == "bytes":
		return "binary data; see data.json"
	case f.Type == "boolean":
		return map[string]string{"true": "yes", "false": "no"}[string(value)]
	}
	text := plainText(f.Type, value)
	if len(text) > reportValue { // only then can there be more characters
		if all := []rune(text); len(all) > reportValue {
			text = string(all[:reportValue]) + " … (the rest is in data.json)"
		}
	}
	return text
}

// words is a name as a person reads it.
func words(name string) string {
	text := strings.ReplaceAll(name, "_", " ")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// kinds are types whose names only insiders know.
var kinds = map[string]string{"pan": "payment card number", "iban": "bank account number", "us_ssn": "Social Security number", "ip": "internet address",
	"url": "web address", "json": "structured data", "bytes": "binary data", "string": "text", "custom": "text of a certain form"}

func kindOf(typ string) string {
	if kind := kinds[typ]; kind != "" {
		return kind
	}
	return strings.ReplaceAll(typ, "_", " ")
}

func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

func dayOr(t *time.Time, otherwise string) string {
	if t == nil {
		return otherwise
	}
	return day(*t)
}

// blocks are the whole report.
func (r *report) blocks(h Head, p *Processing) []block {
	title, about := "Your personal data", "This is a copy of the personal data that is held about you in this system."
	if h.Kind == Portability {
		title, about = "Your data, to take along", "This is the data that you gave, in a form that other systems can read. A request for access gives you all that is held about you."
	}
	all := []block{
		{Level: 1, Text: title},
		{Text: about},
		{Pairs: trimmed([]pair{
			{"You are known here as", h.Subject},
			{"You are taken to be in", p.Jurisdiction},
			{"Your request", h.Request},
			{"Made on", h.Created.Format("2 January 2006, 15:04 UTC")},
		})},
		{Level: 2, Text: "What is in this package"},
		{Pairs: []pair{
			{"report.html, report.pdf", "this report"},
			{"data.json", "all of the data, for computers"},
			{"csv", "all of the data, as tables for a spreadsheet"},
			{"processing.json", "why the data is held, who saw it, where it came from and how long it is kept, for computers"},
			{"manifest.json, manifest.note", "a signed list of these files, by which anybody can check that nothing was changed"},
		}},
	}
	for _, part := range [][]block{held(p), whatFor(p), whoSaw(p), howLong(p), said(p), yourRights(p), r.data()} {
		all = append(all, part...)
	}
	return all
}

func trimmed(pairs []pair) []pair {
	return slices.DeleteFunc(pairs, func(p pair) bool { return p.Text == "" })
}

// held says what there is, and what of it is not sent.
func held(p *Processing) []block {
	all := []block{{Level: 2, Text: "What is held about you"}}
	if len(p.Categories) == 0 {
		all = append(all, block{Text: "Nothing that this request is about."})
	}
	var withheld []pair
	for _, c := range p.Categories {
		all = append(all, block{Level: 3, Text: words(c.Collection)}, block{Text: c.Description})
		pairs := []pair{{"Records", fmt.Sprintf("%d, the first stored on %s, last changed on %s", c.Records, dayOr(c.FirstStored, "-"), dayOr(c.LastChanged, "-"))}}
		for _, f := range c.Fields {
			if f.Values == 0 {
				continue
			}
			pairs = append(pairs, pair{words(f.Name), fmt.Sprintf("%s, %s, in %d of them", kindOf(f.Type), f.Classification, f.Values)})
			if f.Held != "" {
				withheld = append(withheld, pair{words(f.Name), fmt.Sprintf("%s, in %d records of %s", f.Held, f.Values, words(c.Collection))})
			}
		}
		all = append(all, block{Pairs: pairs})
	}
	if len(withheld) > 0 {
		all = append(all, block{Level: 2, Text: "What is held and may not be sent"},
			block{Text: "The law forbids to send these, so that nobody else can get hold of them. They are held about you:"}, block{Pairs: withheld})
	}
	return all
}

func whatFor(p *Processing) []block {
	all := []block{{Level: 2, Text: "What it is used for"}}
	if len(p.Purposes) == 0 {
		return append(all, block{Text: "No purpose is registered in this system for this data. Ask the organisation."})
	}
	var pairs []pair
	for _, purpose := range p.Purposes {
		pairs = append(pairs, pair{words(purpose.Name), strings.TrimPrefix(purpose.Description+". Why that is allowed: ", ". ") + bases[purpose.LegalBasis]})
	}
	return append(all, block{Pairs: pairs})
}

func whoSaw(p *Processing) []block {
	all := []block{{Level: 2, Text: "Who has seen it"}, {Text: "These systems and services were shown values of yours, as far back as the log of this system goes."}}
	if len(p.Recipients) == 0 {
		all[1].Text = "Nobody was shown values of yours, as far back as the log of this system goes."
	} else {
		all = append(all, block{Pairs: involved(p.Recipients)})
	}
	all = append(all, block{Level: 2, Text: "Where it comes from"})
	if len(p.Sources) == 0 {
		return append(all, block{Text: "The log of this system doesn't go back far enough to say who stored it. Ask the organisation."})
	}
	return append(all, block{Text: "These systems and services stored or changed it."}, block{Pairs: involved(p.Sources)})
}

func involved(whom []Recipient) []pair {
	var pairs []pair
	for _, w := range whom {
		var fields []string
		for _, collection := range slices.Sorted(maps.Keys(w.Fields)) {
			for _, name := range w.Fields[collection] {
				fields = append(fields, strings.ReplaceAll(name, "_", " ")+" ("+strings.ReplaceAll(collection, "_", " ")+")")
			}
		}
		text := strings.Join(fields, ", ") + "; " + strconv.Itoa(w.Times) + " times, from " + day(w.First) + " to " + day(w.Last)
		if w.Purpose != "" {
			text = "for " + strings.ReplaceAll(w.Purpose, "_", " ") + ": " + text
		}
		pairs = append(pairs, pair{words(w.Principal), text})
	}
	return pairs
}

func howLong(p *Processing) []block {
	var pairs []pair
	for _, c := range p.Categories {
		var text []string
		if r := c.Retention; r != nil && r.Minimum != "" {
			text = append(text, fmt.Sprintf("kept for at least %s, by law (%s)", r.Minimum, r.Ground))
		}
		if r := c.Retention; r != nil && r.Keep != "" {
			text = append(text, fmt.Sprintf("kept for %s after it was %s, then: %s", r.Keep, r.After, r.Action))
		}
		if c.LastExpiry != nil {
			text = append(text, "the last record that has an end becomes unreadable on "+day(*c.LastExpiry))
		}
		if c.NeverExpire > 0 {
			text = append(text, fmt.Sprintf("%d records have no end of their own", c.NeverExpire))
		}
		pairs = append(pairs, pair{words(c.Collection), strings.Join(text, "; ")})
	}
	return []block{{Level: 2, Text: "How long it is kept"}, {Text: "Durations are written as in P3Y (three years), P6M (six months), P30D (thirty days)."}, {Pairs: pairs}}
}

func said(p *Processing) []block {
	if len(p.Statements) == 0 && p.Restriction == nil {
		return nil
	}
	var pairs []pair
	for _, s := range p.Statements {
		text := map[bool]string{true: "given", false: "withdrawn"}[s.Given] + " on " + day(s.At)
		if s.TextVersion != "" {
			text += ", to version " + s.TextVersion + " of the text"
		}
		pairs = append(pairs, pair{strings.TrimSuffix(words(s.Kind)+": "+words(s.Purpose), ": "), text})
	}
	if r := p.Restriction; r != nil {
		pairs = append(pairs, pair{"Restriction", "your data is kept and not otherwise used since " + day(r.Since) + "; reason: " + r.Reason})
	}
	return []block{{Level: 2, Text: "What you said about it"}, {Pairs: pairs}}
}

func yourRights(p *Processing) []block {
	var pairs []pair
	for _, r := range p.Rights {
		pairs = append(pairs, pair{r.Name, r.Text + " (" + r.Law + ")"})
	}
	return []block{{Level: 2, Text: "Your rights"}, {Text: "To use them, write to the organisation that sent you this package."}, {Pairs: pairs}}
}

// data are the records.
func (r *report) data() []block {
	all := []block{{Level: 2, Text: "The data"}}
	if r.left > 0 {
		all = append(all, block{Text: fmt.Sprintf("This report shows the first records. %d more are in data.json and in the tables.", r.left)})
	}
	return append(all, r.cards...)
}
