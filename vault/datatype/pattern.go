package datatype

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"unicode"
)

const (
	maxPattern  = 256    // bytes of a pattern
	maxCustom   = 1024   // bytes of a value
	maxProgram  = 2000   // instructions that a pattern compiles to
	maxAutomata = 200000 // steps spent on counting what a pattern accepts
)

// pattern is a custom type's regular expression, and what follows from it.
type pattern struct {
	expression *regexp.Regexp
	inner      *syntax.Regexp // between the anchors
	fewest     int            // characters of the shortest value
}

// letter is what normalising makes of a character before the pattern's values are counted: another one, or nothing.
type letter func(rune) (rune, bool)

func compilePattern(text string) (*pattern, *Fault) {
	if text == "" || len(text) > maxPattern {
		return nil, fault("pattern", "a custom type has a pattern of 1 to 256 bytes")
	}
	tree, err := syntax.Parse(text, syntax.Perl) // the error quotes the pattern
	if err != nil {
		return nil, fault("pattern", "the pattern is no RE2 expression (github.com/google/re2/wiki/Syntax)")
	}
	if tree.Op != syntax.OpConcat || len(tree.Sub) < 3 || tree.Sub[0].Op != syntax.OpBeginText || tree.Sub[len(tree.Sub)-1].Op != syntax.OpEndText {
		return nil, fault("pattern", "a pattern says what the whole value is: ^ first, $ last, and alternatives in parentheses")
	}
	inner := &syntax.Regexp{Op: syntax.OpConcat, Sub: tree.Sub[1 : len(tree.Sub)-1]}
	if looksAround(inner) {
		return nil, fault("pattern", "a pattern has ^ and $ at its ends only, and no \\b")
	}
	expression, err := regexp.Compile(text)
	if err != nil {
		return nil, fault("pattern", "the pattern is no RE2 expression (github.com/google/re2/wiki/Syntax)")
	}
	fewest := shortest(inner)
	if fewest < 1 || fewest > maxCustom {
		return nil, fault("pattern", "the pattern accepts the empty text, or none that is short enough")
	}
	return &pattern{expression, inner, fewest}, nil
}

// shortest is how many characters the shortest word has; more than maxCustom if there is none.
func shortest(re *syntax.Regexp) int {
	n := 0
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		n = 1
	case syntax.OpCharClass:
		if n = 1; len(re.Rune) == 0 {
			n = maxCustom + 1
		}
	case syntax.OpNoMatch:
		n = maxCustom + 1
	case syntax.OpCapture, syntax.OpPlus:
		n = shortest(re.Sub[0])
	case syntax.OpRepeat:
		n = re.Min * shortest(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			n += shortest(sub)
		}
	case syntax.OpAlternate:
		n = shortest(re.Sub[0])
		for _, sub := range re.Sub[1:] {
			n = min(n, shortest(sub))
		}
	}
	return min(n, maxCustom+1)
}

// counts are how many different normalised values a pattern has, last four characters and first n ones.
type counts struct {
	all, ending int
	beginning   []int
}

// count answers false for a pattern that is too complex to be counted.
func (p *pattern) count(normal letter) (counts, bool) {
	words, ok := walk(p.inner, normal)
	if !ok {
		return counts{}, false
	}
	backward, ok := walk(reverse(p.inner), normal)
	if !ok {
		return counts{}, false
	}
	return counts{words.words, backward.prefixes[4], words.prefixes}, true
}

// looksAround says whether a pattern asks for what stands beside a character: the count below knows only characters.
func looksAround(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return true
	}
	return slices.ContainsFunc(re.Sub, looksAround)
}

// reverse gives the expression of the same words read backwards.
func reverse(re *syntax.Regexp) *syntax.Regexp {
	back := *re
	back.Rune, back.Sub = slices.Clone(re.Rune), nil
	for _, sub := range re.Sub {
		back.Sub = append(back.Sub, reverse(sub))
	}
	switch re.Op {
	case syntax.OpLiteral:
		slices.Reverse(back.Rune)
	case syntax.OpConcat:
		slices.Reverse(back.Sub)
	}
	return &back
}

// tally is what a walk found.
type tally struct {
	words    int   // how many words, up to many
	prefixes []int // how many different beginnings of n characters
}

// automaton is the deterministic one of a pattern, made as far as it is walked. Two ways to one word are one path in it,
// so that paths can be counted.
type automaton struct {
	program *syntax.Prog
	normal  letter
	next    map[string][]edge
	taken   map[*syntax.Inst]taken
	left    int // steps that may still be spent
}

type edge struct {
	to     state
	weight int // characters that lead there
}

// state is the sorted instructions that may be next, with empty ones followed.
type state []uint32

func (s state) key() string { return fmt.Sprint([]uint32(s)) }

