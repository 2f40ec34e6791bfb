package datatype

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaskDefinition is a field's own mask, in one of three forms: the first and last characters; a part of the value; or a
// template with {firstN}, {lastN}, {domain} or {year} in it.
type MaskDefinition struct {
	RevealFirst int    `json:"reveal_first,omitempty"`
	RevealLast  int    `json:"reveal_last,omitempty"`
	Part        string `json:"reveal,omitempty"` // domain, year or none
	Template    string `json:"template,omitempty"`
}

const (
	revealNone  = "none"
	maxTemplate = 64 // bytes
)

// ends says what the first and last characters of a type's values are, and how many of them a mask may show. A type
// without of has no ends to show.
type ends struct {
	of     func(value []byte) (string, bool) // the characters that count: of a card number, the digits
	lead   string                            // stands before them in a mask
	fewest int                               // how many the shortest value has; zero: values are too different to say
	hidden int                               // how many stay hidden at least; zero: half of them
	first  int                               // how many of the first may be shown
	last   int                               // how many of the last may be shown
}

// shown is how much of a value a mask shows at most.
type shown struct {
	first, last  int
	domain, year bool
}

// Mask is what the view "masked" shows of a field. It is immutable. Of answers for any bytes, and what it shows never
// holds the value, normalised or not.
type Mask struct {
	typ    Type
	own    bool // false: the type's default
	shows  shown
	pieces []piece // of a template
}

// piece is literal text, or a placeholder.
type piece struct {
	text string
	shown
}

// DefaultMask is the mask of fields that have none of their own.
func (t Type) DefaultMask() Mask { return Mask{typ: t, shows: t.spec().shows} }

// NewMask makes a mask for the type's values. It refuses one that would show the whole of the shortest value, or of a
// card number more than PCI DSS 3.4.1 lets anybody see without a reason: the issuer's number and the last four digits.
func (t Type) NewMask(d MaskDefinition) (Mask, *Fault) {
	m := Mask{typ: t, own: true, shows: shown{first: d.RevealFirst, last: d.RevealLast}}
	isEnds := d.RevealFirst != 0 || d.RevealLast != 0
	switch {
	case isEnds && (d.Part != "" || d.Template != ""), d.Part != "" && d.Template != "", d == MaskDefinition{}:
		return Mask{}, fault("mask", "a mask has reveal_first and reveal_last, or reveal, or template")
	case d.Part == revealNone:
		return m, nil
	case d.Part == Domain:
		m.shows.domain = true
	case d.Part == Year:
		m.shows.year = true
	case d.Part != "":
		return Mask{}, fault("mask", "reveal is domain, year or none")
	case d.Template != "":
		var f *Fault
		if m.pieces, f = parseTemplate(d.Template); f != nil {
			return Mask{}, f
		}
		for _, p := range m.pieces {
			m.shows.first, m.shows.last = max(m.shows.first, p.first), max(m.shows.last, p.last)
			m.shows.domain, m.shows.year = m.shows.domain || p.domain, m.shows.year || p.year
		}
	}
	return m, m.check()
}

func (m Mask) check() *Fault {
	s, e := m.typ.spec(), m.typ.spec().ends
	switch n := m.shows.first + m.shows.last; {
	case m.shows.domain && s.index.domain == nil:
		return fault("mask", "values of the type have no domain")
	case m.shows.year && s.index.year == nil:
		return fault("mask", "values of the type have no year")
	case m.shows.first < 0 || m.shows.last < 0:
		return fault("mask", "reveal_first and reveal_last are not negative")
	case n > 0 && e.of == nil:
		return fault("mask", "values of the type have no first or last characters that may be shown")
	case m.shows.first > e.first || m.shows.last > e.last:
		if m.typ.Name() == "pan" {
			return fault("mask", "of a card number at most the first 8 and the last 4 digits may be shown (PCI DSS 3.4.1)")
		}
		return fault("mask", "the mask shows more characters of one end than the type allows")
	case n > 0 && e.fewest > 0 && min(m.shows.first, e.fitting(e.fewest))+m.shows.last > e.fewest-e.hidden:
		return fault("mask", "the mask would show too much of the type's shortest value")
	}
	return nil
}

// fitting is how many first characters of a value of n may be shown: card numbers of less than 16 digits have an issuer's
// number of six.
func (e ends) fitting(n int) int {
	if e.first == maxBIN && n < 16 {
		return 6
	}
	return e.first
}

