package policy

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// Fault is what is wrong with a policy's text, and where. It quotes nothing of the text.
type Fault struct {
	Line, Column int
	Rule         string
	Detail       string
}

// The size of one document, which holds any number of policies.
const (
	MaxText       = 64 << 10
	maxStatements = 200
)

// parse reads a document and holds it to the schema, strictly.
func parse(text string) (cedar.PolicyList, []Fault) {
	if len(text) > MaxText {
		return nil, []Fault{{1, 1, "max-length", "a policy's text has at most 64 KiB"}}
	}
	list, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		line, column := position(err.Error())
		return nil, []Fault{{line, column, "syntax", "this is not Cedar"}}
	}
	if len(list) == 0 || len(list) > maxStatements {
		return nil, []Fault{{1, 1, "size", "a document has 1 to 200 policies"}}
	}
	var faults []Fault
	named := map[string]bool{}
	check := validate.New(resolvedSchema())
	for i, p := range list {
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1].Position().Offset
		}
		part := source{text, p.Position().Offset, end}
		id := name(p)
		if id != "" && (!nameOfStatement.MatchString(id) || named[id]) {
			faults = append(faults, part.fault("id", `@id("...") is a lower-case letter, then up to 62 of a-z 0-9 _ -, and no other policy's`, id))
		}
		named[id] = true
		if err := check.Policy("", (*ast.Policy)(p.AST())); err != nil {
			for _, sentence := range strings.Split(err.Error(), "\n") {
				faults = append(faults, part.translate(sentence))
			}
		}
	}
	return list, unique(faults)
}

var (
	nameOfStatement = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	where           = regexp.MustCompile(`(\d+):(\d+)`)
)

func name(p *cedar.Policy) string { return string(p.Annotations()["id"]) }

// position reads the place out of a message of the parser, which has it nowhere else.
func position(message string) (line, column int) {
	line, column = 1, 1
	if at := where.FindStringSubmatch(message); at != nil {
		line, _ = strconv.Atoi(at[1])
		column, _ = strconv.Atoi(at[2])
	}
	return line, column
}

// source is one policy's part of a document.
type source struct {
	text       string
	start, end int
}

// The validator's messages, by how they begin or what they hold: the rule, and what the caller is told.
var findings = []struct{ mark, rule, detail string }{
	{"unrecognized action", "unknown-action", "there is no such action"},
	{"unrecognized entity type", "unknown-entity-type", "there is no such entity type"},
	{"unable to find an applicable action", "not-applicable", "no action has this principal, action and resource together"},
	{"safety of access to optional attribute", "optional", "an attribute that may be missing is asked for with `has` first"},
	{"access to tag", "optional", "a tag that may be missing is asked for with hasTag first"},
	{"not found", "unknown-attribute", "there is no such attribute"},
	{"extension", "literal", "an ip, datetime, duration or decimal is written as a literal that parses"},
	{"empty set", "empty-set", "an empty set says nothing"},
}

// translate turns a message of the validator, which quotes the text, into a Fault, which doesn't.
func (s source) translate(message string) Fault {
	for _, f := range findings {
		if strings.Contains(message, f.mark) {
			return s.fault(f.rule, f.detail, quoted(message)...)
		}
	}
	return s.fault("type", "the types don't fit", quoted(message)...)
}

var quote = regexp.MustCompile("`([^`]*)`")

func quoted(message string) []string {
	var names []string
	for _, m := range quote.FindAllStringSubmatch(message, -1) {
		names = append(names, strings.Trim(m[1], `"`))
		if i := strings.LastIndex(m[1], "."); i >= 0 {
			names = append(names, m[1][i+1:])
		}
	}
	return names
}

// fault places a finding at the first of the words that the policy holds, or where the policy starts.
func (s source) fault(rule, detail string, words ...string) Fault {
	at := s.start
	for _, w := range words {
		if i := strings.Index(s.text[s.start:s.end], w); w != "" && i >= 0 {
			at = s.start + i
			break
		}
	}
	before := s.text[:at]
	return Fault{Line: 1 + strings.Count(before, "\n"), Column: 1 + len([]rune(before[strings.LastIndexByte(before, '\n')+1:])), Rule: rule, Detail: detail}
}

func unique(faults []Fault) []Fault {
	var out []Fault
	for _, f := range faults {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// Check holds a document to the schema.
func Check(text string) []Fault {
	_, faults := parse(text)
	return faults
}

// errStored says that a document which was checked when it was stored no longer holds.
var errStored = errors.New("a stored policy does not fit this version's schema")
