package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/privault/privault/kms/kmstest"
)

// customer is a transit server of a customer's own, and the line that names his key.
type customer struct {
	*kmstest.TransitServer
	uri  string
	line map[string]any
}

func newCustomer(t *testing.T, dir string) customer {
	t.Helper()
	s := kmstest.NewTransitServer(t, true)
	uri, err := s.Create("privault")
	if err != nil {
		t.Fatal(err)
	}
	o := s.ByToken().Transit
	token, err := o.Token()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "customer.token"), token+"\n")
	return customer{s, uri, map[string]any{"uri": uri,
		"hcvault": map[string]string{"namespace": o.Namespace, "ca_file": o.CAFile, "token_file": filepath.Join(dir, "customer.token")}}}
}

func writeKeys(t *testing.T, path string, lines ...map[string]any) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": lines})
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b))
}

// kind is what a caller is told who wants a token's value; empty: he gets it.
func (c caller) kind(t *testing.T, token string) string {
	t.Helper()
	status, body, err := c.send(t.Context(), http.MethodPost, "/v1/detokenize", map[string]any{"items": []any{map[string]string{"token": token}}})
	var p struct{ Type string }
	if err == nil && status != http.StatusOK {
		err = json.Unmarshal(body, &p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(p.Type, "urn:privault:problem:")
}

// A customer brings a key along: from the operator's commands to his withdrawing it, and back.
func TestACustomersOwnKey(t *testing.T) {
	t.Parallel()
	i := newInstallation(t, true)
	run1(t, i.migrating(t), "migrate", "up").want(t, 0)
	dir := t.TempDir()
	his, list := newCustomer(t, dir), filepath.Join(dir, "keys.json")
	writeKeys(t, list)
	env := append(i.serving(t), "PRIVAULT_KMS_KEYS="+list, "PRIVAULT_KEY_CACHE_TTL=1s", "PRIVAULT_KMS_TIMEOUT=500ms")
	run1(t, env, "keys", "create").want(t, 0)
	s := startServe(t, env...)

	refused := run1(t, env, "tenant", "create", "acme", "--tenant-kms", his.uri).want(t, exitFailed)
	if !strings.Contains(refused.err, "the file of KMS keys") {
		t.Errorf("a key that isn't in the file: %s", refused.err)
	}
	writeKeys(t, list, his.line) // the server goes on running: it reads the file when it needs it
	acme := caller{url: "http://" + s.public, key: printedKey(t, run1(t, env, "tenant", "create", "acme", "--role", "developer", "--tenant-kms", his.uri).want(t, 0))}
	other := caller{url: "http://" + s.public, key: printedKey(t, run1(t, env, "tenant", "create", "other", "--role", "developer").want(t, 0))}
	tokens := map[*caller]string{}
	for _, c := range []*caller{&acme, &other} {
		c.collection(t, "people", map[string]string{"email": "email"})
		tokens[c] = c.tokenize(t, "people", "email", "jane@example.com")
	}
	for tenant, want := range map[string]string{"acme": "wrapped by hcvault:privault\n", "other": "wrapped by local:kms.keyset\n"} {
		if got := run1(t, env, "keys", "list", "--tenant", tenant).want(t, 0); !strings.Contains(got.out, want) {
			t.Errorf("printed %q, want %q", got.out, want)
		}
	}

	his.Forbid("decrypt", true)
	eventually(t, "he is refused once the cache's life is over", func() bool { return acme.kind(t, tokens[&acme]) == "kms-unavailable" })
	if got := other.kind(t, tokens[&other]); got != "" {
		t.Errorf("others get %s", got)
	}
	his.Forbid("decrypt", false)
	eventually(t, "he is back", func() bool { return acme.kind(t, tokens[&acme]) == "" })

	acme.want(t, http.StatusCreated, http.MethodPut, "/v1/collections/direct", `{"kms":"direct","fields":{"email":{"type":"email"}}}`, nil)
	direct := acme.tokenize(t, "direct", "email", "jane@example.com")
	moved := run1(t, env, "keys", "move", "--tenant", "acme", "--to", i.kms, "--wait").want(t, 0)
	if !strings.Contains(moved.out, "key root\nversion 2\njob job_") || !strings.Contains(moved.out, "done 1\n") {
		t.Errorf("printed %q", moved.out)
	}
	if again := run1(t, env, "keys", "move", "--tenant", "acme", "--to", i.kms).want(t, 0); !strings.Contains(again.out, "there already") {
		t.Errorf("printed %q", again.out)
	}
	his.SetDown(true) // it is needed no more, by a server that has nothing in memory either
	s.stop(t, syscall.SIGTERM)
	s = startServe(t, env...)
	for _, token := range []string{tokens[&acme], direct} {
		acme.url = "http://" + s.public
		if got := acme.kind(t, token); got != "" {
			t.Errorf("without his key: %s", got)
		}
	}
	his.SetDown(false)
	if all := run1(t, env, "keys", "move", "--all", "--to", his.uri, "--wait").want(t, 0); !strings.HasPrefix(all.out, "moved 3\njob job_") || !strings.HasSuffix(all.out, "done 1\n") {
		t.Errorf("printed %q", all.out)
	}
	s.stop(t, syscall.SIGTERM)
	for _, text := range []string{"transit/privault", his.uri, strings.TrimPrefix(strings.Split(i.kms, "?")[0], "local://")} {
		if strings.Contains(s.stderr.String(), text) {
			t.Errorf("the server's log names %s", text)
		}
	}
}

func is(uri string) func(string) bool { return func(other string) bool { return other == uri } }

// What stands in the file is checked when the server starts, and a line takes nothing of the deployment's settings.
func TestTheFileOfKMSKeysIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	his, list := newCustomer(t, dir), filepath.Join(dir, "keys.json")
	bare := map[string]any{"uri": his.uri}
	for content, want := range map[string]string{
		`{`: "--kms-keys", `{"keys":[{"url":"x"}]}`: "--kms-keys", `{"keys":[{"uri":"x"}]}`: "key 1: key URI without a scheme",
		`{"keys":[{"uri":"aws-kms://a"},{"uri":"aws-kms://a"}]}`: "key 2 is there twice",
		`{"keys":[{"uri":"local:///x?key-file=/y"}]}`:            "key 1 is local",
	} {
		write(t, list, content)
		got := run1(t, nil, "serve", "--kms", "aws-kms://x", "--kms-keys", list).want(t, exitConfig)
		if !strings.Contains(got.err, want) {
			t.Errorf("%s: printed %q, want %q", content, got.err, want)
		}
	}
	writeKeys(t, list, bare, map[string]any{"uri": "local:///x"})
	o := his.ByToken().Transit
	k := Keys{KMSKeys: list, noLocal: true}
	k.HCVault = HCVault{Namespace: o.Namespace, CAFile: o.CAFile, TokenFile: filepath.Join(dir, "customer.token")} // the deployment's
	if key, err := k.openNamed(t.Context(), is(his.uri)); err == nil {
		if _, err := key.Wrap(t.Context(), []byte("x"), []byte("x")); err == nil {
			t.Error("a line without a token was opened with the deployment's")
		}
	}
	if key, err := k.openNamed(t.Context(), is("hcvault://elsewhere.example/transit/keys/x")); key != nil || err != nil {
		t.Errorf("a key that isn't there: %v, %v", key, err)
	}
	if _, err := k.openNamed(t.Context(), is("local:///x")); err == nil {
		t.Error("a local key was opened")
	}
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	if _, err := k.openNamed(t.Context(), is(his.uri)); err == nil {
		t.Error("a file that is gone names a key")
	}
}