func parseTemplate(text string) ([]piece, *Fault) {
	if len(text) > maxTemplate || strings.ContainsFunc(text, func(r rune) bool { return r != ' ' && !isVisible(r) }) {
		return nil, fault("mask", "a template has at most 64 bytes, without control characters")
	}
	var pieces []piece
	for text != "" {
		literal, rest, found := strings.Cut(text, "{")
		if strings.Contains(literal, "}") {
			return nil, badTemplate()
		}
		if literal != "" {
			pieces = append(pieces, piece{text: literal})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		p, known := placeholder(name)
		if !closed || !known {
			return nil, badTemplate()
		}
		pieces, text = append(pieces, piece{shown: p}), after
	}
	return pieces, nil
}

func badTemplate() *Fault {
	return fault("mask", "a template's placeholders are {first1} to {first12}, {last1} to {last12}, {domain} and {year}")
}

func placeholder(name string) (shown, bool) {
	for n := 1; n <= longestPrefix; n++ {
		switch name {
		case "first" + strconv.Itoa(n):
			return shown{first: n}, true
		case "last" + strconv.Itoa(n):
			return shown{last: n}, true
		}
	}
	return shown{domain: name == Domain, year: name == Year}, name == Domain || name == Year
}

// Of shows a stored value. One that is too short to keep enough hidden shows nothing.
func (m Mask) Of(value []byte) string {
	if !m.own {
		return m.typ.Mask(value)
	}
	out, ok := m.show(value)
	if !ok || !utf8.ValidString(out) || strings.Contains(out, string(value)) {
		return hide(value)
	}
	if normal := m.typ.Normalise(value); len(normal) > 0 && strings.Contains(out, string(normal)) {
		return hide(value)
	}
	return out
}

func (m Mask) show(value []byte) (string, bool) {
	parts, ok := m.parts(value)
	if !ok {
		return "", false
	}
	if m.pieces != nil {
		var out strings.Builder
		for _, p := range m.pieces {
			out.WriteString(p.text + parts.of(p.shown))
		}
		return out.String(), true
	}
	switch {
	case m.shows.domain && m.typ.Name() == "email":
		return stars + "@" + parts.domain, true
	case m.shows.domain:
		return stars + parts.domain + stars, true
	case m.shows.year:
		return parts.year + "-**-**", true
	case m.shows == shown{}:
		return "", false
	}
	e := m.typ.spec().ends
	hidden := stars
	if e.fewest > 0 {
		hidden = strings.Repeat("*", len(parts.characters)-min(m.shows.first, parts.first)-m.shows.last)
	}
	return e.lead + parts.of(shown{first: m.shows.first}) + hidden + parts.of(shown{last: m.shows.last}), true
}

// parts are what placeholders stand for.
type parts struct {
	characters   []rune
	first        int // how many of the first may be shown
	domain, year string
}

// parts answers false where a part is missing, or the value is too short to be shown in part.
func (m Mask) parts(value []byte) (p parts, ok bool) {
	s := m.typ.spec()
	if m.shows.domain {
		if p.domain, ok = s.index.domain(value); !ok {
			return p, false
		}
	}
	if m.shows.year {
		if p.year, ok = s.index.year(value); !ok {
			return p, false
		}
	}
	if m.shows.first+m.shows.last == 0 {
		return p, true
	}
	text, ok := s.ends.of(value)
	p.characters = []rune(text)
	n := len(p.characters)
	p.first = s.ends.fitting(n)
	seen := min(m.shows.first, p.first) + m.shows.last
	if s.ends.hidden == 0 {
		return p, ok && 2*seen <= n
	}
	return p, ok && n-seen >= s.ends.hidden
}

// of gives what one placeholder stands for.
func (p parts) of(what shown) string {
	switch {
	case what.domain:
		return p.domain
	case what.year:
		return p.year
	case what.first > 0:
		return string(p.characters[:min(what.first, p.first)])
	}
	return string(p.characters[len(p.characters)-what.last:])
}

// ShowsMore says whether the mask shows anything that another one, of the same type, does not.
func (m Mask) ShowsMore(than Mask) bool {
	a, b := m.shows, than.shows
	return a.first > b.first || a.last > b.last || a.domain && !b.domain || a.year && !b.year
}

// wholeText counts the characters of a text as it is, a letter and its accent as one where Unicode has one for both.
func wholeText(value []byte) (string, bool) {
	return norm.NFC.String(string(bytes.TrimSpace(value))), utf8.Valid(value)
}

// compacted are the characters of a normalised value, less those in drop.
func compacted(normalise func([]byte) []byte, check func([]byte) *Fault, drop string) func([]byte) (string, bool) {
	return func(value []byte) (string, bool) {
		if check(value) != nil {
			return "", false
		}
		return strings.TrimPrefix(string(normalise(value)), drop), true
	}
}

// Masks says which masks a field of the type may have.
func (t Type) Masks() MaskLimits {
	s, out := t.spec(), MaskLimits{Parts: []string{revealNone}}
	if s.ends.of != nil {
		out.RevealFirst, out.RevealLast = s.ends.first, s.ends.last
		if most := s.ends.fewest - s.ends.hidden; s.ends.fewest > 0 {
			out.RevealFirst, out.RevealLast = min(out.RevealFirst, most), min(out.RevealLast, most)
		}
	}
	if s.index.domain != nil {
		out.Parts = append(out.Parts, Domain)
	}
	if s.index.year != nil {
		out.Parts = append(out.Parts, Year)
	}
	return out
}

// MaskLimits are the masks that a type allows: how many characters of each end, and which parts.
type MaskLimits struct {
	RevealFirst int      `json:"reveal_first"`
	RevealLast  int      `json:"reveal_last"`
	Parts       []string `json:"reveal"`
}

// String is for the documentation's table.
func (l MaskLimits) String() string {
	if l.RevealFirst+l.RevealLast == 0 {
		return strings.Join(l.Parts, ", ")
	}
	return fmt.Sprintf("first %d, last %d, %s", l.RevealFirst, l.RevealLast, strings.Join(l.Parts, ", "))
}
