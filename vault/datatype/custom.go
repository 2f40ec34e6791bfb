package datatype

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// CustomName is the type of a field that says itself what its values are.
const CustomName = "custom"

// Steps that a custom type's normaliser may have.
const (
	stepTrim     = "trim"     // white space at both ends
	stepCollapse = "collapse" // white space inside becomes one space
	stepLower    = "lower"
	stepUpper    = "upper"
	stepDigits   = "digits" // nothing but 0 to 9 stays
	stepStrip    = "strip:" // the characters behind the colon go
)

const (
	maxSteps = 8
	maxStrip = 16
)

// CustomDefinition is a type made by the owner of a field.
type CustomDefinition struct {
	Pattern   string   // RE2, from ^ to $: what the values look like, before they are normalised
	Normalise []string // steps, in their order: trim, collapse, lower, upper, digits, strip:<characters>
}

// Custom makes a type. Its default mask shows nothing. How many values a pattern has is counted, so that an index on few
// of them can be refused: (red|green) has 2, [A-Z]{2}[0-9]{6} 676,000,000. A pattern too complex to be counted is refused.
func Custom(d CustomDefinition) (Type, *Fault) {
	t, f := Recall(d)
	if f == nil && t.Cardinality(Exact) == 0 {
		return Type{}, fault("pattern", "the pattern is too complex: use fewer and shorter repetitions")
	}
	return t, f
}

// Recall makes a type that Custom has made before, and counts its values no sooner than somebody asks.
func Recall(d CustomDefinition) (Type, *Fault) {
	if f := checkSteps(d.Normalise); f != nil {
		return Type{}, f
	}
	p, f := compilePattern(d.Pattern)
	if f != nil {
		return Type{}, f
	}
	steps := slices.Clone(d.Normalise)
	normalise := func(value []byte) []byte { return take(value, steps) }
	return Type{&spec{
		name: CustomName, textMax: maxCustom, normalise: normalise, mask: hide,
		check: func(value []byte) *Fault {
			if !p.expression.Match(value) {
				return fault("pattern", "send a value that matches the field's pattern")
			}
			return nil
		},
		ends: ends{wholeText, "", p.fewest, min(2, p.fewest), longestPrefix, longestPrefix},
		counted: sync.OnceValue(func() *index {
			return p.index(steps, func(text []byte) ([]byte, bool) { return bytes.Join(bytes.Fields(normalise(text)), nil), true })
		}),
	}}, nil
}

// index is the empty one for a pattern that can't be counted.
func (p *pattern) index(steps []string, fold func([]byte) ([]byte, bool)) *index {
	c, ok := p.count(letterOf(steps))
	if !ok {
		return &index{}
	}
	x := &index{exact: c.all, last4: c.ending, fold: fold, prefix: func(n int) int { return c.beginning[n] }}
	for x.maxPrefix < longestPrefix && c.beginning[x.maxPrefix+1] > 0 {
		x.maxPrefix++
	}
	return x
}

func checkSteps(steps []string) *Fault {
	if len(steps) > maxSteps || slices.Contains(steps, stepLower) && slices.Contains(steps, stepUpper) {
		return fault("normalise", "a normaliser has at most 8 steps, and not both lower and upper")
	}
	for _, step := range steps {
		strip, isStrip := strings.CutPrefix(step, stepStrip)
		switch {
		case isStrip && strip != "" && len(strip) <= maxStrip && utf8.ValidString(strip):
		case !isStrip && slices.Contains([]string{stepTrim, stepCollapse, stepLower, stepUpper, stepDigits}, step):
		default:
			return fault("normalise", "the steps are trim, collapse, lower, upper, digits and strip: with up to 16 bytes of characters behind it")
		}
	}
	return nil
}

// take goes through the steps until nothing changes any more: what one takes away may leave another something to do, a letter that is
// stripped in its other case, or then a space at the end, and normalising again must change nothing. That comes to an end, for a step only
// takes away, or changes the case, which is the same when done again.
func take(value []byte, steps []string) []byte {
	for {
		out := takeOnce(value, steps)
		if bytes.Equal(out, value) {
			return out
		}
		value = out
	}
}

func takeOnce(value []byte, steps []string) []byte {
	out := bytes.Clone(value)
	for _, step := range steps {
		switch step {
		case stepTrim:
			out = bytes.TrimSpace(out)
		case stepCollapse:
			out = bytes.Join(bytes.Fields(out), []byte{' '})
		case stepLower:
			out = bytes.ToLower(out)
		case stepUpper:
			out = bytes.ToUpper(out)
		default:
			normal := letterOf([]string{step})
			out = bytes.Map(func(r rune) rune {
				if to, kept := normal(r); kept {
					return to
				}
				return -1
			}, out)
		}
	}
	return out
}

// letterOf is what the steps make of single characters.
func letterOf(steps []string) letter {
	return func(r rune) (rune, bool) {
		for _, step := range slices.Concat(steps, steps) {
			strip, isStrip := strings.CutPrefix(step, stepStrip)
			switch {
			case isStrip && strings.ContainsRune(strip, r), step == stepDigits && (r < '0' || r > '9'):
				return 0, false
			case step == stepLower:
				r = unicode.ToLower(r)
			case step == stepUpper:
				r = unicode.ToUpper(r)
			}
		}
		return r, true
	}
}
