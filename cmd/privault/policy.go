package main

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"go.yaml.in/yaml/v3"

	"github.com/privault/privault/api"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
)

type policyCmd struct {
	Test   policyTestCmd   `cmd:"" help:"Ask policies the questions of a file and compare the answers: no server, no database."`
	Schema policySchemaCmd `cmd:"" help:"Print the Cedar schema that policies are held to, for editors and other tools."`
}

type policySchemaCmd struct{}

//nolint:unparam // kong wants the error
func (policySchemaCmd) Run() error {
	fmt.Print(policy.Schema())
	return nil
}

type policyTestCmd struct {
	Cases  string   `arg:"" help:"YAML file of cases (docs/policies.md)."`
	Policy []string `placeholder:"FILE" help:"Policies to test in place of those that the file names."`
}

// cases is a file of cases. Its members are those of the API: a collection as it is put, a case as POST
// /v1/policies/explain takes it, with what is expected.
type cases struct {
	Policies    []string                    `json:"policies"` // files, beside this one; a policy has the name of its file
	Purposes    map[string]string           `json:"purposes"` // name → legal basis
	Collections map[string]vault.Definition `json:"collections"`
	Cases       []policyCase                `json:"cases"`
}

type policyCase struct {
	Name string `json:"name"`
	api.ExplainRequest
	Expect struct {
		Allowed *bool   `json:"allowed"`
		View    *string `json:"view"`
		Rule    *string `json:"rule"`
	} `json:"expect"`
}

// Run ends with an error if any case has another answer, and as bad settings do if the files can't be used.
func (p *policyTestCmd) Run() error {
	in, lines, err := readCases(p.Cases)
	if err != nil {
		return &configError{[]string{err.Error()}}
	}
	if len(p.Policy) > 0 {
		in.Policies = p.Policy
	} else {
		for i, file := range in.Policies {
			if !filepath.IsAbs(file) {
				in.Policies[i] = filepath.Join(filepath.Dir(p.Cases), file)
			}
		}
	}
	draft, faults := in.draft()
	if len(faults) > 0 {
		return &configError{faults}
	}
	failed := 0
	for i, c := range in.Cases {
		where := fmt.Sprintf("%s:%d", p.Cases, lines[i])
		differences, err := c.run(draft)
		if err != nil {
			return &configError{[]string{where + ": " + err.Error()}}
		}
		if len(differences) > 0 {
			failed++
			fmt.Printf("FAIL %s: %s\n%s\n", where, c.Name, strings.Join(differences, "\n"))
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases failed", failed, len(in.Cases))
	}
	fmt.Printf("%d cases passed\n", len(in.Cases))
	return nil
}

// readCases reads a file, and gives the line of each case.
func readCases(path string) (in cases, lines []int, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return in, nil, err
	}
	var root yaml.Node
	var content any
	if err := errors.Join(yaml.Unmarshal(text, &root), yaml.Unmarshal(text, &content)); err != nil {
		return in, nil, fmt.Errorf("%s: %w", path, err)
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	for n := 0; documents.Decode(&struct{}{}) == nil; n++ {
		if n == 1 {
			return in, nil, fmt.Errorf("%s: one document in a file", path)
		}
	}
	lines = linesOf(&root, "cases")
	body, err := stdjson.Marshal(content) // YAML that JSON can't say (a key that is no text) is refused here
	if err != nil {
		return in, nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(body, &in, json.RejectUnknownMembers(true)); err != nil {
		return in, nil, fmt.Errorf("%s: %s", path, unfit(err, lines))
	}
	if len(in.Cases) == 0 {
		return in, nil, fmt.Errorf("%s: it has no cases", path)
	}
	for i, c := range in.Cases {
		if c.Expect.Allowed == nil {
			return in, nil, fmt.Errorf("%s:%d: expect.allowed is missing: true or false", path, lines[i])
		}
	}
	return in, lines, nil
}

// linesOf are the lines on which the elements of a member of the document stand.
func linesOf(root *yaml.Node, member string) (lines []int) {
	if root.Kind != yaml.DocumentNode || root.Content[0].Kind != yaml.MappingNode {
		return nil
	}
	pairs := root.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i].Value == member {
			for _, element := range pairs[i+1].Content {
				lines = append(lines, element.Line)
			}
		}
	}
	return lines
}

// unfit says what of a file has no place in it.
func unfit(err error, lines []int) string {
	var shape *json.SemanticError
	if !errors.As(err, &shape) {
		return err.Error()
	}
	what := "is of the wrong type"
	if errors.Is(shape.Err, json.ErrUnknownName) {
		what = "does not exist"
	}
	line := ""
	path := slices.Collect(shape.JSONPointer.Tokens())
	if len(path) > 1 && path[0] == "cases" {
		if i, err := strconv.Atoi(path[1]); err == nil && i < len(lines) {
			line = fmt.Sprintf("line %d: ", lines[i])
		}
	}
	return fmt.Sprintf("%sthe member %s %s", line, shape.JSONPointer, what)
}

// draft puts what the file has in force for its cases. Faults of a policy are named by file, line and column.
func (c cases) draft() (*vault.Draft, []string) {
	var faults []string
	var documents []policy.Document
	for _, file := range c.Policies {
		text, err := os.ReadFile(file)
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		for _, f := range policy.Check(string(text)) {
			faults = append(faults, fmt.Sprintf("%s:%d:%d: %s (%s)", file, f.Line, f.Column, f.Detail, f.Rule))
		}
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		documents = append(documents, policy.Document{Name: name, Text: string(text)})
	}
	if len(faults) > 0 {
		return nil, faults
	}
	var purposes []vault.Purpose
	for name, basis := range c.Purposes {
		purposes = append(purposes, vault.Purpose{Name: name, LegalBasis: basis})
	}
	draft, err := vault.NewDraft(documents, purposes, c.Collections)
	if err != nil {
		faults = append(faults, err.Error())
	}
	return draft, faults
}

// run asks, and says what is different from what is expected.
func (c policyCase) run(d *vault.Draft) (differences []string, err error) {
	x, err := c.Question()
	if err != nil {
		return nil, err
	}
	if x.At.IsZero() {
		x.At = time.Now()
	}
	got, err := d.Explain(x)
	if err != nil {
		return nil, err
	}
	differ := func(member, want, got string) {
		if want != got {
			differences = append(differences, fmt.Sprintf("    %-8s want %s, got %s", member, want, got))
		}
	}
	differ("allowed", strconv.FormatBool(*c.Expect.Allowed), strconv.FormatBool(got.Allowed))
	if c.Expect.View != nil {
		differ("view", shown(*c.Expect.View), shown(got.View.String()))
	}
	if c.Expect.Rule != nil {
		differ("rule", *c.Expect.Rule, got.Rule)
	}
	if len(differences) > 0 {
		differences = append(differences, "    decided by "+strings.Join(got.Policies, ", "))
	}
	return differences, nil
}

// shown is a view, or that there is none.
func shown(view string) string {
	if view == "" {
		return "none"
	}
	return view
}