// walk counts the words of an expression, character by character. It gives up on an expression whose automaton is too
// large.
func walk(re *syntax.Regexp, normal letter) (tally, bool) {
	program, err := syntax.Compile(re.Simplify())
	if err != nil || len(program.Inst) > maxProgram {
		return tally{}, false
	}
	a := &automaton{program, normal, map[string][]edge{}, map[*syntax.Inst]taken{}, maxAutomata}
	type front struct {
		at    state
		paths int
	}
	start := a.close(nil, uint32(program.Start))
	fronts := map[string]front{start.key(): {start, 1}}
	found := tally{prefixes: make([]int, longestPrefix+1)}
	for n := 0; n <= maxCustom && len(fronts) > 0 && (n <= longestPrefix || found.words < many); n++ {
		after := map[string]front{}
		for key, f := range fronts {
			if n <= longestPrefix {
				found.prefixes[n] = min(many, found.prefixes[n]+f.paths)
			}
			if a.accepts(f.at) {
				found.words = min(many, found.words+f.paths)
			}
			edges, ok := a.edges(key, f.at)
			if !ok {
				return tally{}, false
			}
			for _, e := range edges {
				to := e.to.key()
				paths := after[to].paths
				if f.paths > (many-paths)/e.weight {
					paths = many
				} else {
					paths += f.paths * e.weight
				}
				after[to] = front{e.to, paths}
			}
		}
		fronts = after
	}
	return found, true
}

func (a *automaton) accepts(s state) bool {
	return slices.ContainsFunc(s, func(i uint32) bool { return a.program.Inst[i].Op == syntax.InstMatch })
}

// close adds an instruction to a state, and those that follow without a character, or by one that normalising drops.
func (a *automaton) close(s state, i uint32) state {
	at, have := slices.BinarySearch(s, i)
	if have {
		return s
	}
	a.left--
	inst := &a.program.Inst[i]
	switch inst.Op {
	case syntax.InstFail:
		return s
	case syntax.InstAlt, syntax.InstAltMatch:
		return a.close(a.close(slices.Insert(s, at, i), inst.Out), inst.Arg)
	case syntax.InstCapture, syntax.InstNop:
		return a.close(slices.Insert(s, at, i), inst.Out)
	}
	s = slices.Insert(s, at, i)
	if a.ranges(inst).drops {
		return a.close(s, inst.Out)
	}
	return s
}

// wide is how many characters of a class are normalised one by one; a wider class is countless anyway.
const wide = 1024

// taken are the normalised characters that an instruction takes, as pairs of first and last, and whether it takes one
// that normalising drops.
type taken struct {
	pairs []rune
	drops bool
}

func (a *automaton) ranges(inst *syntax.Inst) taken {
	t, have := a.taken[inst]
	if !have {
		t = a.normalised(classOf(inst))
		a.taken[inst] = t
	}
	return t
}

// classOf gives the characters that an instruction takes.
func classOf(inst *syntax.Inst) []rune {
	switch inst.Op {
	case syntax.InstRuneAny:
		return []rune{0, unicode.MaxRune}
	case syntax.InstRuneAnyNotNL:
		return []rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune}
	case syntax.InstRune, syntax.InstRune1:
	default:
		return nil
	}
	if len(inst.Rune) != 1 {
		return inst.Rune
	}
	pairs := []rune{inst.Rune[0], inst.Rune[0]}
	if syntax.Flags(inst.Arg)&syntax.FoldCase != 0 {
		for r := unicode.SimpleFold(pairs[0]); r != pairs[0]; r = unicode.SimpleFold(r) {
			pairs = append(pairs, r, r)
		}
	}
	return pairs
}

func (a *automaton) normalised(class []rune) (t taken) {
	var single []rune
	for i := 0; i+1 < len(class); i += 2 {
		if class[i+1]-class[i] > wide {
			t.pairs = append(t.pairs, class[i], class[i+1])
			continue
		}
		for r := class[i]; r <= class[i+1]; r++ {
			if to, kept := a.normal(r); kept {
				single = append(single, to)
			} else {
				t.drops = true
			}
		}
	}
	slices.Sort(single)
	for i, r := range single {
		if i > 0 && r <= single[i-1]+1 {
			t.pairs[len(t.pairs)-1] = r
		} else {
			t.pairs = append(t.pairs, r, r)
		}
	}
	return t
}

// edges are the ways out of a state: the characters are cut where any instruction's range begins or ends, and those that
// lead to the same state are one edge.
func (a *automaton) edges(key string, s state) ([]edge, bool) {
	if edges, have := a.next[key]; have {
		a.left--
		return edges, a.left > 0
	}
	var cuts []rune
	takes := map[uint32][]rune{}
	for _, i := range s {
		pairs := a.ranges(&a.program.Inst[i]).pairs
		takes[i] = pairs
		for p := 0; p < len(pairs); p += 2 {
			cuts = append(cuts, pairs[p], pairs[p+1]+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	index := map[string]int{}
	edges := []edge{}
	for c := 0; c+1 < len(cuts); c++ {
		var to state
		for _, i := range s {
			if a.left--; a.left <= 0 {
				return nil, false
			}
			if holds(takes[i], cuts[c]) {
				to = a.close(to, a.program.Inst[i].Out)
			}
		}
		if len(to) == 0 {
			continue
		}
		at, have := index[to.key()]
		if !have {
			at = len(edges)
			index[to.key()] = at
			edges = append(edges, edge{to: to})
		}
		edges[at].weight += int(cuts[c+1] - cuts[c])
	}
	a.next[key] = edges
	return edges, a.left > 0
}

func holds(pairs []rune, r rune) bool {
	for p := 0; p < len(pairs); p += 2 {
		if pairs[p] <= r && r <= pairs[p+1] {
			return true
		}
	}
	return false
}
