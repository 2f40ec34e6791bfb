package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/policy"
)

var fence = regexp.MustCompile("(?s)```(\\w+) ?([^\n]*)\n(.*?)```")

// documented writes the files of docs/policies.md, and gives the folder and what the document says is printed.
func documented(t *testing.T) (dir, printed string) {
	t.Helper()
	dir = t.TempDir()
	for _, block := range fence.FindAllStringSubmatch(read(t, "../../docs/policies.md"), -1) {
		if block[1] == "text" {
			printed = block[3]
			continue
		}
		path := filepath.Join(dir, block[2])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, block[3])
	}
	return dir, printed
}

func TestTheDocumentsPoliciesPass(t *testing.T) {
	t.Parallel()
	dir, printed := documented(t)
	if got := runIn(t, dir, nil, "policy", "test", "cases.yaml").want(t, 0); got.out != "5 cases passed\n" || got.err != "" {
		t.Errorf("printed %q and %q", got.out, got.err)
	}
	// A policy that lacks what a case expects fails it, as the document shows.
	other := filepath.Join(dir, "other.cedar")
	write(t, other, strings.Replace(read(t, filepath.Join(dir, "policies/support.cedar")), `permit (principal in Role::"support"`, `permit (principal in Role::"desk"`, 1))
	write(t, filepath.Join(dir, "support.cedar"), read(t, other))
	got := runIn(t, dir, nil, "policy", "test", "cases.yaml", "--policy", "support.cedar").want(t, exitFailed)
	if diff := cmp.Diff(printed, got.out+got.err); diff != "" {
		t.Errorf("the document (-) shows what is not printed (+):\n%s", diff)
	}
	for _, action := range policy.Actions() {
		if !strings.Contains(read(t, "../../docs/policies.md"), "`"+string(action)+"`") {
			t.Errorf("the document does not name the action %s", action)
		}
	}
}

// What is decided here is what a server decides.
func TestPolicyTestDecidesLikeAServer(t *testing.T) {
	t.Parallel()
	dir, _ := documented(t)
	in, _, err := readCases(filepath.Join(dir, "cases.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c := startDev(t, filepath.Join(t.TempDir(), "vault"), "--no-sample").caller()
	for name, basis := range in.Purposes {
		c.want(t, http.StatusCreated, http.MethodPut, "/v1/purposes/"+name, map[string]string{"legal_basis": basis}, nil)
	}
	for name, d := range in.Collections {
		c.want(t, http.StatusCreated, http.MethodPut, "/v1/collections/"+name, d, nil)
	}
	for _, file := range in.Policies {
		c.want(t, http.StatusCreated, http.MethodPut, "/v1/policies/support", map[string]string{"text": read(t, filepath.Join(dir, file))}, nil)
	}
	for _, each := range in.Cases {
		question, err := json.Marshal(each.ExplainRequest)
		if err != nil {
			t.Fatal(err)
		}
		var sent map[string]any
		if err := json.Unmarshal(question, &sent); err != nil {
			t.Fatal(err)
		}
		for member, v := range sent {
			if v == nil {
				delete(sent, member)
			}
		}
		var got struct {
			Allowed bool
			Rule    string
			View    *string
		}
		c.want(t, http.StatusOK, http.MethodPost, "/v1/policies/explain", sent, &got)
		rule := strings.Replace(got.Rule, "@1#", "#", 1)
		if got.Allowed != *each.Expect.Allowed || each.Expect.Rule != nil && rule != *each.Expect.Rule {
			t.Errorf("%s: the server says %+v", each.Name, got)
		}
	}
}

func TestPolicyTestRefusesWhatCannotBeMeant(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "p.cedar"), "permit (principal, action, resource)\nwhen { context.nothing };\n")
	write(t, filepath.Join(dir, "good.cedar"), "permit (principal, action, resource);\n")
	const good = "policies: [good.cedar]\ncases:\n  - {action: policy.read, expect: {allowed: true}}\n"
	file := filepath.Join(dir, "cases.yaml")
	write(t, file, good)
	runIn(t, dir, nil, "policy", "test", file).want(t, 0)
	for text, says := range map[string]string{
		"policies: [p.cedar]\ncases:\n  - {action: policy.read, expect: {allowed: true}}\n":  "p.cedar:2:16: there is no such attribute (unknown-attribute)",
		"policies: [none.cedar]\ncases:\n  - {action: policy.read, expect: {allowed: true}}": "none.cedar: no such file",
		"cases: []":                         "it has no cases",
		"":                                  "it has no cases",
		"cases: [":                          "did not find expected node content",
		"- a":                               "wrong type",
		"cases:\n  - {action: policy.read}": "cases.yaml:2: expect.allowed is missing",
		"cases:\n  - {action: policy.read, expect: {allowed: yess}}":                                                  "line 2: the member /cases/0/expect/allowed is of the wrong type",
		"cases:\n  - {action: policy.read, expect: {allowed: true}}\n  - {actoin: x, expect: {allowed: true}}":        "line 3: the member /cases/1/actoin does not exist",
		"cases:\n  - {action: policy.raed, expect: {allowed: true}}":                                                  "cases.yaml:2: validation-failed: there is no such action",
		"cases:\n  - {action: detokenize, collection: people, field: x, expect: {allowed: true}}":                     "there is no such collection",
		"cases:\n  - {action: policy.read, action: erase, expect: {allowed: true}}":                                   "already defined",
		"collections: {people: {fields: {x: {type: nothing}}}}\ncases:\n  - {action: erase, expect: {allowed: true}}": "collection people: validation-failed: the types are",
		"purposes: {billing: nothing}\ncases:\n  - {action: erase, expect: {allowed: true}}":                          "purpose billing: validation-failed: the legal bases are",
		good + "---\n" + good: "one document in a file",
	} {
		write(t, file, text)
		if got := runIn(t, dir, nil, "policy", "test", file).want(t, exitConfig); !strings.Contains(got.err, says) || got.out != "" {
			t.Errorf("%q: printed %q and %q, want %q", text, got.out, got.err, says)
		}
	}
}

func TestPolicySchema(t *testing.T) {
	t.Parallel()
	if got := run1(t, nil, "policy", "schema").want(t, 0); got.out != policy.Schema() {
		t.Errorf("printed %q", got.out)
	}
}
